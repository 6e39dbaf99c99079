//! The command line: zkServer.sh's verbs with its texts and exit codes, and `check-config`.
//!
//! Verbs write to a [`Console`] and return an exit code, so that tests can read what they say. The one verb that is
//! not carried out here is `start-foreground`: it comes back as [`Outcome::Serve`].

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::server::config::{Config, ConfigError, Environment, Loaded, Outline, allowed_cores, check_data_dirs};
use crate::server::placement;

mod daemon;
mod purge;
mod status;

/// What `version` prints.
pub const VERSION_LINE: &str =
    concat!("ringkeeper, version ", env!("CARGO_PKG_VERSION"), " (compatible with Apache ZooKeeper 3.9.5)");

/// Exit code for what went well.
pub const EXIT_OK: u8 = 0;
/// Exit code for an unexpected error, and of zkServer.sh for any failure.
pub const EXIT_FAILURE: u8 = 1;

/// The arguments of the program.
#[derive(Debug, Parser)]
#[command(name = "ringkeeper", version, about = "A drop-in replacement for an Apache ZooKeeper server.")]
pub struct Cli {
    /// Directory of the configuration file (default: the variable ZOOCFGDIR)
    #[arg(long, value_name = "DIR", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Verb {
    /// Start a server in the background
    Start(File),
    /// Run a server until it is told to stop
    StartForeground(File),
    /// Stop the server that start has started
    Stop(File),
    /// Stop, then start
    Restart(File),
    /// Ask the server for its mode
    Status(File),
    /// Print the version
    Version,
    /// Print the command that start would run
    PrintCmd(File),
    /// Check a configuration and print what it comes to
    CheckConfig(File),
    /// Remove the snapshots and logs that no start needs any more, as PurgeTxnLog and zkCleanup.sh do
    Purge(purge::Arguments),
}

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
struct File {
    /// Configuration file: a path, or a name in the configuration directory [default: zoo.cfg]
    #[arg(value_name = "CONFIG")]
    name: Option<String>,
}

/// Where verbs write.
pub struct Console<'a> {
    /// Results: standard output.
    pub out: &'a mut dyn Write,
    /// Remarks: standard error.
    pub err: &'a mut dyn Write,
}

/// What remains for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit with this code.
    Exit(u8),
    /// Run a server with this configuration file, and exit with its code.
    Serve(PathBuf),
}

/// Carries out the verb.
///
/// Errors: the console cannot be written to. Everything else is said on the console, and the exit code tells it.
pub fn run(cli: &Cli, environment: &Environment, console: &mut Console<'_>) -> io::Result<Outcome> {
    let file = match &cli.verb {
        Verb::Version => {
            writeln!(console.out, "{VERSION_LINE}")?;
            return Ok(Outcome::Exit(EXIT_OK));
        }
        Verb::Purge(arguments) => return purge::purge(arguments, console).map(Outcome::Exit),
        Verb::Start(file)
        | Verb::StartForeground(file)
        | Verb::Stop(file)
        | Verb::Restart(file)
        | Verb::Status(file)
        | Verb::PrintCmd(file)
        | Verb::CheckConfig(file) => file,
    };
    let path = match environment.locate(file.name.as_deref(), cli.config.as_deref()) {
        Ok(path) => path,
        Err(error) => return config_failure(&error, console).map(Outcome::Exit),
    };
    writeln!(console.err, "Using config: {}", path.display())?;
    if let Verb::StartForeground(_) = cli.verb {
        return Ok(Outcome::Serve(path));
    }
    if let Verb::CheckConfig(_) = cli.verb {
        return check_config(&path, environment, console).map(Outcome::Exit);
    }
    let outline = match Outline::read(&path) {
        Ok(outline) => outline,
        Err(error) => return config_failure(&error, console).map(Outcome::Exit),
    };
    let site = Site::new(path, outline, environment);
    let code = match cli.verb {
        Verb::Start(_) => daemon::start(&site, console)?,
        Verb::Stop(_) => daemon::stop(&site, console)?,
        Verb::Restart(_) => match daemon::stop(&site, console)? {
            EXIT_OK => daemon::start(&site, console)?,
            failure => failure,
        },
        Verb::Status(_) => status::status(&site.outline, console)?,
        Verb::PrintCmd(_) => {
            writeln!(console.out, "{}", site.command_line())?;
            EXIT_OK
        }
        Verb::StartForeground(_) | Verb::CheckConfig(_) | Verb::Purge(_) | Verb::Version => {
            unreachable!("returned above")
        }
    };
    Ok(Outcome::Exit(code))
}

