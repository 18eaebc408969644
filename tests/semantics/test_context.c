/* What context.h says: values travel with the work, a change is seen by who makes it and by what it
 * starts afterwards, and each value is dropped once, after its last holder. */
#include "duet_test.h"
#include "shared.h"

#include <netinet/in.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- What the tests of this file share ---- */

/* Until it is true, which only a hang would prevent. */
#define until(condition)                                                                           \
    do {                                                                                           \
        int64_t until_by = SURELY.ns;                                                              \
        while (!(condition)) {                                                                     \
            must(duet_now_ns() < until_by);                                                        \
            must_equal(duet_sleep(duet_us(200)), 0);                                               \
        }                                                                                          \
    } while (0)

static void show_number(const void *value, char *buf, size_t size)
{
    snprintf(buf, size, "%ld", (long)(intptr_t)value);
}

static void show_text(const void *value, char *buf, size_t size)
{
    snprintf(buf, size, "%s", (const char *)value);
}

static const duet_key number; /* a plain value, NULL is 0 */
static const duet_key counted = {.drop = count_drop}; /* its value is the counter */
static const duet_key request = {.name = "request", .show = show_number};
static const duet_key user = {.name = "user", .show = show_text};
static char ann[] = "ann";

static void set(long n)
{
    must_equal(duet_context_set(&number, (void *)(intptr_t)n), 0);
}

static long get(void)
{
    return (long)(intptr_t)duet_context_get(&number);
}

static void set_request(long n)
{
    must_equal(duet_context_set(&request, (void *)(intptr_t)n), 0);
}

/* Each test begins and ends on a thread that has no values. */
static int forget_all(void **state)
{
    (void)state;
    duet_context_unref(duet_context_swap(NULL));
    return 0;
}

static duet_result see(void *unused)
{
    (void)unused;
    return duet_i64(get());
}

static duet_result set_and_end(void *n)
{
    set(*(long *)n);
    return duet_i64(get());
}

/* What a work that returned a number had. */
static long seen(duet_future *f)
{
    return (long)duet_as_i64(finish(f));
}

/* What a callback has seen. */
struct sight {
    long number;
    duet_future *done;
};

static struct sight sight_open(void)
{
    return (struct sight){.done = open_promise()};
}

static void look(void *arg)
{
    struct sight *sight = arg;
    sight->number = get();
    settle(sight->done);
}

static long sight_close(struct sight *sight)
{
    must_equal(finish(sight->done).err, 0);
    return sight->number;
}

/* ---- It travels ---- */

coroutine_test(a_spawned_coroutine_begins_with_the_values_of_who_spawned_it)
{
    set(7);
    must_equal(seen(duet_spawn(see, NULL)), 7);
    must_equal(seen(duet_spawn_with(see, NULL, &(duet_opts){.name = "child"})), 7);
    return duet_ok();
}

thread_test(a_submitted_coroutine_begins_with_the_values_of_the_thread)
{
    duet_loop *loop = start_loop();
    must_equal(seen(duet_submit(loop, see, NULL)), 0);
    set(7);
    must_equal(seen(duet_submit(loop, see, NULL)), 7);
    must_equal(seen(duet_submit_with(loop, see, NULL, &(duet_opts){.name = "child"})), 7);
    close_loop(loop);
}

