/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of the mux: listener, turns, the end of peers, its own end. */
#define _GNU_SOURCE
#include "mux.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "err.h"
#include "mux_internal.h"
#include "os.h"

void
mux_note_error(struct fl_mux *mux, const char *text)
{
    (void)fl_escape((const uint8_t *)text, strlen(text), mux->last_error,
                    sizeof(mux->last_error));
}

/* Peers */

void
mux_add_peer(struct fl_mux *mux, struct peer *peer, enum fl_side side)
{
    peer->mux = mux;
    peer->side = side;
    peer->since = fl_os_now_ms();
    fl_list_init(&peer->of_mux);
    fl_list_init(&peer->dirty);
    fl_list_init(&peer->waiting);
    if (side == FL_SIDE_CLIENT) {
        fl_list_append(&mux->clients, &peer->of_mux);
        mux->client_count++;
    }
    else {
        fl_list_append(&mux->agents, &peer->of_mux);
        mux->agent_count++;
    }
    mux_check_idle(mux);
}

void
mux_doom(struct peer *peer)
{
    if (!peer->doomed) {
        peer->doomed = true;
        peer->mux->doomed_count++;
    }
}

static void
flush_dirty(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->dirty) {
        fl_list_remove(node);
        fl_stream_flush(FL_LIST_ENTRY(node, struct peer, dirty)->stream);
    }
}

/* Takes the peer out of everything it is in, but for its own lists. */
static void
unlink_peer(struct peer *peer)
{
    struct fl_mux *mux = peer->mux;

    if (mux->run.sink == peer) {
        mux->run.sink = NULL;
    }
    fl_list_remove(&peer->of_mux);
    fl_list_remove(&peer->dirty);
    fl_list_remove(&peer->waiting);
    mux_peer_drained(peer); /* whoever waits for it, waits no more */
    mux->bytes_in += fl_stream_received(peer->stream);
    mux->bytes_out += fl_stream_written(peer->stream);
    mux->doomed_count--;
}

static void
end_agent(struct fl_mux *mux, struct agent *agent)
{
    mux->agent_count--;
    mux->wire_up += fl_stream_written(agent->peer.stream);
    mux->wire_down += fl_stream_received(agent->peer.stream);
    mux_agent_free(agent);
}

static void
end_client(struct fl_mux *mux, struct client *client)
{
    mux->client_count--;
    mux->last_client = fl_os_now_ms();
    mux_client_free(client);
}

/* Agents first: what their end has to say to clients is written after. */
static void
reap(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->agents) {
        struct peer *peer = FL_LIST_ENTRY(node, struct peer, of_mux);

        if (peer->doomed) {
            unlink_peer(peer);
            end_agent(mux, peer_agent(peer));
        }
    }
    flush_dirty(mux);
    FL_LIST_EACH (node, after, &mux->clients) {
        struct peer *peer = FL_LIST_ENTRY(node, struct peer, of_mux);

        if (peer->doomed) {
            unlink_peer(peer);
            end_client(mux, peer_client(peer));
        }
    }
    mux_check_idle(mux);
}

static void
resume_ready(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->ready) {
        struct peer *peer = FL_LIST_ENTRY(node, struct peer, waiting);

        fl_list_remove(node);
        fl_stream_pause(peer->stream, false);
        if (!peer->doomed) {
            mux_peer_input(peer);
        }
    }
}

static void
drain_exited(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->draining) {
        mux_agent_drain(FL_LIST_ENTRY(node, struct agent, draining));
    }
}

/* Once the agents' end has been told to them, the clients go as well. */
static void
end_clients(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->clients) {
        mux_doom(FL_LIST_ENTRY(node, struct peer, of_mux));
    }
}

/* Brings to an end what the turn has begun. */
static void
settle(struct fl_mux *mux)
{
    do {
        resume_ready(mux);
        flush_dirty(mux);
        drain_exited(mux);
        if (mux->ending && mux->agent_count == 0) {
            end_clients(mux);
        }
        if (mux->doomed_count > 0) {
            reap(mux);
        }
    } while (!fl_list_empty(&mux->ready) || !fl_list_empty(&mux->dirty)
             || mux->doomed_count > 0
             || (mux->ending && mux->client_count > 0));
}

