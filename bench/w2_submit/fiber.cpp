// W2 with Boost.Fiber: functions, or tasks with a future, through a channel with a bound; each task gets a fiber.
#include "peers/bench.hpp"
#include "peers/fiber_loop.hpp"

static Count count;

static int task()
{
    count.ran_on_one_thread();
    return 1;
}

static void callback()
{
    count.ran_on_one_thread();
}

static void measure_tasks(int argc, char **argv, long work)
{
    FiberLoop loop;
    measure_rate(argc, argv, work, count, [&](long n) {
        while (n-- > 0)
            loop.submit(task);
    });
}

static void measure_callbacks(int argc, char **argv, long work)
{
    boost::fibers::buffered_channel<void (*)()> inbox(1024);
    std::thread loop([&] {
        for (void (*function)() : inbox)
            function();
    });
    measure_rate(argc, argv, work, count, [&](long n) {
        while (n-- > 0)
            inbox.push(callback);
    });
    inbox.close();
    loop.join();
}

int main(int argc, char **argv)
{
    long work = bench_long(argc, argv, "work", 2000000);
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "task") == 0)
        measure_tasks(argc, argv, work);
    else
        measure_callbacks(argc, argv, work);
}
