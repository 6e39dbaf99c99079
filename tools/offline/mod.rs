//! What the tools that look into files have in common: output, progress, times and exit codes.

pub mod output;
pub mod progress;
pub mod times;

use std::error::Error;
use std::io;
use std::process::ExitCode;

/// What a tool came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Exit code 0.
    Fine,
    /// Exit code 1: damage, differences, or something left undone.
    Found,
}

/// Exit code 2.
const COULD_NOT_RUN: u8 = 2;

/// Ends a program: the verdict, or the error in words, as an exit code.
pub fn finish(name: &str, result: Result<Verdict, Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Found) => ExitCode::from(1),
        // Who reads the output has seen enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
