//! Builds a tree from znodes that come one after another, as they stand in a snapshot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::children::Children;
use super::quota::Quotas;
use super::{CONFIG, DataTree, ExtendedTypes, Meta, Owner, OwnerKind, Tree, ZOOKEEPER, Znode, acl, node, path};
use crate::proto::client::AclList;
use crate::types::{SessionId, WallMs, Zxid};

/// Builds a [`DataTree`] from znodes that come depth first, each after its parent, the root first: the order of
/// Apache's snapshots.
///
/// A znode's children are collected until the next znode is not among its descendants, and are made into a map
/// in one go. So no znode is looked up from the root, and none is hashed twice.
///
/// ```
/// use ringkeeper::proto::client::AclList;
/// use ringkeeper::tree::{Loader, Meta, Owner};
/// use ringkeeper::types::{WallMs, Zxid};
/// let mut loader = Loader::default();
/// let meta = Meta::created(Zxid(1), WallMs(1), Owner::NONE);
/// for path in ["", "/a", "/a/b", "/c"] {
///     loader.znode(path, None, AclList::OPEN, meta).unwrap();
/// }
/// assert!(loader.znode("/a/late", None, AclList::OPEN, meta).is_err());
/// ```
#[derive(Default)]
pub struct Loader {
    sessions: BTreeMap<SessionId, i32>,
    ephemerals: BTreeMap<SessionId, BTreeSet<Arc<str>>>,
    containers: BTreeSet<Arc<str>>,
    acls: acl::AclTable,
    /// The last znode and those above it, the root first.
    open: Vec<Open>,
    /// Path of the last znode.
    path: String,
    znodes: usize,
    data_bytes: u64,
    digest: u64,
}

/// A znode that may get more children.
struct Open {
    znode: Znode,
    path_bytes: usize,
    children: Vec<Znode>,
}

