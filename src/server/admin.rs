//! Four-letter words: what operators ask of a running server.
//!
//! Each client shard reports its counters a few times a second, which answers the quick words. The others need lists
//! that only the shards have, or look at files: a question goes to every shard's box, each answers at its next tick,
//! and the parts are put together on a helper thread, so that a long answer holds up no client.
//!
//! Source: `org.apache.zookeeper.server.command`, `ServerStats`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, UNIX_EPOCH};

use super::config::{Config, EnsembleConfig};
use super::limits::{self, Limits};
use super::metrics::LogMetrics;
use super::monitor::{Figures, java_double};
use super::prometheus::{Exposition, Process};
use crate::cnxn::{Asked, CnxnInfo, Cnxns, Counters, FourLetter, Summary};
use crate::request::pipeline::Pipeline;
use crate::tree::DataTree;
use crate::tree::watch::Place;
use crate::types::{Instant, ServerId, SessionId, WallMs, Zxid};
use crate::zab::effect::{LinkId, Mode};
use crate::zab::leader::Leader;
use crate::zab::peer::Peer;
use crate::zab::peer::status::{Status, Times};
use crate::zab::quorum::{Host, HostPort, PeerAddress, QuorumVerifier};

mod commands;

/// What Apache's version line would say; clients and exporters parse the number.
pub const VERSION: &str = concat!("3.9.5-ringkeeper-", env!("CARGO_PKG_VERSION"), ", built on 2026-11-22 00:00 UTC");

/// How long an answer waits for the parts of all shards; what is missing then is left out.
const PARTS_PATIENCE: Duration = Duration::from_secs(5);
/// Watches that are listed in one step; others get their turn in between.
const LISTED_PER_STEP_MAX: usize = 2048;
/// Apache's trace mask before anybody sets another; it has no effect here.
const TRACE_MASK: i64 = 306;
/// Connections fall silent in buckets of this many ms, for `dump`.
const CONNECTION_BUCKET_MS: u64 = 10_000;

/// The parts of the answers that come from all shards.
pub struct Shared {
    config: Config,
    start: std::time::Instant,
    /// Since 1970.
    start_seconds: f64,
    limits: Arc<Limits>,
    log: Arc<LogMetrics>,
    reports: Vec<Mutex<Report>>,
    /// Questions to each client shard, and last to the ordering shard.
    boxes: Vec<Mutex<Vec<Question>>>,
    trace_mask: AtomicI64,
    /// The configuration file as it was read.
    initial_configuration: String,
    /// Whom this server believes to lead, or -1.
    leader: AtomicI64,
    /// How long elections took, in ms.
    elections: Mutex<Summary>,
    /// While it leads: bytes of the last proposal, the smallest and the largest.
    proposal_bytes: Mutex<Option<[usize; 3]>>,
    /// Connections between this server and those that learn from it, or whom it learns from.
    learner_links: Mutex<BTreeMap<LinkId, LearnerLink>>,
}

/// A connection of the learner port.
#[derive(Clone, Debug)]
struct LearnerLink {
    /// The other end.
    remote: String,
    /// When it was made.
    since: WallMs,
}

/// What a client shard says of itself a few times a second.
#[derive(Clone, Default)]
struct Report {
    /// What the server is while it serves.
    role: Option<&'static str>,
    counters: Counters,
    connections: usize,
    outstanding: usize,
    watches: usize,
    /// Of the data table: connections, paths, watches.
    data_watches: (usize, usize, usize),
    zxid: Zxid,
    znodes: usize,
    data_bytes: u64,
}

/// What is asked of the shards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Connections,
    Watches,
    ResetConnections,
    ResetCounters,
    /// Of the ordering shard: sessions, ephemerals, digests.
    Order,
}

struct Question {
    subject: Subject,
    parts: mpsc::Sender<Part>,
}

/// A shard's part of an answer.
enum Part {
    Connections(Vec<CnxnInfo>),
    Watches(Vec<(SessionId, Box<str>)>),
    Order(Box<Order>),
    Done,
}

