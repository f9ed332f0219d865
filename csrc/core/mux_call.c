/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bindings, and the calls among them that name blobs: held until the mux has
 * every blob the agent lacks, then sent behind those (docs/protocol.md,
 * section 5).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "mux_internal.h"

/* Names told to an agent in one DROP_BLOB. */
#define DROPS 64
/* Head of a PUT_BLOB: name, total, offset. */
#define PUT_HEAD (FL_BLOB_NAME + 8)

struct name {
    uint8_t bytes[FL_BLOB_NAME];
    struct fl_blob *blob; /* a reference, while it may be (re)sent */
    bool awaited;         /* from the caller */
    bool pinned;          /* in the agent's have-set ... */
    uint32_t generation;  /* ... of this generation */
};

struct call {
    struct client *client;
    struct agent *agent;
    struct fl_binding *binding;
    struct fl_list waiting; /* mux->waiting_calls while names are awaited */
    bool parked;            /* nothing of it has been queued for the agent */
    bool confirmed;
    size_t awaited, resends;
    struct fl_frame frame; /* while parked */
    uint8_t *body;
    size_t body_size;
    size_t count;
    struct name names[];
};

static bool
is_secret(const struct call *call)
{
    return (call->frame.flags & FL_F_SECRET) != 0;
}

static void
free_body(struct call *call)
{
    if (call->body != NULL) {
        if (is_secret(call)) {
            explicit_bzero(call->body, call->body_size);
        }
        call->client->parked_bytes -= call->body_size;
        free(call->body);
        call->body = NULL;
    }
}

static void
release_blobs(struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        if (call->names[i].blob != NULL) {
            fl_blob_unref(call->names[i].blob);
            call->names[i].blob = NULL;
        }
    }
}

/* Keeps the agent from being told to forget this while the call lives. */
static void
pin(struct call *call, struct name *name)
{
    struct fl_have *have = call->agent->have;

    if (!name->pinned || name->generation != fl_have_generation(have)) {
        fl_have_pin(have, name->bytes);
        name->pinned = true;
        name->generation = fl_have_generation(have);
    }
}

static void
unpin(struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        const struct name *name = &call->names[i];

        if (name->pinned) {
            fl_have_unpin(call->agent->have, name->bytes, name->generation);
        }
    }
}

static void
call_free(struct call *call)
{
    if (call != NULL) {
        fl_list_remove(&call->waiting);
        unpin(call);
        release_blobs(call);
        free_body(call);
        call->client->names -= call->count;
        free(call);
    }
}

void
mux_drop_binding(struct fl_mux *mux, struct fl_binding *binding)
{
    struct agent *agent = fl_endpoint_owner(binding->agent);

    call_free(binding->call);
    fl_router_unbind(mux->router, binding);
    mux->binding_epoch++;
    mux->binding_count--;
    mux_agent_check_idle(agent);
}

static enum fl_death
death_code(const struct fl_binding *binding)
{
    const struct peer *agent = fl_endpoint_owner(binding->agent);

    /* Rule 13: not a byte of it left the mux, or some did. */
    return binding->start >= fl_stream_written(agent->stream) ? FL_D_NOT_SENT
                                                              : FL_D_LOST;
}

void
mux_end_binding(struct fl_mux *mux, struct fl_binding *binding,
                const char *reason)
{
    mux_send_dead(fl_endpoint_owner(binding->client), binding->handle,
                  binding->stream, death_code(binding), reason);
    mux_drop_binding(mux, binding);
}

/* Tells the agent to end what it was sent of a call, if it was. */
static void
send_cancel(const struct fl_binding *binding)
{
    const struct call *call = binding->call;
    const struct fl_frame frame = {
        .dst_id = binding->callee_id,
        .src_id = binding->client_id,
        .handle = FL_H_CANCEL,
        .stream = binding->stream,
    };

    if (call == NULL || !call->parked) {
        mux_send(fl_endpoint_owner(binding->agent), &frame, NULL, 0, NULL, 0);
    }
}

