/* What base.h says of duet_allocator_set(): all memory of duet's own comes from the program's allocator
 * and goes back to it. A program of its own, since that is set before anything else: in main().
 *
 * If the linker wraps malloc and its kin (-Wl,--wrap=malloc,…, as for tests/fault/test_alloc.c), it is
 * seen, too, that duet calls none of them. */
#include "duet_test.h"
#include "shared.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdalign.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- The C library's, called by nobody but the allocator below ---- */

static atomic_int direct_calls; /* of malloc() and its kin, by duet or this program */

__attribute__((weak)) void *__real_malloc(size_t size);
__attribute__((weak)) void *__real_calloc(size_t count, size_t size);
__attribute__((weak)) void *__real_realloc(void *block, size_t size);
__attribute__((weak)) int __real_posix_memalign(void **ret, size_t alignment, size_t size);
__attribute__((weak)) char *__real_strdup(const char *text);
__attribute__((weak)) void __real_free(void *block);

void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    direct_calls++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    direct_calls++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size)
{
    direct_calls++;
    return __real_realloc(block, size);
}

int __wrap_posix_memalign(void **ret, size_t alignment, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size)
{
    direct_calls++;
    return __real_posix_memalign(ret, alignment, size);
}

char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
    direct_calls++;
    return __real_strdup(text);
}

void __wrap_free(void *block);
void __wrap_free(void *block)
{
    direct_calls++;
    __real_free(block);
}

static bool is_wrapped(void)
{
    return __real_malloc != NULL;
}

static void *libc_alloc(size_t size)
{
    return is_wrapped() ? __real_malloc(size) : malloc(size);
}

static void libc_free(void *block)
{
    if (is_wrapped())
        __real_free(block);
    else
        free(block);
}

/* ---- An allocator that counts, and fails when it is told to ---- */

enum {
    LIVE = 0x600d,
    DEAD = 0xdead
};

struct block {
    alignas(max_align_t) struct heap *heap;
    size_t size;
    int mark;
};

static struct heap {
    atomic_long live, made;
    atomic_int left; /* how many more succeed before one fails; < 0: all do */
    atomic_bool for_good; /* … and all after it */
    atomic_int failures;
} heap = {.left = -1};

static _Atomic(duet_group *) cancelled_by_alloc; /* the next allocation cancels it */

static bool fails_now(void)
{
    int left = atomic_load(&heap.left);
    while (left >= 0) {
        int next = left > 0 ? left - 1 : atomic_load(&heap.for_good) ? 0 : -1;
        if (atomic_compare_exchange_weak(&heap.left, &left, next)) {
            atomic_fetch_add(&heap.failures, left == 0);
            return left == 0;
        }
    }
    return false;
}

static void *heap_alloc(void *ctx, size_t size)
{
    must(ctx == &heap);
    must(size > 0);
    duet_group *group = atomic_exchange(&cancelled_by_alloc, NULL);
    if (group)
        duet_group_cancel(group);
    if (fails_now())
        return NULL;
    struct block *block = libc_alloc(sizeof *block + size);
    must(block != NULL);
    *block = (struct block){.heap = ctx, .size = size, .mark = LIVE};
    memset(block + 1, 0xa5, size); /* nobody may count on zeroes */
    atomic_fetch_add(&heap.live, 1);
    atomic_fetch_add(&heap.made, 1);
    return block + 1;
}

/* The block that lies around this memory, which must be one that was given and not taken back. */
static struct block *block_of(void *memory)
{
    must(memory != NULL);
    struct block *block = (struct block *)memory - 1;
    must(block->heap == &heap);
    must_equal(block->mark, LIVE);
    return block;
}

static void heap_free(void *ctx, void *memory)
{
    must(ctx == &heap);
    struct block *block = block_of(memory);
    memset(memory, 0x5a, block->size);
    block->mark = DEAD;
    atomic_fetch_sub(&heap.live, 1);
    libc_free(block);
}

/* Moves it always. */
static void *heap_resize(void *ctx, void *memory, size_t size)
{
    size_t old = memory ? block_of(memory)->size : 0;
    void *moved = heap_alloc(ctx, size);
    if (moved && memory) {
        memcpy(moved, memory, old < size ? old : size);
        heap_free(ctx, memory);
    }
    return moved;
}

