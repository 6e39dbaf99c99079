//! `mntr`: every figure that Apache's server has, under its name, and those of this server's own.
//!
//! A figure of something that a server of this kind does not have (the stages of Apache's pipeline, caches, TLS) is 0, as it
//! is in an Apache server that has not used it: monitoring looks for the names. docs/compat.md lists them.
//!
//! Source: `ZooKeeperServer.registerMetrics`, `ServerMetrics`.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use serde_json::Map;

use super::metrics::{BUCKETS_US, LogReading, Spread};
use crate::cnxn::{Counters, Latency, Summary};
use crate::storage::recovery::Took;
use crate::zab::effect::Mode;
use crate::zab::peer::status::{Counts, Status, Times};

/// What the figures are made of.
pub struct Figures<'a> {
    /// The version line.
    pub version: &'a str,
    /// `standalone`, `leader`, `follower` or `observer`.
    pub role: &'a str,
    /// Of a server of an ensemble.
    pub status: Option<&'a Status>,
    /// Of a server of an ensemble, whether it serves or not.
    pub times: Option<&'a Times>,
    /// How long its elections took, in ms.
    pub elections: Summary,
    /// Of all shards.
    pub counters: &'a Counters,
    /// Open connections.
    pub connections: usize,
    /// Requests without a reply.
    pub outstanding: usize,
    /// As Apache counts them.
    pub znodes: usize,
    /// In both tables.
    pub watches: usize,
    /// Of all sessions.
    pub ephemerals: usize,
    /// Of paths and data.
    pub data_bytes: u64,
    /// Open ones.
    pub sessions: usize,
    /// Open ones that only this server knows.
    pub local_sessions: usize,
    /// Since the start.
    pub uptime_ms: u128,
    /// Of this process.
    pub open_files: u64,
    /// That this process may have.
    pub open_files_max: u64,
    /// Connections that the limits did not admit.
    pub rejected: u64,
    /// How likely a connect is dropped.
    pub drop_chance: f64,
    /// Of the log.
    pub log: LogReading,
}

/// Counters of what is not here. `tests/compat.rs` looks for these names in docs/compat.md.
pub const ABSENT_COUNTERS: [&str; 28] = [
    "add_dead_watcher_stall_time",
    "dead_watchers_cleared",
    "dead_watchers_queued",
    "ensemble_auth_fail",
    "ensemble_auth_skip",
    "ensemble_auth_success",
    "insecure_admin_count",
    "non_mtls_local_conn_count",
    "non_mtls_remote_conn_count",
    "outstanding_changes_queued",
    "outstanding_changes_removed",
    "outstanding_tls_handshake",
    "prep_processor_request_queued",
    "request_commit_queued",
    "requests_not_forwarded_to_commit_processor",
    "response_packet_cache_hits",
    "response_packet_cache_misses",
    "response_packet_get_children_cache_hits",
    "response_packet_get_children_cache_misses",
    "restore_error_count",
    "restore_rate_limited_count",
    "skip_learner_request_to_next_processor_count",
    "snapshot_rate_limited_count",
    "stale_replies",
    "stale_requests",
    "tls_handshake_exceeded",
    "unrecoverable_error_count",
    "unsuccessful_handshake",
];

/// Summaries of what is not here.
pub const ABSENT_SUMMARIES: [&str; 26] = [
    "commit_commit_proc_req_queued",
    "commit_process_time",
    "concurrent_request_processing_in_commit_processor",
    "connection_token_deficit",
    "inflight_diff_count",
    "inflight_snap_count",
    "learner_request_processor_queue_size",
    "netty_queued_buffer_capacity",
    "pending_session_queue_size",
    "prep_process_time",
    "prep_processor_queue_size",
    "proposal_process_time",
    "read_commit_proc_issued",
    "read_commit_proc_req_queued",
    "reads_after_write_in_session_queue",
    "reads_issued_from_session_queue",
    "requests_in_session_queue",
    "restore_time",
    "session_queues_drained",
    "socket_closing_time",
    "sync_process_time",
    "sync_processor_queue_size",
    "time_waiting_empty_pool_in_commit_processor_read_ms",
    "write_batch_time_in_commit_processor",
    "write_commit_proc_issued",
    "write_commit_proc_req_queued",
];

/// The same with quantiles.
pub const ABSENT_LATENCIES: [&str; 15] = [
    "close_session_prep_time",
    "dead_watchers_cleaner_latency",
    "jvm_pause_time_ms",
    "local_write_committed_time_ms",
    "om_commit_process_time_ms",
    "om_proposal_process_time_ms",
    "prep_processor_queue_time_ms",
    "proposal_ack_creation_latency",
    "read_commitproc_time_ms",
    "read_final_proc_time_ms",
    "request_throttle_queue_time_ms",
    "server_write_committed_time_ms",
    "sync_processor_queue_and_flush_time_ms",
    "write_commitproc_time_ms",
    "write_final_proc_time_ms",
];