thread_test(a_called_coroutine_begins_with_the_values_of_its_caller)
{
    duet_loop *loop = start_loop();
    duet_result r;
    set(7);
    must_equal(duet_call(loop, see, NULL, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 7);
    must_equal(duet_call_with(loop, see, NULL, NULL, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 7);
    close_loop(loop);
}

static duet_result call_on_own_loop(void *unused)
{
    (void)unused;
    duet_result r;
    set(8);
    must_equal(duet_call(duet_loop_self(), see, NULL, SURELY, &r), 0);
    return r;
}

coroutine_test(a_coroutine_that_is_called_on_the_callers_own_loop_has_its_values)
{
    set(7);
    must_equal(seen(duet_spawn(call_on_own_loop, NULL)), 8);
    must_equal(get(), 7);
    return duet_ok();
}

thread_test(a_job_begins_with_the_values_of_who_submitted_it)
{
    duet_pool *pool = open_pool(2);
    duet_result r;
    set(7);
    must_equal(seen(duet_pool_submit(pool, see, NULL)), 7);
    must_equal(seen(duet_pool_submit_with(pool, see, NULL, &(duet_opts){.priority = 1})), 7);
    must_equal(duet_offload(pool, see, NULL, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 7);
    close_pool(pool);
}

coroutine_test(an_offloaded_job_begins_with_the_values_of_the_coroutine)
{
    duet_result r;
    set(7);
    must_equal(duet_offload(NULL, see, NULL, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 7);
    must_equal(seen(duet_pool_submit(duet_pool_default(), see, NULL)), 7);
    return duet_ok();
}

static duet_result see_into(void *number_seen)
{
    atomic_store((atomic_long *)number_seen, get());
    return duet_ok();
}

coroutine_test(a_groups_children_begin_with_the_values_of_who_spawned_them)
{
    duet_group group = DUET_GROUP_INIT;
    duet_loop *other = start_loop();
    atomic_long here = 0, there = 0;
    set(7);
    must_equal(duet_group_spawn(&group, NULL, see_into, &here, NULL), 0);
    set(8);
    must_equal(duet_group_spawn(&group, other, see_into, &there, NULL), 0);
    set(9);
    must_equal(duet_group_wait(&group, SURELY, NULL), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(here, 7);
    must_equal(there, 8);
    close_loop(other);
    return duet_ok();
}

thread_test(a_callback_begins_with_the_values_of_who_asked_for_it)
{
    duet_loop *loop = start_loop();
    struct sight soon = sight_open(), with = sight_open(), at = sight_open();
    set(1);
    must_equal(duet_call_soon(loop, look, &soon), 0);
    set(2);
    must_equal(duet_call_soon_with(loop, look, &with, look), 0);
    set(3);
    duet_future *f = duet_call_at(loop, duet_ms(5), look, &at);
    set(4);
    must_equal(finish(f).err, 0);
    must_equal(sight_close(&soon), 1);
    must_equal(sight_close(&with), 2);
    must_equal(sight_close(&at), 3);
    close_loop(loop);
}

static duet_result ask_for_callbacks(void *arg)
{
    struct sight *s = arg;
    set(1);
    must_equal(duet_call_soon(duet_loop_self(), look, &s[0]), 0);
    set(2);
    duet_future_unref(duet_call_at(duet_loop_self(), duet_ms(5), look, &s[1]));
    set(3);
    return duet_ok();
}

coroutine_test(a_callback_has_the_values_of_a_coroutine_that_has_ended)
{
    struct sight s[2] = {sight_open(), sight_open()};
    must_equal(finish(duet_spawn(ask_for_callbacks, s)).err, 0);
    must_equal(sight_close(&s[0]), 1);
    must_equal(sight_close(&s[1]), 2);
    return duet_ok();
}

static void settle_with_values_of_its_own(void *promise)
{
    set(99);
    settle(promise);
}

/* Those of who added it, not of who settles the future. */
thread_test(a_callback_of_a_future_has_the_values_of_who_added_it)
{
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    struct sight before = sight_open(), after = sight_open();
    struct thread settler;
    set(1);
    must_equal(duet_future_then(promise, loop, look, &before, NULL), 0);
    set(2);
    thread_start(&settler, settle_with_values_of_its_own, promise);
    thread_join(&settler);
    must_equal(duet_future_then(promise, loop, look, &after, NULL), 0);
    set(3);
    must_equal(sight_close(&before), 1);
    must_equal(sight_close(&after), 2);
    duet_future_unref(promise);
    close_loop(loop);
}

/* What each handler saw, in the order of the connections; each leaves a value of its own behind. */
struct sightings {
    long numbers[4];
    int count;
};

static duet_result see_and_set(duet_stream *s, void *arg)
{
    struct sightings *sightings = arg;
    sightings->numbers[sightings->count++] = get();
    set(55);
    return duet_err(duet_stream_write(s, "x", 1, SURELY));
}

static duet_result serve(void *server)
{
    return duet_err(duet_server_serve(server, SURELY));
}

static void dial_and_read_to_the_end(duet_server *server)
{
    struct sockaddr_storage addr;
    duet_stream *s;
    char port[16], buf[8];
    must_equal(duet_server_address(server, &addr), 0);
    snprintf(port, sizeof port, "%u", ntohs(((struct sockaddr_in *)&addr)->sin_port));
    must_equal(duet_dial(&s, "127.0.0.1", port, SURELY), 0);
    must_equal(duet_stream_read_exactly(s, buf, sizeof buf, SURELY), 1);
    must_equal(duet_stream_close(s, SURELY), 0);
}

coroutine_test(a_servers_handlers_begin_with_its_values_and_not_with_each_others)
{
    struct sightings sightings = {.count = 0};
    duet_server_config config = {.handler = see_and_set, .arg = &sightings};
    duet_server *server;
    set(7);
    must_equal(duet_server_open(&server, &config), 0);
    duet_future *serving = duet_spawn(serve, server);
    set(8); /* the client's */
    dial_and_read_to_the_end(server);
    dial_and_read_to_the_end(server);
    duet_server_shut(server);
    must_equal(finish(serving).err, 0);
    must_equal(duet_server_close(server, SURELY), 0);
    must_equal(sightings.count, 2);
    must_equal(sightings.numbers[0], 7);
    must_equal(sightings.numbers[1], 7);
    return duet_ok();
}

/* ---- From world to world ---- */

struct chain {
    duet_loop *loop;
    duet_pool *pool;
    long numbers[8];
    int length;
};

/* A coroutine and a job in turns: each sees what the one before has set, and sets its own. */
static duet_result go_on(void *arg)
{
    struct chain *chain = arg;
    int i = chain->length++;
    duet_result r = duet_ok();
    chain->numbers[i] = get();
    set(100 + i);
    if (i < (int)COUNT(chain->numbers) - 1) {
        int rc = i % 2 == 0 ? duet_offload(chain->pool, go_on, chain, SURELY, &r)
                            : duet_call(chain->loop, go_on, chain, SURELY, &r);
        must_equal(rc, 0);
    }
    must_equal(get(), 100 + i); /* whatever happened further down */
    return r;
}

thread_test(a_chain_of_coroutines_and_jobs_hands_the_values_on)
{
    struct chain chain = {.loop = start_loop(), .pool = open_pool(2)};
    duet_result r;
    set(42);
    must_equal(duet_call(chain.loop, go_on, &chain, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(chain.length, COUNT(chain.numbers));
    must_equal(chain.numbers[0], 42);
    for (int i = 1; i < chain.length; i++)
        must_equal(chain.numbers[i], 100 + i - 1);
    must_equal(get(), 42);
    close_pool(chain.pool);
    close_loop(chain.loop);
}

static duet_result run_within_a_job(void *unused)
{
    (void)unused;
    duet_result r;
    long n = 9;
    set(8);
    must_equal(duet_run(see, NULL, &r), 0);
    must_equal(duet_as_i64(r), 8);
    must_equal(duet_run(set_and_end, &n, &r), 0);
    must_equal(get(), 8);
    return r;
}

thread_test(a_run_within_a_job_begins_with_the_jobs_values)
{
    duet_pool *pool = open_pool(1);
    set(7);
    must_equal(seen(duet_pool_submit(pool, run_within_a_job, NULL)), 9);
    must_equal(get(), 7);
    close_pool(pool);
}

/* ---- Who sees a change ---- */

coroutine_test(a_change_is_seen_by_later_children_alone)
{
    duet_pool *pool = open_pool(1);
    struct gate gate = GATE_INIT;
    duet_future *blocker = duet_pool_submit(pool, gate_pass_job, &gate);
    set(1); /* none of those has begun when it changes */
    duet_future *child = duet_spawn(see, NULL), *job = duet_pool_submit(pool, see, NULL);
    set(2);
    duet_future *later_child = duet_spawn(see, NULL),
                *later_job = duet_pool_submit(pool, see, NULL);
    must_equal(duet_context_set(&number, NULL), 0);
    duet_future *last_child = duet_spawn(see, NULL), *last_job = duet_pool_submit(pool, see, NULL);
    gate_open(&gate);
    must_equal(seen(child), 1);
    must_equal(seen(job), 1);
    must_equal(seen(later_child), 2);
    must_equal(seen(later_job), 2);
    must_equal(seen(last_child), 0);
    must_equal(seen(last_job), 0);
    must_equal(finish(blocker).err, 0);
    close_pool(pool);
    return duet_ok();
}

struct meeting {
    duet_future *changed, *seen;
};

static duet_result change_and_wait(void *arg)
{
    struct meeting *m = arg;
    set(3);
    settle(m->changed);
    must_equal(duet_future_wait(m->seen, SURELY, NULL), 0);
    return duet_i64(get());
}

static duet_result see_after_the_change(void *arg)
{
    struct meeting *m = arg;
    must_equal(duet_future_wait(m->changed, SURELY, NULL), 0);
    return duet_i64(get());
}

static void must_not_see_each_other(duet_loop *changers, duet_loop *sibling_loop, duet_pool *pool)
{
    struct meeting m = {open_promise(), open_promise()};
    set(1);
    duet_future *sibling = sibling_loop ? duet_submit(sibling_loop, see_after_the_change, &m)
                                        : duet_pool_submit(pool, see_after_the_change, &m);
    duet_future *changer = changers ? duet_submit(changers, change_and_wait, &m)
                                    : duet_pool_submit(pool, change_and_wait, &m);
    must_equal(seen(sibling), 1);
    must_equal(get(), 1); /* who started them */
    settle(m.seen);
    must_equal(seen(changer), 3);
    duet_future_unref(m.changed);
    duet_future_unref(m.seen);
}

thread_test(a_change_is_seen_neither_by_who_started_it_nor_by_siblings)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    must_not_see_each_other(loop, loop, NULL);
    must_not_see_each_other(NULL, NULL, pool);
    must_not_see_each_other(loop, NULL, pool);
    must_not_see_each_other(NULL, loop, pool);
    close_pool(pool);
    close_loop(loop);
}

thread_test(the_next_job_on_a_worker_sees_nothing_of_the_one_before)
{
    duet_pool *pool = open_pool(1);
    duet_future *fs[40];
    long n = 9;
    for (size_t i = 0; i < COUNT(fs); i++)
        fs[i] = duet_pool_submit(pool, i % 2 == 0 ? set_and_end : see, &n);
    for (size_t i = 0; i < COUNT(fs); i++)
        must_equal(seen(fs[i]), i % 2 == 0 ? 9 : 0);
    close_pool(pool);
}

thread_test(the_next_coroutine_of_a_loop_sees_nothing_of_the_one_before)
{
    duet_loop *loop = start_loop();
    long n = 9;
    for (int i = 0; i < 20; i++)
        must_equal(seen(duet_submit(loop, i % 2 == 0 ? set_and_end : see, &n)), i % 2 == 0 ? 9 : 0);
    close_loop(loop);
}

/* A job that waits lends its slot: another one runs meanwhile, perhaps on another thread. */
thread_test(a_job_that_waited_has_its_values_and_not_those_of_the_one_that_ran_meanwhile)
{
    duet_pool *pool = open_pool(1);
    struct meeting m = {open_promise(), open_promise()};
    duet_future *first = duet_pool_submit(pool, change_and_wait, &m);
    duet_future *second = duet_pool_submit(pool, see_after_the_change, &m);
    must_equal(seen(second), 0);
    settle(m.seen);
    must_equal(seen(first), 3);
    duet_future_unref(m.changed);
    duet_future_unref(m.seen);
    close_pool(pool);
}

static duet_result keep_value_across_waits(void *arg)
{
    long mine = *(long *)arg;
    duet_result r;
    set(mine);
    for (int i = 0; i < 20; i++) {
        must_equal(duet_yield(), 0);
        must_equal(get(), mine);
        must_equal(duet_sleep(duet_us(mine * 7 % 50)), 0);
        must_equal(get(), mine);
        must_equal(seen(duet_spawn(see, NULL)), mine);
        must_equal(get(), mine);
        if (i % 10 == mine % 10) {
            must_equal(duet_offload(NULL, see, NULL, SURELY, &r), 0);
            must_equal(duet_as_i64(r), mine);
        }
        must_equal(get(), mine);
    }
    return duet_ok();
}

coroutine_test(works_that_interleave_in_one_loop_keep_their_own_values)
{
    enum {
        WORKS = 30
    };
    duet_future *fs[WORKS];
    long numbers[WORKS];
    for (int i = 0; i < WORKS; i++) {
        numbers[i] = i + 1;
        fs[i] = duet_spawn(keep_value_across_waits, &numbers[i]);
    }
    must_equal(duet_gather(fs, WORKS, SURELY, NULL), 0);
    for (int i = 0; i < WORKS; i++)
        must_equal(finish(fs[i]).err, 0);
    must_equal(get(), 0);
    return duet_ok();
}

/* ---- Jobs that run where they are submitted ---- */

/* One worker, which is busy, and a queue that is full: a further job runs in its submitter. */
struct full {
    duet_pool *pool;
    struct gate gate;
    duet_future *blocker, *queued;
};

static void full_open(struct full *full)
{
    duet_pool_config config = {.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE};
    *full = (struct full){.gate = GATE_INIT};
    must_equal(duet_pool_open(&full->pool, &config), 0);
    full->blocker = duet_pool_submit(full->pool, gate_pass_job, &full->gate);
    gate_await_arrivals(&full->gate, 1);
    full->queued = duet_pool_submit(full->pool, return_ok, NULL);
}

static void full_close(struct full *full)
{
    gate_open(&full->gate);
    must_equal(finish(full->blocker).err, 0);
    must_equal(finish(full->queued).err, 0);
    close_pool(full->pool);
}

struct here {
    pthread_t thread;
    long number;
    atomic_int drops;
};

static duet_result change_here(void *arg)
{
    struct here *here = arg;
    must(pthread_equal(pthread_self(), here->thread));
    here->number = get();
    set(2);
    must_equal(duet_context_set(&counted, &here->drops), 0);
    return duet_i64(get());
}

static duet_result submit_to_full(void *arg)
{
    struct full *full = arg;
    struct here here = {.thread = pthread_self()};
    set(1);
    must_equal(seen(duet_pool_submit(full->pool, change_here, &here)), 2);
    must_equal(here.number, 1);
    must_equal(get(), 1);
    must(duet_context_get(&counted) == NULL);
    must_equal(here.drops, 1);
    return duet_ok();
}

thread_test(a_job_that_runs_in_its_submitter_leaves_nothing_there)
{
    struct full full;
    duet_pool *other = open_pool(1);
    full_open(&full);
    must_equal(submit_to_full(&full).err, 0);
    must_equal(finish(duet_pool_submit(other, submit_to_full, &full)).err, 0);
    full_close(&full);
    close_pool(other);
}

/* ---- Bare callbacks ---- */

struct change {
    long before, child, after;
    duet_future *child_work;
    duet_future *done;
};

static void change_in_callback(void *arg)
{
    struct change *change = arg;
    change->before = get();
    set(50);
    change->child_work = duet_spawn(see, NULL);
    set(51);
    change->after = get();
    settle(change->done);
}

static void must_end_with_it(struct change *change, long before)
{
    must_equal(finish(change->done).err, 0);
    change->child = seen(change->child_work);
    must_equal(change->before, before);
    must_equal(change->child, 50);
    must_equal(change->after, 51);
}

coroutine_test(what_a_bare_callback_changes_ends_with_it)
{
    struct change soon = {.done = open_promise()}, at = {.done = open_promise()},
                  then = {.done = open_promise()};
    struct sight after[3] = {sight_open(), sight_open(), sight_open()};
    duet_future *promise = open_promise();
    duet_loop *loop = duet_loop_self();
    set(1);
    must_equal(duet_call_soon(loop, change_in_callback, &soon), 0);
    must_equal(duet_call_soon(loop, look, &after[0]), 0);
    duet_future_unref(duet_call_at(loop, DUET_NOW, change_in_callback, &at));
    duet_future_unref(duet_call_at(loop, DUET_NOW, look, &after[1]));
    must_equal(duet_future_then(promise, loop, change_in_callback, &then, NULL), 0);
    must_equal(duet_future_then(promise, loop, look, &after[2], NULL), 0);
    settle(promise);
    must_end_with_it(&soon, 1);
    must_end_with_it(&at, 1);
    must_end_with_it(&then, 1);
    for (int i = 0; i < 3; i++)
        must_equal(sight_close(&after[i]), 1);
    must_equal(get(), 1);
    duet_future_unref(promise);
    return duet_ok();
}

static void set_counted(void *drops)
{
    must_equal(duet_context_set(&counted, drops), 0);
}

thread_test(a_value_that_a_bare_callback_sets_is_dropped_after_it)
{
    duet_loop *loop = start_loop();
    atomic_int drops = 0;
    must_equal(duet_call_soon(loop, set_counted, &drops), 0);
    must_equal(finish(duet_call_at(loop, DUET_NOW, set_counted, &drops)).err, 0);
    until(atomic_load(&drops) == 2);
    close_loop(loop);
    must_equal(drops, 2);
}

static void swap_in_callback(void *arg)
{
    duet_context_unref(duet_context_swap(duet_context_ref(arg)));
    must_equal(get(), 77);
}

thread_test(what_a_bare_callback_swaps_in_ends_with_it)
{
    duet_loop *loop = start_loop();
    struct sight after = sight_open();
    set(77);
    duet_context *other = duet_context_ref_here();
    set(1);
    must_equal(duet_call_soon(loop, swap_in_callback, other), 0);
    must_equal(duet_call_soon(loop, look, &after), 0);
    must_equal(sight_close(&after), 1);
    duet_context_unref(other);
    close_loop(loop);
}

static void drop_and_change(void *arg)
{
    set(60);
    count_drop(arg);
}

/* base.h: a drop function is a bare callback, too. */
thread_test(what_a_drop_function_changes_does_not_stay_with_who_submitted)
{
    duet_loop *loop = start_loop();
    atomic_int drops = 0;
    const duet_opts opts = {.drop = drop_and_change};
    duet_loop_stop(loop);
    set(1);
    must_equal(finish(duet_submit_with(loop, return_ok, &drops, &opts)).err, -ESHUTDOWN);
    must_equal(drops, 1);
    must_equal(get(), 1);
    close_loop(loop);
}

/* ---- Threads ---- */

thread_test(a_run_begins_with_the_values_of_its_thread_and_leaves_nothing_there)
{
    duet_result r;
    long n = 9;
    must_equal(duet_run(see, NULL, &r), 0);
    must_equal(duet_as_i64(r), 0);
    set(7);
    must_equal(duet_run(see, NULL, &r), 0);
    must_equal(duet_as_i64(r), 7);
    must_equal(duet_run_with(see, NULL, &(duet_opts){.name = "main"}, &r), 0);
    must_equal(duet_as_i64(r), 7);
    must_equal(duet_run(set_and_end, &n, &r), 0);
    must_equal(duet_as_i64(r), 9);
    must_equal(get(), 7);
}

static void see_on_thread(void *number_seen)
{
    *(long *)number_seen = get();
}

thread_test(a_thread_has_nothing_of_another_threads)
{
    struct thread thread;
    long there = -1;
    set(7);
    thread_start(&thread, see_on_thread, &there);
    thread_join(&thread);
    must_equal(there, 0);
}

thread_test(a_thread_that_ends_drops_its_values)
{
    struct thread thread;
    atomic_int drops = 0;
    thread_start(&thread, set_counted, &drops);
    thread_join(&thread);
    must_equal(drops, 1);
}

static void settle_in_drop(void *promise)
{
    atomic_int inner = 0;
    set_counted(&inner); /* which ends with this callback */
    must_equal(duet_future_wait(promise, DUET_NOW, NULL), -ETIME);
    settle(promise);
    duet_future_unref(promise);
    must_equal(duet_context_set(&counted, NULL), 0);
    must_equal(inner, 1);
}

static const duet_key settling = {.drop = settle_in_drop};

static void set_settling(void *promise)
{
    must_equal(duet_context_set(&settling, promise), 0);
}

thread_test(a_drop_function_may_use_duet_while_its_thread_ends)
{
    duet_future *promise = open_promise();
    struct thread thread;
    thread_start(&thread, set_settling, duet_future_ref(promise));
    must_equal(finish(promise).err, 0);
    thread_join(&thread);
}

/* A work that was started by a thread keeps the values when the thread has ended. */
struct survivor {
    atomic_int drops;
    duet_loop *loop;
    duet_future *go, *work;
};

static duet_result count_after_go(void *arg)
{
    struct survivor *s = arg;
    must_equal(duet_future_wait(s->go, SURELY, NULL), 0);
    must(duet_context_get(&counted) == &s->drops);
    return duet_i64(atomic_load(&s->drops));
}

static void start_survivor(void *arg)
{
    struct survivor *s = arg;
    set_counted(&s->drops);
    s->work = duet_submit(s->loop, count_after_go, s);
}

thread_test(what_a_thread_has_started_keeps_its_values_when_it_has_ended)
{
    struct survivor s = {.loop = start_loop(), .go = open_promise()};
    struct thread thread;
    thread_start(&thread, start_survivor, &s);
    thread_join(&thread);
    must_equal(s.drops, 0);
    settle(s.go);
    must_equal(duet_as_i64(finish(s.work)), 0);
    close_loop(s.loop);
    must_equal(s.drops, 1);
    duet_future_unref(s.go);
}

struct own_loop {
    duet_loop *loop;
    long after;
};

static void set_and_run(void *arg)
{
    struct own_loop *own = arg;
    set(5);
    must_equal(duet_loop_run(own->loop), 0);
    own->after = get();
}

thread_test(what_runs_on_a_loop_has_the_values_of_its_submitter_not_of_the_loops_thread)
{
    struct own_loop own = {0};
    struct thread thread;
    long n = 9;
    must_equal(duet_loop_open(&own.loop, NULL), 0);
    thread_start(&thread, set_and_run, &own);
    must_equal(seen(duet_submit(own.loop, see, NULL)), 0);
    set(7);
    must_equal(seen(duet_submit(own.loop, see, NULL)), 7);
    must_equal(seen(duet_submit(own.loop, set_and_end, &n)), 9);
    duet_loop_stop(own.loop);
    thread_join(&thread);
    must_equal(own.after, 5); /* the thread's own are as they were */
    close_loop(own.loop);
}

static void turn_until_idle(duet_loop *loop, duet_future *f)
{
    int64_t by = SURELY.ns;
    while (!duet_future_settled(f)) {
        must(duet_now_ns() < by);
        must(duet_loop_turn(loop) >= 0);
    }
}

thread_test(the_thread_of_a_guest_has_its_own_values_between_the_turns)
{
    duet_loop *loop;
    int fd;
    long n = 9;
    must_equal(duet_loop_open(&loop, NULL), 0);
    set(5);
    must_equal(duet_loop_attach(loop, &fd), 0);
    must_equal(get(), 5);
    duet_future *f = duet_spawn(see, NULL);
    set(6);
    duet_future *changer = duet_spawn(set_and_end, &n);
    turn_until_idle(loop, f);
    turn_until_idle(loop, changer);
    must_equal(get(), 6);
    must_equal(seen(f), 5);
    must_equal(seen(changer), 9);
    duet_loop_stop(loop);
    while (duet_loop_turn(loop) != -ESHUTDOWN)
        ;
    must_equal(get(), 6);
    close_loop(loop);
}

/* ---- Values: set, overwritten, removed ---- */

coroutine_test(a_value_that_was_set_to_null_is_gone)
{
    atomic_int drops = 0;
    must_equal(duet_context_set(&counted, NULL), 0); /* it had none */
    set_counted(&drops);
    must(duet_context_get(&counted) == &drops);
    must_equal(duet_context_set(&counted, NULL), 0);
    must(duet_context_get(&counted) == NULL);
    must_equal(drops, 1);
    must_equal(duet_context_set(&counted, NULL), 0);
    must_equal(drops, 1);
    return duet_ok();
}

coroutine_test(a_value_that_was_overwritten_is_dropped_unless_somebody_has_it)
{
    atomic_int first = 0, second = 0, third = 0;
    set_counted(&first);
    set_counted(&second);
    must_equal(first, 1);
    duet_context *holder = duet_context_ref_here();
    set_counted(&third);
    must_equal(second, 0);
    must(duet_context_get(&counted) == &third);
    duet_context_unref(holder);
    must_equal(second, 1);
    must_equal(third, 0);
    must_equal(duet_context_set(&counted, NULL), 0);
    must_equal(first + second + third, 3);
    return duet_ok();
}

enum {
    KEYS = 100
};

static struct keyed {
    duet_key key;
    atomic_int drops, drops_second;
} keyed[KEYS];

static duet_result see_many(void *unused)
{
    (void)unused;
    for (int i = 0; i < KEYS; i++)
        must(duet_context_get(&keyed[i].key) == &keyed[i].drops);
    return duet_ok();
}

/* A third is removed, a third is overwritten, and a third is as it was. */
static void change_many(void)
{
    for (int i = 0; i < KEYS; i++)
        if (i % 3 < 2)
            must_equal(duet_context_set(&keyed[i].key, i % 3 == 0 ? NULL : &keyed[i].drops_second),
                       0);
    for (int i = 0; i < KEYS; i++) {
        void *expected[] = {NULL, &keyed[i].drops_second, &keyed[i].drops};
        must(duet_context_get(&keyed[i].key) == expected[i % 3]);
    }
}

thread_test(many_keys_have_a_value_each)
{
    duet_loop *loop = start_loop();
    for (int i = 0; i < KEYS; i++) {
        keyed[i].key = (duet_key){.drop = count_drop};
        must_equal(duet_context_set(&keyed[i].key, &keyed[i].drops), 0);
    }
    see_many(NULL);
    duet_future *child = duet_submit(loop, see_many, NULL);
    change_many();
    must_equal(finish(child).err, 0);
    close_loop(loop);
    for (int i = 0; i < KEYS; i++) {
        must_equal(keyed[i].drops, i % 3 < 2);
        must_equal(duet_context_set(&keyed[i].key, NULL), 0);
        must_equal(keyed[i].drops, 1);
        must_equal(keyed[i].drops_second, i % 3 == 1);
    }
}

/* Two keys that say the same are two keys. */
thread_test(a_key_is_its_address)
{
    static const duet_key one = {.name = "same", .show = show_number},
                          two = {.name = "same", .show = show_number};
    must_equal(duet_context_set(&one, &keyed), 0);
    must(duet_context_get(&two) == NULL);
    must(duet_context_get(&one) == &keyed);
}

static atomic_int bad_drops;

static void count_bad_drop(void *value)
{
    (void)value;
    atomic_fetch_add(&bad_drops, 1);
}

thread_test(a_bad_key_is_einval_and_the_value_is_still_the_callers)
{
    static const duet_key nameless = {.drop = count_bad_drop, .show = show_number},
                          reserved = {
                              .name = "n", .drop = count_bad_drop, .reserved = {0, 0, 0, 1}};
    log_capture();
    must_equal(duet_context_set(NULL, &bad_drops), -EINVAL);
    must_equal(duet_context_set(&nameless, &bad_drops), -EINVAL);
    must_equal(duet_context_set(&reserved, &bad_drops), -EINVAL);
    must_equal(log_count(""), 3);
    log_release();
    must(duet_context_get(&nameless) == NULL);
    must(duet_context_get(&reserved) == NULL);
    forget_all(NULL);
    must_equal(bad_drops, 0);
}

/* ---- Drops: once for each value, after its last holder ---- */

static duet_result set_and_leave_a_child(void *arg)
{
    struct survivor *s = arg;
    set_counted(&s->drops);
    s->work = duet_spawn(count_after_go, s);
    return duet_ok();
}

thread_test(a_value_is_dropped_after_its_last_holder)
{
    struct survivor s = {.loop = start_loop(), .go = open_promise()};
    must_equal(finish(duet_submit(s.loop, set_and_leave_a_child, &s)).err, 0);
    must_equal(finish(duet_submit(s.loop, return_ok, NULL)).err, 0);
    must_equal(s.drops, 0);
    settle(s.go);
    must_equal(duet_as_i64(finish(s.work)), 0);
    until(atomic_load(&s.drops) == 1); /* and not only when the loop ends */
    close_loop(s.loop);
    must_equal(s.drops, 1);
    duet_future_unref(s.go);
}

static duet_result set_counted_and_end(void *drops)
{
    set_counted(drops);
    return duet_ok();
}

thread_test(a_worker_that_rests_holds_nothing_of_its_last_job)
{
    duet_pool *pool = open_pool(1);
    atomic_int drops = 0;
    must_equal(finish(duet_pool_submit(pool, set_counted_and_end, &drops)).err, 0);
    until(atomic_load(&drops) == 1);
    close_pool(pool);
    must_equal(drops, 1);
}

coroutine_test(a_coroutine_that_has_ended_and_was_let_go_holds_nothing)
{
    atomic_int drops = 0;
    must_equal(finish(duet_spawn(set_counted_and_end, &drops)).err, 0);
    until(atomic_load(&drops) == 1);
    return duet_ok();
}

/* The thread has a value while body runs, which leaves no holder behind. */
static void holds_nothing_after(void (*body)(void))
{
    atomic_int drops = 0;
    set_counted(&drops);
    body();
    must_equal(drops, 0);
    must_equal(duet_context_set(&counted, NULL), 0);
    must_equal(drops, 1);
}

static void never_call(void *arg)
{
    (void)arg;
    must(false);
}

static void submit_to_a_stopped_loop(void)
{
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    duet_loop_stop(loop);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, -ESHUTDOWN);
    must_equal(duet_call_soon(loop, never_call, NULL), -ESHUTDOWN);
    must_equal(finish(duet_call_at(loop, DUET_NOW, never_call, NULL)).err, -ESHUTDOWN);
    must_equal(duet_future_then(promise, loop, never_call, NULL, NULL), -ESHUTDOWN);
    close_loop(loop);
    duet_future_unref(promise);
}

static void submit_what_is_bad(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    log_capture();
    must_equal(finish(duet_submit(loop, NULL, NULL)).err, -EINVAL);
    must_equal(finish(duet_pool_submit(pool, NULL, NULL)).err, -EINVAL);
    must_equal(finish(duet_call_at(loop, DUET_NOW, NULL, NULL)).err, -EINVAL);
    must_equal(duet_call_soon(loop, NULL, NULL), -EINVAL);
    log_release();
    close_pool(pool);
    close_loop(loop);
}

static void submit_to_a_full_inbox(void)
{
    duet_loop_config config = {.inbox_max = 1, .when_full = DUET_FULL_REFUSE};
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, &config), 0);
    duet_future *first = duet_submit(loop, return_ok, NULL);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, -EAGAIN);
    must_equal(duet_call_soon(loop, never_call, NULL), -EAGAIN);
    close_loop(loop);
    must_equal(finish(first).err, -ECANCELED);
}

static void submit_to_a_full_pool(void)
{
    duet_pool_config config = {.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_REFUSE};
    struct gate gate = GATE_INIT;
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &config), 0);
    duet_future *running = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    duet_future *queued = duet_pool_submit(pool, return_ok, NULL);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -EAGAIN);
    duet_future_cancel(queued);
    must_equal(finish(queued).err, -ECANCELED);
    gate_open(&gate);
    must_equal(finish(running).err, 0);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -ESHUTDOWN);
    close_pool(pool);
}

