// W3 with tokio: tasks on a runtime of one thread, each of which awaits spawn_blocking.
#[path = "../peers/bench.rs"]
mod bench;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use tokio::task;

/// What the tasks have done together; the first ones warm up.
struct Offloads {
    total: usize,
    left: usize,
    done: usize,
    begun: Instant,
    ended: Instant,
    us: Vec<f64>,
}

impl Offloads {
    fn new(total: usize) -> Self {
        let now = Instant::now();
        let us = Vec::with_capacity(total);
        Offloads {
            total,
            left: total + total / 20,
            done: 0,
            begun: now,
            ended: now,
            us,
        }
    }

    fn take(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        if self.left == self.total {
            self.begun = Instant::now();
        }
        self.left -= 1;
        true
    }

    fn done(&mut self, begun: Instant) {
        self.ended = Instant::now();
        self.done += 1;
        if self.done > self.total / 20 {
            self.us.push((self.ended - begun).as_nanos() as f64 / 1e3);
        }
    }

    fn say(&mut self) {
        assert_eq!(self.done, self.total + self.total / 20);
        bench::say_quantiles("", &mut self.us);
        let took = self.ended - self.begun;
        bench::say("mps", self.total as f64 * 1e3 / took.as_nanos() as f64);
    }
}

async fn offload(offloads: Rc<RefCell<Offloads>>) {
    while offloads.borrow_mut().take() {
        let begun = Instant::now();
        assert_eq!(task::spawn_blocking(|| 1).await.unwrap(), 1);
        offloads.borrow_mut().done(begun);
    }
}

fn main() {
    let arguments = bench::Arguments::new();
    let runtime = bench::with_workers(arguments.get("workers", 2));
    let offloads = Rc::new(RefCell::new(Offloads::new(
        arguments.get("offloads", 20000),
    )));
    let local = task::LocalSet::new();
    for _ in 0..arguments.get("at_once", 1) {
        local.spawn_local(offload(offloads.clone()));
    }
    runtime.block_on(local);
    offloads.borrow_mut().say();
}
