//! What a client can ask: operation codes, and the bodies of writes and reads.
//!
//! A write is decoded into owned data ([`WriteOp`]) where it arrives, because it travels: to the
//! shard, or the server, that orders writes. Its payload stays a slice of the received frame. A read
//! is answered on the spot and borrows from the frame ([`ReadOp`]).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::ErrorCode;
use super::client::AclList;
use crate::jute::{DecodeError, Reader, Write};
use crate::types::Zxid;

/// Stands for a null path where that may be one: no znode has it.
pub const NO_PATH: &str = "\0null";

/// `ZooDefs.OpCode`, those that a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[allow(missing_docs)] // The names are ZooKeeper's.
pub enum OpCode {
    Create = 1,
    Delete = 2,
    Exists = 3,
    GetData = 4,
    SetData = 5,
    GetAcl = 6,
    SetAcl = 7,
    GetChildren = 8,
    Sync = 9,
    Ping = 11,
    GetChildren2 = 12,
    Check = 13,
    Multi = 14,
    Create2 = 15,
    Reconfig = 16,
    CreateContainer = 19,
    CreateTtl = 21,
    MultiRead = 22,
    CheckWatches = 17,
    RemoveWatches = 18,
    CloseSession = -11,
    Auth = 100,
    SetWatches = 101,
    Sasl = 102,
    GetEphemerals = 103,
    GetAllChildrenNumber = 104,
    SetWatches2 = 105,
    AddWatch = 106,
    WhoAmI = 107,
}

impl OpCode {
    /// The operation of that number, if this server knows it. What is not here is answered
    /// `Unimplemented` and the connection closed, as Apache does with an unknown number.
    pub fn from_wire(code: i32) -> Option<OpCode> {
        use OpCode::*;
        Some(match code {
            1 => Create,
            2 => Delete,
            3 => Exists,
            4 => GetData,
            5 => SetData,
            6 => GetAcl,
            7 => SetAcl,
            8 => GetChildren,
            9 => Sync,
            11 => Ping,
            12 => GetChildren2,
            13 => Check,
            14 => Multi,
            15 => Create2,
            16 => Reconfig,
            17 => CheckWatches,
            18 => RemoveWatches,
            19 => CreateContainer,
            21 => CreateTtl,
            22 => MultiRead,
            -11 => CloseSession,
            100 => Auth,
            101 => SetWatches,
            102 => Sasl,
            103 => GetEphemerals,
            104 => GetAllChildrenNumber,
            105 => SetWatches2,
            106 => AddWatch,
            107 => WhoAmI,
            _ => return None,
        })
    }

    /// What Apache's `cons` calls it.
    pub fn short_name(self) -> &'static str {
        use OpCode::*;
        match self {
            Create | Create2 | CreateContainer | CreateTtl => "CREA",
            Delete => "DELE",
            Exists => "EXIS",
            GetData => "GETD",
            SetData => "SETD",
            GetAcl => "GETA",
            SetAcl => "SETA",
            GetChildren | GetChildren2 => "GETC",
            Sync => "SYNC",
            Ping => "PING",
            Check => "CHEC",
            Multi => "MULT",
            MultiRead => "MLTR",
            Reconfig => "RECO",
            CheckWatches => "CHKW",
            RemoveWatches => "REMW",
            CloseSession => "CLOS",
            SetWatches => "SETW",
            SetWatches2 => "STW2",
            GetEphemerals => "GETE",
            GetAllChildrenNumber => "GETACN",
            AddWatch => "ADDW",
            WhoAmI => "HOMI",
            Auth | Sasl => "NA",
        }
    }

    /// Whether a server without a leader refuses it, in read-only mode: all that change something, and what asks the leader.
    pub fn needs_leader(self) -> bool {
        use OpCode::*;
        matches!(self, Sync | Check) || (self.is_write() && !matches!(self, GetEphemerals | CloseSession))
    }

    /// Whether the operation is for the shard that orders writes: all that change something, and one that asks what only
    /// that shard knows.
    pub fn is_write(self) -> bool {
        use OpCode::*;
        matches!(
            self,
            Create
                | Delete
                | SetData
                | SetAcl
                | Multi
                | Create2
                | Reconfig
                | CreateContainer
                | CreateTtl
                | GetEphemerals
                | CloseSession
        )
    }
}

