/* SPDX-License-Identifier: BSD-3-Clause */
/* The mux with real sockets and processes; docs/protocol.md, sections 2-4. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "os.h"
#include "runner.h"

/* HELLO */

TEST(each_client_gets_an_id_of_its_own)
{
    struct mux_process mux;
    struct conn a, b;

    mux_start(&mux, NULL);
    conn_open(&mux, &a);
    conn_open(&mux, &b);
    CHECK(a.id != b.id);
    conn_close(&a);
    conn_close(&b);
    mux_stop(&mux);
}

TEST(a_client_of_another_version_is_told_so)
{
    struct mux_process mux;
    struct conn conn = {.next_handle = 1000};
    const uint8_t hello[8] = {0, 2, 0, 9};

    mux_start(&mux, NULL);
    conn.fd = mux_connect(&mux);
    receive_dead(conn.fd, call(&conn, 0, FL_H_HELLO, 0, hello, 8),
                 FL_D_REJECTED, "version 1");
    wait_for_end(conn.fd);
    conn_close(&conn);
    mux_stop(&mux);
}

TEST(anything_before_hello_closes_with_words)
{
    struct mux_process mux;
    struct conn conn = {.next_handle = 1000};
    const uint32_t destinations[] = {0, 1, 2};

    mux_start(&mux, NULL);
    for (size_t i = 0; i < 3; i++) {
        conn.fd = mux_connect(&mux);
        (void)call(&conn, destinations[i], i == 0 ? FL_H_STATUS : FL_H_HELLO,
                   0, NULL, 0);
        receive_dead(conn.fd, 0, FL_D_REJECTED, "HELLO");
        wait_for_end(conn.fd);
        conn_close(&conn);
    }
    mux_stop(&mux);
}

TEST(a_second_hello_closes)
{
    struct mux_process mux;
    struct conn conn;
    const uint8_t hello[8] = {0, 1, 0, 1};

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    (void)call(&conn, 0, FL_H_HELLO, 0, hello, 8);
    receive_dead(conn.fd, 0, FL_D_REJECTED, "twice");
    wait_for_end(conn.fd);
    conn_close(&conn);
    mux_stop(&mux);
}

/* ATTACH, OPEN, ABANDON */

TEST(attach_without_a_lease_finds_none)
{
    struct mux_process mux;
    struct conn conn;

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    (void)attached(&conn, attach(&conn, 'k', false), FL_A_NONE);
    (void)attached(&conn, attach(&conn, 'k', true), FL_A_LEASE);
    (void)attached(&conn, attach(&conn, 'k', false), FL_A_NONE);
    conn_close(&conn);
    mux_stop(&mux);
}

TEST(one_boots_and_all_who_wait_get_the_agent)
{
    struct mux_process mux;
    struct conn booter, waiters[3];
    struct fake_agent agent;
    uint32_t handles[3];

    mux_start(&mux, NULL);
    conn_open(&mux, &booter);
    (void)attached(&booter, attach(&booter, 'k', true), FL_A_LEASE);
    for (int i = 0; i < 3; i++) {
        conn_open(&mux, &waiters[i]);
        handles[i] = attach(&waiters[i], 'k', true);
    }
    nothing_came(&waiters[0]);
    agent_open(&booter, NULL, &agent);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(attached(&waiters[i], handles[i], FL_A_FOUND), agent.id);
        conn_close(&waiters[i]);
    }
    CHECK_INT(attached(&booter, attach(&booter, 'k', true), FL_A_FOUND),
              agent.id);
    agent_close(&agent);
    conn_close(&booter);
    mux_stop(&mux);
}

TEST(an_abandoned_lease_passes_to_the_next)
{
    struct mux_process mux;
    struct conn a, b;
    uint8_t key[32];
    uint32_t waiting;
    struct message m;

    memset(key, 'k', sizeof(key));
    mux_start(&mux, NULL);
    conn_open(&mux, &a);
    conn_open(&mux, &b);
    receive_dead(a.fd, call(&a, 0, FL_H_ABANDON, 0, key, 32), FL_D_REJECTED,
                 "not leased");
    (void)attached(&a, attach(&a, 'k', true), FL_A_LEASE);
    waiting = attach(&b, 'k', true);
    fence(&b);
    m = receive_for(a.fd, call(&a, 0, FL_H_ABANDON, 0, key, 32));
    CHECK_INT(m.frame.length, 0);
    free(m.payload);
    (void)attached(&b, waiting, FL_A_LEASE);
    m = receive_for(b.fd, call(&b, 0, FL_H_ABANDON, 0, key, 32));
    free(m.payload);
    (void)attached(&a, attach(&a, 'k', true), FL_A_LEASE);
    conn_close(&a);
    conn_close(&b);
    mux_stop(&mux);
}

/* Rule 4: each that waits takes memory. */
TEST(a_client_that_waits_for_leases_without_end_is_closed)
{
    struct mux_process mux;
    struct conn holder, greedy;

    mux_start(&mux, NULL);
    conn_open(&mux, &holder);
    conn_open(&mux, &greedy);
    (void)attached(&holder, attach(&holder, 'k', true), FL_A_LEASE);
    for (int i = 0; i <= 4096; i++) {
        (void)attach(&greedy, 'k', true);
    }
    receive_dead(greedy.fd, 0, FL_D_REJECTED, "too many");
    wait_for_end(greedy.fd);
    conn_close(&greedy);
    (void)attached(&holder, attach(&holder, 'l', true), FL_A_LEASE);
    conn_close(&holder);
    mux_stop(&mux);
}

TEST(the_lease_of_a_dead_client_passes_to_the_next)
{
    struct mux_process mux;
    struct conn a, b;
    uint32_t waiting;

    mux_start(&mux, NULL);
    conn_open(&mux, &a);
    conn_open(&mux, &b);
    (void)attached(&a, attach(&a, 'k', true), FL_A_LEASE);
    waiting = attach(&b, 'k', true);
    fence(&b);
    conn_close(&a);
    (void)attached(&b, waiting, FL_A_LEASE);
    conn_close(&b);
    mux_stop(&mux);
}