void
mux_call_abandon(struct fl_mux *mux, struct fl_binding *binding)
{
    send_cancel(binding);
    mux_drop_binding(mux, binding);
}

void
mux_call_confirm(struct fl_binding *binding)
{
    struct call *call = binding->call;

    if (!call->confirmed) {
        call->confirmed = true;
        release_blobs(call);
    }
}

static void
send_drops(struct agent *agent, uint8_t (*dropped)[FL_BLOB_NAME], size_t count)
{
    const struct fl_frame frame = {
        .dst_id = peer_id(&agent->peer),
        .handle = FL_H_DROP_BLOB,
    };

    if (count > 0) {
        mux_send(&agent->peer, &frame, dropped, count * FL_BLOB_NAME, NULL, 0);
    }
}

/* Notes the blob in the have-set, making the agent forget others for it. */
static int
make_agent_hold(struct agent *agent, const uint8_t *name, size_t size)
{
    uint8_t dropped[DROPS][FL_BLOB_NAME];
    size_t count;
    int err;

    do {
        count = DROPS;
        err = fl_have_add(agent->have, name, size, dropped, &count);
        send_drops(agent, dropped, count);
    } while (err == FL_EQUOTA && count == DROPS);
    return err;
}

static void
release_blob(void *blob)
{
    fl_blob_unref(blob);
}

/* One PUT_BLOB; the data is referenced, not copied. */
static int
send_piece(struct agent *agent, struct fl_blob *blob, size_t offset,
           size_t size)
{
    size_t total;
    const uint8_t *data = fl_blob_data(blob, &total);
    uint8_t head[FL_HEADER_SIZE + PUT_HEAD];
    const struct fl_frame frame = {
        .dst_id = peer_id(&agent->peer),
        .handle = FL_H_PUT_BLOB,
        .length = (uint32_t)(PUT_HEAD + size),
    };
    int err;

    fl_frame_encode(&frame, head);
    memcpy(head + FL_HEADER_SIZE, fl_blob_name(blob), FL_BLOB_NAME);
    fl_put_u32(head + FL_HEADER_SIZE + FL_BLOB_NAME, (uint32_t)total);
    fl_put_u32(head + FL_HEADER_SIZE + FL_BLOB_NAME + 4, (uint32_t)offset);
    err = fl_stream_queue(agent->peer.stream, head, sizeof(head), false);
    if (err == 0 && size > 0) {
        err = fl_stream_refer(agent->peer.stream, data + offset, size,
                              release_blob, fl_blob_ref(blob));
        if (err < 0) {
            fl_blob_unref(blob);
        }
    }
    agent->peer.mux->frames_out++;
    return err;
}

static int
send_blob(struct agent *agent, struct fl_blob *blob)
{
    size_t total, offset = 0;
    int err;

    (void)fl_blob_data(blob, &total);
    err = make_agent_hold(agent, fl_blob_name(blob), total);
    if (err < 0 || agent->peer.doomed) {
        return err;
    }
    if (agent->peer.mux->run.sink == &agent->peer) {
        mux_flush_run(agent->peer.mux);
    }
    do {
        const size_t left = total - offset;
        const size_t size = left < FL_CHUNK_SIZE ? left : FL_CHUNK_SIZE;

        err = send_piece(agent, blob, offset, size);
        if (err < 0) {
            mux_overflow(&agent->peer, err);
            return err;
        }
        offset += size;
    } while (offset < total);
    mux_mark_dirty(&agent->peer);
    return 0;
}

/*
 * Sends one blob for a call. If that cannot be, neither the caller nor the
 * agent is left waiting: the call ends, and false says that it is gone.
 */
static bool
supply(struct call *call, struct name *name, struct fl_blob *blob)
{
    const int err = send_blob(call->agent, blob);

    if (err < 0 && !call->agent->peer.doomed) {
        send_cancel(call->binding);
        mux_end_binding(call->client->peer.mux, call->binding,
                        "the agent's memory for blobs is full");
        return false;
    }
    pin(call, name);
    return true;
}

