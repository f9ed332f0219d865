/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "blob.h"
#include "err.h"
#include "runner.h"
#include "support.h"

#define CAP ((size_t)1000)

static const uint8_t *
name_of(unsigned number)
{
    static uint8_t name[FL_BLOB_NAME];

    memset(name, 0, sizeof(name));
    memcpy(name, &number, sizeof(number));
    return name;
}

static struct fl_blobs *
new_store(void)
{
    struct fl_blobs *blobs;

    CHECK_INT(fl_blobs_new(CAP, &blobs), 0);
    return blobs;
}

/* A published blob of this size, with the caller's reference. */
static struct fl_blob *
put(struct fl_blobs *blobs, unsigned number, size_t size)
{
    uint8_t data[CAP];
    struct fl_blob *blob;

    memset(data, (int)number, sizeof(data));
    CHECK_INT(fl_blob_new(blobs, name_of(number), size, &blob), 0);
    CHECK_INT(fl_blob_fill(blob, 0, data, size), 1);
    CHECK_INT(fl_blob_publish(blob), 0);
    return blob;
}

TEST(a_blob_is_found_once_it_is_complete)
{
    struct fl_blobs *blobs = new_store();
    struct fl_blob *blob;
    const uint8_t *data;
    size_t size;

    CHECK_INT(fl_blob_new(blobs, name_of(1), 6, &blob), 0);
    CHECK_INT(fl_blob_fill(blob, 0, "abc", 3), 0);
    CHECK(fl_blobs_find(blobs, name_of(1)) == NULL);
    CHECK_INT(fl_blob_fill(blob, 3, "def", 3), 1);
    CHECK_INT(fl_blob_publish(blob), 0);
    CHECK(fl_blobs_find(blobs, name_of(1)) == blob);
    data = fl_blob_data(blob, &size);
    CHECK_INT(size, 6);
    CHECK_MEM(data, "abcdef", 6);
    CHECK_MEM(fl_blob_name(blob), name_of(1), FL_BLOB_NAME);
    fl_blob_unref(blob);
    CHECK(fl_blobs_find(blobs, name_of(1)) == blob);
    fl_blobs_free(blobs);
}

TEST(pieces_come_in_order_and_stay_within_the_size)
{
    struct fl_blobs *blobs = new_store();
    struct fl_blob *blob;

    CHECK_INT(fl_blob_new(blobs, name_of(1), 6, &blob), 0);
    CHECK_INT(fl_blob_fill(blob, 1, "a", 1), FL_EBLOB);
    CHECK_INT(fl_blob_fill(blob, 0, "abcdefg", 7), FL_EBLOB);
    CHECK_INT(fl_blob_fill(blob, 0, "abc", 3), 0);
    CHECK_INT(fl_blob_fill(blob, 0, "abc", 3), FL_EBLOB);
    CHECK_INT(fl_blob_fill(blob, 3, "defg", 4), FL_EBLOB);
    CHECK_INT(fl_blob_fill(blob, 3, "def", 3), 1);
    fl_blob_unref(blob);
    CHECK_INT(fl_blobs_bytes(blobs), 0);
    fl_blobs_free(blobs);
}

TEST(the_least_recently_used_goes_first_and_the_pinned_never)
{
    struct fl_blobs *blobs = new_store();
    struct fl_blob *pinned = put(blobs, 1, 300);

    fl_blob_unref(put(blobs, 2, 300));
    fl_blob_unref(put(blobs, 3, 300));
    (void)fl_blobs_find(blobs, name_of(2));
    fl_blob_unref(put(blobs, 4, 300));
    CHECK(fl_blobs_find(blobs, name_of(1)) == pinned);
    CHECK(fl_blobs_find(blobs, name_of(2)) != NULL);
    CHECK(fl_blobs_find(blobs, name_of(3)) == NULL);
    CHECK(fl_blobs_find(blobs, name_of(4)) != NULL);
    CHECK_INT(fl_blobs_count(blobs), 3);
    fl_blob_unref(pinned);
    fl_blobs_free(blobs);
}

TEST(when_all_is_pinned_the_cap_still_holds)
{
    struct fl_blobs *blobs = new_store();
    struct fl_blob *a = put(blobs, 1, 600), *b = put(blobs, 2, 400), *c = NULL;

    CHECK_INT(fl_blob_new(blobs, name_of(3), 1, &c), FL_EQUOTA);
    CHECK_INT(fl_blob_new(blobs, name_of(3), CAP + 1, &c), FL_EQUOTA);
    CHECK_INT(fl_blob_new(blobs, name_of(3), FL_BLOB_MAX + 1, &c), FL_EBLOB);
    CHECK(c == NULL);
    CHECK_INT(fl_blobs_bytes(blobs), CAP);
    fl_blob_unref(b);
    CHECK_INT(fl_blob_new(blobs, name_of(3), 1, &c), 0);
    fl_blob_unref(c);
    fl_blob_unref(a);
    fl_blobs_free(blobs);
}

