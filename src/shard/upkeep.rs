//! What the ordering shard has done on the side: segments are made ready ahead of need, used ones are recycled,
//! snapshots are taken.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::sync::Semaphore;

use super::broadcast::Broadcast;
use super::{at_leisure, blocking};
use crate::server::config::Config;
use crate::server::metrics::LogMetrics;
use crate::storage::compression::Compression;
use crate::storage::error::StorageError;
use crate::storage::log::Filled;
use crate::storage::purge;
use crate::storage::replace;
use crate::storage::segments;
use crate::storage::snapshot;
use crate::storage::snapshot_format::SnapshotSource;
use crate::tree::DataTree;
use crate::types::Zxid;
use crate::zab::effect::LinkId;
use crate::zab::peer::{Event, Stored};

/// Segments that are kept ready, so that a commit never waits for one.
const SPARES_READY: usize = 2;
/// Segments that are kept for use again, beyond those ready; further ones are removed.
const RECYCLED_MAX: usize = 8;
/// Snapshots of which the log must be able to go on: what is older than the oldest of them may be recycled.
const SNAPSHOTS_COVERED: usize = 3;
/// A snapshot pauses this long after each chunk of 256 KiB while the log is busy: it takes 64 MiB a second at the most.
const CHUNK_PAUSE: Duration = Duration::from_millis(4);
/// After a failure, a full disk most likely, this long until the next attempt.
const RETRY: Duration = Duration::from_secs(1);

const NEVER_CLOSED: &str = "it is never closed";

/// Log files and snapshots of one server.
pub struct Upkeep {
    broadcast: Rc<Broadcast>,
    log_dir: PathBuf,
    snapshot_dir: PathBuf,
    segment_bytes: u64,
    digests: bool,
    snapshots_kept: usize,
    compression: Compression,
    snap_count: u64,
    snap_bytes: Option<u64>,
    next_sequence: RefCell<u64>,
    /// With transactions, oldest first; without the one that is written now.
    filled: RefCell<VecDeque<Filled>>,
    /// Out of use, to be used again.
    recyclable: RefCell<Vec<(u64, u64)>>,
    /// The last that is known to be whole.
    newest_snapshot: Cell<Option<Zxid>>,
    /// What other servers may have from the files here.
    stored: Cell<Stored>,
    /// For each link over which the log is being sent, the transaction behind which it is still needed.
    pins: RefCell<BTreeMap<LinkId, Zxid>>,
    /// Held by who makes, removes or replaces segments.
    segment_files: Semaphore,
    /// Held by who writes, removes or replaces snapshots. Taken before the other, by who needs both.
    snapshot_files: Semaphore,
}

impl Upkeep {
    /// Upkeep of a log whose last segment has the number before `next_sequence`.
    ///
    /// `loaded` is the snapshot that the server has started from, `last` the last transaction that was found.
    pub fn new(
        broadcast: Rc<Broadcast>,
        config: &Config,
        next_sequence: u64,
        filled: Vec<Filled>,
        loaded: Option<Zxid>,
        last: Zxid,
    ) -> Upkeep {
        let after = filled.first().map_or(last, |segment| segment.before);
        let stored = Stored { after, snapshot_bytes: newest_bytes(&config.snapshot_dir()) };
        Upkeep {
            broadcast,
            log_dir: config.log_dir(),
            snapshot_dir: config.snapshot_dir(),
            segment_bytes: segments::file_bytes(config.log.segment_bytes),
            digests: config.digest_enabled,
            snapshots_kept: config.snapshot.retain as usize,
            compression: config.snapshot.compression,
            snap_count: config.snapshot.transactions.into(),
            snap_bytes: config.snapshot.log_bytes,
            next_sequence: RefCell::new(next_sequence),
            filled: RefCell::new(filled.into()),
            recyclable: RefCell::default(),
            newest_snapshot: Cell::new(loaded),
            stored: Cell::new(stored),
            pins: RefCell::default(),
            segment_files: Semaphore::new(1),
            snapshot_files: Semaphore::new(1),
        }
    }

