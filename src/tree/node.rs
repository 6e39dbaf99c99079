//! One znode, laid out to be small: 32 bytes in its parent's leaf and one allocation for all the rest.

use smallvec::SmallVec;
use triomphe::{Arc, ThinArc};

use super::children::Children;
use super::packed::{self, Head, Parts};
use crate::proto::client::{AclList, Stat};
use crate::types::{SessionId, WallMs, Zxid};

/// `ephemeralOwner` as it is stored, where one number tells four kinds of znode apart (`EphemeralType`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(pub i64);

impl Owner {
    /// A persistent znode.
    pub const NONE: Owner = Owner(0);
    /// A container.
    pub const CONTAINER: Owner = Owner(i64::MIN);
    /// The longest time to live in ms, about 34 years.
    pub const TTL_MS_MAX: i64 = (1 << 40) - 1;
    const TTL_MARK: i64 = 0xff00_0000_0000_0000_u64 as i64;
    /// Which extended type it is; 0 is time to live, and there is no other.
    const EXTENDED_BITS: i64 = 0x00ff_ff00_0000_0000;

    /// A znode that outlives its last change by `ttl_ms` (1 to 2^40-1) at the most.
    pub fn ttl(ttl_ms: i64) -> Owner {
        Owner(Owner::TTL_MARK | ttl_ms)
    }

    /// What the number means (`EphemeralType.get`). A number that looks like a time to live is a session's id while
    /// extended types are off; so is one of an extended type that nobody knows.
    pub fn kind(self, types: ExtendedTypes) -> OwnerKind {
        let is_ttl_of_353 = types == ExtendedTypes::OnAsIn353 && self.0 < 0 && self != Owner::CONTAINER;
        let is_ttl = types != ExtendedTypes::Off && self.looks_like_ttl();
        match self {
            _ if is_ttl_of_353 || is_ttl => OwnerKind::Ttl(self.0 & Owner::TTL_MS_MAX),
            Owner::CONTAINER => OwnerKind::Container,
            Owner::NONE => OwnerKind::None,
            Owner(session) => OwnerKind::Session(SessionId(session)),
        }
    }

    /// Whether this is how a time to live is written, whatever the settings make of it.
    pub fn looks_like_ttl(self) -> bool {
        self.0 & Owner::TTL_MARK == Owner::TTL_MARK && self.0 & Owner::EXTENDED_BITS == 0
    }
}

/// Whether znodes may have a time to live (`extendedTypesEnabled`, `emulate353TTLNodes`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ExtendedTypes {
    /// They may not.
    #[default]
    Off,
    /// They may.
    On,
    /// They may, and those that ZooKeeper 3.5.3 wrote are known too: any number below 0 but a container's.
    OnAsIn353,
}

/// What an [`Owner`] stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerKind {
    /// A persistent znode.
    None,
    /// An ephemeral one.
    Session(SessionId),
    /// A container.
    Container,
    /// A znode with a time to live, in ms.
    Ttl(i64),
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
///
/// It is 32 bytes in its parent's leaf and one allocation, which holds what `tree/packed.rs` describes. A change of
/// metadata is made in place where no other version sees the znode and the length stays the same, and otherwise by
/// making that allocation anew, data included.
#[derive(Clone)]
pub struct Znode {
    pub(super) children: Children,
    body: ThinArc<AclList, u8>,
    /// Where the name sorts among its siblings.
    pub(super) name_hash: u32,
    /// This znode's share of the tree's digest, 0 where it does not count.
    pub(super) digest: u32,
    /// How many znodes are below this one, at any depth.
    pub(super) descendants: u32,
    /// Whether the owner is a time to live. Kept here because only the tree knows whether extended types are on.
    is_ttl: bool,
}

impl Znode {
    /// A znode without children. `name` is without slashes; the root's is empty.
    pub fn new(name: &str, data: Option<&[u8]>, acl: AclList, meta: Meta) -> Znode {
        Znode {
            children: Children::EMPTY,
            body: body(&meta, name.as_bytes(), data, acl),
            name_hash: Children::hash(name.as_bytes()),
            digest: 0,
            descendants: 0,
            is_ttl: false,
        }
    }

    /// The last component of the path.
    pub fn name(&self) -> &[u8] {
        let Parts { name, data, .. } = self.parts();
        &self.body.slice[name..data]
    }

