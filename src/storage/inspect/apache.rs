//! An Apache log file, record by record, and what is whole behind a break.

use std::path::Path;

use simd_adler32::Adler32;

use super::window::{WINDOW_BYTES, Window};
use super::{Break, Entry, Item, RECORD_BYTES_MAX};
use crate::proto::txn::LoggedTxn;
use crate::storage::apache_log::{BreakKind, FILE_HEADER_BYTES, PAYLOAD_BYTES_MIN, RECORD_END, RECORD_HEADER_BYTES};
use crate::storage::error::StorageError;
use crate::types::Zxid;

/// Reads one log file; see `apache_log` for the format.
pub struct ApacheReader {
    window: Window,
    dbid: i64,
    version: i32,
    /// The end of the last record that was read.
    at: u64,
    /// A break was reported at `at`, and a search for what is behind it comes next.
    is_broken: bool,
}

/// A record's frame.
struct Frame {
    start: u64,
    len: u64,
}

impl ApacheReader {
    /// Opens a log whose first bytes are "ZKLG". Errors with `Damaged` if it is shorter than its header.
    pub fn open(path: &Path) -> Result<ApacheReader, StorageError> {
        let mut window = Window::open(path)?;
        let head = window.at(0, FILE_HEADER_BYTES)?;
        let Some(header) = head.first_chunk::<FILE_HEADER_BYTES>() else {
            return Err(StorageError::Damaged {
                path: path.to_owned(),
                offset: head.len() as u64,
                what: "the file ends inside its header of 16 bytes".to_owned(),
                remedy: "There is no transaction in it".to_owned(),
            });
        };
        let version = i32::from_be_bytes(header[4..8].try_into().expect("4 bytes"));
        let dbid = i64::from_be_bytes(header[8..].try_into().expect("8 bytes"));
        Ok(ApacheReader { window, dbid, version, at: FILE_HEADER_BYTES as u64, is_broken: false })
    }

    /// The database id in the header, 0 always.
    pub fn dbid(&self) -> i64 {
        self.dbid
    }

    /// The version in the header, 2 always.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The end of the last record that was read.
    pub fn end(&self) -> u64 {
        self.at
    }

    /// See [`Window`].
    pub fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    /// The next record, or what is in its place.
    pub fn read(&mut self) -> Result<Item, StorageError> {
        let frame = if std::mem::take(&mut self.is_broken) {
            let Some(frame) = self.search(self.at + 1)? else {
                self.at = self.window.bytes();
                return Ok(Item::End);
            };
            frame
        } else {
            match self.frame_at(self.at)? {
                Ok(frame) => frame,
                Err(kind) => return self.broken(kind),
            }
        };
        self.take(frame).map(Item::Txn)
    }

    /// The next record of a file that is being written; `None` if it is not there yet, and then it may be asked again.
    /// A record that is not whole is one that is being written.
    pub fn next_written(&mut self) -> Result<Option<Entry>, StorageError> {
        if let Ok(frame) = self.frame_at(self.at)? {
            return self.take(frame).map(Some);
        }
        self.window.refresh()?;
        self.frame_at(self.at)?.ok().map(|frame| self.take(frame)).transpose()
    }

    fn take(&mut self, frame: Frame) -> Result<Entry, StorageError> {
        let payload = self.window.copy(frame.start, frame.len)?;
        self.at = frame.start + frame.len + 1;
        let position = frame.start - RECORD_HEADER_BYTES as u64;
        let zxid = payload[12..20].try_into().expect("a payload is longer than its header");
        Ok(Entry { position, end: self.at, zxid: Zxid(i64::from_be_bytes(zxid)), payload, durable: None })
    }

    /// The payload at a break, if its frame is right and only its checksum is not.
    pub fn payload_at_break(&mut self, position: u64) -> Result<Option<bytes::Bytes>, StorageError> {
        let Some(head) = self.window.at(position, RECORD_HEADER_BYTES)?.first_chunk::<RECORD_HEADER_BYTES>() else {
            return Ok(None);
        };
        let len = u64::from(u32::from_be_bytes(head[8..].try_into().expect("4 bytes")));
        let start = position + RECORD_HEADER_BYTES as u64;
        if !(PAYLOAD_BYTES_MIN as u64..=RECORD_BYTES_MAX).contains(&len) || start + len >= self.window.bytes() {
            return Ok(None);
        }
        self.window.copy(start, len).map(Some)
    }

