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
use ringkeeper::proto::op::{CreateMode, OpCode};

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
    /// sync of the parent: what follows on this connection sees all writes before it.
    Sync,
    /// closeSession.
    Close,
}

impl Kind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Kind; 6] = [Kind::Set, Kind::Create, Kind::Get, Kind::Delete, Kind::Sync, Kind::Close];
    /// The number of kinds whose latency is recorded: the first ones of [`Kind::ALL`].
    pub const MEASURED: usize = 4;

    /// The word for it in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Create => "create",
            Kind::Get => "get",
            Kind::Delete => "delete",
            Kind::Sync => "sync",
            Kind::Close => "close",
        }
    }

    fn op(self) -> OpCode {
        match self {
            Kind::Set => OpCode::SetData,
            Kind::Create => OpCode::Create,
            Kind::Get => OpCode::GetData,
            Kind::Delete => OpCode::Delete,
            Kind::Sync => OpCode::Sync,
            Kind::Close => OpCode::CloseSession,
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
    /// From the frame's length to where the payload begins, or to the end if there is none.
    head: Vec<u8>,
    /// Where in `head` the sequence digits stand; `None` for a kind that names no child.
    digits_at: Option<usize>,
    /// Bytes of payload between `head` and `tail`.
    payload_bytes: usize,
    /// What follows the payload.
    tail: Vec<u8>,
    /// Length of the path that the request carries.
    path_bytes: usize,
}

/// Where the xid stands in a frame.
const XID_AT: usize = 4;

impl Template {
    /// A template for requests of `kind` on the children of `parent` below `root`.
    pub fn new(kind: Kind, root: &str, parent: u32, payload_bytes: usize) -> Template {
        let has_child = !matches!(kind, Kind::Sync | Kind::Close);
        let has_payload = matches!(kind, Kind::Set | Kind::Create);
        let payload_bytes = if has_payload { payload_bytes } else { 0 };
        let mut path = parent_path(root, parent);
        if has_child {
            path.push_str("/n");
            path.extend(std::iter::repeat_n('0', SEQUENCE_DIGITS));
        }

        let mut head = Vec::new();
        let start = frame::begin(&mut head);
        head.put_int(0);
        head.put_int(kind.op() as i32);
        if kind != Kind::Close {
            head.put_string(&path);
        }
        let digits_at = has_child.then(|| head.len() - SEQUENCE_DIGITS);
        if has_payload {
            head.put_int(payload_bytes as i32);
        }
        let mut tail = Vec::new();
        match kind {
            Kind::Set => tail.put_int(-1),
            Kind::Create => {
                AclList::OPEN.encode(&mut tail);
                tail.put_int(CreateMode::Persistent as i32);
            }
            Kind::Get => head.put_bool(false),
            Kind::Delete => head.put_int(-1),
            Kind::Sync | Kind::Close => {}
        }
        let frame_bytes = head.len() - start + payload_bytes + tail.len();
        head[..start].copy_from_slice(&(frame_bytes as i32).to_be_bytes());
        Template { kind, parent, head, digits_at, payload_bytes, tail, path_bytes: path.len() }
    }

    /// Bytes of one request on the wire.
    pub fn request_bytes(&self) -> usize {
        self.head.len() + self.payload_bytes + self.tail.len()
    }

    /// Appends one request to `out`.
    pub fn append(&mut self, out: &mut Vec<u8>, xid: i32, sequence: u32, payloads: &Payloads) {
        self.head[XID_AT..XID_AT + 4].copy_from_slice(&xid.to_be_bytes());
        if let Some(at) = self.digits_at {
            self.head[at..at + SEQUENCE_DIGITS].copy_from_slice(&digits(sequence));
        }
        out.extend_from_slice(&self.head);
        if self.payload_bytes > 0 {
            out.extend_from_slice(payloads.of(Key { parent: self.parent, sequence }));
        }
        out.extend_from_slice(&self.tail);
    }

    /// Checks the body of a reply without an error to the request on child `sequence`; says what is wrong with it.
    pub fn check(&self, body: &[u8], sequence: u32, payloads: &Payloads) -> Result<(), String> {
        let expected_bytes = match self.kind {
            Kind::Set => Stat::LEN,
            Kind::Create | Kind::Sync => 4 + self.path_bytes,
            Kind::Get => 4 + payloads.size_bytes() + Stat::LEN,
            Kind::Delete | Kind::Close => 0,
        };
        if body.len() != expected_bytes {
            return Err(format!("a body of {} bytes where {expected_bytes} were expected", body.len()));
        }
        match self.kind {
            Kind::Create if body[body.len() - SEQUENCE_DIGITS..] != digits(sequence) => {
                Err(format!("the path of another znode: {:?}", String::from_utf8_lossy(&body[4..])))
            }
            Kind::Get if body[..4] != (payloads.size_bytes() as i32).to_be_bytes() => {
                Err(format!("a data length of {:02x?}", &body[..4]))
            }
            Kind::Get => {
                let expected = payloads.of(Key { parent: self.parent, sequence });
                let data = &body[4..4 + expected.len()];
                match data.iter().zip(expected).position(|(a, b)| a != b) {
                    _ if data == expected => Ok(()),
                    position => Err(format!("data that differs at byte {}", position.unwrap_or(0))),
                }
            }
            _ => Ok(()),
        }
    }
}

/// The largest reply body to any kind of request.
pub fn reply_bytes_max(root: &str, payload_bytes: usize) -> usize {
    let path_bytes = parent_path(root, 0).len() + 2 + SEQUENCE_DIGITS;
    4 + payload_bytes.max(path_bytes) + Stat::LEN
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

    /// Appends one request and reads it back: its xid, opcode and body.
    fn request(kind: Kind, sequence: u32) -> (i32, i32, Vec<u8>) {
        let mut out = vec![9];
        let mut template = Template::new(kind, "/r", 7, 100);
        template.append(&mut out, 5, sequence, &Payloads::new(100));
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
    fn a_wrong_byte_a_wrong_length_and_a_wrong_path_are_seen() {
        let payloads = Payloads::new(100);
        let get = Template::new(Kind::Get, "/r", 7, 100);
        let mut body = 100i32.to_be_bytes().to_vec();
        body.extend(payloads.of(Key { parent: 7, sequence: 3 }));
        body.extend([0; Stat::LEN]);
        assert_eq!(get.check(&body, 3, &payloads), Ok(()));
        assert!(get.check(&body, 4, &payloads).is_err(), "another znode's payload");
        body[50] ^= 1;
        assert_eq!(get.check(&body, 3, &payloads).unwrap_err(), "data that differs at byte 46");
        body.pop();
        assert!(get.check(&body, 3, &payloads).unwrap_err().contains("body of 171 bytes where 172"));

        let create = Template::new(Kind::Create, "/r", 7, 100);
        assert_eq!(create.check(b"\x00\x00\x00\x15/r/p00007/n0000000003", 3, &payloads), Ok(()));
        assert!(create.check(b"\x00\x00\x00\x15/r/p00007/n0000000004", 3, &payloads).is_err());
    }
}