/* Sends what the agent lacks; none of the names may be awaited. */
static int
send_blobs(struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        struct name *name = &call->names[i];
        int err = 0;

        if (!fl_have_has(call->agent->have, name->bytes)) {
            err = send_blob(call->agent, name->blob);
        }
        if (err < 0) {
            return err;
        }
        pin(call, name);
    }
    return 0;
}

/* All is there: the blobs, then the frame with its list of names cut out. */
static void
call_send(struct call *call, const uint8_t *body, size_t body_size)
{
    static const uint8_t no_names[2] = {0, 0};
    struct fl_mux *mux = call->client->peer.mux;
    const int err = send_blobs(call);

    if (err < 0) {
        mux_end_binding(mux, call->binding,
                        "the agent's memory for blobs is full");
        return;
    }
    call->parked = false;
    fl_router_rebase(call->binding, mux_accepted(&call->agent->peer));
    mux_send(&call->agent->peer, &call->frame, no_names, sizeof(no_names),
             body, body_size);
    free_body(call);
}

/* Asks the caller for the names awaited, and waits for them. */
static void
ask_caller(struct call *call)
{
    const struct fl_frame frame = {
        .dst_id = call->binding->client_id,
        .handle = call->binding->handle,
        .stream = call->binding->stream,
    };
    const uint8_t kind = FL_K_WANT_BLOB;
    uint8_t *names = malloc(call->count * FL_BLOB_NAME);
    size_t size = 0;

    if (names == NULL) {
        mux_end_binding(call->client->peer.mux, call->binding,
                        "the mux is out of memory");
        return;
    }
    for (size_t i = 0; i < call->count; i++) {
        if (call->names[i].awaited) {
            memcpy(names + size, call->names[i].bytes, FL_BLOB_NAME);
            size += FL_BLOB_NAME;
        }
    }
    mux_send(&call->client->peer, &frame, &kind, 1, names, size);
    free(names);
    fl_list_append(&call->client->peer.mux->waiting_calls, &call->waiting);
}

/*
 * Holds on to what is there, in the store or with the agent, and notes the
 * rest as awaited. Done again before a parked call is sent: the agent may
 * have forgotten everything meanwhile.
 */
static void
take_stock(struct call *call)
{
    struct fl_blobs *blobs = call->client->peer.mux->blobs;

    for (size_t i = 0; i < call->count; i++) {
        struct name *name = &call->names[i];
        struct fl_blob *blob = fl_blobs_find(blobs, name->bytes);

        if (name->blob == NULL && blob != NULL) {
            name->blob = fl_blob_ref(blob);
        }
        if (fl_have_has(call->agent->have, name->bytes)) {
            pin(call, name);
        }
        else if (name->blob == NULL && !name->awaited) {
            name->awaited = true;
            call->awaited++;
        }
    }
}

static int
park(struct call *call, const uint8_t *body, size_t size)
{
    struct client *client = call->client;
    const size_t cap = client->peer.mux->config.parked_bytes;

    if (size > cap || client->parked_bytes > cap - size) {
        return FL_EQUOTA;
    }
    call->body = malloc(size > 0 ? size : 1);
    if (call->body == NULL) {
        return -ENOMEM;
    }
    memcpy(call->body, body, size);
    call->body_size = size;
    client->parked_bytes += size;
    return 0;
}

static struct call *
call_new(struct client *client, struct agent *agent,
         const struct fl_frame *frame, const uint8_t *names, size_t count)
{
    struct call *call = calloc(1, sizeof(*call) + count * sizeof(struct name));

    if (call == NULL) {
        return NULL;
    }
    call->client = client;
    call->agent = agent;
    call->frame = *frame;
    call->count = count;
    client->names += count;
    call->parked = true;
    fl_list_init(&call->waiting);
    for (size_t i = 0; i < count; i++) {
        memcpy(call->names[i].bytes, names + i * FL_BLOB_NAME, FL_BLOB_NAME);
    }
    return call;
}

