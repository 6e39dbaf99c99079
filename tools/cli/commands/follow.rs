//! `watch`: what changes from a znode down, as it happens.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ringkeeper::proto::client::Stat;
use ringkeeper::proto::op::Which;
use serde_json::{Value, json};

use super::subtree::Walk;
use super::{Command, Context};
use crate::client::event::{EventKind, KeeperState};
use crate::client::{Client, Data, WatchedEvent};
use crate::failure::Failure;
use crate::flags::{Given, switch};
use crate::output::{Color, data_json, paint, stat_json};
use crate::screen::Follow;

pub const COMMANDS: &[Command] = &[Command::extra(
    "watch",
    "[-n] path",
    &[switch("n", "The znode alone, not what is below it")],
    (1, 1),
    watch,
    "Shows every change of a znode and of all below it, until Ctrl-C.",
)];

/// Most characters of the data that a line shows.
const PREVIEW_CHARACTERS: usize = 80;

fn watch(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = given.arguments[1].as_str();
    let is_recursive = !given.has("n");
    let events = context.screen.follow(path);
    let result = context.client.add_watch(path, is_recursive).map_err(Failure::from).and_then(|()| {
        let what = if is_recursive { " and all below it" } else { "" };
        context.out.note(format_args!("Watching {path}{what}; Ctrl-C ends it."));
        let mut changes = Changes { context, path, is_recursive, since: 0, is_lost: false, reported: HashSet::new() };
        changes.since = changes.context.client.last_zxid();
        while let Ok(Follow::Event(event)) = events.recv() {
            if !changes.on_event(&event)? {
                break;
            }
        }
        let which = if is_recursive { Which::PersistentRecursive } else { Which::Persistent };
        // If the server is away, the watch is not set again when it is back.
        Ok(context.client.remove_watches(path, which, true)?)
    });
    context.screen.unfollow();
    result
}

struct Changes<'a, 'b> {
    context: &'a mut Context<'b>,
    path: &'a str,
    is_recursive: bool,
    /// The newest transaction whose changes have been shown, or were there before.
    since: i64,
    is_lost: bool,
    /// Path and zxid of what was shown after a reconnect, and may come as an event too.
    reported: HashSet<(String, i64)>,
}

impl Changes<'_, '_> {
    /// Shows an event. Whether there is more to come.
    fn on_event(&mut self, event: &WatchedEvent) -> Result<bool, Failure> {
        let Some(path) = event.path.as_deref() else { return self.on_state(event.state) };
        let is_removal = !matches!(
            event.kind,
            EventKind::NodeCreated
                | EventKind::NodeDeleted
                | EventKind::NodeDataChanged
                | EventKind::NodeChildrenChanged
        );
        if is_removal || self.reported.remove(&(path.to_owned(), event.zxid)) {
            return Ok(true);
        }
        self.since = self.since.max(event.zxid);
        // It may have changed again, or be gone: what is shown is what is there now.
        let now = match event.kind {
            EventKind::NodeDeleted => None,
            _ => self.context.client.data(path, false).ok(),
        };
        self.show(&format!("{:?}", event.kind), path, event.zxid, now);
        Ok(true)
    }

    fn on_state(&mut self, state: KeeperState) -> Result<bool, Failure> {
        match state {
            KeeperState::Disconnected => {
                self.is_lost = true;
                self.since = self.since.max(self.context.client.last_zxid());
                self.say("Disconnected: looking for a server");
                Ok(true)
            }
            KeeperState::SyncConnected | KeeperState::ConnectedReadOnly => {
                if std::mem::take(&mut self.is_lost) {
                    self.say("Connected again");
                    self.catch_up()?;
                }
                Ok(true)
            }
            KeeperState::Expired => Err(Failure::malformed("The session has expired, and the watch with it")),
            KeeperState::AuthFailed | KeeperState::Closed => Ok(false),
        }
    }

