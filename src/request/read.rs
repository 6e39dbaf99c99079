//! Replies to reads, made from one version of the tree. No read changes anything but the watches.
//!
//! Source: `FinalRequestProcessor.processRequest`, `DataTree.setWatches`.

use super::prepare::Rules;
use crate::jute::Write;
use crate::planted::{self, Bug};
use crate::proto::client::{Acl, AclList, EventType, Id, ReplyHeader, encode_event, perms};
use crate::proto::op::{MultiHeader, NO_PATH, OpCode, Paths, ReadOp, SetWatches};
use crate::proto::{ErrorCode, frame};
use crate::tree::watch::{Slot, Watches};
use crate::tree::{Tree, Znode};
use crate::types::Zxid;

/// What a read is answered from, and for whom.
pub struct Reader<'a> {
    /// The version of the tree.
    pub tree: &'a Tree,
    /// Where the asker's watches go.
    pub watches: &'a mut Watches,
    /// The asker's connection.
    pub slot: Slot,
    /// The asker's identities.
    pub ids: &'a [Id],
    /// Whether ACLs count.
    pub rules: &'a Rules,
}

impl Reader<'_> {
    /// Appends the whole reply to `out`, framed; what `setWatches` makes up stands before it.
    pub fn answer(&mut self, xid: i32, op: &ReadOp<'_>, out: &mut Vec<u8>) {
        let refused = match op {
            ReadOp::SetWatches(watches) => self.set_watches(watches, out),
            _ => Ok(()),
        };
        let start = frame::begin(out);
        let header = |err: i32| ReplyHeader { xid, zxid: self.tree.zxid(), err };
        header(0).encode(out);
        if let Err(code) = refused.and_then(|()| self.body(op, out)) {
            out.truncate(start);
            header(code.code()).encode(out);
        }
        frame::end(out, start);
    }

    /// The parent whose children are asked for, if it has more than `max` and may be read. Its watch is set then.
    pub fn long_list(&mut self, op: &ReadOp<'_>, max: usize) -> Option<Znode> {
        let ReadOp::GetChildren { path, watch, .. } = op else { return None };
        let parent =
            readable(self.tree, path, self.ids, self.rules).ok().filter(|parent| parent.child_count() > max)?;
        if *watch {
            self.watches.watch_children(path, self.slot);
        }
        Some(parent.clone())
    }

    fn body(&mut self, op: &ReadOp<'_>, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        match op {
            ReadOp::Exists { path, watch } => {
                if path.contains('\0') {
                    return Err(ErrorCode::BadArguments);
                }
                let node = self.tree.get(path);
                if let Some(node) = node {
                    self.rules.check_acl(node, perms::READ, self.ids)?;
                }
                if *watch {
                    self.watches.watch_data(path, self.slot);
                }
                node.ok_or(ErrorCode::NoNode)?.stat().encode(out);
            }
            ReadOp::GetData { path, watch } => {
                let node = readable(self.tree, path, self.ids, self.rules)?;
                if *watch {
                    self.watches.watch_data(path, self.slot);
                }
                out.put_buffer(node.data());
                node.stat().encode(out);
            }
            ReadOp::GetChildren { path, watch, with_stat } => {
                let node = readable(self.tree, path, self.ids, self.rules)?;
                if *watch {
                    self.watches.watch_children(path, self.slot);
                }
                put_children(node, out);
                if *with_stat {
                    node.stat().encode(out);
                }
            }
            ReadOp::GetAcl { path } => {
                let node = self.tree.get(path).ok_or(ErrorCode::NoNode)?;
                self.rules.check_acl(node, perms::READ | perms::ADMIN, self.ids)?;
                match self.rules.check_acl(node, perms::ADMIN, self.ids) {
                    Ok(()) => node.acl().encode(out),
                    Err(_) => masked(node.acl()).encode(out),
                }
                node.stat().encode(out);
            }
            ReadOp::Sync { path: Some(path) } => out.put_string(path),
            ReadOp::Sync { path: None } => out.put_buffer(None),
            ReadOp::MultiRead(ops) => {
                for op in ops {
                    let start = out.len();
                    let code = if matches!(op, ReadOp::GetData { .. }) { OpCode::GetData } else { OpCode::GetChildren };
                    MultiHeader { op: code as i32, done: false, err: 0 }.encode(out);
                    if let Err(code) = self.body(op, out) {
                        out.truncate(start);
                        MultiHeader { op: -1, done: false, err: code.code() }.encode(out);
                        out.put_int(code.code());
                    }
                }
                MultiHeader::END.encode(out);
            }
            ReadOp::GetAllChildrenNumber { path } => {
                let node = readable(self.tree, path, self.ids, self.rules)?;
                // Under the empty path Apache counts the root, which it knows as "/" as well.
                out.put_int((node.descendant_count() + usize::from(path.is_empty())) as i32);
            }
            ReadOp::SetWatches(_) => {}
            ReadOp::AddWatch { path, recursive } => {
                self.watches.watch_persistently(path, self.slot, *recursive);
                // An ErrorResponse of 0, though nothing is wrong.
                out.put_int(0);
            }
            ReadOp::Watches { path, which, remove } => {
                let found = if *remove {
                    self.watches.remove(path, self.slot, *which)
                } else {
                    self.watches.has(path, self.slot, *which)
                };
                if !found {
                    return Err(ErrorCode::NoWatcher);
                }
            }
            ReadOp::WhoAmI => out.put_vector(self.ids, |out, id| {
                out.put_string(&id.scheme);
                out.put_string(shown_user(id));
            }),
        }
        Ok(())
    }

    /// Watches that a reconnecting client had: those whose event it has missed fire now, the others are
    /// taken up again. At a null, which no client sends, it ends; what was done before stays done.
    fn set_watches(&mut self, asked: &SetWatches<'_>, out: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let (tree, seen) = (self.tree, asked.relative_zxid);
        let mut tell = |kind, path: &str| {
            let start = frame::begin(out);
            encode_event(out, Zxid(-1), kind, path);
            frame::end(out, start);
        };
        for path in listed(&asked.data)? {
            let path = path?;
            match tree.get(path) {
                None => tell(EventType::NodeDeleted, path),
                Some(node) if node.meta().mzxid > seen && !planted::is(Bug::WatchLostOnReconnect) => {
                    tell(EventType::NodeDataChanged, path);
                }
                Some(_) => self.watches.watch_data(path, self.slot),
            }
        }
        for path in listed(&asked.exist)? {
            let path = path?;
            match tree.get(path) {
                None => self.watches.watch_data(path, self.slot),
                Some(_) => tell(EventType::NodeCreated, path),
            }
        }
        for path in listed(&asked.child)? {
            let path = path?;
            match tree.get(path) {
                None => tell(EventType::NodeDeleted, path),
                Some(node) if node.meta().pzxid > seen => tell(EventType::NodeChildrenChanged, path),
                Some(_) => self.watches.watch_children(path, self.slot),
            }
        }
        // A null among these is a watch that never fires.
        for path in listed(&asked.persistent)? {
            self.watches.watch_persistently(path.unwrap_or(NO_PATH), self.slot, false);
        }
        for path in listed(&asked.recursive)? {
            self.watches.watch_persistently(path.unwrap_or(NO_PATH), self.slot, true);
        }
        Ok(())
    }
}

