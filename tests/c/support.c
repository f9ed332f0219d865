/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "support.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "os.h"

/* The allocator: the linker sends the core's calls here (--wrap). */

void *
__real_malloc(size_t size);
void *
__real_calloc(size_t count, size_t size);
void *
__real_realloc(void *old, size_t size);
void *
__wrap_malloc(size_t size);
void *
__wrap_calloc(size_t count, size_t size);
void *
__wrap_realloc(void *old, size_t size);

static long until_failure = -1;
static bool has_failed;

void
alloc_fail_after(long count)
{
    until_failure = count;
    has_failed = false;
}

bool
alloc_has_failed(void)
{
    return has_failed;
}

static bool
fails_now(void)
{
    if (until_failure < 0) {
        return false;
    }
    if (until_failure-- > 0) {
        return false;
    }
    has_failed = true;
    return true;
}

void *
__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails_now() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *old, size_t size)
{
    return fails_now() ? NULL : __real_realloc(old, size);
}

/* Odd system calls. */

static size_t most_bytes;
static unsigned cycle_length, cycle_at;

/* -1 with errno set where this call is to fail. */
static int
hiccup(void)
{
    if (cycle_length == 0) {
        return 0;
    }
    cycle_at = (cycle_at + 1) % cycle_length;
    if (cycle_at == 0) {
        errno = EINTR;
        return -1;
    }
    if (cycle_at == 1) {
        errno = EAGAIN;
        return -1;
    }
    return 0;
}

static ssize_t
short_read(int fd, void *data, size_t size)
{
    return hiccup() < 0
               ? -1
               : read(fd, data, size < most_bytes ? size : most_bytes);
}

static ssize_t
short_recvmsg(int fd, struct msghdr *msg, int flags)
{
    struct iovec first = msg->msg_iov[0];
    struct msghdr cut = *msg;
    ssize_t got;

    if (hiccup() < 0) {
        return -1;
    }
    if (first.iov_len > most_bytes) {
        first.iov_len = most_bytes;
    }
    cut.msg_iov = &first;
    cut.msg_iovlen = 1;
    got = recvmsg(fd, &cut, flags);
    msg->msg_controllen = cut.msg_controllen;
    msg->msg_flags = cut.msg_flags;
    return got;
}

static ssize_t
short_writev(int fd, const struct iovec *iov, int count)
{
    struct iovec first = iov[0];

    if (hiccup() < 0) {
        return -1;
    }
    (void)count;
    if (first.iov_len > most_bytes) {
        first.iov_len = most_bytes;
    }
    return writev(fd, &first, 1);
}

static ssize_t
short_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    struct iovec first = msg->msg_iov[0];
    struct msghdr cut = *msg;

    if (hiccup() < 0) {
        return -1;
    }
    if (first.iov_len > most_bytes) {
        first.iov_len = most_bytes;
    }
    cut.msg_iov = &first;
    cut.msg_iovlen = 1;
    return sendmsg(fd, &cut, flags);
}

void
io_shorten(size_t most, unsigned cycle)
{
    const struct fl_os_calls usual = {read, recvmsg, writev, sendmsg, close};
    const struct fl_os_calls odd = {short_read, short_recvmsg, short_writev,
                                    short_sendmsg, close};

    most_bytes = most > 0 ? most : SIZE_MAX;
    cycle_length = cycle;
    cycle_at = cycle > 0 ? cycle - 1 : 0;
    fl_os__calls = most > 0 || cycle > 0 ? odd : usual;
}

/* splitmix64 */
uint32_t
random_next(struct random *random)
{
    uint64_t z = (random->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint32_t
random_below(struct random *random, uint32_t limit)
{
    return random_next(random) % limit;
}
