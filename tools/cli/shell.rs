//! The shell: it has a session, carries out commands, and remembers them.
//!
//! Source: `ZooKeeperMain`. What is about the shell itself stands here; the other commands are in
//! [`crate::commands`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{self, Address, Client, Error, State, code};
use crate::commands::{self, Command, Context};
use crate::failure::Failure;
use crate::output::{Color, Output, paint};
use crate::screen::Screen;
use crate::words;

/// Commands that `history` shows, besides itself.
const HISTORY_SHOWN: usize = 10;

/// A command of the shell itself: its name, what it takes, and a sentence if Apache's shell does not have it.
type Builtin = (&'static str, &'static str, Option<&'static str>);

const BUILTINS: &[Builtin] = &[
    ("close", "", None),
    ("connect", "host:port", None),
    ("help", "[command]", Some("Tells what the commands take.")),
    ("history", "", None),
    ("printwatches", "on|off", None),
    ("quit", "", None),
    ("redo", "cmdno", None),
];

/// How the shell makes a client.
pub struct Connector {
    /// For each of them.
    pub options: client::Options,
    /// Whether `connect` waits until there is a connection, for the session timeout at most.
    pub wait_for_connection: bool,
}

/// The shell.
pub struct Shell {
    connector: Connector,
    screen: Arc<Screen>,
    out: Output,
    client: Option<Client>,
    host: String,
    history: BTreeMap<usize, String>,
    count: usize,
    exit: u8,
    has_ephemerals: bool,
}

/// Whether there will be another command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    More,
    Quit,
}

impl Shell {
    /// A shell without a session.
    pub fn new(connector: Connector, screen: Arc<Screen>, out: Output) -> Shell {
        Shell {
            connector,
            screen,
            out,
            client: None,
            host: String::new(),
            history: BTreeMap::new(),
            count: 0,
            exit: 0,
            has_ephemerals: false,
        }
    }

    /// The exit code of the last command.
    pub fn exit(&self) -> u8 {
        self.exit
    }

    /// Begins a session with one of the servers of a connection string; the one before is closed.
    pub fn connect(&mut self, host: &str) -> Result<(), Failure> {
        let address = Address::parse(host).map_err(|why| Failure::malformed(format!("{host}: {why}")))?;
        if let Some(mut client) = self.client.take()
            && client.state().is_alive()
        {
            client.close();
        }
        self.host = host.to_owned();
        self.has_ephemerals = false;
        self.screen.forget_connection();
        let options = self.connector.options.clone();
        let patience = Duration::from_millis(options.timeout_ms.max(0) as u64);
        let client = Client::connect(address, options, self.screen.clone());
        self.client = Some(client.map_err(|error| Failure::malformed(format!("{host}: {error}")))?);
        if self.connector.wait_for_connection && !self.screen.wait_for_connection(patience) {
            self.close();
            return Err(Error::Keeper { code: code::CONNECTION_LOSS, path: None }.into());
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(client) = &mut self.client {
            client.close();
        }
    }

    /// Ends the session with the program, without a word. One that has ephemerals is left to expire instead, as
    /// Apache's shell leaves every session that was not told to `quit`: they stay for the session's timeout.
    pub fn finish(&mut self) {
        self.screen.mute();
        if !self.has_ephemerals {
            self.close();
        }
    }

    /// The session's client, while requests of it may be answered at once.
    pub fn connected_client(&self) -> Option<&Client> {
        let is_connected = matches!(self.state(), State::Connected | State::ConnectedReadOnly);
        self.client.as_ref().filter(|_| is_connected)
    }

    /// What stands before the line that is typed, and the colour of its state.
    pub fn prompt(&self) -> (String, String) {
        let state = self.state();
        let color = match state {
            State::Connected => Color::Green,
            State::Connecting | State::ConnectedReadOnly => Color::Yellow,
            State::Closed | State::AuthFailed => Color::Red,
        };
        let prompt = |state: &str| format!("[zk: {}({state}) {}] ", self.host, self.count);
        (prompt(&state.to_string()), prompt(&paint(&state.to_string(), color, true)))
    }

    fn state(&self) -> State {
        self.client.as_ref().map_or(State::Closed, Client::state)
    }

    /// Carries out one line.
    pub fn line(&mut self, line: &str) -> Next {
        let words = words::split(line);
        if words.is_empty() {
            return Next::More;
        }
        self.history.insert(self.count, line.to_owned());
        let next = self.command(&words);
        self.count += 1;
        next
    }

    /// Carries out one command, and remembers its exit code.
    pub fn command(&mut self, words: &[String]) -> Next {
        let result = self.dispatch(words);
        let next = match result {
            Ok(next) => {
                self.exit = if next == Next::Quit { self.exit } else { 0 };
                next
            }
            Err(failure) => {
                self.fail(&failure);
                Next::More
            }
        };
        self.out.finish();
        next
    }

    /// Shows a failure, and remembers its exit code.
    pub fn fail(&mut self, failure: &Failure) {
        self.exit = failure.exit;
        self.out.failure(&failure.text, failure.json());
    }

    fn dispatch(&mut self, words: &[String]) -> Result<Next, Failure> {
        let name = words[0].as_str();
        let command = commands::all().find(|command| command.name == name);
        if command.is_none() && !BUILTINS.iter().any(|(known, ..)| *known == name) {
            self.out.note(usage());
            return Err(Failure::not_found(name));
        }
        let argument = words.get(1).map(String::as_str);
        match (name, argument) {
            ("quit", _) => {
                self.close();
                return Ok(Next::Quit);
            }
            ("redo", Some(number)) => return self.redo(number),
            ("history", _) => self.show_history(),
            ("help", command) => {
                self.help(command)?;
                return Ok(Next::More);
            }
            ("printwatches", None) => {
                let state = if self.screen.prints_watches() { "on" } else { "off" };
                self.out.line(format_args!("printwatches is {state}"));
            }
            ("printwatches", Some(word)) => self.screen.set_prints_watches(word == "on"),
            ("connect", host) => {
                let host = host.map_or_else(|| self.host.clone(), str::to_owned);
                self.connect(&host)?;
            }
            _ => {}
        }
        // Apache's shell says so after a command that needs no session, too.
        if !self.state().is_alive() {
            self.out.line("Not connected");
            self.out.put("notConnected", true);
            return Ok(Next::More);
        }
        match command {
            Some(command) => self.run(command, words)?,
            None if name == "close" => self.close(),
            None => {}
        }
        Ok(Next::More)
    }

    fn run(&mut self, command: &Command, words: &[String]) -> Result<(), Failure> {
        let client = self.client.as_ref().expect("one that is alive is there");
        let mut context =
            Context { client, out: &mut self.out, screen: &self.screen, has_ephemerals: &mut self.has_ephemerals };
        command.run(&mut context, words)
    }

    /// Carries out a command of the history again. It stands in the history in the place of the `redo`.
    fn redo(&mut self, number: &str) -> Result<Next, Failure> {
        let index = decode(number).ok_or_else(|| Failure::malformed(format!("For input string: \"{number}\"")))?;
        let line = usize::try_from(index).ok().filter(|index| *index < self.count);
        let line = line.and_then(|index| self.history.get(&index).cloned());
        let line = line.ok_or_else(|| Failure::malformed("Command index out of range"))?;
        let words = words::split(&line);
        if words.first().is_some_and(|name| name == "redo") {
            return Err(Failure::malformed("No redoing redos"));
        }
        self.history.insert(self.count, line);
        Ok(self.command(&words))
    }

    fn show_history(&mut self) {
        for index in self.count.saturating_sub(HISTORY_SHOWN)..=self.count {
            let line = self.history.get(&index).map_or("null", String::as_str);
            self.out.line(format_args!("{index} - {line}"));
        }
    }

    fn help(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let Some(name) = name else {
            self.out.line(usage());
            self.out.line("\nhelp COMMAND tells more about one of them.");
            return Ok(());
        };
        if let Some(command) = commands::all().find(|command| command.name == name) {
            let usage = Command { explains: true, former: None, ..*command }.usage();
            self.out.line(usage.trim_end());
            if let Some(about) = command.about {
                self.out.line(format_args!("\n{about}"));
            }
            return Ok(());
        }
        let builtin = BUILTINS.iter().find(|(known, ..)| *known == name).ok_or_else(|| Failure::not_found(name))?;
        self.out.line(format_args!("{} {}", builtin.0, builtin.1));
        if let Some(about) = builtin.2 {
            self.out.line(format_args!("\n{about}"));
        }
        Ok(())
    }
}

/// A number as `Integer.decode` reads it: also `0x1f`, `#1f` and `017`.
fn decode(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = ["0x", "0X", "#"].iter().find_map(|prefix| digits.strip_prefix(prefix));
    let value = match (hex, digits.strip_prefix('0').filter(|octal| !octal.is_empty())) {
        (Some(hex), _) => i32::from_str_radix(hex, 16),
        (None, Some(octal)) => i32::from_str_radix(octal, 8),
        (None, None) => digits.parse(),
    };
    value.ok().map(|value| if is_negative { -i64::from(value) } else { value.into() })
}

/// The names of all commands, sorted.
pub fn names() -> Vec<&'static str> {
    let builtins = BUILTINS.iter().map(|(name, ..)| *name);
    let mut names: Vec<&str> = commands::all().map(|command| command.name).chain(builtins).collect();
    names.sort();
    names
}

