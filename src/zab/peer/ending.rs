//! How a role of a peer ends, and how the peer looks for a leader again: as soon as its tree is what its log says.

use super::{Following, LeaderState, Leading, NO_VOTE, Peer, Role};
use crate::planted::{self, Bug};
use crate::request::pipeline::Pipeline;
use crate::types::Zxid;
use crate::zab::effect::{Effect, Standing};

impl Peer {
    /// The server looks for a leader again, as soon as its tree is what its log says; or it leaves.
    pub(super) fn end_role(&mut self, why: &str) {
        let was = self.mode();
        self.times.role_ended();
        let mut reload = false;
        if self.is_observer() && self.appointed.is_none() && self.successor.is_none() {
            self.pause_ms = Some(self.masters.election_pause_ms()).filter(|ms| *ms > 0);
        }
        self.all_committed = false;
        let data_tree = match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Leading(leading) => {
                let Leading { leader, state, .. } = *leading;
                self.output.notes.push(format!("Shutdown Leader! reason: {why}"));
                for link in leader.links() {
                    self.output.effects.push(Effect::Close(link, "the leader steps down".to_owned()));
                }
                self.output.effects.push(Effect::Unlisten);
                self.appointed = leader.appointed();
                self.all_committed = was.is_some() && leader.committed() == leader.last_proposed();
                for (zxid, payload) in leader.into_outstanding() {
                    self.history.push(zxid, payload);
                }
                match state {
                    LeaderState::Waiting(data_tree) => *data_tree,
                    LeaderState::Ordering(mut pipeline) => {
                        self.all_committed &= !pipeline.has_proposals();
                        self.log_unproposed(&mut pipeline);
                        pipeline.into_head()
                    }
                }
            }
            Role::Following(following) => {
                let Following { mut learner, mut replica, observers, .. } = *following;
                self.output.notes.push(format!("Shutdown Follower: {why}"));
                self.output.effects.push(Effect::Close(learner.link(), why.to_owned()));
                if let Some(mut observers) = observers {
                    observers.inform(&self.history, &mut self.output.effects);
                    let closed =
                        observers.links().map(|link| Effect::Close(link, "this server follows no more".to_owned()));
                    self.output.effects.extend(closed);
                    self.output.effects.push(Effect::Unlisten);
                }
                reload = learner.is_ahead_of_disk();
                if was.is_some() {
                    self.output.batches.extend(replica.take_batch());
                    self.output.answers.extend(replica.take_answers());
                }
                self.all_committed = learner.has_all_committed();
                for (payload, logged) in learner.take_uncommitted() {
                    replica.commit(&logged);
                    self.history.push(logged.header.zxid, payload);
                }
                self.diverged |= self.counts.note_mismatches(replica.take_digest_mismatches());
                replica.into_data_tree()
            }
            Role::Settling(data_tree) | Role::Looking(data_tree) | Role::Dialing(data_tree, _) => {
                self.output.notes.push(format!("No leader yet: {why}"));
                data_tree
            }
            Role::Changing => unreachable!("a role ends once"),
        };
        if was.is_some() {
            self.output.effects.push(Effect::Unserve);
        }
        self.role = Role::Settling(data_tree);
        if reload && !self.disk_at_work {
            self.disk_at_work = true;
            self.output.effects.push(Effect::Reload);
        }
        self.look_when_settled();
    }

    pub(super) fn look_when_settled(&mut self) {
        if let Some((zxid, _)) = self.output.log.last() {
            self.appended = *zxid;
        }
        if self.disk_at_work || self.durable < self.appended {
            return;
        }
        if self.leaving.is_some() {
            return self.leave_settled();
        }
        if self.look_again_at.is_some() || self.pause_ms.is_some() {
            return;
        }
        self.role = match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Settling(data_tree) => {
                let zxid = data_tree.tree().zxid();
                assert_eq!(
                    zxid, self.appended,
                    "who looks for a leader has applied what is in the log, and nothing else"
                );
                let zxid = if self.in_doubt { NO_VOTE } else { zxid };
                // Zxids of one epoch look alike.
                let voted = if planted::is(Bug::VoteIgnoresLog) { Zxid(zxid.0 | 0xffff_ffff) } else { zxid };
                self.counts.lookings += 1;
                self.output.effects.push(match (self.appointed.take(), self.successor.take()) {
                    (Some((leader, zxid)), _) => Effect::Appoint { leader, zxid },
                    (None, Some(hand_over)) if !self.in_doubt => Effect::Succeed(hand_over, zxid),
                    _ => Effect::Look(Standing { epoch: self.epochs.current, zxid: voted }),
                });
                Role::Looking(data_tree)
            }
            role => role,
        };
    }

    /// What was accepted since the last pump is in the tree, so it must be in the log too.
    fn log_unproposed(&mut self, pipeline: &mut Pipeline) {
        for (zxid, payload) in pipeline.take_shared_proposals() {
            self.output.log.push((zxid, payload.clone()));
            self.history.push(zxid, payload);
        }
    }
}
