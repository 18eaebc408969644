/* What the switches of our own share: how a fresh stack begins. */
#include "co.h"

#include <stdint.h>

void duet__switch_entry(void);

struct duet__point duet__switch_prepare(char *low, char *high, void (*entry)(void *arg), void *arg)
{
    void **top = (void **)((uintptr_t)high & ~(uintptr_t)15) - 2;
    (void)low;
    top[0] = arg;
    top[1] = (void *)(uintptr_t)entry;
    /* No frame pointer: the end of its chain. */
    return (struct duet__point){top, NULL, (void *)(uintptr_t)duet__switch_entry};
}
