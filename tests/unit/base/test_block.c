/* What block.h says: blocks are kept for the next works, go from thread to thread, and the memory
 * of a burst is given back. The C library's functions are wrapped by the linker, to count what is
 * asked of it. The tests that need a process in which nothing was put back yet come first. */
#include "block.h"
#include "duet_test.h"

#include <errno.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The C library's memory ---- */

static atomic_long taken, given; /* blocks, by this process, since it began */
static atomic_bool refusing;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    if (atomic_load(&refusing))
        return NULL;
    void *memory = __real_malloc(size);
    atomic_fetch_add(&taken, memory != NULL);
    return memory;
}

int __real_posix_memalign(void **ret, size_t alignment, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size)
{
    if (atomic_load(&refusing))
        return ENOMEM;
    int rc = __real_posix_memalign(ret, alignment, size);
    atomic_fetch_add(&taken, rc == 0);
    return rc;
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    if (atomic_load(&refusing))
        return NULL;
    void *memory = __real_calloc(count, size);
    atomic_fetch_add(&taken, memory != NULL);
    return memory;
}

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory)
{
    atomic_fetch_add(&given, memory != NULL);
    __real_free(memory);
}

/* How many blocks of the C library's are out now. */
static long held(void)
{
    return atomic_load(&taken) - atomic_load(&given);
}

/* ---- Blocks ---- */

static void *get(size_t size)
{
    void *memory = duet__block_get(duet__shelf_for(size), size);
    must(memory != NULL);
    must_equal((uintptr_t)memory % DUET__BLOCK_ALIGN, 0);
    return memory;
}

static void put(void *memory, size_t size)
{
    duet__block_put(duet__shelf_for(size), memory);
}

/* Every byte of it says whose it is. */
static void sign(void *memory, size_t size, unsigned char owner)
{
    memset(memory, owner, size);
}

static void must_be_signed(const void *memory, size_t size, unsigned char owner)
{
    for (size_t i = 0; i < size; i++)
        must_equal(((const unsigned char *)memory)[i], owner);
}

enum {
    SMALLEST = DUET__BLOCK_STEP / 2 + 1,
    LARGEST = DUET__BLOCK_STEP * DUET__SHELVES + DUET__BLOCK_STEP / 2,
    MANY = 5000
};

/* Sizes at the edges of all shelves, and beyond. */
static const size_t sizes[] = {SMALLEST, 63,  64,  65,      127,         128, 129,  191,  192,  193,
                               255,      256, 257, 319,     320,         321, 383,  384,  385,  447,
                               448,      449, 511, LARGEST, LARGEST + 1, 600, 1000, 4096, 70000};
#define SIZES (sizeof sizes / sizeof sizes[0])

static void *blocks[MANY];

/* Gets so many, all of which are another's, and puts them back. */
static void get_and_put(size_t size, int n)
{
    must(n <= MANY);
    for (int i = 0; i < n; i++)
        sign(blocks[i] = get(size), size, (unsigned char)i);
    for (int i = 0; i < n; i++)
        must_be_signed(blocks[i], size, (unsigned char)i);
    for (int i = 0; i < n; i++)
        put(blocks[i], size);
}

/* Gets and puts in one order and in the other, of all sizes. */
static void use_all_sizes(int n)
{
    for (size_t i = 0; i < SIZES; i++) {
        get_and_put(sizes[i], sizes[i] > LARGEST ? 10 : n);
        get_and_put(sizes[SIZES - 1 - i], 10);
    }
}

static int64_t now_ns = 1000;

/* All that nobody needs for a while. */
static void trim_all(void)
{
    int times = 0;
    for (int64_t next; (next = duet__blocks_trim(now_ns)) != INT64_MAX; now_ns = next) {
        must(times++ < 100000);
        must(next > now_ns);
    }
}

/* ---- What is kept, and where nothing is ---- */