/* Binds the reply handle to a new call; NULL: the client was told why not. */
static struct call *
bind_call(struct client *client, struct peer *sink,
          const struct fl_frame *frame, const uint8_t *names, size_t count)
{
    struct fl_mux *mux = client->peer.mux;
    struct call *call = call_new(client, peer_agent(sink), frame, names,
                                 count);
    struct fl_binding *binding = NULL;

    if (call == NULL
        || fl_router_binding(mux->router, peer_id(&client->peer),
                             frame->reply_to)
               != NULL
        || fl_router_bind(mux->router, client->peer.endpoint, sink->endpoint,
                          frame, FL_BINDING_HELD, &binding)
               < 0)
    {
        call_free(call);
        mux_client_refuse(client, "this call's reply handle cannot be bound");
        return NULL;
    }
    mux->binding_count++;
    call->agent->calls++;
    call->binding = binding;
    binding->call = call;
    return call;
}

void
mux_call_begin(struct client *client, struct peer *sink,
               const struct fl_frame *frame, const uint8_t *payload)
{
    const size_t count = fl_get_u16(payload);
    const uint8_t *body = payload + 2 + count * FL_BLOB_NAME;
    const size_t size = frame->length - 2 - count * FL_BLOB_NAME;
    struct call *call;

    if (client->names + count > MUX_CLIENT_NAMES) {
        mux_send_dead(&client->peer, frame->reply_to, frame->stream,
                      FL_D_NOT_SENT,
                      "the calls of this client name too many blobs");
        return;
    }
    call = bind_call(client, sink, frame, payload + 2, count);
    if (call == NULL) {
        return;
    }
    take_stock(call);
    if (call->awaited == 0) {
        call_send(call, body, size);
    }
    else if (park(call, body, size) < 0) {
        mux_end_binding(client->peer.mux, call->binding,
                        "too much of this client is waiting for blobs");
    }
    else {
        ask_caller(call);
    }
}

bool
mux_call_cancel(struct client *client, const struct fl_frame *frame)
{
    struct fl_mux *mux = client->peer.mux;

    FL_LIST_EACH (node, after, &mux->waiting_calls) {
        struct call *call = FL_LIST_ENTRY(node, struct call, waiting);

        if (call->client == client && call->parked
            && call->binding->callee_id == frame->dst_id
            && call->binding->stream == frame->stream)
        {
            mux_end_binding(mux, call->binding, "cancelled before it left");
            return true;
        }
    }
    return false;
}

void
mux_call_credit(struct client *client, struct peer *sink,
                const struct fl_frame *frame, const uint8_t *payload)
{
    struct fl_binding *binding;
    size_t consumed;

    /* Below the mark nothing is counted. */
    if (!fl_stream_above_high(client->peer.stream) || frame->length != 4
        || (frame->flags & FL_F_COMPRESSED) != 0)
    {
        return;
    }
    binding = fl_endpoint_binding_of(sink->endpoint, peer_id(&client->peer),
                                     frame->stream);
    if (binding != NULL) {
        consumed = fl_get_u32(payload);
        binding->ahead -= consumed < binding->ahead ? consumed
                                                    : binding->ahead;
    }
}

static struct name *
find_name(struct call *call, const uint8_t *bytes)
{
    for (size_t i = 0; i < call->count; i++) {
        if (memcmp(call->names[i].bytes, bytes, FL_BLOB_NAME) == 0) {
            return &call->names[i];
        }
    }
    return NULL;
}

/* Notes a blob that has come; whether the call awaited it. */
static bool
note_blob(struct call *call, struct fl_blob *blob)
{
    bool found = false;

    for (size_t i = 0; i < call->count; i++) {
        struct name *name = &call->names[i];

        if (name->awaited
            && memcmp(name->bytes, fl_blob_name(blob), FL_BLOB_NAME) == 0)
        {
            name->awaited = false;
            name->blob = fl_blob_ref(blob);
            call->awaited--;
            found = true;
        }
    }
    return found;
}

