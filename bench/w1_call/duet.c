/* W1 with duet: duet_call() from a thread to a loop on another. With spin=0 the loop never spins;
 * how long the calling thread looks before it sleeps is duet's own affair. */
#include "calls.h"

#include <duet/duet.h>

static long ran; /* the loop's thread counts; read when the loop has ended */

static duet_result answer(void *arg)
{
    ran++;
    return duet_i64((intptr_t)arg);
}

static void call(void *loop, long number)
{
    duet_result r;
    need(duet_call(loop, answer, (void *)(intptr_t)number, DUET_NEVER, &r) == 0, "duet_call");
    need(r.err == 0 && duet_as_i64(r) == number, "the answer");
}

int main(int argc, char **argv)
{
    duet_loop_config config = {.spin_us = bench_long(argc, argv, "spin", 1) ? 0 : -1};
    duet_loop *loop;
    need(duet_loop_start(&loop, &config) == 0, "duet_loop_start");
    long calls = calls_measure(argc, argv, call, loop);
    need(duet_loop_close(loop, DUET_NEVER) == 0, "duet_loop_close");
    need(ran == calls, "each call ran once");
    return 0;
}
