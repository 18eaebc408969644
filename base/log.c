#include "log.h"
#include "context.h"
#include "fork.h"
#include "lock.h"
#include "park.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void to_stderr(void *ctx, enum duet_level level, const char *line)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    char text[600];
    (void)ctx;
    int n = snprintf(text, sizeof text, "duet: %s: %s\n", names[level], line);
    if (n >= (int)sizeof text) {
        n = (int)sizeof text - 1;
        text[n - 1] = '\n';
    }
    /* One write a line, so that lines of several threads do not mix. A log that cannot be written
     * has nowhere to say so. */
    if (syscall(SYS_write, STDERR_FILENO, text, (size_t)n) < 0) /* write() can be cancelled */
        return;
}

/* Held over a call of the user's function: that is what makes "never two at once" and "not running
 * any more when duet_log_set() returns" true. So this is the one lock that user code runs under:
 * nobody may log while holding another. A line that the function itself causes goes to standard
 * error. */
static struct duet__lock lock;
static duet_log_fn *log_fn = to_stderr;
static void *log_ctx;
static enum duet_level log_from = DUET_WARNING;
static _Thread_local bool inside; /* writes a line */
static _Thread_local bool holds_lock; /* for that */

struct log_call {
    enum duet_level level;
    char line[512];
};

static void call_log_fn(void *arg)
{
    struct log_call *call = arg;
    log_fn(log_ctx, call->level, call->line);
}

static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
    inside = holds_lock = false;
}
DUET__IN_CHILD(reset)

/* A line that a show function or the log function itself causes has no context. */
__attribute__((format(printf, 3, 0))) static void
write_line(duet_context *context, enum duet_level level, const char *format, va_list args)
{
    int saved_errno = errno;
    struct log_call call = {.level = level};
    vsnprintf(call.line, sizeof call.line, format, args);
    if (inside) {
        to_stderr(NULL, level, call.line);
    } else {
        size_t length = strlen(call.line);
        inside = true;
        duet__context_suffix(context, call.line + length, sizeof call.line - length);
        duet__lock(&lock);
        holds_lock = true;
        if (level >= log_from)
            duet__call_bare_in(context, call_log_fn, &call);
        holds_lock = false;
        duet__unlock(&lock);
        inside = false;
    }
    errno = saved_errno;
}

void duet__log_in(duet_context *context, enum duet_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_line(context, level, format, args);
    va_end(args);
}

void duet__log(enum duet_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_line(duet__here()->context, level, format, args);
    va_end(args);
}

void duet_log_set(duet_log_fn *fn, void *ctx, enum duet_level from)
{
    bool nested = holds_lock; /* from within the function: the lock is ours already */
    if (!nested)
        duet__lock(&lock);
    log_fn = fn ? fn : to_stderr;
    log_ctx = fn ? ctx : NULL;
    log_from = from;
    if (!nested)
        duet__unlock(&lock);
}
