// H with Asio's coroutines, and llhttp.
#include "peers/asio_server.hpp"
#include "peers/http_parser.hpp"

static asio::awaitable<void> answer(tcp::socket socket)
{
    char bytes[4096];
    std::string answers;
    HttpParser parser;
    socket.set_option(tcp::no_delay(true));
    try {
        while (parser.keeps_alive()) {
            size_t n = co_await socket.async_read_some(asio::buffer(bytes), asio::use_awaitable);
            answers.clear();
            if (!parser.feed(bytes, n, answers))
                break;
            if (!answers.empty())
                co_await asio::async_write(socket, asio::buffer(answers), asio::use_awaitable);
        }
    } catch (const asio::system_error &) {
        // the peer has gone
    }
}

static asio::awaitable<void> serve(tcp::acceptor &acceptor)
{
    while (true) {
        tcp::socket socket = co_await acceptor.async_accept(asio::use_awaitable);
        asio::co_spawn(acceptor.get_executor(), answer(std::move(socket)), asio::detached);
    }
}

int main()
{
    AsioServer server;
    asio::co_spawn(server.io, serve(server.acceptor), asio::detached);
    server.io.run();
}
