//! `compare`: what was added, removed and changed.

use std::collections::HashMap;
use std::error::Error;
use std::hash::Hasher as _;

use ringkeeper::storage::inspect::{Piece, SnapshotReader, SnapshotZnode};
use ringkeeper::tree::{Meta, Owner};
use serde_json::json;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::offline::Verdict;
use crate::offline::output::Out;
use crate::offline::progress::Progress;
use crate::options::CompareOptions;

/// What is kept of a znode of A.
struct Known {
    data: u128,
    data_bytes: u64,
    acl: u128,
    meta: Meta,
    is_in_b: bool,
}

#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    same: u64,
}

/// See the options.
pub fn run(options: &CompareOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut out = Out::new();
    let (mut counts, mut known) = (Counts::default(), HashMap::new());
    let size = |file| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let mut progress = Progress::new(2 * size(&options.a) + size(&options.b), false);
    each(options, &options.a, &mut progress, |znode| {
        let (data, data_bytes) = (hash(znode.data.as_deref()), len(znode));
        let acl = hash(znode.acl.as_ref());
        known.insert(hash(&znode.path), Known { data, data_bytes, acl, meta: znode.meta, is_in_b: false });
        Ok(())
    })?;
    each(options, &options.b, &mut progress, |znode| {
        let Some(before) = known.get_mut(&hash(&znode.path)) else {
            counts.added += 1;
            return put(&mut out, options, "added", &znode.path, None, Some(len(znode)), &[]);
        };
        before.is_in_b = true;
        let fields = differences(before, znode);
        if fields.is_empty() {
            counts.same += 1;
            return Ok(());
        }
        counts.changed += 1;
        put(&mut out, options, "changed", &znode.path, Some(before.data_bytes), Some(len(znode)), &fields)
    })?;
    each(options, &options.a, &mut progress, |znode| {
        if known.get(&hash(&znode.path)).is_some_and(|known| known.is_in_b) {
            return Ok(());
        }
        counts.removed += 1;
        put(&mut out, options, "removed", &znode.path, Some(len(znode)), None, &[])
    })?;
    let Counts { added, removed, changed, same } = counts;
    if options.json {
        out.json(&json!({ "summary": { "added": added, "removed": removed, "changed": changed, "same": same } }))?;
    } else {
        out.line(&format!("{added} added, {removed} removed, {changed} changed, {same} the same"))?;
    }
    out.flush()?;
    Ok(if added + removed + changed > 0 { Verdict::Found } else { Verdict::Fine })
}

fn each(
    options: &CompareOptions,
    file: &std::path::Path,
    progress: &mut Progress,
    mut visit: impl FnMut(&SnapshotZnode) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut reader = SnapshotReader::open(file)?;
    loop {
        match reader.read()? {
            Piece::Znode(znode) => {
                progress.at(reader.position());
                let owner = znode.meta.owner;
                let is_ephemeral = owner != Owner::NONE && owner != Owner::CONTAINER && !owner.looks_like_ttl();
                if !(options.no_ephemerals && is_ephemeral) {
                    visit(&znode)?;
                }
            }
            Piece::End => {
                progress.file_done(reader.bytes());
                return Ok(());
            }
            _ => {}
        }
    }
}

/// 128 bits, so that two that are equal are of equal things.
fn hash(value: impl std::hash::Hash) -> u128 {
    let mut hasher = SipHasher13::new();
    value.hash(&mut hasher);
    hasher.write_u8(0);
    hasher.finish128().into()
}

fn len(znode: &SnapshotZnode) -> u64 {
    znode.data.as_ref().map_or(0, |data| data.len() as u64)
}

fn differences(before: &Known, znode: &SnapshotZnode) -> Vec<String> {
    let mut found = Vec::new();
    if before.data != hash(znode.data.as_deref()) {
        found.push("data".to_owned());
    }
    if before.acl != hash(znode.acl.as_ref()) {
        found.push("acl".to_owned());
    }
    let (a, b) = (&before.meta, &znode.meta);
    let mut field = |name: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{name} {a} -> {b}"));
        }
    };
    field("czxid", a.czxid.to_string(), b.czxid.to_string());
    field("mzxid", a.mzxid.to_string(), b.mzxid.to_string());
    field("pzxid", a.pzxid.to_string(), b.pzxid.to_string());
    field("ctime", a.ctime.0.to_string(), b.ctime.0.to_string());
    field("mtime", a.mtime.0.to_string(), b.mtime.0.to_string());
    field("version", a.version.to_string(), b.version.to_string());
    field("cversion", a.cversion.to_string(), b.cversion.to_string());
    field("aversion", a.aversion.to_string(), b.aversion.to_string());
    field("owner", format!("0x{:x}", a.owner.0), format!("0x{:x}", b.owner.0));
    found
}

fn put(
    out: &mut Out,
    options: &CompareOptions,
    what: &str,
    path: &str,
    before: Option<u64>,
    after: Option<u64>,
    fields: &[String],
) -> Result<(), Box<dyn Error>> {
    if options.bytes > 0 && before.unwrap_or_default().abs_diff(after.unwrap_or_default()) < options.bytes {
        return Ok(());
    }
    if options.json {
        out.json(&json!({
            "change": what, "path": path, "bytes_before": before, "bytes_after": after, "fields": fields,
        }))?;
        return Ok(());
    }
    let bytes = match (before, after) {
        (Some(before), Some(after)) if before == after => format!("{after} bytes"),
        (Some(before), Some(after)) => format!("{before} -> {after} bytes"),
        (before, after) => format!("{} bytes", before.or(after).unwrap_or_default()),
    };
    let fields = if fields.is_empty() { String::new() } else { format!(": {}", fields.join(", ")) };
    out.line(&format!("{what} {path} ({bytes}){fields}"))?;
    Ok(())
}
