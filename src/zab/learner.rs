//! The learner's side of discovery, synchronisation and broadcast: a follower's or an observer's.
//!
//! ```text
//! AwaitsEpoch ──LEADERINFO──> saving the accepted epoch ──ACKEPOCH──> AwaitsHistory ──DIFF | TRUNC | SNAP──> Syncing
//!   ──NEWLEADER──> the history is made durable ──> saving the current epoch ──ACK──> AwaitsUpToDate ──UPTODATE──> Serving
//! ```
//!
//! The order on disk is what safety rests on (ZOOKEEPER-4643, -4646, -4685): history, then current epoch, then the ACK of
//! NEWLEADER, then the ACK of any proposal. While the disk works, packets wait in `deferred`.
//!
//! What was committed is logged as it comes after DIFF and TRUNC, and applied to memory alone after SNAP, until NEWLEADER
//! makes the whole state durable at once. What is only proposed stays in `pending` and is logged once clients are served.
//!
//! # Reconfiguration
//!
//! A proposal that brings another configuration is remembered as the last seen one when it comes; COMMITANDACTIVATE or
//! INFORMANDACTIVATE puts it in force. If this server has another role in it, or another leader, the link ends: see
//! [`Out::appointed`]. Without `reconfigEnabled` such transactions are like any other.
//!
//! Source: `Learner.syncWithLeader`, `Follower.processPacket`, `Observer.processPacket`.

use std::collections::VecDeque;

use bytes::Bytes;

use super::effect::{Effect, Epochs, LinkId, Reason, Settings};
use super::history::History;
use super::quorum::{PeerAddress, QuorumVerifier, QuorumView};
use crate::jute::Write as _;
use crate::planted::{self, Bug};
use crate::proto::quorum::{self, HandOver, LearnerInfo, Packet, PacketKind};
use crate::proto::txn::{LoggedTxn, Txn};
use crate::request::replica::{Forward, Replica};
use crate::storage::snapshot_format::SnapshotSource;
use crate::tree::DataTree;
use crate::types::{Epoch, Instant, ServerId, Zxid};

/// Proposals and requests that wait, in both directions, before the leader is told no more: beyond it the learner gives up.
pub const DEFERRED_MAX: usize = 1 << 20;
/// So long a server waits whose leader's epoch is older than the one that it has accepted, or that was sent away by the same
/// leader again, in ticks, before it looks for a leader again: only an election of the others may change that.
pub const KEPT_OUT_TICKS: u64 = 2;

/// What a step of the learner leads to.
#[derive(Default, Debug)]
pub struct Out {
    /// For the driver.
    pub effects: Vec<Effect>,
    /// To be logged, in order.
    pub log: Vec<(Zxid, Bytes)>,
    /// The leader's history is taken over, and clients are served.
    pub established: bool,
    /// The configuration in force, or the last seen one, has changed.
    pub reconfigured: bool,
    /// Reconfigurations that were committed, each with the leader that it names: for those who learn from this server.
    pub activated: Vec<(Zxid, ServerId)>,
    /// Who leads from here on by a reconfiguration, and its zxid. The learner gives up to follow, or to lead.
    pub appointed: Option<(ServerId, Zxid)>,
    /// The leader stops and names the next.
    pub handed_over: Option<HandOver>,
    /// The learner gives up.
    pub failed: Option<Reason>,
    /// Set with `failed` if there is no use in looking for a leader before.
    pub look_again_at: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// FOLLOWERINFO or OBSERVERINFO is out.
    AwaitsEpoch,
    /// The accepted epoch is being made durable.
    SavingAccepted,
    /// ACKEPOCH is out.
    AwaitsHistory,
    /// The log is being cut and read back.
    Truncating,
    /// The stream of a snapshot is coming in.
    ReceivingSnapshot,
    /// Transactions come that the leader has and this server lacks.
    Syncing { from_snapshot: bool },
    /// NEWLEADER has come: what was logged is being made durable.
    Flushing,
    /// NEWLEADER has come after SNAP: the state is being made durable.
    Installing,
    /// The current epoch is being made durable.
    SavingCurrent,
    /// The history is acknowledged.
    AwaitsUpToDate,
    /// Transactions come as clients make them.
    Serving,
}

