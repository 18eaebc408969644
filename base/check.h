/* Rules of the program, checked in every build: a broken one aborts with its name. What the world
 * does (no memory, a full queue, a refusal) is never checked here; it is returned. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* For what is rarely called: kept out of the way of the code around its call. */
#define DUET__COLD __attribute__((cold, noinline))

/* Prints "duet: abort: <function>: <rule>" to standard error and aborts. */
_Noreturn void duet__abort(const char *function, const char *rule);

/* `rule` is the sentence that was broken, for the user to read. */
#define duet__check(condition, rule)                                                               \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            duet__abort(__func__, rule);                                                           \
    } while (0)

/* What the caller asked for cannot be: says why in the log, returns rc. */
int duet__refuse(const char *function, int rc, const char *why);
/* … because what was passed is of no use: -EINVAL. */
int duet__bad_argument(const char *function, const char *why);
/* The reserved words of a configuration are zero, as they are if it was initialised. */
bool duet__reserved_unused(const uintptr_t *reserved, size_t count);
