//! The leader's side of discovery, synchronisation and broadcast.
//!
//! ```text
//! Discovery ──quorum of FOLLOWERINFO──> saving the accepted epoch ──> EpochAcks ──quorum of ACKEPOCH──>
//!   saving the current epoch ──> NewLeaderAcks ──quorum of ACK(epoch, 0)──> Broadcast
//! ```
//!
//! A learner goes the same way by itself, and joins whatever phase the leader is in. It hears of every proposal from the
//! moment on at which its history was fixed, that is, when its synchronisation was put together.
//!
//! Acknowledgements are counted cumulatively: links are FIFO and learners acknowledge in order, so the highest says all.
//! The leader's own is one of them, and comes from its own flush.
//!
//! # Reconfiguration
//!
//! A transaction that brings another configuration, and all that is proposed behind it, needs a quorum of the old and of the
//! new. What came before it needs the old alone. When both have it, the new configuration is first made durable here, and
//! then the transaction is committed with COMMITANDACTIVATE, which names the leader to come: this server, if it is a
//! participant at the same address, or else the new participant that has come furthest. In that case this leader commits
//! nothing more, waits until its followers have left it, and ends.
//!
//! Source: `Leader.java`, `LearnerHandler.java`; Zab phases 1 to 3.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::effect::{self, Effect, Epochs, LinkId, Reason, Settings, StoredDiff};
use super::history::{History, Plan, StoredLog};
use super::quorum::{PeerAddress, QuorumVerifier, QuorumView};
use super::reconfig;
use crate::jute::Write as _;
use crate::planted::{self, Bug};
use crate::proto::ErrorCode;
use crate::proto::op::{OpCode, ReconfigRequest, WriteOp};
use crate::proto::quorum::{self, ForwardedRequest, HandOver, LearnerInfo, OP_CREATE_SESSION, Packet, PacketKind};
use crate::request::pipeline::{Answer, Ask, WriteRequest};
use crate::types::{CnxnId, Epoch, Instant, ServerId, Zxid};

/// What a leader gives to learners.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    /// The newest committed transactions.
    pub history: &'a History,
    /// The last transaction in the state that a snapshot would be made of; the rest of the history follows it.
    pub visible: Zxid,
    /// What the log on disk can give, if anything.
    pub stored: Option<StoredLog>,
}

/// What a step of the leader leads to.
#[derive(Default, Debug)]
pub struct Out {
    /// For the driver.
    pub effects: Vec<Effect>,
    /// For the pipeline, in the name of learners.
    pub asks: Vec<Ask>,
    /// Learners that get a snapshot of what is committed, at this place among the effects.
    pub snapshots: Vec<(usize, LinkId)>,
    /// How many learners are brought up to date without one.
    pub diffs: u64,
    /// The leader has its quorum and serves.
    pub established: bool,
    /// Configurations to be made durable, before [`Leader::config_saved`].
    pub view: Option<QuorumView>,
    /// The leader gives up.
    pub failed: Option<Reason>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// Which epoch is to come: above all that a quorum has accepted.
    Discovery { heard: BTreeSet<ServerId> },
    /// The accepted epoch is being made durable.
    SavingAccepted,
    /// The epoch is announced; who follows it?
    EpochAcks { acked: BTreeSet<ServerId> },
    /// The current epoch is being made durable.
    SavingCurrent,
    /// Learners take over the history.
    NewLeaderAcks,
    /// The history is a quorum's, and with it a configuration that was only proposed: that is being made durable.
    SavingConfig,
    /// The history is a quorum's: transactions are proposed.
    Broadcast,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It has said nothing yet.
    Connected,
    /// Its accepted epoch is known.
    WaitsForEpoch,
    /// LEADERINFO is out.
    Asked,
    /// Its history is known, and what it lacks is sent as soon as there is a history to give.
    WaitsForHistory { last: Zxid },
    /// NEWLEADER is out.
    Syncing,
    /// It has the history, and waits for others.
    Synced,
    /// UPTODATE is out.
    Serving,
}

/// How far a reconfiguration has come that this leader has proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    /// Quorums have not got it yet, or there is none.
    Proposed,
    /// Both quorums have it, and it is being made durable here.
    Saving,
    /// It may be committed.
    Saved,
}

/// Another server is to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Resigned {
    /// Who; `None` leaves it to an election.
    successor: Option<ServerId>,
    /// When the followers must have left; set at the next tick.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Learner {
    sid: ServerId,
    observer: bool,
    stage: Stage,
    /// It must be heard of before.
    deadline: Instant,
    /// The oldest proposal that it has not acknowledged, and since when.
    unacked: Option<(Zxid, Instant)>,
    /// The last committed transaction of its synchronisation: it has that once it acknowledges the history.
    given: Zxid,
    /// Whether a hand-over may be sent to it.
    knows_hand_over: bool,
}

