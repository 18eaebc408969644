/* Waiting for a child: a descriptor of the process becomes readable at its end. */
#include "check.h"
#include "io.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int collect(pid_t pid, int *status)
{
    pid_t rc;
    do
        rc = waitpid(pid, status, WNOHANG);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc == 0;
}

int duet_waitpid(pid_t pid, int *status, duet_deadline by)
{
    if (pid <= 0)
        return duet__bad_argument(__func__, "pid is that of one child, above 0");
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH ? -ECHILD : -errno;
    int rc = duet_poll(fd, POLLIN, by);
    if (rc > 0)
        rc = collect(pid, status);
    close(fd);
    return rc > 0 ? -ECHILD : rc; /* it has ended, but not to us: it is no child of ours */
}
