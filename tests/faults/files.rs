//! What a disk holds: as processes see it, and as it is after the power was lost.
//!
//! - Bytes of a file are durable once they were flushed: by `fsync`, or by a write to a file that was opened with O_DSYNC.
//!   Of what was not, each sector by itself may be there after a loss of power, or not, in any order.
//! - Names are durable once their directory was flushed. Of the changes of names that were not, the first few are there: a
//!   file system with a journal keeps their order. Flushing a file does not flush its name.

use std::collections::{BTreeMap, BTreeSet};

use super::support::Random;

/// The directory that has no name.
pub const ROOT: u64 = 1;
/// The unit in which reading fails, where it does.
pub const PAGE_BYTES: usize = 4096;

/// A whole file system.
#[derive(Clone, Debug)]
pub struct Files {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Names that are durable, by directory.
    durable: BTreeMap<u64, BTreeMap<String, u64>>,
    /// Changes of names that are not, in order.
    journal: Vec<Rename>,
    /// Writes so far.
    writes: u64,
}

#[derive(Clone, Debug)]
pub enum Node {
    File(File),
    Directory(BTreeMap<String, u64>),
}

#[derive(Clone, Default, Debug)]
pub struct File {
    pub bytes: Vec<u8>,
    durable: Vec<u8>,
    /// What is not durable, in order, with the numbers of the writes.
    pending: Vec<(u64, Change)>,
    /// Pages that cannot be read.
    pub unreadable: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

/// A name comes, goes, or both.
#[derive(Clone, Debug)]
struct Rename {
    from: Option<(u64, String)>,
    to: Option<(u64, String, u64)>,
}

impl Rename {
    fn touches(&self, directory: u64) -> bool {
        self.from.as_ref().is_some_and(|from| from.0 == directory)
            || self.to.as_ref().is_some_and(|to| to.0 == directory)
    }

    fn apply(&self, names: &mut BTreeMap<u64, BTreeMap<String, u64>>) {
        if let Some((directory, name)) = &self.from {
            names.entry(*directory).or_default().remove(name);
        }
        if let Some((directory, name, node)) = &self.to {
            names.entry(*directory).or_default().insert(name.clone(), *node);
        }
    }
}

impl Default for Files {
    fn default() -> Files {
        let nodes = BTreeMap::from([(ROOT, Node::Directory(BTreeMap::new()))]);
        Files { nodes, next: ROOT + 1, durable: BTreeMap::new(), journal: Vec::new(), writes: 0 }
    }
}

impl Files {
    /// Puts a durable file below directories that come into being with it.
    pub fn put(&mut self, path: &str, bytes: &[u8]) {
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().expect("a path has a name");
        let mut directory = ROOT;
        for part in parts {
            let known = self.lookup(directory, part);
            directory = known.unwrap_or_else(|| self.add(directory, part, Node::Directory(BTreeMap::new())));
        }
        let file = File { bytes: bytes.to_vec(), durable: bytes.to_vec(), ..File::default() };
        self.add(directory, name, Node::File(file));
        self.flush_names(None);
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut directories = vec![(String::new(), ROOT)];
        while let Some((above, directory)) = directories.pop() {
            for (name, node) in self.names(directory) {
                let path = format!("{above}{name}");
                match self.nodes[&node] {
                    Node::File(_) => paths.push(path),
                    Node::Directory(_) => directories.push((path + "/", node)),
                }
            }
        }
        paths.sort();
        paths
    }

    /// The file at a path.
    pub fn file_at(&mut self, path: &str) -> Option<&mut File> {
        let node = path.split('/').try_fold(ROOT, |directory, name| self.lookup(directory, name))?;
        self.file(node)
    }

    pub fn node(&self, node: u64) -> Option<&Node> {
        self.nodes.get(&node)
    }

