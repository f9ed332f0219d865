/* SPDX-License-Identifier: BSD-3-Clause */
#include "yaml_scalar.h"

#include <errno.h>
#include <string.h>

static const char *const tag_texts[] = {
#define TAG_TEXT(name, text) text,
    FL_YAML_TAG_MAP(TAG_TEXT)
#undef TAG_TEXT
};

#define TAGS (sizeof(tag_texts) / sizeof(tag_texts[0]))

enum fl_yaml_tag
fl_yaml_tag_from_text(const char *text)
{
    for (size_t i = FL_YAML_TAG_OTHER + 1; i < TAGS; i++) {
        if (strcmp(tag_texts[i], text) == 0) {
            return (enum fl_yaml_tag)i;
        }
    }
    return FL_YAML_TAG_OTHER;
}

const char *
fl_yaml_tag_text(enum fl_yaml_tag tag)
{
    return tag_texts[tag];
}

/* What is left to read of a scalar. */
struct cursor {
    const char *at;
    const char *end;
};

static bool
at_end(const struct cursor *cursor)
{
    return cursor->at == cursor->end;
}

/* The next byte; NUL, which no pattern below accepts, at the end. */
static char
peek(const struct cursor *cursor)
{
    if (at_end(cursor)) {
        return '\0';
    }
    return *cursor->at;
}

static bool
accept(struct cursor *cursor, char wanted)
{
    if (at_end(cursor) || *cursor->at != wanted) {
        return false;
    }
    cursor->at++;
    return true;
}

static bool
is_one_of(char byte, const char *set)
{
    return byte != '\0' && strchr(set, byte) != NULL;
}

static bool
accept_one_of(struct cursor *cursor, const char *set)
{
    if (!is_one_of(peek(cursor), set)) {
        return false;
    }
    cursor->at++;
    return true;
}

/* Takes as many bytes of the set as there are, and says how many. */
static size_t
skip_all(struct cursor *cursor, const char *set)
{
    const char *start = cursor->at;

    while (accept_one_of(cursor, set)) {
    }
    return (size_t)(cursor->at - start);
}

#define DIGITS "0123456789"
#define DIGITS_OR_LOW "0123456789_"

/* Takes at most `most` digits; whether there were at least `least`. */
static bool
accept_digits(struct cursor *cursor, size_t least, size_t most)
{
    size_t count = 0;

    while (count < most && accept_one_of(cursor, DIGITS)) {
        count++;
    }
    return count >= least;
}

static bool
equals(const struct cursor *cursor, const char *word)
{
    const size_t size = (size_t)(cursor->end - cursor->at);

    return size == strlen(word) && memcmp(cursor->at, word, size) == 0;
}

static bool
equals_any(const struct cursor *cursor, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (equals(cursor, words[i])) {
            return true;
        }
    }
    return false;
}

#define EQUALS_ANY(cursor, words)                                             \
    equals_any((cursor), (words), sizeof(words) / sizeof((words)[0]))

static const char *const true_words[] = {"yes",  "Yes", "YES", "true", "True",
                                         "TRUE", "on",  "On",  "ON"};
static const char *const false_words[] = {
    "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"};
static const char *const null_words[] = {"~", "null", "Null", "NULL"};
static const char *const infinity_words[] = {".inf", ".Inf", ".INF"};
static const char *const nan_words[] = {".nan", ".NaN", ".NAN"};

/* One or more ":mm", as in 190:20:30. */
static bool
accept_sexagesimals(struct cursor *cursor)
{
    bool any = false;

    while (accept(cursor, ':')) {
        const char first = peek(cursor);

        if (!accept_digits(cursor, 1, 1)) {
            return false;
        }
        if (first <= '5') {
            (void)accept_digits(cursor, 0, 1);
        }
        any = true;
    }
    return any;
}

static bool
is_int(struct cursor cursor)
{
    (void)accept_one_of(&cursor, "-+");
    if (accept(&cursor, '0')) {
        if (at_end(&cursor)) {
            return true;
        }
        if (accept(&cursor, 'b')) {
            return skip_all(&cursor, "01_") > 0 && at_end(&cursor);
        }
        if (accept(&cursor, 'x')) {
            return skip_all(&cursor, DIGITS_OR_LOW "abcdefABCDEF") > 0
                   && at_end(&cursor);
        }
        return skip_all(&cursor, "01234567_") > 0 && at_end(&cursor);
    }
    if (!accept_digits(&cursor, 1, 1)) {
        return false;
    }
    (void)skip_all(&cursor, DIGITS_OR_LOW);
    return at_end(&cursor)
           || (accept_sexagesimals(&cursor) && at_end(&cursor));
}

