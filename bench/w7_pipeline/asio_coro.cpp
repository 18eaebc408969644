// W7 with Asio's coroutines and its experimental channel, the one for a single thread.
#include "peers/bench.hpp"
#include <asio.hpp>
#include <asio/experimental/channel.hpp>

using Channel = asio::experimental::channel<void(asio::error_code, long)>;

// What can be done at once does not become an operation: that is many times slower.
static asio::awaitable<void> send(Channel &channel, long number)
{
    if (!channel.try_send(asio::error_code(), number))
        co_await channel.async_send(asio::error_code(), number, asio::use_awaitable);
}

static asio::awaitable<long> receive(Channel &channel)
{
    long number = 0;
    if (!channel.try_receive([&](asio::error_code, long sent) { number = sent; }))
        number = co_await channel.async_receive(asio::use_awaitable);
    co_return number;
}

static asio::awaitable<void> produce(Channel &numbers, long items)
{
    for (long i = 0; i < items; i++)
        co_await send(numbers, i);
}

static asio::awaitable<void> process(Channel &numbers, Channel &sums, long items)
{
    for (long i = 0; i < items; i++)
        co_await send(sums, co_await receive(numbers) + 1);
}

static asio::awaitable<void> consume(Channel &sums, long items, long &sum)
{
    for (long i = 0; i < items; i++)
        sum += co_await receive(sums);
}

static void run(long items, long room)
{
    asio::io_context io(1);
    Channel numbers(io, room), sums(io, room);
    long sum = 0;
    asio::co_spawn(io, produce(numbers, items), asio::detached);
    asio::co_spawn(io, process(numbers, sums, items), asio::detached);
    asio::co_spawn(io, consume(sums, items, sum), asio::detached);
    io.run();
    need(sum == items * (items + 1) / 2, "each item reached the end");
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
