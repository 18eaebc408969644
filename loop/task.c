#include "check.h"
#include "log.h"
#include "loop_impl.h"

#include <errno.h>

/* gcc takes a function that only fetches for one without any effect, and leaves its calls out. */
#define FETCHES inline __attribute__((always_inline))

enum {
    JOINS_A_TURN = 256,
    FEW = 2, /* due timers whose fetching does not pay */
    FRAMES = 256, /* bytes of a stack: what it goes on with at first */
};

static struct duet__task *task_of_parker(struct duet__parker *parker)
{
    return duet__container(parker, struct duet__task, work.parker);
}

static struct duet__task *task_of_node(struct duet__node *node)
{
    return duet__container(node, struct duet__task, node);
}

static struct duet__task *task_of_timer(struct duet__timer *timer)
{
    return duet__container(timer, struct duet__task, timer);
}

/* Of one that has started. */
static bool has_stack(const struct duet__task *task);

/* ---- Sleeping and waking ---- */

static void check_stack(const struct duet__stack *stack)
{
    duet__check(duet__stack_intact(stack),
                "a coroutine stays within its stack: give it more by duet_opts.stack_size");
}

static void resume(struct duet__node *node, void *loop);

/* The stack of who comes after the next was perhaps not touched for long. */
static inline void fetch_early(struct duet__node *node)
{
    if (node && node->run == resume)
        __builtin_prefetch(task_of_node(node)->stack->co.at.sp);
}

/* Whose turn it is next, now ours, if that is a coroutine that only has to go on, and this turn's
 * budget reaches so far; NULL: the scheduler's. */
static struct duet__task *next_to_resume(duet_loop *loop)
{
    struct duet__node *node = loop->ready.first;
    if (!node || node->run != resume || loop->budget == 0)
        return NULL;
    loop->budget--;
    duet__run_queue_pop(&loop->ready);
    fetch_early(loop->ready.first);
    return task_of_node(node);
}

static inline void becomes_running(duet_loop *loop, struct duet__task *task)
{
    duet__here_set(&task->work.parker);
    duet__glance_show(&loop->running, task);
}

/* Leaves this coroutine for the next, or for the scheduler; returns when it runs again, with errno as
 * it was. One that hooks are told of returns to who tells them. */
static inline void leave(struct duet__task *task)
{
    duet_loop *loop = duet__loop_here; /* its own; known before the task is */
    int saved_errno = *loop->errno_here;
    struct duet__task *next = duet__is_observed(&task->work.parker) ? NULL : next_to_resume(loop);
    if (next == task)
        return;
    struct duet__co *to = &loop->scheduler;
    if (next) {
        check_stack(task->stack);
        becomes_running(loop, next);
        to = &next->stack->co;
    }
    duet__co_switch(&task->stack->co, to);
    *loop->errno_here = saved_errno;
}

/* By the loop, of a coroutine that sleeps without a deadline: its timer is free to look again. */
static void look_again_at(struct duet__task *task, struct duet__wait *wait)
{
    int64_t look_ns = duet__wait_look_ns(wait);
    if (look_ns != DUET__NEVER)
        duet__timers_add(&task->loop->timers, &task->timer, look_ns);
}

static void task_sleep(struct duet__parker *parker, uint32_t seen, uint32_t asleep, int64_t by_ns)
{
    struct duet__task *task = task_of_parker(parker);
    /* Publishes that the node is free to be queued. Pairs with the acquire of whoever clears
     * SLEEPING. */
    if (!duet__cas_release(&parker->word, &seen, asleep))
        return;
    if (by_ns != DUET__NEVER) /* room was reserved at the start */
        duet__timers_add(&task->loop->timers, &task->timer, by_ns);
    struct duet__wait *wait = parker->wait;
    bool young = wait && !wait->joined && wait->ops->may_end;
    if (young) {
        wait->since_ns = task->loop->now_ns;
        duet__list_append(&task->loop->young, &wait->link);
    } else if (wait && wait->joined) { /* it sleeps again, for less than before */
        task->loop->joined++;
        duet__graph_again(wait);
        if (by_ns == DUET__NEVER)
            look_again_at(task, wait);
    }
    leave(task);
    if (wait && wait->joined)
        task->loop->joined--;
    else if (young)
        duet__list_remove(&wait->link);
    if (task->timer.place)
        duet__timers_remove(&task->loop->timers, &task->timer);
}

