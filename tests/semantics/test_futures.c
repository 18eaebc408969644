/* Futures and promises: items 1 to 10, waiting for several, taking and closing. */
#include "duet_test.h"
#include "shared.h"

#include <sched.h>

/* Where a wait must fail at once: less than SURELY, so that who waits for the result sees it. */
#define SOON duet_sec(20)

static duet_future *promise_with(const char *name, void (*drop_result)(void *ptr))
{
    duet_opts opts = {.name = name, .drop_result = drop_result};
    duet_future *f;
    must_equal(duet_future_open_with(&f, &opts), 0);
    return f;
}

static pthread_t start(void *(*fn)(void *arg), void *arg)
{
    pthread_t id;
    must_equal(pthread_create(&id, NULL, fn, arg), 0);
    return id;
}

static void join(pthread_t id)
{
    must_equal(pthread_join(id, NULL), 0);
}

/* Until a counter has come to n; for what must be there before the test goes on. */
static void await_count(atomic_int *counter, int n)
{
    for (int64_t limit = SURELY.ns; atomic_load(counter) < n; sched_yield())
        must(duet_now_ns() < limit);
}

/* Until f has settled, without a look at it. In a coroutine. */
static void await_settled_unseen(const duet_future *f)
{
    for (int64_t limit = SURELY.ns; !duet_future_settled(f);) {
        must(duet_now_ns() < limit);
        must_equal(duet_yield(), 0);
    }
}

static duet_result run_check(void *arg)
{
    (*(void (**)(void))arg)();
    return duet_ok();
}