/// The paths of a list, up to where it or one of them is null.
fn listed<'a>(paths: &'a Paths<'_>) -> Result<impl Iterator<Item = Result<&'a str, ErrorCode>>, ErrorCode> {
    let paths = paths.as_ref().ok_or(ErrorCode::MarshallingError)?;
    Ok(paths.iter().map(|path| path.as_deref().ok_or(ErrorCode::MarshallingError)))
}

fn readable<'a>(tree: &'a Tree, path: &str, ids: &[Id], rules: &Rules) -> Result<&'a Znode, ErrorCode> {
    let node = tree.get(path).ok_or(ErrorCode::NoNode)?;
    rules.check_acl(node, perms::READ, ids)?;
    Ok(node)
}

fn put_children(node: &Znode, out: &mut Vec<u8>) {
    out.put_int(node.child_count() as i32);
    for child in node.children() {
        out.put_buffer(Some(child.name()));
    }
}

/// What `whoAmI` tells of an identity: of `digest` ones the user without the hash.
fn shown_user(id: &Id) -> &str {
    if id.scheme == "digest" { id.id.split(':').next().unwrap_or_default() } else { &id.id }
}

/// Hides the password hashes of `digest` entries from those who may not administer the znode.
fn masked(list: &AclList) -> AclList {
    let mask = |acl: &Acl| {
        let mut acl = acl.clone();
        if acl.id.scheme == "digest"
            && let Some(colon) = acl.id.id.find(':')
        {
            acl.id.id.truncate(colon);
            acl.id.id.push_str(":x");
        }
        acl
    };
    match list.entries() {
        None => AclList::OPEN,
        Some(entries) => AclList::new(entries.iter().map(mask).collect()),
    }
}
