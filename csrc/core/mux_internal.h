/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the mux_*.c files share; nobody else includes it.
 *
 * Peers (clients and agents) are never freed where they fail. mux_doom()
 * marks one, and mux_settle(), which runs after each turn of the loop,
 * takes the doomed ones apart, resumes who waited for a queue to drain, and
 * writes what the turn has queued.
 */
#ifndef FL_MUX_INTERNAL_H
#define FL_MUX_INTERNAL_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "blob.h"
#include "frame.h"
#include "list.h"
#include "loop.h"
#include "mux.h"
#include "router.h"
#include "stream.h"

/*
 * Fairness and back-pressure. A queue above its high mark pauses the sources
 * that write to it, what one read brought at most goes beyond; the cap is for
 * answers of the mux itself, which nothing else holds back.
 *
 * An agent is not paused for a client that does not read, since others may
 * use it as well, as long as it keeps to the credit of each call: that much
 * the client's queue takes beyond its high mark, up to the hard one. Above
 * the hard mark agents wait, and a client that then reads nothing for
 * MUX_STALLED turns of the slow timer is closed.
 */
#define MUX_QUEUE_HIGH ((size_t)512 * 1024)
#define MUX_QUEUE_LOW ((size_t)128 * 1024)
#define MUX_QUEUE_HARD ((size_t)8 * 1024 * 1024)
#define MUX_QUEUE_CAP ((size_t)16 * 1024 * 1024)
/* The credit of one call, and something for what needs no credit. */
#define MUX_CALL_AHEAD ((size_t)(256 + 128) * 1024)
#define MUX_STALLED 2
#define MUX_PARKED_BYTES ((size_t)8 * 1024 * 1024)
#define MUX_CLIENTS ((size_t)4096)
#define MUX_AGENTS ((size_t)8192)
/* Blob names one call may list. */
#define MUX_CALL_NAMES 4096
/* And all calls of one client together: about 4 MB of names. */
#define MUX_CLIENT_NAMES ((size_t)65536)
/* Blobs one client may be sending at the same time. */
#define MUX_UPLOADS 256
/* Leases one client may hold or wait for. */
#define MUX_CLAIMS 4096
/* How often an agent may ask again for each blob of a call. */
#define MUX_CALL_RESENDS 4

/* Times, in milliseconds where not said otherwise. */
#define MUX_SPIN_US 50          /* systems fact 36 */
#define MUX_QUICK_US 100        /* a reply worth to spin for */
#define MUX_SPIN_BAN_US 1000000 /* when others want the processor */
#define MUX_HOUSEKEEPING 5000   /* the slow timer */
#define MUX_HELLO_DEADLINE 60000
#define MUX_START_GRACE 10000 /* for the first client */
#define MUX_DRAIN_GRACE 1000  /* reading on after an ssh has died */
#define MUX_ACCEPT_PAUSE 200  /* when descriptors have run out */
#define MUX_TERM_AFTER 2000   /* ssh that stays, at the end */
#define MUX_KILL_AFTER 3000
#define MUX_LEAVE_AFTER 5000

#define MUX_STDERR_TAIL ((size_t)4096)
#define MUX_REASON_SIZE ((size_t)6144)
#define MUX_LABEL_SIZE ((size_t)256)
#define MUX_AGENT_HELLO_MAX ((size_t)65536)
#define MUX_KEY 32

/* The common start of a client and an agent. */
struct peer {
    struct fl_mux *mux;
    enum fl_side side;
    struct fl_endpoint *endpoint; /* NULL: a client that said no HELLO yet */
    struct fl_stream *stream;
    struct peer *blocked_on; /* its queue must drain before we read on */
    bool doomed;
    uint64_t since;         /* ms */
    struct fl_list of_mux;  /* mux->clients or mux->agents */
    struct fl_list dirty;   /* mux->dirty: output queued in this turn */
    struct fl_list waiting; /* mux->blocked or mux->ready */
};

/* Pieces of a blob that a client is sending. */
struct upload {
    struct client *client;
    struct fl_blob *blob;
    struct fl_list of_client;
};

struct client {
    struct peer peer;
    struct fl_list attachments;
    struct fl_list waiters;
    struct fl_list uploads;
    size_t upload_count, parked_bytes;
    size_t claims;       /* leases it holds, and waits for */
    size_t names;        /* blob names that its calls list */
    unsigned stalled;    /* turns of the slow timer, so far */
    uint64_t stalled_at; /* bytes written to it by the last one */
    /* The last route used, good while mux->route_epoch stands. */
    uint32_t cached_dst;
    uint64_t cached_epoch;
    struct peer *cached_sink;
};

