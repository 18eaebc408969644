/* The future: one state machine, any number of waiters of both kinds, references. */
#include "check.h"
#include "clock.h"
#include "context.h"
#include "cpu.h"
#include "future_impl.h"
#include "log.h"
#include "work.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    LOOKS = 100, /* at a lock, before a sleep */
};

duet_future *duet__future_alloc_named(size_t size, const char *name)
{
    size_t name_size = strlen(name) + 1;
    duet_future *f = duet__future_alloc(size + name_size, NULL);
    if (f)
        memcpy((char *)f + size, name, name_size);
    return f;
}

/* ---- Names and reports ---- */

uint64_t duet__future_id(const duet_future *f)
{
    static _Atomic uint64_t last;
    _Atomic uint64_t *id = (_Atomic uint64_t *)&f->id;
    /* Numbers only: nothing is published by them, so all is relaxed. */
    if (duet__load_relaxed(id) == 0) {
        uint64_t none = 0;
        duet__cas_relaxed(id, &none, duet__add_relaxed(&last, 1) + 1);
    }
    return duet__load_relaxed(id);
}

const char *duet__future_name(const duet_future *f, char *buf, size_t size)
{
    if (f->name)
        return f->name;
    snprintf(buf, size, "%s-%llu", f->ops->kind, (unsigned long long)duet__future_id(f));
    return buf;
}

const char *duet__future_describe(const duet_future *f, char *buf, size_t size)
{
    char name[64];
    snprintf(buf, size, "%s '%s'", f->ops->kind, duet__future_name(f, name, sizeof name));
    return buf;
}

const char *duet__future_describe_place(const duet_future *f, char *buf, size_t size)
{
    char what[96], place[48] = "";
    if (f->ops->place && !duet__future_is_settled(f)) /* else its pool may be gone */
        f->ops->place(f, place, sizeof place);
    snprintf(buf, size, "%s%s", duet__future_describe(f, what, sizeof what), place);
    return buf;
}

const char *duet_self_name(void)
{
    static _Thread_local char buf[64];
    struct duet__parker *parker = duet__here();
    if (parker->work)
        return duet__future_name(parker->work, buf, sizeof buf);
    if (pthread_getname_np(pthread_self(), buf, sizeof buf) != 0)
        buf[0] = '\0';
    return buf;
}

static DUET__COLD void report_unseen_failure(const duet_future *f)
{
    char text[160];
    const char *name = strerrorname_np(-f->result.err);
    duet__log_in(duet__work_context(f), DUET_WARNING,
                 "%s %s with %s (%s) and nobody looked at its result",
                 duet__future_describe(f, text, sizeof text),
                 duet__future_was_refused(f) ? "was refused" : "failed",
                 name ? name : "an unknown error", duet_strerror(f->result.err));
}

/* ---- References ---- */

duet_future *duet_future_ref(duet_future *f)
{
    if (!f) {
        duet__bad_argument(__func__, "f is NULL");
        return NULL;
    }
    /* Who has a reference may make another: nothing to acquire or publish. */
    uint64_t before = duet__add_relaxed(&f->word, DUET__FUTURE_REFERENCE);
    duet__check(before >= DUET__FUTURE_REFERENCE, "a future is used after its last unref");
    return f;
}

/* Nobody has taken it. */
static void drop_value(duet_future *f)
{
    if (f->result.kind == DUET_PTR && f->drop_result)
        duet__call_bare_in(duet__work_context(f), f->drop_result, f->result.as.ptr);
}

/* A failure, or a value that somebody may have to drop. */
static __attribute__((noinline)) void last_unref_of_result(duet_future *f)
{
    uint64_t state = duet__load_relaxed(&f->word); /* ours alone; acquired by the unref */
    if (f->result.err < 0 && f->result.err != -ECANCELED && !(state & DUET__FUTURE_LOOKED))
        report_unseen_failure(f);
    if (!(state & DUET__FUTURE_TAKEN))
        drop_value(f);
    f->ops->release(f);
}

