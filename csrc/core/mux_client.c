/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Clients: what they say to the mux (docs/protocol.md, section 3), their
 * leases and attachments.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "err.h"
#include "mux_internal.h"
#include "os.h"

#define OPEN_FIXED (2 * MUX_KEY + 11)

enum {
    ATTACH_WANTS_LEASE = 1,
    OPEN_HAS_STDERR = 1,
    OPEN_HAS_PIDFD = 2,
    OPEN_IS_BOUND = 4,
    OPEN_HAS_ALIAS = 8,
    OPEN_HAS_OWNER = 16,
    OPEN_IS_PRIVATE = 32,
    OPEN_KNOWN = 63,
    RETIRE_NOW = 1,
};

/* The fixed part of an OPEN. */
struct open_request {
    const uint8_t *key, *alias;
    uint8_t flags;
    uint32_t pid, persist_seconds;
    const uint8_t *label;
    size_t label_size;
};

static void
on_input(void *owner)
{
    mux_peer_input(owner);
}

static void
on_ended(void *owner, int err)
{
    (void)err; /* a client may go at any moment, in any way */
    mux_doom(owner);
}

static void
on_drained(void *owner)
{
    mux_peer_drained(owner);
}

static const struct fl_stream_ops client_ops = {
    .input = on_input,
    .ended = on_ended,
    .broken = on_ended,
    .drained = on_drained,
};

/* Rule 7: only this user's processes, and root's. */
static int
check_peer(int fd)
{
    uid_t uid;
    const int err = fl_os_peer(fd, &uid, NULL);

    if (err < 0) {
        return err;
    }
    return uid == geteuid() || uid == 0 ? 0 : FL_EPEERUID;
}

static int
client_new(struct fl_mux *mux, int fd)
{
    struct fl_stream_config config = {
        .read_fd = fd,
        .write_fd = fd,
        .takes_fds = true,
        .sees_hangup = true,
        .high = MUX_QUEUE_HIGH,
        .low = MUX_QUEUE_LOW,
        .cap = MUX_QUEUE_CAP,
        .ops = &client_ops,
    };
    struct client *client = calloc(1, sizeof(*client));
    int err;

    if (client == NULL) {
        return -ENOMEM;
    }
    fl_list_init(&client->attachments);
    fl_list_init(&client->waiters);
    fl_list_init(&client->uploads);
    config.owner = &client->peer;
    err = fl_stream_new(mux->loop, &config, &client->peer.stream);
    if (err < 0) {
        free(client);
        return err;
    }
    mux_add_peer(mux, &client->peer, FL_SIDE_CLIENT);
    return 0;
}

void
mux_client_accept(struct fl_mux *mux, int fd)
{
    int err = check_peer(fd);
    char message[96];

    if (err == 0 && mux->client_count >= mux->config.max_clients) {
        err = FL_EQUOTA;
    }
    if (err == 0) {
        err = client_new(mux, fd);
    }
    if (err < 0) {
        mux_note_error(mux, fl_err_message(err, message, sizeof(message)));
        fl_os_close(fd);
    }
}

void
mux_client_refuse(struct client *client, const char *text)
{
    mux_note_error(client->peer.mux, text);
    mux_send_dead(&client->peer, 0, 0, FL_D_REJECTED, text);
    mux_doom(&client->peer);
}

static void
reject(struct client *client, const struct fl_frame *request,
       const char *reason)
{
    if (request->reply_to != 0) {
        mux_send_dead(&client->peer, request->reply_to, request->stream,
                      FL_D_REJECTED, reason);
    }
}

/* Attachments */

static struct attachment *
find_attachment(struct client *client, const struct agent *agent)
{
    FL_LIST_EACH (node, after, &client->attachments) {
        struct attachment *attachment = FL_LIST_ENTRY(node, struct attachment,
                                                      of_client);

        if (attachment->agent == agent) {
            return attachment;
        }
    }
    return NULL;
}

