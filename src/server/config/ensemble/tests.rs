//! What configurations of ensembles come to.

use super::*;
use crate::server::config::testing::Scratch;
use crate::server::config::{Config, Loaded};

/// Three servers, with what an ensemble must have.
const THREE: &str = "initLimit=10\nsyncLimit=5\nserver.1=h1:1:2\nserver.2=h2:1:2\nserver.3=h3:1:2:observer\n";

/// A directory in which `zoo.cfg` sets `dataDir` to `@/d` and has the text below; `@` stands for the directory.
fn load(text: &str, files: &[(&str, &str)]) -> (Result<Loaded, ConfigError>, String) {
    let scratch = Scratch::new();
    let root = scratch.path().display().to_string();
    for (name, text) in files {
        scratch.write(name, text);
    }
    let path = scratch.write("zoo.cfg", &format!("dataDir=@/d\n{text}").replace('@', &root));
    (Config::parse(&fs::read(&path).unwrap(), &path), root)
}

/// Compares the error, or the warnings, one line each, or else `ok`.
#[track_caller]
fn check(text: &str, files: &[(&str, &str)], expected: &str) {
    let (loaded, root) = load(text, files);
    let found = match loaded {
        Err(error) => format!("error: {error}"),
        Ok(loaded) if loaded.warnings.is_empty() => "ok".to_owned(),
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    };
    assert_eq!(found.replace(&root, "@"), expected, "{text}");
}

#[track_caller]
fn ensemble(text: &str, files: &[(&str, &str)]) -> EnsembleConfig {
    let (loaded, _) = load(text, files);
    loaded.unwrap_or_else(|error| panic!("{error}")).config.ensemble.expect("it is one")
}

#[test]
fn what_an_ensemble_must_have() {
    let lines = "server.1=[::1]:1:2\nserver.2=h:1:2:participant;2181\n";
    let missing =
        |name: &str| format!("error: @/zoo.cfg: {name} is not set; allowed: a number of ticks, in an ensemble");
    check(lines, &[], &missing("initLimit"));
    check(&format!("{lines}initLimit=10"), &[], &missing("syncLimit"));
    check(THREE, &[], "error: @/d/myid: myid file is missing; allowed: the id of this server, one of 1, 2, 3");
    let myid = |text: &str, what: &str| {
        let expected = format!("error: @/d/myid: {what}; allowed: the id of this server, one of 1, 2, 3");
        check(THREE, &[("d/myid", text)], &expected);
    };
    myid("x\n", "serverid x is not a number");
    myid("", "serverid null is not a number");
    myid("9\n", "My id 9 not in the peer list");
    check("server.1=h1:1:2\nserver.1=h2:1:2", &[], "error: @/zoo.cfg:3: server.1 is set twice, in lines 2 and 3");
    check(
        "server.1=h1:1:2\nserver.01=h2:1:2",
        &[],
        "error: @/zoo.cfg:3: server.01 = h2:1:2: the id is given twice; allowed: an id of its own for each server",
    );
}

#[test]
fn groups_and_weights_are_checked() {
    let two = "server.1=h1:1:2\nserver.2=h2:1:2\ngroup.1=1\n";
    let with =
        |line: &str, expected: &str| check(&format!("{two}{line}"), &[], &format!("error: @/zoo.cfg:{expected}"));
    with("group.2=2:1", "5: group.2 = 2:1: Server 1is in multiple groups");
    with("weight.1=1", "3: server.2 = h2:1:2: Server 2is not in a group");
    with("group.2=2\nweight.1=x", "6: weight.1 = x: For input string: \"x\"; allowed: a whole number");
}