    pub fn file(&mut self, node: u64) -> Option<&mut File> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Some(file),
            _ => None,
        }
    }

    pub fn lookup(&self, directory: u64, name: &str) -> Option<u64> {
        match self.nodes.get(&directory) {
            Some(Node::Directory(names)) => names.get(name).copied(),
            _ => None,
        }
    }

    /// The names in a directory, in order.
    pub fn names(&self, directory: u64) -> Vec<(String, u64)> {
        match self.nodes.get(&directory) {
            Some(Node::Directory(names)) => names.iter().map(|(name, node)| (name.clone(), *node)).collect(),
            _ => Vec::new(),
        }
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> usize {
        let named = self.nodes.values().filter_map(|node| match node {
            Node::Directory(names) => Some(names.values()),
            Node::File(_) => None,
        });
        let file_bytes = |node: &u64| match &self.nodes[node] {
            Node::File(file) => file.bytes.len(),
            Node::Directory(_) => 0,
        };
        named.flatten().map(file_bytes).sum()
    }

    pub fn add(&mut self, directory: u64, name: &str, node: Node) -> u64 {
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, node);
        self.change(Rename { from: None, to: Some((directory, name.to_owned(), number)) });
        number
    }

    pub fn remove(&mut self, directory: u64, name: &str) {
        self.change(Rename { from: Some((directory, name.to_owned())), to: None });
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) {
        let Some(node) = self.lookup(from.0, from.1) else { return };
        self.change(Rename { from: Some((from.0, from.1.to_owned())), to: Some((to.0, to.1.to_owned(), node)) });
    }

    fn change(&mut self, change: Rename) {
        if let Some((directory, name)) = &change.from
            && let Some(Node::Directory(names)) = self.nodes.get_mut(directory)
        {
            names.remove(name);
        }
        if let Some((directory, name, node)) = &change.to
            && let Some(Node::Directory(names)) = self.nodes.get_mut(directory)
        {
            names.insert(name.clone(), *node);
        }
        self.journal.push(change);
    }

    /// Returns the number of the write.
    pub fn write(&mut self, node: u64, offset: usize, bytes: &[u8]) -> u64 {
        self.writes += 1;
        let number = self.writes;
        if let Some(file) = self.file(node) {
            put(&mut file.bytes, offset, bytes);
            file.pending.push((number, Change::Write { offset, bytes: bytes.to_vec() }));
        }
        number
    }

    pub fn resize(&mut self, node: u64, size: usize) {
        self.writes += 1;
        let number = self.writes;
        if let Some(file) = self.file(node) {
            file.bytes.resize(size, 0);
            file.pending.push((number, Change::Resize(size)));
        }
    }

    /// The number of the newest write to anything.
    pub fn newest_write(&self) -> u64 {
        self.writes
    }

    /// Makes these writes to a file durable.
    pub fn flush(&mut self, node: u64, is_meant: impl Fn(u64) -> bool) {
        let Some(file) = self.file(node) else { return };
        let (flushed, rest) = std::mem::take(&mut file.pending).into_iter().partition(|(number, _)| is_meant(*number));
        file.pending = rest;
        let flushed: Vec<(u64, Change)> = flushed;
        for (_, change) in flushed {
            match change {
                Change::Write { offset, bytes } => put(&mut file.durable, offset, &bytes),
                Change::Resize(size) => file.durable.resize(size, 0),
            }
        }
    }

    /// Makes names durable: those of a directory, and what had been changed before them anywhere.
    pub fn flush_names(&mut self, directory: Option<u64>) {
        let is_meant = |change: &Rename| directory.is_none_or(|directory| change.touches(directory));
        let count = self.journal.iter().rposition(is_meant).map_or(0, |last| last + 1);
        for change in self.journal.drain(..count) {
            change.apply(&mut self.durable);
        }
    }

    /// What is there after a loss of power at this moment.
    pub fn after_power_loss(&self, random: &mut Random) -> Files {
        let mut names = self.durable.clone();
        let kept = random.below(self.journal.len() as u64 + 1) as usize;
        self.journal[..kept].iter().for_each(|change| change.apply(&mut names));
        // Sectors of either size; and a disk that had written nearly all, or nearly nothing, is as likely as one between.
        let sector_bytes = if random.below(2) == 0 { 512 } else { 4096 };
        let percent = [0, 10, 50, 90, 100][random.below(5) as usize];
        let mut after = Files { next: self.next, ..Files::default() };
        let mut left = vec![ROOT];
        while let Some(directory) = left.pop() {
            let entries = names.remove(&directory).unwrap_or_default();
            for node in entries.values() {
                match &self.nodes[node] {
                    Node::Directory(_) => left.push(*node),
                    Node::File(file) => {
                        let bytes = file.after_power_loss(sector_bytes, percent, random);
                        let file = File { durable: bytes.clone(), bytes, ..File::default() };
                        after.nodes.insert(*node, Node::File(file));
                    }
                }
            }
            after.durable.insert(directory, entries.clone());
            after.nodes.insert(directory, Node::Directory(entries));
        }
        after
    }
}

