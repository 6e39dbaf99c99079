//! Segment files: where they are, how they are made ready, how they are read at start-up.
//!
//! Everything here blocks: it runs before the shards start, or on a helper thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::StorageError;
use super::format::{self, BLOCK_BYTES, End, Link, SegmentHeader};
use super::log::{Filled, Spare};
use super::mmap::MappedFile;
use crate::proto::txn::LoggedTxn;
use crate::tree::DataTree;
use crate::types::Zxid;

const PREFIX: &str = "ringlog.";
const ZEROS_BYTES: usize = 1 << 20;

/// What [`recover`] found.
#[derive(Debug)]
pub struct Recovered {
    /// The segments with transactions, in order.
    pub filled: Vec<Filled>,
    /// Segments that were ready and never used, in order; they come right behind the last filled one.
    pub spares: Vec<Spare>,
    /// Where the log ends.
    pub end: Link,
    /// Transactions that were applied.
    pub applied: u64,
    /// What was cut off the end: the file, the byte, and the transaction that was being written.
    pub torn: Option<(PathBuf, u64, Zxid)>,
}

/// The file of a segment: `ringlog.` and its number as 16 hex digits. Apache ignores such names.
pub fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{sequence:016x}"))
}

/// The segments in a directory and their numbers, sorted.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let io = |source| StorageError::Io { operation: "list", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.filter(|digits| digits.len() == 16)
            && let Ok(sequence) = u64::from_str_radix(number, 16)
        {
            found.push((sequence, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes a segment ready: all of it written, with zeros or what an old segment held, its header durable, its name durable.
///
/// `recycled` is an old segment's file to be used again; its blocks are on the device already, which is what makes
/// flushes cheap, and nothing in it can be mistaken for a record of the new segment.
pub fn prepare(
    dir: &Path,
    sequence: u64,
    bytes: u64,
    salt: u64,
    recycled: Option<&Path>,
) -> Result<Spare, StorageError> {
    let ready = path(dir, sequence);
    let unready = ready.with_extension(format!("{sequence:016x}.tmp"));
    let at = |operation: &'static str| {
        let path = ready.clone();
        move |source: io::Error| StorageError::Io { operation, path, source }
    };
    if let Some(old) = recycled {
        fs::rename(old, &unready).map_err(at("recycle"))?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&unready).map_err(at("create"))?;
    let header = SegmentHeader::new(sequence, salt).to_block();
    let filled = match recycled {
        Some(_) => Ok(()),
        None => write_zeros(&file, bytes),
    };
    let made = filled.and_then(|()| file.write_all_at(&header, 0)).and_then(|()| file.sync_all());
    if let Err(source) = made {
        drop(fs::remove_file(&unready));
        return Err(at("prepare")(source));
    }
    // What was written must not stay in the page cache: the flushes go past it.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    drop(file);
    fs::rename(&unready, &ready).map_err(at("rename"))?;
    sync_dir(dir)?;
    Ok(Spare { sequence, salt, bytes })
}

/// Removes segments that are needed no more.
pub fn remove(dir: &Path, sequences: &[u64]) -> Result<(), StorageError> {
    for sequence in sequences {
        let path = path(dir, *sequence);
        fs::remove_file(&path).map_err(|source| StorageError::Io { operation: "remove", path, source })?;
    }
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.map_err(|source| StorageError::Io { operation: "fsync", path: dir.to_owned(), source })
}

fn write_zeros(mut file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(ZEROS_BYTES as u64);
        file.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    Ok(())
}

/// Applies to `data_tree` all transactions in the log that are newer than it.
///
/// Refuses a log with damage below a durable position, with a segment missing, or that begins after the tree ends.
pub fn recover(dir: &Path, data_tree: &mut DataTree) -> Result<Recovered, StorageError> {
    let start = data_tree.tree().zxid();
    let mut recovered = Recovered {
        filled: Vec::new(),
        spares: Vec::new(),
        end: Link { zxid: start, ..Link::default() },
        applied: 0,
        torn: None,
    };
    let mut before: Option<(u64, PathBuf, Link)> = None;
    for (sequence, path) in list(dir)? {
        let map = MappedFile::open(&path).map_err(|source| StorageError::Io {
            operation: "map",
            path: path.clone(),
            source,
        })?;
        let header = SegmentHeader::read(&map).map_err(|what| damaged(&path, 0, what.to_owned()))?;
        if header.sequence() != sequence {
            return Err(damaged(&path, 0, format!("its header is that of segment {}", header.sequence())));
        }
        let walk = format::walk(&map, &header, |record| {
            let last = data_tree.tree().zxid();
            if record.zxid <= last {
                return Ok(());
            }
            if !record.zxid.follows(last) {
                let what = format!("{} comes after {last}: what lies between is in no file", record.zxid);
                return Err(damaged(&path, record.position, what));
            }
            let payload = Bytes::copy_from_slice(record.payload);
            let logged = LoggedTxn::decode(&payload)
                .map_err(|error| damaged(&path, record.position, format!("{} cannot be read: {error}", record.zxid)))?;
            data_tree.apply(&logged.header, &logged.txn);
            let digest = data_tree.tree().digest();
            if let Some(expected) = logged.digest.filter(|expected| *expected != digest) {
                let what = format!("{} leads to digest {digest:x}, but {expected:x} was logged", record.zxid);
                return Err(damaged(&path, record.position, what));
            }
            recovered.applied += 1;
            Ok(())
        })?;
        let end = match walk.end {
            End::Clean(end) => end,
            End::Damaged { link, witness, witness_zxid } => {
                let what = format!(
                    "the record after {} is damaged, and it had been durable: {witness_zxid} at byte {witness} says so",
                    link.zxid
                );
                return Err(damaged(&path, link.end, what));
            }
        };
        let bytes = map.len() as u64;
        let Some(previous) = walk.previous else {
            recovered.spares.push(Spare { sequence, salt: header.salt(), bytes });
            continue;
        };
        match &before {
            // What the snapshot holds may be missing: segments with nothing else are used again, in no order.
            Some((number, path, link)) if *link != previous && previous.zxid > start => {
                let what = format!(
                    "segment {number:x} ends at byte {} with {}, but segment {sequence:x} goes on from byte {} with {}",
                    link.end, link.zxid, previous.end, previous.zxid
                );
                return Err(damaged(path, link.end, what));
            }
            None if previous.zxid > start => {
                let what = format!("the log begins after {}, but the snapshot ends at {start}", previous.zxid);
                return Err(damaged(&path, 0, what));
            }
            _ => {}
        }
        // Segments that were ready and passed over, because they were too small for a record: nothing was in them, or
        // the links would not fit together.
        let passed_over = recovered.spares.drain(..).map(|spare| Filled {
            sequence: spare.sequence,
            before: previous.zxid,
            last: previous.zxid,
            bytes: spare.bytes,
        });
        recovered.filled.extend(passed_over);
        recovered.filled.push(Filled { sequence, before: previous.zxid, last: end.zxid, bytes });
        recovered.end = end;
        recovered.torn = walk.torn.map(|zxid| (path.clone(), end.end, zxid));
        before = Some((sequence, path, end));
    }
    Ok(recovered)
}

fn damaged(path: &Path, offset: u64, what: String) -> StorageError {
    StorageError::Damaged {
        path: path.to_owned(),
        offset,
        what,
        remedy:
            "restore the data directory from a copy, or move this file and all later ringlog files away to go back \
                 to the state before the damage, which loses every later transaction"
                .to_owned(),
    }
}

/// Size of a segment's file for a configured size: whole blocks, and room for something.
pub fn file_bytes(configured: u64) -> u64 {
    configured.max(16 * BLOCK_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64)
}
