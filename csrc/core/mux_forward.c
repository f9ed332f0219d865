/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames from stream to stream. What is contiguous in a source's buffer and
 * goes to one sink unchanged is a run and is written with one call, straight
 * from that buffer if the sink's queue is empty.
 */
#include <stdio.h>

#include "err.h"
#include "mux_internal.h"

void
mux_overflow(struct peer *peer, int err)
{
    char message[96], text[192];

    (void)fl_err_message(err, message, sizeof(message));
    (void)snprintf(text, sizeof(text), "context %u takes no more: %s",
                   (unsigned)peer_id(peer), message);
    mux_note_error(peer->mux, text);
    if (peer->side == FL_SIDE_AGENT) {
        mux_agent_doom(peer_agent(peer), message);
    }
    else {
        mux_doom(peer);
    }
}

void
mux_flush_run(struct fl_mux *mux)
{
    const struct run run = mux->run;
    int err;

    if (run.sink == NULL) {
        return;
    }
    mux->run.sink = NULL;
    if (run.sink->side == FL_SIDE_AGENT) {
        mux->requests++;
    }
    else {
        mux->replies++;
    }
    if (!fl_list_empty(&run.sink->dirty)) {
        /* Answers queued before go first; with luck the run needs no copy. */
        fl_stream_flush(run.sink->stream);
    }
    err = fl_stream_write(run.sink->stream, run.data, run.size, run.secret);
    if (err < 0) {
        mux_overflow(run.sink, err);
    }
}

static void
extend_run(struct fl_mux *mux, struct peer *sink, const uint8_t *data,
           size_t size, bool secret)
{
    if (mux->run.sink == sink && mux->run.data + mux->run.size == data) {
        mux->run.size += size;
        mux->run.secret |= secret;
        return;
    }
    mux_flush_run(mux);
    mux->run = (struct run){
        .sink = sink, .data = data, .size = size, .secret = secret};
}

uint64_t
mux_accepted(const struct peer *sink)
{
    const struct run *run = &sink->mux->run;

    return fl_stream_accepted(sink->stream)
           + (run->sink == sink ? run->size : 0);
}

void
mux_mark_dirty(struct peer *peer)
{
    if (fl_list_empty(&peer->dirty)) {
        fl_list_append(&peer->mux->dirty, &peer->dirty);
    }
}

void
mux_send(struct peer *sink, const struct fl_frame *frame, const void *head,
         size_t head_size, const void *body, size_t body_size)
{
    struct fl_frame out = *frame;
    uint8_t header[FL_HEADER_SIZE];
    const bool secret = (frame->flags & FL_F_SECRET) != 0;
    int err;

    if (sink->doomed) {
        return;
    }
    if (sink->mux->run.sink == sink) {
        mux_flush_run(sink->mux);
    }
    out.length = (uint32_t)(head_size + body_size);
    fl_frame_encode(&out, header);
    err = fl_stream_queue(sink->stream, header, sizeof(header), false);
    if (err == 0) {
        err = fl_stream_queue(sink->stream, head, head_size, secret);
    }
    if (err == 0) {
        err = fl_stream_queue(sink->stream, body, body_size, secret);
    }
    sink->mux->frames_out++;
    mux_mark_dirty(sink);
    if (err < 0) {
        mux_overflow(sink, err);
    }
}

/*
 * A client does not know its id before HELLO is answered; an agent may ask
 * on behalf of a descendant.
 */
static struct fl_frame
answer_to(const struct peer *peer, const struct fl_frame *request)
{
    return (struct fl_frame){
        .flags = FL_F_LAST,
        .dst_id = peer->side == FL_SIDE_CLIENT ? peer_id(peer)
                                               : request->src_id,
        .handle = request->reply_to,
        .stream = request->stream,
    };
}

void
mux_answer(struct peer *peer, const struct fl_frame *request,
           const void *payload, size_t size)
{
    const struct fl_frame frame = answer_to(peer, request);

    if (request->reply_to != 0) {
        mux_send(peer, &frame, payload, size, NULL, 0);
    }
}

void
mux_pong(struct peer *peer, const struct fl_frame *request,
         const uint8_t *payload)
{
    const struct fl_frame frame = answer_to(peer, request);
    const uint8_t kind = FL_K_PONG;

    if (request->length == FL_PAYLOAD_MAX) {
        mux_send_dead(peer, request->reply_to, request->stream, FL_D_REJECTED,
                      "with its kind, the answer would be too long");
        return;
    }
    mux_send(peer, &frame, &kind, 1, payload, request->length);
}

