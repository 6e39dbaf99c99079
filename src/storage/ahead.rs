//! Files that are asked for before they are read, so that the device has several requests at a time.
//!
//! The kernel reads ahead by itself, but often no more than 128 KiB, for which a start from a cold disk would wait again and
//! again. What is in the page cache already costs nothing here, which is why these reads do not go past it.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;

use rustix::fs::{Advice, fadvise};

/// What is asked for ahead of the reader.
const AHEAD_BYTES: u64 = 32 << 20;
/// The kernel cuts a single request to what it would read ahead by itself, whatever is asked for.
const REQUEST_BYTES: u64 = 128 << 10;

/// Asks for a part of a file, and does not wait for it. Whatever is wrong shows when it is read.
pub fn ask(file: &File, from: u64, to: u64) {
    for at in (from..to).step_by(REQUEST_BYTES as usize) {
        let _ = fadvise(file, at, NonZero::new((to - at).min(REQUEST_BYTES)), Advice::WillNeed);
    }
}

/// A file that is read from its beginning on.
pub struct Reader {
    file: File,
    len: u64,
    at: u64,
    asked: u64,
}

impl Reader {
    /// `file` must be at its beginning.
    pub fn new(file: File) -> io::Result<Reader> {
        let len = file.metadata()?.len();
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Reader { file, len, at: 0, asked: 0 })
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let to = (self.at + AHEAD_BYTES).min(self.len);
        // At least half of it at a time, but for the end.
        if to - self.asked.min(to) >= AHEAD_BYTES / 2 || (to == self.len && self.asked < to) {
            ask(&self.file, self.asked, to);
            self.asked = to;
        }
        let len = self.file.read(into)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TempDir;

    #[test]
    fn a_file_is_read_whole_and_asked_for_once() {
        let dir = TempDir::new("ahead");
        let path = dir.path().join("file");
        for len in [0, 1, AHEAD_BYTES / 2, 2 * AHEAD_BYTES + 5] {
            let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let mut reader = Reader::new(File::open(&path).unwrap()).unwrap();
            let (mut found, mut asked) = (Vec::new(), 0);
            let mut piece = vec![0; 1 << 20];
            loop {
                let before = (reader.at, reader.asked);
                let read = reader.read(&mut piece).unwrap();
                assert!(reader.asked >= before.1 && reader.asked <= (before.0 + AHEAD_BYTES).min(len));
                asked += u64::from(reader.asked > before.1);
                if read == 0 {
                    break;
                }
                found.extend_from_slice(&piece[..read]);
            }
            assert!(found == bytes, "other bytes, of {len}");
            assert_eq!(reader.asked, len);
            assert!(asked <= 2 + len / (AHEAD_BYTES / 2), "{asked} times for {len} bytes");
        }
    }
}
