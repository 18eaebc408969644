// W9 with tokio: a task each connection, on a runtime of one thread.
#[path = "../peers/bench.rs"]
mod bench;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; 64];
    loop {
        let n = stream.read(&mut bytes).await?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..n]).await?;
    }
}

fn main() {
    bench::exit_with_input();
    bench::current_thread().block_on(async {
        let listener = bench::listen();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        }
    });
}
