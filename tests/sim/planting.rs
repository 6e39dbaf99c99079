//! The simulator, tested: mistakes of the past are planted, and must be found.

use ringkeeper::planted::{self, Bug};

use crate::options::Options;
use crate::run;

/// The mistake of that name.
pub fn named(name: &str) -> Option<Bug> {
    Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
}

/// Runs with a mistake. What was found, if it was.
pub fn run_with(bug: Bug, options: &Options) -> Option<String> {
    planted::plant(Some(bug));
    let failure = run::run(options, false).failure;
    planted::plant(None);
    failure
}

/// Looks for each mistake in the same seeds, and prints what was found with which.
pub fn print_table(bugs: &[Bug], seeds: u64) {
    for bug in bugs {
        let found = (0..seeds).find_map(|seed| Some((seed, run_with(*bug, &Options::of(seed))?)));
        match found {
            Some((seed, failure)) => println!("{bug:?} seed={seed} # {failure}"),
            None => println!("# {bug:?} is not found in {seeds} seeds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each mistake the first seed from 0 on that finds it.
    const FOUND: &str = include_str!("planted");

    #[test]
    fn each_planted_mistake_is_found() {
        let _alone = run::alone();
        run::keep_panics_quiet();
        let mut bugs = 0;
        for line in FOUND.lines().filter(|line| !line.starts_with('#')) {
            let (name, options) =
                line.split('#').next().and_then(|line| line.split_once(' ')).expect("a name and a seed");
            let bug = named(name).unwrap_or_else(|| panic!("{name} is no mistake"));
            let options = Options::parse(options).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(run_with(bug, &options).is_some(), "{name} is not found with '{options}'");
            assert!(run::run(&options, false).failure.is_none(), "'{options}' fails without {name} too");
            bugs += 1;
        }
        assert!(bugs >= 20, "{bugs} mistakes");
    }
}
