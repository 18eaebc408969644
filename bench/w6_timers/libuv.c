/* W6 with libuv: a uv_timer_t each. Its clock is the loop's, which is brought up to date before
 * each start: else timers begin at the start of the turn, and fire as much too early as the turn is
 * long. */
#include "timers.h"

#include <uv.h>

struct timer {
    uv_timer_t timer;
    int64_t due_ns;
};

static void callback(uv_timer_t *timer)
{
    timers_fired(((struct timer *)timer)->due_ns);
}

static void run_timers(uv_loop_t *loop, long count, long span_ms, bool say)
{
    struct timer *all = calloc((size_t)count, sizeof *all);
    need(all != NULL, "calloc");
    timers_begin(count, span_ms);
    for (long i = 0; i < count; i++) {
        long ms = timers_next_ms();
        need(uv_timer_init(loop, &all[i].timer) == 0, "uv_timer_init");
        uv_update_time(loop);
        all[i].due_ns = bench_now_ns() + ms * 1000000;
        need(uv_timer_start(&all[i].timer, callback, (uint64_t)ms, 0) == 0, "uv_timer_start");
    }
    need(uv_run(loop, UV_RUN_DEFAULT) == 0, "uv_run");
    timers_end(say);
    for (long i = 0; i < count; i++)
        uv_close((uv_handle_t *)&all[i].timer, NULL);
    need(uv_run(loop, UV_RUN_DEFAULT) == 0, "uv_run");
    free(all);
}

int main(int argc, char **argv)
{
    long count = bench_long(argc, argv, "timers", 100000);
    long span_ms = bench_long(argc, argv, "span_ms", 1000);
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "callback") != 0)
        return BENCH_SKIP;
    run_timers(uv_default_loop(), bench_warm_up(count), bench_warm_up(span_ms), false);
    run_timers(uv_default_loop(), count, span_ms, true);
    need(uv_loop_close(uv_default_loop()) == 0, "uv_loop_close");
    return 0;
}
