//! What is kept of a measurement: latencies by kind, a timeline, and counters over the window.

use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::clock::{SECOND_NS, now_ns, process_cpu_ns, thread_cpu_ns};
use crate::live::Live;
use crate::request::Kind;
use crate::timeline::Timeline;

/// Latencies of a run are told apart from this many nanoseconds on.
const LATENCY_LOW_NS: u64 = 100;
/// Latencies above this are recorded as this.
const LATENCY_HIGH_NS: u64 = 600 * SECOND_NS;

/// Latencies of a run, in nanoseconds with three significant digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_LOW_NS, LATENCY_HIGH_NS, 3).expect("the bounds are valid")
}

/// Which completions count.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first instant of it.
    pub from_ns: u64,
    /// The first instant after it; `u64::MAX` for "until the work is done".
    pub until_ns: u64,
    /// Whether an operation belongs to the window it was due in (open loop) or completed in (closed loop).
    pub by_due_time: bool,
}

/// One thread's record of one phase.
pub struct Recorder {
    window: Window,
    latencies: [Histogram<u64>; Kind::MEASURED],
    /// How late requests were handed to the socket, against their due time; empty in a closed loop.
    lag: Histogram<u64>,
    timeline: Timeline,
    /// What the threads have in common.
    live: Arc<Live>,
    /// The longest latency since [`Recorder::batch`].
    batch_max_ns: u64,
    longest_gap: Gap,
    /// Completions inside the window, whenever they were due: what throughput is made of.
    completed: u64,
    last_completion_ns: u64,
    /// The server to sample the CPU time of.
    server_pid: Option<u32>,
    opened: Option<Mark>,
    closed: Option<Mark>,
}

/// A time without any completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Gap {
    /// Its length.
    pub length_ns: u64,
    /// When it began, counted from the window's start.
    pub began_ns: u64,
}

/// Counters that only grow, at one end of the window.
#[derive(Clone, Copy)]
struct Mark {
    at_ns: u64,
    cpu_ns: u64,
    server_cpu_ns: Option<u64>,
    wire: Wire,
}

/// Bytes that a worker's sockets took and gave.
#[derive(Clone, Copy, Default, Debug)]
pub struct Wire {
    /// Payload of TCP, frames' length fields included.
    pub sent_bytes: u64,
    /// Likewise.
    pub received_bytes: u64,
}

/// What the threads' records come to together.
pub struct Summary {
    /// By the discriminant of [`Kind`].
    pub latencies: [Histogram<u64>; Kind::MEASURED],
    /// See [`Recorder`].
    pub lag: Histogram<u64>,
    /// From the window's start on.
    pub timeline: Timeline,
    /// The longest time in the window without any completion.
    pub longest_gap: Gap,
    /// Completions inside the window.
    pub completed: u64,
    /// Length of the window, or of the work if that set its end.
    pub window_ns: u64,
    /// CPU time of this program's load threads in the window.
    pub cpu_ns: u64,
    /// CPU time of the server in the window, if its pid was given.
    pub server_cpu_ns: Option<u64>,
    /// Bytes in the window.
    pub wire: Wire,
}

impl Recorder {
    /// An empty record of a window.
    pub fn new(window: Window, live: Arc<Live>, server_pid: Option<u32>) -> Recorder {
        Recorder {
            window,
            latencies: std::array::from_fn(|_| latency_histogram()),
            lag: latency_histogram(),
            timeline: Timeline::new(),
            live,
            batch_max_ns: 0,
            longest_gap: Gap::default(),
            completed: 0,
            last_completion_ns: 0,
            server_pid,
            opened: None,
            closed: None,
        }
    }

    /// A record of nothing: for phases that prepare and clean up.
    pub fn idle(live: Arc<Live>) -> Recorder {
        Recorder::new(Window { from_ns: u64::MAX, until_ns: u64::MAX, by_due_time: false }, live, None)
    }

    /// Takes note of an answer at `at_ns` to an operation that was due (closed loop: sent) at `due_ns`.
    pub fn complete(&mut self, kind: Kind, due_ns: u64, at_ns: u64) {
        let Window { from_ns, until_ns, by_due_time } = self.window;
        if at_ns < from_ns {
            return;
        }
        let in_window = at_ns < until_ns;
        if in_window {
            self.completed += 1;
            self.last_completion_ns = at_ns;
        }
        if !(if by_due_time { due_ns >= from_ns && due_ns < until_ns } else { in_window }) {
            return;
        }
        let latency_ns = at_ns.saturating_sub(due_ns);
        if let Some(histogram) = self.latencies.get_mut(kind as usize) {
            histogram.saturating_record(latency_ns);
        }
        self.batch_max_ns = self.batch_max_ns.max(latency_ns);
        self.timeline.record(at_ns - from_ns, latency_ns);
    }

    /// To be called after one or more [`Recorder::complete`] with the same `at_ns`, and with how many those were.
    pub fn batch(&mut self, completions: usize, at_ns: u64) {
        self.live.completed(completions as u64, std::mem::take(&mut self.batch_max_ns));
        if at_ns >= self.window.from_ns {
            self.note_gap(at_ns);
        }
    }

    /// The time without a completion that ends at `at_ns`, or with the window.
    fn note_gap(&mut self, at_ns: u64) {
        let Window { from_ns, until_ns, .. } = self.window;
        let began_ns = self.live.completion_before(at_ns).max(from_ns);
        let length_ns = at_ns.min(until_ns).saturating_sub(began_ns);
        self.longest_gap = self.longest_gap.max(Gap { length_ns, began_ns: began_ns - from_ns });
    }

