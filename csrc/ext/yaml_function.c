/* SPDX-License-Identifier: BSD-3-Clause */
/* fatline._native.parse_yaml_events: core/yaml_events.h for Python. */
#include "ext/state.h"

#include <errno.h>

#include "core/yaml_events.h"

#define DEFAULT_BYTES ((Py_ssize_t)64 * 1024 * 1024)
#define DEFAULT_EVENTS 2000000
#define DEFAULT_DEPTH 500

static const char *const kind_names[] = {
#define KIND_NAME(name, text) text,
    FL_YAML_MAP(KIND_NAME)
#undef KIND_NAME
};

static PyObject *
raise_yaml_error(const struct fl_ext_state *state, int err,
                 const struct fl_yaml_error *error)
{
    PyObject *exception, *line, *column;

    if (err == -ENOMEM) {
        return PyErr_NoMemory();
    }
    exception = PyObject_CallFunction(
        state->yaml_error, "N",
        PyUnicode_FromFormat("line %zu, column %zu: %s", error->line,
                             error->column, error->words));
    line = PyLong_FromSize_t(error->line);
    column = PyLong_FromSize_t(error->column);
    if (exception != NULL && line != NULL && column != NULL
        && PyObject_SetAttrString(exception, "line", line) == 0
        && PyObject_SetAttrString(exception, "column", column) == 0)
    {
        PyErr_SetObject(state->yaml_error, exception);
    }
    Py_XDECREF(exception);
    Py_XDECREF(line);
    Py_XDECREF(column);
    return NULL;
}

/* libyaml checks that its input is UTF-8 and gives out nothing else. */
static PyObject *
event_tuple(const struct fl_yaml_event *event)
{
    return Py_BuildValue("(ss#sssnn)", kind_names[event->kind], event->value,
                         (Py_ssize_t)event->value_size, event->anchor,
                         event->tag, event->style, (Py_ssize_t)event->line,
                         (Py_ssize_t)event->column);
}

static PyObject *
event_list(const struct fl_yaml_events *events)
{
    const size_t count = fl_yaml_events_count(events);
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (size_t i = 0; list != NULL && i < count; i++) {
        struct fl_yaml_event event;
        PyObject *tuple;

        fl_yaml_events_get(events, i, &event);
        tuple = event_tuple(&event);
        if (tuple == NULL) {
            Py_CLEAR(list);
        }
        else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
        }
    }
    return list;
}

PyDoc_STRVAR(
    parse_doc,
    "parse_yaml_events($module, data, /, *, max_bytes=67108864,\n"
    "                  max_events=2000000, max_depth=500)\n--\n\n"
    "Parse YAML into a list of tuples (event, value, anchor, tag, style,\n"
    "line, column), lines and columns from 1. Aliases are not followed.\n"
    "YamlError if it is not YAML, or beyond a limit.");

static PyObject *
parse_function(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "max_bytes", "max_events", "max_depth", NULL};
    Py_ssize_t bytes = DEFAULT_BYTES, count = DEFAULT_EVENTS,
               depth = DEFAULT_DEPTH;
    struct fl_yaml_events *events = NULL;
    struct fl_yaml_error error = {0};
    struct fl_yaml_limits limits;
    PyObject *list = NULL;
    Py_buffer data;
    int err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|$nnn:parse_yaml_events",
                                     names, &data, &bytes, &count, &depth))
    {
        return NULL;
    }
    limits.bytes = bytes > 0 ? (size_t)bytes : 0;
    limits.events = count > 0 ? (size_t)count : 0;
    limits.depth = depth > 0 ? (size_t)depth : 0;
    FL_UNLOCKED(err = fl_yaml_events_new(data.buf, (size_t)data.len, &limits,
                                         &events, &error));
    PyBuffer_Release(&data);
    if (err < 0) {
        return raise_yaml_error(fl_ext_state_of_module(module), err, &error);
    }
    list = event_list(events);
    fl_yaml_events_free(events);
    return list;
}

static PyMethodDef functions[] = {
    {"parse_yaml_events", (PyCFunction)(void (*)(void))parse_function,
     METH_VARARGS | METH_KEYWORDS, parse_doc},
    {NULL, NULL, 0, NULL},
};

int
fl_ext_add_yaml(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
