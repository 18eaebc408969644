// W1 with Boost.Fiber: a task through a channel, for which the loop starts a fiber, and its future waited for.
#include "peers/bench.hpp"
#include "peers/fiber_loop.hpp"

static int trivial()
{
    return 1;
}

int main(int argc, char **argv)
{
    if (!bench_long(argc, argv, "spin", 1))
        return BENCH_SKIP;
    FiberLoop loop;
    measure_calls(argc, argv, [&] { return loop.submit(trivial).get(); });
}
