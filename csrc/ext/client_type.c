/* SPDX-License-Identifier: BSD-3-Clause */
/* fatline._native.Client: core/client.h for Python threads. */
#include "ext/state.h"

#include <errno.h>
#include <stddef.h>

#include <structmember.h>

#include "core/client.h"
#include "core/err.h"
#include "ext/convert.h"

#define HELLO_SECONDS 10.0
#define SEND_SECONDS 30.0

struct client_object {
    PyObject_HEAD struct fl_client *core;
    PyObject *weak_references;
};

static struct fl_client *
core_of(PyObject *object)
{
    return ((struct client_object *)object)->core;
}

/* Raises for `err`, with what the mux said if that explains it. */
static PyObject *
raise_error(PyObject *self, int err, bool sent, const char *operation)
{
    char words[256] = "";

    if (err != -ETIMEDOUT && err != FL_EFORKED) {
        (void)fl_client_last_words(core_of(self), words, sizeof(words));
    }
    return fl_ext_raise(fl_ext_state_of_type(Py_TYPE(self)), err, sent,
                        operation, words);
}

/* Whether a wait that a signal ended is to go on: its handlers have run. */
static bool
go_on_after(int err)
{
    return err == -EINTR && PyErr_CheckSignals() == 0;
}

/* NULL with the right exception after a call that gave `err`. */
static PyObject *
fail(PyObject *self, int err, bool sent, const char *operation)
{
    if (err == -EINTR) {
        return NULL; /* a signal handler has raised */
    }
    return raise_error(self, err, sent, operation);
}

static int
send_interruptibly(struct fl_client *core, const struct fl_outgoing *outgoing,
                   uint64_t deadline, bool *ret_started)
{
    bool started = false;
    int err;

    do {
        if (started) {
            FL_UNLOCKED(err = fl_client_flush(core, deadline));
        }
        else {
            FL_UNLOCKED(
                err = fl_client_send(core, outgoing, deadline, &started));
        }
    } while (go_on_after(err));
    *ret_started = started;
    return err;
}

static int
recv_interruptibly(struct fl_client *core, uint32_t handle, uint64_t deadline,
                   struct fl_message **ret)
{
    int err;

    do {
        FL_UNLOCKED(err = fl_client_recv(core, handle, deadline, ret));
    } while (go_on_after(err));
    return err;
}

static PyObject *
client_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", NULL};
    struct client_object *self;
    int fd, err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:Client", names, &fd)) {
        return NULL;
    }
    self = (struct client_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    err = fl_client_new(fd, &self->core);
    if (err < 0) {
        Py_DECREF(self);
        return fl_ext_raise(fl_ext_state_of_type(type), err, false, "connect",
                            NULL);
    }
    return (PyObject *)self;
}

static void
client_dealloc(PyObject *object)
{
    struct client_object *self = (struct client_object *)object;
    PyTypeObject *type = Py_TYPE(object);

    if (self->weak_references != NULL) {
        PyObject_ClearWeakRefs(object);
    }
    fl_client_free(self->core);
    type->tp_free(object);
    Py_DECREF(type);
}

/* Says HELLO on `handle` and takes over the answer. */
static int
greet(struct fl_client *core, uint32_t handle, uint64_t deadline)
{
    uint8_t hello[FL_CLIENT_HELLO_SIZE];
    const struct iovec iov = {.iov_base = hello, .iov_len = sizeof(hello)};
    const struct fl_outgoing outgoing = {
        .frame = {.handle = FL_H_HELLO, .reply_to = handle},
        .payload = &iov,
        .payload_count = 1,
    };
    struct fl_message *answer = NULL;
    bool started;
    int err;

    fl_client_hello(hello);
    err = send_interruptibly(core, &outgoing, deadline, &started);
    if (err == 0) {
        err = recv_interruptibly(core, handle, deadline, &answer);
    }
    if (err == 0) {
        err = fl_client_welcome(core, answer);
    }
    free(answer);
    return err;
}

PyDoc_STRVAR(hello_doc, "hello($self, /, timeout=10.0)\n--\n\n"
                        "Exchange HELLO with the mux; return the context id.");

