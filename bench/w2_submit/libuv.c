/* W2 with libuv: callbacks through uv_async_send() and a queue under a mutex, which has no bound.
 * libuv has no tasks. */
#include "producers.h"
#include "uv_inbox.h"

static struct uv_inbox inbox;
static uv_sem_t all_ran;
static long ran, expected; /* the loop's thread counts; main sets them while it rests */
static int64_t end_ns;

static void callback(void *arg)
{
    (void)arg;
    if (++ran < expected)
        return;
    end_ns = bench_now_ns();
    uv_sem_post(&all_ran);
}

static void produce(int producer, long count)
{
    (void)producer;
    for (; count > 0; count--)
        uv_inbox_post(&inbox, callback, NULL);
}

static int64_t submit(int producers, long work)
{
    ran = 0;
    expected = work;
    int64_t start_ns = producers_run(producers, work, produce);
    uv_sem_wait(&all_ran);
    return end_ns - start_ns;
}

int main(int argc, char **argv)
{
    int producers = (int)bench_long(argc, argv, "producers", 1);
    long work = bench_long(argc, argv, "work", 2000000);
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "callback") != 0)
        return BENCH_SKIP;
    need(work > 0, "arguments");
    need(uv_sem_init(&all_ran, 0) == 0, "uv_sem_init");
    uv_inbox_open(&inbox);
    submit(producers, bench_warm_up(work));
    int64_t ns = submit(producers, work);
    uv_inbox_close(&inbox);
    uv_sem_destroy(&all_ran);
    need(ran == work, "each ran once");
    bench_say("mps", (double)work / (double)ns * 1000);
    return 0;
}