/* In the order in which they fell asleep. Not too many at once, so that the loop turns; a joined
 * one is unlinked by its owner. */
void duet__loop_join_waits(duet_loop *loop)
{
    for (int budget = JOINS_A_TURN; budget > 0 && !duet__list_empty(&loop->young); budget--) {
        struct duet__wait *wait = duet__container(loop->young.next, struct duet__wait, link);
        if (wait->since_ns + DUET__YOUNG_NS > loop->now_ns)
            return;
        duet__list_remove(&wait->link);
        loop->joined++;
        loop->looks = true;
        duet__graph_join(wait);
        loop->looks = false;
        look_again_at(task_of_parker(wait->parker), wait);
    }
}

int64_t duet__loop_next_join_ns(const duet_loop *loop)
{
    if (duet__list_empty(&loop->young))
        return DUET__NEVER;
    return duet__container(loop->young.next, struct duet__wait, link)->since_ns + DUET__YOUNG_NS;
}

/* The caller has cleared SLEEPING, so the node is its to queue, and the task, which cannot end
 * while it is not run, keeps the loop alive until then. */
static void task_wake(struct duet__parker *parker)
{
    struct duet__task *task = task_of_parker(parker);
    if (duet__loop_here == task->loop) {
        duet__loop_ready(task->loop, &task->node);
        return;
    }
    bool posted = duet__port_post(task->loop->port, &task->node);
    duet__check(posted, "a loop ends only after its last task");
}

/* Likewise, but who cancels it holds a reference. A task that has not started is the canceller's to
 * settle; its node stays on its way to the loop, which lets go of it. */
static void task_wake_cancelled(struct duet__parker *parker)
{
    struct duet__task *task = task_of_parker(parker);
    if (task->started)
        task_wake(parker);
    else
        duet__work_settle(&task->work, duet_err(-ECANCELED));
}

/* For the hooks: it stands aside, and waits for nothing. */
static DUET__COLD void note_pass(struct duet__task *task)
{
    duet__note_nobody(task->work.parker.observed);
    task->passes = true;
}

/* Goes to the end of the run queue. */
static void task_pass(struct duet__parker *parker)
{
    struct duet__task *task = task_of_parker(parker);
    if (duet__is_observed(parker))
        note_pass(task);
    duet__loop_ready(duet__loop_here, &task->node);
    leave(task);
}

/* Not the beginning of this turn: a deadline that has just passed is in the past. */
static int64_t task_now(struct duet__parker *parker)
{
    return task_of_parker(parker)->loop->now_ns = duet__clock_ns();
}

static const struct duet__parker_ops task_parker_ops = {
    .may_wait = true,
    .sleep = task_sleep,
    .wake = task_wake,
    .wake_cancelled = task_wake_cancelled,
    .pass = task_pass,
    .now_ns = task_now,
};

static void timer_due(struct duet__timer *timer)
{
    struct duet__task *task = task_of_timer(timer);
    struct duet__wait *wait = task->work.parker.wait;
    if (wait && wait->by_ns == DUET__NEVER) { /* it is not its deadline */
        task->loop->looks = true;
        duet__graph_again(wait);
        task->loop->looks = false;
        look_again_at(task, wait);
        return;
    }
    /* If somebody else has cleared SLEEPING, the node is already on its way. */
    if (duet__park_claim(&task->work.parker))
        duet__loop_ready(task->loop, &task->node);
}

/* What has perhaps slept for long comes into the cache in passes: each touches what the pass before
 * has fetched, and fetches more, of all of them at once. A pass of its own for each step, since they
 * overlap only where nothing is between them. */
static FETCHES void fetch_lines(const void *what, size_t size)
{
    for (size_t at = 0; at < size; at += DUET__LINE)
        duet__fetch_to_write((const char *)what + at);
    duet__fetch_to_write((const char *)what + size - 1);
}

static FETCHES void fetch_tasks(struct duet__timer *const due[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct duet__task *task = task_of_timer(due[i]);
        fetch_lines(task, sizeof *task);
    }
}

static FETCHES void fetch_stacks(struct duet__timer *const due[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct duet__task *task = task_of_timer(due[i]);
        __builtin_prefetch(task->live.next, 1);
        __builtin_prefetch(task->live.prev, 1);
        if (has_stack(task))
            fetch_lines(task->stack, sizeof *task->stack);
    }
}

