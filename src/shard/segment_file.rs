//! An open segment, and the engines that can make bytes in it durable: the narrow seam behind which they differ.
//!
//! All write whole blocks, into blocks that were written before, so that no flush changes the file's size or extents.
//! `docs/decisions/0003-flush-engine.md` has their figures, `benches/log.rs` measures them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use glommio::io::{BufferedFile, DmaBuffer, DmaFile, OpenOptions};

use super::blocking;
use crate::server::config::FlushEngine;

/// Blocks of a segment on their way to it.
pub enum Blocks {
    /// Memory that is aligned, and registered with the ring while there is some left of that.
    Direct(DmaBuffer),
    /// Any memory.
    Plain(Vec<u8>),
}

impl Blocks {
    /// Their bytes.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Blocks::Direct(buffer) => buffer.as_bytes_mut(),
            Blocks::Plain(buffer) => buffer,
        }
    }
}

/// A segment that is open for flushes, with the engine that does them.
pub enum SegmentFile {
    /// See [`FlushEngine::Direct`].
    Direct(DmaFile),
    /// See [`FlushEngine::Ring`].
    Ring(BufferedFile),
    /// See [`FlushEngine::Thread`].
    Thread(Arc<File>),
}

impl SegmentFile {
    /// Opens a segment that is ready for use. `force_sync` as for [`SegmentFile::write_durably`].
    pub async fn open(path: &Path, engine: FlushEngine, force_sync: bool) -> io::Result<SegmentFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match engine {
            FlushEngine::Direct => {
                if force_sync {
                    options.custom_flags(libc::O_DSYNC);
                }
                Ok(SegmentFile::Direct(options.dma_open(path).await?))
            }
            FlushEngine::Ring => Ok(SegmentFile::Ring(options.buffered_open(path).await?)),
            FlushEngine::Thread => {
                let path = path.to_owned();
                let open = move || File::options().read(true).write(true).open(path);
                let file = blocking(open).await?;
                Ok(SegmentFile::Thread(Arc::new(file)))
            }
        }
    }

    /// Memory for so many bytes, whole blocks. What is in it is not defined.
    pub fn blocks(&self, bytes: usize) -> Blocks {
        match self {
            SegmentFile::Direct(file) => Blocks::Direct(file.alloc_dma_buffer(bytes)),
            SegmentFile::Ring(_) | SegmentFile::Thread(_) => Blocks::Plain(vec![0; bytes]),
        }
    }

    /// Writes blocks at a multiple of the size of one, and waits until they are durable; without `force_sync`, until the
    /// kernel or the device has them. Returns how many bytes were written.
    ///
    /// Panics if the blocks are another engine's.
    pub async fn write_durably(&self, blocks: Blocks, at: u64, force_sync: bool) -> io::Result<usize> {
        match (self, blocks) {
            (SegmentFile::Direct(file), Blocks::Direct(buffer)) => Ok(file.write_at(buffer, at).await?),
            (SegmentFile::Ring(file), Blocks::Plain(buffer)) => {
                let written = file.write_at(buffer, at).await?;
                if force_sync {
                    file.fdatasync().await?;
                }
                Ok(written)
            }
            (SegmentFile::Thread(file), Blocks::Plain(buffer)) => {
                let file = Arc::clone(file);
                let flush = move || {
                    file.write_all_at(&buffer, at)?;
                    if force_sync {
                        file.sync_data()?;
                    }
                    Ok(buffer.len())
                };
                blocking(flush).await
            }
            _ => unreachable!("blocks go to the file that gave the memory"),
        }
    }

    /// Closes the file through the ring, so that the shard does not wait for it.
    pub async fn close(self) {
        match self {
            SegmentFile::Direct(file) => drop(file.close().await),
            SegmentFile::Ring(file) => drop(file.close().await),
            SegmentFile::Thread(file) => drop(file),
        }
    }
}
