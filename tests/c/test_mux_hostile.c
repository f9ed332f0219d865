/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rule 5: no byte of a peer is trusted. Whatever one sends, the others go on,
 * and the mux ends in order (and, under the sanitizers, without a finding).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"
#include "os.h"
#include "runner.h"
#include "support.h"
#include "vectors.h"

#define VECTORS (sizeof(vectors) / sizeof(vectors[0]))

/* Sends what the mux takes; it may close at any byte. */
static void
throw_at(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        const ssize_t n = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno != EAGAIN) {
            return;
        }
        if (n < 0 && poll(&ready, 1, 100) == 0) {
            return; /* it waits for something: as good as refused */
        }
        at += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

/* Reads and forgets what has come. */
static void
discard(int fd)
{
    char data[65536];

    while (recv(fd, data, sizeof(data), MSG_DONTWAIT) > 0) {
        continue;
    }
}

/* The vector with source and authority of `id`, so that it goes further. */
static void
dress(const struct vector *v, uint32_t id, uint32_t auth, uint8_t *out)
{
    memcpy(out, v->data, v->size);
    if (v->size >= FL_HEADER_SIZE) {
        fl_put_u32(out + 8, id);
        fl_put_u32(out + 12, auth);
    }
}

TEST(vectors_with_every_bit_flipped_from_a_client)
{
    struct setup s;
    uint8_t data[1024];

    set_up(&s, NULL);
    for (size_t i = 0; i < VECTORS; i++) {
        const size_t bits = 8 * (vectors[i].size < 40 ? vectors[i].size : 40);

        for (size_t bit = 0; bit < bits; bit++) {
            struct conn conn;

            conn_open(&s.mux, &conn);
            dress(&vectors[i], conn.id, 0, data);
            data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            throw_at(conn.fd, data, vectors[i].size);
            conn_close(&conn);
        }
        nothing_came(&s.conn);
    }
    wait_for_status(&s.conn, "clients", 1);
    CHECK_INT(status_number(&s.conn, "agents"), 1);
    tear_down(&s);
}

TEST(vectors_with_every_bit_flipped_from_an_agent)
{
    static const struct agent_options options = {.no_process = true,
                                                 .no_stderr = true};
    struct setup s;
    uint8_t data[1024];

    set_up(&s, NULL);
    for (size_t i = 0; i < VECTORS; i++) {
        const size_t bits = 8 * (vectors[i].size < 40 ? vectors[i].size : 40);

        for (size_t bit = 0; bit < bits; bit++) {
            struct fake_agent agent;
            struct conn conn;

            conn_open(&s.mux, &conn);
            agent_open(&conn, &options, &agent);
            dress(&vectors[i], agent.id, agent.id, data);
            data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            throw_at(agent.wire, data, vectors[i].size);
            agent_close(&agent);
            conn_close(&conn);
        }
        nothing_came(&s.conn);
    }
    tear_down(&s);
}

TEST(vectors_cut_at_every_byte)
{
    struct setup s;
    uint8_t data[1024];

    set_up(&s, NULL);
    for (size_t i = 0; i < VECTORS; i++) {
        const size_t most = vectors[i].size < 80 ? vectors[i].size : 80;

        for (size_t cut = 0; cut < most; cut++) {
            struct conn conn;

            conn_open(&s.mux, &conn);
            dress(&vectors[i], conn.id, 0, data);
            throw_at(conn.fd, data, cut);
            conn_close(&conn);
        }
    }
    wait_for_status(&s.conn, "clients", 1);
    tear_down(&s);
}

/* Well-formed frames whose fields mean something, in no sensible order. */
static size_t
random_frame(struct random *random, uint32_t id, uint32_t auth, uint8_t *out)
{
    static const uint32_t handles[] = {
        200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210,  211, 212,
        213, 214, 101, 103, 104, 105, 106, 999, 0,   1,   1000, 1001};
    static const uint32_t numbers[] = {0,    1,    2,     3,         999,
                                       1000, 1001, 65535, UINT32_MAX};
    static const uint32_t sizes[] = {0, 1, 2, 4, 8, 18, 33, 40, 41, 75, 200};
    const struct fl_frame frame = {
        .flags = (uint8_t)(random_below(random, 8)
                           * (random_below(random, 3) == 0)),
        .dst_id = random_below(random, 6),
        .src_id = id,
        .auth_id = auth,
        .handle = handles[random_below(random, 25)],
        .reply_to = numbers[random_below(random, 9)],
        .stream = numbers[random_below(random, 9)],
        .length = sizes[random_below(random, 11)],
    };

    fl_frame_encode(&frame, out);
    for (size_t i = 0; i < frame.length; i++) {
        out[FL_HEADER_SIZE + i] = (uint8_t)(random_below(random, 3) == 0
                                                ? random_next(random)
                                                : random_below(random, 3));
    }
    return FL_HEADER_SIZE + frame.length;
}

