/* What the files of this folder share. */
#pragma once
#include "duet_test.h"

#include <sched.h>
#include <unistd.h>

/* A thread of the test's own. Its end is a promise, so that waiting for it is bounded. */
struct thread {
    pthread_t id;
    duet_future *ended;
    void (*body)(void *arg);
    void *arg;
    atomic_int tid;
};

__attribute__((unused)) static void *thread_main(void *arg)
{
    struct thread *thread = arg;
    atomic_store(&thread->tid, gettid());
    thread->body(thread->arg);
    must_equal(duet_future_settle(thread->ended, duet_ok()), 0);
    return NULL;
}

__attribute__((unused)) static void thread_start(struct thread *thread, void (*body)(void *arg),
                                                 void *arg)
{
    thread->body = body;
    thread->arg = arg;
    atomic_init(&thread->tid, 0);
    must_equal(duet_future_open(&thread->ended), 0);
    must_equal(pthread_create(&thread->id, NULL, thread_main, thread), 0);
}

__attribute__((unused)) static void thread_join(struct thread *thread)
{
    must_equal(duet_future_wait(thread->ended, SURELY, NULL), 0);
    must_equal(pthread_join(thread->id, NULL), 0);
    duet_future_unref(thread->ended);
}

/* Until the thread sleeps in the kernel, which it must do before it has ended. */
__attribute__((unused)) static void thread_await_blocked(struct thread *thread)
{
    for (int seen = 0; seen < 5; sched_yield()) {
        char path[64], text[512], *state;
        must(!duet_future_settled(thread->ended));
        int tid = atomic_load(&thread->tid);
        if (tid == 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
        FILE *file = fopen(path, "r");
        must(file != NULL);
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        state = strrchr(text, ')');
        must(state != NULL);
        seen = state[2] == 'S' ? seen + 1 : 0;
    }
}

/* Waits for the end and lets go. */
__attribute__((unused)) static duet_result finish(duet_future *f)
{
    duet_result r;
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    duet_future_unref(f);
    return r;
}

__attribute__((unused)) static duet_future *open_promise(void)
{
    duet_future *promise;
    must_equal(duet_future_open(&promise), 0);
    return promise;
}

/* A test whose body is the main coroutine of a duet_run(). */
#define coroutine_test(name)                                                                       \
    static duet_result name##_body(void *unused);                                                  \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        run_in_coroutine(name##_body, NULL);                                                       \
    }                                                                                              \
    static duet_result name##_body(__attribute__((unused)) void *unused)

#define thread_test(name) static void name(__attribute__((unused)) void **state)

__attribute__((unused)) static void settle(duet_future *promise)
{
    must_equal(duet_future_settle(promise, duet_ok()), 0);
}

__attribute__((unused)) static int error_of(duet_future *f)
{
    duet_result r = duet_i64(0);
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    return r.err;
}

__attribute__((unused)) static duet_loop *start_loop(void)
{
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, NULL), 0);
    return loop;
}

__attribute__((unused)) static void close_loop(duet_loop *loop)
{
    must_equal(duet_loop_close(loop, SURELY), 0);
}

__attribute__((unused)) static duet_pool *open_pool(unsigned workers)
{
    duet_pool *pool;
    duet_pool_config config = {.workers_max = workers};
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

__attribute__((unused)) static void close_pool(duet_pool *pool)
{
    must_equal(duet_pool_close(pool, SURELY), 0);
}
