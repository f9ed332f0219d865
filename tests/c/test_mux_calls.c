/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls that name blobs, with a real mux; docs/protocol.md, section 5. */
#include <poll.h>
#include <unistd.h>

#include "blob.h"
#include "harness.h"
#include "os.h"
#include "runner.h"

#define NAME FL_BLOB_NAME

/* Names are letters, 32 times each. */
static void
put_names(uint8_t *out, const char *letters)
{
    for (; *letters != '\0'; letters++, out += NAME) {
        memset(out, *letters, NAME);
    }
}

/* An EXEC that names the blobs of `letters`. */
static uint32_t
exec_blobs(struct conn *conn, uint32_t agent_id, uint32_t stream,
           const char *letters)
{
    uint8_t payload[2 + 26 * NAME + 4];
    const size_t count = strlen(letters);

    fl_put_u16(payload, (uint16_t)count);
    put_names(payload + 2, letters);
    memcpy(payload + 2 + count * NAME, "body", 4);
    return call(conn, agent_id, FL_H_EXEC, stream, payload,
                2 + count * NAME + 4);
}

static void
put_piece(struct conn *conn, char letter, uint32_t total, uint32_t offset,
          const void *data, size_t size)
{
    const struct fl_frame frame = {.src_id = conn->id,
                                   .handle = FL_H_PUT_BLOB};
    uint8_t *payload = malloc(NAME + 8 + size);

    memset(payload, letter, NAME);
    fl_put_u32(payload + NAME, total);
    fl_put_u32(payload + NAME + 4, offset);
    memcpy(payload + NAME + 8, data, size);
    send_frame(conn->fd, &frame, payload, NAME + 8 + size);
    free(payload);
}

static uint8_t
byte_of(char letter, size_t offset)
{
    return (uint8_t)(letter + (char)(offset % 101));
}

/* A whole blob, whose content follows from its name. */
static void
put_blob(struct conn *conn, char letter, size_t size)
{
    uint8_t *data = calloc(1, size + 1);

    for (size_t i = 0; i < size; i++) {
        data[i] = byte_of(letter, i);
    }
    for (size_t at = 0; at < size || at == 0; at += FL_CHUNK_SIZE) {
        const size_t left = size - at;

        put_piece(conn, letter, (uint32_t)size, (uint32_t)at, data + at,
                  left < FL_CHUNK_SIZE ? left : FL_CHUNK_SIZE);
    }
    free(data);
}

static void
receive_want(struct conn *conn, uint32_t handle, const char *letters)
{
    const struct message m = receive_for(conn->fd, handle);
    uint8_t names[26 * NAME];

    put_names(names, letters);
    CHECK_INT(m.payload[0], FL_K_WANT_BLOB);
    CHECK_INT(m.frame.flags, 0);
    CHECK_INT(m.frame.length, 1 + NAME * strlen(letters));
    CHECK_MEM(m.payload + 1, names, m.frame.length - 1);
    free(m.payload);
}

static void
receive_blob(struct fake_agent *agent, char letter, size_t size)
{
    size_t got = 0;

    do {
        const struct message m = receive_for(agent->wire, FL_H_PUT_BLOB);
        uint8_t name[NAME];

        memset(name, letter, NAME);
        CHECK_MEM(m.payload, name, NAME);
        CHECK_INT(m.frame.src_id, 0);
        CHECK_INT(fl_get_u32(m.payload + NAME), size);
        CHECK_INT(fl_get_u32(m.payload + NAME + 4), got);
        CHECK(m.frame.length <= NAME + 8 + FL_CHUNK_SIZE);
        for (size_t i = NAME + 8; i < m.frame.length; i++, got++) {
            CHECK_INT(m.payload[i], byte_of(letter, got));
        }
        free(m.payload);
    } while (got < size);
}

/* The call itself, with its list of names cut out. */
static void
receive_call(struct setup *s, uint32_t handle, uint32_t stream)
{
    const struct message m = receive(s->agent.wire);

    CHECK_INT(m.frame.handle, FL_H_EXEC);
    CHECK_INT(m.frame.reply_to, handle);
    CHECK_INT(m.frame.stream, stream);
    CHECK_INT(m.frame.src_id, s->conn.id);
    CHECK_INT(m.frame.length, 6);
    CHECK_MEM(m.payload, "\0\0body", 6);
    free(m.payload);
}

