//! The order of writes: requests in, transactions out, and what each did handed on once it may be seen.
//!
//! The pipeline keeps two versions of the tree. The *head* has every write applied that was accepted, so
//! that the next one is validated against its predecessors; the *committed* one is what clients may see. A write
//! is applied once, to the head, when it is accepted; its reply and its events wait in `outstanding` until
//! [`Pipeline::commit`] says that its place in the order is safe. Where that knowledge comes from, a flush
//! here, a quorum in an ensemble, is not the pipeline's business.
//!
//! ```text
//! Ask ──> validate + apply to head ──> Proposals (to the log)      outstanding: reply, events
//!                                            │ flushed                   │
//!                                            └────── commit(zxid) ───────┴──> CommitBatch (to the client shards)
//! ```
//!
//! Source: `PrepRequestProcessor`, `FinalRequestProcessor`, `ContainerManager`; Zab step "broadcast".

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::containers::{self, ContainerManager};
use super::local::{self, Admission, LocalSessions};
use super::prepare::{self, Rules};
use super::quota_log::QuotaLog;
use super::throttle::{self, ConnectionThrottle};
use crate::proto::ErrorCode;
use crate::proto::client::{AclList, Id, Password};
use crate::proto::op::WriteOp;
use crate::proto::txn::{LoggedTxn, Txn, TxnHeader};
use crate::session::{self, Refused, Sessions};
use crate::tree::{Applied, Change, DataTree, Outcome, Owner, Tree};
use crate::types::{CnxnId, Epoch, Instant, SessionId, WallMs, Zxid};

/// What client shards ask of the shard that orders writes.
#[derive(Debug)]
pub enum Ask {
    /// A write of an established session.
    Write(WriteRequest),
    /// A new session for a connection that has just shaken hands.
    OpenSession {
        /// Who waits for it.
        cnxn: CnxnId,
        /// Negotiated.
        timeout_ms: i32,
        /// Its id, where the learner that the client is connected to has chosen one.
        session: Option<SessionId>,
    },
    /// A session that a client has taken up at a learner, which has checked the password.
    Revalidate {
        /// The learner.
        cnxn: CnxnId,
        /// Which.
        session: SessionId,
        /// Negotiated anew.
        timeout_ms: i32,
    },
    /// A session that a client had on another connection.
    Attach {
        /// Who wants it.
        cnxn: CnxnId,
        /// Which.
        session: SessionId,
        /// Negotiated anew.
        timeout_ms: i32,
        /// As the client sent it.
        password: Vec<u8>,
    },
    /// A `sync`: the answer goes out behind all commits so far.
    Sync {
        /// Who waits for it.
        cnxn: CnxnId,
        /// On a server of an ensemble, to be forwarded: in whose name, the client's number for it, and its body.
        forward: Option<Box<(SessionId, i32, Bytes)>>,
    },
    /// Sessions heard of since the last such message, and when.
    Touch(Vec<(SessionId, Instant)>),
}

/// A write and who asked for it.
#[derive(Debug)]
pub struct WriteRequest {
    /// Who waits for the reply.
    pub cnxn: CnxnId,
    /// In whose name.
    pub session: SessionId,
    /// The client's number for it.
    pub xid: i32,
    /// What.
    pub op: WriteOp,
    /// The connection's identities when the request came in.
    pub ids: Arc<Vec<Id>>,
    /// Reads of the same session stand between its previous write and this one: keep the version of the tree
    /// that they are to see.
    pub capture: bool,
    /// On a server of an ensemble: the operation's code and its body as the client wrote them, to be forwarded.
    pub forward: Option<Box<(i32, Bytes)>>,
}

