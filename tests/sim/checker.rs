//! What must hold of every run, whatever goes wrong in it. Nothing here asks a server what it believes: the checker sees what
//! servers log, make visible and answer, and keeps its own account of it.
//!
//! | property | what it says |
//! | --- | --- |
//! | `PrimaryIntegrity` | a zxid stands for one transaction, and has one predecessor; an epoch has one leader |
//! | `Agreement` | the committed transactions are one sequence: what any server makes visible is a prefix of it |
//! | `Durability` | what was committed, and so what was acknowledged, is part of every later leader's history |
//! | `Consistency` | every transaction keeps the rules of the tree, and equal prefixes make equal trees |
//! | `Linearizability` | writes take effect between request and reply, in the order of their zxids |
//! | `SessionOrder` | a session never goes back in time, on whichever servers it is; a read shows the state of its zxid |
//! | `WatchOrder` | no client sees a state whose watch event it is still owed; no event is made up |
//! | `SessionLife` | no session ends before its time; ephemerals go with it, exactly then |
//! | `Protocol` | servers of one kind find nothing wrong with what they say to each other |
//! | `Liveness` | once the faults have ended, everybody is served again within a bound |
//! | `Recovery` | a server starts from whatever a crash has left, and finds it whole |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ringkeeper::proto::txn::{LoggedTxn, Txn};
use ringkeeper::types::{SessionId, Zxid};

use crate::model::Model;

/// The first thing that went wrong.
pub struct Violation(pub String);

/// A transaction that some server has logged.
struct Known {
    payload: Bytes,
    before: Zxid,
}

/// A client's proof of life: it asked at this time, and this server answered.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    pub asked_us: u64,
    pub server: usize,
    pub timeout_ms: i32,
}

#[derive(Default)]
pub struct Checker {
    pub model: Model,
    known: BTreeMap<Zxid, Known>,
    /// The sequence of committed transactions.
    committed: Vec<Zxid>,
    /// The digest of the tree after some of them, and the server that showed it first.
    digests: BTreeMap<Zxid, (u64, usize)>,
    leaders: BTreeMap<u32, usize>,
    /// The newest zxid of a write whose reply a client has.
    pub acknowledged: Zxid,
    pub signs: BTreeMap<SessionId, Sign>,
    /// That some client was given.
    pub sessions: BTreeSet<SessionId>,
    /// The last request of each session that was carried out.
    done: BTreeMap<SessionId, i32>,
    /// When any fault was last in force.
    pub disturbed_us: u64,
    pub violation: Option<Violation>,
}

impl Checker {
    pub fn new() -> Checker {
        Checker { model: Model::new(), ..Checker::default() }
    }

    /// Notes the first violation.
    pub fn violated(&mut self, property: &str, what: impl std::fmt::Display) {
        if self.violation.is_none() {
            self.violation = Some(Violation(format!("{property}: {what}")));
        }
    }

    pub fn last_committed(&self) -> Zxid {
        self.committed.last().copied().unwrap_or_default()
    }

    pub fn committed_count(&self) -> usize {
        self.committed.len()
    }

    /// A server has handed a transaction to its log, behind `before`.
    pub fn logged(&mut self, server: usize, zxid: Zxid, payload: &Bytes, before: Zxid) {
        let Some(known) = self.known.get(&zxid) else {
            self.known.insert(zxid, Known { payload: payload.clone(), before });
            return;
        };
        if known.payload != *payload {
            self.violated(
                "PrimaryIntegrity",
                format!("server {server} logs another transaction {zxid} than others did"),
            );
        } else if known.before != before {
            let known = known.before;
            self.violated(
                "PrimaryIntegrity",
                format!("server {server} logs {zxid} behind {before}, others behind {known}"),
            );
        }
    }

    /// A server leads this epoch, with an established history.
    pub fn leads(&mut self, server: usize, epoch: u32) {
        let leader = *self.leaders.entry(epoch).or_insert(server);
        if leader != server {
            self.violated("PrimaryIntegrity", format!("servers {leader} and {server} both lead epoch {epoch:x}"));
        }
    }

    /// A server shows its clients the tree after this transaction.
    pub fn shown(&mut self, server: usize, zxid: Zxid, digest: u64) {
        self.commit(server, zxid);
        let (known, first) = *self.digests.entry(zxid).or_insert((digest, server));
        if known != digest {
            let what = format!("after {zxid} server {server} has another tree than server {first} had");
            self.violated("Consistency", what);
        }
    }

