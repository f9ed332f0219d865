/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_events.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <yaml.h>

#define FIRST_CAPACITY 64

struct fl_yaml_events {
    yaml_event_t *events;
    size_t count;
    size_t capacity;
};

/* What one run of the parser needs to know. */
struct run {
    yaml_parser_t parser;
    const struct fl_yaml_limits *limits;
    struct fl_yaml_events *events;
    struct fl_yaml_error *error;
    size_t depth;
};

void
fl_yaml_events_free(struct fl_yaml_events *events)
{
    if (events == NULL) {
        return;
    }
    for (size_t i = 0; i < events->count; i++) {
        yaml_event_delete(&events->events[i]);
    }
    free(events->events);
    free(events);
}

static int
complain(struct fl_yaml_error *error, const char *words, const char *context,
         yaml_mark_t mark)
{
    error->line = mark.line + 1;
    error->column = mark.column + 1;
    (void)snprintf(error->words, sizeof(error->words), "%s%s%s", words,
                   context != NULL ? ", " : "",
                   context != NULL ? context : "");
    return -EINVAL;
}

/* Why libyaml stopped; reader errors know an offset only, so mark where. */
static int
complain_parser(struct run *run)
{
    const yaml_parser_t *parser = &run->parser;
    yaml_mark_t mark = parser->problem_mark;

    if (parser->error == YAML_MEMORY_ERROR) {
        return -ENOMEM;
    }
    if (parser->error == YAML_READER_ERROR) {
        mark = parser->mark;
    }
    return complain(run->error,
                    parser->problem != NULL ? parser->problem : "not YAML",
                    parser->context, mark);
}

static int
reserve(struct fl_yaml_events *events)
{
    const size_t capacity = events->capacity == 0 ? FIRST_CAPACITY
                                                  : 2 * events->capacity;
    yaml_event_t *larger;

    if (events->count < events->capacity) {
        return 0;
    }
    larger = realloc(events->events, capacity * sizeof(*larger));
    if (larger == NULL) {
        return -ENOMEM;
    }
    events->events = larger;
    events->capacity = capacity;
    return 0;
}

/* Follows the nesting; negative if it is too deep. */
static int
track_depth(struct run *run, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        if (++run->depth > run->limits->depth) {
            return complain(run->error, "the document is nested too deeply",
                            NULL, event->start_mark);
        }
        return 0;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        run->depth--;
        return 0;
    default:
        return 0;
    }
}

/* Parses one more event into the list. 1: the last one. 0: go on. */
static int
parse_one(struct run *run)
{
    struct fl_yaml_events *events = run->events;
    yaml_event_t *event;
    int err = reserve(events);

    if (err < 0) {
        return err;
    }
    event = &events->events[events->count];
    if (!yaml_parser_parse(&run->parser, event)) {
        return complain_parser(run);
    }
    events->count++; /* from here on the list deletes it */
    if (events->count > run->limits->events) {
        return complain(run->error, "the document has too many nodes", NULL,
                        event->start_mark);
    }
    err = track_depth(run, event);
    return err < 0 ? err : event->type == YAML_STREAM_END_EVENT;
}

static int
parse_all(struct run *run, const uint8_t *data, size_t size)
{
    int r;

    if (!yaml_parser_initialize(&run->parser)) {
        return -ENOMEM;
    }
    yaml_parser_set_input_string(&run->parser, data, size);
    do {
        r = parse_one(run);
    } while (r == 0);
    yaml_parser_delete(&run->parser);
    return r < 0 ? r : 0;
}

int
fl_yaml_events_new(const uint8_t *data, size_t size,
                   const struct fl_yaml_limits *limits,
                   struct fl_yaml_events **ret,
                   struct fl_yaml_error *ret_error)
{
    const yaml_mark_t start = {0};
    struct run run = {.limits = limits, .error = ret_error};
    int err;

    if (size > limits->bytes) {
        return complain(ret_error, "the document is too long", NULL, start);
    }
    run.events = calloc(1, sizeof(*run.events));
    if (run.events == NULL) {
        return -ENOMEM;
    }
    err = parse_all(&run, data, size);
    if (err < 0) {
        fl_yaml_events_free(run.events);
        return err;
    }
    *ret = run.events;
    return 0;
}

size_t
fl_yaml_events_count(const struct fl_yaml_events *events)
{
    return events->count;
}

static const char *
scalar_style(yaml_scalar_style_t style)
{
    switch (style) {
    case YAML_PLAIN_SCALAR_STYLE:
        return "plain";
    case YAML_SINGLE_QUOTED_SCALAR_STYLE:
        return "single-quoted";
    case YAML_DOUBLE_QUOTED_SCALAR_STYLE:
        return "double-quoted";
    case YAML_LITERAL_SCALAR_STYLE:
        return "literal";
    case YAML_FOLDED_SCALAR_STYLE:
        return "folded";
    default:
        return "";
    }
}

static void
get_scalar(const yaml_event_t *event, struct fl_yaml_event *ret)
{
    ret->value = (const char *)event->data.scalar.value;
    ret->value_size = event->data.scalar.length;
    ret->anchor = (const char *)event->data.scalar.anchor;
    ret->tag = (const char *)event->data.scalar.tag;
    ret->style = scalar_style(event->data.scalar.style);
}

static void
get_sequence(const yaml_event_t *event, struct fl_yaml_event *ret)
{
    const bool flow = event->data.sequence_start.style
                      == YAML_FLOW_SEQUENCE_STYLE;

    ret->anchor = (const char *)event->data.sequence_start.anchor;
    ret->tag = (const char *)event->data.sequence_start.tag;
    ret->style = flow ? "flow" : "block";
}

static void
get_mapping(const yaml_event_t *event, struct fl_yaml_event *ret)
{
    const bool flow = event->data.mapping_start.style
                      == YAML_FLOW_MAPPING_STYLE;

    ret->anchor = (const char *)event->data.mapping_start.anchor;
    ret->tag = (const char *)event->data.mapping_start.tag;
    ret->style = flow ? "flow" : "block";
}

void
fl_yaml_events_get(const struct fl_yaml_events *events, size_t index,
                   struct fl_yaml_event *ret)
{
    const yaml_event_t *event = &events->events[index];
    struct fl_yaml_event found = {.style = ""};

    /* Ours lacks libyaml's "no event", which comes first there. */
    found.kind = (enum fl_yaml_kind)(event->type - YAML_STREAM_START_EVENT);
    found.line = event->start_mark.line + 1;
    found.column = event->start_mark.column + 1;
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        found.anchor = (const char *)event->data.alias.anchor;
        break;
    case YAML_SCALAR_EVENT:
        get_scalar(event, &found);
        break;
    case YAML_SEQUENCE_START_EVENT:
        get_sequence(event, &found);
        break;
    case YAML_MAPPING_START_EVENT:
        get_mapping(event, &found);
        break;
    default:
        break;
    }
    *ret = found;
}
