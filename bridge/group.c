/* Structured concurrency: what is in a group ends before the group does. */
#include "check.h"
#include "context.h"
#include "future_impl.h"
#include "submit.h"

#include <duet/group.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What is behind the public words; all zero is an empty group. Owned by the user. Lock order: a
 * future's lock, then the group's. */
struct group {
    struct duet__lock lock; /* guards the rest */
    bool cancelled;
    struct duet__list members; /* futures by member.link: pending ones, and settled ones that are
                                  kept; the ones that were asked to end come last */
    struct duet__list waiters;
    duet_future *failed; /* the first that did; a reference */
    size_t pending;
    _Atomic uint32_t process; /* in which it was used first, plus 1; 0: not used yet. Relaxed: it
                                 only changes together with who may use the group */
};
_Static_assert(sizeof(struct group) <= sizeof(duet_group), "a group fits its public words");

static struct group *lock_group(duet_group *public)
{
    struct group *group = (struct group *)(void *)public;
    duet__lock(&group->lock);
    if (!group->members.next) { /* zeroed: first use */
        duet__list_init(&group->members);
        duet__list_init(&group->waiters);
        duet__store_relaxed(&group->process, duet__process + 1);
    }
    return group;
}

/* Is it the parent's, whose locks are not ours to take? */
static bool is_foreign(const duet_group *public)
{
    struct group *group = (struct group *)(void *)(duet_group *)public;
    uint32_t process = duet__load_relaxed(&group->process);
    return process != 0 && duet__is_foreign(process - 1);
}

/* 0, or why nothing can be done with it; the log says more. */
static int check_group(const char *function, const duet_group *public)
{
    if (!public)
        return duet__bad_argument(function, "group is NULL");
    return is_foreign(public) ? duet__refuse(function, -EOWNERDEAD, duet_strerror(-EOWNERDEAD)) : 0;
}

static duet_future *future_of(struct duet__list *link)
{
    return duet__container(link, duet_future, member.link);
}

/* ---- Cancelling ---- */

/* Asks each member once, one at a time and without the lock, since asking may settle it on the
 * spot. */
static void cancel_members(struct group *group)
{
    duet__lock(&group->lock);
    group->cancelled = true;
    while (!duet__list_empty(&group->members)) {
        duet_future *f = future_of(group->members.next);
        if (f->member.asked)
            break; /* so are all behind it */
        f->member.asked = true;
        duet__list_remove(&f->member.link);
        duet__list_append(&group->members, &f->member.link);
        duet_future_ref(f);
        duet__unlock(&group->lock);
        duet_future_cancel(f);
        duet_future_unref(f);
        duet__lock(&group->lock);
    }
    duet__unlock(&group->lock);
}

void duet_group_cancel(duet_group *public)
{
    if (check_group(__func__, public) < 0)
        return;
    struct group *group = lock_group(public);
    duet__unlock(&group->lock);
    cancel_members(group);
}

/* ---- Members come and go ---- */

static bool is_failure(const duet_future *f)
{
    return f->result.err < 0 && f->result.err != -ECANCELED;
}

/* A member has failed: the first is remembered, the others are asked to end. */
static void note_failure(struct group *group, duet_future *f)
{
    duet__lock(&group->lock);
    if (!group->failed)
        group->failed = duet_future_ref(f);
    duet__unlock(&group->lock);
    cancel_members(group);
}

/* Under the lock: one pending member fewer. Who waits takes the lock once more before the group
 * goes. */
static void member_gone(struct group *group)
{
    struct duet__waiter *waiter;
    if (--group->pending > 0)
        return;
    while ((waiter = duet__waiter_pop(&group->waiters)) != NULL)
        duet__waiter_tell(waiter);
}

/* Called by the future when it has settled. While it counts as pending, the group stays. */
static void member_settled(duet_future *f, void *arg)
{
    struct group *group = arg;
    if (is_failure(f))
        note_failure(group, f);
    duet__lock(&group->lock);
    bool kept = f->member.kept;
    if (!kept)
        duet__list_remove(&f->member.link);
    member_gone(group);
    duet__unlock(&group->lock);
    if (!kept)
        duet_future_unref(f);
}

