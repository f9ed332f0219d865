/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "frame.h"

/*
 * A queue that has begun to grow grows on: each new chunk is twice the last
 * one, from a page to FL_CHUNK_SIZE, so that a lone answer costs a page and
 * bulk costs few chunks.
 */
#define CHUNK_MIN ((size_t)4096)

struct chunk {
    struct chunk *next;
    const uint8_t *data; /* own bytes below, or referenced ones */
    size_t start, end;
    size_t capacity; /* 0: referenced */
    bool secret;
    fl_buf_release_fn release;
    void *owner;
    uint8_t bytes[];
};

struct fl_buf {
    struct chunk *first, *last;
    size_t size, held, cap;
};

int
fl_buf_new(size_t cap, struct fl_buf **ret)
{
    struct fl_buf *buf = calloc(1, sizeof(*buf));

    if (buf == NULL) {
        return -ENOMEM;
    }
    buf->cap = cap;
    *ret = buf;
    return 0;
}

static void
chunk_free(struct chunk *chunk)
{
    if (chunk->secret) {
        explicit_bzero(chunk->bytes, chunk->end);
    }
    if (chunk->release != NULL) {
        chunk->release(chunk->owner);
    }
    free(chunk);
}

void
fl_buf_free(struct fl_buf *buf)
{
    if (buf == NULL) {
        return;
    }
    while (buf->first != NULL) {
        struct chunk *chunk = buf->first;

        buf->first = chunk->next;
        chunk_free(chunk);
    }
    free(buf);
}

static int
chunk_add(struct fl_buf *buf, size_t capacity)
{
    struct chunk *chunk = malloc(sizeof(*chunk) + capacity);

    if (chunk == NULL) {
        return -ENOMEM;
    }
    *chunk = (struct chunk){.capacity = capacity};
    chunk->data = chunk->bytes;
    if (buf->last != NULL) {
        buf->last->next = chunk;
    }
    else {
        buf->first = chunk;
    }
    buf->last = chunk;
    return 0;
}

/* Room in the last chunk. */
static size_t
room(const struct fl_buf *buf)
{
    const struct chunk *last = buf->last;

    return last == NULL || last->capacity == 0 ? 0
                                               : last->capacity - last->end;
}

static size_t
next_capacity(const struct fl_buf *buf, size_t wanted)
{
    size_t capacity = CHUNK_MIN;

    if (buf->last != NULL && buf->last->capacity > 0) {
        capacity = 2 * buf->last->capacity;
    }
    if (capacity > FL_CHUNK_SIZE) {
        capacity = FL_CHUNK_SIZE;
    }
    return capacity < wanted ? wanted : capacity;
}

int
fl_buf_reserve(struct fl_buf *buf, size_t size, uint8_t **ret_data)
{
    int err;

    if (size > buf->cap || buf->held > buf->cap - size) {
        return FL_EQUOTA;
    }
    if (room(buf) < size) {
        err = chunk_add(buf, next_capacity(buf, size));
        if (err < 0) {
            return err;
        }
    }
    *ret_data = buf->last->bytes + buf->last->end;
    return 0;
}

void
fl_buf_commit(struct fl_buf *buf, size_t size, bool secret)
{
    buf->last->end += size;
    buf->last->secret |= secret;
    buf->size += size;
    buf->held += size;
}

int
fl_buf_append(struct fl_buf *buf, const void *data, size_t size, bool secret)
{
    uint8_t *space;
    int err = fl_buf_reserve(buf, size, &space);

    if (err < 0) {
        return err;
    }
    if (size > 0) {
        memcpy(space, data, size);
    }
    fl_buf_commit(buf, size, secret);
    return 0;
}

int
fl_buf_refer(struct fl_buf *buf, const void *data, size_t size,
             fl_buf_release_fn release, void *owner)
{
    int err = chunk_add(buf, 0);

    if (err < 0) {
        return err;
    }
    buf->last->data = data;
    buf->last->end = size;
    buf->last->release = release;
    buf->last->owner = owner;
    buf->size += size;
    return 0;
}

size_t
fl_buf_peek(const struct fl_buf *buf, struct iovec *iov, size_t count)
{
    size_t used = 0;

    for (const struct chunk *c = buf->first; c != NULL && used < count;
         c = c->next)
    {
        if (c->end > c->start) {
            iov[used].iov_base = (void *)(uintptr_t)(c->data + c->start);
            iov[used].iov_len = c->end - c->start;
            used++;
        }
    }
    return used;
}

/* Takes up to `size` bytes off the first chunk; frees it if that ends it. */
static size_t
consume_first(struct fl_buf *buf, size_t size)
{
    struct chunk *chunk = buf->first;
    const size_t held = chunk->end - chunk->start;
    const size_t taken = size < held ? size : held;

    chunk->start += taken;
    buf->size -= taken;
    if (chunk->capacity > 0) {
        buf->held -= taken;
    }
    if (chunk->start == chunk->end) {
        buf->first = chunk->next;
        if (buf->first == NULL) {
            buf->last = NULL;
        }
        chunk_free(chunk);
    }
    return taken;
}

void
fl_buf_consume(struct fl_buf *buf, size_t size)
{
    while (buf->first != NULL && (size > 0 || buf->size == 0)) {
        size -= consume_first(buf, size);
    }
}

size_t
fl_buf_size(const struct fl_buf *buf)
{
    return buf->size;
}

size_t
fl_buf_held(const struct fl_buf *buf)
{
    return buf->held;
}