TEST(of_two_with_one_name_the_first_is_kept)
{
    struct fl_blobs *blobs = new_store();
    struct fl_blob *first = put(blobs, 1, 10), *second = put(blobs, 1, 10);

    CHECK(fl_blobs_find(blobs, name_of(1)) == first);
    fl_blob_unref(second);
    CHECK_INT(fl_blobs_bytes(blobs), 10);
    CHECK(fl_blobs_find(blobs, name_of(1)) == first);
    fl_blob_unref(first);
    fl_blobs_free(blobs);
}

TEST(an_empty_blob_is_a_blob)
{
    struct fl_blobs *blobs = new_store();
    struct fl_blob *blob;

    CHECK_INT(fl_blob_new(blobs, name_of(1), 0, &blob), 0);
    CHECK_INT(fl_blob_fill(blob, 0, NULL, 0), 1);
    CHECK_INT(fl_blob_publish(blob), 0);
    fl_blob_unref(blob);
    CHECK(fl_blobs_find(blobs, name_of(1)) != NULL);
    fl_blobs_free(blobs);
}

/* Rule 4: what is no byte long takes memory as well. */
TEST(empty_blobs_do_not_fill_the_memory)
{
    struct fl_blobs *blobs;
    struct fl_blob *blob;
    struct fl_have *have;
    uint8_t name[FL_BLOB_NAME] = {0}, dropped[1][FL_BLOB_NAME];
    size_t count, drops = 0;

    CHECK_INT(fl_blobs_new(CAP, &blobs), 0);
    CHECK_INT(fl_have_new(CAP, &have), 0);
    for (uint32_t i = 0; i < FL_BLOB_COUNT_MAX + 10; i++) {
        memcpy(name, &i, sizeof(i));
        CHECK_INT(fl_blob_new(blobs, name, 0, &blob), 0);
        CHECK_INT(fl_blob_publish(blob), 0);
        fl_blob_unref(blob);
        count = 1;
        CHECK_INT(fl_have_add(have, name, 0, dropped, &count), 0);
        drops += count;
    }
    CHECK_INT(fl_blobs_count(blobs), FL_BLOB_COUNT_MAX);
    CHECK_INT(drops, 10);
    fl_have_free(have);
    fl_blobs_free(blobs);
}

TEST(random_use_never_exceeds_the_cap)
{
    enum { HELD = 6 };
    struct fl_blobs *blobs = new_store();
    struct fl_blob *held[HELD] = {0};
    struct random random = {17};

    for (int i = 0; i < 20000; i++) {
        const uint32_t slot = random_below(&random, HELD);
        const uint32_t number = random_below(&random, 40);
        struct fl_blob *blob = fl_blobs_find(blobs, name_of(number));
        uint8_t data[400] = {0};

        if (held[slot] != NULL) {
            fl_blob_unref(held[slot]);
        }
        held[slot] = blob != NULL ? fl_blob_ref(blob) : NULL;
        if (blob == NULL
            && fl_blob_new(blobs, name_of(number), 10 * number, &blob) == 0)
        {
            CHECK_INT(fl_blob_fill(blob, 0, data, 10 * number), 1);
            CHECK_INT(fl_blob_publish(blob), 0);
            held[slot] = blob;
        }
        CHECK(fl_blobs_bytes(blobs) <= CAP);
        for (int k = 0; k < HELD; k++) {
            CHECK(held[k] == NULL
                  || fl_blobs_find(blobs, fl_blob_name(held[k])) == held[k]);
        }
    }
    for (int k = 0; k < HELD; k++) {
        if (held[k] != NULL) {
            fl_blob_unref(held[k]);
        }
    }
    fl_blobs_free(blobs);
}

/* The have-set */

static struct fl_have *
new_have(void)
{
    struct fl_have *have;

    CHECK_INT(fl_have_new(CAP, &have), 0);
    return have;
}

static void
add(struct fl_have *have, unsigned number, size_t size)
{
    uint8_t dropped[8][FL_BLOB_NAME];
    size_t count = 8;

    CHECK_INT(fl_have_add(have, name_of(number), size, dropped, &count), 0);
    CHECK_INT(count, 0);
}

