/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE /* POLLRDHUP */
#include "loop_backend.h"

#ifdef FL_LOOP_POLL

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "loop.h"

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

struct fl_backend {
    struct pollfd *fds;
    void **keys; /* one for each of fds */
    size_t count, capacity;
    size_t next; /* where the next batch starts, so that none starves */
};

const char fl_backend_name[] = "poll";

int
fl_backend_new(struct fl_backend **ret)
{
    struct fl_backend *backend = calloc(1, sizeof(*backend));

    if (backend == NULL) {
        return -ENOMEM;
    }
    *ret = backend;
    return 0;
}

void
fl_backend_free(struct fl_backend *backend)
{
    if (backend != NULL) {
        free(backend->fds);
        free(backend->keys);
        free(backend);
    }
}

static short
to_poll(unsigned events)
{
    return (short)(((events & FL_LOOP_READ) != 0 ? POLLIN : 0)
                   | ((events & FL_LOOP_WRITE) != 0 ? POLLOUT : 0)
                   | ((events & FL_LOOP_HANGUP) != 0 ? POLLRDHUP : 0));
}

static unsigned
from_poll(short events)
{
    unsigned out = 0;

    if ((events & (POLLIN | POLLHUP | POLLERR | POLLNVAL)) != 0) {
        out |= FL_LOOP_READ;
    }
    if ((events & (POLLOUT | POLLHUP | POLLERR | POLLNVAL)) != 0) {
        out |= FL_LOOP_WRITE;
    }
    if ((events & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0) {
        out |= FL_LOOP_HANGUP;
    }
    return out;
}

static int
grow(struct fl_backend *backend)
{
    const size_t capacity = backend->capacity > 0 ? 2 * backend->capacity
                                                  : FL_BACKEND_BATCH;
    struct pollfd *fds;
    void **keys;

    fds = realloc(backend->fds, capacity * sizeof(*fds));
    if (fds == NULL) {
        return -ENOMEM;
    }
    backend->fds = fds;
    keys = realloc(backend->keys, capacity * sizeof(*keys));
    if (keys == NULL) {
        return -ENOMEM;
    }
    backend->keys = keys;
    backend->capacity = capacity;
    return 0;
}

static int
add(struct fl_backend *backend, int fd, unsigned events, void *key,
    size_t *slot)
{
    if (backend->count == backend->capacity) {
        int err = grow(backend);

        if (err < 0) {
            return err;
        }
    }
    *slot = backend->count++;
    backend->fds[*slot] = (struct pollfd){.fd = fd, .events = to_poll(events)};
    backend->keys[*slot] = key;
    return 0;
}

/* The last entry takes the place of the removed one. */
static void
drop(struct fl_backend *backend, size_t slot)
{
    const size_t last = --backend->count;

    if (slot != last) {
        backend->fds[slot] = backend->fds[last];
        backend->keys[slot] = backend->keys[last];
        *fl_backend_slot(backend->keys[slot]) = slot;
    }
}

int
fl_backend_set(struct fl_backend *backend, int fd, unsigned before,
               unsigned events, void *key, size_t *slot)
{
    if (before == 0) {
        return add(backend, fd, events, key, slot);
    }
    if (events == 0) {
        drop(backend, *slot);
    }
    else {
        backend->fds[*slot].events = to_poll(events);
    }
    return 0;
}

static int
collect(struct fl_backend *backend, struct fl_backend_event *events)
{
    const size_t count = backend->count;
    int found = 0;

    for (size_t i = 0; i < count && found < FL_BACKEND_BATCH; i++) {
        const size_t at = (backend->next + i) % count;

        if (backend->fds[at].revents != 0) {
            events[found].key = backend->keys[at];
            events[found].events = from_poll(backend->fds[at].revents);
            found++;
        }
    }
    backend->next = count > 0 ? (backend->next + 1) % count : 0;
    return found;
}

int
fl_backend_wait(struct fl_backend *backend, int timeout_ms,
                struct fl_backend_event *events)
{
    const int ready = poll(backend->fds, (nfds_t)backend->count, timeout_ms);

    if (ready < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    return ready == 0 ? 0 : collect(backend, events);
}

#else

typedef int fl_loop_poll_is_not_built;

#endif
