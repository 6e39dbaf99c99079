//! Sessions from handshake to end, and the order in which a connection sees things.

use std::time::{Duration, Instant};

use ringkeeper::proto::client::ConnectRequest;
use ringkeeper::proto::frame::JUTE_MAXBUFFER_DEFAULT;
use ringkeeper::session::password;
use ringkeeper::types::{SessionId, Zxid};
use rustix::process::{Signal, kill_process};

use super::support::*;

/// Handshake payloads are compared as digits: version, timeout, session, password, read-only.
const REFUSED: &str = "00000000 00000000 0000000000000000 00000010 00000000000000000000000000000000 00";

#[test]
fn handshakes_of_all_lengths() {
    let server = Server::run("");
    let head = "00000000 0000000000000000 00007530 0000000000000000";
    let zeros = format!("00000010{}", "00".repeat(16));
    for (what, tail, length) in [
        ("Java", format!("{zeros} 00"), 37),
        ("read-only accepted", format!("{zeros} 01"), 37),
        ("go-zk", zeros.clone(), 36),
        ("null password", "ffffffff 00".to_owned(), 37),
        ("null password, 3.3", "ffffffff".to_owned(), 36),
        ("empty password", "00000000 00".to_owned(), 37),
        ("short password", "00000002 0102 00".to_owned(), 37),
    ] {
        let mut wire = Wire::dial(&server.address());
        wire.send(&unhex(&format!("{head} {tail}")));
        let reply = wire.receive().expect("an answer");
        assert_eq!(reply.len(), length, "{what}");
        let session = i64::from_be_bytes(reply[8..16].try_into().expect("8 bytes"));
        let secret = hex(&password(SessionId(session)));
        let expected = format!("00000000 00007530 {session:016x} 00000010 {secret} 00");
        assert_eq!(hex(&reply), hex(&unhex(&expected)[..length]), "{what}");
    }
    // Nothing at all, half a handshake, no password.
    for payload in ["", "00000000 00000000 0000", head] {
        let mut wire = Wire::dial(&server.address());
        wire.send(&unhex(payload));
        wire.assert_closed();
    }
}

#[test]
fn requests_may_come_with_the_handshake() {
    let server = Server::run("");
    let mut wire = Wire::dial(&server.address());
    let mut bytes = framed(&encoded(&new_session(30_000)));
    bytes.extend(framed(&create("/early", Some(b"x")).encoded(1)));
    bytes.extend(framed(&get("/early", false).encoded(2)));
    wire.send_bytes(&bytes);
    assert_eq!(wire.receive().expect("a session").len(), 37);
    for xid in 1..=2 {
        let reply = wire.receive().expect("a reply");
        assert_eq!((hex(&reply[..4]), hex(&reply[12..16])), (format!("{xid:08x}"), "00000000".to_owned()));
    }
}

#[test]
fn timeouts_are_brought_into_bounds() {
    let server = Server::run("");
    for (asked, given) in
        [(i32::MIN, 4000), (-1, 4000), (0, 4000), (3999, 4000), (4001, 4001), (40_000, 40_000), (i32::MAX, 40_000)]
    {
        assert_eq!(Client::connect_for(&server.address(), asked).timeout_ms, given, "asked for {asked}");
    }
}

#[test]
fn a_client_that_has_seen_more_is_turned_away_until_the_server_has_caught_up() {
    let server = Server::run("");
    let mut client = server.client();
    let seen = client.call(&create("/a", None)).zxid;
    let ahead = ConnectRequest { last_zxid_seen: Zxid(seen + 2), ..new_session(30_000) };
    let mut wire = Wire::dial(&server.address());
    wire.send(&encoded(&ahead));
    wire.assert_closed();
    // An old session is no excuse.
    let mut wire = Wire::dial(&server.address());
    wire.send(&encoded(&ConnectRequest {
        session: client.session,
        password: client.password.to_vec(),
        ..ahead.clone()
    }));
    wire.assert_closed();
    client.call(&set("/a", None)).ok();
    client.call(&set("/a", None)).ok();
    Client::connect_with(&server.address(), &ahead).expect("a session");
    // The comparison has a sign.
    let behind = ConnectRequest { last_zxid_seen: Zxid(-1), ..new_session(30_000) };
    Client::connect_with(&server.address(), &behind).expect("a session");
}