/// What the ordering shard knows.
#[derive(Default)]
struct Order {
    expiry: Vec<(Instant, Vec<SessionId>)>,
    sessions: usize,
    local_sessions: usize,
    ephemerals: Vec<(SessionId, Vec<Arc<str>>)>,
    digests: Vec<(Zxid, u64)>,
    drop_chance: f64,
    /// Of a server of an ensemble: what it does there, and the configuration in force.
    status: Option<Status>,
    membership: Option<Arc<QuorumVerifier>>,
    times: Option<Times>,
    phase: Option<&'static str>,
}

impl Shared {
    /// For so many client shards.
    pub fn new(config: &Config, shards: usize, log: Arc<LogMetrics>) -> Shared {
        Shared {
            config: config.clone(),
            start: std::time::Instant::now(),
            start_seconds: UNIX_EPOCH.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64()),
            limits: Arc::new(Limits::new(config)),
            log,
            reports: (0..shards).map(|_| Mutex::default()).collect(),
            boxes: (0..=shards).map(|_| Mutex::default()).collect(),
            trace_mask: AtomicI64::new(TRACE_MASK),
            initial_configuration: std::fs::read_to_string(&config.path).unwrap_or_default(),
            leader: AtomicI64::new(-1),
            elections: Mutex::default(),
            proposal_bytes: Mutex::default(),
            learner_links: Mutex::default(),
        }
    }

    /// A connection of the learner port was made.
    pub fn learner_connected(&self, link: LinkId, remote: String, since: WallMs) {
        locked(&self.learner_links).insert(link, LearnerLink { remote, since });
    }

    /// It is gone.
    pub fn learner_gone(&self, link: LinkId) {
        locked(&self.learner_links).remove(&link);
    }

    /// An election has ended. What an observer waits for is none of its own: `took_ms` is none.
    pub fn elected(&self, leader: ServerId, took_ms: Option<u64>) {
        self.leader.store(leader.0, Relaxed);
        took_ms.into_iter().for_each(|ms| locked(&self.elections).add(ms));
    }

    /// The figures of `mntr` for Prometheus; blocks. `wanted` names series, and nothing stands for all.
    pub fn metrics(&self, wanted: Vec<String>, of_process: bool) -> String {
        let mut out = Exposition::new(wanted);
        self.figures(0, |figures| {
            figures.tell(&mut out);
            if of_process {
                out.process(&Process::read(figures.open_files, figures.open_files_max, self.start_seconds));
            }
        });
        out.into_text()
    }

    /// Answers what was asked of the ordering shard. To be called at each tick.
    pub fn answer_for_order(
        &self,
        now: Instant,
        (head, committed): (&DataTree, Zxid),
        pipeline: Option<&Pipeline>,
        peer: Option<&Peer>,
    ) {
        *locked(&self.proposal_bytes) = peer.and_then(Peer::leader).and_then(Leader::proposal_bytes);
        for question in std::mem::take(&mut *locked(&self.boxes[self.reports.len()])) {
            let paths = |(session, paths): (&SessionId, &std::collections::BTreeSet<Arc<str>>)| {
                (*session, paths.iter().cloned().collect())
            };
            // A learner has no table of deadlines: its sessions end at the leader.
            let buckets = pipeline.into_iter().flat_map(|pipeline| pipeline.sessions().buckets());
            let order = Order {
                expiry: buckets.map(|(at, ids)| (at, ids.iter().copied().collect())).collect(),
                local_sessions: peer.map_or(0, Peer::local_sessions),
                sessions: pipeline.map_or(head.sessions().len(), |pipeline| pipeline.sessions().len()),
                ephemerals: head.ephemerals().iter().map(paths).collect(),
                digests: head
                    .digest_log()
                    .filter(|(zxid, _)| self.config.digest_enabled && *zxid <= committed)
                    .collect(),
                drop_chance: peer.map(Peer::drop_chance).or(pipeline.map(Pipeline::drop_chance)).unwrap_or(0.0),
                status: peer.and_then(|peer| peer.status(now)),
                membership: peer.map(|peer| Arc::clone(peer.view().current())),
                times: peer.map(|peer| peer.times().clone()),
                phase: peer.map(Peer::phase),
            };
            // Who asked may have given up.
            drop(question.parts.send(Part::Order(Box::new(order))));
        }
    }

    /// Asks client shards or the ordering shard.
    fn ask(&self, subject: Subject) -> Parts {
        let (parts, receiver) = mpsc::channel();
        let shards = self.reports.len();
        let asked = if subject == Subject::Order { shards..shards + 1 } else { 0..shards };
        for shard in asked.clone() {
            locked(&self.boxes[shard]).push(Question { subject, parts: parts.clone() });
        }
        Parts { receiver, count: asked.len() }
    }

    fn total(&self, newest: usize) -> Report {
        let mut total = Report::default();
        for (i, report) in self.reports.iter().enumerate() {
            total.add(&locked(report), i == newest);
        }
        total
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parts that are on their way.
struct Parts {
    receiver: mpsc::Receiver<Part>,
    count: usize,
}

impl Parts {
    /// Waits for them. Blocks.
    fn collect(self) -> Vec<Part> {
        let deadline = std::time::Instant::now() + PARTS_PATIENCE;
        let left = || deadline.saturating_duration_since(std::time::Instant::now());
        (0..self.count).map_while(|_| self.receiver.recv_timeout(left()).ok()).collect()
    }

    fn connections(self) -> Vec<CnxnInfo> {
        let infos = |part| if let Part::Connections(infos) = part { infos } else { Vec::new() };
        self.collect().into_iter().flat_map(infos).collect()
    }

    fn watches(self) -> Vec<(SessionId, Box<str>)> {
        let watches = |part| if let Part::Watches(watches) = part { watches } else { Vec::new() };
        self.collect().into_iter().flat_map(watches).collect()
    }

    fn order(self) -> Order {
        let order = |part| if let Part::Order(order) = part { Some(*order) } else { None };
        self.collect().into_iter().find_map(order).unwrap_or_default()
    }
}

/// One client shard's view of them.
pub struct Admin {
    shared: Arc<Shared>,
    shard: usize,
    /// Lists of watches that are being made, oldest first.
    listings: RefCell<VecDeque<Listing>>,
}

/// A list of all watches of a shard, made by and by.
struct Listing {
    place: Place,
    found: Vec<(SessionId, Box<str>)>,
    parts: mpsc::Sender<Part>,
}

impl Admin {
    /// For the client shard of that index.
    pub fn new(shared: Arc<Shared>, shard: usize) -> Admin {
        Admin { shared, shard, listings: RefCell::default() }
    }

    /// Who may connect.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// Reports, and answers what other shards have asked of this one. To be called at each tick.
    pub fn tick(&self, cnxns: &mut Cnxns) {
        self.publish(cnxns);
        for question in std::mem::take(&mut *locked(&self.shared.boxes[self.shard])) {
            let part = match question.subject {
                Subject::Connections => Part::Connections(cnxns.infos().collect()),
                Subject::Watches => {
                    let listing = Listing { place: Place::default(), found: Vec::new(), parts: question.parts };
                    self.listings.borrow_mut().push_back(listing);
                    continue;
                }
                Subject::ResetConnections => {
                    cnxns.reset_connections();
                    Part::Done
                }
                Subject::ResetCounters => {
                    cnxns.reset_counters();
                    Part::Done
                }
                Subject::Order => Part::Done,
            };
            drop(question.parts.send(part));
        }
    }

    /// Whether there is something to be done by and by.
    pub fn has_more(&self) -> bool {
        !self.listings.borrow().is_empty()
    }

    /// Does a bounded part of what is to be done by and by: listing all watches.
    pub fn do_some(&self, cnxns: &Cnxns) {
        let mut listings = self.listings.borrow_mut();
        let Some(listing) = listings.front_mut() else { return };
        let (watches, next) = cnxns.data_watches(listing.place, LISTED_PER_STEP_MAX);
        listing.found.extend(watches.into_iter().map(|(session, path)| (session, path.into())));
        match next {
            Some(place) => listing.place = place,
            None => {
                let Listing { found, parts, .. } = listings.pop_front().expect("the one that ends");
                // Who asked may have given up.
                drop(parts.send(Part::Watches(found)));
            }
        }
    }

    fn publish(&self, cnxns: &Cnxns) {
        let report = Report {
            role: cnxns.role(),
            counters: cnxns.counters().clone(),
            connections: cnxns.len(),
            outstanding: cnxns.outstanding(),
            watches: cnxns.watches().count(),
            data_watches: cnxns.watches().data_summary(),
            zxid: cnxns.tree().zxid(),
            znodes: cnxns.tree().node_count(),
            data_bytes: cnxns.tree().approximate_data_bytes(),
        };
        *locked(&self.shared.reports[self.shard]) = report;
    }

    /// The answer to a word that [`FourLetter::is_quick`].
    pub fn answer(&self, asked: &Asked, cnxns: &Cnxns) -> Vec<u8> {
        self.publish(cnxns);
        let total = || self.shared.total(self.shard);
        match asked.word.word() {
            "ruok" => "imok".to_owned(),
            "isro" => if cnxns.is_read_only() { "ro" } else { "rw" }.to_owned(),
            "srvr" => total().heading() + &self.shared.server_stats(&total()),
            "envi" => environment(),
            "wchs" => total().watch_summary(),
            "gtmk" => self.shared.trace_mask.load(Relaxed).to_string(),
            "stmk" => {
                self.shared.trace_mask.store(asked.mask, Relaxed);
                asked.mask.to_string()
            }
            _ => String::new(),
        }
        .into_bytes()
    }

    /// The answer to any other word: work that blocks, for a helper thread. `now` and `wall` are the same moment.
    pub fn work_out(&self, word: FourLetter, now: Instant, wall: WallMs) -> impl FnOnce() -> Vec<u8> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let shard = self.shard;
        move || {
            match word.word() {
                "conf" => shared.conf(),
                "dirs" => shared.dir_sizes().text(),
                "stat" => shared.stat(shard),
                "cons" => connections_in_full(&shared.ask(Subject::Connections).connections(), now, wall),
                "crst" => {
                    shared.ask(Subject::ResetConnections).collect();
                    "Connection stats reset.\n".to_owned()
                }
                "srst" => {
                    shared.ask(Subject::ResetCounters).collect();
                    "Server stats reset.\n".to_owned()
                }
                "wchc" => watches_by_session(&shared.ask(Subject::Watches).watches()),
                "wchp" => watches_by_path(&shared.ask(Subject::Watches).watches()),
                "dump" => shared.dump(now, wall),
                "hash" => hashes(&shared.ask(Subject::Order).order().digests),
                "mntr" => shared.mntr(shard),
                _ => String::new(),
            }
            .into_bytes()
        }
    }
}

