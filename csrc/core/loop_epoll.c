/* SPDX-License-Identifier: BSD-3-Clause */
#include "loop_backend.h"

#ifndef FL_LOOP_POLL

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "loop.h"
#include "os.h"

struct fl_backend {
    int epoll_fd;
};

const char fl_backend_name[] = "epoll";

int
fl_backend_new(struct fl_backend **ret)
{
    struct fl_backend *backend = malloc(sizeof(*backend));

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

int
fl_backend_set(struct fl_backend *backend, int fd, unsigned before,
               unsigned events, void *key, size_t *slot)
{
    struct epoll_event event = {.events = to_epoll(events)};
    int op = EPOLL_CTL_MOD;

    (void)slot; /* the kernel keeps the place */
    event.data.ptr = key;
    if (events == 0) {
        op = EPOLL_CTL_DEL;
    }
    else if (before == 0) {
        op = EPOLL_CTL_ADD;
    }
    return epoll_ctl(backend->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

int
fl_backend_wait(struct fl_backend *backend, int timeout_ms,
                struct fl_backend_event *events)
{
    struct epoll_event found[FL_BACKEND_BATCH];
    const int count = epoll_wait(backend->epoll_fd, found, FL_BACKEND_BATCH,
                                 timeout_ms);

    if (count < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    for (int i = 0; i < count; i++) {
        events[i].key = found[i].data.ptr;
        events[i].events = from_epoll(found[i].events);
    }
    return count;
}

#else

typedef int fl_loop_epoll_is_not_built;

#endif
