//! The hazards of the protocol that Apache's servers have met, by the names they have in its issues. Each test fails if the
//! server walks into the hazard it names. `docs/hazards.md` lists all of them, with those that are tested elsewhere.

use super::*;
use crate::proto::quorum::LearnerInfo;
use crate::proto::txn::{CreateKind, Txn, TxnHeader};

impl Cluster {
    /// The links of a server break.
    pub(super) fn break_links(&mut self, id: i64) {
        for link in self.links.values_mut().filter(|link| link.learner == id || link.leader == id) {
            link.open = false;
        }
        self.hang_up();
    }

    /// As if a snapshot had been taken, and the log before it were gone.
    fn purge_log(&mut self, id: i64) {
        let disk = &mut self.server(id).disk;
        (disk.base, disk.log) = (disk.recover().0, Vec::new());
    }

    /// Lets one thing happen that is on its way: a flush, or the arrival of a message.
    pub(super) fn step(&mut self) -> bool {
        let ends: Vec<(LinkId, bool)> = self.links.keys().flat_map(|id| [(*id, true), (*id, false)]).collect();
        self.flush() || ends.into_iter().any(|(id, up)| self.deliver_one(id, up))
    }

    /// What a learner has said to its leader (`up`), or the leader to it, and the other has not heard yet. Of snapshots the
    /// packet before them.
    pub(super) fn on_the_way(&self, learner: i64, up: bool) -> Vec<Packet> {
        let links = self.links.values().filter(|link| link.learner == learner);
        let mut bytes = BytesMut::new();
        for sent in links.flat_map(|link| if up { &link.up } else { &link.down }) {
            if let Sent::Bytes(sent) = sent {
                bytes.extend_from_slice(sent);
            }
        }
        let mut packets = Vec::new();
        while let Some(packet) = Packet::parse(&mut bytes, 1 << 20).unwrap() {
            packets.push(packet);
        }
        packets
    }

    /// Everybody serves, shows the same, and would do so after a start.
    #[track_caller]
    pub(super) fn assert_whole(&self, context: &str) {
        assert!(self.modes().iter().all(|(_, mode)| mode.is_some()), "{context}: {:?}", self.modes());
        self.assert_agreement();
        let digests: BTreeSet<u64> = self.servers.values().map(|s| s.disk.recover().0.tree().digest()).collect();
        assert_eq!(digests.len(), 1, "{context}: what is on disk differs");
    }
}

/// A server that comes back is interrupted after each message and each flush of its synchronization, once by a broken link
/// and once by a crash, and then left in peace.
#[track_caller]
fn interrupt_everywhere(id: i64, prepare: fn() -> Cluster, there: &[&str], gone: &[&str]) {
    for crash in [false, true] {
        for steps in 0.. {
            let mut c = prepare();
            c.elect();
            let was_done = (0..steps).any(|_| !c.step());
            if crash {
                c.kill(id);
                c.start(id);
            } else {
                c.break_links(id);
            }
            c.run(60);
            let context = format!("interrupted after {steps} steps, crash: {crash}");
            c.assert_whole(&context);
            there.iter().for_each(|path| c.assert_everywhere(path, true));
            gone.iter().for_each(|path| c.assert_everywhere(path, false));
            if was_done {
                assert!(
                    steps > 5,
                    "{context}: there was nothing to interrupt: {:?}",
                    c.servers.values().map(|s| &s.notes).collect::<Vec<_>>()
                );
                break;
            }
        }
    }
}

/// Server 1 was away while another epoch began and two writes were made.
fn a_follower_that_lacks_a_little() -> Cluster {
    let mut c = Cluster::three();
    c.run(2);
    c.write(1, "/before");
    c.kill(1);
    c.write(2, "/missed");
    c.kill(3);
    c.start(3);
    c.run(4);
    c.write(2, "/missed_too");
    c.start(1);
    c
}

/// The same, but the others have purged what it lacks.
fn a_follower_that_lacks_too_much() -> Cluster {
    let mut c = a_follower_that_lacks_a_little();
    for id in 1..=3 {
        c.kill(id);
    }
    c.purge_log(2);
    c.purge_log(3);
    c.start(2);
    c.start(3);
    c.run(4);
    c.start(1);
    c
}

