//! The live line on a terminal: how far it is, how much is done in a second, and the slowest of it.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::live::Live;
use crate::options::LoadOptions;
use crate::report::thousands;

/// How often the line is drawn anew. Seldom: what draws takes time from what is measured.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// A progress line for as long as this lives; nothing at all if standard error is not a terminal.
pub struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

/// What the bar shows.
enum Goal {
    /// Time; in milliseconds.
    Time { warmup_ms: u64, whole_ms: u64 },
    /// Completions.
    Operations(u64),
}

impl Progress {
    /// Of a warm-up and a measurement.
    pub fn of_measurement(label: &str, live: Arc<Live>, options: &LoadOptions) -> Progress {
        let goal = match (options.duration_ns(), options.count) {
            (Some(ns), _) => {
                let warmup_ms = options.warmup_ns() / 1_000_000;
                Goal::Time { warmup_ms, whole_ms: warmup_ms + ns / 1_000_000 }
            }
            (None, count) => Goal::Operations(count.unwrap_or_else(|| options.keys().into())),
        };
        Progress::start(format!("{label}{}", options.op.name()), live, goal)
    }

    /// Of the work around a measurement.
    pub fn of_bulk(label: &str, live: Arc<Live>, operations: u64) -> Progress {
        if label.is_empty() {
            Progress(None)
        } else {
            Progress::start(label.to_owned(), live, Goal::Operations(operations))
        }
    }

    fn start(label: String, live: Arc<Live>, goal: Goal) -> Progress {
        if !stderr().is_terminal() {
            return Progress(None);
        }
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let bar = ProgressBar::new(match goal {
                Goal::Time { whole_ms, .. } => whole_ms,
                Goal::Operations(operations) => operations,
            });
            let style =
                ProgressStyle::with_template("{prefix:>16} {bar:20} {wide_msg}").expect("the template is valid");
            bar.set_style(style);
            bar.set_prefix(label);
            let begin = Instant::now();
            let (mut before, mut last) = (begin, 0);
            while stopped.recv_timeout(DRAW_EVERY) == Err(RecvTimeoutError::Timeout) {
                let (completed, slowest_ns) = live.look();
                let now = Instant::now();
                let rate = (completed - last) as f64 / (now - before).as_secs_f64();
                (before, last) = (now, completed);
                let elapsed_ms = begin.elapsed().as_millis() as u64;
                let warming = match goal {
                    Goal::Time { warmup_ms, whole_ms } => {
                        bar.set_position(elapsed_ms.min(whole_ms));
                        elapsed_ms < warmup_ms
                    }
                    Goal::Operations(_) => {
                        bar.set_position(completed);
                        false
                    }
                };
                bar.set_message(message(elapsed_ms, rate, slowest_ns, warming));
            }
            bar.finish_and_clear();
        });
        Progress(Some((stop, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // It has nothing to say but the line.
            let _ = thread.join();
        }
    }
}

fn message(elapsed_ms: u64, rate: f64, slowest_ns: u64, warming: bool) -> String {
    let slowest = if slowest_ns > 0 { format!("   slowest {:.1} ms", slowest_ns as f64 / 1e6) } else { String::new() };
    let warming = if warming { "   warming up" } else { "" };
    format!("{:.0} s   {} /s{slowest}{warming}", elapsed_ms as f64 / 1e3, thousands(rate))
}
