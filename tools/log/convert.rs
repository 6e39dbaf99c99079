//! `convert`: the same transactions in the other format.

use std::error::Error;
use std::fs;
use std::path::Path;

use ringkeeper::shard::upkeep;
use ringkeeper::storage::convert::{ApacheLogWriter, NativeLogWriter, Written};
use ringkeeper::storage::inspect::{Entry, Item, LogFile, LogReader, find_logs};
use ringkeeper::types::Zxid;

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
        Format::Apache => {
            Writer::Apache { current: None, file: is_file.then_some(&options.output), dir, written: Vec::new() }
        }
        Format::Native => {
            Writer::Native(NativeLogWriter::new(dir, options.sequence, options.segment_bytes, upkeep::salt))
        }
    };
    let sizes = files.iter().map(|file| fs::metadata(&file.path).map_or(0, |metadata| metadata.len()));
    let mut progress = Progress::new(sizes.sum(), false);
    let mut last = None;
    for file in &files {
        convert(file, options, &mut writer, &mut last, &mut progress)?;
    }
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

fn convert(
    file: &LogFile,
    options: &ConvertOptions,
    writer: &mut Writer<'_>,
    last: &mut Option<Zxid>,
    progress: &mut Progress,
) -> Result<(), Box<dyn Error>> {
    let Some(mut reader) = LogReader::open(file)? else { return Ok(()) };
    loop {
        match reader.read()? {
            Item::Txn(entry) => {
                progress.at(entry.end);
                let zxid = entry.zxid;
                if last.is_some_and(|last| zxid <= last) {
                    continue;
                }
                if let Some(last) = last.filter(|last| !zxid.follows(*last)) {
                    let (path, at) = (file.path.display(), entry.position);
                    return Err(format!("{path} at byte {at}: {zxid} stands here and {last} before it").into());
                }
                *last = Some(zxid);
                if options.from.is_none_or(|from| zxid >= from) && options.until.is_none_or(|until| zxid <= until) {
                    writer.append(&entry)?;
                }
            }
            Item::Break(broken) => {
                check_torn(file, broken.position, &broken.what, &mut reader)?;
                break;
            }
            Item::End => break,
        }
    }
    progress.file_done(reader.bytes());
    writer.file_ends()?;
    Ok(())
}

/// A break with nothing behind it that would have been durable after it is the end of what a crash left.
fn check_torn(file: &LogFile, position: u64, what: &str, reader: &mut LogReader) -> Result<(), Box<dyn Error>> {
    loop {
        match reader.read()? {
            Item::Txn(entry) if entry.durable.is_none_or(|durable| durable > position) => break,
            Item::Txn(_) | Item::Break(_) => {}
            Item::End => return Ok(()),
        }
    }
    let path = file.path.display();
    Err(format!("{path} is damaged at byte {position}: {what}. Look at it with verify, and repair a copy").into())
}

enum Writer<'a> {
    Apache {
        current: Option<ApacheLogWriter>,
        file: Option<&'a std::path::PathBuf>,
        dir: &'a Path,
        written: Vec<Written>,
    },
    Native(NativeLogWriter),
}

impl Writer<'_> {
    fn append(&mut self, entry: &Entry) -> Result<(), Box<dyn Error>> {
        match self {
            Writer::Native(writer) => writer.append(entry.zxid, &entry.payload)?,
            Writer::Apache { current, file, dir, .. } => {
                if current.is_none() {
                    *current = Some(match file {
                        Some(path) => ApacheLogWriter::create_at(path, entry.zxid)?,
                        None => ApacheLogWriter::create(dir, entry.zxid)?,
                    });
                }
                current.as_mut().expect("made above").append(entry.zxid, &entry.payload)?;
            }
        }
        Ok(())
    }

    /// Each file becomes one of Apache's.
    fn file_ends(&mut self) -> Result<(), Box<dyn Error>> {
        if let Writer::Apache { current, written, .. } = self
            && let Some(writer) = current.take()
        {
            written.push(writer.finish()?);
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Written>, Box<dyn Error>> {
        match self {
            Writer::Native(writer) => Ok(writer.finish()?),
            Writer::Apache { written, .. } => Ok(written),
        }
    }
}
