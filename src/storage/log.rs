//! The writing end of the log: transactions become records in segments, records become batches to flush.
//!
//! It touches no file. The driver hands it segments that are ready for use, takes batches, writes them where they
//! say, and reports each when it is durable.

use std::collections::VecDeque;

use super::format::{self, BLOCK_BYTES, FIRST_RECORD, Kind, Link, Place};
use super::group_commit::{Batch, GroupCommit, PIPELINE_BYTES_MIN};
use crate::types::Zxid;

/// A segment that is ready for use: its file is written with zeros, its header is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spare {
    /// Its number.
    pub sequence: u64,
    /// From its header.
    pub salt: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// See the module.
pub struct Log {
    group: GroupCommit,
    /// The segment that takes records; none before the first transaction since the start.
    current: Option<Segment>,
    /// In the order of their numbers.
    spares: VecDeque<Spare>,
    /// The end of what was found at the start, and then of each segment that was filled.
    end: Link,
    filled: Vec<Filled>,
}

/// A segment that holds transactions and takes no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filled {
    /// Its number.
    pub sequence: u64,
    /// The transaction before its first.
    pub before: Zxid,
    /// Its last transaction; the one before its first if it has none.
    pub last: Zxid,
    /// Size of the file.
    pub bytes: u64,
}

struct Segment {
    spare: Spare,
    /// Where the next record goes: at `end`, or where the next block begins.
    position: u64,
    /// Where the last record ends.
    end: u64,
    /// Checksum of the last record.
    crc: u32,
    zxid: Zxid,
    /// Everything below is durable.
    durable: u64,
}

impl Log {
    /// A log that goes on after `end`. It needs a spare before it can take anything: every start begins a segment,
    /// so that nothing is ever written behind a torn tail.
    ///
    /// At most `flushes_max` flushes are under way at a time.
    pub fn new(end: Link, flushes_max: usize) -> Log {
        Log { group: GroupCommit::new(flushes_max), current: None, spares: VecDeque::new(), end, filled: Vec::new() }
    }

    /// See [`Log::new`].
    pub fn flushes_max(&self) -> usize {
        self.group.flushes_max()
    }

    /// Hands over a segment. They are used in the order in which they come.
    pub fn add_spare(&mut self, spare: Spare) {
        let last = self.spares.back().or(self.current.as_ref().map(|segment| &segment.spare));
        assert!(
            last.is_none_or(|last| last.sequence < spare.sequence),
            "segments are used in the order of their numbers"
        );
        self.spares.push_back(spare);
    }

    /// Segments that are ready and not in use.
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// The number of the segment that takes records now.
    pub fn current_sequence(&self) -> Option<u64> {
        self.current.as_ref().map(|segment| segment.spare.sequence)
    }

    /// The last transaction that was appended, or that was found at the start.
    pub fn last_zxid(&self) -> Zxid {
        self.current.as_ref().map_or(self.end.zxid, |segment| segment.zxid)
    }

    /// Whether [`Log::append`] can take a payload of that size now. If not, a spare must come first, large enough
    /// for it.
    pub fn fits(&self, payload_bytes: usize) -> bool {
        self.current.as_ref().is_some_and(|segment| segment.fits(payload_bytes))
            || self.spares.front().is_some_and(|spare| format::segment_bytes_for(payload_bytes) <= spare.bytes)
    }

    /// Gives back a spare that is too small for the next record, so that a larger one can come.
    pub fn pass_over_spare(&mut self) -> Option<Spare> {
        self.spares.pop_front()
    }

    /// Adds a transaction. It is not durable before the batch that holds it is reported flushed.
    ///
    /// Panics if it does not fit.
    pub fn append(&mut self, zxid: Zxid, payload: &[u8]) {
        if !self.current.as_ref().is_some_and(|segment| segment.fits(payload.len())) {
            self.roll();
        }
        let segment = self.current.as_mut().expect("rolled if there was none");
        assert!(zxid > segment.zxid, "{zxid} after {}", segment.zxid);
        let place = Place {
            salt: segment.spare.salt,
            position: segment.position,
            previous_crc: segment.crc,
            durable: segment.durable,
        };
        let out = self.group.open(segment.spare.sequence, segment.position);
        let before = out.len();
        segment.crc = format::encode_record(out, place, Kind::Txn, zxid, payload);
        segment.position += (out.len() - before) as u64;
        segment.end = segment.position;
        segment.zxid = zxid;
        self.group.appended(zxid);
    }

