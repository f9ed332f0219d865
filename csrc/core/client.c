/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "err.h"
#include "os.h"

#define WORDS_MAX 256
/* What is kept back, the header, and the payload's buffers. */
#define GATHER_MAX (2 + FL_CLIENT_IOV_MAX)

/* A thread that waits for another to wake it. */
struct waiter {
    struct waiter *next;
    uint32_t handle; /* whose message it waits for; 0 for none */
    int event_fd;
};

/*
 * Two roles, each held by one thread at a time without holding the lock:
 *
 * - the reader polls the socket and fills the framer;
 * - the writer owns `held` and everything that is written.
 *
 * A thread that waits for a message takes the reader's role if it is free and
 * is a follower otherwise. When a thread leaves while the role is free and
 * somebody follows, it wakes the first follower, who then takes it: so as
 * long as anybody waits, somebody reads.
 *
 * Functions whose name ends in _locked want the lock; the others must not
 * have it.
 */
struct fl_client {
    pid_t owner; /* constant: the process that may speak */

    pthread_mutex_t lock; /* guards what follows, up to the blank line */
    int fd;
    unsigned users; /* threads inside a call; the last one closes */
    bool closed;
    bool reading;
    bool writing;
    bool undelivered; /* the framer has frames there was no memory for */
    int broken;       /* why nothing more will be read; 0 while it will */
    uint32_t id;
    struct fl_mailboxes *boxes;
    struct waiter *followers;
    struct waiter *writers;
    struct waiter *spare;
    char words[WORDS_MAX];

    struct fl_framer *framer; /* the reader's */

    uint8_t *held; /* the writer's: bytes kept back, [start, end) */
    size_t held_start;
    size_t held_end;
    size_t held_capacity;
};

/* Bytes still to be written, first kept-back ones, then a frame's. */
struct gather {
    struct iovec iov[GATHER_MAX];
    size_t first;
    size_t count;
};

int
fl_client_new(int fd, struct fl_client **ret)
{
    struct fl_client *client = calloc(1, sizeof(*client));
    int err;

    if (client == NULL) {
        return -ENOMEM;
    }
    err = fl_mailboxes_new(&client->boxes);
    if (err == 0) {
        err = fl_framer_new(&client->framer);
    }
    if (err == 0) {
        err = fl_os_set_nonblocking(fd);
    }
    if (err == 0) {
        err = fl_os_set_cloexec(fd);
    }
    if (err == 0) {
        err = -pthread_mutex_init(&client->lock, NULL);
    }
    if (err < 0) {
        fl_framer_free(client->framer);
        fl_mailboxes_free(client->boxes);
        free(client);
        return err;
    }
    client->owner = getpid();
    client->fd = fd;
    *ret = client;
    return 0;
}

static void
free_waiters(struct waiter *waiter)
{
    while (waiter != NULL) {
        struct waiter *next = waiter->next;

        fl_os_close(waiter->event_fd);
        free(waiter);
        waiter = next;
    }
}

static void
free_held(struct fl_client *client)
{
    if (client->held != NULL) {
        explicit_bzero(client->held, client->held_capacity);
    }
    free(client->held);
}

/*
 * Whether what the threads share is whole. In a forked child it is not if a
 * thread of the parent was inside a call at that moment.
 */
static bool
at_rest(struct fl_client *client)
{
    if (client->owner == getpid()) {
        return true;
    }
    return pthread_mutex_trylock(&client->lock) == 0 && client->users == 0;
}

void
fl_client_free(struct fl_client *client)
{
    if (client == NULL) {
        return;
    }
    fl_client_close(client);
    if (!at_rest(client)) {
        return; /* a little memory of the child's is the price */
    }
    if (client->owner == getpid()) {
        (void)pthread_mutex_destroy(&client->lock);
    }
    free_waiters(client->followers);
    free_waiters(client->writers);
    free_waiters(client->spare);
    free_held(client);
    fl_framer_free(client->framer);
    fl_mailboxes_free(client->boxes);
    free(client);
}

static void
wake(const struct waiter *waiter)
{
    const uint64_t one = 1;

    /* Fails only if it is signalled already. */
    (void)!write(waiter->event_fd, &one, sizeof(one));
}