/// See the module.
pub struct Learner {
    settings: Settings,
    observer: bool,
    link: LinkId,
    leader: ServerId,
    in_doubt: bool,
    view: QuorumView,
    epochs: Epochs,
    epoch: Epoch,
    stage: Stage,
    /// The last transaction that was handed over to be logged, or is in the state taken over.
    logged: Zxid,
    durable: Zxid,
    /// Proposed and not committed, in order; `logged` says which of them are in the log.
    pending: VecDeque<Proposal>,
    /// Logged and not acknowledged.
    unacked: VecDeque<Zxid>,
    /// Committed after NEWLEADER and before UPTODATE; with the leader that a reconfiguration names.
    committed_early: VecDeque<(Zxid, Option<ServerId>)>,
    deferred: VecDeque<Packet>,
    /// The configuration that NEWLEADER brought.
    config: Option<QuorumVerifier>,
    heard: Instant,
    /// See [`Learner::leave`].
    leaving: bool,
    /// It was told that the trees differ: once they do, they do after each transaction.
    mismatch_told: bool,
}

/// A transaction as the leader sent it.
#[derive(Clone, Debug)]
struct Proposal {
    zxid: Zxid,
    payload: Bytes,
    logged: LoggedTxn,
}

/// What the learner changes besides itself.
pub struct State<'a> {
    /// The committed state.
    pub replica: &'a mut Replica,
    /// The newest committed transactions.
    pub history: &'a mut History,
}

impl Learner {
    /// A learner that has connected to its leader. All of the log up to `last` is durable and applied; without one the
    /// history is in doubt, and the learner asks for all of it.
    #[allow(clippy::too_many_arguments)] // Each is one thing that only the caller knows.
    pub fn new(
        settings: Settings,
        observer: bool,
        link: LinkId,
        leader: ServerId,
        view: QuorumView,
        epochs: Epochs,
        last: Option<Zxid>,
        now: Instant,
        out: &mut Out,
    ) -> Learner {
        let learner = Learner {
            settings,
            observer,
            link,
            leader,
            view,
            epochs,
            epoch: Epoch::default(),
            stage: Stage::AwaitsEpoch,
            in_doubt: last.is_none(),
            logged: last.unwrap_or_default(),
            durable: last.unwrap_or_default(),
            pending: VecDeque::new(),
            unacked: VecDeque::new(),
            committed_early: VecDeque::new(),
            deferred: VecDeque::new(),
            config: None,
            heard: now,
            leaving: false,
            mismatch_told: false,
        };
        let kind = if observer { PacketKind::ObserverInfo } else { PacketKind::FollowerInfo };
        let info = LearnerInfo {
            sid: settings.id.0,
            protocol_version: quorum::PROTOCOL_VERSION,
            config_version: learner.view.current().version(),
            knows_hand_over: true,
        };
        learner.send(&Packet::with(kind, epochs.accepted.zxid(), info.encode()), out);
        learner
    }

    /// The link to the leader.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// The leader's epoch, once it is known.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the leader's epoch is known and accepted.
    pub fn has_epoch(&self) -> bool {
        !matches!(self.stage, Stage::AwaitsEpoch | Stage::SavingAccepted)
    }

