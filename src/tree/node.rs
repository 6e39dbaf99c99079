//! One znode, laid out to be small: 112 bytes in its parent's leaf and one allocation for name and data.

use std::sync::Arc;

use super::children::Children;
use crate::proto::client::{AclList, Stat};
use crate::types::{WallMs, Zxid};

/// `ephemeralOwner` as it is stored, where one number tells four kinds of znode apart (`EphemeralType`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(pub i64);

impl Owner {
    /// A persistent znode.
    pub const NONE: Owner = Owner(0);
    /// A container.
    pub const CONTAINER: Owner = Owner(i64::MIN);
    const TTL_MARK: i64 = 0xff00_0000_0000_0000_u64 as i64;

    /// A znode that outlives its last change by `ttl_ms` (1 to 2^40-1) at the most.
    pub fn ttl(ttl_ms: i64) -> Owner {
        Owner(Owner::TTL_MARK | ttl_ms)
    }

    /// Whether this is a session's id. Values of TTL znodes are taken for sessions, as Apache does
    /// while `extendedTypesEnabled` is off.
    pub fn is_session(self) -> bool {
        self != Owner::NONE && self != Owner::CONTAINER
    }
}

/// The part of a znode's metadata that is stored (`StatPersisted`): 60 bytes in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Transaction that created it.
    pub czxid: Zxid,
    /// Transaction that last changed its data.
    pub mzxid: Zxid,
    /// Transaction that last created or deleted a child.
    pub pzxid: Zxid,
    /// When it was created.
    pub ctime: WallMs,
    /// When its data last changed.
    pub mtime: WallMs,
    /// Session, container, TTL or none.
    pub owner: Owner,
    /// Changes of data.
    pub version: i32,
    /// Children **created** (not the wire's cversion). Never goes down; sequence numbers come from it.
    pub cversion: i32,
    /// Changes of the ACL.
    pub aversion: i32,
}

impl Meta {
    /// Of a znode created by that transaction.
    pub fn created(zxid: Zxid, time: WallMs, owner: Owner) -> Meta {
        Meta {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time,
            mtime: time,
            owner,
            version: 0,
            cversion: 0,
            aversion: 0,
        }
    }
}

/// A znode with everything below it. Cloning shares all of that; changing a clone copies what changes.
#[derive(Clone)]
pub struct Znode {
    /// Stored metadata.
    pub meta: Meta,
    /// Who may do what.
    pub acl: AclList,
    pub(super) children: Children,
    /// The name, then the data.
    payload: Arc<[u8]>,
    /// Bytes of the name; the top bit says that the data is null rather than empty.
    name_len: u32,
    /// Where the name sorts among its siblings.
    pub(super) name_hash: u32,
    /// This znode's share of the tree's digest, 0 where it does not count.
    pub(super) digest: u32,
}

const NULL_DATA: u32 = 1 << 31;

impl Znode {
    /// A znode without children. `name` is without slashes; the root's is empty.
    pub fn new(name: &str, data: Option<&[u8]>, acl: AclList, meta: Meta) -> Znode {
        let mut znode = Znode {
            meta,
            acl,
            children: Children::EMPTY,
            payload: Arc::new([]),
            name_len: 0,
            name_hash: Children::hash(name.as_bytes()),
            digest: 0,
        };
        znode.set_payload(name.as_bytes(), data);
        znode
    }

    /// The last component of the path.
    pub fn name(&self) -> &[u8] {
        &self.payload[..self.name_bytes()]
    }

    /// The data; null and empty are different.
    pub fn data(&self) -> Option<&[u8]> {
        (self.name_len & NULL_DATA == 0).then(|| &self.payload[self.name_bytes()..])
    }

    /// Bytes of data, 0 for null.
    pub fn data_len(&self) -> usize {
        self.payload.len() - self.name_bytes()
    }

    /// Replaces the data.
    pub fn set_data(&mut self, data: Option<&[u8]>) {
        let old = Arc::clone(&self.payload);
        self.set_payload(&old[..self.name_bytes()], data);
    }

    /// Number of children.
    pub fn child_count(&self) -> usize {
        self.children.len()
    }

    /// The child of that name.
    pub fn child(&self, name: &str) -> Option<&Znode> {
        self.children.get(name.as_bytes())
    }