TEST(a_waiter_may_give_up)
{
    struct mux_process mux;
    struct conn holder, gone, next;
    uint8_t key[32];
    uint32_t waiting;
    struct message m;

    memset(key, 'k', sizeof(key));
    mux_start(&mux, NULL);
    conn_open(&mux, &holder);
    conn_open(&mux, &gone);
    conn_open(&mux, &next);
    (void)attached(&holder, attach(&holder, 'k', true), FL_A_LEASE);
    (void)attach(&gone, 'k', true);
    fence(&gone);
    waiting = attach(&next, 'k', true);
    fence(&next);
    m = receive_for(gone.fd, call(&gone, 0, FL_H_ABANDON, 0, key, 32));
    free(m.payload);
    conn_close(&holder);
    (void)attached(&next, waiting, FL_A_LEASE);
    nothing_came(&gone);
    conn_close(&gone);
    conn_close(&next);
    mux_stop(&mux);
}

TEST(found_tells_idle_time_and_the_agents_hello)
{
    struct setup s;
    struct message m;

    set_up(&s, NULL);
    agent_hello(&s.agent, 'n');
    do {
        m = receive_for(s.conn.fd, attach(&s.conn, 'k', true));
        CHECK_INT(m.payload[0], FL_A_FOUND);
        CHECK(fl_get_u32(m.payload + 5) < 5000);
        free(m.payload);
    } while (m.frame.length == 9);
    m = receive_for(s.conn.fd, attach(&s.conn, 'k', true));
    CHECK_INT(m.frame.length, 9 + 23);
    CHECK_MEM(m.payload + 27, "facts", 5);
    free(m.payload);
    tear_down(&s);
}

TEST(the_alias_finds_the_newest_agent)
{
    struct mux_process mux;
    struct conn conn;
    struct fake_agent first, second;
    const struct agent_options one = {.key = '1', .alias = 'a'},
                               two = {.key = '2', .alias = 'a'};

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    agent_open(&conn, &one, &first);
    CHECK_INT(attached(&conn, attach(&conn, 'a', false), FL_A_FOUND),
              first.id);
    agent_open(&conn, &two, &second);
    CHECK_INT(attached(&conn, attach(&conn, 'a', false), FL_A_FOUND),
              second.id);
    CHECK_INT(attached(&conn, attach(&conn, '1', false), FL_A_FOUND),
              first.id);
    agent_kill(&second);
    receive_del_route(conn.fd, second.id);
    CHECK_INT(attached(&conn, attach(&conn, 'a', false), FL_A_FOUND),
              first.id);
    agent_close(&first);
    agent_close(&second);
    conn_close(&conn);
    mux_stop(&mux);
}

TEST(an_agent_without_an_alias_is_not_found_under_zeros)
{
    struct setup s;

    set_up(&s, NULL);
    (void)attached(&s.conn, attach(&s.conn, 0, false), FL_A_NONE);
    tear_down(&s);
}

TEST(open_on_somebody_elses_lease_is_rejected_and_closes_the_wire)
{
    struct mux_process mux;
    struct conn a, b;
    struct fake_agent agent;

    mux_start(&mux, NULL);
    conn_open(&mux, &a);
    conn_open(&mux, &b);
    (void)attached(&a, attach(&a, 'k', true), FL_A_LEASE);
    receive_dead(b.fd, agent_send_open(&b, NULL, &agent), FL_D_REJECTED,
                 "not leased");
    wait_for_end(agent.wire);
    CHECK_INT(status_number(&a, "agents"), 0);
    agent_close(&agent);
    conn_close(&a);
    conn_close(&b);
    mux_stop(&mux);
}

TEST(an_open_without_its_descriptors_closes_the_client)
{
    struct mux_process mux;
    struct conn conn;
    uint8_t payload[75] = {0};

    mux_start(&mux, NULL);
    for (int flags = 0; flags < 32; flags += 16) {
        conn_open(&mux, &conn);
        payload[64] = (uint8_t)flags;
        (void)call(&conn, 0, FL_H_OPEN, 0, payload, sizeof(payload));
        receive_dead(conn.fd, 0, FL_D_REJECTED, "OPEN");
        wait_for_end(conn.fd);
        conn_close(&conn);
    }
    mux_stop(&mux);
}

TEST(an_agent_can_be_opened_with_nothing_but_its_wire)
{
    const struct agent_options options = {.no_process = true,
                                          .no_stderr = true};
    struct setup s;
    uint32_t handle;

    mux_start(&s.mux, NULL);
    conn_open(&s.mux, &s.conn);
    agent_open(&s.conn, &options, &s.agent);
    handle = ping_begin(&s.conn, &s.agent);
    fl_os_close(s.agent.wire);
    s.agent.wire = -1;
    receive_dead(s.conn.fd, handle, FL_D_LOST, "has ended");
    tear_down(&s);
}

/* Calls and their answers */

TEST(a_call_goes_out_unchanged_and_its_answers_come_back)
{
    struct setup s;
    struct message m;
    uint32_t handle;

    set_up(&s, NULL);
    handle = call(&s.conn, s.agent.id, FL_H_FILE, 7, "body", 4);
    m = receive(s.agent.wire);
    CHECK_INT(m.frame.dst_id, s.agent.id);
    CHECK_INT(m.frame.src_id, s.conn.id);
    CHECK_INT(m.frame.auth_id, 0);
    CHECK_INT(m.frame.handle, FL_H_FILE);
    CHECK_INT(m.frame.reply_to, handle);
    CHECK_INT(m.frame.stream, 7);
    CHECK_STR((char *)m.payload, "body");
    free(m.payload);
    reply(&s.agent, &s.conn, handle, 7, 0, "\1", 1);
    reply(&s.agent, &s.conn, handle, 7, FL_F_LAST, "\4", 1);
    m = receive_for(s.conn.fd, handle);
    CHECK_INT(m.payload[0], 1);
    CHECK_INT(m.frame.src_id, s.agent.id);
    CHECK_INT(m.frame.stream, 7);
    free(m.payload);
    m = receive_for(s.conn.fd, handle);
    CHECK_INT(m.payload[0], 4);
    CHECK_INT(m.frame.flags, FL_F_LAST);
    free(m.payload);
    CHECK_INT(status_number(&s.conn, "bindings"), 0);
    tear_down(&s);
}

