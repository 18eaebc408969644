// W3 with Boost.Fiber: fibers send tasks through a channel to threads, and wait for their futures.
#include "peers/bench.hpp"
#include "peers/fiber_loop.hpp"

static int job()
{
    return 1;
}

static void offload(FiberPool &pool, Offloads &offloads)
{
    while (offloads.take()) {
        int64_t begun_ns = bench_now_ns();
        need(pool.submit(job).get() == 1, "the job ran");
        offloads.done(begun_ns);
    }
}

int main(int argc, char **argv)
{
    FiberPool pool(bench_long(argc, argv, "workers", 2));
    Offloads offloads(argc, argv);
    std::vector<boost::fibers::fiber> fibers;
    for (long i = bench_long(argc, argv, "at_once", 1); i > 0; i--)
        fibers.emplace_back([&] { offload(pool, offloads); });
    for (boost::fibers::fiber &fiber : fibers)
        fiber.join();
    offloads.say();
}
