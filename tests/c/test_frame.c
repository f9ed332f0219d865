/* SPDX-License-Identifier: BSD-3-Clause */
/* The vectors are shared with the agent's framer: tests/vectors/frames.json.
 */
#include <errno.h>

#include "frame.h"
#include "runner.h"
#include "support.h"
#include "vectors.h"

#define VECTORS (sizeof(vectors) / sizeof(vectors[0]))

static void
check_frame(const struct vector *v, const struct fl_frame *got)
{
    CHECK_INT(got->flags, v->frame.flags);
#define FIELD(name, offset) CHECK_INT(got->name, v->frame.name);
    FL_FRAME_FIELDS(FIELD)
#undef FIELD
}

static void
feed(struct fl_framer *framer, const uint8_t *data, size_t size)
{
    while (size > 0) {
        uint8_t *space;
        size_t room;

        CHECK_INT(fl_framer_reserve(framer, &space, &room), 0);
        CHECK(room > 0);
        room = room < size ? room : size;
        memcpy(space, data, room);
        fl_framer_commit(framer, room);
        data += room;
        size -= room;
    }
}

static struct fl_framer *
new_framer(void)
{
    struct fl_framer *framer;

    CHECK_INT(fl_framer_new(&framer), 0);
    return framer;
}

TEST(every_vector_decodes_as_it_says)
{
    for (size_t i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];
        struct fl_framer *framer = new_framer();
        struct fl_frame frame = {0};
        const uint8_t *payload = NULL;

        feed(framer, v->data, v->size);
        CHECK_INT(fl_framer_next(framer, &frame, &payload), v->result);
        if (v->result == 1) {
            check_frame(v, &frame);
            CHECK_MEM(payload, v->data + FL_HEADER_SIZE, frame.length);
            fl_framer_consume(framer, FL_HEADER_SIZE + frame.length);
            CHECK_INT(fl_framer_next(framer, &frame, &payload), 0);
        }
        fl_framer_free(framer);
    }
}

TEST(encoding_gives_back_the_vector)
{
    for (size_t i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];
        uint8_t header[FL_HEADER_SIZE];

        if (v->result == 1) {
            fl_frame_encode(&v->frame, header);
            CHECK_MEM(header, v->data, sizeof(header));
        }
    }
}

TEST(every_vector_truncated_at_every_byte_is_not_yet)
{
    for (size_t i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];
        struct fl_frame frame;
        const uint8_t *payload;

        for (size_t cut = 0; v->result == 1 && cut < v->size; cut++) {
            struct fl_framer *framer = new_framer();

            feed(framer, v->data, cut);
            CHECK_INT(fl_framer_next(framer, &frame, &payload), 0);
            fl_framer_free(framer);
        }
    }
}

/* Two frames, so that the boundary falls in the middle of either. */
TEST(every_vector_split_at_every_boundary_arrives_whole)
{
    for (size_t i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];

        for (size_t cut = 0; v->result == 1 && cut <= v->size; cut++) {
            struct fl_framer *framer = new_framer();
            struct fl_frame frame;
            const uint8_t *payload;
            size_t seen = 0;

            feed(framer, v->data, v->size);
            feed(framer, v->data, cut);
            while (fl_framer_next(framer, &frame, &payload) == 1) {
                check_frame(v, &frame);
                fl_framer_consume(framer, v->size);
                seen++;
            }
            feed(framer, v->data + cut, v->size - cut);
            while (fl_framer_next(framer, &frame, &payload) == 1) {
                check_frame(v, &frame);
                CHECK_MEM(payload, v->data + FL_HEADER_SIZE, frame.length);
                fl_framer_consume(framer, v->size);
                seen++;
            }
            CHECK_INT(seen, 2);
            fl_framer_free(framer);
        }
    }
}

/* What a flipped bit must do follows from where it is. */
static void
check_flipped(const struct vector *v, size_t byte, int got,
              const struct fl_frame *frame)
{
    if (byte < 2) {
        CHECK_INT(got, FL_EMAGIC);
    }
    else if (byte == 2) {
        CHECK_INT(got, FL_EVERSION);
    }
    else if (byte == 3) {
        CHECK(got == 1 || got == FL_EFLAGS);
    }
    else if (byte < 28) {
        CHECK_INT(got, 1);
    }
    else if (byte < FL_HEADER_SIZE) {
        CHECK(got == 0 || got == 1 || got == FL_ELENGTH);
        CHECK(got != 1 || frame->length <= v->size - FL_HEADER_SIZE);
    }
    else {
        CHECK_INT(got, 1);
        check_frame(v, frame);
    }
}

TEST(every_vector_with_every_bit_flipped)
{
    uint8_t data[1024];

    for (size_t i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];

        for (size_t bit = 0; v->result == 1 && bit < 8 * v->size; bit++) {
            struct fl_framer *framer = new_framer();
            struct fl_frame frame = {0};
            const uint8_t *payload;

            CHECK(v->size <= sizeof(data));
            memcpy(data, v->data, v->size);
            data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            feed(framer, data, v->size);
            check_flipped(v, bit / 8, fl_framer_next(framer, &frame, &payload),
                          &frame);
            fl_framer_free(framer);
        }
    }
}

/* The cap is checked before anything is allocated. */
TEST(a_lie_about_the_length_allocates_nothing)
{
    struct fl_framer *framer = new_framer();
    const struct fl_frame frame = {.length = UINT32_MAX};
    uint8_t header[FL_HEADER_SIZE];
    struct fl_frame got;
    const uint8_t *payload;

    fl_frame_encode(&frame, header);
    feed(framer, header, sizeof(header));
    alloc_fail_after(0);
    CHECK_INT(fl_framer_next(framer, &got, &payload), FL_ELENGTH);
    CHECK(!alloc_has_failed());
    alloc_fail_after(-1);
    fl_framer_free(framer);
}

