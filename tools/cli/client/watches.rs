//! Which watches the client has left on its server: to know which events it wants, and to set them again after a
//! reconnect. Source: `ZKWatchManager`; the shell has one watcher, so a watch is a path in one of five sets.

use std::collections::BTreeSet;

use ringkeeper::jute::Write;
use ringkeeper::proto::op::{OpCode, Which};
use ringkeeper::types::Zxid;

use super::event::EventKind;
use super::path;

/// Most bytes of paths in one `setWatches` (`ClientCnxn.SET_WATCHES_MAX_LENGTH`), give or take one path: what a
/// server takes in one frame is limited.
const SET_WATCHES_BYTES_MAX: usize = 128 * 1024;

/// What a successful request leaves behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// getData with a watch, on an existing znode.
    Data(String),
    /// exists with a watch: another set if the znode is not there.
    Exists(String),
    /// getChildren with a watch.
    Children(String),
    /// addWatch; also on a znode that is not there.
    Added { path: String, recursive: bool },
    /// removeWatches.
    Removed { path: String, which: Which, local: bool },
}

/// The watches of one session, by the client's paths.
#[derive(Default)]
pub struct Watches {
    data: BTreeSet<String>,
    exist: BTreeSet<String>,
    child: BTreeSet<String>,
    persistent: BTreeSet<String>,
    recursive: BTreeSet<String>,
}

impl Watches {
    /// Whether anybody wants an event; a watch that fires once is gone by that.
    pub fn fire(&mut self, kind: EventKind, path: &str) -> bool {
        let mut is_wanted = false;
        match kind {
            EventKind::NodeCreated | EventKind::NodeDataChanged => {
                is_wanted |= self.data.remove(path);
                is_wanted |= self.exist.remove(path);
            }
            EventKind::NodeChildrenChanged => is_wanted |= self.child.remove(path),
            EventKind::NodeDeleted => {
                is_wanted |= self.data.remove(path);
                is_wanted |= self.exist.remove(path);
                is_wanted |= self.child.remove(path);
            }
            _ => {}
        }
        is_wanted |= self.persistent.contains(path);
        // A recursive watch promises no events of children; another watch of this session may be why one comes.
        is_wanted |= kind != EventKind::NodeChildrenChanged && self.recursive_covers(path);
        is_wanted
    }

    fn recursive_covers(&self, path: &str) -> bool {
        let is_above = |watched: &String| ringkeeper::tree::path::is_within(path, watched);
        self.recursive.iter().any(is_above)
    }

    /// Notes what a request left behind. `err` is the code of its reply.
    pub fn note(&mut self, change: &Change, err: i32) {
        const NO_NODE: i32 = -101;
        match change {
            Change::Data(path) if err == 0 => self.data.insert(path.clone()),
            Change::Exists(path) if err == 0 => self.data.insert(path.clone()),
            Change::Exists(path) if err == NO_NODE => self.exist.insert(path.clone()),
            Change::Children(path) if err == 0 => self.child.insert(path.clone()),
            Change::Added { path, recursive } if err == 0 || err == NO_NODE => {
                if *recursive {
                    self.recursive.insert(path.clone())
                } else {
                    self.persistent.insert(path.clone())
                }
            }
            _ => false,
        };
    }

    /// Takes watches away, and tells which kinds of event say so. Empty if there was none.
    pub fn remove(&mut self, path: &str, which: Which) -> Vec<EventKind> {
        let any = which == Which::Any;
        let mut removed = Vec::new();
        let mut note = |was_there: bool, kind| {
            if was_there && !removed.contains(&kind) {
                removed.push(kind);
            }
        };
        if any || which == Which::Children {
            note(self.child.remove(path), EventKind::ChildWatchRemoved);
        }
        if any || which == Which::Data {
            note(self.data.remove(path), EventKind::DataWatchRemoved);
            note(self.exist.remove(path), EventKind::DataWatchRemoved);
        }
        if any || which == Which::Persistent {
            note(self.persistent.remove(path), EventKind::PersistentWatchRemoved);
        }
        if any || which == Which::PersistentRecursive {
            note(self.recursive.remove(path), EventKind::PersistentWatchRemoved);
        }
        removed
    }

    /// Whether there is a watch of that kind.
    pub fn contains(&self, path: &str, which: Which) -> bool {
        match which {
            Which::Children => self.child.contains(path),
            Which::Data => self.data.contains(path) || self.exist.contains(path),
            Which::Persistent => self.persistent.contains(path),
            Which::PersistentRecursive => self.recursive.contains(path),
            Which::Any => [&self.child, &self.data, &self.exist, &self.persistent, &self.recursive]
                .iter()
                .any(|set| set.contains(path)),
        }
    }

    /// Forgets those that fire once, as with `zookeeper.disableAutoWatchReset`.
    pub fn forget_single(&mut self) {
        self.data.clear();
        self.exist.clear();
        self.child.clear();
    }

