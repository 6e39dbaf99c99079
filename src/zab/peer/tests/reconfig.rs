//! Ensembles whose members change while they run.

use super::*;
use crate::proto::ErrorCode;
use crate::proto::client::Id;
use crate::proto::op::ReconfigRequest;
use crate::proto::txn::Txn;
use crate::tree::CONFIG;

/// The line of a server, without its key.
fn line(id: i64, role: &str) -> String {
    format!("h{id}:1:2:{role};2181")
}

fn config(roles: &[(i64, &str)]) -> String {
    let lines: Vec<String> = roles.iter().map(|(id, role)| format!("server.{id}={}", line(*id, role))).collect();
    lines.join("\n")
}

const P: &str = "participant";
const O: &str = "observer";

impl Cluster {
    /// Servers with these roles, which can be reconfigured, and which all serve.
    fn reconfigurable(roles: &[(i64, &str)]) -> Cluster {
        let mut cluster = Cluster::new(&config(roles));
        cluster.reconfig = true;
        for (id, _) in roles {
            cluster.start(*id);
        }
        cluster.run(4);
        cluster
    }

    /// Starts a server that the ensemble does not know; it knows the ensemble as it was at first, and itself.
    fn join(&mut self, id: i64, roles: &[(i64, &str)]) {
        self.add(id, QuorumView::new(QuorumVerifier::parse(&config(roles)).unwrap()));
        self.start(id);
        self.run(3);
    }

    /// Asks for other members as the super user, and lets everything happen.
    pub(super) fn reconfigure(
        &mut self,
        at: i64,
        session: SessionId,
        xid: i32,
        joining: &str,
        leaving: &str,
    ) -> Option<Outcome> {
        self.ask_to_reconfigure(at, session, xid, joining, leaving);
        self.deliver_all();
        self.reply(at, xid)
    }

    fn ask_to_reconfigure(&mut self, at: i64, session: SessionId, xid: i32, joining: &str, leaving: &str) {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let request =
            ReconfigRequest { joining: text(joining), leaving: text(leaving), new_members: None, config_id: -1 };
        self.ask_for(at, session, xid, &request, vec![Id::new("super", "")]);
    }

    fn ask_for(&mut self, at: i64, session: SessionId, xid: i32, request: &ReconfigRequest, ids: Vec<Id>) {
        let body: Bytes = {
            use crate::jute::Write as _;
            let mut body = Vec::new();
            for text in [&request.joining, &request.leaving, &request.new_members] {
                match text {
                    Some(text) => body.put_string(text),
                    None => body.put_int(-1),
                }
            }
            body.put_long(request.config_id);
            body.into()
        };
        let op = WriteOp::decode(OpCode::Reconfig, &body, &body);
        assert_eq!(op, WriteOp::Reconfig(request.clone()), "the bytes say what was meant");
        let forward = Some(Box::new((OpCode::Reconfig as i32, body)));
        let ids = Arc::new(ids);
        let request = WriteRequest { cnxn: CNXN, session, xid, op, ids, capture: false, forward };
        self.event(at, Event::Ask(Ask::Write(request)));
    }

    fn reply(&self, at: i64, xid: i32) -> Option<Outcome> {
        self.servers[&at].replies.iter().rev().find(|(replied, _)| *replied == xid).map(|(_, outcome)| outcome.clone())
    }

    /// All who serve show the same configuration, have it in force, and will start with it. Its members, by role.
    #[track_caller]
    fn members(&self) -> String {
        let mut texts = BTreeSet::new();
        for (id, server) in self.servers.iter().filter(|(_, server)| server.serving.is_some()) {
            let peer = server.peer.as_ref().unwrap();
            assert!(peer.view().pending().is_none(), "server {id}: {:?}", peer.view());
            assert_eq!(&server.view, peer.view(), "server {id}");
            let text = peer.view().current().to_string();
            let (_, tree) = server.serving.as_ref().unwrap();
            let node = tree.get(CONFIG).unwrap();
            assert_eq!(std::str::from_utf8(node.data().unwrap()), Ok(&text[..]), "server {id}");
            let meta = node.meta();
            assert_eq!((meta.version, meta.mzxid.0), (-1, peer.view().current().version()), "server {id}");
            texts.insert(text);
        }
        assert_eq!(texts.len(), 1, "{texts:?}");
        let role = |member: &crate::zab::quorum::Member| format!("{}{}", member.id, &member.peer_type.word()[..1]);
        self.view.current().members().map(role).collect::<Vec<_>>().join(" ")
    }
}

const THREE: [(i64, &str); 3] = [(1, P), (2, P), (3, P)];

#[track_caller]
fn assert_done(outcome: Option<Outcome>) {
    assert!(matches!(outcome, Some(Outcome::Reconfigured { .. })), "{outcome:?}");
}

