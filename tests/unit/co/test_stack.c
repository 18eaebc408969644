/* Stacks: guarded on every rung of the ladder, reused last in first out, given back in idle time.
 */
#include "duet_test.h"
#include "overflow.h"
#include "stack.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static struct duet__co scheduler;
static char warning[512];
static int warnings;

static void keep_warning(void *ctx, const char *line)
{
    (void)ctx;
    warnings++;
    snprintf(warning, sizeof warning, "%s", line);
}

/* Each time it is switched to, it calls the work that it finds. */
static void stack_main(void *arg)
{
    struct duet__stack *stack = arg;
    for (;;) {
        void (*work)(struct duet__stack * stack);
        memcpy(&work, &stack->work, sizeof work);
        work(stack);
        duet__co_switch(&stack->co, &scheduler);
    }
}

static void run_on(struct duet__stack *stack, void (*work)(struct duet__stack *stack))
{
    memcpy(&stack->work, &work, sizeof work);
    duet__co_switch(&scheduler, &stack->co);
}

static char *high_of(struct duet__stack *stack)
{
    return (char *)stack; /* it lies on top of its stack */
}

static int ran;

static void touch_all(struct duet__stack *stack)
{
    volatile char *here = __builtin_frame_address(0);
    ran++;
    for (volatile char *p = stack->co.low + 4096; p < here - 4096; p += 4096)
        *p = 1;
}

static void init(struct duet__stacks *stacks, size_t size)
{
    static const struct duet__stacks_ops ops = {calloc, free, keep_warning};
    duet__stacks_init(stacks, size, stack_main, &ops, NULL);
}

static void a_stack_has_the_size_asked_for_and_is_reused_last_in_first_out(void **state)
{
    (void)state;
    struct duet__stacks stacks;
    init(&stacks, 100000);
    struct duet__stack *a = duet__stacks_get(&stacks), *b = duet__stacks_get(&stacks);
    must(a && b && a != b);
    must(high_of(a) - a->co.low >= 100000);
    run_on(a, touch_all);
    run_on(b, touch_all);
    must_equal(ran, 2);
    duet__stacks_put(a);
    duet__stacks_put(b);
    must(duet__stacks_get(&stacks) == b);
    must(duet__stacks_get(&stacks) == a);
    run_on(a, touch_all); /* it goes on where it was */
    must_equal(ran, 3);
    duet__stacks_put(a);
    duet__stacks_put(b);
    duet__stacks_fini(&stacks);
}

static void two_stacks_never_overlap(void **state)
{
    enum {
        N = 300
    };
    (void)state;
    struct duet__stacks stacks;
    struct duet__stack *all[N];
    init(&stacks, 16384);
    for (int i = 0; i < N; i++) {
        all[i] = duet__stacks_get(&stacks);
        must(all[i] != NULL);
        for (int k = 0; k < i; k++)
            must(high_of(all[i] + 1) <= all[k]->co.low || high_of(all[k] + 1) <= all[i]->co.low);
    }
    for (int i = 0; i < N; i++)
        duet__stacks_put(all[i]);
    duet__stacks_fini(&stacks);
}

/* Of a stack of 16 KiB with one page more, by its lowest byte: a look at itself would bring a page
 * back. */
static int resident(char *low)
{
    unsigned char pages[5];
    int count = 0;
    must(mincore(low, sizeof pages * 4096, pages) == 0);
    for (size_t i = 0; i < sizeof pages; i++)
        count += pages[i] & 1;
    return count;
}

static int64_t now_ns = 1000;

/* All that nobody needs for a while. */
static void trim(struct duet__stacks *stacks)
{
    int times = 0;
    for (int64_t next; (next = duet__stacks_trim(stacks, now_ns)) != INT64_MAX; now_ns = next) {
        must(times++ < 1000);
        must(next > now_ns && next - now_ns <= 1000000000);
    }
}

static void get_run_put(struct duet__stacks *stacks, struct duet__stack *all[], int n)
{
    for (int i = 0; i < n; i++) {
        all[i] = duet__stacks_get(stacks);
        run_on(all[i], touch_all);
    }
    for (int i = 0; i < n; i++)
        duet__stacks_put(all[i]);
}

static void what_was_needed_within_a_second_keeps_its_pages(void **state)
{
    enum {
        N = 1000,
        FEW = 600
    };
    (void)state;
    struct duet__stacks stacks;
    struct duet__stack *all[N];
    init(&stacks, 16384);
    for (int burst = 0; burst < 5; burst++) {
        get_run_put(&stacks, all, N);
        for (int i = 0; i < 30; i++, now_ns += 10000000)
            (void)duet__stacks_trim(&stacks, now_ns);
        must_equal(stacks.warm_count, N);
    }
    for (int burst = 0; burst < 30; burst++) { /* smaller ones: the others go, and only they */
        get_run_put(&stacks, all, FEW);
        for (int i = 0; i < 30; i++, now_ns += 10000000)
            (void)duet__stacks_trim(&stacks, now_ns);
        must(stacks.warm_count >= FEW);
    }
    must_equal(stacks.warm_count, FEW);
    trim(&stacks);
    must_equal(stacks.warm_count, 256);
    must_equal(duet__stacks_trim(&stacks, INT64_MAX), INT64_MAX);
    duet__stacks_fini(&stacks);
}