    /// Whether clients are served.
    pub fn is_established(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Whether the leader has not taken it on yet: it was told nothing.
    pub fn awaits_epoch(&self) -> bool {
        self.stage == Stage::AwaitsEpoch
    }

    /// Whether it votes and acknowledges.
    pub fn is_observer(&self) -> bool {
        self.observer
    }

    /// The configurations that it knows.
    pub fn view(&self) -> &QuorumView {
        &self.view
    }

    /// Whether the disk is at work, so that the driver may leave the link unread for a while.
    pub fn is_busy(&self) -> bool {
        use Stage::*;
        matches!(self.stage, SavingAccepted | Truncating | Flushing | Installing | SavingCurrent)
    }

    /// Whether the state in memory is one that the disk does not have: what a snapshot brought, before it is durable.
    pub fn is_ahead_of_disk(&self) -> bool {
        self.stage == Stage::Syncing { from_snapshot: true } && !planted::is(Bug::PartialSnapshotKept)
    }

    /// Takes no further proposal: what the server has acknowledged is still its to keep, and the leader to commit.
    pub fn leave(&mut self) {
        if !self.leaving {
            self.leaving = true;
            self.pending.retain(|proposal| proposal.zxid <= self.logged);
        }
    }

    /// Whether everything in its log is durable and committed, and nothing will be added.
    pub fn has_left(&self) -> bool {
        self.leaving && self.has_all_committed() && self.durable >= self.logged
    }

    /// Whether everything in its log is committed.
    pub fn has_all_committed(&self) -> bool {
        self.is_established() && self.pending.front().is_none_or(|oldest| oldest.zxid > self.logged)
    }

    /// Transactions that were logged and not committed, to be applied when the role ends.
    pub fn take_uncommitted(&mut self) -> impl Iterator<Item = (Bytes, LoggedTxn)> + '_ {
        let last = if planted::is(Bug::TailDroppedAtEnd) { Zxid::ZERO } else { self.logged };
        let logged = self.pending.drain(..).take_while(move |proposal| proposal.zxid <= last);
        logged.map(|proposal| (proposal.payload, proposal.logged))
    }

    /// A packet has come from the leader.
    pub fn received(&mut self, now: Instant, packet: Packet, state: &mut State<'_>, out: &mut Out) {
        self.heard = now;
        if self.is_busy() {
            if self.deferred.len() >= DEFERRED_MAX {
                return self.fail(out, format!("{DEFERRED_MAX} packets came while the disk was at work"));
            }
            return self.deferred.push_back(packet);
        }
        self.packet(packet, state, out);
    }

    /// The stream behind SNAP is in: the leader's state.
    pub fn snapshot_received(&mut self, now: Instant, data_tree: DataTree, state: &mut State<'_>, out: &mut Out) {
        self.heard = now;
        if self.stage != Stage::ReceivingSnapshot {
            // The SNAP before it waits for the disk still, though nobody has asked for it yet.
            return self.fail(out, format!("a snapshot came at stage {:?}", self.stage));
        }
        self.take_over(data_tree, state);
        self.stage = Stage::Syncing { from_snapshot: true };
        self.work_off_deferred(state, out);
    }

    /// The log is cut, and this is the state that it leads to.
    pub fn truncated(&mut self, now: Instant, data_tree: DataTree, state: &mut State<'_>, out: &mut Out) {
        self.heard = now;
        assert_eq!(self.stage, Stage::Truncating, "the log is cut because of TRUNC");
        self.take_over(data_tree, state);
        self.durable = self.logged;
        self.stage = Stage::Syncing { from_snapshot: false };
        self.work_off_deferred(state, out);
    }

    /// The state taken over by SNAP is durable.
    pub fn installed(&mut self, state: &mut State<'_>, out: &mut Out) {
        assert_eq!(self.stage, Stage::Installing, "a state is installed at NEWLEADER");
        self.durable = self.logged;
        self.save_current(out);
        self.work_off_deferred(state, out);
    }

