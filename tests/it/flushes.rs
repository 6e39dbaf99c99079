//! What a flush costs the device, by the kernel's own count, and what the server says of its flushes; for each engine.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;

use ringkeeper::storage::format::{self, BLOCK_BYTES, SegmentHeader, record_bytes};
use ringkeeper::storage::segments;

use super::support::*;

const ENGINES: [&str; 3] = ["direct", "ring", "thread"];

/// Bytes that the process has had written to a device, or to pages that will be.
pub fn write_bytes(server: &Server) -> u64 {
    let path = format!("/proc/{}/io", server.pid().as_raw_nonzero());
    let text = fs::read_to_string(path).expect("Linux counts them");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).expect("a number")
}

/// Segments that the server has made.
pub fn segments_ready(server: &Server) -> usize {
    segments::list(&server.log_dir()).map_or(0, |segments| segments.len())
}

/// The figures of `mntr` that are whole numbers.
fn figures(server: &Server) -> BTreeMap<String, u64> {
    let text = ask(&server.address(), "mntr");
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// What the records in the log occupy, in the order of their transactions.
fn records(server: &Server) -> Vec<u64> {
    let mut found = Vec::new();
    for (_, path) in segments::list(&server.log_dir()).expect("it can be listed") {
        let bytes = fs::read(path).expect("it can be read");
        let header = SegmentHeader::read(&bytes).expect("it is a segment");
        let walked = format::walk(&bytes, &header, |record| {
            found.push(record_bytes(record.payload.len()) as u64);
            Ok::<(), Infallible>(())
        });
        walked.expect("nothing fails");
    }
    found
}

fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

/// A server whose segments are all ready, so that it writes to nothing but its log.
fn quiet_server(engine: &str) -> (Server, Client) {
    let settings =
        format!("ringkeeper.flushEngine={engine}\n4lw.commands.whitelist=*\nringkeeper.segmentBytes=16777216\n");
    let server = Server::run(&settings);
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    wait_for("segments to be ready", || (segments_ready(&server) >= 3).then_some(()));
    (server, client)
}

/// Has `write` done and counts. Returns what the kernel counted, what the server did, flushes, and what each record occupies.
fn counted(server: &Server, write: impl FnOnce()) -> (u64, u64, u64, Vec<u64>) {
    let (records_before, figures_before, kernel_before) = (records(server).len(), figures(server), write_bytes(server));
    let printed_before = server.printed().lines().count();
    write();
    let kernel = write_bytes(server) - kernel_before;
    let printed = server.printed().lines().count() - printed_before;
    let figures = figures(server);
    let counted = |name: &str| figures[name] - figures_before[name];
    // Each line that it printed meanwhile is a page of another file.
    let kernel = kernel.saturating_sub((printed * BLOCK_BYTES) as u64);
    let records = records(server).split_off(records_before);
    (kernel, counted("ringkeeper_log_flushed_bytes"), counted("ringkeeper_log_flushes"), records)
}

#[test]
fn a_flush_writes_its_records_in_whole_blocks_and_at_most_one_block_more() {
    for engine in ENGINES {
        let (server, mut client) = quiet_server(engine);
        for size in [0, 100, 1000, 4096, 5000, 70_000] {
            const WRITES: usize = 40;
            let data = vec![7; size];
            let (kernel, told, flushes, records) = counted(&server, || {
                for _ in 0..WRITES {
                    client.call(&set("/a", Some(&data))).ok();
                }
            });
            assert_eq!((flushes, records.len()), (WRITES as u64, WRITES), "{engine}: one flush for each lone write");
            let bound: u64 = records.iter().map(|bytes| blocks(*bytes) + BLOCK_BYTES as u64).sum();
            let least: u64 = records.iter().sum();
            assert!((least..=bound).contains(&kernel), "{engine}: {kernel} bytes for {WRITES} of {size}, not {bound}");
            assert!((least..=bound).contains(&told), "{engine}: {told} bytes are told of, {kernel} were written");
        }
        // A crowd: how its writes share flushes is up to the disk.
        let data = vec![7; 1000];
        let requests: Vec<Request> = (0..2000).map(|_| set("/a", Some(&data))).collect();
        let (kernel, told, flushes, records) = counted(&server, || {
            let count = client.pipeline(&requests).len();
            for _ in 0..count {
                client.next_reply().ok();
            }
        });
        assert_eq!(records.len(), requests.len());
        assert!(flushes < requests.len() as u64 / 4, "{engine}: {flushes} flushes are not shared");
        let bound = records.iter().sum::<u64>() + flushes * 2 * BLOCK_BYTES as u64;
        assert!(kernel <= bound && told <= bound, "{engine}: {kernel} bytes in {flushes} flushes, {told} told of");
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_whatever_the_engine() {
    let mut server = Server::new("");
    for (round, engine) in ENGINES.into_iter().chain(["ring"]).enumerate() {
        server.configure(&format!("ringkeeper.flushEngine={engine}\nringkeeper.flushesInFlight=4\n"));
        server.start();
        let mut client = server.client();
        for before in 0..round {
            assert_eq!(client.call(&get(&format!("/n{before}"), false)).data().1.version, 500, "after {engine}");
        }
        let path = format!("/n{round}");
        client.call(&create(&path, None)).ok();
        let data = vec![7; 1000];
        let requests: Vec<Request> = (0..500).map(|_| set(&path, Some(&data))).collect();
        let count = client.pipeline(&requests).len();
        for _ in 0..count {
            client.next_reply().ok();
        }
        server.kill();
    }
}

#[test]
fn the_server_tells_of_its_flushes() {
    let (server, mut client) = quiet_server("direct");
    let faults = figures(&server)["ringkeeper_log_major_faults"];
    for _ in 0..20 {
        client.call(&set("/a", Some(b"small"))).ok();
    }
    let figures = figures(&server);
    let value = |name: &str| figures[&format!("ringkeeper_log_{name}")];
    let flushes = value("flushes");
    assert!(flushes >= 20);
    for name in ["flush", "flush_wait"] {
        let spread = ["p50", "p99", "max"].map(|part| value(&format!("{name}_{part}_us")));
        assert!(spread.is_sorted() && spread[0] > 0, "{name}: {spread:?}");
    }
    let within: Vec<u64> = ["50", "100", "200", "500", "1000", "2000", "5000", "10000", "50000", "200000", "1000000"]
        .iter()
        .map(|us| value(&format!("flushes_within_{us}_us")))
        .collect();
    assert!(within.is_sorted() && *within.last().expect("eleven") <= flushes, "{within:?} of {flushes}");
    // None took as long as a minute, so those that a bucket leaves out are those beyond a second.
    assert!(value("flush_max_us") > 1_000_000 || *within.last().expect("eleven") == flushes, "{within:?} of {flushes}");
    let text = ask(&server.address(), "mntr");
    for name in ["txns_per_flush", "bytes_per_flush"] {
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("ringkeeper_log_{name}\t")));
        assert!(
            value.and_then(|value| value.parse::<f64>().ok()).is_some_and(|value| value >= 1.0),
            "{name}: {value:?}"
        );
    }
    // The log is written around the page cache, and what the shard runs on is in memory.
    assert_eq!(value("major_faults"), faults);
}
