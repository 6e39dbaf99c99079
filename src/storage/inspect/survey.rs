//! The whole chain of a log, checked: each file, and what each says of the one before.

use std::path::{Path, PathBuf};

use super::{Break, Entry, FileKind, Item, LogFile, LogReader};
use crate::proto::txn::LoggedTxn;
use crate::storage::error::StorageError;
use crate::storage::format::Link;
use crate::types::Zxid;

/// Findings that are kept; beyond them they are only counted.
const FINDINGS_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Of interest, and as it may be: a server starts on it and loses nothing that was acknowledged.
    Note,
    /// Transactions are damaged or missing.
    Damage,
}

/// Something that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes from its start.
    pub offset: u64,
    /// How bad it is.
    pub severity: Severity,
    /// For people, without path and offset.
    pub what: String,
}

/// What is in one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSurvey {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its size.
    pub bytes: u64,
    /// Transactions up to the first break.
    pub transactions: u64,
    /// The first of them.
    pub first: Option<Zxid>,
    /// The last of them.
    pub last: Option<Zxid>,
    /// Where they end.
    pub end: u64,
    /// The first break.
    pub broken: Option<Break>,
    /// Whole records behind it.
    pub beyond: Option<Beyond>,
    /// Whether the break is damage for sure: bytes that had been durable.
    pub is_damaged: bool,
}

/// What is whole behind a break.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beyond {
    /// Where the first record begins.
    pub position: u64,
    /// How many records.
    pub transactions: u64,
    /// The first.
    pub first: Zxid,
    /// The last.
    pub last: Zxid,
}

/// Checks one log, file by file, oldest first.
#[derive(Default)]
pub struct Survey {
    findings: Vec<Finding>,
    findings_left_out: u64,
    damage: bool,
    last: Option<Zxid>,
    /// A break at the end of an Apache file, which the next file explains, or not.
    open: Option<(PathBuf, Break)>,
    /// Where the segment before ends.
    link: Option<(PathBuf, Link)>,
}

impl Survey {
    /// Nothing looked at yet.
    pub fn new() -> Survey {
        Survey::default()
    }

    /// Looks at the next file. `progress` is told the position in it now and then.
    ///
    /// Errors only where the file cannot be read at all; what is wrong with what is in it becomes findings.
    pub fn file(&mut self, file: &LogFile, mut progress: impl FnMut(u64)) -> Result<FileSurvey, StorageError> {
        let mut survey = FileSurvey {
            path: file.path.clone(),
            kind: file.kind.clone(),
            bytes: 0,
            transactions: 0,
            first: None,
            last: None,
            end: 0,
            broken: None,
            beyond: None,
            is_damaged: false,
        };
        let mut reader = match LogReader::open(file) {
            Ok(Some(reader)) => reader,
            Ok(None) => {
                self.add(&file.path, 0, Severity::Note, "the file is empty".to_owned());
                return Ok(survey);
            }
            Err(StorageError::Damaged { offset, what, .. }) => {
                survey.is_damaged = true;
                self.add(&file.path, offset, Severity::Damage, what);
                return Ok(survey);
            }
            Err(error) => return Err(error),
        };
        survey.bytes = reader.bytes();
        self.records(file, &mut reader, &mut survey, &mut progress)?;
        Ok(survey)
    }

    fn records(
        &mut self,
        file: &LogFile,
        reader: &mut LogReader,
        survey: &mut FileSurvey,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), StorageError> {
        let (mut older, mut is_first, mut durable_beyond) = (0u64, true, 0);
        let mut link_at_break = None;
        loop {
            let item = reader.read()?;
            if std::mem::take(&mut is_first) {
                self.check_link(file, reader.previous());
            }
            if survey.broken.is_none() {
                survey.end = reader.end();
            }
            match item {
                Item::Txn(entry) => {
                    progress(entry.end);
                    if survey.broken.is_some() {
                        durable_beyond = durable_beyond.max(entry.durable.unwrap_or_default());
                    }
                    let may_leap = file.kind == FileKind::NativeLog && survey.broken.is_some();
                    older += u64::from(!self.entry(file, &entry, may_leap));
                    survey.count(&entry);
                }
                Item::Break(at) => {
                    survey.end = survey.end.min(at.position);
                    if survey.broken.is_none() {
                        survey.broken = Some(at.clone());
                        link_at_break = reader.link_at_break();
                    }
                    if file.kind == FileKind::ApacheLog {
                        self.open.get_or_insert((file.path.clone(), at));
                    }
                }
                Item::End => break,
            }
        }
        progress(survey.bytes);
        if older > 0 {
            let what = format!("{older} records are not later than one before them, and are passed over at start-up");
            self.add(&file.path, 0, Severity::Note, what);
        }
        if file.kind == FileKind::NativeLog
            && let Some(broken) = survey.broken.clone()
        {
            survey.is_damaged = durable_beyond > broken.position;
            self.native_break(file, survey, &broken);
        }
        if let LogReader::Native(native) = reader
            && native.previous().is_some()
        {
            // What was not durable is cut, and the next segment goes on from there.
            let cut = link_at_break.filter(|_| !survey.is_damaged);
            self.link = Some((file.path.clone(), cut.unwrap_or(native.end())));
        }
        Ok(())
    }