static duet_allocator table_of_heap(void)
{
    return (duet_allocator){&heap, heap_alloc, heap_resize, heap_free};
}

static void fail_after(int n, bool for_good)
{
    heap.failures = 0;
    atomic_store(&heap.for_good, for_good);
    atomic_store(&heap.left, n);
}

static int fail_no_more(void)
{
    atomic_store(&heap.left, -1);
    return heap.failures;
}

/* Until no more blocks are live than before: what was left behind ends on its own. */
static void await_live(long before)
{
    int64_t by = SURELY.ns;
    while (atomic_load(&heap.live) > before) {
        if (duet_now_ns() > by)
            fprintf(stderr, "%ld blocks are live\n", atomic_load(&heap.live));
        must(duet_now_ns() < by);
        sched_yield();
    }
    must_equal(heap.live, before);
}

/* ---- A bit of everything. With duet's own pools: what those keep after their end, so that who still
 * has a pointer to one is refused, is not what these tests are about. ---- */

static duet_result sum_of_stack(void *arg)
{
    char buf[1000];
    memset(buf, 1, sizeof buf);
    int rc = duet_yield();
    return rc < 0 ? duet_err(rc) : duet_i64(buf[*(int *)arg]);
}

static void use_coroutines(void)
{
    enum {
        MANY = 200
    };
    static const duet_opts opts = {.name = "a name that is copied", .stack_size = 32 * 1024};
    duet_future *fs[MANY];
    size_t index;
    int at = 7;
    for (int i = 0; i < MANY; i++)
        fs[i] = duet_spawn_with(sum_of_stack, &at, i % 2 == 0 ? &opts : NULL);
    must_equal(duet_future_wait_many(fs, MANY, DUET_UNTIL_ANY, SURELY, &index), 0);
    must_equal(duet_gather(fs, MANY, SURELY, NULL), 0);
    for (int i = 0; i < MANY; i++)
        duet_future_unref(fs[i]);
}

static atomic_int drops;
static const duet_key keys[12]; /* some with nothing to drop … */
static const duet_key dropped_key = {.drop = count_drop}; /* … and one that has */

static void use_context(void)
{
    for (size_t i = 0; i < COUNT(keys); i++)
        must_equal(duet_context_set(&keys[i], &drops), 0);
    must_equal(duet_context_set(&dropped_key, &drops), 0);
    duet_context *kept = duet_context_ref_here();
    must_equal(finish(duet_spawn(return_ok, NULL)).err, 0);
    must_equal(duet_context_set(&keys[3], NULL), 0);
    duet_context_unref(kept);
}

static void use_group(duet_loop *other)
{
    duet_group group = DUET_GROUP_INIT;
    int at = 3;
    for (int i = 0; i < 20; i++)
        must_equal(duet_group_spawn(&group, i % 2 == 0 ? NULL : other, sum_of_stack, &at, NULL), 0);
    (void)duet_group_add(&group, duet_spawn(sleep_long, NULL));
    must_equal(duet_group_wait(&group, duet_ms(1), NULL), -ETIME);
    must_equal(duet_group_close(&group), 0);
}

static duet_result send_some(void *chan)
{
    for (int i = 0; i < 50; i++)
        must_equal(duet_chan_send(chan, &i, SURELY), 0);
    return duet_ok();
}

static void drop_item(void *item)
{
    (void)item;
}

static void use_channels(void)
{
    duet_chan *buffered, *direct;
    int item;
    must_equal(duet_chan_open_with(&buffered, sizeof item, 1000, drop_item), 0);
    must_equal(duet_chan_open(&direct, sizeof item, 0), 0);
    must_equal(send_some(buffered).err, 0); /* which nobody receives */
    duet_future *sender = duet_spawn(send_some, direct);
    for (int i = 0; i < 50; i++) {
        duet_case cases[20] = {duet_case_recv(direct, &item)};
        must_equal(duet_select(cases, COUNT(cases), SURELY), 0);
        must_equal(item, i);
    }
    must_equal(finish(sender).err, 0);
    duet_chan_unref(direct);
    duet_chan_unref(buffered);
}

static void settle_it(void *promise)
{
    settle(promise);
}