static void
call_got(struct call *call, struct fl_blob *blob)
{
    struct name *name = find_name(call, fl_blob_name(blob));

    if (name == NULL || !note_blob(call, blob)) {
        return;
    }
    if (!call->parked && !supply(call, name, blob)) {
        return;
    }
    if (call->awaited > 0) {
        return;
    }
    fl_list_remove(&call->waiting);
    if (call->parked) {
        take_stock(call);
        if (call->awaited > 0) {
            ask_caller(call);
        }
        else {
            call_send(call, call->body, call->body_size);
        }
    }
}

static void
blob_came(struct fl_mux *mux, struct fl_blob *blob)
{
    FL_LIST_EACH (node, after, &mux->waiting_calls) {
        call_got(FL_LIST_ENTRY(node, struct call, waiting), blob);
    }
}

/* A blob cannot be kept: the calls of this client that wait for it end. */
static void
blob_failed(struct client *client, const uint8_t *bytes, const char *why)
{
    struct fl_mux *mux = client->peer.mux;

    FL_LIST_EACH (node, after, &mux->waiting_calls) {
        struct call *call = FL_LIST_ENTRY(node, struct call, waiting);
        bool hit = false;

        for (size_t i = 0; i < call->count; i++) {
            hit |= call->names[i].awaited
                   && memcmp(call->names[i].bytes, bytes, FL_BLOB_NAME) == 0;
        }
        if (hit && call->client == client) {
            mux_end_binding(mux, call->binding, why);
        }
    }
}

void
mux_upload_free(struct upload *upload)
{
    upload->client->upload_count--;
    fl_blob_unref(upload->blob);
    fl_list_remove(&upload->of_client);
    free(upload);
}

static struct upload *
find_upload(struct client *client, const uint8_t *name)
{
    FL_LIST_EACH (node, after, &client->uploads) {
        struct upload *upload = FL_LIST_ENTRY(node, struct upload, of_client);

        if (memcmp(fl_blob_name(upload->blob), name, FL_BLOB_NAME) == 0) {
            return upload;
        }
    }
    return NULL;
}

static int
upload_new(struct client *client, const uint8_t *name, size_t total,
           struct upload **ret)
{
    struct upload *upload;
    int err;

    if (client->upload_count >= MUX_UPLOADS) {
        return FL_EQUOTA;
    }
    upload = calloc(1, sizeof(*upload));
    if (upload == NULL) {
        return -ENOMEM;
    }
    err = fl_blob_new(client->peer.mux->blobs, name, total, &upload->blob);
    if (err < 0) {
        free(upload);
        return err;
    }
    fl_list_init(&upload->of_client);
    fl_list_append(&client->uploads, &upload->of_client);
    upload->client = client;
    client->upload_count++;
    *ret = upload;
    return 0;
}

/* Whether a call of this client waits for the blob. */
static bool
is_awaited(struct client *client, const uint8_t *bytes)
{
    FL_LIST_EACH (node, after, &client->peer.mux->waiting_calls) {
        struct call *call = FL_LIST_ENTRY(node, struct call, waiting);
        const struct name *name = find_name(call, bytes);

        if (call->client == client && name != NULL && name->awaited) {
            return true;
        }
    }
    return false;
}

/*
 * The upload a piece belongs to; NULL with 0: the piece is not needed. That
 * can be the rest of a blob whose beginning was refused: it was on its way.
 */
static int
upload_for(struct client *client, const uint8_t *payload, struct upload **ret)
{
    const uint32_t total = fl_get_u32(payload + FL_BLOB_NAME);
    const uint32_t offset = fl_get_u32(payload + FL_BLOB_NAME + 4);

    *ret = find_upload(client, payload);
    if (*ret == NULL && fl_blobs_find(client->peer.mux->blobs, payload)) {
        return 0;
    }
    if (*ret != NULL) {
        size_t size;

        (void)fl_blob_data((*ret)->blob, &size);
        return size == total ? 0 : FL_EBLOB;
    }
    if (offset > 0) {
        return is_awaited(client, payload) || offset > total ? FL_EBLOB : 0;
    }
    return upload_new(client, payload, total, ret);
}

