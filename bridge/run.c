/* Where loops and pools start by themselves: duet_run(), duet_loop_start(), the default pool. */
#include "check.h"
#include "context.h"
#include "log.h"
#include "loop_impl.h"
#include "pool_impl.h"
#include "runtime.h"
#include "sigint.h"
#include "thread.h"

#include <duet/bridge.h>

#include <errno.h>
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

/* On a loop that is the run's own. */
static int run_on(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts, duet_result *ret)
{
    struct main_end end = {.waiter.fire = main_has_ended, .loop = loop};
    duet_future *f = duet_submit_with(loop, fn, arg, opts);
    int rc = 0;
    if (!duet__future_was_refused(f)) {
        loop->main = f;
        duet__future_enqueue(f, &end.waiter); /* nobody runs the loop yet */
        rc = duet_loop_run(loop);
    }
    if (rc == 0 && duet__future_was_refused(f))
        rc = duet_future_result(f).err;
    else if (rc == 0 && ret)
        duet_future_take(f, ret);
    loop->main = NULL;
    duet_future_unref(f);
    return rc;
}

/* 0 and a loop; or why there is none. */
static int open_main(duet_loop **ret, duet_fn *fn, const duet_opts *opts)
{
    const duet_loop_config config = {.name = "main"};
    const char *why;
    int rc = duet__work_check(fn, opts, &why);
    if (rc < 0)
        return duet__refuse("duet_run", rc, why);
    return duet_loop_self() ? -EDEADLK : duet__policy_make_loop(ret, &config);
}

int duet_run_with(duet_fn *fn, void *arg, const duet_opts *opts, duet_result *ret)
{
    duet_opts given = opts ? *opts : (duet_opts){0};
    struct duet__sigint sigint;
    duet_loop *loop = NULL;
    bool on_signal = given.flags & DUET_SIGINT;
    if (!given.name)
        given.name = "main";
    int rc = open_main(&loop, fn, opts);
    if (rc == 0 && on_signal)
        rc = duet__sigint_begin(&sigint, loop);
    if (rc < 0) {
        if (given.drop)
            duet__call_bare(given.drop, arg);
    } else {
        rc = run_on(loop, fn, arg, &given, ret);
        if (on_signal)
            duet__sigint_end(&sigint);
    }
    if (loop)
        duet_loop_close(loop, DUET_NEVER);
    return rc;
}

int duet_run(duet_fn *fn, void *arg, duet_result *ret)
{
    return duet_run_with(fn, arg, NULL, ret);
}

/* ---- A loop on a thread of its own ---- */

static void *loop_main(void *loop)
{
    duet_loop_run(loop);
    duet_loop_unref(loop);
    duet__here_set(duet__here_bare()); /* thread-local destructors follow, and we are joined */
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
    static const duet_loop_config defaults;
    duet_loop *loop;
    int rc = duet__policy_make_loop(&loop, config ? config : &defaults);
    if (rc < 0)
        return rc;
    rc = start_thread(loop, config && config->name ? config->name : "duet-loop");
    if (rc == 0) {
        duet__future_wait(&loop->started, DUET_NEVER, DUET__WAIT_ENDS); /* settled by its thread */
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
