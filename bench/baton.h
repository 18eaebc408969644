/* One word that one thread hands to another: the least that two threads need to take turns. Who
 * waits looks a while, and then sleeps: half as long after each look that was in vain, in full
 * again after a sleep so short that a look had been better, and not at all on the processor on
 * which the other ran last, where a look would only keep the other from running. */
#pragma once
#include "bench.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BATON_NONE,
    BATON_GIVEN,
    BATON_SLEEPS, /* the taker does, or is about to */
    BATON_LOOKS = 300, /* the most: about one wake-up across processors */
    BATON_SHORT_NS = 20000,
};

struct baton {
    _Alignas(64) uint32_t word;
    int event_fd; /* what the taker sleeps in, as a loop does; -1: in a futex on the word */
    int looks, looks_most;
    int giver_cpu; /* where the last one was given */
};

/* Takes turns by a futex; the taker looks so often at most. */
static inline struct baton baton_make(int looks_most)
{
    return (struct baton){
        .event_fd = -1, .looks = looks_most, .looks_most = looks_most, .giver_cpu = -1};
}

static inline void bench_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Where there is only one processor, to look is to keep the other from running. */
static inline int baton_looks(bool spins)
{
    cpu_set_t set;
    need(sched_getaffinity(0, sizeof set, &set) == 0, "sched_getaffinity");
    return spins && CPU_COUNT(&set) > 1 ? BATON_LOOKS : 0;
}

static inline void baton_wake(struct baton *baton)
{
    const uint64_t one = 1;
    if (baton->event_fd >= 0)
        need(write(baton->event_fd, &one, sizeof one) == sizeof one, "write");
    else
        syscall(SYS_futex, &baton->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* What was written before is the taker's to read. */
static inline void baton_give(struct baton *baton)
{
    __atomic_store_n(&baton->giver_cpu, sched_getcpu(), __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&baton->word, BATON_GIVEN, __ATOMIC_RELEASE) == BATON_SLEEPS)
        baton_wake(baton);
}

static inline bool baton_given(struct baton *baton)
{
    return __atomic_load_n(&baton->word, __ATOMIC_ACQUIRE) == BATON_GIVEN;
}

static inline void baton_sleep(struct baton *baton)
{
    uint64_t count;
    if (baton->event_fd >= 0)
        need(read(baton->event_fd, &count, sizeof count) == sizeof count, "read");
    else
        syscall(SYS_futex, &baton->word, FUTEX_WAIT_PRIVATE, BATON_SLEEPS, NULL, NULL, 0);
}

static inline bool baton_look(struct baton *baton)
{
    if (__atomic_load_n(&baton->giver_cpu, __ATOMIC_RELAXED) == sched_getcpu())
        return false;
    for (int i = 0; i < baton->looks; i++) {
        if (baton_given(baton))
            return true;
        bench_relax();
    }
    baton->looks /= 2;
    return false;
}

static inline void baton_wait(struct baton *baton)
{
    uint32_t none = BATON_NONE;
    int64_t start_ns = bench_now_ns();
    if (__atomic_compare_exchange_n(&baton->word, &none, BATON_SLEEPS, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        while (!baton_given(baton))
            baton_sleep(baton);
    if (bench_now_ns() - start_ns < BATON_SHORT_NS)
        baton->looks = baton->looks_most;
}

static inline void baton_take(struct baton *baton)
{
    if (!baton_look(baton) && !baton_given(baton))
        baton_wait(baton);
    __atomic_store_n(&baton->word, BATON_NONE, __ATOMIC_RELAXED); /* until the next is asked for */
}