static FETCHES void fetch_frames(struct duet__timer *const due[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct duet__task *task = task_of_timer(due[i]);
        if (!has_stack(task))
            continue;
        fetch_lines(task->stack->co.at.sp, FRAMES);
    }
}

void duet__tasks_due(struct duet__timer *const due[], size_t count)
{
    if (count > FEW) {
        fetch_tasks(due, count);
        fetch_stacks(due, count);
        fetch_frames(due, count);
    }
    for (size_t i = 0; i < count; i++)
        timer_due(due[i]);
}

struct duet__task *duet__task_here(void)
{
    struct duet__parker *parker = duet__here();
    return parker->ops == &task_parker_ops ? task_of_parker(parker) : NULL;
}

int duet_yield(void)
{
    struct duet__parker *parker = duet__here();
    duet__check(parker->ops == &task_parker_ops, "duet_yield() runs inside a coroutine");
    task_pass(parker);
    return parker->shields == 0 && duet__park_cancelled(parker) ? -ECANCELED : 0;
}

/* ---- The future's side ---- */

static void task_release(duet_future *f)
{
    duet__work_fini(duet__container(f, struct duet__work, future));
    duet__future_free(f);
}

/* One that has not started will, if its loop turns; one that has settles when its function
 * returns. */
static bool task_may_settle(const duet_future *f, struct duet__look *look)
{
    const struct duet__task *task = duet__container(f, const struct duet__task, work.future);
    if (!duet__look_at(look, &task->work.parker, DUET__VIA_ITSELF))
        return false;
    /* Asleep it is with its loop, or with who submits it and holds that; which is not freed before
     * this search has ended (duet__graph_pass). Relaxed: what is looked at then has been so all
     * along. */
    bool is_asleep = duet__load_relaxed((_Atomic uint32_t *)&task->work.parker.word) &
                     (uint32_t)DUET__PARK_SLEEPING;
    return !is_asleep || duet__loop_may_turn(task->loop, look);
}

static int64_t task_since(const duet_future *f)
{
    /* An age, nothing else. */
    return duet__load_relaxed(&duet__container(f, struct duet__task, work.future)->since_ns);
}

static const struct duet__future_ops coroutine_ops = {.kind = "coroutine",
                                                      .is_work = true,
                                                      .cancel = duet__work_cancel,
                                                      .release = task_release,
                                                      .may_settle = task_may_settle,
                                                      .since = task_since};
static const struct duet__future_ops callback_ops = {.kind = "callback",
                                                     .is_work = true,
                                                     .cancel = duet__work_cancel,
                                                     .release = task_release,
                                                     .may_settle = task_may_settle,
                                                     .since = task_since};

static bool has_stack(const struct duet__task *task)
{
    return task->work.future.ops == &coroutine_ops;
}

bool duet__task_is_of_loop(const duet_future *work, const void *loop)
{
    return work->ops == &coroutine_ops &&
           duet__container(work, struct duet__task, work.future)->loop == loop;
}

/* ---- From start to end ---- */

static void task_live(struct duet__task *task)
{
    task->started = true;
    duet__store_relaxed(&task->since_ns, task->loop->now_ns);
    task->work.parker.outer = task->loop->outer;
    duet__list_append(&task->loop->live, &task->live);
    task->loop->live_count++;
}

static inline void task_dead(struct duet__task *task)
{
    duet__list_remove(&task->live);
    task->loop->live_count--;
}

static void task_end(struct duet__task *task, duet_result result)
{
    task_dead(task);
    duet__work_end(&task->work, result);
}

/* Whom the work that has ended on this stack goes back to: its starter, if it has not left and no
 * code of the user's runs as it settles, for which the starter's stack may be too small. */
static inline struct duet__co *ends_to(duet_loop *loop, struct duet__stack *stack,
                                       const struct duet__task *task)
{
    struct duet__task *starter = stack->starter;
    if (!starter)
        return &loop->scheduler;
    if (!duet__work_ends_quietly(&task->work, loop->result)) {
        stack->starter = NULL; /* who comes next all the same */
        return &loop->scheduler;
    }
    duet__run_queue_pop(&loop->ready); /* the starter */
    return &starter->stack->co;
}

void duet__task_stack_main(void *arg)
{
    struct duet__stack *stack = arg;
    for (;;) {
        struct duet__task *task = stack->work;
        duet_loop *loop = task->loop;
        errno = 0;
        loop->result = duet__work_run(&task->work);
        duet__check(!duet__is_foreign(loop->process),
                    "a child that was forked in a coroutine ends by exec or _exit");
        stack->work = NULL;
        duet__co_switch(&stack->co, ends_to(loop, stack, task));
    }
}

