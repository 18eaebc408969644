/* A small model checker for lock-free C code: it runs the shipped sources.
 *
 * The sources are compiled with DUET_MODEL, which turns every operation of base/atomic.h into a
 * call here. The threads of the model are coroutines on one real thread; each operation is a point
 * where any other may run first, and where a load that is not ordered enough may see an old value.
 * All such executions are tried, depth first, up to a bound on deviations: each preemption of a
 * thread that could have gone on, and each old value read, costs one.
 *
 * MEMORY. Each word has the history of its values; each thread has a view: the oldest value of each
 * word that it may still see. A store appends; a releasing one carries the thread's view; an
 * acquiring load takes on the view that the value carries; a read-modify-write reads the newest
 * value and carries on the view of what it read (a release sequence). That is the release/acquire
 * and relaxed fragment of C11, but for values written out of order of execution, and for a
 * compare-and-swap that fails on an old value. (After J. Kang et al., "A promising semantics for
 * relaxed-memory concurrency", POPL 2017, without promises.)
 *
 * FREED MEMORY is a range that no operation may touch from then on. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_order {
    MODEL_RELAXED,
    MODEL_ACQUIRE,
    MODEL_RELEASE,
    MODEL_ACQ_REL
};

/* ---- For the sources, through model_atomic.h ---- */

enum model_rmw {
    MODEL_EXCHANGE,
    MODEL_ADD,
    MODEL_SUB,
    MODEL_OR,
    MODEL_AND
};

uint64_t model_load(const volatile void *word, size_t size, enum model_order order);
void model_store(volatile void *word, size_t size, uint64_t value, enum model_order order);
uint64_t model_rmw(volatile void *word, size_t size, enum model_rmw op, uint64_t value,
                   enum model_order order);
bool model_cas(volatile void *word, size_t size, void *expected, uint64_t value,
               enum model_order order);
/* A full barrier on all threads at once (membarrier): all that any of them has done before is seen
 * by all of them after. */
void model_barrier(void);

/* ---- For the models ---- */

/* One of 0…n-1; every one is tried. Each but 0 costs one deviation. */
int model_choose(int n);
/* The thread cannot go on before ready(arg) holds. All threads blocked is a failure: a lost
 * wake-up. */
void model_block(bool (*ready)(void *arg), void *arg);
/* The newest value, as the kernel sees it. */
uint64_t model_newest(const volatile void *word, size_t size);
void model_free(void *memory, size_t size);
void model_touch(const void *memory); /* fails if it was freed */
void model_fail(const char *why);
#define model_assert(condition)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            model_fail("not true: " #condition);                                                   \
    } while (0)

/* In setup: one more thread. `context` is restored whenever it runs: see model_current_context().
 */
void model_spawn(void (*fn)(void *arg), void *arg, void *context);
/* Called by the checker whenever a thread goes on. */
extern void (*model_on_switch)(void *context);

/* Called when all threads are blocked: lets time pass. False: nothing comes of it. */
extern bool (*model_on_idle)(void);

enum model_expectation {
    MODEL_HOLDS,
    MODEL_FAILS
};
/* Runs every execution within `bound` deviations: setup(), the threads, finally(). Prints one line.
 * 0: as expected. A broken variant must fail; else the model could not have found that fault. */
int model_check(const char *name, int bound, void (*setup)(void), void (*finally)(void),
                enum model_expectation expectation);
