/* SPDX-License-Identifier: BSD-3-Clause */
#include "ext/yaml_build.h"

/* Longer numbers go to `other`. */
#define FLOAT_TEXT 64

struct builder {
    const struct fl_yaml_document *document;
    struct fl_ext_yaml_marker *marker;
    PyObject *other;
    PyObject *duplicates;
    PyObject *yaml_error;
    /* By node number: built already (strong), for those that are shared. */
    PyObject **objects;
    /* Collections that are still empty, first in, first out. */
    uint32_t *queue;
    size_t queued;
};

PyObject *
fl_ext_yaml_raise(PyObject *yaml_error, size_t line, size_t column,
                  const char *words)
{
    PyObject *message = PyUnicode_FromFormat("line %zu, column %zu: %s", line,
                                             column, words);
    PyObject *exception = NULL, *at_line = PyLong_FromSize_t(line),
             *at_column = PyLong_FromSize_t(column);

    if (message != NULL) {
        exception = PyObject_CallOneArg(yaml_error, message);
    }
    if (exception != NULL && at_line != NULL && at_column != NULL
        && PyObject_SetAttrString(exception, "line", at_line) == 0
        && PyObject_SetAttrString(exception, "column", at_column) == 0)
    {
        PyErr_SetObject(yaml_error, exception);
    }
    Py_XDECREF(message);
    Py_XDECREF(exception);
    Py_XDECREF(at_line);
    Py_XDECREF(at_column);
    return NULL;
}

static PyObject *
refuse(const struct builder *builder, const struct fl_yaml_node *node,
       const char *words)
{
    return fl_ext_yaml_raise(builder->yaml_error, (size_t)node->line + 1,
                             (size_t)node->column + 1, words);
}

/* ---- scalars ----------------------------------------------------------- */

static PyObject *
text_of(const struct builder *builder, const struct fl_yaml_node *node)
{
    return PyUnicode_DecodeUTF8(fl_yaml_document_text(builder->document, node),
                                (Py_ssize_t)node->count, NULL);
}

static PyObject *
build_other(const struct builder *builder, const struct fl_yaml_node *node)
{
    return PyObject_CallFunction(
        builder->other, "sNkk", fl_yaml_tag_text((enum fl_yaml_tag)node->tag),
        text_of(builder, node), (unsigned long)node->line,
        (unsigned long)node->column);
}

/* Steals `object`, which may be NULL; NULL if it cannot be marked. */
static PyObject *
marked(const struct builder *builder, const struct fl_yaml_node *node,
       enum fl_ext_yaml_kind kind, PyObject *object)
{
    if (object != NULL
        && fl_ext_yaml_mark(builder->marker, object, kind, node->line,
                            node->column)
               < 0)
    {
        Py_CLEAR(object);
    }
    return object;
}

/*
 * Steals `object`, which may be NULL. What is noted on a scalar is text and
 * numbers, which cannot lead back to it, and a large inventory has a million
 * scalars: the collector need not visit them, nor write into their pages in
 * every forked worker.
 */
static PyObject *
uncollected(PyObject *object)
{
    if (object != NULL && PyObject_IS_GC(object)) {
        PyObject_GC_UnTrack(object);
    }
    return object;
}

/* Steals `value`, which may be NULL: the profile's subclass of it, marked. */
static PyObject *
subclassed(const struct builder *builder, const struct fl_yaml_node *node,
           enum fl_ext_yaml_kind kind, PyObject *value)
{
    PyTypeObject *type = builder->marker->profile->types[kind];
    PyObject *arguments, *object = NULL;

    if (value == NULL || type == NULL) {
        return value;
    }
    arguments = PyTuple_Pack(1, value);
    Py_DECREF(value);
    if (arguments != NULL) {
        object = type->tp_new(type, arguments, NULL);
        Py_DECREF(arguments);
    }
    return uncollected(marked(builder, node, kind, object));
}

