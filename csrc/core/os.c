/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "err.h"

/* For reading, so that one descriptor too many is seen and not cut off. */
#define FDS_ROOM (FL_OS_FDS_MAX + 1)

struct fl_os_calls fl_os__calls = {
    .read = read,
    .recvmsg = recvmsg,
    .writev = writev,
    .sendmsg = sendmsg,
    .close = close,
};

ssize_t
fl_os_read(int fd, void *data, size_t size)
{
    ssize_t got;

    do {
        got = fl_os__calls.read(fd, data, size);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* Adds the descriptors of one control message; closes those without room. */
static bool
take_some(const struct cmsghdr *c, int *fds, size_t *count)
{
    const size_t found = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    bool fits = true;

    for (size_t i = 0; i < found; i++) {
        int fd;

        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
        if (*count < FL_OS_FDS_MAX) {
            fds[(*count)++] = fd;
        }
        else {
            fl_os_close(fd);
            fits = false;
        }
    }
    return fits;
}

/* Collects the descriptors of `msg`; on trouble closes every one of them. */
static int
take_fds(struct msghdr *msg, int *fds, size_t *ret_count)
{
    bool fits = (msg->msg_flags & MSG_CTRUNC) == 0;
    size_t count = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            fits = take_some(c, fds, &count) && fits;
        }
    }
    if (!fits) {
        while (count > 0) {
            fl_os_close(fds[--count]);
        }
        return FL_EDESCRIPTORS;
    }
    *ret_count = count;
    return 0;
}

ssize_t
fl_os_recv(int fd, void *data, size_t size, int *fds, size_t *ret_count)
{
    union {
        char bytes[CMSG_SPACE(FDS_ROOM * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {0};
    ssize_t got;
    int err;

    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    do {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
        got = fl_os__calls.recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return -errno;
    }
    err = take_fds(&msg, fds, ret_count);
    return err < 0 ? err : got;
}

ssize_t
fl_os_writev(int fd, const struct iovec *iov, int count)
{
    ssize_t put;

    do {
        put = fl_os__calls.writev(fd, iov, count);
    } while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : put;
}

ssize_t
fl_os_send(int fd, const struct iovec *iov, size_t count, const int *fds,
           size_t fd_count)
{
    union {
        char bytes[CMSG_SPACE(FL_OS_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr msg = {0};
    ssize_t put;

    if (fd_count > FL_OS_FDS_MAX) {
        return FL_EDESCRIPTORS;
    }
    msg.msg_iov = (struct iovec *)(uintptr_t)iov;
    msg.msg_iovlen = count;
    if (fd_count > 0) {
        struct cmsghdr *c;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    do {
        put = fl_os__calls.sendmsg(fd, &msg, MSG_NOSIGNAL);
    } while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : put;
}

void
fl_os_close(int fd)
{
    const int saved = errno;

    if (fd >= 0) {
        /* On Linux the descriptor is gone even after EINTR. */
        (void)fl_os__calls.close(fd);
    }
    errno = saved;
}

int
fl_os_accept(int listen_fd)
{
    int fd;

    do {
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd < 0 ? -errno : fd;
}

int
fl_os_set_nonblocking(int fd)
{
    const int flags = fcntl(fd, F_GETFL);

    if (flags < 0) {
        return -errno;
    }
    if ((flags & O_NONBLOCK) == 0
        && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return -errno;
    }
    return 0;
}

int
fl_os_set_cloexec(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

int
fl_os_peer(int fd, uid_t *ret_uid, pid_t *ret_pid)
{
#ifdef SO_PEERCRED
    struct ucred cred;
    socklen_t size = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0) {
        return -errno;
    }
    *ret_uid = cred.uid;
    if (ret_pid != NULL) {
        *ret_pid = cred.pid;
    }
#else
    gid_t gid;

    if (getpeereid(fd, ret_uid, &gid) < 0) {
        return -errno;
    }
    if (ret_pid != NULL) {
        *ret_pid = 0;
    }
#endif
    return 0;
}

int
fl_os_pidfd_open(pid_t pid)
{
#ifdef SYS_pidfd_open
    const long fd = syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : (int)fd;
#else
    (void)pid;
    return -ENOSYS;
#endif
}

int
fl_os_pidfd_signal(int pidfd, int signal_number)
{
#ifdef SYS_pidfd_send_signal
    const long r = syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL,
                           0);

    return r < 0 ? -errno : 0;
#else
    (void)pidfd;
    (void)signal_number;
    return -ENOSYS;
#endif
}

long
fl_os_preemptions(void)
{
#ifdef RUSAGE_THREAD
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
#else
    return 0;
#endif
}

uint64_t
fl_os_now_us(void)
{
    struct timespec now;

    /* Cannot fail: the clock exists and the pointer is valid. */
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

uint64_t
fl_os_now_ms(void)
{
    return fl_os_now_us() / 1000u;
}

int
fl_os_harden(void)
{
    const struct rlimit none = {0, 0};

#ifdef PR_SET_DUMPABLE
    if (prctl(PR_SET_DUMPABLE, 0) < 0) {
        return -errno;
    }
#endif
    return setrlimit(RLIMIT_CORE, &none) < 0 ? -errno : 0;
}