static void
wake_all(const struct waiter *waiter)
{
    for (; waiter != NULL; waiter = waiter->next) {
        wake(waiter);
    }
}

/* The lock may be held by a thread that the child does not have. */
static void
close_in_child(struct fl_client *client)
{
    fl_os_close(client->fd);
    client->fd = -1;
    client->closed = true;
}

void
fl_client_close(struct fl_client *client)
{
    if (client->owner != getpid()) {
        close_in_child(client);
        return;
    }
    pthread_mutex_lock(&client->lock);
    if (!client->closed) {
        client->closed = true;
        /* Wakes the thread that polls it; the descriptor stays valid. */
        (void)shutdown(client->fd, SHUT_RDWR);
        wake_all(client->followers);
        wake_all(client->writers);
    }
    if (client->users == 0) {
        fl_os_close(client->fd);
        client->fd = -1;
    }
    pthread_mutex_unlock(&client->lock);
}

int
fl_client_fd(struct fl_client *client)
{
    int fd;

    if (client->owner != getpid()) {
        return client->fd;
    }
    pthread_mutex_lock(&client->lock);
    fd = client->closed ? -1 : client->fd;
    pthread_mutex_unlock(&client->lock);
    return fd;
}

/* Takes the lock for a call; negative if there is nothing to call. */
static int
enter(struct fl_client *client)
{
    if (client->owner != getpid()) {
        return FL_EFORKED;
    }
    pthread_mutex_lock(&client->lock);
    if (client->closed) {
        pthread_mutex_unlock(&client->lock);
        return FL_ECLOSED;
    }
    client->users++;
    return 0;
}

/*
 * Ends a call: hands free roles on, closes if that was put off. A thread that
 * was woken to take a role and ends at its deadline instead passes here too.
 */
static void
leave(struct fl_client *client)
{
    if (!client->reading && client->followers != NULL) {
        wake(client->followers);
    }
    if (!client->writing && client->writers != NULL) {
        wake(client->writers);
    }
    client->users--;
    if (client->closed && client->users == 0) {
        fl_os_close(client->fd);
        client->fd = -1;
    }
    pthread_mutex_unlock(&client->lock);
}

bool
fl_client_broken(struct fl_client *client)
{
    bool broken = true;

    if (enter(client) == 0) {
        broken = client->broken < 0;
        leave(client);
    }
    return broken;
}

uint32_t
fl_client_id(struct fl_client *client)
{
    uint32_t id = 0;

    if (enter(client) == 0) {
        id = client->id;
        leave(client);
    }
    return id;
}

const char *
fl_client_last_words(struct fl_client *client, char *text, size_t size)
{
    text[0] = '\0';
    if (client->owner == getpid()) {
        pthread_mutex_lock(&client->lock);
        (void)snprintf(text, size, "%s", client->words);
        pthread_mutex_unlock(&client->lock);
    }
    return text;
}

int
fl_client_open(struct fl_client *client, uint32_t handle, uint32_t *ret_handle)
{
    int err = enter(client);

    if (err == 0) {
        err = fl_mailboxes_open(client->boxes, handle, ret_handle);
        leave(client);
    }
    return err;
}

static void
wake_waiters_for_locked(const struct fl_client *client, uint32_t handle)
{
    const struct waiter *waiter = client->followers;

    for (; waiter != NULL; waiter = waiter->next) {
        if (waiter->handle == handle) {
            wake(waiter);
        }
    }
}

int
fl_client_release(struct fl_client *client, uint32_t handle)
{
    int err = enter(client);

    if (err == 0) {
        err = fl_mailboxes_close(client->boxes, handle);
        wake_waiters_for_locked(client, handle);
        leave(client);
    }
    return err;
}

/* --- waiting ------------------------------------------------------------ */

static int
poll_until(struct pollfd *fds, nfds_t count, uint64_t deadline_us)
{
    struct timespec left, *timeout = NULL;
    int ready;

    if (deadline_us != FL_FOREVER) {
        const uint64_t now = fl_os_now_us();
        const uint64_t us = deadline_us > now ? deadline_us - now : 0;

        left.tv_sec = (time_t)(us / 1000000u);
        left.tv_nsec = (long)(us % 1000000u) * 1000;
        timeout = &left;
    }
    ready = ppoll(fds, count, timeout, NULL);
    if (ready < 0) {
        return -errno;
    }
    return ready == 0 ? -ETIMEDOUT : 0;
}

