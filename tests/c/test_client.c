/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "err.h"
#include "os.h"
#include "runner.h"
#include "support.h"

#define SECONDS(count) ((uint64_t)(count)*1000000u)

/* A client and the socket behind which its mux would be. */
struct pair {
    struct fl_client *client;
    int peer;
};

static struct pair
new_pair(void)
{
    struct pair pair = {NULL, -1};
    int fds[2];

    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_INT(fl_client_new(fds[0], &pair.client), 0);
    pair.peer = fds[1];
    return pair;
}

static void
free_pair(struct pair *pair)
{
    fl_client_free(pair->client);
    CHECK_INT(close(pair->peer), 0);
}

static uint64_t
soon(void)
{
    return fl_os_now_us() + SECONDS(10);
}

static void
write_exactly(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        const ssize_t put = write(fd, at, size);

        CHECK(put > 0);
        at += put;
        size -= (size_t)put;
    }
}

static void
read_exactly(int fd, void *data, size_t size)
{
    uint8_t *at = data;

    while (size > 0) {
        const ssize_t got = read(fd, at, size);

        CHECK(got > 0);
        at += got;
        size -= (size_t)got;
    }
}

static void
peer_send(int peer, struct fl_frame frame, const void *payload, size_t size)
{
    uint8_t header[FL_HEADER_SIZE];

    frame.length = (uint32_t)size;
    fl_frame_encode(&frame, header);
    write_exactly(peer, header, sizeof(header));
    write_exactly(peer, payload, size);
}

/* Reads one frame; its payload is to be freed. */
static uint8_t *
peer_recv(int peer, struct fl_frame *ret)
{
    uint8_t header[FL_HEADER_SIZE], *payload;

    read_exactly(peer, header, sizeof(header));
    CHECK_INT(fl_frame_decode(header, sizeof(header), ret), 1);
    payload = malloc(ret->length + 1);
    read_exactly(peer, payload, ret->length);
    return payload;
}

static int
send_bytes(struct fl_client *client, const void *data, size_t size,
           uint64_t deadline, bool *ret_started)
{
    const struct iovec iov = {.iov_base = (void *)(uintptr_t)data,
                              .iov_len = size};
    const struct fl_outgoing outgoing = {
        .frame = {.dst_id = 3, .handle = FL_H_DATA, .stream = 1},
        .payload = &iov,
        .payload_count = 1,
    };

    return fl_client_send(client, &outgoing, deadline, ret_started);
}

static uint32_t
open_handle(struct fl_client *client)
{
    uint32_t handle = 0;

    CHECK_INT(fl_client_open(client, 0, &handle), 0);
    return handle;
}

static void
check_next(struct fl_client *client, uint32_t handle, const char *text)
{
    struct fl_message *message = NULL;

    CHECK_INT(fl_client_recv(client, handle, soon(), &message), 0);
    CHECK_INT(message->frame.length, strlen(text));
    CHECK_MEM(message->payload, text, strlen(text));
    free(message);
}

TEST(hello_and_welcome)
{
    struct pair pair = new_pair();
    uint8_t hello[FL_CLIENT_HELLO_SIZE], welcome[6];
    struct fl_message *answer = calloc(1, sizeof(*answer) + sizeof(welcome));

    fl_client_hello(hello);
    CHECK_INT(fl_get_u16(hello), FL_VERSION);
    CHECK_INT(fl_get_u16(hello + 2), FL_VERSION);
    CHECK_INT(fl_get_u32(hello + 4), getpid());
    answer->frame.length = sizeof(welcome);
    fl_put_u16(answer->payload, FL_VERSION + 1);
    fl_put_u32(answer->payload + 2, 77);
    CHECK_INT(fl_client_welcome(pair.client, answer), FL_ENEGOTIATE);
    CHECK_INT(fl_client_id(pair.client), 0);
    fl_put_u16(answer->payload, FL_VERSION);
    answer->frame.length = 5;
    CHECK_INT(fl_client_welcome(pair.client, answer), FL_EMALFORMED);
    answer->frame.length = 6;
    answer->frame.reply_to = FL_H_IS_DEAD;
    CHECK_INT(fl_client_welcome(pair.client, answer), FL_ENEGOTIATE);
    answer->frame.reply_to = 0;
    CHECK_INT(fl_client_welcome(pair.client, answer), 0);
    CHECK_INT(fl_client_id(pair.client), 77);
    free(answer);
    free_pair(&pair);
}

