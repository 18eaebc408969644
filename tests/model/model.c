#include "model.h"
#include "co.h"
#include "model_atomic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    THREADS = 5,
    WORDS = 48,
    HISTORY = 96,
    CHOICES = 4000,
    STEPS = 20000,
    STACK = 64 * 1024,
    FREED = 16,
};

typedef uint8_t
    view[WORDS]; /* of each word, the index of the oldest value that may still be seen */

struct word {
    const volatile void *address;
    size_t size;
    int count;
    uint64_t values[HISTORY];
    view carries[HISTORY];
};

struct thread {
    struct duet__co co;
    void (*fn)(void *arg);
    void *arg, *context;
    bool (*ready)(void *arg); /* NULL: it can go on */
    void *ready_arg;
    bool done;
    view sees;
};

static char stacks[THREADS][STACK] __attribute__((aligned(64)));
static struct duet__co scheduler;
static struct thread threads[THREADS];
static int thread_count, current = -1; /* -1: setup or finally */
static struct word words[WORDS];
static int word_count;
static struct {
    const char *begin;
    size_t size;
} freed[FREED];
static int freed_count;

/* The choices of this execution: replayed up to where the last one differs, then the first of each.
 */
static struct {
    uint16_t chosen, count;
} choices[CHOICES];
static int choice_count, choice_next;
static int deviations, bound, steps;
static unsigned long executions;
static const char *failure;

struct model_weak model_weak;
bool (*model_on_idle)(void);
void (*model_on_switch)(void *context);

void model_fail(const char *why)
{
    if (!failure)
        failure = why;
}

/* ---- Choices ---- */

static int choose(int n)
{
    if (n <= 1)
        return 0;
    if (choice_next == choice_count) {
        if (choice_count == CHOICES) {
            fprintf(stderr, "model: an execution has too many choices\n");
            exit(1);
        }
        choices[choice_count].chosen = 0;
        choices[choice_count++].count = (uint16_t)n;
    }
    if (choices[choice_next].count != n) {
        fprintf(stderr, "model: an execution does not repeat what the one before began with\n");
        exit(1);
    }
    return choices[choice_next++].chosen;
}

int model_choose(int n)
{
    if (deviations >= bound)
        return 0;
    int chosen = choose(n);
    deviations += chosen != 0;
    return chosen;
}

/* ---- Threads ---- */

static void point(void)
{
    if (current < 0)
        return;
    if (failure || ++steps > STEPS) {
        if (!failure)
            model_fail("the threads go round and round");
    }
    duet__co_switch(&threads[current].co, &scheduler);
}

void model_block(bool (*ready)(void *arg), void *arg)
{
    threads[current].ready = ready;
    threads[current].ready_arg = arg;
    duet__co_switch(&threads[current].co, &scheduler);
}

static void thread_main(void *arg)
{
    struct thread *thread = arg;
    thread->fn(thread->arg);
    thread->done = true;
    duet__co_switch(&thread->co, &scheduler);
}

void model_spawn(void (*fn)(void *arg), void *arg, void *context)
{
    struct thread *thread = &threads[thread_count];
    memset(thread, 0, sizeof *thread);
    thread->fn = fn;
    thread->arg = arg;
    thread->context = context;
    duet__co_init(&thread->co, stacks[thread_count], stacks[thread_count] + STACK, thread_main,
                  thread);
    thread_count++;
}

static bool can_run(struct thread *thread)
{
    return !thread->done && (!thread->ready || thread->ready(thread->ready_arg));
}

/* The thread that goes on; -1: none can. Staying with the one that ran last is free. */
static int next_thread(int last)
{
    int able[THREADS], count = 0;
    bool last_able = last >= 0 && can_run(&threads[last]);
    if (last_able)
        able[count++] = last;
    for (int i = 0; i < thread_count; i++)
        if (i != last && can_run(&threads[i]))
            able[count++] = i;
    if (count == 0)
        return -1;
    if (last_able)
        return able[model_choose(count)];
    return able[choose(count)];
}

/* ---- Memory ---- */

static void join(view into, const view other)
{
    for (int i = 0; i < word_count; i++)
        if (other[i] > into[i])
            into[i] = other[i];
}

static uint64_t read_memory(const volatile void *word, size_t size)
{
    uint64_t value = 0;
    memcpy(&value, (const void *)word, size);
    return value;
}

static void write_memory(volatile void *word, size_t size, uint64_t value)
{
    memcpy((void *)word, &value, size);
}

void model_touch(const void *memory)
{
    for (int i = 0; i < freed_count; i++)
        if ((const char *)memory >= freed[i].begin &&
            (const char *)memory < freed[i].begin + freed[i].size)
            model_fail("memory is used after it was freed");
}

void model_free(void *memory, size_t size)
{
    freed[freed_count].begin = memory;
    freed[freed_count++].size = size;
}

static struct word *find(const volatile void *address, size_t size)
{
    model_touch((const void *)address);
    for (int i = 0; i < word_count; i++)
        if (words[i].address == address)
            return &words[i];
    if (word_count == WORDS) {
        fprintf(stderr, "model: too many words\n");
        exit(1);
    }
    struct word *word = &words[word_count++];
    word->address = address;
    word->size = size;
    word->count = 1;
    word->values[0] = read_memory(address, size);
    memset(word->carries[0], 0, sizeof word->carries[0]);
    return word;
}

static int last_of(const struct word *word)
{
    return word->count - 1;
}

static void append(struct word *word, uint64_t value, const view carries)
{
    if (word->count == HISTORY) {
        fprintf(stderr, "model: a word has too many values\n");
        exit(1);
    }
    word->values[word->count] = value;
    memcpy(word->carries[word->count], carries, sizeof(view));
    word->count++;
    write_memory((volatile void *)word->address, word->size, value);
}

