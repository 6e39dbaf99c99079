//! What appears without being asked for: watch events and the client's log, also while a line is being typed.

use std::io::Write as _;
use std::sync::mpsc;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ringkeeper::tree::path;

use crate::client::event::{EventKind, KeeperState};
use crate::client::{Level, Sink, WatchedEvent};
use crate::output::{Color, Colors, paint, print};

/// What a command that follows events gets.
pub enum Follow {
    /// An event of a znode that is followed, or of the session.
    Event(WatchedEvent),
    /// The user wants it to end.
    Interrupt,
}

/// Puts a text above the line that is being typed.
pub type Above = Box<dyn FnMut(String) + Send>;

/// Shared by the client's thread, which tells it things, and the shell.
pub struct Screen {
    colors: Colors,
    /// The least important lines of the log that are shown; `None` for none.
    level: Option<Level>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// `printwatches on`.
    prints_watches: bool,
    /// Nothing is shown any more, or never was.
    is_muted: bool,
    is_connected: bool,
    above: Option<Above>,
    follower: Option<(String, mpsc::Sender<Follow>)>,
}

impl Screen {
    /// A screen that shows events unless `is_muted`, and the log down to `level`.
    pub fn new(colors: Colors, level: Option<Level>, is_muted: bool) -> Screen {
        let state = State { prints_watches: true, is_muted, is_connected: false, above: None, follower: None };
        Screen { colors, level, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// From now on texts go above the line that is being typed.
    pub fn print_above(&self, above: Above) {
        self.state().above = Some(above);
    }

    /// From now on nothing is shown.
    pub fn mute(&self) {
        self.state().is_muted = true;
    }

    /// Whether events are shown.
    pub fn prints_watches(&self) -> bool {
        self.state().prints_watches
    }

    /// Shows events, or does not.
    pub fn set_prints_watches(&self, is_on: bool) {
        self.state().prints_watches = is_on;
    }

    /// Forgets that there was a connection: a new one is being made.
    pub fn forget_connection(&self) {
        self.state().is_connected = false;
    }

    /// Waits for a connection that takes writes, and tells whether there is one.
    pub fn wait_for_connection(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.state();
        while !state.is_connected {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).expect("nobody panics while holding it").0;
        }
        true
    }

    /// Until [`Screen::unfollow`], events of the session and of the znodes from `path` down are handed over instead
    /// of shown.
    pub fn follow(&self, path: &str) -> mpsc::Receiver<Follow> {
        let (sender, receiver) = mpsc::channel();
        self.state().follower = Some((path.to_owned(), sender));
        receiver
    }

    /// Events are shown again.
    pub fn unfollow(&self) {
        self.state().follower = None;
    }

    /// The user pressed Ctrl-C. Whether there was a command to tell.
    pub fn interrupt(&self) -> bool {
        self.state().follower.as_ref().is_some_and(|(_, follower)| follower.send(Follow::Interrupt).is_ok())
    }
}

impl Sink for Screen {
    fn event(&self, event: &WatchedEvent) {
        let mut state = self.state();
        if event.kind == EventKind::None {
            state.is_connected = event.state == KeeperState::SyncConnected;
            self.changed.notify_all();
        }
        if let Some((followed, follower)) = &state.follower
            && event.path.as_deref().is_none_or(|path| path::is_within(path, followed))
        {
            // A follower that has just ended leaves nothing to tell.
            let _ = follower.send(Follow::Event(event.clone()));
            return;
        }
        if state.is_muted || !state.prints_watches {
            return;
        }
        let text = paint(&event.to_string(), Color::Cyan, self.colors.out);
        let text = format!("\nWATCHER::\n\n{text}\n");
        match &mut state.above {
            Some(above) => above(text),
            None => print(&text),
        }
    }

    fn log(&self, level: Level, line: &str) {
        let mut state = self.state();
        if state.is_muted || self.level.is_none_or(|shown| level > shown) {
            return;
        }
        let time = Timestamp::now().to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S,%3f").to_string();
        let name = match level {
            Level::Warn => paint("WARN ", Color::Yellow, self.colors.err),
            Level::Info => "INFO ".to_owned(),
        };
        let text = format!("{time} - {name} - {line}\n");
        match &mut state.above {
            Some(above) => above(text),
            // A log that nobody can take is no reason to end.
            None => drop(std::io::stderr().write_all(text.as_bytes())),
        }
    }
}
