//! Time: one monotonic clock in nanoseconds, CPU time, and the timer that paces an open loop.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MS_NS: u64 = 1_000_000;

/// The monotonic clock in nanoseconds.
pub fn now_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Monotonic))
}

/// CPU time, user and system, of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    to_ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// CPU time, user and system, that process `pid` has used, in nanoseconds; `None` when it is gone.
///
/// The kernel counts it in ticks: the answer is a multiple of 10 ms.
pub fn process_cpu_ns(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold spaces; utime and stime
    // are fields 14 and 15, the 12th and 13th behind it.
    let behind_name = stat.rsplit_once(')')?.1;
    let mut fields = behind_name.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    Some(ticks * SECOND_NS / rustix::param::clock_ticks_per_second())
}

fn to_ns(t: Timespec) -> u64 {
    t.tv_sec as u64 * SECOND_NS + t.tv_nsec as u64
}

fn to_timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / SECOND_NS) as i64, tv_nsec: (ns % SECOND_NS) as i64 }
}

/// A periodic timer as a file descriptor. After a tick it must be acknowledged, or it does not tick again.
///
/// The poll's own timeout has a resolution of 1 ms, which is too coarse to send on schedule.
pub struct Ticker(OwnedFd);

impl Ticker {
    /// A timer that does not tick yet.
    pub fn new() -> io::Result<Ticker> {
        Ok(Ticker(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?))
    }

    /// The descriptor to poll.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Ticks at `first_ns` on the clock of [`now_ns`] and then every `every_ns` (at least 1).
    pub fn start(&self, first_ns: u64, every_ns: u64) -> io::Result<()> {
        let spec = Itimerspec { it_interval: to_timespec(every_ns.max(1)), it_value: to_timespec(first_ns) };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }

    /// To be called after a tick.
    pub fn acknowledge(&self) -> io::Result<()> {
        let mut ticks = [0; 8];
        match rustix::io::read(&self.0, &mut ticks) {
            // Restarted or stopped since.
            Err(rustix::io::Errno::AGAIN) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// No more ticks.
    pub fn stop(&self) -> io::Result<()> {
        let spec = Itimerspec { it_interval: to_timespec(0), it_value: to_timespec(0) };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}
