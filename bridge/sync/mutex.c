/* Mutex. The word holds the parker of who holds the mutex, and whether somebody waits for it.
 * While somebody waits, only who has the queue's lock may let it go: so under that lock the holder
 * stays the holder, and stays alive, since it may not end while it holds a mutex. That is what a
 * search in the graph of waits rests on. */
#include "mutex.h"
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

enum {
    WAITED_FOR = 1 /* set and cleared under the lock, with the queue */
};

/* The caller's. */
struct duet__mutex {
    struct duet__queue queue;
    _Atomic uintptr_t word;
};
_Static_assert(sizeof(struct duet__mutex) <= sizeof(duet_mutex), "a duet_mutex has room for it");
_Static_assert(_Alignof(struct duet__parker) > WAITED_FOR, "a parker's address has a bit to spare");

struct duet__mutex *duet__mutex_of(duet_mutex *m)
{
    return (struct duet__mutex *)m;
}

static uintptr_t holder_bits(uintptr_t word)
{
    return word & ~(uintptr_t)WAITED_FOR;
}

bool duet__mutex_is_held_by(struct duet__mutex *mutex, const struct duet__parker *parker)
{
    /* A look: whether it is oneself cannot change meanwhile. */
    return holder_bits(duet__load_relaxed(&mutex->word)) == (uintptr_t)parker;
}

/* ---- A thread must not end while it holds one ---- */

static pthread_key_t end_of_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool can_watch;
static _Thread_local bool watched;

static void thread_ends(void *unused)
{
    (void)unused;
    duet__parker_rests(duet__here(), 0);
}

static void make_key(void)
{
    can_watch = pthread_key_create(&end_of_thread, thread_ends) == 0;
}

/* Once a thread. Without the memory for it, its end is not watched. */
static void watch_thread(void)
{
    pthread_once(&once, make_key);
    if (can_watch)
        pthread_setspecific(end_of_thread, &watched);
    watched = true;
}

void duet__mutex_got(struct duet__parker *parker)
{
    parker->held++;
    if (!parker->work && !watched)
        watch_thread();
}

/* ---- Locking ---- */

static bool take(struct duet__mutex *mutex, struct duet__parker *parker)
{
    uintptr_t nobody = 0;
    /* Acquires what was done under the mutex before; pairs with the release in unlock. Publishes
     * the parker to a search; pairs with duet__mutex_may_come(). */
    return duet__cas_acq_rel(&mutex->word, &nobody, (uintptr_t)parker);
}

/* Under the lock: takes it, or marks that somebody waits. */
static bool take_or_mark(struct duet__mutex *mutex, struct duet__parker *parker)
{
    while (!take(mutex, parker)) {
        uintptr_t word = duet__load_relaxed(&mutex->word);
        /* Publishes nothing: who reads it takes the lock. */
        if ((word & WAITED_FOR) ||
            (word != 0 && duet__cas_relaxed(&mutex->word, &word, word | WAITED_FOR)))
            return false;
    }
    return true;
}

/* Under the lock, with the mark: then nobody else changes the word. */
static void unmark_if_empty(struct duet__mutex *mutex)
{
    if (duet__list_empty(&mutex->queue.waiters)) /* no store: it would hide what take() published */
        duet__and_acquire(&mutex->word, ~(uintptr_t)WAITED_FOR);
}

static bool may_end(const struct duet__wait *wait, struct duet__look *look)
{
    return duet__mutex_may_come((struct duet__mutex *)wait->of, wait->parker, look);
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    return duet__mutex_describe((struct duet__mutex *)wait->of, buf, size);
}

static const struct duet__wait_ops wait_ops = {may_end, describe, false};

static int wait_in_queue(struct duet__mutex *mutex, struct duet__parker *parker, duet_deadline by,
                         enum duet__wait_kind kind)
{
    struct duet__waiter waiter;
    int rc = 0;
    duet__waiter_init(&waiter, parker);
    duet__queue_lock(&mutex->queue);
    if (!take_or_mark(mutex, parker)) {
        rc = duet__queue_sleep(&mutex->queue.lock, &mutex->queue.waiters, &waiter, &wait_ops, mutex,
                               by, kind);
        if (rc == 0)
            return 0;
        unmark_if_empty(mutex);
    }
    duet__queue_unlock(&mutex->queue);
    return rc;
}

static int lock_slowly(struct duet__mutex *mutex, struct duet__parker *parker, duet_deadline by)
{
    bool shielded = parker->shields > 0;
    if (duet__mutex_is_held_by(mutex, parker))
        return duet__wait_failed(parker, -EDEADLK);
    int rc = duet__wait_begin(parker, by, shielded);
    if (rc == 0)
        rc = wait_in_queue(mutex, parker, by, duet__wait_kind(shielded));
    if (rc == 0)
        duet__mutex_got(parker);
    return rc;
}