static void idle_time_gives_memory_back_down_to_the_reserve(void **state)
{
    enum {
        N = 1000
    };
    (void)state;
    struct duet__stacks stacks;
    struct duet__stack *all[N];
    char *lows[N];
    int before = ran;
    init(&stacks, 16384);
    for (int i = 0; i < N; i++) {
        all[i] = duet__stacks_get(&stacks);
        lows[i] = all[i]->co.low;
        must_equal(resident(lows[i]), 1);
        run_on(all[i], touch_all);
        must(resident(lows[i]) > 1);
    }
    for (int i = 0; i < N; i++)
        duet__stacks_put(all[i]);
    must_equal(stacks.warm_count, N);
    trim(&stacks);
    must(stacks.warm_count < N);
    must(stacks.warm_count >= 256);
    must_equal(resident(lows[0]), 0); /* the one that rested longest */
    must(resident(lows[N - 1]) > 1);
    for (int i = 0; i < N; i++) { /* cold ones work again */
        struct duet__stack *stack = duet__stacks_get(&stacks);
        run_on(stack, touch_all);
        all[i] = stack;
    }
    must_equal(stacks.warm_count, 0);
    must(stacks.cold == NULL);
    must_equal(ran - before, 2 * N);
    for (int i = 0; i < N; i++)
        duet__stacks_put(all[i]);
    duet__stacks_fini(&stacks);
}

/* ---- Guards ---- */

static void overflow_by_small_frames(struct duet__stack *stack)
{
    for (volatile char *p = high_of(stack) - 64;; p -= 64)
        *p = 1;
}

static void overrun(void *arg)
{
    struct duet__stacks stacks;
    duet__guard_first = *(enum duet__guard *)arg;
    must_equal(duet__overflow_watch(), 0);
    init(&stacks, 65536);
    struct duet__stack *stack = duet__stacks_get(&stacks);
    must_equal(duet__stack_guard(stack), duet__guard_first);
    stack->co.name = "runaway";
    run_on(stack, overflow_by_small_frames);
}

static void running_into_the_guard_is_a_message_and_then_the_signal(void **state)
{
    (void)state;
    static enum duet__guard guards[] = {DUET__GUARD_MADVISE, DUET__GUARD_MPROTECT};
    for (size_t i = 0; i < 2; i++) {
        expect_death(overrun, &guards[i], SIGSEGV,
                     "stack overflow in coroutine 'runaway': its 64 KiB");
        expect_death(overrun, &guards[i], SIGSEGV, "duet_opts.stack_size");
    }
}

