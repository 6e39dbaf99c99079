//! Transactions: what is proposed, logged and applied.
//!
//! A transaction's bytes are Apache's, the same in a log record, a PROPOSAL and an INFORM: the
//! 32-byte `TxnHeader`, the record of its type, and a 12-byte digest that may be absent.
//! Source: `TxnHeader`, `CreateTxn` … in `zookeeper.jute`; `SerializeUtils.serializeRequest`.

use std::sync::Arc;

use bytes::Bytes;

use super::client::AclList;
use crate::jute::{DecodeError, Reader, Write};
use crate::types::{SessionId, WallMs, Zxid};

/// Who, when and in which place: the part that all transactions share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxnHeader {
    /// The session that asked, 0 for the server itself.
    pub session: SessionId,
    /// The request's xid, 0 where no client is waiting.
    pub cxid: i32,
    /// Place in the order.
    pub zxid: Zxid,
    /// The ordering server's wall clock.
    pub time: WallMs,
}

impl TxnHeader {
    /// Reads what stands before the transaction's type.
    pub fn decode(r: &mut Reader<'_>) -> Result<TxnHeader, DecodeError> {
        Ok(TxnHeader { session: SessionId(r.long()?), cxid: r.int()?, zxid: Zxid(r.long()?), time: WallMs(r.long()?) })
    }
}

/// What kind of znode a create makes (`EphemeralType` and the transaction's type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateKind {
    /// Transaction type 1; owned by the header's session if ephemeral.
    Plain {
        /// Goes with its session.
        ephemeral: bool,
    },
    /// Type 19: removed by the server once it has had children and has none.
    Container,
    /// Type 21: removed by the server when unchanged for so many ms and without children.
    Ttl(i64),
}

/// A change to the replicated state, as it is logged.
#[derive(Clone, PartialEq, Debug)]
pub enum Txn {
    /// Type -10.
    CreateSession {
        /// Negotiated timeout.
        timeout_ms: i32,
    },
    /// Type -11: the paths of the session's ephemerals; `None` where the writer did not list them.
    CloseSession {
        /// Deleted first, in this order; whatever else the session owns goes too.
        paths: Option<Vec<Arc<str>>>,
    },
    /// Types 1, 15, 19, 21.
    Create {
        /// With the sequence number, if any.
        path: Arc<str>,
        /// Null and empty are different.
        data: Option<Bytes>,
        /// As fixed up by the validator.
        acl: AclList,
        /// Persistent, ephemeral, container or with time to live.
        kind: CreateKind,
        /// Opcode 15 rather than 1: same effect, other reply.
        with_stat: bool,
        /// The parent's count of creations after this one; -1 means "one more than it is".
        parent_cversion: i32,
    },
    /// Type 2, or 20 when the server itself removes a container or an outlived znode.
    Delete {
        /// The znode.
        path: Arc<str>,
        /// Type 20.
        by_server: bool,
    },
    /// Type 5.
    SetData {
        /// The znode.
        path: Arc<str>,
        /// Null and empty are different.
        data: Option<Bytes>,
        /// The version after the change.
        version: i32,
    },
    /// Type 16: another configuration of the ensemble, as the new data of `/zookeeper/config`.
    Reconfig {
        /// The znode.
        path: Arc<str>,
        /// The configuration's text, whose version is the transaction's zxid.
        data: Option<Bytes>,
        /// Always -1.
        version: i32,
    },
    /// Type 7.
    SetAcl {
        /// The znode.
        path: Arc<str>,
        /// The new list.
        acl: AclList,
        /// The ACL version after the change.
        version: i32,
    },
    /// Type 13, in a multi: changes nothing.
    Check {
        /// The znode.
        path: Arc<str>,
        /// The version that was found.
        version: i32,
    },
    /// Type -1: a request that failed validation. Changes nothing but the last zxid.
    Error {
        /// An [`super::ErrorCode`].
        err: i32,
    },
    /// Type 14: all or nothing. A failed multi holds an `Error` and changes nothing.
    Multi(Vec<Txn>),
}

