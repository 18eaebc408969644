#include "kernel.h"
#include "clock.h"
#include "cpu.h"
#include "futex.h"
#include "membarrier.h"
#include "model.h"
#include "thread.h"

#include <limits.h>
#include <string.h>

struct model_kernel model_kernel;

enum {
    SLEEPERS = 8
};
static struct sleeper {
    const void *word;
    bool used, woken;
    int64_t by_ns;
} sleepers[SLEEPERS];
static uint64_t point_word;

void model_kernel_reset(void)
{
    model_kernel = (struct model_kernel){.lose_futex_wake = model_kernel.lose_futex_wake,
                                         .lose_signal = model_kernel.lose_signal,
                                         .lose_barrier = model_kernel.lose_barrier,
                                         .has_no_barrier = model_kernel.has_no_barrier};
    memset(sleepers, 0, sizeof sleepers);
}

void model_kernel_point(void)
{
    model_load(&point_word, sizeof point_word, MODEL_RELAXED);
}

int32_t duet__thread_number(void)
{
    return 1; /* no model has hooks */
}

unsigned duet__thread_count(void)
{
    return UINT_MAX; /* the model's threads are none of the process */
}

int64_t duet__clock_ns(void)
{
    return model_kernel.now_ns;
}

bool duet__heavy_barrier_works(void)
{
    return !model_kernel.has_no_barrier;
}

void duet__heavy_barrier(void)
{
    if (!model_kernel.lose_barrier)
        model_barrier();
}

int duet__cpu_count(void)
{
    return 1; /* no spinning: it only hides what the models are for */
}

void duet__cpu_refresh(void)
{
}

static bool is_woken(void *arg)
{
    return ((struct sleeper *)arg)->woken;
}

/* The kernel compares and falls asleep in one step, as far as wake-ups of this word are concerned.
 */
void duet__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t by_ns)
{
    model_kernel_point();
    if (model_newest(word, sizeof *word) != seen)
        return;
    struct sleeper *sleeper = sleepers;
    while (sleeper->used)
        sleeper++;
    *sleeper = (struct sleeper){word, true, false, by_ns};
    if (by_ns != DUET__NEVER && model_choose(2) == 1) {
        if (model_kernel.now_ns < by_ns)
            model_kernel.now_ns = by_ns; /* the deadline passes first */
    } else {
        model_block(is_woken, sleeper);
    }
    sleeper->used = false;
}

bool model_kernel_pass_time(void)
{
    struct sleeper *first = NULL;
    for (struct sleeper *s = sleepers; s < sleepers + SLEEPERS; s++)
        if (s->used && !s->woken && s->by_ns != DUET__NEVER && (!first || s->by_ns < first->by_ns))
            first = s;
    if (!first)
        return false;
    if (model_kernel.now_ns < first->by_ns)
        model_kernel.now_ns = first->by_ns;
    first->woken = true;
    return true;
}

/* An address: the memory may be gone. */
void duet__futex_wake(_Atomic uint32_t *word)
{
    model_kernel_point();
    if (model_kernel.lose_futex_wake)
        return;
    for (struct sleeper *s = sleepers; s < sleepers + SLEEPERS; s++)
        if (s->used && !s->woken && s->word == (const void *)word) {
            s->woken = true;
            return;
        }
}
