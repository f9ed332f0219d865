/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The framer on any bytes: fed at once and fed byte by byte, it must find the
 * same frames and stop at the same place for the same reason.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    size_t frames, consumed;
    uint64_t digest;
    int last;
};

static void
take_frames(struct fl_framer *framer, struct outcome *outcome)
{
    struct fl_frame frame;
    const uint8_t *payload;

    while ((outcome->last = fl_framer_next(framer, &frame, &payload)) == 1) {
        outcome->frames++;
        outcome->consumed += FL_HEADER_SIZE + frame.length;
        for (size_t i = 0; i < frame.length; i++) {
            outcome->digest = outcome->digest * 31 + payload[i];
        }
        outcome->digest = outcome->digest * 31 + frame.handle + frame.flags;
        fl_framer_consume(framer, FL_HEADER_SIZE + frame.length);
    }
}

static struct outcome
run(const uint8_t *data, size_t size, size_t step)
{
    struct outcome outcome = {0};
    struct fl_framer *framer;

    if (fl_framer_new(&framer) < 0) {
        abort();
    }
    while (size > 0 && outcome.last >= 0) {
        uint8_t *space;
        size_t room;

        if (fl_framer_reserve(framer, &space, &room) < 0) {
            abort();
        }
        room = room < step ? room : step;
        room = room < size ? room : size;
        memcpy(space, data, room);
        fl_framer_commit(framer, room);
        data += room;
        size -= room;
        take_frames(framer, &outcome);
    }
    fl_framer_free(framer);
    return outcome;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct outcome whole = run(data, size, SIZE_MAX);
    const struct outcome bytes = run(data, size, 1);

    if (whole.frames != bytes.frames || whole.consumed != bytes.consumed
        || whole.digest != bytes.digest || whole.last != bytes.last)
    {
        abort();
    }
    return 0;
}
