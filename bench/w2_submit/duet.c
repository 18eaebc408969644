/* W2 with duet: duet_call_soon(), which never waits, so that the producer tries again when the
 * inbox is full; or duet_submit(), which waits for room, and whose future is let go at once. */
#include "producers.h"

#include <duet/duet.h>

#include <errno.h>
#include <sched.h>

static duet_loop *loop;
static duet_future *all_ran;
static long ran, expected; /* the loop's thread counts; main sets them while it rests */
static int64_t end_ns;

static void callback(void *arg)
{
    (void)arg;
    if (++ran < expected)
        return;
    end_ns = bench_now_ns();
    duet_future_settle(all_ran, duet_ok());
}

static duet_result task(void *arg)
{
    callback(arg);
    return duet_ok();
}

static void produce_callbacks(int producer, long count)
{
    (void)producer;
    while (count > 0) {
        int rc = duet_call_soon(loop, callback, NULL);
        need(rc == 0 || rc == -EAGAIN, "duet_call_soon");
        if (rc == 0)
            count--;
        else
            sched_yield();
    }
}

static void produce_tasks(int producer, long count)
{
    (void)producer;
    for (; count > 0; count--)
        duet_future_unref(duet_submit(loop, task, NULL));
}

/* Until the last has run: how long that took. */
static int64_t submit(producers_fn *produce, int producers, long work)
{
    ran = 0;
    expected = work;
    need(duet_future_open(&all_ran) == 0, "duet_future_open");
    int64_t start_ns = producers_run(producers, work, produce);
    need(duet_future_wait(all_ran, DUET_NEVER, NULL) == 0, "duet_future_wait");
    duet_future_unref(all_ran);
    return end_ns - start_ns;
}

int main(int argc, char **argv)
{
    const char *kind = bench_text(argc, argv, "kind", "callback");
    int producers = (int)bench_long(argc, argv, "producers", 1);
    long work = bench_long(argc, argv, "work", 2000000);
    bool tasks = strcmp(kind, "task") == 0;
    if (!tasks && strcmp(kind, "callback") != 0)
        return BENCH_SKIP;
    producers_fn *produce = tasks ? produce_tasks : produce_callbacks;
    need(duet_loop_start(&loop, NULL) == 0, "duet_loop_start");
    submit(produce, producers, bench_warm_up(work));
    int64_t ns = submit(produce, producers, work);
    need(duet_loop_close(loop, DUET_NEVER) == 0, "duet_loop_close");
    need(ran == work, "each ran once");
    bench_say("mps", (double)work / (double)ns * 1000);
    return 0;
}