const VERSION_OF_DIGEST: i32 = 2;

impl Txn {
    /// The type in the header and before each part of a multi.
    pub fn type_code(&self) -> i32 {
        match self {
            Txn::CreateSession { .. } => -10,
            Txn::CloseSession { .. } => -11,
            Txn::Create { kind: CreateKind::Plain { .. }, with_stat: false, .. } => 1,
            Txn::Create { kind: CreateKind::Plain { .. }, with_stat: true, .. } => 15,
            Txn::Create { kind: CreateKind::Container, .. } => 19,
            Txn::Create { kind: CreateKind::Ttl(_), .. } => 21,
            Txn::Delete { by_server: false, .. } => 2,
            Txn::Delete { by_server: true, .. } => 20,
            Txn::SetData { .. } => 5,
            Txn::Reconfig { .. } => 16,
            Txn::SetAcl { .. } => 7,
            Txn::Check { .. } => 13,
            Txn::Error { .. } => -1,
            Txn::Multi(_) => 14,
        }
    }

    /// Whether a part failed, so that none may be applied.
    pub fn is_failed_multi(parts: &[Txn]) -> bool {
        parts.iter().any(|part| matches!(part, Txn::Error { .. }))
    }

    fn encode_record(&self, out: &mut Vec<u8>) {
        match self {
            Txn::CreateSession { timeout_ms } => out.put_int(*timeout_ms),
            Txn::CloseSession { paths: Some(paths) } => out.put_vector(paths, |out, path| out.put_string(path)),
            Txn::CloseSession { paths: None } => {}
            Txn::Create { path, data, acl, kind, with_stat: _, parent_cversion } => {
                out.put_string(path);
                out.put_buffer(data.as_deref());
                acl.encode(out);
                if let CreateKind::Plain { ephemeral } = kind {
                    out.put_bool(*ephemeral);
                }
                out.put_int(*parent_cversion);
                if let CreateKind::Ttl(ttl_ms) = kind {
                    out.put_long(*ttl_ms);
                }
            }
            Txn::Delete { path, .. } => out.put_string(path),
            Txn::SetData { path, data, version } | Txn::Reconfig { path, data, version } => {
                out.put_string(path);
                out.put_buffer(data.as_deref());
                out.put_int(*version);
            }
            Txn::SetAcl { path, acl, version } => {
                out.put_string(path);
                acl.encode(out);
                out.put_int(*version);
            }
            Txn::Check { path, version } => {
                out.put_string(path);
                out.put_int(*version);
            }
            Txn::Error { err } => out.put_int(*err),
            Txn::Multi(parts) => out.put_vector(parts, |out, part| {
                out.put_int(part.type_code());
                let at = out.len();
                out.put_int(0);
                part.encode_record(out);
                let len = (out.len() - at - 4) as i32;
                out[at..at + 4].copy_from_slice(&len.to_be_bytes());
            }),
        }
    }