static void cancel_before_it_starts(void)
{
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    duet_future *f = duet_submit(loop, return_ok, NULL),
                *at = duet_call_at(loop, SURELY, never_call, NULL);
    duet_future_cancel(f);
    duet_future_cancel(at);
    close_loop(loop);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(finish(at).err, -ECANCELED);
}

static void close_a_loop_that_never_ran(void)
{
    atomic_int drops = 0;
    duet_future *promise = open_promise();
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    duet_future *f = duet_submit(loop, return_ok, NULL);
    duet_future *at = duet_call_at(loop, DUET_NOW, never_call, NULL);
    must_equal(duet_call_soon_with(loop, never_call, &drops, count_drop), 0);
    must_equal(duet_future_then(promise, loop, never_call, &drops, count_drop), 0);
    close_loop(loop);
    settle(promise);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(finish(at).err, -ECANCELED);
    must_equal(drops, 2);
    duet_future_unref(promise);
}

static void forget_a_callback(void)
{
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    must_equal(duet_future_then(promise, loop, never_call, NULL, NULL), 0);
    must(duet_future_forget(promise, never_call, NULL));
    close_loop(loop);
    duet_future_unref(promise);
}

static void let_go_of_a_promise_with_a_callback(void)
{
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    struct sight sight = sight_open();
    must_equal(duet_future_then(promise, loop, look, &sight, NULL), 0);
    duet_future_unref(promise);
    (void)sight_close(&sight);
    close_loop(loop);
}

