//! `convert`: the same transactions in the other format.

use std::error::Error;
use std::fs;
use std::path::Path;

use ringkeeper::shard::upkeep;
use ringkeeper::storage::convert::{self, ApacheLogWriter, ApacheLogsWriter, NativeLogWriter, Step, Written};
use ringkeeper::storage::error::StorageError;
use ringkeeper::storage::inspect::{Entry, find_logs};

use crate::offline::Verdict;
use crate::offline::progress::Progress;
use crate::options::{ConvertOptions, Format};

/// See the options.
pub fn run(options: &ConvertOptions) -> Result<Verdict, Box<dyn Error>> {
    let files = find_logs(&options.path)?;
    let is_file =
        options.to == Format::Apache && files.len() == 1 && !options.output.is_dir() && options.path.is_file();
    let dir = match is_file {
        true => options.output.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new(".")),
        false => &options.output,
    };
    fs::create_dir_all(dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    let mut writer = match options.to {
        Format::Apache if is_file => Writer::File { path: &options.output, current: None },
        Format::Apache => Writer::Apache(ApacheLogsWriter::new(dir)),
        Format::Native => {
            Writer::Native(NativeLogWriter::new(dir, options.sequence, options.segment_bytes, upkeep::salt))
        }
    };
    // First, so that nobody finds the log without it.
    if matches!(writer, Writer::Apache(_))
        && options.from.is_none()
        && let Some(path) = convert::leave_first_snapshot(&files, dir)?
    {
        println!("{}: what the log begins with, without which Apache starts on none", path.display());
    }
    let is_wanted = |entry: &Entry| {
        options.from.is_none_or(|from| entry.zxid >= from) && options.until.is_none_or(|until| entry.zxid <= until)
    };
    let sizes = files.iter().map(|file| fs::metadata(&file.path).map_or(0, |metadata| metadata.len()));
    let mut progress = Progress::new(sizes.sum(), false);
    convert::each(&files, |_, step| match step {
        Step::Txn(entry) => {
            progress.at(entry.end);
            if is_wanted(entry) { writer.append(entry) } else { Ok(()) }
        }
        Step::FileEnds(bytes) => {
            progress.file_done(bytes);
            writer.file_ends()
        }
    })?;
    let written = writer.finish()?;
    drop(progress);
    for Written { path, first, last, transactions } in &written {
        println!("{}: {transactions} transactions, {first} to {last}", path.display());
    }
    if written.is_empty() {
        return Err("there is no transaction to be written".into());
    }
    Ok(Verdict::Fine)
}

enum Writer<'a> {
    /// One of Apache's, under the name that was asked for.
    File {
        path: &'a Path,
        current: Option<ApacheLogWriter>,
    },
    /// Each file becomes one of Apache's.
    Apache(ApacheLogsWriter),
    Native(NativeLogWriter),
}

impl Writer<'_> {
    fn append(&mut self, entry: &Entry) -> Result<(), StorageError> {
        match self {
            Writer::Native(writer) => writer.append(entry.zxid, &entry.payload),
            Writer::Apache(writer) => writer.append(entry.zxid, &entry.payload),
            Writer::File { current: Some(writer), .. } => writer.append(entry.zxid, &entry.payload),
            Writer::File { path, current } => {
                current.insert(ApacheLogWriter::create_at(path, entry.zxid)?).append(entry.zxid, &entry.payload)
            }
        }
    }

    fn file_ends(&mut self) -> Result<(), StorageError> {
        match self {
            Writer::Apache(writer) => writer.file_ends(),
            Writer::File { .. } | Writer::Native(_) => Ok(()),
        }
    }

    fn finish(self) -> Result<Vec<Written>, StorageError> {
        match self {
            Writer::Native(writer) => writer.finish(),
            Writer::Apache(writer) => writer.finish(),
            Writer::File { current, .. } => current.map(ApacheLogWriter::finish).into_iter().collect(),
        }
    }
}
