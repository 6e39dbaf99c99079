//! What the znodes are after each committed transaction, as the documentation of ZooKeeper has it: a second, slow and plain
//! interpretation of transactions that shares nothing with the tree of the server. It remembers all of the past, so that
//! any reply can be compared with the state that it says it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringkeeper::proto::txn::{CreateKind, LoggedTxn, Txn};
use ringkeeper::types::{SessionId, Zxid};

/// A znode at some time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub data: Option<Vec<u8>>,
    pub version: i32,
    pub owner: i64,
    pub czxid: Zxid,
    pub mzxid: Zxid,
    pub pzxid: Zxid,
    pub children: BTreeSet<Arc<str>>,
}

/// Error codes of ZooKeeper that a reply may carry.
pub mod code {
    pub const BAD_ARGUMENTS: i32 = -8;
    pub const NEW_CONFIG_NO_QUORUM: i32 = -13;
    pub const RECONFIG_IN_PROGRESS: i32 = -14;
    pub const NO_NODE: i32 = -101;
    pub const BAD_VERSION: i32 = -103;
    pub const NODE_EXISTS: i32 = -110;
    pub const NOT_EMPTY: i32 = -111;
    pub const SESSION_EXPIRED: i32 = -112;
    pub const SESSION_MOVED: i32 = -118;
}

#[derive(Default)]
pub struct Model {
    /// Of each path, from which transaction on it was what.
    paths: BTreeMap<Arc<str>, Vec<(Zxid, Option<Node>)>>,
    sessions: BTreeMap<SessionId, i32>,
    /// When each session that has ended did.
    closed: BTreeMap<SessionId, Zxid>,
}

impl Model {
    /// `/` and what stands below it from the start.
    pub fn new() -> Model {
        let mut model = Model::default();
        let children = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        for (path, names) in [
            ("/", &["zookeeper"][..]),
            ("/zookeeper", &["config", "quota"]),
            ("/zookeeper/quota", &[]),
            ("/zookeeper/config", &[]),
        ] {
            let node = Node {
                data: Some(Vec::new()),
                version: 0,
                owner: 0,
                czxid: Zxid::ZERO,
                mzxid: Zxid::ZERO,
                pzxid: Zxid::ZERO,
                children: children(names),
            };
            model.paths.insert(path.into(), vec![(Zxid::ZERO, Some(node))]);
        }
        model
    }

    /// The znode as of a transaction.
    pub fn at(&self, path: &str, zxid: Zxid) -> Option<&Node> {
        let past = self.paths.get(path)?;
        past[..past.partition_point(|(since, _)| *since <= zxid)].last()?.1.as_ref()
    }

    /// How many states of it there have been.
    pub fn states(&self, path: &str) -> usize {
        self.paths.get(path).map_or(0, Vec::len)
    }

    /// The first transaction behind `after` and up to `upto` that changed the znode: its data or whether it is there, or
    /// its children.
    pub fn changed(&self, path: &str, children: bool, after: Zxid, upto: Zxid) -> Option<Zxid> {
        let past = self.paths.get(path)?;
        let from = past.partition_point(|(since, _)| *since <= after);
        let mut before = from.checked_sub(1).and_then(|at| past[at].1.as_ref());
        for (zxid, node) in &past[from..] {
            if *zxid > upto {
                return None;
            }
            let differs = match (before, node) {
                (Some(before), Some(node)) if children => {
                    before.children != node.children || before.czxid != node.czxid
                }
                (Some(before), Some(node)) => before.mzxid != node.mzxid || before.czxid != node.czxid,
                (None, None) => false,
                // A child watch cannot stand on a znode that is not there.
                (None, Some(_)) => !children,
                (Some(_), None) => true,
            };
            if differs {
                return Some(*zxid);
            }
            before = node.as_ref();
        }
        None
    }

    pub fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Takes the next committed transaction. Errors if no server that keeps the rules would have made it.
    pub fn apply(&mut self, zxid: Zxid, logged: &LoggedTxn) -> Result<(), String> {
        let session = logged.header.session;
        match &logged.txn {
            Txn::CreateSession { timeout_ms } => {
                if let Some(closed) = self.closed.get(&session) {
                    return Err(format!("session {session} is opened by {zxid}, and {closed} had closed it"));
                }
                self.sessions.insert(session, *timeout_ms);
            }
            Txn::CloseSession { paths } => return self.close(zxid, session, paths.as_deref().unwrap_or_default()),
            Txn::Error { .. } => {}
            Txn::Multi(parts) if Txn::is_failed_multi(parts) => {}
            Txn::Multi(parts) => {
                for part in parts {
                    self.change(zxid, session, part)?;
                }
            }
            txn => self.change(zxid, session, txn)?,
        }
        Ok(())
    }

