#include "bias.h"
#include "clock.h"
#include "fork.h"
#include "membarrier.h"
#include "park.h"
#include "thread.h"

enum {
    FAVOURED_AFTER = 64, /* a turn's worth: then an end of the favour is cheap by comparison */
    LOOK_AGAIN_NS = 50000,
};

#ifndef DUET_MODEL
_Thread_local uint32_t duet__bias_number = UINT32_MAX;

/* The child's one thread has another. */
static void reset(void)
{
    duet__bias_number = UINT32_MAX;
}
DUET__IN_CHILD(reset)

static uint32_t number(void)
{
    return duet__bias_number = (uint32_t)duet__thread_number();
}
#else /* the model's threads are none of the process */
uint32_t duet__bias_me(void)
{
    return (uint32_t)(uintptr_t)duet__here();
}
#define number duet__bias_me
#endif

/* Under the lock. */
static void count(struct duet__bias *bias)
{
    uint32_t me = number();
    bias->streak = bias->last == me ? bias->streak + 1 : 1;
    bias->last = me;
    if (bias->streak >= FAVOURED_AFTER && duet__heavy_barrier_works())
        duet__store_relaxed(&bias->favoured, me);
}

/* Under the lock. The favoured thread is a few instructions from leaving, or about to find that it
 * is favoured no more. If it was stopped there, we look again later rather than have it ask each
 * time whether somebody sleeps. */
static void end_favour(struct duet__bias *bias)
{
    bias->is_shared = true;
    duet__store_relaxed(&bias->favoured, 0);
    duet__heavy_barrier(); /* pairs with the light one in duet__bias_lock() */
    uint32_t inside;
    /* Acquires what it did inside. Pairs with the releases in duet__bias_lock() and _unlock(). */
    while ((inside = duet__load_acquire(&bias->inside)) != 0)
        duet__futex_wait(&bias->inside, inside, duet__clock_ns() + LOOK_AGAIN_NS);
}

void duet__bias_lock_slow(struct duet__bias *bias)
{
    duet__lock(&bias->lock);
    if (bias->is_shared)
        return;
    if (duet__load_relaxed(&bias->favoured) != 0) /* another: else we were in already */
        end_favour(bias);
    else
        count(bias);
}
