//! The replicated state: the znodes, who owns the ephemerals, the sessions.
//!
//! [`Tree`] is one version of the znodes. It is persistent: a clone costs a handful of reference counts
//! and never changes again, so the shards that answer reads each hold the newest committed version, a
//! snapshot is written from one while writes go on, and a failed multi is undone by taking up the version
//! before it. [`DataTree`] is the writer's: a `Tree` and the indexes that only the writer needs, changed by
//! [`DataTree::apply`] alone.
//!
//! Source: `DataTree.java`, `DataNode.java`.

pub mod acl;
mod children;
mod load;
mod node;
mod packed;
pub mod path;
pub mod quota;
mod walk;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

pub use load::{LoadError, Loader};
pub use node::{ExtendedTypes, Meta, Owner, OwnerKind, Znode};
pub use walk::Walk;

use self::quota::Quotas;
use crate::proto::ErrorCode;
use crate::proto::client::{AclList, Stat};
use crate::proto::txn::{CreateKind, Txn, TxnHeader};
use crate::types::{SessionId, WallMs, Zxid};

/// The reserved subtree.
pub const ZOOKEEPER: &str = "/zookeeper";
/// Where quotas are kept.
pub const QUOTA: &str = "/zookeeper/quota";
/// Where the ensemble's configuration can be read.
pub const CONFIG: &str = "/zookeeper/config";

/// One version of all znodes.
#[derive(Clone)]
pub struct Tree {
    root: Znode,
    zxid: Zxid,
    znodes: usize,
    data_bytes: u64,
    digest: u64,
}

impl Tree {
    /// The znode at `path`; `None` also for what is no path.
    pub fn get(&self, path: &str) -> Option<&Znode> {
        path::names(path)?.try_fold(&self.root, |node, name| node.child(name))
    }

    /// The root.
    pub fn root(&self) -> &Znode {
        &self.root
    }

    /// The last transaction applied.
    pub fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// Number of znodes as Apache counts them: the root counts twice, once under its old name.
    pub fn node_count(&self) -> usize {
        self.znodes + 1
    }

    /// Bytes of all paths and data (`approximateDataSize`).
    pub fn approximate_data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Apache's digest of all znodes: the sum of theirs modulo 2^64.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Changes one znode under `edit`, keeping the sums. `None` if it is not there.
    fn edit<T>(&mut self, path: &str, edit: impl FnOnce(&mut Znode) -> T) -> Option<T> {
        self.edit_below(path, 0, edit)
    }

    /// The same where it gives the znode, and all above it, `more` descendants. It must be there if that is not 0.
    fn edit_below<T>(&mut self, path: &str, more: i32, edit: impl FnOnce(&mut Znode) -> T) -> Option<T> {
        let node = path::names(path)?.try_fold(&mut self.root, |node, name| {
            node.descendants = node.descendants.wrapping_add_signed(more);
            node.children.get_mut(name.as_bytes())
        })?;
        node.descendants = node.descendants.wrapping_add_signed(more);
        let bytes = node.data_len();
        let result = edit(node);
        self.data_bytes = self.data_bytes - bytes as u64 + node.data_len() as u64;
        let digest = node.compute_digest(path);
        self.digest = self.digest.wrapping_sub(node.digest.into()).wrapping_add(digest.into());
        node.digest = digest;
        Some(result)
    }

    /// Hangs a new znode under its parent, which must be there and have no such child.
    fn link(&mut self, parent: &str, path: &str, mut node: Znode, edit_parent: impl FnOnce(&mut Znode)) {
        self.znodes += 1;
        self.data_bytes += (path.len() + node.data_len()) as u64;
        node.digest = node.compute_digest(path);
        self.digest = self.digest.wrapping_add(node.digest.into());
        self.edit_below(parent, 1, |parent| {
            edit_parent(parent);
            parent.children.insert(node);
        })
        .expect("the caller has looked the parent up");
    }