TEST(what_was_sent_is_had_until_dropped)
{
    struct fl_have *have = new_have();
    uint8_t dropped[8][FL_BLOB_NAME];
    size_t count = 8;

    add(have, 1, 400);
    add(have, 2, 400);
    CHECK(fl_have_has(have, name_of(1)));
    CHECK_INT(fl_have_add(have, name_of(3), 500, dropped, &count), 0);
    CHECK_INT(count, 1);
    CHECK_MEM(dropped[0], name_of(2), FL_BLOB_NAME); /* 1 was just used */
    CHECK(fl_have_has(have, name_of(1)));
    CHECK(!fl_have_has(have, name_of(2)));
    CHECK_INT(fl_have_bytes(have), 900);
    fl_have_free(have);
}

TEST(a_pinned_name_is_not_dropped)
{
    struct fl_have *have = new_have();
    uint8_t dropped[8][FL_BLOB_NAME];
    size_t count = 8;

    add(have, 1, 600);
    fl_have_pin(have, name_of(1));
    CHECK_INT(fl_have_add(have, name_of(2), 600, dropped, &count), FL_EQUOTA);
    CHECK_INT(count, 0);
    fl_have_unpin(have, name_of(1), fl_have_generation(have));
    count = 8;
    CHECK_INT(fl_have_add(have, name_of(2), 600, dropped, &count), 0);
    CHECK_INT(count, 1);
    fl_have_free(have);
}

TEST(a_pin_of_an_earlier_generation_is_worth_nothing)
{
    struct fl_have *have = new_have();
    const uint32_t before = fl_have_generation(have);
    uint8_t dropped[8][FL_BLOB_NAME];
    size_t count = 8;

    add(have, 1, 600);
    fl_have_pin(have, name_of(1));
    fl_have_clear(have);
    CHECK_INT(fl_have_bytes(have), 0);
    CHECK(!fl_have_has(have, name_of(1)));
    add(have, 1, 600);
    fl_have_pin(have, name_of(1));
    fl_have_unpin(have, name_of(1), before);
    CHECK_INT(fl_have_add(have, name_of(2), 600, dropped, &count), FL_EQUOTA);
    fl_have_free(have);
}

TEST(what_the_agent_lost_is_lacking_and_can_be_sent_again)
{
    struct fl_have *have = new_have();

    add(have, 1, 600);
    fl_have_lacks(have, name_of(1));
    fl_have_lacks(have, name_of(9));
    CHECK(!fl_have_has(have, name_of(1)));
    add(have, 1, 600);
    CHECK(fl_have_has(have, name_of(1)));
    CHECK_INT(fl_have_bytes(have), 600);
    fl_have_free(have);
}

TEST(more_drops_than_room_go_in_several_goes)
{
    struct fl_have *have = new_have();
    uint8_t dropped[4][FL_BLOB_NAME];
    size_t goes = 0, total = 0, count;
    int err;

    for (unsigned i = 0; i < 10; i++) {
        add(have, i, 100);
    }
    do {
        count = 4;
        err = fl_have_add(have, name_of(99), CAP, dropped, &count);
        total += count;
        goes++;
    } while (err == FL_EQUOTA && count == 4);
    CHECK_INT(err, 0);
    CHECK_INT(total, 10);
    CHECK_INT(goes, 3);
    fl_have_free(have);
}

TEST(failed_allocations_are_reported)
{
    struct fl_blobs *blobs = NULL;
    struct fl_have *have = NULL;
    struct fl_blob *blob = NULL;
    uint8_t dropped[1][FL_BLOB_NAME];
    size_t count = 1;

    for (int n = 0; n < 4; n++) {
        alloc_fail_after(n);
        CHECK_INT(fl_blobs_new(CAP, &blobs), -ENOMEM);
        alloc_fail_after(n);
        CHECK_INT(fl_have_new(CAP, &have), -ENOMEM);
    }
    alloc_fail_after(-1);
    blobs = new_store();
    have = new_have();
    alloc_fail_after(0);
    CHECK_INT(fl_blob_new(blobs, name_of(1), 1, &blob), -ENOMEM);
    alloc_fail_after(0);
    CHECK_INT(fl_have_add(have, name_of(1), 1, dropped, &count), -ENOMEM);
    CHECK_INT(fl_have_bytes(have), 0);
    alloc_fail_after(-1);
    fl_have_free(have);
    fl_blobs_free(blobs);
}