#[test]
fn what_works_but_not_well_is_worth_a_warning() {
    let observed = "@/zoo.cfg:4: No server failure will be tolerated. You need at least 3 servers.";
    check(THREE, &[("d/myid", "2\n")], observed);
    let voter = THREE.replace(":observer", "");
    check(&voter, &[("d/myid", " 2 \n")], "ok");
    check(
        &format!("{voter}server.257=h1:5:2"),
        &[("d/myid", "1")],
        "@/zoo.cfg:4: Non-optimal configuration, consider an odd number of servers.\n\
         @/zoo.cfg:4: servers 1 and 257 have the same lowest byte, so their sessions may get the same ids\n\
         @/zoo.cfg:4: servers 1 and 257 have the same address h1:2",
    );
    check(
        &format!("{voter}peerType=observer"),
        &[("d/myid", "1")],
        "@/zoo.cfg:7: Peer type from servers list (PARTICIPANT) doesn't match peerType (OBSERVER). \
         Defaulting to servers list.",
    );
}

#[test]
fn one_participant_may_be_an_ensemble() {
    let one = "initLimit=1\nsyncLimit=1\nserver.1=h1:1:2\n";
    check(one, &[], "@/zoo.cfg:4: Invalid configuration, only one server specified (ignoring)");
    let found = ensemble(&format!("{one}server.2=h2:1:2:observer\nstandaloneEnabled=false"), &[("d/myid", "2")]);
    assert_eq!((found.my_id, found.peer_type()), (ServerId(2), PeerType::Observer));
}

#[test]
fn observers_may_have_masters_of_their_own_and_pauses() {
    let found = ensemble(THREE, &[("d/myid", "1")]);
    assert_eq!((found.observer_master_port, found.observer_delays_ms), (None, (0, 200)));
    let settings = "observerMasterPort=2191\nobserver.reconnectDelayMs=70\nobserver.election.DelayMs=-1";
    let found = ensemble(&format!("{THREE}{settings}"), &[("d/myid", "1")]);
    assert_eq!((found.observer_master_port, found.observer_delays_ms), (Some(2191), (70, 0)));
}

#[test]
fn values_reach_their_fields() {
    let found = ensemble(&format!("tickTime=2000\n{THREE}"), &[("d/myid", "1")]);
    assert_eq!((found.local_sessions, found.read_only), (None, false));
    assert_eq!((found.init_limit, found.sync_limit, found.connect_to_learner_master_limit), (10, 5, 10));
    assert_eq!(found.hello_timeout, Duration::from_secs(10));
    assert_eq!(found.connect_timeout, Duration::from_secs(5));
    assert_eq!((found.port_bind_tries, found.election), (Some(3), Timing::default()));
    assert_eq!((found.epoch_wait_max, found.history), (None, history::Limits::default()));
    assert!(found.sync_enabled && found.standalone_enabled);
    assert!(!found.listen_on_all_ips && !found.multi_address);
    let found = ensemble(
        &format!(
            "{THREE}commitLogCount=2000\nconnectToLearnerMasterLimit=2\nquorumListenOnAllIPs=true\nmultiAddress.enabled=true\n\
             cnxTimeout=7\nquorumCnxnTimeoutMs=8\nelectionPortBindRetry=0\nfastleader.minNotificationInterval=9\n\
             fastleader.maxNotificationInterval=10\nleader.maxTimeToWaitForEpoch=0\n\
             syncEnabled=false\nringkeeper.committedLogBytes=4194304\nserver.4=b:1:2|a:1:2"
        ),
        &[("d/myid", "4")],
    );
    assert_eq!(found.connect_to_learner_master_limit, 2);
    assert_eq!(found.history, history::Limits { count_min: 2000, bytes_max: 4 << 20 });
    let few = ensemble(&format!("{THREE}commitLogCount=-3"), &[("d/myid", "1")]);
    assert_eq!(few.history, history::Limits::default(), "as Apache corrects it");
    assert_eq!(few.snapshot_size_factor, 0.33);
    for (set, factor) in [("0.5", 0.5), ("1", 1.0), ("0", 0.0), ("-1", -1.0), ("1.1", 0.33)] {
        let found = ensemble(&format!("{THREE}snapshotSizeFactor={set}"), &[("d/myid", "1")]);
        assert_eq!(found.snapshot_size_factor, factor, "{set}");
    }
    assert!(found.listen_on_all_ips && found.multi_address && !found.sync_enabled);
    assert_eq!((found.connect_timeout, found.hello_timeout), (Duration::from_millis(7), Duration::from_millis(8)));
    assert_eq!((found.port_bind_tries, found.epoch_wait_max), (None, Some(Duration::ZERO)));
    assert_eq!((found.election.resend_min_ms, found.election.resend_max_ms), (9, 10));
    assert_eq!(found.me().to_string(), "a:1:2|b:1:2:participant");
}