static int
new_waiter_locked(struct fl_client *client, struct waiter **ret)
{
    struct waiter *waiter = client->spare;

    if (waiter != NULL) {
        client->spare = waiter->next;
        *ret = waiter;
        return 0;
    }
    waiter = calloc(1, sizeof(*waiter));
    if (waiter == NULL) {
        return -ENOMEM;
    }
    waiter->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (waiter->event_fd < 0) {
        const int err = -errno;

        free(waiter);
        return err;
    }
    *ret = waiter;
    return 0;
}

static void
append_waiter(struct waiter **list, struct waiter *waiter)
{
    while (*list != NULL) {
        list = &(*list)->next;
    }
    waiter->next = NULL;
    *list = waiter;
}

/* Unlinks a waiter and keeps it, unsignalled, for the next one to wait. */
static void
retire_waiter_locked(struct fl_client *client, struct waiter **list,
                     struct waiter *waiter)
{
    uint64_t count;

    while (*list != waiter) {
        list = &(*list)->next;
    }
    *list = waiter->next;
    (void)!read(waiter->event_fd, &count, sizeof(count));
    waiter->next = client->spare;
    client->spare = waiter;
}

/*
 * Waits on `list` until woken, or until the socket can be written if
 * `writable` is asked for. Gives the lock up meanwhile.
 */
static int
follow_locked(struct fl_client *client, struct waiter **list, uint32_t handle,
              bool writable, uint64_t deadline_us)
{
    struct waiter *waiter = NULL;
    struct pollfd fds[2] = {{0}};
    int err = new_waiter_locked(client, &waiter);

    if (waiter == NULL) {
        return err;
    }
    waiter->handle = handle;
    append_waiter(list, waiter);
    fds[0].fd = waiter->event_fd;
    fds[0].events = POLLIN;
    fds[1].fd = client->fd;
    fds[1].events = POLLOUT;
    pthread_mutex_unlock(&client->lock);
    err = poll_until(fds, writable ? 2 : 1, deadline_us);
    pthread_mutex_lock(&client->lock);
    retire_waiter_locked(client, list, waiter);
    return err;
}

/* The reader's: one read. 0, or why there will be no more. */
static int
fill(struct fl_client *client, int fd)
{
    uint8_t *data;
    size_t size;
    ssize_t got;
    int err = fl_framer_reserve(client->framer, &data, &size);

    if (err < 0) {
        return err;
    }
    got = fl_os_read(fd, data, size);
    if (got == -EAGAIN) {
        return 0;
    }
    if (got == 0 || got == -ECONNRESET) {
        return FL_ECLOSED;
    }
    if (got < 0) {
        return (int)got;
    }
    fl_framer_commit(client->framer, (size_t)got);
    return 0;
}

/* The mux says why it is about to close; an IS_DEAD for no handle. */
static void
note_words_locked(struct fl_client *client, const struct fl_frame *frame,
                  const uint8_t *payload)
{
    if (frame->reply_to == FL_H_IS_DEAD && frame->length > 1) {
        (void)fl_escape(payload + 1, frame->length - 1, client->words,
                        sizeof(client->words));
    }
}

/* The reader's: moves every complete frame into its mailbox. */
static int
deliver_locked(struct fl_client *client)
{
    const uint8_t *payload;
    struct fl_frame frame;
    int got;

    while ((got = fl_framer_next(client->framer, &frame, &payload)) == 1) {
        if (frame.handle == 0) {
            note_words_locked(client, &frame, payload);
        }
        got = fl_mailboxes_put(client->boxes, &frame, payload);
        if (got < 0) {
            return got;
        }
        if (got == 1) {
            wake_waiters_for_locked(client, frame.handle);
        }
        fl_framer_consume(client->framer, FL_HEADER_SIZE + frame.length);
    }
    if (got < 0) {
        size_t size;
        const uint8_t *data = fl_framer_peek(client->framer, &size);

        (void)fl_frame_complain(got, data, size, client->words,
                                sizeof(client->words));
    }
    return got;
}

