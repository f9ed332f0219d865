/* SPDX-License-Identifier: BSD-3-Clause */
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "os.h"

#define IOVECS 16

struct fl_stream {
    struct fl_stream_config config;
    struct fl_watch *read_watch, *write_watch; /* one watch if one fd */
    struct fl_framer *framer;
    struct fl_buf *queue;
    int fds[FL_STREAM_FDS];
    size_t fd_count;
    uint64_t accepted, written, received;
    uint64_t trimmed_at_received, trimmed_at_written;
    bool paused, ended, broken, hung_up;
    bool was_high; /* `drained` is owed */
};

static void
on_ready(void *data, unsigned events);

static bool
one_fd(const struct fl_stream *stream)
{
    return stream->config.read_fd == stream->config.write_fd;
}

static unsigned
read_interest(const struct fl_stream *stream)
{
    if (stream->ended) {
        return 0;
    }
    if (!stream->paused) {
        return FL_LOOP_READ;
    }
    return stream->config.sees_hangup && !stream->hung_up ? FL_LOOP_HANGUP : 0;
}

static void
update_watches(struct fl_stream *stream)
{
    const unsigned reads = read_interest(stream);
    const unsigned writes = fl_buf_size(stream->queue) > 0 && !stream->broken
                                ? FL_LOOP_WRITE
                                : 0;

    /* Fails only for want of memory; the next turn's change tries again. */
    if (one_fd(stream)) {
        (void)fl_watch_set(stream->read_watch, reads | writes);
    }
    else {
        (void)fl_watch_set(stream->read_watch, reads);
        (void)fl_watch_set(stream->write_watch, writes);
    }
}

static int
make_parts(struct fl_stream *stream, struct fl_loop *loop)
{
    int err = fl_framer_new(&stream->framer);

    if (err == 0) {
        err = fl_buf_new(stream->config.cap, &stream->queue);
    }
    if (err == 0 && !one_fd(stream)) {
        err = fl_watch_new(loop, stream->config.write_fd, 0, on_ready, stream,
                           &stream->write_watch);
    }
    if (err == 0) {
        err = fl_watch_new(loop, stream->config.read_fd, FL_LOOP_READ,
                           on_ready, stream, &stream->read_watch);
    }
    return err;
}

static void
free_parts(struct fl_stream *stream)
{
    fl_watch_free(stream->read_watch);
    fl_watch_free(stream->write_watch);
    fl_framer_free(stream->framer);
    fl_buf_free(stream->queue);
    free(stream);
}

int
fl_stream_new(struct fl_loop *loop, const struct fl_stream_config *config,
              struct fl_stream **ret)
{
    struct fl_stream *stream = calloc(1, sizeof(*stream));
    int err;

    if (stream == NULL) {
        return -ENOMEM;
    }
    stream->config = *config;
    err = make_parts(stream, loop);
    if (err < 0) {
        free_parts(stream);
        return err;
    }
    *ret = stream;
    return 0;
}

void
fl_stream_free(struct fl_stream *stream)
{
    int read_fd, write_fd, fd;

    if (stream == NULL) {
        return;
    }
    read_fd = stream->config.read_fd;
    write_fd = one_fd(stream) ? -1 : stream->config.write_fd;
    while ((fd = fl_stream_take_fd(stream)) >= 0) {
        fl_os_close(fd);
    }
    /* The watches go first: they need the descriptors to be open. */
    free_parts(stream);
    fl_os_close(read_fd);
    fl_os_close(write_fd);
}

struct fl_framer *
fl_stream_framer(struct fl_stream *stream)
{
    return stream->framer;
}

int
fl_stream_take_fd(struct fl_stream *stream)
{
    int fd;

    if (stream->fd_count == 0) {
        return -1;
    }
    fd = stream->fds[0];
    stream->fd_count--;
    memmove(stream->fds, stream->fds + 1, stream->fd_count * sizeof(int));
    return fd;
}

void
fl_stream_pause(struct fl_stream *stream, bool paused)
{
    if (stream->paused != paused) {
        stream->paused = paused;
        update_watches(stream);
    }
}

static int
keep_fds(struct fl_stream *stream, const int *fds, size_t count)
{
    if (count > FL_STREAM_FDS - stream->fd_count) {
        for (size_t i = 0; i < count; i++) {
            fl_os_close(fds[i]);
        }
        return FL_EDESCRIPTORS;
    }
    for (size_t i = 0; i < count; i++) {
        stream->fds[stream->fd_count++] = fds[i];
    }
    return 0;
}

static ssize_t
receive(struct fl_stream *stream, uint8_t *data, size_t size)
{
    int fds[FL_OS_FDS_MAX], err;
    size_t count = 0;
    ssize_t got;

    if (!stream->config.takes_fds) {
        return fl_os_read(stream->config.read_fd, data, size);
    }
    got = fl_os_recv(stream->config.read_fd, data, size, fds, &count);
    if (got < 0) {
        return got;
    }
    err = keep_fds(stream, fds, count);
    return err < 0 ? err : got;
}

static int
end_reading(struct fl_stream *stream, int err)
{
    size_t left;

    (void)fl_framer_peek(stream->framer, &left);
    if (err == 0 && left > 0) {
        err = FL_ETRUNCATED;
    }
    stream->ended = true;
    update_watches(stream);
    stream->config.ops->ended(stream->config.owner, err);
    return err == 0 ? FL_ECLOSED : err;
}