/// See the module.
pub struct Leader {
    settings: Settings,
    view: QuorumView,
    epochs: Epochs,
    /// The current epoch and the last transaction with which it was elected.
    started_with: (Epoch, Zxid),
    epoch: Epoch,
    phase: Phase,
    /// The present phase must be over before.
    deadline: Instant,
    learners: BTreeMap<LinkId, Learner>,
    /// Who has the history of this epoch durable.
    synced: BTreeSet<ServerId>,
    /// Up to where each server has the proposals durable, itself too.
    acked: BTreeMap<ServerId, Zxid>,
    /// Proposed and not committed.
    outstanding: VecDeque<(Zxid, Bytes)>,
    /// The oldest proposal that its own log has not taken in yet, as far as the last look shows, and when that was.
    unflushed: Option<(Zxid, Instant)>,
    last_proposed: Zxid,
    /// Bytes of the last proposal, the smallest and the largest.
    proposal_bytes: Option<[usize; 3]>,
    committed: Zxid,
    next_ping: Instant,
    /// Every second ping is a tick.
    is_tick: bool,
    /// Of the pending configuration.
    change: Change,
    resigned: Option<Resigned>,
}

impl Leader {
    /// A leader that was just elected, with a history that ends at `last`, all of it durable.
    pub fn new(
        settings: Settings,
        view: QuorumView,
        epochs: Epochs,
        last: Zxid,
        now: Instant,
        out: &mut Out,
    ) -> Leader {
        let mut leader = Leader {
            settings,
            view,
            epochs,
            started_with: (epochs.current, last),
            epoch: if planted::is(Bug::EpochReused) { epochs.accepted } else { epochs.accepted.next() },
            phase: Phase::Discovery { heard: BTreeSet::from([settings.id]) },
            deadline: now.after_ms(settings.init_ms()),
            learners: BTreeMap::new(),
            synced: BTreeSet::new(),
            acked: BTreeMap::new(),
            outstanding: VecDeque::new(),
            unflushed: None,
            last_proposed: last,
            proposal_bytes: None,
            committed: last,
            next_ping: now.after_ms(settings.tick_ms / 2),
            is_tick: false,
            change: Change::Proposed,
            resigned: None,
        };
        leader.end_discovery_with_quorum(out);
        leader
    }

    /// The epoch that it leads, or will.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether a quorum has accepted its epoch.
    pub fn has_epoch(&self) -> bool {
        !matches!(self.phase, Phase::Discovery { .. } | Phase::SavingAccepted | Phase::EpochAcks { .. })
    }

