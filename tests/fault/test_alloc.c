/* Every allocation and every system call that can fail does, once and for good, in every function
 * that makes one: an error is returned, nothing leaks, and the next call works.
 *
 * The calls are wrapped by the linker (-Wl,--wrap): the n-th fails, for n from 0 until none is
 * left. */
#include "block.h"
#include "duet_test.h"

#include <liburing.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

static atomic_int countdown = -1; /* how many calls succeed before one fails; < 0: all do */
static atomic_bool for_good; /* … and all after it */
static atomic_int failures, live_blocks;

static bool fails_now(void)
{
    int left = atomic_load(&countdown);
    while (left >= 0) {
        int next = left > 0 ? left - 1 : atomic_load(&for_good) ? 0 : -1;
        if (atomic_compare_exchange_weak(&countdown, &left, next)) {
            if (left > 0)
                return false;
            atomic_fetch_add(&failures, 1);
            return true;
        }
    }
    return false;
}

#define WRAP(type, name, parameters, arguments, error, result)                                     \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (fails_now()) {                                                                         \
            errno = error;                                                                         \
            return result;                                                                         \
        }                                                                                          \
        type made = __real_##name arguments;                                                       \
        return made;                                                                               \
    }

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    if (fails_now()) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = __real_malloc(size);
    live_blocks += block != NULL;
    return block;
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    if (fails_now()) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = __real_calloc(count, size);
    live_blocks += block != NULL;
    return block;
}

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size)
{
    if (fails_now()) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = __real_realloc(old, size);
    live_blocks += block != NULL && old == NULL;
    return block;
}

int __real_posix_memalign(void **ret, size_t alignment, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size)
{
    if (fails_now())
        return ENOMEM;
    int rc = __real_posix_memalign(ret, alignment, size);
    live_blocks += rc == 0;
    return rc;
}

char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
    if (fails_now()) {
        errno = ENOMEM;
        return NULL;
    }
    char *block = __real_strdup(text);
    live_blocks += block != NULL;
    return block;
}

void __real_free(void *block);
void __wrap_free(void *block);
void __wrap_free(void *block)
{
    live_blocks -= block != NULL;
    __real_free(block);
}

WRAP(int, eventfd, (unsigned count, int flags), (count, flags), EMFILE, -1)
WRAP(int, epoll_create1, (int flags), (flags), EMFILE, -1)
WRAP(int, timerfd_create, (int clock, int flags), (clock, flags), EMFILE, -1)
WRAP(int, io_uring_register_eventfd, (struct io_uring * ring, int fd), (ring, fd), ENOMEM, -ENOMEM)
WRAP(void *, mmap64, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset), ENOMEM, MAP_FAILED)

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
    return fails_now() ? EAGAIN : __real_pthread_create(thread, attr, fn, arg);
}

int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params)
{
    return fails_now() ? -ENOMEM : __real_io_uring_queue_init_params(entries, ring, params);
}

/* ---- The loop over n ---- */

static atomic_int drops, drop_results;

static bool is_resource_error(int err)
{
    return err == -ENOMEM || err == -EMFILE || err == -EAGAIN;
}

static void body_must_survive(int (*body)(void), bool permanently)
{
    must_equal(body(), 0); /* once for what is kept: the default pool, buffers of the C library */
    for (int n = 0; n < 2000; n++) {
        int blocks = live_blocks, fds = count_fds(), threads = count_threads();
        failures = 0;
        atomic_store(&for_good, permanently);
        atomic_store(&countdown, n);
        int rc = body();
        atomic_store(&countdown, -1);
        must(rc == 0 || is_resource_error(rc));
        must(rc == 0 || failures > 0);
        must_equal(live_blocks, blocks);
        must_equal(count_fds(), fds);
        await_threads(threads);
        if (failures == 0) {
            must(n > 0);
            return;
        }
    }
    must(false); /* it ends without a failure at last */
}

static void survives(int (*body)(void))
{
    log_capture();
    body_must_survive(body, false);
    body_must_survive(body, true);
    log_release();
}

/* ---- Bodies: 0, or the error that some function returned ---- */

static duet_result spawn_some(void *arg)
{
    const duet_opts opts = {.name = "child", .drop = count_drop};
    duet_future *fs[40];
    int err = 0;
    (void)arg;
    drops = 0;
    for (int i = 0; i < 40; i++)
        fs[i] = duet_spawn_with(return_ok, &drops, &opts);
    must_equal(duet_gather(fs, 40, SURELY, NULL), 0);
    for (int i = 0; i < 40; i++) {
        if (duet_future_result(fs[i]).err < 0)
            err = duet_future_result(fs[i]).err;
        duet_future_unref(fs[i]);
    }
    must_equal(drops, 40); /* whether it ran or not */
    return err ? duet_err(err) : duet_ok();
}

