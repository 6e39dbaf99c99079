//! `ringkeeper-cli`: Apache's shell, `zkCli.sh`, for any server that speaks the protocol.
//!
//! What it prints is what Apache ZooKeeper 3.9's shell prints, word by word and on the same of the two streams, so
//! that scripts need not know the difference. [`client`] is the connection, [`shell`] the dispatch, [`commands`] what
//! the commands do.

mod client;
mod commands;
mod config;
mod editor;
mod failure;
mod flags;
mod options;
mod output;
mod screen;
mod shell;
mod words;

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use client::Level;
use options::Options;
use output::{Colors, Output};
use screen::Screen;
use shell::{Connector, Next, Shell};

/// The session could not be begun.
const EXIT_FAILED: u8 = 1;
/// The arguments, or the files that they name, cannot be used (`ExitCode.INVALID_INVOCATION`).
const EXIT_INVALID: u8 = 2;
/// What a shell shows for a program that ended by Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;
/// How long the first prompt waits for a connection, so that it can show one.
const FIRST_PROMPT_PATIENCE: Duration = Duration::from_millis(500);
/// Variables whose `-Dkey=value` count, the later one more.
const FLAG_VARIABLES: [&str; 2] = ["JVMFLAGS", "CLIENT_JVMFLAGS"];
/// `off`, `warn` or `info`: what of the client's log is shown.
const LOG_VARIABLE: &str = "RINGKEEPER_CLI_LOG";

fn main() -> ExitCode {
    let (options, complaint) = Options::parse(std::env::args().skip(1));
    if let Some(complaint) = complaint {
        eprintln!("{complaint}");
    }
    let connector = match connector(&options) {
        Ok(connector) => connector,
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::from(EXIT_INVALID);
        }
    };
    let colors = Colors::of_this_process();
    let is_terminal = options.command.is_empty() && io::stdin().is_terminal() && io::stdout().is_terminal();
    let screen = Arc::new(Screen::new(colors, log_level(is_terminal), options.json));
    let out = Output::new(options.json, colors);
    out.line(format_args!("Connecting to {}", options.server));
    let mut shell = Shell::new(connector, Arc::clone(&screen), out);
    if let Err(failure) = end_on_interrupt(&screen).map_err(|error| error.to_string()) {
        eprintln!("Ctrl-C will not be seen: {failure}");
    }
    if let Err(failure) = shell.connect(&options.server) {
        shell.fail(&failure);
        return ExitCode::from(EXIT_FAILED);
    }
    if options.command.is_empty() {
        shell = session(shell, &screen, colors, is_terminal);
    } else {
        shell.command(&options.command);
    }
    shell.finish();
    ExitCode::from(shell.exit())
}

/// Carries out commands from a terminal, or from a pipe.
fn session(mut shell: Shell, screen: &Arc<Screen>, colors: Colors, is_terminal: bool) -> Shell {
    output::print("Welcome to ZooKeeper!\n");
    // There is no JLine here; scripts that wait for one of these lines find it all the same.
    output::print(if is_terminal { "JLine support is enabled\n" } else { "JLine support is disabled\n" });
    if is_terminal {
        screen.wait_for_connection(FIRST_PROMPT_PATIENCE);
        return editor::run(shell, screen, colors).unwrap_or_else(|error| {
            eprintln!("The terminal cannot be used: {error}");
            std::process::exit(EXIT_FAILED.into());
        });
    }
    for line in io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line);
        if shell.line(line.strip_suffix('\r').unwrap_or(&line)) == Next::Quit {
            break;
        }
    }
    shell
}

/// What the options, the file that they name, and the environment say about connections.
fn connector(options: &Options) -> Result<Connector, String> {
    let timeout = &options.timeout;
    let mut client = client::Options {
        timeout_ms: timeout.parse().map_err(|_| format!("-timeout {timeout}: not a number of ms"))?,
        read_only: options.read_only,
        ..client::Options::default()
    };
    for variable in FLAG_VARIABLES {
        let flags = std::env::var(variable).unwrap_or_default();
        config::read_flags(&flags, &mut client).map_err(|why| format!("{variable}: {why}"))?;
    }
    if let Some(file) = &options.client_configuration {
        config::read(file, &mut client)?;
    }
    Ok(Connector { options: client, wait_for_connection: options.wait_for_connection })
}

/// At a terminal the client tells what it does; a script hears of troubles only.
fn log_level(is_terminal: bool) -> Option<Level> {
    match std::env::var(LOG_VARIABLE).as_deref() {
        Ok("off") => None,
        Ok("warn") => Some(Level::Warn),
        Ok("info") => Some(Level::Info),
        _ => Some(if is_terminal { Level::Info } else { Level::Warn }),
    }
}

/// Ctrl-C ends the command that follows events, or else the program. (While a line is being typed it is a key.)
fn end_on_interrupt(screen: &Arc<Screen>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT])?;
    let screen = Arc::clone(screen);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if !screen.interrupt() {
                std::process::exit(EXIT_INTERRUPTED);
            }
        }
    })?;
    Ok(())
}
