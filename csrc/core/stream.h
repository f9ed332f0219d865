/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One peer's byte stream on a loop: a read descriptor and a write descriptor
 * (they may be one), a framer for what comes in and a queue for what could not
 * be written yet.
 *
 * Order: bytes leave in the order of the write, queue and refer calls.
 *
 * Back-pressure, all per stream:
 *   reads a wake-up     FL_STREAM_READS, so that one busy peer cannot starve
 *                       the others
 *   high mark           above it, sources that write here are to be paused
 *   low mark            below it again, `drained` is called
 *   cap                 what is written beyond it is refused (FL_EQUOTA): the
 *                       peer does not read its answers and is to be closed
 *
 * Callbacks may do anything but free the stream they are about.
 */
#ifndef FL_STREAM_H
#define FL_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "frame.h"
#include "loop.h"

#define FL_STREAM_READS 4
/* Most descriptors that wait for the message they came with. */
#define FL_STREAM_FDS 16

struct fl_stream;

struct fl_stream_ops {
    /* Bytes have arrived; the owner consumes what it can from the framer. */
    void (*input)(void *owner);
    /*
     * Nothing more will be read: 0 a clean end, FL_ETRUNCATED an end within
     * a frame, or what went wrong. Called once.
     */
    void (*ended)(void *owner, int err);
    /* Writing failed; what is queued is dropped. Called once. */
    void (*broken)(void *owner, int err);
    /* The queue was above the high mark and is now below the low one. */
    void (*drained)(void *owner);
};

struct fl_stream_config {
    int read_fd, write_fd; /* non-blocking */
    bool takes_fds;        /* a UNIX socket whose peer may send descriptors */
    bool sees_hangup;      /* a peer that goes is noticed even when paused */
    size_t high, low, cap;
    const struct fl_stream_ops *ops;
    void *owner;
};

/* 0 or negative. On success the stream owns the descriptors. */
int
fl_stream_new(struct fl_loop *loop, const struct fl_stream_config *config,
              struct fl_stream **ret);

/* Accepts NULL. Closes the descriptors, those not yet taken included. */
void
fl_stream_free(struct fl_stream *stream);

struct fl_framer *
fl_stream_framer(struct fl_stream *stream);

/* The next descriptor received, now the caller's; -1 if there is none. */
int
fl_stream_take_fd(struct fl_stream *stream);

/* Stops or resumes reading. */
void
fl_stream_pause(struct fl_stream *stream, bool paused);

/*
 * Reads once and calls `input` or `ended`. 1: something came; 0: nothing is
 * there now; negative: the stream has ended.
 */
int
fl_stream_pull(struct fl_stream *stream);

/*
 * Writes at once what the kernel takes, if nothing is queued before it, and
 * queues the rest. 0, -ENOMEM or FL_EQUOTA; a broken stream swallows it.
 */
int
fl_stream_write(struct fl_stream *stream, const void *data, size_t size,
                bool secret);

/* The same without trying to write: for answers collected during a turn. */
int
fl_stream_queue(struct fl_stream *stream, const void *data, size_t size,
                bool secret);

/* fl_buf_refer() on the queue. A broken stream releases at once. */
int
fl_stream_refer(struct fl_stream *stream, const void *data, size_t size,
                fl_buf_release_fn release, void *owner);

/* Writes what is queued, as far as the kernel takes it. */
void
fl_stream_flush(struct fl_stream *stream);

/* Gives buffers back if nothing has moved since the last call. */
void
fl_stream_trim(struct fl_stream *stream);

bool
fl_stream_above_high(const struct fl_stream *stream);

/* Bytes that the queue keeps in memory of its own. */
size_t
fl_stream_held(const struct fl_stream *stream);

/* Bytes queued and not written. */
size_t
fl_stream_pending(const struct fl_stream *stream);

/*
 * Counters over the stream's life. A message that was accepted when
 * fl_stream_accepted() stood at N has left in part once fl_stream_written()
 * is greater than N.
 */
uint64_t
fl_stream_accepted(const struct fl_stream *stream);

uint64_t
fl_stream_written(const struct fl_stream *stream);

uint64_t
fl_stream_received(const struct fl_stream *stream);

#endif
