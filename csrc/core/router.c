/* SPDX-License-Identifier: BSD-3-Clause */
#include "router.h"

#include <errno.h>
#include <stdlib.h>

#include "err.h"
#include "map.h"

struct fl_endpoint {
    uint32_t id;
    enum fl_side side;
    void *owner;
    size_t binding_count;
    struct fl_list bindings; /* of_client or of_agent of fl_binding */
    struct fl_list routes;   /* of an agent: what it was allocated */
    size_t route_count, outstanding, allocations;
};

/* An id that leads somewhere, or (not `live`) is allocated to an agent. */
struct route {
    uint32_t id;
    bool live;
    struct fl_endpoint *endpoint;
    struct fl_list of_endpoint;
};

struct binding_key {
    uint32_t client_id, handle;
};

struct fl_router {
    uint32_t next_id;
    struct fl_map *routes;   /* id -> struct route */
    struct fl_map *bindings; /* struct binding_key -> struct fl_binding */
};

int
fl_router_new(struct fl_router **ret)
{
    struct fl_router *router = calloc(1, sizeof(*router));

    if (router == NULL) {
        return -ENOMEM;
    }
    router->next_id = 1;
    if (fl_map_new(sizeof(uint32_t), &router->routes) < 0
        || fl_map_new(sizeof(struct binding_key), &router->bindings) < 0)
    {
        fl_router_free(router);
        return -ENOMEM;
    }
    *ret = router;
    return 0;
}

void
fl_router_free(struct fl_router *router)
{
    if (router != NULL) {
        fl_map_free(router->routes);
        fl_map_free(router->bindings);
        free(router);
    }
}

static int
route_new(struct fl_router *router, struct fl_endpoint *endpoint, uint32_t id,
          bool live)
{
    struct route *route = calloc(1, sizeof(*route));

    if (route == NULL || fl_map_set(router->routes, &id, route) < 0) {
        free(route);
        return -ENOMEM;
    }
    route->id = id;
    route->live = live;
    route->endpoint = endpoint;
    fl_list_init(&route->of_endpoint);
    fl_list_append(&endpoint->routes, &route->of_endpoint);
    return 0;
}

static void
route_free(struct fl_router *router, struct route *route)
{
    (void)fl_map_remove(router->routes, &route->id);
    fl_list_remove(&route->of_endpoint);
    free(route);
}

int
fl_router_join(struct fl_router *router, enum fl_side side, void *owner,
               struct fl_endpoint **ret)
{
    struct fl_endpoint *endpoint;
    int err;

    if (router->next_id == UINT32_MAX) {
        return FL_EQUOTA;
    }
    endpoint = calloc(1, sizeof(*endpoint));
    if (endpoint == NULL) {
        return -ENOMEM;
    }
    endpoint->id = router->next_id;
    endpoint->side = side;
    endpoint->owner = owner;
    fl_list_init(&endpoint->bindings);
    fl_list_init(&endpoint->routes);
    err = route_new(router, endpoint, endpoint->id, true);
    if (err < 0) {
        free(endpoint);
        return err;
    }
    router->next_id++;
    *ret = endpoint;
    return 0;
}

/* The binding whose place in the endpoint's list this is. */
static struct fl_binding *
entry(const struct fl_endpoint *endpoint, struct fl_list *node)
{
    return endpoint->side == FL_SIDE_CLIENT
               ? FL_LIST_ENTRY(node, struct fl_binding, of_client)
               : FL_LIST_ENTRY(node, struct fl_binding, of_agent);
}

void
fl_router_leave(struct fl_router *router, struct fl_endpoint *endpoint)
{
    FL_LIST_EACH (node, after, &endpoint->bindings) {
        fl_router_unbind(router, entry(endpoint, node));
    }
    FL_LIST_EACH (node, after, &endpoint->routes) {
        route_free(router, FL_LIST_ENTRY(node, struct route, of_endpoint));
    }
    free(endpoint);
}

uint32_t
fl_endpoint_id(const struct fl_endpoint *endpoint)
{
    return endpoint->id;
}

enum fl_side
fl_endpoint_side(const struct fl_endpoint *endpoint)
{
    return endpoint->side;
}

void *
fl_endpoint_owner(const struct fl_endpoint *endpoint)
{
    return endpoint->owner;
}

size_t
fl_endpoint_bindings(const struct fl_endpoint *endpoint)
{
    return endpoint->binding_count;
}

struct fl_endpoint *
fl_router_find(const struct fl_router *router, uint32_t id)
{
    const struct route *route = fl_map_get(router->routes, &id);

    return route != NULL && route->live ? route->endpoint : NULL;
}

bool
fl_router_was_issued(const struct fl_router *router, uint32_t id)
{
    return id != 0 && id < router->next_id;
}

int
fl_router_verify(const struct fl_router *router,
                 const struct fl_endpoint *from, const struct fl_frame *frame)
{
    if (frame->src_id != from->id
        && (from->side == FL_SIDE_CLIENT
            || fl_router_find(router, frame->src_id) != from))
    {
        return FL_ESOURCE;
    }
    /* A client acts for the mux's owner; an agent for nobody but itself. */
    if (frame->auth_id != (from->side == FL_SIDE_CLIENT ? 0 : frame->src_id)) {
        return FL_EAUTHORITY;
    }
    return 0;
}

static void
take_back(struct fl_router *router, uint32_t first, uint32_t end)
{
    for (uint32_t id = first; id < end; id++) {
        route_free(router, fl_map_get(router->routes, &id));
    }
}

