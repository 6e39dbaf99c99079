//! Sessions that only one server knows: while it follows, leads, or serves reads without a leader.

use super::*;
use crate::proto::ErrorCode;
use crate::request::pipeline::Committed;

const RULES: local::Rules = local::Rules { upgrading: true };

const THREE: &str = "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\nversion=0";

fn start(mut c: Cluster) -> Cluster {
    for id in 1..=3 {
        c.start(id);
    }
    c.run(2);
    assert_eq!(c.leader(), 3);
    c
}

fn three_with(rules: local::Rules) -> Cluster {
    start(Cluster { local_sessions: Some(rules), ..Cluster::new(THREE) })
}

fn three_that_serve_alone() -> Cluster {
    start(Cluster { read_only_after_ms: Some(TICK_MS), ..Cluster::new(THREE) })
}

/// What was answered without a transaction, since the last call.
fn replied(c: &mut Cluster, at: i64) -> Vec<Arc<Committed>> {
    let answers = std::mem::take(&mut c.server(at).answers);
    answers.into_iter().filter_map(|answer| if let Answer::Replied(it) = answer { Some(it) } else { None }).collect()
}

fn open_local(c: &mut Cluster, at: i64) -> SessionId {
    c.event(at, Event::Ask(Ask::OpenSession { cnxn: CNXN, timeout_ms: 6_000, session: None }));
    match &replied(c, at)[..] {
        [opened] => match opened.session {
            SessionChange::Opened { session, timeout_ms: 6_000, .. } => session,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn ephemeral(c: &mut Cluster, at: i64, session: SessionId, xid: i32, path: &str) {
    c.create_as(at, session, xid, path, 1);
}

fn attach(c: &mut Cluster, at: i64, session: SessionId) -> bool {
    let password = crate::session::password(session).to_vec();
    c.event(at, Event::Ask(Ask::Attach { cnxn: CNXN, session, timeout_ms: 6_000, password }));
    c.deliver_all();
    match std::mem::take(&mut c.server(at).answers)[..] {
        [Answer::Attached { cnxn: CNXN, session: attached }] => attached == Some(session),
        ref other => panic!("{other:?}"),
    }
}

fn sessions(c: &Cluster, at: i64) -> Vec<SessionId> {
    c.servers[&at].peer.as_ref().unwrap().state().unwrap().0.sessions().keys().copied().collect()
}

#[test]
fn a_local_session_costs_no_transaction_and_writes_like_any_other() {
    let mut c = three_with(RULES);
    for at in [1, 3] {
        let before = c.servers[&2].disk.log.len();
        let session = open_local(&mut c, at);
        assert_eq!(session.0 >> 56, at);
        assert_eq!(c.servers[&2].disk.log.len(), before, "nobody else hears of it");
        c.create(at, session, 1, &format!("/by_{at}"));
        c.deliver_all();
        assert!(matches!(c.servers[&at].replies.last(), Some((1, Outcome::Created { .. }))), "at {at}");
        c.assert_everywhere(&format!("/by_{at}"), true);
        assert!(attach(&mut c, at, session), "another connection of this server may have it");
        assert!(!attach(&mut c, 2, session), "another server does not know it");
        assert_eq!(sessions(&c, 2), []);
    }
}

#[test]
fn the_first_ephemeral_makes_a_local_session_global() {
    let mut c = three_with(RULES);
    for at in [1, 3] {
        let session = open_local(&mut c, at);
        c.create(at, session, 1, &format!("/before_{at}"));
        ephemeral(&mut c, at, session, 2, &format!("/e_{at}"));
        ephemeral(&mut c, at, session, 3, &format!("/f_{at}"));
        c.deliver_all();
        let replies = &c.servers[&at].replies;
        let xids: Vec<i32> = replies[replies.len() - 3..].iter().map(|(xid, _)| *xid).collect();
        assert_eq!(xids, [1, 2, 3], "the session's own creation is nobody's answer");
        assert!(replies[replies.len() - 3..].iter().all(|(_, o)| matches!(o, Outcome::Created { .. })), "{replies:?}");
        assert!(sessions(&c, 2).contains(&session));
        assert!(attach(&mut c, 2, session), "it can move now");
    }
}

#[test]
fn without_upgrades_a_local_session_has_no_ephemerals() {
    let mut c = three_with(local::Rules { upgrading: false });
    for at in [1, 3] {
        let session = open_local(&mut c, at);
        c.server(1).disk_stuck = true;
        c.server(2).disk_stuck = true;
        c.create(at, session, 1, &format!("/a_{at}"));
        ephemeral(&mut c, at, session, 2, &format!("/e_{at}"));
        c.deliver_all();
        c.server(1).disk_stuck = false;
        c.server(2).disk_stuck = false;
        c.deliver_all();
        let replies = &c.servers[&at].replies;
        assert!(
            matches!(replies[replies.len() - 2..], [
            (1, Outcome::Created { .. }),
            (2, Outcome::Failed(code)),
        ] if code == ErrorCode::EphemeralOnLocalSession.code()),
            "{replies:?}"
        );
        assert_eq!(sessions(&c, 2), []);
    }
}

#[test]
fn a_local_session_ends_with_its_client_or_its_time() {
    let mut c = three_with(RULES);
    for at in [1, 3] {
        let closed = open_local(&mut c, at);
        let quiet = open_local(&mut c, at);
        let before = c.servers[&2].disk.log.len();
        c.ask(at, closed, 9, WriteOp::CloseSession, OpCode::CloseSession);
        let outcomes = replied(&mut c, at).into_iter().map(|it| it.session).chain(c.server(at).closed.drain(..));
        assert_eq!(outcomes.collect::<Vec<_>>(), [SessionChange::Closed(closed)], "at {at}");
        assert!(!attach(&mut c, at, closed));
        c.run(20);
        assert!(c.server(at).answers.iter().any(|answer| matches!(answer, Answer::Ended(CNXN))), "{quiet} ran out");
        c.server(at).answers.clear();
        assert!(!attach(&mut c, at, quiet));
        assert_eq!(c.servers[&2].disk.log.len(), before, "it was nobody else's business");
    }
}

#[test]
fn a_server_without_a_leader_serves_those_who_only_read() {
    let mut c = three_that_serve_alone();
    let global = c.open_session(1);
    c.create(1, global, 1, "/a");
    c.deliver_all();
    c.kill(2);
    c.kill(3);
    c.run(1);
    assert!(c.servers[&1].serving.is_none(), "not at once: there may soon be a leader");
    c.run(6);
    let (mode, tree) = c.servers[&1].serving.as_ref().expect("it serves");
    assert_eq!(*mode, Mode::ReadOnly);
    assert!(tree.get("/a").is_some());
    assert!(c.servers[&1].peer.as_ref().unwrap().mode().is_none(), "no snapshot is made of it");
    c.server(1).answers.clear();
    let session = open_local(&mut c, 1);
    assert!(attach(&mut c, 1, session));
    let log = c.servers[&1].disk.log.len();
    let password = crate::session::password(global).to_vec();
    c.event(1, Event::Ask(Ask::Attach { cnxn: CNXN, session: global, timeout_ms: 6_000, password }));
    assert!(matches!(c.server(1).answers.drain(..).as_slice(), [Answer::TryAnother(CNXN)]), "who knows if it lives");
    c.ask(1, session, 7, WriteOp::CloseSession, OpCode::CloseSession);
    assert!(matches!(replied(&mut c, 1)[0].session, SessionChange::Closed(closed) if closed == session));
    c.start(2);
    c.run(4);
    assert_eq!(c.modes()[..2], [(1, Some(Mode::Following)), (2, Some(Mode::Leading))]);
    assert!(c.servers[&1].disk.log.len() >= log);
    assert!(!attach(&mut c, 1, session), "what was opened in between is gone");
    c.assert_everywhere("/a", true);
    c.assert_agreement();
}

#[test]
fn a_server_in_doubt_shows_nothing_to_anybody() {
    let mut c = three_that_serve_alone();
    c.kill(2);
    c.kill(3);
    c.kill(1);
    c.lose_disk(1);
    c.start(1);
    c.run(20);
    assert!(c.servers[&1].serving.is_none());
}
