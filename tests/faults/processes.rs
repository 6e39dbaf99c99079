//! Killed and paused servers, and networks that are cut: what was acknowledged stays, histories hold, and the ensemble serves
//! again by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::network::Network;
use super::support::*;
use super::workload::{Load, SESSION_MS};

const CLIENTS: u64 = 6;
/// Answers that show that the ensemble serves.
const SOME: usize = 300;
/// So that snapshots, full segments and their reuse are part of it.
const SETTINGS: &str = "snapCount=1000\n4lw.commands.whitelist=*\n";

/// How long a test of random faults runs: `RINGKEEPER_TEST_MINUTES`, or that time.
pub fn duration_or(usual: Duration) -> Duration {
    let minutes = std::env::var("RINGKEEPER_TEST_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    minutes.map_or(usual, |minutes: f64| Duration::from_secs_f64(60.0 * minutes))
}

/// Waits for clients to have written a while, does something to the ensemble that has this leader, and waits until all is
/// well again; then everything must hold.
fn check(fault: impl FnOnce(&mut Cluster, usize, &Load)) {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run_in_networks(3, SETTINGS);
    let load = Load::start(&cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut cluster, SOME);
    let leader = cluster.leader();
    fault(&mut cluster, leader, &load);
    cluster.network.as_ref().expect("made above").heal();
    cluster.wait_until_all_serve();
    load.wait_for_answers(&mut cluster, SOME);
    load.check(&mut cluster);
}

fn cut(cluster: &Cluster, from: usize, to: usize) {
    cluster.network.as_ref().expect("it has networks").cut(from + 1, to + 1);
}

/// Waits until that server does not serve.
#[track_caller]
fn wait_until_silent(cluster: &mut Cluster, index: usize) {
    cluster.wait_for("a server to stop serving", |cluster| cluster.mode(index).is_none().then_some(()));
}

#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn a_leader_that_is_cut_off_gives_up_and_follows_later() {
    check(|cluster, leader, load| {
        cluster.network.as_ref().expect("it has networks").isolate(leader + 1);
        let rest = cluster.others(leader);
        cluster.wait_for_leader_among(&rest);
        wait_until_silent(cluster, leader);
        load.wait_for_answers(cluster, SOME);
    });
}

/// It would go on pinging its followers for ever if it did not notice that nobody answers.
#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn a_leader_that_hears_nobody_gives_up() {
    check(|cluster, leader, load| {
        let rest = cluster.others(leader);
        rest.iter().for_each(|other| cut(cluster, *other, leader));
        cluster.wait_for_leader_among(&rest);
        wait_until_silent(cluster, leader);
        load.wait_for_answers(cluster, SOME);
    });
}

/// It hears its followers well, and must not take that for being followed.
#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn a_leader_that_nobody_hears_is_replaced() {
    check(|cluster, leader, load| {
        let rest = cluster.others(leader);
        rest.iter().for_each(|other| cut(cluster, leader, *other));
        cluster.wait_for_leader_among(&rest);
        wait_until_silent(cluster, leader);
        load.wait_for_answers(cluster, SOME);
    });
}

#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn a_follower_that_cannot_reach_the_leader_harms_nobody() {
    for leader_is_deaf in [false, true] {
        check(|cluster, leader, load| {
            let follower = cluster.others(leader)[0];
            if leader_is_deaf {
                cut(cluster, follower, leader);
            } else {
                cut(cluster, leader, follower);
            }
            wait_until_silent(cluster, follower);
            load.wait_for_answers(cluster, SOME);
            assert_eq!(cluster.mode(leader).as_deref(), Some("leader"), "two of three see each other all the time");
        });
    }
}

#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn a_pause_that_is_shorter_than_the_sessions_costs_none() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run_in_networks(3, SETTINGS);
    let load = Load::start(&cluster, CLIENTS, &mut random);
    for _ in 0..3 {
        load.wait_for_answers(&mut cluster, SOME);
        let leader = cluster.leader();
        cluster.pause(leader);
        thread::sleep(Duration::from_millis(SESSION_MS as u64 / 3));
        cluster.resume(leader);
        cluster.wait_until_all_serve();
        load.wait_for_answers(&mut cluster, SOME);
    }
    let outcome = load.check(&mut cluster);
    assert_eq!(outcome.expired, 0);
}

/// A leader that was away for so long believes at first that it still leads, and that all sessions have timed out.
#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn a_leader_that_was_paused_for_longer_than_the_sessions_ends_none_of_them() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run_in_networks(3, SETTINGS);
    let load = Load::start(&cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut cluster, SOME);
    let leader = cluster.leader();
    let begin = Instant::now();
    cluster.pause(leader);
    let rest = cluster.others(leader);
    cluster.wait_for_leader_among(&rest);
    load.wait_for_answers(&mut cluster, SOME);
    thread::sleep(Duration::from_millis(SESSION_MS as u64 * 3 / 2).saturating_sub(begin.elapsed()));
    cluster.resume(leader);
    cluster.wait_until_all_serve();
    load.wait_for_answers(&mut cluster, SOME);
    let outcome = load.check(&mut cluster);
    assert_eq!(outcome.expired, 0, "all clients had moved in time");
}

