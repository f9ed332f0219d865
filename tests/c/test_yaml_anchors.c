/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_anchors.h"

#include <errno.h>

#include "runner.h"
#include "support.h"

static void
name_of(char name[16], uint32_t i)
{
    (void)snprintf(name, 16, "a%u", i);
}

TEST(names_find_their_nodes)
{
    struct fl_yaml_anchors *anchors;
    char name[16];
    uint32_t node;

    CHECK_INT(fl_yaml_anchors_new(&anchors), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        name_of(name, i);
        CHECK_INT(fl_yaml_anchors_add(anchors, name, i * 3), 0);
    }
    for (uint32_t i = 0; i < 1000; i++) {
        name_of(name, i);
        CHECK_INT(fl_yaml_anchors_find(anchors, name, &node), 0);
        CHECK_INT(node, i * 3);
        CHECK_INT(fl_yaml_anchors_add(anchors, name, 1), -EEXIST);
    }
    CHECK_INT(fl_yaml_anchors_find(anchors, "b", &node), -ENOENT);
    fl_yaml_anchors_free(anchors);
    fl_yaml_anchors_free(NULL);
}

TEST(every_allocation_may_fail)
{
    long failed = 0;
    int err = -ENOMEM;

    while (err == -ENOMEM) {
        struct fl_yaml_anchors *anchors = NULL;

        alloc_fail_after(failed++);
        err = fl_yaml_anchors_new(&anchors);
        if (err == 0) {
            err = fl_yaml_anchors_add(anchors, "a", 0);
        }
        fl_yaml_anchors_free(anchors);
    }
    CHECK_INT(err, 0);
    CHECK(failed > 3);
}
