//! `purge`: Apache's PurgeTxnLog, with its arguments, texts and exit codes, for its files and for this server's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{FlockOperation, flock};

use super::{Console, EXIT_FAILURE, EXIT_OK};
use crate::storage::error::StorageError;
use crate::storage::purge::{self, By, Superfluous};

/// Fewer snapshots are not kept.
const COUNT_MIN: usize = 3;

/// The arguments. What they must be is looked at by [`purge()`], so that it can be said in Apache's words.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(super) struct Arguments {
    /// dataLogDir and dataDir, or dataDir alone: those above version-2
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Snapshots to keep, 3 or more, with all logs that go on from them
    #[arg(short = 'n', value_name = "COUNT", allow_hyphen_values = true)]
    count: Option<String>,
}

/// Carries it out. It may run beside a server: then the server's own log segments are left to it.
pub(super) fn purge(arguments: &Arguments, console: &mut Console<'_>) -> io::Result<u8> {
    let (log_dir, data_dir, keep) = match check(arguments) {
        Ok(checked) => checked,
        Err(what) => {
            if let Some(what) = what {
                writeln!(console.err, "{what}")?;
            }
            write_usage(console)?;
            return Ok(EXIT_FAILURE);
        }
    };
    match purge_once(&data_dir.join("version-2"), &log_dir.join("version-2"), keep, console) {
        Ok(()) => Ok(EXIT_OK),
        Err(Failure::Console(error)) => Err(error),
        Err(Failure::Storage(error)) => {
            writeln!(console.err, "{error}")?;
            Ok(EXIT_FAILURE)
        }
    }
}

fn check(Arguments { dirs, count }: &Arguments) -> Result<(&Path, &Path, usize), Option<String>> {
    let (log_dir, data_dir) = match &dirs[..] {
        [dir] => (dir, dir),
        [log_dir, data_dir] => (log_dir, data_dir),
        _ => return Err(None),
    };
    if let Some(missing) = [log_dir, data_dir].into_iter().find(|dir| !dir.exists()) {
        let absolute = std::path::absolute(missing).unwrap_or_else(|_| missing.clone());
        return Err(Some(format!("Path '{}' does not exist. ", absolute.display())));
    }
    let count = count.as_ref().ok_or(None)?;
    let number: i32 = count.parse().map_err(|_| Some(format!("'{count}' can not be parsed to integer.")))?;
    let keep = usize::try_from(number).ok().filter(|keep| *keep >= COUNT_MIN);
    let keep = keep.ok_or_else(|| Some(format!("count should be greater than or equal to {COUNT_MIN}")))?;
    Ok((log_dir, data_dir, keep))
}

fn write_usage(console: &mut Console<'_>) -> io::Result<()> {
    writeln!(console.out, "Usage:")?;
    writeln!(console.out, "PurgeTxnLog dataLogDir [snapDir] -n count")?;
    writeln!(console.out, "\tdataLogDir -- path to the txn log directory")?;
    writeln!(console.out, "\tsnapDir -- path to the snapshot directory")?;
    writeln!(
        console.out,
        "\tcount -- the number of old snaps/logs you want to keep, value should be greater than or equal to {COUNT_MIN}"
    )
}

enum Failure {
    Console(io::Error),
    Storage(StorageError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Console(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Failure {
        Failure::Storage(error)
    }
}

fn purge_once(snapshot_dir: &Path, log_dir: &Path, keep: usize, console: &mut Console<'_>) -> Result<(), Failure> {
    let (snapshot_dir, log_dir) = match (snapshot_dir.is_dir(), log_dir.is_dir()) {
        (true, true) => (snapshot_dir, log_dir),
        // Apache makes the directories, and finds nothing in them.
        _ => return Ok(writeln!(console.err, "There is no version-2 below the directory: nothing to purge")?),
    };
    let locks = (lock(snapshot_dir)?, (log_dir != snapshot_dir).then(|| lock(log_dir)).transpose()?);
    let server_runs = locks.0.is_none() || locks.1.as_ref().is_some_and(Option::is_none);
    let Superfluous { files, damaged, .. } =
        purge::superfluous(snapshot_dir, log_dir, keep, By::Command { server_runs })?;
    for error in damaged {
        writeln!(console.err, "A snapshot that stays does not count: {error}")?;
    }
    for path in &files {
        writeln!(console.out, "Removing file: {}\t{}", modified(path), path.display())?;
    }
    if server_runs {
        writeln!(console.err, "A server runs on this directory: its own log segments are left to it")?;
    }
    purge::remove(&files)?;
    Ok(())
}

/// The lock that a server holds on its directories; `None` if one does.
fn lock(dir: &Path) -> Result<Option<File>, StorageError> {
    let file = File::open(dir).map_err(StorageError::io("open", dir))?;
    Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
}

/// When a file was last changed, as Java writes it.
fn modified(path: &Path) -> String {
    let since = path.metadata().and_then(|metadata| metadata.modified()).ok();
    let ms = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_millis() as i64);
    let time = Timestamp::from_millisecond(ms).unwrap_or_default();
    time.to_zoned(TimeZone::system()).strftime("%b %-d, %Y, %-I:%M:%S %p").to_string()
}
