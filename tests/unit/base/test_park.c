/* A thread's parker, and the claims that end a sleep exactly once. */
#include "context.h"
#include "duet_test.h"
#include "lock.h"
#include "park.h"

static void a_token_given_before_is_not_lost(void **state)
{
    (void)state;
    struct duet__parker *here = duet__here();
    duet__unpark(here);
    duet__unpark(here);
    must_equal(duet__park(here, DUET_NEVER, false), 0);
    must_equal(duet__park(here, DUET_NOW, false), 0); /* tokens go before deadlines */
    must_equal(duet__park(here, DUET_NOW, false), -ETIME);
}

static void a_sleep_is_never_early(void **state)
{
    (void)state;
    struct duet__parker *here = duet__here();
    for (int i = 1; i <= 20; i++) {
        duet_deadline by = duet_us(i * 100);
        must_equal(duet__park(here, by, false), -ETIME);
        must(duet_now_ns() >= by.ns);
    }
}

static void *unpark_thread(void *parker)
{
    duet__unpark(parker);
    return NULL;
}

static void a_token_wakes_a_sleeper(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        must_equal(pthread_create(&thread, NULL, unpark_thread, duet__here()), 0);
        must_equal(duet__park(duet__here(), SURELY, false), 0);
        pthread_join(thread, NULL);
    }
}

static void *cancel_thread(void *parker)
{
    duet__park_cancel(parker);
    return NULL;
}

static void cancellation_is_a_level_but_not_for_shielded_sleeps(void **state)
{
    (void)state;
    struct duet__parker parker = *duet__here(); /* a thread's, that can be cancelled */
    pthread_t thread;
    must_equal(pthread_create(&thread, NULL, cancel_thread, &parker), 0);
    must_equal(duet__park(&parker, SURELY, false), -ECANCELED);
    pthread_join(thread, NULL);
    must_equal(duet__park(&parker, SURELY, false), -ECANCELED);
    must_equal(duet__park(&parker, DUET_NOW, true), -ETIME);
    duet__unpark(&parker);
    must_equal(duet__park(&parker, DUET_NEVER, true), 0);
    duet__unpark(&parker);
    must_equal(duet__park(&parker, DUET_NEVER, false), 0); /* a token goes before cancellation */
}

static void a_sleep_is_claimed_once(void **state)
{
    (void)state;
    struct duet__parker parker;
    duet__parker_init(&parker, duet__here()->ops, NULL, DUET__PARK_SLEEPING);
    must(duet__park_claim(&parker));
    must(!duet__park_claim(&parker));
}

static void a_claimed_waiter_has_succeeded_though_its_deadline_passed(void **state)
{
    (void)state;
    struct duet__lock lock = {0};
    struct duet__list queue;
    struct duet__waiter waiter;
    duet__list_init(&queue);
    duet__waiter_init(&waiter, duet__here());
    duet__list_append(&queue, &waiter.link);
    must(duet__list_pop(&queue) == &waiter.link);
    pthread_t thread;
    must_equal(pthread_create(&thread, NULL, unpark_thread, duet__here()), 0);
    must_equal(duet__wait_claimed(&waiter, &lock, DUET_NOW, false), 0);
    pthread_join(thread, NULL);
}

static void an_unclaimed_waiter_leaves_its_queue(void **state)
{
    (void)state;
    struct duet__lock lock = {0};
    struct duet__list queue;
    struct duet__waiter waiter;
    duet__list_init(&queue);
    duet__waiter_init(&waiter, duet__here());
    duet__list_append(&queue, &waiter.link);
    must_equal(duet__wait_claimed(&waiter, &lock, DUET_NOW, false), -ETIME);
    must(duet__list_empty(&queue));
}

static void try_to_wait(void *ret)
{
    *(int *)ret = duet__wait_begin(duet__here(), DUET_NEVER, false);
}

static void nothing_waits_in_a_bare_callback(void **state)
{
    (void)state;
    int rc = 0;
    duet__call_bare(try_to_wait, &rc);
    must_equal(rc, -EDEADLK);
    must_equal(duet__wait_begin(duet__here(), DUET_NEVER, false), 0);
}

enum {
    ROUNDS = 20000,
    THREADS = 4
};
static struct duet__lock stress_lock;
static int64_t stress_sum;

static void *lock_often(void *arg)
{
    for (int i = test_rounds(ROUNDS); i > 0; i--) {
        duet__lock(&stress_lock);
        stress_sum++;
        duet__unlock(&stress_lock);
    }
    return arg;
}

static void a_lock_excludes(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        must_equal(pthread_create(&threads[i], NULL, lock_often, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    must_equal(stress_sum, (int64_t)THREADS * test_rounds(ROUNDS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_given_before_is_not_lost),
        cmocka_unit_test(a_sleep_is_never_early),
        cmocka_unit_test(a_token_wakes_a_sleeper),
        cmocka_unit_test(cancellation_is_a_level_but_not_for_shielded_sleeps),
        cmocka_unit_test(a_sleep_is_claimed_once),
        cmocka_unit_test(a_claimed_waiter_has_succeeded_though_its_deadline_passed),
        cmocka_unit_test(an_unclaimed_waiter_leaves_its_queue),
        cmocka_unit_test(nothing_waits_in_a_bare_callback),
        cmocka_unit_test(a_lock_excludes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
