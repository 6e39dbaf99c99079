//! The steps in which files change that a crash must find in order: made, flushed, renamed, removed, their directory flushed.
//!
//! Each is the call of the standard library of that name, and nothing else in a release build. In a debug build a thread may
//! [`observe`] its own steps, and let none happen from some step on: so the simulator has a crash between any two, and
//! knows what a loss of power may take back. The log's own flushes are not here; they go through the ring (`shard::disk`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::planted::{self, Bug};

/// A step. Whether it becomes durable at once is said for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// A file is opened for writing, and made if it is not there: its name is not durable.
    Open(&'a Path),
    /// A file gets another name, in place of the one that had it: not durable.
    Rename(&'a Path, &'a Path),
    /// A name is removed: not durable.
    Remove(&'a Path),
    /// What a file holds is durable from here on.
    Sync(&'a Path),
    /// The names in a directory are durable from here on.
    SyncDir(&'a Path),
}

/// Opens a file that is to be written.
pub fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    observer::tell(Step::Open(path))?;
    options.open(path)
}

/// Makes an empty file, durable but for its name.
pub fn create_empty(path: &Path) -> io::Result<()> {
    let file = open(path, OpenOptions::new().write(true).create(true).truncate(true))?;
    sync(&file, path)
}

/// Makes what a file holds durable; `path` is its name.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    if planted::is(Bug::FileNotFlushed) {
        return Ok(());
    }
    file.sync_all()?;
    observer::tell(Step::Sync(path))
}

/// Gives a file another name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    observer::tell(Step::Rename(from, to))?;
    fs::rename(from, to)
}

/// Removes a name.
pub fn remove(path: &Path) -> io::Result<()> {
    observer::tell(Step::Remove(path))?;
    fs::remove_file(path)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    if planted::is(Bug::DirectoryNotFlushed) {
        return Ok(());
    }
    File::open(dir)?.sync_all()?;
    observer::tell(Step::SyncDir(dir))
}

#[cfg(debug_assertions)]
mod observer {
    use std::cell::RefCell;
    use std::io;

    use super::Step;

    type Observer = Box<dyn FnMut(Step<'_>) -> io::Result<()>>;

    thread_local! {
        static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    }

    /// Has `observer` told of each step that this thread makes while `work` runs; where it errors the step fails with that.
    pub fn observe<T>(observer: Observer, work: impl FnOnce() -> T) -> T {
        OBSERVER.set(Some(observer));
        let done = work();
        OBSERVER.set(None);
        done
    }

    pub(super) fn tell(step: Step<'_>) -> io::Result<()> {
        OBSERVER.with_borrow_mut(|observer| observer.as_mut().map_or(Ok(()), |observer| observer(step)))
    }
}

#[cfg(not(debug_assertions))]
mod observer {
    use std::io;

    use super::Step;

    #[inline(always)]
    pub(super) fn tell(_: Step<'_>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(debug_assertions)]
pub use observer::observe;
