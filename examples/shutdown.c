/* Out on time, whatever runs: one call ends all loops and pools by one deadline, and hands back what
 * it had to leave.
 *
 * Four pieces of work: one ends by itself, one blocks in a read that can be interrupted, one
 * coroutine ignores its cancellation, and one job is stuck where nobody can reach it. */
#include "say.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
    DEADLINE_MS = 600
};

/* Ends by itself, in good time: nobody cancels it. */
static duet_result short_work(void *arg)
{
    (void)arg;
    int rc = duet_sleep(duet_ms(100));
    say("%s", rc == 0 ? "ends by itself" : "is cancelled");
    return duet_err(rc);
}

/* Blocks in the kernel, for ever: DUET_INTERRUPT breaks it. */
static duet_result blocked_read(void *arg)
{
    char byte;
    ssize_t n = read(*(int *)arg, &byte, 1);
    say("its read ends: %s; cancelled: %s", n < 0 ? strerror(errno) : "data",
        duet_cancelled() ? "yes" : "no");
    return duet_err(-ECANCELED);
}

/* Shields all that it does, and so never hears of its cancellation. */
static duet_result deaf(void *arg)
{
    (void)arg;
    duet_shield_begin();
    return duet_err(duet_sleep(DUET_NEVER));
}

/* Waits for a condition that nobody signals: no signal ends that, and it asks for none. */
static duet_result stuck_job(void *arg)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    (void)arg;
    pthread_mutex_lock(&mutex);
    for (;;)
        pthread_cond_wait(&cond, &mutex);
    return duet_ok();
}

static void quiet(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line; /* the same as in the receipt */
}

int main(void)
{
    const duet_pool_config config = {.name = "files"};
    const duet_opts short_opts = {.name = "short"}, deaf_opts = {.name = "deaf"};
    const duet_opts read_opts = {.name = "reader", .flags = DUET_INTERRUPT};
    const duet_opts stuck_opts = {.name = "stuck"};
    int ends[2];
    duet_loop *loop;
    duet_pool *pool;
    duet_receipt *receipt;
    say_begin();
    duet_log_set(quiet, NULL, DUET_WARNING);
    need(pipe(ends), "pipe");
    need(duet_loop_start(&loop, NULL), "loop");
    need(duet_pool_open(&pool, &config), "pool");
    duet_future_unref(duet_submit_with(loop, short_work, NULL, &short_opts));
    duet_future_unref(duet_submit_with(loop, deaf, NULL, &deaf_opts));
    duet_future_unref(duet_pool_submit_with(pool, blocked_read, &ends[0], &read_opts));
    duet_future_unref(duet_pool_submit_with(pool, stuck_job, NULL, &stuck_opts));

    say("all is to end within %d ms", DEADLINE_MS);
    int64_t start_ns = duet_now_ns();
    int rc = duet_shutdown(duet_ms(DEADLINE_MS), &receipt);
    say("after %.1f s: %s", (double)(duet_now_ns() - start_ns) / 1e9,
        rc == 0 ? "nothing is left" : "left behind:");
    for (size_t i = 0; receipt && i < receipt->count; i++) {
        const duet_left *left = &receipt->left[i];
        say("  %s '%s' on %s, for %.1f s; it waits for %s", left->kind, left->name, left->place,
            (double)left->age_ns / 1e9, left->waits_for);
    }
    duet_receipt_free(receipt);
    return rc == -ETIME ? 0 : 1;
}
