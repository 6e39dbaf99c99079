//! A snapshot, piece by piece: `snapshot_format` has the layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use simd_adler32::Adler32;

use super::{FileKind, RECORD_BYTES_MAX, Window, kind_of};
use crate::proto::client::{Acl, AclList, Id};
use crate::storage::error::StorageError;
use crate::tree::{Meta, Owner};
use crate::types::{SessionId, WallMs, Zxid};

const FILE_HEADER_BYTES: usize = 16;
const STAT_BYTES: usize = 60;
/// Adler-32 and the ustring "/".
const SEAL_BYTES: u64 = 13;

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
    /// Where it begins.
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
    window: Window,
    at: u64,
    sum: Adler32,
    stage: Stage,
    acls: BTreeMap<i64, AclList>,
    /// Of the last znode; `None` before the root, whose path is empty here.
    path: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sessions(i32),
    Znodes,
    Sections(u8),
    End,
}

impl SnapshotReader {
    /// Opens a snapshot. Errors with `Unsupported` for what is none, and for one that is compressed.
    pub fn open(path: &Path) -> Result<SnapshotReader, StorageError> {
        let kind = kind_of(path)?;
        if kind != FileKind::Snapshot {
            let remedy = match kind {
                FileKind::NativeLog | FileKind::ApacheLog => "Use ringkeeper-log for it",
                FileKind::Gzip => "Unpack it first: gunzip -k",
                FileKind::Snappy => "Let an Apache server write a plain one: it is not read here",
                _ => "Name a file snapshot.*",
            };
            return Err(StorageError::Unsupported {
                path: path.to_owned(),
                what: format!("a plain snapshot is wanted, and this file is {}", kind.words()),
                remedy: remedy.to_owned(),
            });
        }
        let mut reader = SnapshotReader {
            window: Window::open(path)?,
            at: 0,
            sum: Adler32::new(),
            stage: Stage::Znodes,
            acls: BTreeMap::new(),
            path: None,
        };
        let header = reader.take(FILE_HEADER_BYTES as u64, "the header")?;
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
        self.window.bytes()
    }

    /// How far it has come.
    pub fn position(&self) -> u64 {
        self.at
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
        let position = self.at;
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
        let left = self.bytes() - self.at;
        if left == 0 {
            self.stage = Stage::End;
            return Ok(Piece::End);
        }
        // Where digests are off, 3.9 writes the last section without the one before it.
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
        Err(self.damaged(self.at, format!("{left} bytes follow the last seal")))
    }

    fn check_seal(&mut self) -> Result<(), StorageError> {
        let position = self.at;
        let found = i64::from(self.sum.finish());
        let recorded = self.long("a seal")?;
        if recorded != found {
            let what = format!("CRC corruption: the checksum is {found:#x}, and {recorded:#x} is recorded");
            return Err(self.damaged(position, what));
        }
        match self.string("a seal")? {
            end if end == "/" => Ok(()),
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
        let position = self.at;
        match self.int(what)? {
            count @ 0.. => Ok(count),
            count => Err(self.damaged(position, format!("{what} is 0 or more, not {count}"))),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, StorageError> {
        let position = self.at;
        match self.buffer(what)? {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => Err(self.damaged(position, format!("{what} is null"))),
        }
    }

    fn buffer(&mut self, what: &str) -> Result<Option<Bytes>, StorageError> {
        let position = self.at;
        match self.int(what)? {
            -1 => Ok(None),
            len @ 0.. if len as u64 <= RECORD_BYTES_MAX => self.take(len as u64, what).map(Some),
            len => Err(self.damaged(position, format!("{what} cannot have a length of {len}"))),
        }
    }

    fn take(&mut self, len: u64, what: &str) -> Result<Bytes, StorageError> {
        if self.bytes() - self.at < len {
            return Err(self.damaged(self.bytes(), format!("the file ends inside {what}")));
        }
        let bytes = self.window.copy(self.at, len)?;
        if bytes.len() as u64 != len {
            return Err(self.damaged(self.at, "the file became shorter while it was read".to_owned()));
        }
        self.sum.write(&bytes);
        self.at += len;
        Ok(bytes)
    }

    fn damaged(&self, offset: u64, what: String) -> StorageError {
        let path: PathBuf = self.window.path().to_owned();
        let remedy = "An older snapshot and the log are used at start-up if they are there".to_owned();
        StorageError::Damaged { path, offset, what, remedy }
    }
}
