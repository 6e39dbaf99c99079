//! A command of the user's that is run while the load goes on.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::now_ns;

/// How often it is looked whether the command has ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What became of the command. Times count from the beginning of the measurement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct During {
    /// As it was given.
    pub command: String,
    /// When it was started; `None` if the measurement ended before.
    pub began_ns: Option<u64>,
    /// When it was seen to have ended; `None` if it had not when the measurement ended: it is left running then.
    pub ended_ns: Option<u64>,
    /// How it ended, if not with exit code 0.
    pub failure: Option<String>,
}

/// A command that waits for its time, or runs.
pub struct Runner {
    stop: Sender<()>,
    thread: JoinHandle<During>,
}

impl Runner {
    /// Runs `command` in a shell at `at_ns` on the clock of a measurement that begins at `from_ns`.
    pub fn start(command: &str, from_ns: u64, at_ns: u64) -> Runner {
        let (stop, stopped) = channel::<()>();
        let mut during = During { command: command.to_owned(), began_ns: None, ended_ns: None, failure: None };
        let thread = thread::spawn(move || {
            let wait = Duration::from_nanos((from_ns + at_ns).saturating_sub(now_ns()));
            if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                during.failure = Some("the measurement ended before it was run".to_owned());
                return during;
            }
            during.began_ns = Some(now_ns().saturating_sub(from_ns));
            let started = Command::new("sh").arg("-c").arg(&during.command).spawn();
            let waited = started.and_then(|mut child| {
                loop {
                    if let Some(ended) = end_of(&mut child)? {
                        return Ok(Some(ended));
                    }
                    if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                        return Ok(None);
                    }
                }
            });
            match waited {
                Ok(None) => {}
                Ok(Some(failure)) => {
                    during.ended_ns = Some(now_ns().saturating_sub(from_ns));
                    during.failure = failure;
                }
                Err(error) => during.failure = Some(error.to_string()),
            }
            during
        });
        Runner { stop, thread }
    }

    /// To be called when the measurement has ended.
    pub fn finish(self) -> During {
        drop(self.stop);
        self.thread.join().expect("the thread does not panic")
    }
}

/// How the command has ended, if it has: the reason if it failed.
fn end_of(child: &mut Child) -> io::Result<Option<Option<String>>> {
    Ok(child.try_wait()?.map(|status| (!status.success()).then(|| status.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until the file that the command makes is there.
    fn run(command: &str, wait_for: Option<&std::path::Path>) -> During {
        let runner = Runner::start(command, now_ns(), 1_000_000);
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        while wait_for.map_or(!runner.thread.is_finished(), |file| !file.exists()) {
            assert!(std::time::Instant::now() < patience, "{command} is not run");
            thread::sleep(LOOK_EVERY);
        }
        runner.finish()
    }

    #[test]
    fn a_command_that_fails_is_told_from_one_that_does_not() {
        let good = run("true", None);
        assert_eq!(good.failure, None);
        assert!(good.began_ns >= Some(1_000_000) && good.ended_ns >= good.began_ns, "{good:?}");
        assert_eq!(run("exit 3", None).failure.as_deref(), Some("exit status: 3"));
    }

    #[test]
    fn what_has_not_ended_or_not_begun_with_the_measurement_is_told() {
        let file = std::env::temp_dir().join(format!("ringkeeper-latency-during-{}", std::process::id()));
        let long = run(&format!("touch {0}; while [ -e {0} ]; do sleep 0.01; done", file.display()), Some(&file));
        std::fs::remove_file(&file).expect("the command made it");
        assert!(long.began_ns.is_some() && long.ended_ns.is_none() && long.failure.is_none(), "{long:?}");
        let late = Runner::start("true", now_ns(), 1_000_000_000_000).finish();
        assert_eq!((late.began_ns, late.failure.is_some()), (None, true));
    }
}
