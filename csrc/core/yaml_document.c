/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_document.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "yaml_anchors.h"

#define FIRST_CAPACITY ((size_t)64)

/* Whatever the caller allows, places and numbers must fit into 32 bits. */
#define BYTES_MAX ((size_t)UINT32_MAX / 2)
#define NODES_MAX ((size_t)UINT32_MAX / 4)

/* Items of one size, contiguous; grows by doubling. */
struct array {
    void *items;
    size_t count;
    size_t capacity;
};

struct fl_yaml_document {
    struct array nodes;    /* struct fl_yaml_node */
    struct array children; /* uint32_t, those of one collection together */
    struct array text;     /* char */
};

/* A collection whose end has not come yet. */
struct open_collection {
    uint32_t node;
    size_t first_child; /* in composer.pending */
};

struct composer {
    yaml_parser_t parser;
    struct fl_yaml_limits limits;
    struct fl_yaml_error *error;
    struct fl_yaml_document *document;
    struct fl_yaml_anchors *anchors;
    struct array open;    /* struct open_collection, innermost last */
    struct array pending; /* uint32_t: children of the open collections */
    size_t merged;        /* children that merge keys have copied */
};

const char *
fl_yaml_version(void)
{
    return yaml_get_version_string();
}

static int
array_reserve(struct array *array, size_t item_size, size_t more)
{
    size_t capacity = array->capacity == 0 ? FIRST_CAPACITY : array->capacity;
    void *items;

    if (more <= array->capacity - array->count) {
        return 0;
    }
    while (capacity - array->count < more) {
        if (capacity > SIZE_MAX / 2 / item_size) {
            return -ENOMEM;
        }
        capacity *= 2;
    }
    items = realloc(array->items, capacity * item_size);
    if (items == NULL) {
        return -ENOMEM;
    }
    array->items = items;
    array->capacity = capacity;
    return 0;
}

static int
array_append(struct array *array, const void *items, size_t item_size,
             size_t count)
{
    const int err = array_reserve(array, item_size, count);

    if (err == 0 && count > 0) {
        memcpy((char *)array->items + array->count * item_size, items,
               count * item_size);
        array->count += count;
    }
    return err;
}

static int
append_number(struct array *array, uint32_t number)
{
    return array_append(array, &number, sizeof(number), 1);
}

static struct fl_yaml_node *
node_at(const struct fl_yaml_document *document, uint32_t number)
{
    return (struct fl_yaml_node *)document->nodes.items + number;
}

static int
complain_at(const struct composer *composer, const char *words, size_t line,
            size_t column)
{
    composer->error->line = line + 1;
    composer->error->column = column + 1;
    (void)snprintf(composer->error->words, sizeof(composer->error->words),
                   "%s", words);
    return -EINVAL;
}

static int
complain(const struct composer *composer, const char *words,
         const yaml_event_t *event)
{
    return complain_at(composer, words, event->start_mark.line,
                       event->start_mark.column);
}

static int
complain_node(const struct composer *composer, const char *words,
              const struct fl_yaml_node *node)
{
    return complain_at(composer, words, node->line, node->column);
}

/* Why libyaml stopped; reader errors know an offset only, so mark where. */
static int
complain_parser(const struct composer *composer)
{
    const yaml_parser_t *parser = &composer->parser;
    const char *problem = parser->problem != NULL ? parser->problem
                                                  : "not YAML";
    yaml_mark_t mark = parser->problem_mark;
    char words[sizeof(composer->error->words)];

    if (parser->error == YAML_MEMORY_ERROR) {
        return -ENOMEM;
    }
    if (parser->error == YAML_READER_ERROR) {
        mark = parser->mark;
    }
    (void)snprintf(words, sizeof(words), "%s%s%s", problem,
                   parser->context != NULL ? ", " : "",
                   parser->context != NULL ? parser->context : "");
    return complain_at(composer, words, mark.line, mark.column);
}

/* ---- nodes ------------------------------------------------------------- */

/* Merging alone can make a document larger than it is written. */
static int
check_size(const struct composer *composer, const yaml_event_t *event)
{
    if (composer->document->nodes.count + composer->merged
        > composer->limits.nodes)
    {
        return complain(composer, "the document has too many nodes", event);
    }
    return 0;
}