/* An exponent must have a sign; there may be none at all. */
static bool
ends_with_exponent(struct cursor cursor)
{
    if (at_end(&cursor)) {
        return true;
    }
    return accept_one_of(&cursor, "eE") && accept_one_of(&cursor, "-+")
           && skip_all(&cursor, DIGITS) > 0 && at_end(&cursor);
}

/* What follows the point: digits, and perhaps an exponent. */
static bool
ends_with_fraction(struct cursor cursor)
{
    (void)skip_all(&cursor, DIGITS_OR_LOW);
    return ends_with_exponent(cursor);
}

static bool
ends_with_sexagesimal_fraction(struct cursor cursor)
{
    if (!accept_sexagesimals(&cursor) || !accept(&cursor, '.')) {
        return false;
    }
    (void)skip_all(&cursor, DIGITS_OR_LOW);
    return at_end(&cursor);
}

static bool
is_float(struct cursor cursor)
{
    const bool has_sign = accept_one_of(&cursor, "-+");

    if (EQUALS_ANY(&cursor, infinity_words)) {
        return true;
    }
    if (!has_sign && EQUALS_ANY(&cursor, nan_words)) {
        return true;
    }
    if (!has_sign && accept(&cursor, '.')) {
        return accept_digits(&cursor, 1, 1) && ends_with_fraction(cursor);
    }
    if (!accept_digits(&cursor, 1, 1)) {
        return false;
    }
    (void)skip_all(&cursor, DIGITS_OR_LOW);
    if (accept(&cursor, '.')) {
        return ends_with_fraction(cursor);
    }
    return ends_with_sexagesimal_fraction(cursor);
}

/* "Z", "+1", "-01:30", or nothing. */
static bool
ends_with_zone(struct cursor cursor)
{
    if (at_end(&cursor)) {
        return true;
    }
    (void)skip_all(&cursor, " \t");
    if (accept(&cursor, 'Z')) {
        return at_end(&cursor);
    }
    if (!accept_one_of(&cursor, "-+") || !accept_digits(&cursor, 1, 2)) {
        return false;
    }
    if (accept(&cursor, ':') && !accept_digits(&cursor, 2, 2)) {
        return false;
    }
    return at_end(&cursor);
}

static bool
is_date(struct cursor cursor)
{
    return accept_digits(&cursor, 4, 4) && accept(&cursor, '-')
           && accept_digits(&cursor, 2, 2) && accept(&cursor, '-')
           && accept_digits(&cursor, 2, 2) && at_end(&cursor);
}

static bool
is_date_and_time(struct cursor cursor)
{
    if (!accept_digits(&cursor, 4, 4) || !accept(&cursor, '-')
        || !accept_digits(&cursor, 1, 2) || !accept(&cursor, '-')
        || !accept_digits(&cursor, 1, 2))
    {
        return false;
    }
    if (!accept_one_of(&cursor, "Tt") && skip_all(&cursor, " \t") == 0) {
        return false;
    }
    if (!accept_digits(&cursor, 1, 2) || !accept(&cursor, ':')
        || !accept_digits(&cursor, 2, 2) || !accept(&cursor, ':')
        || !accept_digits(&cursor, 2, 2))
    {
        return false;
    }
    if (accept(&cursor, '.')) {
        (void)skip_all(&cursor, DIGITS);
    }
    return ends_with_zone(cursor);
}

static enum fl_yaml_tag
resolve_number(const struct cursor *cursor)
{
    if (is_float(*cursor)) {
        return FL_YAML_TAG_FLOAT;
    }
    if (is_int(*cursor)) {
        return FL_YAML_TAG_INT;
    }
    if (is_date(*cursor) || is_date_and_time(*cursor)) {
        return FL_YAML_TAG_TIMESTAMP;
    }
    return FL_YAML_TAG_STR;
}

