/* base/atomic.h under DUET_MODEL. Broken variants of the memory orders are made here, so the
 * sources have none: each MODEL_WEAK_* is set by a test around a check. */
#pragma once
#include "model.h"

/* True while a check of that broken variant runs: the order named is taken for relaxed. */
struct model_weak {
    bool cas_release, cas_acq_rel, exchange_acquire, load_acquire, store_release, cas_acquire,
        exchange_release, or_release, and_release;
    bool lose_or; /* an `or` only reads */
};
extern struct model_weak model_weak;

#define MODEL_ORDER(name, order) (model_weak.name ? MODEL_RELAXED : (order))

/* The type of the value, without _Atomic. */
#define MODEL_TYPE(p) __typeof__(((void)0, *(p)))

#define duet__load_relaxed(p) ((MODEL_TYPE(p))model_load(p, sizeof *(p), MODEL_RELAXED))
#define duet__load_acquire(p)                                                                      \
    ((MODEL_TYPE(p))model_load(p, sizeof *(p), MODEL_ORDER(load_acquire, MODEL_ACQUIRE)))
#define duet__store_relaxed(p, v) model_store(p, sizeof *(p), (uint64_t)(v), MODEL_RELAXED)
#define duet__store_release(p, v)                                                                  \
    model_store(p, sizeof *(p), (uint64_t)(v), MODEL_ORDER(store_release, MODEL_RELEASE))
#define MODEL_RMW(p, op, v, order)                                                                 \
    ((MODEL_TYPE(p))model_rmw(p, sizeof *(p), op, (uint64_t)(v), order))
#define duet__exchange_acquire(p, v)                                                               \
    MODEL_RMW(p, MODEL_EXCHANGE, v, MODEL_ORDER(exchange_acquire, MODEL_ACQUIRE))
#define duet__exchange_release(p, v)                                                               \
    MODEL_RMW(p, MODEL_EXCHANGE, v, MODEL_ORDER(exchange_release, MODEL_RELEASE))
#define duet__add_relaxed(p, v) MODEL_RMW(p, MODEL_ADD, v, MODEL_RELAXED)
#define duet__add_acquire(p, v) MODEL_RMW(p, MODEL_ADD, v, MODEL_ACQUIRE)
#define duet__sub_relaxed(p, v) MODEL_RMW(p, MODEL_SUB, v, MODEL_RELAXED)
#define duet__sub_acquire(p, v) MODEL_RMW(p, MODEL_SUB, v, MODEL_ACQUIRE)
#define duet__sub_release(p, v) MODEL_RMW(p, MODEL_SUB, v, MODEL_RELEASE)
#define duet__sub_acq_rel(p, v) MODEL_RMW(p, MODEL_SUB, v, MODEL_ACQ_REL)
#define duet__or_relaxed(p, v) MODEL_RMW(p, MODEL_OR, v, MODEL_RELAXED)
#define duet__or_acq_rel(p, v) MODEL_RMW(p, MODEL_OR, model_weak.lose_or ? 0 : (v), MODEL_ACQ_REL)
#define duet__or_release(p, v) MODEL_RMW(p, MODEL_OR, v, MODEL_ORDER(or_release, MODEL_RELEASE))
#define duet__and_release(p, v) MODEL_RMW(p, MODEL_AND, v, MODEL_ORDER(and_release, MODEL_RELEASE))
#define duet__and_acquire(p, v) MODEL_RMW(p, MODEL_AND, v, MODEL_ACQUIRE)
#define duet__cas_relaxed(p, expected, v)                                                          \
    model_cas(p, sizeof *(p), expected, (uint64_t)(v), MODEL_RELAXED)
#define duet__cas_acquire(p, expected, v)                                                          \
    model_cas(p, sizeof *(p), expected, (uint64_t)(v), MODEL_ORDER(cas_acquire, MODEL_ACQUIRE))
#define duet__cas_release(p, expected, v)                                                          \
    model_cas(p, sizeof *(p), expected, (uint64_t)(v), MODEL_ORDER(cas_release, MODEL_RELEASE))
#define duet__cas_acq_rel(p, expected, v)                                                          \
    model_cas(p, sizeof *(p), expected, (uint64_t)(v), MODEL_ORDER(cas_acq_rel, MODEL_ACQ_REL))

/* The model keeps the order of the source. */
#define duet__light_barrier() ((void)0)

/* A plain field that a protocol publishes: read where nothing orders it, it may be old. */
#define duet__plain_read(p)                                                                        \
    ((MODEL_TYPE(p))model_load((const volatile void *)(p), sizeof *(p), MODEL_RELAXED))
#define duet__plain_write(p, v)                                                                    \
    model_store((volatile void *)(p), sizeof *(p), (uint64_t)(v), MODEL_RELAXED)
