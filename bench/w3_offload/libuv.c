/* W3 with libuv: uv_queue_work(), whose callback on the loop begins the next one. */
#include "tally.h"

#include <uv.h>

static long at_once, begun, back, offloads;
static double *us; /* of each offload, if they go one at a time */

struct request {
    uv_work_t work;
    int64_t start_ns;
};

static void job(uv_work_t *work)
{
    (void)work;
    tally_count();
}

static void after(uv_work_t *work, int status);

static void begin(struct request *request)
{
    begun++;
    if (at_once == 1)
        request->start_ns = bench_now_ns();
    need(uv_queue_work(uv_default_loop(), &request->work, job, after) == 0, "uv_queue_work");
}

static void after(uv_work_t *work, int status)
{
    struct request *request = (struct request *)work;
    need(status == 0, "the work's status");
    if (at_once == 1)
        us[back] = (double)(bench_now_ns() - request->start_ns) / 1000;
    back++;
    if (begun < offloads)
        begin(request);
}

static void offload_all(struct request *requests, long count)
{
    begun = back = 0;
    offloads = count;
    for (long i = 0; i < at_once && begun < offloads; i++)
        begin(&requests[i]);
    need(uv_run(uv_default_loop(), UV_RUN_DEFAULT) == 0, "uv_run");
    need(back == count, "each came back");
}

int main(int argc, char **argv)
{
    long count = bench_long(argc, argv, "offloads", 20000), warm = bench_warm_up(count);
    at_once = bench_long(argc, argv, "at_once", 1);
    need(at_once > 0 && count > 0, "arguments");
    setenv("UV_THREADPOOL_SIZE", bench_text(argc, argv, "workers", "2"), 1);
    struct request *requests = calloc((size_t)at_once, sizeof *requests);
    us = calloc((size_t)count, sizeof *us);
    need(requests != NULL && us != NULL, "calloc");
    tally_expect(warm + count);
    offload_all(requests, warm);
    int64_t start_ns = bench_now_ns();
    offload_all(requests, count);
    double ns = (double)(bench_now_ns() - start_ns);
    tally_check();
    if (at_once == 1)
        bench_say_quantiles("", us, (size_t)count);
    bench_say("mps", (double)count / ns * 1000);
    free(requests);
    free(us);
    return 0;
}
