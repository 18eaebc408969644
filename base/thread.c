#include "thread.h"
#include "fork.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* main() has ended by pthread_exit(): until the process ends its thread stays, as a zombie. */
static bool main_has_ended(void)
{
    char line[64] = ""; /* "123 (name, of 15 bytes) Z …" */
    /* The C library's functions are cancellation points, and our caller has a lock. */
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC);
    long n = fd < 0 ? -1 : syscall(SYS_read, fd, line, sizeof line - 1);
    if (fd >= 0)
        syscall(SYS_close, fd);
    const char *name_end = n > 0 ? strrchr(line, ')') : NULL;
    return name_end && name_end[1] == ' ' && name_end[2] == 'Z';
}

unsigned duet__thread_count(void)
{
    struct stat task; /* a directory for each, beside . and .. */
    int saved_errno = errno;
    bool known = stat("/proc/self/task", &task) == 0 && task.st_nlink > 2;
    unsigned count = known ? (unsigned)task.st_nlink - 2 - main_has_ended() : UINT_MAX;
    errno = saved_errno;
    return count;
}

int32_t duet__thread_number(void)
{
    static _Thread_local int32_t number;
    static _Thread_local uint32_t process; /* after a fork, the child's one thread has another */
    if (number == 0 || duet__is_foreign(process)) {
        number = gettid();
        process = duet__process;
    }
    return number;
}

static void signals_to_block(sigset_t *set)
{
    static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPROF};
    sigfillset(set);
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++)
        sigdelset(set, open[i]);
}

int duet__thread_start(pthread_t *ret, const char *name, size_t stack_size, void *(*fn)(void *arg),
                       void *arg)
{
    sigset_t blocked, before;
    pthread_attr_t attr;
    char kept[16];
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return -rc;
    if (stack_size)
        rc = pthread_attr_setstacksize(&attr, stack_size);
    if (rc == 0) {
        signals_to_block(&blocked);
        pthread_sigmask(SIG_SETMASK, &blocked, &before); /* the new thread inherits it */
        rc = pthread_create(ret, &attr, fn, arg);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attr);
    if (rc == 0 && name) {
        snprintf(kept, sizeof kept, "%.15s", name);
        pthread_setname_np(*ret, kept);
    }
    return -rc;
}
