//! Sessions as the ordering server sees them: who holds one, and when it runs out.
//!
//! Deadlines are rounded up to whole ticks, so that sessions expire in buckets and a touch costs little:
//! a session dies between its timeout and one tick more after it was last heard of.
//!
//! A server that was stopped for a while (SIGSTOP, a virtual machine that moves, a disk that held everything up) has heard
//! of nobody meanwhile, though everybody may have spoken. So the sessions that ran out in that time get theirs once more,
//! each once until it is heard of again. With Apache they are over.
//!
//! Source: `SessionTrackerImpl.java`, `ExpiryQueue.java`, `ZooKeeperServer.generatePasswd`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;

use siphasher::sip::SipHasher13;

use crate::planted::{self, Bug};
use crate::proto::client::Password;
use crate::types::{CnxnId, Instant, SessionId, WallMs};

/// The sessions of the ensemble, and their deadlines.
pub struct Sessions {
    tick_ms: u64,
    /// Touches come from the client shards in batches this far apart at most; a deadline waits that
    /// much longer, so that no session dies whose touch is on its way.
    grace_ms: u64,
    next_id: i64,
    /// Looked up only; what needs an order stands in `buckets`.
    live: HashMap<SessionId, Session, BuildHasherDefault<SipHasher13>>,
    buckets: BTreeMap<Instant, BTreeSet<SessionId>>,
    /// When [`Sessions::expire`] was called last; at first when there came to be a session.
    looked: Option<Instant>,
}

struct Session {
    timeout_ms: u64,
    expires: Instant,
    /// It has run out while the server was stopped, and was not heard of since.
    spared: bool,
    closing: bool,
    owner: Option<CnxnId>,
}

/// A server gives out so many ids, less one, for each millisecond that it runs, or an order of magnitude less.
const MS_IDS_MASK: i64 = 0xffff;
/// A server that looks for sessions that have run out no sooner than this after it did so last was stopped. It does so every
/// 50 ms.
pub const STOPPED_MS: u64 = 1000;

/// Why a request may not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The session is gone or closing.
    Expired,
    /// It now belongs to another connection.
    Moved,
}

impl Sessions {
    /// No sessions yet. The first that is allocated gets the id `first`: see [`first_id`].
    pub fn new(tick_ms: u64, grace_ms: u64, first: SessionId) -> Sessions {
        Sessions {
            tick_ms,
            grace_ms,
            next_id: first.0,
            live: HashMap::default(),
            buckets: BTreeMap::new(),
            looked: None,
        }
    }

    /// Number of sessions, closing ones included.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// When sessions run out, soonest first, and which then.
    pub fn buckets(&self) -> impl Iterator<Item = (Instant, &BTreeSet<SessionId>)> {
        self.buckets.iter().map(|(deadline, sessions)| (*deadline, sessions))
    }

    /// A session id never given out before.
    pub fn allocate(&mut self) -> SessionId {
        self.next_id += 1;
        SessionId(self.next_id - 1)
    }

    /// Takes up a session that was just made, or that was there when this server took over. One that is there already,
    /// because a learner asks for it a second time, begins anew.
    pub fn insert(&mut self, id: SessionId, timeout_ms: i32, owner: Option<CnxnId>, now: Instant) {
        // A clock that was set back since must not have ids given out again: neither this one, nor others that were given
        // out after it in the same milliseconds and are closed already.
        if id.0 >= self.next_id && id.0 >> 56 == self.next_id >> 56 {
            self.next_id = (id.0 | MS_IDS_MASK) + 1;
        }
        self.looked.get_or_insert(now);
        let timeout_ms = timeout_ms.max(0) as u64;
        let expires = deadline(self.tick_ms, now, timeout_ms);
        let before = self.live.insert(id, Session { timeout_ms, expires, spared: false, closing: false, owner });
        if let Some(before) = before {
            self.leave_bucket(id, before.expires);
        }
        self.buckets.entry(expires).or_default().insert(id);
    }