    /// The epochs of the last [`Effect::SaveEpochs`] are durable.
    pub fn epochs_saved(&mut self, now: Instant, state: &mut State<'_>, out: &mut Out) {
        self.heard = now;
        match self.stage {
            Stage::SavingAccepted => self.ack_epoch(Some(self.epochs.current), out),
            Stage::SavingCurrent => {
                self.send(&Packet::bare(PacketKind::Ack, self.epoch.zxid()), out);
                self.stage = Stage::AwaitsUpToDate;
            }
            stage => unreachable!("epochs are saved at two stages only, not at {stage:?}"),
        }
        self.work_off_deferred(state, out);
    }

    /// The log is durable up to `zxid`.
    pub fn durable(&mut self, zxid: Zxid, state: &mut State<'_>, out: &mut Out) {
        self.durable = zxid.max(self.durable);
        if self.stage == Stage::Flushing && self.durable >= self.logged {
            self.save_current(out);
            return self.work_off_deferred(state, out);
        }
        let mut acks = Vec::new();
        while let Some(oldest) = self.unacked.front()
            && *oldest <= self.durable
        {
            quorum::put(&mut acks, PacketKind::Ack, *oldest, None, &[]);
            self.unacked.pop_front();
        }
        if !acks.is_empty() {
            out.effects.push(Effect::Send(self.link, acks.into()));
        }
    }

    /// Sends on what the clients ask for.
    pub fn forward(&mut self, forwards: Vec<Forward>, out: &mut Out) {
        let mut packets = Vec::new();
        for forward in forwards {
            match forward {
                Forward::Request(request, ids) => {
                    quorum::put(&mut packets, PacketKind::Request, Zxid(-1), Some(&request.encode()), &ids);
                }
                Forward::Revalidate(session, timeout_ms) => {
                    let data = quorum::encode_revalidate(session, timeout_ms);
                    quorum::put(&mut packets, PacketKind::Revalidate, Zxid(-1), Some(&data), &[]);
                }
            }
        }
        if !packets.is_empty() {
            out.effects.push(Effect::Send(self.link, packets.into()));
        }
    }

    /// Does what time brings.
    pub fn tick(&mut self, now: Instant, out: &mut Out) {
        let limit_ms = match self.stage {
            Stage::AwaitsUpToDate | Stage::Serving => self.settings.sync_ms(),
            _ => self.settings.init_ms(),
        };
        if !self.is_busy() && now.since_ms(self.heard) > limit_ms {
            self.fail(out, format!("the leader was not heard of for {limit_ms} ms, at stage {:?}", self.stage));
        }
    }

    fn work_off_deferred(&mut self, state: &mut State<'_>, out: &mut Out) {
        while !self.is_busy()
            && out.failed.is_none()
            && let Some(packet) = self.deferred.pop_front()
        {
            self.packet(packet, state, out);
        }
    }

