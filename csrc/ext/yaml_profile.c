/* SPDX-License-Identifier: BSD-3-Clause */
#include "ext/yaml_profile.h"

#include <structmember.h>

static PyTypeObject *
base_of(enum fl_ext_yaml_kind kind)
{
    switch (kind) {
    case FL_EXT_YAML_STR:
        return &PyUnicode_Type;
    case FL_EXT_YAML_INT:
        return &PyLong_Type;
    case FL_EXT_YAML_FLOAT:
        return &PyFloat_Type;
    case FL_EXT_YAML_LIST:
        return &PyList_Type;
    default:
        return &PyDict_Type;
    }
}

static int
misfit(PyTypeObject *type, const char *words)
{
    PyErr_Format(PyExc_TypeError, "%s: %s", type->tp_name, words);
    return -1;
}

/*
 * The built-in's own constructor is called for the subclass, and its own
 * functions fill it: the subclass must not have put others in their place.
 */
static int
check_subclass(PyTypeObject *type, PyTypeObject *base)
{
    if (!PyType_IsSubtype(type, base)) {
        return misfit(type, "not a subclass of the built-in type");
    }
    if (type->tp_new != base->tp_new || type->tp_init != base->tp_init) {
        return misfit(type, "has a constructor of its own");
    }
    if (type->tp_hash != base->tp_hash
        || type->tp_richcompare != base->tp_richcompare)
    {
        return misfit(type, "compares in a way of its own");
    }
    if (type->tp_setattro != PyObject_GenericSetAttr) {
        return misfit(type, "sets attributes in a way of its own");
    }
    if (base == &PyDict_Type
        && type->tp_as_mapping->mp_ass_subscript
               != base->tp_as_mapping->mp_ass_subscript)
    {
        return misfit(type, "sets items in a way of its own");
    }
    return 0;
}

static int
take_type(PyTypeObject **ret, PyObject *candidate, PyTypeObject *base)
{
    if (!PyType_Check(candidate)) {
        PyErr_SetString(PyExc_TypeError, "a type is expected");
        return -1;
    }
    *ret = (PyTypeObject *)Py_NewRef(candidate);
    return check_subclass(*ret, base);
}

