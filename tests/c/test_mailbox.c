/* SPDX-License-Identifier: BSD-3-Clause */
#include "mailbox.h"

#include <errno.h>

#include "err.h"
#include "runner.h"
#include "support.h"

static struct fl_mailboxes *
new_boxes(void)
{
    struct fl_mailboxes *boxes = NULL;

    CHECK_INT(fl_mailboxes_new(&boxes), 0);
    return boxes;
}

static uint32_t
open_box(struct fl_mailboxes *boxes, uint32_t handle)
{
    uint32_t opened = 0;

    CHECK_INT(fl_mailboxes_open(boxes, handle, &opened), 0);
    return opened;
}

static int
put(struct fl_mailboxes *boxes, uint32_t handle, const void *payload,
    size_t size)
{
    const struct fl_frame frame = {
        .handle = handle, .length = (uint32_t)size, .stream = 5};

    return fl_mailboxes_put(boxes, &frame, payload);
}

static struct fl_message *
take(struct fl_mailboxes *boxes, uint32_t handle)
{
    struct fl_message *message = NULL;

    CHECK_INT(fl_mailboxes_take(boxes, handle, &message), 1);
    return message;
}

TEST(messages_keep_their_order_and_their_box)
{
    struct fl_mailboxes *boxes = new_boxes();
    const uint32_t first = open_box(boxes, 0), second = open_box(boxes, 0);
    static const struct {
        int of_first;
        const char *text;
    } expected[] = {{1, "one"}, {1, "three"}, {0, "two"}};

    CHECK_INT(put(boxes, first, "one", 3), 1);
    CHECK_INT(put(boxes, second, "two", 3), 1);
    CHECK_INT(put(boxes, first, "three", 5), 1);
    for (size_t i = 0; i < 3; i++) {
        struct fl_message *message = take(
            boxes, expected[i].of_first ? first : second);

        CHECK_INT(message->frame.length, strlen(expected[i].text));
        CHECK_INT(message->frame.stream, 5);
        CHECK_MEM(message->payload, expected[i].text, message->frame.length);
        free(message);
    }
    fl_mailboxes_free(boxes);
}

TEST(an_emptied_box_fills_again)
{
    struct fl_mailboxes *boxes = new_boxes();
    const uint32_t handle = open_box(boxes, 0);
    struct fl_message *message = NULL;

    for (int round = 0; round < 3; round++) {
        CHECK_INT(put(boxes, handle, "", 0), 1);
        CHECK_INT(put(boxes, handle, "x", 1), 1);
        free(take(boxes, handle));
        free(take(boxes, handle));
        CHECK_INT(fl_mailboxes_take(boxes, handle, &message), 0);
    }
    fl_mailboxes_free(boxes);
}

TEST(nobody_listens)
{
    struct fl_mailboxes *boxes = new_boxes();
    const uint32_t handle = open_box(boxes, 0);
    struct fl_message *message = NULL;

    CHECK_INT(put(boxes, handle + 1, "x", 1), 0);
    CHECK_INT(fl_mailboxes_take(boxes, handle + 1, &message), FL_EHANDLE);
    CHECK_INT(fl_mailboxes_close(boxes, handle + 1), FL_EHANDLE);
    CHECK_INT(put(boxes, handle, "x", 1), 1);
    CHECK_INT(fl_mailboxes_close(boxes, handle), 0);
    CHECK_INT(put(boxes, handle, "x", 1), 0);
    CHECK_INT(fl_mailboxes_close(boxes, handle), FL_EHANDLE);
    fl_mailboxes_free(boxes);
}

TEST(a_handle_is_open_once)
{
    struct fl_mailboxes *boxes = new_boxes();
    uint32_t again;

    CHECK_INT(open_box(boxes, FL_H_DEL_ROUTE), FL_H_DEL_ROUTE);
    CHECK_INT(fl_mailboxes_open(boxes, FL_H_DEL_ROUTE, &again), FL_EQUOTA);
    CHECK_INT(open_box(boxes, 0), FL_H_FIRST_DYNAMIC);
    CHECK_INT(open_box(boxes, FL_H_FIRST_DYNAMIC + 1), FL_H_FIRST_DYNAMIC + 1);
    CHECK_INT(open_box(boxes, 0), FL_H_FIRST_DYNAMIC + 2);
    fl_mailboxes_free(boxes);
}

