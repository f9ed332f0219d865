/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Blob store: immutable byte strings under 32 opaque bytes, at most a cap of
 * them in memory, the least recently used unpinned ones going first; and for
 * each agent the have-set, which remembers what it was sent. Pure data: no
 * I/O. Not thread-safe.
 */
#ifndef FL_BLOB_H
#define FL_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FL_BLOB_NAME 32
#define FL_BLOB_MAX ((size_t)16 * 1024 * 1024)
/* Most blobs in the store, and in what an agent holds: empty ones cost too. */
#define FL_BLOB_COUNT_MAX ((size_t)65536)
#define FL_BLOB_STORE_CAP ((size_t)256 * 1024 * 1024)
#define FL_BLOB_AGENT_CAP ((size_t)64 * 1024 * 1024)

struct fl_blobs;
struct fl_blob;
struct fl_have;

/* 0 or -ENOMEM. */
int
fl_blobs_new(size_t cap, struct fl_blobs **ret);

/* Accepts NULL. Every reference and pin must have been given back. */
void
fl_blobs_free(struct fl_blobs *blobs);

/*
 * A blob to be filled with fl_blob_fill(); it counts against the cap from
 * now on and is not found by name before fl_blob_publish(). The caller holds
 * one reference. 0, -ENOMEM, FL_EQUOTA (everything is pinned), FL_EBLOB
 * (too large).
 */
int
fl_blob_new(struct fl_blobs *blobs, const uint8_t *name, size_t size,
            struct fl_blob **ret);

/*
 * Adds the next piece. 1: the blob is complete; 0: not yet; FL_EBLOB: the
 * piece does not continue where the last one ended.
 */
int
fl_blob_fill(struct fl_blob *blob, size_t offset, const void *data,
             size_t size);

/* Bytes it has by now. */
size_t
fl_blob_filled(const struct fl_blob *blob);

/* Makes a complete blob findable, unless its name already is. */
int
fl_blob_publish(struct fl_blob *blob);

/* The blob of this name, without a reference, or NULL. Counts as a use. */
struct fl_blob *
fl_blobs_find(struct fl_blobs *blobs, const uint8_t *name);

/* While it has references a blob is neither evicted nor freed. */
struct fl_blob *
fl_blob_ref(struct fl_blob *blob);

void
fl_blob_unref(struct fl_blob *blob);

const uint8_t *
fl_blob_name(const struct fl_blob *blob);

const uint8_t *
fl_blob_data(const struct fl_blob *blob, size_t *ret_size);

size_t
fl_blobs_count(const struct fl_blobs *blobs);

/* Bytes held, those being filled included. */
size_t
fl_blobs_bytes(const struct fl_blobs *blobs);

/* 0 or -ENOMEM. `cap`: bytes an agent is made to hold. */
int
fl_have_new(size_t cap, struct fl_have **ret);

/* Accepts NULL. */
void
fl_have_free(struct fl_have *have);

/* Whether the agent has it; counts as a use. */
bool
fl_have_has(struct fl_have *have, const uint8_t *name);

/*
 * Notes that the agent is being sent a blob. Names it must forget for that are
 * written to `dropped` (room for `*count`), their number to `*count`. 0,
 * -ENOMEM, or FL_EQUOTA: the cap cannot be kept, or the room is too small for
 * one go (what was written is forgotten all the same, and must be sent).
 */
int
fl_have_add(struct fl_have *have, const uint8_t *name, size_t size,
            uint8_t (*dropped)[FL_BLOB_NAME], size_t *count);

/* The agent says it lacks this. Pins stay. */
void
fl_have_lacks(struct fl_have *have, const uint8_t *name);

/*
 * Pins a name the agent has (a call in flight needs it) or takes a pin back.
 * A pin belongs to the generation in which it was made; given back in a later
 * one it does nothing.
 */
void
fl_have_pin(struct fl_have *have, const uint8_t *name);

void
fl_have_unpin(struct fl_have *have, const uint8_t *name, uint32_t generation);

/* The agent forgot everything: a new generation begins. */
void
fl_have_clear(struct fl_have *have);

uint32_t
fl_have_generation(const struct fl_have *have);

size_t
fl_have_bytes(const struct fl_have *have);

#endif