/*
 * Delivers after a read that gave `err`. 0, or -ENOMEM: then nothing is lost,
 * and the next reader delivers before it reads on. Everything else ends
 * reading for good.
 */
static int
conclude_read_locked(struct fl_client *client, int err)
{
    if (err == 0) {
        err = deliver_locked(client);
    }
    client->undelivered = err == -ENOMEM;
    if (err < 0 && err != -ENOMEM) {
        client->broken = err;
        wake_all(client->followers);
        err = 0;
    }
    return err;
}

/*
 * Polls the socket as its reader, once; also until it can be written if
 * `writable` is asked for. Gives the lock up meanwhile.
 */
static int
lead_locked(struct fl_client *client, bool writable, uint64_t deadline_us)
{
    struct pollfd pollfd = {.fd = client->fd, .events = POLLIN};
    int err, read_err = 0;

    if (client->undelivered) {
        return conclude_read_locked(client, 0);
    }
    if (writable) {
        pollfd.events |= POLLOUT;
    }
    client->reading = true;
    pthread_mutex_unlock(&client->lock);
    err = poll_until(&pollfd, 1, deadline_us);
    if (err == 0 && (pollfd.revents & ~POLLOUT) != 0) {
        read_err = fill(client, pollfd.fd);
    }
    pthread_mutex_lock(&client->lock);
    client->reading = false;
    return err < 0 ? err : conclude_read_locked(client, read_err);
}

/* --- receiving ---------------------------------------------------------- */

static int
recv_locked(struct fl_client *client, uint32_t handle, uint64_t deadline_us,
            struct fl_message **ret)
{
    for (;;) {
        int r = fl_mailboxes_take(client->boxes, handle, ret);

        if (r != 0) {
            return r < 0 ? r : 0;
        }
        if (client->closed) {
            return FL_ECLOSED;
        }
        if (client->broken < 0) {
            return client->broken;
        }
        r = client->reading ? follow_locked(client, &client->followers, handle,
                                            false, deadline_us)
                            : lead_locked(client, false, deadline_us);
        if (r < 0) {
            /* What came in the same moment is not left behind. */
            return fl_mailboxes_take(client->boxes, handle, ret) == 1 ? 0 : r;
        }
    }
}

int
fl_client_recv(struct fl_client *client, uint32_t handle, uint64_t deadline_us,
               struct fl_message **ret)
{
    int err = enter(client);

    if (err == 0) {
        err = recv_locked(client, handle, deadline_us, ret);
        leave(client);
    }
    return err;
}

/* --- sending ------------------------------------------------------------ */

static void
gather_add(struct gather *gather, const void *data, size_t size)
{
    if (size > 0) {
        struct iovec *iov = &gather->iov[gather->count++];

        iov->iov_base = (void *)(uintptr_t)data;
        iov->iov_len = size;
    }
}

static size_t
gather_size(const struct gather *gather)
{
    size_t size = 0;

    for (size_t i = gather->first; i < gather->count; i++) {
        size += gather->iov[i].iov_len;
    }
    return size;
}

static void
gather_advance(struct gather *gather, size_t size)
{
    while (size > 0) {
        struct iovec *iov = &gather->iov[gather->first];
        const size_t part = size < iov->iov_len ? size : iov->iov_len;

        iov->iov_base = (uint8_t *)iov->iov_base + part;
        iov->iov_len -= part;
        size -= part;
        if (iov->iov_len == 0) {
            gather->first++;
        }
    }
}

/* Waits until the mux takes more, or something else has happened. */
static int
wait_writable(struct fl_client *client, uint64_t deadline_us)
{
    int err;

    pthread_mutex_lock(&client->lock);
    if (client->closed || client->broken < 0) {
        err = FL_ECLOSED;
    }
    else if (client->reading) {
        err = follow_locked(client, &client->followers, 0, true, deadline_us);
    }
    else {
        err = lead_locked(client, true, deadline_us);
    }
    pthread_mutex_unlock(&client->lock);
    return err;
}

