// W8 with oneTBB: jobs enqueued in an arena. They have no handle.
#include "peers/bench.hpp"
#include "peers/tbb_pool.hpp"

static Count count;

static void job()
{
    count.ran_on_any_thread();
}

int main(int argc, char **argv)
{
    TbbPool pool(bench_long(argc, argv, "workers", 2));
    measure_rate(argc, argv, bench_long(argc, argv, "jobs", 1000000), count, [&](long n) {
        while (n-- > 0)
            pool.arena.enqueue(job);
    });
}
