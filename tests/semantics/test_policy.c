/* What policy.h says: who makes the loops and pools that nobody named. The tests that fork come first,
 * while this process has no threads. */
#include "duet_test.h"
#include "shared.h"

#include <netdb.h>
#include <signal.h>
#include <sys/wait.h>

/* ---- What the tests of this file share ---- */

/* A policy that counts, keeps what it was asked for, and fails where it is told to. */
struct maker {
    atomic_int loops, pools; /* how often it was asked */
    int loop_err, pool_err;
    duet_loop_config loop_config; /* as asked for last */
    duet_pool_config pool_config;
    char loop_name[64], pool_name[64];
    duet_loop *loop;
    duet_pool *pool; /* made last */
};

static int count_loop(void *ctx, duet_loop **ret, const duet_loop_config *config)
{
    struct maker *maker = ctx;
    atomic_fetch_add(&maker->loops, 1);
    must(config != NULL);
    maker->loop_config = *config;
    snprintf(maker->loop_name, sizeof maker->loop_name, "%s", config->name ? config->name : "");
    if (maker->loop_err)
        return maker->loop_err;
    int rc = duet_loop_open(ret, config);
    maker->loop = *ret;
    return rc;
}

static int count_pool(void *ctx, duet_pool **ret, const duet_pool_config *config)
{
    struct maker *maker = ctx;
    atomic_fetch_add(&maker->pools, 1);
    must(config != NULL);
    maker->pool_config = *config;
    snprintf(maker->pool_name, sizeof maker->pool_name, "%s", config->name ? config->name : "");
    if (maker->pool_err)
        return maker->pool_err;
    int rc = duet_pool_open(ret, config);
    maker->pool = *ret;
    return rc;
}

static duet_policy policy_of(struct maker *maker)
{
    return (duet_policy){.ctx = maker, .make_loop = count_loop, .make_pool = count_pool};
}

static void set_policy(struct maker *maker)
{
    duet_policy policy = policy_of(maker); /* it is copied */
    must_equal(duet_policy_set(&policy), 0);
    memset(&policy, 0xa5, sizeof policy);
}

static void must_be(const duet_policy *expected)
{
    duet_policy now;
    memset(&now, 0xa5, sizeof now);
    duet_policy_get(&now);
    must(now.ctx == expected->ctx);
    must(now.make_loop == expected->make_loop);
    must(now.make_pool == expected->make_pool);
    for (int i = 0; i < 4; i++)
        must_equal(now.reserved[i], 0);
}

static const duet_policy built_in;

/* Each test begins with the built-in policy and no default pool, and ends so. */
static int reset(void **state)
{
    (void)state;
    must_equal(duet_policy_set(NULL), 0);
    must_be(&built_in);
    must_equal(duet_shutdown(SURELY, NULL), 0);
    return 0;
}

static duet_result name_of_self(void *name)
{
    snprintf(name, 64, "%s", duet_self_name());
    return duet_ok();
}

/* ---- What aborts ---- */

static void end_the_outer_first(void *arg)
{
    (void)arg;
    duet_policy_scope outer, inner;
    must_equal(duet_policy_scope_begin(&outer, NULL), 0);
    must_equal(duet_policy_scope_begin(&inner, NULL), 0);
    duet_policy_scope_end(&outer);
}

static void end_what_was_not_begun(void *arg)
{
    (void)arg;
    duet_policy_scope scope = {0};
    duet_policy_scope_end(&scope);
}

static void end_twice(void *arg)
{
    (void)arg;
    duet_policy_scope outer, inner;
    must_equal(duet_policy_scope_begin(&outer, NULL), 0);
    must_equal(duet_policy_scope_begin(&inner, NULL), 0);
    duet_policy_scope_end(&inner);
    duet_policy_scope_end(&inner);
}

static void end_what_could_not_begin(void *arg)
{
    (void)arg;
    duet_policy_scope scope = {0};
    duet_policy bad = {.reserved = {1}};
    log_capture();
    must_equal(duet_policy_scope_begin(&scope, &bad), -EINVAL);
    log_release();
    duet_policy_scope_end(&scope);
}