static void
finish(struct setup *s, uint32_t handle, uint32_t stream)
{
    reply(&s->agent, &s->conn, handle, stream, 0, "\1", 1);
    reply(&s->agent, &s->conn, handle, stream, FL_F_LAST, "\4", 1);
    free(receive_for(s->conn.fd, handle).payload);
    free(receive_for(s->conn.fd, handle).payload);
}

/* From asking for the blobs to the end of the call. */
static void
run_call(struct setup *s, uint32_t stream, const char *letters, size_t size)
{
    const uint32_t handle = exec_blobs(&s->conn, s->agent.id, stream, letters);

    receive_want(&s->conn, handle, letters);
    for (const char *at = letters; *at != '\0'; at++) {
        put_blob(&s->conn, *at, size);
    }
    for (const char *at = letters; *at != '\0'; at++) {
        receive_blob(&s->agent, *at, size);
    }
    receive_call(s, handle, stream);
    finish(s, handle, stream);
}

TEST(missing_blobs_are_fetched_and_travel_ahead_of_the_call)
{
    struct setup s;

    set_up(&s, NULL);
    run_call(&s, 1, "abc", 300000);
    CHECK_INT(status_number(&s.conn, "blobs"), 3);
    CHECK_INT(status_number(&s.conn, "blob_bytes"), 900000);
    CHECK_INT(status_number(&s.conn, "bindings"), 0);
    tear_down(&s);
}

TEST(what_the_agent_has_is_not_sent_again)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    run_call(&s, 1, "ab", 1000);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "ab");
    receive_call(&s, handle, 2);
    finish(&s, handle, 2);
    handle = exec_blobs(&s.conn, s.agent.id, 3, "abc");
    receive_want(&s.conn, handle, "c");
    put_blob(&s.conn, 'c', 10);
    receive_blob(&s.agent, 'c', 10);
    receive_call(&s, handle, 3);
    tear_down(&s);
}

TEST(one_copy_serves_every_host)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct fake_agent first;
    uint32_t handle;

    set_up(&s, NULL);
    run_call(&s, 1, "ab", 1000);
    first = s.agent;
    agent_open(&s.conn, &other_key, &s.agent);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "ab");
    receive_blob(&s.agent, 'a', 1000);
    receive_blob(&s.agent, 'b', 1000);
    receive_call(&s, handle, 2);
    agent_close(&first);
    receive_del_route(s.conn.fd, first.id);
    tear_down(&s);
}

TEST(an_empty_blob_travels_too)
{
    struct setup s;

    set_up(&s, NULL);
    run_call(&s, 1, "a", 0);
    tear_down(&s);
}

TEST(a_name_listed_twice_is_sent_once)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    handle = exec_blobs(&s.conn, s.agent.id, 1, "aa");
    receive_want(&s.conn, handle, "aa");
    put_blob(&s.conn, 'a', 10);
    put_blob(&s.conn, 'a', 10);
    receive_blob(&s.agent, 'a', 10);
    receive_call(&s, handle, 1);
    finish(&s, handle, 1);
    tear_down(&s);
}

TEST(two_callers_wait_for_the_same_blob)
{
    struct setup s;
    struct conn other;
    uint32_t mine, theirs;
    struct message m;

    set_up(&s, NULL);
    conn_open(&s.mux, &other);
    mine = exec_blobs(&s.conn, s.agent.id, 1, "a");
    receive_want(&s.conn, mine, "a");
    theirs = exec_blobs(&other, s.agent.id, 1, "a");
    receive_want(&other, theirs, "a");
    /* The first one's answer serves both, though the other never answers. */
    put_blob(&s.conn, 'a', 10);
    receive_blob(&s.agent, 'a', 10);
    receive_call(&s, mine, 1);
    m = receive(s.agent.wire);
    CHECK_INT(m.frame.src_id, other.id);
    CHECK_INT(m.frame.reply_to, theirs);
    free(m.payload);
    conn_close(&other);
    tear_down(&s);
}

