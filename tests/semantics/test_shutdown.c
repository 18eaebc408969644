/* How loops and pools end: who waits is answered, what was taken has one outcome, nothing is left.
 */
#include "duet_test.h"
#include "pool_impl.h" /* how many workers the default pool may have */
#include "shared.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

static duet_loop *open_loop(void)
{
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    return loop;
}

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

static void runner_start(struct runner *runner, duet_loop *loop)
{
    runner->loop = loop;
    thread_start(&runner->thread, run_loop, runner);
}

static void runner_join(struct runner *runner)
{
    thread_join(&runner->thread);
    must_equal(runner->rc, 0);
}

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

static const duet_opts tally_opts = {.drop = tally_drop};

static void must_tally(struct tally *tally, int ran, int dropped)
{
    must_equal(atomic_load(&tally->ran), ran);
    must_equal(atomic_load(&tally->dropped), dropped);
}

static void run_bare(duet_loop *loop, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(loop, DUET_NOW, fn, arg)).err, 0);
}

/* Says that it has begun, then does not end before `release` is settled, whoever asks. */
struct stubborn {
    duet_future *begun, *release;
};

static void stubborn_open(struct stubborn *s)
{
    s->begun = open_promise();
    s->release = open_promise();
}

static void stubborn_close(struct stubborn *s)
{
    duet_future_unref(s->begun);
    duet_future_unref(s->release);
}

static duet_result be_stubborn(void *arg)
{
    struct stubborn *s = arg;
    duet_shield_begin();
    settle(s->begun);
    must_equal(duet_future_wait(s->release, DUET_NEVER, NULL), 0);
    duet_shield_end();
    return duet_i64(11);
}

static void await_begun(struct stubborn *s)
{
    must_equal(duet_future_wait(s->begun, SURELY, NULL), 0);
}

/* ---- The default pool at the end of the process: first, while this process has no threads ---- */

static int drop_pipe[2];

static void tell_drop(void *arg)
{
    (void)arg;
    must(write(drop_pipe[1], "d", 1) == 1);
}

static duet_result wait_for_the_end(void *arg)
{
    settle(arg);
    int rc = duet_sleep(DUET_NEVER);
    must(write(drop_pipe[1], "e", 1) == 1);
    return duet_err(rc);
}

static duet_result ignore_the_end(void *arg)
{
    settle(arg);
    for (;;)
        pause();
    return duet_ok();
}

/* A child that fills the default pool with `work` and one job that waits, and then exits. What it
 * wrote by then is in text. */
