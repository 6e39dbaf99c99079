//! What a learner lacks, read from the log on disk: the transactions behind the one that it has last, in order, with
//! nothing missing, up to one that is known to be committed and durable.
//!
//! Each record is checked as a start does it: its checksum, that of the record before, and the link from segment to segment.
//! No more than a piece is in memory. Segments may be written to meanwhile, behind what is read, and new ones may come.
//!
//! Everything here blocks: it runs on a helper thread. Source: `ZKDatabase.getProposalsFromTxnLog`.

use std::path::{Path, PathBuf};

use super::error::StorageError;
use super::inspect::{Entry, NativeReader};
use super::segments;
use crate::planted::{self, Bug};
use crate::proto::quorum;
use crate::types::Zxid;

/// A piece is handed out once it is as large as this. It is larger by its last transaction, at the most.
pub const PIECE_BYTES: usize = 256 << 10;

/// See the module.
pub struct CatchUp {
    dir: PathBuf,
    reader: NativeReader,
    path: PathBuf,
    sequence: u64,
    /// It was read already, and comes next.
    next: Option<Entry>,
    /// The last transaction that was passed or handed out.
    last: Zxid,
    /// The last that is wanted.
    through: Zxid,
}

impl CatchUp {
    /// Finds `after` in the log of a directory: the record of that transaction, or a segment that says it goes on behind it.
    ///
    /// Errors with `Damaged` if it is not there, or if what comes before it cannot be read, and with `Io`.
    pub fn open(dir: &Path, after: Zxid, through: Zxid) -> Result<CatchUp, StorageError> {
        // What was released may be renamed at any time, and then is none of those that are wanted.
        let begins = |(sequence, path): &(u64, PathBuf)| {
            segments::link_of(*sequence, path).ok().flatten().is_some_and(|link| link.zxid <= after)
        };
        let Some((sequence, path)) = segments::list(dir)?.into_iter().rev().find(begins) else {
            return Err(damaged(dir, 0, format!("no segment has what comes behind {after}")));
        };
        let mut reader = NativeReader::open(&path)?;
        let next = reader.next_written()?;
        let last = reader.previous().map_or(Zxid::ZERO, |link| link.zxid);
        let mut found = CatchUp { dir: dir.to_owned(), reader, path, sequence, next, last, through };
        while found.last < after {
            let entry = found.read()?;
            if entry.zxid > after {
                found.next = Some(entry);
                break;
            }
            found.last = entry.zxid;
        }
        if found.last != after && !planted::is(Bug::StoredDiffUnchecked) {
            let what = format!("{after} is not in the log, but {} is, and then something later", found.last);
            return Err(found.damaged(what));
        }
        if planted::is(Bug::StoredDiffBeginsLate) {
            found.last = found.read()?.zxid;
        }
        Ok(found)
    }

    /// Appends the next transactions to `packets`, each as PROPOSAL and COMMIT, until there is a piece. Returns whether there
    /// are more.
    ///
    /// Errors with `Damaged` if the next one is not there or not whole, and with `Io`; what was appended before is good.
    pub fn next_piece(&mut self, packets: &mut Vec<u8>) -> Result<bool, StorageError> {
        while self.last < self.through && packets.len() < PIECE_BYTES {
            let entry = self.read()?;
            if entry.zxid > self.through {
                return Err(self.damaged(format!("{} is not in the log, but {} is", self.through, entry.zxid)));
            }
            quorum::put_committed(packets, entry.zxid, &entry.payload);
            self.last = entry.zxid;
        }
        if self.last == self.through {
            self.reader.leave_page_cache();
        }
        Ok(self.last < self.through)
    }

    /// The next transaction, from the next segment if this one has no more.
    fn read(&mut self) -> Result<Entry, StorageError> {
        loop {
            let entry = match self.next.take() {
                None => self.reader.next_written()?,
                entry => entry,
            };
            match entry {
                Some(entry) if entry.zxid.follows(self.last) => return Ok(entry),
                Some(entry) => return Err(self.damaged(format!("{} comes after {}", entry.zxid, self.last))),
                None => self.begin_next_segment()?,
            }
        }
    }

    fn begin_next_segment(&mut self) -> Result<(), StorageError> {
        let end = self.reader.end();
        self.reader.leave_page_cache();
        // One that was passed over, because it was too small for a record, has no link.
        let is_next = |(sequence, path): &(u64, PathBuf)| {
            *sequence > self.sequence && segments::link_of(*sequence, path).is_ok_and(|link| link.is_some())
        };
        let Some((sequence, path)) = segments::list(&self.dir)?.into_iter().find(is_next) else {
            return Err(self.damaged(format!("behind {} comes nothing that can be read", self.last)));
        };
        let mut reader = NativeReader::open(&path)?;
        self.next = reader.next_written()?;
        if reader.previous() != Some(end) {
            return Err(self.damaged(format!("behind {} segment {sequence:x} does not go on", self.last)));
        }
        (self.reader, self.path, self.sequence) = (reader, path, sequence);
        Ok(())
    }

    fn damaged(&self, what: String) -> StorageError {
        damaged(&self.path, self.reader.end().end, what)
    }
}

