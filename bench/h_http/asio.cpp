// H with Asio: callbacks, and llhttp.
#include "peers/asio_server.hpp"
#include "peers/http_parser.hpp"
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
                                        self->parse(n);
                                });
    }

  private:
    void parse(size_t n)
    {
        answers_.clear();
        if (!parser_.feed(bytes_, n, answers_))
            return;
        if (answers_.empty())
            read();
        else
            write();
    }
    void write()
    {
        asio::async_write(socket_, asio::buffer(answers_),
                          [self = shared_from_this()](asio::error_code error, size_t) {
                              if (!error && self->parser_.keeps_alive())
                                  self->read();
                          });
    }

    tcp::socket socket_;
    char bytes_[4096];
    std::string answers_;
    HttpParser parser_;
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