#[test]
fn the_first_configuration_is_named_after_the_epoch_that_it_came_into_force_with() {
    let mut c = Cluster::reconfigurable(&THREE);
    assert_eq!(c.members(), "1p 2p 3p");
    assert_eq!(c.view.current().version(), 0x1_0000_0000);
    c.kill(3);
    c.run(8);
    assert_eq!(c.view.current().version(), 0x1_0000_0000, "it has its name now");
    let mut disabled = Cluster::three();
    disabled.run(2);
    assert_eq!(disabled.members(), "1p 2p 3p");
    assert_eq!(disabled.view.current().version(), 0);
}

#[test]
fn three_become_five_and_three_others_under_load() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(1);
    for id in [4, 5] {
        c.join(id, &[(1, P), (2, P), (3, P), (id, P)]);
        assert_eq!(c.modes().last(), Some(&(id, Some(Mode::Following))), "{:?}", c.servers[&id].notes);
    }
    c.create(1, session, 1, "/before");
    c.ask_to_reconfigure(1, session, 2, &format!("server.4={},server.5={}", line(4, P), line(5, P)), "");
    c.create(1, session, 3, "/behind");
    c.deliver_all();
    assert_done(c.reply(1, 2));
    assert_eq!(c.members(), "1p 2p 3p 4p 5p");
    for path in ["/before", "/behind"] {
        c.assert_everywhere(path, true);
    }
    let elections = c.elections;
    assert_done(c.reconfigure(4, c.servers[&1].opened[0], 9, "", "1,2").or_else(|| {
        // The session lives at 1.
        c.reconfigure(1, session, 10, "", "1,2")
    }));
    assert_eq!(c.members(), "3p 4p 5p");
    assert_eq!(c.elections, elections, "the leader stays");
    c.kill(1);
    c.kill(2);
    c.run(2);
    assert_eq!(c.leader(), 3);
    let session = c.open_session(4);
    c.create(4, session, 1, "/without_1_and_2");
    c.deliver_all();
    c.assert_everywhere("/without_1_and_2", true);
    c.kill(3);
    c.run(8);
    assert!([4, 5].contains(&c.leader()), "two of three are a quorum");
    c.assert_agreement();
}

#[test]
fn a_leader_that_is_removed_names_the_next_and_follows_it() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(2);
    let elections = c.elections;
    assert_done(c.reconfigure(2, session, 1, "", "3"));
    c.run(3);
    let following = Some(Mode::Following);
    assert!(c.leader() != 3, "{:?}", c.modes());
    assert_eq!(c.modes()[2], (3, following), "without a vote, until somebody stops it: {:?}", c.servers[&3].notes);
    assert_eq!(c.elections, elections, "nobody had to look for a leader");
    assert_eq!(c.members(), "1p 2p");
    let leader = c.leader();
    let session = c.open_session(leader);
    c.create(leader, session, 1, "/after");
    c.deliver_all();
    c.assert_everywhere("/after", true);
    c.kill(3 - leader);
    c.run(12);
    assert!(c.servers[&leader].serving.is_none(), "the removed server's acknowledgements do not count");
}

#[test]
fn the_successor_is_who_has_come_furthest() {
    let mut c = Cluster::reconfigurable(&[(1, P), (2, P), (3, P), (4, P), (5, P)]);
    let session = c.open_session(5);
    // 1 and 4 have the reconfiguration, and 1 more than that; nothing is committed before 2 has it too.
    for id in [2, 3] {
        c.server(id).disk_stuck = true;
    }
    c.cut.extend([(4, 5), (1, 5)]);
    c.ask_to_reconfigure(5, session, 1, "", "5");
    c.create(5, session, 2, "/more");
    c.deliver_all();
    c.cut.clear();
    c.server(2).disk_stuck = false;
    c.server(4).disk_stuck = true;
    c.deliver_all();
    assert_done(c.reply(5, 1));
    c.server(3).disk_stuck = false;
    c.server(4).disk_stuck = false;
    c.run(3);
    c.assert_agreement();
    assert_eq!(c.members(), "1p 2p 3p 4p");
}