static void close_a_pool_with_queued_jobs(void)
{
    duet_pool *pool = open_pool(1);
    struct gate gate = GATE_INIT;
    duet_future *fs[10], *running = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    for (size_t i = 0; i < COUNT(fs); i++)
        fs[i] = duet_pool_submit(pool, return_ok, NULL);
    log_capture();
    must_equal(duet_pool_close(pool, DUET_NOW), -ETIME);
    log_release();
    gate_open(&gate);
    close_pool(pool);
    for (size_t i = 0; i < COUNT(fs); i++)
        must_equal(finish(fs[i]).err, -ECANCELED);
    must_equal(finish(running).err, 0);
}

static void spawn_into_a_cancelled_group(void)
{
    duet_loop *loop = start_loop();
    duet_group group = DUET_GROUP_INIT;
    duet_group_cancel(&group);
    must_equal(duet_group_spawn(&group, loop, return_ok, NULL, NULL), -ECANCELED);
    must_equal(duet_group_close(&group), 0);
    close_loop(loop);
}

static void close_a_loop_with_sleepers(void)
{
    duet_loop *loop = start_loop();
    duet_future *fs[10];
    for (size_t i = 0; i < COUNT(fs); i++)
        fs[i] = duet_submit(loop, sleep_long, NULL);
    close_loop(loop);
    for (size_t i = 0; i < COUNT(fs); i++)
        must_equal(finish(fs[i]).err, -ECANCELED);
}

