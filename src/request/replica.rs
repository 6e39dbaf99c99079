//! What a learner does with writes: its clients' requests go to the leader, the leader's commits are applied and handed to
//! the client shards.
//!
//! A learner holds one version of the tree, the committed one; a proposal changes nothing before its commit. A request
//! waits in `waiting` until a transaction with its session and its cxid is committed: there is no other answer from the
//! leader, which makes an `error` transaction of what it refuses.
//!
//! ```text
//! Ask ──> Forward (to the leader)          waiting: connection, xid
//!                                                 │
//! commit(transaction) ──> apply ──────────────────┴──> CommitBatch (to the client shards)
//! ```
//!
//! Source: `FollowerRequestProcessor`, `ObserverRequestProcessor`, `CommitProcessor`, `LearnerSessionTracker`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::local::{Admission, LocalSessions};
use super::pipeline::{Answer, Ask, CommitBatch, Committed, SessionChange, WriteRequest};
use crate::jute::Write as _;
use crate::planted::{self, Bug};
use crate::proto::ErrorCode;
use crate::proto::client::Id;
use crate::proto::op::{OpCode, WriteOp};
use crate::proto::quorum::{ForwardedRequest, OP_CREATE_SESSION};
use crate::proto::txn::{LoggedTxn, Txn};
use crate::session;
use crate::tree::{Applied, DataTree, Outcome, Tree};
use crate::types::{CnxnId, Instant, SessionId, WallMs, Zxid};

const FORWARDED: &str = "the shards of an ensemble's server keep what a client wrote";

/// What a learner has to say to its leader in the name of its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forward {
    /// A request, and the client's identities.
    Request(ForwardedRequest, Vec<Id>),
    /// A client has come with a session that is not known to be here.
    Revalidate(SessionId, i32),
}

/// See the module.
pub struct Replica {
    data_tree: DataTree,
    digests: bool,
    /// When the role began.
    began: WallMs,
    next_session: i64,
    /// Set if new sessions are local.
    local: Option<LocalSessions>,
    /// Were local, and are being made global: nobody waits for that.
    upgrading: BTreeSet<SessionId>,
    /// Who asked for each session last: a client's connection here, or the link of an observer that learns from this server.
    /// Whoever had it before may write no more from that moment on. The leader cannot see to that, for all of them come to
    /// it over one link. Looked up only.
    owners: HashMap<SessionId, CnxnId, BuildHasherDefault<SipHasher13>>,
    /// Forwarded and not answered, in the order of each session.
    waiting: HashMap<SessionId, VecDeque<Waiting>, BuildHasherDefault<SipHasher13>>,
    revalidating: BTreeMap<SessionId, VecDeque<(CnxnId, i32)>>,
    /// Who waits for a SYNC, in the order in which they were asked for.
    syncs: VecDeque<CnxnId>,
    /// Sessions heard of since the leader last asked.
    touched: BTreeMap<SessionId, i32>,
    /// Since they were last taken.
    digest_mismatches: u64,
    commits: Vec<Committed>,
    answers: Vec<Answer>,
    forwards: Vec<Forward>,
}

struct Waiting {
    cxid: i32,
    cnxn: CnxnId,
    capture: bool,
    /// Set for a request that is answered here, and only waits for its turn.
    own: Option<Own>,
}

/// A request that a learner answers by itself.
enum Own {
    /// getEphemerals, and what it asks for.
    Ephemerals(Option<String>),
    /// The end of a local session.
    Close,
    /// What cannot be done.
    Refused(ErrorCode),
}

impl Replica {
    /// A learner's state. The role begins at `wall`, and its first session gets the id `first`: see [`session::first_id`].
    pub fn new(data_tree: DataTree, digests: bool, first: SessionId, wall: WallMs) -> Replica {
        Replica {
            data_tree,
            digests,
            began: wall,
            next_session: first.0,
            local: None,
            upgrading: BTreeSet::new(),
            owners: HashMap::default(),
            waiting: HashMap::default(),
            revalidating: BTreeMap::new(),
            syncs: VecDeque::new(),
            touched: BTreeMap::new(),
            digest_mismatches: 0,
            commits: Vec::new(),
            answers: Vec::new(),
            forwards: Vec::new(),
        }
    }

    /// From here on new sessions are local.
    pub fn keep_local_sessions(&mut self, local: LocalSessions) {
        self.local = Some(local);
    }

    /// Sessions that are none of the ensemble's.
    pub fn local_sessions(&self) -> usize {
        self.local.as_ref().map_or(0, LocalSessions::len)
    }

    /// Does what time brings: ends local sessions that have run out.
    pub fn tick(&mut self, now: Instant) {
        let ended = self.local.as_mut().map_or_else(Vec::new, |local| local.expire(now));
        self.answers.extend(ended.into_iter().map(Answer::Ended));
    }

