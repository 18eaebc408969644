/* Waiting for several futures at once. For all of them, one after the other is the same as at once;
 * for the first of them, one parker stands in every queue. */
#include "alloc.h"
#include "check.h"
#include "future_impl.h"

#include <errno.h>
#include <stdio.h>

enum {
    NONE = -1,
    ON_STACK = 16
};

/* One wait for the first of several; on the stack of who waits. */
struct first_wait {
    bool failures_only;
    /* The index of the first that ends the wait. Set once, by whoever claims that waiter or finds
     * it settled; read by the owner after the claimer's token, which publishes it. */
    _Atomic int64_t first;
    size_t queued; /* in how many queues we stood; each is a claim to come or a removal */
    size_t consumed; /* tokens */
};

struct one_of {
    struct duet__waiter waiter;
    struct first_wait *wait;
    int64_t index;
    bool queued;
};

static bool ends(const struct first_wait *wait, const duet_future *settled)
{
    return !wait->failures_only || settled->result.err < 0;
}

static void note_first(struct first_wait *wait, int64_t index)
{
    int64_t none = NONE;
    duet__cas_relaxed(&wait->first, &none, index);
}

static bool fire_one(struct duet__waiter *waiter, duet_future *settled)
{
    struct one_of *one = duet__container(waiter, struct one_of, waiter);
    if (ends(one->wait, settled))
        note_first(one->wait, one->index);
    duet__unpark(waiter->parker);
    return false;
}

/* Stands in the queues of all that are pending, until one is found that ends the wait. */
static size_t enqueue_all(struct first_wait *wait, struct one_of *ones, duet_future *const *fs,
                          size_t n, struct duet__parker *parker)
{
    size_t i;
    for (i = 0; i < n && duet__load_relaxed(&wait->first) == NONE; i++) {
        struct one_of *one = &ones[i];
        duet__waiter_init(&one->waiter, parker);
        one->waiter.fire = fire_one;
        one->wait = wait;
        one->index = (int64_t)i;
        one->queued = duet__future_enqueue(fs[i], &one->waiter);
        if (one->queued)
            wait->queued++;
        else if (ends(wait, fs[i]))
            note_first(wait, (int64_t)i);
    }
    return i;
}

/* Leaves the queues, and consumes the tokens of all who claimed us. */
static void dequeue_all(struct first_wait *wait, struct one_of *ones, duet_future *const *fs,
                        size_t n, struct duet__parker *parker)
{
    for (size_t i = 0; i < n; i++) {
        if (ones[i].queued && duet__future_leave(fs[i], &ones[i].waiter))
            wait->queued--;
    }
    for (; wait->consumed < wait->queued; wait->consumed++)
        duet__park_token(parker);
}

/* ---- In the graph of waits ---- */

/* Looks at all that are pending, so that the search knows them: how many may settle? */
static size_t count_may_settle(const struct duet__wait *wait, struct duet__look *look,
                               size_t *ret_pending)
{
    duet_future *const *fs = wait->of;
    size_t may = 0;
    *ret_pending = 0;
    for (size_t i = 0; i < wait->n; i++) {
        if (duet__future_is_settled(fs[i]))
            continue;
        ++*ret_pending;
        may += duet__future_may_settle(fs[i], look);
    }
    return may;
}

static bool all_may_end(const struct duet__wait *wait, struct duet__look *look)
{
    size_t pending, may = count_may_settle(wait, look, &pending);
    return may == pending;
}

/* Is there one that has settled and ends the wait? It is about to be told. */
static bool has_answer(const struct duet__wait *wait, bool failures_only)
{
    const struct first_wait as = {.failures_only = failures_only};
    duet_future *const *fs = wait->of;
    for (size_t i = 0; i < wait->n; i++)
        if (duet__future_is_settled(fs[i]) && ends(&as, fs[i]))
            return true;
    return false;
}

static bool any_may_end(const struct duet__wait *wait, struct duet__look *look)
{
    size_t pending, may = count_may_settle(wait, look, &pending);
    return may > 0 || has_answer(wait, false);
}

/* Those that have settled well are of no use any more. */
static bool failure_may_end(const struct duet__wait *wait, struct duet__look *look)
{
    size_t pending, may = count_may_settle(wait, look, &pending);
    return may > 0 || pending == 0 || has_answer(wait, true);
}

static const char *describe_list(const struct duet__wait *wait, const char *what, char *buf,
                                 size_t size)
{
    duet_future *const *fs = wait->of;
    if (wait->n == 1)
        return duet__future_describe_place(fs[0], buf, size);
    snprintf(buf, size, "%s of %zu", what, wait->n);
    return buf;
}

static const char *describe_all(const struct duet__wait *wait, char *buf, size_t size)
{
    return describe_list(wait, "all", buf, size);
}

static const char *describe_first(const struct duet__wait *wait, char *buf, size_t size)
{
    return describe_list(wait, "the first", buf, size);
}

static const struct duet__wait_ops all_ops = {all_may_end, describe_all, true};
static const struct duet__wait_ops any_ops = {any_may_end, describe_first, true};
static const struct duet__wait_ops failure_ops = {failure_may_end, describe_first, true};

/* ---- Waiting ---- */

