//! `dump`: all znodes, one a line.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, IsTerminal as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringkeeper::proto::client::AclList;
use ringkeeper::storage::error::StorageError;
use ringkeeper::storage::inspect::{Piece, SnapshotReader, SnapshotZnode};
use ringkeeper::storage::snapshot;
use ringkeeper::tree::Meta;
use ringkeeper::types::SessionId;
use serde_json::{Value, json};

use crate::offline::Verdict;
use crate::offline::output::{Out, perms, quoted};
use crate::offline::progress::Progress;
use crate::offline::times;
use crate::options::DumpOptions;

/// See the options.
pub fn run(options: &DumpOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut out = Out::new();
    if options.apache {
        apache(options, &mut out)?;
        return Ok(Verdict::Fine);
    }
    let mut reader = SnapshotReader::open(&options.file)?;
    let mut progress = Progress::new(reader.bytes(), io::stdout().is_terminal());
    loop {
        match reader.read() {
            Ok(Piece::Session(session, timeout_ms)) => put_session(&mut out, session, timeout_ms, options.json)?,
            Ok(Piece::Znode(znode)) => {
                progress.at(reader.position());
                if options.path.as_ref().is_none_or(|prefix| is_below(&znode.path, prefix)) {
                    let SnapshotZnode { path, data, acl, meta, .. } = &znode;
                    let line = Line { path, data: data.as_deref(), acl: acl.as_ref(), meta };
                    line.put(&mut out, options.data, options.json)?;
                }
            }
            Ok(Piece::Digest(..) | Piece::LastZxid(_)) => {}
            Ok(Piece::End) => break,
            Err(error) => {
                out.flush()?;
                return damaged(error);
            }
        }
    }
    out.flush()?;
    Ok(Verdict::Fine)
}

/// Where a snapshot is damaged that is only looked at: that is what was found, and no reason why it could not be done.
pub fn damaged(error: StorageError) -> Result<Verdict, Box<dyn Error>> {
    let StorageError::Damaged { path, offset, what, .. } = error else { return Err(error.into()) };
    eprintln!(
        "ringkeeper-snapshot: {} is damaged at byte {offset}: {what}. What is behind it was not read",
        path.display()
    );
    Ok(Verdict::Found)
}

/// Whether a path is that prefix or below it.
pub fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One line for a session.
pub fn put_session(out: &mut Out, session: SessionId, timeout_ms: i32, json: bool) -> io::Result<()> {
    match json {
        true => out.json(&json!({ "session": session.to_string(), "timeout_ms": timeout_ms })),
        false => out.line(&format!("session {session} timeout {timeout_ms} ms")),
    }
}

/// A znode to be printed.
pub struct Line<'a> {
    pub path: &'a str,
    pub data: Option<&'a [u8]>,
    pub acl: Option<&'a AclList>,
    pub meta: &'a Meta,
}

impl Line<'_> {
    /// Prints it.
    pub fn put(&self, out: &mut Out, data_bytes: usize, json: bool) -> io::Result<()> {
        if json { out.json(&self.value()) } else { out.line(&self.text(data_bytes)) }
    }

    fn text(&self, data_bytes: usize) -> String {
        let path = match self.path.contains(|c: char| c.is_control() || c == ' ' || c == '"') {
            true => quoted(self.path.as_bytes(), usize::MAX),
            false => self.path.to_owned(),
        };
        let data = self.data.map_or("null".to_owned(), |data| quoted(data, data_bytes));
        let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = self.meta;
        let (ctime, mtime) = (times::rfc3339(ctime.0), times::rfc3339(mtime.0));
        let owner = if owner.0 == 0 { String::new() } else { format!(" owner 0x{:x}", owner.0) };
        format!(
            "{path} data {data} acl {} version {version} cversion {cversion} aversion {aversion} created {czxid} {ctime} \
             modified {mzxid} {mtime} children {pzxid}{owner}",
            acl_text(self.acl)
        )
    }

    fn value(&self) -> Value {
        let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = self.meta;
        json!({
            "path": self.path,
            "data": self.data.map(|data| STANDARD.encode(data)),
            "acl": self.acl.map(|_| acl_text(self.acl).split(',').map(str::to_owned).collect::<Vec<_>>()),
            "czxid": czxid.to_string(),
            "mzxid": mzxid.to_string(),
            "pzxid": pzxid.to_string(),
            "ctime": times::rfc3339(ctime.0),
            "mtime": times::rfc3339(mtime.0),
            "version": version,
            "cversion": cversion,
            "aversion": aversion,
            "owner": format!("0x{:x}", owner.0),
        })
    }
}