/// What is told to one client shard, outside the order of commits.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The end of a handshake with an old session: whether the client may have it.
    Attached {
        /// Who asked.
        cnxn: CnxnId,
        /// `None`: gone, or the wrong password.
        session: Option<SessionId>,
    },
    /// Whether a learner may have a session.
    Revalidated {
        /// The learner.
        cnxn: CnxnId,
        /// Which.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// Everything that was under way when the `sync` was asked for has been told to this shard.
    Synced(CnxnId),
    /// A request that changes nothing, where nothing before it waits to be committed.
    Replied(Arc<Committed>),
    /// The connection comes at a time of too many (`connection_throttle_tokens`).
    Throttled(CnxnId),
    /// The connection has lost its session to another, or speaks in the name of one that it does not own.
    Close(CnxnId),
    /// The connection's session has run out, and no transaction says so.
    Ended(CnxnId),
    /// A server in read-only mode cannot say whether the session that the connection asks for lives.
    TryAnother(CnxnId),
}

/// One write that has become visible.
#[derive(Debug)]
pub struct Committed {
    /// Its place.
    pub zxid: Zxid,
    /// When the server that orders writes took it in, by its clock; `None` for what is no transaction.
    pub time: Option<WallMs>,
    /// Who waits for the reply, and its xid.
    pub to: Option<(CnxnId, i32)>,
    /// For the reply.
    pub outcome: Outcome,
    /// For the watches.
    pub changes: Vec<Change>,
    /// The version before it, if the request asked for it.
    pub before: Option<Box<Tree>>,
    /// Set if it opened or closed a session.
    pub session: SessionChange,
}

/// See [`Committed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionChange {
    /// Neither.
    None,
    /// The connection in `to` now has it.
    Opened {
        /// The new session.
        session: SessionId,
        /// What a reconnecting client must show.
        password: Password,
        /// Its timeout.
        timeout_ms: i32,
    },
    /// Connections that still have it are closed.
    Closed(SessionId),
}

/// Room for commits that is kept from one batch for the next.
const COMMITS_KEPT: usize = 4096;

/// Writes that became visible together, in order, and the version of the tree that shows them all.
#[derive(Debug)]
pub struct CommitBatch {
    /// In order.
    pub commits: Vec<Committed>,
    /// With all of them applied.
    pub tree: Tree,
}

impl CommitBatch {
    /// When the server that orders writes took each transaction in.
    pub fn times(&self) -> impl Iterator<Item = WallMs> {
        self.commits.iter().filter_map(|commit| commit.time)
    }

    /// The memory of the commits, for those of the next batch.
    pub fn into_room(self) -> Vec<Committed> {
        let mut commits = self.commits;
        commits.clear();
        commits.shrink_to(COMMITS_KEPT);
        commits
    }
}

/// Transactions that were accepted since the last [`Pipeline::take_proposals`].
#[derive(Default, Debug)]
pub struct Proposals {
    /// Their bytes, one after the other, as Apache writes them.
    pub bytes: Vec<u8>,
    /// Of each: its zxid and where its bytes end.
    pub ends: Vec<(Zxid, usize)>,
}

impl Proposals {
    /// The transaction at an index, and its bytes.
    pub fn get(&self, index: usize) -> Option<(Zxid, &[u8])> {
        let (zxid, end) = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].1);
        Some((zxid, &self.bytes[start..end]))
    }
}

/// A session that has ephemerals and does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Orphan {
    /// Its ephemerals are removed.
    Closed(SessionId),
    /// They stay: see [`Pipeline::close_orphans`].
    Kept(SessionId),
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Orphan::Closed(session) => {
                write!(f, "Session {session} has ephemerals but does not exist: they are removed")
            }
            Orphan::Kept(session) => write!(
                f,
                "Session {session} has ephemerals but does not exist. They are kept, because they are rather znodes with \
                 a time to live: set extendedTypesEnabled=true if they are"
            ),
        }
    }
}