/// A number that goes up and down.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A whole one.
    Int(i128),
    /// Another.
    Double(f64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Int(number.into())
    }
}

impl Value {
    /// What `mntr` prints.
    fn as_java(self) -> String {
        match self {
            Value::Int(number) => number.to_string(),
            Value::Double(number) => java_double(number),
        }
    }

    /// What the AdminServer's `monitor` has.
    fn as_json(self) -> serde_json::Value {
        match self {
            Value::Int(number) => i64::try_from(number).unwrap_or(i64::MAX).into(),
            Value::Double(number) => rounded(number).into(),
        }
    }

    /// What Prometheus knows.
    pub fn as_f64(self) -> f64 {
        match self {
            Value::Int(number) => number as f64,
            Value::Double(number) => rounded(number),
        }
    }
}

/// Takes figures.
pub trait Sink {
    /// Something that is no number.
    fn text(&mut self, name: &str, value: &str);
    /// A number that goes up and down.
    fn gauge(&mut self, name: &str, value: Value);
    /// A number that only grows.
    fn counter(&mut self, name: &str, value: u64);
    /// Of these Apache keeps no quantiles but, with Prometheus, the median.
    fn summary(&mut self, name: &str, summary: &Summary);
    /// And of these it does.
    fn latency(&mut self, name: &str, latency: &Latency);
    /// A figure of this server's own.
    fn own(&mut self, name: &str, value: Value);
}

fn spread(sink: &mut impl Sink, name: &str, spread: &Spread) {
    sink.own(&format!("{name}_p50_us"), spread.p50.into());
    sink.own(&format!("{name}_p99_us"), spread.p99.into());
    sink.own(&format!("{name}_max_us"), spread.max.into());
}

/// What `mntr` has beyond that on a server of an ensemble.
fn tell_of_ensemble(status: &Status, sink: &mut impl Sink) {
    sink.text(
        "peer_state",
        match status.mode {
            Mode::Leading => "leading - broadcast",
            Mode::Following => "following - broadcast",
            Mode::Observing => "observing - broadcast",
            Mode::ReadOnly => "looking",
        },
    );
    let count = |count: usize| Value::Int(count as i128);
    if let Some(master) = status.observer_master {
        sink.gauge("observer_master_id", Value::Int(master.0.into()));
    }
    sink.gauge("quorum_size", count(status.quorum_size));
    if let Some(observers) = &status.observers {
        sink.gauge("synced_observers", count(observers.len()));
    }
    if let Some(leading) = &status.leading {
        sink.gauge("learners", count(leading.learners));
        sink.gauge("synced_followers", count(leading.followers));
        sink.gauge("synced_non_voting_followers", count(leading.non_voting));
        sink.gauge("pending_syncs", count(leading.pending_syncs));
        sink.gauge("leader_uptime", leading.uptime_ms.into());
        let [last, min, max] = leading.proposal_bytes.map_or([-1; 3], |bytes| bytes.map(|bytes| bytes as i128));
        sink.gauge("last_proposal_size", Value::Int(last));
        sink.gauge("min_proposal_size", Value::Int(min));
        sink.gauge("max_proposal_size", Value::Int(max));
    }
}

/// What happens in an ensemble; on a standalone server nothing does.
fn tell_counts(counts: Counts, sink: &mut impl Sink) {
    for (name, count) in [
        ("proposal_count", counts.proposals),
        ("commit_count", counts.commits),
        ("learner_proposal_received_count", counts.received_proposals),
        ("learner_commit_received_count", counts.received_commits),
        ("looking_count", counts.lookings),
        ("snap_count", counts.snapshots),
        ("diff_count", counts.diffs),
        ("revalidate_count", counts.revalidations),
        ("digest_mismatches_count", counts.digest_mismatches),
        ("quit_leading_due_to_disloyal_voter", counts.disloyal_voters),
    ] {
        sink.counter(name, count);
    }
}

