/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "err.h"

#include <stdio.h>
#include <string.h>

const char *
fl_err_name(int err)
{
    const char *name = NULL;

    switch (err) {
    case 0:
        return "OK";
#define FL_ERR_NAME(name, offset, message)                                    \
    case FL_##name:                                                           \
        return "FL_" #name;
        FL_ERR_MAP(FL_ERR_NAME)
#undef FL_ERR_NAME
    default:
        break;
    }
    if (err < 0 && err > -4096) {
        name = strerrorname_np(-err);
    }
    return name != NULL ? name : "?";
}

static const char *
protocol_message(int err)
{
    switch (err) {
#define FL_ERR_TEXT(name, offset, message)                                    \
    case FL_##name:                                                           \
        return message;
        FL_ERR_MAP(FL_ERR_TEXT)
#undef FL_ERR_TEXT
    default:
        return NULL;
    }
}

const char *
fl_err_message(int err, char *text, size_t size)
{
    const char *message = protocol_message(err);

    if (size == 0) {
        return text;
    }
    if (message == NULL && err < 0 && err > -4096) {
        /* strerrordesc_np() returns a constant, unlike strerror(). */
        message = strerrordesc_np(-err);
    }
    if (message == NULL) {
        (void)snprintf(text, size, err >= 0 ? "no error" : "error %d", err);
    }
    else {
        (void)snprintf(text, size, "%s", message);
    }
    return text;
}
