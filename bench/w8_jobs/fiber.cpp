// W8 with Boost.Fiber: tasks through a channel to threads, each with a future, which is let go.
#include "peers/bench.hpp"
#include "peers/fiber_loop.hpp"

static Count count;

static int job()
{
    count.ran_on_any_thread();
    return 1;
}

int main(int argc, char **argv)
{
    FiberPool pool(bench_long(argc, argv, "workers", 2));
    measure_rate(argc, argv, bench_long(argc, argv, "jobs", 1000000), count, [&](long n) {
        while (n-- > 0)
            pool.submit(job);
    });
}
