/* W3's limit: one at a time, two threads that hand each other a word; many at once, a bare pool
 * that hands back what it ran in chains. */
#include "bare_pool.h"
#include "baton.h"
#include "tally.h"

#include <pthread.h>

/* ---- One at a time ---- */

static struct baton job, done;
static bool ends; /* whoever has a baton may touch it */

static void *worker(void *arg)
{
    for (;;) {
        baton_take(&job);
        if (ends)
            return arg;
        tally_count();
        baton_give(&done);
    }
}

static void offload(void)
{
    baton_give(&job);
    baton_take(&done);
}

static void offload_alone(long offloads, double *us)
{
    for (long i = 0; i < offloads; i++) {
        int64_t start_ns = bench_now_ns();
        offload();
        us[i] = (double)(bench_now_ns() - start_ns) / 1000;
    }
}

static void measure_alone(long offloads)
{
    pthread_t thread;
    double *us = malloc((size_t)offloads * sizeof *us);
    need(us != NULL, "malloc");
    job = done = baton_make(baton_looks(true));
    need(pthread_create(&thread, NULL, worker, NULL) == 0, "pthread_create");
    offload_alone(bench_warm_up(offloads), us);
    int64_t start_ns = bench_now_ns();
    offload_alone(offloads, us);
    double ns = (double)(bench_now_ns() - start_ns);
    ends = true;
    baton_give(&job);
    pthread_join(thread, NULL);
    bench_say_quantiles("", us, (size_t)offloads);
    bench_say("mps", (double)offloads / ns * 1000);
    free(us);
}

/* ---- Many at once ---- */

static struct bare_pool pool;
static struct bare_job *ran; /* a stack of what came back, which the loop takes whole */
static struct baton something_ran;

static void count(struct bare_job *one)
{
    (void)one;
    tally_count();
}

static void hand_back(struct bare_job *first, struct bare_job *last)
{
    struct bare_job *before = __atomic_load_n(&ran, __ATOMIC_RELAXED);
    do
        last->next = before;
    while (!__atomic_compare_exchange_n(&ran, &before, first, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED));
    if (!before)
        baton_give(&something_ran);
}

static void submit(struct bare_job *first, long most, long *left)
{
    struct bare_job *last = first;
    long n = *left > 0 && first;
    if (n == 0)
        return;
    for (; last->next && n < most && n < *left; n++)
        last = last->next;
    *left -= n;
    bare_pool_submit(&pool, first, last, n);
}

static void offload_among_many(struct bare_job *jobs, long at_once, long offloads)
{
    long left = offloads, back = 0;
    for (long i = 0; i < at_once; i++)
        jobs[i] = (struct bare_job){i + 1 < at_once ? &jobs[i + 1] : NULL, count};
    submit(jobs, at_once, &left);
    while (back < offloads) {
        baton_take(&something_ran);
        struct bare_job *chain = __atomic_exchange_n(&ran, NULL, __ATOMIC_ACQUIRE);
        for (struct bare_job *one = chain; one; one = one->next)
            back++;
        submit(chain, at_once, &left);
    }
}

static void measure_many(long at_once, long offloads, int workers)
{
    struct bare_job *jobs = calloc((size_t)at_once, sizeof *jobs);
    need(jobs != NULL, "calloc");
    something_ran = baton_make(baton_looks(true));
    pool.batch_ran = hand_back;
    bare_pool_open(&pool, workers);
    offload_among_many(jobs, at_once, bench_warm_up(offloads));
    int64_t start_ns = bench_now_ns();
    offload_among_many(jobs, at_once, offloads);
    bench_say("mps", (double)offloads / (double)(bench_now_ns() - start_ns) * 1000);
    bare_pool_close(&pool);
    free(jobs);
}

int main(int argc, char **argv)
{
    long at_once = bench_long(argc, argv, "at_once", 1);
    long offloads = bench_long(argc, argv, "offloads", 20000);
    need(at_once > 0 && offloads > 0, "arguments");
    tally_expect(bench_warm_up(offloads) + offloads);
    if (at_once == 1)
        measure_alone(offloads);
    else
        measure_many(at_once, offloads, (int)bench_long(argc, argv, "workers", 2));
    tally_check();
    return 0;
}
