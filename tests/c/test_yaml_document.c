/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_document.h"

#include <errno.h>

#include "runner.h"
#include "support.h"

static const struct fl_yaml_limits ample = {
    .bytes = 1 << 20, .nodes = 10000, .depth = 100};

static const char everything[]
    = "- &a {key: [1, 'two', \"three\", {? =}]}\n- *a\n- !t |\n  text\n"
      "- {<<: [*a, {b: &c 2}], <<: *a, d: *c, =: 5}\n- !!str 12\n";

static int
compose_within(const char *text, const struct fl_yaml_limits *limits,
               struct fl_yaml_document **ret, struct fl_yaml_error *ret_error)
{
    return fl_yaml_document_new((const uint8_t *)text, strlen(text), limits,
                                ret, ret_error);
}

/* A document that must be good. */
static struct fl_yaml_document *
compose(const char *text)
{
    struct fl_yaml_document *document = NULL;
    struct fl_yaml_error error = {0};

    if (compose_within(text, &ample, &document, &error) < 0) {
        runner_fail(__FILE__, __LINE__, "%s", error.words);
    }
    return document;
}

/* A document that must be refused with these words. */
static void
check_refused(const char *text, const struct fl_yaml_limits *limits,
              const char *words, size_t line)
{
    struct fl_yaml_document *document = NULL;
    struct fl_yaml_error error = {0};

    CHECK_INT(compose_within(text, limits, &document, &error), -EINVAL);
    CHECK_CONTAINS(error.words, words);
    CHECK_INT(error.line, line);
    CHECK(error.column >= 1);
    CHECK(document == NULL);
}

static void
check_text(const struct fl_yaml_document *document, uint32_t number,
           const char *text)
{
    const struct fl_yaml_node *node = fl_yaml_document_node(document, number);

    CHECK_INT(node->kind, FL_YAML_SCALAR);
    CHECK_INT(node->count, strlen(text));
    CHECK_MEM(fl_yaml_document_text(document, node), text, node->count);
}

/* The keys and values of a mapping of scalars, in order. */
static void
check_mapping(const struct fl_yaml_document *document, uint32_t number,
              const char *const *texts, size_t count)
{
    const struct fl_yaml_node *node = fl_yaml_document_node(document, number);
    const uint32_t *children = fl_yaml_document_children(document, node);

    CHECK_INT(node->kind, FL_YAML_MAPPING);
    CHECK_INT((size_t)node->count * 2, count);
    for (size_t i = 0; i < count; i++) {
        check_text(document, children[i], texts[i]);
    }
}

#define CHECK_MAPPING(document, number, ...)                                  \
    do {                                                                      \
        const char *const texts_[] = {__VA_ARGS__};                           \
        check_mapping((document), (number), texts_,                           \
                      sizeof(texts_) / sizeof(texts_[0]));                    \
    } while (0)

TEST(nodes_and_their_places)
{
    struct fl_yaml_document *document = compose("k:\n- v\n- [\xc3\xa4, 2]\n");
    const struct fl_yaml_node *root = fl_yaml_document_node(document, 0);
    const uint32_t *pair = fl_yaml_document_children(document, root);
    const struct fl_yaml_node *list = fl_yaml_document_node(document, pair[1]);
    const uint32_t *items = fl_yaml_document_children(document, list);
    const struct fl_yaml_node *flow = fl_yaml_document_node(document,
                                                            items[1]);
    const struct fl_yaml_node *two = fl_yaml_document_node(
        document, fl_yaml_document_children(document, flow)[1]);

    CHECK_INT(fl_yaml_document_count(document), 7);
    CHECK_INT(root->kind, FL_YAML_MAPPING);
    CHECK_INT(root->tag, FL_YAML_TAG_MAP);
    check_text(document, pair[0], "k");
    CHECK_INT(list->kind, FL_YAML_SEQUENCE);
    CHECK_INT(list->line, 1);
    CHECK_INT(list->column, 0);
    CHECK_INT(list->count, 2);
    check_text(document, items[0], "v");
    CHECK_INT(two->tag, FL_YAML_TAG_INT);
    CHECK_INT(two->line, 2);
    CHECK_INT(two->column, 6); /* characters, not bytes */
    fl_yaml_document_free(document);
    fl_yaml_document_free(NULL);
}

