/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"
#include "os.h"
#include "runner.h"
#include "support.h"

struct end {
    int fd;
    struct fl_watch *watch;
    struct end *victim;
    unsigned seen;
    int calls;
};

static void
on_event(void *data, unsigned events)
{
    struct end *end = data;

    end->seen |= events;
    end->calls++;
    if (end->victim != NULL) {
        fl_watch_free(end->victim->watch);
        end->victim->watch = NULL;
    }
}

static void
make_ends(struct end ends[2])
{
    int fds[2];

    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (int i = 0; i < 2; i++) {
        ends[i] = (struct end){.fd = fds[i]};
        CHECK_INT(fl_os_set_nonblocking(fds[i]), 0);
    }
}

static void
watch(struct fl_loop *loop, struct end *end, unsigned events)
{
    CHECK_INT(fl_watch_new(loop, end->fd, events, on_event, end, &end->watch),
              0);
}

static void
close_ends(struct end ends[2])
{
    for (int i = 0; i < 2; i++) {
        fl_watch_free(ends[i].watch);
        fl_os_close(ends[i].fd);
    }
}

static struct fl_loop *
new_loop(void)
{
    struct fl_loop *loop;

    CHECK_INT(fl_loop_new(&loop), 0);
    return loop;
}

TEST(readiness_follows_the_interest)
{
    struct fl_loop *loop = new_loop();
    struct end ends[2];

    make_ends(ends);
    watch(loop, &ends[0], FL_LOOP_READ);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    CHECK_INT(write(ends[1].fd, "x", 1), 1);
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK_INT(ends[0].seen, FL_LOOP_READ);
    CHECK_INT(fl_watch_set(ends[0].watch, FL_LOOP_READ | FL_LOOP_WRITE), 0);
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK_INT(ends[0].seen, FL_LOOP_READ | FL_LOOP_WRITE);
    CHECK_INT(fl_watch_set(ends[0].watch, 0), 0);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    close_ends(ends);
    fl_loop_free(loop);
}

/* A paused stream whose peer hung up must not turn the loop into a spin. */
TEST(no_interest_means_not_even_a_hangup)
{
    struct fl_loop *loop = new_loop();
    struct end ends[2];

    make_ends(ends);
    watch(loop, &ends[0], 0);
    fl_os_close(ends[1].fd);
    ends[1].fd = -1;
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    CHECK_INT(fl_watch_set(ends[0].watch, FL_LOOP_HANGUP), 0);
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK_INT(ends[0].seen, FL_LOOP_HANGUP);
    CHECK_INT(fl_watch_set(ends[0].watch, FL_LOOP_READ), 0);
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK(ends[0].seen & FL_LOOP_READ);
    close_ends(ends);
    fl_loop_free(loop);
}

TEST(a_hangup_is_seen_behind_unread_data)
{
    struct fl_loop *loop = new_loop();
    struct end ends[2];

    make_ends(ends);
    watch(loop, &ends[0], FL_LOOP_HANGUP);
    CHECK_INT(write(ends[1].fd, "x", 1), 1);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    fl_os_close(ends[1].fd);
    ends[1].fd = -1;
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK_INT(ends[0].seen, FL_LOOP_HANGUP);
    close_ends(ends);
    fl_loop_free(loop);
}

/* Both have events in one batch; whoever comes first removes the other. */
TEST(an_event_fetched_for_a_removed_watch_is_dropped)
{
    struct fl_loop *loop = new_loop();
    struct end a[2], b[2];

    make_ends(a);
    make_ends(b);
    watch(loop, &a[0], FL_LOOP_READ);
    watch(loop, &b[0], FL_LOOP_READ);
    a[0].victim = &b[0];
    b[0].victim = &a[0];
    CHECK_INT(write(a[1].fd, "x", 1), 1);
    CHECK_INT(write(b[1].fd, "x", 1), 1);
    CHECK_INT(fl_loop_turn(loop, 1000), 2);
    CHECK_INT(a[0].calls + b[0].calls, 1);
    close_ends(a);
    close_ends(b);
    fl_loop_free(loop);
}

TEST(a_watch_may_free_itself)
{
    struct fl_loop *loop = new_loop();
    struct end ends[2];

    make_ends(ends);
    watch(loop, &ends[0], FL_LOOP_READ);
    ends[0].victim = &ends[0];
    CHECK_INT(write(ends[1].fd, "x", 1), 1);
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    CHECK_INT(ends[0].calls, 1);
    close_ends(ends);
    fl_loop_free(loop);
}

/* More than one batch: all get their turn. */
TEST(many_descriptors_are_all_served)
{
    enum { MANY = 150 };
    struct fl_loop *loop = new_loop();
    struct end ends[MANY][2];
    int served = 0;

    for (int i = 0; i < MANY; i++) {
        make_ends(ends[i]);
        watch(loop, &ends[i][0], FL_LOOP_READ);
        CHECK_INT(write(ends[i][1].fd, "x", 1), 1);
    }
    for (int turn = 0; turn < 300 && served < MANY; turn++) {
        CHECK(fl_loop_turn(loop, 0) > 0);
        served = 0;
        for (int i = 0; i < MANY; i++) {
            served += ends[i][0].calls > 0;
        }
    }
    CHECK_INT(served, MANY);
    for (int i = 0; i < MANY; i++) {
        close_ends(ends[i]);
    }
    fl_loop_free(loop);
}

enum { CROWD = 20 };

