/* Two that wait for each other, as shipped (base/graph.c, base/park.c, base/future.c): one of them is
 * told, whoever joins last, and nothing of that is left over. */
#include "clock.h"
#include "future_impl.h"
#include "graph.h"
#include "kernel.h"
#include "model.h"
#include "model_atomic.h"

#include <errno.h>
#include <string.h>

/* Two works: each waits for the other, and then settles. */
static struct work {
    duet_future future;
    struct duet__parker parker;
    duet_deadline by;
    int rc;
} works[2];
static struct duet__parker other_parker;
static bool looks_away; /* a broken variant: the search does not know who settles what */

static bool may_settle(const duet_future *f, struct duet__look *look)
{
    struct work *work = duet__container(f, struct work, future);
    return looks_away || duet__look_at(look, &work->parker, DUET__VIA_ITSELF);
}

static void cancel(duet_future *f)
{
    duet__park_cancel(&duet__container(f, struct work, future)->parker);
}

static void release(duet_future *f)
{
    (void)f;
}

static const struct duet__future_ops ops = {
    .kind = "work", .cancel = cancel, .release = release, .may_settle = may_settle};

static void work_thread(void *arg)
{
    struct work *work = arg, *other = &works[work == works];
    work->rc = duet_future_wait(&other->future, work->by, NULL);
    uint32_t word = (uint32_t)model_newest(&work->parker.word, sizeof work->parker.word);
    model_assert((word & ~(uint32_t)DUET__PARK_CANCEL) == 0);
    model_assert(!work->parker.wait && !work->parker.joined);
    duet__future_settle(&work->future, duet_ok(), 0);
}

static void cancel_thread(void *arg)
{
    (void)arg;
    duet_future_cancel(&works[0].future);
}

static void setup(int64_t first_by_ns, int64_t second_by_ns)
{
    duet__here_set(NULL);
    const struct duet__parker_ops *thread_ops = duet__here()->ops;
    model_kernel_reset();
    memset(works, 0, sizeof works);
    works[0].by.ns = first_by_ns;
    works[1].by.ns = second_by_ns;
    duet__parker_init(&other_parker, thread_ops, NULL, 0);
    for (int i = 0; i < 2; i++) {
        duet__future_init(&works[i].future, &ops, NULL, 1);
        duet__parker_init(&works[i].parker, thread_ops, &works[i].future, 0);
        works[i].rc = 1;
        model_spawn(work_thread, &works[i], &works[i].parker);
    }
}

static void setup_circle(void)
{
    setup(DUET__NEVER, DUET__NEVER);
}

static void finally_circle(void)
{
    model_assert((works[0].rc == -EDEADLK) + (works[1].rc == -EDEADLK) == 1);
    model_assert((works[0].rc == 0) + (works[1].rc == 0) == 1);
}

static void setup_deadline(void)
{
    setup(10 * DUET__YOUNG_NS, DUET__NEVER);
}

/* Its deadline may pass in the same moment; the other gets its result. */
static void finally_deadline(void)
{
    model_assert(works[0].rc == -EDEADLK || works[0].rc == -ETIME);
    model_assert(works[1].rc == 0);
}

static void setup_cancel(void)
{
    setup(DUET__NEVER, DUET__NEVER);
    model_spawn(cancel_thread, NULL, &other_parker);
}

/* Somebody ends it: the first by its cancellation, or one of them by the verdict. */
static void finally_cancel(void)
{
    int told = (works[0].rc == -EDEADLK) + (works[1].rc == -EDEADLK);
    model_assert(told + (works[0].rc == -ECANCELED) >= 1);
    model_assert(works[0].rc <= 0 && works[1].rc <= 0);
}

static void on_switch(void *parker)
{
    duet__here_set(parker);
}

static void no_log(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
}

int main(void)
{
    int wrong = 0;
    duet_log_set(no_log, NULL, DUET_ERROR);
    model_on_switch = on_switch;
    model_on_idle = model_kernel_pass_time;
    wrong += model_check("graph: two wait for each other, one is told", 4, setup_circle,
                         finally_circle, MODEL_HOLDS);
    wrong += model_check("graph: the earliest deadline is told", 3, setup_deadline,
                         finally_deadline, MODEL_HOLDS);
    wrong += model_check("graph: the verdict against a cancellation", 3, setup_cancel,
                         finally_cancel, MODEL_HOLDS);

    model_kernel.lose_futex_wake = true;
    wrong += model_check("graph: the verdict wakes nobody", 3, setup_circle, finally_circle,
                         MODEL_FAILS);
    model_kernel.lose_futex_wake = false;

    looks_away = true;
    wrong += model_check("graph: the search does not look at who settles", 3, setup_circle,
                         finally_circle, MODEL_FAILS);
    looks_away = false;
    return wrong;
}
