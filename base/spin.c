#include "spin.h"

/* After so many looks in the way, and so long after the last time? */
static bool is_time_to_insist(const struct duet__spin *spin, uint32_t now_us)
{
    return spin->misses >= DUET__INSIST_FIRST && (int32_t)(now_us - spin->insist_us) >= 0;
}

/* Not again before four times as long as the time before, whatever looks were answered meanwhile:
 * others may have answered them. */
static void insist(struct duet__spin *spin, uint32_t now_us)
{
    spin->budget_ns = DUET__INSIST_NS;
    spin->turns = DUET__INSIST_TURNS;
    spin->insist_us = now_us + ((uint32_t)DUET__INSIST_PAUSE_US << 2 * spin->insisted);
    if (spin->insisted < DUET__INSISTED_MOST)
        spin->insisted++;
}

static unsigned passes_after(unsigned misses)
{
    return 1U << (misses < DUET__PASSES_MOST_LOG2 ? misses : DUET__PASSES_MOST_LOG2);
}

/* None is let pass any more. */
static void look_again(struct duet__spin *spin, uint32_t now_us, bool in_turns)
{
    spin->budget_ns = spin->limit_ns;
    if (in_turns && spin->limit_ns > 0 && is_time_to_insist(spin, now_us))
        insist(spin, now_us);
}

static void was_in_the_way(struct duet__spin *spin)
{
    spin->budget_ns = 0;
    spin->passes = passes_after(spin->misses) & 0xfff; /* that is all of it */
    if (spin->misses < DUET__MISSES_MOST)
        spin->misses++;
}

void duet__spin_learn(struct duet__spin *spin, int64_t now_ns, int64_t slept_ns)
{
    bool was_in_vain = spin->in_vain;
    spin->in_vain = false;
    if (slept_ns >= DUET__SHORT_SLEEP_NS)
        return;
    uint32_t now_us = (uint32_t)(now_ns / 1000);
    uint32_t since_us = now_us - spin->slept_us;
    bool in_turns = since_us <= DUET__TURN_US;
    spin->slept_us = now_us;
    if (since_us > DUET__CALM_US) {
        spin->insist_us = now_us;
        spin->insisted = 0;
    }
    if (was_in_vain)
        was_in_the_way(spin);
    else if (spin->passes > 0)
        spin->passes--;
    else
        look_again(spin, now_us, in_turns);
}

/* Late: the other had its turn on this processor at a tick, or has just been taken to another, as
 * the next look will tell. */
void duet__spin_met(struct duet__spin *spin, int64_t looked_ns)
{
    bool is_late = looked_ns > spin->limit_ns;
    if (!is_late)
        spin->misses = 0;
    else if (spin->turns > 1) {
        spin->turns--;
        return;
    }
    spin->budget_ns = spin->limit_ns;
}