impl Shared {
    fn stat(&self, shard: usize) -> String {
        let infos = self.ask(Subject::Connections).connections();
        let total = self.total(shard);
        let mut text = total.heading() + "Clients:\n";
        for info in &infos {
            let _ = writeln!(text, " {})", connection_in_brief(info));
        }
        text + "\n" + &self.server_stats(&total)
    }

    /// What `srvr` and `stat` end with.
    fn server_stats(&self, total: &Report) -> String {
        let mut text = total.server_stats();
        if total.role == Some(Mode::Leading.name()) {
            let [last, min, max] =
                locked(&self.proposal_bytes).map_or([-1; 3], |bytes| bytes.map(|bytes| bytes as i64));
            let _ = writeln!(text, "Proposal sizes last/min/max: {last}/{min}/{max}");
        }
        text
    }

    fn dump(&self, now: Instant, wall: WallMs) -> String {
        let order = self.ask(Subject::Order).order();
        let infos = self.ask(Subject::Connections).connections();
        let date = |at: Instant| date_text(WallMs(wall.0 + at.0 as i64 - now.0 as i64));
        let mut text = "SessionTracker dump:\n".to_owned();
        let _ = writeln!(text, "Session Sets ({})/({}):", order.expiry.len(), order.sessions);
        for (at, sessions) in &order.expiry {
            let _ = writeln!(text, "{} expire at {}:", sessions.len(), date(*at));
            indented(&mut text, sessions);
        }
        let _ = writeln!(text, "ephemeral nodes dump:\nSessions with Ephemerals ({}):", order.ephemerals.len());
        for (session, paths) in &order.ephemerals {
            let _ = writeln!(text, "{session}:");
            indented(&mut text, paths);
        }
        let mut silent: BTreeMap<Instant, Vec<&CnxnInfo>> = BTreeMap::new();
        let sessionless_ms = self.config.sessionless_timeout.as_millis() as u64;
        for info in &infos {
            let timeout_ms = info.timeout_ms.map_or(sessionless_ms, |ms| ms.max(0) as u64);
            let bucket = (info.heard.0 + timeout_ms) / CONNECTION_BUCKET_MS + 1;
            silent.entry(Instant(bucket * CONNECTION_BUCKET_MS)).or_default().push(info);
        }
        let _ = writeln!(text, "Connections dump:\nConnections Sets ({})/({}):", silent.len(), infos.len());
        for (at, infos) in &silent {
            let _ = writeln!(text, "{} expire at {}:", infos.len(), date(*at));
            for info in infos {
                let _ = writeln!(text, "\tip: /{} sessionId: {}", remote(info), info.session);
            }
        }
        text
    }

