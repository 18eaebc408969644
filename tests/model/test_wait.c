/* A wait against settling, its deadline and its cancellation, and the lock beneath, as shipped
 * (base/future.c, base/park.c, base/lock.*). */
#include "future_impl.h"
#include "kernel.h"
#include "model.h"
#include "model_atomic.h"
#include "work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static duet_future *future;
static struct duet__parker waiter_parkers[2], other_parker;
static uint64_t data;
static int outcome[2];
static bool leaves_without_asking, hides, takes_itself_for_alone, may_expire, work_is_referenced;

/* ---- The wait ---- */

/* A broken variant: at the deadline it goes, without asking whether somebody has claimed it. */
static int careless_wait(duet_future *f, struct duet__parker *here, duet_deadline by)
{
    static struct duet__waiter waiters[2];
    struct duet__waiter *waiter = &waiters[here - waiter_parkers];
    duet__waiter_init(waiter, here);
    return duet__future_enqueue(f, waiter) ? duet__park(here, by, false) : 0;
}

/* Another: it joins the queue, and does not say so. */
static int hidden_wait(duet_future *f, struct duet__parker *here, duet_result *ret)
{
    static struct duet__waiter waiters[2];
    struct duet__waiter *waiter = &waiters[here - waiter_parkers];
    duet__waiter_init(waiter, here);
    bool pending = !(duet__future_lock(f, 0) & DUET__FUTURE_SETTLED);
    if (pending)
        duet__list_append(&f->waiters, &waiter->link);
    duet__future_unlock(f);
    int rc = pending ? duet__park(here, DUET_NEVER, false) : 0;
    *ret = f->result;
    return rc;
}

static void wait_thread(void *arg)
{
    struct duet__parker *here = duet__here();
    int *ret = arg;
    duet_deadline by = may_expire ? (duet_deadline){1000} : DUET_NEVER;
    duet_result result = duet_err(-EIO);
    *ret = leaves_without_asking ? careless_wait(future, here, by)
           : hides               ? hidden_wait(future, here, &result)
                                 : duet_future_wait(future, by, &result);
    if (*ret == 0)
        model_assert(duet__plain_read(&data) == 42); /* what the settler wrote before is seen */
    if (*ret == 0 && !leaves_without_asking)
        model_assert(result.err == 0 && result.as.i64 == 7);
    model_assert(*ret == 0 || *ret == -ETIME || *ret == -ECANCELED);
    /* No token is left over, and nobody will touch the parker any more: its thread may end. */
    uint32_t word = (uint32_t)model_newest(&here->word, sizeof here->word);
    model_assert((word & ~(uint32_t)DUET__PARK_CANCEL) == 0);
    if (!work_is_referenced)
        model_free(here, sizeof *here);
}

static void settle_thread(void *arg)
{
    (void)arg;
    duet__plain_write(&data, 42);
    model_assert(duet_future_settle(future, duet_i64(7)) == 0);
}

static void cancel_thread(void *arg)
{
    (void)arg;
    duet__park_cancel(&waiter_parkers[0]);
}

static void reset(bool expires)
{
    duet__here_set(NULL);
    model_kernel_reset();
    if (future)
        free(future);
    if (duet_future_open(&future) < 0)
        abort();
    data = 0;
    may_expire = expires;
    work_is_referenced = false;
    outcome[0] = outcome[1] = 1;
    for (int i = 0; i < 2; i++)
        duet__parker_init(&waiter_parkers[i], duet__here()->ops, NULL, 0);
    duet__parker_init(&other_parker, duet__here()->ops, NULL, 0);
}

static void setup_plain(void)
{
    reset(false);
    model_spawn(wait_thread, &outcome[0], &waiter_parkers[0]);
    model_spawn(settle_thread, NULL, &other_parker);
    model_spawn(wait_thread, &outcome[1], &waiter_parkers[1]);
}

static void finally_plain(void)
{
    model_assert(outcome[0] == 0 && outcome[1] == 0);
}

static void setup_deadline(void)
{
    reset(true);
    model_spawn(wait_thread, &outcome[0], &waiter_parkers[0]);
    model_spawn(settle_thread, NULL, &other_parker);
}

