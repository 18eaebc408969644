/* An intrusive list, linked both ways through a head. What is in it belongs to whoever put it
 * there; an unlinked element has a NULL next, so that "is it still in a list?" is one look. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct duet__list {
    struct duet__list *next, *prev;
};

#define duet__container(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void duet__list_init(struct duet__list *head)
{
    head->next = head->prev = head;
}

static inline bool duet__list_empty(const struct duet__list *head)
{
    return head->next == head;
}

static inline bool duet__list_linked(const struct duet__list *element)
{
    return element->next != NULL;
}

static inline void duet__list_append(struct duet__list *head, struct duet__list *element)
{
    element->next = head;
    element->prev = head->prev;
    head->prev->next = element;
    head->prev = element;
}

static inline void duet__list_remove(struct duet__list *element)
{
    element->prev->next = element->next;
    element->next->prev = element->prev;
    element->next = element->prev = NULL;
}

/* Moves all elements of another list to the end of this one, in their order. */
static inline void duet__list_append_all(struct duet__list *head, struct duet__list *from)
{
    if (duet__list_empty(from))
        return;
    from->next->prev = head->prev;
    head->prev->next = from->next;
    from->prev->next = head;
    head->prev = from->prev;
    duet__list_init(from);
}

/* The first element, unlinked; NULL: the list is empty. */
static inline struct duet__list *duet__list_pop(struct duet__list *head)
{
    struct duet__list *first = head->next;
    if (first == head)
        return NULL;
    duet__list_remove(first);
    return first;
}

#define duet__list_for_each(it, head)                                                              \
    for (struct duet__list *it = (head)->next; it != (head); it = it->next)
