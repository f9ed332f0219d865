/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_scalar.h"

#include <errno.h>

#include "runner.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

TEST(tags_and_their_texts)
{
    CHECK_INT(fl_yaml_tag_from_text("tag:yaml.org,2002:str"), FL_YAML_TAG_STR);
    CHECK_INT(fl_yaml_tag_from_text("!vault"), FL_YAML_TAG_VAULT);
    CHECK_INT(fl_yaml_tag_from_text("!vaults"), FL_YAML_TAG_OTHER);
    CHECK_INT(fl_yaml_tag_from_text(""), FL_YAML_TAG_OTHER);
    CHECK_STR(fl_yaml_tag_text(FL_YAML_TAG_UNSAFE), "!unsafe");
}

static const struct {
    enum fl_yaml_tag tag;
    const char *text;
} implicit[] = {
    {FL_YAML_TAG_NULL, ""},
    {FL_YAML_TAG_NULL, "~"},
    {FL_YAML_TAG_NULL, "null"},
    {FL_YAML_TAG_NULL, "Null"},
    {FL_YAML_TAG_NULL, "NULL"},
    {FL_YAML_TAG_NULL, "~\n"},
    {FL_YAML_TAG_STR, "nULL"},
    {FL_YAML_TAG_STR, "nullx"},
    {FL_YAML_TAG_STR, "\n"},
    {FL_YAML_TAG_STR, " "},
    {FL_YAML_TAG_BOOL, "yes"},
    {FL_YAML_TAG_BOOL, "No"},
    {FL_YAML_TAG_BOOL, "TRUE"},
    {FL_YAML_TAG_BOOL, "off\n"},
    {FL_YAML_TAG_STR, "off\n\n"},
    {FL_YAML_TAG_STR, "y"},
    {FL_YAML_TAG_STR, "n"},
    {FL_YAML_TAG_STR, "tRUE"},
    {FL_YAML_TAG_STR, "truely"},
    {FL_YAML_TAG_INT, "0"},
    {FL_YAML_TAG_INT, "-0"},
    {FL_YAML_TAG_INT, "12"},
    {FL_YAML_TAG_INT, "+1_000"},
    {FL_YAML_TAG_INT, "017"},
    {FL_YAML_TAG_INT, "0_"},
    {FL_YAML_TAG_INT, "0b1_0"},
    {FL_YAML_TAG_INT, "0b_"},
    {FL_YAML_TAG_INT, "-0xfF_"},
    {FL_YAML_TAG_INT, "1:30"},
    {FL_YAML_TAG_INT, "190:20:3"},
    {FL_YAML_TAG_STR, "0:30"},
    {FL_YAML_TAG_STR, "1:60"},
    {FL_YAML_TAG_STR, "1:005"},
    {FL_YAML_TAG_STR, "1:"},
    {FL_YAML_TAG_STR, "08"},
    {FL_YAML_TAG_STR, "0o17"},
    {FL_YAML_TAG_STR, "0b"},
    {FL_YAML_TAG_STR, "0b2"},
    {FL_YAML_TAG_STR, "0x"},
    {FL_YAML_TAG_STR, "0xg"},
    {FL_YAML_TAG_STR, "_1"},
    {FL_YAML_TAG_STR, "-"},
    {FL_YAML_TAG_STR, "+"},
    {FL_YAML_TAG_STR, "1 "},
    {FL_YAML_TAG_FLOAT, "1."},
    {FL_YAML_TAG_FLOAT, "1.5"},
    {FL_YAML_TAG_FLOAT, "-1_0.5_"},
    {FL_YAML_TAG_FLOAT, "1.e+5"},
    {FL_YAML_TAG_FLOAT, ".5"},
    {FL_YAML_TAG_FLOAT, ".5_E-3"},
    {FL_YAML_TAG_FLOAT, "-.inf"},
    {FL_YAML_TAG_FLOAT, ".INF"},
    {FL_YAML_TAG_FLOAT, ".NaN"},
    {FL_YAML_TAG_FLOAT, "0:30."},
    {FL_YAML_TAG_FLOAT, "1:30.25"},
    {FL_YAML_TAG_STR, "1e5"},
    {FL_YAML_TAG_STR, "1.5e5"},
    {FL_YAML_TAG_STR, "1.5e+"},
    {FL_YAML_TAG_STR, "-.5"},
    {FL_YAML_TAG_STR, "._5"},
    {FL_YAML_TAG_STR, "."},
    {FL_YAML_TAG_STR, "-.nan"},
    {FL_YAML_TAG_STR, ".iNF"},
    {FL_YAML_TAG_STR, "1:30.5:30"},
    {FL_YAML_TAG_STR, "1:30.5e+3"},
    {FL_YAML_TAG_STR, "1.2.3"},
    {FL_YAML_TAG_TIMESTAMP, "2001-12-14"},
    {FL_YAML_TAG_TIMESTAMP, "2001-1-1T1:02:03"},
    {FL_YAML_TAG_TIMESTAMP, "2001-12-14t21:59:43.10-05:00"},
    {FL_YAML_TAG_TIMESTAMP, "2001-12-14 21:59:43. Z"},
    {FL_YAML_TAG_TIMESTAMP, "2001-12-14 \t 21:59:43\t+5"},
    {FL_YAML_TAG_STR, "2001-1-1"},
    {FL_YAML_TAG_STR, "2001-12-14T"},
    {FL_YAML_TAG_STR, "2001-12-14 21:59"},
    {FL_YAML_TAG_STR, "2001-12-14 21:59:43 "},
    {FL_YAML_TAG_STR, "2001-12-14 21:59:43z"},
    {FL_YAML_TAG_STR, "2001-12-14 21:59:43+05:0"},
    {FL_YAML_TAG_STR, "12001-12-14"},
    {FL_YAML_TAG_MERGE, "<<"},
    {FL_YAML_TAG_STR, "<<<"},
    {FL_YAML_TAG_VALUE, "="},
    {FL_YAML_TAG_STR, "=="},
    {FL_YAML_TAG_STR, "text"},
    {FL_YAML_TAG_STR, "\xc3\xa4"},
};