TEST(frames_survive_short_and_interrupted_transfers)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    struct fl_frame frame;
    uint8_t *payload;
    bool started;

    for (size_t most = 1; most < 70; most += 3) {
        io_shorten(most, 3);
        CHECK_INT(send_bytes(pair.client, "question", 8, soon(), &started), 0);
        CHECK(started);
        io_shorten(0, 0);
        payload = peer_recv(pair.peer, &frame);
        CHECK_INT(frame.length, 8);
        CHECK_MEM(payload, "question", 8);
        free(payload);
        peer_send(pair.peer, (struct fl_frame){.handle = handle}, "answer", 6);
        io_shorten(most, 3);
        check_next(pair.client, handle, "answer");
        io_shorten(0, 0);
    }
    free_pair(&pair);
}

TEST(a_deadline_that_has_passed)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    struct fl_message *message = NULL;

    CHECK_INT(fl_client_recv(pair.client, handle, 0, &message), -ETIMEDOUT);
    CHECK(message == NULL);
    peer_send(pair.peer, (struct fl_frame){.handle = handle}, "x", 1);
    CHECK_INT(fl_client_recv(pair.client, handle, 0, &message), 0);
    free(message);
    free_pair(&pair);
}

TEST(limits_of_a_frame)
{
    struct pair pair = new_pair();
    const size_t half = FL_PAYLOAD_MAX / 2 + 1;
    uint8_t *data = calloc(1, half);
    const struct iovec halves[2] = {{data, half}, {data, half}};
    struct iovec many[FL_CLIENT_IOV_MAX + 1] = {{data, 1}};
    struct fl_outgoing outgoing = {.payload = halves, .payload_count = 2};
    bool started = true;

    CHECK_INT(fl_client_send(pair.client, &outgoing, soon(), &started),
              FL_ELENGTH);
    CHECK(!started);
    outgoing.payload = many;
    outgoing.payload_count = FL_CLIENT_IOV_MAX + 1;
    CHECK_INT(fl_client_send(pair.client, &outgoing, soon(), &started),
              FL_ELENGTH);
    free(data);
    free_pair(&pair);
}

/* Rule 13: whether a byte has left is known whatever happens. */
TEST(a_cut_frame_is_completed_by_the_next_call)
{
    struct pair pair = new_pair();
    uint8_t *large = malloc(FL_PAYLOAD_MAX), *payload;
    struct fl_frame frame;
    bool started = false;
    pid_t pid;
    int status;

    memset(large, 7, FL_PAYLOAD_MAX);
    CHECK_INT(send_bytes(pair.client, large, FL_PAYLOAD_MAX,
                         fl_os_now_us() + 50000, &started),
              -ETIMEDOUT);
    CHECK(started);
    CHECK_INT(send_bytes(pair.client, "no", 2, fl_os_now_us() + 1, &started),
              -ETIMEDOUT);
    CHECK(!started);
    pid = fork();
    if (pid == 0) {
        payload = peer_recv(pair.peer, &frame);
        CHECK_INT(frame.length, FL_PAYLOAD_MAX);
        CHECK_MEM(payload, large, FL_PAYLOAD_MAX);
        free(payload);
        payload = peer_recv(pair.peer, &frame);
        CHECK_MEM(payload, "yes", 3);
        _exit(0);
    }
    CHECK_INT(fl_client_flush(pair.client, soon()), 0);
    CHECK_INT(send_bytes(pair.client, "yes", 3, soon(), &started), 0);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    free(large);
    free_pair(&pair);
}

/* Without memory for the rest of a cut frame the connection must end. */
TEST(a_cut_frame_without_memory_ends_the_connection)
{
    struct pair pair = new_pair();
    uint8_t *large = calloc(1, FL_PAYLOAD_MAX);
    const uint32_t handle = open_handle(pair.client);
    struct fl_message *message;
    bool started = false;

    alloc_fail_after(0);
    (void)send_bytes(pair.client, large, FL_PAYLOAD_MAX,
                     fl_os_now_us() + 50000, &started);
    CHECK(started);
    CHECK(alloc_has_failed());
    CHECK(fl_client_recv(pair.client, handle, soon(), &message) < 0);
    CHECK(send_bytes(pair.client, "x", 1, soon(), &started) < 0);
    free(large);
    free_pair(&pair);
}

TEST(what_is_kept_back_leaves_with_the_next_frame)
{
    struct pair pair = new_pair();
    const struct iovec iov = {(void *)(uintptr_t) "kept", 4};
    struct fl_outgoing outgoing = {
        .payload = &iov, .payload_count = 1, .more = true};
    struct pollfd pollfd = {.fd = pair.peer, .events = POLLIN};
    struct fl_frame frame;
    bool started;

    CHECK_INT(fl_client_send(pair.client, &outgoing, soon(), &started), 0);
    CHECK(!started);
    CHECK_INT(poll(&pollfd, 1, 0), 0);
    CHECK_INT(send_bytes(pair.client, "next", 4, soon(), &started), 0);
    for (int i = 0; i < 2; i++) {
        uint8_t *payload = peer_recv(pair.peer, &frame);

        CHECK_MEM(payload, i == 0 ? "kept" : "next", 4);
        free(payload);
    }
    free_pair(&pair);
}

