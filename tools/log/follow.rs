//! `dump -f`: what is logged from now on, across files.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringkeeper::storage::inspect::{Entry, LogFile, LogReader, find_logs};
use ringkeeper::types::Zxid;

use crate::dump::Printer;

/// How often to look.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints all that is there, and then all that comes, until the process is interrupted.
pub fn run(path: &Path, files: Vec<LogFile>, printer: &mut Printer<'_>) -> Result<(), Box<dyn Error>> {
    // Of a file, all that come after it in its directory too.
    let dir =
        if path.is_dir() { path } else { path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new(".")) };
    let mut files: std::collections::VecDeque<LogFile> = files.into();
    let mut last = Zxid::ZERO;
    let mut current: Option<(LogFile, LogReader)> = None;
    loop {
        if let Some((file, reader)) = &mut current {
            while let Some(entry) = reader.next_written()? {
                print(&file.path, &entry, &mut last, printer)?;
            }
        }
        if let Some(file) = files.pop_front() {
            // A segment that is only ready is none to go on in.
            if let Some(mut reader) = LogReader::open(&file)?
                && let Some(entry) = reader.next_written()?
            {
                print(&file.path, &entry, &mut last, printer)?;
                current = Some((file, reader));
            }
            continue;
        }
        printer.out.flush()?;
        match successor(dir, current.as_ref().map(|(file, _)| file), last)? {
            Some(file) => {
                // What came between the last look and the new file's first record belongs before it.
                files.push_back(file);
            }
            None => thread::sleep(PAUSE),
        }
    }
}

fn print(path: &Path, entry: &Entry, last: &mut Zxid, printer: &mut Printer<'_>) -> Result<(), Box<dyn Error>> {
    if entry.zxid > *last {
        *last = entry.zxid;
        printer.entry(path, entry)?;
    }
    Ok(())
}

/// A file that goes on after `last` and is not the present one.
fn successor(dir: &Path, current: Option<&LogFile>, last: Zxid) -> Result<Option<LogFile>, Box<dyn Error>> {
    let is_current = |file: &LogFile| current.is_some_and(|current| current.path == file.path);
    let mut later = Vec::new();
    for file in find_logs(dir)? {
        if is_current(&file) || file.after < last {
            continue;
        }
        let Some(mut reader) = LogReader::open(&file)? else { continue };
        if reader.next_written()?.is_some() {
            later.push(file);
        }
    }
    if let Some(file) = later.first()
        && file.after > last
        && last > Zxid::ZERO
        && !file.after.follows(last)
        && file.after.epoch() == last.epoch()
    {
        let (path, after) = (file.path.display(), file.after);
        return Err(format!(
            "the log was purged faster than it was read: {path} goes on after {after}, and {last} was the last read"
        )
        .into());
    }
    Ok(later.into_iter().next())
}
