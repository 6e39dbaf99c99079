//! All znodes of a tree in the order in which snapshots hold them.

use super::children::Iter;
use super::{Tree, Znode};

/// Goes through a tree depth first, each znode after its parent, and puts the paths together on the way.
///
/// Not an `Iterator`, because the path that it lends is used again for the next znode. It keeps one small
/// record for each level it is in, so a tree may be deeper than the stack.
pub struct Walk<'a> {
    top: Option<&'a Znode>,
    /// Of the last znode returned.
    path: Vec<u8>,
    /// The children still to come of that znode and of those above it, and the length of their parent's path.
    open: Vec<(Iter<'a>, usize)>,
}

impl Tree {
    /// All znodes, each after its parent.
    pub fn walk(&self) -> Walk<'_> {
        Walk::from(&self.root, "")
    }
}

impl<'a> Walk<'a> {
    /// From the znode at `path` down; the root's is empty.
    pub(super) fn from(top: &'a Znode, path: &str) -> Walk<'a> {
        Walk { top: Some(top), path: path.into(), open: Vec::new() }
    }

    /// The next znode and the bytes of its path. The root comes first, and its path is empty.
    #[allow(clippy::should_implement_trait)] // The path is lent; see the type.
    pub fn next(&mut self) -> Option<(&[u8], &'a Znode)> {
        let znode = match self.top.take() {
            Some(top) => top,
            None => loop {
                let (children, parent_len) = self.open.last_mut()?;
                if let Some(child) = children.next() {
                    self.path.truncate(*parent_len);
                    self.path.push(b'/');
                    self.path.extend_from_slice(child.name());
                    break child;
                }
                self.open.pop();
            },
        };
        if !znode.children.is_empty() {
            self.open.push((znode.children.iter(), self.path.len()));
        }
        Some((&self.path, znode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::AclList;
    use crate::tree::{Meta, Owner};
    use crate::types::{WallMs, Zxid};

    #[test]
    fn a_tree_deeper_than_the_stack_is_walked() {
        const DEPTH: usize = 200_000;
        let znode = |name| Znode::new(name, None, AclList::OPEN, Meta::created(Zxid(1), WallMs(1), Owner::NONE));
        let mut root = znode("n");
        for depth in (0..DEPTH).rev() {
            let mut parent = znode(if depth == 0 { "" } else { "n" });
            parent.children.insert(root);
            root = parent;
        }
        let tree = Tree { root, zxid: Zxid(1), znodes: DEPTH + 1, data_bytes: 0, digest: 0 };
        let mut walk = tree.walk();
        for depth in 0..=DEPTH {
            assert_eq!(walk.next().unwrap().0.len(), 2 * depth);
        }
        assert!(walk.next().is_none());
    }
}