/// See the module.
pub struct Pipeline {
    head: DataTree,
    sessions: Sessions,
    rules: Rules,
    digests: bool,
    outstanding: VecDeque<Committed>,
    /// Versions of the tree that a commit may show, oldest first; each ends a batch.
    marks: VecDeque<Tree>,
    committed: Zxid,
    proposals: Proposals,
    answers: Vec<Answer>,
    containers: ContainerManager,
    throttle: ConnectionThrottle,
    quota_log: QuotaLog,
    /// Answers that hold only once what was accepted before is committed, and the write that was the newest then: to a
    /// `sync`, and that a session is gone.
    held: VecDeque<(Zxid, Answer)>,
    /// What is committed, for learners that need all of it.
    committed_tree: Tree,
    committed_sessions: Arc<BTreeMap<SessionId, i32>>,
    /// Set if new sessions are local.
    local: Option<LocalSessions>,
    /// Zxids begin in this epoch.
    epoch: Epoch,
    /// Memory for the next batch of commits.
    spare_commits: Vec<Committed>,
}

impl Answer {
    /// Who is to be told.
    pub fn to(&self) -> Option<CnxnId> {
        match self {
            Answer::Attached { cnxn, .. }
            | Answer::Revalidated { cnxn, .. }
            | Answer::Synced(cnxn)
            | Answer::Throttled(cnxn)
            | Answer::Close(cnxn)
            | Answer::Ended(cnxn)
            | Answer::TryAnother(cnxn) => Some(*cnxn),
            Answer::Replied(committed) => committed.to.map(|(cnxn, _)| cnxn),
        }
    }

    /// Opens a session for a connection that has shaken hands, without a transaction. `zxid` is what its client sees.
    pub fn opened(cnxn: CnxnId, session: SessionId, timeout_ms: i32, zxid: Zxid) -> Answer {
        let session = SessionChange::Opened { session, password: session::password(session), timeout_ms };
        Answer::Replied(Arc::new(Committed::without_transaction(zxid, (cnxn, 0), Outcome::Done, session)))
    }

    /// The end of a handshake with a local session, and of the connection that had it.
    pub fn attached(
        cnxn: CnxnId,
        session: SessionId,
        attached: Result<Option<CnxnId>, Refused>,
    ) -> impl Iterator<Item = Answer> {
        let before = attached.ok().flatten().map(Answer::Close);
        let attached = Answer::Attached { cnxn, session: attached.is_ok().then_some(session) };
        before.into_iter().chain([attached])
    }
}

impl Committed {
    /// The answer to a request that takes no place in the order.
    pub fn without_transaction(zxid: Zxid, to: (CnxnId, i32), outcome: Outcome, session: SessionChange) -> Committed {
        Committed { zxid, time: None, to: Some(to), outcome, changes: Vec::new(), before: None, session }
    }
}

impl Pipeline {
    /// A pipeline on a state that was recovered: everything in it is committed, and its sessions have their full
    /// timeout from `now` on.
    pub fn new(
        data_tree: DataTree,
        mut sessions: Sessions,
        rules: Rules,
        containers: containers::Settings,
        digests: bool,
        now: Instant,
    ) -> Pipeline {
        for (session, timeout_ms) in data_tree.sessions() {
            sessions.insert(*session, *timeout_ms, None, now);
        }
        Pipeline {
            committed: data_tree.tree().zxid(),
            committed_tree: data_tree.tree().clone(),
            committed_sessions: Arc::new(data_tree.sessions().clone()),
            local: None,
            epoch: Epoch::default(),
            held: VecDeque::new(),
            head: data_tree,
            sessions,
            rules,
            digests,
            outstanding: VecDeque::new(),
            marks: VecDeque::new(),
            proposals: Proposals::default(),
            answers: Vec::new(),
            containers: ContainerManager::new(containers, now),
            throttle: ConnectionThrottle::new(throttle::Settings::default(), now, 0),
            quota_log: QuotaLog::default(),
            spare_commits: Vec::new(),
        }
    }

    /// From here on zxids are of this epoch.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// From here on new sessions are local, and those of other servers' clients that nobody here knows may be.
    pub fn keep_local_sessions(&mut self, local: LocalSessions) {
        self.local = Some(local);
    }

