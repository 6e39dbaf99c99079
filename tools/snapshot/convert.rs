//! `convert`: the same snapshot with another compression, or in the form of another release.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ringkeeper::storage::compression::{Compression, Writer};
use ringkeeper::storage::inspect::{Content, ContentError, Piece, SnapshotReader};
use ringkeeper::storage::{segments, snapshot};

use crate::offline::Verdict;
use crate::offline::progress::Progress;
use crate::options::{ConvertOptions, Method, Release};

/// What is copied at a time.
const CHUNK_BYTES: u64 = 256 << 10;

/// See the options.
pub fn run(options: &ConvertOptions) -> Result<Verdict, Box<dyn Error>> {
    let file = &options.file;
    let Some((zxid, _)) = snapshot::of_name(file) else {
        return Err(
            format!("{}: a snapshot is named snapshot.<zxid>, as both servers expect it", file.display()).into()
        );
    };
    let bytes = fs::metadata(file).map_err(|error| format!("cannot look at {}: {error}", file.display()))?.len();
    let mut progress = Progress::new(2 * bytes, false);
    // All of it is looked at before any of it is written: what is damaged is not handed on.
    let mut reader = SnapshotReader::open(file)?;
    while reader.read()? != Piece::End {
        progress.at(reader.position());
    }
    progress.file_done(bytes);
    let compression = match options.compression {
        Some(Method::None) => Compression::None,
        Some(Method::Gz) => Compression::Gzip,
        Some(Method::Snappy) => Compression::Snappy,
        None => reader.compression(),
    };
    let content_bytes = content_bytes(reader.seals(), options.form);
    let target = options.output.join(snapshot::file_name(zxid) + compression.suffix());
    if target.exists() {
        return Err(format!("{} is there already: nothing is replaced", target.display()).into());
    }
    // Neither server takes this name for a snapshot.
    let temp = Temp(options.output.join(format!("converting-{:x}.tmp", zxid.0)));
    write(file, &temp.0, compression, content_bytes, &mut progress)?;
    let mut written = SnapshotReader::open(&temp.0)?;
    while written.read()? != Piece::End {}
    // A link, and not a rename, so that nothing is replaced.
    fs::hard_link(&temp.0, &target).map_err(|error| format!("cannot make {}: {error}", target.display()))?;
    drop(temp);
    segments::sync_dir(&options.output)?;
    println!("{}: {} bytes", target.display(), written.bytes());
    Ok(Verdict::Fine)
}

/// How much of the content is in a snapshot of that release: what it does not know stands at the end, behind a seal.
fn content_bytes(seals: &[u64], form: Release) -> u64 {
    let parts = match form {
        Release::V35 => 1,
        Release::V36 => 2,
        Release::V39 => 3,
    };
    seals.iter().take(parts).next_back().copied().expect("a snapshot that was read to its end has a seal")
}

fn write(
    from: &Path,
    to: &Path,
    compression: Compression,
    mut left: u64,
    progress: &mut Progress,
) -> Result<(), Box<dyn Error>> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", to.display());
    let file = File::options().read(true).write(true).create_new(true).open(to).map_err(failed)?;
    let mut content = Content::open(from)?;
    let mut writer = Writer::new(compression, file);
    while left > 0 {
        let chunk = content.take(left.min(CHUNK_BYTES)).map_err(|error| match error {
            ContentError::Io(error) => error.to_string(),
            _ => format!("{} has changed while it was read", from.display()),
        })?;
        writer.write_all(&chunk).map_err(failed)?;
        left -= chunk.len() as u64;
        progress.at(content.file_position());
    }
    writer.finish().and_then(|file| file.sync_all()).map_err(failed)?;
    Ok(())
}

/// A file that goes when this does.
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
