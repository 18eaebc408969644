// W2 with Asio's coroutines: co_spawn with use_future, and the future let go.
#include "peers/asio_loop.hpp"
#include "peers/bench.hpp"

static Count count;

static asio::awaitable<int> trivial()
{
    count.ran_on_one_thread();
    co_return 1;
}

int main(int argc, char **argv)
{
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "task") != 0)
        return BENCH_SKIP;
    AsioLoop loop;
    measure_rate(argc, argv, bench_long(argc, argv, "work", 2000000), count, [&](long n) {
        while (n-- > 0)
            asio::co_spawn(loop.io, trivial(), asio::use_future);
    });
}
