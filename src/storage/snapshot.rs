//! The snapshots of a directory: written, found, loaded, and which of them may go.
//!
//! A snapshot is a file `snapshot.<zxid>` in Apache's format, and named for the last transaction in it. It comes
//! into being whole: it is written under a name that neither this server nor Apache takes for a snapshot, flushed,
//! read again, and only then renamed.
//!
//! Source: `FileSnap.java`, `FileTxnSnapLog.java`, `PurgeTxnLog.java`.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use simd_adler32::Adler32;
use tracing::{info, warn};

use super::ahead;
use super::compression::{Compression, Writer};
use super::direct;
use super::error::StorageError;
use super::files;
use super::replay::Pace;
use super::snapshot_format::{CHUNK_BYTES, Decoded, Encoder, Form, SnapshotSource};
use super::snapshot_load::{self, LoadError};
use crate::tree::DataTree;
use crate::types::Zxid;

pub(super) const PREFIX: &str = "snapshot.";
/// What [`write()`] writes to. Apache takes for a snapshot whatever begins with `snapshot.<hex>`, so this does not.
const TEMP_PREFIX: &str = "ringkeeper-snapshot-";
const TEMP_SUFFIX: &str = ".tmp";

/// Most snapshots that [`load_newest`] looks at, as for Apache.
const CANDIDATES_MAX: usize = 100;
/// A snapshot ends with a seal, and a seal with this: an ustring "/".
const TAIL: [u8; 5] = [0, 0, 0, 1, b'/'];
/// Written bytes are flushed each time they come to this many, so that the log's flushes never wait behind a
/// long queue of them.
const FLUSH_BYTES: u64 = 8 << 20;

/// How far [`write()`] has come, in bytes since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// So much is written.
    Written(u64),
    /// All is written and flushed, and so much was read again and is right.
    Verified(u64),
}

/// A snapshot that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// The last transaction in it.
    pub zxid: Zxid,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How long it took, the hook's time included.
    pub elapsed: Duration,
}

/// Writes `source` to `<dir>/snapshot.<zxid>`, durably. A file of that name is replaced.
///
/// `progress` is called after each chunk of about 256 KiB, and may sleep to leave the disk to others. On an error,
/// a full disk for one, nothing is left behind and the snapshots that are there stay as they are. One call at a
/// time for one directory and zxid.
pub fn write(
    dir: &Path,
    source: &SnapshotSource,
    progress: impl FnMut(Progress),
) -> Result<SnapshotInfo, StorageError> {
    write_as(dir, source, Compression::None, progress)
}

/// [`write()`], compressed. `progress` counts the bytes before that.
pub fn write_as(
    dir: &Path,
    source: &SnapshotSource,
    compression: Compression,
    progress: impl FnMut(Progress),
) -> Result<SnapshotInfo, StorageError> {
    let name = file_name(source.tree.zxid()) + compression.suffix();
    write_named(dir, &name, source, compression, progress)
}

