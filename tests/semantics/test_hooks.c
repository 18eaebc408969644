/* What hooks.h promises: the story of each work, told once, in order, with its times and causes. */
#include "duet_test.h"
#include "shared.h"

#include <poll.h>
#include <regex.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* ---- The book: keeps all that hooks are told ---- */

enum hook {
    SPAWNED,
    STEP_BEGAN,
    STEP_ENDED,
    PARKED,
    SETTLED,
    JOB_QUEUED,
    JOB_BEGAN,
    JOB_ENDED,
    HOOKS
};

/* A story is a text, a letter for each event, in their order. */
static const char letters[HOOKS] = {'S', '(', ')', 'p', '.', 'Q', 'B', 'E'};
static const char coroutine_rule[] = "^S((\\(\\)p?)*\\(\\))?\\.$";
static const char callback_rule[] = "^S(\\(\\))?\\.$";
static const char job_rule[] = "^Q(B(\\(\\)p?)*\\(\\)E)?\\.$";

enum {
    ENTRIES = 4096,
    AT_ONCE = 64
};

struct entry {
    enum hook hook;
    duet_work_event e; /* its pointers are stale: the texts are below */
    char kind[16], name[64], place[32], wait[128];
    uintptr_t slot; /* what was found there */
    int tid;
};

struct book;
/* What a test does in its hooks besides. */
typedef void also_fn(struct book *b, enum hook hook, const duet_work_event *e);

struct book {
    pthread_mutex_t mutex;
    pthread_cond_t more;
    size_t count;
    uint64_t inside[AT_ONCE]; /* works with a call under way */
    also_fn *also;
    void *arg; /* of also */
    struct entry entries[ENTRIES];
};

static struct book *book_new(void)
{
    struct book *b = calloc(1, sizeof *b);
    must(b != NULL);
    must_equal(pthread_mutex_init(&b->mutex, NULL), 0);
    must_equal(pthread_cond_init(&b->more, NULL), 0);
    return b;
}

static void do_also(struct book *b, also_fn *also, void *arg)
{
    pthread_mutex_lock(&b->mutex);
    b->also = also;
    b->arg = arg;
    pthread_mutex_unlock(&b->mutex);
}

/* No two calls of one work are at the same time. */
static void enter(struct book *b, uint64_t id)
{
    int free_place = -1;
    for (int i = 0; i < AT_ONCE; i++) {
        must(b->inside[i] != id);
        if (b->inside[i] == 0)
            free_place = i;
    }
    must(free_place >= 0);
    b->inside[free_place] = id;
}

static void leave(struct book *b, uint64_t id)
{
    pthread_mutex_lock(&b->mutex);
    for (int i = 0; i < AT_ONCE; i++)
        if (b->inside[i] == id)
            b->inside[i] = 0;
    pthread_mutex_unlock(&b->mutex);
}

static void copy_texts(struct entry *entry, const duet_work_event *e)
{
    snprintf(entry->kind, sizeof entry->kind, "%s", e->kind);
    snprintf(entry->name, sizeof entry->name, "%s", e->name);
    snprintf(entry->place, sizeof entry->place, "%s", e->place);
    must(duet_work_event_waits_for(e, entry->wait, sizeof entry->wait) == entry->wait);
}

/* The slot counts the events of its work; it is plain memory, so that a thread sanitizer sees two
 * calls that nothing orders. */
static void write_down(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct entry entry = {.hook = hook, .e = *e, .slot = (*e->slot)++, .tid = gettid()};
    must(e->now_ns <= duet_now_ns());
    copy_texts(&entry, e);
    pthread_mutex_lock(&b->mutex);
    must(e->id > 0);
    enter(b, e->id);
    must(b->count < ENTRIES);
    b->entries[b->count++] = entry;
    also_fn *also = b->also;
    pthread_cond_broadcast(&b->more);
    pthread_mutex_unlock(&b->mutex);
    if (also)
        also(b, hook, e);
    leave(b, e->id);
}

#define define_hook(name, hook)                                                                    \
    static void name(void *book, const duet_work_event *e)                                         \
    {                                                                                              \
        write_down(book, hook, e);                                                                 \
    }
define_hook(on_spawned, SPAWNED) define_hook(on_step_began, STEP_BEGAN)
    define_hook(on_step_ended, STEP_ENDED) define_hook(on_parked, PARKED)
        define_hook(on_settled, SETTLED) define_hook(on_job_queued, JOB_QUEUED)
            define_hook(on_job_began, JOB_BEGAN) define_hook(on_job_ended, JOB_ENDED)

                static duet_hooks table_of(struct book *b)
{
    return (duet_hooks){.ctx = b,
                        .spawned = on_spawned,
                        .step_began = on_step_began,
                        .step_ended = on_step_ended,
                        .parked = on_parked,
                        .settled = on_settled,
                        .job_queued = on_job_queued,
                        .job_began = on_job_began,
                        .job_ended = on_job_ended};
}

/* ---- Reading in it ---- */

static bool is(const struct entry *entry, const char *name, enum hook hook)
{
    return entry->hook == hook && strcmp(entry->name, name) == 0;
}

/* The n-th event, from 0, of the work of that name; NULL: there is none. By who holds the lock. */
static const struct entry *find_held(const struct book *b, const char *name, enum hook hook, int n)
{
    for (size_t i = 0; i < b->count; i++)
        if (is(&b->entries[i], name, hook) && n-- == 0)
            return &b->entries[i];
    return NULL;
}

static const struct entry *find(struct book *b, const char *name, enum hook hook, int n)
{
    pthread_mutex_lock(&b->mutex);
    const struct entry *entry = find_held(b, name, hook, n);
    pthread_mutex_unlock(&b->mutex);
    return entry;
}

static const struct entry *the(struct book *b, const char *name, enum hook hook, int n)
{
    const struct entry *entry = find(b, name, hook, n);
    if (!entry)
        fprintf(stderr, "no event '%c' number %d of '%s'\n", letters[hook], n, name);
    must(entry != NULL);
    return entry;
}

static uint64_t id_of(struct book *b, const char *name)
{
    const struct entry *entry = find(b, name, SPAWNED, 0);
    return entry ? entry->e.id : the(b, name, JOB_QUEUED, 0)->e.id;
}

static int told(struct book *b, const char *name, enum hook hook)
{
    int n = 0;
    while (find(b, name, hook, n))
        n++;
    return n;
}

/* Until that event of that work was told n times. By threads that may block. */
static void await_told(struct book *b, const char *name, enum hook hook, int n)
{
    struct timespec by;
    must_equal(clock_gettime(CLOCK_REALTIME, &by), 0);
    by.tv_sec += 60;
    pthread_mutex_lock(&b->mutex);
    while (!find_held(b, name, hook, n - 1))
        must_equal(pthread_cond_timedwait(&b->more, &b->mutex, &by), 0);
    pthread_mutex_unlock(&b->mutex);
}

static size_t works_told_of(const struct book *b)
{
    size_t count = 0;
    for (size_t i = 0; i < b->count; i++)
        count += b->entries[i].hook == SPAWNED || b->entries[i].hook == JOB_QUEUED;
    return count;
}

static void read_story(const struct book *b, uint64_t id, char *story, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < b->count && used < size - 1; i++)
        if (b->entries[i].e.id == id)
            story[used++] = letters[b->entries[i].hook];
    story[used] = '\0';
}

static void must_wait_for(struct book *b, const char *name, const char *what)
{
    const char *told_of = the(b, name, PARKED, 0)->wait;
    if (strcmp(told_of, what) != 0)
        fprintf(stderr, "'%s' waits for %s, not for %s\n", name, told_of, what);
    must(strcmp(told_of, what) == 0);
}

static void must_tell(struct book *b, const char *name, const char *expected)
{
    char story[256];
    const uint64_t id = id_of(b, name);
    pthread_mutex_lock(&b->mutex);
    read_story(b, id, story, sizeof story);
    pthread_mutex_unlock(&b->mutex);
    if (strcmp(story, expected) != 0)
        fprintf(stderr, "the story of '%s' is %s, not %s\n", name, story, expected);
    must(strcmp(story, expected) == 0);
}

/* A sleep of the work that runs here, for which it surely parks, once: one whose moment has passed
 * before it began would tell nothing. */
static void rest(struct book *b)
{
    const char *name = duet_self_name();
    char copy[64];
    snprintf(copy, sizeof copy, "%s", name);
    for (int before = told(b, copy, PARKED); told(b, copy, PARKED) == before;)
        must_equal(duet_sleep(duet_ms(2)), 0);
}

/* ---- What holds for every story ---- */

static bool fits(const char *story, const char *rule)
{
    regex_t regex;
    must_equal(regcomp(&regex, rule, REG_EXTENDED | REG_NOSUB), 0);
    bool does = regexec(&regex, story, 0, NULL, 0) == 0;
    regfree(&regex);
    return does;
}

static const char *rule_of(const struct entry *entry)
{
    if (strcmp(entry->kind, "coroutine") == 0)
        return coroutine_rule;
    if (strcmp(entry->kind, "callback") == 0)
        return callback_rule;
    must(strcmp(entry->kind, "job") == 0);
    return job_rule;
}

static void must_be_of_one_work(const struct entry *a, const struct entry *b)
{
    must(strcmp(a->kind, b->kind) == 0);
    must(strcmp(a->name, b->name) == 0);
    must(strcmp(a->place, b->place) == 0);
    must(a->e.parent == b->e.parent);
    must_equal(a->e.spawned_ns, b->e.spawned_ns);
}

/* Of an event that follows another of the same work. */
static void must_follow(const struct entry *before, const struct entry *now)
{
    must_be_of_one_work(before, now);
    must_equal(now->e.since_ns, before->e.now_ns);
    must(now->e.now_ns >= before->e.now_ns);
    must_equal(now->slot, before->slot + 1);
    if (now->hook == SETTLED)
        must_equal(now->e.queued, before->e.queued);
    if (now->hook == STEP_ENDED || now->hook == PARKED || now->hook == JOB_ENDED)
        must_equal(now->tid, before->tid);
}

static void check_entry(const struct entry *entry)
{
    if (entry->hook == PARKED)
        must(entry->wait[0] != '\0' && strcmp(entry->wait, "nothing") != 0);
    else
        must(strcmp(entry->wait, "nothing") == 0);
    if (entry->hook != STEP_BEGAN)
        return;
    must(entry->e.by_ns <= entry->e.now_ns);
    must((entry->e.by_ns != 0) == (entry->e.by_thread != 0));
    must(entry->e.by == 0 || entry->e.by_ns != 0);
}

/* So the steps and waits of a work add up to the time between its first event and its last. */
static void check_times(const struct entry *first, const struct entry *last, int64_t steps,
                        int64_t rest)
{
    must_equal(first->e.now_ns, first->e.spawned_ns);
    must_equal(steps + rest, last->e.now_ns - last->e.spawned_ns);
}

static void check_work(const struct book *b, size_t first)
{
    const struct entry *before = &b->entries[first];
    int64_t steps = 0, rest = 0;
    must_equal(before->slot, 0);
    for (size_t i = first + 1; i < b->count; i++) {
        const struct entry *entry = &b->entries[i];
        if (entry->e.id != before->e.id)
            continue;
        must_follow(before, entry);
        *(entry->hook == STEP_ENDED ? &steps : &rest) += entry->e.now_ns - entry->e.since_ns;
        before = entry;
    }
    check_times(&b->entries[first], before, steps, rest);
}

static bool is_first(const struct book *b, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (b->entries[i].e.id == b->entries[at].e.id)
            return false;
    return true;
}

/* Every work has its whole story in it. */
static void book_check(const struct book *b)
{
    char story[256];
    for (size_t i = 0; i < b->count; i++) {
        check_entry(&b->entries[i]);
        if (!is_first(b, i))
            continue;
        read_story(b, b->entries[i].e.id, story, sizeof story);
        if (!fits(story, rule_of(&b->entries[i])))
            fprintf(stderr, "the story of '%s' is %s\n", b->entries[i].name, story);
        must(fits(story, rule_of(&b->entries[i])));
        check_work(b, i);
    }
}

static void book_free(struct book *b)
{
    pthread_mutex_destroy(&b->mutex);
    pthread_cond_destroy(&b->more);
    free(b);
}

static void book_close(struct book *b)
{
    book_check(b);
    book_free(b);
}

/* ---- Places whose story is told ---- */

/* What callbacks count that are of no further interest. */
static atomic_int called_back;

static duet_loop *start_told_loop(struct book *b, const char *name)
{
    duet_loop *loop;
    const duet_hooks table = table_of(b);
    must_equal(duet_loop_start(&loop, &(duet_loop_config){.name = name, .hooks = &table}), 0);
    return loop;
}

/* One that nobody runs yet. */
static duet_loop *open_told_loop(struct book *b, unsigned inbox_max)
{
    duet_loop *loop;
    const duet_hooks table = table_of(b);
    const duet_loop_config config = {
        .name = "told", .inbox_max = inbox_max, .when_full = DUET_FULL_REFUSE, .hooks = &table};
    must_equal(duet_loop_open(&loop, &config), 0);
    return loop;
}

