// W7 with Boost.Fiber: buffered_channel, whose room must be a power of two: it is the next one.
#include "peers/bench.hpp"
#include <bit>
#include <boost/fiber/all.hpp>

using Channel = boost::fibers::buffered_channel<long>;

static void run(long items, long room)
{
    Channel numbers(std::bit_ceil((size_t)room)), sums(std::bit_ceil((size_t)room));
    long sum = 0, count = 0;
    boost::fibers::fiber producer([&] {
        for (long i = 0; i < items; i++)
            numbers.push(i);
        numbers.close();
    });
    boost::fibers::fiber processor([&] {
        for (long number : numbers)
            sums.push(number + 1);
        sums.close();
    });
    boost::fibers::fiber consumer([&] {
        for (long number : sums) {
            sum += number;
            count++;
        }
    });
    producer.join();
    processor.join();
    consumer.join();
    need(count == items && sum == items * (items + 1) / 2, "each item reached the end");
}

int main(int argc, char **argv)
{
    long items = bench_long(argc, argv, "items", 1000000);
    long room = bench_long(argc, argv, "room", 100);
    run(items / 20, room);
    int64_t begun = bench_now_ns();
    run(items, room);
    bench_say("mps", items * 1e3 / (bench_now_ns() - begun));
}