/// The flags of a create (`CreateMode`): an enumeration on the wire, not a bit mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names are ZooKeeper's.
pub enum CreateMode {
    Persistent,
    Ephemeral,
    PersistentSequential,
    EphemeralSequential,
    Container,
    PersistentWithTtl,
    PersistentSequentialWithTtl,
}

impl CreateMode {
    /// The mode of that flag value, `None` for any other number.
    pub fn from_wire(flags: i32) -> Option<CreateMode> {
        use CreateMode::*;
        Some(match flags {
            0 => Persistent,
            1 => Ephemeral,
            2 => PersistentSequential,
            3 => EphemeralSequential,
            4 => Container,
            5 => PersistentWithTtl,
            6 => PersistentSequentialWithTtl,
            _ => return None,
        })
    }

    /// Whether the server appends the parent's creation count to the name.
    pub fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential | Self::PersistentSequentialWithTtl)
    }

    /// Whether the znode goes with its session.
    pub fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    /// Whether the znode has a time to live.
    pub fn is_ttl(self) -> bool {
        matches!(self, Self::PersistentWithTtl | Self::PersistentSequentialWithTtl)
    }
}

/// A write as the client asked for it, not yet validated against the tree.
#[derive(Clone, PartialEq, Debug)]
pub enum WriteOp {
    /// Opcodes 1, 15, 19 and 21. Null ACLs and unknown flags are the validator's to refuse.
    Create {
        /// Which of the four; decides the stored kind and the shape of the reply.
        op: OpCode,
        /// Path asked for, before a sequence number is appended.
        path: Arc<str>,
        /// Null and empty are different.
        data: Option<Bytes>,
        /// `None` is a null vector.
        acl: Option<AclList>,
        /// See [`CreateMode`].
        flags: i32,
        /// -1 where the opcode has no such field.
        ttl_ms: i64,
    },
    /// Opcode 2; version -1 matches any.
    Delete {
        /// The znode.
        path: Arc<str>,
        /// Expected data version.
        version: i32,
    },
    /// Opcode 5; version -1 matches any.
    SetData {
        /// The znode.
        path: Arc<str>,
        /// Null and empty are different.
        data: Option<Bytes>,
        /// Expected data version.
        version: i32,
    },
    /// Opcode 7; version -1 matches any.
    SetAcl {
        /// The znode.
        path: Arc<str>,
        /// `None` is a null vector.
        acl: Option<AclList>,
        /// Expected ACL version.
        version: i32,
    },
    /// Opcode 13, inside a multi only.
    Check {
        /// The znode.
        path: Arc<str>,
        /// Expected data version.
        version: i32,
    },
    /// Opcode 14.
    Multi(Vec<WriteOp>),
    /// Opcode 16, as the client asks for it.
    Reconfig(ReconfigRequest),
    /// Opcode 16, as the leader has worked it out: the text of the configuration that is to follow.
    Configure(Bytes),
    /// Opcode 103: the paths of the session's own ephemerals. It changes nothing; but who owns what is known where writes
    /// are ordered.
    GetEphemerals {
        /// What they begin with, empty for all; `None` if the body could not be read.
        prefix: Option<String>,
    },
    /// Opcode -11.
    CloseSession,
    /// A write that cannot be carried out whatever the tree holds: it keeps its place in the order,
    /// uses up a zxid and is answered with the code, as Apache does.
    Refused(ErrorCode),
}

/// What a client wants changed about the ensemble: step by step, or as a whole. Source: `ReconfigRequest` (zookeeper.jute).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReconfigRequest {
    /// `server.N=...`, separated by commas: members that are added or changed.
    pub joining: Option<String>,
    /// Ids of members that are removed, separated by commas.
    pub leaving: Option<String>,
    /// All members there are to be, separated by commas or newlines. If it is there, the other two do not count.
    pub new_members: Option<String>,
    /// The version of the configuration that is to be changed; -1 is any.
    pub config_id: i64,
}

impl WriteOp {
    /// Decodes the body of a write whose header has been read. `frame` is what `body` is part of:
    /// payloads become slices of it. A body that cannot be parsed gives `Refused(MarshallingError)`.
    pub fn decode(op: OpCode, frame: &Bytes, body: &[u8]) -> WriteOp {
        let mut r = Reader::new(body);
        let decoded = match op {
            OpCode::Multi => decode_multi(frame, &mut r),
            OpCode::Reconfig => decode_reconfig(&mut r),
            OpCode::GetEphemerals => Ok(WriteOp::GetEphemerals { prefix: decode_prefix(&mut r).ok() }),
            OpCode::CloseSession => Ok(WriteOp::CloseSession),
            _ => decode_single(op, frame, &mut r),
        };
        decoded.unwrap_or(WriteOp::Refused(ErrorCode::MarshallingError))
    }
}

