// W9 with Asio's coroutines.
#include "peers/asio_server.hpp"

static asio::awaitable<void> echo(tcp::socket socket)
{
    char bytes[64];
    socket.set_option(tcp::no_delay(true));
    try {
        while (true) {
            size_t n = co_await socket.async_read_some(asio::buffer(bytes), asio::use_awaitable);
            co_await asio::async_write(socket, asio::buffer(bytes, n), asio::use_awaitable);
        }
    } catch (const asio::system_error &) {
        // the peer has gone
    }
}

static asio::awaitable<void> serve(tcp::acceptor &acceptor)
{
    while (true) {
        tcp::socket socket = co_await acceptor.async_accept(asio::use_awaitable);
        asio::co_spawn(acceptor.get_executor(), echo(std::move(socket)), asio::detached);
    }
}

int main()
{
    AsioServer server;
    asio::co_spawn(server.io, serve(server.acceptor), asio::detached);
    server.io.run();
}