static PyObject *
build_str(const struct builder *builder, const struct fl_yaml_node *node)
{
    return subclassed(builder, node, FL_EXT_YAML_STR, text_of(builder, node));
}

static PyObject *
build_bool(const struct builder *builder, const struct fl_yaml_node *node)
{
    const char *text = fl_yaml_document_text(builder->document, node);

    return PyBool_FromLong(fl_yaml_bool(text, node->count));
}

static PyObject *
build_int(const struct builder *builder, const struct fl_yaml_node *node)
{
    const char *text = fl_yaml_document_text(builder->document, node);
    int64_t value;

    if (fl_yaml_int(text, node->count, &value) < 0) {
        return build_other(builder, node);
    }
    return subclassed(builder, node, FL_EXT_YAML_INT,
                      PyLong_FromLongLong(value));
}

static PyObject *
build_float(const struct builder *builder, const struct fl_yaml_node *node)
{
    const char *text = fl_yaml_document_text(builder->document, node);
    char buffer[FLOAT_TEXT];
    double value;

    if (fl_yaml_float_text(text, node->count, buffer, sizeof(buffer)) < 0) {
        return build_other(builder, node);
    }
    value = PyOS_string_to_double(buffer, NULL, NULL);
    if (value == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return subclassed(builder, node, FL_EXT_YAML_FLOAT,
                      PyFloat_FromDouble(value));
}

static PyObject *
build_scalar(const struct builder *builder, const struct fl_yaml_node *node)
{
    switch (node->tag) {
    case FL_YAML_TAG_STR:
    case FL_YAML_TAG_UNICODE:
        return build_str(builder, node);
    case FL_YAML_TAG_NULL:
        return Py_NewRef(Py_None);
    case FL_YAML_TAG_BOOL:
        return node->unusual ? build_other(builder, node)
                             : build_bool(builder, node);
    case FL_YAML_TAG_INT:
        return node->unusual ? build_other(builder, node)
                             : build_int(builder, node);
    case FL_YAML_TAG_FLOAT:
        return node->unusual ? build_other(builder, node)
                             : build_float(builder, node);
    case FL_YAML_TAG_TIMESTAMP:
    case FL_YAML_TAG_BINARY:
    case FL_YAML_TAG_UNSAFE:
    case FL_YAML_TAG_VAULT:
    case FL_YAML_TAG_VAULT_ENCRYPTED:
        return build_other(builder, node);
    default:
        return refuse(builder, node, "a scalar with a tag of its own");
    }
}

/* ---- collections ------------------------------------------------------- */

/* An empty collection; it is filled when its turn comes. */
static PyObject *
begin_collection(struct builder *builder, const struct fl_yaml_node *node,
                 uint32_t number)
{
    const enum fl_ext_yaml_kind kind = node->kind == FL_YAML_SEQUENCE
                                           ? FL_EXT_YAML_LIST
                                           : FL_EXT_YAML_DICT;
    PyTypeObject *type = builder->marker->profile->types[kind];

    builder->queue[builder->queued++] = number;
    return marked(builder, node, kind,
                  type->tp_new(type, builder->marker->no_arguments, NULL));
}

static bool
has_plain_tag(const struct fl_yaml_node *collection)
{
    if (collection->kind == FL_YAML_SEQUENCE) {
        return collection->tag == FL_YAML_TAG_SEQ;
    }
    return collection->tag == FL_YAML_TAG_MAP
           || collection->tag == FL_YAML_TAG_DICT;
}

static PyObject *
build_new(struct builder *builder, uint32_t number)
{
    const struct fl_yaml_node *node = fl_yaml_document_node(builder->document,
                                                            number);

    if (node->kind == FL_YAML_SCALAR) {
        return build_scalar(builder, node);
    }
    if (!has_plain_tag(node)) {
        return refuse(builder, node, "a collection with a tag of its own");
    }
    return begin_collection(builder, node, number);
}

/* New reference to the object of a node, the same one each time. */
static PyObject *
build(struct builder *builder, uint32_t number)
{
    PyObject **object = &builder->objects[number];

    if (*object == NULL) {
        *object = build_new(builder, number);
    }
    return Py_XNewRef(*object);
}

/* Through a plain list of the right size, so that there is no slack. */
static int
fill_list(struct builder *builder, const struct fl_yaml_node *node,
          PyObject *list)
{
    const uint32_t *items = fl_yaml_document_children(builder->document, node);
    PyObject *plain = PyList_New((Py_ssize_t)node->count);
    int r = plain != NULL ? 0 : -1;

    for (uint32_t i = 0; r == 0 && i < node->count; i++) {
        PyObject *item = build(builder, items[i]);

        if (item == NULL) {
            r = -1;
        }
        else {
            PyList_SET_ITEM(plain, (Py_ssize_t)i, item);
        }
    }
    if (r == 0) {
        r = PyList_SetSlice(list, 0, 0, plain);
    }
    Py_XDECREF(plain);
    return r;
}

static int
note_duplicate(const struct builder *builder, PyObject *key, PyObject *dict)
{
    PyObject *pair = PyTuple_Pack(2, key, dict);
    const int r = pair == NULL ? -1 : PyList_Append(builder->duplicates, pair);

    Py_XDECREF(pair);
    return r;
}

static int
fill_pair(struct builder *builder, const uint32_t *pair, PyObject *dict)
{
    const Py_ssize_t size = PyDict_GET_SIZE(dict);
    PyObject *key = build(builder, pair[0]);
    PyObject *value = key != NULL ? build(builder, pair[1]) : NULL;
    int r = -1;

    if (value != NULL) {
        r = PyDict_SetItem(dict, key, value);
    }
    if (r == 0 && PyDict_GET_SIZE(dict) == size) {
        r = note_duplicate(builder, key, dict);
    }
    Py_XDECREF(key);
    Py_XDECREF(value);
    return r;
}

static int
fill_dict(struct builder *builder, const struct fl_yaml_node *node,
          PyObject *dict)
{
    const uint32_t *pairs = fl_yaml_document_children(builder->document, node);

    for (size_t i = 0; i < node->count; i++) {
        if (fill_pair(builder, pairs + 2 * i, dict) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
fill(struct builder *builder, uint32_t number)
{
    const struct fl_yaml_node *node = fl_yaml_document_node(builder->document,
                                                            number);
    PyObject *object = builder->objects[number];

    return node->kind == FL_YAML_SEQUENCE ? fill_list(builder, node, object)
                                          : fill_dict(builder, node, object);
}

static PyObject *
build_all(struct builder *builder)
{
    PyObject *root = build(builder, 0);

    for (size_t i = 0; root != NULL && i < builder->queued; i++) {
        if (fill(builder, builder->queue[i]) < 0) {
            Py_CLEAR(root);
        }
    }
    return root;
}

PyObject *
fl_ext_yaml_build(const struct fl_yaml_document *document,
                  struct fl_ext_yaml_marker *marker, PyObject *other,
                  PyObject *duplicates, PyObject *yaml_error)
{
    const size_t count = fl_yaml_document_count(document);
    struct builder builder = {
        .document = document,
        .marker = marker,
        .other = other,
        .duplicates = duplicates,
        .yaml_error = yaml_error,
        .objects = PyMem_Calloc(count, sizeof(PyObject *)),
        .queue = PyMem_Calloc(count, sizeof(uint32_t)),
    };
    PyObject *root;

    if (count == 0) {
        root = Py_NewRef(Py_None);
    }
    else if (builder.objects == NULL || builder.queue == NULL) {
        root = PyErr_NoMemory();
    }
    else {
        root = build_all(&builder);
    }
    for (size_t i = 0; builder.objects != NULL && i < count; i++) {
        Py_XDECREF(builder.objects[i]);
    }
    PyMem_Free(builder.objects);
    PyMem_Free(builder.queue);
    return root;
}
