//! The only mapped memory: files, for reading.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Advice;
use rustix::io::Errno;

/// A file mapped for reading, or the beginning of one.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the file, or as much of its beginning as `most`. It must not be shortened while it is mapped. All that is mapped
    /// is read: a page that the device does not give back is an error here, where touching it would end the process (SIGBUS).
    pub fn open(path: &Path, most: u64) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        let len = file.metadata()?.len().min(most);
        // SAFETY: a mapping is unsound if the file changes under it. The data directory is locked for this process;
        // segments are mapped at recovery, before the first write, or after they were filled, and are never shortened.
        let map = unsafe { memmap2::MmapOptions::new().len(len as usize).map(&file)? };
        if !map.is_empty() {
            map.advise(Advice::PopulateRead).or_else(|error| match Errno::from_io_error(&error) {
                // Linux before 5.14 does not know it.
                Some(Errno::INVAL) => Ok(()),
                // Its word for what would have been the signal.
                Some(Errno::FAULT) => Err(Errno::IO.into()),
                _ => Err(error),
            })?;
        }
        Ok(MappedFile(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
