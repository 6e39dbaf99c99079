//! The operations of the client protocol as tables: what each request and each reply is made of.
//!
//! A second, independent description of the wire: nothing of the server's codec is used, so a mistake there cannot
//! hide here. Source: `zookeeper.jute`, `ZooDefs.OpCode`.

/// A field of a request. The string is its key in a script; the value of those that are left out stands with them.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// Text or a payload; null if left out.
    Buffer(&'static str),
    /// Access control; open if left out.
    Acl(&'static str),
    /// Texts; none if left out.
    List(&'static str),
    /// One byte.
    Bool(&'static str, bool),
    /// Four bytes.
    Int(&'static str, i32),
    /// Eight bytes, a zxid by its name in a script among them.
    Long(&'static str, i64),
    /// The operations of a multi, from the lines below it.
    Parts,
}

/// What a reply holds behind its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Buffer,
    Stat,
    Acl,
    Int,
    /// Names in no particular order.
    Names,
    /// Schemes and users in no particular order.
    Identities,
    /// Results of a multi.
    Parts,
}

/// One operation.
pub struct Operation {
    pub name: &'static str,
    pub code: i32,
    pub request: &'static [Field],
    pub reply: &'static [Shape],
    /// Whether it takes a zxid of its own.
    pub writes: bool,
}

pub const CREATE: i32 = 1;
pub const DELETE: i32 = 2;
pub const CHECK: i32 = 13;
pub const SET_DATA: i32 = 5;
pub const PING: i32 = 11;
pub const MULTI: i32 = 14;
pub const CREATE2: i32 = 15;
pub const MULTI_READ: i32 = 22;
pub const AUTH: i32 = 100;
pub const SASL: i32 = 102;
pub const CLOSE_SESSION: i32 = -11;

const fn op(
    name: &'static str,
    code: i32,
    request: &'static [Field],
    reply: &'static [Shape],
    writes: bool,
) -> Operation {
    Operation { name, code, request, reply, writes }
}

use Field::{Acl, Bool, Buffer, Int, List, Long, Parts};

const PATH: Field = Buffer("path");
const DATA: Field = Buffer("data");
const VERSION: Field = Int("version", -1);
const WATCH: Field = Bool("watch", false);

pub const OPERATIONS: &[Operation] = &[
    op("create", CREATE, &[PATH, DATA, Acl("acl"), Int("flags", 0)], &[Shape::Buffer], true),
    op("delete", DELETE, &[PATH, VERSION], &[], true),
    op("exists", 3, &[PATH, WATCH], &[Shape::Stat], false),
    op("get", 4, &[PATH, WATCH], &[Shape::Buffer, Shape::Stat], false),
    op("set", SET_DATA, &[PATH, DATA, VERSION], &[Shape::Stat], true),
    op("getAcl", 6, &[PATH], &[Shape::Acl, Shape::Stat], false),
    op("setAcl", 7, &[PATH, Acl("acl"), VERSION], &[Shape::Stat], true),
    op("children", 8, &[PATH, WATCH], &[Shape::Names], false),
    op("sync", 9, &[PATH], &[Shape::Buffer], false),
    op("ping", PING, &[], &[], false),
    op("children2", 12, &[PATH, WATCH], &[Shape::Names, Shape::Stat], false),
    op("check", CHECK, &[PATH, VERSION], &[], true),
    op("multi", MULTI, &[Parts], &[Shape::Parts], true),
    op("create2", CREATE2, &[PATH, DATA, Acl("acl"), Int("flags", 0)], &[Shape::Buffer, Shape::Stat], true),
    op(
        "reconfig",
        16,
        &[Buffer("joining"), Buffer("leaving"), Buffer("members"), Long("config", -1)],
        &[Shape::Buffer, Shape::Stat],
        true,
    ),
    op("checkWatches", 17, &[PATH, Int("type", 3)], &[], false),
    op("removeWatches", 18, &[PATH, Int("type", 3)], &[], false),
    op("createContainer", 19, &[PATH, DATA, Acl("acl"), Int("flags", 4)], &[Shape::Buffer, Shape::Stat], true),
    op(
        "createTtl",
        21,
        &[PATH, DATA, Acl("acl"), Int("flags", 5), Long("ttl", 3_600_000)],
        &[Shape::Buffer, Shape::Stat],
        true,
    ),
    op("multiRead", MULTI_READ, &[Parts], &[Shape::Parts], false),
    op("auth", AUTH, &[Int("type", 0), Buffer("scheme"), Buffer("auth")], &[], false),
    op("setWatches", 101, &[Long("seen", 0), List("data"), List("exist"), List("child")], &[], false),
    op("sasl", SASL, &[Buffer("token")], &[Shape::Buffer], false),
    op("getEphemerals", 103, &[PATH], &[Shape::Names], false),
    op("allChildren", 104, &[PATH], &[Shape::Int], false),
    op(
        "setWatches2",
        105,
        &[Long("seen", 0), List("data"), List("exist"), List("child"), List("persistent"), List("recursive")],
        &[],
        false,
    ),
    op("addWatch", 106, &[PATH, Int("mode", 0)], &[Shape::Int], false),
    op("whoAmI", 107, &[], &[Shape::Identities], false),
    op("close", CLOSE_SESSION, &[], &[], true),
];

/// The operation of that name.
pub fn by_name(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

/// The operation of that number.
pub fn by_code(code: i32) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.code == code)
}

/// Bytes of jute, field by field.
#[derive(Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn int(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn long(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn buffer(&mut self, value: Option<&[u8]>) {
        self.int(value.map_or(-1, |bytes| bytes.len() as i32));
        self.0.extend_from_slice(value.unwrap_or_default());
    }
}

/// Fields out of bytes; `None` where they end early.
#[derive(Clone)]
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub fn long(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    /// The outer `None` is the end of the bytes, the inner one null.
    pub fn buffer(&mut self) -> Option<Option<&'a [u8]>> {
        match self.int()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }
}
