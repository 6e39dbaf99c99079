//! Results as a table, as a latency distribution and as a timeline.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::results::{Command, FaultCounts, Latency, Run, Sweep, us};

/// The head of the columns that [`latency_row`] fills.
pub const LATENCY_COLUMNS: &str = "       p50       p90       p99     p99.9    p99.99       max      mean";

/// One row of microseconds.
pub fn latency_row(latency: &Latency) -> String {
    let mut row = String::new();
    let Latency { p50, p90, p99, p99_9, p99_99, max, mean, .. } = latency;
    for value in [p50, p90, p99, p99_9, p99_99, max, mean] {
        write!(row, "{value:>10.1}").expect("a string takes any text");
    }
    row
}

/// The table of a run.
pub fn text(run: &Run) -> String {
    let mut lines = vec![format!("{}, {}", describe(run), run.servers.join(",")), String::new()];
    lines.push(format!(
        "  throughput    {} /s   ({} operations in {:.3} s)",
        thousands(run.operations_per_second),
        thousands(run.operations as f64),
        run.seconds
    ));
    lines.push(format!("  latency, us   {LATENCY_COLUMNS}"));
    for (name, latency) in &run.latency_us {
        lines.push(format!("    {name:<12}{}", latency_row(latency)));
    }
    let gap_began = run.longest_gap_began_seconds;
    lines.push(format!(
        "  longest gap   {:.1} ms without a completion, from {gap_began:.3} s on",
        run.longest_gap_us / 1e3
    ));
    if let Some(command) = &run.during {
        lines.push(format!("  during it     {}", command_line(command)));
    }
    if let Some(recovery) = &run.recovery {
        lines.push(format!("    {:<12}{}", "outage", latency_row(&recovery.outage_us)));
        lines.push(format!(
            "  recovery      {} connections had again, {} sessions expired, {} requests repeated",
            recovery.reconnects, recovery.sessions_expired, recovery.requests_repeated
        ));
    }
    if let Some(open_loop) = &run.open_loop {
        lines.push(format!("    {:<12}{}", "send lag", latency_row(&open_loop.send_lag_us)));
        let mut line = format!("  open loop     at most {} unanswered", thousands(open_loop.backlog_peak as f64));
        if open_loop.held_back > 0 {
            line += &format!(
                "; {} went out late at the limit of {}",
                thousands(open_loop.held_back as f64),
                thousands(open_loop.backlog_limit as f64)
            );
        }
        if open_loop.never_sent > 0 {
            line += &format!("; {} were due and never sent, so the latencies are too good", open_loop.never_sent);
        }
        lines.push(line);
    }
    lines.push(format!(
        "  wire          {:.1} MB/s sent, {:.1} MB/s received",
        run.sent_bytes_per_second / 1e6,
        run.received_bytes_per_second / 1e6
    ));
    lines.push(format!(
        "  this program  {:.2} us CPU an operation, {:.0}% of a core",
        run.generator_cpu_us_per_op,
        run.generator_cpu_cores * 100.0
    ));
    if let (Some(cpu_us_per_op), Some(cores)) = (run.server_cpu_us_per_op, run.server_cpu_cores) {
        lines.push(format!("  server        {cpu_us_per_op:.2} us CPU an operation, {:.0}% of a core", cores * 100.0));
    }
    lines.push(format!(
        "  around it     {:.1} s to make the keys, {:.1} s to clean up",
        run.prepare_seconds, run.clean_up_seconds
    ));
    if let Some(kept) = &run.kept {
        lines.push(format!("  kept          {kept}"));
    }
    lines.extend(fault_lines(&run.faults));
    lines.join("\n") + "\n"
}

