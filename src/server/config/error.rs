//! What can be wrong before the server runs, in one line a person can act on.
//!
//! [`ConfigError`] stops with exit code 2, [`StartError`] with 3; a [`Warning`] is printed and start-up goes on.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a key was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the configuration file, counted from 1.
    Line(PathBuf, u32),
    /// The file as a whole: a key that is missing.
    File(PathBuf),
    /// An environment variable, by name.
    Variable(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// A configuration that the server does not start with.
#[derive(Debug)]
pub enum ConfigError {
    /// No configuration file where it was looked for.
    NotFound {
        /// The places, in the order they were tried.
        looked_at: Vec<PathBuf>,
    },
    /// The configuration file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The text is not in properties syntax.
    Syntax {
        /// The line.
        place: Place,
        /// What is wrong.
        what: String,
    },
    /// A key that is required, alone or by another key, is not set.
    Missing {
        /// The file, or the line that makes the key necessary.
        place: Place,
        /// What is missing, in Apache's words.
        what: String,
        /// What to write.
        allowed: String,
    },
    /// A value that cannot be used.
    Invalid(Box<InvalidValue>),
    /// A key that nobody knows, although it is nearly a known one or begins like one of this server's own.
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The key as it is written there.
        key: String,
        /// What was probably meant.
        suggestion: Option<&'static str>,
    },
}

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    /// Where it stands.
    pub place: Place,
    /// The key as it is written there.
    pub key: String,
    /// The value as it may be shown: secrets are hidden.
    pub value: String,
    /// What is wrong, in Apache's words where it has some.
    pub what: String,
    /// What would be accepted; empty if `what` says it.
    pub allowed: String,
}

impl From<InvalidValue> for ConfigError {
    fn from(invalid: InvalidValue) -> ConfigError {
        ConfigError::Invalid(Box::new(invalid))
    }
}

impl ConfigError {
    /// Exit code of a process that stops for this: Apache's for bad arguments and configuration.
    pub const EXIT_CODE: u8 = 2;
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::NotFound { looked_at } => {
                let places: Vec<String> = looked_at.iter().map(|path| path.display().to_string()).collect();
                write!(f, "no configuration file; looked at {}", places.join(", "))
            }
            ConfigError::Unreadable { path, cause } => {
                write!(f, "{}: cannot read the configuration: {cause}", path.display())
            }
            ConfigError::Syntax { place, what } => write!(f, "{place}: {what}"),
            ConfigError::Missing { place, what, allowed } => write!(f, "{place}: {what}; allowed: {allowed}"),
            ConfigError::Invalid(invalid) => write!(f, "{invalid}"),
            ConfigError::UnknownKey { place, key, suggestion } => {
                write!(f, "{place}: {key}: unknown key")?;
                match suggestion {
                    Some(name) => write!(f, "; did you mean `{name}`?"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// `path:line: key = value: what is wrong; allowed: …`
impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidValue { place, key, value, what, allowed } = self;
        write!(f, "{place}: {key} = {value}: {what}")?;
        match allowed.as_str() {
            "" => Ok(()),
            allowed => write!(f, "; allowed: {allowed}"),
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ConfigError::Unreadable { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Something in the configuration that deserves a look although the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub place: Place,
    /// What is noticed, in words.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Which of the two directories an error is about. Apache's messages call the log's the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirKind {
    /// Where the transaction log lies: `<dataLogDir>/version-2`.
    Log,
    /// Where snapshots lie: `<dataDir>/version-2`.
    Snapshot,
}

impl fmt::Display for DirKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DirKind::Log => "data",
            DirKind::Snapshot => "snap",
        })
    }
}

/// A data directory that the server does not start on. The texts are those of Apache's `FileTxnSnapLog`.
#[derive(Debug)]
pub enum StartError {
    /// The directory is missing and `datadir.autocreate` is false.
    Missing {
        /// Which one.
        kind: DirKind,
        /// Its path.
        dir: PathBuf,
    },
    /// The directory is missing and cannot be made.
    CannotCreate {
        /// Which one.
        kind: DirKind,
        /// Its path.
        dir: PathBuf,
        /// What the system says, with the path it says it about.
        cause: String,
    },
    /// The directory is there but the process may not use it, or it is no directory.
    CannotWrite {
        /// Which one.
        kind: DirKind,
        /// Its path.
        dir: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// dataLogDir is not dataDir, and holds a snapshot.
    SnapshotInLogDir {
        /// The snapshot.
        file: PathBuf,
    },
    /// dataLogDir is not dataDir, and dataDir holds a log.
    LogInSnapshotDir {
        /// The log.
        file: PathBuf,
    },
}

impl StartError {
    /// Exit code of a process that stops for this: Apache's for an unusable data directory.
    pub const EXIT_CODE: u8 = 3;
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHECK: &str = "Check if dataLogDir and dataDir configuration is correct.";
        match self {
            StartError::Missing { kind, dir } => write!(
                f,
                "Missing {kind} directory {}, automatic data directory creation is disabled \
                 (zookeeper.datadir.autocreate is false). Please create this directory manually.",
                dir.display()
            ),
            StartError::CannotCreate { kind, dir, cause } => {
                write!(f, "Unable to create {kind} directory {}: {cause}", dir.display())
            }
            StartError::CannotWrite { kind, dir, cause } => {
                write!(f, "Cannot write to {kind} directory {}: {cause}", dir.display())
            }
            StartError::SnapshotInLogDir { file } => {
                write!(f, "Log directory has snapshot files. {CHECK} Found {}", file.display())
            }
            StartError::LogInSnapshotDir { file } => {
                write!(f, "Snapshot directory has log files. {CHECK} Found {}", file.display())
            }
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::CannotWrite { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
