/* The loop's life: open → run → stop → end → closed. */
#include "check.h"
#include "co/overflow.h"
#include "cpu.h"
#include "log.h"
#include "loop_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    STACK_SIZE_DEFAULT = 256 * 1024,
    RING_ENTRIES_DEFAULT = 256,
    RING_ENTRIES_MOST = 32768,
    INBOX_DEFAULT = 16384,
    INBOX_MOST = 1 << 30,
    SPIN_ADAPTIVE_NS = 15000,
    SPIN_US_MOST = 1000000,
    REPORT_WAIT_MS = 200,
};

static _Thread_local duet_loop *loop_here;

duet_loop *duet_loop_self(void)
{
    return loop_here;
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
    if (config->backend == DUET_BACKEND_EPOLL)
        return duet__refuse(function, -ENOTSUP,
                            "the epoll backend is not in this version; leave backend at "
                            "DUET_BACKEND_AUTO");
    if (config->backend != DUET_BACKEND_AUTO && config->backend != DUET_BACKEND_URING)
        return duet__bad_argument(function, "backend is unknown");
    if (config->hooks)
        return duet__refuse(function, -ENOTSUP, "hooks are not in this version");
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
}

/* ---- Stacks ---- */

static void warn_stacks(void *ctx, const char *line)
{
    duet__log(DUET_WARNING, "loop '%s': %s", ((duet_loop *)ctx)->config.name, line);
}

static void stacks_init(duet_loop *loop)
{
    for (int i = 0; i < DUET__STACK_CLASSES; i++)
        duet__stacks_init(&loop->stacks[i], (size_t)1 << (DUET__STACK_CLASS_LEAST + i),
                          duet__task_stack_main, warn_stacks, loop);
}

