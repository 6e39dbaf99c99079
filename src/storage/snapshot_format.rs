//! Apache's snapshot: the bytes of one whole state, as they stand in a file `snapshot.<zxid>` and, without what
//! seals them, in the stream that a learner gets after a SNAP packet.
//!
//! ```text
//! file    "ZKSN"  int 2  long -1                                      only in a file
//! body    int count  { long session  int timeout_ms }
//!         int count  { long acl_id  vector<ACL> }                     ids from 1; -1, the open list, is not here
//!         { ustring path  buffer data  long acl_id  StatPersisted }   depth first, the root first, its path empty
//!         ustring "/"                                                 where the next path would be
//! stream  ustring "BenWasHere"                                        only in a stream
//! file    long adler32  ustring "/"                                   a seal: Adler-32 of all bytes before it
//!         long zxid  int 2  long tree_digest            and a seal    since 3.6, unless digests are off
//!         long zxid                                     and a seal    since 3.9
//! ```
//!
//! Neither side does any I/O: the encoder is asked for chunk after chunk, the decoder is fed chunk after chunk.
//! Source: `FileSnap.java`, `SnapStream.java`, `DataTree.serialize`, `SerializeUtils.java`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use simd_adler32::Adler32;

use crate::jute::{self, Write};
use crate::proto::client::{Acl, AclList, Id};
use crate::tree::{DataTree, Loader, Meta, Owner, Tree, Walk, Znode};
use crate::types::{SessionId, WallMs, Zxid};

/// Where [`Encoder::next_chunk`] ends a chunk. The tables of sessions and ACLs, or one large znode, may take a
/// chunk beyond it.
pub const CHUNK_BYTES: usize = 256 << 10;

const FILE_MAGIC: i32 = i32::from_be_bytes(*b"ZKSN");
const FILE_VERSION: i32 = 2;
const FILE_DBID: i64 = -1;
const DIGEST_VERSION: i32 = 2;
const OPEN_ACL_ID: i64 = -1;
const END: &str = "/";
const STREAM_SIGNATURE: &str = "BenWasHere";
const STAT_BYTES: usize = 60;
const SEAL_BYTES: usize = 8 + 4 + END.len();

/// Where the bytes stand; see the top of this file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A file `snapshot.<zxid>`.
    File,
    /// What follows a SNAP packet.
    Stream,
}

/// One state to be written: a version of the tree, and what is not in it.
#[derive(Clone, Debug)]
pub struct SnapshotSource {
    /// All znodes. The snapshot is named for the last transaction in it.
    pub tree: Tree,
    /// Sessions and their timeouts in ms.
    pub sessions: Vec<(SessionId, i32)>,
    /// All ACLs of the tree but for the open one. There may be more.
    pub acls: Vec<AclList>,
    /// Whether the tree's digest is recorded (`zookeeper.digest.enabled`).
    pub digest_enabled: bool,
}

impl SnapshotSource {
    /// The newest state of `data_tree`. Takes as long as there are sessions and ACLs.
    pub fn of(data_tree: &DataTree, digest_enabled: bool) -> SnapshotSource {
        SnapshotSource {
            tree: data_tree.tree().clone(),
            sessions: data_tree.sessions().iter().map(|(session, timeout_ms)| (*session, *timeout_ms)).collect(),
            acls: data_tree.acls().iter().cloned().collect(),
            digest_enabled,
        }
    }
}

/// Writes a state, chunk by chunk.
pub struct Encoder<'a> {
    form: Form,
    source: &'a SnapshotSource,
    stage: EncoderStage,
    walk: Walk<'a>,
    acl_ids: BTreeMap<&'a AclList, i64>,
    /// Of all chunks before this one, and of this one's first `summed` bytes.
    checksum: Adler32,
    summed: usize,
}

#[derive(Clone, Copy)]
enum EncoderStage {
    Tables,
    Znodes,
    Done,
}