/// How long the start took. As with Apache, nothing is told of a log if there was none to read.
fn tell_start(took: Option<Took>, sink: &mut impl Sink) {
    let one = |value: Option<u64>| {
        let mut summary = Summary::default();
        value.into_iter().for_each(|value| summary.add(value));
        summary
    };
    let ms = |time: Duration| time.as_millis() as u64;
    let replay = took.filter(|took| took.txns > 0);
    sink.summary("dbinittime", &one(took.map(|took| ms(took.all))));
    sink.summary("startup_snap_load_time", &one(took.map(|took| ms(took.snapshot))));
    sink.summary("startup_txns_loaded", &one(replay.map(|took| took.txns)));
    sink.summary("startup_txns_load_time", &one(replay.map(|took| ms(took.logs))));
}

/// What takes time in an ensemble; on a standalone server nothing does.
fn tell_times(times: &Times, sink: &mut impl Sink) {
    sink.summary("unavailable_time", &times.unavailable);
    sink.summary("leader_unavailable_time", &times.leader_unavailable);
    sink.summary("follower_sync_time", &times.follower_syncs);
    sink.summary("observer_sync_time", &times.observer_syncs);
    sink.latency("proposal_latency", &times.proposals);
    sink.latency("commit_propagation_latency", &times.commits);
    sink.latency("quorum_ack_latency", &times.quorum_acks);
}

impl Figures<'_> {
    /// One line a figure: its name, a tab, its value.
    pub fn text(&self) -> String {
        let mut lines = Lines(String::new());
        self.tell(&mut lines);
        lines.0
    }

    /// The same as an object, without `zk_` before the names.
    pub fn json(&self) -> Map<String, serde_json::Value> {
        let mut object = Object(Map::new());
        self.tell(&mut object);
        object.0
    }

    /// Gives all figures out, in the order of `mntr`.
    pub fn tell(&self, sink: &mut impl Sink) {
        let c = self.counters;
        sink.text("version", self.version);
        sink.text("server_state", self.role);
        if let Some(status) = self.status {
            tell_of_ensemble(status, sink);
        }
        sink.gauge("ephemerals_count", Value::Int(self.ephemerals as i128));
        sink.gauge("num_alive_connections", Value::Int(self.connections as i128));
        sink.gauge("avg_latency", Value::Double(c.latency.average()));
        sink.gauge("outstanding_requests", Value::Int(self.outstanding as i128));
        sink.gauge("znode_count", Value::Int(self.znodes as i128));
        sink.gauge("global_sessions", Value::Int(self.sessions as i128));
        sink.gauge("local_sessions", Value::Int(self.local_sessions as i128));
        sink.gauge(
            "last_client_response_size",
            Value::Int(c.last_reply_bytes.map_or(-1, |bytes| bytes as i64) as i128),
        );
        sink.gauge("packets_sent", Value::Int(c.sent as i128));
        sink.gauge("packets_received", Value::Int(c.received as i128));
        let some_replies = c.reply_bytes.count > 0;
        sink.gauge(
            "max_client_response_size",
            Value::Int(if some_replies { c.reply_bytes.max as i64 } else { -1 } as i128),
        );
        sink.gauge(
            "min_client_response_size",
            Value::Int(if some_replies { c.reply_bytes.min as i64 } else { -1 } as i128),
        );
        sink.gauge("connection_drop_probability", Value::Double(self.drop_chance));
        sink.gauge("watch_count", Value::Int(self.watches as i128));
        sink.gauge("auth_failed_count", Value::Int(c.auth_failed as i128));
        sink.gauge("min_latency", Value::Int(c.latency.min as i128));
        sink.gauge("max_latency", Value::Int(c.latency.max as i128));
        sink.gauge("max_file_descriptor_count", Value::Int(self.open_files_max as i128));
        sink.gauge("open_file_descriptor_count", Value::Int(self.open_files as i128));
        sink.gauge("approximate_data_size", Value::Int(self.data_bytes as i128));
        sink.gauge("uptime", Value::Int(self.uptime_ms as i128));
        sink.counter("bytes_received_count", c.received_bytes);
        sink.counter("response_bytes", c.reply_bytes.sum);
        sink.counter("connection_rejected", self.rejected);
        sink.counter("connection_request_count", c.connects);
        sink.counter("connection_revalidate_count", c.renewals);
        sink.counter("throttled_ops", c.throttled);
        sink.counter("request_throttle_wait_count", c.throttle_waits);
        sink.counter("large_requests_rejected", c.large_rejected);
        sink.counter("sessionless_connections_expired", c.sessionless_expired);
        sink.counter("watch_bytes", c.event_bytes);
        sink.counter("cnxn_closed_without_zk_server_running", c.closed_unserved);
        sink.counter("stale_requests_dropped", c.stale_dropped);
        sink.counter("connection_drop_count", c.dropped);
        sink.counter("sync_processor_request_queued", self.log.records);
        sink.counter("snapshot_error_count", self.log.snapshot_errors);
        let counts = self.status.map(|status| status.counts).unwrap_or_default();
        sink.counter("stale_sessions_expired", counts.expired_sessions + self.log.expired_sessions);
        tell_counts(counts, sink);
        ABSENT_COUNTERS.iter().for_each(|name| sink.counter(name, 0));
        sink.summary("node_created_watch_count", &c.created_watches);
        sink.summary("node_deleted_watch_count", &c.deleted_watches);
        sink.summary("node_changed_watch_count", &c.changed_watches);
        sink.summary("node_children_watch_count", &c.children_watches);
        sink.summary("fsynctime", &self.log.flush_ms.summary);
        sink.summary("sync_processor_batch_size", &self.log.txns_per_flush);
        sink.summary("snapshottime", &self.log.snapshot_ms);
        tell_start(self.log.loading, sink);
        sink.summary("election_time", &self.elections);
        ABSENT_SUMMARIES.iter().for_each(|name| sink.summary(name, &Summary::default()));
        sink.latency("readlatency", &c.reads);
        sink.latency("updatelatency", &c.writes);
        sink.latency("propagation_latency", &self.log.propagation);
        sink.latency("sync_processor_queue_time_ms", &self.log.wait_ms);
        sink.latency("sync_processor_queue_flush_time_ms", &self.log.flush_ms);
        tell_times(self.times.unwrap_or(&Times::default()), sink);
        let none = Latency::default();
        ABSENT_LATENCIES.iter().for_each(|name| sink.latency(name, &none));
        sink.own("log_flushes", self.log.flushes.into());
        sink.own("log_flushed_txns", self.log.records.into());
        sink.own("log_flushed_bytes", self.log.bytes.into());
        let per_flush = |count: u64| Value::Double(count as f64 / self.log.flushes.max(1) as f64);
        sink.own("log_txns_per_flush", per_flush(self.log.records));
        sink.own("log_bytes_per_flush", per_flush(self.log.bytes));
        spread(sink, "log_flush", &self.log.flush);
        for (us, count) in BUCKETS_US.iter().zip(self.log.flushes_within) {
            sink.own(&format!("log_flushes_within_{us}_us"), count.into());
        }
        spread(sink, "log_flush_wait", &self.log.wait);
        sink.own("log_major_faults", self.log.major_faults.into());
    }
}

