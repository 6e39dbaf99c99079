//! zoo.cfg to [`Config`]: everything an operator sets, checked before anything starts.
//!
//! ```text
//! bytes -> properties (Java's syntax) -> settings (known keys, shapes checked) -> Config (types, rules between keys)
//! ```
//!
//! The table in [`keys`] says of every key of Apache whether it is honoured, has no effect, or stops start-up. The
//! rules beyond Apache's, all in favour of saying what would otherwise be lost in silence:
//!
//! * An unknown key is a warning, since Apache makes it a system property and files carry odd ones. If it is nearly a
//!   known key (another case, `zookeeper.` in front, up to two letters) that would be honoured or refused, it is an
//!   error: `clientport` is never meant. So is an unknown key that begins with `ringkeeper.`.
//! * Numbers and booleans are checked for every known key. Apache takes a bad one among its pass-through keys for the
//!   default or for false.
//! * A key whose feature is missing and whose absence would be unsafe (TLS, SASL, audit) is an error.
//! * `-Dzookeeper.…` in `SERVER_JVMFLAGS` and `JVMFLAGS` is read like a weaker line of the file.
//!
//! To add a key: a line in `keys/table.rs`, a field here, and the line in `resolve.rs` that fills it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cnxn::RequestThrottle;
use crate::request::{containers, throttle};
use crate::server::placement;
use crate::storage::compression::Compression;
use crate::tree::ExtendedTypes;

pub mod data_dirs;
pub mod dynamic;
pub mod ensemble;
pub mod environment;
pub mod error;
pub mod keys;
pub mod outline;
pub mod properties;
mod resolve;
mod settings;
pub mod values;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use data_dirs::{check_data_dirs, create_data_dirs};
pub use ensemble::EnsembleConfig;
pub use environment::{Environment, Flag, allowed_cores};
pub use error::{ConfigError, DirKind, InvalidValue, Place, StartError, Warning};
pub use outline::Outline;

pub use crate::zab::quorum::PeerType;

/// Everything that is configured, in types that cannot hold what is not allowed.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// `dataDir` as written; snapshots lie in [`Config::snapshot_dir`].
    pub data_dir: PathBuf,
    /// `dataLogDir`, by default `data_dir`; logs lie in [`Config::log_dir`].
    pub data_log_dir: PathBuf,
    /// `clientPort` and `clientPortAddress`. Without one the server has no client port, which Apache allows.
    pub client_addr: Option<ClientAddr>,
    /// `clientPortListenBacklog`; `None` (-1) leaves it to the listener.
    pub client_port_listen_backlog: Option<u32>,
    /// `tickTime`, at least 1 ms.
    pub tick_time: Duration,
    /// `minSessionTimeout`, by default 2 ticks; never above `max_session_timeout`.
    pub min_session_timeout: Duration,
    /// `maxSessionTimeout`, by default 20 ticks.
    pub max_session_timeout: Duration,
    /// The ensemble that this server belongs to; `None` for a standalone server.
    pub ensemble: Option<EnsembleConfig>,
    /// `maxClientCnxns`: connections from one address; `None` (0) is no limit.
    pub max_client_cnxns: Option<u32>,
    /// `maxCnxns`: connections in all; `None` (0) is no limit.
    pub max_cnxns: Option<u32>,
    /// `nio.sessionlessCnxnTimeout`: a connection that sends neither a connect request nor a command is closed.
    pub sessionless_timeout: Duration,
    /// `globalOutstandingLimit`: with more requests in the server, connections with one outstanding are not read from.
    pub global_outstanding_limit: u32,
    /// `jute.maxbuffer`: greatest packet from a client, in bytes.
    pub max_buffer_bytes: u32,
    /// `4lw.commands.whitelist`, always with `srvr`.
    pub four_letter_words: FourLetterWords,
    /// `skipACL=yes`: no ACL is checked.
    pub skip_acl: bool,
    /// `DigestAuthenticationProvider.enabled`: whether the digest scheme is known.
    pub digest_auth_enabled: bool,
    /// `DigestAuthenticationProvider.superDigest`: `super:<base64 of SHA1>`, whose owner passes every ACL.
    pub super_digest: Option<String>,
    /// `enforce.auth.enabled` and `enforce.auth.schemes`: a connection must hold an identity of one of these schemes before
    /// it may ask for anything; empty if it need not.
    pub enforced_auth_schemes: Vec<String>,
    /// `enforceQuota`: hard limits of quotas are kept.
    pub enforce_quota: bool,
    /// `reconfigEnabled`. A server by itself has nothing to reconfigure, and says so in other words.
    pub reconfig_enabled: bool,
    /// `extendedTypesEnabled` and `emulate353TTLNodes`: whether znodes may have a time to live.
    pub extended_types: ExtendedTypes,
    /// `znode.container.*`: how the server looks for containers and znodes that it is to remove.
    pub containers: containers::Settings,
    /// `admin.*`; `None` if there is to be no AdminServer.
    pub admin_server: Option<AdminServer>,
    /// `metricsProvider.*`: the port for Prometheus; `None` with another provider.
    pub metrics_port: Option<MetricsPort>,
    /// `connection_throttle_*`: how many connects are let through.
    pub connection_throttle: throttle::Settings,
    /// `request_throttle_*` and its like: when requests wait before they are looked at.
    pub request_throttle: RequestThrottle,
    /// `largeRequestThreshold`: requests of more bytes are large; `None` (-1) is none.
    pub large_request_bytes: Option<u32>,
    /// `largeRequestMaxBytes`: the most bytes of large requests that wait for their replies.
    pub large_requests_bytes_max: u32,
    /// `ringkeeper.maxWatches`: the most watches of all connections.
    pub watches_max: u32,
    /// Transaction log.
    pub log: LogConfig,
    /// Snapshots and their purging.
    pub snapshot: SnapshotConfig,
    /// `digest.enabled`: keep and compare the digest of the tree with each transaction.
    pub digest_enabled: bool,
    /// `datadir.autocreate`: make missing directories.
    pub data_dir_autocreate: bool,
    /// Which cores do what.
    pub placement: placement::Overrides,
    /// `ringkeeper.spinBeforeParkUs`; `None` leaves it to the placement.
    pub spin_before_park: Option<Duration>,
    /// `ringkeeper.logLevel`: a level, or a filter in the syntax of the tracing crate.
    pub trace_filter: String,
    /// `ringkeeper.logFormat`.
    pub trace_format: TraceFormat,
    /// `ringkeeper.stallDetector`: warn of what keeps a shard from its ring for 10 ms.
    pub stall_detector: bool,
    effective: Vec<Effective>,
}