fn damaged(path: &Path, offset: u64, what: String) -> StorageError {
    StorageError::Damaged {
        path: path.to_owned(),
        offset,
        what,
        remedy: "look at the log with `ringkeeper-log verify`; learners get a snapshot instead".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::BytesMut;

    use super::*;
    use crate::proto::quorum::{Packet, PacketKind};
    use crate::storage::testing::{TempDir, directory_of};

    const EPOCH: i64 = 1 << 32;

    /// What a learner gets, by its zxids, and how many pieces that took.
    fn sent(dir: &TempDir, after: i64, through: i64) -> Result<(Vec<i64>, usize), String> {
        let mut catch_up = CatchUp::open(dir.path(), Zxid(after), Zxid(through)).map_err(|error| error.to_string())?;
        let (mut zxids, mut pieces, mut more) = (Vec::new(), 0, true);
        while more {
            let mut packets = Vec::new();
            more = catch_up.next_piece(&mut packets).map_err(|error| format!("{error} behind {zxids:?}"))?;
            assert!(packets.len() < PIECE_BYTES + 8192, "{} bytes", packets.len());
            let mut packets = BytesMut::from(&packets[..]);
            while let Some(proposal) = Packet::parse(&mut packets, 1 << 20).unwrap() {
                let commit = Packet::parse(&mut packets, 1 << 20).unwrap().expect("each is committed");
                assert_eq!((proposal.kind, commit.kind), (PacketKind::Proposal, PacketKind::Commit));
                assert_eq!(proposal.zxid, commit.zxid);
                let payload = proposal.data.expect("a transaction");
                let logged = crate::proto::txn::LoggedTxn::decode(&payload).unwrap();
                assert_eq!(logged.header.zxid, proposal.zxid);
                zxids.push(proposal.zxid.0);
            }
            pieces += 1;
        }
        Ok((zxids, pieces))
    }

    /// 300 transactions in some ten segments, and from each place in them to others.
    #[test]
    fn a_learner_gets_what_comes_behind_its_last_transaction_and_nothing_else() {
        let dir = directory_of("catch-up", 1..=300, &[]);
        assert!(segments::list(dir.path()).unwrap().len() > 5);
        for after in 0..300 {
            for through in [after + 1, 300] {
                let (zxids, _) = sent(&dir, after, through).unwrap();
                assert!(zxids.iter().copied().eq(after + 1..=through), "behind {after}: {zxids:?}");
            }
        }
        let error = sent(&dir, 100, 301).unwrap_err();
        assert!(error.contains("behind 0x12c comes nothing that can be read"), "{error}");
    }

    #[test]
    fn what_is_not_in_the_log_is_not_sent_anything_behind() {
        let all: Vec<i64> = (1..=100).chain(EPOCH + 1..=EPOCH + 100).chain(3 * EPOCH + 1..=3 * EPOCH + 100).collect();
        let dir = directory_of("catch-up-epochs", all.iter().copied(), &[]);
        let end = 3 * EPOCH + 100;
        for after in [1, 100, EPOCH + 1, EPOCH + 100, 3 * EPOCH + 1] {
            let (zxids, _) = sent(&dir, after, end).unwrap();
            assert!(zxids.iter().eq(all.iter().filter(|zxid| **zxid > after)), "behind {after:x}: {zxids:x?}");
        }
        for after in [101, EPOCH, EPOCH + 101, 2 * EPOCH + 1, 3 * EPOCH] {
            let error = sent(&dir, after, end).unwrap_err();
            assert!(error.contains("is not in the log, but"), "behind {after:x}: {error}");
        }
        let error = sent(&dir, EPOCH + 5, 2 * EPOCH + 7).unwrap_err();
        assert!(error.contains("0x200000007 is not in the log"), "{error}");
        assert!(sent(&dir, end + 1, end + 2).is_err());
    }

    /// Nothing behind damage is sent, whatever was hurt, and all before it may be.
    #[test]
    fn damage_on_the_way_is_noticed_before_anything_behind_it_is_sent() {
        let dir = directory_of("catch-up-damage", 1..=300, &[]);
        let (_, path) = segments::list(dir.path()).unwrap().swap_remove(3);
        let whole = fs::read(&path).unwrap();
        let mut broken = 0;
        for at in (0..whole.len()).step_by(61).filter(|at| whole[*at] != 0) {
            let mut hurt = whole.clone();
            hurt[at] ^= 4;
            fs::write(&path, &hurt).unwrap();
            match sent(&dir, 1, 300) {
                Ok((zxids, _)) => assert!(zxids.into_iter().eq(2..=300), "byte {at}"),
                Err(error) => {
                    broken += 1;
                    assert!(error.contains("ringlog."), "{error}");
                }
            }
        }
        assert!(broken > 20, "{broken} times");
        fs::remove_file(&path).unwrap();
        assert!(sent(&dir, 1, 300).unwrap_err().contains("does not go on"));
        for (sequence, path) in segments::list(dir.path()).unwrap() {
            if sequence < 3 {
                fs::remove_file(path).unwrap();
            }
        }
        assert!(sent(&dir, 1, 300).unwrap_err().contains("no segment has what comes behind 0x1"));
    }
}
