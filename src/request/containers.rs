//! Which znodes the server removes by itself: containers that were emptied, and znodes whose time to live is over.
//!
//! A look goes through all candidates, in the order of their paths, a bounded part at each step, so that a million of
//! them hold up nothing; what is due is removed at a bounded rate. A new look begins when the interval since the last
//! one began is over, and not before that has ended.
//!
//! Source: `ContainerManager.java`.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::tree::{DataTree, OwnerKind, Znode};
use crate::types::{Instant, WallMs};

/// How often and how fast (`znode.container.*`).
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `znode.container.checkIntervalMs`, at least 1.
    pub check_interval_ms: u64,
    /// `znode.container.maxPerMinute`, at least 1.
    pub per_minute_max: u64,
    /// `znode.container.maxNeverUsedIntervalMs`: a container that never had a child goes after so long; 0 is never.
    pub never_used_ms: i64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { check_interval_ms: 60_000, per_minute_max: 10_000, never_used_ms: 0 }
    }
}

/// Candidates that one step looks at.
const LOOKS_PER_STEP_MAX: usize = 1000;
/// Znodes that are due and not removed yet, beyond which no further candidate is looked at.
const DUE_MAX: usize = 1000;

const MINUTE_MS: u64 = 60_000;

/// See the module.
pub struct ContainerManager {
    settings: Settings,
    /// When the last look began.
    began: Instant,
    look: Option<Look>,
    due: VecDeque<Arc<str>>,
    /// Removals that the rate allows, in 60,000ths of one.
    allowance: u64,
    stepped: Instant,
}

/// Which candidates are looked at, and the last path that was.
#[derive(Clone)]
struct Look {
    at_ttls: bool,
    after: Option<Arc<str>>,
}

impl ContainerManager {
    /// Begins its first look an interval after `now`.
    pub fn new(settings: Settings, now: Instant) -> ContainerManager {
        ContainerManager { settings, began: now, look: None, due: VecDeque::new(), allowance: 0, stepped: now }
    }

    /// What is to be removed now. To be called every few dozen ms.
    pub fn step(&mut self, now: Instant, wall: WallMs, tree: &DataTree) -> Vec<Arc<str>> {
        let passed_ms = now.since_ms(self.stepped);
        self.stepped = now;
        if self.look.is_none() && self.due.is_empty() {
            if now.since_ms(self.began) < self.settings.check_interval_ms {
                return Vec::new();
            }
            self.began = now;
            self.look = Some(Look { at_ttls: false, after: None });
            // The first goes at once.
            self.allowance = MINUTE_MS;
        } else {
            self.allowance = (self.allowance + passed_ms.saturating_mul(self.settings.per_minute_max))
                .min(MINUTE_MS.max(passed_ms.saturating_mul(self.settings.per_minute_max)));
        }
        self.look_on(wall, tree);
        let count = (self.allowance / MINUTE_MS).min(self.due.len() as u64);
        self.allowance -= count * MINUTE_MS;
        self.due.drain(..count as usize).collect()
    }

    fn look_on(&mut self, wall: WallMs, tree: &DataTree) {
        let mut looks = LOOKS_PER_STEP_MAX;
        while looks > 0
            && self.due.len() < DUE_MAX
            && let Some(look) = &mut self.look
        {
            let candidates = if look.at_ttls { tree.ttls() } else { tree.containers() };
            match after(candidates, look.after.as_ref()) {
                Some(path) => {
                    looks -= 1;
                    look.after = Some(Arc::clone(path));
                    let node = tree.tree().get(path);
                    if node.is_some_and(|node| is_due(node, tree, wall, self.settings.never_used_ms)) {
                        self.due.push_back(Arc::clone(path));
                    }
                }
                None if look.at_ttls => self.look = None,
                None => *look = Look { at_ttls: true, after: None },
            }
        }
    }
}

fn after<'a>(paths: &'a BTreeSet<Arc<str>>, last: Option<&Arc<str>>) -> Option<&'a Arc<str>> {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    paths.range::<Arc<str>, _>((from, Bound::Unbounded)).next()
}

