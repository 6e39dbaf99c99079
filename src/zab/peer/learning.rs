//! What a peer does while it follows or observes: connects to whom it learns from, and asks its [`Learner`].

use super::{Dialing, Following, Peer, Role};
use crate::request::replica::Replica;
use crate::tree::DataTree;
use crate::types::{Instant, ServerId, WallMs, Zxid};
use crate::zab::effect::{Effect, LinkId, MasterPort, Mode};
use crate::zab::learner::{self, Learner, State};
use crate::zab::masters::Master;
use crate::zab::observer_master::ObserverMaster;

impl Peer {
    /// Connects to whom it is to learn from, at once or after a pause.
    pub(super) fn dial(&mut self, now: Instant, data_tree: DataTree, leader: ServerId, master: Master) {
        let at = (master.pause_ms > 0).then(|| now.after_ms(master.pause_ms));
        if at.is_none() {
            self.output.effects.push(Effect::Dial(master.server, master.port));
        }
        self.role = Role::Dialing(data_tree, Dialing { leader, master, at });
    }

    /// Others may be reached before the leader is looked for anew.
    pub(super) fn on_master_unreachable(&mut self, now: Instant, why: &str) {
        let Role::Dialing(_, Dialing { leader, master, .. }) = &self.role else { return };
        let (leader, port) = (*leader, master.port);
        if port == MasterPort::Quorum || self.masters.round_is_over(leader) || self.leaving.is_some() {
            return self.end_role(why);
        }
        self.output.notes.push(format!("No observer master yet: {why}"));
        let master = self.masters.next(self.view.current(), leader);
        if let Role::Dialing(data_tree, _) = std::mem::replace(&mut self.role, Role::Changing) {
            self.dial(now, data_tree, leader, master);
        }
    }

    /// A leader may be gone that has said nothing yet, and then an election is due at once. If it is there again and sends this
    /// server away once more, there is no use in hurrying.
    pub(super) fn on_leader_lost(&mut self, now: Instant, why: &str) {
        let Role::Following(following) = &self.role else { return };
        let sent_away_by = following.learner.awaits_epoch().then_some(following.master);
        if sent_away_by.is_some() && sent_away_by == self.sent_away_by {
            self.look_again_at = Some(now.after_ms(learner::KEPT_OUT_TICKS * self.settings.tick_ms));
        }
        self.sent_away_by = sent_away_by;
        self.end_role(&format!("the connection to the leader was lost: {why}"));
    }

    pub(super) fn on_leader_connected(&mut self, now: Instant, wall: WallMs, link: LinkId) {
        let (data_tree, Dialing { leader, master, .. }) = match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Dialing(data_tree, dialing) if self.leaving.is_none() => (data_tree, dialing),
            role => {
                self.role = role;
                return self.output.effects.push(Effect::Close(link, "no leader is looked for any more".to_owned()));
            }
        };
        let mut out = learner::Out::default();
        let observer = self.is_observer();
        let last = data_tree.tree().zxid();
        let (settings, view) = (self.settings, self.view.clone());
        let last = if self.in_doubt { None } else { Some(last) };
        let first_session = self.first_session(wall);
        let epochs = self.reserving(first_session);
        let learner = Learner::new(settings, observer, link, leader, view, epochs, last, now, &mut out);
        let mut replica = Replica::new(data_tree, self.ordering.digests, first_session, wall);
        if let Some(rules) = self.ordering.local_sessions {
            replica.keep_local_sessions(self.new_local_sessions(rules, first_session));
        }
        if master.port == MasterPort::ObserverMaster {
            self.output.notes.push(format!("Observing new leader sid={}, an observer master", master.server));
        }
        let following = Following { learner, replica, master: master.server, observers: None };
        self.role = Role::Following(Box::new(following));
        self.after_learner(out);
    }

    pub(super) fn as_learner(
        &mut self,
        link: LinkId,
        step: impl FnOnce(&mut Learner, &mut State<'_>, &mut learner::Out),
    ) {
        let Role::Following(following) = &mut self.role else { return };
        if following.learner.link() != link {
            return;
        }
        let mut out = learner::Out::default();
        let mut state = State { replica: &mut following.replica, history: &mut self.history };
        step(&mut following.learner, &mut state, &mut out);
        self.after_learner(out);
    }

    pub(super) fn after_learner(&mut self, out: learner::Out) {
        let Role::Following(following) = &mut self.role else { return };
        if !following.learner.is_established() {
            self.times.learning(self.at.0, following.learner.has_epoch());
        }
        let learner::Out { effects, log, established, reconfigured, activated, .. } = out;
        let learner::Out { appointed, handed_over, failed, look_again_at, .. } = out;
        if let Some(observers) = &mut following.observers {
            activated.into_iter().for_each(|(zxid, leader)| observers.activated(zxid, leader));
        }
        if let Some((zxid, _)) = log.last() {
            self.appended = *zxid;
        }
        self.output.log.extend(log);
        if reconfigured {
            let view = following.learner.view().clone();
            // Before anything that becomes durable below is acknowledged.
            self.configure(view);
        }
        for effect in effects {
            match &effect {
                Effect::SaveEpochs(epochs) => {
                    self.epochs = *epochs;
                    self.disk_at_work = true;
                }
                Effect::Truncate(_) | Effect::Install(_) => self.disk_at_work = true,
                _ => {}
            }
            self.output.effects.push(effect);
        }
        if let Role::Following(following) = &mut self.role
            && established
        {
            // Nobody was served while these were committed, and nobody will be if a reconfiguration among them ends the role.
            drop(following.replica.take_batch());
        }
        if let Role::Following(following) = &mut self.role
            && established
            && failed.is_none()
        {
            let Following { learner, replica, observers, .. } = following.as_mut();
            replica.set_config(&self.view.current().to_string(), Zxid(self.view.current().version()));
            let mode = if learner.is_observer() { Mode::Observing } else { Mode::Following };
            self.output.effects.push(Effect::Serve(mode, replica.tree().clone(), learner.epoch()));
            self.times.serves(self.at.0, mode);
            if self.settings.observing.masters && mode == Mode::Following {
                *observers = Some(ObserverMaster::new(self.settings, learner.epoch(), self.history.newest()));
                self.output.effects.push(Effect::Listen(MasterPort::ObserverMaster));
            }
        }
        if let Some(why) = failed {
            self.appointed = appointed;
            self.look_again_at = look_again_at;
            return self.end_role(&why);
        }
        if let Some(hand_over) = handed_over {
            let why = format!("the leader stops, and server {} is to lead", hand_over.successor);
            self.successor = Some(hand_over);
            self.end_role(&why);
        }
    }
}
