/* SPDX-License-Identifier: BSD-3-Clause */
/* fatline._native: the module object, its state and its slots. */
#include "ext/state.h"

#include <sys/resource.h>

#include "core/yaml_document.h"

struct fl_ext_state *
fl_ext_state_of_module(PyObject *module)
{
    return PyModule_GetState(module);
}

struct fl_ext_state *
fl_ext_state_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

static int
add_constants(PyObject *module)
{
    if (PyModule_AddStringConstant(module, "VERSION", FL_RELEASE) < 0) {
        return -1;
    }
    if (PyModule_AddStringConstant(module, "LIBYAML", fl_yaml_version()) < 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "BUILD", FL_BUILD);
}

/*
 * A process may raise its soft limit for itself; programs it starts get the
 * limit it began with, as select() in them may not take high numbers.
 */
static int
note_limits(PyObject *module)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        (void)PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    fl_ext_state_of_module(module)->nofile = limit.rlim_cur;
    return 0;
}

static int
module_exec(PyObject *module)
{
    static int (*const steps[])(PyObject *) = {
        add_constants,     note_limits,        fl_ext_add_protocol,
        fl_ext_add_errors, fl_ext_add_message, fl_ext_add_client,
        fl_ext_add_spawn,  fl_ext_add_serve,   fl_ext_add_yaml,
    };

    for (size_t i = 0; i < Py_ARRAY_LENGTH(steps); i++) {
        if (steps[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct fl_ext_state *state = fl_ext_state_of_module(module);

    Py_VISIT(state->error);
    Py_VISIT(state->timeout_error);
    Py_VISIT(state->closed_error);
    Py_VISIT(state->protocol_error);
    Py_VISIT(state->yaml_error);
    Py_VISIT(state->client_type);
    Py_VISIT(state->message_type);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct fl_ext_state *state = fl_ext_state_of_module(module);

    Py_CLEAR(state->error);
    Py_CLEAR(state->timeout_error);
    Py_CLEAR(state->closed_error);
    Py_CLEAR(state->protocol_error);
    Py_CLEAR(state->yaml_error);
    Py_CLEAR(state->client_type);
    Py_CLEAR(state->message_type);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, FL_SLOT(module_exec)},
#if PY_VERSION_HEX >= 0x030c0000
    /* State is a module object's own; a GIL of its own is not tested. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    /* Not tested on the free-threaded build yet, so not claimed. */
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fatline._native",
    .m_doc = "The C core of Fatline: client, mux, spawn and YAML.",
    .m_size = sizeof(struct fl_ext_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__native(void);

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
