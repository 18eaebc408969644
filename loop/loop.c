/* The loop's life: open → run → stop → end → closed. */
#include "alloc.h"
#include "check.h"
#include "co/overflow.h"
#include "cpu.h"
#include "log.h"
#include "loop_impl.h"
#include "receipt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    STACK_SIZE_DEFAULT = 256 * 1024,
    RING_ENTRIES_DEFAULT = 256,
    RING_ENTRIES_MOST = 32768,
    INBOX_DEFAULT = 16384,
    INBOX_MOST = 1 << 30,
    SPIN_ADAPTIVE_NS = 30000, /* one wake-up: else two who wake each other never meet */
    SPIN_US_MOST = 1000000,
    SLACK_US_DEFAULT = 1000,
    SLACK_US_MOST = 1000000,
};

_Thread_local duet_loop *duet__loop_here;

duet_loop *duet_loop_self(void)
{
    return duet__loop_here;
}

/* ---- Configuration ---- */

static int config_check(const duet_loop_config *config)
{
    static const char function[] = "duet_loop_open";
    if (config->stack_size > (size_t)1 << DUET__STACK_CLASS_MOST)
        return duet__bad_argument(function, "stack_size is above 1 GiB");
    if (config->inbox_max > INBOX_MOST)
        return duet__bad_argument(function, "inbox_max is above 2^30");
    if (config->when_full != DUET_FULL_WAIT && config->when_full != DUET_FULL_REFUSE)
        return duet__bad_argument(
            function, "when_full must be DUET_FULL_WAIT or DUET_FULL_REFUSE: a coroutine "
                      "cannot run in the thread that submits it");
    if (config->ring_entries > RING_ENTRIES_MOST)
        return duet__bad_argument(function, "ring_entries is above 32768");
    if (config->spin_us > SPIN_US_MOST)
        return duet__bad_argument(function, "spin_us is above one second");
    if (config->timer_slack_us > SLACK_US_MOST)
        return duet__bad_argument(function, "timer_slack_us is above one second");
    if (config->backend == DUET_BACKEND_EPOLL)
        return duet__refuse(function, -ENOTSUP,
                            "the epoll backend is not in this version; leave backend at "
                            "DUET_BACKEND_AUTO");
    if (config->backend != DUET_BACKEND_AUTO && config->backend != DUET_BACKEND_URING)
        return duet__bad_argument(function, "backend is unknown");
    if (!duet__reserved_unused(config->reserved, sizeof config->reserved / sizeof(uintptr_t)))
        return duet__bad_argument(function, "reserved is not zero: was the structure initialised?");
    return 0;
}

static void config_defaults(duet_loop_config *config)
{
    if (!config->name)
        config->name = "loop";
    if (!config->stack_size)
        config->stack_size = STACK_SIZE_DEFAULT;
    if (!config->inbox_max)
        config->inbox_max = INBOX_DEFAULT;
    if (!config->ring_entries)
        config->ring_entries = RING_ENTRIES_DEFAULT;
    if (!config->timer_slack_us)
        config->timer_slack_us = SLACK_US_DEFAULT;
}

/* ---- All loops ---- */

static struct duet__lock all_lock; /* guards the list */
static struct duet__list all = {&all, &all};

/* Wherever it forked, the child's one thread runs no loop. */
static void reset(void)
{
    duet__store_relaxed(&all_lock.word, 0);
    duet__list_init(&all);
    duet__loop_here = NULL;
}
DUET__IN_CHILD(reset)

/* Each loop that turns has a thread. */
static bool count_rests(struct duet__census *census)
{
    bool all_rest = true;
    duet__lock(&all_lock);
    duet__list_for_each(link, &all)
    {
        duet_loop *loop = duet__container(link, duet_loop, all);
        uint32_t turns = duet__load_relaxed(&loop->turns); /* a look: it may change just now */
        if (turns == DUET__TURNS_NOT)
            continue;
        census->threads++;
        all_rest = all_rest && turns == DUET__TURNS_ALONE && duet__loop_rests(loop, census);
    }
    duet__unlock(&all_lock);
    return all_rest;
}

__attribute__((constructor)) static void take_part_in_census(void)
{
    duet__census_add(count_rests);
}

static void list_loop(duet_loop *loop)
{
    duet__lock(&all_lock);
    duet__list_append(&all, &loop->all);
    duet__unlock(&all_lock);
}

static void unlist_loop(duet_loop *loop)
{
    duet__lock(&all_lock);
    duet__list_remove(&loop->all);
    duet__unlock(&all_lock);
}

