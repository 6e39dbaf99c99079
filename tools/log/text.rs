//! A transaction as one line of text, and as JSON.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringkeeper::proto::client::AclList;
use ringkeeper::proto::txn::{CreateKind, Txn};
use serde_json::{Map, Value, json};

use crate::filter::Logged;
use crate::offline::output::{perms, quoted};
use crate::offline::times;

/// The types that a log may hold, with ZooKeeper's names (`Request.op2String`).
pub const TYPES: [(i32, &str); 14] = [
    (1, "create"),
    (15, "create2"),
    (19, "createContainer"),
    (21, "createTTL"),
    (2, "delete"),
    (20, "deleteContainer"),
    (5, "setData"),
    (7, "setACL"),
    (13, "check"),
    (14, "multi"),
    (16, "reconfig"),
    (-10, "createSession"),
    (-11, "closeSession"),
    (-1, "error"),
];

/// The type in a transaction's header: a reconfig is only told from a setData here.
pub fn type_code(payload: &[u8]) -> i32 {
    payload.get(28..32).map_or(0, |code| i32::from_be_bytes(code.try_into().expect("4 bytes")))
}

/// ZooKeeper's name of a type.
pub fn type_name(code: i32) -> String {
    let name = TYPES.iter().find(|(known, _)| *known == code).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("unknown {code}"))
}

/// The znode that a transaction is about, if it is about one.
pub fn path(txn: &Txn) -> Option<&str> {
    match txn {
        Txn::Create { path, .. }
        | Txn::Delete { path, .. }
        | Txn::SetData { path, .. }
        | Txn::Reconfig { path, .. }
        | Txn::SetAcl { path, .. }
        | Txn::Check { path, .. } => Some(path),
        Txn::CreateSession { .. } | Txn::CloseSession { .. } | Txn::Error { .. } | Txn::Multi(_) => None,
    }
}

/// One line for people, without the newline.
pub fn line(logged: &Logged<'_>, data_bytes: usize) -> String {
    let header = &logged.txn.header;
    let name = type_name(type_code(&logged.entry.payload));
    let (time, zxid) = (times::rfc3339(header.time.0), logged.entry.zxid);
    let mut text = format!("{time} {zxid} session {} cxid {} {name}", header.session, header.cxid);
    put_body(&mut text, &logged.txn.txn, data_bytes);
    text
}

fn put_body(text: &mut String, txn: &Txn, data_bytes: usize) {
    let mut put = |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a string takes any text");
    let data_of = |data: &Option<bytes::Bytes>| match data {
        None => "null".to_owned(),
        Some(data) => quoted(data, data_bytes),
    };
    match txn {
        Txn::CreateSession { timeout_ms } => put(format_args!(" timeout {timeout_ms} ms")),
        Txn::CloseSession { paths } => paths.iter().flatten().for_each(|path| put(format_args!(" {}", shown(path)))),
        Txn::Create { path, data, acl, kind, with_stat: _, parent_cversion } => {
            put(format_args!(" {} data {} acl {}", shown(path), data_of(data), acl_text(acl)));
            match kind {
                CreateKind::Plain { ephemeral: true } => put(format_args!(" ephemeral")),
                CreateKind::Ttl(ttl_ms) => put(format_args!(" ttl {ttl_ms} ms")),
                CreateKind::Plain { ephemeral: false } | CreateKind::Container => {}
            }
            put(format_args!(" parent cversion {parent_cversion}"));
        }
        Txn::Delete { path, .. } => put(format_args!(" {}", shown(path))),
        Txn::SetData { path, data, version } | Txn::Reconfig { path, data, version } => {
            put(format_args!(" {} data {} version {version}", shown(path), data_of(data)));
        }
        Txn::SetAcl { path, acl, version } => {
            put(format_args!(" {} acl {} version {version}", shown(path), acl_text(acl)));
        }
        Txn::Check { path, version } => put(format_args!(" {} version {version}", shown(path))),
        Txn::Error { err } => put(format_args!(" {err}")),
        Txn::Multi(parts) => {
            for (i, part) in parts.iter().enumerate() {
                text.push_str(if i == 0 { " [" } else { "; " });
                text.push_str(&type_name(part.type_code()));
                put_body(text, part, data_bytes);
            }
            text.push_str(if parts.is_empty() { " []" } else { "]" });
        }
    }
}

