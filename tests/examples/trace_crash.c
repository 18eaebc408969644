/* Works on a loop and a pool, and ends as its argument says; trace.py reads what its trace holds then.
 *
 * In every case a coroutine 'before', which yields three times, and a job 'job-before' have ended
 * before it comes to that. Standard output says in lines "WORD NUMBER" what the trace must hold. */
#include <duet/duet.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    YIELDS = 3,
    SPINNERS = 50,
    SPINNER_STEPS = 2000,
    THREADS = 8,
    CALLS = 250
};

static duet_pool *pool;
static duet_event never_set = DUET_EVENT_INIT;
static const char *program;

static void need(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, duet_strerror(rc));
    exit(1);
}

/* So that who reads it sees it before whatever happens next. */
static void tell(const char *word, long number)
{
    printf("%s %ld\n", word, number);
    fflush(stdout);
}

/* ---- What is in every trace ---- */

static duet_result yields(void *arg)
{
    for (int i = 0; i < YIELDS; i++)
        need(duet_yield(), "duet_yield");
    (void)arg;
    return duet_ok();
}

static duet_result nothing(void *arg)
{
    (void)arg;
    return duet_ok();
}

/* A coroutine and a job that have ended when this returns. */
static void leave(const char *coroutine, const char *job)
{
    const duet_opts of_coroutine = {.name = coroutine}, of_job = {.name = job};
    duet_future *f = duet_spawn_with(yields, NULL, &of_coroutine);
    need(duet_future_wait(f, DUET_NEVER, NULL), "duet_future_wait");
    duet_future_unref(f);
    need(duet_offload_with(pool, nothing, NULL, &of_job, DUET_NEVER, NULL), "duet_offload");
}

/* ---- Work that goes on ---- */

static duet_result waits_for_ever(void *arg)
{
    (void)arg;
    int rc = duet_event_wait(&never_set, DUET_NEVER);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

static long busy_steps; /* that have ended; the loop's */

static duet_result busy_coroutine(void *arg)
{
    (void)arg;
    do
        busy_steps++; /* the next one ends by the yield */
    while (duet_yield() == 0);
    return duet_ok();
}

/* Calls coroutines on the loop, again and again: wakes and waits on both sides. */
static duet_result busy_job(void *loop)
{
    const duet_opts called = {.name = "busy-called"};
    duet_result r = duet_ok();
    while (r.err == 0 && duet_call_with(loop, nothing, NULL, &called, DUET_NEVER, &r) == 0) {
    }
    return r;
}

/* Coroutines and jobs that run, and some that wait, when the end comes. */
static void keep_busy(void)
{
    const duet_opts busy = {.name = "busy"};
    duet_future_unref(duet_spawn_with(busy_coroutine, NULL, &busy));
    duet_future_unref(duet_spawn(waits_for_ever, NULL));
    duet_future_unref(duet_pool_submit(pool, busy_job, duet_loop_self()));
    duet_future_unref(duet_pool_submit(pool, waits_for_ever, NULL));
    for (int i = 0; i < 1000; i++)
        need(duet_yield(), "duet_yield");
}

/* ---- The ends ---- */

static void end_by_segv(void)
{
    char *page = mmap(NULL, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    keep_busy();
    tell("busy", busy_steps);
    *(volatile char *)page = 1;
}

/* So deep that the stack ends. */
__attribute__((noinline)) static int fall(volatile int *depth)
{
    volatile char room[512];
    room[0] = (char)++*depth;
    return *depth < 0 ? 0 : fall(depth) + room[0];
}

static duet_result falls(void *arg)
{
    volatile int depth = 0;
    (void)arg;
    return duet_i64(fall(&depth));
}

static void end_by_overflow(void)
{
    const duet_opts named = {.name = "falling"};
    keep_busy();
    duet_future_unref(duet_spawn_with(falls, NULL, &named));
    tell("busy", busy_steps + 1); /* which runs before that one */
    while (duet_yield() == 0) {
    }
}

static void end_by_abort(void)
{
    keep_busy();
    tell("busy", busy_steps);
    abort();
}

/* Which would not happen again by itself. */
static void end_by_trap(void)
{
    keep_busy();
    tell("busy", busy_steps);
    raise(SIGTRAP);
#if defined(__x86_64__)
    __asm__ volatile("int3");
#endif
}

/* Until somebody kills it; says how far it is, but not so often that it mostly does that. */
static void end_by_kill(void)
{
    keep_busy();
    for (long i = 1;; i++) {
        for (int k = 0; k < 1000; k++)
            need(duet_yield(), "duet_yield");
        tell("rounds", i);
    }
}

static void end_by_exit(void)
{
    keep_busy();
    tell("busy", busy_steps);
    exit(0);
}

static void end_well(void)
{
}

/* ---- Processes. A fork is a plain thread's, since a child of a coroutine must end by _exit. ---- */

static duet_result in_child(void *arg)
{
    (void)arg;
    leave("in-child", "job-in-child");
    return duet_ok();
}

enum child {
    EXITS,
    EXITS_AT_ONCE,
    WORKS,
    RUNS_ANOTHER
};

static void be_child(enum child what)
{
    const duet_pool_config config = {.name = "child"};
    if (what == RUNS_ANOTHER) {
        execl(program, program, "end", (char *)NULL);
        _exit(1);
    }
    if (what == EXITS_AT_ONCE)
        _exit(0);
    if (what == WORKS) {
        need(duet_pool_open(&pool, &config), "duet_pool_open");
        need(duet_run(in_child, NULL, NULL), "duet_run");
        need(duet_pool_close(pool, DUET_NEVER), "duet_pool_close");
    }
    exit(0);
}

static void *make_child(void *arg)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        be_child(*(enum child *)arg);
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0) {
        fputs("the child has failed\n", stderr);
        exit(1);
    }
    return NULL;
}