TEST(a_parked_call_whose_caller_dies_is_dropped)
{
    struct setup s;
    struct conn dying;
    uint32_t handle;

    set_up(&s, NULL);
    conn_open(&s.mux, &dying);
    handle = exec_blobs(&dying, s.agent.id, 1, "a");
    receive_want(&dying, handle, "a");
    put_piece(&dying, 'a', 100, 0, "part", 4);
    fence(&dying);
    conn_close(&dying);
    wait_for_status(&s.conn, "bindings", 0);
    CHECK_INT(status_number(&s.conn, "blob_bytes"), 0);
    run_call(&s, 2, "a", 10); /* the agent saw nothing of the other */
    tear_down(&s);
}

TEST(a_parked_call_can_be_cancelled)
{
    struct setup s;
    struct fl_frame cancel;
    struct message m;
    uint32_t handle;

    set_up(&s, NULL);
    handle = exec_blobs(&s.conn, s.agent.id, 5, "a");
    receive_want(&s.conn, handle, "a");
    cancel = (struct fl_frame){.dst_id = s.agent.id,
                               .src_id = s.conn.id,
                               .handle = FL_H_CANCEL,
                               .stream = 5};
    send_frame(s.conn.fd, &cancel, NULL, 0);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "cancelled");
    put_blob(&s.conn, 'a', 10);
    (void)call(&s.conn, s.agent.id, FL_H_PING, 0, NULL, 0);
    m = receive(s.agent.wire);
    CHECK_INT(m.frame.handle, FL_H_PING);
    free(m.payload);
    tear_down(&s);
}

/* Rule 13: a call that only waited was not sent. */
TEST(a_parked_call_of_a_dead_agent_was_not_sent)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    handle = exec_blobs(&s.conn, s.agent.id, 5, "a");
    receive_want(&s.conn, handle, "a");
    agent_kill(&s.agent);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "web1");
    receive_del_route(s.conn.fd, s.agent.id);
    put_blob(&s.conn, 'a', 10);
    nothing_came(&s.conn);
    tear_down(&s);
}

TEST(blobs_that_left_do_not_make_the_call_lost)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    handle = exec_blobs(&s.conn, s.agent.id, 5, "a");
    receive_want(&s.conn, handle, "a");
    put_blob(&s.conn, 'a', 4000000); /* more than the wire takes unread */
    fence(&s.conn);
    agent_kill(&s.agent);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "web1");
    receive_del_route(s.conn.fd, s.agent.id);
    tear_down(&s);
}

static void
need_blob(struct fake_agent *agent, uint32_t client_id, uint32_t stream,
          const char *letters)
{
    uint8_t payload[8 + 26 * NAME];

    fl_put_u32(payload, client_id);
    fl_put_u32(payload + 4, stream);
    put_names(payload + 8, letters);
    tell_mux(agent, FL_H_NEED_BLOB, 0, payload, 8 + NAME * strlen(letters));
}

TEST(a_blob_the_agent_lost_comes_from_the_store)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    run_call(&s, 1, "a", 1000);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, handle, 2);
    need_blob(&s.agent, s.conn.id, 2, "a");
    receive_blob(&s.agent, 'a', 1000);
    finish(&s, handle, 2);
    tear_down(&s);
}

TEST(a_blob_neither_has_comes_from_the_caller)
{
    const struct fl_mux_config small = {.blob_bytes = 1500, .idle_seconds = 9};
    struct setup s;
    uint32_t handle;

    set_up(&s, &small);
    run_call(&s, 1, "a", 1000);
    run_call(&s, 2, "b", 1000); /* pushes a out of the store */
    handle = exec_blobs(&s.conn, s.agent.id, 3, "a");
    receive_call(&s, handle, 3);
    need_blob(&s.agent, s.conn.id, 3, "a");
    receive_want(&s.conn, handle, "a");
    put_blob(&s.conn, 'a', 1000);
    receive_blob(&s.agent, 'a', 1000);
    finish(&s, handle, 3);
    tear_down(&s);
}

