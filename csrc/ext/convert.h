/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Python arguments as the core wants them. "Pinned" things hold references
 * and buffers until they are released, so that the core may use them without
 * the GIL. Everything here wants the GIL.
 */
#ifndef FL_EXT_CONVERT_H
#define FL_EXT_CONVERT_H

#include "ext/state.h"

#include <sys/uio.h>

#include "core/client.h"
#include "core/os.h"

/* Seconds from now, or None for never, as a deadline of the core. 0 or -1. */
int
fl_ext_deadline(PyObject *timeout, uint64_t *ret);

/* A payload: one buffer, or a sequence of them. */
struct fl_ext_payload {
    Py_buffer buffers[FL_CLIENT_IOV_MAX];
    struct iovec iov[FL_CLIENT_IOV_MAX];
    size_t count;
};

int
fl_ext_pin_payload(PyObject *source, struct fl_ext_payload *payload);

void
fl_ext_release_payload(struct fl_ext_payload *payload);

/*
 * A sequence of descriptor numbers. `*ret_fds` is to be freed with
 * PyMem_Free(), also where it is empty. 0 or -1.
 */
int
fl_ext_descriptors(PyObject *source, int **ret_fds, size_t *ret_count);

/* A sequence of text or bytes as a NULL-ended vector of C strings. */
struct fl_ext_strings {
    PyObject *held; /* tuple of bytes */
    const char **vector;
};

int
fl_ext_pin_strings(PyObject *source, struct fl_ext_strings *strings);

/*
 * A copy of our own environment: other threads may change that once the GIL
 * is given up.
 */
int
fl_ext_copy_environment(struct fl_ext_strings *strings);

void
fl_ext_release_strings(struct fl_ext_strings *strings);

#endif
