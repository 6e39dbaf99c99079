//! The ensemble that this server belongs to, if any: server lines, groups and weights from zoo.cfg or from the dynamic
//! file, the file `myid`, and what only members of an ensemble use.
//!
//! `read` decides between standalone and ensemble; `config` makes the [`EnsembleConfig`] of the latter.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::PeerType;
use super::error::{ConfigError, InvalidValue, Place};
use super::properties;
use super::settings::{Settings, refuse_server_twice};
use crate::request::local;
use crate::types::ServerId;
use crate::zab::election::Timing;
use crate::zab::history;
use crate::zab::quorum::{HostPort, Member, QuorumError, QuorumVerifier, QuorumView};

/// What `snapshotSizeFactor` is, unless it is set to something up to 1.
const SNAPSHOT_SIZE_FACTOR: f64 = 0.33;

/// What a member of an ensemble is told. Limits in ticks are still to be multiplied by `tickTime`.
#[derive(Clone, Debug, PartialEq)]
pub struct EnsembleConfig {
    /// The number in the file `myid`; one of the members.
    pub my_id: ServerId,
    /// The configuration in force, and the one that was proposed when the server last ran.
    pub view: QuorumView,
    /// `dynamicConfigFile`, if membership stands there.
    pub dynamic_file: Option<PathBuf>,
    /// `initLimit` in ticks: time for a learner to connect and synchronize.
    pub init_limit: u32,
    /// `syncLimit` in ticks: greatest lag of an ack.
    pub sync_limit: u32,
    /// `connectToLearnerMasterLimit` in ticks: time to connect to the leader, by default `init_limit`.
    pub connect_to_learner_master_limit: u32,
    /// What a learner can have without a snapshot: as many as `ringkeeper.committedLogBytes` have room for, and at least
    /// `commitLogCount`.
    pub history: history::Limits,
    /// `snapshotSizeFactor`: see `zab::effect::Settings`.
    pub snapshot_size_factor: f64,
    /// `quorumListenOnAllIPs`: election and quorum ports on every interface, not only on those of the server line.
    pub listen_on_all_ips: bool,
    /// `multiAddress.enabled`: a server may have several addresses, and tells all of them.
    pub multi_address: bool,
    /// `cnxTimeout`: how long connecting to an election port may take.
    pub connect_timeout: Duration,
    /// `quorumCnxnTimeoutMs`, by default `sync_limit`: how long a server that connects may take to say who it is.
    pub hello_timeout: Duration,
    /// `electionPortBindRetry`: how often binding the election port is tried; `None` (0) is for ever.
    pub port_bind_tries: Option<u32>,
    /// `fastleader.minNotificationInterval` and `fastleader.maxNotificationInterval`.
    pub election: Timing,
    /// `leader.maxTimeToWaitForEpoch`: a leader without followers for so long gives up if one of its voters has.
    pub epoch_wait_max: Option<Duration>,
    /// `standaloneEnabled`: whether a configuration with one participant is a standalone server.
    pub standalone_enabled: bool,
    /// `syncEnabled`: an observer keeps log and snapshots.
    pub sync_enabled: bool,
    /// `localSessionsEnabled`, and with it `localSessionsUpgradingEnabled`.
    pub local_sessions: Option<local::Rules>,
    /// `readonlymode.enabled`: reads are served without a leader.
    pub read_only: bool,
    /// `observerMasterPort`: followers serve observers there, and observers come to them.
    pub observer_master_port: Option<u16>,
    /// `observer.reconnectDelayMs` and `observer.election.DelayMs`: the longest pauses of an observer.
    pub observer_delays_ms: (u64, u64),
}

impl EnsembleConfig {
    /// This server's line.
    pub fn me(&self) -> &Member {
        self.view.current().member(self.my_id).expect("myid was looked up")
    }

    /// Whether this server votes.
    pub fn peer_type(&self) -> PeerType {
        self.me().peer_type
    }
}

/// Where clients connect, as a server line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientPart {
    /// Host and port; the host is `0.0.0.0` if the line names only a port.
    pub address: HostPort,
    /// The key of the line.
    pub key: String,
    /// Where it stands.
    pub place: Place,
}