static duet_pool *open_told_pool_with(struct book *b, duet_pool_config config)
{
    duet_pool *pool;
    const duet_hooks table = table_of(b);
    config.name = config.name ? config.name : "told pool";
    config.hooks = &table;
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

static duet_pool *open_told_pool(struct book *b, unsigned workers)
{
    return open_told_pool_with(b, (duet_pool_config){.workers_max = workers});
}

struct scene {
    struct book *book;
    duet_loop *loop;
    duet_pool *pool;
};

static void scene_open(struct scene *s, unsigned workers)
{
    s->book = book_new();
    s->loop = start_told_loop(s->book, "told loop");
    s->pool = open_told_pool(s->book, workers);
}

/* Nothing is told after this, and the book can be read. */
static void scene_end(struct scene *s)
{
    close_loop(s->loop);
    close_pool(s->pool);
    book_check(s->book);
}

static void scene_close(struct scene *s)
{
    book_free(s->book);
}

static duet_future *start(duet_loop *loop, duet_fn *fn, void *arg, const char *name)
{
    return duet_submit_with(loop, fn, arg, &(duet_opts){.name = name});
}

static duet_future *queue(duet_pool *pool, duet_fn *fn, void *arg, const char *name)
{
    return duet_pool_submit_with(pool, fn, arg, &(duet_opts){.name = name});
}

static void run_loop(void *loop)
{
    must_equal(duet_loop_run(loop), 0);
}

/* ---- The story ---- */

struct life {
    struct book *book;
    duet_future *promise;
};

static duet_result live_a_life(void *arg)
{
    struct life *life = arg;
    must_equal(duet_yield(), 0);
    rest(life->book);
    must_equal(duet_future_wait(life->promise, SURELY, NULL), 0);
    return duet_i64(42);
}

thread_test(a_coroutine_is_told_from_its_spawning_to_its_result)
{
    struct scene s;
    scene_open(&s, 1);
    struct life life = {s.book, open_promise()};
    duet_future *f = start(s.loop, live_a_life, &life, "life");
    await_told(s.book, "life", PARKED, 2);
    settle(life.promise);
    must_equal(duet_as_i64(finish(f)), 42);
    must_tell(s.book, "life", "S()()p()p()."); /* all has been told before the result is seen */
    scene_end(&s);
    must_tell(s.book, "life", "S()()p()p().");
    must_equal(duet_as_i64(the(s.book, "life", SETTLED, 0)->e.result), 42);
    duet_future_unref(life.promise);
    scene_close(&s);
}

static duet_result work_and_wait(void *arg)
{
    struct life *life = arg;
    rest(life->book);
    must_equal(duet_future_wait(life->promise, SURELY, NULL), 0);
    return duet_err(-EIO);
}

static void tell_a_job(const duet_opts *opts)
{
    struct scene s;
    scene_open(&s, 1);
    struct life life = {s.book, open_promise()};
    duet_future *f = duet_pool_submit_with(s.pool, work_and_wait, &life, opts);
    await_told(s.book, "job", PARKED, 2);
    settle(life.promise);
    must_equal(finish(f).err, -EIO);
    must_tell(s.book, "job", "QB()p()p()E.");
    scene_end(&s);
    must_tell(s.book, "job", "QB()p()p()E.");
    must_equal(the(s.book, "job", SETTLED, 0)->e.result.err, -EIO);
    duet_future_unref(life.promise);
    scene_close(&s);
}

thread_test(a_job_is_told_with_its_steps_around_its_waits)
{
    tell_a_job(&(duet_opts){.name = "job"});
}

thread_test(a_job_that_keeps_its_slot_is_told_likewise)
{
    tell_a_job(&(duet_opts){.name = "job", .flags = DUET_KEEP_SLOT});
}

thread_test(a_job_that_may_be_interrupted_is_told_likewise)
{
    tell_a_job(&(duet_opts){.name = "job", .flags = DUET_INTERRUPT});
}

thread_test(a_callback_at_a_moment_is_told_without_a_wait)
{
    struct scene s;
    atomic_int ran;
    atomic_init(&ran, 0);
    scene_open(&s, 1);
    must_equal(finish(duet_call_at(s.loop, duet_ms(2), count_drop, &ran)).err, 0);
    must_equal(atomic_load(&ran), 1);
    scene_end(&s);
    must_equal(works_told_of(s.book), 1);
    must(strcmp(s.book->entries[0].kind, "callback") == 0);
    must_tell(s.book, s.book->entries[0].name, "S().");
    scene_close(&s);
}

static void do_nothing(void *promise)
{
    settle(promise);
}

thread_test(bare_callbacks_are_no_works)
{
    struct scene s;
    duet_future *a = open_promise(), *b = open_promise();
    scene_open(&s, 1);
    must_equal(duet_future_then(a, s.loop, do_nothing, b, NULL), 0);
    must_equal(duet_call_soon(s.loop, do_nothing, a), 0);
    must_equal(finish(b).err, 0);
    duet_future_unref(a);
    scene_end(&s);
    must_equal(s.book->count, 0);
    scene_close(&s);
}

static duet_result ask_what_is_there(void *promise)
{
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_sem sem;
    duet_sem_init(&sem, 1);
    must_equal(duet_mutex_lock(&mutex, SURELY), 0);
    must_equal(duet_mutex_unlock(&mutex), 0);
    must_equal(duet_sem_wait(&sem, SURELY), 0);
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    return duet_ok();
}

thread_test(a_wait_that_is_answered_at_once_ends_no_step)
{
    struct scene s;
    duet_future *promise = open_promise();
    settle(promise);
    scene_open(&s, 1);
    must_equal(finish(start(s.loop, ask_what_is_there, promise, "quick")).err, 0);
    must_equal(finish(queue(s.pool, ask_what_is_there, promise, "quick job")).err, 0);
    scene_end(&s);
    must_tell(s.book, "quick", "S().");
    must_tell(s.book, "quick job", "QB()E.");
    duet_future_unref(promise);
    scene_close(&s);
}

static duet_result yield_five_times(void *unused)
{
    (void)unused;
    int count = 5;
    return yield_often(&count);
}

thread_test(each_yield_ends_a_step_and_is_no_wait)
{
    struct scene s;
    scene_open(&s, 1);
    must_equal(finish(start(s.loop, yield_five_times, NULL, "polite")).err, 0);
    scene_end(&s);
    must_tell(s.book, "polite", "S()()()()()().");
    for (int i = 1; i <= 5; i++)
        must_equal(the(s.book, "polite", STEP_BEGAN, i)->e.by_ns, 0);
    scene_close(&s);
}

/* ---- Which thread tells ---- */

struct tid {
    struct book *book;
    int tid;
};

static duet_result rest_and_tell_tid(void *arg)
{
    struct tid *tid = arg;
    rest(tid->book);
    tid->tid = gettid();
    return duet_ok();
}

static duet_result take_a_rest(void *book)
{
    rest(book);
    return duet_ok();
}

static void must_be_told_here_then_by(struct book *b, const char *name, enum hook from, int tid)
{
    must(tid != gettid());
    for (size_t i = 0; i < b->count; i++)
        if (strcmp(b->entries[i].name, name) == 0)
            must_equal(b->entries[i].tid, b->entries[i].hook == from ? gettid() : tid);
}

thread_test(who_submits_tells_the_beginning_and_who_runs_it_the_rest)
{
    struct scene s;
    scene_open(&s, 1);
    struct tid loop = {.book = s.book}, worker = {.book = s.book};
    must_equal(finish(start(s.loop, rest_and_tell_tid, &loop, "coroutine")).err, 0);
    must_equal(finish(queue(s.pool, rest_and_tell_tid, &worker, "job")).err, 0);
    scene_end(&s);
    must_be_told_here_then_by(s.book, "coroutine", SPAWNED, loop.tid);
    must_be_told_here_then_by(s.book, "job", JOB_QUEUED, worker.tid);
    must_tell(s.book, "coroutine", "S()p().");
    must_tell(s.book, "job", "QB()p()E.");
    scene_close(&s);
}

/* The future of the work that stands in b->arg is not settled yet when that is told. */
static void look_at_the_future(struct book *b, enum hook hook, const duet_work_event *e)
{
    if (strcmp(e->name, "watched") != 0)
        return;
    if (hook == SETTLED)
        for (int i = 0; i < 100; i++)
            sched_yield(); /* who does not wait for this hook has its chance */
    if (hook == SETTLED)
        must(!duet_future_settled(*(duet_future **)b->arg));
}

static void watch(void *arg)
{
    duet_future *f = arg;
    while (!duet_future_settled(f))
        sched_yield();
}

thread_test(nobody_sees_the_result_before_settled_was_told)
{
    struct book *b = book_new();
    duet_loop *loop = open_told_loop(b, 0);
    struct thread runner, watcher;
    duet_future *f = start(loop, return_ok, NULL, "watched");
    do_also(b, look_at_the_future, &f);
    thread_start(&watcher, watch, f);
    thread_start(&runner, run_loop, loop);
    thread_join(&watcher);
    must_tell(b, "watched", "S().");
    must_equal(finish(f).err, 0);
    close_loop(loop);
    thread_join(&runner);
    book_close(b);
}

thread_test(nobody_sees_the_result_of_a_job_before_settled_was_told)
{
    struct book *b = book_new();
    duet_pool *pool = open_told_pool(b, 1);
    struct gate gate = GATE_INIT;
    struct thread watcher;
    duet_future *f = queue(pool, gate_pass_job, &gate, "watched");
    gate_await_arrivals(&gate, 1);
    do_also(b, look_at_the_future, &f);
    thread_start(&watcher, watch, f);
    gate_open(&gate);
    thread_join(&watcher);
    must_tell(b, "watched", "QB()E.");
    must_equal(finish(f).err, 0);
    close_pool(pool);
    book_close(b);
}

/* ---- Names, places, parents ---- */

thread_test(a_work_has_its_name_its_kind_and_its_place)
{
    struct scene s;
    scene_open(&s, 1);
    char name[] = "Figaro";
    duet_future *f = start(s.loop, return_ok, NULL, name);
    memset(name, 'x', sizeof name - 1);
    must_equal(finish(f).err, 0);
    must_equal(finish(queue(s.pool, return_ok, NULL, "Susanna")).err, 0);
    scene_end(&s);
    must(strcmp(the(s.book, "Figaro", SETTLED, 0)->kind, "coroutine") == 0);
    must(strcmp(the(s.book, "Figaro", SPAWNED, 0)->place, "told loop") == 0);
    must(strcmp(the(s.book, "Susanna", JOB_QUEUED, 0)->kind, "job") == 0);
    must(strcmp(the(s.book, "Susanna", SETTLED, 0)->place, "told pool") == 0);
    scene_close(&s);
}

static duet_result tell_name(void *name)
{
    snprintf(name, 64, "%s", duet_self_name());
    return duet_ok();
}

thread_test(a_work_without_a_name_has_one_of_its_kind_and_id)
{
    struct scene s;
    char told[2][64], expected[64];
    scene_open(&s, 1);
    must_equal(finish(duet_submit(s.loop, tell_name, told[0])).err, 0);
    must_equal(finish(duet_pool_submit(s.pool, tell_name, told[1])).err, 0);
    must_equal(finish(duet_call_at(s.loop, DUET_NOW, count_drop, &called_back)).err, 0);
    scene_end(&s);
    must_equal(works_told_of(s.book), 3);
    for (size_t i = 0; i < s.book->count; i++) {
        const struct entry *entry = &s.book->entries[i];
        snprintf(expected, sizeof expected, "%s-%llu", entry->kind,
                 (unsigned long long)entry->e.id);
        must(strcmp(entry->name, expected) == 0);
        if (strcmp(entry->kind, "callback") != 0)
            must(strcmp(told[strcmp(entry->kind, "job") == 0], expected) == 0);
    }
    scene_close(&s);
}

static char long_name[201];

static void see_the_long_name(struct book *b, enum hook hook, const duet_work_event *e)
{
    (void)hook;
    must(strcmp(e->name, long_name) == 0);
    must(strlen(e->place) > 0);
    atomic_fetch_add((atomic_int *)b->arg, 1);
}

thread_test(a_name_is_told_as_long_as_it_is_and_a_place_always_has_one)
{
    struct book *b = book_new();
    duet_loop *loop = start_told_loop(b, NULL);
    const duet_hooks table = table_of(b);
    duet_pool *pool;
    atomic_int seen;
    atomic_init(&seen, 0);
    memset(long_name, 'n', sizeof long_name - 1);
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.hooks = &table}), 0);
    do_also(b, see_the_long_name, &seen);
    must_equal(finish(start(loop, return_ok, NULL, long_name)).err, 0);
    must_equal(finish(queue(pool, return_ok, NULL, long_name)).err, 0);
    close_loop(loop);
    close_pool(pool);
    must_equal(atomic_load(&seen), strlen("S().") + strlen("QB()E."));
    book_close(b);
}

static void see_what_is_dropped(void *b)
{
    must(told(b, "pointer", SETTLED) == 1);
    atomic_fetch_add(&called_back, 1);
}

thread_test(settled_has_a_look_at_the_result)
{
    struct scene s;
    scene_open(&s, 1);
    int before = atomic_load(&called_back);
    const duet_opts opts = {.name = "pointer", .drop_result = see_what_is_dropped};
    duet_future *f = duet_submit_with(s.loop, return_arg, s.book, &opts);
    must(finish(f).kind == DUET_PTR); /* and drops it, unless the loop is the last to let go */
    scene_end(&s);
    must_equal(atomic_load(&called_back), before + 1);
    must(duet_as_ptr(the(s.book, "pointer", SETTLED, 0)->e.result) == s.book);
    scene_close(&s);
}