/// All commands with what they take: first Apache's, line by line as its shell prints them, then the others.
pub fn usage() -> String {
    let commands = commands::all().map(|command| (command.name, command.takes, command.about.is_some()));
    let builtins = BUILTINS.iter().map(|(name, takes, about)| (*name, *takes, about.is_some()));
    let mut all: Vec<_> = commands.chain(builtins).collect();
    all.sort();
    let lines = |is_extra: bool| -> String {
        let chosen = all.iter().filter(|(_, _, extra)| *extra == is_extra);
        chosen.map(|(name, takes, _)| format!("\n\t{name} {takes}")).collect()
    };
    format!(
        "ZooKeeper -server host:port -client-configuration properties-file cmd args{}\n    and, beyond Apache's shell:{}",
        lines(false),
        lines(true)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_java_decodes_them() {
        for (text, number) in
            [("7", Some(7)), ("-1", Some(-1)), ("0x1f", Some(31)), ("017", Some(15)), ("0", Some(0)), ("x", None)]
        {
            assert_eq!(decode(text), number, "{text}");
        }
    }

    #[test]
    fn the_usage_begins_with_apaches() {
        let usage = usage();
        let mut lines = usage.lines();
        assert_eq!(lines.next(), Some("ZooKeeper -server host:port -client-configuration properties-file cmd args"));
        let names: Vec<&str> = lines.by_ref().take(28).map(|line| line.trim().split(' ').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "addWatch",
                "addauth",
                "close",
                "config",
                "connect",
                "create",
                "delete",
                "deleteall",
                "delquota",
                "get",
                "getAcl",
                "getAllChildrenNumber",
                "getEphemerals",
                "history",
                "listquota",
                "ls",
                "printwatches",
                "quit",
                "reconfig",
                "redo",
                "removewatches",
                "set",
                "setAcl",
                "setquota",
                "stat",
                "sync",
                "version",
                "whoami"
            ]
        );
        assert_eq!(lines.next(), Some("    and, beyond Apache's shell:"));
    }
}
