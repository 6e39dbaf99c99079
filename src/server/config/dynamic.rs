//! The files in which a configuration of the ensemble outlives the process.
//!
//! ```text
//! zoo.cfg                      … dynamicConfigFile=/etc/zookeeper/zoo.cfg.dynamic.100000016
//! zoo.cfg.dynamic.100000016    the members in force: server, group and weight lines; the version stands in the name
//! zoo.cfg.dynamic.next         what was proposed and is not in force yet, with a line for the version
//! zoo.cfg.bak                  zoo.cfg as it was when the members still stood in it
//! ```
//!
//! Each is replaced as a whole: written under another name, flushed, renamed, the directory flushed. zoo.cfg keeps its
//! comments and the order of its lines, which Apache loses.
//!
//! Source: `QuorumPeerConfig.writeDynamicConfig`, `editStaticConfig`, `backupOldConfig`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::Config;
use super::properties;
use crate::storage::segments::sync_dir;
use crate::types::ServerId;
use crate::zab::quorum::{QuorumVerifier, QuorumView};

/// A file that could not be written.
#[derive(Debug)]
pub struct KeepError {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for KeepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Keeps zoo.cfg as it is now under another name, if its members are about to move out of it.
///
/// Errors: the copy cannot be written.
pub fn back_up(config: &Config) -> Result<(), KeepError> {
    let static_members = config.ensemble.as_ref().is_some_and(|ensemble| ensemble.dynamic_file.is_none());
    if !static_members || !config.reconfig_enabled {
        return Ok(());
    }
    let text = fs::read(&config.path).map_err(failed(&config.path))?;
    replace(&beside(&config.path, ".bak"), &text)
}

/// Where one server keeps the configurations that it takes up while it runs.
#[derive(Clone, Debug)]
pub struct DynamicFiles {
    path: PathBuf,
    my_id: ServerId,
}

impl DynamicFiles {
    /// Those that belong to the zoo.cfg at `path`.
    pub fn new(path: &Path, my_id: ServerId) -> DynamicFiles {
        DynamicFiles { path: path.to_owned(), my_id }
    }

    /// Makes a view durable: the next start finds it. What is there already is not written again. Blocks.
    ///
    /// Errors: a file cannot be read or written, as in a directory that belongs to somebody else.
    pub fn keep(&self, view: &QuorumView) -> Result<(), KeepError> {
        let current = view.current();
        if current.version() != 0 {
            let name = beside(&self.path, &format!(".dynamic.{:x}", current.version()));
            replace(&name, lines(current, false).as_bytes())?;
            self.point_to(&name, current)?;
        }
        let next = beside(&self.path, ".dynamic.next");
        match view.pending() {
            Some(pending) => replace(&next, lines(pending, true).as_bytes()),
            None => remove(&next),
        }
    }