/* The same wait by each kind of waiter: a plain thread, a coroutine, a pool job. */
static void by_every_kind(void (*check)(void))
{
    duet_pool *pool = open_pool(1);
    check();
    run_in_coroutine(run_check, &check);
    must_equal(duet_offload(pool, run_check, &check, SURELY, NULL), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

/* ---- Settling ---- */

/* 1 */
thread_test(settling_twice_is_refused_and_changes_nothing)
{
    duet_future *f = open_promise();
    must(!duet_future_settled(f));
    must_equal(duet_future_settle(f, duet_i64(1)), 0);
    must(duet_future_settled(f));
    must_equal(duet_future_settle(f, duet_i64(2)), -EALREADY);
    must_equal(duet_future_settle(f, duet_err(-EIO)), -EALREADY);
    must_equal(duet_as_i64(duet_future_result(f)), 1);
    duet_future_unref(f);
}

/* 1, 6 */
thread_test(a_refused_settle_leaves_the_pointer_with_the_caller)
{
    atomic_int first = 0, second = 0;
    duet_future *f = promise_with(NULL, count_drop);
    must_equal(duet_future_settle(f, duet_ptr(&first)), 0);
    must_equal(duet_future_settle(f, duet_ptr(&second)), -EALREADY);
    duet_future_unref(f);
    must_equal(first, 1);
    must_equal(second, 0);
}

/* 1 */
thread_test(a_positive_error_is_refused_and_the_promise_stays_open)
{
    duet_future *f = open_promise();
    duet_result positive = duet_ok();
    positive.err = EIO;
    must_equal(duet_future_settle(f, positive), -EINVAL);
    must(!duet_future_settled(f));
    must_equal(duet_future_settle(f, duet_i64(3)), 0);
    must_equal(duet_as_i64(duet_future_result(f)), 3);
    duet_future_unref(f);
}

/* 1 */
coroutine_test(the_future_of_a_work_cannot_be_settled_by_hand)
{
    duet_pool *pool = open_pool(1);
    atomic_int calls = 0;
    duet_future *works[] = {duet_spawn(sleep_long, NULL), duet_pool_submit(pool, sleep_long, NULL),
                            duet_call_at(duet_loop_self(), duet_sec(3600), count_drop, &calls)};
    for (size_t i = 0; i < 3; i++) {
        duet_result r;
        must_equal(duet_future_settle(works[i], duet_i64(1)), -EINVAL);
        must(!duet_future_settled(works[i]));
        must_equal(duet_future_close(works[i], &r), 0);
        must_equal(r.err, -ECANCELED);
    }
    must_equal(calls, 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    return duet_ok();
}

/* ---- Callbacks ---- */

/* Callbacks write down who they are, and where they ran. */
struct journal {
    int size;
    int entries[64];
    pthread_t thread;
    duet_loop *loop;
    duet_future *done; /* settled by the last one */
};

struct note {
    struct journal *journal;
    int number;
    bool last;
};

static void write_down(void *arg)
{
    struct note *note = arg;
    struct journal *journal = note->journal;
    must(journal->size < 64);
    journal->entries[journal->size++] = note->number;
    journal->thread = pthread_self();
    journal->loop = duet_loop_self();
    if (note->last)
        must_equal(duet_future_settle(journal->done, duet_ok()), 0);
}

static void make_notes(struct note *notes, int n, struct journal *journal)
{
    for (int i = 0; i < n; i++)
        notes[i] = (struct note){journal, i, i == n - 1};
}

static void must_be_in_order(const struct journal *journal, int n)
{
    must_equal(journal->size, n);
    for (int i = 0; i < n; i++)
        must_equal(journal->entries[i], i);
}

/* 2 */
coroutine_test(callbacks_run_in_a_later_turn_in_the_order_added)
{
    struct journal journal = {.done = open_promise()};
    struct note notes[20];
    duet_future *f = open_promise();
    make_notes(notes, 20, &journal);
    for (int i = 0; i < 20; i++)
        must_equal(duet_future_then(f, duet_loop_self(), write_down, &notes[i], NULL), 0);
    must_equal(duet_future_settle(f, duet_ok()), 0);
    must_equal(journal.size, 0);
    must_equal(error_of(journal.done), 0);
    must_be_in_order(&journal, 20);
    must(journal.loop == duet_loop_self());
    duet_future_unref(f);
    duet_future_unref(journal.done);
    return duet_ok();
}

/* 3 */
coroutine_test(a_callback_added_after_the_settling_runs_too_but_not_inline)
{
    struct journal journal = {.done = open_promise()};
    struct note note = {&journal, 0, true};
    duet_future *f = open_promise();
    must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
    must_equal(duet_future_then(f, duet_loop_self(), write_down, &note, NULL), 0);
    must_equal(journal.size, 0);
    must_equal(error_of(journal.done), 0);
    must_be_in_order(&journal, 1);
    must_equal(error_of(f), -EIO);
    duet_future_unref(f);
    duet_future_unref(journal.done);
    return duet_ok();
}

static duet_result own_thread(void *id)
{
    *(pthread_t *)id = pthread_self();
    return duet_ok();
}

/* 2, 3 */
thread_test(a_callback_runs_on_its_loops_thread_whoever_settles_or_adds)
{
    duet_loop *loop = start_loop();
    pthread_t loop_thread;
    must_equal(duet_call(loop, own_thread, &loop_thread, SURELY, NULL), 0);
    for (int late = 0; late < 2; late++) {
        struct journal journal = {.done = open_promise()};
        struct note note = {&journal, 0, true};
        duet_future *f = open_promise();
        if (late)
            must_equal(duet_future_settle(f, duet_ok()), 0);
        must_equal(duet_future_then(f, loop, write_down, &note, NULL), 0);
        if (!late)
            must_equal(duet_future_settle(f, duet_ok()), 0);
        must_equal(error_of(journal.done), 0);
        must(pthread_equal(journal.thread, loop_thread));
        must(journal.loop == loop);
        duet_future_unref(f);
        duet_future_unref(journal.done);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static void block_loop(void *gate)
{
    gate_pass(gate);
}

/* 2, 3: once with the loop held up, so that all pile up, and often without, so that they race. */
thread_test(a_late_callback_does_not_overtake_the_earlier_ones)
{
    duet_loop *loop = start_loop();
    for (int round = 0; round < 200; round++) {
        struct gate gate = GATE_INIT;
        struct journal journal = {.done = open_promise()};
        struct note notes[12];
        duet_future *f = open_promise();
        make_notes(notes, 12, &journal);
        if (round == 0) {
            must_equal(duet_call_soon(loop, block_loop, &gate), 0);
            gate_await_arrivals(&gate, 1);
        }
        for (int i = 0; i < 12; i++) {
            if (i == 6)
                must_equal(duet_future_settle(f, duet_ok()), 0);
            must_equal(duet_future_then(f, loop, write_down, &notes[i], NULL), 0);
        }
        gate_open(&gate);
        must_equal(error_of(journal.done), 0);
        must_be_in_order(&journal, 12);
        duet_future_unref(f);
        duet_future_unref(journal.done);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

struct mutation {
    struct note notes[4];
    duet_future *f;
};

static void mutate(void *arg)
{
    struct mutation *m = arg;
    write_down(&m->notes[0]);
    /* The future has settled: number 1 cannot be taken back any more. */
    must(!duet_future_forget(m->f, write_down, &m->notes[1]));
    must(!duet_future_forget(m->f, mutate, m));
    must_equal(duet_future_then(m->f, duet_loop_self(), write_down, &m->notes[3], NULL), 0);
    must_equal(m->notes[0].journal->size, 1);
}

/* 4 */
coroutine_test(callbacks_may_add_and_forget_while_they_fire)
{
    struct journal journal = {.done = open_promise()};
    struct mutation m = {.f = open_promise()};
    make_notes(m.notes, 4, &journal);
    must_equal(duet_future_then(m.f, duet_loop_self(), mutate, &m, NULL), 0);
    must_equal(duet_future_then(m.f, duet_loop_self(), write_down, &m.notes[1], NULL), 0);
    must_equal(duet_future_then(m.f, duet_loop_self(), write_down, &m.notes[2], NULL), 0);
    must_equal(duet_future_settle(m.f, duet_ok()), 0);
    must_equal(error_of(journal.done), 0);
    must_be_in_order(&journal, 4);
    duet_future_unref(m.f);
    duet_future_unref(journal.done);
    return duet_ok();
}

/* 4 */
coroutine_test(forget_takes_back_the_first_match_only)
{
    struct journal journal = {.done = open_promise()};
    struct note a = {&journal, 0, false}, b = {&journal, 1, false}, end = {&journal, 2, true};
    duet_future *f = open_promise();
    duet_loop *loop = duet_loop_self();
    must_equal(duet_future_then(f, loop, write_down, &a, NULL), 0);
    must_equal(duet_future_then(f, loop, write_down, &b, NULL), 0);
    must_equal(duet_future_then(f, loop, write_down, &a, NULL), 0);
    must_equal(duet_future_then(f, loop, write_down, &end, NULL), 0);
    must(!duet_future_forget(f, block_loop, &a));
    must(!duet_future_forget(f, write_down, &journal));
    must(duet_future_forget(f, write_down, &a));
    must_equal(duet_future_settle(f, duet_ok()), 0);
    must(!duet_future_forget(f, write_down, &b));
    must_equal(error_of(journal.done), 0);
    must_equal(journal.size, 3);
    must_equal(journal.entries[0], 1);
    must_equal(journal.entries[1], 0);
    must_equal(journal.entries[2], 2);
    duet_future_unref(f);
    duet_future_unref(journal.done);
    return duet_ok();
}

static atomic_int drops_seen;
static pthread_t drop_thread;

static void note_drop(void *arg)
{
    (void)arg;
    drop_thread = pthread_self();
    atomic_fetch_add(&drops_seen, 1);
}

/* 4 */
thread_test(a_forgotten_callback_neither_runs_nor_is_dropped)
{
    duet_loop *loop = start_loop();
    atomic_int calls = 0;
    duet_future *f = open_promise();
    atomic_store(&drops_seen, 0);
    must_equal(duet_future_then(f, loop, count_drop, &calls, note_drop), 0);
    must_equal(duet_future_then(f, loop, count_drop, &calls, note_drop), 0);
    must(duet_future_forget(f, count_drop, &calls));
    must(duet_future_forget(f, count_drop, &calls));
    must(!duet_future_forget(f, count_drop, &calls));
    must_equal(duet_future_settle(f, duet_ok()), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    duet_future_unref(f);
    must_equal(calls, 0);
    must_equal(drops_seen, 0);
}

/* 2 */
thread_test(a_callback_that_ran_is_not_dropped)
{
    duet_loop *loop = start_loop();
    struct journal journal = {.done = open_promise()};
    struct note note = {&journal, 0, true};
    duet_future *f = open_promise();
    atomic_store(&drops_seen, 0);
    must_equal(duet_future_then(f, loop, write_down, &note, note_drop), 0);
    must_equal(duet_future_settle(f, duet_ok()), 0);
    must_equal(error_of(journal.done), 0);
    duet_future_unref(f);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(journal.size, 1);
    must_equal(drops_seen, 0);
    duet_future_unref(journal.done);
}

/* 2, 38 */
thread_test(a_callback_whose_loop_ended_first_is_dropped_once_by_the_settling_thread)
{
    duet_loop *loop = start_loop();
    atomic_int calls = 0;
    duet_future *f = open_promise();
    atomic_store(&drops_seen, 0);
    must_equal(duet_future_then(f, loop, count_drop, &calls, note_drop), 0);
    must_equal(duet_future_then(f, loop, count_drop, &calls, NULL), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(drops_seen, 0);
    must_equal(duet_future_settle(f, duet_ok()), 0);
    must_equal(drops_seen, 1);
    must(pthread_equal(drop_thread, pthread_self()));
    must_equal(calls, 0);
    duet_future_unref(f);
    must_equal(drops_seen, 1);
}

/* 38 */
thread_test(a_stopped_loop_refuses_callbacks_and_the_argument_stays_the_callers)
{
    duet_loop *loop = duet_loop_ref(start_loop());
    atomic_int calls = 0;
    duet_future *settled = open_promise(), *pending = open_promise();
    atomic_store(&drops_seen, 0);
    must_equal(duet_future_settle(settled, duet_ok()), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_future_then(settled, loop, count_drop, &calls, note_drop), -ESHUTDOWN);
    must_equal(duet_future_then(pending, loop, count_drop, &calls, note_drop), -ESHUTDOWN);
    must_equal(duet_future_settle(pending, duet_ok()), 0);
    duet_future_unref(settled);
    duet_future_unref(pending);
    duet_loop_unref(loop);
    must_equal(calls, 0);
    must_equal(drops_seen, 0);
}

/* 2 */
thread_test(callbacks_of_one_future_may_belong_to_several_loops)
{
    duet_loop *loops[3] = {start_loop(), start_loop(), start_loop()};
    struct journal journals[3];
    struct note notes[3][10];
    duet_future *f = open_promise();
    for (int l = 0; l < 3; l++) {
        journals[l] = (struct journal){.done = open_promise()};
        make_notes(notes[l], 10, &journals[l]);
    }
    for (int i = 0; i < 10; i++)
        for (int l = 0; l < 3; l++)
            must_equal(duet_future_then(f, loops[l], write_down, &notes[l][i], NULL), 0);
    must_equal(duet_future_settle(f, duet_ok()), 0);
    for (int l = 0; l < 3; l++) {
        must_equal(error_of(journals[l].done), 0);
        must_be_in_order(&journals[l], 10);
        must(journals[l].loop == loops[l]);
        duet_future_unref(journals[l].done);
        must_equal(duet_loop_close(loops[l], SURELY), 0);
    }
    duet_future_unref(f);
}

/* ---- Waking ---- */

#define ROUNDS 500
struct rally {
    duet_future *there[ROUNDS], *back[ROUNDS];
};

static duet_result return_balls(void *arg)
{
    struct rally *rally = arg;
    for (int i = 0; i < ROUNDS; i++) {
        duet_result r = duet_ok();
        must_equal(duet_future_wait(rally->there[i], SURELY, &r), 0);
        must_equal(duet_as_i64(r), i);
        must_equal(duet_future_settle(rally->back[i], duet_i64(-i)), 0);
    }
    return duet_ok();
}

/* A lost wake-up is an -ETIME here. */
static void play(struct rally *rally)
{
    for (int i = 0; i < ROUNDS; i++) {
        duet_result r = duet_ok();
        must_equal(duet_future_settle(rally->there[i], duet_i64(i)), 0);
        must_equal(duet_future_wait(rally->back[i], SURELY, &r), 0);
        must_equal(duet_as_i64(r), -i);
        duet_future_unref(rally->there[i]);
        duet_future_unref(rally->back[i]);
    }
}

static struct rally *rally_new(void)
{
    struct rally *rally = malloc(sizeof *rally);
    must(rally != NULL);
    for (int i = 0; i < ROUNDS; i++) {
        rally->there[i] = open_promise();
        rally->back[i] = open_promise();
    }
    return rally;
}

/* 5 */
thread_test(settling_from_a_thread_wakes_a_coroutine_at_once_and_back)
{
    duet_loop *loop = start_loop();
    struct rally *rally = rally_new();
    duet_future *partner = duet_submit(loop, return_balls, rally);
    play(rally);
    must_equal(error_of(partner), 0);
    duet_future_unref(partner);
    must_equal(duet_loop_close(loop, SURELY), 0);
    free(rally);
}

static duet_result play_body(void *rally)
{
    play(rally);
    return duet_ok();
}

/* 5 */
thread_test(settling_wakes_coroutines_of_another_loop)
{
    duet_loop *loop = start_loop();
    struct rally *rally = rally_new();
    duet_future *partner = duet_submit(loop, return_balls, rally);
    run_in_coroutine(play_body, rally);
    must_equal(error_of(partner), 0);
    duet_future_unref(partner);
    must_equal(duet_loop_close(loop, SURELY), 0);
    free(rally);
}

/* 5 */
thread_test(settling_wakes_a_pool_job)
{
    duet_pool *pool = open_pool(1);
    struct rally *rally = rally_new();
    duet_future *partner = duet_pool_submit(pool, return_balls, rally);
    run_in_coroutine(play_body, rally);
    must_equal(error_of(partner), 0);
    duet_future_unref(partner);
    must_equal(duet_pool_close(pool, SURELY), 0);
    free(rally);
}

/* ---- Many waiters, one value ---- */

struct audience {
    duet_future *f;
    atomic_int arrived;
    void *expected;
};

static duet_result attend(void *arg)
{
    struct audience *audience = arg;
    duet_result r = duet_ok();
    atomic_fetch_add(&audience->arrived, 1);
    must_equal(duet_future_wait(audience->f, SURELY, &r), 0);
    must(duet_as_ptr(r) == audience->expected);
    must(duet_as_ptr(duet_future_result(audience->f)) == audience->expected);
    must_equal(duet_future_wait(audience->f, DUET_NOW, &r), 0);
    must(duet_as_ptr(r) == audience->expected);
    return duet_ok();
}

static void *attend_thread(void *audience)
{
    attend(audience);
    return NULL;
}

/* 6 */
thread_test(any_number_of_waiters_of_every_kind_see_one_value_which_is_dropped_once)
{
    enum {
        THREADS = 4,
        JOBS = 2,
        COROUTINES = 20,
        ALL = THREADS + JOBS + 2 * COROUTINES
    };
    atomic_int drops = 0;
    struct audience audience = {.f = promise_with(NULL, count_drop), .expected = &drops};
    duet_loop *loops[2] = {start_loop(), start_loop()};
    duet_pool *pool = open_pool(JOBS);
    duet_future *works[JOBS + 2 * COROUTINES];
    pthread_t threads[THREADS];
    size_t n = 0;
    for (int i = 0; i < THREADS; i++)
        threads[i] = start(attend_thread, &audience);
    for (int i = 0; i < JOBS; i++)
        works[n++] = duet_pool_submit(pool, attend, &audience);
    for (int i = 0; i < 2 * COROUTINES; i++)
        works[n++] = duet_submit(loops[i % 2], attend, &audience);
    await_count(&audience.arrived, ALL);
    must_equal(duet_future_settle(audience.f, duet_ptr(&drops)), 0);
    for (int i = 0; i < THREADS; i++)
        join(threads[i]);
    for (size_t i = 0; i < n; i++) {
        must_equal(error_of(works[i]), 0);
        duet_future_unref(works[i]);
    }
    must_equal(drops, 0);
    duet_future_unref(audience.f);
    must_equal(drops, 1);
    for (int i = 0; i < 2; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

/* 6 */
thread_test(the_value_lives_until_the_last_unref)
{
    atomic_int drops = 0;
    duet_future *f = promise_with(NULL, count_drop);
    must(duet_future_ref(f) == f);
    must(duet_future_ref(f) == f);
    must_equal(duet_future_settle(f, duet_ptr(&drops)), 0);
    duet_future_unref(f);
    duet_future_unref(f);
    must_equal(drops, 0);
    must(duet_as_ptr(duet_future_result(f)) == &drops);
    duet_future_unref(f);
    must_equal(drops, 1);
    duet_future_unref(NULL);
}

/* 6: the value of work that nobody waits for. */
thread_test(the_value_of_abandoned_work_is_dropped_once)
{
    atomic_int by_coroutine = 0, by_job = 0;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_opts opts = {.drop_result = count_drop};
    duet_future_unref(duet_submit_with(loop, return_arg, &by_coroutine, &opts));
    duet_future_unref(duet_pool_submit_with(pool, return_arg, &by_job, &opts));
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0); /* FIFO: the first has run */
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(by_coroutine, 1);
    must_equal(by_job, 1);
}

/* 6: of a failure, or a value that is no pointer, nothing is dropped. */
thread_test(only_a_pointer_is_dropped)
{
    duet_future *number = promise_with(NULL, note_drop), *failure = promise_with(NULL, note_drop);
    atomic_store(&drops_seen, 0);
    must_equal(duet_future_settle(number, duet_i64(1)), 0);
    must_equal(duet_future_settle(failure, duet_err(-EIO)), 0);
    must_equal(error_of(failure), -EIO);
    duet_future_unref(number);
    duet_future_unref(failure);
    must_equal(drops_seen, 0);
}

struct race {
    struct gate gate;
    duet_future *f;
    void *value;
    atomic_int winners, losers;
};

static void *race_to_take(void *arg)
{
    struct race *race = arg;
    duet_result r = duet_ok();
    gate_pass(&race->gate);
    int rc = duet_future_take(race->f, &r);
    if (rc == 0) {
        must(duet_as_ptr(r) == race->value);
        atomic_fetch_add(&race->winners, 1);
    } else {
        must_equal(rc, -EALREADY);
        atomic_fetch_add(&race->losers, 1);
    }
    return NULL;
}

/* 6 */
thread_test(of_many_takers_exactly_one_takes_and_then_nothing_is_dropped)
{
    for (int round = 0; round < 50; round++) {
        atomic_int drops = 0;
        struct race race = {
            .gate = GATE_INIT, .f = promise_with(NULL, count_drop), .value = &drops};
        pthread_t threads[4];
        must_equal(duet_future_settle(race.f, duet_ptr(&drops)), 0);
        for (int i = 0; i < 4; i++)
            threads[i] = start(race_to_take, &race);
        gate_await_arrivals(&race.gate, 4);
        gate_open(&race.gate);
        for (int i = 0; i < 4; i++)
            join(threads[i]);
        must_equal(race.winners, 1);
        must_equal(race.losers, 3);
        must(duet_as_ptr(duet_future_result(race.f)) == &drops); /* a look is still possible */
        duet_future_unref(race.f);
        must_equal(drops, 0);
    }
}

struct visibility {
    duet_future *f;
    long payload[8];
};

static void *settle_payload(void *arg)
{
    struct visibility *v = arg;
    for (long i = 0; i < 8; i++)
        v->payload[i] = i + 1;
    must_equal(duet_future_settle(v->f, duet_ptr(v->payload)), 0);
    return NULL;
}

/* 7 */
thread_test(settled_means_that_the_payload_is_visible)
{
    for (int round = 0; round < 100; round++) {
        struct visibility v = {.f = open_promise()};
        pthread_t thread = start(settle_payload, &v);
        for (int64_t limit = SURELY.ns; !duet_future_settled(v.f); sched_yield())
            must(duet_now_ns() < limit);
        long *payload = duet_as_ptr(duet_future_result(v.f));
        for (long i = 0; i < 8; i++)
            must_equal(payload[i], i + 1);
        join(thread);
        duet_future_unref(v.f);
    }
}

/* ---- Failures that nobody looked at ---- */

static duet_result abandon_failing_coroutine(void *unused)
{
    (void)unused;
    duet_future *f = duet_spawn_with(fail_eio, NULL, &(duet_opts){.name = "lost-coroutine"});
    await_settled_unseen(f);
    must(!log_has("lost-coroutine"));
    duet_future_unref(f);
    return duet_ok();
}

/* 8 */
thread_test(a_failure_that_nobody_saw_is_reported_once_by_name)
{
    duet_pool *pool = open_pool(1);
    log_capture();
    duet_future *f = promise_with("lost-promise", NULL);
    must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
    must(duet_future_ref(f) == f);
    duet_future_unref(f);
    must(!log_has("lost-promise"));
    duet_future_unref(f);
    must_equal(log_count("lost-promise"), 1);
    run_in_coroutine(abandon_failing_coroutine, NULL);
    must_equal(log_count("lost-coroutine"), 1);
    duet_future_unref(
        duet_pool_submit_with(pool, fail_eio, NULL, &(duet_opts){.name = "lost-job"}));
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(log_count("lost-job"), 1);
    log_release();
}

/* 8: the work ends long after its handle was let go, on another thread. */
thread_test(a_failure_after_the_last_handle_is_reported_too)
{
    duet_loop *loop = start_loop();
    log_capture();
    duet_future_unref(
        duet_submit_with(loop, fail_eio, NULL, &(duet_opts){.name = "lost-elsewhere"}));
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(log_count("lost-elsewhere"), 1);
    log_release();
}

/* 8 */
thread_test(a_failure_that_somebody_saw_is_not_reported)
{
    duet_result r;
    duet_future *fs[5];
    log_capture();
    for (int i = 0; i < 5; i++) {
        fs[i] = promise_with("seen-failure", NULL);
        must_equal(duet_future_settle(fs[i], duet_err(-EIO)), 0);
    }
    must_equal(duet_future_wait(fs[0], DUET_NOW, NULL), 0);
    must_equal(duet_future_result(fs[1]).err, -EIO);
    must_equal(duet_future_take(fs[2], &r), 0);
    must_equal(duet_gather(&fs[3], 1, DUET_NOW, &r), 0);
    for (int i = 0; i < 4; i++)
        duet_future_unref(fs[i]);
    must_equal(duet_future_close(fs[4], &r), 0);
    must_equal(r.err, -EIO);
    must_equal(log_count("seen-failure"), 0);
    log_release();
}

/* 8, 33 */
thread_test(a_wait_that_timed_out_has_not_seen_the_failure)
{
    duet_result r[2];
    log_capture();
    duet_future *f = promise_with("unseen-failure", NULL), *other = open_promise();
    duet_future *both[] = {f, other};
    must_equal(duet_future_wait(f, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_take(f, r), -EAGAIN);
    must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
    must_equal(duet_gather(both, 2, DUET_NOW, r), -ETIME);
    must(duet_future_settled(f));
    duet_future_unref(f);
    must_equal(log_count("unseen-failure"), 1);
    duet_future_unref(other);
    log_release();
}

static duet_result cancel_unseen(void *unused)
{
    (void)unused;
    duet_opts opts = {.name = "was-cancelled"};
    duet_future *unstarted = duet_spawn_with(sleep_long, NULL, &opts);
    duet_future *sleeping = duet_spawn_with(sleep_long, NULL, &opts);
    duet_future_cancel(unstarted);
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    duet_future_cancel(sleeping);
    await_settled_unseen(unstarted);
    await_settled_unseen(sleeping);
    duet_future_unref(unstarted);
    duet_future_unref(sleeping);
    duet_future_unref(duet_spawn_with(sleep_long, NULL, &opts)); /* cancelled by the end */
    return duet_ok();
}

/* 8 */
thread_test(a_cancellation_is_never_reported)
{
    duet_pool *pool = open_pool(1);
    log_capture();
    run_in_coroutine(cancel_unseen, NULL);
    duet_future *f = promise_with("was-cancelled", NULL);
    duet_future_cancel(f);
    duet_future_unref(f);
    duet_future_unref(promise_with("was-cancelled", NULL));
    f = duet_pool_submit_with(pool, sleep_long, NULL, &(duet_opts){.name = "was-cancelled"});
    duet_future_cancel(f);
    duet_future_unref(f);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(log_count("was-cancelled"), 0);
    log_release();
}

/* ---- Waits that could never end ---- */

struct self {
    duet_future *me, *other;
    struct gate gate;
};

static duet_result wait_for_oneself(void *arg)
{
    struct self *self = arg;
    duet_result r;
    gate_pass(&self->gate);
    must_equal(duet_future_wait(self->me, SOON, &r), -EDEADLK);
    must_equal(duet_future_wait(self->me, DUET_NEVER, NULL), -EDEADLK);
    return duet_i64(5);
}

static duet_result gather_with_oneself(void *arg)
{
    struct self *self = arg;
    duet_result r[2];
    gate_pass(&self->gate);
    duet_future *me_first[] = {self->me, self->other}, *me_last[] = {self->other, self->me};
    must_equal(duet_gather(me_first, 2, SOON, r), -EDEADLK);
    must_equal(duet_future_wait_many(me_first, 2, DUET_UNTIL_ALL, SOON, NULL), -EDEADLK);
    must_equal(duet_gather(me_last, 2, SOON, r), -EDEADLK);
    must_equal(duet_future_wait_many(me_last, 2, DUET_UNTIL_ALL, SOON, NULL), -EDEADLK);
    return duet_i64(5);
}

static duet_result first_of_oneself(void *arg)
{
    struct self *self = arg;
    gate_pass(&self->gate);
    duet_future *twice[] = {self->me, self->me};
    must_equal(duet_future_wait_many(&self->me, 1, DUET_UNTIL_ANY, SOON, NULL), -EDEADLK);
    must_equal(duet_future_wait_many(twice, 2, DUET_UNTIL_FAILURE, SOON, NULL), -EDEADLK);
    return duet_i64(5);
}

/* Runs fn as a coroutine and as a job, each of which gets its own future. */
static void with_oneself(duet_fn *fn)
{
    duet_pool *pool = open_pool(1);
    duet_loop *loop = start_loop();
    for (int i = 0; i < 2; i++) {
        struct self self = {.gate = GATE_INIT, .other = open_promise()};
        duet_result r = duet_ok();
        self.me = i == 0 ? duet_submit(loop, fn, &self) : duet_pool_submit(pool, fn, &self);
        gate_open(&self.gate);
        must_equal(duet_future_wait(self.me, SURELY, &r), 0);
        must_equal(duet_as_i64(r), 5);
        duet_future_unref(self.me);
        duet_future_unref(self.other);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 9 */
thread_test(waiting_for_oneself_is_an_error)
{
    with_oneself(wait_for_oneself);
}

/* 9 */
thread_test(gathering_oneself_is_an_error_whatever_the_others_do)
{
    with_oneself(gather_with_oneself);
}

/* 9 */
thread_test(waiting_for_the_first_of_nobody_but_oneself_is_an_error)
{
    with_oneself(first_of_oneself);
}

static duet_result wait_for_self_or_other(void *arg)
{
    struct self *self = arg;
    duet_future *both[] = {self->me, self->other};
    size_t index = 7;
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ANY, SURELY, &index), 0);
    must_equal(index, 1);
    return duet_ok();
}

/* 9: it can end, by the other one. */
coroutine_test(waiting_for_oneself_or_another_is_no_deadlock)
{
    struct self self = {.other = open_promise()};
    self.me = duet_spawn(wait_for_self_or_other, &self);
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    must(!duet_future_settled(self.me));
    must_equal(duet_future_settle(self.other, duet_ok()), 0);
    must_equal(error_of(self.me), 0);
    duet_future_unref(self.me);
    duet_future_unref(self.other);
    return duet_ok();
}

static duet_result close_oneself(void *arg)
{
    struct self *self = arg;
    duet_result r;
    gate_pass(&self->gate);
    must_equal(duet_future_close(self->me, &r), -EDEADLK);
    must_equal(duet_future_close(self->me, NULL), -EDEADLK);
    return duet_i64(5);
}

/* 9 */
thread_test(closing_oneself_is_an_error_and_the_handle_stays_valid)
{
    with_oneself(close_oneself);
}

struct bare {
    duet_future *pending, *settled, *done;
    duet_loop *loop;
    duet_pool *pool;
    atomic_int started;
};

static duet_result count_start(void *counter)
{
    atomic_fetch_add((atomic_int *)counter, 1);
    return duet_ok();
}

/* A bare callback in which no wait may hang. */
static void wait_where_one_must_not(void *arg)
{
    struct bare *bare = arg;
    duet_future *both[] = {bare->settled, bare->pending};
    duet_result r[2];
    must_equal(duet_future_wait(bare->pending, SURELY, r), -EDEADLK);
    must_equal(duet_future_wait(bare->pending, DUET_NEVER, r), -EDEADLK);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ALL, SURELY, NULL), -EDEADLK);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_FAILURE, SURELY, NULL), -EDEADLK);
    must_equal(duet_future_wait_many(&bare->pending, 1, DUET_UNTIL_ANY, SURELY, NULL), -EDEADLK);
    must_equal(duet_gather(both, 2, SURELY, r), -EDEADLK);
    must_equal(duet_sleep(SURELY), -EDEADLK);
    must_equal(duet_future_close(bare->pending, r), -EDEADLK);
    must_equal(duet_call(bare->loop, count_start, &bare->started, SURELY, r), -EDEADLK);
    must_equal(duet_offload(bare->pool, count_start, &bare->started, SURELY, r), -EDEADLK);
    must_equal(duet_future_settle(bare->done, duet_ok()), 0);
}

/* A bare callback in which every wait can be answered at once. */
static void wait_for_what_is_there(void *arg)
{
    struct bare *bare = arg;
    duet_future *both[] = {bare->pending, bare->settled};
    duet_result r = duet_ok();
    size_t index = 7;
    must_equal(duet_future_wait(bare->settled, DUET_NEVER, &r), 0);
    must_equal(duet_as_i64(r), 8);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ANY, DUET_NEVER, &index), 0);
    must_equal(index, 1);
    must_equal(duet_gather(&bare->settled, 1, DUET_NEVER, &r), 0);
    must_equal(duet_as_i64(r), 8);
    must_equal(duet_sleep(DUET_NOW), 0);
    must_equal(duet_future_wait_many(NULL, 0, DUET_UNTIL_ALL, DUET_NEVER, NULL), 0);
    must_equal(duet_future_settle(bare->done, duet_ok()), 0);
}

static void bare_open(struct bare *bare)
{
    *bare = (struct bare){.pending = open_promise(),
                          .settled = open_promise(),
                          .loop = start_loop(),
                          .pool = open_pool(1)};
    must_equal(duet_future_settle(bare->settled, duet_i64(8)), 0);
}

/* Runs callback in each kind of bare callback. */
static void in_every_bare_callback(struct bare *bare, duet_callback *callback)
{
    for (int kind = 0; kind < 5; kind++) {
        duet_opts opts = {.drop = callback};
        duet_future *work = NULL;
        bare->done = open_promise();
        switch (kind) {
        case 0:
            must_equal(duet_call_soon(bare->loop, callback, bare), 0);
            break;
        case 1:
            work = duet_call_at(bare->loop, duet_ms(1), callback, bare);
            break;
        case 2:
            must_equal(duet_future_then(bare->settled, bare->loop, callback, bare, NULL), 0);
            break;
        case 3:
            work = duet_submit_with(bare->loop, return_ok, bare, &opts);
            break;
        default:
            work = duet_pool_submit_with(bare->pool, return_ok, bare, &opts);
            break;
        }
        must_equal(error_of(bare->done), 0);
        if (work)
            must_equal(error_of(work), 0);
        duet_future_unref(work);
        duet_future_unref(bare->done);
    }
}

static void bare_close(struct bare *bare)
{
    must_equal(duet_loop_close(bare->loop, SURELY), 0);
    must_equal(duet_pool_close(bare->pool, SURELY), 0);
    must_equal(bare->started, 0);
    duet_future_unref(bare->settled);
}

/* 10 */
thread_test(a_wait_in_a_bare_callback_fails_at_once)
{
    struct bare bare;
    bare_open(&bare);
    in_every_bare_callback(&bare, wait_where_one_must_not);
    duet_future_unref(bare.pending);
    bare_close(&bare);
}

/* 10 */
thread_test(a_bare_callback_gets_what_can_be_answered_at_once)
{
    struct bare bare;
    bare_open(&bare);
    in_every_bare_callback(&bare, wait_for_what_is_there);
    duet_future_unref(bare.pending);
    bare_close(&bare);
}

static void wait_in_drop_result(void *arg)
{
    struct bare *bare = arg;
    must_equal(duet_future_wait(bare->pending, SURELY, NULL), -EDEADLK);
    must_equal(duet_sleep(SURELY), -EDEADLK);
    atomic_fetch_add(&bare->started, 1);
}

/* 10: wherever the last handle is let go; and what runs there afterwards may wait again. */
static void check_wait_in_drop_result(void)
{
    struct bare bare = {.pending = open_promise()};
    duet_future *f = promise_with(NULL, wait_in_drop_result);
    must_equal(duet_future_settle(f, duet_ptr(&bare)), 0);
    duet_future_unref(f);
    must_equal(bare.started, 1);
    must_equal(duet_future_wait(bare.pending, duet_ms(1), NULL), -ETIME);
    must_equal(duet_sleep(duet_ms(1)), 0);
    duet_future_unref(bare.pending);
}

thread_test(a_wait_in_drop_result_fails_at_once)
{
    by_every_kind(check_wait_in_drop_result);
}

/* ---- Promises that end by themselves ---- */

/* 38 */
coroutine_test(a_promise_that_all_let_go_is_settled_and_its_callbacks_run)
{
    struct journal journal = {.done = open_promise()};
    struct note note = {&journal, 0, true};
    duet_future *f = duet_future_ref(open_promise());
    must_equal(duet_future_then(f, duet_loop_self(), write_down, &note, NULL), 0);
    duet_future_unref(f);
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    must_equal(journal.size, 0);
    duet_future_unref(f);
    must_equal(error_of(journal.done), 0);
    must_equal(journal.size, 1);
    duet_future_unref(journal.done);
    return duet_ok();
}

static void *cancel_promise(void *f)
{
    duet_future_cancel(f);
    return NULL;
}

static void check_cancelled_promise(void)
{
    for (int round = 0; round < 50; round++) {
        duet_future *f = open_promise();
        pthread_t thread = start(cancel_promise, f);
        must_equal(error_of(f), -ECANCELED);
        join(thread);
        must_equal(duet_future_settle(f, duet_ok()), -EALREADY);
        duet_future_cancel(f);
        must_equal(error_of(f), -ECANCELED);
        duet_future_unref(f);
    }
}

/* 14 */
thread_test(cancelling_a_promise_settles_it_and_wakes_who_waits)
{
    by_every_kind(check_cancelled_promise);
}

/* ---- Waiting for several ---- */

static void check_none(void)
{
    size_t index = 7;
    must_equal(duet_future_wait_many(NULL, 0, DUET_UNTIL_ALL, DUET_NEVER, NULL), 0);
    must_equal(duet_future_wait_many(NULL, 0, DUET_UNTIL_FAILURE, DUET_NEVER, &index), 0);
    must_equal(index, 0);
    must_equal(duet_future_wait_many(NULL, 0, DUET_UNTIL_ANY, DUET_NEVER, NULL), -EINVAL);
    must_equal(duet_gather(NULL, 0, DUET_NEVER, NULL), 0);
}

/* 22, 30 */
thread_test(waiting_for_none_ends_at_once)
{
    by_every_kind(check_none);
}

static void check_all(void)
{
    duet_future *fs[] = {open_promise(), open_promise(), open_promise()};
    must_equal(duet_future_settle(fs[2], duet_ok()), 0);
    must_equal(duet_future_settle(fs[0], duet_err(-EIO)), 0);
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ALL, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ALL, duet_ms(1), NULL), -ETIME);
    must(!duet_future_settled(fs[1]));
    must_equal(duet_future_settle(fs[1], duet_ok()), 0);
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ALL, DUET_NOW, NULL), 0);
    must_equal(error_of(fs[0]), -EIO);
    for (int i = 0; i < 3; i++)
        duet_future_unref(fs[i]);
}

/* 22 */
thread_test(until_all_does_not_end_at_a_failure)
{
    by_every_kind(check_all);
}

static void check_any(void)
{
    duet_future *fs[] = {open_promise(), open_promise(), open_promise()};
    size_t index = 7;
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ANY, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ANY, duet_ms(1), NULL), -ETIME);
    must_equal(duet_future_settle(fs[1], duet_ok()), 0);
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ANY, DUET_NOW, &index), 0);
    must_equal(index, 1);
    must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ANY, DUET_NEVER, NULL), 0);
    must(!duet_future_settled(fs[0]));
    for (int i = 0; i < 3; i++)
        duet_future_unref(fs[i]);
}

