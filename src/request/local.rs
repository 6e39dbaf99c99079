//! Local sessions: those that one server of an ensemble opens, keeps and ends by itself.
//!
//! No transaction tells of them, so they cost the ensemble nothing, and nobody else knows them: a client that comes to another
//! server with one has lost it. They have no ephemerals. Before it makes its first one such a session is *upgraded*: the
//! server has it created as a global one under the same id, and forgets that it was its own.
//!
//! A server in read-only mode has no other sessions.
//!
//! Source: `LocalSessionTracker`, `UpgradeableSessionTracker`, `QuorumZooKeeperServer.checkUpgradeSession`.

use crate::proto::op::{CreateMode, OpCode, WriteOp};
use crate::session::{Refused, Sessions};
use crate::types::{CnxnId, Instant, SessionId};

/// What is configured of local sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// `localSessionsUpgradingEnabled`: whether one may become global.
    pub upgrading: bool,
}

/// What is to be done with a write of a local session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The same as with any other.
    Plain,
    /// The session becomes a global one first, with this timeout in ms. It is not local any more.
    Upgraded(i32),
    /// It makes an ephemeral, which a local session cannot have.
    Refused,
}

/// See the module.
pub struct LocalSessions {
    sessions: Sessions,
    rules: Rules,
}

impl LocalSessions {
    /// None yet. `sessions` gives out their ids.
    pub fn new(sessions: Sessions, rules: Rules) -> LocalSessions {
        LocalSessions { sessions, rules }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether it is one of these.
    pub fn contains(&self, session: SessionId) -> bool {
        self.sessions.contains(session)
    }

    /// Whether only this server can have given out this id.
    pub fn is_own_id(&self, session: SessionId) -> bool {
        self.sessions.is_own_id(session)
    }

    /// Opens one for a connection that has shaken hands.
    pub fn open(&mut self, now: Instant, cnxn: CnxnId, timeout_ms: i32) -> SessionId {
        let session = self.sessions.allocate();
        self.sessions.insert(session, timeout_ms, Some(cnxn), now);
        session
    }

    /// Gives one to another connection of this server. Returns the connection that had it before.
    pub fn attach(
        &mut self,
        now: Instant,
        cnxn: CnxnId,
        session: SessionId,
        timeout_ms: i32,
    ) -> Result<Option<CnxnId>, Refused> {
        self.sessions.attach(session, timeout_ms, cnxn, now)
    }

    /// Whether this connection may speak for it.
    pub fn check(&mut self, session: SessionId, cnxn: CnxnId) -> Result<(), Refused> {
        self.sessions.check(session, cnxn)
    }

    /// It was heard of at `heard`; what is not one of these is ignored.
    pub fn touch(&mut self, session: SessionId, heard: Instant) {
        self.sessions.touch(session, heard);
    }

    /// Ends one. What its client waits for, its own server still has to answer.
    pub fn close(&mut self, session: SessionId) {
        self.sessions.remove(session);
    }

    /// Ends those whose time is over. Returns their connections, which are to be closed.
    pub fn expire(&mut self, now: Instant) -> Vec<CnxnId> {
        let mut owners = Vec::new();
        for (session, timeout_ms) in self.sessions.expire(now) {
            tracing::info!("Expiring local session {session}, timeout of {timeout_ms}ms exceeded");
            owners.extend(self.sessions.owner(session));
            self.sessions.remove(session);
        }
        owners
    }

    /// Decides about a write, and lets the session go if it becomes a global one for it.
    pub fn admit(&mut self, session: SessionId, op: &WriteOp) -> Admission {
        match self.sessions.timeout_ms(session) {
            Some(_) if makes_ephemeral(op) && !self.rules.upgrading => Admission::Refused,
            Some(timeout_ms) if makes_ephemeral(op) => {
                self.sessions.remove(session);
                Admission::Upgraded(timeout_ms)
            }
            _ => Admission::Plain,
        }
    }
}

/// Whether a write would make an ephemeral znode.
pub fn makes_ephemeral(op: &WriteOp) -> bool {
    match op {
        WriteOp::Create { op: OpCode::Create | OpCode::Create2, flags, .. } => {
            CreateMode::from_wire(*flags).is_some_and(CreateMode::is_ephemeral)
        }
        WriteOp::Multi(parts) => parts.iter().any(makes_ephemeral),
        _ => false,
    }
}
