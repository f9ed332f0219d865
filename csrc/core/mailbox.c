/* SPDX-License-Identifier: BSD-3-Clause */
#include "mailbox.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"

/* A power of two; handles are handed out in sequence, so they spread well. */
#define BUCKETS 64u

static const char overrun_words[]
    = "the peer sent more than its credit allows and nobody took it";

struct mailbox {
    struct mailbox *next; /* in its bucket */
    uint32_t handle;
    bool overrun; /* ended by an IS_DEAD of ours; takes nothing more */
    size_t size;  /* bytes queued, overhead included */
    struct fl_message *first;
    struct fl_message **last; /* where the next one is linked in */
};

struct fl_mailboxes {
    struct mailbox *buckets[BUCKETS];
    uint32_t next_handle;
};

int
fl_mailboxes_new(struct fl_mailboxes **ret)
{
    struct fl_mailboxes *boxes = calloc(1, sizeof(*boxes));

    if (boxes == NULL) {
        return -ENOMEM;
    }
    boxes->next_handle = FL_H_FIRST_DYNAMIC;
    *ret = boxes;
    return 0;
}

static void
free_box(struct mailbox *box)
{
    while (box->first != NULL) {
        struct fl_message *message = box->first;

        box->first = message->next;
        free(message);
    }
    free(box);
}

void
fl_mailboxes_free(struct fl_mailboxes *boxes)
{
    if (boxes == NULL) {
        return;
    }
    for (size_t i = 0; i < BUCKETS; i++) {
        while (boxes->buckets[i] != NULL) {
            struct mailbox *box = boxes->buckets[i];

            boxes->buckets[i] = box->next;
            free_box(box);
        }
    }
    free(boxes);
}

/* Where the pointer to the box of `handle` is, or would be. */
static struct mailbox **
place_of(struct fl_mailboxes *boxes, uint32_t handle)
{
    struct mailbox **place = &boxes->buckets[handle % BUCKETS];

    while (*place != NULL && (*place)->handle != handle) {
        place = &(*place)->next;
    }
    return place;
}

/* A handle nobody uses; the counter wraps without reusing an open one. */
static uint32_t
pick_handle(struct fl_mailboxes *boxes)
{
    uint32_t handle;

    do {
        handle = boxes->next_handle++;
        if (boxes->next_handle == 0) {
            boxes->next_handle = FL_H_FIRST_DYNAMIC;
        }
    } while (*place_of(boxes, handle) != NULL);
    return handle;
}

int
fl_mailboxes_open(struct fl_mailboxes *boxes, uint32_t handle,
                  uint32_t *ret_handle)
{
    struct mailbox *box;

    if (handle != 0 && *place_of(boxes, handle) != NULL) {
        return FL_EQUOTA;
    }
    box = calloc(1, sizeof(*box));
    if (box == NULL) {
        return -ENOMEM;
    }
    box->handle = handle != 0 ? handle : pick_handle(boxes);
    box->last = &box->first;
    *place_of(boxes, box->handle) = box;
    *ret_handle = box->handle;
    return 0;
}

int
fl_mailboxes_close(struct fl_mailboxes *boxes, uint32_t handle)
{
    struct mailbox **place = place_of(boxes, handle);
    struct mailbox *box = *place;

    if (box == NULL) {
        return FL_EHANDLE;
    }
    *place = box->next;
    free_box(box);
    return 0;
}

static int
append(struct mailbox *box, const struct fl_frame *frame,
       const uint8_t *payload)
{
    struct fl_message *message = malloc(sizeof(*message) + frame->length);

    if (message == NULL) {
        return -ENOMEM;
    }
    message->next = NULL;
    message->frame = *frame;
    if (frame->length > 0) {
        memcpy(message->payload, payload, frame->length);
    }
    *box->last = message;
    box->last = &message->next;
    box->size += sizeof(*message) + frame->length;
    return 1;
}

/* Ends a queue that grew too long, in the way every other call ends. */
static int
append_overrun(struct mailbox *box, const struct fl_frame *cause)
{
    uint8_t payload[sizeof(overrun_words)];
    struct fl_frame frame = *cause;

    frame.flags = FL_F_LAST;
    frame.reply_to = FL_H_IS_DEAD;
    frame.length = sizeof(payload);
    payload[0] = FL_D_OVERRUN;
    memcpy(payload + 1, overrun_words, sizeof(payload) - 1);
    box->overrun = true;
    return append(box, &frame, payload);
}

int
fl_mailboxes_put(struct fl_mailboxes *boxes, const struct fl_frame *frame,
                 const uint8_t *payload)
{
    struct mailbox *box = *place_of(boxes, frame->handle);

    if (box == NULL || box->overrun) {
        return 0;
    }
    if (box->size + sizeof(struct fl_message) + frame->length > FL_MAILBOX_MAX)
    {
        return append_overrun(box, frame);
    }
    return append(box, frame, payload);
}

int
fl_mailboxes_take(struct fl_mailboxes *boxes, uint32_t handle,
                  struct fl_message **ret)
{
    struct mailbox *box = *place_of(boxes, handle);
    struct fl_message *message;

    if (box == NULL) {
        return FL_EHANDLE;
    }
    message = box->first;
    if (message == NULL) {
        return 0;
    }
    box->first = message->next;
    if (box->first == NULL) {
        box->last = &box->first;
    }
    box->size -= sizeof(*message) + message->frame.length;
    *ret = message;
    return 1;
}