/* 22, 30 */
thread_test(until_any_ends_with_the_first_and_says_which)
{
    by_every_kind(check_any);
}

static void check_failure(void)
{
    duet_future *fs[] = {open_promise(), open_promise(), open_promise(), open_promise()};
    size_t index = 7;
    must_equal(duet_future_settle(fs[0], duet_ok()), 0);
    must_equal(duet_future_settle(fs[3], duet_i64(1)), 0);
    must_equal(duet_future_wait_many(fs, 4, DUET_UNTIL_FAILURE, duet_ms(1), NULL), -ETIME);
    must_equal(duet_future_settle(fs[2], duet_err(-EIO)), 0);
    must_equal(duet_future_wait_many(fs, 4, DUET_UNTIL_FAILURE, DUET_NEVER, &index), 0);
    must_equal(index, 2);
    must(!duet_future_settled(fs[1])); /* the others go on */
    must_equal(error_of(fs[2]), -EIO);
    for (int i = 0; i < 4; i++)
        duet_future_unref(fs[i]);
}

/* 22 */
thread_test(until_failure_ends_with_the_first_failure_and_lets_the_others_go_on)
{
    by_every_kind(check_failure);
}

static void check_no_failure(void)
{
    duet_future *fs[] = {open_promise(), open_promise()};
    size_t index = 7;
    for (int i = 0; i < 2; i++)
        must_equal(duet_future_settle(fs[i], duet_ok()), 0);
    must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_FAILURE, DUET_NEVER, &index), 0);
    must_equal(index, 2);
    for (int i = 0; i < 2; i++)
        duet_future_unref(fs[i]);
}