/* A promise that nobody can keep any more. */
static DUET__COLD void last_unref_of_pending(duet_future *f)
{
    if (duet__is_foreign(f->process))
        return; /* what it was in the parent is not ours to end; its memory stays */
    duet__future_settle(f, duet_err(-ECANCELED), 0);
    last_unref_of_result(f);
}

static inline void last_unref(duet_future *f)
{
    if (!duet__future_is_settled(f))
        last_unref_of_pending(f);
    else if (f->result.err < 0 || f->result.kind == DUET_PTR)
        last_unref_of_result(f);
    else
        f->ops->release(f);
}

void duet_future_unref(duet_future *f)
{
    if (!f)
        return;
    if (duet__future_is_only_ours(f)) { /* nobody else can change it */
        duet__store_relaxed(&f->word, duet__load_relaxed(&f->word) - DUET__FUTURE_REFERENCE);
        last_unref(f);
        return;
    }
    bool may_strand = f->settler_holds && !duet__is_foreign(f->process);
    /* Releases what this owner did to the future; the last one acquires what all did. */
    uint64_t before = duet__sub_acq_rel(&f->word, DUET__FUTURE_REFERENCE);
    duet__check(before >= DUET__FUTURE_REFERENCE,
                "a future is unreferenced more often than referenced");
    if (before < 2 * DUET__FUTURE_REFERENCE)
        last_unref(f);
    else if (may_strand)
        duet__graph_changed(f);
}

/* ---- Settling ---- */

uint64_t duet__future_lock_slowly(duet_future *f, uint64_t also)
{
    uint64_t sleeps = 0;
    /* The holder is a few instructions from the end: look a little before sleeping. */
    for (int looks = duet__cpu_count() > 1 ? LOOKS : 0;; looks--) {
        uint64_t word = duet__load_relaxed(&f->word);
        uint64_t wants = (word & DUET__FUTURE_LOCKED ? DUET__FUTURE_SLEEPERS : also) |
                         DUET__FUTURE_LOCKED | sleeps;
        if ((word & DUET__FUTURE_LOCKED) && looks > 0) {
            duet__cpu_relax();
        } else if (duet__cas_acq_rel(&f->word, &word, word | wants)) { /* as in line */
            if (!(word & DUET__FUTURE_LOCKED))
                return word;
            /* Woken by the duet__future_unlock() that reads SLEEPERS. Whoever has slept leaves it
             * behind, since others may sleep too: at worst one wake-up too many. */
            sleeps = DUET__FUTURE_SLEEPERS;
            duet__futex_wait(duet__future_half(f), (uint32_t)(word | wants), DUET__NEVER);
        }
    }
}

bool duet__future_enqueue(duet_future *f, struct duet__waiter *waiter)
{
    if (duet__future_is_settled(f)) /* in a child perhaps with the lock of a parent's thread */
        return false;
    bool pending = !(duet__future_lock(f, DUET__FUTURE_WATCHED) & DUET__FUTURE_SETTLED);
    if (pending)
        duet__list_append(&f->waiters, &waiter->link);
    duet__future_unlock(f);
    return pending;
}

bool duet__future_leave(duet_future *f, struct duet__waiter *waiter)
{
    duet__future_lock(f, 0);
    bool queued = duet__list_linked(&waiter->link);
    if (queued)
        duet__list_remove(&waiter->link);
    duet__future_unlock(f);
    return queued;
}

/* Under the lock, so that one added late cannot overtake: it goes last or finds us settled. Those
 * who are to be fired once more, without it, come into `later`. */
static inline void fire_waiters(duet_future *f, struct duet__list *later)
{
    duet__list_init(later);
    for (struct duet__waiter *waiter; (waiter = duet__waiter_pop(&f->waiters)) != NULL;)
        if (waiter->fire(waiter, f))
            duet__list_append(later, &waiter->link);
}

static void tell_later(duet_future *f, struct duet__list *later, void *group)
{
    for (struct duet__waiter *waiter; (waiter = duet__waiter_pop(later)) != NULL;)
        duet__waiter_tell(waiter);
    if (group)
        f->member.settled(f, group);
}

