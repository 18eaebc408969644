// H with tokio: a task each connection, on a runtime of one thread, and httparse, the parser that hyper has.
#[path = "../peers/bench.rs"]
mod bench;

use std::io::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";
const REFUSED: &[u8] = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n";

struct Request {
    bytes: usize,
    is_get: bool,
    keeps_alive: bool,
}

/// What HTTP says of the connection header and its default. A body is what a GET has not.
fn parse(bytes: &[u8]) -> Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let status = request.parse(bytes);
    match status.map_err(|e| Error::new(ErrorKind::InvalidData, e))? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(n) => {
            let connection = request.headers.iter();
            let mut connection = connection.filter(|h| h.name.eq_ignore_ascii_case("connection"));
            let keeps_alive = match connection.next() {
                Some(header) if request.version == Some(1) => {
                    !header.value.eq_ignore_ascii_case(b"close")
                }
                Some(header) => header.value.eq_ignore_ascii_case(b"keep-alive"),
                None => request.version == Some(1),
            };
            let is_get = request.method == Some("GET");
            Ok(Some(Request {
                bytes: n,
                is_get,
                keeps_alive,
            }))
        }
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut asked = Vec::with_capacity(4096);
    let mut answers = Vec::with_capacity(4096);
    let mut keeps_alive = true;
    while keeps_alive && stream.read_buf(&mut asked).await? > 0 {
        let mut done = 0;
        while let Some(request) = parse(&asked[done..])? {
            done += request.bytes;
            keeps_alive = request.keeps_alive && request.is_get;
            answers.extend_from_slice(if request.is_get { HELLO } else { REFUSED });
        }
        asked.drain(..done);
        stream.write_all(&answers).await?;
        answers.clear();
    }
    Ok(())
}

fn main() {
    bench::exit_with_input();
    bench::current_thread().block_on(async {
        let listener = bench::listen();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        }
    });
}