    fn change(&mut self, zxid: Zxid, session: SessionId, txn: &Txn) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{zxid} {what}: {txn:?}"));
        match txn {
            Txn::Create { path, data, kind, .. } => {
                let ephemeral = matches!(kind, CreateKind::Plain { ephemeral: true });
                let (parent, name) = split(path);
                if self.now(path).is_some() {
                    return wrong("creates what is there already");
                }
                if ephemeral && !self.is_open(session) {
                    return wrong("creates an ephemeral of a session that is not open");
                }
                let Some(above) = self.now(parent).cloned() else { return wrong("creates a child of nothing") };
                if above.owner != 0 {
                    return wrong("creates a child of an ephemeral");
                }
                let mut children = above.children.clone();
                children.insert(name.into());
                self.put(zxid, parent, Some(Node { children, pzxid: zxid, ..above }));
                let node = Node {
                    data: data.as_ref().map(|data| data.to_vec()),
                    version: 0,
                    owner: if ephemeral { session.0 } else { 0 },
                    czxid: zxid,
                    mzxid: zxid,
                    pzxid: zxid,
                    children: BTreeSet::new(),
                };
                self.put(zxid, path, Some(node));
            }
            Txn::Delete { path, .. } => {
                let Some(node) = self.now(path) else { return wrong("deletes what is not there") };
                if !node.children.is_empty() {
                    return wrong("deletes what has children");
                }
                self.remove(zxid, path);
            }
            Txn::SetData { path, data, version } => {
                let Some(node) = self.now(path).cloned() else { return wrong("changes what is not there") };
                if *version != node.version + 1 {
                    return wrong(&format!("changes version {}", node.version));
                }
                let data = data.as_ref().map(|data| data.to_vec());
                self.put(zxid, path, Some(Node { data, version: *version, mzxid: zxid, ..node }));
            }
            Txn::Reconfig { path, data, version } => {
                let Some(node) = self.now(path).cloned() else { return wrong("changes what is not there") };
                let data = data.as_ref().map(|data| data.to_vec());
                self.put(zxid, path, Some(Node { data, version: *version, mzxid: zxid, ..node }));
            }
            Txn::Check { path, .. } if self.now(path).is_none() => return wrong("checks what is not there"),
            Txn::Check { .. } => {}
            _ => return wrong("is none of the kinds that were asked for"),
        }
        Ok(())
    }

    /// Ephemerals go with their session, all of them and nothing else.
    fn close(&mut self, zxid: Zxid, session: SessionId, paths: &[Arc<str>]) -> Result<(), String> {
        if self.sessions.remove(&session).is_none() {
            // Closed twice: by its client and because it had run out. There is nothing left then.
            return if paths.is_empty() {
                Ok(())
            } else {
                Err(format!("{zxid} closes {session} again, and {paths:?}"))
            };
        }
        self.closed.insert(session, zxid);
        let owned: BTreeSet<Arc<str>> = self.owned_by(session).collect();
        let listed: BTreeSet<Arc<str>> = paths.iter().cloned().collect();
        if owned != listed {
            return Err(format!("{zxid} closes session {session} with {listed:?}, but its ephemerals are {owned:?}"));
        }
        for path in owned {
            self.remove(zxid, &path);
        }
        Ok(())
    }

    fn owned_by(&self, session: SessionId) -> impl Iterator<Item = Arc<str>> {
        let is_owned = move |past: &[(Zxid, Option<Node>)]| {
            past.last().is_some_and(|(_, node)| node.as_ref().is_some_and(|node| node.owner == session.0))
        };
        self.paths.iter().filter(move |(_, past)| is_owned(past)).map(|(path, _)| Arc::clone(path))
    }

    fn remove(&mut self, zxid: Zxid, path: &str) {
        let (parent, name) = split(path);
        self.put(zxid, path, None);
        if let Some(above) = self.now(parent).cloned() {
            let mut children = above.children.clone();
            children.remove(name);
            self.put(zxid, parent, Some(Node { children, pzxid: zxid, ..above }));
        }
    }

    pub fn now(&self, path: &str) -> Option<&Node> {
        self.paths.get(path)?.last()?.1.as_ref()
    }

    fn put(&mut self, zxid: Zxid, path: &str, node: Option<Node>) {
        let past = self.paths.entry(path.into()).or_default();
        match past.last_mut() {
            Some((last, there)) if *last == zxid => *there = node,
            _ => past.push((zxid, node)),
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}