/* Links f, whose reference becomes the group's. */
static void add_member(struct group *group, duet_future *f, bool kept)
{
    bool waited_for = false;
    bool settled = duet__future_lock(f, DUET__FUTURE_WATCHED) & DUET__FUTURE_SETTLED;
    bool cancelled = false;
    duet__check(!duet__load_relaxed(&f->member.group), "a future is in one group at most");
    if (!settled || kept) {
        duet__lock(&group->lock);
        duet__store_relaxed(&f->member.group, group); /* under both locks */
        f->member.settled = member_settled;
        f->member.kept = kept;
        cancelled = f->member.asked = group->cancelled;
        duet__list_append(&group->members, &f->member.link);
        group->pending += !settled;
        waited_for = !settled && !duet__list_empty(&group->waiters);
        duet__unlock(&group->lock);
    }
    if (cancelled)
        duet_future_ref(f); /* once unlocked, it may settle and be let go of at any moment */
    duet__future_unlock(f);
    if (settled && is_failure(f))
        note_failure(group, f);
    if (cancelled) {
        duet_future_cancel(f);
        duet_future_unref(f);
    }
    if (settled && !kept)
        duet_future_unref(f);
    if (waited_for) /* by whom it may wait for, too */
        duet__graph_changed(group);
}

duet_future *duet_group_add(duet_group *public, duet_future *f)
{
    if (!f)
        duet__bad_argument(__func__, "f is NULL");
    if (!f || check_group(__func__, public) < 0)
        return f;
    if (duet__is_foreign(f->process) && !duet__future_is_immortal(f)) {
        duet__refuse(__func__, -EOWNERDEAD, duet_strerror(-EOWNERDEAD));
        return f;
    }
    struct group *group = lock_group(public);
    duet__unlock(&group->lock);
    if (duet__future_is_immortal(f))
        note_failure(group, f);
    else
        add_member(group, f, true);
    return f;
}

/* The task was not accepted: the group is as if it had never been in it. */
static void remove_member(struct group *group, duet_future *f)
{
    duet__future_lock(f, 0);
    duet__store_relaxed(&f->member.group, NULL);
    duet__lock(&group->lock);
    duet__list_remove(&f->member.link);
    member_gone(group);
    duet__unlock(&group->lock);
    duet__future_unlock(f);
}

/* Of a spawned task that its loop did not accept: lets go of it. Returns the error of the spawn. */
static int spawn_refused(struct group *group, struct duet__task *task, int err)
{
    duet_future *f = &task->work.future;
    if (!duet__park_claim(&task->work.parker)) { /* the group was cancelled, and has settled it */
        duet_future_unref(f);
        return -ECANCELED;
    }
    remove_member(group, f);
    duet__future_looked(f); /* the caller has the error */
    duet__work_refuse(&task->work, err);
    duet_future_unref(f);
    return err;
}

/* 0, or why nothing can be spawned. */
static int may_spawn(duet_group *public, duet_loop *loop, duet_fn *fn, const duet_opts *opts)
{
    const char *why = !public ? "group is NULL" : !loop ? "loop is NULL, and none runs here" : NULL;
    int rc = why ? -EINVAL : duet__work_check(fn, opts, &why);
    if (rc < 0)
        return duet__refuse("duet_group_spawn", rc, why);
    rc = check_group("duet_group_spawn", public);
    if (rc < 0)
        return rc;
    struct group *group = lock_group(public);
    rc = group->cancelled ? -ECANCELED : 0;
    duet__unlock(&group->lock);
    return rc;
}

/* Of a group and a loop that are fit for it. */
static int spawn_in(duet_group *public, duet_loop *loop, duet_fn *fn, void *arg,
                    const duet_opts *opts)
{
    struct duet__task *task = duet__task_new(loop, fn, arg, opts);
    if (!task) {
        if (opts && opts->drop)
            duet__call_bare(opts->drop, arg);
        return -ENOMEM;
    }
    /* A member before it can run: it may wait for its group, and must be known as a child then. */
    struct group *group = (struct group *)(void *)public;
    add_member(group, &task->work.future, false);
    int rc = duet__hand_over(loop, task, opts, opts && (opts->flags & DUET_REFUSE), DUET_NEVER);
    return rc < 0 ? spawn_refused(group, task, rc) : 0;
}

