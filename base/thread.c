#include "thread.h"
#include "fork.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

unsigned duet__thread_count(void)
{
    struct stat task; /* a directory for each, beside . and .. */
    return stat("/proc/self/task", &task) == 0 && task.st_nlink > 2 ? (unsigned)task.st_nlink - 2
                                                                    : UINT_MAX;
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