/// The transaction log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `preAllocSize` in bytes: how much Apache would allocate at once; 0 is off.
    pub pre_alloc_bytes: u64,
    /// `ringkeeper.segmentBytes`: size of a log segment, a multiple of [`SEGMENT_BLOCK_BYTES`]; by default
    /// `pre_alloc_bytes`, at least [`SEGMENT_BYTES_MIN`].
    pub segment_bytes: u64,
    /// `forceSync=yes`: a write is durable before it is acknowledged.
    pub force_sync: bool,
    /// `fsync.warningthresholdms`: a flush that takes longer is worth a warning.
    pub flush_warning_threshold: Duration,
    /// `ringkeeper.flushesInFlight`, 1 to 16; `None` leaves it to the server.
    pub flushes_in_flight: Option<u32>,
    /// `ringkeeper.flushEngine`.
    pub flush_engine: FlushEngine,
}

/// How a flush of the log makes its bytes durable (`docs/decisions/0003-flush-engine.md`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FlushEngine {
    /// One write through the ring, around the page cache and durable when it ends (`O_DIRECT`, `O_DSYNC`).
    #[default]
    Direct,
    /// A write into the page cache and an `fdatasync`, both through the ring.
    Ring,
    /// The same two on a helper thread: for file systems that have no `O_DIRECT`.
    Thread,
}

/// Snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// `snapCount`, at least 2: transactions between snapshots. Each draws its threshold from the upper half.
    pub transactions: u32,
    /// `snapSizeLimitInKb` in bytes: log bytes between snapshots, drawn alike; `None` (0 and less) is off.
    pub log_bytes: Option<u64>,
    /// `snapshot.compression.method`: how snapshots are written. All are read.
    pub compression: Compression,
    /// `snapshot.trust.empty`: logs without any snapshot are replayed rather than refused.
    pub trust_empty: bool,
    /// `autopurge.snapRetainCount`, at least 3: snapshots that purging keeps.
    pub retain: u32,
    /// `autopurge.purgeInterval`; `None` (0 and less) is off.
    pub purge_interval: Option<Duration>,
}