bool duet__future_settle(duet_future *f, duet_result result, uint32_t also_state)
{
    struct duet__list later;
    if (duet__future_lock(f, 0) & DUET__FUTURE_SETTLED) {
        duet__future_unlock(f);
        return false;
    }
    f->result = result;
    /* Publishes the result. Pairs with the acquire in duet__future_is_settled(). */
    duet__or_release(&f->word, DUET__FUTURE_SETTLED | also_state);
    fire_waiters(f, &later);
    void *group = duet__load_relaxed(&f->member.group); /* under the lock */
    duet__future_unlock(f);
    tell_later(f, &later, group);
    return true;
}

/* Unlocks and lets go of so many of our references in one step. */
static inline void unlock_and_unref(duet_future *f, unsigned refs)
{
    _Atomic uint32_t *half = duet__future_half(f);
    uint64_t word = duet__load_relaxed(&f->word), next;
    do {
        next = (word & ~(uint64_t)(DUET__FUTURE_LOCKED | DUET__FUTURE_SLEEPERS)) -
               refs * (uint64_t)DUET__FUTURE_REFERENCE;
        /* As in duet__future_unlock() and duet_future_unref(). */
    } while (!duet__cas_acq_rel(&f->word, &word, next));
    if (word & DUET__FUTURE_SLEEPERS)
        duet__futex_wake(half); /* an address: it may be gone */
    if (next < DUET__FUTURE_REFERENCE)
        last_unref(f);
}

/* Likewise, of one that somebody watches, or did. */
static void finish_watched(duet_future *f, uint32_t also_state, unsigned refs)
{
    struct duet__list later;
    duet__future_lock(f, DUET__FUTURE_SETTLED | also_state);
    fire_waiters(f, &later);
    void *group = duet__load_relaxed(&f->member.group); /* under the lock */
    if (!group && duet__list_empty(&later)) {
        unlock_and_unref(f, refs);
        return;
    }
    duet__future_unlock(f);
    tell_later(f, &later, group);
    if (refs > 0)
        duet_future_unref(f);
}

void duet__future_finish(duet_future *f, duet_result result, uint32_t also_state, unsigned refs)
{
    uint64_t word = duet__load_relaxed(&f->word), next;
    f->result = result;
    do {
        if (word & (DUET__FUTURE_WATCHED | DUET__FUTURE_LOCKED)) {
            finish_watched(f, also_state, refs);
            return;
        }
        next = (word - refs * (uint64_t)DUET__FUTURE_REFERENCE) | DUET__FUTURE_SETTLED | also_state;
        /* Publishes the result, and what this owner did, as duet_future_unref() does; acquires, if
         * it is the last one, what all did. Pairs with duet__future_is_settled(), unref, and
         * duet__future_lock(). */
    } while (!duet__cas_acq_rel(&f->word, &word, next));
    if (next < DUET__FUTURE_REFERENCE)
        last_unref(f);
}

void duet__future_finish_unseen(duet_future *f, duet_result result)
{
    if (!duet__future_is_unseen(f)) {
        duet__future_finish(f, result, 0, 1);
        return;
    }
    f->result = result;
    /* Nobody else can change it before this thread has given the handle away, which publishes it. */
    duet__store_relaxed(&f->word, DUET__FUTURE_REFERENCE | DUET__FUTURE_SETTLED);
}

/* ---- Looking and waiting ---- */

void duet__future_mark_looked(const duet_future *f)
{
    _Atomic uint64_t *word = (_Atomic uint64_t *)&f->word;
    /* A mark for the last unref, whose acquire sees it; publishes nothing itself. */
    if (!(duet__load_relaxed(word) & DUET__FUTURE_LOOKED))
        duet__or_relaxed(word, DUET__FUTURE_LOOKED);
}

