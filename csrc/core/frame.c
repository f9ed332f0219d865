/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "frame.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"

/*
 * The buffer starts small, for peers that exchange small messages, and has
 * its full size once a read has filled it: then a frame of FL_CHUNK_SIZE and
 * the header after it fit without growing.
 */
#define FRAMER_SMALL ((size_t)16 * 1024)
#define FRAMER_FULL (FL_CHUNK_SIZE + 2 * FL_HEADER_SIZE)

struct fl_framer {
    uint8_t *data;
    size_t capacity;
    size_t start;  /* first unconsumed byte */
    size_t end;    /* first free byte */
    size_t wanted; /* capacity, if no frame needs more; 0: not yet known */
};

void
fl_frame_encode(const struct fl_frame *frame, uint8_t out[32])
{
    out[0] = FL_MAGIC_0;
    out[1] = FL_MAGIC_1;
    out[2] = FL_VERSION;
    out[3] = frame->flags;
#define FL_FRAME_PUT(field, offset) fl_put_u32(out + (offset), frame->field);
    FL_FRAME_FIELDS(FL_FRAME_PUT)
#undef FL_FRAME_PUT
}

/* The bytes that can be wrong by themselves, in wire order. */
static int
check_prefix(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] != FL_MAGIC_0) {
        return FL_EMAGIC;
    }
    if (size > 1 && data[1] != FL_MAGIC_1) {
        return FL_EMAGIC;
    }
    if (size > 2 && data[2] != FL_VERSION) {
        return FL_EVERSION;
    }
    if (size > 3 && (data[3] & ~(unsigned)FL_FLAGS_KNOWN) != 0) {
        return FL_EFLAGS;
    }
    return 0;
}

int
fl_frame_decode(const uint8_t *data, size_t size, struct fl_frame *ret)
{
    int err = check_prefix(data, size);

    if (err < 0) {
        return err;
    }
    if (size < FL_HEADER_SIZE) {
        return 0;
    }
    if (fl_get_u32(data + 28) > FL_PAYLOAD_MAX) {
        return FL_ELENGTH;
    }
    ret->flags = data[3];
#define FL_FRAME_GET(field, offset) ret->field = fl_get_u32(data + (offset));
    FL_FRAME_FIELDS(FL_FRAME_GET)
#undef FL_FRAME_GET
    return 1;
}

size_t
fl_escape(const uint8_t *data, size_t size, char *text, size_t text_size)
{
    static const char digits[] = "0123456789abcdef";
    size_t used = 0;

    if (text_size == 0) {
        return 0;
    }
    for (size_t i = 0; i < size; i++) {
        const bool plain = data[i] >= 0x20 && data[i] < 0x7f;

        if (used + (plain ? 1 : 4) >= text_size) {
            break;
        }
        if (plain) {
            text[used++] = (char)data[i];
            continue;
        }
        text[used++] = '\\';
        text[used++] = 'x';
        text[used++] = digits[data[i] >> 4];
        text[used++] = digits[data[i] & 15];
    }
    text[used] = '\0';
    return used;
}

const char *
fl_frame_complain(int err, const uint8_t *data, size_t size, char *text,
                  size_t text_size)
{
    char message[80], bytes[4 * FL_HEADER_SIZE + 1];

    (void)fl_err_message(err, message, sizeof(message));
    (void)fl_escape(data, size < FL_HEADER_SIZE ? size : FL_HEADER_SIZE, bytes,
                    sizeof(bytes));
    (void)snprintf(text, text_size, "%s; the first bytes are \"%s\"%s",
                   message, bytes,
                   err == FL_EMAGIC ? " (a shell or a start-up file may have "
                                      "written to the connection)"
                                    : "");
    return text;
}

int
fl_framer_new(struct fl_framer **ret)
{
    struct fl_framer *framer = calloc(1, sizeof(*framer));

    if (framer == NULL) {
        return -ENOMEM;
    }
    *ret = framer;
    return 0;
}

void
fl_framer_free(struct fl_framer *framer)
{
    if (framer == NULL) {
        return;
    }
    if (framer->data != NULL) {
        explicit_bzero(framer->data, framer->end);
    }
    free(framer->data);
    free(framer);
}

