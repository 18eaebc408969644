/* The end of loops, pools and all of them, whatever runs there: what ends in time ends, what waits
 * is cancelled, and what is left behind is on the receipt, and goes on. */
#include "duet_test.h"
#include "shared.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

/* Long enough for all that ends when it is asked, on a busy machine too: half of it is waited for
 * where nothing ends by itself. */
#define SOON duet_sec(3)

static duet_pool_stats stats_of(const duet_pool *pool)
{
    duet_pool_stats stats;
    duet_pool_stats_get(pool, &stats);
    return stats;
}

static duet_loop *start_named_loop(const char *name)
{
    duet_loop *loop;
    const duet_loop_config config = {.name = name};
    must_equal(duet_loop_start(&loop, &config), 0);
    return loop;
}

static duet_pool *open_named_pool(const char *name, unsigned workers)
{
    duet_pool *pool;
    const duet_pool_config config = {.name = name, .workers_max = workers};
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

static void await_count(const atomic_int *count, int n)
{
    for (duet_deadline by = SURELY; atomic_load(count) < n; sched_yield())
        must(duet_now_ns() < by.ns);
}

/* The threads of this process while it has none of duet's: what a sanitizer has started by then is
 * among them. */
static int idle_threads;

static void *tell_tid(void *tid)
{
    *(int *)tid = gettid();
    return NULL;
}

static void count_idle_threads(void)
{
    int tid;
    char path[64];
    pthread_t thread;
    must_equal(pthread_create(&thread, NULL, tell_tid, &tid), 0);
    must_equal(pthread_join(thread, NULL), 0);
    snprintf(path, sizeof path, "/proc/self/task/%d", tid);
    while (access(path, F_OK) == 0)
        sched_yield();
    idle_threads = count_threads();
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
static void run_bare(duet_loop *loop, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(loop, DUET_NOW, fn, arg)).err, 0);
}

/* A loop that a thread of the test runs. */
struct runner {
    struct thread thread;
    duet_loop *loop;
    int rc;
};

static void run_loop(void *arg)
{
    struct runner *runner = arg;
    runner->rc = duet_loop_run(runner->loop);
}

static duet_loop *open_loop(const char *name)
{
    duet_loop *loop;
    const duet_loop_config config = {.name = name};
    must_equal(duet_loop_open(&loop, &config), 0);
    return loop;
}

static void runner_start(struct runner *runner, duet_loop *loop)
{
    runner->loop = loop;
    thread_start(&runner->thread, run_loop, runner);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0); /* it turns */
}

static void runner_join(struct runner *runner)
{
    thread_join(&runner->thread);
    must_equal(runner->rc, 0);
}

/* ---- Work ---- */

struct tally {
    atomic_int begun, ran, cancelled, dropped;
};

static void tally_drop(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->dropped, 1);
}

static const duet_opts tally_opts = {.name = "tallied", .drop = tally_drop};

static duet_result tally_run(void *arg)
{
    struct tally *tally = arg;
    atomic_fetch_add(&tally->begun, 1);
    atomic_fetch_add(&tally->ran, 1);
    return duet_ok();
}

/* Ends by itself, and must not be cancelled. */
static duet_result tally_a_little(void *arg)
{
    struct tally *tally = arg;
    atomic_fetch_add(&tally->begun, 1);
    must_equal(duet_sleep(duet_ms(3)), 0);
    must(!duet_cancelled());
    atomic_fetch_add(&tally->ran, 1);
    return duet_ok();
}

/* Waits until it is cancelled, and cleans up. */
static duet_result tally_cancelled(void *arg)
{
    struct tally *tally = arg;
    atomic_fetch_add(&tally->begun, 1);
    int rc = duet_sleep(DUET_NEVER);
    must_equal(rc, -ECANCELED);
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(3)), 0);
    duet_shield_end();
    atomic_fetch_add(&tally->cancelled, 1);
    return duet_err(rc);
}

/* Ignores its cancellation until it may end: asleep in a shield, again and again. */
struct stubborn {
    atomic_int begun, may_end, dropped;
};

static void stubborn_drop(void *arg)
{
    atomic_fetch_add(&((struct stubborn *)arg)->dropped, 1);
}

static duet_result be_stubborn(void *arg)
{
    struct stubborn *s = arg;
    duet_shield_begin();
    atomic_store(&s->begun, 1);
    while (!atomic_load(&s->may_end))
        must_equal(duet_sleep(duet_ms(1)), 0);
    duet_shield_end();
    return duet_i64(11);
}

static duet_future *start_stubborn(duet_loop *loop, duet_pool *pool, struct stubborn *s,
                                   const char *name)
{
    const duet_opts opts = {.name = name, .drop = stubborn_drop};
    *s = (struct stubborn){0};
    duet_future *f = loop ? duet_submit_with(loop, be_stubborn, s, &opts)
                          : duet_pool_submit_with(pool, be_stubborn, s, &opts);
    await_count(&s->begun, 1);
    return f;
}

static void release_stubborn(struct stubborn *s, duet_future *f)
{
    must(!duet_future_settled(f)); /* it goes on */
    must_equal(atomic_load(&s->dropped), 0);
    atomic_store(&s->may_end, 1);
    must_equal(duet_as_i64(finish(f)), 11);
    must_equal(atomic_load(&s->dropped), 1);
}

struct reader {
    int fds[2];
    atomic_int begun;
    int rc;
};

/* 0 or the errno. */
static duet_result read_one(void *arg)
{
    struct reader *reader = arg;
    char byte;
    atomic_store(&reader->begun, 1);
    reader->rc = read(reader->fds[0], &byte, 1) < 0 ? errno : 0;
    return duet_i64(12);
}

static void reader_open(struct reader *reader)
{
    *reader = (struct reader){0};
    must_equal(pipe(reader->fds), 0);
}

static void reader_close(struct reader *reader)
{
    must_equal(close(reader->fds[0]), 0);
    must_equal(close(reader->fds[1]), 0);
}

/* ---- Receipts ---- */

static void must_be_empty(int rc, duet_receipt *receipt)
{
    must_equal(rc, 0);
    must(receipt != NULL);
    must_equal(receipt->count, 0);
    must_equal(receipt->unlisted, 0);
    duet_receipt_free(receipt);
}

static const duet_left *find_left(const duet_receipt *receipt, const char *name)
{
    const duet_left *found = NULL;
    for (size_t i = 0; i < receipt->count; i++) {
        if (strcmp(receipt->left[i].name, name) == 0) {
            must(found == NULL); /* once each */
            found = &receipt->left[i];
        }
    }
    if (!found)
        fprintf(stderr, "'%s' is not on the receipt\n", name);
    must(found != NULL);
    return found;
}

/* waits_for NULL: whatever it says. */
static void must_list(const duet_receipt *receipt, const char *kind, const char *name,
                      const char *place, const char *waits_for)
{
    const duet_left *left = find_left(receipt, name);
    if (strcmp(left->kind, kind) != 0 || strcmp(left->place, place) != 0)
        fprintf(stderr, "'%s' is a %s in %s\n", name, left->kind, left->place);
    must(strcmp(left->kind, kind) == 0);
    must(strcmp(left->place, place) == 0);
    must(left->waits_for != NULL && left->waits_for[0] != '\0');
    if (waits_for && !strstr(left->waits_for, waits_for))
        fprintf(stderr, "'%s' waits for '%s'\n", name, left->waits_for);
    must(!waits_for || strstr(left->waits_for, waits_for));
    must(left->age_ns > 0);
    must(left->age_ns < INT64_C(600000000000));
    must(log_has(name));
}

