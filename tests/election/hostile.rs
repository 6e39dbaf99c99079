//! Peers that do not play by the rules harm nobody but themselves.

use ringkeeper::proto::election::{ServerState, Vote};
use ringkeeper::types::{ServerId, Zxid};
use ringkeeper::zab::links::SILENT_MAX;

use super::member::Ensemble;
use super::raw::{RawPeer, nobody};

/// Two servers of three elect, and again after the test has played the third one's part.
#[track_caller]
fn elects_beside(port_of: usize, misbehave: impl FnOnce(u16)) {
    let ensemble = Ensemble::new(3);
    let members = [ensemble.start(1, ""), ensemble.start(2, "")];
    let elect = || {
        members.iter().for_each(|member| member.look(0, 0));
        members[0].expect(ServerState::Following, 2);
        members[1].expect(ServerState::Leading, 2);
    };
    elect();
    misbehave(ensemble.election_ports[port_of]);
    elect();
}

#[test]
fn connections_that_say_nothing() {
    let mut silent = Vec::new();
    elects_beside(1, |port| {
        silent = (0..=SILENT_MAX).map(|_| RawPeer::connect(port)).collect();
        // One too many: the oldest gives way.
        assert!(silent[0].is_closed());
    });
}

#[test]
fn connections_that_say_something_else() {
    elects_beside(0, |port| {
        for bytes in [
            b"GET / HTTP/1.0\r\n\r\n".as_slice(),
            &[0xff; 64],
            b"\xff\xff\xff\xff\xff\xff\x00\x00________\x7f\xff\xff\xff",
        ] {
            let mut peer = RawPeer::connect(port);
            peer.write(bytes);
            assert!(peer.is_closed(), "{bytes:?}");
        }
    });
}

#[test]
fn frames_that_are_none() {
    elects_beside(1, |port| {
        for length in [0u32, 512 * 1024 + 1, 0x7fff_ffff, 0xffff_ffff] {
            let mut peer = RawPeer::greet(port, 3);
            peer.write(&length.to_be_bytes());
            assert!(peer.is_closed(), "a frame of {length} bytes");
        }
    });
}

#[test]
fn messages_that_make_no_sense() {
    // Too short, a state that does not exist, votes for servers that do not exist, from a round at the end of the world.
    let mut peer = None;
    elects_beside(1, |port| {
        let mut garbage = RawPeer::greet(port, 3);
        garbage.write(&[0, 0, 0, 3, 1, 2, 3]);
        garbage.write(&[&[0, 0, 0, 28, 0, 0, 0, 9][..], &[0; 24]].concat());
        garbage.say(ServerState::Looking, nobody());
        let vote = Vote { leader: ServerId(77), zxid: Zxid(i64::MAX), round: i64::MAX, peer_epoch: i64::MAX };
        garbage.say(ServerState::Looking, vote);
        garbage.say(ServerState::Leading, vote);
        peer = Some(garbage);
    });
}

#[test]
fn a_peer_that_begins_a_message_and_does_not_end_it() {
    let mut slow = None;
    elects_beside(1, |port| {
        let mut peer = RawPeer::greet(port, 3);
        peer.write(&[0, 7, 0, 0, 1]);
        slow = Some(peer);
    });
}

#[test]
fn a_peer_that_asks_and_does_not_listen() {
    // It asks until its own buffers are full, and never reads an answer. Others are answered meanwhile.
    let mut deaf = None;
    elects_beside(1, |port| {
        let mut peer = RawPeer::greet(port, 90);
        peer.stream.set_nonblocking(true).expect("it can be");
        for _ in 0..20_000 {
            peer.say(ServerState::Looking, nobody());
        }
        deaf = Some(peer);
    });
}

#[test]
fn servers_that_do_not_belong_here() {
    let mut strangers = Vec::new();
    elects_beside(1, |port| {
        strangers = (100..140).map(|sid| RawPeer::greet(port, sid)).collect();
        assert!(strangers.last_mut().expect("there are some").is_closed());
    });
}
