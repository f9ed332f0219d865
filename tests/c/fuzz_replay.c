/* SPDX-License-Identifier: BSD-3-Clause */
/* Instead of libFuzzer: runs a fuzz target on the files of a directory. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* False if it is no file. */
static int
replay(int dir_fd, const char *name)
{
    const int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    struct stat info;
    uint8_t *data;
    ssize_t size;

    if (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        (void)close(fd);
        return 0;
    }
    data = malloc((size_t)info.st_size + 1);
    size = read(fd, data, (size_t)info.st_size);
    if (size >= 0) {
        (void)LLVMFuzzerTestOneInput(data, (size_t)size);
    }
    free(data);
    (void)close(fd);
    return 1;
}

int
main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    const struct dirent *entry;
    int count = 0;

    if (dir == NULL) {
        (void)fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return EXIT_FAILURE;
    }
    while ((entry = readdir(dir)) != NULL) {
        count += replay(dirfd(dir), entry->d_name);
    }
    (void)closedir(dir);
    (void)printf("%d inputs\n", count);
    /* Not exit(): the mux of fuzz_messages still runs in its thread. */
    (void)fflush(stdout);
    _exit(count > 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}