/// What the server lines come to.
pub(super) enum Membership {
    /// No ensemble; the client part of a lone server line.
    Standalone(Option<ClientPart>),
    /// An ensemble.
    Ensemble(Lines),
}

/// The lines of an ensemble, and what they say.
pub(super) struct Lines {
    lines: Vec<Line>,
    verifier: QuorumVerifier,
    dynamic_file: Option<PathBuf>,
}

/// A server, group or weight line, in zoo.cfg or in the dynamic file.
struct Line {
    key: String,
    value: String,
    place: Place,
}

impl Line {
    fn invalid(&self, what: impl Into<String>, allowed: &str) -> ConfigError {
        InvalidValue {
            place: self.place.clone(),
            key: self.key.clone(),
            value: self.value.clone(),
            what: what.into(),
            allowed: allowed.to_owned(),
        }
        .into()
    }

    fn client(&self, member: &Member) -> Option<ClientPart> {
        let (key, place) = (self.key.clone(), self.place.clone());
        member.client.clone().map(|address| ClientPart { address, key, place })
    }
}

/// Reads membership and decides what kind of server this is.
///
/// Errors: lines that cannot be read or contradict each other, observers without participants.
///
/// Source: `QuorumPeerConfig.parseDynamicConfig`, `isDistributed`.
pub(super) fn read(settings: &mut Settings) -> Result<Membership, ConfigError> {
    let dynamic_file = settings.set_text("dynamicConfigFile").map(PathBuf::from);
    let mut lines: Vec<Line> = ["server.*", "group*", "weight*"]
        .into_iter()
        .flat_map(|family| settings.members(family))
        .map(|set| Line { key: set.key.clone(), value: set.value.clone(), place: set.place.clone() })
        .collect();
    let mut version = 0;
    if let Some(path) = &dynamic_file {
        if let Some(line) = lines.first() {
            let what = format!("parameter: {} must be in a separate dynamic config file", line.key);
            return Err(line.invalid(what, "such lines in the dynamic file alone"));
        }
        lines = read_dynamic_file(path)?;
        version = version_of(path);
    }
    let verifier = verifier(&lines)?.with_version(version);
    if let Some(line) =
        lines.iter().find(|line| line.value.contains('|')).filter(|_| !settings.is_on("multiAddress.enabled"))
    {
        let id = line.key.strip_prefix("server.").unwrap_or_default();
        let what = format!("Multiple address feature is disabled, but multiple addresses were specified for sid {id}");
        return Err(line.invalid(what, ""));
    }

    let standalone_enabled = settings.is_on("standaloneEnabled");
    let line_of = |member: &Member| {
        let is_its = |line: &&Line| Member::parse(&line.key, &line.value).is_ok_and(|parsed| parsed.id == member.id);
        lines.iter().find(is_its).expect("every member comes from a line")
    };
    let observer = verifier.members().find(|member| !member.votes()).map(line_of);
    let participants: Vec<&Member> = verifier.members().filter(|member| member.votes()).collect();
    match (participants.as_slice(), observer) {
        ([], _) if !standalone_enabled => {
            let what = "standaloneEnabled = false then number of participants should be >0";
            Err(settings.get("standaloneEnabled").expect("its default is true").invalid(what, "true"))
        }
        ([], Some(observer)) => {
            Err(observer.invalid("Observers w/o participants is an invalid configuration", "no server line"))
        }
        ([], None) => Ok(Membership::Standalone(None)),
        ([_], Some(observer)) if standalone_enabled => {
            Err(observer.invalid("Observers w/o quorum is an invalid configuration", "at most one server line"))
        }
        ([only], None) if standalone_enabled => {
            let line = line_of(only);
            let client = line.client(only);
            settings.warn(line.place.clone(), "Invalid configuration, only one server specified (ignoring)");
            Ok(Membership::Standalone(client))
        }
        _ => Ok(Membership::Ensemble(Lines { lines, verifier, dynamic_file })),
    }
}