static void use_callbacks(duet_loop *loop)
{
    duet_future *soon = open_promise(), *then = open_promise();
    must_equal(duet_call_soon(loop, settle_it, soon), 0);
    must_equal(duet_future_then(soon, loop, settle_it, then, NULL), 0);
    must_equal(finish(then).err, 0);
    must_equal(finish(duet_call_at(loop, duet_ms(1), drop_item, NULL)).err, 0);
    duet_future *never = duet_call_at(loop, SURELY, drop_item, NULL);
    must_equal(duet_future_close(never, NULL), 0);
    must_equal(finish(soon).err, 0);
}

static void use_pools(void)
{
    duet_pool_config config = {.name = "of its own", .workers_min = 1, .workers_max = 3};
    duet_pool *pool;
    duet_future *fs[50];
    duet_result r;
    must_equal(duet_pool_open(&pool, &config), 0);
    for (size_t i = 0; i < COUNT(fs); i++)
        fs[i] = duet_pool_submit(pool, return_ok, NULL);
    must_equal(duet_gather(fs, COUNT(fs), SURELY, NULL), 0);
    for (size_t i = 0; i < COUNT(fs); i++)
        duet_future_unref(fs[i]);
    must_equal(duet_offload(pool, return_ok, NULL, SURELY, &r), 0);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    close_pool(pool);
}

/* A pool that a shutdown leaves behind, and lists, and a loop that ends in time. */
static void use_receipts(struct gate *gate)
{
    duet_pool *pool = open_pool(1);
    duet_receipt *receipt = NULL;
    duet_future *f = duet_pool_submit(pool, gate_pass_job, gate);
    gate_await_arrivals(gate, 1);
    must_equal(duet_pool_shutdown(pool, DUET_NOW, &receipt), -ETIME);
    must(receipt != NULL);
    must_equal(receipt->count, 1);
    duet_receipt_free(receipt);
    gate_open(gate);
    must_equal(finish(f).err, 0);
    must_equal(duet_loop_shutdown(start_loop(), SURELY, &receipt), 0);
    duet_receipt_free(receipt);
}

static duet_result write_lines(void *stream)
{
    char line[1000];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 200; i++) /* more than write_high, so that it is kept and waits */
        must_equal(duet_stream_write(stream, line, sizeof line, SURELY), 0);
    return duet_err(duet_stream_finish(stream, SURELY));
}

static void read_lines(duet_stream *stream)
{
    const char *line;
    for (int i = 0; i < 200; i++)
        must_equal(duet_stream_read_line(stream, &line, SURELY), 1000);
    must_equal(duet_stream_read_line(stream, &line, SURELY), 0);
}

static void use_streams(void)
{
    duet_stream *streams[2];
    int fds[2];
    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    must_equal(duet_stream_open(&streams[0], fds[0], NULL), 0);
    must_equal(duet_stream_open(&streams[1], fds[1], NULL), 0);
    duet_future *writer = duet_spawn(write_lines, streams[0]);
    read_lines(streams[1]);
    must_equal(finish(writer).err, 0);
    must_equal(duet_stream_close(streams[0], SURELY), 0);
    must_equal(duet_stream_close(streams[1], SURELY), 0);
}

static duet_result handle(duet_stream *stream, void *arg)
{
    (void)arg;
    return write_lines(stream);
}

static duet_result serve(void *server)
{
    return duet_err(duet_server_serve(server, SURELY));
}

static void use_servers(const char *host)
{
    duet_server_config config = {.handler = handle};
    struct sockaddr_storage addr;
    duet_server *server;
    duet_stream *stream;
    char port[16];
    must_equal(duet_server_open(&server, &config), 0);
    must_equal(duet_server_address(server, &addr), 0);
    snprintf(port, sizeof port, "%u", ntohs(((struct sockaddr_in *)&addr)->sin_port));
    duet_future *serving = duet_spawn(serve, server);
    for (int i = 0; i < 3; i++) {
        must_equal(duet_dial(&stream, host, port, SURELY), 0);
        read_lines(stream);
        must_equal(duet_stream_close(stream, SURELY), 0);
    }
    duet_server_shut(server);
    must_equal(finish(serving).err, 0);
    must_equal(duet_server_close(server, SURELY), 0);
}

static void use_own_pools(void)
{
    struct addrinfo *found;
    duet_result r;
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    use_servers("localhost");
    must_equal(duet_resolve("localhost", "80", &found, SURELY), 0);
    freeaddrinfo(found); /* the C library's */
}

