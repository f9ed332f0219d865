/* SPDX-License-Identifier: BSD-3-Clause */
/* The runner itself: what must fail, fails. */
#include <fcntl.h>
#include <unistd.h>

#include "runner.h"

MUST_FAIL(failed_check)
{
    CHECK(1 + 1 == 3);
}

MUST_FAIL(failed_check_of_numbers)
{
    CHECK_INT(1, 2);
}

MUST_FAIL(failed_check_of_strings)
{
    CHECK_STR("a", "b");
}

MUST_FAIL(failed_check_of_parts)
{
    CHECK_CONTAINS("abc", "x");
}

MUST_FAIL(failed_check_of_memory)
{
    CHECK_MEM("a", "b", 1);
}

MUST_FAIL(descriptor_left_open)
{
    CHECK(open("/dev/null", O_RDONLY) >= 0);
}

MUST_FAIL(descriptor_closed_too_often)
{
    CHECK_INT(close(0), 0);
}

MUST_FAIL(death_by_signal)
{
    abort();
}

MUST_FAIL(endless_loop)
{
    (void)alarm(1);
    for (;;) {
        (void)pause();
    }
}

TEST(passes)
{
    CHECK(1);
    CHECK_INT(-1, -1);
    CHECK_STR("a", "a");
    CHECK_CONTAINS("abc", "bc");
    CHECK_MEM("ab", "ac", 1);
}

TEST(skips)
{
    runner_skip("to see that it does");
}
