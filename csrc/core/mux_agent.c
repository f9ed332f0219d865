/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Agents: their wires, the ssh processes behind them, and what they say to
 * the mux (docs/protocol.md, section 4). Nothing an agent sends is trusted.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "mux_internal.h"
#include "os.h"

#define HELLO_MIN 18

static void
on_input(void *owner)
{
    struct agent *agent = peer_agent(owner);

    agent->last_input = fl_os_now_ms();
    mux_peer_input(owner);
}

static void
on_ended(void *owner, int err)
{
    char message[96], why[128];

    (void)fl_err_message(err, message, sizeof(message));
    (void)snprintf(why, sizeof(why), "the connection has ended%s%s",
                   err < 0 ? ": " : "", err < 0 ? message : "");
    mux_agent_doom(peer_agent(owner), why);
}

/*
 * Its ssh has died, or takes no more bytes. What it wrote before is still to
 * be read, but an end of file may never come: a ProxyCommand can hold the
 * socket open (systems fact 32).
 */
static void
agent_exited(struct agent *agent)
{
    if (agent->exited || agent->peer.doomed) {
        return;
    }
    agent->exited = true;
    mux_unblock(&agent->peer); /* for what it left, other limits hold */
    fl_list_append(&agent->peer.mux->draining, &agent->draining);
    fl_timer_start(agent->drain_timer, fl_os_now_ms() + MUX_DRAIN_GRACE);
}

static void
on_broken(void *owner, int err)
{
    (void)err; /* that its ssh is gone says it better */
    agent_exited(peer_agent(owner));
}

static void
on_drained(void *owner)
{
    mux_peer_drained(owner);
}

static const struct fl_stream_ops agent_ops = {
    .input = on_input,
    .ended = on_ended,
    .broken = on_broken,
    .drained = on_drained,
};

static void
on_pidfd(void *data, unsigned events)
{
    struct agent *agent = data;

    (void)events; /* a pidfd has only one thing to say */
    fl_watch_free(agent->pid_watch);
    agent->pid_watch = NULL;
    fl_os_close(agent->pidfd);
    agent->pidfd = -1;
    agent_exited(agent);
}

/* Rule 9: a privileged agent ends with the run that opened it. A module that
   it runs is finished first, by a worker that has outlived its main process,
   as it would be without an agent (rule 2). */
static void
on_owner_gone(void *data, unsigned events)
{
    struct agent *agent = data;

    (void)events;
    fl_watch_free(agent->owner_watch);
    agent->owner_watch = NULL;
    agent->retired = true;
    agent->ends_unused = true;
    mux_agent_check_idle(agent);
}

static void
on_idle(void *data)
{
    struct agent *agent = data;

    mux_agent_doom(agent, "it was idle");
}

static void
on_drain_timeout(void *data)
{
    mux_agent_doom(data, "ssh has ended");
}

void
mux_agent_drain(struct agent *agent)
{
    int got = 1;

    for (int i = 0; i < 64 && got > 0; i++) {
        if (agent->peer.doomed || agent->peer.blocked_on != NULL) {
            return;
        }
        got = fl_stream_pull(agent->peer.stream);
    }
    if (got == 0) {
        mux_agent_doom(agent, "ssh has ended");
    }
}

/* What ssh says on its standard error: the last of it is kept. */

static void
keep_tail(struct agent *agent, const uint8_t *data, size_t size)
{
    size_t over;

    if (size > MUX_STDERR_TAIL) {
        data += size - MUX_STDERR_TAIL;
        size = MUX_STDERR_TAIL;
    }
    over = agent->tail_size + size > MUX_STDERR_TAIL
               ? agent->tail_size + size - MUX_STDERR_TAIL
               : 0;
    memmove(agent->tail, agent->tail + over, agent->tail_size - over);
    agent->tail_size -= over;
    memcpy(agent->tail + agent->tail_size, data, size);
    agent->tail_size += size;
}

static void
close_stderr(struct agent *agent)
{
    fl_watch_free(agent->stderr_watch);
    agent->stderr_watch = NULL;
    fl_os_close(agent->stderr_fd);
    agent->stderr_fd = -1;
}

