/* Semaphore. The word holds twice the number of permits, and whether somebody waits: never both,
 * since a permit that is given while somebody waits goes to the first of them. */
#include "check.h"
#include "queue.h"

#include <duet/sync.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>

enum {
    WAITED_FOR = 1, /* set and cleared under the lock, with the queue */
    PERMIT = 2, /* the unit */
};

/* The caller's. */
struct sem {
    struct duet__queue queue;
    _Atomic uintptr_t word;
};
_Static_assert(sizeof(struct sem) <= sizeof(duet_sem), "a duet_sem has room for it");

static struct sem *sem_of(duet_sem *s)
{
    return (struct sem *)s;
}

void duet_sem_init(duet_sem *s, unsigned count)
{
    if (!s) {
        duet__bad_argument(__func__, "s is NULL");
        return;
    }
    *sem_of(s) = (struct sem){.word = (uintptr_t)count * PERMIT};
}

/* Acquires what was done before the permit was given. Pairs with the release in duet_sem_post(). */
static bool take(struct sem *sem)
{
    uintptr_t word = duet__load_relaxed(&sem->word);
    while (word >= PERMIT)
        if (duet__cas_acquire(&sem->word, &word, word - PERMIT))
            return true;
    return false;
}

/* Under the lock: takes one, or marks that somebody waits. */
static bool take_or_mark(struct sem *sem)
{
    uintptr_t none = 0;
    while (!take(sem)) {
        /* Publishes nothing: who reads it takes the lock. */
        if (duet__cas_relaxed(&sem->word, &none, WAITED_FOR) || none == WAITED_FOR)
            return false;
        none = 0;
    }
    return true;
}

/* Under the lock, with the mark: then nobody else changes the word. */
static void unmark_if_empty(struct sem *sem)
{
    if (duet__list_empty(&sem->queue.waiters))
        duet__store_relaxed(&sem->word, 0);
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "a permit of a semaphore");
    return buf;
}

static const struct duet__wait_ops wait_ops = {duet__any_thread_may_end, describe, false};

static int wait_in_queue(struct sem *sem, struct duet__parker *parker, duet_deadline by)
{
    struct duet__waiter waiter;
    bool shielded = parker->shields > 0;
    int rc = duet__wait_begin(parker, by, shielded);
    if (rc < 0)
        return rc;
    duet__waiter_init(&waiter, parker);
    duet__queue_lock(&sem->queue);
    if (!take_or_mark(sem)) {
        rc = duet__queue_sleep(&sem->queue.lock, &sem->queue.waiters, &waiter, &wait_ops, sem, by,
                               duet__wait_kind(shielded));
        if (rc == 0)
            return 0;
        unmark_if_empty(sem);
    }
    duet__queue_unlock(&sem->queue);
    return rc;
}

int duet_sem_wait(duet_sem *s, duet_deadline by)
{
    if (!s)
        return duet__bad_argument(__func__, "s is NULL");
    struct duet__parker *parker = duet__here();
    if (!duet__wait_is_cancelled(parker) && take(sem_of(s))) {
        duet__wait_unparked(parker);
        return 0;
    }
    return duet__told(wait_in_queue(sem_of(s), parker, by));
}

/* False: whoever waited has given up meanwhile. */
static bool hand_over(struct sem *sem)
{
    duet__queue_lock(&sem->queue);
    struct duet__waiter *first = duet__waiter_pop(&sem->queue.waiters);
    if (first)
        unmark_if_empty(sem);
    duet__queue_unlock(&sem->queue);
    duet__waiter_tell(first);
    return first;
}

int duet_sem_post(duet_sem *s)
{
    if (!s)
        return duet__bad_argument(__func__, "s is NULL");
    struct sem *sem = sem_of(s);
    for (;;) {
        uintptr_t word = duet__load_relaxed(&sem->word);
        if (word & WAITED_FOR) {
            if (hand_over(sem))
                return 0;
            continue;
        }
        if (word / PERMIT >= UINT_MAX)
            return -EOVERFLOW;
        /* The last touch. Publishes what was done before to who takes it; pairs with take(). */
        if (duet__cas_release(&sem->word, &word, word + PERMIT))
            return 0;
    }
}
