/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "err.h"
#include "os.h"
#include "runner.h"
#include "stream.h"
#include "support.h"

#define HIGH ((size_t)64 * 1024)
#define LOW ((size_t)16 * 1024)
#define CAP ((size_t)1024 * 1024)

/* A stream under test, its loop, and the other end of its socket. */
struct setup {
    struct fl_loop *loop;
    struct fl_stream *stream;
    int peer;
    int inputs, ends, breaks, drains;
    int end_err;
    size_t consumed;
};

static void
on_input(void *owner)
{
    struct setup *s = owner;
    size_t size;

    s->inputs++;
    (void)fl_framer_peek(fl_stream_framer(s->stream), &size);
    fl_framer_consume(fl_stream_framer(s->stream), size);
    s->consumed += size;
}

static void
on_ended(void *owner, int err)
{
    struct setup *s = owner;

    s->ends++;
    s->end_err = err;
}

static void
on_broken(void *owner, int err)
{
    (void)err;
    ((struct setup *)owner)->breaks++;
}

static void
on_drained(void *owner)
{
    ((struct setup *)owner)->drains++;
}

static const struct fl_stream_ops ops = {on_input, on_ended, on_broken,
                                         on_drained};

static void
set_up(struct setup *s, bool takes_fds)
{
    int fds[2];
    struct fl_stream_config config = {
        .takes_fds = takes_fds,
        .sees_hangup = takes_fds,
        .high = HIGH,
        .low = LOW,
        .cap = CAP,
        .ops = &ops,
        .owner = s,
    };

    *s = (struct setup){0};
    (void)signal(SIGPIPE, SIG_IGN);
    CHECK_INT(fl_loop_new(&s->loop), 0);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    config.read_fd = config.write_fd = fds[0];
    s->peer = fds[1];
    CHECK_INT(fl_stream_new(s->loop, &config, &s->stream), 0);
}

static void
tear_down(struct setup *s)
{
    fl_stream_free(s->stream);
    fl_loop_free(s->loop);
    fl_os_close(s->peer);
}

static void
turn(struct setup *s, int timeout)
{
    CHECK(fl_loop_turn(s->loop, timeout) >= 0);
}

static size_t
fill(struct setup *s)
{
    static const uint8_t data[10000];
    size_t sent = 0;

    while (!fl_stream_above_high(s->stream)) {
        CHECK_INT(fl_stream_write(s->stream, data, sizeof(data), false), 0);
        sent += sizeof(data);
    }
    return sent;
}

static size_t
drain_peer(struct setup *s)
{
    uint8_t data[65536];
    size_t got = 0;
    ssize_t n;

    while ((n = read(s->peer, data, sizeof(data))) > 0) {
        got += (size_t)n;
    }
    return got;
}

TEST(what_the_kernel_takes_is_written_at_once)
{
    struct setup s;
    char data[8];

    set_up(&s, false);
    CHECK_INT(fl_stream_write(s.stream, "abc", 3, false), 0);
    CHECK_INT(fl_stream_pending(s.stream), 0);
    CHECK_INT(read(s.peer, data, sizeof(data)), 3);
    CHECK_INT(fl_stream_written(s.stream), 3);
    tear_down(&s);
}

TEST(queued_answers_wait_for_the_flush)
{
    struct setup s;
    char data[8];

    set_up(&s, false);
    CHECK_INT(fl_stream_queue(s.stream, "ab", 2, false), 0);
    CHECK_INT(fl_stream_accepted(s.stream), 2);
    CHECK_INT(fl_stream_written(s.stream), 0);
    CHECK_INT(fl_stream_write(s.stream, "cd", 2, false), 0);
    CHECK_INT(read(s.peer, data, sizeof(data)), -1);
    fl_stream_flush(s.stream);
    CHECK_INT(read(s.peer, data, sizeof(data)), 4);
    CHECK_MEM(data, "abcd", 4);
    tear_down(&s);
}

TEST(marks_are_told_once_each_way_and_no_byte_is_lost)
{
    struct setup s;
    size_t sent, got = 0;

    set_up(&s, false);
    sent = fill(&s);
    CHECK_INT(s.drains, 0);
    while (fl_stream_pending(s.stream) > 0) {
        got += drain_peer(&s);
        turn(&s, 1000);
    }
    got += drain_peer(&s);
    CHECK_INT(got, sent);
    CHECK_INT(s.drains, 1);
    CHECK_INT(fl_stream_written(s.stream), sent);
    tear_down(&s);
}