/* 1: there may be more; 0: not now; negative: it has ended. */
static int
read_stderr(struct agent *agent)
{
    uint8_t data[MUX_STDERR_TAIL];
    ssize_t got;

    if (agent->stderr_fd < 0) {
        return FL_ECLOSED;
    }
    got = fl_os_read(agent->stderr_fd, data, sizeof(data));
    if (got == -EAGAIN || got == -EWOULDBLOCK) {
        return 0;
    }
    if (got <= 0) {
        close_stderr(agent);
        return FL_ECLOSED;
    }
    keep_tail(agent, data, (size_t)got);
    return 1;
}

/* What is there now, but not without end. */
static void
read_last_words(struct agent *agent)
{
    int more = 1;

    for (int i = 0; i < 16 && more > 0; i++) {
        more = read_stderr(agent);
    }
}

static void
on_stderr(void *data, unsigned events)
{
    (void)events;
    (void)read_stderr(data);
}

/* Line ends become "; ", all other control characters are escaped. */
static void
describe_tail(const struct agent *agent, char *text, size_t size)
{
    size_t start = 0, used = 0;

    text[0] = '\0';
    for (size_t i = 0; i <= agent->tail_size && used + 3 < size; i++) {
        if (i < agent->tail_size && agent->tail[i] != '\n'
            && agent->tail[i] != '\r') {
            continue;
        }
        if (i > start) {
            if (used > 0) {
                used += (size_t)snprintf(text + used, size - used, "; ");
            }
            used += fl_escape(agent->tail + start, i - start, text + used,
                              size - used);
        }
        start = i + 1;
    }
}

void
mux_agent_doom(struct agent *agent, const char *why)
{
    char tail[MUX_REASON_SIZE - 1024];

    if (agent->peer.doomed) {
        return;
    }
    read_last_words(agent);
    describe_tail(agent, tail, sizeof(tail));
    (void)snprintf(agent->reason, sizeof(agent->reason), "%s%s%.500s%s%s",
                   agent->label, agent->label[0] != '\0' ? ": " : "", why,
                   tail[0] != '\0' ? "; ssh said: " : "", tail);
    mux_doom(&agent->peer);
}

void
mux_agent_check_idle(struct agent *agent)
{
    if (agent->peer.doomed) {
        return;
    }
    if (fl_endpoint_bindings(agent->peer.endpoint) > 0
        || (!fl_list_empty(&agent->attachments) && !agent->ends_unused))
    {
        fl_timer_stop(agent->idle_timer);
    }
    else if (agent->retired) {
        mux_agent_doom(agent, "it was retired");
    }
    else if (!fl_timer_started(agent->idle_timer)) {
        fl_timer_start(agent->idle_timer,
                       fl_os_now_ms()
                           + (uint64_t)agent->persist_seconds * 1000);
    }
}

/* Opening */

static int
watch_process(struct agent *agent)
{
    struct fl_loop *loop = agent->peer.mux->loop;
    int err = 0;

    if (agent->pidfd >= 0) {
        err = fl_watch_new(loop, agent->pidfd, FL_LOOP_READ, on_pidfd, agent,
                           &agent->pid_watch);
    }
    if (err == 0 && agent->owner_pidfd >= 0) {
        err = fl_watch_new(loop, agent->owner_pidfd, FL_LOOP_READ,
                           on_owner_gone, agent, &agent->owner_watch);
    }
    if (err == 0 && agent->stderr_fd >= 0) {
        err = fl_os_set_nonblocking(agent->stderr_fd);
    }
    if (err == 0 && agent->stderr_fd >= 0) {
        err = fl_watch_new(loop, agent->stderr_fd, FL_LOOP_READ, on_stderr,
                           agent, &agent->stderr_watch);
    }
    return err;
}

static int
make_parts(struct agent *agent)
{
    struct fl_mux *mux = agent->peer.mux;
    struct fl_timers *timers = fl_loop_timers(mux->loop);
    int err = fl_have_new(mux->config.agent_blob_bytes, &agent->have);

    if (err == 0) {
        err = fl_timer_new(timers, on_idle, agent, &agent->idle_timer);
    }
    if (err == 0) {
        err = fl_timer_new(timers, on_drain_timeout, agent,
                           &agent->drain_timer);
    }
    if (err == 0) {
        err = watch_process(agent);
    }
    if (err == 0) {
        err = fl_router_join(mux->router, FL_SIDE_AGENT, &agent->peer,
                             &agent->peer.endpoint);
    }
    return err;
}

