/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "err.h"
#include "os.h"
#include "runner.h"
#include "support.h"

#define DEADLINE_MS 10000

/* Processes */

static int
listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    CHECK_INT(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    CHECK_INT(listen(fd, 128), 0);
    return fd;
}

static _Noreturn void
be_the_mux(const struct fl_mux_config *config, long allocation)
{
    struct fl_mux *mux;
    int err;

    /* Longer than any test, shorter than for ever. */
    (void)alarm(120);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    alloc_fail_after(allocation);
    err = fl_mux_new(config, &mux);
    if (err == 0) {
        err = fl_mux_run(mux);
        fl_mux_free(mux);
    }
    alloc_fail_after(-1);
    (void)prctl(PR_SET_DUMPABLE, 1); /* for the leak checker */
    exit(err < 0 && allocation < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

static void
start(struct mux_process *mux, const struct fl_mux_config *config,
      long allocation)
{
    struct fl_mux_config mine = {.idle_seconds = 60};

    if (config != NULL) {
        mine = *config;
    }
    (void)snprintf(mux->dir, sizeof(mux->dir), "/tmp/fatline-test-XXXXXX");
    CHECK(mkdtemp(mux->dir) != NULL);
    (void)snprintf(mux->path, sizeof(mux->path), "%s/mux", mux->dir);
    mine.listen_fd = listen_at(mux->path);
    mine.socket_path = mux->path;
    mux->pid = fork();
    if (mux->pid == 0) {
        be_the_mux(&mine, allocation);
    }
    fl_os_close(mine.listen_fd);
}

void
mux_start(struct mux_process *mux, const struct fl_mux_config *config)
{
    start(mux, config, -1);
}

void
mux_start_failing(struct mux_process *mux, long allocation)
{
    start(mux, NULL, allocation);
}

/* Waits for a child without waiting for ever. */
static int
wait_for_child(pid_t pid)
{
    const int pidfd = fl_os_pidfd_open(pid);
    struct pollfd ready = {.fd = pidfd, .events = POLLIN};
    int status;

    CHECK(pidfd >= 0);
    CHECK_INT(poll(&ready, 1, DEADLINE_MS), 1);
    fl_os_close(pidfd);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    return status;
}

void
mux_join(struct mux_process *mux)
{
    const int status = wait_for_child(mux->pid);

    CHECK_INT(WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status),
              0);
}

void
mux_wait(struct mux_process *mux)
{
    mux_join(mux);
    (void)unlink(mux->path);
    (void)rmdir(mux->dir);
}

void
mux_stop(struct mux_process *mux)
{
    struct conn conn;
    struct message m;

    conn_open(mux, &conn);
    m = receive_for(conn.fd, call(&conn, 0, FL_H_STOP, 0, NULL, 0));
    free(m.payload);
    conn_close(&conn);
    mux_wait(mux);
}

/* Bytes and frames */

int
mux_connect(const struct mux_process *mux)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s",
                   mux->path);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        fl_os_close(fd);
        return -1;
    }
    return fd;
}

void
send_bytes(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        const ssize_t n = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN) {
            CHECK_INT(poll(&ready, 1, DEADLINE_MS), 1);
            continue;
        }
        CHECK(n > 0);
        at += n;
        size -= (size_t)n;
    }
}

void
send_frame(int fd, const struct fl_frame *frame, const void *payload,
           size_t size)
{
    struct fl_frame out = *frame;
    uint8_t header[FL_HEADER_SIZE];

    out.length = (uint32_t)size;
    fl_frame_encode(&out, header);
    send_bytes(fd, header, sizeof(header));
    send_bytes(fd, payload, size);
}

/* Bytes read, 0 at the end; fails after the deadline. */
static size_t
read_some(int fd, void *data, size_t size)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    ssize_t n;

    if (poll(&ready, 1, DEADLINE_MS) != 1) {
        runner_fail(__FILE__, __LINE__, "nothing came within %d ms",
                    DEADLINE_MS);
    }
    n = read(fd, data, size);
    return n > 0 ? (size_t)n : 0;
}

