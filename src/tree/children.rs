//! A znode's children: a persistent map from name to znode.
//!
//! It is a B+ tree ordered by a hash of the name that keeps the numbers of a sequence together. Clones share their nodes; a
//! change copies the nodes on its way that others can still see (`Arc::make_mut`), and changes the rest in place. So a
//! version of the whole tree costs one clone to keep, readers never wait for the writer, and a writer that nobody watches
//! pays for no copies.
//!
//! What a leaf has of a znode is small and holds what is looked at on the way to another one: the hash of its name and
//! its children. The rest is one allocation for each znode. Leaves are small because a
//! leaf is the unit of copying, and because most parents have few children.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::node::Znode;

/// Most znodes in a leaf, but for siblings whose names hash alike. A change of one copies the leaf if another version sees it,
/// and with it counts a further holder of each znode in it, which touches the memory of each.
const LEAF_MAX: usize = 8;
/// Most subtrees of an inner node.
const INNER_MAX: usize = 32;
/// Names that differ in a number at their end and share `number / RUN` are neighbours: a power of two.
const RUN: u32 = 256;
/// Digits at the end of a name that are a number; those before them are a part of what it numbers.
const DIGITS_MAX: usize = 9;
/// A leaf or inner node that falls below this part of its maximum is merged with a neighbour if both fit.
const MERGE_BELOW: usize = 3;

/// The children of one znode.
#[derive(Clone, Default)]
pub(super) struct Children {
    root: Option<Arc<Node>>,
}

enum Node {
    /// Sorted by `name_hash`.
    Leaf(Vec<Znode>),
    Inner(Box<Inner>),
}

#[derive(Clone)]
struct Inner {
    /// Znodes in all subtrees.
    count: usize,
    /// `lows[i]` <= every hash in `subs[i]` < `lows[i + 1]`; `lows[0]` bounds nothing.
    lows: Vec<u32>,
    subs: Vec<Arc<Node>>,
}

impl Clone for Node {
    fn clone(&self) -> Node {
        match self {
            Node::Leaf(znodes) => {
                touch(znodes.iter().map(Znode::references));
                Node::Leaf(znodes.clone())
            }
            Node::Inner(inner) => {
                touch(inner.subs.iter().map(Arc::strong_count));
                Node::Inner(inner.clone())
            }
        }
    }
}

/// Reads the counts of references that are about to be changed. A change waits for its cache line before the next one
/// begins, because it is atomic; reads wait for all of theirs at once.
fn touch(counts: impl Iterator<Item = usize>) {
    std::hint::black_box(counts.sum::<usize>());
}

impl Children {
    pub(super) const EMPTY: Children = Children { root: None };

