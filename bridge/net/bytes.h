/* A buffer that grows at its end and is eaten from its start. */
#pragma once
#include "alloc.h"
#include "stream.h"

#include <errno.h>
#include <string.h>

static inline size_t duet__bytes_count(const struct duet__bytes *b)
{
    return b->end - b->start;
}

static inline void duet__bytes_free(struct duet__bytes *b)
{
    duet__free(b->memory);
    *b = (struct duet__bytes){0};
}

/* Takes n away from the start. What they were stays readable until the next change. */
static inline void duet__bytes_eat(struct duet__bytes *b, size_t n)
{
    b->start += n;
}

/* Room for n more at the end; 0 or -ENOMEM. */
static inline int duet__bytes_reserve(struct duet__bytes *b, size_t n)
{
    size_t count = duet__bytes_count(b), needed;
    if (b->capacity - b->end >= n)
        return 0;
    if (__builtin_add_overflow(count, n, &needed))
        return -ENOMEM;
    if (needed <= b->capacity / 2 || (count == 0 && needed <= b->capacity)) {
        memmove(b->memory, b->memory + b->start, count); /* seldom: at least half was eaten */
    } else {
        size_t capacity = needed > 2 * b->capacity ? needed : 2 * b->capacity;
        char *memory = duet__alloc(capacity);
        if (!memory)
            return -ENOMEM;
        if (count > 0)
            memcpy(memory, b->memory + b->start, count);
        duet__free(b->memory);
        b->memory = memory;
        b->capacity = capacity;
    }
    b->start = 0;
    b->end = count;
    return 0;
}

static inline int duet__bytes_append(struct duet__bytes *b, const void *from, size_t n)
{
    int rc = duet__bytes_reserve(b, n);
    if (rc == 0 && n > 0) {
        memcpy(b->memory + b->end, from, n);
        b->end += n;
    }
    return rc;
}
