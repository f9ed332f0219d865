/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_anchors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

struct anchor {
    struct anchor *next; /* another name with the same hash */
    uint32_t node;
    char name[];
};

struct fl_yaml_anchors {
    struct fl_map *chains; /* from hash to first anchor */
};

/* FNV-1a. */
static uint64_t
hash(const char *name)
{
    uint64_t h = UINT64_C(14695981039346656037);

    for (; *name != '\0'; name++) {
        h = (h ^ (unsigned char)*name) * UINT64_C(1099511628211);
    }
    return h;
}

int
fl_yaml_anchors_new(struct fl_yaml_anchors **ret)
{
    struct fl_yaml_anchors *anchors = malloc(sizeof(*anchors));

    if (anchors == NULL) {
        return -ENOMEM;
    }
    if (fl_map_new(sizeof(uint64_t), &anchors->chains) < 0) {
        free(anchors);
        return -ENOMEM;
    }
    *ret = anchors;
    return 0;
}

static void
free_chain(struct anchor *anchor)
{
    while (anchor != NULL) {
        struct anchor *next = anchor->next;

        free(anchor);
        anchor = next;
    }
}

void
fl_yaml_anchors_free(struct fl_yaml_anchors *anchors)
{
    struct anchor *chain;
    size_t position = 0;

    if (anchors == NULL) {
        return;
    }
    while ((chain = fl_map_next(anchors->chains, &position)) != NULL) {
        free_chain(chain);
    }
    fl_map_free(anchors->chains);
    free(anchors);
}

static struct anchor *
find_in(struct anchor *chain, const char *name)
{
    while (chain != NULL && strcmp(chain->name, name) != 0) {
        chain = chain->next;
    }
    return chain;
}

static struct anchor *
new_anchor(const char *name, uint32_t node)
{
    const size_t size = strlen(name) + 1;
    struct anchor *anchor = malloc(sizeof(*anchor) + size);

    if (anchor != NULL) {
        anchor->next = NULL;
        anchor->node = node;
        memcpy(anchor->name, name, size);
    }
    return anchor;
}

int
fl_yaml_anchors_add(struct fl_yaml_anchors *anchors, const char *name,
                    uint32_t node)
{
    const uint64_t key = hash(name);
    struct anchor *chain = fl_map_get(anchors->chains, &key);
    struct anchor *anchor;

    if (find_in(chain, name) != NULL) {
        return -EEXIST;
    }
    anchor = new_anchor(name, node);
    if (anchor == NULL) {
        return -ENOMEM;
    }
    anchor->next = chain;
    if (fl_map_set(anchors->chains, &key, anchor) < 0) {
        free(anchor);
        return -ENOMEM;
    }
    return 0;
}

int
fl_yaml_anchors_find(const struct fl_yaml_anchors *anchors, const char *name,
                     uint32_t *ret_node)
{
    const uint64_t key = hash(name);
    const struct anchor *anchor = find_in(fl_map_get(anchors->chains, &key),
                                          name);

    if (anchor == NULL) {
        return -ENOENT;
    }
    *ret_node = anchor->node;
    return 0;
}
