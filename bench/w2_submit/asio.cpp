// W2 with Asio: functions posted. What is posted could not wait: tasks are asio_coro.cpp's.
#include "peers/asio_loop.hpp"
#include "peers/bench.hpp"

static Count count;

static void trivial()
{
    count.ran_on_one_thread();
}

int main(int argc, char **argv)
{
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "callback") != 0)
        return BENCH_SKIP;
    AsioLoop loop;
    measure_rate(argc, argv, bench_long(argc, argv, "work", 2000000), count, [&](long n) {
        while (n-- > 0)
            asio::post(loop.io, trivial);
    });
}