static bool acquires(enum model_order order)
{
    return order == MODEL_ACQUIRE || order == MODEL_ACQ_REL;
}

static bool releases(enum model_order order)
{
    return order == MODEL_RELEASE || order == MODEL_ACQ_REL;
}

uint64_t model_load(const volatile void *address, size_t size, enum model_order order)
{
    if (current < 0)
        return read_memory(address, size);
    point();
    struct word *word = find(address, size);
    struct thread *thread = &threads[current];
    int i = (int)(word - words), oldest = thread->sees[i];
    int chosen = last_of(word) - model_choose(last_of(word) - oldest + 1);
    thread->sees[i] = (uint8_t)chosen;
    if (acquires(order))
        join(thread->sees, word->carries[chosen]);
    return word->values[chosen];
}

void model_store(volatile void *address, size_t size, uint64_t value, enum model_order order)
{
    if (current < 0) {
        write_memory(address, size, value);
        return;
    }
    point();
    struct word *word = find(address, size);
    struct thread *thread = &threads[current];
    int i = (int)(word - words);
    view carries = {0};
    thread->sees[i] = (uint8_t)word->count;
    carries[i] = thread->sees[i];
    append(word, value, releases(order) ? thread->sees : carries);
}

/* The part of a read-modify-write after the newest value was read. */
static void modify(struct word *word, uint64_t value, enum model_order order)
{
    struct thread *thread = &threads[current];
    int i = (int)(word - words), read = last_of(word);
    view carries = {0};
    thread->sees[i] = (uint8_t)word->count;
    if (acquires(order))
        join(thread->sees, word->carries[read]);
    carries[i] = thread->sees[i];
    if (releases(order))
        join(carries, thread->sees);
    join(carries, word->carries[read]); /* goes on with the release sequence */
    append(word, value, carries);
}

uint64_t model_rmw(volatile void *address, size_t size, enum model_rmw op, uint64_t value,
                   enum model_order order)
{
    uint64_t old, mask = size == 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
    if (current >= 0)
        point();
    struct word *word = current < 0 ? NULL : find(address, size);
    old = read_memory(address, size);
    switch (op) {
    case MODEL_ADD:
        value = old + value;
        break;
    case MODEL_SUB:
        value = old - value;
        break;
    case MODEL_OR:
        value = old | value;
        break;
    case MODEL_AND:
        value = old & value;
        break;
    default:
        break;
    }
    if (word)
        modify(word, value & mask, order);
    else
        write_memory(address, size, value & mask);
    return old;
}

bool model_cas(volatile void *address, size_t size, void *expected, uint64_t value,
               enum model_order order)
{
    if (current >= 0)
        point();
    struct word *word = current < 0 ? NULL : find(address, size);
    uint64_t old = read_memory(address, size);
    if (old != read_memory(expected, size)) {
        write_memory(expected, size, old);
        if (word)
            threads[current].sees[word - words] = (uint8_t)last_of(word);
        return false;
    }
    if (word)
        modify(word, value, order);
    else
        write_memory(address, size, value);
    return true;
}

uint64_t model_newest(const volatile void *word, size_t size)
{
    model_touch((const void *)word);
    return read_memory(word, size);
}

void model_barrier(void)
{
    view all = {0};
    if (current < 0)
        return;
    point();
    for (int i = 0; i < thread_count; i++)
        join(all, threads[i].sees);
    for (int i = 0; i < thread_count; i++)
        join(threads[i].sees, all);
}

/* ---- Executions ---- */

static void execute(void (*setup)(void), void (*finally)(void))
{
    thread_count = word_count = freed_count = choice_next = deviations = steps = 0;
    failure = NULL;
    current = -1;
    setup();
    int last = -1;
    while (!failure) {
        int next = next_thread(last);
        if (next < 0 && model_on_idle && model_on_idle())
            continue;
        if (next < 0)
            break;
        last = current = next;
        threads[next].ready = NULL;
        if (model_on_switch)
            model_on_switch(threads[next].context);
        duet__co_switch(&scheduler, &threads[next].co);
        current = -1;
    }
    for (int i = 0; i < thread_count && !failure; i++)
        if (!threads[i].done)
            model_fail("all threads that are left are blocked: a lost wake-up or a deadlock");
    if (!failure)
        finally();
    for (int i = 0; i < thread_count; i++)
        duet__co_fini(&threads[i].co);
    executions++;
}

/* The next execution in depth-first order; false: all were tried. */
static bool advance(void)
{
    while (choice_count > 0 &&
           choices[choice_count - 1].chosen + 1 >= choices[choice_count - 1].count)
        choice_count--;
    if (choice_count == 0)
        return false;
    choices[choice_count - 1].chosen++;
    return true;
}

int model_check(const char *name, int deviations_max, void (*setup)(void), void (*finally)(void),
                enum model_expectation expectation)
{
    duet__co_adopt(&scheduler);
    bound = deviations_max;
    choice_count = 0;
    executions = 0;
    do
        execute(setup, finally);
    while (!failure && advance());
    bool as_expected = (failure != NULL) == (expectation == MODEL_FAILS);
    printf("%-64s %8lu executions: %s%s%s\n", name, executions, failure ? "fails: " : "holds",
           failure ? failure : "",
           as_expected ? (expectation == MODEL_FAILS ? " (as it must)" : "")
                       : "  <<< NOT EXPECTED");
    fflush(stdout);
    duet__co_release();
    return as_expected ? 0 : 1;
}
