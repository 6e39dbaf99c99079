//! Four-letter words: the texts of Apache, and what they are about.

use std::collections::BTreeSet;

use super::ensemble::Ensemble;
use super::support::*;

const SETTINGS: &str = "tickTime=200\nmaxSessionTimeout=60000\n4lw.commands.whitelist=*\n";

fn everywhere_with_words(check: impl Fn(&Place)) {
    everywhere_with(SETTINGS, "RINGKEEPER_TEST_APACHE", check);
}

fn told(place: &Place, word: &str) -> String {
    ask(&place.address, word)
}

/// Every run of digits becomes `N`, every number in hex `0xN`.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (word, digits): (&str, fn(&char) -> bool) = match c {
            '0' if rest.starts_with("0x") => ("0xN", |c| c.is_ascii_hexdigit()),
            '0'..='9' => ("N", |c| c.is_ascii_digit()),
            _ => {
                shape.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
        };
        shape.push_str(word);
        let prefix = word.len() - 1;
        rest = &rest[prefix..];
        rest = &rest[rest.chars().take_while(digits).count()..];
    }
    shape
}

/// The line of `cons` about a client, once it says what is looked for; its answer reaches the counters after the client.
fn cons_of(place: &Place, client: &Client, word: &str) -> String {
    let mine = format!("sid={},", client.session);
    wait_for(word, || {
        let text = told(place, "cons");
        assert!(text.ends_with(")\n\n"), "{text:?}");
        text.lines().find(|line| line.contains(&mine) && line.contains(word)).map(str::to_owned)
    })
}

#[test]
fn cons_tells_of_each_connection_and_crst_starts_anew() {
    everywhere_with_words(|place| {
        let mut client = place.client();
        let opened = cons_of(place, &client, "lop=SESS");
        assert!(opened.contains(",lcxid=0x0,"), "{opened}");
        let path = place.path("a");
        let zxid = client.call(&create(&path, None)).zxid;
        let created = cons_of(place, &client, "lop=CREA");
        assert!(created.contains(&format!(",to=30000,lcxid=0x1,lzxid=0x{zxid:x},lresp=")), "{created}");
        assert_eq!(
            shape(&created),
            " /N.N.N.N:N[N](queued=N,recved=N,sent=N,sid=0xN,lop=CREA,est=N,to=N,lcxid=0xN,lzxid=0xN,lresp=N,llat=N,\
             minlat=N,avglat=N,maxlat=N)"
        );
        let counts =
            |line: &str| line.split("queued=").nth(1).map(|rest| rest.split(",sid").next().unwrap().to_owned());
        assert_eq!(counts(&created).as_deref(), Some("0,recved=2,sent=2"));
        for (request, op) in [
            (get(&path, false), "GETD"),
            (exists(&path, false), "EXIS"),
            (children(&path, false), "GETC"),
            (set(&path, None), "SETD"),
            (sync(&path), "SYNC"),
            (multi(&[delete(&path, -1)]), "MULT"),
            (add_watch(&path, 0), "ADDW"),
            (set_watches(0, &[], &[], &[]), "SETW"),
        ] {
            client.call(&request).ok();
            cons_of(place, &client, &format!("lop={op},"));
        }
        // A special xid is not the last one.
        let xid = client.xid;
        client.assert_alive();
        let pinged = cons_of(place, &client, "lop=PING");
        assert!(pinged.contains(&format!(",lcxid=0x{xid:x},")), "{pinged}");

        assert_eq!(told(place, "crst"), "Connection stats reset.\n");
        let reset = cons_of(place, &client, "lop=NA");
        assert_eq!(counts(&reset).as_deref(), Some("0,recved=0,sent=0"));
        assert!(reset.contains(",to=30000,lzxid=0xffffffffffffffff,lresp=0,llat=0,"), "{reset}");
        // `stat` has the short form.
        let stat = told(place, "stat");
        let short = reset.split(",sid").next().expect("a part").to_owned() + ")";
        assert!(stat.lines().any(|line| line == short), "{short:?} is not in {stat}");
    });
}

