//! A whole ensemble in one thread, from one seed: the server's own core with simulated time, network, disks and clients, and
//! with every fault that machines have. `checker.rs` says what must hold.
//!
//! ```text
//! sim --seed 7                       one run; --log shows what happened, line by line
//! sim --options 'seed=7 kills=0'     the same with other options; a failure prints them
//! sim --seeds 1000                   so many runs, from a seed of chance on (or --from), on all cores
//! sim --minutes 4                    as many as fit
//! sim --seed 7 --shrink              a failing run with less of everything that does not matter
//! ```
//!
//! Exit code 0: everything held; 1: something did not.

#[path = "../differential/random.rs"]
#[allow(dead_code)] // The differential test draws bytes.
mod random;

mod checker;
mod client;
mod damage;
mod disk;
mod faults;
mod model;
mod network;
mod options;
mod peers;
#[cfg(debug_assertions)]
mod planting;
mod port;
mod power;
mod run;
mod server;
mod upkeep;
mod world;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::options::Options;
use crate::world::{Counts, Lines};

/// Failures beyond these are most likely the same ones.
const REPORTS_MAX: u64 = 5;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "Simulates ensembles with faults, and checks what they promise")]
struct Arguments {
    /// Runs this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs with these options, such as 'seed=7 voters=3 kills=0'.
    #[arg(long)]
    options: Option<String>,
    /// Runs so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them; one of chance if it is not given.
    #[arg(long)]
    from: Option<u64>,
    /// Runs seeds for so long.
    #[arg(long)]
    minutes: Option<f64>,
    /// Looks for the least that still fails.
    #[arg(long)]
    shrink: bool,
    /// Prints what happens.
    #[arg(long)]
    log: bool,
    /// Plants each mistake that the simulator is tested with, or only --plant, and looks for it in so many seeds.
    #[cfg(debug_assertions)]
    #[arg(long)]
    planted: Option<u64>,
    /// Plants this mistake.
    #[cfg(debug_assertions)]
    #[arg(long)]
    plant: Vec<String>,
    /// Runs at once; one for each core if it is not given.
    #[arg(long)]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run::keep_panics_quiet();
    let one = match (&arguments.options, arguments.seed) {
        (Some(text), _) => match Options::parse(text) {
            Ok(options) => Some(options),
            Err(error) => {
                eprintln!("sim: {error}");
                return ExitCode::from(2);
            }
        },
        (None, Some(seed)) => Some(Options::of(seed)),
        (None, None) => None,
    };
    #[cfg(debug_assertions)]
    {
        let mut bugs = Vec::new();
        for name in &arguments.plant {
            let Some(bug) = planting::named(name) else {
                eprintln!("sim: {name} is none of {:?}", ringkeeper::planted::Bug::ALL);
                return ExitCode::from(2);
            };
            bugs.push(bug);
        }
        if let Some(seeds) = arguments.planted {
            planting::print_table(if bugs.is_empty() { &ringkeeper::planted::Bug::ALL } else { &bugs }, seeds);
            return ExitCode::SUCCESS;
        }
        ringkeeper::planted::plant(bugs.first().copied());
    }
    match one {
        Some(options) => run_one(&options, &arguments),
        None => run_many(&arguments),
    }
}