/* 0, or why f, which was pending a moment ago, cannot be waited for here. */
static int may_await(const duet_future *f, struct duet__parker *parker, duet_deadline by,
                     bool shielded)
{
    if (duet__is_foreign(f->process))
        return -EOWNERDEAD;
    if (duet__runs_here(f))
        return duet__wait_failed(parker, -EDEADLK);
    return duet__wait_begin(parker, by, shielded);
}

static int sleep_until_settled(duet_future *f, struct duet__parker *parker, duet_deadline by,
                               bool shielded)
{
    struct duet__waiter waiter;
    duet__waiter_init(&waiter, parker);
    if (!duet__future_enqueue(f, &waiter))
        return 0;
    int rc = duet__park(parker, by, shielded);
    if (rc == 0 || duet__future_leave(f, &waiter))
        return rc;
    duet__park_token(parker); /* its claimer is between its claim and its unpark */
    return 0;
}

/* The wait may have failed while the result came in: a settled future gives its result. */
static int unless_settled(const duet_future *f, int rc)
{
    return rc < 0 && duet__future_is_settled(f) ? 0 : rc;
}

int duet__future_wait_in(duet_future *f, struct duet__parker *parker, duet_deadline by,
                         bool shielded)
{
    if (duet__future_is_settled(f)) {
        duet__wait_unparked(parker);
        return 0;
    }
    int rc = may_await(f, parker, by, shielded);
    if (rc == 0)
        rc = sleep_until_settled(f, parker, by, shielded);
    return unless_settled(f, rc);
}

int duet__future_wait(duet_future *f, duet_deadline by, enum duet__wait_kind kind)
{
    struct duet__parker *parker = duet__here();
    struct duet__wait wait;
    if (duet__future_is_settled(f)) {
        duet__wait_unparked(parker);
        return 0;
    }
    if (kind == DUET__WAIT_PLAIN)
        kind = duet__wait_kind(parker->shields > 0);
    int rc = may_await(f, parker, by, kind != DUET__WAIT_PLAIN);
    if (rc == 0) {
        duet__wait_enter(&wait, parker, &duet__future_wait_ops, f, 1, by, kind);
        rc = sleep_until_settled(f, parker, by, kind != DUET__WAIT_PLAIN);
        duet__wait_leave(&wait);
    }
    return unless_settled(f, rc);
}

/* ---- In the graph of waits ---- */

bool duet__future_may_settle(const duet_future *f, struct duet__look *look)
{
    return duet__future_is_settled(f) || !f->ops->may_settle || f->ops->may_settle(f, look);
}

static bool wait_may_end(const struct duet__wait *wait, struct duet__look *look)
{
    return duet__future_may_settle(wait->of, look);
}

static const char *wait_describe(const struct duet__wait *wait, char *buf, size_t size)
{
    return duet__future_describe_place(wait->of, buf, size);
}

const struct duet__wait_ops duet__future_wait_ops = {wait_may_end, wait_describe, false};

int duet_future_wait(duet_future *f, duet_deadline by, duet_result *ret)
{
    if (!f)
        return duet__bad_argument(__func__, "f is NULL");
    if (!duet__future_is_settled(f)) {
        int rc = duet__future_wait(f, by, DUET__WAIT_PLAIN);
        if (rc < 0)
            return duet__told(rc);
    } else {
        duet__wait_unparked(duet__here());
    }
    duet__future_looked(f);
    if (ret)
        *ret = f->result;
    return 0;
}

bool duet_future_settled(const duet_future *f)
{
    if (!f) {
        duet__bad_argument(__func__, "f is NULL");
        return false;
    }
    return duet__future_is_settled(f);
}

duet_result duet_future_result(const duet_future *f)
{
    if (!f)
        return duet_err(duet__bad_argument(__func__, "f is NULL"));
    duet__check(duet__future_is_settled(f),
                "duet_future_result() needs a settled future: wait for it first");
    duet__future_looked(f);
    return f->result;
}

