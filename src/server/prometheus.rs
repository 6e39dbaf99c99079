//! The figures of `mntr` in the text format of Prometheus, under the names that Apache's provider gives them.
//!
//! Source: `PrometheusMetricsProvider`, and the format 0.0.4 of its client library, with a comma behind the last label.

use std::fmt::Write as _;

use super::monitor::{Sink, Value};
use crate::cnxn::{Latency, Summary};

/// What a scraper expects of the port.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures, as far as they were asked for.
pub struct Exposition {
    text: String,
    /// `name[]` of the request; empty for all.
    wanted: Vec<String>,
}

impl Exposition {
    /// With nothing in it. A scraper may name the series that it wants.
    pub fn new(wanted: Vec<String>) -> Exposition {
        Exposition { text: String::new(), wanted }
    }

    /// The text so far.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The figures of the process, which Apache's provider takes from the system too.
    pub fn process(&mut self, process: &Process) {
        self.sample("process_cpu_seconds_total", "counter", process.cpu_seconds);
        self.sample("process_start_time_seconds", "gauge", process.start_seconds);
        self.sample("process_open_fds", "gauge", process.open_files as f64);
        self.sample("process_max_fds", "gauge", process.open_files_max as f64);
        self.sample("process_virtual_memory_bytes", "gauge", process.virtual_bytes as f64);
        self.sample("process_resident_memory_bytes", "gauge", process.resident_bytes as f64);
    }

    fn sample(&mut self, name: &str, kind: &str, value: f64) {
        if self.is_wanted(name) {
            self.head(name, kind);
            let _ = writeln!(self.text, "{name} {}", java_double(value));
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == name)
    }

    fn head(&mut self, name: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {name}\n# TYPE {name} {kind}");
    }

    fn quantiles(&mut self, name: &str, summary: &Summary, quantiles: &[(&str, f64)]) {
        let series = [name.to_owned(), format!("{name}_count"), format!("{name}_sum")];
        if !series.iter().any(|series| self.is_wanted(series)) {
            return;
        }
        self.head(name, "summary");
        for (part, value) in quantiles {
            let _ = writeln!(self.text, "{name}{{quantile=\"{part}\",}} {}", java_double(*value));
        }
        let _ = writeln!(self.text, "{name}_count {}", java_double(summary.count as f64));
        let _ = writeln!(self.text, "{name}_sum {}", java_double(summary.sum as f64));
    }
}

impl Sink for Exposition {
    /// Prometheus knows numbers only.
    fn text(&mut self, _: &str, _: &str) {}

    fn gauge(&mut self, name: &str, value: Value) {
        self.sample(name, "gauge", value.as_f64());
    }

    fn counter(&mut self, name: &str, value: u64) {
        self.sample(name, "counter", value as f64);
    }

    fn summary(&mut self, name: &str, summary: &Summary) {
        // The median of these is not kept.
        self.quantiles(name, summary, &[("0.5", f64::NAN)]);
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        let quantile = |part: f64| if latency.summary.count == 0 { f64::NAN } else { latency.quantile(part) as f64 };
        let quantiles = [("0.5", quantile(0.5)), ("0.9", quantile(0.9)), ("0.99", quantile(0.99))];
        self.quantiles(name, &latency.summary, &quantiles);
    }

    fn own(&mut self, name: &str, value: Value) {
        self.sample(&format!("ringkeeper_{name}"), "gauge", value.as_f64());
    }
}

/// What the system knows of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Used so far, by all threads.
    pub cpu_seconds: f64,
    /// Since 1970.
    pub start_seconds: f64,
    /// Open now.
    pub open_files: u64,
    /// That may be open.
    pub open_files_max: u64,
    /// Mapped.
    pub virtual_bytes: u64,
    /// In memory.
    pub resident_bytes: u64,
}

impl Process {
    /// Reads `/proc/self`; what cannot be read is 0.
    pub fn read(open_files: u64, open_files_max: u64, start_seconds: f64) -> Process {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        // The name in parentheses may have blanks in it. Behind it: state, and then utime and stime at 11 and 12.
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let memory = read("statm");
        let mut pages = memory.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let page = rustix::param::page_size() as u64;
        Process {
            cpu_seconds: (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64,
            start_seconds,
            open_files,
            open_files_max,
            virtual_bytes: pages.next().unwrap_or(0) * page,
            resident_bytes: pages.next().unwrap_or(0) * page,
        }
    }
}

/// As Java's `Double.toString`: a point always, an exponent from 10^7 on and below 10^-3.
fn java_double(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value == 0.0 || (1e-3..1e7).contains(&value.abs()) => {
            let text = value.to_string();
            if text.contains('.') { text } else { text + ".0" }
        }
        _ => {
            let text = format!("{value:E}");
            match text.split_once('E') {
                Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
                _ => text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_java_writes_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-1.0, "-1.0"),
            (11.0, "11.0"),
            (0.9846, "0.9846"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (67_109_358.0, "6.7109358E7"),
            (0.0005, "5.0E-4"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(java_double(value), expected);
        }
    }

    #[test]
    fn a_scraper_gets_what_it_asks_for() {
        let all = |wanted: &[&str]| {
            let mut out = Exposition::new(wanted.iter().map(|name| (*name).to_owned()).collect());
            out.gauge("znode_count", Value::Int(11));
            out.counter("diff_count", 1);
            let mut latency = Latency::default();
            [1, 2, 3].into_iter().for_each(|ms| latency.add(ms));
            out.latency("readlatency", &latency);
            out.summary("fsynctime", &Summary::default());
            out.into_text()
        };
        let expected = "# HELP znode_count znode_count\n# TYPE znode_count gauge\nznode_count 11.0\n\
                        # HELP diff_count diff_count\n# TYPE diff_count counter\ndiff_count 1.0\n\
                        # HELP readlatency readlatency\n# TYPE readlatency summary\n\
                        readlatency{quantile=\"0.5\",} 2.0\nreadlatency{quantile=\"0.9\",} 3.0\n\
                        readlatency{quantile=\"0.99\",} 3.0\nreadlatency_count 3.0\nreadlatency_sum 6.0\n\
                        # HELP fsynctime fsynctime\n# TYPE fsynctime summary\n\
                        fsynctime{quantile=\"0.5\",} NaN\nfsynctime_count 0.0\nfsynctime_sum 0.0\n";
        assert_eq!(all(&[]), expected);
        assert_eq!(all(&["diff_count"]), "# HELP diff_count diff_count\n# TYPE diff_count counter\ndiff_count 1.0\n");
    }
}