#[test]
fn a_client_comes_back_with_its_password() {
    let server = Server::run("");
    let mut client = server.client();
    client.call(&create_ephemeral("/e")).ok();
    client.call(&get("/e", true)).ok();
    let (session, secret) = (client.session, client.password);
    client.wire.hang_up();
    let mut again = Client::attach(&server.address(), session, &secret).expect("the session is there");
    assert_eq!((again.session, again.password), (session, secret));
    assert_eq!(again.call(&exists("/e", false)).stat().ephemeral_owner, session.0);
    // Watches belong to the connection.
    again.call(&set("/e", None)).ok();
    assert_eq!(again.events_so_far(), []);
}

#[test]
fn a_wrong_password_or_an_unknown_session_is_refused_in_all_three_ways() {
    let server = Server::run("");
    let client = server.client();
    let attempts = [
        ("wrong", client.session, vec![7; 16]),
        ("zeros", client.session, vec![0; 16]),
        ("empty", client.session, Vec::new()),
        ("another's", client.session, password(SessionId(client.session.0 + 1)).to_vec()),
        ("never there", SessionId(0x77), password(SessionId(0x77)).to_vec()),
    ];
    for (what, session, password) in attempts {
        for read_only in [Some(false), None] {
            let mut wire = Wire::dial(&server.address());
            let request = ConnectRequest { session, password: password.clone(), read_only, ..new_session(30_000) };
            wire.send(&encoded(&request));
            let length = if read_only.is_some() { 37 } else { 36 };
            assert_eq!(wire.receive().as_deref(), Some(&unhex(REFUSED)[..length]), "{what}");
            wire.assert_closed();
        }
    }
    Client::attach(&server.address(), client.session, &client.password).expect("the right one is accepted");
}

#[test]
fn the_second_to_attach_closes_the_first() {
    for settings in shard_settings() {
        let server = Server::run(settings);
        let mut clients = vec![server.client()];
        clients[0].call(&create_ephemeral("/e")).ok();
        for _ in 0..6 {
            let last = clients.last_mut().expect("there is one");
            let mut next = Client::attach(&server.address(), last.session, &last.password).expect("the session");
            last.wire.assert_closed();
            next.call(&set("/e", None)).ok();
            clients.push(next);
        }
        let last = clients.last_mut().expect("there is one");
        assert_eq!(last.call(&exists("/e", false)).stat().version, 6);
    }
}

#[test]
fn a_session_expires_between_its_timeout_and_a_tick_more() {
    const TICK_MS: u64 = 200;
    // Batches of touches, looking for the expired, and a machine that has other things to do.
    const SLACK_MS: u64 = 250 + 1000;
    let server = Server::run(&format!("tickTime={TICK_MS}\nmaxSessionTimeout=60000\n"));
    let mut watcher = server.client();
    let mut idle = Client::connect_for(&server.address(), 900);
    assert_eq!(idle.timeout_ms, 900);
    idle.call(&create_ephemeral("/idle")).ok();
    watcher.call(&exists("/idle", true)).ok();
    // Pings keep it alive for longer than its timeout.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        std::thread::sleep(Duration::from_millis(100));
        idle.assert_alive();
    }
    assert_eq!(watcher.events_so_far(), []);
    let before = Instant::now();
    idle.assert_alive();
    let event = watcher.next_event();
    let took = before.elapsed().as_millis() as u64;
    assert_eq!((event.kind, event.path.as_str()), (DELETED, "/idle"));
    assert!((900..=900 + TICK_MS + SLACK_MS).contains(&took), "it took {took} ms");
    idle.wire.assert_closed();

    let mut wire = Wire::dial(&server.address());
    let request = ConnectRequest { session: idle.session, password: idle.password.to_vec(), ..new_session(30_000) };
    wire.send(&encoded(&request));
    assert_eq!(wire.receive(), Some(unhex(REFUSED)));
    wire.assert_closed();
    assert_eq!(watcher.call(&exists("/idle", false)).err, -101);
}

#[test]
fn a_client_without_a_session_is_closed_in_time() {
    let server = Server::run("nio.sessionlessCnxnTimeout=300\n");
    let mut wire = Wire::dial(&server.address());
    let begin = Instant::now();
    wire.assert_closed();
    assert!(begin.elapsed() >= Duration::from_millis(290), "{:?}", begin.elapsed());
}

