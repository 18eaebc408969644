/* The context switch: one stack is left, another goes on. Knows nobody: no loop, no task.
 *
 * The switch itself is one file a method: switch_x86_64.S, switch_aarch64.S, switch_ucontext.c. It
 * keeps the registers that the ABI calls callee-saved; the floating-point control words (MXCSR,
 * x87, FPCR) belong to the thread, so whoever changes them restores them before suspending. */
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

/* Owned by whoever embeds it: a stack, or a thread that switches away from its own. */
struct duet__co {
    void *sp; /* while suspended: its saved registers, on its stack */
    char *low, *high; /* the usable stack */
    char *guard; /* what lies from here to low faults; NULL: no guard */
    size_t size; /* what was asked for, for the overflow message */
    const char *name; /* whose work runs on it, for the overflow message; NULL: nobody's */
#ifdef DUET__ASAN
    void *fake_stack;
    void (*entry)(void *arg);
    void *arg;
#endif
#ifdef DUET__TSAN
    void *fiber;
#endif
    unsigned valgrind_id;
};

/* Prepares [low, high) so that the first switch to it calls entry(arg), which must never return.
 * The memory stays the caller's. */
void duet__co_init(struct duet__co *co, char *low, char *high, void (*entry)(void *arg), void *arg);
/* Stands for the calling thread's own stack, until duet__co_release() on the same thread. */
void duet__co_adopt(struct duet__co *co);
void duet__co_release(void);
/* Forgets it; never the one that runs, nor an adopted one. */
void duet__co_fini(struct duet__co *co);
/* Suspends `from`, which runs, and lets `to` go on; returns when somebody switches back. errno is
 * the thread's: who wants it kept saves it. */
void duet__co_switch(struct duet__co *from, struct duet__co *to);
/* What runs on this thread, for the overflow handler; NULL before the first switch. */
struct duet__co *duet__co_running(void);

/* ---- Inside: the method ---- */

/* Saves registers on the stack, its address in *save, and goes on at `to`. */
void duet__switch(void **save, void *to);
/* Builds on top of a fresh stack what duet__switch() goes on with: entry(arg). */
void *duet__switch_prepare(char *low, char *high, void (*entry)(void *arg), void *arg);
