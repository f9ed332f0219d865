/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE /* POLLRDHUP */
#include "loop_backend.h"

#ifndef FL_LOOP_POLL

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "loop.h"
#include "os.h"

/* So many times in a row alone with something to read: it streams. */
#define STREAK 8
/* Waits in which others had events and it had none, until it no longer does.
 */
#define MISSES 8

/*
 * A descriptor in an epoll set makes every write of its peer dearer by a call
 * into the set, whether or not anybody sleeps there: a seventh of the time of
 * a peer that writes 64-byte frames. poll(2) costs the peer nothing while we
 * are awake. So the one descriptor that streams is taken out of the set and
 * polled beside it.
 */
struct fl_backend {
    int epoll_fd;
    void *streaming; /* its key, NULL: none */
    unsigned misses; /* of the streaming one */
    void *last;      /* the key that was alone, `streak` times in a row */
    unsigned streak;
};

/* The note that is kept of each key: its descriptor and its interest. */
#define NOTE(fd, events) ((size_t)(unsigned)(fd) << 3 | (events))
#define NOTE_FD(note) ((int)((note) >> 3))
#define NOTE_EVENTS(note) ((unsigned)((note)&7u))

const char fl_backend_name[] = "epoll";

int
fl_backend_new(struct fl_backend **ret)
{
    struct fl_backend *backend = calloc(1, sizeof(*backend));

    if (backend == NULL) {
        return -ENOMEM;
    }
    backend->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (backend->epoll_fd < 0) {
        const int err = -errno;

        free(backend);
        return err;
    }
    *ret = backend;
    return 0;
}

void
fl_backend_free(struct fl_backend *backend)
{
    if (backend != NULL) {
        fl_os_close(backend->epoll_fd);
        free(backend);
    }
}

static uint32_t
to_epoll(unsigned events)
{
    return ((events & FL_LOOP_READ) != 0 ? (uint32_t)EPOLLIN : 0)
           | ((events & FL_LOOP_WRITE) != 0 ? (uint32_t)EPOLLOUT : 0)
           | ((events & FL_LOOP_HANGUP) != 0 ? (uint32_t)EPOLLRDHUP : 0);
}

static unsigned
from_epoll(uint32_t events)
{
    unsigned out = 0;

    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        out |= FL_LOOP_READ;
    }
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
        out |= FL_LOOP_WRITE;
    }
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
        out |= FL_LOOP_HANGUP;
    }
    return out;
}

static int
control(struct fl_backend *backend, int op, size_t note, void *key)
{
    struct epoll_event event = {.events = to_epoll(NOTE_EVENTS(note))};

    event.data.ptr = key;
    return epoll_ctl(backend->epoll_fd, op, NOTE_FD(note), &event) < 0 ? -errno
                                                                       : 0;
}

static void
forget(struct fl_backend *backend)
{
    backend->streaming = backend->last = NULL;
    backend->streak = backend->misses = 0;
}

int
fl_backend_set(struct fl_backend *backend, int fd, unsigned before,
               unsigned events, void *key, size_t *slot)
{
    const size_t note = NOTE(fd, events);
    int op = EPOLL_CTL_MOD, err = 0;

    if (events == 0) {
        op = EPOLL_CTL_DEL;
    }
    else if (before == 0) {
        op = EPOLL_CTL_ADD;
    }
    if (key != backend->streaming) {
        err = control(backend, op, note, key);
    }
    if (events == 0 && (key == backend->streaming || key == backend->last)) {
        forget(backend);
    }
    if (err == 0) {
        *slot = note;
    }
    return err;
}

static int
wait_set(struct fl_backend *backend, int timeout_ms,
         struct fl_backend_event *events, int room)
{
    struct epoll_event found[FL_BACKEND_BATCH];
    const int count = epoll_wait(backend->epoll_fd, found, room, timeout_ms);

    if (count < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    for (int i = 0; i < count; i++) {
        events[i].key = found[i].data.ptr;
        events[i].events = from_epoll(found[i].events);
    }
    return count;
}

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLERR == POLLERR
                   && EPOLLHUP == POLLHUP && EPOLLRDHUP == POLLRDHUP,
               "poll(2) and epoll name events alike");

/* Polls the streaming descriptor and, as one more, the set. */
static int
wait_beside(struct fl_backend *backend, int timeout_ms,
            struct fl_backend_event *events)
{
    const size_t note = *fl_backend_slot(backend->streaming);
    struct pollfd fds[2] = {
        {.fd = NOTE_FD(note), .events = (short)to_epoll(NOTE_EVENTS(note))},
        {.fd = backend->epoll_fd, .events = POLLIN},
    };
    const int ready = poll(fds, 2, timeout_ms);
    int count = 0, others = 0;

    if (ready < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    if (fds[0].revents != 0) {
        events[count].key = backend->streaming;
        events[count].events = from_epoll((uint32_t)fds[0].revents);
        count++;
        backend->misses = 0;
    }
    else if (ready > 0) {
        backend->misses++;
    }
    if (fds[1].revents != 0) {
        others = wait_set(backend, 0, events + count,
                          FL_BACKEND_BATCH - count);
    }
    return others < 0 ? others : count + others;
}

/* Back into the set; if the kernel has no memory for that, next time. */
static void
end_streaming(struct fl_backend *backend)
{
    void *key = backend->streaming;

    if (control(backend, EPOLL_CTL_ADD, *fl_backend_slot(key), key) == 0) {
        forget(backend);
    }
}

/* Counts how often in a row the one that had an event alone is the same. */
static void
note_alone(struct fl_backend *backend, const struct fl_backend_event *event)
{
    if (event->key != backend->last) {
        backend->last = event->key;
        backend->streak = 0;
    }
    if (event->events == FL_LOOP_READ && ++backend->streak >= STREAK
        && control(backend, EPOLL_CTL_DEL, *fl_backend_slot(event->key),
                   event->key)
               == 0)
    {
        backend->streaming = event->key;
        backend->misses = 0;
    }
}

int
fl_backend_wait(struct fl_backend *backend, int timeout_ms,
                struct fl_backend_event *events)
{
    int count;

    if (backend->streaming != NULL) {
        count = wait_beside(backend, timeout_ms, events);
        if (backend->misses >= MISSES) {
            end_streaming(backend);
        }
        return count;
    }
    count = wait_set(backend, timeout_ms, events, FL_BACKEND_BATCH);
    if (count == 1) {
        note_alone(backend, &events[0]);
    }
    else if (count > 1) {
        forget(backend);
    }
    return count;
}

#else

typedef int fl_loop_epoll_is_not_built;

#endif
