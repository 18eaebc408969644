/* W8 with libuv: uv_queue_work(). Only a loop's own thread may call it, so each producer has a
 * loop; they share the process's pool. A producer that has all its requests under way runs its loop
 * for some to come back. */
#include "producers.h"
#include "tally.h"

#include <uv.h>

enum {
    REQUESTS = 16384 /* of all producers: as many as duet's queue has places */
};

struct request {
    uv_work_t work;
    struct request *next;
    struct request **free_list; /* of its producer, whose thread alone touches it */
};

static long room; /* of each producer */

static void job(uv_work_t *work)
{
    (void)work;
    tally_count();
}

static void after(uv_work_t *work, int status)
{
    struct request *request = (struct request *)work;
    need(status == 0, "the work's status");
    request->next = *request->free_list;
    *request->free_list = request;
}

static void produce_on(uv_loop_t *loop, struct request **free_list, long count)
{
    for (; count > 0; count--) {
        while (!*free_list)
            uv_run(loop, UV_RUN_ONCE);
        struct request *request = *free_list;
        *free_list = request->next;
        need(uv_queue_work(loop, &request->work, job, after) == 0, "uv_queue_work");
    }
    need(uv_run(loop, UV_RUN_DEFAULT) == 0, "uv_run");
}

static void produce(int producer, long count)
{
    struct request *requests = calloc((size_t)room, sizeof *requests), *free_list = NULL;
    uv_loop_t loop;
    (void)producer;
    need(requests != NULL && uv_loop_init(&loop) == 0, "uv_loop_init");
    for (long i = 0; i < room; i++) {
        requests[i] = (struct request){.next = free_list, .free_list = &free_list};
        free_list = &requests[i];
    }
    produce_on(&loop, &free_list, count);
    need(uv_loop_close(&loop) == 0, "uv_loop_close");
    free(requests);
}

int main(int argc, char **argv)
{
    int producers = (int)bench_long(argc, argv, "producers", 1);
    long jobs = bench_long(argc, argv, "jobs", 1000000), warm = bench_warm_up(jobs);
    need(producers > 0 && producers <= PRODUCERS_MOST && jobs > 0, "arguments");
    setenv("UV_THREADPOOL_SIZE", bench_text(argc, argv, "workers", "2"), 1);
    room = REQUESTS / producers;
    tally_expect(warm);
    producers_run(producers, warm, produce);
    tally_wait();
    tally_expect(jobs);
    int64_t start_ns = producers_run(producers, jobs, produce);
    int64_t end_ns = tally_wait();
    tally_check();
    bench_say("mps", (double)jobs / (double)(end_ns - start_ns) * 1000);
    return 0;
}