    /// The place of a name among its siblings. The key is fixed: the order of children is part of
    /// what must be the same in every run.
    ///
    /// Numbered names, as sequential znodes have them, come one after the other, and so they lie: what one version adds is
    /// then in few leaves, and each of those is copied once.
    pub(super) fn hash(name: &[u8]) -> u32 {
        let digits = name.iter().rev().take(DIGITS_MAX).take_while(|byte| byte.is_ascii_digit()).count();
        let (stem, number) = name.split_at(name.len() - digits);
        let number = number.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        let mut hasher = SipHasher13::new();
        hasher.write(stem);
        if digits == 0 {
            return hasher.finish() as u32;
        }
        hasher.write_u8(digits as u8);
        hasher.write_u32(number / RUN);
        (hasher.finish() as u32 & !(RUN - 1)) | (number % RUN)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.count())
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Znode> {
        let hash = Children::hash(name);
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(znodes) => return find(znodes, hash, name).ok().map(|at| &znodes[at]),
                Node::Inner(inner) => node = &inner.subs[inner.sub_of(hash)],
            }
        }
    }

    /// The child of that name, with the way to it made this map's own.
    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Znode> {
        let hash = Children::hash(name);
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(znodes) => {
                    let at = find(znodes, hash, name).ok()?;
                    return Some(&mut znodes[at]);
                }
                Node::Inner(inner) => {
                    let at = inner.sub_of(hash);
                    node = Arc::make_mut(&mut inner.subs[at]);
                }
            }
        }
    }

    /// A map of these children, given in any order: full nodes, and many times faster than inserting them one
    /// by one. The error is a name that occurs twice.
    pub(super) fn build(mut znodes: Vec<Znode>) -> Result<Children, Vec<u8>> {
        let count = znodes.len();
        assert!(u32::try_from(count).is_ok(), "more children than a count of 32 bits");
        znodes.sort_unstable_by_key(|znode| znode.name_hash);
        for run in znodes.chunk_by(|a, b| a.name_hash == b.name_hash).filter(|run| run.len() > 1) {
            let mut names: Vec<&[u8]> = run.iter().map(Znode::name).collect();
            names.sort_unstable();
            if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(twice[0].to_vec());
            }
        }

        let leaves = count.div_ceil(LEAF_MAX);
        let mut level: Vec<(u32, Arc<Node>)> = Vec::with_capacity(leaves);
        let mut left = znodes.into_iter();
        let mut start = 0;
        for leaf in 1..=leaves {
            let end = leaf * count / leaves;
            let mut len = end.saturating_sub(start);
            // Names that hash alike stay in one leaf.
            while let Some([last, next, ..]) = len.checked_sub(1).and_then(|last| left.as_slice().get(last..))
                && last.name_hash == next.name_hash
            {
                len += 1;
            }
            if let Some(first) = left.as_slice()[..len].first() {
                level.push((first.name_hash, Arc::new(Node::Leaf(left.by_ref().take(len).collect()))));
            }
            start += len;
        }
        while level.len() > 1 {
            let (count, groups) = (level.len(), level.len().div_ceil(INNER_MAX));
            let mut below = level.into_iter();
            level = (0..groups)
                .map(|group| {
                    let len = (group + 1) * count / groups - group * count / groups;
                    let (lows, subs): (Vec<u32>, Vec<Arc<Node>>) = below.by_ref().take(len).unzip();
                    let count = subs.iter().map(|sub| sub.count()).sum();
                    (lows[0], Arc::new(Node::Inner(Box::new(Inner { count, lows, subs }))))
                })
                .collect();
        }
        Ok(Children { root: level.pop().map(|(_, root)| root) })
    }

    /// Adds a child. Panics if one of that name is there.
    pub(super) fn insert(&mut self, znode: Znode) {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![znode])));
            return;
        };
        if let Some((low, right)) = Arc::make_mut(root).insert(znode) {
            let left = Arc::clone(root);
            let count = left.count() + right.count();
            let inner = Inner { count, lows: vec![0, low], subs: vec![left, right] };
            self.root = Some(Arc::new(Node::Inner(Box::new(inner))));
        }
    }

    /// Takes a child out, `None` if there is none of that name.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Znode> {
        self.get(name)?;
        let root = self.root.as_mut()?;
        let removed = Arc::make_mut(root).remove(Children::hash(name), name);
        if let Node::Inner(inner) = &**root
            && inner.subs.len() == 1
        {
            *root = Arc::clone(&inner.subs[0]);
        }
        if root.count() == 0 {
            self.root = None;
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        Iter { inners: Vec::new(), leaf: [].iter(), next: self.root.as_deref() }
    }

    /// Those whose names' hashes are at least `hash`.
    pub(super) fn iter_from(&self, hash: u32) -> Iter<'_> {
        let mut iter = self.iter();
        while let Some(node) = iter.next.take() {
            match node {
                Node::Leaf(znodes) => {
                    iter.leaf = znodes[znodes.partition_point(|znode| znode.name_hash < hash)..].iter();
                }
                Node::Inner(inner) => {
                    let at = inner.sub_of(hash);
                    iter.next = Some(&inner.subs[at]);
                    iter.inners.push(inner.subs[at + 1..].iter());
                }
            }
        }
        iter
    }

    /// Drops all znodes below without recursion. What is shared with another version stays.
    pub(super) fn dismantle(self) {
        let mut nodes: Vec<Arc<Node>> = self.root.into_iter().collect();
        while let Some(node) = nodes.pop() {
            match Arc::into_inner(node) {
                Some(Node::Leaf(znodes)) => {
                    touch(znodes.iter().map(Znode::references));
                    for mut znode in znodes {
                        nodes.extend(std::mem::take(&mut znode.children).root);
                    }
                }
                Some(Node::Inner(inner)) => {
                    touch(inner.subs.iter().map(Arc::strong_count));
                    nodes.extend(inner.subs);
                }
                None => {}
            }
        }
    }
}

/// Where `name` stands in a leaf, or where it would.
fn find(znodes: &[Znode], hash: u32, name: &[u8]) -> Result<usize, usize> {
    let start = znodes.iter().position(|znode| znode.name_hash >= hash).unwrap_or(znodes.len());
    let alike = znodes[start..].iter().take_while(|znode| znode.name_hash == hash);
    match alike.into_iter().position(|znode| znode.name() == name) {
        Some(at) => Ok(start + at),
        None => Err(start),
    }
}

