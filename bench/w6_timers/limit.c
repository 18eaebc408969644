/* W6's limit: a heap of four children a node, and one sleep until the nearest is due; what is due
 * is called, or, a fiber, gone on with. */
#include "fiber.h"
#include "timers.h"

#include <errno.h>

struct entry {
    int64_t due_ns;
    void *what;
};

static struct entry *heap;
static long heap_count;

static void heap_push(struct entry entry)
{
    long at = heap_count++;
    for (; at > 0 && heap[(at - 1) / 4].due_ns > entry.due_ns; at = (at - 1) / 4)
        heap[at] = heap[(at - 1) / 4];
    heap[at] = entry;
}

static long nearest_child(long at)
{
    long first = 4 * at + 1, nearest = first;
    for (long child = first + 1; child < first + 4 && child < heap_count; child++)
        if (heap[child].due_ns < heap[nearest].due_ns)
            nearest = child;
    return nearest;
}

static struct entry heap_pop(void)
{
    struct entry top = heap[0], last = heap[--heap_count];
    long at = 0;
    while (4 * at + 1 < heap_count) {
        long child = nearest_child(at);
        if (heap[child].due_ns >= last.due_ns)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static bool heap_is_due(int64_t now_ns)
{
    return heap_count > 0 && heap[0].due_ns <= now_ns;
}

static void sleep_until(int64_t ns)
{
    const struct timespec until = {ns / 1000000000, ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

/* Until all have fired. */
static void turn(void (*fire)(int64_t now_ns))
{
    while (heap_count > 0) {
        int64_t now_ns = bench_now_ns();
        if (heap_is_due(now_ns))
            fire(now_ns);
        else
            sleep_until(heap[0].due_ns);
    }
}

/* ---- A callback each ---- */

struct timer {
    void (*fn)(struct timer *timer);
    int64_t due_ns;
};

static void callback(struct timer *timer)
{
    timers_fired(timer->due_ns);
}

static void fire_callbacks(int64_t now_ns)
{
    while (heap_is_due(now_ns)) {
        struct timer *timer = heap_pop().what;
        timer->fn(timer);
    }
}

static void run_callbacks(long count)
{
    struct timer *all = calloc((size_t)count, sizeof *all);
    need(all != NULL, "calloc");
    for (long i = 0; i < count; i++) {
        all[i] = (struct timer){callback, bench_now_ns() + timers_next_ms() * 1000000};
        heap_push((struct entry){all[i].due_ns, &all[i]});
    }
    turn(fire_callbacks);
    free(all);
}

/* ---- A fiber each ---- */

#if defined(__x86_64__)
static void sleeper(struct fiber *self)
{
    self->value = bench_now_ns() + self->value * 1000000;
    heap_push((struct entry){self->value, self});
    fiber_wait();
    timers_fired(self->value);
    fiber_let_go(self); /* nobody takes its stack before it has left it */
}

static void wake_fibers(int64_t now_ns)
{
    while (heap_is_due(now_ns))
        fiber_ready(heap_pop().what);
    fiber_yield();
}

static void run_fibers(long count)
{
    for (long i = 0; i < count; i++)
        fiber_spawn(sleeper, timers_next_ms());
    fiber_yield();
    turn(wake_fibers);
}
#endif

static void run_timers(bool sleeps, long count, long span_ms, bool say)
{
    timers_begin(count, span_ms);
#if defined(__x86_64__)
    if (sleeps)
        run_fibers(count);
#endif
    if (!sleeps)
        run_callbacks(count);
    timers_end(say);
}

int main(int argc, char **argv)
{
    const char *kind = bench_text(argc, argv, "kind", "callback");
    long count = bench_long(argc, argv, "timers", 100000);
    long span_ms = bench_long(argc, argv, "span_ms", 1000);
    bool sleeps = strcmp(kind, "sleep") == 0;
    if (!sleeps && strcmp(kind, "callback") != 0)
        return BENCH_SKIP;
#if defined(__x86_64__)
    fiber_slab_make(sleeps ? count : 1);
#else
    if (sleeps)
        return BENCH_SKIP;
#endif
    heap = calloc((size_t)count, sizeof *heap);
    need(heap != NULL, "calloc");
    run_timers(sleeps, bench_warm_up(count), bench_warm_up(span_ms), false);
    run_timers(sleeps, count, span_ms, true);
    free(heap);
    return 0;
}
