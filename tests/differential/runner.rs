//! Asks two servers the same and compares what they answer, byte for byte but for names that may differ.
//!
//! ```text
//! differential --left HOST:PORT --right HOST:PORT                 a fixed range of seeds, and some fresh ones
//! differential --left … --right … --seeds 0..100000 --fresh 0     longer
//! differential --left … --right … --replay FILE…                  scripts, see script.rs; beside it, what both say
//! ```
//!
//! The left one is the oracle. Both must run alone and on empty directories, allow any number of connections, and know
//! `super:admin` as the super user. Exit code 0: no difference; 1: a difference; 2: wrong usage; 3: a server that cannot be
//! spoken to, or too few requests.

mod generate;
mod plant;
mod random;
mod records;
mod rename;
mod run;
mod script;
mod shrink;

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io, thread};

use clap::Parser;

use crate::plant::Plant;
use crate::rename::{Line, Zxids, difference};
use crate::script::Step;

/// Differences beyond these are not looked into: they are most likely the same ones.
const REPORTS_MAX: usize = 8;

/// How often a script whose zxids are counted must differ again before it is believed.
const RETRIES: usize = 3;

/// How often the left server is asked again whether it may also answer as the right one did.
const LEFT_AGAIN: usize = 6;

/// One script in so many may have an answer of the left server that is chance; if there are more, something else is wrong.
const CHANCE_PART: usize = 50;

#[derive(Parser)]
#[command(about = "Asks two servers the same and compares what they answer")]
struct Options {
    /// The server that is right.
    #[arg(long, value_parser = address)]
    left: SocketAddr,
    /// The server under test.
    #[arg(long, value_parser = address)]
    right: SocketAddr,
    /// Seeds of the scripts.
    #[arg(long, default_value = "0..6000", value_parser = seeds)]
    seeds: Range<u64>,
    /// How many seeds of chance beside them.
    #[arg(long, default_value_t = 300)]
    fresh: u64,
    /// Scripts that run at once.
    #[arg(long, default_value_t = 12)]
    jobs: usize,
    /// Runs these scripts instead, one after the other.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    replay: Vec<PathBuf>,
    /// Prints what the servers answer to a replayed script.
    #[arg(long)]
    show: bool,
    /// Prints the scripts of the seeds, and runs none.
    #[arg(long)]
    print: bool,
    /// Leaves an operation out, as often as needed.
    #[arg(long, value_name = "OPERATION")]
    without: Vec<String>,
    /// Puts a mistake into what the right server answers: it must be found.
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// Fails if fewer requests than these were sent.
    #[arg(long, default_value_t = 0)]
    requests_min: usize,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "no address".to_owned())
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("such as 0..6000")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
    Ok(number(start)?..number(end)?)
}

/// A script to be run.
struct Case {
    name: String,
    steps: Vec<Step>,
    zxids: Zxids,
}