static int run_and_spawn(void)
{
    duet_result r = duet_ok();
    int rc = duet_run(spawn_some, NULL, &r);
    return rc < 0 ? rc : r.err;
}

static void a_loop_and_its_coroutines(void **state)
{
    (void)state;
    survives(run_and_spawn);
}

static int start_and_call(void)
{
    duet_loop *loop = NULL;
    duet_result r = duet_ok();
    const duet_opts opts = {.name = "call", .drop = count_drop};
    const duet_loop_config config = {.name = "a loop with a name of its own"};
    int rc = duet_loop_start(&loop, &config);
    if (rc < 0) {
        must(loop == NULL);
        return rc;
    }
    drops = 0;
    must_equal(duet_call_with(loop, return_ok, &drops, &opts, SURELY, &r), 0);
    must_equal(drops, 1);
    int err = r.err;
    duet_future *f = duet_call_at(loop, DUET_NOW, count_drop, &drops);
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    must_equal(drops, 1 + (r.err == 0));
    err = err ? err : r.err;
    duet_future_unref(f);
    rc = duet_call_soon(loop, count_drop, &drops);
    err = err ? err : rc;
    must_equal(duet_loop_close(loop, SURELY), 0);
    return err;
}

static void a_loop_on_a_thread_and_calls_to_it(void **state)
{
    (void)state;
    survives(start_and_call);
}

static void free_block(void *block)
{
    drop_results++;
    free(block);
}

static duet_result make_block(void *arg)
{
    (void)arg;
    void *block = malloc(10);
    return block ? duet_ptr(block) : duet_err(-ENOMEM);
}

static int pool_and_jobs(void)
{
    duet_pool *pool = NULL;
    const duet_pool_config config = {.name = "fault", .workers_max = 3};
    const duet_opts opts = {.name = "job", .drop = count_drop, .drop_result = free_block};
    int rc = duet_pool_open(&pool, &config);
    if (rc < 0) {
        must(pool == NULL);
        return rc;
    }
    duet_future *fs[20];
    int err = 0;
    drops = 0;
    for (int i = 0; i < 20; i++)
        fs[i] = duet_pool_submit_with(pool, make_block, &drops, &opts);
    rc = duet_future_wait_many(fs, 20, DUET_UNTIL_FAILURE, SURELY, NULL);
    must(rc == 0 || rc == -ENOMEM);
    must_equal(duet_gather(fs, 20, SURELY, NULL), 0);
    for (int i = 0; i < 20; i++) {
        err = err ? err : duet_future_result(fs[i]).err;
        duet_future_unref(fs[i]);
    }
    must_equal(drops, 20);
    must_equal(duet_pool_close(pool, SURELY), 0);
    return rc < 0 ? rc : err;
}

static void a_pool_and_its_jobs(void **state)
{
    (void)state;
    survives(pool_and_jobs);
}

static int promises_and_callbacks(void)
{
    duet_future *f = NULL;
    duet_loop *loop = NULL;
    const duet_opts opts = {.name = "a promise"};
    int rc = duet_future_open_with(&f, &opts);
    if (rc < 0)
        return rc;
    rc = duet_loop_start(&loop, NULL);
    if (rc == 0) {
        drops = 0;
        rc = duet_future_then(f, loop, count_drop, &drops, NULL);
        int rc2 = duet_future_then(f, loop, count_drop, &drops, NULL);
        must_equal(duet_future_settle(f, duet_ok()), 0);
        must_equal(duet_loop_close(loop, SURELY), 0);
        must_equal(drops, (rc == 0) + (rc2 == 0));
        rc = rc < 0 ? rc : rc2;
    }
    duet_future_unref(f);
    return rc;
}

static void promises_with_callbacks(void **state)
{
    (void)state;
    survives(promises_and_callbacks);
}

/* ---- Contexts, hooks, guests ---- */

static atomic_int told; /* spawned, less those that settled */

static void tell_begin(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    (void)event;
    told++;
}

static void tell_end(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    (void)event;
    told--;
}

static const duet_hooks hooks = {
    .spawned = tell_begin, .job_queued = tell_begin, .settled = tell_end};
static const duet_key key = {.name = "block", .drop = free_block};

/* Whatever fails, each value is dropped once, and each work that was told of settles once. */
static int work_in_contexts(void)
{
    duet_loop *loop = NULL;
    duet_pool *pool = NULL;
    duet_result r = duet_ok(), s = duet_ok();
    int err = 0, rc = duet_loop_start(&loop, &(duet_loop_config){.name = "told", .hooks = &hooks});
    if (rc < 0)
        return rc;
    rc = duet_pool_open(&pool, &(duet_pool_config){.name = "told", .hooks = &hooks});
    void *block = rc == 0 ? malloc(10) : NULL;
    err = rc < 0 ? rc : block ? duet_context_set(&key, block) : -ENOMEM;
    if (err < 0)
        free(block);
    if (pool) {
        rc = duet_call(loop, return_ok, NULL, SURELY, &r);
        must(rc == 0);
        must_equal(duet_offload(pool, return_ok, NULL, SURELY, &s), 0);
        must_equal(duet_pool_close(pool, SURELY), 0);
        err = err ? err : r.err ? r.err : s.err;
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_context_set(&key, NULL), 0); /* the only one: its removal cannot fail */
    must_equal(told, 0);
    return err;
}