    /// Sessions that are none of the ensemble's.
    pub fn local_sessions(&self) -> usize {
        self.local.as_ref().map_or(0, LocalSessions::len)
    }

    /// Ends the role: the newest state, with everything that was accepted.
    pub fn into_head(self) -> DataTree {
        self.head
    }

    /// What is committed, whole: znodes, sessions with their timeouts in ms, and the ACLs of both.
    pub fn committed_state(&self) -> (Tree, Arc<BTreeMap<SessionId, i32>>, Vec<AclList>) {
        let acls = self.head.acls().iter().cloned().collect();
        (self.committed_tree.clone(), Arc::clone(&self.committed_sessions), acls)
    }

    /// Removes ephemerals that have no session, by closing it once more: what an interrupted take-over or an old bug of
    /// another server left. Not so if the session's id looks like a time to live, which it is where extended types were
    /// on before. To be called once, before the first request.
    pub fn close_orphans(&mut self, wall: WallMs) -> Vec<Orphan> {
        let known = self.head.sessions();
        let orphans: Vec<SessionId> =
            self.head.sessions_with_ephemerals().filter(|session| !known.contains_key(session)).collect();
        let close = |session: SessionId| {
            if Owner(session.0).looks_like_ttl() {
                return Orphan::Kept(session);
            }
            self.close(session, 0, wall, None, None);
            Orphan::Closed(session)
        };
        orphans.into_iter().map(close).collect()
    }

    /// The newest state, with writes that are not committed yet.
    pub fn head(&self) -> &DataTree {
        &self.head
    }

    /// The zxid that the next transaction will have.
    pub fn next_zxid(&self) -> Zxid {
        self.head.tree().zxid().max(self.epoch.zxid()).next()
    }

    /// The last transaction that clients may see.
    pub fn committed(&self) -> Zxid {
        self.committed
    }

    /// Limits how many connects are let through; without this all are. `seed` is a number by chance.
    pub fn throttle_connects(&mut self, settings: throttle::Settings, now: Instant, seed: u64) {
        self.throttle = ConnectionThrottle::new(settings, now, seed);
    }