static PyObject *
client_hello(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    struct fl_client *core = core_of(self);
    PyObject *timeout = NULL;
    uint64_t deadline = fl_os_now_us() + (uint64_t)(HELLO_SECONDS * 1e6);
    uint32_t handle;
    int err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:hello", names, &timeout)
        || (timeout != NULL && fl_ext_deadline(timeout, &deadline) < 0))
    {
        return NULL;
    }
    err = fl_client_open(core, 0, &handle);
    if (err == 0) {
        err = greet(core, handle, deadline);
        (void)fl_client_release(core, handle); /* fails only if closed */
    }
    return err < 0 ? fail(self, err, true, "HELLO")
                   : PyLong_FromUnsignedLong(fl_client_id(core));
}

PyDoc_STRVAR(handle_doc,
             "handle($self, number=0, /)\n--\n\n"
             "Listen on a handle, a free one unless a number is given, and "
             "return it.\n\n"
             "Frames for handles that nobody listens on are dropped.");

static PyObject *
client_handle(PyObject *self, PyObject *args)
{
    unsigned int number = 0;
    uint32_t handle;
    int err;

    if (!PyArg_ParseTuple(args, "|I:handle", &number)) {
        return NULL;
    }
    err = fl_client_open(core_of(self), number, &handle);
    return err < 0 ? raise_error(self, err, false, "handle")
                   : PyLong_FromUnsignedLong(handle);
}

PyDoc_STRVAR(release_doc, "release($self, handle, /)\n--\n\n"
                          "Listen on the handle no longer; what it holds is "
                          "dropped.");

static PyObject *
client_release(PyObject *self, PyObject *arg)
{
    const unsigned long handle = PyLong_AsUnsignedLong(arg);
    int err;

    if (PyErr_Occurred()) {
        return NULL;
    }
    err = fl_client_release(core_of(self), (uint32_t)handle);
    if (err < 0) {
        return raise_error(self, err, false, "release");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    send_doc,
    "send($self, /, dst_id, handle, payload=b'', *, reply_to=0, stream=0,\n"
    "     flags=0, fds=(), more=False, timeout=30.0)\n--\n\n"
    "Send one frame; its payload is a buffer or a sequence of buffers.\n\n"
    "With more=True it may wait for the next frame, to leave in one write.\n"
    "If an Error says sent=False, no byte of the frame has left and none\n"
    "will. Otherwise the rest of it goes ahead of the next frame.");

struct send_arguments {
    unsigned int dst_id;
    unsigned int handle;
    PyObject *payload;
    unsigned int reply_to;
    unsigned int stream;
    unsigned char flags;
    PyObject *fds;
    int more;
    PyObject *timeout;
};

static int
parse_send(PyObject *args, PyObject *kwargs, struct send_arguments *ret)
{
    static char *names[] = {"dst_id",  "handle", "payload", "reply_to",
                            "stream",  "flags",  "fds",     "more",
                            "timeout", NULL};

    return PyArg_ParseTupleAndKeywords(
        args, kwargs, "II|O$IIbOpO:send", names, &ret->dst_id, &ret->handle,
        &ret->payload, &ret->reply_to, &ret->stream, &ret->flags, &ret->fds,
        &ret->more, &ret->timeout);
}

/* The last steps of send: arguments are pinned. */
static PyObject *
send_pinned(PyObject *self, const struct send_arguments *from,
            const struct fl_ext_payload *payload, const int *fds,
            size_t fd_count, uint64_t deadline)
{
    const struct fl_outgoing outgoing = {
        .frame = {.dst_id = from->dst_id,
                  .handle = from->handle,
                  .reply_to = from->reply_to,
                  .stream = from->stream,
                  .flags = from->flags},
        .payload = payload->iov,
        .payload_count = payload->count,
        .fds = fds,
        .fd_count = fd_count,
        .more = from->more != 0,
    };
    bool started;
    const int err = send_interruptibly(core_of(self), &outgoing, deadline,
                                       &started);

    if (err < 0) {
        return fail(self, err, started, "send");
    }
    Py_RETURN_NONE;
}

static PyObject *
client_send(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct send_arguments from = {0};
    struct fl_ext_payload payload = {.count = 0};
    uint64_t deadline = fl_os_now_us() + (uint64_t)(SEND_SECONDS * 1e6);
    PyObject *result = NULL;
    int *fds = NULL;
    size_t fd_count = 0;

    if (!parse_send(args, kwargs, &from)
        || (from.timeout != NULL
            && fl_ext_deadline(from.timeout, &deadline) < 0)
        || (from.fds != NULL
            && fl_ext_descriptors(from.fds, &fds, &fd_count) < 0))
    {
        return NULL;
    }
    if (from.payload == NULL
        || fl_ext_pin_payload(from.payload, &payload) == 0) {
        result = send_pinned(self, &from, &payload, fds, fd_count, deadline);
        fl_ext_release_payload(&payload);
    }
    PyMem_Free(fds);
    return result;
}

PyDoc_STRVAR(recv_doc, "recv($self, /, handle, timeout)\n--\n\n"
                       "Return the next message for the handle; wait for it "
                       "up to `timeout` seconds\n(None: without end).");

static PyObject *
client_recv(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"handle", "timeout", NULL};
    struct fl_message *message = NULL;
    PyObject *timeout, *result;
    unsigned int handle;
    uint64_t deadline;
    int err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IO:recv", names, &handle,
                                     &timeout)
        || fl_ext_deadline(timeout, &deadline) < 0)
    {
        return NULL;
    }
    err = recv_interruptibly(core_of(self), handle, deadline, &message);
    if (err < 0) {
        return fail(self, err, true, "receive");
    }
    result = fl_ext_message_new(fl_ext_state_of_type(Py_TYPE(self)), message);
    free(message);
    return result;
}