TEST(the_cap_is_an_error_and_not_a_wait)
{
    static uint8_t big[CAP];
    struct setup s;

    set_up(&s, false);
    (void)fill(&s);
    CHECK_INT(fl_stream_write(s.stream, big, sizeof(big), false), FL_EQUOTA);
    tear_down(&s);
}

TEST(short_writes_eagain_and_eintr_change_nothing_for_the_peer)
{
    struct setup s;
    uint8_t sent[3000], got[3000];
    size_t held = 0;

    set_up(&s, false);
    for (size_t i = 0; i < sizeof(sent); i++) {
        sent[i] = (uint8_t)(i * 7);
    }
    io_shorten(13, 4);
    CHECK_INT(fl_stream_write(s.stream, sent, sizeof(sent), true), 0);
    while (held < sizeof(got)) {
        const ssize_t n = read(s.peer, got + held, sizeof(got) - held);

        held += n > 0 ? (size_t)n : 0;
        turn(&s, 0);
    }
    io_shorten(0, 0);
    CHECK_MEM(got, sent, sizeof(sent));
    tear_down(&s);
}

TEST(short_reads_eagain_and_eintr_lose_nothing)
{
    struct setup s;
    uint8_t data[3000] = {0};

    set_up(&s, true);
    io_shorten(7, 5);
    CHECK_INT(write(s.peer, data, sizeof(data)), (ssize_t)sizeof(data));
    while (s.consumed < sizeof(data)) {
        turn(&s, 1000);
    }
    io_shorten(0, 0);
    CHECK_INT(s.ends, 0);
    CHECK_INT(fl_stream_received(s.stream), sizeof(data));
    tear_down(&s);
}

TEST(a_clean_end_and_an_end_within_a_frame_are_told_apart)
{
    struct setup s;

    set_up(&s, false);
    (void)shutdown(s.peer, SHUT_WR);
    turn(&s, 1000);
    CHECK_INT(s.ends, 1);
    CHECK_INT(s.end_err, 0);
    CHECK_INT(fl_stream_pull(s.stream), FL_ECLOSED);
    tear_down(&s);
}

static void
on_input_kept(void *owner)
{
    ((struct setup *)owner)->inputs++;
}

TEST(bytes_left_at_the_end_are_a_truncated_frame)
{
    static const struct fl_stream_ops keeping = {on_input_kept, on_ended,
                                                 on_broken, on_drained};
    struct fl_stream_config config = {
        .high = HIGH, .low = LOW, .cap = CAP, .ops = &keeping};
    struct setup s = {0};
    int fds[2];

    CHECK_INT(fl_loop_new(&s.loop), 0);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    config.read_fd = config.write_fd = fds[0];
    config.owner = &s;
    s.peer = -1;
    CHECK_INT(fl_stream_new(s.loop, &config, &s.stream), 0);
    CHECK_INT(write(fds[1], "\xfa\x71", 2), 2);
    fl_os_close(fds[1]);
    while (s.ends == 0) {
        turn(&s, 1000);
    }
    CHECK_INT(s.end_err, FL_ETRUNCATED);
    tear_down(&s);
}

TEST(a_write_to_a_gone_peer_breaks_once_and_swallows_the_rest)
{
    struct setup s;

    set_up(&s, false);
    (void)fill(&s);
    fl_os_close(s.peer);
    s.peer = -1;
    for (int i = 0; i < 5; i++) {
        turn(&s, 0);
        CHECK_INT(fl_stream_write(s.stream, "x", 1, false), 0);
    }
    CHECK_INT(s.breaks, 1);
    CHECK_INT(s.ends, 1);
    CHECK_INT(s.drains, 1); /* who waits for it must not wait for ever */
    CHECK_INT(fl_stream_pending(s.stream), 0);
    CHECK(fl_stream_accepted(s.stream) > fl_stream_written(s.stream));
    tear_down(&s);
}

TEST(a_paused_stream_reads_nothing_and_goes_on_afterwards)
{
    struct setup s;

    set_up(&s, true);
    fl_stream_pause(s.stream, true);
    CHECK_INT(write(s.peer, "x", 1), 1);
    turn(&s, 0);
    CHECK_INT(s.inputs, 0);
    fl_stream_pause(s.stream, false);
    turn(&s, 1000);
    CHECK_INT(s.inputs, 1);
    tear_down(&s);
}

