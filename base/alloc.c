#include "alloc.h"
#include "atomic.h"
#include "check.h"
#include "cpu.h"

#include <duet/base.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static duet_allocator allocator; /* constant from the first allocation on */
/* Set by the first allocation, for good. Relaxed: who sets the allocator while another thread
 * allocates for the first time breaks the rule that it comes first; this catches the common case. */
static _Atomic uint32_t used;

static void note_use(void)
{
    if (!duet__load_relaxed(&used)) /* so that all read one line that nobody writes */
        duet__store_relaxed(&used, 1);
}

int duet_allocator_set(const duet_allocator *given)
{
    static const duet_allocator libc;
    bool has_all = !given || (given->alloc && given->resize && given->free);
    if (!has_all)
        return duet__bad_argument(__func__, "alloc, resize and free are needed, all three");
    bool late = duet__load_relaxed(&used);
    if (!late)
        allocator = given ? *given : libc;
    return late ? duet__refuse(__func__, -EBUSY,
                               "duet has memory already: call it before any other function")
                : 0;
}

bool duet__alloc_is_users(void)
{
    return allocator.alloc != NULL;
}

void *duet__alloc(size_t size)
{
    note_use();
    return allocator.alloc ? allocator.alloc(allocator.ctx, size) : malloc(size);
}

void *duet__alloc_lines(size_t size)
{
    void *block;
    note_use();
    if (allocator.alloc)
        return allocator.alloc(allocator.ctx, size);
    return posix_memalign(&block, DUET__LINE, size) == 0 ? block : NULL;
}

void *duet__alloc_zeroed(size_t count, size_t size)
{
    size_t all;
    note_use();
    if (!allocator.alloc)
        return calloc(count, size);
    if (__builtin_mul_overflow(count, size, &all))
        return NULL;
    void *block = allocator.alloc(allocator.ctx, all);
    return block ? memset(block, 0, all) : NULL;
}

void *duet__alloc_resize(void *block, size_t size)
{
    note_use();
    return allocator.resize ? allocator.resize(allocator.ctx, block, size) : realloc(block, size);
}

char *duet__alloc_string(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = duet__alloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

void duet__free(void *block)
{
    if (!allocator.free)
        free(block);
    else if (block)
        allocator.free(allocator.ctx, block);
}