TEST(last_words)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    struct fl_message *message;
    char words[64];

    CHECK_STR(fl_client_last_words(pair.client, words, sizeof(words)), "");
    peer_send(pair.peer, (struct fl_frame){.reply_to = FL_H_IS_DEAD},
              "\3bad\33", 5);
    CHECK_INT(shutdown(pair.peer, SHUT_WR), 0);
    CHECK_INT(fl_client_recv(pair.client, handle, soon(), &message),
              FL_ECLOSED);
    CHECK_STR(fl_client_last_words(pair.client, words, sizeof(words)),
              "bad\\x1b");
    free_pair(&pair);
}

TEST(a_broken_frame_after_a_good_one)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    struct fl_message *message;

    peer_send(pair.peer, (struct fl_frame){.handle = handle}, "good", 4);
    write_exactly(pair.peer, "noise", 5);
    check_next(pair.client, handle, "good");
    CHECK_INT(fl_client_recv(pair.client, handle, soon(), &message),
              FL_EMAGIC);
    CHECK_INT(fl_client_recv(pair.client, handle, soon(), &message),
              FL_EMAGIC);
    free_pair(&pair);
}

TEST(every_allocation_may_fail)
{
    int fds[2];

    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    for (long count = 0; count < 3; count++) {
        struct fl_client *client = NULL;

        alloc_fail_after(count);
        CHECK_INT(fl_client_new(fds[0], &client), -ENOMEM);
        CHECK(client == NULL);
        CHECK(fcntl(fds[0], F_GETFD) >= 0);
    }
    alloc_fail_after(-1);
    close(fds[0]);
    close(fds[1]);
}

TEST(a_message_for_which_there_was_no_memory_comes_later)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    struct fl_message *message = NULL;
    int failures = 0;

    peer_send(pair.peer, (struct fl_frame){.handle = handle}, "patience", 8);
    for (long count = 0; message == NULL; count++) {
        int err;

        alloc_fail_after(count);
        err = fl_client_recv(pair.client, handle, soon(), &message);
        CHECK(err == 0 || err == -ENOMEM);
        failures += err < 0;
    }
    alloc_fail_after(-1);
    CHECK(failures >= 1);
    CHECK_MEM(message->payload, "patience", 8);
    free(message);
    free_pair(&pair);
}

/* Several threads */

struct asker {
    pthread_t thread;
    struct fl_client *client;
    unsigned seed;
    uint32_t handle;
    int rounds;
    int err;
};

#define ASKERS 6
#define QUESTION_MAX 200000

/* Deadlines are short at times, so that roles change hands in every state. */
static int
ask_once(struct asker *asker, struct random *random, const uint8_t *data)
{
    const size_t size = random_below(random, 8) == 0
                            ? random_below(random, QUESTION_MAX)
                            : random_below(random, 300);
    const struct iovec iov = {(void *)(uintptr_t)data, size};
    const struct fl_outgoing outgoing = {
        .frame = {.handle = FL_H_PING, .reply_to = asker->handle},
        .payload = &iov,
        .payload_count = 1,
    };
    const uint64_t deadline = random_below(random, 10) == 0
                                  ? fl_os_now_us() + 100
                                  : soon();
    struct fl_message *message = NULL;
    bool started;
    int err = fl_client_send(asker->client, &outgoing, deadline, &started);

    if (err == -ETIMEDOUT && !started) {
        return 0;
    }
    if (err == -ETIMEDOUT) {
        err = fl_client_flush(asker->client, soon());
    }
    while (err == 0 && message == NULL) {
        err = fl_client_recv(asker->client, asker->handle,
                             fl_os_now_us() + random_below(random, 2000),
                             &message);
        err = err == -ETIMEDOUT ? 0 : err;
    }
    if (err == 0
        && (message->frame.length != size
            || memcmp(message->payload, data, size) != 0))
    {
        err = FL_EMALFORMED;
    }
    free(message);
    return err;
}

static void *
ask(void *data)
{
    struct asker *asker = data;
    struct random random = {.state = asker->seed};
    uint8_t *question = malloc(QUESTION_MAX);

    memset(question, (int)asker->seed, QUESTION_MAX);
    for (int i = 0; i < asker->rounds && asker->err == 0; i++) {
        asker->err = ask_once(asker, &random, question);
    }
    free(question);
    return NULL;
}