static duet_result make_child_and_wait(void *arg)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, make_child, arg) != 0 || pthread_join(thread, NULL) != 0)
        exit(1);
    return duet_ok();
}

static void with_child(enum child what)
{
    need(duet_offload(NULL, make_child_and_wait, &what, DUET_NEVER, NULL), "duet_offload");
}

static void fork_exits(void)
{
    with_child(EXITS);
}

static void fork_exits_at_once(void)
{
    with_child(EXITS_AT_ONCE);
}

static void fork_works(void)
{
    with_child(WORKS);
}

static void fork_executes(void)
{
    with_child(RUNS_ANOTHER);
}

/* ---- Names ---- */

static void *call_from_named_thread(void *loop)
{
    const duet_opts named = {.name = "from-named-thread"};
    pthread_setname_np(pthread_self(), "gr\xc3\xbc\xc3\x9f \"\\\x01\xff");
    need(duet_call_with(loop, nothing, NULL, &named, DUET_NEVER, NULL), "duet_call");
    return NULL;
}

/* A job: makes a plain thread, since it is its name that counts, and waits for it. */
static duet_result make_named_thread(void *loop)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, call_from_named_thread, loop) != 0 ||
        pthread_join(thread, NULL) != 0)
        exit(1);
    return duet_ok();
}

static void strange_loop(void)
{
    const duet_loop_config config = {.name = "lo\"op \\ \n \xff"};
    const duet_opts named = {.name = "in-strange-loop"};
    duet_loop *loop;
    need(duet_loop_start(&loop, &config), "duet_loop_start");
    need(duet_call_with(loop, yields, NULL, &named, DUET_NEVER, NULL), "duet_call");
    need(duet_loop_close(loop, DUET_NEVER), "duet_loop_close");
}

/* What a name may hold: what JSON must escape, and bytes that are no text: ends that are missing, half
 * of a surrogate pair, a form longer than it has to be, a code beyond the last. */
