/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Output queue of a stream: chunks of bytes copied in, and references to
 * memory that somebody else keeps (blobs), written out with scatter/gather.
 * Nothing is ever moved. Bytes appended as secret are wiped when they are
 * consumed or the queue is freed. Not thread-safe.
 *
 * Only copied bytes count as held: a referenced blob exists once for every
 * queue it is in, and the blob store bounds it.
 */
#ifndef FL_BUF_H
#define FL_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct fl_buf;

/* Called once when a referenced range has been consumed or dropped. */
typedef void (*fl_buf_release_fn)(void *owner);

/* 0 or -ENOMEM. `cap` is the most bytes it holds. The caller frees it. */
int
fl_buf_new(size_t cap, struct fl_buf **ret);

/* Accepts NULL; releases what is referenced, wipes what is secret. */
void
fl_buf_free(struct fl_buf *buf);

/*
 * Space for `size` bytes in one piece, to be filled before the next call on
 * the queue and then committed. 0, -ENOMEM, or FL_EQUOTA at the cap.
 */
int
fl_buf_reserve(struct fl_buf *buf, size_t size, uint8_t **ret_data);

/* Appends the first `size` bytes of the space last reserved. */
void
fl_buf_commit(struct fl_buf *buf, size_t size, bool secret);

/*
 * Appends a copy. 0, FL_EQUOTA (nothing was appended) or -ENOMEM (part of it
 * may have been: the stream it belongs to is beyond repair).
 */
int
fl_buf_append(struct fl_buf *buf, const void *data, size_t size, bool secret);

/*
 * Appends `size` bytes at `data` without copying; they must stay until
 * `release(owner)`. 0 or -ENOMEM (nothing is appended or released then).
 */
int
fl_buf_refer(struct fl_buf *buf, const void *data, size_t size,
             fl_buf_release_fn release, void *owner);

/* Fills up to `count` ranges with the first bytes queued; returns how many. */
size_t
fl_buf_peek(const struct fl_buf *buf, struct iovec *iov, size_t count);

/* Drops `size` bytes (no more than are queued) from the front. */
void
fl_buf_consume(struct fl_buf *buf, size_t size);

/* Gives back memory kept for the next bulk. For queues gone quiet. */
void
fl_buf_trim(struct fl_buf *buf);

/* Bytes queued, references included. */
size_t
fl_buf_size(const struct fl_buf *buf);

/* Bytes copied and not yet consumed: what the cap and the marks are about. */
size_t
fl_buf_held(const struct fl_buf *buf);

#endif