thread_test(no_two_works_share_an_id_wherever_they_are)
{
    struct scene s[2];
    scene_open(&s[0], 2);
    scene_open(&s[1], 2);
    for (int i = 0; i < 20; i++) {
        must_equal(duet_call(s[i % 2].loop, return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_offload(s[i / 2 % 2].pool, return_ok, NULL, SURELY, NULL), 0);
    }
    scene_end(&s[0]);
    scene_end(&s[1]);
    must_equal(works_told_of(s[0].book) + works_told_of(s[1].book), 40);
    for (size_t i = 0; i < s[0].book->count; i++)
        for (size_t k = 0; k < s[1].book->count; k++)
            must(s[0].book->entries[i].e.id != s[1].book->entries[k].e.id);
    scene_close(&s[0]);
    scene_close(&s[1]);
}

/* Starts work in every way there is on a thread that is not the loop's, or not only. */
static void start_from_anywhere(struct scene *s)
{
    duet_group group = DUET_GROUP_INIT;
    const duet_opts called = {.name = "called"}, offloaded = {.name = "offloaded"},
                    grouped = {.name = "grouped"};
    must_equal(duet_group_spawn(&group, s->loop, return_ok, NULL, &grouped), 0);
    must_equal(duet_group_wait(&group, SURELY, NULL), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(finish(start(s->loop, return_ok, NULL, "submitted")).err, 0);
    must_equal(finish(queue(s->pool, return_ok, NULL, "queued")).err, 0);
    must_equal(duet_call_with(s->loop, return_ok, NULL, &called, SURELY, NULL), 0);
    must_equal(duet_offload_with(s->pool, return_ok, NULL, &offloaded, SURELY, NULL), 0);
    must_equal(finish(duet_call_at(s->loop, DUET_NOW, count_drop, &called_back)).err, 0);
}

static duet_result start_from_work(void *s)
{
    start_from_anywhere(s);
    return duet_ok();
}

static duet_result spawn_from_coroutine(void *s)
{
    must_equal(finish(duet_spawn_with(return_ok, NULL, &(duet_opts){.name = "spawned"})).err, 0);
    return start_from_work(s);
}

/* All that the parent has started tell of it, and there are so many. */
static void must_have_children(struct book *b, uint64_t parent, size_t count, bool of_thread)
{
    size_t found = 0;
    for (size_t i = 0; i < b->count; i++) {
        const struct entry *entry = &b->entries[i];
        if (entry->e.id == parent || entry->e.parent != parent)
            continue;
        if (entry->hook == SPAWNED || entry->hook == JOB_QUEUED)
            found++;
        if (of_thread && entry->hook == SPAWNED)
            must_equal(entry->tid, gettid());
    }
    must_equal(found, count);
}

thread_test(what_a_coroutine_starts_has_it_as_its_parent)
{
    struct scene s;
    scene_open(&s, 2);
    must_equal(finish(start(s.loop, spawn_from_coroutine, &s, "parent")).err, 0);
    scene_end(&s);
    must_equal(the(s.book, "parent", SPAWNED, 0)->e.parent, 0);
    must_have_children(s.book, id_of(s.book, "parent"), 7, false);
    must_equal(works_told_of(s.book), 8);
    scene_close(&s);
}

thread_test(what_a_job_starts_has_it_as_its_parent)
{
    struct scene s;
    scene_open(&s, 2);
    must_equal(finish(queue(s.pool, start_from_work, &s, "parent")).err, 0);
    scene_end(&s);
    must_equal(the(s.book, "parent", JOB_QUEUED, 0)->e.parent, 0);
    must_have_children(s.book, id_of(s.book, "parent"), 6, false);
    must_equal(works_told_of(s.book), 7);
    scene_close(&s);
}

thread_test(what_a_plain_thread_starts_has_no_parent)
{
    struct scene s;
    scene_open(&s, 2);
    start_from_anywhere(&s);
    scene_end(&s);
    must_have_children(s.book, 0, 6, true);
    must_equal(works_told_of(s.book), 6);
    scene_close(&s);
}

/* What a callback starts, by the callback's argument. */
struct sprout {
    struct scene *scene;
    duet_future *f[2];
    duet_future *done;
};

static void start_in_callback(void *arg)
{
    struct sprout *sprout = arg;
    sprout->f[0] = start(sprout->scene->loop, return_ok, NULL, "coroutine");
    sprout->f[1] = queue(sprout->scene->pool, return_ok, NULL, "job");
    settle(sprout->done);
}

static void finish_sprout(struct sprout *sprout)
{
    must_equal(finish(sprout->done).err, 0);
    must_equal(finish(sprout->f[0]).err, 0);
    must_equal(finish(sprout->f[1]).err, 0);
}

thread_test(what_a_bare_callback_starts_has_no_parent)
{
    struct scene s;
    scene_open(&s, 1);
    struct sprout sprout = {.scene = &s, .done = open_promise()};
    must_equal(duet_call_soon(s.loop, start_in_callback, &sprout), 0);
    finish_sprout(&sprout);
    scene_end(&s);
    must_have_children(s.book, 0, 2, false);
    scene_close(&s);
}

thread_test(what_a_callback_at_a_moment_starts_has_it_as_its_parent)
{
    struct scene s;
    scene_open(&s, 1);
    struct sprout sprout = {.scene = &s, .done = open_promise()};
    must_equal(finish(duet_call_at(s.loop, duet_ms(1), start_in_callback, &sprout)).err, 0);
    finish_sprout(&sprout);
    scene_end(&s);
    must_equal(s.book->entries[0].e.parent, 0);
    must(strcmp(s.book->entries[0].kind, "callback") == 0);
    must_have_children(s.book, s.book->entries[0].e.id, 2, false);
    scene_close(&s);
}

/* ---- Who made it ready ---- */

/* The first step of `name` was made possible by that work and thread. */
static void must_begin_by(struct book *b, const char *name, uint64_t by, int thread)
{
    const struct entry *step = the(b, name, STEP_BEGAN, 0);
    must_equal(step->e.by, by);
    must(step->e.by_ns != 0);
    must_equal(step->e.by_thread, thread);
}

thread_test(the_first_step_is_made_ready_by_who_started_the_work)
{
    struct scene s;
    scene_open(&s, 2);
    must_equal(finish(start(s.loop, spawn_from_coroutine, &s, "parent")).err, 0);
    scene_end(&s);
    static const char *const names[] = {"spawned", "submitted", "queued",
                                        "called",  "offloaded", "grouped"};
    must_begin_by(s.book, "parent", 0, gettid());
    const uint64_t parent = id_of(s.book, "parent");
    const int loop = the(s.book, "parent", STEP_BEGAN, 0)->tid;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        must_begin_by(s.book, names[i], parent, loop);
    scene_close(&s);
}

thread_test(the_first_step_is_made_ready_by_the_job_that_started_the_work)
{
    struct scene s;
    scene_open(&s, 2);
    must_equal(finish(queue(s.pool, start_from_work, &s, "parent")).err, 0);
    scene_end(&s);
    static const char *const names[] = {"submitted", "queued", "called", "offloaded", "grouped"};
    must_begin_by(s.book, "parent", 0, gettid());
    const uint64_t parent = id_of(s.book, "parent");
    const int worker = the(s.book, "parent", JOB_BEGAN, 0)->tid;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        must_begin_by(s.book, names[i], parent, worker);
    scene_close(&s);
}

/* What is waited for, and given by somebody else. */
enum what {
    PROMISE,
    GATHERED,
    IN_GROUP,
    MUTEX,
    COND,
    SEM,
    EVENT,
    BARRIER,
    ITEM,
    ROOM,
    JOIN,
    SELECTED,
    THINGS
};

struct thing {
    enum what what;
    duet_future *promise;
    duet_group group;
    duet_mutex mutex;
    duet_cond cond;
    duet_sem sem;
    duet_event event;
    duet_barrier barrier;
    duet_chan *chan;
};

static void thing_open(struct thing *t, enum what what)
{
    int item = 0;
    *t = (struct thing){.what = what, .promise = open_promise()};
    duet_sem_init(&t->sem, 0);
    must_equal(duet_barrier_init(&t->barrier, 2), 0);
    must_equal(duet_chan_open(&t->chan, sizeof item, 1), 0);
    if (what == IN_GROUP)
        (void)duet_group_add(&t->group, duet_future_ref(t->promise));
    if (what == ROOM || what == JOIN)
        must_equal(duet_chan_send(t->chan, &item, DUET_NOW), 0);
    if (what == JOIN)
        must_equal(duet_chan_recv(t->chan, &item, DUET_NOW), 0);
}

static void thing_close(struct thing *t)
{
    must_equal(duet_group_close(&t->group), 0);
    duet_future_unref(t->promise);
    duet_chan_unref(t->chan);
}

static int wait_for_cond(struct thing *t)
{
    must_equal(duet_mutex_lock(&t->mutex, DUET_NOW), 0);
    must_equal(duet_cond_wait(&t->cond, &t->mutex, SURELY), 0);
    return duet_mutex_unlock(&t->mutex);
}

static int wait_for_mutex(struct thing *t)
{
    must_equal(duet_mutex_lock(&t->mutex, SURELY), 0);
    return duet_mutex_unlock(&t->mutex);
}

/* One wait, which sleeps. */
static int thing_wait(struct thing *t)
{
    int item = 0;
    duet_case cases[2] = {duet_case_recv(t->chan, &item), duet_case_event(&t->event)};
    switch (t->what) {
    case PROMISE:
        return duet_future_wait(t->promise, SURELY, NULL);
    case GATHERED:
        return duet_gather(&t->promise, 1, SURELY, NULL);
    case IN_GROUP:
        return duet_group_wait(&t->group, SURELY, NULL);
    case MUTEX:
        return wait_for_mutex(t);
    case COND:
        return wait_for_cond(t);
    case SEM:
        return duet_sem_wait(&t->sem, SURELY);
    case EVENT:
        return duet_event_wait(&t->event, SURELY);
    case BARRIER:
        return duet_barrier_wait(&t->barrier, SURELY);
    case ITEM:
        return duet_chan_recv(t->chan, &item, SURELY);
    case ROOM:
        return duet_chan_send(t->chan, &item, SURELY);
    case JOIN:
        return duet_chan_join(t->chan, SURELY);
    default:
        return duet_select(cases, 2, SURELY);
    }
}

/* What ends that wait, without a wait of its own. */
static void thing_give(struct thing *t)
{
    int item = 0;
    switch (t->what) {
    case PROMISE:
    case GATHERED:
    case IN_GROUP:
        settle(t->promise);
        break;
    case MUTEX:
        must_equal(duet_mutex_unlock(&t->mutex), 0);
        break;
    case COND:
        duet_cond_signal(&t->cond);
        break;
    case SEM:
        must_equal(duet_sem_post(&t->sem), 0);
        break;
    case EVENT:
        duet_event_set(&t->event);
        break;
    case BARRIER:
        must_equal(duet_barrier_wait(&t->barrier, DUET_NOW), 1);
        break;
    case ROOM:
        must_equal(duet_chan_recv(t->chan, &item, DUET_NOW), 0);
        break;
    case JOIN:
        must_equal(duet_chan_done(t->chan), 0);
        break;
    default:
        must_equal(duet_chan_send(t->chan, &item, DUET_NOW), 0);
    }
}

enum giver_kind {
    A_COROUTINE,
    ONE_OF_ANOTHER_LOOP,
    A_JOB,
    A_CALLBACK, /* at a moment */
    WITH_ID = A_CALLBACK, /* kinds up to this one */
    A_THREAD,
    ONE_UNTOLD, /* a coroutine of a loop without hooks */
    A_BARE_CALLBACK,
    GIVERS
};

struct giver {
    struct thing *thing;
    duet_future *ready, *go; /* it is about to give; it shall */
    int tid;
};

static void give(void *arg)
{
    struct giver *g = arg;
    g->tid = gettid();
    thing_give(g->thing);
}

static void give_and_say_so(void *arg)
{
    struct giver *g = arg;
    give(g);
    settle(g->ready);
}

static duet_result give_in_work(void *arg)
{
    struct giver *g = arg;
    if (g->thing->what == MUTEX)
        must_equal(duet_mutex_lock(&g->thing->mutex, DUET_NOW), 0);
    settle(g->ready);
    must_equal(duet_future_wait(g->go, SURELY, NULL), 0);
    give(g);
    return duet_ok();
}

static void give_in_thread(void *arg)
{
    (void)give_in_work(arg);
}

struct troupe {
    struct scene scene;
    duet_loop *other, *untold;
};

static void troupe_open(struct troupe *t)
{
    scene_open(&t->scene, 4);
    t->other = start_told_loop(t->scene.book, "other loop");
    t->untold = start_loop();
}

static void troupe_close(struct troupe *t)
{
    close_loop(t->other);
    close_loop(t->untold);
    scene_end(&t->scene);
    scene_close(&t->scene);
}

/* Starts who gives when told to; NULL: a thread. */
static duet_future *start_giver(struct troupe *t, enum giver_kind kind, struct giver *g,
                                const char *name)
{
    switch (kind) {
    case A_COROUTINE:
        return start(t->scene.loop, give_in_work, g, name);
    case ONE_OF_ANOTHER_LOOP:
        return start(t->other, give_in_work, g, name);
    case A_JOB:
        return queue(t->scene.pool, give_in_work, g, name);
    default:
        return start(t->untold, give_in_work, g, name);
    }
}

static duet_result wait_for_thing(void *thing)
{
    must(thing_wait(thing) >= 0);
    return duet_ok();
}

static duet_future *start_waiter(struct troupe *t, bool in_pool, struct thing *thing,
                                 const char *name)
{
    duet_future *f = in_pool ? queue(t->scene.pool, wait_for_thing, thing, name)
                             : start(t->scene.loop, wait_for_thing, thing, name);
    await_told(t->scene.book, name, PARKED, 1);
    return f;
}

/* One who can wait until the other does. */
static duet_future *give_by_work(struct troupe *t, enum giver_kind kind, bool in_pool,
                                 struct giver *g, const char *const names[2])
{
    struct thread thread;
    duet_future *f = NULL;
    if (kind == A_THREAD)
        thread_start(&thread, give_in_thread, g);
    else
        f = start_giver(t, kind, g, names[0]);
    must_equal(error_of(g->ready), 0);
    duet_future *waiter = start_waiter(t, in_pool, g->thing, names[1]);
    settle(g->go);
    if (kind == A_THREAD)
        thread_join(&thread);
    else
        must_equal(finish(f).err, 0);
    return waiter;
}

static duet_future *give_by_callback(struct troupe *t, enum giver_kind kind, bool in_pool,
                                     struct giver *g, const char *name)
{
    duet_future *waiter = start_waiter(t, in_pool, g->thing, name);
    if (kind == A_CALLBACK)
        must_equal(finish(duet_call_at(t->scene.loop, duet_ms(1), give_and_say_so, g)).err, 0);
    else
        must_equal(duet_call_soon(t->scene.loop, give_and_say_so, g), 0);
    must_equal(error_of(g->ready), 0);
    return waiter;
}

/* The id of the callback at a moment that was told of last. */
static uint64_t last_callback(struct book *b)
{
    uint64_t id = 0;
    pthread_mutex_lock(&b->mutex);
    for (size_t i = 0; i < b->count; i++)
        if (strcmp(b->entries[i].kind, "callback") == 0)
            id = b->entries[i].e.id;
    pthread_mutex_unlock(&b->mutex);
    return id;
}

static void must_be_ready_by(struct book *b, const char *name, bool in_pool, uint64_t by, int tid)
{
    const struct entry *step = the(b, name, STEP_BEGAN, 1);
    must_tell(b, name, in_pool ? "QB()p()E." : "S()p().");
    if (step->e.by != by || step->e.by_ns == 0 || step->e.by_thread != tid)
        fprintf(stderr, "'%s' goes on by %llu at %lld of thread %d, not by %llu of thread %d\n",
                name, (unsigned long long)step->e.by, (long long)step->e.by_ns, step->e.by_thread,
                (unsigned long long)by, tid);
    must(step->e.by == by && step->e.by_ns != 0 && step->e.by_thread == tid);
}

static void give_and_check(struct troupe *t, enum what what, enum giver_kind kind, bool in_pool)
{
    char waiter[64], giver[64];
    struct thing thing;
    struct giver g = {.thing = &thing, .ready = open_promise(), .go = open_promise()};
    snprintf(waiter, sizeof waiter, "waits for %d by %d %d", what, kind, in_pool);
    snprintf(giver, sizeof giver, "gives %d by %d %d", what, kind, in_pool);
    thing_open(&thing, what);
    duet_future *f = kind == A_CALLBACK || kind == A_BARE_CALLBACK
                         ? give_by_callback(t, kind, in_pool, &g, waiter)
                         : give_by_work(t, kind, in_pool, &g, (const char *const[]){giver, waiter});
    must_equal(finish(f).err, 0);
    const uint64_t by = kind == A_CALLBACK ? last_callback(t->scene.book)
                        : kind <= WITH_ID  ? id_of(t->scene.book, giver)
                                           : 0;
    must_be_ready_by(t->scene.book, waiter, in_pool, by, g.tid);
    duet_future_unref(g.ready);
    duet_future_unref(g.go);
    thing_close(&thing);
}

/* A callback has no mutex to hand over that it held before. */
static void give_all(enum giver_kind kind)
{
    struct troupe t;
    troupe_open(&t);
    for (int what = 0; what < THINGS; what++)
        for (int in_pool = 0; in_pool < 2; in_pool++)
            if (what != MUTEX || (kind != A_CALLBACK && kind != A_BARE_CALLBACK))
                give_and_check(&t, (enum what)what, kind, in_pool);
    troupe_close(&t);
}

thread_test(what_a_coroutine_gives_is_told_with_its_id)
{
    give_all(A_COROUTINE);
}

thread_test(what_a_coroutine_of_another_loop_gives_is_told_with_its_id)
{
    give_all(ONE_OF_ANOTHER_LOOP);
}

thread_test(what_a_job_gives_is_told_with_its_id)
{
    give_all(A_JOB);
}

thread_test(what_a_callback_at_a_moment_gives_is_told_with_its_id)
{
    give_all(A_CALLBACK);
}

thread_test(what_a_plain_thread_gives_is_told_with_its_thread)
{
    give_all(A_THREAD);
}

thread_test(what_a_coroutine_without_hooks_gives_is_told_with_its_thread)
{
    give_all(ONE_UNTOLD);
}

thread_test(what_a_bare_callback_gives_is_told_with_its_thread)
{
    give_all(A_BARE_CALLBACK);
}

static duet_result wait_for_future(void *f)
{
    must_equal(duet_future_wait(f, SURELY, NULL), 0);
    return duet_ok();
}

thread_test(who_waits_for_a_work_is_made_ready_by_that)
{
    struct scene s;
    duet_future *go = open_promise(), *f[4];
    scene_open(&s, 4);
    f[0] = start(s.loop, wait_for_future, go, "coroutine");
    f[1] = queue(s.pool, wait_for_future, go, "job");
    f[2] = queue(s.pool, wait_for_future, f[0], "waits for coroutine");
    f[3] = start(s.loop, wait_for_future, f[1], "waits for job");
    await_told(s.book, "waits for coroutine", PARKED, 1);
    await_told(s.book, "waits for job", PARKED, 1);
    settle(go);
    for (int i = 3; i >= 0; i--)
        must_equal(finish(f[i]).err, 0);
    scene_end(&s);
    must_be_ready_by(s.book, "waits for coroutine", true, id_of(s.book, "coroutine"),
                     the(s.book, "coroutine", SETTLED, 0)->tid);
    must_be_ready_by(s.book, "waits for job", false, id_of(s.book, "job"),
                     the(s.book, "job", SETTLED, 0)->tid);
    duet_future_unref(go);
    scene_close(&s);
}

struct calls {
    struct scene *scene;
    duet_future *go;
};

static duet_result call_only(void *arg)
{
    struct calls *c = arg;
    const duet_opts opts = {.name = "called"};
    must_equal(duet_call_with(c->scene->loop, wait_for_future, c->go, &opts, SURELY, NULL), 0);
    return duet_ok();
}

static duet_result offload_only(void *arg)
{
    struct calls *c = arg;
    const duet_opts opts = {.name = "called"};
    must_equal(duet_offload_with(c->scene->pool, wait_for_future, c->go, &opts, SURELY, NULL), 0);
    return duet_ok();
}

static void call_and_check(duet_fn *fn, bool from_pool)
{
    struct scene s;
    scene_open(&s, 2);
    struct calls c = {&s, open_promise()};
    duet_future *f = from_pool ? queue(s.pool, fn, &c, "caller") : start(s.loop, fn, &c, "caller");
    await_told(s.book, "caller", PARKED, 1);
    await_told(s.book, "called", PARKED, 1);
    settle(c.go);
    must_equal(finish(f).err, 0);
    scene_end(&s);
    must_be_ready_by(s.book, "caller", from_pool, id_of(s.book, "called"),
                     the(s.book, "called", SETTLED, 0)->tid);
    must_equal(the(s.book, "called", SETTLED, 0)->e.parent, id_of(s.book, "caller"));
    duet_future_unref(c.go);
    scene_close(&s);
}

thread_test(who_calls_and_offloads_is_made_ready_by_what_it_called)
{
    for (int from_pool = 0; from_pool < 2; from_pool++) {
        call_and_check(call_only, from_pool);
        call_and_check(offload_only, from_pool);
    }
}

static duet_result wait_in_vain(void *arg)
{
    struct life *life = arg;
    char name[64];
    snprintf(name, sizeof name, "%s", duet_self_name());
    rest(life->book);
    while (told(life->book, name, PARKED) < 2)
        must_equal(duet_future_wait(life->promise, duet_ms(2), NULL), -ETIME);
    return duet_ok();
}

thread_test(nobody_makes_ready_whose_moment_comes)
{
    struct scene s;
    scene_open(&s, 1);
    struct life life = {s.book, open_promise()};
    must_equal(finish(start(s.loop, wait_in_vain, &life, "coroutine")).err, 0);
    must_equal(finish(queue(s.pool, wait_in_vain, &life, "job")).err, 0);
    scene_end(&s);
    must_tell(s.book, "coroutine", "S()p()p().");
    must_tell(s.book, "job", "QB()p()p()E.");
    for (int i = 1; i <= 2; i++) {
        must_equal(the(s.book, "coroutine", STEP_BEGAN, i)->e.by_ns, 0);
        must_equal(the(s.book, "job", STEP_BEGAN, i)->e.by_ns, 0);
    }
    duet_future_unref(life.promise);
    scene_close(&s);
}

static duet_result rest_under_a_shield(void *arg)
{
    struct life *life = arg;
    duet_shield_begin();
    while (!duet_cancelled())
        rest(life->book);
    settle(life->promise);
    rest(life->book);
    duet_shield_end();
    return duet_ok();
}

static void cancel_in_vain(struct book *b, duet_future *f, const char *name, struct life *life)
{
    await_told(b, name, PARKED, 1);
    duet_future_cancel(f);
    must_equal(error_of(life->promise), 0);
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    for (int i = 1; find(b, name, STEP_BEGAN, i); i++)
        must_equal(the(b, name, STEP_BEGAN, i)->e.by_ns, 0);
}

/* What it slept for was a moment, each time. */
thread_test(who_cancels_under_a_shield_makes_nobody_ready)
{
    struct scene s;
    scene_open(&s, 1);
    for (int i = 0; i < 20; i++) {
        char name[32];
        struct life life = {s.book, open_promise()};
        snprintf(name, sizeof name, "work %d", i);
        duet_future *f = i % 2 == 0 ? start(s.loop, rest_under_a_shield, &life, name)
                                    : queue(s.pool, rest_under_a_shield, &life, name);
        cancel_in_vain(s.book, f, name, &life);
        duet_future_unref(life.promise);
    }
    scene_end(&s);
    scene_close(&s);
}

static duet_result wait_then_rest(void *arg)
{
    struct life *life = arg;
    must_equal(duet_future_wait(life->promise, SURELY, NULL), 0);
    rest(life->book);
    return duet_ok();
}

thread_test(who_made_it_ready_before_is_not_told_again)
{
    struct scene s;
    static const char *const names[] = {"coroutine", "job"};
    scene_open(&s, 1);
    struct life life = {s.book, open_promise()};
    duet_future *f[] = {start(s.loop, wait_then_rest, &life, names[0]),
                        queue(s.pool, wait_then_rest, &life, names[1])};
    for (int i = 0; i < 2; i++)
        await_told(s.book, names[i], PARKED, 1);
    settle(life.promise);
    for (int i = 0; i < 2; i++)
        must_equal(finish(f[i]).err, 0);
    scene_end(&s);
    for (int i = 0; i < 2; i++) {
        must_equal(the(s.book, names[i], STEP_BEGAN, 1)->e.by_thread, gettid());
        must_equal(the(s.book, names[i], STEP_BEGAN, 2)->e.by_thread, 0);
    }
    duet_future_unref(life.promise);
    scene_close(&s);
}

thread_test(nobody_makes_a_callback_ready_but_its_moment)
{
    struct scene s;
    scene_open(&s, 1);
    must_equal(finish(duet_call_at(s.loop, duet_ms(5), count_drop, &called_back)).err, 0);
    scene_end(&s);
    must_equal(the(s.book, s.book->entries[0].name, STEP_BEGAN, 0)->e.by_ns, 0);
    scene_close(&s);
}

static duet_result read_byte(void *fd)
{
    char byte;
    must_equal(duet_read(*(int *)fd, &byte, 1, SURELY), 1);
    return duet_ok();
}

thread_test(nobody_makes_ready_whom_the_kernel_answers)
{
    struct scene s;
    int fds[2];
    must_equal(pipe(fds), 0);
    scene_open(&s, 1);
    duet_future *f = start(s.loop, read_byte, &fds[0], "reader");
    await_told(s.book, "reader", PARKED, 1);
    must_equal(write(fds[1], "x", 1), 1);
    must_equal(finish(f).err, 0);
    scene_end(&s);
    must_tell(s.book, "reader", "S()p().");
    must_equal(the(s.book, "reader", STEP_BEGAN, 1)->e.by_ns, 0);
    must_equal(close(fds[0]), 0);
    must_equal(close(fds[1]), 0);
    scene_close(&s);
}

/* ---- What it waits for ---- */

thread_test(parked_says_what_the_work_waits_for)
{
    struct scene s;
    duet_future *promise, *f[3];
    must_equal(duet_future_open_with(&promise, &(duet_opts){.name = "answer"}), 0);
    scene_open(&s, 1);
    f[0] = start(s.loop, wait_for_future, promise, "fetch");
    f[1] = start(s.loop, wait_for_future, f[0], "patient");
    f[2] = start(s.loop, sleep_long, NULL, "sleeper");
    await_told(s.book, "patient", PARKED, 1);
    await_told(s.book, "sleeper", PARKED, 1);
    settle(promise);
    duet_future_cancel(f[2]);
    must_equal(finish(f[2]).err, -ECANCELED);
    must_equal(finish(f[1]).err, 0);
    must_equal(finish(f[0]).err, 0);
    scene_end(&s);
    must(strstr(the(s.book, "fetch", PARKED, 0)->wait, "answer") != NULL);
    must_wait_for(s.book, "patient", "coroutine 'fetch'");
    must_wait_for(s.book, "sleeper", "a moment (duet_sleep)");
    duet_future_unref(promise);
    scene_close(&s);
}

thread_test(a_job_says_what_it_waits_for)
{
    struct scene s;
    duet_future *promise = open_promise(), *f[2];
    scene_open(&s, 2);
    f[0] = queue(s.pool, wait_for_future, promise, "fetch");
    f[1] = queue(s.pool, wait_for_future, f[0], "patient");
    await_told(s.book, "patient", PARKED, 1);
    settle(promise);
    must_equal(finish(f[1]).err, 0);
    must_equal(finish(f[0]).err, 0);
    must_equal(finish(queue(s.pool, take_a_rest, s.book, "sleeper")).err, 0);
    scene_end(&s);
    must(strstr(the(s.book, "patient", PARKED, 0)->wait, "job 'fetch'") != NULL);
    must_wait_for(s.book, "sleeper", "a moment (duet_sleep)");
    duet_future_unref(promise);
    scene_close(&s);
}

static duet_result close_all_kinds(void *arg)
{
    struct scene *s = arg;
    duet_group group = DUET_GROUP_INIT;
    duet_loop *loop[2] = {start_loop(), start_loop()};
    duet_pool *pool[2] = {open_pool(1), open_pool(1)};
    duet_future *f[2] = {queue(s->pool, sleep_long, NULL, "a"),
                         queue(s->pool, sleep_long, NULL, "b")};
    must_equal(duet_group_spawn(&group, s->loop, sleep_long, NULL, NULL), 0);
    if (duet_loop_self())
        must_equal(duet_yield(), 0); /* the child sleeps, and cannot end before this one waits */
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_future_close(f[0], NULL), 0);
    must_equal(duet_future_end(f[1], DUET_NOW, INT64_MAX, NULL), DUET_CANCELLED);
    must_equal(duet_loop_close(loop[0], SURELY), 0);
    must_equal(duet_loop_shutdown(loop[1], duet_sec(20), NULL), 0);
    must_equal(duet_pool_drain(pool[0], SURELY, NULL), 0);
    must_equal(duet_pool_close(pool[0], SURELY), 0);
    must_equal(duet_pool_shutdown(pool[1], duet_sec(20), NULL), 0);
    return duet_ok();
}

/* That it is something, is checked of every event; most of them may be answered at once. */
thread_test(a_close_says_what_it_waits_for)
{
    struct scene s;
    scene_open(&s, 4);
    must_equal(finish(start(s.loop, close_all_kinds, &s, "coroutine")).err, 0);
    must_equal(finish(queue(s.pool, close_all_kinds, &s, "job")).err, 0);
    scene_end(&s);
    must(told(s.book, "coroutine", PARKED) >= 1);
    scene_close(&s);
}

/* A text that is too long is cut, and ends where it must. */
static void ask_with_little_room(struct book *b, enum hook hook, const duet_work_event *e)
{
    static const char moment[] = "a moment (duet_sleep)", nothing[] = "nothing";
    const char *expected = hook == PARKED ? moment : nothing;
    (void)b;
    for (size_t size = 1; size < 30; size++) {
        char buf[32];
        memset(buf, '#', sizeof buf);
        must(duet_work_event_waits_for(e, buf, size) == buf);
        must(buf[size] == '#');
        must(strlen(buf) < size);
        must(strncmp(buf, expected, strlen(buf)) == 0);
        must(strlen(buf) == (strlen(expected) < size ? strlen(expected) : size - 1));
    }
}

thread_test(what_it_waits_for_fits_where_it_is_written)
{
    struct scene s;
    scene_open(&s, 1);
    do_also(s.book, ask_with_little_room, NULL);
    must_equal(finish(start(s.loop, take_a_rest, s.book, "sleeper")).err, 0);
    scene_end(&s);
    must_tell(s.book, "sleeper", "S()p().");
    scene_close(&s);
}

/* ---- How many stand ready ---- */

static bool about(size_t n, size_t expected)
{
    return n + 1 >= expected && n <= expected + 1;
}

thread_test(queued_counts_about_how_many_jobs_are_queued)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    duet_future *f[6];
    static const char *const names[] = {"first", "a", "b", "c", "d", "e"};
    scene_open(&s, 1);
    for (int i = 0; i < 6; i++) {
        f[i] = queue(s.pool, i == 0 ? gate_pass_job : return_ok, &gate, names[i]);
        gate_await_arrivals(&gate, 1);
    }
    gate_open(&gate);
    for (int i = 0; i < 6; i++)
        must_equal(finish(f[i]).err, 0);
    scene_end(&s);
    for (size_t i = 1; i < 6; i++) {
        must(about(the(s.book, names[i], JOB_QUEUED, 0)->e.queued, i));
        must(about(the(s.book, names[i], JOB_BEGAN, 0)->e.queued, 5 - i));
        must(about(the(s.book, names[i], JOB_ENDED, 0)->e.queued, 5 - i));
    }
    scene_close(&s);
}

