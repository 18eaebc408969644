#include "membarrier.h"
#include "check.h"
#include "fork.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool works; /* constant once main() runs, and in a child of a fork once that has returned */

static bool membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) == 0;
}

/* Early, because it costs next to nothing as long as the process has one thread, and milliseconds
 * later. */
__attribute__((constructor)) static void enlist(void)
{
    int saved_errno = errno;
    works = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    errno = saved_errno;
}
DUET__IN_CHILD(enlist)

bool duet__heavy_barrier_works(void)
{
    return works;
}

void duet__heavy_barrier(void)
{
    bool passed = membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    duet__check(passed,
                "no seccomp filter that refuses membarrier may be installed while duet is in use");
}