static enum fl_yaml_tag
resolve_word(const struct cursor *cursor)
{
    if (EQUALS_ANY(cursor, true_words) || EQUALS_ANY(cursor, false_words)) {
        return FL_YAML_TAG_BOOL;
    }
    if (EQUALS_ANY(cursor, null_words)) {
        return FL_YAML_TAG_NULL;
    }
    return FL_YAML_TAG_STR;
}

/* A pattern's "$" matches ahead of a final line feed too. */
static struct cursor
cursor_over(const char *text, size_t size)
{
    struct cursor cursor = {text, text + size};

    if (size > 1 && text[size - 1] == '\n') {
        cursor.end--;
    }
    return cursor;
}

enum fl_yaml_tag
fl_yaml_resolve(const char *text, size_t size)
{
    const struct cursor cursor = cursor_over(text, size);

    if (size == 0) {
        return FL_YAML_TAG_NULL;
    }
    if (is_one_of(*text, "-+." DIGITS)) {
        return resolve_number(&cursor);
    }
    if (is_one_of(*text, "yYnNtTfFoO~")) {
        return resolve_word(&cursor);
    }
    if (equals(&cursor, "<<")) {
        return FL_YAML_TAG_MERGE;
    }
    return equals(&cursor, "=") ? FL_YAML_TAG_VALUE : FL_YAML_TAG_STR;
}

bool
fl_yaml_bool(const char *text, size_t size)
{
    const struct cursor cursor = cursor_over(text, size);

    return EQUALS_ANY(&cursor, true_words);
}

static int
digit_value(char byte)
{
    if (byte >= 'a') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' ? byte - 'A' + 10 : byte - '0';
}

/* value * factor + more, all of them not negative. */
static int
accumulate(int64_t *value, int64_t factor, int64_t more)
{
    int64_t product;

    if (__builtin_mul_overflow(*value, factor, &product)
        || __builtin_add_overflow(product, more, value))
    {
        return -ERANGE;
    }
    return 0;
}

/* Digits up to the end or a colon; -EINVAL if there are none. */
static int
read_digits(struct cursor *cursor, int base, int64_t *ret)
{
    int64_t value = 0;
    bool any = false;

    while (!at_end(cursor) && *cursor->at != ':') {
        const char byte = *cursor->at++;

        if (byte != '_') {
            const int err = accumulate(&value, base, digit_value(byte));

            if (err < 0) {
                return err;
            }
            any = true;
        }
    }
    *ret = value;
    return any ? 0 : -EINVAL;
}

static int
read_sexagesimals(struct cursor *cursor, int64_t *value)
{
    int err = 0;

    while (err == 0 && accept(cursor, ':')) {
        int64_t part;

        err = read_digits(cursor, 10, &part);
        if (err == 0) {
            err = accumulate(value, 60, part);
        }
    }
    return err;
}

int
fl_yaml_int(const char *text, size_t size, int64_t *ret)
{
    struct cursor cursor = cursor_over(text, size);
    const bool negative = peek(&cursor) == '-';
    int64_t value;
    int base = 10, err;

    (void)accept_one_of(&cursor, "-+");
    if (peek(&cursor) == '0') {
        base = 8;
        cursor.at++;
        if (accept(&cursor, 'b')) {
            base = 2;
        }
        else if (accept(&cursor, 'x')) {
            base = 16;
        }
        else {
            cursor.at--; /* "0" alone is a digit */
        }
    }
    err = read_digits(&cursor, base, &value);
    if (err == 0) {
        err = read_sexagesimals(&cursor, &value);
    }
    if (err == 0) {
        *ret = negative ? -value : value;
    }
    return err;
}

int
fl_yaml_float_text(const char *text, size_t size, char *buffer,
                   size_t buffer_size)
{
    struct cursor cursor = cursor_over(text, size);
    size_t count = 0;

    if ((size_t)(cursor.end - cursor.at) >= buffer_size) {
        return -ERANGE;
    }
    for (; !at_end(&cursor); cursor.at++) {
        const char byte = *cursor.at;

        if (!is_one_of(byte, DIGITS_OR_LOW "-+.eE")) {
            return -ERANGE;
        }
        if (byte != '_') {
            buffer[count++] = byte;
        }
    }
    buffer[count] = '\0';
    return 0;
}
