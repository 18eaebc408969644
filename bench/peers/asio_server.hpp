// What servers with Asio share: they listen, say their port, and serve until their standard input ends.
#pragma once
#include <asio.hpp>
#include <cstdio>

using asio::ip::tcp;

class AsioServer
{
  public:
    asio::io_context io{1};
    tcp::acceptor acceptor{io};

    AsioServer()
    {
        tcp::endpoint any(asio::ip::address_v4::loopback(), 0);
        acceptor.open(any.protocol());
        acceptor.bind(any);
        acceptor.listen(4096);
        printf("port %d\n", acceptor.local_endpoint().port());
        fflush(stdout);
        watch_input();
    }

  private:
    void watch_input()
    {
        input_.async_read_some(asio::buffer(&byte_, 1), [this](asio::error_code error, size_t) {
            if (error)
                io.stop();
            else
                watch_input();
        });
    }

    asio::posix::stream_descriptor input_{io, STDIN_FILENO};
    char byte_ = 0;
};