    /// Has zoo.cfg name the dynamic file. Lines that say the same as that go.
    fn point_to(&self, dynamic: &Path, current: &QuorumVerifier) -> Result<(), KeepError> {
        // A link stays one.
        let path = fs::canonicalize(&self.path).map_err(failed(&self.path))?;
        let dynamic = fs::canonicalize(dynamic).map_err(failed(dynamic))?;
        let moves_client = current.member(self.my_id).is_some_and(|me| me.client.is_some());
        let before = fs::read(&path).map_err(failed(&path))?;
        let after = edit(&before, &dynamic, moves_client);
        if after == before { Ok(()) } else { replace(&path, &after) }
    }
}

/// The lines of a file, sorted as Apache sorts them.
fn lines(config: &QuorumVerifier, with_version: bool) -> String {
    let text = config.to_string();
    let mut lines: Vec<&str> = text.lines().filter(|line| with_version || !line.starts_with("version=")).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// zoo.cfg without what now stands in the dynamic file, and with its name at the end.
fn edit(text: &[u8], dynamic: &Path, moves_client: bool) -> Vec<u8> {
    let moves = |key: &str| {
        ["server.", "group", "weight", "dynamicConfigFile", "peerType"].iter().any(|start| key.starts_with(start))
            || (moves_client && matches!(key, "clientPort" | "clientPortAddress"))
    };
    let mut edited = Vec::with_capacity(text.len());
    for line in logical_lines(text) {
        let parsed = properties::parse(line).map(|parsed| parsed.entries).unwrap_or_default();
        if !parsed.iter().any(|entry| moves(&entry.key)) {
            edited.extend_from_slice(line);
        }
    }
    if !edited.is_empty() && !edited.ends_with(b"\n") {
        edited.push(b'\n');
    }
    let dynamic = dynamic.to_string_lossy().replace('\\', "\\\\");
    edited.extend_from_slice(format!("dynamicConfigFile={dynamic}\n").as_bytes());
    edited
}

/// Lines with their ends; one that ends with a backslash goes on in the next, if it is no comment.
fn logical_lines(text: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut start, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        let content = line.trim_ascii_end();
        let first = text[start..at].trim_ascii_start().first();
        let is_comment = matches!(first, Some(b'#' | b'!'));
        let backslashes = content.iter().rev().take_while(|byte| **byte == b'\\').count();
        if is_comment || backslashes % 2 == 0 {
            lines.push(&text[start..at]);
            start = at;
        }
    }
    lines.extend((start < at).then(|| &text[start..at]));
    lines
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    |source| KeepError { path, source }
}

/// Replaces a file as a whole, if it holds anything else.
fn replace(path: &Path, text: &[u8]) -> Result<(), KeepError> {
    if fs::read(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let temp = beside(path, ".tmp");
    let written = File::create(&temp).and_then(|mut file| {
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(before.permissions())?;
        }
        file.write_all(text)?;
        file.sync_all()
    });
    written.map_err(failed(&temp))?;
    fs::rename(&temp, path).map_err(failed(path))?;
    sync_parent(path)
}

fn remove(path: &Path) -> Result<(), KeepError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path)(error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), KeepError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent).map_err(|error| failed(parent)(io::Error::other(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::testing::Scratch;

    const STATIC: &str = "# three servers\ntickTime=2000\nserver.1=a:1:2;2181\nserver.2=b:1:2\\\n  ;2181\n\
        clientPort=2181\nclientPortListenBacklog=7\n# server.3=c:1:2\\\npeerType=participant\ndataDir=/data";

    fn members(version: i64) -> QuorumVerifier {
        let text = "server.10=k:1:2;2181\nserver.2=b:1:2:observer;2181\nserver.1=a:1:2\ngroup.1=1:10\nweight.1=3";
        QuorumVerifier::parse(text).unwrap().with_version(version)
    }

    #[test]
    fn zoo_cfg_keeps_its_comments_and_loses_what_moves() {
        let edited =
            |moves_client| String::from_utf8(edit(STATIC.as_bytes(), Path::new("/c/d.1"), moves_client)).unwrap();
        assert_eq!(
            edited(true),
            "# three servers\ntickTime=2000\nclientPortListenBacklog=7\n# server.3=c:1:2\\\ndataDir=/data\n\
             dynamicConfigFile=/c/d.1\n"
        );
        assert_eq!(
            edited(false),
            "# three servers\ntickTime=2000\nclientPort=2181\nclientPortListenBacklog=7\n# server.3=c:1:2\\\n\
             dataDir=/data\ndynamicConfigFile=/c/d.1\n"
        );
        let again = edit(edited(true).as_bytes(), Path::new("/c/d.2"), true);
        assert_eq!(String::from_utf8(again).unwrap().lines().last(), Some("dynamicConfigFile=/c/d.2"));
    }

    #[test]
    fn a_view_is_kept_in_the_files_that_apache_writes() {
        let dir = Scratch::new();
        let path = dir.write("zoo.cfg", STATIC);
        let files = DynamicFiles::new(&path, ServerId(10));
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        let mut view = QuorumView::new(members(0));
        files.keep(&view).unwrap();
        assert_eq!(read("zoo.cfg").as_deref(), Some(STATIC), "what it started with stays where it is");

        view.see(members(0x1_0000_0000));
        files.keep(&view).unwrap();
        // Sorted as whole lines.
        let lines = "group.1=1:10\nserver.10=k:1:2:participant;0.0.0.0:2181\nserver.1=a:1:2:participant\n\
            server.2=b:1:2:observer;0.0.0.0:2181\n";
        let next = format!("{lines}version=100000000\nweight.10=1\nweight.1=3");
        assert_eq!(read("zoo.cfg.dynamic.next"), Some(next));
        assert_eq!(read("zoo.cfg").as_deref(), Some(STATIC));

        view.activate(members(0x1_0000_0000));
        files.keep(&view).unwrap();
        files.keep(&view).unwrap();
        assert_eq!(read("zoo.cfg.dynamic.next"), None);
        assert_eq!(read("zoo.cfg.dynamic.100000000"), Some(format!("{lines}weight.10=1\nweight.1=3")));
        let named =
            format!("dynamicConfigFile={}/zoo.cfg.dynamic.100000000\n", dir.path().canonicalize().unwrap().display());
        assert!(read("zoo.cfg").unwrap().ends_with(&named));
        assert!(!read("zoo.cfg").unwrap().contains("clientPort="), "this server's client port stands there, too");
    }

    #[test]
    fn a_directory_that_cannot_be_written_to_is_named() {
        let files = DynamicFiles::new(Path::new("/proc/nowhere/zoo.cfg"), ServerId(1));
        let view = QuorumView::new(members(1));
        let error = files.keep(&view).unwrap_err().to_string();
        assert!(error.starts_with("/proc/nowhere/zoo.cfg.dynamic.1.tmp: "), "{error}");
    }
}