struct duet__stacks *duet__loop_stacks(duet_loop *loop, size_t stack_size)
{
    size_t size = stack_size ? stack_size : loop->config.stack_size;
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
static const struct duet__future_ops moment_of_loop_ops = {"loop", moment_of_loop_cancel,
                                                           moment_of_loop_cancel};

static void stop_run(struct duet__node *node, void *consumer);

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
    duet_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->config = given;
    loop->config.name = strdup(given.name);
    if (!loop->config.name) {
        rc = -ENOMEM;
        goto fail_loop;
    }
    rc = duet__port_open(&loop->port, &loop->config);
    if (rc < 0) {
        duet__log(DUET_ERROR, "loop '%s' cannot be opened: its eventfd: %s%s", given.name,
                  duet_strerror(rc), rc == -EMFILE ? " (raise RLIMIT_NOFILE, ulimit -n)" : "");
        goto fail_name;
    }
    duet__future_init(&loop->started, &moment_of_loop_ops, NULL, 1);
    duet__future_init(&loop->end, &moment_of_loop_ops, NULL, 1);
    loop->stop_node.run = stop_run;
    duet__run_queue_init(&loop->ready);
    duet__run_queue_init(&loop->arrivals);
    duet__list_init(&loop->live);
    stacks_init(loop);
    *ret = loop;
    return 0;

fail_name:
    free((char *)loop->config.name);
fail_loop:
    free(loop);
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

void duet_loop_unref(duet_loop *loop)
{
    if (!loop || !duet__port_unref(loop->port))
        return;
    if (loop->has_thread) /* let go of without a close: nobody will join it */
        pthread_detach(loop->thread);
    duet__port_free(loop->port);
    free((char *)loop->config.name);
    free(loop);
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

static int begin(duet_loop *loop)
{
    int rc = duet__ring_open(&loop->ring, loop->config.ring_entries, loop->config.name);
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
    return 0;
}

static void finish(duet_loop *loop)
{
    for (int i = 0; i < DUET__STACK_CLASSES; i++)
        duet__stacks_fini(&loop->stacks[i]);
    duet__co_release();
    duet__overflow_unwatch();
    duet__ring_close(&loop->ring);
}

/* By who claimed it, who holds a reference: the end, and everybody may know. */
static void end(duet_loop *loop, int rc)
{
    duet__heap_fini(&loop->timers);
    duet__future_settle(&loop->end, rc < 0 ? duet_err(rc) : duet_ok(), 0);
}

int duet_loop_run(duet_loop *loop)
{
    if (!loop)
        return duet__bad_argument(__func__, "loop is NULL");
    if (loop_here)
        return -EDEADLK;
    if (!claim(loop))
        return -EALREADY;
    duet_loop_ref(loop);
    int rc = begin(loop);
    loop->outer = duet__here();
    struct duet__parker *before = duet__here_set(duet__here_bare());
    if (rc == 0) {
        loop_here = loop;
        duet__future_settle(&loop->started, duet_ok(), 0);
        duet__loop_turn_until_stopped(loop);
        loop_here = NULL;
        finish(loop);
    } else {
        if (duet__port_shut(loop->port))
            duet_loop_unref(loop);
        duet__loop_bury(loop);
        duet__future_settle(&loop->started, duet_err(rc), 0);
    }
    duet__here_set(before);
    end(loop, rc);
    duet_loop_unref(loop);
    return rc;
}

/* ---- Stopping and closing ---- */

static void stop_run(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    (void)node;
    loop->stopping = true;
    duet__list_for_each(link, &loop->live)
        duet__park_cancel(&duet__container(link, struct duet__task, live)->work.parker);
}

void duet_loop_stop(duet_loop *loop)
{
    if (!loop)
        duet__bad_argument(__func__, "loop is NULL");
    else if (duet__port_shut(loop->port)) {
        duet__port_post(loop->port, &loop->stop_node); /* refused: it has ended already */
        duet_loop_unref(loop);
    }
}

/* A request to the loop to name what is left; freed by the loop. */
struct report {
    struct duet__node node;
    duet_future *done;
};

static void report_run(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    struct report *report = duet__container(node, struct report, node);
    char text[160];
    duet__list_for_each(link, &loop->live)
    {
        struct duet__task *task = duet__container(link, struct duet__task, live);
        bool waits = duet__load_relaxed(&task->work.parker.word) & DUET__PARK_SLEEPING; /* a look */
        duet__log(DUET_WARNING, "loop '%s' is not closed by the deadline: %s %s", loop->config.name,
                  duet__future_describe(&task->work.future, text, sizeof text),
                  waits ? "still waits, shielded from its cancellation" : "still runs");
    }
    duet_future_settle(report->done, duet_ok());
    duet_future_unref(report->done);
    free(report);
}

/* The loop does not answer: something on it runs on. */
static void report_stuck(duet_loop *loop)
{
    char text[160] = "some callback";
    duet__lock(&loop->running_lock);
    struct duet__task *task = duet__load_relaxed(&loop->running); /* it cannot end meanwhile */
    if (task)
        duet__future_describe(&task->work.future, text, sizeof text);
    duet__unlock(&loop->running_lock);
    duet__log(
        DUET_WARNING,
        "loop '%s' is not closed by the deadline and does not turn: %s runs on without waiting",
        loop->config.name, text);
}

static void report_left(duet_loop *loop)
{
    duet_future *done;
    struct report *report = malloc(sizeof *report);
    int rc = -ENOMEM;
    if (report && (rc = duet_future_open(&done)) == 0) {
        *report = (struct report){.node.run = report_run, .done = duet_future_ref(done)};
        if (duet__port_post(loop->port, &report->node)) {
            rc = duet__future_wait(done, duet_ms(REPORT_WAIT_MS), true);
        } else {
            duet_future_unref(report->done);
            free(report);
        }
        duet_future_unref(done);
    } else {
        free(report);
    }
    if (rc < 0)
        report_stuck(loop);
}

int duet_loop_close(duet_loop *loop, duet_deadline by)
{
    if (!loop)
        return duet__bad_argument(__func__, "loop is NULL");
    if (loop_here == loop ||
        (!duet__here()->ops->may_wait && is_claimed(loop) && !duet__future_is_settled(&loop->end)))
        return -EDEADLK;
    duet_loop_stop(loop);
    if (claim(loop)) { /* nobody ran it, nobody will */
        duet__loop_bury(loop);
        end(loop, 0);
    }
    int rc = duet__future_wait(&loop->end, by, true);
    if (rc == -ETIME)
        report_left(loop);
    if (rc < 0)
        return rc;
    if (loop->has_thread) { /* it has only to return from its function */
        loop->has_thread = false;
        pthread_join(loop->thread, NULL);
    }
    duet_loop_unref(loop);
    return 0;
}