TEST(after_the_last_answer_the_handle_is_closed)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    handle = ping_begin(&s.conn, &s.agent);
    reply(&s.agent, &s.conn, handle, 0, FL_F_LAST, "\4", 1);
    reply(&s.agent, &s.conn, handle, 0, 0, "\2late", 5);
    free(receive_for(s.conn.fd, handle).payload);
    wait_for_status(&s.conn, "dropped_frames", 1);
    nothing_came(&s.conn);
    tear_down(&s);
}

/* Systems fact 6: reply_to is guessable. */
TEST(only_the_callee_may_answer)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct fake_agent other;
    uint32_t handle;

    set_up(&s, NULL);
    agent_open(&s.conn, &other_key, &other);
    handle = ping_begin(&s.conn, &s.agent);
    reply(&other, &s.conn, handle, 0, FL_F_LAST, "\4forged", 7);
    wait_for_status(&s.conn, "dropped_frames", 1);
    nothing_came(&s.conn);
    ping_end(&s.agent, &s.conn, handle);
    agent_close(&other);
    receive_del_route(s.conn.fd, other.id);
    tear_down(&s);
}

/* Rule 6: a hostile target cannot speak as another or to another. */
TEST(a_lying_agent_is_dropped_and_counted)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct fake_agent other;
    struct fl_frame frame;
    uint32_t handle;

    set_up(&s, NULL);
    agent_open(&s.conn, &other_key, &other);
    handle = ping_begin(&s.conn, &s.agent);
    frame = (struct fl_frame){.dst_id = s.conn.id,
                              .src_id = s.agent.id,
                              .auth_id = s.agent.id,
                              .handle = handle};
    send_frame(other.wire, &frame, "\4", 1); /* another's source */
    frame.src_id = frame.auth_id = s.conn.id;
    send_frame(other.wire, &frame, "\4", 1); /* a client's source */
    frame.src_id = other.id;
    frame.auth_id = 0;
    send_frame(other.wire, &frame, "\4", 1); /* the owner's authority */
    frame.auth_id = other.id;
    frame.dst_id = s.agent.id;
    frame.handle = FL_H_EXEC;
    send_frame(other.wire, &frame, "\0\0", 2); /* agent to agent */
    frame.dst_id = 0;
    frame.handle = FL_H_STOP;
    send_frame(other.wire, &frame, NULL, 0); /* a client's message */
    wait_for_status(&s.conn, "dropped_frames", 5);
    CHECK_INT(status_number(&s.conn, "agents"), 2);
    nothing_came(&s.conn);
    agent_close(&other);
    receive_del_route(s.conn.fd, other.id);
    tear_down(&s);
}

TEST(a_client_that_speaks_as_another_is_closed_with_words)
{
    struct setup s;
    struct conn liar;
    struct fl_frame frame = {.handle = FL_H_STATUS, .reply_to = 1000};

    set_up(&s, NULL);
    conn_open(&s.mux, &liar);
    frame.src_id = s.conn.id;
    send_frame(liar.fd, &frame, NULL, 0);
    receive_dead(liar.fd, 0, FL_D_REJECTED, "source");
    wait_for_end(liar.fd);
    conn_close(&liar);
    conn_open(&s.mux, &liar);
    frame.src_id = frame.auth_id = liar.id;
    send_frame(liar.fd, &frame, NULL, 0);
    receive_dead(liar.fd, 0, FL_D_REJECTED, "authority");
    wait_for_end(liar.fd);
    conn_close(&liar);
    nothing_came(&s.conn);
    tear_down(&s);
}

TEST(a_client_cannot_address_a_client)
{
    struct setup s;
    struct conn other;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    receive_dead(s.conn.fd, call(&s.conn, other.id, FL_H_PING, 0, NULL, 0),
                 FL_D_REJECTED, "clients do not talk");
    nothing_came(&other);
    conn_close(&other);
    tear_down(&s);
}

TEST(an_unknown_context_is_rejected_and_an_ended_one_not_sent)
{
    struct setup s;

    set_up(&s, NULL);
    receive_dead(s.conn.fd, call(&s.conn, 9999, FL_H_PING, 0, NULL, 0),
                 FL_D_REJECTED, "no such context");
    agent_kill(&s.agent);
    receive_del_route(s.conn.fd, s.agent.id);
    receive_dead(s.conn.fd, call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0),
                 FL_D_NOT_SENT, "ended");
    tear_down(&s);
}

TEST(a_reply_handle_belongs_to_one_callee)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct fake_agent other;
    uint32_t handle;

    set_up(&s, NULL);
    agent_open(&s.conn, &other_key, &other);
    handle = call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0);
    s.conn.next_handle = handle; /* once more */
    (void)call(&s.conn, other.id, FL_H_PING, 0, NULL, 0);
    receive_dead(s.conn.fd, 0, FL_D_REJECTED, "reply handle");
    wait_for_end(s.conn.fd);
    agent_close(&other);
    tear_down(&s);
}