impl Inner {
    fn sub_of(&self, hash: u32) -> usize {
        self.lows.partition_point(|low| *low <= hash).saturating_sub(1)
    }

    /// Merges the subtree at `at` with a neighbour where both fit into one node.
    fn merge_around(&mut self, at: usize) {
        if !self.subs[at].is_small() {
            return;
        }
        let fits = |left: usize| {
            let (a, b) = (&self.subs[left], &self.subs[left + 1]);
            a.len() + b.len() <= a.max_len()
        };
        let left = if at + 1 < self.subs.len() && fits(at) {
            at
        } else if at > 0 && fits(at - 1) {
            at - 1
        } else {
            return;
        };
        let right_low = self.lows.remove(left + 1);
        let right = Arc::unwrap_or_clone(self.subs.remove(left + 1));
        match (Arc::make_mut(&mut self.subs[left]), right) {
            (Node::Leaf(znodes), Node::Leaf(mut more)) => znodes.append(&mut more),
            (Node::Inner(inner), Node::Inner(mut more)) => {
                inner.count += more.count;
                more.lows[0] = right_low;
                inner.lows.append(&mut more.lows);
                inner.subs.append(&mut more.subs);
            }
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

impl Node {
    /// Znodes in this subtree.
    fn count(&self) -> usize {
        match self {
            Node::Leaf(znodes) => znodes.len(),
            Node::Inner(inner) => inner.count,
        }
    }

    /// Entries of this node itself.
    fn len(&self) -> usize {
        match self {
            Node::Leaf(znodes) => znodes.len(),
            Node::Inner(inner) => inner.subs.len(),
        }
    }

    fn max_len(&self) -> usize {
        match self {
            Node::Leaf(_) => LEAF_MAX,
            Node::Inner(_) => INNER_MAX,
        }
    }

    fn is_small(&self) -> bool {
        self.len() * MERGE_BELOW < self.max_len()
    }

    /// Returns the right half and its lowest hash if the node had to be split.
    fn insert(&mut self, znode: Znode) -> Option<(u32, Arc<Node>)> {
        match self {
            Node::Leaf(znodes) => {
                let Err(at) = find(znodes, znode.name_hash, znode.name()) else {
                    panic!("a child of that name is there already");
                };
                if znodes.len() >= LEAF_MAX && goes_on(znodes, at, znode.name_hash) {
                    return Some(split_behind_run(znodes, at, znode));
                }
                if znodes.len() == znodes.capacity() {
                    znodes.reserve_exact(2);
                }
                znodes.insert(at, znode);
                split_leaf(znodes)
            }
            Node::Inner(inner) => {
                inner.count += 1;
                let at = inner.sub_of(znode.name_hash);
                let (low, right) = Arc::make_mut(&mut inner.subs[at]).insert(znode)?;
                inner.lows.insert(at + 1, low);
                inner.subs.insert(at + 1, right);
                if inner.subs.len() <= INNER_MAX {
                    return None;
                }
                let half = inner.subs.len() / 2;
                let low = inner.lows[half];
                let lows = inner.lows.split_off(half);
                let subs = inner.subs.split_off(half);
                let count = subs.iter().map(|sub| sub.count()).sum();
                inner.count -= count;
                Some((low, Arc::new(Node::Inner(Box::new(Inner { count, lows, subs })))))
            }
        }
    }

    /// The name must be there.
    fn remove(&mut self, hash: u32, name: &[u8]) -> Znode {
        match self {
            Node::Leaf(znodes) => {
                let at = find(znodes, hash, name).expect("the caller has looked");
                znodes.remove(at)
            }
            Node::Inner(inner) => {
                inner.count -= 1;
                let at = inner.sub_of(hash);
                let removed = Arc::make_mut(&mut inner.subs[at]).remove(hash, name);
                inner.merge_around(at);
                removed
            }
        }
    }
}

/// Whether a znode of this hash, put at `at`, is the next of a run and the last of it in this leaf.
fn goes_on(znodes: &[Znode], at: usize, hash: u32) -> bool {
    let follows = |before: &Znode| before.name_hash.checked_add(1) == Some(hash);
    at.checked_sub(1).is_some_and(|before| follows(&znodes[before]))
        && znodes.get(at).is_none_or(|behind| behind.name_hash != hash)
}

/// Adds a znode that goes on with a run to a full leaf: the run leaves full leaves behind it, and what is not of it behind.
/// Returns the right part and its lowest hash.
fn split_behind_run(znodes: &mut Vec<Znode>, at: usize, znode: Znode) -> (u32, Arc<Node>) {
    let mut right = znodes.split_off(at);
    if right.is_empty() {
        right.push(znode)
    } else {
        znodes.push(znode)
    }
    znodes.shrink_to_fit();
    (right[0].name_hash, Arc::new(Node::Leaf(right)))
}

/// Splits an overfull leaf near its middle, where two neighbours' hashes differ.
fn split_leaf(znodes: &mut Vec<Znode>) -> Option<(u32, Arc<Node>)> {
    if znodes.len() <= LEAF_MAX {
        return None;
    }
    let half = znodes.len() / 2;
    let differs = |at: &usize| znodes[*at - 1].name_hash != znodes[*at].name_hash;
    let at = (half..znodes.len()).find(differs).or_else(|| (1..half).rev().find(differs))?;
    let mut right = Vec::with_capacity(znodes.len() - at);
    right.extend(znodes.drain(at..));
    znodes.shrink_to_fit();
    Some((right[0].name_hash, Arc::new(Node::Leaf(right))))
}

/// All children in the order of their hashes.
pub(super) struct Iter<'a> {
    inners: Vec<std::slice::Iter<'a, Arc<Node>>>,
    leaf: std::slice::Iter<'a, Znode>,
    next: Option<&'a Node>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Znode;

    fn next(&mut self) -> Option<&'a Znode> {
        loop {
            if let Some(znode) = self.leaf.next() {
                return Some(znode);
            }
            let node = match self.next.take() {
                Some(node) => node,
                None => loop {
                    match self.inners.last_mut()?.next() {
                        Some(sub) => break &**sub,
                        None => drop(self.inners.pop()),
                    }
                },
            };
            match node {
                Node::Leaf(znodes) => self.leaf = znodes.iter(),
                Node::Inner(inner) => self.inners.push(inner.subs.iter()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::client::AclList;
    use crate::tree::node::{Meta, Owner};
    use crate::types::{WallMs, Zxid};

    fn znode(name: &str, version: i32) -> Znode {
        let mut meta = Meta::created(Zxid(1), WallMs(1), Owner::NONE);
        meta.version = version;
        Znode::new(name, None, AclList::OPEN, meta)
    }

    fn check_shape(children: &Children) {
        fn walk(node: &Node, low: u32, high: u64, depth: usize, depths: &mut Vec<usize>) -> usize {
            match node {
                Node::Leaf(znodes) => {
                    depths.push(depth);
                    assert!(znodes.is_sorted_by_key(|z| z.name_hash));
                    assert!(znodes.iter().all(|z| z.name_hash >= low && u64::from(z.name_hash) < high));
                    znodes.len()
                }
                Node::Inner(inner) => {
                    assert!(inner.subs.len() <= INNER_MAX && inner.subs.len() == inner.lows.len());
                    let mut count = 0;
                    for (i, sub) in inner.subs.iter().enumerate() {
                        let low = if i == 0 { low } else { inner.lows[i] };
                        let high = inner.lows.get(i + 1).map_or(high, |low| u64::from(*low));
                        count += walk(sub, low, high, depth + 1, depths);
                    }
                    assert_eq!(count, inner.count);
                    count
                }
            }
        }
        if let Some(root) = &children.root {
            let mut depths = Vec::new();
            walk(root, 0, 1 << 32, 0, &mut depths);
            assert!(depths.iter().all(|d| *d == depths[0]), "leaves at different depths");
        }
    }

    /// Names of all kinds: numbered with and without zeros, by nothing but a number, and not numbered.
    fn named(key: u16) -> String {
        match key % 4 {
            0 => format!("n{key}"),
            1 => format!("n{key:010}"),
            2 => key.to_string(),
            _ => format!("{key}n"),
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_and_leaves_older_versions_alone(
            built in prop::collection::btree_set(0u16..2000, 0..1500),
            ops in prop::collection::vec((0u8..3, 0u16..400, 0i32..1000), 1..1500)
        ) {
            let znodes = built.iter().map(|&key| znode(&named(key), 0)).collect();
            let mut children = Children::build(znodes).unwrap();
            let mut model: BTreeMap<_, _> = built.iter().map(|&key| (named(key), 0)).collect();
            check_shape(&children);
            prop_assert_eq!(children.len(), model.len());
            let mut kept: Vec<(Children, BTreeMap<String, i32>)> = Vec::new();
            for (i, (op, key, value)) in ops.into_iter().enumerate() {
                let name = named(key);
                match op {
                    0 => {
                        if children.get(name.as_bytes()).is_none() {
                            children.insert(znode(&name, value));
                            model.insert(name, value);
                        }
                    }
                    1 => {
                        let removed = children.remove(name.as_bytes()).map(|z| z.meta().version);
                        prop_assert_eq!(removed, model.remove(&name));
                    }
                    _ => {
                        if let Some(z) = children.get_mut(name.as_bytes()) {
                            z.set_meta(Meta { version: value, ..z.meta() });
                            model.insert(name, value);
                        }
                    }
                }
                if i % 100 == 0 {
                    kept.push((children.clone(), model.clone()));
                }
            }
            kept.push((children, model));
            for (children, model) in kept {
                check_shape(&children);
                prop_assert_eq!(children.len(), model.len());
                let seen: BTreeMap<String, i32> = children
                    .iter()
                    .map(|z| (String::from_utf8(z.name().to_vec()).unwrap(), z.meta().version))
                    .collect();
                prop_assert_eq!(seen, model);
                let hashes: Vec<u32> = children.iter().map(|z| z.name_hash).collect();
                let some = hashes.iter().step_by(97).flat_map(|hash| [*hash, hash.wrapping_add(1)]);
                for from in some.chain([0, u32::MAX]) {
                    let found: Vec<u32> = children.iter_from(from).map(|z| z.name_hash).collect();
                    let expected: Vec<u32> = hashes.iter().copied().filter(|hash| *hash >= from).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    fn leaves(children: &Children) -> Vec<*const Node> {
        fn walk(node: &Arc<Node>, found: &mut Vec<*const Node>) {
            match &**node {
                Node::Leaf(_) => found.push(Arc::as_ptr(node)),
                Node::Inner(inner) => inner.subs.iter().for_each(|sub| walk(sub, found)),
            }
        }
        let mut found = Vec::new();
        children.root.iter().for_each(|root| walk(root, &mut found));
        found
    }

    #[test]
    fn what_a_sequence_adds_is_in_few_and_full_leaves() {
        let mut numbered = Children::EMPTY;
        (0..10_000).for_each(|number| numbered.insert(znode(&format!("lock-{number:010}"), 0)));
        check_shape(&numbered);
        let before = leaves(&numbered);
        assert!(before.len() <= 10_000 / LEAF_MAX + 10_000 / RUN as usize + 1, "{} leaves", before.len());
        let version = numbered.clone();
        (10_000..10_100).for_each(|number| numbered.insert(znode(&format!("lock-{number:010}"), 0)));
        let after = leaves(&numbered);
        let changed = after.iter().filter(|leaf| !before.contains(leaf)).count();
        assert!(changed <= 100 / LEAF_MAX + 3, "{changed} leaves for 100 znodes");
        assert_eq!(leaves(&version), before);
    }

    #[test]
    fn names_that_hash_alike_live_together() {
        let mut children = Children::EMPTY;
        for i in 0..100 {
            let mut znode = znode(&format!("n{i}"), i);
            znode.name_hash = 7;
            children.insert(znode);
        }
        check_shape(&children);
        assert_eq!(children.iter().count(), 100);
    }

    #[test]
    fn children_that_hash_alike_are_built_into_one_leaf_and_a_name_twice_is_an_error() {
        let alike = |names: std::ops::Range<usize>, hash| {
            names.map(move |i| {
                let mut znode = znode(&format!("n{i}"), 0);
                znode.name_hash = hash;
                znode
            })
        };
        let znodes: Vec<Znode> = alike(0..11, 3).chain(alike(11..41, 7)).chain(alike(41..50, 9)).collect();
        let children = Children::build(znodes.clone()).unwrap();
        check_shape(&children);
        assert_eq!(children.len(), 50);
        let twice = znodes.into_iter().chain(alike(20..21, 7)).collect();
        assert_eq!(Children::build(twice).err(), Some(b"n20".to_vec()));
        assert!(Children::build(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn a_tree_deeper_than_the_stack_is_dropped() {
        let mut below = znode("leaf", 0);
        for _ in 0..200_000 {
            let mut parent = znode("n", 0);
            parent.children.insert(below);
            below = parent;
        }
        drop(below);
    }
}