/// The runner: what it speaks to, and what it has found.
struct Runner {
    options: Options,
    /// Roots, so that each run has its own.
    runs: AtomicUsize,
    /// Told apart from the roots of a run before on the same servers.
    first_root: usize,
    requests: AtomicUsize,
    differences: AtomicUsize,
    /// Scripts to which the left server answers now one thing, now another.
    chances: AtomicUsize,
    /// One report at a time.
    report: Mutex<()>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let runner = Runner {
        runs: AtomicUsize::new(0),
        first_root: (now.as_secs() % 1000) as usize * 100_000,
        requests: AtomicUsize::new(0),
        differences: AtomicUsize::new(0),
        chances: AtomicUsize::new(0),
        report: Mutex::new(()),
        options,
    };
    if runner.options.print {
        for seed in runner.options.seeds.clone() {
            println!("# seed {seed}");
            runner.case(seed).steps.iter().for_each(|step| print!("{step}"));
        }
        return ExitCode::SUCCESS;
    }
    let begin = Instant::now();
    let (count, result) =
        if runner.options.replay.is_empty() { runner.generated(now.as_nanos() as u64) } else { runner.replayed() };
    let (requests, differences) = (runner.requests.into_inner(), runner.differences.into_inner());
    let chances = runner.chances.into_inner();
    println!(
        "{count} scripts, {requests} requests to each server, {differences} differences, {chances} answered by chance, \
         {:.0} s",
        begin.elapsed().as_secs_f64()
    );
    if let Err(error) = result {
        eprintln!("differential: {error}");
        return ExitCode::from(3);
    }
    if chances > count.div_ceil(CHANCE_PART) {
        eprintln!("differential: more than one script in {CHANCE_PART} is answered by chance");
        return ExitCode::from(3);
    }
    if requests < runner.options.requests_min {
        eprintln!("differential: fewer than {} requests", runner.options.requests_min);
        return ExitCode::from(3);
    }
    if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Runner {
    fn replayed(&self) -> (usize, Result<(), String>) {
        let files = &self.options.replay;
        let result = files.iter().try_for_each(|file| {
            let name = file.display().to_string();
            let text = fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
            let steps = script::parse(&text).map_err(|error| format!("{name}: {error}"))?;
            // Written by hand or shrunk: nobody is beside it, and nothing is left of the one before.
            let case = Case { name, steps, zxids: if text.contains("# alone") { Zxids::Distance } else { Zxids::Own } };
            if self.options.show {
                let (left, right) = self.both(&case.steps, case.zxids).map_err(|error| error.to_string())?;
                print_both(&case.steps, &left, &right);
            }
            self.check(&case).map_err(|error| format!("{}: {error}", case.name))
        });
        (files.len(), result)
    }

    fn generated(&self, now: u64) -> (usize, Result<(), String>) {
        let mut fresh = random::Random::new(now);
        let fresh: Vec<u64> = (0..self.options.fresh).map(|_| fresh.next()).collect();
        if !fresh.is_empty() {
            println!("fresh seeds: {fresh:?}");
        }
        let seeds: Vec<u64> = self.options.seeds.clone().chain(fresh).collect();
        let (alone, together): (Vec<u64>, Vec<u64>) =
            seeds.iter().partition(|seed| self.case(**seed).zxids == Zxids::Distance);
        // First those that must be alone: nothing of the others, such as a session that expires, may come between.
        let result = self.run_all(&alone, 1).and_then(|()| self.run_all(&together, self.options.jobs));
        (seeds.len(), result)
    }

    fn case(&self, seed: u64) -> Case {
        let generated = generate::script(seed, &self.options.without);
        let steps = script::parse(&generated.text).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let zxids = if generated.tidy { Zxids::Distance } else { Zxids::Own };
        Case { name: format!("seed {seed}"), steps, zxids }
    }

    fn run_all(&self, seeds: &[u64], jobs: usize) -> Result<(), String> {
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.differences.load(Ordering::Relaxed) >= REPORTS_MAX {
                    return;
                }
                if let Err(error) = self.check(&self.case(*seed)) {
                    let mut failed = failed.lock().expect("no one panics with it");
                    failed.get_or_insert(format!("seed {seed}: {error}"));
                    next.store(seeds.len(), Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| (0..jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
        failed.into_inner().expect("no one panics with it").map_or(Ok(()), Err)
    }

    fn check(&self, case: &Case) -> io::Result<()> {
        let (left, right) = self.both(&case.steps, case.zxids)?;
        if difference(&left, &right).is_some() {
            // A session that an earlier script left behind may have run out in between and used up a zxid. That does not
            // happen again and again.
            for _ in 0..if case.zxids == Zxids::Distance { RETRIES } else { 0 } {
                let (left, right) = self.both(&case.steps, case.zxids)?;
                if difference(&left, &right).is_none() {
                    return Ok(());
                }
            }
            // Some answers of an Apache server are chance, such as whether the last reply of a connection that it closes
            // still arrives. It is enough then that it may answer as the right one did.
            for _ in 0..LEFT_AGAIN {
                let (again, _) = self.one(self.options.left, &case.steps, case.zxids)?;
                if difference(&again, &right).is_none() {
                    self.chances.fetch_add(1, Ordering::Relaxed);
                    println!("answered by chance: {}", case.name);
                    return Ok(());
                }
            }
            let _turn = self.report.lock().expect("no one panics with it");
            if self.differences.fetch_add(1, Ordering::Relaxed) < REPORTS_MAX {
                self.report(case, &left, &right);
            }
        }
        Ok(())
    }

    /// What both say to a script.
    fn both(&self, steps: &[Step], zxids: Zxids) -> io::Result<(Vec<Line>, Vec<Line>)> {
        let (left, requests) = self.one(self.options.left, steps, zxids)?;
        let (right, _) = self.one(self.options.right, steps, zxids)?;
        self.requests.fetch_add(requests, Ordering::Relaxed);
        Ok((left, right))
    }

    /// What one server says to a script, and how many requests that were.
    fn one(&self, server: SocketAddr, steps: &[Step], zxids: Zxids) -> io::Result<(Vec<Line>, usize)> {
        let number = self.first_root + self.runs.fetch_add(1, Ordering::Relaxed);
        let root = format!("/d{:08}", number % 100_000_000);
        let mut trace = run::run(server, steps, &root)?;
        if server == self.options.right
            && let Some(plant) = self.options.plant
        {
            plant.apply(&mut trace);
        }
        Ok((rename::lines(&trace, &root, zxids), trace.requests))
    }

    fn report(&self, case: &Case, left: &[Line], right: &[Line]) {
        println!("\n== difference: {}", case.name);
        print_difference(&case.steps, left, right);
        // Beside others zxids cannot be counted exactly, and the others are still running.
        let differs = |steps: &[Step]| {
            self.both(steps, case.zxids).is_ok_and(|(left, right)| difference(&left, &right).is_some())
        };
        let shrunk = shrink::shrink(case.steps.clone(), differs);
        match self.both(&shrunk, case.zxids) {
            Ok((left, right)) if difference(&left, &right).is_some() => {
                println!("-- shrunk; to be replayed with --replay FILE:");
                shrunk.iter().for_each(|step| print!("{step}"));
                print_difference(&shrunk, &left, &right);
            }
            _ => {
                println!("-- it does not show each time, so it cannot be shrunk; to be replayed with --replay FILE:");
                case.steps.iter().for_each(|step| print!("{step}"));
            }
        }
    }
}

fn print_difference(steps: &[Step], left: &[Line], right: &[Line]) {
    let Some((step, left, right)) = difference(left, right) else { return };
    match steps.get(step) {
        Some(step) => print!("-- at: {step}"),
        None => println!("-- at the end"),
    }
    let common: Vec<&Line> = left.iter().filter(|line| right.contains(line)).copied().collect();
    for (side, lines) in [("left ", &left), ("right", &right)] {
        // What both say is left out, if that leaves anything: order alone may be what differs.
        let same_lines = left.len() == right.len() && common.len() == left.len();
        for line in lines.iter().filter(|line| same_lines || !common.contains(line)) {
            println!("{side} {}: {}", rename::cnxn_name(line.cnxn), line.text);
        }
    }
}

fn print_both(steps: &[Step], left: &[Line], right: &[Line]) {
    for index in 0..=steps.len() {
        match steps.get(index) {
            Some(step) => print!("\n{step}"),
            None => println!("\n(the end)"),
        }
        let (left, right): (Vec<_>, Vec<_>) = (of_step(left, index), of_step(right, index));
        if left == right {
            left.iter().for_each(|line| println!("  both  {}: {}", rename::cnxn_name(line.cnxn), line.text));
        } else if left.len() == right.len() {
            for (left, right) in left.iter().zip(right) {
                let cnxn = rename::cnxn_name(left.cnxn);
                if *left == right {
                    println!("  both  {cnxn}: {}", left.text);
                } else {
                    println!("  left  {cnxn}: {}", left.text);
                    println!("  right {}: {}", rename::cnxn_name(right.cnxn), right.text);
                }
            }
        } else {
            left.iter().for_each(|line| println!("  left  {}: {}", rename::cnxn_name(line.cnxn), line.text));
            right.iter().for_each(|line| println!("  right {}: {}", rename::cnxn_name(line.cnxn), line.text));
        }
    }
}

fn of_step(lines: &[Line], step: usize) -> Vec<&Line> {
    lines.iter().filter(|line| line.step == step).collect()
}