TEST(an_agents_own_is_dead_ends_the_call)
{
    struct setup s;
    struct fl_frame frame;
    uint32_t handle;

    set_up(&s, NULL);
    handle = call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0);
    frame = (struct fl_frame){.flags = FL_F_LAST,
                              .dst_id = s.conn.id,
                              .src_id = s.agent.id,
                              .auth_id = s.agent.id,
                              .handle = handle,
                              .reply_to = FL_H_IS_DEAD};
    send_frame(s.agent.wire, &frame, "\3no such handle", 15);
    receive_dead(s.conn.fd, handle, FL_D_REJECTED, "no such handle");
    CHECK_INT(status_number(&s.conn, "bindings"), 0);
    tear_down(&s);
}

TEST(a_message_the_mux_does_not_know_is_rejected)
{
    struct setup s;

    set_up(&s, NULL);
    receive_dead(s.conn.fd, call(&s.conn, 0, FL_H_EXEC, 0, "\0\0", 2),
                 FL_D_REJECTED, "does not listen");
    tear_down(&s);
}

TEST(requests_of_a_wrong_size_close_the_client)
{
    static const uint32_t handles[] = {
        FL_H_HELLO,  FL_H_ATTACH,   FL_H_OPEN, FL_H_ABANDON, FL_H_RETIRE,
        FL_H_STATUS, FL_H_SHUTDOWN, FL_H_STOP, FL_H_PUT_BLOB};
    struct mux_process mux;
    struct conn conn;

    mux_start(&mux, NULL);
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++) {
        conn_open(&mux, &conn);
        (void)call(&conn, 0, handles[i], 0, "xyz", 3);
        receive_dead(conn.fd, 0, FL_D_REJECTED, "layout");
        wait_for_end(conn.fd);
        conn_close(&conn);
    }
    mux_stop(&mux);
}

/* Deaths */

/* Systems fact 32: the test still holds the wire, as a ProxyCommand would. */
TEST(kill_9_of_ssh_is_told_at_once_with_its_last_words)
{
    struct setup s;
    uint32_t handle;
    uint64_t start;

    set_up(&s, NULL);
    handle = ping_begin(&s.conn, &s.agent);
    CHECK(write(s.agent.errors, "first\r\nclosed by\x1b[31m host\n", 27) > 0);
    start = fl_os_now_ms();
    agent_kill(&s.agent);
    receive_dead(s.conn.fd, handle, FL_D_LOST,
                 "web1: ssh has ended; ssh said: first; closed by\\x1b[31m");
    receive_del_route(s.conn.fd, s.agent.id);
    CHECK(fl_os_now_ms() - start < 2000); /* rule 2 */
    wait_for_end(s.agent.wire);
    tear_down(&s);
}

TEST(what_came_before_the_death_is_delivered_before_the_news)
{
    struct setup s;
    uint8_t chunk[FL_CHUNK_SIZE] = {FL_K_STDOUT};
    uint32_t handle;
    size_t sent = 0, got = 0;
    struct message m;

    set_up(&s, NULL);
    handle = call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0);
    CHECK_INT(kill(s.mux.pid, SIGSTOP), 0);
    /* As much as fits the socket, while the mux does not look. */
    (void)fcntl(s.agent.wire, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 3; i++) {
        const size_t size = 20000;

        reply(&s.agent, &s.conn, handle, 0, 0, chunk, size);
        sent += size;
    }
    agent_kill(&s.agent);
    CHECK_INT(kill(s.mux.pid, SIGCONT), 0);
    while (got < sent) {
        m = receive_for(s.conn.fd, handle);
        got += m.frame.length;
        free(m.payload);
    }
    receive_dead(s.conn.fd, handle, FL_D_LOST, "ssh has ended");
    receive_del_route(s.conn.fd, s.agent.id);
    tear_down(&s);
}

TEST(every_bound_caller_of_a_dead_agent_hears_of_it)
{
    enum { CALLERS = 20 };
    struct setup s;
    struct conn conns[CALLERS];
    uint32_t handles[CALLERS];

    set_up(&s, NULL);
    for (int i = 0; i < CALLERS; i++) {
        conn_open(&s.mux, &conns[i]);
        CHECK_INT(
            attached(&conns[i], attach(&conns[i], 'k', false), FL_A_FOUND),
            s.agent.id);
        handles[i] = call(&conns[i], s.agent.id, FL_H_PING, 0, NULL, 0);
        free(receive(s.agent.wire).payload);
    }
    agent_kill(&s.agent);
    for (int i = 0; i < CALLERS; i++) {
        receive_dead(conns[i].fd, handles[i], FL_D_LOST, "web1");
        receive_del_route(conns[i].fd, s.agent.id);
        conn_close(&conns[i]);
    }
    tear_down(&s);
}

TEST(a_closed_wire_is_a_death_even_while_ssh_lives)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    handle = ping_begin(&s.conn, &s.agent);
    fl_os_close(s.agent.wire);
    s.agent.wire = -1;
    receive_dead(s.conn.fd, handle, FL_D_LOST, "connection has ended");
    receive_del_route(s.conn.fd, s.agent.id);
    CHECK_INT(kill(s.agent.ssh, 0), 0); /* may be a master with riders */
    tear_down(&s);
}

/* Rule 13: LOST once a byte has left, NOT_SENT before. */
TEST(a_call_still_queued_was_not_sent)
{
    static uint8_t filler[500000];
    struct setup s;
    struct conn second;
    uint32_t left, queued;

    set_up(&s, NULL);
    conn_open(&s.mux, &second);
    /* Nobody reads the wire: the first call fills it, the second waits. */
    left = call(&s.conn, s.agent.id, FL_H_DATA, 1, filler, sizeof(filler));
    fence(&s.conn);
    queued = call(&second, s.agent.id, FL_H_PING, 2, "x", 1);
    fence(&second);
    agent_kill(&s.agent);
    receive_dead(s.conn.fd, left, FL_D_LOST, "web1");
    receive_dead(second.fd, queued, FL_D_NOT_SENT, "web1");
    conn_close(&second);
    receive_del_route(s.conn.fd, s.agent.id);
    tear_down(&s);
}

