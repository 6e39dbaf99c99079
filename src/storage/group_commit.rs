//! Group commit: which appends share a flush.
//!
//! Whatever is appended while a flush is under way goes out with the next; when none is under way an append goes out
//! at once. There is no timer: a lone writer waits for nobody, and a crowd shares.
//!
//! A batch never crosses from one segment into the next.

use std::collections::VecDeque;

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

/// See the module. `appended` >= `flushing` >= `durable` hold of the zxids it deals in.
#[derive(Default, Debug)]
pub struct GroupCommit {
    /// Not flushed yet, oldest first; the last takes further records.
    waiting: VecDeque<Batch>,
    /// Being flushed.
    flushing: Option<Zxid>,
    /// Reused for the next batch.
    spare: Vec<u8>,
}

/// A batch takes no more records once it is this large, so that the first of a crowd does not wait for megabytes.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

impl GroupCommit {
    /// Where the next record's bytes go; the caller appends them to what this returns, whole, and tells
    /// of it with [`GroupCommit::appended`].
    pub fn open(&mut self, segment: u64, position: u64) -> &mut Vec<u8> {
        let fits = self.waiting.back().is_some_and(|batch| {
            batch.segment == segment
                && batch.position + batch.bytes.len() as u64 == position
                && batch.bytes.len() < BATCH_BYTES_MAX
        });
        if !fits {
            let bytes = std::mem::take(&mut self.spare);
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

    /// The batch to flush now, if there is one and no flush is under way.
    pub fn start_flush(&mut self) -> Option<Batch> {
        if self.flushing.is_some() {
            return None;
        }
        let batch = self.waiting.pop_front()?;
        self.flushing = Some(batch.last_zxid);
        Some(batch)
    }

    /// The flush under way is done: everything up to the returned zxid is durable.
    pub fn flushed(&mut self, mut batch: Batch) -> Zxid {
        assert_eq!(self.flushing.take(), Some(batch.last_zxid), "flushes end in the order they began");
        batch.bytes.clear();
        if self.spare.capacity() < batch.bytes.capacity() {
            self.spare = batch.bytes;
        }
        batch.last_zxid
    }

    /// Bytes that wait for a flush to begin.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|batch| batch.bytes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(group: &mut GroupCommit, segment: u64, position: u64, zxid: i64) {
        group.open(segment, position).extend_from_slice(&[7; 10]);
        group.appended(Zxid(zxid));
    }

    #[test]
    fn what_comes_during_a_flush_shares_the_next() {
        let mut group = GroupCommit::default();
        append(&mut group, 1, 100, 1);
        let first = group.start_flush().unwrap();
        assert_eq!((first.position, first.records, first.last_zxid), (100, 1, Zxid(1)));
        append(&mut group, 1, 110, 2);
        append(&mut group, 1, 120, 3);
        assert_eq!(group.start_flush(), None, "one at a time");
        assert_eq!(group.flushed(first), Zxid(1));
        let second = group.start_flush().unwrap();
        assert_eq!((second.position, second.bytes.len(), second.records), (110, 20, 2));
        assert_eq!(group.flushed(second), Zxid(3));
        assert_eq!(group.start_flush(), None);
    }

    #[test]
    fn a_new_segment_begins_a_new_batch() {
        let mut group = GroupCommit::default();
        append(&mut group, 1, 100, 1);
        append(&mut group, 2, 0, 2);
        let batch = group.start_flush().unwrap();
        assert_eq!((batch.segment, batch.last_zxid), (1, Zxid(1)));
        group.flushed(batch);
        assert_eq!(group.start_flush().unwrap().segment, 2);
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut group = GroupCommit::default();
        let mut position = 0;
        for zxid in 0..3 {
            group.open(1, position).extend_from_slice(&vec![0; BATCH_BYTES_MAX]);
            group.appended(Zxid(zxid));
            position += BATCH_BYTES_MAX as u64;
        }
        assert_eq!(group.start_flush().unwrap().records, 1);
        assert_eq!(group.waiting_bytes(), 2 * BATCH_BYTES_MAX);
    }
}
