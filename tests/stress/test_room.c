/* Submitters that wait for room in a pool whose queue is small: threads and coroutines, from a
 * seed. Where a place is free and somebody waits for one, somebody comes, whatever the running jobs
 * do and whoever gives up; each job runs once or not at all, and each submission is answered. */
#include "duet_test.h"

#include <sched.h>

enum {
    THREADS = 3,
    COROUTINES = 5,
    SUBMITTERS = THREADS + COROUTINES
};

static const unsigned queues[] = {1, 2, 3, 64};
enum {
    QUEUES = sizeof queues / sizeof queues[0]
};

static duet_pool *pool;
static duet_loop *loop;

static void open_pool(unsigned workers, unsigned queue)
{
    const duet_pool_config config = {
        .name = "small", .workers_max = workers, .queue_max = queue, .when_full = DUET_FULL_WAIT};
    must_equal(duet_pool_open(&pool, &config), 0);
}

/* Bodies that run on as many threads of the test's and coroutines of the loop's. */
struct submitter {
    duet_fn *body;
    uint64_t random;
    pthread_t thread;
    duet_future *coroutine;
};

static struct submitter submitters[SUBMITTERS];

static void *on_thread(void *arg)
{
    struct submitter *me = arg;
    must_equal(me->body(me).err, 0);
    return NULL;
}

static void start_submitters(duet_fn *body, uint64_t *seed)
{
    for (int i = 0; i < SUBMITTERS; i++) {
        struct submitter *s = &submitters[i];
        *s = (struct submitter){.body = body, .random = test_random(seed)};
        if (i < THREADS)
            must_equal(pthread_create(&s->thread, NULL, on_thread, s), 0);
        else
            s->coroutine = duet_submit(loop, body, s);
    }
}

static void await_submitters(void)
{
    for (int i = 0; i < SUBMITTERS; i++) {
        duet_result r;
        if (i < THREADS) {
            pthread_join(submitters[i].thread, NULL);
            continue;
        }
        must_equal(duet_future_wait(submitters[i].coroutine, SURELY, &r), 0);
        must_equal(r.err, 0);
        duet_future_unref(submitters[i].coroutine);
    }
}

/* ---- Everything at random: each submission is answered, each job runs once at most ---- */

/* On the heap: dropped once, whatever becomes of it. */
struct job {
    uint64_t random;
    atomic_int *runs; /* of a submitter that waits for it; else NULL */
};

static atomic_long made, dropped, ran;

static duet_result run_job(void *arg)
{
    struct job *job = arg;
    atomic_fetch_add(&ran, 1);
    if (job->runs)
        atomic_fetch_add(job->runs, 1);
    switch (test_random(&job->random) % 8) {
    case 0:
        (void)duet_sleep(duet_us((int64_t)(test_random(&job->random) % 50)));
        break;
    case 1:
        sched_yield();
        break;
    default:
        break;
    }
    return duet_ok();
}

static void drop_job(void *arg)
{
    atomic_fetch_add(&dropped, 1);
    free(arg);
}

static struct job *new_job(uint64_t *random, atomic_int *runs)
{
    struct job *job = malloc(sizeof *job);
    must(job != NULL);
    *job = (struct job){test_random(random), runs};
    atomic_fetch_add(&made, 1);
    return job;
}

static duet_opts random_opts(uint64_t *random)
{
    return (duet_opts){.name = "job",
                       .drop = drop_job,
                       .priority = test_random(random) % 3 == 0,
                       .flags = test_random(random) % 8 == 0 ? DUET_KEEP_SLOT : 0};
}

static void submit_and_wait(uint64_t *random, bool cancel)
{
    atomic_int runs = 0;
    duet_result r;
    const duet_opts opts = random_opts(random);
    duet_future *f = duet_pool_submit_with(pool, run_job, new_job(random, &runs), &opts);
    if (cancel)
        duet_future_cancel(f);
    duet_shield_begin(); /* the job has our counter */
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    duet_shield_end();
    if (duet_cancelled() || cancel)
        must(r.err == 0 || r.err == -ECANCELED);
    else
        must_equal(r.err, 0);
    if (r.err == 0)
        must_equal(runs, 1);
    else
        must(runs <= 1);
    duet_future_unref(f);
}