/// One thing after the other, and now and then the next before the last is over.
#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn histories_hold_under_mixed_faults() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run_in_networks(3, SETTINGS);
    let load = Load::start(&cluster, CLIENTS, &mut random);
    let (begin, duration) = (Instant::now(), duration_or(Duration::from_secs(45)));
    let mut faults = 0;
    while begin.elapsed() < duration {
        let at = begin.elapsed().as_secs_f32();
        println!("{at:7.1} s: {}", one_fault(&mut cluster, &mut random, 0));
        faults += 1;
        if random.below(4) > 0 {
            cluster.network.as_ref().expect("it has networks").heal();
            cluster.wait_until_all_serve();
            load.wait_for_answers(&mut cluster, SOME);
        }
    }
    cluster.network.as_ref().expect("it has networks").heal();
    cluster.wait_until_all_serve();
    load.wait_for_answers(&mut cluster, SOME);
    load.check(&mut cluster);
    println!("{faults} faults in {:?}", begin.elapsed());
}

/// Does one thing to the ensemble, and leaves all processes running. Links may stay cut. The first so many servers are not
/// killed.
pub fn one_fault(cluster: &mut Cluster, random: &mut Random, spared: usize) -> String {
    let count = cluster.servers.len();
    let server = random.below(count as u64) as usize;
    let other = (server + 1 + random.below(count as u64 - 1) as usize) % count;
    let pause = Duration::from_millis(100 + random.below(2 * SESSION_MS as u64));
    match random.below(8) {
        0..=2 if server < spared => "nothing".to_owned(),
        0 => {
            cluster.restart(server);
            format!("server {} killed", server + 1)
        }
        1 => {
            (spared..count).for_each(|index| cluster.servers[index].kill());
            (spared..count).for_each(|index| cluster.servers[index].spawn());
            format!("servers {} to {count} killed", spared + 1)
        }
        2 => {
            cluster.servers[server].kill();
            thread::sleep(pause);
            cluster.servers[server].spawn();
            format!("server {} away for {pause:?}", server + 1)
        }
        3 => {
            cluster.pause(server);
            thread::sleep(pause);
            cluster.resume(server);
            format!("server {} paused for {pause:?}", server + 1)
        }
        4 => {
            cut(cluster, server, other);
            thread::sleep(pause);
            format!("server {} not heard by {} for {pause:?}", server + 1, other + 1)
        }
        5 => {
            cut(cluster, server, other);
            cut(cluster, other, server);
            thread::sleep(pause);
            format!("servers {} and {} cut for {pause:?}", server + 1, other + 1)
        }
        6 => {
            cluster.others(server).into_iter().for_each(|other| cut(cluster, other, server));
            thread::sleep(pause);
            format!("server {} hears nobody for {pause:?}", server + 1)
        }
        _ => {
            cluster.network.as_ref().expect("it has networks").isolate(server + 1);
            thread::sleep(pause);
            format!("server {} cut off for {pause:?}", server + 1)
        }
    }
}

/// What names stand for in the namespaces of a network: `ip netns exec` shows a process the `hosts` of its namespace.
struct Names(Vec<PathBuf>);

impl Names {
    fn new(network: &Network, count: usize) -> Names {
        let dirs: Vec<_> = (1..=count).map(|server| Path::new("/etc/netns").join(network.namespace(server))).collect();
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).expect("as root it can be made"));
        Names(dirs)
    }

    /// From here on a server knows itself, and the other by this address if there is one.
    fn tell(&self, network: &Network, server: usize, other: usize, address: Option<&str>) {
        let mut text = format!("{} {}\n", network.host(server), name(server));
        text += &address.map_or(String::new(), |address| format!("{address} {}\n", name(other)));
        // In place: the file is mounted.
        fs::write(self.0[server - 1].join("hosts"), text).expect("as root it can be written");
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| drop(fs::remove_dir_all(dir)));
    }
}

/// A name that no resolver knows (RFC 6761).
fn name(server: usize) -> String {
    format!("ringkeeper-{server}.invalid")
}

/// Two servers that at first do not find each other's names, then find them at the wrong address, and then at the right one.
#[test]
#[ignore = "needs root; part of the suite `processes`"]
fn names_are_looked_up_at_each_attempt() {
    let network = Network::new(2);
    let names = Names::new(&network, 2);
    let ports: Vec<Port> = (0..4).map(|_| Port::free()).collect();
    let mut lines = "tickTime=500\ninitLimit=20\nsyncLimit=4\n".to_owned();
    for server in 1..=2 {
        let [quorum, election] = [ports[2 * server - 2].number, ports[2 * server - 1].number];
        lines += &format!("server.{server}={}:{quorum}:{election}\n", name(server));
    }
    let mut servers: Vec<Server> = (1..=2)
        .map(|server| {
            names.tell(&network, server, 3 - server, None);
            let placed = Server::place(&network.host(server), Some(network.namespace(server)), &lines);
            fs::create_dir_all(placed.dir.path().join("data")).expect("it can be made");
            placed.dir.write("data/myid", &format!("{server}\n"));
            placed
        })
        .collect();
    servers.iter_mut().for_each(Server::spawn);
    let each_says = |servers: &[Server], what: fn(&str, &str) -> bool| {
        for (server, other) in [(1, 2), (2, 1)] {
            wait_for("a failed attempt", || {
                let printed = servers[server - 1].printed();
                let failed = |line: &str| line.contains("Cannot open channel to") && what(line, &name(other));
                printed.lines().any(failed).then_some(())
            });
        }
    };
    each_says(&servers, |line, other| line.contains(other) && !line.contains("refused"));
    (1..=2).for_each(|server| names.tell(&network, server, 3 - server, Some("127.0.0.77")));
    each_says(&servers, |line, other| line.contains(other) && line.contains("(127.0.0.77)"));
    (1..=2).for_each(|server| names.tell(&network, server, 3 - server, Some(&network.host(3 - server))));
    for server in &servers {
        wait_for("an ensemble", || try_ask(&server.address(), "srvr")?.contains("Mode: ").then_some(()));
    }
}