/// Server 3 led, and has a transaction that nobody else has seen.
fn a_leader_that_was_lost() -> Cluster {
    let mut c = Cluster::three();
    c.run(2);
    c.write(1, "/before");
    let session = c.open_session(3);
    for other in [1, 2] {
        c.cut.extend([(3, other), (other, 3)]);
    }
    c.create(3, session, 1, "/nobody_knows");
    c.deliver_all();
    c.kill(3);
    c.cut.clear();
    c.run(4);
    c.write(1, "/missed");
    c.start(3);
    c
}

/// ZOOKEEPER-2845: a vote counts what is in the log, committed or not.
#[test]
fn h1_the_uncommitted_tail_counts_in_the_vote() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(3);
    // Server 1 gets the proposal and logs it; nobody hears that.
    c.cut.extend([(3, 2), (2, 3), (1, 3)]);
    c.create(3, session, 1, "/tail");
    c.deliver_all();
    c.assert_everywhere("/tail", false);
    c.kill(3);
    c.cut.clear();
    c.run(4);
    assert_eq!(c.leader(), 1, "its log is longer, though its id is smaller");
    c.assert_everywhere("/tail", true);
}

/// ZOOKEEPER-4643, -4785, -4646, -3911: the history is durable, then the epoch, and only then the learner counts.
#[test]
fn h2_h3_history_then_epoch_then_acknowledgement() {
    let mut c = a_follower_that_lacks_a_little();
    c.server(1).disk_stuck = true;
    c.run(4);
    assert_eq!(c.epochs(1), (Epoch(2), Epoch(1)));
    assert!(c.servers[&1].serving.is_none(), "its history is not durable");
    c.kill(2);
    c.run(60);
    assert_eq!(c.modes(), [(1, None), (2, None), (3, None)], "one server with the history is no quorum");
    c.server(1).disk_stuck = false;
    c.run(60);
    assert_eq!(c.servers[&1].disk.epochs.current, c.servers[&3].disk.epochs.current);
    c.assert_everywhere("/missed_too", true);
}

/// ZOOKEEPER-4685: whoever acknowledges proposals has acknowledged NEWLEADER before.
#[test]
fn h4_newleader_is_acknowledged_before_any_proposal() {
    let mut c = a_follower_that_lacks_a_little();
    c.server(1).disk_stuck = true;
    c.run(1);
    c.write(3, "/meanwhile");
    c.cut.insert((1, 3));
    c.server(1).disk_stuck = false;
    c.deliver_all();
    let acks: Vec<Zxid> = c.on_the_way(1, true).iter().filter(|p| p.kind == PacketKind::Ack).map(|p| p.zxid).collect();
    assert_eq!(acks, [Epoch(2).zxid()], "the acknowledgement of NEWLEADER, and none of a proposal");
    c.cut.clear();
    c.run(2);
    c.assert_everywhere("/meanwhile", true);
    c.assert_whole("afterwards");
}

/// ZOOKEEPER-4394: PROPOSAL, NEWLEADER, COMMIT, UPTODATE is a legal order.
#[test]
fn h5_a_proposal_from_before_newleader_is_committed_behind_it() {
    let mut c = a_follower_that_lacks_a_little();
    let session = c.open_session(3);
    c.server(2).disk_stuck = true;
    c.create(3, session, 1, "/under_way");
    c.elect();
    // Until server 1 has heard NEWLEADER, its answer being on the way.
    while !c.on_the_way(1, true).iter().any(|packet| packet.kind == PacketKind::Ack) {
        assert!(c.step(), "server 1 never answered NEWLEADER");
    }
    c.cut.insert((1, 3));
    c.server(2).disk_stuck = false;
    c.deliver_all();
    c.assert_everywhere("/under_way", true);
    assert!(c.servers[&1].serving.is_none(), "it has not heard UPTODATE");
    c.cut.clear();
    c.deliver_all();
    assert!(c.servers[&1].serving.is_some());
    c.assert_whole("afterwards");
    c.assert_everywhere("/under_way", true);
}

