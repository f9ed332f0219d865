/* SPDX-License-Identifier: BSD-3-Clause */
/* The answer to STATUS: lines of "name value". */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mux_internal.h"
#include "os.h"

#ifndef FL_RELEASE
#define FL_RELEASE "unknown"
#endif

/*
 * A process that made itself undumpable may still read its own /proc files,
 * and nobody else may: so the mux measures itself (systems fact 9).
 */
static long
read_kb(const char *path, const char *field)
{
    FILE *file = fopen(path, "re");
    char line[128];
    long kb = -1;

    if (file == NULL) {
        return -1;
    }
    while (kb < 0 && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0) {
            kb = strtol(line + strlen(field), NULL, 10);
        }
    }
    (void)fclose(file); /* it was only read */
    return kb;
}

struct traffic {
    uint64_t in, out, up, down;
};

static struct traffic
count_traffic(const struct fl_mux *mux)
{
    struct traffic sum = {mux->bytes_in, mux->bytes_out, mux->wire_up,
                          mux->wire_down};
    const struct fl_list *heads[] = {&mux->clients, &mux->agents};

    for (size_t i = 0; i < 2; i++) {
        FL_LIST_EACH (node, after, heads[i]) {
            const struct peer *peer = FL_LIST_ENTRY(node, struct peer, of_mux);
            const uint64_t in = fl_stream_received(peer->stream);
            const uint64_t out = fl_stream_written(peer->stream);

            sum.in += in;
            sum.out += out;
            sum.up += peer->side == FL_SIDE_AGENT ? out : 0;
            sum.down += peer->side == FL_SIDE_AGENT ? in : 0;
        }
    }
    return sum;
}

static void
print_numbers(FILE *out, const struct fl_mux *mux)
{
    const struct traffic sum = count_traffic(mux);
    const struct {
        const char *name;
        uint64_t value;
    } lines[] = {
        {"pid", (uint64_t)getpid()},
        {"uptime_s", (fl_os_now_ms() - mux->started) / 1000},
        {"clients", mux->client_count},
        {"agents", mux->agent_count},
        {"bindings", mux->binding_count},
        {"blobs", fl_blobs_count(mux->blobs)},
        {"blob_bytes", fl_blobs_bytes(mux->blobs)},
        {"frames_in", mux->frames_in},
        {"frames_out", mux->frames_out},
        {"bytes_in", sum.in},
        {"bytes_out", sum.out},
        {"wire_bytes_up", sum.up},
        {"wire_bytes_down", sum.down},
        {"dropped_frames", mux->dropped_frames},
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        (void)fprintf(out, "%s %" PRIu64 "\n", lines[i].name, lines[i].value);
    }
}

/* A label may hold spaces, a field of a line may not. */
static void
print_label(FILE *out, const char *label)
{
    if (label[0] == '\0') {
        (void)fputs("-", out);
    }
    for (; *label != '\0'; label++) {
        (void)fputs(*label == ' ' ? "\\x20" : (char[]){*label, '\0'}, out);
    }
}

static void
print_agent(FILE *out, const struct agent *agent)
{
    (void)fprintf(out, "agent %u ", (unsigned)peer_id(&agent->peer));
    print_label(out, agent->label);
    (void)fprintf(out,
                  " pid %ld idle_ms %" PRIu64 " up %" PRIu64 " down %" PRIu64
                  " calls %" PRIu64 "\n",
                  (long)agent->pid, fl_os_now_ms() - agent->last_input,
                  fl_stream_written(agent->peer.stream),
                  fl_stream_received(agent->peer.stream), agent->calls);
}

int
mux_status(struct fl_mux *mux, char **ret_text, size_t *ret_size)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL) {
        return -errno;
    }
    (void)fprintf(out, "version %s\nloop %s\n", FL_RELEASE, fl_loop_backend());
    print_numbers(out, mux);
    (void)fprintf(out, "rss_kb %ld\npss_kb %ld\n",
                  read_kb("/proc/self/status", "VmRSS:"),
                  read_kb("/proc/self/smaps_rollup", "Pss:"));
    (void)fprintf(out, "last_error %s\n", mux->last_error);
    FL_LIST_EACH (node, after, &mux->agents) {
        print_agent(out, peer_agent(FL_LIST_ENTRY(node, struct peer, of_mux)));
    }
    /* A memory stream fails only for want of memory, and says so here. */
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret_text = text;
    *ret_size = size < FL_PAYLOAD_MAX ? size : FL_PAYLOAD_MAX;
    return 0;
}
