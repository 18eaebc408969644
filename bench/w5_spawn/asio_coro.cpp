// W5 with Asio's coroutines: co_spawn with a completion handler, which is what its version 1.22 has to await many; the
// handler keeps the result, and the last one wakes the parent, which waits on a timer, as Asio's users do.
#include "peers/bench.hpp"
#include <asio.hpp>

static long ran;

static asio::awaitable<int> trivial()
{
    ran++;
    co_return 1;
}

static asio::awaitable<void> spawn(long spawns, long batch)
{
    auto executor = co_await asio::this_coro::executor;
    asio::steady_timer done(executor);
    std::vector<int> results(batch);
    while (spawns > 0) {
        long n = std::min(spawns, batch), left = n;
        done.expires_at(asio::steady_timer::time_point::max());
        for (long i = 0; i < n; i++)
            asio::co_spawn(executor, trivial(), [&, i](std::exception_ptr, int result) {
                results[i] = result;
                if (--left == 0)
                    done.cancel();
            });
        asio::error_code cancelled;
        co_await done.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
        spawns -= n;
    }
}

static void run(long spawns, long batch)
{
    asio::io_context io(1);
    ran = 0;
    asio::co_spawn(io, spawn(spawns, batch), asio::detached);
    io.run();
    need(ran == spawns, "all of them ran");
}

int main(int argc, char **argv)
{
    long spawns = bench_long(argc, argv, "spawns", 1000000);
    long batch = bench_long(argc, argv, "batch", 1000);
    run(spawns / 20, batch);
    int64_t begun = bench_now_ns();
    run(spawns, batch);
    bench_say("spawn_ns", (double)(bench_now_ns() - begun) / spawns);
}
