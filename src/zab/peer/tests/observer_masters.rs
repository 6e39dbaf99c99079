//! Observers that learn from followers.

use super::*;
use crate::zab::masters::Observing;

const FIVE: &str = "server.1=h:1:2:participant;2181\nserver.2=h:3:4:participant;2181\n\
                    server.3=h:5:6:participant;2181\nserver.4=h:7:8:observer;2181\nserver.5=h:9:10:observer;2181\n\
                    version=0";

fn five_with(observing: Observing, reconfig: bool) -> Cluster {
    started(Cluster { observing: Observing { masters: true, ..observing }, reconfig, ..Cluster::new(FIVE) })
}

fn started(mut c: Cluster) -> Cluster {
    for id in 1..=5 {
        c.start(id);
    }
    for _ in 0..4000 {
        if c.modes().iter().all(|(_, mode)| mode.is_some()) {
            break;
        }
        c.run(1);
    }
    assert_eq!(c.leader(), 3);
    c
}

fn five() -> Cluster {
    five_with(Observing::default(), false)
}

/// Whom a server learns from, by its links and by what it says.
#[track_caller]
fn master(c: &Cluster, id: i64) -> i64 {
    let masters: Vec<i64> = c.links.values().filter(|link| link.learner == id).map(|link| link.leader).collect();
    let told = c.servers[&id].peer.as_ref().unwrap().master().map(|master| master.0);
    assert_eq!(masters, told.into_iter().collect::<Vec<_>>());
    masters[0]
}

fn observers(c: &Cluster, id: i64) -> Option<usize> {
    c.servers[&id].peer.as_ref().unwrap().observers().map(|observers| observers.len())
}

#[test]
fn observers_learn_from_followers_and_the_leader_does_not_hear_of_them() {
    let mut c = five();
    for observer in [4, 5] {
        assert_eq!(c.modes()[observer as usize - 1], (observer, Some(Mode::Observing)));
        assert!([1, 2].contains(&master(&c, observer)));
    }
    assert_eq!(observers(&c, 1).unwrap() + observers(&c, 2).unwrap(), 2);
    assert_eq!(observers(&c, 3), None);
    assert_eq!(c.servers[&3].peer.as_ref().unwrap().leader().unwrap().serving(), (2, 0));
    for at in [4, 3, 5] {
        let session = c.open_session(at);
        let path = format!("/by_{at}");
        c.create(at, session, 1, &path);
        c.create(at, session, 2, &path);
        c.deliver_all();
        let replies: Vec<bool> =
            c.servers[&at].replies.iter().map(|(_, it)| matches!(it, Outcome::Created { .. })).collect();
        assert_eq!(replies, [true, false], "it was asked for twice");
        c.assert_everywhere(&path, true);
    }
    c.assert_agreement();
}

/// A quorum whose flushes take long commits much with their end: more than is kept for learners that come back.
#[test]
fn observers_are_told_of_all_that_is_committed_at_once() {
    let history = Limits { count_min: 3, bytes_max: 0 };
    let observing = Observing { masters: true, ..Observing::default() };
    let mut c = started(Cluster { observing, history, ..Cluster::new(FIVE) });
    let session = c.open_session(3);
    c.deliver_all();
    let link = |c: &Cluster| c.links.iter().find(|(_, link)| link.learner == 4).map(|(id, _)| *id);
    let (before, master) = (link(&c), master(&c, 4));
    [1, 2, 3].into_iter().filter(|id| *id != master).for_each(|id| c.server(id).disk_stuck = true);
    for n in 0..10 {
        c.create(3, session, n + 1, &format!("/n{n}"));
    }
    c.deliver_all();
    assert!(c.servers[&4].serving.as_ref().unwrap().1.get("/n0").is_none(), "it waits for a quorum");
    c.server(3).disk_stuck = false;
    c.deliver_all();
    [1, 2].into_iter().for_each(|id| c.server(id).disk_stuck = false);
    c.deliver_all();
    c.assert_everywhere("/n9", true);
    assert_eq!(link(&c), before, "it was not sent away");
    assert_eq!(c.servers[&master].peer.as_ref().unwrap().history.from(0).count(), 3);
}