TEST(implicit_tags)
{
    for (size_t i = 0; i < COUNT(implicit); i++) {
        const char *text = implicit[i].text;
        const enum fl_yaml_tag tag = fl_yaml_resolve(text, strlen(text));

        if (tag != implicit[i].tag) {
            runner_fail(__FILE__, __LINE__, "\"%s\" is %s", text,
                        fl_yaml_tag_text(tag));
        }
    }
}

/* The text need not end with NUL, and a NUL in it is a byte like others. */
TEST(sizes_count)
{
    CHECK_INT(fl_yaml_resolve("12x", 2), FL_YAML_TAG_INT);
    CHECK_INT(fl_yaml_resolve("1\0", 2), FL_YAML_TAG_STR);
    CHECK_INT(fl_yaml_resolve("\0", 1), FL_YAML_TAG_STR);
}

TEST(booleans)
{
    CHECK(fl_yaml_bool("On", 2));
    CHECK(fl_yaml_bool("yes\n", 4));
    CHECK(!fl_yaml_bool("off", 3));
}

static const struct {
    const char *text;
    int64_t value;
} integers[] = {
    {"0", 0},
    {"-0", 0},
    {"+12", 12},
    {"-1_000", -1000},
    {"017", 15},
    {"0_", 0},
    {"0_7", 7},
    {"-0b101", -5},
    {"0xfF", 255},
    {"1:30", 90},
    {"-190:20:30", -685230},
    {"9223372036854775807", INT64_MAX},
};

TEST(integer_values)
{
    int64_t value;

    for (size_t i = 0; i < COUNT(integers); i++) {
        const char *text = integers[i].text;

        CHECK_INT(fl_yaml_int(text, strlen(text), &value), 0);
        CHECK_INT(value, integers[i].value);
    }
}

TEST(integers_without_a_value)
{
    int64_t value = 5;

    CHECK_INT(fl_yaml_int("0x_", 3, &value), -EINVAL);
    CHECK_INT(fl_yaml_int("0b_", 3, &value), -EINVAL);
    CHECK_INT(fl_yaml_int("9223372036854775808", 19, &value), -ERANGE);
    CHECK_INT(fl_yaml_int("0x8000000000000000", 18, &value), -ERANGE);
    CHECK_INT(fl_yaml_int("999999999999999999:0", 20, &value), -ERANGE);
    CHECK_INT(value, 5);
}

TEST(float_texts)
{
    char buffer[8];

    CHECK_INT(fl_yaml_float_text("-1_0.5_", 7, buffer, sizeof(buffer)), 0);
    CHECK_STR(buffer, "-10.5");
    CHECK_INT(fl_yaml_float_text("1.5e+3\n", 7, buffer, sizeof(buffer)), 0);
    CHECK_STR(buffer, "1.5e+3");
    CHECK_INT(fl_yaml_float_text("12345.678", 9, buffer, sizeof(buffer)),
              -ERANGE);
    CHECK_INT(fl_yaml_float_text(".inf", 4, buffer, sizeof(buffer)), -ERANGE);
    CHECK_INT(fl_yaml_float_text("1:30.5", 6, buffer, sizeof(buffer)),
              -ERANGE);
}