static void call_too_late(void)
{
    duet_loop *loop = start_loop();
    duet_result r;
    must_equal(duet_call(loop, return_ok, NULL, DUET_NOW, &r), -ETIME);
    must_equal(duet_call(loop, sleep_long, NULL, duet_ms(2), &r), -ETIME);
    close_loop(loop);
}

static void spawn_too_many_here(void)
{
    duet_loop_config config = {.coroutines_max = 1};
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, &config), 0);
    duet_future *first = duet_submit(loop, sleep_long, NULL);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, -EAGAIN);
    close_loop(loop);
    must_equal(finish(first).err, -ECANCELED);
}

thread_test(whatever_becomes_of_a_work_its_values_are_dropped_once)
{
    holds_nothing_after(submit_to_a_stopped_loop);
    holds_nothing_after(submit_what_is_bad);
    holds_nothing_after(submit_to_a_full_inbox);
    holds_nothing_after(submit_to_a_full_pool);
    holds_nothing_after(cancel_before_it_starts);
    holds_nothing_after(close_a_loop_that_never_ran);
    holds_nothing_after(forget_a_callback);
    holds_nothing_after(let_go_of_a_promise_with_a_callback);
    holds_nothing_after(close_a_pool_with_queued_jobs);
    holds_nothing_after(spawn_into_a_cancelled_group);
    holds_nothing_after(close_a_loop_with_sleepers);
    holds_nothing_after(call_too_late);
    holds_nothing_after(spawn_too_many_here);
}

/* A drop function may look at the context in which it runs: its value is in none any more. */
static void look_and_drop(void *value);
static const duet_key looking = {.name = "looking", .drop = look_and_drop, .show = show_number};
static atomic_int looked;

static void look_and_drop(void *value)
{
    char buf[64];
    must(duet_context_get(&looking) != value);
    must(duet_context_describe(buf, sizeof buf) == buf);
    atomic_fetch_add(&looked, 1);
}

thread_test(a_drop_function_may_look_at_the_context)
{
    static int values[3];
    must_equal(duet_context_set(&looking, &values[0]), 0);
    must_equal(duet_context_set(&looking, &values[1]), 0);
    must_equal(duet_context_set(&looking, NULL), 0);
    must_equal(duet_context_set(&looking, &values[2]), 0);
    must_equal(looked, 2);
    forget_all(NULL);
    must_equal(looked, 3);
}

/* A drop function may change the context in which it runs. */
static void set_the_other(void *drops);
static const duet_key replacing = {.drop = set_the_other};

static void set_the_other(void *drops)
{
    set(1);
    count_drop(drops);
}

thread_test(a_drop_function_may_change_the_context)
{
    atomic_int drops = 0;
    must_equal(duet_context_set(&replacing, &drops), 0);
    must_equal(duet_context_set(&replacing, NULL), 0);
    must_equal(drops, 1);
}

/* ---- Many at once ---- */

static atomic_long made, unmade;

static void unmake(void *value)
{
    free(value);
    atomic_fetch_add(&unmade, 1);
}

static const duet_key heaped = {.drop = unmake};

static void set_heaped(long n)
{
    long *value = malloc(sizeof *value);
    must(value != NULL);
    *value = n;
    atomic_fetch_add(&made, 1);
    must_equal(duet_context_set(&heaped, value), 0);
}

static duet_result use_heaped(void *arg)
{
    long *value = duet_context_get(&heaped), n = value ? *value : 1;
    (void)arg;
    must(n >= 0);
    if (n % 3 == 0)
        set_heaped(n + 1); /* the value may be gone from here on */
    if (n % 2 == 0)
        (void)duet_sleep(duet_us(n % 100));
    value = duet_context_get(&heaped);
    must(value == NULL || *value == n + (n % 3 == 0));
    if (n % 7 == 0)
        must_equal(duet_context_set(&heaped, NULL), 0);
    return duet_ok();
}

static void use_heaped_bare(void *arg)
{
    long *value = duet_context_get(&heaped);
    (void)arg;
    must(!value || *value >= 0);
    set_heaped(8);
}

static duet_result spawn_and_cancel(void *arg)
{
    duet_future *f = duet_spawn(use_heaped, arg);
    set_heaped(5);
    duet_future *g = duet_spawn(use_heaped, arg);
    duet_future_cancel(f);
    (void)use_heaped(arg);
    duet_future_unref(f);
    duet_future_unref(g);
    return duet_ok();
}

