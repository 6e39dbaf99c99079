//! A disk whose power can be cut: a file system of ours below a real server, through FUSE.
//!
//! The server works as on any other: it writes with O_DIRECT and O_DSYNC through its ring, maps files to read them, renames
//! and flushes. Nothing is opened with FOPEN_DIRECT_IO, so mapping works as everywhere; there is no cache for writing, so each
//! write comes here before it returns; and the kernel hands the flags of the open file over with each write, so O_DSYNC is
//! seen here. A replay of a block device's log onto a loop device was the alternative. It would bring a real file system
//! with it, whose journal makes names durable earlier than anyone may rely on, and a second at least for each cut.
//!
//! Flushes are done by a thread of their own, one after the other, but not always in the order in which they were asked for.
//! There the power is cut: before a flush has taken place, or after it and before anybody was told; or at any other moment.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::files::{File, Files, Node, PAGE_BYTES, ROOT};
use super::support::{Random, wait_for};

/// Linux's own number.
const O_DSYNC: i32 = 0o10000;
/// Names and sizes change through the kernel alone, so what it knows stays true.
const KNOWN_FOR: Duration = Duration::from_secs(3600);
/// Flushes that may overtake each other.
const REORDERED: usize = 2;

/// When the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The flush was asked for and has not taken place: what it covers is there in parts.
    BeforeFlush,
    /// It has taken place, and nobody was told.
    AfterFlush,
}

/// A mounted disk. It is unmounted with the value.
pub struct Disk {
    shared: Arc<Shared>,
    path: PathBuf,
    session: Option<BackgroundSession>,
    device: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    files: Files,
    random: Random,
    flushes: VecDeque<Flush>,
    /// Flushes that are still to be done before the power is cut.
    cut: Option<(u64, Moment)>,
    /// What is left, once the power is off. Nothing works any more then.
    left: Option<Files>,
    /// How long a flush takes.
    delay: Duration,
    /// Bytes that files may have together.
    capacity: usize,
    is_over: bool,
}

/// What was asked for and is not done.
struct Flush {
    due: Instant,
    what: What,
    reply: Reply,
}

enum What {
    Write { node: u64, number: u64 },
    File { node: u64, newest: u64 },
    Names { directory: u64 },
}

enum Reply {
    Written(ReplyWrite, u32),
    Empty(ReplyEmpty),
}

impl Reply {
    fn send(self, result: Result<(), Errno>) {
        match (self, result) {
            (Reply::Written(reply, size), Ok(())) => reply.written(size),
            (Reply::Written(reply, _), Err(error)) => reply.error(error),
            (Reply::Empty(reply), Ok(())) => reply.ok(),
            (Reply::Empty(reply), Err(error)) => reply.error(error),
        }
    }
}