static int
attach(struct client *client, struct agent *agent)
{
    struct attachment *attachment;

    if (find_attachment(client, agent) != NULL) {
        return 0;
    }
    attachment = calloc(1, sizeof(*attachment));
    if (attachment == NULL) {
        return -ENOMEM;
    }
    attachment->client = client;
    attachment->agent = agent;
    fl_list_init(&attachment->of_client);
    fl_list_init(&attachment->of_agent);
    fl_list_append(&client->attachments, &attachment->of_client);
    fl_list_append(&agent->attachments, &attachment->of_agent);
    mux_agent_check_idle(agent);
    return 0;
}

void
mux_detach(struct attachment *attachment)
{
    struct agent *agent = attachment->agent;

    fl_list_remove(&attachment->of_client);
    fl_list_remove(&attachment->of_agent);
    free(attachment);
    mux_agent_check_idle(agent);
}

/* The newest agent that serves the key, under its own or as an alias. */
static struct agent *
find_agent(struct fl_mux *mux, const uint8_t *key)
{
    struct agent *found = NULL;

    FL_LIST_EACH (node, after, &mux->agents) {
        struct agent *agent = peer_agent(
            FL_LIST_ENTRY(node, struct peer, of_mux));
        const bool serves = memcmp(agent->key, key, MUX_KEY) == 0
                            || (agent->has_alias
                                && memcmp(agent->alias, key, MUX_KEY) == 0);

        /* The list is in the order of opening. */
        if (serves && !agent->retired && !agent->exited && !agent->peer.doomed)
        {
            found = agent;
        }
    }
    return found;
}

static void
answer_attach(struct client *client, uint32_t reply_to, enum fl_attach state,
              const struct agent *agent)
{
    const struct fl_frame frame = {
        .flags = FL_F_LAST,
        .dst_id = peer_id(&client->peer),
        .handle = reply_to,
    };
    uint8_t head[9] = {(uint8_t)state};
    uint64_t idle;

    if (agent == NULL) {
        mux_send(&client->peer, &frame, head, sizeof(head), NULL, 0);
        return;
    }
    idle = fl_os_now_ms() - agent->last_input;
    fl_put_u32(head + 1, peer_id(&agent->peer));
    fl_put_u32(head + 5, idle > UINT32_MAX ? UINT32_MAX : (uint32_t)idle);
    mux_send(&client->peer, &frame, head, sizeof(head), agent->hello,
             agent->hello_size);
}

/* Attaches and says so; one that cannot be attached has no memory to wait. */
static void
give_agent(struct client *client, uint32_t reply_to, struct agent *agent)
{
    const int err = attach(client, agent);

    if (err < 0) {
        mux_overflow(&client->peer, err);
        return;
    }
    answer_attach(client, reply_to, FL_A_FOUND, agent);
}

/* Leases */

static struct lease *
find_lease(struct fl_mux *mux, const uint8_t *key)
{
    FL_LIST_EACH (node, after, &mux->leases) {
        struct lease *lease = FL_LIST_ENTRY(node, struct lease, of_mux);

        if (memcmp(lease->key, key, MUX_KEY) == 0) {
            return lease;
        }
    }
    return NULL;
}

static int
lease_new(struct client *holder, const uint8_t *key)
{
    struct lease *lease = calloc(1, sizeof(*lease));

    if (lease == NULL) {
        return -ENOMEM;
    }
    memcpy(lease->key, key, MUX_KEY);
    lease->holder = holder;
    holder->claims++;
    fl_list_init(&lease->waiters);
    fl_list_init(&lease->of_mux);
    fl_list_append(&holder->peer.mux->leases, &lease->of_mux);
    return 0;
}

static void
lease_free(struct lease *lease)
{
    lease->holder->claims--;
    fl_list_remove(&lease->of_mux);
    free(lease);
}

static void
waiter_free(struct waiter *waiter)
{
    waiter->client->claims--;
    fl_list_remove(&waiter->of_client);
    fl_list_remove(&waiter->of_lease);
    free(waiter);
}

static int
wait_for(struct client *client, struct lease *lease, uint32_t reply_to)
{
    struct waiter *waiter = calloc(1, sizeof(*waiter));

    if (waiter == NULL) {
        return -ENOMEM;
    }
    waiter->client = client;
    client->claims++;
    waiter->lease = lease;
    waiter->reply_to = reply_to;
    fl_list_init(&waiter->of_client);
    fl_list_init(&waiter->of_lease);
    fl_list_append(&client->waiters, &waiter->of_client);
    fl_list_append(&lease->waiters, &waiter->of_lease);
    return 0;
}

