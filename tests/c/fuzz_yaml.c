/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The composer on any bytes: within its limits, whole if it says so, and the
 * same each time. What it composes is walked as the extension walks it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "yaml_document.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fl_yaml_limits limits = {
    .bytes = 1 << 16, .nodes = 2000, .depth = 50};

static void
expect(bool condition)
{
    if (!condition) {
        abort();
    }
}

/* In memory of exactly this size, so that a byte read too far is noticed. */
static void
read_scalar(const struct fl_yaml_document *document,
            const struct fl_yaml_node *node)
{
    char *text = malloc(node->count);
    char buffer[32];
    int64_t value;

    memcpy(text, fl_yaml_document_text(document, node), node->count);
    (void)fl_yaml_resolve(text, node->count);
    (void)fl_yaml_bool(text, node->count);
    if (node->tag == FL_YAML_TAG_INT && !node->unusual) {
        (void)fl_yaml_int(text, node->count, &value);
    }
    if (fl_yaml_float_text(text, node->count, buffer, sizeof(buffer)) == 0) {
        expect(strlen(buffer) <= node->count);
    }
    free(text);
}

static size_t
read_children(const struct fl_yaml_document *document,
              const struct fl_yaml_node *node)
{
    const size_t count = (size_t)node->count
                         * (node->kind == FL_YAML_MAPPING ? 2 : 1);
    const uint32_t *children = fl_yaml_document_children(document, node);

    for (size_t i = 0; i < count; i++) {
        expect(children[i] < fl_yaml_document_count(document));
    }
    return count;
}

static uint64_t
digest(const struct fl_yaml_document *document)
{
    const size_t count = fl_yaml_document_count(document);
    size_t children = 0;
    uint64_t sum = count;

    expect(count <= limits.nodes);
    for (uint32_t i = 0; i < count; i++) {
        const struct fl_yaml_node *node = fl_yaml_document_node(document, i);

        sum = sum * 31 + node->tag + node->line + node->column + node->count;
        if (node->kind == FL_YAML_SCALAR) {
            read_scalar(document, node);
        }
        else {
            children += read_children(document, node);
        }
    }
    /* Written, aliased (each at least two bytes) or merged. */
    expect(children <= limits.nodes + limits.bytes);
    return sum;
}

static uint64_t
compose(const uint8_t *data, size_t size)
{
    struct fl_yaml_document *document = NULL;
    struct fl_yaml_error error = {0};
    uint64_t sum;

    if (fl_yaml_document_new(data, size, &limits, &document, &error) < 0) {
        expect(document == NULL);
        expect(error.line >= 1 && error.column >= 1);
        expect(memchr(error.words, '\0', sizeof(error.words)) != NULL);
        return error.line * 31 + error.column;
    }
    sum = digest(document);
    fl_yaml_document_free(document);
    return sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    expect(compose(data, size) == compose(data, size));
    return 0;
}
