//! What operators are told of a server's part in its ensemble.

use super::{Instant, LeaderState, Mode, Peer, Role, ServerId};
use crate::proto::quorum::PacketKind;

/// A serving member of an ensemble. Source: `dumpMonitorValues` and `registerMetrics` of Apache's four kinds of servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it does.
    pub mode: Mode,
    /// Participants of the configuration in force.
    pub quorum_size: usize,
    /// Whom it learns from, if it is an observer.
    pub observer_master: Option<ServerId>,
    /// Observers that learn from it; `None` if none may.
    pub observers: Option<usize>,
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
                let (followers, observers) = leading.leader.serving();
                status.observers = Some(observers);
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
