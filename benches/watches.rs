//! A million watches, and a hundred thousand on one path: what they take, and how long they hold up the shard.
//!
//! `cargo bench --bench watches`

use std::process::Command;
use std::time::Instant;

use ringkeeper::proto::client::AclList;
use ringkeeper::tree::watch::Watches;
use ringkeeper::tree::{Change, ChangeKind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory of this process in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn change(path: &str) -> Change {
    Change { kind: ChangeKind::Data, path: path.into(), acl: AclList::OPEN, parent_acl: AclList::OPEN }
}

/// Takes out by and by what was put off, and returns how many steps that took, and the longest in ms.
fn tidy_up(watches: &mut Watches) -> (usize, f64) {
    let (mut longest, mut steps) = (0.0f64, 0);
    while watches.is_untidy() {
        let one = Instant::now();
        watches.tidy_up(2048);
        longest = longest.max(one.elapsed().as_secs_f64() * 1000.0);
        steps += 1;
    }
    (steps, longest)
}

fn a_million(connections: u32) {
    const MILLION: u32 = 1_000_000;
    let mut watches = Watches::default();
    let before = resident_bytes();
    let mut path_bytes = 0;
    let (mut longest, begin) = (0.0f64, Instant::now());
    for i in 0..MILLION {
        let path = format!("/app/service/instance-{i:08}");
        path_bytes += path.len();
        let one = Instant::now();
        watches.watch_data(&path, i % connections);
        longest = longest.max(one.elapsed().as_secs_f64() * 1000.0);
    }
    let took = begin.elapsed().as_secs_f64();
    let bytes = resident_bytes() - before;
    println!(
        "1,000,000 watches of {connections} connections: {:.1} MB, {:.1} MB beyond their paths; set in {took:.2} s, \
         longest {longest:.2} ms",
        bytes as f64 / 1e6,
        (bytes - path_bytes) as f64 / 1e6
    );
    let begin = Instant::now();
    watches.remove_all(0);
    println!("  a connection goes: {:.3} ms at once", begin.elapsed().as_secs_f64() * 1000.0);
    let (steps, longest) = tidy_up(&mut watches);
    println!("  and {steps} steps of at most {longest:.3} ms");
}

fn on_one_path() {
    let mut watches = Watches::default();
    (0..100_000).for_each(|slot| watches.watch_data("/a", slot));
    let begin = Instant::now();
    let mut told = 0;
    watches.trigger(&change("/a"), |slots, _, _, _| told += slots.len());
    println!("{told} watches on one path fire in {:.3} ms", begin.elapsed().as_secs_f64() * 1000.0);
    let (steps, longest) = tidy_up(&mut watches);
    println!("  and are forgotten in {steps} steps of at most {longest:.3} ms");
}

/// Runs itself once for each case: memory that one has given back would be there for the next.
fn main() {
    let case = |name: &str| {
        let program = std::env::current_exe().expect("it runs");
        assert!(Command::new(program).arg(name).status().expect("it can be started").success(), "{name}");
    };
    match std::env::args().nth(1).as_deref() {
        Some("one") => a_million(1),
        Some("thousand") => a_million(1000),
        Some("path") => on_one_path(),
        _ => ["one", "thousand", "path"].into_iter().for_each(case),
    }
}