    /// These transactions became visible one after the other, behind `before`.
    pub fn visible(&mut self, server: usize, before: Zxid, zxids: impl Iterator<Item = Zxid>) {
        let mut last = before;
        // A listing of ephemerals takes no place of its own.
        for zxid in zxids {
            if zxid == last {
                continue;
            }
            if let Some(known) = self.known.get(&zxid).filter(|known| known.before != last) {
                let known = known.before;
                self.violated("Agreement", format!("server {server} makes {zxid} visible behind {last}, not {known}"));
            }
            last = zxid;
        }
        self.commit(server, last);
    }

    /// Everything up to `zxid` is committed.
    fn commit(&mut self, server: usize, zxid: Zxid) {
        let last = self.last_committed();
        if zxid <= last {
            if zxid > Zxid::ZERO && self.committed.binary_search(&zxid).is_err() {
                self.violated(
                    "Agreement",
                    format!("server {server} shows {zxid}, which is none of the committed ones"),
                );
            }
            return;
        }
        let mut chain = Vec::new();
        let mut at = zxid;
        while at > last {
            let Some(known) = self.known.get(&at) else {
                return self.violated("Agreement", format!("server {server} shows {at}, which nobody has logged"));
            };
            chain.push(at);
            at = known.before;
        }
        if at != last {
            let what = format!("{zxid}, shown by server {server}, follows {at}; {last} was committed and is lost");
            return self.violated("Durability", what);
        }
        for zxid in chain.into_iter().rev() {
            let payload = self.known[&zxid].payload.clone();
            self.committed.push(zxid);
            match LoggedTxn::decode(&payload) {
                Ok(logged) => {
                    self.keeps_order(zxid, &logged);
                    if let Err(what) = self.model.apply(zxid, &logged) {
                        self.violated("Consistency", what);
                    }
                }
                Err(error) => self.violated("Consistency", format!("{zxid} cannot be read: {error}")),
            }
        }
    }

    /// What a session asks for is done in the order in which it was asked for, or not at all.
    fn keeps_order(&mut self, zxid: Zxid, logged: &LoggedTxn) {
        let (session, cxid) = (logged.header.session, logged.header.cxid);
        if cxid <= 0 || matches!(logged.txn, Txn::Error { .. }) {
            return;
        }
        let last = self.done.insert(session, cxid).unwrap_or_default();
        if cxid <= last {
            let what = format!("request {cxid} of session {session} is done at {zxid}, and {last} was before");
            self.violated("SessionOrder", what);
        }
    }

    /// A server says why a role of its has ended: not because another did not keep to the protocol.
    pub fn heard(&mut self, server: usize, note: &str) {
        let breaches = ["there is a gap", "is committed", "came at stage", "cannot be read", "it sent "];
        if breaches.iter().any(|breach| note.contains(breach)) {
            self.violated("Protocol", format!("server {}: {note}", server + 1));
        }
    }

    /// The committed transaction of that zxid.
    pub fn transaction(&self, zxid: Zxid) -> Option<LoggedTxn> {
        self.committed.binary_search(&zxid).ok()?;
        LoggedTxn::decode(&self.known[&zxid].payload).ok()
    }

    /// The committed transaction before that one.
    pub fn before(&self, zxid: Zxid) -> Zxid {
        let at = self.committed.partition_point(|committed| *committed < zxid);
        at.checked_sub(1).map_or(Zxid::ZERO, |at| self.committed[at])
    }

    /// A leader has made this transaction: was it the end of a session that lives?
    pub fn proposed(&mut self, server: usize, now_us: u64, tick_ms: u64, payload: &Bytes) {
        let Ok(LoggedTxn { header, txn, .. }) = LoggedTxn::decode(payload) else { return };
        if matches!(txn, Txn::Reconfig { .. }) {
            // Whoever leaves may know of clients what nobody else does.
            self.disturbed_us = now_us;
        }
        if !matches!(txn, Txn::CloseSession { .. }) {
            return;
        }
        if header.cxid != 0 {
            return;
        }
        let Some(sign) = self.signs.get(&header.session).copied() else { return };
        // Clocks differ by half a percent. A learner tells its leader of its clients twice a tick; what a fault may delay or
        // lose on that way is no promise.
        let timeout_us = sign.timeout_ms as u64 * 990;
        let lived_us = now_us.saturating_sub(sign.asked_us);
        let quiet = self.disturbed_us + 12_000 * tick_ms < sign.asked_us;
        let allowed_us = if sign.server == server { 0 } else { tick_ms * 1_000 + 300_000 };
        if (sign.server == server || quiet) && lived_us + allowed_us < timeout_us {
            let what = format!(
                "session {} is ended {} ms after server {} has heard of it; its timeout is {} ms",
                header.session,
                lived_us / 1000,
                sign.server + 1,
                sign.timeout_ms
            );
            self.violated("SessionLife", what);
        }
    }
}
