//! Quotas: znodes below `/zookeeper/quota` that clients write and the server counts by.
//!
//! Source: `SetQuotaCommand`, `ListQuotaCommand`, `DelQuotaCommand`, `StatsTrack`.

use std::collections::BTreeMap;
use std::fmt;

use ringkeeper::proto::op::CreateMode;
use serde_json::Value;

use super::nodes::visit;
use super::{Command, Context};
use crate::client::error::code;
use crate::client::{Client, Error, path};
use crate::commands::acl;
use crate::failure::Failure;
use crate::flags::{Choice, Flag, Given, switch, valued};

const ROOT: &str = "/zookeeper/quota";
const LIMITS: &str = "zookeeper_limits";
const STATS: &str = "zookeeper_stats";

/// Option, key in the znode, and what it limits.
const KINDS: [(&str, &str, &str); 4] =
    [("n", "count", "num"), ("b", "bytes", "bytes"), ("N", "countHardLimit", "num"), ("B", "byteHardLimit", "bytes")];

const SET: &[Flag] = &[
    valued("n", "num soft quota"),
    valued("b", "bytes soft quota"),
    valued("N", "num hard quota"),
    valued("B", "bytes hard quota"),
];
const DELETE: &[Flag] = &[
    switch("n", "num soft quota"),
    switch("b", "bytes soft quota"),
    switch("N", "num hard quota"),
    switch("B", "bytes hard quota"),
];

pub const COMMANDS: &[Command] = &[
    Command { choice: Choice::Required, ..Command::new("setquota", "-n|-b|-N|-B val path", SET, 1, set_quota) },
    Command::new("listquota", "path", &[], 1, list_quota),
    Command { choice: Choice::One, ..Command::new("delquota", "[-n|-b|-N|-B] path", DELETE, 1, delete_quota) },
];

/// Limits or counts, as they stand in a znode: `count=5,bytes=-1=;byteHardLimit=-1`. -1 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Track(BTreeMap<String, i64>);

impl Track {
    fn parse(data: Option<&[u8]>) -> Result<Track, Failure> {
        let text = String::from_utf8_lossy(data.unwrap_or_default());
        let bad = || Failure::malformed(format!("This is not a quota: {text}"));
        let mut track = Track::default();
        for pair in text.split([',', ';']).filter(|pair| !pair.is_empty()) {
            // The value may have a `=` behind it, which hides later pairs from old clients.
            let mut parts = pair.split('=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else { return Err(bad()) };
            let value = if value.is_empty() { -1 } else { value.parse().map_err(|_| bad())? };
            track.0.insert(key.to_owned(), value);
        }
        Ok(track)
    }

    fn get(&self, key: &str) -> i64 {
        self.0.get(key).copied().unwrap_or(-1)
    }

    fn with(mut self, key: &str, value: i64) -> Track {
        self.0.insert(key.to_owned(), value);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    fn json(&self) -> Value {
        self.0.iter().map(|(key, value)| (key.clone(), Value::from(*value))).collect()
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.get("count"), self.get("bytes"))?;
        let others = self.0.iter().filter(|(key, _)| !matches!(key.as_str(), "count" | "bytes"));
        for (at, (key, value)) in others.enumerate() {
            write!(f, "{};{key}={value}", if at == 0 { "=" } else { "" })?;
        }
        Ok(())
    }
}

/// What the option asks for; a text if the value will not do.
fn wanted(given: &Given) -> Result<Option<(&'static str, i64)>, &'static str> {
    for (flag, key, what) in KINDS {
        let Some(text) = given.value(flag) else { continue };
        let number = "NumberFormatException happens when parsing the option value";
        let value = match what {
            "num" => text.parse::<i32>().map(i64::from).map_err(|_| number)?,
            _ => text.parse::<i64>().map_err(|_| number)?,
        };
        return match what {
            "num" if value <= 0 => Err("the num quota must be greater than zero"),
            "bytes" if value < 0 => Err("the bytes quota must be greater than or equal to zero"),
            _ => Ok(Some((key, value))),
        };
    }
    Ok(None)
}

fn set_quota(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    if path.starts_with(ROOT) {
        context.out.note(format_args!("cannot set a quota under the path: {ROOT}"));
        return Ok(());
    }
    let (key, value) = match wanted(given) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return Ok(()),
        Err(text) => {
            context.out.note(text);
            return Ok(());
        }
    };
    let client = context.client;
    if client.exists(path, false)?.is_none() {
        return Err(Failure::malformed(format!("{path} does not exist.")));
    }
    check_below(client, path)?;
    check_above(client, path)?;
    let place = make_place(client, path)?;
    let (limits_path, stats_path) = (format!("{place}/{LIMITS}"), format!("{place}/{STATS}"));
    let limits = if client.exists(&limits_path, false)?.is_none() {
        let none = KINDS.iter().fold(Track::default(), |track, (_, key, _)| track.with(key, -1));
        let limits = none.with(key, value);
        make(client, &limits_path, Some(&limits.bytes()))?;
        make(client, &stats_path, Some(&Track::default().with("count", 0).with("bytes", 0).bytes()))?;
        limits
    } else {
        let limits = Track::parse(client.data(&limits_path, false)?.0.as_deref())?.with(key, value);
        client.set_data(&limits_path, Some(&limits.bytes()), -1)?;
        limits
    };
    let stats = Track::parse(client.data(&stats_path, false)?.0.as_deref())?;
    warn(context, &limits, &stats);
    context.out.put("path", path.as_str());
    context.out.put("limits", limits.json());
    Ok(())
}

/// Tells if the limits are exceeded already.
fn warn(context: &mut Context<'_>, limits: &Track, stats: &Track) {
    for (name, soft, hard) in [("count", "count", "countHardLimit"), ("bytes", "bytes", "byteHardLimit")] {
        let existing = stats.get(name);
        if [soft, hard].iter().any(|key| limits.get(key) > -1 && limits.get(key) < existing) {
            let text = format!("[Warning]: the {name} quota you create is less than the existing {name}:{existing}");
            context.out.line(text);
        }
    }
}

/// No quota may stand below another.
fn check_below(client: &Client, path: &str) -> Result<(), Failure> {
    let own = format!("{ROOT}{path}");
    let visited = visit(client, &own, false, &mut |place| match place.strip_suffix(&format!("/{LIMITS}")) {
        Some(other) if other != own => {
            let other = &other[ROOT.len()..];
            Err(Failure::malformed(format!("{path} has a child {other} which has a quota")))
        }
        _ => Ok(()),
    });
    visited.or_else(|failure| if failure.is(code::NO_NODE) { Ok(()) } else { Err(failure) })
}

fn check_above(client: &Client, path: &str) -> Result<(), Failure> {
    let names: Vec<&str> = path.split('/').skip(1).collect();
    let mut place = ROOT.to_owned();
    for name in &names[..names.len() - 1] {
        place = path::join(&place, name);
        let children = match client.children(&place, false) {
            Err(error) if error.is(code::NO_NODE) => return Ok(()),
            result => result?.0,
        };
        if children.iter().any(|child| child == LIMITS) {
            let other = &place[ROOT.len()..];
            return Err(Failure::malformed(format!("{path} has a parent {other} which has a quota")));
        }
    }
    Ok(())
}

/// Makes the znodes that a quota for `path` stands below.
fn make_place(client: &Client, path: &str) -> Result<String, Failure> {
    let mut place = ROOT.to_owned();
    make_if_missing(client, "/zookeeper")?;
    make_if_missing(client, ROOT)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        place = path::join(&place, name);
        make_if_missing(client, &place)?;
    }
    Ok(place)
}

