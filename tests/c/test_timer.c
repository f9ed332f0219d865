/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "runner.h"
#include "support.h"
#include "timer.h"

struct note {
    struct fl_timers *timers;
    struct fl_timer *timer, *other;
    int *order;
    int number, ran, again;
};

static void
on_due(void *data)
{
    struct note *note = data;

    note->ran = ++*note->order;
    if (note->again > 0) {
        note->again--;
        fl_timer_start(note->timer, 1);
    }
    if (note->other != NULL) {
        fl_timer_free(note->other);
        note->other = NULL;
    }
}

TEST(due_timers_run_earliest_first_and_equals_in_order)
{
    static const uint64_t due[] = {50, 10, 30, 10, 999};
    struct fl_timers *timers;
    struct note notes[5];
    int order = 0;

    CHECK_INT(fl_timers_new(&timers), 0);
    CHECK(fl_timers_due(timers) == FL_TIMER_NEVER);
    for (int i = 0; i < 5; i++) {
        notes[i] = (struct note){.order = &order};
        CHECK_INT(fl_timer_new(timers, on_due, &notes[i], &notes[i].timer), 0);
        fl_timer_start(notes[i].timer, due[i]);
    }
    CHECK_INT(fl_timers_due(timers), 10);
    fl_timers_run(timers, 9);
    CHECK_INT(order, 0);
    fl_timers_run(timers, 100);
    CHECK_INT(notes[1].ran, 1);
    CHECK_INT(notes[3].ran, 2);
    CHECK_INT(notes[2].ran, 3);
    CHECK_INT(notes[0].ran, 4);
    CHECK_INT(notes[4].ran, 0);
    CHECK_INT(fl_timer_started(notes[4].timer), 1);
    CHECK_INT(fl_timer_started(notes[0].timer), 0);
    for (int i = 0; i < 5; i++) {
        fl_timer_free(notes[i].timer);
    }
    fl_timers_free(timers);
}

/* Otherwise a timer that is always late would hold up the loop for ever. */
TEST(a_timer_started_by_its_callback_waits_for_the_next_run)
{
    struct fl_timers *timers;
    struct note note = {.again = 3};
    int order = 0;

    note.order = &order;
    CHECK_INT(fl_timers_new(&timers), 0);
    CHECK_INT(fl_timer_new(timers, on_due, &note, &note.timer), 0);
    fl_timer_start(note.timer, 1);
    fl_timers_run(timers, 1000);
    CHECK_INT(order, 1);
    fl_timers_run(timers, 1001);
    CHECK_INT(order, 2);
    fl_timer_free(note.timer);
    fl_timers_free(timers);
}

TEST(a_callback_may_free_another_due_timer)
{
    struct fl_timers *timers;
    struct note first = {0}, second = {0};
    int order = 0;

    first.order = second.order = &order;
    CHECK_INT(fl_timers_new(&timers), 0);
    CHECK_INT(fl_timer_new(timers, on_due, &first, &first.timer), 0);
    CHECK_INT(fl_timer_new(timers, on_due, &second, &first.other), 0);
    fl_timer_start(first.timer, 1);
    fl_timer_start(first.other, 2);
    fl_timers_run(timers, 5);
    CHECK_INT(order, 1);
    CHECK_INT(second.ran, 0);
    fl_timer_free(first.timer);
    fl_timers_free(timers);
}

TEST(random_starts_and_stops_keep_the_heap_in_order)
{
    enum { TIMERS = 200 };
    struct fl_timers *timers;
    struct note notes[TIMERS];
    uint64_t due[TIMERS] = {0};
    struct random random = {11};
    int order = 0;

    CHECK_INT(fl_timers_new(&timers), 0);
    for (int i = 0; i < TIMERS; i++) {
        notes[i] = (struct note){.order = &order};
        CHECK_INT(fl_timer_new(timers, on_due, &notes[i], &notes[i].timer), 0);
    }
    for (int i = 0; i < 20000; i++) {
        const uint32_t n = random_below(&random, TIMERS);
        uint64_t least = FL_TIMER_NEVER;

        due[n] = random_below(&random, 3) > 0 ? 1 + random_below(&random, 1000)
                                              : 0;
        if (due[n] > 0) {
            fl_timer_start(notes[n].timer, due[n]);
        }
        else {
            fl_timer_stop(notes[n].timer);
        }
        for (int k = 0; k < TIMERS; k++) {
            least = due[k] > 0 && due[k] < least ? due[k] : least;
        }
        CHECK(fl_timers_due(timers) == least);
    }
    for (int i = 0; i < TIMERS; i++) {
        fl_timer_free(notes[i].timer);
    }
    CHECK(fl_timers_due(timers) == FL_TIMER_NEVER);
    fl_timers_free(timers);
}

TEST(room_for_starting_is_made_when_a_timer_is_made)
{
    struct fl_timers *timers;
    struct fl_timer *timer = NULL;

    CHECK_INT(fl_timers_new(&timers), 0);
    for (int n = 0; n < 2; n++) {
        alloc_fail_after(n);
        CHECK_INT(fl_timer_new(timers, on_due, NULL, &timer), -ENOMEM);
        CHECK(timer == NULL);
    }
    alloc_fail_after(-1);
    CHECK_INT(fl_timer_new(timers, on_due, NULL, &timer), 0);
    alloc_fail_after(0);
    fl_timer_start(timer, 1);
    CHECK(!alloc_has_failed());
    alloc_fail_after(-1);
    fl_timer_free(timer);
    fl_timers_free(timers);
}
