//! The byte layout of the native log: segment header, record header, and the walk over a segment.
//!
//! A segment is a file of fixed size, written with zeros before its first use. Its first block holds the header,
//! records follow from the second block on, each at a multiple of 8. A record is believed only if its checksum
//! matches, and the checksum covers the segment's salt and the record's own position: so what a recycled segment
//! held before, a block that landed in the wrong place and a flipped bit are all told from a record. Each record
//! also names the checksum of the one before it, and the position up to which the log was known to be durable when it was
//! written. The latter tells damage from a torn tail: bytes below it had been acknowledged. Behind a record the rest of its
//! block may be left free; the next one then begins a block.
//!
//! `docs/format.md` has the layout in full. All numbers are little-endian.

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::planted::{self, Bug};
use crate::types::Zxid;

/// What is written at once, at the least: the unit of positions in a flush.
pub const BLOCK_BYTES: usize = 4096;
/// Where the first record of a segment stands.
pub const FIRST_RECORD: u64 = BLOCK_BYTES as u64;
/// Records start at multiples of this.
pub const RECORD_ALIGN: usize = 8;

/// What a segment begins with.
pub const MAGIC: [u8; 8] = *b"RINGKLOG";
const VERSION: u32 = 1;

/// The start of a segment: 32 bytes, then zeros to the end of the block. Written and flushed before the segment is
/// used and not changed after, so a header that is wrong is damage, never a torn write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    magic: [u8; 8],
    version: U32,
    /// CRC-32C of the header with this field 0.
    crc: U32,
    /// 1 for the first segment of a log, then one more each; also in the file's name.
    sequence: U64,
    /// Drawn anew for each use of a file.
    salt: U64,
}

/// The end of a run of records, and so where the next one takes up. The first record of a segment holds the link to
/// the segment before; all zeros if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Link {
    /// Where the last record ends in its segment; 0 if there is none.
    pub end: u64,
    /// Its checksum.
    pub crc: u32,
    /// The last transaction.
    pub zxid: Zxid,
}

impl SegmentHeader {
    /// A header for the segment `sequence`.
    pub fn new(sequence: u64, salt: u64) -> SegmentHeader {
        let mut header = SegmentHeader {
            magic: MAGIC,
            version: VERSION.into(),
            crc: 0.into(),
            sequence: sequence.into(),
            salt: salt.into(),
        };
        header.crc = crc32c::crc32c(header.as_bytes()).into();
        header
    }

    /// The first block.
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..size_of::<SegmentHeader>()].copy_from_slice(self.as_bytes());
        block
    }

    /// Reads the header of a segment; the error says what is wrong with it.
    pub fn read(segment: &[u8]) -> Result<SegmentHeader, &'static str> {
        let (header, _) = SegmentHeader::read_from_prefix(segment).map_err(|_| "it is shorter than a header")?;
        if header.magic != MAGIC {
            return Err("it does not begin with RINGKLOG");
        }
        let unsummed = SegmentHeader { crc: 0.into(), ..header };
        if crc32c::crc32c(unsummed.as_bytes()) != header.crc.get() {
            return Err("the checksum of its header is wrong");
        }
        if header.version.get() != VERSION {
            return Err("it has a format version that this release does not know");
        }
        Ok(header)
    }

    /// See the field.
    pub fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    /// See the field.
    pub fn salt(&self) -> u64 {
        self.salt.get()
    }
}

/// What stands before each payload: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// CRC-32C over salt, position, the rest of this header and the payload.
    crc: U32,
    /// Checksum of the record before in this segment, 0 for the first.
    previous_crc: U32,
    payload_bytes: U32,
    kind: U32,
    zxid: I64,
    /// All of this segment below this position was durable when the record was made.
    durable: U64,
}

/// What a record's payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A transaction as Apache writes it.
    Txn = 1,
    /// The [`Link`] to the segment before: `end`, `crc` and `zxid` as 8 bytes each. Stands first in each segment.
    Link = 2,
}

/// How far behind the end of the good records one is looked for that says that they do not end there. What is not durable is
/// two batches at the most (`group_commit::BATCH_BYTES_MAX` and a record each), so a later record stands within this.
const WITNESS_BYTES: u64 = 16 << 20;

/// As much of a segment that has no link as can matter: it was never used, or its first record is damaged and one that says so
/// stands within `WITNESS_BYTES`, and is no longer than that either.
pub const UNLINKED_BYTES: u64 = FIRST_RECORD + 2 * WITNESS_BYTES;

/// How much of a segment [`link_of`] looks at: the header's block, and the link behind it.
pub const HEAD_BYTES: usize = FIRST_RECORD as usize + RECORD_HEADER_BYTES + LINK_BYTES;

