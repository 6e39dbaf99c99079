//! What the members of an ensemble do besides replicating: they hand over when they stop, keep sessions of their own, and
//! serve those who only read while there is no leader.

use ringkeeper::proto::client::{ConnectRequest, ConnectResponse};
use ringkeeper::types::{SessionId, Zxid};

use super::ensemble::Ensemble;
use super::support::*;

const NOT_READ_ONLY: i32 = -119;
const EPHEMERAL_ON_LOCAL_SESSION: i32 = -120;

fn read_only(request: ConnectRequest) -> ConnectRequest {
    ConnectRequest { read_only: Some(true), ..request }
}

/// The whole answer to a handshake; `None` if the server hangs up.
fn shake_hands(address: &str, request: &ConnectRequest) -> Option<ConnectResponse> {
    let mut wire = Wire::dial(address);
    wire.send(&encoded(request));
    wire.receive().map(|payload| ConnectResponse::decode(&payload).expect("a connect response"))
}

fn line(address: &str, word: &str, begin: &str) -> Option<String> {
    try_ask(address, word)?.lines().find_map(|line| line.strip_prefix(begin)).map(str::to_owned)
}

#[test]
fn a_leader_that_is_stopped_answers_what_it_has_accepted_and_names_the_next() {
    let mut ensemble = Ensemble::run(3, 1, "");
    let leader = ensemble.leader();
    let mut client = ensemble.servers[leader].client();
    let (session, password) = (client.session, client.password);
    client.call(&create("/n", Some(b""))).ok();
    client.call(&create_ephemeral("/mine")).ok();
    let sets: Vec<Request> = (0..500).map(|_| set("/n", Some(b"x"))).collect();
    client.pipeline(&sets);
    client.next_reply().ok();
    let mut answered = 1;
    let stopped = std::thread::scope(|scope| {
        let server = &mut ensemble.servers[leader];
        let stopped = scope.spawn(|| server.stop());
        while let Some(frame) = client.try_next() {
            assert!(matches!(frame, Frame::Reply(Reply { err: 0, .. })), "{frame:?}");
            answered += 1;
        }
        stopped.join()
    });
    stopped.expect("it stops in good order");
    let said = ensemble.servers[leader].printed();
    assert!(!said.contains("Not everything that was accepted is committed"), "{said}");

    let rest: Vec<usize> = (0..4).filter(|index| *index != leader).collect();
    let next = ensemble.wait_for_leader_among(&rest);
    assert!(said.contains(&format!("this server stops, and server {} leads", next + 1)), "{said}");
    for index in rest {
        ensemble.wait_for_mode(index, "serving", |_| true);
        let said = ensemble.servers[index].printed();
        assert!(said.contains(&format!("the leader stops, and server {} is to lead", next + 1)), "{said}");
        let last = said.lines().rfind(|line| line.contains("LEADER ELECTION TOOK")).expect("there was one");
        assert!(last.contains("TOOK - 0 MS"), "nobody voted: {last}");
    }
    let mut moved = wait_for("the session to move", || {
        Client::attach(&ensemble.servers[next].address(), session, &password).filter(|moved| moved.session == session)
    });
    moved.call(&sync("/n"));
    let (_, stat) = moved.call(&get("/n", false)).data();
    assert_eq!(stat.version, answered, "what was accepted was answered, and nothing else was done");
    ensemble.servers[leader].spawn();
    ensemble.wait_until_all_serve();
    ensemble.assert_everywhere("/mine", Some(b"e"));
}

#[test]
fn a_follower_and_an_observer_that_are_stopped_leave_nothing_undone() {
    let mut ensemble = Ensemble::run(3, 1, "");
    let leader = ensemble.leader();
    for stopped in [(leader + 1) % 3, 3] {
        let mut client = ensemble.servers[stopped].client();
        let path = format!("/by_{stopped}");
        client.call(&create(&path, Some(b"x"))).ok();
        ensemble.servers[stopped].stop();
        let said = ensemble.servers[stopped].printed();
        assert!(!said.contains("Not everything that was accepted is committed"), "{said}");
        assert_eq!(ensemble.mode(leader).as_deref(), Some("leader"), "the others go on");
        ensemble.servers[stopped].spawn();
        ensemble.wait_until_all_serve();
        ensemble.assert_everywhere(&path, Some(b"x"));
    }
}

