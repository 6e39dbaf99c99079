//! Results as a table, as JSON, as a latency distribution and as a timeline.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::json::Object;
use crate::load::Outcome;
use crate::options::{LoadOptions, Op};
use crate::recorder::INTERVAL_NS;
use crate::request::Kind;

/// The head of the columns that [`latency_row`] fills.
pub const LATENCY_COLUMNS: &str = "       p50       p90       p99     p99.9    p99.99       max      mean";

/// The percentiles of a table: name in JSON, quantile.
const PERCENTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// One histogram in nanoseconds as a row of microseconds.
pub fn latency_row(histogram: &Histogram<u64>) -> String {
    let mut row = String::new();
    for (_, quantile) in PERCENTILES {
        write!(row, "{:>10.1}", us(histogram.value_at_quantile(quantile))).expect("a string takes any text");
    }
    format!("{row}{:>10.1}{:>10.1}", us(histogram.max()), histogram.mean() / 1e3)
}

/// The same as fields of an object.
pub fn latency_fields(object: &mut Object, histogram: &Histogram<u64>) {
    object.integer("count", histogram.len());
    for (name, quantile) in PERCENTILES {
        object.number(name, us(histogram.value_at_quantile(quantile)));
    }
    object.number("max", us(histogram.max()));
    object.number("mean", histogram.mean() / 1e3);
}

/// The table.
pub fn text(options: &LoadOptions, outcome: &Outcome) -> String {
    let summary = &outcome.summary;
    let figures = Figures::new(outcome);
    let mut lines = vec![describe(options), String::new()];
    lines.push(format!(
        "  throughput    {} /s   ({} operations in {:.3} s)",
        thousands(figures.per_second),
        thousands(summary.completed as f64),
        figures.seconds
    ));
    lines.push(format!("  latency, us   {LATENCY_COLUMNS}"));
    for (name, histogram) in rows(outcome) {
        lines.push(format!("    {name:<12}{}", latency_row(histogram)));
    }
    if let Some(backlog) = &outcome.backlog {
        lines.push(format!("    {:<12}{}", "send lag", latency_row(&summary.lag)));
        let mut line = format!("  open loop     at most {} unanswered", thousands(backlog.peak as f64));
        if backlog.held_back > 0 {
            line += &format!(
                "; {} went out late at the limit of {}",
                thousands(backlog.held_back as f64),
                thousands(backlog.limit as f64)
            );
        }
        if backlog.never_sent > 0 {
            line += &format!("; {} were due and never sent, so the latencies are too good", backlog.never_sent);
        }
        lines.push(line);
    }
    lines.push(format!(
        "  wire          {:.1} MB/s sent, {:.1} MB/s received",
        figures.sent_bytes_per_second / 1e6,
        figures.received_bytes_per_second / 1e6
    ));
    lines.push(format!(
        "  this program  {:.2} us CPU an operation, {:.0}% of a core",
        figures.cpu_us_per_op,
        figures.cpu_cores * 100.0
    ));
    if let (Some(cpu_us_per_op), Some(cores)) = (figures.server_cpu_us_per_op, figures.server_cpu_cores) {
        lines.push(format!("  server        {cpu_us_per_op:.2} us CPU an operation, {:.0}% of a core", cores * 100.0));
    }
    lines.push(format!(
        "  around it     {:.1} s to make the keys, {:.1} s to clean up",
        outcome.prepare_ns as f64 / 1e9,
        outcome.clean_up_ns as f64 / 1e9
    ));
    if let Some(kept) = &outcome.kept {
        lines.push(format!("  kept          {kept}"));
    }
    let faults = &outcome.faults;
    if faults.is_empty() {
        lines.push("  faults        none".to_owned());
    } else {
        lines.push(format!(
            "  faults        {} error replies, {} wrong replies, {} connections lost, {} requests unanswered",
            faults.refused_total(),
            faults.wrong,
            faults.lost,
            faults.unanswered
        ));
        for ((kind, err), count) in &faults.refused {
            lines.push(format!("                {count} times error {err} to {kind}"));
        }
        lines.extend(faults.messages.iter().map(|message| format!("                {message}")));
    }
    lines.join("\n") + "\n"
}