#[test]
fn dump_tells_of_sessions_and_their_ephemerals() {
    everywhere_with_words(|place| {
        let mut client = place.client();
        let (a, b) = (place.path("a"), place.path("b"));
        client.call(&create_ephemeral(&a)).ok();
        client.call(&create_ephemeral(&b)).ok();
        let text = told(place, "dump");
        let session = client.session.to_string();
        let (sessions, rest) = text.split_once("ephemeral nodes dump:\n").expect("the second part");
        let (ephemerals, connections) = rest.split_once("Connections dump:\n").expect("the third part");
        let mut lines = sessions.lines();
        assert_eq!(lines.next(), Some("SessionTracker dump:"));
        assert_eq!(lines.next().map(shape).as_deref(), Some("Session Sets (N)/(N):"));
        let bucket = lines.next().expect("a bucket");
        // `1 expire at Sat Nov 21 22:52:09 UTC 2026:`, whatever the zone.
        let words: Vec<&str> = bucket.split(' ').collect();
        assert_eq!((words.len(), &words[1..3]), (9, &["expire", "at"][..]), "{bucket}");
        assert!(sessions.lines().any(|line| line == format!("\t{session}")), "{text}");
        assert_eq!(ephemerals.lines().next().map(shape).as_deref(), Some("Sessions with Ephemerals (N):"));
        let (_, mine) = ephemerals.split_once(&format!("{session}:\n")).expect("the session");
        let mine: BTreeSet<&str> = mine.lines().take(2).collect();
        assert_eq!(mine, [format!("\t{a}"), format!("\t{b}")].iter().map(String::as_str).collect());
        assert_eq!(connections.lines().next().map(shape).as_deref(), Some("Connections Sets (N)/(N):"));
        assert!(connections.lines().any(|line| line.ends_with(&format!(" sessionId: {session}"))), "{text}");
        assert!(connections.contains("\tip: /127.0.0.1:"), "{text}");
    });
}

#[test]
fn watches_are_listed_by_session_and_by_path() {
    everywhere_with_words(|place| {
        let (mut one, mut other) = (place.client(), place.client());
        let (a, b) = (place.path("a"), place.path("b"));
        one.call(&create(&a, None)).ok();
        one.call(&get(&a, true)).ok();
        assert_eq!(one.call(&exists(&b, true)).err, -101);
        // Child watches are not listed.
        one.call(&children("/", true)).ok();
        other.call(&get(&a, true)).ok();
        let by_session = told(place, "wchc");
        assert!(by_session.ends_with("\n\n") || by_session == "\n", "{by_session:?}");
        let (_, mine) = by_session.split_once(&format!("{}\n", one.session)).expect("the session");
        let mine: BTreeSet<&str> = mine.lines().take_while(|line| line.starts_with('\t')).collect();
        assert_eq!(mine, [format!("\t{a}"), format!("\t{b}")].iter().map(String::as_str).collect());
        let by_path = told(place, "wchp");
        let (_, sessions) = by_path.split_once(&format!("{a}\n")).expect("the path");
        let sessions: BTreeSet<&str> = sessions.lines().take(2).collect();
        let both = [&one, &other].map(|client| format!("\t{}", client.session));
        assert_eq!(sessions, both.iter().map(String::as_str).collect());
        assert_eq!(shape(&told(place, "wchs")), "N connections watching N paths\nTotal watches:N\n");
    });
}

#[test]
fn a_word_that_is_not_allowed_is_refused_without_the_number_behind_it() {
    let server = Server::run("");
    assert_eq!(ask(&server.address(), "stmk"), "stmk is not executed because it is not in the whitelist.\n");
}

#[test]
fn the_trace_mask_is_kept() {
    everywhere_with_words(|place| {
        let set = |mask: i64| {
            let mut wire = Wire::dial(&place.address);
            wire.send_bytes(b"stmk");
            wire.send_bytes(&mask.to_be_bytes());
            wire.rest()
        };
        assert_eq!(set(7), b"7");
        assert_eq!(told(place, "gtmk"), "7");
        assert_eq!(set(306), b"306");
        assert_eq!(told(place, "gtmk"), "306");
    });
}