/// Length of a record's header.
pub const RECORD_HEADER_BYTES: usize = size_of::<RecordHeader>();

/// Bytes that a record with that payload takes up.
pub fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGN)
}

/// Bytes that a segment with one record of that payload needs.
pub fn segment_bytes_for(payload_bytes: usize) -> u64 {
    (BLOCK_BYTES + record_bytes(LINK_BYTES) + record_bytes(payload_bytes)).next_multiple_of(BLOCK_BYTES) as u64
}

/// Where a record is to stand, and what it must say of its surroundings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The segment's.
    pub salt: u64,
    /// In the segment.
    pub position: u64,
    /// The checksum of the record before.
    pub previous_crc: u32,
    /// Everything below this position of the segment is durable.
    pub durable: u64,
}

/// Appends a record that is to stand at `place`. Returns its checksum.
pub fn encode_record(out: &mut Vec<u8>, place: Place, kind: Kind, zxid: Zxid, payload: &[u8]) -> u32 {
    let mut header = RecordHeader {
        crc: 0.into(),
        previous_crc: place.previous_crc.into(),
        payload_bytes: (payload.len() as u32).into(),
        kind: (kind as u32).into(),
        zxid: zxid.0.into(),
        durable: place.durable.into(),
    };
    let crc = header.checksum(place.salt, place.position, payload);
    header.crc = crc.into();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(payload);
    let padding = record_bytes(payload.len()) - RECORD_HEADER_BYTES - payload.len();
    out.extend_from_slice(&[0; RECORD_ALIGN][..padding]);
    crc
}

const LINK_BYTES: usize = 24;

/// Appends the record that begins a segment.
pub fn encode_link(out: &mut Vec<u8>, salt: u64, previous: Link) -> u32 {
    let mut payload = [0; LINK_BYTES];
    payload[..8].copy_from_slice(&previous.end.to_le_bytes());
    payload[8..16].copy_from_slice(&u64::from(previous.crc).to_le_bytes());
    payload[16..].copy_from_slice(&previous.zxid.0.to_le_bytes());
    let place = Place { salt, position: FIRST_RECORD, previous_crc: 0, durable: FIRST_RECORD };
    encode_record(out, place, Kind::Link, previous.zxid, &payload)
}

impl Link {
    /// Reads the payload of a link; `None` if it is too short for one.
    pub fn read(payload: &[u8]) -> Option<Link> {
        let number = |at: usize| Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?));
        Some(Link { end: number(0)?, crc: number(8)? as u32, zxid: Zxid(number(16)? as i64) })
    }
}

impl RecordHeader {
    /// What may be the header of a record at `position`, by its kind and its claim of what was durable. Zeros, the usual
    /// case, are no kind.
    pub fn read(bytes: &[u8], position: u64) -> Option<RecordHeader> {
        let (header, _) = RecordHeader::read_from_prefix(bytes).ok()?;
        let is_known = header.kind.get() == Kind::Txn as u32 || header.kind.get() == Kind::Link as u32;
        (is_known && header.durable.get() <= position).then_some(header)
    }

    /// See the field.
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// See the field.
    pub fn previous_crc(&self) -> u32 {
        self.previous_crc.get()
    }

    /// Length of the payload.
    pub fn payload_bytes(&self) -> u32 {
        self.payload_bytes.get()
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: Kind) -> bool {
        self.kind.get() == kind as u32
    }

    /// See the field.
    pub fn zxid(&self) -> Zxid {
        Zxid(self.zxid.get())
    }

    /// See the field.
    pub fn durable(&self) -> u64 {
        self.durable.get()
    }

    /// CRC-32C of what stands before the payload, to be continued with the payload: then it is [`RecordHeader::crc`].
    pub fn checksum_before_payload(&self, salt: u64, position: u64) -> u32 {
        let crc = crc32c::crc32c(&salt.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &position.to_le_bytes());
        crc32c::crc32c_append(crc, &self.as_bytes()[4..])
    }

    fn checksum(&self, salt: u64, position: u64, payload: &[u8]) -> u32 {
        crc32c::crc32c_append(self.checksum_before_payload(salt, position), payload)
    }
}

/// A transaction's record that was found good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Where it starts in its segment.
    pub position: u64,
    /// Its transaction.
    pub zxid: Zxid,
    /// The transaction's bytes.
    pub payload: &'a [u8],
}

/// What [`walk`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The link to the segment before; `None` in a segment that holds no record, because it was never used.
    pub previous: Option<Link>,
    /// How it ends.
    pub end: End,
    /// The transaction of a record that stands at the end in part: a flush was under way when the server stopped.
    pub torn: Option<Zxid>,
}