    /// Whether transactions are proposed.
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Broadcast && self.resigned.is_none_or(|resigned| resigned.successor.is_some())
    }

    /// Whether another server is to lead: no request is of any use here.
    pub fn has_resigned(&self) -> bool {
        self.resigned.is_some()
    }

    /// Whether it has resigned and the followers know.
    pub fn is_deserted(&self) -> bool {
        self.has_resigned() && self.learners.values().all(|learner| learner.observer)
    }

    /// The server that is to lead by the last reconfiguration, and its zxid, if it is another.
    pub fn appointed(&self) -> Option<(ServerId, Zxid)> {
        let zxid = Zxid(self.view.current().version());
        self.resigned.and_then(|resigned| resigned.successor).map(|successor| (successor, zxid))
    }

    /// The configurations that it knows.
    pub fn view(&self) -> &QuorumView {
        &self.view
    }

    /// The configuration that a client asks for, if it can be had. `zxid` is that of its transaction.
    ///
    /// Errors: see [`reconfig::next`].
    pub fn next_config(&self, request: &ReconfigRequest, zxid: Zxid) -> Result<QuorumVerifier, ErrorCode> {
        reconfig::next(&self.view, request, zxid, self.settings.participants_min, &self.heard())
    }

    /// A transaction that brings this configuration is about to be proposed.
    pub fn reconfigure(&mut self, config: QuorumVerifier) {
        self.view.see(config);
        self.change = Change::Proposed;
    }

    /// The last proposed transaction.
    pub fn last_proposed(&self) -> Zxid {
        self.last_proposed
    }

    /// The last committed transaction.
    pub fn committed(&self) -> Zxid {
        self.committed
    }

    /// Learners that serve: followers, observers.
    pub fn serving(&self) -> (usize, usize) {
        let serving = self.learners.values().filter(|learner| learner.stage == Stage::Serving);
        let observers = serving.clone().filter(|learner| learner.observer).count();
        (serving.count() - observers, observers)
    }

    /// The observers among them.
    pub fn observers(&self) -> Vec<(ServerId, LinkId)> {
        let serving = self.learners.iter().filter(|(_, learner)| learner.stage == Stage::Serving && learner.observer);
        serving.map(|(link, learner)| (learner.sid, *link)).collect()
    }

    /// Followers among them that do not vote.
    pub fn non_voting(&self) -> usize {
        let is_one = |learner: &&Learner| {
            learner.stage == Stage::Serving && !learner.observer && !self.view.current().is_voter(learner.sid)
        };
        self.learners.values().filter(is_one).count()
    }

    /// Bytes of the last proposal, the smallest and the largest, since it leads.
    pub fn proposal_bytes(&self) -> Option<[usize; 3]> {
        self.proposal_bytes
    }

    /// Whether this server has connected.
    pub fn has_learner(&self, sid: ServerId) -> bool {
        self.learners.values().any(|learner| learner.sid == sid)
    }

    /// All links, to be closed when the role ends.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.learners.keys().copied()
    }

    /// Ends the role: what was proposed and not committed, in order.
    pub fn into_outstanding(self) -> VecDeque<(Zxid, Bytes)> {
        self.outstanding
    }

    /// A learner has connected.
    pub fn connected(&mut self, now: Instant, link: LinkId) {
        let deadline = now.after_ms(self.settings.init_ms());
        let nobody = ServerId::NOBODY;
        let learner = Learner {
            sid: nobody,
            observer: true,
            stage: Stage::Connected,
            deadline,
            unacked: None,
            given: Zxid::ZERO,
            knows_hand_over: false,
        };
        self.learners.insert(link, learner);
    }

    /// A link is gone.
    pub fn lost(&mut self, link: LinkId) {
        self.learners.remove(&link);
    }

    /// A packet has come.
    pub fn received(&mut self, now: Instant, link: LinkId, packet: &Packet, past: Past<'_>, out: &mut Out) {
        let Some(learner) = self.learners.get_mut(&link) else { return };
        if matches!(learner.stage, Stage::Synced | Stage::Serving) {
            learner.deadline = now.after_ms(self.settings.sync_ms());
        }
        let result = match (learner.stage, packet.kind) {
            (Stage::Connected, PacketKind::FollowerInfo | PacketKind::ObserverInfo) => {
                self.on_learner_info(link, packet, out)
            }
            (Stage::Asked, PacketKind::AckEpoch) => self.on_ack_epoch(now, link, packet, past, out),
            (Stage::Syncing | Stage::Synced | Stage::Serving, PacketKind::Ack) => {
                self.on_ack(now, link, packet.zxid, out);
                Ok(())
            }
            (Stage::Synced | Stage::Serving, PacketKind::Ping) => {
                let touched = quorum::decode_touches(packet.data.as_deref().unwrap_or_default());
                let touched: Vec<_> = touched.into_iter().map(|(session, _)| (session, now)).collect();
                if !touched.is_empty() && !planted::is(Bug::TouchesLost) {
                    out.asks.push(Ask::Touch(touched));
                }
                Ok(())
            }
            (Stage::Serving, PacketKind::Revalidate) => Self::on_revalidate(link, packet, out),
            (Stage::Serving, PacketKind::Request) => Self::on_request(link, packet, out),
            (stage, kind) => Err(format!("it sent {kind:?} at stage {stage:?}")),
        };
        if let Err(why) = result {
            self.refuse(link, why, out);
        }
    }

    /// The epochs of the last [`Effect::SaveEpochs`] are durable.
    pub fn epochs_saved(&mut self, now: Instant, past: Past<'_>, out: &mut Out) {
        match self.phase {
            Phase::SavingAccepted => {
                let current = self.view.current();
                if self.settings.reconfig && current.version() == 0 && self.view.pending().is_none() {
                    // It takes precedence over configurations that nobody has agreed on, as a joining server's
                    // (ZOOKEEPER-1783).
                    let named = (**current).clone().with_version(self.epoch.zxid().0);
                    self.view.see(named);
                    out.view = Some(self.view.clone());
                }
                self.phase = Phase::EpochAcks { acked: BTreeSet::from([self.settings.id]) };
                self.deadline = now.after_ms(self.settings.init_ms());
                let waiting: Vec<LinkId> = self.at_stage(|stage| stage == Stage::WaitsForEpoch).collect();
                for link in waiting {
                    self.announce_epoch(link, out);
                }
                self.end_epoch_acks_with_quorum(out);
            }
            Phase::SavingCurrent => {
                self.phase = Phase::NewLeaderAcks;
                self.deadline = now.after_ms(self.settings.init_ms());
                let waiting: Vec<LinkId> =
                    self.at_stage(|stage| matches!(stage, Stage::WaitsForHistory { .. })).collect();
                for link in waiting {
                    self.synchronize(now, link, past, out);
                }
                // What it was elected with is durable.
                self.synced.insert(self.settings.id);
                self.establish_with_quorum(now, out);
            }
            _ => unreachable!("epochs are saved in two phases only, not in {:?}", self.phase),
        }
    }

    /// Proposes transactions, in order.
    pub fn propose(&mut self, now: Instant, proposals: &[(Zxid, Bytes)], out: &mut Out) {
        let payloads: usize = proposals.iter().map(|(_, payload)| payload.len()).sum();
        let mut packets = Vec::with_capacity(payloads + proposals.len() * quorum::PACKET_BYTES_MIN);
        for (zxid, payload) in proposals.iter().cloned() {
            assert!(zxid > self.last_proposed, "{zxid} is proposed after {}", self.last_proposed);
            quorum::put(&mut packets, PacketKind::Proposal, zxid, Some(&payload), &[]);
            let bytes = payload.len();
            let [_, least, most] = self.proposal_bytes.unwrap_or([bytes; 3]);
            self.proposal_bytes = Some([bytes, least.min(bytes), most.max(bytes)]);
            self.outstanding.push_back((zxid, payload));
            self.last_proposed = zxid;
        }
        if packets.is_empty() {
            return;
        }
        let packets = Bytes::from(packets);
        for (link, learner) in &mut self.learners {
            if !learner.observer && learner.is_forwarded_to() {
                // One that still takes over the history acknowledges nothing before it has it.
                if learner.stage != Stage::Syncing {
                    learner.unacked.get_or_insert((self.last_proposed, now));
                }
                out.effects.push(Effect::Send(*link, packets.clone()));
            }
        }
    }

    /// Whether its own log has stood still for too long, and the others can do without it: then they are better led by one of
    /// themselves. Where they cannot, giving up would help nobody.
    fn is_sick(&mut self, now: Instant) -> bool {
        let durable = self.acked.get(&self.settings.id).copied().unwrap_or(self.started_with.1);
        let is_waited_for = |(oldest, _): &(Zxid, Instant)| durable < *oldest;
        self.unflushed = match self.unflushed.filter(is_waited_for) {
            None if durable < self.last_proposed => Some((self.last_proposed, now)),
            unflushed => unflushed,
        };
        let sync_ms = self.settings.sync_ms();
        let others = self.learners.values().filter(|learner| !learner.observer && learner.stage == Stage::Serving);
        let others: BTreeSet<ServerId> = others.map(|learner| learner.sid).collect();
        self.unflushed.is_some_and(|(_, since)| now.since_ms(since) > sync_ms) && self.view.contains_quorum(&others)
    }

    /// Its own log is durable up to `zxid`.
    pub fn durable(&mut self, zxid: Zxid) {
        self.acked.insert(self.settings.id, zxid);
    }

    /// The configurations of the last [`Out::view`] are durable.
    pub fn config_saved(&mut self, now: Instant, out: &mut Out) {
        if self.change == Change::Saving {
            self.change = Change::Saved;
        }
        if self.phase == Phase::SavingConfig {
            let leads = self.leads_next();
            self.activate();
            if !leads {
                self.resigned = Some(Resigned { successor: None, until: None });
            }
            self.establish(now, out);
        }
    }

    /// Commits what a quorum has. Returns the last committed transaction, if it has moved on.
    pub fn commit(&mut self, history: &mut History, out: &mut Out) -> Option<Zxid> {
        if self.phase != Phase::Broadcast || self.has_resigned() {
            return None;
        }
        let before = self.committed;
        if let Some(pending) = self.view.pending().map(Arc::clone) {
            let change = Zxid(pending.version());
            let by_old = self.agreed(|holders| self.view.current().contains_quorum(holders));
            self.commit_up_to(by_old.min(Zxid(change.0 - 1)), history, out);
            if self.agreed(|holders| self.view.contains_quorum(holders)) < change {
                return (self.committed > before).then_some(self.committed);
            }
            match self.change {
                Change::Proposed => {
                    self.change = Change::Saving;
                    let mut view = self.view.clone();
                    view.activate((*pending).clone());
                    out.view = Some(view);
                }
                Change::Saving => {}
                Change::Saved => self.commit_change(change, history, out),
            }
        }
        if self.view.pending().is_none() && !self.has_resigned() {
            let zxid = self.agreed(|holders| self.view.current().contains_quorum(holders));
            self.commit_up_to(zxid, history, out);
        }
        (self.committed > before).then_some(self.committed)
    }

    /// The last transaction that a quorum has durable; the last committed one if none behind it is.
    fn agreed(&self, is_quorum: impl Fn(&BTreeSet<ServerId>) -> bool) -> Zxid {
        let mut candidates: Vec<Zxid> = self.acked.values().copied().filter(|acked| *acked > self.committed).collect();
        candidates.sort_unstable();
        let has_quorum =
            |zxid: &Zxid| is_quorum(&self.holders(*zxid).collect()) || planted::is(Bug::CommitWithoutQuorum);
        candidates.into_iter().rev().find(has_quorum).unwrap_or(self.committed)
    }

    /// Who has a transaction durable.
    fn holders(&self, zxid: Zxid) -> impl Iterator<Item = ServerId> {
        self.acked.iter().filter(move |(_, acked)| **acked >= zxid).map(|(sid, _)| *sid)
    }

    fn commit_up_to(&mut self, zxid: Zxid, history: &mut History, out: &mut Out) {
        let (mut commits, mut informs) = (Vec::new(), Vec::new());
        let followers = self.learners.values().any(|learner| learner.is_forwarded_to() && !learner.observer);
        let observers = self.learners.values().any(|learner| learner.is_forwarded_to() && learner.observer);
        while let Some((next, _)) = self.outstanding.front()
            && *next <= zxid
        {
            let (next, payload) = self.outstanding.pop_front().expect("looked at just now");
            if followers {
                quorum::put(&mut commits, PacketKind::Commit, next, None, &[]);
            }
            if observers {
                quorum::put(&mut informs, PacketKind::Inform, next, Some(&payload), &[]);
            }
            history.push(next, payload);
            self.committed = next;
        }
        self.send_commits(commits, informs, out);
    }

    /// Commits the oldest outstanding transaction, which brings another configuration, and puts that in force.
    fn commit_change(&mut self, zxid: Zxid, history: &mut History, out: &mut Out) {
        let (oldest, payload) = self.outstanding.pop_front().expect("it was proposed");
        assert_eq!(oldest, zxid, "what came before it is committed");
        let leader = self.next_leader(zxid);
        self.activate();
        self.change = Change::Proposed;
        let mut data = Vec::with_capacity(8 + payload.len());
        data.put_long(leader.0);
        let (mut commits, mut informs) = (Vec::new(), Vec::new());
        quorum::put(&mut commits, PacketKind::CommitAndActivate, zxid, Some(&data), &[]);
        data.extend_from_slice(&payload);
        quorum::put(&mut informs, PacketKind::InformAndActivate, zxid, Some(&data), &[]);
        self.send_commits(commits, informs, out);
        history.push(zxid, payload);
        self.committed = zxid;
        if leader != self.settings.id {
            self.resigned = Some(Resigned { successor: Some(leader), until: None });
        }
    }

    fn send_commits(&self, commits: Vec<u8>, informs: Vec<u8>, out: &mut Out) {
        let (commits, informs) = (Bytes::from(commits), Bytes::from(informs));
        for (link, learner) in self.learners.iter().filter(|(_, learner)| learner.is_forwarded_to()) {
            let packets = if learner.observer { &informs } else { &commits };
            if !packets.is_empty() {
                out.effects.push(Effect::Send(*link, packets.clone()));
            }
        }
    }

    fn activate(&mut self) {
        if let Some(pending) = self.view.pending() {
            let config = (**pending).clone();
            self.view.activate(config);
        }
    }

    /// Whether this server still leads when the pending configuration is in force: as a participant at the same address.
    fn leads_next(&self) -> bool {
        let addresses = |config: &QuorumVerifier| {
            let me = config.member(self.settings.id).filter(|me| me.votes())?;
            Some(me.addresses.iter().map(PeerAddress::quorum).collect::<BTreeSet<_>>())
        };
        let next = addresses(self.view.last_seen());
        next.is_some() && next == addresses(self.view.current())
    }

    /// Who is to lead when the pending configuration, which came with the transaction `zxid`, is in force.
    fn next_leader(&self, zxid: Zxid) -> ServerId {
        if self.leads_next() {
            return self.settings.id;
        }
        let config = self.view.last_seen();
        let may_lead = |sid: &ServerId| *sid != self.settings.id && config.is_voter(*sid) && config.weight(*sid) > 0;
        let candidates = self.holders(zxid).filter(may_lead);
        // The furthest of those that are there.
        let best = candidates.max_by_key(|sid| (self.has_learner(*sid), self.acked[sid], std::cmp::Reverse(*sid)));
        // Without anybody else it goes on under its new address.
        best.unwrap_or(self.settings.id)
    }

    /// Who has the history of this epoch and is there, this server included.
    fn heard(&self) -> BTreeSet<ServerId> {
        let followers = self.learners.values().filter(|learner| !learner.observer);
        let heard = followers.filter(|learner| matches!(learner.stage, Stage::Synced | Stage::Serving));
        heard.map(|learner| learner.sid).chain([self.settings.id]).collect()
    }

    /// Whether enough of its followers know what a hand-over is, so that one may come about.
    pub fn may_hand_over(&self) -> bool {
        self.view.contains_quorum(&self.heirs().map(|learner| learner.sid).collect())
    }

    /// Who is to lead next, if this server stops now: a follower that has everything. There is none while something is
    /// proposed and not committed, or if those that can be told are no quorum without this server: the others would look
    /// for a leader among themselves, and the successor wait for them in vain.
    pub fn successor(&self) -> Option<HandOver> {
        let changes = self.view.pending().is_some() || self.has_resigned();
        if changes || !self.outstanding.is_empty() || !self.may_hand_over() {
            return None;
        }
        let has_all = |sid: &ServerId| self.acked.get(sid).is_some_and(|acked| *acked >= self.last_proposed);
        let is_electable = |sid: &ServerId| self.view.current().weight(*sid) > 0;
        let supporters: BTreeSet<ServerId> = self.heirs().map(|learner| learner.sid).collect();
        // Whom an election would prefer.
        let successor = supporters.iter().copied().filter(|sid| has_all(sid) && is_electable(sid)).max()?;
        Some(HandOver { successor, supporters })
    }

    /// Tells everybody who can understand it who leads next: observers too, which then need not look for it.
    pub fn hand_over(&self, hand_over: &HandOver, out: &mut Out) {
        let packet = Packet::with(PacketKind::HandOver, self.committed, hand_over.encode());
        let serving = self.learners.iter().filter(|(_, learner)| learner.stage == Stage::Serving);
        for (link, _) in serving.filter(|(_, learner)| learner.knows_hand_over) {
            send(*link, &packet, out);
        }
    }

    /// Participants that can be told of a hand-over.
    fn heirs(&self) -> impl Iterator<Item = &Learner> {
        let is_heir = |learner: &&Learner| {
            learner.stage == Stage::Serving && learner.knows_hand_over && self.view.current().is_voter(learner.sid)
        };
        self.learners.values().filter(is_heir)
    }

    /// Tells a learner what the pipeline has answered it.
    pub fn answer(&self, answer: &Answer, out: &mut Out) {
        if let Some((link, packet)) = effect::packet_of_answer(answer)
            && self.learners.contains_key(&link)
        {
            out.effects.push(Effect::packet(link, &packet));
        }
    }

    /// Does what time brings. To be called several times a tick.
    pub fn tick(&mut self, now: Instant, out: &mut Out) {
        if self.phase != Phase::Broadcast && now > self.deadline {
            let phase = &self.phase;
            out.failed = Some(format!("no quorum within {} ms: {phase:?}", self.settings.init_ms()));
            return;
        }
        let sync_ms = self.settings.sync_ms();
        let late = |learner: &Learner| {
            now > learner.deadline || learner.unacked.is_some_and(|(_, since)| now.since_ms(since) > sync_ms)
        };
        let late: Vec<LinkId> =
            self.learners.iter().filter(|(_, learner)| late(learner)).map(|(link, _)| *link).collect();
        for link in late {
            self.refuse(link, "it was not heard of in time".to_owned(), out);
        }
        if let Some(resigned) = &mut self.resigned
            && now > *resigned.until.get_or_insert(now.after_ms(sync_ms))
        {
            out.failed = Some("another server is to lead".to_owned());
            return;
        }
        if now < self.next_ping {
            return;
        }
        self.next_ping = now.after_ms(self.settings.tick_ms / 2);
        let ping = Packet::bare(PacketKind::Ping, self.last_proposed);
        for link in self.at_stage(|stage| matches!(stage, Stage::Synced | Stage::Serving)) {
            send(link, &ping, out);
        }
        if self.phase == Phase::Broadcast && self.is_sick(now) {
            out.failed = Some(format!("its own log takes nothing in any more, since {sync_ms} ms at least"));
            return;
        }
        self.is_tick = !self.is_tick;
        if self.is_tick && self.phase == Phase::Broadcast {
            let heard = self.heard();
            if !self.view.contains_quorum(&heard) && !planted::is(Bug::LonelyLeaderStays) {
                out.failed = Some(format!("not sufficient followers synced, only synced with sids: {heard:?}"));
            }
        }
    }

    fn on_learner_info(&mut self, link: LinkId, packet: &Packet, out: &mut Out) -> Result<(), Reason> {
        let info = LearnerInfo::decode(packet.data.as_deref().unwrap_or_default())
            .map_err(|error| format!("its first packet cannot be read: {error}"))?;
        if info.protocol_version < quorum::PROTOCOL_VERSION {
            return Err(format!("it speaks version {:x} of the protocol", info.protocol_version));
        }
        if self.has_resigned() {
            return Err("another server is to lead".to_owned());
        }
        if info.config_version > self.view.current().version() {
            return Err(format!("it knows a newer configuration, version {:x}", info.config_version));
        }
        let sid = ServerId(info.sid);
        if sid == self.settings.id {
            // Its acknowledgements would count as this server's own.
            return Err("it has the id of this server: is myid the same on two servers?".to_owned());
        }
        let observer = packet.kind == PacketKind::ObserverInfo;
        // The same server again: its old connection is of no use any more.
        let old: Vec<LinkId> = self.learners.iter().filter(|(_, old)| old.sid == sid).map(|(link, _)| *link).collect();
        for old in old {
            self.refuse(old, "the same server has connected again".to_owned(), out);
        }
        let learner = self.learners.get_mut(&link).expect("looked up by the caller");
        (learner.sid, learner.observer, learner.stage) = (sid, observer, Stage::WaitsForEpoch);
        learner.knows_hand_over = info.knows_hand_over;
        let accepted = Epoch(packet.zxid.epoch());
        if accepted >= Epoch::MAX {
            return Err(format!("it has accepted {accepted}, which is no epoch: no ensemble comes so far"));
        }
        match &mut self.phase {
            Phase::Discovery { heard } => {
                if accepted >= self.epoch && !planted::is(Bug::EpochReused) {
                    self.epoch = accepted.next();
                }
                if !observer && self.view.current().is_voter(sid) {
                    heard.insert(sid);
                }
                self.end_discovery_with_quorum(out);
            }
            Phase::SavingAccepted => {}
            Phase::Broadcast if accepted > self.epoch && self.view.current().member(sid).is_some() => {
                self.make_room_for_epoch(accepted, sid, out);
            }
            _ => self.announce_epoch(link, out),
        }
        Ok(())
    }

    /// A member of the ensemble has promised to follow no leader of this epoch. It may have been the only one to hear of a
    /// later one that came to nothing, or its file is damaged: nobody can tell, and to follow would break the promise. So
    /// there is an election, and this server makes the promise its own before. Should the next leader's quorum have heard of
    /// neither, it does the same, until so many have promised that each quorum has. Apache's server stays out meanwhile.
    fn make_room_for_epoch(&mut self, accepted: Epoch, sid: ServerId, out: &mut Out) {
        self.epochs.accepted = accepted;
        out.effects.push(Effect::SaveEpochs(self.epochs));
        let epoch = self.epoch;
        out.failed =
            Some(format!("server {sid} has promised to follow no leader before epoch {accepted}, and this is {epoch}"));
    }

    fn end_discovery_with_quorum(&mut self, out: &mut Out) {
        let Phase::Discovery { heard } = &self.phase else { return };
        if self.view.current().contains_quorum(heard) {
            self.phase = Phase::SavingAccepted;
            self.epochs.accepted = self.epoch;
            out.effects.push(Effect::SaveEpochs(self.epochs));
        }
    }

    fn announce_epoch(&mut self, link: LinkId, out: &mut Out) {
        let mut version = Vec::with_capacity(4);
        version.put_int(quorum::PROTOCOL_VERSION);
        send(link, &Packet::with(PacketKind::LeaderInfo, self.epoch.zxid(), version), out);
        self.learner(link).stage = Stage::Asked;
    }

    fn on_ack_epoch(
        &mut self,
        now: Instant,
        link: LinkId,
        packet: &Packet,
        past: Past<'_>,
        out: &mut Out,
    ) -> Result<(), Reason> {
        let data = packet.data.as_deref().and_then(|data| data.first_chunk::<4>());
        let current = i32::from_be_bytes(*data.ok_or("its ACKEPOCH has no epoch")?);
        let last = packet.zxid;
        // -1: it follows this epoch already, and does not count.
        let acks = current != -1 && last != Zxid(-1);
        // Once a quorum has accepted the epoch, whatever somebody else has beyond it was never committed: it is cut.
        let is_undecided = matches!(self.phase, Phase::EpochAcks { .. });
        let knows_more = (Epoch(current as u32), last) > self.started_with;
        if acks && is_undecided && knows_more && !planted::is(Bug::VoteIgnoresLog) {
            let (epoch, zxid) = self.started_with;
            return Err(format!("follower is ahead of the leader: epoch {current:x}, {last}; mine {epoch}, {zxid}"));
        }
        let learner = self.learner(link);
        learner.stage = Stage::WaitsForHistory { last };
        let (sid, observer) = (learner.sid, learner.observer);
        match &mut self.phase {
            Phase::EpochAcks { acked } => {
                if acks && !observer && self.view.current().is_voter(sid) {
                    acked.insert(sid);
                }
                self.end_epoch_acks_with_quorum(out);
            }
            Phase::NewLeaderAcks | Phase::SavingConfig | Phase::Broadcast => self.synchronize(now, link, past, out),
            Phase::SavingCurrent => {}
            Phase::Discovery { .. } | Phase::SavingAccepted => unreachable!("the epoch is not announced yet"),
        }
        Ok(())
    }

    fn end_epoch_acks_with_quorum(&mut self, out: &mut Out) {
        let Phase::EpochAcks { acked } = &self.phase else { return };
        if self.view.current().contains_quorum(acked) {
            self.phase = Phase::SavingCurrent;
            self.epochs.current = self.epoch;
            out.effects.push(Effect::SaveEpochs(self.epochs));
        }
    }

    /// Sends what the learner lacks, and takes it into the audience of all proposals from here on.
    fn synchronize(&mut self, now: Instant, link: LinkId, past: Past<'_>, out: &mut Out) {
        let newest = self.committed;
        let deadline = now.after_ms(self.settings.init_ms());
        let learner = self.learner(link);
        let Stage::WaitsForHistory { last } = learner.stage else { unreachable!("at {:?}", learner.stage) };
        let (sid, observer) = (learner.sid, learner.observer);
        learner.stage = Stage::Syncing;
        learner.deadline = deadline;
        learner.given = newest;
        // What it had acknowledged on an earlier connection is taken away again, by TRUNC or SNAP, if it is not committed
        // yet: it counts once it is acknowledged anew.
        if let Some(acked) = self.acked.get_mut(&sid) {
            *acked = newest.min(*acked);
        }
        let Past { history, visible, stored } = past;
        let plan = history.plan_with(stored, last);
        tracing::info!(
            "Synchronizing with Learner sid: {} peerLastZxid={last} lastProcessedZxid={newest}: {plan}",
            sid.0
        );
        let mut packets = Vec::new();
        let from = match plan {
            Plan::Diff { from } => {
                out.diffs += 1;
                quorum::put(&mut packets, PacketKind::Diff, newest, None, &[]);
                from
            }
            Plan::Trunc { to, from } => {
                out.diffs += 1;
                quorum::put(&mut packets, PacketKind::Trunc, to, None, &[]);
                from
            }
            Plan::Stored { through } => {
                out.diffs += 1;
                quorum::put(&mut packets, PacketKind::Diff, newest, None, &[]);
                let packet = std::mem::take(&mut packets).into();
                out.effects.push(Effect::SendLog(link, StoredDiff { packet, after: last, through }));
                0
            }
            Plan::Snap => {
                let Plan::Diff { from } = history.plan(visible) else {
                    return self.refuse(link, format!("what came after {visible} is forgotten already"), out);
                };
                quorum::put(&mut packets, PacketKind::Snap, visible, None, &[]);
                out.effects.push(Effect::Send(link, std::mem::take(&mut packets).into()));
                out.snapshots.push((out.effects.len(), link));
                from
            }
        };
        for (zxid, payload) in history.from(from) {
            quorum::put_committed(&mut packets, *zxid, payload);
        }
        // A configuration that comes with an outstanding transaction must not be in force with UPTODATE. It comes behind
        // NEWLEADER, where Apache sends it with both.
        let changing = self.phase == Phase::Broadcast && self.view.pending().is_some();
        let outstanding = |packets: &mut Vec<u8>| {
            for (zxid, payload) in self.outstanding.iter().filter(|_| !observer) {
                quorum::put(packets, PacketKind::Proposal, *zxid, Some(payload), &[]);
            }
        };
        if !changing {
            outstanding(&mut packets);
        }
        let config = if changing { self.view.current() } else { self.view.last_seen() }.to_string();
        quorum::put(&mut packets, PacketKind::NewLeader, self.epoch.zxid(), Some(config.as_bytes()), &[]);
        if changing {
            outstanding(&mut packets);
        }
        out.effects.push(Effect::Send(link, packets.into()));
    }

    fn on_ack(&mut self, now: Instant, link: LinkId, zxid: Zxid, out: &mut Out) {
        let (last_proposed, epoch) = (self.last_proposed, self.epoch);
        let (sync_ms, establishing) = (self.settings.sync_ms(), self.phase == Phase::NewLeaderAcks);
        let learner = self.learner(link);
        let sid = learner.sid;
        if zxid.counter() == 0 {
            // The acknowledgement of the history; a second one follows UPTODATE.
            if learner.stage == Stage::Syncing && zxid == epoch.zxid() {
                learner.stage = Stage::Synced;
                learner.deadline = now.after_ms(sync_ms);
                let (follower, given) = (!learner.observer, learner.given);
                if follower {
                    self.synced.insert(sid);
                    let acked = self.acked.entry(sid).or_default();
                    *acked = given.max(*acked);
                }
                if establishing {
                    self.establish_with_quorum(now, out);
                } else {
                    self.bring_up_to_date(link, now, out);
                }
            }
            return;
        }
        if learner.observer || zxid > last_proposed {
            return;
        }
        // Some learners acknowledge proposals before the history (ZOOKEEPER-4685): it counts, because it is durable there.
        if learner.unacked.is_some_and(|(oldest, _)| oldest <= zxid) {
            learner.unacked = (zxid < last_proposed).then_some((last_proposed, now));
        }
        let acked = self.acked.entry(sid).or_default();
        *acked = zxid.max(*acked);
    }

    fn establish_with_quorum(&mut self, now: Instant, out: &mut Out) {
        let has_quorum = self.view.contains_quorum(&self.synced) || planted::is(Bug::LeaderBeforeQuorumHasHistory);
        if self.phase != Phase::NewLeaderAcks || !has_quorum {
            return;
        }
        if self.view.pending().is_some() {
            // An earlier leader's, or the first one's name: this leader completes it.
            self.phase = Phase::SavingConfig;
            let mut view = self.view.clone();
            view.activate((**self.view.last_seen()).clone());
            out.view = Some(view);
            return;
        }
        self.establish(now, out);
    }

    fn establish(&mut self, now: Instant, out: &mut Out) {
        self.phase = Phase::Broadcast;
        // The audience of the first check is complete only a tick after this.
        (self.is_tick, self.next_ping) = (true, now.after_ms(self.settings.tick_ms / 2));
        out.established = !self.has_resigned();
        let synced: Vec<LinkId> = self.at_stage(|stage| stage == Stage::Synced).collect();
        for link in synced {
            self.bring_up_to_date(link, now, out);
        }
    }

    fn bring_up_to_date(&mut self, link: LinkId, now: Instant, out: &mut Out) {
        if self.phase != Phase::Broadcast {
            return;
        }
        let deadline = now.after_ms(self.settings.init_ms() + self.settings.sync_ms());
        let oldest = (!self.outstanding.is_empty()).then_some((self.last_proposed, now));
        let learner = self.learner(link);
        learner.unacked = oldest.filter(|_| !learner.observer);
        learner.stage = Stage::Serving;
        learner.deadline = deadline;
        send(link, &Packet::bare(PacketKind::UpToDate, Zxid(-1)), out);
    }

    fn on_revalidate(link: LinkId, packet: &Packet, out: &mut Out) -> Result<(), Reason> {
        let asked = quorum::decode_touches(packet.data.as_deref().unwrap_or_default());
        let [(session, timeout_ms)] = asked[..] else { return Err("its REVALIDATE names no session".to_owned()) };
        out.asks.push(Ask::Revalidate { cnxn: CnxnId::of_learner(link), session, timeout_ms });
        Ok(())
    }

    fn on_request(link: LinkId, packet: &Packet, out: &mut Out) -> Result<(), Reason> {
        let unreadable = |error| format!("its REQUEST cannot be read: {error}");
        let data = packet.data.clone().unwrap_or_default();
        let ForwardedRequest { session, cxid, op, body } = ForwardedRequest::decode(&data).map_err(unreadable)?;
        let cnxn = CnxnId::of_learner(link);
        if op == OP_CREATE_SESSION {
            let timeout = body.first_chunk::<4>().ok_or("its createSession has no timeout")?;
            let timeout_ms = i32::from_be_bytes(*timeout);
            out.asks.push(Ask::OpenSession { cnxn, timeout_ms, session: Some(session) });
            return Ok(());
        }
        match OpCode::from_wire(op) {
            Some(OpCode::Sync) => out.asks.push(Ask::Sync { cnxn, forward: None }),
            Some(op) if op.is_write() || op == OpCode::Check => {
                let op = WriteOp::decode(op, &body, &body);
                let ids = Arc::new(packet.auth.clone());
                out.asks.push(Ask::Write(WriteRequest {
                    cnxn,
                    session,
                    xid: cxid,
                    op,
                    ids,
                    capture: false,
                    forward: None,
                }));
            }
            _ => tracing::warn!(
                "A learner forwarded operation {op} of session {session}, which is not the leader's to do"
            ),
        }
        Ok(())
    }

    /// Ends a link because of what its learner did or did not do.
    fn refuse(&mut self, link: LinkId, why: Reason, out: &mut Out) {
        if let Some(learner) = self.learners.remove(&link) {
            out.effects.push(Effect::Close(link, format!("learner {}: {why}", learner.sid)));
        }
    }

    fn learner(&mut self, link: LinkId) -> &mut Learner {
        self.learners.get_mut(&link).expect("a link of this leader's")
    }

    fn at_stage(&self, is: impl Fn(Stage) -> bool) -> impl Iterator<Item = LinkId> {
        self.learners.iter().filter(move |(_, learner)| is(learner.stage)).map(|(link, _)| *link)
    }
}

impl Learner {
    /// Whether it hears of proposals and commits: from the moment on at which its history was fixed.
    fn is_forwarded_to(&self) -> bool {
        if planted::is(Bug::LateAudience) {
            return matches!(self.stage, Stage::Synced | Stage::Serving);
        }
        matches!(self.stage, Stage::Syncing | Stage::Synced | Stage::Serving)
    }
}

fn send(link: LinkId, packet: &Packet, out: &mut Out) {
    out.effects.push(Effect::packet(link, packet));
}
