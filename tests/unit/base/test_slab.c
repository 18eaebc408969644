/* What slab.h says, and that blocks by the thousand come from there (block.c). The system calls are
 * wrapped by the linker, to refuse them. */
#include "block.h"
#include "duet_test.h"
#include "slab.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The kernel's memory ---- */

static atomic_bool no_mmap, no_mprotect;

void *__real_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return atomic_load(&no_mmap) ? MAP_FAILED
                                 : __real_mmap64(at, size, protection, flags, fd, offset);
}

int __real_mprotect(void *at, size_t size, int protection);
int __wrap_mprotect(void *at, size_t size, int protection);
int __wrap_mprotect(void *at, size_t size, int protection)
{
    return atomic_load(&no_mprotect) ? -1 : __real_mprotect(at, size, protection);
}

enum {
    SIZE = 312,
    MANY = 40000,
    IN_A_ROW = 62,
};

static void *blocks[MANY];

static void sign(void *block, size_t number)
{
    memset(block, (int)(number % 251), SIZE);
}

static void must_be_signed(const void *block, size_t number)
{
    for (size_t i = 0; i < SIZE; i++)
        must_equal(((const unsigned char *)block)[i], number % 251);
}

/* How many pages of these blocks the process has. */
static size_t resident(size_t count)
{
    size_t pages = 0;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t last = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned char there = 0;
        const uintptr_t at = (uintptr_t)blocks[i] & ~(page - 1);
        if (at == last)
            continue;
        last = at;
        pages += mincore((void *)at, page, &there) == 0 && (there & 1);
    }
    return pages;
}

/* ---- Slabs by themselves ---- */

static void take(struct duet__slabs *slabs, size_t count)
{
    for (size_t have = 0; have < count;) {
        const size_t most = count - have < IN_A_ROW ? count - have : IN_A_ROW;
        size_t got = duet__slabs_take(slabs, blocks + have, most);
        if (got == 0) {
            struct duet__slab *slab = duet__slab_new(SIZE);
            must(slab != NULL);
            duet__slabs_add(slabs, slab);
        }
        have += got;
    }
}

static void give(struct duet__slabs *slabs, void *const some[], size_t count)
{
    duet__slabs_free(duet__slabs_give(slabs, some, count));
}

static void a_block_is_ones_own(void **state)
{
    (void)state;
    struct duet__slabs slabs = {NULL};
    take(&slabs, MANY);
    for (size_t i = 0; i < MANY; i++) {
        must(duet__is_of_slab(blocks[i]));
        must_equal((uintptr_t)blocks[i] % DUET__BLOCK_ALIGN, 0);
        sign(blocks[i], i);
    }
    for (size_t i = 0; i < MANY; i++)
        must_be_signed(blocks[i], i);
    give(&slabs, blocks, MANY);
    must(slabs.first == NULL); /* all are empty, and gone */
}

static void other_memory_is_of_no_slab(void **state)
{
    (void)state;
    struct duet__slabs slabs = {NULL};
    char *other = malloc(SIZE);
    must(!duet__is_of_slab(NULL));
    must(!duet__is_of_slab(other));
    must(!duet__is_of_slab(&slabs));
    take(&slabs, 1);
    must(duet__is_of_slab(blocks[0]));
    must(!duet__is_of_slab(other));
    give(&slabs, blocks, 1);
    free(other);
}

/* In any order; and what came back is taken before anything new is cut. */
static void what_came_back_is_taken_again(void **state)
{
    (void)state;
    struct duet__slabs slabs = {NULL};
    uint64_t random = test_seed();
    take(&slabs, MANY);
    for (size_t i = MANY; i > 1; i--) {
        const size_t k = test_random(&random) % i;
        void *block = blocks[k];
        blocks[k] = blocks[i - 1];
        blocks[i - 1] = block;
    }
    void *const kept = blocks[0];
    sign(kept, 7);
    give(&slabs, blocks + 1, MANY - 1);
    must_be_signed(kept, 7);
    must(slabs.first != NULL); /* its slab is there */
    void *again[IN_A_ROW];
    must_equal(duet__slabs_take(&slabs, again, IN_A_ROW), IN_A_ROW);
    for (size_t i = 0; i < IN_A_ROW; i++)
        must(again[i] != kept);
    give(&slabs, again, IN_A_ROW);
    must_be_signed(kept, 7);
    give(&slabs, &kept, 1);
    must(slabs.first == NULL);
}

static void the_memory_of_empty_slabs_goes_to_the_kernel(void **state)
{
    (void)state;
    struct duet__slabs slabs = {NULL};
    for (int round = 0; round < 3; round++) {
        take(&slabs, MANY);
        for (size_t i = 0; i < MANY; i++)
            sign(blocks[i], i);
        must(resident(MANY) > MANY * SIZE / 2 / (size_t)sysconf(_SC_PAGESIZE));
        give(&slabs, blocks, MANY);
        must_equal(resident(MANY), 0);
    }
}

static void begin_without_addresses(void)
{
    atomic_store(&no_mmap, true);
    must(duet__slab_new(SIZE) == NULL);
    atomic_store(&no_mmap, false);
    must(duet__slab_new(SIZE) == NULL); /* and it is not tried again */
    must(!duet__is_of_slab(blocks));
}