    /// How likely a connect is dropped, 0 to 1.
    pub fn drop_chance(&self) -> f64 {
        self.throttle.drop_chance()
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Writes accepted and not committed.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Takes in what a client shard asks.
    pub fn handle(&mut self, now: Instant, wall: WallMs, ask: Ask) {
        match ask {
            Ask::Write(request) => self.write(now, wall, request),
            // Those of learners were let through where they came in.
            Ask::OpenSession { cnxn, session: None, .. } if !self.throttle.admits(now, true) => {
                self.answers.push(Answer::Throttled(cnxn));
            }
            Ask::Attach { cnxn, .. } if !self.throttle.admits(now, false) => {
                self.answers.push(Answer::Throttled(cnxn));
            }
            Ask::OpenSession { cnxn, timeout_ms, session: None } if self.local.is_some() => {
                let local = self.local.as_mut().expect("looked at just now");
                let session = local.open(now, cnxn, timeout_ms);
                self.answers.push(Answer::opened(cnxn, session, timeout_ms, self.committed));
            }
            Ask::OpenSession { cnxn, timeout_ms, session } => {
                let session = session.unwrap_or_else(|| self.sessions.allocate());
                self.sessions.insert(session, timeout_ms, Some(cnxn), now);
                let header = self.next_header(session, 0, wall);
                let opened = SessionChange::Opened { session, password: session::password(session), timeout_ms };
                self.propose(header, Txn::CreateSession { timeout_ms }, Some((cnxn, 0)), None, opened);
            }
            Ask::Attach { cnxn, session, timeout_ms, password }
                if password == session::password(session) && self.is_local(session) =>
            {
                let local = self.local.as_mut().expect("it has this session");
                self.answers.extend(Answer::attached(cnxn, session, local.attach(now, cnxn, session, timeout_ms)));
            }
            Ask::Attach { cnxn, session, timeout_ms, password } => {
                let attached = if password == session::password(session) {
                    self.sessions.attach(session, timeout_ms, cnxn, now)
                } else {
                    Err(Refused::Expired)
                };
                if let Ok(Some(before)) = attached
                    && !before.is_learner()
                {
                    self.answers.push(Answer::Close(before));
                }
                match attached {
                    Ok(_) => self.answers.push(Answer::Attached { cnxn, session: Some(session) }),
                    Err(_) => self.answer_once_committed(Answer::Attached { cnxn, session: None }),
                }
            }
            Ask::Revalidate { cnxn, session, timeout_ms } => {
                let attached = self.sessions.attach(session, timeout_ms, cnxn, now);
                if let Ok(Some(before)) = attached
                    && !before.is_learner()
                {
                    self.answers.push(Answer::Close(before));
                }
                match attached {
                    Ok(_) => self.answers.push(Answer::Revalidated { cnxn, session, valid: true }),
                    Err(_) => self.answer_once_committed(Answer::Revalidated { cnxn, session, valid: false }),
                }
            }
            Ask::Sync { cnxn, .. } => self.answer_once_committed(Answer::Synced(cnxn)),
            Ask::Touch(touched) => {
                for (session, heard) in touched {
                    self.sessions.touch(session, heard);
                    if let Some(local) = &mut self.local {
                        local.touch(session, heard);
                    }
                }
            }
        }
    }

    /// Does what time brings: closes sessions that have run out, removes containers that were emptied.
    /// Returns the sessions it closed, with their timeouts in ms, for the log.
    pub fn tick(&mut self, now: Instant, wall: WallMs) -> Vec<(SessionId, u64)> {
        if let Some(local) = &mut self.local {
            self.answers.extend(local.expire(now).into_iter().map(Answer::Ended));
        }
        let expired = self.sessions.expire(now);
        for (session, _) in &expired {
            self.close(*session, 0, wall, None, None);
        }
        for path in self.containers.step(now, wall, &self.head) {
            if let Ok(txn) = prepare::prepare_delete_container(&self.head, &path) {
                let header = self.next_header(SessionId::NONE, 0, wall);
                self.propose(header, txn, None, None, SessionChange::None);
            }
        }
        expired
    }

    /// What is to be logged. The caller's to flush, in order, before it calls [`Pipeline::commit`].
    pub fn take_proposals(&mut self, spare: Proposals) -> Proposals {
        if self.proposals.ends.is_empty() {
            return spare;
        }
        self.marks.push_back(self.head.tree().clone());
        std::mem::replace(&mut self.proposals, spare)
    }

    /// The same, each transaction with its bytes, which the log and other servers share. The next proposals find as much room
    /// as these took: not known better, it saves moving them while they grow.
    pub fn take_shared_proposals(&mut self) -> Vec<(Zxid, Bytes)> {
        let Proposals { bytes, ends } = &self.proposals;
        let room = Proposals { bytes: Vec::with_capacity(bytes.len()), ends: Vec::with_capacity(ends.len()) };
        let Proposals { bytes, ends } = self.take_proposals(room);
        let (bytes, mut start) = (Bytes::from(bytes), 0);
        let shared = |(zxid, end)| (zxid, bytes.slice(std::mem::replace(&mut start, end)..end));
        ends.into_iter().map(shared).collect()
    }

    /// Whether something waits for [`Pipeline::take_proposals`].
    pub fn has_proposals(&self) -> bool {
        !self.proposals.ends.is_empty()
    }

    /// What is to be told to the shards now.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Transactions up to `zxid` are safe: makes visible the batches that they complete.
    pub fn commit(&mut self, zxid: Zxid) -> Option<CommitBatch> {
        let mut newest = None;
        while self.marks.front().is_some_and(|mark| mark.zxid() <= zxid) {
            newest = self.marks.pop_front();
        }
        let tree = newest?;
        let count = self.outstanding.partition_point(|proposal| proposal.zxid <= tree.zxid());
        let mut commits = std::mem::take(&mut self.spare_commits);
        commits.extend(self.outstanding.drain(..count));
        for commit in &commits {
            match commit.session {
                SessionChange::None => {}
                SessionChange::Opened { session, timeout_ms, .. } => {
                    Arc::make_mut(&mut self.committed_sessions).insert(session, timeout_ms);
                }
                SessionChange::Closed(session) => {
                    self.sessions.remove(session);
                    Arc::make_mut(&mut self.committed_sessions).remove(&session);
                }
            }
        }
        assert!(self.committed < tree.zxid(), "commits must move on");
        self.committed = tree.zxid();
        self.committed_tree = tree.clone();
        let due = self.held.partition_point(|(zxid, _)| *zxid <= self.committed);
        self.answers.extend(self.held.drain(..due).map(|(_, answer)| answer));
        Some(CommitBatch { commits, tree })
    }

    /// Takes back a batch that nobody looks at any more: its memory serves for the next.
    pub fn reuse(&mut self, batch: CommitBatch) {
        self.spare_commits = batch.into_room();
    }

    /// Answers to `sync` that wait for what was under way when they were asked for.
    pub fn pending_syncs(&self) -> usize {
        self.held.iter().filter(|(_, answer)| matches!(answer, Answer::Synced(_))).count()
    }

    /// Gives an answer when everything is committed that was accepted so far.
    ///
    /// That a session is gone must not be told earlier: a leader that was replaced without knowing it yet, because it was
    /// paused, finds at first that all sessions have run out. None of their ends will ever be committed.
    fn answer_once_committed(&mut self, answer: Answer) {
        if self.outstanding.is_empty() {
            self.answers.push(answer);
        } else {
            self.held.push_back((self.head.tree().zxid(), answer));
        }
    }

    fn write(&mut self, now: Instant, wall: WallMs, request: WriteRequest) {
        let WriteRequest { cnxn, session, xid, op, ids, capture, .. } = request;
        let before = capture.then(|| Box::new(self.head.tree().clone()));
        let to = Some((cnxn, xid));
        let checked = self.check_session(session, cnxn, &op);
        match checked {
            // A learner waits for a transaction, whatever becomes of the request.
            Err(Refused::Moved) if cnxn.is_learner() => {
                return self.refuse(session, xid, wall, to, before, ErrorCode::SessionMoved);
            }
            Err(Refused::Moved) => return self.answers.push(Answer::Close(cnxn)),
            Err(Refused::Expired) => return self.refuse(session, xid, wall, to, before, ErrorCode::SessionExpired),
            Ok(()) => {}
        }
        match self.local.as_mut().map_or(Admission::Plain, |local| local.admit(session, &op)) {
            Admission::Plain => {}
            Admission::Refused => {
                return self.refuse(session, xid, wall, to, before, ErrorCode::EphemeralOnLocalSession);
            }
            Admission::Upgraded(timeout_ms) => {
                self.sessions.insert(session, timeout_ms, Some(cnxn), now);
                let header = self.next_header(session, 0, wall);
                let opened = SessionChange::Opened { session, password: session::password(session), timeout_ms };
                self.propose(header, Txn::CreateSession { timeout_ms }, None, None, opened);
            }
        }
        let mut exceeded = Vec::new();
        match op {
            WriteOp::CloseSession if self.is_local(session) => {
                self.local.as_mut().expect("it has this session").close(session);
                self.answer_in_turn(Outcome::Done, to, before, SessionChange::Closed(session));
            }
            WriteOp::CloseSession => self.close(session, xid, wall, to, before),
            WriteOp::GetEphemerals { prefix } => self.list_ephemerals(session, prefix.as_deref(), to, before),
            WriteOp::Multi(parts) => {
                let header = self.next_header(session, xid, wall);
                let rules = self.rules;
                let (txn, applied) = self.head.apply_multi(&header, &parts, |head, part| {
                    prepare::prepare(head, part, &ids, &rules, &mut exceeded)
                });
                self.accept(header, &txn, applied, to, before, SessionChange::None);
            }
            op => match prepare::prepare(&self.head, &op, &ids, &self.rules, &mut exceeded) {
                Ok(txn) => {
                    let header = self.next_header(session, xid, wall);
                    self.propose(header, txn, to, before, SessionChange::None);
                }
                Err(code) => self.refuse(session, xid, wall, to, before, code),
            },
        }
        for line in exceeded.iter().filter_map(|exceeded| self.quota_log.line(now, exceeded)) {
            tracing::warn!("{line}");
        }
    }

    fn is_local(&self, session: SessionId) -> bool {
        self.local.as_ref().is_some_and(|local| local.contains(session))
    }

    /// Whether a write that came over this connection may be carried out in the name of the session.
    fn check_session(&mut self, session: SessionId, cnxn: CnxnId, op: &WriteOp) -> Result<(), Refused> {
        match &mut self.local {
            Some(local) if local.contains(session) => local.check(session, cnxn),
            // It is another server's own, which has looked after it.
            Some(local) if !self.sessions.contains(session) && !local.is_own_id(session) && cnxn.is_learner() => {
                if local::makes_ephemeral(op) {
                    Err(Refused::Expired)
                } else {
                    Ok(())
                }
            }
            _ => self.sessions.check(session, cnxn),
        }
    }

    /// Answers from the newest state, as soon as that may be seen. It takes no place in the order.
    fn list_ephemerals(
        &mut self,
        session: SessionId,
        prefix: Option<&str>,
        to: Option<(CnxnId, i32)>,
        before: Option<Box<Tree>>,
    ) {
        let outcome = match prefix {
            Some(prefix) => Outcome::Paths(self.head.ephemerals_below(session, prefix).cloned().collect()),
            None => Outcome::Failed(ErrorCode::MarshallingError.code()),
        };
        self.answer_in_turn(outcome, to, before, SessionChange::None);
    }

    /// Answers what takes no place in the order, behind everything that was accepted before it.
    fn answer_in_turn(
        &mut self,
        outcome: Outcome,
        to: Option<(CnxnId, i32)>,
        before: Option<Box<Tree>>,
        session: SessionChange,
    ) {
        let (zxid, changes) = (self.head.tree().zxid(), Vec::new());
        let answer = Committed { zxid, time: None, to, outcome, changes, before, session };
        if self.outstanding.is_empty() {
            self.answers.push(Answer::Replied(Arc::new(answer)));
        } else {
            self.outstanding.push_back(answer);
        }
    }

    fn close(
        &mut self,
        session: SessionId,
        xid: i32,
        wall: WallMs,
        to: Option<(CnxnId, i32)>,
        before: Option<Box<Tree>>,
    ) {
        self.sessions.mark_closing(session);
        let paths = self.head.ephemerals_of(session).cloned().collect();
        let header = self.next_header(session, xid, wall);
        self.propose(header, Txn::CloseSession { paths: Some(paths) }, to, before, SessionChange::Closed(session));
    }

    /// A refused write takes its place in the order too, as an error.
    fn refuse(
        &mut self,
        session: SessionId,
        xid: i32,
        wall: WallMs,
        to: Option<(CnxnId, i32)>,
        before: Option<Box<Tree>>,
        code: ErrorCode,
    ) {
        let header = self.next_header(session, xid, wall);
        self.propose(header, Txn::Error { err: code.code() }, to, before, SessionChange::None);
    }

    fn propose(
        &mut self,
        header: TxnHeader,
        txn: Txn,
        to: Option<(CnxnId, i32)>,
        before: Option<Box<Tree>>,
        session: SessionChange,
    ) {
        let applied = self.head.apply(&header, &txn);
        self.accept(header, &txn, applied, to, before, session);
    }

    fn accept(
        &mut self,
        header: TxnHeader,
        txn: &Txn,
        applied: Applied,
        to: Option<(CnxnId, i32)>,
        before: Option<Box<Tree>>,
        session: SessionChange,
    ) {
        let digest = self.digests.then(|| self.head.tree().digest());
        LoggedTxn::encode_parts(&mut self.proposals.bytes, &header, txn, digest);
        self.proposals.ends.push((header.zxid, self.proposals.bytes.len()));
        let Applied { outcome, changes } = applied;
        let TxnHeader { zxid, time, .. } = header;
        self.outstanding.push_back(Committed { zxid, time: Some(time), to, outcome, changes, before, session });
    }

    fn next_header(&self, session: SessionId, cxid: i32, time: WallMs) -> TxnHeader {
        TxnHeader { session, cxid, zxid: self.next_zxid(), time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT_MS: i32 = 4000;

    fn cnxn(slot: u32) -> CnxnId {
        CnxnId { shard: 0, slot, generation: 0 }
    }

    /// A pipeline with one session, which is committed.
    fn with_a_session() -> (Pipeline, SessionId) {
        let sessions = Sessions::new(500, 0, SessionId(1 << 56));
        let rules = Rules { skip_acl: false, digest_scheme: true, enforce_quota: false, reconfig: false };
        let settings = containers::Settings::default();
        let mut pipeline = Pipeline::new(DataTree::new(), sessions, rules, settings, false, Instant(0));
        let open = Ask::OpenSession { cnxn: cnxn(0), timeout_ms: TIMEOUT_MS, session: None };
        pipeline.handle(Instant(0), WallMs(0), open);
        commit_all(&mut pipeline);
        let session = *pipeline.head().sessions().keys().next().expect("it was opened");
        (pipeline, session)
    }

    fn commit_all(pipeline: &mut Pipeline) {
        pipeline.take_proposals(Proposals::default());
        let head = pipeline.head().tree().zxid();
        pipeline.commit(head);
    }

    fn attach(pipeline: &mut Pipeline, now: Instant, slot: u32, session: SessionId) {
        let ask = Ask::Attach {
            cnxn: cnxn(slot),
            session,
            timeout_ms: TIMEOUT_MS,
            password: session::password(session).to_vec(),
        };
        pipeline.handle(now, WallMs(0), ask);
    }

    /// A leader that was paused while the others chose another one: no client must hear from it that its session is over.
    #[test]
    fn a_session_is_gone_for_clients_once_its_end_is_committed() {
        let (mut pipeline, session) = with_a_session();
        assert_eq!(pipeline.tick(Instant(60_000), WallMs(0)), [], "it has its time once more");
        let now = Instant(120_000);
        assert_eq!(pipeline.tick(now, WallMs(0)).len(), 1, "its time is over");
        attach(&mut pipeline, now, 1, session);
        pipeline.handle(now, WallMs(0), Ask::Revalidate { cnxn: cnxn(2), session, timeout_ms: TIMEOUT_MS });
        assert!(pipeline.take_answers().is_empty(), "whether it is gone is not decided yet");
        commit_all(&mut pipeline);
        let answers = pipeline.take_answers();
        assert!(
            matches!(answers[..], [Answer::Attached { session: None, .. }, Answer::Revalidated { valid: false, .. }]),
            "{answers:?}"
        );
    }

    #[test]
    fn what_is_not_in_doubt_is_answered_at_once() {
        let (mut pipeline, session) = with_a_session();
        attach(&mut pipeline, Instant(1000), 1, session);
        attach(&mut pipeline, Instant(1000), 2, SessionId(77));
        let answers = pipeline.take_answers();
        assert!(
            matches!(
                answers[..],
                [Answer::Close(_), Answer::Attached { session: Some(_), .. }, Answer::Attached { session: None, .. }]
            ),
            "{answers:?}"
        );
    }
}
