//! The bytes of a snapshot, one after the other, whether its file is compressed or not.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::{FileKind, WINDOW_BYTES, kind_of};
use crate::storage::compression::Compression;
use crate::storage::error::StorageError;

/// A snapshot's content. Besides what is asked for, [`WINDOW_BYTES`] and what the compression needs are in memory.
pub struct Content {
    path: PathBuf,
    compression: Compression,
    from: Box<dyn Read>,
    /// Read, and not taken yet.
    ahead: Vec<u8>,
    /// Bytes of the content that were taken.
    position: u64,
    file_bytes: u64,
    file_position: Rc<Cell<u64>>,
}

/// Why bytes of a content cannot be had.
pub enum ContentError {
    /// It ends before, here.
    Ends(u64),
    /// The compressed bytes are not what was written.
    Compression(io::Error),
    /// The operating system refused.
    Io(StorageError),
}

impl Content {
    /// Opens a snapshot, plain or compressed, as its first bytes tell. Errors with `Unsupported` for what is none.
    pub fn open(path: &Path) -> Result<Content, StorageError> {
        let kind = kind_of(path)?;
        let compression = match kind {
            FileKind::Snapshot => Compression::None,
            FileKind::Gzip => Compression::Gzip,
            FileKind::Snappy => Compression::Snappy,
            _ => return Err(unsupported(path, &kind)),
        };
        let file = File::open(path).map_err(StorageError::io("open", path))?;
        let file_bytes = file.metadata().map_err(StorageError::io("look at", path))?.len();
        let file_position = Rc::new(Cell::new(0));
        let counted = Counted { file, position: Rc::clone(&file_position) };
        Ok(Content {
            path: path.to_owned(),
            compression,
            from: compression.reader(BufReader::with_capacity(WINDOW_BYTES, counted)),
            ahead: Vec::new(),
            position: 0,
            file_bytes,
            file_position,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// How much of the content was taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How much of the file was read.
    pub fn file_position(&self) -> u64 {
        self.file_position.get()
    }

    /// Size of the file when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The next `len` bytes. Memory is taken for what is there, not for what `len` says.
    pub fn take(&mut self, len: u64) -> Result<Bytes, ContentError> {
        self.look_ahead(len)?;
        if (self.ahead.len() as u64) < len {
            return Err(ContentError::Ends(self.position + self.ahead.len() as u64));
        }
        self.position += len;
        let rest = self.ahead.split_off(len as usize);
        Ok(std::mem::replace(&mut self.ahead, rest).into())
    }

    /// How many of the next `len` bytes there are.
    pub fn left_of(&mut self, len: u64) -> Result<u64, ContentError> {
        self.look_ahead(len)?;
        Ok((self.ahead.len() as u64).min(len))
    }

    fn look_ahead(&mut self, len: u64) -> Result<(), ContentError> {
        let missing = len.saturating_sub(self.ahead.len() as u64);
        if missing == 0 {
            return Ok(());
        }
        let read = (&mut self.from).take(missing).read_to_end(&mut self.ahead);
        read.map(drop).map_err(|error| match (self.compression, error.kind()) {
            (Compression::Gzip | Compression::Snappy, kind) if is_of_the_bytes(kind) => {
                ContentError::Compression(error)
            }
            _ => ContentError::Io(StorageError::io("read", &self.path)(error)),
        })
    }
}

/// What a decompressor says of bytes that are not what was written, rather than the operating system of a file.
fn is_of_the_bytes(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

fn unsupported(path: &Path, kind: &FileKind) -> StorageError {
    let remedy = match kind {
        FileKind::NativeLog | FileKind::ApacheLog => "Use ringkeeper-log for it",
        _ => "Name a file snapshot.*",
    };
    StorageError::Unsupported {
        path: path.to_owned(),
        what: format!("a snapshot is wanted, and this file is {}", kind.words()),
        remedy: remedy.to_owned(),
    }
}

struct Counted {
    file: File,
    position: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.position.set(self.position.get() + read as u64);
        Ok(read)
    }
}
