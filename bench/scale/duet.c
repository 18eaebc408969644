/* What one operation costs while there are n of something: `kind=` (each is explained where it is), `n=1`, and
 * `operations=1000000`, how many are timed. Says `ns` of one operation, or `bytes` and `tables_bytes` of one coroutine. */
#include "producers.h"

#include <duet/duet.h>

#include <stdatomic.h>

static long n, operations;

enum {
    FEW = 100 /* are there at once beside the n */
};

static long at_least(long wanted, long least)
{
    return wanted > least ? wanted : least;
}

/* ---- Coroutines that sleep ---- */

static long asleep;

static duet_result sleeper(void *arg)
{
    (void)arg;
    asleep++;
    duet_sleep(DUET_NEVER);
    return duet_ok();
}

static void make_sleepers(void)
{
    for (long i = 0; i < n; i++)
        duet_future_unref(duet_spawn(sleeper, NULL));
    while (asleep < n)
        need(duet_yield() == 0, "duet_yield");
}

static duet_result nothing(void *arg)
{
    (void)arg;
    return duet_ok();
}

static void spawn_few(void)
{
    duet_future *futures[FEW];
    for (int i = 0; i < FEW; i++)
        futures[i] = duet_spawn(nothing, NULL);
    for (int i = 0; i < FEW; i++) {
        need(duet_future_wait(futures[i], DUET_NEVER, NULL) == 0, "duet_future_wait");
        duet_future_unref(futures[i]);
    }
}

/* Start a coroutine and await it, in batches, while n others sleep. */
static duet_result spawn(void *arg)
{
    long batches = at_least(operations / FEW, 1);
    (void)arg;
    make_sleepers();
    spawn_few();
    int64_t start_ns = bench_now_ns();
    for (long i = 0; i < batches; i++)
        spawn_few();
    bench_say("ns", (double)(bench_now_ns() - start_ns) / (double)(batches * FEW));
    return duet_ok();
}

/* The memory of n coroutines that sleep, of each. */
static duet_result memory(void *arg)
{
    (void)arg;
    struct bench_memory before = bench_memory();
    make_sleepers();
    bench_say_memory(before, n);
    return duet_ok();
}

/* ---- Coroutines that yield ---- */

static long yielded;
static bool ends;

static duet_result yield_on(void *arg)
{
    (void)arg;
    for (; !ends; yielded++)
        need(duet_yield() == 0, "duet_yield");
    return duet_ok();
}

static void yield_until(long count)
{
    for (; yielded < count; yielded++)
        need(duet_yield() == 0, "duet_yield");
}

/* n coroutines yield to each other, this one among them. Twice each has yielded before it counts. */
static duet_result yield(void *arg)
{
    duet_group group = DUET_GROUP_INIT;
    (void)arg;
    for (long i = 0; i < n - 1; i++)
        need(duet_group_spawn(&group, NULL, yield_on, NULL, NULL) == 0, "duet_group_spawn");
    yield_until(2 * n);
    long first = yielded;
    int64_t start_ns = bench_now_ns();
    yield_until(first + at_least(operations, 2 * n));
    bench_say("ns", (double)(bench_now_ns() - start_ns) / (double)(yielded - first));
    ends = true;
    need(duet_group_wait(&group, DUET_NEVER, NULL) == 0, "duet_group_wait");
    need(duet_group_close(&group) == 0, "duet_group_close");
    return duet_ok();
}

/* ---- Timers ---- */

static uint64_t random_state = 88172645463325252U;

static void never_runs(void *arg)
{
    (void)arg;
    need(false, "no timer of an hour fires");
}

static duet_future *start_timer(void)
{
    int64_t ms = 3600000 + bench_random(&random_state) % 1000000;
    return duet_call_at(duet_loop_self(), duet_ms(ms), never_runs, NULL);
}

static duet_future **start_timers(void)
{
    duet_future **timers = calloc((size_t)n, sizeof(duet_future *));
    need(timers != NULL, "calloc");
    for (long i = 0; i < n; i++) {
        timers[i] = start_timer();
        need(!duet_future_settled(timers[i]), "a timer starts");
        if (i % FEW == 0)
            duet_yield();
    }
    return timers;
}

static void cancel_timer(duet_future *timer)
{
    duet_future_cancel(timer);
    duet_future_unref(timer);
}

static void cancel_timers(duet_future **timers)
{
    for (long i = 0; i < n; i++) {
        cancel_timer(timers[i]);
        if (i % FEW == 0)
            duet_yield();
    }
    free(timers);
}

/* Timers of random length are started and cancelled while n others run; `adding` says which of both is told. What the
 * loop does for them in its next turn belongs to it. */
