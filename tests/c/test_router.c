/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "err.h"
#include "router.h"
#include "runner.h"
#include "support.h"

struct setup {
    struct fl_router *router;
    struct fl_endpoint *client, *agent;
    uint32_t client_id, agent_id;
};

static struct fl_endpoint *
join(struct fl_router *router, enum fl_side side)
{
    struct fl_endpoint *endpoint;

    CHECK_INT(fl_router_join(router, side, NULL, &endpoint), 0);
    return endpoint;
}

static struct setup
set_up(void)
{
    struct setup s;

    CHECK_INT(fl_router_new(&s.router), 0);
    s.client = join(s.router, FL_SIDE_CLIENT);
    s.agent = join(s.router, FL_SIDE_AGENT);
    s.client_id = fl_endpoint_id(s.client);
    s.agent_id = fl_endpoint_id(s.agent);
    return s;
}

static void
tear_down(struct setup *s)
{
    fl_router_leave(s->router, s->client);
    fl_router_leave(s->router, s->agent);
    fl_router_free(s->router);
}

static struct fl_binding *
bind_handle(struct setup *s, uint32_t handle)
{
    const struct fl_frame frame = {
        .dst_id = s->agent_id, .reply_to = handle, .stream = handle + 1};
    struct fl_binding *binding;

    CHECK_INT(
        fl_router_bind(s->router, s->client, s->agent, &frame, 17, &binding),
        0);
    return binding;
}

TEST(ids_are_fresh_and_lead_to_their_endpoint)
{
    struct setup s = set_up();
    struct fl_endpoint *second = join(s.router, FL_SIDE_CLIENT);
    const uint32_t id = fl_endpoint_id(second);

    CHECK(s.client_id != 0 && s.client_id != s.agent_id);
    CHECK(fl_router_find(s.router, s.client_id) == s.client);
    CHECK(fl_router_find(s.router, s.agent_id) == s.agent);
    fl_router_leave(s.router, second);
    CHECK(fl_router_find(s.router, id) == NULL);
    CHECK(fl_router_was_issued(s.router, id));
    second = join(s.router, FL_SIDE_CLIENT);
    CHECK(fl_endpoint_id(second) != id);
    CHECK(!fl_router_was_issued(s.router, fl_endpoint_id(second) + 1));
    CHECK(!fl_router_was_issued(s.router, 0));
    fl_router_leave(s.router, second);
    tear_down(&s);
}

/* docs/protocol.md, section 2: source verification. */
TEST(a_source_must_be_routed_through_its_stream)
{
    struct setup s = set_up();
    struct fl_frame frame = {.src_id = s.client_id};

    CHECK_INT(fl_router_verify(s.router, s.client, &frame), 0);
    CHECK_INT(fl_router_verify(s.router, s.agent, &frame), FL_ESOURCE);
    frame.auth_id = s.client_id;
    CHECK_INT(fl_router_verify(s.router, s.client, &frame), FL_EAUTHORITY);
    frame = (struct fl_frame){.src_id = s.agent_id, .auth_id = s.agent_id};
    CHECK_INT(fl_router_verify(s.router, s.agent, &frame), 0);
    CHECK_INT(fl_router_verify(s.router, s.client, &frame), FL_ESOURCE);
    frame.auth_id = 0;
    CHECK_INT(fl_router_verify(s.router, s.agent, &frame), FL_EAUTHORITY);
    frame = (struct fl_frame){0};
    CHECK_INT(fl_router_verify(s.router, s.agent, &frame), FL_ESOURCE);
    tear_down(&s);
}

TEST(an_agent_routes_only_ids_it_was_allocated)
{
    struct setup s = set_up();
    struct fl_endpoint *other = join(s.router, FL_SIDE_AGENT);
    struct fl_frame frame = {0};
    uint32_t first;

    CHECK_INT(fl_router_allocate(s.router, s.agent, 2, &first), 0);
    CHECK(fl_router_find(s.router, first) == NULL);
    CHECK_INT(fl_router_add_route(s.router, other, first), FL_EROUTE);
    CHECK_INT(fl_router_add_route(s.router, s.agent, first + 2), FL_EROUTE);
    CHECK_INT(fl_router_add_route(s.router, s.agent, s.client_id), FL_EROUTE);
    CHECK_INT(fl_router_add_route(s.router, s.agent, first), 0);
    CHECK_INT(fl_router_add_route(s.router, s.agent, first), FL_EROUTE);
    CHECK(fl_router_find(s.router, first) == s.agent);
    frame.src_id = frame.auth_id = first;
    CHECK_INT(fl_router_verify(s.router, s.agent, &frame), 0);
    CHECK_INT(fl_router_verify(s.router, other, &frame), FL_ESOURCE);
    frame.auth_id = s.agent_id; /* not even its parent's authority */
    CHECK_INT(fl_router_verify(s.router, s.agent, &frame), FL_EAUTHORITY);
    CHECK_INT(fl_router_del_route(s.router, other, first), FL_EROUTE);
    CHECK_INT(fl_router_del_route(s.router, s.agent, s.agent_id), FL_EROUTE);
    CHECK_INT(fl_router_del_route(s.router, s.agent, first), 0);
    CHECK(fl_router_find(s.router, first) == NULL);
    CHECK_INT(fl_router_add_route(s.router, s.agent, first), FL_EROUTE);
    fl_router_leave(s.router, other);
    tear_down(&s);
}