/// Its answer says that what was committed before has come: it must be behind that on its way through the master.
#[test]
fn a_sync_is_answered_behind_what_was_committed_before_it() {
    let mut c = five();
    let session = c.open_session(4);
    let (leader, master) = (3, master(&c, 4));
    c.create(4, session, 1, "/before");
    c.deliver_all();
    let other = c.open_session(leader);
    // Its commit waits for the followers.
    c.server(1).disk_stuck = true;
    c.server(2).disk_stuck = true;
    c.create(leader, other, 1, "/under_way");
    c.deliver_all();
    let forward = Some(Box::new((session, 2, Bytes::from_static(b"\0\0\0\x01/"))));
    c.event(4, Event::Ask(Ask::Sync { cnxn: CNXN, forward }));
    c.deliver_all();
    assert!(c.servers[&4].answers.is_empty());
    c.server(1).disk_stuck = false;
    c.server(2).disk_stuck = false;
    // Each step brings the observer one buffer: the transaction has come whenever the answer has.
    for _ in 0..100 {
        c.flush();
        c.deliver();
        let synced = c.servers[&4].answers.iter().any(|answer| matches!(answer, Answer::Synced(CNXN)));
        let shown = c.servers[&4].serving.as_ref().unwrap().1.get("/under_way").is_some();
        assert!(!synced || shown);
    }
    c.deliver_all();
    assert!(matches!(c.servers[&4].answers[..], [Answer::Synced(CNXN)]), "{:?}", c.servers[&4].answers);
    assert!(c.servers[&master].answers.is_empty(), "it is nobody else's");
}

#[test]
fn a_session_lives_on_at_another_observer_and_is_kept_alive_through_its_master() {
    let mut c = five();
    let session = c.open_session(4);
    let attach = |c: &mut Cluster, at: i64, session: SessionId| {
        let password = crate::session::password(session).to_vec();
        c.event(at, Event::Ask(Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password }));
        c.deliver_all();
        match std::mem::take(&mut c.server(at).answers)[..] {
            [Answer::Attached { cnxn: CNXN, session }] => session,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(attach(&mut c, 5, session), Some(session));
    assert_eq!(attach(&mut c, 5, SessionId(0x77)), None);
    c.create_as(5, session, 1, "/mine", 1);
    for _ in 0..60 {
        let now = c.now;
        c.event(5, Event::Ask(Ask::Touch(vec![(session, now)])));
        c.run(1);
    }
    c.assert_everywhere("/mine", true);
    c.run(100);
    c.assert_everywhere("/mine", false);
}

/// A client moves between an observer and its master: whoever had it before lets go of it.
#[test]
fn a_session_moves_between_an_observer_and_its_master() {
    let mut c = five();
    let master = master(&c, 4);
    let session = c.open_session(master);
    for (before, at) in [(master, 4), (4, master), (master, 4)] {
        let password = crate::session::password(session).to_vec();
        c.event(at, Event::Ask(Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password }));
        c.deliver_all();
        let answers = std::mem::take(&mut c.server(at).answers);
        assert!(matches!(answers[..], [Answer::Attached { cnxn: CNXN, session: Some(_) }]), "{at}: {answers:?}");
        if before == master {
            let closed = std::mem::take(&mut c.server(master).answers);
            assert!(matches!(closed[..], [Answer::Close(CNXN)]), "{closed:?}");
        }
        c.create(at, session, 1, &format!("/by_{at}"));
        c.deliver_all();
        c.assert_everywhere(&format!("/by_{at}"), true);
    }
}