    /// The data; null and empty are different.
    pub fn data(&self) -> Option<&[u8]> {
        let Parts { meta, data, .. } = self.parts();
        (!packed::data_is_null(&self.body.slice[meta..])).then(|| &self.body.slice[data..])
    }

    /// Bytes of data, 0 for null.
    pub fn data_len(&self) -> usize {
        self.body.slice.len() - self.parts().data
    }

    /// Who may do what.
    pub fn acl(&self) -> &AclList {
        &self.body.header.header
    }

    /// Stored metadata.
    pub fn meta(&self) -> Meta {
        packed::meta(&self.body.slice[self.parts().meta..])
    }

    /// That of [`Znode::meta`].
    pub(super) fn owner(&self) -> Owner {
        packed::owner(&self.body.slice[self.parts().meta..])
    }

    /// Replaces the metadata.
    pub fn set_meta(&mut self, meta: Meta) {
        let Parts { name, data, .. } = self.parts();
        let head = Head::new(&meta, data - name, self.data().is_none());
        let is_done = self.body.with_arc_mut(|body| match Arc::get_mut(body) {
            Some(own) if head.as_bytes().len() == name => {
                own.slice_mut()[..name].copy_from_slice(head.as_bytes());
                true
            }
            _ => false,
        });
        if !is_done {
            self.body = body(&meta, self.name(), self.data(), self.acl().clone());
        }
    }

    /// Replaces data and metadata.
    pub fn set_data(&mut self, data: Option<&[u8]>, meta: Meta) {
        self.body = body(&meta, self.name(), data, self.acl().clone());
    }

    /// Replaces ACL and metadata.
    pub fn set_acl(&mut self, acl: AclList, meta: Meta) {
        self.body = body(&meta, self.name(), self.data(), acl);
    }

    /// How many versions of the tree share the name and data.
    pub(super) fn references(&self) -> usize {
        ThinArc::strong_count(&self.body)
    }

    /// Number of children.
    pub fn child_count(&self) -> usize {
        self.children.len()
    }

    /// Number of znodes below this one, at any depth.
    pub fn descendant_count(&self) -> usize {
        self.descendants as usize
    }

    /// The child of that name.
    pub fn child(&self, name: &str) -> Option<&Znode> {
        self.children.get(name.as_bytes())
    }

    /// The children, in an order that depends on their names alone.
    pub fn children(&self) -> impl Iterator<Item = &Znode> {
        self.children.iter()
    }

    /// Shows about `max` children, in the order of [`Znode::children`], from those on whose names have the hash `from`.
    /// Returns the hash to go on from, `None` after the last. Names that hash alike are not torn apart.
    pub fn some_children(&self, from: u32, max: usize, mut show: impl FnMut(&Znode)) -> Option<u32> {
        let mut last = None;
        for (count, child) in self.children.iter_from(from).enumerate() {
            if count >= max && last != Some(child.name_hash) {
                return Some(child.name_hash);
            }
            last = Some(child.name_hash);
            show(child);
        }
        None
    }

    /// Whether the znode goes with a session.
    pub fn is_ephemeral(&self) -> bool {
        !self.is_ttl && matches!(self.owner().kind(ExtendedTypes::Off), OwnerKind::Session(_))
    }

    /// Notes that the owner is a time to live.
    pub(super) fn mark_ttl(&mut self) {
        self.is_ttl = true;
    }

    /// What clients see (`DataNode.copyStat`).
    pub fn stat(&self) -> Stat {
        let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = self.meta();
        let num_children = self.child_count() as i32;
        Stat {
            czxid: czxid.0,
            mzxid: mzxid.0,
            ctime_ms: ctime.0,
            mtime_ms: mtime.0,
            version,
            cversion: cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion,
            ephemeral_owner: if self.is_ephemeral() { owner.0 } else { 0 },
            data_length: self.data_len() as i32,
            num_children,
            pzxid: pzxid.0,
        }
    }

    /// Apache's digest of this znode at `path` (`DigestCalculator`): CRC-32 over path, data and stored
    /// metadata, 0 below `/zookeeper`. The root counts with an empty path.
    pub fn compute_digest(&self, path: &str) -> u32 {
        digest(path, self.data(), &self.meta())
    }

    fn parts(&self) -> Parts {
        Parts::of(&self.body.slice)
    }
}

