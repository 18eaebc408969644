/* What base.h says of DUET_AT_ONCE: a coroutine that a coroutine of the same loop starts runs at
 * once, before the call that starts it returns, until it waits, yields or ends; elsewhere it has no
 * effect. Most tests run twice, the second time on loops with hooks, which must not change what
 * happens. The tests that fork come first, while this process has no threads. */
#include "duet_test.h"
#include "shared.h"

#include <duet/sync.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- What the tests of this file share ---- */

static const duet_opts at_once = {.name = "child", .flags = DUET_AT_ONCE};

static duet_future *start(duet_fn *fn, void *arg)
{
    return duet_spawn_with(fn, arg, &at_once);
}

/* Who did what, in order: a letter each. By the coroutines of one loop. */
static char tale[512];

static void tell(char letter)
{
    size_t length = strlen(tale);
    must(length < sizeof tale - 1);
    tale[length] = letter;
    tale[length + 1] = '\0';
}

static void must_tell(const char *expected)
{
    if (strcmp(tale, expected) != 0)
        fprintf(stderr, "the tale is '%s', not '%s'\n", tale, expected);
    must(strcmp(tale, expected) == 0);
    tale[0] = '\0';
}

static duet_result tell_one(void *letter)
{
    tell(*(const char *)letter);
    return duet_i64(*(const char *)letter);
}

/* What a child does: tells its first letter, waits, tells its second. */
struct story {
    char before, after;
    duet_future *promise; /* what it waits for; NULL: it yields */
    int rc; /* what the wait said */
};

static duet_result tell_two(void *arg)
{
    struct story *s = arg;
    tell(s->before);
    s->rc = s->promise ? duet_future_wait(s->promise, SURELY, NULL) : duet_yield();
    tell(s->after);
    return s->rc < 0 ? duet_err(s->rc) : duet_i64(s->after);
}

/* How often a work ran, and its argument was dropped. */
struct counted {
    atomic_int runs, drops;
};

static duet_result count_run(void *arg)
{
    atomic_fetch_add(&((struct counted *)arg)->runs, 1);
    return duet_ok();
}

static void count_drop_of(void *arg)
{
    atomic_fetch_add(&((struct counted *)arg)->drops, 1);
}

static const duet_opts counting = {.name = "counted", .drop = count_drop_of, .flags = DUET_AT_ONCE};

static void must_count(const struct counted *c, int runs, int drops)
{
    must_equal(atomic_load(&c->runs), runs);
    must_equal(atomic_load(&c->drops), drops);
}

