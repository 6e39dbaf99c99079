//! The only mapped memory: whole files, for reading.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file mapped for reading.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file, which must not be shortened while it is mapped.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        // SAFETY: a mapping is unsound if the file changes under it. The data directory is locked for this process;
        // segments are mapped at recovery, before the first write, or after they were filled, and are never shortened.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(MappedFile(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
