//! Carries out flushes: the bytes of a batch become durable, and only then does the future end.
//!
//! What blocks to write, and where, is decided here; how they become durable is the engine's part
//! ([`SegmentFile`]). The shard goes on meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::segment_file::SegmentFile;
use crate::server::config::FlushEngine;
use crate::storage::format::BLOCK_BYTES;
use crate::storage::group_commit::Batch;
use crate::storage::segments;

/// The open segments of one log.
pub struct Disk {
    dir: PathBuf,
    engine: FlushEngine,
    force_sync: bool,
    files: RefCell<BTreeMap<u64, Rc<SegmentFile>>>,
    /// The block in which the last flush ended, as far as it was filled: the next begins by writing it again.
    tail: RefCell<Tail>,
}

#[derive(Default)]
struct Tail {
    segment: u64,
    bytes: Vec<u8>,
}

impl Disk {
    /// No segments open yet. Without `force_sync` a flush ends when the kernel or the device has taken the bytes into its
    /// cache, and a loss of power may lose what was acknowledged.
    pub fn new(dir: &Path, engine: FlushEngine, force_sync: bool) -> Disk {
        Disk { dir: dir.to_owned(), engine, force_sync, files: RefCell::default(), tail: RefCell::default() }
    }

    /// Opens a segment that is ready for use.
    pub async fn open(&self, sequence: u64) -> io::Result<()> {
        let path = segments::path(&self.dir, sequence);
        let file = SegmentFile::open(&path, self.engine, self.force_sync).await?;
        self.files.borrow_mut().insert(sequence, Rc::new(file));
        Ok(())
    }

    /// Closes segments before `sequence`: they are full and flushed.
    pub async fn close_before(&self, sequence: u64) {
        let old: Vec<Rc<SegmentFile>> = {
            let mut files = self.files.borrow_mut();
            let rest = files.split_off(&sequence);
            std::mem::replace(&mut *files, rest).into_values().collect()
        };
        for file in old.into_iter().filter_map(Rc::into_inner) {
            file.close().await;
        }
    }

    /// Writes the batch and waits until it is durable. Returns the bytes that were written.
    ///
    /// An error leaves unknown what is on the disk: the log must not be written to again.
    pub async fn flush(&self, batch: &Batch) -> io::Result<usize> {
        let file = self.files.borrow().get(&batch.segment).cloned();
        let file = file.ok_or_else(|| io::Error::other(format!("segment {:x} is not open", batch.segment)))?;
        let head = batch.position as usize % BLOCK_BYTES;
        let end = head + batch.bytes.len();
        let size = end.next_multiple_of(BLOCK_BYTES);
        let mut blocks = file.blocks(size);
        {
            let bytes = blocks.as_bytes_mut();
            let mut tail = self.tail.borrow_mut();
            if head > 0 {
                // A segment's first batch has only the header's block before it, and begins behind that.
                assert_eq!((tail.segment, tail.bytes.len()), (batch.segment, head), "flushes go on where they ended");
                bytes[..head].copy_from_slice(&tail.bytes);
            }
            bytes[head..end].copy_from_slice(&batch.bytes);
            bytes[end..size].fill(0);
            tail.segment = batch.segment;
            tail.bytes.clear();
            tail.bytes.extend_from_slice(&bytes[end - end % BLOCK_BYTES..end]);
        }
        let written = file.write_durably(blocks, batch.position - head as u64, self.force_sync).await?;
        if written != size {
            return Err(io::Error::new(io::ErrorKind::WriteZero, format!("{written} of {size} bytes were written")));
        }
        Ok(size)
    }
}
