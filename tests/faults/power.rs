//! Power that is lost: of one server, of one of three, of all three at once; under load, at flushes and between them; while
//! segments fill up, snapshots are taken and purged, epochs change, and an Apache server's directory is taken over.
//!
//! What was acknowledged is there afterwards, and every server starts again. The load's own checker says so: it goes on over
//! all cuts, and a write that is lost leaves a version that is made twice, or a read that is too old.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Tree};
use super::disk::{Disk, Moment};
use super::files::Files;
use super::support::*;
use super::workload::Load;

/// How often the power is cut, over all tests here; `RINGKEEPER_TEST_CUTS` says otherwise.
const CUTS: u64 = 100;
/// After so many cuts the history is checked, and another begins: it must stay of a size that can be read.
const CUTS_PER_HISTORY: u64 = 20;
const CLIENTS: u64 = 8;
/// The next so many flushes are those at which the power is cut.
const FLUSHES: u64 = 60;
/// A flush that was chosen does not come if nobody writes, because too few servers have power.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);
/// Snapshots all the time; segments have the smallest size there is, 1 MiB.
const SETTINGS: &str = "snapCount=300\nautopurge.purgeInterval=1\n";
/// So that they are full soon.
const VALUE_BYTES_MAX: u64 = 12_000;

fn cuts(share: u64) -> u64 {
    let given = std::env::var("RINGKEEPER_TEST_CUTS").ok().and_then(|cuts| cuts.parse().ok());
    (given.unwrap_or(CUTS) * share).div_ceil(100)
}

/// Servers, each on a disk of its own.
struct Powered {
    /// `None` while a server is off. They go first.
    disks: Vec<Option<Disk>>,
    cluster: Cluster,
    random: Random,
}

impl Powered {
    /// Starts servers on disks with these files.
    fn start(count: usize, files: &Files, mut random: Random) -> Powered {
        let cluster = Cluster::new(count, SETTINGS);
        let disks = (0..count).map(|_| None).collect();
        let mut powered = Powered { cluster, disks, random: random.fork(0) };
        for index in 0..count {
            let mut files = files.clone();
            files.put("myid", format!("{}\n", index + 1).as_bytes());
            powered.switch_on(index, files);
        }
        powered
    }

    fn switch_on(&mut self, index: usize, files: Files) {
        let server = &mut self.cluster.servers[index];
        let random = self.random.fork(1);
        self.disks[index] = Some(Disk::mount(&server.dir.path().join("data"), files, random));
        server.spawn();
    }

    /// Cuts the power of these servers and switches it on again, without waiting for them to serve.
    fn cut(&mut self, indexes: &[usize]) -> String {
        let mut told = String::new();
        for index in indexes {
            let disk = self.disks[*index].as_ref().expect("it is on");
            match self.random.below(3) {
                0 => {
                    std::thread::sleep(Duration::from_millis(self.random.below(150)));
                    disk.cut();
                    told += "some moment ";
                }
                kind => {
                    let moment = if kind == 1 { Moment::BeforeFlush } else { Moment::AfterFlush };
                    let later = self.random.below(FLUSHES);
                    disk.cut_at_flush(later, moment);
                    told += &format!("{moment:?} {later} ");
                }
            }
        }
        let begin = Instant::now();
        for index in indexes {
            let disk = self.disks[*index].as_ref().expect("it is on");
            while !disk.is_off() && begin.elapsed() < FLUSH_PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            disk.cut();
        }
        for index in indexes {
            self.cluster.servers[*index].kill();
            let files = self.disks[*index].take().expect("it is on").unmount();
            self.switch_on(*index, files);
        }
        told
    }

    /// Fails the test if a server has ended although its disk works.
    fn check_alive(&mut self) {
        for (index, server) in self.cluster.servers.iter_mut().enumerate() {
            if let Some(code) = server.exit_code() {
                panic!("server {} ended with {code:?}:\n{}", index + 1, server.printed());
            }
        }
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        self.cluster.servers.iter_mut().for_each(Server::kill);
    }
}

/// Cuts the power of servers so often; `choose` says whose.
fn check_cuts(count: usize, cuts: u64, mut choose: impl FnMut(&mut Random) -> Vec<usize>) {
    let mut random = Random::from_environment();
    let mut done = 0;
    while done < cuts {
        let mut powered = Powered::start(count, &Files::default(), random.fork(done));
        powered.cluster.wait_until_all_serve();
        let load = Load::start_with(&powered.cluster, CLIENTS, VALUE_BYTES_MAX, &mut random);
        for _ in 0..CUTS_PER_HISTORY.min(cuts - done) {
            let whose = choose(&mut random);
            let told = powered.cut(&whose);
            done += 1;
            println!("cut {done} of {cuts}: {whose:?}: {told}");
            // Now and then the next comes while they start.
            if random.below(4) > 0 {
                powered.cluster.wait_until_all_serve();
                load.wait_for_answers(&mut powered.cluster, 20);
            } else {
                std::thread::sleep(Duration::from_millis(random.below(400)));
                powered.check_alive();
            }
        }
        powered.cluster.wait_until_all_serve();
        load.check(&mut powered.cluster);
    }
}

#[test]
#[ignore = "needs root and FUSE; part of the suite `power`"]
fn one_server_loses_nothing() {
    check_cuts(1, cuts(60), |_| vec![0]);
}

#[test]
#[ignore = "needs root and FUSE; part of the suite `power`"]
fn three_servers_lose_nothing_together_or_one_by_one() {
    check_cuts(3, cuts(25), |random| match random.below(2) {
        0 => vec![0, 1, 2],
        _ => vec![random.below(3) as usize],
    });
}

/// The directory that an Apache server left, with a snapshot and a log behind it.
fn apache_directory() -> Files {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/apache-3.9");
    let mut files = Files::default();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&golden).expect("it is there").map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().expect("a file has a name").to_str().expect("it is ASCII");
        if name.starts_with("log.") || name.starts_with("snapshot.") {
            files.put(&format!("version-2/{name}"), &fs::read(&path).expect("it can be read"));
        }
    }
    files
}

/// The znodes that were there before any client of ours came.
fn taken_over(mut tree: Tree) -> Tree {
    tree.retain(|path, (_, stat)| path != "/" && !path.starts_with("/zookeeper") && stat.ephemeral_owner == 0);
    tree
}

#[test]
#[ignore = "needs root and FUSE; part of the suite `power`"]
fn a_takeover_that_is_interrupted_loses_nothing() {
    let mut random = Random::from_environment();
    let files = apache_directory();
    let mut undisturbed = Powered::start(1, &files, random.fork(0));
    undisturbed.cluster.wait_until_all_serve();
    let expected = taken_over(undisturbed.cluster.common_tree());
    assert!(expected.len() > 10, "{} znodes", expected.len());
    drop(undisturbed);
    let (mut done, cuts) = (0, cuts(15));
    while done < cuts {
        let mut powered = Powered::start(1, &files, random.fork(done));
        for _ in 0..1 + random.below(3) {
            println!("cut {} of {cuts}: {}", done + 1, powered.cut(&[0]));
            powered.check_alive();
            done += 1;
        }
        powered.cluster.wait_until_all_serve();
        assert_eq!(taken_over(powered.cluster.common_tree()), expected);
    }
}