/* Rule 6: a target reads nothing that its own calls do not name. */
TEST(an_agent_gets_only_what_its_calls_name)
{
    const struct agent_options other_key = {.key = 'o'};
    struct setup s;
    struct fake_agent spy;
    uint32_t handle;

    set_up(&s, NULL);
    run_call(&s, 1, "ab", 1000);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, handle, 2);
    agent_open(&s.conn, &other_key, &spy);
    need_blob(&spy, s.conn.id, 2, "a");     /* another's call */
    need_blob(&s.agent, s.conn.id, 2, "b"); /* not of this call */
    need_blob(&s.agent, s.conn.id, 9, "a"); /* no such call */
    need_blob(&s.agent, 9999, 2, "a");      /* no such client */
    wait_for_status(&s.conn, "dropped_frames", 4);
    tell_mux(&spy, FL_H_PING, 5000, NULL, 0);
    free(receive_for(spy.wire, 5000).payload);
    agent_close(&spy);
    receive_del_route(s.conn.fd, spy.id);
    finish(&s, handle, 2);
    tear_down(&s);
}

TEST(an_agent_that_asks_for_ever_is_not_answered_for_ever)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    run_call(&s, 1, "a", 10);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, handle, 2);
    for (int i = 0; i < 10; i++) {
        need_blob(&s.agent, s.conn.id, 2, "a");
    }
    wait_for_status(&s.conn, "dropped_frames", 6);
    tear_down(&s);
}

/* Systems fact 30: only the mux evicts. */
TEST(an_agents_memory_is_kept_within_its_cap)
{
    const struct fl_mux_config small = {.agent_blob_bytes = 2500,
                                        .idle_seconds = 9};
    struct setup s;
    struct message m;
    uint8_t name[NAME];
    uint32_t handle;

    set_up(&s, &small);
    run_call(&s, 1, "a", 1000);
    run_call(&s, 2, "b", 1000);
    handle = exec_blobs(&s.conn, s.agent.id, 3, "c");
    receive_want(&s.conn, handle, "c");
    put_blob(&s.conn, 'c', 1000);
    m = receive_for(s.agent.wire, FL_H_DROP_BLOB);
    memset(name, 'a', NAME);
    CHECK_INT(m.frame.length, NAME);
    CHECK_MEM(m.payload, name, NAME);
    free(m.payload);
    receive_blob(&s.agent, 'c', 1000);
    receive_call(&s, handle, 3);
    finish(&s, handle, 3);
    /* a has to be sent again, from the store. */
    handle = exec_blobs(&s.conn, s.agent.id, 4, "a");
    m = receive_for(s.agent.wire, FL_H_DROP_BLOB);
    CHECK_INT(m.payload[0], 'b');
    free(m.payload);
    receive_blob(&s.agent, 'a', 1000);
    receive_call(&s, handle, 4);
    tear_down(&s);
}

TEST(a_blob_of_a_call_in_flight_is_not_dropped)
{
    const struct fl_mux_config small = {.agent_blob_bytes = 1500,
                                        .idle_seconds = 9};
    struct setup s;
    uint32_t running, handle;

    set_up(&s, &small);
    run_call(&s, 1, "a", 1000);
    running = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, running, 2);
    handle = exec_blobs(&s.conn, s.agent.id, 3, "b");
    receive_want(&s.conn, handle, "b");
    put_blob(&s.conn, 'b', 1000);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "memory for blobs");
    finish(&s, running, 2);
    tear_down(&s);
}

TEST(a_new_nonce_means_an_agent_without_blobs)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    agent_hello(&s.agent, '1');
    run_call(&s, 1, "a", 1000);
    agent_hello(&s.agent, '1'); /* the same: nothing changes */
    tell_mux(&s.agent, FL_H_PING, 5000, NULL, 0);
    free(receive_for(s.agent.wire, 5000).payload);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, handle, 2);
    agent_hello(&s.agent, '2');
    tell_mux(&s.agent, FL_H_PING, 5001, NULL, 0);
    free(receive_for(s.agent.wire, 5001).payload);
    finish(&s, handle, 2);
    handle = exec_blobs(&s.conn, s.agent.id, 3, "a");
    receive_blob(&s.agent, 'a', 1000);
    receive_call(&s, handle, 3);
    tear_down(&s);
}

/* Receives the CANCEL of a call. */
static void
receive_cancel(struct fake_agent *agent, uint32_t stream)
{
    const struct message m = receive_for(agent->wire, FL_H_CANCEL);

    CHECK_INT(m.frame.stream, stream);
    free(m.payload);
}

/*
 * A call of the interpreter before the new nonce asks for its blob, for which
 * there is no room any more: neither side is left waiting.
 */