TEST(garbage_from_an_agent_is_quoted_and_ends_it)
{
    struct setup s;
    uint32_t handle;
    char *text;

    set_up(&s, NULL);
    handle = call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0);
    send_bytes(s.agent.wire, "Segmentation fault\n", 19);
    receive_dead(s.conn.fd, handle, FL_D_LOST, "\"Segmentation fault\\x0a\"");
    receive_del_route(s.conn.fd, s.agent.id);
    text = status_text(&s.conn);
    CHECK_CONTAINS(text, "last_error this is not a Fatline frame");
    free(text);
    tear_down(&s);
}

TEST(garbage_from_a_client_is_quoted_and_ends_it_alone)
{
    struct setup s;
    int fd;

    set_up(&s, NULL);
    fd = mux_connect(&s.mux);
    send_bytes(fd, "GET / HTTP/1.1\r\n", 16);
    receive_dead(fd, 0, FL_D_REJECTED, "GET / HTTP");
    wait_for_end(fd);
    fl_os_close(fd);
    nothing_came(&s.conn);
    tear_down(&s);
}

TEST(a_dead_clients_calls_are_cancelled_and_others_go_on)
{
    struct setup s;
    struct conn dying;
    struct message m;
    uint32_t handle, theirs;

    set_up(&s, NULL);
    conn_open(&s.mux, &dying);
    handle = call(&s.conn, s.agent.id, FL_H_PING, 1, NULL, 0);
    free(receive(s.agent.wire).payload);
    theirs = call(&dying, s.agent.id, FL_H_EXEC, 77, "\0\0body", 6);
    free(receive(s.agent.wire).payload);
    conn_close(&dying);
    m = receive(s.agent.wire);
    CHECK_INT(m.frame.handle, FL_H_CANCEL);
    CHECK_INT(m.frame.stream, 77);
    CHECK_INT(m.frame.src_id, dying.id);
    CHECK_INT(m.frame.dst_id, s.agent.id);
    free(m.payload);
    reply(&s.agent, &dying, theirs, 77, FL_F_LAST, "\4", 1);
    reply(&s.agent, &s.conn, handle, 1, FL_F_LAST, "\4", 1);
    free(receive_for(s.conn.fd, handle).payload);
    CHECK_INT(status_number(&s.conn, "dropped_frames"), 1);
    tear_down(&s);
}

/* Lives of agents */

TEST(a_bound_agent_ends_with_its_client)
{
    const struct agent_options options = {.bound = true, .persist = 1000};
    struct mux_process mux;
    struct conn owner, other;
    struct fake_agent agent;

    mux_start(&mux, NULL);
    conn_open(&mux, &owner);
    conn_open(&mux, &other);
    agent_open(&owner, &options, &agent);
    CHECK_INT(attached(&other, attach(&other, 'k', false), FL_A_FOUND),
              agent.id);
    conn_close(&owner);
    receive_del_route(other.fd, agent.id);
    wait_for_end(agent.wire);
    agent_close(&agent);
    conn_close(&other);
    mux_stop(&mux);
}

TEST(an_agent_outlives_its_clients_by_its_persist_time)
{
    const struct agent_options brief = {.key = 'b', .persist = 0},
                               lasting = {.key = 'l', .persist = 1};
    struct mux_process mux;
    struct conn conn, watcher;
    struct fake_agent a, b;
    uint64_t start;

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    conn_open(&mux, &watcher);
    agent_open(&conn, &brief, &a);
    agent_open(&conn, &lasting, &b);
    start = fl_os_now_ms();
    conn_close(&conn);
    wait_for_end(a.wire);
    CHECK(fl_os_now_ms() - start < 900);
    wait_for_end(b.wire);
    CHECK(fl_os_now_ms() - start >= 990);
    agent_close(&a);
    agent_close(&b);
    conn_close(&watcher);
    mux_stop(&mux);
}

TEST(attaching_stops_the_persist_clock)
{
    const struct agent_options lasting = {.persist = 1};
    struct mux_process mux;
    struct conn conn, next;
    struct fake_agent agent;
    struct pollfd wire = {.events = POLLIN};

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    conn_open(&mux, &next);
    agent_open(&conn, &lasting, &agent);
    conn_close(&conn);
    CHECK_INT(attached(&next, attach(&next, 'k', false), FL_A_FOUND),
              agent.id);
    wire.fd = agent.wire;
    CHECK_INT(poll(&wire, 1, 1300), 0); /* the time it would have had */
    agent_close(&agent);
    conn_close(&next);
    mux_stop(&mux);
}

TEST(a_retired_agent_is_not_found_and_ends_when_it_is_done)
{
    struct setup s;
    struct message m;
    uint8_t id[4];
    uint32_t handle;

    set_up(&s, NULL);
    handle = ping_begin(&s.conn, &s.agent);
    fl_put_u32(id, s.agent.id);
    m = receive_for(s.conn.fd, call(&s.conn, 0, FL_H_RETIRE, 0, id, 4));
    CHECK_INT(m.frame.length, 0);
    free(m.payload);
    (void)attached(&s.conn, attach(&s.conn, 'k', false), FL_A_NONE);
    CHECK_INT(status_number(&s.conn, "agents"), 1); /* a call is bound */
    ping_end(&s.agent, &s.conn, handle);
    wait_for_end(s.agent.wire);
    receive_dead(s.conn.fd, call(&s.conn, 0, FL_H_RETIRE, 0, id, 4),
                 FL_D_REJECTED, "no such agent");
    tear_down(&s);
}