/* Its function has returned; it is still to settle. */
static inline void coroutine_dead(duet_loop *loop, struct duet__task *task)
{
    struct duet__stack *stack = task->stack;
    stack->co.name = NULL;
    duet__glance_hide(&loop->running); /* whoever names it from outside has finished */
    loop->coroutine_count--;
    duet__stacks_put(stack);
    task_dead(task);
}

/* Likewise. The task may be gone when it has settled. */
static void coroutine_end(duet_loop *loop, struct duet__task *task)
{
    coroutine_dead(loop, task);
    duet__work_end(&task->work, loop->result);
}

static size_t ready_count(const duet_loop *loop)
{
    return duet__run_queue_count(&loop->ready) + duet__run_queue_count(&loop->arrivals);
}

static DUET__COLD void tell_step_began(duet_loop *loop, struct duet__task *task)
{
    duet__tell(&task->work.parker, DUET__HOOK_STEP_BEGAN, duet__clock_ns(), ready_count(loop));
}

static DUET__COLD void tell_step_ended(duet_loop *loop, struct duet__task *task, bool parked)
{
    int64_t now_ns = duet__clock_ns();
    duet__tell(&task->work.parker, DUET__HOOK_STEP_ENDED, now_ns, ready_count(loop));
    if (parked)
        duet__tell(&task->work.parker, DUET__HOOK_PARKED, now_ns, ready_count(loop));
}

/* Until it, or another to whom it has given way, waits, stands aside, or has come to its end: then
 * that one's stack has no work. Returns which it was. It is there in any case: if it sleeps and
 * somebody has woken it already, it is still ours to run. */
static inline struct duet__task *run_steps(duet_loop *loop, struct duet__task *task)
{
    becomes_running(loop, task);
    duet__co_switch(&loop->scheduler, &task->stack->co);
    duet__here_set(duet__here_bare());
    task = duet__glance_own(&loop->running);
    check_stack(task->stack);
    return task;
}

static inline void after_step(duet_loop *loop, struct duet__task *task)
{
    if (task->stack->work)
        duet__glance_show(&loop->running, NULL);
    else
        coroutine_end(loop, task);
}

static void resume(struct duet__node *node, void *loop)
{
    after_step(loop, run_steps(loop, task_of_node(node)));
}

/* Likewise, of one that hooks are told of. */
static void resume_observed(struct duet__node *node, void *loop)
{
    struct duet__task *task = task_of_node(node);
    tell_step_began(loop, task);
    run_steps(loop, task); /* one, since it does not give way to others */
    tell_step_ended(loop, task, task->stack->work && !task->passes);
    task->passes = false;
    after_step(loop, task);
}

/* 0, or why this task, which is ours now, cannot start. */
static int may_start(duet_loop *loop, struct duet__task *task)
{
    if (loop->stopping || duet__park_cancelled(&task->work.parker))
        return -ECANCELED;
    return duet__timers_reserve(&loop->timers, loop->live_count + 1);
}

static DUET__COLD int tell_no_stack(duet_loop *loop)
{
    if (!loop->told_no_stack)
        duet__log(DUET_ERROR,
                  "loop '%s': no memory for the stack of coroutine number %zu; see "
                  "RLIMIT_AS (ulimit -v), vm.overcommit_memory and stack_size",
                  loop->config.name, loop->coroutine_count + 1);
    loop->told_no_stack = true; /* once a loop; each of them settles with -ENOMEM */
    return -ENOMEM;
}

static inline int take_stack(duet_loop *loop, struct duet__task *task)
{
    struct duet__stacks *stacks = loop->usual_stacks;
    if (loop->config.coroutines_max && loop->coroutine_count >= loop->config.coroutines_max)
        return -EAGAIN;
    if (task->stack_size)
        stacks = duet__loop_stacks(loop, task->stack_size);
    task->stack = duet__stacks_get(stacks);
    if (!task->stack)
        return tell_no_stack(loop);
    loop->coroutine_count++;
    return 0;
}