TEST(a_blob_that_finds_no_room_later_ends_its_call)
{
    const struct fl_mux_config small = {.agent_blob_bytes = 1500,
                                        .idle_seconds = 9};
    struct setup s;
    uint32_t first, second;

    set_up(&s, &small);
    agent_hello(&s.agent, '1');
    run_call(&s, 1, "a", 1000);
    first = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, first, 2);
    agent_hello(&s.agent, '2');
    tell_mux(&s.agent, FL_H_PING, 5000, NULL, 0);
    free(receive_for(s.agent.wire, 5000).payload);
    second = exec_blobs(&s.conn, s.agent.id, 3, "b");
    receive_want(&s.conn, second, "b");
    put_blob(&s.conn, 'b', 1000);
    receive_blob(&s.agent, 'b', 1000);
    receive_call(&s, second, 3);
    need_blob(&s.agent, s.conn.id, 2, "a");
    receive_dead(s.conn.fd, first, FL_D_LOST, "memory for blobs");
    receive_cancel(&s.agent, 2);
    finish(&s, second, 3);
    tear_down(&s);
}

/* The same, where the caller had to give the blob once more. */
TEST(a_blob_that_comes_again_and_finds_no_room_ends_its_call)
{
    const struct fl_mux_config small = {
        .agent_blob_bytes = 1500, .blob_bytes = 1500, .idle_seconds = 9};
    struct setup s;
    uint32_t first, second;

    set_up(&s, &small);
    agent_hello(&s.agent, '1');
    run_call(&s, 1, "a", 1000);
    first = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, first, 2);
    reply(&s.agent, &s.conn, first, 2, 0, "\1", 1); /* STARTED */
    free(receive_for(s.conn.fd, first).payload);
    agent_hello(&s.agent, '2');
    tell_mux(&s.agent, FL_H_PING, 5000, NULL, 0);
    free(receive_for(s.agent.wire, 5000).payload);
    second = exec_blobs(&s.conn, s.agent.id, 3, "b");
    receive_want(&s.conn, second, "b");
    put_blob(&s.conn, 'b', 1000); /* the store has only b now */
    receive_blob(&s.agent, 'b', 1000);
    receive_call(&s, second, 3);
    reply(&s.agent, &s.conn, second, 3, 0, "\1", 1);
    free(receive_for(s.conn.fd, second).payload);
    need_blob(&s.agent, s.conn.id, 2, "a");
    receive_want(&s.conn, first, "a");
    put_blob(&s.conn, 'a', 1000);
    receive_dead(s.conn.fd, first, FL_D_LOST, "memory for blobs");
    receive_cancel(&s.agent, 2);
    finish(&s, second, 3);
    tear_down(&s);
}

/* Blobs follow the mux's HELLO at once, so they may overtake the answer. */
TEST(the_first_hello_takes_no_blob_away)
{
    struct setup s;
    uint32_t handle;

    set_up(&s, NULL);
    run_call(&s, 1, "a", 1000);
    agent_hello(&s.agent, '1');
    tell_mux(&s.agent, FL_H_PING, 5000, NULL, 0);
    free(receive_for(s.agent.wire, 5000).payload);
    handle = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_call(&s, handle, 2);
    tear_down(&s);
}

TEST(a_call_parked_over_a_new_nonce_gets_what_is_missing_by_then)
{
    const struct fl_mux_config small = {.blob_bytes = 1500, .idle_seconds = 9};
    struct setup s;
    uint32_t handle;

    set_up(&s, &small);
    agent_hello(&s.agent, '1');
    run_call(&s, 1, "a", 1000);
    run_call(&s, 2, "b", 1000); /* the store has only b now */
    handle = exec_blobs(&s.conn, s.agent.id, 3, "ac");
    receive_want(&s.conn, handle, "c");
    agent_hello(&s.agent, '2'); /* the agent has lost a */
    tell_mux(&s.agent, FL_H_PING, 5000, NULL, 0);
    free(receive_for(s.agent.wire, 5000).payload);
    put_blob(&s.conn, 'c', 400);
    receive_want(&s.conn, handle, "a");
    put_blob(&s.conn, 'a', 1000);
    receive_blob(&s.agent, 'a', 1000);
    receive_blob(&s.agent, 'c', 400);
    receive_call(&s, handle, 3);
    tear_down(&s);
}

