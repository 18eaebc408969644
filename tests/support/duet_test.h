/* What the tests share. One program a file, one cmocka group a program.
 *
 * Tests meet by gates and futures, never by sleeping until the other is surely there. A test that
 * hangs is ended by meson's time limit; no test asserts a time, except against a bound that only a
 * hang would pass. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <duet/duet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif

/* A deadline that only a hang would pass. */
#define SURELY duet_sec(60)

/* Usable on any thread and in any coroutine, where cmocka's assertions, which jump, are not. */
#define must(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__,             \
                    #condition);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
#define must_equal(a, b)                                                                           \
    do {                                                                                           \
        long long must_a = (long long)(a), must_b = (long long)(b);                                \
        if (must_a != must_b) {                                                                    \
            fprintf(stderr, "%s:%d: %s: %s is %lld, not %s = %lld\n", __FILE__, __LINE__,          \
                    __func__, #a, must_a, #b, must_b);                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* A gate that blocks threads (pool jobs, plain threads) until it is opened. Zeroed: not usable;
 * GATE_INIT: closed. Opening it twice is fine. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool open;
    int arrived;
};
/* clang-format off */
#define GATE_INIT { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0 }
/* clang-format on */
void gate_open(struct gate *gate);
void gate_pass(struct gate *gate); /* blocks the thread until it is open */
void gate_await_arrivals(struct gate *gate, int n); /* until n threads have come to gate_pass() */
duet_result gate_pass_job(void *gate); /* a pool job that passes it; duet_ok() */

/* Runs a body as the main coroutine of duet_run(), which must succeed. */
void run_in_coroutine(duet_result (*body)(void *arg), void *arg);

/* Work that is of use everywhere. */
duet_result return_ok(void *arg); /* duet_ok() */
duet_result return_arg(void *arg); /* duet_ptr(arg) */
duet_result fail_eio(void *arg); /* duet_err(-EIO) */
duet_result sleep_long(void *arg); /* sleeps for an hour, or until cancelled: duet_err(rc) */
duet_result yield_often(void *count); /* *(int *)count yields */
void count_drop(void *counter); /* ++*(atomic_int *)counter */

/* Collects what duet logs until the end, which also restores the default. */
void log_capture(void);
bool log_has(const char *part); /* any line since log_capture() */
int log_count(const char *part); /* how many lines */
void log_release(void);

/* Runs body(arg) in a child process, which must die of `signo` and print `text` on standard error.
 * Only in programs whose parent has no threads. */
void expect_death(void (*body)(void *arg), void *arg, int signo, const char *text);

/* Runs body() in a child process; true: it returned there. Only in programs whose parent may fork. */
bool run_in_child(void (*body)(void));

/* How many file descriptors and threads this process has: for tests of leaks. */
int count_fds(void);
int count_threads(void);
/* Until this process has no more than n threads again: one that was joined may still be on its way
 * out of the kernel. Fewer are as good: a ring's workers in the kernel come and go. */
void await_threads(int n);

/* A seed: from DUET_TEST_SEED, else from the clock; printed, so that a failure can be replayed. */
uint64_t test_seed(void);
uint64_t test_random(uint64_t *state); /* xorshift64* */
/* How often a stress test goes round: scaled by DUET_TEST_ROUNDS (percent), fewer under sanitizers.
 */
int test_rounds(int normal);
