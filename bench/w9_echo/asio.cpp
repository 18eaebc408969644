// W9 with Asio: callbacks.
#include "peers/asio_server.hpp"
#include <memory>

class Connection : public std::enable_shared_from_this<Connection>
{
  public:
    explicit Connection(tcp::socket socket) : socket_(std::move(socket))
    {
        socket_.set_option(tcp::no_delay(true));
    }
    void read()
    {
        socket_.async_read_some(asio::buffer(bytes_),
                                [self = shared_from_this()](asio::error_code error, size_t n) {
                                    if (!error)
                                        self->write(n);
                                });
    }

  private:
    void write(size_t n)
    {
        asio::async_write(socket_, asio::buffer(bytes_, n),
                          [self = shared_from_this()](asio::error_code error, size_t) {
                              if (!error)
                                  self->read();
                          });
    }

    tcp::socket socket_;
    char bytes_[64];
};

static void accept(tcp::acceptor &acceptor)
{
    acceptor.async_accept([&acceptor](asio::error_code error, tcp::socket socket) {
        if (!error)
            std::make_shared<Connection>(std::move(socket))->read();
        accept(acceptor);
    });
}

int main()
{
    AsioServer server;
    accept(server.acceptor);
    server.io.run();
}
