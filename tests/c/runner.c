/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "runner.h"

#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS_A_TEST 60
#define EXIT_SKIPPED 77

static struct test *tests;

void
runner_add(struct test *test)
{
    struct test **at = &tests;

    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = test;
}

void
runner_fail(const char *file, int line, const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "    %s:%d: ", file, line);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    /* Not exit(): leaks of a failed test are no news. */
    _exit(EXIT_FAILURE);
}

void
runner_skip(const char *reason)
{
    (void)printf("    skipped: %s\n", reason);
    (void)fflush(stdout);
    _exit(EXIT_SKIPPED);
}

static int
count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    if (dir == NULL) {
        return 0;
    }
    while (readdir(dir) != NULL) {
        count++;
    }
    (void)closedir(dir);
    return count;
}

static _Noreturn void
run_here(const struct test *test)
{
    const int before = count_fds();
    int after;

    (void)alarm(SECONDS_A_TEST);
    test->run();
    after = count_fds();
    if (after != before) {
        runner_fail("runner", 0, "%d descriptors were left open",
                    after - before);
    }
    exit(EXIT_SUCCESS); /* the leak checker looks now */
}

static const char *
describe(int status)
{
    if (WIFSIGNALED(status)) {
        return WTERMSIG(status) == SIGALRM ? "timed out" : "died";
    }
    return WEXITSTATUS(status) == EXIT_SKIPPED ? "skipped"
           : WEXITSTATUS(status) == 0          ? "ok"
                                               : "failed";
}

static bool
run(const struct test *test)
{
    const pid_t pid = fork();
    int status;
    bool good;

    if (pid == 0) {
        run_here(test);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0) {
        return false;
    }
    good = WIFEXITED(status)
           && (WEXITSTATUS(status) == 0
               || WEXITSTATUS(status) == EXIT_SKIPPED);
    if (test->must_fail != 0) {
        good = !good;
    }
    (void)printf("%-8s %s (%s)\n", good ? "ok" : "FAILED", test->name,
                 describe(status));
    (void)fflush(stdout);
    return good;
}

static bool
is_wanted(const struct test *test, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], test->name) == 0) {
            return true;
        }
    }
    return argc == 1;
}

int
main(int argc, char **argv)
{
    int failed = 0, count = 0;

    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (const struct test *test = tests; test != NULL; test = test->next) {
        if (is_wanted(test, argc, argv)) {
            count++;
            failed += !run(test);
        }
    }
    (void)printf("%d of %d passed\n", count - failed, count);
    return failed == 0 && count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
