/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one document of a YAML stream as a tree of nodes, composed from
 * libyaml's events as PyYAML composes it, within limits. An alias is its
 * anchor's node once more, so a document is no larger composed than it is
 * written (systems fact 39); only merge keys copy anything, and what they
 * copy counts as nodes.
 *
 * Immutable once composed: any number of threads may read it.
 */
#ifndef FL_YAML_DOCUMENT_H
#define FL_YAML_DOCUMENT_H

#include <stddef.h>
#include <stdint.h>

#include "yaml_scalar.h"

struct fl_yaml_limits {
    size_t bytes; /* of the stream */
    size_t nodes; /* those that merge keys copy included */
    size_t depth; /* of collections within one another */
};

enum fl_yaml_kind { FL_YAML_SCALAR, FL_YAML_SEQUENCE, FL_YAML_MAPPING };

struct fl_yaml_node {
    uint8_t kind; /* enum fl_yaml_kind */
    uint8_t tag;  /* enum fl_yaml_tag */
    /*
     * The tag was written out, or the text has a line feed at its end: the
     * text need not look like a value of the tag.
     */
    bool unusual;
    uint32_t line;   /* from 0 */
    uint32_t column; /* in characters, from 0 */
    uint32_t first;  /* private: where text or children begin */
    uint32_t count;  /* bytes; items; of a mapping, pairs */
};

struct fl_yaml_error {
    size_t line; /* from 1 */
    size_t column;
    char words[200];
};

struct fl_yaml_document;

/* The version of libyaml in this process, "0.2.5"; static. */
const char *
fl_yaml_version(void);

/*
 * Reads all of `data`. 0 with `*ret` to be freed; -ENOMEM; or -EINVAL with
 * `*ret_error` filled in: not YAML, nothing that can be composed, more than
 * one document, or beyond a limit.
 */
int
fl_yaml_document_new(const uint8_t *data, size_t size,
                     const struct fl_yaml_limits *limits,
                     struct fl_yaml_document **ret,
                     struct fl_yaml_error *ret_error);

/* Accepts NULL. */
void
fl_yaml_document_free(struct fl_yaml_document *document);

/* Nodes are numbered from 0, the root; an empty stream has none. */
size_t
fl_yaml_document_count(const struct fl_yaml_document *document);

/* `number` is below the count. */
const struct fl_yaml_node *
fl_yaml_document_node(const struct fl_yaml_document *document,
                      uint32_t number);

/* The `count` bytes of a scalar, UTF-8, not ended by NUL. */
const char *
fl_yaml_document_text(const struct fl_yaml_document *document,
                      const struct fl_yaml_node *scalar);

/*
 * The node numbers of a sequence's `count` items, or of a mapping's `count`
 * keys, each followed by its value. Merge keys are replaced by what they
 * merge, ahead of the mapping's own pairs, as PyYAML does. A node may be its
 * own descendant.
 */
const uint32_t *
fl_yaml_document_children(const struct fl_yaml_document *document,
                          const struct fl_yaml_node *collection);

#endif