/* A deadline within which there may be no room, or no worker. */
static void offload_for_a_moment(uint64_t *random)
{
    atomic_int runs = 0;
    duet_result r;
    const duet_opts opts = random_opts(random);
    duet_deadline by = duet_us((int64_t)(test_random(random) % 100));
    int rc = duet_offload_with(pool, run_job, new_job(random, &runs), &opts, by, &r);
    must(rc == 0 || rc == -ETIME || (rc == -ECANCELED && duet_cancelled()));
    must_equal(rc == 0 ? r.err : -ECANCELED, r.err);
    if (rc == 0)
        must(runs == 1 || r.err == -ECANCELED);
}

static void submit_somehow(uint64_t *random)
{
    const duet_opts opts = random_opts(random);
    switch (test_random(random) % 6) {
    case 0:
        submit_and_wait(random, true);
        break;
    case 1:
    case 2:
        offload_for_a_moment(random);
        break;
    case 3:
        submit_and_wait(random, false);
        break;
    default:
        duet_future_unref(duet_pool_submit_with(pool, run_job, new_job(random, NULL), &opts));
    }
}

/* Submits until it is cancelled, which may be while it waits for room. */
static duet_result submit_until_cancelled(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    while (!duet_cancelled())
        submit_somehow(&random);
    return duet_err(-ECANCELED);
}

static void submit_by_one_that_is_cancelled(uint64_t *random)
{
    uint64_t seed = test_random(random);
    duet_result r;
    int rc = duet_call(loop, submit_until_cancelled, &seed,
                       duet_us((int64_t)(test_random(random) % 100)), &r);
    must(rc == -ETIME || rc == -ECANCELED);
    must_equal(r.err, -ECANCELED);
}

static duet_result submit_many(void *arg)
{
    struct submitter *me = arg;
    for (int i = test_rounds(300); i > 0; i--)
        if (test_random(&me->random) % 8 == 0)
            submit_by_one_that_is_cancelled(&me->random);
        else
            submit_somehow(&me->random);
    return duet_ok();
}