    fn mntr(&self, shard: usize) -> String {
        self.figures(shard, |figures| figures.text())
    }

    fn figures<T>(&self, shard: usize, tell: impl FnOnce(&Figures<'_>) -> T) -> T {
        let order = self.ask(Subject::Order).order();
        let total = self.total(shard);
        tell(&Figures {
            version: VERSION,
            role: total.role.unwrap_or_default(),
            status: order.status.as_ref(),
            times: order.times.as_ref(),
            elections: *locked(&self.elections),
            counters: &total.counters,
            connections: total.connections,
            outstanding: total.outstanding,
            znodes: total.znodes,
            watches: total.watches,
            ephemerals: order.ephemerals.iter().map(|(_, paths)| paths.len()).sum(),
            data_bytes: total.data_bytes,
            sessions: order.sessions,
            local_sessions: order.local_sessions,
            uptime_ms: self.start.elapsed().as_millis(),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            open_files_max: limits::open_files_max(),
            rejected: self.limits.rejected(),
            drop_chance: order.drop_chance,
            log: self.log.read(),
        })
    }

    fn dir_sizes(&self) -> DirSizes {
        DirSizes { snapshots: dir_bytes(&self.config.snapshot_dir()), logs: dir_bytes(&self.config.log_dir()) }
    }

    fn conf(&self) -> String {
        let c = &self.config;
        let sizes = self.dir_sizes();
        let port = self.client_port();
        let (snapshots, logs) = (c.snapshot_dir(), c.log_dir());
        format!(
            "clientPort={port}\nsecureClientPort=-1\ndataDir={}\ndataDirSize={}\ndataLogDir={}\ndataLogSize={}\n\
             tickTime={}\nmaxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nclientPortListenBacklog={}\n\
             serverId={}\n{}",
            snapshots.display(),
            sizes.snapshots,
            logs.display(),
            sizes.logs,
            c.tick_time.as_millis(),
            c.max_client_cnxns.unwrap_or(0),
            c.min_session_timeout.as_millis(),
            c.max_session_timeout.as_millis(),
            c.client_port_listen_backlog.map_or(-1, i64::from),
            c.ensemble.as_ref().map_or(0, |ensemble| ensemble.my_id.0),
            self.conf_of_ensemble(),
        )
    }

    /// What `conf` has beyond that on a server of an ensemble. It ends without a line break, as Apache's does.
    fn conf_of_ensemble(&self) -> String {
        let Some(ensemble) = &self.config.ensemble else { return String::new() };
        let membership = self.membership(ensemble);
        let me = membership.member(ensemble.my_id).unwrap_or(ensemble.me());
        let ports = |port: fn(&PeerAddress) -> HostPort| {
            me.addresses.iter().map(|address| port(address).port.to_string()).collect::<Vec<_>>().join("|")
        };
        format!(
            "initLimit={}\nsyncLimit={}\nelectionAlg=3\nelectionPort={}\nquorumPort={}\npeerType={}\nmembership: \n{membership}",
            ensemble.init_limit,
            ensemble.sync_limit,
            ports(PeerAddress::election),
            ports(PeerAddress::quorum),
            i32::from(!me.votes()),
        )
    }

    /// Where clients connect: a reconfiguration may have moved it. -1 if nowhere.
    fn client_port(&self) -> i32 {
        let configured = self.config.client_addr.as_ref().map(|addr| addr.port);
        let moved = self.config.ensemble.as_ref().and_then(|ensemble| {
            let membership = self.membership(ensemble);
            Some(membership.member(ensemble.my_id)?.client.as_ref()?.port)
        });
        moved.or(configured).map_or(-1, i32::from)
    }

    /// The configuration of the ensemble that is in force; if the ordering shard does not say, that of the start.
    fn membership(&self, ensemble: &EnsembleConfig) -> Arc<QuorumVerifier> {
        let membership = self.ask(Subject::Order).order().membership;
        membership.unwrap_or_else(|| Arc::clone(ensemble.view.current()))
    }
}

/// Bytes of all files in the data directories.
#[derive(Clone, Copy, Default, Debug)]
struct DirSizes {
    snapshots: u64,
    logs: u64,
}

impl DirSizes {
    fn text(self) -> String {
        format!("datadir_size: {}\nlogdir_size: {}\n", self.snapshots, self.logs)
    }
}

impl Report {
    fn add(&mut self, other: &Report, newest: bool) {
        self.role = self.role.or(other.role);
        self.counters.merge(&other.counters);
        self.connections += other.connections;
        self.outstanding += other.outstanding;
        self.watches += other.watches;
        self.data_watches.0 += other.data_watches.0;
        self.data_watches.1 += other.data_watches.1;
        self.data_watches.2 += other.data_watches.2;
        if newest {
            (self.zxid, self.znodes, self.data_bytes) = (other.zxid, other.znodes, other.data_bytes);
        }
    }