#[test]
fn the_client_port_may_stand_in_the_server_line() {
    let lines = THREE.replace("h1:1:2", "h1:1:2;127.0.0.1:2181");
    let client = |text: &str| load(text, &[("d/myid", "1")]).0.unwrap().config.client_addr.unwrap();
    assert_eq!(client(&lines).bind_candidates(), ["127.0.0.1:2181".parse().unwrap()]);
    assert_eq!(client(&format!("{lines}clientPort=2181")).ip, Some([127, 0, 0, 1].into()), "the line says more");
    check(
        &format!("{lines}clientPort=2182"),
        &[("d/myid", "1")],
        "error: @/zoo.cfg:4: server.1 = …;127.0.0.1:2181: client address for this server in static config file is \
         0.0.0.0:2182, different from the client address of the server line; allowed: one of the two, or both alike",
    );
}

#[test]
fn membership_in_a_file_of_its_own() {
    let limits = "initLimit=10\nsyncLimit=5\n";
    let text = format!("{limits}dynamicConfigFile=@/zoo.cfg.dynamic.100000016");
    let lines = "server.1=h1:1:2:participant;2181\nserver.2=h2:1:2\nserver.3=h3:1:2";
    let dynamic = |lines| [("zoo.cfg.dynamic.100000016", lines), ("d/myid", "1")];
    let found = ensemble(&text, &dynamic(lines));
    assert_eq!(found.view.current().version(), 0x1_0000_0016);
    assert_eq!(found.view.pending(), None);
    assert!(found.dynamic_file.is_some());
    let next = format!("{lines}\nserver.4=h4:1:2\nversion=200000001");
    let found = ensemble(&text, &[dynamic(lines).as_slice(), &[("zoo.cfg.dynamic.next", &next)]].concat());
    assert_eq!(found.view.pending().map(|pending| pending.version()), Some(0x2_0000_0001));
    check(
        &format!("{text}\nserver.2=h2:1:2"),
        &dynamic(lines),
        "error: @/zoo.cfg:5: server.2 = h2:1:2: parameter: server.2 must be in a separate dynamic config file; \
         allowed: such lines in the dynamic file alone",
    );
    check(
        &text,
        &dynamic("server.1=h1:1:2\ntickTime=5"),
        "error: @/zoo.cfg.dynamic.100000016:2: tickTime = 5: Unrecognised parameter: tickTime; \
         allowed: server.N, group.N, weight.N",
    );
    check(
        &text,
        &dynamic("server.1=h1:1:2\nversion=5"),
        "error: @/zoo.cfg.dynamic.100000016:2: version = 5: dynamic file shouldn't have version inside; \
         allowed: the version as end of the file's name",
    );
    check(
        &text,
        &dynamic("server.1=h1:1:2\nserver.2=h2:1:2\nserver.2=h3:1:2"),
        "error: @/zoo.cfg.dynamic.100000016:3: server.2 is set twice, in lines 2 and 3",
    );
    check(
        &format!("{limits}dynamicConfigFile=@/none"),
        &[],
        "error: @/none: cannot read the configuration: No such file or directory (os error 2)",
    );
    assert_eq!(version_of(Path::new("/a.5/zoo.cfg.dynamic")), 0);
}
