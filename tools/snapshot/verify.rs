//! `verify`: is a snapshot whole?

use std::error::Error;

use ringkeeper::storage::error::StorageError;
use ringkeeper::storage::inspect::{Piece, SnapshotReader};
use ringkeeper::storage::snapshot;
use ringkeeper::tree::Znode;
use ringkeeper::types::Zxid;
use serde_json::json;

use crate::offline::Verdict;
use crate::offline::output::{Out, human_bytes};
use crate::offline::progress::Progress;
use crate::options::FileOptions;

#[derive(Default)]
struct Found {
    znodes: u64,
    data_bytes: u64,
    sessions: u64,
    unknown_acls: u64,
    digest: u64,
    recorded: Option<(Zxid, i32, u64)>,
    last: Option<Zxid>,
}

/// See the options.
pub fn run(options: &FileOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut found = Found::default();
    let damage = match read(options, &mut found) {
        Ok(()) => None,
        Err(StorageError::Damaged { offset, what, .. }) => Some((offset, what)),
        Err(error) => return Err(error.into()),
    };
    let named = snapshot::of_name(&options.file).map(|(zxid, _)| zxid);
    // The file's own transaction, and so this very tree.
    let comparable = found.recorded.filter(|(zxid, version, _)| Some(*zxid) == named && zxid.0 > 0 && *version == 2);
    let mismatch = comparable.filter(|(_, _, digest)| *digest != found.digest && damage.is_none());
    let damage = damage.or(mismatch.map(|(_, _, digest)| {
        (0, format!("the digest of the tree is {:#x}, and {digest:#x} is recorded", found.digest))
    }));
    let Found { znodes, data_bytes, sessions, unknown_acls, .. } = found;
    let digest = match (comparable.is_some(), found.recorded) {
        (true, _) => "compared",
        (false, Some(_)) => "not compared: it is that of another moment, and only a replay of the log can tell",
        (false, None) => "not recorded",
    };
    let mut out = Out::new();
    if options.json {
        out.json(&json!({
            "file": options.file.display().to_string(),
            "znodes": znodes,
            "data_bytes": data_bytes,
            "sessions": sessions,
            "znodes_without_acl": unknown_acls,
            "digest": format!("0x{:x}", found.digest),
            "digest_compared": comparable.is_some(),
            "last": found.last.or(named).map(|zxid| zxid.to_string()),
            "damage": damage.as_ref().map(|(offset, what)| json!({ "offset": offset, "what": what })),
        }))?;
    } else {
        let file = options.file.display();
        out.line(&format!("{file}: {znodes} znodes, {} of data, {sessions} sessions", human_bytes(data_bytes)))?;
        if unknown_acls > 0 {
            out.line(&format!("note: {unknown_acls} znodes miss their ACL until the log is replayed"))?;
        }
        match &damage {
            None => out.line(&format!("ok: the seals are right; digest {digest}"))?,
            Some((offset, what)) => out.line(&format!("DAMAGE: {file} at byte {offset}: {what}"))?,
        }
    }
    out.flush()?;
    Ok(if damage.is_some() { Verdict::Found } else { Verdict::Fine })
}

fn read(options: &FileOptions, found: &mut Found) -> Result<(), StorageError> {
    let mut reader = SnapshotReader::open(&options.file)?;
    let mut progress = Progress::new(reader.bytes(), false);
    loop {
        match reader.read()? {
            Piece::Session(..) => found.sessions += 1,
            Piece::Znode(znode) => {
                progress.at(reader.position());
                found.znodes += 1;
                found.data_bytes += znode.data.as_ref().map_or(0, |data| data.len() as u64);
                found.unknown_acls += u64::from(znode.acl.is_none());
                let alone = Znode::new("", znode.data.as_deref(), znode.acl.unwrap_or_default(), znode.meta);
                found.digest = found.digest.wrapping_add(alone.compute_digest(&znode.path).into());
            }
            Piece::Digest(zxid, version, digest) => found.recorded = Some((zxid, version, digest)),
            Piece::LastZxid(zxid) => found.last = Some(zxid),
            Piece::End => return Ok(()),
        }
    }
}