    /// The requests that set all of them again on another connection: opcodes and bodies. The older opcode serves
    /// where it can, for servers that know no other.
    pub fn set_again(&self, chroot: Option<&str>, last_zxid: Zxid) -> Vec<(OpCode, Vec<u8>)> {
        let sets = [&self.data, &self.exist, &self.child, &self.persistent, &self.recursive];
        let all = sets.iter().enumerate().flat_map(|(kind, set)| set.iter().map(move |path| (kind, path)));
        let mut batches: Vec<[Vec<String>; 5]> = Vec::new();
        let mut bytes = SET_WATCHES_BYTES_MAX;
        for (kind, path) in all {
            if bytes >= SET_WATCHES_BYTES_MAX {
                batches.push(Default::default());
                bytes = 0;
            }
            let path = path::to_server(chroot, path);
            bytes += path.len();
            batches.last_mut().expect("one was pushed at the first path")[kind].push(path);
        }
        batches.iter().map(|batch| encode(batch, last_zxid)).collect()
    }
}

fn encode(batch: &[Vec<String>; 5], last_zxid: Zxid) -> (OpCode, Vec<u8>) {
    let is_old = batch[3].is_empty() && batch[4].is_empty();
    let mut body = Vec::new();
    body.put_long(last_zxid.0);
    for paths in &batch[..if is_old { 3 } else { 5 }] {
        body.put_vector(paths, |out, path| out.put_string(path));
    }
    (if is_old { OpCode::SetWatches } else { OpCode::SetWatches2 }, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringkeeper::proto::op::ReadOp;

    #[test]
    fn a_watch_fires_once_and_a_persistent_one_again() {
        let mut watches = Watches::default();
        assert!(!watches.fire(EventKind::NodeDataChanged, "/a"), "nobody watches");
        watches.note(&Change::Data("/a".into()), 0);
        assert!(watches.fire(EventKind::NodeDataChanged, "/a"));
        assert!(!watches.fire(EventKind::NodeDataChanged, "/a"));
        watches.note(&Change::Added { path: "/a".into(), recursive: false }, -101);
        assert!(watches.fire(EventKind::NodeCreated, "/a"));
        assert!(watches.fire(EventKind::NodeChildrenChanged, "/a"));
        assert!(!watches.fire(EventKind::NodeCreated, "/a/b"));
    }

    #[test]
    fn a_recursive_watch_sees_descendants_but_no_lists_of_children() {
        let mut watches = Watches::default();
        watches.note(&Change::Added { path: "/a".into(), recursive: true }, 0);
        assert!(watches.fire(EventKind::NodeCreated, "/a/b/c"));
        assert!(!watches.fire(EventKind::NodeCreated, "/ab"));
        assert!(!watches.fire(EventKind::NodeChildrenChanged, "/a"));
        watches.note(&Change::Added { path: "/".into(), recursive: true }, 0);
        assert!(watches.fire(EventKind::NodeCreated, "/ab"));
    }

    #[test]
    fn a_refused_request_leaves_nothing() {
        let mut watches = Watches::default();
        watches.note(&Change::Data("/a".into()), -101);
        watches.note(&Change::Children("/a".into()), -102);
        assert!(!watches.contains("/a", Which::Any));
        watches.note(&Change::Exists("/a".into()), -101);
        assert!(watches.contains("/a", Which::Data));
    }

    #[test]
    fn removing_tells_each_kind_once() {
        let mut watches = Watches::default();
        for change in [Change::Data("/a".into()), Change::Exists("/a".into()), Change::Children("/a".into())] {
            watches.note(&change, 0);
        }
        watches.note(&Change::Exists("/a".into()), -101);
        assert!(watches.remove("/a", Which::Persistent).is_empty());
        assert_eq!(watches.remove("/a", Which::Data), [EventKind::DataWatchRemoved]);
        assert_eq!(watches.remove("/a", Which::Any), [EventKind::ChildWatchRemoved]);
        assert!(watches.remove("/a", Which::Any).is_empty());
    }

    #[test]
    fn they_are_set_again_with_the_old_opcode_where_it_serves() {
        let mut watches = Watches::default();
        assert!(watches.set_again(None, Zxid(7)).is_empty());
        watches.note(&Change::Data("/a".into()), 0);
        watches.note(&Change::Exists("/b".into()), -101);
        let requests = watches.set_again(Some("/c"), Zxid(7));
        let [(OpCode::SetWatches, body)] = &requests[..] else { panic!("{requests:?}") };
        let ReadOp::SetWatches(set) = ReadOp::decode(OpCode::SetWatches, body).unwrap() else { panic!() };
        let list = |path: &'static str| Some(vec![Some(path.into())]);
        assert_eq!((set.relative_zxid, set.data, set.exist), (Zxid(7), list("/c/a"), list("/c/b")));

        watches.note(&Change::Added { path: "/".into(), recursive: true }, 0);
        let requests = watches.set_again(Some("/c"), Zxid(7));
        let [(OpCode::SetWatches2, body)] = &requests[..] else { panic!("{requests:?}") };
        let ReadOp::SetWatches(set) = ReadOp::decode(OpCode::SetWatches2, body).unwrap() else { panic!() };
        assert_eq!(set.recursive, list("/c"));
    }

    #[test]
    fn many_watches_are_set_again_in_batches() {
        let mut watches = Watches::default();
        for n in 0..3 {
            watches.note(&Change::Data(format!("/{n}{}", "x".repeat(SET_WATCHES_BYTES_MAX - 10))), 0);
        }
        assert_eq!(watches.set_again(None, Zxid(1)).len(), 2);
    }
}
