// W5, memory, with tokio: tasks on a runtime of one thread that sleep.
#[path = "../peers/bench.rs"]
mod bench;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::{task, time};

static SLEEPING: AtomicU64 = AtomicU64::new(0);

fn main() {
    let sleepers = bench::Arguments::new().get("sleepers", 100000);
    bench::current_thread().block_on(async move {
        let before = bench::Memory::now();
        for _ in 0..sleepers {
            task::spawn(async {
                SLEEPING.fetch_add(1, Ordering::Relaxed);
                time::sleep(Duration::from_secs(3600)).await;
            });
        }
        while SLEEPING.load(Ordering::Relaxed) < sleepers {
            task::yield_now().await;
        }
        before.say_more(sleepers);
        std::process::exit(0);
    });
}