static void each_submission_is_answered_and_each_job_ends_once(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    must_equal(duet_loop_start(&loop, NULL), 0);
    for (int i = 0; i < QUEUES; i++) {
        duet_pool_stats stats;
        made = dropped = ran = 0;
        open_pool(1 + (unsigned)(test_random(&seed) % 3), queues[i]);
        start_submitters(submit_many, &seed);
        await_submitters();
        must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
        duet_pool_stats_get(pool, &stats);
        must_equal(stats.queued, 0);
        must_equal(stats.submitted, stats.completed + stats.cancelled);
        must_equal(stats.completed, ran);
        must_equal(dropped, made);
        must_equal(duet_pool_close(pool, SURELY), 0);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Jobs that go on only when all that fit have been let in ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t came = PTHREAD_COND_INITIALIZER;
static int accepted, begun, total;
static unsigned room;

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Blocks its worker outside duet until the queue behind it is full, or all have come. */
static duet_result block_until_the_queue_is_full(void *unused)
{
    (void)unused;
    must_equal(pthread_mutex_lock(&mutex), 0);
    begun++;
    pthread_cond_broadcast(&came);
    int ahead = begun;
    while (accepted < least(total, ahead + (int)room))
        pthread_cond_wait(&came, &mutex);
    must_equal(pthread_mutex_unlock(&mutex), 0);
    return duet_ok();
}

static void count_accepted(void)
{
    must_equal(pthread_mutex_lock(&mutex), 0);
    accepted++;
    pthread_cond_broadcast(&came);
    must_equal(pthread_mutex_unlock(&mutex), 0);
}

static duet_result submit_blocking_jobs(void *arg)
{
    struct submitter *me = arg;
    for (int i = total / SUBMITTERS; i > 0; i--) {
        const duet_opts opts = {.name = "blocks", .priority = test_random(&me->random) % 2};
        duet_future *f = duet_pool_submit_with(pool, block_until_the_queue_is_full, NULL, &opts);
        must(!duet_future_settled(f) || duet_future_result(f).err == 0);
        duet_future_unref(f);
        count_accepted();
    }
    return duet_ok();
}

static void run_blocking_jobs(unsigned workers, unsigned queue, int each, uint64_t *seed)
{
    accepted = begun = 0;
    total = each * SUBMITTERS;
    room = queue;
    open_pool(workers, queue);
    start_submitters(submit_blocking_jobs, seed);
    await_submitters();
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(begun, total);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

static void a_free_place_is_taken_though_no_job_goes_on_before(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    must_equal(duet_loop_start(&loop, NULL), 0);
    for (int round = test_rounds(20); round > 0; round--)
        for (int i = 0; i < QUEUES; i++)
            run_blocking_jobs(1 + (unsigned)(test_random(&seed) % 3), queues[i],
                              4 + (int)(test_random(&seed) % 40), &seed);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* Likewise while others come, wait for room, and give up, perhaps as it comes. */
static atomic_bool enough;
static atomic_int quick_jobs;

static duet_result count_quick(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return duet_ok();
}

static duet_result give_up_again_and_again(void *arg)
{
    struct submitter *me = arg;
    while (!atomic_load(&enough)) {
        duet_result r;
        int rc = duet_offload(pool, count_quick, &quick_jobs,
                              duet_us((int64_t)(test_random(&me->random) % 30)), &r);
        must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
        if (rc == -ECANCELED)
            return duet_err(rc);
    }
    return duet_ok();
}

static duet_result give_up_in_coroutines(void *arg)
{
    struct submitter *me = arg;
    while (!atomic_load(&enough)) {
        struct submitter other = {.random = test_random(&me->random)};
        duet_future *f = duet_spawn(give_up_again_and_again, &other);
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&me->random) % 60))), 0);
        must_equal(duet_future_close(f, NULL), 0);
    }
    return duet_ok();
}

