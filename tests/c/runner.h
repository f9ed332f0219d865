/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A small test runner. Each TEST runs in a forked child with a time limit; it
 * fails if a check fails, if it dies, if it takes too long, or if it ends
 * with more descriptors open than it began with. Programs are called as
 * test_x [NAME...].
 */
#ifndef RUNNER_H
#define RUNNER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    const char *name;
    void (*run)(void);
    int must_fail;
    struct test *next;
};

/* Called before main(), by TEST and MUST_FAIL. */
void
runner_add(struct test *test);

/* Ends the test as failed, as skipped. */
_Noreturn void
runner_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

_Noreturn void
runner_skip(const char *reason);

/* Kinds of failure are tests of the runner itself: they must fail. */
#define RUNNER_DEFINE(id, fails)                                              \
    static void id(void);                                                     \
    __attribute__((constructor)) static void add_##id(void)                   \
    {                                                                         \
        static struct test self = {#id, id, fails, NULL};                     \
        runner_add(&self);                                                    \
    }                                                                         \
    static void id(void)

#define TEST(id) RUNNER_DEFINE(id, 0)
#define MUST_FAIL(id) RUNNER_DEFINE(id, 1)

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            runner_fail(__FILE__, __LINE__, "%s", #condition);                \
        }                                                                     \
    } while (0)

#define CHECK_INT(got, wanted)                                                \
    do {                                                                      \
        const intmax_t got_ = (intmax_t)(got), wanted_ = (intmax_t)(wanted);  \
        if (got_ != wanted_) {                                                \
            runner_fail(__FILE__, __LINE__, "%s is %jd, not %jd", #got, got_, \
                        wanted_);                                             \
        }                                                                     \
    } while (0)

#define CHECK_STR(got, wanted)                                                \
    do {                                                                      \
        const char *got_ = (got), *wanted_ = (wanted);                        \
        if (strcmp(got_, wanted_) != 0) {                                     \
            runner_fail(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #got, \
                        got_, wanted_);                                       \
        }                                                                     \
    } while (0)

#define CHECK_CONTAINS(got, part)                                             \
    do {                                                                      \
        const char *got_ = (got), *part_ = (part);                            \
        if (strstr(got_, part_) == NULL) {                                    \
            runner_fail(__FILE__, __LINE__, "%s is \"%s\", without \"%s\"",   \
                        #got, got_, part_);                                   \
        }                                                                     \
    } while (0)

#define CHECK_MEM(got, wanted, size)                                          \
    do {                                                                      \
        const size_t size_ = (size);                                          \
        if (size_ > 0 && memcmp((got), (wanted), size_) != 0) {               \
            runner_fail(__FILE__, __LINE__, "%s differs from %s", #got,       \
                        #wanted);                                             \
        }                                                                     \
    } while (0)

#endif