static int
add_anchor(struct composer *composer, const yaml_char_t *name, uint32_t number,
           const yaml_event_t *event)
{
    int err;

    if (name == NULL) {
        return 0;
    }
    err = fl_yaml_anchors_add(composer->anchors, (const char *)name, number);
    if (err == -EEXIST) {
        return complain(composer, "found duplicate anchor", event);
    }
    return err;
}

/* Adds a node, which becomes the next child of the innermost collection. */
static int
add_node(struct composer *composer, const struct fl_yaml_node *node,
         const yaml_char_t *anchor, const yaml_event_t *event)
{
    struct array *nodes = &composer->document->nodes;
    const uint32_t number = (uint32_t)nodes->count;
    int err = array_append(nodes, node, sizeof(*node), 1);

    if (err == 0) {
        err = check_size(composer, event);
    }
    if (err == 0) {
        err = add_anchor(composer, anchor, number, event);
    }
    return err < 0 ? err : append_number(&composer->pending, number);
}

static struct fl_yaml_node
node_of(const yaml_event_t *event, enum fl_yaml_kind kind)
{
    return (struct fl_yaml_node){
        .kind = (uint8_t)kind,
        .line = (uint32_t)event->start_mark.line,
        .column = (uint32_t)event->start_mark.column,
    };
}

/* "!" asks for the tag that the kind of node has by itself. */
static bool
is_written(const yaml_char_t *tag)
{
    return tag != NULL && strcmp((const char *)tag, "!") != 0;
}

static void
tag_scalar(const yaml_event_t *event, struct fl_yaml_node *node)
{
    const char *text = (const char *)event->data.scalar.value;
    const size_t size = event->data.scalar.length;

    node->tag = FL_YAML_TAG_STR;
    if (is_written(event->data.scalar.tag)) {
        node->tag = (uint8_t)fl_yaml_tag_from_text(
            (const char *)event->data.scalar.tag);
        node->unusual = true;
    }
    else if (event->data.scalar.plain_implicit) {
        node->tag = (uint8_t)fl_yaml_resolve(text, size);
        node->unusual = size > 0 && text[size - 1] == '\n';
    }
}

/*
 * A "=" is a string where it is a key, and nothing known elsewhere. With an
 * alias it could be both.
 */
static void
retag_value(const yaml_event_t *event, struct fl_yaml_node *node)
{
    if (node->tag == FL_YAML_TAG_VALUE && event->data.scalar.anchor != NULL) {
        node->tag = FL_YAML_TAG_OTHER;
    }
}

static int
compose_scalar(struct composer *composer, const yaml_event_t *event)
{
    struct array *text = &composer->document->text;
    struct fl_yaml_node node = node_of(event, FL_YAML_SCALAR);
    int err;

    tag_scalar(event, &node);
    retag_value(event, &node);
    node.first = (uint32_t)text->count;
    node.count = (uint32_t)event->data.scalar.length;
    err = array_append(text, event->data.scalar.value, 1,
                       event->data.scalar.length);
    if (err == 0 && text->count > UINT32_MAX) {
        return complain(composer, "the document is too long", event);
    }
    return err < 0
               ? err
               : add_node(composer, &node, event->data.scalar.anchor, event);
}

static int
compose_alias(struct composer *composer, const yaml_event_t *event)
{
    uint32_t number;

    if (fl_yaml_anchors_find(composer->anchors,
                             (const char *)event->data.alias.anchor, &number)
        < 0)
    {
        return complain(composer, "found undefined alias", event);
    }
    return append_number(&composer->pending, number);
}

static int
open_collection(struct composer *composer, const yaml_event_t *event,
                struct fl_yaml_node node, const yaml_char_t *tag,
                const yaml_char_t *anchor)
{
    struct open_collection opened = {
        .node = (uint32_t)composer->document->nodes.count};
    int err;

    if (composer->open.count >= composer->limits.depth) {
        return complain(composer, "the document is nested too deeply", event);
    }
    node.unusual = is_written(tag);
    if (node.unusual) {
        node.tag = (uint8_t)fl_yaml_tag_from_text((const char *)tag);
    }
    err = add_node(composer, &node, anchor, event);
    if (err < 0) {
        return err;
    }
    opened.first_child = composer->pending.count;
    return array_append(&composer->open, &opened, sizeof(opened), 1);
}

