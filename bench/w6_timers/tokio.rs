// W6 with tokio: a task each that sleeps, on a runtime of one thread. It has no timers with callbacks.
#[path = "../peers/bench.rs"]
mod bench;

use std::time::{Duration, Instant};
use tokio::{task, time};

/// How late it was, in microseconds.
async fn sleep(ms: u64) -> f64 {
    let length = Duration::from_millis(ms);
    let due = Instant::now() + length;
    time::sleep(length).await;
    let now = Instant::now();
    match now.checked_duration_since(due) {
        Some(late) => late.as_nanos() as f64 / 1e3,
        None => -((due - now).as_nanos() as f64) / 1e3,
    }
}

async fn run(timers: usize, span_ms: u64) -> (f64, Vec<f64>) {
    let mut random = bench::Random::new();
    let lengths = (0..timers).map(|_| 1 + random.next() as u64 % span_ms);
    let lengths: Vec<u64> = lengths.collect();
    let mut handles = Vec::with_capacity(timers);
    let mut late_us = Vec::with_capacity(timers);
    let begun = bench::cpu_ms();
    for ms in lengths {
        handles.push(task::spawn(sleep(ms)));
    }
    for handle in handles {
        late_us.push(handle.await.unwrap());
    }
    (bench::cpu_ms() - begun, late_us)
}

fn main() {
    let arguments = bench::Arguments::new();
    if arguments.text("kind", "callback") != "sleep" {
        std::process::exit(bench::SKIP);
    }
    let timers: usize = arguments.get("timers", 100000);
    let span_ms: u64 = arguments.get("span_ms", 1000);
    let runtime = bench::current_thread();
    runtime.block_on(run(timers / 20 + 1, span_ms / 20 + 1));
    let (cpu_ms, mut late_us) = runtime.block_on(run(timers, span_ms));
    bench::say("cpu_ms", cpu_ms);
    bench::say(
        "early",
        late_us.iter().filter(|us| **us < 0.0).count() as f64,
    );
    bench::say_quantiles("late_", &mut late_us);
}