/* 22 */
thread_test(until_failure_without_a_failure_ends_when_all_have)
{
    by_every_kind(check_no_failure);
}

static void check_cancelled_is_failed(void)
{
    duet_future *fs[] = {open_promise(), open_promise()};
    size_t index = 7;
    duet_future_cancel(fs[1]);
    must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_FAILURE, DUET_NEVER, &index), 0);
    must_equal(index, 1);
    for (int i = 0; i < 2; i++)
        duet_future_unref(fs[i]);
}

/* 22 */
thread_test(a_cancelled_work_counts_as_failed)
{
    by_every_kind(check_cancelled_is_failed);
}

struct settler {
    duet_future **fs;
    size_t n;
    int step; /* +1 or -1 */
    duet_result result;
};

static void *settle_all(void *arg)
{
    struct settler *s = arg;
    for (size_t i = 0; i < s->n; i++) {
        duet_future *f = s->fs[s->step > 0 ? i : s->n - 1 - i];
        must_equal(duet_future_settle(f, s->result), 0);
    }
    return NULL;
}

static void check_duplicates(void)
{
    for (int round = 0; round < 20; round++) {
        duet_future *p = open_promise(), *q = open_promise();
        duet_future *fs[] = {q, p, p, q, p};
        duet_result r[5];
        size_t index = 7;
        struct settler settle_p = {&p, 1, 1, duet_i64(1)}, settle_q = {&q, 1, 1, duet_err(-EIO)};
        must_equal(duet_future_wait_many(fs, 5, DUET_UNTIL_ANY, duet_us(50), NULL), -ETIME);
        pthread_t thread = start(settle_all, &settle_p);
        must_equal(duet_future_wait_many(fs, 5, DUET_UNTIL_ANY, SURELY, &index), 0);
        must(index < 5 && fs[index] == p);
        join(thread);
        thread = start(settle_all, &settle_q);
        must_equal(duet_future_wait_many(fs, 5, DUET_UNTIL_FAILURE, SURELY, &index), 0);
        must(index < 5 && fs[index] == q);
        must_equal(duet_future_wait_many(fs, 5, DUET_UNTIL_ALL, SURELY, NULL), 0);
        must_equal(duet_gather(fs, 5, SURELY, r), 0);
        for (int i = 0; i < 5; i++)
            must_equal(r[i].err, fs[i] == q ? -EIO : 0);
        join(thread);
        duet_future_unref(p);
        duet_future_unref(q);
    }
}

