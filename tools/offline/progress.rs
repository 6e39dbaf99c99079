//! A progress bar for what lasts, where somebody is looking.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a thing must last before there is a bar.
const SILENT: Duration = Duration::from_secs(1);

/// Bytes done of bytes to do.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    is_wanted: bool,
    /// Of the files before the present one.
    before: u64,
}

impl Progress {
    /// Over so many bytes. The bar is on standard error, if that is a terminal; `is_quiet` is for output that scrolls
    /// on the same one.
    pub fn new(bytes: u64, is_quiet: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
        let style = "{bar:40} {percent:>3}%  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
        Progress { bar, started: Instant::now(), is_wanted: !is_quiet && std::io::stderr().is_terminal(), before: 0 }
    }

    /// So many bytes of the present file are done.
    pub fn at(&mut self, position: u64) {
        if self.is_wanted && self.started.elapsed() > SILENT {
            if self.bar.is_hidden() {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            self.bar.set_position(self.before + position);
        }
    }

    /// A file of so many bytes is done.
    pub fn file_done(&mut self, bytes: u64) {
        self.before += bytes;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