struct Lines(String);

impl Lines {
    fn put(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "zk_{name}\t{value}");
    }
}

impl Sink for Lines {
    fn text(&mut self, name: &str, value: &str) {
        self.put(name, value);
    }

    fn gauge(&mut self, name: &str, value: Value) {
        self.put(name, value.as_java());
    }

    fn counter(&mut self, name: &str, value: u64) {
        self.put(name, value);
    }

    fn summary(&mut self, name: &str, summary: &Summary) {
        parts_of(name, summary).into_iter().for_each(|(name, value)| self.gauge(&name, value));
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        self.summary(name, &latency.summary);
        quantiles_of(name, latency).into_iter().for_each(|(name, value)| self.gauge(&name, value));
    }

    fn own(&mut self, name: &str, value: Value) {
        let _ = writeln!(self.0, "ringkeeper_{name}\t{}", value.as_java());
    }
}

struct Object(Map<String, serde_json::Value>);

impl Sink for Object {
    fn text(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn gauge(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value.as_json());
    }

    fn counter(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn summary(&mut self, name: &str, summary: &Summary) {
        parts_of(name, summary).into_iter().for_each(|(name, value)| self.gauge(&name, value));
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        self.summary(name, &latency.summary);
        quantiles_of(name, latency).into_iter().for_each(|(name, value)| self.gauge(&name, value));
    }

    fn own(&mut self, name: &str, value: Value) {
        self.0.insert(format!("ringkeeper_{name}"), value.as_json());
    }
}

fn parts_of(name: &str, summary: &Summary) -> [(String, Value); 5] {
    let whole = |short: &str, number: u64| (format!("{short}_{name}"), Value::Int(number.into()));
    [
        (format!("avg_{name}"), Value::Double(summary.average())),
        whole("min", summary.min),
        whole("max", summary.max),
        whole("cnt", summary.count),
        whole("sum", summary.sum),
    ]
}

fn quantiles_of(name: &str, latency: &Latency) -> [(String, Value); 4] {
    [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)]
        .map(|(short, part)| (format!("{short}_{name}"), Value::Int(latency.quantile(part).into())))
}

/// To four decimals, as Apache tells averages.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// Up to four decimals, at least one.
pub(super) fn java_double(value: f64) -> String {
    let text = format!("{value:.4}");
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}
