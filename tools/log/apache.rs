//! The text of TxnLogToolkit of Apache 3.9, to the letter, for scripts that read it. 3.8 differs in one name: createTtl.

use std::fmt::Write as _;

use ringkeeper::jute::{DecodeError, Reader};
use ringkeeper::proto::client::{Acl, AclList, Id};
use ringkeeper::proto::txn::{CreateKind, Txn};

use crate::filter::Logged;
use crate::offline::times;
use crate::text::{type_code, type_name};

/// A transaction, with the newline at its end.
pub fn text(logged: &Logged<'_>) -> String {
    let header = &logged.txn.header;
    // Java's SHORT date and LONG time in its default locale.
    let time = times::local(header.time.0, "%-m/%-d/%y, %-I:%M:%S %p %Z");
    let name = type_name(type_code(&logged.entry.payload));
    let zxid = logged.entry.zxid;
    let mut text = format!("{time} session {} cxid 0x{:x} zxid {zxid} {name} ", header.session, header.cxid);
    match &logged.txn.txn {
        Txn::Multi(_) => text.push_str(&multi(&logged.entry.payload).expect("it was decoded before")),
        txn => text.push_str(&body(txn)),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn body(txn: &Txn) -> String {
    match txn {
        Txn::Create { path, data, acl, kind, parent_cversion, .. } => {
            let (data, acl) = (data_text(data), acl_list(acl));
            match kind {
                CreateKind::Plain { ephemeral } => format!("{path},{data},{acl},{ephemeral},{parent_cversion}"),
                CreateKind::Container => format!("{path},{data},{acl},{parent_cversion}"),
                CreateKind::Ttl(ttl_ms) => format!("{path},{data},{acl},{parent_cversion},{ttl_ms}"),
            }
        }
        Txn::SetData { path, data, version } | Txn::Reconfig { path, data, version } => {
            format!("{path},{},{version}", data_text(data))
        }
        // Only parts of a multi, which do not come here.
        Txn::Check { .. } | Txn::Multi(_) => String::new(),
        // What jute makes of a record: a newline is at its end.
        Txn::SetAcl { path, acl, version } => {
            let entries: Vec<String> = entries(acl).iter().map(|acl| format!("s{{{}}}", fields(acl))).collect();
            format!("{},v{{{}}},{version}\n", escaped(path), entries.join(","))
        }
        Txn::Delete { path, .. } => format!("{}\n", escaped(path)),
        Txn::CreateSession { timeout_ms } => format!("{timeout_ms}\n"),
        Txn::CloseSession { paths: Some(paths) } => {
            format!("v{{{}}}\n", paths.iter().map(|path| escaped(path)).collect::<Vec<_>>().join(","))
        }
        Txn::CloseSession { paths: None } => String::new(),
        Txn::Error { err } => format!("{err}\n"),
    }
}

/// The parts of a multi: each record's bytes, taken for text.
fn multi(payload: &[u8]) -> Result<String, DecodeError> {
    let mut reader = Reader::new(payload);
    reader.skip(HEADER_BYTES)?;
    let parts = reader.vector(|reader| {
        let name = type_name(reader.int()?);
        Ok(format!("{name}:{}", String::from_utf8_lossy(reader.buffer()?.unwrap_or_default())))
    })?;
    Ok(parts.unwrap_or_default().join(";"))
}

/// Of a `TxnHeader`.
const HEADER_BYTES: usize = 32;

fn data_text(data: &Option<bytes::Bytes>) -> String {
    String::from_utf8_lossy(data.as_deref().unwrap_or_default()).into_owned()
}

fn entries(acl: &AclList) -> Vec<Acl> {
    acl.entries().map_or_else(|| vec![Acl { perms: 31, id: Id::new("world", "anyone") }], <[Acl]>::to_vec)
}

/// A Java list of records.
fn acl_list(acl: &AclList) -> String {
    let entries: Vec<String> = entries(acl).iter().map(|acl| fields(acl) + "\n").collect();
    format!("[{}]", entries.join(", "))
}

fn fields(acl: &Acl) -> String {
    format!("{},s{{{},{}}}", acl.perms, escaped(&acl.id.scheme), escaped(&acl.id.id))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::from("'");
    for c in text.chars() {
        match c {
            '\0' | '\n' | '\r' | '%' | ',' | '}' => {
                write!(escaped, "%{:02X}", u32::from(c)).expect("a string takes any text");
            }
            c => escaped.push(c),
        }
    }
    escaped
}