    /// No further file. Returns what was found.
    pub fn finish(mut self) -> SurveyEnd {
        if let Some((path, broken)) = self.open.take() {
            let (severity, why) = match broken.is_torn {
                true => {
                    (Severity::Note, ": it was being written when the server stopped, and is passed over at start-up")
                }
                false => (Severity::Damage, ""),
            };
            self.add(&path, broken.position, severity, format!("{}{why}", broken.what));
        }
        SurveyEnd {
            findings: self.findings,
            findings_left_out: self.findings_left_out,
            is_damaged: self.damage,
            last: self.last,
        }
    }

    /// Whether a transaction is later than those before it; and whether it is the next.
    /// Behind a break in a segment it may be any later one: that break is told of when the whole segment was read.
    fn entry(&mut self, file: &LogFile, entry: &Entry, may_leap: bool) -> bool {
        let zxid = entry.zxid;
        if let Err(error) = LoggedTxn::decode(&entry.payload) {
            let what = format!("the record of {zxid} is whole, and no transaction: {error}");
            self.add(&file.path, entry.position, Severity::Damage, what);
        }
        let Some(last) = self.last else {
            self.last = Some(zxid);
            return true;
        };
        if zxid <= last {
            // What was lost before this one, if anything, was older still.
            self.open = None;
            return false;
        }
        self.last = Some(zxid);
        if let Some((path, broken)) = self.open.take() {
            let is_next = zxid == last.next();
            let (severity, then) = match is_next {
                true => (Severity::Note, "a server crashed here, and the very next transaction was logged behind it"),
                false => (Severity::Damage, "transactions are lost here"),
            };
            let what = format!("{}; {last} stands before it and {zxid} behind it: {then}", broken.what);
            self.add(&path, broken.position, severity, what);
            if !is_next {
                return true;
            }
        }
        if !zxid.follows(last) && !may_leap {
            let what = format!("{zxid} stands here and {last} before it, so transactions between them are missing");
            self.add(&file.path, entry.position, Severity::Damage, what);
        }
        true
    }

    fn check_link(&mut self, file: &LogFile, link: Option<Link>) {
        let Some(link) = link else { return };
        match &self.link {
            Some((path, end)) if *end != link => {
                let what = format!(
                    "{} goes on from byte {} with {}, and this file ends at byte {} with {}",
                    name(&file.path),
                    link.end,
                    link.zxid,
                    end.end,
                    end.zxid
                );
                let (path, offset) = (path.clone(), end.end);
                self.add(&path, offset, Severity::Damage, what);
            }
            // Apache's log stays until it is purged, and segments that snapshots cover are used again.
            None if link.zxid > self.last.unwrap_or(link.zxid) => {
                let what = format!(
                    "it begins after {}, and Apache's log before it ends with {}: a start needs a snapshot of {0} or later",
                    link.zxid,
                    self.last.unwrap_or_default()
                );
                self.last = Some(link.zxid);
                self.add(&file.path, 0, Severity::Note, what);
            }
            _ => {}
        }
    }

    fn native_break(&mut self, file: &LogFile, survey: &FileSurvey, broken: &Break) {
        let beyond = match &survey.beyond {
            None => String::new(),
            Some(beyond) => format!(
                "; {} whole records are behind it, from byte {}: {} to {}",
                beyond.transactions, beyond.position, beyond.first, beyond.last
            ),
        };
        let (severity, why) = match survey.is_damaged {
            true => (Severity::Damage, "this place had been durable, so acknowledged transactions are damaged"),
            false => (Severity::Note, "it was being written when the server stopped, was not acknowledged, and is cut"),
        };
        let what = format!("{}{beyond}; {why}", broken.what);
        self.add(&file.path, broken.position, severity, what);
    }

    fn add(&mut self, path: &Path, offset: u64, severity: Severity, what: String) {
        self.damage |= severity == Severity::Damage;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { path: path.to_owned(), offset, severity, what });
        } else {
            self.findings_left_out += 1;
        }
    }
}

/// What a [`Survey`] comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SurveyEnd {
    /// In the order of the files.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub findings_left_out: u64,
    /// Whether one of them is damage.
    pub is_damaged: bool,
    /// The last transaction.
    pub last: Option<Zxid>,
}

impl FileSurvey {
    fn count(&mut self, entry: &Entry) {
        if self.broken.is_none() {
            self.transactions += 1;
            self.first.get_or_insert(entry.zxid);
            self.last = Some(entry.zxid);
            return;
        }
        let position = entry.position;
        let none = Beyond { position, transactions: 0, first: entry.zxid, last: entry.zxid };
        let beyond = self.beyond.get_or_insert(none);
        beyond.transactions += 1;
        beyond.last = entry.zxid;
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
