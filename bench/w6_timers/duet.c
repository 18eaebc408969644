/* W6 with duet: duet_call_at(), whose future is let go at once; or a coroutine each in
 * duet_sleep(). */
#include "timers.h"

#include <duet/duet.h>

static duet_future *all_fired;

struct plan {
    bool sleeps, warm;
    long count, span_ms;
};

static void fire(int64_t due_ns)
{
    if (timers_fired(due_ns))
        duet_future_settle(all_fired, duet_ok());
}

static void callback(void *arg)
{
    fire((intptr_t)arg);
}

static duet_result sleeper(void *arg)
{
    duet_deadline due = duet_ms((intptr_t)arg);
    need(duet_sleep(due) == 0, "duet_sleep");
    fire(due.ns);
    return duet_ok();
}

static void start_one(bool sleeps)
{
    long ms = timers_next_ms();
    if (sleeps) {
        duet_future_unref(duet_spawn(sleeper, (void *)(intptr_t)ms));
        return;
    }
    duet_deadline due = duet_ms(ms);
    duet_future_unref(duet_call_at(duet_loop_self(), due, callback, (void *)(intptr_t)due.ns));
}

static void run_timers(bool sleeps, long count, long span_ms, bool say)
{
    need(duet_future_open(&all_fired) == 0, "duet_future_open");
    timers_begin(count, span_ms);
    for (long i = 0; i < count; i++)
        start_one(sleeps);
    need(duet_future_wait(all_fired, DUET_NEVER, NULL) == 0, "duet_future_wait");
    duet_future_unref(all_fired);
    timers_end(say);
}

static duet_result measure(void *arg)
{
    const struct plan *plan = arg;
    if (plan->warm)
        run_timers(plan->sleeps, plan->count, plan->span_ms, false);
    else
        run_timers(plan->sleeps, bench_warm_up(plan->count), bench_warm_up(plan->span_ms), false);
    run_timers(plan->sleeps, plan->count, plan->span_ms, true);
    return duet_ok();
}

int main(int argc, char **argv)
{
    const char *kind = bench_text(argc, argv, "kind", "callback");
    struct plan plan = {strcmp(kind, "sleep") == 0, bench_long(argc, argv, "warm", 0) != 0,
                        bench_long(argc, argv, "timers", 100000),
                        bench_long(argc, argv, "span_ms", 1000)};
    if (!plan.sleeps && strcmp(kind, "callback") != 0)
        return BENCH_SKIP;
    need(duet_run(measure, &plan, NULL) == 0, "duet_run");
    return 0;
}
