// W6 with Asio's coroutines: each waits on a steady_timer of its own.
#include "peers/bench.hpp"
#include <asio.hpp>

static asio::awaitable<void> sleep(Timers &timers, size_t i)
{
    asio::steady_timer timer(co_await asio::this_coro::executor, timers.start(i));
    co_await timer.async_wait(asio::use_awaitable);
    timers.fired(i);
}

static void run(Timers &timers)
{
    asio::io_context io(1);
    for (size_t i = 0; i < timers.count(); i++)
        asio::co_spawn(io, sleep(timers, i), asio::detached);
    io.run();
}

int main(int argc, char **argv)
{
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "sleep") != 0)
        return BENCH_SKIP;
    measure_timers(argc, argv, run);
}