/*
 * Adds what is new in a piece. One that came before is not: two threads of a
 * client may send the same blob, or one begins anew after a time-out.
 */
static int
fill_blob(struct fl_blob *blob, size_t offset, const uint8_t *data,
          size_t size)
{
    const size_t filled = fl_blob_filled(blob);
    const size_t known = offset < filled ? filled - offset : 0;

    if (known >= size && known > 0) {
        return 0;
    }
    return fl_blob_fill(blob, offset + known, data + known, size - known);
}

static int
add_piece(struct client *client, const uint8_t *payload, size_t size,
          struct upload *upload)
{
    int err = fill_blob(upload->blob, fl_get_u32(payload + FL_BLOB_NAME + 4),
                        payload + PUT_HEAD, size - PUT_HEAD);

    if (err == 1) {
        err = fl_blob_publish(upload->blob);
        if (err == 0) {
            blob_came(client->peer.mux, upload->blob);
        }
        mux_upload_free(upload);
    }
    return err;
}

void
mux_put_blob(struct client *client, const struct fl_frame *frame,
             const uint8_t *payload)
{
    struct upload *upload = NULL;
    char message[96];
    int err;

    if (frame->length < PUT_HEAD) {
        mux_client_refuse(client, "a PUT_BLOB is too short");
        return;
    }
    err = upload_for(client, payload, &upload);
    if (err == 0 && upload != NULL) {
        err = add_piece(client, payload, frame->length, upload);
    }
    if (err == FL_EBLOB) {
        mux_client_refuse(client, "the pieces of a blob do not fit together");
    }
    else if (err < 0) {
        blob_failed(client, payload,
                    fl_err_message(err, message, sizeof(message)));
    }
}

enum resent {
    RESENT_NOW,
    RESENT_LATER, /* the blob has to come from the caller first */
    RESENT_NEVER, /* the call is gone */
};

static enum resent
resend(struct call *call, struct name *name)
{
    struct fl_blobs *blobs = call->client->peer.mux->blobs;
    struct fl_blob *blob = fl_blobs_find(blobs, name->bytes);

    fl_have_lacks(call->agent->have, name->bytes);
    call->resends++;
    if (blob != NULL) {
        return supply(call, name, blob) ? RESENT_NOW : RESENT_NEVER;
    }
    if (!name->awaited) {
        name->awaited = true;
        call->awaited++;
    }
    return RESENT_LATER;
}

/* The call a NEED_BLOB speaks of, if it is one this agent was given. */
static struct call *
needing_call(struct agent *agent, const uint8_t *payload)
{
    struct fl_binding *binding = fl_endpoint_binding_of(
        agent->peer.endpoint, fl_get_u32(payload), fl_get_u32(payload + 4));
    struct call *call = binding != NULL ? binding->call : NULL;

    return call != NULL && !call->parked ? call : NULL;
}

/*
 * Rule 6: an agent gets only blobs that its own calls name, and not for ever.
 */
void
mux_need_blob(struct agent *agent, const struct fl_frame *frame,
              const uint8_t *payload)
{
    struct call *call = NULL;
    bool asking = false;

    if (frame->length > 8 && (frame->length - 8) % FL_BLOB_NAME == 0) {
        call = needing_call(agent, payload);
    }
    if (call == NULL) {
        agent->peer.mux->dropped_frames++;
        return;
    }
    for (size_t at = 8; at < frame->length && !agent->peer.doomed;
         at += FL_BLOB_NAME)
    {
        struct name *name = find_name(call, payload + at);
        enum resent resent;

        if (name == NULL || call->resends >= MUX_CALL_RESENDS * call->count) {
            agent->peer.mux->dropped_frames++;
            continue;
        }
        resent = resend(call, name);
        if (resent == RESENT_NEVER) {
            return;
        }
        asking |= resent == RESENT_LATER;
    }
    if (asking) {
        ask_caller(call);
    }
}
