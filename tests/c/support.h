/* SPDX-License-Identifier: BSD-3-Clause */
/* What several test programs need: a failing allocator, odd system calls. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Lets `count` allocations of the core succeed, then fails the next one, and
 * only that. Negative: none fails.
 */
void
alloc_fail_after(long count);

/* Whether the failure asked for has happened. */
bool
alloc_has_failed(void);

/*
 * Every transfer moves at most `most` bytes, and of `cycle` calls the first
 * gives EINTR and the second EAGAIN (0: neither). Zero for both: as usual.
 */
void
io_shorten(size_t most, unsigned cycle);

/* A reproducible stream of numbers; the seed is printed by failing tests. */
struct random {
    uint64_t state;
};

uint32_t
random_next(struct random *random);

uint32_t
random_below(struct random *random, uint32_t limit);

#endif