struct agent {
    struct peer peer;
    uint8_t key[MUX_KEY], alias[MUX_KEY];
    bool has_alias, retired, exited;
    bool is_private;         /* only those attached to it may call it */
    bool ends_unused;        /* a retired one that attachments do not hold */
    struct client *bound_to; /* closed with it; NULL: with none */
    struct fl_list attachments;
    pid_t pid;
    int pidfd, stderr_fd; /* -1: none */
    int owner_pidfd;      /* closed with this process; -1: with none */
    struct fl_watch *pid_watch, *stderr_watch, *owner_watch;
    uint8_t tail[MUX_STDERR_TAIL]; /* the last its ssh said */
    size_t tail_size;
    char label[MUX_LABEL_SIZE];
    char reason[MUX_REASON_SIZE]; /* why it is doomed */
    uint32_t persist_seconds;
    struct fl_timer *idle_timer, *drain_timer;
    uint64_t last_input; /* ms */
    uint8_t nonce[16];
    uint8_t *hello; /* payload; NULL: has not come yet */
    size_t hello_size;
    struct fl_have *have;
    uint64_t calls;          /* bindings it ever had */
    struct fl_list draining; /* mux->draining */
    /* The last binding used, good while mux->binding_epoch stands. */
    uint64_t cached_epoch;
    struct fl_binding *cached_binding;
};

/* A client may use an agent: keeps it alive, is told when it ends. */
struct attachment {
    struct client *client;
    struct agent *agent;
    struct fl_list of_client, of_agent;
};

/* The right to boot the agent of a key, and who waits for it. */
struct lease {
    uint8_t key[MUX_KEY];
    struct client *holder;
    struct fl_list waiters;
    struct fl_list of_mux;
};

struct waiter {
    struct client *client;
    struct lease *lease;
    uint32_t reply_to;
    struct fl_list of_client, of_lease;
};

/* An ssh whose wire is closed and who has not ended yet. */
struct lingerer {
    struct fl_mux *mux;
    int pidfd;
    struct fl_watch *watch;
    struct fl_list of_mux;
};

/* Consecutive frames of one source to one sink, not yet written. */
struct run {
    struct peer *sink;
    const uint8_t *data;
    size_t size;
    bool secret;
};

struct fl_mux {
    struct fl_mux_config config;
    char *socket_path;
    struct stat socket_stat;
    bool orphaned; /* the socket's entry is gone or somebody else's */
    bool ending;
    int listen_fd;
    struct fl_loop *loop;
    struct fl_watch *listen_watch;
    struct fl_timer *housekeeping, *idle_timer, *accept_timer, *end_timer;
    struct fl_router *router;
    struct fl_blobs *blobs;
    struct fl_list clients, agents;
    size_t client_count, agent_count, doomed_count;
    struct fl_list leases;
    struct fl_list dirty, blocked, ready, draining, lingerers;
    struct fl_list waiting_calls;
    struct run run;
    uint64_t route_epoch, binding_epoch;
    uint64_t started, last_client; /* ms */
    unsigned end_step;
    size_t binding_count;
    uint64_t requests, replies; /* runs written to agents and to clients */
    uint64_t frames_in, frames_out, dropped_frames;
    uint64_t bytes_in, bytes_out, wire_up, wire_down; /* of ended peers */
    char last_error[512];
};

/* What became of a frame. */
enum verdict {
    FRAME_TAKEN,   /* dealt with, or dropped */
    FRAME_FORWARD, /* goes to `*ret_sink` as it is */
    FRAME_BLOCKED, /* has to wait for `*ret_sink` to drain */
};

static inline struct client *
peer_client(struct peer *peer)
{
    return (struct client *)(void *)peer;
}

static inline struct agent *
peer_agent(struct peer *peer)
{
    return (struct agent *)(void *)peer;
}

static inline uint32_t
peer_id(const struct peer *peer)
{
    return peer->endpoint != NULL ? fl_endpoint_id(peer->endpoint) : 0;
}

/* mux.c: the life of peers and of the mux */

/* Joins the mux's lists; `peer->stream` must be set. */
void
mux_add_peer(struct fl_mux *mux, struct peer *peer, enum fl_side side);

/* To be taken apart after this turn. Harmless if it is already. */
void
mux_doom(struct peer *peer);

/* Remembers the last error, for STATUS. */
void
mux_note_error(struct fl_mux *mux, const char *text);

/* Starts or stops the clock of the idle end, as things stand. */
void
mux_check_idle(struct fl_mux *mux);

/* Begins to end: no new clients, every wire closed. */
void
mux_end(struct fl_mux *mux);

/* Keeps an eye on an ssh whose wire is closed; owns `pidfd`. */
void
mux_linger(struct fl_mux *mux, int pidfd);

/* mux_forward.c: frames from stream to stream */

/* Callbacks of every peer's stream. */
void
mux_peer_input(struct peer *peer);