fn acl_text(acl: Option<&AclList>) -> String {
    let Some(acl) = acl else { return "missing".to_owned() };
    let Some(entries) = acl.entries() else { return "world:anyone:cdrwa".to_owned() };
    let entries = entries.iter().map(|acl| format!("{}:{}:{}", acl.id.scheme, acl.id.id, perms(acl.perms)));
    entries.collect::<Vec<_>>().join(",")
}

/// Apache's text. The number of znodes stands first, so the file is read twice.
fn apache(options: &DumpOptions, out: &mut Out) -> Result<(), Box<dyn Error>> {
    let mut znodes = 0u64;
    let mut reader = SnapshotReader::open(&options.file)?;
    loop {
        match reader.read()? {
            Piece::Znode(_) => znodes += 1,
            Piece::End => break,
            _ => {}
        }
    }
    // The root counts twice, once under its old name.
    out.line(&format!("ZNode Details (count={}):", znodes + 1))?;
    let mut sessions = BTreeMap::new();
    let mut ephemerals: BTreeMap<i64, u64> = BTreeMap::new();
    let mut last = snapshot::of_name(&options.file).map_or(0, |(zxid, _)| zxid.0);
    let mut reader = SnapshotReader::open(&options.file)?;
    loop {
        match reader.read()? {
            Piece::Session(session, timeout_ms) => drop(sessions.insert(session.0, timeout_ms)),
            Piece::Znode(znode) => {
                *ephemerals.entry(znode.meta.owner.0).or_default() += 1;
                last = last.max(znode.meta.mzxid.0).max(znode.meta.pzxid.0);
                out.text(&apache_znode(&znode, options.with_data))?;
            }
            Piece::Digest(..) | Piece::LastZxid(_) => {}
            Piece::End => break,
        }
    }
    out.line("----\nSession Details (sid, timeout, ephemeralCount):")?;
    for (session, timeout_ms) in sessions {
        let count = ephemerals.get(&session).copied().unwrap_or_default();
        out.line(&format!("{session:#016x}, {timeout_ms}, {count}"))?;
    }
    out.line(&format!("----\nLast zxid: 0x{last:x}"))?;
    out.flush()?;
    Ok(())
}

fn apache_znode(znode: &SnapshotZnode, with_data: bool) -> String {
    let Meta { czxid, mzxid, pzxid, ctime, mtime, owner, version, cversion, aversion } = znode.meta;
    let date = |ms| times::local(ms, "%a %b %d %H:%M:%S %Z %Y");
    let data = znode.data.as_deref().unwrap_or_default();
    let data = match with_data {
        true => format!("data = {}", STANDARD.encode(data)),
        false => format!("dataLength = {}", data.len()),
    };
    format!(
        "----\n{}\n  cZxid = {:#016x}\n  ctime = {}\n  mZxid = {:#016x}\n  mtime = {}\n  pZxid = {:#016x}\n  \
         cversion = {cversion}\n  dataVersion = {version}\n  aclVersion = {aversion}\n  ephemeralOwner = {:#016x}\n  \
         {data}\n",
        znode.path,
        czxid.0,
        date(ctime.0),
        mzxid.0,
        date(mtime.0),
        pzxid.0,
        owner.0,
    )
}