#[test]
fn sessions_and_ephemerals_survive_a_restart() {
    for clean in [true, false] {
        let mut server = Server::run("");
        let mut alive = server.client();
        let mut closed = server.client();
        alive.call(&create_ephemeral("/alive")).ok();
        closed.call(&create_ephemeral("/closed")).ok();
        closed.call(&CLOSE_SESSION).ok();
        if clean {
            server.stop();
        } else {
            server.kill();
        }
        server.start();
        let mut again = Client::attach(&server.address(), alive.session, &alive.password).expect("it is alive");
        assert_eq!(again.call(&exists("/alive", false)).stat().ephemeral_owner, alive.session.0);
        assert_eq!(again.call(&exists("/closed", false)).err, -101);
        assert!(Client::attach(&server.address(), closed.session, &closed.password).is_none(), "it was closed");
        assert_ne!(server.client().session, alive.session, "ids are not given out again");
        assert!(server.client().session.0 > closed.session.0);
    }
}

/// It has heard of nobody while it was stopped; who speaks then has its session, and who does not loses it a timeout later.
#[test]
fn a_server_that_was_stopped_asks_who_is_there_before_sessions_end() {
    const TIMEOUT_MS: i32 = 3000;
    let server = Server::run("tickTime=500\n");
    let mut speaks = Client::connect_for(&server.address(), TIMEOUT_MS);
    let mut silent = Client::connect_for(&server.address(), TIMEOUT_MS);
    speaks.call(&create_ephemeral("/speaks")).ok();
    silent.call(&create_ephemeral("/silent")).ok();
    kill_process(server.pid(), Signal::STOP).expect("it runs");
    std::thread::sleep(Duration::from_millis(2 * TIMEOUT_MS as u64));
    kill_process(server.pid(), Signal::CONT).expect("it runs");
    wait_for("the session of who is silent to end", || {
        speaks.assert_alive();
        (speaks.call(&exists("/silent", false)).err == -101).then_some(())
    });
    speaks.call(&exists("/speaks", false)).ok();
}

#[test]
fn a_session_that_nobody_takes_up_after_a_restart_expires() {
    let mut server = Server::run("tickTime=200\nmaxSessionTimeout=60000\n");
    let mut idle = Client::connect_for(&server.address(), 500);
    idle.call(&create_ephemeral("/idle")).ok();
    server.kill();
    server.start();
    let mut watcher = server.client();
    if watcher.call(&exists("/idle", true)).err == 0 {
        assert_eq!(watcher.next_event().kind, DELETED);
    }
    assert_eq!(watcher.call(&exists("/idle", false)).err, -101);
    // And it stays gone.
    server.kill();
    server.start();
    assert_eq!(server.client().call(&exists("/idle", false)).err, -101);
}

#[test]
fn a_close_removes_all_ephemerals_at_once_and_is_answered() {
    let server = Server::run("");
    let (mut watcher, mut client) = (server.client(), server.client());
    for path in ["/a", "/b"] {
        client.call(&create_ephemeral(path)).ok();
        client.call(&get(path, true)).ok();
        watcher.call(&get(path, true)).ok();
    }
    // What comes behind the close is not answered any more.
    let xids = client.pipeline(&[CLOSE_SESSION, create("/late", None)]);
    let reply = client.next_reply();
    assert_eq!((reply.xid, reply.err, reply.body.len()), (xids[0], 0, 0));
    let deleted = |path: &str| Event { zxid: reply.zxid, kind: DELETED, state: 3, path: path.to_owned() };
    let mut own: Vec<Event> = client.events.drain(..).collect();
    own.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(own, [deleted("/a"), deleted("/b")], "its own watches fire before the reply");
    let rest = client.try_next();
    assert!(rest.is_none() || matches!(&rest, Some(Frame::Reply(reply)) if reply.err == -112), "{rest:?}");
    let mut seen = watcher.events_so_far();
    seen.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(seen, [deleted("/a"), deleted("/b")]);
    assert_eq!(watcher.call(&exists("/late", false)).err, -101);
}

#[test]
fn pings_are_answered_whatever_else_is_under_way() {
    let server = Server::run("ringkeeper.segmentBytes=16777216\n");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    let data = vec![b'x'; 900_000];
    let mut xids = Vec::new();
    for _ in 0..8 {
        xids.push(client.send(&set("/a", Some(&data))));
        client.send_as(-2, &PING);
    }
    let mut pings = 0;
    let mut replies = Vec::new();
    while pings < 8 || replies.len() < 8 {
        match client.next_reply() {
            Reply { xid: -2, err: 0, body, .. } if body.is_empty() => pings += 1,
            reply => replies.push((reply.xid, reply.err)),
        }
    }
    assert_eq!(replies, xids.into_iter().map(|xid| (xid, 0)).collect::<Vec<_>>());
}