    /// Gives a session to a connection. Returns the connection that had it before.
    pub fn attach(
        &mut self,
        id: SessionId,
        timeout_ms: i32,
        owner: CnxnId,
        now: Instant,
    ) -> Result<Option<CnxnId>, Refused> {
        let session = self.live.get_mut(&id).filter(|session| !session.closing).ok_or(Refused::Expired)?;
        session.timeout_ms = timeout_ms.max(0) as u64;
        let before = session.owner.replace(owner).filter(|before| *before != owner);
        self.touch(id, now);
        Ok(before)
    }

    /// Whether it is there, closing or not.
    pub fn contains(&self, id: SessionId) -> bool {
        self.live.contains_key(&id)
    }

    /// Its timeout in ms, unless it is gone or closing.
    pub fn timeout_ms(&self, id: SessionId) -> Option<i32> {
        let session = self.live.get(&id).filter(|session| !session.closing)?;
        Some(session.timeout_ms.min(i32::MAX as u64) as i32)
    }

    /// The connection that has it.
    pub fn owner(&self, id: SessionId) -> Option<CnxnId> {
        self.live.get(&id)?.owner
    }

    /// Whether only the server of this table can have given the id out.
    pub fn is_own_id(&self, id: SessionId) -> bool {
        id.0 >> 56 == self.next_id >> 56
    }

    /// The session was heard of at `heard`; unknown and closing ones are ignored.
    pub fn touch(&mut self, id: SessionId, heard: Instant) {
        let Some(session) = self.live.get_mut(&id).filter(|session| !session.closing) else { return };
        session.spared = false;
        let expires = deadline(self.tick_ms, heard, session.timeout_ms);
        if expires > session.expires {
            self.move_to(id, expires);
        }
    }

    /// Whether a request that came over `cnxn` may be carried out in the name of the session. The first connection that
    /// asks for a session without an owner becomes it: a new leader learns so where its sessions are.
    pub fn check(&mut self, id: SessionId, cnxn: CnxnId) -> Result<(), Refused> {
        let refuses = |session: &&mut Session| session.closing && !planted::is(Bug::EphemeralAfterClose);
        let session = self.live.get_mut(&id).filter(|session| !refuses(session)).ok_or(Refused::Expired)?;
        if *session.owner.get_or_insert(cnxn) == cnxn || planted::is(Bug::MovedSessionWrites) {
            Ok(())
        } else {
            Err(Refused::Moved)
        }
    }

    /// Refuses further requests: the session's close is on its way.
    pub fn mark_closing(&mut self, id: SessionId) {
        if let Some(session) = self.live.get_mut(&id) {
            session.closing = true;
        }
    }

    /// Forgets a session that is closed.
    pub fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.live.remove(&id) {
            self.leave_bucket(id, session.expires);
        }
    }

    /// Sessions whose time is over; each is marked closing and returned once, with its timeout in ms. To be called every
    /// [`STOPPED_MS`] at least: otherwise they get their time once more.
    pub fn expire(&mut self, now: Instant) -> Vec<(SessionId, u64)> {
        let was_stopped = self.looked.replace(now).is_some_and(|looked| now.since_ms(looked) >= STOPPED_MS);
        let mut expired = Vec::new();
        while let Some((end, _)) = self.buckets.first_key_value() {
            if end.after_ms(self.grace_ms) > now {
                break;
            }
            let (_, bucket) = self.buckets.pop_first().expect("looked at just now");
            for id in bucket {
                let session = self.live.get_mut(&id).expect("buckets hold live sessions");
                if session.closing {
                    continue;
                }
                if was_stopped && !session.spared {
                    session.spared = true;
                    session.expires = deadline(self.tick_ms, now, session.timeout_ms);
                    self.buckets.entry(session.expires).or_default().insert(id);
                } else {
                    session.closing = true;
                    expired.push((id, session.timeout_ms));
                }
            }
        }
        expired
    }

    fn move_to(&mut self, id: SessionId, expires: Instant) {
        let Some(session) = self.live.get_mut(&id) else { return };
        let before = std::mem::replace(&mut session.expires, expires);
        self.leave_bucket(id, before);
        self.buckets.entry(expires).or_default().insert(id);
    }

    fn leave_bucket(&mut self, id: SessionId, expires: Instant) {
        if let Some(bucket) = self.buckets.get_mut(&expires) {
            bucket.remove(&id);
            if bucket.is_empty() {
                self.buckets.remove(&expires);
            }
        }
    }
}