fn run_one(options: &Options, arguments: &Arguments) -> ExitCode {
    let lines = Lines::default();
    let outcome = run::run(options, arguments.log.then(|| Rc::clone(&lines)));
    for line in lines.take() {
        println!("{line}");
    }
    println!("{options}: trace {:016x}, {}", outcome.hash, summary(1, &outcome.counts));
    let Some(failure) = outcome.failure else { return ExitCode::SUCCESS };
    println!("FAILED {failure}");
    if arguments.shrink {
        let (least, failure) = run::shrink(options, failure);
        println!("shrunk to '{least}': {failure}");
    }
    ExitCode::FAILURE
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let first = arguments.from.unwrap_or(since_1970.as_nanos() as u64 >> 10 & 0xffff_ffff);
    let count = arguments.seeds.unwrap_or(if arguments.minutes.is_some() { u64::MAX } else { 100 });
    let end = arguments.minutes.map(|minutes| begin + Duration::from_secs_f64(minutes * 60.0));
    let jobs = arguments.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let (next, failures, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new((0u64, Counts::default(), begin));
    println!("seeds from {first} on, {jobs} at a time");
    let work = || {
        while !done.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            let options = Options::of(first.wrapping_add(at));
            let outcome = run::run(&options, None);
            if let Some(failure) = outcome.failure {
                println!("FAILED sim --options '{options}' : {failure}");
                if arguments.shrink {
                    let (least, failure) = run::shrink(&options, failure);
                    println!("shrunk to sim --options '{least}' : {failure}");
                }
                if failures.fetch_add(1, Ordering::Relaxed) + 1 >= REPORTS_MAX {
                    done.store(true, Ordering::Relaxed);
                }
            }
            let mut total = total.lock().expect("nobody panics with it");
            total.0 += 1;
            total.1.add(&outcome.counts);
            if total.2.elapsed() > PROGRESS_INTERVAL {
                total.2 = Instant::now();
                println!("{:.0} s: {}", begin.elapsed().as_secs_f64(), summary(total.0, &total.1));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let (runs, counts, _) = total.into_inner().expect("nobody panics with it");
    let failures = failures.into_inner();
    println!("{:.0} s: {}; {failures} failures", begin.elapsed().as_secs_f64(), summary(runs, &counts));
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(runs: u64, counts: &Counts) -> String {
    format!(
        "{runs} runs, {:.1} simulated hours, {} crashes, {} stops, {} damages, {} of them found, {} logs converted, \
         {} leaders, {} snapshots sent, {} times the log, {} configurations, {} transactions, \
         {} replies checked",
        counts.simulated_ms as f64 / 3_600_000.0,
        counts.crashes,
        counts.stops,
        counts.damages,
        counts.set_aside,
        counts.converts,
        counts.elections,
        counts.snapshots_sent,
        counts.logs_sent,
        counts.reconfigs,
        counts.committed,
        counts.replies
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs that have failed once, one a line: what a failure prints, and behind `#` what it was.
    const REGRESSIONS: &str = include_str!("regressions");

    fn check(options: &Options) -> u64 {
        let _alone = run::alone();
        let outcome = run::run(options, None);
        if let Some(failure) = outcome.failure {
            panic!("sim --options '{options}' --log: {failure}");
        }
        outcome.hash
    }

    #[test]
    fn what_has_failed_once_holds() {
        run::keep_panics_quiet();
        for line in REGRESSIONS.lines() {
            let options = line.split('#').next().unwrap_or_default().trim();
            if !options.is_empty() {
                check(&Options::parse(options).unwrap_or_else(|error| panic!("{line}: {error}")));
            }
        }
    }

    #[test]
    fn a_few_seeds_hold() {
        run::keep_panics_quiet();
        for seed in 0..12 {
            check(&Options::of(seed));
        }
    }

    /// What is damaged is found, or was not needed, and stopping by itself is no fault.
    #[test]
    fn damaged_servers_heal_and_servers_stop() {
        run::keep_panics_quiet();
        let _alone = run::alone();
        let mut counts = Counts::default();
        for seed in 0..10 {
            let options =
                Options::parse(&format!("seed={seed} voters=3 damages=4 stops=3 reconfigs=0")).expect("options");
            let outcome = run::run(&options, None);
            assert_eq!(outcome.failure, None, "{options}");
            counts.add(&outcome.counts);
        }
        assert!(counts.set_aside > 0 && counts.set_aside < counts.damages && counts.stops > 0, "{counts:?}");
    }

    /// Apache's log leads to the same, alone or beside the server's own.
    #[test]
    fn converted_logs_are_as_good() {
        run::keep_panics_quiet();
        let _alone = run::alone();
        let mut counts = Counts::default();
        for seed in 0..10 {
            let options = Options::parse(&format!("seed={seed} damages=0 converts=60")).expect("options");
            let outcome = run::run(&options, None);
            assert_eq!(outcome.failure, None, "{options}");
            counts.add(&outcome.counts);
        }
        assert!(counts.converts > 10, "{counts:?}");
    }

    #[test]
    fn the_same_seed_is_the_same_run() {
        run::keep_panics_quiet();
        for seed in [3, 1_000_003] {
            let options = Options::of(seed);
            assert_eq!(check(&options), check(&options), "{options}");
        }
        assert_ne!(check(&Options::of(3)), check(&Options::of(4)));
    }
}