#[test]
fn a_frame_may_be_as_long_as_jute_maxbuffer_and_no_longer() {
    let server = Server::run("ringkeeper.segmentBytes=4194304\n");
    let mut client = server.client();
    // What stands behind a request is ignored.
    let mut ping = PING.encoded(-2);
    ping.resize(JUTE_MAXBUFFER_DEFAULT, 0);
    assert_eq!(ping.len(), 1_048_575);
    client.wire.send(&ping);
    assert_eq!(client.next_reply().xid, -2);
    client.call(&create("/a", None)).ok();
    let overhead = set("/a", Some(b"")).encoded(0).len();
    let data = vec![b'd'; JUTE_MAXBUFFER_DEFAULT - overhead];
    client.call(&set("/a", Some(&data))).ok();
    assert_eq!(client.call(&get("/a", false)).data().0, Some(data));

    for length in [1_048_576, i32::MAX, -1, i32::MIN] {
        let mut client = server.client();
        client.wire.send_bytes(&length.to_be_bytes());
        client.wire.assert_closed();
        let mut wire = Wire::dial(&server.address());
        wire.send_bytes(&length.to_be_bytes());
        wire.assert_closed();
    }
}

#[test]
fn a_body_that_cannot_be_read_is_an_error_and_no_more() {
    let server = Server::run("");
    let mut client = server.client();
    let null_path = |op| Request { op, body: unhex("ffffffff 00000000 00000000") };
    let cut_path = |op| Request { op, body: unhex("00000005 2f61") };
    for op in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 19, 101] {
        for request in [null_path(op), cut_path(op), Request { op, body: Vec::new() }] {
            // To setWatches the first is a zxid and half of something. A null path can be read where nothing else is
            // missing, and is no path.
            let reply = client.call(&request);
            let is_null = request.body == null_path(op).body;
            let expected = match op {
                5 | 7 if is_null => (-8, 0),
                // It names nothing that is looked up.
                9 if is_null => (0, 4),
                _ => (-5, 0),
            };
            assert_eq!((reply.err, reply.body.len()), expected, "{request:?}");
        }
    }
    // Parts of a multi that no multi may hold, and one that does not end.
    for request in [multi(&[get("/", false)]), Request { op: 14, body: unhex("00000001 00 ffffffff") }] {
        assert_eq!(client.call(&request).err, -5);
    }
    client.assert_alive();
    // Less than a header is no request at all.
    client.wire.send(&[0, 0, 0, 1, 0, 0]);
    client.wire.assert_closed();
}

#[test]
fn an_unknown_operation_behind_a_write_does_not_lose_the_writes_reply() {
    let server = Server::run("");
    let mut client = server.client();
    let xids = client.pipeline(&[create("/a", None), Request { op: 999, body: Vec::new() }]);
    let mut replies = Vec::new();
    while let Some(Frame::Reply(reply)) = client.try_next() {
        replies.push((reply.xid, reply.err));
    }
    assert_eq!(replies.last(), Some(&(xids[1], -6)));
    // Whether the write was still answered or not: it was sent first, and it is there.
    let mut other = server.client();
    let found = wait_for("the write", || Some(other.call(&exists("/a", false))).filter(|reply| reply.err == 0));
    found.stat();
}

/// Configurations that lead connections over one shard, and over two.
fn shard_settings() -> &'static [&'static str] {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 { &["", "ringkeeper.clientShards=2\n"] } else { &[""] }
}

/// What a request is expected to be answered with.
enum Expected {
    /// The `Stat`'s version, and that of a write takes a place in the order.
    Written(i32),
    Deleted,
    Value(Vec<u8>, i32),
    Error(i32),
    /// A failed write: an error that takes a place in the order.
    Refused(i32),
}

