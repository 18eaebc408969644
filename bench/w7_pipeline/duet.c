/* W7 with duet: three coroutines and two channels in one loop. */
#include "bench.h"

#include <duet/duet.h>

struct pipeline {
    duet_chan *first, *second;
    long items;
    int64_t sum, arrived;
};

static duet_result produce(void *arg)
{
    struct pipeline *p = arg;
    for (int64_t i = 0; i < p->items; i++)
        need(duet_chan_send(p->first, &i, DUET_NEVER) == 0, "duet_chan_send");
    duet_chan_shut(p->first);
    return duet_ok();
}

static duet_result process(void *arg)
{
    struct pipeline *p = arg;
    int64_t item;
    while (duet_chan_recv(p->first, &item, DUET_NEVER) == 0) {
        item++;
        need(duet_chan_send(p->second, &item, DUET_NEVER) == 0, "duet_chan_send");
    }
    duet_chan_shut(p->second);
    return duet_ok();
}

static duet_result consume(void *arg)
{
    struct pipeline *p = arg;
    int64_t item;
    while (duet_chan_recv(p->second, &item, DUET_NEVER) == 0) {
        p->sum += item;
        p->arrived++;
    }
    return duet_ok();
}

static void run_pipeline(long items, size_t room)
{
    struct pipeline p = {.items = items};
    duet_fn *const stages[] = {produce, process, consume};
    duet_future *running[3];
    need(duet_chan_open(&p.first, sizeof(int64_t), room) == 0, "duet_chan_open");
    need(duet_chan_open(&p.second, sizeof(int64_t), room) == 0, "duet_chan_open");
    for (int i = 0; i < 3; i++)
        running[i] = duet_spawn(stages[i], &p);
    need(duet_gather(running, 3, DUET_NEVER, NULL) == 0, "duet_gather");
    for (int i = 0; i < 3; i++)
        duet_future_unref(running[i]);
    duet_chan_unref(p.first);
    duet_chan_unref(p.second);
    need(p.arrived == items && p.sum == (int64_t)items * (items + 1) / 2, "the sum of the items");
}

struct plan {
    long items, room;
};

static duet_result measure(void *arg)
{
    const struct plan *plan = arg;
    run_pipeline(bench_warm_up(plan->items), (size_t)plan->room);
    int64_t start_ns = bench_now_ns();
    run_pipeline(plan->items, (size_t)plan->room);
    bench_say("mps", (double)plan->items / (double)(bench_now_ns() - start_ns) * 1000);
    return duet_ok();
}

int main(int argc, char **argv)
{
    struct plan plan = {bench_long(argc, argv, "items", 1000000),
                        bench_long(argc, argv, "room", 100)};
    need(plan.items > 0 && plan.room > 0, "arguments");
    need(duet_run(measure, &plan, NULL) == 0, "duet_run");
    return 0;
}