/* Of one that we have claimed. False: it cannot start: it has settled, and may be gone. */
static inline __attribute__((always_inline)) bool begin(duet_loop *loop, struct duet__task *task)
{
    int rc = may_start(loop, task);
    if (rc == 0)
        rc = take_stack(loop, task);
    if (rc < 0) {
        duet__work_refuse(&task->work, rc);
        return false;
    }
    task->stack->work = task;
    task->stack->co.name = task->work.future.name;
    task->node.run = duet__is_observed(&task->work.parker) ? resume_observed : resume;
    task->node.counted = false;
    task_live(task);
    return true;
}

static void start(struct duet__node *node, void *loop)
{
    struct duet__task *task = task_of_node(node);
    if (!duet__work_claim(&task->work)) /* cancelled, and settled by its canceller */
        duet_future_unref(&task->work.future);
    else if (begin(loop, task))
        node->run(node, loop);
}

void duet__task_fetch(const struct duet__node *node)
{
    if (node->run == start)
        fetch_lines(duet__container(node, const struct duet__task, node),
                    sizeof(struct duet__task));
}

static struct duet__task *task_new(duet_loop *loop, const struct duet__future_ops *ops, duet_fn *fn,
                                   void *arg, const duet_opts *opts)
{
    struct duet__hooks *hooks = duet__is_foreign(loop->process) ? NULL : loop->hooks;
    struct duet__task *task = duet__work_alloc(sizeof *task, hooks, opts);
    if (!task)
        return NULL;
    duet__work_init(&task->work, sizeof *task, hooks, ops, &task_parker_ops, fn, arg, opts);
    task->node.counted = false;
    task->timer.place = 0;
    task->loop = loop;
    task->started = task->passes = false;
    duet__store_relaxed(&task->since_ns, 0);
    task->stack_size = opts ? (uint32_t)opts->stack_size : 0; /* 1 GiB at most */
    return task;
}

/* To the hooks, before anybody else knows it. */
static DUET__COLD void tell_spawned(duet_loop *loop, struct duet__task *task)
{
    size_t queued = duet__loop_here == loop ? ready_count(loop) : duet__port_waiting(loop->port);
    duet__tell(&task->work.parker, DUET__HOOK_SPAWNED, task->work.parker.observed->spawned_ns,
               queued);
}

/* ---- Started at once ---- */

/* Through the scheduler, which tells the hooks: the new one goes first, and its starter next. */
static DUET__COLD void run_first(struct duet__task *starter, struct duet__task *task)
{
    note_pass(starter);
    duet__run_queue_push_first(&task->loop->ready, &starter->node);
    duet__run_queue_push_first(&task->loop->ready, &task->node);
    leave(starter);
}

/* Straight, so that the two stacks are like a call and its return, also for the processor's
 * predictor. The starter stands first in the queue meanwhile: if the new one leaves it comes next,
 * and if the new one ends without having left, it goes back to its starter, who cleans up. */
static void run_within(struct duet__task *starter, struct duet__task *task)
{
    duet_loop *loop = task->loop;
    int saved_errno = *loop->errno_here;
    if (!duet__work_claim_own(&task->work)) { /* cancelled with its group, and settled */
        duet_future_unref(&task->work.future);
        return;
    }
    if (!begin(loop, task))
        return;
    struct duet__stack *stack = task->stack; /* there whatever happens: we come next */
    duet__run_queue_push_first(&loop->ready, &starter->node);
    check_stack(starter->stack);
    stack->starter = starter;
    becomes_running(loop, task);
    duet__co_switch(&starter->stack->co, &stack->co);
    if (stack->starter && !stack->work) { /* else it has left, or the scheduler has cleaned up */
        check_stack(stack);
        coroutine_dead(loop, task);
        duet__future_finish_unseen(&task->work.future, loop->result); /* it ended quietly */
        becomes_running(loop, starter);
    }
    stack->starter = NULL;
    *loop->errno_here = saved_errno;
}

struct duet__task *duet__task_new(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts)
{
    struct duet__task *task = task_new(loop, &coroutine_ops, fn, arg, opts);
    if (!task)
        return NULL;
    task->node.run = start;
    if (duet__is_observed(&task->work.parker))
        tell_spawned(loop, task);
    return task;
}

/* ---- Callbacks at a moment ---- */

static void call_at_its_moment(duet_loop *loop, struct duet__task *task)
{
    const struct duet__observed *observed = task->work.parker.observed;
    if (observed)
        tell_step_began(loop, task);
    uint64_t before = duet__acting_set(observed ? observed->id : 0);
    duet__call_bare_in(task->work.parker.context, task->work.callback, task->work.arg);
    duet__acting_set(before);
    if (observed)
        tell_step_ended(loop, task, false);
}