/* Systems fact 7: ALLOCATE_ID quota. */
TEST(allocation_has_quotas)
{
    struct setup s = set_up();
    uint32_t first, total = FL_ROUTER_OUTSTANDING;

    CHECK_INT(fl_router_allocate(s.router, s.agent, 0, &first), FL_EQUOTA);
    CHECK_INT(fl_router_allocate(s.router, s.agent, UINT32_MAX, &first),
              FL_EQUOTA);
    CHECK_INT(
        fl_router_allocate(s.router, s.agent, FL_ROUTER_OUTSTANDING, &first),
        0);
    for (;;) {
        uint32_t more;

        CHECK_INT(fl_router_allocate(s.router, s.agent, 1, &more), FL_EQUOTA);
        CHECK_INT(fl_router_add_route(s.router, s.agent, first), 0);
        CHECK_INT(fl_router_del_route(s.router, s.agent, first), 0);
        if (fl_router_allocate(s.router, s.agent, 1, &more) < 0) {
            break;
        }
        total++;
        first = more;
    }
    CHECK_INT(total, FL_ROUTER_ALLOCATIONS);
    tear_down(&s);
}

TEST(routes_have_a_quota)
{
    struct setup s = set_up();
    int err = 0;
    size_t routes = 0;

    while (err == 0) {
        uint32_t id;

        CHECK_INT(fl_router_allocate(s.router, s.agent, 1, &id), 0);
        err = fl_router_add_route(s.router, s.agent, id);
        routes += err == 0;
    }
    CHECK_INT(err, FL_EQUOTA);
    CHECK_INT(routes, FL_ROUTER_ROUTES);
    tear_down(&s);
}

TEST(walking_the_routes_gives_what_is_live)
{
    struct setup s = set_up();
    size_t position = 0;
    uint32_t first;

    CHECK_INT(fl_router_allocate(s.router, s.agent, 3, &first), 0);
    CHECK_INT(fl_router_add_route(s.router, s.agent, first + 1), 0);
    CHECK_INT(fl_router_next_route(s.router, s.agent, &position), s.agent_id);
    CHECK_INT(fl_router_next_route(s.router, s.agent, &position), first + 1);
    CHECK_INT(fl_router_next_route(s.router, s.agent, &position), 0);
    tear_down(&s);
}

TEST(bindings_are_found_by_client_and_handle)
{
    struct setup s = set_up();
    struct fl_binding *binding = bind_handle(&s, 1000);

    CHECK(fl_router_binding(s.router, s.client_id, 1000) == binding);
    CHECK(fl_router_binding(s.router, s.client_id, 1001) == NULL);
    CHECK(fl_router_binding(s.router, s.agent_id, 1000) == NULL);
    CHECK_INT(binding->callee_id, s.agent_id);
    CHECK_INT(binding->start, 17);
    CHECK_INT(binding->stream, 1001);
    CHECK(fl_endpoint_binding(s.client) == binding);
    CHECK(fl_endpoint_binding(s.agent) == binding);
    CHECK(fl_endpoint_binding_of(s.agent, s.client_id, 1001) == binding);
    CHECK(fl_endpoint_binding_of(s.agent, s.client_id, 1) == NULL);
    CHECK(fl_endpoint_binding_to(s.agent, s.agent_id) == binding);
    CHECK(fl_endpoint_binding_to(s.agent, 77) == NULL);
    CHECK_INT(fl_endpoint_bindings(s.agent), 1);
    fl_router_unbind(s.router, binding);
    CHECK(fl_router_binding(s.router, s.client_id, 1000) == NULL);
    CHECK_INT(fl_endpoint_bindings(s.client), 0);
    tear_down(&s);
}

TEST(a_handle_is_bound_to_one_callee_at_a_time)
{
    struct setup s = set_up();
    struct fl_endpoint *other = join(s.router, FL_SIDE_AGENT);
    struct fl_binding *binding = bind_handle(&s, 1000), *again = NULL;
    struct fl_frame frame = {.dst_id = s.agent_id, .reply_to = 1000};

    CHECK_INT(fl_router_bind(s.router, s.client, s.agent, &frame, 99, &again),
              0);
    CHECK(again == binding);
    CHECK_INT(again->start, 17);
    frame.dst_id = fl_endpoint_id(other);
    CHECK_INT(fl_router_bind(s.router, s.client, other, &frame, 0, &again),
              FL_EHANDLE);
    CHECK_INT(fl_endpoint_bindings(other), 0);
    fl_router_leave(s.router, other);
    tear_down(&s);
}

TEST(bindings_of_one_client_have_a_quota)
{
    struct setup s = set_up();
    const struct fl_frame frame = {.dst_id = s.agent_id, .reply_to = 1};
    struct fl_binding *binding;

    for (uint32_t i = 0; i < FL_ROUTER_BINDINGS; i++) {
        (void)bind_handle(&s, 1000 + i);
    }
    CHECK_INT(fl_router_bind(s.router, s.client, s.agent, &frame, 0, &binding),
              FL_EQUOTA);
    tear_down(&s);
}

