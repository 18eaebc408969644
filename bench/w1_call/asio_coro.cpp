// W1 with Asio's coroutines: co_spawn with use_future, and its future waited for.
#include "peers/asio_loop.hpp"
#include "peers/bench.hpp"

static asio::awaitable<int> trivial()
{
    co_return 1;
}

int main(int argc, char **argv)
{
    if (!bench_long(argc, argv, "spin", 1))
        return BENCH_SKIP;
    AsioLoop loop;
    measure_calls(argc, argv,
                  [&] { return asio::co_spawn(loop.io, trivial(), asio::use_future).get(); });
}
