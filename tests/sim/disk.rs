//! A server's disk. Files are real ones, in memory (tmpfs), written and read back by the server's own storage code, so that
//! recovery is the real one to the last line. Flushes of the log, which that code leaves to the ring, are done here: one that
//! was under way at a crash leaves any of its sectors written.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ringkeeper::storage::convert::{self, ApacheLogsWriter, Step, Written};
use ringkeeper::storage::error::StorageError;
use ringkeeper::storage::files;
use ringkeeper::storage::format::{BLOCK_BYTES, Link};
use ringkeeper::storage::group_commit::Batch;
use ringkeeper::storage::inspect::{FileKind, find_logs};
use ringkeeper::storage::log::{Filled, Spare};
use ringkeeper::storage::recovery::{self, Recovery};
use ringkeeper::storage::replay::Replay;
use ringkeeper::storage::{apache_log, epoch, replace, segments, snapshot};
use ringkeeper::tree::DataTree;
use ringkeeper::types::Zxid;
use ringkeeper::zab::effect::Epochs;
use ringkeeper::zab::history::{History, Limits};

use crate::damage::Health;
use crate::power::Device;
use crate::random::Random;

/// What a device writes whole or not at all, at the least.
const SECTOR_BYTES: usize = 512;
/// See `shard::upkeep`.
pub const SNAPSHOTS_COVERED: usize = 3;

pub struct Disk {
    pub dir: PathBuf,
    /// Flushes take long until then.
    pub slow_until_us: u64,
    /// The next flush ends with an error.
    pub fails_next: bool,
    /// How much of the newest history a start keeps.
    history: Limits,
    device: Rc<RefCell<Device>>,
    pub health: Health,
    /// The block in which the last flush ended, as far as it was filled. See `shard::disk`.
    tail: Vec<u8>,
}

/// A flush under way: whole blocks, and where they go.
pub struct Flush {
    pub number: u64,
    pub batch: Batch,
    position: u64,
    bytes: Vec<u8>,
}

/// What a start finds.
pub struct Found {
    pub data_tree: DataTree,
    pub history: History,
    pub epochs: Epochs,
    pub in_doubt: bool,
    pub end: Link,
    pub filled: Vec<Filled>,
    pub spares: Vec<Spare>,
    pub next_sequence: u64,
    pub snapshot: Zxid,
    /// Why everything was set aside before.
    pub damage: Option<String>,
}

impl Disk {
    pub fn new(dir: PathBuf, history: Limits) -> Disk {
        fs::create_dir_all(&dir).expect("the scratch directory can be written to");
        let device = Rc::new(RefCell::new(Device::new(dir.clone())));
        Disk { dir, slow_until_us: 0, fails_next: false, history, device, health: Health::default(), tail: Vec::new() }
    }

