//! Servers that stop, and what they leave to the others (`docs/decisions/0005-hand-over.md`).

use super::*;

fn has_left(c: &Cluster, id: i64) -> bool {
    c.servers[&id].peer.as_ref().unwrap().has_left()
}

fn replies(c: &Cluster, id: i64) -> Vec<i32> {
    c.servers[&id].replies.iter().map(|(xid, _)| *xid).collect()
}

#[test]
fn a_leader_that_stops_names_the_next_and_nobody_votes() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.create(1, session, 1, "/before");
    c.deliver_all();
    c.event(3, Event::Leave);
    c.deliver_all();
    assert!(has_left(&c, 3) && c.servers[&3].peer.as_ref().unwrap().has_all_committed());
    let named = HandOver { successor: ServerId(2), supporters: BTreeSet::from([ServerId(1), ServerId(2)]) };
    for id in [1, 2] {
        assert_eq!((&c.servers[&id].named, c.servers[&id].looking), (&Some(named.clone()), None), "server {id}");
    }
    c.kill(3);
    c.run(1);
    assert_eq!(c.modes(), [(1, Some(Mode::Following)), (2, Some(Mode::Leading)), (3, None)]);
    // The client comes back to the same server, with the same session.
    let password = crate::session::password(session).to_vec();
    c.event(1, Event::Ask(Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password }));
    c.deliver_all();
    c.create(1, session, 2, "/after");
    c.deliver_all();
    assert!(matches!(c.servers[&1].replies.last(), Some((2, Outcome::Created { .. }))), "{:?}", c.servers[&1].replies);
    c.start(3);
    c.run(2);
    assert_eq!(c.modes()[2], (3, Some(Mode::Following)));
    c.assert_everywhere("/before", true);
    c.assert_everywhere("/after", true);
    c.assert_agreement();
}

#[test]
fn what_a_stopping_leader_has_accepted_is_answered_and_nothing_more_is_accepted() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(3);
    for id in [1, 2] {
        c.server(id).disk_stuck = true;
    }
    c.create(3, session, 1, "/accepted");
    c.deliver_all();
    c.event(3, Event::Leave);
    c.create(3, session, 2, "/too_late");
    c.run(1);
    assert_eq!((c.leader(), replies(&c, 3)), (3, vec![]), "it goes on leading: only it has the transaction");
    c.server(1).disk_stuck = false;
    c.deliver_all();
    assert!(has_left(&c, 3));
    assert_eq!(replies(&c, 3), [1]);
    // 2 would be preferred, but does not have everything.
    assert_eq!(c.servers[&1].named.as_ref().map(|named| named.successor), Some(ServerId(1)));
    c.server(2).disk_stuck = false;
    c.kill(3);
    c.run(2);
    assert_eq!(c.leader(), 1);
    c.assert_everywhere("/accepted", true);
    c.assert_everywhere("/too_late", false);
    c.assert_agreement();
}

/// A server that was told would lead, and wait for one that was not and votes.
#[test]
fn nobody_is_named_whom_too_few_can_be_told_of() {
    let mut c = Cluster::three();
    c.strangers.insert(1);
    c.kill(1);
    c.start(1);
    c.run(2);
    let session = c.open_session(1);
    c.create(1, session, 1, "/a");
    c.deliver_all();
    c.event(3, Event::Leave);
    c.deliver_all();
    assert!(has_left(&c, 3));
    for id in [1, 2] {
        assert!(c.servers[&id].named.is_none() && c.servers[&id].looking.is_some(), "server {id} looks");
    }
    c.kill(3);
    c.run(2);
    assert_eq!(c.leader(), 2);
    c.assert_everywhere("/a", true);
}

#[test]
fn a_successor_that_does_not_come_is_waited_for_by_nobody() {
    let mut c = Cluster::three();
    c.run(2);
    c.event(3, Event::Leave);
    c.deliver_all();
    c.kill(3);
    c.kill(2);
    c.run(1);
    assert!(c.servers[&1].looking.is_some(), "it cannot be connected to: {:?}", c.servers[&1].notes);
    c.start(2);
    c.run(2);
    assert_eq!(c.leader(), 2);
}

#[test]
fn a_follower_that_stops_sees_what_it_acknowledged_committed() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(3);
    let asked_at_1 = c.open_session(1);
    for id in 1..=3 {
        c.server(id).disk_stuck = true;
    }
    c.create(1, asked_at_1, 1, "/asked_here");
    c.deliver_all();
    c.event(1, Event::Leave);
    c.deliver_all();
    assert!(!has_left(&c, 1) && replies(&c, 1).is_empty());
    for id in 1..=3 {
        c.server(id).disk_stuck = false;
    }
    c.deliver_all();
    assert!(has_left(&c, 1) && c.servers[&1].peer.as_ref().unwrap().has_all_committed());
    assert_eq!(replies(&c, 1), [1], "its own client has its answer");
    c.create(3, session, 2, "/without_it");
    c.deliver_all();
    assert_eq!(c.leader(), 3, "the others go on");
    let log = &c.servers[&1].disk.log;
    assert_eq!(log.len() + 1, c.servers[&2].disk.log.len(), "nothing was logged after it left");
}

#[test]
fn an_observer_stops_and_is_told_who_leads() {
    let mut c = Cluster::new(
        "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\n\
         server.4=h:7:8:observer\nversion=0",
    );
    for id in 1..=4 {
        c.start(id);
    }
    c.run(3);
    assert_eq!(c.modes()[3], (4, Some(Mode::Observing)));
    c.event(3, Event::Leave);
    c.deliver_all();
    assert_eq!(
        c.servers[&4].named.as_ref().map(|named| named.supporters.len()),
        Some(2),
        "it does not support anybody"
    );
    c.kill(3);
    c.run(2);
    assert_eq!(c.modes()[3], (4, Some(Mode::Observing)));
    c.event(4, Event::Leave);
    c.deliver_all();
    assert!(has_left(&c, 4));
}

#[test]
fn a_server_without_a_role_stops_at_once_and_joins_nobody() {
    let mut c = Cluster::three();
    c.kill(1);
    c.kill(2);
    c.event(3, Event::Leave);
    c.deliver_all();
    assert!(has_left(&c, 3));
    c.event(3, Event::Elected(ServerId(3), BTreeSet::from([ServerId(3)])));
    assert!(c.servers[&3].listening.is_none());
}
