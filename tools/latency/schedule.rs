//! When an open loop's requests are due.

/// Due times at an even rate from a start on. Nothing the server does moves them.
pub struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    next: u64,
}

impl Schedule {
    /// The share of one of `threads` threads (the `thread`th, from 0) in `rate` operations a second from `start_ns` on.
    pub fn new(start_ns: u64, rate: f64, thread: usize, threads: usize) -> Schedule {
        let interval_ns = 1e9 / rate;
        let offset_ns = (interval_ns * thread as f64) as u64;
        Schedule { start_ns: start_ns + offset_ns, interval_ns: interval_ns * threads as f64, next: 0 }
    }

    /// When the next request is due.
    pub fn next_due_ns(&self) -> u64 {
        self.due_ns(self.next)
    }

    /// Goes on to the next request.
    pub fn advance(&mut self) {
        self.next += 1;
    }

    /// How many requests are due before `end_ns` and have not been passed yet.
    pub fn left_before(&self, end_ns: u64) -> u64 {
        let due = (end_ns.saturating_sub(self.start_ns) as f64 / self.interval_ns).ceil() as u64;
        due.saturating_sub(self.next)
    }

    /// Time between two requests.
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns as u64
    }

    fn due_ns(&self, index: u64) -> u64 {
        self.start_ns + (index as f64 * self.interval_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_rate_evenly() {
        let mut due = Vec::new();
        for thread in 0..2 {
            let mut schedule = Schedule::new(1_000, 1e6, thread, 2);
            for _ in 0..3 {
                due.push(schedule.next_due_ns());
                schedule.advance();
            }
        }
        due.sort();
        assert_eq!(due, [1_000, 2_000, 3_000, 4_000, 5_000, 6_000]);
    }

    #[test]
    fn what_was_not_reached_by_the_end_is_counted() {
        let mut schedule = Schedule::new(0, 1e9, 0, 1);
        assert_eq!(schedule.left_before(10), 10);
        schedule.advance();
        assert_eq!(schedule.left_before(10), 9);
        assert_eq!(schedule.left_before(1), 0);
    }
}
