/* SPDX-License-Identifier: BSD-3-Clause */
/* core/protocol.def as dictionaries, for fatline.protocol. */
#include "ext/state.h"

#include "core/frame.h"

struct entry {
    const char *name;
    long number;
};

static const struct entry handles[] = {
#define FL_HANDLE(name, number) {#name, number},
#include "core/protocol.def"
    {NULL, 0},
};

static const struct entry kinds[] = {
#define FL_KIND(name, number) {#name, number},
#include "core/protocol.def"
    {NULL, 0},
};

static const struct entry flags[] = {
#define FL_FLAG(name, bit) {#name, bit},
#include "core/protocol.def"
    {NULL, 0},
};

static const struct entry refusals[] = {
#define FL_REFUSAL(name, number) {#name, number},
#include "core/protocol.def"
    {NULL, 0},
};

static const struct entry deaths[] = {
#define FL_DEATH(name, number) {#name, number},
#include "core/protocol.def"
    {NULL, 0},
};

static const struct entry attach_states[] = {
#define FL_ATTACH(name, number) {#name, number},
#include "core/protocol.def"
    {NULL, 0},
};

static const struct {
    const char *name;
    const struct entry *entries;
} tables[] = {
    {"HANDLES", handles}, {"KINDS", kinds},
    {"FLAGS", flags},     {"REFUSALS", refusals},
    {"DEATHS", deaths},   {"ATTACH_STATES", attach_states},
};

static int
fill(PyObject *dict, const struct entry *entry)
{
    for (; entry->name != NULL; entry++) {
        PyObject *number = PyLong_FromLong(entry->number);

        if (number == NULL
            || PyDict_SetItemString(dict, entry->name, number) < 0) {
            Py_XDECREF(number);
            return -1;
        }
        Py_DECREF(number);
    }
    return 0;
}

static int
add_table(PyObject *module, const char *name, const struct entry *entries)
{
    PyObject *dict = PyDict_New();
    int r = -1;

    if (dict != NULL && fill(dict, entries) == 0) {
        r = PyModule_AddObjectRef(module, name, dict);
    }
    Py_XDECREF(dict);
    return r;
}

int
fl_ext_add_protocol(PyObject *module)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(tables); i++) {
        if (add_table(module, tables[i].name, tables[i].entries) < 0) {
            return -1;
        }
    }
    if (PyModule_AddIntConstant(module, "PAYLOAD_MAX", (long)FL_PAYLOAD_MAX)
            < 0
        || PyModule_AddIntConstant(module, "CHUNK_SIZE", (long)FL_CHUNK_SIZE)
               < 0)
    {
        return -1;
    }
    return PyModule_AddIntConstant(module, "PROTOCOL_VERSION", FL_VERSION);
}