duet_loop **duet__loop_ref_all(size_t *ret_n)
{
    size_t n = 0;
    duet__lock(&all_lock);
    duet__list_for_each(link, &all) n++;
    duet_loop **loops = n ? duet__alloc(n * sizeof(duet_loop *)) : NULL;
    *ret_n = n;
    n = 0;
    if (loops) {
        duet__list_for_each(link, &all)
        {
            duet_loop *loop = duet__container(link, duet_loop, all);
            if (duet__port_try_ref(loop->port)) /* else whoever let go of it waits for our lock */
                loops[n++] = loop;
        }
        *ret_n = n;
    }
    duet__unlock(&all_lock);
    return loops;
}

/* ---- Stacks ---- */

static void warn_stacks(void *ctx, const char *line)
{
    duet__log(DUET_WARNING, "loop '%s': %s", ((duet_loop *)ctx)->config.name, line);
}

static const struct duet__stacks_ops stacks_ops = {duet__alloc_zeroed, duet__free, warn_stacks};

static void stacks_init(duet_loop *loop)
{
    for (int i = 0; i < DUET__STACK_CLASSES; i++)
        duet__stacks_init(&loop->stacks[i], (size_t)1 << (DUET__STACK_CLASS_LEAST + i),
                          duet__task_stack_main, &stacks_ops, loop);
    loop->usual_stacks = duet__loop_stacks(loop, loop->config.stack_size);
}

struct duet__stacks *duet__loop_stacks(duet_loop *loop, size_t size)
{
    int i = 0;
#if defined(DUET__ASAN) || defined(DUET__TSAN)
    i = 17 - DUET__STACK_CLASS_LEAST; /* frames are larger: no less than 128 KiB */
#endif
    while (loop->stacks[i].size < size)
        i++;
    return &loop->stacks[i];
}

/* ---- Opening and freeing ---- */

/* `started` and `end` live inside the loop: nobody asks them to end, and nothing frees them. */
static void moment_of_loop_cancel(duet_future *f)
{
    (void)f;
}

/* Somebody may stop it, and then all its coroutines have to end; or its main one does that. */
static bool end_may_settle(const duet_future *f, struct duet__look *look)
{
    duet_loop *loop = duet__container(f, duet_loop, end);
    if (duet__port_is_shut(loop->port))
        return duet__look_at_all(look, duet__task_is_of_loop, loop);
    return !loop->main || duet__future_may_settle(loop->main, look);
}

static const struct duet__future_ops started_ops = {
    .kind = "loop", .cancel = moment_of_loop_cancel, .release = moment_of_loop_cancel};
static const struct duet__future_ops end_ops = {.kind = "loop",
                                                .cancel = moment_of_loop_cancel,
                                                .release = moment_of_loop_cancel,
                                                .may_settle = end_may_settle};

static void stop_run(struct duet__node *node, void *consumer);
static void drain_run(struct duet__node *node, void *consumer);

static void loop_free(duet_loop *loop)
{
    duet__guest_close(&loop->guest);
    duet__hooks_unref(loop->hooks);
    duet__free((char *)loop->config.name);
    duet__free(loop);
}