static int wait_first(struct first_wait *wait, struct one_of *ones, duet_future *const *fs,
                      size_t n, duet_deadline by, struct duet__parker *parker)
{
    struct duet__wait entry;
    bool shielded = parker->shields > 0;
    int rc = duet__wait_begin(parker, by, shielded);
    if (rc < 0)
        return rc;
    duet__wait_enter(&entry, parker, wait->failures_only ? &failure_ops : &any_ops, fs, n, by,
                     duet__wait_kind(shielded));
    size_t reached = enqueue_all(wait, ones, fs, n, parker);
    while (rc == 0 && duet__load_relaxed(&wait->first) == NONE && wait->consumed < wait->queued) {
        rc = duet__park(parker, by, shielded);
        if (rc == 0)
            wait->consumed++;
    }
    dequeue_all(wait, ones, fs, reached, parker);
    duet__wait_leave(&entry);
    return rc;
}

enum pending {
    NOBODY,
    ONLY_MYSELF,
    OTHERS
};

/* The first of fs that is settled already and ends the wait; NONE. *ret_pending: who is not
 * settled? */
static int64_t look_first(const struct first_wait *wait, duet_future *const *fs, size_t n,
                          enum pending *ret_pending)
{
    *ret_pending = NOBODY;
    for (size_t i = 0; i < n; i++) {
        if (duet__runs_here(fs[i]))
            *ret_pending = *ret_pending == OTHERS ? OTHERS : ONLY_MYSELF;
        else if (!duet__future_is_settled(fs[i]))
            *ret_pending = OTHERS;
        else if (ends(wait, fs[i]))
            return (int64_t)i;
    }
    return NONE;
}

static int until_first(duet_future *const *fs, size_t n, bool failures_only, duet_deadline by,
                       size_t *ret_index)
{
    struct first_wait wait = {.failures_only = failures_only, .first = NONE};
    struct duet__parker *parker = duet__here();
    enum pending pending;
    int rc = 0;
    int64_t first = look_first(&wait, fs, n, &pending);
    if (first == NONE && pending == ONLY_MYSELF)
        return duet__wait_failed(parker, -EDEADLK);
    if (first == NONE && pending == OTHERS) {
        struct one_of on_stack[ON_STACK], *ones = on_stack;
        if (n > ON_STACK && !(ones = duet__alloc_zeroed(n, sizeof *ones)))
            return -ENOMEM;
        rc = wait_first(&wait, ones, fs, n, by, parker);
        if (ones != on_stack)
            duet__free(ones);
        first = duet__load_relaxed(&wait.first); /* published by the tokens we consumed */
        if (first == NONE) /* what settled since then counts: a settled future gives its result */
            first = look_first(&wait, fs, n, &pending);
    } else {
        duet__wait_unparked(parker);
    }
    if (first == NONE && pending != NOBODY)
        return rc;
    if (first != NONE)
        duet__future_looked(fs[first]);
    *ret_index = first == NONE ? n : (size_t)first;
    return 0;
}

static int until_all(duet_future *const *fs, size_t n, duet_deadline by)
{
    for (size_t i = 0; i < n; i++)
        if (duet__runs_here(fs[i])) /* wherever it stands in the list, the wait could never end */
            return duet__wait_failed(duet__here(), -EDEADLK);
    struct duet__parker *parker = duet__here();
    struct duet__wait entry;
    bool shielded = parker->shields > 0;
    int rc = 0;
    duet__wait_enter(&entry, parker, &all_ops, fs, n, by, duet__wait_kind(shielded));
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = duet__future_wait_in(fs[i], parker, by, shielded);
    duet__wait_leave(&entry);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) /* a wait that fails has seen none of them */
        duet__future_looked(fs[i]);
    return 0;
}

static int check_list(const char *function, duet_future *const *fs, size_t n)
{
    if (!fs && n > 0)
        return duet__bad_argument(function, "fs is NULL");
    for (size_t i = 0; i < n; i++)
        if (!fs[i])
            return duet__bad_argument(function, "one of fs is NULL");
    for (size_t i = 0; i < n; i++)
        if (!duet__future_is_settled(fs[i]) && duet__is_foreign(fs[i]->process))
            return -EOWNERDEAD;
    return 0;
}

int duet_future_wait_many(duet_future *const *fs, size_t n, enum duet_until until, duet_deadline by,
                          size_t *ret_index)
{
    size_t index = n;
    int rc = check_list(__func__, fs, n);
    if (rc < 0)
        return rc;
    switch (until) {
    case DUET_UNTIL_ALL:
        rc = until_all(fs, n, by);
        break;
    case DUET_UNTIL_ANY:
        rc = n == 0 ? duet__bad_argument(__func__, "no futures, so none can be the first")
                    : until_first(fs, n, false, by, &index);
        break;
    case DUET_UNTIL_FAILURE:
        rc = until_first(fs, n, true, by, &index);
        break;
    default:
        return duet__bad_argument(__func__, "until is unknown");
    }
    if (rc == 0 && ret_index)
        *ret_index = index;
    return duet__told(rc);
}

int duet_gather(duet_future *const *fs, size_t n, duet_deadline by, duet_result *results)
{
    int rc = check_list(__func__, fs, n);
    if (rc == 0)
        rc = until_all(fs, n, by);
    for (size_t i = 0; rc == 0 && results && i < n; i++)
        results[i] = fs[i]->result;
    return duet__told(rc);
}
