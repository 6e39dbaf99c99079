//! What a measurement came to: one definition for the table, for what `--json` writes and for what `plot` reads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::during::During;
use crate::faults::Faults;
use crate::load::Outcome;
use crate::options::{LoadOptions, Spread};
use crate::request::Kind;
use crate::timeline::Timeline;
use crate::worker::Recovery;

/// How finely a percentile curve is kept: points for each halving of what lies above.
const CURVE_POINTS_PER_HALVING: u32 = 5;

/// A file of results: of one run, or of a sweep.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum Results {
    /// Several runs with more and more load.
    Sweep(Sweep),
    /// One run.
    Run(Box<Run>),
}

/// Runs with more and more load, in that order.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Sweep {
    /// What grew from step to step: `rate` or `concurrency`.
    pub sweep: String,
    /// The steps.
    pub steps: Vec<Run>,
}

/// One run.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Run {
    /// The operation.
    pub op: String,
    /// For mixed operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_percent: Option<u32>,
    /// Of how many operations each multi is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_parts: Option<u32>,
    /// Which keys are used how often, if not one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Bytes of data in a znode.
    pub size_bytes: u32,
    /// As they were given.
    pub servers: Vec<String>,
    /// Sessions under load.
    pub connections: u32,
    /// Open loop: operations asked for in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Closed loop: unanswered requests on each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding: Option<u32>,
    /// Load threads.
    pub threads: u32,
    /// Znodes worked on.
    pub keys: u32,
    /// Uncounted load before the measurement.
    pub warmup_seconds: f64,
    /// Length of the measurement.
    pub seconds: f64,
    /// Completed in it.
    pub operations: u64,
    /// The same, a second.
    pub operations_per_second: f64,
    /// The longest time in it without any completion.
    #[serde(default)]
    pub longest_gap_us: f64,
    /// When that began.
    #[serde(default)]
    pub longest_gap_began_seconds: f64,
    /// By the name of the operation.
    pub latency_us: BTreeMap<String, Latency>,
    /// For an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_loop: Option<OpenLoop>,
    /// Payload of TCP.
    pub sent_bytes_per_second: f64,
    /// Likewise.
    pub received_bytes_per_second: f64,
    /// CPU time of this program's load threads.
    pub generator_cpu_us_per_op: f64,
    /// The same, in cores.
    pub generator_cpu_cores: f64,
    /// CPU time of the server, if its pid was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_op: Option<f64>,
    /// The same, in cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpu_cores: Option<f64>,
    /// Time to make the keys.
    pub prepare_seconds: f64,
    /// Time to remove the subtree.
    pub clean_up_seconds: f64,
    /// The subtree, if it was left in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// What went wrong.
    pub faults: FaultCounts,
    /// What came of lost connections, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovered>,
    /// The command that was run during the measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<Command>,
    /// Completions and latencies over the time of the measurement.
    #[serde(default)]
    pub timeline: TimelineRows,
}

/// The latencies of one kind of operation, in microseconds.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Latency {
    /// Operations.
    pub count: u64,
    /// Percentiles.
    pub p50: f64,
    /// As the name says.
    pub p90: f64,
    /// As the name says.
    pub p99: f64,
    /// As the name says.
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    /// As the name says.
    #[serde(rename = "p99.99")]
    pub p99_99: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// Points of the distribution: a quantile from 0 to 1, and the latency that this share does not exceed.
    #[serde(default)]
    pub curve: Vec<(f64, f64)>,
}

/// How an open loop fared against its schedule.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct OpenLoop {
    /// How late requests went to their sockets.
    pub send_lag_us: Latency,
    /// Most requests unanswered at one time.
    pub backlog_peak: usize,
    /// The limit on that.
    pub backlog_limit: usize,
    /// Requests that went out late because of the limit.
    pub held_back: u64,
    /// Requests that were due in the measurement and never went out.
    pub never_sent: u64,
}

/// What came of lost connections.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Recovered {
    /// Connections that were had again.
    pub reconnects: u64,
    /// Sessions that were gone by then.
    pub sessions_expired: u64,
    /// Requests that were asked again.
    pub requests_repeated: u64,
    /// From the loss of each connection to the first answer on the new one.
    pub outage_us: Latency,
}