void
mux_peer_drained(struct peer *peer);

/* Waits for `sink` before more of `peer` is read. */
void
mux_block(struct peer *peer, struct peer *sink);

/* Goes on in this turn with a peer that waits for another, if it does. */
void
mux_unblock(struct peer *peer);

/* Writes the run, if there is one. */
void
mux_flush_run(struct fl_mux *mux);

/* Bytes accepted for `sink`, the run's included. */
uint64_t
mux_accepted(const struct peer *sink);

/* Sends a frame whose payload is the concatenation of two parts. */
void
mux_send(struct peer *sink, const struct fl_frame *frame, const void *head,
         size_t head_size, const void *body, size_t body_size);

/* Marks it to be flushed at the end of the turn. */
void
mux_mark_dirty(struct peer *peer);

/* A peer whose queue takes no more is doomed, with words. */
void
mux_overflow(struct peer *peer, int err);

/* Answers a request to the mux itself, if it wants an answer. */
void
mux_answer(struct peer *peer, const struct fl_frame *request,
           const void *payload, size_t size);

/* Answers a PING of the mux. */
void
mux_pong(struct peer *peer, const struct fl_frame *request,
         const uint8_t *payload);

/* IS_DEAD for a reply handle of a client or an agent. */
void
mux_send_dead(struct peer *client, uint32_t handle, uint32_t stream,
              enum fl_death code, const char *reason);

/* mux_client.c */
void
mux_client_accept(struct fl_mux *mux, int fd);

enum verdict
mux_client_frame(struct client *client, const struct fl_frame *frame,
                 const uint8_t *payload, struct peer **ret_sink);

/* From the slow timer: closes a client that holds up agents for too long. */
void
mux_client_check_stalled(struct client *client);

/* Closes the client for breaking the protocol: says `text` to it first. */
void
mux_client_refuse(struct client *client, const char *text);

void
mux_client_free(struct client *client);

void
mux_detach(struct attachment *attachment);

/* mux_agent.c */

/* The descriptors of an OPEN, in the order in which they are sent. */
enum {
    OPEN_READ_FD,
    OPEN_WRITE_FD,
    OPEN_STDERR_FD,   /* or -1 */
    OPEN_PIDFD,       /* or -1 */
    OPEN_OWNER_PIDFD, /* or -1 */
    OPEN_FDS,
};

/* Makes an agent of an OPEN; owns the descriptors from the call on. */
int
mux_agent_open(struct fl_mux *mux, const int fds[OPEN_FDS],
               struct agent **ret);

enum verdict
mux_agent_frame(struct agent *agent, const struct fl_frame *frame,
                const uint8_t *payload, struct peer **ret_sink);

/* Dooms it; `why` becomes the reason, with its ssh's last words. */
void
mux_agent_doom(struct agent *agent, const char *why);

/* Reads on what a dead ssh left; dooms the agent when that is all. */
void
mux_agent_drain(struct agent *agent);

/* Starts or stops the persist clock; ends a retired one that is done. */
void
mux_agent_check_idle(struct agent *agent);

void
mux_agent_free(struct agent *agent);

/* mux_call.c: bindings and calls that name blobs */

/* Ends a binding with an IS_DEAD; the code follows from what has left. */
void
mux_end_binding(struct fl_mux *mux, struct fl_binding *binding,
                const char *reason);

/* Ends a binding in silence, with what its call holds. */
void
mux_drop_binding(struct fl_mux *mux, struct fl_binding *binding);

/* An EXEC or CALL_FUNCTION that names blobs. */
void
mux_call_begin(struct client *client, struct peer *sink,
               const struct fl_frame *frame, const uint8_t *payload);

/* The agent has answered: the caller's bytes are no longer needed. */
void
mux_call_confirm(struct fl_binding *binding);

/* CANCEL of a call still parked. True if there was one. */
bool
mux_call_cancel(struct client *client, const struct fl_frame *frame);

/* Notes that the caller has consumed some of a call's answers. */
void
mux_call_credit(struct client *client, struct peer *sink,
                const struct fl_frame *frame, const uint8_t *payload);

/* Tells the agent that the caller of this binding has gone. */
void
mux_call_abandon(struct fl_mux *mux, struct fl_binding *binding);

void
mux_put_blob(struct client *client, const struct fl_frame *frame,
             const uint8_t *payload);

void
mux_need_blob(struct agent *agent, const struct fl_frame *frame,
              const uint8_t *payload);

void
mux_upload_free(struct upload *upload);

/* mux_status.c */

/* Allocates the answer to STATUS; 0 or -ENOMEM. The caller frees it. */
int
mux_status(struct fl_mux *mux, char **ret_text, size_t *ret_size);

#endif