struct storm {
    duet_loop *loop;
    duet_pool *pool;
    uint64_t seed;
    int rounds;
};

static duet_future *start_any(struct storm *s, uint64_t chance)
{
    switch (chance % 7) {
    case 0:
        return duet_submit(s->loop, use_heaped, NULL);
    case 1:
        return duet_submit(s->loop, spawn_and_cancel, NULL);
    case 2:
        return duet_pool_submit(s->pool, use_heaped, NULL);
    case 3:
        return duet_call_at(s->loop, duet_us((int64_t)(chance % 100)), use_heaped_bare, NULL);
    case 4:
        must_equal(duet_call_soon(s->loop, use_heaped_bare, NULL), 0);
        return NULL;
    case 5: {
        duet_future *promise = open_promise();
        must_equal(duet_future_then(promise, s->loop, use_heaped_bare, NULL, NULL), 0);
        return promise;
    }
    default:
        (void)duet_call(s->loop, use_heaped, NULL, duet_us((int64_t)(chance % 50)), NULL);
        return NULL;
    }
}

static void storm(void *arg)
{
    struct storm *s = arg;
    duet_future *earlier = NULL;
    for (int i = 0; i < s->rounds; i++) {
        uint64_t chance = test_random(&s->seed);
        if (chance % 3 == 0)
            set_heaped((long)(chance >> 8 & 0xffff));
        duet_future *f = start_any(s, chance >> 4);
        if ((chance & 12) == 0 && earlier)
            duet_future_cancel(earlier);
        if ((chance & 48) == 0 && f)
            duet_future_cancel(f);
        duet_future_unref(earlier);
        earlier = f;
    }
    duet_future_unref(earlier);
}

thread_test(in_a_storm_each_value_is_dropped_once)
{
    enum {
        THREADS = 3
    };
    struct storm storms[THREADS];
    struct thread threads[THREADS];
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    uint64_t seed = test_seed();
    for (int i = 0; i < THREADS; i++) {
        storms[i] = (struct storm){loop, pool, seed + (uint64_t)i * 77777, test_rounds(3000)};
        thread_start(&threads[i], storm, &storms[i]);
    }
    for (int i = 0; i < THREADS; i++)
        thread_join(&threads[i]);
    close_pool(pool);
    close_loop(loop);
    must(made > 0);
    must_equal(unmade, made);
}

/* ---- A context as such ---- */

thread_test(the_empty_context_is_null)
{
    must(duet_context_swap(NULL) == NULL);
    must(duet_context_ref(NULL) == NULL);
    duet_context_unref(NULL);
    duet_context_unref(duet_context_ref_here());
    set(1);
    duet_context *before = duet_context_swap(NULL);
    must(before != NULL);
    must_equal(get(), 0);
    must_equal(seen(duet_pool_submit(duet_pool_default(), see, NULL)), 0);
    must(duet_context_swap(before) == NULL);
    must_equal(get(), 1);
}

/* A queue of a program's own: each item has the context of who put it there. */
struct item {
    duet_context *context;
    long seen;
};

static void run_items(void *arg)
{
    struct item *items = arg;
    set(99);
    for (int i = 0; i < 3; i++) {
        duet_context *before = duet_context_swap(items[i].context);
        items[i].seen = get();
        set(98);
        duet_context_unref(duet_context_swap(before));
        must_equal(get(), 99);
    }
}

thread_test(a_context_that_was_kept_is_what_there_was_then)
{
    struct item items[3];
    struct thread thread;
    for (int i = 0; i < 3; i++) {
        set(10 + i);
        items[i].context = duet_context_ref_here();
        set(20 + i);
    }
    thread_start(&thread, run_items, items);
    thread_join(&thread);
    for (int i = 0; i < 3; i++)
        must_equal(items[i].seen, 10 + i);
    must_equal(get(), 22);
}

struct sharer {
    duet_context *context;
    struct gate *gate;
    long mine, before, after;
};

static void share(void *arg)
{
    struct sharer *s = arg;
    duet_context_unref(duet_context_swap(s->context));
    s->before = get();
    set(s->mine);
    gate_pass(s->gate);
    s->after = get();
}

thread_test(two_that_have_swapped_in_one_context_do_not_see_each_others_changes)
{
    struct gate gate = GATE_INIT;
    struct sharer sharers[2];
    struct thread threads[2];
    set(1);
    for (int i = 0; i < 2; i++) {
        sharers[i] = (struct sharer){duet_context_ref_here(), &gate, 10 + i, 0, 0};
        thread_start(&threads[i], share, &sharers[i]);
    }
    gate_await_arrivals(&gate, 2);
    must_equal(get(), 1);
    gate_open(&gate);
    for (int i = 0; i < 2; i++) {
        thread_join(&threads[i]);
        must_equal(sharers[i].before, 1);
        must_equal(sharers[i].after, 10 + i);
    }
}

thread_test(a_reference_holds_the_values)
{
    atomic_int drops = 0;
    set_counted(&drops);
    duet_context *context = duet_context_ref_here();
    duet_context *again = duet_context_ref(context);
    must_equal(duet_context_set(&counted, NULL), 0);
    duet_context_unref(context);
    must_equal(drops, 0);
    duet_context_unref(duet_context_swap(again));
    must(duet_context_get(&counted) == &drops);
    must_equal(drops, 0);
    forget_all(NULL);
    must_equal(drops, 1);
}

static duet_result swap_here(void *context)
{
    duet_context_unref(duet_context_swap(context));
    must_equal(duet_yield(), 0);
    duet_result r = duet_ok();
    must_equal(duet_offload(NULL, see, NULL, SURELY, &r), 0);
    must_equal(duet_as_i64(r), get());
    return r;
}

coroutine_test(a_coroutine_may_swap_its_context_and_its_children_have_that)
{
    set(5);
    duet_context *five = duet_context_ref_here();
    set(6);
    must_equal(seen(duet_spawn(swap_here, five)), 5);
    must_equal(get(), 6);
    return duet_ok();
}

/* ---- To be read ---- */

static const char *described(void)
{
    static char buf[128];
    must(duet_context_describe(buf, sizeof buf) == buf);
    return buf;
}

thread_test(what_is_shown_is_described)
{
    atomic_int drops = 0;
    must_equal(strcmp(described(), ""), 0);
    set(3);
    set_counted(&drops);
    must_equal(strcmp(described(), ""), 0); /* those have no show */
    set_request(42);
    must_equal(strcmp(described(), "request=42"), 0);
    must_equal(duet_context_set(&user, ann), 0);
    must(strcmp(described(), "request=42 user=ann") == 0 ||
         strcmp(described(), "user=ann request=42") == 0);
    must_equal(duet_context_set(&request, NULL), 0);
    must_equal(strcmp(described(), "user=ann"), 0);
    forget_all(NULL);
    must_equal(strcmp(described(), ""), 0);
}

thread_test(a_description_never_exceeds_its_room)
{
    static char text[] = "abcdefghijklmnopqrstuvwxyz";
    char buf[64];
    must_equal(duet_context_set(&user, text), 0);
    set_request(42);
    for (size_t size = 1; size < sizeof buf; size++) {
        memset(buf, '#', sizeof buf);
        must(duet_context_describe(buf, size) == buf);
        must(memchr(buf, '\0', size) != NULL);
        for (size_t i = size; i < sizeof buf; i++)
            must_equal(buf[i], '#');
    }
    must(strstr(buf, "user=abcdefghijklmnopqrstuvwxyz") != NULL);
    must(strstr(buf, "request=42") != NULL);
}

/* How many lines the log has had, and how many of those ended so. */
static struct {
    const char *end;
    atomic_int lines, with_end, with_bracket;
} heard;

static void hear(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    size_t size = strlen(line), end = strlen(heard.end);
    heard.lines++;
    heard.with_end += size >= end && strcmp(line + size - end, heard.end) == 0;
    heard.with_bracket += strstr(line, "[request=") != NULL || strstr(line, "[user=") != NULL;
}

static void hear_lines_that_end_with(const char *end)
{
    heard.end = end;
    heard.lines = heard.with_end = heard.with_bracket = 0;
    duet_log_set(hear, NULL, DUET_WARNING);
}

static void must_have_heard_one_that_ended_so(void)
{
    log_release();
    must_equal(heard.lines, 1);
    must_equal(heard.with_end, 1);
}

static void let_go_unseen(duet_future *f)
{
    until(duet_future_settled(f));
    duet_future_unref(f);
}