static void a_place_promised_to_one_who_gives_up_goes_to_the_next(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    must_equal(duet_loop_start(&loop, NULL), 0);
    for (int round = test_rounds(20); round > 0; round--)
        for (int i = 0; i < 3; i++) {
            struct submitter quitter = {.body = give_up_again_and_again},
                             coroutine = {.random = test_random(&seed)};
            quitter.random = test_random(&seed);
            accepted = begun = 0;
            total = SUBMITTERS * 20;
            room = queues[i];
            enough = false;
            open_pool(1, queues[i]);
            must_equal(pthread_create(&quitter.thread, NULL, on_thread, &quitter), 0);
            duet_future *f = duet_submit(loop, give_up_in_coroutines, &coroutine);
            start_submitters(submit_blocking_jobs, &seed);
            await_submitters();
            enough = true;
            pthread_join(quitter.thread, NULL);
            must_equal(duet_future_wait(f, SURELY, NULL), 0);
            duet_future_unref(f);
            must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
            must_equal(begun, total);
            must_equal(duet_pool_close(pool, SURELY), 0);
        }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Those who wait are let in, as many as there is room for, though nobody else comes ---- */

static duet_result submit_one(void *unused)
{
    (void)unused;
    duet_future_unref(duet_pool_submit(pool, count_quick, &quick_jobs));
    count_accepted();
    return duet_ok();
}

static void await_accepted(int n)
{
    for (duet_deadline by = SURELY;; sched_yield()) {
        must_equal(pthread_mutex_lock(&mutex), 0);
        int so_far = accepted;
        must_equal(pthread_mutex_unlock(&mutex), 0);
        must(so_far <= n);
        if (so_far == n)
            return;
        must(duet_now_ns() < by.ns);
    }
}

/* All wait, by then, since a loop starts in the order of submission; no job ends before the gate
 * opens; so it is the cancelled ones alone that make room. */
static void let_in_by_cancelling(unsigned queue, uint64_t *random)
{
    enum {
        WAITING = 80
    };
    struct gate gate = GATE_INIT;
    duet_future *queued[64], *fs[WAITING];
    accepted = 0;
    quick_jobs = 0;
    open_pool(1, queue);
    duet_future *busy = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    for (unsigned i = 0; i < queue; i++)
        queued[i] = duet_pool_submit(pool, return_ok, NULL);
    for (int i = 0; i < WAITING; i++)
        fs[i] = duet_submit(loop, submit_one, NULL);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    must_equal(accepted, 0);
    unsigned first = (unsigned)(test_random(random) % queue);
    for (unsigned i = 0; i < queue; i++) {
        duet_future_cancel(queued[(first + i) % queue]);
        if (test_random(random) % 2)
            await_accepted((int)i + 1);
    }
    await_accepted((int)queue);
    gate_open(&gate);
    must_equal(duet_gather(fs, WAITING, SURELY, NULL), 0);
    must_equal(accepted, WAITING);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(quick_jobs, WAITING);
    for (unsigned i = 0; i < queue; i++)
        duet_future_unref(queued[i]);
    for (int i = 0; i < WAITING; i++)
        duet_future_unref(fs[i]);
    duet_future_unref(busy);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

static void as_many_are_let_in_as_there_is_room_though_nobody_else_comes(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    must_equal(duet_loop_start(&loop, NULL), 0);
    for (int round = test_rounds(50); round > 0; round--)
        for (int i = 0; i < QUEUES; i++)
            let_in_by_cancelling(queues[i], &seed);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Those who wait come in, however many come later ---- */

static duet_result submit_until_enough(void *unused)
{
    (void)unused;
    while (!atomic_load(&enough)) {
        duet_future_unref(duet_pool_submit(pool, count_quick, &quick_jobs));
        if (duet_loop_self()) /* to be fair to the others of its loop */
            must_equal(duet_yield(), 0);
    }
    return duet_ok();
}

static duet_result submit_a_few(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) {
        duet_future *f = duet_pool_submit(pool, return_ok, NULL);
        must(!duet_future_settled(f) || duet_future_result(f).err == 0);
        duet_future_unref(f);
    }
    return duet_ok();
}

static void a_flood_of_others_keeps_nobody_out(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    duet_loop *another;
    must_equal(duet_loop_start(&loop, NULL), 0);
    must_equal(duet_loop_start(&another, NULL), 0);
    for (int round = test_rounds(10); round > 0; round--)
        for (int i = 0; i < QUEUES; i++) {
            duet_result r;
            enough = false;
            open_pool(1 + (unsigned)(test_random(&seed) % 2), queues[i]);
            start_submitters(submit_until_enough, &seed);
            must_equal(duet_call(another, submit_a_few, NULL, SURELY, &r), 0);
            must_equal(r.err, 0);
            must_equal(submit_a_few(NULL).err, 0); /* this thread */
            enough = true;
            await_submitters();
            must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
            must_equal(duet_pool_close(pool, SURELY), 0);
        }
    must_equal(duet_loop_close(another, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Queued jobs that are cancelled are room, too ---- */

static duet_result submit_and_cancel(void *unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++) {
        duet_future *f = duet_pool_submit(pool, return_ok, NULL);
        count_accepted();
        duet_future_cancel(f); /* the only worker is busy: it was queued, and is not any more */
        must(duet_future_settled(f));
        must_equal(duet_future_result(f).err, -ECANCELED);
        duet_future_unref(f);
    }
    return duet_ok();
}

static void who_cancels_a_queued_job_lets_the_next_one_in(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    must_equal(duet_loop_start(&loop, NULL), 0);
    for (int round = test_rounds(50); round > 0; round--)
        for (int i = 0; i < QUEUES; i++) {
            struct gate gate = GATE_INIT;
            duet_pool_stats stats;
            accepted = 0;
            open_pool(1, queues[i]);
            duet_future *busy = duet_pool_submit(pool, gate_pass_job, &gate);
            gate_await_arrivals(&gate, 1);
            start_submitters(submit_and_cancel, &seed);
            await_submitters();
            must_equal(accepted, SUBMITTERS * 8);
            duet_pool_stats_get(pool, &stats);
            must_equal(stats.queued, 0);
            must_equal(stats.cancelled, SUBMITTERS * 8);
            gate_open(&gate);
            must_equal(duet_future_close(busy, NULL), 0);
            must_equal(duet_pool_close(pool, SURELY), 0);
        }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- The pool closes while some wait ---- */

static atomic_int refused;

static duet_result submit_until_refused(void *arg)
{
    struct submitter *me = arg;
    for (;;) {
        duet_result r;
        const duet_opts opts = random_opts(&me->random);
        duet_future *f = duet_pool_submit_with(pool, run_job, new_job(&me->random, NULL), &opts);
        bool settled = duet_future_settled(f) && duet_future_result(f).err == -ESHUTDOWN;
        if (settled || test_random(&me->random) % 4 == 0) {
            must_equal(duet_future_wait(f, SURELY, &r), 0);
            must(r.err == 0 || r.err == -ECANCELED || r.err == -ESHUTDOWN);
            settled = r.err == -ESHUTDOWN;
        }
        duet_future_unref(f);
        if (settled)
            break;
    }
    atomic_fetch_add(&refused, 1);
    return duet_ok();
}

/* It is ended in one of three ways, none of which frees it while somebody may still submit: a job
 * that passes a gate is there until then. */
static void end_pool(uint64_t *random)
{
    int rc;
    switch (test_random(random) % 3) {
    case 0:
        must_equal(duet_pool_drain(pool, DUET_NOW, NULL), -ETIME);
        break;
    case 1:
        must_equal(duet_pool_close(pool, DUET_NOW), -ETIME);
        break;
    default:
        rc = duet_pool_drain(pool, duet_us((int64_t)(test_random(random) % 300)), NULL);
        must_equal(rc, -ETIME);
    }
}

static void a_pool_that_closes_answers_all_who_wait_for_room(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    must_equal(duet_loop_start(&loop, NULL), 0);
    log_capture(); /* it names the job at the gate each time */
    for (int round = test_rounds(150); round > 0; round--)
        for (int i = 0; i < QUEUES; i++) {
            struct gate gate = GATE_INIT;
            duet_pool_stats stats;
            made = dropped = ran = 0;
            refused = 0;
            /* With one worker all wait by then; with two there is some movement. */
            open_pool(1 + (unsigned)(test_random(&seed) % 2), queues[i]);
            duet_future *busy = duet_pool_submit(pool, gate_pass_job, &gate);
            gate_await_arrivals(&gate, 1);
            start_submitters(submit_until_refused, &seed);
            for (uint64_t n = test_random(&seed) % 20; n > 0; n--)
                sched_yield();
            end_pool(&seed);
            await_submitters();
            must_equal(refused, SUBMITTERS);
            gate_open(&gate);
            must_equal(duet_future_wait(busy, SURELY, NULL), 0);
            duet_future_unref(busy);
            must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
            duet_pool_stats_get(pool, &stats);
            must_equal(stats.submitted, stats.completed + stats.cancelled);
            must_equal(stats.completed, ran + 1);
            must_equal(duet_pool_close(pool, SURELY), 0);
            must_equal(dropped, made);
        }
    log_release();
    must_equal(duet_loop_close(loop, SURELY), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_submission_is_answered_and_each_job_ends_once),
        cmocka_unit_test(a_free_place_is_taken_though_no_job_goes_on_before),
        cmocka_unit_test(a_place_promised_to_one_who_gives_up_goes_to_the_next),
        cmocka_unit_test(as_many_are_let_in_as_there_is_room_though_nobody_else_comes),
        cmocka_unit_test(a_flood_of_others_keeps_nobody_out),
        cmocka_unit_test(who_cancels_a_queued_job_lets_the_next_one_in),
        cmocka_unit_test(a_pool_that_closes_answers_all_who_wait_for_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
