/* SPDX-License-Identifier: BSD-3-Clause */
/* fatline._native.Message: one received frame, read-only. */
#include "ext/state.h"

#include <stddef.h>

#include <structmember.h>

#include "core/mailbox.h"

struct message_object {
    PyObject_HEAD uint32_t src_id;
    uint32_t handle;
    uint32_t reply_to;
    uint32_t stream;
    uint32_t flags;
    PyObject *payload; /* bytes, so there can be no reference cycle */
};

PyObject *
fl_ext_message_new(const struct fl_ext_state *state,
                   const struct fl_message *message)
{
    const struct fl_frame *frame = &message->frame;
    PyTypeObject *type = state->message_type;
    struct message_object *self = (struct message_object *)type->tp_alloc(type,
                                                                          0);

    if (self == NULL) {
        return NULL;
    }
    self->src_id = frame->src_id;
    self->handle = frame->handle;
    self->reply_to = frame->reply_to;
    self->stream = frame->stream;
    self->flags = frame->flags;
    self->payload = PyBytes_FromStringAndSize((const char *)message->payload,
                                              (Py_ssize_t)frame->length);
    if (self->payload == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void
message_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    Py_XDECREF(((struct message_object *)object)->payload);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The payload's size only: it may be secret, and is long. */
static PyObject *
message_repr(PyObject *object)
{
    const struct message_object *self = (const struct message_object *)object;

    return PyUnicode_FromFormat(
        "<Message src_id=%u handle=%u reply_to=%u stream=%u flags=%u, %zd "
        "bytes>",
        self->src_id, self->handle, self->reply_to, self->stream, self->flags,
        PyBytes_GET_SIZE(self->payload));
}

#define FIELD(name, type)                                                     \
    {                                                                         \
#name, type, offsetof(struct message_object, name), READONLY, NULL    \
    }

static PyMemberDef message_members[] = {
    FIELD(src_id, T_UINT), FIELD(handle, T_UINT), FIELD(reply_to, T_UINT),
    FIELD(stream, T_UINT), FIELD(flags, T_UINT),  FIELD(payload, T_OBJECT),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot message_slots[] = {
    {Py_tp_doc, (void *)"One frame as received. Its fields are those of the "
                        "wire protocol."},
    {Py_tp_dealloc, FL_SLOT(message_dealloc)},
    {Py_tp_repr, FL_SLOT(message_repr)},
    {Py_tp_members, message_members},
    {0, NULL},
};

static PyType_Spec message_spec = {
    .name = "fatline._native.Message",
    .basicsize = sizeof(struct message_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = message_slots,
};

int
fl_ext_add_message(PyObject *module)
{
    struct fl_ext_state *state = fl_ext_state_of_module(module);
    PyObject *type = PyType_FromModuleAndSpec(module, &message_spec, NULL);

    state->message_type = (PyTypeObject *)type;
    return type != NULL ? PyModule_AddType(module, state->message_type) : -1;
}