/* 6, 22 */
thread_test(a_future_may_be_waited_for_twice_in_one_list)
{
    by_every_kind(check_duplicates);
}

enum {
    LONG = 1000
};

static void check_long_list(void)
{
    duet_future **fs = malloc(LONG * sizeof *fs);
    duet_result *results = malloc(LONG * sizeof *results);
    size_t index = 7;
    must(fs && results);
    for (int i = 0; i < LONG; i++)
        fs[i] = open_promise();
    /* One far behind the first: ANY, and FAILURE by its cancellation. */
    duet_future *far = fs[LONG - 3];
    must_equal(duet_future_wait_many(fs, LONG, DUET_UNTIL_ANY, duet_ms(1), NULL), -ETIME);
    pthread_t thread = start(cancel_promise, far);
    must_equal(duet_future_wait_many(fs, LONG, DUET_UNTIL_ANY, SURELY, &index), 0);
    must_equal(index, LONG - 3);
    must_equal(duet_future_wait_many(fs, LONG, DUET_UNTIL_FAILURE, SURELY, &index), 0);
    must_equal(index, LONG - 3);
    join(thread);
    /* The rest, from behind, while this one waits for all. */
    fs[LONG - 3] = fs[LONG - 1];
    struct settler settler = {fs, LONG - 1, -1, duet_i64(4)};
    thread = start(settle_all, &settler);
    must_equal(duet_gather(fs, LONG, SURELY, results), 0);
    for (int i = 0; i < LONG; i++)
        must_equal(duet_as_i64(results[i]), 4);
    join(thread);
    must_equal(duet_future_wait_many(fs, LONG, DUET_UNTIL_FAILURE, SURELY, &index), 0);
    must_equal(index, LONG);
    for (int i = 0; i < LONG - 1; i++)
        duet_future_unref(fs[i]);
    duet_future_unref(far);
    free(fs);
    free(results);
}

