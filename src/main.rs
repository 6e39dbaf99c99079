//! The `ringkeeper` command: arguments to a configuration to a running server to an exit code.

mod ring;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Parser as _;
use ringkeeper::server::cli::{self, Cli, Console, Outcome};
use ringkeeper::server::config::{Config, Environment, TraceFormat};
use ringkeeper::server::panics;
use ringkeeper::server::run::{self, Stop};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

/// Trees are many small allocations, and a reply's memory may be freed by another shard than the one that got it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(code) => code.into(),
        Err(error) => {
            // There may be nobody to tell, as in `ringkeeper version 2>&1 | true`.
            let _ = writeln!(std::io::stderr(), "{error}");
            1.into()
        }
    }
}

fn start(cli: &Cli) -> Result<u8, Box<dyn std::error::Error>> {
    let environment = Environment::of_this_process()?;
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut console = Console { out: &mut out, err: &mut err };
    let path = match cli::run(cli, &environment, &mut console)? {
        Outcome::Exit(code) => return Ok(code),
        Outcome::Serve(path) => path,
    };
    let loaded = match Config::load(&path, &environment) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(cli::config_failure(&error, &mut console)?),
    };
    let config = loaded.config;
    let Ok(filter) = EnvFilter::try_new(&config.trace_filter) else {
        eprintln!("{}: ringkeeper.logLevel = {}: no level or filter", path.display(), config.trace_filter);
        return Ok(2);
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        // A log that nobody reads any more is no reason to end, as it would be: the complaint goes to stderr, by a macro
        // that panics.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stdout()));
    match config.trace_format {
        TraceFormat::Text => subscriber.init(),
        TraceFormat::Json => subscriber.json().init(),
    }
    panics::end_the_process();
    tracing::info!("Reading configuration from: {}", path.display());
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    // The allocator asks for huge pages. One is cleared as a whole when it is touched first, which keeps a shard for
    // milliseconds where a host has to find the memory, and half of it may never be used.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!("Huge pages stay on, at the cost of memory and of pauses: {error}");
    }
    if config.spin_before_park.is_none_or(|spin| spin == Duration::ZERO) {
        ring::leave_uninterrupted();
    }
    let (stopper, stop) = mpsc::channel();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let serving = Arc::new(AtomicBool::new(false));
    let (on_signal, serves) = (stopper.clone(), Arc::clone(&serving));
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // Until then it waits for a port or reads its log, and there is nothing to put in order.
            if !serves.load(Ordering::Acquire) {
                tracing::info!("Asked to stop while it starts");
                tracing::info!("Exiting normally");
                std::process::exit(0);
            }
            drop(on_signal.send(Stop::Signal(signal)));
        }
    })?;
    match run::run(&config, &stop, &stopper, &serving) {
        Ok(()) => {
            tracing::info!("Exiting normally");
            Ok(0)
        }
        Err(error) => {
            tracing::error!("{error}");
            tracing::error!("Exiting with code {}", error.exit_code());
            Ok(error.exit_code())
        }
    }
}
