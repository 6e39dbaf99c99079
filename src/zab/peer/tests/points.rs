//! The points of Apache's wire protocol that a server must keep to, by their numbers in `docs/hazards.md`. Those that are
//! not here are tested elsewhere; that table says where.

use super::*;

impl Cluster {
    /// Lets one thing happen after the other until this learner has said something of a kind that its leader has not heard yet,
    /// or the other way round.
    #[track_caller]
    fn step_until(&mut self, learner: i64, up: bool, kind: PacketKind) {
        while !self.on_the_way(learner, up).iter().any(|packet| packet.kind == kind) {
            assert!(self.step(), "nobody said {kind:?}");
        }
    }

    fn kinds_on_the_way(&self, learner: i64, up: bool) -> Vec<PacketKind> {
        self.on_the_way(learner, up).into_iter().map(|packet| packet.kind).collect()
    }
}

#[test]
fn point_05_an_epoch_is_durable_before_anybody_is_told_that_it_is_accepted() {
    let mut c = Cluster::new(THREE);
    for id in [1, 3] {
        c.server(id).epochs_stuck = true;
    }
    (1..=3).for_each(|id| c.start(id));
    c.run(1);
    assert_eq!(c.epochs(2), (Epoch(0), Epoch(0)), "the leader has announced none");
    c.cut.insert((1, 3));
    c.save_epochs(3);
    c.deliver_all();
    assert_eq!(c.epochs(2), (Epoch(1), Epoch(1)), "two are a quorum");
    assert_eq!((c.epochs(1), c.kinds_on_the_way(1, true)), ((Epoch(0), Epoch(0)), vec![]));
    c.save_epochs(1);
    let answer = c.on_the_way(1, true).remove(0);
    assert_eq!((answer.kind, answer.data.as_deref()), (PacketKind::AckEpoch, Some(&0_i32.to_be_bytes()[..])));
}

/// Who has accepted the epoch before may have been counted then.
#[test]
fn point_05_an_epoch_that_was_accepted_before_is_acknowledged_by_minus_1() {
    let mut c = Cluster::three();
    c.run(2);
    c.break_links(1);
    c.elect();
    c.step_until(1, true, PacketKind::AckEpoch);
    let answer = c.on_the_way(1, true).remove(0);
    assert_eq!(answer.data.as_deref(), Some(&(-1_i32).to_be_bytes()[..]));
    c.run(2);
    c.assert_whole("afterwards");
}

#[test]
fn point_08_an_observer_gets_the_past_as_proposals_and_commits_and_the_present_as_inform() {
    use PacketKind::*;
    let mut c = Cluster::new(&THREE.replace("version", "server.4=h:7:8:observer\nversion"));
    (1..=4).for_each(|id| c.start(id));
    c.run(3);
    c.kill(4);
    c.write(1, "/missed");
    c.start(4);
    c.elect();
    c.step_until(4, false, Diff);
    // A session and a znode.
    assert_eq!(c.kinds_on_the_way(4, false), [Diff, Proposal, Commit, Proposal, Commit, NewLeader]);
    c.run(2);
    assert_eq!(c.modes()[3], (4, Some(Mode::Observing)));
    c.cut.insert((3, 4));
    c.write(1, "/present");
    assert_eq!(c.kinds_on_the_way(4, false), [Inform, Inform]);
}

#[test]
fn point_09_only_the_oldest_pending_proposal_can_be_committed() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(3);
    for id in [2, 3] {
        c.server(id).disk_stuck = true;
    }
    c.create(3, session, 1, "/oldest");
    c.create(3, session, 2, "/next");
    c.deliver_all();
    let link = *c.links.iter().find(|(_, link)| link.learner == 1).expect("it follows").0;
    c.event(1, Event::Packet(link, Packet::bare(PacketKind::Commit, Zxid(1 << 32 | 3))));
    assert!(c.servers[&1].serving.is_none(), "it follows such a leader no longer");
    for id in [2, 3] {
        c.server(id).disk_stuck = false;
    }
    c.run(4);
    c.assert_whole("afterwards");
    c.assert_everywhere("/next", true);
}

#[test]
fn point_10_a_ping_is_answered_and_the_answer_is_empty_where_there_is_nothing_to_tell() {
    let mut c = Cluster::three();
    c.run(2);
    c.cut.insert((1, 3));
    c.run(5);
    let answers = c.on_the_way(1, true);
    assert!(!answers.is_empty());
    for answer in answers {
        assert_eq!((answer.kind, answer.data.as_deref()), (PacketKind::Ping, Some(&[][..])));
    }
    // In time: nobody was given up.
    c.cut.clear();
    c.run(40);
    assert_eq!(c.modes(), [(1, Some(Mode::Following)), (2, Some(Mode::Following)), (3, Some(Mode::Leading))]);
    assert_eq!(c.epochs(1).1, Epoch(1));
}

#[test]
fn point_11_a_transaction_has_the_same_bytes_in_every_log_and_a_refused_one_has_no_digest() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.create(1, session, 1, "/a");
    c.create(1, session, 2, "/a");
    c.deliver_all();
    // One gets them as they are made, the other later.
    c.kill(2);
    c.create(1, session, 3, "/b");
    c.deliver_all();
    c.start(2);
    c.run(2);
    let logs: Vec<&Vec<(Zxid, Bytes)>> = c.servers.values().map(|server| &server.disk.log).collect();
    assert_eq!(logs[0].len(), 4);
    assert!(logs[0] == logs[1] && logs[1] == logs[2]);
    let digests: Vec<bool> =
        logs[0].iter().map(|(_, payload)| LoggedTxn::decode(payload).unwrap().digest.is_some()).collect();
    assert_eq!(digests, [true, true, false, true]);
}