static void strange_names(void)
{
    static char long_name[5001];
    static const char *const names[] = {"quote \" end",
                                        "back \\ slash \\\" end",
                                        "ctrl \x01\x1f\b\f\n\r\t\x7f end",
                                        "bad \xff\xfe end",
                                        "bad \xc3",
                                        "bad \xe2\x82",
                                        "bad \xe2\x82 end",
                                        "bad \xed\xa0\x80 end",
                                        "bad \xc0\xaf end",
                                        "bad \xf4\x90\x80\x80 end",
                                        "gr\xc3\xbc\xc3\x9f\xe2\x82\xac\xf0\x9f\x98\x80 end",
                                        "</title><&>'%s%n",
                                        "",
                                        long_name};
    memset(long_name, 'x', sizeof long_name - 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        leave(names[i], names[i]);
    need(duet_offload(NULL, make_named_thread, duet_loop_self(), DUET_NEVER, NULL), "duet_offload");
    strange_loop();
}

/* ---- Many ---- */

static duet_result spins(void *arg)
{
    for (int i = 1; i < SPINNER_STEPS; i++)
        need(duet_yield(), "duet_yield");
    (void)arg;
    return duet_ok();
}

static void *calls(void *loop)
{
    const duet_opts named = {.name = "called"};
    for (int i = 0; i < CALLS; i++)
        need(duet_call_with(loop, nothing, NULL, &named, DUET_NEVER, NULL), "duet_call");
    return NULL;
}

static duet_result caller(void *loop)
{
    calls(loop);
    return duet_ok();
}

static duet_result calling_threads(void *loop)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, calls, loop) != 0)
            exit(1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return duet_ok();
}

static void many(void)
{
    const duet_opts of_spinner = {.name = "spinner"}, of_caller = {.name = "caller"};
    duet_future *all[SPINNERS + THREADS + 1];
    size_t n = 0;
    for (int i = 0; i < SPINNERS; i++)
        all[n++] = duet_spawn_with(spins, NULL, &of_spinner);
    for (int i = 0; i < THREADS; i++)
        all[n++] = duet_pool_submit_with(pool, caller, duet_loop_self(), &of_caller);
    all[n++] = duet_pool_submit(duet_pool_default(), calling_threads, duet_loop_self());
    need(duet_gather(all, n, DUET_NEVER, NULL), "duet_gather");
    while (n > 0)
        duet_future_unref(all[--n]);
    tell("spinner", (long)SPINNERS * SPINNER_STEPS);
    tell("called", 2L * THREADS * CALLS);
}

/* ---- ---- */

struct end {
    const char *name;
    void (*run)(void);
};

static const struct end ends[] = {
    {"end", end_well},
    {"segv", end_by_segv},
    {"overflow", end_by_overflow},
    {"abort", end_by_abort},
    {"trap", end_by_trap},
    {"kill", end_by_kill},
    {"exit", end_by_exit},
    {"fork-exit", fork_exits},
    {"fork-_exit", fork_exits_at_once},
    {"fork-work", fork_works},
    {"fork-exec", fork_executes},
    {"names", strange_names},
    {"many", many},
};

static duet_result come_to_an_end(void *arg)
{
    const struct end *end = arg;
    leave("before", "job-before");
    tell("before", YIELDS + 1);
    end->run();
    leave("after", "job-after");
    tell("after", YIELDS + 1);
    return duet_ok();
}

int main(int argc, char **argv)
{
    const duet_pool_config config = {.name = "tr\"\\x\xc3\xbc\xc3\xbc\xc3\xbc", .workers_max = 4};
    const duet_opts main_opts = {.name = "main"};
    const struct end *end = NULL;
    program = argv[0];
    for (size_t i = 0; argc == 2 && i < sizeof ends / sizeof *ends; i++)
        if (strcmp(argv[1], ends[i].name) == 0)
            end = &ends[i];
    if (end == NULL) {
        fprintf(stderr, "usage: %s end|segv|abort|kill|…\n", argv[0]);
        return 2;
    }
    need(duet_pool_open(&pool, &config), "duet_pool_open");
    need(duet_run_with(come_to_an_end, (void *)end, &main_opts, NULL), "duet_run");
    need(duet_pool_close(pool, DUET_NEVER), "duet_pool_close");
    return 0;
}
