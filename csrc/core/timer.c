/* SPDX-License-Identifier: BSD-3-Clause */
#include "timer.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define NOT_QUEUED SIZE_MAX

struct fl_timer {
    struct fl_timers *timers;
    fl_timer_fn fn;
    void *data;
    uint64_t due;
    uint64_t order; /* of starting: equal times run first come, first served */
    size_t slot;
};

struct fl_timers {
    struct fl_timer **heap; /* has room for every timer that exists */
    size_t queued, existing, capacity;
    uint64_t next_order;
    uint64_t running_at; /* 0: no run under way */
};

int
fl_timers_new(struct fl_timers **ret)
{
    struct fl_timers *timers = calloc(1, sizeof(*timers));

    if (timers == NULL) {
        return -ENOMEM;
    }
    *ret = timers;
    return 0;
}

void
fl_timers_free(struct fl_timers *timers)
{
    if (timers != NULL) {
        free(timers->heap);
        free(timers);
    }
}

static bool
before(const struct fl_timer *a, const struct fl_timer *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void
place(struct fl_timers *timers, struct fl_timer *timer, size_t slot)
{
    timers->heap[slot] = timer;
    timer->slot = slot;
}

static void
sift_up(struct fl_timers *timers, struct fl_timer *timer, size_t slot)
{
    while (slot > 0 && before(timer, timers->heap[(slot - 1) / 2])) {
        place(timers, timers->heap[(slot - 1) / 2], slot);
        slot = (slot - 1) / 2;
    }
    place(timers, timer, slot);
}

static void
sift_down(struct fl_timers *timers, struct fl_timer *timer, size_t slot)
{
    for (;;) {
        size_t child = 2 * slot + 1;

        if (child + 1 < timers->queued
            && before(timers->heap[child + 1], timers->heap[child]))
        {
            child++;
        }
        if (child >= timers->queued || !before(timers->heap[child], timer)) {
            break;
        }
        place(timers, timers->heap[child], slot);
        slot = child;
    }
    place(timers, timer, slot);
}

uint64_t
fl_timers_due(const struct fl_timers *timers)
{
    return timers->queued > 0 ? timers->heap[0]->due : FL_TIMER_NEVER;
}

void
fl_timers_run(struct fl_timers *timers, uint64_t now_ms)
{
    timers->running_at = now_ms;
    while (timers->queued > 0 && timers->heap[0]->due <= now_ms) {
        struct fl_timer *timer = timers->heap[0];

        fl_timer_stop(timer);
        timer->fn(timer->data);
    }
    timers->running_at = 0;
}

static int
make_room(struct fl_timers *timers)
{
    const size_t capacity = timers->capacity > 0 ? 2 * timers->capacity : 16;
    struct fl_timer **heap;

    if (timers->existing < timers->capacity) {
        return 0;
    }
    heap = realloc(timers->heap, capacity * sizeof(struct fl_timer *));
    if (heap == NULL) {
        return -ENOMEM;
    }
    timers->heap = heap;
    timers->capacity = capacity;
    return 0;
}

int
fl_timer_new(struct fl_timers *timers, fl_timer_fn fn, void *data,
             struct fl_timer **ret)
{
    struct fl_timer *timer;

    if (make_room(timers) < 0) {
        return -ENOMEM;
    }
    timer = calloc(1, sizeof(*timer));
    if (timer == NULL) {
        return -ENOMEM;
    }
    timer->timers = timers;
    timer->fn = fn;
    timer->data = data;
    timer->slot = NOT_QUEUED;
    timers->existing++;
    *ret = timer;
    return 0;
}

void
fl_timer_free(struct fl_timer *timer)
{
    if (timer != NULL) {
        fl_timer_stop(timer);
        timer->timers->existing--;
        free(timer);
    }
}

void
fl_timer_start(struct fl_timer *timer, uint64_t due_ms)
{
    struct fl_timers *timers = timer->timers;

    fl_timer_stop(timer);
    if (timers->running_at != 0 && due_ms <= timers->running_at) {
        due_ms = timers->running_at + 1;
    }
    timer->due = due_ms;
    timer->order = timers->next_order++;
    sift_up(timers, timer, timers->queued++);
}

void
fl_timer_stop(struct fl_timer *timer)
{
    struct fl_timers *timers = timer->timers;
    const size_t slot = timer->slot;
    struct fl_timer *last;

    if (slot == NOT_QUEUED) {
        return;
    }
    timer->slot = NOT_QUEUED;
    last = timers->heap[--timers->queued];
    if (last == timer) {
        return;
    }
    if (slot > 0 && before(last, timers->heap[(slot - 1) / 2])) {
        sift_up(timers, last, slot);
    }
    else {
        sift_down(timers, last, slot);
    }
}

int
fl_timer_started(const struct fl_timer *timer)
{
    return timer->slot != NOT_QUEUED;
}