fn make_if_missing(client: &Client, path: &str) -> Result<(), Error> {
    if client.exists(path, false)?.is_some() {
        return Ok(());
    }
    match make(client, path, None) {
        Err(error) if error.is(code::NODE_EXISTS) => Ok(()),
        result => result,
    }
}

fn make(client: &Client, path: &str, data: Option<&[u8]>) -> Result<(), Error> {
    client.create(path, data, &acl::open(), CreateMode::Persistent, -1).map(drop)
}

fn list_quota(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let limits_path = format!("{ROOT}{path}/{LIMITS}");
    context.out.note(format_args!("absolute path is {limits_path}"));
    context.out.put("path", path.as_str());
    let tracks = context.client.data(&limits_path, false).and_then(|(limits, _)| {
        let (stats, _) = context.client.data(&format!("{ROOT}{path}/{STATS}"), false)?;
        Ok((limits, stats))
    });
    let (limits, stats) = match tracks {
        Err(error) if error.is(code::NO_NODE) => {
            context.out.note(format_args!("quota for {path} does not exist."));
            context.out.put("limits", Value::Null);
            return Ok(());
        }
        tracks => tracks?,
    };
    let (limits, stats) = (Track::parse(limits.as_deref())?, Track::parse(stats.as_deref())?);
    context.out.line(format_args!("Output quota for {path} {limits}"));
    context.out.line(format_args!("Output stat for {path} {stats}"));
    context.out.put("limits", limits.json());
    context.out.put("stats", stats.json());
    Ok(())
}

fn delete_quota(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let client = context.client;
    let place = format!("{ROOT}{path}");
    let limits_path = format!("{place}/{LIMITS}");
    if client.exists(&limits_path, false)?.is_none() {
        context.out.line(format_args!("Quota does not exist for {path}"));
        return Ok(());
    }
    context.out.put("path", path.as_str());
    let mut limits = Track::parse(client.data(&limits_path, false)?.0.as_deref())?;
    let chosen: Vec<&str> = KINDS.iter().filter(|(flag, ..)| given.has(flag)).map(|(_, key, _)| *key).collect();
    if chosen.is_empty() {
        return remove(client, place);
    }
    for key in chosen {
        limits = limits.with(key, -1);
    }
    client.set_data(&limits_path, Some(&limits.bytes()), -1)?;
    context.out.put("limits", limits.json());
    Ok(())
}

/// Deletes a quota, and the znodes above it that are left empty.
fn remove(client: &Client, mut place: String) -> Result<(), Failure> {
    for name in client.children(&place, false)?.0 {
        client.delete(&path::join(&place, &name), -1)?;
    }
    while place != ROOT && client.children(&place, false)?.0.is_empty() {
        client.delete(&place, -1)?;
        place.truncate(place.rfind('/').expect("it is below the root of all quotas"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_there_and_back() {
        let text = "count=5,bytes=-1=;byteHardLimit=1000;countHardLimit=-1";
        let track = Track::parse(Some(text.as_bytes())).unwrap();
        assert_eq!((track.get("count"), track.get("byteHardLimit"), track.get("nothing")), (5, 1000, -1));
        assert_eq!(track.to_string(), text);
        assert_eq!(Track::parse(Some(b"count=2,bytes=13")).unwrap().to_string(), "count=2,bytes=13");
        assert_eq!(Track::parse(None).unwrap().to_string(), "count=-1,bytes=-1");
        assert!(Track::parse(Some(b"count")).is_err());
        assert!(Track::parse(Some(b"count=x")).is_err());
    }
}
