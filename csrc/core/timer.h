/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Timers on the monotonic clock, in a heap. A callback may start, stop or
 * free any timer, its own included. Not thread-safe.
 */
#ifndef FL_TIMER_H
#define FL_TIMER_H

#include <stdint.h>

struct fl_timers;
struct fl_timer;

typedef void (*fl_timer_fn)(void *data);

#define FL_TIMER_NEVER UINT64_MAX

/* 0 or -ENOMEM. */
int
fl_timers_new(struct fl_timers **ret);

/* Accepts NULL. Every timer must have been freed. */
void
fl_timers_free(struct fl_timers *timers);

/* When the next timer is due (milliseconds), or FL_TIMER_NEVER. */
uint64_t
fl_timers_due(const struct fl_timers *timers);

/*
 * Calls what is due at `now_ms`, earliest first. A timer started meanwhile
 * waits for the next call, however early it is due.
 */
void
fl_timers_run(struct fl_timers *timers, uint64_t now_ms);

/* A stopped timer. 0 or -ENOMEM; starting it never fails. */
int
fl_timer_new(struct fl_timers *timers, fl_timer_fn fn, void *data,
             struct fl_timer **ret);

/* Accepts NULL; stops it. */
void
fl_timer_free(struct fl_timer *timer);

/* Runs once at `due_ms`; a timer already started moves. */
void
fl_timer_start(struct fl_timer *timer, uint64_t due_ms);

/* Harmless if it is not started. */
void
fl_timer_stop(struct fl_timer *timer);

/* 1 if started and not yet run. */
int
fl_timer_started(const struct fl_timer *timer);

#endif
