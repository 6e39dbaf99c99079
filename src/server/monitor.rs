//! `mntr`: every figure that Apache's server has, under its name, and those of this server's own.
//!
//! A figure of something that a standalone server of this kind does not have (the stages of Apache's pipeline, learners,
//! caches, TLS) is 0, as it is in an Apache server that has not used it; monitoring looks for the names.
//! Source: `ZooKeeperServer.registerMetrics`, `ServerMetrics`.

use std::fmt::{Display, Write as _};

use super::metrics::LogReading;
use crate::cnxn::{Counters, Latency, Summary};

/// What the figures are made of.
pub struct Figures<'a> {
    /// The version line.
    pub version: &'a str,
    /// `standalone`, `leader`, `follower` or `observer`.
    pub role: &'a str,
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

/// Counters of what is not here.
const ABSENT_COUNTERS: [&str; 43] = [
    "add_dead_watcher_stall_time",
    "cnxn_closed_without_zk_server_running",
    "commit_count",
    "connection_drop_count",
    "dead_watchers_cleared",
    "dead_watchers_queued",
    "diff_count",
    "digest_mismatches_count",
    "ensemble_auth_fail",
    "ensemble_auth_skip",
    "ensemble_auth_success",
    "insecure_admin_count",
    "learner_commit_received_count",
    "learner_proposal_received_count",
    "looking_count",
    "non_mtls_local_conn_count",
    "non_mtls_remote_conn_count",
    "outstanding_changes_queued",
    "outstanding_changes_removed",
    "outstanding_tls_handshake",
    "prep_processor_request_queued",
    "proposal_count",
    "quit_leading_due_to_disloyal_voter",
    "request_commit_queued",
    "requests_not_forwarded_to_commit_processor",
    "response_packet_cache_hits",
    "response_packet_cache_misses",
    "response_packet_get_children_cache_hits",
    "response_packet_get_children_cache_misses",
    "restore_error_count",
    "restore_rate_limited_count",
    "revalidate_count",
    "skip_learner_request_to_next_processor_count",
    "snap_count",
    "snapshot_error_count",
    "snapshot_rate_limited_count",
    "stale_replies",
    "stale_requests",
    "stale_requests_dropped",
    "stale_sessions_expired",
    "sync_processor_request_queued",
    "tls_handshake_exceeded",
    "unsuccessful_handshake",
];

/// Summaries of what is not here.
const ABSENT_SUMMARIES: [&str; 37] = [
    "commit_commit_proc_req_queued",
    "commit_process_time",
    "concurrent_request_processing_in_commit_processor",
    "connection_token_deficit",
    "dbinittime",
    "election_time",
    "follower_sync_time",
    "inflight_diff_count",
    "inflight_snap_count",
    "leader_unavailable_time",
    "learner_request_processor_queue_size",
    "netty_queued_buffer_capacity",
    "observer_sync_time",
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
    "snapshottime",
    "socket_closing_time",
    "startup_snap_load_time",
    "startup_txns_load_time",
    "startup_txns_loaded",
    "sync_process_time",
    "sync_processor_batch_size",
    "sync_processor_queue_size",
    "time_waiting_empty_pool_in_commit_processor_read_ms",
    "unavailable_time",
    "write_batch_time_in_commit_processor",
    "write_commit_proc_issued",
    "write_commit_proc_req_queued",
];

/// The same with quantiles.
const ABSENT_LATENCIES: [&str; 21] = [
    "close_session_prep_time",
    "commit_propagation_latency",
    "dead_watchers_cleaner_latency",
    "jvm_pause_time_ms",
    "local_write_committed_time_ms",
    "om_commit_process_time_ms",
    "om_proposal_process_time_ms",
    "prep_processor_queue_time_ms",
    "propagation_latency",
    "proposal_ack_creation_latency",
    "proposal_latency",
    "quorum_ack_latency",
    "read_commitproc_time_ms",
    "read_final_proc_time_ms",
    "request_throttle_queue_time_ms",
    "server_write_committed_time_ms",
    "sync_processor_queue_and_flush_time_ms",
    "sync_processor_queue_flush_time_ms",
    "sync_processor_queue_time_ms",
    "write_commitproc_time_ms",
    "write_final_proc_time_ms",
];

