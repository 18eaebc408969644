/* Where loop and pool meet, and any thread enters: what bridge.h promises. */
#include "duet_test.h"
#include "shared.h"

#include <sched.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

static duet_loop *start_small_loop(unsigned inbox_max, enum duet_when_full when_full)
{
    duet_loop *loop;
    duet_loop_config config = {.inbox_max = inbox_max, .when_full = when_full};
    must_equal(duet_loop_start(&loop, &config), 0);
    return loop;
}

/* A loop that nobody runs yet, so that its inbox stays as full as it is made. */
static duet_loop *open_small_loop(unsigned inbox_max, enum duet_when_full when_full)
{
    duet_loop *loop;
    duet_loop_config config = {.inbox_max = inbox_max, .when_full = when_full};
    must_equal(duet_loop_open(&loop, &config), 0);
    return loop;
}

static void run_loop(void *loop)
{
    must_equal(duet_loop_run(loop), 0);
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
static void run_bare(duet_loop *loop, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(loop, DUET_NOW, fn, arg)).err, 0);
}

/* How often a piece of work ran and was dropped. */
struct tally {
    atomic_int ran, dropped;
};

static duet_result tally_run(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->ran, 1);
    return duet_ok();
}

static void tally_call(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->ran, 1);
}

static void tally_drop(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->dropped, 1);
}

static void must_tally(struct tally *tally, int ran, int dropped)
{
    must_equal(atomic_load(&tally->ran), ran);
    must_equal(atomic_load(&tally->dropped), dropped);
}

static const duet_opts tally_opts = {.drop = tally_drop};

static duet_result wait_for_promise(void *promise)
{
    duet_result r;
    int rc = duet_future_wait(promise, DUET_NEVER, &r);
    return rc < 0 ? duet_err(rc) : r;
}

/* ---- First in, first out, for each producer ---- */

struct producer {
    struct thread thread;
    duet_loop *loop;
    int count;
    int next; /* of the loop's thread alone */
    struct item {
        struct producer *from;
        int number;
    } * items;
    duet_future **handles;
    duet_future *all_ran; /* of callbacks, which have no handles */
};

static duet_result check_turn(void *arg)
{
    struct item *item = arg;
    must_equal(item->number, item->from->next);
    item->from->next++;
    return duet_ok();
}

static void check_turn_bare(void *arg)
{
    struct item *item = arg;
    (void)check_turn(arg);
    if (item->from->next == item->from->count)
        must_equal(duet_future_settle(item->from->all_ran, duet_ok()), 0);
}

static void produce_submissions(void *arg)
{
    struct producer *producer = arg;
    for (int i = 0; i < producer->count; i++)
        producer->handles[i] = duet_submit(producer->loop, check_turn, &producer->items[i]);
    for (int i = 0; i < producer->count; i++)
        must_equal(finish(producer->handles[i]).err, 0);
}

static void produce_callbacks(void *arg)
{
    struct producer *producer = arg;
    for (int i = 0; i < producer->count; i++)
        must_equal(duet_call_soon(producer->loop, check_turn_bare, &producer->items[i]), 0);
    must_equal(duet_future_wait(producer->all_ran, SURELY, NULL), 0);
}

static void produce_in_order(duet_loop *loop, int producers, void (*produce)(void *arg))
{
    struct producer all[8];
    for (int i = 0; i < producers; i++) {
        struct producer *p = &all[i];
        *p = (struct producer){.loop = loop, .count = test_rounds(1500)};
        p->items = calloc((size_t)p->count, sizeof *p->items);
        p->handles = calloc((size_t)p->count, sizeof(duet_future *));
        must(p->items && p->handles);
        for (int k = 0; k < p->count; k++)
            p->items[k] = (struct item){p, k};
        must_equal(duet_future_open(&p->all_ran), 0);
    }
    for (int i = 0; i < producers; i++)
        thread_start(&all[i].thread, produce, &all[i]);
    for (int i = 0; i < producers; i++)
        thread_join(&all[i].thread);
    close_loop(loop);
    for (int i = 0; i < producers; i++) {
        must_equal(all[i].next, all[i].count);
        free(all[i].items);
        free(all[i].handles);
        duet_future_unref(all[i].all_ran);
    }
}

/* 39 */
static void submissions_of_one_thread_start_in_order(void **state)
{
    (void)state;
    produce_in_order(start_loop(), 1, produce_submissions);
}

/* 39 */
static void submissions_of_two_threads_start_in_order_for_each(void **state)
{
    (void)state;
    produce_in_order(start_loop(), 2, produce_submissions);
}

/* 39 */
static void submissions_of_four_threads_start_in_order_for_each(void **state)
{
    (void)state;
    produce_in_order(start_loop(), 4, produce_submissions);
}

/* 39 */
static void submissions_of_eight_threads_start_in_order_for_each(void **state)
{
    (void)state;
    produce_in_order(start_loop(), 8, produce_submissions);
}

/* 39: also where every producer waits for room again and again. */
static void order_holds_though_producers_wait_for_room(void **state)
{
    (void)state;
    produce_in_order(start_small_loop(3, DUET_FULL_WAIT), 4, produce_submissions);
}

/* 39 */
static void callbacks_of_four_threads_run_in_order_for_each(void **state)
{
    (void)state;
    produce_in_order(start_loop(), 4, produce_callbacks);
}

/* ---- Floods ---- */

struct flood {
    struct thread threads[4];
    duet_loop *loop;
    atomic_bool enough;
    atomic_int made;
};

static void flood_with_submissions(void *arg)
{
    struct flood *flood = arg;
    while (!atomic_load(&flood->enough)) {
        duet_future_unref(duet_submit(flood->loop, return_ok, NULL));
        atomic_fetch_add(&flood->made, 1);
    }
}

static void nothing(void *arg)
{
    (void)arg;
}

static void flood_with_callbacks(void *arg)
{
    struct flood *flood = arg;
    while (!atomic_load(&flood->enough)) {
        int rc = duet_call_soon(flood->loop, nothing, NULL);
        must(rc == 0 || rc == -EAGAIN);
        atomic_fetch_add(&flood->made, 1);
        if (rc < 0)
            sched_yield();
    }
}

static duet_result sleep_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < 20; i++) {
        duet_deadline until = duet_ms(1);
        must_equal(duet_sleep(until), 0);
        must(duet_now_ns() >= until.ns);
    }
    return duet_ok();
}

/* The flood ends only when the timers and the yields have: who is starved is starved for good. */
static void must_not_starve(duet_loop *loop, void (*pour)(void *arg))
{
    struct flood flood = {.loop = loop};
    int yields = 100;
    for (int i = 0; i < 4; i++)
        thread_start(&flood.threads[i], pour, &flood);
    while (atomic_load(&flood.made) < 2000)
        sched_yield();
    duet_future *sleeper = duet_submit(loop, sleep_often, NULL);
    duet_future *yielder = duet_submit(loop, yield_often, &yields);
    must_equal(finish(sleeper).err, 0);
    must_equal(finish(yielder).err, 0);
    atomic_store(&flood.enough, true);
    for (int i = 0; i < 4; i++)
        thread_join(&flood.threads[i]);
    close_loop(loop);
}

/* 39 */
static void a_flood_of_submissions_starves_neither_timers_nor_coroutines(void **state)
{
    (void)state;
    must_not_starve(start_small_loop(256, DUET_FULL_WAIT), flood_with_submissions);
}

/* 39 */
static void a_flood_of_callbacks_starves_neither_timers_nor_coroutines(void **state)
{
    (void)state;
    must_not_starve(start_small_loop(1024, DUET_FULL_WAIT), flood_with_callbacks);
}

struct self_flood {
    bool enough;
    int rounds;
};

static void call_again(void *arg)
{
    struct self_flood *flood = arg;
    flood->rounds++;
    if (!flood->enough)
        must_equal(duet_call_soon(duet_loop_self(), call_again, flood), 0);
}

static duet_result sleep_amid_own_callbacks(void *arg)
{
    struct self_flood *flood = arg;
    must_equal(duet_call_soon(duet_loop_self(), call_again, flood), 0);
    duet_result r = sleep_often(NULL);
    must(flood->rounds > 0);
    flood->enough = true;
    int before = flood->rounds;
    for (int i = 0; i < 3; i++)
        must_equal(duet_yield(), 0);
    must(flood->rounds <= before + 1);
    return r;
}

/* 39: "in the loop's next turn": a callback that calls itself again does not hold the turn. */
static void a_callback_that_asks_for_itself_again_starves_nobody(void **state)
{
    (void)state;
    struct self_flood flood = {false, 0};
    run_in_coroutine(sleep_amid_own_callbacks, &flood);
}

/* ---- Wakes ---- */

static void call_often(duet_loop *loop)
{
    int value;
    for (int i = test_rounds(10000); i > 0; i--) {
        duet_result r;
        must_equal(duet_call(loop, return_arg, &value, SURELY, &r), 0);
        must(duet_as_ptr(r) == &value);
    }
}

static void call_often_thread(void *loop)
{
    call_often(loop);
}

/* 40: the loop falls asleep between any two calls, and must be woken for each. */
static void a_loop_that_never_spins_is_woken_for_every_call(void **state)
{
    (void)state;
    duet_loop *loop;
    duet_loop_config config = {.spin_us = -1};
    must_equal(duet_loop_start(&loop, &config), 0);
    call_often(loop);
    close_loop(loop);
}

/* 40: a loop about to sleep while two others bring work. */
static void a_loop_is_woken_by_whichever_thread_comes_first(void **state)
{
    (void)state;
    struct thread threads[2];
    duet_loop *loop = start_loop();
    for (int i = 0; i < 2; i++)
        thread_start(&threads[i], call_often_thread, loop);
    for (int i = 0; i < 2; i++)
        thread_join(&threads[i]);
    close_loop(loop);
}