int duet_loop_open(duet_loop **ret, const duet_loop_config *config)
{
    duet_loop_config given = {0};
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    if (config)
        given = *config;
    int rc = config_check(&given);
    if (rc < 0)
        return rc;
    config_defaults(&given);
    duet_loop *loop = duet__alloc_zeroed(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->config = given;
    duet__guest_init(&loop->guest);
    loop->config.name = duet__alloc_string(given.name);
    rc = loop->config.name ? duet__hooks_open(&loop->hooks, given.hooks, given.name, __func__)
                           : -ENOMEM;
    if (rc < 0)
        goto fail;
    loop->config.hooks = NULL; /* the caller's; ours are copies */
    rc = duet__port_open(&loop->port, &loop->config);
    if (rc < 0) {
        duet__log(DUET_ERROR, "loop '%s' cannot be opened: its eventfd: %s%s", given.name,
                  duet_strerror(rc), rc == -EMFILE ? " (raise RLIMIT_NOFILE, ulimit -n)" : "");
        goto fail;
    }
    duet__future_init(&loop->started, &started_ops, NULL, 1);
    duet__future_init(&loop->end, &end_ops, NULL, 1);
    loop->started.name = loop->end.name = loop->config.name;
    loop->stop_node.run = stop_run;
    loop->drain_node.run = drain_run;
    loop->process = duet__process;
    duet__list_init(&loop->young);
    duet__list_init(&loop->closing);
    for (int i = 0; i < DUET__IO_LISTS; i++)
        duet__list_init(&loop->in_flight[i]);
    duet__run_queue_init(&loop->ready);
    duet__run_queue_init(&loop->arrivals);
    duet__list_init(&loop->live);
    stacks_init(loop);
    duet__glance_init(&loop->running);
    list_loop(loop);
    *ret = loop;
    return 0;

fail:
    loop_free(loop);
    return rc;
}

duet_loop *duet_loop_ref(duet_loop *loop)
{
    if (!loop) {
        duet__bad_argument(__func__, "loop is NULL");
        return NULL;
    }
    duet__port_ref(loop->port);
    return loop;
}

bool duet__loop_may_turn(const duet_loop *loop, struct duet__look *look)
{
    bool is_open = duet__load_relaxed(&loop->state) == DUET__LOOP_OPEN; /* a look */
    return !is_open || duet__look_at_threads(look);
}

void duet__loop_gone(duet_loop *loop)
{
    unlist_loop(loop);
    duet__graph_pass(); /* no search looks at us any more, by way of a task that was pending */
    if (loop->has_thread) /* let go of without a close: nobody will join it */
        pthread_detach(loop->thread);
    duet__port_free(loop->port);
    loop_free(loop);
}

void duet_loop_unref(duet_loop *loop)
{
    if (loop && !duet__is_foreign(loop->process) && duet__port_unref(loop->port))
        duet__loop_gone(loop);
}

/* ---- Running ---- */

static bool claim(duet_loop *loop)
{
    uint32_t open = DUET__LOOP_OPEN;
    /* One consumer. Acquires nothing: what was submitted comes through the port. */
    return duet__cas_relaxed(&loop->state, &open, DUET__LOOP_CLAIMED);
}

static bool is_claimed(duet_loop *loop)
{
    return duet__load_relaxed(&loop->state) == DUET__LOOP_CLAIMED; /* a look */
}

static void spin_init(duet_loop *loop)
{
    duet__cpu_refresh();
    if (loop->config.spin_us == 0)
        loop->spin.limit_ns = SPIN_ADAPTIVE_NS;
    else if (loop->config.spin_us > 0)
        loop->spin.limit_ns = loop->config.spin_us * 1000;
}

/* By who claimed it, who holds a reference: the end, and everybody may know. */
static void end(duet_loop *loop, int rc)
{
    duet__timers_fini(&loop->timers);
    duet__future_settle(&loop->end, rc < 0 ? duet_err(rc) : duet_ok(), 0);
}

int duet__loop_take(duet_loop *loop, const char *function)
{
    if (!loop)
        return duet__bad_argument(function, "loop is NULL");
    if (duet__is_foreign(loop->process))
        return -EOWNERDEAD;
    if (duet__loop_here)
        return -EDEADLK;
    if (!claim(loop))
        return -EALREADY;
    duet_loop_ref(loop);
    return 0;
}

int duet__loop_begin(duet_loop *loop, int event_fd)
{
    int rc = duet__ring_open(&loop->ring, loop->config.ring_entries, event_fd, loop->config.name);
    if (rc < 0)
        return rc;
    rc = duet__overflow_watch();
    if (rc < 0) {
        duet__ring_close(&loop->ring);
        return rc;
    }
    duet__ring_watch(&loop->ring, duet__port_fd(loop->port));
    duet__co_adopt(&loop->scheduler);
    spin_init(loop);
    loop->errno_here = &errno;
    duet__loop_here = loop;
    return 0;
}

void duet__loop_started(duet_loop *loop, enum duet__turns how)
{
    duet__store_relaxed(&loop->turns, how);
    duet__future_settle(&loop->started, duet_ok(), 0);
}

void duet__loop_finish(duet_loop *loop)
{
    duet__store_relaxed(&loop->turns, DUET__TURNS_NOT);
    duet__loop_here = NULL;
    for (int i = 0; i < DUET__STACK_CLASSES; i++)
        duet__stacks_fini(&loop->stacks[i]);
    duet__co_release();
    duet__overflow_unwatch();
    duet__ring_close(&loop->ring);
}

void duet__loop_cannot_begin(duet_loop *loop, int rc)
{
    if (duet__port_shut(loop->port))
        duet_loop_unref(loop);
    duet__loop_bury(loop);
    duet__future_settle(&loop->started, duet_err(rc), 0);
}

void duet__loop_end(duet_loop *loop, int rc)
{
    end(loop, rc);
    duet_loop_unref(loop);
}

int duet_loop_run(duet_loop *loop)
{
    int rc = duet__loop_take(loop, __func__);
    if (rc < 0)
        return rc;
    rc = duet__loop_begin(loop, -1);
    struct duet__parker *before = duet__here();
    struct duet__wait stand;
    loop->outer = before;
    duet__graph_stand(&stand, before, &loop->end);
    before = duet__here_set(duet__here_bare());
    if (rc == 0) {
        duet__loop_started(loop, DUET__TURNS_ALONE);
        duet__loop_turn_until_stopped(loop);
        duet__loop_finish(loop);
    } else {
        duet__loop_cannot_begin(loop, rc);
    }
    duet__here_set(before);
    duet__wait_leave(&stand);
    duet__loop_end(loop, rc);
    return rc;
}

/* ---- Stopping ---- */

static void drain_run(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    (void)node;
    loop->draining = true;
    duet__graph_changed(&loop->end); /* from here on it ends when all of it has */
}

void duet__loop_drain(duet_loop *loop)
{
    if (duet__port_shut(loop->port)) {
        duet__port_post(loop->port, &loop->drain_node); /* refused: it has ended already */
        duet_loop_unref(loop);
    }
}

static void stop_run(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    (void)node;
    loop->stopping = true;
    duet__list_for_each(link, &loop->live)
        duet__park_cancel(&duet__container(link, struct duet__task, live)->work.parker);
    duet__graph_changed(&loop->end);
}

static void stop(duet_loop *loop)
{
    uint32_t running = 0;
    duet_loop_ref(loop); /* once it is posted, somebody else may close the loop */
    duet__loop_drain(loop);
    if (duet__cas_relaxed(&loop->stopped, &running, 1)) /* the node is posted once */
        duet__port_post(loop->port, &loop->stop_node); /* refused: it has ended already */
    duet_loop_unref(loop);
}

void duet_loop_stop(duet_loop *loop)
{
    if (!loop)
        duet__bad_argument(__func__, "loop is NULL");
    else if (duet__is_foreign(loop->process))
        duet__refuse(__func__, -EOWNERDEAD, duet_strerror(-EOWNERDEAD));
    else
        stop(loop);
}

/* ---- What is left ---- */

static const char *describe_place(const duet_loop *loop, char *buf, size_t size)
{
    snprintf(buf, size, "loop '%s'", loop->config.name);
    return buf;
}

static void list_task(duet_loop *loop, struct duet__task *task, const char *waits_for,
                      duet_receipt *receipt)
{
    char place[64];
    duet__receipt_add(receipt, &task->work.future, describe_place(loop, place, sizeof place),
                      waits_for);
}

/* A request to the loop to list what is left; freed by whoever is last to let go of it. */
struct duet__listing {
    struct duet__node node;
    duet_future *done;
    _Atomic uint32_t
        holders; /* the loop and who asked; who is first to let go leaves it to the other */
    duet_receipt receipt;
};

static void listing_unref(struct duet__listing *listing)
{
    /* Releases the receipt; the last one acquires it. */
    if (duet__sub_acq_rel(&listing->holders, 1) > 1)
        return;
    duet__receipt_clear(&listing->receipt);
    duet_future_unref(listing->done);
    duet__free(listing);
}

static void listing_run(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    struct duet__listing *listing = duet__container(node, struct duet__listing, node);
    char text[160];
    duet__list_for_each(link, &loop->live)
    {
        struct duet__task *task = duet__container(link, struct duet__task, live);
        const struct duet__wait *wait = task->work.parker.wait; /* of our own thread */
        const char *waits_for =
            wait ? duet__wait_describe(wait, text, sizeof text) : "its moment, or for its turn";
        list_task(loop, task, waits_for, &listing->receipt);
    }
    duet_future_settle(listing->done, duet_ok());
    listing_unref(listing);
}

/* The loop does not answer: something on it runs on. */
static void list_stuck(duet_loop *loop, duet_receipt *receipt)
{
    static const char runs_on[] = "nothing: it runs on, and its loop does not turn";
    char place[64];
    struct duet__task *task = duet__glance_begin(&loop->running); /* it cannot end meanwhile */
    if (task)
        duet_future_ref(&task->work.future);
    duet__glance_end(&loop->running);
    if (task) {
        list_task(loop, task, runs_on, receipt);
        duet_future_unref(&task->work.future);
    }
    if (!task)
        duet__receipt_add_named(receipt, "callback", "of the loop", 0,
                                describe_place(loop, place, sizeof place), runs_on, NULL);
    receipt->unlisted += duet__graph_count(duet__task_is_of_loop, loop);
}

struct duet__listing *duet__loop_ask_left(duet_loop *loop)
{
    struct duet__listing *listing = duet__alloc_zeroed(1, sizeof *listing);
    int rc = listing ? duet_future_open(&listing->done) : -ENOMEM;
    if (rc < 0) {
        duet__free(listing);
        return NULL;
    }
    listing->node.run = listing_run;
    duet__store_relaxed(&listing->holders, 2); /* published by the post */
    if (!duet__port_post(loop->port, &listing->node)) { /* it has ended just now */
        duet_future_settle(listing->done, duet_ok());
        listing_unref(listing);
    }
    return listing;
}

/* No coroutine is left, nor a callback at a moment: only callbacks that wait for their turn. */
static void list_queue(duet_loop *loop, duet_receipt *receipt)
{
    char place[64];
    duet__receipt_add_named(receipt, "queue", "of callbacks", 0,
                            describe_place(loop, place, sizeof place), "its turn", NULL);
}

int duet__loop_list_left(duet_loop *loop, struct duet__listing *asked, duet_deadline by,
                         duet_receipt *receipt)
{
    size_t before = receipt->count + receipt->unlisted;
    if (!asked)
        receipt->unlisted++;
    else if (duet__future_wait(asked->done, by, DUET__WAIT_SHIELDED) == 0)
        duet__receipt_move(receipt, &asked->receipt);
    else
        list_stuck(loop, receipt);
    if (asked)
        listing_unref(asked);
    if (receipt->count + receipt->unlisted > before)
        return -ETIME;
    if (duet__loop_await_end(loop, by) == 0)
        return 0;
    list_queue(loop, receipt);
    return -ETIME;
}

/* Of a single one. */
static int list_left(duet_loop *loop, duet_receipt *receipt)
{
    return duet__loop_list_left(loop, duet__loop_ask_left(loop), duet_ms(DUET__REPORT_WAIT_MS),
                                receipt);
}

/* ---- Closing ---- */

/* 0, or why the end of this loop cannot be awaited here. */
static int may_await(const char *function, duet_loop *loop)
{
    if (!loop)
        return duet__bad_argument(function, "loop is NULL");
    if (duet__is_foreign(loop->process))
        return -EOWNERDEAD;
    if (duet__loop_here == loop ||
        (!duet__here()->ops->may_wait && is_claimed(loop) && !duet__future_is_settled(&loop->end)))
        return -EDEADLK;
    return 0;
}

int duet__loop_await_end(duet_loop *loop, duet_deadline by)
{
    if (claim(loop)) { /* nobody ran it, nobody will */
        duet__loop_bury(loop);
        duet__future_settle(&loop->started, duet_err(-ESHUTDOWN), 0);
        end(loop, 0);
    }
    return duet__future_wait(&loop->end, by, DUET__WAIT_CLOSES);
}

static void join_thread(duet_loop *loop)
{
    if (loop->has_thread) { /* it has only to return from its function */
        loop->has_thread = false;
        pthread_join(loop->thread, NULL);
    }
}

int duet_loop_close(duet_loop *loop, duet_deadline by)
{
    int rc = may_await(__func__, loop);
    if (rc < 0)
        return rc;
    stop(loop);
    rc = duet__loop_await_end(loop, by);
    if (rc == -ETIME) {
        duet_receipt left = {0};
        rc = list_left(loop, &left);
        duet__receipt_log(&left, "is not closed by the deadline");
        duet__receipt_clear(&left);
    }
    if (rc < 0)
        return rc;
    join_thread(loop);
    duet_loop_unref(loop);
    return 0;
}

int duet_loop_shutdown(duet_loop *loop, duet_deadline by, duet_receipt **ret)
{
    duet_receipt left = {0};
    int rc = may_await(__func__, loop);
    if (rc < 0)
        return rc;
    duet__loop_drain(loop);
    rc = duet__loop_await_end(loop, duet__half_way(by));
    if (rc < 0) {
        stop(loop);
        rc = duet__loop_await_end(loop, by);
    }
    if (rc < 0)
        rc = list_left(loop, &left);
    if (rc == 0)
        join_thread(loop);
    duet_loop_unref(loop);
    return duet__receipt_end(&left, rc, ret);
}