/// ZOOKEEPER-4925: a proposal that does not follow the one before is not taken.
#[test]
fn h6_a_gap_ends_the_link() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(3);
    c.cut.insert((3, 1));
    c.create(3, session, 1, "/lost_on_the_way");
    c.deliver_all();
    let link = c.links.values_mut().find(|link| link.learner == 1).expect("server 1 follows");
    link.down.clear();
    c.cut.clear();
    c.create(3, session, 2, "/next");
    c.deliver_all();
    assert!(c.servers[&1].serving.is_none(), "it noticed");
    c.run(4);
    c.assert_whole("afterwards");
    c.assert_everywhere("/lost_on_the_way", true);
}

/// ZOOKEEPER-4925, the other side: what came by DIFF is in memory too, so that it can be given on.
#[test]
fn h6_what_came_by_diff_can_be_given_on_without_a_hole() {
    let mut c = a_follower_that_lacks_a_little();
    c.run(4);
    c.write(3, "/afterwards");
    let known = |id: i64| -> Vec<Zxid> {
        let history = &c.servers[&id].peer.as_ref().unwrap().history;
        history.after(Zxid(1 << 32 | 2)).expect("all behind /before").map(|(zxid, _)| *zxid).collect()
    };
    assert!(known(1).is_sorted_by(|a, b| b.follows(*a)), "{:?}", known(1));
    assert_eq!(known(1).len(), 6, "/missed, /missed_too and /afterwards, with their sessions");
    assert_eq!(known(1), known(3));
}

/// ZOOKEEPER-3642: what an interrupted snapshot left in memory is not gone on from.
#[test]
fn h7_a_snapshot_may_be_interrupted_anywhere() {
    interrupt_everywhere(1, a_follower_that_lacks_too_much, &["/before", "/missed", "/missed_too"], &[]);
}

/// A transaction that follows this state and creates a znode, as a leader proposes it, and the state that it leads to.
fn creation(before: &DataTree, path: &str) -> (DataTree, Packet) {
    let mut after = before.clone();
    let header = TxnHeader { session: SessionId(77), cxid: 1, zxid: before.tree().zxid().next(), time: WallMs(1) };
    let kind = CreateKind::Plain { ephemeral: false };
    let (data, acl) = (Some(Bytes::from_static(b"x")), AclList::OPEN);
    let parent_cversion = before.tree().get("/").expect("there is a root").meta().cversion + 1;
    let txn = Txn::Create { path: path.into(), data, acl, kind, with_stat: false, parent_cversion };
    after.apply(&header, &txn);
    let mut payload = Vec::new();
    LoggedTxn::encode_parts(&mut payload, &header, &txn, Some(after.tree().digest()));
    (after, Packet::with(PacketKind::Proposal, header.zxid, payload))
}

