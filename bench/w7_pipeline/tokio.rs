// W7 with tokio: three tasks on a runtime of one thread, with its bounded channels.
#[path = "../peers/bench.rs"]
mod bench;

use tokio::{sync::mpsc, task};

async fn run(items: u64, room: usize) -> (u64, u64) {
    let (numbers, mut raw) = mpsc::channel(room);
    let (sums, mut processed) = mpsc::channel(room);
    task::spawn(async move {
        for number in 0..items {
            numbers.send(number).await.unwrap();
        }
    });
    task::spawn(async move {
        while let Some(number) = raw.recv().await {
            sums.send(number + 1).await.unwrap();
        }
    });
    let consumer = task::spawn(async move {
        let (mut count, mut sum) = (0, 0);
        while let Some(number) = processed.recv().await {
            count += 1;
            sum += number;
        }
        (count, sum)
    });
    consumer.await.unwrap()
}

fn main() {
    let arguments = bench::Arguments::new();
    let items = arguments.get("items", 1000000);
    let room = arguments.get("room", 100);
    let runtime = bench::current_thread();
    let took = bench::took_ns(items, |n| {
        assert_eq!(runtime.block_on(run(n, room)), (n, n * (n + 1) / 2));
    });
    bench::say("mps", items as f64 * 1e3 / took);
}