/// [`write_as()`], to a file of that name: it is there, whole and durable, or not at all.
pub(super) fn write_named(
    dir: &Path,
    name: &str,
    source: &SnapshotSource,
    compression: Compression,
    mut progress: impl FnMut(Progress),
) -> Result<SnapshotInfo, StorageError> {
    let start = Instant::now();
    let zxid = source.tree.zxid();
    let path = dir.join(name);
    info!("Snapshotting: {zxid} to {}", path.display());

    let temp_path = dir.join(format!("{TEMP_PREFIX}{:x}{TEMP_SUFFIX}", zxid.0));
    let options = File::options().write(true).create_new(true).to_owned();
    let file = files::open(&temp_path, &options).map_err(StorageError::io("create", &temp_path))?;
    let temp = Temp { path: temp_path };
    let mut writer = Writer::new(compression, file);
    let mut encoder = Encoder::new(source, Form::File);
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
    let (mut bytes, mut flushed) = (0, 0);
    while encoder.next_chunk(&mut chunk) {
        writer.write_all(&chunk).map_err(StorageError::io("write", &temp.path))?;
        bytes += chunk.len() as u64;
        // Writing begins with each chunk, so that no flush of the log meets a long queue of them.
        let _ = fadvise(writer.file(), 0, None, Advice::DontNeed);
        if bytes - flushed >= FLUSH_BYTES {
            writer.file().sync_data().map_err(StorageError::io("flush", &temp.path))?;
            flushed = bytes;
        }
        progress(Progress::Written(bytes));
    }
    let file = writer.finish().map_err(StorageError::io("write", &temp.path))?;
    files::sync(&file, &temp.path).map_err(StorageError::io("flush", &temp.path))?;
    let written = Written { compression, bytes, checksum: encoder.checksum() };
    verify(&file, &temp.path, &written, |verified| progress(Progress::Verified(verified)))?;
    let bytes = file.metadata().map_err(StorageError::io("look at", &temp.path))?.len();

    files::rename(&temp.path, &path).map_err(StorageError::io("rename to its final name", &temp.path))?;
    sync_directory(dir)?;
    let elapsed = start.elapsed();
    info!("Snapshot taken in {} ms", elapsed.as_millis());
    Ok(SnapshotInfo { zxid, path, bytes, elapsed })
}

/// What was put into a file.
struct Written {
    compression: Compression,
    /// Before the compression.
    bytes: u64,
    checksum: u32,
}

/// Reads a file back, from the disk rather than from memory if that can be had, and compares it by its checksum:
/// that of the whole covers all seals.
fn verify(file: &File, path: &Path, written: &Written, mut progress: impl FnMut(u64)) -> Result<(), StorageError> {
    // Nobody reads it soon. Where the page cache cannot be gone past, what is not in it comes from the disk too.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    let Written { compression, bytes, checksum } = *written;
    let mut from = match direct::Reader::open(path, CHUNK_BYTES) {
        Ok(reader) => compression.reader(reader),
        Err(_) => compression.reader(File::open(path).map_err(StorageError::io("read", path))?),
    };
    let mut found = Adler32::new();
    let mut read = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = from.read(&mut chunk).map_err(StorageError::io("read", path))?;
        if len == 0 {
            break;
        }
        found.write(&chunk[..len]);
        read += len as u64;
        progress(read);
    }
    if (read, found.finish()) != (bytes, checksum) {
        return Err(StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: format!("{bytes} bytes were written, and the {read} read back differ from them"),
            remedy: "Have the disk and the memory of this machine checked".to_owned(),
        });
    }
    Ok(())
}

/// A file that goes when this does, unless it was renamed.
struct Temp {
    path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // Renamed, it is not there; and what cannot be removed goes at the next start.
        let _ = files::remove(&self.path);
    }
}

fn sync_directory(dir: &Path) -> Result<(), StorageError> {
    files::sync_dir(dir).map_err(StorageError::io("flush the directory", dir))
}

/// The name of a snapshot.
pub fn file_name(zxid: Zxid) -> String {
    format!("{PREFIX}{:x}", zxid.0)
}

/// The last transaction in a snapshot and its compression, by the name of its file; `None` if that is no snapshot's.
pub fn of_name(path: &Path) -> Option<(Zxid, Compression)> {
    path.file_name().and_then(|name| name.to_str()).and_then(parse_name)
}

/// A file that looks like a snapshot: by its name, and by its last or first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// From the name.
    pub zxid: Zxid,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether Apache compressed it.
    pub compression: Compression,
}

/// The snapshots of a directory that look whole, newest first. Whether one is shows only when it is loaded.
pub fn list(dir: &Path) -> Result<Vec<SnapshotFile>, StorageError> {
    let mut found = Vec::new();
    for named in list_by_name(dir)? {
        match looks_whole(&named) {
            Ok(None) => found.push(named),
            Ok(Some(why)) => info!("Invalid snapshot {}. {why}", named.path.display()),
            Err(error) => warn!("problem reading snap file {}: {error}", named.path.display()),
        }
    }
    Ok(found)
}