/* Rule 4: so are the lists of names, which cost the mux more than the wire. */
TEST(the_names_that_calls_list_are_bounded)
{
    enum { LISTED = 4096, CALLS = 65536 / LISTED };
    struct setup s;
    uint8_t *payload = calloc(1, 2 + (size_t)LISTED * NAME);
    uint32_t handle = 0;

    set_up(&s, NULL);
    fl_put_u16(payload, LISTED);
    for (uint32_t i = 0; i < LISTED; i++) {
        fl_put_u32(payload + 2 + (size_t)i * NAME, i + 1);
    }
    for (uint32_t i = 0; i < CALLS; i++) {
        handle = call(&s.conn, s.agent.id, FL_H_EXEC, i + 1, payload,
                      2 + (size_t)LISTED * NAME);
        free(receive_for(s.conn.fd, handle).payload);
    }
    handle = call(&s.conn, s.agent.id, FL_H_EXEC, CALLS + 1, payload,
                  2 + (size_t)LISTED * NAME);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "too many blobs");
    free(payload);
    tear_down(&s);
}

/* Rule 4: what waits is bounded, and refused in words. */
TEST(calls_that_wait_have_a_cap)
{
    const struct fl_mux_config small = {.parked_bytes = 6, .idle_seconds = 9};
    struct setup s;
    uint32_t first, second;

    set_up(&s, &small);
    first = exec_blobs(&s.conn, s.agent.id, 1, "a");
    receive_want(&s.conn, first, "a");
    second = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_dead(s.conn.fd, second, FL_D_NOT_SENT, "too much");
    put_blob(&s.conn, 'a', 10);
    receive_blob(&s.agent, 'a', 10);
    receive_call(&s, first, 1);
    tear_down(&s);
}

TEST(a_full_store_ends_the_call_in_words)
{
    const struct fl_mux_config small = {.blob_bytes = 500, .idle_seconds = 9};
    struct setup s;
    uint32_t handle;

    set_up(&s, &small);
    handle = exec_blobs(&s.conn, s.agent.id, 1, "a");
    receive_want(&s.conn, handle, "a");
    put_piece(&s.conn, 'a', 501, 0, "x", 1);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "limit");
    nothing_came(&s.conn);
    tear_down(&s);
}

TEST(pieces_that_do_not_fit_close_the_client)
{
    struct setup s;
    struct conn liar;

    set_up(&s, NULL);
    for (int i = 0; i < 4; i++) {
        conn_open(&s.mux, &liar);
        switch (i) {
        case 0: /* leaves something out */
            put_piece(&liar, 'a', 10, 0, "x", 1);
            put_piece(&liar, 'a', 10, 2, "x", 1);
            break;
        case 1: /* longer than it said */
            put_piece(&liar, 'a', 1, 0, "xy", 2);
            break;
        case 2: /* longer than is allowed */
            put_piece(&liar, 'a', FL_BLOB_MAX + 1, 0, "x", 1);
            break;
        default: /* changes its mind about the size */
            put_piece(&liar, 'a', 10, 0, "x", 1);
            put_piece(&liar, 'a', 11, 1, "x", 1);
            break;
        }
        receive_dead(liar.fd, 0, FL_D_REJECTED, "pieces");
        wait_for_end(liar.fd);
        conn_close(&liar);
    }
    CHECK_INT(status_number(&s.conn, "blob_bytes"), 0);
    tear_down(&s);
}

/* Two threads of one client answer two WANT_BLOBs, their pieces mixed. */
TEST(a_blob_that_a_client_sends_twice_at_once_is_taken_once)
{
    struct setup s;
    uint32_t first, second;
    uint8_t data[10];

    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = byte_of('a', i);
    }
    set_up(&s, NULL);
    first = exec_blobs(&s.conn, s.agent.id, 1, "a");
    receive_want(&s.conn, first, "a");
    second = exec_blobs(&s.conn, s.agent.id, 2, "a");
    receive_want(&s.conn, second, "a");
    put_piece(&s.conn, 'a', 10, 0, data, 4);
    put_piece(&s.conn, 'a', 10, 0, data, 4);
    put_piece(&s.conn, 'a', 10, 4, data + 4, 4);
    put_piece(&s.conn, 'a', 10, 4, data + 4, 4);
    put_piece(&s.conn, 'a', 10, 8, data + 8, 2);
    put_piece(&s.conn, 'a', 10, 8, data + 8, 2);
    receive_blob(&s.agent, 'a', 10);
    receive_call(&s, first, 1);
    receive_call(&s, second, 2);
    finish(&s, first, 1);
    finish(&s, second, 2);
    tear_down(&s);
}

