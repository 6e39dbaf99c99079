//! From checked settings to [`Config`]: defaults that depend on other keys, and rules between keys.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ensemble::{self, ClientPart, Membership};
use super::environment::Flag;
use super::error::{ConfigError, InvalidValue, Place};
use super::keys::{self, Support};
use super::settings::{Setting, Settings};
use super::*;
use crate::storage::compression::Compression;
use crate::zab::quorum::Host;

/// Default of `clientPortListenBacklog` and of both session timeouts in the file.
const UNSET: i64 = -1;
/// Least `snapCount`; Apache raises a smaller one to it.
const SNAP_COUNT_MIN: i64 = 2;
/// Least `autopurge.snapRetainCount`; Apache raises a smaller one to it.
const SNAP_RETAIN_MIN: i64 = 3;
/// Ticks in the default session timeouts.
const MIN_SESSION_TICKS: i64 = 2;
const MAX_SESSION_TICKS: i64 = 20;

/// The 18 four-letter words, and `*`.
const WORDS: [&str; 19] = [
    "*", "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst", "srvr",
    "stat", "stmk", "wchc", "wchp", "wchs",
];

pub(super) fn resolve(text: &[u8], path: &Path, flags: Vec<Flag>) -> Result<Loaded, ConfigError> {
    let mut settings = Settings::read(text, path, flags)?;
    let membership = ensemble::read(&mut settings)?;
    let data_dir = path_of(&mut settings, "dataDir").ok_or_else(|| ConfigError::Missing {
        place: Place::File(path.to_path_buf()),
        what: "dataDir is not set".to_string(),
        allowed: "dataDir=<directory>".to_string(),
    })?;
    let data_log_dir = path_of(&mut settings, "dataLogDir").unwrap_or_else(|| data_dir.clone());
    let tick_time = millis(&settings, "tickTime");
    let (ensemble, client_part) = match membership {
        Membership::Ensemble(lines) => {
            let (ensemble, client_part) = ensemble::config(&mut settings, lines, &data_dir, tick_time)?;
            (Some(ensemble), client_part)
        }
        Membership::Standalone(client_part) => {
            settings.warn_of_ensemble_keys();
            (None, client_part)
        }
    };
    let client_addr = client_addr(&settings, client_part)?;
    let (min_session_ms, max_session_ms) = session_timeouts(&settings)?;
    let snapshot = snapshot(&mut settings);
    let four_letter_words = four_letter_words(&mut settings);
    let max_buffer_bytes: u32 = settings.number("jute.maxbuffer");
    check_super_digest(&settings)?;
    let admin_server = admin_server(&settings)?;
    let metrics_port = metrics_port(&settings)?;
    let enforced_auth_schemes = enforced_auth_schemes(&settings)?;

    let config = Config {
        path: path.to_path_buf(),
        client_addr,
        client_port_listen_backlog: match settings.int("clientPortListenBacklog") {
            UNSET => None,
            _ => Some(settings.number("clientPortListenBacklog")),
        },
        tick_time,
        min_session_timeout: Duration::from_millis(min_session_ms.unsigned_abs()),
        max_session_timeout: Duration::from_millis(max_session_ms.unsigned_abs()),
        ensemble,
        max_client_cnxns: settings.limit("maxClientCnxns"),
        max_cnxns: settings.limit("maxCnxns"),
        sessionless_timeout: millis(&settings, "nio.sessionlessCnxnTimeout"),
        global_outstanding_limit: settings.number("globalOutstandingLimit"),
        max_buffer_bytes,
        four_letter_words,
        skip_acl: settings.is_on("skipACL"),
        digest_auth_enabled: settings.is_on("DigestAuthenticationProvider.enabled"),
        super_digest: settings.set_text("DigestAuthenticationProvider.superDigest").map(str::to_string),
        enforced_auth_schemes,
        enforce_quota: settings.is_on("enforceQuota"),
        reconfig_enabled: settings.is_on("reconfigEnabled"),
        extended_types: match (settings.is_on("extendedTypesEnabled"), settings.is_on("emulate353TTLNodes")) {
            (false, _) => ExtendedTypes::Off,
            (true, false) => ExtendedTypes::On,
            (true, true) => ExtendedTypes::OnAsIn353,
        },
        containers: containers::Settings {
            check_interval_ms: settings.number("znode.container.checkIntervalMs"),
            per_minute_max: settings.number("znode.container.maxPerMinute"),
            never_used_ms: settings.int("znode.container.maxNeverUsedIntervalMs"),
        },
        admin_server,
        metrics_port,
        connection_throttle: connection_throttle(&settings),
        request_throttle: RequestThrottle {
            requests_max: settings.number("request_throttle_max_requests"),
            stall_ms: settings.number("request_throttle_stall_time"),
            stale_dropped: settings.is_on("request_throttle_drop_stale")
                && settings.is_on("request_stale_latency_check"),
            wait_ms_max: settings.limit("throttled_op_wait_time"),
        },
        large_request_bytes: u32::try_from(settings.int("largeRequestThreshold")).ok(),
        large_requests_bytes_max: settings.number("largeRequestMaxBytes"),
        watches_max: settings.number("ringkeeper.maxWatches"),
        log: log(&settings),
        snapshot,
        digest_enabled: settings.is_on("digest.enabled"),
        data_dir_autocreate: settings.is_on("datadir.autocreate"),
        placement: overrides(&settings),
        spin_before_park: settings.set_number("ringkeeper.spinBeforeParkUs").map(Duration::from_micros),
        trace_filter: settings.set_text("ringkeeper.logLevel").unwrap_or("info").to_string(),
        trace_format: match settings.text("ringkeeper.logFormat") {
            word if word.eq_ignore_ascii_case("json") => TraceFormat::Json,
            _ => TraceFormat::Text,
        },
        stall_detector: settings.is_on("ringkeeper.stallDetector"),
        data_dir,
        data_log_dir,
        effective: Vec::new(),
    };
    let effective = effective(&settings, &config);
    let mut warnings = settings.warnings;
    warnings.sort_by_key(|warning| match &warning.place {
        Place::Line(_, line) => *line,
        Place::File(_) | Place::Variable(_) => 0,
    });
    Ok(Loaded { config: Config { effective, ..config }, warnings })
}