static int
take_types(struct fl_ext_yaml_profile *profile, PyObject *types)
{
    if (PyTuple_GET_SIZE(types) != FL_EXT_YAML_KINDS) {
        PyErr_SetString(PyExc_TypeError, "five types are expected");
        return -1;
    }
    for (size_t kind = 0; kind < FL_EXT_YAML_KINDS; kind++) {
        PyObject *type = PyTuple_GET_ITEM(types, (Py_ssize_t)kind);
        const bool may_lack = kind == FL_EXT_YAML_INT
                              || kind == FL_EXT_YAML_FLOAT;

        if (type == Py_None && may_lack) {
            continue;
        }
        if (take_type(&profile->types[kind], type, base_of(kind)) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
take_name(PyObject **ret, PyObject *name)
{
    if (!PyUnicode_CheckExact(name)) {
        PyErr_SetString(PyExc_TypeError, "a name is expected");
        return -1;
    }
    *ret = Py_NewRef(name);
    PyUnicode_InternInPlace(ret);
    return 0;
}

static int
take_attributes(struct fl_ext_yaml_profile *profile, PyObject *attributes)
{
    const Py_ssize_t count = Py_ARRAY_LENGTH(profile->attributes);

    if (!PyTuple_Check(attributes) || PyTuple_GET_SIZE(attributes) != count) {
        PyErr_SetString(PyExc_TypeError, "three attributes are expected");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (take_name(&profile->attributes[i], PyTuple_GET_ITEM(attributes, i))
            < 0) {
            return -1;
        }
    }
    return 0;
}

/*
 * Where the slot lies in an object of the type. 0 if the attribute is not a
 * slot (there is always an object header at 0); -1 with an exception if it is
 * a slot that may not simply be written.
 */
static Py_ssize_t
slot_offset(PyTypeObject *type, PyObject *name)
{
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    const PyMemberDef *member;
    Py_ssize_t offset = 0;

    if (found == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    if (Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        member = ((PyMemberDescrObject *)found)->d_member;
        offset = member->type == T_OBJECT_EX && !(member->flags & READONLY)
                     ? member->offset
                     : misfit(type, "has a slot that is no plain object");
    }
    Py_DECREF(found);
    return offset;
}

static int
take_slot(Py_ssize_t *ret, PyTypeObject *type, PyObject *name)
{
    *ret = slot_offset(type, name);
    if (*ret == 0) {
        return misfit(type, "lacks a slot");
    }
    return *ret < 0 ? -1 : 0;
}

static int
take_shared_slots(struct fl_ext_yaml_profile *profile, PyObject *names)
{
    const size_t count = (size_t)PyTuple_GET_SIZE(names);

    if (count > Py_ARRAY_LENGTH(profile->shared_offsets)) {
        return misfit(profile->origin_type, "has too many slots");
    }
    for (size_t i = 0; i < count; i++) {
        if (take_slot(&profile->shared_offsets[i], profile->origin_type,
                      PyTuple_GET_ITEM(names, (Py_ssize_t)i))
            < 0)
        {
            return -1;
        }
    }
    profile->shared_count = count;
    return 0;
}

/* An origin is made without its constructor, so we must know all of it. */
static int
check_origin(const struct fl_ext_yaml_profile *profile)
{
    PyTypeObject *type = profile->origin_type;
    const size_t slots = profile->shared_count + 2;

    if (type->tp_basicsize
            != (Py_ssize_t)(sizeof(PyObject) + slots * sizeof(PyObject *))
        || type->tp_itemsize != 0 || type->tp_dictoffset != 0
        || type->tp_weaklistoffset != 0
        || type->tp_alloc != PyType_GenericAlloc)
    {
        return misfit(type, "holds more than its slots");
    }
    return 0;
}

static int
take_tags(struct fl_ext_yaml_profile *profile, PyObject *tags)
{
    PyObject *name, *tags_type, *origin_type, *shared, *line, *column;

    if (!PyTuple_Check(tags)
        || !PyArg_ParseTuple(tags, "UO!O!O!UU", &name, &PyType_Type,
                             &tags_type, &PyType_Type, &origin_type,
                             &PyTuple_Type, &shared, &line, &column))
    {
        return -1;
    }
    profile->origin_type = (PyTypeObject *)Py_NewRef(origin_type);
    if (take_name(&profile->tags_name, name) < 0
        || take_type(&profile->tags_type, tags_type, &PyDict_Type) < 0
        || take_shared_slots(profile, shared) < 0
        || take_slot(&profile->line_offset, profile->origin_type, line) < 0
        || take_slot(&profile->column_offset, profile->origin_type, column)
               < 0)
    {
        return -1;
    }
    for (size_t kind = 0; kind < FL_EXT_YAML_KINDS; kind++) {
        if (profile->types[kind] != NULL) {
            profile->tags_offsets[kind] = slot_offset(profile->types[kind],
                                                      profile->tags_name);
            if (profile->tags_offsets[kind] < 0) {
                return -1;
            }
        }
    }
    return check_origin(profile);
}

int
fl_ext_yaml_profile_init(struct fl_ext_yaml_profile *profile, PyObject *types,
                         PyObject *attributes, PyObject *tags)
{
    if ((attributes == Py_None) == (tags == Py_None)) {
        PyErr_SetString(PyExc_TypeError, "either attributes or tags");
        return -1;
    }
    if (take_types(profile, types) < 0) {
        return -1;
    }
    return tags == Py_None ? take_attributes(profile, attributes)
                           : take_tags(profile, tags);
}

int
fl_ext_yaml_profile_traverse(const struct fl_ext_yaml_profile *profile,
                             visitproc visit, void *arg)
{
    for (size_t kind = 0; kind < FL_EXT_YAML_KINDS; kind++) {
        Py_VISIT(profile->types[kind]);
    }
    Py_VISIT(profile->tags_type);
    Py_VISIT(profile->origin_type);
    return 0;
}

void
fl_ext_yaml_profile_done(struct fl_ext_yaml_profile *profile)
{
    for (size_t kind = 0; kind < FL_EXT_YAML_KINDS; kind++) {
        Py_CLEAR(profile->types[kind]);
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(profile->attributes); i++) {
        Py_CLEAR(profile->attributes[i]);
    }
    Py_CLEAR(profile->tags_name);
    Py_CLEAR(profile->tags_type);
    Py_CLEAR(profile->origin_type);
}
