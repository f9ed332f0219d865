/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The mux's message decoders on any bytes. A mux runs in a thread; for each
 * input a client says HELLO, opens an agent and calls it, and then the rest
 * of the input is said by the client (first byte even) or the agent (odd).
 * In whole frames the ids 1 and 2 become the client's and the agent's own. The
 * mux must then still let both go.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frame.h"
#include "mux.h"
#include "os.h"

#define DEADLINE_MS 10000

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The mux of the moment; it ends when an input says STOP. */
static struct {
    int running;
    pthread_t thread;
    struct sockaddr_un address;
    socklen_t address_size;
} mux;

static void
must(int condition)
{
    if (!condition) {
        abort();
    }
}

static void *
serve(void *data)
{
    struct fl_mux *served = data;

    must(fl_mux_run(served) == 0);
    fl_mux_free(served);
    return NULL;
}

static void
start_mux(void)
{
    struct fl_mux_config config = {.idle_seconds = 1000000};
    struct fl_mux *served;

    (void)signal(SIGPIPE, SIG_IGN);
    config.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mux.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    /* Bound to no name, it gets one of the kernel's own. */
    must(bind(config.listen_fd, (struct sockaddr *)&mux.address,
              sizeof(mux.address.sun_family))
         == 0);
    must(listen(config.listen_fd, 16) == 0);
    mux.address_size = sizeof(mux.address);
    must(getsockname(config.listen_fd, (struct sockaddr *)&mux.address,
                     &mux.address_size)
         == 0);
    must(fl_mux_new(&config, &served) == 0);
    must(pthread_create(&mux.thread, NULL, serve, served) == 0);
    mux.running = 1;
}

static int
connect_once(void)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&mux.address, mux.address_size) < 0) {
        fl_os_close(fd);
        return -1;
    }
    return fd;
}

static int
connect_or_start(void)
{
    int fd = mux.running ? connect_once() : -1;

    if (fd >= 0) {
        return fd;
    }
    if (mux.running) {
        must(pthread_join(mux.thread, NULL) == 0);
    }
    start_mux();
    fd = connect_once();
    must(fd >= 0);
    return fd;
}

static void
put(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        const ssize_t n = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        /* Refused, or waiting for somebody who does not read: enough. */
        if (n < 0 && (errno != EAGAIN || poll(&ready, 1, 20) == 0)) {
            return;
        }
        at += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

static void
send_frame(int fd, struct fl_frame frame, const void *payload, size_t size,
           const int *fds, size_t fd_count)
{
    uint8_t header[FL_HEADER_SIZE];
    const struct iovec iov[2] = {{header, sizeof(header)},
                                 {(void *)(uintptr_t)payload, size}};

    frame.length = (uint32_t)size;
    fl_frame_encode(&frame, header);
    (void)fl_os_send(fd, iov, 2, fds, fd_count);
}

/* The last four bytes of the answer: an id. 0 if there is none. */
static uint32_t
receive_id(int fd, size_t payload_size)
{
    uint8_t data[FL_HEADER_SIZE + 8];
    const ssize_t size = (ssize_t)(FL_HEADER_SIZE + payload_size);

    if (recv(fd, data, (size_t)size, MSG_WAITALL) != size) {
        return 0;
    }
    return fl_get_u32(data + size - 4);
}

/* Throws away what comes, until the other side closes. */
static void
read_to_end(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    char data[65536];
    int got;

    do {
        do {
            got = poll(&ready, 1, DEADLINE_MS);
        } while (got < 0 && errno == EINTR); /* libFuzzer has timers */
        must(got == 1);                      /* or the mux hangs */
    } while (read(fd, data, sizeof(data)) > 0);
}

static void
translate(uint8_t *field, uint32_t client_id, uint32_t agent_id)
{
    const uint32_t id = fl_get_u32(field);

    if (id == 1 || id == 2) {
        fl_put_u32(field, id == 1 ? client_id : agent_id);
    }
}

static void
translate_all(uint8_t *data, size_t size, uint32_t client_id,
              uint32_t agent_id)
{
    struct fl_frame frame;

    while (fl_frame_decode(data, size, &frame) == 1
           && size >= FL_HEADER_SIZE + frame.length)
    {
        translate(data + 4, client_id, agent_id);
        translate(data + 8, client_id, agent_id);
        translate(data + 12, client_id, agent_id);
        data += FL_HEADER_SIZE + frame.length;
        size -= FL_HEADER_SIZE + frame.length;
    }
}

static void
play(int fd, int wire[2], const uint8_t *data, size_t size)
{
    static const uint8_t hello[8] = {0, 1, 0, 1};
    uint8_t open[64 + 11] = {[0] = 'k', [71] = 1};
    uint8_t *copy = malloc(size);
    uint32_t client_id, agent_id;

    send_frame(fd, (struct fl_frame){.handle = FL_H_HELLO, .reply_to = 1},
               hello, sizeof(hello), NULL, 0);
    client_id = receive_id(fd, 6);
    send_frame(fd,
               (struct fl_frame){
                   .src_id = client_id, .handle = FL_H_OPEN, .reply_to = 1},
               open, sizeof(open), (int[]){wire[0], wire[0]}, 2);
    fl_os_close(wire[0]);
    agent_id = receive_id(fd, 4);
    send_frame(fd,
               (struct fl_frame){.dst_id = agent_id,
                                 .src_id = client_id,
                                 .handle = FL_H_PING,
                                 .reply_to = 1999,
                                 .stream = 7},
               NULL, 0, NULL, 0);
    memcpy(copy, data + 1, size - 1);
    translate_all(copy, size - 1, client_id, agent_id);
    put(data[0] % 2 == 0 ? fd : wire[1], copy, size - 1);
    free(copy);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int wire[2], fd;

    if (size < 2) {
        return 0;
    }
    fd = connect_or_start();
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire) == 0);
    play(fd, wire, data, size);
    (void)shutdown(wire[1], SHUT_WR);
    read_to_end(wire[1]);
    (void)shutdown(fd, SHUT_WR);
    read_to_end(fd);
    fl_os_close(wire[1]);
    fl_os_close(fd);
    /* The mux made the process undumpable; the leak checker needs it so. */
    (void)prctl(PR_SET_DUMPABLE, 1);
    return 0;
}
