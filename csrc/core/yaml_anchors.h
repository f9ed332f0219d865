/* SPDX-License-Identifier: BSD-3-Clause */
/* The anchors of one YAML document: names to node numbers. */
#ifndef FL_YAML_ANCHORS_H
#define FL_YAML_ANCHORS_H

#include <stdint.h>

struct fl_yaml_anchors;

/* 0 or -ENOMEM. */
int
fl_yaml_anchors_new(struct fl_yaml_anchors **ret);

/* Accepts NULL. */
void
fl_yaml_anchors_free(struct fl_yaml_anchors *anchors);

/* Copies the name. 0; -EEXIST if there is one of that name; -ENOMEM. */
int
fl_yaml_anchors_add(struct fl_yaml_anchors *anchors, const char *name,
                    uint32_t node);

/* 0, or -ENOENT. */
int
fl_yaml_anchors_find(const struct fl_yaml_anchors *anchors, const char *name,
                     uint32_t *ret_node);

#endif
