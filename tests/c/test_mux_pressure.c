/* SPDX-License-Identifier: BSD-3-Clause */
/* Back-pressure: who does not read delays nobody else. */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"
#include "os.h"
#include "runner.h"

/* Writes until the mux stops reading; how much it took. */
static size_t
stuff(int fd, const struct fl_frame *frame, size_t payload_size, size_t most)
{
    uint8_t *data = calloc(1, FL_HEADER_SIZE + payload_size + 1);
    struct fl_frame out = *frame;
    size_t sent = 0, at = 0;
    const size_t size = FL_HEADER_SIZE + payload_size;

    out.length = (uint32_t)payload_size;
    fl_frame_encode(&out, data);
    data[FL_HEADER_SIZE] = FL_K_STDOUT;
    while (sent < most) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        ssize_t n = send(fd, data + at, size - at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0) {
            /* Full for as long as a working mux never takes: it is paused. */
            if (poll(&ready, 1, 300) == 0) {
                break;
            }
            continue;
        }
        sent += (size_t)n;
        at = (at + (size_t)n) % size;
    }
    free(data);
    return sent;
}

/* Rule 4, systems fact 26: a slow host costs little and delays nobody. */
TEST(a_stuck_agent_pauses_its_caller_and_nobody_else)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct conn other;
    struct fake_agent fast;
    struct fl_frame frame;
    uint32_t handle;
    size_t sent, got = 0;
    char data[65536];

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    agent_open(&other, &other_key, &fast);
    frame = (struct fl_frame){
        .dst_id = s.agent.id, .src_id = s.conn.id, .handle = FL_H_DATA};
    sent = stuff(s.conn.fd, &frame, 50000, (size_t)64 << 20);
    CHECK(sent < (size_t)4 << 20);
    handle = ping_begin(&other, &fast);
    ping_end(&fast, &other, handle);
    /* Once it reads again, it gets every byte of the whole frames. */
    while (got < sent / 50032 * 50032) {
        const ssize_t n = read(s.agent.wire, data, sizeof(data));

        CHECK(n > 0);
        got += (size_t)n;
    }
    agent_close(&fast);
    conn_close(&other);
    tear_down(&s);
}

TEST(a_client_that_does_not_read_pauses_only_who_writes_to_it)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct conn other;
    struct fake_agent fast;
    struct fl_frame frame;
    struct pollfd wire;
    uint32_t handle;
    size_t sent;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    agent_open(&other, &other_key, &fast);
    handle = ping_begin(&s.conn, &s.agent);
    frame = (struct fl_frame){.dst_id = s.conn.id,
                              .src_id = s.agent.id,
                              .auth_id = s.agent.id,
                              .handle = handle};
    sent = stuff(s.agent.wire, &frame, 50000, (size_t)64 << 20);
    CHECK(sent < (size_t)4 << 20);
    nothing_came(&other);
    handle = ping_begin(&other, &fast);
    ping_end(&fast, &other, handle);
    /* A paused agent whose caller goes is read again. */
    conn_close(&s.conn);
    wait_for_status(&other, "clients", 1);
    wire = (struct pollfd){.fd = s.agent.wire, .events = POLLOUT};
    CHECK_INT(poll(&wire, 1, 10000), 1);
    agent_close(&s.agent);
    agent_close(&fast);
    conn_close(&other);
    mux_stop(&s.mux);
}

TEST(a_client_that_asks_and_never_reads_is_not_served_for_ever)
{
    struct setup s;
    struct conn other;
    const struct fl_frame frame = {.handle = FL_H_STATUS, .reply_to = 4000};
    struct fl_frame mine = frame;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    mine.src_id = s.conn.id;
    CHECK(stuff(s.conn.fd, &mine, 0, (size_t)8 << 20) < (size_t)2 << 20);
    CHECK(status_number(&other, "rss_kb") < 200000);
    conn_close(&other);
    tear_down(&s);
}