void
mux_send_dead(struct peer *client, uint32_t handle, uint32_t stream,
              enum fl_death code, const char *reason)
{
    const struct fl_frame frame = {
        .flags = FL_F_LAST,
        .dst_id = peer_id(client),
        .handle = handle,
        .reply_to = FL_H_IS_DEAD,
        .stream = stream,
    };
    const uint8_t head = (uint8_t)code;
    size_t size = 0;

    while (reason[size] != '\0') {
        size++;
    }
    mux_send(client, &frame, &head, 1, reason, size);
}

void
mux_block(struct peer *peer, struct peer *sink)
{
    peer->blocked_on = sink;
    fl_list_append(&peer->mux->blocked, &peer->waiting);
    fl_stream_pause(peer->stream, true);
}

void
mux_unblock(struct peer *peer)
{
    if (peer->blocked_on != NULL) {
        peer->blocked_on = NULL;
        fl_list_append(&peer->mux->ready, &peer->waiting);
    }
}

void
mux_peer_drained(struct peer *peer)
{
    struct fl_mux *mux = peer->mux;

    FL_LIST_EACH (node, after, &mux->blocked) {
        struct peer *source = FL_LIST_ENTRY(node, struct peer, waiting);

        if (source->blocked_on == peer) {
            mux_unblock(source);
        }
    }
}

static enum verdict
handle_frame(struct peer *peer, const struct fl_frame *frame,
             const uint8_t *payload, struct peer **ret_sink)
{
    if (peer->side == FL_SIDE_CLIENT) {
        return mux_client_frame(peer_client(peer), frame, payload, ret_sink);
    }
    return mux_agent_frame(peer_agent(peer), frame, payload, ret_sink);
}

/* The bytes of a broken header are shown to whoever has to find the cause. */
static void
reject_bytes(struct peer *peer, int err, const uint8_t *data, size_t size)
{
    char text[320];

    (void)fl_frame_complain(err, data, size, text, sizeof(text));
    if (peer->side == FL_SIDE_CLIENT) {
        mux_client_refuse(peer_client(peer), text);
    }
    else {
        mux_note_error(peer->mux, text);
        mux_agent_doom(peer_agent(peer), text);
    }
}

/* Wipes the payloads of the SECRET frames among the first `size` bytes. */
static void
wipe_secrets(struct fl_framer *framer, size_t size)
{
    size_t held, at = 0;
    const uint8_t *data = fl_framer_peek(framer, &held);

    while (at < size) {
        const size_t length = fl_get_u32(data + at + 28);

        if ((data[at + 3] & FL_F_SECRET) != 0) {
            fl_framer_wipe(framer, at + FL_HEADER_SIZE, length);
        }
        at += FL_HEADER_SIZE + length;
    }
}

/* Deals with the frame at `data`; its size, or 0 if it must wait. */
static size_t
step(struct peer *peer, const uint8_t *data, size_t size, bool *ret_secret)
{
    struct fl_frame frame;
    struct peer *sink = NULL;
    const int got = fl_frame_decode(data, size, &frame);
    size_t total;
    enum verdict verdict;

    if (got < 0) {
        reject_bytes(peer, got, data, size);
        return 0;
    }
    if (got == 0 || size < FL_HEADER_SIZE + frame.length) {
        return 0;
    }
    total = FL_HEADER_SIZE + frame.length;
    verdict = handle_frame(peer, &frame, data + FL_HEADER_SIZE, &sink);
    if (verdict == FRAME_BLOCKED) {
        mux_block(peer, sink);
        return 0;
    }
    peer->mux->frames_in++;
    *ret_secret |= (frame.flags & FL_F_SECRET) != 0;
    if (verdict == FRAME_FORWARD) {
        peer->mux->frames_out++;
        extend_run(peer->mux, sink, data, total,
                   (frame.flags & FL_F_SECRET) != 0);
    }
    return total;
}

void
mux_peer_input(struct peer *peer)
{
    struct fl_framer *framer = fl_stream_framer(peer->stream);
    size_t size, used = 0, taken;
    const uint8_t *data = fl_framer_peek(framer, &size);
    bool secret = false;

    while (used < size && !peer->doomed && peer->blocked_on == NULL) {
        taken = step(peer, data + used, size - used, &secret);
        if (taken == 0) {
            break;
        }
        used += taken;
    }
    mux_flush_run(peer->mux);
    if (secret) {
        wipe_secrets(framer, used);
    }
    fl_framer_consume(framer, used);
}
