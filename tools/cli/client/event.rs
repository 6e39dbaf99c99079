//! What happens without being asked for: watch events and changes of the session's state.

use std::fmt;

/// `Watcher.Event.EventType`, the kinds that the client makes up itself among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names are ZooKeeper's.
pub enum EventKind {
    None,
    NodeCreated,
    NodeDeleted,
    NodeDataChanged,
    NodeChildrenChanged,
    DataWatchRemoved,
    ChildWatchRemoved,
    PersistentWatchRemoved,
}

impl EventKind {
    /// The kind of that number in a notification. A server sends no others.
    pub fn from_wire(code: i32) -> Option<EventKind> {
        use EventKind::*;
        Some(match code {
            1 => NodeCreated,
            2 => NodeDeleted,
            3 => NodeDataChanged,
            4 => NodeChildrenChanged,
            _ => return Option::None,
        })
    }
}

/// `Watcher.Event.KeeperState`: what an event says of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names are ZooKeeper's.
pub enum KeeperState {
    Disconnected,
    SyncConnected,
    ConnectedReadOnly,
    AuthFailed,
    Expired,
    Closed,
}

/// `WatchedEvent`. Prints as Apache's does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchedEvent {
    /// The session's state, with an event of a znode too.
    pub state: KeeperState,
    /// What happened; [`EventKind::None`] if only the state changed.
    pub kind: EventKind,
    /// The client's path of the znode.
    pub path: Option<String>,
    /// The transaction that caused it; -1 if the server told none, or there is none.
    pub zxid: i64,
}

impl fmt::Display for WatchedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WatchedEvent { state, kind, path, zxid } = self;
        let path = path.as_deref().unwrap_or("null");
        write!(f, "WatchedEvent state:{state:?} type:{kind:?} path:{path} zxid: {zxid}")
    }
}

/// `ZooKeeper.States`: what the prompt shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No connection; one is being looked for.
    Connecting,
    /// A session on a server that takes writes.
    Connected,
    /// A session on a server in read-only mode.
    ConnectedReadOnly,
    /// The session has ended, by the client or by the server.
    Closed,
    /// The server refused credentials.
    AuthFailed,
}

impl State {
    /// Whether requests may still be answered some time.
    pub fn is_alive(self) -> bool {
        !matches!(self, State::Closed | State::AuthFailed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Connecting => "CONNECTING",
            State::Connected => "CONNECTED",
            State::ConnectedReadOnly => "CONNECTEDREADONLY",
            State::Closed => "CLOSED",
            State::AuthFailed => "AUTH_FAILED",
        })
    }
}

/// How much a line of the client's log matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something is wrong, and the client makes up for it.
    Warn,
    /// What it does.
    Info,
}

/// Where the client tells what it was not asked for. Called on the client's own thread, so it must not wait for a
/// reply of that client.
pub trait Sink: Send + Sync {
    /// A watch fired, or the session's state changed. Comes before any reply that was sent after it.
    fn event(&self, event: &WatchedEvent);
    /// A line for the log.
    fn log(&self, level: Level, line: &str);
}