static void exit_with_jobs(duet_fn *work, char *text, size_t size)
{
    int status;
    ssize_t n;
    must(pipe(drop_pipe) == 0);
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        duet_opts opts = {.drop = tell_drop}, keeps = {.flags = DUET_KEEP_SLOT};
        duet_pool *pool = duet_pool_default();
        must(pool != NULL);
        for (unsigned i = 0; i < pool->config.workers_max; i++) {
            duet_future *begun = open_promise();
            duet_future_unref(duet_pool_submit_with(pool, work, begun, &keeps));
            must_equal(finish(begun).err, 0);
        }
        duet_future_unref(duet_pool_submit_with(pool, return_ok, NULL, &opts));
        exit(0);
    }
    close(drop_pipe[1]);
    size_t used = 0;
    while (used < size - 1 && (n = read(drop_pipe[0], text + used, size - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = '\0';
    close(drop_pipe[0]);
    must(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fprintf(stderr, "the child's status is %#x\n", (unsigned)status);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* 51, 67: at exit the queued job is dropped, and the running ones are asked and waited for. */
static void at_exit_the_default_pool_cancels_what_is_queued_and_ends_what_runs(void **state)
{
    (void)state;
    char text[4096];
    exit_with_jobs(wait_for_the_end, text, sizeof text);
    assert_non_null(strchr(text, 'd'));
    assert_null(strchr(strchr(text, 'd') + 1, 'd'));
    assert_non_null(strchr(text, 'e'));
}

/* 65: and a job that does not listen does not keep the process for ever. */
static void at_exit_a_job_that_does_not_listen_is_left_after_a_while(void **state)
{
    (void)state;
    char text[4096];
    exit_with_jobs(ignore_the_end, text, sizeof text);
    assert_string_equal(text, "d");
}

/* ---- Submissions that race the end ---- */

enum {
    SUBMITTERS = 8,
    CAP = 60
};

struct submitter {
    struct thread thread;
    duet_loop *loop; /* with a reference of its own */
    atomic_int *progress;
    struct tally tally;
    bool by_call;
    int tried, accepted, refused;
};

/* Submits until refused, and a little more, or until it is enough; then collects. */
static void submit_until_refused(void *arg)
{
    struct submitter *s = arg;
    duet_future *handles[CAP];
    for (int more = 5; more > 0 && s->tried<CAP; more -= s->refused> 0) {
        duet_fn *fn = s->tried % 2 ? sleep_long : tally_run;
        duet_future *f = duet_submit_with(s->loop, fn, &s->tally, &tally_opts);
        bool refused = duet_future_settled(f) && duet_future_result(f).err == -ESHUTDOWN;
        must(refused || s->refused == 0); /* no way back */
        s->refused += refused;
        handles[s->tried++] = f;
        atomic_fetch_add(s->progress, 1);
    }
    for (int i = 0; i < s->tried; i++) {
        int err = finish(handles[i]).err;
        must(err == 0 || err == -ECANCELED || err == -ESHUTDOWN);
        s->accepted += err != -ESHUTDOWN;
    }
    duet_loop_unref(s->loop);
}

static void call_until_refused(void *arg)
{
    struct submitter *s = arg;
    for (int more = 3; more > 0;) {
        duet_result r = duet_i64(1);
        int which = s->tried++ % 2;
        int rc = duet_call_with(s->loop, which ? sleep_long : tally_run, &s->tally, &tally_opts,
                                which ? duet_ms(1) : SURELY, &r);
        atomic_fetch_add(s->progress, 1);
        must(rc == 0 || (which && rc == -ETIME));
        must(r.err == 0 || r.err == -ECANCELED || r.err == -ESHUTDOWN);
        must(s->refused == 0 || r.err == -ESHUTDOWN);
        s->refused += r.err == -ESHUTDOWN;
        s->accepted += r.err != -ESHUTDOWN;
        more -= s->refused > 0;
    }
    duet_loop_unref(s->loop);
}

static void race_submissions_with_the_end(unsigned inbox_max, bool stop_first)
{
    uint64_t random = test_seed();
    for (int round = test_rounds(100); round > 0; round--) {
        struct submitter submitters[SUBMITTERS];
        atomic_int progress = 0;
        duet_loop *loop;
        duet_loop_config config = {.inbox_max = inbox_max};
        must_equal(duet_loop_start(&loop, &config), 0);
        for (int i = 0; i < SUBMITTERS; i++) {
            submitters[i] = (struct submitter){.loop = duet_loop_ref(loop), .progress = &progress};
            submitters[i].by_call = i % 4 == 3;
        }
        for (int i = 0; i < SUBMITTERS; i++)
            thread_start(&submitters[i].thread,
                         submitters[i].by_call ? call_until_refused : submit_until_refused,
                         &submitters[i]);
        int enough = (int)(test_random(&random) % (SUBMITTERS * CAP / 3));
        while (atomic_load(&progress) < enough)
            sched_yield();
        if (stop_first)
            duet_loop_stop(loop);
        close_loop(loop);
        for (int i = 0; i < SUBMITTERS; i++) {
            struct submitter *s = &submitters[i];
            thread_join(&s->thread);
            must_equal(s->accepted + s->refused, s->tried);
            must_equal(atomic_load(&s->tally.dropped), s->tried);
        }
    }
}

/* 37, 38 */
static void submissions_that_race_close_are_taken_or_refused_and_settle_once(void **state)
{
    (void)state;
    race_submissions_with_the_end(0, false);
}

/* 37, 38 */
static void submissions_that_race_stop_are_taken_or_refused_and_settle_once(void **state)
{
    (void)state;
    race_submissions_with_the_end(0, true);
}

/* 37, 38: most of the threads wait for room when the end comes. */
static void submissions_that_wait_for_room_when_the_loop_closes_are_answered(void **state)
{
    (void)state;
    race_submissions_with_the_end(2, false);
}

struct answer {
    struct thread thread;
    duet_loop *loop;
    duet_future *f;
    int rc;
    duet_result result;
};

static void wait_for_answer(void *arg)
{
    struct answer *answer = arg;
    answer->rc = duet_future_wait(answer->f, DUET_NEVER, &answer->result);
}

/* 37: threads blocked in a wait when the loop goes: all are answered. */
static void every_thread_that_waits_is_answered_when_the_loop_closes(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct answer answers[8];
    duet_future *f = duet_submit(loop, sleep_long, NULL);
    for (int i = 0; i < 8; i++) {
        answers[i] = (struct answer){.f = f, .rc = 1};
        thread_start(&answers[i].thread, wait_for_answer, &answers[i]);
    }
    for (int i = 0; i < 8; i++)
        thread_await_blocked(&answers[i].thread);
    close_loop(loop);
    for (int i = 0; i < 8; i++) {
        thread_join(&answers[i].thread);
        must_equal(answers[i].rc, 0);
        must_equal(answers[i].result.err, -ECANCELED);
    }
    duet_future_unref(f);
}

/* 37: the same for work that never started, on a loop that nobody ran. */
static void who_waits_for_work_that_never_started_is_answered_when_the_loop_closes(void **state)
{
    (void)state;
    duet_loop *loop = open_loop();
    struct tally tally = {0};
    struct answer answer = {.f = duet_submit_with(loop, tally_run, &tally, &tally_opts), .rc = 1};
    thread_start(&answer.thread, wait_for_answer, &answer);
    thread_await_blocked(&answer.thread);
    close_loop(loop);
    thread_join(&answer.thread);
    must_equal(answer.rc, 0);
    must_equal(answer.result.err, -ECANCELED);
    must_tally(&tally, 0, 1);
    duet_future_unref(answer.f);
}

static void call_for_answer(void *arg)
{
    struct answer *answer = arg;
    answer->rc = duet_call(answer->loop, sleep_long, NULL, DUET_NEVER, &answer->result);
}

/* 37: who is inside duet_call learns that its work was cancelled; it was not itself. */
static void who_calls_is_answered_when_the_loop_closes(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct answer answer = {.loop = loop, .rc = 1};
    thread_start(&answer.thread, call_for_answer, &answer);
    thread_await_blocked(&answer.thread);
    close_loop(loop);
    thread_join(&answer.thread);
    must_equal(answer.rc, 0);
    must(answer.result.err == -ECANCELED || answer.result.err == -ESHUTDOWN);
}

static void stop_loop(void *arg)
{
    struct answer *answer = arg;
    for (int i = 0; i < 50; i++)
        duet_loop_stop(answer->loop);
    duet_loop_unref(answer->loop);
}

/* loop.h: idempotent, from any thread, also after the close for who holds a reference. */
static void stop_may_be_called_by_all_at_once_and_again_and_again(void **state)
{
    (void)state;
    for (int round = test_rounds(50); round > 0; round--) {
        duet_loop *loop = start_loop();
        struct answer answers[4];
        duet_future *f = duet_submit(loop, sleep_long, NULL);
        for (int i = 0; i < 4; i++)
            answers[i] = (struct answer){.loop = duet_loop_ref(loop)};
        for (int i = 0; i < 4; i++)
            thread_start(&answers[i].thread, stop_loop, &answers[i]);
        close_loop(loop);
        for (int i = 0; i < 4; i++)
            thread_join(&answers[i].thread);
        must_equal(finish(f).err, -ECANCELED);
    }
}

/* ---- Close, and what is in its way ---- */

/* 38: nobody waits an hour. */
static void close_cancels_sleeping_coroutines(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct tally tally = {0};
    duet_future *fs[100];
    for (int i = 0; i < 100; i++)
        fs[i] = duet_submit_with(loop, sleep_long, &tally, &tally_opts);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0); /* by now all of them sleep */
    close_loop(loop);
    for (int i = 0; i < 100; i++) {
        must(duet_future_settled(fs[i]));
        must_equal(finish(fs[i]).err, -ECANCELED);
    }
    must_tally(&tally, 0, 100);
}

struct pool_user {
    duet_pool *pool;
    struct gate gate;
    duet_future *begun, *job;
    int rc;
};

static duet_result wait_for_job(void *arg)
{
    struct pool_user *user = arg;
    duet_future *begun = user->begun;
    settle(begun);
    user->rc = duet_future_wait(user->job, DUET_NEVER, NULL);
    return duet_err(user->rc);
}

/* 38: a coroutine that waits for a job is cancelled, the job goes on. */
static void close_cancels_a_coroutine_that_waits_for_a_job_but_not_the_job(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct pool_user user = {.pool = open_pool(1), .gate = GATE_INIT, .begun = open_promise()};
    user.job = duet_pool_submit(user.pool, gate_pass_job, &user.gate);
    duet_future *f = duet_submit(loop, wait_for_job, &user);
    must_equal(finish(user.begun).err, 0);
    gate_await_arrivals(&user.gate, 1);
    close_loop(loop);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(user.rc, -ECANCELED);
    must(!duet_future_settled(user.job));
    gate_open(&user.gate);
    must_equal(finish(user.job).err, 0);
    close_pool(user.pool);
}

static duet_result sleep_in_job(void *begun)
{
    settle(begun);
    return sleep_long(NULL);
}

static duet_result offload_sleep(void *arg)
{
    struct pool_user *user = arg;
    duet_result r;
    user->rc = duet_offload(user->pool, sleep_in_job, user->begun, DUET_NEVER, &r);
    must_equal(r.err, -ECANCELED);
    return duet_err(user->rc);
}

/* 28, 38: a coroutine that has offloaded a job ends with it: the job is cancelled. */
static void close_cancels_a_coroutine_and_the_job_it_has_offloaded(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct pool_user user = {.pool = open_pool(1), .begun = open_promise()};
    duet_future *f = duet_submit(loop, offload_sleep, &user);
    must_equal(finish(user.begun).err, 0);
    close_loop(loop);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(user.rc, -ECANCELED);
    close_pool(user.pool);
}

static duet_result offload_gate(void *arg)
{
    struct pool_user *user = arg;
    user->rc = duet_offload(user->pool, gate_pass_job, &user->gate, DUET_NEVER, NULL);
    return duet_ok();
}

/* 28, 65: the job does not listen, so the close is late, says so, and may be tried again. */
static void close_is_late_for_a_coroutine_whose_job_does_not_listen(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct pool_user user = {.pool = open_pool(1), .gate = GATE_INIT};
    duet_future *f =
        duet_submit_with(loop, offload_gate, &user, &(duet_opts){.name = "Masetto waits"});
    gate_await_arrivals(&user.gate, 1);
    log_capture();
    must_equal(duet_loop_close(loop, duet_ms(5)), -ETIME);
    must(log_has("Masetto waits"));
    log_release();
    must(!duet_future_settled(f));
    gate_open(&user.gate);
    close_loop(loop);
    must_equal(finish(f).err, 0);
    must_equal(user.rc, 0); /* the job returned a result all the same */
    close_pool(user.pool);
}

/* 65: what is left is named, each; the others are not; then the loop closes after all. */
static void close_names_the_shielded_ones_it_could_not_wait_for(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct stubborn one, two;
    stubborn_open(&one);
    stubborn_open(&two);
    duet_future *f =
        duet_submit_with(loop, be_stubborn, &one, &(duet_opts){.name = "Don Giovanni"});
    duet_future *g = duet_submit_with(loop, be_stubborn, &two, &(duet_opts){.name = "Leporello"});
    duet_future *h = duet_submit_with(loop, sleep_long, NULL, &(duet_opts){.name = "Zerlina"});
    await_begun(&one);
    await_begun(&two);
    log_capture();
    duet_deadline by = duet_ms(5);
    must_equal(duet_loop_close(loop, by), -ETIME);
    must(duet_now_ns() >= by.ns);
    must(log_has("Don Giovanni"));
    must(log_has("Leporello"));
    must(!log_has("Zerlina"));
    log_release();
    /* it lives on, and is still stopping */
    struct tally tally = {0};
    duet_future *late = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    must(duet_future_settled(late));
    must_equal(finish(late).err, -ESHUTDOWN);
    must_tally(&tally, 0, 1);
    must_equal(finish(h).err, -ECANCELED);
    settle(one.release);
    must_equal(duet_as_i64(finish(f)), 11);
    log_capture();
    must_equal(duet_loop_close(loop, duet_ms(5)), -ETIME);
    must(!log_has("Don Giovanni"));
    must(log_has("Leporello"));
    log_release();
    settle(two.release);
    close_loop(loop);
    must_equal(duet_as_i64(finish(g)), 11);
    stubborn_close(&one);
    stubborn_close(&two);
}

/* 65: a deadline in the past does not wait, and harms nothing. */
static void close_with_a_deadline_in_the_past_only_asks(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct stubborn s;
    stubborn_open(&s);
    duet_future *f = duet_submit(loop, be_stubborn, &s);
    await_begun(&s);
    log_capture();
    must_equal(duet_loop_close(loop, DUET_NOW), -ETIME);
    log_release();
    settle(s.release);
    close_loop(loop);
    must_equal(duet_as_i64(finish(f)), 11);
    stubborn_close(&s);
}

struct closer {
    duet_loop *loop;
    duet_pool *pool;
    duet_future *begun;
    int rc;
    bool entered, returned;
};

static duet_result close_the_loop(void *arg)
{
    struct closer *closer = arg;
    closer->entered = true;
    closer->rc = duet_loop_close(closer->loop, SURELY);
    closer->returned = true;
    return duet_ok();
}

static void close_the_loop_bare(void *arg)
{
    (void)close_the_loop(arg);
}

/* 66: from a coroutine and from a bare callback; and it changes nothing. */
static void a_loop_cannot_be_closed_from_its_own_thread(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    struct closer closer = {.loop = loop};
    must_equal(finish(duet_submit(loop, close_the_loop, &closer)).err, 0);
    must_equal(closer.rc, -EDEADLK);
    closer.rc = 0;
    run_bare(loop, close_the_loop_bare, &closer);
    must_equal(closer.rc, -EDEADLK);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    close_loop(loop);
}

/* 66: nor another loop from a bare callback, which must not wait. */
static void a_loop_cannot_be_closed_from_a_bare_callback_of_another(void **state)
{
    (void)state;
    duet_loop *loop = start_loop(), *other = start_loop();
    struct closer closer = {.loop = other};
    run_bare(loop, close_the_loop_bare, &closer);
    must_equal(closer.rc, -EDEADLK);
    must_equal(finish(duet_submit(other, return_ok, NULL)).err, 0);
    close_loop(other);
    close_loop(loop);
}

/* 64: a job may close a loop. */
static void a_loop_may_be_closed_from_a_job(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    struct closer closer = {.loop = start_loop(), .rc = 1};
    duet_future *f = duet_submit(closer.loop, sleep_long, NULL);
    must_equal(finish(duet_pool_submit(pool, close_the_loop, &closer)).err, 0);
    must_equal(closer.rc, 0);
    must_equal(finish(f).err, -ECANCELED);
    close_pool(pool);
}

struct back {
    duet_loop *home;
    duet_future *begun;
    int calls;
};

static duet_result count_call(void *arg)
{
    ++*(int *)arg;
    return duet_ok();
}

/* Needs the loop of who closes it, to end. */
static duet_result call_back_when_cancelled(void *arg)
{
    struct back *back = arg;
    settle(back->begun);
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    duet_shield_begin();
    for (int i = 0; i < 10; i++)
        must_equal(duet_call(back->home, count_call, &back->calls, SURELY, NULL), 0);
    duet_shield_end();
    return duet_ok();
}

static duet_result close_another(void *arg)
{
    (void)arg;
    duet_loop *other = start_loop();
    struct back back = {.home = duet_loop_self(), .begun = open_promise()};
    duet_future *f = duet_submit(other, call_back_when_cancelled, &back);
    must_equal(finish(back.begun).err, 0);
    must_equal(duet_loop_close(other, SURELY), 0);
    must_equal(back.calls, 10);
    must_equal(finish(f).err, 0);
    return duet_ok();
}

/* 64: closed from a coroutine of another loop, which keeps turning. */
static void a_loop_keeps_turning_while_one_of_its_coroutines_closes_another_loop(void **state)
{
    (void)state;
    run_in_coroutine(close_another, NULL);
}

static duet_result cancel_the_closer(void *arg)
{
    (void)arg;
    struct stubborn s;
    struct closer closer = {.loop = start_loop(), .rc = 1};
    stubborn_open(&s);
    duet_future *f = duet_submit(closer.loop, be_stubborn, &s);
    await_begun(&s);
    duet_future *c = duet_spawn(close_the_loop, &closer);
    while (!closer.entered)
        must_equal(duet_yield(), 0);
    duet_future_cancel(c);
    for (int i = 0; i < 10; i++)
        must_equal(duet_yield(), 0);
    must(!closer.returned);
    settle(s.release);
    must_equal(finish(c).err, 0);
    must_equal(closer.rc, 0);
    must_equal(duet_as_i64(finish(f)), 11);
    stubborn_close(&s);
    return duet_ok();
}

/* base.h: waits that end ownership are shielded by themselves. */
static void a_cancelled_close_finishes_first(void **state)
{
    (void)state;
    run_in_coroutine(cancel_the_closer, NULL);
}

static duet_result spawn_when_cancelled(void *arg)
{
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    duet_future *f = duet_spawn_with(tally_run, arg, &tally_opts);
    must(duet_future_settled(f));
    must_tally(arg, 0, 1);
    must_equal(finish(f).err, -ESHUTDOWN);
    f = duet_submit_with(duet_loop_self(), tally_run, arg, &tally_opts);
    must(duet_future_settled(f));
    must_tally(arg, 0, 2);
    must_equal(finish(f).err, -ESHUTDOWN);
    must_equal(duet_call_soon(duet_loop_self(), tally_call, arg), -ESHUTDOWN);
    return duet_ok();
}

/* 25, 38: a stopping loop takes no new work, not even from its own coroutines. */
static void a_stopping_loop_refuses_its_own_coroutines(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_loop *loop = start_loop();
    duet_future *f = duet_submit(loop, spawn_when_cancelled, &tally);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    close_loop(loop);
    must_equal(finish(f).err, 0);
    must_tally(&tally, 0, 2);
}

static duet_result stop_own_loop(void *arg)
{
    (void)arg;
    duet_loop_stop(duet_loop_self());
    return duet_err(duet_sleep(DUET_NEVER));
}

/* loop.h: stop does not wait, so a coroutine may stop its own loop, and is cancelled like all
 * others. */
static void a_coroutine_may_stop_its_own_loop(void **state)
{
    (void)state;
    duet_loop *loop = open_loop();
    duet_future *f = duet_submit(loop, sleep_long, NULL);
    duet_future *g = duet_submit(loop, stop_own_loop, NULL);
    must_equal(duet_loop_run(loop), 0);
    must(duet_loop_self() == NULL);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(finish(g).err, -ECANCELED);
    close_loop(loop);
}

struct waker {
    struct thread thread;
    duet_loop *loop;
    int count;
};

static void nothing(void *arg)
{
    (void)arg;
}

static void wake_often(void *arg)
{
    struct waker *waker = arg;
    for (int i = 0; i < waker->count; i++) {
        must_equal(duet_call_soon(waker->loop, nothing, NULL), 0);
        sched_yield();
    }
}

/* 37, 40: whatever wakes and late signals there were, the loop falls asleep again, and ends when it
 * is stopped. */
static void a_loop_that_was_woken_again_and_again_closes(void **state)
{
    (void)state;
    for (int round = test_rounds(600); round > 0; round--) {
        struct waker wakers[3];
        duet_loop *loop;
        duet_loop_config config = {.spin_us = -1};
        must_equal(duet_loop_start(&loop, &config), 0);
        for (int i = 0; i < 3; i++) {
            wakers[i] = (struct waker){.loop = loop, .count = 200};
            thread_start(&wakers[i].thread, wake_often, &wakers[i]);
        }
        for (int i = 0; i < 3; i++)
            thread_join(&wakers[i].thread);
        close_loop(loop);
    }
}

/* ---- Run ---- */

/* 13, 38: a loop that nobody ran: work is cancelled, arguments are dropped. */
static void closing_a_loop_that_nobody_ran_cancels_its_work(void **state)
{
    (void)state;
    duet_loop *loop = open_loop();
    struct tally tally = {0}, calls = {0};
    duet_future *fs[10];
    for (int i = 0; i < 10; i++)
        fs[i] = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    must_equal(duet_call_soon_with(loop, tally_call, &calls, tally_drop), 0);
    close_loop(loop);
    for (int i = 0; i < 10; i++) {
        must(duet_future_settled(fs[i]));
        must_equal(finish(fs[i]).err, -ECANCELED);
    }
    must_tally(&tally, 0, 10);
    must_tally(&calls, 0, 1);
    close_loop(open_loop()); /* and an empty one */
}

/* loop.h: it accepts work already, which waits for the run. */
static void work_submitted_before_the_run_runs_in_its_order(void **state)
{
    (void)state;
    duet_loop *loop = open_loop();
    struct tally tally = {0};
    struct runner runner;
    duet_future *fs[50];
    for (int i = 0; i < 50; i++)
        fs[i] = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    for (int i = 0; i < 50; i++)
        must(!duet_future_settled(fs[i]));
    must_tally(&tally, 0, 0);
    runner_start(&runner, loop);
    for (int i = 0; i < 50; i++)
        must_equal(finish(fs[i]).err, 0);
    must_tally(&tally, 50, 50);
    close_loop(loop);
    runner_join(&runner);
}

/* loop.h: a loop that was stopped before its run ends at once, its work cancelled. */
static void a_run_after_the_stop_returns_at_once(void **state)
{
    (void)state;
    duet_loop *loop = open_loop();
    struct tally tally = {0};
    struct runner runner;
    duet_future *f = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    duet_loop_stop(loop);
    duet_future *late = duet_submit(loop, return_ok, NULL);
    must(duet_future_settled(late));
    must_equal(finish(late).err, -ESHUTDOWN);
    runner_start(&runner, loop);
    runner_join(&runner);
    must(duet_future_settled(f));
    must_equal(finish(f).err, -ECANCELED);
    must_tally(&tally, 0, 1);
    close_loop(loop);
}

/* loop.h: once: while it runs, and after it has run. */
static void a_loop_runs_only_once(void **state)
{
    (void)state;
    duet_loop *loop = open_loop();
    struct runner runner;
    duet_future *f = duet_submit(loop, return_ok, NULL);
    runner_start(&runner, loop);
    must_equal(finish(f).err, 0);
    must_equal(duet_loop_run(loop), -EALREADY);
    duet_loop_stop(loop);
    runner_join(&runner);
    must_equal(duet_loop_run(loop), -EALREADY);
    close_loop(loop);
    loop = start_loop();
    must_equal(duet_loop_run(loop), -EALREADY);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
    close_loop(loop);
}

static duet_result run_another_loop(void *loop)
{
    must_equal(duet_loop_run(loop), -EDEADLK);
    return duet_ok();
}

static duet_result run_own_loop(void *arg)
{
    (void)arg;
    int rc = duet_loop_run(duet_loop_self());
    must(rc == -EDEADLK || rc == -EALREADY);
    return duet_ok();
}

/* 63: one loop a thread; and the other may be run elsewhere afterwards. */
static void a_loop_cannot_be_run_inside_another(void **state)
{
    (void)state;
    duet_loop *other = open_loop();
    struct runner runner;
    run_in_coroutine(run_another_loop, other);
    run_in_coroutine(run_own_loop, NULL);
    runner_start(&runner, other);
    must_equal(finish(duet_submit(other, return_ok, NULL)).err, 0);
    close_loop(other);
    runner_join(&runner);
}

/* loop.h: close waits for a run that somebody else has begun, and that thread may go on afterwards.
 */
static void close_waits_for_the_run_on_another_thread(void **state)
{
    (void)state;
    for (int i = test_rounds(300); i > 0; i--) {
        duet_loop *loop = open_loop();
        struct runner runner;
        struct tally tally = {0};
        duet_future *f = duet_submit_with(loop, sleep_long, &tally, &tally_opts);
        runner_start(&runner, loop);
        if (i % 2) /* else close may come before the run: then there is none */
            must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0);
        else
            while (atomic_load(&runner.thread.tid) == 0)
                sched_yield();
        if (i % 2) {
            close_loop(loop);
            runner_join(&runner);
        } else {
            duet_loop_stop(loop);
            runner_join(&runner);
            close_loop(loop);
        }
        must_equal(finish(f).err, -ECANCELED);
        must_tally(&tally, 0, 1);
    }
}

/* ---- duet_run ---- */

static duet_result run_again(void *arg)
{
    duet_result r = duet_i64(1);
    must_equal(duet_run(tally_run, arg, &r), -EDEADLK);
    return duet_i64(77);
}

static void run_again_bare(void *arg)
{
    must_equal(duet_run(tally_run, arg, NULL), -EDEADLK);
}

static duet_result run_again_in_callback(void *arg)
{
    must_equal(finish(duet_call_at(duet_loop_self(), DUET_NOW, run_again_bare, arg)).err, 0);
    return duet_ok();
}

/* 63: inside a coroutine, and inside a bare callback. */
static void run_inside_run_is_edeadlk(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_result r;
    must_equal(duet_run(run_again, &tally, &r), 0);
    must_equal(duet_as_i64(r), 77);
    run_in_coroutine(run_again_in_callback, &tally);
    must_tally(&tally, 0, 0);
}

static duet_result run_in_job(void *arg)
{
    duet_result r;
    must_equal(duet_run(tally_run, arg, &r), 0);
    must_equal(r.err, 0);
    return duet_ok();
}

/* 63: a job's thread runs no loop, so that it may. */
static void run_inside_a_job_works(void **state)
{
    (void)state;
    struct tally tally = {0};
    duet_pool *pool = open_pool(2);
    duet_future *f = duet_pool_submit(pool, run_in_job, &tally);
    duet_future *g = duet_pool_submit(pool, run_in_job, &tally);
    must_equal(finish(f).err, 0);
    must_equal(finish(g).err, 0);
    must_tally(&tally, 2, 0);
    close_pool(pool);
}

/* bridge.h: *ret is the result of the main coroutine, an error as well as a value. */
static void run_gives_the_result_of_its_main_coroutine(void **state)
{
    (void)state;
    duet_result r;
    int here;
    must_equal(duet_run(return_arg, &here, &r), 0);
    must(duet_as_ptr(r) == &here);
    must_equal(duet_run(fail_eio, NULL, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must(duet_loop_self() == NULL);
}

struct leftovers {
    int begun;
    bool slept, cleaned;
};

static duet_result leave_late(void *arg)
{
    struct leftovers *left = arg;
    left->begun++;
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    left->slept = true;
    duet_shield_begin();
    for (int i = 0; i < 5; i++)
        must_equal(duet_sleep(duet_ms(1)), 0);
    left->cleaned = true;
    duet_shield_end();
    return duet_err(-ECANCELED);
}

static duet_result fail_when_cancelled(void *arg)
{
    struct leftovers *left = arg;
    left->begun++;
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    return duet_err(-EIO);
}

static duet_result fail_at_once(void *arg)
{
    struct leftovers *left = arg;
    left->begun++;
    return duet_err(-EIO);
}

static duet_result leave_some(void *arg)
{
    struct leftovers *left = arg;
    duet_future_unref(duet_spawn_with(leave_late, left, &(duet_opts){.name = "Zerlina"}));
    duet_future_unref(duet_spawn_with(fail_when_cancelled, left, &(duet_opts){.name = "Masetto"}));
    duet_future_unref(duet_spawn_with(fail_at_once, left, &(duet_opts){.name = "Ottavio"}));
    while (left->begun < 3)
        must_equal(duet_yield(), 0);
    return duet_i64(5);
}

/* 8, 63: cancelled, waited for, failures reported once by name, cancellation never. */
static void run_cancels_what_is_left_and_reports_its_failures(void **state)
{
    (void)state;
    struct leftovers left = {0, false, false};
    duet_result r;
    log_capture();
    must_equal(duet_run(leave_some, &left, &r), 0);
    must_equal(duet_as_i64(r), 5);
    must(left.slept);
    must(left.cleaned);
    must_equal(log_count("Masetto"), 1);
    must_equal(log_count("Ottavio"), 1);
    must(!log_has("Zerlina"));
    log_release();
}

static duet_result spawn_and_go(void *arg)
{
    for (int i = 0; i < 10; i++)
        duet_future_unref(duet_spawn_with(tally_run, arg, &tally_opts));
    return duet_ok();
}

/* 13, 63: what had not even begun is dropped or has run, once. */
static void run_leaves_nothing_that_was_only_spawned(void **state)
{
    (void)state;
    struct tally tally = {0};
    run_in_coroutine(spawn_and_go, &tally);
    must_equal(atomic_load(&tally.dropped), 10);
}

/* ---- After the end ---- */

static duet_result keep_reference(void *arg)
{
    *(duet_loop **)arg = duet_loop_ref(duet_loop_self());
    return duet_ok();
}

static void use_a_closed_loop(duet_loop *loop)
{
    struct tally tally = {0};
    duet_result r = duet_i64(1);
    duet_future *promise = open_promise();
    duet_future *f = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    must(duet_future_settled(f));
    must_equal(finish(f).err, -ESHUTDOWN);
    must_tally(&tally, 0, 1);
    must_equal(duet_call_with(loop, tally_run, &tally, &tally_opts, SURELY, &r), 0);
    must_equal(r.err, -ESHUTDOWN);
    must_tally(&tally, 0, 2);
    must_equal(duet_call_soon_with(loop, tally_call, &tally, tally_drop), -ESHUTDOWN);
    must_equal(finish(duet_call_at(loop, DUET_NOW, tally_call, &tally)).err, -ESHUTDOWN);
    must_equal(duet_future_then(promise, loop, tally_call, &tally, tally_drop), -ESHUTDOWN);
    duet_loop_stop(loop);
    must_tally(&tally, 0, 2);
    duet_future_unref(promise);
}

/* 38: a reference keeps the memory; the closed loop refuses. */
static void a_reference_outlives_the_close(void **state)
{
    (void)state;
    duet_loop *loop = duet_loop_ref(start_loop());
    close_loop(loop);
    use_a_closed_loop(loop);
    duet_loop_unref(loop);
    loop = duet_loop_ref(duet_loop_ref(open_loop())); /* never run */
    close_loop(loop);
    use_a_closed_loop(loop);
    duet_loop_unref(loop);
    use_a_closed_loop(loop);
    duet_loop_unref(loop);
    must_equal(duet_run(keep_reference, &loop, NULL), 0);
    use_a_closed_loop(loop);
    duet_loop_unref(loop);
}

/* future.h: so does a handle: the future lives as long as its owners. */
static void a_handle_outlives_its_loop(void **state)
{
    (void)state;
    duet_loop *loop = start_loop();
    int value;
    duet_result r;
    duet_future *f = duet_submit(loop, return_arg, &value);
    duet_future *g = duet_submit(loop, sleep_long, NULL);
    must_equal(duet_future_wait(f, SURELY, NULL), 0);
    close_loop(loop);
    duet_future_cancel(f);
    duet_future_cancel(g);
    must_equal(duet_future_take(f, &r), 0);
    must(duet_as_ptr(r) == &value);
    must_equal(duet_future_close(f, NULL), -EALREADY);
    must_equal(duet_future_close(g, &r), 0);
    must_equal(r.err, -ECANCELED);
}

/* ---- Pools and loops ---- */

static duet_result close_the_pool(void *arg)
{
    struct closer *closer = arg;
    closer->entered = true;
    closer->rc = duet_pool_close(closer->pool, SURELY);
    closer->returned = true;
    return duet_ok();
}

static duet_result close_pool_beside(void *arg)
{
    (void)arg;
    struct gate gate = GATE_INIT;
    struct closer closer = {.pool = open_pool(1), .rc = 1};
    struct tally tally = {0};
    duet_future *running = duet_pool_submit(closer.pool, gate_pass_job, &gate);
    duet_future *queued = duet_pool_submit_with(closer.pool, tally_run, &tally, &tally_opts);
    gate_await_arrivals(&gate, 1);
    duet_future *f = duet_spawn(close_the_pool, &closer);
    while (!closer.entered)
        must_equal(duet_yield(), 0);
    for (int i = 0; i < 100; i++)
        must_equal(duet_yield(), 0);
    must_equal(duet_sleep(duet_ms(1)), 0);
    must(!closer.returned);
    must_equal(finish(queued).err, -ECANCELED); /* before the running one has ended */
    must_tally(&tally, 0, 1);
    gate_open(&gate);
    must_equal(finish(f).err, 0);
    must_equal(closer.rc, 0);
    must(duet_future_settled(running));
    must_equal(finish(running).err, 0);
    return duet_ok();
}

/* 64 */
static void a_loop_keeps_turning_while_a_coroutine_closes_a_pool(void **state)
{
    (void)state;
    run_in_coroutine(close_pool_beside, NULL);
}

struct needy {
    duet_loop *loop;
    duet_future *begun;
    int calls;
};

static duet_result need_the_loop(void *arg)
{
    struct needy *needy = arg;
    settle(needy->begun);
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    duet_shield_begin();
    must_equal(duet_call(needy->loop, count_call, &needy->calls, SURELY, NULL), 0);
    duet_shield_end();
    return duet_ok();
}

static duet_result close_pool_that_needs_us(void *arg)
{
    (void)arg;
    duet_pool *pool = open_pool(2);
    struct needy needy[2];
    duet_future *fs[2];
    for (int i = 0; i < 2; i++) {
        needy[i] = (struct needy){duet_loop_self(), open_promise(), 0};
        fs[i] = duet_pool_submit(pool, need_the_loop, &needy[i]);
        must_equal(finish(needy[i].begun).err, 0);
    }
    close_pool(pool);
    for (int i = 0; i < 2; i++) {
        must_equal(needy[i].calls, 1);
        must_equal(finish(fs[i]).err, 0);
    }
    return duet_ok();
}

/* 64: the jobs need the loop to end. */
static void a_pool_whose_jobs_call_the_loop_may_be_closed_from_it(void **state)
{
    (void)state;
    run_in_coroutine(close_pool_that_needs_us, NULL);
}

/* ---- Leaks ---- */

/* A thread that was joined may be listed for a moment longer. */
static void must_have_no_more_threads_than(int count)
{
    duet_deadline by = SURELY;
    while (count_threads() > count && duet_now_ns() < by.ns)
        sched_yield();
    must(count_threads() <= count);
}

static void cycle_loop(void)
{
    struct tally tally = {0};
    duet_loop *loop = start_loop();
    duet_future *f = duet_submit_with(loop, tally_run, &tally, &tally_opts);
    duet_future *g = duet_submit_with(loop, sleep_long, &tally, &tally_opts);
    must_equal(finish(f).err, 0);
    close_loop(loop);
    must_equal(finish(g).err, -ECANCELED);
    must_tally(&tally, 1, 2);
}

static void cycle_idle_loops(void)
{
    close_loop(start_loop());
    close_loop(open_loop());
}

static void cycle_run(void)
{
    run_in_coroutine(return_ok, NULL);
}

static void cycle_pool(void)
{
    duet_pool *pool = open_pool(2);
    duet_future *f = duet_pool_submit(pool, return_ok, NULL);
    duet_future *g = duet_pool_submit(pool, sleep_long, NULL);
    must_equal(finish(f).err, 0);
    close_pool(pool);
    must_equal(finish(g).err, -ECANCELED);
}

static void cycle_references(void)
{
    duet_loop *loop = duet_loop_ref(start_loop());
    close_loop(loop);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, -ESHUTDOWN);
    duet_loop_unref(loop);
}

static void must_not_leak(void (*cycle)(void))
{
    cycle(); /* what is made once may stay */
    int fds = count_fds(), threads = count_threads();
    for (int i = test_rounds(500); i > 0; i--)
        cycle();
    must_equal(count_fds(), fds);
    must_have_no_more_threads_than(threads);
}

/* 37, 42 */
static void starting_and_closing_loops_leaks_no_descriptor_and_no_thread(void **state)
{
    (void)state;
    must_not_leak(cycle_loop);
    must_not_leak(cycle_idle_loops);
    must_not_leak(cycle_references);
}

/* 63 */
static void running_leaks_no_descriptor_and_no_thread(void **state)
{
    (void)state;
    must_not_leak(cycle_run);
}

/* 64 */
static void opening_and_closing_pools_leaks_no_descriptor_and_no_thread(void **state)
{
    (void)state;
    must_not_leak(cycle_pool);
}

static duet_result block_the_loop(void *gate)
{
    gate_pass(gate);
    return duet_ok();
}

/* 65: the one that is to blame is named, though it cannot be asked. */
static void a_close_names_the_coroutine_that_blocks_the_loop(void **state)
{
    (void)state;
    struct gate gate = GATE_INIT;
    const duet_opts opts = {.name = "blocker"};
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, NULL), 0);
    duet_future *f = duet_submit_with(loop, block_the_loop, &gate, &opts);
    gate_await_arrivals(&gate, 1);
    log_capture();
    must_equal(duet_loop_close(loop, duet_ms(1)), -ETIME);
    must(log_has("coroutine 'blocker' is left"));
    must(log_has("its loop does not turn"));
    log_release();
    gate_open(&gate);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_future_result(f).err, 0);
    duet_future_unref(f);
}

