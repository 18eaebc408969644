/* Atomics with the memory order in the name, never implied.
 *
 * Under DUET_MODEL the same operations belong to the model checker in tests/model: there every one
 * is a point where threads may interleave and where a weak load may see an old value, so that what
 * is checked is the shipped source and not a transcription of it. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef DUET_MODEL
#include "model_atomic.h"
#else

#define duet__load_relaxed(p) atomic_load_explicit(p, memory_order_relaxed)
#define duet__load_acquire(p) atomic_load_explicit(p, memory_order_acquire)
#define duet__store_relaxed(p, v) atomic_store_explicit(p, v, memory_order_relaxed)
#define duet__store_release(p, v) atomic_store_explicit(p, v, memory_order_release)
#define duet__exchange_acquire(p, v) atomic_exchange_explicit(p, v, memory_order_acquire)
#define duet__exchange_acq_rel(p, v) atomic_exchange_explicit(p, v, memory_order_acq_rel)
#define duet__exchange_release(p, v) atomic_exchange_explicit(p, v, memory_order_release)
#define duet__add_relaxed(p, v) atomic_fetch_add_explicit(p, v, memory_order_relaxed)
#define duet__add_acquire(p, v) atomic_fetch_add_explicit(p, v, memory_order_acquire)
#define duet__add_acq_rel(p, v) atomic_fetch_add_explicit(p, v, memory_order_acq_rel)
#define duet__sub_relaxed(p, v) atomic_fetch_sub_explicit(p, v, memory_order_relaxed)
#define duet__sub_acquire(p, v) atomic_fetch_sub_explicit(p, v, memory_order_acquire)
#define duet__sub_release(p, v) atomic_fetch_sub_explicit(p, v, memory_order_release)
#define duet__sub_acq_rel(p, v) atomic_fetch_sub_explicit(p, v, memory_order_acq_rel)
#define duet__or_relaxed(p, v) atomic_fetch_or_explicit(p, v, memory_order_relaxed)
#define duet__or_acq_rel(p, v) atomic_fetch_or_explicit(p, v, memory_order_acq_rel)
#define duet__or_release(p, v) atomic_fetch_or_explicit(p, v, memory_order_release)
#define duet__and_release(p, v) atomic_fetch_and_explicit(p, v, memory_order_release)
#define duet__and_acquire(p, v) atomic_fetch_and_explicit(p, v, memory_order_acquire)

/* Compare and swap: on failure *expected is what was there, read relaxed. */
#define duet__cas_relaxed(p, expected, v)                                                          \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_relaxed,                  \
                                            memory_order_relaxed)
#define duet__cas_acquire(p, expected, v)                                                          \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_acquire,                  \
                                            memory_order_relaxed)
#define duet__cas_release(p, expected, v)                                                          \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_release,                  \
                                            memory_order_relaxed)
#define duet__cas_acq_rel(p, expected, v)                                                          \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_acq_rel,                  \
                                            memory_order_relaxed)

/* What comes before it in the source, and what comes after, keep that order in the program: half of
 * base/membarrier.h. */
#define duet__light_barrier() atomic_signal_fence(memory_order_seq_cst)

/* A field that is plain in the program but that a protocol publishes: the model checks that a
 * reader sees the value it must. */
#define duet__plain_read(p) (*(p))
#define duet__plain_write(p, v) (*(p) = (v))

#endif
