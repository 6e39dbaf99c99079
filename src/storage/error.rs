//! What can go wrong on disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A storage operation that failed, with what an operator needs to act on it.
#[derive(Debug)]
pub enum StorageError {
    /// The operating system refused.
    Io {
        /// What was tried, a verb that the path can follow: `write`, `list the directory`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Bytes that are not what was written there.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        what: String,
        /// What can be done.
        remedy: String,
    },
    /// A file that may be whole, but is of a kind that is not read.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What can be done.
        remedy: String,
    },
    /// There are snapshots, but none can be loaded.
    NoValidSnapshot {
        /// Where they are.
        directory: PathBuf,
        /// How many there are.
        found: usize,
    },
}

impl StorageError {
    /// For `map_err`: an [`StorageError::Io`] of this operation on this path.
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        move |source| StorageError::Io { operation, path: path.to_owned(), source }
    }
}

impl StorageError {
    /// Whether what is on disk is not what was written there, or cannot be read back, so that a copy of it may help.
    pub fn is_damage(&self) -> bool {
        match self {
            StorageError::Damaged { .. } | StorageError::NoValidSnapshot { .. } => true,
            StorageError::Io { source, .. } => Errno::from_io_error(source) == Some(Errno::IO),
            StorageError::Unsupported { .. } => false,
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Io { operation, path, source } => {
                write!(f, "cannot {operation} {}: {source}", path.display())
            }
            StorageError::Damaged { path, offset, what, remedy } => {
                write!(f, "{} is damaged at byte {offset}: {what}. {remedy}", path.display())
            }
            StorageError::Unsupported { path, what, remedy } => {
                write!(f, "{} cannot be used: {what}. {remedy}", path.display())
            }
            // Apache's words first: scripts look for them.
            StorageError::NoValidSnapshot { directory, found } => write!(
                f,
                "Not able to find valid snapshots in {}: none of the {found} can be loaded, for the reasons logged \
                 before this. Put back a copy of the directory, or, where the rest of the ensemble is healthy, move \
                 it away and let this server copy the data from the leader",
                directory.display()
            ),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StorageError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
