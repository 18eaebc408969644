/* Callbacks of a future: each runs on the loop it was given, in a later turn. */
#include "alloc.h"
#include "check.h"
#include "context.h"
#include "future_impl.h"
#include "loop_impl.h"

#include <duet/bridge.h>

#include <errno.h>

/* Owned by the future's queue, then by the loop; freed when it has run or was dropped. Holds a
 * reference to the loop, so that its port can still refuse when the loop has ended. */
struct then {
    struct duet__waiter waiter;
    struct duet__node node;
    duet_loop *loop;
    duet_callback *fn, *drop;
    void *arg;
    duet_context *context; /* of who asked for it */
};

static void then_free(struct then *then)
{
    duet__context_drop(then->context);
    duet_loop_unref(then->loop);
    duet__free(then);
}

static void then_drop(struct then *then)
{
    if (then->drop)
        duet__call_bare_in(then->context, then->drop, then->arg);
    then_free(then);
}

static void then_run(struct duet__node *node, void *consumer)
{
    struct then *then = duet__container(node, struct then, node);
    duet_loop *loop = consumer;
    if (loop->buried) {
        then_drop(then);
        return;
    }
    duet__call_bare_in(then->context, then->fn, then->arg);
    then_free(then);
}

/* Under the future's lock, posts itself; if the loop has ended, asks to be dropped without the
 * lock. */
static bool then_fire(struct duet__waiter *waiter, duet_future *settled)
{
    struct then *then = duet__container(waiter, struct then, waiter);
    if (settled)
        return !duet__port_post(then->loop->port, &then->node);
    then_drop(then);
    return false;
}

int duet_future_then(duet_future *f, duet_loop *loop, duet_callback *fn, void *arg,
                     duet_callback *drop)
{
    if (!f || !loop || !fn)
        return duet__bad_argument(__func__, !f      ? "f is NULL"
                                            : !loop ? "loop is NULL"
                                                    : "fn is NULL");
    bool settled = duet__future_is_settled(f); /* then its lock is not needed: it stays so */
    if (duet__is_foreign(loop->process) || (duet__is_foreign(f->process) && !settled))
        return -EOWNERDEAD;
    if (duet__port_is_shut(loop->port))
        return -ESHUTDOWN;
    struct then *then = duet__alloc_zeroed(1, sizeof *then);
    if (!then)
        return -ENOMEM;
    then->waiter.fire = then_fire;
    then->node.run = then_run;
    then->loop = duet_loop_ref(loop);
    then->fn = fn;
    then->arg = arg;
    then->drop = drop;
    then->context = duet__context_inherit();
    bool posted = true;
    uint64_t marks = DUET__FUTURE_WATCHED | DUET__FUTURE_CALLS; /* a look at them may come before */
    if (!settled && !(duet__future_lock(f, marks) & DUET__FUTURE_SETTLED))
        duet__list_append(&f->waiters, &then->waiter.link);
    else
        posted = duet__port_post(loop->port, &then->node);
    if (!settled)
        duet__future_unlock(f);
    if (!posted)
        then_free(then);
    return posted ? 0 : -ESHUTDOWN;
}

bool duet_future_forget(duet_future *f, duet_callback *fn, void *arg)
{
    struct then *found = NULL;
    if (!f) {
        duet__bad_argument(__func__, "f is NULL");
        return false;
    }
    if (duet__is_foreign(f->process))
        return false;
    duet__future_lock(f, 0);
    duet__list_for_each(link, &f->waiters)
    {
        struct duet__waiter *waiter = duet__container(link, struct duet__waiter, link);
        struct then *then = duet__container(waiter, struct then, waiter);
        if (waiter->fire == then_fire && then->fn == fn && then->arg == arg) {
            found = then;
            duet__list_remove(link);
            break;
        }
    }
    duet__future_unlock(f);
    if (found)
        then_free(found);
    return found != NULL;
}