/* A paused client that dies must not be kept by the host that is stuck. */
TEST(a_paused_client_that_dies_is_let_go)
{
    struct setup s;
    struct conn other;
    struct fl_frame frame;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    frame = (struct fl_frame){
        .dst_id = s.agent.id, .src_id = s.conn.id, .handle = FL_H_DATA};
    (void)stuff(s.conn.fd, &frame, 50000, (size_t)64 << 20);
    CHECK_INT(status_number(&other, "clients"), 2);
    conn_close(&s.conn);
    wait_for_status(&other, "clients", 1);
    conn_close(&other);
    tear_down(&s);
}

/* Clients that do not read and share an agent with others */

enum { PIECE = 32 * 1024, WINDOW = 256 * 1024 };

/* A call of which the agent knows. */
static uint32_t
begin_call(struct conn *conn, const struct fake_agent *agent, uint32_t stream)
{
    const uint32_t handle = call(conn, agent->id, FL_H_FILE, stream, NULL, 0);
    const struct message m = receive(agent->wire);

    CHECK_INT(m.frame.handle, FL_H_FILE);
    CHECK_INT(m.frame.stream, stream);
    free(m.payload);
    return handle;
}

/* Output of a call, whose bytes follow from their place in it. */
static void
send_output(const struct fake_agent *agent, const struct conn *conn,
            uint32_t handle, uint32_t stream, size_t size)
{
    static uint8_t piece[1 + PIECE] = {FL_K_STDOUT};

    memset(piece + 1, (int)(stream & 127), PIECE);
    for (size_t at = 0; at < size; at += PIECE) {
        reply(agent, conn, handle, stream, 0, piece, 1 + PIECE);
    }
}

static void
receive_output(struct conn *conn, uint32_t handle, uint32_t stream,
               size_t size)
{
    for (size_t at = 0; at < size; at += PIECE) {
        const struct message m = receive_for(conn->fd, handle);

        CHECK_INT(m.frame.length, 1 + PIECE);
        CHECK_INT(m.payload[PIECE], stream & 127);
        free(m.payload);
    }
}

/* A whole call of another client: the agent is read, and answers. */
static void
check_served(struct conn *conn, const struct fake_agent *agent)
{
    const uint32_t handle = begin_call(conn, agent, 1);

    reply(agent, conn, handle, 1, FL_F_LAST, "\4", 1);
    free(receive_for(conn->fd, handle).payload);
}

TEST(a_stopped_client_delays_nobody_who_shares_its_agent)
{
    enum { CALLS = 12 };
    struct setup s;
    struct conn other;
    uint32_t handles[CALLS];

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    for (uint32_t i = 0; i < CALLS; i++) {
        handles[i] = begin_call(&s.conn, &s.agent, 10 + i);
    }
    for (uint32_t i = 0; i < CALLS; i++) {
        send_output(&s.agent, &s.conn, handles[i], 10 + i, WINDOW);
    }
    for (uint32_t i = 0; i < CALLS; i++) {
        reply(&s.agent, &s.conn, handles[i], 10 + i, FL_F_LAST, "\4", 1);
    }
    check_served(&other, &s.agent);
    /* Nothing of its own is lost either. */
    for (uint32_t i = 0; i < CALLS; i++) {
        receive_output(&s.conn, handles[i], 10 + i, WINDOW);
    }
    for (uint32_t i = 0; i < CALLS; i++) {
        const struct message m = receive_for(s.conn.fd, handles[i]);

        CHECK_INT(m.frame.flags, FL_F_LAST);
        CHECK_INT(m.payload[0], FL_K_EXIT);
        free(m.payload);
    }
    conn_close(&other);
    tear_down(&s);
}

