/* A loop of one's own: a policy gives hooks to every loop and pool that the program starts, which
 * measure of each work how long it ran, waited, and stood ready.
 *
 * The program, at the end of this file, calls duet_run() and duet_offload() as it always did: it was
 * not touched, and knows nothing of it. */
#include "say.h"

#include <errno.h>
#include <time.h>

enum state {
    RUNNING,
    WAITING,
    READY,
    STATES
};

/* One work. Its hooks never run at the same time, so it needs no lock until it goes to the list. */
struct timed {
    struct timed *next;
    char name[24], kind[16];
    enum state state;
    unsigned long steps;
    int64_t ns[STATES], life_ns;
};

/* All that have settled, on whatever thread: hence the mutex. */
struct timing {
    pthread_mutex_t mutex;
    struct timed *first, **end;
};

/* ---- Hooks ---- */

/* What has passed since the hook before belongs to the state in which the work was. */
static struct timed *pass(const duet_work_event *event, enum state next)
{
    struct timed *work = (struct timed *)*event->slot;
    work->ns[work->state] += event->now_ns - event->since_ns;
    work->state = next;
    return work;
}

static void on_start(void *ctx, const duet_work_event *event)
{
    struct timed *work = calloc(1, sizeof *work);
    (void)ctx;
    need(work ? 0 : -ENOMEM, "calloc");
    snprintf(work->name, sizeof work->name, "%s", event->name);
    snprintf(work->kind, sizeof work->kind, "%s", event->kind);
    work->state = READY;
    *event->slot = (uintptr_t)work;
}

/* Who has been woken by somebody stood ready since then; who waited for a moment, or for the kernel,
 * is counted as waiting up to here. */
static void on_step_began(void *ctx, const duet_work_event *event)
{
    struct timed *work = (struct timed *)*event->slot;
    int64_t woken_ns = event->by_ns > event->since_ns ? event->by_ns : event->since_ns;
    int64_t ready_ns = work->state == WAITING && event->by_ns > 0 ? event->now_ns - woken_ns : 0;
    (void)ctx;
    pass(event, RUNNING)->steps++;
    work->ns[WAITING] -= ready_ns;
    work->ns[READY] += ready_ns;
}

/* After a step: perhaps it yields, perhaps it is at its end; if it waits, on_parked() comes next. */
static void on_ready(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    pass(event, READY);
}

static void on_parked(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    pass(event, WAITING);
}

static void on_settled(void *ctx, const duet_work_event *event)
{
    struct timing *timing = ctx;
    struct timed *work = pass(event, READY);
    work->life_ns = event->now_ns - event->spawned_ns;
    pthread_mutex_lock(&timing->mutex);
    *timing->end = work;
    timing->end = &work->next;
    pthread_mutex_unlock(&timing->mutex);
}

/* ---- Policy: all as it was asked for, with our hooks before those that were there ---- */

static duet_hooks timing_hooks(struct timing *timing, const duet_hooks *others)
{
    return (duet_hooks){.ctx = timing,
                        .spawned = on_start,
                        .step_began = on_step_began,
                        .step_ended = on_ready,
                        .parked = on_parked,
                        .settled = on_settled,
                        .job_queued = on_start,
                        .job_began = on_ready,
                        .job_ended = on_ready,
                        .next = others};
}

static int make_loop(void *timing, duet_loop **ret, const duet_loop_config *config)
{
    const duet_hooks hooks = timing_hooks(timing, config->hooks);
    duet_loop_config timed = *config;
    timed.hooks = &hooks; /* copied, as the rest */
    return duet_loop_open(ret, &timed);
}

static int make_pool(void *timing, duet_pool **ret, const duet_pool_config *config)
{
    const duet_hooks hooks = timing_hooks(timing, config->hooks);
    duet_pool_config timed = *config;
    timed.hooks = &hooks;
    return duet_pool_open(ret, &timed);
}

/* ---- The table ---- */

static void print_row(const struct timed *work)
{
    printf("%-10s %-10s %6lu", work->name, work->kind, work->steps);
    for (int i = 0; i < STATES; i++)
        printf(" %10.3f", (double)work->ns[i] / 1e6);
    printf(" %10.3f\n", (double)work->life_ns / 1e6);
}

/* In the order in which they have settled; frees them. Nothing runs any more. */
static void print_table(struct timing *timing)
{
    struct timed total = {.name = "total"};
    printf("name       kind        steps     run ms  waited ms   ready ms    life ms\n");
    for (struct timed *work = timing->first, *next; work; work = next) {
        print_row(work);
        total.steps += work->steps;
        for (int i = 0; i < STATES; i++)
            total.ns[i] += work->ns[i];
        total.life_ns += work->life_ns;
        next = work->next;
        free(work);
    }
    print_row(&total);
}

/* ---- The program, which knows nothing of all that ---- */

/* So long on a processor, not on the clock. */
static void spin(int ms)
{
    struct timespec start, now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < ms * 1000000L);
}

static duet_result sleeper(void *arg)
{
    (void)arg;
    for (int i = 0; i < 3; i++)
        duet_sleep(duet_ms(50));
    return duet_ok();
}

static duet_result spinner(void *arg)
{
    (void)arg;
    spin(60);
    return duet_ok();
}

static duet_result both(void *arg)
{
    (void)arg;
    for (int i = 0; i < 2; i++) {
        spin(20);
        duet_sleep(duet_ms(50));
    }
    return duet_ok();
}

static duet_result yielder(void *arg)
{
    (void)arg;
    for (int i = 0; i < 100; i++)
        duet_yield();
    return duet_ok();
}

/* A job: while it blocks its thread it runs; a wait in duet is a wait. */
static duet_result blocker(void *arg)
{
    (void)arg;
    nanosleep(&(struct timespec){.tv_nsec = 80000000}, NULL);
    duet_sleep(duet_ms(40));
    return duet_ok();
}

static duet_result program(void *arg)
{
    static const struct {
        duet_fn *fn;
        duet_opts opts;
    } parts[] = {{sleeper, {.name = "sleeper"}},
                 {spinner, {.name = "spinner"}},
                 {both, {.name = "both"}},
                 {yielder, {.name = "yielder"}}};
    const duet_opts job = {.name = "blocker"};
    duet_group group = DUET_GROUP_INIT;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        need(duet_group_spawn(&group, NULL, parts[i].fn, arg, &parts[i].opts), "spawn");
    need(duet_offload_with(NULL, blocker, arg, &job, DUET_NEVER, NULL), "offload");
    need(duet_group_wait(&group, DUET_NEVER, NULL), "wait");
    need(duet_group_close(&group), "close");
    return duet_ok();
}

int main(void)
{
    /* Static: the default pool, which has these hooks, is closed after main() has returned. */
    static struct timing timing = {.mutex = PTHREAD_MUTEX_INITIALIZER, .end = &timing.first};
    const duet_policy policy = {.ctx = &timing, .make_loop = make_loop, .make_pool = make_pool};
    need(duet_policy_set(&policy), "duet_policy_set");
    need(duet_run(program, NULL, NULL), "duet_run");
    print_table(&timing);
    return 0;
}