    /// Keeps segments ready, for ever.
    pub async fn keep_segments_ready(self: Rc<Self>) {
        let mut failing = false;
        loop {
            self.note_filled().await;
            while self.broadcast.log().borrow().spares() < SPARES_READY {
                match self.prepare_one().await {
                    Ok(()) if failing => {
                        failing = false;
                        tracing::info!("The log has room again: writes go on");
                    }
                    Ok(()) => {}
                    Err(error) => {
                        if !failing {
                            tracing::error!(
                                "No log segment can be made ready: {error}. Writes wait once the present one is full; \
                                 reads go on. Trying again every second"
                            );
                        }
                        failing = true;
                        glommio::timer::sleep(RETRY).await;
                    }
                }
            }
            self.broadcast.segment_wanted.notified().await;
        }
    }

    /// Takes a snapshot whenever enough was written since the last, which ended with `last`, for ever.
    pub async fn take_snapshots(self: Rc<Self>, mut last: Zxid) {
        let mut last_bytes = self.broadcast.log_bytes();
        loop {
            let count = upper_half(self.snap_count);
            let bytes = self.snap_bytes.map(upper_half);
            loop {
                self.broadcast.safe_some.notified().await;
                let written = self.broadcast.log_bytes() - last_bytes;
                let Some(now) = self.broadcast.with_state(|data_tree, _| data_tree.tree().zxid()) else { continue };
                if now > last && transactions_between(last, now) > count || bytes.is_some_and(|bytes| written > bytes) {
                    break;
                }
            }
            let Some(source) = self.broadcast.with_state(|data_tree, _| self.source_of(data_tree)) else { continue };
            let serving = self.broadcast.serving_changes();
            last = source.tree.zxid();
            last_bytes = self.broadcast.log_bytes();
            // What a snapshot holds must be safe before there is a snapshot of it.
            while self.broadcast.with_state(|_, safe| safe < last).unwrap_or(true)
                && self.broadcast.serving_changes() == serving
            {
                self.broadcast.safe_some.notified().await;
            }
            if self.broadcast.serving_changes() != serving {
                // A leader that was not one for long enough: what it had proposed may be no part of the history.
                continue;
            }
            if let Err(error) = self.snapshot(source).await {
                self.broadcast.metrics().snapshot_failed();
                tracing::error!(
                    "The snapshot at {last} failed: {error}. The log is kept; the next attempt is at the next snapshot"
                );
            }
        }
    }

    /// Removes old snapshots and old log files of Apache's, now and then every `interval` (`autopurge.*`).
    pub async fn purge(self: Rc<Self>, interval: Option<Duration>) {
        let Some(interval) = interval else { return };
        loop {
            if let Err(error) = self.purge_now().await {
                tracing::warn!("Old snapshots stay: {error}");
            }
            glommio::timer::sleep(interval).await;
        }
    }

    async fn purge_now(&self) -> Result<(), StorageError> {
        let _nobody_else = self.snapshot_files.acquire_permit(1).await.expect(NEVER_CLOSED);
        let (snapshots, logs, keep) = (self.snapshot_dir.clone(), self.log_dir.clone(), self.snapshots_kept);
        blocking(move || purge_once(&snapshots, &logs, keep)).await
    }

    /// Tells the ensemble's server what others may have from the files here.
    pub fn tell_stored(&self) {
        if self.broadcast.is_of_ensemble() {
            self.broadcast.happened([Event::Stored(self.stored.get())]);
        }
    }

    /// What the log has behind this transaction stays, until it is said that this link needs it no more.
    pub fn keep_log(&self, link: LinkId, after: Zxid) {
        self.pins.borrow_mut().insert(link, after);
    }

    /// See [`Upkeep::keep_log`].
    pub fn needs_log_no_more(&self, link: LinkId) {
        self.pins.borrow_mut().remove(&link);
    }

    /// The log up to this transaction is of no use to others: something in it is not as it should be.
    pub fn distrust_log(&self, through: Zxid) {
        let stored = self.stored.get();
        self.stored.set(Stored { after: stored.after.max(through), ..stored });
        self.tell_stored();
    }

    /// What a snapshot of `data_tree` is made of, as the configuration has it.
    pub fn source_of(&self, data_tree: &DataTree) -> SnapshotSource {
        SnapshotSource::of(data_tree, self.digests)
    }