static void time_timers(bool adding)
{
    duet_future **outstanding = start_timers(), *timers[FEW];
    int64_t add_ns = 0, cancel_ns = 0;
    long batches = at_least(operations / FEW / 4, 1);
    duet_yield();
    for (long i = 0; i < batches; i++) {
        int64_t start_ns = bench_now_ns();
        for (int k = 0; k < FEW; k++)
            timers[k] = start_timer();
        duet_yield();
        int64_t middle_ns = bench_now_ns();
        for (int k = 0; k < FEW; k++)
            cancel_timer(timers[k]);
        duet_yield();
        add_ns += middle_ns - start_ns;
        cancel_ns += bench_now_ns() - middle_ns;
    }
    bench_say("ns", (double)(adding ? add_ns : cancel_ns) / (double)(batches * FEW));
    cancel_timers(outstanding);
}

static duet_result timer_add(void *arg)
{
    (void)arg;
    time_timers(true);
    return duet_ok();
}

static duet_result timer_cancel(void *arg)
{
    (void)arg;
    time_timers(false);
    return duet_ok();
}

/* ---- Submitting ---- */

static duet_loop *target;
static long ran; /* on the loop's thread alone */

static void count(void *arg)
{
    (void)arg;
    ran++;
}

static void submit(int producer, long times)
{
    (void)producer;
    while (times > 0)
        if (duet_call_soon(target, count, NULL) == 0)
            times--;
        else
            sched_yield(); /* the inbox is full */
}

static duet_result count_is(void *wanted)
{
    while (ran < *(long *)wanted)
        need(duet_yield() == 0, "duet_yield");
    return duet_ok();
}

/* n threads submit callbacks to one loop, which runs them; from the first until the last has run. */
static void producers(void)
{
    need(duet_loop_start(&target, NULL) == 0, "duet_loop_start");
    int64_t start_ns = producers_run((int)n, operations, submit);
    need(duet_call(target, count_is, &operations, DUET_NEVER, NULL) == 0, "duet_call");
    bench_say("ns", (double)(bench_now_ns() - start_ns) / (double)operations);
    need(duet_loop_close(target, DUET_NEVER) == 0, "duet_loop_close");
}

static void fill(long times)
{
    for (long i = 0; i < times; i++)
        need(duet_call_soon(target, count, NULL) == 0, "duet_call_soon");
}

/* A hundred submissions to a loop that has n and does not run yet; in ns. Closing it takes them all back. */
static int64_t fill_one(void)
{
    const duet_loop_config config = {.inbox_max = (unsigned)(n + FEW)};
    need(duet_loop_open(&target, &config) == 0, "duet_loop_open");
    fill(n);
    int64_t start_ns = bench_now_ns();
    fill(FEW);
    int64_t ns = bench_now_ns() - start_ns;
    need(duet_loop_close(target, DUET_NEVER) == 0, "duet_loop_close");
    return ns;
}

/* Submitting while n submissions wait. */
static void inbox(void)
{
    long times = at_least(operations / (n + FEW) / 2, 20);
    int64_t ns = 0;
    fill_one();
    for (long i = 0; i < times; i++)
        ns += fill_one();
    bench_say("ns", (double)ns / (double)(times * FEW));
}

/* ---- Channels ---- */

static duet_chan *channel_of(long items)
{
    duet_chan *channel;
    need(duet_chan_open(&channel, sizeof(long), (size_t)items) == 0, "duet_chan_open");
    for (long i = 0; i < items - 1; i++)
        need(duet_chan_send(channel, &i, DUET_NOW) == 0, "duet_chan_send");
    return channel;
}

/* An item into a channel of room n, which it fills, and the oldest out. */
static duet_result channel(void *arg)
{
    (void)arg;
    duet_chan *full = channel_of(n);
    int64_t start_ns = bench_now_ns();
    for (long i = 0; i < operations; i++) {
        long item = i;
        need(duet_chan_send(full, &item, DUET_NOW) == 0, "duet_chan_send");
        need(duet_chan_recv(full, &item, DUET_NOW) == 0, "duet_chan_recv");
    }
    bench_say("ns", (double)(bench_now_ns() - start_ns) / (double)operations);
    duet_chan_unref(full);
    return duet_ok();
}

/* ---- Which ---- */

static const struct {
    const char *name;
    duet_fn *on_loop; /* a coroutine; or else */
    void (*on_thread)(void);
} kinds[] = {
    {"spawn", spawn, NULL},
    {"memory", memory, NULL},
    {"yield", yield, NULL},
    {"timer_add", timer_add, NULL},
    {"timer_cancel", timer_cancel, NULL},
    {"producers", NULL, producers},
    {"inbox", NULL, inbox},
    {"channel", channel, NULL},
};

int main(int argc, char **argv)
{
    const char *kind = bench_text(argc, argv, "kind", "spawn");
    n = bench_long(argc, argv, "n", 1);
    operations = bench_long(argc, argv, "operations", 1000000);
    need(n > 0 && operations > 0, "arguments");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, kind) == 0) {
            if (kinds[i].on_loop)
                need(duet_run(kinds[i].on_loop, NULL, NULL) == 0, "duet_run");
            else
                kinds[i].on_thread();
            return 0;
        }
    return BENCH_SKIP;
}
