//! Watches: which connections of a shard want to hear of which znodes.
//!
//! Watches belong to a connection and go with it. There are two tables, for data and for children;
//! addWatch puts a persistent watch into both, a recursive one into the data table only.
//! Source: `WatchManager.java`, `DataTree.setWatches`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::{Change, ChangeKind, path};
use crate::proto::client::{AclList, EventType};
use crate::proto::op::Which;

/// A connection's slot in its shard's table.
pub type Slot = u32;

/// How long a watch lasts and how far it sees; one connection may have several on one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Gone after its first event.
    Standard = 1,
    /// Stays.
    Persistent = 2,
    /// Stays, and sees everything below its path.
    PersistentRecursive = 4,
}

const STANDARD: u8 = Mode::Standard as u8;
const PERSISTENT: u8 = Mode::Persistent as u8;
const RECURSIVE: u8 = Mode::PersistentRecursive as u8;

/// Lookups only, never iterated: so its order cannot show.
type Map<V> = HashMap<Arc<str>, V, BuildHasherDefault<SipHasher13>>;

/// Connections and their modes at one path of one table.
type Watchers = BTreeMap<Slot, u8>;

/// All watches of one shard.
#[derive(Default)]
pub struct Watches {
    data: Table,
    child: Table,
}

#[derive(Default)]
struct Table {
    by_path: Map<Watchers>,
    /// What to take out when a connection goes.
    by_slot: BTreeMap<Slot, BTreeSet<Arc<str>>>,
    recursive: usize,
    total: usize,
}

impl Watches {
    /// A one-shot watch for data changes, creation and deletion.
    pub fn watch_data(&mut self, path: &str, slot: Slot) {
        self.data.add(path, slot, Mode::Standard);
    }

    /// A one-shot watch for changes of the set of children, and deletion.
    pub fn watch_children(&mut self, path: &str, slot: Slot) {
        self.child.add(path, slot, Mode::Standard);
    }

    /// A watch that stays (`addWatch`).
    pub fn watch_persistently(&mut self, path: &str, slot: Slot, recursive: bool) {
        if recursive {
            self.data.add(path, slot, Mode::PersistentRecursive);
        } else {
            self.data.add(path, slot, Mode::Persistent);
            self.child.add(path, slot, Mode::Persistent);
        }
    }

    /// Whether the connection has such a watch at exactly that path (`checkWatches`).
    pub fn has(&self, path: &str, slot: Slot, which: Which) -> bool {
        let (data, child) = modes_of(which);
        self.data.modes(path, slot) & data != 0 || self.child.modes(path, slot) & child != 0
    }

    /// Takes such watches away; false if there was none (`removeWatches`).
    pub fn remove(&mut self, path: &str, slot: Slot, which: Which) -> bool {
        let (data, child) = modes_of(which);
        let in_data = self.data.remove(path, slot, data);
        self.child.remove(path, slot, child) || in_data
    }

    /// Takes out everything of a connection that has gone.
    pub fn remove_all(&mut self, slot: Slot) {
        self.data.remove_all(slot);
        self.child.remove_all(slot);
    }

    /// The connection with most watches.
    pub fn greatest(&self) -> Option<Slot> {
        let count = |table: &Table, slot: &Slot| table.by_slot.get(slot).map_or(0, BTreeSet::len);
        let slots = self.data.by_slot.keys().chain(self.child.by_slot.keys());
        slots.max_by_key(|slot| count(&self.data, slot) + count(&self.child, slot)).copied()
    }

    /// Connections that watch, paths that are watched and watches, of the data table (`wchs`).
    pub fn data_summary(&self) -> (usize, usize, usize) {
        (self.data.by_slot.len(), self.data.by_path.len(), self.data.total)
    }

    /// Each watch of the data table: the connection, and the path.
    pub fn data_watches(&self) -> impl Iterator<Item = (Slot, &Arc<str>)> {
        self.data.by_slot.iter().flat_map(|(slot, paths)| paths.iter().map(move |path| (*slot, path)))
    }

