/* SPDX-License-Identifier: BSD-3-Clause */
/* fatline._native.spawn: core/spawn.h for Python. */
#include "ext/state.h"

#include <errno.h>
#include <unistd.h>

#include "core/spawn.h"
#include "ext/convert.h"

struct arguments {
    PyObject *argv;
    PyObject *env;
    int stdio[3];
    PyObject *pass_fds;
    PyObject *cwd; /* bytes, owned; NULL for ours */
    int new_session;
    Py_ssize_t nofile; /* 0: as when we were imported, -1: what may be */
};

/* PyArg converter: a path, or None for no path. */
static int
optional_path(PyObject *source, void *ret)
{
    if (source == NULL) {
        Py_CLEAR(*(PyObject **)ret);
        return 1;
    }
    return source == Py_None ? 1 : PyUnicode_FSConverter(source, ret);
}

static int
parse_arguments(PyObject *args, PyObject *kwargs, struct arguments *ret)
{
    static char *names[] = {"argv",      "env",      "stdin_fd", "stdout_fd",
                            "stderr_fd", "pass_fds", "cwd",      "new_session",
                            "nofile",    NULL};

    return PyArg_ParseTupleAndKeywords(
        args, kwargs, "O|OiiiOO&p$n:spawn", names, &ret->argv, &ret->env,
        &ret->stdio[0], &ret->stdio[1], &ret->stdio[2], &ret->pass_fds,
        optional_path, &ret->cwd, &ret->new_session, &ret->nofile);
}

/* The last steps: everything is pinned. */
static PyObject *
spawn_pinned(PyObject *module, const struct fl_spawn *spawn)
{
    int err, pidfd = -1;
    pid_t pid = 0;

    (void)module;
    FL_UNLOCKED(err = fl_spawn(spawn, &pid, &pidfd));
    if (err < 0) {
        errno = -err;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, spawn->argv[0]);
    }
    return Py_BuildValue("(ii)", (int)pid, pidfd);
}

/* Pins environment and descriptors, which complete `spawn`. */
static PyObject *
spawn_with(PyObject *module, const struct arguments *from,
           struct fl_spawn *spawn)
{
    struct fl_ext_strings env = {NULL, NULL};
    PyObject *result = NULL;
    int *fds = NULL;

    if ((from->env == NULL || from->env == Py_None
             ? fl_ext_copy_environment(&env)
             : fl_ext_pin_strings(from->env, &env))
        < 0)
    {
        return NULL;
    }
    spawn->envp = env.vector;
    if (from->pass_fds == NULL
        || fl_ext_descriptors(from->pass_fds, &fds, &spawn->pass_count) == 0)
    {
        spawn->pass_fds = fds;
        result = spawn_pinned(module, spawn);
    }
    PyMem_Free(fds);
    fl_ext_release_strings(&env);
    return result;
}

static uint64_t
soft_limit(PyObject *module, Py_ssize_t nofile)
{
    if (nofile == 0) {
        return fl_ext_state_of_module(module)->nofile;
    }
    return nofile < 0 ? UINT64_MAX : (uint64_t)nofile;
}

PyDoc_STRVAR(
    spawn_doc,
    "spawn($module, /, argv, env=None, stdin_fd=-1, stdout_fd=-1,\n"
    "      stderr_fd=-1, pass_fds=(), cwd=None, new_session=False,\n"
    "      *, nofile=0)\n--\n\n"
    "Start a program and return (pid, pidfd).\n\n"
    "`env` is a sequence of NAME=value, None for our own. -1 for a standard\n"
    "descriptor is the null device. Only these and `pass_fds` are open in\n"
    "it, and it starts with default signal handling and the limit of\n"
    "descriptors that this process was started with (`nofile` sets another,\n"
    "-1 the highest there may be). It is the caller's child and to be\n"
    "waited for. pidfd is -1 where the system has none.\n"
    "OSError if it cannot be executed.");

static PyObject *
spawn_function(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct arguments from = {.stdio = {-1, -1, -1}};
    struct fl_spawn spawn = {0};
    struct fl_ext_strings argv = {NULL, NULL};
    PyObject *result = NULL;

    if (!parse_arguments(args, kwargs, &from)) {
        return NULL;
    }
    if (fl_ext_pin_strings(from.argv, &argv) == 0) {
        if (argv.vector[0] == NULL) {
            PyErr_SetString(PyExc_ValueError, "argv is empty");
        }
        else {
            spawn.argv = argv.vector;
            memcpy(spawn.stdio, from.stdio, sizeof(spawn.stdio));
            spawn.cwd = from.cwd != NULL ? PyBytes_AS_STRING(from.cwd) : NULL;
            spawn.new_session = from.new_session != 0;
            spawn.nofile = soft_limit(module, from.nofile);
            result = spawn_with(module, &from, &spawn);
        }
        fl_ext_release_strings(&argv);
    }
    Py_XDECREF(from.cwd);
    return result;
}

static PyMethodDef functions[] = {
    {"spawn", (PyCFunction)(void (*)(void))spawn_function,
     METH_VARARGS | METH_KEYWORDS, spawn_doc},
    {NULL, NULL, 0, NULL},
};

int
fl_ext_add_spawn(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
