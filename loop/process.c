/* Waiting for a child: a descriptor of the process becomes readable at its end. */
#include "check.h"
#include "io.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int collect(pid_t pid, int *status)
{
    int errno_before = errno;
    pid_t rc;
    do
        rc = waitpid(pid, status, WNOHANG);
    while (rc < 0 && errno == EINTR);
    return rc == 0 ? 1 : rc > 0 ? 0 : (int)duet__io_plain(rc, errno_before);
}

int duet_waitpid(pid_t pid, int *status, duet_deadline by)
{
    if (pid <= 0)
        return duet__bad_argument(__func__, "pid is that of one child, above 0");
    siginfo_t info;
    int errno_before = errno;
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0) /* is it ours? */
        return (int)duet__io_plain(-1, errno_before);
    int fd = (int)duet__io_plain(syscall(SYS_pidfd_open, pid, 0), errno_before);
    if (fd < 0)
        return fd == -ESRCH ? -ECHILD : fd;
    int rc = duet_poll(fd, POLLIN, by);
    if (rc > 0)
        rc = collect(pid, status);
    close(fd);
    return rc > 0 ? -ECHILD : rc; /* it has ended, but not to us: it is no child of ours */
}