/// All files that are named like a snapshot, newest first.
pub fn list_by_name(dir: &Path) -> Result<Vec<SnapshotFile>, StorageError> {
    let failed = || StorageError::io("list the directory", dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let Some((zxid, compression)) = name.to_str().and_then(parse_name) else { continue };
        let bytes = entry.metadata().map_err(StorageError::io("look at", &entry.path()))?.len();
        found.push(SnapshotFile { zxid, path: entry.path(), bytes, compression });
    }
    found.sort_by_key(|file| (std::cmp::Reverse(file.zxid), file.path.clone()));
    Ok(found)
}

fn parse_name(name: &str) -> Option<(Zxid, Compression)> {
    let rest = name.strip_prefix(PREFIX)?;
    let (hex, compression) = match rest.split_once('.') {
        None => (rest, Compression::None),
        Some((hex, "gz")) => (hex, Compression::Gzip),
        Some((hex, "snappy")) => (hex, Compression::Snappy),
        Some(_) => return None,
    };
    if hex.starts_with(['+', '-']) {
        return None;
    }
    Some((Zxid(i64::from_str_radix(hex, 16).ok()?), compression))
}

/// Apache's quick test (`SnapStream.isValidSnapshot`). `Some` says why not.
fn looks_whole(named: &SnapshotFile) -> Result<Option<String>, std::io::Error> {
    let mut file = File::open(&named.path)?;
    let magic = named.compression.magic();
    if named.bytes < 10 {
        return Ok(Some(format!("too short, len = {} bytes", named.bytes)));
    }
    if magic.is_empty() {
        file.seek(SeekFrom::End(-(TAIL.len() as i64)))?;
        let mut tail = [0; TAIL.len()];
        file.read_exact(&mut tail)?;
        let why = || format!("len = {}, the last bytes are {tail:02x?} and not a seal's", named.bytes);
        return Ok((tail != TAIL).then(why));
    }
    let mut head = vec![0; magic.len()];
    file.read_exact(&mut head)?;
    Ok((head != magic).then(|| format!("the first bytes are {head:02x?}, not those of its compression")))
}