/* The end */

static bool
socket_is_ours(const struct fl_mux *mux)
{
    struct stat now;

    return mux->socket_path != NULL && lstat(mux->socket_path, &now) == 0
           && now.st_dev == mux->socket_stat.st_dev
           && now.st_ino == mux->socket_stat.st_ino;
}

static void
unlink_socket(struct fl_mux *mux)
{
    if (!mux->orphaned && socket_is_ours(mux)) {
        /* If it vanished in between, that is what was wanted. */
        (void)unlink(mux->socket_path);
    }
    mux->orphaned = true;
}

static void
close_listener(struct fl_mux *mux)
{
    fl_watch_free(mux->listen_watch);
    mux->listen_watch = NULL;
    fl_os_close(mux->listen_fd);
    mux->listen_fd = -1;
}

void
mux_end(struct fl_mux *mux)
{
    if (mux->ending) {
        return;
    }
    mux->ending = true;
    unlink_socket(mux);
    close_listener(mux);
    fl_timer_stop(mux->idle_timer);
    fl_timer_stop(mux->accept_timer);
    FL_LIST_EACH (node, after, &mux->agents) {
        mux_agent_doom(peer_agent(FL_LIST_ENTRY(node, struct peer, of_mux)),
                       "the mux was stopped");
    }
    fl_timer_start(mux->end_timer, fl_os_now_ms() + MUX_TERM_AFTER);
}

/* ssh that stays although its wire is closed: asked, then made to go. */
static void
on_end_timer(void *data)
{
    static const struct {
        int signal_number;
        unsigned wait; /* until the next step */
    } steps[] = {
        {SIGTERM, MUX_KILL_AFTER - MUX_TERM_AFTER},
        {SIGKILL, MUX_LEAVE_AFTER - MUX_KILL_AFTER},
    };
    struct fl_mux *mux = data;
    const unsigned step = mux->end_step++;

    if (step >= sizeof(steps) / sizeof(steps[0])) {
        return;
    }
    FL_LIST_EACH (node, after, &mux->lingerers) {
        /* One that has just gone is what was wanted. */
        (void)fl_os_pidfd_signal(
            FL_LIST_ENTRY(node, struct lingerer, of_mux)->pidfd,
            steps[step].signal_number);
    }
    fl_timer_start(mux->end_timer, fl_os_now_ms() + steps[step].wait);
}

static bool
has_ended(const struct fl_mux *mux)
{
    return mux->ending
           && (fl_list_empty(&mux->lingerers) || mux->end_step > 2);
}

static void
lingerer_free(struct lingerer *lingerer)
{
    fl_watch_free(lingerer->watch);
    fl_os_close(lingerer->pidfd);
    fl_list_remove(&lingerer->of_mux);
    free(lingerer);
}

static void
on_lingerer_gone(void *data, unsigned events)
{
    (void)events;
    lingerer_free(data);
}

/*
 * It is signalled only when the mux ends: until then it may be a master whom
 * other sessions still use.
 */
void
mux_linger(struct fl_mux *mux, int pidfd)
{
    struct lingerer *lingerer;

    if (pidfd < 0) {
        return;
    }
    lingerer = calloc(1, sizeof(*lingerer));
    if (lingerer == NULL
        || fl_watch_new(mux->loop, pidfd, FL_LOOP_READ, on_lingerer_gone,
                        lingerer, &lingerer->watch)
               < 0)
    {
        /* Its wire is closed; without memory, that has to do. */
        free(lingerer);
        fl_os_close(pidfd);
        return;
    }
    lingerer->mux = mux;
    lingerer->pidfd = pidfd;
    fl_list_init(&lingerer->of_mux);
    fl_list_append(&mux->lingerers, &lingerer->of_mux);
}