static bool
read_all(int fd, void *data, size_t size)
{
    size_t at = 0;

    while (at < size) {
        const size_t n = read_some(fd, (uint8_t *)data + at, size - at);

        if (n == 0) {
            return false;
        }
        at += n;
    }
    return true;
}

struct message
receive(int fd)
{
    struct message m;
    uint8_t header[FL_HEADER_SIZE];

    if (!read_all(fd, header, sizeof(header))) {
        runner_fail(__FILE__, __LINE__, "the stream ended");
    }
    CHECK_INT(fl_frame_decode(header, sizeof(header), &m.frame), 1);
    m.payload = calloc(1, m.frame.length + 1);
    CHECK(read_all(fd, m.payload, m.frame.length));
    return m;
}

struct message
receive_for(int fd, uint32_t handle)
{
    const struct message m = receive(fd);

    if (m.frame.reply_to == FL_H_IS_DEAD) {
        runner_fail(__FILE__, __LINE__, "an IS_DEAD came: %s",
                    (const char *)m.payload + 1);
    }
    CHECK_INT(m.frame.handle, handle);
    CHECK_INT(m.frame.reply_to, 0);
    return m;
}

void
receive_dead(int fd, uint32_t handle, uint8_t code, const char *part)
{
    const struct message m = receive(fd);

    CHECK_INT(m.frame.reply_to, FL_H_IS_DEAD);
    CHECK_INT(m.frame.handle, handle);
    CHECK_INT(m.frame.flags, FL_F_LAST);
    CHECK(m.frame.length >= 1);
    CHECK_CONTAINS((const char *)m.payload + 1, part);
    CHECK_INT(m.payload[0], code);
    free(m.payload);
}

void
receive_del_route(int fd, uint32_t id)
{
    const struct message m = receive_for(fd, FL_H_DEL_ROUTE);

    CHECK(m.frame.length > 4);
    CHECK_INT(fl_get_u32(m.payload), id);
    free(m.payload);
}

void
wait_for_end(int fd)
{
    char data[4096];

    while (read_some(fd, data, sizeof(data)) > 0) {
        continue;
    }
}

/* Clients */

void
conn_open(const struct mux_process *mux, struct conn *conn)
{
    uint8_t hello[8] = {0, 1, 0, 1};
    struct message m;

    *conn = (struct conn){.fd = mux_connect(mux), .next_handle = 1000};
    CHECK(conn->fd >= 0);
    m = receive_for(conn->fd, call(conn, 0, FL_H_HELLO, 0, hello, 8));
    CHECK_INT(m.frame.length, 6);
    CHECK_INT(fl_get_u16(m.payload), 1);
    conn->id = fl_get_u32(m.payload + 2);
    CHECK(conn->id != 0);
    free(m.payload);
}

void
conn_close(struct conn *conn)
{
    fl_os_close(conn->fd);
    conn->fd = -1;
}

uint32_t
call(struct conn *conn, uint32_t dst, uint32_t handle, uint32_t stream,
     const void *payload, size_t size)
{
    const struct fl_frame frame = {
        .dst_id = dst,
        .src_id = conn->id,
        .handle = handle,
        .reply_to = conn->next_handle++,
        .stream = stream,
    };

    send_frame(conn->fd, &frame, payload, size);
    return frame.reply_to;
}

void
nothing_came(struct conn *conn)
{
    const uint32_t handle = call(conn, 0, FL_H_PING, 0, "?", 1);
    const struct message m = receive_for(conn->fd, handle);

    CHECK_INT(m.frame.length, 2);
    CHECK_INT(m.payload[0], FL_K_PONG);
    CHECK_INT(m.payload[1], '?');
    free(m.payload);
}

void
fence(struct conn *conn)
{
    nothing_came(conn);
}

