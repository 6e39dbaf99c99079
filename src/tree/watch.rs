//! Watches: which connections of a shard want to hear of which znodes.
//!
//! Watches belong to a connection and go with it. There are two tables, for data and for children;
//! addWatch puts a persistent watch into both, a recursive one into the data table only.
//! Source: `WatchManager.java`, `DataTree.setWatches`.

mod grow;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use self::grow::{Chunks, Numbers};
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

/// Who watches what, of one shard.
#[derive(Default)]
pub struct Watches {
    data: Table,
    child: Table,
}

/// A place in [`Table::entries`].
type EntryId = u32;

/// Where a list of all watches goes on; the default is its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place {
    slot: Slot,
    entry: EntryId,
}

/// Made for a million watches: a path that one connection watches takes 32 bytes here, about 9 in `by_slot` and 5 to 10
/// in `index`, beside its text.
#[derive(Default)]
struct Table {
    /// What is watched, found by its hash.
    index: Numbers,
    entries: Chunks<Entry>,
    /// Entries to be used again.
    free: Vec<EntryId>,
    /// What to take out when a connection goes.
    by_slot: BTreeMap<Slot, BTreeSet<EntryId>>,
    recursive: usize,
    total: usize,
    /// Entries that nobody watches any more, and connections whose `by_slot` still names them.
    spent: VecDeque<(EntryId, Vec<Slot>)>,
    /// Connections that have gone, and entries that still name them.
    leaving: VecDeque<(Slot, std::collections::btree_set::IntoIter<EntryId>)>,
}

/// More watches than this at once are taken out by and by.
const AT_ONCE_MAX: usize = 1024;

/// A path and who watches it: [`Watcher::NONE`] if the entry is free, one in place, more in a list.
struct Entry {
    path: Box<str>,
    hash: u32,
    one: Watcher,
    /// Two or more, sorted.
    #[allow(clippy::box_collection)] // Eight bytes rather than 24, in every entry, for what few have.
    more: Option<Box<Vec<Watcher>>>,
}

/// A connection's slot and its modes at one path, the modes in the low bits: sorted by slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Watcher(u32);

const MODE_BITS: u32 = 3;
/// Greatest slot that a watcher can have.
const SLOT_MAX: Slot = Slot::MAX >> MODE_BITS;

impl Watcher {
    const NONE: Watcher = Watcher(0);

    fn new(slot: Slot, modes: u8) -> Watcher {
        assert!(slot <= SLOT_MAX, "there are not so many connections");
        Watcher(slot << MODE_BITS | u32::from(modes))
    }

    fn slot(self) -> Slot {
        self.0 >> MODE_BITS
    }

    fn modes(self) -> u8 {
        (self.0 & ((1 << MODE_BITS) - 1)) as u8
    }
}

impl Entry {
    fn watchers(&self) -> &[Watcher] {
        match &self.more {
            Some(more) => more,
            None if self.one == Watcher::NONE => &[],
            None => std::slice::from_ref(&self.one),
        }
    }

    fn modes(&self, slot: Slot) -> u8 {
        let watchers = self.watchers();
        watchers.binary_search_by_key(&slot, |watcher| watcher.slot()).map_or(0, |at| watchers[at].modes())
    }

    /// Sets a connection's modes; 0 takes it out.
    fn set(&mut self, slot: Slot, modes: u8) {
        let new = Watcher::new(slot, modes);
        match &mut self.more {
            None if self.one == Watcher::NONE || self.one.slot() == slot => {
                self.one = if modes == 0 { Watcher::NONE } else { new };
            }
            None if modes == 0 => {}
            None => {
                let both = if self.one < new { vec![self.one, new] } else { vec![new, self.one] };
                (self.one, self.more) = (Watcher::NONE, Some(Box::new(both)));
            }
            Some(more) => {
                match more.binary_search_by_key(&slot, |watcher| watcher.slot()) {
                    Ok(at) if modes == 0 => drop(more.remove(at)),
                    Ok(at) => more[at] = new,
                    Err(_) if modes == 0 => {}
                    Err(at) => more.insert(at, new),
                }
                self.shrink();
            }
        }
    }