/* Each block is asked for, and given back as soon as it is put. */
static void must_keep_nothing(long (*held_now)(void))
{
    for (size_t i = 0; i < SIZES; i++) {
        void *three[3];
        const long before = held_now();
        for (int k = 0; k < 3; k++) {
            three[k] = get(sizes[i]);
            must_equal(held_now(), before + k + 1);
        }
        for (int k = 3; k > 0; k--) {
            put(three[k - 1], sizes[i]);
            must_equal(held_now(), before + k - 1);
        }
    }
    must_equal(duet__blocks_trim(now_ns), INT64_MAX);
}

static void keep_nothing(void)
{
    duet__blocks_keep = false;
    must_keep_nothing(held);
}

static void nothing_is_kept_where_a_test_says_so(void **state)
{
    (void)state;
    must(run_in_child(keep_nothing));
}

static atomic_long users_held;

static void *users_alloc(void *ctx, size_t size)
{
    must(ctx == &users_held);
    atomic_fetch_add(&users_held, 1);
    return malloc(size);
}

static void *users_resize(void *ctx, void *block, size_t size)
{
    must(ctx == &users_held);
    atomic_fetch_add(&users_held, block == NULL);
    return realloc(block, size);
}

static void users_free(void *ctx, void *block)
{
    must(ctx == &users_held);
    atomic_fetch_sub(&users_held, 1);
    free(block);
}

static long users_held_now(void)
{
    return atomic_load(&users_held);
}

static void use_users_allocator(void)
{
    const duet_allocator allocator = {&users_held, users_alloc, users_resize, users_free};
    must_equal(duet_allocator_set(&allocator), 0);
    must_keep_nothing(users_held_now);
}

static void nothing_is_kept_with_an_allocator_of_the_users(void **state)
{
    (void)state;
    must(run_in_child(use_users_allocator));
}

static void each_size_has_its_shelf(void **state)
{
    (void)state;
    for (size_t size = SMALLEST; size <= LARGEST; size++)
        must_equal(duet__shelf_for(size), (size - SMALLEST) / DUET__BLOCK_STEP + 1);
    must_equal(duet__shelf_for(LARGEST), DUET__SHELVES);
    must_equal(duet__shelf_for(LARGEST + 1), 0);
    must_equal(duet__shelf_for(SIZE_MAX / 2), 0);
}

static void blocks_of_all_sizes_are_ones_own(void **state)
{
    (void)state;
    use_all_sizes(300);
    for (size_t size = SMALLEST; size <= LARGEST + 70; size++)
        get_and_put(size, 3);
}

/* What was got for a small size is large enough for the largest of its shelf. */
static void a_block_serves_all_sizes_of_its_shelf(void **state)
{
    (void)state;
    for (size_t shelf = 1; shelf <= DUET__SHELVES; shelf++) {
        const size_t large = duet__shelf_size((unsigned)shelf),
                     small = large - DUET__BLOCK_STEP + 1;
        get_and_put(small, 500);
        get_and_put(large, 500);
        get_and_put(small, 500);
    }
}

static void what_is_too_large_is_never_kept(void **state)
{
    (void)state;
    for (size_t size = LARGEST + 1; size < 1 << 20; size = size * 3 + 1) {
        const long before = held();
        void *memory = get(size);
        must_equal(held(), before + 1);
        sign(memory, size, 7);
        must_be_signed(memory, size, 7);
        put(memory, size);
        must_equal(held(), before);
    }
}

#if defined(__SANITIZE_ADDRESS__)
#define TEST_KEEPS_NOTHING 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_KEEPS_NOTHING 1
#endif
#endif

static void it_keeps_what_it_should(void **state)
{
    (void)state;
#ifdef TEST_KEEPS_NOTHING
    must_keep_nothing(held);
#else
    for (size_t size = SMALLEST; size <= LARGEST; size += DUET__BLOCK_STEP) {
        get_and_put(size, 4);
        const long before = atomic_load(&taken), before_given = atomic_load(&given);
        for (int i = 0; i < 1000; i++)
            get_and_put(size, 4);
        must_equal(atomic_load(&taken), before);
        must_equal(atomic_load(&given), before_given);
    }
#endif
}

