//! The client conversation: handshake, headers, `Stat`, ACLs, watch events.
//!
//! Source: `zookeeper.jute` (modules `data` and `proto`), `ConnectRequest` to `WatcherEvent`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::jute::{DecodeError, Reader, Write};
use crate::types::{SessionId, Zxid};

/// xid of a watch notification.
pub const XID_NOTIFICATION: i32 = -1;
/// xid of a ping reply.
pub const XID_PING: i32 = -2;

/// Bytes of a session password on the wire. The C client has room for exactly this many.
pub const PASSWORD_LEN: usize = 16;

/// A session's password: proof that a reconnecting client is the one that opened it.
pub type Password = [u8; PASSWORD_LEN];

/// The first frame of a connection. `read_only` is `None` where the client left the byte out
/// (ZooKeeper 3.3 clients, go-zk, node): the reply then leaves it out too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest {
    /// The newest zxid that the client has seen on any server.
    pub last_zxid_seen: Zxid,
    /// Session timeout asked for, in ms; may be anything.
    pub timeout_ms: i32,
    /// 0 asks for a new session.
    pub session: SessionId,
    /// Null and any length occur.
    pub password: Vec<u8>,
    /// Whether the client accepts a read-only server; see the type's note.
    pub read_only: Option<bool>,
}

impl ConnectRequest {
    /// What a client sends that has no session yet, and wants no read-only server.
    pub fn new_session(timeout_ms: i32) -> ConnectRequest {
        ConnectRequest {
            last_zxid_seen: Zxid::ZERO,
            timeout_ms,
            session: SessionId::NONE,
            password: vec![0; PASSWORD_LEN],
            read_only: Some(false),
        }
    }

    /// Decodes the payload of the first frame. The protocol version is ignored, as Apache does.
    pub fn decode(payload: &[u8]) -> Result<ConnectRequest, DecodeError> {
        let mut r = Reader::new(payload);
        let _protocol_version = r.int()?;
        Ok(ConnectRequest {
            last_zxid_seen: Zxid(r.long()?),
            timeout_ms: r.int()?,
            session: SessionId(r.long()?),
            password: r.buffer()?.unwrap_or_default().to_vec(),
            read_only: if r.rest().is_empty() { None } else { Some(r.bool()?) },
        })
    }

    /// Appends the payload of the first frame: 44 bytes with a 16-byte password, 45 with `read_only`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(0);
        out.put_long(self.last_zxid_seen.0);
        out.put_int(self.timeout_ms);
        out.put_long(self.session.0);
        out.put_buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            out.put_bool(read_only);
        }
    }
}

/// The answer to a [`ConnectRequest`]. Timeout 0, session 0 and a zero password together mean
/// "invalid or expired": different clients look at different ones of the three.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectResponse {
    /// Negotiated timeout in ms.
    pub timeout_ms: i32,
    /// The session, 0 if invalid.
    pub session: SessionId,
    /// Its password, zeros if invalid.
    pub password: Password,
    /// Whether this server is in read-only mode; left out when the request left it out.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The answer to a client whose session is gone or whose password is wrong.
    pub fn invalid(read_only: Option<bool>) -> ConnectResponse {
        ConnectResponse { timeout_ms: 0, session: SessionId::NONE, password: [0; PASSWORD_LEN], read_only }
    }

    /// Appends the payload: 36 bytes, or 37 with `read_only`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(0);
        out.put_int(self.timeout_ms);
        out.put_long(self.session.0);
        out.put_buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            out.put_bool(read_only);
        }
    }

    /// Decodes the payload of the server's first frame.
    pub fn decode(payload: &[u8]) -> Result<ConnectResponse, DecodeError> {
        let mut r = Reader::new(payload);
        let _protocol_version = r.int()?;
        let timeout_ms = r.int()?;
        let session = SessionId(r.long()?);
        let position = r.position();
        let password = r.buffer()?.unwrap_or_default();
        let password = Password::try_from(password).map_err(|_| DecodeError {
            position,
            expected: "a password of 16 bytes",
            got: password.len() as i64,
        })?;
        let read_only = if r.rest().is_empty() { None } else { Some(r.bool()?) };
        Ok(ConnectResponse { timeout_ms, session, password, read_only })
    }
}

/// The head of every request after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// The client's number for the request, echoed in the reply.
    pub xid: i32,
    /// The operation; see [`crate::proto::op::OpCode`].
    pub op: i32,
}

impl RequestHeader {
    /// Length on the wire.
    pub const LEN: usize = 8;

    /// Reads the 8 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<RequestHeader, DecodeError> {
        Ok(RequestHeader { xid: r.int()?, op: r.int()? })
    }
}

/// The head of every reply and notification: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    /// The request's xid, or one of the special ones.
    pub xid: i32,
    /// Never newer than the state that the reply shows.
    pub zxid: Zxid,
    /// 0 or an [`super::ErrorCode`]; a reply with an error has no body.
    pub err: i32,
}