/* 5, 40: settling a promise from a thread wakes the coroutine that waits for it. */
static void settling_from_a_thread_wakes_a_waiting_coroutine(void **state)
{
    (void)state;
    duet_loop *loop;
    duet_loop_config config = {.spin_us = -1};
    must_equal(duet_loop_start(&loop, &config), 0);
    for (int i = test_rounds(5000); i > 0; i--) {
        duet_future *promise = open_promise();
        duet_future *f = duet_submit(loop, wait_for_promise, promise);
        must_equal(duet_future_settle(promise, duet_i64(i)), 0);
        must_equal(duet_as_i64(finish(f)), i);
        duet_future_unref(promise);
    }
    close_loop(loop);
}

/* 40: bare callbacks wake too; the callback settles what this thread waits for. */
static void settle_promise(void *promise)
{
    must_equal(duet_future_settle(promise, duet_ok()), 0);
}

static void a_callback_wakes_the_loop(void **state)
{
    (void)state;
    duet_loop *loop;
    duet_loop_config config = {.spin_us = -1};
    must_equal(duet_loop_start(&loop, &config), 0);
    for (int i = test_rounds(5000); i > 0; i--) {
        duet_future *promise = open_promise();
        must_equal(duet_call_soon(loop, settle_promise, promise), 0);
        must_equal(finish(promise).err, 0);
    }
    close_loop(loop);
}

/* ---- A full inbox ---- */

/* 38: exactly inbox_max are taken, the next is answered at once and dropped, the others run. */
static void a_full_inbox_that_refuses_settles_with_eagain(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(3, DUET_FULL_REFUSE);
    struct tally taken = {0}, refused = {0};
    struct thread runner;
    duet_future *fs[3];
    for (int i = 0; i < 3; i++) {
        fs[i] = duet_submit_with(loop, tally_run, &taken, &tally_opts);
        must(!duet_future_settled(fs[i]));
    }
    duet_future *f = duet_submit_with(loop, tally_run, &refused, &tally_opts);
    must(duet_future_settled(f));
    must_equal(duet_future_result(f).err, -EAGAIN);
    must_tally(&refused, 0, 1);
    duet_future_unref(f);
    thread_start(&runner, run_loop, loop);
    for (int i = 0; i < 3; i++)
        must_equal(finish(fs[i]).err, 0);
    must_tally(&taken, 3, 3);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0); /* there is room again */
    close_loop(loop);
    thread_join(&runner);
    must_tally(&refused, 0, 1);
}

/* 38: the flag speaks for one submission. */
static void one_submission_may_refuse_to_wait_for_room(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(1, DUET_FULL_WAIT);
    struct tally tally = {0};
    duet_opts opts = {.drop = tally_drop, .flags = DUET_REFUSE};
    duet_future *first = duet_submit_with(loop, tally_run, &tally, &opts);
    must(!duet_future_settled(first));
    must_tally(&tally, 0, 0);
    duet_future *second = duet_submit_with(loop, tally_run, &tally, &opts);
    must(duet_future_settled(second));
    must_equal(finish(second).err, -EAGAIN);
    must_tally(&tally, 0, 1);
    close_loop(loop);
    must_equal(finish(first).err, -ECANCELED);
    must_tally(&tally, 0, 2);
}

/* bridge.h: a coroutine cannot run in the submitting thread. */
static void a_loop_that_should_run_here_is_not_opened(void **state)
{
    (void)state;
    duet_loop *loop = NULL;
    duet_loop_config config = {.when_full = DUET_FULL_RUN_HERE};
    log_capture();
    must_equal(duet_loop_open(&loop, &config), -EINVAL);
    must_equal(log_count("when_full"), 1);
    must_equal(duet_loop_start(&loop, &config), -EINVAL);
    must_equal(log_count("when_full"), 2);
    log_release();
}

struct waiter {
    duet_loop *to;
    struct tally tally;
    atomic_bool may_return;
    bool entered, returned;
    int err;
};

static duet_result submit_and_see(void *arg)
{
    struct waiter *waiter = arg;
    waiter->entered = true;
    duet_future *f = duet_submit_with(waiter->to, tally_run, &waiter->tally, &tally_opts);
    must(atomic_load(&waiter->may_return));
    waiter->returned = true;
    if (duet_future_settled(f))
        waiter->err = duet_future_result(f).err;
    else
        waiter->err = finish(duet_future_ref(f)).err;
    duet_future_unref(f);
    return duet_ok();
}

static void submit_and_see_thread(void *arg)
{
    (void)submit_and_see(arg);
}

/* 38: a thread that submits to a full inbox goes on only once the loop has made room. */
static void a_thread_waits_for_room(void **state)
{
    (void)state;
    struct waiter waiter = {.to = open_small_loop(1, DUET_FULL_WAIT)};
    struct thread thread, runner;
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    thread_start(&thread, submit_and_see_thread, &waiter);
    thread_await_blocked(&thread);
    atomic_store(&waiter.may_return, true);
    thread_start(&runner, run_loop, waiter.to);
    thread_join(&thread);
    must_equal(waiter.err, 0);
    must_tally(&waiter.tally, 1, 1);
    must_equal(finish(first).err, 0);
    close_loop(waiter.to);
    thread_join(&runner);
}

/* 37, 38: the same, but the loop stops before it ever ran. */
static void a_thread_that_waits_for_room_is_answered_by_the_stop(void **state)
{
    (void)state;
    struct waiter waiter = {.to = open_small_loop(1, DUET_FULL_WAIT)};
    struct thread thread;
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    thread_start(&thread, submit_and_see_thread, &waiter);
    thread_await_blocked(&thread);
    atomic_store(&waiter.may_return, true);
    duet_loop_stop(waiter.to);
    thread_join(&thread);
    must_equal(waiter.err, -ESHUTDOWN);
    must_tally(&waiter.tally, 0, 1);
    close_loop(waiter.to);
    must_equal(finish(first).err, -ECANCELED);
}

static duet_result hold_thread(void *gate)
{
    gate_pass(gate); /* a sin: it blocks the whole loop */
    return duet_ok();
}

/* 37: the loop is stuck in a coroutine; the one who waits for room is answered all the same. */
static void a_stop_answers_who_waits_for_room_though_the_loop_is_busy(void **state)
{
    (void)state;
    struct gate gate = GATE_INIT;
    struct waiter waiter = {.to = start_small_loop(1, DUET_FULL_WAIT)};
    struct thread thread;
    duet_future *holder = duet_submit(waiter.to, hold_thread, &gate);
    gate_await_arrivals(&gate, 1);
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    thread_start(&thread, submit_and_see_thread, &waiter);
    thread_await_blocked(&thread);
    atomic_store(&waiter.may_return, true);
    duet_loop_stop(waiter.to);
    thread_join(&thread);
    must_equal(waiter.err, -ESHUTDOWN);
    must_tally(&waiter.tally, 0, 1);
    gate_open(&gate);
    close_loop(waiter.to);
    must_equal(finish(holder).err, 0);
    must_equal(finish(first).err, -ECANCELED);
}

/* Spawns one that submits to the full loop, and goes on while it waits. */
static duet_future *spawn_waiter(struct waiter *waiter)
{
    duet_future *f = duet_spawn(submit_and_see, waiter);
    for (int i = 0; i < 10 || !waiter->entered; i++)
        must_equal(duet_yield(), 0);
    must(!waiter->returned);
    atomic_store(&waiter->may_return, true);
    return f;
}

static duet_result waits_until_there_is_room(void *arg)
{
    struct waiter *waiter = arg;
    struct thread runner;
    duet_future *f = spawn_waiter(waiter);
    thread_start(&runner, run_loop, waiter->to);
    must_equal(finish(f).err, 0);
    must_equal(waiter->err, 0);
    must_tally(&waiter->tally, 1, 1);
    close_loop(waiter->to);
    thread_join(&runner);
    return duet_ok();
}

/* 38: a coroutine that waits for room is suspended; its own loop goes on. */
static void a_coroutine_waits_for_room_of_another_loop(void **state)
{
    (void)state;
    struct waiter waiter = {.to = open_small_loop(1, DUET_FULL_WAIT)};
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    run_in_coroutine(waits_until_there_is_room, &waiter);
    must_equal(finish(first).err, 0);
}

static duet_result waits_until_cancelled(void *arg)
{
    struct waiter *waiter = arg;
    duet_future *f = spawn_waiter(waiter);
    duet_future_cancel(f);
    (void)finish(f);
    must(waiter->returned);
    must_equal(waiter->err, -ECANCELED);
    must_tally(&waiter->tally, 0, 1);
    return duet_ok();
}

/* 38, 56: a cancelled wait for room put nothing in; the room goes to the next. */
static void waiting_for_room_ends_by_cancellation(void **state)
{
    (void)state;
    struct waiter waiter = {.to = open_small_loop(1, DUET_FULL_WAIT)};
    struct thread runner;
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    run_in_coroutine(waits_until_cancelled, &waiter);
    thread_start(&runner, run_loop, waiter.to);
    must_equal(finish(first).err, 0);
    for (int i = 0; i < 10; i++)
        must_equal(finish(duet_submit(waiter.to, return_ok, NULL)).err, 0);
    close_loop(waiter.to);
    thread_join(&runner);
    must_tally(&waiter.tally, 0, 1);
}

static duet_result waits_until_the_other_stops(void *arg)
{
    struct waiter *waiter = arg;
    duet_future *f = spawn_waiter(waiter);
    duet_loop_stop(waiter->to);
    must_equal(finish(f).err, 0);
    must_equal(waiter->err, -ESHUTDOWN);
    must_tally(&waiter->tally, 0, 1);
    return duet_ok();
}

/* 37, 38 */
static void waiting_for_room_ends_by_the_loops_stop(void **state)
{
    (void)state;
    struct waiter waiter = {.to = open_small_loop(1, DUET_FULL_WAIT)};
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    run_in_coroutine(waits_until_the_other_stops, &waiter);
    close_loop(waiter.to);
    must_equal(finish(first).err, -ECANCELED);
    must_tally(&waiter.tally, 0, 1);
}

