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
            Some((seed, failure)) => println!("{bug:?} # {failure}, seed {seed}"),
            None => println!("# {bug:?} is not found in {seeds} seeds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mistakes that are found, each within this many seeds.
    const FOUND: &str = include_str!("planted");
    const WITHIN: u64 = 100;

    #[test]
    fn each_planted_mistake_is_found() {
        let _alone = run::alone();
        run::keep_panics_quiet();
        let bugs: Vec<Bug> = FOUND
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                named(line.split(' ').next().expect("a name")).unwrap_or_else(|| panic!("{line} is no mistake"))
            })
            .collect();
        assert!(bugs.len() >= 20, "{} mistakes", bugs.len());
        for bug in bugs {
            let seed = (0..WITHIN).find(|seed| run_with(bug, &Options::of(*seed)).is_some());
            let seed = seed.unwrap_or_else(|| panic!("{bug:?} is not found within {WITHIN} seeds"));
            let without = run::run(&Options::of(seed), false).failure;
            assert!(without.is_none(), "seed {seed} fails without {bug:?} too: {without:?}");
        }
    }
}
