/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where an object came from, noted on it in the way its profile says. Wants
 * the GIL.
 */
#ifndef FL_EXT_YAML_MARK_H
#define FL_EXT_YAML_MARK_H

#include "ext/yaml_profile.h"

#define FL_EXT_YAML_NUMBERS 1024

struct fl_ext_yaml_marker {
    const struct fl_ext_yaml_profile *profile; /* borrowed */
    /* The source's name, or an origin to take the shared slots from. */
    PyObject *source;     /* borrowed */
    PyObject *extra_tags; /* borrowed: tuple, what strings have besides */
    unsigned long first_line;
    PyObject *no_arguments;
    /* Line numbers in use: most objects share theirs with another. */
    unsigned long keys[FL_EXT_YAML_NUMBERS];
    PyObject *numbers[FL_EXT_YAML_NUMBERS];
};

/* 0 or -1; `done` in any case. */
int
fl_ext_yaml_marker_init(struct fl_ext_yaml_marker *marker,
                        const struct fl_ext_yaml_profile *profile,
                        PyObject *source, PyObject *extra_tags,
                        unsigned long first_line);

void
fl_ext_yaml_marker_done(struct fl_ext_yaml_marker *marker);

/* `line` and `column` are from 0. 0 or -1. */
int
fl_ext_yaml_mark(struct fl_ext_yaml_marker *marker, PyObject *object,
                 enum fl_ext_yaml_kind kind, unsigned long line,
                 unsigned long column);

#endif