    fn packet(&mut self, packet: Packet, state: &mut State<'_>, out: &mut Out) {
        use PacketKind::*;
        let result = match (self.stage, packet.kind) {
            (Stage::AwaitsEpoch, LeaderInfo) => self.on_leader_info(&packet, out),
            (Stage::AwaitsHistory, Diff) => {
                // From nothing on, while what was there is in doubt, is as good as a snapshot.
                self.stage = Stage::Syncing { from_snapshot: self.in_doubt };
                Ok(())
            }
            (Stage::AwaitsHistory, Trunc) => {
                self.stage = Stage::Truncating;
                out.effects.push(Effect::Truncate(packet.zxid));
                Ok(())
            }
            (Stage::AwaitsHistory, Snap) => {
                self.stage = Stage::ReceivingSnapshot;
                self.check_epoch(packet.zxid)
            }
            (Stage::Syncing { .. } | Stage::AwaitsUpToDate | Stage::Serving, Proposal)
                if !self.serves_as_observer() =>
            {
                let zxid = packet.zxid;
                let kept = self.on_proposal(packet, out);
                let shows = self.stage == Stage::Serving && self.pending.len() == 1;
                if planted::is(Bug::FollowerShowsProposals) && shows {
                    kept.and_then(|()| self.commit(zxid, state))
                } else {
                    kept
                }
            }
            (Stage::Syncing { from_snapshot }, Commit) => {
                self.commit_while_syncing(packet.zxid, from_snapshot, state, out)
            }
            (Stage::Syncing { from_snapshot }, Inform) => {
                let zxid = packet.zxid;
                self.on_proposal(packet, out).and_then(|()| self.commit_while_syncing(zxid, from_snapshot, state, out))
            }
            (Stage::Syncing { from_snapshot }, CommitAndActivate | InformAndActivate) => {
                let zxid = packet.zxid;
                self.activation(packet, out).and_then(|leader| {
                    self.activate_pending(zxid, leader, out);
                    self.commit_while_syncing(zxid, from_snapshot, state, out)
                })
            }
            (Stage::Syncing { from_snapshot }, NewLeader) => self.on_new_leader(&packet, from_snapshot, state, out),
            (Stage::AwaitsUpToDate, Commit) => {
                self.committed_early.push_back((packet.zxid, None));
                Ok(())
            }
            (Stage::AwaitsUpToDate, Inform) => {
                self.committed_early.push_back((packet.zxid, None));
                self.on_proposal(packet, out)
            }
            (Stage::AwaitsUpToDate, CommitAndActivate | InformAndActivate) => {
                let zxid = packet.zxid;
                self.activation(packet, out).map(|leader| self.committed_early.push_back((zxid, Some(leader))))
            }
            (Stage::AwaitsUpToDate, UpToDate) => self.on_up_to_date(state, out),
            (Stage::Serving, Commit)
                if planted::is(Bug::FollowerShowsProposals) && packet.zxid <= state.replica.committed() =>
            {
                Ok(())
            }
            // Beyond what this server keeps.
            (Stage::Serving, Proposal | Commit | Inform | CommitAndActivate | InformAndActivate)
                if self.leaving && packet.zxid > self.logged =>
            {
                Ok(())
            }
            (Stage::Serving, HandOver) => {
                let data = packet.data.as_deref().unwrap_or_default();
                quorum::HandOver::decode(data)
                    .map(|hand_over| out.handed_over = Some(hand_over))
                    .map_err(|error| format!("HANDOVER cannot be read: {error}"))
            }
            (Stage::Serving, Commit) if !self.observer => self.commit(packet.zxid, state),
            (Stage::Serving, Inform) => {
                let zxid = packet.zxid;
                self.on_proposal(packet, out).and_then(|()| self.commit(zxid, state))
            }
            (Stage::Serving, CommitAndActivate) if self.observer => Ok(()),
            (Stage::Serving, CommitAndActivate | InformAndActivate) => {
                let zxid = packet.zxid;
                self.activation(packet, out).and_then(|leader| {
                    out.activated.push((zxid, leader));
                    self.activate_pending(zxid, leader, out);
                    self.commit(zxid, state)
                })
            }
            // What a leader tells observers that are none of its followers' business, and the other way round.
            (Stage::Serving, Proposal | Commit) => Ok(()),
            (Stage::Serving, Sync) if state.replica.synced() => Ok(()),
            (Stage::Serving, Revalidate) => quorum::decode_revalidated(packet.data.as_deref().unwrap_or_default())
                .map(|(session, valid)| state.replica.revalidated(session, valid))
                .map_err(|error| format!("REVALIDATE cannot be read: {error}")),
            (Stage::AwaitsUpToDate | Stage::Serving | Stage::Syncing { .. }, Ping) => {
                let data = quorum::encode_touches(state.replica.take_touched());
                self.send(&Packet::with(Ping, packet.zxid, data), out);
                Ok(())
            }
            (stage, kind) => Err(format!("{kind:?} {} came at stage {stage:?}", packet.zxid)),
        };
        if let Err(why) = result {
            self.fail(out, why);
        }
    }