/* The last that was put is the next that is got: it is warm. */
static void the_last_one_comes_first(void **state)
{
    (void)state;
#ifndef TEST_KEEPS_NOTHING
    void *pair[2];
    get_and_put(100, 4);
    for (int i = 0; i < 2; i++)
        pair[i] = get(100);
    put(pair[0], 100);
    must(get(100) == pair[0]);
    put(pair[0], 100);
    put(pair[1], 100);
    must(get(100) == pair[1]);
    must(get(100) == pair[0]);
    put(pair[1], 100);
    put(pair[0], 100);
#endif
}

/* Of a burst, so much is held and no more, however large it was. */
static long held_after(int burst, size_t size)
{
    void **all = __real_malloc((size_t)burst * sizeof *all);
    must(all != NULL);
    const long before = held();
    for (int i = 0; i < burst; i++)
        all[i] = get(size);
    for (int i = 0; i < burst; i++)
        put(all[i], size);
    __real_free(all);
    return held() - before;
}

static void what_is_kept_is_bounded(void **state)
{
    (void)state;
    enum {
        BURST = 80000
    };
    for (size_t size = SMALLEST; size <= LARGEST; size += DUET__BLOCK_STEP) {
        (void)held_after(BURST, size);
        must(held_after(BURST, size) < 500); /* it is full, but for this thread's few */
        must(held_after(2 * BURST, size) < 500);
    }
}

static void trimming_gives_back(void **state)
{
    (void)state;
    trim_all();
    const long before = held();
    for (size_t size = SMALLEST; size <= LARGEST; size += DUET__BLOCK_STEP)
        (void)held_after(MANY, size);
    const long kept = held();
    const bool more = duet__blocks_trim(now_ns += 1000000000) != INT64_MAX;
#ifdef TEST_KEEPS_NOTHING
    must(!more);
    must_equal(kept, before);
#else
    must(more);
    must_equal(held(), kept); /* it was needed within this second */
    must(duet__blocks_trim(now_ns += 1000000000) != INT64_MAX);
    must(held() < kept);
    must(held() > before); /* not all of it at one time */
#endif
    trim_all();
    const long few = held();
    must_equal(duet__blocks_trim(INT64_MAX / 2), INT64_MAX); /* and no further */
    must_equal(held(), few);
    must(few <= kept);
    use_all_sizes(300);
}

/* ---- No memory ---- */

static void without_memory_what_is_kept_is_there_and_then_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        void *memory;
        int n = 0;
        get_and_put(sizes[i], 5);
        trim_all();
        atomic_store(&refusing, true);
        while (n < MANY && (memory = duet__block_get(duet__shelf_for(sizes[i]), sizes[i])))
            blocks[n++] = memory;
        must(n < MANY);
        must(duet__block_get(duet__shelf_for(sizes[i]), sizes[i]) == NULL);
        atomic_store(&refusing, false);
        must(sizes[i] <= LARGEST || n == 0);
#ifndef TEST_KEEPS_NOTHING
        must(sizes[i] > LARGEST || n >= 5);
#endif
        memory = get(sizes[i]);
        while (n > 0)
            put(blocks[--n], sizes[i]);
        put(memory, sizes[i]);
    }
}

/* Nor does putting back need any. */
static void without_memory_all_can_be_put_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        const int n = sizes[i] > LARGEST ? 10 : MANY;
        for (int k = 0; k < n; k++)
            blocks[k] = get(sizes[i]);
        atomic_store(&refusing, true);
        for (int k = 0; k < n; k++)
            put(blocks[k], sizes[i]);
        atomic_store(&refusing, false);
    }
}

/* ---- Threads ---- */

static void *use_and_end(void *n)
{
    void *mine[200];
    for (size_t i = 0; i < SIZES && sizes[i] <= LARGEST; i++) {
        for (int k = 0; k < *(int *)n; k++)
            sign(mine[k] = get(sizes[i]), sizes[i], (unsigned char)k);
        for (int k = 0; k < *(int *)n; k++) {
            must_be_signed(mine[k], sizes[i], (unsigned char)k);
            put(mine[k], sizes[i]);
        }
    }
    return NULL;
}

