/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Micro-benchmark of the mux: bench_mux [--json] [--pairs N] [NAME...]
 *
 * A client on the mux's UNIX socket talks to an agent that was handed over
 * with OPEN. Each figure is measured in turn with a bare relay between the
 * same kernel objects: two processes, one a direction, that do nothing but
 * read(128 KiB) and write. The same client and agent code drives both. The
 * ratio of rates is that of their medians; the one of round trips is the
 * median of the pairs' ratios. Other work on the machine distorts all of
 * them; the ratio of the processor time that client, agent and what is between
 * them took together says how far.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "err.h"
#include "frame.h"
#include "mux.h"
#include "os.h"

#define HANDLE 1001
#define GREETING (FL_HEADER_SIZE + 8)
#define PAIRS_MAX 101

enum how {
    HOW_MUX,
    HOW_RELAY,
};

/* What is measured: frames of `frame_size`, `batch` of them a write. */
struct scenario {
    const char *name;
    const char *unit;
    size_t frame_size, batch;
    size_t frames;
    bool round_trip;
    double goal_ratio, goal_rate; /* 0: none */
};

static const struct scenario scenarios[] = {
    {"64 B frames, one write each", "frames/s", 64, 1, 300000, false, 0.9, 0},
    {"64 B frames, 64 KiB a write", "frames/s", 64, 1024, 10240000, false, 0,
     1e7},
    {"128 KiB frames", "bytes/s", 32 + 131072, 1, 8000, false, 0.9, 0},
    {"round trip, 64 B", "us", 64, 1, 8000, true, 1.3, 0},
};

/* One way from client to agent, and the processes that make it. */
struct path {
    int client_fd;
    uint32_t client_id, agent_id;
    pid_t pids[3];
    size_t pid_count;
};

static void
fail(const char *what)
{
    (void)fprintf(stderr, "bench_mux: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void
write_all(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        const ssize_t n = write(fd, at, size);

        if (n < 0) {
            fail("write");
        }
        at += n;
        size -= (size_t)n;
    }
}

/* False at the end of the stream. */
static bool
read_all(int fd, void *data, size_t size)
{
    char *at = data;

    while (size > 0) {
        const ssize_t n = read(fd, at, size);

        if (n <= 0) {
            return false;
        }
        at += n;
        size -= (size_t)n;
    }
    return true;
}

/* The agent's end */

static void
answer_frame(uint8_t *out, const uint8_t *request, size_t size)
{
    const struct fl_frame frame = {
        .dst_id = fl_get_u32(request + 8),
        .src_id = fl_get_u32(request + 4),
        .auth_id = fl_get_u32(request + 4),
        .handle = HANDLE,
        .length = (uint32_t)(size - FL_HEADER_SIZE),
    };

    memset(out, 0, size);
    fl_frame_encode(&frame, out);
}

static void
echo_frames(int fd, const struct scenario *s)
{
    uint8_t in[64], out[64];

    for (size_t i = 0; i < s->frames; i++) {
        if (!read_all(fd, in, sizeof(in))) {
            _exit(1);
        }
        answer_frame(out, in, sizeof(out));
        write_all(fd, out, sizeof(out));
    }
}

/* Reads everything, then answers once with a 64-byte frame. */
static void
swallow_frames(int fd, const struct scenario *s)
{
    uint8_t *data = malloc(FL_CHUNK_SIZE), first[FL_HEADER_SIZE] = {0};
    uint8_t out[64];
    size_t left = s->frames * s->frame_size;
    bool begun = false;

    while (left > 0) {
        const ssize_t n = read(fd, data, FL_CHUNK_SIZE);

        if (n <= 0) {
            _exit(1);
        }
        if (!begun && n >= (ssize_t)sizeof(first)) {
            memcpy(first, data, sizeof(first));
            begun = true;
        }
        left -= (size_t)n;
    }
    answer_frame(out, first, sizeof(out));
    write_all(fd, out, sizeof(out));
    free(data);
}

static pid_t
start_agent(int fd, int other, const struct scenario *s)
{
    uint8_t greeting[GREETING];
    const pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)close(other);
    if (!read_all(fd, greeting, sizeof(greeting))) {
        _exit(1);
    }
    (s->round_trip ? echo_frames : swallow_frames)(fd, s);
    /* Stays until the other end closes, so that nobody dies meanwhile. */
    (void)read(fd, greeting, 1);
    _exit(0);
}

/* What is between */

static int
listen_here(struct sockaddr_un *address)
{
    socklen_t size = sizeof(address->sun_family);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    /* Bound to no name, it gets one of the kernel's own. */
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (fd < 0 || bind(fd, (struct sockaddr *)address, size) < 0
        || listen(fd, 8) < 0)
    {
        fail("listen");
    }
    size = sizeof(*address);
    if (getsockname(fd, (struct sockaddr *)address, &size) < 0) {
        fail("getsockname");
    }
    return fd;
}

static int
connect_to(int listen_fd)
{
    struct sockaddr_un address;
    socklen_t size = sizeof(address);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0
        || getsockname(listen_fd, (struct sockaddr *)&address, &size) < 0
        || connect(fd, (const struct sockaddr *)&address, size) < 0)
    {
        fail("connect");
    }
    return fd;
}