#[test]
fn a_change_needs_a_quorum_of_the_old_and_of_the_new() {
    let mut c = Cluster::reconfigurable(&THREE);
    for id in [4, 5] {
        c.join(id, &[(1, P), (2, P), (3, P), (id, P)]);
        c.server(id).disk_stuck = true;
    }
    let session = c.open_session(3);
    let change = format!("server.4={},server.5={}", line(4, P), line(5, P));
    c.create(3, session, 1, "/before");
    c.ask_to_reconfigure(3, session, 2, &change, "1,2");
    c.create(3, session, 3, "/behind");
    c.deliver_all();
    c.assert_everywhere("/before", true);
    assert_eq!((c.reply(3, 2), c.reply(3, 3)), (None, None), "4 and 5 have nothing durable");
    let refused = c.reconfigure(3, session, 4, "", "1");
    assert_eq!(refused, None, "it waits behind the other");
    c.server(4).disk_stuck = false;
    for id in [1, 2] {
        c.server(id).disk_stuck = true;
    }
    c.deliver_all();
    assert_done(c.reply(3, 2));
    assert_eq!(c.reply(3, 4), Some(Outcome::Failed(ErrorCode::ReconfigInProgress.code())));
    c.assert_everywhere("/behind", true);
    assert_eq!(c.view.current().voters().collect::<Vec<_>>(), [3, 4, 5].map(ServerId));
}

#[test]
fn nobody_hears_of_a_change_before_the_leader_has_written_it_down() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(1);
    c.server(3).config_stuck = true;
    assert_eq!(c.reconfigure(1, session, 1, "", "2"), None);
    c.create(1, session, 2, "/behind");
    c.deliver_all();
    assert_eq!(c.reply(1, 2), None);
    // What was proposed, and then what is to be in force.
    c.event(3, Event::Configured);
    c.deliver_all();
    assert_eq!(c.reply(1, 1), None);
    assert!(c.servers[&1].peer.as_ref().unwrap().view().pending().is_some());
    c.event(3, Event::Configured);
    c.deliver_all();
    assert_done(c.reply(1, 1));
    assert!(c.reply(1, 2).is_some());
}

/// Found by simulation. A server that ended with the change in its log and not yet in its dynamic file led with that log,
/// committed the change, and went on with the configuration before.
#[test]
fn nobody_has_a_change_in_its_log_before_it_is_written_down() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(3);
    for id in 1..=3 {
        c.server(id).config_stuck = true;
    }
    assert_eq!(c.reconfigure(3, session, 1, "", "1"), None);
    for id in 1..=3 {
        c.kill(id);
        c.server(id).config_stuck = false;
    }
    for id in 1..=3 {
        c.start(id);
    }
    c.run(8);
    assert_eq!(c.members(), "1p 2p 3p");
    for (id, server) in &c.servers {
        let logged = server.disk.log.iter().map(|(_, payload)| LoggedTxn::decode(payload).unwrap().txn);
        assert!(logged.into_iter().all(|txn| !matches!(txn, Txn::Reconfig { .. })), "server {id} has it");
    }
    let session = c.open_session(3);
    assert_done(c.reconfigure(3, session, 1, "", "1"));
    let logged = c.servers[&2].disk.log.iter().map(|(_, payload)| LoggedTxn::decode(payload).unwrap().txn);
    assert!(logged.into_iter().any(|txn| matches!(txn, Txn::Reconfig { .. })), "and now it is there");
}

#[test]
fn observers_become_participants_and_participants_observers() {
    let mut c = Cluster::reconfigurable(&[(1, P), (2, P), (3, P), (4, O)]);
    assert_eq!(c.modes()[3], (4, Some(Mode::Observing)));
    let session = c.open_session(3);
    assert_done(c.reconfigure(3, session, 1, &format!("server.4={}", line(4, P)), ""));
    c.run(3);
    assert_eq!(c.modes()[3], (4, Some(Mode::Following)), "{:?}", c.servers[&4].notes);
    assert_eq!(c.members(), "1p 2p 3p 4p");
    assert_done(c.reconfigure(3, session, 2, &format!("server.1={}", line(1, O)), ""));
    c.run(3);
    assert_eq!(c.modes()[0], (1, Some(Mode::Observing)), "{:?}", c.servers[&1].notes);
    assert_eq!(c.leader(), 3, "the leader stays");
    // The leader itself.
    let elections = c.elections;
    assert_done(c.reconfigure(3, session, 3, &format!("server.3={}", line(3, O)), ""));
    c.run(4);
    assert_eq!(c.modes()[2], (3, Some(Mode::Observing)), "{:?}", c.servers[&3].notes);
    assert_eq!(c.members(), "1o 2p 3o 4p");
    assert_eq!(c.elections, elections);
    let session = c.open_session(1);
    c.create(1, session, 1, "/by_an_observer");
    c.deliver_all();
    c.assert_everywhere("/by_an_observer", true);
}

#[test]
fn a_change_that_a_lost_leader_left_behind_is_completed_by_the_next() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(3);
    c.cut.extend([(1, 3), (2, 3)]);
    assert_eq!(c.reconfigure(3, session, 1, "", "1"), None);
    assert!(c.servers[&1].view.pending().is_some(), "it has seen it, and will know it when it starts again");
    c.kill(3);
    c.cut.clear();
    for id in [1, 2] {
        c.kill(id);
        c.start(id);
    }
    c.run(4);
    assert!(c.modes().iter().all(|(_, mode)| mode.is_none()), "1 and 2 are no quorum of 2 and 3: {:?}", c.modes());
    c.start(3);
    c.run(40);
    assert_eq!(c.members(), "2p 3p");
    assert_eq!(c.modes()[0], (1, Some(Mode::Following)));
}