/* Rule 4: what nobody takes is bounded, and the end is told like any other. */
static void
overrun_with(size_t size)
{
    struct fl_mailboxes *boxes = new_boxes();
    const uint32_t handle = open_box(boxes, 0), other = open_box(boxes, 0);
    uint8_t *payload = calloc(1, size + 1);
    size_t held = 0, limit = FL_MAILBOX_MAX / (size + sizeof(uint32_t)) + 1;
    struct fl_message *message;

    for (size_t i = 0; i < limit; i++) {
        (void)put(boxes, handle, payload, size);
    }
    CHECK_INT(put(boxes, handle, payload, size), 0);
    CHECK_INT(put(boxes, other, payload, size), 1);
    while ((message = take(boxes, handle))->frame.reply_to != FL_H_IS_DEAD) {
        held += sizeof(*message) + message->frame.length;
        free(message);
    }
    CHECK(held <= FL_MAILBOX_MAX);
    CHECK(held + sizeof(*message) + size > FL_MAILBOX_MAX);
    CHECK_INT(message->payload[0], FL_D_OVERRUN);
    CHECK_INT(message->frame.handle, handle);
    CHECK_INT(message->frame.flags, FL_F_LAST);
    CHECK(message->frame.length > 1);
    free(message);
    CHECK_INT(put(boxes, handle, payload, size), 0);
    free(payload);
    fl_mailboxes_free(boxes);
}

TEST(a_box_overruns_with_large_messages)
{
    overrun_with(FL_PAYLOAD_MAX);
}

TEST(a_box_overruns_with_empty_messages)
{
    overrun_with(0);
}

TEST(every_allocation_may_fail)
{
    struct fl_mailboxes *boxes = NULL;
    uint32_t handle = 0;

    alloc_fail_after(0);
    CHECK_INT(fl_mailboxes_new(&boxes), -ENOMEM);
    CHECK(boxes == NULL);
    boxes = new_boxes();
    alloc_fail_after(0);
    CHECK_INT(fl_mailboxes_open(boxes, 0, &handle), -ENOMEM);
    CHECK_INT(handle, 0);
    handle = open_box(boxes, 0);
    alloc_fail_after(0);
    CHECK_INT(put(boxes, handle, "lost", 4), -ENOMEM);
    CHECK_INT(put(boxes, handle, "kept", 4), 1);
    free(take(boxes, handle));
    fl_mailboxes_free(boxes);
    fl_mailboxes_free(NULL);
}

/* Invariant: a box gives out what was put in, in order, nothing else. */
TEST(random_operations)
{
    struct fl_mailboxes *boxes = new_boxes();
    struct random random = {.state = 20};
    uint32_t handles[16] = {0}, put_count[16] = {0}, taken[16] = {0};

    for (int i = 0; i < 100000; i++) {
        const uint32_t at = random_below(&random, 16);
        struct fl_message *message = NULL;

        if (handles[at] == 0) {
            handles[at] = open_box(boxes, 0);
            put_count[at] = taken[at] = 0;
        }
        switch (random_below(&random, 5)) {
        case 0:
        case 1:
            CHECK_INT(put(boxes, handles[at], &put_count[at], 4), 1);
            put_count[at]++;
            break;
        case 2:
        case 3:
            CHECK_INT(fl_mailboxes_take(boxes, handles[at], &message),
                      taken[at] < put_count[at]);
            if (message != NULL) {
                CHECK_MEM(message->payload, &taken[at], 4);
                taken[at]++;
            }
            free(message);
            break;
        default:
            if (random_below(&random, 50) == 0) {
                CHECK_INT(fl_mailboxes_close(boxes, handles[at]), 0);
                handles[at] = 0;
            }
            break;
        }
    }
    fl_mailboxes_free(boxes);
}
