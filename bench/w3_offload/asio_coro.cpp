// W3 with Asio's coroutines: each goes to a thread_pool itself, does the job there, and comes back to its loop.
#include "peers/bench.hpp"
#include <asio.hpp>

static asio::awaitable<void> offload(asio::thread_pool &pool, Offloads &offloads)
{
    while (offloads.take()) {
        int64_t begun_ns = bench_now_ns();
        co_await asio::post(asio::bind_executor(pool, asio::use_awaitable));
        int result = 1;
        co_await asio::post(asio::use_awaitable);
        need(result == 1, "the job ran");
        offloads.done(begun_ns);
    }
}

int main(int argc, char **argv)
{
    asio::io_context io(1);
    asio::thread_pool pool(bench_long(argc, argv, "workers", 2));
    Offloads offloads(argc, argv);
    for (long i = bench_long(argc, argv, "at_once", 1); i > 0; i--)
        asio::co_spawn(io, offload(pool, offloads), asio::detached);
    io.run();
    offloads.say();
}
