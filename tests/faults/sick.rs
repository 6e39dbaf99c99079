//! Disks that are full, slow, or do not answer at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::disk::Disk;
use super::files::Files;
use super::support::*;
use super::workload::Load;

const CLIENTS: u64 = 6;
const SOME: usize = 200;
/// Room for a few segments.
const DISK_BYTES: u64 = 24 << 20;

/// Three servers, one of them, which leads, on a disk of ours.
struct Sick {
    /// It goes first.
    disk: Disk,
    cluster: Cluster,
    leader: usize,
}

impl Sick {
    fn start(random: &mut Random) -> Sick {
        let mut cluster = Cluster::new(3, "");
        let leader = 2;
        let mut files = Files::default();
        files.put("myid", b"3\n");
        let disk = Disk::mount(&cluster.servers[leader].dir.path().join("data"), files, random.fork(0));
        // Of two new servers the one with the greater number leads. Of three it does so only if it is up before the others have
        // found that nobody listens at its port.
        cluster.servers[leader].spawn();
        cluster.servers[0].spawn();
        cluster.wait_for_leader_among(&[leader]);
        cluster.servers[1].spawn();
        cluster.wait_until_all_serve();
        Sick { cluster, leader, disk }
    }
}

impl Drop for Sick {
    fn drop(&mut self) {
        // Nothing waits for the disk any more when it goes.
        self.disk.set_delay(Duration::ZERO);
        self.cluster.servers[self.leader].kill();
    }
}

/// Through FUSE the ring carries each write out on the spot, so that the whole server stands still during a flush: harder
/// than a slow disk is. That followers make up a quorum without such a leader is shown with `zab/peer/tests.rs`.
#[test]
#[ignore = "needs root and FUSE; part of the suite `sick`"]
fn a_leader_with_a_slow_disk_loses_nothing_and_no_session() {
    let mut random = Random::from_environment();
    let mut sick = Sick::start(&mut random);
    let load = Load::start(&sick.cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut sick.cluster, SOME);
    let delay = Duration::from_secs(2);
    sick.disk.set_delay(delay);
    load.wait_for_answers(&mut sick.cluster, SOME);
    let begin = Instant::now();
    load.wait_for_answers(&mut sick.cluster, 10 * SOME);
    println!("{} answers in {:?}, with flushes that take {delay:?}", 10 * SOME, begin.elapsed());
    sick.disk.set_delay(Duration::ZERO);
    sick.cluster.wait_until_all_serve();
    let outcome = load.check(&mut sick.cluster);
    assert_eq!(outcome.expired, 0);
}

#[test]
#[ignore = "needs root and FUSE; part of the suite `sick`"]
fn a_leader_whose_disk_does_not_answer_gives_leadership_away() {
    let mut random = Random::from_environment();
    let mut sick = Sick::start(&mut random);
    let load = Load::start(&sick.cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut sick.cluster, SOME);
    sick.disk.set_delay(Duration::from_secs(3600));
    let rest = sick.cluster.others(sick.leader);
    sick.cluster.wait_for_leader_among(&rest);
    load.wait_for_answers(&mut sick.cluster, SOME);
    sick.disk.set_delay(Duration::ZERO);
    sick.cluster.wait_until_all_serve();
    let outcome = load.check(&mut sick.cluster);
    assert_eq!(outcome.expired, 0);
}

/// A real file system in a file.
struct SmallDisk {
    image: PathBuf,
    mounted: PathBuf,
}

impl SmallDisk {
    fn mount(image: &Path, at: &Path) -> SmallDisk {
        File::create(image).and_then(|file| file.set_len(DISK_BYTES)).expect("it can be made");
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(image)]);
        run("mount", &["-o", "loop", text(image), text(at)]);
        SmallDisk { image: image.to_owned(), mounted: at.to_owned() }
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }

    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("it can be made");
        while filler.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test has left may have files open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.mounted).status();
        if unmounted.is_ok_and(|status| status.success()) {
            let _ = fs::remove_file(&self.image);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is ASCII")
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}; tests/peers/install.sh installs it"));
    assert!(done.status.success(), "{program}: {} (as root?)", String::from_utf8_lossy(&done.stderr).trim());
}

/// Writes wait and everything else goes on; when there is room they go on by themselves, and no session is lost.
#[test]
#[ignore = "needs root and loop devices; part of the suite `sick`"]
fn a_full_disk_under_load_costs_time_and_nothing_else() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::new(1, "maxSessionTimeout=600000\n");
    let data = cluster.servers[0].dir.path().join("data");
    let disk = SmallDisk::mount(&cluster.servers[0].dir.path().join("disk"), &data);
    fs::write(data.join("myid"), "1\n").expect("it can be written");
    cluster.servers[0].spawn();
    cluster.wait_until_all_serve();
    let load = Load::start(&cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut cluster, SOME);
    let mut reader = cluster.servers[0].client();
    reader.call(&create("/large", None)).ok();
    for _ in 0..2 {
        let noticed = cluster.servers[0].printed().matches("No log segment can be made ready").count();
        disk.fill();
        // Larger writes than the load's, so that it does not take long.
        let mut writer = cluster.servers[0].client();
        cluster.wait_for("the disk to be full", |cluster| {
            writer.send(&set("/large", Some(&[7; 100_000])));
            let notices = cluster.servers[0].printed().matches("No log segment can be made ready").count();
            (notices > noticed).then_some(())
        });
        // More than the segments take that were ready already.
        for _ in 0..30 {
            writer.send(&set("/large", Some(&[7; 100_000])));
        }
        for _ in 0..20 {
            reader.call(&exists("/large", false)).ok();
            reader.assert_alive();
        }
        assert!(cluster.mode(0).is_some(), "it answers four-letter words");
        disk.make_room();
        let begin = Instant::now();
        // On its own connection, where nothing is before it. The load's answers would not do: its reads went on.
        reader.call(&set("/large", None)).ok();
        println!("a write was done {:?} after there was room", begin.elapsed());
        load.wait_for_answers(&mut cluster, SOME);
    }
    let outcome = load.check(&mut cluster);
    assert_eq!(outcome.expired, 0);
    cluster.servers[0].kill();
    drop(disk);
}