#[test]
fn hash_remembers_some_digests() {
    everywhere_with_words(|place| {
        let mut client = place.client();
        let zxid = (0..130).map(|i| client.call(&create(&place.path(&format!("n{i}")), None)).zxid).last();
        let newest = zxid.expect("130 of them") / 128 * 128;
        let text = told(place, "hash");
        let (number, digest) = text.lines().last().and_then(|line| line.split_once(": ")).expect("a line");
        assert_eq!(i64::from_str_radix(number, 16), Ok(newest));
        assert!(digest.parse::<i64>().is_ok(), "{digest}");
    });
}

#[test]
fn hash_is_the_same_on_all_servers_of_an_ensemble() {
    let mut ensemble = Ensemble::run(3, 1, "4lw.commands.whitelist=*\n");
    let leader = ensemble.leader();
    let mut client = ensemble.servers[(leader + 1) % 3].client();
    let zxid = (0..260).map(|i| client.call(&create(&format!("/n{i}"), None)).zxid).last().expect("some");
    let newest = format!("{:x}: ", zxid / 128 * 128);
    let told: BTreeSet<String> = ensemble
        .servers
        .iter()
        .map(|server| {
            wait_for("the newest digest", || Some(ask(&server.address(), "hash")).filter(|text| text.contains(&newest)))
        })
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told.iter().all(|text| text.lines().count() >= 2), "{told:?}");
}

#[test]
fn srst_starts_the_counters_anew() {
    everywhere_with_words(|place| {
        let mut client = place.client();
        (0..50).for_each(|_| drop(client.call(&get("/", false))));
        assert_eq!(told(place, "srst"), "Server stats reset.\n");
        let srvr = told(place, "srvr");
        let received = srvr.lines().find_map(|line| line.strip_prefix("Received: ")).expect("a line");
        assert!(received.parse::<u32>().expect("a number") < 50, "{srvr}");
    });
}

#[test]
fn mntr_has_every_figure_of_apache() {
    let golden: BTreeSet<&str> = include_str!("../golden/apache-3.9/mntr-keys.txt").lines().collect();
    everywhere_with_words(|place| {
        let mut client = place.client();
        client.call(&create_ephemeral(&place.path("e"))).ok();
        client.call(&get("/", true)).ok();
        let text = told(place, "mntr");
        let mut values = std::collections::BTreeMap::new();
        for line in text.lines() {
            let (key, value) = line.split_once('\t').expect("a tab");
            assert!(values.insert(key, value).is_none(), "{key} twice");
        }
        let first: Vec<&str> = text.lines().take(2).filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(first, ["zk_version", "zk_server_state"]);
        let keys: BTreeSet<&str> = values.keys().copied().filter(|key| !key.contains("_per_namespace")).collect();
        let missing: Vec<_> = golden.difference(&keys).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let own = |key: &&&str| !key.starts_with("ringkeeper_");
        let more: Vec<_> = keys.difference(&golden).filter(own).collect();
        assert!(more.is_empty(), "{more:?}");
        let number = |key: &str| values[key].parse::<f64>().unwrap_or_else(|_| panic!("{key}: {}", values[key]));
        for key in [
            "zk_ephemerals_count",
            "zk_global_sessions",
            "zk_watch_count",
            "zk_num_alive_connections",
            "zk_packets_received",
            "zk_bytes_received_count",
            "zk_response_bytes",
            "zk_max_client_response_size",
            "zk_connection_request_count",
            "zk_cnt_readlatency",
            "zk_cnt_updatelatency",
            "zk_cnt_fsynctime",
            "zk_open_file_descriptor_count",
            "zk_max_file_descriptor_count",
            "zk_uptime",
        ] {
            assert!(number(key) > 0.0, "{key}: {}", values[key]);
        }
    });
}

