//! What `shard::upkeep` does: segments ahead of need, used ones again, snapshots.

use std::collections::VecDeque;

use ringkeeper::planted::{self, Bug};
use ringkeeper::storage::error::StorageError;
use ringkeeper::storage::log::{Filled, Spare};
use ringkeeper::storage::snapshot_format::SnapshotSource;
use ringkeeper::storage::{purge, segments, snapshot};
use ringkeeper::types::Zxid;
use ringkeeper::zab::peer::{Event, Stored};

use crate::disk::{Disk, Found, SNAPSHOTS_COVERED};
use crate::options::Options;
use crate::random::Random;
use crate::server::{Process, Server, Wake};
use crate::world::{World, note};

/// See `shard::upkeep`.
const SPARES_READY: usize = 2;
const RECYCLED_MAX: usize = 8;
const RETRY_US: u64 = 1_000_000;

pub struct Upkeep {
    next_sequence: u64,
    filled: VecDeque<Filled>,
    pub recyclable: Vec<(u64, u64)>,
    pub wanted_bytes: u64,
    preparing: bool,
    /// The last transaction in the newest snapshot that was begun.
    last: Zxid,
    snap_count: u64,
    /// After how many transactions the next is taken.
    count: u64,
    /// Waits until all that it holds is safe, with the count of changes in serving.
    waiting: Option<(SnapshotSource, u64)>,
    writing: Option<SnapshotSource>,
    /// The log has what comes behind this.
    pub stored_after: Zxid,
}

impl Upkeep {
    pub fn new(found: &Found, options: &Options, chance: &mut Random) -> Upkeep {
        let snap_count = options.snap_count();
        Upkeep {
            next_sequence: found.next_sequence,
            filled: found.filled.clone().into(),
            recyclable: Vec::new(),
            wanted_bytes: 0,
            preparing: false,
            last: found.snapshot,
            snap_count,
            count: upper_half(snap_count, chance),
            waiting: None,
            writing: None,
            stored_after: found.filled.first().map_or(found.end.zxid, |segment| segment.before),
        }
    }

    /// See `Upkeep::prepare_one`.
    fn prepare(&mut self, disk: &Disk, salt: u64) -> Result<Spare, StorageError> {
        let wanted = segments::file_bytes(0).max(self.wanted_bytes);
        let recycled = self.recyclable.iter().position(|(_, bytes)| *bytes == wanted);
        let recycled = recycled.map(|at| segments::path(&disk.dir, self.recyclable.swap_remove(at).0));
        segments::prepare(&disk.dir, self.next_sequence, wanted, salt, recycled.as_deref())
    }

    /// Whether something works with the files, so that they cannot be replaced.
    pub fn is_at_files(&self) -> bool {
        self.preparing || self.writing.is_some()
    }

    pub fn forget_files(&mut self) {
        self.filled.clear();
        self.recyclable.clear();
    }
}

fn upper_half(limit: u64, chance: &mut Random) -> u64 {
    limit / 2 + chance.next() % (limit / 2 + 1)
}

/// How many transactions were made from `last` to `now`, about.
fn transactions_between(last: Zxid, now: Zxid) -> u64 {
    if last.epoch() == now.epoch() { (now.0 - last.0) as u64 } else { now.counter().into() }
}

impl World {
    pub fn work_us(&mut self) -> u64 {
        let usual = self.options.flush_us();
        4 * usual + self.chance.below(8 * usual as usize + 1) as u64
    }

    /// See `Upkeep::keep_segments_ready`.
    pub fn keep_segments_ready(&mut self, server: usize) {
        let delay = self.work_us();
        let Some(process) = self.process(server) else { return };
        self::note_filled(process);
        if process.log.spares() < SPARES_READY && !std::mem::replace(&mut process.upkeep.preparing, true) {
            self.wake_after(server, delay, Wake::SegmentReady);
        }
    }

    pub fn segment_ready(&mut self, server: usize) {
        let salt = self.chance.next();
        let host = &mut self.servers[server];
        let Some(process) = &mut host.process else { return };
        process.upkeep.preparing = false;
        match host.disk.at_files(|| process.upkeep.prepare(&host.disk, salt)) {
            Ok(spare) => {
                process.upkeep.next_sequence += 1;
                self.add_spare(server, spare);
                self.hand_on(server);
                self.keep_segments_ready(server);
            }
            Err(error) if host.disk.is_full() => {
                note!(self, "{} cannot make a segment: {error}", server + 1);
                process.upkeep.preparing = true;
                self.wake_after(server, RETRY_US, Wake::SegmentReady);
            }
            Err(error) => {
                self.checker.violated("Effects", format!("server {} cannot make a segment: {error}", server + 1));
            }
        }
    }

    /// The crash comes when what is under way is partly done.
    pub fn interrupt_upkeep(&mut self, server: usize) {
        let salt = self.chance.next();
        let Server { process: Some(process), disk, .. } = &mut self.servers[server] else { return };
        let upkeep = &mut process.upkeep;
        if upkeep.preparing {
            let steps = self.chance.below(8);
            disk.interrupted(steps, || drop(upkeep.prepare(disk, salt)));
        }
        if let Some(source) = upkeep.writing.take() {
            let steps = self.chance.below(8);
            disk.interrupted(steps, || drop(snapshot::write(&disk.dir, &source, |_| {})));
        }
    }

