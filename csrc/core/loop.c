/* SPDX-License-Identifier: BSD-3-Clause */
#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

#include "list.h"
#include "loop_backend.h"
#include "os.h"

struct fl_watch {
    struct fl_loop *loop;
    int fd;
    unsigned events;
    fl_watch_fn fn; /* NULL: removed, to be freed after the batch */
    void *data;
    size_t slot;
    struct fl_list dead;
};

struct fl_loop {
    struct fl_backend *backend;
    struct fl_timers *timers;
    struct fl_list dead;
    bool dispatching;
};

int
fl_loop_new(struct fl_loop **ret)
{
    struct fl_loop *loop = calloc(1, sizeof(*loop));
    int err;

    if (loop == NULL) {
        return -ENOMEM;
    }
    fl_list_init(&loop->dead);
    err = fl_backend_new(&loop->backend);
    if (err == 0) {
        err = fl_timers_new(&loop->timers);
    }
    if (err < 0) {
        fl_loop_free(loop);
        return err;
    }
    *ret = loop;
    return 0;
}

void
fl_loop_free(struct fl_loop *loop)
{
    if (loop != NULL) {
        fl_timers_free(loop->timers);
        fl_backend_free(loop->backend);
        free(loop);
    }
}

struct fl_timers *
fl_loop_timers(struct fl_loop *loop)
{
    return loop->timers;
}

const char *
fl_loop_backend(void)
{
    return fl_backend_name;
}

/* The shorter of what the caller allows and what the timers do. */
static int
wait_time(const struct fl_loop *loop, int timeout_ms)
{
    const uint64_t due = fl_timers_due(loop->timers);
    uint64_t now, left;

    if (due == FL_TIMER_NEVER || timeout_ms == 0) {
        return timeout_ms;
    }
    now = fl_os_now_ms();
    left = due > now ? due - now : 0;
    if (timeout_ms >= 0 && left > (uint64_t)timeout_ms) {
        return timeout_ms;
    }
    return left > INT_MAX ? INT_MAX : (int)left;
}

static void
free_dead(struct fl_loop *loop)
{
    FL_LIST_EACH (node, after, &loop->dead) {
        fl_list_remove(node);
        free(FL_LIST_ENTRY(node, struct fl_watch, dead));
    }
}

static void
dispatch(struct fl_loop *loop, const struct fl_backend_event *events,
         int count)
{
    loop->dispatching = true;
    for (int i = 0; i < count; i++) {
        struct fl_watch *watch = events[i].key;
        /* An earlier callback may have removed or narrowed this watch. */
        const unsigned wanted = events[i].events & watch->events;

        if (watch->fn != NULL && wanted != 0) {
            watch->fn(watch->data, wanted);
        }
    }
    loop->dispatching = false;
    free_dead(loop);
}

int
fl_loop_turn(struct fl_loop *loop, int timeout_ms)
{
    struct fl_backend_event events[FL_BACKEND_BATCH];
    const int count = fl_backend_wait(loop->backend,
                                      wait_time(loop, timeout_ms), events);

    if (count < 0) {
        return count;
    }
    dispatch(loop, events, count);
    if (fl_timers_due(loop->timers) != FL_TIMER_NEVER) {
        fl_timers_run(loop->timers, fl_os_now_ms());
    }
    return count;
}

size_t *
fl_backend_slot(void *key)
{
    return &((struct fl_watch *)key)->slot;
}

int
fl_watch_new(struct fl_loop *loop, int fd, unsigned events, fl_watch_fn fn,
             void *data, struct fl_watch **ret)
{
    struct fl_watch *watch = calloc(1, sizeof(*watch));
    int err;

    if (watch == NULL) {
        return -ENOMEM;
    }
    watch->loop = loop;
    watch->fd = fd;
    watch->fn = fn;
    watch->data = data;
    fl_list_init(&watch->dead);
    err = fl_watch_set(watch, events);
    if (err < 0) {
        free(watch);
        return err;
    }
    *ret = watch;
    return 0;
}

int
fl_watch_set(struct fl_watch *watch, unsigned events)
{
    int err;

    if (events == watch->events) {
        return 0;
    }
    err = fl_backend_set(watch->loop->backend, watch->fd, watch->events,
                         events, watch, &watch->slot);
    if (err < 0) {
        return err;
    }
    watch->events = events;
    return 0;
}

void
fl_watch_free(struct fl_watch *watch)
{
    if (watch == NULL) {
        return;
    }
    /* Taking an interest back cannot fail while the descriptor is open. */
    (void)fl_watch_set(watch, 0);
    watch->fn = NULL;
    if (watch->loop->dispatching) {
        fl_list_append(&watch->loop->dead, &watch->dead);
    }
    else {
        free(watch);
    }
}
