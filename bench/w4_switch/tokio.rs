// W4 with tokio: two tasks on a runtime of one thread, with yield_now.
#[path = "../peers/bench.rs"]
mod bench;

use tokio::task;

async fn yield_often(yields: u64) -> u64 {
    let mut yielded = 0;
    while yielded < yields {
        task::yield_now().await;
        yielded += 1;
    }
    yielded
}

fn main() {
    let yields = bench::Arguments::new().get("yields", 2000000);
    let runtime = bench::current_thread();
    let took = bench::took_ns(yields, |n| {
        let one = runtime.spawn(yield_often(n / 2));
        let other = runtime.spawn(yield_often(n / 2));
        let yielded = runtime.block_on(async { one.await.unwrap() + other.await.unwrap() });
        assert_eq!(yielded, n / 2 * 2);
    });
    bench::say("yield_ns", took / yields as f64);
}