/// A command that was run during the measurement. Times count from its beginning.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Command {
    /// As it was given.
    pub command: String,
    /// When it was started.
    pub began_seconds: Option<f64>,
    /// When it had ended, if that was before the end of the measurement.
    pub ended_seconds: Option<f64>,
    /// What went wrong with it.
    pub failure: Option<String>,
}

/// What went wrong: see [`Faults`].
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct FaultCounts {
    /// Replies with an error code.
    pub error_replies: u64,
    /// Of those, by `<kind> <code>`.
    pub error_codes: BTreeMap<String, u64>,
    /// Replies that were not what the request asked for.
    pub wrong_replies: u64,
    /// Connections lost.
    pub connections_lost: u64,
    /// Requests that were never answered.
    pub unanswered: u64,
    /// The first few in words.
    pub messages: Vec<String>,
}

/// One entry for each interval from the beginning of the measurement on.
#[derive(Serialize, Deserialize, Clone, Default, Debug)]
pub struct TimelineRows {
    /// Length of an interval.
    pub interval_seconds: f64,
    /// Completions in the interval. Where there are none, the latencies are 0.
    pub completions: Vec<u64>,
    /// Latencies of what completed in the interval, in microseconds.
    pub p50_us: Vec<f64>,
    /// Likewise.
    pub p99_us: Vec<f64>,
    /// Likewise.
    pub max_us: Vec<f64>,
}

impl Results {
    /// Reads a file that [`to_json`] has filled.
    pub fn read(file: &Path) -> Result<Results, String> {
        let text = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let results = serde_json::from_slice(&text)
            .map_err(|error| format!("{}: not the results of a run or a sweep: {error}", file.display()))?;
        match results {
            Results::Sweep(Sweep { steps, .. }) if steps.is_empty() => {
                Err(format!("{}: a sweep without steps", file.display()))
            }
            results => Ok(results),
        }
    }
}

impl Run {
    /// What a run with those options came to.
    pub fn new(options: &LoadOptions, outcome: &Outcome) -> Run {
        let summary = &outcome.summary;
        let window_ns = summary.window_ns.max(1) as f64;
        let seconds = window_ns / 1e9;
        let operations = summary.completed.max(1) as f64;
        let server_cpu_ns = summary.server_cpu_ns.map(|ns| ns as f64);
        let kinds = Kind::ALL.iter().zip(&summary.latencies).filter(|(_, histogram)| !histogram.is_empty());
        Run {
            op: options.op.name().to_owned(),
            reads_percent: options.reads_percent(),
            multi_parts: options.multi_parts(),
            spread: (options.spread != Spread::Turns).then(|| options.spread.name().to_owned()),
            size_bytes: options.size,
            servers: options.servers.clone(),
            connections: options.connections,
            rate: options.rate,
            outstanding: options.outstanding(),
            threads: options.threads,
            keys: options.keys(),
            warmup_seconds: options.warmup_ns() as f64 / 1e9,
            seconds: thousandths(seconds),
            operations: summary.completed,
            operations_per_second: thousandths(summary.completed as f64 / seconds),
            longest_gap_us: us(summary.longest_gap.length_ns),
            longest_gap_began_seconds: thousandths(summary.longest_gap.began_ns as f64 / 1e9),
            latency_us: kinds.map(|(kind, histogram)| (kind.name().to_owned(), Latency::new(histogram))).collect(),
            open_loop: outcome.backlog.map(|backlog| OpenLoop {
                send_lag_us: Latency::new(&summary.lag),
                backlog_peak: backlog.peak,
                backlog_limit: backlog.limit,
                held_back: backlog.held_back,
                never_sent: backlog.never_sent,
            }),
            sent_bytes_per_second: thousandths(summary.wire.sent_bytes as f64 / seconds),
            received_bytes_per_second: thousandths(summary.wire.received_bytes as f64 / seconds),
            generator_cpu_us_per_op: thousandths(summary.cpu_ns as f64 / 1e3 / operations),
            generator_cpu_cores: thousandths(summary.cpu_ns as f64 / window_ns),
            server_cpu_us_per_op: server_cpu_ns.map(|ns| thousandths(ns / 1e3 / operations)),
            server_cpu_cores: server_cpu_ns.map(|ns| thousandths(ns / window_ns)),
            prepare_seconds: thousandths(outcome.prepare_ns as f64 / 1e9),
            clean_up_seconds: thousandths(outcome.clean_up_ns as f64 / 1e9),
            kept: outcome.kept.clone(),
            faults: FaultCounts::new(&outcome.faults),
            recovery: Recovered::new(&outcome.recovery),
            during: outcome.during.as_ref().map(Command::new),
            timeline: TimelineRows::new(&summary.timeline),
        }
    }
}