impl Figures<'_> {
    /// One line a figure: its name, a tab, its value.
    pub fn text(&self) -> String {
        let mut lines = Lines(String::new());
        let c = self.counters;
        lines.put("version", self.version);
        lines.put("server_state", self.role);
        lines.put("ephemerals_count", self.ephemerals);
        lines.put("num_alive_connections", self.connections);
        lines.put("avg_latency", java_double(c.latency.average()));
        lines.put("outstanding_requests", self.outstanding);
        lines.put("znode_count", self.znodes);
        lines.put("global_sessions", self.sessions);
        lines.put("local_sessions", self.local_sessions);
        lines.put("last_client_response_size", c.last_reply_bytes.map_or(-1, |bytes| bytes as i64));
        lines.put("packets_sent", c.sent);
        lines.put("packets_received", c.received);
        let some_replies = c.reply_bytes.count > 0;
        lines.put("max_client_response_size", if some_replies { c.reply_bytes.max as i64 } else { -1 });
        lines.put("min_client_response_size", if some_replies { c.reply_bytes.min as i64 } else { -1 });
        lines.put("connection_drop_probability", java_double(self.drop_chance));
        lines.put("watch_count", self.watches);
        lines.put("auth_failed_count", c.auth_failed);
        lines.put("min_latency", c.latency.min);
        lines.put("max_latency", c.latency.max);
        lines.put("max_file_descriptor_count", self.open_files_max);
        lines.put("open_file_descriptor_count", self.open_files);
        lines.put("approximate_data_size", self.data_bytes);
        lines.put("uptime", self.uptime_ms);
        lines.put("bytes_received_count", c.received_bytes);
        lines.put("response_bytes", c.reply_bytes.sum);
        lines.put("connection_rejected", self.rejected);
        lines.put("connection_request_count", c.connects);
        lines.put("connection_revalidate_count", c.renewals);
        lines.put("throttled_ops", c.throttled);
        lines.put("request_throttle_wait_count", c.throttle_waits);
        lines.put("large_requests_rejected", c.large_rejected);
        lines.put("sessionless_connections_expired", c.sessionless_expired);
        lines.put("unrecoverable_error_count", 0);
        lines.put("watch_bytes", 0);
        ABSENT_COUNTERS.iter().for_each(|name| lines.put(name, 0));
        lines.summary("node_created_watch_count", &c.created_watches);
        lines.summary("node_deleted_watch_count", &c.deleted_watches);
        lines.summary("node_changed_watch_count", &c.changed_watches);
        lines.summary("node_children_watch_count", &c.children_watches);
        lines.summary("fsynctime", &self.log.fsync_ms);
        ABSENT_SUMMARIES.iter().for_each(|name| lines.summary(name, &Summary::default()));
        lines.latency("readlatency", &c.reads);
        lines.latency("updatelatency", &c.writes);
        let none = Latency::default();
        ABSENT_LATENCIES.iter().for_each(|name| lines.latency(name, &none));
        lines.own("log_flushes", self.log.flushes);
        lines.own("log_flushed_txns", self.log.records);
        lines.own("log_flushed_bytes", self.log.bytes);
        lines.own("log_flush_p50_us", self.log.p50_us);
        lines.own("log_flush_p99_us", self.log.p99_us);
        lines.own("log_flush_max_us", self.log.max_us);
        lines.0
    }
}

struct Lines(String);

impl Lines {
    fn put(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "zk_{name}\t{value}");
    }

    fn own(&mut self, name: &str, value: u64) {
        let _ = writeln!(self.0, "ringkeeper_{name}\t{value}");
    }

    fn summary(&mut self, name: &str, summary: &Summary) {
        self.put(&format!("avg_{name}"), java_double(summary.average()));
        self.put(&format!("min_{name}"), summary.min);
        self.put(&format!("max_{name}"), summary.max);
        self.put(&format!("cnt_{name}"), summary.count);
        self.put(&format!("sum_{name}"), summary.sum);
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        self.summary(name, &latency.summary);
        for (short, part) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)] {
            self.put(&format!("{short}_{name}"), latency.quantile(part));
        }
    }
}

/// Up to four decimals, at least one.
pub(super) fn java_double(value: f64) -> String {
    let text = format!("{value:.4}");
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}