impl ReplyHeader {
    /// Appends the 16 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.xid);
        out.put_long(self.zxid.0);
        out.put_int(self.err);
    }

    /// Reads the 16 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<ReplyHeader, DecodeError> {
        Ok(ReplyHeader { xid: r.int()?, zxid: Zxid(r.long()?), err: r.int()? })
    }
}

/// A znode's metadata as clients see it: 68 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stat {
    /// Transaction that created the znode.
    pub czxid: i64,
    /// Transaction that last changed its data.
    pub mzxid: i64,
    /// Wall-clock ms of creation.
    pub ctime_ms: i64,
    /// Wall-clock ms of the last data change.
    pub mtime_ms: i64,
    /// Data changes since creation.
    pub version: i32,
    /// Children created and deleted since creation; derived, not stored.
    pub cversion: i32,
    /// ACL changes since creation.
    pub aversion: i32,
    /// Owning session of an ephemeral, else 0.
    pub ephemeral_owner: i64,
    /// Bytes of data; 0 for null.
    pub data_length: i32,
    /// Number of children.
    pub num_children: i32,
    /// Transaction that last created or deleted a child.
    pub pzxid: i64,
}

impl Stat {
    /// Length on the wire.
    pub const LEN: usize = 68;

    /// Appends the 68 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; Stat::LEN];
        b[0..8].copy_from_slice(&self.czxid.to_be_bytes());
        b[8..16].copy_from_slice(&self.mzxid.to_be_bytes());
        b[16..24].copy_from_slice(&self.ctime_ms.to_be_bytes());
        b[24..32].copy_from_slice(&self.mtime_ms.to_be_bytes());
        b[32..36].copy_from_slice(&self.version.to_be_bytes());
        b[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        b[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        b[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        b[52..56].copy_from_slice(&self.data_length.to_be_bytes());
        b[56..60].copy_from_slice(&self.num_children.to_be_bytes());
        b[60..68].copy_from_slice(&self.pzxid.to_be_bytes());
        out.put_raw(&b);
    }

    /// Reads the 68 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<Stat, DecodeError> {
        Ok(Stat {
            czxid: r.long()?,
            mzxid: r.long()?,
            ctime_ms: r.long()?,
            mtime_ms: r.long()?,
            version: r.int()?,
            cversion: r.int()?,
            aversion: r.int()?,
            ephemeral_owner: r.long()?,
            data_length: r.int()?,
            num_children: r.int()?,
            pzxid: r.long()?,
        })
    }
}

/// Permission bits of an ACL entry (`ZooDefs.Perms`).
pub mod perms {
    /// See data, children and the ACL.
    pub const READ: i32 = 1;
    /// Set data.
    pub const WRITE: i32 = 2;
    /// Create children.
    pub const CREATE: i32 = 4;
    /// Delete children.
    pub const DELETE: i32 = 8;
    /// Set the ACL.
    pub const ADMIN: i32 = 16;
    /// All five.
    pub const ALL: i32 = 31;
}

/// Who somebody is: `digest:user:hash`, `ip:address`, `world:anyone`, …
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// The authentication scheme.
    pub scheme: String,
    /// The name within the scheme.
    pub id: String,
}

impl Id {
    /// Stands for the id of an entry that has none: kazoo sends `auth` without one. No scheme accepts it, so it is never
    /// stored.
    pub const ABSENT: &str = "\0absent";

    /// An id from its two parts.
    pub fn new(scheme: impl Into<String>, id: impl Into<String>) -> Id {
        Id { scheme: scheme.into(), id: id.into() }
    }
}

/// One entry of an access control list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Acl {
    /// Bits of [`perms`]; not validated.
    pub perms: i32,
    /// Whom the bits are given to.
    pub id: Id,
}

impl Acl {
    /// Reads one entry. A null scheme reads as empty, which none is; a null id as [`Id::ABSENT`].
    pub fn decode(r: &mut Reader<'_>) -> Result<Acl, DecodeError> {
        let perms = r.int()?;
        let scheme = r.string()?.unwrap_or_default().into_owned();
        let id = r.string()?.map_or_else(|| Id::ABSENT.to_owned(), Cow::into_owned);
        Ok(Acl { perms, id: Id { scheme, id } })
    }

    /// Appends one entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.perms);
        out.put_string(&self.id.scheme);
        out.put_string(&self.id.id);
    }
}

/// An access control list, cheap to clone. The open list, `world:anyone` with all permissions, which
/// nearly every znode has, takes no memory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AclList(Option<Arc<Vec<Acl>>>);

/// The open list as it stands on the wire, count included.
const OPEN_WIRE: &[u8] = b"\x00\x00\x00\x01\x00\x00\x00\x1f\x00\x00\x00\x05world\x00\x00\x00\x06anyone";

impl AclList {
    /// `world:anyone` with all permissions (`ZooDefs.Ids.OPEN_ACL_UNSAFE`).
    pub const OPEN: AclList = AclList(None);

    /// A list from its entries, in order.
    pub fn new(entries: Vec<Acl>) -> AclList {
        let open = matches!(&entries[..], [only] if only.perms == perms::ALL && only.id.scheme == "world" && only.id.id == "anyone");
        if open { AclList::OPEN } else { AclList(Some(Arc::new(entries))) }
    }

