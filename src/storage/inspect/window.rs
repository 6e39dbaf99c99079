//! A file seen through a window of constant size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::SeekFrom;

use crate::storage::error::StorageError;

/// What is read at a time.
pub const WINDOW_BYTES: usize = 256 << 10;

/// Random access to a file of any size; one window of it is in memory.
pub struct Window {
    path: PathBuf,
    file: File,
    bytes: u64,
    start: u64,
    buffer: Vec<u8>,
    /// See [`Window::data_end`]; known once it was asked for.
    data_end: Option<u64>,
}

impl Window {
    /// Opens a file. Errors with `Io`, and with `Unsupported` for what is no file.
    pub fn open(path: &Path) -> Result<Window, StorageError> {
        let file = File::open(path).map_err(StorageError::io("open", path))?;
        let metadata = file.metadata().map_err(StorageError::io("look at", path))?;
        if !metadata.is_file() {
            return Err(StorageError::Unsupported {
                path: path.to_owned(),
                what: if metadata.is_dir() { "it is a directory" } else { "it is not a regular file" }.to_owned(),
                remedy: "Name a file".to_owned(),
            });
        }
        Ok(Window { path: path.to_owned(), file, bytes: metadata.len(), start: 0, buffer: Vec::new(), data_end: None })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened or last refreshed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks at the size again and forgets what was read: for a file that is being written.
    pub fn refresh(&mut self) -> Result<(), StorageError> {
        let metadata = self.file.metadata().map_err(StorageError::io("look at", &self.path))?;
        self.bytes = metadata.len();
        self.buffer.clear();
        self.data_end = None;
        Ok(())
    }

    /// `len` bytes from `position`; fewer where the file ends. `len` is at most `WINDOW_BYTES`.
    pub fn at(&mut self, position: u64, len: usize) -> Result<&[u8], StorageError> {
        assert!(len <= WINDOW_BYTES, "a window is as large as it is");
        let end = position.saturating_add(len as u64).min(self.bytes);
        if position >= end {
            return Ok(&[]);
        }
        if position < self.start || end > self.start + self.buffer.len() as u64 {
            self.fill(position)?;
        }
        let from = (position - self.start) as usize;
        let until = ((end - self.start) as usize).min(self.buffer.len());
        // Nothing, if the file has become shorter.
        Ok(self.buffer.get(from..until).unwrap_or_default())
    }

    /// One byte, without moving the window; `None` where the file ends.
    pub fn byte(&self, position: u64) -> Result<Option<u8>, StorageError> {
        let in_window = position.checked_sub(self.start).and_then(|at| self.buffer.get(at as usize));
        if let Some(byte) = in_window {
            return Ok(Some(*byte));
        }
        let mut byte = [0];
        let read = self.file.read_at(&mut byte, position).map_err(StorageError::io("read", &self.path))?;
        Ok((read == 1).then_some(byte[0]))
    }

    /// Hands all of `len` bytes from `position` to `take`, a window at a time. False if the file ends before.
    pub fn each(&mut self, position: u64, len: u64, mut take: impl FnMut(&[u8])) -> Result<bool, StorageError> {
        let mut done = 0;
        while done < len {
            let now = (len - done).min(WINDOW_BYTES as u64) as usize;
            let bytes = self.at(position + done, now)?;
            take(bytes);
            if bytes.len() < now {
                return Ok(false);
            }
            done += now as u64;
        }
        Ok(true)
    }

    /// A copy of `len` bytes from `position`, which must have been looked at with [`Window::each`]: memory is taken for
    /// all of them.
    pub fn copy(&mut self, position: u64, len: u64) -> Result<Bytes, StorageError> {
        let mut copy = Vec::with_capacity(len as usize);
        self.each(position, len, |bytes| copy.extend_from_slice(bytes))?;
        Ok(copy.into())
    }

    /// The first position from `position` on that is not in a hole of the file, as far as the file system tells.
    pub fn next_data(&self, position: u64) -> u64 {
        match rustix::fs::seek(&self.file, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => self.bytes,
            Err(_) => position,
        }
    }

    /// Where the zeros at the end of the file begin.
    pub fn data_end(&mut self) -> Result<u64, StorageError> {
        if let Some(end) = self.data_end {
            return Ok(end);
        }
        let end = self.find_data_end()?;
        self.data_end = Some(end);
        Ok(end)
    }

    /// Has the kernel forget what it keeps of the file: for one that is written past the page cache. A hint, no more.
    pub fn leave_page_cache(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn find_data_end(&mut self) -> Result<u64, StorageError> {
        let mut end = self.bytes;
        while end > 0 {
            let start = (end - 1) / WINDOW_BYTES as u64 * WINDOW_BYTES as u64;
            if self.next_data(start) < end {
                let bytes = self.at(start, (end - start) as usize)?;
                if let Some(last) = last_nonzero(bytes) {
                    return Ok(start + last as u64 + 1);
                }
            }
            end = start;
        }
        Ok(0)
    }

    fn fill(&mut self, position: u64) -> Result<(), StorageError> {
        self.buffer.resize(WINDOW_BYTES, 0);
        self.start = position;
        let mut filled = 0;
        while filled < WINDOW_BYTES {
            match self.file.read_at(&mut self.buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    self.buffer.clear();
                    return Err(StorageError::Io { operation: "read", path: self.path.clone(), source });
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }
}

fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let pages = bytes.rchunks(ZEROS.len()).take_while(|page| **page == ZEROS[..page.len()]).count();
    let left = bytes.len().saturating_sub(pages * ZEROS.len());
    bytes[..left].iter().rposition(|byte| *byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TempDir;
    use std::fs;

    #[test]
    fn what_is_seen_through_the_window_is_the_file() {
        let dir = TempDir::new("window");
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..3 * WINDOW_BYTES + 5).map(|i| (i / 7) as u8 | 1).collect();
        fs::write(&path, &bytes).unwrap();
        let mut window = Window::open(&path).unwrap();
        for position in [0, 5, WINDOW_BYTES - 1, 2 * WINDOW_BYTES, 3, 3 * WINDOW_BYTES, 3 * WINDOW_BYTES + 5] {
            for len in [0, 1, 4096, WINDOW_BYTES] {
                let expected = &bytes[position..(position + len).min(bytes.len())];
                assert_eq!(window.at(position as u64, len).unwrap(), expected);
            }
        }
        assert_eq!(window.at(u64::MAX, 4).unwrap(), [0u8; 0]);
        assert_eq!(window.copy(3, 2 * WINDOW_BYTES as u64).unwrap(), bytes[3..2 * WINDOW_BYTES + 3]);
        assert!(!window.each(0, 1 << 40, |_| {}).unwrap());
        assert!(Window::open(dir.path()).is_err());
    }

    #[test]
    fn the_end_of_the_data_is_found_across_holes() {
        let dir = TempDir::new("window-holes");
        let path = dir.path().join("file");
        for (data, size) in [(0, 0), (0, 10 << 30), (1, 1), (5, 10 << 30), (WINDOW_BYTES + 1, 3 * WINDOW_BYTES)] {
            fs::write(&path, vec![1; data]).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(size as u64).unwrap();
            assert_eq!(Window::open(&path).unwrap().data_end().unwrap(), data as u64);
        }
    }
}
