//! Minutes or hours of mixed faults under load, with memory and file descriptors that stay what they are.

use std::fs;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::guests::Guests;
use super::processes::{duration_or, one_fault};
use super::support::*;
use super::workload::Load;

const CLIENTS: u64 = 6;
const SOME: usize = 300;
/// Sessions that come and go at a time, and the pause behind each.
const GUESTS: u64 = 3;
const GUESTS_PAUSE: Duration = Duration::from_millis(30);
/// What a server keeps for learners is so little that it is full within the first minutes, and again soon after a server has
/// got a snapshot in its place: it is the one thing that grows for a long time, and is meant to.
const SETTINGS: &str = "snapCount=2000\nringkeeper.committedLogBytes=4194304\n";
/// A history is checked this often, and another begins.
const HISTORY: Duration = Duration::from_secs(60);
/// What a server may have more of at the end than in the middle: what its allocator keeps, and connections that come and go.
const MEMORY_SLACK_KIB: u64 = 8 << 10;
const FILES_SLACK: u64 = 32;
/// Fewer looks than these say nothing.
const LOOKS_MIN: usize = 12;

/// What a process has at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Its own, without what it shows of files.
    pub memory_kib: u64,
    pub files: u64,
}

pub fn look(server: &Server) -> Look {
    let process = format!("/proc/{}", server.pid().as_raw_nonzero());
    let status = fs::read_to_string(format!("{process}/status")).expect("the server is ours");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux shows it");
    let memory = line.split_whitespace().next().and_then(|number| number.parse().ok());
    let files = fs::read_dir(format!("{process}/fd")).expect("the server is ours").count() as u64;
    Look { memory_kib: memory.expect("a number"), files }
}

fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of[of.len() / 2]
}

/// What the last third of the looks shows is what the third before has shown.
#[track_caller]
fn assert_flat(server: usize, looks: &[Look]) {
    let third = looks.len() / 3;
    let (middle, end) = (&looks[third..2 * third], &looks[2 * third..]);
    let memory = |looks: &[Look]| median(looks.iter().map(|look| look.memory_kib).collect());
    let files = |looks: &[Look]| median(looks.iter().map(|look| look.files).collect());
    println!(
        "server {server}: {} KiB and {} files in the middle, {} KiB and {} files at the end",
        memory(middle),
        files(middle),
        memory(end),
        files(end)
    );
    assert!(memory(end) <= memory(middle) + memory(middle) / 10 + MEMORY_SLACK_KIB, "memory of server {server} grows");
    assert!(files(end) <= files(middle) + FILES_SLACK, "files of server {server} pile up");
}

/// Server 1 is paused and cut off like the others, but never killed, so that it grows old.
#[test]
#[ignore = "takes as long as it is told to: RINGKEEPER_TEST_MINUTES"]
fn soak() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run_in_networks(3, SETTINGS);
    let (begin, duration) = (Instant::now(), duration_or(Duration::from_secs(600)));
    let mut looks = Vec::new();
    let old = cluster.servers[0].pid();
    let (mut faults, mut histories, mut visits) = (0, 0, 0);
    while begin.elapsed() < duration {
        let load = Load::start(&cluster, CLIENTS, &mut random);
        let guests = Guests::start(&cluster, GUESTS, GUESTS_PAUSE, &mut random);
        let started = Instant::now();
        while started.elapsed() < HISTORY {
            let what = one_fault(&mut cluster, &mut random, 1);
            faults += 1;
            cluster.network.as_ref().expect("it has networks").heal();
            cluster.wait_until_all_serve();
            load.wait_for_answers(&mut cluster, SOME);
            assert_eq!(cluster.servers[0].pid(), old, "it is never killed");
            looks.push(look(&cluster.servers[0]));
            println!("{:7.1} s: {what}: {:?}", begin.elapsed().as_secs_f32(), looks.last().expect("just now"));
        }
        visits += guests.stop();
        load.check(&mut cluster);
        histories += 1;
    }
    println!("{faults} faults, {histories} histories and {visits} guests in {:?}", begin.elapsed());
    if looks.len() >= LOOKS_MIN {
        assert_flat(1, &looks);
    }
}
