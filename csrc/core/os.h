/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * System calls, with what is easy to get wrong solved once: EINTR is retried,
 * descriptors are close-on-exec from birth, a write to a gone peer gives
 * -EPIPE and no signal, results are 0 or more or a negated errno.
 */
#ifndef FL_OS_H
#define FL_OS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Most descriptors one message may carry. */
#define FL_OS_FDS_MAX 5

/*
 * The calls that tests replace to force short transfers, EAGAIN, EINTR and
 * failures. The only mutable object in the core that belongs to no instance;
 * nothing but a test writes it, and only before it starts a thread.
 */
struct fl_os_calls {
    ssize_t (*read)(int, void *, size_t);
    ssize_t (*recvmsg)(int, struct msghdr *, int);
    ssize_t (*writev)(int, const struct iovec *, int);
    ssize_t (*sendmsg)(int, const struct msghdr *, int);
    int (*close)(int);
};

extern struct fl_os_calls fl_os__calls;

/* Bytes read, 0 at the end, or negative. */
ssize_t
fl_os_read(int fd, void *data, size_t size);

/*
 * Like read on a socket, and takes descriptors sent along. `fds` has room for
 * FL_OS_FDS_MAX; the caller owns the `*ret_count` it finds there. More than
 * fit: all are closed and FL_EDESCRIPTORS is returned.
 */
ssize_t
fl_os_recv(int fd, void *data, size_t size, int *fds, size_t *ret_count);

/* Bytes written to any kind of descriptor; SIGPIPE must be ignored. */
ssize_t
fl_os_writev(int fd, const struct iovec *iov, int count);

/*
 * Bytes written to a socket, without SIGPIPE. The `fd_count` descriptors in
 * `fds` (may be NULL) travel with the first byte and stay the caller's.
 */
ssize_t
fl_os_send(int fd, const struct iovec *iov, size_t count, const int *fds,
           size_t fd_count);

/* Closes and keeps errno; a negative `fd` is ignored. */
void
fl_os_close(int fd);

/* New connection, non-blocking and close-on-exec, or negative. */
int
fl_os_accept(int listen_fd);

int
fl_os_set_nonblocking(int fd);

int
fl_os_set_cloexec(int fd);

/* Who connected a UNIX socket. `ret_pid` may be NULL. */
int
fl_os_peer(int fd, uid_t *ret_uid, pid_t *ret_pid);

/* Descriptor (close-on-exec) of a process; -ENOSYS where there is none. */
int
fl_os_pidfd_open(pid_t pid);

int
fl_os_pidfd_signal(int pidfd, int signal_number);

/*
 * How often the kernel took the processor from this thread while it could
 * have run on; 0 where it does not say.
 */
long
fl_os_preemptions(void);

/* Monotonic clock in microseconds and in milliseconds. */
uint64_t
fl_os_now_us(void);

uint64_t
fl_os_now_ms(void);

/*
 * Makes the process unreadable for others of its user (no ptrace, no
 * /proc/PID/mem) and keeps it from leaving a core file.
 */
int
fl_os_harden(void);

#endif
