//! What operators are told of a server's part in its ensemble.

use super::{Instant, LeaderState, Mode, Peer, Role, ServerId};

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
    /// `None` while it serves nobody, or only those who read.
    pub fn status(&self, now: Instant) -> Option<Status> {
        let mode = self.mode()?;
        let quorum_size = self.view.current().members().filter(|member| member.votes()).count();
        let mut status = Status { mode, quorum_size, observer_master: None, observers: None, leading: None };
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