    /// The committed state.
    pub fn data_tree(&self) -> &DataTree {
        &self.data_tree
    }

    /// Takes up another state, as when the leader has sent a whole one. Nobody is served yet.
    pub fn replace(&mut self, data_tree: DataTree) {
        self.data_tree = data_tree;
        self.commits.clear();
    }

    /// Forgets the digests of what was applied on the way to the state of a leader that may go on while it sends it.
    pub fn forget_digests(&mut self) {
        self.data_tree.forget_digests();
    }

    /// Shows this configuration of the ensemble. Nobody is served yet.
    pub fn set_config(&mut self, text: &str, version: Zxid) {
        self.data_tree.set_config(text, version, self.began);
    }

    /// Whether transactions carry the digest of the tree.
    pub fn digests(&self) -> bool {
        self.digests
    }

    /// Ends the role.
    pub fn into_data_tree(self) -> DataTree {
        self.data_tree
    }

    /// Requests that were forwarded and not answered.
    pub fn outstanding(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Takes in what a client shard asks.
    pub fn handle(&mut self, now: Instant, ask: Ask) {
        match ask {
            Ask::Write(request) => self.write(request),
            Ask::OpenSession { cnxn, timeout_ms, .. } if self.local.is_some() => {
                let session = self.local.as_mut().expect("looked at just now").open(now, cnxn, timeout_ms);
                self.answers.push(Answer::opened(cnxn, session, timeout_ms, self.committed()));
            }
            Ask::OpenSession { cnxn, timeout_ms, .. } => {
                let session = SessionId(self.next_session);
                self.next_session += 1;
                self.owners.insert(session, cnxn);
                let mut body = Vec::with_capacity(4);
                body.put_int(timeout_ms);
                self.forward(session, 0, OP_CREATE_SESSION, body.into(), Vec::new(), cnxn, false);
            }
            Ask::Attach { cnxn, session, timeout_ms, password }
                if password == session::password(session) && self.is_local(session) =>
            {
                let local = self.local.as_mut().expect("it has this session");
                self.answers.extend(Answer::attached(cnxn, session, local.attach(now, cnxn, session, timeout_ms)));
            }
            Ask::Attach { cnxn, session, timeout_ms, password } => {
                if password == session::password(session) {
                    self.revalidate(cnxn, session, timeout_ms);
                } else {
                    self.answers.push(Answer::Attached { cnxn, session: None });
                }
            }
            Ask::Sync { cnxn, forward } => {
                let (session, cxid, body) = *forward.expect(FORWARDED);
                self.syncs.push_back(cnxn);
                let request = ForwardedRequest { session, cxid, op: OpCode::Sync as i32, body };
                self.forwards.push(Forward::Request(request, Vec::new()));
            }
            Ask::Touch(touched) => {
                for (session, heard) in touched {
                    if let Some(local) = &mut self.local {
                        local.touch(session, heard);
                    }
                    if let Some(timeout_ms) = self.data_tree.sessions().get(&session) {
                        self.touched.insert(session, *timeout_ms);
                    }
                }
            }
            Ask::Revalidate { cnxn, session, timeout_ms } => self.revalidate(cnxn, session, timeout_ms),
        }
    }

    /// Passes on what an observer forwards that learns from this server: `cnxn` stands for its link. The answer is the
    /// transaction that it leads to; only a SYNC is answered.
    ///
    /// What comes too late, because the client has its session elsewhere by now, must not be done any more, and still needs
    /// its transaction, which the observer waits for: in its place goes a request that every leader refuses.
    pub fn relay(&mut self, cnxn: CnxnId, request: ForwardedRequest, ids: Vec<Id>) {
        let owner = self.owners.get(&request.session);
        let has_moved = owner.is_some_and(|owner| *owner != cnxn) && !planted::is(Bug::MovedSessionWrites);
        if request.op == OpCode::Sync as i32 {
            self.syncs.push_back(cnxn);
        } else if request.op == OP_CREATE_SESSION {
            self.owners.insert(request.session, cnxn);
        } else if has_moved {
            return self.forwards.push(Forward::Request(refused_by_all(&request), Vec::new()));
        }
        self.forwards.push(Forward::Request(request, ids));
    }

    /// Passes on which sessions an observer has heard of, with their timeouts in ms.
    pub fn relay_touches(&mut self, touched: impl IntoIterator<Item = (SessionId, i32)>) {
        self.touched.extend(touched);
    }

    /// The leader has said whether a session lives.
    pub fn revalidated(&mut self, session: SessionId, valid: bool) {
        let Some(asking) = self.revalidating.get_mut(&session) else { return };
        let Some((cnxn, timeout_ms)) = asking.pop_front() else { return };
        if asking.is_empty() {
            self.revalidating.remove(&session);
        }
        if valid {
            self.touched.insert(session, timeout_ms);
        } else if self.owners.get(&session) == Some(&cnxn) {
            self.owners.remove(&session);
        }
        if cnxn.is_learner() {
            return self.answers.push(Answer::Revalidated { cnxn, session, valid });
        }
        self.answers.push(Answer::Attached { cnxn, session: valid.then_some(session) });
    }

    /// Asks the leader whether a session lives that somebody has come with. It is theirs at once: what whoever had it before
    /// still sends goes to the leader behind the question.
    fn revalidate(&mut self, cnxn: CnxnId, session: SessionId, timeout_ms: i32) {
        if let Some(before) = self.owners.insert(session, cnxn)
            && before != cnxn
            && !before.is_learner()
        {
            self.answers.push(Answer::Close(before));
        }
        self.revalidating.entry(session).or_default().push_back((cnxn, timeout_ms));
        self.forwards.push(Forward::Revalidate(session, timeout_ms));
    }

    /// The leader has answered the oldest SYNC. False if none was asked for.
    pub fn synced(&mut self) -> bool {
        let oldest = self.syncs.pop_front();
        self.answers.extend(oldest.map(Answer::Synced));
        oldest.is_some()
    }

    /// Applies the next committed transaction. Says what digest the leader logged and which the tree has, if they differ.
    pub fn commit(&mut self, logged: &LoggedTxn) -> Option<(u64, u64)> {
        let LoggedTxn { header, txn, digest } = logged;
        let is_upgrade = matches!(txn, Txn::CreateSession { .. }) && self.upgrading.remove(&header.session);
        let answered = if is_upgrade { None } else { self.answered(header.session, header.cxid) };
        let before =
            answered.as_ref().filter(|waiting| waiting.capture).map(|_| Box::new(self.data_tree.tree().clone()));
        let Applied { outcome, changes } = self.data_tree.apply(header, txn);
        let session = match txn {
            Txn::CreateSession { timeout_ms } => SessionChange::Opened {
                session: header.session,
                password: session::password(header.session),
                timeout_ms: *timeout_ms,
            },
            Txn::CloseSession { .. } => {
                self.owners.remove(&header.session);
                self.waiting.remove(&header.session);
                self.touched.remove(&header.session);
                SessionChange::Closed(header.session)
            }
            _ => SessionChange::None,
        };
        let asked_here = answered.is_some();
        let to = answered.map(|waiting| (waiting.cnxn, waiting.cxid));
        let (zxid, time) = (header.zxid, Some(header.time));
        self.commits.push(Committed { zxid, time, to, outcome, changes, before, session });
        if asked_here {
            self.answer_own(header.session);
        }
        let found = self.data_tree.tree().digest();
        let mismatch = digest.filter(|logged| self.digests && *logged != found).map(|logged| (logged, found));
        self.digest_mismatches += u64::from(mismatch.is_some());
        mismatch
    }

    /// How often since the last call the tree had another digest than the leader's.
    pub fn take_digest_mismatches(&mut self) -> u64 {
        std::mem::take(&mut self.digest_mismatches)
    }

    /// What was committed since the last call, and the tree that shows it.
    pub fn take_batch(&mut self) -> Option<CommitBatch> {
        if self.commits.is_empty() {
            return None;
        }
        let commits = std::mem::take(&mut self.commits);
        Some(CommitBatch { commits, tree: self.data_tree.tree().clone() })
    }

    /// Takes back a batch that nobody looks at any more: its memory serves for the next.
    pub fn reuse(&mut self, batch: CommitBatch) {
        if self.commits.is_empty() {
            self.commits = batch.into_room();
        }
    }

    /// The committed version.
    pub fn tree(&self) -> &Tree {
        self.data_tree.tree()
    }

    /// The last transaction applied.
    pub fn committed(&self) -> Zxid {
        self.data_tree.tree().zxid()
    }

    /// Sessions heard of since the last call, with their timeouts in ms.
    pub fn take_touched(&mut self) -> BTreeMap<SessionId, i32> {
        std::mem::take(&mut self.touched)
    }

    /// What is to be told to the shards now, after what [`Replica::take_batch`] gives.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// What is to be told to the leader, in order.
    pub fn take_forwards(&mut self) -> Vec<Forward> {
        std::mem::take(&mut self.forwards)
    }

    fn write(&mut self, request: WriteRequest) {
        let WriteRequest { cnxn, session, xid, op, ids, capture, forward } = request;
        let is_local = self.is_local(session);
        let owns = match &mut self.local {
            Some(local) if is_local => local.check(session, cnxn).is_ok(),
            _ => self.owners.get(&session) == Some(&cnxn),
        };
        if !owns && !planted::is(Bug::MovedSessionWrites) {
            return self.answers.push(Answer::Close(cnxn));
        }
        let admission = self.local.as_mut().map_or(Admission::Plain, |local| local.admit(session, &op));
        if let Admission::Upgraded(timeout_ms) = admission {
            self.upgrade(session, timeout_ms, cnxn);
        }
        let own = match op {
            _ if admission == Admission::Refused => Some(Own::Refused(ErrorCode::EphemeralOnLocalSession)),
            WriteOp::GetEphemerals { prefix } => Some(Own::Ephemerals(prefix)),
            WriteOp::CloseSession if is_local => Some(Own::Close),
            _ => None,
        };
        if let Some(own) = own {
            let waiting = Waiting { cxid: xid, cnxn, capture, own: Some(own) };
            let queue = self.waiting.entry(session).or_default();
            queue.push_back(waiting);
            if queue.len() == 1 {
                self.answer_own(session);
            }
            return;
        }
        let (op, body) = *forward.expect(FORWARDED);
        self.touched.extend(self.data_tree.sessions().get(&session).map(|timeout_ms| (session, *timeout_ms)));
        self.forward(session, xid, op, body, ids.to_vec(), cnxn, capture);
    }

    fn is_local(&self, session: SessionId) -> bool {
        self.local.as_ref().is_some_and(|local| local.contains(session))
    }

    /// Has a session made global that was local until now. What its client asks goes out behind that.
    fn upgrade(&mut self, session: SessionId, timeout_ms: i32, cnxn: CnxnId) {
        self.owners.insert(session, cnxn);
        self.upgrading.insert(session);
        let mut body = Vec::with_capacity(4);
        body.put_int(timeout_ms);
        let request = ForwardedRequest { session, cxid: 0, op: OP_CREATE_SESSION, body: body.into() };
        self.forwards.push(Forward::Request(request, Vec::new()));
    }

    #[allow(clippy::too_many_arguments)] // The fields of two records.
    fn forward(
        &mut self,
        session: SessionId,
        cxid: i32,
        op: i32,
        body: Bytes,
        ids: Vec<Id>,
        cnxn: CnxnId,
        capture: bool,
    ) {
        self.waiting.entry(session).or_default().push_back(Waiting { cxid, cnxn, capture, own: None });
        self.forwards.push(Forward::Request(ForwardedRequest { session, cxid, op, body }, ids));
    }

    /// Answers the requests at the head of a session's queue that need no leader.
    fn answer_own(&mut self, session: SessionId) {
        let Some(queue) = self.waiting.get_mut(&session) else { return };
        while let Some(own) = queue.front_mut().and_then(|waiting| waiting.own.take()) {
            let waiting = queue.pop_front().expect("looked at just now");
            let mut change = SessionChange::None;
            let outcome = match own {
                Own::Ephemerals(Some(prefix)) => {
                    Outcome::Paths(self.data_tree.ephemerals_below(session, &prefix).cloned().collect())
                }
                Own::Ephemerals(None) => Outcome::Failed(ErrorCode::MarshallingError.code()),
                Own::Refused(code) => Outcome::Failed(code.code()),
                Own::Close => {
                    if let Some(local) = &mut self.local {
                        local.close(session);
                    }
                    change = SessionChange::Closed(session);
                    Outcome::Done
                }
            };
            let tree = self.data_tree.tree();
            self.commits.push(Committed {
                zxid: tree.zxid(),
                time: None,
                to: Some((waiting.cnxn, waiting.cxid)),
                outcome,
                changes: Vec::new(),
                before: waiting.capture.then(|| Box::new(tree.clone())),
                session: change,
            });
        }
        if queue.is_empty() {
            self.waiting.remove(&session);
        }
    }

    /// The request that this transaction answers, if it came from here.
    fn answered(&mut self, session: SessionId, cxid: i32) -> Option<Waiting> {
        let queue = self.waiting.get_mut(&session)?;
        let answered = if queue.front()?.cxid == cxid { queue.pop_front() } else { None };
        if queue.is_empty() {
            self.waiting.remove(&session);
        }
        answered
    }
}

/// A request that no leader of either kind carries out: it makes an error (`BadArguments`) of it, in the session and under the
/// number of this one.
fn refused_by_all(request: &ForwardedRequest) -> ForwardedRequest {
    let mut body = Vec::new();
    body.put_string("/");
    body.put_int(-1);
    ForwardedRequest { session: request.session, cxid: request.cxid, op: OpCode::Delete as i32, body: body.into() }
}
