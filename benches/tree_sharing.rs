//! One writer and many readers of the tree: what each way of sharing costs.
//!
//! Three ways, the same work: `lock`, one tree behind a read-write lock; `replicas`, a tree for each reader, each applying
//! every change itself; `versions`, the persistent tree, of which the writer hands out a version after each batch. Run with
//! `cargo bench --bench tree_sharing [-- ZNODES]`. Prints writes and reads a second, and the memory of a further reader.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringkeeper::proto::client::AclList;
use ringkeeper::proto::txn::{CreateKind, Txn, TxnHeader};
use ringkeeper::tree::{DataTree, Tree};
use ringkeeper::types::{SessionId, WallMs, Zxid};

/// Writes that become visible together, as one flush makes them.
const BATCH: usize = 64;
const RUN: Duration = Duration::from_secs(2);
const DATA_BYTES: usize = 100;
const PARENTS: usize = 32;

fn path(i: usize) -> Arc<str> {
    format!("/p{:02}/n{:08}", i % PARENTS, i).into()
}

fn header(zxid: i64) -> TxnHeader {
    TxnHeader { session: SessionId(1), cxid: 0, zxid: Zxid(zxid), time: WallMs(zxid) }
}

fn create(path: Arc<str>) -> Txn {
    Txn::Create {
        path,
        data: Some(Bytes::from_static(&[7; DATA_BYTES])),
        acl: AclList::OPEN,
        kind: CreateKind::Plain { ephemeral: false },
        with_stat: false,
        parent_cversion: -1,
    }
}

fn filled(znodes: usize) -> DataTree {
    let mut tree = DataTree::new();
    let mut zxid = 0;
    let parents = (0..PARENTS).map(|i| format!("/p{i:02}").into());
    for path in parents.chain((0..znodes).map(path)) {
        zxid += 1;
        tree.apply(&header(zxid), &create(path));
    }
    tree
}

/// The n-th of a fixed sequence of numbers that jump about.
fn scattered(n: u64) -> u64 {
    (n ^ 0x9e37_79b9).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20
}

fn set(n: u64, paths: &[Arc<str>]) -> Txn {
    let path = Arc::clone(&paths[scattered(n) as usize % paths.len()]);
    Txn::SetData { path, data: Some(Bytes::from_static(&[9; DATA_BYTES])), version: n as i32 }
}

fn read(tree: &Tree, n: u64, paths: &[Arc<str>]) -> usize {
    tree.get(&paths[scattered(n) as usize % paths.len()]).map_or(0, |node| node.stat().data_length as usize)
}

/// Runs one writer and one reader; returns writes and reads a second.
fn race(mut write_batch: impl FnMut(u64) + Send, mut read_some: impl FnMut(u64) -> usize + Send) -> (f64, f64) {
    let done = AtomicBool::new(false);
    let (writes, reads) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Relaxed) {
                write_batch(n);
                n += BATCH as u64;
            }
            writes.store(n, Relaxed);
        });
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Relaxed) {
                std::hint::black_box(read_some(n));
                n += BATCH as u64;
            }
            reads.store(n, Relaxed);
        });
        thread::sleep(RUN);
        done.store(true, Relaxed);
    });
    let seconds = begin.elapsed().as_secs_f64();
    (writes.into_inner() as f64 / seconds, reads.into_inner() as f64 / seconds)
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn print(name: &str, (writes, reads): (f64, f64), extra: &str) {
    println!("{name:<10} {writes:>12.0} {reads:>12.0}   {extra}");
}

fn main() {
    let znodes = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    let paths: Vec<Arc<str>> = (0..znodes).map(path).collect();
    let before = resident_bytes();
    let tree = filled(znodes);
    let one_tree = resident_bytes() - before;
    println!(
        "{znodes} znodes of {DATA_BYTES} bytes, {} bytes of memory each; {BATCH} writes a batch",
        one_tree / znodes as u64
    );
    println!("{:<10} {:>12} {:>12}   a further reader costs", "", "writes/s", "reads/s");

    let shared = RwLock::new(tree.clone());
    let locked = race(
        |n| {
            let mut tree = shared.write().expect("no panic under the lock");
            (n..n + BATCH as u64).for_each(|n| drop(tree.apply(&header(i64::MAX - 1), &set(n, &paths))));
        },
        |n| {
            let tree = shared.read().expect("no panic under the lock");
            (n..n + BATCH as u64).map(|n| read(tree.tree(), n, &paths)).sum()
        },
    );
    print("lock", locked, "nothing, but writer and readers wait for each other");
    drop(shared);

    let before = resident_bytes();
    let mut replica = filled(znodes);
    let replica_bytes = resident_bytes().saturating_sub(before);
    let mut own = tree.clone();
    let inbox: Mutex<Vec<Txn>> = Mutex::default();
    let replicas = race(
        |n| {
            let batch: Vec<Txn> = (n..n + BATCH as u64).map(|n| set(n, &paths)).collect();
            batch.iter().for_each(|txn| drop(own.apply(&header(i64::MAX - 1), txn)));
            while inbox.lock().expect("no panic under the lock").len() > 16 * BATCH {
                thread::yield_now();
            }
            inbox.lock().expect("no panic under the lock").extend(batch);
        },
        |n| {
            let batch = std::mem::take(&mut *inbox.lock().expect("no panic under the lock"));
            batch.iter().for_each(|txn| drop(replica.apply(&header(i64::MAX - 1), txn)));
            (n..n + BATCH as u64).map(|n| read(replica.tree(), n, &paths)).sum()
        },
    );
    print("replicas", replicas, &format!("{} bytes a znode, and every write once more", replica_bytes / znodes as u64));

    let mut own = tree.clone();
    let published = Mutex::new(tree.tree().clone());
    let mut seen = tree.tree().clone();
    let versions = race(
        |n| {
            (n..n + BATCH as u64).for_each(|n| drop(own.apply(&header(i64::MAX - 1), &set(n, &paths))));
            let version = own.tree().clone();
            let old = std::mem::replace(&mut *published.lock().expect("no panic under the lock"), version);
            drop(old);
        },
        |n| {
            seen = published.lock().expect("no panic under the lock").clone();
            (n..n + BATCH as u64).map(|n| read(&seen, n, &paths)).sum()
        },
    );
    print("versions", versions, "a version's changed paths until it takes the next");
}