/* 56: of several who wait for room each gets in, once there is room again and again. */
static void all_who_wait_for_room_get_in(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(1, DUET_FULL_WAIT);
    struct thread threads[6], runner;
    struct waiter waiters[6];
    duet_future *first = duet_submit(loop, return_ok, NULL);
    for (int i = 0; i < 6; i++) {
        waiters[i] = (struct waiter){.to = loop};
        thread_start(&threads[i], submit_and_see_thread, &waiters[i]);
    }
    for (int i = 0; i < 6; i++) {
        thread_await_blocked(&threads[i]);
        atomic_store(&waiters[i].may_return, true);
    }
    thread_start(&runner, run_loop, loop);
    for (int i = 0; i < 6; i++) {
        thread_join(&threads[i]);
        must_equal(waiters[i].err, 0);
        must_tally(&waiters[i].tally, 1, 1);
    }
    must_equal(finish(first).err, 0);
    close_loop(loop);
    thread_join(&runner);
}

struct hasty {
    struct thread thread;
    duet_loop *loop;
    uint64_t random;
    struct tally tally;
    int tried;
};

/* Calls with deadlines that pass now before, now after there is room. */
static void call_hastily(void *arg)
{
    struct hasty *hasty = arg;
    for (int i = test_rounds(3000); i > 0; i--) {
        duet_deadline by = duet_us((int64_t)(test_random(&hasty->random) % 60));
        duet_result r;
        int rc = duet_call_with(hasty->loop, tally_run, &hasty->tally, &tally_opts, by, &r);
        must((rc == 0 && r.err == 0) || (rc == -ETIME && r.err == -ECANCELED));
        hasty->tried++;
    }
}

/* 17, 56: who gives up in the very moment in which room is made passes it on. */
static void giving_up_as_room_comes_loses_no_place(void **state)
{
    (void)state;
    duet_loop *loop = start_small_loop(2, DUET_FULL_WAIT);
    struct hasty hasty[6];
    struct gate gate = GATE_INIT;
    struct tally tally = {0};
    duet_opts opts = {.drop = tally_drop, .flags = DUET_REFUSE};
    duet_future *fs[3];
    uint64_t random = test_seed();
    for (int i = 0; i < 6; i++) {
        hasty[i] = (struct hasty){.loop = loop, .random = test_random(&random)};
        thread_start(&hasty[i].thread, call_hastily, &hasty[i]);
    }
    for (int i = 0; i < 6; i++) {
        thread_join(&hasty[i].thread);
        must_equal(atomic_load(&hasty[i].tally.dropped), hasty[i].tried);
    }
    duet_future *holder = duet_submit(loop, hold_thread, &gate);
    gate_await_arrivals(&gate, 1);
    for (int i = 0; i < 3; i++)
        fs[i] = duet_submit_with(loop, tally_run, &tally, &opts);
    must(!duet_future_settled(fs[0]));
    must(!duet_future_settled(fs[1]));
    must(duet_future_settled(fs[2]));
    gate_open(&gate);
    must_equal(finish(holder).err, 0);
    for (int i = 0; i < 3; i++)
        must_equal(finish(fs[i]).err, i < 2 ? 0 : -EAGAIN);
    close_loop(loop);
}

/* base.h: a bare callback is refused whatever was chosen. */
static void submit_bare(void *arg)
{
    struct waiter *waiter = arg;
    duet_future *f = duet_submit_with(waiter->to, tally_run, &waiter->tally, &tally_opts);
    must(duet_future_settled(f));
    waiter->err = duet_future_result(f).err;
    duet_future_unref(f);
}

static void a_bare_callback_never_waits_for_room(void **state)
{
    (void)state;
    struct waiter waiter = {.to = open_small_loop(1, DUET_FULL_WAIT)};
    duet_loop *loop = start_loop();
    duet_future *first = duet_submit(waiter.to, return_ok, NULL);
    run_bare(loop, submit_bare, &waiter);
    must_equal(waiter.err, -EAGAIN);
    must_tally(&waiter.tally, 0, 1);
    close_loop(loop);
    close_loop(waiter.to);
    must_equal(finish(first).err, -ECANCELED);
}

static duet_result submit_to_own_loop(void *arg)
{
    struct tally *tally = arg;
    duet_future *fs[50];
    for (int i = 0; i < 50; i++) {
        fs[i] = duet_submit_with(duet_loop_self(), tally_run, tally, &tally_opts);
        must(!duet_future_settled(fs[i]));
    }
    must_tally(tally, 0, 0); /* not even begun: no submit has let the others run */
    for (int i = 0; i < 50; i++)
        must_equal(finish(fs[i]).err, 0);
    return duet_ok();
}

static void submit_to_own_loop_bare(void *arg)
{
    struct tally *tally = arg;
    for (int i = 0; i < 50; i++) {
        duet_future *f = duet_submit_with(duet_loop_self(), tally_run, tally, &tally_opts);
        must(!duet_future_settled(f));
        duet_future_unref(f);
    }
}

/* bridge.h: on the loop's own thread starting work never waits, and is not refused either. */
static void work_for_ones_own_loop_needs_no_room(void **state)
{
    (void)state;
    static const enum duet_when_full answers[] = {DUET_FULL_WAIT, DUET_FULL_REFUSE};
    for (int i = 0; i < 2; i++) {
        struct tally tally = {0};
        duet_loop *loop = start_small_loop(1, answers[i]);
        must_equal(finish(duet_submit(loop, submit_to_own_loop, &tally)).err, 0);
        must_tally(&tally, 50, 50);
        run_bare(loop, submit_to_own_loop_bare, &tally);
        must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
        must_tally(&tally, 100, 100);
        close_loop(loop);
    }
}

/* ---- duet_call ---- */

struct call {
    duet_loop *loop;
    duet_pool *pool; /* instead of the loop */
    duet_fn *fn;
    void *arg;
    duet_deadline by;
    int64_t in_ms; /* if set: by is so long after the call begins */
    bool started; /* for fn to set, if arg is the call */
    int rounds; /* likewise */
    const duet_opts *opts;
    int rc;
    duet_result result;
};

/* Calls; what is in `result` before must never be there afterwards. */
static duet_result make_call(void *arg)
{
    struct call *call = arg;
    if (call->in_ms)
        call->by = duet_ms(call->in_ms);
    call->result = duet_i64(INT64_C(-987654321));
    call->rc = call->pool ? duet_offload_with(call->pool, call->fn, call->arg, call->opts, call->by,
                                              &call->result)
                          : duet_call_with(call->loop, call->fn, call->arg, call->opts, call->by,
                                           &call->result);
    must(call->result.kind != DUET_I64 || call->result.as.i64 != INT64_C(-987654321));
    return duet_ok();
}

static void make_call_thread(void *arg)
{
    (void)make_call(arg);
}

/* Makes calls that are late, with more and more time, until the work had begun by then. */
static duet_result make_late_call(void *arg)
{
    struct call *call = arg;
    call->arg = call;
    call->started = false;
    for (call->in_ms = 2; !call->started; call->in_ms *= 2)
        (void)make_call(call);
    return duet_ok();
}

static duet_result return_seven(void *arg)
{
    (void)arg;
    return duet_i64(7);
}

/* 29, 33: from a thread, from a coroutine of another loop, of the same loop, and from a job. */
static void a_call_in_time_gives_the_result_wherever_it_comes_from(void **state)
{
    (void)state;
    duet_loop *loop = start_loop(), *other = start_loop();
    duet_pool *pool = open_pool(1);
    struct call call = {.loop = loop, .fn = return_seven, .by = SURELY};
    for (int from = 0; from < 4; from++) {
        call.rc = 1;
        if (from == 0)
            make_call(&call);
        else if (from == 1)
            must_equal(finish(duet_submit(other, make_call, &call)).err, 0);
        else if (from == 2)
            must_equal(finish(duet_submit(loop, make_call, &call)).err, 0);
        else
            must_equal(finish(duet_pool_submit(pool, make_call, &call)).err, 0);
        must_equal(call.rc, 0);
        must_equal(call.result.err, 0);
        must_equal(duet_as_i64(call.result), 7);
    }
    close_pool(pool);
    close_loop(other);
    close_loop(loop);
}

/* 33: the work's own error, even a time-out, is not the wait's. */
static duet_result fail_etime(void *arg)
{
    (void)arg;
    return duet_err(-ETIME);
}

static duet_result fail_ecanceled(void *arg)
{
    (void)arg;
    return duet_err(-ECANCELED);
}

static void a_call_tells_the_works_error_from_its_own(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct call call = {.loop = loop, .by = SURELY};
    call.fn = fail_etime;
    make_call(&call);
    must_equal(call.rc, 0);
    must_equal(call.result.err, -ETIME);
    call.fn = fail_ecanceled; /* nobody asked it to */
    make_call(&call);
    must_equal(call.rc, 0);
    must_equal(call.result.err, -ECANCELED);
    duet_future *f = duet_submit(loop, fail_etime, NULL);
    must_equal(finish(f).err, -ETIME);
    close_loop(loop);
}

/* 28 */
static void a_call_that_is_late_cancels_the_work_and_says_so(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct tally tally = {0};
    duet_deadline by = duet_ms(5);
    struct call call = {
        .loop = loop, .fn = sleep_long, .arg = &tally, .by = by, .opts = &tally_opts};
    make_call(&call);
    must_equal(call.rc, -ETIME);
    must(duet_now_ns() >= by.ns);
    must_equal(call.result.err, -ECANCELED);
    must_tally(&tally, 0, 1);
    close_loop(loop);
}

static duet_result swallow_cancellation(void *arg)
{
    ((struct call *)arg)->started = true;
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
    return duet_i64(42);
}

/* 29: inner swallowed the cancellation and returned: that value. */
static void a_late_call_gives_the_value_of_work_that_returned_one_all_the_same(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct call call = {.loop = loop, .fn = swallow_cancellation};
    make_late_call(&call);
    must_equal(call.rc, 0);
    must_equal(duet_as_i64(call.result), 42);
    close_loop(loop);
}

static duet_result fail_when_cancelled(void *arg)
{
    ((struct call *)arg)->started = true;
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
    return duet_err(-EIO);
}

/* 29: inner failed: that error. */
static void a_late_call_gives_the_error_of_work_that_failed_otherwise(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct call call = {.loop = loop, .fn = fail_when_cancelled};
    make_late_call(&call);
    must_equal(call.rc, 0);
    must_equal(call.result.err, -EIO);
    close_loop(loop);
}

