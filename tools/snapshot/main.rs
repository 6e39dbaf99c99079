//! `ringkeeper-snapshot`: looks into snapshots, which are the same for ringkeeper and Apache.

mod at;
mod compare;
mod comparer;
mod convert;
mod dump;
#[path = "../offline/mod.rs"]
mod offline;
mod options;
mod summary;
mod verify;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use offline::Verdict;
use options::{Command, Options};

fn main() -> ExitCode {
    offline::finish("ringkeeper-snapshot", run(&Options::parse()))
}

fn run(options: &Options) -> Result<Verdict, Box<dyn Error>> {
    match &options.command {
        Command::Dump(options) => dump::run(options),
        Command::Verify(options) => verify::run(options),
        Command::Summary(options) => summary::run(options),
        Command::Compare(options) if options.apache => comparer::run(options),
        Command::Compare(options) => compare::run(options),
        Command::Convert(options) => convert::run(options),
        Command::At(options) => at::run(options),
    }
}