/// Apache's leader goes on while it sends its state: what that has of later transactions is no mistake, and they come behind
/// it, before NEWLEADER, each with the digest of a tree that this server never has. From there on a digest tells the truth.
#[test]
fn h11_a_snapshot_that_is_ahead_of_its_zxid_raises_no_alarm_and_a_wrong_one_does() {
    for whole in [true, false] {
        let mut c = Cluster::three();
        c.run(2);
        c.write(1, "/before");
        c.kill(1);
        c.start(1);
        // Server 1 hears this test instead of its leader.
        c.cut.insert((3, 1));
        c.elect();
        let link = link_of_server_1(&c);
        let state = c.servers[&3].disk.recover().0;
        let zxid = state.tree().zxid();
        let (one, create_one) = creation(&state, "/one");
        let (two, create_two) = creation(&one, "/two");
        let (three, create_three) = creation(&two, "/three");
        let commit = |proposal: &Packet| Packet::bare(PacketKind::Commit, proposal.zxid);
        let sent = if whole { two } else { creation(&two, "/that_nobody_else_has").0 };
        let mut decoder = Decoder::new(Form::Stream, zxid);
        let (source, mut chunk) = (SnapshotSource::of(&sent, true), Vec::new());
        let mut encoder = Encoder::new(&source, Form::Stream);
        while encoder.next_chunk(&mut chunk) {
            assert_eq!(decoder.feed(&chunk).unwrap(), chunk.len(), "the stream is one piece");
        }
        let sent = decoder.finish(&[]).unwrap().data_tree;
        let mismatches =
            |c: &Cluster| c.servers[&1].peer.as_ref().unwrap().status(c.now).unwrap().counts.digest_mismatches;
        let packet = |packet: Packet| Event::Packet(link, packet);
        c.events(
            1,
            [Packet::bare(PacketKind::LeaderInfo, Epoch(1).zxid()), Packet::bare(PacketKind::Snap, zxid)].map(packet),
        );
        c.event(1, Event::SnapshotReceived(link, Box::new(sent)));
        let behind = [create_one.clone(), commit(&create_one), create_two.clone(), commit(&create_two)];
        c.events(1, behind.map(packet));
        for kind in [PacketKind::NewLeader, PacketKind::UpToDate] {
            c.event(1, packet(Packet::bare(kind, Epoch(1).zxid())));
        }
        assert_eq!((c.modes()[0], mismatches(&c)), ((1, Some(Mode::Following)), 0), "whole: {whole}");
        c.events(1, [create_three.clone(), commit(&create_three)].map(packet));
        let digest = c.servers[&1].serving.as_ref().expect("it serves").1.digest();
        assert_eq!((digest == three.tree().digest(), mismatches(&c)), (whole, u64::from(!whole)));
        // No snapshot of a tree that is known to be another: the next start is to read the log.
        assert_eq!(c.servers[&1].peer.as_ref().unwrap().safe().is_some(), whole);
    }
}

/// ZOOKEEPER-5094: what came after TRUNC is on disk before anybody is told of it. And ZOOKEEPER-1549: what was cut stays away.
#[test]
fn h8_h10_a_truncation_may_be_interrupted_anywhere() {
    interrupt_everywhere(3, a_leader_that_was_lost, &["/before", "/missed"], &["/nobody_knows"]);
}

/// ZOOKEEPER-2678: DIFF writes no snapshot, however it is interrupted.
#[test]
fn h12_a_difference_may_be_interrupted_anywhere() {
    interrupt_everywhere(1, a_follower_that_lacks_a_little, &["/before", "/missed", "/missed_too"], &[]);
    let mut c = a_follower_that_lacks_a_little();
    c.run(4);
    assert_eq!(c.servers[&1].disk.base.tree().zxid(), Zxid::ZERO, "all of it came as transactions");
}

/// ZOOKEEPER-2678: neither those who serve, nor those who come, wait for a learner whose disk hangs.
#[test]
fn h12_a_learner_that_comes_to_no_end_holds_nobody_up() {
    let mut c = a_follower_that_lacks_a_little();
    c.server(1).disk_stuck = true;
    c.run(10);
    c.write(2, "/meanwhile");
    c.kill(2);
    c.start(2);
    c.run(4);
    assert_eq!(c.modes(), [(1, None), (2, Some(Mode::Following)), (3, Some(Mode::Leading))]);
    c.assert_everywhere("/meanwhile", true);
    c.server(1).disk_stuck = false;
    c.run(60);
    c.assert_whole("afterwards");
    c.assert_everywhere("/meanwhile", true);
}

/// A quorum of others is enough for a commit; the leader's vote is about what its own disk has.
#[test]
fn h13_h14_a_leader_with_a_slow_disk_loses_nothing_that_was_acknowledged() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.server(3).disk_stuck = true;
    c.create(1, session, 1, "/acknowledged");
    c.deliver_all();
    assert_eq!(c.servers[&1].replies.len(), 1, "two of three have it");
    c.kill(3);
    c.server(3).disk_stuck = false;
    assert!(c.servers[&3].disk.recover().0.tree().get("/acknowledged").is_none(), "the leader never had it on disk");
    c.start(3);
    c.run(4);
    assert_ne!(c.leader(), 3, "it lacks what the others have");
    c.assert_everywhere("/acknowledged", true);
    c.assert_whole("afterwards");
}