struct cleaning {
    duet_future *started;
    int rounds; /* on the caller's stack: written until the very end */
};

static duet_result clean_up_slowly(void *arg)
{
    struct cleaning *cleaning = arg;
    must_equal(duet_future_settle(cleaning->started, duet_ok()), 0);
    int rc = duet_sleep(duet_sec(3600));
    must_equal(rc, -ECANCELED);
    duet_shield_begin();
    for (int i = 0; i < 5; i++) {
        must_equal(duet_sleep(duet_ms(1)), 0);
        cleaning->rounds++;
    }
    duet_shield_end();
    return duet_err(rc);
}

static duet_result clean_up_late(void *arg)
{
    struct call *call = arg;
    struct cleaning cleaning = {.started = open_promise()};
    call->started = true;
    duet_result r = clean_up_slowly(&cleaning);
    call->rounds = cleaning.rounds;
    duet_future_unref(cleaning.started);
    return r;
}

/* 28: it returns only after fn has ended, so that arg may live on the caller's stack. */
static void a_late_call_returns_only_after_the_work_has_cleaned_up(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct call call = {.loop = loop, .fn = clean_up_late};
    make_late_call(&call);
    must_equal(call.rc, -ETIME);
    must_equal(call.rounds, 5);
    close_loop(loop);
}

/* 30 */
static void a_call_with_a_deadline_in_the_past_never_starts(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    const duet_deadline pasts[] = {DUET_NOW, duet_ms(-1000), duet_ns(-1), {INT64_MIN}};
    for (int i = 0; i < 8; i++) {
        struct tally tally = {0};
        struct call call = {.loop = loop,
                            .pool = i < 4 ? NULL : pool,
                            .fn = tally_run,
                            .arg = &tally,
                            .by = pasts[i % 4],
                            .opts = &tally_opts};
        make_call(&call);
        must_equal(call.rc, -ETIME);
        must(call.result.err < 0);
        must_tally(&tally, 0, 1);
    }
    close_pool(pool);
    close_loop(loop);
}

static duet_result call_from_one_who_is_cancelled(void *arg)
{
    struct call *call = arg;
    struct cleaning *cleaning = call->arg;
    duet_future *f = duet_spawn(make_call, call);
    must_equal(duet_future_wait(cleaning->started, SURELY, NULL), 0);
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    return duet_ok();
}

/* 28, 31: an outside cancel inside a timeout stays a cancel. */
static void a_cancelled_caller_cancels_the_work_and_waits_for_its_end(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct cleaning cleaning = {.started = open_promise()};
    struct call call = {.loop = loop, .fn = clean_up_slowly, .arg = &cleaning, .by = SURELY};
    run_in_coroutine(call_from_one_who_is_cancelled, &call);
    must_equal(call.rc, -ECANCELED);
    must_equal(call.result.err, -ECANCELED);
    must_equal(cleaning.rounds, 5);
    duet_future_unref(cleaning.started);
    close_loop(loop);
}

struct late_caller {
    bool started;
    struct call call;
};

static duet_result call_when_already_cancelled(void *arg)
{
    struct late_caller *caller = arg;
    caller->started = true;
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
    return make_call(&caller->call);
}

static duet_result cancel_before_the_call(void *arg)
{
    struct late_caller *caller = arg;
    duet_future *f = duet_spawn(call_when_already_cancelled, caller);
    while (!caller->started)
        must_equal(duet_yield(), 0);
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    return duet_ok();
}

/* base.h: every wait of a cancelled work fails before it has any effect: nothing is even started.
 */
static void one_who_is_cancelled_already_starts_nothing_by_a_call(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct tally tally = {0};
    struct late_caller caller = {
        .call = {.loop = loop, .fn = tally_run, .arg = &tally, .by = SURELY, .opts = &tally_opts}};
    run_in_coroutine(cancel_before_the_call, &caller);
    must_equal(caller.call.rc, -ECANCELED);
    must_tally(&tally, 0, 1);
    close_loop(loop);
}

/* bridge.h: a refused submission is 0, and the result says why. */
static void a_refused_call_is_a_result(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_opts refuse = {.drop = tally_drop, .flags = DUET_REFUSE};
    duet_loop *full = open_small_loop(1, DUET_FULL_WAIT), *stopped = start_loop();
    duet_future *first = duet_submit(full, return_ok, NULL);
    struct call call = {
        .loop = full, .fn = tally_run, .arg = &tally, .by = SURELY, .opts = &refuse};
    make_call(&call);
    must_equal(call.rc, 0);
    must_equal(call.result.err, -EAGAIN);
    must_tally(&tally, 0, 1);
    duet_loop_stop(stopped);
    call.loop = stopped;
    make_call(&call);
    must_equal(call.rc, 0);
    must_equal(call.result.err, -ESHUTDOWN);
    must_tally(&tally, 0, 2);
    close_loop(stopped);
    close_loop(full);
    must_equal(finish(first).err, -ECANCELED);
}

/* 28, 30: the deadline counts while the call waits for room, too. */
static void a_call_that_waits_for_room_heeds_its_deadline(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_loop *full = open_small_loop(1, DUET_FULL_WAIT);
    duet_future *first = duet_submit(full, return_ok, NULL);
    struct call call = {.loop = full, .fn = tally_run, .arg = &tally, .opts = &tally_opts};
    struct thread thread;
    call.in_ms = 10;
    thread_start(&thread, make_call_thread, &call);
    thread_join(&thread);
    must_equal(call.rc, -ETIME);
    must(duet_now_ns() >= call.by.ns);
    must_tally(&tally, 0, 1);
    close_loop(full);
    must_equal(finish(first).err, -ECANCELED);
}

/* 28, 13: what has not started never will; the caller does not wait for a loop that does not turn.
 */
static void a_call_to_a_loop_that_nobody_runs_heeds_its_deadline(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_loop *loop = open_small_loop(0, DUET_FULL_WAIT);
    struct call call = {.loop = loop, .fn = tally_run, .arg = &tally, .opts = &tally_opts};
    struct thread thread;
    call.in_ms = 10;
    thread_start(&thread, make_call_thread, &call);
    int ended = duet_future_wait(thread.ended, duet_sec(10), NULL);
    close_loop(loop); /* would let it return in any case */
    thread_join(&thread);
    assert_int_equal(ended, 0);
    must_equal(call.rc, -ETIME);
    must_tally(&tally, 0, 1);
}

static void make_call_bare(void *arg)
{
    (void)make_call(arg);
}

/* 36: towards another loop, one's own loop, and a pool. */
static void a_call_from_a_bare_callback_is_edeadlk_and_starts_nothing(void **state)
{
    (void)state;
    duet_loop *loop = start_loop(), *other = start_loop();
    duet_pool *pool = open_pool(1);
    struct tally tally = {0};
    struct call call = {.fn = tally_run, .arg = &tally, .by = SURELY, .opts = &tally_opts};
    for (int i = 0; i < 3; i++) {
        call.loop = i == 0 ? other : loop;
        call.pool = i == 2 ? pool : NULL;
        run_bare(loop, make_call_bare, &call);
        must_equal(call.rc, -EDEADLK);
        must(call.result.err < 0);
    }
    close_pool(pool);
    close_loop(other);
    close_loop(loop);
    must_tally(&tally, 0, 3);
}

static void count_result_drop(void *ptr)
{
    count_drop(ptr);
}

/* bridge.h: a DUET_PTR in *ret is the caller's. */
static void a_pointer_from_a_call_is_the_callers(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    atomic_int drops = 0;
    duet_opts opts = {.drop_result = count_result_drop};
    struct call call = {.loop = loop, .fn = return_arg, .arg = &drops, .by = SURELY, .opts = &opts};
    make_call(&call);
    must_equal(call.rc, 0);
    must(duet_as_ptr(call.result) == &drops);
    call.pool = pool;
    make_call(&call);
    must_equal(call.rc, 0);
    must(duet_as_ptr(call.result) == &drops);
    close_pool(pool);
    close_loop(loop);
    must_equal(atomic_load(&drops), 0);
}

/* base.h: drop_result runs unless somebody took the result: who gives no *ret takes nothing. */
static void a_pointer_from_a_call_that_nobody_wants_is_dropped(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    atomic_int drops[3] = {0};
    duet_opts opts = {.drop_result = count_result_drop};
    must_equal(duet_call_with(loop, return_arg, &drops[0], &opts, SURELY, NULL), 0);
    must_equal(duet_offload_with(pool, return_arg, &drops[1], &opts, SURELY, NULL), 0);
    duet_future *f = duet_submit_with(loop, return_arg, &drops[2], &opts);
    must_equal(duet_future_wait(f, SURELY, NULL), 0);
    must_equal(duet_future_close(f, NULL), 0);
    close_pool(pool);
    close_loop(loop);
    assert_int_equal(drops[0], 1);
    assert_int_equal(drops[1], 1);
    assert_int_equal(drops[2], 1);
}

/* ---- Waiting from a thread ---- */

/* 33: a wait that timed out leaves the work alone; the result is there later. */
static void a_late_result_is_still_there_after_a_wait_that_timed_out(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    duet_future *f = duet_submit(loop, wait_for_promise, promise);
    duet_result r = duet_i64(1);
    duet_deadline by = duet_ms(3);
    must_equal(duet_future_wait(f, DUET_NOW, &r), -ETIME);
    must_equal(duet_future_wait(f, by, &r), -ETIME);
    must(duet_now_ns() >= by.ns);
    must(!duet_future_settled(f));
    must_equal(duet_future_settle(promise, duet_i64(99)), 0);
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 99);
    must_equal(duet_future_wait(f, DUET_NOW, &r), 0); /* settled: whatever the deadline */
    must_equal(duet_as_i64(r), 99);
    duet_future_unref(f);
    duet_future_unref(promise);
    close_loop(loop);
}

