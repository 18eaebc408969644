// W5, memory, with Asio's coroutines: each waits on a timer of its own.
#include "peers/bench.hpp"
#include <asio.hpp>

static long sleeping;

static asio::awaitable<void> sleep()
{
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::hours(1));
    sleeping++;
    co_await timer.async_wait(asio::use_awaitable);
}

int main(int argc, char **argv)
{
    long sleepers = bench_long(argc, argv, "sleepers", 100000);
    asio::io_context io(1);
    Memory before;
    for (long i = 0; i < sleepers; i++)
        asio::co_spawn(io, sleep(), asio::detached);
    io.poll();
    need(sleeping == sleepers, "all of them sleep");
    before.say_more(sleepers);
    _Exit(0);
}