impl<'a> Encoder<'a> {
    /// An encoder at the first byte.
    pub fn new(source: &'a SnapshotSource, form: Form) -> Encoder<'a> {
        Encoder {
            form,
            source,
            stage: EncoderStage::Tables,
            walk: source.tree.walk(),
            acl_ids: source.acls.iter().zip(1..).collect(),
            checksum: Adler32::new(),
            summed: 0,
        }
    }

    /// Puts the next chunk in place of what is in `out`. After the last one it returns false and `out` is empty.
    ///
    /// Panics if a znode's ACL is not in the source's table.
    pub fn next_chunk(&mut self, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.summed = 0;
        while out.len() < CHUNK_BYTES {
            match self.stage {
                EncoderStage::Tables => {
                    self.put_tables(out);
                    self.stage = EncoderStage::Znodes;
                }
                EncoderStage::Znodes => match self.walk.next() {
                    Some((path, znode)) => put_znode(out, path, znode, &self.acl_ids),
                    None => {
                        self.put_end(out);
                        self.stage = EncoderStage::Done;
                    }
                },
                EncoderStage::Done => break,
            }
        }
        self.sum(out);
        !out.is_empty()
    }

    /// Adler-32 of all chunks so far.
    pub fn checksum(&self) -> u32 {
        self.checksum.finish()
    }

    fn put_tables(&self, out: &mut Vec<u8>) {
        if self.form == Form::File {
            out.put_int(FILE_MAGIC);
            out.put_int(FILE_VERSION);
            out.put_long(FILE_DBID);
        }
        out.put_vector(&self.source.sessions, |out, (session, timeout_ms)| {
            out.put_long(session.0);
            out.put_int(*timeout_ms);
        });
        out.put_int(self.source.acls.len() as i32);
        for (list, id) in self.source.acls.iter().zip(1..) {
            out.put_long(id);
            list.encode(out);
        }
    }

    fn put_end(&mut self, out: &mut Vec<u8>) {
        out.put_string(END);
        if self.form == Form::Stream {
            out.put_string(STREAM_SIGNATURE);
            return;
        }
        self.put_seal(out);
        // Readers tell the sections apart by their order alone: one that expects a digest would take the zxid for
        // it. So where digests are off the zxid is left out too; the file's name says it anyway.
        if self.source.digest_enabled {
            out.put_long(self.source.tree.zxid().0);
            out.put_int(DIGEST_VERSION);
            out.put_long(self.source.tree.digest() as i64);
            self.put_seal(out);
            out.put_long(self.source.tree.zxid().0);
            self.put_seal(out);
        }
    }

    fn put_seal(&mut self, out: &mut Vec<u8>) {
        self.sum(out);
        out.put_long(self.checksum.finish().into());
        out.put_string(END);
    }

    fn sum(&mut self, out: &[u8]) {
        self.checksum.write(&out[self.summed..]);
        self.summed = out.len();
    }
}

fn put_znode(out: &mut Vec<u8>, path: &[u8], znode: &Znode, acl_ids: &BTreeMap<&AclList, i64>) {
    let acl_id = match znode.acl().is_open() {
        true => OPEN_ACL_ID,
        false => *acl_ids.get(znode.acl()).expect("the source's table holds every ACL of its tree"),
    };
    let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = znode.meta();
    let mut stat = [0; STAT_BYTES];
    stat[0..8].copy_from_slice(&czxid.0.to_be_bytes());
    stat[8..16].copy_from_slice(&mzxid.0.to_be_bytes());
    stat[16..24].copy_from_slice(&ctime.0.to_be_bytes());
    stat[24..32].copy_from_slice(&mtime.0.to_be_bytes());
    stat[32..36].copy_from_slice(&version.to_be_bytes());
    stat[36..40].copy_from_slice(&cversion.to_be_bytes());
    stat[40..44].copy_from_slice(&aversion.to_be_bytes());
    stat[44..52].copy_from_slice(&owner.0.to_be_bytes());
    stat[52..60].copy_from_slice(&pzxid.0.to_be_bytes());
    out.put_buffer(Some(path));
    out.put_buffer(znode.data());
    out.put_long(acl_id);
    out.put_raw(&stat);
}

/// Bytes that are not a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormatError {
    /// Bytes from the start of the snapshot to the record that is wrong.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.what)
    }
}

impl std::error::Error for FormatError {}

/// A state that was read.
pub struct Decoded {
    /// With the zxid that the decoder was given, whatever the bytes say.
    pub data_tree: DataTree,
    /// The last transaction that the znodes may show effects of, where that is recorded and not before the
    /// snapshot's own zxid. Apache writes a snapshot while transactions go on, so the state is that of no moment
    /// until the log was replayed up to here.
    pub last_recorded: Option<Zxid>,
    /// Znodes whose ACL is not in the table. Apache writes the table first, so a znode created meanwhile may miss
    /// its ACL, and its replay brings it. Until then nobody but a super user has any permission on it.
    pub unknown_acls: usize,
}

