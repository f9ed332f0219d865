/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "err.h"
#include "runner.h"

TEST(every_code_has_a_name_and_words)
{
    char text[128];

#define ONE(name, offset, message)                                            \
    CHECK_INT(FL_##name, FL_ERR_BASE - (offset));                             \
    CHECK_STR(fl_err_name(FL_##name), "FL_" #name);                           \
    CHECK_STR(fl_err_message(FL_##name, text, sizeof(text)), message);
    FL_ERR_MAP(ONE)
#undef ONE
}

TEST(errno_is_part_of_the_space)
{
    char text[128];

    CHECK_STR(fl_err_name(-ECONNRESET), "ECONNRESET");
    CHECK_STR(fl_err_message(-ECONNRESET, text, sizeof(text)),
              "Connection reset by peer");
}

TEST(unknown_codes_and_success)
{
    char text[128];

    CHECK_STR(fl_err_name(-4999), "?");
    CHECK_STR(fl_err_name(FL_ERR_BASE - 999), "?");
    CHECK_STR(fl_err_name(0), "OK");
    CHECK_STR(fl_err_message(-4999, text, sizeof(text)), "error -4999");
    CHECK_STR(fl_err_message(7, text, sizeof(text)), "no error");
}

TEST(messages_are_cut_to_the_room_there_is)
{
    char text[5] = "xxxx";

    CHECK_STR(fl_err_message(FL_EMAGIC, text, sizeof(text)), "this");
    text[0] = 'x';
    (void)fl_err_message(FL_EMAGIC, text, 0);
    CHECK_INT(text[0], 'x');
}