/// ZOOKEEPER-4712: what a role had under way when it ended is not continued by the next.
#[test]
fn h15_a_flush_that_ends_after_its_role_acknowledges_nothing() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(2);
    c.server(1).disk_stuck = true;
    c.create(2, session, 1, "/a");
    c.deliver_all();
    c.break_links(1);
    c.server(1).disk_stuck = false;
    c.run(4);
    let zxids: Vec<Zxid> = c.servers[&1].disk.log.iter().map(|(zxid, _)| *zxid).collect();
    assert!(zxids.is_sorted_by(|a, b| a < b), "nothing is logged twice: {zxids:?}");
    c.assert_whole("afterwards");
}

/// A packet that has no business where it comes ends the link, and not the server.
#[test]
fn h18_what_breaks_the_rules_ends_a_link_and_no_server() {
    let mut c = Cluster::three();
    c.run(2);
    let link_of = |c: &Cluster, id| *c.links.iter().find(|(_, link)| link.learner == id).expect("it follows").0;
    for kind in [PacketKind::UpToDate, PacketKind::NewLeader, PacketKind::Snap, PacketKind::LeaderInfo] {
        let link = link_of(&c, 1);
        c.event(1, Event::Packet(link, Packet::bare(kind, Zxid(1 << 32 | 99))));
        c.deliver_all();
        assert!(c.servers[&1].serving.is_none(), "{kind:?} is not for a follower that serves");
        c.run(4);
        c.assert_whole("afterwards");
    }
    let link = link_of(&c, 2);
    c.event(3, Event::Packet(link, Packet::bare(PacketKind::UpToDate, Zxid(0))));
    c.deliver_all();
    c.run(4);
    c.assert_whole("afterwards");
}

/// A leader that is not heard, or does not hear, gives up within `syncLimit`, and so do its followers.
#[test]
fn h19_a_leader_that_is_cut_off_one_way_does_not_stay() {
    // Once what it sends is lost, once what it should get.
    for cut in [[(3, 1), (3, 2)], [(1, 3), (2, 3)]] {
        let mut c = Cluster::three();
        c.run(2);
        assert_eq!(c.leader(), 3);
        c.cut.extend(cut);
        c.run(30);
        assert!(c.servers[&3].serving.is_none(), "it gave up");
        c.cut.clear();
        c.run(60);
        c.assert_whole("afterwards");
    }
}

#[test]
fn an_accepted_epoch_that_nobody_else_has_heard_of_leads_to_a_later_one() {
    let mut c = Cluster::three();
    c.run(2);
    c.write(1, "/a");
    c.kill(1);
    c.server(1).disk.epochs.accepted = Epoch(9);
    c.start(1);
    c.run(20);
    assert!(c.modes().iter().all(|(_, mode)| mode.is_some()), "{:?}", c.modes());
    for id in 1..=3 {
        assert_eq!(c.epochs(id), (Epoch(10), Epoch(10)));
    }
    c.assert_everywhere("/a", true);
    c.assert_agreement();
}

#[test]
fn a_server_that_has_accepted_a_later_epoch_than_its_leaders_breaks_no_promise_and_does_not_hurry() {
    let mut c = Cluster::three();
    c.run(2);
    c.kill(1);
    c.server(1).disk.epochs.accepted = Epoch(9);
    // Its leader is one that does not mind: Apache's.
    c.said_accepted.insert(1, Epoch(0));
    c.start(1);
    let before = c.elections;
    // Forty quarters of a tick, and two ticks between attempts.
    c.run(40);
    let attempts = c.elections - before;
    assert!((3..=6).contains(&attempts), "{attempts} attempts");
    assert_eq!(c.modes(), [(1, None), (2, Some(Mode::Following)), (3, Some(Mode::Leading))]);
    assert_eq!(c.servers[&1].disk.epochs.accepted, Epoch(9));
}