/// Reads `myid` and what else an ensemble needs; gives the client part of this server's line too.
///
/// Errors: `initLimit` or `syncLimit` not set, no usable `myid`, an id that no line has.
///
/// Source: `QuorumPeerConfig.setupQuorumPeerConfig`, `checkValidity`.
pub(super) fn config(
    settings: &mut Settings,
    lines: Lines,
    data_dir: &Path,
    tick_time: Duration,
) -> Result<(EnsembleConfig, Option<ClientPart>), ConfigError> {
    let Lines { lines, verifier, dynamic_file } = lines;
    let (init_limit, sync_limit) = (ticks(settings, "initLimit")?, ticks(settings, "syncLimit")?);
    let my_id = my_id(data_dir, &verifier)?;
    let me = verifier.member(my_id).expect("it was looked up");
    let my_line = lines.iter().find(|line| Member::parse(&line.key, &line.value).as_ref() == Ok(me));
    let client = my_line.and_then(|line| line.client(me));
    if let Some(set) = settings.get("peerType")
        && PeerType::from_word(&set.value) != Some(me.peer_type)
    {
        let what = format!(
            "Peer type from servers list ({}) doesn't match peerType ({}). Defaulting to servers list.",
            me.peer_type.word().to_uppercase(),
            set.value.to_uppercase(),
        );
        settings.warn(set.place.clone(), what);
    }
    warn_of_odd_members(settings, &lines, &verifier);
    let mut view = QuorumView::new(verifier);
    if let Some(next) = proposed(&settings.path)? {
        view.see(next);
    }
    let config = EnsembleConfig {
        my_id,
        view,
        dynamic_file,
        init_limit,
        sync_limit,
        connect_to_learner_master_limit: settings.limit("connectToLearnerMasterLimit").unwrap_or(init_limit),
        history: history::Limits {
            count_min: settings.number::<i32>("commitLogCount").max(history::COMMITTED_LOG_COUNT_MIN as i32) as usize,
            bytes_max: settings.number("ringkeeper.committedLogBytes"),
        },
        snapshot_size_factor: match settings.text("snapshotSizeFactor").parse() {
            // As Apache corrects it; what is no number is refused before.
            Ok(factor) if factor <= 1.0 => factor,
            _ => SNAPSHOT_SIZE_FACTOR,
        },
        listen_on_all_ips: settings.is_on("quorumListenOnAllIPs"),
        multi_address: settings.is_on("multiAddress.enabled"),
        connect_timeout: Duration::from_millis(settings.number("cnxTimeout")),
        hello_timeout: match settings.limit("quorumCnxnTimeoutMs") {
            Some(ms) => Duration::from_millis(ms),
            None => tick_time * sync_limit,
        },
        port_bind_tries: settings.limit("electionPortBindRetry"),
        election: Timing {
            resend_min_ms: settings.number("fastleader.minNotificationInterval"),
            resend_max_ms: settings.number("fastleader.maxNotificationInterval"),
            ..Timing::default()
        },
        epoch_wait_max: match settings.int("leader.maxTimeToWaitForEpoch") {
            ..0 => None,
            ms => Some(Duration::from_millis(ms.unsigned_abs())),
        },
        standalone_enabled: settings.is_on("standaloneEnabled"),
        sync_enabled: settings.is_on("syncEnabled"),
        local_sessions: settings
            .is_on("localSessionsEnabled")
            .then(|| local::Rules { upgrading: settings.is_on("localSessionsUpgradingEnabled") }),
        read_only: settings.is_on("readonlymode.enabled"),
        observer_master_port: settings.limit("observerMasterPort"),
        observer_delays_ms: (
            settings.limit("observer.reconnectDelayMs").unwrap_or(0),
            settings.limit("observer.election.DelayMs").unwrap_or(0),
        ),
    };
    Ok((config, client))
}

fn ticks(settings: &Settings, name: &str) -> Result<u32, ConfigError> {
    settings.set_number(name).ok_or_else(|| ConfigError::Missing {
        place: Place::File(settings.path.clone()),
        what: format!("{name} is not set"),
        allowed: "a number of ticks, in an ensemble".to_string(),
    })
}