TEST(greatest_frame_arrives_in_one_piece)
{
    struct fl_framer *framer = new_framer();
    const struct fl_frame frame = {.length = (uint32_t)FL_PAYLOAD_MAX};
    uint8_t *data = malloc(FL_FRAME_MAX);
    struct fl_frame got;
    const uint8_t *payload;

    for (size_t i = 0; i < FL_FRAME_MAX; i++) {
        data[i] = (uint8_t)(i * 31);
    }
    fl_frame_encode(&frame, data);
    for (size_t at = 0; at < FL_FRAME_MAX; at += 1000) {
        CHECK_INT(fl_framer_next(framer, &got, &payload), 0);
        feed(framer, data + at,
             FL_FRAME_MAX - at < 1000 ? FL_FRAME_MAX - at : 1000);
    }
    CHECK_INT(fl_framer_next(framer, &got, &payload), 1);
    CHECK_MEM(payload, data + FL_HEADER_SIZE, FL_PAYLOAD_MAX);
    free(data);
    fl_framer_free(framer);
}

/* A frame whose payload is its own number, of a random length. */
static size_t
numbered(uint8_t *out, uint32_t number, size_t length)
{
    const struct fl_frame frame = {
        .stream = number,
        .length = (uint32_t)length,
        .flags = number % 5 == 0 ? FL_F_SECRET : 0,
    };

    fl_frame_encode(&frame, out);
    memset(out + FL_HEADER_SIZE, (int)(number & 0xff), length);
    return FL_HEADER_SIZE + length;
}

static uint32_t
take_frames(struct fl_framer *framer, uint32_t expected)
{
    struct fl_frame frame;
    const uint8_t *payload;

    while (fl_framer_next(framer, &frame, &payload) == 1) {
        CHECK_INT(frame.stream, expected);
        for (size_t i = 0; i < frame.length; i++) {
            CHECK_INT(payload[i], expected & 0xff);
        }
        fl_framer_consume(framer, FL_HEADER_SIZE + frame.length);
        expected++;
    }
    return expected;
}

TEST(random_lengths_and_cuts_keep_order_and_content)
{
    struct fl_framer *framer = new_framer();
    struct random random = {1};
    uint8_t *data = malloc(2 * FL_FRAME_MAX);
    uint32_t sent = 0, seen = 0;
    size_t held = 0;

    for (int round = 0; round < 3000; round++) {
        const size_t limit = round % 200 == 0 ? FL_PAYLOAD_MAX : 3000;
        size_t cut;

        held += numbered(data + held, sent++,
                         random_below(&random, (uint32_t)limit + 1));
        cut = random_below(&random, (uint32_t)held + 1);
        feed(framer, data, cut);
        memmove(data, data + cut, held - cut);
        held -= cut;
        if (held > FL_FRAME_MAX / 2) {
            feed(framer, data, held);
            held = 0;
        }
        if (random_below(&random, 4) > 0) {
            seen = take_frames(framer, seen);
        }
        if (random_below(&random, 50) == 0) {
            fl_framer_trim(framer);
        }
    }
    feed(framer, data, held);
    CHECK_INT(take_frames(framer, seen), sent);
    free(data);
    fl_framer_free(framer);
}

TEST(failed_allocations_are_reported_and_lose_nothing)
{
    const struct vector *v = &vectors[1];
    struct fl_framer *framer = NULL;
    uint8_t *space = NULL;
    size_t room = 0;
    struct fl_frame frame;
    const uint8_t *payload;

    alloc_fail_after(0);
    CHECK_INT(fl_framer_new(&framer), -ENOMEM);
    CHECK(framer == NULL);
    framer = new_framer();
    alloc_fail_after(0);
    CHECK_INT(fl_framer_reserve(framer, &space, &room), -ENOMEM);
    CHECK(space == NULL);
    alloc_fail_after(-1);
    feed(framer, v->data, v->size);
    CHECK_INT(fl_framer_next(framer, &frame, &payload), 1);
    fl_framer_free(framer);
}

TEST(wiped_bytes_are_zero)
{
    struct fl_framer *framer = new_framer();
    uint8_t data[FL_HEADER_SIZE + 8];
    const uint8_t *held;
    size_t size;

    (void)numbered(data, 255, 8);
    feed(framer, data, sizeof(data));
    fl_framer_wipe(framer, FL_HEADER_SIZE, 8);
    held = fl_framer_peek(framer, &size);
    CHECK_INT(size, sizeof(data));
    CHECK_MEM(held, data, FL_HEADER_SIZE);
    CHECK_MEM(held + FL_HEADER_SIZE, "\0\0\0\0\0\0\0\0", 8);
    fl_framer_free(framer);
}

TEST(complaints_show_the_first_bytes_escaped)
{
    char text[320];

    CHECK_CONTAINS(fl_frame_complain(FL_EMAGIC, (const uint8_t *)"hi\x1b\n", 4,
                                     text, sizeof(text)),
                   "\"hi\\x1b\\x0a\"");
    CHECK_CONTAINS(text, "not a Fatline frame");
    (void)fl_frame_complain(FL_EMAGIC, (const uint8_t *)"", 0, text, 10);
    CHECK_INT(strlen(text), 9);
}

TEST(escaping_never_overruns_and_never_cuts_an_escape)
{
    for (size_t room = 1; room < 12; room++) {
        char text[16];
        size_t used;

        memset(text, '#', sizeof(text));
        used = fl_escape((const uint8_t *)"a\x01z\xff", 4, text, room);
        CHECK(used < room);
        CHECK_INT(text[used], '\0');
        CHECK_INT(text[room], '#');
        CHECK_MEM(text, "a\\x01z\\xff", used);
    }
}