/* 35: a thread that closes the handle goes on only after the coroutine's clean-up. */
static void closing_from_a_thread_returns_after_the_coroutines_clean_up(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct cleaning cleaning = {.started = open_promise()};
    duet_future *f = duet_submit(loop, clean_up_slowly, &cleaning);
    duet_result r;
    must_equal(duet_future_wait(cleaning.started, SURELY, NULL), 0);
    must_equal(duet_future_close(f, &r), 0);
    must_equal(cleaning.rounds, 5);
    must_equal(r.err, -ECANCELED);
    duet_future_unref(cleaning.started);
    close_loop(loop);
}

struct waits_in_callback {
    duet_future *pending, *settled;
    int sleep, wait, wait_settled, close, many, gather;
};

static void wait_in_callback(void *arg)
{
    struct waits_in_callback *w = arg;
    duet_future *both[] = {w->pending, w->settled};
    w->sleep = duet_sleep(duet_sec(3600));
    w->wait = duet_future_wait(w->pending, SURELY, NULL);
    w->wait_settled = duet_future_wait(w->settled, SURELY, NULL);
    w->close = duet_future_close(w->pending, NULL);
    w->many = duet_future_wait_many(both, 2, DUET_UNTIL_ALL, SURELY, NULL);
    w->gather = duet_gather(both, 2, SURELY, NULL);
}

/* 10, 36: no wait in a bare callback blocks the loop; what is settled is given. */
static void a_wait_in_a_bare_callback_is_edeadlk_unless_it_is_answered_at_once(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct waits_in_callback w = {.settled = open_promise()};
    must_equal(duet_future_settle(w.settled, duet_ok()), 0);
    w.pending = duet_submit(loop, sleep_long, NULL);
    run_bare(loop, wait_in_callback, &w);
    must_equal(w.sleep, -EDEADLK);
    must_equal(w.wait, -EDEADLK);
    must_equal(w.wait_settled, 0);
    must_equal(w.close, -EDEADLK);
    must_equal(w.many, -EDEADLK);
    must_equal(w.gather, -EDEADLK);
    must_equal(duet_future_close(w.pending, NULL), 0); /* the handle stayed ours */
    duet_future_unref(w.settled);
    close_loop(loop);
}

/* ---- Drops ---- */

/* What happens to a piece of work, in order. */
struct life {
    duet_future *go; /* fn waits for it, so that f is known by then */
    _Atomic(duet_future *) f; /* known to drop() before it runs */
    atomic_int ran, dropped;
};

static duet_result live(void *arg)
{
    struct life *life = arg;
    int rc = duet_future_wait(life->go, DUET_NEVER, NULL);
    must_equal(atomic_load(&life->dropped), 0);
    atomic_fetch_add(&life->ran, 1);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

static void end_life(void *arg)
{
    struct life *life = arg;
    duet_future *f = atomic_load(&life->f);
    must(f != NULL && !duet_future_settled(f));
    must_equal(atomic_fetch_add(&life->dropped, 1), 0);
}

static const duet_opts life_opts = {.drop = end_life};

static void must_have_lived(struct life *life, int err, int ran)
{
    duet_future *f = atomic_load(&life->f);
    duet_result r;
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    must_equal(atomic_load(&life->dropped), 1); /* at once: it was dropped before it settled */
    must_equal(r.err, err);
    must_equal(atomic_load(&life->ran), ran);
    duet_future_unref(f);
    duet_future_unref(life->go);
}

/* 38: after fn, and before the future settles. */
static void work_that_ran_was_dropped_once_before_it_settled(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        struct life life = {.go = open_promise()};
        duet_future *f = i == 0 ? duet_submit_with(loop, live, &life, &life_opts)
                                : duet_pool_submit_with(pool, live, &life, &life_opts);
        atomic_store(&life.f, f);
        must_equal(duet_future_settle(life.go, duet_ok()), 0);
        must_have_lived(&life, 0, 1);
    }
    close_pool(pool);
    close_loop(loop);
}

/* 38: a running coroutine and a running job that are cancelled. */
static void work_cancelled_while_it_ran_was_dropped_once_before_it_settled(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        struct life life = {.go = open_promise()};
        duet_future *f = i == 0 ? duet_submit_with(loop, live, &life, &life_opts)
                                : duet_pool_submit_with(pool, live, &life, &life_opts);
        atomic_store(&life.f, f);
        /* a second one has begun only after the first, which therefore waits, or will at once */
        if (i == 0)
            must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
        else
            for (duet_pool_stats stats = {0}; stats.busy == 0; sched_yield())
                duet_pool_stats_get(pool, &stats);
        duet_future_cancel(f);
        duet_result r;
        must_equal(duet_future_wait(f, SURELY, &r), 0);
        must_have_lived(&life, -ECANCELED, i == 0 ? 1 : atomic_load(&life.ran));
    }
    close_pool(pool);
    close_loop(loop);
}

/* 13, 38: the body never runs, the argument is dropped. */
static void work_cancelled_before_its_start_was_dropped_once_before_it_settled(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(0, DUET_FULL_WAIT);
    struct thread runner;
    struct life life = {.go = open_promise()};
    atomic_store(&life.f, duet_submit_with(loop, live, &life, &life_opts));
    duet_future_cancel(life.f);
    duet_future_cancel(life.f);
    thread_start(&runner, run_loop, loop);
    must_have_lived(&life, -ECANCELED, 0);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL),
               0); /* it runs, and has gone past it */
    close_loop(loop);
    thread_join(&runner);
    must_equal(life.ran, 0);
}

/* 37, 38: queued when its loop closes, whether that has turned or not. */
static void work_whose_loop_closed_was_dropped_once_before_it_settled(void **state)
{
    (void)state;
    struct gate gate = GATE_INIT;
    for (int i = 0; i < 2; i++) {
        duet_loop *loop = i == 0 ? open_small_loop(0, DUET_FULL_WAIT) : start_loop();
        struct life life = {.go = open_promise()};
        duet_future *holder = NULL;
        if (i == 1) {
            holder = duet_submit(loop, hold_thread, &gate);
            gate_await_arrivals(&gate, 1);
        }
        atomic_store(&life.f, duet_submit_with(loop, live, &life, &life_opts));
        duet_loop_stop(loop);
        gate_open(&gate);
        close_loop(loop);
        must_have_lived(&life, -ECANCELED, 0);
        if (holder)
            must_equal(finish(holder).err, 0);
        gate = (struct gate)GATE_INIT;
    }
}

/* 38: started, waiting, and asked to end by its loop's end. */
static void work_that_its_loop_interrupted_was_dropped_once_before_it_settled(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct life life = {.go = open_promise()};
    atomic_store(&life.f, duet_submit_with(loop, live, &life, &life_opts));
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    close_loop(loop);
    must_have_lived(&life, -ECANCELED, 1);
}

/* 38: whoever is refused, for whatever reason, has had the argument dropped by the time of the
 * answer. */
static void refused_work_was_dropped_once_when_the_submission_returns(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_loop *loop = start_loop();
    duet_opts unknown = {.drop = tally_drop, .flags = 1u << 30};
    duet_opts word = {.drop = tally_drop, .reserved = {0, 1}};
    duet_opts priority = {.drop = tally_drop, .priority = 3};
    const struct {
        const duet_opts *opts;
        int err;
    } cases[] = {{&unknown, -EINVAL}, {&word, -EINVAL}, {&priority, -EINVAL}};
    log_capture();
    for (int i = 0; i < 3; i++) {
        duet_future *f = duet_submit_with(loop, tally_run, &tally, cases[i].opts);
        must(duet_future_settled(f));
        must_tally(&tally, 0, i + 1);
        must_equal(finish(f).err, cases[i].err);
    }
    log_release();
    duet_loop_stop(loop);
    duet_future *f = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    must(duet_future_settled(f));
    must_tally(&tally, 0, 4);
    must_equal(finish(f).err, -ESHUTDOWN);
    close_loop(loop);
    must_tally(&tally, 0, 4);
}

/* 38: what a waiting thread sees at the very moment of the settling, many times. */
static void a_waiter_finds_the_argument_dropped_every_time(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    for (int i = test_rounds(5000); i > 0; i--) {
        struct tally tally = {0};
        must_equal(finish(duet_submit_with(loop, tally_run, &tally, &tally_opts)).err, 0);
        must_tally(&tally, 1, 1);
        must_equal(finish(duet_pool_submit_with(pool, tally_run, &tally, &tally_opts)).err, 0);
        must_tally(&tally, 2, 2);
    }
    close_pool(pool);
    close_loop(loop);
}

/* 13, 38: whoever wins the race, it ran or it did not, and was dropped once. */
static void a_cancel_that_races_the_start_leaves_one_outcome(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    for (int i = test_rounds(5000); i > 0; i--) {
        struct tally tally = {0};
        duet_future *f = duet_submit_with(loop, tally_run, &tally, &tally_opts);
        duet_future_cancel(f);
        duet_result r = finish(f);
        must(r.err == 0 || r.err == -ECANCELED);
        must_tally(&tally, r.err == 0, 1);
    }
    close_loop(loop);
}

/* ---- Failures on the loop's side ---- */

/* 43: above coroutines_max the submitter is told; when one has ended there is room. */
static void a_coroutine_too_many_reaches_the_submitters_future(void **state)
{
    (void)state;
    duet_loop *loop;
    duet_loop_config config = {.coroutines_max = 2};
    struct tally tally = {0};
    must_equal(duet_loop_start(&loop, &config), 0);
    duet_future *one = duet_submit(loop, sleep_long, NULL);
    duet_future *two = duet_submit(loop, sleep_long, NULL);
    must_equal(finish(duet_submit_with(loop, tally_run, &tally, &tally_opts)).err, -EAGAIN);
    must_tally(&tally, 0, 1);
    must_equal(duet_future_close(one, NULL), 0);
    must_equal(finish(duet_submit_with(loop, tally_run, &tally, &tally_opts)).err, 0);
    must_tally(&tally, 1, 2);
    must_equal(duet_future_close(two, NULL), 0);
    close_loop(loop);
}

