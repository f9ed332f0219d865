/* SPDX-License-Identifier: BSD-3-Clause */
#include "ext/state.h"

#include <errno.h>

#include "core/err.h"

#define DOC_ERROR                                                             \
    "Base of what the extension raises about a connection to the mux.\n\n"    \
    "`code` is the core's own negative number; `sent` is False only if it\n"  \
    "is certain that no byte of the frame left this process."
#define DOC_TIMEOUT "The deadline passed."
#define DOC_CLOSED "The connection is closed, here or by the mux."
#define DOC_PROTOCOL "The other end broke the rules of the wire protocol."
#define DOC_YAML                                                              \
    "The document cannot be parsed; `line` and `column` (from 1) say where."

static PyObject *
add_exception(PyObject *module, const char *name, const char *doc,
              PyObject *bases, PyObject *members)
{
    PyObject *type = PyErr_NewExceptionWithDoc(name, doc, bases, members);

    if (type == NULL) {
        return NULL;
    }
    if (PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_DECREF(type);
        return NULL;
    }
    return type;
}

static int
add_timeout(PyObject *module, struct fl_ext_state *state)
{
    PyObject *bases = PyTuple_Pack(2, state->error, PyExc_TimeoutError);

    if (bases == NULL) {
        return -1;
    }
    state->timeout_error = add_exception(module, "fatline._native.Timeout",
                                         DOC_TIMEOUT, bases, NULL);
    Py_DECREF(bases);
    return state->timeout_error != NULL ? 0 : -1;
}

int
fl_ext_add_errors(PyObject *module)
{
    struct fl_ext_state *state = fl_ext_state_of_module(module);
    PyObject *members = Py_BuildValue("{s:i,s:O}", "code", 0, "sent", Py_True);

    if (members == NULL) {
        return -1;
    }
    state->error = add_exception(module, "fatline._native.Error", DOC_ERROR,
                                 NULL, members);
    Py_DECREF(members);
    if (state->error == NULL || add_timeout(module, state) < 0) {
        return -1;
    }
    state->closed_error = add_exception(module, "fatline._native.Closed",
                                        DOC_CLOSED, state->error, NULL);
    state->protocol_error = add_exception(module,
                                          "fatline._native.ProtocolError",
                                          DOC_PROTOCOL, state->error, NULL);
    state->yaml_error = add_exception(module, "fatline._native.YamlError",
                                      DOC_YAML, PyExc_ValueError, NULL);
    if (state->closed_error == NULL || state->protocol_error == NULL
        || state->yaml_error == NULL)
    {
        return -1;
    }
    return 0;
}

/* Borrowed reference to the exception class for a code of the core. */
static PyObject *
class_of(const struct fl_ext_state *state, int err)
{
    switch (err) {
    case -ETIMEDOUT:
        return state->timeout_error;
    case FL_ECLOSED:
    case FL_EFORKED:
    case -EPIPE:
    case -ECONNRESET:
    case -EBADF:
        return state->closed_error;
    default:
        return err < FL_ERR_BASE ? state->protocol_error : state->error;
    }
}

/* New exception object with its `code` and `sent` filled in, or NULL. */
static PyObject *
new_exception(PyObject *class, int err, bool sent, PyObject *words)
{
    PyObject *exception = PyObject_CallOneArg(class, words);
    PyObject *code = PyLong_FromLong(err);

    if (exception == NULL || code == NULL
        || PyObject_SetAttrString(exception, "code", code) < 0
        || PyObject_SetAttrString(exception, "sent", sent ? Py_True : Py_False)
               < 0)
    {
        Py_CLEAR(exception);
    }
    Py_XDECREF(code);
    return exception;
}

PyObject *
fl_ext_raise(const struct fl_ext_state *state, int err, bool sent,
             const char *operation, const char *detail)
{
    char message[128];
    const bool more = detail != NULL && *detail != '\0';
    PyObject *class = class_of(state, err), *words, *exception = NULL;

    if (err == -ENOMEM) {
        return PyErr_NoMemory();
    }
    words = PyUnicode_FromFormat("%s: %s%s%s", operation,
                                 fl_err_message(err, message, sizeof(message)),
                                 more ? ": " : "", more ? detail : "");
    if (words != NULL) {
        exception = new_exception(class, err, sent, words);
        Py_DECREF(words);
    }
    if (exception != NULL) {
        PyErr_SetObject(class, exception);
        Py_DECREF(exception);
    }
    return NULL;
}