    /// The batch to flush now, if there is one and it may go.
    pub fn start_flush(&mut self) -> Option<Batch> {
        let batch = self.group.start_flush()?;
        // The next record begins a block, so that its flush need not wait for this one.
        if batch.bytes.len() >= PIPELINE_BYTES_MIN
            && self.group.nothing_waits()
            && let Some(segment) = &mut self.current
            && segment.spare.sequence == batch.segment
        {
            segment.position = segment.position.next_multiple_of(BLOCK_BYTES as u64);
        }
        Some(batch)
    }

    /// The batch is durable. Returns the zxid up to which everything is, if that is further than before.
    pub fn flushed(&mut self, batch: Batch) -> Option<Zxid> {
        let durable = self.group.flushed(batch)?;
        if let Some(segment) = &mut self.current
            && segment.spare.sequence == durable.segment
        {
            segment.durable = durable.position;
        }
        Some(durable.zxid)
    }

    /// Segments that were filled since the last call.
    pub fn take_filled(&mut self) -> Vec<Filled> {
        std::mem::take(&mut self.filled)
    }

    /// The oldest segment that is still to be written to; those before it may be closed.
    pub fn oldest_segment_in_use(&self) -> Option<u64> {
        self.group.oldest_segment().or(self.current_sequence())
    }

    /// Bytes that wait for a flush to begin.
    pub fn waiting_bytes(&self) -> usize {
        self.group.waiting_bytes()
    }

    /// Ends the segment and begins the next, which links to it.
    fn roll(&mut self) {
        if let Some(segment) = &self.current {
            let Spare { sequence, bytes, .. } = segment.spare;
            self.filled.push(Filled { sequence, before: self.end.zxid, last: segment.zxid, bytes });
            self.end = Link { end: segment.end, crc: segment.crc, zxid: segment.zxid };
        }
        let spare = self.spares.pop_front().expect("the caller has asked whether it fits");
        let out = self.group.open(spare.sequence, FIRST_RECORD);
        let before = out.len();
        let crc = format::encode_link(out, spare.salt, self.end);
        let position = FIRST_RECORD + (out.len() - before) as u64;
        self.current =
            Some(Segment { spare, position, end: position, crc, zxid: self.end.zxid, durable: FIRST_RECORD });
    }
}

impl Segment {
    fn fits(&self, payload_bytes: usize) -> bool {
        self.position + format::record_bytes(payload_bytes) as u64 <= self.spare.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::format::{End, SegmentHeader};

    /// Writes transactions through segments of two blocks and reads them back from the files that come of it.
    #[test]
    fn what_is_appended_can_be_walked_over_segment_by_segment() {
        const SEGMENT_BYTES: u64 = 2 * BLOCK_BYTES as u64;
        let mut log = Log::new(Link { end: 5, crc: 6, zxid: Zxid(7) }, 2);
        let mut files: Vec<Vec<u8>> = Vec::new();
        for zxid in 8..40 {
            let payload = vec![zxid as u8; 500];
            if !log.fits(payload.len()) {
                let sequence = files.len() as u64 + 1;
                log.add_spare(Spare { sequence, salt: sequence * 99, bytes: SEGMENT_BYTES });
                let mut file = SegmentHeader::new(sequence, sequence * 99).to_block().to_vec();
                file.resize(SEGMENT_BYTES as usize, 0);
                files.push(file);
            }
            log.append(Zxid(zxid), &payload);
            while let Some(batch) = log.start_flush() {
                let at = batch.position as usize;
                files[batch.segment as usize - 1][at..at + batch.bytes.len()].copy_from_slice(&batch.bytes);
                assert_eq!(log.flushed(batch), Some(Zxid(zxid)));
            }
        }
        assert!(files.len() > 3);
        let mut link = Link { end: 5, crc: 6, zxid: Zxid(7) };
        let mut seen = Vec::new();
        for file in &files {
            let header = SegmentHeader::read(file).unwrap();
            let walk = format::walk(file, &header, |record| {
                assert!(record.payload.iter().all(|b| *b == record.zxid.0 as u8));
                seen.push(record.zxid.0);
                Ok::<(), ()>(())
            })
            .unwrap();
            assert_eq!(walk.previous, Some(link));
            let End::Clean(end) = walk.end else { panic!("{walk:?}") };
            link = end;
        }
        assert_eq!(seen, (8..40).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_larger_than_the_spare_does_not_fit() {
        let mut log = Log::new(Link::default(), 1);
        assert!(!log.fits(1));
        log.add_spare(Spare { sequence: 1, salt: 1, bytes: 2 * BLOCK_BYTES as u64 });
        assert!(log.fits(3000) && !log.fits(2 * BLOCK_BYTES));
    }
}
