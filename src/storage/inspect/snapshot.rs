//! A snapshot, piece by piece: `snapshot_format` has the layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use simd_adler32::Adler32;

use super::RECORD_BYTES_MAX;
use super::content::{Content, ContentError};
use crate::proto::client::{Acl, AclList, Id};
use crate::storage::compression::Compression;
use crate::storage::error::StorageError;
use crate::tree::{Meta, Owner};
use crate::types::{SessionId, WallMs, Zxid};

const MAGIC: &[u8] = b"ZKSN";
const FILE_HEADER_BYTES: usize = 16;
const STAT_BYTES: usize = 60;
/// Adler-32 and the ustring "/".
const SEAL_BYTES: u64 = 13;
/// The shortest that may stand where the longer of the last two sections is looked for: zxid, version, empty digits.
const SECTION_BYTES_MIN: u64 = 8 + 4 + 4;

/// What a snapshot holds next.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// A session and its timeout in ms.
    Session(SessionId, i32),
    /// A znode.
    Znode(SnapshotZnode),
    /// After this transaction the tree had this digest, in this version of the digest.
    Digest(Zxid, i32, u64),
    /// The last transaction, as 3.9 records it.
    LastZxid(Zxid),
    /// Nothing: all seals were right.
    End,
}

/// A znode as it stands in a snapshot.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotZnode {
    /// Where it begins, in bytes of the content.
    pub position: u64,
    /// The root's is "/".
    pub path: String,
    /// Null and empty are different.
    pub data: Option<Bytes>,
    /// `None` where the file does not have it: Apache writes the ACLs first, and a znode that is created meanwhile may
    /// miss its own.
    pub acl: Option<AclList>,
    /// The rest.
    pub meta: Meta,
}

/// Reads one snapshot. The table of ACLs and the present znode are in memory.
pub struct SnapshotReader {
    content: Content,
    sum: Adler32,
    stage: Stage,
    acls: BTreeMap<i64, AclList>,
    /// Of the last znode; `None` before the root, whose path is empty here.
    path: Option<String>,
    seals: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sessions(i32),
    Znodes,
    Sections(u8),
    End,
}

impl SnapshotReader {
    /// Opens a snapshot, plain or compressed. Errors with `Unsupported` for what is none.
    pub fn open(path: &Path) -> Result<SnapshotReader, StorageError> {
        let mut reader = SnapshotReader {
            content: Content::open(path)?,
            sum: Adler32::new(),
            stage: Stage::Znodes,
            acls: BTreeMap::new(),
            path: None,
            seals: Vec::new(),
        };
        let header = reader.take(FILE_HEADER_BYTES as u64, "the header")?;
        if !header.starts_with(MAGIC) {
            return Err(
                reader.damaged(0, "a snapshot begins with \"ZKSN\", and what is compressed here does not".to_owned())
            );
        }
        let version = i32::from_be_bytes(header[4..8].try_into().expect("4 bytes"));
        if version != 2 {
            return Err(reader.damaged(0, format!("the format's version is {version}, and only 2 is known")));
        }
        let sessions = reader.count("the number of sessions")?;
        reader.stage = Stage::Sessions(sessions);
        Ok(reader)
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.content.file_bytes()
    }

    /// How far it has come in the file.
    pub fn position(&self) -> u64 {
        self.content.file_position()
    }

    /// How the file is compressed.
    pub fn compression(&self) -> Compression {
        self.content.compression()
    }

    /// Where each part that was read ends, seal included, in bytes of the content: sessions, ACLs and znodes; the digest; the
    /// last transaction.
    pub fn seals(&self) -> &[u64] {
        &self.seals
    }

    /// The next piece. Errors with `Damaged` at the first thing that is wrong; nothing behind it can be read.
    pub fn read(&mut self) -> Result<Piece, StorageError> {
        match self.stage {
            Stage::Sessions(0) => {
                self.read_acls()?;
                self.stage = Stage::Znodes;
                self.read()
            }
            Stage::Sessions(left) => {
                self.stage = Stage::Sessions(left - 1);
                Ok(Piece::Session(SessionId(self.long("a session")?), self.int("a session")?))
            }
            Stage::Znodes => self.read_znode(),
            Stage::Sections(number) => self.read_section(number),
            Stage::End => Ok(Piece::End),
        }
    }

    fn read_acls(&mut self) -> Result<(), StorageError> {
        for _ in 0..self.count("the number of ACLs")? {
            let id = self.long("an ACL")?;
            let mut entries = Vec::new();
            for _ in 0..self.int("an ACL")?.max(0) {
                let perms = self.int("an ACL")?;
                entries.push(Acl { perms, id: Id::new(self.string("an ACL")?, self.string("an ACL")?) });
            }
            self.acls.insert(id, AclList::new(entries));
        }
        Ok(())
    }

