//! What operators are told of a server's part in its ensemble.

use super::{Instant, LeaderState, LinkId, Mode, Peer, Role, ServerId};
use crate::cnxn::{Latency, Summary};
use crate::jute::Reader;
use crate::proto::quorum::{Packet, PacketKind};
use crate::proto::txn::TxnHeader;
use crate::request::pipeline::CommitBatch;
use crate::types::WallMs;

/// A serving member of an ensemble. Source: `dumpMonitorValues` and `registerMetrics` of Apache's four kinds of servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it does.
    pub mode: Mode,
    /// Participants of the configuration in force.
    pub quorum_size: usize,
    /// Whom it learns from, if it is an observer.
    pub observer_master: Option<ServerId>,
    /// Observers that learn from it, and over which link each; `None` if none may.
    pub observers: Option<Vec<(ServerId, LinkId)>>,
    /// Set if it leads.
    pub leading: Option<Leadership>,
    /// What has happened since the start.
    pub counts: Counts,
}

/// How often something has happened since the start of the server, in whatever role.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Transactions that it proposed.
    pub proposals: u64,
    /// Those that it committed as the leader.
    pub commits: u64,
    /// Proposals that came from a leader while it served.
    pub received_proposals: u64,
    /// Commits that came, INFORMs among them.
    pub received_commits: u64,
    /// Times that it had no leader.
    pub lookings: u64,
    /// Learners that it brought up to date, by a snapshot.
    pub snapshots: u64,
    /// And without one.
    pub diffs: u64,
    /// Sessions that learners had it look up.
    pub revalidations: u64,
    /// Transactions after which its tree had not the digest that the leader's has.
    pub digest_mismatches: u64,
    /// Times that it gave leadership up because a voter looked for another.
    pub disloyal_voters: u64,
    /// Sessions that it ended as the leader, because nobody heard of them.
    pub expired_sessions: u64,
}

impl Counts {
    /// Adds to [`Counts::digest_mismatches`]. Whether there were any.
    pub(super) fn note_mismatches(&mut self, mismatches: u64) -> bool {
        self.digest_mismatches += mismatches;
        mismatches > 0
    }
}

/// How long what happens between servers takes, in ms, since the start of the server, in whatever role.
#[derive(Clone, Default, Debug)]
pub struct Times {
    /// From when it looked for a leader until it served.
    pub unavailable: Summary,
    /// The same, where it then led.
    pub leader_unavailable: Summary,
    /// From when it knew the leader's epoch until it served, as a follower.
    pub follower_syncs: Summary,
    /// And as an observer.
    pub observer_syncs: Summary,
    /// Of a follower: how old transactions were, by the leader's clock, when they were proposed here.
    pub proposals: Latency,
    /// Of a learner: when they were applied here.
    pub commits: Latency,
    /// Of a leader: when a quorum had them.
    pub quorum_acks: Latency,
    /// Since when it has not served.
    away_since: Option<Instant>,
    /// Since when it has known the epoch of the leader that it learns from, while it does not serve.
    sync_since: Option<Instant>,
}

impl Times {
    /// It serves nobody.
    pub(super) fn away(&mut self, now: Instant) {
        self.away_since.get_or_insert(now);
    }

    /// It learns from a leader, and does not serve yet.
    pub(super) fn learning(&mut self, now: Instant, has_epoch: bool) {
        if has_epoch {
            self.sync_since.get_or_insert(now);
        }
    }

    /// It has ended a role.
    pub(super) fn role_ended(&mut self) {
        self.sync_since = None;
    }

    /// It serves again.
    pub(super) fn serves(&mut self, now: Instant, mode: Mode) {
        if let Some(since) = self.sync_since.take() {
            let syncs = if mode == Mode::Observing { &mut self.observer_syncs } else { &mut self.follower_syncs };
            syncs.add(now.since_ms(since));
        }
        if let Some(since) = self.away_since.take() {
            let ms = now.since_ms(since);
            self.unavailable.add(ms);
            if mode == Mode::Leading {
                self.leader_unavailable.add(ms);
            }
        }
    }