/// The table of a sweep, a step a line.
pub fn sweep_text(sweep: &Sweep) -> String {
    let mut lines = Vec::new();
    if let Some(first) = sweep.steps.first() {
        lines.push(format!("{}, {} from low to high, {}", what(first), sweep.sweep, first.servers.join(",")));
        lines.push(String::new());
    }
    lines.push(format!("  {:<20}{:>12}{LATENCY_COLUMNS}", "latency, us", "/s"));
    for step in &sweep.steps {
        for (name, latency) in &step.latency_us {
            let pace = if step.latency_us.len() > 1 { format!("{} {name}", pace(step)) } else { pace(step) };
            lines.push(format!("  {pace:<20}{:>12}{}", thousands(step.operations_per_second), latency_row(latency)));
        }
        if !step.faults.is_empty() {
            lines.extend(fault_lines(&step.faults));
        }
    }
    lines.join("\n") + "\n"
}

fn command_line(command: &Command) -> String {
    let Command { command, began_seconds, ended_seconds, failure } = command;
    let began = began_seconds.map_or("not begun".to_owned(), |seconds| format!("from {seconds:.3} s"));
    let ended = ended_seconds.map_or("not ended".to_owned(), |seconds| format!("to {seconds:.3} s"));
    let failure = failure.as_ref().map_or(String::new(), |failure| format!(": FAILED, {failure}"));
    format!("{command}   ({began}, {ended}){failure}")
}

fn fault_lines(faults: &FaultCounts) -> Vec<String> {
    if faults.is_empty() {
        return vec!["  faults        none".to_owned()];
    }
    let mut lines = vec![format!(
        "  faults        {} error replies, {} wrong replies, {} connections lost, {} requests unanswered",
        faults.error_replies, faults.wrong_replies, faults.connections_lost, faults.unanswered
    )];
    let codes = faults.error_codes.iter().filter_map(|(what, count)| Some((what.split_once(' ')?, count)));
    lines.extend(codes.map(|((kind, err), count)| format!("                {count} times error {err} to {kind}")));
    lines.extend(faults.messages.iter().map(|message| format!("                {message}")));
    lines
}

/// What a run did, and at which pace.
pub fn describe(run: &Run) -> String {
    let pace = match (run.rate, run.outstanding) {
        (Some(rate), _) => format!("{} connections at {} /s (open loop)", run.connections, thousands(rate)),
        (None, Some(outstanding)) => {
            format!("{} connections x {outstanding} outstanding (closed loop)", run.connections)
        }
        (None, None) => format!("{} connections (closed loop)", run.connections),
    };
    format!("{}, {pace}", what(run))
}

/// What a run did.
pub fn what(run: &Run) -> String {
    let mut text = run.op.clone();
    if let Some(percent) = run.reads_percent {
        text += &format!(", {percent}% reads");
    }
    if let Some(parts) = run.multi_parts {
        text += &format!(" of {parts}");
    }
    if let Some(spread) = &run.spread {
        text += &format!(", {spread} keys");
    }
    // Sessions have no data.
    if matches!(run.op.as_str(), "session" | "resume") { text } else { format!("{text}, {} bytes", run.size_bytes) }
}

fn pace(run: &Run) -> String {
    match (run.rate, run.outstanding) {
        (Some(rate), _) => format!("{} /s", thousands(rate)),
        (None, outstanding) => format!("{} x {}", run.connections, outstanding.unwrap_or(1)),
    }
}

/// Latencies in nanoseconds in the text form of HdrHistogram's tools, in microseconds.
pub fn hgrm(total: &Histogram<u64>) -> String {
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
pub fn timeseries(run: &Run) -> String {
    let mut text = String::from("seconds,completions,p50_us,p99_us,max_us\n");
    let rows = &run.timeline;
    let latencies = rows.p50_us.iter().zip(&rows.p99_us).zip(&rows.max_us);
    for (interval, (completions, ((p50, p99), max))) in rows.completions.iter().zip(latencies).enumerate() {
        let seconds = interval as f64 * rows.interval_seconds;
        writeln!(text, "{seconds:.2},{completions},{p50:.1},{p99:.1},{max:.1}").expect("a string takes any text");
    }
    text
}

/// A whole number with separators.
pub fn thousands(number: f64) -> String {
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