thread_test(queued_is_there_when_a_work_settles_too)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    duet_future *f[6];
    scene_open(&s, 1);
    for (int i = 0; i < 6; i++)
        f[i] = queue(s.pool, gate_pass_job, &gate, i == 0 ? "first" : "later");
    gate_open(&gate);
    for (int i = 0; i < 6; i++)
        must_equal(finish(f[i]).err, 0);
    scene_end(&s);
    must(about(the(s.book, "first", SETTLED, 0)->e.queued, 5));
    scene_close(&s);
}

static duet_result spawn_five(void *unused)
{
    (void)unused;
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    duet_future *f[5];
    for (int i = 0; i < 5; i++)
        f[i] = duet_spawn_with(return_ok, NULL, &(duet_opts){.name = names[i]});
    for (int i = 0; i < 5; i++)
        must_equal(finish(f[i]).err, 0);
    return duet_ok();
}

thread_test(queued_counts_about_how_many_coroutines_stand_ready)
{
    struct scene s;
    scene_open(&s, 1);
    must_equal(finish(start(s.loop, spawn_five, NULL, "parent")).err, 0);
    scene_end(&s);
    must(about(the(s.book, "e", SPAWNED, 0)->e.queued, 5));
    must(about(the(s.book, "a", STEP_BEGAN, 0)->e.queued, 4));
    must(about(the(s.book, "e", STEP_BEGAN, 0)->e.queued, 0));
    scene_close(&s);
}

/* ---- Tables and slots ---- */

/* A table of a chain: counts its calls by work in its slot, and says when it was called. */
struct link {
    int number;
    struct chain *chain;
    int calls, settled;
};

struct chain {
    int tables, next; /* who must be called next */
    struct link links[8];
    duet_hooks hooks[9];
};

/* One loop's thread and the one that submits to it, which do not meet: the tables are called one
 * after the other for each event, in their order. */
static void call_link(void *ctx, const duet_work_event *e)
{
    struct link *link = ctx;
    must_equal(link->number, link->chain->next);
    link->chain->next = (link->number + 1) % link->chain->tables;
    link->calls++;
    if (*e->slot == 0)
        *e->slot = (uintptr_t)(1000 * (link->number + 1));
    must(*e->slot / 1000 == (uintptr_t)link->number + 1);
    ++*e->slot;
}

static void end_link(void *ctx, const duet_work_event *e)
{
    struct link *link = ctx;
    call_link(ctx, e);
    link->settled++;
    must_equal(*e->slot % 1000,
               6); /* spawned, two steps and their ends, settled; or of a job, one step */
}

static void chain_open(struct chain *c, int tables)
{
    *c = (struct chain){.tables = tables};
    for (int i = 0; i < tables; i++) {
        c->links[i] = (struct link){.number = i, .chain = c};
        c->hooks[i] = (duet_hooks){.ctx = &c->links[i],
                                   .spawned = call_link,
                                   .step_began = call_link,
                                   .step_ended = call_link,
                                   .settled = end_link,
                                   .job_queued = call_link,
                                   .job_began = call_link,
                                   .job_ended = call_link,
                                   .next = i + 1 < tables ? &c->hooks[i + 1] : NULL};
    }
}

static duet_result yield_once(void *unused)
{
    (void)unused;
    must_equal(duet_yield(), 0);
    return duet_ok();
}

static void chain_check(const struct chain *c)
{
    for (int i = 0; i < c->tables; i++) {
        must_equal(c->links[i].calls, 2 * 6);
        must_equal(c->links[i].settled, 2);
    }
}

static void run_chain_of_loop(int tables)
{
    struct chain c;
    struct thread runner;
    duet_loop *loop;
    duet_future *f[2];
    chain_open(&c, tables);
    must_equal(duet_loop_open(&loop, &(duet_loop_config){.hooks = &c.hooks[0]}), 0);
    for (int i = 0; i < 2; i++)
        f[i] = duet_submit(loop, yield_once, NULL);
    thread_start(&runner, run_loop, loop);
    for (int i = 0; i < 2; i++)
        must_equal(finish(f[i]).err, 0);
    close_loop(loop);
    thread_join(&runner);
    chain_check(&c);
}

/* One job after the other: the next one is queued when all of the first has been told. */
static void run_chain_of_pool(int tables)
{
    struct chain c;
    duet_pool *pool;
    chain_open(&c, tables);
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.hooks = &c.hooks[0]}), 0);
    for (int i = 0; i < 2; i++)
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    close_pool(pool);
    chain_check(&c);
}

thread_test(chained_tables_are_called_in_order_each_with_its_slot)
{
    for (int tables = 1; tables <= 8; tables++) {
        run_chain_of_loop(tables);
        run_chain_of_pool(tables);
    }
}

static int open_with(const duet_hooks *hooks, bool of_pool)
{
    duet_loop *loop;
    duet_pool *pool;
    int rc = of_pool ? duet_pool_open(&pool, &(duet_pool_config){.hooks = hooks})
                     : duet_loop_open(&loop, &(duet_loop_config){.hooks = hooks});
    if (rc == 0 && of_pool)
        close_pool(pool);
    else if (rc == 0)
        close_loop(loop);
    return rc;
}

static void must_be_refused(const duet_hooks *hooks)
{
    for (int of_pool = 0; of_pool < 2; of_pool++) {
        log_capture();
        must_equal(open_with(hooks, of_pool), -EINVAL);
        must(log_has("hooks"));
        log_release();
    }
}

thread_test(nine_tables_are_too_many)
{
    duet_hooks tables[9];
    memset(tables, 0, sizeof tables);
    for (int i = 0; i < 8; i++)
        tables[i].next = &tables[i + 1];
    must_equal(open_with(&tables[1], false), 0);
    must_equal(open_with(&tables[1], true), 0);
    must_be_refused(tables);
}

thread_test(a_chain_that_closes_a_circle_is_refused)
{
    duet_hooks tables[3];
    memset(tables, 0, sizeof tables);
    tables[0].next = &tables[0];
    must_be_refused(tables);
    for (int i = 0; i < 3; i++)
        tables[i].next = &tables[(i + 1) % 3];
    must_be_refused(tables);
}

thread_test(what_is_reserved_in_a_table_is_zero)
{
    for (int i = 0; i < 4; i++) {
        duet_hooks first = {.ctx = NULL}, second = {.next = &first};
        first.reserved[i] = 1;
        must_be_refused(&first);
        must_be_refused(&second);
    }
}

static void leave_a_mark(void *ctx, const duet_work_event *e)
{
    (void)ctx;
    must_equal(*e->slot, 0);
    *e->slot = (uintptr_t)malloc(1);
}

static void take_the_mark(void *ctx, const duet_work_event *e)
{
    must(*e->slot != 0);
    free((void *)*e->slot);
    atomic_fetch_add((atomic_int *)ctx, 1);
}

thread_test(a_table_may_have_some_hooks_and_none)
{
    atomic_int taken;
    atomic_init(&taken, 0);
    const duet_hooks none = {.ctx = NULL}, some = {.ctx = &taken,
                                                   .spawned = leave_a_mark,
                                                   .job_queued = leave_a_mark,
                                                   .settled = take_the_mark,
                                                   .next = &none};
    duet_loop *loop;
    duet_pool *pool;
    int yields = 3;
    must_equal(duet_loop_start(&loop, &(duet_loop_config){.hooks = &some}), 0);
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.hooks = &some}), 0);
    must_equal(finish(duet_submit(loop, yield_often, &yields)).err, 0);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    must_equal(atomic_load(&taken), 2);
    duet_future_unref(duet_submit(loop, sleep_long, NULL));
    close_loop(loop);
    close_pool(pool);
    must_equal(atomic_load(&taken), 3);
}

thread_test(the_tables_are_copied)
{
    struct book *b[2] = {book_new(), book_new()};
    duet_hooks *tables = malloc(2 * sizeof *tables);
    duet_loop *loop;
    duet_pool *pool;
    must(tables != NULL);
    tables[0] = table_of(b[0]);
    tables[1] = table_of(b[1]);
    tables[0].next = &tables[1];
    must_equal(duet_loop_start(&loop, &(duet_loop_config){.hooks = tables}), 0);
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.hooks = tables}), 0);
    memset(tables, 0x5a, 2 * sizeof *tables);
    free(tables);
    must_equal(finish(start(loop, yield_five_times, NULL, "coroutine")).err, 0);
    must_equal(finish(queue(pool, return_ok, NULL, "job")).err, 0);
    close_loop(loop);
    close_pool(pool);
    for (int i = 0; i < 2; i++) {
        must_tell(b[i], "coroutine", "S()()()()()().");
        must_tell(b[i], "job", "QB()E.");
        book_close(b[i]);
    }
}

/* ---- Works that never run ---- */

/* They were told of, and settled with err; nothing in between. */
static void must_only_settle(struct book *b, const char *name, int err)
{
    const struct entry *entry = the(b, name, SETTLED, 0);
    must_tell(b, name, strcmp(entry->kind, "job") == 0 ? "Q." : "S.");
    must_equal(entry->e.result.err, err);
}

/* How many of all works settled with err; these never ran. */
static size_t settled_with(const struct book *b, int err)
{
    size_t count = 0;
    for (size_t i = 0; i < b->count; i++)
        count += b->entries[i].hook == SETTLED && b->entries[i].e.result.err == err;
    return count;
}

static void must_not_run(const struct book *b)
{
    for (size_t i = 0; i < b->count; i++)
        must(b->entries[i].hook == SPAWNED || b->entries[i].hook == JOB_QUEUED ||
             b->entries[i].hook == SETTLED);
}

enum {
    MANY = 300
};

/* Until one is refused; how many were accepted. */
static int fill_inbox(duet_loop *loop, duet_future **f, bool with_callbacks)
{
    for (int i = 0; i < MANY; i++) {
        f[i] = with_callbacks
                   ? duet_call_at(loop, DUET_NOW, count_drop, NULL) /* which is never called */
                   : duet_submit(loop, return_ok, NULL);
        if (duet_future_settled(f[i])) {
            must_equal(error_of(f[i]), -EAGAIN);
            return i;
        }
    }
    must(duet_future_settled(f[MANY - 1])); /* an inbox of four does not take so many */
    return 0;
}

