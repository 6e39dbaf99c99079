//! Servers of our own, elected over loopback.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ringkeeper::proto::election::{Hello, HelloVersion, ServerState, Vote};
use ringkeeper::shard::peers::Order;
use ringkeeper::types::ServerId;
use ringkeeper::zab::quorum::{QuorumVerifier, QuorumView};

use super::member::{Ensemble, free_ports, wait_for};
use super::raw::{RawPeer, nobody};

const FOLLOWING: ServerState = ServerState::Following;
const LEADING: ServerState = ServerState::Leading;

#[test]
fn three_servers_elect_one_and_survive_its_end() {
    let ensemble = Ensemble::new(3);
    let one = ensemble.start(1, "");
    one.look(0, 0);
    let two = ensemble.start(2, "");
    two.look(0, 0);
    one.expect(FOLLOWING, 2);
    let first = two.expect(LEADING, 2);
    for member in [&one, &two] {
        member.order(Order::Established { epoch: 1 });
    }
    ensemble.election_ports[..2].iter().for_each(|&port| wait_for_epoch(port, 1));
    // The third comes late and joins, although it would have won.
    let three = ensemble.start(3, "");
    three.look(0, 0);
    let joined = three.expect(FOLLOWING, 2);
    assert_eq!((joined.vote.round, joined.vote.peer_epoch), (first.vote.round, 1));

    drop(two);
    one.look(0x1_0000_0005, 1);
    three.look(0x1_0000_0004, 1);
    one.expect(LEADING, 1);
    three.expect(FOLLOWING, 1);
}

/// Asks a server that has elected until it names this epoch: orders are not answered.
fn wait_for_epoch(port: u16, epoch: i64) {
    let mut peer = RawPeer::greet(port, 99);
    wait_for("the epoch in its answers", || {
        peer.say(ServerState::Looking, nobody());
        (peer.hear().expect("an answer").vote.peer_epoch == epoch).then_some(())
    });
}

#[test]
fn an_observer_finds_the_leader() {
    let ensemble = Ensemble::new(2);
    let observed = format!("server.3=127.0.0.1:1:{}:observer", free_ports(1)[0]);
    let members: Vec<_> = (1..=3).map(|id| ensemble.start(id, &observed)).collect();
    members.iter().for_each(|member| member.look(0, 0));
    members[0].expect(FOLLOWING, 2);
    members[1].expect(LEADING, 2);
    members[2].expect(ServerState::Observing, 2);
}

#[test]
fn the_bytes_of_a_dialling_server() {
    // The test listens as server 1; server 2, with the larger id, dials it and keeps the connection.
    let ensemble = Ensemble::new(2);
    let listener = TcpListener::bind(("127.0.0.1", ensemble.election_ports[0])).expect("it was free");
    let two = ensemble.start(2, "");
    two.look(0x1_0000_0002, 1);
    let mut peer = RawPeer::over(listener.accept().expect("it dials").0);
    let mut hello = vec![0; 20 + format!("127.0.0.1:{}", ensemble.election_ports[1]).len()];
    let mut seen = [0; 1000];
    let first = peer.stream.peek(&mut seen).expect("it says who it is");
    assert!(first >= hello.len(), "Apache reads once, and wants all of it then: {first} bytes");
    peer.stream.read_exact(&mut hello).expect("it says who it is");
    let expected = Hello {
        version: HelloVersion::V1,
        sid: ServerId(2),
        addresses: format!("127.0.0.1:{}", ensemble.election_ports[1]),
    };
    assert_eq!(Hello::decode(&hello), Ok(Some((expected, hello.len()))));

    let vote = peer.hear().expect("its vote");
    assert_eq!((vote.state, vote.vote.leader, vote.version), (ServerState::Looking, ServerId(2), 2));
    assert!(
        vote.config.is_some_and(|config| config.starts_with("server.1=127.0.0.1:")),
        "its configuration comes along"
    );
    peer.say(ServerState::Looking, vote.vote);
    two.expect(LEADING, 2);

    // When the connection breaks it dials again, and says nothing old: the test's vote is answered with the present one.
    drop(peer);
    let mut peer = RawPeer::over(listener.accept().expect("it dials again").0);
    peer.stream.read_exact(&mut hello).expect("it says who it is");
    peer.say(ServerState::Looking, Vote { leader: ServerId(1), ..vote.vote });
    let answer = peer.hear().expect("an answer");
    assert_eq!((answer.state, answer.vote), (LEADING, vote.vote));
}

#[test]
fn a_server_with_the_smaller_id_nudges() {
    // The test listens as server 2; server 1 says who it is and hangs up, and is then dialled.
    let ensemble = Ensemble::new(2);
    let listener = TcpListener::bind(("127.0.0.1", ensemble.election_ports[1])).expect("it was free");
    let one = ensemble.start(1, "");
    one.look(0, 0);
    let mut nudge = RawPeer::over(listener.accept().expect("it nudges").0);
    let mut hello = Vec::new();
    nudge.stream.read_to_end(&mut hello).expect("it hangs up in good order");
    let (hello, len) = Hello::decode(&hello).expect("it is a hello").expect("it is whole");
    assert_eq!((hello.sid, len), (ServerId(1), 20 + hello.addresses.len()));

    let mut peer = RawPeer::greet(ensemble.election_ports[0], 2);
    let vote = peer.hear().expect("its vote");
    assert_eq!((vote.state, vote.vote.leader), (ServerState::Looking, ServerId(1)));
}

#[test]
fn an_election_port_moves_with_the_configuration_and_is_found_there() {
    let ensemble = Ensemble::new(3);
    let members = [ensemble.start(1, ""), ensemble.start(2, "")];
    members.iter().for_each(|member| member.look(0, 0));
    members[1].expect(LEADING, 2);
    members[0].expect(FOLLOWING, 2);
    let (old, new) = (ensemble.election_ports[0], free_ports(1)[0]);
    let lines = ensemble.lines().join("\n").replace(&format!(":{old}"), &format!(":{new}"));
    let moved = QuorumVerifier::parse(&lines).expect("lines of members").with_version(7);
    members.iter().for_each(|member| member.order(Order::View(QuorumView::new(moved.clone()))));
    let there = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    while there(old) || !there(new) {
        assert!(Instant::now() < deadline, "server 1 still listens at {old}, or not at {new}");
        thread::sleep(Duration::from_millis(10));
    }
    // A server that only knows the new place finds it.
    let [one, two] = members;
    drop(two);
    let three = ensemble.start_with(3, &lines);
    three.look(0x1_0000_0000, 1);
    one.look(0x1_0000_0000, 1);
    three.expect(LEADING, 3);
    one.expect(FOLLOWING, 3);
}

#[test]
fn an_election_port_in_use_is_named() {
    let ensemble = Ensemble::new(2);
    let _taken = TcpListener::bind(("127.0.0.1", ensemble.election_ports[0])).expect("it was free");
    let error = ensemble.try_bind(1, "electionPortBindRetry=1").expect_err("it is in use");
    let address = format!("127.0.0.1:{}", ensemble.election_ports[0]);
    let expected = format!("cannot listen on the election port {address}: Address already in use (os error 98)");
    assert_eq!(error.to_string(), expected);
    let error =
        ensemble.try_bind(3, "electionPortBindRetry=1\nserver.3=no.such.invalid:1:2").expect_err("no such host");
    assert!(error.to_string().starts_with("cannot listen on the election port no.such.invalid:2: "), "{error}");
}