/// What `mntr` says, by name.
fn figures(address: &str) -> std::collections::BTreeMap<String, String> {
    let text = ask(address, "mntr");
    text.lines().filter_map(|line| line.split_once('\t')).map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn mntr_and_srvr_have_every_figure_of_apache_in_each_role() {
    let standalone = include_str!("../golden/apache-3.9/mntr-keys.txt").lines();
    let roles = include_str!("../golden/apache-3.9/mntr-keys-of-roles.txt");
    let mut ensemble = Ensemble::run(3, 1, "4lw.commands.whitelist=*\n");
    let leader = ensemble.leader();
    ensemble.servers[(leader + 1) % 3].client().call(&create("/written", None)).ok();
    ensemble.assert_everywhere("/written", Some(b""));
    for index in 0..4 {
        let address = ensemble.servers[index].address();
        let figures = figures(&address);
        let role = &*figures["zk_server_state"];
        let of_role = roles.lines().filter_map(|line| line.strip_prefix(role)?.strip_prefix(' '));
        let golden: BTreeSet<&str> = standalone.clone().chain(of_role).collect();
        let ours = figures.keys().map(|key| &**key).filter(|key| !key.starts_with("ringkeeper_"));
        assert_eq!(ours.collect::<BTreeSet<_>>(), golden, "{role}");
        let count = |name: &str| figures[&format!("zk_cnt_{name}")].parse::<u64>().expect("a number");
        let counted: &[&str] = match role {
            "leader" => &["election_time", "leader_unavailable_time", "quorum_ack_latency"],
            "follower" => &["election_time", "follower_sync_time", "proposal_latency", "commit_propagation_latency"],
            _ => &["observer_sync_time", "commit_propagation_latency"],
        };
        for name in counted.iter().chain(&["unavailable_time", "propagation_latency", "dbinittime"]) {
            assert!(count(name) > 0, "{name} of the {role}");
        }
        let srvr = ask(&address, "srvr");
        let sizes = srvr.lines().find_map(|line| line.strip_prefix("Proposal sizes last/min/max: "));
        assert_eq!(sizes.is_some(), role == "leader", "{srvr}");
        if role == "leader" {
            let name = |name: &str| &*figures[&format!("zk_{name}_proposal_size")];
            assert_eq!(sizes, Some(&*format!("{}/{}/{}", name("last"), name("min"), name("max"))));
        }
    }
}

#[test]
fn sizes_are_counted_without_their_lengths() {
    let server = Server::run("4lw.commands.whitelist=*\n");
    let mut client = server.client();
    let told = |name: &str, value: &str| {
        wait_for(name, || (figures(&server.address())[name] == value).then_some(()));
    };
    client.call(&create("/n", None)).ok();
    // The header of a reply and a path.
    told("zk_last_client_response_size", "22");
    told("zk_watch_bytes", "0");
    client.call(&get("/n", true)).ok();
    client.call(&set("/n", Some(b"x"))).ok();
    // The header, the type, the state, and a path.
    told("zk_watch_bytes", "30");
}

#[test]
fn a_start_tells_what_it_has_read_and_how_long_that_took() {
    let mut server = Server::run("4lw.commands.whitelist=*\n");
    assert_eq!(figures(&server.address())["zk_cnt_startup_txns_loaded"], "0", "there was no log");
    let mut client = server.client();
    (0..10).for_each(|i| drop(client.call(&create(&format!("/n{i}"), None))));
    drop(client);
    wait_for("the lost connection to be counted", || {
        (figures(&server.address())["zk_connection_drop_count"] != "0").then_some(())
    });
    server.kill();
    server.start();
    let figures = figures(&server.address());
    // The session and its znodes.
    assert_eq!((&*figures["zk_cnt_startup_txns_loaded"], &*figures["zk_sum_startup_txns_loaded"]), ("1", "11"));
    for name in ["dbinittime", "startup_snap_load_time", "startup_txns_load_time"] {
        assert_eq!(figures[&format!("zk_cnt_{name}")], "1", "{name}");
    }
    assert_eq!(figures["zk_cnt_propagation_latency"], "0", "nothing was written since");
}

#[test]
fn words_reach_the_connections_of_every_shard() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores < 2 {
        println!("one core has one shard");
        return;
    }
    let settings =
        format!("{SETTINGS}ringkeeper.broadcastCore=0\nringkeeper.clientCores=0,1\nringkeeper.clientShards=2\n");
    let server = Server::run(&settings);
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.call(&exists("/none", true)).err, -101);
    }
    let address = server.address();
    let cons = ask(&address, "cons");
    let by_session = ask(&address, "wchc");
    for client in &clients {
        assert!(cons.contains(&format!("sid={},", client.session)), "{cons}");
        assert!(by_session.contains(&format!("{}\n\t/none\n", client.session)), "{by_session}");
    }
    assert_eq!(ask(&address, "crst"), "Connection stats reset.\n");
    assert_eq!(ask(&address, "cons").matches("lop=NA").count(), 4);
}
