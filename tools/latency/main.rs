//! `ringkeeper-latency`: load and latency of any server that speaks ZooKeeper's client protocol.
//!
//! One thread drives all connections, so that the server keeps the other cores: requests are templates patched in
//! place ([`request`]), a connection's replies are checked where they were read ([`connection`]), and one wake-up of a
//! connection costs one read and one write ([`worker`]). [`mod@load`] is a run from beginning to end.

mod clock;
mod connection;
mod dial;
mod faults;
mod json;
mod load;
mod options;
mod probe;
mod recorder;
mod report;
mod request;
mod schedule;
#[cfg(test)]
mod sink;
mod worker;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use options::{Command, LoadOptions, Options, ProbeOptions};

/// Something was measured, but replies were wrong or connections were lost.
const EXIT_FAULTS: u8 = 1;
/// Nothing was measured.
const EXIT_ERROR: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        Some(Command::Probe(options)) => probe(options),
        None => load(&options.load),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ringkeeper-latency: {error}");
        ExitCode::from(EXIT_ERROR)
    })
}

fn load(options: &LoadOptions) -> Result<ExitCode, Box<dyn Error>> {
    let outcome = load::run(options)?;
    print!("{}", report::text(options, &outcome));
    write(options.json.as_deref(), || report::json(options, &outcome))?;
    write(options.hgrm.as_deref(), || report::hgrm(&outcome))?;
    write(options.timeseries.as_deref(), || report::timeseries(&outcome))?;
    if outcome.faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("ringkeeper-latency: replies were wrong or connections were lost: see faults");
    Ok(ExitCode::from(EXIT_FAULTS))
}

fn probe(options: &ProbeOptions) -> Result<ExitCode, Box<dyn Error>> {
    let floor = probe::run(options)?;
    print!("{}", probe::text(options, &floor));
    write(options.json.as_deref(), || probe::json(options, &floor))?;
    Ok(ExitCode::SUCCESS)
}

fn write(file: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), String> {
    file.map_or(Ok(()), |file| fs::write(file, text()).map_err(|error| format!("{}: {error}", file.display())))
}
