// W6 with Asio: a steady_timer and a callback each.
#include "peers/bench.hpp"
#include <asio.hpp>

static void run(Timers &timers)
{
    asio::io_context io(1);
    std::vector<asio::steady_timer> waits;
    waits.reserve(timers.count());
    for (size_t i = 0; i < timers.count(); i++) {
        waits.emplace_back(io, timers.start(i));
        waits[i].async_wait([&timers, i](asio::error_code) { timers.fired(i); });
    }
    io.run();
}

int main(int argc, char **argv)
{
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "callback") != 0)
        return BENCH_SKIP;
    measure_timers(argc, argv, run);
}