static void use_signals(void)
{
    int signos[] = {SIGUSR1, SIGUSR2};
    duet_signals *signals;
    must_equal(duet_signals_open(&signals, signos, COUNT(signos)), 0);
    must_equal(kill(getpid(), SIGUSR2), 0);
    must_equal(duet_signals_wait(signals, SURELY), SIGUSR2);
    duet_signals_close(signals);
}

static duet_result wait_for_the_lock(void *mutex)
{
    must_equal(duet_mutex_lock(mutex, SURELY), 0);
    return duet_err(duet_mutex_unlock(mutex));
}

/* With waits that are old enough to be in the graph of waits, and one that is a circle. */
static void use_locks(void)
{
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_pool *pool = open_pool(5);
    duet_future *waiters[20];
    must_equal(duet_mutex_lock(&mutex, SURELY), 0);
    for (size_t i = 0; i < COUNT(waiters); i++)
        waiters[i] = i % 5 == 0 ? duet_pool_submit(pool, wait_for_the_lock, &mutex)
                                : duet_spawn(wait_for_the_lock, &mutex);
    must_equal(duet_sleep(duet_ms(5)), 0);
    must_equal(duet_mutex_lock(&mutex, SURELY), -EDEADLK);
    must_equal(duet_future_wait(waiters[0], duet_sec(1), NULL), -EDEADLK);
    must_equal(duet_mutex_unlock(&mutex), 0);
    for (size_t i = 0; i < COUNT(waiters); i++)
        must_equal(finish(waiters[i]).err, 0);
    close_pool(pool);
}

static void hear_nothing(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    (void)event;
}

static duet_loop *start_loop_with_hooks(void)
{
    const duet_hooks last = {.settled = hear_nothing},
                     first = {.spawned = hear_nothing, .next = &last};
    duet_loop_config config = {.name = "with hooks", .hooks = &first};
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, &config), 0);
    return loop;
}

struct use {
    struct gate gate;
    bool own_pools;
};

static duet_result use_everything(void *arg)
{
    struct use *use = arg;
    duet_loop *other = start_loop_with_hooks();
    use_context();
    use_coroutines();
    use_group(other);
    use_channels();
    use_callbacks(duet_loop_self());
    use_callbacks(other);
    use_pools();
    use_receipts(&use->gate);
    use_streams();
    use_servers("127.0.0.1");
    if (use->own_pools)
        use_own_pools();
    use_signals();
    use_locks();
    duet_future_unref(duet_spawn(fail_eio, NULL)); /* reported, since nobody looks */
    duet_future_unref(duet_submit(other, sleep_long, NULL)); /* cancelled by the close */
    close_loop(other);
    duet_future_unref(duet_spawn(sleep_long, NULL)); /* … by the end of the run */
    return duet_ok();
}

static void run_everything(bool own_pools)
{
    struct use use = {.gate = GATE_INIT, .own_pools = own_pools};
    log_capture();
    must_equal(duet_run(use_everything, &use, NULL), 0);
    log_release();
}

static void shut_all(void)
{
    duet_receipt *receipt = NULL;
    must_equal(duet_shutdown(SURELY, &receipt), 0);
    duet_receipt_free(receipt);
}

/* ---- Setting it: in a child each, which comes before the first use in this process ---- */

static void in_child(void (*body)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        alarm(60);
        body();
        exit(7);
    }
    must(waitpid(child, &status, 0) == child);
    must(WIFEXITED(status));
    must_equal(WEXITSTATUS(status), 7);
}

#define child_test(name)                                                                           \
    static void name##_body(void);                                                                 \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        in_child(name##_body);                                                                     \
    }                                                                                              \
    static void name##_body(void)

child_test(half_a_table_is_einval_and_leaves_what_there_was)
{
    duet_allocator whole = table_of_heap();
    log_capture();
    for (int given = 0; given < 7; given++) { /* each bit is one of the three */
        duet_allocator table = {.ctx = &heap,
                                .alloc = given & 1 ? whole.alloc : NULL,
                                .resize = given & 2 ? whole.resize : NULL,
                                .free = given & 4 ? whole.free : NULL};
        must_equal(duet_allocator_set(&table), -EINVAL);
    }
    must_equal(log_count(""), 7);
    log_release();
    long made = heap.made;
    duet_future_unref(open_promise());
    must(heap.made > made);
}

child_test(null_restores_the_c_librarys)
{
    long made = heap.made;
    must_equal(duet_allocator_set(NULL), 0);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
    must_equal(heap.made, made);
}