/// Why a znode cannot be where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The first znode is not the root, or there is none.
    NoRoot,
    /// Not a path below the root.
    NotAPath(String),
    /// The parent did not come before, or others came between that are not below it.
    NoParent(String),
    /// There are two of that path.
    Twice(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::NoRoot => write!(f, "the root is not the first znode"),
            LoadError::NotAPath(path) => write!(f, "{path:?} is not the path of a znode"),
            LoadError::NoParent(path) => write!(f, "the znode {path:?} does not follow its parent"),
            LoadError::Twice(path) => write!(f, "the znode {path:?} occurs twice"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Loader {
    /// Puts in a session.
    pub fn session(&mut self, session: SessionId, timeout_ms: i32) {
        self.sessions.insert(session, timeout_ms);
    }

    /// An equal list that shares the memory of the tree's table.
    pub fn intern(&mut self, list: &AclList) -> AclList {
        self.acls.intern(list)
    }

    /// Puts in the next znode, as it is. `acl` must come from [`Loader::intern`]; the root's path is empty.
    ///
    /// After an error the loader is of no more use.
    pub fn znode(&mut self, path: &str, data: Option<&[u8]>, acl: AclList, meta: Meta) -> Result<(), LoadError> {
        self.link(path, Loader::make(path, data, acl, meta))
    }

    /// The first and larger part of [`Loader::znode`], which can be done anywhere and in any order: a znode for that path.
    pub fn make(path: &str, data: Option<&[u8]>, acl: AclList, meta: Meta) -> Znode {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let mut znode = Znode::new(name, data, acl, meta);
        znode.digest = node::digest(path, data, &meta);
        znode
    }

    /// The second part: puts in the next znode, which was made for this path.
    pub fn link(&mut self, path: &str, znode: Znode) -> Result<(), LoadError> {
        let parent = match self.open.is_empty() {
            true if path.is_empty() => "",
            true => return Err(LoadError::NoRoot),
            false => match path.rsplit_once('/') {
                Some((parent, name)) if !name.is_empty() => parent,
                _ => return Err(LoadError::NotAPath(path.to_owned())),
            },
        };
        while self.open.last().is_some_and(|last| last.path_bytes > parent.len()) {
            self.close_last()?;
        }
        if self.path != parent {
            return Err(LoadError::NoParent(path.to_owned()));
        }

        self.znodes += 1;
        self.data_bytes += (path.len() + znode.data_len()) as u64;
        self.digest = self.digest.wrapping_add(znode.digest.into());
        // Znodes with a time to live are sorted out later: see `DataTree::set_extended_types`.
        match znode.owner().kind(ExtendedTypes::Off) {
            OwnerKind::Container => drop(self.containers.insert(path.into())),
            OwnerKind::Session(session) => drop(self.ephemerals.entry(session).or_default().insert(path.into())),
            OwnerKind::None | OwnerKind::Ttl(_) => {}
        }
        self.path.push_str(&path[parent.len()..]);
        self.open.push(Open { znode, path_bytes: path.len(), children: Vec::new() });
        Ok(())
    }

    /// Ends the load: `zxid` is the last transaction that the znodes hold. Quota counts are made anew, and
    /// `/zookeeper/config`, which servers before 3.5 do not have, is put in where it is missing.
    pub fn finish(mut self, zxid: Zxid) -> Result<DataTree, LoadError> {
        while self.open.len() > 1 {
            self.close_last()?;
        }
        let mut root = self.open.pop().ok_or(LoadError::NoRoot)?;
        root.znode.children = build(root.children, "")?;
        let mut tree = Tree {
            root: root.znode,
            zxid,
            znodes: self.znodes,
            // The root's path is counted as "/".
            data_bytes: self.data_bytes + 1,
            digest: self.digest,
        };
        if tree.get(ZOOKEEPER).is_some() && tree.get(CONFIG).is_none() {
            let (parent, name) = path::split(CONFIG).expect("a constant");
            let mut meta = Meta::created(Zxid::ZERO, WallMs(0), Owner::NONE);
            meta.aversion = -1;
            let acl = self.acls.intern(&AclList::read_only());
            tree.link(parent, CONFIG, Znode::new(name, Some(b""), acl, meta), |_| {});
        }
        let mut quotas = Quotas::default();
        quotas.rebuild(&mut tree);
        let Loader { sessions, ephemerals, containers, acls, .. } = self;
        let (ttls, types) = (BTreeSet::new(), ExtendedTypes::Off);
        Ok(DataTree { tree, sessions, ephemerals, containers, ttls, types, acls, quotas, digest_log: VecDeque::new() })
    }

    /// Hands the last znode to its parent. There must be one; the root stays.
    fn close_last(&mut self) -> Result<(), LoadError> {
        let mut last = self.open.pop().expect("the caller has looked");
        if !last.children.is_empty() {
            last.znode.children = build(last.children, &self.path)?;
        }
        let parent = self.open.last_mut().expect("the root's path is the shortest");
        self.path.truncate(parent.path_bytes);
        parent.znode.descendants += 1 + last.znode.descendants;
        parent.children.push(last.znode);
        Ok(())
    }
}

fn build(children: Vec<Znode>, parent: &str) -> Result<Children, LoadError> {
    Children::build(children).map_err(|name| LoadError::Twice(format!("{parent}/{}", String::from_utf8_lossy(&name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(paths: &[&str]) -> Result<DataTree, LoadError> {
        let mut loader = Loader::default();
        for path in paths {
            loader.znode(path, Some(b"x"), AclList::OPEN, Meta::created(Zxid(1), WallMs(1), Owner::NONE))?;
        }
        loader.finish(Zxid(7))
    }

    #[test]
    fn znodes_are_found_where_they_belong_and_the_sums_are_right() {
        let data_tree = load(&["", "/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/ab/b"]).unwrap();
        let tree = data_tree.tree();
        for path in ["/", "/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/ab/b"] {
            assert_eq!(tree.get(path).unwrap().data(), Some(&b"x"[..]), "{path}");
        }
        assert_eq!(tree.get("/a").unwrap().stat().num_children, 2);
        assert_eq!((tree.zxid(), tree.node_count()), (Zxid(7), 8));
        assert_eq!(tree.approximate_data_bytes(), 7 + (1 + 2 + 4 + 6 + 4 + 3 + 5));
        let mut sum = 0u64;
        let mut walk = tree.walk();
        while let Some((path, znode)) = walk.next() {
            sum += u64::from(znode.compute_digest(std::str::from_utf8(path).unwrap()));
        }
        assert_eq!(tree.digest(), sum);
    }

    #[test]
    fn znodes_in_a_wrong_place_are_refused() {
        let error = |paths: &[&str]| load(paths).err().unwrap();
        assert_eq!(error(&[]), LoadError::NoRoot);
        assert_eq!(error(&["/a"]), LoadError::NoRoot);
        assert_eq!(error(&["", ""]), LoadError::NotAPath("".into()));
        assert_eq!(error(&["", "a"]), LoadError::NotAPath("a".into()));
        assert_eq!(error(&["", "/"]), LoadError::NotAPath("/".into()));
        assert_eq!(error(&["", "/a", "/a/"]), LoadError::NotAPath("/a/".into()));
        assert_eq!(error(&["", "/b/c"]), LoadError::NoParent("/b/c".into()));
        assert_eq!(error(&["", "/a", "/b", "/a/c"]), LoadError::NoParent("/a/c".into()));
        assert_eq!(error(&["", "/a", "//b"]), LoadError::NoParent("//b".into()));
        assert_eq!(error(&["", "/a", "/b", "/a"]), LoadError::Twice("/a".into()));
        assert_eq!(error(&["", "/a", "/a/x", "/a/x", "/b"]), LoadError::Twice("/a/x".into()));
    }

    #[test]
    fn a_snapshot_from_before_there_was_a_config_gets_one() {
        let data_tree = load(&["", "/zookeeper", "/zookeeper/quota"]).unwrap();
        assert_eq!(data_tree.tree().get(CONFIG).unwrap().acl().clone(), AclList::read_only());
        assert!(load(&["", "/a"]).unwrap().tree().get(CONFIG).is_none());
    }
}