/// When a session runs out that was heard of then: at the end of a whole tick.
fn deadline(tick_ms: u64, heard: Instant, timeout_ms: u64) -> Instant {
    Instant((heard.0.saturating_add(timeout_ms) / tick_ms + 1).saturating_mul(tick_ms))
}

/// Session ids that a server may give out in one role, before it says so anew: more than transactions fit into an epoch, and
/// each session begins with one. They stand for 65 s of the time in the ids.
pub const IDS_RESERVED: u64 = 1 << 32;
/// Bits of an id below the server's own.
const ID_BITS: u32 = 56;

/// The first session id that a server gives out which begins to serve at `wall`: its own id in the top byte, so that no two
/// servers give out the same, then the time, as Apache has it. `used` is how far it may have come before, without the top byte:
/// where its clock was set back, it goes on there, so that nobody gets the id of a session that was closed.
pub fn first_id(server_id: u8, wall: WallMs, used: u64) -> SessionId {
    let time = (wall.0 << 24) as u64 >> 8;
    // Behind the last id they begin anew, as the time does.
    let used = if used + IDS_RESERVED < 1 << ID_BITS { used } else { 0 };
    let first = if planted::is(Bug::SessionIdReused) { 0 } else { time.max(used) };
    SessionId(first as i64 | i64::from(server_id) << ID_BITS)
}

/// How far a server may come that begins with this id, without the top byte.
pub fn ids_used(first: SessionId) -> u64 {
    (first.0 as u64 & ((1 << ID_BITS) - 1)) + IDS_RESERVED
}

