#include "glance.h"
#include "membarrier.h"

void duet__glance_init(struct duet__glance *glance)
{
    duet__store_relaxed(&glance->thing, NULL);
    duet__store_relaxed(&glance->looking, !duet__heavy_barrier_works());
    duet__store_relaxed(&glance->lock.word, 0);
}

void *duet__glance_begin(struct duet__glance *glance)
{
    duet__lock(&glance->lock);
    duet__store_relaxed(&glance->looking, 1);
    if (duet__heavy_barrier_works())
        duet__heavy_barrier(); /* pairs with the light one in duet__glance_hide() */
    /* Acquires what the owner, and whoever handed it over to it, wrote into the thing. Pairs with
     * the release in duet__glance_show(). */
    return duet__load_acquire(&glance->thing);
}

void duet__glance_end(struct duet__glance *glance)
{
    duet__store_relaxed(&glance->looking, !duet__heavy_barrier_works());
    duet__unlock(&glance->lock);
}