    /// See `Upkeep::take_snapshots`. Called when something was committed or is durable, or serving has changed.
    pub fn look_for_snapshot(&mut self, server: usize) {
        let delay = 3 * self.work_us();
        let Some(process) = self.process(server) else { return };
        if process.upkeep.writing.is_some() {
            return;
        }
        let serving = process.serving_changes;
        if let Some((source, since)) = process.upkeep.waiting.take() {
            if since != serving {
                return;
            }
            let safe = process.peer.mode().and(process.peer.safe());
            if safe.is_none_or(|safe| safe < source.tree.zxid()) {
                process.upkeep.waiting = Some((source, since));
                return;
            }
            process.upkeep.writing = Some(source);
            return self.wake_after(server, delay, Wake::SnapshotWritten);
        }
        if process.peer.mode().is_none() {
            return;
        }
        let Some((data_tree, _)) = process.peer.state() else { return };
        let (last, now) = (process.upkeep.last, data_tree.tree().zxid());
        if now > last && transactions_between(last, now) > process.upkeep.count {
            let source = SnapshotSource::of(data_tree, true);
            process.upkeep.last = now;
            process.upkeep.waiting = Some((source, serving));
            let count = process.upkeep.snap_count;
            let count = upper_half(count, &mut self.chance);
            if let Some(process) = self.process(server) {
                process.upkeep.count = count;
            }
            self.look_for_snapshot(server);
        }
    }

    pub fn snapshot_written(&mut self, server: usize) {
        let host = &mut self.servers[server];
        let dir = host.disk.dir.clone();
        let Some(process) = &mut host.process else { return };
        let Some(source) = process.upkeep.writing.take() else { return };
        let zxid = source.tree.zxid();
        let written = host.disk.at_files(|| snapshot::write(&dir, &source, |_| {}));
        let kept = written.and_then(|_| snapshot::list(&dir));
        match kept {
            Ok(kept) => {
                if let Some(oldest) = kept.get(SNAPSHOTS_COVERED - 1) {
                    release_before(process, oldest.zxid, &host.disk);
                }
                note!(self, "{} has written a snapshot at {zxid}", server + 1);
                self.tell_stored(server);
                self.purge(server);
            }
            // The next attempt is at the next snapshot.
            Err(error) if host.disk.is_full() => note!(self, "{} cannot write a snapshot: {error}", server + 1),
            Err(error) => {
                self.checker.violated("Effects", format!("server {} cannot write a snapshot: {error}", server + 1));
            }
        }
        self.look_for_snapshot(server);
    }
}

impl World {
    /// See `Upkeep::tell_stored`.
    pub fn tell_stored(&mut self, server: usize) {
        let host = &self.servers[server];
        let Some(process) = &host.process else { return };
        let snapshots = snapshot::list(&host.disk.dir).expect("the scratch directory can be read");
        let snapshot_bytes = snapshots.first().map_or(0, |newest| newest.bytes);
        let after = process.upkeep.stored_after;
        self.happened(server, [Event::Stored(Stored { after, snapshot_bytes })]);
    }

    /// See `Upkeep::purge_now`. It comes at some time after a snapshot, and a crash may come when it is partly done.
    fn purge(&mut self, server: usize) {
        let keep = self.options.purge() as usize;
        if keep == 0 || self.chance.chance(50) {
            return;
        }
        let disk = &self.servers[server].disk;
        let purge = || {
            let found = purge::superfluous(&disk.dir, &disk.dir, keep, purge::By::Server)?;
            purge::remove(&found.files)
        };
        if !self.calm && self.chance.chance(3) {
            disk.interrupted(self.chance.below(3), || drop(purge()));
            return self.process_fails(server);
        }
        if let Err(error) = disk.at_files(purge) {
            self.checker.violated("Effects", format!("server {} cannot purge: {error}", server + 1));
        }
    }

    /// See `Upkeep::snapshot_at_stop`.
    pub fn snapshot_at_stop(&mut self, server: usize) {
        let host = &mut self.servers[server];
        let Some(process) = &mut host.process else { return };
        let (Some((data_tree, _)), Some(safe)) = (process.peer.state(), process.peer.safe()) else { return };
        let zxid = data_tree.tree().zxid();
        if zxid != safe || zxid <= process.upkeep.last {
            return;
        }
        // Another one that is being written is finished first.
        let sources = process.upkeep.writing.take().into_iter().chain([SnapshotSource::of(data_tree, true)]);
        for source in sources {
            if let Err(error) = host.disk.at_files(|| snapshot::write(&host.disk.dir, &source, |_| {}))
                && !host.disk.is_full()
            {
                self.checker.violated("Effects", format!("server {} cannot write a snapshot: {error}", server + 1));
            }
        }
        note!(self, "{} leaves a snapshot at {zxid}", server + 1);
    }
}

fn note_filled(process: &mut Process) {
    let filled = process.log.take_filled();
    process.upkeep.filled.extend(filled);
}

/// See `Upkeep::release_before`.
fn release_before(process: &mut Process, zxid: Zxid, disk: &Disk) {
    note_filled(process);
    let upkeep = &mut process.upkeep;
    let mut remove = Vec::new();
    let in_use = process.log.oldest_segment_in_use().unwrap_or(u64::MAX);
    let is_free = |segment: &Filled| {
        let covered = segment.last <= zxid && segment.sequence < in_use;
        covered || planted::is(Bug::SegmentsReleasedTooEarly)
    };
    while upkeep.filled.front().is_some_and(is_free) {
        let segment = upkeep.filled.pop_front().expect("looked at just now");
        upkeep.stored_after = segment.last.max(upkeep.stored_after);
        if upkeep.recyclable.len() < RECYCLED_MAX {
            upkeep.recyclable.push((segment.sequence, segment.bytes));
        } else {
            remove.push(segment.sequence);
        }
    }
    disk.at_files(|| segments::remove(&disk.dir, &remove)).expect("the scratch directory can be written to");
}
