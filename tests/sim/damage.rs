//! Damage at rest: while a server is down, a bit of one of its files flips, or a block has zeros or another block's bytes.
//!
//! What the server did not know to be durable looks like the end of a flush that was cut short, and is taken for it; nobody
//! can tell the two apart. So the log is damaged only where later records say that it was durable, by the simulator's own
//! account.
//!
//! One server of a run is hurt, and only where the others are a quorum without it: it may have to begin anew.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ringkeeper::storage::format::BLOCK_BYTES;
use ringkeeper::storage::{segments, snapshot};

use crate::disk::SNAPSHOTS_COVERED;
use crate::random::Random;

/// So many flushes that ended well are behind a place before it is damaged. Each record says what was durable when it was
/// made, and `ringkeeper.flushesInFlight` (4 at most) and the batch that fills up meanwhile were made earlier.
const LATER_FLUSHES: usize = 8;
/// Places that are looked at before there is none to be damaged.
const TRIES_MAX: usize = 20;

/// What is known to be durable, and what was hurt.
#[derive(Default)]
pub struct Health {
    /// Segment and place where each of the last flushes ended, in order.
    durable: VecDeque<(u64, u64)>,
    /// Snapshots that were hurt, and whether anything else was.
    snapshots: BTreeSet<PathBuf>,
    elsewhere: bool,
}

impl Health {
    /// The log is durable up to this place.
    pub fn is_durable(&mut self, segment: u64, end: u64) {
        if self.durable.len() == LATER_FLUSHES {
            self.durable.pop_front();
        }
        self.durable.push_back((segment, end));
    }

    /// All files were replaced, or taken away.
    pub fn begins_anew(&mut self) {
        *self = Health::default();
    }

    /// Whether a start may find the history damaged. Not if all that is hurt are snapshots: one that is whole is found, and
    /// the log behind it is still there.
    pub fn may_be_lost(&self, dir: &Path) -> bool {
        let snapshots = snapshot::list(dir).unwrap_or_default();
        let mut kept = snapshots.iter().take(SNAPSHOTS_COVERED);
        let is_covered = kept.any(|snapshot| !self.snapshots.contains(&snapshot.path));
        self.elsewhere || !self.snapshots.is_empty() && !is_covered
    }

    /// Whether anything is hurt.
    pub fn is_hurt(&self) -> bool {
        self.elsewhere || !self.snapshots.is_empty()
    }

    /// Hurts one of the files in this directory. Tells what was done, and what changed: the file, the place and its new bytes.
    pub fn damage(&mut self, dir: &Path, chance: &mut Random) -> Option<(String, PathBuf, u64, Vec<u8>)> {
        let segments = segments::list(dir).ok()?;
        let snapshots = snapshot::list(dir).ok()?;
        for _ in 0..TRIES_MAX {
            let of_log = chance.chance(60);
            let (path, end) = if of_log && !segments.is_empty() {
                let (sequence, path) = &segments[chance.below(segments.len())];
                (path.clone(), self.durable_end(*sequence))
            } else if !of_log && !snapshots.is_empty() {
                // Rather the newest, which a start reads.
                let which = if chance.chance(70) { 0 } else { chance.below(snapshots.len()) };
                (snapshots[which].path.clone(), u64::MAX)
            } else {
                continue;
            };
            let before = fs::read(&path).ok()?;
            let end = end.min(before.len() as u64) as usize;
            let Some((what, at, bytes)) = hurt(&before[..end], &before, chance) else { continue };
            let file = OpenOptions::new().write(true).open(&path).ok()?;
            file.write_all_at(&bytes, at as u64).expect("the scratch directory can be written to");
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let what = format!("{what} of {name}");
            match of_log {
                true => self.elsewhere = true,
                false => drop(self.snapshots.insert(path.clone())),
            }
            return Some((what, path, at as u64, bytes));
        }
        None
    }

    /// Up to where later records say that a segment was durable.
    fn durable_end(&self, segment: u64) -> u64 {
        let (known, end) = match self.durable.front() {
            Some(oldest) if self.durable.len() == LATER_FLUSHES => *oldest,
            _ => return 0,
        };
        match segment.cmp(&known) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => end,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

/// Changes something in `place`, the beginning of `whole`: what, where, and the bytes that are there now.
fn hurt(place: &[u8], whole: &[u8], chance: &mut Random) -> Option<(String, usize, Vec<u8>)> {
    if place.is_empty() {
        return None;
    }
    let at = chance.below(place.len());
    if chance.chance(50) {
        let bit = chance.below(8);
        return Some((format!("bit {bit} of byte {at} flips"), at, vec![place[at] ^ 1 << bit]));
    }
    let block = at - at % BLOCK_BYTES;
    let now = place.get(block..block + BLOCK_BYTES).or_else(|| {
        // The last block of a snapshot.
        (place.len() == whole.len()).then(|| &place[block..])
    })?;
    let (what, bytes) = if chance.chance(50) {
        (format!("the block at byte {block} is zeroed"), vec![0; now.len()])
    } else {
        let other = chance.below(whole.len() / BLOCK_BYTES + 1) * BLOCK_BYTES;
        let other = whole.get(other..other + now.len())?;
        (format!("the block at byte {block} has another one's bytes"), other.to_vec())
    };
    (bytes != now).then_some((what, block, bytes))
}