/// A snapshot that was loaded.
pub struct Loaded {
    /// The state.
    pub data_tree: DataTree,
    /// The last transaction that is in it for certain: what the file is named for. Replay what follows.
    pub zxid: Zxid,
    /// See [`Decoded::last_recorded`]: if this is later, Apache wrote the file while transactions went on, and a log
    /// that ends before this is not enough.
    pub last_recorded: Option<Zxid>,
    /// See [`Decoded::unknown_acls`].
    pub unknown_acls: usize,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Loads the newest snapshot that is whole, and removes what a [`write()`] may have left when the process was killed.
/// `None` if the directory holds no snapshot.
///
/// A damaged one is passed over with a warning: the log goes back to before the older ones. Errors with
/// `NoValidSnapshot` if there are snapshots but none can be loaded; Apache begins with an empty tree when all of
/// them are cut short and there is no log, which loses the data.
///
/// With `until`, one that may show later transactions is passed over too.
pub fn load_newest(dir: &Path, until: Option<Zxid>) -> Result<Option<Loaded>, StorageError> {
    remove_temps(dir)?;
    let until = until.unwrap_or(Zxid(i64::MAX));
    let named = list_by_name(dir)?.len();
    for file in list(dir)?.into_iter().filter(|file| file.zxid <= until).take(CANDIDATES_MAX) {
        match load(&file) {
            Ok(loaded) if loaded.last_recorded.is_some_and(|last| last > until) => {}
            Ok(loaded) => return Ok(Some(loaded)),
            Err(error) => warn!("problem reading snap file {}: {error}", file.path.display()),
        }
    }
    match named {
        0 => Ok(None),
        found => Err(StorageError::NoValidSnapshot { directory: dir.to_owned(), found }),
    }
}

/// Loads one snapshot.
pub fn load(file: &SnapshotFile) -> Result<Loaded, StorageError> {
    info!("Reading snapshot {}", file.path.display());
    let (decoded, bytes) = read(file)?;
    let Decoded { data_tree, last_recorded, unknown_acls } = decoded;
    Ok(Loaded { data_tree, zxid: file.zxid, last_recorded, unknown_acls, path: file.path.clone(), bytes })
}

fn read(file: &SnapshotFile) -> Result<(Decoded, u64), StorageError> {
    let from = File::open(&file.path).map_err(StorageError::io("open", &file.path))?;
    let from = ahead::Reader::new(from).map_err(StorageError::io("look at", &file.path))?;
    let mut read = 0;
    let mut pace = Pace::new();
    let progress = |bytes| {
        read = bytes;
        if pace.is_due() {
            info!(
                "Reading snapshot {}: {} MiB so far, of a file of {}",
                file.path.display(),
                bytes >> 20,
                file.bytes >> 20
            );
        }
    };
    let decoded =
        snapshot_load::load(file.compression.reader(from), file.zxid, progress).map_err(|error| match error {
            LoadError::Io(source) => StorageError::Io { operation: "read", path: file.path.clone(), source },
            LoadError::Format(error) => StorageError::Damaged {
                path: file.path.clone(),
                offset: error.offset,
                what: error.what,
                remedy: "An older snapshot and the log are used if they are there".to_owned(),
            },
        })?;
    Ok((decoded, read))
}

pub(super) fn remove_temps(dir: &Path) -> Result<(), StorageError> {
    let failed = || StorageError::io("list the directory", dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let is_ours = |name: &str| name.starts_with(TEMP_PREFIX) && name.ends_with(TEMP_SUFFIX);
        if entry.file_name().to_str().is_some_and(is_ours) {
            info!("Removing the unfinished snapshot {}", entry.path().display());
            files::remove(&entry.path()).map_err(StorageError::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::AclList;
    use crate::proto::txn::{CreateKind, Txn, TxnHeader};
    use crate::storage::testing::TempDir;
    use crate::types::{SessionId, WallMs};

    /// A state of `znodes` znodes besides the reserved ones, made by as many transactions.
    fn state(znodes: i64) -> DataTree {
        let mut data_tree = DataTree::new();
        for i in 1..=znodes {
            let txn = Txn::Create {
                path: format!("/n{i}").into(),
                data: Some(vec![7; 100].into()),
                acl: AclList::OPEN,
                kind: CreateKind::Plain { ephemeral: false },
                with_stat: false,
                parent_cversion: -1,
            };
            data_tree.apply(&TxnHeader { session: SessionId(1), cxid: 0, zxid: Zxid(i), time: WallMs(i) }, &txn);
        }
        data_tree
    }

    fn write_state(dir: &TempDir, znodes: i64) -> SnapshotInfo {
        write(dir.path(), &SnapshotSource::of(&state(znodes), true), |_| {}).unwrap()
    }

    #[test]
    fn compressed_snapshots_are_written_verified_and_loaded() {
        let dir = TempDir::new("snapshot-compressed");
        let data_tree = state(2000);
        let source = SnapshotSource::of(&data_tree, true);
        for (compression, name) in
            [(Compression::Gzip, "snapshot.7d0.gz"), (Compression::Snappy, "snapshot.7d0.snappy")]
        {
            let info = write_as(dir.path(), &source, compression, |_| {}).unwrap();
            assert_eq!(dir.names(), [name]);
            assert_eq!(info.bytes, fs::metadata(&info.path).unwrap().len());
            let loaded = load_newest(dir.path(), None).unwrap().unwrap();
            assert_eq!((loaded.zxid, loaded.data_tree.tree().digest()), (Zxid(2000), data_tree.tree().digest()));
            let whole = fs::read(&info.path).unwrap();
            for cut in [9, 20, whole.len() / 2, whole.len() - 1] {
                fs::write(&info.path, &whole[..cut]).unwrap();
                assert!(load_newest(dir.path(), None).is_err(), "{name} cut at {cut}");
            }
            fs::remove_file(&info.path).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_found_and_loaded() {
        let dir = TempDir::new("snapshot-found");
        assert!(load_newest(dir.path(), None).unwrap().is_none());
        write_state(&dir, 3);
        let mut last = Progress::Written(0);
        let data_tree = state(10_000);
        let info = write(dir.path(), &SnapshotSource::of(&data_tree, true), |progress| last = progress).unwrap();
        assert_eq!(last, Progress::Verified(info.bytes));
        assert_eq!(info.path, dir.path().join("snapshot.2710"));
        assert_eq!(dir.names(), ["snapshot.2710", "snapshot.3"]);

        let loaded = load_newest(dir.path(), None).unwrap().unwrap();
        assert_eq!((loaded.zxid, loaded.bytes, loaded.path), (Zxid(10_000), info.bytes, info.path));
        assert_eq!(loaded.data_tree.tree().digest(), data_tree.tree().digest());
        assert_eq!(loaded.last_recorded, Some(Zxid(10_000)));
    }

    #[test]
    fn a_damaged_snapshot_is_passed_over_and_if_all_are_that_is_an_error() {
        let dir = TempDir::new("snapshot-damaged");
        let paths = [3, 4, 5, 6].map(|znodes| write_state(&dir, znodes).path);
        // The newest is cut short, the next is damaged inside, the next has the seal's tail and nothing else.
        let bytes = fs::read(&paths[3]).unwrap();
        fs::write(&paths[3], &bytes[..bytes.len() - 1]).unwrap();
        let mut bytes = fs::read(&paths[2]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&paths[2], bytes).unwrap();
        fs::write(&paths[1], b"ZKSN-\0\0\0\x01/").unwrap();
        assert_eq!(list(dir.path()).unwrap().len(), 3);
        assert_eq!(load_newest(dir.path(), None).unwrap().unwrap().zxid, Zxid(3));

        fs::write(&paths[0], b"").unwrap();
        let error = load_newest(dir.path(), None).err().unwrap();
        assert!(matches!(error, StorageError::NoValidSnapshot { found: 4, .. }), "{error}");
        for path in &paths[1..] {
            fs::remove_file(path).unwrap();
        }
        let error = load_newest(dir.path(), None).err().unwrap();
        assert!(matches!(error, StorageError::NoValidSnapshot { found: 1, .. }), "{error}");
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let dir = TempDir::new("snapshot-fails");
        write_state(&dir, 3);
        let temp = dir.path().join("ringkeeper-snapshot-4.tmp");
        let error = write(dir.path(), &SnapshotSource::of(&state(4), true), |progress| {
            // A disk that does not keep what it was given.
            if matches!(progress, Progress::Written(_)) {
                File::options().write(true).open(&temp).unwrap().set_len(100).unwrap();
            }
        })
        .unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        assert_eq!(dir.names(), ["snapshot.3"]);
        assert!(write(&dir.path().join("absent"), &SnapshotSource::of(&state(4), true), |_| {}).is_err());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_other_files_are_left_alone() {
        let dir = TempDir::new("snapshot-left");
        let others =
            ["currentEpoch", "log.1", "snapshot", "snapshot.", "snapshot.-5", "snapshot.5.tmp", "snapshot.xyz"];
        for name in others.iter().chain(&["ringkeeper-snapshot-5.tmp"]) {
            fs::write(dir.path().join(name), b"0123456789\0\0\0\x01/").unwrap();
        }
        assert!(load_newest(dir.path(), None).unwrap().is_none());
        assert_eq!(dir.names(), others);
    }
}