/* The holder gave up or is gone: the next one who waits is to boot. */
static void
pass_lease(struct lease *lease)
{
    struct waiter *next;

    if (fl_list_empty(&lease->waiters)) {
        lease_free(lease);
        return;
    }
    next = FL_LIST_ENTRY(lease->waiters.next, struct waiter, of_lease);
    lease->holder->claims--;
    lease->holder = next->client;
    lease->holder->claims++;
    answer_attach(next->client, next->reply_to, FL_A_LEASE, NULL);
    waiter_free(next);
}

/* The agent is there: all who wait get it. */
static void
fulfil_lease(struct lease *lease, struct agent *agent)
{
    FL_LIST_EACH (node, after, &lease->waiters) {
        struct waiter *waiter = FL_LIST_ENTRY(node, struct waiter, of_lease);

        give_agent(waiter->client, waiter->reply_to, agent);
        waiter_free(waiter);
    }
    lease_free(lease);
}

/* Messages to the mux */

static void
do_hello(struct client *client, const struct fl_frame *frame,
         const uint8_t *payload)
{
    struct fl_mux *mux = client->peer.mux;
    uint8_t reply[6];

    if (client->peer.endpoint != NULL) {
        mux_client_refuse(client, "HELLO was said twice");
        return;
    }
    if (fl_get_u16(payload) > FL_VERSION
        || fl_get_u16(payload + 2) < FL_VERSION) {
        reject(client, frame, "this mux speaks protocol version 1 only");
        mux_doom(&client->peer);
        return;
    }
    if (fl_router_join(mux->router, FL_SIDE_CLIENT, &client->peer,
                       &client->peer.endpoint)
        < 0)
    {
        mux_client_refuse(client, "no more contexts");
        return;
    }
    fl_put_u16(reply, FL_VERSION);
    fl_put_u32(reply + 2, peer_id(&client->peer));
    mux_answer(&client->peer, frame, reply, sizeof(reply));
}

static void
do_attach(struct client *client, const struct fl_frame *frame,
          const uint8_t *payload)
{
    struct fl_mux *mux = client->peer.mux;
    struct agent *agent = find_agent(mux, payload);
    struct lease *lease = find_lease(mux, payload);
    int err = 0;

    if (agent != NULL) {
        give_agent(client, frame->reply_to, agent);
    }
    else if ((payload[MUX_KEY] & ATTACH_WANTS_LEASE) == 0) {
        answer_attach(client, frame->reply_to, FL_A_NONE, NULL);
    }
    else if (client->claims >= MUX_CLAIMS) {
        mux_client_refuse(client, "too many leases held or waited for");
    }
    else if (lease != NULL) {
        err = wait_for(client, lease, frame->reply_to);
    }
    else {
        err = lease_new(client, payload);
        if (err == 0) {
            answer_attach(client, frame->reply_to, FL_A_LEASE, NULL);
        }
    }
    if (err < 0) {
        mux_overflow(&client->peer, err);
    }
}

/* True if the payload has the layout of an OPEN. */
static bool
parse_open(const uint8_t *payload, size_t size, struct open_request *ret)
{
    const uint8_t *at = payload + (ptrdiff_t)2 * MUX_KEY;

    if (size < OPEN_FIXED) {
        return false;
    }
    ret->key = payload;
    ret->alias = payload + MUX_KEY;
    ret->flags = at[0];
    ret->pid = fl_get_u32(at + 1);
    ret->persist_seconds = fl_get_u32(at + 5);
    ret->label_size = fl_get_u16(at + 9);
    ret->label = at + 11;
    return size == OPEN_FIXED + ret->label_size
           && (ret->flags & ~(unsigned)OPEN_KNOWN) == 0;
}