/* On failure the descriptors are still the caller's. */
static int
make_stream(struct agent *agent, int read_fd, int write_fd)
{
    const struct fl_stream_config config = {
        .read_fd = read_fd,
        .write_fd = write_fd,
        .high = MUX_QUEUE_HIGH,
        .low = MUX_QUEUE_LOW,
        .cap = MUX_QUEUE_CAP,
        .ops = &agent_ops,
        .owner = &agent->peer,
    };
    int err = fl_os_set_nonblocking(read_fd);

    if (err == 0) {
        err = fl_os_set_nonblocking(write_fd);
    }
    if (err == 0) {
        err = fl_stream_new(agent->peer.mux->loop, &config,
                            &agent->peer.stream);
    }
    return err;
}

/* Tells the agent its id; calls may follow in the same write. */
static void
say_hello(struct agent *agent)
{
    const struct fl_frame frame = {
        .dst_id = peer_id(&agent->peer),
        .handle = FL_H_HELLO,
    };
    uint8_t payload[8];

    fl_put_u16(payload, FL_VERSION);
    fl_put_u16(payload + 2, FL_VERSION);
    fl_put_u32(payload + 4, peer_id(&agent->peer));
    mux_send(&agent->peer, &frame, payload, sizeof(payload), NULL, 0);
}

/* Frees all but the stream; closes what `agent` still holds. */
static void
free_parts(struct agent *agent)
{
    fl_watch_free(agent->pid_watch);
    fl_watch_free(agent->owner_watch);
    close_stderr(agent);
    fl_os_close(agent->pidfd);
    fl_os_close(agent->owner_pidfd);
    fl_timer_free(agent->idle_timer);
    fl_timer_free(agent->drain_timer);
    fl_have_free(agent->have);
    if (agent->peer.endpoint != NULL) {
        fl_router_leave(agent->peer.mux->router, agent->peer.endpoint);
    }
    free(agent->hello);
    free(agent);
}

static struct agent *
agent_alloc(struct fl_mux *mux, const int fds[OPEN_FDS])
{
    struct agent *agent = calloc(1, sizeof(*agent));

    if (agent != NULL) {
        agent->peer.mux = mux;
        agent->pidfd = fds[OPEN_PIDFD];
        agent->stderr_fd = fds[OPEN_STDERR_FD];
        agent->owner_pidfd = fds[OPEN_OWNER_PIDFD];
        agent->last_input = fl_os_now_ms();
        fl_list_init(&agent->attachments);
        fl_list_init(&agent->draining);
    }
    return agent;
}

int
mux_agent_open(struct fl_mux *mux, const int fds[OPEN_FDS], struct agent **ret)
{
    struct agent *agent = NULL;
    int err = mux->agent_count < mux->config.max_agents ? 0 : FL_EQUOTA;

    if (mux->ending) {
        err = FL_ECLOSED; /* nobody would end it any more */
    }
    if (err == 0) {
        agent = agent_alloc(mux, fds);
        err = agent != NULL ? 0 : -ENOMEM;
    }
    if (agent == NULL) {
        fl_os_close(fds[OPEN_STDERR_FD]);
        fl_os_close(fds[OPEN_PIDFD]);
        fl_os_close(fds[OPEN_OWNER_PIDFD]);
    }
    else {
        err = make_parts(agent);
        if (err == 0) {
            err = make_stream(agent, fds[OPEN_READ_FD], fds[OPEN_WRITE_FD]);
        }
        if (err < 0) {
            free_parts(agent);
        }
    }
    if (err < 0) {
        fl_os_close(fds[OPEN_READ_FD]);
        fl_os_close(fds[OPEN_WRITE_FD]);
        return err;
    }
    mux_add_peer(mux, &agent->peer, FL_SIDE_AGENT);
    say_hello(agent);
    *ret = agent;
    return 0;
}

/* Messages to the mux */

static void
drop(struct agent *agent)
{
    agent->peer.mux->dropped_frames++;
}

