//! Four-letter words, and the limits on connections: what all client shards have in common.
//!
//! Source: `org.apache.zookeeper.server.command`, `ServerStats`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::config::Config;
use super::metrics::LogMetrics;
use crate::cnxn::{CnxnInfo, Cnxns, Counters, FourLetter};
use crate::types::Zxid;

/// What Apache's version line would say; clients and exporters parse the number.
pub const VERSION: &str = concat!("3.9.5-ringkeeper-", env!("CARGO_PKG_VERSION"), ", built on 2026-11-22 00:00 UTC");

/// The parts of the answers that come from all shards.
pub struct Shared {
    config: Config,
    start: std::time::Instant,
    limits: Arc<Limits>,
    log: Arc<LogMetrics>,
    reports: Vec<Mutex<Report>>,
}

/// What a shard says of itself a few times a second.
#[derive(Clone, Default)]
struct Report {
    counters: Counters,
    connections: usize,
    outstanding: usize,
    watches: usize,
    /// Of the data table: connections, paths, watches.
    data_watches: (usize, usize, usize),
    zxid: Zxid,
    znodes: usize,
    data_bytes: u64,
    infos: Vec<CnxnInfo>,
}

impl Shared {
    /// For so many client shards.
    pub fn new(config: &Config, shards: usize, log: Arc<LogMetrics>) -> Shared {
        Shared {
            config: config.clone(),
            start: std::time::Instant::now(),
            limits: Arc::new(Limits::new(config)),
            log,
            reports: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }
}

/// Bytes of all files in the data directories.
#[derive(Clone, Copy, Default, Debug)]
pub struct DirSizes {
    snapshots: u64,
    logs: u64,
}

impl DirSizes {
    fn text(self) -> String {
        format!("datadir_size: {}\nlogdir_size: {}\n", self.snapshots, self.logs)
    }
}

/// One shard's view of them.
pub struct Admin {
    shared: Arc<Shared>,
    shard: usize,
}

impl Admin {
    /// For the client shard of that index.
    pub fn new(shared: Arc<Shared>, shard: usize) -> Admin {
        Admin { shared, shard }
    }

    /// Who may connect.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// Lets the other shards see how this one is doing.
    pub fn publish(&self, cnxns: &Cnxns) {
        let report = Report {
            counters: cnxns.counters(),
            connections: cnxns.len(),
            outstanding: cnxns.outstanding(),
            watches: cnxns.watches().count(),
            data_watches: cnxns.watches().data_summary(),
            zxid: cnxns.tree().zxid(),
            znodes: cnxns.tree().node_count(),
            data_bytes: cnxns.tree().approximate_data_bytes(),
            infos: if self.shared.reports.len() > 1 { cnxns.infos().collect() } else { Vec::new() },
        };
        if let Ok(mut slot) = self.shared.reports[self.shard].lock() {
            *slot = report;
        }
    }

    /// The answer to a word.
    ///
    /// `sizes` are used by those that look at files only.
    pub fn answer(&self, word: FourLetter, cnxns: &Cnxns, sizes: DirSizes) -> Vec<u8> {
        self.publish(cnxns);
        let mut total = Report::default();
        for (i, report) in self.shared.reports.iter().enumerate() {
            let Ok(report) = report.lock() else { continue };
            total.add(&report, i == self.shard);
        }
        if self.shared.reports.len() == 1 {
            total.infos = cnxns.infos().collect();
        }
        match word.word() {
            "ruok" => b"imok".to_vec(),
            "isro" => b"rw".to_vec(),
            "srvr" => self.srvr(&total).into_bytes(),
            "stat" => self.stat(&total).into_bytes(),
            "mntr" => self.mntr(&total).into_bytes(),
            "conf" => self.conf(sizes).into_bytes(),
            "dirs" => sizes.text().into_bytes(),
            "envi" => environment().into_bytes(),
            "wchs" => total.watch_summary().into_bytes(),
            _ => Vec::new(),
        }
    }

    fn srvr(&self, total: &Report) -> String {
        format!("Zookeeper version: {VERSION}\n{}", total.server_stats())
    }

    fn stat(&self, total: &Report) -> String {
        let mut text = format!("Zookeeper version: {VERSION}\nClients:\n");
        for info in &total.infos {
            let ops = if info.asked { 0 } else { 1 };
            let (queued, received, sent) = (info.queued, info.received, info.sent);
            let _ = writeln!(text, " /{}[{ops}](queued={queued},recved={received},sent={sent})", info.peer);
        }
        text + "\n" + &total.server_stats()
    }

