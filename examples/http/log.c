/* The access log. Lines go through a channel to a job that writes them: if standard error blocks, lines
 * are lost, and counted, but nobody waits. */
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LINES_MAX = 4096,
    BUFFER = 16384
};

struct log {
    duet_chan *lines; /* of char *, which the channel owns */
    duet_future *writer;
};

static void drop_line(void *item)
{
    free(*(char **)item);
}

static void write_out(const char *text, size_t n)
{
    while (n > 0 && !duet_cancelled()) {
        ssize_t written = write(STDERR_FILENO, text, n);
        if (written < 0 && errno != EINTR)
            return;
        if (written > 0) {
            text += written;
            n -= (size_t)written;
        }
    }
}

/* The job: gathers what there is, and writes when there is no more. */
static duet_result write_lines(void *arg)
{
    duet_chan *lines = arg;
    char *line, buffer[BUFFER];
    size_t used = 0;
    for (;;) {
        int rc = duet_chan_recv(lines, &line, used > 0 ? DUET_NOW : DUET_NEVER);
        size_t n = rc == 0 ? strlen(line) : 0;
        if (rc < 0 || used + n > sizeof buffer) {
            write_out(buffer, used);
            used = 0;
        }
        if (rc < 0 && rc != -ETIME)
            return duet_ok(); /* shut, and all is written; or cancelled */
        if (rc == 0) {
            memcpy(buffer + used, line, n); /* a line is much shorter than the buffer */
            used += n;
            free(line);
        }
    }
}

static void unref_lines(void *arg)
{
    duet_chan_unref(arg);
}

int log_open(struct log **ret)
{
    const duet_opts opts = {.name = "access log", .drop = unref_lines, .flags = DUET_INTERRUPT};
    struct log *log = calloc(1, sizeof *log);
    if (!log)
        return -ENOMEM;
    int rc = duet_chan_open_with(&log->lines, sizeof(char *), LINES_MAX, drop_line);
    if (rc < 0) {
        free(log);
        return rc;
    }
    /* A reference of its own: the job may outlive the log, if it is stuck. */
    log->writer =
        duet_pool_submit_with(duet_pool_default(), write_lines, duet_chan_ref(log->lines), &opts);
    *ret = log;
    return 0;
}

bool log_line(struct log *log, char *line)
{
    if (duet_chan_send(log->lines, &line, DUET_NOW) == 0)
        return true;
    free(line);
    return false;
}

void log_close(struct log *log)
{
    const int64_t second = 1000000000;
    duet_chan_shut(log->lines);
    duet_future_end(log->writer, duet_ns(second), second, NULL);
    duet_chan_unref(log->lines);
    free(log);
}