/// Reads a state, chunk by chunk.
///
/// Feed it, put what it did not consume in front of the next bytes, and finish it with what is left at the end.
/// Its memory is bounded by what it was fed.
pub struct Decoder {
    form: Form,
    zxid: Zxid,
    stage: DecoderStage,
    loader: Loader,
    parser: ZnodeParser,
    unknown_acls: usize,
    /// Of all bytes consumed.
    checksum: Adler32,
    /// Bytes consumed.
    offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DecoderStage {
    FileHeader,
    SessionCount,
    Sessions {
        left: i32,
    },
    AclCount,
    Acls {
        left: i32,
    },
    Znodes,
    StreamSignature,
    StreamEnded,
    /// The seals and what is between them. Which sections there are shows only from where the file ends.
    Seals,
}

impl DecoderStage {
    fn name(self) -> &'static str {
        match self {
            DecoderStage::FileHeader => "the file header",
            DecoderStage::SessionCount | DecoderStage::Sessions { .. } => "the sessions",
            DecoderStage::AclCount | DecoderStage::Acls { .. } => "the ACL table",
            DecoderStage::Znodes => "the znodes",
            DecoderStage::StreamSignature | DecoderStage::StreamEnded => "the signature",
            DecoderStage::Seals => "the seals",
        }
    }
}

impl Decoder {
    /// A decoder of the state as of `zxid`, which the file's name or the SNAP packet says.
    pub fn new(form: Form, zxid: Zxid) -> Decoder {
        Decoder {
            form,
            zxid,
            stage: match form {
                Form::File => DecoderStage::FileHeader,
                Form::Stream => DecoderStage::SessionCount,
            },
            loader: Loader::default(),
            parser: ZnodeParser::default(),
            unknown_acls: 0,
            checksum: Adler32::new(),
            offset: 0,
        }
    }

    /// Whether a stream has come to its end. What was not consumed then is not the snapshot's.
    pub fn stream_ended(&self) -> bool {
        self.stage == DecoderStage::StreamEnded
    }