#[test]
fn pipelined_reads_see_the_writes_before_them_and_none_behind() {
    const OPS: usize = 1000;
    const KEYS: u64 = 6;
    let mut random = Random::from_environment();
    for settings in shard_settings() {
        let server = Server::run(settings);
        let mut client = server.client();
        let start = client.call(&create("/m", None)).zxid;
        let mut model: Vec<Option<(Vec<u8>, i32)>> = vec![None; KEYS as usize];
        let (mut requests, mut expected) = (Vec::new(), Vec::new());
        for number in 0..OPS {
            let key = random.below(KEYS) as usize;
            let path = format!("/m/{key}");
            let value = format!("{number}").into_bytes();
            let state = &mut model[key];
            let (request, outcome) = match (random.below(8), state.as_mut()) {
                (0, None) | (1, None) => {
                    *state = Some((value.clone(), 0));
                    (create_as(15, &path, Some(&value), &Default::default(), PERSISTENT), Expected::Written(0))
                }
                (0, Some(_)) => {
                    *state = None;
                    (delete(&path, -1), Expected::Deleted)
                }
                (1, Some((_, version))) => (set_version(&path, Some(&value), *version + 1), Expected::Refused(-103)),
                (2 | 3, Some((data, version))) => {
                    *data = value.clone();
                    *version += 1;
                    (set_version(&path, Some(&value), *version - 1), Expected::Written(*version))
                }
                (2, None) => (delete(&path, -1), Expected::Refused(-101)),
                (_, Some((data, version))) => (get(&path, false), Expected::Value(data.clone(), *version)),
                (_, None) => (get(&path, false), Expected::Error(-101)),
            };
            requests.push(request);
            expected.push(outcome);
        }
        let xids = client.pipeline(&requests);
        let mut zxid = start;
        for ((xid, request), expected) in xids.into_iter().zip(&requests).zip(expected) {
            let reply = client.next_reply();
            assert_eq!(reply.xid, xid, "replies come in the order of requests");
            match expected {
                Expected::Written(version) => {
                    zxid += 1;
                    let stat = if request.op == 15 { reply.path_and_stat().1 } else { reply.stat() };
                    assert_eq!((stat.version, stat.mzxid), (version, zxid));
                }
                Expected::Deleted => {
                    zxid += 1;
                    assert_eq!(reply.ok(), b"");
                }
                Expected::Refused(err) => {
                    zxid += 1;
                    assert_eq!((reply.err, reply.body.len()), (err, 0));
                }
                Expected::Value(value, version) => {
                    let (data, stat) = reply.data();
                    assert_eq!((data, stat.version), (Some(value), version), "xid {xid}");
                }
                Expected::Error(err) => assert_eq!(reply.err, err, "xid {xid}"),
            }
            assert_eq!(reply.zxid, zxid, "the state that xid {xid} shows");
        }
    }
}

#[test]
fn an_event_comes_before_the_reply_that_shows_the_change() {
    for settings in shard_settings() {
        let server = Server::run(settings);
        let (mut client, mut reader) = (server.client(), server.client());
        client.call(&create("/a", None)).ok();
        for round in 0..50 {
            // One's own write.
            client.call(&get("/a", true)).ok();
            let xid = client.send(&set("/a", Some(b"x")));
            let Frame::Event(event) = client.next() else { panic!("the event comes first") };
            let Frame::Reply(reply) = client.next() else { panic!("then the reply") };
            assert_eq!((reply.xid, event.zxid, event.kind), (xid, reply.zxid, DATA_CHANGED));
            // Another's: whoever reads the new version has had the event.
            let version = reader.call(&get("/a", true)).data().1.version;
            client.send(&set("/a", Some(b"y")));
            let seen = wait_for("the change", || {
                let reply = reader.call(&get("/a", false));
                (reply.data().1.version > version).then_some(reply)
            });
            assert_eq!(reader.events.len(), 1, "round {round}");
            let event = reader.events.pop_front().expect("counted");
            assert!(event.zxid <= seen.zxid);
            client.next_reply().ok();
        }
    }
}

