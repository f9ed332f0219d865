/* SPDX-License-Identifier: BSD-3-Clause */
#include "blob.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "list.h"
#include "map.h"

struct fl_blob {
    struct fl_blobs *blobs;
    uint8_t name[FL_BLOB_NAME];
    size_t size, filled;
    size_t refs;
    bool published;
    struct fl_list used; /* least recently used first; published ones only */
    uint8_t data[];
};

struct fl_blobs {
    size_t cap, bytes;
    size_t count; /* those being filled included */
    struct fl_map *by_name;
    struct fl_list used;
};

int
fl_blobs_new(size_t cap, struct fl_blobs **ret)
{
    struct fl_blobs *blobs = calloc(1, sizeof(*blobs));

    if (blobs == NULL || fl_map_new(FL_BLOB_NAME, &blobs->by_name) < 0) {
        free(blobs);
        return -ENOMEM;
    }
    blobs->cap = cap;
    fl_list_init(&blobs->used);
    *ret = blobs;
    return 0;
}

static void
blob_free(struct fl_blob *blob)
{
    if (blob->published) {
        (void)fl_map_remove(blob->blobs->by_name, blob->name);
        fl_list_remove(&blob->used);
    }
    blob->blobs->bytes -= blob->size;
    blob->blobs->count--;
    free(blob);
}

void
fl_blobs_free(struct fl_blobs *blobs)
{
    if (blobs == NULL) {
        return;
    }
    FL_LIST_EACH (node, after, &blobs->used) {
        blob_free(FL_LIST_ENTRY(node, struct fl_blob, used));
    }
    fl_map_free(blobs->by_name);
    free(blobs);
}

/* Whether one more blob of `size` fits under the caps. */
static bool
has_room(const struct fl_blobs *blobs, size_t size)
{
    return blobs->bytes <= blobs->cap - size
           && blobs->count < FL_BLOB_COUNT_MAX;
}

/* Evicts until one more blob of `size` fits. */
static int
make_room(struct fl_blobs *blobs, size_t size)
{
    if (size > blobs->cap) {
        return FL_EQUOTA;
    }
    FL_LIST_EACH (node, after, &blobs->used) {
        struct fl_blob *blob = FL_LIST_ENTRY(node, struct fl_blob, used);

        if (has_room(blobs, size)) {
            break;
        }
        if (blob->refs == 0) {
            blob_free(blob);
        }
    }
    return has_room(blobs, size) ? 0 : FL_EQUOTA;
}

int
fl_blob_new(struct fl_blobs *blobs, const uint8_t *name, size_t size,
            struct fl_blob **ret)
{
    struct fl_blob *blob;
    int err;

    if (size > FL_BLOB_MAX) {
        return FL_EBLOB;
    }
    err = make_room(blobs, size);
    if (err < 0) {
        return err;
    }
    blob = malloc(sizeof(*blob) + size);
    if (blob == NULL) {
        return -ENOMEM;
    }
    *blob = (struct fl_blob){.blobs = blobs, .size = size, .refs = 1};
    memcpy(blob->name, name, FL_BLOB_NAME);
    fl_list_init(&blob->used);
    blobs->bytes += size;
    blobs->count++;
    *ret = blob;
    return 0;
}

int
fl_blob_fill(struct fl_blob *blob, size_t offset, const void *data,
             size_t size)
{
    if (blob->published || offset != blob->filled
        || size > blob->size - blob->filled)
    {
        return FL_EBLOB;
    }
    if (size > 0) {
        memcpy(blob->data + offset, data, size);
    }
    blob->filled += size;
    return blob->filled == blob->size;
}

size_t
fl_blob_filled(const struct fl_blob *blob)
{
    return blob->filled;
}

int
fl_blob_publish(struct fl_blob *blob)
{
    int err;

    if (fl_map_get(blob->blobs->by_name, blob->name) != NULL) {
        return 0;
    }
    err = fl_map_set(blob->blobs->by_name, blob->name, blob);
    if (err == 0) {
        blob->published = true;
        fl_list_append(&blob->blobs->used, &blob->used);
    }
    return err;
}

struct fl_blob *
fl_blobs_find(struct fl_blobs *blobs, const uint8_t *name)
{
    struct fl_blob *blob = fl_map_get(blobs->by_name, name);

    if (blob != NULL) {
        fl_list_append(&blobs->used, &blob->used);
    }
    return blob;
}

struct fl_blob *
fl_blob_ref(struct fl_blob *blob)
{
    blob->refs++;
    return blob;
}

void
fl_blob_unref(struct fl_blob *blob)
{
    blob->refs--;
    /* One that no name leads to has no further use; others wait for LRU. */
    if (blob->refs == 0 && !blob->published) {
        blob_free(blob);
    }
}

