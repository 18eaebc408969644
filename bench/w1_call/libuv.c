/* W1 with libuv: a callback through uv_async_send() to a loop on another thread, and a uv_sem_t for
 * its result. */
#include "calls.h"
#include "uv_inbox.h"

static struct uv_inbox inbox;
static uv_sem_t done;
static long ran; /* the loop's thread counts; read when it has ended */

struct request {
    long number, answer;
};

static void answer(void *arg)
{
    struct request *request = arg;
    ran++;
    request->answer = request->number;
    uv_sem_post(&done);
}

static void call(void *arg, long number)
{
    struct request request = {number, number + 1};
    (void)arg;
    uv_inbox_post(&inbox, answer, &request);
    uv_sem_wait(&done);
    need(request.answer == number, "the answer");
}

int main(int argc, char **argv)
{
    if (bench_long(argc, argv, "spin", 1) == 0)
        return BENCH_SKIP; /* libuv never spins: it is the same case */
    need(uv_sem_init(&done, 0) == 0, "uv_sem_init");
    uv_inbox_open(&inbox);
    long calls = calls_measure(argc, argv, call, NULL);
    uv_inbox_close(&inbox);
    uv_sem_destroy(&done);
    need(ran == calls, "each call ran once");
    return 0;
}