/* Before there is any slab. */
static void without_addresses_there_is_none(void **state)
{
    (void)state;
    must(run_in_child(begin_without_addresses));
}

static void without_memory_there_is_none_now(void **state)
{
    (void)state;
    struct duet__slabs slabs = {NULL};
    struct duet__slab *slab;
    atomic_store(&no_mprotect, true);
    for (int i = 0; (slab = duet__slab_new(SIZE)) != NULL; i++) { /* those that were used before */
        must(i < 100000);
        duet__slabs_add(&slabs, slab);
    }
    atomic_store(&no_mprotect, false);
    take(&slabs, MANY);
    give(&slabs, blocks, MANY);
}

static struct duet__slabs inherited;

static void use_inherited(void)
{
    struct duet__slabs mine = {NULL};
    void *theirs[IN_A_ROW];
    memcpy(theirs, blocks, sizeof theirs);
    for (size_t i = 0; i < IN_A_ROW; i++)
        must_be_signed(theirs[i], i);
    give(&mine, theirs, IN_A_ROW); /* nothing comes of it */
    must(mine.first == NULL);
    take(&mine, MANY);
    for (size_t i = 0; i < MANY; i++)
        for (size_t k = 0; k < IN_A_ROW; k += IN_A_ROW - 1)
            must(blocks[i] != theirs[k]);
    give(&mine, blocks, MANY);
    must(mine.first == NULL);
}

static void a_forked_child_leaves_its_parents_slabs_alone(void **state)
{
    (void)state;
    inherited.first = NULL;
    take(&inherited, IN_A_ROW);
    for (size_t i = 0; i < IN_A_ROW; i++)
        sign(blocks[i], i);
    must(run_in_child(use_inherited));
    for (size_t i = 0; i < IN_A_ROW; i++)
        must_be_signed(blocks[i], i);
    give(&inherited, blocks, IN_A_ROW);
}

/* ---- Blocks that come from there ---- */

#if !defined(__SANITIZE_ADDRESS__)
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_KEEPS_NOTHING 1
#endif
#endif
#else
#define TEST_KEEPS_NOTHING 1
#endif

static size_t get_many(void)
{
    const unsigned shelf = duet__shelf_for(SIZE);
    size_t of_slabs = 0;
    for (size_t i = 0; i < MANY; i++) {
        blocks[i] = duet__block_get(shelf, SIZE);
        must(blocks[i] != NULL);
        sign(blocks[i], i);
        of_slabs += duet__is_of_slab(blocks[i]);
    }
    return of_slabs;
}

static void put_many(void)
{
    for (size_t i = 0; i < MANY; i++) {
        must_be_signed(blocks[i], i);
        duet__block_put(duet__shelf_for(SIZE), blocks[i]);
    }
}

static void a_few_are_the_c_librarys_and_many_are_of_slabs(void **state)
{
    (void)state;
    const size_t of_slabs = get_many();
#ifdef TEST_KEEPS_NOTHING
    must_equal(of_slabs, 0);
#else
    must(of_slabs > MANY / 2);
    must(!duet__is_of_slab(blocks[0]));
#endif
    put_many();
}

/* All but what the depot and this thread keep. */
static void the_memory_of_a_burst_goes_back(void **state)
{
    (void)state;
    get_many();
    const size_t before = resident(MANY);
    put_many();
    duet__blocks_give_back();
#ifndef TEST_KEEPS_NOTHING /* else it is in quarantine */
    must(resident(MANY) < before / 2);
#endif
    must(before > 0);
    get_many();
    put_many();
}

static void get_and_put_many(void)
{
    must_equal(get_many(), 0);
    put_many();
    duet__blocks_give_back();
    must_equal(get_many(), 0);
    put_many();
}

static void get_without_slabs(void)
{
    atomic_store(&no_mmap, true); /* the C library's own calls are not these */
    get_and_put_many();
}

static void without_slabs_all_are_the_c_librarys(void **state)
{
    (void)state;
    must(run_in_child(get_without_slabs));
}

static void *put_of_another(void *arg)
{
    (void)arg;
    put_many();
    return NULL;
}

static void blocks_of_slabs_go_from_thread_to_thread(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        pthread_t thread;
        get_many();
        must_equal(pthread_create(&thread, NULL, put_of_another, NULL), 0);
        must_equal(pthread_join(thread, NULL), 0);
        if (round % 3 == 2)
            duet__blocks_give_back();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_addresses_there_is_none), /* before there are any */
        cmocka_unit_test(without_slabs_all_are_the_c_librarys), /* likewise */
        cmocka_unit_test(a_block_is_ones_own),
        cmocka_unit_test(other_memory_is_of_no_slab),
        cmocka_unit_test(what_came_back_is_taken_again),
        cmocka_unit_test(the_memory_of_empty_slabs_goes_to_the_kernel),
        cmocka_unit_test(without_memory_there_is_none_now),
        cmocka_unit_test(a_forked_child_leaves_its_parents_slabs_alone),
        cmocka_unit_test(a_few_are_the_c_librarys_and_many_are_of_slabs),
        cmocka_unit_test(the_memory_of_a_burst_goes_back),
        cmocka_unit_test(blocks_of_slabs_go_from_thread_to_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