const uint8_t *
fl_blob_name(const struct fl_blob *blob)
{
    return blob->name;
}

const uint8_t *
fl_blob_data(const struct fl_blob *blob, size_t *ret_size)
{
    *ret_size = blob->size;
    return blob->data;
}

size_t
fl_blobs_count(const struct fl_blobs *blobs)
{
    return fl_map_count(blobs->by_name);
}

size_t
fl_blobs_bytes(const struct fl_blobs *blobs)
{
    return blobs->bytes;
}

/* What an agent was sent. `has` is false where it said it lost it. */
struct possession {
    uint8_t name[FL_BLOB_NAME];
    size_t size;
    size_t pins;
    bool has;
    struct fl_list used; /* least recently used first */
};

struct fl_have {
    size_t cap, bytes;
    uint32_t generation;
    struct fl_map *by_name;
    struct fl_list used;
};

int
fl_have_new(size_t cap, struct fl_have **ret)
{
    struct fl_have *have = calloc(1, sizeof(*have));

    if (have == NULL || fl_map_new(FL_BLOB_NAME, &have->by_name) < 0) {
        free(have);
        return -ENOMEM;
    }
    have->cap = cap;
    fl_list_init(&have->used);
    *ret = have;
    return 0;
}

static void
forget(struct fl_have *have, struct possession *item)
{
    (void)fl_map_remove(have->by_name, item->name);
    fl_list_remove(&item->used);
    have->bytes -= item->size;
    free(item);
}

void
fl_have_clear(struct fl_have *have)
{
    FL_LIST_EACH (node, after, &have->used) {
        forget(have, FL_LIST_ENTRY(node, struct possession, used));
    }
    have->generation++;
}

void
fl_have_free(struct fl_have *have)
{
    if (have != NULL) {
        fl_have_clear(have);
        fl_map_free(have->by_name);
        free(have);
    }
}

bool
fl_have_has(struct fl_have *have, const uint8_t *name)
{
    struct possession *item = fl_map_get(have->by_name, name);

    if (item == NULL || !item->has) {
        return false;
    }
    fl_list_append(&have->used, &item->used);
    return true;
}

/* Whether the agent may be made to hold `size` bytes more. */
static bool
may_hold(const struct fl_have *have, size_t size)
{
    return have->bytes <= have->cap - size
           && fl_map_count(have->by_name) < FL_BLOB_COUNT_MAX;
}

/* Forgets the least recently used ones until one more of `size` fits. */
static int
have_room(struct fl_have *have, size_t size, uint8_t (*dropped)[FL_BLOB_NAME],
          size_t *count)
{
    const size_t most = *count;

    *count = 0;
    if (size > have->cap) {
        return FL_EQUOTA;
    }
    FL_LIST_EACH (node, after, &have->used) {
        struct possession *item = FL_LIST_ENTRY(node, struct possession, used);

        if (may_hold(have, size) || *count == most) {
            break;
        }
        if (item->pins == 0) {
            memcpy(dropped[(*count)++], item->name, FL_BLOB_NAME);
            forget(have, item);
        }
    }
    return may_hold(have, size) ? 0 : FL_EQUOTA;
}

int
fl_have_add(struct fl_have *have, const uint8_t *name, size_t size,
            uint8_t (*dropped)[FL_BLOB_NAME], size_t *count)
{
    struct possession *item = fl_map_get(have->by_name, name);
    int err;

    if (item != NULL) {
        item->has = true;
        *count = 0;
        return 0;
    }
    err = have_room(have, size, dropped, count);
    if (err < 0) {
        return err;
    }
    item = calloc(1, sizeof(*item));
    if (item == NULL || fl_map_set(have->by_name, name, item) < 0) {
        free(item);
        return -ENOMEM;
    }
    memcpy(item->name, name, FL_BLOB_NAME);
    item->size = size;
    item->has = true;
    fl_list_init(&item->used);
    fl_list_append(&have->used, &item->used);
    have->bytes += size;
    return 0;
}

void
fl_have_lacks(struct fl_have *have, const uint8_t *name)
{
    struct possession *item = fl_map_get(have->by_name, name);

    if (item != NULL) {
        item->has = false;
    }
}

void
fl_have_pin(struct fl_have *have, const uint8_t *name)
{
    struct possession *item = fl_map_get(have->by_name, name);

    if (item != NULL) {
        item->pins++;
    }
}

void
fl_have_unpin(struct fl_have *have, const uint8_t *name, uint32_t generation)
{
    struct possession *item = fl_map_get(have->by_name, name);

    if (item != NULL && generation == have->generation && item->pins > 0) {
        item->pins--;
    }
}

uint32_t
fl_have_generation(const struct fl_have *have)
{
    return have->generation;
}

size_t
fl_have_bytes(const struct fl_have *have)
{
    return have->bytes;
}