#[test]
fn a_lone_server_serves_those_who_only_read() {
    let mut ensemble = Ensemble::run(3, 0, "readonlymode.enabled=true\n");
    let mut client = ensemble.servers[0].client();
    client.call(&create("/n", Some(b"1"))).ok();
    let (session, password) = (client.session, client.password);
    ensemble.assert_everywhere("/n", Some(b"1"));
    let address = ensemble.servers[0].address();
    assert_eq!(ask(&address, "isro"), "rw");
    assert_eq!(shake_hands(&address, &read_only(new_session(6000))).expect("a session").read_only, Some(false));
    ensemble.servers[1].kill();
    ensemble.servers[2].kill();
    wait_for("read-only mode", || (try_ask(&address, "isro")? == "ro").then_some(()));
    assert_eq!(line(&address, "srvr", "Mode: ").as_deref(), Some("read-only"));
    assert!(ask(&address, "srvr").contains("\nREAD-ONLY mode; serving only read-only clients\n"));

    // Who did not say that it can do with that is turned away without a word, and so is a session that may live elsewhere.
    assert_eq!(shake_hands(&address, &new_session(6000)), None);
    assert_eq!(shake_hands(&address, &ConnectRequest { read_only: None, ..new_session(6000) }), None);
    let resumed = ConnectRequest { session, password: password.to_vec(), ..read_only(new_session(6000)) };
    assert_eq!(shake_hands(&address, &resumed), None);
    let ahead = ConnectRequest { last_zxid_seen: Zxid(i64::MAX), ..read_only(new_session(6000)) };
    assert_eq!(shake_hands(&address, &ahead), None);

    let opened = shake_hands(&address, &read_only(new_session(6000))).expect("a session");
    assert_eq!((opened.read_only, opened.timeout_ms), (Some(true), 6000));
    let mut reader = Client::connect_with(&address, &read_only(new_session(6000))).expect("a session");
    assert_eq!(reader.call(&get("/n", true)).data().0.as_deref(), Some(&b"1"[..]));
    for request in [
        create("/x", None),
        create_ephemeral("/x"),
        create_as(15, "/x", None, &ringkeeper::proto::client::AclList::OPEN, PERSISTENT),
        delete("/n", -1),
        set("/n", None),
        set_acl("/n", &ringkeeper::proto::client::AclList::OPEN),
        multi(&[set("/n", None)]),
        sync("/n"),
        check("/n", -1),
    ] {
        let reply = reader.call(&request);
        assert_eq!((reply.err, reply.body.len()), (NOT_READ_ONLY, 0), "operation {}", request.op);
    }
    reader.assert_alive();
    assert_eq!(reader.call(&get("/x", false)).err, -101);
    // Its session is this server's own: another connection may have it, and it ends when asked to.
    let resumed =
        ConnectRequest { session: reader.session, password: reader.password.to_vec(), ..read_only(new_session(6000)) };
    let mut again = Client::connect_with(&address, &resumed).expect("the same session");
    assert_eq!(again.session, reader.session);
    again.call(&CLOSE_SESSION).ok();
    again.wire.assert_closed();
    assert_eq!(shake_hands(&address, &resumed), None, "it is gone");

    let mut reader = Client::connect_with(&address, &read_only(new_session(6000))).expect("a session");
    ensemble.servers[1].spawn();
    wait_for("the quorum", || (try_ask(&address, "isro")? == "rw").then_some(()));
    reader.wire.assert_closed();
    let answer = shake_hands(
        &address,
        &ConnectRequest { session: reader.session, password: reader.password.to_vec(), ..read_only(new_session(6000)) },
    );
    assert_eq!(answer.map(|answer| answer.session), Some(SessionId::NONE), "nobody knows it any more");
    let mut writer = Client::attach(&address, session, &password).expect("this one lives");
    writer.call(&set("/n", Some(b"2"))).ok();
    ensemble.assert_everywhere("/n", Some(b"2"));
}

