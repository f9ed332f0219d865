/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fatline._native.YamlLoader: core/yaml_document.h as objects of the types
 * that its maker names.
 */
#include "ext/state.h"

#include <errno.h>

#include "core/yaml_document.h"
#include "ext/yaml_build.h"
#include "ext/yaml_mark.h"
#include "ext/yaml_profile.h"

#define DEFAULT_BYTES ((Py_ssize_t)256 * 1024 * 1024)
#define DEFAULT_NODES ((Py_ssize_t)32 * 1024 * 1024)
#define DEFAULT_DEPTH ((Py_ssize_t)1000)

struct loader_object {
    PyObject_HEAD struct fl_ext_yaml_profile profile;
};

/* What one load works on. */
struct load {
    const char *data;
    Py_ssize_t size;
    PyObject *source;
    PyObject *other;
    unsigned long first_line;
    PyObject *extra_tags;
    struct fl_yaml_limits limits;
};

static struct fl_ext_yaml_profile *
profile_of(PyObject *object)
{
    return &((struct loader_object *)object)->profile;
}

static PyObject *
loader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"types", "attributes", "tags", NULL};
    PyObject *types, *attributes = Py_None, *tags = Py_None, *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$OO:YamlLoader", names,
                                     &PyTuple_Type, &types, &attributes,
                                     &tags))
    {
        return NULL;
    }
    self = type->tp_alloc(type, 0);
    if (self != NULL
        && fl_ext_yaml_profile_init(profile_of(self), types, attributes, tags)
               < 0)
    {
        Py_CLEAR(self);
    }
    return self;
}

static int
loader_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    return fl_ext_yaml_profile_traverse(profile_of(object), visit, arg);
}

static int
loader_clear(PyObject *object)
{
    fl_ext_yaml_profile_done(profile_of(object));
    return 0;
}

static void
loader_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    (void)loader_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static int
parse_arguments(PyObject *args, PyObject *kwargs, struct load *load)
{
    static char *names[] = {"",           "",           "",
                            "first_line", "extra_tags", "max_bytes",
                            "max_nodes",  "max_depth",  NULL};
    Py_ssize_t bytes = DEFAULT_BYTES, nodes = DEFAULT_NODES,
               depth = DEFAULT_DEPTH;

    load->first_line = 1;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "s#OO|$kO!nnn:load", names, &load->data, &load->size,
            &load->source, &load->other, &load->first_line, &PyTuple_Type,
            &load->extra_tags, &bytes, &nodes, &depth))
    {
        return -1;
    }
    load->limits.bytes = bytes > 0 ? (size_t)bytes : 0;
    load->limits.nodes = nodes > 0 ? (size_t)nodes : 0;
    load->limits.depth = depth > 0 ? (size_t)depth : 0;
    return 0;
}

static PyObject *
build(const struct fl_ext_state *state, PyObject *self,
      const struct load *load, const struct fl_yaml_document *document)
{
    struct fl_ext_yaml_marker marker;
    PyObject *duplicates = PyList_New(0), *root = NULL;
    PyObject *no_tags = PyTuple_New(0);
    const int r = fl_ext_yaml_marker_init(
        &marker, profile_of(self), load->source,
        load->extra_tags != NULL ? load->extra_tags : no_tags,
        load->first_line);

    if (r == 0 && duplicates != NULL && no_tags != NULL) {
        root = fl_ext_yaml_build(document, &marker, load->other, duplicates,
                                 state->yaml_error);
    }
    fl_ext_yaml_marker_done(&marker);
    Py_XDECREF(no_tags);
    if (root == NULL) {
        Py_XDECREF(duplicates);
        return NULL;
    }
    return Py_BuildValue("(NN)", root, duplicates);
}

/* Everything is new and stays: the collector would look at it in vain. */
static PyObject *
build_uncollected(const struct fl_ext_state *state, PyObject *self,
                  const struct load *load,
                  const struct fl_yaml_document *document)
{
    const int was_enabled = PyGC_Disable();
    PyObject *result = build(state, self, load, document);

    if (was_enabled) {
        (void)PyGC_Enable();
    }
    return result;
}

PyDoc_STRVAR(
    load_doc,
    "load($self, data, source, other, /, *, first_line=1, extra_tags=(),\n"
    "     max_bytes=268435456, max_nodes=33554432, max_depth=1000)\n--\n\n"
    "Build the one document of `data` (str, or bytes in any encoding that\n"
    "YAML knows). Returns it, and a list of (key, mapping) for keys that a\n"
    "mapping has twice.\n\n"
    "`source` is noted on what is built, and for `tags` the origin whose\n"
    "shared slots are taken over; strings get `extra_tags` as well.\n"
    "`other(tag, text, line, column)` builds the rare scalars. YamlError\n"
    "where the data is not YAML, holds what is not built here, or is beyond\n"
    "a limit.");

static PyObject *
loader_load(PyObject *self, PyObject *args, PyObject *kwargs)
{
    const struct fl_ext_state *state = fl_ext_state_of_type(Py_TYPE(self));
    struct fl_yaml_document *document = NULL;
    struct fl_yaml_error error = {0};
    struct load load = {0};
    PyObject *result;
    int err;

    if (parse_arguments(args, kwargs, &load) < 0) {
        return NULL;
    }
    /* The arguments hold the data, and neither str nor bytes can change. */
    FL_UNLOCKED(err = fl_yaml_document_new((const uint8_t *)load.data,
                                           (size_t)load.size, &load.limits,
                                           &document, &error));
    if (err == -ENOMEM) {
        return PyErr_NoMemory();
    }
    if (err < 0) {
        return fl_ext_yaml_raise(state->yaml_error, error.line, error.column,
                                 error.words);
    }
    result = build_uncollected(state, self, &load, document);
    fl_yaml_document_free(document);
    return result;
}

static PyMethodDef loader_methods[] = {
    {"load", (PyCFunction)(void (*)(void))loader_load,
     METH_VARARGS | METH_KEYWORDS, load_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(
    loader_doc,
    "YamlLoader(types, *, attributes=None, tags=None)\n--\n\n"
    "Loads YAML 1.1 as PyYAML's safe loader does, into `types`: subclasses\n"
    "of str, int, float, list and dict (int and float may be None: plain).\n"
    "The position goes into three attributes (source, line, column), or into\n"
    "tags: (attribute, type of the mapping from type to tag, type of the\n"
    "origin, its shared slots, its line slot, its column slot). TypeError if\n"
    "the types are not as simple as this needs them to be.");

static PyType_Slot loader_slots[] = {
    {Py_tp_doc, (void *)loader_doc},
    {Py_tp_new, FL_SLOT(loader_new)},
    {Py_tp_dealloc, FL_SLOT(loader_dealloc)},
    {Py_tp_traverse, FL_SLOT(loader_traverse)},
    {Py_tp_clear, FL_SLOT(loader_clear)},
    {Py_tp_methods, loader_methods},
    {0, NULL},
};

static PyType_Spec loader_spec = {
    .name = "fatline._native.YamlLoader",
    .basicsize = sizeof(struct loader_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loader_slots,
};

int
fl_ext_add_yaml(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &loader_spec, NULL);
    int r;

    if (type == NULL) {
        return -1;
    }
    r = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return r;
}
