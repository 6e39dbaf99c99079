//! Files that are read and written past the page cache, where the file system can do it (`O_DIRECT`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::format::BLOCK_BYTES;

/// Opens a file past the page cache. An error may mean no more than that the file system cannot do it.
pub fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    options.clone().custom_flags(OFlags::DIRECT.bits() as i32).open(path)
}

/// Zeros that begin with a block, as the kernel wants the memory to be that goes past its own.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// So many bytes, of whole blocks.
    pub fn new(len: usize) -> Aligned {
        let memory = vec![0; len.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Aligned { memory, start, len: len.next_multiple_of(BLOCK_BYTES) }
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// What is on the disk, from a file's beginning on.
pub struct Reader {
    file: File,
    memory: Aligned,
    /// Of what was read last, what was not taken yet.
    rest: std::ops::Range<usize>,
}

impl Reader {
    /// Reads about `piece_bytes` at a time.
    pub fn open(path: &Path, piece_bytes: usize) -> io::Result<Reader> {
        let file = open(path, OpenOptions::new().read(true))?;
        Ok(Reader { file, memory: Aligned::new(piece_bytes), rest: 0..0 })
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            // Only the last piece is not of whole blocks, so each begins with one.
            self.rest = 0..self.file.read(self.memory.bytes_mut())?;
        }
        let len = self.rest.len().min(into.len());
        into[..len].copy_from_slice(&self.memory.bytes()[self.rest.start..][..len]);
        self.rest.start += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TempDir;

    #[test]
    fn a_file_of_any_length_is_read_whole() {
        let dir = TempDir::new("direct");
        for len in [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5] {
            let path = dir.path().join("file");
            let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let mut found = Vec::new();
            match Reader::open(&path, 2 * BLOCK_BYTES) {
                Ok(mut reader) => reader.read_to_end(&mut found).unwrap(),
                // The file system of the tests' directory cannot do it.
                Err(error) => return assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
            };
            assert_eq!(found, bytes);
        }
    }
}
