/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A YAML document as libyaml's events, within limits. Nothing is composed:
 * an alias stays an alias, so a document cannot be larger parsed than it is
 * written (systems fact 39).
 */
#ifndef FL_YAML_EVENTS_H
#define FL_YAML_EVENTS_H

#include <stddef.h>
#include <stdint.h>

/* X(name, text), in libyaml's own order. */
#define FL_YAML_MAP(X)                                                        \
    X(STREAM_START, "stream-start")                                           \
    X(STREAM_END, "stream-end")                                               \
    X(DOCUMENT_START, "document-start")                                       \
    X(DOCUMENT_END, "document-end")                                           \
    X(ALIAS, "alias")                                                         \
    X(SCALAR, "scalar")                                                       \
    X(SEQUENCE_START, "sequence-start")                                       \
    X(SEQUENCE_END, "sequence-end")                                           \
    X(MAPPING_START, "mapping-start")                                         \
    X(MAPPING_END, "mapping-end")

enum fl_yaml_kind {
#define FL_YAML_ENUM(name, text) FL_YAML_##name,
    FL_YAML_MAP(FL_YAML_ENUM)
#undef FL_YAML_ENUM
};

struct fl_yaml_limits {
    size_t bytes;  /* of the document */
    size_t events; /* nodes and everything around them */
    size_t depth;  /* of collections within one another */
};

/* UTF-8, ended by NUL; NULL where the event has none. Lines from 1. */
struct fl_yaml_event {
    enum fl_yaml_kind kind;
    const char *value;
    size_t value_size;
    const char *anchor;
    const char *tag;
    const char *style; /* "plain", "block", ...; "" where there is none */
    size_t line;
    size_t column;
};

struct fl_yaml_error {
    size_t line;
    size_t column;
    char words[200];
};

struct fl_yaml_events;

/*
 * Parses all of `data`. 0 with `*ret` to be freed; -ENOMEM; or -EINVAL with
 * `*ret_error` filled in: not YAML, or beyond a limit.
 */
int
fl_yaml_events_new(const uint8_t *data, size_t size,
                   const struct fl_yaml_limits *limits,
                   struct fl_yaml_events **ret,
                   struct fl_yaml_error *ret_error);

/* Accepts NULL. */
void
fl_yaml_events_free(struct fl_yaml_events *events);

size_t
fl_yaml_events_count(const struct fl_yaml_events *events);

/* `index` is below the count; what `*ret` points at lives as `events` does. */
void
fl_yaml_events_get(const struct fl_yaml_events *events, size_t index,
                   struct fl_yaml_event *ret);

#endif