static void must_have_left(int rc, const duet_receipt *receipt, size_t count)
{
    must_equal(rc, -ETIME);
    must(receipt != NULL);
    must_equal(receipt->count, count);
    must_equal(receipt->unlisted, 0);
}

thread_test(no_receipt_is_freed_like_one)
{
    duet_receipt_free(NULL);
}

/* ---- duet_pool_shutdown ---- */

thread_test(an_idle_pool_shuts_down_with_an_empty_receipt)
{
    const duet_deadline deadlines[] = {SURELY, DUET_NEVER, DUET_NOW, {INT64_MIN}};
    for (int i = 0; i < 4; i++) {
        duet_receipt *receipt = (duet_receipt *)&idle_threads;
        duet_pool *pool = open_pool(2);
        int rc = duet_pool_shutdown(pool, deadlines[i], &receipt);
        must_be_empty(rc, receipt);
        must_equal(duet_pool_shutdown(open_pool(2), deadlines[i], NULL), 0);
    }
    for (int i = 0; i < 2; i++) { /* and one that has worked */
        duet_receipt *receipt = NULL;
        duet_pool *pool = open_pool(2);
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        int rc = duet_pool_shutdown(pool, deadlines[i], &receipt);
        must_be_empty(rc, receipt);
    }
    await_threads(idle_threads);
}

/* pool.h: lets the accepted ones end. */
thread_test(the_shutdown_of_a_pool_lets_what_was_accepted_end)
{
    enum {
        JOBS = 40
    };
    const duet_deadline deadlines[] = {SURELY, DUET_NEVER};
    for (int i = 0; i < 2; i++) {
        struct tally tally = {0};
        duet_future *fs[JOBS];
        duet_receipt *receipt = NULL;
        duet_pool *pool = open_pool(2);
        for (int k = 0; k < JOBS; k++)
            fs[k] = duet_pool_submit_with(pool, k % 2 ? tally_run : tally_a_little, &tally,
                                          &tally_opts);
        int rc = duet_pool_shutdown(pool, deadlines[i], &receipt);
        must_be_empty(rc, receipt);
        must_equal(atomic_load(&tally.ran), JOBS);
        must_equal(atomic_load(&tally.dropped), JOBS);
        for (int k = 0; k < JOBS; k++) {
            must(duet_future_settled(fs[k]));
            must_equal(finish(fs[k]).err, 0);
        }
    }
    await_threads(idle_threads);
}

/* pool.h: then it cancels the queued and the running, and interrupts those that asked for it. */
thread_test(the_shutdown_of_a_pool_cancels_what_does_not_end)
{
    const duet_opts opts = {.name = "reader", .flags = DUET_INTERRUPT};
    const duet_opts keep = {.drop = tally_drop, .flags = DUET_KEEP_SLOT};
    struct tally waiting = {0}, queued = {0};
    struct reader reader;
    duet_receipt *receipt = NULL;
    duet_pool *pool = open_pool(2);
    duet_future *fs[5];
    reader_open(&reader);
    fs[0] = duet_pool_submit_with(pool, tally_cancelled, &waiting, &keep);
    fs[1] = duet_pool_submit_with(pool, read_one, &reader, &opts);
    await_count(&waiting.begun, 1);
    await_count(&reader.begun, 1);
    for (int i = 2; i < 5; i++)
        fs[i] = duet_pool_submit_with(pool, tally_run, &queued, &tally_opts);
    int rc = duet_pool_shutdown(pool, SOON, &receipt);
    must_be_empty(rc, receipt);
    must_equal(atomic_load(&waiting.cancelled), 1);
    must_equal(atomic_load(&waiting.dropped), 1);
    must_equal(reader.rc, EINTR);
    must_equal(finish(fs[0]).err, -ECANCELED);
    must_equal(duet_as_i64(finish(fs[1])), 12);
    for (int i = 2; i < 5; i++)
        must_equal(finish(fs[i]).err, -ECANCELED);
    must_equal(atomic_load(&queued.ran), 0);
    must_equal(atomic_load(&queued.dropped), 3);
    reader_close(&reader);
    await_threads(idle_threads);
}

static duet_result sleep_until_fetched(void *arg)
{
    struct stubborn *s = arg;
    atomic_store(&s->begun, 1);
    while (!atomic_load(&s->may_end))
        must_equal(duet_sleep(duet_ms(1)), 0);
    return duet_ok();
}

static duet_result wait_for_it_in_a_shield(void *f)
{
    duet_shield_begin();
    must_equal(duet_future_wait(f, DUET_NEVER, NULL), 0);
    duet_shield_end();
    return duet_i64(13);
}

static void await_waiting(const duet_pool *pool, unsigned n)
{
    for (duet_deadline by = SURELY; stats_of(pool).blocked_in_wait != n; sched_yield())
        must(duet_now_ns() < by.ns);
}

/* pool.h: at the deadline it leaves them behind, and says whom. */
static void leave_jobs_behind(duet_deadline by, bool exact)
{
    struct gate gate = GATE_INIT;
    struct reader reader;
    struct stubborn fetch = {0}, asleep;
    duet_receipt *receipt = NULL;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_named_pool("db", 5);
    const duet_opts opts[] = {
        {.name = "at the gate"}, {.name = "in a read"}, {.name = "fetch"}, {.name = "report"}};
    log_capture();
    reader_open(&reader);
    duet_future *fetched = duet_submit_with(loop, sleep_until_fetched, &fetch, &opts[2]);
    await_count(&fetch.begun, 1);
    duet_future *at_gate = duet_pool_submit_with(pool, gate_pass_job, &gate, &opts[0]);
    gate_await_arrivals(&gate, 1);
    duet_future *in_read = duet_pool_submit_with(pool, read_one, &reader, &opts[1]);
    await_count(&reader.begun, 1);
    duet_future *report = duet_pool_submit_with(pool, wait_for_it_in_a_shield, fetched, &opts[3]);
    await_waiting(pool, 1);
    duet_future *asleep_one = start_stubborn(NULL, pool, &asleep, "asleep");
    struct gate other = GATE_INIT; /* unnamed, and on the last worker */
    duet_future *unnamed = duet_pool_submit(pool, gate_pass_job, &other);
    gate_await_arrivals(&other, 1);
    int rc = duet_pool_shutdown(pool, by, &receipt);
    must_have_left(rc, receipt, 5);
    must_list(receipt, "job", "at the gate", "pool 'db'", NULL);
    must_list(receipt, "job", "in a read", "pool 'db'", NULL);
    must_list(receipt, "job", "report", "pool 'db'", exact ? "coroutine 'fetch'" : NULL);
    must_list(receipt, "job", "asleep", "pool 'db'", NULL);
    for (size_t i = 0; i < receipt->count; i++) {
        must(receipt->left[i].name != NULL);
        must(strcmp(receipt->left[i].place, "pool 'db'") == 0);
    }
    log_release();
    /* they all go on */
    must(!duet_future_settled(at_gate));
    must(!duet_future_settled(in_read));
    must(!duet_future_settled(report));
    must(!duet_future_settled(unnamed));
    gate_open(&gate);
    gate_open(&other);
    must_equal(write(reader.fds[1], "x", 1), 1);
    atomic_store(&fetch.may_end, 1);
    must_equal(finish(at_gate).err, 0);
    must_equal(finish(unnamed).err, 0);
    must_equal(duet_as_i64(finish(in_read)), 12);
    must_equal(reader.rc, 0); /* it had not asked to be interrupted */
    must_equal(duet_as_i64(finish(report)), 13);
    must_equal(finish(fetched).err, 0);
    release_stubborn(&asleep, asleep_one);
    duet_receipt_free(receipt); /* later than what is on it */
    close_loop(loop);
    await_threads(idle_threads);
    reader_close(&reader);
}

