/* duet/base.h: moments, results, the one function type, the log, the allocator. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#if defined(__GNUC__)
#define DUET_API __attribute__((visibility("default")))
#else
#define DUET_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DUET_VERSION_MAJOR 0
#define DUET_VERSION_MINOR 1
#define DUET_VERSION_PATCH 0

/* Thread tags, the first word of the comment on every public function:
 *   [any]   any thread, coroutine, pool job or loop callback
 *   [loop]  the loop's own thread        [co]  inside a coroutine
 *   waits   may park: a coroutine is suspended and the loop goes on, a thread is blocked.
 *
 * Errors are negative errno values, returned; errno itself is left alone, and kept for each
 * coroutine across its waits. What is called from the wrong place (a [loop] function on another
 * thread, say) breaks a rule of the program, not of the world: it aborts with the rule's name.
 *
 * After fork() the child has none of the parent's threads. Every call there with a loop, pool, group
 * or pending future of the parent fails with -EOWNERDEAD (new work settles with it), and a settled
 * future still gives its result; the child may open loops and pools of its own. A child forked inside
 * a coroutine or a job runs there as a plain thread, and must end by exec or _exit: to return from
 * that function aborts.
 *
 * A bare callback (duet_call_soon, duet_call_at, duet_future_then, a drop function, a hook, a log
 * function, what the host of a guest loop runs between its turns, a thread-local destructor of a
 * thread that duet has started) runs outside any coroutine and must not wait: a wait there that
 * cannot be answered at once is -EDEADLK. */

/* A moment on CLOCK_MONOTONIC. A struct, so that a bare 5000 does not compile. */
typedef struct duet_deadline {
    int64_t ns;
} duet_deadline;
#ifdef __cplusplus
#define DUET_NOW (duet_deadline{0})
#define DUET_NEVER (duet_deadline{INT64_MAX})
#else
#define DUET_NOW ((duet_deadline){0}) /* try, never wait */
#define DUET_NEVER ((duet_deadline){INT64_MAX}) /* wait without limit */
#endif

/* A moment so far from now; a negative n is in the past, a huge one is DUET_NEVER. */
DUET_API duet_deadline duet_ns(int64_t n); /* [any] n nanoseconds from now; saturates */
DUET_API duet_deadline duet_us(int64_t n); /* [any] n microseconds from now; saturates */
DUET_API duet_deadline duet_ms(int64_t n); /* [any] n milliseconds from now; saturates */
DUET_API duet_deadline duet_sec(int64_t n); /* [any] n seconds from now; saturates */
DUET_API int64_t duet_now_ns(void); /* [any] nanoseconds on CLOCK_MONOTONIC */

/* What a piece of work came to: an error, or one tagged value. 16 bytes, two registers. */
enum duet_kind {
    DUET_VOID,
    DUET_I64,
    DUET_F64,
    DUET_PTR
};
typedef struct duet_result {
    int32_t err; /* 0 or a negative errno */
    uint32_t kind; /* which member of `as`; checked by duet_as_*() */
    union {
        int64_t i64;
        double f64;
        void *ptr;
    } as;
} duet_result;

static inline duet_result duet_ok(void);
static inline duet_result duet_err(int err); /* err < 0 */
static inline duet_result duet_i64(int64_t value);
static inline duet_result duet_f64(double value);
static inline duet_result duet_ptr(void *value);
DUET_API int64_t duet_as_i64(duet_result r); /* [any] aborts with a message on another kind */
DUET_API double duet_as_f64(duet_result r); /* [any] aborts with a message on another kind */
DUET_API void *duet_as_ptr(duet_result r); /* [any] aborts with a message on another kind */

/* The one function type: the body of a coroutine and of a pool job alike. */
typedef duet_result duet_fn(void *arg);
/* A plain callback: runs on a loop's thread outside any coroutine, so it must not wait. */
typedef void duet_callback(void *arg);

/* What submitting to a full queue does. On a loop's own thread, starting work on that loop never
 * waits (it goes to the run queue); towards another full queue a coroutine parks, and a bare
 * callback is refused whatever was chosen. DUET_FULL_RUN_HERE is for pools: the job runs in the
 * submitting thread, unless that is a loop's, where it waits like DUET_FULL_WAIT. */
enum duet_when_full {
    DUET_FULL_WAIT,
    DUET_FULL_REFUSE,
    DUET_FULL_RUN_HERE
};

/* Of a job: cancelling it while it runs also breaks the system call that it blocks in, which then
 * fails with EINTR: by a signal to its worker (duet_interrupt_signal_set()), sent again until the
 * job has heard of its cancellation from duet (duet_cancelled(), a wait) or has ended; held back
 * under a shield. Such a submission settles with -EBUSY if the program has its own handler for that
 * signal. Of a coroutine it has no effect: its waits end anyway. */
#define DUET_INTERRUPT (1u << 0)
/* Of a job: keeps its worker's slot while it waits, so that nothing else starts in its place. */
#define DUET_KEEP_SLOT (1u << 1)
/* Settle with -EAGAIN where this submission would have to wait for room. */
#define DUET_REFUSE (1u << 2)
/* Of the main coroutine of duet_run_with(): the first SIGINT cancels it, the second ends the
 * process. */
#define DUET_SIGINT (1u << 3)
/* Of a promise: whoever waits for it holds a reference of its own, and while anybody waits, so does
 * whoever is going to settle it. Then a wait for a promise to which only waiters hold references is
 * -EDEADLK. */