static uint64_t
idle_end(const struct fl_mux *mux)
{
    const uint64_t idle = (uint64_t)mux->config.idle_seconds * 1000;
    const bool never_used = mux->last_client == 0;

    if (never_used) {
        return mux->started
               + (idle > MUX_START_GRACE ? idle : MUX_START_GRACE);
    }
    return mux->last_client + idle;
}

void
mux_check_idle(struct fl_mux *mux)
{
    if (mux->ending || mux->client_count > 0
        || (mux->agent_count > 0 && !mux->orphaned))
    {
        fl_timer_stop(mux->idle_timer);
    }
    else if (mux->orphaned) {
        fl_timer_start(mux->idle_timer, fl_os_now_ms());
    }
    else if (!fl_timer_started(mux->idle_timer)) {
        fl_timer_start(mux->idle_timer, idle_end(mux));
    }
}

/* Takes all who wait in the backlog; false if descriptors have run out. */
static bool
accept_all(struct fl_mux *mux)
{
    int fd;

    while ((fd = fl_os_accept(mux->listen_fd)) >= 0) {
        mux_client_accept(mux, fd);
    }
    return fd == -EAGAIN || fd == -EWOULDBLOCK;
}

/*
 * A client may have connected in this very moment. Its connection is in the
 * backlog, and nobody finds the socket once it is unlinked: so unlink, look
 * once more, and serve whoever came to the end.
 */
static void
on_idle(void *data)
{
    struct fl_mux *mux = data;

    unlink_socket(mux);
    (void)accept_all(mux);
    if (mux->client_count == 0) {
        mux_end(mux);
    }
}

/* The loop's callbacks */

static void
on_accept(void *data, unsigned events)
{
    struct fl_mux *mux = data;

    (void)events;
    if (!accept_all(mux)) {
        (void)fl_watch_set(mux->listen_watch, 0);
        mux_note_error(mux, "accept failed; trying again");
        fl_timer_start(mux->accept_timer, fl_os_now_ms() + MUX_ACCEPT_PAUSE);
    }
}

static void
on_accept_again(void *data)
{
    struct fl_mux *mux = data;

    if (mux->listen_watch != NULL) {
        (void)fl_watch_set(mux->listen_watch, FL_LOOP_READ);
    }
}

/* Rule 1: who does not say HELLO is not waited for. */
static void
end_silent_peers(struct fl_mux *mux, uint64_t now)
{
    FL_LIST_EACH (node, after, &mux->clients) {
        struct peer *peer = FL_LIST_ENTRY(node, struct peer, of_mux);

        if (peer->endpoint == NULL && now - peer->since > MUX_HELLO_DEADLINE) {
            mux_client_refuse(peer_client(peer), "no HELLO within 60 seconds");
        }
    }
    FL_LIST_EACH (node, after, &mux->agents) {
        struct agent *agent = peer_agent(
            FL_LIST_ENTRY(node, struct peer, of_mux));

        if (agent->hello == NULL
            && now - agent->peer.since > MUX_HELLO_DEADLINE) {
            mux_agent_doom(agent, "no HELLO from the agent in 60 seconds");
        }
    }
}

static void
end_stalled_clients(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->clients) {
        mux_client_check_stalled(
            peer_client(FL_LIST_ENTRY(node, struct peer, of_mux)));
    }
}

/* Rule 4: who is quiet holds no buffers. */
static void
trim_peers(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->clients) {
        fl_stream_trim(FL_LIST_ENTRY(node, struct peer, of_mux)->stream);
    }
    FL_LIST_EACH (node, after, &mux->agents) {
        fl_stream_trim(FL_LIST_ENTRY(node, struct peer, of_mux)->stream);
    }
}

static void
on_housekeeping(void *data)
{
    struct fl_mux *mux = data;
    const uint64_t now = fl_os_now_ms();

    end_silent_peers(mux, now);
    end_stalled_clients(mux);
    trim_peers(mux);
    /* Rule 3: a mux that nobody can find any more serves whom it has. */
    if (mux->socket_path != NULL && !mux->orphaned && !socket_is_ours(mux)) {
        mux->orphaned = true;
        mux_check_idle(mux);
    }
    fl_timer_start(mux->housekeeping, now + MUX_HOUSEKEEPING);
}

