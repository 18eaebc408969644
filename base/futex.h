/* The futex system call: how a thread sleeps on one 32-bit word. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

/* Sleeps while *word == seen, at most until by_ns (CLOCK_MONOTONIC; INT64_MAX: no limit). Returns
 * for any reason or none: the caller looks at the word and at the clock. Keeps errno. */
void duet__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t by_ns);

/* Wakes one sleeper. Never touches the memory behind `word` in user space, so it may be gone: a
 * word that was unmapped or reused costs its new user a spurious wake-up, which every futex user
 * must stand. */
void duet__futex_wake(_Atomic uint32_t *word);
