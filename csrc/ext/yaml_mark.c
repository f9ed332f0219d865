/* SPDX-License-Identifier: BSD-3-Clause */
#include "ext/yaml_mark.h"

int
fl_ext_yaml_marker_init(struct fl_ext_yaml_marker *marker,
                        const struct fl_ext_yaml_profile *profile,
                        PyObject *source, PyObject *extra_tags,
                        unsigned long first_line)
{
    *marker = (struct fl_ext_yaml_marker){
        .profile = profile,
        .source = source,
        .extra_tags = extra_tags,
        .first_line = first_line,
        .no_arguments = PyTuple_New(0),
    };
    if (profile->origin_type != NULL
        && !Py_IS_TYPE(source, profile->origin_type)) {
        PyErr_SetString(PyExc_TypeError, "the source is not an origin");
        return -1;
    }
    return marker->no_arguments != NULL ? 0 : -1;
}

void
fl_ext_yaml_marker_done(struct fl_ext_yaml_marker *marker)
{
    Py_CLEAR(marker->no_arguments);
    for (size_t i = 0; i < FL_EXT_YAML_NUMBERS; i++) {
        Py_CLEAR(marker->numbers[i]);
    }
}

/* A strong reference to the number, or NULL. */
static PyObject *
number_object(struct fl_ext_yaml_marker *marker, unsigned long number)
{
    const size_t at = number % FL_EXT_YAML_NUMBERS;

    if (marker->numbers[at] == NULL || marker->keys[at] != number) {
        PyObject *made = PyLong_FromUnsignedLong(number);

        if (made == NULL) {
            return NULL;
        }
        Py_XSETREF(marker->numbers[at], made);
        marker->keys[at] = number;
    }
    return Py_NewRef(marker->numbers[at]);
}

static int
set_number(struct fl_ext_yaml_marker *marker, PyObject *object, PyObject *name,
           unsigned long number)
{
    PyObject *value = number_object(marker, number);
    const int r = value == NULL ? -1 : PyObject_SetAttr(object, name, value);

    Py_XDECREF(value);
    return r;
}

static int
mark_by_attributes(struct fl_ext_yaml_marker *marker, PyObject *object,
                   unsigned long line, unsigned long column)
{
    PyObject *const *names = marker->profile->attributes;

    if (PyObject_SetAttr(object, names[0], marker->source) < 0
        || set_number(marker, object, names[1], line) < 0)
    {
        return -1;
    }
    return set_number(marker, object, names[2], column);
}

/* An origin like the source, at another place. */
static PyObject *
new_origin(struct fl_ext_yaml_marker *marker, unsigned long line,
           unsigned long column)
{
    const struct fl_ext_yaml_profile *profile = marker->profile;
    PyTypeObject *type = profile->origin_type;
    PyObject *origin = type->tp_alloc(type, 0);

    if (origin == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < profile->shared_count; i++) {
        const Py_ssize_t offset = profile->shared_offsets[i];

        *fl_ext_yaml_slot(origin, offset) = Py_XNewRef(
            *fl_ext_yaml_slot(marker->source, offset));
    }
    *fl_ext_yaml_slot(origin, profile->line_offset) = number_object(marker,
                                                                    line);
    *fl_ext_yaml_slot(origin, profile->column_offset) = number_object(marker,
                                                                      column);
    if (*fl_ext_yaml_slot(origin, profile->line_offset) == NULL
        || *fl_ext_yaml_slot(origin, profile->column_offset) == NULL)
    {
        Py_DECREF(origin);
        return NULL;
    }
    /* Text and numbers cannot lead back to it; see uncollected(). */
    PyObject_GC_UnTrack(origin);
    return origin;
}

static int
add_tag(PyObject *tags, PyObject *tag)
{
    return PyDict_SetItem(tags, (PyObject *)Py_TYPE(tag), tag);
}

static int
add_extra_tags(const struct fl_ext_yaml_marker *marker, PyObject *tags)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(marker->extra_tags);

    for (Py_ssize_t i = 0; i < count; i++) {
        if (add_tag(tags, PyTuple_GET_ITEM(marker->extra_tags, i)) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
new_tags(struct fl_ext_yaml_marker *marker, bool with_extra,
         unsigned long line, unsigned long column)
{
    PyObject *origin = new_origin(marker, line, column), *tags = NULL;

    if (origin != NULL) {
        tags = PyDict_Type.tp_new(marker->profile->tags_type,
                                  marker->no_arguments, NULL);
    }
    if (tags != NULL
        && (add_tag(tags, origin) < 0
            || (with_extra && add_extra_tags(marker, tags) < 0)))
    {
        Py_CLEAR(tags);
    }
    Py_XDECREF(origin);
    if (tags != NULL) {
        PyObject_GC_UnTrack(tags);
    }
    return tags;
}

static int
mark_by_tags(struct fl_ext_yaml_marker *marker, PyObject *object,
             enum fl_ext_yaml_kind kind, unsigned long line,
             unsigned long column)
{
    const Py_ssize_t offset = marker->profile->tags_offsets[kind];
    PyObject *tags = new_tags(marker, kind == FL_EXT_YAML_STR, line, column);
    int r;

    if (tags == NULL) {
        return -1;
    }
    if (offset > 0) {
        Py_XSETREF(*fl_ext_yaml_slot(object, offset), tags);
        return 0;
    }
    r = PyObject_SetAttr(object, marker->profile->tags_name, tags);
    Py_DECREF(tags);
    return r;
}

int
fl_ext_yaml_mark(struct fl_ext_yaml_marker *marker, PyObject *object,
                 enum fl_ext_yaml_kind kind, unsigned long line,
                 unsigned long column)
{
    line += marker->first_line;
    column++;
    if (marker->profile->origin_type == NULL) {
        return mark_by_attributes(marker, object, line, column);
    }
    return mark_by_tags(marker, object, kind, line, column);
}