/// See [`Znode::compute_digest`].
pub(super) fn digest(path: &str, data: Option<&[u8]>, m: &Meta) -> u32 {
    if path.starts_with("/zookeeper/") {
        return 0;
    }
    let (path, data) = (if path == "/" { "" } else { path }, data.unwrap_or_default());
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
    let mut crc = crc32fast::Hasher::new();
    if path.len() + data.len() + b.len() <= USUAL_BYTES_MAX {
        // The checksum of one run of bytes takes less than those of three short ones, and the copy next to nothing.
        let mut bytes = SmallVec::<[u8; USUAL_BYTES_MAX]>::new();
        bytes.extend_from_slice(path.as_bytes());
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(&b);
        crc.update(&bytes);
    } else {
        crc.update(path.as_bytes());
        crc.update(data);
        crc.update(&b);
    }
    crc.finalize()
}

/// Metadata, name and data of this many bytes are put together on the stack.
const USUAL_BYTES_MAX: usize = 2048;

fn body(meta: &Meta, name: &[u8], data: Option<&[u8]>, acl: AclList) -> ThinArc<AclList, u8> {
    let (head, data_bytes) = (Head::new(meta, name.len(), data.is_none()), data.unwrap_or_default());
    let head = head.as_bytes();
    let mut bytes = SmallVec::<[u8; USUAL_BYTES_MAX]>::with_capacity(head.len() + name.len() + data_bytes.len());
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(data_bytes);
    ThinArc::from_header_and_slice(acl, &bytes)
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
        assert_eq!(size_of::<Znode>(), 32);
    }

    #[test]
    fn what_an_owner_stands_for_depends_on_the_settings() {
        use ExtendedTypes::*;
        let check = |owner: u64, types, expected| assert_eq!(Owner(owner as i64).kind(types), expected, "{owner:x}");
        let session = |id: u64| OwnerKind::Session(SessionId(id as i64));
        for types in [Off, On, OnAsIn353] {
            check(0, types, OwnerKind::None);
            check(1 << 63, types, OwnerKind::Container);
            check(0x0100_0000_1234_0000, types, session(0x0100_0000_1234_0000));
        }
        check(0xff00_0000_0000_03e8, Off, session(0xff00_0000_0000_03e8));
        check(0xff00_0000_0000_03e8, On, OwnerKind::Ttl(1000));
        check(0xff00_00ff_ffff_ffff, On, OwnerKind::Ttl(Owner::TTL_MS_MAX));
        check(0x8000_0000_0000_03e8, On, session(0x8000_0000_0000_03e8));
        check(0x8000_0000_0000_03e8, OnAsIn353, OwnerKind::Ttl(1000));
        assert_eq!(Owner::ttl(1000).0 as u64, 0xff00_0000_0000_03e8);
    }

    #[test]
    fn null_and_empty_data_are_told_apart() {
        let meta = Meta::created(Zxid(1), WallMs(2), Owner::NONE);
        let mut znode = Znode::new("a", None, AclList::OPEN, meta);
        assert_eq!((znode.data(), znode.data_len(), znode.name()), (None, 0, &b"a"[..]));
        znode.set_data(Some(b""), meta);
        assert_eq!((znode.data(), znode.data_len()), (Some(&b""[..]), 0));
        znode.set_data(Some(b"xyz"), meta);
        assert_eq!((znode.data(), znode.name()), (Some(&b"xyz"[..]), &b"a"[..]));
    }

    #[test]
    fn a_change_of_metadata_leaves_the_rest_and_other_versions_alone() {
        let created = Meta::created(Zxid(1), WallMs(2), Owner::NONE);
        let mut znode = Znode::new("name", Some(b"data"), AclList::read_only(), created);
        // The second one has a field more, the others are of the same length.
        for (cversion, is_shared) in [(0, false), (1, false), (2, false), (3, true)] {
            let changed = Meta { cversion, pzxid: Zxid(1 + i64::from(cversion)), ..created };
            let (before, address) = (znode.meta(), znode.body.ptr());
            let shared = is_shared.then(|| znode.clone());
            znode.set_meta(changed);
            assert_eq!((znode.meta(), znode.name(), znode.data()), (changed, &b"name"[..], Some(&b"data"[..])));
            assert_eq!(*znode.acl(), AclList::read_only());
            assert_eq!(shared.as_ref().map_or(before, Znode::meta), before);
            assert_eq!(znode.body.ptr() == address, matches!(cversion, 0 | 2), "changed in place: {cversion}");
        }
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
