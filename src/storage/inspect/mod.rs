//! Log files and snapshots as the offline tools see them: piece by piece, in constant memory, and beyond damage.
//!
//! Recovery stops at the first thing that is wrong, because nothing behind it may be believed. These readers say what
//! is wrong, look for what comes after it, and go on, so that a person can decide. They change no file, map none
//! (a file may grow, shrink or be used again while it is read), and take no memory on the word of a length that was
//! not checked: a record's bytes are summed where they are, and are taken into memory when the sum is right.

mod apache;
mod content;
mod log;
mod native;
mod snapshot;
mod survey;
#[cfg(test)]
mod tests;
mod window;

pub use apache::ApacheReader;
pub use content::{Content, ContentError};
pub use log::{FileKind, LogFile, LogReader, find_logs, kind_of};
pub use native::NativeReader;
pub use snapshot::{Piece, SnapshotReader, SnapshotZnode};
pub use survey::{Beyond, FileSurvey, Finding, Severity, Survey, SurveyEnd};
pub use window::{WINDOW_BYTES, Window};

use bytes::Bytes;

use crate::types::Zxid;

/// Longest record that is taken for one, and the largest `jute.maxbuffer` that makes sense by far.
pub const RECORD_BYTES_MAX: u64 = 256 << 20;

/// What a reader of a log comes to next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A whole record.
    Txn(Entry),
    /// Where a record should be, there is none, and not only free space either; or there is a record further on.
    Break(Break),
    /// Nothing further on.
    End,
}

/// A record that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where it begins in its file.
    pub position: u64,
    /// Where it ends, padding included.
    pub end: u64,
    /// Its transaction.
    pub zxid: Zxid,
    /// The transaction in Apache's bytes.
    pub payload: Bytes,
    /// Native logs: up to where the file was durable when the record was made.
    pub durable: Option<u64>,
}

/// Bytes that are not a whole record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Break {
    /// Where the record should begin.
    pub position: u64,
    /// What is there.
    pub what: String,
    /// It is the beginning of a record with nothing behind it, as a crash leaves it.
    pub is_torn: bool,
    /// Its checksum is wrong, and the rest of its frame is right: Apache's logs only.
    pub is_checksum: bool,
}
