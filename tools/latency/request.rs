//! What goes out and what must come back: requests as templates, and the check of each reply.
//!
//! Every znode of a run is `<root>/p<parent>/n<sequence>`: one parent a connection, both numbers in a
//! fixed width. So a request differs from the one before in its xid, the ten digits of the sequence
//! number and the payload, and is made by patching a template in place and copying it out.
//!
//! A znode's payload follows from its two numbers: a window into a pool of random bytes. A read
//! can therefore be checked without remembering what was written.

use ringkeeper::jute::Write;
use ringkeeper::proto::client::{AclList, Stat};
use ringkeeper::proto::frame;
use ringkeeper::proto::op::{CreateMode, MultiHeader, OpCode};

/// Digits of a sequence number in a path.
const SEQUENCE_DIGITS: usize = 10;

/// How many different payloads there are. A mix-up of two znodes goes unseen once in this many.
const PAYLOAD_WINDOWS: usize = 4096;

/// What a request does. The first [`Kind::MEASURED`] are what a load consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// setData of a whole payload, any version.
    Set,
    /// A persistent znode with a payload and the open ACL.
    Create,
    /// getData without a watch.
    Get,
    /// delete, any version.
    Delete,
    /// multi: setData on several children, all or none.
    Multi,
    /// A watch's event, of the change that triggered it.
    Event,
    /// getData with a watch.
    Watch,
    /// A new connection with a new session.
    Open,
    /// A new connection for a session that there is.
    Resume,
    /// closeSession.
    Close,
    /// sync of the parent: what follows on this connection sees all writes before it.
    Sync,
}

impl Kind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Kind; 11] = [
        Kind::Set,
        Kind::Create,
        Kind::Get,
        Kind::Delete,
        Kind::Multi,
        Kind::Event,
        Kind::Watch,
        Kind::Open,
        Kind::Resume,
        Kind::Close,
        Kind::Sync,
    ];
    /// The number of kinds whose latency is recorded: the first ones of [`Kind::ALL`].
    pub const MEASURED: usize = 10;

    /// The word for it in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Create => "create",
            Kind::Get => "get",
            Kind::Delete => "delete",
            Kind::Multi => "multi",
            Kind::Event => "event",
            Kind::Watch => "watch again",
            Kind::Open => "open",
            Kind::Resume => "resume",
            Kind::Close => "close",
            Kind::Sync => "sync",
        }
    }

    /// The code of its requests; those that are no requests have no template.
    fn op(self) -> OpCode {
        match self {
            Kind::Set => OpCode::SetData,
            Kind::Create => OpCode::Create,
            Kind::Get | Kind::Watch => OpCode::GetData,
            Kind::Delete => OpCode::Delete,
            Kind::Multi => OpCode::Multi,
            Kind::Sync => OpCode::Sync,
            Kind::Close => OpCode::CloseSession,
            Kind::Event | Kind::Open | Kind::Resume => unreachable!("{self:?} is no request"),
        }
    }
}

/// Which znode: its parent's number and its own below that parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Number of the parent, at most 99,999.
    pub parent: u32,
    /// Number below the parent.
    pub sequence: u32,
}

/// The path of a parent.
pub fn parent_path(root: &str, parent: u32) -> String {
    format!("{root}/p{parent:05}")
}

/// The path of a child.
pub fn child_path(root: &str, parent: u32, sequence: u32) -> String {
    format!("{}/n{sequence:0SEQUENCE_DIGITS$}", parent_path(root, parent))
}

/// The payloads of all znodes, each of the same size.
pub struct Payloads {
    /// Random, so that nothing on the way can compress it.
    pool: Vec<u8>,
    size_bytes: usize,
}

impl Payloads {
    /// Payloads of `size_bytes` each; the same ones every time.
    pub fn new(size_bytes: usize) -> Payloads {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let pool = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        Payloads { pool: pool.take(PAYLOAD_WINDOWS + size_bytes).collect(), size_bytes }
    }

