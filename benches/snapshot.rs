//! How long it takes to write and to load a snapshot of many znodes, and what they take in memory.
//!
//! ```text
//! cargo bench --bench snapshot [-- ZNODES]     default 1,000,000 znodes of 100 bytes, for each of three shapes
//! ```
//!
//! The encoder and the decoder are timed alone, in memory, and then the file with its flushes and its reading back.
//! The file is in the system's directory for temporary files, and is loaded from memory, not from the disk.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ringkeeper::proto::client::{Acl, AclList, Id, perms};
use ringkeeper::storage::snapshot;
use ringkeeper::storage::snapshot_format::{Decoder, Encoder, Form, SnapshotSource};
use ringkeeper::tree::{DataTree, Loader, Meta, Owner};
use ringkeeper::types::{WallMs, Zxid};

// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DATA_BYTES: usize = 100;
/// The argument that makes this program load the newest snapshot of the directory that follows.
const LOAD: &str = "--load";

/// How the znodes hang together.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// All under one parent.
    Flat,
    /// 100 to a parent, each with one of 100 ACLs.
    HundredsWithAcls,
    /// Chains of 20.
    Deep,
}

fn build(shape: Shape, znodes: usize) -> DataTree {
    let mut loader = Loader::default();
    let mut put = |path: &str, acl: &AclList| {
        let meta = Meta::created(Zxid(1), WallMs(1), Owner::NONE);
        let acl = loader.intern(acl);
        loader.znode(path, Some(&[7; DATA_BYTES]), acl, meta).expect("depth first");
    };
    put("", &AclList::OPEN);
    put("/bench", &AclList::OPEN);
    for i in 0..znodes {
        match shape {
            Shape::Flat => put(&format!("/bench/node-{i:010}"), &AclList::OPEN),
            Shape::HundredsWithAcls => {
                let id = Id::new("digest", format!("user{}:somehash", i % 100));
                let acl = AclList::new(vec![Acl { perms: perms::ALL, id }]);
                match i % 100 {
                    0 => put(&format!("/bench/node-{:010}", i / 100), &acl),
                    child => put(&format!("/bench/node-{:010}/child-{child:03}", i / 100), &acl),
                }
            }
            Shape::Deep => put(&format!("/bench/chain-{:06}{}", i / 20, "/x".repeat(i % 20)), &AclList::OPEN),
        }
    }
    loader.finish(Zxid(znodes as i64)).expect("depth first")
}

/// Bytes of this process in memory.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).expect("the second field").parse().expect("a number");
    pages * 4096
}

fn timed<T>(what: &str, bytes: u64, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs_f64();
    println!("  {what:<28} {seconds:>7.3} s {:>8.0} MB/s", bytes as f64 / 1e6 / seconds);
    result
}

fn encode(source: &SnapshotSource, mut sink: impl FnMut(&[u8])) {
    let mut encoder = Encoder::new(source, Form::File);
    let mut chunk = Vec::new();
    while encoder.next_chunk(&mut chunk) {
        sink(&chunk);
    }
}

fn run(shape: Shape, znodes: usize) {
    let data_tree = build(shape, znodes);
    let source = SnapshotSource::of(&data_tree, true);
    let mut bytes = 0;
    encode(&source, |chunk| bytes += chunk.len() as u64);
    println!("{shape:?}, {znodes} znodes of {DATA_BYTES} bytes, snapshot of {:.1} MB", bytes as f64 / 1e6);
    timed("encode", bytes, || encode(&source, |_| {}));

    let dir = std::env::temp_dir().join(format!("ringkeeper-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    let info = timed("write, flush, verify", bytes, || snapshot::write(&dir, &source, |_| {})).expect("a snapshot");

    let file = fs::read(&info.path).expect("what was written");
    let decoded = timed("decode", bytes, || {
        let mut decoder = Decoder::new(Form::File, info.zxid);
        let consumed = decoder.feed(&file).expect("a snapshot");
        decoder.finish(&file[consumed..]).expect("a snapshot")
    });
    assert_eq!(decoded.data_tree.tree().digest(), data_tree.tree().digest());
    drop((decoded, file));

    // In a process of its own, whose memory is that of the tree.
    let status = Command::new(std::env::current_exe().expect("this file")).arg(LOAD).arg(&dir).status();
    assert!(status.expect("it starts").success());
    fs::remove_dir_all(&dir).expect("it is there");
}

fn load(dir: &Path) {
    let before = resident_bytes();
    let start = Instant::now();
    let loaded = snapshot::load_newest(dir, None).expect("no damage").expect("a snapshot");
    let seconds = start.elapsed().as_secs_f64();
    println!("  {:<28} {seconds:>7.3} s {:>8.0} MB/s", "load", loaded.bytes as f64 / 1e6 / seconds);
    let znodes = loaded.data_tree.tree().node_count() as u64;
    println!("  {:<28} {:>7} bytes a znode", "resident after the load", (resident_bytes() - before) / znodes);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, dir] = &args[..]
        && mode == LOAD
    {
        return load(dir.as_ref());
    }
    // cargo passes options of its own.
    let znodes = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    for shape in [Shape::Flat, Shape::HundredsWithAcls, Shape::Deep] {
        run(shape, znodes);
    }
}