/* Turns with the interests as they are; all ends can be read and written. */
static void
check_turns(struct fl_loop *loop, struct end ends[][2],
            const unsigned *interest, int count, uint32_t turns)
{
    int expected = 0;

    for (int i = 0; i < count; i++) {
        expected += interest[i] != 0;
    }
    for (uint32_t turn = 0; turn < turns; turn++) {
        for (int i = 0; i < count; i++) {
            ends[i][0].seen = 0;
        }
        CHECK_INT(fl_loop_turn(loop, 0), expected);
        for (int i = 0; i < count; i++) {
            CHECK_INT(ends[i][0].seen, interest[i]);
        }
    }
}

static void
try_random_interests(int count)
{
    struct fl_loop *loop = new_loop();
    struct end ends[CROWD][2];
    unsigned interest[CROWD] = {0};
    struct random random = {5};

    for (int i = 0; i < count; i++) {
        make_ends(ends[i]);
        watch(loop, &ends[i][0], 0);
        CHECK_INT(write(ends[i][1].fd, "x", 1), 1);
    }
    for (int round = 0; round < 2000; round++) {
        const uint32_t n = random_below(&random, (uint32_t)count);

        interest[n] = random_below(&random, 4);
        CHECK_INT(fl_watch_set(ends[n][0].watch, interest[n]), 0);
        check_turns(loop, ends, interest, count, random_below(&random, 24));
    }
    for (int i = 0; i < count; i++) {
        close_ends(ends[i]);
    }
    fl_loop_free(loop);
}

TEST(random_interests_come_back_as_set)
{
    try_random_interests(CROWD);
}

/* Often one is alone with something to read, for many turns. */
TEST(random_interests_of_few_come_back_as_set)
{
    try_random_interests(2);
}

/* Turns in which nobody but `end` has something to read. */
static void
let_stream(struct fl_loop *loop, struct end *end, int turns)
{
    for (int turn = 0; turn < turns; turn++) {
        end->seen = 0;
        CHECK_INT(fl_loop_turn(loop, 1000), 1);
        CHECK_INT(end->seen, FL_LOOP_READ);
    }
}

static void
read_byte(struct end *end)
{
    char byte;

    CHECK_INT(read(end->fd, &byte, 1), 1);
}

TEST(one_that_streams_does_not_hide_the_others)
{
    struct fl_loop *loop = new_loop();
    struct end a[2], b[2];

    make_ends(a);
    make_ends(b);
    watch(loop, &a[0], FL_LOOP_READ);
    watch(loop, &b[0], FL_LOOP_READ);
    CHECK_INT(write(a[1].fd, "x", 1), 1);
    let_stream(loop, &a[0], 30);
    CHECK_INT(write(b[1].fd, "x", 1), 1);
    CHECK_INT(fl_loop_turn(loop, 1000), 2);
    CHECK_INT(b[0].seen, FL_LOOP_READ);
    read_byte(&a[0]);
    let_stream(loop, &b[0], 30);
    CHECK_INT(write(a[1].fd, "x", 1), 1);
    CHECK_INT(fl_loop_turn(loop, 1000), 2);
    read_byte(&b[0]);
    let_stream(loop, &a[0], 30);
    read_byte(&a[0]);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    close_ends(a);
    close_ends(b);
    fl_loop_free(loop);
}

TEST(one_that_streams_may_be_paused_and_removed)
{
    struct fl_loop *loop = new_loop();
    struct end ends[2];

    make_ends(ends);
    watch(loop, &ends[0], FL_LOOP_READ);
    CHECK_INT(write(ends[1].fd, "x", 1), 1);
    let_stream(loop, &ends[0], 30);
    CHECK_INT(fl_watch_set(ends[0].watch, 0), 0);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    CHECK_INT(fl_watch_set(ends[0].watch, FL_LOOP_READ), 0);
    let_stream(loop, &ends[0], 30);
    CHECK_INT(fl_watch_set(ends[0].watch, FL_LOOP_HANGUP), 0);
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    fl_os_close(ends[1].fd);
    ends[1].fd = -1;
    CHECK_INT(fl_loop_turn(loop, 1000), 1);
    CHECK(ends[0].seen & FL_LOOP_HANGUP);
    fl_watch_free(ends[0].watch);
    ends[0].watch = NULL;
    CHECK_INT(fl_loop_turn(loop, 0), 0);
    close_ends(ends);
    fl_loop_free(loop);
}

static void
on_timer(void *data)
{
    ++*(int *)data;
}

TEST(a_timer_ends_the_wait)
{
    struct fl_loop *loop = new_loop();
    struct fl_timer *timer;
    int ran = 0;

    CHECK_INT(fl_timer_new(fl_loop_timers(loop), on_timer, &ran, &timer), 0);
    fl_timer_start(timer, fl_os_now_ms() + 20);
    while (ran == 0) {
        CHECK_INT(fl_loop_turn(loop, -1), 0);
    }
    fl_timer_free(timer);
    fl_loop_free(loop);
}

TEST(a_closed_descriptor_cannot_be_watched)
{
    struct fl_loop *loop = new_loop();
    struct fl_watch *watched = NULL;

    if (strcmp(fl_loop_backend(), "poll") == 0) {
        fl_loop_free(loop);
        runner_skip("poll(2) finds out only when it waits");
    }
    CHECK_INT(fl_watch_new(loop, 9999, FL_LOOP_READ, on_event, NULL, &watched),
              -EBADF);
    CHECK(watched == NULL);
    fl_loop_free(loop);
}

TEST(failed_allocations_are_reported)
{
    struct fl_loop *loop = NULL;
    int n = 0;

    do {
        alloc_fail_after(n++);
        CHECK_INT(fl_loop_new(&loop), alloc_has_failed() ? -ENOMEM : 0);
    } while (alloc_has_failed());
    alloc_fail_after(-1);
    CHECK(n > 2);
    fl_loop_free(loop);
}
