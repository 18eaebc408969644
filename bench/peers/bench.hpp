// What the peers in C++ share: how a workload is measured, whoever does it.
#pragma once
#include "../bench.h"
#include <atomic>
#include <chrono>
#include <semaphore>
#include <thread>
#include <vector>

// W1: calls one after the other, `gap_us` apart, and says their quantiles.
template <class Call> void measure_calls(int argc, char **argv, Call call)
{
    long calls = bench_long(argc, argv, "calls", 20000);
    std::chrono::microseconds gap(bench_long(argc, argv, "gap_us", 0));
    std::vector<double> us;
    us.reserve(calls);
    for (long i = -calls / 20; i < calls; i++) {
        if (gap.count())
            std::this_thread::sleep_for(gap);
        int64_t begun = bench_now_ns();
        need(call() == 1, "each call has its result");
        if (i >= 0)
            us.push_back((bench_now_ns() - begun) / 1e3);
    }
    bench_say_quantiles("", us.data(), us.size());
}

// Counts what ran, and knows when the last did.
class Count
{
  public:
    // where one thread runs all, and where several do
    void ran_on_one_thread()
    {
        long now = ran_.load(std::memory_order_relaxed) + 1;
        ran_.store(now, std::memory_order_relaxed);
        if (now == goal_)
            finish();
    }
    void ran_on_any_thread()
    {
        if (ran_.fetch_add(1, std::memory_order_relaxed) + 1 == goal_)
            finish();
    }

    void expect(long goal)
    {
        ran_ = 0;
        goal_ = goal;
    }
    // when the last ran
    int64_t wait_ns()
    {
        need(done_.try_acquire_for(std::chrono::seconds(120)), "all of the work runs");
        need(ran_ == goal_, "the work runs once");
        return ended_ns_;
    }

  private:
    void finish()
    {
        ended_ns_ = bench_now_ns();
        done_.release();
    }

    std::atomic<long> ran_ = 0;
    long goal_ = 0;
    int64_t ended_ns_ = 0;
    std::binary_semaphore done_{0};
};

// produce(n) on so many threads, `total` in all; returns when the first began.
template <class Produce> int64_t produce_on_threads(long threads, long total, Produce &produce)
{
    std::vector<std::thread> producers;
    int64_t begun = bench_now_ns();
    for (long i = 0; i < threads; i++)
        producers.emplace_back(produce, total * (i + 1) / threads - total * i / threads);
    for (std::thread &producer : producers)
        producer.join();
    return begun;
}

// W2 and W8: produce(n) submits n pieces of work, each of which reports to `count`.
template <class Produce>
void measure_rate(int argc, char **argv, long total, Count &count, Produce produce)
{
    long threads = bench_long(argc, argv, "producers", 1);
    count.expect(total / 20 + 1);
    produce_on_threads(threads, total / 20 + 1, produce);
    count.wait_ns();

    count.expect(total);
    int64_t begun = produce_on_threads(threads, total, produce);
    bench_say("mps", total * 1e3 / (count.wait_ns() - begun));
}

// W3: what one coroutine of several measures of its offloads; the first ones warm up.
class Offloads
{
  public:
    Offloads(int argc, char **argv)
        : total_(bench_long(argc, argv, "offloads", 20000)), left_(total_ + total_ / 20)
    {
        us_.reserve(total_);
    }
    // whether there is one more to do
    bool take()
    {
        if (left_ == 0)
            return false;
        if (left_-- == total_)
            begun_ns_ = bench_now_ns();
        return true;
    }
    // The warm-up is whatever ends first, so that no offload is counted before the clock starts.
    void done(int64_t begun_ns)
    {
        int64_t now = bench_now_ns();
        ended_ns_ = now;
        if (++done_ > total_ / 20)
            us_.push_back((now - begun_ns) / 1e3);
    }
    void say()
    {
        need(done_ == total_ + total_ / 20, "all offloads came back");
        bench_say_quantiles("", us_.data(), us_.size());
        bench_say("mps", total_ * 1e3 / (ended_ns_ - begun_ns_));
    }

  private:
    long total_, left_, done_ = 0;
    int64_t begun_ns_ = 0, ended_ns_ = 0;
    std::vector<double> us_;
};

// W5, memory: VmRSS and VmPTE, the pages of this process and the tables of them.
class Memory
{
  public:
    Memory()
    {
        char line[256];
        FILE *status = fopen("/proc/self/status", "r");
        need(status, "/proc/self/status can be read");
        while (fgets(line, sizeof line, status)) {
            sscanf(line, "VmRSS: %ld", &kib_);
            sscanf(line, "VmPTE: %ld", &tables_kib_);
        }
        fclose(status);
    }
    // What has come since then, for each of so many.
    void say_more(long count) const
    {
        Memory now;
        bench_say("bytes", (now.kib_ - kib_) * 1024.0 / count);
        bench_say("tables_bytes", (now.tables_kib_ - tables_kib_) * 1024.0 / count);
    }

  private:
    long kib_ = 0, tables_kib_ = 0;
};

// W6: random lengths, when each timer is due, and how late it fires.
class Timers
{
  public:
    Timers(long timers, long span_ms) : lengths_(timers), due_ns_(timers), late_us_(timers, -1e9)
    {
        uint64_t state = UINT64_C(88172645463325252);
        for (int &ms : lengths_)
            ms = 1 + bench_random(&state) % span_ms;
        begun_cpu_ns_ = bench_cpu_ns();
    }
    size_t count() const
    {
        return lengths_.size();
    }
    // to be called right before it starts
    std::chrono::milliseconds start(size_t i)
    {
        due_ns_[i] = bench_now_ns() + lengths_[i] * INT64_C(1000000);
        return std::chrono::milliseconds(lengths_[i]);
    }
    // true: it was the last
    bool fired(size_t i)
    {
        late_us_[i] = (bench_now_ns() - due_ns_[i]) / 1e3;
        if (++fired_ < count())
            return false;
        cpu_ns_ = bench_cpu_ns() - begun_cpu_ns_;
        return true;
    }
    void say()
    {
        need(fired_ == count(), "each timer fires once");
        long early = 0;
        for (double us : late_us_)
            early += us < 0;
        bench_say("cpu_ms", cpu_ns_ / 1e6);
        bench_say("early", early);
        bench_say_quantiles("late_", late_us_.data(), late_us_.size());
    }

  private:
    std::vector<int> lengths_;
    std::vector<int64_t> due_ns_;
    std::vector<double> late_us_;
    size_t fired_ = 0;
    int64_t begun_cpu_ns_ = 0, cpu_ns_ = 0;
};

// run(timers) starts them all and waits until they have fired; first a short one to warm up.
template <class Run> void measure_timers(int argc, char **argv, Run run)
{
    long timers = bench_long(argc, argv, "timers", 100000);
    long span_ms = bench_long(argc, argv, "span_ms", 1000);
    Timers warm_up(timers / 20 + 1, span_ms / 20 + 1);
    run(warm_up);
    Timers measured(timers, span_ms);
    run(measured);
    measured.say();
}
