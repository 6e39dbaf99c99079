//! `stats`: what is in the log, counted.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use hdrhistogram::Histogram;
use ringkeeper::proto::txn::{LoggedTxn, Txn};
use ringkeeper::storage::inspect::{Entry, Item, LogReader, find_logs};
use ringkeeper::types::Zxid;
use serde_json::{Value, json};

use crate::filter::Logged;
use crate::offline::Verdict;
use crate::offline::output::{Out, human_bytes};
use crate::offline::progress::Progress;
use crate::offline::times;
use crate::options::StatsOptions;
use crate::text;

/// Prefixes and sessions that are counted each for itself; whatever comes beyond them is counted together.
const KEYS_MAX: usize = 100_000;
/// Spans of time in the rate table; with more, two become one.
const SPANS_MAX: usize = 60;

/// See the options.
pub fn run(options: &StatsOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut stats = Stats::new();
    let mut verdict = Verdict::Fine;
    for path in &options.paths {
        let files = find_logs(path)?;
        let sizes = files.iter().map(|file| fs::metadata(&file.path).map_or(0, |metadata| metadata.len()));
        let mut progress = Progress::new(sizes.sum(), false);
        for (i, file) in files.iter().enumerate() {
            let size = fs::metadata(&file.path).map_or(0, |metadata| metadata.len());
            let Some(mut reader) = LogReader::open(file)? else { continue };
            stats.batch_ends();
            if !options.filter.may_be_in(file, files.get(i + 1)) {
                progress.file_done(size);
                continue;
            }
            loop {
                match reader.read()? {
                    Item::Txn(entry) => {
                        progress.at(entry.end);
                        stats.entry(&entry, options);
                    }
                    Item::Break(broken) => {
                        eprintln!("{} at byte {}: {}: see verify", file.path.display(), broken.position, broken.what);
                        if !broken.is_torn {
                            verdict = Verdict::Found;
                        }
                        break;
                    }
                    Item::End => break,
                }
            }
            progress.file_done(size);
        }
    }
    stats.batch_ends();
    let mut out = Out::new();
    if options.json {
        out.json(&stats.value(options.top))?;
    } else {
        out.text(&stats.text(options.top))?;
    }
    out.flush()?;
    Ok(verdict)
}

#[derive(Clone, Copy, Default)]
struct Count {
    transactions: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.transactions += 1;
        self.bytes += bytes;
    }
}

struct Stats {
    all: Count,
    first: Option<(Zxid, i64)>,
    last: Option<(Zxid, i64)>,
    types: BTreeMap<String, Count>,
    paths: BTreeMap<String, Count>,
    sessions: BTreeMap<String, Count>,
    sizes: Histogram<u64>,
    batches: Histogram<u64>,
    /// What the open batch's records say was durable, and how many there are.
    batch: Option<(u64, u64)>,
    rate: Rate,
}

impl Stats {
    fn new() -> Stats {
        // Three digits of every size there is.
        let histogram = || Histogram::new(3).expect("3 is a number of digits");
        Stats {
            all: Count::default(),
            first: None,
            last: None,
            types: BTreeMap::new(),
            paths: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sizes: histogram(),
            batches: histogram(),
            batch: None,
            rate: Rate::default(),
        }
    }

    fn entry(&mut self, entry: &Entry, options: &StatsOptions) {
        // Records that were made between two ends of flushes wait for the same one.
        match (&mut self.batch, entry.durable) {
            (Some((durable, records)), Some(now)) if *durable == now => *records += 1,
            (_, Some(now)) => {
                self.batch_ends();
                self.batch = Some((now, 1));
            }
            (_, None) => {}
        }
        let Ok(txn) = LoggedTxn::decode(&entry.payload) else { return };
        let logged = Logged { entry, txn };
        if !options.filter.wants(&logged) {
            return;
        }
        let (header, bytes) = (logged.txn.header, entry.payload.len() as u64);
        self.all.add(bytes);
        self.first.get_or_insert((entry.zxid, header.time.0));
        self.last = Some((entry.zxid, header.time.0));
        self.sizes.saturating_record(bytes);
        self.rate.add(header.time.0);
        add(&mut self.types, text::type_name(text::type_code(&entry.payload)), bytes);
        add(&mut self.sessions, header.session.to_string(), bytes);
        self.add_paths(&logged.txn.txn, bytes, options.depth);
    }

    /// Each part of a multi counts where it is, with its share of the bytes.
    fn add_paths(&mut self, txn: &Txn, bytes: u64, depth: usize) {
        match txn {
            Txn::Multi(parts) => {
                let share = bytes / parts.len().max(1) as u64;
                parts.iter().for_each(|part| self.add_paths(part, share, depth));
            }
            Txn::CloseSession { paths } => {
                let paths = paths.as_deref().unwrap_or_default();
                let share = bytes / paths.len().max(1) as u64;
                paths.iter().for_each(|path| add(&mut self.paths, prefix(path, depth), share));
            }
            txn => {
                if let Some(path) = text::path(txn) {
                    add(&mut self.paths, prefix(path, depth), bytes);
                }
            }
        }
    }

    fn batch_ends(&mut self) {
        if let Some((_, records)) = self.batch.take() {
            self.batches.saturating_record(records);
        }
    }

