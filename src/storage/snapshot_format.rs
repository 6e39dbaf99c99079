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

use simd_adler32::Adler32;

use crate::jute::Write;
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
#[derive(Clone)]
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
    let acl_id = match znode.acl.is_open() {
        true => OPEN_ACL_ID,
        false => *acl_ids.get(&znode.acl).expect("the source's table holds every ACL of its tree"),
    };
    let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = znode.meta;
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
    acls: BTreeMap<i64, AclList>,
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
            acls: BTreeMap::new(),
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
        let mut fields = Fields::new(bytes);
        let mut consumed = 0;
        while !matches!(self.stage, DecoderStage::Seals | DecoderStage::StreamEnded) {
            match self.step(&mut fields) {
                Ok(()) => consumed = fields.at,
                Err(Stop::Short) => break,
                Err(Stop::Bad(what)) => return Err(FormatError { offset: self.offset + consumed as u64, what }),
            }
        }
        self.consume(&bytes[..consumed]);
        Ok(consumed)
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
                self.acls.insert(id, list);
                DecoderStage::Acls { left: left - 1 }
            }
            DecoderStage::Znodes => self.read_znode(fields)?,
            DecoderStage::StreamSignature => match fields.string()? {
                signature if signature == STREAM_SIGNATURE => DecoderStage::StreamEnded,
                other => return Err(Stop::Bad(format!("the signature is {other:?}, not {STREAM_SIGNATURE:?}"))),
            },
            DecoderStage::StreamEnded | DecoderStage::Seals => unreachable!("feed stops there"),
        };
        Ok(())
    }

    fn read_znode(&mut self, fields: &mut Fields<'_>) -> Result<DecoderStage, Stop> {
        let path = fields.string()?;
        if path == END {
            return Ok(match self.form {
                Form::File => DecoderStage::Seals,
                Form::Stream => DecoderStage::StreamSignature,
            });
        }
        let (data, acl_id, meta) = (fields.buffer()?, fields.long()?, fields.meta()?);
        let acl = match acl_id {
            OPEN_ACL_ID => AclList::OPEN,
            id => match self.acls.get(&id) {
                Some(list) => list.clone(),
                None => {
                    self.unknown_acls += 1;
                    let nobody = AclList::new(vec![Acl { perms: 0, id: Id::new("world", "anyone") }]);
                    self.loader.intern(&nobody)
                }
            },
        };
        self.loader.znode(&path, data, acl, meta).map_err(|error| Stop::Bad(error.to_string()))?;
        Ok(DecoderStage::Znodes)
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
        Ok(String::from_utf8_lossy(bytes))
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
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::client::perms;
    use crate::proto::txn::{CreateKind, Txn, TxnHeader};

    fn encode(source: &SnapshotSource, form: Form) -> Vec<u8> {
        let mut encoder = Encoder::new(source, form);
        let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
        while encoder.next_chunk(&mut chunk) {
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(encoder.checksum(), simd_adler32::adler32(&&bytes[..]));
        bytes
    }

    fn decode(bytes: &[u8], zxid: Zxid) -> Result<Decoded, FormatError> {
        let mut decoder = Decoder::new(Form::File, zxid);
        let consumed = decoder.feed(bytes)?;
        decoder.finish(&bytes[consumed..])
    }

    /// Everything that a snapshot must bring back.
    fn assert_same(a: &DataTree, b: &DataTree) {
        let all = |data_tree: &DataTree| {
            let mut all = BTreeMap::new();
            let mut walk = data_tree.tree().walk();
            while let Some((path, znode)) = walk.next() {
                let value = (znode.data().map(<[u8]>::to_vec), znode.acl.clone(), znode.meta, znode.stat());
                all.insert(String::from_utf8(path.to_vec()).unwrap(), value);
            }
            all
        };
        assert_eq!(all(a), all(b));
        assert_eq!(a.tree().digest(), b.tree().digest());
        assert_eq!(a.tree().zxid(), b.tree().zxid());
        assert_eq!(a.tree().node_count(), b.tree().node_count());
        assert_eq!(a.tree().approximate_data_bytes(), b.tree().approximate_data_bytes());
        assert_eq!(a.sessions(), b.sessions());
        assert_eq!(a.containers().collect::<Vec<_>>(), b.containers().collect::<Vec<_>>());
        assert_eq!(a.ephemeral_count(), b.ephemeral_count());
        for session in a.sessions().keys() {
            assert!(a.ephemerals_of(*session).eq(b.ephemerals_of(*session)));
        }
    }

    fn apply(data_tree: &mut DataTree, txn: Txn) {
        let zxid = data_tree.tree().zxid().next();
        let header = TxnHeader { session: SessionId(zxid.0 % 3 + 1), cxid: 0, zxid, time: WallMs(1000 + zxid.0) };
        data_tree.apply(&header, &txn);
    }

    fn create(path: &str, data: Option<&'static [u8]>, acl: AclList, kind: CreateKind) -> Txn {
        let data = data.map(Bytes::from_static);
        Txn::Create { path: path.into(), data, acl, kind, with_stat: false, parent_cversion: -1 }
    }

    fn acl(user: u8) -> AclList {
        AclList::new(vec![Acl { perms: perms::READ, id: Id::new("digest", format!("u{user}:hash")) }])
    }

    fn small() -> DataTree {
        let mut data_tree = DataTree::new();
        apply(&mut data_tree, Txn::CreateSession { timeout_ms: 4000 });
        apply(&mut data_tree, create("/a", None, AclList::OPEN, CreateKind::Container));
        apply(&mut data_tree, create("/a/é", Some(b""), acl(1), CreateKind::Plain { ephemeral: true }));
        apply(&mut data_tree, create("/a/b", Some(b"x"), acl(2), CreateKind::Ttl(77)));
        data_tree
    }

    #[test]
    fn a_fresh_tree_is_written_as_apache_writes_it() {
        // A snapshot.0 that Apache 3.9.5 wrote, standalone, for an empty directory. The order of siblings and the
        // clock of /zookeeper/config are Apache's own.
        let source = SnapshotSource::of(&DataTree::new(), true);
        let bytes = encode(&source, Form::File);
        assert_eq!(bytes.len(), 624 - 146, "the worked example less its config text");
        assert_eq!(&bytes[..20], b"ZKSN\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0");
        assert_eq!(&bytes[20..59], b"\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x05world\0\0\0\x06anyone");
        assert_eq!(&bytes[59..75], b"\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(&bytes[bytes.len() - 5..], b"\0\0\0\x01/");
        assert_same(&decode(&bytes, Zxid(0)).unwrap().data_tree, &DataTree::new());
    }

    #[test]
    fn every_kind_of_znode_comes_back() {
        let data_tree = small();
        for digest_enabled in [true, false] {
            let bytes = encode(&SnapshotSource::of(&data_tree, digest_enabled), Form::File);
            let decoded = decode(&bytes, data_tree.tree().zxid()).unwrap();
            assert_same(&decoded.data_tree, &data_tree);
            assert_eq!(decoded.unknown_acls, 0);
            assert_eq!(decoded.last_recorded, digest_enabled.then_some(data_tree.tree().zxid()));
        }
    }

    #[test]
    fn a_stream_is_told_from_what_follows_it() {
        let data_tree = small();
        let mut bytes = encode(&SnapshotSource::of(&data_tree, true), Form::Stream);
        let end = bytes.len();
        assert!(bytes.ends_with(b"\0\0\0\x01/\0\0\0\x0aBenWasHere"));
        bytes.extend(b"next packet");
        let mut decoder = Decoder::new(Form::Stream, data_tree.tree().zxid());
        // One byte more each time, as a slow socket would bring them.
        let (mut consumed, mut arrived) = (0, 0);
        while !decoder.stream_ended() {
            arrived += 1;
            consumed += decoder.feed(&bytes[consumed..arrived]).unwrap();
        }
        assert_eq!((consumed, arrived), (end, end));
        assert_same(&decoder.finish(b"").unwrap().data_tree, &data_tree);
    }

    #[test]
    fn older_servers_leave_sections_out() {
        let data_tree = small();
        let zxid = data_tree.tree().zxid();
        let bytes = encode(&SnapshotSource::of(&data_tree, true), Form::File);
        let (digest_section, last_section) = (20 + SEAL_BYTES, 8 + SEAL_BYTES);
        for cut in [last_section, digest_section + last_section] {
            assert_same(&decode(&bytes[..bytes.len() - cut], zxid).unwrap().data_tree, &data_tree);
        }
        // Digests off: the last section alone.
        let mut without = bytes[..bytes.len() - digest_section - last_section].to_vec();
        without.put_long(zxid.0 + 2);
        without.put_long(simd_adler32::adler32(&&without[..]).into());
        without.put_string(END);
        let decoded = decode(&without, zxid).unwrap();
        assert_same(&decoded.data_tree, &data_tree);
        assert_eq!(decoded.last_recorded, Some(Zxid(zxid.0 + 2)));
    }

    #[test]
    fn a_digest_counts_only_where_no_transaction_came_in_between() {
        let data_tree = small();
        let zxid = data_tree.tree().zxid();
        let mut bytes = encode(&SnapshotSource::of(&data_tree, false), Form::File);
        let digest_at = bytes.len();
        let with_digest = |recorded: i64, version: i32| {
            let mut bytes = bytes.clone();
            bytes.put_long(recorded);
            bytes.put_int(version);
            match version {
                ..2 => bytes.put_string("1234abcd"),
                _ => bytes.put_long(17),
            }
            bytes.put_long(simd_adler32::adler32(&&bytes[..]).into());
            bytes.put_string(END);
            decode(&bytes, zxid).map(|decoded| decoded.last_recorded)
        };
        assert_eq!(with_digest(zxid.0 + 1, 2), Ok(Some(Zxid(zxid.0 + 1))));
        assert_eq!(with_digest(zxid.0 - 1, 2), Ok(None));
        assert_eq!(with_digest(0, 2), Ok(None));
        assert_eq!(with_digest(zxid.0, 1), Ok(Some(zxid)));
        let error = with_digest(zxid.0, 2).unwrap_err();
        assert_eq!(error.offset, digest_at as u64);
        assert!(error.what.contains("and 0x11 is recorded"), "{error}");
        bytes.push(0);
        assert!(decode(&bytes, zxid).is_err());
    }

    #[test]
    fn a_znode_whose_acl_is_not_in_the_table_is_closed_until_its_replay() {
        let data_tree = small();
        let mut source = SnapshotSource::of(&data_tree, false);
        let mut bytes = encode(&source, Form::File);
        source.acls.clear();
        // The same znodes behind an empty table.
        let tables = |source: &SnapshotSource| {
            let mut out = Vec::new();
            Encoder::new(source, Form::File).put_tables(&mut out);
            out.len()
        };
        let full = tables(&SnapshotSource::of(&data_tree, false));
        let mut head = Vec::new();
        Encoder::new(&source, Form::File).put_tables(&mut head);
        bytes.splice(..full, head);
        bytes.truncate(bytes.len() - SEAL_BYTES);
        bytes.put_long(simd_adler32::adler32(&&bytes[..]).into());
        bytes.put_string(END);
        let decoded = decode(&bytes, data_tree.tree().zxid()).unwrap();
        assert_eq!(decoded.unknown_acls, 3);
        let closed = &decoded.data_tree.tree().get("/a/b").unwrap().acl;
        let anybody = [Id::new("digest", "u2:hash")];
        assert!(crate::tree::acl::check(closed, perms::READ, &anybody).is_err());
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let data_tree = small();
        let zxid = data_tree.tree().zxid();
        let bytes = encode(&SnapshotSource::of(&data_tree, true), Form::File);
        for len in 0..bytes.len() {
            match decode(&bytes[..len], zxid) {
                // Cut between sections it is what an older server writes.
                Ok(decoded) => assert_same(&decoded.data_tree, &data_tree),
                Err(error) => assert!(error.offset <= len as u64, "{error}"),
            }
        }
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&damaged, zxid).err().unwrap_or_else(|| panic!("bit {bit} flipped, and nobody saw it"));
            assert!(error.offset <= bytes.len() as u64, "{error}");
        }
    }

    fn random_txn() -> impl Strategy<Value = Txn> {
        let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "ccc", "d é"]), 1..4)
            .prop_map(|names| format!("/{}", names.join("/")));
        let data = prop::sample::select(vec![None, Some(&b""[..]), Some(b"x"), Some(&[7; 300])]);
        (0u8..8, path, data, 0u8..5).prop_map(|(op, path, data, small)| match op {
            0 => Txn::CreateSession { timeout_ms: 1000 * i32::from(small) },
            1 => Txn::Delete { path: path.as_str().into(), by_server: false },
            2 => Txn::SetData { path: path.as_str().into(), data: data.map(Bytes::from_static), version: small.into() },
            3 => Txn::SetAcl { path: path.as_str().into(), acl: acl(small), version: small.into() },
            4 => create(&path, data, acl(small), CreateKind::Plain { ephemeral: true }),
            5 => create(&path, data, AclList::OPEN, CreateKind::Container),
            6 => create(&path, data, AclList::OPEN, CreateKind::Ttl(i64::from(small) + 1)),
            _ => create(&path, data, acl(small), CreateKind::Plain { ephemeral: false }),
        })
    }

    proptest! {
        #[test]
        fn any_state_comes_back(txns in prop::collection::vec(random_txn(), 0..150), piece in 1usize..2000) {
            let mut data_tree = DataTree::new();
            for txn in txns {
                apply(&mut data_tree, txn);
            }
            let bytes = encode(&SnapshotSource::of(&data_tree, true), Form::File);
            let mut decoder = Decoder::new(Form::File, data_tree.tree().zxid());
            let (mut consumed, mut arrived) = (0, 0);
            while arrived < bytes.len() {
                arrived = bytes.len().min(arrived + piece);
                consumed += decoder.feed(&bytes[consumed..arrived]).unwrap();
            }
            let decoded = decoder.finish(&bytes[consumed..]).unwrap();
            assert_same(&decoded.data_tree, &data_tree);
            let again = encode(&SnapshotSource::of(&decoded.data_tree, true), Form::File);
            prop_assert_eq!(decode(&again, data_tree.tree().zxid()).unwrap().data_tree.tree().digest(), data_tree.tree().digest());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), form: bool) {
            let form = if form { Form::File } else { Form::Stream };
            // Half of the time with a right start, which lets them get further.
            if bytes.len() % 2 == 0 {
                let whole = encode(&SnapshotSource::of(&small(), true), form);
                let keep = bytes.len() % whole.len();
                bytes.splice(..0, whole[..keep].iter().copied());
            }
            let mut decoder = Decoder::new(form, Zxid(3));
            if let Ok(consumed) = decoder.feed(&bytes) {
                let _ = decoder.finish(&bytes[consumed..]);
            }
        }
    }
}
