/* Glancing at what a thread has in hand, as shipped (base/glance.*): it is not let go of meanwhile. */
#include "glance.h"
#include "kernel.h"
#include "model.h"
#include "model_atomic.h"

static struct duet__glance glance;
static uint64_t things[2]; /* what each is worth, once it is shown */
static bool hides_without_looking;

/* Shows one after the other, and lets go of each once it is hidden. */
static void owner(void *arg)
{
    (void)arg;
    for (int i = 0; i < 2; i++) {
        duet__plain_write(&things[i], 42);
        duet__glance_show(&glance, &things[i]);
        if (hides_without_looking)
            duet__store_relaxed(&glance.thing, NULL);
        else
            duet__glance_hide(&glance);
        model_free(&things[i], sizeof things[i]);
    }
}

static void looker(void *arg)
{
    (void)arg;
    uint64_t *thing = duet__glance_begin(&glance);
    if (thing)
        model_assert(duet__plain_read(thing) == 42); /* there, and as it was shown */
    duet__glance_end(&glance);
}

static void setup(void)
{
    model_kernel_reset();
    things[0] = things[1] = 0;
    duet__glance_init(&glance);
    model_spawn(owner, NULL, NULL);
    model_spawn(looker, NULL, NULL);
    model_spawn(looker, NULL, NULL);
}

static void finally(void)
{
    model_assert(model_newest(&glance.lock.word, sizeof glance.lock.word) == 0);
}

static int check(const char *name, bool *broken, enum model_expectation expectation)
{
    if (broken)
        *broken = true;
    int wrong = model_check(name, 4, setup, finally, expectation);
    if (broken)
        *broken = false;
    return wrong;
}

int main(void)
{
    int wrong = 0;
    for (int i = 0; i < 2; i++) {
        model_kernel.has_no_barrier = i == 1;
        wrong += check(i == 0 ? "glance: two look" : "glance: two look, without the barrier", NULL,
                       MODEL_HOLDS);
        wrong +=
            check("glance: hides without asking who looks", &hides_without_looking, MODEL_FAILS);
        wrong += check("glance: shown without a release", &model_weak.store_release, MODEL_FAILS);
    }
    model_kernel.has_no_barrier = false;
    wrong += check("glance: the barrier does nothing", &model_kernel.lose_barrier, MODEL_FAILS);
    return wrong;
}