    /// Makes `source` durable as the only state, and begins the log anew behind it.
    pub async fn replace(&self, source: SnapshotSource) -> Result<(), StorageError> {
        let _nobody_else = (
            self.snapshot_files.acquire_permit(1).await.expect(NEVER_CLOSED),
            self.segment_files.acquire_permit(1).await.expect(NEVER_CLOSED),
        );
        let zxid = source.tree.zxid();
        self.broadcast.restart_log(zxid).await;
        self.filled.borrow_mut().clear();
        self.recyclable.borrow_mut().clear();
        self.newest_snapshot.set(None);
        let (snapshots, logs, compression) = (self.snapshot_dir.clone(), self.log_dir.clone(), self.compression);
        let replace =
            move || replace::replace(&snapshots, &logs, &source, compression).map(|()| newest_bytes(&snapshots));
        let snapshot_bytes = blocking(replace).await?;
        self.newest_snapshot.set(Some(zxid));
        self.stored.set(Stored { after: zxid, snapshot_bytes });
        self.tell_stored();
        self.broadcast.segment_wanted.notify();
        Ok(())
    }

    /// Takes everything on disk out of the way, because it cannot be what it should.
    pub async fn set_aside(&self) -> Result<PathBuf, StorageError> {
        let _nobody_else = (
            self.snapshot_files.acquire_permit(1).await.expect(NEVER_CLOSED),
            self.segment_files.acquire_permit(1).await.expect(NEVER_CLOSED),
        );
        self.broadcast.restart_log(Zxid::ZERO).await;
        self.filled.borrow_mut().clear();
        self.recyclable.borrow_mut().clear();
        self.newest_snapshot.set(None);
        self.stored.set(Stored { after: Zxid::ZERO, snapshot_bytes: 0 });
        let (snapshots, logs) = (self.snapshot_dir.clone(), self.log_dir.clone());
        let aside = blocking(move || replace::set_aside(&snapshots, &logs)).await;
        self.broadcast.segment_wanted.notify();
        aside
    }

    async fn snapshot(&self, source: SnapshotSource) -> Result<(), StorageError> {
        let _nobody_else = self.snapshot_files.acquire_permit(1).await.expect(NEVER_CLOSED);
        let dir = self.snapshot_dir.clone();
        let metrics = Arc::clone(self.broadcast.metrics());
        let compression = self.compression;
        let begin = Instant::now();
        let write = move || snapshot::write_as(&dir, &source, compression, leave_disk_to_flushes(&metrics));
        let written = at_leisure(write).await.map_err(StorageError::io("write snapshots to", &self.snapshot_dir))??;
        self.broadcast.metrics().snapshot_written(begin.elapsed());
        self.newest_snapshot.set(Some(written.zxid));
        self.stored.set(Stored { snapshot_bytes: written.bytes, ..self.stored.get() });
        self.tell_stored();
        let dir = self.snapshot_dir.clone();
        let kept = blocking(move || snapshot::list(&dir)).await?;
        if let Some(oldest) = kept.get(SNAPSHOTS_COVERED - 1) {
            self.release_before(oldest.zxid).await;
        }
        Ok(())
    }

    /// Takes a snapshot of what is committed, unless there is one already. Nothing else wants the disk any more.
    pub async fn snapshot_at_stop(&self) -> Result<(), StorageError> {
        let _nobody_else = self.snapshot_files.acquire_permit(1).await.expect(NEVER_CLOSED);
        let Some(source) = self.broadcast.with_state(|data_tree, _| self.source_of(data_tree)) else { return Ok(()) };
        if self.newest_snapshot.get() == Some(source.tree.zxid()) {
            return Ok(());
        }
        let dir = self.snapshot_dir.clone();
        let compression = self.compression;
        blocking(move || snapshot::write_as(&dir, &source, compression, |_| {})).await.map(drop)
    }

    /// Segments whose transactions are all in a snapshot at `zxid` may be used again, unless a learner is being sent them.
    async fn release_before(&self, zxid: Zxid) {
        let _nobody_else = self.segment_files.acquire_permit(1).await.expect(NEVER_CLOSED);
        self.note_filled().await;
        let mut remove = Vec::new();
        let pinned = self.pins.borrow().values().copied().min();
        let zxid = pinned.map_or(zxid, |pinned| pinned.min(zxid));
        {
            let mut filled = self.filled.borrow_mut();
            let mut recyclable = self.recyclable.borrow_mut();
            // A quorum may have committed, and a snapshot hold, what this server's own disk is still to take.
            let in_use = self.broadcast.log().borrow().oldest_segment_in_use().unwrap_or(u64::MAX);
            while filled.front().is_some_and(|segment| segment.last <= zxid && segment.sequence < in_use) {
                let segment = filled.pop_front().expect("looked at just now");
                let stored = self.stored.get();
                self.stored.set(Stored { after: stored.after.max(segment.last), ..stored });
                if recyclable.len() < RECYCLED_MAX {
                    recyclable.push((segment.sequence, segment.bytes));
                } else {
                    remove.push(segment.sequence);
                }
            }
        }
        // Before any of them is gone.
        self.tell_stored();
        let dir = self.log_dir.clone();
        if !remove.is_empty()
            && let Err(error) = blocking(move || segments::remove(&dir, &remove)).await
        {
            tracing::warn!("Log segments that are needed no more stay: {error}");
        }
    }