static void refuse_at_full_inbox(bool with_callbacks)
{
    struct book *b = book_new();
    duet_loop *loop = open_told_loop(b, 4);
    duet_future *f[MANY];
    int n = fill_inbox(loop, f, with_callbacks);
    must_equal(works_told_of(b), n + 1);
    must_equal(settled_with(b, -EAGAIN), 1);
    close_loop(loop);
    must_not_run(b);
    must_equal(settled_with(b, -ECANCELED), n);
    must_equal(finish(f[n]).err, -EAGAIN);
    for (int i = 0; i < n; i++)
        must_equal(finish(f[i]).err, -ECANCELED);
    book_close(b);
}

thread_test(what_a_full_inbox_refuses_and_a_loop_that_never_ran_is_spawned_and_settled)
{
    refuse_at_full_inbox(false);
    refuse_at_full_inbox(true);
}

static duet_result be_the_only_one(void *unused)
{
    (void)unused;
    duet_future *f = duet_spawn_with(return_ok, NULL, &(duet_opts){.name = "spawned"});
    must_equal(finish(f).err, -EAGAIN);
    f = start(duet_loop_self(), return_ok, NULL, "submitted");
    must_equal(finish(f).err, -EAGAIN);
    return duet_ok();
}

thread_test(a_coroutine_too_many_is_spawned_and_settled)
{
    struct book *b = book_new();
    duet_loop *loop;
    const duet_hooks table = table_of(b);
    const duet_loop_config config = {.coroutines_max = 1, .hooks = &table};
    must_equal(duet_loop_start(&loop, &config), 0);
    must_equal(finish(start(loop, be_the_only_one, NULL, "only")).err, 0);
    close_loop(loop);
    must_only_settle(b, "spawned", -EAGAIN);
    must_only_settle(b, "submitted", -EAGAIN);
    must_equal(the(b, "spawned", SETTLED, 0)->e.parent, id_of(b, "only"));
    book_close(b);
}

thread_test(what_a_full_pool_refuses_is_queued_and_settled)
{
    struct book *b = book_new();
    struct gate gate = GATE_INIT;
    duet_pool *pool = open_told_pool_with(
        b, (duet_pool_config){.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_REFUSE});
    duet_future *held = queue(pool, gate_pass_job, &gate, "held");
    gate_await_arrivals(&gate, 1);
    duet_future *waiting = queue(pool, return_ok, NULL, "waiting");
    must_equal(finish(queue(pool, return_ok, NULL, "refused")).err, -EAGAIN);
    must_only_settle(b, "refused", -EAGAIN);
    gate_open(&gate);
    must_equal(finish(waiting).err, 0);
    must_equal(finish(held).err, 0);
    close_pool(pool);
    must_tell(b, "waiting", "QB()E.");
    book_close(b);
}

thread_test(what_comes_after_the_end_is_told_and_settled)
{
    struct book *b = book_new();
    duet_loop *loop = open_told_loop(b, 0);
    duet_pool *pool = open_told_pool(b, 1);
    duet_loop_stop(loop);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(finish(start(loop, return_ok, NULL, "coroutine")).err, -ESHUTDOWN);
    must_equal(finish(queue(pool, return_ok, NULL, "job")).err, -ESHUTDOWN);
    must_equal(finish(duet_call_at(loop, DUET_NOW, count_drop, NULL)).err, -ESHUTDOWN);
    must_only_settle(b, "coroutine", -ESHUTDOWN);
    must_only_settle(b, "job", -ESHUTDOWN);
    must_equal(works_told_of(b), 3);
    must_equal(settled_with(b, -ESHUTDOWN), 3);
    close_loop(loop);
    close_pool(pool);
    must_not_run(b);
    book_close(b);
}

static duet_result start_what_is_wrong(void *arg)
{
    struct scene *s = arg;
    const duet_opts wrong[] = {
        {.flags = 1u << 31}, {.priority = 2}, {.reserved = {1}}, {.reserved = {0, 0, 0, 1}}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        if (wrong[i].priority == 0) /* of a coroutine it is not said to be wrong */
            must_equal(finish(duet_submit_with(s->loop, return_ok, NULL, &wrong[i])).err, -EINVAL);
        must_equal(finish(duet_pool_submit_with(s->pool, return_ok, NULL, &wrong[i])).err, -EINVAL);
    }
    must_equal(finish(duet_submit(s->loop, NULL, NULL)).err, -EINVAL);
    must_equal(finish(duet_pool_submit(s->pool, NULL, NULL)).err, -EINVAL);
    must_equal(finish(duet_call_at(s->loop, DUET_NOW, NULL, NULL)).err, -EINVAL);
    if (duet_loop_self())
        must_equal(finish(duet_spawn(NULL, NULL)).err, -EINVAL);
    return duet_ok();
}

thread_test(what_is_wrong_is_never_told)
{
    struct scene s;
    scene_open(&s, 1);
    log_capture();
    must_equal(start_what_is_wrong(&s).err, 0);
    must_equal(finish(start(s.loop, start_what_is_wrong, &s, "wrong")).err, 0);
    must_equal(finish(queue(s.pool, start_what_is_wrong, &s, "wrong too")).err, 0);
    log_release();
    scene_end(&s);
    must_equal(works_told_of(s.book), 2);
    must_equal(settled_with(s.book, -EINVAL), 0);
    scene_close(&s);
}

thread_test(a_coroutine_that_asks_for_too_large_a_stack_is_never_told)
{
    struct scene s;
    scene_open(&s, 1);
    log_capture();
    const duet_opts opts = {.stack_size = (size_t)1 << 50};
    must_equal(finish(duet_submit_with(s.loop, return_ok, NULL, &opts)).err, -EINVAL);
    log_release();
    scene_end(&s);
    must_equal(s.book->count, 0);
    scene_close(&s);
}

#ifndef TEST_SANITIZED /* whose own memory is beyond any limit */
static void limit_memory(struct rlimit *before)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    must(file != NULL);
    must_equal(fscanf(file, "%lu", &pages), 1);
    must_equal(fclose(file), 0);
    must_equal(getrlimit(RLIMIT_AS, before), 0);
    struct rlimit limit = *before;
    limit.rlim_cur = pages * (unsigned long)sysconf(_SC_PAGESIZE) + (64ul << 20);
    must_equal(setrlimit(RLIMIT_AS, &limit), 0);
}

/* It could be made: that it cannot start is found when it would. */
thread_test(a_coroutine_without_memory_for_its_stack_is_spawned_and_settled)
{
    struct scene s;
    struct rlimit before;
    const duet_opts opts = {.name = "large", .stack_size = (size_t)1 << 30};
    scene_open(&s, 1);
    limit_memory(&before);
    log_capture();
    must_equal(finish(duet_submit_with(s.loop, return_ok, NULL, &opts)).err, -ENOMEM);
    log_release();
    must_equal(setrlimit(RLIMIT_AS, &before), 0);
    scene_end(&s);
    must_only_settle(s.book, "large", -ENOMEM);
    scene_close(&s);
}
#endif

thread_test(what_is_cancelled_before_it_starts_is_told_and_settled)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    scene_open(&s, 1);
    duet_loop *loop = open_told_loop(s.book, 0);
    duet_future *held = queue(s.pool, gate_pass_job, &gate, "held");
    gate_await_arrivals(&gate, 1);
    duet_future *f[] = {start(loop, return_ok, NULL, "coroutine"),
                        queue(s.pool, return_ok, NULL, "job"),
                        duet_call_at(s.loop, duet_sec(3600), count_drop, NULL)};
    for (int i = 0; i < 3; i++)
        duet_future_cancel(f[i]);
    close_loop(loop);
    for (int i = 0; i < 3; i++)
        must_equal(finish(f[i]).err, -ECANCELED);
    must_only_settle(s.book, "coroutine", -ECANCELED);
    must_only_settle(s.book, "job", -ECANCELED);
    must_equal(settled_with(s.book, -ECANCELED), 3);
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    scene_end(&s);
    must_equal(works_told_of(s.book), 4);
    scene_close(&s);
}

thread_test(what_a_loop_never_ran_is_settled_by_its_close)
{
    struct book *b = book_new();
    duet_loop *loop = open_told_loop(b, 0);
    duet_future *f[] = {start(loop, return_ok, NULL, "coroutine"),
                        duet_call_at(loop, DUET_NOW, count_drop, NULL),
                        duet_call_at(loop, duet_sec(3600), count_drop, NULL)};
    close_loop(loop);
    must_equal(settled_with(b, -ECANCELED), 3);
    must_not_run(b);
    for (int i = 0; i < 3; i++)
        must_equal(finish(f[i]).err, -ECANCELED);
    book_close(b);
}

static duet_result call_in_vain(void *arg)
{
    struct scene *s = arg;
    must_equal(duet_call(s->loop, return_ok, NULL, duet_ns(-1), NULL), -ETIME);
    must_equal(duet_offload(s->pool, return_ok, NULL, duet_ns(-1), NULL), -ETIME);
    return duet_ok();
}

thread_test(a_call_that_comes_too_late_tells_of_no_step)
{
    struct scene s;
    scene_open(&s, 1);
    must_equal(call_in_vain(&s).err, 0);
    scene_end(&s);
    must_not_run(s.book);
    scene_close(&s);
}

static duet_result queue_one_more(void *pool)
{
    return finish(queue(pool, return_ok, NULL, "late"));
}

thread_test(who_is_cancelled_while_it_waits_for_room_settles_what_it_queued)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    scene_open(&s, 1);
    duet_pool *pool =
        open_told_pool_with(s.book, (duet_pool_config){.workers_max = 1, .queue_max = 1});
    duet_future *held[2] = {queue(pool, gate_pass_job, &gate, "held"), NULL};
    gate_await_arrivals(&gate, 1);
    held[1] = queue(pool, return_ok, NULL, "full");
    duet_future *f = start(s.loop, queue_one_more, pool, "submitter");
    await_told(s.book, "submitter", PARKED, 1);
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    must_only_settle(s.book, "late", -ECANCELED);
    must_equal(told(s.book, "submitter", PARKED), 1);
    gate_open(&gate);
    must_equal(finish(held[0]).err + finish(held[1]).err, 0);
    close_pool(pool);
    scene_end(&s);
    scene_close(&s);
}

thread_test(a_job_that_waited_for_room_has_its_whole_story)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    scene_open(&s, 1);
    duet_pool *pool =
        open_told_pool_with(s.book, (duet_pool_config){.workers_max = 1, .queue_max = 1});
    duet_future *held[2] = {queue(pool, gate_pass_job, &gate, "held"), NULL};
    gate_await_arrivals(&gate, 1);
    held[1] = queue(pool, return_ok, NULL, "full");
    duet_future *f = start(s.loop, queue_one_more, pool, "submitter");
    await_told(s.book, "submitter", PARKED, 1);
    must_equal(told(s.book, "late", JOB_QUEUED), 1);
    gate_open(&gate);
    must_equal(finish(f).err + finish(held[0]).err + finish(held[1]).err, 0);
    close_pool(pool);
    scene_end(&s);
    must_tell(s.book, "late", "QB()E.");
    must_equal(the(s.book, "late", SETTLED, 0)->e.parent, id_of(s.book, "submitter"));
    scene_close(&s);
}

thread_test(what_a_close_finds_queued_is_settled_and_what_runs_ends)
{
    struct book *b = book_new();
    struct gate gate = GATE_INIT;
    duet_pool *pool = open_told_pool(b, 1);
    duet_future *held = queue(pool, gate_pass_job, &gate, "held");
    gate_await_arrivals(&gate, 1);
    duet_future *f = queue(pool, return_ok, NULL, "queued");
    log_capture();
    must_equal(duet_pool_close(pool, duet_ms(1)), -ETIME);
    log_release();
    must_only_settle(b, "queued", -ECANCELED);
    must_equal(finish(f).err, -ECANCELED);
    must_tell(b, "held", "QB(");
    gate_open(&gate);
    close_pool(pool);
    must_tell(b, "held", "QB()E.");
    must_equal(finish(held).err, 0);
    book_close(b);
}

static void submit_in_child(struct scene *s)
{
    must_equal(finish(duet_submit(s->loop, return_ok, NULL)).err, -EOWNERDEAD);
    must_equal(finish(duet_pool_submit(s->pool, return_ok, NULL)).err, -EOWNERDEAD);
    must_not_run(s->book);
    book_check(s->book); /* what was told, if anything, has settled */
    _exit(0);
}

thread_test(what_a_forked_child_cannot_start_settles_if_it_was_told)
{
    struct scene s;
    int status;
    scene_open(&s, 1);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0)
        submit_in_child(&s);
    must_equal(waitpid(child, &status, 0), child);
    must_equal(status, 0);
    scene_end(&s);
    must_equal(s.book->count, 0);
    scene_close(&s);
}

/* ---- Works that are cancelled while they run ---- */

thread_test(what_is_cancelled_while_it_waits_ends_its_story)
{
    struct scene s;
    scene_open(&s, 2);
    const duet_opts opts = {.name = "interrupted", .flags = DUET_INTERRUPT};
    static const char *const names[] = {"coroutine", "job", "interrupted"};
    duet_future *f[] = {start(s.loop, sleep_long, NULL, names[0]),
                        queue(s.pool, sleep_long, NULL, names[1]),
                        duet_pool_submit_with(s.pool, sleep_long, NULL, &opts)};
    for (int i = 0; i < 3; i++) {
        await_told(s.book, names[i], PARKED, 1);
        duet_future_cancel(f[i]);
        must_equal(finish(f[i]).err, -ECANCELED);
        must_tell(s.book, names[i], i == 0 ? "S()p()." : "QB()p()E.");
        must_equal(the(s.book, names[i], SETTLED, 0)->e.result.err, -ECANCELED);
    }
    scene_end(&s);
    scene_close(&s);
}

static duet_result wait_shielded(void *promise)
{
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
    duet_shield_begin();
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    duet_shield_end();
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
    return duet_ok();
}

thread_test(a_wait_under_a_shield_is_told_and_one_that_was_cancelled_before_is_not)
{
    struct scene s;
    duet_future *promise = open_promise();
    static const char *const names[] = {"coroutine", "job"};
    scene_open(&s, 1);
    duet_future *f[] = {start(s.loop, wait_shielded, promise, names[0]),
                        queue(s.pool, wait_shielded, promise, names[1])};
    for (int i = 0; i < 2; i++) {
        await_told(s.book, names[i], PARKED, 1);
        duet_future_cancel(f[i]);
        await_told(s.book, names[i], PARKED, 2);
    }
    settle(promise);
    for (int i = 0; i < 2; i++)
        must_equal(finish(f[i]).err, 0);
    scene_end(&s);
    for (int i = 0; i < 2; i++)
        must_equal(told(s.book, names[i], PARKED), 2);
    duet_future_unref(promise);
    scene_close(&s);
}

struct pair {
    duet_future *f[2];
    atomic_int stuck;
};

static duet_result wait_for_other(void *arg)
{
    struct pair *pair = arg;
    const int self = strcmp(duet_self_name(), "b") == 0;
    if (duet_future_wait(pair->f[!self], SURELY, NULL) == -EDEADLK)
        atomic_fetch_add(&pair->stuck, 1);
    return duet_ok();
}

thread_test(a_circle_of_waits_ends_two_whole_stories)
{
    struct book *b = book_new();
    struct thread runner;
    duet_loop *loop = open_told_loop(b, 0);
    struct pair pair = {{NULL}, 0};
    pair.f[0] = start(loop, wait_for_other, &pair, "a");
    pair.f[1] = start(loop, wait_for_other, &pair, "b");
    log_capture();
    thread_start(&runner, run_loop, loop);
    must_equal(error_of(pair.f[0]) + error_of(pair.f[1]), 0);
    log_release();
    close_loop(loop);
    thread_join(&runner);
    must_equal(atomic_load(&pair.stuck), 1);
    must_tell(b, "a", "S()p().");
    must_tell(b, "b", "S()p().");
    duet_future_unref(pair.f[0]);
    duet_future_unref(pair.f[1]);
    book_close(b);
}

struct blocked {
    int fd;
    struct gate reads;
};

static duet_result block_in_read(void *arg)
{
    struct blocked *blocked = arg;
    char byte;
    gate_pass(&blocked->reads);
    while (read(blocked->fd, &byte, 1) < 0 && errno == EINTR)
        if (duet_cancelled())
            return duet_err(-ECANCELED);
    must(duet_cancelled()); /* there is nothing to read */
    return duet_ok();
}

thread_test(a_job_that_is_interrupted_in_a_system_call_has_had_one_step)
{
    struct scene s;
    int fds[2];
    must_equal(pipe(fds), 0);
    struct blocked blocked = {.fd = fds[0], .reads = GATE_INIT};
    scene_open(&s, 1);
    gate_open(&blocked.reads);
    const duet_opts opts = {.name = "blocked", .flags = DUET_INTERRUPT};
    duet_future *f = duet_pool_submit_with(s.pool, block_in_read, &blocked, &opts);
    gate_await_arrivals(&blocked.reads, 1);
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    scene_end(&s);
    must_tell(s.book, "blocked", "QB()E.");
    must_equal(close(fds[0]), 0);
    must_equal(close(fds[1]), 0);
    scene_close(&s);
}

