/* The switch for every other processor: POSIX's own, ten to a hundred times slower since it also
 * saves the signal mask by system calls. The context lies on the stack that it saves, at `sp`. */
#include "co.h"

#include <stdint.h>
#include <ucontext.h>

struct fresh {
    ucontext_t context;
    void (*entry)(void *arg);
    void *arg;
};

void duet__switch(struct duet__point *from, const struct duet__point *to)
{
    ucontext_t here;
    /* cppcheck-suppress autoVariables; it lives as long as this stack is suspended */
    from->sp = &here;
    swapcontext(&here, to->sp);
}

/* makecontext() passes ints only: the pointer comes in halves. */
static void enter(unsigned high_half, unsigned low_half)
{
    struct fresh *fresh = (struct fresh *)(((uintptr_t)high_half << 16 << 16) | low_half);
    fresh->entry(fresh->arg);
}

struct duet__point duet__switch_prepare(char *low, char *high, void (*entry)(void *arg), void *arg)
{
    uintptr_t place = ((uintptr_t)high - sizeof(struct fresh)) & ~(uintptr_t)63;
    struct fresh *fresh = (struct fresh *)place;
    fresh->entry = entry;
    fresh->arg = arg;
    getcontext(&fresh->context);
    fresh->context.uc_link = NULL;
    fresh->context.uc_stack.ss_sp = low;
    fresh->context.uc_stack.ss_size = place - (uintptr_t)low;
    makecontext(&fresh->context, (void (*)(void))enter, 2, (unsigned)(place >> 16 >> 16),
                (unsigned)place);
    return (struct duet__point){&fresh->context, NULL, NULL};
}