/* 6, 22 */
thread_test(a_list_may_be_long)
{
    by_every_kind(check_long_list);
}

static void check_as_completed(void)
{
    enum {
        N = 20
    };
    duet_future *fs[N];
    for (int i = 0; i < N; i++)
        fs[i] = open_promise();
    duet_future *order[N];
    memcpy(order, fs, sizeof fs);
    struct settler settler = {order, N, -1, duet_ok()};
    pthread_t thread = start(settle_all, &settler);
    /* What a wait has left behind must not be found when the others settle. */
    for (size_t left = N; left > 0; left--) {
        size_t index = N;
        must_equal(duet_future_wait_many(fs, left, DUET_UNTIL_ANY, SURELY, &index), 0);
        must(index < left);
        must(duet_future_settled(fs[index]));
        fs[index] = fs[left - 1];
    }
    join(thread);
    for (int i = 0; i < N; i++)
        duet_future_unref(order[i]);
}

/* 6, 16 */
thread_test(each_of_many_can_be_had_as_it_settles)
{
    by_every_kind(check_as_completed);
}

static void check_gather(void)
{
    duet_future *fs[] = {open_promise(), open_promise(), open_promise()};
    duet_result r[3] = {duet_i64(-1), duet_i64(-1), duet_i64(-1)};
    must_equal(duet_future_settle(fs[2], duet_i64(2)), 0);
    must_equal(duet_future_settle(fs[1], duet_err(-EIO)), 0);
    must_equal(duet_gather(fs, 3, duet_ms(1), r), -ETIME);
    for (int i = 0; i < 3; i++)
        must_equal(duet_as_i64(r[i]), -1); /* written only on 0 */
    must(!duet_future_settled(fs[0]));
    must_equal(duet_future_settle(fs[0], duet_f64(0.5)), 0);
    must_equal(duet_gather(fs, 3, DUET_NOW, r), 0);
    must(duet_as_f64(r[0]) == 0.5);
    must_equal(r[1].err, -EIO);
    must_equal(duet_as_i64(r[2]), 2);
    must_equal(duet_gather(fs, 3, DUET_NOW, NULL), 0);
    for (int i = 0; i < 3; i++)
        duet_future_unref(fs[i]);
}