/// A container that had children, or never had any for long enough; a znode unchanged for longer than its time to live.
/// Neither goes while it has children.
fn is_due(node: &Znode, tree: &DataTree, wall: WallMs, never_used_ms: i64) -> bool {
    let unchanged_ms = wall.0.saturating_sub(node.meta().mtime.0);
    node.child_count() == 0
        && match node.meta().owner.kind(tree.extended_types()) {
            OwnerKind::Container => {
                // A container that was just made must live to get its first child.
                node.meta().cversion > 0 || (never_used_ms != 0 && unchanged_ms > never_used_ms)
            }
            OwnerKind::Ttl(ttl_ms) => ttl_ms != 0 && unchanged_ms > ttl_ms,
            OwnerKind::None | OwnerKind::Session(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::AclList;
    use crate::proto::txn::{CreateKind, Txn, TxnHeader};
    use crate::tree::ExtendedTypes;
    use crate::types::{SessionId, Zxid};

    fn tree() -> DataTree {
        let mut tree = DataTree::new();
        tree.set_extended_types(ExtendedTypes::On);
        tree
    }

    fn apply(tree: &mut DataTree, at: i64, txn: &Txn) {
        let zxid = Zxid(tree.tree().zxid().0 + 1);
        tree.apply(&TxnHeader { session: SessionId(1), cxid: 0, zxid, time: WallMs(at) }, txn);
    }

    fn create(tree: &mut DataTree, at: i64, path: &str, kind: CreateKind) {
        let txn = Txn::Create {
            path: path.into(),
            data: None,
            acl: AclList::OPEN,
            kind,
            with_stat: true,
            parent_cversion: -1,
        };
        apply(tree, at, &txn);
    }

    fn delete(tree: &mut DataTree, path: &str) {
        apply(tree, 0, &Txn::Delete { path: path.into(), by_server: false });
    }

    const SETTINGS: Settings = Settings { check_interval_ms: 1000, per_minute_max: 60_000, never_used_ms: 0 };

    /// What one whole look removes that begins at `wall`.
    fn removed(settings: Settings, tree: &DataTree, wall: i64) -> Vec<String> {
        let mut manager = ContainerManager::new(settings, Instant(0));
        let mut found = Vec::new();
        for now in (1000..2000).step_by(50) {
            found.extend(manager.step(Instant(now), WallMs(wall), tree).iter().map(|path| path.to_string()));
        }
        found
    }

    #[test]
    fn a_container_goes_once_it_had_children_and_has_none() {
        let mut tree = tree();
        for path in ["/new", "/used", "/full"] {
            create(&mut tree, 10, path, CreateKind::Container);
        }
        for path in ["/used/a", "/full/a"] {
            create(&mut tree, 10, path, CreateKind::Plain { ephemeral: false });
        }
        delete(&mut tree, "/used/a");
        assert_eq!(removed(SETTINGS, &tree, 1 << 40), ["/used"]);
        let settings = Settings { never_used_ms: 100, ..SETTINGS };
        assert_eq!(removed(settings, &tree, 110), ["/used"]);
        assert_eq!(removed(settings, &tree, 111), ["/new", "/used"]);
    }

    #[test]
    fn a_time_to_live_counts_from_the_last_change_and_not_while_there_are_children() {
        let mut tree = tree();
        create(&mut tree, 10, "/parent", CreateKind::Ttl(100));
        create(&mut tree, 50, "/parent/ttl", CreateKind::Ttl(200));
        assert_eq!(removed(SETTINGS, &tree, 250), Vec::<String>::new());
        assert_eq!(removed(SETTINGS, &tree, 251), ["/parent/ttl"]);
        apply(&mut tree, 100, &Txn::SetData { path: "/parent/ttl".into(), data: None, version: 1 });
        assert_eq!(removed(SETTINGS, &tree, 300), Vec::<String>::new());
        delete(&mut tree, "/parent/ttl");
        assert_eq!(removed(SETTINGS, &tree, 300), ["/parent"], "the child counted for nothing");
        tree.set_extended_types(ExtendedTypes::Off);
        assert_eq!(removed(SETTINGS, &tree, 300), Vec::<String>::new());
    }

    #[test]
    fn many_go_at_the_rate_and_in_bounded_steps() {
        let mut tree = tree();
        for i in 0..3000 {
            create(&mut tree, 0, &format!("/n{i:04}"), CreateKind::Ttl(1));
        }
        let mut manager = ContainerManager::new(Settings { per_minute_max: 6000, ..SETTINGS }, Instant(0));
        let mut gone = Vec::new();
        let mut now = 0;
        while gone.len() < 3000 {
            now += 50;
            let step = manager.step(Instant(now), WallMs(1000), &tree);
            assert!(step.len() <= 5, "100 a second are 5 in 50 ms");
            for path in &step {
                delete(&mut tree, path);
            }
            gone.extend(step);
            assert!(now < 60_000, "it goes on");
        }
        assert!(now >= 30_000, "3000 at 100 a second take 30 s, not {now} ms");
        gone.dedup();
        assert_eq!(gone.len(), 3000);
    }

    #[test]
    fn a_look_begins_at_each_interval() {
        let mut tree = tree();
        create(&mut tree, 0, "/a", CreateKind::Ttl(1));
        let mut manager = ContainerManager::new(SETTINGS, Instant(0));
        assert!(manager.step(Instant(999), WallMs(1000), &tree).is_empty());
        assert_eq!(manager.step(Instant(1000), WallMs(1000), &tree).len(), 1);
        assert!(manager.step(Instant(1999), WallMs(1000), &tree).is_empty());
        assert_eq!(manager.step(Instant(2000), WallMs(1000), &tree).len(), 1);
    }
}