child_test(it_may_be_set_again_before_the_first_use)
{
    duet_allocator table = table_of_heap();
    must_equal(duet_allocator_set(NULL), 0);
    must_equal(duet_allocator_set(&table), 0);
    must_equal(duet_allocator_set(&table), 0);
    duet_future *promise = open_promise();
    must(heap.live > 0);
    duet_future_unref(promise);
    must_equal(heap.live, 0);
}

static void *never_alloc(void *ctx, size_t size)
{
    (void)ctx;
    (void)size;
    must(false);
    return NULL;
}

static void *never_resize(void *ctx, void *block, size_t size)
{
    (void)block;
    return never_alloc(ctx, size);
}

static void never_free(void *ctx, void *block)
{
    (void)never_resize(ctx, block, 1);
}

child_test(while_duet_has_memory_it_is_ebusy)
{
    const duet_allocator table = {NULL, never_alloc, never_resize, never_free};
    duet_future *promise = open_promise();
    log_capture();
    must_equal(duet_allocator_set(&table), -EBUSY);
    must_equal(duet_allocator_set(NULL), -EBUSY);
    log_release();
    duet_future_unref(promise);
    must_equal(heap.live, 0);
    run_everything(false); /* all is as it was */
    await_live(0);
}

static long most_at_exit = -1; /* < 0: it is not looked at */

/* After all that was registered for the end of the process. */
__attribute__((destructor(101))) static void check_what_is_left(void)
{
    if (most_at_exit >= 0 && heap.live > most_at_exit) {
        fprintf(stderr, "%ld blocks are left at the end, not %ld\n", (long)heap.live, most_at_exit);
        _exit(3);
    }
}

/* What duet's own pools keep when they have ended. */
static long measure_own_pools(void)
{
    run_everything(true);
    shut_all();
    return heap.live;
}

child_test(at_the_end_of_the_process_all_is_freed)
{
    long kept = measure_own_pools();
    run_everything(true);
    must(duet_pool_default() != NULL);
    most_at_exit = 2 * kept;
}

/* ---- Freeing ---- */

thread_test(everything_is_freed_when_it_was_closed)
{
    for (int i = 0; i < 4; i++) {
        long made = heap.made;
        int dropped = drops;
        run_everything(false);
        must(heap.made > made);
        must_equal(drops, dropped + 1);
        await_live(0);
    }
    shut_all();
    must_equal(heap.live, 0);
}

thread_test(own_pools_keep_no_more_after_much_work_than_after_little)
{
    long before = heap.live, kept = measure_own_pools() - before;
    for (int i = 0; i < 4; i++)
        run_everything(true);
    shut_all();
    await_live(before + 2 * kept);
}

static void set_and_end(void *unused)
{
    (void)unused;
    must_equal(duet_context_set(&keys[0], &drops), 0);
    must_equal(duet_sleep(duet_ms(2)), 0);
    must_equal(duet_run(return_ok, NULL, NULL), 0);
}

thread_test(a_thread_of_the_programs_leaves_nothing)
{
    struct thread thread;
    long before = heap.live;
    thread_start(&thread, set_and_end, NULL);
    thread_join(&thread);
    await_live(before);
}

thread_test(duet_calls_no_malloc_of_its_own)
{
    if (!is_wrapped())
        skip(); /* the linker was not told to */
    int before = direct_calls;
    void *volatile block = malloc(1); /* it would be seen */
    free(block);
    must_equal(direct_calls, before + 2);
    run_everything(true);
    shut_all();
    must_equal(direct_calls, before + 2);
}

/* ---- No memory ---- */

static int open_a_loop(void)
{
    duet_loop_config config = {.name = "named", .inbox_max = 10};
    duet_loop *loop;
    int rc = duet_loop_open(&loop, &config);
    if (rc == 0)
        close_loop(loop);
    return rc;
}

static int start_a_loop(void)
{
    duet_loop *loop;
    int rc = duet_loop_start(&loop, NULL);
    if (rc == 0)
        close_loop(loop);
    return rc;
}

static int open_a_pool(void)
{
    duet_pool_config config = {.name = "named", .workers_min = 2};
    duet_pool *pool;
    int rc = duet_pool_open(&pool, &config);
    if (rc == 0)
        close_pool(pool);
    return rc;
}

