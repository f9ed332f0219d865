/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A real mux in a process of its own, clients on its real socket, and agents
 * whose far end the test holds and whose "ssh" is a real process. Every wait
 * has a deadline, after which the test fails.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"
#include "mux.h"

struct mux_process {
    pid_t pid;
    char dir[64], path[80];
};

struct conn {
    int fd;
    uint32_t id, next_handle;
};

struct message {
    struct fl_frame frame;
    uint8_t *payload; /* one byte longer than it says, for a zero */
};

struct agent_options {
    char key;   /* the 32-byte key is this, repeated; 0: 'k' */
    char alias; /* 0: none */
    bool bound, no_process, no_stderr, is_private;
    pid_t owner; /* 0: none */
    bool ignores_term;
    uint32_t persist;
    const char *label;
};

struct fake_agent {
    uint32_t id;
    int wire;   /* the agent's end */
    int errors; /* where its ssh would complain */
    pid_t ssh;  /* 0: none */
};

/* One mux, one client, one agent: what most tests need. */
struct setup {
    struct mux_process mux;
    struct conn conn;
    struct fake_agent agent;
};

/* `config` as for mux_start(). */
void
set_up(struct setup *s, const struct fl_mux_config *config);

void
tear_down(struct setup *s);

/* Starts a mux; `config` may be NULL, its descriptor and path are ignored. */
void
mux_start(struct mux_process *mux, const struct fl_mux_config *config);

/* The same, with the n-th allocation of the mux failing. */
void
mux_start_failing(struct mux_process *mux, long allocation);

/* Waits for its end, which must be in order. */
void
mux_join(struct mux_process *mux);

/* The same, and removes its directory. */
void
mux_wait(struct mux_process *mux);

/* Sends STOP and waits. */
void
mux_stop(struct mux_process *mux);

/* A connection without HELLO; -1 if there is no mux. */
int
mux_connect(const struct mux_process *mux);

void
conn_open(const struct mux_process *mux, struct conn *conn);

void
conn_close(struct conn *conn);

void
send_bytes(int fd, const void *data, size_t size);

void
send_frame(int fd, const struct fl_frame *frame, const void *payload,
           size_t size);

/* From a client: to `dst`, with a fresh reply handle, which is returned. */
uint32_t
call(struct conn *conn, uint32_t dst, uint32_t handle, uint32_t stream,
     const void *payload, size_t size);

/* From an agent: to the reply handle of a client. */
void
reply(const struct fake_agent *agent, const struct conn *conn, uint32_t handle,
      uint32_t stream, uint8_t flags, const void *payload, size_t size);

/* A PING that has come to the agent and waits for its answer; its handle. */
uint32_t
ping_begin(struct conn *conn, const struct fake_agent *agent);

/* Its answer, which has come to the client. */
void
ping_end(const struct fake_agent *agent, const struct conn *conn,
         uint32_t handle);

/* From an agent to the mux. */
void
tell_mux(const struct fake_agent *agent, uint32_t handle, uint32_t reply_to,
         const void *payload, size_t size);

/* Receives the next frame; its payload is the caller's to free. */
struct message
receive(int fd);

/* The next frame must be for this handle (and have reply_to 0). */
struct message
receive_for(int fd, uint32_t handle);

/* The next frame must be an IS_DEAD for the handle, whose reason has `part`.
 */
void
receive_dead(int fd, uint32_t handle, uint8_t code, const char *part);

/* The next frame must be a DEL_ROUTE of this context. */
void
receive_del_route(int fd, uint32_t id);

/* Nothing has come before the answer to a PING of the mux. */
void
nothing_came(struct conn *conn);

/* Everything sent has been dealt with by the mux. */
void
fence(struct conn *conn);

/* The other side closes (what comes before is thrown away). */
void
wait_for_end(int fd);

/* Asks STATUS; the number after `name`, or -1. */
long
status_number(struct conn *conn, const char *name);

/* Asks until it has the value. */
void
wait_for_status(struct conn *conn, const char *name, long value);

/* The STATUS text; the caller frees it. */
char *
status_text(struct conn *conn);

/* ATTACH; the answer's handle is returned, not waited for. */
uint32_t
attach(struct conn *conn, char key, bool lease);

/* Receives the answer of an ATTACH; the context id if `state` is FOUND. */
uint32_t
attached(struct conn *conn, uint32_t handle, uint8_t state);

/* OPEN without waiting; the far ends are in `ret`. */
uint32_t
agent_send_open(struct conn *conn, const struct agent_options *options,
                struct fake_agent *ret);

/* OPEN, and the HELLO that the agent gets. */
void
agent_open(struct conn *conn, const struct agent_options *options,
           struct fake_agent *ret);

/* The agent's HELLO to the mux. */
void
agent_hello(const struct fake_agent *agent, char nonce);

/* kill -9 of its ssh. */
void
agent_kill(struct fake_agent *agent);

/* Closes what the test holds of it and ends its ssh. */
void
agent_close(struct fake_agent *agent);

#endif