/* ---- Callbacks that wait for their turn ---- */

static void nap_a_little(void *arg)
{
    usleep(1000);
    (void)arg;
}

static void pass_gate(void *gate)
{
    gate_pass(gate);
}

/* Its coroutines have ended, so it answers that nothing is left; but before its end come callbacks,
 * the last of which waits for what we do after the close. */
static void a_queue_of_callbacks_does_not_hold_a_close_up(void **state)
{
    (void)state;
    struct gate gate = GATE_INIT;
    duet_loop *loop = start_loop();
    log_capture();
    for (int i = 0; i < 300; i++)
        must_equal(duet_call_soon(loop, nap_a_little, NULL), 0);
    must_equal(duet_call_soon(loop, pass_gate, &gate), 0);
    must_equal(duet_loop_close(loop, duet_ms(20)), -ETIME);
    must(log_has("queue 'of callbacks'") || log_has("callback 'of the loop'"));
    gate_open(&gate);
    close_loop(loop);
    log_release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_queue_of_callbacks_does_not_hold_a_close_up),
        cmocka_unit_test(a_close_names_the_coroutine_that_blocks_the_loop),
        cmocka_unit_test(at_exit_the_default_pool_cancels_what_is_queued_and_ends_what_runs),
        cmocka_unit_test(at_exit_a_job_that_does_not_listen_is_left_after_a_while),
        cmocka_unit_test(submissions_that_race_close_are_taken_or_refused_and_settle_once),
        cmocka_unit_test(submissions_that_race_stop_are_taken_or_refused_and_settle_once),
        cmocka_unit_test(submissions_that_wait_for_room_when_the_loop_closes_are_answered),
        cmocka_unit_test(every_thread_that_waits_is_answered_when_the_loop_closes),
        cmocka_unit_test(who_waits_for_work_that_never_started_is_answered_when_the_loop_closes),
        cmocka_unit_test(who_calls_is_answered_when_the_loop_closes),
        cmocka_unit_test(stop_may_be_called_by_all_at_once_and_again_and_again),
        cmocka_unit_test(close_cancels_sleeping_coroutines),
        cmocka_unit_test(close_cancels_a_coroutine_that_waits_for_a_job_but_not_the_job),
        cmocka_unit_test(close_cancels_a_coroutine_and_the_job_it_has_offloaded),
        cmocka_unit_test(close_is_late_for_a_coroutine_whose_job_does_not_listen),
        cmocka_unit_test(close_names_the_shielded_ones_it_could_not_wait_for),
        cmocka_unit_test(close_with_a_deadline_in_the_past_only_asks),
        cmocka_unit_test(a_loop_cannot_be_closed_from_its_own_thread),
        cmocka_unit_test(a_loop_cannot_be_closed_from_a_bare_callback_of_another),
        cmocka_unit_test(a_loop_may_be_closed_from_a_job),
        cmocka_unit_test(a_loop_keeps_turning_while_one_of_its_coroutines_closes_another_loop),
        cmocka_unit_test(a_cancelled_close_finishes_first),
        cmocka_unit_test(a_stopping_loop_refuses_its_own_coroutines),
        cmocka_unit_test(a_coroutine_may_stop_its_own_loop),
        cmocka_unit_test(a_loop_that_was_woken_again_and_again_closes),
        cmocka_unit_test(closing_a_loop_that_nobody_ran_cancels_its_work),
        cmocka_unit_test(work_submitted_before_the_run_runs_in_its_order),
        cmocka_unit_test(a_run_after_the_stop_returns_at_once),
        cmocka_unit_test(a_loop_runs_only_once),
        cmocka_unit_test(a_loop_cannot_be_run_inside_another),
        cmocka_unit_test(close_waits_for_the_run_on_another_thread),
        cmocka_unit_test(run_inside_run_is_edeadlk),
        cmocka_unit_test(run_inside_a_job_works),
        cmocka_unit_test(run_gives_the_result_of_its_main_coroutine),
        cmocka_unit_test(run_cancels_what_is_left_and_reports_its_failures),
        cmocka_unit_test(run_leaves_nothing_that_was_only_spawned),
        cmocka_unit_test(a_reference_outlives_the_close),
        cmocka_unit_test(a_handle_outlives_its_loop),
        cmocka_unit_test(a_loop_keeps_turning_while_a_coroutine_closes_a_pool),
        cmocka_unit_test(a_pool_whose_jobs_call_the_loop_may_be_closed_from_it),
        cmocka_unit_test(starting_and_closing_loops_leaks_no_descriptor_and_no_thread),
        cmocka_unit_test(running_leaks_no_descriptor_and_no_thread),
        cmocka_unit_test(opening_and_closing_pools_leaks_no_descriptor_and_no_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
