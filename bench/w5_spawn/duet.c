/* W5 with duet: duet_spawn() in batches, each future waited for and let go; or one after the other,
 * each of which runs at once. */
#include "bench.h"

#include <duet/duet.h>

static long ran;
static duet_future **futures;

struct plan {
    long spawns, batch;
    bool at_once;
};

static duet_result child(void *arg)
{
    (void)arg;
    ran++;
    return duet_ok();
}

static void spawn_batch(long batch)
{
    for (long i = 0; i < batch; i++)
        futures[i] = duet_spawn(child, NULL);
    for (long i = 0; i < batch; i++) {
        need(duet_future_wait(futures[i], DUET_NEVER, NULL) == 0, "duet_future_wait");
        duet_future_unref(futures[i]);
    }
}

static void spawn_at_once(void)
{
    static const duet_opts opts = {.flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(child, NULL, &opts);
    need(duet_future_wait(f, DUET_NEVER, NULL) == 0, "duet_future_wait");
    duet_future_unref(f);
}

static void spawn_all(const struct plan *plan, long spawns)
{
    for (; plan->at_once && spawns > 0; spawns--)
        spawn_at_once();
    for (; spawns > 0; spawns -= plan->batch)
        spawn_batch(spawns < plan->batch ? spawns : plan->batch);
}

static duet_result measure(void *arg)
{
    const struct plan *plan = arg;
    spawn_all(plan, bench_warm_up(plan->spawns));
    ran = 0;
    int64_t start_ns = bench_now_ns();
    spawn_all(plan, plan->spawns);
    double ns = (double)(bench_now_ns() - start_ns);
    need(ran == plan->spawns, "each ran once");
    bench_say("spawn_ns", ns / (double)plan->spawns);
    return duet_ok();
}

int main(int argc, char **argv)
{
    struct plan plan = {bench_long(argc, argv, "spawns", 1000000),
                        bench_long(argc, argv, "batch", 1000),
                        bench_long(argc, argv, "at_once", 0) != 0};
    need(plan.spawns > 0 && plan.batch > 0, "arguments");
    futures = calloc((size_t)plan.batch, sizeof(duet_future *));
    need(futures != NULL, "calloc");
    need(duet_run(measure, &plan, NULL) == 0, "duet_run");
    free(futures);
    return 0;
}