/* Rule 11: nobody's mere attachment keeps an account busy. */
TEST(an_agent_retired_at_once_is_not_held_by_those_attached)
{
    struct setup s;
    struct conn other;
    uint8_t request[5];
    uint32_t handle;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    CHECK_INT(attached(&other, attach(&other, 'k', false), FL_A_FOUND),
              s.agent.id);
    handle = ping_begin(&s.conn, &s.agent);
    fl_put_u32(request, s.agent.id);
    request[4] = 1;
    free(receive_for(s.conn.fd, call(&s.conn, 0, FL_H_RETIRE, 0, request, 5))
             .payload);
    CHECK_INT(status_number(&s.conn, "agents"), 1); /* a call is bound */
    ping_end(&s.agent, &s.conn, handle);
    wait_for_end(s.agent.wire);
    receive_del_route(other.fd, s.agent.id);
    conn_close(&other);
    tear_down(&s);
}

/* Rule 9: an id can be guessed, a key cannot. */
TEST(a_private_agent_is_called_only_by_those_attached)
{
    const struct agent_options options = {.is_private = true, .persist = 1000};
    struct mux_process mux;
    struct conn owner, other;
    struct fake_agent agent;
    uint32_t handle;

    mux_start(&mux, NULL);
    conn_open(&mux, &owner);
    conn_open(&mux, &other);
    agent_open(&owner, &options, &agent);
    handle = call(&other, agent.id, FL_H_PING, 0, NULL, 0);
    receive_dead(other.fd, handle, FL_D_REJECTED, "another run");
    CHECK_INT(attached(&other, attach(&other, 'k', false), FL_A_FOUND),
              agent.id);
    handle = ping_begin(&other, &agent);
    ping_end(&agent, &other, handle);
    agent_close(&agent);
    conn_close(&owner);
    conn_close(&other);
    mux_stop(&mux);
}

static pid_t
start_owner(void)
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        pause();
        _exit(0);
    }
    return pid;
}

static void
kill_owner(pid_t pid)
{
    CHECK_INT(kill(pid, SIGKILL), 0);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
}

/* Rule 9: however the run ends, and whoever else uses the mux. */
TEST(an_agent_ends_with_the_process_it_was_opened_for)
{
    const struct agent_options options = {.persist = 1000,
                                          .owner = start_owner()};
    struct mux_process mux;
    struct conn conn;
    struct fake_agent agent;

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    agent_open(&conn, &options, &agent);
    CHECK_INT(status_number(&conn, "agents"), 1);
    kill_owner(options.owner);
    receive_del_route(conn.fd, agent.id);
    wait_for_end(agent.wire);
    agent_close(&agent);
    conn_close(&conn);
    mux_stop(&mux);
}

/* Rule 2: a worker may outlive ansible-playbook by the length of its task. */
TEST(a_call_is_finished_when_the_agents_owner_has_ended)
{
    const struct agent_options options = {.persist = 1000,
                                          .owner = start_owner()};
    struct mux_process mux;
    struct conn conn;
    struct fake_agent agent;
    uint32_t handle;

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    agent_open(&conn, &options, &agent);
    handle = ping_begin(&conn, &agent);
    kill_owner(options.owner);
    fence(&conn); /* its answer may come from the batch that tells the end, */
    fence(&conn); /* this one's comes later */
    (void)attached(&conn, attach(&conn, 'k', false), FL_A_NONE);
    CHECK_INT(status_number(&conn, "agents"), 1);
    ping_end(&agent, &conn, handle);
    receive_del_route(conn.fd, agent.id);
    wait_for_end(agent.wire);
    agent_close(&agent);
    conn_close(&conn);
    mux_stop(&mux);
}

TEST(shutdown_closes_the_wire_now)
{
    struct setup s;
    struct message m;
    uint8_t id[4];
    uint32_t handle, asked;

    set_up(&s, NULL);
    handle = call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0);
    fl_put_u32(id, s.agent.id);
    asked = call(&s.conn, 0, FL_H_SHUTDOWN, 0, id, 4);
    m = receive_for(s.conn.fd, asked);
    CHECK_INT(m.frame.length, 0);
    free(m.payload);
    receive_dead(s.conn.fd, handle, FL_D_LOST, "shut down");
    receive_del_route(s.conn.fd, s.agent.id);
    wait_for_end(s.agent.wire);
    tear_down(&s);
}

/* Descendants */

static uint32_t
allocate(struct setup *s, uint32_t count)
{
    uint8_t payload[4];
    struct message m;
    uint32_t first;

    fl_put_u32(payload, count);
    tell_mux(&s->agent, FL_H_ALLOCATE_ID, 5000, payload, 4);
    m = receive_for(s->agent.wire, 5000);
    CHECK_INT(m.frame.length, 4);
    first = fl_get_u32(m.payload);
    free(m.payload);
    return first;
}

TEST(an_agent_routes_for_its_descendants)
{
    struct setup s;
    struct fake_agent child;
    struct message m;
    uint8_t id[4];
    uint32_t first, handle;

    set_up(&s, NULL);
    first = allocate(&s, 2);
    fl_put_u32(id, first);
    receive_dead(s.conn.fd, call(&s.conn, first, FL_H_PING, 0, NULL, 0),
                 FL_D_NOT_SENT, "ended");
    tell_mux(&s.agent, FL_H_ADD_ROUTE, 0, id, 4);
    child = s.agent;
    child.id = first;
    fence(&s.conn);
    do {
        handle = call(&s.conn, first, FL_H_PING, 0, NULL, 0);
        m = receive(s.agent.wire);
    } while (m.frame.dst_id != first);
    free(m.payload);
    reply(&s.agent, &s.conn, handle, 0, 0, "\4x", 2); /* not the callee */
    reply(&child, &s.conn, handle, 0, 0, "\4y", 2);
    m = receive_for(s.conn.fd, handle);
    CHECK_INT(m.payload[1], 'y');
    free(m.payload);
    tell_mux(&s.agent, FL_H_DEL_ROUTE, 0, id, 4);
    receive_dead(s.conn.fd, handle, FL_D_LOST, "route");
    receive_del_route(s.conn.fd, first);
    tear_down(&s);
}