    fn on_leader_info(&mut self, packet: &Packet, out: &mut Out) -> Result<(), Reason> {
        let epoch = Epoch(packet.zxid.epoch());
        let accepted = self.epochs.accepted;
        if epoch >= Epoch::MAX {
            return Err(format!("{epoch} is no epoch: no ensemble comes so far"));
        }
        if epoch < accepted {
            // To follow would break a promise that another leader may count on, though nobody here knows of it.
            tracing::warn!(
                "Server {} leads in epoch {epoch}, but this server has promised to follow none before {accepted}, as its file \
                 acceptedEpoch says, and is kept out. If that does not end by itself, restart server {} while this one \
                 runs: the election begins a later epoch",
                self.leader,
                self.leader,
            );
            out.look_again_at = Some(self.heard.after_ms(KEPT_OUT_TICKS * self.settings.tick_ms));
            return Err(format!("the leader's epoch {epoch} is older than the accepted one, {accepted}"));
        }
        self.epoch = epoch;
        if epoch > self.epochs.accepted {
            self.epochs.accepted = epoch;
            self.stage = Stage::SavingAccepted;
            out.effects.push(Effect::SaveEpochs(self.epochs));
        } else {
            // It has promised this before, and must not be counted twice.
            self.ack_epoch(None, out);
        }
        Ok(())
    }

    fn ack_epoch(&mut self, current: Option<Epoch>, out: &mut Out) {
        let mut data = Vec::with_capacity(4);
        // It must not count as one that has a history.
        let current = current.filter(|_| !self.in_doubt);
        data.put_int(current.map_or(-1, |epoch| epoch.0 as i32));
        self.send(&Packet::with(PacketKind::AckEpoch, self.logged, data), out);
        self.stage = Stage::AwaitsHistory;
    }

    /// Keeps a proposal until it is committed; while serving it goes to the log at once.
    fn on_proposal(&mut self, packet: Packet, out: &mut Out) -> Result<(), Reason> {
        let (zxid, payload) = (packet.zxid, packet.data.ok_or("a proposal without a transaction")?);
        let last = self.pending.back().map_or(self.logged, |proposal| proposal.zxid);
        if zxid <= last {
            // It was sent twice: in the history, and again because it was outstanding.
            return Ok(());
        }
        self.check_epoch(zxid)?;
        if !zxid.follows(last) {
            // With it in the log no start would believe what is there.
            return Err(format!("proposal {zxid} comes after {last}: there is a gap"));
        }
        let logged = LoggedTxn::decode(&payload).map_err(|error| format!("{zxid} cannot be read: {error}"))?;
        if logged.header.zxid != zxid {
            return Err(format!("the transaction of proposal {zxid} says that it is {}", logged.header.zxid));
        }
        if let Txn::Reconfig { data, .. } = &logged.txn
            && self.settings.reconfig
        {
            self.view.see(config(data.as_deref())?);
            out.reconfigured = true;
        }
        if self.stage == Stage::Serving {
            self.log(zxid, &payload, out);
        }
        self.pending.push_back(Proposal { zxid, payload, logged });
        Ok(())
    }

    /// Nothing that a leader has is of a later epoch than its own.
    fn check_epoch(&self, zxid: Zxid) -> Result<(), Reason> {
        let is_later = zxid.epoch() > self.epoch.0;
        if is_later { Err(format!("{zxid} is of a later epoch than the leader's, {}", self.epoch)) } else { Ok(()) }
    }

    fn log(&mut self, zxid: Zxid, payload: &Bytes, out: &mut Out) {
        out.log.push((zxid, payload.clone()));
        self.logged = zxid;
        if self.stage == Stage::Serving && !self.observer {
            self.unacked.push_back(zxid);
            if planted::is(Bug::AckBeforeFlush) {
                self.send(&Packet::bare(PacketKind::Ack, zxid), out);
            }
        }
    }