/* Takes the descriptors that came with an OPEN; -1 where it has none. */
static int
take_fds(struct client *client, uint8_t flags, int fds[OPEN_FDS])
{
    const bool wanted[OPEN_FDS] = {
        true,
        true,
        (flags & OPEN_HAS_STDERR) != 0,
        (flags & OPEN_HAS_PIDFD) != 0,
        (flags & OPEN_HAS_OWNER) != 0,
    };
    int err = 0;

    for (size_t i = 0; i < OPEN_FDS; i++) {
        fds[i] = wanted[i] ? fl_stream_take_fd(client->peer.stream) : -1;
        if (wanted[i] && fds[i] < 0) {
            err = FL_EDESCRIPTORS;
        }
    }
    if (err < 0) {
        for (size_t i = 0; i < OPEN_FDS; i++) {
            fl_os_close(fds[i]);
        }
    }
    return err;
}

static void
describe_agent(struct agent *agent, struct client *client,
               const struct open_request *open)
{
    memcpy(agent->key, open->key, MUX_KEY);
    memcpy(agent->alias, open->alias, MUX_KEY);
    agent->has_alias = (open->flags & OPEN_HAS_ALIAS) != 0;
    agent->pid = (pid_t)open->pid;
    agent->persist_seconds = open->persist_seconds;
    agent->is_private = (open->flags & OPEN_IS_PRIVATE) != 0;
    if ((open->flags & OPEN_IS_BOUND) != 0) {
        agent->bound_to = client;
    }
    (void)fl_escape(open->label, open->label_size, agent->label,
                    sizeof(agent->label));
}

static void
agent_opened(struct client *client, const struct fl_frame *frame,
             struct agent *agent, struct lease *lease)
{
    uint8_t reply[4];

    fl_put_u32(reply, peer_id(&agent->peer));
    if (attach(client, agent) < 0) {
        mux_overflow(&client->peer, -ENOMEM);
    }
    mux_answer(&client->peer, frame, reply, sizeof(reply));
    if (lease != NULL) {
        fulfil_lease(lease, agent);
    }
}

static void
do_open(struct client *client, const struct fl_frame *frame,
        const uint8_t *payload)
{
    struct fl_mux *mux = client->peer.mux;
    struct open_request open;
    struct agent *agent;
    struct lease *lease;
    int fds[OPEN_FDS], err;
    char message[96];

    if (!parse_open(payload, frame->length, &open)
        || take_fds(client, open.flags, fds) < 0)
    {
        mux_client_refuse(client, "an OPEN does not have its layout, or lacks "
                                  "its descriptors");
        return;
    }
    lease = find_lease(mux, open.key);
    err = lease != NULL && lease->holder != client ? FL_EKEY : 0;
    if (err == 0) {
        err = mux_agent_open(mux, fds, &agent);
    }
    else {
        for (size_t i = 0; i < OPEN_FDS; i++) {
            fl_os_close(fds[i]);
        }
    }
    if (err < 0) {
        reject(client, frame, fl_err_message(err, message, sizeof(message)));
        return;
    }
    describe_agent(agent, client, &open);
    agent_opened(client, frame, agent, lease);
}

/* Takes the client out of the queue for a lease; whether it was in it. */
static bool
stop_waiting(struct client *client, const struct lease *lease)
{
    bool waited = false;

    FL_LIST_EACH (node, after, &client->waiters) {
        struct waiter *waiter = FL_LIST_ENTRY(node, struct waiter, of_client);

        if (waiter->lease == lease) {
            waiter_free(waiter);
            waited = true;
        }
    }
    return waited;
}

static void
do_abandon(struct client *client, const struct fl_frame *frame,
           const uint8_t *payload)
{
    struct lease *lease = find_lease(client->peer.mux, payload);

    if (lease != NULL && lease->holder == client) {
        mux_answer(&client->peer, frame, NULL, 0);
        pass_lease(lease);
    }
    else if (lease != NULL && stop_waiting(client, lease)) {
        mux_answer(&client->peer, frame, NULL, 0);
    }
    else {
        reject(client, frame, "the key is not leased to this client");
    }
}

/* The agent a request names; NULL: the client was told there is none. */
static struct agent *
named_agent(struct client *client, const struct fl_frame *frame,
            const uint8_t *payload)
{
    struct fl_endpoint *endpoint = fl_router_find(client->peer.mux->router,
                                                  fl_get_u32(payload));
    struct agent *agent = NULL;

    if (endpoint != NULL && fl_endpoint_side(endpoint) == FL_SIDE_AGENT
        && fl_endpoint_id(endpoint) == fl_get_u32(payload))
    {
        agent = fl_endpoint_owner(endpoint);
    }
    if (agent == NULL || agent->peer.doomed) {
        reject(client, frame, "there is no such agent");
        return NULL;
    }
    return agent;
}

