//! Group commit: which appends share a flush, and how many flushes are under way.
//!
//! Whatever is appended while a flush is under way goes out with the next; when none is under way an append goes out
//! at once. There is no timer: a lone writer waits for nobody, and a crowd shares.
//!
//! While a crowd writes, a second flush may begin before the first has ended, so that the device is never idle. It must
//! not write a block that the first is writing: the caller leaves the rest of a block free behind a batch of
//! [`PIPELINE_BYTES_MIN`] or more, and a flush joins another only if its batch begins a block.
//!
//! A batch never crosses from one segment into the next, and a segment's first flush waits for the last of the one
//! before, so that a segment's link never becomes durable before what it links to.

use std::collections::VecDeque;

use super::format::BLOCK_BYTES;
use crate::types::Zxid;

/// Bytes that are to be made durable together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Sequence number of the segment.
    pub segment: u64,
    /// Where the bytes belong in it.
    pub position: u64,
    /// The records, whole ones.
    pub bytes: Vec<u8>,
    /// How many.
    pub records: u32,
    /// The last transaction among them.
    pub last_zxid: Zxid,
}

impl Batch {
    /// Where it ends in its segment.
    pub fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }
}

/// What is durable: everything up to a zxid, and up to a position of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable {
    /// The last transaction.
    pub zxid: Zxid,
    /// The segment that it is in.
    pub segment: u64,
    /// Where it ends there.
    pub position: u64,
}

/// See the module. `appended` >= `flushing` >= `durable` hold of the zxids it deals in.
#[derive(Debug)]
pub struct GroupCommit {
    flushes_max: usize,
    /// Not flushed yet, oldest first; the last takes further records.
    waiting: VecDeque<Batch>,
    /// Being flushed, in the order in which they began, and whether each has ended.
    flushing: VecDeque<(Durable, bool)>,
    /// Reused for coming batches.
    spare: Vec<Vec<u8>>,
}

/// A batch takes no more records once it is this large, so that the first of a crowd does not wait for megabytes.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// A batch of at least this size may be flushed beside another.
pub const PIPELINE_BYTES_MIN: usize = 32 << 10;

impl GroupCommit {
    /// Nothing appended yet. At most `flushes_max` flushes are under way at a time.
    pub fn new(flushes_max: usize) -> GroupCommit {
        assert!(flushes_max > 0);
        GroupCommit { flushes_max, waiting: VecDeque::new(), flushing: VecDeque::new(), spare: Vec::new() }
    }

    /// See [`GroupCommit::new`].
    pub fn flushes_max(&self) -> usize {
        self.flushes_max
    }

    /// Where the next record's bytes go; the caller appends them to what this returns, whole, and tells
    /// of it with [`GroupCommit::appended`].
    pub fn open(&mut self, segment: u64, position: u64) -> &mut Vec<u8> {
        let fits =
            |batch: &Batch| batch.segment == segment && batch.end() == position && batch.bytes.len() < BATCH_BYTES_MAX;
        if !self.waiting.back().is_some_and(fits) {
            let bytes = self.spare.pop().unwrap_or_default();
            self.waiting.push_back(Batch { segment, position, bytes, records: 0, last_zxid: Zxid::ZERO });
        }
        &mut self.waiting.back_mut().expect("pushed if there was none").bytes
    }

    /// A record was appended.
    pub fn appended(&mut self, zxid: Zxid) {
        let batch = self.waiting.back_mut().expect("open comes first");
        batch.records += 1;
        batch.last_zxid = zxid;
    }

    /// The batch to flush now, if there is one and it may go.
    pub fn start_flush(&mut self) -> Option<Batch> {
        let next = self.waiting.front()?;
        if let Some((last, _)) = self.flushing.back() {
            let may_join = self.flushing.len() < self.flushes_max
                && next.bytes.len() >= PIPELINE_BYTES_MIN
                && next.segment == last.segment
                && next.position >= last.position.next_multiple_of(BLOCK_BYTES as u64);
            if !may_join {
                return None;
            }
        }
        let batch = self.waiting.pop_front()?;
        let durable = Durable { zxid: batch.last_zxid, segment: batch.segment, position: batch.end() };
        self.flushing.push_back((durable, false));
        Some(batch)
    }

