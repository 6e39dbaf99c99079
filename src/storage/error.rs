//! What can go wrong with files.

use std::path::PathBuf;
use std::{fmt, io};

/// An operation on a file failed, or a file holds what it must not.
#[derive(Debug)]
pub enum StorageError {
    /// The operating system refused.
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Bytes that were written once are not what was written.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
        /// What a person can do.
        remedy: String,
    },
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Io { operation, path, source } => write!(f, "cannot {operation} {}: {source}", path.display()),
            StorageError::Damaged { path, offset, what, remedy } => {
                write!(f, "{} is damaged at byte {offset}: {what}. What to do: {remedy}", path.display())
            }
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StorageError::Io { source, .. } => Some(source),
            StorageError::Damaged { .. } => None,
        }
    }
}
