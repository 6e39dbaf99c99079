//! What texts come to: errors, warnings, values. The recorded errors of Apache 3.9.5 have their line each.

use std::path::Path;
use std::time::Duration;

use super::testing::Scratch;
use super::*;

/// Reads a text and gives the error as `error: …`, or the warnings as one line each and `ok`.
fn outcome(text: &str) -> String {
    match Config::parse(text.as_bytes(), Path::new("zoo.cfg")) {
        Err(error) => format!("error: {error}"),
        Ok(loaded) if loaded.warnings.is_empty() => "ok".to_string(),
        Ok(loaded) => {
            let lines: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
            lines.join("\n")
        }
    }
}

/// The text stands below a first line that sets dataDir.
#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(outcome(&format!("dataDir=/d\n{text}")), expected, "{text}");
}

#[track_caller]
fn parse(text: &str) -> Config {
    let text = format!("dataDir=/d\n{text}");
    let loaded = Config::parse(text.as_bytes(), Path::new("zoo.cfg"));
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

#[test]
fn errors_that_apache_reports_as_well() {
    assert_eq!(outcome("tickTime=2000"), "error: zoo.cfg: dataDir is not set; allowed: dataDir=<directory>");
    check("tickTime=0", "error: zoo.cfg:2: tickTime = 0: tickTime is not set; allowed: 1 to 107374182 (ms)");
    check(
        "initLimit=abc",
        "error: zoo.cfg:2: initLimit = abc: For input string: \"abc\"; allowed: 1 to 1048576 (ticks)",
    );
    check(
        "syncEnabled=yes",
        "error: zoo.cfg:2: syncEnabled = yes: Invalid option yes for syncEnabled. Choose 'true' or 'false.'; \
         allowed: true, false",
    );
    check(
        "minSessionTimeout=9000\nmaxSessionTimeout=8000",
        "error: zoo.cfg:2: minSessionTimeout = 9000: minSessionTimeout must not be larger than \
         maxSessionTimeout; allowed: at most 8000 (ms)",
    );
    check(
        "tickTime=2000\nmaxSessionTimeout=3000",
        "error: zoo.cfg:3: maxSessionTimeout = 3000: minSessionTimeout must not be larger than \
         maxSessionTimeout; allowed: at least 4000 (ms)",
    );
    check(
        "electionAlg=1",
        "error: zoo.cfg:2: electionAlg = 1: Invalid electionAlg value. Only 3 is supported.; allowed: 3",
    );
    check(
        "peerType=foo",
        "error: zoo.cfg:2: peerType = foo: Unrecognised peertype: foo; allowed: participant, observer",
    );
    check(
        "clientPortAddress=127.0.0.1",
        "error: zoo.cfg:2: clientPortAddress is set but clientPort is not set; allowed: clientPort=<port>",
    );
    check("clientPort=99999", "error: zoo.cfg:2: clientPort = 99999: port out of range:99999; allowed: 0 to 65535");
    check(
        "metricsProvider.className=no.such",
        "error: zoo.cfg:2: metricsProvider.className = no.such: metrics provider class was not found; \
         allowed: org.apache.zookeeper.metrics.impl.DefaultMetricsProvider, \
         org.apache.zookeeper.metrics.impl.NullMetricsProvider, \
         org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider",
    );
    check("p=\\u12", "error: zoo.cfg:2: Malformed \\uxxxx encoding.");
    assert!(
        outcome("dataDir=/d\nclientPort=1\nclientPortAddress=no.such.invalid").starts_with(
            "error: zoo.cfg:3: clientPortAddress = no.such.invalid: UnknownHostException: no.such.invalid"
        )
    );
}

#[test]
fn errors_in_server_lines() {
    let form = " does not have the form server_config or server_config;client_config where server_config is the pipe \
                separated list of host:port:port or host:port:port:type and client_config is port or host:port";
    check("server.1=h:1", &format!("error: zoo.cfg:2: server.1 = h:1: h:1{form}"));
    check("server.1=h:1:2;h:3:4", &format!("error: zoo.cfg:2: server.1 = h:1:2;h:3:4: h:1:2;h:3:4{form}"));
    check(
        "server.1=h:2888:2888",
        "error: zoo.cfg:2: server.1 = h:2888:2888: Client and election port must be different! \
         Please update the configuration file on server.1",
    );
    check("server.1=h:x:2", "error: zoo.cfg:2: server.1 = h:x:2: Address unresolved: h:x");
    check("server.a=h:1:2", "error: zoo.cfg:2: server.a = h:1:2: For input string: \"a\"; allowed: a whole number");
    check(
        "server.1=h:1:2:foo",
        "error: zoo.cfg:2: server.1 = h:1:2:foo: Unrecognised peertype: foo; allowed: participant, observer",
    );
    check(
        "server.1=h:1:2|i:1:2",
        "error: zoo.cfg:2: server.1 = h:1:2|i:1:2: Multiple address feature is disabled, but multiple addresses \
         were specified for sid 1",
    );
    check(
        "server.1=h:1:2:observer",
        "error: zoo.cfg:2: server.1 = h:1:2:observer: Observers w/o participants is an invalid configuration; \
         allowed: no server line",
    );
    check(
        "server.1=h:1:2\nserver.2=h:1:2:OBSERVER",
        "error: zoo.cfg:3: server.2 = h:1:2:OBSERVER: Observers w/o quorum is an invalid configuration; \
         allowed: at most one server line",
    );
    check(
        "standaloneEnabled=false",
        "error: zoo.cfg:2: standaloneEnabled = false: standaloneEnabled = false then number of participants \
         should be >0; allowed: true",
    );
}

#[test]
fn one_server_line_is_standalone() {
    let warning = "zoo.cfg:2: Invalid configuration, only one server specified (ignoring)";
    check("server.1=h:1:2", warning);
    check("server.1=h:1:2;2181\nclientPort=2181", warning);
    check(
        "server.1=h:1:2;2182\nclientPort=2181",
        "error: zoo.cfg:2: server.1 = …;0.0.0.0:2182: client address for this server in static config file is \
         0.0.0.0:2181, different from the client address of the server line; allowed: one of the two, or both alike",
    );
    let client = |text: &str| parse(text).client_addr.map(|client| (client.ip, client.port));
    assert_eq!(client("server.1=h:1:2;127.0.0.1:7"), Some((Some([127, 0, 0, 1].into()), 7)));
    assert_eq!(client("server.1=h:1:2;7"), Some((None, 7)));
    assert_eq!(client("server.1=h:1:2;"), None);
}

#[test]
fn what_would_be_unsafe_to_ignore_is_refused() {
    for line in [
        "secureClientPort=2281",
        "sslQuorum=true",
        "portUnification=true",
        "client.portUnification=TRUE",
        "quorum.auth.enableSasl=true",
        "quorum.auth.serverRequireSasl=true",
        "sessionRequireClientSASLAuth=true",
        "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        "DigestAuthenticationProvider.digestAlg=BOGUS",
        "snapshot.compression.method=lz4",
        "db.autocreate=false",
        "oraclePath=/d/oracle",
        "audit.enable=true",
        "ensembleAuthName=prod",
    ] {
        let found = outcome(&format!("dataDir=/d\n{line}"));
        let shown = line.replace('=', " = ");
        assert!(found.starts_with(&format!("error: zoo.cfg:2: {shown}: ")), "{found}");
    }
    for line in [
        "sslQuorum=false",
        "authProvider.1=org.apache.zookeeper.server.auth.DigestAuthenticationProvider",
        "DigestAuthenticationProvider.digestAlg=sha-1",
        "snapshot.compression.method=",
        "snapshot.compression.method=gz",
        "snapshot.compression.method=snappy",
        "audit.enable=False",
        "electionAlg=3",
    ] {
        check(line, "ok");
    }
    check(
        "enforce.auth.enabled=true",
        "error: zoo.cfg:2: enforce.auth.enabled is true enforce.auth.schemes must be configured.; \
         allowed: enforce.auth.schemes=<some of digest, ip>",
    );
    check(
        "enforce.auth.enabled=true\nenforce.auth.schemes=digest,sasl",
        "error: zoo.cfg:3: enforce.auth.schemes = digest,sasl: Authentication scheme sasl is not available.; \
         allowed: digest, ip",
    );
    check("enforce.auth.enabled=true\nenforce.auth.schemes=digest, ip", "ok");
    check(
        "audit.enable=true",
        "error: zoo.cfg:2: audit.enable = true: there is no audit log yet; remove it; allowed: false",
    );
}

#[test]
fn keys_without_effect_warn_unless_they_ask_for_what_is() {
    check("flushDelay=0\nnetty.advancedFlowControl.enabled=false\nadmin.enableServer=false", "ok");
    check(
        "flushDelay=10\nadmin.httpVersion=2",
        "zoo.cfg:2: flushDelay = 10 has no effect: group commit adapts to the disk by itself\n\
         zoo.cfg:3: admin.httpVersion = 2 has no effect: the AdminServer speaks no TLS",
    );
    check(
        "requestStaleConnectionCheck=false",
        "zoo.cfg:2: requestStaleConnectionCheck = false has no effect: a closed connection's requests are not looked at",
    );
    check(
        "ssl.keyStore.password=geheim",
        "zoo.cfg:2: ssl.keyStore.password = (hidden) has no effect: there is no TLS yet, \
         and no other key of this file asks for it",
    );
    check(
        "request_throttle_stall_time=soon",
        "error: zoo.cfg:2: request_throttle_stall_time = soon: For input string: \"soon\"; \
         allowed: a whole number from 1 (ms)",
    );
}

#[test]
fn unknown_keys_are_named_and_slips_refused() {
    check("my.own=1", "zoo.cfg:2: my.own: unknown key, ignored");
    check("ringkeeper.turbo=1", "error: zoo.cfg:2: ringkeeper.turbo: unknown key");
    check("ringkeeper.core=1", "error: zoo.cfg:2: ringkeeper.core: unknown key; did you mean `ringkeeper.cores`?");
    check(
        "nio.numworkerthreads=1",
        "zoo.cfg:2: nio.numworkerthreads: unknown key; did you mean `nio.numWorkerThreads`?",
    );
    check("clientport=2181", "error: zoo.cfg:2: clientport: unknown key; did you mean `clientPort`?");
    check("zookeeper.snapCount=5", "error: zoo.cfg:2: zookeeper.snapCount: unknown key; did you mean `snapCount`?");
    check("Server.1=h:1:2", "error: zoo.cfg:2: Server.1: unknown key; did you mean `server.*`?");
}

#[test]
fn what_apache_corrects_is_corrected_with_a_warning() {
    check("snapCount=1", "zoo.cfg:2: SnapCount should be 2 or more. Now, snapCount is reset to 2");
    assert_eq!(parse("snapCount=-7").snapshot.transactions, 2);
    check("autopurge.snapRetainCount=1", "zoo.cfg:2: Invalid autopurge.snapRetainCount: 1. Defaulting to 3");
    check(
        "dataLogDir=log\ndataLogDir=./log\nclientPort=1 # main",
        "error: zoo.cfg:4: clientPort = 1 # main: For input string: \"1 # main\"; allowed: 0 to 65535",
    );
    check(
        "dataLogDir=log # main",
        "zoo.cfg:2: the value of dataLogDir contains ` #`, which is part of the value; comments need their own line\n\
         zoo.cfg:2: log # main is relative. Prepend ./ to indicate that you're sure!",
    );
    check("tickTime=1\ntickTime=2", "zoo.cfg:3: tickTime is set twice, in lines 2 and 3; line 3 wins");
    check("4lw.commands.whitelist=ruok, xyzw", "zoo.cfg:2: xyzw is no four-letter word");
}

#[test]
fn defaults() {
    let config = parse("");
    let ms = Duration::from_millis;
    assert_eq!(config.data_log_dir, Path::new("/d"));
    assert_eq!(config.log_dir(), Path::new("/d/version-2"));
    assert_eq!(config.client_addr, None);
    assert_eq!(config.tick_time, ms(3000));
    assert_eq!(config.min_session_timeout, ms(6000));
    assert_eq!(config.max_session_timeout, ms(60_000));
    assert_eq!(config.max_client_cnxns, Some(60));
    assert_eq!(config.max_cnxns, None);
    assert_eq!(config.max_buffer_bytes, 0xfffff);
    assert_eq!(config.client_port_listen_backlog, None);
    assert_eq!(config.super_digest, None);
    assert!(config.digest_enabled && config.digest_auth_enabled && config.data_dir_autocreate);
    assert!(!config.skip_acl && config.ensemble.is_none());
    assert!(config.four_letter_words.allow("srvr") && !config.four_letter_words.allow("mntr"));
    let log = LogConfig {
        pre_alloc_bytes: 64 << 20,
        segment_bytes: 64 << 20,
        force_sync: true,
        flush_warning_threshold: ms(1000),
        flushes_in_flight: None,
        flush_engine: FlushEngine::Direct,
    };
    assert_eq!(config.log, log);
    let snapshot = SnapshotConfig {
        compression: Compression::None,
        transactions: 100_000,
        log_bytes: Some(4 << 30),
        trust_empty: false,
        retain: 3,
        purge_interval: None,
    };
    assert_eq!(config.snapshot, snapshot);
    assert_eq!(config.placement, placement::Overrides::default());
    assert_eq!((config.trace_filter.as_str(), config.trace_format), ("info", TraceFormat::Text));
}

#[test]
fn values_reach_their_fields() {
    let config = parse(
        "tickTime=2000\nminSessionTimeout=-1\nmaxSessionTimeout=5000\nmaxClientCnxns=0\nmaxCnxns=9\n\
         preAllocSize=1\nsnapSizeLimitInKb=0\nforceSync=no\nskipACL=yes\njute.maxbuffer=4096\n\
         autopurge.purgeInterval=2\n4lw.commands.whitelist=*\nringkeeper.cores=0-1\nringkeeper.logFormat=json\n\
         ringkeeper.spinBeforeParkUs=20\nringkeeper.stallDetector=true\nringkeeper.flushesInFlight=4\n\
         ringkeeper.flushEngine=thread\n\
         clientPort=0\nclientPortAddress=[::1]\nclientPortListenBacklog=7\nringkeeper.logLevel=ringkeeper=debug\n\
         DigestAuthenticationProvider.superDigest=super:YW0smZw1fP8Plz4LetS54OLjO/8=",
    );
    let ms = Duration::from_millis;
    assert_eq!(config.min_session_timeout, ms(4000));
    assert_eq!(config.max_session_timeout, ms(5000));
    assert_eq!((config.max_client_cnxns, config.max_cnxns), (None, Some(9)));
    assert_eq!((config.log.pre_alloc_bytes, config.log.segment_bytes), (1024, 1 << 20));
    assert!(config.stall_detector);
    assert_eq!(config.log.flushes_in_flight, Some(4));
    assert_eq!(config.log.flush_engine, FlushEngine::Thread);
    assert_eq!(config.snapshot.log_bytes, None);
    assert_eq!(config.snapshot.purge_interval, Some(ms(2 * 3600 * 1000)));
    assert!(!config.log.force_sync && config.skip_acl);
    assert_eq!(config.max_buffer_bytes, 4096);
    assert_eq!(config.four_letter_words, FourLetterWords::All);
    assert_eq!(config.placement.cores, placement::parse_cores("0-1").ok());
    assert_eq!(config.spin_before_park, Some(Duration::from_micros(20)));
    assert_eq!((config.trace_filter.as_str(), config.trace_format), ("ringkeeper=debug", TraceFormat::Json));
    assert_eq!(config.client_port_listen_backlog, Some(7));
    let client = config.client_addr.unwrap();
    assert_eq!(client.bind_candidates(), ["[::1]:0".parse().unwrap()]);
    assert_eq!(config.super_digest.as_deref(), Some("super:YW0smZw1fP8Plz4LetS54OLjO/8="));
    assert_eq!(parse("ringkeeper.segmentBytes=1048577").log.segment_bytes, (1 << 20) + 4096);
    assert_eq!(
        parse("clientPort=5").client_addr.unwrap().bind_candidates(),
        ["[::]:5".parse().unwrap(), "0.0.0.0:5".parse().unwrap()]
    );
}

#[test]
fn a_secret_is_never_shown() {
    check(
        "DigestAuthenticationProvider.superDigest=super:geheim",
        "error: zoo.cfg:2: DigestAuthenticationProvider.superDigest = (hidden): nobody could authenticate with it; \
         allowed: super:<base64 of SHA1(super:password)>",
    );
    let config = parse("DigestAuthenticationProvider.superDigest=super:YW0smZw1fP8Plz4LetS54OLjO/8=");
    assert!(config.effective().iter().all(|line| !line.value.contains("YW0")));
}

#[test]
fn every_honoured_default_has_its_field() {
    // Each default that is a value may be written out and changes nothing but where it is said to be set.
    for key in keys::all() {
        let written_out = !key.default.is_empty() && !key.default.contains(' ');
        if key.support == keys::Support::Honoured && key.family().is_none() && written_out {
            check(&format!("{}={}", key.name, key.default), "ok");
        }
    }
    let lines: Vec<String> = parse("snapCount=1")
        .effective()
        .iter()
        .filter(|line| line.place.is_some() || line.key.ends_with("Timeout"))
        .map(|line| format!("{}={}", line.key, line.value))
        .collect();
    let expected = [
        "dataDir=/d",
        "minSessionTimeout=6000",
        "maxSessionTimeout=60000",
        "snapCount=2",
        "nio.sessionlessCnxnTimeout=10000",
        "admin.idleTimeout=30000",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_environment_is_weaker_than_the_file() {
    let scratch = Scratch::new();
    let path = scratch.write("zoo.cfg", "dataDir=/d\nsnapCount=10\n");
    let flags = "-Dzookeeper.snapCount=20 -Dzookeeper.preAllocSize=2048 -Dzookeeper.odd=1";
    let environment = Environment::new(&[("JVMFLAGS", flags)], scratch.path(), &path);
    let loaded = Config::load(&path, &environment).unwrap();
    assert_eq!(loaded.config.snapshot.transactions, 10);
    assert_eq!(loaded.config.log.pre_alloc_bytes, 2 << 20);
    let warnings: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(warnings, ["environment variable JVMFLAGS: odd: unknown key, ignored"]);
    let missing = Config::load(Path::new("/no/such/zoo.cfg"), &environment).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "/no/such/zoo.cfg: cannot read the configuration: No such file or directory (os error 2)"
    );
}

#[test]
fn the_sample_holds_also_with_everything_it_suggests() {
    let sample = include_str!("../../../conf/zoo_sample.cfg");
    assert_eq!(outcome(sample), "ok");
    let suggested: Vec<&str> = sample
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.contains('=') && !key.starts_with(' ') => key,
            _ => line,
        })
        .collect();
    assert!(suggested.contains(&"autopurge.purgeInterval=1"));
    assert_eq!(outcome(&suggested.join("\n")), "ok");
}
