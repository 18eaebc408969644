// Asio's loop on a thread of its own, until it goes.
#pragma once
#include <asio.hpp>
#include <thread>

struct AsioLoop {
    asio::io_context io{1}; // the hint that one thread runs it; others may still post
    asio::executor_work_guard<asio::io_context::executor_type> guard = asio::make_work_guard(io);
    std::thread thread{[this] { io.run(); }};

    ~AsioLoop()
    {
        guard.reset();
        thread.join();
    }
};
