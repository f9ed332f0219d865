/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intrusive doubly linked list: a circular ring through a head. A node that
 * is in no list points at itself, so removing twice is harmless.
 */
#ifndef FL_LIST_H
#define FL_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct fl_list {
    struct fl_list *prev, *next;
};

#define FL_LIST_ENTRY(node, type, member)                                     \
    ((type *)(void *)((char *)(node)-offsetof(type, member)))

/* Goes over a list; the current node may be removed or freed meanwhile. */
#define FL_LIST_EACH(node, after, head)                                       \
    for (struct fl_list *node = (head)->next, *after = node->next;            \
         node != (head); node = after, after = node->next)

static inline void
fl_list_init(struct fl_list *node)
{
    node->prev = node->next = node;
}

static inline bool
fl_list_empty(const struct fl_list *head)
{
    return head->next == head;
}

static inline void
fl_list_remove(struct fl_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    fl_list_init(node);
}

/* Moves `node`, wherever it is, to the end of the list. */
static inline void
fl_list_append(struct fl_list *head, struct fl_list *node)
{
    fl_list_remove(node);
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

#endif