    fn commit_while_syncing(
        &mut self,
        zxid: Zxid,
        from_snapshot: bool,
        state: &mut State<'_>,
        out: &mut Out,
    ) -> Result<(), Reason> {
        if zxid <= self.logged {
            return Ok(());
        }
        if let Some(oldest) = self.pending.front().filter(|oldest| oldest.zxid == zxid) {
            if from_snapshot {
                self.logged = zxid;
            } else {
                let payload = oldest.payload.clone();
                self.log(zxid, &payload, out);
            }
        }
        self.commit(zxid, state)
    }

    /// Applies the oldest pending proposal.
    fn commit(&mut self, zxid: Zxid, state: &mut State<'_>) -> Result<(), Reason> {
        let oldest = self.pending.front().map(|oldest| oldest.zxid);
        if oldest != Some(zxid) {
            // What is pending stays: it may be in the log.
            return Err(format!("{zxid} is committed, but the oldest pending proposal is {oldest:?}"));
        }
        let Proposal { payload, mut logged, .. } = self.pending.pop_front().expect("looked at just now");
        if self.stage == (Stage::Syncing { from_snapshot: true }) {
            // Apache's leader goes on while it sends its state, which may hold these transactions already, or parts of them.
            // What it has sent is the leader's tree again once all of them have been applied, and they all come before
            // NEWLEADER.
            logged.digest = None;
        }
        if let Some((expected, found)) = state.replica.commit(&logged)
            && !std::mem::replace(&mut self.mismatch_told, true)
        {
            tracing::error!(
                "Digests are not matching. Value is Zxid. {zxid}: this server's tree has {found:x}, that of the leader, server {}, \
                 has {expected:x}. Compare the answers to hash of all servers: the one that differs shows what is wrong, and is to be \
                 restarted. Until then this server takes no snapshot, so that its next start reads its log and finds out",
                self.leader
            );
        }
        if planted::is(Bug::HoleInHistory) && matches!(self.stage, Stage::Syncing { .. }) {
            return Ok(());
        }
        state.history.add(zxid, payload);
        Ok(())
    }

    fn on_new_leader(
        &mut self,
        packet: &Packet,
        from_snapshot: bool,
        state: &mut State<'_>,
        out: &mut Out,
    ) -> Result<(), Reason> {
        if packet.zxid != self.epoch.zxid() {
            return Err(format!("NEWLEADER {} in epoch {}", packet.zxid, self.epoch));
        }
        if let Some(text) = packet.data.as_deref().filter(|text| !text.is_empty() && self.settings.reconfig) {
            let config = config(Some(text))?;
            let is_pending = self.pending.iter().any(|proposal| proposal.zxid.0 == config.version());
            let before = self.view.clone();
            self.view.follow(config.clone());
            // Apache's leader sends one that is only proposed, too: that is put in force with its transaction.
            self.config = Some(config).filter(|_| !is_pending);
            out.reconfigured |= before != self.view;
        }
        if planted::is(Bug::NewLeaderAckBeforeFlush) {
            self.send(&Packet::bare(PacketKind::Ack, self.epoch.zxid()), out);
        }
        if planted::is(Bug::PendingLostAtNewLeader) {
            self.pending.clear();
        }
        if from_snapshot {
            state.replica.forget_digests();
            self.stage = Stage::Installing;
            out.effects.push(Effect::Install(Box::new(SnapshotSource::of(
                state.replica.data_tree(),
                state.replica.digests(),
            ))));
        } else if self.durable >= self.logged || planted::is(Bug::EpochBeforeHistory) {
            self.save_current(out);
        } else {
            self.stage = Stage::Flushing;
        }
        Ok(())
    }

    fn save_current(&mut self, out: &mut Out) {
        self.stage = Stage::SavingCurrent;
        self.epochs.current = self.epoch;
        out.effects.push(Effect::SaveEpochs(self.epochs));
    }