    fn broken(&mut self, kind: BreakKind) -> Result<Item, StorageError> {
        let position = self.at;
        let data_end = self.window.data_end()?;
        if data_end <= position {
            return Ok(Item::End);
        }
        self.is_broken = true;
        let is_cut_header = data_end <= position + RECORD_HEADER_BYTES as u64;
        let kind = if is_cut_header { BreakKind::Torn } else { kind };
        let kind = if kind == BreakKind::Torn { self.torn_or_length(data_end)? } else { kind };
        Ok(Item::Break(Break {
            position,
            what: kind.words(),
            is_torn: kind == BreakKind::Torn,
            is_checksum: kind == BreakKind::Checksum,
        }))
    }

    /// Whether what goes on beyond the data is a record that was cut short, or one with another length than it says:
    /// then it is whole up to where the data ends.
    fn torn_or_length(&mut self, data_end: u64) -> Result<BreakKind, StorageError> {
        let start = self.at + RECORD_HEADER_BYTES as u64;
        let Some(head) = self.window.at(self.at, RECORD_HEADER_BYTES)?.first_chunk::<RECORD_HEADER_BYTES>() else {
            return Ok(BreakKind::Torn);
        };
        let checksum = i64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
        let length = i32::from_be_bytes(head[8..].try_into().expect("4 bytes"));
        let Some(len) = data_end.checked_sub(start + 1).filter(|len| *len <= RECORD_BYTES_MAX) else {
            return Ok(BreakKind::Torn);
        };
        let is_right = self.adler(start, len)? == Some(checksum);
        let is_ended = self.window.byte(data_end - 1)? == Some(RECORD_END);
        Ok(if is_right && is_ended { BreakKind::Length(length) } else { BreakKind::Torn })
    }

    fn frame_at(&mut self, position: u64) -> Result<Result<Frame, BreakKind>, StorageError> {
        let start = position + RECORD_HEADER_BYTES as u64;
        let Some(head) = self.window.at(position, RECORD_HEADER_BYTES)?.first_chunk::<RECORD_HEADER_BYTES>() else {
            return Ok(Err(BreakKind::Torn));
        };
        let checksum = i64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
        let length = i32::from_be_bytes(head[8..].try_into().expect("4 bytes"));
        let len = match u64::try_from(length) {
            Ok(len) if (PAYLOAD_BYTES_MIN as u64..=RECORD_BYTES_MAX).contains(&len) => len,
            _ => return Ok(Err(BreakKind::Length(length))),
        };
        Ok(match self.window.byte(start + len)? {
            Some(RECORD_END) if self.adler(start, len)? == Some(checksum) => Ok(Frame { start, len }),
            Some(RECORD_END) => Err(BreakKind::Checksum),
            // Written ahead of its end byte, or cut there.
            Some(0) | None => Err(self.end_missing(start + len)?),
            Some(_) => Err(BreakKind::EndByte),
        })
    }

    fn end_missing(&mut self, end: u64) -> Result<BreakKind, StorageError> {
        Ok(if self.window.data_end()? <= end { BreakKind::Torn } else { BreakKind::EndByte })
    }

    fn adler(&mut self, start: u64, len: u64) -> Result<Option<i64>, StorageError> {
        let mut sum = Adler32::new();
        let is_there = self.window.each(start, len, |bytes| sum.write(bytes))?;
        Ok(is_there.then(|| i64::from(sum.finish())))
    }

    /// The first whole transaction at `from` or behind it.
    fn search(&mut self, from: u64) -> Result<Option<Frame>, StorageError> {
        let mut position = from;
        while position < self.window.bytes() {
            let data = self.window.next_data(position);
            if data > position + WINDOW_BYTES as u64 {
                // The zeros at the beginning of a record may be in the hole.
                position = data - RECORD_HEADER_BYTES as u64;
            }
            for candidate in self.candidates(position)? {
                let Ok(frame) = self.frame_at(candidate)? else { continue };
                if LoggedTxn::decode(&self.window.copy(frame.start, frame.len)?).is_ok() {
                    return Ok(Some(frame));
                }
            }
            position += WINDOW_BYTES as u64 / 2;
        }
        Ok(None)
    }

    /// Where in the next half window a record may begin: the upper half of a checksum is 0, and the length makes sense.
    fn candidates(&mut self, position: u64) -> Result<Vec<u64>, StorageError> {
        let file_bytes = self.window.bytes();
        let bytes = self.window.at(position, WINDOW_BYTES / 2 + RECORD_HEADER_BYTES - 1)?;
        let mut found = Vec::new();
        for (at, head) in bytes.windows(RECORD_HEADER_BYTES).enumerate() {
            let length = u32::from_be_bytes(head[8..].try_into().expect("4 bytes"));
            let end = position + (at + RECORD_HEADER_BYTES) as u64 + u64::from(length);
            if head[..4] == [0; 4] && length as usize >= PAYLOAD_BYTES_MIN && end < file_bytes {
                found.push(position + at as u64);
            }
        }
        Ok(found)
    }
}
