/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A blocking client of the mux, for any number of threads.
 *
 * Reading is shared: of the threads that wait, one leads, which means that it
 * polls the socket and puts what arrives into everybody's mailboxes; the
 * others wait on a descriptor of their own. Each wait is therefore a poll,
 * ends at its deadline and comes back with -EINTR when a signal arrives, in
 * whichever thread. Writing is one thread at a time, and a writer whom the
 * mux keeps waiting leads meanwhile if nobody else does, so that two full
 * sockets cannot block each other.
 *
 * Deadlines are on the clock of fl_os_now_us(); FL_FOREVER is none.
 *
 * After a fork the connection belongs to the parent. Every call in the child
 * gives FL_EFORKED, except fl_client_close() and fl_client_free(), which
 * there give back the child's copy of the descriptor and nothing else.
 */
#ifndef FL_CLIENT_H
#define FL_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mailbox.h"

#define FL_FOREVER UINT64_MAX

/* Most buffers the payload of one frame is gathered from. */
#define FL_CLIENT_IOV_MAX ((size_t)16)

struct fl_client;

/*
 * Takes a connected UNIX stream socket, which is the client's from then on;
 * on failure (-ENOMEM or a socket error) it stays the caller's.
 */
int
fl_client_new(int fd, struct fl_client **ret);

/* No other thread may be inside a call. Closes. Accepts NULL. */
void
fl_client_free(struct fl_client *client);

/*
 * Every call under way and every later one ends with FL_ECLOSED. The
 * descriptor is closed when the last of them has left. May be repeated.
 */
void
fl_client_close(struct fl_client *client);

/* The socket, or -1 once closed. For looking at only. */
int
fl_client_fd(struct fl_client *client);

/*
 * Whether nothing more can come: closed by either side, or what came was no
 * frame. That the mux is gone is known only once somebody has read.
 */
bool
fl_client_broken(struct fl_client *client);

/* The id that HELLO gave, 0 before. */
uint32_t
fl_client_id(struct fl_client *client);

/*
 * What the mux said before it closed the connection, escaped, terminated;
 * empty if it said nothing. Returns `text`.
 */
const char *
fl_client_last_words(struct fl_client *client, char *text, size_t size);

/*
 * Opens a mailbox on `handle`, 0 for a free one. Only frames for open
 * mailboxes are kept. 0, FL_EQUOTA (open already), FL_EFORKED or -ENOMEM.
 */
int
fl_client_open(struct fl_client *client, uint32_t handle,
               uint32_t *ret_handle);

/* Closes a mailbox; a thread that waits on it gets FL_EHANDLE. */
int
fl_client_release(struct fl_client *client, uint32_t handle);

struct fl_outgoing {
    struct fl_frame frame;       /* src_id, auth_id, length are filled in */
    const struct iovec *payload; /* at most FL_CLIENT_IOV_MAX */
    size_t payload_count;
    const int *fds; /* stay the caller's; dup'ed by the kernel */
    size_t fd_count;
    bool more; /* may be kept back until the next frame */
};

/*
 * Sends one frame. 0 when the kernel (or, with `more`, the client) has all of
 * it. `*ret_started` says at any outcome whether a byte of it has left: if
 * not, a failed call has had no effect at all (rule 13). If so, the rest is
 * kept and goes ahead of whatever is sent next; fl_client_flush() goes on.
 * -EINTR, -ETIMEDOUT, FL_ECLOSED, FL_EFORKED, FL_ELENGTH, -ENOMEM.
 */
int
fl_client_send(struct fl_client *client, const struct fl_outgoing *outgoing,
               uint64_t deadline_us, bool *ret_started);

/* Sends what is kept back. Errors as fl_client_send(). */
int
fl_client_flush(struct fl_client *client, uint64_t deadline_us);

/*
 * Takes the oldest message of a mailbox, waiting for it if need be. What has
 * been received is given out before a broken connection is reported. 0 with
 * `*ret` to be freed by the caller with free(), or -EINTR, -ETIMEDOUT,
 * FL_ECLOSED, FL_EFORKED, FL_EHANDLE, -ENOMEM or what is wrong with the
 * frames that came.
 */
int
fl_client_recv(struct fl_client *client, uint32_t handle, uint64_t deadline_us,
               struct fl_message **ret);

/* Payload of our HELLO. */
#define FL_CLIENT_HELLO_SIZE 8
void
fl_client_hello(uint8_t out[FL_CLIENT_HELLO_SIZE]);

/*
 * Takes over the id from the answer to HELLO. 0, FL_ENEGOTIATE if it is a
 * refusal, FL_EMALFORMED.
 */
int
fl_client_welcome(struct fl_client *client, const struct fl_message *answer);

#endif