TEST(the_routes_of_a_dead_agent_end_with_it)
{
    struct setup s;
    uint8_t id[4];
    uint32_t first;

    set_up(&s, NULL);
    first = allocate(&s, 1);
    fl_put_u32(id, first);
    tell_mux(&s.agent, FL_H_ADD_ROUTE, 0, id, 4);
    fence(&s.conn);
    agent_close(&s.agent);
    receive_del_route(s.conn.fd, s.agent.id);
    receive_del_route(s.conn.fd, first);
    receive_dead(s.conn.fd, call(&s.conn, first, FL_H_PING, 0, NULL, 0),
                 FL_D_NOT_SENT, "ended");
    s.agent = (struct fake_agent){.wire = -1, .errors = -1};
    tear_down(&s);
}

TEST(too_many_ids_are_refused)
{
    struct setup s;
    uint8_t payload[4];

    set_up(&s, NULL);
    fl_put_u32(payload, 65);
    tell_mux(&s.agent, FL_H_ALLOCATE_ID, 5000, payload, 4);
    receive_dead(s.agent.wire, 5000, FL_D_REJECTED, "no more");
    tear_down(&s);
}

TEST(an_agent_may_ping_the_mux)
{
    struct setup s;
    struct message m;

    set_up(&s, NULL);
    tell_mux(&s.agent, FL_H_PING, 5000, "hi", 2);
    m = receive_for(s.agent.wire, 5000);
    CHECK_INT(m.frame.flags, FL_F_LAST);
    CHECK_MEM(m.payload, "\x0ehi", 3);
    free(m.payload);
    tear_down(&s);
}

TEST(a_ping_too_long_to_be_answered_is_told_so)
{
    uint8_t *payload = calloc(1, FL_PAYLOAD_MAX);
    struct setup s;
    struct message m;
    uint32_t handle;

    set_up(&s, NULL);
    handle = call(&s.conn, 0, FL_H_PING, 7, payload, FL_PAYLOAD_MAX - 1);
    m = receive_for(s.conn.fd, handle);
    CHECK_INT(m.frame.length, FL_PAYLOAD_MAX);
    CHECK_INT(m.frame.stream, 7);
    free(m.payload);
    receive_dead(s.conn.fd,
                 call(&s.conn, 0, FL_H_PING, 0, payload, FL_PAYLOAD_MAX),
                 FL_D_REJECTED, "too long");
    tell_mux(&s.agent, FL_H_PING, 5000, payload, FL_PAYLOAD_MAX);
    receive_dead(s.agent.wire, 5000, FL_D_REJECTED, "too long");
    free(payload);
    tear_down(&s);
}

/* Status and the end of the mux */

TEST(status_tells_what_there_is)
{
    static const char *const names[] = {"pid",
                                        "uptime_s",
                                        "clients",
                                        "agents",
                                        "bindings",
                                        "blobs",
                                        "blob_bytes",
                                        "frames_in",
                                        "frames_out",
                                        "bytes_in",
                                        "bytes_out",
                                        "wire_bytes_up",
                                        "dropped_frames",
                                        "rss_kb",
                                        "wire_bytes_down"};
    const struct agent_options spaced = {.key = 's', .label = "a b\nc"};
    struct setup s;
    struct fake_agent second;
    char *text;

    set_up(&s, NULL);
    agent_open(&s.conn, &spaced, &second);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        CHECK(status_number(&s.conn, names[i]) >= 0);
    }
    CHECK_INT(status_number(&s.conn, "pid"), s.mux.pid);
    CHECK_INT(status_number(&s.conn, "clients"), 1);
    CHECK_INT(status_number(&s.conn, "agents"), 2);
    CHECK_INT(status_number(&s.conn, "wire_bytes_up"), 80);
    CHECK(status_number(&s.conn, "rss_kb") > 100);
    text = status_text(&s.conn);
    CHECK_CONTAINS(text, "version ");
    CHECK_CONTAINS(text, "last_error \n");
    CHECK_CONTAINS(text, " web1 pid ");
    CHECK_CONTAINS(text, " a\\x20b\\x0ac pid ");
    free(text);
    agent_close(&second);
    receive_del_route(s.conn.fd, second.id);
    tear_down(&s);
}

TEST(stop_tells_everybody_and_unlinks_the_socket)
{
    struct setup s;
    struct conn stopper;
    struct stat found;
    uint32_t handle;
    pid_t ssh;

    set_up(&s, NULL);
    conn_open(&s.mux, &stopper);
    handle = ping_begin(&s.conn, &s.agent);
    free(receive_for(stopper.fd, call(&stopper, 0, FL_H_STOP, 0, NULL, 0))
             .payload);
    receive_dead(s.conn.fd, handle, FL_D_LOST, "stopped");
    receive_del_route(s.conn.fd, s.agent.id);
    wait_for_end(s.conn.fd);
    wait_for_end(s.agent.wire);
    CHECK_INT(stat(s.mux.path, &found), -1);
    CHECK_INT(errno, ENOENT);
    /* Its ssh stays until it is asked to go (SIGTERM). */
    ssh = s.agent.ssh;
    CHECK_INT(waitpid(ssh, NULL, 0), ssh);
    s.agent.ssh = 0;
    mux_wait(&s.mux);
    agent_close(&s.agent);
    conn_close(&s.conn);
    conn_close(&stopper);
}

/* STOP and what follows it may be read in one go, whoever sends it. */
TEST(an_agent_opened_after_stop_is_turned_away)
{
    struct setup s;
    struct fake_agent late;

    set_up(&s, NULL);
    CHECK_INT(kill(s.mux.pid, SIGSTOP), 0);
    (void)call(&s.conn, 0, FL_H_STOP, 0, NULL, 0);
    (void)agent_send_open(&s.conn, NULL, &late);
    CHECK_INT(kill(s.mux.pid, SIGCONT), 0);
    wait_for_end(late.wire);
    wait_for_end(s.conn.fd);
    agent_close(&late);
    agent_close(&s.agent);
    mux_wait(&s.mux);
    conn_close(&s.conn);
}