TEST(a_paused_client_that_goes_is_noticed)
{
    struct setup s;

    set_up(&s, true);
    fl_stream_pause(s.stream, true);
    CHECK_INT(write(s.peer, "x", 1), 1);
    fl_os_close(s.peer);
    s.peer = -1;
    turn(&s, 1000);
    CHECK_INT(s.ends, 1);
    CHECK_INT(s.inputs, 0);
    turn(&s, 0);
    CHECK_INT(s.ends, 1);
    tear_down(&s);
}

TEST(references_go_out_in_order_and_are_released)
{
    static const uint8_t blob[1000] = {42};
    struct setup s;
    uint8_t data[1004];
    int released = 0;

    set_up(&s, false);
    CHECK_INT(fl_stream_queue(s.stream, "ab", 2, false), 0);
    CHECK_INT(fl_stream_refer(s.stream, blob, sizeof(blob),
                              (fl_buf_release_fn)on_drained, &s),
              0);
    CHECK_INT(fl_stream_queue(s.stream, "cd", 2, false), 0);
    released = s.drains;
    CHECK_INT(released, 0);
    fl_stream_flush(s.stream);
    CHECK_INT(s.drains, 1);
    CHECK_INT(read(s.peer, data, sizeof(data)), 1004);
    CHECK_MEM(data, "ab\x2a", 3);
    CHECK_MEM(data + 1002, "cd", 2);
    tear_down(&s);
}

TEST(descriptors_are_handed_out_in_order_and_the_rest_closed)
{
    const struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    struct setup s;
    int pipes[2], fd;

    set_up(&s, true);
    CHECK_INT(pipe(pipes), 0);
    CHECK_INT(fl_os_send(s.peer, &iov, 1, pipes, 2), 1);
    CHECK_INT(fl_os_send(s.peer, &iov, 1, pipes, 1), 1);
    fl_os_close(pipes[0]);
    fl_os_close(pipes[1]);
    while (s.consumed < 2) {
        turn(&s, 1000);
    }
    fd = fl_stream_take_fd(s.stream);
    CHECK(fd >= 0);
    fl_os_close(fd);
    fd = fl_stream_take_fd(s.stream);
    CHECK_INT(write(fd, "x", 1),
              1); /* the write end, second; the third reads */
    fl_os_close(fd);
    /* The third is closed by tear_down; the runner counts. */
    tear_down(&s);
}

TEST(a_peer_that_hoards_descriptors_is_ended)
{
    const struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    struct setup s;

    set_up(&s, true);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(fl_os_send(s.peer, &iov, 1, (int[]){0, 0, 0, 0}, 4), 1);
    }
    for (int i = 0; i < 10 && s.ends == 0; i++) {
        turn(&s, 1000);
    }
    CHECK_INT(s.end_err, FL_EDESCRIPTORS);
    tear_down(&s);
}

TEST(trimming_waits_until_nothing_moves)
{
    struct setup s;

    set_up(&s, false);
    CHECK_INT(write(s.peer, "x", 1), 1);
    turn(&s, 1000);
    fl_stream_trim(s.stream);
    fl_stream_trim(s.stream);
    CHECK_INT(write(s.peer, "x", 1), 1);
    turn(&s, 1000);
    CHECK_INT(s.consumed, 2);
    tear_down(&s);
}

TEST(failed_allocations_are_reported_and_leave_the_descriptors)
{
    struct fl_stream_config config = {.cap = CAP, .ops = &ops};
    struct fl_stream *stream = NULL;
    struct fl_loop *loop;
    int fds[2], n = 0;

    CHECK_INT(fl_loop_new(&loop), 0);
    CHECK_INT(pipe(fds), 0);
    config.read_fd = fds[0];
    config.write_fd = fds[1];
    for (;;) {
        int err;

        alloc_fail_after(n++);
        err = fl_stream_new(loop, &config, &stream);
        if (!alloc_has_failed()) {
            CHECK_INT(err, 0);
            break;
        }
        CHECK_INT(err, -ENOMEM);
        CHECK(stream == NULL);
        CHECK_INT(write(fds[1], "x", 1), 1);
    }
    alloc_fail_after(-1);
    CHECK(n > 4);
    fl_stream_free(stream);
    fl_loop_free(loop);
}
