/* W4 with duet: duet_yield() between two coroutines. */
#include "bench.h"

#include <duet/duet.h>

static long yielded;

static duet_result yield_often(void *arg)
{
    for (long left = *(const long *)arg; left > 0; left--) {
        need(duet_yield() == 0, "duet_yield");
        yielded++;
    }
    return duet_ok();
}

static void yield_in_pair(long each)
{
    duet_future *pair[2] = {duet_spawn(yield_often, &each), duet_spawn(yield_often, &each)};
    for (int i = 0; i < 2; i++) {
        need(duet_future_wait(pair[i], DUET_NEVER, NULL) == 0, "duet_future_wait");
        duet_future_unref(pair[i]);
    }
}

static duet_result measure(void *arg)
{
    long each = *(const long *)arg / 2;
    yield_in_pair(bench_warm_up(each));
    yielded = 0;
    int64_t start_ns = bench_now_ns();
    yield_in_pair(each);
    double ns = (double)(bench_now_ns() - start_ns);
    need(yielded == 2 * each, "both yielded so often");
    bench_say("yield_ns", ns / (double)yielded);
    return duet_ok();
}

int main(int argc, char **argv)
{
    long yields = bench_long(argc, argv, "yields", 2000000);
    need(yields >= 2, "arguments");
    need(duet_run(measure, &yields, NULL) == 0, "duet_run");
    return 0;
}