impl Disk {
    /// Mounts a disk with these files on it. Root may, and the kernel must have FUSE.
    pub fn mount(path: &Path, files: Files, random: Random) -> Disk {
        let state = State {
            files,
            random,
            flushes: VecDeque::new(),
            cut: None,
            left: None,
            delay: Duration::ZERO,
            capacity: usize::MAX,
            is_over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("ringkeeper-test".to_owned())];
        let session = fuser::spawn_mount(Mounted(Arc::clone(&shared)), path, &config);
        let session = session.unwrap_or_else(|error| panic!("cannot mount on {}: {error} (as root?)", path.display()));
        let device = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.flush_for_ever()
        });
        Disk { shared, path: path.to_owned(), session: Some(session), device: Some(device) }
    }

    /// Cuts the power at a flush: the next one, or later by so many.
    pub fn cut_at_flush(&self, later: u64, moment: Moment) {
        self.shared.lock().cut = Some((later, moment));
    }

    /// Cuts the power at this moment.
    pub fn cut(&self) {
        self.shared.lock().power_off();
        self.shared.changed.notify_all();
    }

    pub fn is_off(&self) -> bool {
        self.shared.lock().left.is_some()
    }

    /// Lets flushes take so long from now on.
    pub fn set_delay(&self, delay: Duration) {
        let mut state = self.shared.lock();
        state.delay = delay;
        let latest = Instant::now() + delay;
        for flush in &mut state.flushes {
            flush.due = flush.due.min(latest);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Unmounts it, once nobody uses it any more, and returns what is on it: all, or what the loss of power has left.
    pub fn unmount(mut self) -> Files {
        self.end();
        let mut state = self.shared.lock();
        state.left.take().unwrap_or_else(|| std::mem::take(&mut state.files))
    }

    fn end(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        if let Some(device) = self.device.take() {
            device.join().expect("it does not panic");
        }
        if let Some(session) = self.session.take() {
            drop(session);
            let path = self.path.display().to_string();
            wait_for("the disk to be unmounted", || {
                let mounts = std::fs::read_to_string("/proc/mounts").expect("Linux has it");
                (!mounts.split_whitespace().any(|word| word == path)).then_some(())
            });
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if thread::panicking() {
            // Somebody may still use it. It goes when nobody does any more.
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        } else {
            self.end();
        }
    }
}

impl State {
    fn power_off(&mut self) {
        if self.left.is_none() {
            self.left = Some(self.files.after_power_loss(&mut self.random));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// What takes place while the power is on.
    fn powered<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.lock();
        if state.left.is_some() { Err(Errno::EIO) } else { work(&mut state) }
    }

    fn ask_for(&self, reply: Reply, what: impl FnOnce(&mut State) -> Result<What, Errno>) {
        let asked = self.powered(|state| Ok((what(state)?, Instant::now() + state.delay)));
        match asked {
            Ok((what, due)) => self.lock().flushes.push_back(Flush { due, what, reply }),
            Err(error) => reply.send(Err(error)),
        }
        self.changed.notify_all();
    }

    fn flush_for_ever(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let is_off = state.left.is_some() || state.is_over;
            let flushes = state.flushes.iter().enumerate();
            let ready = flushes.filter(|(_, flush)| is_off || flush.due <= now).map(|(at, _)| at);
            let ready: Vec<usize> = ready.take(REORDERED).collect();
            if ready.is_empty() {
                if state.is_over {
                    return;
                }
                let due = state.flushes.iter().map(|flush| flush.due).min();
                let wait = due.map_or(KNOWN_FOR, |due| due.saturating_duration_since(now));
                state = self.changed.wait_timeout(state, wait).expect("nobody panics with it").0;
                continue;
            }
            let at = ready[state.random.below(ready.len() as u64) as usize];
            let flush = state.flushes.remove(at).expect("there are so many");
            let result = state.flush(&flush.what);
            drop(state);
            flush.reply.send(result);
            state = self.lock();
        }
    }
}

impl State {
    fn flush(&mut self, what: &What) -> Result<(), Errno> {
        let cut = match &mut self.cut {
            Some((0, moment)) => Some(*moment),
            Some((later, _)) => {
                *later -= 1;
                None
            }
            None => None,
        };
        if cut == Some(Moment::BeforeFlush) {
            self.power_off();
        }
        if self.left.is_some() {
            return Err(Errno::EIO);
        }
        match *what {
            What::Write { node, number } => self.files.flush(node, |write| write == number),
            What::File { node, newest } => self.files.flush(node, |write| write <= newest),
            What::Names { directory } => self.files.flush_names(Some(directory)),
        }
        if cut == Some(Moment::AfterFlush) {
            self.power_off();
            return Err(Errno::EIO);
        }
        Ok(())
    }

    fn attributes(&self, node: u64) -> Result<FileAttr, Errno> {
        let (kind, size) = match self.files.node(node).ok_or(Errno::ENOENT)? {
            Node::File(file) => (FileType::RegularFile, file.bytes.len() as u64),
            Node::Directory(_) => (FileType::Directory, 0),
        };
        let time = SystemTime::now();
        Ok(FileAttr {
            ino: INodeNo(node),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: UNIX_EPOCH,
            kind,
            perm: if kind == FileType::Directory { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        })
    }

    fn room(&self, node: u64, end: usize) -> Result<(), Errno> {
        let size = match self.files.node(node) {
            Some(Node::File(file)) => file.bytes.len(),
            _ => return Err(Errno::EIO),
        };
        let is_enough = end <= size || self.files.used() - size.min(self.files.used()) + end <= self.capacity;
        if is_enough { Ok(()) } else { Err(Errno::ENOSPC) }
    }
}

/// What the kernel asks.
struct Mounted(Arc<Shared>);

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    Reply::Empty(reply).send(result);
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&KNOWN_FOR, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.powered(|state| {
            let node = state.files.lookup(parent.0, text(name)?).ok_or(Errno::ENOENT)?;
            state.attributes(node)
        });
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.powered(|state| state.attributes(node.0)) {
            Ok(attributes) => reply.attr(&KNOWN_FOR, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.0.powered(|state| {
            if let Some(size) = size {
                state.room(node.0, size as usize)?;
                state.files.resize(node.0, size as usize);
            }
            state.attributes(node.0)
        });
        match set {
            Ok(attributes) => reply.attr(&KNOWN_FOR, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let made = self.0.powered(|state| {
            let node = state.files.add(parent.0, text(name)?, Node::Directory(Default::default()));
            state.attributes(node)
        });
        entry(reply, made);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.0.powered(|state| {
            let node = state.files.add(parent.0, text(name)?, Node::File(File::default()));
            state.attributes(node)
        });
        match made {
            Ok(attributes) => {
                reply.created(&KNOWN_FOR, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.powered(|state| {
            state.files.remove(parent.0, text(name)?);
            Ok(())
        });
        empty(reply, removed);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.powered(|state| {
            let node = state.files.lookup(parent.0, text(name)?).ok_or(Errno::ENOENT)?;
            if !state.files.names(node).is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            state.files.remove(parent.0, text(name)?);
            Ok(())
        });
        empty(reply, removed);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.0.powered(|state| {
            state.files.rename((parent.0, text(name)?), (to.0, text(to_name)?));
            Ok(())
        });
        empty(reply, renamed);
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.0.powered(|state| {
            let file = state.files.file(node.0).ok_or(Errno::EIO)?;
            let from = (offset as usize).min(file.bytes.len());
            let to = (from + size as usize).min(file.bytes.len());
            let pages = from / PAGE_BYTES..to.div_ceil(PAGE_BYTES);
            if file.unreadable.range(pages).next().is_some() {
                return Err(Errno::EIO);
            }
            Ok(file.bytes[from..to].to_vec())
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (node, offset) = (node.0, offset as usize);
        let reply = Reply::Written(reply, bytes.len() as u32);
        let write = |state: &mut State| {
            state.room(node, offset + bytes.len())?;
            Ok(state.files.write(node, offset, bytes))
        };
        if flags.0 & O_DSYNC == 0 {
            reply.send(self.0.powered(write).map(drop));
        } else {
            self.0.ask_for(reply, |state| Ok(What::Write { node, number: write(state)? }));
        }
    }

    /// A file is closed, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0
            .ask_for(Reply::Empty(reply), |state| Ok(What::File { node: node.0, newest: state.files.newest_write() }));
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0.ask_for(Reply::Empty(reply), |_| Ok(What::Names { directory: node.0 }));
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.0.powered(|state| {
            let kind = |node: u64| match state.files.node(node) {
                Some(Node::Directory(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            let names = state.files.names(node.0).into_iter().map(|(name, node)| (name, node, kind(node)));
            Ok(names.collect::<Vec<_>>())
        });
        match listed {
            Ok(names) => {
                for (at, (name, node, kind)) in names.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(node), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.0.lock();
        let pages = |bytes: usize| (bytes.min(1 << 40) / PAGE_BYTES) as u64;
        let free = pages(state.capacity.saturating_sub(state.files.used()));
        reply.statfs(pages(state.capacity), free, free, 1 << 20, 1 << 20, PAGE_BYTES as u32, 255, PAGE_BYTES as u32);
    }
}

const _: () = assert!(ROOT == INodeNo::ROOT.0);