static duet_result spawn_too_many(void *arg)
{
    struct tally *tally = arg;
    duet_future *one = duet_spawn(sleep_long, NULL);
    duet_future *two = duet_spawn_with(tally_run, tally, &tally_opts);
    must_equal(finish(two).err, -EAGAIN);
    must_tally(tally, 0, 1);
    must_equal(duet_future_close(one, NULL), 0);
    must_equal(finish(duet_spawn_with(tally_run, tally, &tally_opts)).err, 0);
    return duet_ok();
}

/* 43: the same for who starts them on the loop itself. */
static void a_coroutine_too_many_reaches_the_spawners_future(void **state)
{
    (void)state;
    duet_loop *loop;
    duet_loop_config config = {.coroutines_max = 2};
    struct tally tally = {0};
    must_equal(duet_loop_start(&loop, &config), 0);
    must_equal(finish(duet_submit(loop, spawn_too_many, &tally)).err, 0);
    must_tally(&tally, 1, 2);
    close_loop(loop);
}

static duet_result check_name(void *arg)
{
    must(strcmp(duet_self_name(), arg) == 0);
    must_equal(duet_sleep(DUET_NOW), 0);
    must(strcmp(duet_self_name(), arg) == 0);
    return duet_ok();
}

/* 12: the name is there at the first step; it was copied. */
static void a_submitted_coroutine_has_its_name_at_its_first_step(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(0, DUET_FULL_WAIT);
    struct thread runner;
    char name[] = "Leporello", copy[] = "Leporello";
    duet_future *f = duet_submit_with(loop, check_name, copy, &(duet_opts){.name = name});
    memset(name, 'x', sizeof name - 1);
    thread_start(&runner, run_loop, loop);
    must_equal(finish(f).err, 0);
    close_loop(loop);
    thread_join(&runner);
}

/* ---- Several loops and pools ---- */

struct bounce {
    duet_loop *here, *there;
    int depth;
};

static duet_result bounce(void *arg)
{
    struct bounce *b = arg, next = {b->there, b->here, b->depth - 1};
    duet_result r;
    must(duet_loop_self() == b->here);
    if (b->depth == 0)
        return duet_i64(0);
    must_equal(duet_call(b->there, bounce, &next, SURELY, &r), 0);
    must_equal(r.err, 0);
    must(duet_loop_self() == b->here);
    return duet_i64(duet_as_i64(r) + 1);
}

static void bounce_both_ways(duet_loop *a, duet_loop *b)
{
    enum {
        EACH = 40,
        DEPTH = 7
    };
    struct bounce from_a = {a, b, DEPTH}, from_b = {b, a, DEPTH};
    duet_future *fs[2 * EACH];
    for (int i = 0; i < EACH; i++) {
        fs[2 * i] = duet_submit(a, bounce, &from_a);
        fs[2 * i + 1] = duet_submit(b, bounce, &from_b);
    }
    for (int i = 0; i < 2 * EACH; i++)
        must_equal(duet_as_i64(finish(fs[i])), DEPTH);
    close_loop(a);
    close_loop(b);
}

/* 36: waiting in a coroutine suspends it, so two loops may call each other at once. */
static void two_loops_call_each_other_at_once(void **state)
{
    (void)state;
    bounce_both_ways(start_loop(), start_loop());
}

/* 36, 39: and though both inboxes are full. */
static void two_loops_with_full_inboxes_call_each_other_at_once(void **state)
{
    (void)state;
    bounce_both_ways(start_small_loop(1, DUET_FULL_WAIT), start_small_loop(2, DUET_FULL_WAIT));
}

/* 36: a loop may call itself, the coroutine waits like for any other. */
static void a_coroutine_calls_its_own_loop(void **state)
{
    (void)state;
    duet_loop *loop = start_small_loop(1, DUET_FULL_WAIT);
    struct bounce b = {loop, loop, 5};
    must_equal(duet_as_i64(finish(duet_submit(loop, bounce, &b))), 5);
    close_loop(loop);
}

static duet_result tell_thread(void *arg)
{
    must(duet_loop_self() == NULL);
    *(pthread_t *)arg = pthread_self();
    return duet_i64(5);
}

struct offload {
    duet_pool *pool;
    pthread_t ran_on;
};