/* Reported by a thread that has other values, after all that it had itself. */
thread_test(a_failure_that_nobody_looked_at_is_reported_with_the_values_of_its_work)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        hear_lines_that_end_with("[request=42]");
        set_request(42);
        duet_future *f =
            i == 0 ? duet_submit(loop, fail_eio, NULL) : duet_pool_submit(pool, fail_eio, NULL);
        set_request(43);
        let_go_unseen(f);
        must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        until(atomic_load(&heard.lines) == 1);
        must_have_heard_one_that_ended_so();
    }
    close_pool(pool);
    close_loop(loop);
}

static void free_text(void *text)
{
    memset(text, '?', strlen(text));
    free(text);
}

static const duet_key owned_user = {.name = "user", .drop = free_text, .show = show_text};

static duet_result set_user_and_fail(void *arg)
{
    (void)arg;
    must_equal(duet_context_set(&owned_user, strdup("ann")), 0);
    return duet_err(-EIO);
}

/* Set by the work itself, of which nothing else is left when it is reported. */
thread_test(a_failure_is_reported_with_what_its_work_has_set_last)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_future *f = duet_submit(loop, set_user_and_fail, NULL),
                *job = duet_pool_submit(pool, set_user_and_fail, NULL);
    until(duet_future_settled(f) && duet_future_settled(job));
    close_pool(pool);
    close_loop(loop);
    hear_lines_that_end_with("[user=ann]");
    duet_future_unref(f);
    must_have_heard_one_that_ended_so();
    hear_lines_that_end_with("[user=ann]");
    duet_future_unref(job);
    must_have_heard_one_that_ended_so();
}

thread_test(both_values_are_in_the_line)
{
    duet_loop *loop = start_loop();
    set_request(42);
    must_equal(duet_context_set(&user, ann), 0);
    log_capture();
    let_go_unseen(duet_submit(loop, fail_eio, NULL));
    close_loop(loop);
    must_equal(log_count(" [request=42 user=ann]") + log_count(" [user=ann request=42]"), 1);
    log_release();
}

thread_test(without_shown_values_a_line_is_as_ever)
{
    duet_loop *loop = start_loop();
    atomic_int drops = 0;
    set(3);
    set_counted(&drops);
    hear_lines_that_end_with("]");
    let_go_unseen(duet_submit(loop, fail_eio, NULL));
    close_loop(loop);
    log_release();
    must_equal(heard.lines, 1);
    must_equal(heard.with_end, 0);
    forget_all(NULL);
}

static duet_result make_a_line(void *arg)
{
    (void)arg;
    set_request(42);
    must_equal(finish(duet_pool_submit(NULL, return_ok, NULL)).err, -EINVAL);
    return duet_ok();
}

thread_test(a_line_that_is_written_within_a_work_has_its_values)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    hear_lines_that_end_with(" [request=42]");
    must_equal(finish(duet_submit(loop, make_a_line, NULL)).err, 0);
    must_have_heard_one_that_ended_so();
    hear_lines_that_end_with(" [request=42]");
    must_equal(finish(duet_pool_submit(pool, make_a_line, NULL)).err, 0);
    must_have_heard_one_that_ended_so();
    close_pool(pool);
    close_loop(loop);
}

coroutine_test(a_group_reports_a_failure_with_the_values_of_the_child)
{
    duet_group group = DUET_GROUP_INIT;
    hear_lines_that_end_with(" [request=42]");
    set_request(42);
    must_equal(duet_group_spawn(&group, NULL, fail_eio, NULL, NULL), 0);
    set_request(43);
    must_equal(duet_sleep(duet_ms(1)), 0);
    must_equal(duet_yield(), 0);
    must_equal(duet_group_close(&group), 0);
    must_have_heard_one_that_ended_so();
    return duet_ok();
}

static duet_result set_request_and_fail(duet_stream *s, void *arg)
{
    (void)s;
    (void)arg;
    set_request(42);
    return duet_err(-EIO);
}

coroutine_test(a_handlers_failure_is_reported_with_its_values)
{
    duet_server_config config = {.handler = set_request_and_fail};
    struct sockaddr_storage addr;
    duet_server *server;
    duet_stream *s;
    char port[16], byte;
    hear_lines_that_end_with(" [request=42]");
    must_equal(duet_server_open(&server, &config), 0);
    duet_future *serving = duet_spawn(serve, server);
    must_equal(duet_server_address(server, &addr), 0);
    snprintf(port, sizeof port, "%u", ntohs(((struct sockaddr_in *)&addr)->sin_port));
    must_equal(duet_dial(&s, "127.0.0.1", port, SURELY), 0);
    must_equal(duet_stream_read(s, &byte, 1, SURELY), 0);
    must_equal(duet_stream_close(s, SURELY), 0);
    duet_server_shut(server);
    must_equal(finish(serving).err, 0);
    must_equal(duet_server_close(server, SURELY), 0);
    must_have_heard_one_that_ended_so();
    return duet_ok();
}

/* What is named because it is late: by a thread that has other values. */
thread_test(a_job_that_was_abandoned_or_is_left_is_named_with_its_values)
{
    duet_pool *pool = open_pool(1);
    struct gate gate = GATE_INIT;
    duet_result r;
    set_request(42);
    duet_future *f = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    set_request(43);
    hear_lines_that_end_with(" [request=42]");
    must_equal(duet_future_end(f, DUET_NOW, 0, &r), DUET_ABANDONED);
    must_have_heard_one_that_ended_so();
    hear_lines_that_end_with(" [request=42]");
    must_equal(duet_pool_close(pool, DUET_NOW), -ETIME);
    log_release();
    must_equal(heard.with_end, 1); /* another line may be about the pool */
    gate_open(&gate);
    close_pool(pool);
}

static duet_result wait_shielded(void *promise)
{
    duet_shield_begin();
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    duet_shield_end();
    return duet_ok();
}

thread_test(a_coroutine_that_is_left_is_named_with_its_values)
{
    duet_loop *loop = start_loop();
    duet_future *promise = open_promise();
    set_request(42);
    duet_future *f = duet_submit(loop, wait_shielded, promise);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    set_request(43);
    hear_lines_that_end_with(" [request=42]");
    must_equal(duet_loop_close(loop, duet_ms(1)), -ETIME);
    log_release();
    must_equal(heard.with_end, 1);
    settle(promise);
    close_loop(loop);
    must_equal(finish(f).err, 0);
    duet_future_unref(promise);
}

/* Never begun, and yet a work that failed. */
thread_test(the_refusal_of_a_work_is_reported_with_its_values)
{
    duet_loop *loop = start_loop();
    duet_loop_stop(loop);
    set_request(42);
    duet_future *f = duet_submit(loop, return_ok, NULL);
    set_request(43);
    hear_lines_that_end_with(" [request=42]");
    duet_future_unref(f);
    must_have_heard_one_that_ended_so();
    close_loop(loop);
}

/* A long value is cut, not the line's end. */
coroutine_test(a_value_that_is_too_long_harms_no_line)
{
    static char text[5000];
    memset(text, 'x', sizeof text - 1);
    must_equal(duet_context_set(&user, text), 0);
    hear_lines_that_end_with("");
    must_equal(finish(duet_pool_submit(NULL, return_ok, NULL)).err, -EINVAL);
    log_release();
    must_equal(heard.lines, 1);
    must_equal(heard.with_bracket, 1);
    return duet_ok();
}

/* ---- Hooks see the context of the work ---- */

/* "spawned 1, step_began 1, …" of the works named "watched"; their calls are never at once. */
struct told {
    char text[512];
    bool changes; /* each hook leaves a value of its own behind */
    duet_future *parked;
};

static void tell(struct told *told, const duet_work_event *event, const char *what)
{
    size_t used = strlen(told->text);
    if (strcmp(event->name, "watched") != 0)
        return;
    snprintf(told->text + used, sizeof told->text - used, "%s%s %ld", used ? ", " : "", what,
             get());
    if (told->changes)
        set(99);
}