    /// Does something with files that may be interrupted by a crash, and taken back by a loss of power.
    pub fn at_files<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(debug_assertions)]
        {
            let device = Rc::clone(&self.device);
            files::observe(Box::new(move |step| device.borrow_mut().step(step)), work)
        }
        // A release build's files change unobserved, and a crash comes when they have.
        #[cfg(not(debug_assertions))]
        work()
    }

    /// The same, and the crash comes before it is done, or right after.
    pub fn interrupted(&self, steps: usize, work: impl FnOnce()) {
        self.device.borrow_mut().steps_left = Some(steps);
        self.at_files(work);
        self.device.borrow_mut().steps_left = None;
    }

    pub fn lose_power(&mut self, chance: &mut Random) {
        self.device.borrow_mut().lose_power(chance);
    }

    /// Something on it is not what was written there any more. Tells what, if there was anything to damage.
    pub fn damage(&mut self, chance: &mut Random) -> Option<String> {
        let (what, path, at, bytes) = self.health.damage(&self.dir, chance)?;
        self.device.borrow_mut().written(&path, at, &bytes);
        Some(what)
    }

    /// Whether there is no room for another file. Those that are there can be written to: the log's are made as large as
    /// they get.
    pub fn is_full(&self) -> bool {
        self.device.borrow().is_full
    }

    pub fn set_full(&mut self, is_full: bool) {
        self.device.borrow_mut().is_full = is_full;
    }

    /// What a process does first. See `server::run`.
    pub fn recover(&mut self) -> Result<Found, String> {
        self.tail.clear();
        let mut damage = None;
        let recovered = match self.read_back(None) {
            Err(error) if error.is_damage() => {
                damage = Some(error.to_string());
                self.at_files(|| replace::set_aside(&self.dir, &self.dir)).map_err(|error| error.to_string())?;
                self.health.begins_anew();
                self.read_back(None)
            }
            recovered => recovered,
        };
        let Recovery { data_tree, log, snapshot, history, .. } = recovered.map_err(|error| error.to_string())?;
        let epochs = epoch::load(&self.dir, data_tree.tree().zxid()).map_err(|error| error.to_string())?;
        let last = log.spares.last().map(|spare| spare.sequence);
        let last = last.or(log.filled.last().map(|segment| segment.sequence)).unwrap_or(0);
        Ok(Found {
            data_tree,
            history: history.expect("it was asked for"),
            epochs,
            in_doubt: replace::is_in_doubt(&self.dir),
            end: log.end,
            filled: log.filled,
            spares: log.spares,
            next_sequence: last + 1,
            snapshot,
            damage,
        })
    }

    /// A snapshot that is kept and does not lead to this state, with the log behind it. What was hurt is not looked at.
    pub fn parts_from(&self, zxid: Zxid, digest: u64) -> Option<String> {
        if self.health.is_hurt() {
            return None;
        }
        let kept = snapshot::list(&self.dir).expect("the scratch directory can be read");
        kept.iter().take(SNAPSHOTS_COVERED).find_map(|file| {
            let why = |error: StorageError| format!("from {} on the log cannot be read: {error}", file.zxid);
            let mut replay = match snapshot::load(file) {
                Ok(loaded) => Replay::on(loaded.data_tree),
                Err(error) => return Some(why(error)),
            };
            let apache = apache_log::replay(&self.dir, &mut replay).map(drop);
            if let Err(error) = apache.and_then(|()| segments::recover(&self.dir, &mut replay).map(drop)) {
                return Some(why(error));
            }
            let tree = replay.data_tree.tree();
            let differs = (tree.zxid(), tree.digest()) != (zxid, digest);
            differs.then(|| format!("from {} on the log leads to {}, with another tree", file.zxid, tree.zxid()))
        })
    }

    /// Converts what the log has beyond Apache's to Apache's format. A start on Apache's alone must come to the same state;
    /// now and then it is all that is left. Tells what was done; nothing where there is no log.
    pub fn convert(&mut self, chance: &mut Random) -> Result<Option<String>, String> {
        let Recovery { data_tree, .. } = self.read_back(None).map_err(|error| error.to_string())?;
        if segments::list(&self.dir).expect("the scratch directory can be read").is_empty() {
            return Ok(None);
        }
        if chance.chance(20) {
            self.interrupted(chance.below(8), || drop(write_as_apache(&self.dir)));
            return Ok(Some("its conversion is interrupted".to_owned()));
        }
        let written = self.at_files(|| write_as_apache(&self.dir)).map_err(|error| error.to_string())?;
        let tree = data_tree.tree();
        let found = self.read_apaches().map_err(|error| error.to_string())?;
        if (found.tree().zxid(), found.tree().digest()) != (tree.zxid(), tree.digest()) {
            return Err(format!("it is at {}, and Apache's log leads to {}", tree.zxid(), found.tree().zxid()));
        }
        let is_all = chance.chance(50);
        if is_all {
            self.at_files(|| -> Result<(), StorageError> {
                for (_, path) in segments::list(&self.dir)?.into_iter().rev() {
                    files::remove(&path).map_err(StorageError::io("remove", &path))?;
                }
                segments::sync_dir(&self.dir)
            })
            .map_err(|error| error.to_string())?;
            // What is known of segments.
            self.health.begins_anew();
        }
        let transactions: u64 = written.iter().map(|file| file.transactions).sum();
        let rest = if is_all { ", and its own log is gone" } else { "" };
        Ok(Some(format!("{transactions} transactions up to {} are converted{rest}", tree.zxid())))
    }

    /// What Apache would start from.
    fn read_apaches(&self) -> Result<DataTree, StorageError> {
        let copy = self.dir.with_extension("apache");
        fs::create_dir(&copy).expect("the scratch directory can be written to");
        let snapshots = snapshot::list_by_name(&self.dir)?.into_iter().map(|file| file.path);
        for path in snapshots.chain(apache_log::list(&self.dir)?.into_iter().map(|file| file.path)) {
            let name = path.file_name().expect("a file of a directory has a name");
            fs::copy(&path, copy.join(name)).expect("the scratch directory can be written to");
        }
        let found = recovery::recover(&copy, &copy, &recovery::Options::default());
        fs::remove_dir_all(&copy).expect("the scratch directory can be written to");
        Ok(found?.data_tree)
    }

    pub fn read_back(&self, until: Option<Zxid>) -> Result<Recovery, StorageError> {
        let options = recovery::Options { until, keep_history: Some(self.history), ..recovery::Options::default() };
        self.at_files(|| recovery::recover(&self.dir, &self.dir, &options))
    }

    /// See `shard::disk::Disk::flush`.
    pub fn begin_flush(&mut self, number: u64, batch: Batch) -> Flush {
        let head = batch.position as usize % BLOCK_BYTES;
        let end = head + batch.bytes.len();
        let mut bytes = Vec::with_capacity(end.next_multiple_of(BLOCK_BYTES));
        if head > 0 {
            assert_eq!(self.tail.len(), head, "flushes go on where they ended");
            bytes.extend_from_slice(&self.tail);
        }
        bytes.extend_from_slice(&batch.bytes);
        self.tail = bytes[end - end % BLOCK_BYTES..].to_vec();
        bytes.resize(end.next_multiple_of(BLOCK_BYTES), 0);
        Flush { number, position: batch.position - head as u64, batch, bytes }
    }

    /// The flush has ended well.
    pub fn write(&self, flush: &Flush) {
        self.put(flush.batch.segment, flush.position, &flush.bytes);
    }

    /// The flush was cut short: any part of it is there.
    pub fn tear(&self, flush: &Flush, chance: &mut Random) {
        let percent = chance.pick(&[0, 10, 50, 90, 100]);
        let whole_blocks = chance.chance(30);
        let unit = if whole_blocks { BLOCK_BYTES } else { SECTOR_BYTES };
        for (at, sector) in flush.bytes.chunks(unit).enumerate() {
            if chance.chance(percent) {
                self.put(flush.batch.segment, flush.position + (at * unit) as u64, sector);
            }
        }
    }

    fn put(&self, segment: u64, position: u64, bytes: &[u8]) {
        let path = segments::path(&self.dir, segment);
        let file = OpenOptions::new().write(true).open(&path).expect("a segment in use is there");
        file.write_all_at(bytes, position).expect("the scratch directory can be written to");
        self.device.borrow_mut().written(&path, position, bytes);
    }
}

/// See `tools/log/convert.rs`. What Apache's log has already is not written again.
fn write_as_apache(dir: &Path) -> Result<Vec<Written>, StorageError> {
    let logs = find_logs(dir)?;
    let (native, apache): (Vec<_>, Vec<_>) = logs.into_iter().partition(|file| file.kind == FileKind::NativeLog);
    let mut last = Zxid::ZERO;
    convert::each(&apache, |_, step| {
        if let Step::Txn(entry) = step {
            last = entry.zxid;
        }
        Ok(())
    })?;
    convert::leave_first_snapshot(&native, dir)?;
    let mut writer = ApacheLogsWriter::new(dir);
    convert::each(&native, |_, step| match step {
        Step::Txn(entry) if entry.zxid > last => writer.append(entry.zxid, &entry.payload),
        Step::Txn(_) => Ok(()),
        Step::FileEnds(_) => writer.file_ends(),
    })?;
    writer.finish()
}