/* Making and running */

static void
set_defaults(struct fl_mux_config *config)
{
    const struct fl_mux_config defaults = {
        .blob_bytes = FL_BLOB_STORE_CAP,
        .agent_blob_bytes = FL_BLOB_AGENT_CAP,
        .parked_bytes = MUX_PARKED_BYTES,
        .max_clients = MUX_CLIENTS,
        .max_agents = MUX_AGENTS,
    };
    size_t *const values[] = {&config->blob_bytes, &config->agent_blob_bytes,
                              &config->parked_bytes, &config->max_clients,
                              &config->max_agents};
    const size_t fallbacks[] = {defaults.blob_bytes, defaults.agent_blob_bytes,
                                defaults.parked_bytes, defaults.max_clients,
                                defaults.max_agents};

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        if (*values[i] == 0) {
            *values[i] = fallbacks[i];
        }
    }
}

static int
remember_socket(struct fl_mux *mux, const char *path)
{
    if (path == NULL) {
        return 0;
    }
    mux->socket_path = strdup(path);
    if (mux->socket_path == NULL) {
        return -ENOMEM;
    }
    /* One that is gone already is found out by the housekeeping. */
    if (lstat(path, &mux->socket_stat) < 0) {
        memset(&mux->socket_stat, 0, sizeof(mux->socket_stat));
    }
    return 0;
}

static void
init_lists(struct fl_mux *mux)
{
    struct fl_list *const heads[] = {
        &mux->clients,  &mux->agents,    &mux->leases,
        &mux->dirty,    &mux->blocked,   &mux->ready,
        &mux->draining, &mux->lingerers, &mux->waiting_calls,
    };

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        fl_list_init(heads[i]);
    }
}

static int
make_timers(struct fl_mux *mux)
{
    const struct {
        fl_timer_fn fn;
        struct fl_timer **ret;
    } wanted[] = {
        {on_housekeeping, &mux->housekeeping},
        {on_idle, &mux->idle_timer},
        {on_accept_again, &mux->accept_timer},
        {on_end_timer, &mux->end_timer},
    };
    int err = 0;

    for (size_t i = 0; err == 0 && i < sizeof(wanted) / sizeof(wanted[0]); i++)
    {
        err = fl_timer_new(fl_loop_timers(mux->loop), wanted[i].fn, mux,
                           wanted[i].ret);
    }
    return err;
}

static int
make_parts(struct fl_mux *mux, const struct fl_mux_config *config)
{
    int err = remember_socket(mux, config->socket_path);

    if (err == 0) {
        err = fl_loop_new(&mux->loop);
    }
    if (err == 0) {
        err = make_timers(mux);
    }
    if (err == 0) {
        err = fl_router_new(&mux->router);
    }
    if (err == 0) {
        err = fl_blobs_new(mux->config.blob_bytes, &mux->blobs);
    }
    if (err == 0) {
        err = fl_os_set_nonblocking(config->listen_fd);
    }
    if (err == 0) {
        err = fl_watch_new(mux->loop, config->listen_fd, FL_LOOP_READ,
                           on_accept, mux, &mux->listen_watch);
    }
    return err;
}

int
fl_mux_new(const struct fl_mux_config *config, struct fl_mux **ret_mux)
{
    struct fl_mux *mux = calloc(1, sizeof(*mux));
    int err;

    if (mux == NULL) {
        return -ENOMEM;
    }
    mux->config = *config;
    mux->config.socket_path = NULL; /* the copy is what counts */
    mux->listen_fd = -1;
    mux->started = fl_os_now_ms();
    mux->binding_epoch = 1; /* caches start at 0 */
    mux->route_epoch = 1;
    set_defaults(&mux->config);
    init_lists(mux);
    err = make_parts(mux, config);
    if (err < 0) {
        fl_mux_free(mux);
        return err;
    }
    mux->listen_fd = config->listen_fd;
    *ret_mux = mux;
    return 0;
}

