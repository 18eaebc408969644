// W4 with Asio's coroutines: they yield by posting themselves.
#include "peers/bench.hpp"
#include <asio.hpp>

static long yielded;

static asio::awaitable<void> yield(long yields)
{
    while (yields-- > 0) {
        co_await asio::post(asio::use_awaitable);
        yielded++;
    }
}

static void run(long yields)
{
    asio::io_context io(1);
    yielded = 0;
    asio::co_spawn(io, yield(yields / 2), asio::detached);
    asio::co_spawn(io, yield(yields / 2), asio::detached);
    io.run();
    need(yielded == yields / 2 * 2, "all yields were done");
}

int main(int argc, char **argv)
{
    long yields = bench_long(argc, argv, "yields", 2000000);
    run(yields / 20);
    int64_t begun = bench_now_ns();
    run(yields);
    bench_say("yield_ns", (double)(bench_now_ns() - begun) / yields);
}
