//! Damage to the files of one server of three: after each it is back by itself, or it ends and says what a person must do;
//! nothing that was acknowledged is lost, and all servers have the same tree.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::disk::Disk;
use super::files::{Files, PAGE_BYTES};
use super::support::*;
use super::workload::{Load, NODE_EXISTS};

/// How many damages are done; `RINGKEEPER_TEST_DAMAGES` says otherwise.
const DAMAGES: u64 = 300;
const SETTINGS: &str = "snapCount=400\n";
/// So that there are several segments, each with something in it.
const VALUE_BYTES_MAX: u64 = 4000;
/// The server that is hurt.
const HURT: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Damage {
    Zeroed,
    BitFlipped,
    Swapped,
    CutThere,
    Unreadable,
}

const KINDS: [Damage; 5] = [Damage::Zeroed, Damage::BitFlipped, Damage::Swapped, Damage::CutThere, Damage::Unreadable];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    /// It follows again.
    Back,
    /// It has ended and named the file.
    Said,
}

impl Damage {
    /// Does it to a page of a file. Tells where, and nothing if that would change nothing.
    fn apply(self, files: &mut Files, path: &str, random: &mut Random) -> Option<String> {
        let file = files.file_at(path)?;
        let pages = file.bytes.len().div_ceil(PAGE_BYTES) as u64;
        let page = random.below(pages.max(1)) as usize;
        let end = ((page + 1) * PAGE_BYTES).min(file.bytes.len());
        let range = page * PAGE_BYTES..end;
        let before = file.bytes.clone();
        match self {
            Damage::Zeroed => file.bytes[range.clone()].fill(0),
            Damage::BitFlipped => {
                let at = range.start + random.below(range.len().max(1) as u64) as usize;
                *file.bytes.get_mut(at)? ^= 1 << random.below(8);
            }
            Damage::Swapped => {
                let other = random.below(pages.max(1)) as usize * PAGE_BYTES;
                let len = range.len().min(before.len() - other);
                file.bytes[range.start..range.start + len].copy_from_slice(&before[other..other + len]);
                file.bytes[other..other + len].copy_from_slice(&before[range.start..range.start + len]);
            }
            Damage::CutThere => file.bytes.truncate(range.start),
            Damage::Unreadable => drop(file.unreadable.insert(page)),
        }
        let is_change = self == Damage::Unreadable || file.bytes != before;
        is_change.then(|| format!("{path}, page {page} of {pages}, {self:?}"))
    }
}

#[test]
#[ignore = "needs root and FUSE; part of the suite `damage`"]
fn a_damaged_server_is_back_or_says_what_is_wrong() {
    let damages = std::env::var("RINGKEEPER_TEST_DAMAGES").ok().and_then(|damages| damages.parse().ok());
    let damages = damages.unwrap_or(DAMAGES);
    let mut random = Random::from_environment();
    let (mut cluster, intact) = cluster_with_history(&mut random);
    let data = cluster.servers[HURT].dir.path().join("data");
    let paths: Vec<String> = intact.paths().into_iter().filter(|path| path.starts_with("version-2/")).collect();
    let mut ends: BTreeMap<(Damage, End), u64> = BTreeMap::new();
    let mut done = 0;
    while done < damages {
        let path = &paths[random.below(paths.len() as u64) as usize];
        let kind = KINDS[(done % KINDS.len() as u64) as usize];
        let mut files = intact.clone();
        let Some(what) = kind.apply(&mut files, path, &mut random) else { continue };
        done += 1;
        let written = format!("/damage{done}");
        let disk = Disk::mount(&data, files, random.fork(done));
        cluster.servers[HURT].spawn();
        write(&mut cluster, &written, &what);
        let end = cluster.wait_for(&format!("an end of {what}"), |cluster| {
            if cluster.servers[HURT].exit_code().is_some() {
                return Some(End::Said);
            }
            cluster.try_mode(HURT).map(|_| End::Back)
        });
        println!("{done} of {damages}: {what}: {end:?}");
        match end {
            End::Back => {
                let tree = cluster.common_tree();
                assert!(tree.contains_key(&written), "{what}");
            }
            End::Said => {
                // By a message that names the file, not by a signal or a panic.
                let code = cluster.servers[HURT].exit_code().flatten();
                let printed = cluster.servers[HURT].printed();
                let name = path.rsplit('/').next().expect("a path has a name");
                // Where the two epochs contradict each other nobody knows which of them is damaged.
                let name = if name.ends_with("Epoch") { "Epoch" } else { name };
                let is_named = printed.lines().any(|line| line.contains(" ERROR ") && line.contains(name));
                assert!(code == Some(1) && is_named, "{what}: {code:?}\n{printed}");
            }
        }
        *ends.entry((kind, end)).or_default() += 1;
        cluster.servers[HURT].kill();
        drop(disk);
    }
    println!("{ends:?}");
    assert!(ends.keys().any(|(_, end)| *end == End::Back));
}

/// Writes through one of those who are well. There may be an election: a damaged epoch can lead to one.
fn write(cluster: &mut Cluster, path: &str, what: &str) {
    cluster.wait_for("a write", |cluster| {
        let wire = Wire::try_dial(&cluster.servers[(HURT + 1) % 3].address())?;
        let mut client = Client::shake_hands(wire, &new_session(30_000))?;
        let err = client.try_call(&create(path, Some(what.as_bytes())))?.err;
        (err == 0 || err == NODE_EXISTS).then_some(())
    });
}

/// Three servers that have served for a while, and what is on the disk of one of them, which is off.
fn cluster_with_history(random: &mut Random) -> (Cluster, Files) {
    let mut cluster = Cluster::new(3, SETTINGS);
    let mut files = Files::default();
    files.put("myid", format!("{}\n", HURT + 1).as_bytes());
    let disk = Disk::mount(&cluster.servers[HURT].dir.path().join("data"), files, random.fork(0));
    cluster.servers.iter_mut().for_each(Server::spawn);
    cluster.wait_until_all_serve();
    let load = Load::start_with(&cluster, 8, VALUE_BYTES_MAX, random);
    load.wait_for_answers(&mut cluster, 4000);
    load.check(&mut cluster);
    cluster.servers[HURT].kill();
    cluster.wait_for_leader_among(&[0, 2]);
    let intact = disk.unmount();
    (cluster, intact)
}