impl Run {
    /// Whether all went as it should. Where a command was to disturb the server, lost connections are what was asked
    /// for.
    pub fn is_clean(&self) -> bool {
        let FaultCounts { error_replies, wrong_replies, connections_lost, unanswered, .. } = self.faults;
        let all_answered = error_replies + wrong_replies + unanswered == 0;
        match &self.during {
            Some(command) => all_answered && command.failure.is_none(),
            None => all_answered && connections_lost == 0,
        }
    }
}

impl Recovered {
    fn new(recovery: &Recovery) -> Option<Recovered> {
        (recovery.reconnects > 0 || recovery.expired > 0).then(|| Recovered {
            reconnects: recovery.reconnects,
            sessions_expired: recovery.expired,
            requests_repeated: recovery.repeated,
            outage_us: Latency::new(&recovery.outage),
        })
    }
}

impl Command {
    fn new(during: &During) -> Command {
        let seconds = |ns: Option<u64>| ns.map(|ns| thousandths(ns as f64 / 1e9));
        Command {
            command: during.command.clone(),
            began_seconds: seconds(during.began_ns),
            ended_seconds: seconds(during.ended_ns),
            failure: during.failure.clone(),
        }
    }
}

impl Latency {
    /// Of a histogram in nanoseconds.
    pub fn new(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Latency {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: us(histogram.max()),
            mean: thousandths(histogram.mean() / 1e3),
            curve: histogram
                .iter_quantiles(CURVE_POINTS_PER_HALVING)
                .map(|step| (step.quantile_iterated_to(), us(step.value_iterated_to().min(histogram.max()))))
                .collect(),
        }
    }
}

impl FaultCounts {
    fn new(faults: &Faults) -> FaultCounts {
        let codes = faults.refused.iter().map(|((kind, err), count)| (format!("{kind} {err}"), *count));
        FaultCounts {
            error_replies: faults.refused_total(),
            error_codes: codes.collect(),
            wrong_replies: faults.wrong,
            connections_lost: faults.lost,
            unanswered: faults.unanswered,
            messages: faults.messages.clone(),
        }
    }

    /// Whether nothing went wrong.
    pub fn is_empty(&self) -> bool {
        self.error_replies == 0 && self.wrong_replies == 0 && self.connections_lost == 0 && self.unanswered == 0
    }
}

impl TimelineRows {
    fn new(timeline: &Timeline) -> TimelineRows {
        let mut rows =
            TimelineRows { interval_seconds: timeline.interval_ns() as f64 / 1e9, ..TimelineRows::default() };
        for histogram in timeline.intervals() {
            rows.completions.push(histogram.len());
            rows.p50_us.push(us(histogram.value_at_quantile(0.5)));
            rows.p99_us.push(us(histogram.value_at_quantile(0.99)));
            rows.max_us.push(us(histogram.max()));
        }
        rows
    }
}

/// Nanoseconds in microseconds.
pub fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// As JSON for programs that people can read too: one field a line, lists in one line.
pub fn to_json(results: &impl Serialize) -> String {
    let mut text = Vec::new();
    let formatter = Layout { objects: PrettyFormatter::new() };
    results.serialize(&mut Serializer::with_formatter(&mut text, formatter)).expect("a Vec takes any bytes");
    text.push(b'\n');
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Objects as the pretty formatter lays them out, lists of numbers and strings without line breaks.
struct Layout {
    objects: PrettyFormatter<'static>,
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.objects.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.objects.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.objects.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.objects.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.objects.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_lines_and_lists_have_none() {
        let value = serde_json::json!({ "a\"b": { "x": [1.5, [2, "c\\\n"]] }, "empty": {} });
        let expected = "{\n  \"a\\\"b\": {\n    \"x\": [1.5,[2,\"c\\\\\\n\"]]\n  },\n  \"empty\": {}\n}\n";
        assert_eq!(to_json(&value), expected);
    }
}
