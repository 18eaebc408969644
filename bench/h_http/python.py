"""H with asyncio: a protocol, and httptools, the parser that Python's servers on uvloop have."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


try:
    import httptools
except ImportError:
    bench.skip()

HELLO = b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!'
REFUSED = b'HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n'


class Http(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data):
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_complete(self):
        self.transport.write(HELLO if self.parser.get_method() == b'GET' else REFUSED)
        if not self.parser.should_keep_alive():
            self.transport.close()


bench.run(bench.serve(Http))