/* Writes until nothing is left or it fails; `gather` says how far it came. */
static int
write_all(struct fl_client *client, struct gather *gather, const int *fds,
          size_t fd_count, uint64_t deadline_us)
{
    while (gather->first < gather->count) {
        const ssize_t put = fl_os_send(client->fd, gather->iov + gather->first,
                                       gather->count - gather->first, fds,
                                       fd_count);
        int err = 0;

        if (put > 0) {
            gather_advance(gather, (size_t)put);
            fd_count = 0; /* they went with the first byte */
        }
        else if (put == -EAGAIN) {
            err = wait_writable(client, deadline_us);
        }
        else {
            err = put == -EPIPE || put == -ECONNRESET ? FL_ECLOSED : (int)put;
        }
        if (err < 0) {
            return err;
        }
    }
    return 0;
}

/* Makes room for `size` more bytes to be kept back. */
static int
hold_reserve(struct fl_client *client, size_t size)
{
    const size_t used = client->held_end - client->held_start;
    size_t capacity;
    uint8_t *data;

    if (client->held_capacity - client->held_end >= size) {
        return 0;
    }
    capacity = used + size > FL_CHUNK_SIZE ? used + size : FL_CHUNK_SIZE;
    data = malloc(capacity);
    if (data == NULL) {
        return -ENOMEM;
    }
    if (used > 0) {
        memcpy(data, client->held + client->held_start, used);
    }
    free_held(client);
    client->held = data;
    client->held_start = 0;
    client->held_end = used;
    client->held_capacity = capacity;
    return 0;
}

/* Keeps back what `gather` has not written yet. */
static int
hold(struct fl_client *client, const struct gather *gather)
{
    int err = hold_reserve(client, gather_size(gather));

    if (err < 0) {
        return err;
    }
    for (size_t i = gather->first; i < gather->count; i++) {
        const struct iovec *iov = &gather->iov[i];

        memcpy(client->held + client->held_end, iov->iov_base, iov->iov_len);
        client->held_end += iov->iov_len;
    }
    return 0;
}

/* Drops `size` written bytes, leaving no secret behind. */
static void
hold_consume(struct fl_client *client, size_t size)
{
    if (size == 0) {
        return;
    }
    explicit_bzero(client->held + client->held_start, size);
    client->held_start += size;
    if (client->held_start == client->held_end) {
        client->held_start = client->held_end = 0;
    }
}

static size_t
hold_size(const struct fl_client *client)
{
    return client->held_end - client->held_start;
}

static int
flush_held(struct fl_client *client, uint64_t deadline_us)
{
    struct gather gather = {.first = 0};
    const size_t size = hold_size(client);
    int err;

    gather_add(&gather, client->held + client->held_start, size);
    err = write_all(client, &gather, NULL, 0, deadline_us);
    hold_consume(client, size - gather_size(&gather));
    return err;
}

/* A frame cut in two cannot be completed: the connection is of no use. */
static void
give_up(struct fl_client *client, int err)
{
    pthread_mutex_lock(&client->lock);
    client->broken = err;
    (void)shutdown(client->fd, SHUT_RDWR);
    wake_all(client->followers);
    pthread_mutex_unlock(&client->lock);
}

/* Writes what is held, then the frame; keeps the rest of a begun frame. */
static int
write_frame(struct fl_client *client, const struct gather *frame,
            const struct fl_outgoing *outgoing, uint64_t deadline_us,
            bool *ret_started)
{
    const size_t before = hold_size(client);
    struct gather gather = {.first = 0};
    size_t left;
    int err;

    gather_add(&gather, client->held + client->held_start, before);
    for (size_t i = 0; i < frame->count; i++) {
        gather_add(&gather, frame->iov[i].iov_base, frame->iov[i].iov_len);
    }
    err = write_all(client, &gather, outgoing->fds, outgoing->fd_count,
                    deadline_us);
    left = gather_size(&gather);
    if (left >= gather_size(frame)) {
        hold_consume(client, before - (left - gather_size(frame)));
        return err;
    }
    hold_consume(client, before);
    *ret_started = true;
    if (err < 0 && hold(client, &gather) < 0) {
        give_up(client, -ENOMEM);
    }
    return err;
}

