//! Which files are logs, of which kind, in which order; and one reader for both kinds.

use std::path::{Path, PathBuf};

use super::{ApacheReader, Entry, Item, NativeReader, Window};
use crate::storage::error::StorageError;
use crate::storage::format::{self, Link};
use crate::storage::{apache_log, segments};
use crate::types::Zxid;

/// What a file is, by its first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A segment of this server's log: begins with "RINGKLOG".
    NativeLog,
    /// A log of Apache: begins with "ZKLG".
    ApacheLog,
    /// A snapshot: begins with "ZKSN".
    Snapshot,
    /// What may be a snapshot compressed with gzip.
    Gzip,
    /// What may be a snapshot compressed with snappy.
    Snappy,
    /// Nothing in it, or zeros only: what a crash leaves of a file that was only just made.
    Empty,
    /// None of these; the first bytes, 8 at the most.
    Unknown(Vec<u8>),
}

impl FileKind {
    /// For people: what the file is.
    pub fn words(&self) -> String {
        match self {
            FileKind::NativeLog => "a segment of ringkeeper's log".to_owned(),
            FileKind::ApacheLog => "a transaction log of Apache ZooKeeper".to_owned(),
            FileKind::Snapshot => "a snapshot".to_owned(),
            FileKind::Gzip => "compressed with gzip, as a snapshot may be".to_owned(),
            FileKind::Snappy => "compressed with snappy, as a snapshot may be".to_owned(),
            FileKind::Empty => "empty, or holds nothing but zeros".to_owned(),
            FileKind::Unknown(bytes) => {
                format!("neither a log nor a snapshot: it begins with {:?}", bytes.escape_ascii().to_string())
            }
        }
    }
}

/// Looks at the first bytes of a file, and beyond them if they are zeros.
pub fn kind_of(path: &Path) -> Result<FileKind, StorageError> {
    let mut window = Window::open(path)?;
    let head = window.at(0, 8)?.to_vec();
    Ok(match &head[..] {
        head if head == format::MAGIC => FileKind::NativeLog,
        head if head.starts_with(apache_log::MAGIC) => FileKind::ApacheLog,
        head if head.starts_with(b"ZKSN") => FileKind::Snapshot,
        head if head.starts_with(b"\x1f\x8b") => FileKind::Gzip,
        b"\x82SNAPPY\0" => FileKind::Snappy,
        head if head.iter().all(|byte| *byte == 0) && window.data_end()? == 0 => FileKind::Empty,
        _ => FileKind::Unknown(head),
    })
}

/// A log file that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFile {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// The transaction after which it begins. Of a segment that was never used, or cannot be read: after which the one
    /// before it begins.
    pub after: Zxid,
    /// Of a segment: its number.
    pub sequence: Option<u64>,
}

/// The logs at `path`, oldest first: the file itself, or all of a directory, or of its `version-2`.
///
/// Errors with `Unsupported` for a file that is no log, and for a directory without any.
pub fn find_logs(path: &Path) -> Result<Vec<LogFile>, StorageError> {
    if !path.is_dir() {
        return Ok(vec![look_at(path)?]);
    }
    let below = path.join("version-2");
    let dir = if below.is_dir() { &below } else { path };
    let mut found = Vec::new();
    for file in apache_log::list(dir)? {
        let kind = kind_of(&file.path)?;
        found.push(LogFile { path: file.path, kind, after: Zxid(file.zxid.0.saturating_sub(1)), sequence: None });
    }
    let mut after = Zxid::ZERO;
    for (sequence, path) in segments::list(dir)? {
        let kind = kind_of(&path)?;
        // One that cannot be read is where its number puts it, and whoever reads it hears what is wrong with it.
        let file = match look_at(&path) {
            Ok(file) => file,
            Err(_) => LogFile { path, kind, after, sequence: Some(sequence) },
        };
        after = after.max(file.after);
        found.push(LogFile { after, ..file });
    }
    if found.is_empty() {
        return Err(StorageError::Unsupported {
            path: dir.to_owned(),
            what: "there is no transaction log in it: neither ringlog.* nor log.*".to_owned(),
            remedy: "Name a log file, a directory version-2, or the directory above it".to_owned(),
        });
    }
    found.sort_by_key(|file| (file.after, file.sequence));
    Ok(found)
}

