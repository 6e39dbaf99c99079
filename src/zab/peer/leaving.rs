//! How a server leaves its ensemble, and how a leader whose epoch is full makes room for the next: both go on with what they
//! have accepted, take nothing more, and a leader names the next. See `docs/decisions/0005-hand-over.md`.

use super::{Effect, Following, Instant, LeaderState, Leading, Peer, Role, leader};

/// How long a leader that stops or makes room waits for a follower that has everything, and a learner that stops for the
/// leader's answers to what its clients have asked. After that they go without.
pub(super) const DRAIN_PATIENCE_MS: u64 = 1000;

/// How far a server has come that is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    /// It goes on with what it has accepted, until then at most.
    Draining { until: Instant },
    /// It has no role any more, and [`Effect::Leave`] is out.
    Ending,
    /// Nothing is left to be done.
    Left,
}

/// Why a role ends that ends because the server does.
const STOPS: &str = "this server stops";
/// And why one ends whose epoch is full, in Apache's words.
const ROLLS_OVER: &str = "zxid lower 32 bits are about to roll over, forcing re-election, and therefore a new epoch";

impl Peer {
    /// The server is to stop.
    pub(super) fn on_leave(&mut self, now: Instant) {
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(Leaving::Draining { until: now.after_ms(DRAIN_PATIENCE_MS) });
        match &self.role {
            Role::Leading(_) | Role::Following(_) if self.mode().is_none() => self.end_role(STOPS),
            // It goes on in `leave_if_drained`.
            Role::Leading(_) | Role::Following(_) => {}
            _ => self.look_when_settled(),
        }
    }

    /// Ends the role of a server that is to stop, once everything that it has accepted is committed, or it is `late`.
    pub(super) fn leave_if_drained(&mut self, late: bool) {
        match &mut self.role {
            Role::Leading(_) => self.resign_if_drained(late, STOPS),
            Role::Following(following) => {
                let Following { learner, replica, .. } = following.as_mut();
                if replica.outstanding() == 0 || late {
                    learner.leave();
                }
                if learner.has_left() {
                    self.end_role(STOPS);
                }
            }
            // It leaves when it is settled.
            _ => {}
        }
    }

    /// Gives leadership away in an epoch that is full, once everything that was accepted in it is committed. This server
    /// then goes where the others go.
    pub(super) fn make_room_if_drained(&mut self, now: Instant) {
        if let Role::Leading(leading) = &self.role
            && let Some(until) = leading.full_until
            && self.leaving.is_none()
        {
            self.resign_if_drained(now >= until, ROLLS_OVER);
        }
    }

    /// Whether it takes nothing more of what clients ask for.
    pub(super) fn is_draining(&self) -> bool {
        self.leaving.is_some() || matches!(&self.role, Role::Leading(leading) if leading.full_until.is_some())
    }

    /// Ends a leader's role once everything that it has accepted is committed, and names the next if there is one who has
    /// all of it, or can still be.
    fn resign_if_drained(&mut self, late: bool, why: &str) {
        let Role::Leading(leading) = &self.role else { return };
        let Leading { leader, state: LeaderState::Ordering(pipeline), .. } = leading.as_ref() else { return };
        if pipeline.has_proposals() || leader.committed() < leader.last_proposed() {
            return;
        }
        match leader.successor() {
            Some(hand_over) => {
                let mut out = leader::Out::default();
                leader.hand_over(&hand_over, &mut out);
                self.output.effects.append(&mut out.effects);
                let why = format!("{why}, and server {} leads", hand_over.successor);
                self.successor = Some(hand_over).filter(|_| self.leaving.is_none());
                self.end_role(&why);
            }
            None if leader.may_hand_over() && !late => {}
            None => self.end_role(why),
        }
    }

    /// Leaves, once: nothing is under way on its disk.
    pub(super) fn leave_settled(&mut self) {
        if let Some(Leaving::Draining { .. }) = self.leaving {
            self.leaving = Some(Leaving::Ending);
            self.end_read_only();
            self.output.effects.push(Effect::Leave);
        }
    }
}
