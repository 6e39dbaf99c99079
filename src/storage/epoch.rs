//! The two epochs of a server of an ensemble: files `acceptedEpoch` and `currentEpoch` beside the snapshots, as Apache
//! writes them: decimal digits and nothing else. And `sessionIds`, in the same form, which Apache has not: how far session ids
//! may have come, so that none is given out again where the clock was set back (`session::first_id`).
//!
//! Each is replaced as a whole: written under another name, flushed, renamed, the directory flushed. The accepted epoch goes
//! first, so that at no moment the current one is ahead of it.
//!
//! Source: `QuorumPeer.writeLongToFile`, `QuorumPeer.loadDataBase`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::error::StorageError;
use super::files;
use super::segments::sync_dir;
use crate::planted::{self, Bug};
use crate::types::{Epoch, Zxid};
use crate::zab::effect::Epochs;

const ACCEPTED: &str = "acceptedEpoch";
const CURRENT: &str = "currentEpoch";
const SESSION_IDS: &str = "sessionIds";
/// What a file is written to before it gets its name.
const TEMP_SUFFIX: &str = "tmp";

/// Reads all three. `last` is the last transaction that is on disk: neither epoch is older than its epoch.
///
/// The file of the current epoch may be: a learner makes the leader's history durable first and then the epoch, and may end in
/// between. What it has then is a beginning of the history that the leader of that epoch had, as a server has that follows it
/// and is some transactions behind. Apache refuses to start there.
///
/// Errors with `Damaged` if a file holds no number or one that no ensemble comes to, or the current epoch is newer than the
/// accepted one: such a server must not vote.
pub fn load(dir: &Path, last: Zxid) -> Result<Epochs, StorageError> {
    let implied = Epoch(last.epoch());
    let current = read(&dir.join(CURRENT))?.unwrap_or(implied);
    if current < implied && planted::is(Bug::EpochBehindRefused) {
        return Err(damaged(
            dir.join(CURRENT),
            format!("the current epoch, {current}, is older than the last zxid, {last}"),
        ));
    }
    let current = current.max(implied);
    let accepted = read(&dir.join(ACCEPTED))?.unwrap_or(implied.max(current));
    if accepted < current {
        let what = format!("the accepted epoch, {accepted} is less than the current epoch, {current}");
        return Err(damaged(dir.join(ACCEPTED), what));
    }
    Ok(Epochs { accepted, current, session_ids: load_session_ids(dir) })
}

/// How far session ids may have come. What cannot be read costs no start: then they begin by the clock alone.
pub fn load_session_ids(dir: &Path) -> u64 {
    let path = dir.join(SESSION_IDS);
    let number = read_text(&path).map(|text| text.map(|text| text.trim().parse()).transpose());
    match number {
        Ok(Ok(used)) => used.unwrap_or(0),
        Ok(Err(error)) => {
            tracing::warn!("{} holds no number ({error}): session ids begin by the clock alone", path.display());
            0
        }
        Err(error) => {
            tracing::warn!("{error}: session ids begin by the clock alone");
            0
        }
    }
}

/// Makes all three durable. Without room for how far session ids may come, a server serves all the same.
pub fn save(dir: &Path, epochs: Epochs) -> Result<(), StorageError> {
    save_session_ids(dir, epochs.session_ids);
    write(&dir.join(ACCEPTED), epochs.accepted.0.into())?;
    sync_dir(dir)?;
    write(&dir.join(CURRENT), epochs.current.0.into())?;
    sync_dir(dir)
}

/// Makes durable how far session ids may come. Where there is no room for another file, the one that is there is written
/// over, which takes none: it is so short that a loss of power leaves the old number or the new one. If that fails too it is
/// left out: reads must go on there, and ids that are given out twice need a clock that is set back besides.
pub fn save_session_ids(dir: &Path, used: u64) {
    let path = dir.join(SESSION_IDS);
    if let Err(error) = write(&path, used).or_else(|_| write_over(&path, used)).and_then(|()| sync_dir(dir)) {
        tracing::warn!("{error}: if this clock is set back, ids of closed sessions may be given out again");
    }
}

fn read(path: &Path) -> Result<Option<Epoch>, StorageError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    match text.trim().parse::<u32>() {
        Ok(epoch) if Epoch(epoch) >= Epoch::MAX => {
            Err(damaged(path.to_owned(), format!("{text:?} is no epoch: no ensemble comes so far")))
        }
        Ok(epoch) => Ok(Some(Epoch(epoch))),
        Err(error) => Err(damaged(path.to_owned(), format!("{text:?} is no epoch: {error}"))),
    }
}

