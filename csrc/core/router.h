/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who may say what to whom: context ids, routes, and the bindings between a
 * caller's reply handle and the context it called (docs/protocol.md, section
 * 2). Pure data: no I/O and no streams. Not thread-safe.
 *
 * An endpoint is one stream's end, a client or an agent. Ids are never used
 * twice. An agent may route for descendants: it is allocated ids, and says
 * with routes which of them live behind it.
 */
#ifndef FL_ROUTER_H
#define FL_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "list.h"

/* Ids allocated to an agent and not yet routed; and routes of one agent. */
#define FL_ROUTER_OUTSTANDING 64
#define FL_ROUTER_ROUTES 1024
/* Ids one agent gets in its life: no agent can use up the others' share. */
#define FL_ROUTER_ALLOCATIONS 65536
/* Reply handles one client may have open. */
#define FL_ROUTER_BINDINGS 65536

struct fl_router;
struct fl_endpoint;

enum fl_side {
    FL_SIDE_CLIENT,
    FL_SIDE_AGENT,
};

/* A reply handle that an agent may send to. Read-only for all but router.c. */
struct fl_binding {
    uint32_t client_id, handle;
    uint32_t callee_id;
    uint32_t stream;
    uint64_t start; /* the request's place in the agent's output, or below */
    /* The owner's own notes, not used by the router. */
    void *call;
    size_t ahead; /* bytes answered that a slow caller has not consumed */
    struct fl_endpoint *client, *agent;
    struct fl_list of_client, of_agent;
};

/* `start` of a request of which nothing can have left. */
#define FL_BINDING_HELD UINT64_MAX

/* 0 or -ENOMEM. */
int
fl_router_new(struct fl_router **ret);

/* Accepts NULL. Every endpoint must have left. */
void
fl_router_free(struct fl_router *router);

/* A new context with a fresh id. 0, -ENOMEM, or FL_EQUOTA (ids used up). */
int
fl_router_join(struct fl_router *router, enum fl_side side, void *owner,
               struct fl_endpoint **ret);

/* Ends an endpoint with all its routes and bindings. */
void
fl_router_leave(struct fl_router *router, struct fl_endpoint *endpoint);

uint32_t
fl_endpoint_id(const struct fl_endpoint *endpoint);

enum fl_side
fl_endpoint_side(const struct fl_endpoint *endpoint);

void *
fl_endpoint_owner(const struct fl_endpoint *endpoint);

size_t
fl_endpoint_bindings(const struct fl_endpoint *endpoint);

/* The endpoint through which `id` is reached, or NULL. */
struct fl_endpoint *
fl_router_find(const struct fl_router *router, uint32_t id);

/* Whether `id` was ever given out: an unknown id never was anybody. */
bool
fl_router_was_issued(const struct fl_router *router, uint32_t id);

/*
 * Checks source and authority of a frame that came in through `from`. 0,
 * FL_ESOURCE or FL_EAUTHORITY.
 */
int
fl_router_verify(const struct fl_router *router,
                 const struct fl_endpoint *from, const struct fl_frame *frame);

/* `count` fresh ids in a row for an agent. 0, FL_EQUOTA, -ENOMEM. */
int
fl_router_allocate(struct fl_router *router, struct fl_endpoint *agent,
                   uint32_t count, uint32_t *ret_first);

/* Routes an id allocated to `agent`. 0, FL_EROUTE or FL_EQUOTA. */
int
fl_router_add_route(struct fl_router *router, struct fl_endpoint *agent,
                    uint32_t id);

/* Ends it; bindings to it are the caller's to end first. 0 or FL_EROUTE. */
int
fl_router_del_route(struct fl_router *router, struct fl_endpoint *agent,
                    uint32_t id);

/*
 * Goes over the ids routed through `agent`, its own included: `*position`
 * starts at 0; 0 is the end.
 */
uint32_t
fl_router_next_route(const struct fl_router *router,
                     const struct fl_endpoint *agent, size_t *position);

/*
 * Records that `client` awaits an answer to `frame` from `agent`. A handle
 * already bound to the same callee keeps its binding (and `start`). 0,
 * FL_EHANDLE (bound to another callee), FL_EQUOTA, -ENOMEM.
 */
int
fl_router_bind(struct fl_router *router, struct fl_endpoint *client,
               struct fl_endpoint *agent, const struct fl_frame *frame,
               uint64_t start, struct fl_binding **ret);

/* A binding's request moved: it is now at `start` of the agent's output. */
void
fl_router_rebase(struct fl_binding *binding, uint64_t start);

/* The binding of a client's reply handle, or NULL. */
struct fl_binding *
fl_router_binding(const struct fl_router *router, uint32_t client_id,
                  uint32_t handle);

void
fl_router_unbind(struct fl_router *router, struct fl_binding *binding);

/* First binding of an endpoint, NULL if none: for ending them one by one. */
struct fl_binding *
fl_endpoint_binding(const struct fl_endpoint *endpoint);

/* First binding with this stream number (and callee, if agent), or NULL. */
struct fl_binding *
fl_endpoint_binding_of(const struct fl_endpoint *agent, uint32_t client_id,
                       uint32_t stream);

/* First binding to context `callee_id` through `agent`, or NULL. */
struct fl_binding *
fl_endpoint_binding_to(const struct fl_endpoint *agent, uint32_t callee_id);

#endif
