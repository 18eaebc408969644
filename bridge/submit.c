/* Work enters a loop: coroutines, callbacks, callbacks at a moment. */
#include "submit.h"
#include "block.h"
#include "check.h"
#include "context.h"
#include "inbox.h"

#include <errno.h>

/* Likewise, from another thread than the loop's. */
static int push(duet_loop *loop, struct duet__node *node, bool refuse, duet_deadline by)
{
    int rc = duet__inbox_enter(loop, refuse, by);
    return rc < 0 ? rc : duet__inbox_push(loop, node);
}

/* 0, or why nothing enters this loop, which is ours or another's. */
static int may_enter(const duet_loop *loop)
{
    if (duet__is_foreign(loop->process))
        return -EOWNERDEAD;
    return duet__loop_here == loop && loop->stopping ? -ESHUTDOWN : 0;
}

int duet__hand_over(duet_loop *loop, struct duet__task *task, const duet_opts *opts, bool refuse,
                    duet_deadline by)
{
    int rc = may_enter(loop);
    if (rc < 0)
        return rc;
    if (duet__loop_here != loop)
        return push(loop, &task->node, refuse, by);
    return duet__task_ready(task, opts); /* never waits for a place, and needs none */
}

/* While a submission goes on that calls hooks, so that a close meanwhile does not free the loop
 * before it is handed over; without hooks it takes no reference. Before the first use of the loop,
 * and with what it returned, after the last. */
static duet_loop *hold_for_hooks(duet_loop *loop)
{
    return loop->hooks && !duet__is_foreign(loop->process) ? duet_loop_ref(loop) : NULL;
}

/* Of a task that nobody else knows yet: the handle, settled if it was not accepted. */
static duet_future *submit_task(duet_loop *loop, struct duet__task *task, const duet_opts *opts,
                                bool refuse, duet_deadline by, int *ret_wait)
{
    duet_future *f = &task->work.future;
    int rc = duet__hand_over(loop, task, opts, refuse, by);
    if (rc == -ETIME || rc == -ECANCELED || rc == -EDEADLK)
        *ret_wait = rc;
    if (rc < 0)
        duet__work_refuse(&task->work, *ret_wait < 0 && rc != -EDEADLK ? -ECANCELED : rc);
    return f;
}

duet_future *duet__loop_submit_by(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait)
{
    const char *why = NULL;
    *ret_wait = 0;
    int rc = duet__work_check(fn, opts, &why);
    duet_loop *held = hold_for_hooks(loop);
    struct duet__task *task = rc == 0 ? duet__task_new(loop, fn, arg, opts) : NULL;
    duet_future *f =
        task ? submit_task(loop, task, opts, opts && (opts->flags & DUET_REFUSE), by, ret_wait)
             : duet__future_refused(rc < 0 ? rc : -ENOMEM, why, arg, opts);
    duet_loop_unref(held);
    return f;
}

duet_future *duet_submit_with(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts)
{
    int waited;
    if (!loop)
        return duet__future_refused(-EINVAL, "duet_submit: loop is NULL", arg, opts);
    return duet__loop_submit_by(loop, fn, arg, opts, DUET_NEVER, &waited);
}

duet_future *duet_submit(duet_loop *loop, duet_fn *fn, void *arg)
{
    return duet_submit_with(loop, fn, arg, NULL);
}

duet_future *duet_call_at(duet_loop *loop, duet_deadline at, duet_callback *fn, void *arg)
{
    int waited = 0;
    if (!loop || !fn)
        return duet__future_refused(
            -EINVAL, loop ? "duet_call_at: fn is NULL" : "duet_call_at: loop is NULL", NULL, NULL);
    duet_loop *held = hold_for_hooks(loop);
    struct duet__task *task = duet__task_new_moment(loop, at.ns, fn, arg);
    duet_future *f = task ? submit_task(loop, task, NULL, true, DUET_NEVER, &waited)
                          : duet__future_refused(-ENOMEM, NULL, NULL, NULL);
    duet_loop_unref(held);
    return f;
}

/* ---- Plain callbacks ---- */

/* Owned by the loop from the moment it is handed over; freed when it has run or was dropped. */
struct soon {
    struct duet__node node;
    duet_callback *fn, *drop;
    void *arg;
    duet_context *context; /* of who handed it over */
};

static void soon_free(struct soon *soon)
{
    duet__context_drop(soon->context);
    duet__block_put(duet__shelf_for(sizeof *soon), soon);
}

static void soon_run(struct duet__node *node, void *consumer)
{
    struct soon *soon = duet__container(node, struct soon, node);
    duet_loop *loop = consumer;
    duet_callback *fn = loop->buried ? soon->drop : soon->fn;
    if (fn)
        duet__call_bare_in(soon->context, fn, soon->arg);
    soon_free(soon);
}

int duet_call_soon_with(duet_loop *loop, duet_callback *fn, void *arg, duet_callback *drop)
{
    if (!loop || !fn)
        return duet__bad_argument(__func__, loop ? "fn is NULL" : "loop is NULL");
    struct soon *soon = duet__block_get(duet__shelf_for(sizeof *soon), sizeof *soon);
    if (!soon)
        return -ENOMEM;
    *soon = (struct soon){.node.run = soon_run,
                          .fn = fn,
                          .drop = drop,
                          .arg = arg,
                          .context = duet__context_inherit()};
    int rc = may_enter(loop);
    if (rc == 0 && duet__loop_here == loop)
        duet__loop_ready(loop, &soon->node);
    else if (rc == 0)
        rc = push(loop, &soon->node, true, DUET_NOW);
    if (rc < 0)
        soon_free(soon);
    return rc;
}

int duet_call_soon(duet_loop *loop, duet_callback *fn, void *arg)
{
    return duet_call_soon_with(loop, fn, arg, NULL);
}
