//! Service without a leader: reads from what the server has, for clients that ask for no more (`readonlymode.enabled`).
//!
//! It begins when a leader has been looked for in vain for a while and ends with the election. Nothing is logged, no epoch
//! and no snapshot is touched, and its sessions are local. What it shows may be old, and its end was perhaps never committed.
//!
//! Source: `ReadOnlyZooKeeperServer`, `ReadOnlyRequestProcessor`, `QuorumPeer.run`.

use std::sync::Arc;

use super::{DataTree, Effect, Instant, Peer, Role, SessionId, WallMs};
use crate::proto::ErrorCode;
use crate::proto::op::WriteOp;
use crate::request::local::{self, LocalSessions};
use crate::request::pipeline::{Answer, Ask, Committed, SessionChange, WriteRequest};
use crate::session::{self, Refused, Sessions};
use crate::tree::Outcome;

impl Peer {
    /// What time brings while a leader is looked for: after a while, service to those who only read. What is in doubt is not
    /// shown to anybody.
    pub(super) fn look_on(&mut self, now: Instant, wall: WallMs) {
        let Role::Looking(data_tree) = &self.role else { return };
        if let Some(sessions) = &mut self.read_only {
            return self.output.answers.extend(sessions.expire(now).into_iter().map(Answer::Ended));
        }
        let since = *self.looking_since.get_or_insert(now);
        let is_due = |after_ms| now.since_ms(since) >= after_ms;
        if self.ordering.read_only_after_ms.is_some_and(is_due) && !self.in_doubt && self.leaving.is_none() {
            self.output.notes.push("Read-only server started".to_owned());
            self.output.effects.push(Effect::ServeReadOnly(data_tree.tree().clone()));
            let rules = local::Rules { upgrading: false };
            // They end with this: the next role is not to give out their ids, and saves that.
            let first_session = self.first_session(wall);
            self.epochs = self.reserving(first_session);
            self.read_only = Some(self.new_local_sessions(rules, first_session));
        }
    }

    pub(super) fn end_read_only(&mut self) {
        self.looking_since = None;
        if self.read_only.take().is_some() {
            self.output.notes.push("Read-only server ended".to_owned());
            self.output.effects.push(Effect::Unserve);
        }
    }

    pub(super) fn new_local_sessions(&self, rules: local::Rules, first_session: SessionId) -> LocalSessions {
        let sessions = Sessions::new(self.settings.tick_ms, self.ordering.grace_ms, first_session);
        LocalSessions::new(sessions, rules)
    }
}

/// What a server in read-only mode answers to what it does not refuse at the door.
pub(super) fn answer_read_only(
    sessions: &mut LocalSessions,
    data_tree: &DataTree,
    now: Instant,
    ask: Ask,
) -> Vec<Answer> {
    let zxid = data_tree.tree().zxid();
    match ask {
        Ask::OpenSession { cnxn, timeout_ms, .. } => {
            vec![Answer::opened(cnxn, sessions.open(now, cnxn, timeout_ms), timeout_ms, zxid)]
        }
        Ask::Attach { cnxn, session, timeout_ms, password } => {
            if !sessions.contains(session) {
                return vec![Answer::TryAnother(cnxn)];
            }
            let attached = if password == session::password(session) {
                sessions.attach(now, cnxn, session, timeout_ms)
            } else {
                Err(Refused::Expired)
            };
            Answer::attached(cnxn, session, attached).collect()
        }
        Ask::Touch(touched) => {
            touched.into_iter().for_each(|(session, heard)| sessions.touch(session, heard));
            Vec::new()
        }
        Ask::Write(WriteRequest { cnxn, session, .. }) if sessions.check(session, cnxn).is_err() => {
            vec![Answer::Close(cnxn)]
        }
        Ask::Write(WriteRequest { cnxn, session, xid, op, .. }) => {
            let (outcome, change) = match op {
                WriteOp::CloseSession => {
                    sessions.close(session);
                    (Outcome::Done, SessionChange::Closed(session))
                }
                // It has none.
                WriteOp::GetEphemerals { prefix: Some(_) } => (Outcome::Paths(Vec::new()), SessionChange::None),
                WriteOp::GetEphemerals { prefix: None } => {
                    (Outcome::Failed(ErrorCode::MarshallingError.code()), SessionChange::None)
                }
                _ => (Outcome::Failed(ErrorCode::NotReadOnly.code()), SessionChange::None),
            };
            let committed = Committed::without_transaction(zxid, (cnxn, xid), outcome, change);
            vec![Answer::Replied(Arc::new(committed))]
        }
        Ask::Sync { .. } | Ask::Revalidate { .. } => Vec::new(),
    }
}