fn decode_single(op: OpCode, frame: &Bytes, r: &mut Reader<'_>) -> Result<WriteOp, DecodeError> {
    let path: Arc<str> = match op {
        // To be refused as a bad path, not as bytes that cannot be read.
        OpCode::SetData | OpCode::SetAcl => r.string()?.unwrap_or(NO_PATH.into()),
        _ => r.required_string()?,
    }
    .into();
    let payload = |data: Option<&[u8]>| data.map(|data| frame.slice_ref(data));
    Ok(match op {
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => WriteOp::Create {
            op,
            path,
            data: payload(r.buffer()?),
            acl: AclList::decode(r)?,
            flags: r.int()?,
            ttl_ms: if op == OpCode::CreateTtl { r.long()? } else { -1 },
        },
        OpCode::Delete => WriteOp::Delete { path, version: r.int()? },
        OpCode::SetData => WriteOp::SetData { path, data: payload(r.buffer()?), version: r.int()? },
        OpCode::SetAcl => WriteOp::SetAcl { path, acl: AclList::decode(r)?, version: r.int()? },
        OpCode::Check => WriteOp::Check { path, version: r.int()? },
        _ => WriteOp::Refused(ErrorCode::Unimplemented),
    })
}

/// Null, blank and `/` stand for all.
fn decode_prefix(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    let prefix = r.string()?.unwrap_or_default();
    let all = matches!(prefix.trim(), "" | "/");
    Ok(if all { String::new() } else { prefix.into_owned() })
}

fn decode_reconfig(r: &mut Reader<'_>) -> Result<WriteOp, DecodeError> {
    let mut text = || Ok(r.string()?.map(|text| text.into_owned()));
    let (joining, leaving, new_members) = (text()?, text()?, text()?);
    Ok(WriteOp::Reconfig(ReconfigRequest { joining, leaving, new_members, config_id: r.long()? }))
}

/// The record between the parts of a multi: type, done, err.
pub struct MultiHeader {
    /// Opcode of the part that follows, or of the result; -1 for an error result and at the end.
    pub op: i32,
    /// Whether this is the end.
    pub done: bool,
    /// Error code of the result; -1 in requests and at the end.
    pub err: i32,
}

impl MultiHeader {
    /// What ends every multi, request or reply.
    pub const END: MultiHeader = MultiHeader { op: -1, done: true, err: -1 };

    /// Reads the 9 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<MultiHeader, DecodeError> {
        Ok(MultiHeader { op: r.int()?, done: r.bool()?, err: r.int()? })
    }

    /// Appends the 9 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.op);
        out.put_bool(self.done);
        out.put_int(self.err);
    }
}

fn decode_multi(frame: &Bytes, r: &mut Reader<'_>) -> Result<WriteOp, DecodeError> {
    let mut ops = Vec::new();
    loop {
        let position = r.position();
        let header = MultiHeader::decode(r)?;
        if header.done {
            return Ok(WriteOp::Multi(ops));
        }
        let unknown = DecodeError { position, expected: "an operation that a multi may hold", got: header.op.into() };
        let op = match OpCode::from_wire(header.op) {
            Some(
                op @ (OpCode::Create
                | OpCode::Create2
                | OpCode::CreateContainer
                | OpCode::CreateTtl
                | OpCode::Delete
                | OpCode::SetData
                | OpCode::Check),
            ) => op,
            _ => return Err(unknown),
        };
        ops.push(in_multi(decode_single(op, frame, r)?).ok_or(unknown)?);
    }
}

/// `MultiOperationRecord.deserialize` makes the opcode follow the flag. Flags that nobody knows it leaves to the validator
/// behind opcode 21, and refuses behind the others; so it does with a time to live behind an opcode that has none, and
/// with nulls.
fn in_multi(op: WriteOp) -> Option<WriteOp> {
    Some(match op {
        WriteOp::Create { op, acl: None, .. } if op != OpCode::CreateTtl => return None,
        WriteOp::SetData { path, .. } if &*path == NO_PATH => return None,
        WriteOp::Create { op, path, data, acl, flags, ttl_ms } => {
            let (op, ttl_ms) = match (op, CreateMode::from_wire(flags)) {
                (OpCode::CreateTtl, Some(mode)) if mode.is_ttl() => (op, ttl_ms),
                (_, Some(CreateMode::Container)) => (OpCode::CreateContainer, -1),
                (OpCode::CreateTtl, _) => (OpCode::Create, -1),
                (op, Some(mode)) if !mode.is_ttl() => (op, ttl_ms),
                _ => return None,
            };
            WriteOp::Create { op, path, data, acl, flags, ttl_ms }
        }
        other => other,
    })
}