    /// Reads the record of type `code` from the front of `r`. Slices of `whole` become payloads.
    fn decode_record(code: i32, whole: &Bytes, r: &mut Reader<'_>) -> Result<Txn, DecodeError> {
        let position = r.position();
        let payload = |data: Option<&[u8]>| data.map(|data| whole.slice_ref(data));
        Ok(match code {
            -10 => Txn::CreateSession { timeout_ms: r.int()? },
            -11 => Txn::CloseSession { paths: decode_close_session(r)? },
            1 | 15 => Txn::Create {
                path: r.required_string()?.into(),
                data: payload(r.buffer()?),
                acl: AclList::decode(r)?.unwrap_or(AclList::OPEN),
                kind: CreateKind::Plain { ephemeral: r.bool()? },
                with_stat: code == 15,
                // A record of ZooKeeper 3.3 ends here.
                parent_cversion: if code == 1 && r.rest().is_empty() { -1 } else { r.int()? },
            },
            19 => Txn::Create {
                path: r.required_string()?.into(),
                data: payload(r.buffer()?),
                acl: AclList::decode(r)?.unwrap_or(AclList::OPEN),
                kind: CreateKind::Container,
                with_stat: true,
                parent_cversion: r.int()?,
            },
            21 => {
                let path = r.required_string()?.into();
                let data = payload(r.buffer()?);
                let acl = AclList::decode(r)?.unwrap_or(AclList::OPEN);
                let parent_cversion = r.int()?;
                let kind = CreateKind::Ttl(r.long()?);
                Txn::Create { path, data, acl, kind, with_stat: true, parent_cversion }
            }
            2 | 20 => Txn::Delete { path: r.required_string()?.into(), by_server: code == 20 },
            5 | 16 => {
                let (path, data, version) = (r.required_string()?.into(), payload(r.buffer()?), r.int()?);
                match code {
                    5 => Txn::SetData { path, data, version },
                    _ => Txn::Reconfig { path, data, version },
                }
            }
            7 => Txn::SetAcl {
                path: r.required_string()?.into(),
                acl: AclList::decode(r)?.unwrap_or(AclList::OPEN),
                version: r.int()?,
            },
            13 => Txn::Check { path: r.required_string()?.into(), version: r.int()? },
            -1 => Txn::Error { err: r.int()? },
            14 => Txn::Multi(
                r.vector(|r| {
                    let code = r.int()?;
                    let record = r.buffer()?.unwrap_or_default();
                    Txn::decode_record(code, whole, &mut Reader::new(record))
                })?
                .unwrap_or_default(),
            ),
            _ => return Err(DecodeError { position, expected: "a transaction type", got: code.into() }),
        })
    }
}

/// The list may be missing, and a digest may follow: 12 bytes that begin with its version, 2.
fn decode_close_session(r: &mut Reader<'_>) -> Result<Option<Vec<Arc<str>>>, DecodeError> {
    let rest = r.rest();
    if rest.is_empty() || (rest.len() == DIGEST_LEN && rest.starts_with(&VERSION_OF_DIGEST.to_be_bytes())) {
        return Ok(None);
    }
    r.vector(|r| Ok(Arc::from(r.required_string()?)))
}

const DIGEST_LEN: usize = 12;

/// A transaction with its header and the digest of the tree after it: one log record's payload.
#[derive(Clone, PartialEq, Debug)]
pub struct LoggedTxn {
    /// Who, when, where.
    pub header: TxnHeader,
    /// What.
    pub txn: Txn,
    /// Digest of the whole tree after applying it; absent on errors and where digests are off.
    pub digest: Option<u64>,
}

impl LoggedTxn {
    /// Appends Apache's bytes.
    pub fn encode_parts(out: &mut Vec<u8>, header: &TxnHeader, txn: &Txn, digest: Option<u64>) {
        out.put_long(header.session.0);
        out.put_int(header.cxid);
        out.put_long(header.zxid.0);
        out.put_long(header.time.0);
        out.put_int(txn.type_code());
        txn.encode_record(out);
        if let (Some(digest), false) = (digest, matches!(txn, Txn::Error { .. })) {
            out.put_int(VERSION_OF_DIGEST);
            out.put_long(digest as i64);
        }
    }