    /// Uses up one-shot watches. Returns who is left with none.
    fn use_up(&mut self) -> Vec<Slot> {
        let mut gone = Vec::new();
        let mut keep = |watcher: Watcher| {
            let modes = watcher.modes() & !STANDARD;
            if modes == 0 {
                gone.push(watcher.slot());
            }
            (modes != 0).then(|| Watcher::new(watcher.slot(), modes))
        };
        match &mut self.more {
            None if self.one == Watcher::NONE => {}
            None => self.one = keep(self.one).unwrap_or(Watcher::NONE),
            Some(more) => {
                let left = more.iter().filter_map(|watcher| keep(*watcher)).collect();
                **more = left;
                self.shrink();
            }
        }
        gone
    }

    /// A list of less than two is none, and one of many places for few gives them back.
    fn shrink(&mut self) {
        let Some(more) = &mut self.more else { return };
        match more[..] {
            [] => (self.one, self.more) = (Watcher::NONE, None),
            [one] => (self.one, self.more) = (one, None),
            _ if more.capacity() > 4 * more.len() => more.shrink_to(2 * more.len()),
            _ => {}
        }
    }
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

    /// Takes out everything of a connection that has gone. Many watches are taken out by and by; false says that its slot
    /// may not be used again before [`Watches::tidy_up`] names it.
    pub fn remove_all(&mut self, slot: Slot) -> bool {
        self.data.remove_all(slot);
        self.child.remove_all(slot);
        !self.is_leaving(slot)
    }

    /// Whether there is something to tidy up.
    pub fn is_untidy(&self) -> bool {
        self.data.is_untidy() || self.child.is_untidy()
    }

    /// Goes on with what was put off, up to so many watches. Returns slots that may be used again.
    pub fn tidy_up(&mut self, max: usize) -> Vec<Slot> {
        let mut done = Vec::new();
        for table in [&mut self.data, &mut self.child] {
            table.tidy_up(max, &mut done);
        }
        done.retain(|slot| !self.is_leaving(*slot));
        done
    }

    fn is_leaving(&self, slot: Slot) -> bool {
        [&self.data, &self.child].iter().any(|table| table.leaving.iter().any(|(leaving, _)| *leaving == slot))
    }

    /// The connection with most watches.
    pub fn greatest(&self) -> Option<Slot> {
        let count = |table: &Table, slot: &Slot| table.by_slot.get(slot).map_or(0, BTreeSet::len);
        let slots = self.data.by_slot.keys().chain(self.child.by_slot.keys());
        slots.max_by_key(|slot| count(&self.data, slot) + count(&self.child, slot)).copied()
    }

    /// Connections that watch, paths that are watched and watches, of the data table (`wchs`).
    pub fn data_summary(&self) -> (usize, usize, usize) {
        (self.data.by_slot.len(), self.data.index.len(), self.data.total)
    }

