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
    let failure = run::run(options, None).failure;
    planted::plant(None);
    failure
}

/// The first of so many seeds that finds a mistake, and what it found: each as it is, and without what waits for moments that
/// matter.
fn find(bug: Bug, seeds: u64) -> Option<(Options, String)> {
    let mut both = (0..seeds).flat_map(|seed| [Options::of(seed), Options::unhurried(seed)]);
    both.find_map(|options| run_with(bug, &options).map(|failure| (options, failure)))
}

/// Looks for each mistake in the same seeds, and prints what was found with which.
pub fn print_table(bugs: &[Bug], seeds: u64) {
    for bug in bugs {
        match find(*bug, seeds) {
            Some((options, failure)) => println!("{bug:?} # {failure}, {options}"),
            None => println!("# {bug:?} is not found in {seeds} seeds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::world::Lines;

    /// Mistakes that are found, each within this many seeds.
    const FOUND: &str = include_str!("planted");
    const WITHIN: u64 = 150;

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
            let found = find(bug, WITHIN);
            let (options, _) = found.unwrap_or_else(|| panic!("{bug:?} is not found within {WITHIN} seeds"));
            let without = run::run(&options, None).failure;
            assert!(without.is_none(), "{options} fails without {bug:?} too: {without:?}");
        }
    }

    /// What an assertion of the server ends is a failure like any other: told with where it was and what happened before.
    #[test]
    fn a_panic_is_a_failure_with_its_log() {
        let _alone = run::alone();
        run::keep_panics_quiet();
        planted::plant(Some(Bug::TailDroppedAtEnd));
        let runs = (0..WITHIN).map(|seed| {
            let lines = Lines::default();
            let failure = run::run(&Options::of(seed), Some(Rc::clone(&lines))).failure;
            (failure.unwrap_or_default(), lines.take())
        });
        let found = runs.into_iter().find(|(failure, _)| failure.starts_with("Assertion at src/"));
        planted::plant(None);
        let (failure, lines) = found.expect("the mistake breaks an assertion");
        assert!(failure.contains("has applied what is in the log"), "{failure}");
        assert!(lines.iter().any(|line| line.contains("looks for a leader")), "{} lines", lines.len());
    }
}