/// The same as JSON. Latencies are in microseconds.
pub fn json(options: &LoadOptions, outcome: &Outcome) -> String {
    let summary = &outcome.summary;
    let figures = Figures::new(outcome);
    let mut object = Object::new();
    object.string("op", op_name(options.op));
    if options.op == Op::Mixed {
        object.integer("reads_percent", options.reads.into());
    }
    object.integer("size_bytes", options.size.into());
    object.strings("servers", &options.servers);
    object.integer("connections", options.connections.into());
    match options.rate {
        Some(rate) => object.number("rate", rate),
        None => object.integer("outstanding", options.outstanding.into()),
    }
    object.integer("threads", options.threads.into());
    object.integer("keys", options.keys().into());
    object.number("warmup_seconds", options.warmup_ns() as f64 / 1e9);
    object.number("seconds", figures.seconds);
    object.integer("operations", summary.completed);
    object.number("operations_per_second", figures.per_second);
    object.object("latency_us", |latencies| {
        for (name, histogram) in rows(outcome) {
            latencies.object(name, |fields| latency_fields(fields, histogram));
        }
    });
    if let Some(backlog) = &outcome.backlog {
        object.object("open_loop", |fields| {
            fields.object("send_lag_us", |lag| latency_fields(lag, &summary.lag));
            fields.integer("backlog_peak", backlog.peak as u64);
            fields.integer("backlog_limit", backlog.limit as u64);
            fields.integer("held_back", backlog.held_back);
            fields.integer("never_sent", backlog.never_sent);
        });
    }
    object.number("sent_bytes_per_second", figures.sent_bytes_per_second);
    object.number("received_bytes_per_second", figures.received_bytes_per_second);
    object.number("generator_cpu_us_per_op", figures.cpu_us_per_op);
    object.number("generator_cpu_cores", figures.cpu_cores);
    if let (Some(cpu_us_per_op), Some(cores)) = (figures.server_cpu_us_per_op, figures.server_cpu_cores) {
        object.number("server_cpu_us_per_op", cpu_us_per_op);
        object.number("server_cpu_cores", cores);
    }
    object.number("prepare_seconds", outcome.prepare_ns as f64 / 1e9);
    object.number("clean_up_seconds", outcome.clean_up_ns as f64 / 1e9);
    if let Some(kept) = &outcome.kept {
        object.string("kept", kept);
    }
    let faults = &outcome.faults;
    object.object("faults", |fields| {
        fields.integer("error_replies", faults.refused_total());
        fields.object("error_codes", |codes| {
            for ((kind, err), count) in &faults.refused {
                codes.integer(&format!("{kind} {err}"), *count);
            }
        });
        fields.integer("wrong_replies", faults.wrong);
        fields.integer("connections_lost", faults.lost);
        fields.integer("unanswered", faults.unanswered);
        fields.strings("messages", &faults.messages);
    });
    object.finish()
}

/// All latencies in the text form of HdrHistogram's tools, in microseconds.
pub fn hgrm(outcome: &Outcome) -> String {
    let total = outcome.summary.total();
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for step in total.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = us(step.value_iterated_to().min(total.max()));
        let line = if quantile < 1.0 {
            format!("{value:12.3} {quantile:2.12} {count:10} {:14.2}\n", 1.0 / (1.0 - quantile))
        } else {
            format!("{value:12.3} {quantile:2.12} {count:10}\n")
        };
        text += &line;
    }
    text += &format!("#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n", total.mean() / 1e3, total.stdev() / 1e3);
    text += &format!("#[Max     = {:12.3}, Total count    = {:12}]\n", us(total.max()), total.len());
    text + &format!("#[Buckets = {:12}, SubBuckets     = {:12}]\n", total.buckets(), 2048)
}

/// Completions and their latencies in microseconds, one line an interval.
pub fn timeseries(outcome: &Outcome) -> String {
    let mut text = String::from("seconds,completions,p50_us,p99_us,max_us\n");
    for (interval, histogram) in (0u64..).zip(&outcome.summary.timeline) {
        let seconds = (interval * INTERVAL_NS) as f64 / 1e9;
        let [p50, p99] = [0.5, 0.99].map(|quantile| us(histogram.value_at_quantile(quantile)));
        let line = format!("{seconds:.1},{},{p50:.1},{p99:.1},{:.1}\n", histogram.len(), us(histogram.max()));
        text += &line;
    }
    text
}

/// What follows from the counters.
struct Figures {
    seconds: f64,
    per_second: f64,
    sent_bytes_per_second: f64,
    received_bytes_per_second: f64,
    cpu_us_per_op: f64,
    cpu_cores: f64,
    server_cpu_us_per_op: Option<f64>,
    server_cpu_cores: Option<f64>,
}

impl Figures {
    fn new(outcome: &Outcome) -> Figures {
        let summary = &outcome.summary;
        let window_ns = summary.window_ns.max(1) as f64;
        let seconds = window_ns / 1e9;
        let operations = summary.completed.max(1) as f64;
        let server_cpu_ns = summary.server_cpu_ns.map(|ns| ns as f64);
        Figures {
            seconds,
            per_second: summary.completed as f64 / seconds,
            sent_bytes_per_second: summary.wire.sent_bytes as f64 / seconds,
            received_bytes_per_second: summary.wire.received_bytes as f64 / seconds,
            cpu_us_per_op: summary.cpu_ns as f64 / 1e3 / operations,
            cpu_cores: summary.cpu_ns as f64 / window_ns,
            server_cpu_us_per_op: server_cpu_ns.map(|ns| ns / 1e3 / operations),
            server_cpu_cores: server_cpu_ns.map(|ns| ns / window_ns),
        }
    }
}

/// Name and latencies of each kind that occurred.
fn rows(outcome: &Outcome) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
    let kinds = Kind::ALL.iter().map(|kind| kind.name());
    kinds.zip(&outcome.summary.latencies).filter(|(_, histogram)| !histogram.is_empty())
}

fn describe(options: &LoadOptions) -> String {
    let op = match options.op {
        Op::Mixed => format!("mixed, {}% reads", options.reads),
        op => op_name(op).to_owned(),
    };
    let pace = match options.rate {
        Some(rate) => format!("{} connections at {} /s (open loop)", options.connections, thousands(rate)),
        None => format!("{} connections x {} outstanding (closed loop)", options.connections, options.outstanding),
    };
    format!("{op}, {} bytes, {pace}, {}", options.size, options.servers.join(","))
}

fn op_name(op: Op) -> &'static str {
    match op {
        Op::Set => "set",
        Op::Create => "create",
        Op::Get => "get",
        Op::Delete => "delete",
        Op::Mixed => "mixed",
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A whole number with separators.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(["0", "999", "1,000", "63,012", "1,000,000"], [0.0, 999.0, 1e3, 63_012.2, 1e6].map(thousands)[..]);
    }
}