    /// Reads the records that stand whole at the start of `bytes`, and returns how many bytes they take. The seals
    /// of a file are left for [`Decoder::finish`].
    ///
    /// After an error the decoder is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, FormatError> {
        let mut consumed = self.feed_tables(bytes)?;
        if self.is_at_znodes() {
            let taken = self.take_znodes(&bytes[consumed..])?;
            let records = &bytes[consumed..][..taken.records];
            let znodes = self.parser.parse(records, taken.offset)?;
            self.link(records, znodes)?;
            consumed += taken.consumed;
        }
        Ok(consumed + self.feed_tables(&bytes[consumed..])?)
    }

    /// [`Decoder::feed`] for what is not a znode: what stands before them, and the end of a stream.
    pub fn feed_tables(&mut self, bytes: &[u8]) -> Result<usize, FormatError> {
        let mut fields = Fields::new(bytes);
        let mut consumed = 0;
        while !matches!(self.stage, DecoderStage::Znodes | DecoderStage::Seals | DecoderStage::StreamEnded) {
            match self.step(&mut fields) {
                Ok(()) => consumed = fields.at,
                Err(Stop::Short) => break,
                Err(Stop::Bad(what)) => return Err(FormatError { offset: self.offset + consumed as u64, what }),
            }
        }
        self.consume(&bytes[..consumed]);
        Ok(consumed)
    }

    /// Whether the next record is a znode's. Then they can be read by several at a time: [`Decoder::take_znodes`] says
    /// which bytes are whole records, [`ZnodeParser::parse`] makes znodes of them, anywhere, and [`Decoder::link`] puts
    /// them into the tree in their order.
    pub fn is_at_znodes(&self) -> bool {
        self.stage == DecoderStage::Znodes
    }

    /// What makes znodes of records. Complete once [`Decoder::is_at_znodes`].
    pub fn parser(&self) -> &ZnodeParser {
        &self.parser
    }

    /// Consumes the znodes' records that stand whole at the start of `bytes`, and the end of all of them if it follows.
    pub fn take_znodes(&mut self, bytes: &[u8]) -> Result<Taken, FormatError> {
        let mut taken = Taken { offset: self.offset, records: 0, consumed: 0 };
        let mut fields = Fields::new(bytes);
        loop {
            match fields.skip_znode() {
                Ok(true) => taken.records = fields.at,
                Ok(false) => {
                    taken.consumed = fields.at;
                    self.stage = match self.form {
                        Form::File => DecoderStage::Seals,
                        Form::Stream => DecoderStage::StreamSignature,
                    };
                    break;
                }
                Err(Stop::Short) => {
                    taken.consumed = taken.records;
                    break;
                }
                Err(Stop::Bad(what)) => {
                    return Err(FormatError { offset: self.offset + taken.records as u64, what });
                }
            }
        }
        self.consume(&bytes[..taken.consumed]);
        Ok(taken)
    }

    /// Puts znodes into the tree: those of the records that follow the ones of the last call. `records` are theirs.
    pub fn link(&mut self, records: &[u8], znodes: Znodes) -> Result<(), FormatError> {
        if znodes.unknown_acls > 0 {
            self.unknown_acls += znodes.unknown_acls;
            self.loader.intern(&self.parser.nobody);
        }
        for (start, znode) in znodes.made {
            let mut fields = Fields::new(&records[start as usize..]);
            let path = fields.string().unwrap_or_default();
            self.loader
                .link(&path, znode)
                .map_err(|error| FormatError { offset: znodes.offset + u64::from(start), what: error.to_string() })?;
        }
        Ok(())
    }

    /// Ends the snapshot; `rest` is what was not consumed. Errors where it is incomplete, where a seal is not the
    /// checksum of what is before it, and where the tree's digest is not the one that is recorded.
    pub fn finish(mut self, rest: &[u8]) -> Result<Decoded, FormatError> {
        let end = self.offset + rest.len() as u64;
        let sections = match self.stage {
            DecoderStage::StreamEnded => Sections::default(),
            DecoderStage::Seals => self.read_sections(&mut Fields::new(rest)).map_err(|stop| match stop {
                Stop::Short => FormatError { offset: end, what: "the bytes end inside the seals".to_owned() },
                Stop::Bad(what) => FormatError { offset: self.offset, what },
            })?,
            stage => return Err(FormatError { offset: end, what: format!("the bytes end inside {}", stage.name()) }),
        };
        let data_tree =
            self.loader.finish(self.zxid).map_err(|error| FormatError { offset: end, what: error.to_string() })?;
        let found = data_tree.tree().digest();
        if let Some((offset, recorded)) = sections.digest
            && recorded != found
        {
            let what = format!("the digest of the tree is {found:#x}, and {recorded:#x} is recorded");
            return Err(FormatError { offset, what });
        }
        Ok(Decoded { data_tree, last_recorded: sections.last_recorded, unknown_acls: self.unknown_acls })
    }

    /// Reads one record.
    fn step(&mut self, fields: &mut Fields<'_>) -> Result<(), Stop> {
        self.stage = match self.stage {
            DecoderStage::FileHeader => {
                let (magic, version, _dbid) = (fields.int()?, fields.int()?, fields.long()?);
                if magic != FILE_MAGIC {
                    return Err(Stop::Bad(format!("a snapshot begins with \"ZKSN\", this file with {magic:#010x}")));
                }
                if version != FILE_VERSION {
                    return Err(Stop::Bad(format!("the format's version is {version}, and only 2 is known")));
                }
                DecoderStage::SessionCount
            }
            DecoderStage::SessionCount => DecoderStage::Sessions { left: fields.count()? },
            DecoderStage::Sessions { left: 0 } => DecoderStage::AclCount,
            DecoderStage::Sessions { left } => {
                let (session, timeout_ms) = (SessionId(fields.long()?), fields.int()?);
                self.loader.session(session, timeout_ms);
                DecoderStage::Sessions { left: left - 1 }
            }
            DecoderStage::AclCount => DecoderStage::Acls { left: fields.count()? },
            DecoderStage::Acls { left: 0 } => DecoderStage::Znodes,
            DecoderStage::Acls { left } => {
                let (id, list) = (fields.long()?, fields.acl_list()?);
                let list = self.loader.intern(&list);
                Arc::make_mut(&mut self.parser.acls).insert(id, list);
                DecoderStage::Acls { left: left - 1 }
            }
            DecoderStage::StreamSignature => match fields.string()? {
                signature if signature == STREAM_SIGNATURE => DecoderStage::StreamEnded,
                other => return Err(Stop::Bad(format!("the signature is {other:?}, not {STREAM_SIGNATURE:?}"))),
            },
            DecoderStage::Znodes | DecoderStage::StreamEnded | DecoderStage::Seals => {
                unreachable!("feed_tables stops there")
            }
        };
        Ok(())
    }

    fn read_sections(&mut self, fields: &mut Fields<'_>) -> Result<Sections, Stop> {
        let mut sections = Sections::default();
        self.check_seal(fields)?;
        // Where digests are off, Apache 3.9 writes the last section without the one before it.
        if !matches!(fields.left(), 0 | LAST_SECTION_BYTES) {
            let offset = self.offset;
            let (zxid, version) = (Zxid(fields.long()?), fields.int()?);
            let digest = match version >= DIGEST_VERSION {
                true => fields.long()?,
                // Hex digits of a digest that is no longer computed.
                false => fields.buffer().map(|_| 0)?,
            };
            self.check_seal(fields)?;
            // Zxid 0 means that nothing was applied since the writer started.
            if zxid > Zxid::ZERO && zxid >= self.zxid {
                sections.last_recorded = Some(zxid);
                if zxid == self.zxid && version == DIGEST_VERSION {
                    sections.digest = Some((offset, digest as u64));
                }
            }
        }
        if fields.left() > 0 {
            let zxid = Zxid(fields.long()?);
            self.check_seal(fields)?;
            if zxid >= self.zxid {
                sections.last_recorded = sections.last_recorded.max(Some(zxid));
            }
        }
        match fields.left() {
            0 => Ok(sections),
            left => Err(Stop::Bad(format!("{left} bytes follow the last seal"))),
        }
    }

    /// Consumes what was read since the last seal, and then this one.
    fn check_seal(&mut self, fields: &mut Fields<'_>) -> Result<(), Stop> {
        self.consume(fields.read_since_last_asked());
        let (recorded, end) = (fields.long()?, fields.string()?);
        let found = i64::from(self.checksum.finish());
        if recorded != found {
            // The first two words are Apache's.
            return Err(Stop::Bad(format!(
                "CRC corruption: the checksum is {found:#x}, and {recorded:#x} is recorded"
            )));
        }
        if end != END {
            return Err(Stop::Bad(format!("a seal ends with {END:?}, this one with {end:?}")));
        }
        self.consume(fields.read_since_last_asked());
        Ok(())
    }

    fn consume(&mut self, bytes: &[u8]) {
        self.checksum.write(bytes);
        self.offset += bytes.len() as u64;
    }
}