/* Bytes the frame that has begun still lacks; 0 if none has. */
static size_t
missing(const struct fl_framer *framer)
{
    const size_t held = framer->end - framer->start;
    struct fl_frame frame;

    if (held == 0
        || fl_frame_decode(framer->data + framer->start, held, &frame) != 1
        || frame.length + FL_HEADER_SIZE <= held)
    {
        return 0;
    }
    return frame.length + FL_HEADER_SIZE - held;
}

/* Whether a frame held, the incomplete last one included, is SECRET. */
static bool
holds_secret(const struct fl_framer *framer)
{
    size_t at = framer->start;

    while (framer->end - at >= FL_HEADER_SIZE) {
        if ((framer->data[at + 3] & FL_F_SECRET) != 0) {
            return true;
        }
        at += FL_HEADER_SIZE + fl_get_u32(framer->data + at + 28);
        if (at >= framer->end) {
            break;
        }
    }
    return false;
}

/* Moves what is held into `target`, leaving no copy of a secret behind. */
static void
move_to(struct fl_framer *framer, uint8_t *target)
{
    const size_t held = framer->end - framer->start;
    const bool secret = holds_secret(framer);

    if (held > 0) {
        memmove(target, framer->data + framer->start, held);
    }
    if (secret && target != framer->data) {
        explicit_bzero(framer->data + framer->start, held);
    }
    else if (secret && framer->start > 0) {
        const size_t kept = held > framer->start ? held : framer->start;

        explicit_bzero(framer->data + kept, framer->end - kept);
    }
    framer->start = 0;
    framer->end = held;
}

static int
grow(struct fl_framer *framer, size_t capacity)
{
    uint8_t *data = malloc(capacity);

    if (data == NULL) {
        return -ENOMEM;
    }
    move_to(framer, data);
    free(framer->data);
    framer->data = data;
    framer->capacity = capacity;
    return 0;
}

/* The capacity it takes to read on: all of the frame that has begun. */
static size_t
needed(const struct fl_framer *framer)
{
    const size_t held = framer->end - framer->start;
    const size_t base = framer->wanted > 0 ? framer->wanted : FRAMER_SMALL;
    const size_t lacks = missing(framer);
    const size_t room = lacks > base / 2 ? lacks : base / 2;

    return held + room > base ? held + room : base;
}

int
fl_framer_reserve(struct fl_framer *framer, uint8_t **ret_data,
                  size_t *ret_size)
{
    const size_t held = framer->end - framer->start;
    const size_t capacity = needed(framer);
    int err = 0;

    if (held == 0) {
        framer->start = framer->end = 0;
    }
    if (capacity > framer->capacity) {
        err = grow(framer, capacity);
    }
    else if (framer->start + capacity > framer->capacity) {
        move_to(framer, framer->data);
    }
    if (err < 0) {
        return err;
    }
    *ret_data = framer->data + framer->end;
    *ret_size = framer->capacity - framer->end;
    return 0;
}

void
fl_framer_commit(struct fl_framer *framer, size_t size)
{
    framer->end += size;
    if (framer->end == framer->capacity) {
        framer->wanted = FRAMER_FULL;
    }
}

int
fl_framer_next(const struct fl_framer *framer, struct fl_frame *ret,
               const uint8_t **ret_payload)
{
    const size_t held = framer->end - framer->start;
    struct fl_frame frame;
    int got;

    if (held == 0) {
        return 0;
    }
    got = fl_frame_decode(framer->data + framer->start, held, &frame);
    if (got != 1) {
        return got;
    }
    if (held < FL_HEADER_SIZE + frame.length) {
        return 0;
    }
    *ret = frame;
    *ret_payload = framer->data + framer->start + FL_HEADER_SIZE;
    return 1;
}

const uint8_t *
fl_framer_peek(const struct fl_framer *framer, size_t *ret_size)
{
    *ret_size = framer->end - framer->start;
    return *ret_size > 0 ? framer->data + framer->start : NULL;
}

void
fl_framer_consume(struct fl_framer *framer, size_t size)
{
    framer->start += size;
}

void
fl_framer_wipe(struct fl_framer *framer, size_t offset, size_t size)
{
    explicit_bzero(framer->data + framer->start + offset, size);
}

void
fl_framer_trim(struct fl_framer *framer)
{
    if (framer->start == framer->end) {
        free(framer->data);
        framer->data = NULL;
        framer->capacity = framer->start = framer->end = framer->wanted = 0;
    }
}