fn path_of(settings: &mut Settings, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(settings.set_text(name)?);
    if let Some(what) = relative_path(&path) {
        settings.warn(settings.place(name), what);
    }
    Some(path)
}

fn client_addr(settings: &Settings, part: Option<ClientPart>) -> Result<Option<ClientAddr>, ConfigError> {
    let host = settings.set_text("clientPortAddress");
    let Some(port) = settings.set_int("clientPort") else {
        if host.is_some() {
            return Err(ConfigError::Missing {
                place: settings.place("clientPortAddress"),
                what: "clientPortAddress is set but clientPort is not set".to_string(),
                allowed: "clientPort=<port>".to_string(),
            });
        }
        let Some(ClientPart { address, key, place }) = part else { return Ok(None) };
        let ip = match address.host.is_wildcard() {
            true => None,
            false => Some(look_up(address.host.as_str(), &place, &key)?),
        };
        return Ok(Some(ClientAddr { ip, port: address.port }));
    };
    let port = u16::try_from(port).expect("the kind's range fits the type");
    let ip = match host {
        None => None,
        Some(host) => Some(look_up(host, &settings.place("clientPortAddress"), "clientPortAddress")?),
    };
    match part {
        // Apache lets an address for every interface stand for any other with the same port.
        Some(ClientPart { address, key, place })
            if address.port != port || ip.is_some_and(|ip| Host::new(&ip.to_string()) != address.host) =>
        {
            Err(InvalidValue {
                key,
                value: format!("…;{address}"),
                what: format!(
                    "client address for this server in static config file is {}:{port}, \
                     different from the client address of the server line",
                    host.unwrap_or("0.0.0.0")
                ),
                allowed: "one of the two, or both alike".to_string(),
                place,
            }
            .into())
        }
        // And takes that one.
        Some(ClientPart { address, key, place }) if ip.is_none() && !address.host.is_wildcard() => {
            Ok(Some(ClientAddr { ip: Some(look_up(address.host.as_str(), &place, &key)?), port }))
        }
        _ => Ok(Some(ClientAddr { ip, port })),
    }
}

