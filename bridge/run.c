/* Where loops and pools start by themselves: duet_run(), duet_loop_start(), the default pool. */
#include "check.h"
#include "log.h"
#include "loop_impl.h"
#include "pool_impl.h"
#include "thread.h"

#include <duet/bridge.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- A loop on this thread ---- */

/* Stops the loop when its main coroutine has settled, however that came: it may not even have
 * started. On the stack of duet_run(), which outlives the loop's run. */
struct main_end {
    struct duet__waiter waiter;
    duet_loop *loop;
};

static bool main_has_ended(struct duet__waiter *waiter, duet_future *settled)
{
    (void)settled;
    duet_loop_stop(duet__container(waiter, struct main_end, waiter)->loop);
    return false;
}

int duet_run(duet_fn *fn, void *arg, duet_result *ret)
{
    const duet_opts opts = {.name = "main"};
    const duet_loop_config config = {.name = "main"};
    struct main_end end = {.waiter.fire = main_has_ended};
    if (!fn)
        return duet__bad_argument(__func__, "fn is NULL");
    if (duet_loop_self())
        return -EDEADLK;
    int rc = duet_loop_open(&end.loop, &config);
    if (rc < 0)
        return rc;
    duet_future *f = duet_submit_with(end.loop, fn, arg, &opts);
    if (!duet__future_was_refused(f)) {
        duet__list_append(&f->waiters, &end.waiter.link); /* nobody runs the loop yet */
        rc = duet_loop_run(end.loop);
    }
    if (rc == 0 && duet__future_was_refused(f))
        rc = duet_future_result(f).err;
    else if (rc == 0 && ret)
        duet_future_take(f, ret);
    duet_future_unref(f);
    duet_loop_close(end.loop, DUET_NEVER);
    return rc;
}

/* ---- A loop on a thread of its own ---- */

static void *loop_main(void *loop)
{
    duet_loop_run(loop);
    duet_loop_unref(loop);
    return NULL;
}

static int start_thread(duet_loop *loop, const char *name)
{
    duet_loop_ref(loop); /* the thread's */
    int rc = duet__thread_start(&loop->thread, name, 0, loop_main, loop);
    if (rc < 0) {
        duet__log(DUET_ERROR,
                  "loop '%s' cannot be started: no thread: %s (see RLIMIT_NPROC, ulimit -u, the "
                  "cgroup's pids.max, and memory)",
                  loop->config.name, duet_strerror(rc));
        duet_loop_unref(loop);
        return rc;
    }
    loop->has_thread = true;
    return 0;
}

static int start(duet_loop **ret, const duet_loop_config *config)
{
    duet_loop *loop;
    int rc = duet_loop_open(&loop, config);
    if (rc < 0)
        return rc;
    rc = start_thread(loop, config && config->name ? config->name : "duet-loop");
    if (rc == 0) {
        duet__future_wait(&loop->started, DUET_NEVER, true); /* settled by its thread */
        rc = loop->started.result.err;
    }
    if (rc < 0)
        duet_loop_close(loop, DUET_NEVER);
    else
        *ret = loop;
    return rc;
}

int duet_loop_start(duet_loop **ret, const duet_loop_config *config)
{
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    /* A bare callback must not wait, but starting a thread takes no longer than creating one:
     * block. */
    struct duet__parker *here = duet__here();
    if (here->ops->may_wait)
        return start(ret, config);
    duet__here_set(NULL);
    int rc = start(ret, config);
    duet__here_set(here);
    return rc;
}

/* ---- The default pool ---- */

enum {
    EXIT_WAIT_S = 2
};

static struct duet__lock default_lock;
static duet_pool *default_pool; /* guarded; once set, for ever: jobs may be submitted during exit */

static void close_here(duet_pool *pool)
{
    struct duet__parker *before = duet__here_set(NULL); /* also from a bare callback */
    duet_pool_close(pool, DUET_NEVER);
    duet__here_set(before);
}

static pid_t default_pool_owner;

static void end_default_pool(void)
{
    if (getpid() != default_pool_owner)
        return; /* a forked child has the memory of the pool, but not its threads */
    duet__pool_end(default_pool, duet_sec(EXIT_WAIT_S));
}

duet_pool *duet_pool_default(void)
{
    const duet_pool_config config = {.name = "default"};
    duet__lock(&default_lock);
    duet_pool *pool = default_pool, *ours = NULL;
    duet__unlock(&default_lock);
    if (pool || duet_pool_open(&ours, &config) < 0) /* not under the lock: it may log */
        return pool;
    duet__lock(&default_lock);
    bool first = !default_pool;
    if (first) {
        default_pool = ours;
        default_pool_owner = getpid();
        duet__pool_set_permanent(ours);
    }
    pool = default_pool;
    duet__unlock(&default_lock);
    if (first)
        atexit(end_default_pool);
    else /* somebody else was faster; ours has no jobs, so closing it waits for nobody */
        close_here(ours);
    return pool;
}
