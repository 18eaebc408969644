// W1 with Asio: a function posted with use_future, and its future waited for.
#include "peers/asio_loop.hpp"
#include "peers/bench.hpp"

static int trivial()
{
    return 1;
}

int main(int argc, char **argv)
{
    if (!bench_long(argc, argv, "spin", 1))
        return BENCH_SKIP;
    AsioLoop loop;
    measure_calls(argc, argv, [&] { return asio::post(loop.io, asio::use_future(trivial)).get(); });
}