static int open_a_promise(void)
{
    duet_future *promise;
    int rc = duet_future_open_with(&promise, &(duet_opts){.name = "named"});
    if (rc == 0)
        duet_future_unref(promise);
    return rc;
}

static int open_a_channel(void)
{
    duet_chan *chan;
    int rc = duet_chan_open(&chan, 100, 100);
    if (rc == 0)
        duet_chan_unref(chan);
    return rc;
}

static int open_signals(void)
{
    duet_signals *signals;
    int rc = duet_signals_open(&signals, (int[]){SIGUSR1}, 1);
    if (rc == 0)
        duet_signals_close(signals);
    return rc;
}

static int run_nothing(void)
{
    duet_result r = duet_ok();
    int rc = duet_run(return_ok, NULL, &r);
    return rc < 0 ? rc : r.err;
}

/* After an error the value is still the caller's. */
static int set_a_value(void)
{
    int before = drops;
    int rc = duet_context_set(&dropped_key, &drops);
    must_equal(drops, before);
    must(duet_context_get(&dropped_key) == (rc < 0 ? NULL : &drops));
    duet_context_unref(duet_context_swap(NULL));
    must_equal(drops, before + (rc == 0));
    return rc;
}

static duet_loop *loop_of_test; /* of the bodies below; opened before */
static duet_pool *pool_of_test;

static int end_of(duet_future *f)
{
    must(f != NULL);
    return finish(f).err;
}

static int submit_a_coroutine(void)
{
    int before = drops;
    const duet_opts opts = {.name = "named", .drop = count_drop};
    int err = end_of(duet_submit_with(loop_of_test, return_ok, &drops, &opts));
    must_equal(drops, before + 1);
    return err;
}

static int submit_a_job(void)
{
    int before = drops;
    const duet_opts opts = {.name = "named", .drop = count_drop};
    int err = end_of(duet_pool_submit_with(pool_of_test, return_ok, &drops, &opts));
    must_equal(drops, before + 1);
    return err;
}

static int call_at_a_moment(void)
{
    return end_of(duet_call_at(loop_of_test, DUET_NOW, drop_item, NULL));
}

static int call_soon(void)
{
    duet_future *done;
    int rc = duet_future_open(&done);
    if (rc < 0)
        return rc;
    rc = duet_call_soon(loop_of_test, settle_it, done);
    if (rc == 0)
        must_equal(duet_future_wait(done, SURELY, NULL), 0);
    duet_future_unref(done);
    return rc;
}

static int add_a_callback(void)
{
    duet_future *first, *done;
    int rc = duet_future_open(&first);
    if (rc < 0)
        return rc;
    rc = duet_future_open(&done);
    if (rc == 0) {
        rc = duet_future_then(first, loop_of_test, settle_it, done, NULL);
        settle(first);
        if (rc == 0)
            must_equal(duet_future_wait(done, SURELY, NULL), 0);
        duet_future_unref(done);
    }
    duet_future_unref(first);
    return rc;
}

static duet_result open_streams(void *unused)
{
    duet_stream *stream;
    int fds[2], rc;
    (void)unused;
    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    rc = duet_stream_open(&stream, fds[0], NULL);
    if (rc < 0) {
        close(fds[0]); /* still the caller's */
    } else {
        rc = duet_stream_write(stream, "hello", 5, SURELY);
        int closed = duet_stream_close(stream, SURELY);
        rc = rc < 0 ? rc : closed;
    }
    close(fds[1]);
    return duet_err(rc);
}

static duet_result open_servers(void *unused)
{
    duet_server_config config = {.handler = handle};
    duet_server *server;
    (void)unused;
    int rc = duet_server_open(&server, &config);
    if (rc == 0)
        rc = duet_server_close(server, SURELY);
    return duet_err(rc);
}

static int run_for(duet_fn *fn)
{
    duet_result r = duet_ok();
    int rc = duet_run(fn, NULL, &r);
    return rc < 0 ? rc : r.err;
}

static int open_a_stream(void)
{
    return run_for(open_streams);
}

static int open_a_server(void)
{
    return run_for(open_servers);
}

