//! What a peer does while it leads: asks its [`Leader`], orders writes, and tells the clients.

use super::leaving::DRAIN_PATIENCE_MS;
use super::{LeaderState, Leading, Ordering, Peer, Role};
use crate::request::pipeline::{Answer, Orphan, Pipeline};
use crate::session::Sessions;
use crate::tree::DataTree;
use crate::types::{Instant, ServerId, WallMs, Zxid};
use crate::zab::effect::{Effect, Mode};
use crate::zab::leader::{self, Leader, Past};
use crate::zab::quorum::QuorumView;

impl Peer {
    /// A leader whose voters have left it before it had their history acknowledged waits for nobody.
    pub(super) fn on_voter_looks(&mut self, voter: ServerId) {
        let Role::Leading(leading) = &mut self.role else { return };
        leading.supporters.remove(&voter);
        if !leading.leader.is_established()
            && !leading.leader.has_learner(voter)
            && !self.view.contains_quorum(&leading.supporters)
        {
            self.counts.disloyal_voters += 1;
            self.end_role(&format!("server {voter} looks for another leader"));
        }
    }

    pub(super) fn as_leader(
        &mut self,
        now: Instant,
        wall: WallMs,
        step: impl FnOnce(&mut Leader, Past<'_>, &mut leader::Out),
    ) {
        let Role::Leading(leading) = &mut self.role else { return };
        let mut out = leader::Out::default();
        let stored = self.stored.and_then(|stored| stored.for_learners(self.settings, self.durable));
        let past = Past { history: &self.history, visible: leading.state.visible(), stored };
        step(&mut leading.leader, past, &mut out);
        self.after_leader(now, wall, out);
    }

    pub(super) fn after_leader(&mut self, now: Instant, wall: WallMs, out: leader::Out) {
        let Role::Leading(leading) = &mut self.role else { return };
        let leader::Out { effects, asks, snapshots, diffs, established, view, failed } = out;
        self.counts.snapshots += snapshots.len() as u64;
        self.counts.diffs += diffs;
        let mut snapshots = snapshots.into_iter().peekable();
        for (place, effect) in effects.into_iter().enumerate() {
            while let Some((_, link)) = snapshots.next_if(|(before, _)| *before == place) {
                let source = leading.state.snapshot(self.ordering.digests);
                self.output.effects.push(Effect::SendSnapshot(link, Box::new(source)));
            }
            if let Effect::SaveEpochs(epochs) = &effect {
                self.epochs = *epochs;
                self.disk_at_work = true;
            }
            self.output.effects.push(effect);
        }
        if let Some(view) = view {
            self.configure(view);
        }
        if established {
            self.begin_ordering(now, wall);
        }
        if !self.is_draining() {
            for ask in asks {
                self.order(now, wall, ask);
            }
        }
        if let Some(why) = failed {
            self.end_role(&why);
        }
    }

    /// The history is a quorum's: clients are served.
    pub(super) fn begin_ordering(&mut self, now: Instant, wall: WallMs) {
        let Role::Leading(leading) = &self.role else { return };
        let first_session = leading.first_session;
        let local = self.ordering.local_sessions.map(|rules| self.new_local_sessions(rules, first_session));
        let Role::Leading(leading) = &mut self.role else { return };
        let LeaderState::Waiting(data_tree) = &mut leading.state else { return };
        let mut data_tree = std::mem::take(data_tree.as_mut());
        set_config(&mut data_tree, &self.view, wall);
        let epoch = leading.leader.epoch();
        self.output.effects.push(Effect::Serve(Mode::Leading, data_tree.tree().clone(), epoch));
        self.times.serves(now, Mode::Leading);
        let Ordering { rules, containers, digests, grace_ms, .. } = self.ordering;
        let sessions = Sessions::new(self.settings.tick_ms, grace_ms, first_session);
        let mut pipeline = Pipeline::new(data_tree, sessions, rules, containers, digests, now);
        pipeline.begin_epoch(epoch);
        if let Some(local) = local {
            pipeline.keep_local_sessions(local);
        }
        self.output.notes.extend(pipeline.close_orphans(wall).iter().map(Orphan::to_string));
        leading.state = LeaderState::Ordering(Box::new(pipeline));
    }

    pub(super) fn pump_leading(&mut self, now: Instant) {
        let Role::Leading(leading) = &mut self.role else { return };
        if leading.leader.is_deserted() {
            return self.end_role("another server leads by a reconfiguration");
        }
        let Leading { leader, state: LeaderState::Ordering(pipeline), .. } = leading.as_mut() else { return };
        let mut out = leader::Out::default();
        let mut proposals = pipeline.take_shared_proposals();
        self.counts.proposals += proposals.len() as u64;
        leader.propose(now, &proposals, &mut out);
        self.output.log.append(&mut proposals);
        if let Some(zxid) = leader.commit(&mut self.history, &mut out) {
            let batch = pipeline.commit(zxid);
            self.counts.commits += batch.as_ref().map_or(0, |batch| batch.commits.len() as u64);
            batch.iter().for_each(|batch| self.times.committed(self.at.1, batch, Mode::Leading));
            self.output.batches.extend(batch);
        }
        for answer in pipeline.take_answers() {
            match answer {
                Answer::Synced(cnxn) | Answer::Revalidated { cnxn, .. } if cnxn.is_learner() => {
                    leader.answer(&answer, &mut out);
                }
                answer => self.output.answers.push(answer),
            }
        }
        self.output.effects.append(&mut out.effects);
        let (last, epoch) = (leader.last_proposed(), leader.epoch());
        if last.epoch() == epoch.0 && last.counter() >= self.settings.last_counter {
            leading.full_until.get_or_insert(now.after_ms(DRAIN_PATIENCE_MS));
        }
        if let Some(view) = out.view {
            self.configure(view);
        }
    }
}

/// Shows the configuration in force at `/zookeeper/config`.
fn set_config(data_tree: &mut DataTree, view: &QuorumView, wall: WallMs) {
    data_tree.set_config(&view.current().to_string(), Zxid(view.current().version()), wall);
}