static pid_t
start_mux(int listen_fd)
{
    const struct fl_mux_config config = {.listen_fd = listen_fd,
                                         .idle_seconds = 30};
    struct fl_mux *mux;
    const pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(fl_mux_new(&config, &mux) < 0 || fl_mux_run(mux) < 0);
}

static pid_t
start_relay(int from, int to)
{
    const pid_t pid = fork();
    char *data;

    if (pid != 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    data = malloc(FL_CHUNK_SIZE);
    for (;;) {
        const ssize_t n = read(from, data, FL_CHUNK_SIZE);

        if (n <= 0) {
            _exit(0);
        }
        write_all(to, data, (size_t)n);
    }
}

/* The client's end */

static void
send_request(int fd, uint32_t src_id, uint32_t handle, const void *payload,
             size_t size, const int *fds, size_t fd_count)
{
    const struct fl_frame frame = {.src_id = src_id,
                                   .handle = handle,
                                   .reply_to = HANDLE,
                                   .length = (uint32_t)size};
    uint8_t header[FL_HEADER_SIZE];
    const struct iovec iov[2] = {
        {.iov_base = header, .iov_len = sizeof(header)},
        {.iov_base = (void *)(uintptr_t)payload, .iov_len = size}};

    fl_frame_encode(&frame, header);
    if (fl_os_send(fd, iov, 2, fds, fd_count)
        != (ssize_t)(sizeof(header) + size)) {
        fail("request");
    }
}

/* The last four bytes of an answer: the id in it. */
static uint32_t
receive_id(int fd, size_t payload_size)
{
    uint8_t answer[FL_HEADER_SIZE + 8];

    if (!read_all(fd, answer, FL_HEADER_SIZE + payload_size)
        || fl_get_u32(answer + 28) != payload_size)
    {
        fail("answer");
    }
    return fl_get_u32(answer + FL_HEADER_SIZE + payload_size - 4);
}

static void
open_agent(struct path *path, int wire)
{
    uint8_t hello[8] = {0, 1, 0, 1}, open[64 + 11] = {0};
    const int fds[2] = {wire, wire};

    send_request(path->client_fd, 0, FL_H_HELLO, hello, sizeof(hello), NULL,
                 0);
    path->client_id = receive_id(path->client_fd, 6);
    send_request(path->client_fd, path->client_id, FL_H_OPEN, open,
                 sizeof(open), fds, 2);
    path->agent_id = receive_id(path->client_fd, 4);
}

static struct path
make_path(enum how how, const struct scenario *s)
{
    static const uint8_t greeting[GREETING];
    struct path path = {.client_id = 1, .agent_id = 2};
    struct sockaddr_un address;
    const int listen_fd = listen_here(&address);
    int wire[2], accepted = -1;

    if (how == HOW_MUX) {
        path.pids[path.pid_count++] = start_mux(listen_fd);
    }
    path.client_fd = connect_to(listen_fd);
    if (how == HOW_RELAY) {
        accepted = accept(listen_fd, NULL, NULL);
    }
    (void)close(listen_fd);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, wire) < 0) {
        fail("socketpair");
    }
    path.pids[path.pid_count++] = start_agent(wire[1], wire[0], s);
    (void)close(wire[1]);
    if (how == HOW_MUX) {
        open_agent(&path, wire[0]);
    }
    else {
        path.pids[path.pid_count++] = start_relay(accepted, wire[0]);
        path.pids[path.pid_count++] = start_relay(wire[0], accepted);
        (void)close(accepted);
        write_all(path.client_fd, greeting, sizeof(greeting));
    }
    (void)close(wire[0]);
    return path;
}

