/* duet/hooks.h: to be told what loops and pools do, as it happens.
 *
 * A table of functions is given with the configuration of a loop or pool. Where none is given,
 * each place that would call one costs a branch that is never taken.
 *
 *     static void on_settled(void *ctx, const duet_work_event *e)
 *     {
 *         printf("%s: %d after %ld ns\n", e->name, e->result.err,
 *                (long)(e->now_ns - e->spawned_ns));
 *     }
 *     static const duet_hooks hooks = {.settled = on_settled};
 *     const duet_loop_config config = {.hooks = &hooks};
 *
 * (Without a line of code: DUET_TRACE=file.json in the environment records all of it.)
 *
 * THE STORY OF A WORK. A coroutine, or a callback at a moment: spawned, then steps, then settled.
 * A job: job_queued, job_began, steps, job_ended, settled (its first step begins with job_began,
 * its last ends with job_ended). A step is a stretch in which it runs; it ends (step_ended) where
 * the work waits, yields or has come to its end, and if it waits, parked follows at once. What is
 * refused, or cancelled before it starts, is spawned (or job_queued) and settled, with nothing in
 * between. So each work that was spawned or queued settles exactly once. What could not even be
 * made (no memory for it, bad arguments) is never told of; nor are bare callbacks of
 * duet_call_soon() and duet_future_then(), which are no works.
 *
 * spawned and job_queued are called by the thread that submits, before the work can run; settled
 * by the thread that settles it, before anybody sees the result: so who has waited for a work
 * finds that its hooks have run. All others are called by the loop's thread, or by the thread that
 * runs the job. The calls of one work are never at the same time, and in this order; those of
 * different works may be.
 *
 * A hook is a bare callback: a wait in it that cannot be answered at once is -EDEADLK. It may
 * spawn and submit (and then is told of that, too; such works have no parent). Of the context
 * (duet/context.h) it sees the work's.
 *
 * Good to know: a wait that fails at once lets others run, which shows as a step that ends as at a
 * yield. A job is told as queued before its submitter waits for room. A job that runs in its
 * submitter's thread is within a step of that. */
#pragma once
#include <duet/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a hook is told. Valid during the call, with all it points to. Moments are nanoseconds on
 * CLOCK_MONOTONIC, as of duet_now_ns(). */
typedef struct duet_work_event {
    uint64_t id; /* of the work, from 1; given once in a process */
    const char *kind; /* "coroutine", "callback" or "job" */
    const char *name; /* duet_opts.name; else made of kind and id: "coroutine-7" */
    const char *place; /* the name of its loop or pool */
    uint64_t parent; /* the id of the work that started it; 0: something that has none did */
    int64_t now_ns;
    int64_t spawned_ns; /* when it was spawned or queued */
    /* When the event before this one of the same work was, or this one, if it is the first. So for
     * step_ended, when the step began; for step_began, since when it had been queued, waited or
     * stood aside (a job: when it began). */
    int64_t since_ns;
    /* In step_began: what made it ready: the work that started it, settled what it waited for, or
     * handed it over, or cancelled it; by 0 and by_ns not 0: something without an id did (a plain
     * thread, a bare callback, a loop without hooks). by_ns 0: nobody did (its moment came, the
     * kernel answered, it had only yielded): how long it then stood ready cannot be told from how
     * long it waited. by_ns is taken by who does it, and may be a little earlier than spawned_ns
     * or since_ns. by_thread is the kernel's number of the thread (gettid). */
    uint64_t by;
    int64_t by_ns;
    int32_t by_thread;
    /* About how many works stand ready in that loop, or queued in that pool; in settled, at the
     * event before. */
    size_t queued;
    /* In settled: what it came to. A look: a DUET_PTR in it is not the hook's. */
    duet_result result;
    /* A word of this table's with this work: zero when it is spawned, then what the table's hooks
     * have left there. What it points to is theirs to free, in settled at the latest. */
    uintptr_t *slot;
    const void *wait; /* duet's */
} duet_work_event;

typedef void duet_hook(void *ctx, const duet_work_event *event);

/* Copied when the loop or pool is opened, with all that follow by next; NULL is no hook. ctx and
 * the functions must be there until the loop or pool was closed and its last work has settled. */
typedef struct duet_hooks {
    void *ctx;
    duet_hook *spawned; /* a coroutine, or a callback at a moment */
    duet_hook *step_began;
    duet_hook *step_ended;
    duet_hook *parked; /* it waits; for what: duet_work_event_waits_for() */
    duet_hook *settled; /* a coroutine, callback or job */
    duet_hook *job_queued;
    duet_hook *job_began;
    duet_hook *job_ended;
    /* Further tables, called after this one; at most 8 in all, more is -EINVAL. */
    const struct duet_hooks *next;
    uintptr_t reserved[4]; /* zero */
} duet_hooks;

/* [any] In parked: what the work waits for, "coroutine 'fetch'", "job 'fetch' (pool db)" or "a
 * moment (duet_sleep)"; written to buf, which is returned. In any other hook: "nothing". */
DUET_API const char *duet_work_event_waits_for(const duet_work_event *event, char *buf,
                                               size_t size);

#ifdef __cplusplus
}
#endif