    /// A packet has come from the leader.
    pub(super) fn packet(&mut self, wall: WallMs, packet: &Packet, mode: Option<Mode>) {
        if (packet.kind, mode) != (PacketKind::Proposal, Some(Mode::Following)) {
            return;
        }
        let header = packet.data.as_ref().and_then(|data| TxnHeader::decode(&mut Reader::new(data)).ok());
        self.proposals.add_since(header.map(|header| header.time), wall);
    }

    /// Transactions were committed.
    pub(super) fn committed(&mut self, wall: WallMs, batch: &CommitBatch, mode: Mode) {
        let latency = if mode == Mode::Leading { &mut self.quorum_acks } else { &mut self.commits };
        latency.add_since(batch.times(), wall);
    }
}

impl Counts {
    /// A packet has come from a leader or a learner.
    pub(super) fn packet(&mut self, kind: PacketKind, mode: Option<Mode>) {
        use PacketKind::*;
        match (kind, mode) {
            (Proposal, Some(Mode::Following)) => self.received_proposals += 1,
            (Commit, Some(Mode::Following)) | (Inform, Some(Mode::Observing)) => self.received_commits += 1,
            (Revalidate, Some(Mode::Leading)) => self.revalidations += 1,
            _ => {}
        }
    }
}

/// What a leader knows beyond that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leadership {
    /// Connections of learners, those that are still being brought up to date included.
    pub learners: usize,
    /// Followers that are up to date, whether they vote or not.
    pub followers: usize,
    /// Those of them that do not vote: they are to be added to the ensemble.
    pub non_voting: usize,
    /// Answers to `sync` that wait for a commit.
    pub pending_syncs: usize,
    /// For how long it has led.
    pub uptime_ms: u64,
    /// Bytes of the last proposal, the smallest and the largest.
    pub proposal_bytes: Option<[usize; 3]>,
}

impl Peer {
    /// How likely a connect is dropped.
    pub fn drop_chance(&self) -> f64 {
        self.throttle.drop_chance()
    }

    /// How long things took.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// What has happened since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How far the protocol has come, in Apache's words. Source: `QuorumPeer.ZabState`.
    pub fn phase(&self) -> &'static str {
        let (has_epoch, is_established) = match &self.role {
            Role::Dialing(..) => (false, false),
            Role::Following(following) => (following.learner.has_epoch(), following.learner.is_established()),
            Role::Leading(leading) => (leading.leader.has_epoch(), leading.leader.is_established()),
            Role::Settling(_) | Role::Looking(_) | Role::Changing => return "election",
        };
        match (has_epoch, is_established) {
            (_, true) => "broadcast",
            (true, false) => "synchronization",
            (false, false) => "discovery",
        }
    }

    /// `None` while it serves nobody, or only those who read.
    pub fn status(&self, now: Instant) -> Option<Status> {
        let mode = self.mode()?;
        let counts = self.counts;
        let quorum_size = self.view.current().members().filter(|member| member.votes()).count();
        let mut status = Status { mode, quorum_size, observer_master: None, observers: None, leading: None, counts };
        match &self.role {
            Role::Following(following) if mode == Mode::Observing => status.observer_master = Some(following.master),
            Role::Following(_) => status.observers = self.observers(),
            Role::Leading(leading) => {
                let (followers, _) = leading.leader.serving();
                status.observers = Some(leading.leader.observers());
                let LeaderState::Ordering(pipeline) = &leading.state else { return None };
                status.leading = Some(Leadership {
                    learners: leading.leader.links().count(),
                    followers,
                    non_voting: leading.leader.non_voting(),
                    pending_syncs: pipeline.pending_syncs(),
                    uptime_ms: now.since_ms(leading.since),
                    proposal_bytes: leading.leader.proposal_bytes(),
                });
            }
            _ => return None,
        }
        Some(status)
    }
}