thread_test(a_close_ends_all_stories)
{
    struct scene s;
    scene_open(&s, 1);
    duet_future *f[4] = {start(s.loop, sleep_long, NULL, "coroutine"),
                         queue(s.pool, sleep_long, NULL, "job"), NULL, NULL};
    await_told(s.book, "coroutine", PARKED, 1);
    await_told(s.book, "job", PARKED, 1);
    f[2] = start(s.loop, sleep_long, NULL, "late coroutine");
    f[3] = queue(s.pool, sleep_long, NULL, "late job");
    scene_end(&s); /* whether the late ones have begun, is open */
    must_tell(s.book, "coroutine", "S()p().");
    must_tell(s.book, "job", "QB()p()E.");
    must_equal(works_told_of(s.book), 4);
    must_equal(settled_with(s.book, -ECANCELED), 4);
    for (int i = 0; i < 4; i++)
        must_equal(finish(f[i]).err, -ECANCELED);
    scene_close(&s);
}

/* A sanitizer starts a thread of its own with the first one of the program. */
static void begin_threads(void *unused)
{
    (void)unused;
}

thread_test(a_job_that_was_left_behind_ends_its_story_when_it_ends)
{
    struct book *b = book_new();
    struct gate gate = GATE_INIT;
    struct thread first;
    thread_start(&first, begin_threads, NULL);
    thread_join(&first);
    int before = count_threads();
    duet_pool *pool = open_told_pool(b, 1);
    duet_future *f = queue(pool, gate_pass_job, &gate, "deaf");
    gate_await_arrivals(&gate, 1);
    log_capture();
    must_equal(duet_pool_shutdown(pool, duet_ms(20), NULL), -ETIME);
    must_tell(b, "deaf", "QB(");
    gate_open(&gate);
    must_equal(finish(f).err, 0);
    must_tell(b, "deaf", "QB()E.");
    log_release();
    await_threads(before); /* its pool frees itself */
    book_close(b);
}

/* ---- What a hook may do ---- */

struct temptation {
    duet_loop *loop; /* these have no hooks */
    duet_pool *pool;
    duet_future *pending, *settled;
    duet_mutex held, free;
    struct thread holder;
    struct gate gate; /* until which the mutex is held */
    atomic_int tried[HOOKS];
};

static void try_to_wait(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct temptation *t = b->arg;
    (void)e;
    must_equal(duet_sleep(duet_sec(3600)), -EDEADLK);
    must_equal(duet_future_wait(t->pending, SURELY, NULL), -EDEADLK);
    must_equal(duet_future_wait(t->settled, SURELY, NULL), 0);
    must_equal(duet_mutex_lock(&t->held, SURELY), -EDEADLK);
    must_equal(duet_mutex_lock(&t->held, DUET_NOW), -ETIME);
    must_equal(duet_offload(t->pool, return_ok, NULL, SURELY, NULL), -EDEADLK);
    must_equal(duet_call(t->loop, return_ok, NULL, SURELY, NULL), -EDEADLK);
    atomic_fetch_add(&t->tried[hook], 1);
}

static void hold_the_mutex(void *arg)
{
    struct temptation *t = arg;
    must_equal(duet_mutex_lock(&t->held, SURELY), 0);
    gate_pass(&t->gate);
    must_equal(duet_mutex_unlock(&t->held), 0);
}

static void temptation_open(struct temptation *t)
{
    *t = (struct temptation){.loop = start_loop(), .pool = open_pool(1)};
    t->pending = open_promise();
    t->settled = open_promise();
    settle(t->settled);
    t->gate = (struct gate)GATE_INIT;
    thread_start(&t->holder, hold_the_mutex, t);
    gate_await_arrivals(&t->gate, 1);
}

static void temptation_close(struct temptation *t)
{
    gate_open(&t->gate);
    thread_join(&t->holder);
    duet_future_unref(t->pending);
    duet_future_unref(t->settled);
    close_loop(t->loop);
    close_pool(t->pool);
}

thread_test(a_hook_that_would_wait_is_refused_at_once)
{
    struct scene s;
    struct temptation t;
    temptation_open(&t);
    scene_open(&s, 1);
    log_capture();
    do_also(s.book, try_to_wait, &t);
    must_equal(finish(start(s.loop, take_a_rest, s.book, "coroutine")).err, 0);
    must_equal(finish(start(s.loop, yield_five_times, NULL, "polite")).err, 0);
    must_equal(finish(queue(s.pool, take_a_rest, s.book, "job")).err, 0);
    must_equal(finish(duet_call_at(s.loop, duet_ms(1), count_drop, &called_back)).err, 0);
    duet_future *f = duet_call_at(s.loop, duet_sec(3600), count_drop, NULL);
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    scene_end(&s);
    must_tell(s.book, "coroutine", "S()p().");
    must_tell(s.book, "polite", "S()()()()()().");
    must_tell(s.book, "job", "QB()p()E.");
    for (int i = 0; i < HOOKS; i++)
        must(atomic_load(&t.tried[i]) > 0);
    log_release();
    scene_close(&s);
    temptation_close(&t);
}

/* A mutex that is free may be taken, and let go, in a hook, whoever holds what else. */
static void lock_what_is_free(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct temptation *t = b->arg;
    (void)e;
    must_equal(duet_mutex_lock(&t->free, SURELY), 0);
    must_equal(duet_mutex_unlock(&t->free), 0);
    atomic_fetch_add(&t->tried[hook], 1);
}

thread_test(a_wait_in_a_hook_that_is_answered_at_once_is_fine)
{
    struct scene s;
    struct temptation t;
    temptation_open(&t);
    scene_open(&s, 1);
    do_also(s.book, lock_what_is_free, &t);
    must_equal(finish(start(s.loop, take_a_rest, s.book, "coroutine")).err, 0);
    must_equal(finish(queue(s.pool, take_a_rest, s.book, "job")).err, 0);
    scene_end(&s);
    must_tell(s.book, "coroutine", "S()p().");
    must_tell(s.book, "job", "QB()p()E.");
    scene_close(&s);
    temptation_close(&t);
}

/* Each event of a work that is called a seed starts a coroutine and a job. */
static void sow(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct scene *s = b->arg;
    (void)hook;
    if (strncmp(e->name, "seed", 4) != 0)
        return;
    duet_future_unref(start(s->loop, return_ok, NULL, "sprout"));
    duet_future_unref(queue(s->pool, return_ok, NULL, "sprout job"));
    if (duet_loop_self() == s->loop)
        duet_future_unref(duet_spawn_with(return_ok, NULL, &(duet_opts){.name = "spawned sprout"}));
}

static size_t count_named(const struct book *b, const char *name, enum hook hook)
{
    size_t count = 0;
    for (size_t i = 0; i < b->count; i++)
        count += is(&b->entries[i], name, hook);
    return count;
}

/* A hook is a bare callback, and so no work. */
static void must_have_no_parents(struct book *b, const char *name)
{
    for (size_t i = 0; i < b->count; i++)
        if (strcmp(b->entries[i].name, name) == 0)
            must_equal(b->entries[i].e.parent, 0);
}

thread_test(a_hook_may_start_work)
{
    struct scene s;
    scene_open(&s, 2);
    do_also(s.book, sow, &s);
    must_equal(finish(start(s.loop, take_a_rest, s.book, "seed")).err, 0);
    must_equal(finish(queue(s.pool, take_a_rest, s.book, "seed job")).err, 0);
    const size_t events = strlen("S()p().") + strlen("QB()p()E.");
    const size_t of_loop = strlen("S()p().") - 1; /* spawned is not told by its thread */
    await_told(s.book, "sprout", SETTLED, (int)events);
    await_told(s.book, "sprout job", SETTLED, (int)events);
    await_told(s.book, "spawned sprout", SETTLED, (int)of_loop);
    scene_end(&s);
    must_tell(s.book, "seed", "S()p().");
    must_tell(s.book, "seed job", "QB()p()E.");
    must_have_no_parents(s.book, "sprout");
    must_have_no_parents(s.book, "spawned sprout");
    must_have_no_parents(s.book, "sprout job");
    must_equal(count_named(s.book, "sprout", SPAWNED), events);
    must_equal(count_named(s.book, "sprout", STEP_ENDED), events);
    must_equal(count_named(s.book, "sprout job", JOB_ENDED), events);
    must_equal(count_named(s.book, "spawned sprout", STEP_ENDED), of_loop);
    scene_close(&s);
}

thread_test(a_hook_may_start_work_though_its_own_never_runs)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    scene_open(&s, 1);
    duet_loop *loop = open_told_loop(s.book, 0);
    duet_pool *pool = open_told_pool_with(
        s.book,
        (duet_pool_config){.workers_max = 1, .queue_max = 2, .when_full = DUET_FULL_REFUSE});
    duet_future *held = queue(pool, gate_pass_job, &gate, "held");
    gate_await_arrivals(&gate, 1);
    do_also(s.book, sow, &s);
    duet_future *f[] = {queue(pool, return_ok, NULL, "seed cancelled"),
                        queue(pool, return_ok, NULL, "seed closed"),
                        queue(pool, return_ok, NULL, "seed refused"),
                        start(loop, return_ok, NULL, "seed cancelled"),
                        start(loop, return_ok, NULL, "seed closed")};
    duet_future_cancel(f[0]);
    duet_future_cancel(f[3]);
    close_loop(loop);
    log_capture();
    must_equal(duet_pool_close(pool, duet_ms(1)), -ETIME);
    log_release();
    for (int i = 0; i < 5; i++)
        must_equal(finish(f[i]).err, i == 2 ? -EAGAIN : -ECANCELED);
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    close_pool(pool);
    await_told(s.book, "sprout", SETTLED, 10); /* two events of each seed */
    await_told(s.book, "sprout job", SETTLED, 10);
    scene_end(&s);
    must_equal(count_named(s.book, "sprout", SPAWNED), 10);
    must_equal(count_named(s.book, "sprout job", JOB_ENDED), 10);
    scene_close(&s);
}

static void cancel_the_group(struct book *b, enum hook hook, const duet_work_event *e)
{
    (void)hook;
    if (strcmp(e->name, "owner") != 0)
        duet_group_cancel(b->arg);
}

static duet_result own_a_group(void *arg)
{
    struct scene *s = arg;
    duet_group group = DUET_GROUP_INIT;
    struct gate gate = GATE_INIT;
    duet_future *held = queue(s->pool, gate_pass_job, &gate, "held");
    gate_await_arrivals(&gate, 1);
    (void)duet_group_add(&group, queue(s->pool, sleep_long, NULL, "queued"));
    must_equal(duet_group_spawn(&group, NULL, sleep_long, NULL, NULL), 0);
    must_equal(duet_yield(), 0);
    do_also(s->book, cancel_the_group, &group);
    must_equal(duet_group_spawn(&group, s->loop, fail_eio, NULL, NULL), 0);
    must_equal(duet_group_wait(&group, SURELY, NULL), 0);
    do_also(s->book, NULL, NULL);
    must_equal(duet_group_close(&group), 0);
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    return duet_ok();
}

thread_test(a_hook_may_cancel_the_group_of_its_work)
{
    struct scene s;
    scene_open(&s, 1);
    must_equal(finish(start(s.loop, own_a_group, &s, "owner")).err, 0);
    scene_end(&s);
    must_only_settle(s.book, "queued", -ECANCELED);
    scene_close(&s);
}

/* Acts within the hooks of the work "self", at one of its events. */
struct act {
    enum hook when;
    duet_future *self, *promise;
    duet_loop *loop;
    atomic_int done;
};

static bool is_the_moment(struct act *act, enum hook hook, const duet_work_event *e)
{
    return hook == act->when && strcmp(e->name, "self") == 0 && !atomic_exchange(&act->done, 1);
}

static void settle_it(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct act *act = b->arg;
    if (is_the_moment(act, hook, e))
        settle(act->promise);
}

static void act_on_what_it_waits_for(enum hook when, bool in_pool)
{
    struct scene s;
    struct act act = {.when = when, .promise = open_promise()};
    scene_open(&s, 1);
    do_also(s.book, settle_it, &act);
    duet_future *f = in_pool ? queue(s.pool, wait_for_future, act.promise, "self")
                             : start(s.loop, wait_for_future, act.promise, "self");
    must_equal(finish(f).err, 0);
    scene_end(&s);
    must_equal(atomic_load(&act.done), 1);
    if (when == PARKED)
        must_tell(s.book, "self", in_pool ? "QB()p()E." : "S()p().");
    duet_future_unref(act.promise);
    scene_close(&s);
}

/* Told that it waits, for what a hook settles at that moment, it goes on. */
thread_test(a_hook_may_settle_what_its_own_work_is_about_to_wait_for)
{
    static const enum hook moments[] = {STEP_BEGAN, STEP_ENDED, PARKED};
    for (int i = 0; i < 3; i++)
        for (int in_pool = 0; in_pool < 2; in_pool++)
            act_on_what_it_waits_for(moments[i], in_pool);
}

static void cancel_it(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct act *act = b->arg;
    if (is_the_moment(act, hook, e))
        duet_future_cancel(act->self);
}

static duet_result sleep_twice(void *promise)
{
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    return sleep_long(NULL);
}

/* In its second wait, when its handle is surely known. */
static void act_on_itself(enum hook when, const duet_opts *opts, bool in_pool)
{
    struct scene s;
    struct act act = {.when = when, .promise = open_promise()};
    scene_open(&s, 1);
    act.self = in_pool ? duet_pool_submit_with(s.pool, sleep_twice, act.promise, opts)
                       : duet_submit_with(s.loop, sleep_twice, act.promise, opts);
    await_told(s.book, "self", PARKED, 1);
    do_also(s.book, cancel_it, &act);
    settle(act.promise);
    must_equal(finish(act.self).err, -ECANCELED);
    scene_end(&s);
    must_equal(atomic_load(&act.done), 1);
    duet_future_unref(act.promise);
    scene_close(&s);
}

thread_test(a_hook_may_cancel_its_own_work)
{
    static const enum hook moments[] = {STEP_BEGAN, STEP_ENDED, PARKED};
    const duet_opts plain = {.name = "self"},
                    interrupted = {.name = "self", .flags = DUET_INTERRUPT};
    for (int i = 0; i < 3; i++) {
        act_on_itself(moments[i], &plain, false);
        act_on_itself(moments[i], &plain, true);
        act_on_itself(moments[i], &interrupted, true);
    }
}

static void let_go_of_it(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct act *act = b->arg;
    if (is_the_moment(act, hook, e))
        duet_future_unref(act->self);
}

thread_test(a_hook_may_let_go_of_its_own_work)
{
    for (int in_pool = 0; in_pool < 2; in_pool++) {
        struct scene s;
        struct act act = {.when = SETTLED, .promise = open_promise()};
        scene_open(&s, 1);
        act.self = in_pool ? queue(s.pool, wait_for_future, act.promise, "self")
                           : start(s.loop, wait_for_future, act.promise, "self");
        await_told(s.book, "self", PARKED, 1);
        do_also(s.book, let_go_of_it, &act);
        settle(act.promise);
        await_told(s.book, "self", SETTLED, 1);
        scene_end(&s);
        must_equal(atomic_load(&act.done), 1);
        duet_future_unref(act.promise);
        scene_close(&s);
    }
}

/* Long enough to park, and no longer than until the loop is stopped. */
static duet_result sleep_a_little(void *unused)
{
    (void)unused;
    return duet_err(duet_sleep(duet_ms(50)));
}

static void stop_its_loop(struct book *b, enum hook hook, const duet_work_event *e)
{
    struct act *act = b->arg;
    if (is_the_moment(act, hook, e))
        duet_loop_stop(act->loop);
}

thread_test(a_hook_may_stop_the_loop_whatever_is_told)
{
    static const enum hook moments[] = {SPAWNED, STEP_BEGAN, STEP_ENDED, PARKED, SETTLED};
    for (int i = 0; i < 5; i++) {
        struct scene s;
        scene_open(&s, 1);
        struct act act = {.when = moments[i], .loop = s.loop};
        do_also(s.book, stop_its_loop, &act);
        int err = finish(start(s.loop, sleep_a_little, NULL, "self")).err;
        must(err == 0 || err == -ESHUTDOWN || err == -ECANCELED);
        scene_end(&s);
        must_equal(atomic_load(&act.done), 1);
        scene_close(&s);
    }
}

static void spoil_errno(struct book *b, enum hook hook, const duet_work_event *e)
{
    (void)b;
    (void)hook;
    (void)e;
    errno = EXDEV;
}

static duet_result keep_errno(void *arg)
{
    struct life *life = arg;
    errno = ENOTTY;
    must_equal(duet_sleep(duet_ms(2)), 0);
    must_equal(errno, ENOTTY);
    must_equal(duet_future_wait(life->promise, SURELY, NULL), 0);
    must_equal(errno, ENOTTY);
    return duet_ok();
}