    fn read_znode(&mut self) -> Result<Piece, StorageError> {
        let position = self.content.position();
        let path = self.string("the path of a znode")?;
        if path == "/" {
            self.check_seal()?;
            self.stage = Stage::Sections(0);
            return self.read();
        }
        self.check_place(position, &path)?;
        let data = self.buffer("the data of a znode")?;
        let acl_id = self.long("a znode")?;
        let acl = if acl_id == -1 { Some(AclList::OPEN) } else { self.acls.get(&acl_id).cloned() };
        let stat = self.take(STAT_BYTES as u64, "the stat of a znode")?;
        let long = |at: usize| i64::from_be_bytes(*stat[at..].first_chunk().expect("within the record"));
        let int = |at: usize| i32::from_be_bytes(*stat[at..].first_chunk().expect("within the record"));
        let meta = Meta {
            czxid: Zxid(long(0)),
            mzxid: Zxid(long(8)),
            ctime: WallMs(long(16)),
            mtime: WallMs(long(24)),
            version: int(32),
            cversion: int(36),
            aversion: int(40),
            owner: Owner(long(44)),
            pzxid: Zxid(long(52)),
        };
        self.path = Some(path.clone());
        let path = if path.is_empty() { "/".to_owned() } else { path };
        Ok(Piece::Znode(SnapshotZnode { position, path, data, acl, meta }))
    }

    /// A znode comes after its parent, with nothing between them but what is below the parent.
    fn check_place(&self, position: u64, path: &str) -> Result<(), StorageError> {
        let follows = match &self.path {
            None => path.is_empty(),
            Some(last) => path.rsplit_once('/').is_some_and(|(parent, name)| {
                let rest = last.strip_prefix(parent);
                !name.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
        };
        match follows {
            true => Ok(()),
            false => Err(self.damaged(position, format!("the znode {path:?} does not follow its parent"))),
        }
    }

    fn read_section(&mut self, number: u8) -> Result<Piece, StorageError> {
        let left = match self.content.left_of(SECTION_BYTES_MIN + SEAL_BYTES) {
            Ok(left) => left,
            Err(error) => return Err(self.failed(error, "behind the znodes")),
        };
        if left == 0 {
            self.stage = Stage::End;
            return Ok(Piece::End);
        }
        // Where digests are off, 3.9 writes the last section without the one before it, which is longer.
        if number == 0 && left != 8 + SEAL_BYTES {
            let (zxid, version) = (Zxid(self.long("the digest")?), self.int("the digest")?);
            let digest = match version {
                2.. => self.long("the digest")? as u64,
                // Digits of a digest that is no longer computed.
                _ => self.buffer("the digest").map(|_| 0)?,
            };
            self.check_seal()?;
            self.stage = Stage::Sections(1);
            return Ok(Piece::Digest(zxid, version, digest));
        }
        if number < 2 {
            let zxid = Zxid(self.long("the last transaction")?);
            self.check_seal()?;
            self.stage = Stage::Sections(2);
            return Ok(Piece::LastZxid(zxid));
        }
        Err(self.damaged(self.content.position(), "there is more behind the last seal".to_owned()))
    }

    fn check_seal(&mut self) -> Result<(), StorageError> {
        let position = self.content.position();
        let found = i64::from(self.sum.finish());
        let recorded = self.long("a seal")?;
        if recorded != found {
            let what = format!("CRC corruption: the checksum is {found:#x}, and {recorded:#x} is recorded");
            return Err(self.damaged(position, what));
        }
        match self.string("a seal")? {
            end if end == "/" => {
                self.seals.push(self.content.position());
                Ok(())
            }
            end => Err(self.damaged(position, format!("a seal ends with \"/\", this one with {end:?}"))),
        }
    }

    fn int(&mut self, what: &str) -> Result<i32, StorageError> {
        Ok(i32::from_be_bytes(self.take(4, what)?[..].try_into().expect("4 bytes")))
    }

    fn long(&mut self, what: &str) -> Result<i64, StorageError> {
        Ok(i64::from_be_bytes(self.take(8, what)?[..].try_into().expect("8 bytes")))
    }

    fn count(&mut self, what: &str) -> Result<i32, StorageError> {
        let position = self.content.position();
        match self.int(what)? {
            count @ 0.. => Ok(count),
            count => Err(self.damaged(position, format!("{what} is 0 or more, not {count}"))),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, StorageError> {
        let position = self.content.position();
        match self.buffer(what)? {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => Err(self.damaged(position, format!("{what} is null"))),
        }
    }

    fn buffer(&mut self, what: &str) -> Result<Option<Bytes>, StorageError> {
        let position = self.content.position();
        match self.int(what)? {
            -1 => Ok(None),
            len @ 0.. if len as u64 <= RECORD_BYTES_MAX => self.take(len as u64, what).map(Some),
            len => Err(self.damaged(position, format!("{what} cannot have a length of {len}"))),
        }
    }

    fn take(&mut self, len: u64, what: &str) -> Result<Bytes, StorageError> {
        match self.content.take(len) {
            Ok(bytes) => {
                self.sum.write(&bytes);
                Ok(bytes)
            }
            Err(error) => Err(self.failed(error, what)),
        }
    }

    fn failed(&self, error: ContentError, what: &str) -> StorageError {
        match error {
            ContentError::Ends(position) => self.damaged(position, format!("the file ends inside {what}")),
            ContentError::Compression(error) => {
                let what = format!("what is compressed cannot be read, at {what}: {error}");
                self.damaged(self.content.position(), what)
            }
            ContentError::Io(error) => error,
        }
    }

    fn damaged(&self, offset: u64, what: String) -> StorageError {
        let path: PathBuf = self.content.path().to_owned();
        let remedy = "An older snapshot and the log are used at start-up if they are there".to_owned();
        StorageError::Damaged { path, offset, what, remedy }
    }
}
