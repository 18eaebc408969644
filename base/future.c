/* The future: one state machine, any number of waiters of both kinds, references. */
#include "check.h"
#include "future_impl.h"
#include "log.h"
#include "work.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void duet__future_init(duet_future *f, const struct duet__future_ops *ops, const duet_opts *opts,
                       uint32_t refs)
{
    memset(f, 0, sizeof *f); /* nobody else can see it yet */
    duet__store_relaxed(&f->refs, refs);
    f->ops = ops;
    f->drop_result = opts ? opts->drop_result : NULL;
    duet__list_init(&f->waiters);
}

/* ---- Names and reports ---- */

const char *duet__future_name(const duet_future *f, char *buf, size_t size)
{
    static _Atomic uint32_t last_id;
    if (f->name)
        return f->name;
    _Atomic uint32_t *id = (_Atomic uint32_t *)&f->id;
    /* Numbers only: nothing is published by them, so all is relaxed. */
    if (duet__load_relaxed(id) == 0) {
        uint32_t unnamed = 0;
        duet__cas_relaxed(id, &unnamed, duet__add_relaxed(&last_id, 1) + 1);
    }
    snprintf(buf, size, "%s-%u", f->ops->kind, (unsigned)duet__load_relaxed(id));
    return buf;
}

const char *duet__future_describe(const duet_future *f, char *buf, size_t size)
{
    char name[64];
    snprintf(buf, size, "%s '%s'", f->ops->kind, duet__future_name(f, name, sizeof name));
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

static void report_unseen_failure(const duet_future *f)
{
    char text[160];
    const char *name = strerrorname_np(-f->result.err);
    duet__log(DUET_WARNING, "%s %s with %s (%s) and nobody looked at its result",
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
    uint32_t before = duet__add_relaxed(&f->refs, 1);
    duet__check(before > 0, "a future is used after its last unref");
    return f;
}

static void last_unref(duet_future *f)
{
    if (!duet__future_is_settled(f)) /* a promise that nobody can keep any more */
        duet__future_settle(f, duet_err(-ECANCELED), 0);
    uint32_t state = duet__load_relaxed(&f->state); /* ours alone; acquired by the unref */
    if (f->result.err < 0 && f->result.err != -ECANCELED && !(state & DUET__FUTURE_LOOKED))
        report_unseen_failure(f);
    if (f->result.kind == DUET_PTR && f->drop_result && !(state & DUET__FUTURE_TAKEN))
        duet__call_bare(f->drop_result, f->result.as.ptr);
    f->ops->release(f);
}

void duet_future_unref(duet_future *f)
{
    if (!f)
        return;
    /* Releases what this owner did to the future; the last one acquires what all did. */
    uint32_t before = duet__sub_acq_rel(&f->refs, 1);
    duet__check(before > 0, "a future is unreferenced more often than referenced");
    if (before == 1)
        last_unref(f);
}

/* ---- Settling ---- */

bool duet__future_settle(duet_future *f, duet_result result, uint32_t also_state)
{
    struct duet__list later;
    duet__list_init(&later);
    duet__lock(&f->lock);
    if (duet__future_is_settled(f)) {
        duet__unlock(&f->lock);
        return false;
    }
    f->result = result;
    /* Publishes the result. Pairs with the acquire in duet__future_is_settled(). */
    duet__store_release(&f->state, DUET__FUTURE_SETTLED | also_state);
    /* Under the lock, so that one added late cannot overtake: it goes last or finds us settled. */
    for (struct duet__waiter *waiter; (waiter = duet__waiter_pop(&f->waiters)) != NULL;)
        if (waiter->fire(waiter, f))
            duet__list_append(&later, &waiter->link);
    void *group = duet__load_relaxed(&f->member.group); /* under the lock */
    duet__unlock(&f->lock);
    for (struct duet__waiter *waiter; (waiter = duet__waiter_pop(&later)) != NULL;)
        duet__waiter_tell(waiter);
    if (group)
        f->member.settled(f, group);
    return true;
}

/* ---- Looking and waiting ---- */

void duet__future_looked(const duet_future *f)
{
    _Atomic uint32_t *state = (_Atomic uint32_t *)&f->state;
    /* A mark for the last unref, whose acquire sees it; publishes nothing itself. */
    if (!(duet__load_relaxed(state) & DUET__FUTURE_LOOKED))
        duet__or_relaxed(state, DUET__FUTURE_LOOKED);
}

/* Appends the waiter unless f is settled: then false. */
static bool enqueue(duet_future *f, struct duet__waiter *waiter)
{
    duet__lock(&f->lock);
    bool pending = !duet__future_is_settled(f);
    if (pending)
        duet__list_append(&f->waiters, &waiter->link);
    duet__unlock(&f->lock);
    return pending;
}

/* Sleep until f has settled. 0 or why not; f is pending or was a moment ago. */
static int sleep_until_settled(duet_future *f, struct duet__parker *parker, duet_deadline by,
                               bool shielded)
{
    if (duet__runs_here(f))
        return duet__wait_failed(parker, -EDEADLK);
    int rc = duet__wait_begin(parker, by, shielded);
    if (rc < 0)
        return rc;
    struct duet__waiter waiter;
    duet__waiter_init(&waiter, parker);
    if (!enqueue(f, &waiter))
        return 0;
    return duet__wait_claimed(&waiter, &f->lock, by, shielded);
}

int duet__future_wait(duet_future *f, duet_deadline by, bool shielded)
{
    struct duet__parker *parker = duet__here();
    if (duet__future_is_settled(f)) {
        duet__wait_unparked(parker);
        return 0;
    }
    int rc = sleep_until_settled(f, parker, by, shielded || parker->shields > 0);
    /* The wait may have ended while the result came in: a settled future gives its result. */
    return rc < 0 && duet__future_is_settled(f) ? 0 : rc;
}

int duet_future_wait(duet_future *f, duet_deadline by, duet_result *ret)
{
    if (!f)
        return duet__bad_argument(__func__, "f is NULL");
    int rc = duet__future_wait(f, by, false);
    if (rc < 0)
        return rc;
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
        return -EAGAIN;
    if (duet__future_is_immortal(f)) { /* each of its many holders is the first */
        if (ret)
            *ret = f->result;
        return 0;
    }
    /* One taker sees the bit clear; the value itself was acquired above. */
    uint32_t before = duet__or_relaxed(&f->state, DUET__FUTURE_TAKEN | DUET__FUTURE_LOOKED);
    if (before & DUET__FUTURE_TAKEN)
        return -EALREADY;
    if (ret)
        *ret = f->result;
    else if (f->result.kind == DUET_PTR && f->drop_result) /* taken by nobody after all */
        duet__call_bare(f->drop_result, f->result.as.ptr);
    return 0;
}

/* ---- Ending ---- */

void duet_future_cancel(duet_future *f)
{
    if (!f)
        duet__bad_argument(__func__, "f is NULL");
    else if (!duet__future_is_settled(f))
        f->ops->cancel(f);
}

int duet_future_close(duet_future *f, duet_result *ret)
{
    if (!f)
        return duet__bad_argument(__func__, "f is NULL");
    struct duet__parker *here = duet__here();
    if (!duet__future_is_settled(f) && (duet__runs_here(f) || !here->ops->may_wait))
        return -EDEADLK;
    duet_future_cancel(f);
    duet__future_wait(f, DUET_NEVER, true);
    int rc = duet_future_take(f, ret);
    if (rc == -EALREADY && ret)
        *ret = f->result;
    duet_future_unref(f);
    return rc;
}

/* ---- Promises, and handles settled at birth ---- */

static void promise_cancel(duet_future *f)
{
    duet_future_settle(f, duet_err(-ECANCELED));
}

static void promise_release(duet_future *f)
{
    free(f);
}

static const struct duet__future_ops promise_ops = {"promise", promise_cancel, promise_release};
static const struct duet__future_ops refused_ops = {"work", promise_cancel, promise_release};

static duet_future *promise_new(const struct duet__future_ops *ops, const duet_opts *opts)
{
    duet_future *f = duet__work_alloc(sizeof *f, opts);
    if (!f)
        return NULL;
    duet__future_init(f, ops, opts, 1);
    if (opts && opts->name)
        f->name = (const char *)(f + 1);
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
    /* A waiter that this wakes may let go of the last handle while we are still firing. */
    duet_future_ref(f);
    bool settled = duet__future_settle(f, result, 0);
    duet_future_unref(f);
    return settled ? 0 : -EALREADY;
}

/* Handles for "no memory" that need none: static, never freed, never reported: one who cannot get
 * 200 bytes has heard it already. */
static void immortal_release(duet_future *f)
{
    duet__store_relaxed(&f->refs, 1);
}
static const struct duet__future_ops immortal_ops = {"work", promise_cancel, immortal_release};
static duet_future no_memory = {
    .state = DUET__FUTURE_SETTLED | DUET__FUTURE_LOOKED | DUET__FUTURE_REFUSED,
    .refs = 1,
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
