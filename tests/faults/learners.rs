//! Whoever connects to the learner port and does not keep to the rules harms nobody but itself. (What does so on the
//! election port is in `tests/election/hostile.rs`.)

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use ringkeeper::proto::quorum::{LearnerInfo, PROTOCOL_VERSION, Packet, PacketKind};
use ringkeeper::types::Zxid;

use super::cluster::Cluster;
use super::support::*;
use super::workload::Load;

const CLIENTS: u64 = 6;
const SOME: usize = 300;
/// Connections of each kind that is slow.
const SLOW: usize = 50;
/// A server that is none of the ensemble's.
const STRANGER: i64 = 77;

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the leader listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

/// Sends bytes on a connection of their own.
fn say(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(bytes).expect("they are few");
    stream
}

/// Waits until the leader ends the connection, whatever it says before.
#[track_caller]
fn assert_ended(mut stream: TcpStream, what: &str) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{what}: {error}"),
    }
}

fn encoded_packet(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes);
    bytes
}

fn first_word(sid: i64) -> Vec<u8> {
    let info = LearnerInfo { sid, protocol_version: PROTOCOL_VERSION, config_version: 0, knows_hand_over: false };
    encoded_packet(&Packet::with(PacketKind::FollowerInfo, Zxid::ZERO, info.encode()))
}

#[test]
#[ignore = "takes a while; part of the suite `sick`"]
fn learners_that_do_not_keep_to_the_rules_harm_nobody() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run(3, "");
    let load = Load::start(&cluster, CLIENTS, &mut random);
    load.wait_for_answers(&mut cluster, SOME);
    let leader = cluster.leader();
    let port = cluster.learner_port(leader);
    let epoch = |cluster: &Cluster| cluster.servers[leader].client().call(&delete("/none", -1)).zxid >> 32;
    let before = epoch(&cluster);

    let bare = |kind| encoded_packet(&Packet::bare(kind, Zxid(1)));
    let greeted = |then: Vec<u8>| [first_word(STRANGER), then].concat();
    // A packet with 2 GB of data.
    let endless = [&11_i32.to_be_bytes()[..], &[0; 8], &i32::MAX.to_be_bytes()].concat();
    let malformed = [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("ones", vec![0xff; 64]),
        ("zeros", vec![0; 64]),
        ("a packet without end", endless),
        ("a first word that says nothing", bare(PacketKind::FollowerInfo)),
        ("a proposal of a learner's", bare(PacketKind::Proposal)),
        ("a snapshot of a learner's", bare(PacketKind::Snap)),
        ("the id of the leader", first_word(leader as i64 + 1)),
        ("an acknowledgement before its turn", greeted(bare(PacketKind::Ack))),
        ("an epoch that is none", greeted(bare(PacketKind::AckEpoch))),
        ("a request before its turn", greeted(bare(PacketKind::Request))),
    ];
    for (what, bytes) in malformed {
        assert_ended(say(port, &bytes), what);
    }

    // Those that are slow stay, beside clients that go on.
    let ack_epoch = Packet::with(PacketKind::AckEpoch, Zxid::ZERO, (-1_i32).to_be_bytes().to_vec());
    let deaf = say(port, &greeted(encoded_packet(&ack_epoch)));
    let slow: Vec<TcpStream> =
        (0..SLOW).flat_map(|_| [connect(port), say(port, &first_word(STRANGER)[..20])]).collect();
    load.wait_for_answers(&mut cluster, 10 * SOME);
    for stream in slow {
        assert_ended(stream, "one that says nothing, or not all");
    }
    assert_ended(deaf, "one that takes what it is sent and acknowledges nothing");

    assert_eq!(epoch(&cluster), before, "there was no election");
    let outcome = load.check(&mut cluster);
    assert_eq!(outcome.expired, 0);
}