impl File {
    fn after_power_loss(&self, sector_bytes: usize, percent: u64, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (_, change) in &self.pending {
            match change {
                Change::Resize(size) => {
                    if random.below(100) < percent {
                        bytes.resize(*size, 0);
                    }
                }
                Change::Write { offset, bytes: written } => {
                    let mut from = 0;
                    while from < written.len() {
                        let sector_end = (offset + from + 1).next_multiple_of(sector_bytes) - offset;
                        let to = sector_end.min(written.len());
                        if random.below(100) < percent {
                            put(&mut bytes, offset + from, &written[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that can be left of these files, as far as a thousand losses of power show it: names with their bytes. The same
    /// thousand each time, so that what is rare among them is not missing now and then.
    fn outcomes(files: &Files) -> BTreeSet<Vec<(String, Vec<u8>)>> {
        let mut random = Random::from_seed(1);
        let outcome = |_| {
            let mut after = files.after_power_loss(&mut random);
            let paths = after.paths();
            let contents = |path: String| {
                let bytes = after.file_at(&path).expect("listed").bytes.clone();
                (path, bytes)
            };
            paths.into_iter().map(contents).collect()
        };
        (0..1000).map(outcome).collect()
    }

    fn file(files: &mut Files, name: &str, bytes: &[u8]) -> u64 {
        let node = files.add(ROOT, name, Node::File(File::default()));
        files.write(node, 0, bytes);
        node
    }

    #[test]
    fn what_was_flushed_with_its_name_stays() {
        let mut files = Files::default();
        let node = file(&mut files, "a", b"one");
        files.flush(node, |_| true);
        files.flush_names(Some(ROOT));
        assert_eq!(outcomes(&files), BTreeSet::from([vec![("a".to_owned(), b"one".to_vec())]]));
    }

    #[test]
    fn bytes_without_a_durable_name_may_go_and_names_without_bytes_may_stay() {
        let mut files = Files::default();
        let node = file(&mut files, "a", b"one");
        let named = |bytes: &[u8]| vec![("a".to_owned(), bytes.to_vec())];
        assert_eq!(outcomes(&files), BTreeSet::from([vec![], named(b""), named(b"one")]));
        files.flush(node, |_| true);
        assert_eq!(outcomes(&files), BTreeSet::from([vec![], named(b"one")]));
    }

    #[test]
    fn each_sector_goes_by_itself() {
        let mut files = Files::default();
        let node = file(&mut files, "a", &[0; 8192]);
        files.flush(node, |_| true);
        files.flush_names(None);
        files.write(node, 256, &[1; 7000]);
        let outcomes = outcomes(&files);
        let sectors = |outcome: &Vec<(String, Vec<u8>)>| outcome[0].1.chunks(512).map(|sector| sector[300]).collect();
        let patterns: BTreeSet<Vec<u8>> = outcomes.iter().map(sectors).collect();
        assert!(patterns.len() > 50, "{} patterns", patterns.len());
        let is_gap = |pattern: &&Vec<u8>| pattern[0] == 0 && pattern[1] == 1 && pattern[2] == 0 && pattern[3] == 1;
        assert!(patterns.iter().any(|pattern| is_gap(&pattern)), "a later sector without an earlier one");
    }

    #[test]
    fn names_change_in_order_and_at_once() {
        let mut files = Files::default();
        for (name, bytes) in [("a", b"old"), ("b", b"new")] {
            let node = file(&mut files, name, bytes);
            files.flush(node, |_| true);
        }
        files.flush_names(None);
        files.rename((ROOT, "b"), (ROOT, "a"));
        files.remove(ROOT, "a");
        let both = vec![("a".to_owned(), b"old".to_vec()), ("b".to_owned(), b"new".to_vec())];
        let renamed = vec![("a".to_owned(), b"new".to_vec())];
        assert_eq!(outcomes(&files), BTreeSet::from([both, renamed, vec![]]));
    }
}
