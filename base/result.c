/* Results, what errors mean, and how a broken rule ends the program. */
#include "check.h"
#include "log.h"

#include <duet/base.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void duet__abort(const char *function, const char *rule)
{
    char line[400];
    int n = snprintf(line, sizeof line, "duet: abort: %s: broken rule: %s\n", function, rule);
    if (n >= (int)sizeof line)
        n = (int)sizeof line - 1;
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        abort();
    abort();
}

int duet__refuse(const char *function, int rc, const char *why)
{
    duet__log(DUET_ERROR, "%s: %s", function, why);
    return rc;
}

int duet__bad_argument(const char *function, const char *why)
{
    return duet__refuse(function, -EINVAL, why);
}

bool duet__reserved_unused(const uintptr_t *reserved, size_t count)
{
    while (count > 0 && reserved[count - 1] == 0)
        count--;
    return count == 0;
}

int64_t duet_as_i64(duet_result r)
{
    duet__check(r.err == 0, "an error has no value: look at the err of a result first");
    duet__check(r.kind == DUET_I64, "only a DUET_I64 result has an int64_t in it");
    return r.as.i64;
}

double duet_as_f64(duet_result r)
{
    duet__check(r.err == 0, "an error has no value: look at the err of a result first");
    duet__check(r.kind == DUET_F64, "only a DUET_F64 result has a double in it");
    return r.as.f64;
}

void *duet_as_ptr(duet_result r)
{
    duet__check(r.err == 0, "an error has no value: look at the err of a result first");
    duet__check(r.kind == DUET_PTR, "only a DUET_PTR result has a pointer in it");
    return r.as.ptr;
}

const char *duet_strerror(int err)
{
    int code = err == INT_MIN ? INT_MAX : abs(err);
    switch (code) {
    case 0:
        return "success";
    case ETIME:
        return "the deadline of this wait passed";
    case ECANCELED:
        return "the work was cancelled";
    case EDEADLK:
        return "this wait could never end: for oneself, in a circle of waits, or in a callback of "
               "the "
               "loop";
    case EOWNERDEAD:
        return "this belongs to the process that forked this one: open a loop or pool here";
    case EBUSY:
        return "a signal is taken: the program has a handler of its own for it";
    case ESHUTDOWN:
        return "the loop or pool accepts no more work: it is stopping or has stopped";
    case EAGAIN:
        return "no room: a queue is full or a limit is reached";
    case EALREADY:
        return "done before: settled or taken by somebody else";
    case ENOMEM:
        return "no memory";
    case EINVAL:
        return "an argument is not usable";
    case ENOTSUP:
        return "not in this version of duet";
    default:
        return strerrordesc_np(code) ? strerrordesc_np(code) : "an unknown error";
    }
}