static void finally_any(void)
{
    model_assert(outcome[0] <= 0 && outcome[1] != -EIO);
    model_assert(duet__list_empty(&future->waiters));
    model_assert(model_newest(&future->word, sizeof future->word) / DUET__FUTURE_REFERENCE == 1);
}

static void setup_cancel(void)
{
    reset(true);
    work_is_referenced = true; /* by the canceller, so the parker stays */
    model_spawn(wait_thread, &outcome[0], &waiter_parkers[0]);
    model_spawn(cancel_thread, NULL, &other_parker);
    model_spawn(settle_thread, NULL, &other_parker);
}

/* ---- A work that ends: it settles and lets go of itself in one step, unless it is watched ---- */

static void finish_thread(void *arg)
{
    (void)arg;
    duet__plain_write(&data, 42);
    duet__future_finish(future, duet_i64(7), 0, 1);
}

static void setup_finish(void)
{
    reset(false);
    duet_future_ref(future); /* the executor's */
    model_spawn(wait_thread, &outcome[0], &waiter_parkers[0]);
    model_spawn(finish_thread, NULL, &other_parker);
    model_spawn(wait_thread, &outcome[1], &waiter_parkers[1]);
}

/* Whoever lets go last finds it settled, and frees it. */
static void unref_thread(void *arg)
{
    (void)arg;
    duet_future_unref(future);
}

static void setup_finish_and_unref(void)
{
    reset(false);
    duet_future_ref(future);
    duet_future_ref(future); /* so that it stays for us to look at */
    model_spawn(finish_thread, NULL, &other_parker);
    model_spawn(unref_thread, NULL, &other_parker);
}

static void finally_unref(void)
{
    uint64_t word = model_newest(&future->word, sizeof future->word);
    model_assert(word == (DUET__FUTURE_REFERENCE | DUET__FUTURE_SETTLED));
}

/* Nobody has its handle yet, but a closer that names it has a reference for a moment. */
static void finish_unseen_thread(void *arg)
{
    (void)arg;
    duet__plain_write(&data, 42);
    if (takes_itself_for_alone) {
        uint64_t word = duet__load_relaxed(&future->word) - DUET__FUTURE_REFERENCE;
        duet__store_relaxed(&future->word, word | DUET__FUTURE_SETTLED);
    } else {
        duet__future_finish_unseen(future, duet_i64(7));
    }
}

static void setup_finish_unseen(void)
{
    reset(false);
    duet_future_ref(future); /* the executor's; the other is that of the coming handle */
    duet_future_ref(future); /* the closer's */
    model_spawn(finish_unseen_thread, NULL, &other_parker);
    model_spawn(unref_thread, NULL, &other_parker);
}

/* ---- The lock ---- */

static struct duet__lock lock;
static uint64_t counter;

static void lock_thread(void *arg)
{
    (void)arg;
    duet__lock(&lock);
    uint64_t seen = duet__plain_read(&counter);
    duet__plain_write(&counter, seen + 1);
    duet__unlock(&lock);
}

static void future_lock_thread(void *arg)
{
    (void)arg;
    duet__future_lock(future, 0);
    uint64_t seen = duet__plain_read(&counter);
    duet__plain_write(&counter, seen + 1);
    duet__future_unlock(future);
}

static void setup_future_lock(void)
{
    reset(false);
    counter = 0;
    for (int i = 0; i < 3; i++)
        model_spawn(future_lock_thread, NULL, &other_parker);
}

static void finally_future_lock(void)
{
    model_assert(counter == 3);
    model_assert(model_newest(&future->word, sizeof future->word) == DUET__FUTURE_REFERENCE);
}

static void setup_lock(void)
{
    reset(false);
    memset(&lock, 0, sizeof lock);
    counter = 0;
    for (int i = 0; i < 3; i++)
        model_spawn(lock_thread, NULL, &other_parker);
}

static void finally_lock(void)
{
    model_assert(counter == 3);
    model_assert(model_newest(&lock.word, sizeof lock.word) == 0);
}

static void on_switch(void *parker)
{
    duet__here_set(parker);
}

