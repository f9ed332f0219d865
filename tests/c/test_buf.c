/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "buf.h"
#include "err.h"
#include "frame.h"
#include "runner.h"
#include "support.h"

#define CAP ((size_t)300000)

static struct fl_buf *
new_buf(void)
{
    struct fl_buf *buf;

    CHECK_INT(fl_buf_new(CAP, &buf), 0);
    return buf;
}

static void
count_release(void *owner)
{
    ++*(int *)owner;
}

/* The first `size` bytes queued must be these. */
static void
check_content(const struct fl_buf *buf, const uint8_t *wanted, size_t size)
{
    struct iovec iov[64];
    const size_t count = fl_buf_peek(buf, iov, 64);
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        CHECK(iov[i].iov_len > 0);
        CHECK(at + iov[i].iov_len <= size);
        CHECK_MEM(iov[i].iov_base, wanted + at, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    CHECK(count == 64 || at == size);
}

TEST(bytes_come_out_as_they_went_in)
{
    struct fl_buf *buf = new_buf();
    uint8_t *space;

    CHECK_INT(fl_buf_append(buf, "abc", 3, false), 0);
    CHECK_INT(fl_buf_reserve(buf, 10, &space), 0);
    memcpy(space, "defg", 4);
    fl_buf_commit(buf, 4, false);
    CHECK_INT(fl_buf_size(buf), 7);
    check_content(buf, (const uint8_t *)"abcdefg", 7);
    fl_buf_consume(buf, 2);
    check_content(buf, (const uint8_t *)"cdefg", 5);
    fl_buf_consume(buf, 5);
    CHECK_INT(fl_buf_size(buf), 0);
    fl_buf_free(buf);
}

TEST(the_cap_holds_and_a_refused_append_changes_nothing)
{
    struct fl_buf *buf = new_buf();
    uint8_t *big = calloc(1, CAP + 1), *space;

    CHECK_INT(fl_buf_append(buf, big, CAP + 1, false), FL_EQUOTA);
    CHECK_INT(fl_buf_append(buf, big, CAP, false), 0);
    CHECK_INT(fl_buf_append(buf, big, 1, false), FL_EQUOTA);
    CHECK_INT(fl_buf_reserve(buf, 1, &space), FL_EQUOTA);
    CHECK_INT(fl_buf_size(buf), CAP);
    fl_buf_consume(buf, 1);
    CHECK_INT(fl_buf_append(buf, big, 1, false), 0);
    free(big);
    fl_buf_free(buf);
}

TEST(references_are_not_held_and_are_released_once)
{
    struct fl_buf *buf = new_buf();
    static const uint8_t blob[] = "0123456789";
    int released = 0;

    CHECK_INT(fl_buf_append(buf, "a", 1, false), 0);
    CHECK_INT(fl_buf_refer(buf, blob, 10, count_release, &released), 0);
    CHECK_INT(fl_buf_append(buf, "b", 1, false), 0);
    CHECK_INT(fl_buf_size(buf), 12);
    CHECK_INT(fl_buf_held(buf), 2);
    check_content(buf, (const uint8_t *)"a0123456789b", 12);
    fl_buf_consume(buf, 6);
    CHECK_INT(released, 0);
    fl_buf_consume(buf, 5);
    CHECK_INT(released, 1);
    check_content(buf, (const uint8_t *)"b", 1);
    CHECK_INT(fl_buf_refer(buf, blob, 10, count_release, &released), 0);
    fl_buf_free(buf);
    CHECK_INT(released, 2);
}

/* Looks at memory that a chunk keeps as a spare: it is still the queue's. */
TEST(secrets_are_wiped_when_consumed)
{
    struct fl_buf *buf = new_buf();
    uint8_t secret[FL_CHUNK_SIZE];
    struct iovec iov;
    const uint8_t *place;

    memset(secret, 's', sizeof(secret));
    CHECK_INT(fl_buf_append(buf, secret, sizeof(secret), true), 0);
    CHECK_INT(fl_buf_peek(buf, &iov, 1), 1);
    CHECK_INT(iov.iov_len, sizeof(secret));
    place = iov.iov_base;
    fl_buf_consume(buf, sizeof(secret));
    for (size_t i = 0; i < sizeof(secret); i++) {
        CHECK_INT(place[i], 0);
    }
    fl_buf_free(buf);
}

TEST(failed_allocations_are_reported)
{
    struct fl_buf *buf = NULL;
    int released = 0;

    alloc_fail_after(0);
    CHECK_INT(fl_buf_new(CAP, &buf), -ENOMEM);
    CHECK(buf == NULL);
    buf = new_buf();
    alloc_fail_after(0);
    CHECK_INT(fl_buf_append(buf, "a", 1, false), -ENOMEM);
    alloc_fail_after(0);
    CHECK_INT(fl_buf_refer(buf, "a", 1, count_release, &released), -ENOMEM);
    CHECK_INT(released, 0);
    CHECK_INT(fl_buf_size(buf), 0);
    alloc_fail_after(-1);
    fl_buf_free(buf);
}

/* Against a model: one flat array of what should be queued. */
struct model {
    uint8_t data[2 * CAP];
    size_t size, held;
    int referred, released;
};

static void
random_append(struct fl_buf *buf, struct model *model, struct random *random)
{
    const uint32_t limit = random_below(random, 20) == 0 ? 200000 : 500;
    const size_t size = random_below(random, limit);
    uint8_t *data = malloc(size + 1);
    int err;

    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)random_next(random);
    }
    err = fl_buf_append(buf, data, size, random_below(random, 2) == 0);
    CHECK_INT(err, model->held + size > CAP ? FL_EQUOTA : 0);
    if (err == 0) {
        memcpy(model->data + model->size, data, size);
        model->size += size;
        model->held += size;
    }
    free(data);
}

static void
random_refer(struct fl_buf *buf, struct model *model, struct random *random)
{
    static uint8_t blob[1000];
    const size_t size = 1 + random_below(random, sizeof(blob));

    if (model->size + size > CAP) {
        return;
    }
    CHECK_INT(fl_buf_refer(buf, blob, size, count_release, &model->released),
              0);
    memcpy(model->data + model->size, blob, size);
    model->size += size;
    model->referred++;
}

TEST(random_operations_agree_with_a_model)
{
    struct model *model = calloc(1, sizeof(*model));
    struct fl_buf *buf = new_buf();
    struct random random = {7};

    for (int i = 0; i < 20000; i++) {
        const uint32_t what = random_below(&random, 10);

        if (what < 4) {
            random_append(buf, model, &random);
        }
        else if (what < 6) {
            random_refer(buf, model, &random);
        }
        else if (what < 9) {
            const size_t size = random_below(&random,
                                             (uint32_t)model->size + 1);

            fl_buf_consume(buf, size);
            memmove(model->data, model->data + size, model->size - size);
            model->size -= size;
        }
        else {
            fl_buf_trim(buf);
        }
        model->held = fl_buf_held(buf);
        CHECK_INT(fl_buf_size(buf), model->size);
        CHECK(model->held <= model->size);
        CHECK(model->released <= model->referred);
        if (i % 16 == 0) {
            check_content(buf, model->data, model->size);
        }
    }
    fl_buf_free(buf);
    CHECK_INT(model->released, model->referred);
    free(model);
}