TEST(failed_allocations_are_reported_and_change_nothing)
{
    struct setup s = set_up();
    const struct fl_frame frame = {.dst_id = s.agent_id, .reply_to = 1};
    struct fl_binding *binding = NULL;
    struct fl_endpoint *endpoint = NULL;
    uint32_t first = 0;

    alloc_fail_after(0);
    CHECK_INT(fl_router_join(s.router, FL_SIDE_AGENT, NULL, &endpoint),
              -ENOMEM);
    alloc_fail_after(1);
    CHECK_INT(fl_router_join(s.router, FL_SIDE_AGENT, NULL, &endpoint),
              -ENOMEM);
    CHECK(endpoint == NULL);
    alloc_fail_after(3);
    CHECK_INT(fl_router_allocate(s.router, s.agent, 5, &first), -ENOMEM);
    CHECK_INT(first, 0);
    alloc_fail_after(0);
    CHECK_INT(fl_router_bind(s.router, s.client, s.agent, &frame, 0, &binding),
              -ENOMEM);
    CHECK(binding == NULL);
    alloc_fail_after(-1);
    CHECK_INT(
        fl_router_allocate(s.router, s.agent, FL_ROUTER_OUTSTANDING, &first),
        0);
    CHECK_INT(fl_router_bind(s.router, s.client, s.agent, &frame, 0, &binding),
              0);
    tear_down(&s);
}

/* Random joins, leaves, binds and unbinds: the counts must always add up. */
struct world {
    struct fl_router *router;
    struct fl_endpoint *ends[2][8];
    size_t bound[2][8];
    size_t total;
};

static void
check_world(const struct world *w)
{
    size_t sums[2] = {0};

    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < 8; i++) {
            const struct fl_endpoint *end = w->ends[side][i];

            if (end == NULL) {
                CHECK_INT(w->bound[side][i], 0);
                continue;
            }
            CHECK_INT(fl_endpoint_bindings(end), w->bound[side][i]);
            CHECK((fl_endpoint_binding(end) == NULL)
                  == (w->bound[side][i] == 0));
            CHECK(fl_router_find(w->router, fl_endpoint_id(end)) == end);
            sums[side] += w->bound[side][i];
        }
    }
    CHECK_INT(sums[0], w->total);
    CHECK_INT(sums[1], w->total);
}

static int
index_of(const struct world *w, int side, const struct fl_endpoint *end)
{
    int i = 0;

    while (w->ends[side][i] != end) {
        i++;
    }
    return i;
}

static void
forget_one(struct world *w, const struct fl_binding *binding)
{
    w->bound[0][index_of(w, 0, binding->client)]--;
    w->bound[1][index_of(w, 1, binding->agent)]--;
    w->total--;
}

static void
join_or_leave(struct world *w, int side, uint32_t i)
{
    struct fl_endpoint *end = w->ends[side][i];
    struct fl_binding *binding;

    if (end == NULL) {
        w->ends[side][i] = join(w->router, (enum fl_side)side);
        return;
    }
    while ((binding = fl_endpoint_binding(end)) != NULL) {
        forget_one(w, binding);
        fl_router_unbind(w->router, binding);
    }
    fl_router_leave(w->router, end);
    w->ends[side][i] = NULL;
}

static void
bind_or_unbind(struct world *w, uint32_t c, uint32_t a, uint32_t handle)
{
    struct fl_endpoint *client = w->ends[0][c], *agent = w->ends[1][a];
    struct fl_binding *binding;
    struct fl_frame frame = {.reply_to = handle};

    if (client == NULL || agent == NULL) {
        return;
    }
    binding = fl_router_binding(w->router, fl_endpoint_id(client), handle);
    if (binding != NULL) {
        forget_one(w, binding);
        fl_router_unbind(w->router, binding);
        return;
    }
    frame.dst_id = fl_endpoint_id(agent);
    CHECK_INT(fl_router_bind(w->router, client, agent, &frame, 0, &binding),
              0);
    w->bound[0][c]++;
    w->bound[1][a]++;
    w->total++;
}

TEST(random_operations_keep_the_invariants)
{
    struct world w = {0};
    struct random random = {13};

    CHECK_INT(fl_router_new(&w.router), 0);
    for (int i = 0; i < 50000; i++) {
        if (random_below(&random, 20) == 0) {
            join_or_leave(&w, (int)random_below(&random, 2),
                          random_below(&random, 8));
        }
        else {
            bind_or_unbind(&w, random_below(&random, 8),
                           random_below(&random, 8),
                           1000 + random_below(&random, 20));
        }
        check_world(&w);
    }
    for (int side = 0; side < 2; side++) {
        for (uint32_t i = 0; i < 8; i++) {
            if (w.ends[side][i] != NULL) {
                join_or_leave(&w, side, i);
            }
        }
    }
    fl_router_free(w.router);
}
