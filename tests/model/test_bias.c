/* The lock that favours one thread, as shipped (bridge/sync/bias.h): it excludes, before somebody is
 * favoured, meanwhile, and while another comes and ends that. */
#include "kernel.h"
#include "membarrier.h"
#include "model.h"
#include "model_atomic.h"

#include <string.h>

#include "../../bridge/sync/bias.c"

static struct duet__parker parkers[3];
static struct duet__bias bias;
static uint64_t data;
static bool looks_first, does_not_wait, last_frees;
static int all; /* how often they lock, together */

/* A broken variant: looks whether it is favoured, and says then that it is inside. */
static void lock_looking_first(void)
{
    if (duet__load_relaxed(&bias.favoured) == duet__bias_me())
        duet__store_relaxed(&bias.inside, duet__bias_me());
    else
        duet__bias_lock_slow(&bias);
}

/* A broken variant: comes in though the favoured one may be inside. */
static void lock_without_waiting(void)
{
    if (duet__bias_enter(&bias))
        return;
    duet__lock(&bias.lock);
    bias.is_shared = true;
    duet__store_relaxed(&bias.favoured, 0);
    duet__heavy_barrier();
}

static void lock(void)
{
    if (looks_first)
        lock_looking_first();
    else if (does_not_wait)
        lock_without_waiting();
    else
        duet__bias_lock(&bias);
}

static void lock_so_often(void *times)
{
    for (int i = *(int *)times; i > 0; i--) {
        lock();
        uint64_t seen = duet__plain_read(&data) + 1;
        duet__plain_write(&data, seen);
        duet__bias_unlock(&bias);
        if (last_frees && seen == (uint64_t)all)
            model_free(&bias, sizeof bias);
    }
}

static int once = 1, twice = 2, thrice = 3;

static void add(int thread, int *times)
{
    all += *times;
    model_spawn(lock_so_often, times, &parkers[thread]);
}

static void reset_all(void)
{
    duet__here_set(NULL);
    model_kernel_reset();
    memset(&bias, 0, sizeof bias);
    data = 0;
    all = 0;
    last_frees = false;
}

static uint32_t number_of(int thread)
{
    return (uint32_t)(uintptr_t)&parkers[thread];
}

static void setup_favoured(void)
{
    reset_all();
    bias.favoured = number_of(0);
    add(0, &twice);
    add(1, &twice);
    add(2, &once);
}

static void setup_favoured_of_two(void)
{
    reset_all();
    bias.favoured = number_of(0);
    add(0, &twice);
    add(1, &twice);
}

static void setup_becomes_favoured(void)
{
    reset_all();
    bias.last = number_of(0);
    bias.streak = FAVOURED_AFTER - 2;
    add(0, &thrice);
    add(1, &twice);
}

static void setup_freed(void)
{
    reset_all();
    bias.favoured = number_of(0);
    last_frees = true;
    add(0, &twice);
    add(1, &once);
}

static void finally_all(void)
{
    model_assert(data == (uint64_t)all);
}

static void on_switch(void *parker)
{
    duet__here_set(parker);
}

int main(void)
{
    int wrong = 0;
    model_on_switch = on_switch;
    model_on_idle = model_kernel_pass_time;
    wrong += model_check("bias: excludes while another ends the favour", 5, setup_favoured_of_two,
                         finally_all, MODEL_HOLDS);
    wrong += model_check("bias: excludes while two others end the favour", 3, setup_favoured,
                         finally_all, MODEL_HOLDS);
    wrong += model_check("bias: excludes while somebody becomes favoured", 4,
                         setup_becomes_favoured, finally_all, MODEL_HOLDS);
    wrong +=
        model_check("bias: the last one may free it", 5, setup_freed, finally_all, MODEL_HOLDS);
    model_kernel.lose_barrier = true;
    wrong += model_check("bias: no barrier on the favoured thread", 4, setup_favoured_of_two,
                         finally_all, MODEL_FAILS);
    model_kernel.lose_barrier = false;
    looks_first = true;
    wrong += model_check("bias: looks whether it is favoured before it says that it is inside", 4,
                         setup_favoured_of_two, finally_all, MODEL_FAILS);
    looks_first = false;
    does_not_wait = true;
    wrong += model_check("bias: does not wait until the favoured one has left", 4,
                         setup_favoured_of_two, finally_all, MODEL_FAILS);
    does_not_wait = false;
    model_weak.store_release = true;
    wrong += model_check("bias: leaving does not release", 4, setup_favoured_of_two, finally_all,
                         MODEL_FAILS);
    model_weak.store_release = false;
    model_weak.load_acquire = true;
    wrong += model_check("bias: ending the favour does not acquire", 4, setup_favoured_of_two,
                         finally_all, MODEL_FAILS);
    model_weak.load_acquire = false;
    return wrong;
}
