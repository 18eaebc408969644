/* W3 with duet: coroutines on one loop, each with duet_offload() to a pool. */
#include "tally.h"

#include <duet/duet.h>

static duet_pool *pool;
static double *us; /* of each offload, if they go one at a time */
static long left; /* offloads that no coroutine has begun */

static duet_result job(void *arg)
{
    tally_count();
    return duet_ptr(arg);
}

static void offload(void *arg)
{
    duet_result r;
    need(duet_offload(pool, job, arg, DUET_NEVER, &r) == 0, "duet_offload");
    need(r.err == 0 && duet_as_ptr(r) == arg, "the result");
}

static duet_result offload_alone(void *arg)
{
    while (left > 0) {
        int64_t start_ns = bench_now_ns();
        offload(arg);
        us[--left] = (double)(bench_now_ns() - start_ns) / 1000;
    }
    return duet_ok();
}

static duet_result offload_among_many(void *arg)
{
    while (left > 0) {
        left--;
        offload(arg);
    }
    return duet_ok();
}

static void offload_all(long at_once, long offloads)
{
    duet_group group = DUET_GROUP_INIT;
    left = offloads;
    for (long i = 0; i < at_once; i++)
        need(duet_group_spawn(&group, NULL, at_once > 1 ? offload_among_many : offload_alone, &left,
                              NULL) == 0,
             "duet_group_spawn");
    need(duet_group_wait(&group, DUET_NEVER, NULL) == 0, "duet_group_wait");
    duet_group_close(&group);
}

struct plan {
    long at_once, offloads;
};

static duet_result measure(void *arg)
{
    const struct plan *plan = arg;
    offload_all(plan->at_once, bench_warm_up(plan->offloads));
    int64_t start_ns = bench_now_ns();
    offload_all(plan->at_once, plan->offloads);
    double ns = (double)(bench_now_ns() - start_ns);
    if (plan->at_once == 1)
        bench_say_quantiles("", us, (size_t)plan->offloads);
    bench_say("mps", (double)plan->offloads / ns * 1000);
    return duet_ok();
}

int main(int argc, char **argv)
{
    unsigned workers = (unsigned)bench_long(argc, argv, "workers", 2);
    duet_pool_config config = {.workers_min = workers, .workers_max = workers};
    struct plan plan = {bench_long(argc, argv, "at_once", 1),
                        bench_long(argc, argv, "offloads", 20000)};
    need(workers > 0 && plan.at_once > 0 && plan.offloads > 0, "arguments");
    us = malloc((size_t)plan.offloads * sizeof *us);
    need(us != NULL, "malloc");
    tally_expect(bench_warm_up(plan.offloads) + plan.offloads);
    need(duet_pool_open(&pool, &config) == 0, "duet_pool_open");
    need(duet_run(measure, &plan, NULL) == 0, "duet_run");
    need(duet_pool_close(pool, DUET_NEVER) == 0, "duet_pool_close");
    tally_check();
    free(us);
    return 0;
}
