//! What is kept of a measurement: latencies by kind, a timeline, and counters over the window.

use hdrhistogram::Histogram;

use crate::clock::{SECOND_NS, now_ns, process_cpu_ns, thread_cpu_ns};
use crate::request::Kind;

/// Length of one entry of the timeline.
pub const INTERVAL_NS: u64 = 100 * 1_000_000;
/// Entries of a timeline at most (an hour); completions after that are left out of it.
const INTERVALS_MAX: usize = 36_000;

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
    timeline: Option<Vec<Histogram<u32>>>,
    /// Completions inside the window, whenever they were due: what throughput is made of.
    completed: u64,
    last_completion_ns: u64,
    /// The server to sample the CPU time of.
    server_pid: Option<u32>,
    opened: Option<Mark>,
    closed: Option<Mark>,
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
    /// One histogram per [`INTERVAL_NS`] from the window's start on; empty when none was asked for.
    pub timeline: Vec<Histogram<u32>>,
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
    pub fn new(window: Window, with_timeline: bool, server_pid: Option<u32>) -> Recorder {
        Recorder {
            window,
            latencies: std::array::from_fn(|_| latency_histogram()),
            lag: latency_histogram(),
            timeline: with_timeline.then(Vec::new),
            completed: 0,
            last_completion_ns: 0,
            server_pid,
            opened: None,
            closed: None,
        }
    }

    /// A record of nothing: for phases that prepare and clean up.
    pub fn idle() -> Recorder {
        Recorder::new(Window { from_ns: u64::MAX, until_ns: u64::MAX, by_due_time: false }, false, None)
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
        if let Some(timeline) = &mut self.timeline {
            let interval = ((at_ns - from_ns) / INTERVAL_NS) as usize;
            if interval < INTERVALS_MAX {
                while timeline.len() <= interval {
                    // Two digits: a tenth of the memory, and good enough for a plot.
                    let histogram = Histogram::new_with_bounds(1_000, LATENCY_HIGH_NS, 2);
                    timeline.push(histogram.expect("the bounds are valid"));
                }
                timeline[interval].saturating_record(latency_ns);
            }
        }
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
    }

    /// Adds up the records of the threads of one phase.
    pub fn summarize(recorders: Vec<Recorder>) -> Summary {
        let mut summary = Summary {
            latencies: std::array::from_fn(|_| latency_histogram()),
            lag: latency_histogram(),
            timeline: Vec::new(),
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
        for (interval, histogram) in recorder.timeline.unwrap_or_default().into_iter().enumerate() {
            match self.timeline.get_mut(interval) {
                Some(sum) => *sum += histogram,
                None => self.timeline.push(histogram),
            }
        }
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
            let mut recorder = Recorder::new(window, false, None);
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
    fn the_timeline_has_one_entry_for_every_interval_also_an_empty_one() {
        let window = Window { from_ns: 0, until_ns: u64::MAX, by_due_time: false };
        let mut recorder = Recorder::new(window, true, None);
        recorder.complete(Kind::Get, 0, 10);
        recorder.complete(Kind::Get, 0, 2 * INTERVAL_NS);
        recorder.finish(Wire::default());
        let summary = Recorder::summarize(vec![recorder]);
        assert_eq!(summary.timeline.iter().map(Histogram::len).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(summary.window_ns, 2 * INTERVAL_NS);
    }
}