    /// Decodes Apache's bytes. Errors where they are not one whole transaction.
    pub fn decode(bytes: &Bytes) -> Result<LoggedTxn, DecodeError> {
        let mut r = Reader::new(bytes);
        let header = TxnHeader::decode(&mut r)?;
        let code = r.int()?;
        let txn = Txn::decode_record(code, bytes, &mut r)?;
        let digest = if r.rest().len() >= DIGEST_LEN {
            let version = r.int()?;
            let digest = r.long()?;
            (version == VERSION_OF_DIGEST).then_some(digest as u64)
        } else {
            None
        };
        Ok(LoggedTxn { header, txn, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(s: &str) -> Bytes {
        let digits: String = s.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        digits.as_bytes().chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    /// Records that Apache wrote, and what they say.
    fn check(hex: &str, expected: Txn, digest: Option<u64>) {
        let bytes = unhex(hex);
        let logged = LoggedTxn::decode(&bytes).unwrap();
        assert_eq!(logged.txn, expected);
        assert_eq!(logged.digest, digest);
        let mut again = Vec::new();
        LoggedTxn::encode_parts(&mut again, &logged.header, &logged.txn, logged.digest);
        assert_eq!(again, bytes, "written back differently");
    }

    #[test]
    fn create_session() {
        check(
            "0100000cc6490000 00000000 0000000100000001 000001a2004f650b fffffff6 00001770 00000002 0000000051c6d660",
            Txn::CreateSession { timeout_ms: 6000 },
            Some(0x51c6d660),
        );
    }

    #[test]
    fn create() {
        check(
            "0100000cc6490000 00000001 0000000100000002 000001a2004f6525 00000001 00000002 2f61 00000005 68656c6c6f
             00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65 00 00000001 00000002 000000022e91e849",
            Txn::Create {
                path: "/a".into(),
                data: Some(Bytes::from_static(b"hello")),
                acl: AclList::OPEN,
                kind: CreateKind::Plain { ephemeral: false },
                with_stat: false,
                parent_cversion: 1,
            },
            Some(0x22e91e849),
        );
    }

    #[test]
    fn error_has_no_digest() {
        check(
            "0100000cc6490000 00000009 000000010000000a 000001a2004f657e ffffffff ffffff9b",
            Txn::Error { err: -101 },
            None,
        );
    }

    #[test]
    fn delete() {
        check(
            "0100000cc6490000 00000008 0000000100000009 000001a2004f6573 00000002
             00000011 2f612f7365712d30303030303030303031 00000002 00000003022b1b44",
            Txn::Delete { path: "/a/seq-0000000001".into(), by_server: false },
            Some(0x3022b1b44),
        );
    }

    #[test]
    fn close_session_with_and_without_its_list_and_digest() {
        let header = "0100000cc6490000 00000000 0000000100000002 000001a2004f6525 fffffff5";
        let digest = "00000002 0000000051c6d660";
        check(header, Txn::CloseSession { paths: None }, None);
        check(&format!("{header} {digest}"), Txn::CloseSession { paths: None }, Some(0x51c6d660));
        let list = "00000001 00000002 2f65";
        let with_list = Txn::CloseSession { paths: Some(vec!["/e".into()]) };
        check(&format!("{header} {list}"), with_list.clone(), None);
        check(&format!("{header} {list} {digest}"), with_list, Some(0x51c6d660));
    }

    #[test]
    fn multi_of_every_kind_comes_back() {
        let parts = vec![
            Txn::Create {
                path: "/m".into(),
                data: None,
                acl: AclList::read_only(),
                kind: CreateKind::Ttl(5),
                with_stat: true,
                parent_cversion: 3,
            },
            Txn::SetData { path: "/m".into(), data: Some(Bytes::new()), version: 1 },
            Txn::Reconfig { path: "/zookeeper/config".into(), data: Some(Bytes::from_static(b"x")), version: -1 },
            Txn::Check { path: "/m".into(), version: 1 },
            Txn::Delete { path: "/m".into(), by_server: false },
            Txn::Error { err: -2 },
        ];
        let header = TxnHeader { session: SessionId(7), cxid: 1, zxid: Zxid(9), time: WallMs(3) };
        let mut bytes = Vec::new();
        LoggedTxn::encode_parts(&mut bytes, &header, &Txn::Multi(parts.clone()), Some(17));
        let logged = LoggedTxn::decode(&Bytes::from(bytes)).unwrap();
        assert_eq!(logged, LoggedTxn { header, txn: Txn::Multi(parts), digest: Some(17) });
    }
}