    /// The watches of the data table from a place on, the connection and the path of each, and the place to go on from. At
    /// most `max` are looked at.
    pub fn data_watches(&self, from: Place, max: usize) -> (Vec<(Slot, &str)>, Option<Place>) {
        let mut found = Vec::new();
        let mut left = max;
        for (slot, ids) in self.data.by_slot.range(from.slot..) {
            let first = if *slot == from.slot { from.entry } else { 0 };
            for id in ids.range(first..) {
                if left == 0 {
                    return (found, Some(Place { slot: *slot, entry: *id }));
                }
                left -= 1;
                let entry = &self.data.entries[*id];
                if entry.modes(*slot) != 0 {
                    found.push((*slot, &*entry.path));
                }
            }
        }
        (found, None)
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
    /// one-shot watches that it uses up. `event` gets the connections, sorted, what to tell them, about which
    /// path, and the ACL that they must be able to read.
    pub fn trigger(&mut self, change: &Change, mut event: impl FnMut(&[Slot], EventType, &str, &AclList)) {
        let path = &*change.path;
        let kind = match change.kind {
            ChangeKind::Created => EventType::NodeCreated,
            ChangeKind::Deleted => EventType::NodeDeleted,
            ChangeKind::Data => EventType::NodeDataChanged,
        };
        let told = self.data.fire(path, true);
        if !told.is_empty() {
            event(&told, kind, path, &change.acl);
        }
        if change.kind == ChangeKind::Deleted {
            let mut others = self.child.fire(path, false);
            others.retain(|slot| told.binary_search(slot).is_err());
            if !others.is_empty() {
                event(&others, kind, path, &change.acl);
            }
        }
        if change.kind != ChangeKind::Data
            && let Some((parent, _)) = path::split(path)
        {
            let told = self.child.fire(parent, false);
            if !told.is_empty() {
                event(&told, EventType::NodeChildrenChanged, parent, &change.parent_acl);
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

/// With a fixed key, as all that decides about order must have.
fn hash(path: &str) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(path.as_bytes());
    hasher.finish() as u32
}

/// Spreads a hash over the bits that the index looks at.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    fn find(&self, path: &str) -> Option<EntryId> {
        if self.index.len() == 0 {
            return None;
        }
        let wanted = hash(path);
        self.index.find(spread(wanted), |id| {
            let entry = &self.entries[id];
            entry.hash == wanted && &*entry.path == path
        })
    }

    fn modes(&self, path: &str, slot: Slot) -> u8 {
        self.find(path).map_or(0, |id| self.entries[id].modes(slot))
    }

    fn add(&mut self, path: &str, slot: Slot, mode: Mode) {
        let id = self.find(path).unwrap_or_else(|| self.insert(path));
        let entry = &mut self.entries[id];
        let modes = entry.modes(slot);
        entry.set(slot, modes | mode as u8);
        if modes == 0 {
            self.total += 1;
            self.by_slot.entry(slot).or_default().insert(id);
        }
        if mode == Mode::PersistentRecursive && modes & RECURSIVE == 0 {
            self.recursive += 1;
        }
    }

    fn insert(&mut self, path: &str) -> EntryId {
        let entry = Entry { path: path.into(), hash: hash(path), one: Watcher::NONE, more: None };
        let at = spread(entry.hash);
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id] = entry;
                id
            }
            None => EntryId::try_from(self.entries.push(entry)).expect("memory ends before"),
        };
        let entries = &self.entries;
        self.index.insert(at, id, |id| spread(entries[id].hash));
        id
    }

    /// Frees an entry that nobody watches any more.
    fn release(&mut self, id: EntryId) {
        let entry = &mut self.entries[id];
        if entry.watchers().is_empty() {
            self.unlist(id);
            self.put_back(id);
        }
    }

    /// Takes an entry out of the index.
    fn unlist(&mut self, id: EntryId) {
        self.index.remove(spread(self.entries[id].hash), id);
    }

    /// Lets an entry that is not in the index be used again.
    fn put_back(&mut self, id: EntryId) {
        self.entries[id].path = Box::default();
        self.free.push(id);
    }

    /// Gives back what a crowd has left, once nothing is watched.
    fn shrink_if_empty(&mut self) {
        if self.total == 0 && !self.is_untidy() && !self.entries.is_empty() {
            (self.index, self.entries, self.free) = Default::default();
        }
    }

    fn is_untidy(&self) -> bool {
        !self.spent.is_empty() || !self.leaving.is_empty()
    }

    /// Goes on with what was put off. `done` gets the connections of which nothing is left.
    fn tidy_up(&mut self, max: usize, done: &mut Vec<Slot>) {
        let mut left = max;
        while left > 0
            && let Some((id, slots)) = self.spent.front_mut()
        {
            let (id, count) = (*id, slots.len().min(left));
            let some = slots.split_off(slots.len() - count);
            left -= count;
            for slot in some {
                self.forget(id, slot);
            }
            if self.spent.front().is_some_and(|(_, slots)| slots.is_empty()) {
                self.spent.pop_front();
                self.put_back(id);
            }
        }
        while left > 0
            && let Some((slot, ids)) = self.leaving.front_mut()
        {
            let (slot, some) = (*slot, ids.by_ref().take(left).collect::<Vec<_>>());
            let ended = some.len() < left;
            left -= some.len();
            if ended {
                self.leaving.pop_front();
                done.push(slot);
            }
            for id in some {
                self.take_out(id, slot);
            }
        }
        self.shrink_if_empty();
    }

    /// A connection that has gone is no watcher of an entry any more. It does not count already.
    fn take_out(&mut self, id: EntryId, slot: Slot) {
        let entry = &mut self.entries[id];
        let modes = entry.modes(slot);
        if modes == 0 {
            // The entry was fired meanwhile.
            return;
        }
        entry.set(slot, 0);
        self.recursive -= usize::from(modes & RECURSIVE != 0);
        self.release(id);
    }

    /// Takes the modes in `mask` away, and with the last the watch.
    fn remove(&mut self, path: &str, slot: Slot, mask: u8) -> bool {
        let Some(id) = self.find(path) else { return false };
        let entry = &mut self.entries[id];
        let modes = entry.modes(slot);
        if modes & mask == 0 {
            return false;
        }
        self.recursive -= usize::from(modes & mask & RECURSIVE != 0);
        entry.set(slot, modes & !mask);
        if modes & !mask == 0 {
            self.total -= 1;
            self.forget(id, slot);
            self.release(id);
            self.shrink_if_empty();
        }
        true
    }

    /// The connection watches nothing at that entry any more.
    fn forget(&mut self, id: EntryId, slot: Slot) {
        if let Some(ids) = self.by_slot.get_mut(&slot) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_slot.remove(&slot);
            }
        }
    }

    fn remove_all(&mut self, slot: Slot) {
        let Some(ids) = self.by_slot.remove(&slot) else { return };
        let spent = |id: &&EntryId| self.entries[**id].modes(slot) == 0;
        if ids.len() > AT_ONCE_MAX {
            let spent = if self.spent.is_empty() { 0 } else { ids.iter().filter(spent).count() };
            self.total -= ids.len() - spent;
            self.leaving.push_back((slot, ids.into_iter()));
            return;
        }
        self.total -= ids.len() - ids.iter().filter(spent).count();
        for id in ids {
            self.take_out(id, slot);
        }
        self.shrink_if_empty();
    }

    /// How many of these have gone, so that their watches do not count any more.
    fn count_leaving(&self, slots: &[Slot]) -> usize {
        self.leaving.iter().filter(|(slot, _)| slots.binary_search(slot).is_ok()).count()
    }

    /// Who is to be told of something at `path`, sorted; one-shot watches there are used up. With
    /// `ancestors`, recursive watches above count too.
    fn fire(&mut self, path: &str, ancestors: bool) -> Vec<Slot> {
        let mut slots = Vec::new();
        if let Some(id) = self.find(path) {
            let entry = &mut self.entries[id];
            slots.extend(entry.watchers().iter().map(|watcher| watcher.slot()));
            let gone = entry.use_up();
            let none_left = entry.watchers().is_empty();
            self.total -= gone.len() - self.count_leaving(&gone);
            if none_left && gone.len() > AT_ONCE_MAX {
                self.unlist(id);
                self.spent.push_back((id, gone));
            } else {
                for slot in gone {
                    self.forget(id, slot);
                }
                self.release(id);
                self.shrink_if_empty();
            }
        }
        if ancestors && self.recursive > 0 {
            let mut at = path;
            while let Some((parent, _)) = path::split(at)
                && parent != at
            {
                at = parent;
                let Some(id) = self.find(at) else { continue };
                let above = self.entries[id].watchers().iter();
                slots.extend(above.filter(|watcher| watcher.modes() & RECURSIVE != 0).map(|watcher| watcher.slot()));
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
        watches.trigger(&change(kind, path), |slots, kind, path, _| {
            seen.extend(slots.iter().map(|slot| (*slot, kind as i32, path.to_owned())));
        });
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
        assert!(w.is_empty() && w.data.entries.is_empty() && w.child.by_slot.is_empty());
    }

    /// What the table does, done again with the plainest of means.
    #[derive(Default)]
    struct Naive(BTreeMap<(String, Slot), u8>);

    impl Naive {
        fn add(&mut self, path: &str, slot: Slot, mode: Mode) {
            *self.0.entry((path.to_owned(), slot)).or_default() |= mode as u8;
        }

        fn fire(&mut self, path: &str) -> Vec<Slot> {
            let told = self.0.iter().filter(|((at, _), modes)| {
                let above = *at == "/" || path.strip_prefix(at.as_str()).is_some_and(|rest| rest.starts_with('/'));
                at == path || (above && **modes & RECURSIVE != 0)
            });
            let mut slots: Vec<Slot> = told.map(|((_, slot), _)| *slot).collect();
            self.0.iter_mut().filter(|((at, _), _)| at == path).for_each(|(_, modes)| *modes &= !STANDARD);
            self.0.retain(|_, modes| *modes != 0);
            slots.sort_unstable();
            slots.dedup();
            slots
        }
    }

    #[test]
    fn a_table_is_as_good_as_a_naive_one() {
        let (mut table, mut naive) = (Table::default(), Naive::default());
        let mut random = 7u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for _ in 0..20_000 {
            let path = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/d"][below(6) as usize];
            let slot = below(9) as Slot;
            match below(10) {
                0..=5 => {
                    let mode = [Mode::Standard, Mode::Persistent, Mode::PersistentRecursive][below(3) as usize];
                    table.add(path, slot, mode);
                    naive.add(path, slot, mode);
                }
                6..=7 => assert_eq!(table.fire(path, true), naive.fire(path)),
                8 => {
                    let mask = below(8) as u8;
                    let key = (path.to_owned(), slot);
                    let had = naive.0.get(&key).is_some_and(|modes| modes & mask != 0);
                    assert_eq!(table.remove(path, slot, mask), had);
                    naive.0.entry(key).and_modify(|modes| *modes &= !mask);
                    naive.0.retain(|_, modes| *modes != 0);
                }
                _ => {
                    table.remove_all(slot);
                    naive.0.retain(|(_, of), _| *of != slot);
                }
            }
            assert_eq!(table.total, naive.0.len());
            assert_eq!(table.recursive, naive.0.values().filter(|modes| **modes & RECURSIVE != 0).count());
            assert_eq!(table.by_slot.values().map(BTreeSet::len).sum::<usize>(), table.total);
            assert_eq!(table.modes(path, slot), naive.0.get(&(path.to_owned(), slot)).copied().unwrap_or(0));
        }
    }

    #[test]
    fn many_watches_are_taken_out_by_and_by() {
        let mut w = Watches::default();
        const MANY: usize = 3 * AT_ONCE_MAX;
        // One connection with many, one with a few of the same.
        for i in 0..MANY {
            w.watch_data(&format!("/a{i}"), 1);
        }
        (0..10).for_each(|i| w.watch_data(&format!("/a{i}"), 2));
        w.watch_children("/", 1);
        assert!(!w.remove_all(1), "it is not done at once");
        assert_eq!(w.count(), 10, "though it does not count any more");
        assert_eq!(events(&mut w, ChangeKind::Data, "/a0").iter().filter(|(slot, ..)| *slot == 2).count(), 1);
        assert_eq!(w.count(), 9);
        let mut done = Vec::new();
        let mut steps = 0;
        while w.is_untidy() {
            done.extend(w.tidy_up(100));
            steps += 1;
        }
        assert_eq!(done, [1]);
        assert!(steps >= MANY / 100, "{steps}");
        assert_eq!(events(&mut w, ChangeKind::Data, "/a1"), [(2, 3, "/a1".into())]);

        // Many at one path, watched again by some before it is tidied up.
        (0..MANY).for_each(|slot| w.watch_data("/b", slot as Slot));
        assert_eq!(events(&mut w, ChangeKind::Data, "/b").len(), MANY);
        assert_eq!((w.count(), w.is_untidy()), (8, true));
        (0..5).for_each(|slot| w.watch_data("/b", slot));
        assert!(w.remove_all(3) && w.remove_all(7));
        while w.is_untidy() {
            w.tidy_up(100);
        }
        assert_eq!(w.count(), 8 + 4);
        let told: Vec<Slot> = events(&mut w, ChangeKind::Data, "/b").iter().map(|(slot, ..)| *slot).collect();
        assert_eq!(told, [0, 1, 2, 4]);
        assert!(w.remove_all(2));
        assert!(w.is_empty() && w.data.entries.is_empty() && w.data.by_slot.is_empty());
    }

    #[test]
    fn watches_are_listed_by_and_by() {
        let mut w = Watches::default();
        let mut all = Vec::new();
        for slot in [1, 2, 7] {
            for i in 0..20 {
                w.watch_data(&format!("/a{i}"), slot);
                all.push((slot, format!("/a{i}")));
            }
        }
        w.watch_children("/a0", 3);
        for max in [1, 7, 20, 1000] {
            let (mut listed, mut place) = (Vec::new(), Some(Place::default()));
            while let Some(from) = place {
                let (some, next) = w.data_watches(from, max);
                assert!(some.len() <= max);
                listed.extend(some.into_iter().map(|(slot, path)| (slot, path.to_owned())));
                place = next;
            }
            assert_eq!(listed, all, "{max} at a time");
        }
    }

    #[test]
    fn an_entry_stays_within_its_budget() {
        assert_eq!(size_of::<Entry>(), 32);
    }
}
