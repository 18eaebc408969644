// W5, memory, with Boost.Fiber: fibers with stacks of 16 KiB, so that their count, not the default of 128, decides.
#include "peers/bench.hpp"
#include <boost/fiber/all.hpp>

static long sleeping;

static void sleep_long()
{
    sleeping++;
    boost::this_fiber::sleep_for(std::chrono::hours(1));
}

int main(int argc, char **argv)
{
    long sleepers = bench_long(argc, argv, "sleepers", 100000);
    boost::fibers::fixedsize_stack stacks(16 * 1024);
    boost::this_fiber::yield(); // its scheduler is there before it is measured
    Memory before;
    for (long i = 0; i < sleepers; i++)
        boost::fibers::fiber(std::allocator_arg, stacks, sleep_long).detach();
    while (sleeping < sleepers)
        boost::this_fiber::yield();
    before.say_more(sleepers);
    _Exit(0);
}
