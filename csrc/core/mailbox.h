/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a client has received and nobody has taken yet: one queue a handle.
 *
 * Bounded memory without blocking (rule 4): a well-behaved peer never runs
 * further ahead than its credit, so a queue that exceeds FL_MAILBOX_MAX is a
 * peer that breaks the rules. Its queue is closed with an IS_DEAD of our own
 * and the rest is dropped. The socket is therefore always read on, and one
 * bad or unread stream can delay no answer to anybody else.
 *
 * Not thread-safe; the client's lock guards it.
 */
#ifndef FL_MAILBOX_H
#define FL_MAILBOX_H

#include <stdint.h>

#include "frame.h"

/*
 * Most that one handle may hold, messages' own overhead included: the 256 KiB
 * of credit of one call, one result of the greatest size, and ample room for
 * what needs no credit.
 */
#define FL_MAILBOX_MAX ((size_t)4 * 1024 * 1024)

struct fl_message {
    struct fl_message *next; /* the mailbox's own */
    struct fl_frame frame;
    uint8_t payload[]; /* frame.length bytes */
};

struct fl_mailboxes;

/* 0 or -ENOMEM. */
int
fl_mailboxes_new(struct fl_mailboxes **ret);

/* Accepts NULL; frees every message still queued. */
void
fl_mailboxes_free(struct fl_mailboxes *boxes);

/*
 * Opens a mailbox on `handle`, or on a free dynamic handle if it is 0. 0,
 * FL_EQUOTA if that handle is open already, or -ENOMEM.
 */
int
fl_mailboxes_open(struct fl_mailboxes *boxes, uint32_t handle,
                  uint32_t *ret_handle);

/* Closes it and drops what it holds. 0 or FL_EHANDLE. */
int
fl_mailboxes_close(struct fl_mailboxes *boxes, uint32_t handle);

/*
 * Copies a message in. 1: delivered, or the queue has just overrun and ends
 * with an IS_DEAD; either way there is something new to take. 0: dropped,
 * nobody listens. -ENOMEM.
 */
int
fl_mailboxes_put(struct fl_mailboxes *boxes, const struct fl_frame *frame,
                 const uint8_t *payload);

/*
 * 1: `*ret` is the oldest message, to be freed with free(). 0: none. Or
 * FL_EHANDLE.
 */
int
fl_mailboxes_take(struct fl_mailboxes *boxes, uint32_t handle,
                  struct fl_message **ret);

#endif
