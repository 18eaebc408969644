/* Four deadlocks, each an answer instead of a hang: one of those who wait gets -EDEADLK, the log
 * names the chain, and the others go on. */
#include "say.h"

#include <errno.h>

/* The log goes between our own lines, so that each deadlock stands where it happened. */
static void show_log(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    printf("          log: %s\n", line);
}

static void tell(int rc)
{
    say("%s", rc == -EDEADLK ? "got -EDEADLK, and goes on" : "its wait has ended well");
}

/* ---- 1. A circle of coroutines ---- */

static duet_future *chicken_done, *egg_done;

static duet_result chicken(void *arg)
{
    (void)arg;
    tell(duet_future_wait(egg_done, DUET_NEVER, NULL));
    return duet_ok();
}

static duet_result egg(void *arg)
{
    (void)arg;
    tell(duet_future_wait(chicken_done, DUET_NEVER, NULL));
    return duet_ok();
}

static void circle_of_coroutines(void)
{
    const duet_opts first = {.name = "chicken"}, second = {.name = "egg"};
    chicken_done = duet_spawn_with(chicken, NULL, &first);
    egg_done = duet_spawn_with(egg, NULL, &second);
    need(duet_future_wait(chicken_done, DUET_NEVER, NULL), "chicken");
    need(duet_future_wait(egg_done, DUET_NEVER, NULL), "egg");
    duet_future_unref(chicken_done);
    duet_future_unref(egg_done);
}

/* ---- 2. A circle through both worlds ---- */

struct report {
    duet_loop *loop;
    duet_future *done; /* of the job; fetch runs on the loop, and so only when it is written */
};

/* On the loop, called by the job, it waits for the job. */
static duet_result fetch(void *arg)
{
    struct report *report = arg;
    duet_future *done = duet_future_ref(report->done); /* it goes on when the others have let go */
    tell(duet_future_wait(done, DUET_NEVER, NULL));
    duet_future_unref(done);
    return duet_ok();
}

/* On a worker: the earliest deadline of the circle is the one that fails. */
static duet_result report_job(void *arg)
{
    struct report *report = arg;
    const duet_opts opts = {.name = "fetch"};
    duet_future *fetching = duet_submit_with(report->loop, fetch, report, &opts);
    tell(duet_future_wait(fetching, duet_sec(60), NULL));
    duet_future_unref(fetching);
    return duet_ok();
}

static void circle_through_both_worlds(void)
{
    const duet_pool_config config = {.name = "db", .workers_max = 1};
    const duet_opts opts = {.name = "report"};
    struct report report = {.loop = duet_loop_self()};
    duet_pool *pool;
    need(duet_pool_open(&pool, &config), "pool");
    report.done = duet_pool_submit_with(pool, report_job, &report, &opts);
    need(duet_future_wait(report.done, DUET_NEVER, NULL), "report");
    duet_future_unref(report.done);
    need(duet_pool_close(pool, DUET_NEVER), "close");
}

/* ---- 3. A pool that is exhausted ---- */

struct level {
    duet_pool *pool;
    int depth;
};

/* Each level waits for the next, in the same pool: while it waits a spare worker runs the next, as
 * long as there are spares. */
static duet_result descend(void *arg)
{
    struct level *level = arg, next = {level->pool, level->depth + 1};
    char name[24];
    if (level->depth == 3)
        return duet_i64(level->depth);
    snprintf(name, sizeof name, "level-%d", next.depth);
    const duet_opts opts = {.name = name};
    duet_result r;
    int rc = duet_offload_with(level->pool, descend, &next, &opts, DUET_NEVER, &r);
    if (rc == -EDEADLK) {
        tell(rc);
        return duet_i64(level->depth);
    }
    return r;
}

static void exhausted_pool(void)
{
    const duet_pool_config config = {.name = "deep", .workers_max = 1, .spares_max = 1};
    const duet_opts opts = {.name = "level-0"};
    struct level level = {.depth = 0};
    duet_result r;
    need(duet_pool_open(&level.pool, &config), "pool");
    need(duet_offload_with(level.pool, descend, &level, &opts, DUET_NEVER, &r), "offload");
    say("with one worker and one spare it came to level %lld", (long long)duet_as_i64(r));
    need(duet_pool_close(level.pool, DUET_NEVER), "close");
}

/* ---- 4. A promise that nobody can keep ---- */

static duet_result trust(void *promise)
{
    tell(duet_future_wait(promise, DUET_NEVER, NULL));
    duet_future_unref(promise);
    return duet_ok();
}

static void promise_that_nobody_can_keep(void)
{
    const duet_opts opts = {.name = "parcel", .flags = DUET_SETTLER_HOLDS};
    const duet_opts waiting = {.name = "customer"};
    duet_future *promise;
    need(duet_future_open_with(&promise, &opts), "promise");
    duet_future *customer = duet_spawn_with(trust, duet_future_ref(promise), &waiting);
    need(duet_sleep(duet_ms(20)), "sleep");
    say("forgets to settle it, and lets go");
    duet_future_unref(promise);
    need(duet_future_wait(customer, DUET_NEVER, NULL), "customer");
    duet_future_unref(customer);
}

static duet_result run_all(void *arg)
{
    (void)arg;
    say("1. two coroutines wait for each other");
    circle_of_coroutines();
    say("2. a job waits for a coroutine that waits for the job");
    circle_through_both_worlds();
    say("3. jobs wait for jobs queued behind them, and no spare worker is left");
    exhausted_pool();
    say("4. whoever waits for a promise is the last who holds it");
    promise_that_nobody_can_keep();
    return duet_ok();
}

int main(void)
{
    say_begin();
    duet_log_set(show_log, NULL, DUET_WARNING);
    need(duet_run(run_all, NULL, NULL), "duet_run");
    printf("four deadlocks, no hang\n");
    return 0;
}