static void handler_before(int signo)
{
    (void)signo;
    static const char text[] = "the program's own handler\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(1);
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

static void overrun_with_handler(void *arg)
{
    signal(SIGSEGV, handler_before);
    overrun(arg);
}

static void a_handler_that_was_there_before_is_called_too(void **state)
{
    (void)state;
    static enum duet__guard guard = DUET__GUARD_MADVISE;
    expect_death(overrun_with_handler, &guard, SIGSEGV, "the program's own handler");
    expect_death(overrun_with_handler, &guard, SIGSEGV, "stack overflow in coroutine");
}

static void plain_fault(void *arg)
{
    must_equal(duet__overflow_watch(), 0);
    fprintf(stderr, "about to fault\n");
    *(volatile int *)arg = 1;
}

static void a_fault_elsewhere_is_just_the_signal(void **state)
{
    (void)state;
    expect_death(plain_fault, NULL, SIGSEGV, "about to fault");
}

static void what_was_there_before_is_restored(void **state)
{
    (void)state;
    struct sigaction before, during, after;
    stack_t stack_before, stack_after;
    sigaction(SIGSEGV, NULL, &before);
    sigaltstack(NULL, &stack_before);
    must_equal(duet__overflow_watch(), 0);
    must_equal(duet__overflow_watch(), 0); /* nests */
    sigaction(SIGSEGV, NULL, &during);
    must(during.sa_sigaction != before.sa_sigaction);
    duet__overflow_unwatch();
    duet__overflow_unwatch();
    sigaction(SIGSEGV, NULL, &after);
    sigaltstack(NULL, &stack_after);
    must(after.sa_sigaction == before.sa_sigaction);
    must(stack_after.ss_sp == stack_before.ss_sp || (stack_after.ss_flags & SS_DISABLE));
    must_equal(stack_after.ss_flags & SS_DISABLE, stack_before.ss_flags & SS_DISABLE);
}

static void write_below(struct duet__stack *stack)
{
    *(volatile uint64_t *)(void *)stack->co.low = 0;
}

static void without_guards_a_canary_tells_and_one_warning(void **state)
{
    (void)state;
    struct duet__stacks stacks;
    duet__guard_first = DUET__GUARD_CANARY;
    init(&stacks, 65536);
    duet__guard_first = DUET__GUARD_MADVISE;
    struct duet__stack *stack = duet__stacks_get(&stacks);
    must_equal(duet__stack_guard(stack), DUET__GUARD_CANARY);
    run_on(stack, touch_all);
    must(duet__stack_intact(stack));
    run_on(stack, write_below);
    must(!duet__stack_intact(stack));
    duet__stacks_put(stack);
    duet__stacks_fini(&stacks);
}

static void the_mprotect_budget_ends_in_canaries_and_one_warning_that_names_the_limit(void **state)
{
    (void)state;
    struct duet__stacks stacks;
    duet__guard_first = DUET__GUARD_MPROTECT;
    init(&stacks, 16384);
    duet__guard_first = DUET__GUARD_MADVISE;
    struct duet__stack *stack, *last = NULL;
    int count = 0;
    warnings = 0;
    do { /* a list through work */
        stack = duet__stacks_get(&stacks);
        must(stack != NULL && count++ < 1000000);
        stack->work = last;
        last = stack;
    } while (duet__stack_guard(stack) == DUET__GUARD_MPROTECT);
    must(count > 100);
    must_equal(duet__stack_guard(stack), DUET__GUARD_CANARY);
    must_equal(warnings, 1);
    must(strstr(warning, "vm.max_map_count") != NULL);
    stack = duet__stacks_get(&stacks);
    must_equal(warnings, 1);
    duet__stacks_put(stack);
    while (last) {
        struct duet__stack *next = last->work;
        duet__stacks_put(last);
        last = next;
    }
    duet__stacks_fini(&stacks);
}

static void get_all(struct duet__stacks *stacks, struct duet__stack *all[], int n,
                    enum duet__guard guard)
{
    for (int i = 0; i < n; i++) {
        all[i] = duet__stacks_get(stacks);
        must_equal(duet__stack_guard(all[i]), guard);
        must(duet__stack_intact(all[i]));
        must_equal(all[i]->co.guarded, guard != DUET__GUARD_CANARY);
    }
}

static void whose_pages_were_given_back_is_guarded_as_before(void **state)
{
    enum {
        N = 1000
    };
    (void)state;
    struct duet__stack *all[N];
    for (int guard = DUET__GUARD_MPROTECT; guard <= DUET__GUARD_CANARY; guard++) {
        struct duet__stacks stacks;
        duet__guard_first = (enum duet__guard)guard;
        init(&stacks, 16384);
        duet__guard_first = DUET__GUARD_MADVISE;
        for (int round = 0; round < 2; round++) {
            get_all(&stacks, all, N, (enum duet__guard)guard);
            for (int i = 0; i < N; i++)
                duet__stacks_put(all[i]);
            trim(&stacks);
            must(stacks.cold != NULL);
        }
        duet__stacks_fini(&stacks);
    }
}

static void a_hundred_thousand_guards_need_no_mappings_of_their_own(void **state)
{
    enum {
        N = 100000
    };
    (void)state;
#ifdef TEST_SANITIZED
    skip();
#else
    struct duet__stacks stacks;
    int before = 0, after = 0, c;
    FILE *maps = fopen("/proc/self/maps", "re");
    while ((c = getc(maps)) != EOF)
        before += c == '\n';
    fclose(maps);
    init(&stacks, 16384);
    struct duet__stack *last = NULL;
    for (int i = 0; i < N; i++) {
        struct duet__stack *stack = duet__stacks_get(&stacks);
        must(stack != NULL);
        stack->work = last;
        last = stack;
    }
    if (duet__stack_guard(last) == DUET__GUARD_MADVISE) {
        maps = fopen("/proc/self/maps", "re");
        while ((c = getc(maps)) != EOF)
            after += c == '\n';
        fclose(maps);
        must(after - before <= 200); /* at most one a slab */
    }
    while (last) {
        struct duet__stack *next = last->work;
        duet__stacks_put(last);
        last = next;
    }
    duet__stacks_fini(&stacks);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stack_has_the_size_asked_for_and_is_reused_last_in_first_out),
        cmocka_unit_test(two_stacks_never_overlap),
        cmocka_unit_test(idle_time_gives_memory_back_down_to_the_reserve),
        cmocka_unit_test(what_was_needed_within_a_second_keeps_its_pages),
        cmocka_unit_test(running_into_the_guard_is_a_message_and_then_the_signal),
        cmocka_unit_test(a_handler_that_was_there_before_is_called_too),
        cmocka_unit_test(a_fault_elsewhere_is_just_the_signal),
        cmocka_unit_test(what_was_there_before_is_restored),
        cmocka_unit_test(without_guards_a_canary_tells_and_one_warning),
        cmocka_unit_test(the_mprotect_budget_ends_in_canaries_and_one_warning_that_names_the_limit),
        cmocka_unit_test(whose_pages_were_given_back_is_guarded_as_before),
        cmocka_unit_test(a_hundred_thousand_guards_need_no_mappings_of_their_own),
    };
    duet__co_adopt(&scheduler);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
