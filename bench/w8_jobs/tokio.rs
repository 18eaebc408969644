// W8 with tokio: spawn_blocking, its pool for what blocks, limited to so many threads; the JoinHandles are let go.
#[path = "../peers/bench.rs"]
mod bench;

fn main() {
    let arguments = bench::Arguments::new();
    let count: &'static bench::Count = Box::leak(Box::new(bench::Count::new()));
    let runtime = bench::with_workers(arguments.get("workers", 2));
    bench::measure_rate(&arguments, arguments.get("jobs", 1000000), count, |n| {
        for _ in 0..n {
            drop(runtime.spawn_blocking(|| count.ran_on_any_thread()));
        }
    });
}