int duet_group_spawn(duet_group *public, duet_loop *loop, duet_fn *fn, void *arg,
                     const duet_opts *opts)
{
    loop = loop ? loop : duet_loop_self();
    int rc = may_spawn(public, loop, fn, opts);
    if (rc < 0) {
        if (opts && opts->drop)
            duet__call_bare(opts->drop, arg);
        return rc;
    }
    /* A search may look at the loop, by way of the group, until the task is refused: so if it is
     * another's, who may close it meanwhile, it is held. */
    bool is_others = duet__loop_here != loop && !duet__is_foreign(loop->process);
    duet_loop *held = is_others ? duet_loop_ref(loop) : NULL;
    rc = spawn_in(public, loop, fn, arg, opts);
    duet_loop_unref(held);
    return rc;
}

/* ---- Waiting ---- */

/* Whoever is in the group, or runs beneath such work, would wait for itself. */
static bool is_child(const struct duet__parker *here, const struct group *group)
{
    for (; here; here = here->outer)
        if (here->work && duet__load_relaxed(&here->work->member.group) == group)
            return true;
    return false;
}

/* In the graph of waits: all members have to settle. */
static bool members_may_settle(const struct duet__wait *wait, struct duet__look *look)
{
    struct group *group = (struct group *)(void *)(duet_group *)wait->of;
    bool may = true;
    duet__lock(&group->lock);
    duet__list_for_each(link, &group->members)
    {
        if (!duet__future_may_settle(future_of(link), look))
            may = false;
    }
    duet__unlock(&group->lock);
    return may;
}

static const char *describe_members(const struct duet__wait *wait, char *buf, size_t size)
{
    struct group *group = (struct group *)(void *)(duet_group *)wait->of;
    duet__lock(&group->lock);
    snprintf(buf, size, "its group of %zu", group->pending);
    duet__unlock(&group->lock);
    return buf;
}

static const struct duet__wait_ops group_wait_ops = {members_may_settle, describe_members, true};

/* Until nothing is pending. 0, -ETIME, -ECANCELED, -EDEADLK. */
static int wait_members(duet_group *public, duet_deadline by, enum duet__wait_kind kind)
{
    struct duet__parker *here = duet__here();
    struct duet__wait entry;
    bool shielded = kind != DUET__WAIT_PLAIN;
    duet__wait_enter(&entry, here, &group_wait_ops, public, 0, by, kind);
    struct group *group = lock_group(public);
    int rc = 0;
    while (rc == 0 && group->pending > 0) {
        duet__unlock(&group->lock);
        rc = is_child(here, group) ? duet__wait_failed(here, -EDEADLK)
                                   : duet__wait_begin(here, by, shielded);
        struct duet__waiter waiter;
        duet__waiter_init(&waiter, here);
        duet__lock(&group->lock);
        if (rc < 0 || group->pending == 0)
            break;
        duet__list_append(&group->waiters, &waiter.link);
        duet__unlock(&group->lock);
        rc = duet__wait_claimed(&waiter, &group->lock, by, shielded);
        duet__lock(&group->lock); /* and so whoever fired us is out of it */
    }
    if (group->pending == 0)
        rc = 0;
    duet__unlock(&group->lock);
    duet__wait_leave(&entry);
    return rc;
}

int duet_group_wait(duet_group *public, duet_deadline by, duet_result *ret_failure)
{
    int rc = check_group(__func__, public);
    if (rc == 0)
        rc = wait_members(public, by, duet__wait_kind(duet__here()->shields > 0));
    if (rc < 0)
        return duet__told(rc);
    struct group *group = lock_group(public);
    duet_result failure = group->failed ? group->failed->result : duet_ok();
    if (group->failed)
        duet__future_looked(group->failed);
    duet__unlock(&group->lock);
    if (ret_failure)
        *ret_failure = failure;
    return 0;
}

int duet_group_close(duet_group *public)
{
    int rc = check_group(__func__, public);
    if (rc < 0)
        return rc;
    struct duet__parker *here = duet__here();
    struct group *group = lock_group(public);
    bool waits = group->pending > 0;
    duet__unlock(&group->lock);
    if (waits && (!here->ops->may_wait || is_child(here, group)))
        return -EDEADLK;
    cancel_members(group);
    wait_members(public, DUET_NEVER, DUET__WAIT_ENDS);
    for (struct duet__list *link; (link = duet__list_pop(&group->members)) != NULL;) {
        duet_future *f = future_of(link);
        duet__future_lock(f, 0);
        duet__store_relaxed(&f->member.group, NULL);
        duet__future_unlock(f);
        duet_future_unref(f);
    }
    duet_future_unref(group->failed); /* reported now if no wait returned it */
    memset(public, 0, sizeof *public);
    return 0;
}