static duet_result wait_for(void *promise)
{
    int rc = duet_future_wait(promise, SURELY, NULL);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

static int failure_of(duet_group *group)
{
    duet_result r;
    must_equal(duet_group_wait(group, SURELY, &r), 0);
    must_equal(duet_group_close(group), 0);
    return r.err;
}

/* Runs a body as a coroutine of that loop, and waits for its end. */
static void run_on(duet_loop *loop, duet_fn *body, void *arg)
{
    duet_result r;
    must_equal(duet_call(loop, body, arg, SURELY, &r), 0);
    must_equal(r.err, 0);
}

/* For a loop of the coroutines' own: so many at one time. */
static void run_with_max(unsigned max, duet_fn *body, void *arg)
{
    duet_loop *loop;
    const duet_loop_config config = {.coroutines_max = max};
    must_equal(duet_loop_start(&loop, &config), 0);
    run_on(loop, body, arg);
    close_loop(loop);
}

/* Keeps the thread busy, without a wait. */
static void spin_ms(int ms)
{
    for (int64_t until = duet_ms(ms).ns; duet_now_ns() < until;)
        ;
}

/* ---- The order ---- */

coroutine_test(it_has_run_to_its_end_when_the_call_returns)
{
    char letters[] = "abc";
    for (int i = 0; i < 3; i++) {
        duet_future *f = start(tell_one, &letters[i]);
        tell((char)('1' + i));
        must(duet_future_settled(f));
        must_equal(duet_as_i64(duet_future_result(f)), letters[i]);
        duet_future_unref(f);
    }
    must_tell("a1b2c3");
    return duet_ok();
}

/* Without the flag it does not. */
coroutine_test(without_the_flag_it_runs_later)
{
    duet_future *f = duet_spawn(tell_one, "c");
    tell('s');
    must(!duet_future_settled(f));
    must_equal(finish(f).err, 0);
    must_tell("sc");
    return duet_ok();
}

enum way {
    BY_SPAWN,
    BY_SUBMIT,
    BY_GROUP,
    BY_GROUP_ON_LOOP,
    WAYS
};

/* Starts it in that way; it is in the group in any case. */
static int start_by(enum way way, duet_group *group, duet_fn *fn, void *arg, const duet_opts *opts)
{
    switch (way) {
    case BY_SPAWN:
        (void)duet_group_add(group, duet_spawn_with(fn, arg, opts));
        return 0;
    case BY_SUBMIT:
        (void)duet_group_add(group, duet_submit_with(duet_loop_self(), fn, arg, opts));
        return 0;
    case BY_GROUP:
        return duet_group_spawn(group, NULL, fn, arg, opts);
    default:
        return duet_group_spawn(group, duet_loop_self(), fn, arg, opts);
    }
}

coroutine_test(it_runs_at_once_in_whatever_way_it_is_started)
{
    for (enum way way = 0; way < WAYS; way++) {
        duet_group group = DUET_GROUP_INIT;
        struct counted c = {0};
        must_equal(start_by(way, &group, tell_one, "a", &at_once), 0);
        tell('1');
        must_equal(start_by(way, &group, tell_one, "b", &at_once), 0);
        tell('2');
        must_tell("a1b2");
        must_equal(start_by(way, &group, count_run, &c, &counting), 0);
        must_count(&c, 1, 1);
        must_equal(duet_group_wait(&group, SURELY, NULL), 0);
        must_equal(duet_group_close(&group), 0);
        must_count(&c, 1, 1);
    }
    return duet_ok();
}

coroutine_test(who_started_it_goes_on_before_all_others_when_it_waits)
{
    for (enum way way = 0; way < WAYS; way++) {
        duet_group group = DUET_GROUP_INIT;
        struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
        duet_future *other = duet_spawn(tell_one, "o");
        must_equal(start_by(way, &group, tell_two, &child, &at_once), 0);
        tell('s');
        must_tell("as");
        settle(child.promise);
        tell('t');
        must_tell("t"); /* what it waits for has come, and it waits for its turn */
        must_equal(finish(other).err, 0);
        must_equal(duet_group_wait(&group, SURELY, NULL), 0);
        must(strcmp(tale, "ob") == 0 || strcmp(tale, "bo") == 0);
        tale[0] = '\0';
        must_equal(child.rc, 0);
        must_equal(duet_group_close(&group), 0);
        duet_future_unref(child.promise);
    }
    return duet_ok();
}

coroutine_test(who_started_it_goes_on_before_all_others_when_it_yields)
{
    for (enum way way = 0; way < WAYS; way++) {
        duet_group group = DUET_GROUP_INIT;
        struct story child = {.before = 'a', .after = 'b'};
        duet_future *other = duet_spawn(tell_one, "o");
        must_equal(start_by(way, &group, tell_two, &child, &at_once), 0);
        tell('s');
        must_tell("as");
        must_equal(finish(other).err, 0);
        must_equal(duet_group_wait(&group, SURELY, NULL), 0);
        must_tell("ob"); /* the other was ready before it yielded */
        must_equal(duet_group_close(&group), 0);
    }
    return duet_ok();
}

coroutine_test(it_yields_also_where_nobody_else_is_ready)
{
    struct story child = {.before = 'a', .after = 'b'};
    duet_future *f = start(tell_two, &child);
    tell('s');
    must_tell("as");
    must(!duet_future_settled(f));
    must_equal(finish(f).err, 0);
    must_tell("b");
    return duet_ok();
}

/* Waits that are answered at once are none. */
static duet_result get_what_is_there(void *settled)
{
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_event event = DUET_EVENT_INIT;
    duet_sem sem;
    duet_chan *chan;
    int item = 5;
    must_equal(duet_future_wait(settled, SURELY, NULL), 0);
    must_equal(duet_mutex_lock(&mutex, SURELY), 0);
    must_equal(duet_mutex_unlock(&mutex), 0);
    duet_event_set(&event);
    must_equal(duet_event_wait(&event, SURELY), 0);
    duet_sem_init(&sem, 1);
    must_equal(duet_sem_wait(&sem, SURELY), 0);
    must_equal(duet_chan_open(&chan, sizeof item, 1), 0);
    must_equal(duet_chan_send(chan, &item, SURELY), 0);
    must_equal(duet_chan_recv(chan, &item, SURELY), 0);
    duet_chan_unref(chan);
    tell('c');
    return duet_ok();
}

coroutine_test(it_goes_on_through_waits_that_are_answered_at_once)
{
    duet_future *settled = open_promise();
    settle(settled);
    duet_future *f = start(get_what_is_there, settled);
    tell('s');
    must_tell("cs");
    must(duet_future_settled(f));
    must_equal(finish(f).err, 0);
    duet_future_unref(settled);
    return duet_ok();
}

static duet_result wake_the_other(void *promise)
{
    tell('a');
    settle(promise);
    tell('b');
    return duet_ok();
}

coroutine_test(whom_it_wakes_runs_after_who_started_it)
{
    struct story other = {.before = 'o', .after = 'p', .promise = open_promise()};
    duet_future *waiting = start(tell_two, &other);
    must_tell("o");
    duet_future *f = start(wake_the_other, other.promise);
    tell('s');
    must_tell("abs");
    must_equal(finish(f).err, 0);
    must_equal(finish(waiting).err, 0);
    must_tell("p");
    duet_future_unref(other.promise);
    return duet_ok();
}

coroutine_test(it_may_wake_who_was_started_at_once_before_it_and_that_one_its_starter)
{
    struct story first = {.before = 'a', .after = 'b', .promise = open_promise()};
    duet_future *f = start(tell_two, &first);
    duet_future *second = start(wake_the_other, first.promise);
    must_equal(duet_future_wait(f, SURELY, NULL), 0); /* by the first */
    must_tell("aabb");
    must_equal(finish(second).err, 0);
    must_equal(finish(f).err, 0);
    duet_future_unref(first.promise);
    return duet_ok();
}

static duet_result start_one_and_end(void *arg)
{
    struct story *s = arg;
    duet_future_unref(start(tell_two, s));
    tell('e');
    return duet_ok();
}

coroutine_test(it_outlives_who_started_it)
{
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    must_equal(finish(duet_spawn(start_one_and_end, &child)).err, 0);
    must_tell("ae");
    settle(child.promise);
    for (int i = 0; i < 100 && tale[0] == '\0'; i++)
        must_equal(duet_yield(), 0);
    must_tell("b");
    duet_future_unref(child.promise);
    return duet_ok();
}

/* It may start others at once when it has waited and is run by the loop. */
static duet_result start_after_a_wait(void *arg)
{
    (void)arg;
    must_equal(duet_yield(), 0);
    duet_future *f = start(tell_one, "c");
    tell('a');
    must_equal(finish(f).err, 0);
    return duet_ok();
}

coroutine_test(it_starts_others_at_once_after_it_has_waited)
{
    must_equal(finish(start(start_after_a_wait, NULL)).err, 0);
    must_tell("ca");
    return duet_ok();
}

/* A generator: each value is asked for, and given in the order of the meetings. */
static duet_result generate(void *chan)
{
    for (int i = 0; i < 50; i++)
        must_equal(duet_chan_send(chan, &i, SURELY), 0);
    duet_chan_shut(chan);
    return duet_ok();
}

coroutine_test(it_meets_who_started_it_in_a_channel)
{
    duet_chan *chan;
    int item, n = 0;
    must_equal(duet_chan_open(&chan, sizeof item, 0), 0);
    duet_future *f = start(generate, chan);
    while (duet_chan_recv(chan, &item, SURELY) == 0)
        must_equal(item, n++);
    must_equal(n, 50);
    must_equal(finish(f).err, 0);
    duet_chan_unref(chan);
    return duet_ok();
}

/* ---- Deep, and many ---- */

enum {
    DEPTH = 100,
    MANY = 1000
};

struct level {
    int depth;
    char *outer; /* in the frame of who started it */
    duet_future *promise; /* what the deepest waits for; NULL: nothing */
    duet_future *f; /* of the next level */
    bool back; /* the call that started the next level has returned */
};

static struct level levels[DEPTH + 1];

static duet_result go_deeper(void *arg)
{
    struct level *level = arg;
    char frame[200];
    memset(frame, level->depth, sizeof frame);
    ptrdiff_t apart = (char *)__builtin_frame_address(0) - level->outer;
    must(apart > (128 << 10) || apart < -(128 << 10)); /* on its own stack */
    if (level->depth == DEPTH) {
        must(!level->promise || duet_future_wait(level->promise, SURELY, NULL) == 0);
        return duet_i64(1);
    }
    level[1] = (struct level){level->depth + 1, __builtin_frame_address(0), level->promise, 0, 0};
    level->f = start(go_deeper, &level[1]);
    must_equal(duet_future_settled(level->f), level->promise == NULL);
    must(level->depth + 1 == DEPTH || level[1].back);
    level->back = true;
    duet_result r = finish(level->f);
    for (size_t i = 0; i < sizeof frame; i++)
        must_equal(frame[i], (char)level->depth);
    return duet_i64(duet_as_i64(r) + 1);
}

static void go_down(duet_future *promise)
{
    levels[0] = (struct level){0, __builtin_frame_address(0), promise, 0, 0};
    duet_future *f = start(go_deeper, &levels[0]);
    must(levels[0].back);
    must_equal(duet_future_settled(f), promise == NULL);
    if (promise)
        settle(promise);
    must_equal(duet_as_i64(finish(f)), DEPTH + 1);
}

coroutine_test(they_nest_deeply_each_on_its_own_stack)
{
    go_down(NULL);
    return duet_ok();
}

/* The deepest waits, then all those above it, from the inside to the outside. */
coroutine_test(they_nest_deeply_and_wait_for_each_other)
{
    duet_future *promise = open_promise();
    go_down(promise);
    duet_future_unref(promise);
    return duet_ok();
}

coroutine_test(a_thousand_in_a_row_by_one_that_never_waits)
{
    for (enum way way = 0; way < WAYS; way++) {
        duet_group group = DUET_GROUP_INIT;
        struct counted c = {0};
        for (int i = 1; i <= MANY; i++) {
            must_equal(start_by(way, &group, count_run, &c, &counting), 0);
            must_count(&c, i, i);
        }
        must_equal(duet_group_wait(&group, SURELY, NULL), 0);
        must_equal(duet_group_close(&group), 0);
    }
    return duet_ok();
}

struct crowd {
    duet_future *promise;
    int began, ended;
};

static duet_result join_crowd(void *arg)
{
    struct crowd *crowd = arg;
    crowd->began++;
    int rc = duet_future_wait(crowd->promise, SURELY, NULL);
    crowd->ended++;
    return rc < 0 ? duet_err(rc) : duet_ok();
}

coroutine_test(a_thousand_wait_one_beside_the_other)
{
    for (int cancelled = 0; cancelled < 2; cancelled++) {
        static duet_future *f[MANY];
        struct crowd crowd = {.promise = open_promise()};
        for (int i = 0; i < MANY; i++) {
            f[i] = start(join_crowd, &crowd);
            must_equal(crowd.began, i + 1);
        }
        must_equal(crowd.ended, 0);
        if (cancelled)
            for (int i = 0; i < MANY; i++)
                duet_future_cancel(f[i]);
        else
            settle(crowd.promise);
        must_equal(crowd.ended, 0);
        for (int i = 0; i < MANY; i++)
            must_equal(finish(f[i]).err, cancelled ? -ECANCELED : 0);
        must_equal(crowd.ended, MANY);
        duet_future_unref(crowd.promise);
    }
    return duet_ok();
}

/* ---- Elsewhere ---- */

/* On a loop that is held up, nothing runs until the gate is opened. */
struct held {
    duet_loop *loop;
    struct gate gate;
    duet_future *holder;
    struct counted c;
};

static void hold(struct held *h)
{
    h->gate = (struct gate)GATE_INIT;
    h->loop = start_loop();
    h->holder = duet_submit(h->loop, gate_pass_job, &h->gate);
    gate_await_arrivals(&h->gate, 1);
}

static void let_go_of_hold(struct held *h)
{
    gate_open(&h->gate);
    must_equal(finish(h->holder).err, 0);
    close_loop(h->loop);
}

static duet_result submit_to_held(void *arg)
{
    struct held *h = arg;
    duet_group group = DUET_GROUP_INIT;
    duet_future *f = duet_submit_with(h->loop, count_run, &h->c, &counting);
    must_equal(duet_group_spawn(&group, h->loop, count_run, &h->c, &counting), 0);
    must(!duet_future_settled(f));
    must_count(&h->c, 0, 0);
    gate_open(&h->gate);
    must_equal(finish(f).err, 0);
    must_equal(duet_group_wait(&group, SURELY, NULL), 0);
    must_equal(duet_group_close(&group), 0);
    must_count(&h->c, 2, 2);
    return duet_ok();
}

thread_test(from_a_thread_a_job_or_another_loop_it_runs_as_usual)
{
    for (int i = 0; i < 3; i++) {
        static struct held h;
        duet_result r = duet_ok();
        memset(&h, 0, sizeof h);
        hold(&h);
        if (i == 0)
            r = submit_to_held(&h);
        else if (i == 1)
            run_in_coroutine(submit_to_held, &h);
        else
            must_equal(duet_offload(NULL, submit_to_held, &h, SURELY, &r), 0);
        must_equal(r.err, 0);
        let_go_of_hold(&h);
    }
}

thread_test(from_a_thread_it_passes_nobody)
{
    struct held h;
    memset(&h, 0, sizeof h);
    hold(&h);
    tale[0] = '\0';
    duet_future *f[] = {duet_submit(h.loop, tell_one, "a"),
                        duet_submit_with(h.loop, tell_one, "b", &at_once),
                        duet_submit(h.loop, tell_one, "c")};
    gate_open(&h.gate);
    for (int i = 0; i < 3; i++)
        must_equal(finish(f[i]).err, 0);
    let_go_of_hold(&h);
    must_tell("abc");
}

thread_test(before_the_loop_runs_it_waits_for_that)
{
    struct counted c = {0};
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    duet_future *f = duet_submit_with(loop, count_run, &c, &counting);
    must_count(&c, 0, 0);
    close_loop(loop);
    must_equal(finish(f).err, -ECANCELED);
    must_count(&c, 0, 1);
}

static duet_result stop_the_loop(void *arg)
{
    (void)arg;
    duet_loop_stop(duet_loop_self());
    return duet_ok();
}

thread_test(the_first_coroutines_of_a_loop_run_as_usual)
{
    struct counted c = {0};
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    duet_future *f = duet_submit_with(loop, count_run, &c, &counting);
    duet_future *last = duet_submit_with(loop, stop_the_loop, NULL, &at_once);
    must_count(&c, 0, 0);
    must_equal(duet_loop_run(loop), 0);
    must_count(&c, 1, 1);
    must_equal(finish(f).err, 0);
    must_equal(finish(last).err, 0);
    close_loop(loop);
}

/* Starts it in each way, where it has no effect; all end later. */
struct later {
    struct counted c;
    duet_group group;
    int starts;
};

static void start_with_no_effect(void *arg)
{
    struct later *l = arg;
    for (enum way way = 0; way < WAYS; way++, l->starts++)
        must_equal(start_by(way, &l->group, count_run, &l->c, &counting), 0);
    must_count(&l->c, 0, 0);
}

static void end_later(struct later *l, int starts)
{
    must_equal(l->starts, starts * WAYS);
    must_equal(duet_group_wait(&l->group, SURELY, NULL), 0);
    must_count(&l->c, l->starts, l->starts);
    must_equal(duet_group_close(&l->group), 0);
}

coroutine_test(from_a_bare_callback_it_runs_later)
{
    struct later soon = {0}, moment = {0}, then = {0}, dropped = {0};
    duet_future *promise = open_promise();
    must_equal(duet_call_soon(duet_loop_self(), start_with_no_effect, &soon), 0);
    must_equal(finish(duet_call_at(duet_loop_self(), DUET_NOW, start_with_no_effect, &moment)).err,
               0);
    settle(promise);
    must_equal(duet_future_then(promise, duet_loop_self(), start_with_no_effect, &then, NULL), 0);
    while (then.starts == 0 || soon.starts == 0)
        must_equal(duet_yield(), 0);
    end_later(&soon, 1);
    end_later(&moment, 1);
    end_later(&then, 1);
    duet_future_unref(promise);
    /* A drop function is one, too, also of a coroutine that runs at once itself. */
    const duet_opts opts = {.drop = start_with_no_effect, .flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(return_ok, &dropped, &opts);
    must(duet_future_settled(f));
    must_equal(finish(f).err, 0);
    end_later(&dropped, 1);
    return duet_ok();
}

coroutine_test(from_the_drop_of_a_result_it_runs_later)
{
    struct later l = {0};
    const duet_opts opts = {.drop_result = start_with_no_effect, .flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(return_arg, &l, &opts);
    must_equal(l.starts, 0);
    duet_future_unref(f);
    end_later(&l, 1);
    return duet_ok();
}

/* The host of a guest loop, by the thread of the test. */
struct host {
    duet_loop *loop;
    int fd;
};

static void host_open(struct host *h)
{
    must_equal(duet_loop_open(&h->loop, NULL), 0);
    must_equal(duet_loop_attach(h->loop, &h->fd), 0);
}

static int host_turn(struct host *h)
{
    struct pollfd p = {.fd = h->fd, .events = POLLIN};
    int n;
    while ((n = poll(&p, 1, 60000)) < 0)
        must_equal(errno, EINTR);
    must_equal(n, 1);
    return duet_loop_turn(h->loop);
}

static duet_result host_finish(struct host *h, duet_future *f)
{
    while (!duet_future_settled(f))
        must(host_turn(h) >= 0);
    return finish(f);
}

static void host_close(struct host *h)
{
    duet_loop_stop(h->loop);
    while (host_turn(h) != -ESHUTDOWN)
        ;
    close_loop(h->loop);
}

static duet_result be_a_guest(void *arg)
{
    struct story *child = arg;
    duet_future *f[] = {start(tell_two, child), start(tell_one, "c")};
    tell('s');
    must(!duet_future_settled(f[0]));
    must(duet_future_settled(f[1]));
    must_equal(finish(f[0]).err, 0);
    must_equal(finish(f[1]).err, 0);
    return duet_ok();
}

thread_test(from_the_host_of_a_guest_it_runs_later_and_within_the_guest_at_once)
{
    struct host h;
    struct counted c = {0};
    struct story child = {.before = 'a', .after = 'b'};
    host_open(&h);
    duet_future *f[] = {start(count_run, &c), duet_submit_with(h.loop, count_run, &c, &at_once)};
    must_count(&c, 0, 0);
    must_equal(host_finish(&h, f[0]).err, 0);
    must_equal(host_finish(&h, f[1]).err, 0);
    must_count(&c, 2, 0);
    duet_group group = DUET_GROUP_INIT;
    must_equal(duet_group_spawn(&group, h.loop, count_run, &c, &at_once), 0);
    must_count(&c, 2, 0);
    must_equal(host_finish(&h, duet_submit_with(h.loop, be_a_guest, &child, &at_once)).err, 0);
    must_tell("acsb");
    must_count(&c, 3, 0);
    while (duet_group_wait(&group, DUET_NOW, NULL) != 0)
        must(host_turn(&h) >= 0);
    must_equal(duet_group_close(&group), 0);
    host_close(&h);
}

thread_test(of_a_job_a_promise_and_a_main_coroutine_it_has_no_effect)
{
    struct counted c = {0};
    duet_pool *pool = open_pool(1);
    duet_future *promise;
    duet_result r;
    struct gate gate = GATE_INIT;
    duet_future *held = duet_pool_submit_with(pool, gate_pass_job, &gate, &at_once);
    gate_await_arrivals(&gate, 1);
    duet_future *f = duet_pool_submit_with(pool, count_run, &c, &counting);
    must_count(&c, 0, 0);
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    must_equal(finish(f).err, 0);
    must_count(&c, 1, 1);
    must_equal(duet_offload_with(pool, count_run, &c, &counting, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_count(&c, 2, 2);
    close_pool(pool);
    must_equal(duet_run_with(count_run, &c, &counting, &r), 0);
    must_equal(r.err, 0);
    must_count(&c, 3, 3);
    must_equal(duet_future_open_with(&promise, &at_once), 0);
    settle(promise);
    duet_future_unref(promise);
}

static duet_result queue_job_and_go_on(void *arg)
{
    struct held *h = arg;
    duet_pool *pool = open_pool(1);
    duet_future *held = duet_pool_submit(pool, gate_pass_job, &h->gate);
    gate_await_arrivals(&h->gate, 1);
    duet_future *f = duet_pool_submit_with(pool, count_run, &h->c, &counting);
    must_count(&h->c, 0, 0);
    gate_open(&h->gate);
    must_equal(finish(held).err, 0);
    must_equal(finish(f).err, 0);
    must_count(&h->c, 1, 1);
    close_pool(pool);
    return duet_ok();
}

coroutine_test(a_job_that_a_coroutine_submits_does_not_run_at_once)
{
    struct held h = {.gate = GATE_INIT};
    return queue_job_and_go_on(&h);
}

/* ---- Options ---- */

coroutine_test(it_is_refused_as_without_the_flag)
{
    const struct {
        duet_opts opts;
        int err;
    } cases[] = {
        {{.drop = count_drop_of, .flags = DUET_AT_ONCE | 1u << 20}, -EINVAL},
        {{.drop = count_drop_of, .flags = DUET_AT_ONCE, .priority = 2}, -EINVAL},
        {{.drop = count_drop_of, .flags = DUET_AT_ONCE, .reserved = {0, 1}}, -EINVAL},
        {{.drop = count_drop_of, .flags = DUET_AT_ONCE, .stack_size = SIZE_MAX}, -EINVAL},
        {{.drop = count_drop_of, .flags = DUET_AT_ONCE, .stack_size = (size_t)2 << 30}, -EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        duet_group group = DUET_GROUP_INIT;
        struct counted c = {0};
        must_equal(finish(duet_spawn_with(count_run, &c, &cases[i].opts)).err, cases[i].err);
        must_equal(finish(duet_submit_with(duet_loop_self(), count_run, &c, &cases[i].opts)).err,
                   cases[i].err);
        must_equal(duet_group_spawn(&group, NULL, count_run, &c, &cases[i].opts), cases[i].err);
        must_count(&c, 0, 3);
        must_equal(duet_group_close(&group), 0);
    }
    return duet_ok();
}

coroutine_test(it_goes_with_other_flags)
{
    static const uint32_t others[] = {DUET_INTERRUPT, DUET_KEEP_SLOT, DUET_REFUSE};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct counted c = {0};
        duet_opts opts = counting;
        opts.flags |= others[i];
        must_equal(finish(duet_spawn_with(count_run, &c, &opts)).err, 0);
        duet_future *f = duet_submit_with(duet_loop_self(), count_run, &c, &opts);
        must_count(&c, 2, 2);
        must_equal(finish(f).err, 0);
    }
    return duet_ok();
}

coroutine_test(the_options_are_copied)
{
    char name[32] = "copied";
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    duet_opts opts = {.name = name, .flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(tell_two, &child, &opts);
    memset(name, 'x', sizeof name - 1);
    memset(&opts, 0xa5, sizeof opts);
    settle(child.promise);
    must_equal(finish(f).err, 0);
    must_tell("ab");
    duet_future_unref(child.promise);
    return duet_ok();
}

static duet_result use_stack(void *size)
{
    volatile char frame[4096];
    size_t left = *(size_t *)size;
    frame[0] = 1;
    frame[sizeof frame - 1] = 1;
    if (left > sizeof frame) {
        left -= sizeof frame;
        must_equal(use_stack(&left).err, 0);
    }
    return duet_i64(frame[0]);
}

coroutine_test(it_has_the_stack_that_it_asks_for)
{
    /* A good part of each; sanitized frames are larger. */
    for (size_t size = 1 << 18; size <= 1 << 23; size = size * 2 + 1000) {
        duet_opts opts = {.stack_size = size, .flags = DUET_AT_ONCE};
        size_t use = size / 4;
        duet_future *f = duet_spawn_with(use_stack, &use, &opts);
        must(duet_future_settled(f));
        must_equal(finish(f).err, 0);
    }
    size_t none = 0;
    duet_opts tiny = {.stack_size = 1, .flags = DUET_AT_ONCE};
    must_equal(finish(duet_spawn_with(return_ok, &none, &tiny)).err, 0);
    return duet_ok();
}

static duet_result start_above_the_limit(void *arg)
{
    (void)arg;
    duet_group group = DUET_GROUP_INIT;
    struct counted c = {0};
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    duet_future *f = start(tell_two, &child); /* the second, beside this one */
    must_equal(finish(duet_spawn_with(count_run, &c, &counting)).err, -EAGAIN);
    must_count(&c, 0, 1);
    must_equal(finish(duet_submit_with(duet_loop_self(), count_run, &c, &counting)).err, -EAGAIN);
    must_count(&c, 0, 2);
    must_equal(duet_group_spawn(&group, NULL, count_run, &c, &counting), 0);
    must_count(&c, 0, 3);
    must_equal(failure_of(&group), -EAGAIN); /* as without the flag */
    settle(child.promise);
    must_equal(finish(f).err, 0);
    for (int i = 1; i <= MANY; i++) { /* each makes room for the next */
        duet_future *next = duet_spawn_with(count_run, &c, &counting);
        must_count(&c, i, 3 + i);
        must_equal(finish(next).err, 0);
    }
    must_equal(duet_group_spawn(&group, NULL, count_run, &c, &counting), 0);
    must_equal(duet_group_wait(&group, SURELY, NULL), 0);
    must_equal(duet_group_close(&group), 0);
    must_tell("ab");
    duet_future_unref(child.promise);
    return duet_ok();
}

thread_test(a_coroutine_above_the_limit_is_refused_and_never_runs)
{
    run_with_max(2, start_above_the_limit, NULL);
}

#ifndef TEST_SANITIZED

/* Without memory for its stack, which has no room in what this process may map. */
static duet_result start_without_memory(void *arg)
{
    (void)arg;
    struct counted c = {0};
    struct rlimit before, little;
    duet_opts opts = counting;
    duet_result r;
    opts.stack_size = (size_t)1 << 30;
    must_equal(getrlimit(RLIMIT_AS, &before), 0);
    little = before;
    little.rlim_cur = (rlim_t)1 << 29;
    must_equal(setrlimit(RLIMIT_AS, &little), 0);
    must_equal(finish(duet_spawn_with(count_run, &c, &opts)).err, -ENOMEM);
    must_count(&c, 0, 1);
    must_equal(finish(duet_submit_with(duet_loop_self(), count_run, &c, &opts)).err, -ENOMEM);
    must_count(&c, 0, 2);
    must_equal(duet_call_with(duet_loop_self(), count_run, &c, &opts, SURELY, &r), 0);
    must_equal(r.err, -ENOMEM);
    must_count(&c, 0, 3);
    must_equal(setrlimit(RLIMIT_AS, &before), 0);
    must_equal(finish(duet_spawn_with(count_run, &c, &opts)).err, 0);
    must_count(&c, 1, 4);
    return duet_ok();
}

coroutine_test(without_memory_for_its_stack_it_is_refused_and_never_runs)
{
    return start_without_memory(NULL);
}

#endif

static duet_result start_several_full(void *arg)
{
    (void)arg;
    struct counted c = {0};
    for (int i = 1; i <= 20; i++) {
        duet_future *f = duet_submit_with(duet_loop_self(), count_run, &c, &counting);
        must_count(&c, i, i);
        must_equal(finish(f).err, 0);
    }
    return duet_ok();
}

thread_test(a_full_inbox_is_nothing_to_it)
{
    duet_loop *loop;
    const duet_loop_config config = {.inbox_max = 1, .when_full = DUET_FULL_REFUSE};
    must_equal(duet_loop_start(&loop, &config), 0);
    run_on(loop, start_several_full, NULL);
    close_loop(loop);
}

/* ---- The arguments and the results ---- */

coroutine_test(its_argument_is_dropped_once_after_its_end)
{
    atomic_int drops = 0;
    const duet_opts opts = {.drop = count_drop, .flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(yield_often, &drops, &opts); /* no yields: it ends */
    must(duet_future_settled(f));
    must_equal(drops, 1);
    must_equal(finish(f).err, 0);
    must_equal(drops, 1);
    drops = 3; /* so many yields */
    f = duet_spawn_with(yield_often, &drops, &opts);
    must_equal(drops, 3);
    must_equal(finish(f).err, 0);
    must_equal(drops, 4);
    return duet_ok();
}

coroutine_test(its_result_is_dropped_once_unless_somebody_takes_it)
{
    atomic_int drops = 0;
    duet_result r;
    const duet_opts opts = {.drop_result = count_drop, .flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(return_arg, &drops, &opts);
    must_equal(drops, 0);
    duet_future_unref(f);
    must_equal(drops, 1);
    f = duet_spawn_with(return_arg, &drops, &opts);
    must_equal(duet_future_take(f, &r), 0);
    must(duet_as_ptr(r) == &drops);
    must_equal(duet_future_take(f, &r), -EALREADY);
    duet_future_unref(f);
    must_equal(drops, 1);
    must_equal(duet_call_with(duet_loop_self(), return_arg, &drops, &opts, SURELY, &r), 0);
    must(duet_as_ptr(r) == &drops);
    must_equal(drops, 1);
    must_equal(duet_call_with(duet_loop_self(), return_arg, &drops, &opts, SURELY, NULL), 0);
    must_equal(drops, 2);
    duet_group group = DUET_GROUP_INIT;
    must_equal(duet_group_spawn(&group, NULL, return_arg, &drops, &opts), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(drops, 3);
    return duet_ok();
}

static duet_result lose_a_failure(void *arg)
{
    (void)arg;
    const duet_opts lost = {.name = "lost-child", .flags = DUET_AT_ONCE};
    const duet_opts seen = {.name = "seen-child", .flags = DUET_AT_ONCE};
    const duet_opts grouped = {.name = "grouped-child", .flags = DUET_AT_ONCE};
    duet_group group = DUET_GROUP_INIT;
    duet_future *f = duet_spawn_with(fail_eio, NULL, &lost);
    must(duet_future_settled(f));
    must_equal(log_count("lost-child"), 0);
    duet_future_unref(f);
    must_equal(finish(duet_spawn_with(fail_eio, NULL, &seen)).err, -EIO);
    must_equal(duet_group_spawn(&group, NULL, fail_eio, NULL, &grouped), 0);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

thread_test(failures_that_nobody_looks_at_are_reported_once_by_name)
{
    log_capture();
    run_in_coroutine(lose_a_failure, NULL);
    must_equal(log_count("lost-child"), 1);
    must_equal(log_count("seen-child"), 0);
    must_equal(log_count("grouped-child"), 1);
    log_release();
}

/* Handles let go of at once, while it waits or after its end; a failure in each of these ways. */
static duet_result yield_and_fail(void *unused)
{
    (void)unused;
    must_equal(duet_yield(), 0);
    return duet_err(-EIO);
}

static duet_result fail_after(void *promise)
{
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    duet_future_unref(promise); /* a reference of its own */
    return duet_err(-EIO);
}

static duet_result be_cancelled_at_once(void *unused)
{
    (void)unused;
    return duet_err(-ECANCELED);
}

enum {
    LET_GO = 20 /* in each way */
};

static duet_result let_go_of_many(void *unused)
{
    (void)unused;
    const duet_opts failing = {.name = "fails-at-once", .flags = DUET_AT_ONCE},
                    later = {.name = "fails-later", .flags = DUET_AT_ONCE},
                    asleep = {.name = "fails-at-last", .flags = DUET_AT_ONCE},
                    fine = {.name = "is-fine", .flags = DUET_AT_ONCE},
                    looked_at = {.name = "is-looked-at", .flags = DUET_AT_ONCE};
    duet_future *promise;
    must_equal(duet_future_open(&promise), 0);
    for (int i = 0; i < LET_GO; i++) {
        duet_future_unref(duet_spawn_with(fail_eio, NULL, &failing));
        duet_future_unref(duet_spawn_with(yield_and_fail, NULL, &later));
        duet_future_unref(duet_spawn_with(fail_after, duet_future_ref(promise), &asleep));
        duet_future_unref(duet_spawn_with(return_ok, NULL, &fine));
        duet_future_unref(duet_spawn_with(be_cancelled_at_once, NULL, &fine));
        duet_future *f = duet_spawn_with(fail_eio, NULL, &looked_at);
        must_equal(duet_future_result(duet_future_ref(f)).err, -EIO);
        duet_future_unref(f);
        duet_future_unref(f); /* reported by neither */
    }
    must_equal(log_count("fails-at-once"), LET_GO);
    must_equal(log_count("fails-at-last"), 0);
    must_equal(duet_future_settle(promise, duet_ok()), 0);
    duet_future_unref(promise);
    return duet_ok();
}

thread_test(each_failure_whose_handle_was_let_go_of_at_once_is_reported_once)
{
    log_capture();
    run_in_coroutine(let_go_of_many, NULL);
    must_equal(log_count("fails-at-once"), LET_GO);
    must_equal(log_count("fails-later"), LET_GO);
    must_equal(log_count("fails-at-last"), LET_GO);
    must(!log_has("is-fine"));
    must(!log_has("is-looked-at"));
    log_release();
}

/* ---- What belongs to each: errno, the name, the context ---- */

static duet_result change_errno(void *yields)
{
    errno = EPIPE;
    for (int i = *(int *)yields; i > 0; i--) {
        must_equal(duet_yield(), 0);
        must_equal(errno, EPIPE);
    }
    errno = EIO;
    return duet_ok();
}

coroutine_test(errno_of_who_started_it_is_kept)
{
    for (int yields = 0; yields < 3; yields++)
        for (enum way way = 0; way < WAYS; way++) {
            duet_group group = DUET_GROUP_INIT;
            errno = EXDEV;
            must_equal(start_by(way, &group, change_errno, &yields, &at_once), 0);
            must_equal(errno, EXDEV);
            must_equal(duet_group_wait(&group, SURELY, NULL), 0);
            must_equal(errno, EXDEV);
            must_equal(duet_group_close(&group), 0);
            must_equal(errno, EXDEV);
        }
    return duet_ok();
}

static void must_be_called(const char *name)
{
    must(strcmp(duet_self_name(), name) == 0);
}

static duet_result check_inner_name(void *promise)
{
    must_be_called("inner");
    if (promise)
        must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    must_be_called("inner");
    return duet_ok();
}

static duet_result check_names(void *arg)
{
    (void)arg;
    const duet_opts inner = {.name = "inner", .flags = DUET_AT_ONCE};
    duet_future *promise = open_promise();
    must_be_called("child");
    must_equal(finish(duet_spawn_with(check_inner_name, NULL, &inner)).err, 0);
    must_be_called("child");
    duet_future *f = duet_spawn_with(check_inner_name, promise, &inner);
    must_be_called("child");
    must_equal(duet_yield(), 0);
    must_be_called("child");
    settle(promise);
    must_equal(finish(f).err, 0);
    must_be_called("child");
    duet_future_unref(promise);
    return duet_ok();
}

coroutine_test(each_has_its_own_name)
{
    char before[64];
    snprintf(before, sizeof before, "%s", duet_self_name());
    duet_future *f = start(check_names, NULL);
    must_be_called(before);
    must_equal(finish(f).err, 0);
    must_be_called(before);
    return duet_ok();
}

static const duet_key number; /* a plain value, NULL is 0 */
static const duet_key dropped = {.drop = count_drop}; /* its value is the counter */

static void set(long n)
{
    must_equal(duet_context_set(&number, (void *)(intptr_t)n), 0);
}

static long get(void)
{
    return (long)(intptr_t)duet_context_get(&number);
}

static duet_result change_context(void *promise)
{
    must_equal(get(), 1);
    set(2);
    if (promise) {
        must_equal(duet_future_wait(promise, SURELY, NULL), 0);
        must_equal(get(), 2);
    }
    set(3);
    return duet_ok();
}

coroutine_test(the_context_is_inherited_and_not_leaked)
{
    duet_future *promise = open_promise();
    for (enum way way = 0; way < WAYS; way++) {
        duet_group group = DUET_GROUP_INIT;
        set(1);
        must_equal(start_by(way, &group, change_context, NULL, &at_once), 0);
        must_equal(get(), 1);
        must_equal(start_by(way, &group, change_context, promise, &at_once), 0);
        must_equal(get(), 1);
        set(4);
        if (way == 0)
            settle(promise);
        must_equal(duet_group_wait(&group, SURELY, NULL), 0);
        must_equal(get(), 4);
        must_equal(duet_group_close(&group), 0);
    }
    duet_future_unref(promise);
    set(0);
    return duet_ok();
}

static duet_result change_context_deeply(void *arg)
{
    long depth = (long)(intptr_t)arg;
    must_equal(get(), depth);
    set(depth + 1);
    if (depth < 20) {
        duet_future *f = start(change_context_deeply, (void *)(intptr_t)(depth + 1));
        must_equal(get(), depth + 1);
        if (depth % 2)
            must_equal(duet_yield(), 0);
        must_equal(get(), depth + 1);
        must_equal(finish(f).err, 0);
    } else {
        must_equal(duet_yield(), 0);
    }
    must_equal(get(), depth + 1);
    return duet_ok();
}

coroutine_test(each_level_has_its_own_context)
{
    set(1);
    duet_future *f = start(change_context_deeply, (void *)1);
    must_equal(get(), 1);
    must_equal(finish(f).err, 0);
    must_equal(get(), 1);
    set(0);
    return duet_ok();
}

struct seen {
    long in_drop, in_drop_result;
};

static duet_result set_two(void *arg)
{
    set(2);
    return duet_ptr(arg);
}

static void see_in_drop(void *arg)
{
    ((struct seen *)arg)->in_drop = get();
    set(5); /* a bare callback's, until it returns */
}

static void see_in_drop_result(void *arg)
{
    ((struct seen *)arg)->in_drop_result = get();
    set(6);
}

coroutine_test(its_drop_functions_see_its_own_context)
{
    for (int with_the_flag = 0; with_the_flag < 2; with_the_flag++) {
        struct seen seen = {0};
        const duet_opts opts = {.drop = see_in_drop,
                                .drop_result = see_in_drop_result,
                                .flags = with_the_flag ? DUET_AT_ONCE : 0};
        set(1);
        duet_future *f = duet_spawn_with(set_two, &seen, &opts);
        must_equal(duet_future_wait(f, SURELY, NULL), 0);
        must_equal(seen.in_drop, 2);
        must_equal(get(), 1);
        duet_future_unref(f);
        must_equal(seen.in_drop_result, 2);
        must_equal(get(), 1);
    }
    set(0);
    return duet_ok();
}

static duet_result set_dropped(void *drops)
{
    must_equal(duet_context_set(&dropped, drops), 0);
    return duet_ok();
}

coroutine_test(its_values_are_dropped_once_with_the_last_handle_to_it)
{
    atomic_int drops = 0;
    duet_future *f = start(set_dropped, &drops);
    must(duet_context_get(&dropped) == NULL);
    must_equal(drops, 0);
    duet_future_unref(f);
    must_equal(drops, 1);
    return duet_ok();
}

/* ---- Cancellation ---- */

coroutine_test(it_is_cancelled_while_it_waits_or_yields)
{
    for (int yields = 0; yields < 2; yields++) {
        duet_result r;
        struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
        duet_future *promise = child.promise;
        if (yields)
            child.promise = NULL;
        duet_future *f = start(tell_two, &child);
        duet_future_cancel(f);
        must_tell("a");
        must_equal(duet_future_close(f, &r), 0);
        must_equal(r.err, -ECANCELED);
        must_equal(child.rc, -ECANCELED);
        must_tell("b");
        duet_future_unref(promise);
    }
    return duet_ok();
}

coroutine_test(cancelling_what_has_ended_changes_nothing)
{
    duet_future *f = start(tell_one, "c");
    duet_future_cancel(f);
    must_equal(duet_as_i64(finish(f)), 'c');
    must_tell("c");
    return duet_ok();
}

/* A starter, whom its child cancels. */
struct pair {
    duet_future *starter, *child;
    bool yields; /* the child, before and after that */
    int rc; /* of the starter's wait */
};

static duet_result cancel_the_starter(void *arg)
{
    struct pair *p = arg;
    if (p->yields)
        must_equal(duet_yield(), 0);
    must(!duet_cancelled());
    duet_future_cancel(p->starter);
    must(!duet_cancelled());
    if (p->yields)
        must_equal(duet_yield(), 0);
    return duet_i64(7);
}

static duet_result be_cancelled_by_the_child(void *arg)
{
    struct pair *p = arg;
    must(!duet_cancelled());
    p->child = start(cancel_the_starter, p);
    must_equal(duet_cancelled(), !p->yields);
    p->rc = duet_sleep(SURELY);
    must(duet_cancelled());
    duet_shield_begin();
    must_equal(duet_as_i64(finish(p->child)), 7);
    duet_shield_end();
    return duet_err(p->rc);
}

coroutine_test(it_may_cancel_who_started_it)
{
    for (int yields = 0; yields < 2; yields++) {
        struct pair p = {.yields = yields};
        p.starter = duet_spawn(be_cancelled_by_the_child, &p);
        must_equal(finish(p.starter).err, -ECANCELED);
        must_equal(p.rc, -ECANCELED);
    }
    return duet_ok();
}

static duet_result rest_uncancelled(void *arg)
{
    (void)arg;
    must(!duet_cancelled());
    must_equal(duet_sleep(duet_us(100)), 0);
    must(!duet_cancelled());
    return duet_i64(8);
}

/* Who is cancelled already may start others, which are not. */
static duet_result start_while_cancelled(void *arg)
{
    struct counted *c = arg;
    duet_result r = duet_ok();
    must_equal(duet_sleep(SURELY), -ECANCELED);
    duet_future *f[] = {start(rest_uncancelled, NULL),
                        duet_submit_with(duet_loop_self(), rest_uncancelled, NULL, &at_once),
                        duet_spawn_with(count_run, c, &counting)};
    must_count(c, 1, 1);
    must(duet_cancelled());
    must_equal(duet_call_with(duet_loop_self(), count_run, c, &counting, SURELY, &r), -ECANCELED);
    must_equal(r.err, -ECANCELED);
    must_count(c, 1, 2); /* a wait: it fails before it has any effect */
    duet_shield_begin();
    must_equal(duet_as_i64(finish(f[0])), 8);
    must_equal(duet_as_i64(finish(f[1])), 8);
    must_equal(finish(f[2]).err, 0);
    duet_shield_end();
    return duet_ok();
}

coroutine_test(who_is_cancelled_starts_others_at_once_that_are_not)
{
    struct counted c = {0};
    duet_future *f = start(start_while_cancelled, &c);
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    return duet_ok();
}

coroutine_test(a_shield_of_who_started_it_is_not_its_own)
{
    duet_result r;
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    duet_shield_begin();
    duet_future *f = start(tell_two, &child);
    must_equal(duet_future_close(f, &r), 0);
    duet_shield_end();
    must_equal(r.err, -ECANCELED);
    must_equal(child.rc, -ECANCELED);
    must_tell("ab");
    duet_future_unref(child.promise);
    return duet_ok();
}

static duet_result wait_shielded(void *arg)
{
    struct story *s = arg;
    duet_shield_begin();
    s->rc = duet_future_wait(s->promise, SURELY, NULL);
    duet_shield_end();
    must_equal(duet_sleep(SURELY), -ECANCELED);
    return duet_err(-ECANCELED);
}

/* The other way round: its shield is not that of who started it, nor of the next. */
static duet_result start_who_shields(void *arg)
{
    struct pair *p = arg;
    struct story child = {.promise = open_promise()}, next = {.promise = open_promise()};
    duet_future *f = start(wait_shielded, &child);
    duet_future *g = start(tell_two, &next);
    duet_future_cancel(f);
    duet_future_cancel(g);
    p->rc = duet_sleep(SURELY);
    settle(child.promise);
    duet_shield_begin();
    must_equal(finish(f).err, -ECANCELED);
    must_equal(child.rc, 0);
    must_equal(finish(g).err, -ECANCELED);
    duet_shield_end();
    duet_future_unref(child.promise);
    duet_future_unref(next.promise);
    return duet_ok();
}

coroutine_test(its_shield_is_not_of_who_started_it)
{
    struct pair p = {0};
    duet_future *f = start(start_who_shields, &p);
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    must_equal(p.rc, -ECANCELED);
    tale[0] = '\0';
    return duet_ok();
}

static duet_result stop_and_sleep(void *arg)
{
    struct pair *p = arg;
    duet_loop_stop(duet_loop_self());
    p->rc = duet_sleep(SURELY);
    must(duet_cancelled());
    return duet_err(p->rc);
}

/* The loop stops while it runs. */
static duet_result start_who_stops(void *arg)
{
    struct pair *p = arg;
    struct counted c = {0};
    duet_group group = DUET_GROUP_INIT;
    duet_future *f = start(stop_and_sleep, p);
    must_equal(duet_sleep(SURELY), -ECANCELED); /* the loop has seen that it stops */
    must_equal(finish(duet_spawn_with(count_run, &c, &counting)).err, -ESHUTDOWN);
    must_count(&c, 0, 1);
    must_equal(finish(duet_submit_with(duet_loop_self(), count_run, &c, &counting)).err,
               -ESHUTDOWN);
    must_count(&c, 0, 2);
    must_equal(duet_group_spawn(&group, NULL, count_run, &c, &counting), -ESHUTDOWN);
    must_count(&c, 0, 3);
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_sleep(SURELY), -ECANCELED);
    duet_shield_begin();
    must_equal(finish(f).err, -ECANCELED);
    duet_shield_end();
    return duet_ok();
}

thread_test(on_a_loop_that_stops_it_is_refused_and_never_runs)
{
    struct pair p = {0};
    duet_loop *loop = start_loop();
    must_equal(finish(duet_submit(loop, start_who_stops, &p)).err, 0);
    must_equal(p.rc, -ECANCELED);
    close_loop(loop);
}

static duet_result start_sleepers(void *arg)
{
    duet_future **f = arg;
    for (int i = 0; i < 10; i++)
        f[i] = start(sleep_long, NULL);
    f[10] = start(start_after_a_wait, NULL);
    return duet_ok();
}

thread_test(closing_the_loop_cancels_those_that_wait)
{
    duet_future *f[11];
    duet_loop *loop = start_loop();
    run_on(loop, start_sleepers, f);
    must_equal(finish(f[10]).err, 0);
    close_loop(loop);
    for (int i = 0; i < 10; i++)
        must_equal(finish(f[i]).err, -ECANCELED);
    must_tell("ca");
}

/* ---- Groups ---- */

static duet_result fail_with(void *err)
{
    return duet_err(*(int *)err);
}

/* A failure is not taken for a refusal, whatever its number. */
coroutine_test(a_group_tells_what_fails_at_once_from_what_is_refused)
{
    int errs[] = {-EIO, -EAGAIN, -ESHUTDOWN, -ENOMEM, -EINVAL, -EDEADLK, -EOWNERDEAD, -ECANCELED};
    for (size_t i = 0; i < sizeof errs / sizeof errs[0]; i++)
        for (int with_the_flag = 0; with_the_flag < 2; with_the_flag++) {
            duet_group group = DUET_GROUP_INIT;
            duet_opts opts = {.flags = with_the_flag ? DUET_AT_ONCE : 0};
            must_equal(duet_group_spawn(&group, NULL, fail_with, &errs[i], &opts), 0);
            must_equal(failure_of(&group), errs[i] == -ECANCELED ? 0 : errs[i]);
        }
    return duet_ok();
}

/* So does a call. */
coroutine_test(a_call_tells_what_fails_at_once_from_itself)
{
    int errs[] = {-EIO, -EAGAIN, -ETIME, -EDEADLK, -ECANCELED};
    for (size_t i = 0; i < sizeof errs / sizeof errs[0]; i++) {
        duet_result r = duet_ok();
        must_equal(duet_call_with(duet_loop_self(), fail_with, &errs[i], &at_once, SURELY, &r), 0);
        must_equal(r.err, errs[i]);
    }
    return duet_ok();
}

coroutine_test(what_fails_at_once_cancels_its_group)
{
    struct counted c = {0};
    duet_group group = DUET_GROUP_INIT;
    struct story sibling = {.before = 'a', .after = 'b', .promise = open_promise()};
    must_equal(duet_group_spawn(&group, NULL, tell_two, &sibling, &at_once), 0);
    must_equal(duet_group_spawn(&group, NULL, fail_eio, NULL, &at_once), 0);
    must_tell("a");
    must_equal(duet_group_spawn(&group, NULL, count_run, &c, &counting), -ECANCELED);
    must_count(&c, 0, 1);
    must_equal(failure_of(&group), -EIO);
    must_equal(sibling.rc, -ECANCELED);
    must_tell("b");
    duet_future_unref(sibling.promise);
    return duet_ok();
}

coroutine_test(in_a_cancelled_group_nothing_runs_at_once)
{
    struct counted c = {0};
    duet_group group = DUET_GROUP_INIT;
    duet_group_cancel(&group);
    must_equal(duet_group_spawn(&group, NULL, count_run, &c, &counting), -ECANCELED);
    must_equal(duet_group_spawn(&group, duet_loop_self(), count_run, &c, &counting), -ECANCELED);
    must_count(&c, 0, 2);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_spawn(&group, NULL, count_run, &c, &counting), 0); /* used anew */
    must_count(&c, 1, 3);
    must_equal(failure_of(&group), 0);
    return duet_ok();
}

/* Inside, it is in the group already. */
struct member {
    duet_group group;
    int rc, wait_rc, close_rc, runs;
};

static duet_result cancel_own_group(void *arg)
{
    struct member *m = arg;
    duet_group_cancel(&m->group);
    m->rc = duet_sleep(SURELY);
    return duet_err(m->rc);
}

coroutine_test(it_is_in_its_group_when_it_cancels_that)
{
    struct member m = {.rc = 1};
    must_equal(duet_group_spawn(&m.group, NULL, cancel_own_group, &m, &at_once), 0);
    must_equal(failure_of(&m.group), 0);
    must_equal(m.rc, -ECANCELED);
    return duet_ok();
}

static duet_result wait_for_own_group(void *arg)
{
    struct member *m = arg;
    m->wait_rc = duet_group_wait(&m->group, DUET_NEVER, NULL);
    m->close_rc = duet_group_close(&m->group);
    return duet_ok();
}

coroutine_test(it_is_in_its_group_when_it_waits_for_that)
{
    struct member m = {.wait_rc = 1, .close_rc = 1};
    log_capture();
    must_equal(duet_group_spawn(&m.group, NULL, wait_for_own_group, &m, &at_once), 0);
    must_equal(failure_of(&m.group), 0);
    log_release();
    must_equal(m.wait_rc, -EDEADLK);
    must_equal(m.close_rc, -EDEADLK);
    return duet_ok();
}

static duet_result grow_group(void *arg)
{
    struct member *m = arg;
    int n = ++m->runs;
    if (n < 50)
        must_equal(duet_group_spawn(&m->group, NULL, grow_group, m, &at_once), 0);
    if (n % 3 == 0)
        must_equal(duet_yield(), 0);
    return duet_ok();
}

coroutine_test(a_group_grows_from_within)
{
    struct member m = {0};
    must_equal(duet_group_spawn(&m.group, NULL, grow_group, &m, &at_once), 0);
    must_equal(m.runs, 50);
    must_equal(failure_of(&m.group), 0);
    return duet_ok();
}

coroutine_test(closing_a_group_ends_those_that_wait)
{
    struct crowd crowd = {.promise = open_promise()};
    duet_group group = DUET_GROUP_INIT;
    for (int i = 0; i < 20; i++)
        must_equal(duet_group_spawn(&group, NULL, join_crowd, &crowd, &at_once), 0);
    must_equal(crowd.began, 20);
    must_equal(duet_group_close(&group), 0);
    must_equal(crowd.ended, 20);
    duet_future_unref(crowd.promise);
    return duet_ok();
}

/* ---- Calls ---- */

coroutine_test(a_call_of_ones_own_loop_gives_its_result)
{
    duet_result r;
    struct story child = {.before = 'a', .after = 'b'};
    must_equal(duet_call_with(duet_loop_self(), tell_one, "c", &at_once, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 'c');
    must_equal(duet_call_with(duet_loop_self(), tell_two, &child, &at_once, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 'b');
    must_tell("cab");
    return duet_ok();
}

coroutine_test(a_call_in_the_past_never_starts_it)
{
    struct counted c = {0};
    duet_result r;
    const duet_deadline past[] = {DUET_NOW, duet_ms(-1), duet_us(0)};
    for (int i = 0; i < 3; i++) {
        must_equal(duet_call_with(duet_loop_self(), count_run, &c, &counting, past[i], &r), -ETIME);
        must_equal(r.err, -ECANCELED);
        must_count(&c, 0, i + 1);
    }
    return duet_ok();
}

static duet_result be_late(void *until)
{
    while (duet_now_ns() < ((duet_deadline *)until)->ns)
        ;
    return duet_i64(9);
}

coroutine_test(a_call_has_a_late_result_and_cancels_a_late_wait)
{
    duet_result r;
    duet_deadline by = duet_ms(20);
    int rc = duet_call_with(duet_loop_self(), be_late, &by, &at_once, by, &r);
    must(rc == 0 || rc == -ETIME); /* if this thread slept until it was in the past */
    if (rc == 0)
        must_equal(duet_as_i64(r), 9);
    must_equal(duet_call_with(duet_loop_self(), sleep_long, NULL, &at_once, duet_ms(2), &r),
               -ETIME);
    must_equal(r.err, -ECANCELED);
    return duet_ok();
}

static duet_result call_and_be_cancelled(void *arg)
{
    duet_result r;
    struct story *s = arg;
    int rc = duet_call_with(duet_loop_self(), tell_two, s, &at_once, SURELY, &r);
    must_equal(r.err, -ECANCELED);
    return duet_err(rc);
}

coroutine_test(a_cancelled_call_ends_what_it_started_at_once)
{
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    duet_future *f = start(call_and_be_cancelled, &child);
    must_equal(duet_yield(), 0);
    must_tell("a");
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    must_tell("b");
    must_equal(child.rc, -ECANCELED);
    duet_future_unref(child.promise);
    return duet_ok();
}

static duet_result offload_one(void *arg)
{
    duet_result r;
    must_equal(duet_offload_with(NULL, gate_pass_job, arg, &at_once, SURELY, &r), 0);
    tell('b');
    return r;
}

coroutine_test(it_waits_for_a_job_and_who_started_it_goes_on)
{
    struct gate gate = GATE_INIT;
    duet_future *f = start(offload_one, &gate);
    tell('s');
    must(!duet_future_settled(f));
    gate_open(&gate);
    must_equal(finish(f).err, 0);
    must_tell("sb");
    return duet_ok();
}

/* ---- Mutexes ---- */

struct door {
    duet_mutex mutex;
    int try_rc, rc;
    int inside;
    duet_future *promise; /* it holds the mutex until this */
};

static duet_result go_through(void *arg)
{
    struct door *door = arg;
    must_equal(duet_mutex_unlock(&door->mutex), -EPERM);
    door->rc = duet_mutex_lock(&door->mutex, DUET_NEVER);
    if (door->rc < 0)
        return duet_err(door->rc);
    door->inside++;
    if (door->promise)
        must_equal(duet_future_wait(door->promise, SURELY, NULL), 0);
    must_equal(duet_mutex_unlock(&door->mutex), 0);
    return duet_ok();
}

static duet_result try_door(void *arg)
{
    struct door *door = arg;
    door->try_rc = duet_mutex_lock(&door->mutex, DUET_NOW);
    return duet_ok();
}

/* It waits, and that is no deadlock, however long who started it runs or sleeps meanwhile. */
coroutine_test(it_waits_for_a_mutex_of_who_started_it)
{
    struct door door = {.rc = 1};
    must_equal(duet_mutex_lock(&door.mutex, SURELY), 0);
    must_equal(finish(start(try_door, &door)).err, 0);
    must_equal(door.try_rc, -ETIME);
    duet_future *f = start(go_through, &door);
    must_equal(door.inside, 0);
    spin_ms(10);
    must_equal(duet_sleep(duet_ms(20)), 0);
    must_equal(door.inside, 0);
    must(!duet_future_settled(f));
    must_equal(duet_mutex_unlock(&door.mutex), 0);
    must_equal(duet_mutex_lock(&door.mutex, DUET_NOW), -ETIME); /* it was handed over */
    must_equal(finish(f).err, 0);
    must_equal(door.rc, 0);
    must_equal(door.inside, 1);
    must_equal(duet_mutex_lock(&door.mutex, DUET_NOW), 0);
    must_equal(duet_mutex_unlock(&door.mutex), 0);
    return duet_ok();
}

coroutine_test(who_started_it_waits_for_a_mutex_of_its)
{
    struct door door = {.promise = open_promise()};
    duet_future *f = start(go_through, &door);
    must_equal(door.inside, 1);
    must_equal(duet_mutex_unlock(&door.mutex), -EPERM);
    must_equal(duet_mutex_lock(&door.mutex, DUET_NOW), -ETIME);
    settle(door.promise);
    must_equal(duet_mutex_lock(&door.mutex, SURELY), 0);
    must_equal(duet_mutex_unlock(&door.mutex), 0);
    must_equal(finish(f).err, 0);
    must_equal(finish(start(go_through, &door)).err, 0); /* and one that does not wait */
    must_equal(door.inside, 2);
    duet_future_unref(door.promise);
    return duet_ok();
}

/* ---- Deadlocks ---- */

coroutine_test(who_waits_for_it_and_holds_what_it_needs_is_told)
{
    struct door door = {.rc = 1};
    must_equal(duet_mutex_lock(&door.mutex, SURELY), 0);
    duet_future *f = start(go_through, &door);
    log_capture();
    must_equal(duet_future_wait(f, DUET_NEVER, NULL), -EDEADLK);
    log_release();
    must_equal(duet_mutex_unlock(&door.mutex), 0);
    must_equal(finish(f).err, 0);
    must_equal(door.rc, 0);
    return duet_ok();
}

static duet_result wait_for_the_starter(void *arg)
{
    struct pair *p = arg;
    duet_result r = duet_ok();
    int rc = duet_future_wait(p->starter, DUET_NEVER, &r);
    return rc < 0 ? duet_err(rc) : r;
}

static duet_result wait_in_a_circle(void *arg)
{
    struct pair *p = arg;
    p->child = start(wait_for_the_starter, p);
    p->rc = duet_future_wait(p->child, DUET_NEVER, NULL);
    return duet_i64(5);
}

coroutine_test(a_circle_of_it_and_who_started_it_is_answered)
{
    struct pair p = {0};
    log_capture();
    p.starter = duet_spawn(wait_in_a_circle, &p);
    must_equal(error_of(p.starter), 0);
    log_release();
    must_equal(p.rc, -EDEADLK); /* who closed it */
    must_equal(duet_as_i64(finish(p.child)), 5);
    duet_future_unref(p.starter);
    return duet_ok();
}

static duet_result start_who_waits_for_me(void *arg)
{
    struct pair *p = arg;
    p->child = start(wait_for_the_starter, p);
    must(!duet_future_settled(p->child));
    spin_ms(10);
    must_equal(duet_sleep(duet_ms(5)), 0);
    return duet_i64(6);
}

coroutine_test(it_may_wait_for_the_end_of_who_started_it)
{
    struct pair p = {0};
    p.starter = duet_spawn(start_who_waits_for_me, &p);
    must_equal(error_of(p.starter), 0);
    must_equal(duet_as_i64(finish(p.child)), 6);
    duet_future_unref(p.starter);
    return duet_ok();
}

static duet_result wait_for_myself(void *arg)
{
    struct pair *p = arg;
    must_equal(duet_yield(), 0);
    p->rc = duet_future_wait(p->child, DUET_NEVER, NULL);
    return duet_ok();
}

coroutine_test(it_cannot_wait_for_itself)
{
    struct pair p = {0};
    log_capture();
    p.child = start(wait_for_myself, &p);
    must_equal(error_of(p.child), 0);
    duet_future_unref(p.child);
    log_release();
    must_equal(p.rc, -EDEADLK);
    return duet_ok();
}

/* ---- Moments ---- */

static duet_result sleep_until(void *until)
{
    int rc = duet_sleep(*(duet_deadline *)until);
    must(duet_now_ns() >= ((duet_deadline *)until)->ns);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

static duet_result wait_a_while(void *promise)
{
    must_equal(duet_future_wait(promise, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_wait(promise, duet_ms(2), NULL), -ETIME);
    return duet_ok();
}

coroutine_test(it_has_its_deadlines)
{
    duet_deadline until[] = {DUET_NOW, duet_ms(2), duet_ms(1), duet_us(1)};
    duet_future *promise = open_promise();
    duet_future *f[] = {start(sleep_until, &until[0]), start(sleep_until, &until[1]),
                        start(sleep_until, &until[2]), start(sleep_until, &until[3]),
                        start(wait_a_while, promise)};
    for (int i = 0; i < 5; i++)
        must_equal(finish(f[i]).err, 0);
    duet_future_unref(promise);
    return duet_ok();
}

/* ---- Fairness ---- */

struct greed {
    bool timer_ran;
    int rounds;
    duet_future *settled;
};

static duet_result tick(void *arg)
{
    struct greed *greed = arg;
    must_equal(duet_sleep(duet_ms(2)), 0);
    greed->timer_ran = true;
    return duet_ok();
}

static duet_result start_and_wait_on(void *arg)
{
    struct greed *greed = arg;
    while (!greed->timer_ran)
        must_equal(finish(start(return_ok, NULL)).err, 0);
    return duet_ok();
}

static duet_result call_on(void *arg)
{
    struct greed *greed = arg;
    while (!greed->timer_ran)
        must_equal(duet_call_with(duet_loop_self(), return_ok, NULL, &at_once, SURELY, NULL), 0);
    return duet_ok();
}

static duet_result start_and_yield_on(void *arg)
{
    struct greed *greed = arg;
    while (!greed->timer_ran) {
        duet_future_unref(start(return_ok, NULL));
        must_equal(duet_yield(), 0);
    }
    return duet_ok();
}

/* The child of each is the greedy one. */
static duet_result get_settled_on(void *arg)
{
    struct greed *greed = arg;
    while (!greed->timer_ran)
        must_equal(duet_future_wait(greed->settled, SURELY, NULL), 0);
    return duet_ok();
}

static duet_result yield_on(void *arg)
{
    struct greed *greed = arg;
    while (!greed->timer_ran)
        must_equal(duet_yield(), 0);
    return duet_ok();
}

/* Each goes on through the next, which it starts after a wait. */
static duet_result go_on_in_the_next(void *arg)
{
    struct greed *greed = arg;
    greed->rounds++;
    must_equal(duet_yield(), 0);
    if (!greed->timer_ran)
        must_equal(finish(start(return_ok, NULL)).err, 0);
    if (!greed->timer_ran)
        duet_future_unref(start(go_on_in_the_next, greed));
    greed->rounds--;
    return duet_ok();
}

coroutine_test(nobody_is_starved)
{
    static duet_fn *const greedy[] = {start_and_wait_on, call_on,  start_and_yield_on,
                                      get_settled_on,    yield_on, go_on_in_the_next};
    for (size_t i = 0; i < sizeof greedy / sizeof greedy[0]; i++) {
        struct greed greed = {.settled = open_promise()};
        settle(greed.settled);
        duet_future *timer = start(tick, &greed);
        duet_future *f = start(greedy[i], &greed);
        must_equal(finish(timer).err, 0);
        must_equal(finish(f).err, 0);
        while (greed.rounds > 0)
            must_equal(duet_yield(), 0);
        duet_future_unref(greed.settled);
    }
    return duet_ok();
}

static duet_result be_neighbour(void *arg)
{
    struct greed *greed = arg;
    while (!greed->timer_ran) {
        greed->rounds++;
        must_equal(duet_yield(), 0);
    }
    return duet_ok();
}

/* A loop that others use too, from outside. */
thread_test(others_of_the_loop_go_on)
{
    struct greed greed = {.settled = NULL}, other = {.settled = NULL};
    duet_loop *loop = start_loop();
    duet_future *f[] = {duet_submit(loop, start_and_wait_on, &greed),
                        duet_submit(loop, be_neighbour, &other)};
    for (int i = 0; i < 100; i++)
        must_equal(duet_call_with(loop, return_ok, NULL, &at_once, SURELY, NULL), 0);
    must_equal(finish(duet_submit(loop, tick, &greed)).err, 0);
    must_equal(finish(duet_submit(loop, tick, &other)).err, 0);
    must_equal(finish(f[0]).err, 0);
    must_equal(finish(f[1]).err, 0);
    must(other.rounds > 0);
    close_loop(loop);
}

/* ---- Hooks ---- */

/* All that is told of works with these names, in order: the first letter of the name, then
 * S(pawned), ( for a step that began, ) for its end, p(arked), . for its result; and a blank. */
struct book {
    pthread_mutex_t mutex;
    char text[1024];
    uint64_t ids[256], parents[256]; /* by first letter */
    uint64_t by[256]; /* who made it ready for its first step */
    struct later *later; /* what is to be started within a hook */
    duet_group *group; /* what is to be cancelled when a child is spawned */
};

static void note(struct book *b, char what, const duet_work_event *e)
{
    unsigned char who = (unsigned char)e->name[0];
    pthread_mutex_lock(&b->mutex);
    size_t length = strlen(b->text);
    must(length + 4 < sizeof b->text);
    snprintf(b->text + length, 4, "%c%c ", who, what);
    if (what == 'S') {
        b->ids[who] = e->id;
        b->parents[who] = e->parent;
    }
    if (what == '(' && b->by[who] == 0)
        b->by[who] = e->by;
    struct later *later = who == 'c' && what == '(' ? b->later : NULL;
    b->later = later ? NULL : b->later;
    duet_group *group = who == 'c' && what == 'S' ? b->group : NULL;
    pthread_mutex_unlock(&b->mutex);
    if (later)
        start_with_no_effect(later);
    if (group)
        duet_group_cancel(group);
}

static void on_spawned(void *book, const duet_work_event *e)
{
    note(book, 'S', e);
}
static void on_step_began(void *book, const duet_work_event *e)
{
    note(book, '(', e);
}
static void on_step_ended(void *book, const duet_work_event *e)
{
    note(book, ')', e);
}
static void on_parked(void *book, const duet_work_event *e)
{
    note(book, 'p', e);
}
static void on_settled(void *book, const duet_work_event *e)
{
    note(book, '.', e);
}

static duet_hooks table_of(struct book *b)
{
    *b = (struct book){.mutex = PTHREAD_MUTEX_INITIALIZER};
    return (duet_hooks){.ctx = b,
                        .spawned = on_spawned,
                        .step_began = on_step_began,
                        .step_ended = on_step_ended,
                        .parked = on_parked,
                        .settled = on_settled};
}

static void must_be_told(struct book *b, const char *expected)
{
    if (strcmp(b->text, expected) != 0)
        fprintf(stderr, "told was '%s', not '%s'\n", b->text, expected);
    must(strcmp(b->text, expected) == 0);
}

/* Without what was told of others. */
static void must_be_told_of(struct book *b, char who, const char *expected)
{
    char text[sizeof b->text];
    size_t length = 0;
    for (size_t i = 0; b->text[i] != '\0'; i += 3)
        if (b->text[i] == who)
            text[length++] = b->text[i + 1];
    text[length] = '\0';
    if (strcmp(text, expected) != 0)
        fprintf(stderr, "of %c was told '%s', not '%s', in '%s'\n", who, text, expected, b->text);
    must(strcmp(text, expected) == 0);
}

/* Runs a body, named "starter", on a loop that tells the book. */
static void run_told(struct book *b, duet_fn *body, void *arg)
{
    duet_loop *loop;
    const duet_opts opts = {.name = "starter"};
    const duet_hooks table = table_of(b);
    must_equal(duet_loop_start(&loop, &(duet_loop_config){.hooks = &table}), 0);
    must_equal(finish(duet_submit_with(loop, body, arg, &opts)).err, 0);
    close_loop(loop);
}

struct starting {
    duet_fn *fn;
    void *arg;
    uint32_t flags;
    duet_future *promise; /* to be settled after the start */
};

static duet_result start_told(void *arg)
{
    struct starting *s = arg;
    const duet_opts opts = {.name = "child", .flags = s->flags};
    duet_future *f = duet_spawn_with(s->fn, s->arg, &opts);
    if (s->promise)
        settle(s->promise);
    must_equal(duet_future_wait(f, SURELY, NULL), 0);
    duet_future_unref(f);
    return duet_ok();
}

static void must_be_of_the_starter(struct book *b)
{
    must(b->ids['s'] != 0 && b->ids['c'] != 0);
    must(b->parents['c'] == b->ids['s']);
    must(b->by['c'] == b->ids['s']);
}

/* Who started it stands aside while it runs: no two steps of a loop are at the same time. */
thread_test(its_story_lies_between_two_steps_of_who_started_it)
{
    static struct book b;
    struct starting s = {return_ok, NULL, DUET_AT_ONCE, NULL};
    run_told(&b, start_told, &s);
    must_be_told(&b, "sS s( cS s) c( c) c. s( s) s. ");
    must_be_of_the_starter(&b);
    s.flags = 0;
    run_told(&b, start_told, &s);
    must_be_told(&b, "sS s( cS s) sp c( c) c. s( s) s. ");
    must_be_of_the_starter(&b);
}

thread_test(its_story_goes_on_after_a_wait_and_a_yield)
{
    static struct book b;
    int yields = 2;
    duet_future *promise = open_promise();
    struct starting s = {wait_for, promise, DUET_AT_ONCE, promise};
    run_told(&b, start_told, &s);
    must_be_told(&b, "sS s( cS s) c( c) cp s( s) sp c( c) c. s( s) s. ");
    must_be_of_the_starter(&b);
    duet_future_unref(promise);
    for (int with_the_flag = 0; with_the_flag < 2; with_the_flag++) {
        s = (struct starting){yield_often, &yields, with_the_flag ? DUET_AT_ONCE : 0, NULL};
        run_told(&b, start_told, &s);
        must_be_told(&b, with_the_flag ? "sS s( cS s) c( c) s( s) sp c( c) c( c) c. s( s) s. "
                                       : "sS s( cS s) sp c( c) c( c) c( c) c. s( s) s. ");
        must_be_of_the_starter(&b);
    }
}

static duet_result nest_told(void *arg)
{
    (void)arg;
    const duet_opts opts = {.name = "inner", .flags = DUET_AT_ONCE};
    must_equal(finish(duet_spawn_with(return_ok, NULL, &opts)).err, 0);
    return duet_ok();
}

thread_test(stories_nest)
{
    static struct book b;
    struct starting s = {nest_told, NULL, DUET_AT_ONCE, NULL};
    run_told(&b, start_told, &s);
    must_be_told(&b, "sS s( cS s) c( iS c) i( i) i. c( c) c. s( s) s. ");
    must_be_of_the_starter(&b);
    must(b.parents['i'] == b.ids['c']);
    must(b.by['i'] == b.ids['c']);
}

static duet_result be_refused_told(void *arg)
{
    struct counted *c = arg;
    duet_opts opts = counting;
    opts.name = "child";
    must_equal(finish(duet_spawn_with(count_run, c, &opts)).err, -EAGAIN);
    return duet_ok();
}

thread_test(what_is_refused_is_spawned_and_settled)
{
    static struct book b;
    struct counted c = {0};
    duet_loop *loop;
    const duet_opts opts = {.name = "starter"};
    const duet_hooks table = table_of(&b);
    const duet_loop_config config = {.hooks = &table, .coroutines_max = 1};
    must_equal(duet_loop_start(&loop, &config), 0);
    must_equal(finish(duet_submit_with(loop, be_refused_told, &c, &opts)).err, 0);
    close_loop(loop);
    must_count(&c, 0, 1);
    must_be_told_of(&b, 'c', "S.");
}

static duet_result start_with_greedy_hook(void *arg)
{
    struct book *b = arg;
    struct later later = {0};
    b->later = &later;
    must_equal(finish(start(return_ok, NULL)).err, 0);
    must(b->later == NULL);
    end_later(&later, 1);
    return duet_ok();
}

thread_test(from_a_hook_it_runs_later)
{
    static struct book b;
    run_told(&b, start_with_greedy_hook, &b);
    must(strstr(b.text, "cS s) c( cS cS cS cS c) c. ") != NULL); /* these are named "counted" */
}

static duet_result be_cancelled_by_the_hook(void *arg)
{
    struct book *b = arg;
    struct counted c = {0};
    duet_group group = DUET_GROUP_INIT;
    b->group = &group;
    const duet_opts opts = {.name = "child", .drop = count_drop_of, .flags = DUET_AT_ONCE};
    must_equal(duet_group_spawn(&group, NULL, sleep_long, &c, &opts), 0);
    must_equal(failure_of(&group), 0); /* and does not sleep */
    must_equal(c.drops, 1);
    return duet_ok();
}

thread_test(a_hook_may_cancel_it_before_it_runs)
{
    static struct book b;
    run_told(&b, be_cancelled_by_the_hook, &b);
    must_be_told_of(&b, 'c', "S.");
}

/* The second time, every test of coroutines runs on loops with these hooks, which check each story
 * as it goes on: by the slot of its work. */
static _Thread_local uint64_t steps[DEPTH * 4]; /* those that go on here, from the outside */
static _Thread_local int depth;
static atomic_int spawned, settled;

static void must_go_on(const duet_work_event *e, const char *from, char to)
{
    char state = *e->slot ? (char)*e->slot : '0';
    must(strchr(from, state) != NULL);
    *e->slot = (uintptr_t)to;
}

static void check_spawned(void *ctx, const duet_work_event *e)
{
    (void)ctx;
    must_go_on(e, "0", 'S');
    atomic_fetch_add(&spawned, 1);
}
static void check_step_began(void *ctx, const duet_work_event *e)
{
    (void)ctx;
    must_go_on(e, "S)p", '(');
    must(depth < (int)(sizeof steps / sizeof steps[0]));
    steps[depth++] = e->id;
}
static void check_step_ended(void *ctx, const duet_work_event *e)
{
    (void)ctx;
    must_go_on(e, "(", ')');
    must(depth > 0 && steps[--depth] == e->id);
}
static void check_parked(void *ctx, const duet_work_event *e)
{
    (void)ctx;
    must_go_on(e, ")", 'p');
}
static void check_settled(void *ctx, const duet_work_event *e)
{
    (void)ctx;
    must_go_on(e, "S)", '.');
    atomic_fetch_add(&settled, 1);
}

static const duet_hooks checks = {.spawned = check_spawned,
                                  .step_began = check_step_began,
                                  .step_ended = check_step_ended,
                                  .parked = check_parked,
                                  .settled = check_settled};

static int open_checked(void *ctx, duet_loop **ret, const duet_loop_config *config)
{
    (void)ctx;
    duet_loop_config checked = *config;
    checked.hooks = &checks;
    return duet_loop_open(ret, &checked);
}

static const duet_policy checking = {.make_loop = open_checked};
static duet_policy_scope scope;

static int begin_hooks(void **state)
{
    (void)state;
    return duet_policy_scope_begin(&scope, &checking);
}

static int end_hooks(void **state)
{
    (void)state;
    duet_policy_scope_end(&scope);
    must(atomic_load(&spawned) > 0);
    must_equal(atomic_load(&spawned), atomic_load(&settled));
    must_equal(depth, 0);
    atomic_store(&spawned, 0);
    atomic_store(&settled, 0);
    return 0;
}

/* ---- Stacks that overflow, and forks ---- */

static duet_result overflow(void *arg)
{
    volatile char *top = __builtin_frame_address(0);
    (void)arg;
    for (volatile char *p = top - 256;; p -= 64)
        *p = 1;
    return duet_ok();
}

static const duet_opts runaway = {.name = "runaway", .stack_size = 65536, .flags = DUET_AT_ONCE};

static duet_result start_runaway(void *arg)
{
    (void)arg;
    return finish(duet_spawn_with(overflow, NULL, &runaway));
}

/* After children of another name, one that has ended and one that waits. */
static duet_result start_and_overflow(void *arg)
{
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    (void)start(return_ok, NULL);
    (void)start(tell_two, &child);
    return overflow(arg);
}

static duet_result start_starter(void *arg)
{
    return finish(duet_spawn_with(start_and_overflow, arg, &runaway));
}

static void run_runaway(void *arg)
{
    run_in_coroutine(start_runaway, arg);
}

static void run_starter(void *arg)
{
    run_in_coroutine(start_starter, arg);
}

thread_test(an_overflow_of_its_stack_names_it)
{
    expect_death(run_runaway, NULL, SIGSEGV, "stack overflow in coroutine 'runaway'");
}

thread_test(an_overflow_of_the_stack_of_who_started_it_names_that)
{
    expect_death(run_starter, NULL, SIGSEGV, "stack overflow in coroutine 'runaway'");
}

static duet_result fork_here(void *arg)
{
    struct counted *c = arg;
    duet_loop *loop = duet_loop_self();
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        duet_result r;
        duet_future *f = duet_submit_with(loop, count_run, c, &counting);
        must_equal(duet_future_wait(f, DUET_NOW, &r), 0);
        must_equal(r.err, -EOWNERDEAD);
        must_count(c, 0, 1);
        _exit(33);
    }
    return duet_i64(pid);
}

static int await_child(pid_t pid)
{
    int status;
    must_equal(waitpid(pid, &status, 0), pid);
    return status;
}

coroutine_test(a_child_forked_in_it_starts_nothing_at_once)
{
    struct counted c = {0};
    int status = await_child((pid_t)duet_as_i64(finish(start(fork_here, &c))));
    must(WIFEXITED(status) && WEXITSTATUS(status) == 33);
    /* Also beside one that waits. */
    struct story child = {.before = 'a', .after = 'b', .promise = open_promise()};
    duet_future *f = start(tell_two, &child);
    status = await_child((pid_t)duet_as_i64(fork_here(&c)));
    must(WIFEXITED(status) && WEXITSTATUS(status) == 33);
    settle(child.promise);
    must_equal(finish(f).err, 0);
    must_tell("ab");
    must_count(&c, 0, 0);
    duet_future_unref(child.promise);
    return duet_ok();
}

static duet_result return_in_the_child(void *arg)
{
    (void)arg;
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        must_equal(setrlimit(RLIMIT_CORE, &none), 0);
        must(signal(SIGABRT, SIG_DFL) != SIG_ERR);
        must(freopen("/dev/null", "w", stderr) != NULL);
        alarm(60);
    }
    return duet_i64(pid);
}

coroutine_test(a_child_forked_in_it_that_returns_aborts)
{
    const pid_t me = getpid();
    duet_result r = finish(start(return_in_the_child, NULL));
    if (getpid() != me)
        _exit(42); /* it came through */
    int status = await_child((pid_t)duet_as_i64(r));
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    return duet_ok();
}

/* ---- All of them ---- */

#define both(test)                                                                                 \
    cmocka_unit_test(test), cmocka_unit_test_setup_teardown(test, begin_hooks, end_hooks)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_overflow_of_its_stack_names_it),
        cmocka_unit_test(an_overflow_of_the_stack_of_who_started_it_names_that),
        both(a_child_forked_in_it_starts_nothing_at_once),
        both(a_child_forked_in_it_that_returns_aborts),
        both(it_has_run_to_its_end_when_the_call_returns),
        both(without_the_flag_it_runs_later),
        both(it_runs_at_once_in_whatever_way_it_is_started),
        both(who_started_it_goes_on_before_all_others_when_it_waits),
        both(who_started_it_goes_on_before_all_others_when_it_yields),
        both(it_yields_also_where_nobody_else_is_ready),
        both(it_goes_on_through_waits_that_are_answered_at_once),
        both(whom_it_wakes_runs_after_who_started_it),
        both(it_may_wake_who_was_started_at_once_before_it_and_that_one_its_starter),
        both(it_outlives_who_started_it),
        both(it_starts_others_at_once_after_it_has_waited),
        both(it_meets_who_started_it_in_a_channel),
        both(they_nest_deeply_each_on_its_own_stack),
        both(they_nest_deeply_and_wait_for_each_other),
        both(a_thousand_in_a_row_by_one_that_never_waits),
        both(a_thousand_wait_one_beside_the_other),
        both(from_a_thread_a_job_or_another_loop_it_runs_as_usual),
        both(from_a_thread_it_passes_nobody),
        cmocka_unit_test(before_the_loop_runs_it_waits_for_that),
        cmocka_unit_test(the_first_coroutines_of_a_loop_run_as_usual),
        both(from_a_bare_callback_it_runs_later),
        both(from_the_drop_of_a_result_it_runs_later),
        cmocka_unit_test(from_the_host_of_a_guest_it_runs_later_and_within_the_guest_at_once),
        both(of_a_job_a_promise_and_a_main_coroutine_it_has_no_effect),
        both(a_job_that_a_coroutine_submits_does_not_run_at_once),
        both(it_is_refused_as_without_the_flag),
        both(it_goes_with_other_flags),
        both(the_options_are_copied),
        both(it_has_the_stack_that_it_asks_for),
        both(a_coroutine_above_the_limit_is_refused_and_never_runs),
#ifndef TEST_SANITIZED
        both(without_memory_for_its_stack_it_is_refused_and_never_runs),
#endif
        both(a_full_inbox_is_nothing_to_it),
        both(its_argument_is_dropped_once_after_its_end),
        both(its_result_is_dropped_once_unless_somebody_takes_it),
        both(failures_that_nobody_looks_at_are_reported_once_by_name),
        both(each_failure_whose_handle_was_let_go_of_at_once_is_reported_once),
        both(errno_of_who_started_it_is_kept),
        both(each_has_its_own_name),
        both(the_context_is_inherited_and_not_leaked),
        both(each_level_has_its_own_context),
        both(its_drop_functions_see_its_own_context),
        both(its_values_are_dropped_once_with_the_last_handle_to_it),
        both(it_is_cancelled_while_it_waits_or_yields),
        both(cancelling_what_has_ended_changes_nothing),
        both(it_may_cancel_who_started_it),
        both(who_is_cancelled_starts_others_at_once_that_are_not),
        both(a_shield_of_who_started_it_is_not_its_own),
        both(its_shield_is_not_of_who_started_it),
        both(on_a_loop_that_stops_it_is_refused_and_never_runs),
        both(closing_the_loop_cancels_those_that_wait),
        both(a_group_tells_what_fails_at_once_from_what_is_refused),
        both(a_call_tells_what_fails_at_once_from_itself),
        both(what_fails_at_once_cancels_its_group),
        both(in_a_cancelled_group_nothing_runs_at_once),
        both(it_is_in_its_group_when_it_cancels_that),
        both(it_is_in_its_group_when_it_waits_for_that),
        both(a_group_grows_from_within),
        both(closing_a_group_ends_those_that_wait),
        both(a_call_of_ones_own_loop_gives_its_result),
        both(a_call_in_the_past_never_starts_it),
        both(a_call_has_a_late_result_and_cancels_a_late_wait),
        both(a_cancelled_call_ends_what_it_started_at_once),
        both(it_waits_for_a_job_and_who_started_it_goes_on),
        both(it_waits_for_a_mutex_of_who_started_it),
        both(who_started_it_waits_for_a_mutex_of_its),
        both(who_waits_for_it_and_holds_what_it_needs_is_told),
        both(a_circle_of_it_and_who_started_it_is_answered),
        both(it_may_wait_for_the_end_of_who_started_it),
        both(it_cannot_wait_for_itself),
        both(it_has_its_deadlines),
        both(nobody_is_starved),
        both(others_of_the_loop_go_on),
        cmocka_unit_test(its_story_lies_between_two_steps_of_who_started_it),
        cmocka_unit_test(its_story_goes_on_after_a_wait_and_a_yield),
        cmocka_unit_test(stories_nest),
        cmocka_unit_test(what_is_refused_is_spawned_and_settled),
        cmocka_unit_test(from_a_hook_it_runs_later),
        cmocka_unit_test(a_hook_may_cancel_it_before_it_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