#[test]
fn watches_that_are_set_again_catch_up_before_the_reply() {
    let server = Server::run("");
    let (mut client, mut other) = (server.client(), server.client());
    for path in ["/changed", "/gone", "/same", "/parent", "/parent-gone", "/parent-same", "/came-before"] {
        other.call(&create(path, None)).ok();
    }
    let seen = client.call(&exists("/", false)).zxid;
    let (session, secret) = (client.session, client.password);
    client.wire.hang_up();
    other.call(&set("/changed", None)).ok();
    other.call(&delete("/gone", -1)).ok();
    other.call(&create("/came", None)).ok();
    other.call(&create("/parent/child", None)).ok();
    other.call(&delete("/parent-gone", -1)).ok();

    let mut client = Client::attach(&server.address(), session, &secret).expect("the session is there");
    let request = set_watches(
        seen,
        &["/changed", "/gone", "/same"],
        &["/came", "/absent"],
        &["/parent", "/parent-gone", "/parent-same"],
    );
    client.send_as(-8, &request);
    let mut made_up = Vec::new();
    let reply = loop {
        match client.next() {
            Frame::Event(event) => {
                assert_eq!((event.zxid, event.state), (-1, 3));
                made_up.push((event.kind, event.path));
            }
            Frame::Reply(reply) => break reply,
        }
    };
    assert_eq!((reply.xid, reply.err, reply.body.len()), (-8, 0, 0));
    let expected = [
        (DATA_CHANGED, "/changed"),
        (DELETED, "/gone"),
        (CREATED, "/came"),
        (CHILDREN_CHANGED, "/parent"),
        (DELETED, "/parent-gone"),
    ];
    assert_eq!(made_up, expected.map(|(kind, path)| (kind, path.to_owned())));
    // The others are watched again, and what was told is not.
    for request in [
        set("/changed", None),
        set("/same", None),
        create("/absent", None),
        set("/came", None),
        create("/parent-same/child", None),
        delete("/parent/child", -1),
    ] {
        other.call(&request).ok();
    }
    let events: Vec<(i32, String)> = client.events_so_far().into_iter().map(|event| (event.kind, event.path)).collect();
    let expected = [(DATA_CHANGED, "/same"), (CREATED, "/absent"), (CHILDREN_CHANGED, "/parent-same")];
    assert_eq!(events, expected.map(|(kind, path)| (kind, path.to_owned())));
}

#[test]
fn many_clients_see_one_order() {
    const WRITES: usize = 50;
    for settings in shard_settings() {
        let server = Server::run(settings);
        let address = server.address();
        let mut first = server.client();
        first.call(&create("/n", Some(b""))).ok();
        // Each counts up by compare and set; no increment may be lost.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = Client::connect(&address);
                    let mut done = 0;
                    while done < WRITES {
                        let version = client.call(&exists("/n", false)).stat().version;
                        match client.call(&set_version("/n", None, version)).err {
                            0 => done += 1,
                            err => assert_eq!(err, -103),
                        }
                    }
                });
            }
        });
        first.call(&sync("/n")).ok();
        assert_eq!(first.call(&exists("/n", false)).stat().version, 4 * WRITES as i32);
    }
}

#[test]
fn syncs_between_writes_are_answered_in_their_turn() {
    // The flush that a sync waits for may cover writes behind it too.
    for settings in shard_settings() {
        let server = Server::run(settings);
        let mut client = server.client();
        client.call(&create("/n", Some(b""))).ok();
        for _ in 0..50 {
            let round =
                [set("/n", Some(b"x")), sync("/n"), set("/n", Some(b"y")), sync("/n"), sync("/n"), get("/n", false)];
            let requests: Vec<Request> = round.into_iter().chain([set("/n", None), sync("/n")]).collect();
            let xids = client.pipeline(&requests);
            for xid in xids {
                let reply = client.next_reply();
                assert_eq!((reply.xid, reply.err), (xid, 0));
            }
        }
        assert_eq!(client.call(&exists("/n", false)).stat().version, 150);
    }
}

#[test]
fn a_connection_is_read_on_after_a_large_reply() {
    let server = Server::run("");
    let mut client = server.client();
    let large = vec![b'x'; 1_048_500];
    client.call(&create("/large", Some(&large))).ok();
    let xids = client.pipeline(&[get("/large", false), get("/large", false)]);
    for xid in xids {
        let reply = client.next_reply();
        assert_eq!((reply.xid, reply.data().0.map(|data| data.len())), (xid, Some(large.len())));
    }
    client.call(&set("/large", Some(b"small"))).ok();
}

#[test]
fn nothing_follows_the_reply_to_a_close() {
    let server = Server::run("");
    let mut client = server.client();
    let xids = client.pipeline(&[
        create_ephemeral("/e"),
        get("/e", true),
        Request::new(-11, |_| {}),
        sync("/"),
        get("/", false),
    ]);
    assert_eq!(client.next_reply().xid, xids[0]);
    assert_eq!(client.next_reply().xid, xids[1]);
    assert_eq!(client.next_reply().xid, xids[2]);
    client.wire.assert_closed();
}