    fn mntr(&self, total: &Report) -> String {
        let c = &total.counters;
        let log = self.shared.log.read();
        let mut text = String::new();
        let mut put = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "zk_{key}\t{value}");
        };
        put("version", &VERSION);
        put("server_state", &"standalone");
        put("avg_latency", &java_double(average(c)));
        put("max_latency", &c.latency_max_ms);
        put("min_latency", &c.latency_min_ms);
        put("packets_received", &c.received);
        put("packets_sent", &c.sent);
        put("num_alive_connections", &total.connections);
        put("outstanding_requests", &total.outstanding);
        put("znode_count", &total.znodes);
        put("watch_count", &total.watches);
        put("approximate_data_size", &total.data_bytes);
        put("uptime", &self.shared.start.elapsed().as_millis());
        let mut own = |key: &str, value: u64| {
            let _ = writeln!(text, "ringkeeper_{key}\t{value}");
        };
        own("log_flushes", log.flushes);
        own("log_flushed_txns", log.records);
        own("log_flushed_bytes", log.bytes);
        own("log_flush_p50_us", log.p50_us);
        own("log_flush_p99_us", log.p99_us);
        own("log_flush_max_us", log.max_us);
        text
    }

    /// Finds out how much the data directories hold. The work blocks: it is for a helper thread.
    pub fn look_at_files(&self) -> impl FnOnce() -> DirSizes + Send + 'static {
        let (snapshots, logs) = (self.shared.config.snapshot_dir(), self.shared.config.log_dir());
        move || DirSizes { snapshots: dir_bytes(&snapshots), logs: dir_bytes(&logs) }
    }

    fn conf(&self, sizes: DirSizes) -> String {
        let c = &self.shared.config;
        let port = c.client_addr.as_ref().map_or(-1, |addr| i32::from(addr.port));
        let (snapshots, logs) = (c.snapshot_dir(), c.log_dir());
        format!(
            "clientPort={port}\nsecureClientPort=-1\ndataDir={}\ndataDirSize={}\ndataLogDir={}\ndataLogSize={}\n\
             tickTime={}\nmaxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nclientPortListenBacklog={}\n\
             serverId=0\n",
            snapshots.display(),
            sizes.snapshots,
            logs.display(),
            sizes.logs,
            c.tick_time.as_millis(),
            c.max_client_cnxns.unwrap_or(0),
            c.min_session_timeout.as_millis(),
            c.max_session_timeout.as_millis(),
            c.client_port_listen_backlog.map_or(-1, i64::from),
        )
    }
}

impl Report {
    fn add(&mut self, other: &Report, newest: bool) {
        let (c, o) = (&mut self.counters, &other.counters);
        c.received += o.received;
        c.sent += o.sent;
        if o.latency_count > 0 {
            c.latency_min_ms =
                if c.latency_count == 0 { o.latency_min_ms } else { c.latency_min_ms.min(o.latency_min_ms) };
        }
        c.latency_max_ms = c.latency_max_ms.max(o.latency_max_ms);
        c.latency_count += o.latency_count;
        c.latency_sum_ms += o.latency_sum_ms;
        self.connections += other.connections;
        self.outstanding += other.outstanding;
        self.watches += other.watches;
        self.data_watches.0 += other.data_watches.0;
        self.data_watches.1 += other.data_watches.1;
        self.data_watches.2 += other.data_watches.2;
        self.infos.extend(other.infos.iter().cloned());
        if newest {
            (self.zxid, self.znodes, self.data_bytes) = (other.zxid, other.znodes, other.data_bytes);
        }
    }

    /// Apache looks at the data table alone here.
    fn watch_summary(&self) -> String {
        let (connections, paths, watches) = self.data_watches;
        format!("{connections} connections watching {paths} paths\nTotal watches:{watches}\n")
    }

    fn server_stats(&self) -> String {
        let c = &self.counters;
        format!(
            "Latency min/avg/max: {}/{}/{}\nReceived: {}\nSent: {}\nConnections: {}\nOutstanding: {}\nZxid: {}\n\
             Mode: standalone\nNode count: {}\n",
            c.latency_min_ms,
            java_double(average(c)),
            c.latency_max_ms,
            c.received,
            c.sent,
            self.connections,
            self.outstanding,
            self.zxid,
            self.znodes
        )
    }
}

/// Apache's keys; what only a Java program has is said not to be.
fn environment() -> String {
    let name = rustix::system::uname();
    let variable = |key| std::env::var(key).unwrap_or_default();
    let dir = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    format!(
        "Environment:\nzookeeper.version={VERSION}\nhost.name={}\njava.version=n/a\njava.vendor=n/a\njava.home=n/a\n\
         java.class.path=n/a\njava.library.path=n/a\njava.io.tmpdir={}\njava.compiler=<NA>\nos.name=Linux\n\
         os.arch={}\nos.version={}\nuser.name={}\nuser.home={}\nuser.dir={dir}\n",
        name.nodename().to_string_lossy(),
        std::env::temp_dir().display(),
        name.machine().to_string_lossy(),
        name.release().to_string_lossy(),
        variable("USER"),
        variable("HOME"),
    )
}

fn average(counters: &Counters) -> f64 {
    if counters.latency_count == 0 { 0.0 } else { counters.latency_sum_ms as f64 / counters.latency_count as f64 }
}

/// Up to four decimals, at least one.
fn java_double(value: f64) -> String {
    let text = format!("{value:.4}");
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

fn dir_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// How many connections there are, and may be.
pub struct Limits {
    per_address_max: Option<u32>,
    total_max: Option<u32>,
    open: Mutex<(u32, HashMap<IpAddr, u32>)>,
}

/// A connection's place among the admitted; dropping it gives it back.
pub struct Ticket {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Limits {
    fn new(config: &Config) -> Limits {
        Limits { per_address_max: config.max_client_cnxns, total_max: config.max_cnxns, open: Mutex::default() }
    }

    /// Admits a connection from that address, or says in Apache's words why not.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, String> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (total, by_address) = &mut *open;
        if let Some(max) = self.total_max.filter(|max| *total >= *max) {
            return Err(format!("Too many connections max allowed is {max}"));
        }
        let count = by_address.entry(address).or_insert(0);
        if let Some(max) = self.per_address_max.filter(|max| *count >= *max) {
            return Err(format!("Too many connections from /{address} - max is {max}"));
        }
        *count += 1;
        *total += 1;
        Ok(Ticket { limits: Arc::clone(self), address })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (total, by_address) = &mut *open;
        *total -= 1;
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}