int
fl_router_allocate(struct fl_router *router, struct fl_endpoint *agent,
                   uint32_t count, uint32_t *ret_first)
{
    const uint32_t first = router->next_id;

    if (count == 0 || count > FL_ROUTER_OUTSTANDING - agent->outstanding
        || count > FL_ROUTER_ALLOCATIONS - agent->allocations
        || count > UINT32_MAX - first)
    {
        return FL_EQUOTA;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (route_new(router, agent, first + i, false) < 0) {
            take_back(router, first, first + i);
            return -ENOMEM;
        }
    }
    router->next_id += count;
    agent->outstanding += count;
    agent->allocations += count;
    *ret_first = first;
    return 0;
}

int
fl_router_add_route(struct fl_router *router, struct fl_endpoint *agent,
                    uint32_t id)
{
    struct route *route = fl_map_get(router->routes, &id);

    if (route == NULL || route->endpoint != agent || route->live) {
        return FL_EROUTE;
    }
    if (agent->route_count >= FL_ROUTER_ROUTES) {
        return FL_EQUOTA;
    }
    route->live = true;
    agent->route_count++;
    agent->outstanding--;
    return 0;
}

int
fl_router_del_route(struct fl_router *router, struct fl_endpoint *agent,
                    uint32_t id)
{
    struct route *route = fl_map_get(router->routes, &id);

    if (route == NULL || route->endpoint != agent || id == agent->id) {
        return FL_EROUTE;
    }
    if (route->live) {
        agent->route_count--;
    }
    else {
        agent->outstanding--;
    }
    route_free(router, route);
    return 0;
}

uint32_t
fl_router_next_route(const struct fl_router *router,
                     const struct fl_endpoint *agent, size_t *position)
{
    size_t at = 0;

    (void)router; /* the endpoint knows its own */
    FL_LIST_EACH (node, after, &agent->routes) {
        const struct route *route = FL_LIST_ENTRY(node, struct route,
                                                  of_endpoint);

        if (at++ >= *position && route->live) {
            *position = at;
            return route->id;
        }
    }
    return 0;
}

struct fl_binding *
fl_router_binding(const struct fl_router *router, uint32_t client_id,
                  uint32_t handle)
{
    const struct binding_key key = {client_id, handle};

    return fl_map_get(router->bindings, &key);
}

static int
binding_new(struct fl_router *router, struct fl_endpoint *client,
            uint32_t handle, struct fl_binding **ret)
{
    const struct binding_key key = {client->id, handle};
    struct fl_binding *binding = calloc(1, sizeof(*binding));

    if (binding == NULL || fl_map_set(router->bindings, &key, binding) < 0) {
        free(binding);
        return -ENOMEM;
    }
    binding->client_id = client->id;
    binding->handle = handle;
    fl_list_init(&binding->of_client);
    fl_list_init(&binding->of_agent);
    *ret = binding;
    return 0;
}

static void
binding_link(struct fl_binding *binding, struct fl_endpoint *client,
             struct fl_endpoint *agent)
{
    binding->client = client;
    binding->agent = agent;
    fl_list_append(&client->bindings, &binding->of_client);
    fl_list_append(&agent->bindings, &binding->of_agent);
    client->binding_count++;
    agent->binding_count++;
}

int
fl_router_bind(struct fl_router *router, struct fl_endpoint *client,
               struct fl_endpoint *agent, const struct fl_frame *frame,
               uint64_t start, struct fl_binding **ret)
{
    struct fl_binding *binding = fl_router_binding(router, client->id,
                                                   frame->reply_to);
    int err;

    if (binding != NULL) {
        if (binding->callee_id != frame->dst_id) {
            return FL_EHANDLE;
        }
        *ret = binding;
        return 0;
    }
    if (client->binding_count >= FL_ROUTER_BINDINGS) {
        return FL_EQUOTA;
    }
    err = binding_new(router, client, frame->reply_to, &binding);
    if (err < 0) {
        return err;
    }
    binding->callee_id = frame->dst_id;
    binding->stream = frame->stream;
    binding->start = start;
    binding_link(binding, client, agent);
    *ret = binding;
    return 0;
}

void
fl_router_rebase(struct fl_binding *binding, uint64_t start)
{
    binding->start = start;
}

void
fl_router_unbind(struct fl_router *router, struct fl_binding *binding)
{
    const struct binding_key key = {binding->client_id, binding->handle};

    (void)fl_map_remove(router->bindings, &key);
    fl_list_remove(&binding->of_client);
    fl_list_remove(&binding->of_agent);
    binding->client->binding_count--;
    binding->agent->binding_count--;
    free(binding);
}

struct fl_binding *
fl_endpoint_binding(const struct fl_endpoint *endpoint)
{
    if (fl_list_empty(&endpoint->bindings)) {
        return NULL;
    }
    return entry(endpoint, endpoint->bindings.next);
}

struct fl_binding *
fl_endpoint_binding_of(const struct fl_endpoint *agent, uint32_t client_id,
                       uint32_t stream)
{
    FL_LIST_EACH (node, after, &agent->bindings) {
        struct fl_binding *binding = entry(agent, node);

        if (binding->client_id == client_id && binding->stream == stream) {
            return binding;
        }
    }
    return NULL;
}

struct fl_binding *
fl_endpoint_binding_to(const struct fl_endpoint *agent, uint32_t callee_id)
{
    FL_LIST_EACH (node, after, &agent->bindings) {
        struct fl_binding *binding = entry(agent, node);

        if (binding->callee_id == callee_id) {
            return binding;
        }
    }
    return NULL;
}
