//! Clocks that jump: servers below which libfaketime shows another time of day than the machine's. What is timed is timed by
//! the clock that no one sets, so that nothing happens but that znodes get other times.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cluster::Cluster;
use super::support::*;
use super::workload::Load;

const CLIENTS: u64 = 6;
const SOME: usize = 200;
const HOUR_S: i64 = 3600;
/// Less than any jump here.
const NEAR_MS: i64 = HOUR_S * 1000 / 4;
/// What libfaketime reads the offset from, in the directory of the server.
const OFFSET: &str = "clock";

/// Three servers whose clocks can be set.
fn cluster_with_clocks() -> Cluster {
    let library = library();
    let mut cluster = Cluster::new(3, "snapCount=1000\n");
    for server in &mut cluster.servers {
        let offset = server.dir.write(OFFSET, "+0\n");
        server.environment = vec![
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", offset),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ];
    }
    cluster.servers.iter_mut().for_each(Server::spawn);
    cluster.wait_until_all_serve();
    cluster
}

fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").expect("it can be read").flatten();
    let found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    found.expect("libfaketime is installed: tests/peers/install.sh installs it")
}

/// The clock of a server is so many seconds ahead of the machine's from now on. It reads a whole line at any moment.
fn set_clock(server: &Server, offset_s: i64) {
    let next = server.dir.write("clock.next", &format!("{offset_s:+}\n"));
    fs::rename(next, Path::new(server.dir.path()).join(OFFSET)).expect("it is beside it");
}

/// By how much the clock by which a write is dated is ahead of the machine's, in ms.
fn written_ahead_ms(cluster: &Cluster, index: usize) -> i64 {
    let mtime_ms = cluster.servers[index].client().call(&set("/clock", None)).stat().mtime_ms;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    mtime_ms - now
}

#[test]
#[ignore = "needs libfaketime; part of the suite `sick`"]
fn wall_clocks_that_jump_change_the_times_of_znodes_and_nothing_else() {
    let mut random = Random::from_environment();
    let mut cluster = cluster_with_clocks();
    let load = Load::start(&cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut cluster, SOME);
    let leader = cluster.leader();
    let created = cluster.servers[leader].client().call(&create("/clock", None));
    for offset_s in [HOUR_S, -HOUR_S, 0] {
        for index in 0..cluster.servers.len() {
            set_clock(&cluster.servers[index], offset_s);
            load.wait_for_answers(&mut cluster, SOME);
        }
        let ahead_ms = written_ahead_ms(&cluster, leader);
        assert!((ahead_ms - offset_s * 1000).abs() < NEAR_MS, "written {ahead_ms} ms ahead, not {offset_s} s");
    }
    let last = cluster.servers[leader].client().call(&set("/clock", None));
    assert_eq!(last.zxid >> 32, created.zxid >> 32, "there was no election");
    let outcome = load.check(&mut cluster);
    assert_eq!(outcome.expired, 0);

    // Everybody has a time of its own, and an election.
    let load = Load::start(&cluster, CLIENTS, &mut random);
    for (index, offset_s) in [-HOUR_S, HOUR_S, 24 * HOUR_S].into_iter().enumerate() {
        set_clock(&cluster.servers[index], offset_s);
    }
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.servers[leader].kill();
        let rest = cluster.others(leader);
        cluster.wait_for_leader_among(&rest);
        cluster.servers[leader].spawn();
        cluster.wait_until_all_serve();
        load.wait_for_answers(&mut cluster, SOME);
    }
    load.check(&mut cluster);
}