static duet_result keep_errno_in_coroutine(void *arg)
{
    errno = EISDIR;
    must_equal(duet_yield(), 0);
    must_equal(errno, EISDIR);
    duet_future_unref(duet_spawn(return_ok, NULL));
    must_equal(errno, EISDIR);
    return keep_errno(arg);
}

static void keep_errno_here(struct scene *s)
{
    struct gate gate = GATE_INIT;
    errno = EISDIR;
    duet_future *f[3] = {duet_submit(s->loop, return_ok, NULL),
                         duet_pool_submit(s->pool, gate_pass_job, &gate), NULL};
    must_equal(errno, EISDIR);
    gate_await_arrivals(&gate, 1);
    errno = EISDIR;
    f[2] = duet_pool_submit(s->pool, return_ok, NULL);
    duet_future_cancel(f[2]);
    must_equal(errno, EISDIR);
    gate_open(&gate);
    for (int i = 0; i < 3; i++)
        (void)finish(f[i]);
}

thread_test(a_hook_leaves_errno_to_the_work)
{
    struct scene s;
    scene_open(&s, 1);
    struct life life = {s.book, open_promise()};
    do_also(s.book, spoil_errno, NULL);
    duet_future *f = start(s.loop, keep_errno_in_coroutine, &life, "coroutine");
    duet_future *job = queue(s.pool, keep_errno, &life, "job");
    await_told(s.book, "job", PARKED, 1);
    settle(life.promise);
    must_equal(finish(f).err, 0);
    must_equal(finish(job).err, 0);
    keep_errno_here(&s);
    scene_end(&s);
    duet_future_unref(life.promise);
    scene_close(&s);
}

/* ---- The context ---- */

static const duet_key color = {.name = "color"};
static char red[] = "red", blue[] = "blue", green[] = "green";

/* The name of a work begins with its color, but for its last step. */
static void see_the_color(struct book *b, enum hook hook, const duet_work_event *e)
{
    atomic_int *seen = b->arg;
    (void)hook;
    const char *value = duet_context_get(&color);
    must(value != NULL);
    must(strncmp(e->name, value, strlen(value)) == 0);
    atomic_fetch_add(seen, 1);
}

static duet_result queue_in_color(void *arg)
{
    struct scene *s = arg;
    must_equal(finish(queue(s->pool, take_a_rest, s->book, "red job")).err, 0);
    must_equal(finish(start(s->loop, yield_five_times, NULL, "red coroutine")).err, 0);
    return duet_ok();
}

static void cancel_in_blue(void *f)
{
    must_equal(duet_context_set(&color, blue), 0);
    duet_future_cancel(f);
    must(duet_context_get(&color) == blue);
}

thread_test(a_hook_sees_the_context_of_the_work)
{
    struct scene s;
    struct gate gate = GATE_INIT;
    struct thread canceller;
    atomic_int seen;
    atomic_init(&seen, 0);
    scene_open(&s, 1);
    do_also(s.book, see_the_color, &seen);
    must_equal(duet_context_set(&color, red), 0);
    must_equal(finish(start(s.loop, queue_in_color, &s, "red parent")).err, 0);
    must_equal(
        finish(duet_pool_submit_with(s.pool, return_ok, NULL, &(duet_opts){.name = "red"})).err, 0);
    duet_future *held = queue(s.pool, gate_pass_job, &gate, "red held");
    gate_await_arrivals(&gate, 1);
    duet_future *f = queue(s.pool, return_ok, NULL, "red queued");
    must_equal(duet_context_set(&color, green), 0);
    thread_start(&canceller, cancel_in_blue, f);
    thread_join(&canceller);
    must_equal(finish(f).err, -ECANCELED);
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    must_equal(finish(start(s.loop, return_ok, NULL, "green")).err, 0);
    must(duet_context_get(&color) == green);
    must_equal(duet_context_set(&color, NULL), 0);
    scene_end(&s);
    must_tell(s.book, "red queued", "Q.");
    must_equal(atomic_load(&seen), s.book->count);
    scene_close(&s);
}

static void see_the_change(struct book *b, enum hook hook, const duet_work_event *e)
{
    (void)b;
    const bool before = hook == SPAWNED || hook == JOB_QUEUED || hook == JOB_BEGAN ||
                        (hook == STEP_BEGAN && *e->slot <= 3); /* its first step */
    must(duet_context_get(&color) == (before ? red : blue));
}

static duet_result turn_blue(void *book)
{
    must_equal(duet_context_set(&color, blue), 0);
    rest(book);
    return duet_ok();
}

thread_test(a_hook_sees_the_context_as_the_work_has_changed_it)
{
    struct scene s;
    scene_open(&s, 1);
    do_also(s.book, see_the_change, NULL);
    must_equal(duet_context_set(&color, red), 0);
    must_equal(finish(start(s.loop, turn_blue, s.book, "coroutine")).err, 0);
    must_equal(finish(queue(s.pool, turn_blue, s.book, "job")).err, 0);
    must(duet_context_get(&color) == red);
    must_equal(duet_context_set(&color, NULL), 0);
    scene_end(&s);
    must_tell(s.book, "coroutine", "S()p().");
    must_tell(s.book, "job", "QB()p()E.");
    scene_close(&s);
}

static void paint_it_green(struct book *b, enum hook hook, const duet_work_event *e)
{
    (void)b;
    (void)hook;
    (void)e;
    must(duet_context_get(&color) == red);
    must_equal(duet_context_set(&color, green), 0);
    must(duet_context_get(&color) == green);
}

static duet_result stay_red(void *book)
{
    must(duet_context_get(&color) == red);
    rest(book);
    must(duet_context_get(&color) == red);
    return duet_ok();
}

thread_test(what_a_hook_sets_in_the_context_ends_with_the_hook)
{
    struct scene s;
    scene_open(&s, 1);
    do_also(s.book, paint_it_green, NULL);
    must_equal(duet_context_set(&color, red), 0);
    must_equal(finish(start(s.loop, stay_red, s.book, "coroutine")).err, 0);
    must_equal(finish(queue(s.pool, stay_red, s.book, "job")).err, 0);
    must(duet_context_get(&color) == red);
    must_equal(duet_context_set(&color, NULL), 0);
    scene_end(&s);
    scene_close(&s);
}

/* ---- Jobs in the submitter's thread, groups, guests, runs ---- */

static void must_be_told_here(struct book *b, const char *name)
{
    for (size_t i = 0; i < b->count; i++)
        if (strcmp(b->entries[i].name, name) == 0)
            must_equal(b->entries[i].tid, gettid());
}

/* A pool whose worker is held and whose queue is full, so that the next job runs where it comes
 * from. */
struct crowded {
    duet_pool *pool;
    struct gate gate;
    duet_future *f[2];
};

static void crowded_open(struct crowded *c, struct book *b)
{
    c->gate = (struct gate)GATE_INIT;
    c->pool = open_told_pool_with(
        b, (duet_pool_config){.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE});
    c->f[0] = queue(c->pool, gate_pass_job, &c->gate, "held");
    gate_await_arrivals(&c->gate, 1);
    c->f[1] = queue(c->pool, return_ok, NULL, "full");
}

static void crowded_close(struct crowded *c)
{
    gate_open(&c->gate);
    must_equal(finish(c->f[0]).err, 0);
    must_equal(finish(c->f[1]).err, 0);
    close_pool(c->pool);
}

thread_test(a_job_that_runs_where_it_was_submitted_tells_its_story_there)
{
    struct book *b = book_new();
    struct crowded c;
    crowded_open(&c, b);
    must_equal(finish(queue(c.pool, take_a_rest, b, "here")).err, 0);
    must_tell(b, "here", "QB()p()E.");
    must_equal(the(b, "full", JOB_QUEUED, 0)->e.parent, 0);
    crowded_close(&c);
    must_be_told_here(b, "here");
    must_equal(the(b, "here", JOB_QUEUED, 0)->e.parent, 0);
    book_close(b);
}

struct nested {
    struct book *book;
    struct crowded *crowded;
};

static duet_result run_one_here(void *arg)
{
    struct nested *n = arg;
    must_equal(finish(queue(n->crowded->pool, take_a_rest, n->book, "inner")).err, 0);
    must(strcmp(duet_self_name(), "outer") == 0);
    rest(n->book);
    return duet_ok();
}

thread_test(a_job_within_a_job_has_a_story_of_its_own)
{
    struct scene s;
    struct crowded c;
    scene_open(&s, 1);
    crowded_open(&c, s.book);
    struct nested nested = {s.book, &c};
    must_equal(finish(queue(s.pool, run_one_here, &nested, "outer")).err, 0);
    crowded_close(&c);
    scene_end(&s);
    must_tell(s.book, "inner", "QB()p()E.");
    must_equal(the(s.book, "inner", JOB_QUEUED, 0)->e.parent, id_of(s.book, "outer"));
    must_equal(the(s.book, "inner", JOB_BEGAN, 0)->tid, the(s.book, "outer", JOB_BEGAN, 0)->tid);
    must(told(s.book, "outer", PARKED) >= 1);
    scene_close(&s);
}

static duet_result hold_a_group(void *arg)
{
    struct scene *s = arg;
    duet_group group = DUET_GROUP_INIT;
    const duet_opts fails = {.name = "fails"}, sleeps = {.name = "sleeps"};
    duet_result r;
    must_equal(duet_group_spawn(&group, NULL, sleep_long, NULL, &sleeps), 0);
    must_equal(duet_yield(), 0);
    must_equal(duet_group_spawn(&group, s->loop, fail_eio, NULL, &fails), 0);
    (void)duet_group_add(&group, queue(s->pool, sleep_long, NULL, "sleeping job"));
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

thread_test(a_group_tells_of_its_children)
{
    struct scene s;
    scene_open(&s, 1);
    must_equal(finish(start(s.loop, hold_a_group, &s, "owner")).err, 0);
    scene_end(&s);
    must_tell(s.book, "fails", "S().");
    must_tell(s.book, "sleeps", "S()p().");
    must_equal(the(s.book, "fails", SETTLED, 0)->e.result.err, -EIO);
    must_equal(the(s.book, "sleeps", SETTLED, 0)->e.result.err, -ECANCELED);
    must_have_children(s.book, id_of(s.book, "owner"), 3, false);
    must_equal(works_told_of(s.book), 4);
    scene_close(&s);
}

static int make_told_loop(void *book, duet_loop **ret, const duet_loop_config *config)
{
    const duet_hooks table = table_of(book);
    duet_loop_config with_hooks = *config;
    with_hooks.hooks = &table;
    return duet_loop_open(ret, &with_hooks);
}

static duet_result run_within(void *book)
{
    must_equal(duet_run_with(take_a_rest, book, &(duet_opts){.name = "main one"}, NULL), 0);
    rest(book);
    return duet_ok();
}

thread_test(a_job_that_runs_a_loop_is_the_parent_of_its_main_coroutine)
{
    struct book *b = book_new();
    duet_policy_scope scope;
    const duet_policy policy = {.ctx = b, .make_loop = make_told_loop};
    duet_pool *pool = open_told_pool(b, 1);
    must_equal(duet_policy_scope_begin(&scope, &policy), 0);
    must_equal(finish(queue(pool, run_within, b, "job")).err, 0);
    duet_policy_scope_end(&scope);
    close_pool(pool);
    must_tell(b, "main one", "S()p().");
    must_equal(the(b, "main one", SPAWNED, 0)->e.parent, id_of(b, "job"));
    must_equal(the(b, "main one", SETTLED, 0)->tid, the(b, "job", SETTLED, 0)->tid);
    must(told(b, "job", PARKED) >= 1);
    book_close(b);
}

thread_test(the_main_coroutine_of_a_run_is_told)
{
    struct book *b = book_new();
    duet_policy_scope scope;
    const duet_policy policy = {.ctx = b, .make_loop = make_told_loop};
    const duet_opts opts = {.name = "main one"};
    must_equal(duet_policy_scope_begin(&scope, &policy), 0);
    must_equal(duet_run_with(take_a_rest, b, &opts, NULL), 0);
    duet_policy_scope_end(&scope);
    must_tell(b, "main one", "S()p().");
    must_equal(works_told_of(b), 1);
    must_be_told_here(b, "main one");
    book_close(b);
}

/* ---- Hooks here, and none there ---- */

static duet_result offload_to(void *pool)
{
    must_equal(duet_offload_with(pool, return_ok, NULL, &(duet_opts){.name = "job"}, SURELY, NULL),
               0);
    return duet_ok();
}

thread_test(hooks_of_a_pool_alone_tell_of_jobs_alone)
{
    struct book *b = book_new();
    duet_pool *pool = open_told_pool(b, 1);
    duet_loop *loop = start_loop();
    must_equal(finish(start(loop, offload_to, pool, "coroutine")).err, 0);
    close_loop(loop);
    close_pool(pool);
    must_equal(works_told_of(b), 1);
    must_tell(b, "job", "QB()E.");
    must_equal(the(b, "job", JOB_QUEUED, 0)->e.parent, 0);
    must_equal(the(b, "job", STEP_BEGAN, 0)->e.by, 0);
    book_close(b);
}

static duet_result call_to(void *loop)
{
    const duet_opts opts = {.name = "coroutine"};
    must_equal(duet_call_with(loop, yield_five_times, NULL, &opts, SURELY, NULL), 0);
    return duet_ok();
}

thread_test(hooks_of_a_loop_alone_tell_of_coroutines_alone)
{
    struct book *b = book_new();
    duet_pool *pool = open_pool(1);
    duet_loop *loop = start_told_loop(b, "told");
    must_equal(finish(queue(pool, call_to, loop, "job")).err, 0);
    close_loop(loop);
    close_pool(pool);
    must_equal(works_told_of(b), 1);
    must_tell(b, "coroutine", "S()()()()()().");
    must_equal(the(b, "coroutine", SPAWNED, 0)->e.parent, 0);
    must_equal(the(b, "coroutine", STEP_BEGAN, 0)->e.by, 0);
    must(the(b, "coroutine", STEP_BEGAN, 0)->e.by_ns != 0);
    book_close(b);
}

/* ---- Under load ---- */

struct load {
    duet_loop *loop[2];
    duet_pool *pool[2];
    atomic_size_t told[HOOKS], started, cancelled;
    atomic_llong told_sum, sum;
    atomic_int callbacks;
};

static bool may_follow(char before, enum hook hook)
{
    static const char *const after[HOOKS] = {"", "S)pB", "(", ")", "S)QE", "", "Q", ")"};
    return before == '\0' ? hook == SPAWNED || hook == JOB_QUEUED
                          : strchr(after[hook], before) != NULL;
}

static void count_event(struct load *load, enum hook hook, const duet_work_event *e)
{
    must(may_follow((char)*e->slot, hook));
    for (uint64_t i = e->id % 16; i > 12; i--)
        sched_yield(); /* some take their time */
    *e->slot = (uintptr_t)letters[hook];
    atomic_fetch_add(&load->told[hook], 1);
    if (hook != SETTLED)
        return;
    if (e->result.kind == DUET_I64)
        atomic_fetch_add(&load->told_sum, duet_as_i64(e->result));
    atomic_fetch_add(&load->cancelled, e->result.err == -ECANCELED);
}

#define define_counter(name, hook)                                                                 \
    static void name(void *load, const duet_work_event *e)                                         \
    {                                                                                              \
        count_event(load, hook, e);                                                                \
    }
define_counter(count_spawned, SPAWNED) define_counter(count_step_began, STEP_BEGAN)
    define_counter(count_step_ended, STEP_ENDED) define_counter(count_parked, PARKED)
        define_counter(count_settled, SETTLED) define_counter(count_job_queued, JOB_QUEUED)
            define_counter(count_job_began, JOB_BEGAN) define_counter(count_job_ended, JOB_ENDED)

                static duet_hooks counters_of(struct load *load)
{
    return (duet_hooks){.ctx = load,
                        .spawned = count_spawned,
                        .step_began = count_step_began,
                        .step_ended = count_step_ended,
                        .parked = count_parked,
                        .settled = count_settled,
                        .job_queued = count_job_queued,
                        .job_began = count_job_began,
                        .job_ended = count_job_ended};
}

/* A number that the work returns, so that the sum of all is known. */
static duet_result give_number(void *number)
{
    return duet_i64((int64_t)(intptr_t)number);
}

static duet_result yield_and_number(void *number)
{
    must_equal(duet_yield(), 0);
    return give_number(number);
}

static duet_result go_elsewhere(void *arg)
{
    struct load *load = arg;
    duet_result r[2];
    must_equal(duet_offload(load->pool[0], give_number, (void *)3, SURELY, &r[0]), 0);
    must_equal(duet_call(load->loop[1], yield_and_number, (void *)4, SURELY, &r[1]), 0);
    must_equal(duet_as_i64(r[0]) + duet_as_i64(r[1]), 7);
    atomic_fetch_add(&load->started, 2);
    atomic_fetch_add(&load->sum, 7);
    return duet_i64(1);
}

static duet_future *start_any(struct load *load, uint64_t random)
{
    duet_loop *loop = load->loop[random & 1];
    duet_pool *pool = load->pool[random & 1];
    void *number = (void *)(intptr_t)(random >> 8 & 1023);
    switch (random >> 1 & 7) {
    case 0:
        return duet_submit(loop, yield_and_number, number);
    case 1:
        return duet_pool_submit(pool, give_number, number);
    case 2:
        return duet_submit(loop, go_elsewhere, load);
    case 3:
        return duet_pool_submit(load->pool[1], go_elsewhere, load);
    case 4:
        return duet_call_at(loop, duet_us(10), count_drop, &load->callbacks);
    default:
        break;
    }
    duet_future *f = random >> 1 & 1 ? duet_submit(loop, sleep_long, NULL)
                                     : duet_pool_submit(pool, sleep_long, NULL);
    duet_future_cancel(f);
    return f;
}

static void finish_any(struct load *load, duet_future *f, size_t *cancelled)
{
    duet_result r = finish(f);
    atomic_fetch_add(&load->started, 1);
    if (r.kind == DUET_I64)
        atomic_fetch_add(&load->sum, duet_as_i64(r));
    *cancelled += r.err == -ECANCELED;
}

enum {
    LOADERS = 4,
    BATCH = 16
};

struct loader {
    struct load *load;
    uint64_t seed;
    int rounds;
    size_t cancelled;
    struct thread thread;
};

static void load_on(void *arg)
{
    struct loader *loader = arg;
    duet_future *f[BATCH];
    for (int round = 0; round < loader->rounds; round++) {
        for (int i = 0; i < BATCH; i++)
            f[i] = start_any(loader->load, test_random(&loader->seed));
        for (int i = 0; i < BATCH; i++)
            finish_any(loader->load, f[i], &loader->cancelled);
    }
}

static void load_open(struct load *load, const duet_hooks *table)
{
    for (int i = 0; i < 2; i++) {
        must_equal(duet_loop_start(&load->loop[i], &(duet_loop_config){.hooks = table}), 0);
        must_equal(
            duet_pool_open(&load->pool[i], &(duet_pool_config){.workers_max = 2, .hooks = table}),
            0);
    }
}

static void load_close(struct load *load)
{
    for (int i = 0; i < 2; i++) {
        close_loop(load->loop[i]);
        close_pool(load->pool[i]);
    }
}

static void must_add_up(struct load *load, size_t cancelled)
{
    size_t n[HOOKS];
    for (int i = 0; i < HOOKS; i++)
        n[i] = atomic_load(&load->told[i]);
    must_equal(n[SPAWNED] + n[JOB_QUEUED], atomic_load(&load->started));
    must_equal(n[SETTLED], atomic_load(&load->started));
    must_equal(n[STEP_BEGAN], n[STEP_ENDED]);
    must_equal(n[JOB_BEGAN], n[JOB_ENDED]);
    must(n[PARKED] > 0 && n[PARKED] < n[STEP_ENDED]);
    must(n[JOB_BEGAN] <= n[JOB_QUEUED]);
    must_equal(atomic_load(&load->cancelled), cancelled);
    must_equal(atomic_load(&load->told_sum), atomic_load(&load->sum));
}

thread_test(under_load_all_that_is_told_adds_up)
{
    static struct load load;
    struct loader loaders[LOADERS];
    uint64_t seed = test_seed();
    size_t cancelled = 0;
    const duet_hooks table = counters_of(&load);
    memset(&load, 0, sizeof load);
    load_open(&load, &table);
    for (int i = 0; i < LOADERS; i++) {
        loaders[i] = (struct loader){.load = &load, .seed = test_random(&seed)};
        loaders[i].rounds = test_rounds(100);
        thread_start(&loaders[i].thread, load_on, &loaders[i]);
    }
    for (int i = 0; i < LOADERS; i++) {
        thread_join(&loaders[i].thread);
        cancelled += loaders[i].cancelled;
    }
    load_close(&load);
    must_add_up(&load, cancelled);
}

/* Says what it waits for while that ends: who ends it has been told that the hook began. */
static void describe_it(void *arrived, const duet_work_event *e)
{
    char buf[128];
    atomic_fetch_add((atomic_int *)arrived, 1);
    for (int i = 0; i < 100; i++)
        sched_yield();
    must(duet_work_event_waits_for(e, buf, sizeof buf) == buf);
    must(strlen(buf) > 0 && strcmp(buf, "nothing") != 0);
}

static void await_arrived(atomic_int *arrived, int n)
{
    for (duet_deadline by = SURELY; atomic_load(arrived) < n; sched_yield())
        must(duet_now_ns() < by.ns);
}

static duet_loop *start_describing_loop(atomic_int *arrived)
{
    duet_loop *loop;
    const duet_hooks table = {.ctx = arrived, .parked = describe_it};
    atomic_init(arrived, 0);
    must_equal(duet_loop_start(&loop, &(duet_loop_config){.hooks = &table}), 0);
    return loop;
}

static duet_result wait_for_end(void *f)
{
    (void)finish(f);
    return duet_ok();
}

static void describe_what_goes(duet_loop *loop, atomic_int *arrived, duet_loop *other)
{
    duet_pool *pool = open_pool(1);
    duet_future *job = duet_pool_submit(pool, sleep_long, NULL);
    duet_future *coroutine = duet_submit(other, sleep_long, NULL);
    const int before = atomic_load(arrived);
    duet_future *f = duet_submit(loop, wait_for_end, duet_future_ref(job));
    await_arrived(arrived, before + 1);
    close_pool(pool);
    must_equal(finish(f).err, 0);
    f = duet_submit(loop, wait_for_end, duet_future_ref(coroutine));
    await_arrived(arrived, before + 2);
    duet_future_cancel(coroutine);
    must_equal(finish(f).err, 0);
    duet_future_unref(job);
    duet_future_unref(coroutine);
}

thread_test(what_is_waited_for_may_end_while_it_is_told)
{
    atomic_int arrived;
    duet_loop *loop = start_describing_loop(&arrived), *other = start_loop();
    for (int i = test_rounds(50); i > 0; i--)
        describe_what_goes(loop, &arrived, other);
    close_loop(loop);
    close_loop(other);
}

static duet_result wait_for_room(void *pool)
{
    return duet_err(finish(duet_pool_submit(pool, return_ok, NULL)).err);
}

/* The pool is closed while the hook of who waits for room there is running. */
thread_test(a_pool_may_go_while_it_is_told_that_a_work_waits_for_room_there)
{
    atomic_int arrived;
    duet_loop *loop = start_describing_loop(&arrived);
    const duet_opts keeps = {.flags = DUET_KEEP_SLOT};
    for (int i = test_rounds(50); i > 0; i--) {
        duet_pool *pool;
        const int before = atomic_load(&arrived);
        const duet_pool_config config = {.workers_max = 1, .queue_max = 1};
        must_equal(duet_pool_open(&pool, &config), 0);
        duet_future *held[] = {duet_pool_submit_with(pool, sleep_long, NULL, &keeps),
                               duet_pool_submit_with(pool, sleep_long, NULL, &keeps)};
        duet_future *f = duet_submit(loop, wait_for_room, pool);
        await_arrived(&arrived, before + 1);
        if (i % 2 == 0)
            duet_future_cancel(f);
        close_pool(pool);
        int err = finish(f).err;
        must(err == -ESHUTDOWN || (err == -ECANCELED && i % 2 == 0));
        duet_future_unref(held[0]);
        duet_future_unref(held[1]);
    }
    close_loop(loop);
}

/* ---- Guests, and the end of all ---- */

/* The host of a guest, until the guest has ended. */
static void host(duet_loop *loop, int fd)
{
    for (int rc = 0; rc >= 0;) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        must_equal(poll(&poll_fd, 1, 60000), 1);
        rc = duet_loop_turn(loop);
        must(rc >= 0 || rc == -ESHUTDOWN);
    }
}