#[test]
fn without_the_setting_a_lone_server_serves_nobody() {
    let mut ensemble = Ensemble::run(2, 0, "");
    let address = ensemble.servers[0].address();
    ensemble.servers[1].kill();
    wait_for("the other to be missed", || ensemble.servers[0].printed().contains("Shutdown").then_some(()));
    // For longer than the mode would take to begin, if it did.
    wait_for("a new election to be under way", || {
        ensemble.servers[0].printed().contains("Notification time out: 6400 ms").then_some(())
    });
    assert_eq!(ask(&address, "srvr"), "This ZooKeeper instance is not currently serving requests\n");
    assert_eq!(shake_hands(&address, &read_only(new_session(6000))), None);
}

#[test]
fn local_sessions_are_nobody_elses_until_they_have_an_ephemeral() {
    let settings = "localSessionsEnabled=true\nlocalSessionsUpgradingEnabled=true\n4lw.commands.whitelist=*\n";
    let mut ensemble = Ensemble::run(3, 0, settings);
    let leader = ensemble.leader();
    for at in [leader, (leader + 1) % 3] {
        let (here, elsewhere) = (ensemble.servers[at].address(), ensemble.servers[(at + 1) % 3].address());
        let zxid = line(&here, "srvr", "Zxid: ");
        let mut client = ensemble.servers[at].client();
        assert_eq!(line(&here, "srvr", "Zxid: "), zxid, "no transaction opened it");
        assert!(line(&here, "mntr", "zk_local_sessions\t").is_some_and(|count| count != "0"), "but it is counted");
        let path = format!("/by_{at}");
        client.call(&create(&path, Some(b"x"))).ok();
        ensemble.assert_everywhere(&path, Some(b"x"));
        let (session, password) = (client.session, client.password);
        assert!(Client::attach(&elsewhere, session, &password).is_none(), "it is known here alone");
        let mut client = Client::attach(&here, session, &password).expect("it is known here");
        client.call(&create_ephemeral(&format!("/e_{at}"))).ok();
        client.call(&multi(&[create_ephemeral(&format!("/f_{at}"))])).ok();
        let mut moved = Client::attach(&elsewhere, session, &password).expect("it is global now");
        moved.call(&CLOSE_SESSION).ok();
        ensemble.assert_everywhere(&format!("/e_{at}"), None);
        ensemble.assert_everywhere(&format!("/f_{at}"), None);
    }
}

#[test]
fn local_sessions_that_may_not_become_global_have_no_ephemerals() {
    let mut ensemble = Ensemble::run(3, 0, "localSessionsEnabled=true\n");
    let leader = ensemble.leader();
    for at in [leader, (leader + 1) % 3] {
        let mut client = ensemble.servers[at].client();
        assert_eq!(client.call(&create_ephemeral("/e")).err, EPHEMERAL_ON_LOCAL_SESSION);
        let path = format!("/by_{at}");
        let parts = [create(&path, None), create_ephemeral("/e")];
        assert_eq!(client.call(&multi(&parts)).err, EPHEMERAL_ON_LOCAL_SESSION);
        client.call(&create(&path, Some(b"x"))).ok();
        ensemble.assert_everywhere(&path, Some(b"x"));
        ensemble.assert_everywhere("/e", None);
        client.call(&CLOSE_SESSION).ok();
        client.wire.assert_closed();
    }
}

/// As a standalone server does: each counts its own clients.
#[test]
fn connects_beyond_the_bucket_are_closed_by_each_server() {
    let settings = "connection_throttle_tokens=3\nconnection_throttle_fill_time=1000000\n";
    let ensemble = Ensemble::run(2, 1, settings);
    for server in &ensemble.servers {
        let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
        assert_eq!(shake_hands(&server.address(), &new_session(30_000)), None);
        let first = clients.remove(0);
        assert!(Client::attach(&server.address(), first.session, &first.password).is_none());
        for client in &mut clients {
            client.assert_alive();
        }
    }
}