    /// Takes a znode off its parent, with what is below it.
    fn unlink(&mut self, parent: &str, path: &str, name: &str, edit_parent: impl FnOnce(&mut Znode)) -> Option<Znode> {
        let fewer = self.get(path).map_or(0, |node| -1 - node.descendants as i32);
        let removed = self.edit_below(parent, fewer, |parent| {
            edit_parent(parent);
            parent.children.remove(name.as_bytes())
        })??;
        self.znodes -= 1;
        self.data_bytes -= (path.len() + removed.data_len()) as u64;
        self.digest = self.digest.wrapping_sub(removed.digest.into());
        Some(removed)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree({} znodes at {}, digest {:x})", self.znodes, self.zxid, self.digest)
    }
}

impl fmt::Debug for DataTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data{:?}", self.tree)
    }
}

/// What a transaction did, for the reply to whoever asked for it.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// A session was opened or closed; there is nothing to say.
    Done,
    /// A znode was removed.
    Deleted,
    /// A version was as expected.
    Checked,
    /// A znode was made.
    Created {
        /// With its sequence number.
        path: Arc<str>,
        /// As of the creation.
        stat: Stat,
        /// Whether the request's opcode asks for the stat.
        with_stat: bool,
    },
    /// Data or ACL were set.
    Stat(Stat),
    /// The ensemble has another configuration.
    Reconfigured {
        /// Its text.
        data: Option<Bytes>,
        /// Of `/zookeeper/config`.
        stat: Stat,
    },
    /// Nothing was done; these were asked for.
    Paths(Vec<Arc<str>>),
    /// Nothing was done.
    Failed(i32),
    /// One for each part.
    Multi(Vec<Outcome>),
}

/// A change that watches look at.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Created, deleted or changed.
    pub kind: ChangeKind,
    /// The znode.
    pub path: Arc<str>,
    /// Its ACL: an event goes only to those who may read it (CVE-2024-23944).
    pub acl: AclList,
    /// The parent's ACL, for the event on the parent. Not meaningful for `Data`.
    pub parent_acl: AclList,
}

/// See [`Change`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// The znode is new, and its parent has a child more.
    Created,
    /// The znode is gone, and its parent has a child less.
    Deleted,
    /// The znode has other data.
    Data,
}

/// What [`DataTree::apply`] did.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// For the reply.
    pub outcome: Outcome,
    /// For the watches, in order.
    pub changes: Vec<Change>,
}

/// The writer's state: the newest version of the tree, and its indexes.
#[derive(Clone)]
pub struct DataTree {
    tree: Tree,
    sessions: BTreeMap<SessionId, i32>,
    ephemerals: BTreeMap<SessionId, BTreeSet<Arc<str>>>,
    containers: BTreeSet<Arc<str>>,
    /// Znodes with a time to live; empty while `types` is off.
    ttls: BTreeSet<Arc<str>>,
    types: ExtendedTypes,
    acls: acl::AclTable,
    quotas: Quotas,
    /// See [`DataTree::digest_log`].
    digest_log: VecDeque<(Zxid, u64)>,
}

/// Digests that are remembered, and how many transactions there are from one to the next.
const DIGESTS_MAX: usize = 1024;
const DIGEST_INTERVAL: i64 = 128;

impl Default for DataTree {
    fn default() -> DataTree {
        DataTree::new()
    }
}

impl DataTree {
    /// The tree of a fresh server: the root, `/zookeeper`, and its `quota` and `config`.
    pub fn new() -> DataTree {
        let meta = Meta::created(Zxid::ZERO, WallMs(0), Owner::NONE);
        let mut loader = Loader::default();
        for path in ["", ZOOKEEPER, QUOTA] {
            loader.znode(path, Some(b""), AclList::OPEN, meta).expect("constants in the right order");
        }
        loader.finish(Zxid::ZERO).expect("constants in the right order")
    }

    /// The newest version.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Digests of the tree after every 128th transaction, the newest 1024, oldest first: servers that agree have the same
    /// (`DataTree.logZxidDigest`).
    pub fn digest_log(&self) -> impl Iterator<Item = (Zxid, u64)> {
        self.digest_log.iter().copied()
    }

