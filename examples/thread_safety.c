/* The thread-safety demo: threads call coroutines on the loop that waits for those threads.
 *
 * Three workers of a pool each submit a coroutine of 1 s to the loop and block on its result, for 5
 * s at most. The loop runs two coroutines of 0.5 s, gathers them, and then waits for the three
 * workers.
 *
 * In the asyncio original that last wait blocks the loop itself: the coroutines that the workers
 * wait for can never run, and after 5 s every worker fails with a TimeoutError. In duet the same
 * call suspends the coroutine that makes it, the loop goes on, and all is done in 1.0 s. */
#include "say.h"

#include <errno.h>

enum {
    WORKERS = 3,
    COROUTINES = 2
};

struct worker {
    int number;
    duet_loop *loop;
};

/* On the loop: what a worker asked for. */
static duet_result answer(void *arg)
{
    struct worker *worker = arg;
    say("coroutine for worker %d begins", worker->number);
    int rc = duet_sleep(duet_sec(1));
    say("coroutine for worker %d ends", worker->number);
    return rc < 0 ? duet_err(rc) : duet_i64(worker->number * 10);
}

/* On a thread of the pool: blocks until the loop has answered. */
static duet_result ask_the_loop(void *arg)
{
    struct worker *worker = arg;
    const duet_opts named = {.name = "answer"};
    duet_result r;
    say("worker %d calls a coroutine and blocks", worker->number);
    int rc = duet_call_with(worker->loop, answer, worker, &named, duet_sec(5), &r);
    say("worker %d: %s", worker->number, duet_strerror(rc));
    return rc < 0 ? duet_err(rc) : r;
}

static duet_result half_second(void *arg)
{
    int *number = arg;
    int rc = duet_sleep(duet_ms(500));
    say("coroutine %d of the loop's own ends", *number);
    return rc < 0 ? duet_err(rc) : duet_i64(*number);
}

static duet_result demonstrate(void *arg)
{
    duet_pool *pool = arg;
    const duet_opts job = {.name = "worker"}, own = {.name = "own"};
    struct worker workers[WORKERS];
    int numbers[COROUTINES];
    duet_future *jobs[WORKERS], *coroutines[COROUTINES];
    duet_result results[WORKERS];

    for (int i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){i, duet_loop_self()};
        jobs[i] = duet_pool_submit_with(pool, ask_the_loop, &workers[i], &job);
    }
    for (int i = 0; i < COROUTINES; i++) {
        numbers[i] = i;
        coroutines[i] = duet_spawn_with(half_second, &numbers[i], &own);
    }
    need(duet_gather(coroutines, COROUTINES, DUET_NEVER, NULL), "gather");
    say("gathered its own; now waits for the workers that wait for this loop");
    need(duet_gather(jobs, WORKERS, DUET_NEVER, results), "gather");

    int failed = 0;
    for (int i = 0; i < WORKERS; i++) {
        if (results[i].err < 0)
            failed++;
        else
            say("worker %d returned %lld", i, (long long)duet_as_i64(results[i]));
        duet_future_unref(jobs[i]);
    }
    for (int i = 0; i < COROUTINES; i++)
        duet_future_unref(coroutines[i]);
    return failed ? duet_err(-ETIME) : duet_ok();
}

int main(void)
{
    const duet_pool_config config = {.name = "demo", .workers_max = WORKERS};
    duet_pool *pool;
    duet_result r;
    say_begin();
    need(duet_pool_open(&pool, &config), "duet_pool_open");
    need(duet_run(demonstrate, pool, &r), "duet_run");
    need(duet_pool_close(pool, duet_sec(1)), "duet_pool_close");
    need(r.err, "a worker");
    say("done in %.1f s (the asyncio original: deadlock, then TimeoutError after 5 s)",
        seconds_since_start());
    return 0;
}