static void
do_retire(struct client *client, const struct fl_frame *frame,
          const uint8_t *payload)
{
    struct agent *agent = named_agent(client, frame, payload);
    struct attachment *attachment;

    if (agent == NULL) {
        return;
    }
    agent->retired = true;
    if (frame->length > 4 && (payload[4] & RETIRE_NOW) != 0) {
        agent->ends_unused = true;
    }
    mux_answer(&client->peer, frame, NULL, 0);
    attachment = find_attachment(client, agent);
    if (attachment != NULL) {
        mux_detach(attachment);
    }
    mux_agent_check_idle(agent);
}

static void
do_shutdown(struct client *client, const struct fl_frame *frame,
            const uint8_t *payload)
{
    struct agent *agent = named_agent(client, frame, payload);

    if (agent != NULL) {
        mux_answer(&client->peer, frame, NULL, 0);
        mux_agent_doom(agent, "it was shut down");
    }
}

static void
do_status(struct client *client, const struct fl_frame *frame,
          const uint8_t *payload)
{
    char *text;
    size_t size;

    (void)payload;
    if (mux_status(client->peer.mux, &text, &size) < 0) {
        reject(client, frame, "the mux is out of memory");
        return;
    }
    mux_answer(&client->peer, frame, text, size);
    free(text);
}

static void
do_stop(struct client *client, const struct fl_frame *frame,
        const uint8_t *payload)
{
    (void)payload;
    mux_answer(&client->peer, frame, NULL, 0);
    mux_end(client->peer.mux);
}

static void
do_ping(struct client *client, const struct fl_frame *frame,
        const uint8_t *payload)
{
    mux_pong(&client->peer, frame, payload);
}

/* `size` is the payload's; a message of variable size checks it itself. */
static const struct message {
    uint32_t handle;
    uint32_t size_min, size_max;
    bool needs_reply;
    void (*act)(struct client *, const struct fl_frame *, const uint8_t *);
} messages[] = {
    {FL_H_HELLO, 8, 8, true, do_hello},
    {FL_H_ATTACH, MUX_KEY + 1, MUX_KEY + 1, true, do_attach},
    {FL_H_OPEN, OPEN_FIXED, FL_PAYLOAD_MAX, true, do_open},
    {FL_H_ABANDON, MUX_KEY, MUX_KEY, true, do_abandon},
    {FL_H_RETIRE, 4, 5, true, do_retire},
    {FL_H_SHUTDOWN, 4, 4, true, do_shutdown},
    {FL_H_STATUS, 0, 0, true, do_status},
    {FL_H_STOP, 0, 0, true, do_stop},
    {FL_H_PING, 0, FL_PAYLOAD_MAX, true, do_ping},
    {FL_H_PUT_BLOB, FL_BLOB_NAME + 8, FL_PAYLOAD_MAX, false, mux_put_blob},
};

static const struct message *
find_message(uint32_t handle)
{
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        if (messages[i].handle == handle) {
            return &messages[i];
        }
    }
    return NULL;
}

static void
mux_message(struct client *client, const struct fl_frame *frame,
            const uint8_t *payload)
{
    const struct message *message = find_message(frame->handle);

    if (message == NULL) {
        client->peer.mux->dropped_frames++;
        reject(client, frame, "the mux does not listen on this handle");
        return;
    }
    if (frame->length < message->size_min || frame->length > message->size_max
        || (frame->flags & FL_F_COMPRESSED) != 0
        || (message->needs_reply && frame->reply_to == 0))
    {
        mux_client_refuse(client, "a message to the mux does not have the "
                                  "layout of its handle");
        return;
    }
    message->act(client, frame, payload);
}

/* Messages to agents */

static bool
is_client(const struct fl_mux *mux, uint32_t id)
{
    const struct fl_endpoint *endpoint = fl_router_find(mux->router, id);

    return endpoint != NULL && fl_endpoint_side(endpoint) == FL_SIDE_CLIENT;
}