static void scopes_that_end_out_of_order_abort(void **state)
{
    (void)state;
    expect_death(end_the_outer_first, NULL, SIGABRT, "duet_policy_scope_end");
    expect_death(end_what_was_not_begun, NULL, SIGABRT, "duet_policy_scope_end");
    expect_death(end_twice, NULL, SIGABRT, "duet_policy_scope_end");
    expect_death(end_what_could_not_begin, NULL, SIGABRT, "duet_policy_scope_end");
}

/* ---- What is made once in a process: in a child each ---- */

static void in_child(void (*body)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        alarm(60);
        body();
        exit(7);
    }
    must(waitpid(child, &status, 0) == child);
    must(WIFEXITED(status));
    must_equal(WEXITSTATUS(status), 7);
}

static void resolve_once(int expected)
{
    struct addrinfo *found = NULL;
    int rc = duet_resolve("localhost", "80", &found, SURELY);
    must_equal(rc, expected);
    if (rc == 0)
        freeaddrinfo(found);
}

static void resolve_with_a_policy(void)
{
    struct maker maker = {0};
    set_policy(&maker);
    resolve_once(0);
    must_equal(maker.pools, 1);
    must(maker.pool_name[0] != '\0');
    resolve_once(0);
    must_equal(maker.pools, 1);
    must(duet_pool_default() != NULL);
    must_equal(maker.pools, 2); /* the default pool is another one */
    must_equal(duet_policy_set(NULL), 0);
}

static void the_pool_of_names_is_made_by_the_policy(void **state)
{
    (void)state;
    in_child(resolve_with_a_policy);
}

static void fail_to_resolve(void)
{
    struct maker maker = {.pool_err = -EAGAIN};
    struct addrinfo *found = NULL;
    set_policy(&maker);
    log_capture();
    must(duet_resolve("localhost", "80", &found, SURELY) < 0);
    log_release();
    must(maker.pools > 0);
    must_equal(duet_policy_set(NULL), 0);
    resolve_once(0); /* it is tried anew */
}

static void without_a_pool_of_names_nothing_is_resolved_until_there_is_one(void **state)
{
    (void)state;
    in_child(fail_to_resolve);
}

/* ---- Who asks ---- */

thread_test(a_run_asks_the_policy_for_its_loop)
{
    struct maker maker = {0};
    duet_result r;
    int arg;
    set_policy(&maker);
    must_equal(duet_run(return_arg, &arg, &r), 0);
    must(duet_as_ptr(r) == &arg);
    must_equal(maker.loops, 1);
    must_equal(duet_run_with(return_arg, &arg, &(duet_opts){.name = "main"}, &r), 0);
    must_equal(maker.loops, 2);
    must_equal(maker.pools, 0);
}

static duet_result see_own_loop(void *arg)
{
    struct maker *maker = arg;
    must(duet_loop_self() == maker->loop);
    return duet_ok();
}

thread_test(a_run_is_on_the_loop_that_was_made)
{
    struct maker maker = {0};
    set_policy(&maker);
    duet_result r;
    must_equal(duet_run(see_own_loop, &maker, &r), 0);
    must_equal(r.err, 0);
}

thread_test(a_start_asks_the_policy_with_what_was_asked_for)
{
    struct maker maker = {0};
    duet_loop_config config = {
        .name = "mine", .stack_size = 64 * 1024, .inbox_max = 77, .coroutines_max = 5};
    duet_loop *loop;
    set_policy(&maker);
    must_equal(duet_loop_start(&loop, &config), 0);
    must_equal(maker.loops, 1);
    must(loop == maker.loop);
    must_equal(strcmp(maker.loop_name, "mine"), 0);
    must_equal(maker.loop_config.stack_size, 64 * 1024);
    must_equal(maker.loop_config.inbox_max, 77);
    must_equal(maker.loop_config.coroutines_max, 5);
    must_equal(finish(duet_submit(loop, see_own_loop, &maker)).err, 0);
    close_loop(loop);
    must_equal(duet_loop_start(&loop, NULL), 0); /* count_loop: config is not NULL */
    must_equal(maker.loops, 2);
    close_loop(loop);
}