/* One read; `*ret_full` tells whether more is likely to be there. */
static int
read_once(struct fl_stream *stream, bool *ret_full)
{
    uint8_t *space;
    size_t size;
    ssize_t got;
    int err;

    *ret_full = false;
    if (stream->ended) {
        return FL_ECLOSED;
    }
    err = fl_framer_reserve(stream->framer, &space, &size);
    if (err < 0) {
        return end_reading(stream, err);
    }
    got = receive(stream, space, size);
    if (got == -EAGAIN || got == -EWOULDBLOCK) {
        return 0;
    }
    if (got <= 0) {
        return end_reading(stream, (int)got);
    }
    *ret_full = (size_t)got >= FL_CHUNK_SIZE / 2;
    fl_framer_commit(stream->framer, (size_t)got);
    stream->received += (uint64_t)got;
    stream->config.ops->input(stream->config.owner);
    return 1;
}

int
fl_stream_pull(struct fl_stream *stream)
{
    bool full;

    return read_once(stream, &full);
}

static void
read_some(struct fl_stream *stream)
{
    bool full = true;

    for (int i = 0; i < FL_STREAM_READS && full && !stream->paused; i++) {
        if (read_once(stream, &full) < 0) {
            return;
        }
    }
}

static void
on_ready(void *data, unsigned events)
{
    struct fl_stream *stream = data;

    if ((events & FL_LOOP_WRITE) != 0) {
        fl_stream_flush(stream);
    }
    if ((events & FL_LOOP_READ) != 0 && !stream->paused) {
        read_some(stream);
    }
    if ((events & FL_LOOP_HANGUP) != 0 && stream->paused && !stream->ended) {
        stream->hung_up = true;
        (void)end_reading(stream, -EPIPE);
    }
}

static void
drop_queue(struct fl_stream *stream)
{
    fl_buf_consume(stream->queue, fl_buf_size(stream->queue));
    stream->was_high = false;
}

static void
break_off(struct fl_stream *stream, int err)
{
    const bool was_high = stream->was_high;

    stream->broken = true;
    drop_queue(stream);
    update_watches(stream);
    stream->config.ops->broken(stream->config.owner, err);
    if (was_high) {
        stream->config.ops->drained(stream->config.owner);
    }
}

/* Bytes the kernel took; 0 if it takes none now or the stream broke. */
static size_t
put(struct fl_stream *stream, const struct iovec *iov, size_t count)
{
    const ssize_t n = fl_os_writev(stream->config.write_fd, iov, (int)count);

    if (n >= 0) {
        stream->written += (uint64_t)n;
        return (size_t)n;
    }
    if (n != -EAGAIN && n != -EWOULDBLOCK) {
        break_off(stream, (int)n);
    }
    return 0;
}

static void
note_held(struct fl_stream *stream)
{
    const size_t held = fl_buf_held(stream->queue);

    if (held > stream->config.high) {
        stream->was_high = true;
    }
    else if (stream->was_high && held < stream->config.low) {
        stream->was_high = false;
        stream->config.ops->drained(stream->config.owner);
    }
}

int
fl_stream_queue(struct fl_stream *stream, const void *data, size_t size,
                bool secret)
{
    int err;

    if (!stream->broken) {
        err = fl_buf_append(stream->queue, data, size, secret);
        if (err < 0) {
            return err;
        }
        note_held(stream);
    }
    stream->accepted += size;
    return 0;
}

int
fl_stream_write(struct fl_stream *stream, const void *data, size_t size,
                bool secret)
{
    const struct iovec iov = {.iov_base = (void *)(uintptr_t)data,
                              .iov_len = size};
    size_t done = 0;
    int err;

    if (!stream->broken && fl_buf_size(stream->queue) == 0 && size > 0) {
        done = put(stream, &iov, 1);
        stream->accepted += done;
    }
    if (done == size) {
        return 0;
    }
    err = fl_stream_queue(stream, (const uint8_t *)data + done, size - done,
                          secret);
    if (err == 0) {
        update_watches(stream);
    }
    return err;
}

int
fl_stream_refer(struct fl_stream *stream, const void *data, size_t size,
                fl_buf_release_fn release, void *owner)
{
    int err = 0;

    if (stream->broken) {
        release(owner);
    }
    else {
        err = fl_buf_refer(stream->queue, data, size, release, owner);
    }
    if (err == 0) {
        stream->accepted += size;
    }
    return err;
}

void
fl_stream_flush(struct fl_stream *stream)
{
    struct iovec iov[IOVECS];

    while (!stream->broken && fl_buf_size(stream->queue) > 0) {
        const size_t count = fl_buf_peek(stream->queue, iov, IOVECS);
        size_t wanted = 0, done;

        for (size_t i = 0; i < count; i++) {
            wanted += iov[i].iov_len;
        }
        done = put(stream, iov, count);
        if (!stream->broken) {
            fl_buf_consume(stream->queue, done);
        }
        if (done < wanted) {
            break;
        }
    }
    update_watches(stream);
    note_held(stream);
}

void
fl_stream_trim(struct fl_stream *stream)
{
    if (stream->received == stream->trimmed_at_received
        && stream->written == stream->trimmed_at_written)
    {
        fl_framer_trim(stream->framer);
        fl_buf_trim(stream->queue);
    }
    stream->trimmed_at_received = stream->received;
    stream->trimmed_at_written = stream->written;
}

bool
fl_stream_above_high(const struct fl_stream *stream)
{
    return fl_buf_held(stream->queue) > stream->config.high;
}

size_t
fl_stream_held(const struct fl_stream *stream)
{
    return fl_buf_held(stream->queue);
}

size_t
fl_stream_pending(const struct fl_stream *stream)
{
    return fl_buf_size(stream->queue);
}

uint64_t
fl_stream_accepted(const struct fl_stream *stream)
{
    return stream->accepted;
}

uint64_t
fl_stream_written(const struct fl_stream *stream)
{
    return stream->written;
}

uint64_t
fl_stream_received(const struct fl_stream *stream)
{
    return stream->received;
}