/// Found by the simulator. To the leader a request that was asked at the observer looks like one of the master's own
/// clients: only the master can tell that its client has moved on before it came.
#[test]
fn what_comes_from_an_observer_too_late_is_not_done_once_the_session_has_moved_to_its_master() {
    let attach = |c: &mut Cluster, at: i64, session: SessionId| {
        let password = crate::session::password(session).to_vec();
        c.event(at, Event::Ask(Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password }));
    };
    // The request comes to the master before it knows whether the session lives, or later.
    for known in [false, true] {
        let mut c = five();
        let session = c.open_session(4);
        let master = master(&c, 4);
        let link = *c.links.iter().find(|(_, link)| link.learner == 4).unwrap().0;
        c.create(4, session, 1, "/late");
        let late = std::mem::take(&mut c.links.get_mut(&link).unwrap().up);
        assert_eq!(late.len(), 1);
        attach(&mut c, master, session);
        if known {
            c.deliver_all();
        }
        c.links.get_mut(&link).unwrap().up.extend(late);
        c.deliver_all();
        let answers = std::mem::take(&mut c.server(master).answers);
        assert!(matches!(answers[..], [Answer::Attached { session: Some(_), .. }]), "{answers:?}");
        c.assert_everywhere("/late", false);
        // It has its place all the same, and nobody waits for it.
        assert!(matches!(c.servers[&4].replies[..], [(1, Outcome::Failed(_))]), "{:?}", c.servers[&4].replies);
        c.create(master, session, 2, "/at_the_master");
        c.deliver_all();
        attach(&mut c, 4, session);
        c.deliver_all();
        c.create(4, session, 3, "/at_the_observer");
        c.deliver_all();
        assert!(matches!(c.servers[&4].replies[1..], [(3, Outcome::Created { .. })]), "{:?}", c.servers[&4].replies);
        for path in ["/at_the_master", "/at_the_observer"] {
            c.assert_everywhere(path, true);
        }
        c.assert_agreement();
    }
}

/// What a client still sends over its old connection comes to the leader behind the question whether its session lives, over
/// the same link.
#[test]
fn a_session_is_its_new_connections_as_soon_as_the_leader_is_asked() {
    let mut c = five();
    let session = c.open_session(1);
    let other = CnxnId { slot: 8, ..CNXN };
    let password = crate::session::password(session).to_vec();
    c.event(1, Event::Ask(Ask::Attach { cnxn: other, session, timeout_ms: 30_000, password }));
    c.create(1, session, 1, "/late");
    c.deliver_all();
    let answers = std::mem::take(&mut c.server(1).answers);
    let [Answer::Close(CNXN), Answer::Close(CNXN), Answer::Attached { cnxn, session: Some(_) }] = answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(cnxn, other);
    c.assert_everywhere("/late", false);
}

#[test]
fn an_observer_whose_master_dies_goes_on_with_another() {
    let mut c = five();
    let session = c.open_session(4);
    c.create_as(4, session, 1, "/mine", 1);
    c.deliver_all();
    let before = master(&c, 4);
    c.kill(before);
    let writer = c.open_session(3);
    c.create(3, writer, 1, "/meanwhile");
    c.run(6);
    let other = 3 - before;
    assert_eq!((master(&c, 4), master(&c, 5)), (other, other));
    assert_eq!(observers(&c, other), Some(2));
    c.create(4, session, 2, "/after");
    c.deliver_all();
    for path in ["/mine", "/meanwhile"] {
        c.assert_everywhere(path, true);
    }
    c.assert_agreement();
    assert_eq!(c.leader(), 3, "nobody else was disturbed");
}

/// Far behind it gets all of its master's state; a little behind, what it lacks.
#[test]
fn an_observer_that_was_away_is_brought_up_to_date_by_its_master() {
    let mut c = five();
    c.kill(4);
    let session = c.open_session(1);
    c.create(1, session, 1, "/little");
    c.deliver_all();
    c.start(4);
    c.run(6);
    assert_eq!(c.servers[&4].disk.base.tree().zxid(), Zxid::ZERO, "no snapshot was taken over");
    c.assert_agreement();
    c.kill(4);
    for xid in 0..1500 {
        c.create(1, session, xid, &format!("/{xid:-^60000}"));
        c.deliver_all();
    }
    c.start(4);
    c.run(6);
    assert!(c.servers[&4].disk.base.tree().zxid() > Zxid::ZERO, "a snapshot was taken over");
    assert!([1, 2].contains(&master(&c, 4)));
    c.create(1, session, 2000, "/after");
    c.deliver_all();
    c.assert_everywhere("/after", true);
    c.assert_agreement();
}

#[test]
fn when_the_leader_is_lost_observers_find_followers_of_the_next() {
    let mut c = five();
    let session = c.open_session(5);
    c.kill(3);
    c.run(8);
    assert_eq!(c.leader(), 2);
    assert_eq!((master(&c, 4), master(&c, 5)), (1, 1));
    let again = c.open_session(4);
    c.create(4, again, 1, "/after");
    c.create(5, session, 1, "/moved_session");
    c.deliver_all();
    c.assert_everywhere("/after", true);
    c.assert_agreement();
}