char *
status_text(struct conn *conn)
{
    return (char *)receive_for(conn->fd,
                               call(conn, 0, FL_H_STATUS, 0, NULL, 0))
        .payload;
}

long
status_number(struct conn *conn, const char *name)
{
    char *text = status_text(conn), *rest = NULL;
    long value = -1;

    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest))
    {
        const size_t size = strlen(name);

        if (strncmp(line, name, size) == 0 && line[size] == ' ') {
            value = strtol(line + size, NULL, 10);
        }
    }
    free(text);
    return value;
}

void
wait_for_status(struct conn *conn, const char *name, long value)
{
    const uint64_t until = fl_os_now_ms() + DEADLINE_MS;
    long got;

    while ((got = status_number(conn, name)) != value) {
        if (fl_os_now_ms() > until) {
            runner_fail(__FILE__, __LINE__, "%s stays %ld, not %ld", name, got,
                        value);
        }
        (void)poll(NULL, 0, 5);
    }
}

uint32_t
attach(struct conn *conn, char key, bool lease)
{
    uint8_t payload[33];

    memset(payload, key, 32);
    payload[32] = lease;
    return call(conn, 0, FL_H_ATTACH, 0, payload, sizeof(payload));
}

uint32_t
attached(struct conn *conn, uint32_t handle, uint8_t state)
{
    const struct message m = receive_for(conn->fd, handle);
    const uint32_t id = fl_get_u32(m.payload + 1);

    CHECK(m.frame.length >= 9);
    CHECK_INT(m.frame.flags, FL_F_LAST);
    CHECK_INT(m.payload[0], state);
    CHECK_INT(id != 0, state == FL_A_FOUND);
    free(m.payload);
    return id;
}

/* Agents */

static pid_t
start_ssh(bool ignores_term)
{
    const pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ignores_term) {
        (void)signal(SIGTERM, SIG_IGN);
    }
    /* It holds nothing: the test holds the far end of the wire. */
    for (int fd = 3; fd < 256; fd++) {
        (void)close(fd);
    }
    for (;;) {
        (void)pause();
    }
}

static size_t
open_payload(const struct agent_options *o, uint8_t flags, pid_t pid,
             uint8_t *out)
{
    const char *label = o->label != NULL ? o->label : "web1";
    const size_t size = strlen(label);

    memset(out, o->key != 0 ? o->key : 'k', 32);
    memset(out + 32, o->alias, 32);
    out[64] = flags;
    fl_put_u32(out + 65, (uint32_t)pid);
    fl_put_u32(out + 69, o->persist);
    fl_put_u16(out + 73, (uint16_t)size);
    memcpy(out + 75, label, size);
    return 75 + size;
}

static uint8_t
open_flags(const struct agent_options *o)
{
    return (uint8_t)((o->no_stderr ? 0 : 1) | (o->no_process ? 0 : 2)
                     | (o->bound ? 4 : 0) | (o->alias != 0 ? 8 : 0)
                     | (o->owner != 0 ? 16 : 0) | (o->is_private ? 32 : 0));
}

uint32_t
agent_send_open(struct conn *conn, const struct agent_options *options,
                struct fake_agent *ret)
{
    const struct agent_options none = {0};
    const struct agent_options *o = options != NULL ? options : &none;
    struct fl_frame frame = {.src_id = conn->id,
                             .handle = FL_H_OPEN,
                             .reply_to = conn->next_handle++};
    uint8_t header[FL_HEADER_SIZE], payload[512];
    struct iovec iov[2] = {{header, sizeof(header)}, {payload, 0}};
    int wire[2], errors[2], fds[5];
    size_t count = 2;

    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire), 0);
    CHECK_INT(pipe2(errors, O_CLOEXEC), 0);
    *ret = (struct fake_agent){.wire = wire[1], .errors = errors[1]};
    fds[0] = fds[1] = wire[0];
    if (!o->no_stderr) {
        fds[count++] = errors[0];
    }
    if (!o->no_process) {
        ret->ssh = start_ssh(o->ignores_term);
        fds[count] = fl_os_pidfd_open(ret->ssh);
        CHECK(fds[count++] >= 0);
    }
    if (o->owner != 0) {
        fds[count] = fl_os_pidfd_open(o->owner);
        CHECK(fds[count++] >= 0);
    }
    iov[1].iov_len = open_payload(o, open_flags(o), ret->ssh, payload);
    frame.length = (uint32_t)iov[1].iov_len;
    fl_frame_encode(&frame, header);
    CHECK(fl_os_send(conn->fd, iov, 2, fds, count) > 0);
    fl_os_close(wire[0]);
    fl_os_close(errors[0]);
    while (count > (o->no_stderr ? 2 : 3)) {
        fl_os_close(fds[--count]);
    }
    return frame.reply_to;
}