    /// Apache looks at the data table alone here.
    fn watch_summary(&self) -> String {
        let (connections, paths, watches) = self.data_watches;
        format!("{connections} connections watching {paths} paths\nTotal watches:{watches}\n")
    }

    fn heading(&self) -> String {
        let is_read_only = self.role == Some(Mode::ReadOnly.name());
        let line = if is_read_only { "READ-ONLY mode; serving only read-only clients\n" } else { "" };
        format!("Zookeeper version: {VERSION}\n{line}")
    }

    fn server_stats(&self) -> String {
        let c = &self.counters;
        format!(
            "Latency min/avg/max: {}/{}/{}\nReceived: {}\nSent: {}\nConnections: {}\nOutstanding: {}\nZxid: {}\n\
             Mode: {}\nNode count: {}\n",
            c.latency.min,
            java_double(c.latency.average()),
            c.latency.max,
            c.received,
            c.sent,
            self.connections,
            self.outstanding,
            self.zxid,
            self.role.unwrap_or_default(),
            self.znodes
        )
    }
}

/// Where a client is, as Java prints it.
fn remote(info: &CnxnInfo) -> HostPort {
    HostPort { host: Host::new(&info.peer.ip().to_string()), port: info.peer.port() }
}

/// Without the closing parenthesis. The number in brackets says what a selector would wait for: nothing while a word
/// is answered, else to read.
fn connection_in_brief(info: &CnxnInfo) -> String {
    let ops = if info.asked { 0 } else { 1 };
    let (queued, received, sent) = (info.queued, info.counts.received, info.counts.sent);
    format!("/{}[{ops}](queued={queued},recved={received},sent={sent}", remote(info))
}

/// `cons` (`ServerCnxn.dumpConnectionInfo`).
fn connections_in_full(infos: &[CnxnInfo], now: Instant, wall: WallMs) -> String {
    let mut text = String::new();
    for info in infos {
        let _ = write!(text, " {}", connection_in_brief(info));
        if let Some(timeout_ms) = info.timeout_ms {
            let last = info.counts.last;
            let established = wall.0 - now.since_ms(info.accepted) as i64;
            let op = last.map_or("NA", |last| last.op);
            let _ = write!(text, ",sid={},lop={op},est={established},to={timeout_ms}", info.session);
            if let Some(cxid) = last.and_then(|last| last.cxid) {
                let _ = write!(text, ",lcxid=0x{cxid:x}");
            }
            let zxid = last.map_or(Zxid(-1), |last| last.zxid);
            let (at, took_ms) = last.map_or((0, 0), |last| (last.at.0, last.latency_ms));
            let latency = &info.counts.latency;
            let average = latency.average() as u64;
            let (min, max) = (latency.min, latency.max);
            let _ = write!(text, ",lzxid={zxid},lresp={at},llat={took_ms},minlat={min},avglat={average},maxlat={max}");
        }
        text.push_str(")\n");
    }
    text + "\n"
}

/// `wchc`.
fn watches_by_session(watches: &[(SessionId, Box<str>)]) -> String {
    let mut text = String::new();
    let mut last = None;
    for (session, path) in watches {
        if last != Some(session) {
            let _ = writeln!(text, "{session}");
        }
        last = Some(session);
        let _ = writeln!(text, "\t{path}");
    }
    text + "\n"
}

/// `wchp`.
fn watches_by_path(watches: &[(SessionId, Box<str>)]) -> String {
    let mut by_path: BTreeMap<&str, Vec<SessionId>> = BTreeMap::new();
    for (session, path) in watches {
        by_path.entry(path).or_default().push(*session);
    }
    let mut text = String::new();
    for (path, sessions) in by_path {
        let _ = writeln!(text, "{path}");
        indented(&mut text, &sessions);
    }
    text + "\n"
}

fn indented(text: &mut String, lines: &[impl std::fmt::Display]) {
    for line in lines {
        let _ = writeln!(text, "\t{line}");
    }
}

/// `hash`.
fn hashes(digests: &[(Zxid, u64)]) -> String {
    digests.iter().map(|(zxid, digest)| format!("{:x}: {digest}\n", zxid.0)).collect()
}

/// As Java prints a date, in UTC: `Sat Nov 21 22:52:09 UTC 2026`.
fn date_text(at: WallMs) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = at.0.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years are counted from March, so that a leap day is a year's last.
    let from_march = days + 719_468;
    let era = from_march.div_euclid(146_097);
    let day_of_era = from_march.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + i64::from(month < 2);
    format!(
        "{} {} {day:02} {:02}:{:02}:{:02} UTC {year}",
        DAYS[days.rem_euclid(7) as usize],
        MONTHS[month as usize],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Apache's keys; what only a Java program has is said not to be.
fn environment() -> String {
    let name = rustix::system::uname();
    let (user, home) = user();
    let dir = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    format!(
        "Environment:\nzookeeper.version={VERSION}\nhost.name={}\njava.version=n/a\njava.vendor=n/a\njava.home=n/a\n\
         java.class.path=n/a\njava.library.path=n/a\njava.io.tmpdir={}\njava.compiler=<NA>\nos.name=Linux\n\
         os.arch={}\nos.version={}\nuser.name={user}\nuser.home={home}\nuser.dir={dir}\nos.memory.free=n/a\nos.memory.max=n/a\n\
         os.memory.total=n/a\n",
        name.nodename().to_string_lossy(),
        std::env::temp_dir().display(),
        // Java's word for it.
        match &*name.machine().to_string_lossy() {
            "x86_64" => "amd64".to_owned(),
            machine => machine.to_owned(),
        },
        name.release().to_string_lossy(),
    )
}

/// Name and home of the user that the server runs as: as with Java from the table of users, and from the environment only if
/// they are not there.
fn user() -> (String, String) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let variable = |key| std::env::var(key).unwrap_or_else(|_| "?".to_owned());
    user_in(&passwd, rustix::process::getuid().as_raw()).unwrap_or_else(|| (variable("USER"), variable("HOME")))
}

/// Name and home of a user in the text of `/etc/passwd`.
fn user_in(passwd: &str, uid: u32) -> Option<(String, String)> {
    let entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut of_user = entries.filter(|fields| fields.len() == 7 && fields[2].parse() == Ok(uid));
    of_user.next().map(|fields| (fields[0].to_owned(), fields[5].to_owned()))
}

fn dir_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_who_the_table_says() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n# 7\n\nzk:x:999:998:ZooKeeper,,,:/var/lib/zookeeper:/bin/false\n\
                      again:x:999:1::/:\n";
        let found = |uid| user_in(passwd, uid);
        assert_eq!(found(0), Some(("root".to_owned(), "/root".to_owned())));
        assert_eq!(found(999), Some(("zk".to_owned(), "/var/lib/zookeeper".to_owned())));
        assert_eq!(found(7), None);
    }

    #[test]
    fn dates_as_java_prints_them() {
        for (seconds, expected) in [
            (0, "Thu Jan 01 00:00:00 UTC 1970"),
            (951_782_399, "Mon Feb 28 23:59:59 UTC 2000"),
            (951_782_400, "Tue Feb 29 00:00:00 UTC 2000"),
            (1_795_301_529, "Sat Nov 21 22:52:09 UTC 2026"),
            (4_107_542_400, "Mon Mar 01 00:00:00 UTC 2100"),
        ] {
            assert_eq!(date_text(WallMs(seconds * 1000 + 999)), expected);
        }
    }
}