int duet_future_take(duet_future *f, duet_result *ret)
{
    if (!f)
        return duet__bad_argument(__func__, "f is NULL");
    if (!duet__future_is_settled(f))
        return duet__is_foreign(f->process) ? -EOWNERDEAD : -EAGAIN;
    if (duet__future_is_immortal(f)) { /* each of its many holders is the first */
        if (ret)
            *ret = f->result;
        return 0;
    }
    /* One taker sees the bit clear; the value itself was acquired above. */
    uint64_t before = duet__or_relaxed(&f->word, DUET__FUTURE_TAKEN | DUET__FUTURE_LOOKED);
    if (before & DUET__FUTURE_TAKEN)
        return -EALREADY;
    if (ret)
        *ret = f->result;
    else /* taken by nobody after all */
        drop_value(f);
    return 0;
}

/* ---- Ending ---- */

void duet_future_cancel(duet_future *f)
{
    if (!f)
        duet__bad_argument(__func__, "f is NULL");
    else if (!duet__future_is_settled(f) && !duet__is_foreign(f->process))
        f->ops->cancel(f);
}

/* 0, or why the end of f cannot be awaited here. */
static int may_end(const duet_future *f)
{
    if (duet__future_is_settled(f))
        return 0;
    if (duet__is_foreign(f->process))
        return -EOWNERDEAD;
    return duet__runs_here(f) || !duet__here()->ops->may_wait ? -EDEADLK : 0;
}

/* Of a settled one: takes, or looks if somebody else has taken, and lets go. */
static int take_and_unref(duet_future *f, duet_result *ret)
{
    int rc = duet_future_take(f, ret);
    if (rc == -EALREADY && ret)
        *ret = f->result;
    duet_future_unref(f);
    return rc;
}

int duet_future_close(duet_future *f, duet_result *ret)
{
    int rc = f ? may_end(f) : duet__bad_argument(__func__, "f is NULL");
    if (rc < 0)
        return rc;
    duet_future_cancel(f);
    duet__future_wait(f, DUET_NEVER, DUET__WAIT_ENDS);
    return take_and_unref(f, ret);
}

/* It did not end in time. */
static int abandon(duet_future *f, duet_result *ret)
{
    char text[160];
    int64_t since_ns = f->ops->since ? f->ops->since(f) : 0;
    if (f->ops->abandoned)
        duet__graph_with_pending(f, f->ops->abandoned);
    duet__log_in(duet__work_context(f), DUET_WARNING,
                 "%s was abandoned, %.3f s after it started: it goes on, though cancelled",
                 duet__future_describe(f, text, sizeof text),
                 since_ns ? (double)(duet__clock_ns() - since_ns) / 1e9 : 0.0);
    if (ret)
        *ret = duet_err(-ETIME);
    duet_future_unref(f);
    return DUET_ABANDONED;
}

int duet_future_end(duet_future *f, duet_deadline by, int64_t grace_ns, duet_result *ret)
{
    int rc = f ? may_end(f) : duet__bad_argument(__func__, "f is NULL");
    if (rc < 0)
        return rc;
    if (duet__future_wait(f, by, DUET__WAIT_PLAIN) < 0) {
        duet_future_cancel(f);
        if (duet__future_wait(f, duet_ns(grace_ns), DUET__WAIT_SHIELDED) < 0)
            return abandon(f, ret);
    }
    bool cancelled = f->result.err == -ECANCELED;
    take_and_unref(f, ret);
    return cancelled ? DUET_CANCELLED : DUET_FINISHED;
}

/* ---- Promises, and handles settled at birth ---- */

static void promise_cancel(duet_future *f)
{
    duet_future_settle(f, duet_err(-ECANCELED));
}

/* May anybody but those who wait for it settle it? Each of them holds a reference if settler_holds;
 * a callback holds none. */
