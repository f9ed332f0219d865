/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One error space. 0 or more is success, -1 .. -4095 is a negated errno, and
 * what the protocol itself can complain about starts at FL_ERR_BASE. "Not
 * enough bytes yet" is never an error.
 */
#ifndef FL_ERR_H
#define FL_ERR_H

#include <stddef.h>

#define FL_ERR_BASE (-5000)

/* X(name, offset below FL_ERR_BASE, message). Numbers are never reused. */
#define FL_ERR_MAP(X)                                                         \
    X(EMAGIC, 1, "this is not a Fatline frame")                               \
    X(EVERSION, 2, "the frame has an unknown protocol version")               \
    X(EFLAGS, 3, "the frame has unknown flag bits set")                       \
    X(ELENGTH, 4, "the frame is longer than the protocol allows")             \
    X(EMALFORMED, 5, "the payload does not have the layout of its handle")    \
    X(EHANDLE, 6, "nothing listens on this handle")                           \
    X(EHELLO, 7, "the first frame was not HELLO")                             \
    X(ENEGOTIATE, 8, "the two ends share no protocol version")                \
    X(ESOURCE, 9, "the frame's source is not routed through its stream")      \
    X(EAUTHORITY, 10, "the frame claims an authority its source lacks")       \
    X(EUNIDIRECTIONAL, 11, "these two contexts may not exchange frames")      \
    X(EROUTE, 12, "there is no such context")                                 \
    X(EPEERUID, 13, "the peer belongs to another user")                       \
    X(EQUOTA, 14, "a limit of the configuration is reached")                  \
    X(EDESCRIPTORS, 15, "the descriptors sent do not match the message")      \
    X(EKEY, 16, "the key is not leased to this client")                       \
    X(EBLOB, 17, "the pieces of a blob do not fit together")                  \
    X(ETRUNCATED, 18, "the stream ended in the middle of a frame")            \
    X(ECLOSED, 19, "the stream is closed")                                    \
    X(EFORKED, 20, "the connection belongs to the process that forked us")

enum fl_err {
#define FL_ERR_ENUM(name, offset, message) FL_##name = FL_ERR_BASE - (offset),
    FL_ERR_MAP(FL_ERR_ENUM)
#undef FL_ERR_ENUM
};

/* Symbolic name ("FL_EMAGIC", "ECONNRESET"); a constant, "?" if unknown. */
const char *
fl_err_name(int err);

/*
 * Message in words, written into `text` (always terminated, cut if it does
 * not fit). Returns `text`. Safe to call from any thread.
 */
const char *
fl_err_message(int err, char *text, size_t size);

#endif