    /// Persistent watches tell nothing of what happened while there was no connection; zxids do. What was deleted
    /// shows as a parent whose children have changed.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let client: &Client = self.context.client;
        let depth = if self.is_recursive { usize::MAX } else { 0 };
        let mut newest = self.since;
        self.reported.clear();
        for visit in Walk::new(client, self.path, depth) {
            let Ok(stat) = visit.stat else { continue };
            let Some((kind, zxid)) = change_since(&stat, self.since) else { continue };
            let data = client.data(&visit.path, false).ok();
            self.show(&format!("{kind:?}"), &visit.path, zxid, data);
            self.reported.insert((visit.path, zxid));
            newest = newest.max(zxid);
        }
        self.since = newest;
        Ok(())
    }

    fn say(&self, text: &str) {
        let text = paint(&format!("{} --- {text}", now()), Color::Yellow, self.context.out.paints());
        self.context.out.line(text);
    }

    fn show(&self, kind: &str, path: &str, zxid: i64, data: Option<Data>) {
        if self.context.out.is_json() {
            self.context.out.stream(&change_json(kind, path, zxid, data));
            return;
        }
        let color = match kind {
            "NodeCreated" => Color::Green,
            "NodeDeleted" => Color::Red,
            _ => Color::Cyan,
        };
        let kind = paint(&format!("{kind:19}"), color, self.context.out.paints());
        let mut line = format!("{} {kind} {path}", now());
        // Servers before 3.9 tell no zxid.
        if zxid >= 0 {
            line.push_str(&format!(" zxid={zxid:#x}"));
        }
        if let Some((data, stat)) = data {
            line.push_str(&format!(" version={} {}", stat.version, preview(data.as_deref())));
            if stat.ephemeral_owner != 0 {
                line.push_str(&format!(" ephemeral of {:#x}", stat.ephemeral_owner));
            }
        }
        self.context.out.line(line);
    }
}

/// The newest change of a znode after `since`, if there was one.
fn change_since(stat: &Stat, since: i64) -> Option<(EventKind, i64)> {
    if stat.czxid > since {
        Some((EventKind::NodeCreated, stat.czxid))
    } else if stat.mzxid > since {
        Some((EventKind::NodeDataChanged, stat.mzxid))
    } else if stat.pzxid > since {
        Some((EventKind::NodeChildrenChanged, stat.pzxid))
    } else {
        None
    }
}

fn now() -> String {
    Timestamp::now().to_zoned(TimeZone::system()).strftime("%H:%M:%S.%3f").to_string()
}

fn change_json(kind: &str, path: &str, zxid: i64, data: Option<Data>) -> Value {
    let mut value = json!({"time": Timestamp::now().as_millisecond(), "type": kind, "path": path});
    if zxid >= 0 {
        value["zxid"] = format!("{zxid:#x}").into();
    }
    if let Some((data, stat)) = data {
        let (data, encoding) = data_json(data.as_deref());
        value["data"] = data;
        value["encoding"] = encoding.into();
        value["stat"] = stat_json(&stat);
    }
    value
}

/// Data on one line, cut where it gets long.
fn preview(data: Option<&[u8]>) -> String {
    let Some(data) = data else { return "null".to_owned() };
    let Ok(text) = std::str::from_utf8(data) else { return format!("({} bytes)", data.len()) };
    match text.char_indices().nth(PREVIEW_CHARACTERS) {
        Some((at, _)) => format!("{:?}… ({} bytes)", &text[..at], data.len()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_while_nobody_looked() {
        let stat = Stat { czxid: 5, mzxid: 7, pzxid: 9, ..Stat::default() };
        assert_eq!(change_since(&stat, 4), Some((EventKind::NodeCreated, 5)));
        assert_eq!(change_since(&stat, 5), Some((EventKind::NodeDataChanged, 7)));
        assert_eq!(change_since(&stat, 8), Some((EventKind::NodeChildrenChanged, 9)));
        assert_eq!(change_since(&stat, 9), None);
    }

    #[test]
    fn data_is_shown_on_one_line() {
        assert_eq!(preview(None), "null");
        assert_eq!(preview(Some(b"a\nb")), "\"a\\nb\"");
        assert_eq!(preview(Some(&[0xff; 7])), "(7 bytes)");
        let long = "x".repeat(100);
        assert_eq!(preview(Some(long.as_bytes())), format!("\"{}\"… (100 bytes)", "x".repeat(80)));
    }
}