static void contexts_and_hooks(void **state)
{
    (void)state;
    survives(work_in_contexts);
}

static int turn_until_ended(duet_loop *loop, int fd, duet_future *f)
{
    int rc;
    while ((rc = duet_loop_turn(loop)) >= 0) {
        if (duet_future_settled(f))
            duet_loop_stop(loop); /* it may not even have started */
        struct pollfd readable = {fd, POLLIN, 0};
        if (rc == 0)
            must(poll(&readable, 1, 10000) != 0);
    }
    return rc;
}

static duet_result sleep_and_stop(void *loop)
{
    int rc = duet_sleep(duet_ms(1));
    duet_loop_stop(loop);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

static int be_a_guest(void)
{
    duet_loop *loop = NULL;
    int fd = -1, rc = duet_loop_open(&loop, NULL);
    if (rc < 0)
        return rc;
    duet_future *f = duet_submit(loop, sleep_and_stop, loop);
    rc = duet_loop_attach(loop, &fd);
    if (rc == 0)
        must_equal(turn_until_ended(loop, fd, f), -ESHUTDOWN);
    must(duet_future_settled(f));
    int err = rc < 0 ? rc : duet_future_result(f).err;
    duet_future_unref(f);
    must_equal(duet_loop_close(loop, SURELY), 0);
    return err;
}

static void a_guest(void **state)
{
    (void)state;
    survives(be_a_guest);
}

static duet_result group_body(void *arg)
{
    duet_group group = DUET_GROUP_INIT;
    const duet_opts opts = {.name = "member", .drop = count_drop};
    int err = 0;
    duet_result failure;
    (void)arg;
    drops = 0;
    for (int i = 0; i < 10; i++) {
        int rc = duet_group_spawn(&group, NULL, return_ok, &drops, &opts);
        err = err ? err : rc;
    }
    must_equal(duet_group_wait(&group, SURELY, &failure), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(drops, 10);
    err = err ? err : failure.err;
    return err == -ECANCELED ? duet_err(-ENOMEM) : err ? duet_err(err) : duet_ok();
}

static int run_group(void)
{
    duet_result r = duet_ok();
    int rc = duet_run(group_body, NULL, &r);
    return rc < 0 ? rc : r.err;
}

static void a_group(void **state)
{
    (void)state;
    survives(run_group);
}

static duet_result offload_body(void *pool)
{
    duet_result r;
    must_equal(duet_offload(pool, return_arg, pool, SURELY, &r), 0);
    return r;
}

/* On a pool of its own: closing it is what waits until its worker has let go of the job. */
static int run_offload(void)
{
    const duet_pool_config config = {.workers_max = 1};
    duet_result r = duet_ok();
    duet_pool *pool;
    int rc = duet_pool_open(&pool, &config);
    if (rc < 0)
        return rc;
    rc = duet_run(offload_body, pool, &r);
    must_equal(duet_pool_close(pool, SURELY), 0);
    return rc < 0 ? rc : r.err;
}

static void an_offload(void **state)
{
    (void)state;
    survives(run_offload);
}

static void drop_block(void *item)
{
    free(*(void **)item);
}

static int channel_and_select(void)
{
    duet_chan *c = NULL;
    duet_case cases[20];
    int rc = duet_chan_open_with(&c, sizeof(void *), 4, drop_block);
    if (rc < 0) {
        must(c == NULL);
        return rc;
    }
    void *block = malloc(10);
    if (block)
        must_equal(duet_chan_send(c, &block, DUET_NOW), 0);
    for (int i = 0; i < 20; i++) /* too many for the stack */
        cases[i] = duet_case_recv(c, &block);
    rc = duet_select(cases, 20, DUET_NOW);
    if (rc >= 0)
        free(block);
    duet_chan_unref(c); /* drops what nobody has received */
    return rc >= 0 ? 0 : rc == -ETIME ? -ENOMEM : rc;
}

static void a_channel_and_a_select(void **state)
{
    (void)state;
    survives(channel_and_select);
}

enum {
    LONG_TEXT = 400000 /* more than a socket takes at once */
};

static duet_result write_long(void *stream)
{
    static char text[LONG_TEXT];
    int rc = duet_stream_write(stream, text, sizeof text, SURELY);
    if (rc == 0)
        rc = duet_stream_write(stream, "end\n", 4, SURELY);
    int closed = duet_stream_close(stream, SURELY);
    return duet_err(rc ? rc : closed);
}

static duet_result read_long(duet_stream *s)
{
    static char text[LONG_TEXT];
    const char *line;
    ssize_t n = duet_stream_read_exactly(s, text, sizeof text, SURELY);
    if (n == sizeof text)
        n = duet_stream_read_line(s, &line, SURELY);
    duet_stream_close(s, SURELY);
    return n == 4 ? duet_ok() : duet_err(n < 0 ? (int)n : -ENOMEM); /* the other has given up */
}

static duet_result streams_body(void *arg)
{
    int fds[2];
    duet_stream *one, *other;
    (void)arg;
    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    int rc = duet_stream_open(&one, fds[0], NULL);
    if (rc < 0) {
        close(fds[0]);
        close(fds[1]);
        return duet_err(rc);
    }
    rc = duet_stream_open(&other, fds[1], NULL);
    if (rc < 0) {
        close(fds[1]);
        duet_stream_close(one, SURELY);
        return duet_err(rc);
    }
    duet_future *f = duet_spawn(write_long, one);
    duet_result r = duet_ok(), mine = duet_future_settled(f) ? duet_future_result(f) : duet_ok();
    if (mine.err < 0) { /* it never began */
        duet_stream_close(one, SURELY);
        duet_stream_close(other, SURELY);
    } else {
        mine = read_long(other);
        must_equal(duet_future_wait(f, SURELY, &r), 0);
    }
    duet_future_unref(f);
    if (r.err == -EPIPE || r.err == -ECONNRESET) /* the reader has given up */
        r.err = -ENOMEM;
    return duet_err(mine.err ? mine.err : r.err);
}

static int run_streams(void)
{
    duet_result r = duet_ok();
    int rc = duet_run(streams_body, NULL, &r);
    return rc < 0 ? rc : r.err;
}

static void a_pair_of_streams(void **state)
{
    (void)state;
    survives(run_streams);
}

static duet_result echo_line(duet_stream *s, void *arg)
{
    const char *line;
    ssize_t n = duet_stream_read_line(s, &line, SURELY);
    (void)arg;
    return duet_err(n > 0 ? duet_stream_write(s, line, (size_t)n, SURELY) : (int)n);
}

static bool serves;

static duet_result serve(void *server)
{
    serves = true;
    return duet_err(duet_server_serve(server, SURELY));
}

/* 0, or why there is no echo. */
static int get_echo(const char *path)
{
    duet_stream *s;
    const char *line;
    int rc = duet_dial(&s, path, NULL, SURELY);
    if (rc < 0)
        return rc;
    rc = duet_stream_write(s, "echo\n", 5, SURELY);
    ssize_t n = rc < 0 ? rc : duet_stream_read_line(s, &line, SURELY);
    duet_stream_close(s, SURELY);
    return n == 5 ? 0 : -ENOMEM; /* the server has let go of the connection */
}

static duet_result server_body(void *arg)
{
    char path[64];
    duet_server *server;
    (void)arg;
    snprintf(path, sizeof path, "unix:/tmp/duet-fault-%d", (int)getpid());
    const duet_server_config config = {.host = path, .handler = echo_line};
    int rc = duet_server_open(&server, &config);
    if (rc < 0)
        return duet_err(rc);
    serves = false;
    duet_future *f = duet_spawn(serve, server);
    duet_result r = duet_ok();
    while (!serves && !duet_future_settled(f))
        duet_yield();
    if (!serves) /* it could not begin */
        r = duet_future_result(f);
    else
        rc = get_echo(path);
    must_equal(duet_server_close(server, SURELY), 0);
    if (r.err == 0)
        must_equal(duet_future_wait(f, SURELY, &r), 0);
    duet_future_unref(f);
    return duet_err(rc ? rc : r.err);
}

static int run_server(void)
{
    duet_result r = duet_ok();
    int rc = duet_run(server_body, NULL, &r);
    return rc < 0 ? rc : r.err;
}

static void a_server_and_its_client(void **state)
{
    (void)state;
    survives(run_server);
}

int main(void)
{
    duet__blocks_keep = false; /* so that each is seen */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loop_and_its_coroutines),
        cmocka_unit_test(a_loop_on_a_thread_and_calls_to_it),
        cmocka_unit_test(a_pool_and_its_jobs),
        cmocka_unit_test(promises_with_callbacks),
        cmocka_unit_test(contexts_and_hooks),
        cmocka_unit_test(a_guest),
        cmocka_unit_test(a_group),
        cmocka_unit_test(an_offload),
        cmocka_unit_test(a_channel_and_a_select),
        cmocka_unit_test(a_pair_of_streams),
        cmocka_unit_test(a_server_and_its_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