static duet_result offload_once(void *arg)
{
    struct offload *o = arg;
    duet_result r = duet_ok();
    must_equal(duet_offload(o->pool, tell_thread, &o->ran_on, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 5);
    must(!pthread_equal(o->ran_on, pthread_self()));
    return duet_ok();
}

/* bridge.h: from a thread, a coroutine, a job of another pool, a job of the same pool. */
static void offloading_works_from_anywhere(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(2), *other = open_pool(1);
    duet_loop *loop = start_loop();
    struct offload o = {.pool = pool};
    (void)offload_once(&o);
    must_equal(finish(duet_submit(loop, offload_once, &o)).err, 0);
    must_equal(finish(duet_pool_submit(other, offload_once, &o)).err, 0);
    must_equal(finish(duet_pool_submit(pool, offload_once, &o)).err, 0);
    close_loop(loop);
    close_pool(other);
    close_pool(pool);
}

/* bridge.h: pool NULL is the process's own, the same for all who ask. */
static void without_a_pool_work_goes_to_the_default_pool(void **state)
{
    (void)state;
    struct offload o = {.pool = NULL};
    duet_pool_stats before, after;
    duet_pool *pool = duet_pool_default();
    must(pool != NULL);
    must(duet_pool_default() == pool);
    duet_pool_stats_get(pool, &before);
    (void)offload_once(&o);
    run_in_coroutine(offload_once, &o);
    duet_pool_stats_get(pool, &after);
    must_equal(after.submitted - before.submitted, 2);
}

static void get_default_pool(void *arg)
{
    *(duet_pool **)arg = duet_pool_default();
}

/* bridge.h: opened at first use, once, though all come at the same time. */
static void the_default_pool_is_one_for_all_threads(void **state)
{
    (void)state;
    struct thread threads[4];
    duet_pool *pools[4] = {0};
    for (int i = 0; i < 4; i++)
        thread_start(&threads[i], get_default_pool, &pools[i]);
    for (int i = 0; i < 4; i++)
        thread_join(&threads[i]);
    for (int i = 0; i < 4; i++)
        must(pools[i] != NULL && pools[i] == duet_pool_default());
}

struct side {
    struct gate gate;
    duet_pool *pool;
    bool offloading;
};

static duet_result offload_to_gate(void *arg)
{
    struct side *side = arg;
    side->offloading = true;
    must_equal(duet_offload(side->pool, gate_pass_job, &side->gate, SURELY, NULL), 0);
    side->offloading = false;
    return duet_ok();
}

static duet_result go_on_beside(void *arg)
{
    struct side *side = arg;
    duet_future *f = duet_spawn(offload_to_gate, side);
    while (!side->offloading)
        must_equal(duet_yield(), 0);
    for (int i = 0; i < 100; i++)
        must_equal(duet_yield(), 0);
    must(side->offloading);
    gate_open(&side->gate);
    must_equal(finish(f).err, 0);
    return duet_ok();
}

/* 64: the loop goes on while one of its coroutines waits for a job. */
static void a_loop_goes_on_while_a_coroutine_waits_for_a_job(void **state)
{
    (void)state;
    struct side side = {GATE_INIT, open_pool(1), false};
    run_in_coroutine(go_on_beside, &side);
    close_pool(side.pool);
}

/* 28, 48: the job sees its cancellation, and the caller waits for its end. */
static duet_result poll_cancellation(void *arg)
{
    struct call *call = arg;
    call->started = true;
    while (!duet_cancelled())
        sched_yield();
    call->rounds++;
    return duet_err(-ECANCELED);
}

static void a_late_offload_cancels_the_job_and_waits_for_its_end(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    struct call call = {.pool = pool, .fn = poll_cancellation};
    make_late_call(&call);
    must_equal(call.rc, -ETIME);
    must_equal(call.rounds, 1);
    must_equal(call.result.err, -ECANCELED);
    run_in_coroutine(make_late_call, &call);
    must_equal(call.rc, -ETIME);
    must_equal(call.rounds, 2);
    close_pool(pool);
}

/* 28, 45: the only worker is busy; the job is taken out of the queue. */
static void a_late_offload_takes_a_queued_job_back(void **state)
{
    (void)state;
    struct gate gate = GATE_INIT;
    duet_pool *pool = open_pool(1);
    struct tally tally = {0};
    duet_future *holder = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    struct call call = {
        .pool = pool, .fn = tally_run, .arg = &tally, .by = duet_ms(5), .opts = &tally_opts};
    make_call(&call);
    must_equal(call.rc, -ETIME);
    must_tally(&tally, 0, 1);
    call.by = duet_ms(5);
    run_in_coroutine(make_call, &call);
    must_equal(call.rc, -ETIME);
    must_tally(&tally, 0, 2);
    gate_open(&gate);
    must_equal(finish(holder).err, 0);
    close_pool(pool);
    must_tally(&tally, 0, 2);
}

struct hop {
    duet_loop *loops[2];
    duet_pool *pool;
    int depth;
};

static duet_result hop(void *arg)
{
    struct hop *h = arg, next = *h;
    duet_result r;
    next.depth--;
    if (h->depth == 0)
        return duet_i64(0);
    if (duet_loop_self())
        must_equal(duet_offload(h->pool, hop, &next, SURELY, &r), 0);
    else
        must_equal(duet_call(h->loops[h->depth / 2 % 2], hop, &next, SURELY, &r), 0);
    must_equal(r.err, 0);
    return duet_i64(duet_as_i64(r) + 1);
}

static void hop_thread(void *arg)
{
    must_equal(duet_as_i64(hop(arg)), 8);
}

/* thread -> loop -> pool -> other loop -> pool -> ... */
static void calls_nest_from_thread_to_loop_to_pool_to_loop(void **state)
{
    (void)state;
    struct hop h = {{start_loop(), start_loop()}, open_pool(8), 8};
    struct thread threads[2];
    for (int i = test_rounds(50); i > 0; i--) {
        for (int k = 0; k < 2; k++)
            thread_start(&threads[k], hop_thread, &h);
        for (int k = 0; k < 2; k++)
            thread_join(&threads[k]);
    }
    close_loop(h.loops[0]);
    close_loop(h.loops[1]);
    close_pool(h.pool);
}

/* ---- duet_call_soon ---- */

struct soon {
    duet_loop *loop;
    pthread_t thread;
    bool ran;
};

static void check_bare(void *arg)
{
    struct soon *soon = arg;
    must(duet_loop_self() == soon->loop);
    must_equal(duet_sleep(duet_sec(1)), -EDEADLK);
    must(!duet_cancelled());
    soon->thread = pthread_self();
    soon->ran = true;
}

static duet_result call_soon_from_coroutine(void *arg)
{
    struct soon *soon = arg;
    soon->loop = duet_loop_self();
    must_equal(duet_call_soon(soon->loop, check_bare, soon), 0);
    must(!soon->ran); /* never inline */
    for (int i = 0; i < 100000 && !soon->ran; i++)
        must_equal(duet_yield(), 0);
    must(soon->ran);
    must(pthread_equal(soon->thread, pthread_self()));
    return duet_ok();
}

/* 2, 36: in the next turn, on the loop's thread, outside any coroutine. */
static void a_callback_runs_in_the_next_turn_outside_any_coroutine(void **state)
{
    (void)state;
    struct soon soon = {0};
    run_in_coroutine(call_soon_from_coroutine, &soon);
}

/* 38: never waits, whatever was chosen; after an error arg is still the caller's. */
static void a_callback_for_a_full_inbox_is_refused_and_not_dropped(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(2, DUET_FULL_WAIT);
    struct tally tally = {0}, refused = {0};
    must_equal(duet_call_soon_with(loop, tally_call, &tally, tally_drop), 0);
    must_equal(duet_call_soon(loop, tally_call, &tally), 0);
    must_equal(duet_call_soon_with(loop, tally_call, &refused, tally_drop), -EAGAIN);
    must_equal(duet_call_soon(loop, tally_call, &refused), -EAGAIN);
    duet_future *f = duet_call_at(loop, DUET_NOW, tally_call, &refused);
    must(duet_future_settled(f));
    must_equal(finish(f).err, -EAGAIN);
    close_loop(loop);
    must_tally(&tally, 0, 1);
    must_tally(&refused, 0, 0);
}

static pthread_t dropped_on;

static void drop_here(void *arg)
{
    dropped_on = pthread_self();
    tally_drop(arg);
}

/* 38: the loop never ran: drop instead of fn, on the thread that ends the loop. */
static void a_callback_on_a_loop_that_never_runs_is_dropped_by_its_close(void **state)
{
    (void)state;
    duet_loop *loop = open_small_loop(0, DUET_FULL_WAIT);
    struct tally tally = {0};
    memset(&dropped_on, 0, sizeof dropped_on);
    must_equal(duet_call_soon_with(loop, tally_call, &tally, drop_here), 0);
    must_equal(duet_call_soon(loop, tally_call, &tally), 0); /* nothing to drop it with */
    must_tally(&tally, 0, 0);
    close_loop(loop);
    must_tally(&tally, 0, 1);
    must(pthread_equal(dropped_on, pthread_self()));
}

/* 38: every callback that was taken runs or is dropped, whoever comes first; a refused one is
 * neither. */
static void a_callback_that_races_the_stop_runs_or_is_dropped_once(void **state)
{
    (void)state;
    for (int i = test_rounds(200); i > 0; i--) {
        struct tally tally = {0};
        duet_loop *loop = duet_loop_ref(start_loop());
        int taken = 0, rc;
        for (int k = 0; k < 20; k++) {
            rc = duet_call_soon_with(loop, tally_call, &tally, tally_drop);
            must(rc == 0 || rc == -ESHUTDOWN);
            taken += rc == 0;
            if (k == i % 20)
                duet_loop_stop(loop);
            must(k <= i % 20 || rc == -ESHUTDOWN);
        }
        close_loop(loop);
        duet_loop_unref(loop);
        must_equal(atomic_load(&tally.ran) + atomic_load(&tally.dropped), taken);
    }
}

/* 37, 38 */
static void a_callback_for_a_stopped_loop_is_refused_and_not_dropped(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct tally tally = {0};
    duet_loop_stop(loop);
    must_equal(duet_call_soon(loop, tally_call, &tally), -ESHUTDOWN);
    must_equal(duet_call_soon_with(loop, tally_call, &tally, tally_drop), -ESHUTDOWN);
    duet_future *f = duet_call_at(loop, DUET_NOW, tally_call, &tally);
    must(duet_future_settled(f));
    must_equal(finish(f).err, -ESHUTDOWN);
    duet_future *promise = open_promise();
    must_equal(duet_future_then(promise, loop, tally_call, &tally, tally_drop), -ESHUTDOWN);
    duet_future_unref(promise);
    close_loop(loop);
    must_tally(&tally, 0, 0);
}

/* ---- duet_call_at ---- */

struct moment {
    duet_deadline at;
    int *order;
    int mine;
};

static void note_moment(void *arg)
{
    struct moment *moment = arg;
    must(duet_now_ns() >= moment->at.ns);
    moment->mine = (*moment->order)++;
}

/* 32: never early, the earlier one first, and the future settles when it has run. */
static void a_callback_at_a_moment_is_never_early(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    int order = 0;
    struct moment moments[3] = {
        {duet_ms(30), &order, -1}, {duet_ms(10), &order, -1}, {DUET_NOW, &order, -1}};
    duet_future *fs[3];
    for (int i = 0; i < 3; i++)
        fs[i] = duet_call_at(loop, moments[i].at, note_moment, &moments[i]);
    for (int i = 0; i < 3; i++) {
        must_equal(finish(fs[i]).err, 0);
        must(moments[i].mine >= 0);
    }
    must_equal(moments[0].mine, 2);
    must_equal(moments[1].mine, 1);
    must_equal(moments[2].mine, 0);
    close_loop(loop);
}

/* 13, 32: cancelled before its moment, it never runs. */
static void a_callback_cancelled_before_its_moment_never_runs(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct tally tally = {0};
    duet_future *f = duet_call_at(loop, duet_ms(20), tally_call, &tally);
    duet_future *g = duet_call_at(loop, duet_sec(3600), tally_call, &tally);
    duet_future_cancel(f);
    duet_future_cancel(g);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(finish(g).err, -ECANCELED);
    run_bare(loop, nothing, NULL);
    must_equal(finish(duet_call_at(loop, duet_ms(30), nothing, NULL)).err, 0);
    must_tally(&tally, 0, 0);
    close_loop(loop);
    must_tally(&tally, 0, 0);
}

/* 32: it ran, or it was cancelled and never runs; not both. */
static void a_cancel_that_races_the_moment_leaves_one_outcome(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    for (int i = test_rounds(2000); i > 0; i--) {
        struct tally tally = {0};
        duet_future *f = duet_call_at(loop, duet_us(i % 100), tally_call, &tally);
        if (i % 3)
            (void)duet_future_wait(f, duet_us(i % 100), NULL);
        duet_future_cancel(f);
        duet_result r = finish(f);
        must(r.err == 0 || r.err == -ECANCELED);
        must_tally(&tally, r.err == 0, 0);
        if (i % 50 == 0)
            run_bare(loop, nothing, NULL);
        must_tally(&tally, r.err == 0, 0);
    }
    close_loop(loop);
}

/* 37: a moment that lies after the end of the loop. */
static void a_callback_whose_moment_never_came_settles_when_the_loop_ends(void **state)
{
    (void)state;
    struct tally tally = {0};
    for (int i = 0; i < 2; i++) {
        duet_loop *loop = i == 0 ? start_loop() : open_small_loop(0, DUET_FULL_WAIT);
        duet_future *f = duet_call_at(loop, duet_sec(3600), tally_call, &tally);
        close_loop(loop);
        must(duet_future_settled(f));
        must_equal(finish(f).err, -ECANCELED);
    }
    must_tally(&tally, 0, 0);
}

/* ---- duet_future_then ---- */

struct after {
    duet_loop *loop;
    duet_future *f;
    int next; /* on the loop's thread */
    struct link {
        struct after *after;
        int number;
    } links[20];
};

static void check_link(void *arg)
{
    struct link *link = arg;
    must(duet_loop_self() == link->after->loop);
    must(duet_future_settled(link->after->f));
    must_equal(link->number, link->after->next);
    link->after->next++;
}

static duet_result count_links(void *arg)
{
    struct after *after = arg;
    for (int i = 0; i < 100000 && after->next < 20; i++)
        must_equal(duet_yield(), 0);
    return duet_i64(after->next);
}

/* 2, 3: before and after the settling, in the order in which they were added, on the loop. */
static void callbacks_of_a_future_run_on_the_loop_in_the_order_added(void **state)
{
    (void)state;
    struct after after = {.loop = start_loop(), .f = open_promise()};
    for (int i = 0; i < 20; i++) {
        after.links[i] = (struct link){&after, i};
        must_equal(duet_future_then(after.f, after.loop, check_link, &after.links[i], NULL), 0);
        if (i == 9)
            must_equal(duet_future_settle(after.f, duet_ok()), 0);
    }
    must_equal(duet_as_i64(finish(duet_submit(after.loop, count_links, &after))), 20);
    duet_future_unref(after.f);
    close_loop(after.loop);
}

static duet_result then_on_own_loop(void *arg)
{
    struct tally *tally = arg;
    duet_future *promise = open_promise();
    must_equal(duet_future_then(promise, duet_loop_self(), tally_call, tally, tally_drop), 0);
    must_equal(duet_future_settle(promise, duet_ok()), 0);
    must_tally(tally, 0, 0); /* never inside settle */
    must_equal(duet_future_then(promise, duet_loop_self(), tally_call, tally, tally_drop), 0);
    must_tally(tally, 0, 0); /* never inside then */
    for (int i = 0; i < 100000 && atomic_load(&tally->ran) < 2; i++)
        must_equal(duet_yield(), 0);
    must_tally(tally, 2, 0);
    duet_future_unref(promise);
    return duet_ok();
}

/* 2, 3 */
static void a_callback_never_runs_inside_settle_or_then(void **state)
{
    (void)state;
    struct tally tally = {0};
    run_in_coroutine(then_on_own_loop, &tally);
    must_tally(&tally, 2, 0);
}

/* 37: the loop is gone when the future settles: drop, on the thread that settles. */
static void a_callback_whose_loop_has_ended_is_dropped_by_who_settles(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        duet_loop *loop = i == 0 ? start_loop() : open_small_loop(0, DUET_FULL_WAIT);
        duet_future *promise = open_promise();
        struct tally tally = {0};
        memset(&dropped_on, 0, sizeof dropped_on);
        must_equal(duet_future_then(promise, loop, tally_call, &tally, drop_here), 0);
        must_equal(duet_future_then(promise, loop, tally_call, &tally, NULL), 0);
        close_loop(loop); /* is not held up by the callback */
        must_tally(&tally, 0, 0);
        must_equal(duet_future_settle(promise, duet_ok()), 0);
        must_tally(&tally, 0, 1);
        must(pthread_equal(dropped_on, pthread_self()));
        duet_future_unref(promise);
    }
}