/*
 * Systems fact 36: at a fast round trip the wake-ups are what costs. So once
 * a reply has come quickly, the mux awaits what comes next awake for
 * MUX_SPIN_US, as long as requests and replies alternate and nobody else wants
 * its processor: on a busy machine, or in a stream, to sleep is faster.
 */
struct spin {
    bool on;
    bool requested;       /* the last turn brought a request and no reply */
    uint64_t quiet_since; /* us */
    uint64_t banned_until;
    long switches;
    uint64_t requests, replies;
};

/* Whether another process was given this one's processor meanwhile. */
static bool
was_preempted(struct spin *spin)
{
    const long before = spin->switches;

    spin->switches = fl_os_preemptions();
    return spin->switches != before;
}

static void
note_turn(struct spin *spin, const struct fl_mux *mux, uint64_t waited)
{
    const bool requested = mux->requests != spin->requests;
    const bool replied = mux->replies != spin->replies;

    if (replied && !requested && spin->requested) {
        spin->on = waited < MUX_QUICK_US;
    }
    else if (!requested || replied || spin->requested) {
        spin->on = false;
    }
    spin->requested = requested && !replied;
    spin->requests = mux->requests;
    spin->replies = mux->replies;
}

static void
after_turn(struct spin *spin, const struct fl_mux *mux, bool idle,
           uint64_t now)
{
    const uint64_t waited = now - spin->quiet_since;
    const bool was_on = spin->on;

    if (!idle) {
        note_turn(spin, mux, waited);
        spin->quiet_since = fl_os_now_us();
    }
    else if (waited >= MUX_SPIN_US) {
        spin->on = false;
    }
    if (was_on && (!idle || !spin->on) && was_preempted(spin)) {
        spin->banned_until = now + MUX_SPIN_BAN_US;
    }
    if (now < spin->banned_until) {
        spin->on = false;
    }
}

static int
serve(struct fl_mux *mux)
{
    struct spin spin = {.quiet_since = fl_os_now_us()};

    while (!has_ended(mux)) {
        const int count = fl_loop_turn(mux->loop, spin.on ? 0 : -1);
        const uint64_t now = fl_os_now_us();

        if (count < 0) {
            return count;
        }
        settle(mux);
        after_turn(&spin, mux, count == 0, now);
    }
    return 0;
}

int
fl_mux_run(struct fl_mux *mux)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct sigaction before;
    int err;

    if (sigaction(SIGPIPE, &ignore, &before) < 0) {
        return -errno;
    }
    err = fl_os_harden();
    if (err == 0) {
        fl_timer_start(mux->housekeeping, fl_os_now_ms() + MUX_HOUSEKEEPING);
        mux_check_idle(mux);
        err = serve(mux);
    }
    /* It worked a moment ago with the same signal. */
    (void)sigaction(SIGPIPE, &before, NULL);
    return err;
}

static void
end_all(struct fl_mux *mux)
{
    FL_LIST_EACH (node, after, &mux->agents) {
        mux_agent_doom(peer_agent(FL_LIST_ENTRY(node, struct peer, of_mux)),
                       "the mux has failed");
    }
    end_clients(mux);
    if (mux->doomed_count > 0) {
        reap(mux);
    }
    FL_LIST_EACH (node, after, &mux->lingerers) {
        lingerer_free(FL_LIST_ENTRY(node, struct lingerer, of_mux));
    }
}

void
fl_mux_free(struct fl_mux *mux)
{
    if (mux == NULL) {
        return;
    }
    end_all(mux);
    close_listener(mux);
    fl_timer_free(mux->housekeeping);
    fl_timer_free(mux->idle_timer);
    fl_timer_free(mux->accept_timer);
    fl_timer_free(mux->end_timer);
    fl_loop_free(mux->loop);
    fl_router_free(mux->router);
    fl_blobs_free(mux->blobs);
    free(mux->socket_path);
    free(mux);
}
