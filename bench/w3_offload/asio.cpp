// W3 with Asio: a chain of callbacks, each of which posts a job to a thread_pool, which posts its result back.
#include "peers/bench.hpp"
#include <asio.hpp>

// One of those that are under way at once.
struct Chain {
    asio::io_context &io;
    asio::thread_pool &pool;
    Offloads &offloads;
    int64_t begun_ns = 0;
    int result = 0;

    void next()
    {
        if (!offloads.take())
            return;
        begun_ns = bench_now_ns();
        // Its executor is a loop's work: what is under way keeps the loop.
        asio::post(pool, [this, work = asio::make_work_guard(io)] {
            result = 1;
            asio::post(io, [this] { came_back(); });
        });
    }
    void came_back()
    {
        need(result == 1, "the job ran");
        result = 0;
        offloads.done(begun_ns);
        next();
    }
};

int main(int argc, char **argv)
{
    asio::io_context io(1);
    asio::thread_pool pool(bench_long(argc, argv, "workers", 2));
    Offloads offloads(argc, argv);
    std::vector<Chain> chains(bench_long(argc, argv, "at_once", 1), Chain{io, pool, offloads});
    for (Chain &chain : chains)
        asio::post(io, [&chain] { chain.next(); });
    io.run();
    offloads.say();
}
