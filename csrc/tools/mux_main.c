/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The mux as a program of its own, without CPython, so that sanitizers and
 * profilers see nothing else: fatline-mux SOCKET [IDLE_SECONDS]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "err.h"
#include "mux.h"

static int
listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || strlen(path) >= sizeof(address.sun_path)) {
        return -1;
    }
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    (void)umask(0077);
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0
        || listen(fd, SOMAXCONN) < 0)
    {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static int
serve(const struct fl_mux_config *config)
{
    struct fl_mux *mux;
    char message[96];
    int err = fl_mux_new(config, &mux);

    if (err == 0) {
        err = fl_mux_run(mux);
        fl_mux_free(mux);
        /* The leak checker attaches to its own process at the exit. */
        (void)prctl(PR_SET_DUMPABLE, 1);
    }
    if (err < 0) {
        (void)fprintf(stderr, "fatline-mux: %s\n",
                      fl_err_message(err, message, sizeof(message)));
    }
    return err < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int
main(int argc, char **argv)
{
    struct fl_mux_config config = {.idle_seconds = 60};

    if (argc < 2 || argc > 3) {
        (void)fprintf(stderr, "usage: %s SOCKET [IDLE_SECONDS]\n", argv[0]);
        return EXIT_FAILURE;
    }
    if (argc == 3) {
        config.idle_seconds = (uint32_t)strtoul(argv[2], NULL, 10);
    }
    config.socket_path = argv[1];
    config.listen_fd = listen_at(argv[1]);
    if (config.listen_fd < 0) {
        (void)fprintf(stderr, "fatline-mux: cannot listen at %s: %s\n",
                      argv[1], strerror(errno));
        return EXIT_FAILURE;
    }
    return serve(&config);
}
