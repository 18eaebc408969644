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
static _Thread_local bool inside;

struct log_call {
    const duet_context *context;
    enum duet_level level;
    char line[512];
};

/* Adds what the context shows. */
static void add_context(struct log_call *call)
{
    size_t length = strlen(call->line);
    duet__context_suffix(call->context, call->line + length, sizeof call->line - length);
}

static void call_log_fn(void *arg)
{
    struct log_call *call = arg;
    log_fn(log_ctx, call->level, call->line);
}

static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
    inside = false;
}
DUET__IN_CHILD(reset)

/* A line that a show function or the log function itself causes has no context. */
static void log_line(duet_context *context, struct log_call *call)
{
    if (inside) {
        to_stderr(NULL, call->level, call->line);
        return;
    }
    inside = true;
    call->context = context;
    if (call->context)
        add_context(call);
    duet__lock(&lock);
    if (call->level >= log_from)
        duet__call_bare_in((duet_context *)call->context, call_log_fn, call);
    duet__unlock(&lock);
    inside = false;
}

void duet__log_in(duet_context *context, enum duet_level level, const char *format, ...)
{
    int saved_errno = errno;
    struct log_call call = {.level = level};
    va_list args;
    va_start(args, format);
    vsnprintf(call.line, sizeof call.line, format, args);
    va_end(args);
    log_line(context, &call);
    errno = saved_errno;
}

void duet__log(enum duet_level level, const char *format, ...)
{
    int saved_errno = errno;
    struct log_call call = {.level = level};
    va_list args;
    va_start(args, format);
    vsnprintf(call.line, sizeof call.line, format, args);
    va_end(args);
    log_line(duet__here()->context, &call);
    errno = saved_errno;
}

void duet_log_set(duet_log_fn *fn, void *ctx, enum duet_level from)
{
    bool nested = inside; /* from within the function: the lock is ours already */
    if (!nested)
        duet__lock(&lock);
    log_fn = fn ? fn : to_stderr;
    log_ctx = fn ? ctx : NULL;
    log_from = from;
    if (!nested)
        duet__unlock(&lock);
}
