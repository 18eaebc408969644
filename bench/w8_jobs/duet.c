/* W8 with duet: duet_pool_submit(), which waits for room, and whose future is let go at once. */
#include "producers.h"
#include "tally.h"

#include <duet/duet.h>

static duet_pool *pool;

static duet_result job(void *arg)
{
    (void)arg;
    tally_count();
    return duet_ok();
}

static void produce(int producer, long count)
{
    (void)producer;
    for (; count > 0; count--)
        duet_future_unref(duet_pool_submit(pool, job, NULL));
}

int main(int argc, char **argv)
{
    unsigned workers = (unsigned)bench_long(argc, argv, "workers", 2);
    int producers = (int)bench_long(argc, argv, "producers", 1);
    long jobs = bench_long(argc, argv, "jobs", 1000000), warm = bench_warm_up(jobs);
    duet_pool_config config = {.workers_min = workers, .workers_max = workers};
    need(workers > 0 && jobs > 0, "arguments");
    need(duet_pool_open(&pool, &config) == 0, "duet_pool_open");
    tally_expect(warm);
    producers_run(producers, warm, produce);
    tally_wait();
    tally_expect(jobs);
    int64_t start_ns = producers_run(producers, jobs, produce);
    int64_t end_ns = tally_wait();
    need(duet_pool_close(pool, DUET_NEVER) == 0, "duet_pool_close");
    tally_check();
    bench_say("mps", (double)jobs / (double)(end_ns - start_ns) * 1000);
    return 0;
}
