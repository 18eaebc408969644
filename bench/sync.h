/* The workloads of bench/sync.c. */
#pragma once

void bench_uncontended(void);
void bench_channel(void);
void bench_across(void);
void bench_contended(void);