/// How a segment ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// There is no record at this position, and none that was made when the position was durable already: here the
    /// log ends, or was cut by a crash in the middle of a flush.
    Clean(Link),
    /// Durable bytes are damaged: records that come later say so.
    Damaged {
        /// How far the records are good.
        link: Link,
        /// A later record that was made when the damaged place was durable.
        witness: u64,
        /// Its transaction.
        witness_zxid: Zxid,
    },
}

/// Walks over a segment's records. `segment` is the whole file; its header must be good.
///
/// Calls `visit` with each transaction in order; `visit` may stop the walk by an error.
pub fn walk<'a, E>(
    segment: &'a [u8],
    header: &SegmentHeader,
    mut visit: impl FnMut(Record<'a>) -> Result<(), E>,
) -> Result<Walk, E> {
    let salt = header.salt();
    let mut previous = None;
    let mut link = Link { end: FIRST_RECORD, crc: 0, zxid: Zxid::ZERO };
    while let Some((position, record, payload)) = next_record(segment, salt, link) {
        let zxid = Zxid(record.zxid.get());
        if previous.is_none() {
            let Some(read) = Link::read(payload).filter(|_| record.kind.get() == Kind::Link as u32) else { break };
            previous = Some(read);
        } else if record.kind.get() == Kind::Txn as u32 && zxid > link.zxid {
            visit(Record { position, zxid, payload })?;
        } else {
            break;
        }
        link = Link { end: position + record_bytes(payload.len()) as u64, crc: record.crc.get(), zxid };
    }
    // Only a record of this use of the file can be a witness: the salt is in its checksum.
    let positions = (link.end..link.end.saturating_add(WITNESS_BYTES).min(segment.len() as u64)).step_by(RECORD_ALIGN);
    for witness in positions {
        if let Some((record, _)) = record_at(segment, salt, witness)
            && record.durable.get() > link.end
        {
            let end = End::Damaged { link, witness, witness_zxid: Zxid(record.zxid.get()) };
            return Ok(Walk { previous, end, torn: None });
        }
    }
    Ok(Walk { previous, end: End::Clean(link), torn: torn_record(segment, link) })
}

/// What the first record of a segment says of the log before it. `None` if the segment was never used, or if its header or
/// that record is damaged. `head` is the first [`HEAD_BYTES`] of segment `sequence`, or more.
pub fn link_of(head: &[u8], sequence: u64) -> Option<Link> {
    let header = SegmentHeader::read(head).ok().filter(|header| header.sequence() == sequence)?;
    let (record, payload) = record_at(head, header.salt(), FIRST_RECORD)?;
    Link::read(payload).filter(|_| record.kind.get() == Kind::Link as u32)
}

/// Whether the start of the next record is there. What an earlier use of the file left does not name the checksum that
/// the next record must.
fn torn_record(segment: &[u8], link: Link) -> Option<Zxid> {
    places_behind(link).into_iter().find_map(|position| {
        let (header, _) = RecordHeader::read_from_prefix(segment.get(position as usize..)?).ok()?;
        let follows = header.kind.get() == Kind::Txn as u32 && header.previous_crc.get() == link.crc;
        (follows && header.zxid.get() > link.zxid.0).then_some(Zxid(header.zxid.get()))
    })
}

/// Where the record behind `link` may stand: where that ends, or where the next block begins. A writer that has more than one
/// flush under way leaves the rest of a block free between them.
pub fn places_behind(link: Link) -> [u64; 2] {
    [link.end, link.end.next_multiple_of(BLOCK_BYTES as u64)]
}

/// The record behind `link`, and where it stands.
fn next_record(segment: &[u8], salt: u64, link: Link) -> Option<(u64, RecordHeader, &[u8])> {
    places_behind(link).into_iter().find_map(|position| {
        let (record, payload) = record_at(segment, salt, position)?;
        (record.previous_crc.get() == link.crc).then_some((position, record, payload))
    })
}