TEST(random_messages_from_clients_and_agents)
{
    static const struct agent_options options = {
        .no_process = true, .no_stderr = true, .key = 'x'};
    struct setup s;
    struct random random = {23};
    uint8_t data[256];

    set_up(&s, NULL);
    for (int round = 0; round < 150; round++) {
        struct fake_agent agent;
        struct conn conn, owner;

        conn_open(&s.mux, &owner);
        agent_open(&owner, &options, &agent);
        conn_open(&s.mux, &conn);
        for (int i = 0; i < 60; i++) {
            throw_at(conn.fd, data, random_frame(&random, conn.id, 0, data));
            throw_at(agent.wire, data,
                     random_frame(&random, agent.id, agent.id, data));
            discard(conn.fd);
            discard(agent.wire);
            discard(s.agent.wire);
        }
        agent_close(&agent);
        conn_close(&conn);
        conn_close(&owner);
    }
    /* The setup's own agent may have been shut down by a client. */
    discard(s.conn.fd);
    (void)status_number(&s.conn, "agents");
    tear_down(&s);
}

static void
throw_frame(int fd, const struct fl_frame *frame, const void *payload,
            size_t size)
{
    struct fl_frame out = *frame;
    uint8_t header[FL_HEADER_SIZE];

    out.length = (uint32_t)size;
    fl_frame_encode(&out, header);
    throw_at(fd, header, sizeof(header));
    throw_at(fd, payload, size);
}

/* A connection that got through HELLO, or -1; the id is the first client's. */
static int
try_hello(const struct mux_process *mux, uint32_t *ret_id)
{
    const struct fl_frame frame = {.handle = FL_H_HELLO, .reply_to = 1000};
    const int fd = mux_connect(mux);
    uint8_t answer[FL_HEADER_SIZE + 6] = {0};

    if (fd < 0) {
        return -1;
    }
    throw_frame(fd, &frame, "\0\1\0\1\0\0\0\0", 8);
    if (recv(fd, answer, sizeof(answer), MSG_WAITALL) != sizeof(answer)
        || fl_get_u32(answer + 16) != 1000)
    {
        fl_os_close(fd);
        return -1;
    }
    *ret_id = fl_get_u32(answer + FL_HEADER_SIZE + 2);
    return fd;
}

/* An agent is opened, a call names a blob, and the blob is sent. */
static void
play_session(const struct mux_process *mux, struct fake_agent *agent)
{
    const uint8_t exec[2 + 32 + 4] = {0, 1}, blob[44] = {[35] = 4};
    const uint8_t key[33] = {[32] = 1};
    struct conn conn = {.next_handle = 2000};
    struct pollfd ready = {.events = POLLIN};

    conn.fd = try_hello(mux, &conn.id);
    if (conn.fd < 0) {
        return;
    }
    (void)agent_send_open(&conn, NULL, agent);
    throw_frame(conn.fd,
                &(struct fl_frame){.dst_id = conn.id + 1,
                                   .src_id = conn.id,
                                   .handle = FL_H_EXEC,
                                   .reply_to = 3000},
                exec, sizeof(exec));
    throw_frame(conn.fd,
                &(struct fl_frame){.src_id = conn.id, .handle = FL_H_PUT_BLOB},
                blob, sizeof(blob));
    throw_frame(conn.fd,
                &(struct fl_frame){.src_id = conn.id,
                                   .handle = FL_H_ATTACH,
                                   .reply_to = 3001},
                key, sizeof(key));
    ready.fd = agent->wire;
    /* Until it has something, or was refused; or the client was. */
    (void)poll(&ready, 1, 50);
    discard(conn.fd);
    conn_close(&conn);
}

/* Whatever was refused before: STOP must work, if not at the first try. */
static void
stop_by_force_of_habit(struct mux_process *mux)
{
    for (int i = 0; i < 3; i++) {
        struct fl_frame stop = {.handle = FL_H_STOP, .reply_to = 1001};
        const int fd = try_hello(mux, &stop.src_id);

        if (fd >= 0) {
            throw_frame(fd, &stop, NULL, 0);
            wait_for_end(fd);
            fl_os_close(fd);
        }
    }
    mux_wait(mux);
}

/*
 * One allocation of the mux fails, wherever it is: the mux may refuse a peer
 * or a call, but neither dies nor leaks, and still ends in order.
 */
TEST(any_one_failed_allocation_is_survived)
{
    for (long n = 0; n < 110; n++) {
        struct mux_process mux;
        struct fake_agent agent = {.wire = -1, .errors = -1};

        mux_start_failing(&mux, n);
        play_session(&mux, &agent);
        agent_close(&agent);
        stop_by_force_of_habit(&mux);
    }
}