static duet_result rest_and_stop(void *book)
{
    rest(book);
    duet_loop_stop(duet_loop_self());
    return duet_ok();
}

thread_test(a_guest_tells_on_its_hosts_thread)
{
    struct book *b = book_new();
    duet_loop *loop = open_told_loop(b, 0);
    int fd;
    must_equal(duet_loop_attach(loop, &fd), 0);
    duet_future *f[] = {start(loop, yield_five_times, NULL, "polite"),
                        start(loop, rest_and_stop, b, "last")};
    host(loop, fd);
    must_equal(finish(f[0]).err, 0);
    must_equal(finish(f[1]).err, 0);
    close_loop(loop);
    must_tell(b, "polite", "S()()()()()().");
    must_tell(b, "last", "S()p().");
    must_be_told_here(b, "last");
    book_close(b);
}

thread_test(a_shutdown_of_all_ends_all_stories)
{
    struct scene s;
    scene_open(&s, 1);
    duet_future *f[] = {start(s.loop, sleep_long, NULL, "coroutine"),
                        queue(s.pool, sleep_long, NULL, "job"),
                        duet_call_at(s.loop, duet_sec(3600), count_drop, NULL)};
    await_told(s.book, "coroutine", PARKED, 1);
    await_told(s.book, "job", PARKED, 1);
    must_equal(duet_shutdown(duet_ms(20), NULL) > 0, 0);
    for (int i = 0; i < 3; i++)
        must_equal(finish(f[i]).err, -ECANCELED);
    scene_end(&s);
    must_tell(s.book, "coroutine", "S()p().");
    must_tell(s.book, "job", "QB()p()E.");
    must_equal(settled_with(s.book, -ECANCELED), 3);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_coroutine_is_told_from_its_spawning_to_its_result),
        cmocka_unit_test(a_job_is_told_with_its_steps_around_its_waits),
        cmocka_unit_test(a_job_that_keeps_its_slot_is_told_likewise),
        cmocka_unit_test(a_job_that_may_be_interrupted_is_told_likewise),
        cmocka_unit_test(a_callback_at_a_moment_is_told_without_a_wait),
        cmocka_unit_test(bare_callbacks_are_no_works),
        cmocka_unit_test(a_wait_that_is_answered_at_once_ends_no_step),
        cmocka_unit_test(each_yield_ends_a_step_and_is_no_wait),
        cmocka_unit_test(who_submits_tells_the_beginning_and_who_runs_it_the_rest),
        cmocka_unit_test(nobody_sees_the_result_before_settled_was_told),
        cmocka_unit_test(nobody_sees_the_result_of_a_job_before_settled_was_told),
        cmocka_unit_test(a_work_has_its_name_its_kind_and_its_place),
        cmocka_unit_test(a_work_without_a_name_has_one_of_its_kind_and_id),
        cmocka_unit_test(a_name_is_told_as_long_as_it_is_and_a_place_always_has_one),
        cmocka_unit_test(settled_has_a_look_at_the_result),
        cmocka_unit_test(no_two_works_share_an_id_wherever_they_are),
        cmocka_unit_test(what_a_coroutine_starts_has_it_as_its_parent),
        cmocka_unit_test(what_a_job_starts_has_it_as_its_parent),
        cmocka_unit_test(what_a_plain_thread_starts_has_no_parent),
        cmocka_unit_test(what_a_bare_callback_starts_has_no_parent),
        cmocka_unit_test(what_a_callback_at_a_moment_starts_has_it_as_its_parent),
        cmocka_unit_test(the_first_step_is_made_ready_by_who_started_the_work),
        cmocka_unit_test(the_first_step_is_made_ready_by_the_job_that_started_the_work),
        cmocka_unit_test(what_a_coroutine_gives_is_told_with_its_id),
        cmocka_unit_test(what_a_coroutine_of_another_loop_gives_is_told_with_its_id),
        cmocka_unit_test(what_a_job_gives_is_told_with_its_id),
        cmocka_unit_test(what_a_callback_at_a_moment_gives_is_told_with_its_id),
        cmocka_unit_test(what_a_plain_thread_gives_is_told_with_its_thread),
        cmocka_unit_test(what_a_coroutine_without_hooks_gives_is_told_with_its_thread),
        cmocka_unit_test(what_a_bare_callback_gives_is_told_with_its_thread),
        cmocka_unit_test(who_waits_for_a_work_is_made_ready_by_that),
        cmocka_unit_test(who_calls_and_offloads_is_made_ready_by_what_it_called),
        cmocka_unit_test(nobody_makes_ready_whose_moment_comes),
        cmocka_unit_test(who_cancels_under_a_shield_makes_nobody_ready),
        cmocka_unit_test(who_made_it_ready_before_is_not_told_again),
        cmocka_unit_test(nobody_makes_a_callback_ready_but_its_moment),
        cmocka_unit_test(nobody_makes_ready_whom_the_kernel_answers),
        cmocka_unit_test(parked_says_what_the_work_waits_for),
        cmocka_unit_test(a_job_says_what_it_waits_for),
        cmocka_unit_test(a_close_says_what_it_waits_for),
        cmocka_unit_test(what_it_waits_for_fits_where_it_is_written),
        cmocka_unit_test(queued_counts_about_how_many_jobs_are_queued),
        cmocka_unit_test(queued_is_there_when_a_work_settles_too),
        cmocka_unit_test(queued_counts_about_how_many_coroutines_stand_ready),
        cmocka_unit_test(chained_tables_are_called_in_order_each_with_its_slot),
        cmocka_unit_test(nine_tables_are_too_many),
        cmocka_unit_test(a_chain_that_closes_a_circle_is_refused),
        cmocka_unit_test(what_is_reserved_in_a_table_is_zero),
        cmocka_unit_test(a_table_may_have_some_hooks_and_none),
        cmocka_unit_test(the_tables_are_copied),
        cmocka_unit_test(
            what_a_full_inbox_refuses_and_a_loop_that_never_ran_is_spawned_and_settled),
        cmocka_unit_test(a_coroutine_too_many_is_spawned_and_settled),
        cmocka_unit_test(what_a_full_pool_refuses_is_queued_and_settled),
        cmocka_unit_test(what_comes_after_the_end_is_told_and_settled),
        cmocka_unit_test(what_is_wrong_is_never_told),
        cmocka_unit_test(a_coroutine_that_asks_for_too_large_a_stack_is_never_told),
#ifndef TEST_SANITIZED
        cmocka_unit_test(a_coroutine_without_memory_for_its_stack_is_spawned_and_settled),
#endif
        cmocka_unit_test(what_is_cancelled_before_it_starts_is_told_and_settled),
        cmocka_unit_test(what_a_loop_never_ran_is_settled_by_its_close),
        cmocka_unit_test(a_call_that_comes_too_late_tells_of_no_step),
        cmocka_unit_test(who_is_cancelled_while_it_waits_for_room_settles_what_it_queued),
        cmocka_unit_test(a_job_that_waited_for_room_has_its_whole_story),
        cmocka_unit_test(what_a_close_finds_queued_is_settled_and_what_runs_ends),
        cmocka_unit_test(what_a_forked_child_cannot_start_settles_if_it_was_told),
        cmocka_unit_test(what_is_cancelled_while_it_waits_ends_its_story),
        cmocka_unit_test(a_wait_under_a_shield_is_told_and_one_that_was_cancelled_before_is_not),
        cmocka_unit_test(a_circle_of_waits_ends_two_whole_stories),
        cmocka_unit_test(a_job_that_is_interrupted_in_a_system_call_has_had_one_step),
        cmocka_unit_test(a_close_ends_all_stories),
        cmocka_unit_test(a_job_that_was_left_behind_ends_its_story_when_it_ends),
        cmocka_unit_test(a_hook_that_would_wait_is_refused_at_once),
        cmocka_unit_test(a_wait_in_a_hook_that_is_answered_at_once_is_fine),
        cmocka_unit_test(a_hook_may_start_work),
        cmocka_unit_test(a_hook_may_start_work_though_its_own_never_runs),
        cmocka_unit_test(a_hook_may_cancel_the_group_of_its_work),
        cmocka_unit_test(a_hook_may_settle_what_its_own_work_is_about_to_wait_for),
        cmocka_unit_test(a_hook_may_cancel_its_own_work),
        cmocka_unit_test(a_hook_may_let_go_of_its_own_work),
        cmocka_unit_test(a_hook_may_stop_the_loop_whatever_is_told),
        cmocka_unit_test(a_hook_leaves_errno_to_the_work),
        cmocka_unit_test(a_hook_sees_the_context_of_the_work),
        cmocka_unit_test(a_hook_sees_the_context_as_the_work_has_changed_it),
        cmocka_unit_test(what_a_hook_sets_in_the_context_ends_with_the_hook),
        cmocka_unit_test(a_job_that_runs_where_it_was_submitted_tells_its_story_there),
        cmocka_unit_test(a_job_within_a_job_has_a_story_of_its_own),
        cmocka_unit_test(a_group_tells_of_its_children),
        cmocka_unit_test(a_job_that_runs_a_loop_is_the_parent_of_its_main_coroutine),
        cmocka_unit_test(the_main_coroutine_of_a_run_is_told),
        cmocka_unit_test(hooks_of_a_pool_alone_tell_of_jobs_alone),
        cmocka_unit_test(hooks_of_a_loop_alone_tell_of_coroutines_alone),
        cmocka_unit_test(under_load_all_that_is_told_adds_up),
        cmocka_unit_test(what_is_waited_for_may_end_while_it_is_told),
        cmocka_unit_test(a_pool_may_go_while_it_is_told_that_a_work_waits_for_room_there),
        cmocka_unit_test(a_guest_tells_on_its_hosts_thread),
        cmocka_unit_test(a_shutdown_of_all_ends_all_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