void
agent_open(struct conn *conn, const struct agent_options *options,
           struct fake_agent *ret)
{
    const uint32_t handle = agent_send_open(conn, options, ret);
    struct message m = receive_for(conn->fd, handle);

    CHECK_INT(m.frame.length, 4);
    ret->id = fl_get_u32(m.payload);
    free(m.payload);
    m = receive_for(ret->wire, FL_H_HELLO);
    CHECK_INT(m.frame.dst_id, ret->id);
    CHECK_INT(m.frame.length, 8);
    CHECK_INT(fl_get_u16(m.payload), 1);
    CHECK_INT(fl_get_u16(m.payload + 2), 1);
    CHECK_INT(fl_get_u32(m.payload + 4), ret->id);
    free(m.payload);
}

void
agent_hello(const struct fake_agent *agent, char nonce)
{
    uint8_t hello[23] = {0, 1};

    memset(hello + 2, nonce, 16);
    memcpy(hello + 18, "facts", 5);
    tell_mux(agent, FL_H_HELLO, 0, hello, sizeof(hello));
}

void
reply(const struct fake_agent *agent, const struct conn *conn, uint32_t handle,
      uint32_t stream, uint8_t flags, const void *payload, size_t size)
{
    const struct fl_frame frame = {
        .flags = flags,
        .dst_id = conn->id,
        .src_id = agent->id,
        .auth_id = agent->id,
        .handle = handle,
        .stream = stream,
    };

    send_frame(agent->wire, &frame, payload, size);
}

uint32_t
ping_begin(struct conn *conn, const struct fake_agent *agent)
{
    uint32_t handle = call(conn, agent->id, FL_H_PING, 0, NULL, 0);

    free(receive(agent->wire).payload);
    return handle;
}

void
ping_end(const struct fake_agent *agent, const struct conn *conn,
         uint32_t handle)
{
    reply(agent, conn, handle, 0, FL_F_LAST, "\4", 1);
    free(receive_for(conn->fd, handle).payload);
}

void
tell_mux(const struct fake_agent *agent, uint32_t handle, uint32_t reply_to,
         const void *payload, size_t size)
{
    const struct fl_frame frame = {
        .src_id = agent->id,
        .auth_id = agent->id,
        .handle = handle,
        .reply_to = reply_to,
    };

    send_frame(agent->wire, &frame, payload, size);
}

void
agent_kill(struct fake_agent *agent)
{
    if (agent->ssh > 0) {
        CHECK_INT(kill(agent->ssh, SIGKILL), 0);
        CHECK_INT(waitpid(agent->ssh, NULL, 0), agent->ssh);
        agent->ssh = 0;
    }
}

void
agent_close(struct fake_agent *agent)
{
    fl_os_close(agent->wire);
    fl_os_close(agent->errors);
    agent_kill(agent);
}

void
set_up(struct setup *s, const struct fl_mux_config *config)
{
    mux_start(&s->mux, config);
    conn_open(&s->mux, &s->conn);
    agent_open(&s->conn, NULL, &s->agent);
}

void
tear_down(struct setup *s)
{
    agent_close(&s->agent);
    conn_close(&s->conn);
    mux_stop(&s->mux);
}