static enum verdict
undeliverable(struct client *client, const struct fl_frame *frame)
{
    struct fl_mux *mux = client->peer.mux;

    if (frame->reply_to == 0 || frame->reply_to == FL_H_IS_DEAD) {
        mux->dropped_frames++;
    }
    else if (is_client(mux, frame->dst_id)) {
        reject(client, frame, "clients do not talk to each other");
    }
    else if (fl_router_was_issued(mux->router, frame->dst_id)) {
        mux_send_dead(&client->peer, frame->reply_to, frame->stream,
                      FL_D_NOT_SENT, "the connection to it has ended");
    }
    else {
        reject(client, frame, "there is no such context");
    }
    return FRAME_TAKEN;
}

/* The live agent behind `id`, or NULL. */
static struct peer *
find_sink(struct client *client, uint32_t id)
{
    struct fl_mux *mux = client->peer.mux;
    struct fl_endpoint *endpoint;

    if (client->cached_dst == id && client->cached_epoch == mux->route_epoch) {
        return client->cached_sink;
    }
    endpoint = fl_router_find(mux->router, id);
    if (endpoint == NULL || fl_endpoint_side(endpoint) != FL_SIDE_AGENT) {
        return NULL;
    }
    client->cached_dst = id;
    client->cached_epoch = mux->route_epoch;
    client->cached_sink = fl_endpoint_owner(endpoint);
    return client->cached_sink;
}

/* Rule 9: to know a private agent's id is not enough, its key is asked for. */
static bool
may_call(struct client *client, const struct agent *agent)
{
    return !agent->is_private || find_attachment(client, agent) != NULL;
}

/* Blobs named by an EXEC or CALL_FUNCTION, or FL_EMALFORMED. */
static int
count_names(const struct fl_frame *frame, const uint8_t *payload)
{
    size_t count;

    if (frame->length < 2) {
        return FL_EMALFORMED;
    }
    count = fl_get_u16(payload);
    if (count > MUX_CALL_NAMES || 2 + count * FL_BLOB_NAME > frame->length
        || (count > 0
            && (frame->reply_to == 0 || frame->reply_to == FL_H_IS_DEAD)))
    {
        return FL_EMALFORMED;
    }
    return (int)count;
}

static enum verdict
forward_call(struct client *client, const struct fl_frame *frame,
             struct peer *sink)
{
    struct fl_mux *mux = client->peer.mux;
    const size_t before = fl_endpoint_bindings(sink->endpoint);
    struct fl_binding *binding;

    if (frame->reply_to == 0 || frame->reply_to == FL_H_IS_DEAD) {
        return FRAME_FORWARD;
    }
    if (fl_router_bind(mux->router, client->peer.endpoint, sink->endpoint,
                       frame, mux_accepted(sink), &binding)
        < 0)
    {
        mux_client_refuse(client, "a reply handle cannot be bound: it is "
                                  "another call's, or there are too many");
        return FRAME_TAKEN;
    }
    if (fl_endpoint_bindings(sink->endpoint) > before) {
        mux->binding_count++;
        peer_agent(sink)->calls++;
    }
    return FRAME_FORWARD;
}

/* An EXEC or CALL_FUNCTION, which may name blobs. */
static enum verdict
route_call(struct client *client, const struct fl_frame *frame,
           const uint8_t *payload, struct peer *sink)
{
    int count;

    if ((frame->flags & FL_F_COMPRESSED) != 0) {
        reject(client, frame,
               "the list of blobs of a compressed call cannot be read");
        return FRAME_TAKEN;
    }
    count = count_names(frame, payload);
    if (count < 0) {
        mux_client_refuse(client, "a call's list of blobs does not have "
                                  "its layout");
        return FRAME_TAKEN;
    }
    if (count > 0) {
        mux_call_begin(client, sink, frame, payload);
        return FRAME_TAKEN;
    }
    return forward_call(client, frame, sink);
}

static enum verdict
route_frame(struct client *client, const struct fl_frame *frame,
            const uint8_t *payload, struct peer *sink)
{
    if (frame->handle == FL_H_EXEC || frame->handle == FL_H_CALL_FUNCTION) {
        return route_call(client, frame, payload, sink);
    }
    if (frame->handle == FL_H_CANCEL && mux_call_cancel(client, frame)) {
        return FRAME_TAKEN;
    }
    if (frame->handle == FL_H_CREDIT) {
        mux_call_credit(client, sink, frame, payload);
    }
    return forward_call(client, frame, sink);
}

