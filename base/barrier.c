#include "barrier.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_barrier;

static bool membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) == 0;
}

/* Before the first thread, so that it is cheap and nobody asks earlier; a child has it, too. */
__attribute__((constructor)) static void register_process(void)
{
    has_barrier = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

bool duet__has_barrier(void)
{
    return has_barrier;
}

bool duet__barrier_all(void)
{
    return membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}
