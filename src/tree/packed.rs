//! A znode's metadata, name and data in one run of bytes, where what has its usual value takes no room.
//!
//! ```text
//! byte     length of the metadata
//! varint   length of the name
//! byte     which of the fields below are there, and whether the data is null rather than empty
//! varint   czxid
//! varint   ctime
//! varint   mzxid - czxid, pzxid - czxid, mtime - ctime, owner, version, cversion, aversion: each only if it is not 0
//! bytes    name
//! bytes    data
//! ```
//!
//! A znode that was created and not changed since needs about 13 bytes for the 60 that its metadata has in a snapshot. A
//! varint is LEB128 over the number's 64 bits, so every value can be stored; a negative one takes 10 bytes.

use super::node::{Meta, Owner};
use crate::types::{WallMs, Zxid};

/// The two lengths, each as long as it can be, and the metadata with every field as long as it can be.
const HEAD_MAX: usize = 1 + VARINT_MAX + 1 + 6 * VARINT_MAX + 3 * 5;
const VARINT_MAX: usize = 10;

const MZXID: u8 = 1;
const PZXID: u8 = 1 << 1;
const MTIME: u8 = 1 << 2;
const OWNER: u8 = 1 << 3;
const VERSION: u8 = 1 << 4;
const CVERSION: u8 = 1 << 5;
const AVERSION: u8 = 1 << 6;
const NULL_DATA: u8 = 1 << 7;

/// What stands before the name.
pub(super) struct Head {
    bytes: [u8; HEAD_MAX],
    len: usize,
}

impl Head {
    pub(super) fn new(meta: &Meta, name_bytes: usize, data_is_null: bool) -> Head {
        let mut head = Head { bytes: [0; HEAD_MAX], len: 1 };
        head.put(name_bytes as u64);
        let start = head.len;
        head.len += 1;
        let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = *meta;
        head.put(czxid.0 as u64);
        head.put(ctime.0 as u64);
        let mut flags = if data_is_null { NULL_DATA } else { 0 };
        let fields = [
            (MZXID, mzxid.0.wrapping_sub(czxid.0) as u64),
            (PZXID, pzxid.0.wrapping_sub(czxid.0) as u64),
            (MTIME, mtime.0.wrapping_sub(ctime.0) as u64),
            (OWNER, owner.0 as u64),
            (VERSION, u64::from(version as u32)),
            (CVERSION, u64::from(cversion as u32)),
            (AVERSION, u64::from(aversion as u32)),
        ];
        for (flag, value) in fields {
            if value != 0 {
                flags |= flag;
                head.put(value);
            }
        }
        head.bytes[start] = flags;
        head.bytes[0] = (head.len - start) as u8;
        head
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }
}

/// Where the parts of a run of bytes are.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) meta: usize,
    pub(super) name: usize,
    pub(super) data: usize,
}

impl Parts {
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> Parts {
        let mut meta = 1;
        let name_bytes = take(bytes, &mut meta) as usize;
        let name = meta + usize::from(bytes[0]);
        Parts { meta, name, data: name + name_bytes }
    }
}

/// Whether the data is null, of bytes that begin where the metadata does.
#[inline]
pub(super) fn data_is_null(bytes: &[u8]) -> bool {
    bytes[0] & NULL_DATA != 0
}

/// The metadata that `bytes` begin with.
pub(super) fn meta(bytes: &[u8]) -> Meta {
    let flags = bytes[0];
    let mut at = 1;
    let (czxid, ctime) = (take(bytes, &mut at) as i64, take(bytes, &mut at) as i64);
    let mut field = |flag: u8| if flags & flag != 0 { take(bytes, &mut at) as i64 } else { 0 };
    Meta {
        czxid: Zxid(czxid),
        mzxid: Zxid(czxid.wrapping_add(field(MZXID))),
        pzxid: Zxid(czxid.wrapping_add(field(PZXID))),
        ctime: WallMs(ctime),
        mtime: WallMs(ctime.wrapping_add(field(MTIME))),
        owner: Owner(field(OWNER)),
        version: field(VERSION) as i32,
        cversion: field(CVERSION) as i32,
        aversion: field(AVERSION) as i32,
    }
}

/// The owner alone, which few znodes have.
#[inline]
pub(super) fn owner(bytes: &[u8]) -> Owner {
    if bytes[0] & OWNER == 0 { Owner::NONE } else { meta(bytes).owner }
}

#[inline]
fn take(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_i64() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), 0i64..300, Just(i64::MIN), Just(i64::MAX)]
    }

    fn any_i32() -> impl Strategy<Value = i32> {
        prop_oneof![any::<i32>(), Just(0), Just(-1), Just(i32::MIN)]
    }

    proptest! {
        #[test]
        fn every_value_is_kept(
            longs in prop::array::uniform6(any_i64()),
            ints in prop::array::uniform3(any_i32()),
            name_bytes in prop_oneof![0usize..200, Just(1 << 20)],
            is_null: bool,
        ) {
            let meta_in = Meta {
                czxid: Zxid(longs[0]),
                mzxid: Zxid(longs[1]),
                pzxid: Zxid(longs[2]),
                ctime: WallMs(longs[3]),
                mtime: WallMs(longs[4]),
                owner: Owner(longs[5]),
                version: ints[0],
                cversion: ints[1],
                aversion: ints[2],
            };
            let head = Head::new(&meta_in, name_bytes, is_null);
            let parts = Parts::of(head.as_bytes());
            prop_assert_eq!((parts.name, parts.data), (head.as_bytes().len(), head.as_bytes().len() + name_bytes));
            prop_assert_eq!(meta(&head.as_bytes()[parts.meta..]), meta_in);
            prop_assert_eq!(owner(&head.as_bytes()[parts.meta..]), meta_in.owner);
            prop_assert_eq!(data_is_null(&head.as_bytes()[parts.meta..]), is_null);
        }
    }

    #[test]
    fn a_new_znode_needs_few_bytes() {
        let meta = Meta::created(Zxid(3 << 32 | 1_000_000), WallMs(1_795_323_840_140), Owner::NONE);
        assert_eq!(Head::new(&meta, 20, false).as_bytes().len(), 1 + 1 + 1 + 5 + 6);
    }
}