#define DUET_SETTLER_HOLDS (1u << 4)
/* Of a coroutine that a coroutine of the same loop starts: runs at once, before the call that
 * starts it returns, until it waits, yields or ends. Elsewhere it has no effect. To hooks, the
 * starter's step ends where the other's begins, and another follows it. */
#define DUET_AT_ONCE (1u << 5)

/* For the *_with() forms; zero means default. */
typedef struct duet_opts {
    /* Copied; shown in every report. */
    const char *name;
    /* Bytes; coroutines only. Rounded up to a power of two. */
    size_t stack_size;
    /* Runs exactly once, after fn or instead of it, before the future settles; must not wait. */
    void (*drop)(void *arg);
    /* Runs once at the last unref, unless somebody took the DUET_PTR result; must not wait. */
    void (*drop_result)(void *ptr);
    /* DUET_* above; an unknown one settles with -EINVAL. */
    uint32_t flags;
    /* Of a job: 0 normal, 1 urgent; more is -EINVAL. */
    uint32_t priority;
    uintptr_t reserved[4]; /* zero */
} duet_opts;

/* [any] What this errno means coming from duet; a constant string, or the C library's text for an
 * errno that is not duet's. */
DUET_API const char *duet_strerror(int err);

/* What any work may ask for, wherever it runs. Cancellation is a level: once asked, every wait of
 * that work fails with -ECANCELED before it has any effect, until its function returns or shields.
 * Only a settled future still gives its result. Waits that end ownership (every *_close, the end
 * of duet_call and duet_offload) are shielded by themselves: they finish first.
 *
 * Deadlock is an answer. When waits close a circle (or, where one is for any of several, a knot)
 * out of which nothing can come, the one of them whose deadline is the earliest fails with
 * -EDEADLK, wherever it sleeps: a few milliseconds later, if the loops of those in the circle
 * turn. Between equals it is the one that closed it. The log names the chain. Nothing could have
 * satisfied that wait before its deadline, unless somebody cancelled one of the others. Waits that
 * end ownership are passed over; if there is none other in the circle, the program aborts, with
 * the chain (the close of a loop or pool, which may fail, is told then). What any thread may still
 * do, settle a promise say, is no deadlock, as long as there is one left to do it, if only one
 * that waits with a deadline; that there is none is found by the time the wait is twice as old as
 * it was then. */

/* [any, waits] Until a moment, never less. 0; -ECANCELED; -EDEADLK in a bare callback. */
DUET_API int duet_sleep(duet_deadline until);
/* [any] Has the work that runs here been asked to end? True also under a shield. */
DUET_API bool duet_cancelled(void);
DUET_API void duet_shield_begin(void); /* [any] cancellation is held back until … */
DUET_API void duet_shield_end(void); /* [any] … here: for clean-up that must wait; they nest */
/* [any] The name of the coroutine or job that runs here, else of the thread. Valid until the next
 * call on this thread. */
DUET_API const char *duet_self_name(void);

enum duet_level {
    DUET_DEBUG,
    DUET_INFO,
    DUET_WARNING,
    DUET_ERROR
};
/* One line, without a line feed. Never called by two threads at once; must not wait. */
typedef void duet_log_fn(void *ctx, enum duet_level level, const char *line);
/* [any] Where duet's own reports go, from a level on. fn NULL: standard error, where everything
 * from DUET_WARNING goes by default. When it returns, the function set before is not running and
 * will not be called again. */
DUET_API void duet_log_set(duet_log_fn *fn, void *ctx, enum duet_level from);

/* What duet allocates its memory with; all three or none. Each must be callable by any thread, and
 * must not wait nor call duet. */
typedef struct duet_allocator {
    void *ctx;
    /* size is never 0; aligned for every type, as malloc(). NULL: no memory. */
    void *(*alloc)(void *ctx, size_t size);
    void *(*resize)(void *ctx, void *block, size_t size); /* as realloc(); block may be NULL */
    void (*free)(void *ctx, void *block); /* never NULL */
} duet_allocator;
/* [any] From here on duet allocates with these, copied; NULL: with the C library's again. All but
 * stacks, which are mapped, the kernel's rings, and what pthreads and the C library need
 * themselves. After duet_shutdown() the few hundred bytes of the process's own pools stay, so that
 * late calls can be refused. 0; -EINVAL; -EBUSY: duet has allocated before. Call it before the
 * first other function. */
DUET_API int duet_allocator_set(const duet_allocator *allocator);

/* [any] How many processors this process may use: by its affinity and its cgroup's quota; at least
 * 1. That many loops keep all of them busy. It reads files: keep the number. */
DUET_API unsigned duet_cpu_count(void);

static inline duet_result duet_ok(void)
{
    duet_result r = {0, DUET_VOID, {0}};
    return r;
}
static inline duet_result duet_err(int err)
{
    duet_result r = {err, DUET_VOID, {0}};
    return r;
}
static inline duet_result duet_i64(int64_t value)
{
    duet_result r = {0, DUET_I64, {0}};
    r.as.i64 = value;
    return r;
}
static inline duet_result duet_f64(double value)
{
    duet_result r = {0, DUET_F64, {0}};
    r.as.f64 = value;
    return r;
}
static inline duet_result duet_ptr(void *value)
{
    duet_result r = {0, DUET_PTR, {0}};
    r.as.ptr = value;
    return r;
}

#ifdef __cplusplus
}
#endif