fn read_text(path: &Path) -> Result<Option<String>, StorageError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StorageError::Io { operation: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, number: u64) -> Result<(), StorageError> {
    if read_text(path).ok().flatten().is_some_and(|text| text == number.to_string()) {
        return Ok(());
    }
    let temp = path.with_extension(TEMP_SUFFIX);
    let options = OpenOptions::new().write(true).create(true).truncate(true).to_owned();
    put(&temp, &options, number)?;
    files::rename(&temp, path).map_err(StorageError::io("rename to its final name", &temp))
}

/// Replaces the number in a file that is there and holds one that is no longer.
fn write_over(path: &Path, number: u64) -> Result<(), StorageError> {
    put(path, OpenOptions::new().write(true), number)
}

fn put(path: &Path, options: &OpenOptions, number: u64) -> Result<(), StorageError> {
    let written = files::open(path, options).and_then(|mut file| {
        file.write_all(number.to_string().as_bytes())?;
        files::sync(&file, path)
    });
    written.map_err(StorageError::io("write", path))
}

fn damaged(path: PathBuf, what: String) -> StorageError {
    StorageError::Damaged {
        path,
        offset: 0,
        what,
        remedy:
            "Restore the data directory as a whole, or move version-2 away: the server then copies the data from the \
                 leader"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TempDir;

    const LAST: Zxid = Zxid(3 << 32 | 7);

    #[test]
    fn what_is_saved_is_loaded_and_readable_for_apache() {
        let dir = TempDir::new("epoch-saved");
        let epochs = Epochs { accepted: Epoch(5), current: Epoch(4), session_ids: 1 << 55 };
        save(dir.path(), epochs).unwrap();
        assert_eq!(load(dir.path(), LAST).unwrap(), epochs);
        assert_eq!(fs::read(dir.path().join(ACCEPTED)).unwrap(), b"5");
        assert_eq!(fs::read(dir.path().join(SESSION_IDS)).unwrap(), b"36028797018963968");
        assert_eq!(dir.names(), [ACCEPTED, CURRENT, SESSION_IDS]);
        save_session_ids(dir.path(), 7);
        assert_eq!(load(dir.path(), LAST).unwrap(), Epochs { session_ids: 7, ..epochs });
    }

    #[test]
    fn how_far_session_ids_have_come_is_kept_without_room_and_keeps_nobody_from_serving() {
        let dir = TempDir::new("epoch-no-room");
        // Nothing can be written under that name.
        fs::create_dir(dir.path().join(SESSION_IDS).with_extension(TEMP_SUFFIX)).unwrap();
        let epochs = Epochs { accepted: Epoch(5), current: Epoch(4), session_ids: 17 };
        save(dir.path(), epochs).unwrap();
        assert_eq!(load(dir.path(), LAST).unwrap(), Epochs { session_ids: 0, ..epochs });
        fs::write(dir.path().join(SESSION_IDS), "9").unwrap();
        save(dir.path(), epochs).unwrap();
        assert_eq!(load(dir.path(), LAST).unwrap(), epochs, "in place of the number that was there");
    }

    #[test]
    fn files_that_are_not_there_say_what_the_log_says() {
        let dir = TempDir::new("epoch-absent");
        let epochs = Epochs { accepted: Epoch(3), current: Epoch(3), session_ids: 0 };
        assert_eq!(load(dir.path(), LAST).unwrap(), epochs);
        assert_eq!(load(dir.path(), Zxid::ZERO).unwrap(), Epochs::default());
        for none in ["", "seven", "-7", "99999999999999999999"] {
            fs::write(dir.path().join(SESSION_IDS), none).unwrap();
            assert_eq!(load(dir.path(), LAST).unwrap(), epochs, "{none:?} costs no start");
        }
    }

    #[test]
    fn a_crash_between_the_history_and_the_epoch_keeps_nobody_from_starting() {
        let dir = TempDir::new("epoch-behind");
        save(dir.path(), Epochs { accepted: Epoch(3), current: Epoch(2), session_ids: 0 }).unwrap();
        assert_eq!(load(dir.path(), LAST).unwrap(), Epochs { accepted: Epoch(3), current: Epoch(3), session_ids: 0 });
    }

    #[test]
    fn epochs_that_contradict_each_other_are_refused() {
        let dir = TempDir::new("epoch-contradiction");
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put(CURRENT, "4");
        put(ACCEPTED, "3");
        assert!(load(dir.path(), LAST).unwrap_err().to_string().contains("is less than the current epoch"));
        for none in ["four", "2147483647", "4294967295", "4294967296", "-1", ""] {
            put(ACCEPTED, none);
            assert!(load(dir.path(), LAST).unwrap_err().to_string().contains("is no epoch"), "{none:?}");
        }
    }
}
