/* SPDX-License-Identifier: BSD-3-Clause */
#include "ext/convert.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* Beyond this a timeout is as good as none, and no sum overflows. */
#define LONGEST_SECONDS 1e12

int
fl_ext_deadline(PyObject *timeout, uint64_t *ret)
{
    double seconds;

    if (timeout == Py_None) {
        *ret = FL_FOREVER;
        return 0;
    }
    seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number");
        return -1;
    }
    if (seconds > LONGEST_SECONDS) {
        *ret = FL_FOREVER;
        return 0;
    }
    *ret = fl_os_now_us() + (seconds > 0 ? (uint64_t)(seconds * 1e6) : 0);
    return 0;
}

static int
pin_buffer(PyObject *source, struct fl_ext_payload *payload)
{
    Py_buffer *buffer = &payload->buffers[payload->count];
    struct iovec *iov = &payload->iov[payload->count];

    if (PyObject_GetBuffer(source, buffer, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    iov->iov_base = buffer->buf;
    iov->iov_len = (size_t)buffer->len;
    payload->count++;
    return 0;
}

/* More pieces than the core gathers are joined first. */
static int
pin_joined(PyObject *pieces, struct fl_ext_payload *payload)
{
    PyObject *empty = PyBytes_FromStringAndSize(NULL, 0), *joined = NULL;
    int r = -1;

    if (empty != NULL) {
        joined = PyObject_CallMethod(empty, "join", "(O)", pieces);
        Py_DECREF(empty);
    }
    if (joined != NULL) {
        r = pin_buffer(joined, payload); /* holds a reference of its own */
        Py_DECREF(joined);
    }
    return r;
}

static int
pin_pieces(PyObject *pieces, struct fl_ext_payload *payload)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(pieces);

    if ((size_t)count > FL_CLIENT_IOV_MAX) {
        return pin_joined(pieces, payload);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (pin_buffer(PyTuple_GET_ITEM(pieces, i), payload) < 0) {
            return -1;
        }
    }
    return 0;
}

int
fl_ext_pin_payload(PyObject *source, struct fl_ext_payload *payload)
{
    PyObject *pieces;
    int r;

    payload->count = 0;
    if (PyObject_CheckBuffer(source)) {
        return pin_buffer(source, payload);
    }
    pieces = PySequence_Tuple(source);
    if (pieces == NULL) {
        return -1;
    }
    r = pin_pieces(pieces, payload);
    Py_DECREF(pieces);
    if (r < 0) {
        fl_ext_release_payload(payload);
    }
    return r;
}

void
fl_ext_release_payload(struct fl_ext_payload *payload)
{
    while (payload->count > 0) {
        PyBuffer_Release(&payload->buffers[--payload->count]);
    }
}

static int
fill_descriptors(PyObject *numbers, int *fds)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(numbers);

    for (Py_ssize_t i = 0; i < count; i++) {
        fds[i] = PyObject_AsFileDescriptor(PyTuple_GET_ITEM(numbers, i));
        if (fds[i] < 0) {
            return -1;
        }
    }
    return 0;
}

int
fl_ext_descriptors(PyObject *source, int **ret_fds, size_t *ret_count)
{
    PyObject *numbers = PySequence_Tuple(source);
    int *fds;

    if (numbers == NULL) {
        return -1;
    }
    fds = PyMem_New(int, (size_t)PyTuple_GET_SIZE(numbers));
    if (fds == NULL) {
        (void)PyErr_NoMemory();
    }
    else if (fill_descriptors(numbers, fds) < 0) {
        PyMem_Free(fds);
        fds = NULL;
    }
    if (fds != NULL) {
        *ret_fds = fds;
        *ret_count = (size_t)PyTuple_GET_SIZE(numbers);
    }
    Py_DECREF(numbers);
    return fds != NULL ? 0 : -1;
}

/* Tuple of the same strings as bytes, in the file system's encoding. */
static PyObject *
encode_all(PyObject *source)
{
    PyObject *items = PySequence_Tuple(source), *encoded;
    Py_ssize_t count;

    if (items == NULL) {
        return NULL;
    }
    count = PyTuple_GET_SIZE(items);
    encoded = PyTuple_New(count);
    for (Py_ssize_t i = 0; encoded != NULL && i < count; i++) {
        PyObject *bytes = NULL;

        if (PyUnicode_FSConverter(PyTuple_GET_ITEM(items, i), &bytes)) {
            PyTuple_SET_ITEM(encoded, i, bytes);
        }
        else {
            Py_CLEAR(encoded);
        }
    }
    Py_DECREF(items);
    return encoded;
}

int
fl_ext_pin_strings(PyObject *source, struct fl_ext_strings *strings)
{
    PyObject *held = encode_all(source);
    const char **vector;
    Py_ssize_t count;

    if (held == NULL) {
        return -1;
    }
    count = PyTuple_GET_SIZE(held);
    vector = PyMem_New(const char *, (size_t)count + 1);
    if (vector == NULL) {
        Py_DECREF(held);
        (void)PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        vector[i] = PyBytes_AS_STRING(PyTuple_GET_ITEM(held, i));
    }
    vector[count] = NULL;
    strings->held = held;
    strings->vector = vector;
    return 0;
}

int
fl_ext_copy_environment(struct fl_ext_strings *strings)
{
    size_t count = 0, size = 0;
    const char **vector;
    char *text;

    for (; environ[count] != NULL; count++) {
        size += strlen(environ[count]) + 1;
    }
    /* One piece of memory: the vector, then the strings. */
    vector = PyMem_Malloc((count + 1) * sizeof(*vector) + size);
    if (vector == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    text = (char *)(vector + count + 1);
    for (size_t i = 0; i < count; i++) {
        const size_t length = strlen(environ[i]) + 1;

        vector[i] = memcpy(text, environ[i], length);
        text += length;
    }
    vector[count] = NULL;
    strings->held = NULL;
    strings->vector = vector;
    return 0;
}

void
fl_ext_release_strings(struct fl_ext_strings *strings)
{
    Py_CLEAR(strings->held);
    PyMem_Free((void *)(uintptr_t)strings->vector);
    strings->vector = NULL;
}
