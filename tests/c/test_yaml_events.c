/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_events.h"

#include <errno.h>

#include "runner.h"
#include "support.h"

static const struct fl_yaml_limits ample = {
    .bytes = 1 << 20, .events = 10000, .depth = 100};

static const char document[]
    = "- &a {key: [1, 'two', \"three\"]}\n- *a\n- !t |\n  text\n";

static int
parse(const char *text, const struct fl_yaml_limits *limits,
      struct fl_yaml_events **ret, struct fl_yaml_error *ret_error)
{
    return fl_yaml_events_new((const uint8_t *)text, strlen(text), limits, ret,
                              ret_error);
}

TEST(events_and_their_places)
{
    static const struct {
        enum fl_yaml_kind kind;
        const char *value;
        size_t line;
        size_t column;
    } expected[] = {
        {FL_YAML_STREAM_START, NULL, 1, 1},
        {FL_YAML_DOCUMENT_START, NULL, 1, 1},
        {FL_YAML_MAPPING_START, NULL, 1, 1},
        {FL_YAML_SCALAR, "a", 1, 1},
        {FL_YAML_SEQUENCE_START, NULL, 2, 1},
        {FL_YAML_SCALAR, "b", 2, 3},
        {FL_YAML_SEQUENCE_END, NULL, 3, 1},
        {FL_YAML_MAPPING_END, NULL, 3, 1},
        {FL_YAML_DOCUMENT_END, NULL, 3, 1},
        {FL_YAML_STREAM_END, NULL, 3, 1},
    };
    struct fl_yaml_events *events = NULL;
    struct fl_yaml_error error;
    struct fl_yaml_event event;

    CHECK_INT(parse("a:\n- b\n", &ample, &events, &error), 0);
    CHECK_INT(fl_yaml_events_count(events),
              sizeof(expected) / sizeof(expected[0]));
    for (size_t i = 0; i < fl_yaml_events_count(events); i++) {
        fl_yaml_events_get(events, i, &event);
        CHECK_INT(event.kind, expected[i].kind);
        CHECK_INT(event.line, expected[i].line);
        CHECK_INT(event.column, expected[i].column);
        if (expected[i].value != NULL) {
            CHECK_STR(event.value, expected[i].value);
        }
    }
    fl_yaml_events_free(events);
    fl_yaml_events_free(NULL);
}

TEST(limits)
{
    struct fl_yaml_limits limits = ample;
    struct fl_yaml_events *events = NULL;
    struct fl_yaml_error error;

    limits.depth = 2;
    CHECK_INT(parse(document, &limits, &events, &error), -EINVAL);
    CHECK_CONTAINS(error.words, "too deeply");
    limits = ample;
    limits.events = 5;
    CHECK_INT(parse(document, &limits, &events, &error), -EINVAL);
    CHECK_CONTAINS(error.words, "too many");
    limits = ample;
    limits.bytes = sizeof(document) - 2;
    CHECK_INT(parse(document, &limits, &events, &error), -EINVAL);
    CHECK_CONTAINS(error.words, "too long");
    CHECK(events == NULL);
}

TEST(errors)
{
    struct fl_yaml_events *events = NULL;
    struct fl_yaml_error error;

    CHECK_INT(parse("a: [\n}", &ample, &events, &error), -EINVAL);
    CHECK_INT(error.line, 2);
    CHECK_INT(error.column, 1);
    CHECK(error.words[0] != '\0');
    CHECK_INT(parse("\xff\xff", &ample, &events, &error), -EINVAL);
    CHECK(error.words[0] != '\0');
    CHECK(events == NULL);
}

/* Hostile input: every byte of a document replaced by every other one. */
TEST(every_byte_changed)
{
    char text[sizeof(document)];
    struct fl_yaml_error error;

    for (size_t at = 0; at < sizeof(document) - 1; at++) {
        for (int byte = 0; byte < 256; byte++) {
            struct fl_yaml_events *events = NULL;
            int err;

            memcpy(text, document, sizeof(document));
            text[at] = (char)byte;
            err = fl_yaml_events_new((const uint8_t *)text,
                                     sizeof(document) - 1, &ample, &events,
                                     &error);
            CHECK(err == 0 || (err == -EINVAL && error.line >= 1));
            fl_yaml_events_free(events);
        }
    }
}

/* libyaml's own allocations are its affair; ours are these two. */
TEST(every_allocation_of_ours_may_fail)
{
    for (long count = 0; count < 2; count++) {
        struct fl_yaml_events *events = NULL;
        struct fl_yaml_error error;

        alloc_fail_after(count);
        CHECK_INT(parse(document, &ample, &events, &error), -ENOMEM);
        CHECK(events == NULL);
    }
}
