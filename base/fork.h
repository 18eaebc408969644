/* Which process this is. After fork() the child has a copy of the parent's memory but none of its
 * threads: what another thread had locked there stays locked, what it would settle stays pending.
 * So what belongs to a process carries its number, and is left alone in another; and what is the
 * whole process's is set up anew in the child. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Changed in the child alone, before fork() returns there. */
extern uint32_t duet__process;

/* Does this belong to the parent? */
static inline bool duet__is_foreign(uint32_t process)
{
    return __builtin_expect(process != duet__process, 0);
}

/* Has reset() run in every child, on its one thread, before fork() returns there. Without the
 * memory to remember that, a child must not use duet; nothing can be told at this point. */
#define DUET__IN_CHILD(reset)                                                                      \
    __attribute__((constructor)) static void watch_forks(void)                                     \
    {                                                                                              \
        pthread_atfork(NULL, NULL, reset);                                                         \
    }
