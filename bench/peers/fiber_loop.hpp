// Boost.Fiber between threads: what its documentation has for it is a channel, from which threads take tasks.
#pragma once
#include <boost/fiber/all.hpp>
#include <thread>

using FiberTask = boost::fibers::packaged_task<int()>;

// A loop on a thread of its own: its main fiber starts a fiber for each task that it gets.
class FiberLoop
{
  public:
    ~FiberLoop()
    {
        inbox_.close();
        thread_.join();
    }
    // waits while the channel is full
    boost::fibers::future<int> submit(int (*function)())
    {
        FiberTask task(function);
        boost::fibers::future<int> result = task.get_future();
        inbox_.push(std::move(task));
        return result;
    }

  private:
    void serve()
    {
        boost::fibers::pooled_fixedsize_stack stacks;
        FiberTask task;
        while (inbox_.pop(task) == boost::fibers::channel_op_status::success)
            boost::fibers::fiber(boost::fibers::launch::dispatch, std::allocator_arg, stacks,
                                 std::move(task))
                .detach();
    }

    boost::fibers::buffered_channel<FiberTask> inbox_{1024};
    std::thread thread_{[this] { serve(); }};
};

// A pool: threads that run what they get one after the other.
class FiberPool
{
  public:
    explicit FiberPool(long workers)
    {
        for (long i = 0; i < workers; i++)
            threads_.emplace_back([this] { serve(); });
    }
    ~FiberPool()
    {
        inbox_.close();
        for (std::thread &thread : threads_)
            thread.join();
    }
    boost::fibers::future<int> submit(int (*function)())
    {
        FiberTask task(function);
        boost::fibers::future<int> result = task.get_future();
        inbox_.push(std::move(task));
        return result;
    }

  private:
    void serve()
    {
        FiberTask task;
        while (inbox_.pop(task) == boost::fibers::channel_op_status::success)
            task();
    }

    boost::fibers::buffered_channel<FiberTask> inbox_{1024};
    std::vector<std::thread> threads_;
};