static void
do_hello(struct agent *agent, const struct fl_frame *frame,
         const uint8_t *payload)
{
    uint8_t *copy;

    if (fl_get_u16(payload) != FL_VERSION) {
        mux_agent_doom(agent, "the agent speaks another protocol version");
        return;
    }
    copy = malloc(frame->length);
    if (copy == NULL) {
        mux_agent_doom(agent, "the mux is out of memory");
        return;
    }
    memcpy(copy, payload, frame->length);
    /*
     * A new nonce is a new process: it holds no blob any more. The first one
     * says nothing of the kind, and blobs may have been sent ahead of it.
     */
    if (agent->hello != NULL && memcmp(agent->nonce, payload + 2, 16) != 0) {
        fl_have_clear(agent->have);
    }
    memcpy(agent->nonce, payload + 2, 16);
    free(agent->hello);
    agent->hello = copy;
    agent->hello_size = frame->length;
}

static void
do_ping(struct agent *agent, const struct fl_frame *frame,
        const uint8_t *payload)
{
    mux_pong(&agent->peer, frame, payload);
}

static void
do_allocate(struct agent *agent, const struct fl_frame *frame,
            const uint8_t *payload)
{
    uint8_t answer[4];
    uint32_t first;

    if (fl_router_allocate(agent->peer.mux->router, agent->peer.endpoint,
                           fl_get_u32(payload), &first)
        < 0)
    {
        mux_send_dead(&agent->peer, frame->reply_to, frame->stream,
                      FL_D_REJECTED, "no more context ids for this agent");
        return;
    }
    fl_put_u32(answer, first);
    mux_answer(&agent->peer, frame, answer, sizeof(answer));
}

static void
do_add_route(struct agent *agent, const struct fl_frame *frame,
             const uint8_t *payload)
{
    struct fl_mux *mux = agent->peer.mux;

    (void)frame;
    mux->route_epoch++;
    if (fl_router_add_route(mux->router, agent->peer.endpoint,
                            fl_get_u32(payload))
        < 0)
    {
        drop(agent);
    }
}

/* Tells all who use the agent that a context behind it has ended. */
static void
announce_end(struct agent *agent, uint32_t id, const char *reason)
{
    uint8_t head[4];

    fl_put_u32(head, id);
    FL_LIST_EACH (node, after, &agent->attachments) {
        struct client *client
            = FL_LIST_ENTRY(node, struct attachment, of_agent)->client;
        const struct fl_frame frame = {
            .dst_id = peer_id(&client->peer),
            .handle = FL_H_DEL_ROUTE,
        };

        mux_send(&client->peer, &frame, head, sizeof(head), reason,
                 strlen(reason));
    }
}

static void
do_del_route(struct agent *agent, const struct fl_frame *frame,
             const uint8_t *payload)
{
    struct fl_mux *mux = agent->peer.mux;
    const uint32_t id = fl_get_u32(payload);
    const char *reason = "its parent has ended the route";
    struct fl_binding *binding;

    (void)frame;
    if (fl_router_find(mux->router, id) != agent->peer.endpoint
        || id == peer_id(&agent->peer))
    {
        drop(agent);
        return;
    }
    while ((binding = fl_endpoint_binding_to(agent->peer.endpoint, id))
           != NULL) {
        mux_end_binding(mux, binding, reason);
    }
    mux->route_epoch++;
    (void)fl_router_del_route(mux->router, agent->peer.endpoint, id);
    announce_end(agent, id, reason);
}

static const struct message {
    uint32_t handle;
    uint32_t size_min, size_max;
    bool needs_reply;
    void (*act)(struct agent *, const struct fl_frame *, const uint8_t *);
} messages[] = {
    {FL_H_HELLO, HELLO_MIN, MUX_AGENT_HELLO_MAX, false, do_hello},
    {FL_H_NEED_BLOB, 8 + FL_BLOB_NAME, FL_PAYLOAD_MAX, false, mux_need_blob},
    {FL_H_PING, 0, FL_PAYLOAD_MAX, true, do_ping},
    {FL_H_ALLOCATE_ID, 4, 4, true, do_allocate},
    {FL_H_ADD_ROUTE, 4, 4, false, do_add_route},
    {FL_H_DEL_ROUTE, 4, 4, false, do_del_route},
};

static void
mux_message(struct agent *agent, const struct fl_frame *frame,
            const uint8_t *payload)
{
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        const struct message *message = &messages[i];

        if (message->handle == frame->handle
            && frame->length >= message->size_min
            && frame->length <= message->size_max
            && (frame->flags & FL_F_COMPRESSED) == 0
            && (!message->needs_reply || frame->reply_to != 0))
        {
            message->act(agent, frame, payload);
            return;
        }
    }
    drop(agent);
}