#[test]
fn a_change_that_nobody_else_knew_is_forgotten() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(3);
    for other in [1, 2] {
        c.cut.extend([(3, other), (other, 3)]);
    }
    assert_eq!(c.reconfigure(3, session, 1, "", "1"), None);
    assert!(c.servers[&3].view.pending().is_some());
    c.kill(3);
    c.cut.clear();
    c.run(8);
    let session = c.open_session(1);
    c.create(1, session, 1, "/meanwhile");
    c.deliver_all();
    c.start(3);
    c.run(40);
    assert_eq!(c.modes()[2], (3, Some(Mode::Following)), "{:?}", c.servers[&3].notes);
    assert_eq!(c.members(), "1p 2p 3p");
    c.assert_agreement();
}

/// Apache's leader sends a configuration that is only proposed with NEWLEADER, and its learner has it in force at UPTODATE:
/// if the leader then fails, others may take it over from that learner although it was never committed.
#[test]
fn who_comes_while_a_change_is_pending_has_it_in_force_no_earlier_than_others() {
    let mut c = Cluster::reconfigurable(&[(1, P), (2, P), (3, P), (4, P), (5, P)]);
    let session = c.open_session(5);
    c.kill(1);
    for id in [2, 3] {
        c.server(id).disk_stuck = true;
    }
    assert_eq!(c.reconfigure(5, session, 1, "", "4"), None);
    c.server(1).config_stuck = false;
    // Its acknowledgements do not arrive, so that nothing is committed.
    c.start(1);
    c.server(1).disk_stuck = true;
    c.run(2);
    assert_eq!(c.modes()[0], (1, Some(Mode::Following)), "{:?}", c.servers[&1].notes);
    let view = c.servers[&1].peer.as_ref().unwrap().view();
    assert!(view.pending().is_some() && view.current().is_voter(ServerId(4)), "{view:?}");
    for id in 1..=3 {
        c.server(id).disk_stuck = false;
    }
    c.run(1);
    assert_eq!(c.members(), "1p 2p 3p 5p");
}

#[test]
fn refusals_are_apaches() {
    let mut c = Cluster::reconfigurable(&THREE);
    let session = c.open_session(1);
    let request = |leaving: &str| ReconfigRequest {
        joining: None,
        leaving: Some(leaving.into()),
        new_members: None,
        config_id: -1,
    };
    let supers = || vec![Id::new("super", "")];
    let mut xid = 0;
    let mut check = |c: &mut Cluster, request: ReconfigRequest, ids: Vec<Id>, code: ErrorCode| {
        xid += 1;
        c.ask_for(1, session, xid, &request, ids);
        c.deliver_all();
        assert_eq!(c.reply(1, xid), Some(Outcome::Failed(code.code())), "{request:?}");
    };
    check(&mut c, request("3"), Vec::new(), ErrorCode::NoAuth);
    check(&mut c, ReconfigRequest { config_id: 7, ..request("3") }, supers(), ErrorCode::BadVersion);
    check(&mut c, request("2,3"), supers(), ErrorCode::BadArguments);
    check(&mut c, request("x"), supers(), ErrorCode::MarshallingError);
    let joining = Some(format!(
        "server.4={},server.5={},server.6={},server.7={}",
        line(4, P),
        line(5, P),
        line(6, P),
        line(7, P)
    ));
    check(&mut c, ReconfigRequest { joining, leaving: None, ..request("") }, supers(), ErrorCode::NewConfigNoQuorum);
    assert_eq!(c.members(), "1p 2p 3p", "nothing has come of them");
    assert_done(c.reconfigure(1, session, 99, "", "2"));

    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.ask_for(1, session, 1, &request("3"), supers());
    c.deliver_all();
    assert_eq!(c.reply(1, 1), Some(Outcome::Failed(ErrorCode::ReconfigDisabled.code())));
}

#[test]
fn a_server_that_was_away_during_a_change_learns_of_it_from_the_others() {
    let mut c = Cluster::reconfigurable(&[(1, P), (2, P), (3, P), (4, P)]);
    let session = c.open_session(4);
    c.kill(1);
    assert_done(c.reconfigure(4, session, 1, "", "2"));
    c.kill(2);
    c.start(1);
    c.run(4);
    assert_eq!(c.modes()[0], (1, Some(Mode::Following)), "{:?}", c.servers[&1].notes);
    assert_eq!(c.members(), "1p 3p 4p");
}