/* 22 */
thread_test(gather_waits_for_all_and_keeps_their_order)
{
    by_every_kind(check_gather);
}

static duet_result gather_here(void *fs)
{
    duet_result r[2] = {duet_i64(-1), duet_i64(-1)};
    int rc = duet_gather(fs, 2, SURELY, r);
    must_equal(duet_as_i64(r[0]), -1);
    must_equal(duet_as_i64(r[1]), -1);
    return duet_err(rc);
}

static duet_result any_here(void *fs)
{
    return duet_err(duet_future_wait_many(fs, 2, DUET_UNTIL_ANY, SURELY, NULL));
}

/* 22 */
coroutine_test(cancelling_who_waits_for_several_leaves_their_work_alone)
{
    duet_future *fs[] = {duet_spawn(sleep_long, NULL), open_promise()};
    duet_future *waiters[] = {duet_spawn(gather_here, fs), duet_spawn(any_here, fs)};
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    for (int i = 0; i < 2; i++) {
        must(!duet_future_settled(waiters[i]));
        duet_future_cancel(waiters[i]);
        must_equal(error_of(waiters[i]), -ECANCELED);
        duet_future_unref(waiters[i]);
    }
    must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_ANY, duet_ms(1), NULL), -ETIME);
    must_equal(duet_future_settle(fs[1], duet_ok()), 0);
    must_equal(duet_future_close(fs[0], NULL), 0);
    must_equal(duet_future_close(fs[1], NULL), 0);
    return duet_ok();
}

struct waiter {
    duet_future *me, *settled, *pending;
};

static duet_result wait_when_cancelled(void *arg)
{
    struct waiter *w = arg;
    duet_future *both[] = {w->pending, w->settled};
    duet_result r[2];
    size_t index = 7;
    duet_future_cancel(w->me);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ALL, SURELY, NULL), -ECANCELED);
    must_equal(duet_future_wait_many(&w->pending, 1, DUET_UNTIL_ANY, SURELY, NULL), -ECANCELED);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_FAILURE, SURELY, NULL), -ECANCELED);
    must_equal(duet_gather(both, 2, SURELY, r), -ECANCELED);
    must_equal(duet_future_wait(w->pending, SURELY, NULL), -ECANCELED);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ANY, SURELY, &index), 0);
    must_equal(index, 1);
    must_equal(duet_gather(&w->settled, 1, DUET_NOW, r), 0);
    must_equal(duet_future_wait_many(&w->settled, 1, DUET_UNTIL_ALL, DUET_NOW, NULL), 0);
    must_equal(duet_future_wait_many(&w->settled, 1, DUET_UNTIL_FAILURE, DUET_NOW, NULL), 0);
    return duet_ok();
}

/* 16 */
coroutine_test(what_has_settled_is_had_even_by_a_cancelled_waiter_for_several)
{
    struct waiter w = {.settled = open_promise(), .pending = open_promise()};
    must_equal(duet_future_settle(w.settled, duet_ok()), 0);
    w.me = duet_spawn(wait_when_cancelled, &w);
    must_equal(error_of(w.me), 0);
    duet_future_unref(w.me);
    duet_future_unref(w.settled);
    duet_future_unref(w.pending);
    return duet_ok();
}

/* ---- Taking and closing ---- */

/* 6 */
thread_test(a_pending_value_cannot_be_taken_and_a_settled_one_only_once)
{
    atomic_int drops = 0;
    duet_result r = duet_ok();
    duet_future *f = promise_with(NULL, count_drop);
    must_equal(duet_future_take(f, &r), -EAGAIN);
    must_equal(duet_future_settle(f, duet_ptr(&drops)), 0);
    must_equal(duet_future_take(f, &r), 0);
    must(duet_as_ptr(r) == &drops);
    must_equal(duet_future_take(f, &r), -EALREADY);
    must(duet_as_ptr(duet_future_result(f)) == &drops);
    must_equal(duet_future_wait(f, DUET_NOW, &r), 0);
    must(duet_as_ptr(r) == &drops);
    duet_future_unref(f);
    must_equal(drops, 0);
}

static duet_result clean_up_slowly(void *flag)
{
    int rc = duet_sleep(SURELY);
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(2)), 0);
    duet_shield_end();
    *(bool *)flag = true;
    return duet_err(rc);
}

