/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Event loop: watches on descriptors, and timers. One thread owns a loop and
 * all in it.
 *
 * Nothing dies inside its own dispatch: a callback may free any watch, its
 * own included. It is unhooked at once, events already fetched for it are
 * dropped, and its memory goes after the batch.
 */
#ifndef FL_LOOP_H
#define FL_LOOP_H

#include "timer.h"

enum {
    FL_LOOP_READ = 1,
    FL_LOOP_WRITE = 2,
    /* The peer is gone, seen without reading; for streams being paused. */
    FL_LOOP_HANGUP = 4,
};

struct fl_loop;
struct fl_watch;

/* `events` is what happened; errors show as READ and WRITE, as asked for. */
typedef void (*fl_watch_fn)(void *data, unsigned events);

/* 0 or negative. */
int
fl_loop_new(struct fl_loop **ret);

/* Accepts NULL. Every watch and timer must have been freed. */
void
fl_loop_free(struct fl_loop *loop);

struct fl_timers *
fl_loop_timers(struct fl_loop *loop);

/*
 * Waits for events, until a timer is due or `timeout_ms` (-1: for ever)
 * passed, and calls the callbacks. Returns how many descriptors had events,
 * or negative.
 */
int
fl_loop_turn(struct fl_loop *loop, int timeout_ms);

/* "epoll" or "poll". */
const char *
fl_loop_backend(void);

/*
 * Watches `fd`, which stays the caller's and must stay open longer than the
 * watch. No events: none until fl_watch_set().
 */
int
fl_watch_new(struct fl_loop *loop, int fd, unsigned events, fl_watch_fn fn,
             void *data, struct fl_watch **ret);

/*
 * Changes what is waited for. With 0 the descriptor is left alone entirely:
 * a peer that hangs up does not wake the loop. 0 or negative.
 */
int
fl_watch_set(struct fl_watch *watch, unsigned events);

/* Accepts NULL. */
void
fl_watch_free(struct fl_watch *watch);

#endif