/// The record at that position, if one is there and whole.
fn record_at(segment: &[u8], salt: u64, position: u64) -> Option<(RecordHeader, &[u8])> {
    let bytes = segment.get(position as usize..)?;
    let header = RecordHeader::read(bytes, position)?;
    let payload = bytes[RECORD_HEADER_BYTES..].get(..header.payload_bytes.get() as usize)?;
    let is_whole = header.checksum(salt, position, payload) == header.crc.get() || planted::is(Bug::ChecksumIgnored);
    is_whole.then_some((header, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;
    const BEFORE: Link = Link { end: 9000, crc: 77, zxid: Zxid(10) };

    /// A segment with records of those payload lengths, each flushed by itself, and where each starts and the last ends.
    fn segment(lengths: &[usize]) -> (SegmentHeader, Vec<u8>, Vec<u64>) {
        let header = SegmentHeader::new(3, SALT);
        let mut bytes = header.to_block().to_vec();
        let mut previous_crc = encode_link(&mut bytes, SALT, BEFORE);
        let mut starts = Vec::new();
        for (i, len) in lengths.iter().enumerate() {
            let position = bytes.len() as u64;
            starts.push(position);
            let payload = vec![i as u8 + 1; *len];
            let place = Place { salt: SALT, position, previous_crc, durable: position };
            previous_crc = encode_record(&mut bytes, place, Kind::Txn, Zxid(11 + i as i64), &payload);
        }
        starts.push(bytes.len() as u64);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES) + 2 * BLOCK_BYTES, 0);
        (header, bytes, starts)
    }

    /// The layout is pinned: a segment that this release writes is, byte for byte, the one in the golden file. To change the
    /// layout, change the version too, and write the file anew with RINGKEEPER_REWRITE_GOLDEN=1.
    #[test]
    fn the_layout_is_that_of_the_golden_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/native/ringlog.0000000000000003");
        let (header, bytes, _) = segment(&[5, 0, 4000, 33]);
        if std::env::var_os("RINGKEEPER_REWRITE_GOLDEN").is_some() {
            std::fs::write(path, &bytes).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        assert_eq!(SegmentHeader::read(&golden), Ok(header));
        assert_eq!(zxids(&golden, &header).0, [11, 12, 13, 14]);
        assert!(golden == bytes, "the bytes differ");
    }

    fn zxids(bytes: &[u8], header: &SegmentHeader) -> (Vec<i64>, End) {
        let mut seen = Vec::new();
        let walk = walk(bytes, header, |record| {
            seen.push(record.zxid.0);
            Ok::<(), ()>(())
        })
        .unwrap();
        assert!(seen.is_empty() || walk.previous == Some(BEFORE));
        (seen, walk.end)
    }

    #[test]
    fn what_is_written_is_read() {
        let (header, bytes, starts) = segment(&[5, 0, 4000, 33]);
        assert_eq!(SegmentHeader::read(&bytes), Ok(header));
        let (seen, end) = zxids(&bytes, &header);
        assert_eq!(seen, [11, 12, 13, 14]);
        assert!(matches!(end, End::Clean(link) if link.end == starts[4] && link.zxid == Zxid(14)));
    }

    #[test]
    fn a_tail_cut_anywhere_ends_cleanly_before_it() {
        let (header, bytes, starts) = segment(&[50, 20, 30]);
        for cut in starts[0]..=starts[3] {
            let mut torn = bytes.clone();
            torn[cut as usize..].fill(0);
            let (seen, end) = zxids(&torn, &header);
            // A record's padding is zeros, so losing it loses nothing.
            let whole = starts[1..].iter().filter(|end| **end <= cut + 6).count();
            assert!(seen.len() >= starts[1..].iter().filter(|end| **end <= cut).count() && seen.len() <= whole);
            assert!(matches!(end, End::Clean(_)), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_in_durable_records_is_damage_and_in_the_last_a_torn_tail() {
        let (header, bytes, starts) = segment(&[50, 20, 30]);
        for bit in starts[0] * 8..starts[3] * 8 {
            let mut flipped = bytes.clone();
            flipped[(bit / 8) as usize] ^= 1 << (bit % 8);
            let (seen, end) = zxids(&flipped, &header);
            if seen.len() == 3 {
                continue; // Padding.
            }
            let at = starts[seen.len()];
            assert!(bit / 8 >= at && bit / 8 < starts[seen.len() + 1], "bit {bit} ended the walk at {at}");
            if seen.len() == 2 {
                assert!(matches!(end, End::Clean(link) if link.end == at));
            } else {
                assert!(matches!(end, End::Damaged { link, .. } if link.end == at), "bit {bit}: {end:?}");
            }
        }
    }

    #[test]
    fn records_of_an_earlier_use_or_another_place_are_not_believed() {
        let (header, bytes, starts) = segment(&[50, 20, 30]);
        let reused = SegmentHeader::new(4, SALT + 1);
        assert_eq!(zxids(&bytes, &reused).0, [0i64; 0]);
        let mut misplaced = bytes.clone();
        let (from, to) = (starts[0] as usize, starts[1] as usize);
        misplaced.copy_within(to.., from);
        assert_eq!(zxids(&misplaced, &header).0, [0i64; 0]);
    }

    #[test]
    fn headers_are_checked() {
        let (header, bytes, _) = segment(&[]);
        assert!(SegmentHeader::read(&[0; BLOCK_BYTES]).is_err());
        assert!(SegmentHeader::read(&bytes[..10]).is_err());
        for byte in 0..size_of::<SegmentHeader>() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 4;
            assert!(SegmentHeader::read(&damaged).is_err(), "byte {byte}");
        }
        assert_eq!(header.sequence(), 3);
    }
}
