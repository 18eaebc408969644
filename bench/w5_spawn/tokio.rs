// W5 with tokio: a task spawns others on a runtime of one thread, and awaits their JoinHandles.
#[path = "../peers/bench.rs"]
mod bench;

use tokio::task;

async fn spawn(spawns: u64, batch: u64) -> u64 {
    let mut handles = Vec::with_capacity(batch as usize);
    let mut ran = 0;
    let mut left = spawns;
    while left > 0 {
        let n = left.min(batch);
        for _ in 0..n {
            handles.push(task::spawn(async { 1 }));
        }
        for handle in handles.drain(..) {
            ran += handle.await.unwrap();
        }
        left -= n;
    }
    ran
}

fn main() {
    let arguments = bench::Arguments::new();
    let spawns = arguments.get("spawns", 1000000);
    let batch = arguments.get("batch", 1000);
    let runtime = bench::current_thread();
    let took = bench::took_ns(spawns, |n| {
        let parent = runtime.spawn(spawn(n, batch));
        assert_eq!(runtime.block_on(parent).unwrap(), n);
    });
    bench::say("spawn_ns", took / spawns as f64);
}
