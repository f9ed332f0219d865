/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "err.h"
#include "os.h"
#include "runner.h"
#include "support.h"

static void
pair(int fds[2])
{
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void
close_pair(const int fds[2])
{
    fl_os_close(fds[0]);
    fl_os_close(fds[1]);
}

TEST(short_reads_and_eintr_are_passed_on_and_retried)
{
    int fds[2];
    char data[8];

    pair(fds);
    CHECK_INT(write(fds[1], "abcdef", 6), 6);
    io_shorten(2, 3);
    /* EINTR is not seen; EAGAIN and the short count are. */
    CHECK_INT(fl_os_read(fds[0], data, sizeof(data)), -EAGAIN);
    CHECK_INT(fl_os_read(fds[0], data, sizeof(data)), 2);
    CHECK_MEM(data, "ab", 2);
    io_shorten(0, 0);
    CHECK_INT(fl_os_read(fds[0], data, sizeof(data)), 4);
    fl_os_close(fds[1]);
    CHECK_INT(fl_os_read(fds[0], data, sizeof(data)), 0);
    fl_os_close(fds[0]);
}

TEST(a_write_to_a_gone_peer_is_an_error_and_no_signal)
{
    const struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    int fds[2];

    pair(fds);
    fl_os_close(fds[1]);
    CHECK_INT(fl_os_send(fds[0], &iov, 1, NULL, 0), -EPIPE);
    (void)signal(SIGPIPE, SIG_IGN);
    CHECK_INT(fl_os_writev(fds[0], &iov, 1), -EPIPE);
    fl_os_close(fds[0]);
}

TEST(descriptors_travel_and_are_close_on_exec)
{
    const struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    int fds[2], got[FL_OS_FDS_MAX];
    size_t count = 0;
    char data[4];

    pair(fds);
    CHECK_INT(fl_os_send(fds[0], &iov, 1, (int[]){0, 1}, 2), 1);
    CHECK_INT(fl_os_recv(fds[1], data, sizeof(data), got, &count), 1);
    CHECK_INT(count, 2);
    for (size_t i = 0; i < count; i++) {
        CHECK(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
        fl_os_close(got[i]);
    }
    /* A message without any. */
    CHECK_INT(fl_os_send(fds[0], &iov, 1, NULL, 0), 1);
    CHECK_INT(fl_os_recv(fds[1], data, sizeof(data), got, &count), 1);
    CHECK_INT(count, 0);
    close_pair(fds);
}

/* More than fit: all are closed (the runner counts), none is given out. */
TEST(too_many_descriptors_are_refused_and_not_leaked)
{
    enum { SENT = 20 };
    union {
        char bytes[CMSG_SPACE(SENT * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    int fds[2], many[SENT] = {0}, got[FL_OS_FDS_MAX];
    struct cmsghdr *c;
    size_t count = 0;
    char data[4];

    for (int sent = FL_OS_FDS_MAX + 1; sent <= SENT; sent++) {
        pair(fds);
        memset(&control, 0, sizeof(control));
        msg.msg_controllen = CMSG_SPACE((size_t)sent * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)sent * sizeof(int));
        memcpy(CMSG_DATA(c), many, (size_t)sent * sizeof(int));
        CHECK_INT(sendmsg(fds[0], &msg, 0), 1);
        CHECK_INT(fl_os_recv(fds[1], data, sizeof(data), got, &count),
                  FL_EDESCRIPTORS);
        close_pair(fds);
    }
}

TEST(more_descriptors_than_a_message_may_carry_are_not_sent)
{
    const struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    const int many[FL_OS_FDS_MAX + 1] = {0};
    int fds[2];

    pair(fds);
    CHECK_INT(fl_os_send(fds[0], &iov, 1, many, FL_OS_FDS_MAX + 1),
              FL_EDESCRIPTORS);
    close_pair(fds);
}

TEST(accept_gives_what_a_loop_needs)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(address);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    const int client = socket(AF_UNIX, SOCK_STREAM, 0);
    uid_t uid = 12345;
    pid_t pid = 0;
    int got;

    CHECK_INT(bind(fd, (void *)&address, sizeof(address.sun_family)), 0);
    CHECK_INT(listen(fd, 1), 0);
    CHECK_INT(getsockname(fd, (void *)&address, &size), 0);
    CHECK_INT(fl_os_set_nonblocking(fd), 0);
    CHECK_INT(fl_os_accept(fd), -EAGAIN);
    CHECK_INT(connect(client, (void *)&address, size), 0);
    got = fl_os_accept(fd);
    CHECK(got >= 0);
    CHECK(fcntl(got, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(got, F_GETFL) & O_NONBLOCK);
    CHECK_INT(fl_os_peer(got, &uid, &pid), 0);
    CHECK_INT(uid, getuid());
    CHECK_INT(pid, getpid());
    fl_os_close(got);
    fl_os_close(client);
    fl_os_close(fd);
}

TEST(pidfd_tells_the_end_and_carries_signals)
{
    const pid_t pid = fork();
    struct pollfd wait = {.events = POLLIN};
    int status;

    if (pid == 0) {
        for (;;) {
            (void)pause();
        }
    }
    wait.fd = fl_os_pidfd_open(pid);
    CHECK(wait.fd >= 0);
    CHECK(fcntl(wait.fd, F_GETFD) & FD_CLOEXEC);
    CHECK_INT(poll(&wait, 1, 0), 0);
    CHECK_INT(fl_os_pidfd_signal(wait.fd, SIGKILL), 0);
    CHECK_INT(poll(&wait, 1, 5000), 1);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(WTERMSIG(status), SIGKILL);
    CHECK_INT(fl_os_pidfd_signal(wait.fd, SIGKILL), -ESRCH);
    fl_os_close(wait.fd);
}

TEST(close_keeps_errno)
{
    errno = EAGAIN;
    fl_os_close(-1);
    fl_os_close(9999);
    CHECK_INT(errno, EAGAIN);
}

TEST(clocks_agree_and_do_not_go_back)
{
    const uint64_t us = fl_os_now_us(), ms = fl_os_now_ms();

    CHECK(ms >= us / 1000);
    CHECK(ms - us / 1000 < 5000);
    CHECK(fl_os_now_us() >= us);
}

/* Two who never sleep, on one processor: each must lose it to the other. */
TEST(losing_the_processor_is_counted)
{
    const uint64_t until = fl_os_now_ms() + 20000;
    const long before = fl_os_preemptions();
    cpu_set_t one;
    pid_t pid;

    CPU_ZERO(&one);
    CHECK(sched_getaffinity(0, sizeof(one), &one) == 0);
    for (size_t cpu = 0, kept = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &one) && kept++ > 0) {
            CPU_CLR(cpu, &one);
        }
    }
    CHECK_INT(sched_setaffinity(0, sizeof(one), &one), 0);
    pid = fork();
    while (pid == 0 || fl_os_preemptions() == before) {
        CHECK(fl_os_now_ms() < until);
    }
    CHECK_INT(kill(pid, SIGKILL), 0);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
}

/* Systems fact 9: secrets at rest in the mux. */
TEST(hardened_process_is_not_dumpable_and_leaves_no_core)
{
    struct rlimit limit;

    CHECK_INT(fl_os_harden(), 0);
    CHECK_INT(prctl(PR_GET_DUMPABLE), 0);
    CHECK_INT(getrlimit(RLIMIT_CORE, &limit), 0);
    CHECK_INT(limit.rlim_cur, 0);
    /* For the leak checker, which attaches to this process. */
    CHECK_INT(prctl(PR_SET_DUMPABLE, 1), 0);
}
