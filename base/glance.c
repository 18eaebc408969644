#include "glance.h"
#include "barrier.h"

void duet__glance_init(struct duet__glance *glance)
{
    duet__store_relaxed(&glance->thing, NULL);
    duet__store_relaxed(&glance->looking, !duet__has_barrier());
    duet__store_relaxed(&glance->lock.word, 0);
}

void *duet__glance_begin(struct duet__glance *glance)
{
    duet__lock(&glance->lock);
    duet__store_relaxed(&glance->looking, 1);
    if (duet__has_barrier() && !duet__barrier_all()) /* it was forbidden since: nothing is seen */
        return NULL;
    /* Acquires what the owner, and whoever handed it over to it, wrote into the thing. Pairs with
     * the release in duet__glance_show(). */
    return duet__load_acquire(&glance->thing);
}

void duet__glance_end(struct duet__glance *glance)
{
    duet__store_relaxed(&glance->looking, !duet__has_barrier());
    duet__unlock(&glance->lock);
}