/// Least log segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Log segments are whole numbers of these many bytes, so that they can be written around the page cache.
pub const SEGMENT_BLOCK_BYTES: u64 = 4096;

/// Name of the directory below dataDir and dataLogDir that holds this format version's files.
const VERSION_DIR: &str = "version-2";

/// Where clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr {
    /// `None` is every interface.
    pub ip: Option<IpAddr>,
    /// 0 lets the system choose.
    pub port: u16,
}

impl ClientAddr {
    /// Addresses to bind, to be tried in order until one works. Every interface is `::`, which on Linux takes IPv4 as
    /// well, or else `0.0.0.0` on a machine without IPv6; that is what Java does.
    pub fn bind_candidates(&self) -> Vec<SocketAddr> {
        let ips = match self.ip {
            Some(ip) => vec![ip],
            None => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

/// `admin.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminServer {
    /// `admin.serverAddress` and `admin.serverPort`.
    pub addr: ClientAddr,
    /// `admin.commandURL`, such as `/commands`.
    pub command_url: String,
    /// `admin.idleTimeout`: a connection that asks nothing for so long is closed.
    pub idle_timeout: Duration,
    /// One of these keys is set, so that it is not by default only that there is one.
    pub asked_for: bool,
}

/// `metricsProvider.*`, where the class is Prometheus'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsPort {
    /// `metricsProvider.httpHost` and `metricsProvider.httpPort`.
    pub addr: ClientAddr,
    /// `metricsProvider.exportJvmInfo`: tell of the process too.
    pub of_process: bool,
}

/// How diagnostics are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// Lines for people, in Apache's layout.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which four-letter words are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FourLetterWords {
    /// `*`
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl FourLetterWords {
    /// Whether the whitelist has the word.
    pub fn allow(&self, word: &str) -> bool {
        match self {
            FourLetterWords::All => true,
            FourLetterWords::Only(words) => words.contains(word),
        }
    }
}

/// One honoured key with the value that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The key's name in the table, or as written for a member of a family.
    pub key: String,
    /// The value in the units of the key; secrets are hidden.
    pub value: String,
    /// Where it is set; `None` if it is the default.
    pub place: Option<Place>,
}

/// A configuration that holds, and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What deserves a look, in the order of the file.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// What is said about placement, and by which server.
    pub fn overrides(&self) -> placement::Overrides {
        let turn = self.ensemble.as_ref().map_or(0, |ensemble| ensemble.my_id.0 as usize);
        placement::Overrides { turn, ..self.placement.clone() }
    }

    /// Reads and checks the file. The environment adds what its JVM flags set.
    ///
    /// Errors: every variant of [`ConfigError`] but [`ConfigError::NotFound`]. Looks up the host name of
    /// `clientPortAddress`. In an ensemble it also reads `<dataDir>/myid`, the dynamic file that the configuration names,
    /// and the one beside it that holds a proposed membership.
    ///
    /// Source: `QuorumPeerConfig.parse`.
    pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, ConfigError> {
        let text = fs::read(path).map_err(|cause| ConfigError::Unreadable { path: path.to_path_buf(), cause })?;
        let mut loaded = resolve::resolve(&text, path, environment.flags())?;
        if let Some(what) = relative_path(path) {
            let place = Place::File(path.to_path_buf());
            loaded.warnings.insert(0, Warning { place, what });
        }
        Ok(loaded)
    }

    /// Checks a text as if it stood in `path`, with no environment. Reads the same other files as [`Config::load`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Loaded, ConfigError> {
        resolve::resolve(text, path, Vec::new())
    }

    /// Directory of the log: `<dataLogDir>/version-2`.
    pub fn log_dir(&self) -> PathBuf {
        self.data_log_dir.join(VERSION_DIR)
    }

    /// Directory of snapshots and epochs: `<dataDir>/version-2`.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.data_dir.join(VERSION_DIR)
    }

    /// Every honoured key with the value that holds, in the order of the table. Keys that are neither set nor have a
    /// default are left out.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }
}

/// Apache's warning for a path that depends on the working directory and does not say so by a leading `./`.
fn relative_path(path: &Path) -> Option<String> {
    let sure = path.is_absolute() || path.starts_with("./");
    let text = path.display();
    (!sure).then(|| format!("{text} is relative. Prepend ./ to indicate that you're sure!"))
}
