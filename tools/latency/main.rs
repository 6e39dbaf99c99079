//! `ringkeeper-latency`: load and latency of any server that speaks ZooKeeper's client protocol.
//!
//! One thread drives all connections, so that the server keeps the other cores: requests are templates patched in
//! place ([`request`]), a connection's replies are checked where they were read ([`connection`]), and one wake-up of a
//! connection costs one read and one write ([`worker`]). [`mod@load`] is a run from beginning to end.

#[cfg(test)]
mod behaviour;
mod clock;
mod connection;
mod dial;
mod during;
mod fanout;
mod faults;
mod link;
mod live;
mod load;
mod options;
mod pipe;
mod plot;
mod probe;
mod progress;
mod recorder;
mod report;
mod request;
mod results;
mod schedule;
mod sessions;
#[cfg(test)]
mod sink;
mod sweep;
mod timeline;
mod worker;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use options::{Command, LoadOptions, Options, PlotOptions, ProbeOptions};
use results::{Results, Run};
use ringkeeper::server::limits;

/// Something was measured, but replies were wrong or connections were lost.
const EXIT_FAULTS: u8 = 1;
/// Nothing was measured.
const EXIT_ERROR: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    limits::raise_open_files_max();
    let result = match &options.command {
        Some(Command::Probe(options)) => probe(options),
        Some(Command::Plot(options)) => plot(options),
        None => load(&options.load),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ringkeeper-latency: {error}");
        ExitCode::from(EXIT_ERROR)
    })
}

fn load(options: &LoadOptions) -> Result<ExitCode, Box<dyn Error>> {
    options.check()?;
    let (results, is_clean) = match options.sweep {
        Some(by) => {
            let sweep = sweep::run(options, by)?;
            print!("{}", report::sweep_text(&sweep));
            let is_clean = sweep.steps.iter().all(Run::is_clean);
            (Results::Sweep(sweep), is_clean)
        }
        None => {
            let outcome = load::run(options)?;
            let run = Run::new(options, &outcome);
            print!("{}", report::text(&run));
            write(options.hgrm.as_deref(), || report::hgrm(&outcome.summary.total()))?;
            write(options.timeseries.as_deref(), || report::timeseries(&run))?;
            let is_clean = run.is_clean();
            (Results::Run(Box::new(run)), is_clean)
        }
    };
    write(options.json.as_deref(), || results::to_json(&results))?;
    if is_clean {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("ringkeeper-latency: replies were wrong or connections were lost: see faults");
    Ok(ExitCode::from(EXIT_FAULTS))
}

fn plot(options: &PlotOptions) -> Result<ExitCode, Box<dyn Error>> {
    for file in plot::run(options)? {
        println!("{}", file.display());
    }
    Ok(ExitCode::SUCCESS)
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
