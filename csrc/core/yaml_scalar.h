/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a YAML 1.1 scalar is: the implicit types of PyYAML's safe loader, to
 * the letter, since that is what ansible-core reads with. Pure functions.
 */
#ifndef FL_YAML_SCALAR_H
#define FL_YAML_SCALAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(name, tag as written out in full); OTHER is any tag that is not here. */
#define FL_YAML_TAG_MAP(X)                                                    \
    X(OTHER, "")                                                              \
    X(STR, "tag:yaml.org,2002:str")                                           \
    X(NULL, "tag:yaml.org,2002:null")                                         \
    X(BOOL, "tag:yaml.org,2002:bool")                                         \
    X(INT, "tag:yaml.org,2002:int")                                           \
    X(FLOAT, "tag:yaml.org,2002:float")                                       \
    X(TIMESTAMP, "tag:yaml.org,2002:timestamp")                               \
    X(MERGE, "tag:yaml.org,2002:merge")                                       \
    X(VALUE, "tag:yaml.org,2002:value")                                       \
    X(SEQ, "tag:yaml.org,2002:seq")                                           \
    X(MAP, "tag:yaml.org,2002:map")                                           \
    X(BINARY, "tag:yaml.org,2002:binary")                                     \
    X(UNICODE, "tag:yaml.org,2002:python/unicode")                            \
    X(DICT, "tag:yaml.org,2002:python/dict")                                  \
    X(UNSAFE, "!unsafe")                                                      \
    X(VAULT, "!vault")                                                        \
    X(VAULT_ENCRYPTED, "!vault-encrypted")

enum fl_yaml_tag {
#define FL_YAML_TAG_ENUM(name, text) FL_YAML_TAG_##name,
    FL_YAML_TAG_MAP(FL_YAML_TAG_ENUM)
#undef FL_YAML_TAG_ENUM
};

/* The tag that is written so; FL_YAML_TAG_OTHER if none is. */
enum fl_yaml_tag
fl_yaml_tag_from_text(const char *text);

/* How a tag is written in full; static. */
const char *
fl_yaml_tag_text(enum fl_yaml_tag tag);

/*
 * The implicit tag of a plain scalar: STR, NULL, BOOL, INT, FLOAT, TIMESTAMP,
 * MERGE or VALUE. `text` is UTF-8 and need not end with NUL. As in PyYAML, a
 * line feed at the very end does not count.
 */
enum fl_yaml_tag
fl_yaml_resolve(const char *text, size_t size);

/* The value of a scalar that resolves to BOOL. */
bool
fl_yaml_bool(const char *text, size_t size);

/*
 * The value of a scalar that resolves to INT. 0; -ERANGE if it does not fit;
 * -EINVAL if it has no digits ("0x_"), which PyYAML refuses as well.
 */
int
fl_yaml_int(const char *text, size_t size, int64_t *ret);

/*
 * Copies a scalar that resolves to FLOAT into `buffer`, without underscores
 * and ended by NUL, as strtod() in the C locale wants it. 0, or -ERANGE if it
 * is too long or of a kind that strtod() does not know (".inf", "1:30.5").
 */
int
fl_yaml_float_text(const char *text, size_t size, char *buffer,
                   size_t buffer_size);

#endif