static enum verdict
serve(struct agent *agent, const struct fl_frame *frame,
      const uint8_t *payload, struct peer **ret_sink)
{
    if (fl_stream_above_high(agent->peer.stream)) {
        *ret_sink = &agent->peer;
        return FRAME_BLOCKED;
    }
    mux_message(agent, frame, payload);
    return FRAME_TAKEN;
}

/* The binding that lets this frame through, or NULL (systems fact 6). */
static struct fl_binding *
find_binding(struct agent *agent, const struct fl_frame *frame)
{
    struct fl_mux *mux = agent->peer.mux;
    struct fl_binding *binding = agent->cached_binding;

    if (agent->cached_epoch != mux->binding_epoch || binding == NULL
        || binding->client_id != frame->dst_id
        || binding->handle != frame->handle)
    {
        binding = fl_router_binding(mux->router, frame->dst_id, frame->handle);
        agent->cached_binding = binding;
        agent->cached_epoch = mux->binding_epoch;
    }
    if (binding == NULL || binding->agent != agent->peer.endpoint
        || binding->callee_id != frame->src_id)
    {
        return NULL;
    }
    return binding;
}

/*
 * Whether the caller's queue takes one more answer. What a dead ssh left is
 * bounded and is taken in any case, so that no result is lost for a client
 * that reads late.
 */
static bool
may_answer(const struct agent *agent, struct fl_binding *binding,
           const struct fl_frame *frame, const struct peer *sink)
{
    if (!fl_stream_above_high(sink->stream)) {
        binding->ahead = 0;
        return true;
    }
    if (fl_stream_held(sink->stream) > MUX_QUEUE_HARD) {
        return false;
    }
    if (agent->exited || (frame->flags & FL_F_LAST) != 0) {
        return true;
    }
    if (frame->length > MUX_CALL_AHEAD - binding->ahead) {
        return false;
    }
    binding->ahead += frame->length;
    return true;
}

static enum verdict
answer_caller(struct agent *agent, const struct fl_frame *frame,
              struct fl_binding *binding, struct peer *sink,
              struct peer **ret_sink)
{
    *ret_sink = sink;
    if (!may_answer(agent, binding, frame, sink)) {
        return FRAME_BLOCKED;
    }
    if ((frame->flags & FL_F_LAST) != 0 || frame->reply_to == FL_H_IS_DEAD) {
        mux_drop_binding(agent->peer.mux, binding);
    }
    else if (binding->call != NULL) {
        mux_call_confirm(binding);
    }
    return FRAME_FORWARD;
}

enum verdict
mux_agent_frame(struct agent *agent, const struct fl_frame *frame,
                const uint8_t *payload, struct peer **ret_sink)
{
    struct fl_binding *binding;
    struct peer *sink;

    if (fl_router_verify(agent->peer.mux->router, agent->peer.endpoint, frame)
        < 0) {
        drop(agent);
        return FRAME_TAKEN;
    }
    if (frame->dst_id == 0) {
        return serve(agent, frame, payload, ret_sink);
    }
    binding = find_binding(agent, frame);
    sink = binding != NULL ? fl_endpoint_owner(binding->client) : NULL;
    if (sink == NULL || sink->doomed) {
        drop(agent);
        return FRAME_TAKEN;
    }
    return answer_caller(agent, frame, binding, sink, ret_sink);
}

void
mux_agent_free(struct agent *agent)
{
    struct fl_mux *mux = agent->peer.mux;
    struct fl_binding *binding;
    uint32_t id;
    size_t at = 0;
    int pidfd = agent->pidfd;

    while ((binding = fl_endpoint_binding(agent->peer.endpoint)) != NULL) {
        mux_end_binding(mux, binding, agent->reason);
    }
    while ((id = fl_router_next_route(mux->router, agent->peer.endpoint, &at))
           != 0)
    {
        announce_end(agent, id, agent->reason);
    }
    FL_LIST_EACH (node, after, &agent->attachments) {
        mux_detach(FL_LIST_ENTRY(node, struct attachment, of_agent));
    }
    fl_list_remove(&agent->draining);
    mux->route_epoch++;
    fl_stream_free(agent->peer.stream);
    fl_watch_free(agent->pid_watch);
    agent->pid_watch = NULL;
    agent->pidfd = -1;
    mux_linger(mux, pidfd);
    free_parts(agent);
}