    /// Forgets the digests of transactions that were replayed: a tree that was loaded while it changed passes through states
    /// that no server has been in.
    pub fn forget_digests(&mut self) {
        self.digest_log.clear();
    }

    /// All sessions and their timeouts in ms.
    pub fn sessions(&self) -> &BTreeMap<SessionId, i32> {
        &self.sessions
    }

    /// Paths of a session's ephemerals, sorted.
    pub fn ephemerals_of(&self, session: SessionId) -> impl Iterator<Item = &Arc<str>> {
        self.ephemerals.get(&session).into_iter().flatten()
    }

    /// Those of a session's ephemerals whose paths begin with `prefix`, sorted.
    pub fn ephemerals_below<'a>(&'a self, session: SessionId, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let paths = self.ephemerals.get(&session);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = paths.into_iter().flat_map(move |paths| paths.range::<str, _>(from));
        found.take_while(move |path| path.starts_with(prefix))
    }

    /// The sessions that own ephemerals.
    pub fn sessions_with_ephemerals(&self) -> impl Iterator<Item = SessionId> {
        self.ephemerals.keys().copied()
    }

    /// The sessions that own ephemerals, and the paths of these.
    pub fn ephemerals(&self) -> &BTreeMap<SessionId, BTreeSet<Arc<str>>> {
        &self.ephemerals
    }

    /// Number of ephemerals of all sessions.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.values().map(BTreeSet::len).sum()
    }

    /// Containers, sorted by path: candidates for removal once they are empty.
    pub fn containers(&self) -> &BTreeSet<Arc<str>> {
        &self.containers
    }

    /// Znodes with a time to live, sorted by path: candidates for removal once they are empty and it is over.
    pub fn ttls(&self) -> &BTreeSet<Arc<str>> {
        &self.ttls
    }

    /// Whether znodes may have a time to live.
    pub fn extended_types(&self) -> ExtendedTypes {
        self.types
    }

    /// Sets whether znodes may have a time to live; those that have one already were taken for ephemerals until now.
    /// To be called once, before the first request.
    pub fn set_extended_types(&mut self, types: ExtendedTypes) {
        self.types = types;
        let is_ttl = |session: &SessionId| matches!(Owner(session.0).kind(types), OwnerKind::Ttl(_));
        let owners: Vec<SessionId> = self.ephemerals.keys().copied().filter(is_ttl).collect();
        for owner in owners {
            let paths = self.ephemerals.remove(&owner).unwrap_or_default();
            for path in &paths {
                self.tree.edit(path, Znode::mark_ttl);
            }
            self.ttls.extend(paths);
        }
    }

    /// The limits that a change goes beyond (`checkQuota`); `None` for `before` is a znode that is to be created.
    pub fn exceeded_quotas(
        &self,
        path: &str,
        before: Option<usize>,
        data_bytes: usize,
    ) -> impl Iterator<Item = quota::Exceeded> {
        self.quotas.exceeded(&self.tree, path, before, data_bytes)
    }

    /// The distinct ACLs in use, but for the open one.
    pub fn acls(&self) -> &acl::AclTable {
        &self.acls
    }

    /// Puts the text of the ensemble's configuration into `/zookeeper/config`, if another one is there. No transaction does
    /// it: it is what every server knows from elsewhere. To be called while nobody is served.
    ///
    /// Source: `ZKDatabase.initConfigInZKDatabase`.
    pub fn set_config(&mut self, text: &str, version: Zxid, now: WallMs) {
        if self.tree.get(CONFIG).is_some_and(|node| node.data() != Some(text.as_bytes())) {
            self.tree.edit(CONFIG, |node| {
                let meta = Meta { version: -1, mzxid: version, mtime: now, ..node.meta() };
                node.set_data(Some(text.as_bytes()), meta);
            });
        }
    }

    /// Takes up an older version of the znodes, as when a multi fails half-way, and puts the indexes
    /// right for what `changes` had changed in the name of `session`.
    fn undo(&mut self, tree: Tree, session: SessionId, changes: &[Change]) {
        self.tree = tree;
        for change in changes.iter().filter(|change| change.kind != ChangeKind::Data) {
            self.unindex(&change.path, OwnerKind::Container);
            self.unindex(&change.path, OwnerKind::Ttl(0));
            self.unindex(&change.path, OwnerKind::Session(session));
            if let Some(owner) = self.tree.get(&change.path).map(|node| node.meta().owner) {
                self.index(&change.path, owner);
            }
            self.quotas.changed(&change.path, &self.tree);
        }
    }

    /// Applies the next transaction. Never fails: what cannot be done, because a replay meets a state
    /// that is newer already, is left out as `DataTree.processTxn` leaves it out.
    pub fn apply(&mut self, header: &TxnHeader, txn: &Txn) -> Applied {
        let mut changes = Vec::new();
        let outcome = match txn {
            Txn::CreateSession { timeout_ms } => {
                self.sessions.insert(header.session, *timeout_ms);
                Outcome::Done
            }
            Txn::CloseSession { paths } => {
                self.close_session(header, paths.as_deref().unwrap_or_default(), &mut changes);
                Outcome::Done
            }
            Txn::Multi(parts) if Txn::is_failed_multi(parts) => Outcome::Multi(failed_parts(parts)),
            Txn::Multi(parts) => {
                Outcome::Multi(parts.iter().map(|part| self.apply_part(header, part, &mut changes)).collect())
            }
            txn => self.apply_part(header, txn, &mut changes),
        };
        self.passed(header.zxid);
        Applied { outcome, changes }
    }

    /// A transaction was applied: all of its changes are in the tree.
    fn passed(&mut self, zxid: Zxid) {
        if zxid <= self.tree.zxid {
            return;
        }
        self.tree.zxid = zxid;
        if zxid.0 % DIGEST_INTERVAL == 0 {
            if self.digest_log.len() == DIGESTS_MAX {
                self.digest_log.pop_front();
            }
            self.digest_log.push_back((zxid, self.tree.digest()));
        }
    }

    fn apply_part(&mut self, header: &TxnHeader, txn: &Txn, changes: &mut Vec<Change>) -> Outcome {
        let result = match txn {
            Txn::Create { path, data, acl, kind, with_stat, parent_cversion } => {
                let owner = match kind {
                    CreateKind::Plain { ephemeral: false } => Owner::NONE,
                    CreateKind::Plain { ephemeral: true } => Owner(header.session.0),
                    CreateKind::Container => Owner::CONTAINER,
                    CreateKind::Ttl(ttl_ms) => Owner::ttl(*ttl_ms),
                };
                let guarded = matches!(kind, CreateKind::Plain { .. }) && !with_stat;
                self.create(header, path, data.as_deref(), acl, owner, *parent_cversion, guarded, changes)
                    .map(|stat| Outcome::Created { path: Arc::clone(path), stat, with_stat: *with_stat })
            }
            Txn::Delete { path, .. } => self.delete(header.zxid, path, changes).map(|()| Outcome::Deleted),
            Txn::SetData { path, data, version } => {
                self.set_data(header, path, data.as_deref(), *version, changes).map(Outcome::Stat)
            }
            Txn::Reconfig { path, data, version } => self
                .set_data(header, path, data.as_deref(), *version, changes)
                .map(|stat| Outcome::Reconfigured { data: data.clone(), stat }),
            Txn::SetAcl { path, acl, version } => {
                let acl = self.acls.intern(acl);
                self.tree
                    .edit(path, |node| {
                        node.set_acl(acl, Meta { aversion: *version, ..node.meta() });
                        node.stat()
                    })
                    .map(Outcome::Stat)
                    .ok_or(ErrorCode::NoNode)
            }
            Txn::Check { .. } => Ok(Outcome::Checked),
            Txn::Error { err } => Ok(Outcome::Failed(*err)),
            Txn::CreateSession { .. } | Txn::CloseSession { .. } | Txn::Multi(_) => Ok(Outcome::Done),
        };
        result.unwrap_or_else(|code| Outcome::Failed(code.code()))
    }

    #[allow(clippy::too_many_arguments)] // The fields of one record; a struct for one call would only rename them.
    fn create(
        &mut self,
        header: &TxnHeader,
        path: &Arc<str>,
        data: Option<&[u8]>,
        acl: &AclList,
        owner: Owner,
        parent_cversion: i32,
        fix_parent_if_exists: bool,
        changes: &mut Vec<Change>,
    ) -> Result<Stat, ErrorCode> {
        let (parent_path, name) = path::split(path).ok_or(ErrorCode::NoNode)?;
        let parent = self.tree.get(parent_path).ok_or(ErrorCode::NoNode)?;
        let acl = self.acls.intern(acl);
        // A snapshot that was taken while writes went on may hold later changes of the parent already:
        // its count and pzxid must not move back.
        let parent_cversion =
            if parent_cversion == -1 { parent.meta().cversion.wrapping_add(1) } else { parent_cversion };
        let advance = |parent: &mut Znode| {
            let meta = parent.meta();
            if parent_cversion > meta.cversion {
                parent.set_meta(Meta { cversion: parent_cversion, pzxid: header.zxid, ..meta });
            }
        };
        if parent.child(name).is_some() {
            self.tree.edit(path, |node| node.set_acl(acl, node.meta()));
            if fix_parent_if_exists {
                self.tree.edit(parent_path, advance);
            }
            return Err(ErrorCode::NodeExists);
        }
        let parent_acl = parent.acl().clone();
        let mut node = Znode::new(name, data, acl.clone(), Meta::created(header.zxid, header.time, owner));
        if matches!(owner.kind(self.types), OwnerKind::Ttl(_)) {
            node.mark_ttl();
        }
        let stat = node.stat();
        self.tree.link(parent_path, path, node, advance);
        self.index(path, owner);
        self.quotas.changed(path, &self.tree);
        self.quotas.count(&mut self.tree, path, 1, data.map_or(0, <[u8]>::len) as i64);
        changes.push(Change { kind: ChangeKind::Created, path: Arc::clone(path), acl, parent_acl });
        Ok(stat)
    }

    fn delete(&mut self, zxid: Zxid, path: &Arc<str>, changes: &mut Vec<Change>) -> Result<(), ErrorCode> {
        let (parent_path, name) = path::split(path).ok_or(ErrorCode::NoNode)?;
        let mut parent_acl = AclList::OPEN;
        // The parent's pzxid moves even where the znode has gone already (see `create`).
        let removed = self.tree.unlink(parent_path, path, name, |parent| {
            parent_acl = parent.acl().clone();
            let meta = parent.meta();
            parent.set_meta(Meta { pzxid: meta.pzxid.max(zxid), ..meta });
        });
        let removed = removed.ok_or(ErrorCode::NoNode)?;
        self.unindex(path, removed.meta().owner.kind(self.types));
        self.forget_below(path, &removed);
        self.quotas.changed(path, &self.tree);
        self.quotas.count(&mut self.tree, path, -1, -(removed.data_len() as i64));
        changes.push(Change {
            kind: ChangeKind::Deleted,
            path: Arc::clone(path),
            acl: removed.acl().clone(),
            parent_acl,
        });
        Ok(())
    }

    /// Takes what is below a deleted znode out of the sums and indexes. No request may delete a znode with children;
    /// but a snapshot that was taken while writes went on may hold children that were created after the znode was
    /// deleted and created again, and the replay comes to that deletion first.
    fn forget_below(&mut self, path: &str, deleted: &Znode) {
        let mut walk = Walk::from(deleted, path);
        walk.next();
        while let Some((path, znode)) = walk.next() {
            self.tree.znodes -= 1;
            self.tree.data_bytes -= (path.len() + znode.data_len()) as u64;
            self.tree.digest = self.tree.digest.wrapping_sub(znode.digest.into());
            let path: Arc<str> = String::from_utf8_lossy(path).into();
            self.unindex(&path, znode.meta().owner.kind(self.types));
            self.quotas.changed(&path, &self.tree);
        }
    }

    fn set_data(
        &mut self,
        header: &TxnHeader,
        path: &Arc<str>,
        data: Option<&[u8]>,
        version: i32,
        changes: &mut Vec<Change>,
    ) -> Result<Stat, ErrorCode> {
        let (stat, acl, grown) = self
            .tree
            .edit(path, |node| {
                let before = node.data_len() as i64;
                node.set_data(data, Meta { version, mzxid: header.zxid, mtime: header.time, ..node.meta() });
                (node.stat(), node.acl().clone(), node.data_len() as i64 - before)
            })
            .ok_or(ErrorCode::NoNode)?;
        self.quotas.count(&mut self.tree, path, 0, grown);
        changes.push(Change { kind: ChangeKind::Data, path: Arc::clone(path), acl, parent_acl: AclList::OPEN });
        Ok(stat)
    }

    fn close_session(&mut self, header: &TxnHeader, listed: &[Arc<str>], changes: &mut Vec<Change>) {
        self.sessions.remove(&header.session);
        let owned: Vec<Arc<str>> = self.ephemerals_of(header.session).cloned().collect();
        for path in listed.iter().chain(&owned) {
            // A listed znode may have gone before, and an owned one with the list.
            let _ = self.delete(header.zxid, path, changes);
        }
    }

    fn index(&mut self, path: &str, owner: Owner) {
        match owner.kind(self.types) {
            OwnerKind::None => {}
            OwnerKind::Container => drop(self.containers.insert(path.into())),
            OwnerKind::Ttl(_) => drop(self.ttls.insert(path.into())),
            OwnerKind::Session(session) => drop(self.ephemerals.entry(session).or_default().insert(path.into())),
        }
    }

    fn unindex(&mut self, path: &Arc<str>, owner: OwnerKind) {
        match owner {
            OwnerKind::None => {}
            OwnerKind::Container => drop(self.containers.remove(path)),
            OwnerKind::Ttl(_) => drop(self.ttls.remove(path)),
            OwnerKind::Session(session) => {
                let Some(paths) = self.ephemerals.get_mut(&session) else { return };
                paths.remove(path);
                if paths.is_empty() {
                    self.ephemerals.remove(&session);
                }
            }
        }
    }

    /// Applies the parts of a multi one by one as `next` makes them, each seeing those before it; if one
    /// fails, takes all of them back. What is returned is the transaction to log and what it did.
    pub fn apply_multi<Part>(
        &mut self,
        header: &TxnHeader,
        parts: &[Part],
        mut next: impl FnMut(&DataTree, &Part) -> Result<Txn, ErrorCode>,
    ) -> (Txn, Applied) {
        let before = self.tree.clone();
        let mut changes = Vec::new();
        let mut txns = Vec::with_capacity(parts.len());
        let mut outcomes = Vec::with_capacity(parts.len());
        for part in parts {
            match next(self, part) {
                Ok(txn) => {
                    outcomes.push(self.apply_part(header, &txn, &mut changes));
                    txns.push(txn);
                }
                Err(code) => {
                    self.undo(before, header.session, &changes);
                    changes.clear();
                    if code == ErrorCode::MarshallingError {
                        // Not a part is refused, but what cannot be read at all.
                        self.passed(header.zxid);
                        let err = code.code();
                        return (Txn::Error { err }, Applied { outcome: Outcome::Failed(err), changes });
                    }
                    txns.push(Txn::Error { err: code.code() });
                    let rest = parts.len() - txns.len();
                    txns.extend((0..rest).map(|_| Txn::Error { err: ErrorCode::RuntimeInconsistency.code() }));
                    outcomes = failed_parts(&txns);
                    break;
                }
            }
        }
        self.passed(header.zxid);
        (Txn::Multi(txns), Applied { outcome: Outcome::Multi(outcomes), changes })
    }
}

/// Results of a multi that failed: 0 for the parts before the failure, its code, and -2 for those after.
fn failed_parts(parts: &[Txn]) -> Vec<Outcome> {
    parts.iter().map(|part| Outcome::Failed(if let Txn::Error { err } = part { *err } else { 0 })).collect()
}
