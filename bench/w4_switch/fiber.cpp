// W4 with Boost.Fiber: this_fiber::yield; and the switch it is made of, which Boost.Context shows.
#include "peers/bench.hpp"
#include <boost/context/fiber.hpp>
#include <boost/fiber/all.hpp>

static long yielded;

static void yield(long yields)
{
    while (yields-- > 0) {
        boost::this_fiber::yield();
        yielded++;
    }
}

static void run_yields(long yields)
{
    yielded = 0;
    boost::fibers::fiber one([=] { yield(yields / 2); }), other([=] { yield(yields / 2); });
    one.join();
    other.join();
    need(yielded == yields / 2 * 2, "all yields were done");
}

// Each turn switches there and back.
static void run_switches(long switches)
{
    long there = 0;
    bool stop = false;
    boost::context::fiber other([&](boost::context::fiber &&back) {
        while (!stop) {
            there++;
            back = std::move(back).resume();
        }
        return std::move(back);
    });
    for (long i = 0; i < switches / 2; i++)
        other = std::move(other).resume();
    need(there == switches / 2, "all switches were done");
    stop = true;
    other = std::move(other).resume();
}

static void measure(const char *figure, void run(long), long n)
{
    run(n / 20);
    int64_t begun = bench_now_ns();
    run(n);
    bench_say(figure, (double)(bench_now_ns() - begun) / n);
}

int main(int argc, char **argv)
{
    long yields = bench_long(argc, argv, "yields", 2000000);
    measure("yield_ns", run_yields, yields);
    measure("switch_ns", run_switches, yields);
}
