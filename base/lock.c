#include "lock.h"
#include "clock.h"
#include "cpu.h"

void duet__lock_slow(struct duet__lock *lock)
{
    /* The holder is a few instructions from the end: look a little before sleeping. */
    for (int i = duet__cpu_count() > 1 ? 100 : 0; i > 0; i--) {
        uint32_t is_free = 0;
        if (duet__load_relaxed(&lock->word) == 0 && duet__cas_acquire(&lock->word, &is_free, 1))
            return;
        duet__cpu_relax();
    }
    /* Woken by the duet__unlock() that reads our 2. Whoever takes the lock this way leaves 2
     * behind, since others may sleep too: at worst one wake-up too many. */
    while (duet__exchange_acquire(&lock->word, 2) != 0)
        duet__futex_wait(&lock->word, 2, DUET__NEVER);
}