/// A request that is answered from the tree of the shard that owns the connection.
#[derive(Clone, PartialEq, Debug)]
pub enum ReadOp<'a> {
    /// Opcode 3.
    Exists {
        /// The znode.
        path: Cow<'a, str>,
        /// Leave a data watch, also when the znode is absent.
        watch: bool,
    },
    /// Opcode 4.
    GetData {
        /// The znode.
        path: Cow<'a, str>,
        /// Leave a data watch.
        watch: bool,
    },
    /// Opcodes 8 and 12.
    GetChildren {
        /// The znode.
        path: Cow<'a, str>,
        /// Leave a child watch.
        watch: bool,
        /// Opcode 12: the reply ends with the parent's `Stat`.
        with_stat: bool,
    },
    /// Opcode 6.
    GetAcl {
        /// The znode.
        path: Cow<'a, str>,
    },
    /// Opcode 9: takes its turn among the session's requests and echoes the path.
    Sync {
        /// Not looked up; may be null.
        path: Option<Cow<'a, str>>,
    },
    /// Opcode 22: children and data of several paths.
    MultiRead(Vec<ReadOp<'a>>),
    /// Opcodes 101 and 105: what a reconnecting client was watching.
    SetWatches(SetWatches<'a>),
    /// Opcode 106: a watch that stays.
    AddWatch {
        /// Not looked up.
        path: Cow<'a, str>,
        /// Sees everything below the path too.
        recursive: bool,
    },
    /// Opcodes 17 and 18: asks for, or takes away, the connection's watches on a path.
    Watches {
        /// The path that was watched.
        path: Cow<'a, str>,
        /// Which of them.
        which: Which,
        /// Opcode 18.
        remove: bool,
    },
    /// Opcode 104: how many znodes are below one.
    GetAllChildrenNumber {
        /// The znode.
        path: Cow<'a, str>,
    },
    /// Opcode 107: the connection's identities.
    WhoAmI,
}

/// Which watches `checkWatches` and `removeWatches` mean (`Watcher.WatcherType`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names are ZooKeeper's.
pub enum Which {
    Children,
    Data,
    Any,
    Persistent,
    PersistentRecursive,
}

/// A list of paths as it came: it, or a path in it, may be null.
pub type Paths<'a> = Option<Vec<Option<Cow<'a, str>>>>;

/// The body of opcodes 101 and 105, in the order in which it is worked off.
#[derive(Clone, PartialEq, Debug)]
pub struct SetWatches<'a> {
    /// The newest zxid that the client had seen when it lost its connection.
    pub relative_zxid: Zxid,
    /// Data watches on znodes that existed.
    pub data: Paths<'a>,
    /// Watches on znodes that did not exist.
    pub exist: Paths<'a>,
    /// Child watches.
    pub child: Paths<'a>,
    /// Persistent watches (105).
    pub persistent: Paths<'a>,
    /// Persistent recursive watches (105).
    pub recursive: Paths<'a>,
}