TEST(written_tags)
{
    static const struct {
        const char *text;
        enum fl_yaml_tag tag;
        bool unusual;
    } cases[] = {
        {"12", FL_YAML_TAG_INT, false},
        {"'12'", FL_YAML_TAG_STR, false},
        {"! 12", FL_YAML_TAG_INT, false},
        {"!!str 12", FL_YAML_TAG_STR, true},
        {"!!int x", FL_YAML_TAG_INT, true},
        {"! \"12\\n\"", FL_YAML_TAG_INT, true},
        {"!vault |\n  x", FL_YAML_TAG_VAULT, true},
        {"!thing x", FL_YAML_TAG_OTHER, true},
        {"! [x]", FL_YAML_TAG_SEQ, false},
        {"!!map {}", FL_YAML_TAG_MAP, true},
        {"!!omap []", FL_YAML_TAG_OTHER, true},
        {"=", FL_YAML_TAG_VALUE, false},
        {"&a =", FL_YAML_TAG_OTHER, false},
        {"<<", FL_YAML_TAG_MERGE, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fl_yaml_document *document = compose(cases[i].text);
        const struct fl_yaml_node *node = fl_yaml_document_node(document, 0);

        if (node->tag != cases[i].tag || node->unusual != cases[i].unusual) {
            runner_fail(__FILE__, __LINE__, "%s is %s%s", cases[i].text,
                        fl_yaml_tag_text((enum fl_yaml_tag)node->tag),
                        node->unusual ? ", unusual" : "");
        }
        fl_yaml_document_free(document);
    }
}

TEST(empty_streams)
{
    struct fl_yaml_document *document = compose("");

    CHECK_INT(fl_yaml_document_count(document), 0);
    fl_yaml_document_free(document);
    document = compose("# nothing\n");
    CHECK_INT(fl_yaml_document_count(document), 0);
    fl_yaml_document_free(document);
    document = compose("---\n...\n");
    CHECK_INT(fl_yaml_document_count(document), 1);
    CHECK_INT(fl_yaml_document_node(document, 0)->tag, FL_YAML_TAG_NULL);
    check_text(document, 0, "");
    fl_yaml_document_free(document);
}

TEST(aliases_share_nodes)
{
    struct fl_yaml_document *document = compose("&r [&a x, *a, *r]");
    const uint32_t *items = fl_yaml_document_children(
        document, fl_yaml_document_node(document, 0));

    CHECK_INT(items[0], items[1]);
    CHECK_INT(items[2], 0);
    fl_yaml_document_free(document);
}

/* Nine to the ninth power, composed of no more than is written. */
TEST(billion_laughs)
{
    struct fl_yaml_document *document;
    char text[2048] = "a0: &a0 lol\n";

    for (int i = 1; i <= 9; i++) {
        const size_t used = strlen(text);
        size_t at = used
                    + (size_t)snprintf(text + used, sizeof(text) - used,
                                       "a%d: &a%d [", i, i);

        for (int j = 0; j < 9; j++) {
            at += (size_t)snprintf(text + at, sizeof(text) - at, "*a%d,",
                                   i - 1);
        }
        (void)snprintf(text + at, sizeof(text) - at, "]\n");
    }
    document = compose(text);
    CHECK_INT(fl_yaml_document_count(document), 1 + 2 * 10);
    fl_yaml_document_free(document);
}

TEST(merge_keys)
{
    /* Merged pairs come first; of several mappings, the last comes first. */
    struct fl_yaml_document *document = compose(
        "{a: 1, <<: [{b: 2}, {c: 3, <<: {d: 4}}], <<: {e: 5}, f: 6, '<<': 7}");

    CHECK_MAPPING(document, 0, "d", "4", "c", "3", "b", "2", "e", "5", "a",
                  "1", "f", "6", "<<", "7");
    fl_yaml_document_free(document);
}

TEST(value_keys_are_strings)
{
    struct fl_yaml_document *document = compose("{=: 1}");
    const uint32_t *pair = fl_yaml_document_children(
        document, fl_yaml_document_node(document, 0));

    CHECK_INT(fl_yaml_document_node(document, pair[0])->tag, FL_YAML_TAG_STR);
    fl_yaml_document_free(document);
}

TEST(what_cannot_be_merged)
{
    check_refused("{<<: 1}", &ample, "only mappings", 1);
    check_refused("{<<: [{a: 1},\n 2]}", &ample, "only mappings", 2);
    check_refused("&a {<<: *a}", &ample, "into itself", 1);
    check_refused("&a {b: {<<: *a}}", &ample, "into itself", 1);
    check_refused("&a [{<<: *a}]", &ample, "into itself", 1);
}

/* Each line doubles what the one before merges. */
TEST(merging_cannot_grow_without_end)
{
    char text[4096] = "- &a0 {x: 1}\n";

    for (int i = 1; i <= 40; i++) {
        const size_t used = strlen(text);

        (void)snprintf(text + used, sizeof(text) - used,
                       "- &a%d {<<: [*a%d, *a%d]}\n", i, i - 1, i - 1);
    }
    check_refused(text, &ample, "too many nodes", 12);
}

TEST(limits)
{
    struct fl_yaml_limits limits = ample;

    limits.depth = 2;
    check_refused("- - -", &limits, "too deeply", 1);
    limits = ample;
    limits.nodes = 5;
    check_refused(everything, &limits, "too many nodes", 1);
    limits = ample;
    limits.bytes = 3;
    check_refused("abcd", &limits, "too long", 1);
}

TEST(errors)
{
    check_refused("a: [\n}", &ample, "did not find", 2);
    check_refused("\xff\xff", &ample, "", 1);
    check_refused("a\n---\nb\n", &ample, "more than one document", 2);
    check_refused("- *a\n", &ample, "undefined alias", 1);
    check_refused("- &a 1\n- &a 2\n", &ample, "duplicate anchor", 2);
}

/* Hostile input: every byte of a document replaced by every other one. */
TEST(every_byte_changed)
{
    char text[sizeof(everything)];
    struct fl_yaml_error error;

    for (size_t at = 0; at < sizeof(everything) - 1; at++) {
        for (int byte = 0; byte < 256; byte++) {
            struct fl_yaml_document *document = NULL;
            int err;

            memcpy(text, everything, sizeof(everything));
            text[at] = (char)byte;
            err = fl_yaml_document_new((const uint8_t *)text,
                                       sizeof(everything) - 1, &ample,
                                       &document, &error);
            CHECK(err == 0 || (err == -EINVAL && error.line >= 1));
            fl_yaml_document_free(document);
        }
    }
}

/* libyaml's own allocations are its affair; ours are all of these. */
TEST(every_allocation_of_ours_may_fail)
{
    long failed = 0;
    int err = -ENOMEM;

    while (err == -ENOMEM) {
        struct fl_yaml_document *document = NULL;
        struct fl_yaml_error error;

        alloc_fail_after(failed++);
        err = compose_within(everything, &ample, &document, &error);
        CHECK(err == 0 || document == NULL);
        fl_yaml_document_free(document);
    }
    CHECK_INT(err, 0);
    CHECK(failed > 8);
}