fn look_at(path: &Path) -> Result<LogFile, StorageError> {
    let kind = kind_of(path)?;
    match kind {
        FileKind::NativeLog => {
            let mut reader = NativeReader::open(path)?;
            let sequence = Some(reader.header().sequence());
            // Whatever comes first, the link has been read then.
            reader.read()?;
            let after = reader.previous().unwrap_or_default().zxid;
            Ok(LogFile { path: path.to_owned(), kind, after, sequence })
        }
        FileKind::ApacheLog => {
            let mut reader = ApacheReader::open(path)?;
            let after = match reader.read()? {
                Item::Txn(entry) => Zxid(entry.zxid.0.saturating_sub(1)),
                _ => Zxid::ZERO,
            };
            Ok(LogFile { path: path.to_owned(), kind, after, sequence: None })
        }
        kind => Err(StorageError::Unsupported {
            path: path.to_owned(),
            what: format!("a transaction log is wanted, and this file is {}", kind.words()),
            remedy: match kind {
                FileKind::Snapshot | FileKind::Gzip | FileKind::Snappy => "Use ringkeeper-snapshot for it",
                _ => "Name a file log.* or ringlog.*",
            }
            .to_owned(),
        }),
    }
}

/// Reads a log file of either kind.
pub enum LogReader {
    /// A segment.
    Native(NativeReader),
    /// A file of Apache's.
    Apache(ApacheReader),
}

impl LogReader {
    /// Opens a file that [`find_logs`] has found. `None` for one that is empty.
    pub fn open(file: &LogFile) -> Result<Option<LogReader>, StorageError> {
        match file.kind {
            FileKind::NativeLog => NativeReader::open(&file.path).map(LogReader::Native).map(Some),
            FileKind::ApacheLog => ApacheReader::open(&file.path).map(LogReader::Apache).map(Some),
            FileKind::Empty => Ok(None),
            _ => Err(StorageError::Damaged {
                path: file.path.clone(),
                offset: 0,
                what: format!("by its name it is a log, and it is {}", file.kind.words()),
                remedy: "Put back a copy of the file".to_owned(),
            }),
        }
    }

    /// The next record, or what is in its place.
    pub fn read(&mut self) -> Result<Item, StorageError> {
        match self {
            LogReader::Native(reader) => reader.read(),
            LogReader::Apache(reader) => reader.read(),
        }
    }

    /// The next record of a log that is being written, or nothing yet.
    pub fn next_written(&mut self) -> Result<Option<Entry>, StorageError> {
        match self {
            LogReader::Native(reader) => reader.next_written(),
            LogReader::Apache(reader) => reader.next_written(),
        }
    }

    /// Where the last record that was read ends.
    pub fn end(&self) -> u64 {
        match self {
            LogReader::Native(reader) => reader.end().end,
            LogReader::Apache(reader) => reader.end(),
        }
    }

    /// Of a segment: where it goes on from.
    pub fn previous(&self) -> Option<Link> {
        match self {
            LogReader::Native(reader) => reader.previous(),
            LogReader::Apache(_) => None,
        }
    }

    /// Of a segment at a break: the end of the last good record.
    pub fn link_at_break(&self) -> Option<Link> {
        match self {
            // The search for what is behind it has not moved the end.
            LogReader::Native(reader) => Some(reader.end()),
            LogReader::Apache(_) => None,
        }
    }

    /// The file's size.
    pub fn bytes(&mut self) -> u64 {
        match self {
            LogReader::Native(reader) => reader.window().bytes(),
            LogReader::Apache(reader) => reader.window().bytes(),
        }
    }

    /// See [`ApacheReader::payload_at_break`]; `None` for a segment.
    pub fn payload_at_break(&mut self, position: u64) -> Result<Option<bytes::Bytes>, StorageError> {
        match self {
            LogReader::Native(_) => Ok(None),
            LogReader::Apache(reader) => reader.payload_at_break(position),
        }
    }
}