    /// Watches in both tables (`zk_watch_count`).
    pub fn count(&self) -> usize {
        self.data.total + self.child.total
    }

    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Finds out whom a change concerns, in the order in which the events are due, and takes out the
    /// one-shot watches that it uses up. `event` gets the connection, what to tell it, about which
    /// path, and the ACL that it must be able to read.
    pub fn trigger(&mut self, change: &Change, mut event: impl FnMut(Slot, EventType, &str, &AclList)) {
        let path = &*change.path;
        let kind = match change.kind {
            ChangeKind::Created => EventType::NodeCreated,
            ChangeKind::Deleted => EventType::NodeDeleted,
            ChangeKind::Data => EventType::NodeDataChanged,
        };
        let told = self.data.fire(path, true);
        for slot in &told {
            event(*slot, kind, path, &change.acl);
        }
        if change.kind == ChangeKind::Deleted {
            for slot in self.child.fire(path, false) {
                if told.binary_search(&slot).is_err() {
                    event(slot, kind, path, &change.acl);
                }
            }
        }
        if change.kind != ChangeKind::Data
            && let Some((parent, _)) = path::split(path)
        {
            for slot in self.child.fire(parent, false) {
                event(slot, EventType::NodeChildrenChanged, parent, &change.parent_acl);
            }
        }
    }
}

/// The modes that are meant, in the data table and in the child table.
fn modes_of(which: Which) -> (u8, u8) {
    match which {
        Which::Children => (0, STANDARD),
        Which::Data => (STANDARD, 0),
        Which::Any => (u8::MAX, u8::MAX),
        Which::Persistent => (PERSISTENT, PERSISTENT),
        Which::PersistentRecursive => (RECURSIVE, 0),
    }
}

impl Table {
    fn modes(&self, path: &str, slot: Slot) -> u8 {
        self.by_path.get(path).and_then(|watchers| watchers.get(&slot)).copied().unwrap_or(0)
    }

    /// Takes the modes in `mask` away, and with the last the watch.
    fn remove(&mut self, path: &str, slot: Slot, mask: u8) -> bool {
        let Some(watchers) = self.by_path.get_mut(path) else { return false };
        let Some(modes) = watchers.get_mut(&slot).filter(|modes| **modes & mask != 0) else { return false };
        self.recursive -= usize::from(*modes & mask & RECURSIVE != 0);
        *modes &= !mask;
        if *modes == 0 {
            watchers.remove(&slot);
            self.total -= 1;
            if watchers.is_empty() {
                self.by_path.remove(path);
            }
            self.forget(path, slot);
        }
        true
    }

    /// The connection watches nothing at that path any more.
    fn forget(&mut self, path: &str, slot: Slot) {
        if let Some(paths) = self.by_slot.get_mut(&slot) {
            paths.remove(path);
            if paths.is_empty() {
                self.by_slot.remove(&slot);
            }
        }
    }

    fn add(&mut self, path: &str, slot: Slot, mode: Mode) {
        let path = match self.by_path.get_key_value(path) {
            Some((path, _)) => Arc::clone(path),
            None => Arc::from(path),
        };
        let modes = self.by_path.entry(Arc::clone(&path)).or_default().entry(slot).or_insert(0);
        if *modes == 0 {
            self.total += 1;
            self.by_slot.entry(slot).or_default().insert(path);
        }
        if mode == Mode::PersistentRecursive && *modes & RECURSIVE == 0 {
            self.recursive += 1;
        }
        *modes |= mode as u8;
    }

    fn remove_all(&mut self, slot: Slot) {
        for path in self.by_slot.remove(&slot).unwrap_or_default() {
            let Some(watchers) = self.by_path.get_mut(&path) else { continue };
            if let Some(modes) = watchers.remove(&slot) {
                self.total -= 1;
                self.recursive -= usize::from(modes & RECURSIVE != 0);
            }
            if watchers.is_empty() {
                self.by_path.remove(&path);
            }
        }
    }