    fn on_up_to_date(&mut self, state: &mut State<'_>, out: &mut Out) -> Result<(), Reason> {
        if let Some(config) = self.config.take() {
            self.activate(config, None, out);
        }
        self.send(&Packet::bare(PacketKind::Ack, self.epoch.zxid()), out);
        self.stage = Stage::Serving;
        out.established = true;
        let pending: Vec<(Zxid, Bytes)> =
            self.pending.iter().map(|proposal| (proposal.zxid, proposal.payload.clone())).collect();
        for (zxid, payload) in &pending {
            self.log(*zxid, payload, out);
        }
        while let Some((zxid, leader)) = self.committed_early.pop_front() {
            if let Some(leader) = leader {
                self.activate_pending(zxid, leader, out);
            }
            self.commit(zxid, state)?;
        }
        Ok(())
    }

    /// Reads COMMITANDACTIVATE or INFORMANDACTIVATE: the leader that it names. The latter brings its transaction along.
    fn activation(&mut self, mut packet: Packet, out: &mut Out) -> Result<ServerId, Reason> {
        let data =
            packet.data.take().filter(|data| data.len() >= 8).ok_or("it activates something and names no leader")?;
        let leader = i64::from_be_bytes(*data.first_chunk().expect("there are 8 bytes"));
        if packet.kind == PacketKind::InformAndActivate {
            packet.data = Some(data.slice(8..));
            self.on_proposal(packet, out)?;
        }
        Ok(ServerId(leader))
    }

    /// Puts the configuration in force that a pending proposal brings.
    fn activate_pending(&mut self, zxid: Zxid, leader: ServerId, out: &mut Out) {
        let config = self.pending.iter().find(|proposal| proposal.zxid == zxid).and_then(|proposal| {
            let Txn::Reconfig { data, .. } = &proposal.logged.txn else { return None };
            config(data.as_deref()).ok()
        });
        if let Some(config) = config {
            self.activate(config, Some(leader), out);
        }
    }

    /// Puts a configuration in force. `named` is the leader that comes with it.
    fn activate(&mut self, config: QuorumVerifier, named: Option<ServerId>, out: &mut Out) {
        let before = self.view.current().clone();
        if !self.settings.reconfig || !self.view.activate(config) {
            return;
        }
        out.reconfigured = true;
        let after = self.view.current();
        if before.same_content(after) {
            return;
        }
        let address = |config: &QuorumVerifier| {
            let leader = config.member(self.leader).filter(|leader| leader.votes());
            leader.map(|leader| leader.addresses.iter().map(PeerAddress::quorum).collect::<Vec<_>>())
        };
        let leader_changes = match named {
            Some(named) => named != self.leader,
            None => address(after).is_none() || address(&before) != address(after),
        };
        if leader_changes || after.is_observer(self.settings.id) != self.observer {
            out.appointed = named.map(|leader| (leader, Zxid(after.version())));
            self.fail(out, "changes proposed in reconfig".to_owned());
        }
    }

    fn take_over(&mut self, data_tree: DataTree, state: &mut State<'_>) {
        self.logged = data_tree.tree().zxid();
        state.history.truncate(self.logged);
        state.replica.replace(data_tree);
    }

    fn serves_as_observer(&self) -> bool {
        self.observer && self.stage == Stage::Serving
    }

    fn send(&self, packet: &Packet, out: &mut Out) {
        out.effects.push(Effect::packet(self.link, packet));
    }

    fn fail(&mut self, out: &mut Out, why: Reason) {
        out.failed.get_or_insert(why);
    }
}

/// A configuration that came from the leader.
fn config(text: Option<&[u8]>) -> Result<QuorumVerifier, Reason> {
    let text = std::str::from_utf8(text.unwrap_or_default());
    let text = text.map_err(|error| format!("its configuration is no text: {error}"))?;
    QuorumVerifier::parse(text).map_err(|error| format!("its configuration: {error}"))
}