static bool promise_may_settle(const duet_future *f, struct duet__look *look)
{
    if (!f->settler_holds)
        return duet__look_at_threads(look);
    duet_future *locked = (duet_future *)f;
    uint64_t count = duet__look_count();
    uint32_t waiting = 0;
    bool may = false;
    duet__look_again(look); /* who has just begun to wait goes on, for now */
    duet__future_lock(locked, 0);
    duet__list_for_each(link, &f->waiters)
    {
        struct duet__parker *parker = duet__container(link, struct duet__waiter, link)->parker;
        if (!parker) /* a callback */
            continue;
        if (duet__look_at(look, parker, DUET__VIA_HOLDER))
            may = true;
        waiting += duet__look_is_new(parker, count);
    }
    duet__future_unlock(locked);
    /* A look: who holds one may let go of it meanwhile, and then has us searched again. */
    uint64_t word = duet__load_relaxed((_Atomic uint64_t *)&f->word);
    if (!may && word / DUET__FUTURE_REFERENCE > waiting)
        may = duet__look_at_threads(look);
    return may;
}

static const struct duet__future_ops promise_ops = {.kind = "promise",
                                                    .cancel = promise_cancel,
                                                    .release = duet__future_free,
                                                    .may_settle = promise_may_settle};
static const struct duet__future_ops refused_ops = {
    .kind = "work", .cancel = promise_cancel, .release = duet__future_free};

static duet_future *promise_new(const struct duet__future_ops *ops, const duet_opts *opts)
{
    duet_future *f = duet__future_alloc(sizeof *f, opts);
    if (!f)
        return NULL;
    duet__future_init(f, ops, opts, 1);
    if (opts && opts->name)
        f->name = (const char *)(f + 1);
    f->settler_holds = opts && (opts->flags & DUET_SETTLER_HOLDS);
    return f;
}

int duet_future_open_with(duet_future **ret, const duet_opts *opts)
{
    const char *why;
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    int rc = duet__opts_check(opts, &why);
    if (rc < 0)
        return duet__refuse(__func__, rc, why);
    duet_future *f = promise_new(&promise_ops, opts);
    if (!f)
        return -ENOMEM;
    *ret = f;
    return 0;
}

int duet_future_open(duet_future **ret)
{
    return duet_future_open_with(ret, NULL);
}

int duet_future_settle(duet_future *f, duet_result result)
{
    if (!f)
        return duet__bad_argument(__func__, "f is NULL");
    if (f->ops != &promise_ops)
        return duet__bad_argument(__func__, "f is the future of a piece of work, which settles it");
    if (result.err > 0)
        return duet__bad_argument(__func__, "result.err is positive; errors are negative errno");
    if (duet__is_foreign(f->process))
        return duet__future_is_settled(f) ? -EALREADY : -EOWNERDEAD;
    /* A waiter that this wakes may let go of the last handle while we are still firing. */
    duet_future_ref(f);
    bool settled = duet__future_settle(f, result, 0);
    duet_future_unref(f);
    return settled ? 0 : -EALREADY;
}

/* Handles for "no memory" that need none: static, never freed, never reported: one who cannot get
 * 200 bytes has heard it already. */
#define IMMORTAL                                                                                   \
    (DUET__FUTURE_SETTLED | DUET__FUTURE_LOOKED | DUET__FUTURE_REFUSED | DUET__FUTURE_REFERENCE)
static void immortal_release(duet_future *f)
{
    duet__store_relaxed(&f->word, IMMORTAL);
}
static const struct duet__future_ops immortal_ops = {
    .kind = "work", .cancel = promise_cancel, .release = immortal_release};
static duet_future no_memory = {
    .word = IMMORTAL,
    .result = {.err = -ENOMEM},
    .ops = &immortal_ops,
    .name = "out of memory",
    .waiters = {&no_memory.waiters, &no_memory.waiters},
};

bool duet__future_is_immortal(const duet_future *f)
{
    return f == &no_memory;
}

duet_future *duet__future_refused(int err, const char *why, void *arg, const duet_opts *opts)
{
    if (why)
        duet__log(DUET_ERROR, "%s", why);
    if (opts && opts->drop)
        duet__call_bare(opts->drop, arg);
    duet_future *f = err == -ENOMEM ? NULL : promise_new(&refused_ops, opts);
    if (!f)
        return duet_future_ref(&no_memory);
    duet__future_settle(f, duet_err(err), DUET__FUTURE_REFUSED);
    return f;
}