    /// `world:anyone` with READ only (`ZooDefs.Ids.READ_ACL_UNSAFE`): the ACL of `/zookeeper/config`.
    pub fn read_only() -> AclList {
        AclList::new(vec![Acl { perms: perms::READ, id: Id::new("world", "anyone") }])
    }

    /// Whether this is the open list.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The entries; `None` for the open list, which need not be looked at.
    pub fn entries(&self) -> Option<&[Acl]> {
        self.0.as_deref().map(Vec::as_slice)
    }

    /// How many holders share the list's memory; 0 for the open list.
    pub fn holders(&self) -> usize {
        self.0.as_ref().map_or(0, Arc::strong_count)
    }

    /// Reads a `vector<ACL>`; `None` is a null vector.
    pub fn decode(r: &mut Reader<'_>) -> Result<Option<AclList>, DecodeError> {
        if r.rest().starts_with(OPEN_WIRE) {
            r.skip(OPEN_WIRE.len())?;
            return Ok(Some(AclList::OPEN));
        }
        Ok(r.vector(Acl::decode)?.map(AclList::new))
    }

    /// Appends a `vector<ACL>`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self.entries() {
            None => out.put_raw(OPEN_WIRE),
            Some(entries) => out.put_vector(entries, |out, acl| acl.encode(out)),
        }
    }
}

/// What a watch event says happened (`Watcher.Event.EventType`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
#[allow(missing_docs)] // The names are ZooKeeper's.
pub enum EventType {
    NodeCreated = 1,
    NodeDeleted = 2,
    NodeDataChanged = 3,
    NodeChildrenChanged = 4,
}

/// `KeeperState.SyncConnected`: the only state a server sends.
const STATE_SYNC_CONNECTED: i32 = 3;

/// Appends the payload of a notification: reply header with xid -1, then `WatcherEvent`.
///
/// `zxid` is the triggering transaction's (since 3.9.0), or -1 for one made up by `setWatches`.
pub fn encode_event(out: &mut Vec<u8>, zxid: Zxid, kind: EventType, path: &str) {
    ReplyHeader { xid: XID_NOTIFICATION, zxid, err: 0 }.encode(out);
    out.put_int(kind as i32);
    out.put_int(STATE_SYNC_CONNECTED);
    out.put_string(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(s: &str) -> Vec<u8> {
        let digits: String = s.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        digits.as_bytes().chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn handshake_bytes_of_a_java_client() {
        let payload =
            unhex(&format!("00000000 0000000000000000 00007530 0000000000000000 00000010 {} 00", "00".repeat(16)));
        let request = ConnectRequest::decode(&payload).unwrap();
        assert_eq!(request.timeout_ms, 30_000);
        assert_eq!(request.read_only, Some(false));
        let mut again = Vec::new();
        request.encode(&mut again);
        assert_eq!(again, payload);
    }

    #[test]
    fn point_9_the_reply_length_mirrors_the_request() {
        let mut out = Vec::new();
        ConnectResponse::invalid(None).encode(&mut out);
        assert_eq!(out.len(), 36);
        out.clear();
        ConnectResponse::invalid(Some(false)).encode(&mut out);
        assert_eq!(out.len(), 37);
    }

    #[test]
    fn a_null_password_is_accepted() {
        let payload = unhex("00000000 0000000000000000 00007530 0000000000000000 ffffffff");
        assert_eq!(ConnectRequest::decode(&payload).unwrap().password, b"");
    }

    #[test]
    fn event_frame_as_recorded() {
        let mut out = Vec::new();
        encode_event(&mut out, Zxid(0x77), EventType::NodeDataChanged, "/a");
        assert_eq!(out, unhex("ffffffff 0000000000000077 00000000 00000003 00000003 00000002 2f61"));
    }

    #[test]
    fn the_open_acl_is_recognised_on_the_wire_and_written_back() {
        let mut wire = Vec::new();
        wire.put_vector(&[Acl { perms: 31, id: Id::new("world", "anyone") }], |out, acl: &Acl| acl.encode(out));
        wire.push(7);
        let mut r = Reader::new(&wire);
        let list = AclList::decode(&mut r).unwrap().unwrap();
        assert!(list.is_open());
        assert_eq!(r.rest(), &[7]);
        let mut again = Vec::new();
        list.encode(&mut again);
        assert_eq!(again, &wire[..wire.len() - 1]);
    }

    #[test]
    fn stat_is_68_bytes_in_the_documented_order() {
        let stat = Stat {
            czxid: 1,
            mzxid: 2,
            ctime_ms: 3,
            mtime_ms: 4,
            version: 5,
            cversion: -1,
            aversion: 7,
            ephemeral_owner: 8,
            data_length: 9,
            num_children: 10,
            pzxid: 11,
        };
        let mut out = Vec::new();
        stat.encode(&mut out);
        assert_eq!(out.len(), Stat::LEN);
        assert_eq!(&out[36..40], &[0xff; 4]);
        assert_eq!(Stat::decode(&mut Reader::new(&out)).unwrap(), stat);
    }
}
