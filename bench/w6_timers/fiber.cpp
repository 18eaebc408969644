// W6 with Boost.Fiber: a fiber each, with a stack of 16 KiB, that sleeps. It has no timers with callbacks.
#include "peers/bench.hpp"
#include <boost/fiber/all.hpp>

static void run(Timers &timers)
{
    boost::fibers::fixedsize_stack stacks(16 * 1024);
    std::vector<boost::fibers::fiber> fibers;
    for (size_t i = 0; i < timers.count(); i++)
        fibers.emplace_back(std::allocator_arg, stacks, [&timers, i] {
            boost::this_fiber::sleep_for(timers.start(i));
            timers.fired(i);
        });
    for (boost::fibers::fiber &fiber : fibers)
        fiber.join();
}

int main(int argc, char **argv)
{
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "sleep") != 0)
        return BENCH_SKIP;
    measure_timers(argc, argv, run);
}