    /// Whether no batch waits: what is appended next begins one.
    pub fn nothing_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The flush of that batch has ended. Returns how far the log is durable now, if that is further than before: flushes
    /// that ended before an earlier one do not count until that has ended too.
    pub fn flushed(&mut self, mut batch: Batch) -> Option<Durable> {
        let of_batch = self.flushing.iter_mut().find(|(durable, _)| durable.zxid == batch.last_zxid);
        of_batch.expect("a flush that ends has begun").1 = true;
        batch.bytes.clear();
        self.spare.push(batch.bytes);
        let mut reached = None;
        while self.flushing.front().is_some_and(|(_, ended)| *ended) {
            reached = self.flushing.pop_front().map(|(durable, _)| durable);
        }
        reached
    }

    /// The oldest segment that has something that is not durable.
    pub fn oldest_segment(&self) -> Option<u64> {
        let flushing = self.flushing.front().map(|(durable, _)| durable.segment);
        flushing.or(self.waiting.front().map(|batch| batch.segment))
    }

    /// Bytes that wait for a flush to begin.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|batch| batch.bytes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(group: &mut GroupCommit, segment: u64, position: u64, zxid: i64, bytes: usize) {
        group.open(segment, position).extend_from_slice(&vec![7; bytes]);
        group.appended(Zxid(zxid));
    }

    #[test]
    fn what_comes_during_a_flush_shares_the_next() {
        let mut group = GroupCommit::new(2);
        append(&mut group, 1, 100, 1, 10);
        let first = group.start_flush().unwrap();
        assert_eq!((first.position, first.records, first.last_zxid), (100, 1, Zxid(1)));
        append(&mut group, 1, 110, 2, 10);
        append(&mut group, 1, 120, 3, 10);
        assert_eq!(group.start_flush(), None, "small ones go one at a time");
        assert_eq!(group.flushed(first), Some(Durable { zxid: Zxid(1), segment: 1, position: 110 }));
        let second = group.start_flush().unwrap();
        assert_eq!((second.position, second.bytes.len(), second.records), (110, 20, 2));
        assert_eq!(group.flushed(second).unwrap().zxid, Zxid(3));
        assert_eq!(group.start_flush(), None);
    }

    #[test]
    fn large_ones_go_two_at_a_time_and_count_in_order() {
        let mut group = GroupCommit::new(2);
        let large = PIPELINE_BYTES_MIN;
        append(&mut group, 1, 4096, 1, large);
        let first = group.start_flush().unwrap();
        append(&mut group, 1, 4096 + large as u64, 2, large);
        let second = group.start_flush().unwrap();
        append(&mut group, 1, 4096 + 2 * large as u64, 3, large);
        assert_eq!(group.start_flush(), None, "not a third");
        assert_eq!(group.flushed(second), None, "the first has not ended");
        assert_eq!(group.flushed(first).unwrap().zxid, Zxid(2));
    }

    #[test]
    fn a_flush_never_joins_one_that_shares_its_block_or_is_in_another_segment() {
        let large = PIPELINE_BYTES_MIN + 8;
        let mut group = GroupCommit::new(2);
        append(&mut group, 1, 4096, 1, large);
        let first = group.start_flush().unwrap();
        append(&mut group, 1, 4096 + large as u64, 2, large);
        assert_eq!(group.start_flush(), None);
        group.flushed(first);
        let second = group.start_flush().unwrap();
        append(&mut group, 2, 4096, 3, large);
        assert_eq!(group.start_flush(), None);
        group.flushed(second);
        assert_eq!(group.start_flush().unwrap().segment, 2);
    }

    /// Several segments are filled before the first flush ends: those that catch up get so much at once.
    #[test]
    fn segments_are_in_use_until_all_of_them_is_durable() {
        let mut group = GroupCommit::new(2);
        assert_eq!(group.oldest_segment(), None);
        for (segment, zxid) in [(1, 1), (2, 2), (3, 3)] {
            append(&mut group, segment, 4096, zxid, 10);
        }
        for segment in 1..=3 {
            assert_eq!(group.oldest_segment(), Some(segment), "waiting");
            let batch = group.start_flush().unwrap();
            assert_eq!(group.oldest_segment(), Some(segment), "under way");
            group.flushed(batch);
        }
        assert_eq!(group.oldest_segment(), None);
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut group = GroupCommit::new(1);
        let mut position = 0;
        for zxid in 0..3 {
            append(&mut group, 1, position, zxid, BATCH_BYTES_MAX);
            position += BATCH_BYTES_MAX as u64;
        }
        assert_eq!(group.start_flush().unwrap().records, 1);
        assert_eq!(group.waiting_bytes(), 2 * BATCH_BYTES_MAX);
    }
}