/// A path on one line, whatever is in it.
fn shown(path: &str) -> String {
    match path.contains(|c: char| c.is_control() || c == ' ' || c == '"') {
        true => quoted(path.as_bytes(), usize::MAX),
        false => path.to_owned(),
    }
}

fn acl_text(acl: &AclList) -> String {
    let entries = acl.entries().map_or_else(
        || vec!["world:anyone:cdrwa".to_owned()],
        |entries| entries.iter().map(|acl| format!("{}:{}:{}", acl.id.scheme, acl.id.id, perms(acl.perms))).collect(),
    );
    entries.join(",")
}

/// One object for programs.
pub fn value(logged: &Logged<'_>, file: &Path) -> Value {
    let (header, entry) = (&logged.txn.header, logged.entry);
    let mut object = Map::new();
    object.insert("file".to_owned(), json!(file.display().to_string()));
    object.insert("offset".to_owned(), json!(entry.position));
    object.insert("zxid".to_owned(), json!(entry.zxid.to_string()));
    object.insert("time".to_owned(), json!(times::rfc3339(header.time.0)));
    object.insert("session".to_owned(), json!(header.session.to_string()));
    object.insert("cxid".to_owned(), json!(header.cxid));
    object.insert("type".to_owned(), json!(type_name(type_code(&entry.payload))));
    put_fields(&mut object, &logged.txn.txn);
    if let Some(digest) = logged.txn.digest {
        object.insert("digest".to_owned(), json!(format!("0x{digest:x}")));
    }
    Value::Object(object)
}

fn put_fields(object: &mut Map<String, Value>, txn: &Txn) {
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    if let Some(path) = path(txn) {
        put("path", json!(path));
    }
    let data_of = |data: &Option<bytes::Bytes>| json!(data.as_ref().map(|data| STANDARD.encode(data)));
    match txn {
        Txn::CreateSession { timeout_ms } => put("timeout_ms", json!(timeout_ms)),
        Txn::CloseSession { paths } => {
            put("paths", json!(paths.as_ref().map(|paths| paths.iter().map(|path| &**path).collect::<Vec<_>>())))
        }
        Txn::Create { data, acl, kind, parent_cversion, .. } => {
            put("data", data_of(data));
            put("acl", acl_value(acl));
            put("ephemeral", json!(matches!(kind, CreateKind::Plain { ephemeral: true })));
            put("parent_cversion", json!(parent_cversion));
            if let CreateKind::Ttl(ttl_ms) = kind {
                put("ttl_ms", json!(ttl_ms));
            }
        }
        Txn::SetData { data, version, .. } | Txn::Reconfig { data, version, .. } => {
            put("data", data_of(data));
            put("version", json!(version));
        }
        Txn::SetAcl { acl, version, .. } => {
            put("acl", acl_value(acl));
            put("version", json!(version));
        }
        Txn::Check { version, .. } => put("version", json!(version)),
        Txn::Error { err } => put("error", json!(err)),
        Txn::Delete { .. } => {}
        Txn::Multi(parts) => {
            let part = |part: &Txn| {
                let mut object = Map::new();
                object.insert("type".to_owned(), json!(type_name(part.type_code())));
                put_fields(&mut object, part);
                Value::Object(object)
            };
            put("parts", Value::Array(parts.iter().map(part).collect()));
        }
    }
}

fn acl_value(acl: &AclList) -> Value {
    Value::Array(acl_text(acl).split_terminator('\n').map(|text| json!(text)).collect())
}
