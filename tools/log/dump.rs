//! `dump`: the transactions, one a line.

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use ringkeeper::proto::txn::LoggedTxn;
use ringkeeper::storage::inspect::{Break, Entry, Item, LogFile, LogReader, find_logs};

use crate::filter::Logged;
use crate::offline::Verdict;
use crate::offline::output::Out;
use crate::offline::progress::Progress;
use crate::options::DumpOptions;
use crate::{apache, follow, text};

/// See the options.
pub fn run(options: &DumpOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut printer = Printer { options, out: Out::new(), verdict: Verdict::Fine };
    for path in &options.paths {
        let files = find_logs(path)?;
        if options.follow {
            follow::run(path, files, &mut printer)?;
            continue;
        }
        let bytes = files.iter().map(|file| fs::metadata(&file.path).map_or(0, |metadata| metadata.len()));
        let mut progress = Progress::new(bytes.sum(), io::stdout().is_terminal());
        for (i, file) in files.iter().enumerate() {
            if options.filter.may_be_in(file, files.get(i + 1)) {
                printer.file(file, &mut progress)?;
            }
            progress.file_done(fs::metadata(&file.path).map_or(0, |metadata| metadata.len()));
        }
    }
    printer.out.flush()?;
    Ok(printer.verdict)
}

/// Prints what is wanted.
pub struct Printer<'a> {
    options: &'a DumpOptions,
    pub out: Out,
    verdict: Verdict,
}

impl Printer<'_> {
    fn file(&mut self, file: &LogFile, progress: &mut Progress) -> Result<(), Box<dyn Error>> {
        let Some(mut reader) = LogReader::open(file)? else { return Ok(()) };
        if let (true, LogReader::Apache(reader)) = (self.options.apache, &reader) {
            let (dbid, version) = (reader.dbid(), reader.version());
            self.out
                .line(&format!("ZooKeeper Transactional Log File with dbid {dbid} txnlog format version {version}"))?;
        } else if self.options.apache {
            self.out.line("ZooKeeper Transactional Log File with dbid 0 txnlog format version 2")?;
        }
        let mut transactions = 0u64;
        loop {
            match reader.read()? {
                Item::Txn(entry) => {
                    self.entry(&file.path, &entry)?;
                    transactions += 1;
                    progress.at(entry.end);
                }
                Item::Break(broken) => {
                    self.out.flush()?;
                    if !self.broken(&file.path, &broken, &mut reader)? {
                        break;
                    }
                }
                Item::End => break,
            }
        }
        if self.options.apache {
            self.out.line(&format!("EOF reached after {transactions} txns."))?;
        }
        Ok(())
    }

    /// One record.
    pub fn entry(&mut self, path: &Path, entry: &Entry) -> Result<(), Box<dyn Error>> {
        let txn = match LoggedTxn::decode(&entry.payload) {
            Ok(txn) => txn,
            Err(error) => {
                let (zxid, position) = (entry.zxid, entry.position);
                eprintln!("{} at byte {position}: the record of {zxid} is no transaction: {error}", path.display());
                self.verdict = Verdict::Found;
                return Ok(());
            }
        };
        let logged = Logged { entry, txn };
        if self.options.filter.wants(&logged) {
            if self.options.json {
                self.out.json(&text::value(&logged, path))?;
            } else if self.options.apache {
                self.out.text(&apache::text(&logged))?;
            } else {
                self.out.line(&text::line(&logged, self.options.data))?;
            }
        }
        Ok(())
    }

    /// Tells of a break. Returns whether to go on in this file.
    fn broken(&mut self, path: &Path, broken: &Break, reader: &mut LogReader) -> Result<bool, Box<dyn Error>> {
        let Break { position, what, is_torn, .. } = broken;
        if *is_torn {
            eprintln!("{} at byte {position}: {what}: it was being written when the server stopped", path.display());
            return Ok(false);
        }
        let is_native = matches!(reader, LogReader::Native(_));
        // A record that was made when this place was durable says that it is damaged.
        let (mut beyond, mut is_damaged) = (0u64, !is_native);
        loop {
            match reader.read()? {
                Item::Txn(entry) => {
                    beyond += 1;
                    is_damaged |= entry.durable.is_some_and(|durable| durable > *position);
                    if self.options.beyond {
                        self.entry(path, &entry)?;
                    }
                }
                Item::Break(_) => {}
                Item::End => break,
            }
        }
        self.out.flush()?;
        let verdict = match is_damaged {
            true => "the log is damaged here",
            false => "it was being written when the server stopped",
        };
        let hint = if self.options.beyond { "are printed" } else { "are not printed: --beyond does that" };
        eprintln!("{} at byte {position}: {what}: {verdict}; {beyond} whole records behind it {hint}", path.display());
        if is_damaged {
            self.verdict = Verdict::Found;
        }
        Ok(false)
    }
}