/* Its sender gave up half-way (a deadline, Ctrl-C) and runs it once more. */
TEST(a_blob_that_was_half_sent_can_be_sent_again)
{
    struct setup s;
    uint8_t half[5];
    uint32_t handle;

    for (size_t i = 0; i < sizeof(half); i++) {
        half[i] = byte_of('a', i);
    }
    set_up(&s, NULL);
    put_piece(&s.conn, 'a', 9, 0, half, sizeof(half));
    handle = exec_blobs(&s.conn, s.agent.id, 1, "a");
    receive_want(&s.conn, handle, "a");
    put_blob(&s.conn, 'a', 9);
    receive_blob(&s.agent, 'a', 9);
    receive_call(&s, handle, 1);
    finish(&s, handle, 1);
    tear_down(&s);
}

/* The pieces after the one that was refused were on their way already. */
TEST(the_rest_of_a_refused_blob_does_not_close_the_client)
{
    const struct fl_mux_config small = {.blob_bytes = 500, .idle_seconds = 9};
    struct setup s;
    uint32_t handle;

    set_up(&s, &small);
    handle = exec_blobs(&s.conn, s.agent.id, 1, "a");
    receive_want(&s.conn, handle, "a");
    put_piece(&s.conn, 'a', 501, 0, "x", 1);
    put_piece(&s.conn, 'a', 501, 1, "x", 1);
    receive_dead(s.conn.fd, handle, FL_D_NOT_SENT, "limit");
    nothing_came(&s.conn);
    tear_down(&s);
}

TEST(a_malformed_list_of_names_closes_the_client)
{
    static const struct {
        const char *bytes;
        size_t size;
    } payloads[] = {{"", 0}, {"\0", 1}, {"\0\1", 2}, {"\xff\xff", 2}};
    struct setup s;
    struct conn liar;

    set_up(&s, NULL);
    for (size_t i = 0; i < 4; i++) {
        conn_open(&s.mux, &liar);
        (void)call(&liar, s.agent.id, i % 2 ? FL_H_EXEC : FL_H_CALL_FUNCTION,
                   1, payloads[i].bytes, payloads[i].size);
        receive_dead(liar.fd, 0, FL_D_REJECTED, "list of blobs");
        wait_for_end(liar.fd);
        conn_close(&liar);
    }
    tear_down(&s);
}

TEST(function_calls_name_blobs_as_well)
{
    struct setup s;
    uint8_t payload[2 + NAME + 4] = {0, 1};
    struct message m;
    uint32_t handle;

    set_up(&s, NULL);
    memset(payload + 2, 'a', NAME);
    memcpy(payload + 2 + NAME, "body", 4);
    handle = call(&s.conn, s.agent.id, FL_H_CALL_FUNCTION, 4, payload,
                  sizeof(payload));
    receive_want(&s.conn, handle, "a");
    put_blob(&s.conn, 'a', 5);
    receive_blob(&s.agent, 'a', 5);
    m = receive(s.agent.wire);
    CHECK_INT(m.frame.handle, FL_H_CALL_FUNCTION);
    CHECK_INT(m.frame.length, 6);
    free(m.payload);
    tear_down(&s);
}

/* The mux has no zlib to look for names, so nothing passes it unread. */
TEST(a_compressed_call_is_rejected)
{
    static const uint32_t handles[] = {FL_H_EXEC, FL_H_CALL_FUNCTION};
    struct setup s;

    set_up(&s, NULL);
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++) {
        const struct fl_frame frame = {
            .flags = FL_F_COMPRESSED,
            .dst_id = s.agent.id,
            .src_id = s.conn.id,
            .handle = handles[i],
            .reply_to = 4000,
            .stream = 1,
        };

        send_frame(s.conn.fd, &frame, "\0\0body", 6);
        receive_dead(s.conn.fd, 4000, FL_D_REJECTED, "compressed");
    }
    CHECK_INT(status_number(&s.conn, "bindings"), 0);
    tear_down(&s);
}