/// A session's password: the first 16 bytes of the `java.util.Random` stream that the id seeds, so that any
/// server, of either kind, can check it without asking. It keeps mistakes out, not attackers.
pub fn password(id: SessionId) -> Password {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;
    let mut state = (id.0 as u64 ^ 0xB341_5C00 ^ MULTIPLIER) & MASK;
    let mut password = Password::default();
    for word in password.chunks_exact_mut(4) {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(0xB) & MASK;
        word.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    const CNXN: CnxnId = CnxnId { shard: 0, slot: 0, generation: 0 };
    const OTHER: CnxnId = CnxnId { shard: 0, slot: 1, generation: 0 };

    fn sessions() -> Sessions {
        Sessions::new(2000, 100, first_id(1, WallMs(1_700_000_000_000), 0))
    }

    #[test]
    fn passwords_are_apaches() {
        for (id, hex) in [
            (0x1, "054cc74a37327db215e702e20c73f005"),
            (0x0100000000000000, "f22acd4a97e69d6d20a49bb638eadb38"),
            (0x01000a5b3c4d0000, "a926b028827d1d942f082aa79bfe35d3"),
            (0x07200a5b3c4d0001, "bc47aa2822c9fcd8244b91d26f874aa0"),
            (0x0100000cc6490000, "5d1235292691699a03bd6302df74ae0e"),
        ] {
            let got: String = password(SessionId(id)).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(got, hex, "session 0x{id:x}");
        }
    }

    /// Found by fuzzing: it was left in the bucket of its first time, and once it was closed that ended the leader.
    #[test]
    fn a_session_that_is_asked_for_twice_runs_out_once() {
        let mut s = sessions();
        s.insert(SessionId(1), 5000, Some(CNXN), Instant(1000));
        s.insert(SessionId(1), 5000, Some(OTHER), Instant(4000));
        assert_eq!(s.expire(Instant(8100)), []);
        s.remove(SessionId(1));
        assert_eq!(s.expire(Instant(20_000)), []);
        assert_eq!(s.buckets().count(), 0);
    }

    #[test]
    fn a_session_dies_between_its_timeout_and_a_tick_more() {
        let mut s = sessions();
        s.insert(SessionId(1), 5000, Some(CNXN), Instant(1000));
        assert_eq!(s.expire(Instant(6000)), []);
        assert_eq!(s.expire(Instant(8099)), []);
        assert_eq!(s.expire(Instant(8100)), [(SessionId(1), 5000)]);
        assert_eq!(s.expire(Instant(90_000)), [], "told once");
        assert_eq!(s.check(SessionId(1), CNXN), Err(Refused::Expired));
    }

    #[test]
    fn touches_move_the_deadline_and_never_back() {
        let mut s = sessions();
        s.insert(SessionId(1), 5000, Some(CNXN), Instant(1000));
        s.touch(SessionId(1), Instant(4000));
        s.touch(SessionId(1), Instant(2000));
        assert_eq!(s.expire(Instant(10_099)), []);
        assert_eq!(s.expire(Instant(10_100)).len(), 1);
    }

    #[test]
    fn what_runs_out_while_the_server_is_stopped_gets_its_time_once_more() {
        let mut s = sessions();
        let (heard_again, silent) = (SessionId(1), SessionId(2));
        for id in [heard_again, silent] {
            s.insert(id, 5000, Some(CNXN), Instant(1000));
        }
        let mut look_every_50_ms = |from: u64, to: u64, heard: &[SessionId]| {
            let mut expired = Vec::new();
            for now in (from..=to).step_by(50).map(Instant) {
                heard.iter().for_each(|id| s.touch(*id, now));
                expired.extend(s.expire(now).into_iter().map(|(id, _)| (now.0, id)));
            }
            expired
        };
        assert_eq!(look_every_50_ms(1000, 2000, &[]), []);
        assert_eq!(look_every_50_ms(60_000, 60_000, &[]), []);
        // 60,000 and 5,000, up to the end of the tick, and the grace.
        assert_eq!(look_every_50_ms(60_050, 70_000, &[heard_again]), [(66_100, silent)]);
        // Whoever is heard of is spared at the next stop too, and only once.
        assert_eq!(look_every_50_ms(170_000, 170_000, &[]), []);
        assert_eq!(look_every_50_ms(270_000, 270_000, &[]), [(270_000, heard_again)]);
    }

    #[test]
    fn a_session_that_moved_is_refused_to_its_old_connection() {
        let mut s = sessions();
        s.insert(SessionId(1), 5000, Some(CNXN), Instant(0));
        assert_eq!(s.check(SessionId(1), CNXN), Ok(()));
        assert_eq!(s.attach(SessionId(1), 5000, OTHER, Instant(1)), Ok(Some(CNXN)));
        assert_eq!(s.check(SessionId(1), CNXN), Err(Refused::Moved));
        s.mark_closing(SessionId(1));
        assert_eq!(s.attach(SessionId(1), 5000, CNXN, Instant(1)), Err(Refused::Expired));
        s.remove(SessionId(1));
        assert!(s.is_empty() && s.buckets.is_empty());
    }

    #[test]
    fn ids_carry_the_server_and_are_not_given_out_again() {
        let mut s = sessions();
        let first = s.allocate();
        assert_eq!(first.0 >> 56, 1);
        s.insert(SessionId(first.0 + 10), 5000, None, Instant(0));
        let next = s.allocate();
        assert!(next.0 > first.0 + 0xfff0, "{next}: what came after {first} may have been given out and closed");
        assert_eq!(next.0 >> 56, 1);
    }

    #[test]
    fn ids_go_on_where_they_ended_when_the_clock_was_set_back() {
        let (early, late) = (WallMs(1_700_000_000_000), WallMs(1_700_000_100_000));
        let first = first_id(7, late, 0);
        assert_eq!((first.0 >> 56, first), (7, first_id(7, late, ids_used(first_id(7, early, 0)))));
        let used = ids_used(first);
        let next = first_id(7, early, used);
        assert_eq!(next.0 - first.0, IDS_RESERVED as i64);
        // The time in the ids begins anew in 2039.
        let last = (1 << 56) - 10;
        assert_eq!(first_id(7, early, last), first_id(7, early, 0));
        assert_eq!(first_id(-1i8 as u8, early, used).0 >> 56, -1);
    }
}