int main(void)
{
    int wrong = 0;
    model_on_switch = on_switch;
    wrong += model_check("lock: excludes, and wakes who sleeps", 4, setup_lock, finally_lock,
                         MODEL_HOLDS);

    model_weak.exchange_release = true;
    wrong += model_check("lock: unlock does not release", 4, setup_lock, finally_lock, MODEL_FAILS);
    model_weak.exchange_release = false;

    model_weak.cas_acquire = true;
    wrong += model_check("lock: lock does not acquire", 4, setup_lock, finally_lock, MODEL_FAILS);
    model_weak.cas_acquire = false;

    model_kernel.lose_futex_wake = true;
    wrong += model_check("lock: unlock wakes nobody", 4, setup_lock, finally_lock, MODEL_FAILS);
    model_kernel.lose_futex_wake = false;

    wrong += model_check("future's lock: excludes, and wakes who sleeps", 4, setup_future_lock,
                         finally_future_lock, MODEL_HOLDS);

    model_weak.and_release = true;
    wrong += model_check("future's lock: unlock does not release", 4, setup_future_lock,
                         finally_future_lock, MODEL_FAILS);
    model_weak.and_release = false;

    model_weak.cas_acquire = true;
    wrong += model_check("future's lock: lock does not acquire", 4, setup_future_lock,
                         finally_future_lock, MODEL_FAILS);
    model_weak.cas_acquire = false;

    model_kernel.lose_futex_wake = true;
    wrong += model_check("future's lock: unlock wakes nobody", 4, setup_future_lock,
                         finally_future_lock, MODEL_FAILS);
    model_kernel.lose_futex_wake = false;

    wrong += model_check("wait: two wait, one settles", 3, setup_plain, finally_plain, MODEL_HOLDS);

    model_weak.cas_acq_rel = true;
    wrong +=
        model_check("wait: unpark does not release", 3, setup_plain, finally_plain, MODEL_FAILS);
    model_weak.cas_acq_rel = false;

    model_weak.load_acquire = true;
    wrong += model_check("wait: park does not acquire", 3, setup_plain, finally_plain, MODEL_FAILS);
    model_weak.load_acquire = false;

    model_weak.or_release = true;
    wrong +=
        model_check("wait: settle does not release", 3, setup_plain, finally_plain, MODEL_FAILS);
    model_weak.or_release = false;

    model_kernel.lose_futex_wake = true;
    wrong += model_check("wait: unpark wakes nobody", 3, setup_plain, finally_plain, MODEL_FAILS);
    model_kernel.lose_futex_wake = false;

    wrong += model_check("finish: two wait for a work that ends", 3, setup_finish, finally_plain,
                         MODEL_HOLDS);

    hides = true;
    wrong += model_check("finish: who waits does not say so", 3, setup_finish, finally_plain,
                         MODEL_FAILS);
    hides = false;

    model_kernel.lose_futex_wake = true;
    wrong += model_check("finish: nobody is woken", 3, setup_finish, finally_plain, MODEL_FAILS);
    model_kernel.lose_futex_wake = false;

    model_weak.cas_acq_rel = true;
    wrong += model_check("finish: does not release", 3, setup_finish, finally_plain, MODEL_FAILS);
    model_weak.cas_acq_rel = false;

    wrong += model_check("finish: and its handle is let go of", 4, setup_finish_and_unref,
                         finally_unref, MODEL_HOLDS);

    wrong += model_check("finish: unseen but by a closer", 4, setup_finish_unseen, finally_unref,
                         MODEL_HOLDS);

    takes_itself_for_alone = true;
    wrong += model_check("finish: unseen, and looks at no reference", 4, setup_finish_unseen,
                         finally_unref, MODEL_FAILS);
    takes_itself_for_alone = false;

    wrong += model_check("wait: the deadline against settling", 4, setup_deadline, finally_any,
                         MODEL_HOLDS);

    leaves_without_asking = true;
    wrong += model_check("wait: leaves at the deadline though claimed", 4, setup_deadline,
                         finally_any, MODEL_FAILS);
    leaves_without_asking = false;

    wrong += model_check("wait: deadline, cancellation and settling", 3, setup_cancel, finally_any,
                         MODEL_HOLDS);
    return wrong;
}