int duet_mutex_lock(duet_mutex *m, duet_deadline by)
{
    if (!m)
        return duet__bad_argument(__func__, "m is NULL");
    struct duet__mutex *mutex = duet__mutex_of(m);
    struct duet__parker *parker = duet__here();
    duet__wait_unparked(parker); /* now, not when it holds what others may want */
    if (duet__wait_is_cancelled(parker) || !take(mutex, parker))
        return duet__told(lock_slowly(mutex, parker, by));
    duet__mutex_got(parker);
    return 0;
}

void duet__mutex_lock_surely(struct duet__mutex *mutex, struct duet__parker *parker)
{
    if (!take(mutex, parker))
        wait_in_queue(mutex, parker, DUET_NEVER, DUET__WAIT_ENDS); /* which cannot fail */
    duet__mutex_got(parker);
}

/* ---- Handing over ---- */

/* To who has waited longest. False: whoever waited has given up meanwhile. */
static bool hand_over(struct duet__mutex *mutex)
{
    duet__queue_lock(&mutex->queue);
    struct duet__waiter *first = duet__waiter_pop(&mutex->queue.waiters);
    if (first) {
        /* Publishes nothing: the new holder acquires by its token what was done under the mutex. */
        duet__store_relaxed(&mutex->word, (uintptr_t)first->parker | WAITED_FOR);
        unmark_if_empty(mutex);
    }
    duet__queue_unlock(&mutex->queue);
    duet__waiter_tell(first);
    return first;
}

void duet__mutex_unlock(struct duet__mutex *mutex, struct duet__parker *parker)
{
    uintptr_t word;
    parker->held--;
    do {
        word = (uintptr_t)parker;
        /* The last touch. Publishes what was done under the mutex; pairs with take(). */
    } while (!duet__cas_release(&mutex->word, &word, 0) && !hand_over(mutex));
}

int duet_mutex_unlock(duet_mutex *m)
{
    if (!m)
        return duet__bad_argument(__func__, "m is NULL");
    struct duet__mutex *mutex = duet__mutex_of(m);
    struct duet__parker *parker = duet__here();
    if (!duet__mutex_is_held_by(mutex, parker))
        return -EPERM;
    duet__mutex_unlock(mutex, parker);
    return 0;
}

void duet__mutex_queue(struct duet__mutex *mutex, struct duet__waiter *waiter)
{
    duet__queue_lock(&mutex->queue);
    bool taken = take_or_mark(mutex, waiter->parker);
    if (!taken)
        duet__list_append(&mutex->queue.waiters, &waiter->link);
    duet__queue_unlock(&mutex->queue);
    if (taken)
        duet__waiter_tell(waiter);
}

void duet__mutex_await(struct duet__mutex *mutex, struct duet__waiter *waiter)
{
    struct duet__wait wait;
    duet__wait_enter(&wait, waiter->parker, &wait_ops, mutex, 1, DUET_NEVER, DUET__WAIT_ENDS);
    duet__park_token(waiter->parker);
    duet__wait_leave(&wait);
}

/* ---- In the graph of waits ---- */

bool duet__mutex_may_come(struct duet__mutex *mutex, const struct duet__parker *to,
                          struct duet__look *look)
{
    duet__queue_lock(&mutex->queue);
    /* Acquires the holder's parker as it was when it took the mutex; pairs with take(). */
    uintptr_t word = duet__load_acquire(&mutex->word), holder = holder_bits(word);
    /* Without the mark it waits no more; one that holds it already has been claimed. */
    bool is_held = (word & WAITED_FOR) && holder != (uintptr_t)to;
    bool may =
        !is_held || duet__look_at(look, (const struct duet__parker *)holder, DUET__VIA_ITSELF);
    bool stands = is_held && duet__look_stands((const struct duet__parker *)holder);
    duet__queue_unlock(&mutex->queue);
    /* A loop that it runs may end whenever somebody stops that: if there is somebody. */
    return may && (!stands || duet__look_at_threads(look));
}

const char *duet__mutex_describe(struct duet__mutex *mutex, char *buf, size_t size)
{
    char who[128];
    duet__queue_lock(&mutex->queue);
    uintptr_t word = duet__load_acquire(&mutex->word); /* as above */
    if (word & WAITED_FOR)
        duet__parker_describe((const struct duet__parker *)holder_bits(word), who, sizeof who);
    duet__queue_unlock(&mutex->queue);
    if (word & WAITED_FOR)
        snprintf(buf, size, "a mutex held by %s", who);
    else
        snprintf(buf, size, "a mutex");
    return buf;
}
