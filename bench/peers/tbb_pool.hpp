// oneTBB's arena of so many workers. By itself it has no more of them than processors, less one for main().
#pragma once
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

struct TbbPool {
    explicit TbbPool(int workers)
        : limit(tbb::global_control::max_allowed_parallelism, workers + 1), arena(workers, 0)
    {
        arena.initialize();
    }

    tbb::global_control limit;
    tbb::task_arena arena;
};
