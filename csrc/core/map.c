/* SPDX-License-Identifier: BSD-3-Clause */
#include "map.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_MIN ((size_t)16)

struct fl_map {
    size_t key_size;
    size_t count;
    size_t mask; /* slots - 1 */
    void **values;
    unsigned char *keys;
};

/* FNV-1a with a final mix, since linear probing needs the low bits good. */
static size_t
hash(const struct fl_map *map, const void *key)
{
    const unsigned char *bytes = key;
    uint64_t h = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < map->key_size; i++) {
        h = (h ^ bytes[i]) * UINT64_C(1099511628211);
    }
    h ^= h >> 32;
    return (size_t)h;
}

static unsigned char *
key_at(const struct fl_map *map, size_t slot)
{
    return map->keys + slot * map->key_size;
}

/* The slot that holds the key, or the free one where it would go. */
static size_t
find(const struct fl_map *map, const void *key)
{
    size_t slot = hash(map, key) & map->mask;

    while (map->values[slot] != NULL
           && memcmp(key_at(map, slot), key, map->key_size) != 0)
    {
        slot = (slot + 1) & map->mask;
    }
    return slot;
}

static int
allocate(struct fl_map *map, size_t slots)
{
    void **values = calloc(slots, sizeof(*values));
    unsigned char *keys = malloc(slots * map->key_size);

    if (values == NULL || keys == NULL) {
        free(values);
        free(keys);
        return -ENOMEM;
    }
    map->values = values;
    map->keys = keys;
    map->mask = slots - 1;
    return 0;
}

int
fl_map_new(size_t key_size, struct fl_map **ret)
{
    struct fl_map *map = calloc(1, sizeof(*map));

    if (map == NULL) {
        return -ENOMEM;
    }
    map->key_size = key_size;
    if (allocate(map, SLOTS_MIN) < 0) {
        free(map);
        return -ENOMEM;
    }
    *ret = map;
    return 0;
}

void
fl_map_free(struct fl_map *map)
{
    if (map != NULL) {
        free(map->values);
        free(map->keys);
        free(map);
    }
}

void *
fl_map_get(const struct fl_map *map, const void *key)
{
    return map->values[find(map, key)];
}

static void
put(struct fl_map *map, const void *key, void *value)
{
    const size_t slot = find(map, key);

    map->count += map->values[slot] == NULL;
    map->values[slot] = value;
    memcpy(key_at(map, slot), key, map->key_size);
}

static int
grow(struct fl_map *map)
{
    struct fl_map old = *map;
    int err = allocate(map, 2 * (old.mask + 1));

    if (err < 0) {
        return err;
    }
    map->count = 0;
    for (size_t slot = 0; slot <= old.mask; slot++) {
        if (old.values[slot] != NULL) {
            put(map, key_at(&old, slot), old.values[slot]);
        }
    }
    free(old.values);
    free(old.keys);
    return 0;
}

int
fl_map_set(struct fl_map *map, const void *key, void *value)
{
    if (2 * (map->count + 1) > map->mask) {
        int err = grow(map);

        if (err < 0) {
            return err;
        }
    }
    put(map, key, value);
    return 0;
}

/* Whether the entry at `slot` may move back to `gap`: its home is not between.
 */
static bool
may_move(const struct fl_map *map, size_t slot, size_t gap)
{
    const size_t home = hash(map, key_at(map, slot)) & map->mask;

    return ((slot - home) & map->mask) >= ((slot - gap) & map->mask);
}

void *
fl_map_remove(struct fl_map *map, const void *key)
{
    size_t gap = find(map, key);
    void *value = map->values[gap];

    if (value == NULL) {
        return NULL;
    }
    for (size_t slot = (gap + 1) & map->mask; map->values[slot] != NULL;
         slot = (slot + 1) & map->mask)
    {
        if (may_move(map, slot, gap)) {
            map->values[gap] = map->values[slot];
            memcpy(key_at(map, gap), key_at(map, slot), map->key_size);
            gap = slot;
        }
    }
    map->values[gap] = NULL;
    map->count--;
    return value;
}

size_t
fl_map_count(const struct fl_map *map)
{
    return map->count;
}

void *
fl_map_next(const struct fl_map *map, size_t *position)
{
    while (*position <= map->mask) {
        void *value = map->values[(*position)++];

        if (value != NULL) {
            return value;
        }
    }
    return NULL;
}