fn look_up(host: &str, place: &Place, key: &str) -> Result<IpAddr, ConfigError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let invalid = |what: String| InvalidValue {
        place: place.clone(),
        key: key.to_string(),
        value: host.to_string(),
        what,
        allowed: "a host name that resolves, or an address".to_string(),
    };
    let mut found =
        (bare, 0).to_socket_addrs().map_err(|cause| invalid(format!("UnknownHostException: {bare}: {cause}")))?;
    match found.next() {
        Some(address) => Ok(address.ip()),
        None => Err(invalid(format!("UnknownHostException: {bare}")).into()),
    }
}

fn admin_server(settings: &Settings) -> Result<Option<AdminServer>, ConfigError> {
    if !settings.is_on("admin.enableServer") {
        return Ok(None);
    }
    let keys = ["admin.enableServer", "admin.serverAddress", "admin.serverPort"];
    Ok(Some(AdminServer {
        addr: http_addr(settings, "admin.serverAddress", "admin.serverPort")?,
        command_url: settings.text("admin.commandURL").to_string(),
        idle_timeout: millis(settings, "admin.idleTimeout"),
        asked_for: keys.into_iter().any(|key| settings.get(key).is_some()),
    }))
}

fn metrics_port(settings: &Settings) -> Result<Option<MetricsPort>, ConfigError> {
    if !settings.text("metricsProvider.className").ends_with("PrometheusMetricsProvider") {
        return Ok(None);
    }
    Ok(Some(MetricsPort {
        addr: http_addr(settings, "metricsProvider.httpHost", "metricsProvider.httpPort")?,
        of_process: settings.is_on("metricsProvider.exportJvmInfo"),
    }))
}

fn http_addr(settings: &Settings, host_key: &str, port_key: &str) -> Result<ClientAddr, ConfigError> {
    let ip = match settings.text(host_key) {
        "" | "0.0.0.0" => None,
        host => Some(look_up(host, &settings.place(host_key), host_key)?),
    };
    Ok(ClientAddr { ip, port: settings.number(port_key) })
}

fn session_timeouts(settings: &Settings) -> Result<(i64, i64), ConfigError> {
    let tick_ms = settings.int("tickTime");
    let of = |name, ticks: i64| match settings.set_int(name) {
        None | Some(UNSET) => tick_ms * ticks,
        Some(ms) => ms,
    };
    let min_ms = of("minSessionTimeout", MIN_SESSION_TICKS);
    let max_ms = of("maxSessionTimeout", MAX_SESSION_TICKS);
    if min_ms <= max_ms {
        return Ok((min_ms, max_ms));
    }
    let what = "minSessionTimeout must not be larger than maxSessionTimeout";
    let set = |name| settings.get(name).filter(|set: &&Setting| set.value != "-1");
    Err(match (set("minSessionTimeout"), set("maxSessionTimeout")) {
        (Some(min), _) => min.invalid(what, format!("at most {max_ms} (ms)")),
        (None, Some(max)) => max.invalid(what, format!("at least {min_ms} (ms)")),
        (None, None) => unreachable!("2 ticks are less than 20"),
    })
}

fn snapshot(settings: &mut Settings) -> SnapshotConfig {
    let mut raised = |name: &str, least: i64, message: &str| {
        let number = settings.int(name);
        if number < least {
            let what = message.replace("{}", &number.to_string());
            settings.warn(settings.place(name), what);
        }
        u32::try_from(number.max(least)).expect("the kind's range fits the type")
    };
    let transactions =
        raised("snapCount", SNAP_COUNT_MIN, "SnapCount should be 2 or more. Now, snapCount is reset to 2");
    let retain =
        raised("autopurge.snapRetainCount", SNAP_RETAIN_MIN, "Invalid autopurge.snapRetainCount: {}. Defaulting to 3");
    SnapshotConfig {
        transactions,
        log_bytes: settings.limit::<u64>("snapSizeLimitInKb").map(|kib| kib * 1024),
        compression: match settings.text("snapshot.compression.method").to_ascii_lowercase().as_str() {
            "gz" => Compression::Gzip,
            "snappy" => Compression::Snappy,
            _ => Compression::None,
        },
        trust_empty: settings.is_on("snapshot.trust.empty"),
        retain,
        purge_interval: settings
            .limit::<u64>("autopurge.purgeInterval")
            .map(|hours| Duration::from_secs(hours * 60 * 60)),
    }
}

