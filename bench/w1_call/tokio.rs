// W1 with tokio: a task spawned on the runtime of another thread, and its JoinHandle waited for with block_on.
#[path = "../peers/bench.rs"]
mod bench;

use std::time::{Duration, Instant};

fn main() {
    let arguments = bench::Arguments::new();
    if arguments.get("spin", 1) == 0 {
        std::process::exit(bench::SKIP);
    }
    let calls = arguments.get("calls", 20000);
    let gap = Duration::from_micros(arguments.get("gap_us", 0));
    let handle = bench::loop_on_thread();
    let mut us = Vec::with_capacity(calls);
    for i in 0..calls + calls / 20 {
        if !gap.is_zero() {
            std::thread::sleep(gap);
        }
        let begun = Instant::now();
        let result = handle.block_on(handle.spawn(async { 1 }));
        assert_eq!(result.unwrap(), 1);
        if i >= calls / 20 {
            us.push(bench::us_since(begun));
        }
    }
    bench::say_quantiles("", &mut us);
}
