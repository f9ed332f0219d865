/* SPDX-License-Identifier: BSD-3-Clause */
/* fatline._native.serve: the whole life of a mux. */
#include "ext/state.h"

#include "core/err.h"
#include "core/mux.h"

/* The whole life in one function, for one window without the GIL. */
static int
serve(const struct fl_mux_config *config)
{
    struct fl_mux *mux = NULL;
    int err = fl_mux_new(config, &mux);

    if (err == 0) {
        err = fl_mux_run(mux);
        fl_mux_free(mux);
    }
    return err;
}

PyDoc_STRVAR(
    serve_doc,
    "serve($module, listen_fd, socket_path, idle_seconds, /)\n--\n\n"
    "Be the mux until it is stopped or idle, without the GIL.\n\n"
    "It owns `listen_fd`, a listening UNIX socket; `socket_path` is where\n"
    "clients find it. For a process of its own: dispositions and limits of\n"
    "the process are changed.");

static PyObject *
serve_function(PyObject *module, PyObject *args)
{
    struct fl_mux_config config = {0};
    PyObject *path = NULL;
    unsigned int idle_seconds;
    int err;

    if (!PyArg_ParseTuple(args, "iO&I:serve", &config.listen_fd,
                          PyUnicode_FSConverter, &path, &idle_seconds))
    {
        return NULL;
    }
    config.socket_path = PyBytes_AS_STRING(path);
    config.idle_seconds = idle_seconds;
    FL_UNLOCKED(err = serve(&config));
    Py_DECREF(path);
    if (err < 0) {
        return fl_ext_raise(fl_ext_state_of_module(module), err, true, "serve",
                            NULL);
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"serve", serve_function, METH_VARARGS, serve_doc},
    {NULL, NULL, 0, NULL},
};

int
fl_ext_add_serve(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