/* A client that reads slowly gives credit, and so gets more. */
TEST(credit_lets_a_call_go_on_above_the_mark)
{
    enum { CALLS = 4, ROUNDS = 6 };
    struct setup s;
    struct conn other;
    uint32_t handles[CALLS];
    uint8_t consumed[4];

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    fl_put_u32(consumed, WINDOW);
    for (uint32_t i = 0; i < CALLS; i++) {
        handles[i] = begin_call(&s.conn, &s.agent, 10 + i);
        send_output(&s.agent, &s.conn, handles[i], 10 + i, WINDOW);
    }
    fence(&other);
    for (int round = 0; round < ROUNDS; round++) {
        const struct fl_frame credit = {.dst_id = s.agent.id,
                                        .src_id = s.conn.id,
                                        .handle = FL_H_CREDIT,
                                        .stream = 10};

        send_frame(s.conn.fd, &credit, consumed, sizeof(consumed));
        free(receive_for(s.agent.wire, FL_H_CREDIT).payload);
        send_output(&s.agent, &s.conn, handles[0], 10, WINDOW);
        check_served(&other, &s.agent);
    }
    conn_close(&other);
    tear_down(&s);
}

/* Rule 4: in the end its memory is bounded, and it is the one who goes. */
TEST(a_stopped_client_with_too_much_unread_is_closed)
{
    enum { CALLS = 40 };
    struct setup s;
    struct conn other;
    const size_t most = WINDOW / PIECE * (FL_HEADER_SIZE + PIECE);
    uint32_t handles[CALLS];
    size_t sent = 0;
    uint64_t end;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    for (uint32_t i = 0; i < CALLS; i++) {
        handles[i] = begin_call(&s.conn, &s.agent, 10 + i);
    }
    for (uint32_t i = 0; i < CALLS && sent == i * most; i++) {
        const struct fl_frame frame = {.dst_id = s.conn.id,
                                       .src_id = s.agent.id,
                                       .auth_id = s.agent.id,
                                       .handle = handles[i],
                                       .stream = 10 + i};

        sent += stuff(s.agent.wire, &frame, PIECE, most);
    }
    CHECK(sent < CALLS * most);
    CHECK(status_number(&other, "rss_kb") < 60000);
    for (end = fl_os_now_ms() + 30000; status_number(&other, "clients") > 1;) {
        CHECK(fl_os_now_ms() < end);
        (void)poll(NULL, 0, 50);
    }
    conn_close(&s.conn);
    agent_close(&s.agent);
    conn_close(&other);
    mux_stop(&s.mux);
}

/* What a dead ssh has left is delivered, however late its reader is. */
TEST(a_result_that_came_before_the_death_waits_for_a_slow_client)
{
    struct setup s;
    struct conn other;
    uint32_t handles[4];
    struct message m;
    uint64_t end;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    for (uint32_t i = 0; i < 4; i++) {
        handles[i] = begin_call(&s.conn, &s.agent, 10 + i);
        send_output(&s.agent, &s.conn, handles[i], 10 + i, WINDOW);
    }
    /* Beyond the credit: the mux may stop reading, and this waits in the
     * socket, which holds so much at any rate. */
    send_output(&s.agent, &s.conn, handles[3], 13, 2 * PIECE);
    reply(&s.agent, &s.conn, handles[3], 13, FL_F_LAST, "\4", 1);
    agent_kill(&s.agent);
    /* Longer than a mux drains what no reader holds up. */
    for (end = fl_os_now_ms() + 1500; fl_os_now_ms() < end;) {
        fence(&other);
        (void)poll(NULL, 0, 50);
    }
    for (uint32_t i = 0; i < 4; i++) {
        receive_output(&s.conn, handles[i], 10 + i, WINDOW);
    }
    receive_output(&s.conn, handles[3], 13, 2 * PIECE);
    m = receive_for(s.conn.fd, handles[3]);
    CHECK_INT(m.payload[0], FL_K_EXIT);
    free(m.payload);
    for (uint32_t i = 0; i < 3; i++) {
        receive_dead(s.conn.fd, handles[i], FL_D_LOST, "ssh has ended");
    }
    conn_close(&other);
    tear_down(&s);
}
