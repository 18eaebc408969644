// llhttp for the servers with Asio: counts the requests that are whole, and answers them.
#pragma once
#include <llhttp.h>
#include <string>
#include <string_view>

class HttpParser
{
  public:
    HttpParser()
    {
        llhttp_settings_init(&settings_);
        settings_.on_message_complete = [](llhttp_t *parser) {
            return static_cast<HttpParser *>(parser->data)->answer();
        };
        llhttp_init(&parser_, HTTP_REQUEST, &settings_);
        parser_.data = this;
    }
    HttpParser(const HttpParser &) = delete;

    // The answers to the requests that end in these bytes are appended; false: what came is not HTTP.
    bool feed(const char *bytes, size_t n, std::string &answers)
    {
        answers_ = &answers;
        return llhttp_execute(&parser_, bytes, n) == HPE_OK;
    }
    bool keeps_alive() const
    {
        return keeps_alive_;
    }

  private:
    static constexpr std::string_view hello = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                              "Content-Length: 13\r\n\r\nHello, world!";
    static constexpr std::string_view not_allowed =
        "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n";

    int answer()
    {
        answers_->append(parser_.method == HTTP_GET ? hello : not_allowed);
        keeps_alive_ = llhttp_should_keep_alive(&parser_);
        return 0;
    }

    llhttp_t parser_;
    llhttp_settings_t settings_;
    std::string *answers_ = nullptr;
    bool keeps_alive_ = true;
};