/// Its leader closes the connection without a word.
#[test]
fn a_server_with_a_newer_configuration_than_its_leaders_does_not_hurry() {
    let mut c = Cluster::three();
    c.run(2);
    c.kill(1);
    let newer = c.view.current().to_string().replace("version=0", "version=5");
    c.server(1).view = QuorumView::new(QuorumVerifier::parse(&newer).unwrap());
    c.start(1);
    let before = c.elections;
    // Forty quarters of a tick: two attempts, and then two ticks before each.
    c.run(40);
    let attempts = c.elections - before;
    assert!((4..=7).contains(&attempts), "{attempts} attempts");
    assert_eq!(c.modes(), [(1, None), (2, Some(Mode::Following)), (3, Some(Mode::Leading))]);
}

/// Found by the simulator. Nothing but the file beside the epochs tells of a session that is closed, once the history came by a
/// snapshot.
#[test]
fn a_session_id_is_given_out_once_though_the_clock_was_set_back() {
    let mut c = Cluster::new(THREE);
    // Whenever they begin to serve it is the same millisecond.
    c.stopped_clocks = BTreeMap::from([(1, WallMs(1_700_000_000_000)), (3, WallMs(1_700_000_000_000))]);
    (1..=3).for_each(|id| c.start(id));
    c.run(2);
    let mut ids = BTreeSet::new();
    for round in 0..4 {
        assert_eq!(c.leader(), 3, "server 3 opens sessions as a leader, server 1 as a follower");
        for at in [1, 3] {
            for _ in 0..2 {
                let session = c.open_session(at);
                assert_eq!(session.0 >> 56, at);
                assert!(ids.insert(session), "{session} for the second time, in round {round}");
                c.ask(at, session, 1, WriteOp::CloseSession, OpCode::CloseSession);
                c.deliver_all();
            }
        }
        c.run(2);
        for id in [1, 3] {
            c.kill(id);
            c.lose_disk(id);
            c.server(id).in_doubt = false;
        }
        c.start(1);
        c.run(4);
        c.start(3);
        c.run(4);
        // Only server 3 can lead.
        c.kill(2);
        c.run(60);
        c.start(2);
        c.run(4);
    }
}

/// Found by the simulator. A follower that was restarted is brought to what is committed, which takes away from it what it has
/// acknowledged and nobody has committed. Its old acknowledgement must not commit that afterwards.
#[test]
fn an_acknowledgement_is_worth_nothing_once_its_follower_was_cut() {
    let mut c = Cluster::three();
    c.run(2);
    let leader = c.leader();
    let session = c.open_session(leader);
    let [cut, slow] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else { unreachable!() };
    for id in [leader, slow] {
        c.server(id).disk_stuck = true;
    }
    c.create(leader, session, 1, "/x");
    c.deliver_all();
    c.kill(cut);
    c.start(cut);
    c.server(cut).disk_stuck = true;
    c.run(4);
    assert!(c.servers[&cut].disk.recover().0.tree().get("/x").is_none(), "it was cut");
    c.server(leader).disk_stuck = false;
    c.deliver_all();
    let shown = |c: &Cluster| c.servers[&leader].serving.as_ref().unwrap().1.get("/x").is_some();
    assert!(!shown(&c), "nobody but the leader has it");
    for id in [cut, slow] {
        c.server(id).disk_stuck = false;
    }
    c.deliver_all();
    assert!(shown(&c));
}

/// Found by the simulator. A leader's whole state was installed and nobody else has the end of it, so that the next leader says
/// TRUNC: there is no older snapshot to go back to. The server gives its history up, and gets all of the leader's.
#[test]
fn a_server_that_cannot_go_back_gets_everything_anew() {
    let mut c = Cluster::three();
    c.run(2);
    c.write(2, "/kept");
    c.kill(1);
    let (mut data_tree, _) = c.servers[&1].disk.recover();
    let zxid = data_tree.tree().zxid().next();
    let header = TxnHeader { session: SessionId(1), cxid: 1, zxid, time: WallMs(1) };
    data_tree.apply(&header, &Txn::Error { err: -1 });
    (c.server(1).disk.base, c.server(1).disk.log) = (data_tree, Vec::new());
    c.start(1);
    c.run(20);
    let notes = &c.servers[&1].notes;
    assert!(notes.iter().any(|note| note.contains("the history on disk is of no use")), "{notes:?}");
    c.assert_whole("afterwards");
    assert!(!c.servers[&1].in_doubt);
    c.assert_everywhere("/kept", true);
}