PyDoc_STRVAR(fileno_doc, "fileno($self, /)\n--\n\n"
                         "The socket's descriptor, -1 once closed.");

static PyObject *
client_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(fl_client_fd(core_of(self)));
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the connection; every call under way raises Closed.\n\n"
             "In a forked child it gives back the child's copy and leaves\n"
             "the parent's connection alone.");

static PyObject *
client_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    fl_client_close(core_of(self));
    Py_RETURN_NONE;
}

static PyObject *
get_context_id(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(fl_client_id(core_of(self)));
}

static PyObject *
get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(fl_client_fd(core_of(self)) < 0);
}

static PyObject *
get_broken(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(fl_client_broken(core_of(self)));
}

static PyMethodDef client_methods[] = {
    {"hello", (PyCFunction)(void (*)(void))client_hello,
     METH_VARARGS | METH_KEYWORDS, hello_doc},
    {"handle", client_handle, METH_VARARGS, handle_doc},
    {"release", client_release, METH_O, release_doc},
    {"send", (PyCFunction)(void (*)(void))client_send,
     METH_VARARGS | METH_KEYWORDS, send_doc},
    {"recv", (PyCFunction)(void (*)(void))client_recv,
     METH_VARARGS | METH_KEYWORDS, recv_doc},
    {"fileno", client_fileno, METH_NOARGS, fileno_doc},
    {"close", client_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef client_getset[] = {
    {"context_id", get_context_id, NULL, "The id that HELLO gave, 0 before.",
     NULL},
    {"closed", get_closed, NULL, "Whether the connection has been closed.",
     NULL},
    {"broken", get_broken, NULL,
     "Whether the connection is known to be of no use any more.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef client_members[] = {
    {"__weaklistoffset__", T_PYSSIZET,
     offsetof(struct client_object, weak_references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(client_doc,
             "Client(fd)\n--\n\n"
             "A connection to the mux over a connected UNIX socket, which it "
             "owns from then on.\n\n"
             "For any number of threads; calls wait without the GIL, end at "
             "their deadline and\nlet signal handlers run. A forked child "
             "cannot use its parent's: calls raise Closed.");

static PyType_Slot client_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)client_doc},
    {Py_tp_new, FL_SLOT(client_new)},
    {Py_tp_dealloc, FL_SLOT(client_dealloc)},
    {Py_tp_methods, client_methods},
    {Py_tp_getset, client_getset},
    {Py_tp_members, client_members},
    {0, NULL},
};

static PyType_Spec client_spec = {
    .name = "fatline._native.Client",
    .basicsize = sizeof(struct client_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = client_slots,
};

int
fl_ext_add_client(PyObject *module)
{
    struct fl_ext_state *state = fl_ext_state_of_module(module);
    PyObject *type = PyType_FromModuleAndSpec(module, &client_spec, NULL);

    state->client_type = (PyTypeObject *)type;
    return type != NULL ? PyModule_AddType(module, state->client_type) : -1;
}