thread_test(the_shutdown_of_a_pool_lists_the_jobs_that_it_left_behind)
{
    leave_jobs_behind(duet_ms(500), true);
    /* its cancellation may have woken it just now */
    leave_jobs_behind(duet_ms(1), false);
    leave_jobs_behind(DUET_NOW, false);
    leave_jobs_behind((duet_deadline){-5}, false);
}

/* pool.h: the queued never run, at a deadline that has passed as well. ret may be NULL. */
thread_test(behind_a_stuck_job_the_queued_are_cancelled)
{
    const duet_deadline deadlines[] = {DUET_NOW, {INT64_MIN}, duet_ms(10)};
    for (int i = 0; i < 3; i++) {
        struct gate gate = GATE_INIT;
        struct tally queued = {0};
        duet_future *fs[10];
        duet_pool *pool = open_pool(1);
        duet_future *stuck = duet_pool_submit(pool, gate_pass_job, &gate);
        gate_await_arrivals(&gate, 1);
        for (int k = 0; k < 10; k++)
            fs[k] = duet_pool_submit_with(pool, tally_run, &queued, &tally_opts);
        log_capture();
        must_equal(duet_pool_shutdown(pool, deadlines[i], NULL), -ETIME);
        log_release();
        for (int k = 0; k < 10; k++)
            must_equal(finish(fs[k]).err, -ECANCELED);
        must_equal(atomic_load(&queued.dropped), 10);
        must(!duet_future_settled(stuck));
        gate_open(&gate);
        must_equal(finish(stuck).err, 0);
        must_equal(atomic_load(&queued.ran), 0);
    }
    await_threads(idle_threads);
}

/* pool.h: it frees itself, also where nobody holds a handle any more. */
thread_test(a_pool_that_was_left_behind_frees_itself)
{
    static struct gate gate = GATE_INIT; /* the jobs end unseen */
    atomic_int drops = 0;
    duet_pool *pool = open_pool(4);
    log_capture();
    for (int i = 0; i < 4; i++)
        duet_future_unref(duet_pool_submit(pool, gate_pass_job, &gate));
    gate_await_arrivals(&gate, 4);
    must_equal(duet_pool_shutdown(pool, DUET_NOW, NULL), -ETIME);
    log_release();
    pool = open_pool(1); /* the next one is another */
    const duet_opts opts = {.drop = count_drop};
    must_equal(finish(duet_pool_submit_with(pool, return_ok, &drops, &opts)).err, 0);
    close_pool(pool);
    must_equal(atomic_load(&drops), 1);
    gate_open(&gate);
    await_threads(idle_threads);
}

/* future.h: what was abandoned before is still there. */
thread_test(an_abandoned_job_is_on_the_receipt)
{
    struct stubborn s;
    duet_receipt *receipt = NULL;
    duet_pool *pool = open_named_pool("db", 1);
    log_capture();
    duet_future *f = start_stubborn(NULL, pool, &s, "laggard"), *mine = duet_future_ref(f);
    must_equal(duet_future_end(f, DUET_NOW, 0, NULL), DUET_ABANDONED);
    int rc = duet_pool_shutdown(pool, duet_ms(5), &receipt);
    must_have_left(rc, receipt, 1);
    must_list(receipt, "job", "laggard", "pool 'db'", NULL);
    log_release();
    duet_receipt_free(receipt);
    release_stubborn(&s, mine);
    await_threads(idle_threads);
}

struct shutter {
    struct thread thread;
    duet_loop *loop;
    duet_pool *pool;
    duet_deadline by;
    duet_receipt *receipt;
    int rc;
    atomic_int ticks, stop;
};

static duet_result shut_pool_down(void *arg)
{
    struct shutter *s = arg;
    s->rc = duet_pool_shutdown(s->pool, s->by, &s->receipt);
    return duet_ok();
}

static void shut_pool_down_plainly(void *arg)
{
    (void)shut_pool_down(arg);
}

