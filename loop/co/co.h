/* The context switch: one stack is left, another goes on. Knows nobody: no loop, no task.
 *
 * The switch itself is one method a file: switch_x86_64, switch_aarch64, switch_ucontext. It keeps
 * the registers that the ABI calls callee-saved; the floating-point control words (MXCSR, x87, FPCR)
 * belong to the thread, so whoever changes them restores them before suspending. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define DUET__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DUET__ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define DUET__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DUET__TSAN 1
#endif
#endif

#ifdef DUET__ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef DUET__TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* Where a suspended stack goes on; a debugger that sets these three registers walks it. */
struct duet__point {
    void *sp, *fp, *pc;
};

enum {
    DUET__GUARD_SIZE = 64 * 1024
};

/* Owned by whoever embeds it: a stack, or a thread that switches away from its own. */
struct duet__co {
    struct duet__point at; /* while suspended */
    char *low; /* where the usable stack ends */
    const char *name; /* whose work runs on it, for the overflow message; NULL: nobody's */
    unsigned size_kib : 31; /* what was asked for, likewise */
    unsigned guarded : 1; /* what lies DUET__GUARD_SIZE below low faults */
    unsigned valgrind_id;
#ifdef DUET__ASAN
    char *high; /* where it begins */
    void *fake_stack;
    void (*entry)(void *arg);
    void *arg;
#endif
#ifdef DUET__TSAN
    void *fiber;
#endif
};

/* Prepares [low, high) so that the first switch to it calls entry(arg), which must never return.
 * The memory stays the caller's. */
void duet__co_init(struct duet__co *co, char *low, char *high, void (*entry)(void *arg), void *arg);
/* Stands for the calling thread's own stack, until duet__co_release() on the same thread. */
void duet__co_adopt(struct duet__co *co);
void duet__co_release(void);
/* Forgets it; never the one that runs, nor an adopted one. */
void duet__co_fini(struct duet__co *co);
/* What runs on this thread, for the overflow handler; NULL before the first switch. */
extern _Thread_local struct duet__co *duet__co_running;

/* ---- Inside: the method ---- */

/* duet__switch(from, to) leaves this stack, with where it goes on in *from, and goes on at *to. */
#if defined(DUET__SWITCH_X86_64)
#include "switch_x86_64.h"
#elif defined(DUET__SWITCH_AARCH64)
#include "switch_aarch64.h"
#else
void duet__switch(struct duet__point *from, const struct duet__point *to);
#endif
/* Builds on top of a fresh stack what duet__switch() goes on with: entry(arg). */
struct duet__point duet__switch_prepare(char *low, char *high, void (*entry)(void *arg), void *arg);

/* ---- The switch, and what surrounds it: the sanitizers are told which stack runs ---- */

/* Suspends `from`, which runs, and lets `to` go on; returns when somebody switches back. errno is
 * the thread's: who wants it kept saves it. */
static inline void duet__co_switch(struct duet__co *from, struct duet__co *to)
{
    duet__co_running = to;
#ifdef DUET__ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->low, (size_t)(to->high - to->low));
#endif
#ifdef DUET__TSAN
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    duet__switch(&from->at, &to->at);
#ifdef DUET__ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}