static void
start_askers(struct asker *askers, struct fl_client *client, int rounds)
{
    for (unsigned i = 0; i < ASKERS; i++) {
        askers[i] = (struct asker){.client = client,
                                   .seed = i + 1,
                                   .handle = open_handle(client),
                                   .rounds = rounds};
        CHECK_INT(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
    }
}

static pid_t
start_echo(int peer)
{
    const pid_t pid = fork();

    if (pid == 0) {
        uint8_t *data = malloc(1 << 20);
        ssize_t got;

        (void)signal(SIGPIPE, SIG_DFL);
        /* Frames as they come, the reply handle made the handle. */
        for (;;) {
            uint8_t header[FL_HEADER_SIZE];
            struct fl_frame frame;
            size_t at = 0;

            got = recv(peer, header, sizeof(header), MSG_WAITALL);
            if (got < (ssize_t)sizeof(header)
                || fl_frame_decode(header, sizeof(header), &frame) != 1)
            {
                _exit(0);
            }
            while (at < frame.length
                   && (got = read(peer, data + at, frame.length - at)) > 0)
            {
                at += (size_t)got;
            }
            if (at < frame.length) {
                _exit(0);
            }
            frame.handle = frame.reply_to;
            fl_frame_encode(&frame, header);
            write_exactly(peer, header, sizeof(header));
            write_exactly(peer, data, frame.length);
        }
    }
    return pid;
}

TEST(threads_share_a_connection)
{
    struct pair pair = new_pair();
    struct asker askers[ASKERS];
    const pid_t pid = start_echo(pair.peer);

    start_askers(askers, pair.client, 400);
    for (int i = 0; i < ASKERS; i++) {
        CHECK_INT(pthread_join(askers[i].thread, NULL), 0);
        CHECK_INT(askers[i].err, 0);
    }
    CHECK_INT(kill(pid, SIGKILL), 0);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
    free_pair(&pair);
}

/* One answer proves that the threads are in the middle of their work. */
TEST(closing_ends_every_thread)
{
    struct pair pair = new_pair();
    struct asker askers[ASKERS], first;
    const pid_t pid = start_echo(pair.peer);

    start_askers(askers, pair.client, INT32_MAX);
    first = (struct asker){.client = pair.client,
                           .seed = ASKERS + 1,
                           .handle = open_handle(pair.client),
                           .rounds = 1};
    (void)ask(&first);
    CHECK_INT(first.err, 0);
    fl_client_close(pair.client);
    CHECK_INT(fl_client_fd(pair.client), -1);
    for (int i = 0; i < ASKERS; i++) {
        CHECK_INT(pthread_join(askers[i].thread, NULL), 0);
        CHECK_INT(askers[i].err, FL_ECLOSED);
    }
    CHECK_INT(kill(pid, SIGKILL), 0);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
    free_pair(&pair);
}

/* Signals */

static void
on_alarm(int number)
{
    (void)number;
}

TEST(a_signal_ends_a_wait)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    const struct sigaction action = {.sa_handler = on_alarm};
    const struct itimerval timer = {.it_value = {.tv_usec = 20000}};
    struct fl_message *message;

    CHECK_INT(sigaction(SIGALRM, &action, NULL), 0);
    CHECK_INT(setitimer(ITIMER_REAL, &timer, NULL), 0);
    CHECK_INT(fl_client_recv(pair.client, handle, soon(), &message), -EINTR);
    peer_send(pair.peer, (struct fl_frame){.handle = handle}, "on", 2);
    check_next(pair.client, handle, "on");
    free_pair(&pair);
}

/* Forks */

TEST(a_child_cannot_use_its_parents_connection)
{
    struct pair pair = new_pair();
    const uint32_t handle = open_handle(pair.client);
    int status;
    const pid_t pid = fork();

    if (pid == 0) {
        const int fd = fl_client_fd(pair.client);
        struct fl_message *message;
        uint32_t other;
        bool started;

        CHECK_INT(fl_client_open(pair.client, 0, &other), FL_EFORKED);
        CHECK_INT(fl_client_recv(pair.client, handle, 0, &message),
                  FL_EFORKED);
        CHECK_INT(send_bytes(pair.client, "x", 1, 0, &started), FL_EFORKED);
        CHECK_INT(fl_client_release(pair.client, handle), FL_EFORKED);
        fl_client_close(pair.client);
        CHECK_INT(fcntl(fd, F_GETFD), -1);
        fl_client_free(pair.client);
        _exit(0);
    }
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    peer_send(pair.peer, (struct fl_frame){.handle = handle}, "mine", 4);
    check_next(pair.client, handle, "mine");
    free_pair(&pair);
}