/* The writer's: sends a frame, or keeps it back where that is allowed. */
static int
send_as_writer(struct fl_client *client, const struct gather *frame,
               const struct fl_outgoing *outgoing, uint64_t deadline_us,
               bool *ret_started)
{
    int err = 0;

    if (outgoing->more && outgoing->fd_count == 0
        && hold_size(client) + gather_size(frame) <= FL_CHUNK_SIZE)
    {
        return hold(client, frame);
    }
    if (outgoing->fd_count > 0) {
        /*
         * Descriptors go with the first byte. If that were not this frame's,
         * they could arrive although the frame then does not.
         */
        err = flush_held(client, deadline_us);
    }
    if (err < 0) {
        return err;
    }
    return write_frame(client, frame, outgoing, deadline_us, ret_started);
}

static int
become_writer_locked(struct fl_client *client, uint64_t deadline_us)
{
    while (client->writing) {
        int err = follow_locked(client, &client->writers, 0, false,
                                deadline_us);

        if (err == 0 && client->closed) {
            err = FL_ECLOSED;
        }
        if (err < 0) {
            return err;
        }
    }
    client->writing = true;
    return 0;
}

/* Encodes the header and lists header and payload. 0 or FL_ELENGTH. */
static int
compose(const struct fl_outgoing *outgoing, uint32_t src_id, uint8_t *header,
        struct gather *gather)
{
    struct fl_frame frame = outgoing->frame;
    size_t length = 0;

    if (outgoing->payload_count > FL_CLIENT_IOV_MAX) {
        return FL_ELENGTH;
    }
    gather_add(gather, header, FL_HEADER_SIZE);
    for (size_t i = 0; i < outgoing->payload_count; i++) {
        const struct iovec *part = &outgoing->payload[i];

        if (part->iov_len > FL_PAYLOAD_MAX - length) {
            return FL_ELENGTH;
        }
        length += part->iov_len;
        gather_add(gather, part->iov_base, part->iov_len);
    }
    frame.src_id = src_id;
    frame.auth_id = 0;
    frame.length = (uint32_t)length;
    fl_frame_encode(&frame, header);
    return 0;
}

int
fl_client_send(struct fl_client *client, const struct fl_outgoing *outgoing,
               uint64_t deadline_us, bool *ret_started)
{
    uint8_t header[FL_HEADER_SIZE];
    struct gather frame = {.first = 0};
    int err = enter(client);

    *ret_started = false;
    if (err < 0) {
        return err;
    }
    err = compose(outgoing, client->id, header, &frame);
    if (err == 0) {
        err = become_writer_locked(client, deadline_us);
    }
    if (err == 0) {
        pthread_mutex_unlock(&client->lock);
        err = send_as_writer(client, &frame, outgoing, deadline_us,
                             ret_started);
        pthread_mutex_lock(&client->lock);
        client->writing = false;
    }
    leave(client);
    return err;
}

int
fl_client_flush(struct fl_client *client, uint64_t deadline_us)
{
    int err = enter(client);

    if (err < 0) {
        return err;
    }
    err = become_writer_locked(client, deadline_us);
    if (err == 0) {
        pthread_mutex_unlock(&client->lock);
        err = flush_held(client, deadline_us);
        pthread_mutex_lock(&client->lock);
        client->writing = false;
    }
    leave(client);
    return err;
}

/* --- HELLO -------------------------------------------------------------- */

void
fl_client_hello(uint8_t out[FL_CLIENT_HELLO_SIZE])
{
    fl_put_u16(out, FL_VERSION);
    fl_put_u16(out + 2, FL_VERSION);
    fl_put_u32(out + 4, (uint32_t)getpid());
}

int
fl_client_welcome(struct fl_client *client, const struct fl_message *answer)
{
    int err;

    if (answer->frame.reply_to == FL_H_IS_DEAD) {
        return FL_ENEGOTIATE;
    }
    if (answer->frame.length < 6) {
        return FL_EMALFORMED;
    }
    if (fl_get_u16(answer->payload) != FL_VERSION) {
        return FL_ENEGOTIATE;
    }
    err = enter(client);
    if (err == 0) {
        client->id = fl_get_u32(answer->payload + 2);
        leave(client);
    }
    return err;
}