/* 4: a callback taken back neither runs nor is dropped; the others do run. */
static void a_callback_taken_back_neither_runs_nor_is_dropped(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    struct tally twice = {0}, gone = {0};
    must_equal(duet_future_then(promise, loop, tally_call, &twice, tally_drop), 0);
    must_equal(duet_future_then(promise, loop, tally_call, &gone, tally_drop), 0);
    must_equal(duet_future_then(promise, loop, tally_call, &twice, tally_drop), 0);
    must_equal(duet_future_then(promise, loop, tally_call, &twice, tally_drop), 0);
    must(!duet_future_forget(promise, nothing, &gone));
    must(duet_future_forget(promise, tally_call, &gone));
    must(!duet_future_forget(promise, tally_call, &gone));
    must(duet_future_forget(promise, tally_call, &twice)); /* one of the three */
    must_equal(duet_future_settle(promise, duet_ok()), 0);
    must(!duet_future_forget(promise, tally_call, &twice));
    while (atomic_load(&twice.ran) < 2)
        run_bare(loop, nothing, NULL);
    run_bare(loop, nothing, NULL);
    must_tally(&twice, 2, 0);
    must_tally(&gone, 0, 0);
    duet_future_unref(promise);
    close_loop(loop);
    must_tally(&twice, 2, 0);
}

struct race {
    duet_future *promise;
    struct thread settler;
};

static void settle_race(void *arg)
{
    struct race *race = arg;
    must_equal(duet_future_settle(race->promise, duet_ok()), 0);
}

/* 4: taken back, or it runs: never both, never neither. */
static void taking_a_callback_back_while_it_settles_leaves_one_outcome(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    for (int i = test_rounds(500); i > 0; i--) {
        struct race race = {.promise = open_promise()};
        struct tally tally = {0};
        must_equal(duet_future_then(race.promise, loop, tally_call, &tally, tally_drop), 0);
        thread_start(&race.settler, settle_race, &race);
        bool forgotten = duet_future_forget(race.promise, tally_call, &tally);
        thread_join(&race.settler);
        while (!forgotten && atomic_load(&tally.ran) == 0)
            run_bare(loop, nothing, NULL);
        run_bare(loop, nothing, NULL);
        must_tally(&tally, !forgotten, 0);
        duet_future_unref(race.promise);
    }
    close_loop(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(submissions_of_one_thread_start_in_order),
        cmocka_unit_test(submissions_of_two_threads_start_in_order_for_each),
        cmocka_unit_test(submissions_of_four_threads_start_in_order_for_each),
        cmocka_unit_test(submissions_of_eight_threads_start_in_order_for_each),
        cmocka_unit_test(order_holds_though_producers_wait_for_room),
        cmocka_unit_test(callbacks_of_four_threads_run_in_order_for_each),
        cmocka_unit_test(a_flood_of_submissions_starves_neither_timers_nor_coroutines),
        cmocka_unit_test(a_flood_of_callbacks_starves_neither_timers_nor_coroutines),
        cmocka_unit_test(a_callback_that_asks_for_itself_again_starves_nobody),
        cmocka_unit_test(a_loop_that_never_spins_is_woken_for_every_call),
        cmocka_unit_test(a_loop_is_woken_by_whichever_thread_comes_first),
        cmocka_unit_test(settling_from_a_thread_wakes_a_waiting_coroutine),
        cmocka_unit_test(a_callback_wakes_the_loop),
        cmocka_unit_test(a_full_inbox_that_refuses_settles_with_eagain),
        cmocka_unit_test(one_submission_may_refuse_to_wait_for_room),
        cmocka_unit_test(a_loop_that_should_run_here_is_not_opened),
        cmocka_unit_test(a_thread_waits_for_room),
        cmocka_unit_test(a_thread_that_waits_for_room_is_answered_by_the_stop),
        cmocka_unit_test(a_stop_answers_who_waits_for_room_though_the_loop_is_busy),
        cmocka_unit_test(a_coroutine_waits_for_room_of_another_loop),
        cmocka_unit_test(waiting_for_room_ends_by_cancellation),
        cmocka_unit_test(waiting_for_room_ends_by_the_loops_stop),
        cmocka_unit_test(all_who_wait_for_room_get_in),
        cmocka_unit_test(giving_up_as_room_comes_loses_no_place),
        cmocka_unit_test(a_bare_callback_never_waits_for_room),
        cmocka_unit_test(work_for_ones_own_loop_needs_no_room),
        cmocka_unit_test(a_call_in_time_gives_the_result_wherever_it_comes_from),
        cmocka_unit_test(a_call_tells_the_works_error_from_its_own),
        cmocka_unit_test(a_call_that_is_late_cancels_the_work_and_says_so),
        cmocka_unit_test(a_late_call_gives_the_value_of_work_that_returned_one_all_the_same),
        cmocka_unit_test(a_late_call_gives_the_error_of_work_that_failed_otherwise),
        cmocka_unit_test(a_late_call_returns_only_after_the_work_has_cleaned_up),
        cmocka_unit_test(a_call_with_a_deadline_in_the_past_never_starts),
        cmocka_unit_test(a_cancelled_caller_cancels_the_work_and_waits_for_its_end),
        cmocka_unit_test(one_who_is_cancelled_already_starts_nothing_by_a_call),
        cmocka_unit_test(a_refused_call_is_a_result),
        cmocka_unit_test(a_call_that_waits_for_room_heeds_its_deadline),
        cmocka_unit_test(a_call_to_a_loop_that_nobody_runs_heeds_its_deadline),
        cmocka_unit_test(a_call_from_a_bare_callback_is_edeadlk_and_starts_nothing),
        cmocka_unit_test(a_pointer_from_a_call_is_the_callers),
        cmocka_unit_test(a_pointer_from_a_call_that_nobody_wants_is_dropped),
        cmocka_unit_test(a_late_result_is_still_there_after_a_wait_that_timed_out),
        cmocka_unit_test(closing_from_a_thread_returns_after_the_coroutines_clean_up),
        cmocka_unit_test(a_wait_in_a_bare_callback_is_edeadlk_unless_it_is_answered_at_once),
        cmocka_unit_test(work_that_ran_was_dropped_once_before_it_settled),
        cmocka_unit_test(work_cancelled_while_it_ran_was_dropped_once_before_it_settled),
        cmocka_unit_test(work_cancelled_before_its_start_was_dropped_once_before_it_settled),
        cmocka_unit_test(work_whose_loop_closed_was_dropped_once_before_it_settled),
        cmocka_unit_test(work_that_its_loop_interrupted_was_dropped_once_before_it_settled),
        cmocka_unit_test(refused_work_was_dropped_once_when_the_submission_returns),
        cmocka_unit_test(a_waiter_finds_the_argument_dropped_every_time),
        cmocka_unit_test(a_cancel_that_races_the_start_leaves_one_outcome),
        cmocka_unit_test(a_coroutine_too_many_reaches_the_submitters_future),
        cmocka_unit_test(a_coroutine_too_many_reaches_the_spawners_future),
        cmocka_unit_test(a_submitted_coroutine_has_its_name_at_its_first_step),
        cmocka_unit_test(two_loops_call_each_other_at_once),
        cmocka_unit_test(two_loops_with_full_inboxes_call_each_other_at_once),
        cmocka_unit_test(a_coroutine_calls_its_own_loop),
        cmocka_unit_test(offloading_works_from_anywhere),
        cmocka_unit_test(the_default_pool_is_one_for_all_threads),
        cmocka_unit_test(without_a_pool_work_goes_to_the_default_pool),
        cmocka_unit_test(a_loop_goes_on_while_a_coroutine_waits_for_a_job),
        cmocka_unit_test(a_late_offload_cancels_the_job_and_waits_for_its_end),
        cmocka_unit_test(a_late_offload_takes_a_queued_job_back),
        cmocka_unit_test(calls_nest_from_thread_to_loop_to_pool_to_loop),
        cmocka_unit_test(a_callback_runs_in_the_next_turn_outside_any_coroutine),
        cmocka_unit_test(a_callback_for_a_full_inbox_is_refused_and_not_dropped),
        cmocka_unit_test(a_callback_on_a_loop_that_never_runs_is_dropped_by_its_close),
        cmocka_unit_test(a_callback_that_races_the_stop_runs_or_is_dropped_once),
        cmocka_unit_test(a_callback_for_a_stopped_loop_is_refused_and_not_dropped),
        cmocka_unit_test(a_callback_at_a_moment_is_never_early),
        cmocka_unit_test(a_callback_cancelled_before_its_moment_never_runs),
        cmocka_unit_test(a_cancel_that_races_the_moment_leaves_one_outcome),
        cmocka_unit_test(a_callback_whose_moment_never_came_settles_when_the_loop_ends),
        cmocka_unit_test(callbacks_of_a_future_run_on_the_loop_in_the_order_added),
        cmocka_unit_test(a_callback_never_runs_inside_settle_or_then),
        cmocka_unit_test(a_callback_whose_loop_has_ended_is_dropped_by_who_settles),
        cmocka_unit_test(a_callback_taken_back_neither_runs_nor_is_dropped),
        cmocka_unit_test(taking_a_callback_back_while_it_settles_leaves_one_outcome),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