    /// The children, in an order that depends on their names alone.
    pub fn children(&self) -> impl Iterator<Item = &Znode> {
        self.children.iter()
    }

    /// What clients see (`DataNode.copyStat`).
    pub fn stat(&self) -> Stat {
        let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = self.meta;
        let num_children = self.child_count() as i32;
        Stat {
            czxid: czxid.0,
            mzxid: mzxid.0,
            ctime_ms: ctime.0,
            mtime_ms: mtime.0,
            version,
            cversion: cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion,
            ephemeral_owner: if owner.is_session() { owner.0 } else { 0 },
            data_length: self.data_len() as i32,
            num_children,
            pzxid: pzxid.0,
        }
    }

    /// Apache's digest of this znode at `path` (`DigestCalculator`): CRC-32 over path, data and stored
    /// metadata, 0 below `/zookeeper`. The root counts with an empty path.
    pub fn compute_digest(&self, path: &str) -> u32 {
        if path.starts_with("/zookeeper/") {
            return 0;
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(if path == "/" { b"" } else { path.as_bytes() });
        crc.update(self.data().unwrap_or_default());
        let m = &self.meta;
        let mut b = [0u8; 60];
        b[0..8].copy_from_slice(&m.czxid.0.to_be_bytes());
        b[8..16].copy_from_slice(&m.mzxid.0.to_be_bytes());
        b[16..24].copy_from_slice(&m.pzxid.0.to_be_bytes());
        b[24..32].copy_from_slice(&m.ctime.0.to_be_bytes());
        b[32..40].copy_from_slice(&m.mtime.0.to_be_bytes());
        b[40..44].copy_from_slice(&m.version.to_be_bytes());
        b[44..48].copy_from_slice(&m.cversion.to_be_bytes());
        b[48..52].copy_from_slice(&m.aversion.to_be_bytes());
        b[52..60].copy_from_slice(&m.owner.0.to_be_bytes());
        crc.update(&b);
        crc.finalize()
    }

    fn name_bytes(&self) -> usize {
        (self.name_len & !NULL_DATA) as usize
    }

    fn set_payload(&mut self, name: &[u8], data: Option<&[u8]>) {
        let bytes = data.unwrap_or_default();
        let mut payload: Arc<[u8]> = std::iter::repeat_n(0, name.len() + bytes.len()).collect();
        let filled = Arc::get_mut(&mut payload).expect("nobody else has seen the new payload");
        filled[..name.len()].copy_from_slice(name);
        filled[name.len()..].copy_from_slice(bytes);
        self.payload = payload;
        self.name_len = name.len() as u32 | if data.is_none() { NULL_DATA } else { 0 };
    }
}

/// A path may be as deep as a frame is long, deeper than the stack; so znodes below the one that is
/// dropped are taken apart in a loop.
impl Drop for Znode {
    fn drop(&mut self) {
        if !self.children.is_empty() {
            std::mem::take(&mut self.children).dismantle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_znode_stays_within_its_budget() {
        assert_eq!(size_of::<Znode>(), 112);
    }

    #[test]
    fn null_and_empty_data_are_told_apart() {
        let meta = Meta::created(Zxid(1), WallMs(2), Owner::NONE);
        let mut znode = Znode::new("a", None, AclList::OPEN, meta);
        assert_eq!((znode.data(), znode.data_len(), znode.name()), (None, 0, &b"a"[..]));
        znode.set_data(Some(b""));
        assert_eq!((znode.data(), znode.data_len()), (Some(&b""[..]), 0));
        znode.set_data(Some(b"xyz"));
        assert_eq!((znode.data(), znode.name()), (Some(&b"xyz"[..]), &b"a"[..]));
    }

    #[test]
    fn digest_of_the_worked_example() {
        let meta = Meta::created(Zxid(0x100000002), WallMs(0x1a2004f6525), Owner::NONE);
        let znode = Znode::new("a", Some(b"hello"), AclList::OPEN, meta);
        assert_eq!(znode.compute_digest("/a"), 0xf5dab29e);
        let root = Znode::new("", Some(b""), AclList::OPEN, Meta::created(Zxid(0), WallMs(0), Owner::NONE));
        assert_eq!(root.compute_digest("/"), 0x04128908);
        assert_eq!(root.compute_digest("/zookeeper"), 0x4db44d58);
        assert_eq!(root.compute_digest("/zookeeper/quota"), 0);
    }
}
