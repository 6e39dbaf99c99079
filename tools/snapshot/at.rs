//! `at`: the tree as of a transaction.

use std::error::Error;
use std::fs;
use std::path::Path;

use ringkeeper::proto::txn::LoggedTxn;
use ringkeeper::storage::inspect::{Item, LogReader, find_logs};
use ringkeeper::storage::snapshot;
use ringkeeper::storage::snapshot_format::SnapshotSource;
use ringkeeper::tree::DataTree;
use ringkeeper::types::Zxid;

use crate::dump::{Line, put_session};
use crate::offline::Verdict;
use crate::offline::output::Out;
use crate::options::AtOptions;

/// See the options.
pub fn run(options: &AtOptions) -> Result<Verdict, Box<dyn Error>> {
    let below = options.directory.join("version-2");
    let dir = if below.is_dir() { &below } else { &options.directory };
    let mut data_tree = base(dir, options.zxid)?;
    replay(&mut data_tree, options.log.as_deref().unwrap_or(&options.directory), options.zxid)?;
    if let Some(output) = &options.output {
        let written = snapshot::write(output, &SnapshotSource::of(&data_tree, true), |_| {})?;
        println!("{}: {} bytes", written.path.display(), written.bytes);
        return Ok(Verdict::Fine);
    }
    let mut out = Out::new();
    for (session, timeout_ms) in data_tree.sessions() {
        put_session(&mut out, *session, *timeout_ms, options.json)?;
    }
    let mut walk = data_tree.tree().walk();
    while let Some((path, znode)) = walk.next() {
        let path = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
        let meta = znode.meta();
        let line = Line { path: &path, data: znode.data(), acl: Some(znode.acl()), meta: &meta };
        line.put(&mut out, options.data, options.json)?;
    }
    out.flush()?;
    Ok(Verdict::Fine)
}

/// The newest snapshot with nothing in it that is later than `zxid`; the empty tree if the directory has none at all.
fn base(dir: &Path, zxid: Zxid) -> Result<DataTree, Box<dyn Error>> {
    fs::read_dir(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    let files = snapshot::list(dir)?;
    let is_empty = files.is_empty();
    for file in files.into_iter().filter(|file| file.zxid <= zxid) {
        match snapshot::load(&file) {
            // Apache writes a snapshot while transactions go on; what is in it must not be later than what is wanted.
            Ok(loaded) if loaded.last_recorded.is_none_or(|last| last <= zxid) => return Ok(loaded.data_tree),
            Ok(_) => {}
            Err(error) => eprintln!("{error}"),
        }
    }
    match is_empty {
        true => Ok(DataTree::new()),
        false => Err(format!("{}: there is no snapshot of {zxid} or earlier that can be read", dir.display()).into()),
    }
}

fn replay(data_tree: &mut DataTree, log: &Path, zxid: Zxid) -> Result<(), Box<dyn Error>> {
    if data_tree.tree().zxid() == zxid {
        return Ok(());
    }
    'files: for file in find_logs(log)? {
        let Some(mut reader) = LogReader::open(&file)? else { continue };
        while let Item::Txn(entry) = reader.read()? {
            let last = data_tree.tree().zxid();
            if entry.zxid <= last {
                continue;
            }
            if entry.zxid > zxid {
                break 'files;
            }
            let path = file.path.display();
            if !entry.zxid.follows(last) {
                return Err(format!("{path} at byte {}: {} comes after {last}", entry.position, entry.zxid).into());
            }
            let logged = LoggedTxn::decode(&entry.payload).map_err(|error| {
                format!("{path} at byte {}: {} cannot be read: {error}", entry.position, entry.zxid)
            })?;
            data_tree.apply(&logged.header, &logged.txn);
        }
    }
    match data_tree.tree().zxid() {
        last if last == zxid => Ok(()),
        last => Err(format!("the log goes no further than {last}; {zxid} is not in it").into()),
    }
}