/// What [`Decoder::take_znodes`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Where the records stand in the snapshot.
    pub offset: u64,
    /// Bytes of whole records.
    pub records: usize,
    /// Bytes that were consumed: the records, and the end of all of them if it was there.
    pub consumed: usize,
}

/// Makes znodes of their records. A clone shares the table of ACLs.
#[derive(Clone)]
pub struct ZnodeParser {
    acls: Arc<BTreeMap<i64, AclList>>,
    /// For a znode whose ACL is not in the table.
    nobody: AclList,
}

/// Znodes that are not in a tree yet.
pub struct Znodes {
    /// Where their records stand in the snapshot.
    offset: u64,
    /// Each with where its record begins among these.
    made: Vec<(u32, Znode)>,
    unknown_acls: usize,
}

impl Default for ZnodeParser {
    fn default() -> ZnodeParser {
        let nobody = AclList::new(vec![Acl { perms: 0, id: Id::new("world", "anyone") }]);
        ZnodeParser { acls: Arc::default(), nobody }
    }
}

/// Room is made for so many records as would be there if they were this long; they are at least 80 bytes.
const USUAL_RECORD_BYTES: usize = 192;

impl ZnodeParser {
    /// Makes znodes of `records`, whole ones as [`Decoder::take_znodes`] found them, at most 4 GiB. `offset` is where they
    /// stand in the snapshot.
    pub fn parse(&self, records: &[u8], offset: u64) -> Result<Znodes, FormatError> {
        let mut fields = Fields::new(records);
        let made = Vec::with_capacity(records.len() / USUAL_RECORD_BYTES);
        let mut znodes = Znodes { offset, made, unknown_acls: 0 };
        while fields.left() > 0 {
            let start = fields.at;
            let at = |what| FormatError { offset: offset + start as u64, what };
            let znode = self.parse_one(&mut fields, &mut znodes.unknown_acls).map_err(|stop| match stop {
                Stop::Short => at("the record of a znode is cut short".to_owned()),
                Stop::Bad(what) => at(what),
            })?;
            znodes.made.push((start as u32, znode));
        }
        Ok(znodes)
    }

