//! `summary`: znodes and bytes of each subtree.

use std::error::Error;

use ringkeeper::storage::inspect::{Piece, SnapshotReader};
use serde_json::json;

use crate::dump::{damaged, is_below};
use crate::offline::Verdict;
use crate::offline::output::Out;
use crate::offline::progress::Progress;
use crate::options::SummaryOptions;

/// A subtree that is counted, or was.
struct Row {
    path: String,
    level: usize,
    znodes: u64,
    bytes: u64,
}

/// See the options.
pub fn run(options: &SummaryOptions) -> Result<Verdict, Box<dyn Error>> {
    let top = if options.path == "/" { "/" } else { options.path.trim_end_matches('/') };
    let mut reader = SnapshotReader::open(&options.file)?;
    let mut progress = Progress::new(reader.bytes(), false);
    let mut rows: Vec<Row> = Vec::new();
    // The rows that the last znode is in, the outermost first. Deeper ones than are printed have none.
    let mut open: Vec<usize> = Vec::new();
    loop {
        let piece = match reader.read() {
            Ok(piece) => piece,
            // Sums of a part would be taken for those of the whole.
            Err(error) => return damaged(error),
        };
        match piece {
            Piece::Znode(znode) => {
                progress.at(reader.position());
                if !is_below(&znode.path, top) {
                    continue;
                }
                while open.last().is_some_and(|row| !is_below(&znode.path, &rows[*row].path)) {
                    close(&mut rows, &mut open);
                }
                let bytes = znode.data.as_ref().map_or(0, |data| data.len() as u64);
                let names = |path: &str| path.matches('/').count() - usize::from(path == "/");
                let level = names(&znode.path) - names(top);
                for row in &open {
                    rows[*row].znodes += 1;
                    rows[*row].bytes += bytes;
                }
                if options.depth == 0 || level <= options.depth {
                    open.push(rows.len());
                    rows.push(Row { path: znode.path, level, znodes: 1, bytes });
                }
            }
            Piece::End => break,
            _ => {}
        }
    }
    while !open.is_empty() {
        close(&mut rows, &mut open);
    }
    drop(progress);
    let mut out = Out::new();
    if !options.apache && !options.json {
        out.line(&format!("{:>12} {:>14}  subtree", "znodes", "data bytes"))?;
    }
    for Row { path, level, znodes, bytes } in &rows {
        let children = znodes - 1;
        if options.apache {
            let tab = "--".repeat(*level);
            out.line(&format!("{tab} {path}\n{tab}   children: {children}\n{tab}   data: {bytes}"))?;
        } else if options.json {
            out.json(&json!({ "path": path, "level": level, "descendants": children, "data_bytes": bytes }))?;
        } else {
            out.line(&format!("{znodes:>12} {bytes:>14}  {path}"))?;
        }
    }
    if options.apache {
        out.line("")?;
    }
    out.flush()?;
    if rows.is_empty() {
        return Err(format!("{}: there is no znode {top} with children", options.file.display()).into());
    }
    Ok(Verdict::Fine)
}

/// Ends the innermost row; one without children, which is the last then, is not printed.
fn close(rows: &mut Vec<Row>, open: &mut Vec<usize>) {
    if let Some(row) = open.pop()
        && rows[row].znodes == 1
    {
        rows.truncate(row);
    }
}
