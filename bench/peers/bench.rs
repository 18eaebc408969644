// What the programs in Rust share: as bench.h and bench.hpp have it.
#![allow(dead_code)] // each program needs a part of it

use std::collections::HashMap;
use std::io::Read;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Mutex};
use std::time::{Duration, Instant};

/// Exit status: it has no such case.
pub const SKIP: i32 = 77;

pub struct Arguments(HashMap<String, String>);

impl Arguments {
    pub fn new() -> Self {
        let pairs = std::env::args().skip(1);
        Arguments(
            pairs
                .filter_map(|a| a.split_once('=').map(|(k, v)| (k.into(), v.into())))
                .collect(),
        )
    }

    pub fn get<T: FromStr>(&self, key: &str, otherwise: T) -> T {
        match self.0.get(key) {
            Some(text) => text.parse().ok().expect("an argument is of its kind"),
            None => otherwise,
        }
    }

    pub fn text(&self, key: &str, otherwise: &str) -> String {
        self.get(key, otherwise.to_string())
    }
}

pub fn say(figure: &str, value: f64) {
    println!("{} {:.4}", figure, value);
}

pub fn say_quantiles(prefix: &str, us: &mut [f64]) {
    us.sort_by(f64::total_cmp);
    for (name, q) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        let at = (us.len() as f64 * q) as usize;
        say(&format!("{}{}", prefix, name), us[at.min(us.len() - 1)]);
    }
}

pub fn us_since(begun: Instant) -> f64 {
    begun.elapsed().as_nanos() as f64 / 1e3
}

/// The loop: a runtime of one thread.
pub fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A loop on a thread of its own, for as long as the process.
pub fn loop_on_thread() -> tokio::runtime::Handle {
    let runtime = current_thread();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

/// A loop with a pool: so many threads for what blocks.
pub fn with_workers(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(workers)
        .build()
        .unwrap()
}

/// Counts what ran, and knows when the last did.
pub struct Count {
    ran: AtomicU64,
    goal: AtomicU64,
    done: mpsc::SyncSender<Instant>,
    ended: Mutex<mpsc::Receiver<Instant>>,
}

impl Count {
    pub fn new() -> Self {
        let (done, ended) = mpsc::sync_channel(2);
        Count {
            ran: AtomicU64::new(0),
            goal: AtomicU64::new(0),
            done,
            ended: Mutex::new(ended),
        }
    }

    /// Where one thread runs all.
    pub fn ran_on_one_thread(&self) {
        let now = self.ran.load(Ordering::Relaxed) + 1;
        self.ran.store(now, Ordering::Relaxed);
        self.check(now);
    }

    /// Where several do.
    pub fn ran_on_any_thread(&self) {
        self.check(self.ran.fetch_add(1, Ordering::Relaxed) + 1);
    }

    fn check(&self, now: u64) {
        if now == self.goal.load(Ordering::Relaxed) {
            self.done.send(Instant::now()).unwrap();
        }
    }

    fn expect(&self, goal: u64) {
        self.ran.store(0, Ordering::Relaxed);
        self.goal.store(goal, Ordering::Relaxed);
    }

    fn wait(&self) -> Instant {
        let ended = self.ended.lock().unwrap();
        let ended = ended.recv_timeout(Duration::from_secs(120));
        let (ran, goal) = (&self.ran, &self.goal);
        assert_eq!(ran.load(Ordering::Relaxed), goal.load(Ordering::Relaxed));
        ended.expect("all of the work runs")
    }
}

/// produce(n) on so many threads, `total` in all; returns when the first began.
fn produce_on_threads<P: Fn(u64) + Sync>(threads: u64, total: u64, produce: &P) -> Instant {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..threads {
            let share = total * (i + 1) / threads - total * i / threads;
            scope.spawn(move || produce(share));
        }
    });
    begun
}

/// W2 and W8: produce(n) submits n pieces of work, each of which reports to `count`.
pub fn measure_rate<P: Fn(u64) + Sync>(
    arguments: &Arguments,
    total: u64,
    count: &Count,
    produce: P,
) {
    let threads = arguments.get("producers", 1);
    count.expect(total / 20 + 1);
    produce_on_threads(threads, total / 20 + 1, &produce);
    count.wait();

    count.expect(total);
    let begun = produce_on_threads(threads, total, &produce);
    let took = count.wait() - begun;
    say("mps", total as f64 * 1e3 / took.as_nanos() as f64);
}

/// Does it once with a twentieth of the work to warm up, and measures it then.
pub fn took_ns<F: FnMut(u64)>(work: u64, mut run: F) -> f64 {
    run(work / 20);
    let begun = Instant::now();
    run(work);
    begun.elapsed().as_nanos() as f64
}

/// xorshift64*, as in bench.h.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Random(88172645463325252)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(2685821657736338717) >> 32) as u32
    }
}

/// W6: CPU time of the process, for which Rust's own library has no clock.
pub fn cpu_ms() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    assert_eq!(status, 0);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// W5, memory: VmRSS and VmPTE, the pages of this process and the tables of them.
pub struct Memory {
    bytes: f64,
    tables_bytes: f64,
}

impl Memory {
    pub fn now() -> Memory {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let bytes_of = |name| {
            let line = status.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
        };
        Memory { bytes: bytes_of("VmRSS:"), tables_bytes: bytes_of("VmPTE:") }
    }

    /// What has come since then, for each of so many.
    pub fn say_more(&self, count: u64) {
        let now = Memory::now();
        say("bytes", (now.bytes - self.bytes) / count as f64);
        say("tables_bytes", (now.tables_bytes - self.tables_bytes) / count as f64);
    }
}

/// A server's end: when its standard input ends, the process does.
pub fn exit_with_input() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
}

/// A server's listener; it says its port.
pub fn listen() -> tokio::net::TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4096).unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    listener
}