    /// The payload of that znode.
    pub fn of(&self, key: Key) -> &[u8] {
        let mixed = (u64::from(key.parent) << 32 | u64::from(key.sequence)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let at = (mixed >> 40) as usize % PAYLOAD_WINDOWS;
        &self.pool[at..at + self.size_bytes]
    }

    /// Bytes of each payload.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

/// The requests of one kind below one parent.
pub struct Template {
    kind: Kind,
    parent: u32,
    /// From the frame's length to where the first part begins.
    head: Vec<u8>,
    /// How many parts there are: 1 but for a multi.
    parts: u32,
    /// From the beginning of a part to where the payload begins, or to its end if there is none.
    part: Vec<u8>,
    /// Where in `part` the sequence digits stand; `None` for a kind that names no child.
    digits_at: Option<usize>,
    /// Bytes of payload between `part` and `tail`.
    payload_bytes: usize,
    /// What follows the payload.
    tail: Vec<u8>,
    /// What follows the last part.
    end: Vec<u8>,
    /// Length of the path that a part carries.
    path_bytes: usize,
}

/// What the requests on one parent have in common.
#[derive(Clone, Copy, Debug)]
pub struct Below<'a> {
    /// The root of the subtree.
    pub root: &'a str,
    /// The parent's number.
    pub parent: u32,
    /// Bytes of each payload.
    pub payload_bytes: usize,
    /// Parts of a multi.
    pub multi_parts: u32,
}

/// Where the xid stands in a frame.
const XID_AT: usize = 4;
/// Bytes of a multi's header of a part.
const MULTI_HEADER_BYTES: usize = 9;
/// What a part of a multi that set data is answered with before its Stat.
const SET_RESULT: [u8; MULTI_HEADER_BYTES] = [0, 0, 0, OpCode::SetData as u8, 0, 0, 0, 0, 0];

impl Template {
    /// A template for requests of `kind` on the children of a parent.
    pub fn new(kind: Kind, below: Below<'_>) -> Template {
        let has_child = !matches!(kind, Kind::Sync | Kind::Close);
        let has_payload = matches!(kind, Kind::Set | Kind::Create | Kind::Multi);
        let payload_bytes = if has_payload { below.payload_bytes } else { 0 };
        let parts = if kind == Kind::Multi { below.multi_parts } else { 1 };
        let mut path = parent_path(below.root, below.parent);
        if has_child {
            path.push_str("/n");
            path.extend(std::iter::repeat_n('0', SEQUENCE_DIGITS));
        }

        let mut head = Vec::new();
        let start = frame::begin(&mut head);
        head.put_int(0);
        head.put_int(kind.op() as i32);
        let mut part = Vec::new();
        if kind == Kind::Multi {
            MultiHeader { op: OpCode::SetData as i32, done: false, err: -1 }.encode(&mut part);
        }
        if kind != Kind::Close {
            part.put_string(&path);
        }
        let digits_at = has_child.then(|| part.len() - SEQUENCE_DIGITS);
        if has_payload {
            part.put_int(payload_bytes as i32);
        }
        let (mut tail, mut end) = (Vec::new(), Vec::new());
        match kind {
            Kind::Set | Kind::Multi => tail.put_int(-1),
            Kind::Create => {
                AclList::OPEN.encode(&mut tail);
                tail.put_int(CreateMode::Persistent as i32);
            }
            Kind::Get => part.put_bool(false),
            Kind::Watch => part.put_bool(true),
            Kind::Delete => part.put_int(-1),
            _ => {}
        }
        if kind == Kind::Multi {
            MultiHeader::END.encode(&mut end);
        }
        let parts_bytes = parts as usize * (part.len() + payload_bytes + tail.len());
        let frame_bytes = head.len() - start + parts_bytes + end.len();
        head[..start].copy_from_slice(&(frame_bytes as i32).to_be_bytes());
        let (parent, path_bytes) = (below.parent, path.len());
        Template { kind, parent, head, parts, part, digits_at, payload_bytes, tail, end, path_bytes }
    }

    /// How many children a request is about.
    pub fn parts(&self) -> u32 {
        self.parts
    }

    /// Bytes of one request on the wire.
    pub fn request_bytes(&self) -> usize {
        let part_bytes = self.part.len() + self.payload_bytes + self.tail.len();
        self.head.len() + self.parts as usize * part_bytes + self.end.len()
    }

    /// Appends one request to `out`. A multi goes on with the next sequence numbers, and from `around` with 0.
    pub fn append(&mut self, out: &mut Vec<u8>, xid: i32, sequence: u32, around: Option<u32>, payloads: &Payloads) {
        self.head[XID_AT..XID_AT + 4].copy_from_slice(&xid.to_be_bytes());
        out.extend_from_slice(&self.head);
        for sequence in in_turn(sequence, self.parts, around) {
            if let Some(at) = self.digits_at {
                self.part[at..at + SEQUENCE_DIGITS].copy_from_slice(&digits(sequence));
            }
            out.extend_from_slice(&self.part);
            if self.payload_bytes > 0 {
                out.extend_from_slice(payloads.of(Key { parent: self.parent, sequence }));
            }
            out.extend_from_slice(&self.tail);
        }
        out.extend_from_slice(&self.end);
    }

