/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "err.h"
#include "frame.h"

/*
 * A queue that has begun to grow grows on: each new chunk is twice the last
 * one, from a page to FL_CHUNK_SIZE, so that a lone answer costs a page and
 * bulk costs few chunks.
 */
#define CHUNK_MIN ((size_t)4096)
/* Emptied chunks of FL_CHUNK_SIZE kept for the next bulk, till fl_buf_trim():
 * to fetch such memory from the system anew costs more than to copy into it.
 */
#define SPARES 4

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
    struct chunk *spares;
    size_t spare_count;
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

/* Done with: kept as a spare or freed. */
static void
chunk_retire(struct fl_buf *buf, struct chunk *chunk)
{
    if (chunk->secret) {
        explicit_bzero(chunk->bytes, chunk->end);
    }
    if (chunk->release != NULL) {
        chunk->release(chunk->owner);
    }
    if (chunk->capacity == FL_CHUNK_SIZE && buf->spare_count < SPARES) {
        chunk->next = buf->spares;
        buf->spares = chunk;
        buf->spare_count++;
    }
    else {
        free(chunk);
    }
}

void
fl_buf_trim(struct fl_buf *buf)
{
    while (buf->spares != NULL) {
        struct chunk *chunk = buf->spares;

        buf->spares = chunk->next;
        free(chunk);
    }
    buf->spare_count = 0;
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
        chunk_retire(buf, chunk);
    }
    fl_buf_trim(buf);
    free(buf);
}

static struct chunk *
chunk_get(struct fl_buf *buf, size_t capacity)
{
    struct chunk *chunk = buf->spares;

    if (capacity != FL_CHUNK_SIZE || chunk == NULL) {
        return malloc(sizeof(*chunk) + capacity);
    }
    buf->spares = chunk->next;
    buf->spare_count--;
    return chunk;
}

static int
chunk_add(struct fl_buf *buf, size_t capacity)
{
    struct chunk *chunk = chunk_get(buf, capacity);

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
    while (capacity < wanted && capacity < FL_CHUNK_SIZE) {
        capacity *= 2;
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

/* Appends what fits in one chunk; how much that was, or negative. */
static ssize_t
append_some(struct fl_buf *buf, const void *data, size_t size, bool secret)
{
    const size_t left = room(buf);
    size_t part = size < FL_CHUNK_SIZE ? size : FL_CHUNK_SIZE;
    uint8_t *space;
    int err;

    if (left > 0 && left < part) {
        part = left;
    }
    err = fl_buf_reserve(buf, part, &space);
    if (err < 0) {
        return err;
    }
    memcpy(space, data, part);
    fl_buf_commit(buf, part, secret);
    return (ssize_t)part;
}

int
fl_buf_append(struct fl_buf *buf, const void *data, size_t size, bool secret)
{
    const uint8_t *at = data;

    if (size > buf->cap || buf->held > buf->cap - size) {
        return FL_EQUOTA;
    }
    while (size > 0) {
        const ssize_t done = append_some(buf, at, size, secret);

        if (done < 0) {
            return (int)done;
        }
        at += done;
        size -= (size_t)done;
    }
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
        chunk_retire(buf, chunk);
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