    async fn note_filled(&self) {
        let passed_over = self.broadcast.take_passed_over();
        self.recyclable.borrow_mut().extend(passed_over.iter().map(|spare| (spare.sequence, spare.bytes)));
        let filled = self.broadcast.log().borrow_mut().take_filled();
        if filled.is_empty() {
            return;
        }
        self.filled.borrow_mut().extend(filled);
        // Flushes of older segments than the current one may still be under way, or not even begun.
        let in_use = self.broadcast.log().borrow().oldest_segment_in_use().unwrap_or(0);
        self.broadcast.disk().close_before(in_use).await;
    }

    async fn prepare_one(&self) -> Result<(), StorageError> {
        let _nobody_else = self.segment_files.acquire_permit(1).await.expect(NEVER_CLOSED);
        let wanted = self.segment_bytes.max(self.broadcast.wanted_segment_bytes());
        let recycled = {
            let mut recyclable = self.recyclable.borrow_mut();
            let fits = recyclable.iter().position(|(_, bytes)| *bytes == wanted);
            fits.map(|at| recyclable.remove(at))
        };
        let sequence = *self.next_sequence.borrow();
        let dir = self.log_dir.clone();
        let salt = salt();
        let made = blocking(move || {
            let recycled = recycled.map(|(sequence, _)| segments::path(&dir, sequence));
            let made = segments::prepare(&dir, sequence, wanted, salt, recycled.as_deref());
            let is_left = made.is_err() && recycled.is_some_and(|path| path.exists());
            (made, is_left)
        });
        let (made, is_left) = made.await;
        if is_left {
            self.recyclable.borrow_mut().extend(recycled);
        }
        let spare = made?;
        *self.next_sequence.borrow_mut() = sequence + 1;
        self.broadcast.add_spare(spare).await.map_err(|source| StorageError::Io {
            operation: "open",
            path: segments::path(&self.log_dir, sequence),
            source,
        })
    }
}

/// Size of the newest snapshot that looks whole; 0 without one.
fn newest_bytes(snapshot_dir: &Path) -> u64 {
    snapshot::list(snapshot_dir).ok().and_then(|found| found.first().map(|newest| newest.bytes)).unwrap_or(0)
}

/// Removes what the newest `keep` snapshots make superfluous. The native log is not this function's: its segments are used
/// again by themselves.
fn purge_once(snapshot_dir: &Path, log_dir: &Path, keep: usize) -> Result<(), StorageError> {
    tracing::info!("Purge task started.");
    let found = purge::superfluous(snapshot_dir, log_dir, keep, purge::By::Server)?;
    for path in &found.files {
        tracing::info!("Removing file: {}", path.display());
    }
    purge::remove(&found.files)?;
    tracing::info!("Purge task completed.");
    Ok(())
}

/// Called after each chunk of a snapshot: pauses while the log is being flushed, so that writers keep most of the disk.
fn leave_disk_to_flushes(metrics: &LogMetrics) -> impl FnMut(snapshot::Progress) {
    let mut flushes = metrics.flushes();
    move |_| {
        let before = std::mem::replace(&mut flushes, metrics.flushes());
        if flushes != before {
            std::thread::sleep(CHUNK_PAUSE);
        }
    }
}

/// How many transactions were made from `last` to `now`, about: a new epoch begins with its own count.
fn transactions_between(last: Zxid, now: Zxid) -> u64 {
    if last.epoch() == now.epoch() { (now.0 - last.0) as u64 } else { now.counter().into() }
}

/// A number from the upper half of 1 to `limit`: servers with the same limit do not all take snapshots at once.
fn upper_half(limit: u64) -> u64 {
    let half = limit / 2;
    half + salt() % (half + 1)
}

/// A random number, from where the standard library has its own.
pub fn salt() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