static void check_close(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        bool cleaned = false;
        atomic_int begun = 0;
        duet_result r = duet_ok();
        duet_future *f = i == 0 ? duet_submit(loop, clean_up_slowly, &cleaned)
                                : duet_pool_submit(pool, clean_up_slowly, &cleaned);
        /* The one before it in the queue has started when this one has run. */
        if (i == 0)
            must_equal(duet_call(loop, count_start, &begun, SURELY, NULL), 0);
        must_equal(duet_future_wait(f, duet_ms(1), NULL), -ETIME);
        must_equal(duet_future_close(f, &r), 0);
        must_equal(r.err, -ECANCELED);
        must(cleaned || i == 1); /* a job may not have been started yet */
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 35 */
thread_test(close_cancels_and_returns_after_the_clean_up)
{
    by_every_kind(check_close);
}

/* 6 */
thread_test(close_takes_the_value)
{
    atomic_int drops = 0;
    duet_result r = duet_ok();
    duet_future *f = promise_with(NULL, count_drop);
    must_equal(duet_future_settle(f, duet_ptr(&drops)), 0);
    must_equal(duet_future_close(f, &r), 0);
    must(duet_as_ptr(r) == &drops);
    must_equal(drops, 0);
}

/* 6 */
thread_test(close_after_a_take_is_a_look_and_lets_go_all_the_same)
{
    atomic_int drops = 0;
    duet_result taken = duet_ok(), looked = duet_ok();
    duet_future *f = promise_with(NULL, count_drop);
    must_equal(duet_future_settle(f, duet_ptr(&drops)), 0);
    must_equal(duet_future_take(f, &taken), 0);
    must_equal(duet_future_close(f, &looked), -EALREADY);
    must(duet_as_ptr(looked) == &drops);
    must_equal(drops, 0);
}

/* 6: nobody could have the value, so it must not leak. */
thread_test(close_without_a_place_for_the_value_drops_it)
{
    atomic_int drops = 0;
    duet_future *f = promise_with(NULL, count_drop);
    must_equal(duet_future_settle(f, duet_ptr(&drops)), 0);
    must_equal(duet_future_close(f, NULL), 0);
    must_equal(drops, 1);
}

/* 14 */
thread_test(closing_a_pending_promise_cancels_it)
{
    duet_result r = duet_ok();
    duet_future *f = duet_future_ref(open_promise());
    must_equal(duet_future_close(f, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_equal(duet_future_settle(f, duet_ok()), -EALREADY);
    must_equal(duet_future_close(f, NULL), -EALREADY); /* the first close has taken it */
}

struct closer {
    duet_future *me, *child;
    bool cleaned;
};

static duet_result close_when_cancelled(void *arg)
{
    struct closer *closer = arg;
    duet_result r = duet_ok();
    closer->child = duet_spawn(clean_up_slowly, &closer->cleaned);
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    duet_future_cancel(closer->me);
    must_equal(duet_yield(), -ECANCELED);
    must_equal(duet_future_close(closer->child, &r), 0);
    must_equal(r.err, -ECANCELED);
    must(closer->cleaned);
    must_equal(duet_yield(), -ECANCELED);
    return duet_ok();
}

/* 19 */
coroutine_test(a_cancelled_coroutine_that_closes_still_waits_for_the_end)
{
    struct closer closer = {0};
    closer.me = duet_spawn(close_when_cancelled, &closer);
    must_equal(error_of(closer.me), 0);
    duet_future_unref(closer.me);
    return duet_ok();
}

/* 9: what has settled can be closed by anybody, also in a bare callback. */
static void close_in_callback(void *arg)
{
    struct bare *bare = arg;
    duet_result r = duet_ok();
    must_equal(duet_future_close(bare->settled, &r), 0);
    must_equal(duet_as_i64(r), 8);
    must_equal(duet_future_settle(bare->done, duet_ok()), 0);
}

thread_test(a_bare_callback_may_close_what_has_settled)
{
    struct bare bare;
    bare_open(&bare);
    bare.done = open_promise();
    duet_future_ref(bare.settled);
    must_equal(duet_call_soon(bare.loop, close_in_callback, &bare), 0);
    must_equal(error_of(bare.done), 0);
    duet_future_unref(bare.done);
    duet_future_unref(bare.pending);
    bare_close(&bare);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settling_twice_is_refused_and_changes_nothing),
        cmocka_unit_test(a_refused_settle_leaves_the_pointer_with_the_caller),
        cmocka_unit_test(a_positive_error_is_refused_and_the_promise_stays_open),
        cmocka_unit_test(the_future_of_a_work_cannot_be_settled_by_hand),
        cmocka_unit_test(callbacks_run_in_a_later_turn_in_the_order_added),
        cmocka_unit_test(a_callback_added_after_the_settling_runs_too_but_not_inline),
        cmocka_unit_test(a_callback_runs_on_its_loops_thread_whoever_settles_or_adds),
        cmocka_unit_test(a_late_callback_does_not_overtake_the_earlier_ones),
        cmocka_unit_test(callbacks_may_add_and_forget_while_they_fire),
        cmocka_unit_test(forget_takes_back_the_first_match_only),
        cmocka_unit_test(a_forgotten_callback_neither_runs_nor_is_dropped),
        cmocka_unit_test(a_callback_that_ran_is_not_dropped),
        cmocka_unit_test(a_callback_whose_loop_ended_first_is_dropped_once_by_the_settling_thread),
        cmocka_unit_test(a_stopped_loop_refuses_callbacks_and_the_argument_stays_the_callers),
        cmocka_unit_test(callbacks_of_one_future_may_belong_to_several_loops),
        cmocka_unit_test(settling_from_a_thread_wakes_a_coroutine_at_once_and_back),
        cmocka_unit_test(settling_wakes_coroutines_of_another_loop),
        cmocka_unit_test(settling_wakes_a_pool_job),
        cmocka_unit_test(any_number_of_waiters_of_every_kind_see_one_value_which_is_dropped_once),
        cmocka_unit_test(the_value_lives_until_the_last_unref),
        cmocka_unit_test(the_value_of_abandoned_work_is_dropped_once),
        cmocka_unit_test(only_a_pointer_is_dropped),
        cmocka_unit_test(of_many_takers_exactly_one_takes_and_then_nothing_is_dropped),
        cmocka_unit_test(settled_means_that_the_payload_is_visible),
        cmocka_unit_test(a_failure_that_nobody_saw_is_reported_once_by_name),
        cmocka_unit_test(a_failure_after_the_last_handle_is_reported_too),
        cmocka_unit_test(a_failure_that_somebody_saw_is_not_reported),
        cmocka_unit_test(a_wait_that_timed_out_has_not_seen_the_failure),
        cmocka_unit_test(a_cancellation_is_never_reported),
        cmocka_unit_test(waiting_for_oneself_is_an_error),
        cmocka_unit_test(gathering_oneself_is_an_error_whatever_the_others_do),
        cmocka_unit_test(waiting_for_the_first_of_nobody_but_oneself_is_an_error),
        cmocka_unit_test(waiting_for_oneself_or_another_is_no_deadlock),
        cmocka_unit_test(closing_oneself_is_an_error_and_the_handle_stays_valid),
        cmocka_unit_test(a_wait_in_a_bare_callback_fails_at_once),
        cmocka_unit_test(a_bare_callback_gets_what_can_be_answered_at_once),
        cmocka_unit_test(a_wait_in_drop_result_fails_at_once),
        cmocka_unit_test(a_promise_that_all_let_go_is_settled_and_its_callbacks_run),
        cmocka_unit_test(cancelling_a_promise_settles_it_and_wakes_who_waits),
        cmocka_unit_test(waiting_for_none_ends_at_once),
        cmocka_unit_test(until_all_does_not_end_at_a_failure),
        cmocka_unit_test(until_any_ends_with_the_first_and_says_which),
        cmocka_unit_test(until_failure_ends_with_the_first_failure_and_lets_the_others_go_on),
        cmocka_unit_test(until_failure_without_a_failure_ends_when_all_have),
        cmocka_unit_test(a_cancelled_work_counts_as_failed),
        cmocka_unit_test(a_future_may_be_waited_for_twice_in_one_list),
        cmocka_unit_test(a_list_may_be_long),
        cmocka_unit_test(each_of_many_can_be_had_as_it_settles),
        cmocka_unit_test(gather_waits_for_all_and_keeps_their_order),
        cmocka_unit_test(cancelling_who_waits_for_several_leaves_their_work_alone),
        cmocka_unit_test(what_has_settled_is_had_even_by_a_cancelled_waiter_for_several),
        cmocka_unit_test(a_pending_value_cannot_be_taken_and_a_settled_one_only_once),
        cmocka_unit_test(close_cancels_and_returns_after_the_clean_up),
        cmocka_unit_test(close_takes_the_value),
        cmocka_unit_test(close_after_a_take_is_a_look_and_lets_go_all_the_same),
        cmocka_unit_test(close_without_a_place_for_the_value_drops_it),
        cmocka_unit_test(closing_a_pending_promise_cancels_it),
        cmocka_unit_test(a_cancelled_coroutine_that_closes_still_waits_for_the_end),
        cmocka_unit_test(a_bare_callback_may_close_what_has_settled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