/* Its moment has come, or it was cancelled. */
static void moment_due(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    struct duet__task *task = task_of_node(node);
    if (task->timer.place)
        duet__timers_remove(&loop->timers, &task->timer);
    duet_result result = duet_err(-ECANCELED);
    if (!duet__park_cancelled(&task->work.parker)) {
        call_at_its_moment(loop, task);
        result = duet_ok();
    }
    task_end(task, result);
}

/* 0: from here on it counts as started, and its node is its own again. Or why it cannot. */
static int moment_begin(duet_loop *loop, struct duet__task *task)
{
    int rc = may_start(loop, task);
    task->node.run = moment_due;
    task->node.counted = false;
    if (rc == 0)
        task_live(task);
    if (duet__is_observed(&task->work.parker))
        duet__note_nobody(task->work.parker.observed);
    return rc;
}

/* Falls asleep again, until its moment: from here on a cancellation wakes it. */
static void moment_arrive(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    struct duet__task *task = task_of_node(node);
    uint32_t awake = 0;
    if (!duet__park_claim(&task->work.parker)) { /* cancelled, and settled by its canceller */
        duet_future_unref(&task->work.future);
        return;
    }
    int rc = moment_begin(loop, task);
    /* Publishes that the task has started and its node is free to be queued. Pairs with the
     * acquire of who clears SLEEPING. */
    if (rc == 0 && duet__cas_release(&task->work.parker.word, &awake, DUET__PARK_SLEEPING))
        duet__timers_add(&loop->timers, &task->timer, task->at_ns);
    else if (rc == 0) /* cancelled just now */
        task_end(task, duet_err(-ECANCELED));
    else
        duet__work_refuse(&task->work, rc);
}

/* On the loop's own thread, where nobody else knows it yet: it sleeps already. Whoever gets the
 * handle from here finds that it has started. */
static int moment_arm(struct duet__task *task)
{
    duet_loop *loop = task->loop;
    int rc = moment_begin(loop, task);
    if (rc < 0)
        return rc;
    duet__timers_add(&loop->timers, &task->timer, task->at_ns);
    if (__builtin_expect(loop->guest.state == DUET__GUEST_ASLEEP, 0))
        duet__guest_rouse(loop); /* its host's timer may be set to later */
    return 0;
}

struct duet__task *duet__task_new_moment(duet_loop *loop, int64_t at_ns, duet_callback *fn,
                                         void *arg)
{
    struct duet__task *task = task_new(loop, &callback_ops, NULL, arg, NULL);
    if (!task)
        return NULL;
    task->node.run = moment_arrive;
    task->work.callback = fn;
    task->at_ns = at_ns;
    if (duet__is_observed(&task->work.parker))
        tell_spawned(loop, task);
    return task;
}

/* ---- Handing over on the loop's own thread ---- */

int duet__task_ready(struct duet__task *task, const duet_opts *opts)
{
    duet_loop *loop = task->loop;
    if (!has_stack(task))
        return moment_arm(task);
    struct duet__task *starter = opts && (opts->flags & DUET_AT_ONCE) ? duet__task_here() : NULL;
    if (!starter)
        duet__loop_ready(loop, &task->node);
    else if (duet__is_observed(&starter->work.parker))
        run_first(starter, task);
    else
        run_within(starter, task);
    return 0;
}

/* ---- Spawning ---- */

duet_future *duet_spawn_with(duet_fn *fn, void *arg, const duet_opts *opts)
{
    duet_loop *loop = duet__loop_here;
    const char *why = NULL;
    duet__check(loop != NULL,
                "duet_spawn() runs on a loop's thread; from others use duet_submit()");
    int rc = duet__work_check(fn, opts, &why);
    struct duet__task *task = rc == 0 ? duet__task_new(loop, fn, arg, opts) : NULL;
    if (!task)
        return duet__future_refused(rc < 0 ? rc : -ENOMEM, why, arg, opts);
    duet_future *f = &task->work.future;
    if (loop->stopping)
        duet__work_refuse(&task->work, -ESHUTDOWN);
    else
        duet__task_ready(task, opts);
    return f;
}

duet_future *duet_spawn(duet_fn *fn, void *arg)
{
    return duet_spawn_with(fn, arg, NULL);
}
