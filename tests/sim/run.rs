//! One run, and the search for less of it that still fails.

use std::cell::RefCell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::options::{Options, SHRINKABLE};
use crate::world::{Counts, Lines, Outcome, World};

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic is a failure of its run, and is told as such.
pub fn keep_panics_quiet() {
    panic::set_hook(Box::new(|info| PANIC.with(|said| *said.borrow_mut() = info.to_string())));
}

/// A planted mistake is the whole process's: whoever tests takes turns.
#[cfg(test)]
pub fn alone() -> impl Drop {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Where the disks of one run are, in memory if that can be had.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ringkeeper-sim-{}-{run}", std::process::id()));
        fs::create_dir_all(&path).expect("the scratch directory can be written to");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs to the end. The lines of what happens go where it is said, up to a panic too.
pub fn run(options: &Options, lines: Option<Lines>) -> Outcome {
    let scratch = Scratch::new();
    let world = AssertUnwindSafe(|| World::new(options, scratch.0.clone(), lines).run());
    panic::catch_unwind(world).unwrap_or_else(|payload| {
        let said = PANIC.with(RefCell::take);
        let said = if said.is_empty() { format!("{:?}", payload.downcast_ref::<String>()) } else { said };
        // `panicked at src/file.rs:1:2:` and, on another line, why.
        let said = said.trim_start_matches("panicked at ").replacen(":\n", ": ", 1);
        Outcome { hash: 0, failure: Some(format!("Assertion at {said}")), counts: Counts::default() }
    })
}

/// What was violated: a failure's first words; of a panic, with the file.
fn property(failure: &str) -> &str {
    failure.split(':').next().unwrap_or_default()
}

/// Leaves out, one after the other, whatever the failure does not need.
pub fn shrink(options: &Options, failure: String) -> (Options, String) {
    let (mut least, mut failure) = (options.clone(), failure);
    loop {
        let before = least.clone();
        for (name, floor) in SHRINKABLE {
            let mut tried = u64::MAX;
            loop {
                let now = least.get(name);
                let candidates = [*floor, floor + now.saturating_sub(*floor) / 2, now.saturating_sub(1)];
                let Some(next) = candidates.into_iter().find(|next| *next >= *floor && *next < now && *next != tried)
                else {
                    break;
                };
                let mut candidate = least.clone();
                candidate.set(name, next).expect("it is one of the names");
                match run(&candidate, None).failure {
                    Some(found) if property(&found) == property(&failure) => (least, failure) = (candidate, found),
                    _ if tried == u64::MAX => tried = next,
                    _ => break,
                }
            }
        }
        if least == before {
            return (least, failure);
        }
    }
}
