// W8 with Asio: jobs posted to a thread_pool with use_future, and the future let go.
#include "peers/bench.hpp"
#include <asio.hpp>

static Count count;

static int job()
{
    count.ran_on_any_thread();
    return 1;
}

int main(int argc, char **argv)
{
    asio::thread_pool pool(bench_long(argc, argv, "workers", 2));
    measure_rate(argc, argv, bench_long(argc, argv, "jobs", 1000000), count, [&](long n) {
        while (n-- > 0)
            asio::post(pool, asio::use_future(job));
    });
    pool.join();
}