/* What the mux is told is answered only while the answers are read. */
static enum verdict
serve(struct client *client, const struct fl_frame *frame,
      const uint8_t *payload, struct peer **ret_sink)
{
    if (fl_stream_above_high(client->peer.stream)) {
        *ret_sink = &client->peer;
        return FRAME_BLOCKED;
    }
    mux_message(client, frame, payload);
    return FRAME_TAKEN;
}

enum verdict
mux_client_frame(struct client *client, const struct fl_frame *frame,
                 const uint8_t *payload, struct peer **ret_sink)
{
    struct peer *sink;

    if (client->peer.endpoint == NULL
        && (frame->handle != FL_H_HELLO || frame->dst_id != 0))
    {
        mux_client_refuse(client, "the first frame was not HELLO");
        return FRAME_TAKEN;
    }
    if (frame->src_id != peer_id(&client->peer) || frame->auth_id != 0) {
        mux_client_refuse(client, "a frame's source or authority is not its "
                                  "client's");
        return FRAME_TAKEN;
    }
    if (frame->dst_id == 0) {
        return serve(client, frame, payload, ret_sink);
    }
    sink = find_sink(client, frame->dst_id);
    if (sink == NULL || sink->doomed) {
        return undeliverable(client, frame);
    }
    if (!may_call(client, peer_agent(sink))) {
        reject(client, frame, "this agent belongs to another run");
        return FRAME_TAKEN;
    }
    if (fl_stream_above_high(sink->stream)) {
        *ret_sink = sink;
        return FRAME_BLOCKED;
    }
    *ret_sink = sink;
    return route_frame(client, frame, payload, sink);
}

void
mux_client_check_stalled(struct client *client)
{
    const struct peer *peer = &client->peer;
    const uint64_t written = fl_stream_written(peer->stream);

    if (fl_stream_held(peer->stream) <= MUX_QUEUE_HARD
        || written != client->stalled_at)
    {
        client->stalled = 0;
    }
    else if (++client->stalled >= MUX_STALLED) {
        mux_note_error(peer->mux, "a client with too many unread answers "
                                  "was closed");
        mux_doom(&client->peer);
    }
    client->stalled_at = written;
}

static void
pass_leases(struct client *client)
{
    struct fl_mux *mux = client->peer.mux;

    FL_LIST_EACH (node, after, &client->waiters) {
        waiter_free(FL_LIST_ENTRY(node, struct waiter, of_client));
    }
    FL_LIST_EACH (node, after, &mux->leases) {
        struct lease *lease = FL_LIST_ENTRY(node, struct lease, of_mux);

        if (lease->holder == client) {
            pass_lease(lease);
        }
    }
}

static void
close_bound_agents(struct client *client)
{
    FL_LIST_EACH (node, after, &client->peer.mux->agents) {
        struct agent *agent = peer_agent(
            FL_LIST_ENTRY(node, struct peer, of_mux));

        if (agent->bound_to == client) {
            agent->bound_to = NULL;
            mux_agent_doom(agent, "the client it was opened for has gone");
        }
    }
}

void
mux_client_free(struct client *client)
{
    struct fl_mux *mux = client->peer.mux;
    struct fl_binding *binding;

    if (client->peer.endpoint != NULL) {
        while ((binding = fl_endpoint_binding(client->peer.endpoint)) != NULL)
        {
            mux_call_abandon(mux, binding);
        }
    }
    pass_leases(client);
    close_bound_agents(client);
    FL_LIST_EACH (node, after, &client->uploads) {
        mux_upload_free(FL_LIST_ENTRY(node, struct upload, of_client));
    }
    FL_LIST_EACH (node, after, &client->attachments) {
        mux_detach(FL_LIST_ENTRY(node, struct attachment, of_client));
    }
    if (client->peer.endpoint != NULL) {
        fl_router_leave(mux->router, client->peer.endpoint);
    }
    fl_stream_free(client->peer.stream);
    free(client);
}