/// With one follower left that is not there, it tries again and again; the leader's own port is not for it.
#[test]
fn without_any_follower_that_serves_it_an_observer_serves_nobody_and_tries_on() {
    let mut c = five();
    let follower = master(&c, 4);
    c.cut.extend([(4, 1), (4, 2), (1, 4), (2, 4)]);
    c.run(60);
    assert_eq!(c.modes()[3], (4, None));
    assert_eq!(observers(&c, follower).unwrap() + observers(&c, 3 - follower).unwrap(), 1, "it was given up");
    c.cut.clear();
    c.run(8);
    assert_eq!(c.modes()[3], (4, Some(Mode::Observing)));
    c.assert_agreement();
}

#[test]
fn an_observer_waits_before_it_looks_for_the_leader_and_before_each_round() {
    let pauses =
        Observing { election_delay_ms: 100 * TICK_MS, reconnect_delay_ms: 100 * TICK_MS, ..Observing::default() };
    let mut c = five_with(pauses, false);
    let before = master(&c, 4);
    let elections = c.elections;
    c.kill(before);
    c.run(3);
    assert!(c.servers[&4].serving.is_none());
    assert_eq!(c.elections, elections, "it waits");
    c.run(2000);
    assert_eq!(master(&c, 4), 3 - before);
    assert!(c.elections > elections);
    c.assert_agreement();
}

#[test]
fn a_follower_is_not_served_where_observers_are_and_nonsense_ends_the_link_alone() {
    let mut c = five();
    let id = 1000;
    let link = |learner, leader| Link {
        learner,
        leader,
        up: VecDeque::new(),
        down: VecDeque::new(),
        parsed: [BytesMut::new(), BytesMut::new()],
        open: true,
    };
    let info = |kind| {
        let info = crate::proto::quorum::LearnerInfo {
            sid: 9,
            protocol_version: crate::proto::quorum::PROTOCOL_VERSION,
            config_version: 0,
            knows_hand_over: false,
        };
        Packet::with(kind, Zxid::ZERO, info.encode())
    };
    let request = Packet::with(PacketKind::Request, Zxid(-1), &b"short"[..]);
    let stories = [
        vec![info(PacketKind::FollowerInfo)],
        vec![request.clone()],
        vec![info(PacketKind::ObserverInfo), request.clone()],
        vec![
            info(PacketKind::ObserverInfo),
            Packet::with(PacketKind::AckEpoch, Zxid::ZERO, &[255, 255, 255, 255][..]),
            Packet::bare(PacketKind::Ack, Zxid(1 << 32)),
            request,
        ],
    ];
    for (nth, story) in stories.into_iter().enumerate() {
        let id = id + nth as LinkId;
        c.links.insert(id, link(4, 1));
        c.event(1, Event::LearnerConnected(id));
        let last = story.len() - 1;
        for (step, packet) in story.into_iter().enumerate() {
            assert!(c.links[&id].open, "story {nth}, step {step}");
            c.event(1, Event::Packet(id, packet));
        }
        assert!(!c.links[&id].open, "story {nth}, after step {last}");
        c.links.remove(&id);
    }
    c.run(2);
    assert_eq!(c.modes()[0], (1, Some(Mode::Following)));
    assert_eq!(c.leader(), 3);
}

/// The configuration reaches observers through their masters (INFORMANDACTIVATE), and whoever is promoted follows.
#[test]
fn an_observer_behind_a_follower_becomes_a_participant_by_a_reconfiguration() {
    let mut c = five_with(Observing::default(), true);
    let session = c.open_session(4);
    let outcome = c.reconfigure(4, session, 1, "server.4=h:7:8:participant;2181", "");
    assert!(matches!(outcome, Some(Outcome::Reconfigured { .. })), "{outcome:?}");
    let version = c.view.current().version();
    c.run(8);
    assert_eq!(c.modes()[3], (4, Some(Mode::Following)));
    assert_eq!(master(&c, 4), 3);
    assert_eq!(c.modes()[4], (5, Some(Mode::Observing)));
    let fifth = c.servers[&5].peer.as_ref().unwrap().view().current().version();
    assert_eq!(
        (version, fifth),
        (c.servers[&3].view.current().version(), version),
        "it is in force with observers too"
    );
    assert!(version > 0);
    c.assert_agreement();
}