    /// Checks the body of a reply without an error; says what is wrong with it.
    pub fn check(&self, body: &[u8], asked: Asked, payloads: &Payloads, versions: &mut Versions) -> Result<(), String> {
        let Asked { sequence, around, zxid } = asked;
        let expected_bytes = match self.kind {
            Kind::Set => Stat::LEN,
            Kind::Create | Kind::Sync => 4 + self.path_bytes,
            Kind::Get | Kind::Watch => 4 + payloads.size_bytes() + Stat::LEN,
            Kind::Multi => self.parts as usize * (MULTI_HEADER_BYTES + Stat::LEN) + MULTI_HEADER_BYTES,
            _ => 0,
        };
        if self.kind == Kind::Multi && body.starts_with(&(-1i32).to_be_bytes()) {
            return Err("a multi that failed".to_owned());
        }
        if body.len() != expected_bytes {
            return Err(format!("a body of {} bytes where {expected_bytes} were expected", body.len()));
        }
        match self.kind {
            Kind::Create if body[body.len() - SEQUENCE_DIGITS..] != digits(sequence) => {
                Err(format!("the path of another znode: {:?}", String::from_utf8_lossy(&body[4..])))
            }
            Kind::Get | Kind::Watch => {
                let (data, stat) = body.split_at(4 + payloads.size_bytes());
                self.check_data(data, sequence, payloads)?;
                versions.read(sequence, check_stat(stat, payloads, zxid)?)
            }
            Kind::Set => versions.written(sequence, check_stat(body, payloads, zxid)?),
            Kind::Multi => {
                let results = body.chunks(MULTI_HEADER_BYTES + Stat::LEN);
                for (sequence, result) in in_turn(sequence, self.parts, around).zip(results) {
                    let (header, stat) = result.split_at(MULTI_HEADER_BYTES);
                    if header != SET_RESULT {
                        return Err(format!("a result that begins with {header:02x?}"));
                    }
                    versions.written(sequence, check_stat(stat, payloads, zxid)?)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_data(&self, data: &[u8], sequence: u32, payloads: &Payloads) -> Result<(), String> {
        let (head, data) = data.split_at(4);
        if head != (payloads.size_bytes() as i32).to_be_bytes() {
            return Err(format!("a data length of {head:02x?}"));
        }
        let expected = payloads.of(Key { parent: self.parent, sequence });
        match data.iter().zip(expected).position(|(a, b)| a != b) {
            _ if data == expected => Ok(()),
            position => Err(format!("data that differs at byte {}", position.unwrap_or(0))),
        }
    }
}

/// Which request a reply answers, and the zxid of the reply.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The child; of a multi, the first.
    pub sequence: u32,
    /// Where sequence numbers begin anew.
    pub around: Option<u32>,
    /// The zxid in the reply's header.
    pub zxid: i64,
}

/// The version of a Stat that can be that of a znode of ours.
fn check_stat(stat: &[u8], payloads: &Payloads, zxid: i64) -> Result<i32, String> {
    let int = |at: usize| i32::from_be_bytes([stat[at], stat[at + 1], stat[at + 2], stat[at + 3]]);
    let mzxid = i64::from(int(8)) << 32 | i64::from(int(12) as u32);
    let (version, data_length) = (int(32), int(52));
    if mzxid > zxid {
        return Err(format!("a znode changed by 0x{mzxid:x} in a reply of 0x{zxid:x}"));
    }
    if data_length as usize != payloads.size_bytes() {
        return Err(format!("a Stat with a data length of {data_length}"));
    }
    Ok(version)
}

/// The versions of the znodes that only one connection writes: each write adds one, and no write is ever lost.
#[derive(Clone, Default, Debug)]
pub struct Versions {
    /// By sequence number; empty if others write these znodes too.
    last: Vec<i32>,
    /// Set when a write may have happened without an answer: then more can have been written than is known.
    may_be_more: bool,
}

impl Versions {
    /// Of so many znodes of one's own, none of them written yet.
    pub fn new(znodes: u32) -> Versions {
        Versions { last: vec![0; znodes as usize], may_be_more: false }
    }

    /// A write may have happened twice, or without an answer.
    pub fn allow_more(&mut self) {
        self.may_be_more = true;
    }

    fn written(&mut self, sequence: u32, version: i32) -> Result<(), String> {
        self.check(sequence, version, 1)
    }

    fn read(&mut self, sequence: u32, version: i32) -> Result<(), String> {
        self.check(sequence, version, 0)
    }

    fn check(&mut self, sequence: u32, version: i32, more: i32) -> Result<(), String> {
        let Some(last) = self.last.get_mut(sequence as usize) else { return Ok(()) };
        let expected = *last + more;
        if version == expected || (self.may_be_more && version > expected) {
            *last = version;
            return Ok(());
        }
        // One message for one mistake.
        *last = version;
        Err(format!("version {version} where {expected} was expected: a write was lost or done twice"))
    }
}

/// `count` sequence numbers from `first` on, beginning anew at `around`.
fn in_turn(first: u32, count: u32, around: Option<u32>) -> impl Iterator<Item = u32> {
    (first..first + count).map(move |sequence| match around {
        Some(around) if sequence >= around => sequence - around,
        _ => sequence,
    })
}

/// The largest reply body to any kind of request.
pub fn reply_bytes_max(below: Below<'_>) -> usize {
    let path_bytes = parent_path(below.root, 0).len() + 2 + SEQUENCE_DIGITS;
    let multi_bytes = (below.multi_parts as usize + 1) * (MULTI_HEADER_BYTES + Stat::LEN);
    (4 + below.payload_bytes.max(path_bytes) + Stat::LEN).max(multi_bytes)
}

fn digits(mut sequence: u32) -> [u8; SEQUENCE_DIGITS] {
    let mut digits = [b'0'; SEQUENCE_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (sequence % 10) as u8;
        sequence /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ringkeeper::jute::Reader;
    use ringkeeper::proto::client::RequestHeader;
    use ringkeeper::proto::op::WriteOp;

    const BELOW: Below<'_> = Below { root: "/r", parent: 7, payload_bytes: 100, multi_parts: 3 };

    /// Appends one request and reads it back: its xid, opcode and body.
    fn request(kind: Kind, sequence: u32) -> (i32, i32, Vec<u8>) {
        let mut out = vec![9];
        let mut template = Template::new(kind, BELOW);
        let around = (kind == Kind::Multi).then_some(6);
        template.append(&mut out, 5, sequence, around, &Payloads::new(100));
        assert_eq!(out.len(), 1 + template.request_bytes());
        let mut r = Reader::new(&out[1..]);
        assert_eq!(r.int().unwrap() as usize, out.len() - 5);
        let header = RequestHeader::decode(&mut r).unwrap();
        (header.xid, header.op, r.rest().to_vec())
    }

    #[test]
    fn a_set_is_decoded_as_the_server_decodes_it() {
        let (xid, op, body) = request(Kind::Set, 1_234_567_890);
        assert_eq!((xid, op), (5, 5));
        let frame = Bytes::from(body);
        let WriteOp::SetData { path, data, version } = WriteOp::decode(OpCode::SetData, &frame, &frame) else {
            panic!("not a setData");
        };
        assert_eq!(&*path, "/r/p00007/n1234567890");
        assert_eq!(version, -1);
        let key = Key { parent: 7, sequence: 1_234_567_890 };
        assert_eq!(data.unwrap(), Payloads::new(100).of(key));
    }

    #[test]
    fn a_create_carries_the_open_acl_and_no_flags() {
        let (_, op, body) = request(Kind::Create, 3);
        assert_eq!(op, 1);
        let frame = Bytes::from(body);
        let WriteOp::Create { path, data, acl, flags, .. } = WriteOp::decode(OpCode::Create, &frame, &frame) else {
            panic!("not a create");
        };
        assert_eq!(&*path, "/r/p00007/n0000000003");
        assert_eq!(data.unwrap().len(), 100);
        assert!(acl.unwrap().is_open());
        assert_eq!(flags, 0);
    }

    #[test]
    fn reads_deletes_and_the_rest_have_exact_bodies() {
        assert_eq!(request(Kind::Get, 3).2, b"\x00\x00\x00\x15/r/p00007/n0000000003\x00");
        assert_eq!(request(Kind::Delete, 3).2, b"\x00\x00\x00\x15/r/p00007/n0000000003\xff\xff\xff\xff");
        assert_eq!(request(Kind::Sync, 3).2, b"\x00\x00\x00\x09/r/p00007");
        assert_eq!(request(Kind::Close, 3).2, b"");
    }

    #[test]
    fn a_watch_is_a_get_that_asks_for_one() {
        assert_eq!(request(Kind::Watch, 3), (5, 4, b"\x00\x00\x00\x15/r/p00007/n0000000003\x01".to_vec()));
        assert_eq!(child_path("/r", 7, 3), "/r/p00007/n0000000003");
    }

    #[test]
    fn a_multi_sets_the_next_children_and_begins_anew() {
        let (_, op, body) = request(Kind::Multi, 4);
        assert_eq!(op, 14);
        let frame = Bytes::from(body);
        let WriteOp::Multi(parts) = WriteOp::decode(OpCode::Multi, &frame, &frame) else { panic!("not a multi") };
        let set = |part: &WriteOp| match part {
            WriteOp::SetData { path, data, version } => (path.to_string(), data.clone().unwrap(), *version),
            other => panic!("{other:?}"),
        };
        let key = |sequence| Bytes::copy_from_slice(Payloads::new(100).of(Key { parent: 7, sequence }));
        let expected = [4, 5, 0].map(|sequence| (format!("/r/p00007/n{sequence:010}"), key(sequence), -1));
        assert_eq!(parts.iter().map(set).collect::<Vec<_>>(), expected);
    }

    /// Checks a reply to a request on child `sequence`, with zxid 9.
    fn check(kind: Kind, body: &[u8], sequence: u32, versions: &mut Versions) -> Result<(), String> {
        let asked = Asked { sequence, around: Some(6), zxid: 9 };
        Template::new(kind, BELOW).check(body, asked, &Payloads::new(100), versions)
    }

    fn stat(version: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        Stat { mzxid: 9, version, data_length: 100, ..Stat::default() }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_wrong_byte_a_wrong_length_and_a_wrong_path_are_seen() {
        let any = &mut Versions::default();
        let mut body = 100i32.to_be_bytes().to_vec();
        body.extend(Payloads::new(100).of(Key { parent: 7, sequence: 3 }));
        body.extend(stat(5));
        assert_eq!(check(Kind::Get, &body, 3, any), Ok(()));
        assert!(check(Kind::Get, &body, 4, any).is_err(), "another znode's payload");
        body[50] ^= 1;
        assert_eq!(check(Kind::Get, &body, 3, any).unwrap_err(), "data that differs at byte 46");
        body.pop();
        assert!(check(Kind::Get, &body, 3, any).unwrap_err().contains("body of 171 bytes where 172"));

        assert_eq!(check(Kind::Create, b"\x00\x00\x00\x15/r/p00007/n0000000003", 3, any), Ok(()));
        assert!(check(Kind::Create, b"\x00\x00\x00\x15/r/p00007/n0000000004", 3, any).is_err());
    }

    #[test]
    fn a_stat_of_another_time_or_another_length_is_seen() {
        let any = &mut Versions::default();
        let mut body = stat(1);
        assert_eq!(check(Kind::Set, &body, 0, any), Ok(()));
        body[15] = 10;
        assert_eq!(check(Kind::Set, &body, 0, any).unwrap_err(), "a znode changed by 0xa in a reply of 0x9");
        let mut body = stat(1);
        body[55] = 99;
        assert_eq!(check(Kind::Set, &body, 0, any).unwrap_err(), "a Stat with a data length of 99");
    }

    #[test]
    fn a_write_that_was_lost_or_done_twice_is_seen() {
        let mut versions = Versions::new(6);
        assert_eq!(check(Kind::Set, &stat(1), 0, &mut versions), Ok(()));
        assert_eq!(check(Kind::Set, &stat(1), 5, &mut versions), Ok(()), "each znode has its own");
        assert_eq!(check(Kind::Set, &stat(2), 0, &mut versions), Ok(()));
        assert!(check(Kind::Set, &stat(4), 0, &mut versions).unwrap_err().contains("version 4 where 3"));
        versions.allow_more();
        assert_eq!(check(Kind::Set, &stat(7), 0, &mut versions), Ok(()), "one of them had no answer");
        assert!(check(Kind::Set, &stat(7), 0, &mut versions).unwrap_err().contains("version 7 where 8"));
    }

    #[test]
    fn each_part_of_a_multi_is_checked() {
        let body = |versions: [i32; 3]| {
            let mut body = Vec::new();
            for version in versions {
                body.extend(SET_RESULT);
                body.extend(stat(version));
            }
            MultiHeader::END.encode(&mut body);
            body
        };
        let mut versions = Versions::new(6);
        assert_eq!(check(Kind::Multi, &body([1, 1, 1]), 4, &mut versions), Ok(()));
        assert_eq!(check(Kind::Set, &stat(2), 0, &mut versions), Ok(()), "the third part was child 0");
        assert!(check(Kind::Multi, &body([2, 2, 2]), 4, &mut versions).is_err(), "child 0 has version 2 already");
        let mut failed = body([3, 3, 4]);
        failed[MULTI_HEADER_BYTES + Stat::LEN + 3] = 0xff;
        assert!(check(Kind::Multi, &failed, 4, &mut versions).unwrap_err().contains("a result that begins with"));
        assert_eq!(check(Kind::Multi, &[0xff; 40], 4, &mut versions).unwrap_err(), "a multi that failed");
    }
}
