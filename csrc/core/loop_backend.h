/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What loop.c needs from the operating system; loop_epoll.c and loop_poll.c
 * each provide it, and one of them is compiled in.
 */
#ifndef FL_LOOP_BACKEND_H
#define FL_LOOP_BACKEND_H

#include <stddef.h>

#if !defined(__linux__) && !defined(FL_LOOP_POLL)
#define FL_LOOP_POLL
#endif

struct fl_backend;

/* Most events taken in one turn; the rest come in the next. */
#define FL_BACKEND_BATCH 64

struct fl_backend_event {
    void *key;
    unsigned events;
};

extern const char fl_backend_name[];

int
fl_backend_new(struct fl_backend **ret);

void
fl_backend_free(struct fl_backend *backend);

/*
 * Changes the interest in `fd` from `before` to `events`; 0 means none.
 * `key` comes back with its events and is the same in each call for one
 * interest. `*slot` is the back end's own note, kept by the caller.
 */
int
fl_backend_set(struct fl_backend *backend, int fd, unsigned before,
               unsigned events, void *key, size_t *slot);

/*
 * Fills up to FL_BACKEND_BATCH events. Returns the count or negative; EINTR
 * counts as none.
 */
int
fl_backend_wait(struct fl_backend *backend, int timeout_ms,
                struct fl_backend_event *events);

/* Provided by loop.c: where the note of `key` is kept, for one that moves. */
size_t *
fl_backend_slot(void *key);

#endif