fn log(settings: &Settings) -> LogConfig {
    let pre_alloc_bytes = settings.number::<u64>("preAllocSize") * 1024;
    let segment_bytes =
        settings.set_number("ringkeeper.segmentBytes").unwrap_or(pre_alloc_bytes.max(SEGMENT_BYTES_MIN));
    LogConfig {
        pre_alloc_bytes,
        segment_bytes: segment_bytes.next_multiple_of(SEGMENT_BLOCK_BYTES),
        force_sync: settings.is_on("forceSync"),
        flush_warning_threshold: millis(settings, "fsync.warningthresholdms"),
        flushes_in_flight: settings.set_number("ringkeeper.flushesInFlight"),
        flush_engine: match settings.text("ringkeeper.flushEngine").to_ascii_lowercase().as_str() {
            "ring" => FlushEngine::Ring,
            "thread" => FlushEngine::Thread,
            _ => FlushEngine::Direct,
        },
    }
}

fn overrides(settings: &Settings) -> placement::Overrides {
    placement::Overrides {
        turn: 0,
        cores: settings.set_cores("ringkeeper.cores"),
        client_shards: settings.set_number("ringkeeper.clientShards"),
        broadcast: settings.set_core("ringkeeper.broadcastCore"),
        election: settings.set_core("ringkeeper.electionCore"),
        clients: settings.set_cores("ringkeeper.clientCores"),
    }
}

fn millis(settings: &Settings, name: &str) -> Duration {
    Duration::from_millis(settings.number(name))
}

fn four_letter_words(settings: &mut Settings) -> FourLetterWords {
    // srvr is always there: the status command needs it.
    let mut words = BTreeSet::from(["srvr".to_string()]);
    let listed = settings.text("4lw.commands.whitelist").split(',');
    words.extend(listed.map(|word| word.trim().to_string()));
    words.remove("");
    // Clients in read-only mode ask with it where they can write again.
    if settings.is_on("readonlymode.enabled") {
        words.insert("isro".to_string());
    }
    let unknown: Vec<String> = words.iter().filter(|word| !WORDS.contains(&word.as_str())).cloned().collect();
    for word in unknown {
        let place = settings.place("4lw.commands.whitelist");
        settings.warn(place, format!("{word} is no four-letter word"));
    }
    match words.contains("*") {
        true => FourLetterWords::All,
        false => FourLetterWords::Only(words),
    }
}

/// A user, usually `super`, a colon, and the base64 of 20 bytes. Apache takes any text, and then nobody is super.
fn check_super_digest(settings: &Settings) -> Result<(), ConfigError> {
    let Some(setting) = settings.get("DigestAuthenticationProvider.superDigest") else {
        return Ok(());
    };
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    let is_digest = |text: &str| {
        let bare = text.strip_suffix('=').unwrap_or(text);
        bare.len() == 27 && bare.chars().all(is_base64) && bare.len() + 1 == text.len()
    };
    match setting.value.split_once(':') {
        Some((user, digest)) if !user.is_empty() && is_digest(digest) => Ok(()),
        None if setting.value.is_empty() => Ok(()),
        _ => Err(setting.invalid("nobody could authenticate with it", "super:<base64 of SHA1(super:password)>")),
    }
}