impl<'a> ReadOp<'a> {
    /// Decodes the body of a read. Errors are answered with `MarshallingError`.
    pub fn decode(op: OpCode, body: &'a [u8]) -> Result<ReadOp<'a>, DecodeError> {
        let mut r = Reader::new(body);
        let r = &mut r;
        Ok(match op {
            OpCode::Exists => ReadOp::Exists { path: r.required_string()?, watch: r.bool()? },
            OpCode::GetData => ReadOp::GetData { path: r.required_string()?, watch: r.bool()? },
            OpCode::GetChildren | OpCode::GetChildren2 => ReadOp::GetChildren {
                path: r.required_string()?,
                watch: r.bool()?,
                with_stat: op == OpCode::GetChildren2,
            },
            OpCode::GetAcl => ReadOp::GetAcl { path: r.required_string()? },
            OpCode::Sync => ReadOp::Sync { path: r.string()? },
            OpCode::MultiRead => ReadOp::MultiRead(decode_multi_read(r)?),
            OpCode::SetWatches | OpCode::SetWatches2 => {
                let relative_zxid = Zxid(r.long()?);
                let mut paths = || r.vector(|r| r.string());
                let (data, exist, child) = (paths()?, paths()?, paths()?);
                let none = || Some(Vec::new());
                let (persistent, recursive) =
                    if op == OpCode::SetWatches2 { (paths()?, paths()?) } else { (none(), none()) };
                ReadOp::SetWatches(SetWatches { relative_zxid, data, exist, child, persistent, recursive })
            }
            OpCode::AddWatch => {
                let path = r.string()?.unwrap_or(NO_PATH.into());
                let position = r.position();
                match r.int()? {
                    mode @ (0 | 1) => ReadOp::AddWatch { path, recursive: mode == 1 },
                    mode => return Err(DecodeError { position, expected: "mode 0 or 1", got: mode.into() }),
                }
            }
            OpCode::CheckWatches | OpCode::RemoveWatches => {
                let path = r.string()?.unwrap_or(NO_PATH.into());
                let position = r.position();
                let which = match r.int()? {
                    1 => Which::Children,
                    2 => Which::Data,
                    3 => Which::Any,
                    4 => Which::Persistent,
                    5 => Which::PersistentRecursive,
                    kind => return Err(DecodeError { position, expected: "a type from 1 to 5", got: kind.into() }),
                };
                ReadOp::Watches { path, which, remove: op == OpCode::RemoveWatches }
            }
            OpCode::GetAllChildrenNumber => ReadOp::GetAllChildrenNumber { path: r.required_string()? },
            OpCode::WhoAmI => ReadOp::WhoAmI,
            _ => {
                return Err(DecodeError { position: 0, expected: "an operation that reads", got: (op as i32).into() });
            }
        })
    }
}

fn decode_multi_read<'a>(r: &mut Reader<'a>) -> Result<Vec<ReadOp<'a>>, DecodeError> {
    let mut ops = Vec::new();
    loop {
        let position = r.position();
        let header = MultiHeader::decode(r)?;
        if header.done {
            return Ok(ops);
        }
        let path = r.required_string()?;
        let _watch = r.bool()?;
        ops.push(match OpCode::from_wire(header.op) {
            Some(OpCode::GetData) => ReadOp::GetData { path, watch: false },
            Some(OpCode::GetChildren) => ReadOp::GetChildren { path, watch: false, with_stat: false },
            _ => {
                let expected = "an operation that a multiRead may hold";
                return Err(DecodeError { position, expected, got: header.op.into() });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_slices_of_the_frame() {
        let mut body = Vec::new();
        body.put_string("/a");
        body.put_buffer(Some(b"data"));
        body.put_int(-1);
        let frame = Bytes::from(body);
        let WriteOp::SetData { data: Some(data), version: -1, .. } = WriteOp::decode(OpCode::SetData, &frame, &frame)
        else {
            panic!()
        };
        assert_eq!(data, "data");
        assert_eq!(data.as_ptr(), frame[10..].as_ptr());
    }

    #[test]
    fn every_truncation_of_a_create_is_a_marshalling_error() {
        let mut body = Vec::new();
        body.put_string("/a");
        body.put_buffer(Some(b"data"));
        AclList::OPEN.encode(&mut body);
        body.put_int(0);
        for len in 0..body.len() {
            let frame = Bytes::copy_from_slice(&body[..len]);
            assert_eq!(
                WriteOp::decode(OpCode::Create, &frame, &frame),
                WriteOp::Refused(ErrorCode::MarshallingError),
                "cut to {len} bytes"
            );
        }
    }

    #[test]
    fn a_multi_turns_the_container_flag_into_the_container_opcode() {
        let mut body = Vec::new();
        MultiHeader { op: 1, done: false, err: -1 }.encode(&mut body);
        body.put_string("/c");
        body.put_buffer(None);
        AclList::OPEN.encode(&mut body);
        body.put_int(4);
        MultiHeader::END.encode(&mut body);
        let frame = Bytes::from(body);
        let WriteOp::Multi(ops) = WriteOp::decode(OpCode::Multi, &frame, &frame) else { panic!() };
        assert!(matches!(ops[0], WriteOp::Create { op: OpCode::CreateContainer, .. }));
    }
}
