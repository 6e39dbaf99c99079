//! The data directories before the server runs: may they be used, and making them.
//!
//! Start-up checks first and writes nothing. Only once the whole configuration holds and the client port is bound are
//! missing directories made, so that a failed start leaves no trace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::Config;
use super::error::{DirKind, StartError};

/// Whether the server can work in its two directories. Reads only.
///
/// Errors: every variant of [`StartError`]. A directory that is missing is fine if `datadir.autocreate` is true and
/// the nearest directory above it that exists may be written to.
///
/// Source: the constructor of `FileTxnSnapLog`, in its order: the log's directory, the snapshots', then contents.
pub fn check_data_dirs(config: &Config) -> Result<(), StartError> {
    let (log, snapshot) = (config.log_dir(), config.snapshot_dir());
    check_dir(DirKind::Log, &log, config.data_dir_autocreate)?;
    check_dir(DirKind::Snapshot, &snapshot, config.data_dir_autocreate)?;
    if log == snapshot {
        return Ok(());
    }
    if let Some(file) = first_named(&log, "snapshot.") {
        return Err(StartError::SnapshotInLogDir { file });
    }
    if let Some(file) = first_named(&snapshot, "log.") {
        return Err(StartError::LogInSnapshotDir { file });
    }
    Ok(())
}

/// Makes what is missing of the two directories, durably: each new entry's parent is synced.
///
/// Errors: [`StartError::CannotCreate`]. To be called after [`check_data_dirs`] and after binding the client port.
pub fn create_data_dirs(config: &Config) -> Result<(), StartError> {
    for (kind, dir) in [(DirKind::Log, config.log_dir()), (DirKind::Snapshot, config.snapshot_dir())] {
        create_dir(&dir).map_err(|cause| StartError::CannotCreate { kind, dir, cause: cause.to_string() })?;
    }
    Ok(())
}

fn check_dir(kind: DirKind, dir: &Path, autocreate: bool) -> Result<(), StartError> {
    let dir_owned = || dir.to_path_buf();
    match usable(dir) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(StartError::CannotWrite { kind, dir: dir_owned(), cause })
        }
        Err(_) if !autocreate => Err(StartError::Missing { kind, dir: dir_owned() }),
        Err(_) => {
            let above = nearest_existing(dir);
            usable(&above).map_err(|cause| StartError::CannotCreate {
                kind,
                dir: dir_owned(),
                cause: format!("{}: {cause}", above.display()),
            })
        }
    }
}

/// Whether the process may list the directory and make files in it.
fn usable(dir: &Path) -> io::Result<()> {
    if !fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from)
}

/// The closest directory above `dir` that is there; at worst the working directory or the root.
fn nearest_existing(dir: &Path) -> PathBuf {
    dir.ancestors()
        .skip(1)
        .find(|above| above.as_os_str().is_empty() || above.symlink_metadata().is_ok())
        .filter(|above| !above.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

/// The first file of the directory whose name starts so; none if the directory is not there.
fn first_named(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names.into_iter().next()
}

fn create_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    for part in missing.into_iter().rev() {
        match fs::create_dir(part) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => fs::File::open(nearest_existing(part))?.sync_all()?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::testing::Scratch;

    /// Lays out `files` below a fresh directory `@`, checks with the settings and compares the message.
    #[track_caller]
    fn check(settings: &str, files: &[&str], expected: &str) {
        let scratch = Scratch::new();
        for file in files {
            scratch.write(file, "");
        }
        let root = scratch.path().display().to_string();
        let config = Config::parse(settings.replace('@', &root).as_bytes(), Path::new("zoo.cfg")).unwrap().config;
        let before = scratch.files();
        let found = match check_data_dirs(&config) {
            Ok(()) => "ok".to_string(),
            Err(error) => error.to_string().replace(&root, "@"),
        };
        assert_eq!(found, expected);
        assert_eq!(scratch.files(), before, "the check wrote something");
        if found == "ok" {
            create_data_dirs(&config).unwrap();
            assert!(config.log_dir().is_dir() && config.snapshot_dir().is_dir());
            check_data_dirs(&config).unwrap();
        }
    }

    #[test]
    fn missing_directories() {
        check("dataDir=@/a/b\ndataLogDir=@/c", &[], "ok");
        check(
            "dataDir=@/a\ndatadir.autocreate=false",
            &[],
            "Missing data directory @/a/version-2, automatic data directory creation is disabled \
             (zookeeper.datadir.autocreate is false). Please create this directory manually.",
        );
        check(
            "dataDir=@/a\ndataLogDir=@/b\ndatadir.autocreate=false",
            &["b/version-2/log.1"],
            "Missing snap directory @/a/version-2, automatic data directory creation is disabled \
             (zookeeper.datadir.autocreate is false). Please create this directory manually.",
        );
        check("dataDir=@/a\ndatadir.autocreate=false", &["a/version-2/log.1"], "ok");
    }

    #[test]
    fn a_file_in_the_way() {
        check(
            "dataDir=@/file/a",
            &["file"],
            "Cannot write to data directory @/file/a/version-2: Not a directory (os error 20)",
        );
        check("dataDir=@/a", &["a/version-2"], "Cannot write to data directory @/a/version-2: not a directory");
    }

    #[test]
    fn logs_and_snapshots_keep_apart_only_if_the_directories_differ() {
        let both = &["a/version-2/log.1", "a/version-2/snapshot.0"];
        check("dataDir=@/a", both, "ok");
        check("dataDir=@/a\ndataLogDir=@/a", both, "ok");
        check(
            "dataDir=@/b\ndataLogDir=@/a",
            both,
            "Log directory has snapshot files. Check if dataLogDir and dataDir configuration is correct. \
             Found @/a/version-2/snapshot.0",
        );
        check(
            "dataDir=@/a\ndataLogDir=@/b",
            both,
            "Snapshot directory has log files. Check if dataLogDir and dataDir configuration is correct. \
             Found @/a/version-2/log.1",
        );
        check("dataDir=@/a\ndataLogDir=@/b", &["a/version-2/snapshot.0", "b/version-2/log.1", "a/myid"], "ok");
    }
}