/* Everything that is opened, with a name for who reads that it failed. */
static const struct body {
    const char *what;
    int (*run)(void);
} bodies[] = {
    {"duet_loop_open", open_a_loop},
    {"duet_loop_start", start_a_loop},
    {"duet_pool_open", open_a_pool},
    {"duet_future_open_with", open_a_promise},
    {"duet_chan_open", open_a_channel},
    {"duet_signals_open", open_signals},
    {"duet_run", run_nothing},
    {"duet_context_set", set_a_value},
    {"duet_submit_with", submit_a_coroutine},
    {"duet_pool_submit_with", submit_a_job},
    {"duet_call_at", call_at_a_moment},
    {"duet_call_soon", call_soon},
    {"duet_future_then", add_a_callback},
    {"duet_stream_open", open_a_stream},
    {"duet_server_open", open_a_server},
};

static void must_be_answer(const struct body *body, int rc, int expected)
{
    if (rc != expected)
        fprintf(stderr, "%s: %d instead of %d\n", body->what, rc, expected);
    must(rc == expected);
}

/* Each body with a loop and a pool of its own, after which nothing is left. */
static void try_all(void (*attempt)(const struct body *body))
{
    duet_pool_config config = {.workers_min = 1, .workers_max = 1, .idle_ns = -1};
    log_capture();
    for (size_t i = 0; i < COUNT(bodies); i++) {
        long before = heap.live;
        loop_of_test = start_loop();
        must_equal(duet_pool_open(&pool_of_test, &config), 0);
        attempt(&bodies[i]);
        must_be_answer(&bodies[i], bodies[i].run(), 0); /* the next one works */
        close_pool(pool_of_test);
        close_loop(loop_of_test);
        await_live(before);
    }
    log_release();
}

static void try_without_memory(const struct body *body)
{
    fail_after(0, true);
    int rc = body->run();
    must(fail_no_more() > 0);
    must_be_answer(body, rc, -ENOMEM);
}

thread_test(without_memory_everything_is_enomem)
{
    try_all(try_without_memory);
}

static void try_without_each_block(const struct body *body)
{
    int failures = 1;
    for (int n = 0; failures > 0; n++) {
        must(n < 1000);
        fail_after(n, false);
        int rc = body->run();
        failures = fail_no_more();
        must_be_answer(body, rc, failures > 0 && rc < 0 ? -ENOMEM : 0);
    }
}

thread_test(each_block_that_is_missing_is_enomem_or_not_needed)
{
    try_all(try_without_each_block);
}

/* Whoever has the group may cancel a member before its spawn has begun to run it. */
static duet_result spawn_into_a_group_that_is_cancelled(void *arg)
{
    static const duet_opts opts = {.flags = DUET_AT_ONCE, .drop = count_drop};
    duet_group group = DUET_GROUP_INIT;
    int before = drops;
    (void)arg;
    must_equal(duet_group_spawn(&group, NULL, return_ok, NULL, NULL), 0);
    cancelled_by_alloc = &group;
    must_equal(duet_group_spawn(&group, NULL, return_ok, &drops, &opts), 0);
    must_equal(drops, before + 1);
    must_equal(duet_group_close(&group), 0);
    must_equal(drops, before + 1);
    return duet_ok();
}

static void a_member_that_is_cancelled_before_it_runs_at_once_is_dropped_once(void **state)
{
    (void)state;
    must_equal(duet_run(spawn_into_a_group_that_is_cancelled, NULL, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_a_table_is_einval_and_leaves_what_there_was),
        cmocka_unit_test(null_restores_the_c_librarys),
        cmocka_unit_test(it_may_be_set_again_before_the_first_use),
        cmocka_unit_test(while_duet_has_memory_it_is_ebusy),
        cmocka_unit_test(at_the_end_of_the_process_all_is_freed),
        cmocka_unit_test(everything_is_freed_when_it_was_closed),
        cmocka_unit_test(own_pools_keep_no_more_after_much_work_than_after_little),
        cmocka_unit_test(a_thread_of_the_programs_leaves_nothing),
        cmocka_unit_test(duet_calls_no_malloc_of_its_own),
        cmocka_unit_test(without_memory_everything_is_enomem),
        cmocka_unit_test(each_block_that_is_missing_is_enomem_or_not_needed),
        cmocka_unit_test(a_member_that_is_cancelled_before_it_runs_at_once_is_dropped_once),
    };
    duet_allocator table = table_of_heap(); /* it is copied */
    must_equal(duet_allocator_set(&table), 0);
    memset(&table, 0xa5, sizeof table);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
