/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the objects of a YAML loader are: types of the caller's, and how a
 * position is noted on them. Nothing here knows whose types they are; what it
 * needs of them is checked when a profile is made. Wants the GIL.
 */
#ifndef FL_EXT_YAML_PROFILE_H
#define FL_EXT_YAML_PROFILE_H

#include "ext/state.h"

enum fl_ext_yaml_kind {
    FL_EXT_YAML_STR,
    FL_EXT_YAML_INT,
    FL_EXT_YAML_FLOAT,
    FL_EXT_YAML_LIST,
    FL_EXT_YAML_DICT,
    FL_EXT_YAML_KINDS
};

#define FL_EXT_YAML_SHARED_MAX 8

struct fl_ext_yaml_profile {
    /* Subclasses of the built-in types; NULL: the built-in, unmarked. */
    PyTypeObject *types[FL_EXT_YAML_KINDS];
    /* One way: three attributes, for source, line and column. Or NULL. */
    PyObject *attributes[3];
    /* The other way: an attribute that holds a mapping from type to tag. */
    PyObject *tags_name;
    PyTypeObject *tags_type;   /* subclass of dict */
    PyTypeObject *origin_type; /* tag for the position; object with slots */
    Py_ssize_t tags_offsets[FL_EXT_YAML_KINDS]; /* 0: an attribute */
    Py_ssize_t line_offset;
    Py_ssize_t column_offset;
    Py_ssize_t shared_offsets[FL_EXT_YAML_SHARED_MAX];
    size_t shared_count; /* slots that every position has in common */
};

/*
 * Fills a zeroed profile from
 *   types       (str, int or None, float or None, list, dict)
 *   attributes  None, or the three names
 *   tags        None, or (name, type of mapping, type of origin, names of the
 *               shared slots, name of the slot for the line, for the column)
 * 0, or -1 with TypeError raised. fl_ext_yaml_profile_done() in any case.
 */
int
fl_ext_yaml_profile_init(struct fl_ext_yaml_profile *profile, PyObject *types,
                         PyObject *attributes, PyObject *tags);

int
fl_ext_yaml_profile_traverse(const struct fl_ext_yaml_profile *profile,
                             visitproc visit, void *arg);

void
fl_ext_yaml_profile_done(struct fl_ext_yaml_profile *profile);

/* A slot of an object, by its offset. */
static inline PyObject **
fl_ext_yaml_slot(PyObject *object, Py_ssize_t offset)
{
    return (PyObject **)(void *)((char *)object + offset);
}

#endif
