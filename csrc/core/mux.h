/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The mux: one process's event loop between clients on a UNIX socket and
 * agents behind ssh processes (docs/protocol.md). It touches sockets, pipes
 * and memory, and decides nothing about Ansible.
 */
#ifndef FL_MUX_H
#define FL_MUX_H

#include <stddef.h>
#include <stdint.h>

struct fl_mux;

struct fl_mux_config {
    /* Bound and listening UNIX socket; the mux owns it once made. */
    int listen_fd;
    /*
     * Where clients find it, or NULL. Unlinked at the end if it is still this
     * socket; if it vanishes, the mux ends with its last client.
     */
    const char *socket_path;
    /* The mux ends after this long without clients and agents. */
    uint32_t idle_seconds;
    /* Limits; 0 takes the default. */
    size_t blob_bytes;       /* of the store */
    size_t agent_blob_bytes; /* that one agent is made to hold */
    size_t parked_bytes;     /* of one client's calls waiting for blobs */
    size_t max_clients;
    size_t max_agents;
};

/* 0 or negative. `config` and the path are copied. */
int
fl_mux_new(const struct fl_mux_config *config, struct fl_mux **ret_mux);

/*
 * Serves until it ends in order: stopped by a client, or idle. Takes over the
 * process as far as a mux does: SIGPIPE is ignored meanwhile, the process is
 * made undumpable. 0, or negative if the loop itself failed.
 */
int
fl_mux_run(struct fl_mux *mux);

/* Accepts NULL. */
void
fl_mux_free(struct fl_mux *mux);

#endif
