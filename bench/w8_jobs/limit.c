/* W8's limit: a bare pool, and a ring of jobs for each producer, which waits when all are under
 * way. */
#include "bare_pool.h"
#include "producers.h"
#include "tally.h"

#include <sched.h>

enum {
    JOBS = 16384 /* of all producers: as many as duet's queue has places */
};

struct job {
    struct bare_job job; /* first, so that it leads here */
    bool runs; /* its ring's place is taken */
};

static struct bare_pool pool;
static struct job *rings[PRODUCERS_MOST];
static long room; /* of each ring */

static void run(struct bare_job *bare)
{
    tally_count();
    __atomic_store_n(&((struct job *)bare)->runs, false, __ATOMIC_RELEASE);
}

static void produce(int producer, long count)
{
    for (long i = 0; i < count; i++) {
        struct job *job = &rings[producer][i % room];
        while (__atomic_load_n(&job->runs, __ATOMIC_ACQUIRE))
            sched_yield();
        *job = (struct job){{NULL, run}, true};
        bare_pool_submit(&pool, &job->job, &job->job, 1);
    }
}

int main(int argc, char **argv)
{
    int producers = (int)bench_long(argc, argv, "producers", 1);
    long jobs = bench_long(argc, argv, "jobs", 1000000), warm = bench_warm_up(jobs);
    need(producers > 0 && producers <= PRODUCERS_MOST && jobs > 0, "arguments");
    room = JOBS / producers;
    for (int i = 0; i < producers; i++) {
        rings[i] = calloc((size_t)room, sizeof *rings[i]);
        need(rings[i] != NULL, "calloc");
    }
    bare_pool_open(&pool, (int)bench_long(argc, argv, "workers", 2));
    tally_expect(warm);
    producers_run(producers, warm, produce);
    tally_wait();
    tally_expect(jobs);
    int64_t start_ns = producers_run(producers, jobs, produce);
    int64_t end_ns = tally_wait();
    bare_pool_close(&pool);
    tally_check();
    bench_say("mps", (double)jobs / (double)(end_ns - start_ns) * 1000);
    return 0;
}