static void run_threads_in_a_row(int n, int each)
{
    for (; n > 0; n--) {
        pthread_t thread;
        must_equal(pthread_create(&thread, NULL, use_and_end, &each), 0);
        must_equal(pthread_join(thread, NULL), 0);
    }
}

/* What ended threads had is not lost: the next ones use it, so it does not grow with each. */
static void what_ended_threads_had_is_used_again(void **state)
{
    (void)state;
    static const int each[] = {1, 3, 40, 200};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) {
        run_threads_in_a_row(20, each[i]);
        const long before = held();
        run_threads_in_a_row(200, each[i]);
        must(held() - before < 100);
    }
}

struct handover {
    void *memory[SIZES];
    unsigned char owner;
};

static void *get_for_others(void *arg)
{
    struct handover *h = arg;
    for (size_t i = 0; i < SIZES; i++)
        sign(h->memory[i] = get(sizes[i]), sizes[i], h->owner);
    return NULL;
}

static void *put_of_others(void *arg)
{
    struct handover *h = arg;
    for (size_t i = 0; i < SIZES; i++) {
        must_be_signed(h->memory[i], sizes[i], h->owner);
        put(h->memory[i], sizes[i]);
    }
    return NULL;
}

/* One thread gets them and ends, another puts them back. */
static void blocks_outlive_the_thread_that_got_them(void **state)
{
    (void)state;
    enum {
        THREADS = 50
    };
    static struct handover all[THREADS];
    pthread_t threads[THREADS];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < THREADS; i++) {
            all[i].owner = (unsigned char)(i + 1);
            must_equal(pthread_create(&threads[i], NULL, get_for_others, &all[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            must_equal(pthread_join(threads[i], NULL), 0);
        for (int i = 0; i < THREADS; i++)
            must_equal(pthread_create(&threads[i], NULL, put_of_others, &all[i]), 0);
        for (int i = 0; i < THREADS; i++)
            must_equal(pthread_join(threads[i], NULL), 0);
    }
}

enum {
    TRADERS = 4,
    PLACES = 64
};

/* A block on its way: who finds it knows its size and what it says. Its own, not duet's, memory. */
struct parcel {
    void *memory;
    size_t size;
    unsigned char owner;
};

static _Atomic(struct parcel *) market[PLACES];

struct trader {
    pthread_t thread;
    uint64_t random;
    int rounds;
    unsigned char name;
    long got, put;
    atomic_bool *stop; /* NULL: it ends after its rounds */
};

static void unpack(struct trader *t, struct parcel *parcel)
{
    if (!parcel)
        return;
    must_be_signed(parcel->memory, parcel->size, parcel->owner);
    put(parcel->memory, parcel->size);
    t->put++;
    __real_free(parcel);
}

static struct parcel *pack(struct trader *t)
{
    struct parcel *parcel = __real_malloc(sizeof *parcel);
    must(parcel != NULL);
    const uint64_t r = test_random(&t->random);
    *parcel = (struct parcel){.size = r % 16 ? SMALLEST + (r >> 8) % (LARGEST - SMALLEST + 1)
                                             : sizes[(r >> 8) % SIZES],
                              .owner = t->name};
    parcel->memory = get(parcel->size);
    sign(parcel->memory, parcel->size, t->name);
    t->got++;
    return parcel;
}

/* Brings a block to a place, and puts back the one that lay there. */
static void *trade(void *arg)
{
    struct trader *t = arg;
    for (int i = 0; t->stop ? !atomic_load(t->stop) : i < t->rounds; i++) {
        const uint64_t r = test_random(&t->random);
        /* What is written in the block and the parcel is handed over with the pointer. */
        unpack(t, atomic_exchange(&market[r % PLACES], r & 64 ? pack(t) : NULL));
        if ((r >> 16) % 256 == 0)
            (void)duet__blocks_trim(duet_now_ns());
        if ((r >> 24) % 512 == 0) { /* a burst of its own */
            void *burst[300];
            for (int k = 0; k < 300; k++)
                burst[k] = get(100);
            for (int k = 0; k < 300; k++)
                put(burst[k], 100);
        }
    }
    return NULL;
}

static void begin_trade(struct trader *traders, uint64_t *random, int rounds, atomic_bool *stop)
{
    for (int i = 0; i < TRADERS; i++) {
        traders[i] = (struct trader){.random = test_random(random),
                                     .rounds = rounds,
                                     .name = (unsigned char)(i + 1),
                                     .stop = stop};
        must_equal(pthread_create(&traders[i].thread, NULL, trade, &traders[i]), 0);
    }
}

static void end_trade(struct trader *traders)
{
    long got = 0, put_back = 0;
    for (int i = 0; i < TRADERS; i++)
        must_equal(pthread_join(traders[i].thread, NULL), 0);
    for (int i = 0; i < PLACES; i++)
        unpack(&traders[0], atomic_exchange(&market[i], NULL));
    for (int i = 0; i < TRADERS; i++) {
        got += traders[i].got;
        put_back += traders[i].put;
    }
    must(got > 0);
    must_equal(got, put_back);
}

static void many_threads_exchange_blocks_of_all_sizes(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct trader traders[TRADERS];
    begin_trade(traders, &random, test_rounds(100000), NULL);
    end_trade(traders);
    trim_all();
}

/* With every thread that ends, and every round, there is not more of them. */
static void rounds_of_threads_leave_no_more_and_no_more(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    long before = 0;
    struct trader traders[TRADERS];
    for (int round = 0; round < 20; round++) {
        begin_trade(traders, &random, test_rounds(2000), NULL);
        end_trade(traders);
        trim_all();
        if (round == 9)
            before = held();
    }
    must(held() - before < MANY);
}

/* ---- Forked children ---- */

static void go_on(void)
{
    use_all_sizes(300);
    trim_all();
    use_all_sizes(300);
}

static void a_forked_child_goes_on(void **state)
{
    (void)state;
    use_all_sizes(300); /* so that there is something that both have now */
    for (int i = 0; i < 5; i++) {
        must(run_in_child(go_on));
        use_all_sizes(100);
    }
}

#ifndef TEST_SANITIZED /* their allocators do not survive such a fork */

static void a_child_forked_amid_a_trade_goes_on(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    atomic_bool stop = false;
    struct trader traders[TRADERS];
    begin_trade(traders, &random, 0, &stop);
    for (int i = test_rounds(100); i > 0; i--) {
        must(run_in_child(go_on));
        use_all_sizes(10);
    }
    atomic_store(&stop, true);
    end_trade(traders);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_kept_where_a_test_says_so),
        cmocka_unit_test(nothing_is_kept_with_an_allocator_of_the_users),
        cmocka_unit_test(each_size_has_its_shelf),
        cmocka_unit_test(blocks_of_all_sizes_are_ones_own),
        cmocka_unit_test(a_forked_child_goes_on),
        cmocka_unit_test(a_block_serves_all_sizes_of_its_shelf),
        cmocka_unit_test(what_is_too_large_is_never_kept),
        cmocka_unit_test(it_keeps_what_it_should),
        cmocka_unit_test(the_last_one_comes_first),
        cmocka_unit_test(what_is_kept_is_bounded),
        cmocka_unit_test(trimming_gives_back),
        cmocka_unit_test(without_memory_what_is_kept_is_there_and_then_nothing),
        cmocka_unit_test(without_memory_all_can_be_put_back),
        cmocka_unit_test(blocks_outlive_the_thread_that_got_them),
        cmocka_unit_test(many_threads_exchange_blocks_of_all_sizes),
#ifndef TEST_SANITIZED
        cmocka_unit_test(a_child_forked_amid_a_trade_goes_on),
#endif
        cmocka_unit_test(what_ended_threads_had_is_used_again),
        cmocka_unit_test(rounds_of_threads_leave_no_more_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
