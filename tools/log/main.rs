//! `ringkeeper-log`: looks into transaction logs, ringkeeper's and Apache's, and mends them.

mod apache;
mod convert;
mod dump;
mod filter;
mod follow;
#[path = "../offline/mod.rs"]
mod offline;
mod options;
mod repair;
mod stats;
mod text;
mod verify;
mod when;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use offline::Verdict;
use options::{Command, Options};

fn main() -> ExitCode {
    offline::finish("ringkeeper-log", run(&Options::parse()))
}

fn run(options: &Options) -> Result<Verdict, Box<dyn Error>> {
    match &options.command {
        Command::Dump(options) => dump::run(options),
        Command::Verify(options) => verify::run(options),
        Command::Stats(options) => stats::run(options),
        Command::Repair(options) => repair::run(options),
        Command::Convert(options) => convert::run(options),
    }
}