thread_test(the_default_pool_is_made_by_the_policy_once)
{
    struct maker maker = {0};
    duet_result r;
    char name[64];
    set_policy(&maker);
    must_equal(duet_offload(NULL, name_of_self, name, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(maker.pools, 1);
    must(maker.pool_name[0] != '\0');
    must(duet_pool_default() == maker.pool);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    must_equal(maker.pools, 1);
    must_equal(maker.loops, 0);
    duet_pool_stats stats;
    duet_pool_stats_get(maker.pool, &stats);
    must_equal(stats.submitted, 2);
}

thread_test(after_a_shutdown_the_default_pool_is_made_anew)
{
    struct maker maker = {0};
    set_policy(&maker);
    must(duet_pool_default() != NULL);
    must_equal(duet_shutdown(SURELY, NULL), 0);
    must_equal(maker.pools, 1);
    must(duet_pool_default() == maker.pool);
    must_equal(maker.pools, 2);
    must_equal(finish(duet_pool_submit(duet_pool_default(), return_ok, NULL)).err, 0);
}

thread_test(what_is_opened_by_name_asks_nobody)
{
    struct maker maker = {0};
    duet_loop *loop;
    set_policy(&maker);
    must_equal(duet_loop_open(&loop, NULL), 0);
    close_pool(open_pool(1));
    close_loop(loop);
    must_equal(maker.loops, 0);
    must_equal(maker.pools, 0);
}

thread_test(a_policy_may_care_for_loops_alone_or_for_pools_alone)
{
    struct maker maker = {0};
    duet_policy policy = {.ctx = &maker, .make_loop = count_loop};
    must_equal(duet_policy_set(&policy), 0);
    must(duet_pool_default() != NULL);
    close_loop(start_loop());
    must_equal(maker.pools, 0);
    must_equal(maker.loops, 1);
    (void)reset(NULL);
    policy = (duet_policy){.ctx = &maker, .make_pool = count_pool};
    must_equal(duet_policy_set(&policy), 0);
    must(duet_pool_default() != NULL);
    close_loop(start_loop());
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(maker.pools, 1);
    must_equal(maker.loops, 1);
}

thread_test(what_there_was_before_stays_as_it_is)
{
    struct maker maker = {0};
    duet_pool *pool = duet_pool_default();
    duet_loop *loop = start_loop();
    set_policy(&maker);
    must(duet_pool_default() == pool);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    close_loop(loop);
    must_equal(maker.loops + maker.pools, 0);
}

thread_test(loops_that_a_policy_made_leave_no_descriptor_and_no_thread)
{
    struct maker maker = {0};
    set_policy(&maker);
    close_loop(start_loop());
    int fds = count_fds(), threads = count_threads();
    for (int i = 0; i < 5; i++) {
        must_equal(duet_run(return_ok, NULL, NULL), 0);
        close_loop(start_loop());
    }
    must_equal(count_fds(), fds);
    await_threads(threads);
    must_equal(maker.loops, 11);
}

/* ---- Errors of the policy ---- */

static duet_result never_run(void *arg)
{
    (void)arg;
    must(false);
    return duet_ok();
}

static int make_and_undo(void *ctx, duet_loop **ret, const duet_loop_config *config)
{
    (void)ctx;
    int rc = duet_loop_open(ret, config);
    if (rc == 0)
        rc = duet_loop_close(*ret, SURELY);
    return rc < 0 ? rc : -EIO; /* and *ret is as it was left */
}

thread_test(what_a_failing_policy_has_left_behind_is_not_touched)
{
    const duet_policy policy = {.make_loop = make_and_undo};
    duet_loop *loop = NULL;
    must_equal(duet_policy_set(&policy), 0);
    log_capture();
    must_equal(duet_run(never_run, NULL, NULL), -EIO);
    must_equal(duet_loop_start(&loop, NULL), -EIO);
    log_release();
}

thread_test(the_error_of_a_policy_is_that_of_the_run_and_of_the_start)
{
    static const int errors[] = {-EPERM, -ENOMEM, -EMFILE, -EXDEV};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct maker maker = {.loop_err = errors[i]};
        atomic_int drops = 0;
        const duet_opts opts = {.drop = count_drop};
        duet_loop *loop = NULL;
        duet_result r;
        set_policy(&maker);
        log_capture();
        must_equal(duet_run(never_run, NULL, &r), errors[i]);
        must_equal(duet_run_with(never_run, &drops, &opts, &r), errors[i]);
        must_equal(drops, 1);
        must_equal(duet_loop_start(&loop, NULL), errors[i]);
        must_equal(maker.loops, 3);
        log_release();
        must(duet_loop_self() == NULL);
        must_equal(duet_policy_set(NULL), 0);
        must_equal(duet_run(return_ok, NULL, &r), 0);
    }
}

thread_test(without_a_pool_from_the_policy_there_is_no_default_pool_until_it_makes_one)
{
    struct maker maker = {.pool_err = -ENOMEM};
    duet_result r = duet_ok();
    atomic_int drops = 0;
    set_policy(&maker);
    log_capture();
    must(duet_pool_default() == NULL);
    must_equal(maker.pools, 1);
    must(log_count("") > 0); /* the log says why */
    int rc =
        duet_offload_with(NULL, never_run, &drops, &(duet_opts){.drop = count_drop}, SURELY, &r);
    must(rc < 0 || r.err < 0);
    must_equal(drops, 1);
    log_release();
    maker.pool_err = 0;
    must(duet_pool_default() == maker.pool);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
}

/* ---- Setting ---- */

thread_test(a_policy_is_set_once_until_it_is_taken_back)
{
    struct maker one = {0}, two = {0};
    duet_policy first = policy_of(&one), second = policy_of(&two);
    must_be(&built_in);
    must_equal(duet_policy_set(&first), 0);
    must_be(&first);
    must_equal(duet_policy_set(&second), -EALREADY);
    must_equal(duet_policy_set(&first), -EALREADY);
    must_be(&first);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(one.loops, 1);
    must_equal(duet_policy_set(NULL), 0);
    must_be(&built_in);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(one.loops + two.loops, 1);
    must_equal(duet_policy_set(NULL), 0);
    must_equal(duet_policy_set(&second), 0);
    must_be(&second);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(two.loops, 1);
}

thread_test(what_is_reserved_must_be_zero)
{
    struct maker maker = {0};
    duet_policy_scope scope;
    log_capture();
    for (int i = 0; i < 4; i++) {
        duet_policy policy = policy_of(&maker);
        policy.reserved[i] = 1;
        must_equal(duet_policy_set(&policy), -EINVAL);
        must_be(&built_in);
        must_equal(duet_policy_scope_begin(&scope, &policy), -EINVAL);
        must_be(&built_in);
    }
    must_equal(duet_policy_scope_begin(NULL, NULL), -EINVAL);
    must_equal(log_count(""), 9);
    log_release();
    must_equal(duet_policy_set(NULL), 0); /* and not in a scope */
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(maker.loops, 0);
}

static duet_result set_in_work(void *maker)
{
    duet_result r;
    set_policy(maker);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    return r;
}

thread_test(a_policy_may_be_set_in_a_coroutine_or_a_job)
{
    struct maker maker = {0}, another = {0};
    duet_result r;
    must_equal(duet_run(set_in_work, &maker, &r), 0);
    must_equal(r.err, 0);
    must_equal(maker.loops, 0); /* that run had begun before */
    must_equal(maker.pools, 1);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(maker.loops, 1);
    (void)reset(NULL);
    duet_pool *pool = open_pool(1);
    must_equal(finish(duet_pool_submit(pool, set_in_work, &another)).err, 0);
    must_equal(another.pools, 1);
    close_pool(pool);
}

/* ---- Scopes ---- */

thread_test(scopes_nest_and_restore)
{
    struct maker makers[3] = {0};
    duet_policy base = policy_of(&makers[0]), one = policy_of(&makers[1]),
                two = policy_of(&makers[2]);
    duet_policy_scope outer, inner, innermost;
    must_equal(duet_policy_set(&base), 0);
    must_equal(duet_policy_scope_begin(&outer, &one), 0);
    must_be(&one);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(duet_policy_scope_begin(&inner, &two), 0);
    must_be(&two);
    must_equal(duet_policy_scope_begin(&innermost, NULL), 0);
    must_be(&built_in);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    duet_policy_scope_end(&innermost);
    must_be(&two);
    duet_policy_scope_end(&inner);
    must_be(&one);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    duet_policy_scope_end(&outer);
    must_be(&base);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(makers[0].loops, 1);
    must_equal(makers[1].loops, 2);
    must_equal(makers[2].loops, 0);
}

thread_test(within_a_scope_the_policy_stays)
{
    struct maker maker = {0};
    duet_policy policy = policy_of(&maker);
    duet_policy_scope scope;
    must_equal(duet_policy_scope_begin(&scope, &policy), 0);
    must_equal(duet_policy_set(NULL), -EBUSY);
    must(duet_policy_set(&policy) < 0);
    must_be(&policy);
    duet_policy_scope_end(&scope);
    must_be(&built_in);
    must_equal(duet_policy_scope_begin(&scope, NULL), 0);
    must_equal(duet_policy_set(NULL), -EBUSY);
    must_equal(duet_policy_set(&policy), -EBUSY);
    must_be(&built_in);
    duet_policy_scope_end(&scope);
    must_equal(duet_policy_set(&policy), 0);
    must_be(&policy);
}

thread_test(a_scope_copies_the_policy_and_may_be_used_anew)
{
    struct maker maker = {0};
    duet_policy_scope scope;
    for (int i = 0; i < 3; i++) {
        duet_policy policy = policy_of(&maker), kept = policy;
        must_equal(duet_policy_scope_begin(&scope, &policy), 0);
        memset(&policy, 0xa5, sizeof policy);
        must_be(&kept);
        must_equal(duet_run(return_ok, NULL, NULL), 0);
        duet_policy_scope_end(&scope);
    }
    must_equal(maker.loops, 3);
}

static void start_and_close(void *unused)
{
    (void)unused;
    close_loop(start_loop());
}

/* It is the process's, not the thread's. */
thread_test(a_scope_is_for_all_threads)
{
    struct maker maker = {0};
    duet_policy policy = policy_of(&maker);
    duet_policy_scope scope;
    struct thread thread;
    must_equal(duet_policy_scope_begin(&scope, &policy), 0);
    thread_start(&thread, start_and_close, NULL);
    thread_join(&thread);
    must_equal(maker.loops, 1);
    duet_policy_scope_end(&scope);
}

static duet_result begin_and_end(void *arg)
{
    struct maker *maker = arg;
    duet_policy policy = policy_of(maker);
    duet_policy_scope scope;
    must_equal(duet_policy_scope_begin(&scope, &policy), 0);
    must_equal(duet_yield(), 0);
    close_loop(start_loop());
    duet_policy_scope_end(&scope);
    return duet_ok();
}

thread_test(a_coroutine_may_have_a_scope)
{
    struct maker maker = {0};
    must_equal(duet_run(begin_and_end, &maker, NULL), 0);
    must_equal(maker.loops, 1);
    must_be(&built_in);
}

/* ---- What a policy may do ---- */

struct watcher {
    atomic_int spawned, settled, elsewhere;
};

static void note_spawned(void *ctx, const duet_work_event *event)
{
    struct watcher *watcher = ctx;
    atomic_fetch_add(&watcher->spawned, 1);
    if (strcmp(event->place, "policed") != 0)
        atomic_fetch_add(&watcher->elsewhere, 1);
}

static void note_settled(void *ctx, const duet_work_event *event)
{
    (void)event;
    atomic_fetch_add(&((struct watcher *)ctx)->settled, 1);
}

static int make_watched_loop(void *ctx, duet_loop **ret, const duet_loop_config *config)
{
    const duet_hooks hooks = {.ctx = ctx, .spawned = note_spawned, .settled = note_settled};
    duet_loop_config with_hooks = *config;
    with_hooks.name = "policed";
    with_hooks.hooks = &hooks;
    return duet_loop_open(ret, &with_hooks);
}

static int make_watched_pool(void *ctx, duet_pool **ret, const duet_pool_config *config)
{
    const duet_hooks hooks = {.ctx = ctx, .job_queued = note_spawned, .settled = note_settled};
    duet_pool_config with_hooks = *config;
    with_hooks.name = "policed";
    with_hooks.hooks = &hooks;
    with_hooks.workers_max = 1;
    return duet_pool_open(ret, &with_hooks);
}

static duet_result spawn_two(void *arg)
{
    (void)arg;
    must_equal(finish(duet_spawn(return_ok, NULL)).err, 0);
    must_equal(finish(duet_spawn(return_ok, NULL)).err, 0);
    return duet_ok();
}

thread_test(a_policy_may_give_hooks_and_names)
{
    struct watcher watcher = {0};
    duet_policy policy = {
        .ctx = &watcher, .make_loop = make_watched_loop, .make_pool = make_watched_pool};
    duet_result r;
    must_equal(duet_policy_set(&policy), 0);
    must_equal(duet_run(spawn_two, NULL, &r), 0);
    must_equal(watcher.spawned, 3);
    must_equal(watcher.settled, 3);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    must_equal(watcher.spawned, 4);
    must_equal(watcher.settled, 4);
    duet_loop *loop = start_loop();
    must_equal(duet_call(loop, return_ok, NULL, SURELY, &r), 0);
    close_loop(loop);
    must_equal(watcher.spawned, 5);
    must_equal(watcher.settled, 5);
    must_equal(watcher.elsewhere, 0);
}

static int make_with_noise(duet_policy *expected)
{
    duet_loop *bad;
    duet_loop_config config = {.reserved = {1}};
    must_be(expected);
    return duet_loop_open(&bad, &config); /* a line in the log */
}

static duet_policy noisy;

static int make_noisy_loop(void *ctx, duet_loop **ret, const duet_loop_config *config)
{
    must_equal(make_with_noise(ctx), -EINVAL);
    must(duet_pool_default() != NULL); /* one factory may need the other */
    return duet_loop_open(ret, config);
}

static int make_noisy_pool(void *ctx, duet_pool **ret, const duet_pool_config *config)
{
    must_equal(make_with_noise(ctx), -EINVAL);
    must_equal(duet_policy_set(ctx), -EALREADY);
    return duet_pool_open(ret, config);
}

thread_test(a_policy_may_log_and_ask_what_the_policy_is)
{
    duet_result r;
    noisy =
        (duet_policy){.ctx = &noisy, .make_loop = make_noisy_loop, .make_pool = make_noisy_pool};
    must_equal(duet_policy_set(&noisy), 0);
    log_capture();
    must_equal(duet_run(return_ok, NULL, &r), 0);
    must_equal(log_count("reserved"), 2);
    close_loop(start_loop());
    must_equal(log_count("reserved"), 3);
    log_release();
}

static int take_the_policy_back(void *ctx, duet_loop **ret, const duet_loop_config *config)
{
    (void)ctx;
    must_equal(duet_policy_set(NULL), 0);
    must_equal(duet_run(return_ok, NULL, NULL), 0); /* by the built-in one */
    return duet_loop_open(ret, config);
}

thread_test(a_policy_may_take_itself_back)
{
    duet_policy policy = {.make_loop = take_the_policy_back};
    must_equal(duet_policy_set(&policy), 0);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_be(&built_in);
}

/* ---- Two at the same time ---- */

struct rivals {
    atomic_int asked;
    duet_future *both;
};

/* Gives another one the time to come here as well; whether it does is up to duet. */
static int make_slowly(void *ctx, duet_pool **ret, const duet_pool_config *config)
{
    struct rivals *rivals = ctx;
    duet_pool_config with_thread = *config;
    with_thread.workers_min = 1;
    if (atomic_fetch_add(&rivals->asked, 1) == 1)
        settle(rivals->both);
    (void)duet_future_wait(rivals->both, duet_ms(300), NULL);
    return duet_pool_open(ret, &with_thread);
}

static void get_default(void *pool)
{
    *(duet_pool **)pool = duet_pool_default();
}

thread_test(two_that_need_the_default_pool_at_once_have_the_same)
{
    struct rivals rivals = {.both = open_promise()};
    duet_policy policy = {.ctx = &rivals, .make_pool = make_slowly};
    struct thread threads[2];
    duet_pool *pools[2] = {NULL, NULL};
    int before = count_threads();
    must_equal(duet_policy_set(&policy), 0);
    for (int i = 0; i < 2; i++)
        thread_start(&threads[i], get_default, &pools[i]);
    for (int i = 0; i < 2; i++)
        thread_join(&threads[i]);
    must(pools[0] != NULL);
    must(pools[0] == pools[1]);
    must(duet_pool_default() == pools[0]);
    must(rivals.asked <= 2);
    await_threads(before + 1); /* of the other pool nothing is left */
    must_equal(finish(duet_pool_submit(pools[0], return_ok, NULL)).err, 0);
    duet_future_unref(rivals.both);
}

struct readers {
    struct maker makers[2];
    atomic_bool end;
};

static void read_policies(void *arg)
{
    struct readers *r = arg;
    while (!atomic_load(&r->end)) {
        duet_policy now;
        duet_policy_get(&now);
        bool is_built_in = now.ctx == NULL && now.make_loop == NULL && now.make_pool == NULL,
             is_first = now.ctx == &r->makers[0] && now.make_loop == count_loop && !now.make_pool,
             is_second = now.ctx == &r->makers[1] && !now.make_loop && now.make_pool == count_pool;
        must(is_built_in + is_first + is_second == 1);
    }
}

thread_test(who_asks_while_the_policy_changes_is_told_one_policy_never_half_of_two)
{
    struct readers r = {0};
    duet_policy policies[2] = {{.ctx = &r.makers[0], .make_loop = count_loop},
                               {.ctx = &r.makers[1], .make_pool = count_pool}};
    struct thread thread;
    duet_policy_scope scope;
    thread_start(&thread, read_policies, &r);
    for (int i = test_rounds(5000); i > 0; i--) {
        must_equal(duet_policy_set(&policies[0]), 0);
        must_equal(duet_policy_scope_begin(&scope, &policies[1]), 0);
        duet_policy_scope_end(&scope);
        must_equal(duet_policy_set(NULL), 0);
    }
    atomic_store(&r.end, true);
    thread_join(&thread);
}

#define policy_test(name) cmocka_unit_test_setup_teardown(name, reset, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scopes_that_end_out_of_order_abort),
        cmocka_unit_test(the_pool_of_names_is_made_by_the_policy),
        cmocka_unit_test(without_a_pool_of_names_nothing_is_resolved_until_there_is_one),
        policy_test(a_run_asks_the_policy_for_its_loop),
        policy_test(a_run_is_on_the_loop_that_was_made),
        policy_test(a_start_asks_the_policy_with_what_was_asked_for),
        policy_test(the_default_pool_is_made_by_the_policy_once),
        policy_test(after_a_shutdown_the_default_pool_is_made_anew),
        policy_test(what_is_opened_by_name_asks_nobody),
        policy_test(a_policy_may_care_for_loops_alone_or_for_pools_alone),
        policy_test(what_there_was_before_stays_as_it_is),
        policy_test(loops_that_a_policy_made_leave_no_descriptor_and_no_thread),
        policy_test(what_a_failing_policy_has_left_behind_is_not_touched),
        policy_test(the_error_of_a_policy_is_that_of_the_run_and_of_the_start),
        policy_test(without_a_pool_from_the_policy_there_is_no_default_pool_until_it_makes_one),
        policy_test(a_policy_is_set_once_until_it_is_taken_back),
        policy_test(what_is_reserved_must_be_zero),
        policy_test(a_policy_may_be_set_in_a_coroutine_or_a_job),
        policy_test(scopes_nest_and_restore),
        policy_test(within_a_scope_the_policy_stays),
        policy_test(a_scope_copies_the_policy_and_may_be_used_anew),
        policy_test(a_scope_is_for_all_threads),
        policy_test(a_coroutine_may_have_a_scope),
        policy_test(a_policy_may_give_hooks_and_names),
        policy_test(a_policy_may_log_and_ask_what_the_policy_is),
        policy_test(a_policy_may_take_itself_back),
        policy_test(two_that_need_the_default_pool_at_once_have_the_same),
        policy_test(who_asks_while_the_policy_changes_is_told_one_policy_never_half_of_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