static int
open_sequence(struct composer *composer, const yaml_event_t *event)
{
    struct fl_yaml_node node = node_of(event, FL_YAML_SEQUENCE);

    node.tag = FL_YAML_TAG_SEQ;
    return open_collection(composer, event, node,
                           event->data.sequence_start.tag,
                           event->data.sequence_start.anchor);
}

static int
open_mapping(struct composer *composer, const yaml_event_t *event)
{
    struct fl_yaml_node node = node_of(event, FL_YAML_MAPPING);

    node.tag = FL_YAML_TAG_MAP;
    return open_collection(composer, event, node,
                           event->data.mapping_start.tag,
                           event->data.mapping_start.anchor);
}

/* ---- merge keys -------------------------------------------------------- */

static bool
is_open(const struct composer *composer, uint32_t number)
{
    const struct open_collection *open = composer->open.items;

    for (size_t i = 0; i < composer->open.count; i++) {
        if (open[i].node == number) {
            return true;
        }
    }
    return false;
}

/* Appends the pairs of one merged mapping to the pool of children. */
static int
merge_mapping(struct composer *composer, uint32_t number)
{
    struct fl_yaml_document *document = composer->document;
    const struct fl_yaml_node *node = node_at(document, number);
    const size_t count = (size_t)node->count * 2;
    int err;

    if (node->kind != FL_YAML_MAPPING) {
        return complain_node(composer, "only mappings can be merged", node);
    }
    /* What PyYAML makes of this depends on the order it works in. */
    if (is_open(composer, number)) {
        return complain_node(composer, "a mapping is merged into itself",
                             node);
    }
    composer->merged += count;
    if (document->nodes.count + composer->merged > composer->limits.nodes) {
        return complain_node(composer, "the document has too many nodes",
                             node);
    }
    /* The source lies in the same array: make room before pointing at it. */
    err = array_reserve(&document->children, sizeof(uint32_t), count);
    if (err < 0) {
        return err;
    }
    return array_append(&document->children,
                        (uint32_t *)document->children.items + node->first,
                        sizeof(uint32_t), count);
}

/* The last of several merged mappings comes first, so the first one wins. */
static int
merge_value(struct composer *composer, uint32_t number)
{
    const struct fl_yaml_document *document = composer->document;
    const struct fl_yaml_node node = *node_at(document, number);

    if (node.kind != FL_YAML_SEQUENCE) {
        return merge_mapping(composer, number);
    }
    if (is_open(composer, number)) {
        return complain_node(composer, "a sequence is merged into itself",
                             &node);
    }
    for (uint32_t i = node.count; i > 0; i--) {
        const uint32_t *items = (uint32_t *)document->children.items
                                + node.first;
        const int err = merge_mapping(composer, items[i - 1]);

        if (err < 0) {
            return err;
        }
    }
    return 0;
}

/* Merges what the merge keys among these pairs name; keeps the others. */
static int
flatten(struct composer *composer, uint32_t *pairs, size_t *count)
{
    const struct fl_yaml_document *document = composer->document;
    size_t kept = 0;

    for (size_t i = 0; i < *count; i += 2) {
        struct fl_yaml_node *key = node_at(document, pairs[i]);

        if (key->tag == FL_YAML_TAG_MERGE) {
            const int err = merge_value(composer, pairs[i + 1]);

            if (err < 0) {
                return err;
            }
            continue;
        }
        if (key->tag == FL_YAML_TAG_VALUE) {
            key->tag = FL_YAML_TAG_STR;
        }
        pairs[kept++] = pairs[i];
        pairs[kept++] = pairs[i + 1];
    }
    *count = kept;
    return 0;
}

/* ---- ends -------------------------------------------------------------- */

