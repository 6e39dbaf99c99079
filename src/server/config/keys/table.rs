//! The table of keys, in the order of the operator's reference. See [`super::all`].
//!
//! One line a key: `honoured(name, kind, default)`, `in_ensemble(…)`, `no_effect(…, why)` or `refused(…, why)`. The reason
//! is a clause that ends up behind `<key> = <value> has no effect:` or `<key> = <value>:`.

use super::super::values::{Kind, MAX_INT, MAX_LONG, MIN_INT};
use super::{Key, Support};
use Kind::{Bool, Cores, Decimal, Path, Port, Secret, Text, Word, YesNo};

const fn honoured(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key::new(name, kind, default, Support::Honoured)
}

const fn in_ensemble(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key::new(name, kind, default, Support::InEnsemble)
}

const fn no_effect(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Key {
    Key::new(name, kind, default, Support::NoEffect(why))
}

const fn refused(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Key {
    Key::new(name, kind, default, Support::Refused(why))
}

const fn int(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Int { min, max, unit }
}

/// Any Java `int`, for keys that Apache corrects rather than refuses and for those without effect.
const fn any_int(unit: &'static str) -> Kind {
    int(MIN_INT, MAX_INT, unit)
}

const fn any_long(unit: &'static str) -> Kind {
    int(i64::MIN, MAX_LONG, unit)
}

/// Greatest tickTime: 20 ticks, the default of maxSessionTimeout, must fit a Java `int`.
const TICK_MS_MAX: i64 = MAX_INT / 20;
/// Greatest packet: the length field and the extra size added to it must fit a Java `int`.
const PACKET_BYTES_MAX: i64 = 1 << 30;
/// Greatest log segment, in KiB: 4 GiB.
const SEGMENT_KIB_MAX: i64 = 4 << 20;
/// Least and greatest log segment, in bytes.
const SEGMENT_BYTES: (i64, i64) = (1 << 20, 4 << 30);
/// Limit for counts of ticks: with the greatest tickTime they still fit a Java `long` by far.
const TICKS_MAX: i64 = 1 << 20;

const ENSEMBLE: &str = "it tunes how Apache serves an ensemble, and there is nothing like it here";
const OBSERVERS_CACHE: &str =
    "observers get the newest transactions from what is kept for all learners, or else a snapshot";
const MULTI_ADDRESS: &str = "the addresses of a server are tried one after the other";
const ADMIN_TLS: &str = "the AdminServer speaks no TLS";
const ADMIN_SNAPSHOTS: &str = "the AdminServer takes no snapshots and restores none";
const ADMIN: &str = "the AdminServer has no such setting";
const NO_TLS: &str = "there is no TLS yet; remove it and let TLS end in front of the server";
const TLS_DETAIL: &str = "there is no TLS yet, and no other key of this file asks for it";
const NO_SASL: &str = "there is no SASL yet; remove it and use digest or ip ACLs";
const SASL_DETAIL: &str = "there is no SASL yet";
const SHARDS: &str = "connections belong to shards of one core each; see ringkeeper.cores";
const COMMIT: &str = "there is no commit processor; the shard that orders writes applies them";
const GROUP_COMMIT: &str = "group commit adapts to the disk by itself";
const NO_CACHE: &str = "replies are not cached; encoding one costs less than finding it";
const WATCHES: &str = "there is one watch table";
const NO_JVM: &str = "there is no JVM to pause";
const PATH_STATS: &str = "there are no path statistics yet";
const METRICS: &str = "figures are counted where they arise, without workers and queues, and the port speaks no TLS";
const LOGGING: &str = "diagnostics are set by ringkeeper.logLevel and ringkeeper.logFormat";

/// Digest algorithms: only SHA1 is built in, and `SHA` is Java's other name of it.
const DIGEST_ALGORITHMS: Kind = Word(&["SHA1", "SHA-1", "SHA"]);
/// Authentication providers that are built in.
const AUTH_PROVIDERS: Kind = Word(&[
    "org.apache.zookeeper.server.auth.DigestAuthenticationProvider",
    "org.apache.zookeeper.server.auth.IPAuthenticationProvider",
]);
/// Metrics providers that Apache ships.
const METRICS_PROVIDERS: Kind = Word(&[
    "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider",
    "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
    "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider",
]);

#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    // Native keys of Apache.
    honoured("dataDir", Path, ""),
    honoured("dataLogDir", Path, "same as dataDir"),
    honoured("clientPort", Port, ""),
    honoured("clientPortAddress", Text, "all interfaces"),
    refused("secureClientPort", Port, "", NO_TLS),
    refused("secureClientPortAddress", Text, "", NO_TLS),
    honoured("clientPortListenBacklog", int(-1, MAX_INT, "connections; -1: the system's"), "-1"),
    in_ensemble("observerMasterPort", Port, "0"),
    honoured("tickTime", int(1, TICK_MS_MAX, "ms"), "3000"),
    honoured("initLimit", int(1, TICKS_MAX, "ticks"), ""),
    honoured("syncLimit", int(1, TICKS_MAX, "ticks"), ""),
    in_ensemble("connectToLearnerMasterLimit", int(0, TICKS_MAX, "ticks; 0: initLimit"), "0"),
    honoured("minSessionTimeout", int(-1, MAX_INT, "ms; -1: the default"), "2 ticks"),
    honoured("maxSessionTimeout", int(-1, MAX_INT, "ms; -1: the default"), "20 ticks"),
    honoured("maxClientCnxns", int(-1, MAX_INT, "connections from one address; 0: no limit"), "60"),
    in_ensemble("localSessionsEnabled", Bool, "false"),
    in_ensemble("localSessionsUpgradingEnabled", Bool, "false"),
    refused("electionAlg", any_int(""), "3", "Invalid electionAlg value. Only 3 is supported."),
    in_ensemble("quorumListenOnAllIPs", Bool, "false"),
    honoured("peerType", Word(&["participant", "observer"]), "participant"),
    honoured("syncEnabled", Bool, "true"),
    honoured("dynamicConfigFile", Path, ""),
    honoured("standaloneEnabled", Bool, "true"),
    honoured("reconfigEnabled", Bool, "false"),
    honoured("autopurge.snapRetainCount", any_int("snapshots; less than 3 counts as 3"), "3"),
    honoured("autopurge.purgeInterval", int(MIN_INT, 1 << 20, "hours; 0: off"), "0"),
    refused("sslQuorum", Bool, "false", NO_TLS),
    refused("portUnification", Bool, "false", NO_TLS),
    no_effect("sslQuorumReloadCertFiles", Bool, "false", TLS_DETAIL),
    refused("quorum.auth.enableSasl", Bool, "false", NO_SASL),
    refused("quorum.auth.learnerRequireSasl", Bool, "false", NO_SASL),
    refused("quorum.auth.serverRequireSasl", Bool, "false", NO_SASL),
    no_effect("quorum.auth.learner.saslLoginContext", Text, "QuorumLearner", SASL_DETAIL),
    no_effect("quorum.auth.server.saslLoginContext", Text, "QuorumServer", SASL_DETAIL),
    no_effect("quorum.auth.kerberos.servicePrincipal", Text, "zkquorum/localhost", SASL_DETAIL),
    no_effect("quorum.cnxn.threads.size", any_int("threads"), "20", "connections between servers need no threads"),
    no_effect("jvm.pause.monitor", Bool, "false", NO_JVM),
    no_effect("jvm.pause.info-threshold.ms", any_long("ms"), "1000", NO_JVM),
    no_effect("jvm.pause.warn-threshold.ms", any_long("ms"), "10000", NO_JVM),
    no_effect("jvm.pause.sleep.time.ms", any_long("ms"), "500", NO_JVM),
    honoured("metricsProvider.className", METRICS_PROVIDERS, "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider"),
    honoured("metricsProvider.httpHost", Text, "0.0.0.0"),
    honoured("metricsProvider.httpPort", Port, "7000"),
    honoured("metricsProvider.exportJvmInfo", Bool, "true"),
    no_effect("metricsProvider.*", Text, "", METRICS),
    in_ensemble("multiAddress.enabled", Bool, "false"),
    no_effect("multiAddress.reachabilityCheckEnabled", Bool, "true", MULTI_ADDRESS),
    no_effect("multiAddress.reachabilityCheckTimeoutMs", any_int("ms"), "1000", MULTI_ADDRESS),
    refused("oraclePath", Path, "", "a quorum of two with an oracle is not supported; remove it"),
    honoured("server.*", Text, ""),
    honoured("group*", Text, ""),
    honoured("weight*", Text, ""),

    // Storage.
    honoured("preAllocSize", int(0, SEGMENT_KIB_MAX, "KiB"), "65536"),
    honoured("snapCount", any_int("transactions; less than 2 counts as 2"), "100000"),
    honoured("snapSizeLimitInKb", int(i64::MIN, MAX_LONG / 1024, "KiB; 0 or less: off"), "4194304"),
    no_effect("txnLogSizeLimitInKb", any_long("KiB"), "-1", "a log file ends where its preallocated segment ends; see ringkeeper.segmentBytes"),
    in_ensemble("commitLogCount", any_int("proposals; less than 500 counts as 500"), "500"),
    in_ensemble("snapshotSizeFactor", Decimal, "0.33"),
    honoured("forceSync", YesNo, "yes"),
    honoured("fsync.warningthresholdms", int(0, MAX_INT, "ms"), "1000"),
    no_effect("flushDelay", any_long("ms"), "0", GROUP_COMMIT),
    no_effect("maxWriteQueuePollTime", any_long("ms"), "0", GROUP_COMMIT),
    no_effect("maxBatchSize", any_int("transactions"), "1000", GROUP_COMMIT),
    honoured("snapshot.compression.method", Word(&["", "gz", "snappy", "CHECKED"]), ""),
    honoured("snapshot.trust.empty", Bool, "false"),
    honoured("datadir.autocreate", Bool, "true"),
    refused("db.autocreate", Bool, "true", "an empty data directory starts a new database in this release; remove it, or set datadir.autocreate=false to catch a missing volume"),
    honoured("digest.enabled", Bool, "true"),
    no_effect("serializeLastProcessedZxid.enabled", Bool, "true", "snapshots always carry the last processed zxid, which 3.8 ignores"),
    no_effect("closeSessionTxn.enabled", Bool, "true", "closing a session always lists its ephemeral nodes, which every release since 3.6 reads"),
    honoured("extendedTypesEnabled", Bool, "false"),
    honoured("emulate353TTLNodes", Bool, "false"),

    // Limits and throttles.
    honoured("jute.maxbuffer", int(1, PACKET_BYTES_MAX, "bytes"), "1048575"),
    no_effect(
        "jute.maxbuffer.extrasize",
        int(0, PACKET_BYTES_MAX, "bytes"),
        "same as jute.maxbuffer",
        "a log record may be as large as the request that led to it",
    ),
    honoured("globalOutstandingLimit", int(1, MAX_INT, "requests"), "1000"),
    honoured("maxCnxns", int(0, MAX_INT, "connections; 0: no limit"), "0"),
    honoured("connection_throttle_tokens", int(0, MAX_INT, "connects; 0: no limit"), "0").also(&["connectionMaxTokens"]),
    honoured("connection_throttle_fill_time", int(1, MAX_INT, "ms"), "1").also(&["connectionTokenFillTime"]),
    honoured("connection_throttle_fill_count", int(0, MAX_INT, "connects"), "1").also(&["connectionTokenFillCount"]),
    honoured("connection_throttle_freeze_time", int(-1, MAX_INT, "ms; -1: off"), "-1").also(&["connectionFreezeTime"]),
    honoured("connection_throttle_drop_increase", Decimal, "0.02").also(&["connectionDropIncrease"]),
    honoured("connection_throttle_drop_decrease", Decimal, "0.002").also(&["connectionDropDecrease"]),
    honoured("connection_throttle_decrease_ratio", Decimal, "0").also(&["connectionDecreaseRatio"]),
    honoured("connection_throttle_weight_enabled", Bool, "false"),
    honoured("connection_throttle_global_session_weight", int(1, MAX_INT, "tokens"), "3"),
    honoured("connection_throttle_renew_session_weight", int(1, MAX_INT, "tokens"), "2"),
    honoured("connection_throttle_local_session_weight", int(1, MAX_INT, "tokens"), "1"),
    honoured("request_throttle_max_requests", int(0, MAX_INT, "requests; 0: no limit"), "0").also(&["requestThrottleLimit"]),
    honoured("request_throttle_stall_time", int(1, MAX_INT, "ms"), "100").also(&["requestThrottleStallTime"]),
    honoured("request_throttle_drop_stale", Bool, "true").also(&["requestThrottleDropStale"]),
    honoured("request_stale_latency_check", Bool, "false").also(&["requestStaleLatencyCheck"]),
    no_effect("request_stale_connection_check", Bool, "true", "a closed connection's requests are not looked at").also(&["requestStaleConnectionCheck"]),
    no_effect("request_throttler.shutdownTimeout", any_int("ms"), "10000", "requests that wait are not read yet"),
    honoured("throttled_op_wait_time", int(0, MAX_INT, "ms; 0: off"), "0").also(&["throttledOpWaitTime"]),
    honoured("largeRequestThreshold", int(-1, MAX_INT, "bytes; -1: off"), "-1"),
    honoured("largeRequestMaxBytes", int(1, MAX_INT, "bytes"), "104857600"),
    no_effect("maxResponseCacheSize", any_int("replies"), "400", NO_CACHE),
    no_effect("maxGetChildrenResponseCacheSize", any_int("replies"), "400", NO_CACHE),
    honoured("enforceQuota", Bool, "false"),
    honoured("skipACL", YesNo, "no"),
    no_effect("leaderServes", YesNo, "yes", ENSEMBLE),
    no_effect("nio.numSelectorThreads", any_int("threads"), "", SHARDS),
    no_effect("nio.numWorkerThreads", any_int("threads"), "", SHARDS),
    no_effect("nio.directBufferBytes", any_int("bytes"), "65536", SHARDS),
    no_effect("nio.shutdownTimeout", any_int("ms"), "5000", SHARDS),
    honoured("nio.sessionlessCnxnTimeout", int(1, MAX_INT, "ms"), "10000"),
    no_effect("commitProcessor.numWorkerThreads", any_int("threads"), "", COMMIT),
    no_effect("commitProcessor.maxReadBatchSize", any_int("requests"), "-1", COMMIT),
    no_effect("commitProcessor.maxCommitBatchSize", any_int("requests"), "1", COMMIT),
    no_effect("commitProcessor.shutdownTimeout", any_long("ms"), "5000", COMMIT),
    no_effect("watchManagerName", Text, "org.apache.zookeeper.server.watch.WatchManager", WATCHES),
    no_effect("watcherCleanThreadsNum", any_int("threads"), "2", WATCHES),
    no_effect("watcherCleanThreshold", any_int("watchers"), "1000", WATCHES),
    no_effect("watcherCleanIntervalInSeconds", any_int("s"), "600", WATCHES),
    no_effect("maxInProcessingDeadWatchers", any_int("watchers"), "-1", WATCHES),
    no_effect("bitHashCacheSize", any_int(""), "10", WATCHES),
    no_effect("intBufferStartingSizeBytes", any_int("bytes"), "1024", "buffers grow by themselves"),
    honoured("znode.container.checkIntervalMs", int(1, MAX_INT, "ms"), "60000"),
    honoured("znode.container.maxPerMinute", int(1, MAX_INT, "nodes"), "10000"),
    honoured("znode.container.maxNeverUsedIntervalMs", int(0, MAX_LONG, "ms; 0: never"), "0"),

    // Quorum.
    in_ensemble("cnxTimeout", int(1, MAX_INT, "ms"), "5000"),
    in_ensemble("quorumCnxnTimeoutMs", any_int("ms; 0 and less: syncLimit"), "-1"),
    in_ensemble("electionPortBindRetry", int(0, MAX_INT, "tries; 0: for ever"), "3"),
    in_ensemble("leader.maxTimeToWaitForEpoch", any_int("ms; less than 0: off"), "-1").also(&["maxTimeToWaitForEpoch"]),
    no_effect("leader.maxConcurrentSnapSyncs", any_int("learners"), "10", ENSEMBLE).also(&["maxConcurrentSnapSyncs"]),
    no_effect("leader.maxConcurrentDiffSyncs", any_int("learners"), "100", ENSEMBLE).also(&["maxConcurrentDiffSyncs"]),
    no_effect("leader.closeSocketAsync", Bool, "false", ENSEMBLE),
    no_effect("leader.ackLoggingFrequency", any_int("acks"), "1000", ENSEMBLE),
    no_effect("leader.nodelay", Bool, "true", ENSEMBLE),
    no_effect("follower.nodelay", Bool, "true", ENSEMBLE),
    no_effect("follower.skipLearnerRequestToNextProcessor", Bool, "false", ENSEMBLE),
    no_effect("learner.closeSocketAsync", Bool, "false", ENSEMBLE),
    no_effect("learner.asyncSending", Bool, "false", ENSEMBLE),
    in_ensemble("fastleader.minNotificationInterval", int(1, MAX_INT, "ms"), "200"),
    in_ensemble("fastleader.maxNotificationInterval", int(1, MAX_INT, "ms"), "60000"),
    no_effect("observer.syncEnabled", Bool, "true", ENSEMBLE),
    in_ensemble("observer.reconnectDelayMs", any_int("ms; 0 and less: none"), "0"),
    in_ensemble("observer.election.DelayMs", any_int("ms; 0 and less: none"), "200"),
    no_effect("observerMaster.sizeLimit", any_int("bytes"), "33554432", OBSERVERS_CACHE),
    no_effect("tcpKeepAlive", Bool, "false", "connections between servers are always kept alive, so that dead ones are found"),
    no_effect("clientTcpKeepAlive", Bool, "false", "dead clients are found by their session timeout"),
    no_effect("leaderConnectDelayDuringRetryMs", any_int("ms"), "100", ENSEMBLE),
    no_effect("forceSnapshotSync", Bool, "false", ENSEMBLE),
    no_effect("messageTracker.Enabled", Bool, "false", ENSEMBLE),
    no_effect("messageTracker.BufferSize", any_int("messages"), "10", ENSEMBLE),
    in_ensemble("readonlymode.enabled", Bool, "false"),

    // Access.
    honoured("4lw.commands.whitelist", Text, "srvr"),
    honoured("admin.enableServer", Bool, "true"),
    honoured("admin.serverAddress", Text, "0.0.0.0"),
    honoured("admin.serverPort", Port, "8080"),
    honoured("admin.commandURL", Text, "/commands"),
    honoured("admin.idleTimeout", int(1, MAX_INT, "ms"), "30000"),
    no_effect("admin.httpVersion", any_int(""), "11", ADMIN_TLS),
    no_effect("admin.portUnification", Bool, "false", ADMIN_TLS),
    refused("admin.forceHttps", Bool, "false", "the AdminServer speaks no TLS; remove it, or set admin.enableServer=false"),
    no_effect("admin.needClientAuth", Bool, "false", ADMIN_TLS),
    no_effect("admin.rateLimiterIntervalInMS", any_long("ms"), "300000", ADMIN_SNAPSHOTS),
    no_effect("admin.snapshot.enabled", Bool, "false", ADMIN_SNAPSHOTS),
    no_effect("admin.restore.enabled", Bool, "false", ADMIN_SNAPSHOTS),
    no_effect("admin.*", Text, "", ADMIN),
    refused("audit.enable", Bool, "false", "there is no audit log yet; remove it"),
    no_effect("audit.impl.class", Text, "org.apache.zookeeper.audit.Slf4jAuditLogger", "there is no audit log yet"),
    honoured("DigestAuthenticationProvider.enabled", Bool, "true"),
    honoured("DigestAuthenticationProvider.superDigest", Secret, ""),
    refused("DigestAuthenticationProvider.digestAlg", DIGEST_ALGORITHMS, "SHA1", "only SHA1 digests are supported, and ACLs made with another algorithm would match nobody"),
    no_effect("X509AuthenticationProvider.superUser", Text, "", TLS_DETAIL),
    no_effect("superUser*", Text, "", SASL_DETAIL),
    no_effect("SASLAuthenticationProvider.superPassword", Secret, "", SASL_DETAIL),
    no_effect("IPAuthenticationProvider.usexforwardedfor", Bool, "false", "there are no forwarded addresses to be believed"),
    refused("ensembleAuthName", Text, "", "the ensemble scheme is not supported, so clients of other ensembles would not be turned away; remove it"),
    refused("sessionRequireClientSASLAuth", Bool, "false", NO_SASL),
    honoured("enforce.auth.enabled", Bool, "false"),
    honoured("enforce.auth.schemes", Text, ""),
    no_effect("allowSaslFailedClients", Bool, "false", SASL_DETAIL),
    refused("authProvider.*", AUTH_PROVIDERS, "", "only the built-in digest, ip and world schemes are supported; remove it"),
    no_effect("serverCnxnFactory", Text, "org.apache.zookeeper.server.NIOServerCnxnFactory", SHARDS),
    no_effect("enableEagerACLCheck", Bool, "false", ENSEMBLE),
    no_effect("pathStats.enabled", Bool, "false", PATH_STATS),
    no_effect("pathStats.*", Text, "", PATH_STATS),
    no_effect("traceFile", Path, "", LOGGING),
    no_effect("snapRetainCount", any_int(""), "", "the key is autopurge.snapRetainCount since 3.4"),
    no_effect("electionPort", Port, "", "no release reads it; the port stands in the server line"),

    // TLS, SASL and Kerberos.
    refused("client.portUnification", Bool, "false", NO_TLS),
    no_effect("client.certReload", Bool, "false", TLS_DETAIL),
    no_effect("fips-mode", Bool, "true", TLS_DETAIL),
    no_effect("ssl.quorum.*", Text, "", TLS_DETAIL),
    no_effect("ssl.*", Text, "", TLS_DETAIL),
    no_effect("netty.server.outstandingHandshake.limit", any_int("handshakes"), "-1", TLS_DETAIL).also(&["outstandingHandshake.limit"]),
    no_effect("netty.server.earlyDropSecureConnectionHandshakes", Bool, "false", TLS_DETAIL),
    no_effect("netty.advancedFlowControl.enabled", Bool, "false", SHARDS).also(&["advancedFlowControlEnabled"]),
    no_effect("sasl.*", Text, "", SASL_DETAIL),
    no_effect("kerberos.*", Text, "", SASL_DETAIL),
    no_effect("security.auth_to_local", Text, "DEFAULT", SASL_DETAIL),

    // System properties of start scripts that end up here.
    no_effect("log.dir", Path, "", LOGGING),
    no_effect("log.file", Text, "", LOGGING),
    no_effect("root.logger", Text, "", LOGGING),
    no_effect("jmx.log4j.disable", Bool, "true", "there is no JMX"),

    // Keys of this server alone.
    honoured("ringkeeper.cores", Cores, "all that the process may use"),
    honoured("ringkeeper.clientShards", int(1, 16, "shards"), "by the number of cores"),
    honoured("ringkeeper.broadcastCore", int(0, 1 << 20, "core"), "by the number of cores"),
    honoured("ringkeeper.electionCore", int(0, 1 << 20, "core"), "by the number of cores"),
    honoured("ringkeeper.clientCores", Cores, "by the number of cores"),
    honoured("ringkeeper.segmentBytes", int(SEGMENT_BYTES.0, SEGMENT_BYTES.1, "bytes"), "preAllocSize, at least 1 MiB"),
    honoured("ringkeeper.spinBeforeParkUs", int(0, 1_000_000, "us"), "by the placement"),
    honoured("ringkeeper.logLevel", Text, "info"),
    honoured("ringkeeper.logFormat", Word(&["text", "json"]), "text"),
    honoured("ringkeeper.flushesInFlight", int(1, 16, "flushes"), "2"),
    honoured("ringkeeper.flushEngine", Word(&["direct", "ring", "thread"]), "direct"),
    honoured("ringkeeper.maxWatches", int(1, MAX_INT, "watches"), "8000000"),
    in_ensemble("ringkeeper.committedLogBytes", int(0, MAX_LONG, "bytes"), "67108864"),
    honoured("ringkeeper.stallDetector", Bool, "false"),
];
