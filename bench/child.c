/* Starts a program and tells, when it has ended, what it took:
 *
 *   bench-child DESCRIPTOR PROGRAM [ARGUMENT…]
 *
 * writes processor time, peak memory and wait status to that descriptor. run.py cannot do so itself: the kernel counts
 * the memory of who starts a program as the program's, up to its exec, and this process is as small as they get. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t start(char **command)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(command[0], command);
        perror(command[0]);
        _exit(127);
    }
    return pid;
}

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

int main(int argc, char **argv)
{
    struct rusage usage;
    int status, fd = argc > 2 ? atoi(argv[1]) : -1;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "bench-child DESCRIPTOR PROGRAM [ARGUMENT…]\n");
        return 2;
    }
    pid_t pid = start(argv + 2);
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid) {
        perror("bench-child");
        return 1;
    }
    dprintf(fd, "%.6f %ld %d\n", seconds(&usage.ru_utime) + seconds(&usage.ru_stime),
            usage.ru_maxrss, status);
    return 0;
}