/* Moves the children of the innermost collection to where they stay. */
static int
close_collection(struct composer *composer)
{
    struct fl_yaml_document *document = composer->document;
    const struct open_collection closed
        = ((struct open_collection *)
               composer->open.items)[composer->open.count - 1];
    uint32_t *children = (uint32_t *)composer->pending.items
                         + closed.first_child;
    size_t count = composer->pending.count - closed.first_child;
    const size_t first = document->children.count;
    const bool is_mapping = node_at(document, closed.node)->kind
                            == FL_YAML_MAPPING;
    struct fl_yaml_node *node;
    int err = is_mapping ? flatten(composer, children, &count) : 0;

    if (err == 0) {
        err = array_append(&document->children, children, sizeof(*children),
                           count);
    }
    if (err < 0) {
        return err;
    }
    node = node_at(document, closed.node);
    if (document->children.count > UINT32_MAX) {
        return complain_node(composer, "the document has too many nodes",
                             node);
    }
    count = document->children.count - first;
    node->first = (uint32_t)first;
    node->count = (uint32_t)(is_mapping ? count / 2 : count);
    composer->pending.count = closed.first_child;
    composer->open.count--;
    return 0;
}

static int
compose_event(struct composer *composer, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (composer->document->nodes.count > 0) {
            return complain(composer, "there is more than one document",
                            event);
        }
        return 0;
    case YAML_SCALAR_EVENT:
        return compose_scalar(composer, event);
    case YAML_ALIAS_EVENT:
        return compose_alias(composer, event);
    case YAML_SEQUENCE_START_EVENT:
        return open_sequence(composer, event);
    case YAML_MAPPING_START_EVENT:
        return open_mapping(composer, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return close_collection(composer);
    default:
        return 0;
    }
}

/* 1: the stream has ended. 0: go on. */
static int
compose_next(struct composer *composer)
{
    yaml_event_t event;
    int r;

    if (!yaml_parser_parse(&composer->parser, &event)) {
        return complain_parser(composer);
    }
    r = compose_event(composer, &event);
    if (r == 0 && event.type == YAML_STREAM_END_EVENT) {
        r = 1;
    }
    yaml_event_delete(&event);
    return r;
}

static int
compose_all(struct composer *composer, const uint8_t *data, size_t size)
{
    int r;

    if (!yaml_parser_initialize(&composer->parser)) {
        return -ENOMEM;
    }
    yaml_parser_set_input_string(&composer->parser, data, size);
    do {
        r = compose_next(composer);
    } while (r == 0);
    yaml_parser_delete(&composer->parser);
    return r < 0 ? r : 0;
}

static int
compose(struct composer *composer, const uint8_t *data, size_t size)
{
    int err = fl_yaml_anchors_new(&composer->anchors);

    if (err == 0) {
        err = compose_all(composer, data, size);
        fl_yaml_anchors_free(composer->anchors);
    }
    free(composer->open.items);
    free(composer->pending.items);
    return err;
}

static size_t
smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

int
fl_yaml_document_new(const uint8_t *data, size_t size,
                     const struct fl_yaml_limits *limits,
                     struct fl_yaml_document **ret,
                     struct fl_yaml_error *ret_error)
{
    struct composer composer = {.limits = *limits, .error = ret_error};
    int err;

    composer.limits.nodes = smaller(limits->nodes, NODES_MAX);
    if (size > smaller(limits->bytes, BYTES_MAX)) {
        return complain_at(&composer, "the document is too long", 0, 0);
    }
    composer.document = calloc(1, sizeof(*composer.document));
    if (composer.document == NULL) {
        return -ENOMEM;
    }
    err = compose(&composer, data, size);
    if (err < 0) {
        fl_yaml_document_free(composer.document);
        return err;
    }
    *ret = composer.document;
    return 0;
}

void
fl_yaml_document_free(struct fl_yaml_document *document)
{
    if (document == NULL) {
        return;
    }
    free(document->nodes.items);
    free(document->children.items);
    free(document->text.items);
    free(document);
}

size_t
fl_yaml_document_count(const struct fl_yaml_document *document)
{
    return document->nodes.count;
}

const struct fl_yaml_node *
fl_yaml_document_node(const struct fl_yaml_document *document, uint32_t number)
{
    return node_at(document, number);
}

const char *
fl_yaml_document_text(const struct fl_yaml_document *document,
                      const struct fl_yaml_node *scalar)
{
    /* Only empty texts: nothing has been allocated. */
    return document->text.items == NULL
               ? ""
               : (const char *)document->text.items + scalar->first;
}

const uint32_t *
fl_yaml_document_children(const struct fl_yaml_document *document,
                          const struct fl_yaml_node *collection)
{
    return (const uint32_t *)document->children.items + collection->first;
}