/* pool.h: refuses new jobs from the first moment on. */
thread_test(while_a_pool_shuts_down_new_jobs_are_refused)
{
    struct gate gate = GATE_INIT;
    struct tally tally = {0};
    struct shutter s = {.pool = open_pool(1), .by = SURELY};
    duet_future *stuck = duet_pool_submit(s.pool, gate_pass_job, &gate);
    int accepted = 0;
    gate_await_arrivals(&gate, 1);
    thread_start(&s.thread, shut_pool_down_plainly, &s);
    for (int err = 0; err == 0; sched_yield()) {
        duet_future *f = duet_pool_submit_with(s.pool, tally_run, &tally, &tally_opts);
        err = duet_future_settled(f) ? duet_future_result(f).err : 0;
        must(err == 0 || err == -ESHUTDOWN);
        accepted += err == 0;
        must_equal(atomic_load(&tally.dropped), err != 0);
        duet_future_unref(f);
    }
    for (int i = 0; i < 3; i++)
        must_equal(finish(duet_pool_submit(s.pool, return_ok, NULL)).err, -ESHUTDOWN);
    duet_result r;
    must_equal(duet_offload(s.pool, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, -ESHUTDOWN);
    gate_open(&gate);
    thread_join(&s.thread);
    must_be_empty(s.rc, s.receipt);
    must_equal(finish(stuck).err, 0);
    must_equal(atomic_load(&tally.ran), accepted); /* what came before has run */
}

static duet_result tick(void *arg)
{
    struct shutter *s = arg;
    while (!atomic_load(&s->stop)) {
        must_equal(duet_yield(), 0);
        atomic_fetch_add(&s->ticks, 1);
    }
    return duet_ok();
}

/* base.h: a coroutine is suspended, and the loop goes on. */
thread_test(while_a_coroutine_shuts_a_pool_down_its_loop_keeps_turning)
{
    for (int i = 0; i < 2; i++) {
        struct gate gate = GATE_INIT;
        struct shutter s = {.pool = open_pool(1), .by = i ? duet_ms(30) : SURELY};
        duet_loop *loop = start_loop();
        duet_future *stuck = duet_pool_submit(s.pool, gate_pass_job, &gate);
        gate_await_arrivals(&gate, 1);
        log_capture();
        duet_future *f = duet_submit(loop, shut_pool_down, &s);
        duet_future *ticking = duet_submit(loop, tick, &s);
        await_count(&s.ticks, 100);
        if (i == 0) {
            must(!duet_future_settled(f));
            gate_open(&gate);
            must_equal(finish(f).err, 0);
            must_be_empty(s.rc, s.receipt);
        } else {
            must_equal(finish(f).err, 0);
            must_have_left(s.rc, s.receipt, 1);
            duet_receipt_free(s.receipt);
            gate_open(&gate);
        }
        log_release();
        atomic_store(&s.stop, 1);
        must_equal(finish(ticking).err, 0);
        must_equal(finish(stuck).err, 0);
        close_loop(loop);
    }
}

static duet_result shut_own_pool_down(void *arg)
{
    struct shutter *s = arg;
    duet_receipt *receipt = NULL;
    must_equal(duet_pool_shutdown(s->pool, SURELY, &receipt), -EDEADLK);
    must_equal(duet_pool_shutdown(s->pool, DUET_NOW, NULL), -EDEADLK);
    must(receipt == NULL); /* written on 0 and -ETIME */
    must(!duet_cancelled());
    return duet_i64(14);
}

static void shut_pool_down_in_callback(void *arg)
{
    struct shutter *s = arg;
    must_equal(duet_pool_shutdown(s->pool, SURELY, NULL), -EDEADLK);
    must_equal(duet_pool_shutdown(s->pool, DUET_NOW, NULL), -EDEADLK);
}

/* pool.h: then nothing was done. A job of another pool may do it. */
thread_test(a_pool_cannot_be_shut_down_from_its_own_job_nor_from_a_bare_callback)
{
    struct shutter s = {.pool = open_pool(1), .by = SURELY};
    duet_loop *loop = start_loop();
    duet_pool *other = open_pool(1);
    must_equal(duet_as_i64(finish(duet_pool_submit(s.pool, shut_own_pool_down, &s))), 14);
    run_bare(loop, shut_pool_down_in_callback, &s);
    must_equal(finish(duet_pool_submit(s.pool, return_ok, NULL)).err, 0);
    must_equal(finish(duet_pool_submit(other, shut_pool_down, &s)).err, 0);
    must_be_empty(s.rc, s.receipt);
    close_pool(other);
    close_loop(loop);
}

/* ---- duet_loop_shutdown ---- */

thread_test(an_idle_loop_shuts_down_with_an_empty_receipt)
{
    const duet_deadline deadlines[] = {SURELY, DUET_NEVER};
    int fds = count_fds();
    for (int i = 0; i < 2; i++) {
        duet_receipt *receipt = (duet_receipt *)&idle_threads;
        int rc = duet_loop_shutdown(start_loop(), deadlines[i], &receipt);
        must_be_empty(rc, receipt);
        must_equal(duet_loop_shutdown(start_loop(), deadlines[i], NULL), 0);
        duet_loop *loop = start_loop();
        must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        rc = duet_loop_shutdown(loop, deadlines[i], &receipt);
        must_be_empty(rc, receipt);
    }
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* loop.h: a deadline in the past may leave behind even what would end at once, but all ends. */
thread_test(a_loop_that_has_no_time_ends_all_the_same)
{
    const duet_deadline deadlines[] = {DUET_NOW, {INT64_MIN}};
    int fds = count_fds();
    log_capture();
    for (int i = 0; i < test_rounds(50); i++) {
        struct tally tally = {0};
        duet_receipt *receipt = NULL;
        duet_loop *loop = start_loop();
        duet_future *f = duet_submit_with(loop, tally_cancelled, &tally, &tally_opts);
        if (i % 3 == 0)
            await_count(&tally.begun, 1);
        int rc = duet_loop_shutdown(loop, deadlines[i % 2], &receipt);
        must(rc == 0 || rc == -ETIME);
        must(receipt != NULL);
        must(rc == 0 || receipt->count + receipt->unlisted > 0);
        must(rc < 0 || receipt->count + receipt->unlisted == 0);
        duet_receipt_free(receipt);
        must_equal(finish(f).err, -ECANCELED);
        must_equal(atomic_load(&tally.cancelled), atomic_load(&tally.begun));
        must_equal(atomic_load(&tally.dropped), 1);
    }
    log_release();
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

struct family {
    struct tally *tally;
    int depth;
};

/* Spawns beside itself in the loop's drain. */
static duet_result beget(void *arg)
{
    struct family *family = arg;
    atomic_fetch_add(&family->tally->begun, 1);
    must_equal(duet_sleep(duet_ms(2)), 0);
    must(!duet_cancelled());
    atomic_fetch_add(&family->tally->ran, 1);
    if (family->depth-- > 0)
        duet_future_unref(duet_spawn(beget, family));
    return duet_ok();
}

/* loop.h: what is there ends, and may still spawn. */
static void must_drain(duet_loop *loop, duet_deadline by)
{
    struct tally tally = {0};
    struct family family = {&tally, 5};
    duet_receipt *receipt = NULL;
    duet_future *fs[20];
    for (int i = 0; i < 20; i++)
        fs[i] = duet_submit_with(loop, i % 2 ? tally_run : tally_a_little, &tally, &tally_opts);
    duet_future *parent = duet_submit(loop, beget, &family);
    int rc = duet_loop_shutdown(loop, by, &receipt);
    must_be_empty(rc, receipt);
    must_equal(atomic_load(&tally.ran), 20 + 6);
    must_equal(atomic_load(&tally.dropped), 20);
    for (int i = 0; i < 20; i++) {
        must(duet_future_settled(fs[i]));
        must_equal(finish(fs[i]).err, 0);
    }
    must_equal(finish(parent).err, 0);
}

thread_test(the_shutdown_of_a_loop_lets_what_is_there_end)
{
    int fds = count_fds();
    struct runner runner;
    must_drain(start_loop(), SURELY);
    must_drain(start_loop(), DUET_NEVER);
    runner_start(&runner, open_loop("main"));
    must_drain(runner.loop, SURELY);
    runner_join(&runner);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* loop.h: then it cancels, and waits for the clean-up. */
static void must_cancel(duet_loop *loop)
{
    struct tally waiting = {0};
    duet_future *fs[3];
    duet_receipt *receipt = NULL;
    for (int i = 0; i < 3; i++)
        fs[i] = duet_submit_with(loop, tally_cancelled, &waiting, &tally_opts);
    await_count(&waiting.begun, 3);
    duet_future *moment = duet_call_at(loop, duet_sec(3600), count_drop, &waiting.ran);
    int rc = duet_loop_shutdown(loop, SOON, &receipt);
    must_be_empty(rc, receipt);
    must_equal(atomic_load(&waiting.cancelled), 3);
    must_equal(atomic_load(&waiting.dropped), 3);
    for (int i = 0; i < 3; i++)
        must_equal(finish(fs[i]).err, -ECANCELED);
    must(duet_future_settled(moment));
    must(finish(moment).err < 0);
    must_equal(atomic_load(&waiting.ran), 0);
}

thread_test(the_shutdown_of_a_loop_cancels_what_does_not_end)
{
    int fds = count_fds();
    struct runner runner;
    must_cancel(start_loop());
    runner_start(&runner, open_loop("main"));
    must_cancel(runner.loop);
    runner_join(&runner);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* loop.h: what nobody runs never runs. */
thread_test(a_loop_that_nobody_runs_is_shut_down_too)
{
    const duet_deadline deadlines[] = {duet_sec(1), duet_ms(1), DUET_NOW, {INT64_MIN}};
    int fds = count_fds();
    for (int i = 0; i < 4; i++) {
        struct tally tally = {0};
        duet_receipt *receipt = NULL;
        duet_loop *loop = open_loop("never run");
        int rc = duet_loop_shutdown(loop, deadlines[i], &receipt); /* with nothing in it */
        must_be_empty(rc, receipt);
        loop = open_loop("never run");
        duet_future *f = duet_submit_with(loop, tally_run, &tally, &tally_opts);
        duet_future *moment = duet_call_at(loop, DUET_NOW, count_drop, &tally.ran);
        rc = duet_loop_shutdown(loop, deadlines[i], &receipt);
        must_be_empty(rc, receipt);
        must(duet_future_settled(f));
        must_equal(finish(f).err, -ECANCELED);
        must(finish(moment).err < 0);
        must_equal(atomic_load(&tally.ran), 0);
        must_equal(atomic_load(&tally.dropped), 1);
    }
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* loop.h: at the deadline it leaves them behind, says whom, and turns on until they have ended. */
static void must_leave_behind(duet_loop *loop, duet_deadline by, bool exact)
{
    struct stubborn asleep;
    struct stubborn fetch = {0};
    const duet_opts opts[] = {{.name = "fetch"}, {.name = "report"}};
    duet_receipt *receipt = NULL;
    duet_pool *pool = open_pool(1);
    log_capture();
    duet_future *fetched = duet_pool_submit_with(pool, sleep_until_fetched, &fetch, &opts[0]);
    await_count(&fetch.begun, 1);
    duet_future *f = start_stubborn(loop, NULL, &asleep, "asleep");
    duet_future *report = duet_submit_with(loop, wait_for_it_in_a_shield, fetched, &opts[1]);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0); /* it waits by now */
    int rc = duet_loop_shutdown(loop, by, &receipt);
    must_have_left(rc, receipt, 2);
    must_list(receipt, "coroutine", "asleep", "loop 'main'", NULL);
    must_list(receipt, "coroutine", "report", "loop 'main'", exact ? "job 'fetch'" : NULL);
    log_release();
    duet_receipt_free(receipt);
    must(!duet_future_settled(report));
    release_stubborn(&asleep, f);
    must(!duet_future_settled(report));
    atomic_store(&fetch.may_end, 1);
    must_equal(duet_as_i64(finish(report)), 13);
    must_equal(finish(fetched).err, 0);
    close_pool(pool);
}

thread_test(the_shutdown_of_a_loop_lists_the_coroutines_that_it_left_behind)
{
    int fds = count_fds();
    struct runner runner;
    must_leave_behind(start_named_loop("main"), duet_ms(500), true);
    must_leave_behind(start_named_loop("main"), duet_ms(1), false);
    must_leave_behind(start_named_loop("main"), DUET_NOW, false);
    runner_start(&runner, open_loop("main"));
    must_leave_behind(runner.loop, duet_ms(500), true);
    runner_join(&runner); /* it returns when the last has ended */
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* Sleeps once, for longer than any shutdown here lasts. */
static duet_result sleep_in_a_shield(void *arg)
{
    atomic_int *begun = arg;
    duet_shield_begin();
    atomic_store(begun, 1);
    must_equal(duet_sleep(duet_ms(1500)), 0);
    duet_shield_end();
    return duet_ok();
}

/* receipt.h: and what each waits for. */
thread_test(a_receipt_says_who_waits_for_a_moment)
{
    atomic_int begun = 0, job_begun = 0;
    duet_receipt *receipt = NULL;
    const duet_opts opts = {.name = "sleeper"};
    duet_loop *loop = start_named_loop("main");
    duet_pool *pool = open_named_pool("db", 1);
    log_capture();
    duet_future *f = duet_submit_with(loop, sleep_in_a_shield, &begun, &opts);
    duet_future *job = duet_pool_submit_with(pool, sleep_in_a_shield, &job_begun, &opts);
    await_count(&begun, 1);
    await_waiting(pool, 1);
    int rc = duet_loop_shutdown(loop, duet_ms(300), &receipt);
    must_have_left(rc, receipt, 1);
    must_list(receipt, "coroutine", "sleeper", "loop 'main'", "a moment");
    duet_receipt_free(receipt);
    rc = duet_pool_shutdown(pool, duet_ms(300), &receipt);
    must_have_left(rc, receipt, 1);
    must_list(receipt, "job", "sleeper", "pool 'db'", "a moment");
    duet_receipt_free(receipt);
    log_release();
    must_equal(finish(f).err, 0);
    must_equal(finish(job).err, 0);
    await_threads(idle_threads);
}

static void block_the_loop(void *gate)
{
    gate_pass(gate);
}

/* receipt.h: a loop that does not answer still is on the receipt, one way or the other. */
static void leave_a_blocked_loop(duet_deadline by, bool callback)
{
    struct gate gate = GATE_INIT;
    struct tally behind = {0};
    const duet_opts opts = {.name = "blocker"};
    duet_receipt *receipt = NULL;
    duet_loop *loop = start_named_loop("main");
    duet_future *f = callback ? duet_call_at(loop, DUET_NOW, block_the_loop, &gate)
                              : duet_submit_with(loop, gate_pass_job, &gate, &opts);
    gate_await_arrivals(&gate, 1);
    duet_future *waiting = duet_submit_with(loop, tally_cancelled, &behind, &tally_opts);
    log_capture();
    must_equal(duet_loop_shutdown(loop, by, &receipt), -ETIME);
    must(receipt != NULL);
    must(receipt->count + receipt->unlisted > 0);
    must(log_has("main"));
    for (size_t i = 0; i < receipt->count; i++)
        must(strcmp(receipt->left[i].place, "loop 'main'") == 0);
    log_release();
    duet_receipt_free(receipt);
    must(!duet_future_settled(f));
    gate_open(&gate);
    must_equal(finish(f).err, 0);
    must_equal(finish(waiting).err, -ECANCELED);
    must_equal(atomic_load(&behind.dropped), 1);
    must_equal(atomic_load(&behind.cancelled), atomic_load(&behind.begun));
}

thread_test(a_loop_that_is_blocked_is_left_behind_in_time)
{
    int fds = count_fds();
    for (int i = 0; i < 2; i++) {
        leave_a_blocked_loop(duet_ms(20), i);
        leave_a_blocked_loop(DUET_NOW, i);
    }
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

static duet_result shut_loop_down(void *arg)
{
    struct shutter *s = arg;
    s->rc = duet_loop_shutdown(s->loop, s->by, &s->receipt);
    return duet_ok();
}

static void shut_loop_down_plainly(void *arg)
{
    (void)shut_loop_down(arg);
}

/* loop.h: submissions are refused from the first moment on; later calls need a reference. */
thread_test(while_a_loop_shuts_down_new_work_is_refused)
{
    struct stubborn stubborn;
    struct tally tally = {0};
    struct shutter s = {.loop = start_loop(), .by = SURELY};
    duet_loop *mine = duet_loop_ref(s.loop);
    duet_future *stuck = start_stubborn(s.loop, NULL, &stubborn, "stuck");
    int accepted = 0;
    thread_start(&s.thread, shut_loop_down_plainly, &s);
    for (int err = 0; err == 0; sched_yield()) {
        duet_future *f = duet_submit_with(mine, tally_run, &tally, &tally_opts);
        err = finish(f).err;
        must(err == 0 || err == -ESHUTDOWN);
        accepted += err == 0;
        must_equal(atomic_load(&tally.dropped), accepted + (err != 0));
    }
    must_equal(atomic_load(&tally.ran), accepted);
    for (int i = 0; i < 2; i++) {
        duet_result r;
        must_equal(finish(duet_submit(mine, return_ok, NULL)).err, -ESHUTDOWN);
        must_equal(duet_call(mine, return_ok, NULL, SURELY, &r), 0);
        must_equal(r.err, -ESHUTDOWN);
        must_equal(duet_call_soon(mine, tally_drop, &tally), -ESHUTDOWN);
        must_equal(finish(duet_call_at(mine, DUET_NOW, tally_drop, &tally)).err, -ESHUTDOWN);
        if (i == 0) {
            atomic_store(&stubborn.may_end, 1);
            thread_join(&s.thread);
            must_be_empty(s.rc, s.receipt);
            must_equal(duet_as_i64(finish(stuck)), 11);
        }
    }
    duet_loop_unref(mine);
}

static duet_result shut_own_loop_down(void *arg)
{
    struct shutter *s = arg;
    duet_receipt *receipt = NULL;
    must_equal(duet_loop_shutdown(s->loop, SURELY, &receipt), -EDEADLK);
    must_equal(duet_loop_shutdown(s->loop, DUET_NOW, NULL), -EDEADLK);
    must(receipt == NULL);
    must(!duet_cancelled());
    must_equal(duet_yield(), 0);
    must_equal(finish(duet_spawn(return_ok, NULL)).err, 0);
    return duet_i64(15);
}

static void shut_loop_down_in_callback(void *arg)
{
    struct shutter *s = arg;
    must_equal(duet_loop_shutdown(s->loop, SURELY, NULL), -EDEADLK);
    must_equal(duet_loop_shutdown(s->loop, DUET_NOW, NULL), -EDEADLK);
}

/* loop.h: then nothing was done. A coroutine of another loop may do it, and its loop goes on. */
thread_test(a_loop_cannot_be_shut_down_from_its_own_thread_nor_from_a_bare_callback)
{
    struct shutter s = {.loop = start_loop(), .by = SURELY};
    struct stubborn stubborn;
    duet_loop *other = start_loop();
    must_equal(duet_as_i64(finish(duet_submit(s.loop, shut_own_loop_down, &s))), 15);
    run_bare(s.loop, shut_loop_down_in_callback, &s);
    run_bare(other, shut_loop_down_in_callback, &s);
    must_equal(finish(duet_submit(s.loop, return_ok, NULL)).err, 0);
    duet_future *stuck = start_stubborn(s.loop, NULL, &stubborn, "stuck");
    duet_future *f = duet_submit(other, shut_loop_down, &s);
    duet_future *ticking = duet_submit(other, tick, &s);
    await_count(&s.ticks, 100);
    must(!duet_future_settled(f));
    atomic_store(&stubborn.may_end, 1);
    must_equal(finish(f).err, 0);
    must_be_empty(s.rc, s.receipt);
    must_equal(duet_as_i64(finish(stuck)), 11);
    atomic_store(&s.stop, 1);
    must_equal(finish(ticking).err, 0);
    close_loop(other);
}

/* ---- duet_shutdown ---- */

/* A new runtime of every kind works. */
static void must_work_anew(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_result r;
    run_in_coroutine(return_ok, NULL);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(duet_offload(pool, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    duet_pool *ours = duet_pool_default();
    must(ours != NULL);
    must_equal(finish(duet_pool_submit(ours, return_ok, NULL)).err, 0);
    close_loop(loop);
    close_pool(pool);
}

static void must_refuse(duet_loop *loop, duet_pool *pool)
{
    if (loop) {
        must_equal(finish(duet_submit(loop, return_ok, NULL)).err, -ESHUTDOWN);
        must_equal(duet_call_soon(loop, tally_drop, NULL), -ESHUTDOWN);
    }
    if (pool)
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -ESHUTDOWN);
}

thread_test(where_nothing_is_there_is_nothing_to_shut_down)
{
    const duet_deadline deadlines[] = {SURELY, DUET_NEVER, DUET_NOW, {INT64_MIN}};
    must_equal(duet_shutdown(SURELY, NULL), 0); /* of what the tests before have left */
    for (int i = 0; i < 4; i++) {
        duet_receipt *receipt = (duet_receipt *)&idle_threads;
        int rc = duet_shutdown(deadlines[i], &receipt);
        must_be_empty(rc, receipt);
        must_equal(duet_shutdown(deadlines[i], NULL), 0);
    }
    must_work_anew();
    must_equal(duet_shutdown(SURELY, NULL), 0); /* the default pool among them */
    await_threads(idle_threads);
}

/* bridge.h: all loops and pools end, and their handles are closed as ever. */
thread_test(shutdown_ends_all_loops_and_pools_whose_handles_are_closed_as_ever)
{
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int fds = count_fds();
    for (int i = 0; i < 2; i++) {
        struct tally tally = {0};
        struct runner runner;
        duet_receipt *receipt = NULL;
        duet_loop *loops[] = {start_loop(), start_loop(), open_loop("run"), open_loop("never")};
        duet_pool *pools[] = {open_pool(1), open_pool(3)};
        duet_future *fs[30];
        runner_start(&runner, loops[2]);
        for (int k = 0; k < 30; k++) {
            duet_fn *fn = k % 2 ? tally_run : tally_a_little;
            duet_pool *pool = k % 6 < 5 ? pools[k % 2] : duet_pool_default();
            fs[k] = k % 6 < 3 ? duet_submit_with(loops[k % 3], fn, &tally, &tally_opts)
                              : duet_pool_submit_with(pool, fn, &tally, &tally_opts);
        }
        int rc = duet_shutdown(SURELY, &receipt);
        must_be_empty(rc, receipt);
        must_equal(atomic_load(&tally.ran), 30);
        must_equal(atomic_load(&tally.dropped), 30);
        for (int k = 0; k < 30; k++)
            must_equal(finish(fs[k]).err, 0);
        runner_join(&runner);
        for (int k = 0; k < 4; k++)
            must_refuse(loops[k], k < 2 ? pools[k] : NULL);
        if (i)
            must_work_anew(); /* before they are closed */
        for (int k = 0; k < 4; k++)
            close_loop(loops[k]);
        for (int k = 0; k < 2; k++)
            close_pool(pools[k]);
    }
    must_work_anew();
    must_equal(duet_shutdown(SURELY, NULL), 0);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

static void pass_gate(void *gate)
{
    gate_pass(gate);
}

/* All are asked before the first is waited for. */
thread_test(a_shutdown_names_each_of_many_loops_that_are_held_up)
{
    enum {
        LOOPS = 10
    };
    struct gate gate = GATE_INIT;
    duet_loop *loops[LOOPS];
    duet_receipt *receipt = NULL;
    for (int i = 0; i < LOOPS; i++) {
        loops[i] = start_loop();
        must_equal(duet_call_soon(loops[i], pass_gate, &gate), 0);
    }
    gate_await_arrivals(&gate, LOOPS);
    must_equal(duet_shutdown(duet_ms(20), &receipt), -ETIME);
    must(receipt != NULL);
    must_equal(receipt->count, LOOPS);
    duet_receipt_free(receipt);
    gate_open(&gate);
    for (int i = 0; i < LOOPS; i++)
        close_loop(loops[i]);
    must_equal(duet_shutdown(SURELY, NULL), 0);
}

/* bridge.h: handles of what was shut down can also be shut down, one by one. */
thread_test(after_a_shutdown_the_handles_can_be_shut_down_too)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_receipt *receipt = NULL;
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int rc = duet_shutdown(SURELY, &receipt); /* once more */
    must_be_empty(rc, receipt);
    rc = duet_loop_shutdown(loop, SURELY, &receipt);
    must_be_empty(rc, receipt);
    rc = duet_pool_shutdown(pool, SURELY, &receipt);
    must_be_empty(rc, receipt);
}

struct main_run {
    struct thread thread;
    struct tally tally;
    duet_result result;
    int rc;
};

static void run_until_cancelled(void *arg)
{
    struct main_run *run = arg;
    run->rc = duet_run(tally_cancelled, &run->tally, &run->result);
}

/* bridge.h: what waits is cancelled, on a loop of duet_run() too. */
thread_test(shutdown_cancels_what_does_not_end_everywhere)
{
    const duet_opts interrupted = {.name = "reader", .flags = DUET_INTERRUPT};
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int fds = count_fds();
    struct main_run run = {.rc = 1};
    struct tally waiting = {0}, behind = {0};
    struct reader reader;
    duet_receipt *receipt = NULL;
    duet_loop *loop = start_loop(), *never = open_loop("never run");
    duet_pool *pool = open_pool(2);
    reader_open(&reader);
    thread_start(&run.thread, run_until_cancelled, &run);
    duet_future *fs[] = {
        duet_submit_with(loop, tally_cancelled, &waiting, &tally_opts),
        duet_pool_submit_with(pool, tally_cancelled, &waiting, &tally_opts),
        duet_pool_submit_with(duet_pool_default(), tally_cancelled, &waiting, &tally_opts),
        duet_submit_with(never, tally_run, &behind, &tally_opts),
    };
    duet_future *reading = duet_pool_submit_with(pool, read_one, &reader, &interrupted);
    await_count(&waiting.begun, 3);
    await_count(&run.tally.begun, 1);
    await_count(&reader.begun, 1);
    int rc = duet_shutdown(SOON, &receipt);
    must_be_empty(rc, receipt);
    thread_join(&run.thread);
    must_equal(run.rc, 0);
    must_equal(run.result.err, -ECANCELED);
    must_equal(atomic_load(&run.tally.cancelled), 1);
    must_equal(atomic_load(&waiting.cancelled), 3);
    must_equal(atomic_load(&waiting.dropped), 3);
    must_equal(atomic_load(&behind.ran), 0);
    must_equal(atomic_load(&behind.dropped), 1);
    for (int i = 0; i < 4; i++)
        must_equal(finish(fs[i]).err, -ECANCELED);
    must_equal(duet_as_i64(finish(reading)), 12);
    must_equal(reader.rc, EINTR);
    close_loop(loop);
    close_loop(never);
    close_pool(pool);
    reader_close(&reader);
    must_work_anew();
    must_equal(duet_shutdown(SURELY, NULL), 0);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* bridge.h: the rest is left behind and listed, wherever it is. */
static void leave_all_kinds_behind(duet_deadline by, bool want_receipt)
{
    struct gate gate = GATE_INIT;
    struct reader reader;
    struct stubborn coroutine, job;
    struct tally queued = {0};
    duet_receipt *receipt = NULL;
    const duet_opts opts[] = {{.name = "at the gate"}, {.name = "in a read"}};
    duet_loop *loop = start_named_loop("main");
    duet_pool *pool = open_named_pool("db", 1), *files = open_named_pool("files", 1);
    log_capture();
    reader_open(&reader);
    duet_future *at_gate = duet_pool_submit_with(pool, gate_pass_job, &gate, &opts[0]);
    gate_await_arrivals(&gate, 1);
    duet_future *in_read = duet_pool_submit_with(files, read_one, &reader, &opts[1]);
    await_count(&reader.begun, 1);
    duet_future *stuck = start_stubborn(loop, NULL, &coroutine, "in a shield");
    duet_future *asleep = start_stubborn(NULL, duet_pool_default(), &job, "asleep");
    duet_future *behind = duet_pool_submit_with(pool, tally_run, &queued, &tally_opts);
    int rc = duet_shutdown(by, want_receipt ? &receipt : NULL);
    must_equal(rc, -ETIME);
    if (want_receipt) {
        must_have_left(rc, receipt, 4);
        must_list(receipt, "job", "at the gate", "pool 'db'", NULL);
        must_list(receipt, "job", "in a read", "pool 'files'", NULL);
        must_list(receipt, "coroutine", "in a shield", "loop 'main'", NULL);
        must(strcmp(find_left(receipt, "asleep")->kind, "job") == 0);
    }
    must(log_has("at the gate"));
    must(log_has("in a read"));
    must(log_has("in a shield"));
    must(log_has("asleep"));
    log_release();
    duet_receipt_free(receipt);
    must_equal(finish(behind).err, -ECANCELED);
    must_equal(atomic_load(&queued.ran), 0);
    must_refuse(loop, pool);
    must_refuse(NULL, files);
    must_work_anew(); /* beside them */
    must(!duet_future_settled(at_gate));
    must(!duet_future_settled(in_read));
    gate_open(&gate);
    must_equal(write(reader.fds[1], "x", 1), 1);
    must_equal(finish(at_gate).err, 0);
    must_equal(duet_as_i64(finish(in_read)), 12);
    must_equal(reader.rc, 0);
    release_stubborn(&coroutine, stuck);
    release_stubborn(&job, asleep);
    close_loop(loop);
    close_pool(pool);
    close_pool(files);
    reader_close(&reader);
}

thread_test(shutdown_lists_what_it_left_behind_everywhere)
{
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int fds = count_fds();
    leave_all_kinds_behind(duet_ms(30), true);
    leave_all_kinds_behind(duet_ms(30), false);
    leave_all_kinds_behind(duet_sec(1), true);
    must_equal(duet_shutdown(SURELY, NULL), 0);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

/* bridge.h: who has no time leaves behind even what would end, but all of it ends. */
thread_test(a_shutdown_without_time_leaves_nothing_for_ever)
{
    const duet_deadline deadlines[] = {DUET_NOW, {INT64_MIN}, duet_us(50)};
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int fds = count_fds();
    log_capture();
    for (int i = 0; i < 30; i++) {
        struct tally tally = {0};
        struct gate gate = GATE_INIT;
        duet_receipt *receipt = NULL;
        duet_loop *loop = start_loop();
        duet_pool *pool = open_named_pool("db", 1);
        const duet_opts named = {.name = "at the gate"};
        duet_future *at_gate = duet_pool_submit_with(pool, gate_pass_job, &gate, &named);
        gate_await_arrivals(&gate, 1);
        duet_future *f = duet_submit_with(loop, tally_cancelled, &tally, &tally_opts);
        must_equal(duet_shutdown(deadlines[i % 3], &receipt), -ETIME);
        must(receipt != NULL);
        must_list(receipt, "job", "at the gate", "pool 'db'", NULL);
        duet_receipt_free(receipt);
        must_equal(finish(f).err, -ECANCELED);
        must_equal(atomic_load(&tally.dropped), 1);
        gate_open(&gate);
        must_equal(finish(at_gate).err, 0);
        close_loop(loop);
        close_pool(pool);
    }
    log_release();
    must_equal(duet_shutdown(SURELY, NULL), 0);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

static duet_result shut_all_down_here(void *arg)
{
    duet_receipt *receipt = NULL;
    (void)arg;
    must_equal(duet_shutdown(SURELY, &receipt), -EDEADLK);
    must_equal(duet_shutdown(DUET_NOW, NULL), -EDEADLK);
    must(receipt == NULL);
    must(!duet_cancelled());
    return duet_i64(16);
}

static void shut_all_down_in_callback(void *arg)
{
    (void)shut_all_down_here(arg);
}

/* bridge.h: then nothing was done. */
thread_test(shutdown_is_for_plain_threads)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_result r;
    must_equal(duet_as_i64(finish(duet_submit(loop, shut_all_down_here, NULL))), 16);
    must_equal(duet_as_i64(finish(duet_pool_submit(pool, shut_all_down_here, NULL))), 16);
    must_equal(duet_offload(NULL, shut_all_down_here, NULL, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 16);
    run_bare(loop, shut_all_down_in_callback, NULL);
    run_in_coroutine(shut_all_down_here, NULL);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    close_loop(loop);
    close_pool(pool);
}

struct user {
    struct thread thread;
    duet_loop *loop;
    duet_pool *pool;
    struct tally tally;
    int rounds, refused, submitted;
};

/* Uses loop and pool until they refuse. */
static void use_until_refused(void *arg)
{
    struct user *user = arg;
    for (int in_row = 0; in_row < 10;) {
        duet_future *f =
            user->submitted % 2
                ? duet_submit_with(user->loop, tally_run, &user->tally, &tally_opts)
                : duet_pool_submit_with(user->pool, tally_run, &user->tally, &tally_opts);
        user->submitted++;
        int err = finish(f).err;
        must(err == 0 || err == -ESHUTDOWN);
        in_row = err == -ESHUTDOWN ? in_row + 1 : 0;
        user->refused += err != 0;
    }
}

/* bridge.h: refuses. Every submission that races it has one outcome. */
thread_test(submissions_that_race_a_shutdown_end_once)
{
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int fds = count_fds();
    for (int i = test_rounds(100); i > 0; i--) {
        struct user users[3];
        duet_receipt *receipt = NULL;
        duet_loop *loop = start_loop();
        duet_pool *pool = open_pool(2);
        for (int k = 0; k < 3; k++) {
            users[k] = (struct user){.loop = loop, .pool = pool};
            thread_start(&users[k].thread, use_until_refused, &users[k]);
        }
        await_count(&users[i % 3].tally.ran, i % 7);
        int rc = duet_shutdown(SURELY, &receipt);
        must_be_empty(rc, receipt);
        for (int k = 0; k < 3; k++) {
            thread_join(&users[k].thread);
            must_equal(atomic_load(&users[k].tally.dropped), users[k].submitted);
            must_equal(atomic_load(&users[k].tally.ran), users[k].submitted - users[k].refused);
        }
        close_loop(loop);
        close_pool(pool);
    }
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

static void shut_all_down(void *arg)
{
    struct shutter *s = arg;
    s->rc = duet_shutdown(s->by, &s->receipt);
}

/* [any]: from several threads at once, beside who closes what is shut down. */
thread_test(shutdowns_and_closes_may_race)
{
    must_equal(duet_shutdown(SURELY, NULL), 0);
    int fds = count_fds();
    for (int i = test_rounds(60); i > 0; i--) {
        struct shutter shutters[3] = {{.by = SURELY}, {.by = SURELY}, {.by = SURELY}};
        struct tally tally = {0};
        duet_loop *loop = start_loop(), *other = start_loop();
        duet_pool *pool = open_pool(2), *second = open_pool(1);
        duet_future *fs[4] = {
            duet_submit_with(loop, tally_a_little, &tally, &tally_opts),
            duet_pool_submit_with(pool, tally_a_little, &tally, &tally_opts),
            duet_submit_with(other, tally_run, &tally, &tally_opts),
            duet_pool_submit_with(duet_pool_default(), tally_run, &tally, &tally_opts),
        };
        for (int k = 0; k < 3; k++)
            thread_start(&shutters[k].thread, shut_all_down, &shutters[k]);
        must_equal(duet_loop_shutdown(other, SURELY, NULL), 0);
        must_equal(duet_pool_shutdown(second, SURELY, NULL), 0);
        for (int k = 0; k < 3; k++) {
            thread_join(&shutters[k].thread);
            must_be_empty(shutters[k].rc, shutters[k].receipt);
        }
        for (int k = 0; k < 4; k++)
            must_equal(finish(fs[k]).err, 0);
        must_equal(atomic_load(&tally.ran), 4);
        must_equal(atomic_load(&tally.dropped), 4);
        close_loop(loop);
        close_pool(pool);
    }
    must_equal(duet_shutdown(SURELY, NULL), 0);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_receipt_is_freed_like_one),
        cmocka_unit_test(an_idle_pool_shuts_down_with_an_empty_receipt),
        cmocka_unit_test(the_shutdown_of_a_pool_lets_what_was_accepted_end),
        cmocka_unit_test(the_shutdown_of_a_pool_cancels_what_does_not_end),
        cmocka_unit_test(the_shutdown_of_a_pool_lists_the_jobs_that_it_left_behind),
        cmocka_unit_test(behind_a_stuck_job_the_queued_are_cancelled),
        cmocka_unit_test(a_pool_that_was_left_behind_frees_itself),
        cmocka_unit_test(an_abandoned_job_is_on_the_receipt),
        cmocka_unit_test(while_a_pool_shuts_down_new_jobs_are_refused),
        cmocka_unit_test(while_a_coroutine_shuts_a_pool_down_its_loop_keeps_turning),
        cmocka_unit_test(a_pool_cannot_be_shut_down_from_its_own_job_nor_from_a_bare_callback),
        cmocka_unit_test(an_idle_loop_shuts_down_with_an_empty_receipt),
        cmocka_unit_test(a_loop_that_has_no_time_ends_all_the_same),
        cmocka_unit_test(the_shutdown_of_a_loop_lets_what_is_there_end),
        cmocka_unit_test(the_shutdown_of_a_loop_cancels_what_does_not_end),
        cmocka_unit_test(a_loop_that_nobody_runs_is_shut_down_too),
        cmocka_unit_test(the_shutdown_of_a_loop_lists_the_coroutines_that_it_left_behind),
        cmocka_unit_test(a_receipt_says_who_waits_for_a_moment),
        cmocka_unit_test(a_loop_that_is_blocked_is_left_behind_in_time),
        cmocka_unit_test(while_a_loop_shuts_down_new_work_is_refused),
        cmocka_unit_test(a_loop_cannot_be_shut_down_from_its_own_thread_nor_from_a_bare_callback),
        cmocka_unit_test(where_nothing_is_there_is_nothing_to_shut_down),
        cmocka_unit_test(shutdown_ends_all_loops_and_pools_whose_handles_are_closed_as_ever),
        cmocka_unit_test(a_shutdown_names_each_of_many_loops_that_are_held_up),
        cmocka_unit_test(after_a_shutdown_the_handles_can_be_shut_down_too),
        cmocka_unit_test(shutdown_cancels_what_does_not_end_everywhere),
        cmocka_unit_test(shutdown_lists_what_it_left_behind_everywhere),
        cmocka_unit_test(a_shutdown_without_time_leaves_nothing_for_ever),
        cmocka_unit_test(shutdown_is_for_plain_threads),
        cmocka_unit_test(submissions_that_race_a_shutdown_end_once),
        cmocka_unit_test(shutdowns_and_closes_may_race),
    };
    count_idle_threads();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