/// Apache's line for any configuration error, then the error itself; the exit code for both.
pub fn config_failure(error: &ConfigError, console: &mut Console<'_>) -> io::Result<u8> {
    writeln!(console.err, "Invalid config, exiting abnormally")?;
    writeln!(console.err, "{error}")?;
    Ok(ConfigError::EXIT_CODE)
}

fn check_config(path: &Path, environment: &Environment, console: &mut Console<'_>) -> io::Result<u8> {
    let Loaded { config, warnings } = match Config::load(path, environment) {
        Ok(loaded) => loaded,
        Err(error) => return config_failure(&error, console),
    };
    for warning in &warnings {
        writeln!(console.err, "WARN {warning}")?;
    }
    // The file may be meant for another machine, so this is no reason to call it wrong.
    if let Err(error) = check_data_dirs(&config) {
        writeln!(console.err, "WARN {error}")?;
    }
    for line in config.effective() {
        write!(console.out, "{} = {}", line.key, line.value)?;
        match &line.place {
            Some(place) => writeln!(console.out, " ({place})")?,
            None => writeln!(console.out, " (default)")?,
        }
    }
    let cores = allowed_cores()?;
    match placement::plan(&cores, &config.overrides()) {
        Ok(plan) => writeln!(console.out, "{plan}")?,
        Err(error) => {
            writeln!(console.err, "Invalid config, exiting abnormally")?;
            writeln!(console.err, "{}: {error}", path.display())?;
            return Ok(ConfigError::EXIT_CODE);
        }
    }
    let count = match warnings.len() {
        1 => "1 warning".to_string(),
        count => format!("{count} warnings"),
    };
    writeln!(console.out, "The configuration is valid, {count}.")?;
    Ok(EXIT_OK)
}

/// The files around one configured server.
struct Site<'a> {
    environment: &'a Environment,
    /// Configuration file, with a `/` in it.
    path: PathBuf,
    outline: Outline,
    /// `ZOOPIDFILE`, or `<dataDir>/zookeeper_server.pid`; `None` without either.
    pid_file: Option<PathBuf>,
    /// `<ZOO_LOG_DIR>/zookeeper-<user>-server-<host>.out`
    console_log: PathBuf,
}

impl<'a> Site<'a> {
    fn new(path: PathBuf, outline: Outline, environment: &'a Environment) -> Site<'a> {
        let pid_file = match environment.get("ZOOPIDFILE") {
            Some(file) => Some(PathBuf::from(file)),
            None => outline.data_dir().map(|dir| dir.join("zookeeper_server.pid")),
        };
        // Without a slash the name would be looked for again by the server that is started.
        let bare = path.parent().is_some_and(|dir| dir.as_os_str().is_empty());
        Site {
            environment,
            path: if bare { Path::new(".").join(path) } else { path },
            outline,
            pid_file,
            console_log: console_log(environment),
        }
    }

    /// What `start` runs, as a line for a shell.
    fn command_line(&self) -> String {
        format!(
            "\"{}\" \"start-foreground\" \"{}\" &>\"{}\" </dev/null",
            self.environment.program.display(),
            self.path.display(),
            self.console_log.display()
        )
    }
}

fn console_log(environment: &Environment) -> PathBuf {
    let log_dir = match environment.get("ZOO_LOG_DIR") {
        Some(dir) => PathBuf::from(dir),
        // As laid out by a package: bin/, conf/ and logs/ side by side.
        None => match environment.program.parent() {
            Some(dir) if dir.file_name() == Some("bin".as_ref()) => dir.with_file_name("logs"),
            _ => PathBuf::from("./logs"),
        },
    };
    let user = environment.get("USER").or_else(|| environment.get("LOGNAME"));
    let user = user.map_or_else(|| rustix::process::getuid().as_raw().to_string(), str::to_string);
    let host = match environment.get("HOSTNAME") {
        Some(host) => host.to_string(),
        None => {
            let system = rustix::system::uname();
            system.nodename().to_string_lossy().into_owned()
        }
    };
    log_dir.join(format!("zookeeper-{user}-server-{host}.out"))
}

#[cfg(test)]
mod tests;
