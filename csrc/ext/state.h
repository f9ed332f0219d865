/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the extension share: the state of one module object and
 * the one place where the core's error codes become exceptions. Everything
 * here wants the GIL.
 */
#ifndef FL_EXT_STATE_H
#define FL_EXT_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * A window without the GIL. Inside it: one call into the core, on memory this
 * file owns or holds pinned by a Py_buffer.
 */
#define FL_UNLOCKED(expression)                                               \
    do {                                                                      \
        Py_BEGIN_ALLOW_THREADS expression;                                    \
        Py_END_ALLOW_THREADS                                                  \
    } while (0)

/* ISO C has no conversion from a function to `void *`; slots ask for one. */
#define FL_SLOT(function) ((void *)(uintptr_t)(function))

struct fl_ext_state {
    PyObject *error;          /* Error, base of the others */
    PyObject *timeout_error;  /* Timeout, also a TimeoutError */
    PyObject *closed_error;   /* Closed */
    PyObject *protocol_error; /* ProtocolError */
    PyObject *yaml_error;     /* YamlError */
    PyTypeObject *client_type;
    PyTypeObject *message_type;
    uint64_t nofile; /* soft limit of descriptors when we were imported */
};

struct fl_message;

/* State of the module that defined `type`, a heap type of this extension. */
struct fl_ext_state *
fl_ext_state_of_type(PyTypeObject *type);

struct fl_ext_state *
fl_ext_state_of_module(PyObject *module);

/* Adds the types and functions of one file to the module. 0 or -1. */
int
fl_ext_add_errors(PyObject *module);

int
fl_ext_add_protocol(PyObject *module);

int
fl_ext_add_message(PyObject *module);

int
fl_ext_add_client(PyObject *module);

int
fl_ext_add_spawn(PyObject *module);

int
fl_ext_add_serve(PyObject *module);

int
fl_ext_add_yaml(PyObject *module);

/* New Message with a copy of what `message` holds, or NULL. */
PyObject *
fl_ext_message_new(const struct fl_ext_state *state,
                   const struct fl_message *message);

/*
 * Raises the exception for a negative code of the core. `sent` is false if no
 * byte of the caller's frame left the process; `operation` says what was
 * attempted ("send"), `detail` (may be NULL) what else is known. Always
 * returns NULL.
 */
PyObject *
fl_ext_raise(const struct fl_ext_state *state, int err, bool sent,
             const char *operation, const char *detail);

#endif
