#include "fork.h"

uint32_t duet__process;

static void next_process(void)
{
    duet__process++;
}

DUET__IN_CHILD(next_process)