#[test]
fn an_epoch_that_no_ensemble_comes_to_is_not_believed() {
    for established in [false, true] {
        let mut c = Cluster::three();
        if established {
            c.run(2);
            c.kill(1);
        }
        c.said_accepted.insert(1, Epoch(u32::MAX));
        c.start(1);
        c.run(20);
        assert_eq!(c.modes(), [(1, None), (2, Some(Mode::Following)), (3, Some(Mode::Leading))]);
        assert_eq!(c.epochs(3), (Epoch(1), Epoch(1)));
    }
}

/// A session's transaction, as a leader proposes it.
fn proposal(zxid: Zxid) -> Packet {
    let header = TxnHeader { session: SessionId(77), cxid: 1, zxid, time: WallMs(1) };
    let mut payload = Vec::new();
    LoggedTxn::encode_parts(&mut payload, &header, &Txn::CreateSession { timeout_ms: 4000 }, None);
    Packet::with(PacketKind::Proposal, zxid, payload)
}

/// The link over which server 1 follows.
fn link_of_server_1(c: &Cluster) -> LinkId {
    *c.links.iter().find(|(_, link)| link.learner == 1).expect("server 1 follows").0
}

/// Found by fuzzing: each of these ended the server by a failed assertion, or left a log that no start believed.
#[test]
fn a_leader_that_contradicts_itself_is_left_and_nothing_is_lost() {
    let next = Zxid(Epoch(1).zxid().0 + 3);
    let commit = |zxid| Packet::bare(PacketKind::Commit, zxid);
    for packets in [
        vec![proposal(next), commit(next.next())],
        vec![proposal(next), proposal(next.next()), commit(next.next())],
        vec![commit(next)],
        vec![proposal(Zxid(Epoch(1).zxid().0 + 5))],
        vec![proposal(Epoch(2).zxid().next())],
        vec![proposal(Zxid(Epoch(2).zxid().0 + 5))],
        vec![proposal(Zxid(i64::MAX))],
    ] {
        let mut c = Cluster::three();
        c.run(2);
        c.write(1, "/before");
        assert_eq!(c.servers[&1].disk.recover().0.tree().zxid().next(), next);
        let link = link_of_server_1(&c);
        let context = format!("{packets:?}");
        c.events(1, packets.into_iter().map(|packet| Event::Packet(link, packet)));
        c.deliver_all();
        assert!(c.servers[&1].serving.is_none(), "it has left its leader: {context}");
        c.run(60);
        c.assert_whole(&context);
        c.assert_everywhere("/before", true);
    }
}

/// Found by fuzzing: a snapshot that comes while the disk is at work for what came before ended the server.
#[test]
fn a_snapshot_that_nobody_has_asked_for_ends_the_link_alone() {
    let mut c = Cluster::three();
    c.run(2);
    c.write(1, "/before");
    c.kill(1);
    c.start(1);
    c.elect();
    let link = link_of_server_1(&c);
    let epoch = Epoch(2).zxid();
    let state = Event::SnapshotReceived(link, Box::default());
    let packet = |kind| Event::Packet(link, Packet::bare(kind, epoch));
    c.events(1, [packet(PacketKind::LeaderInfo), packet(PacketKind::Snap), state]);
    c.run(60);
    c.assert_whole("afterwards");
    c.assert_everywhere("/before", true);
}

/// Its acknowledgements would count as the leader's own.
#[test]
fn a_learner_with_the_id_of_its_leader_is_refused() {
    let mut c = Cluster::three();
    c.run(2);
    let (link, sid) = (99, 3);
    let info = LearnerInfo { sid, protocol_version: 0x10000, config_version: 0, knows_hand_over: false };
    let packet = Packet::with(PacketKind::FollowerInfo, Epoch(1).zxid(), info.encode());
    c.events(3, [Event::LearnerConnected(link), Event::Packet(link, packet)]);
    let leader = c.servers[&3].peer.as_ref().and_then(Peer::leader).expect("it leads still");
    assert!(!leader.has_learner(ServerId(sid)) && !leader.links().any(|known| known == link));
}