    fn text(&self, top: usize) -> String {
        let mut text = String::new();
        let Count { transactions, bytes } = self.all;
        text += &format!("{transactions} transactions, {}\n", human_bytes(bytes));
        if let (Some((first, from)), Some((last, until))) = (self.first, self.last) {
            let seconds = (until - from).max(0) as f64 / 1000.0;
            text += &format!("{first} to {last}, {} to {}", times::rfc3339(from), times::rfc3339(until));
            if seconds > 0.0 {
                text += &format!(", {:.1} a second", transactions as f64 / seconds);
            }
            text.push('\n');
        }
        for (title, counts) in [("type", &self.types), ("path", &self.paths), ("session", &self.sessions)] {
            text += &table(title, counts, top);
        }
        text += "\nsize of a transaction in bytes\n";
        text += &quantiles(&self.sizes);
        if !self.batches.is_empty() {
            text += &format!("\ntransactions in a flush, over {} flushes\n", self.batches.len());
            text += &quantiles(&self.batches);
        }
        text + &self.rate.text()
    }

    fn value(&self, top: usize) -> Value {
        let point = |point: Option<(Zxid, i64)>| {
            point.map(|(zxid, ms)| json!({ "zxid": zxid.to_string(), "time": times::rfc3339(ms) }))
        };
        let counts = |counts: &BTreeMap<String, Count>| -> Value {
            let row = |(name, count): &(&String, &Count)| json!({ "name": name, "transactions": count.transactions, "bytes": count.bytes });
            sorted(counts).iter().take(top).map(row).collect()
        };
        let quantiles = |histogram: &Histogram<u64>| {
            let at = |quantile| histogram.value_at_quantile(quantile);
            json!({
                "count": histogram.len(), "min": histogram.min(), "mean": histogram.mean(), "p50": at(0.5),
                "p90": at(0.9), "p99": at(0.99), "max": histogram.max(),
            })
        };
        json!({
            "transactions": self.all.transactions,
            "bytes": self.all.bytes,
            "first": point(self.first),
            "last": point(self.last),
            "types": counts(&self.types),
            "paths": counts(&self.paths),
            "sessions": counts(&self.sessions),
            "size": quantiles(&self.sizes),
            "flush": (!self.batches.is_empty()).then(|| quantiles(&self.batches)),
            "rate": self.rate.value(),
        })
    }
}

fn add(counts: &mut BTreeMap<String, Count>, key: String, bytes: u64) {
    let is_full = counts.len() >= KEYS_MAX && !counts.contains_key(&key);
    counts.entry(if is_full { "(others)".to_owned() } else { key }).or_default().add(bytes);
}

/// The first names of a path.
fn prefix(path: &str, depth: usize) -> String {
    let end = path.match_indices('/').nth(depth).map_or(path.len(), |(at, _)| at);
    match &path[..end] {
        "" => "/".to_owned(),
        prefix => prefix.to_owned(),
    }
}

fn sorted(counts: &BTreeMap<String, Count>) -> Vec<(&String, &Count)> {
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.transactions));
    rows
}

fn table(title: &str, counts: &BTreeMap<String, Count>, top: usize) -> String {
    let rows = sorted(counts);
    let mut text = format!("\n{:>12} {:>12}  {title}\n", "transactions", "bytes");
    for (name, count) in rows.iter().take(top) {
        text += &format!("{:>12} {:>12}  {name}\n", count.transactions, count.bytes);
    }
    if rows.len() > top {
        text += &format!("{:>12} {:>12}  … and {} more\n", "", "", rows.len() - top);
    }
    text
}

fn quantiles(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile);
    format!(
        "  min {}  mean {:.1}  p50 {}  p90 {}  p99 {}  max {}\n",
        histogram.min(),
        histogram.mean(),
        at(0.5),
        at(0.9),
        at(0.99),
        histogram.max()
    )
}

/// Transactions over time, in spans of equal length that grow as the log goes on.
#[derive(Default)]
struct Rate {
    start: i64,
    span_ms: i64,
    counts: Vec<u64>,
}

impl Rate {
    fn add(&mut self, time: i64) {
        if self.counts.is_empty() {
            (self.start, self.span_ms) = (time, 1000);
        }
        // A clock that was set back: counted where the log is.
        let at = |rate: &Rate| time.saturating_sub(rate.start).max(0) / rate.span_ms;
        while at(self) >= SPANS_MAX as i64 {
            self.counts = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.span_ms = self.span_ms.saturating_mul(2);
        }
        let at = at(self) as usize;
        self.counts.resize(self.counts.len().max(at + 1), 0);
        self.counts[at] += 1;
    }

    fn text(&self) -> String {
        if self.counts.is_empty() {
            return String::new();
        }
        let most = *self.counts.iter().max().expect("there are some");
        let mut text = format!("\ntransactions in each {} s\n", self.span_ms / 1000);
        for (i, count) in self.counts.iter().enumerate() {
            let bar = "#".repeat((40 * count).div_ceil(most.max(1)) as usize);
            text += &format!("  {} {count:>10} {bar}\n", times::rfc3339(self.start + i as i64 * self.span_ms));
        }
        text
    }

    fn value(&self) -> Value {
        json!({ "start": times::rfc3339(self.start), "span_ms": self.span_ms, "transactions": self.counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_so_many_names() {
        for (path, depth, expected) in
            [("/a/b/c", 1, "/a"), ("/a/b/c", 2, "/a/b"), ("/a", 2, "/a"), ("/", 1, "/"), ("/a/b", 0, "/")]
        {
            assert_eq!(prefix(path, depth), expected, "{path} {depth}");
        }
    }

    #[test]
    fn spans_grow_with_the_log() {
        let mut rate = Rate::default();
        (0..1000).for_each(|i| rate.add(i * 500));
        rate.add(-5);
        assert_eq!((rate.counts.iter().sum::<u64>(), rate.span_ms), (1001, 16_000));
        assert!(rate.counts.len() <= SPANS_MAX);
        rate.add(i64::MAX);
        assert_eq!(rate.counts.iter().sum::<u64>(), 1002);
    }
}
