//! A native segment, record by record, and what is whole behind a break.

use std::path::Path;

use super::window::{WINDOW_BYTES, Window};
use super::{Break, Entry, Item, RECORD_BYTES_MAX};
use crate::storage::error::StorageError;
use crate::storage::format::{
    self, BLOCK_BYTES, FIRST_RECORD, Kind, Link, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, SegmentHeader,
};
use crate::types::Zxid;

/// Reads one segment; see `format::walk` for the rules.
pub struct NativeReader {
    window: Window,
    header: SegmentHeader,
    /// The link to the segment before, once it was read.
    previous: Option<Link>,
    /// The end of the last record that was read.
    end: Link,
    /// Where the search for a record goes on, behind a break.
    search: Option<u64>,
    /// A record that the search has found, to be returned next.
    found: Option<(u64, RecordHeader)>,
}

impl NativeReader {
    /// Opens a segment. Errors with `Damaged` if its header is.
    pub fn open(path: &Path) -> Result<NativeReader, StorageError> {
        let mut window = Window::open(path)?;
        let header = SegmentHeader::read(window.at(0, BLOCK_BYTES)?).map_err(|what| StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: what.to_owned(),
            remedy: "Without its header nothing in a segment can be checked: put back a copy of the file".to_owned(),
        })?;
        let end = Link { end: FIRST_RECORD, crc: 0, zxid: Zxid::ZERO };
        Ok(NativeReader { window, header, previous: None, end, search: None, found: None })
    }

    /// The segment's header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The link to the segment before. `None` before the first record was read, and in a segment that was never used.
    pub fn previous(&self) -> Option<Link> {
        self.previous
    }

    /// The end of the last record that was read.
    pub fn end(&self) -> Link {
        self.end
    }

    /// See [`Window`].
    pub fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    /// See [`Window::leave_page_cache`].
    pub fn leave_page_cache(&self) {
        self.window.leave_page_cache();
    }

    /// The next record, or what is in its place.
    pub fn read(&mut self) -> Result<Item, StorageError> {
        if let Some((position, header)) = self.found.take() {
            return self.take(position, header).map(Item::Txn);
        }
        if let Some(from) = self.search {
            return Ok(match self.search(from)? {
                Some((position, header)) => {
                    self.search = None;
                    Item::Txn(self.take(position, header)?)
                }
                None => Item::End,
            });
        }
        match self.next_in_chain()? {
            Some(entry) => Ok(Item::Txn(entry)),
            None => self.broken(),
        }
    }

    /// The next record of a segment that is being written; `None` if it is not there yet, and then it may be asked again.
    /// A record that is not whole is one that is being written.
    pub fn next_written(&mut self) -> Result<Option<Entry>, StorageError> {
        if let Some(entry) = self.next_in_chain()? {
            return Ok(Some(entry));
        }
        self.window.refresh()?;
        self.next_in_chain()
    }

    fn next_in_chain(&mut self) -> Result<Option<Entry>, StorageError> {
        while let Some((position, header)) = self.following()? {
            if self.previous.is_some() {
                return self.take(position, header).map(Some);
            }
            let payload = self.window.copy(position + RECORD_HEADER_BYTES as u64, header.payload_bytes().into())?;
            let Some(link) = Link::read(&payload) else { break };
            self.previous = Some(link);
            self.end = self.link_of(position, &header);
        }
        Ok(None)
    }

    /// Where the record behind the last one should be, there is none: this is the end, unless there are others.
    fn broken(&mut self) -> Result<Item, StorageError> {
        let position = self.end.end;
        self.search = Some(self.window.bytes());
        let torn = self.torn()?;
        match self.search(position)? {
            Some(found) => {
                self.found = Some(found);
                self.search = None;
                let what = "no record stands here that follows the one before".to_owned();
                Ok(Item::Break(Break { position, what, is_torn: false, is_checksum: false }))
            }
            None => Ok(match torn {
                Some((position, zxid)) => Item::Break(Break {
                    position,
                    what: format!("the record of {zxid} begins here and is not whole"),
                    is_torn: true,
                    is_checksum: false,
                }),
                None => Item::End,
            }),
        }
    }

    /// The record behind the last one.
    fn following(&mut self) -> Result<Option<(u64, RecordHeader)>, StorageError> {
        for position in format::places_behind(self.end) {
            let Some(header) = self.header_at(position)? else { continue };
            let is_next = match self.previous {
                None => header.is(Kind::Link),
                Some(_) => header.is(Kind::Txn) && header.zxid() > self.end.zxid,
            };
            if is_next && header.previous_crc() == self.end.crc && self.is_whole(position, &header)? {
                return Ok(Some((position, header)));
            }
        }
        Ok(None)
    }

    /// The beginning of the record behind the last one, if it is there.
    fn torn(&mut self) -> Result<Option<(u64, Zxid)>, StorageError> {
        for position in format::places_behind(self.end) {
            if let Some(header) = self.header_at(position)?
                && header.is(Kind::Txn)
                && header.previous_crc() == self.end.crc
                && header.zxid() > self.end.zxid
            {
                return Ok(Some((position, header.zxid())));
            }
        }
        Ok(None)
    }

    /// The first whole transaction at `from` or behind it, whatever it follows.
    fn search(&mut self, from: u64) -> Result<Option<(u64, RecordHeader)>, StorageError> {
        let mut position = from.next_multiple_of(RECORD_ALIGN as u64);
        while position < self.window.bytes() {
            // A hole holds no record: look on where the next data is, but for the end of a record's header in it.
            let data = self.window.next_data(position);
            if data > position + WINDOW_BYTES as u64 {
                position = data / BLOCK_BYTES as u64 * BLOCK_BYTES as u64 - BLOCK_BYTES as u64;
            }
            let candidates = self.candidates(position)?;
            for candidate in candidates {
                if let Some(header) = self.header_at(candidate)?
                    && self.is_whole(candidate, &header)?
                {
                    return Ok(Some((candidate, header)));
                }
            }
            position += WINDOW_BYTES as u64 / 2;
        }
        Ok(None)
    }

    /// Where in the next half window a header may stand.
    fn candidates(&mut self, position: u64) -> Result<Vec<u64>, StorageError> {
        let bytes = self.window.at(position, WINDOW_BYTES / 2 + RECORD_HEADER_BYTES)?;
        let possible = |at: &usize| {
            RecordHeader::read(&bytes[*at..], position + *at as u64).is_some_and(|header| header.is(Kind::Txn))
        };
        let places = (0..bytes.len().min(WINDOW_BYTES / 2)).step_by(RECORD_ALIGN);
        Ok(places.filter(possible).map(|at| position + at as u64).collect())
    }

    fn header_at(&mut self, position: u64) -> Result<Option<RecordHeader>, StorageError> {
        Ok(RecordHeader::read(self.window.at(position, RECORD_HEADER_BYTES)?, position))
    }

    fn is_whole(&mut self, position: u64, header: &RecordHeader) -> Result<bool, StorageError> {
        let len = u64::from(header.payload_bytes());
        let start = position + RECORD_HEADER_BYTES as u64;
        if len > RECORD_BYTES_MAX || start + len > self.window.bytes() {
            return Ok(false);
        }
        let mut crc = header.checksum_before_payload(self.header.salt(), position);
        let is_there = self.window.each(start, len, |bytes| crc = crc32c::crc32c_append(crc, bytes))?;
        Ok(is_there && crc == header.crc())
    }

    /// The record, which is whole.
    fn take(&mut self, position: u64, header: RecordHeader) -> Result<Entry, StorageError> {
        let payload = self.window.copy(position + RECORD_HEADER_BYTES as u64, header.payload_bytes().into())?;
        self.end = self.link_of(position, &header);
        // Behind a break the first link may have been lost.
        self.previous.get_or_insert_default();
        let durable = Some(header.durable());
        Ok(Entry { position, end: self.end.end, zxid: header.zxid(), payload, durable })
    }

    fn link_of(&self, position: u64, header: &RecordHeader) -> Link {
        let end = position + format::record_bytes(header.payload_bytes() as usize) as u64;
        Link { end, crc: header.crc(), zxid: header.zxid() }
    }
}
