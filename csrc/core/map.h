/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hash table from keys of one fixed size to pointers (never NULL). Open
 * addressing with linear probing; removal closes the gap, so there are no
 * tombstones and a lookup stays short for life. Keys are copied. Not
 * thread-safe.
 */
#ifndef FL_MAP_H
#define FL_MAP_H

#include <stddef.h>

struct fl_map;

/* 0 or -ENOMEM. The caller frees it; the values stay the caller's. */
int
fl_map_new(size_t key_size, struct fl_map **ret);

/* Accepts NULL. */
void
fl_map_free(struct fl_map *map);

/* The value, or NULL. */
void *
fl_map_get(const struct fl_map *map, const void *key);

/* Sets or replaces. 0 or -ENOMEM (nothing has changed then). */
int
fl_map_set(struct fl_map *map, const void *key, void *value);

/* Removes and returns the value; NULL if there was none. */
void *
fl_map_remove(struct fl_map *map, const void *key);

size_t
fl_map_count(const struct fl_map *map);

/*
 * Walks in no particular order: `*position` starts at 0; NULL is the end.
 * The map must not change meanwhile.
 */
void *
fl_map_next(const struct fl_map *map, size_t *position);

#endif