fn verifier(lines: &[Line]) -> Result<QuorumVerifier, ConfigError> {
    let pairs = lines.iter().map(|line| (line.key.as_str(), line.value.as_str()));
    QuorumVerifier::from_pairs(pairs).map_err(|QuorumError { key, what, allowed }| {
        // Every error names the key of a line, the last of those that have it.
        let line = lines.iter().rfind(|line| line.key == key).expect("errors name keys that are set");
        line.invalid(what, allowed)
    })
}

/// The lines of the dynamic file. It holds nothing but membership, and its version stands in its name.
fn read_dynamic_file(path: &Path) -> Result<Vec<Line>, ConfigError> {
    let lines = lines_of(path)?;
    if let Some(line) = lines.iter().find(|line| line.key == "version") {
        return Err(line.invalid("dynamic file shouldn't have version inside", "the version as end of the file's name"));
    }
    Ok(lines)
}

fn lines_of(path: &Path) -> Result<Vec<Line>, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { path: path.to_path_buf(), cause };
    let text = fs::read(path).map_err(unreadable)?;
    let place = |line| Place::Line(path.to_path_buf(), line);
    let properties = properties::parse(&text)
        .map_err(|error| ConfigError::Syntax { place: place(error.line), what: error.what.to_string() })?;
    refuse_server_twice(&properties, place)?;
    let lines = properties.entries.into_iter();
    Ok(lines.map(|entry| Line { key: entry.key, value: entry.value, place: place(entry.line) }).collect())
}

/// `zoo.cfg.dynamic.100000016` has version 0x100000016; a name that does not end in hex has version 0.
fn version_of(path: &Path) -> i64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let version = name.rsplit_once('.').and_then(|(_, version)| i64::from_str_radix(version, 16).ok());
    version.unwrap_or(0)
}

/// The configuration that was proposed when the server last ran, and neither committed nor given up since.
fn proposed(path: &Path) -> Result<Option<QuorumVerifier>, ConfigError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".dynamic.next");
    let path = PathBuf::from(name);
    if !path.is_file() {
        return Ok(None);
    }
    verifier(&lines_of(&path)?).map(Some)
}

/// The number in the file `myid`, which must have a server line.
fn my_id(data_dir: &Path, verifier: &QuorumVerifier) -> Result<ServerId, ConfigError> {
    let path = data_dir.join("myid");
    let ids: Vec<String> = verifier.members().map(|member| member.id.to_string()).collect();
    let ids = ids.join(", ");
    let wrong = |what: String| ConfigError::Missing {
        place: Place::File(path.clone()),
        what,
        allowed: format!("the id of this server, one of {ids}"),
    };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Err(wrong("myid file is missing".into())),
        Err(cause) => return Err(ConfigError::Unreadable { path, cause }),
    };
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().map_or("null", str::trim);
    let Ok(id) = first.parse().map(ServerId) else {
        return Err(wrong(format!("serverid {first} is not a number")));
    };
    match verifier.member(id) {
        Some(_) => Ok(id),
        None => Err(wrong(format!("My id {id} not in the peer list"))),
    }
}

/// What works, but not as one would wish.
fn warn_of_odd_members(settings: &mut Settings, lines: &[Line], verifier: &QuorumVerifier) {
    let place = lines.first().map_or_else(|| Place::File(settings.path.clone()), |line| line.place.clone());
    match verifier.voters().count() {
        ..=2 => settings.warn(place.clone(), "No server failure will be tolerated. You need at least 3 servers."),
        count if count % 2 == 0 => {
            settings.warn(place.clone(), "Non-optimal configuration, consider an odd number of servers.");
        }
        _ => {}
    }
    let (mut by_low_byte, mut by_address) = (BTreeMap::new(), BTreeMap::new());
    for member in verifier.members() {
        let id = member.id;
        if let Some(other) = by_low_byte.insert(id.0 & 0xff, id) {
            let what =
                format!("servers {other} and {id} have the same lowest byte, so their sessions may get the same ids");
            settings.warn(place.clone(), what);
        }
        for address in member.addresses.iter().filter(|address| !address.host.is_wildcard()) {
            for address in [address.quorum(), address.election()] {
                if let Some(other) = by_address.insert(address.clone(), id) {
                    settings.warn(place.clone(), format!("servers {other} and {id} have the same address {address}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
