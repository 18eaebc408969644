// W2 with tokio: tasks spawned on the runtime of another thread, their JoinHandles let go; or function pointers through
// its channel, to a task that calls them.
#[path = "../peers/bench.rs"]
mod bench;

use tokio::sync::mpsc;

fn measure_tasks(arguments: &bench::Arguments, work: u64, count: &'static bench::Count) {
    let handle = bench::loop_on_thread();
    bench::measure_rate(arguments, work, count, |n| {
        for _ in 0..n {
            drop(handle.spawn(async {
                count.ran_on_one_thread();
                1
            }));
        }
    });
}

fn measure_callbacks(arguments: &bench::Arguments, work: u64, count: &'static bench::Count) {
    let (inbox, mut functions) = mpsc::unbounded_channel::<fn(&bench::Count)>();
    bench::loop_on_thread().spawn(async move {
        while let Some(function) = functions.recv().await {
            function(count);
        }
    });
    bench::measure_rate(arguments, work, count, |n| {
        for _ in 0..n {
            assert!(inbox.send(bench::Count::ran_on_one_thread).is_ok());
        }
    });
}

fn main() {
    let arguments = bench::Arguments::new();
    let work = arguments.get("work", 2000000);
    let count = Box::leak(Box::new(bench::Count::new()));
    match arguments.text("kind", "callback").as_str() {
        "task" => measure_tasks(&arguments, work, count),
        _ => measure_callbacks(&arguments, work, count),
    }
}