fn connection_throttle(settings: &Settings) -> throttle::Settings {
    let weight = |name: &str| settings.number::<u32>(name);
    let decimal = |name: &str| settings.text(name).parse().expect("the kind's shape fits the type");
    throttle::Settings {
        tokens_max: settings.number("connection_throttle_tokens"),
        fill_time_ms: settings.number("connection_throttle_fill_time"),
        fill_count: settings.number("connection_throttle_fill_count"),
        freeze_time_ms: u64::try_from(settings.int("connection_throttle_freeze_time")).ok(),
        drop_increase: decimal("connection_throttle_drop_increase"),
        drop_decrease: decimal("connection_throttle_drop_decrease"),
        decrease_ratio: decimal("connection_throttle_decrease_ratio"),
        weights: settings.is_on("connection_throttle_weight_enabled").then(|| {
            // No session costs less than a local one, which this server has none of.
            let least = weight("connection_throttle_local_session_weight");
            throttle::Weights {
                new: weight("connection_throttle_global_session_weight").max(least),
                renewed: weight("connection_throttle_renew_session_weight").max(least),
            }
        }),
    }
}

/// Schemes that a client can have an identity of.
const AUTH_SCHEMES: [&str; 2] = ["digest", "ip"];

/// Empty where nothing is enforced. The rules and words are those of Apache's `AuthenticationHelper`.
fn enforced_auth_schemes(settings: &Settings) -> Result<Vec<String>, ConfigError> {
    if !settings.is_on("enforce.auth.enabled") {
        return Ok(Vec::new());
    }
    let known =
        || AUTH_SCHEMES.iter().filter(|s| **s != "digest" || settings.is_on("DigestAuthenticationProvider.enabled"));
    let allowed = known().copied().collect::<Vec<_>>().join(", ");
    let Some(setting) = settings.get("enforce.auth.schemes") else {
        return Err(ConfigError::Missing {
            place: settings.place("enforce.auth.enabled"),
            what: "enforce.auth.enabled is true enforce.auth.schemes must be configured.".to_string(),
            allowed: format!("enforce.auth.schemes=<some of {allowed}>"),
        });
    };
    let schemes: Vec<String> = setting.value.split(',').map(|scheme| scheme.trim().to_string()).collect();
    match schemes.iter().find(|scheme| !known().any(|known| known == scheme)) {
        Some(unknown) => Err(setting.invalid(format!("Authentication scheme {unknown} is not available."), allowed)),
        None => Ok(schemes),
    }
}

/// What `check-config` prints: values as set, or else what the default comes to.
fn effective(settings: &Settings, config: &Config) -> Vec<Effective> {
    let derived = |key: &keys::Key| match key.name {
        "dataLogDir" => config.data_log_dir.display().to_string(),
        "minSessionTimeout" => config.min_session_timeout.as_millis().to_string(),
        "maxSessionTimeout" => config.max_session_timeout.as_millis().to_string(),
        "ringkeeper.segmentBytes" => config.log.segment_bytes.to_string(),
        _ => key.default.to_string(),
    };
    let mut effective = Vec::new();
    for key in keys::all() {
        if !key.support.is_honoured() {
            continue;
        }
        if key.family().is_some() {
            effective.extend(settings.members(key.name).map(|setting| Effective {
                key: setting.key.clone(),
                value: setting.shown().to_string(),
                place: Some(setting.place.clone()),
            }));
            continue;
        }
        let set = settings.get(key.name);
        if key.support == Support::InEnsemble && set.is_none() && config.ensemble.is_none() {
            continue;
        }
        let (value, place) = match set {
            Some(setting) => (corrected(setting, config), Some(setting.place.clone())),
            None => (derived(key), None),
        };
        if !value.is_empty() {
            effective.push(Effective { key: key.name.to_string(), value, place });
        }
    }
    effective
}

/// The value of a key that is set, where a rule changed it.
fn corrected(setting: &Setting, config: &Config) -> String {
    match setting.key.as_str() {
        "minSessionTimeout" => config.min_session_timeout.as_millis().to_string(),
        "maxSessionTimeout" => config.max_session_timeout.as_millis().to_string(),
        "snapCount" => config.snapshot.transactions.to_string(),
        "autopurge.snapRetainCount" => config.snapshot.retain.to_string(),
        "ringkeeper.segmentBytes" => config.log.segment_bytes.to_string(),
        _ => setting.shown().to_string(),
    }
}