TEST(an_ssh_that_ignores_sigterm_is_killed_at_the_end)
{
    const struct agent_options stubborn = {.ignores_term = true};
    struct mux_process mux;
    struct conn conn;
    struct fake_agent agent;
    int status;

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    agent_open(&conn, &stubborn, &agent);
    free(receive_for(conn.fd, call(&conn, 0, FL_H_STOP, 0, NULL, 0)).payload);
    CHECK_INT(waitpid(agent.ssh, &status, 0), agent.ssh);
    CHECK_INT(WTERMSIG(status), SIGKILL);
    agent.ssh = 0;
    mux_wait(&mux);
    agent_close(&agent);
    conn_close(&conn);
}

TEST(an_idle_mux_ends_and_unlinks_its_socket)
{
    const struct fl_mux_config config = {.idle_seconds = 1};
    struct mux_process mux;
    struct conn conn;
    struct stat found;
    uint64_t start;

    mux_start(&mux, &config);
    conn_open(&mux, &conn);
    start = fl_os_now_ms();
    conn_close(&conn);
    mux_wait(&mux);
    CHECK(fl_os_now_ms() - start >= 990);
    CHECK_INT(stat(mux.path, &found), -1);
}

/* Rule 3. The idle time is longer than the agents' own. */
TEST(an_idle_mux_waits_for_its_agents_persist_time)
{
    const struct fl_mux_config config = {.idle_seconds = 0};
    const struct agent_options lasting = {.persist = 1};
    struct mux_process mux;
    struct conn conn;
    struct fake_agent agent;
    uint64_t start;

    mux_start(&mux, &config);
    conn_open(&mux, &conn);
    agent_open(&conn, &lasting, &agent);
    start = fl_os_now_ms();
    conn_close(&conn);
    wait_for_end(agent.wire);
    CHECK(fl_os_now_ms() - start >= 990);
    agent_close(&agent);
    mux_wait(&mux);
}

TEST(a_mux_whose_socket_is_gone_ends_with_its_last_client)
{
    struct mux_process mux;
    struct conn conn;
    uint64_t start = fl_os_now_ms();

    mux_start(&mux, NULL);
    conn_open(&mux, &conn);
    CHECK_INT(unlink(mux.path), 0);
    /* It looks every five seconds; until then and after, it serves. */
    while (fl_os_now_ms() - start < 5500) {
        fence(&conn);
        (void)poll(NULL, 0, 50);
    }
    fence(&conn);
    conn_close(&conn);
    mux_wait(&mux);
}

TEST(a_socket_that_is_another_mux_s_is_left_alone)
{
    struct mux_process old, young;
    struct conn conn, found;

    mux_start(&old, NULL);
    mux_start(&young, NULL);
    conn_open(&old, &conn);
    CHECK_INT(rename(young.path, old.path), 0);
    free(receive_for(conn.fd, call(&conn, 0, FL_H_STOP, 0, NULL, 0)).payload);
    wait_for_end(conn.fd);
    conn_close(&conn);
    mux_join(&old);
    conn_open(&old, &found); /* by its path, where the young one is now */
    CHECK_INT(status_number(&found, "pid"), young.pid);
    conn_close(&found);
    CHECK_INT(rename(old.path, young.path), 0);
    CHECK_INT(rmdir(old.dir), 0);
    mux_stop(&young);
}

/* Occurrences of `text` in one range of a process's memory. */
static int
count_in_range(int mem, unsigned long from, unsigned long to, const char *text)
{
    char *data = malloc(to - from), *at = data;
    const ssize_t size = pread(mem, data, to - from, (off_t)from);
    int found = 0;

    while (size > 0
           && (at = memmem(at, (size_t)(data + size - at), text, strlen(text)))
                  != NULL)
    {
        found++;
        at++;
    }
    free(data);
    return found;
}

/* Occurrences in its writable memory. */
static int
count_in_memory(pid_t pid, const char *text)
{
    char path[64], line[256];
    FILE *maps;
    int mem, found = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    mem = open(path, O_RDONLY | O_CLOEXEC);
    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    if (mem < 0 || maps == NULL) {
        runner_skip("another process's memory is readable for root only");
    }
    while (fgets(line, sizeof(line), maps) != NULL) {
        unsigned long from, to;

        /* Larger ones are a sanitizer's own. */
        if (sscanf(line, "%lx-%lx rw", &from, &to) == 2
            && strstr(line, " rw") != NULL && to - from < 1ul << 28)
        {
            found += count_in_range(mem, from, to, text);
        }
    }
    (void)fclose(maps);
    fl_os_close(mem);
    return found;
}

/* Systems fact 9: secrets are gone from the mux once they were written. */
TEST(a_secret_is_wiped_after_the_write)
{
    static const char *const texts[] = {"nothing to hide, but long enough",
                                        "correct horse battery staple"};
    struct setup s;

    set_up(&s, NULL);
    for (int secret = 0; secret < 2; secret++) {
        const struct fl_frame frame = {
            .flags = secret ? FL_F_SECRET : 0,
            .dst_id = s.agent.id,
            .src_id = s.conn.id,
            .handle = FL_H_DATA,
        };

        send_frame(s.conn.fd, &frame, texts[secret], strlen(texts[secret]));
        free(receive(s.agent.wire).payload);
        fence(&s.conn);
        /*
         * That the other is found shows that one looks in the right place.
         * The beginning is overwritten by the fence.
         */
        CHECK_INT(count_in_memory(s.mux.pid, texts[secret] + 8) > 0, !secret);
    }
    tear_down(&s);
}