    fn parse_one(&self, fields: &mut Fields<'_>, unknown_acls: &mut usize) -> Result<Znode, Stop> {
        let path = fields.string()?;
        let (data, acl_id, meta) = (fields.buffer()?, fields.long()?, fields.meta()?);
        let acl = match (acl_id, self.acls.get(&acl_id)) {
            (OPEN_ACL_ID, _) => AclList::OPEN,
            (_, Some(list)) => list.clone(),
            (_, None) => {
                *unknown_acls += 1;
                self.nobody.clone()
            }
        };
        Ok(Loader::make(&path, data, acl, meta))
    }
}

/// What the sections between the seals say of this state.
#[derive(Default)]
struct Sections {
    last_recorded: Option<Zxid>,
    /// Of this very state, and where it is recorded.
    digest: Option<(u64, u64)>,
}

const LAST_SECTION_BYTES: usize = 8 + SEAL_BYTES;

/// Why a record cannot be read.
enum Stop {
    /// It is not all there, or not yet.
    Short,
    /// It is wrong.
    Bad(String),
}

/// jute fields of which the last may not be all there, which `jute::Reader` does not tell from a wrong one.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    asked: usize,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0, asked: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn read_since_last_asked(&mut self) -> &'a [u8] {
        let read = &self.bytes[self.asked..self.at];
        self.asked = self.at;
        read
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Stop> {
        let taken = self.bytes[self.at..].first_chunk::<N>().ok_or(Stop::Short)?;
        self.at += N;
        Ok(taken)
    }

    fn int(&mut self) -> Result<i32, Stop> {
        self.take().map(|bytes| i32::from_be_bytes(*bytes))
    }

    fn long(&mut self) -> Result<i64, Stop> {
        self.take().map(|bytes| i64::from_be_bytes(*bytes))
    }

    fn count(&mut self) -> Result<i32, Stop> {
        match self.int()? {
            count @ 0.. => Ok(count),
            count => Err(Stop::Bad(format!("a count is 0 or more, not {count}"))),
        }
    }

    fn buffer(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        let len = match self.int()? {
            -1 => return Ok(None),
            len => usize::try_from(len).map_err(|_| Stop::Bad(format!("a length is -1 or more, not {len}")))?,
        };
        if self.left() < len {
            return Err(Stop::Short);
        }
        self.at += len;
        Ok(Some(&self.bytes[self.at - len..self.at]))
    }

    /// Malformed UTF-8 is replaced, as Java reads it: Apache writes surrogates that way.
    fn string(&mut self) -> Result<Cow<'a, str>, Stop> {
        let bytes = self.buffer()?.ok_or_else(|| Stop::Bad("a string is null".to_owned()))?;
        Ok(jute::from_utf8_as_java(bytes))
    }

    /// Passes over a znode's record; false if the end of all of them stood there instead.
    fn skip_znode(&mut self) -> Result<bool, Stop> {
        let path = self.buffer()?.ok_or_else(|| Stop::Bad("a path is null".to_owned()))?;
        if path == END.as_bytes() {
            return Ok(false);
        }
        self.buffer()?;
        self.take::<{ 8 + STAT_BYTES }>()?;
        Ok(true)
    }

    fn acl_list(&mut self) -> Result<AclList, Stop> {
        let mut entries = Vec::new();
        // Null is read as empty, as Apache does.
        for _ in 0..self.int()?.max(0) {
            entries.push(Acl { perms: self.int()?, id: Id::new(self.string()?, self.string()?) });
        }
        Ok(AclList::new(entries))
    }

    fn meta(&mut self) -> Result<Meta, Stop> {
        let stat = self.take::<STAT_BYTES>()?;
        let long = |at: usize| i64::from_be_bytes(*stat[at..].first_chunk().expect("within the record"));
        let int = |at: usize| i32::from_be_bytes(*stat[at..].first_chunk().expect("within the record"));
        Ok(Meta {
            czxid: Zxid(long(0)),
            mzxid: Zxid(long(8)),
            ctime: WallMs(long(16)),
            mtime: WallMs(long(24)),
            version: int(32),
            cversion: int(36),
            aversion: int(40),
            owner: Owner(long(44)),
            pzxid: Zxid(long(52)),
        })
    }
}

#[cfg(test)]
mod tests;
