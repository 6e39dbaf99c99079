//! What a loss of power takes back: whatever was not flushed. A file is what it was when it was flushed last; of the names
//! that changed since the directory was flushed, some first ones have changed, because file systems keep their order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ringkeeper::storage::files::Step;

use crate::random::Random;

type Inode = u64;

/// A change of names that is not durable.
enum Change {
    Link(String, Inode),
    Unlink(String),
    Move(String, String, Inode),
}

/// One directory, as its device has it.
pub struct Device {
    dir: PathBuf,
    names: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    changes: Vec<Change>,
    /// What each file held when it was flushed.
    flushed: BTreeMap<Inode, Vec<u8>>,
    next: Inode,
    /// There is no room for another file.
    pub is_full: bool,
    /// So many steps are still made; then the crash comes, and no more.
    pub steps_left: Option<usize>,
}

impl Device {
    pub fn new(dir: PathBuf) -> Device {
        Device {
            dir,
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
            flushed: BTreeMap::new(),
            next: 0,
            is_full: false,
            steps_left: None,
        }
    }

    /// The name of a file of this directory; others are of no interest.
    fn name(&self, path: &Path) -> Option<String> {
        (path.parent() == Some(&self.dir)).then(|| path.file_name()?.to_str().map(str::to_owned))?
    }

    /// A step is made, or does not happen.
    pub fn step(&mut self, step: Step<'_>) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => return Err(io::Error::other("the crash has come")),
            Some(left) => *left -= 1,
            None => {}
        }
        match step {
            Step::Open(path) => {
                if let Some(name) = self.name(path)
                    && !self.names.contains_key(&name)
                {
                    if self.is_full {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    self.next += 1;
                    self.names.insert(name.clone(), self.next);
                    self.changes.push(Change::Link(name, self.next));
                }
            }
            Step::Rename(from, to) => {
                let Some(from) = self.name(from) else { return Ok(()) };
                let Some(inode) = self.names.remove(&from) else { return Ok(()) };
                match self.name(to) {
                    Some(to) => {
                        self.names.insert(to.clone(), inode);
                        self.changes.push(Change::Move(from, to, inode));
                    }
                    None => self.changes.push(Change::Unlink(from)),
                }
            }
            Step::Remove(path) => {
                if let Some(name) = self.name(path)
                    && self.names.remove(&name).is_some()
                {
                    self.changes.push(Change::Unlink(name));
                }
            }
            Step::Sync(path) => {
                if let Some(inode) = self.name(path).and_then(|name| self.names.get(&name)) {
                    self.flushed.insert(*inode, fs::read(path)?);
                }
            }
            Step::SyncDir(path) if path == self.dir => {
                self.durable = self.names.clone();
                self.changes.clear();
            }
            Step::SyncDir(_) => {}
        }
        Ok(())
    }

    /// Bytes that went past the page cache, to a file that is flushed otherwise.
    pub fn written(&mut self, path: &Path, position: u64, bytes: &[u8]) {
        let inode = self.name(path).and_then(|name| self.names.get(&name).copied());
        if let Some(flushed) = inode.and_then(|inode| self.flushed.get_mut(&inode)) {
            let at = position as usize;
            flushed[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The power goes and comes again.
    pub fn lose_power(&mut self, chance: &mut Random) {
        let kept = chance.below(self.changes.len() + 1);
        let mut names = std::mem::take(&mut self.durable);
        for change in self.changes.drain(..).take(kept) {
            match change {
                Change::Link(name, inode) => drop(names.insert(name, inode)),
                Change::Unlink(name) => drop(names.remove(&name)),
                Change::Move(from, to, inode) => {
                    names.remove(&from);
                    names.insert(to, inode);
                }
            }
        }
        // A name that was taken away and is back has what its file held when that was flushed.
        let now = std::mem::take(&mut self.names);
        let mut contents = BTreeMap::new();
        for (name, inode) in &names {
            let held = self.flushed.get(inode).cloned().unwrap_or_else(|| {
                let path = now.iter().find(|(_, now)| *now == inode).map(|(name, _)| self.dir.join(name));
                let mut held = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
                held.truncate(chance.below(held.len() + 1));
                held
            });
            contents.insert(*inode, (name.clone(), held));
        }
        for name in now.keys() {
            fs::remove_file(self.dir.join(name)).expect("it was made and not removed");
        }
        self.flushed.clear();
        for (inode, (name, held)) in contents {
            fs::write(self.dir.join(name), &held).expect("the scratch directory can be written to");
            self.flushed.insert(inode, held);
        }
        (self.durable, self.names) = (names.clone(), names);
    }
}
