// W5 with Boost.Fiber: fibers from its allocator that keeps stacks, joined.
#include "peers/bench.hpp"
#include <boost/fiber/all.hpp>

static long ran;

static void run(long spawns, long batch)
{
    boost::fibers::pooled_fixedsize_stack stacks;
    std::vector<boost::fibers::fiber> fibers;
    fibers.reserve(batch);
    ran = 0;
    for (long left = spawns; left > 0; left -= batch) {
        for (long i = 0; i < batch && i < left; i++)
            fibers.emplace_back(std::allocator_arg, stacks, [] { ran++; });
        for (boost::fibers::fiber &fiber : fibers)
            fiber.join();
        fibers.clear();
    }
    need(ran == spawns, "all of them ran");
}

int main(int argc, char **argv)
{
    long spawns = bench_long(argc, argv, "spawns", 1000000);
    long batch = bench_long(argc, argv, "batch", 1000);
    run(spawns / 20, batch);
    int64_t begun = bench_now_ns();
    run(spawns, batch);
    bench_say("spawn_ns", (double)(bench_now_ns() - begun) / spawns);
}