    /// Takes note of a request handed to its socket at `at_ns` that was due at `due_ns`.
    pub fn sent(&mut self, due_ns: u64, at_ns: u64) {
        if due_ns >= self.window.from_ns && due_ns < self.window.until_ns {
            self.lag.saturating_record(at_ns.saturating_sub(due_ns));
        }
    }

    /// Reads the counters when the window opens or closes: to be called often, with the time and the bytes so far.
    pub fn tick(&mut self, now_ns: u64, wire: Wire) {
        if self.opened.is_none() && now_ns >= self.window.from_ns {
            self.opened = Some(self.mark(wire));
        }
        if self.closed.is_none() && now_ns >= self.window.until_ns {
            self.closed = Some(self.mark(wire));
        }
    }

    /// The end of the phase: closes the window if it is still open.
    pub fn finish(&mut self, wire: Wire) {
        if self.closed.is_none() {
            self.closed = Some(self.mark(wire));
        }
        // Without an end the window ends with the last completion.
        if self.window.until_ns != u64::MAX {
            self.note_gap(self.window.until_ns);
        }
    }

    /// Adds up the records of the threads of one phase.
    pub fn summarize(recorders: Vec<Recorder>) -> Summary {
        let mut summary = Summary {
            latencies: std::array::from_fn(|_| latency_histogram()),
            lag: latency_histogram(),
            timeline: Timeline::new(),
            longest_gap: Gap::default(),
            completed: 0,
            window_ns: 0,
            cpu_ns: 0,
            server_cpu_ns: None,
            wire: Wire::default(),
        };
        for recorder in recorders {
            summary.add(recorder);
        }
        summary
    }

    fn mark(&self, wire: Wire) -> Mark {
        let server_cpu_ns = self.server_pid.and_then(process_cpu_ns);
        Mark { at_ns: now_ns(), cpu_ns: thread_cpu_ns(), server_cpu_ns, wire }
    }

    /// The window as it was: cut at the last completion if the work ended before it did.
    fn window_ns(&self) -> u64 {
        let is_cut = self.closed.is_some_and(|closed| closed.at_ns < self.window.until_ns);
        let end_ns = if is_cut { self.last_completion_ns } else { self.window.until_ns };
        end_ns.saturating_sub(self.window.from_ns)
    }
}

impl Summary {
    fn add(&mut self, recorder: Recorder) {
        self.window_ns = self.window_ns.max(recorder.window_ns());
        for (sum, one) in self.latencies.iter_mut().zip(&recorder.latencies) {
            *sum += one;
        }
        self.lag += &recorder.lag;
        self.completed += recorder.completed;
        if let (Some(opened), Some(closed)) = (recorder.opened, recorder.closed) {
            self.cpu_ns += closed.cpu_ns - opened.cpu_ns;
            self.wire.sent_bytes += closed.wire.sent_bytes - opened.wire.sent_bytes;
            self.wire.received_bytes += closed.wire.received_bytes - opened.wire.received_bytes;
            let server = closed.server_cpu_ns.zip(opened.server_cpu_ns).map(|(closed, opened)| closed - opened);
            self.server_cpu_ns = self.server_cpu_ns.or(server);
        }
        self.timeline.add(recorder.timeline);
        self.longest_gap = self.longest_gap.max(recorder.longest_gap);
    }

    /// Latencies of all kinds together.
    pub fn total(&self) -> Histogram<u64> {
        let mut total = latency_histogram();
        for histogram in &self.latencies {
            total += histogram;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_counts_by_completion_and_an_open_one_by_due_time() {
        for (by_due_time, recorded) in [(false, 2), (true, 2)] {
            let window = Window { from_ns: 1_000_000, until_ns: 2_000_000, by_due_time };
            let mut recorder = Recorder::new(window, Arc::default(), None);
            recorder.complete(Kind::Set, 500_000, 900_000); // before the window
            recorder.complete(Kind::Set, 900_000, 1_100_000); // due before, completed inside
            recorder.complete(Kind::Set, 1_200_000, 1_300_000); // inside
            recorder.complete(Kind::Set, 1_900_000, 2_100_000); // due inside, completed after
            recorder.finish(Wire::default());
            let summary = Recorder::summarize(vec![recorder]);
            assert_eq!(summary.completed, 2);
            assert_eq!(summary.latencies[Kind::Set as usize].len(), recorded);
            let longest = summary.total().max();
            assert!(longest.abs_diff(200_000) < 200, "{longest} ns");
        }
    }

    #[test]
    fn a_gap_is_over_all_threads_and_reaches_to_the_ends_of_the_window() {
        let window = Window { from_ns: 1_000, until_ns: 2_000, by_due_time: false };
        let longest = |completions: &[(usize, u64)]| {
            let live = Arc::<Live>::default();
            let mut threads = [(); 2].map(|()| Recorder::new(window, Arc::clone(&live), None));
            for &(thread, at_ns) in completions {
                threads[thread].complete(Kind::Set, at_ns, at_ns);
                threads[thread].batch(1, at_ns);
            }
            threads.iter_mut().for_each(|recorder| recorder.finish(Wire::default()));
            let gap = Recorder::summarize(threads.into()).longest_gap;
            (gap.began_ns, gap.length_ns)
        };
        assert_eq!(longest(&[(0, 1_100), (1, 1_500), (0, 1_800)]), (100, 400), "not 700, for one thread alone");
        assert_eq!(longest(&[(0, 1_600), (1, 1_900)]), (0, 600), "from the beginning");
        assert_eq!(longest(&[(0, 500), (1, 1_100), (0, 2_700)]), (100, 900), "to the end and no further");
        assert_eq!(longest(&[]), (0, 1_000), "all of it");
    }
}
