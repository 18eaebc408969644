#include "queue.h"

int duet__queue_sleep(struct duet__lock *lock, struct duet__list *list, struct duet__waiter *waiter,
                      const struct duet__wait_ops *ops, const void *of, duet_deadline by,
                      enum duet__wait_kind kind)
{
    struct duet__parker *parker = waiter->parker;
    struct duet__wait wait;
    duet__list_append(list, &waiter->link);
    duet__unlock(lock);
    duet__wait_enter(&wait, parker, ops, of, 1, by, kind);
    int rc = duet__park(parker, by, kind != DUET__WAIT_PLAIN);
    duet__wait_leave(&wait); /* first: the graph's lock comes before ours */
    return duet__wait_claimed_after(waiter, lock, rc);
}

void duet__claimed_add(struct duet__claimed *claimed, struct duet__waiter *waiter)
{
    if (claimed->first)
        claimed->last->link.prev = &waiter->link;
    else
        claimed->first = waiter;
    claimed->last = waiter;
}

void duet__claimed_add_all(struct duet__claimed *claimed, struct duet__list *list)
{
    struct duet__waiter *waiter;
    while ((waiter = duet__waiter_pop(list)) != NULL)
        duet__claimed_add(claimed, waiter);
}

struct duet__waiter *duet__claimed_pop(struct duet__claimed *claimed)
{
    struct duet__waiter *first = claimed->first;
    if (!first)
        return NULL;
    struct duet__list *next = first->link.prev;
    claimed->first = next ? duet__container(next, struct duet__waiter, link) : NULL;
    first->link.prev = NULL;
    return first;
}

void duet__claimed_tell(struct duet__claimed *claimed)
{
    struct duet__waiter *waiter;
    while ((waiter = duet__claimed_pop(claimed)) != NULL)
        duet__waiter_tell(waiter);
}