static double
cpu_seconds(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec)
           + (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

/* Ends its processes; the processor time that they took, in seconds. */
static double
end_path(struct path *path)
{
    double cpu = 0;

    (void)close(path->client_fd);
    for (size_t i = 0; i < path->pid_count; i++) {
        struct rusage usage;

        (void)kill(path->pids[i], SIGKILL);
        if (wait4(path->pids[i], NULL, 0, &usage) < 0) {
            fail("wait4");
        }
        cpu += cpu_seconds(&usage);
    }
    return cpu;
}

static void
fill_frames(const struct path *path, const struct scenario *s, uint8_t *out)
{
    const struct fl_frame frame = {
        .dst_id = path->agent_id,
        .src_id = path->client_id,
        .handle = FL_H_DATA,
        .length = (uint32_t)(s->frame_size - FL_HEADER_SIZE),
    };

    for (size_t i = 0; i < s->batch; i++) {
        fl_frame_encode(&frame, out + i * s->frame_size);
    }
}

/* Seconds from the first write to the agent's answer to the last one. */
static double
time_stream(const struct path *path, const struct scenario *s)
{
    uint8_t *data = calloc(s->batch, s->frame_size), answer[64];
    uint64_t start;

    fill_frames(path, s, data);
    start = fl_os_now_us();
    for (size_t sent = 0; sent < s->frames; sent += s->batch) {
        if (sent + s->batch >= s->frames) {
            fl_put_u32(data + (s->batch - 1) * s->frame_size + 20, HANDLE);
        }
        write_all(path->client_fd, data, s->batch * s->frame_size);
    }
    if (!read_all(path->client_fd, answer, sizeof(answer))) {
        fail("no answer");
    }
    free(data);
    return (double)(fl_os_now_us() - start) / 1e6;
}

static double
time_round_trips(const struct path *path, const struct scenario *s)
{
    uint8_t data[64] = {0}, answer[64];
    uint64_t start;

    fill_frames(path, s, data);
    fl_put_u32(data + 20, HANDLE);
    start = fl_os_now_us();
    for (size_t i = 0; i < s->frames; i++) {
        write_all(path->client_fd, data, sizeof(data));
        if (!read_all(path->client_fd, answer, sizeof(answer))) {
            fail("no answer");
        }
    }
    return (double)(fl_os_now_us() - start) / 1e6;
}

/* One measurement: in the scenario's unit, and in seconds of processor time.
 */
struct sample {
    double value, cpu;
};

static struct sample
measure(enum how how, const struct scenario *s)
{
    struct path path = make_path(how, s);
    struct rusage before, after;
    struct sample sample;
    double seconds;

    (void)getrusage(RUSAGE_SELF, &before);
    seconds = s->round_trip ? time_round_trips(&path, s)
                            : time_stream(&path, s);
    (void)getrusage(RUSAGE_SELF, &after);
    sample.cpu = cpu_seconds(&after) - cpu_seconds(&before) + end_path(&path);
    if (s->round_trip) {
        sample.value = seconds * 1e6 / (double)s->frames;
    }
    else {
        sample.value = (double)s->frames / seconds
                       * (strcmp(s->unit, "bytes/s") == 0
                              ? (double)s->frame_size
                              : 1.0);
    }
    return sample;
}

static int
compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double
median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

struct result {
    double mux, relay, ratio, cpu_ratio;
    bool met;
};

static struct result
compare_in_turn(const struct scenario *s, size_t pairs)
{
    double mux[PAIRS_MAX], relay[PAIRS_MAX], ratio[PAIRS_MAX], cpu[PAIRS_MAX];
    struct result result;

    for (size_t i = 0; i < pairs; i++) {
        const struct sample with_relay = measure(HOW_RELAY, s);
        const struct sample with_mux = measure(HOW_MUX, s);

        relay[i] = with_relay.value;
        mux[i] = with_mux.value;
        ratio[i] = mux[i] / relay[i];
        cpu[i] = with_mux.cpu / with_relay.cpu;
    }
    result.cpu_ratio = median(cpu, pairs);
    result.mux = median(mux, pairs);
    result.relay = median(relay, pairs);
    result.ratio = s->round_trip ? median(ratio, pairs)
                                 : result.mux / result.relay;
    result.met = s->round_trip ? result.ratio <= s->goal_ratio
                               : result.ratio >= s->goal_ratio
                                     && result.mux >= s->goal_rate;
    return result;
}

static void
print_result(const struct scenario *s, const struct result *r, bool json,
             bool first)
{
    if (json) {
        (void)printf("%s\n  {\"name\": \"%s\", \"unit\": \"%s\", \"mux\": "
                     "%.6g, \"relay\": %.6g, \"ratio\": %.4f, "
                     "\"cpu_ratio\": %.4f, \"goal_ratio\": %g, "
                     "\"goal\": %g, \"met\": %s}",
                     first ? "" : ",", s->name, s->unit, r->mux, r->relay,
                     r->ratio, r->cpu_ratio, s->goal_ratio, s->goal_rate,
                     r->met ? "true" : "false");
    }
    else {
        (void)printf("%-28s mux %11.6g  relay %11.6g %-8s  ratio %.3f  cpu "
                     "ratio %.3f  %s\n",
                     s->name, r->mux, r->relay, s->unit, r->ratio,
                     r->cpu_ratio, r->met ? "met" : "MISSED");
    }
    (void)fflush(stdout);
}

static bool
is_wanted(const struct scenario *s, char **names, int count)
{
    for (int i = 0; i < count; i++) {
        if (strstr(s->name, names[i]) != NULL) {
            return true;
        }
    }
    return count == 0;
}

int
main(int argc, char **argv)
{
    bool json = false, first = true, met = true;
    size_t pairs = 15;
    int at = 1;

    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "--json") == 0) {
            json = true;
        }
        else if (strcmp(argv[at], "--pairs") == 0 && at + 1 < argc) {
            pairs = strtoul(argv[++at], NULL, 10);
        }
    }
    pairs = pairs < 1 || pairs > PAIRS_MAX ? PAIRS_MAX : pairs;
    (void)printf("%s", json ? "[" : "");
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        if (is_wanted(&scenarios[i], argv + at, argc - at)) {
            const struct result r = compare_in_turn(&scenarios[i], pairs);

            print_result(&scenarios[i], &r, json, first);
            first = false;
            met &= r.met;
        }
    }
    (void)printf("%s", json ? "\n]\n" : "");
    return met ? EXIT_SUCCESS : EXIT_FAILURE;
}
