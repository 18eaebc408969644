// W2 with oneTBB: it has no loop; an arena of one worker is what is nearest to it. What is enqueued has no handle.
#include "peers/bench.hpp"
#include "peers/tbb_pool.hpp"

static Count count;

static void trivial()
{
    count.ran_on_one_thread();
}

int main(int argc, char **argv)
{
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "callback") != 0)
        return BENCH_SKIP;
    TbbPool loop(1);
    measure_rate(argc, argv, bench_long(argc, argv, "work", 2000000), count, [&](long n) {
        while (n-- > 0)
            loop.arena.enqueue(trivial);
    });
}