    /// Who is to be told of something at `path`, sorted; one-shot watches there are used up. With
    /// `ancestors`, recursive watches above count too.
    fn fire(&mut self, path: &str, ancestors: bool) -> Vec<Slot> {
        let mut slots = Vec::new();
        if self.total == 0 {
            return slots;
        }
        if let Some(watchers) = self.by_path.get_mut(path) {
            slots.extend(watchers.keys());
            watchers.retain(|_, modes| {
                *modes &= !STANDARD;
                *modes != 0
            });
            self.total -= slots.len() - watchers.len();
            let used_up: Vec<Slot> = slots.iter().filter(|slot| !watchers.contains_key(slot)).copied().collect();
            if watchers.is_empty() {
                self.by_path.remove(path);
            }
            for slot in used_up {
                self.forget(path, slot);
            }
        }
        if ancestors && self.recursive > 0 {
            let mut at = path;
            while let Some((parent, _)) = path::split(at)
                && parent != at
            {
                at = parent;
                let above = self.by_path.get(at).into_iter().flatten();
                slots.extend(above.filter(|(_, modes)| **modes & RECURSIVE != 0).map(|(slot, _)| slot));
            }
            slots.sort_unstable();
            slots.dedup();
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, path: &str) -> Change {
        Change { kind, path: path.into(), acl: AclList::OPEN, parent_acl: AclList::OPEN }
    }

    fn events(watches: &mut Watches, kind: ChangeKind, path: &str) -> Vec<(Slot, i32, String)> {
        let mut seen = Vec::new();
        watches.trigger(&change(kind, path), |slot, kind, path, _| seen.push((slot, kind as i32, path.to_owned())));
        seen
    }

    #[test]
    fn a_standard_watch_fires_once() {
        let mut w = Watches::default();
        w.watch_data("/a", 1);
        w.watch_data("/a", 1);
        assert_eq!(events(&mut w, ChangeKind::Data, "/a"), [(1, 3, "/a".into())]);
        assert_eq!(events(&mut w, ChangeKind::Data, "/a"), []);
        assert!(w.is_empty());
    }

    #[test]
    fn point_8_a_deleted_node_is_told_once_to_a_connection_with_both_watches() {
        let mut w = Watches::default();
        w.watch_data("/a", 1);
        w.watch_children("/a", 1);
        w.watch_children("/a", 2);
        w.watch_children("/", 3);
        let expected = [(1, 2, "/a".into()), (2, 2, "/a".into()), (3, 4, "/".into())];
        assert_eq!(events(&mut w, ChangeKind::Deleted, "/a"), expected);
        assert!(w.is_empty(), "the child watch is used up although it told nothing");
    }

    #[test]
    fn recursive_watches_see_what_is_below_but_no_children_events() {
        let mut w = Watches::default();
        w.watch_persistently("/", 1, true);
        w.watch_persistently("/a", 2, true);
        w.watch_persistently("/a", 3, false);
        assert_eq!(
            events(&mut w, ChangeKind::Created, "/a/b"),
            [(1, 1, "/a/b".into()), (2, 1, "/a/b".into()), (3, 4, "/a".into())]
        );
        assert_eq!(events(&mut w, ChangeKind::Data, "/ab"), [(1, 3, "/ab".into())]);
        assert!(w.has("/a", 3, Which::Persistent) && !w.has("/a", 3, Which::Data));
        assert!(w.remove("/a", 3, Which::Any) && !w.remove("/a", 3, Which::Any));
        assert!(w.remove("/a", 2, Which::PersistentRecursive));
        w.remove_all(1);
        assert!(w.is_empty() && w.data.by_path.is_empty() && w.child.by_slot.is_empty());
    }
}