#define TELL(hook)                                                                                 \
    static void tell_##hook(void *ctx, const duet_work_event *event)                               \
    {                                                                                              \
        tell(ctx, event, #hook);                                                                   \
    }
TELL(spawned)
TELL(step_began)
TELL(step_ended)
TELL(settled)
TELL(job_queued)
TELL(job_began)
TELL(job_ended)

static void tell_parked(void *ctx, const duet_work_event *event)
{
    struct told *told = ctx;
    tell(told, event, "parked");
    if (told->parked && strcmp(event->name, "watched") == 0)
        settle(told->parked);
}

static duet_hooks hooks_of(struct told *told)
{
    return (duet_hooks){.ctx = told,
                        .spawned = tell_spawned,
                        .step_began = tell_step_began,
                        .step_ended = tell_step_ended,
                        .parked = tell_parked,
                        .settled = tell_settled,
                        .job_queued = tell_job_queued,
                        .job_began = tell_job_began,
                        .job_ended = tell_job_ended};
}

static duet_result change_and_wait_for(void *promise)
{
    set(2);
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    must_equal(get(), 2);
    set(3);
    return duet_ok();
}

static const duet_opts watched = {.name = "watched"};

static void watch_a_coroutine(bool changes)
{
    struct told told = {.changes = changes, .parked = open_promise()};
    duet_hooks hooks = hooks_of(&told);
    duet_loop_config config = {.hooks = &hooks};
    duet_future *go = open_promise();
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, &config), 0);
    set(1);
    duet_future *f = duet_submit_with(loop, change_and_wait_for, go, &watched);
    must_equal(get(), 1);
    set(7);
    must_equal(finish(told.parked).err, 0);
    settle(go);
    must_equal(finish(f).err, 0);
    must_equal(get(), 7);
    close_loop(loop);
    if (strcmp(told.text, "spawned 1, step_began 1, step_ended 2, parked 2, step_began 2, "
                          "step_ended 3, settled 3") != 0) {
        fprintf(stderr, "told: %s\n", told.text);
        must(false);
    }
    duet_future_unref(go);
}

thread_test(the_hooks_of_a_coroutine_see_its_values)
{
    watch_a_coroutine(false);
}

thread_test(what_a_hook_changes_ends_with_it)
{
    watch_a_coroutine(true);
}

static duet_result change_and_end(void *unused)
{
    (void)unused;
    must_equal(get(), 1);
    set(2);
    return duet_ok();
}

static void watch_a_job(bool changes)
{
    struct told told = {.changes = changes};
    duet_hooks hooks = hooks_of(&told);
    duet_pool_config config = {.workers_max = 1, .hooks = &hooks};
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &config), 0);
    set(1);
    duet_future *f = duet_pool_submit_with(pool, change_and_end, NULL, &watched);
    must_equal(get(), 1);
    set(7);
    must_equal(finish(f).err, 0);
    must_equal(get(), 7);
    close_pool(pool);
    if (strcmp(told.text, "job_queued 1, job_began 1, step_began 1, step_ended 2, job_ended 2, "
                          "settled 2") != 0) {
        fprintf(stderr, "told: %s\n", told.text);
        must(false);
    }
}

thread_test(the_hooks_of_a_job_see_its_values)
{
    watch_a_job(false);
    watch_a_job(true);
}

thread_test(the_hooks_of_a_work_that_never_runs_see_its_values)
{
    struct told told = {.changes = true}, told_job = {.changes = true};
    duet_hooks hooks = hooks_of(&told), job_hooks = hooks_of(&told_job);
    duet_loop_config config = {.hooks = &hooks};
    duet_pool_config pool_config = {.workers_max = 1, .hooks = &job_hooks};
    struct gate gate = GATE_INIT;
    duet_loop *loop;
    duet_pool *pool;
    must_equal(duet_loop_open(&loop, &config), 0);
    must_equal(duet_pool_open(&pool, &pool_config), 0);
    duet_future *blocker = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    set(1);
    duet_future *f = duet_submit_with(loop, change_and_end, NULL, &watched),
                *job = duet_pool_submit_with(pool, change_and_end, NULL, &watched);
    set(7);
    duet_future_cancel(f);
    duet_future_cancel(job);
    must_equal(get(), 7);
    must_equal(finish(job).err, -ECANCELED);
    close_loop(loop);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(get(), 7);
    gate_open(&gate);
    must_equal(finish(blocker).err, 0);
    close_pool(pool);
    must_equal(strcmp(told.text, "spawned 1, settled 1"), 0);
    must_equal(strcmp(told_job.text, "job_queued 1, settled 1"), 0);
}

#define context_test(name) cmocka_unit_test_setup_teardown(name, forget_all, forget_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        context_test(a_spawned_coroutine_begins_with_the_values_of_who_spawned_it),
        context_test(a_submitted_coroutine_begins_with_the_values_of_the_thread),
        context_test(a_called_coroutine_begins_with_the_values_of_its_caller),
        context_test(a_coroutine_that_is_called_on_the_callers_own_loop_has_its_values),
        context_test(a_job_begins_with_the_values_of_who_submitted_it),
        context_test(an_offloaded_job_begins_with_the_values_of_the_coroutine),
        context_test(a_groups_children_begin_with_the_values_of_who_spawned_them),
        context_test(a_callback_begins_with_the_values_of_who_asked_for_it),
        context_test(a_callback_has_the_values_of_a_coroutine_that_has_ended),
        context_test(a_callback_of_a_future_has_the_values_of_who_added_it),
        context_test(a_servers_handlers_begin_with_its_values_and_not_with_each_others),
        context_test(a_chain_of_coroutines_and_jobs_hands_the_values_on),
        context_test(a_run_within_a_job_begins_with_the_jobs_values),
        context_test(a_change_is_seen_by_later_children_alone),
        context_test(a_change_is_seen_neither_by_who_started_it_nor_by_siblings),
        context_test(the_next_job_on_a_worker_sees_nothing_of_the_one_before),
        context_test(the_next_coroutine_of_a_loop_sees_nothing_of_the_one_before),
        context_test(a_job_that_waited_has_its_values_and_not_those_of_the_one_that_ran_meanwhile),
        context_test(works_that_interleave_in_one_loop_keep_their_own_values),
        context_test(a_job_that_runs_in_its_submitter_leaves_nothing_there),
        context_test(what_a_bare_callback_changes_ends_with_it),
        context_test(a_value_that_a_bare_callback_sets_is_dropped_after_it),
        context_test(what_a_bare_callback_swaps_in_ends_with_it),
        context_test(what_a_drop_function_changes_does_not_stay_with_who_submitted),
        context_test(a_run_begins_with_the_values_of_its_thread_and_leaves_nothing_there),
        context_test(a_thread_has_nothing_of_another_threads),
        context_test(a_thread_that_ends_drops_its_values),
        context_test(a_drop_function_may_use_duet_while_its_thread_ends),
        context_test(what_a_thread_has_started_keeps_its_values_when_it_has_ended),
        context_test(what_runs_on_a_loop_has_the_values_of_its_submitter_not_of_the_loops_thread),
        context_test(the_thread_of_a_guest_has_its_own_values_between_the_turns),
        context_test(a_value_that_was_set_to_null_is_gone),
        context_test(a_value_that_was_overwritten_is_dropped_unless_somebody_has_it),
        context_test(many_keys_have_a_value_each),
        context_test(a_key_is_its_address),
        context_test(a_bad_key_is_einval_and_the_value_is_still_the_callers),
        context_test(a_value_is_dropped_after_its_last_holder),
        context_test(a_worker_that_rests_holds_nothing_of_its_last_job),
        context_test(a_coroutine_that_has_ended_and_was_let_go_holds_nothing),
        context_test(whatever_becomes_of_a_work_its_values_are_dropped_once),
        context_test(a_drop_function_may_look_at_the_context),
        context_test(a_drop_function_may_change_the_context),
        context_test(in_a_storm_each_value_is_dropped_once),
        context_test(the_empty_context_is_null),
        context_test(a_context_that_was_kept_is_what_there_was_then),
        context_test(two_that_have_swapped_in_one_context_do_not_see_each_others_changes),
        context_test(a_reference_holds_the_values),
        context_test(a_coroutine_may_swap_its_context_and_its_children_have_that),
        context_test(what_is_shown_is_described),
        context_test(a_description_never_exceeds_its_room),
        context_test(a_failure_that_nobody_looked_at_is_reported_with_the_values_of_its_work),
        context_test(a_failure_is_reported_with_what_its_work_has_set_last),
        context_test(both_values_are_in_the_line),
        context_test(without_shown_values_a_line_is_as_ever),
        context_test(a_line_that_is_written_within_a_work_has_its_values),
        context_test(a_group_reports_a_failure_with_the_values_of_the_child),
        context_test(a_handlers_failure_is_reported_with_its_values),
        context_test(a_job_that_was_abandoned_or_is_left_is_named_with_its_values),
        context_test(a_coroutine_that_is_left_is_named_with_its_values),
        context_test(the_refusal_of_a_work_is_reported_with_its_values),
        context_test(a_value_that_is_too_long_harms_no_line),
        context_test(the_hooks_of_a_coroutine_see_its_values),
        context_test(what_a_hook_changes_ends_with_it),
        context_test(the_hooks_of_a_job_see_its_values),
        context_test(the_hooks_of_a_work_that_never_runs_see_its_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
