//! The client side of a shard: its connections, their sessions and watches, and the version of the tree
//! that answers their reads.
//!
//! A shard never waits for another to answer a read. Commits reach it in order, each with the version of the
//! tree that shows it; between two of them nothing changes. What a client may notice follows from three rules:
//!
//! * replies leave in the order of the requests: a read behind an unanswered write waits in `pending`, and then
//!   sees the version that its place in the session's order asks for, no later one;
//! * an event is put out before any reply that shows the change, because a commit's events are put out when
//!   the commit is taken in, before its reply and before the version is;
//! * a watch is set by the read that asks for it, on the version that the read shows.
//!
//! Pure: bytes and messages in, bytes and messages out. The driver (`shard::clients`) moves them.
//! Source: `NIOServerCnxn`, `ZooKeeperServer.processConnectRequest`, `CommitProcessor`, `FinalRequestProcessor`.

pub mod auth;
mod counters;
mod four_letter;
mod listing;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use siphasher::sip::SipHasher13;

pub use self::counters::{Counters, Latency, Summary};
use self::four_letter::MASK_BYTES;
pub use self::four_letter::{Asked, FourLetter};
use self::listing::Listing;
pub use self::state::{CloseReason, CnxnInfo};
use self::state::{Cnxn, Counts, Pending, Phase};
use crate::jute::{Reader as JuteReader, Write};
use crate::planted::{self, Bug};
use crate::proto::client::{
    AclList, ConnectRequest, ConnectResponse, EventType, Id, ReplyHeader, RequestHeader, XID_PING, encode_event, perms,
};
use crate::proto::frame::{self, Next};
use crate::proto::op::{OpCode, ReadOp, WriteOp};
use crate::proto::{ErrorCode, client};
use crate::request::pipeline::{Answer, Ask, CommitBatch, Committed, SessionChange, WriteRequest};
use crate::request::prepare::Rules;
use crate::request::{read, reply};
use crate::session;
use crate::tree::watch::{Place, Slot, Watches};
use crate::tree::{Outcome, Tree, acl};
use crate::types::{CnxnId, Instant, SessionId, Zxid};

/// A connection whose unsent output is larger than this is not read from until it has taken some.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// A connection whose unsent output is larger than this is closed: it does not read the events it asked for.
/// One reply may be larger.
pub const OUTPUT_MAX_BYTES: usize = 64 << 20;
/// Unsent output of all connections of a shard beyond which those that take none are closed, the largest first. From
/// half of it on, a connection gets no further reply before it has taken the last.
pub const OUTPUT_TOTAL_MAX: usize = 256 << 20;
/// A connection that takes none of its output for this long counts as one that does not read.
pub const OUTPUT_STUCK_MS: u64 = 5_000;
/// An event for more connections than this is told by and by.
const EVENTS_AT_ONCE_MAX: usize = 256;
/// Connections that are told of events in one step of what is done by and by. Each then sends, and a write of somebody else
/// waits for a step or two at each of its own steps: with 256 it took up to 12 ms at p99 beside a crowd of 20,000, with 64 7
/// ms.
const EVENTS_PER_STEP_MAX: usize = 64;
/// Connections that are still to be told of events, beyond which further ones are told at once.
const EVENTS_LATER_MAX: usize = 4 << 20;
/// Watches that are tidied up in one step.
const TIDY_PER_STEP_MAX: usize = 2048;
/// The children of a parent with more than these are listed by and by.
const LISTED_AT_ONCE_MAX: usize = 8192;
/// Children that are listed in one step.
const LISTED_PER_STEP: usize = 4096;
/// The most frames of one connection that are worked off before others get their turn.
pub const FRAMES_PER_TURN_MAX: usize = 256;

/// What a shard needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This shard's index.
    pub shard: u16,
    /// `jute.maxbuffer`.
    pub frame_bytes_max: usize,
    /// `minSessionTimeout`.
    pub timeout_min_ms: i32,
    /// `maxSessionTimeout`.
    pub timeout_max_ms: i32,
    /// `nio.sessionlessCnxnTimeout`.
    pub sessionless_timeout_ms: u64,
    /// This shard's part of `globalOutstandingLimit`.
    pub outstanding_max: usize,
    /// See [`RequestThrottle`].
    pub throttle: RequestThrottle,
    /// `largeRequestThreshold`: requests of more bytes are large.
    pub large_request_bytes: usize,
    /// This shard's part of `largeRequestMaxBytes`.
    pub large_requests_bytes_max: usize,
    /// This shard's part of `ringkeeper.maxWatches`.
    pub watches_max: usize,
    /// ACL rules.
    pub rules: Rules,
    /// `DigestAuthenticationProvider.superDigest`.
    pub super_digest: Option<String>,
    /// `enforce.auth.schemes`; empty if nothing is enforced.
    pub enforced_auth_schemes: Vec<String>,
    /// Whether requests may have to be forwarded to a leader.
    pub forwards: bool,
    /// The four-letter words that `4lw.commands.whitelist` allows.
    pub four_letter_words: Vec<FourLetter>,
}

/// When requests wait before they are looked at, in the buffers of their connections.
#[derive(Clone, Copy, Debug)]
pub struct RequestThrottle {
    /// This shard's part of `request_throttle_max_requests`: with so many requests that wait for their replies, no
    /// further one is looked at; 0 is no limit.
    pub requests_max: usize,
    /// `request_throttle_stall_time`: whether one may go on is looked at again after this many ms at most.
    pub stall_ms: u64,
    /// `request_throttle_drop_stale` with `request_stale_latency_check`: a request that has waited for longer than its
    /// session's timeout ends its connection.
    pub stale_dropped: bool,
    /// `throttled_op_wait_time`: a request that has waited for more ms than this is refused; `None` (0) is never.
    pub wait_ms_max: Option<u64>,
}

/// How far [`Cnxns::received`] has come with a connection's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More bytes are needed: this many in all for the next frame.
    Need(usize),
    /// There may be whole frames left, but others first: call again.
    Again,
    /// Not before a reply is made; the shard says so by [`Cnxns::take_ready`].
    Paused,
    /// Not before output is taken by [`Cnxns::take_output`].
    Full,
    /// The connection is closing: read no more.
    Closing,
}

/// An event for many connections. Each is told of it in its turn, or before anything else that it is sent.
struct Telling {
    frame: Vec<u8>,
    acl: AclList,
    /// Sorted.
    slots: Vec<Slot>,
    /// How many of them have had their turn.
    told: usize,
}

/// The connections of one shard.
pub struct Cnxns {
    settings: Settings,
    /// What the server is while it serves: `standalone`, `leader`, `follower`, `observer` or `read-only`.
    role: Option<&'static str>,
    /// It serves reads alone, because there is no leader.
    read_only: bool,
    tree: Tree,
    watches: Watches,
    slots: Vec<Option<Cnxn>>,
    free: Vec<Slot>,
    /// How often each slot was used.
    generations: Vec<u32>,
    by_session: HashMap<SessionId, Slot, BuildHasherDefault<SipHasher13>>,
    /// Requests with an xid above 0 that wait for their reply.
    outstanding: usize,
    /// Bytes of large ones among them.
    large_bytes: usize,
    /// Connections whose requests the throttle has stopped, in that order.
    throttled: VecDeque<Slot>,
    /// When it was last looked whether one may go on.
    throttle_checked: Instant,
    /// Events that are told by and by, oldest first.
    tellings: VecDeque<Telling>,
    /// Number of the first of them, counted from the start.
    first_telling: u64,
    /// Connections that are still to be told of one of them.
    told_later: usize,
    /// Connections with a reply that is made by and by; each has its turn.
    listings: VecDeque<CnxnId>,
    /// There is much unsent output.
    tight: bool,
    now: Instant,
    /// When touches were last handed on: of what was heard since, the ordering shard does not know yet.
    touched: Instant,
    /// When it last went on after it had been stopped: silence counts from then on.
    woke: Instant,
    asks: Vec<Ask>,
    ready: Vec<Slot>,
    /// Those whose writes the batch of commits that is taken in has answered; empty between two batches.
    answered: Vec<Slot>,
    texts: Vec<Asked>,
    counters: Counters,
}

impl Cnxns {
    /// No connections yet, on that version of the tree.
    pub fn new(settings: Settings, tree: Tree) -> Cnxns {
        Cnxns {
            settings,
            role: None,
            read_only: false,
            tree,
            watches: Watches::default(),
            slots: Vec::new(),
            free: Vec::new(),
            generations: Vec::new(),
            by_session: HashMap::default(),
            outstanding: 0,
            large_bytes: 0,
            throttled: VecDeque::new(),
            throttle_checked: Instant(0),
            tellings: VecDeque::new(),
            first_telling: 0,
            told_later: 0,
            listings: VecDeque::new(),
            tight: false,
            now: Instant(0),
            touched: Instant(0),
            woke: Instant(0),
            asks: Vec::new(),
            ready: Vec::new(),
            answered: Vec::new(),
            texts: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Serves clients from here on, as `role`, on that version of the tree.
    pub fn serve(&mut self, role: &'static str, tree: Tree) {
        (self.role, self.read_only, self.tree) = (Some(role), false, tree);
    }

    /// Serves reads of that version of the tree to clients that ask for no more, and refuses writes.
    pub fn serve_read_only(&mut self, role: &'static str, tree: Tree) {
        (self.role, self.read_only, self.tree) = (Some(role), true, tree);
    }

    /// Whether it serves reads alone.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Serves clients no more: ends all their connections, so that they look for another server.
    pub fn unserve(&mut self) {
        self.role = None;
        let ids: Vec<CnxnId> = self.slots.iter().flatten().map(|cnxn| cnxn.id).collect();
        for id in ids {
            self.close_unserved(id);
        }
    }

    fn close_unserved(&mut self, id: CnxnId) {
        self.counters.closed_unserved += 1;
        self.close(id, CloseReason::NotServing);
    }

    /// What the server is, if it serves.
    pub fn role(&self) -> Option<&'static str> {
        self.role
    }

    /// The version that reads are answered from.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The watches of all connections.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that wait for their reply.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// See [`Counters`].
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Starts the counters anew (`srst`).
    pub fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    /// Starts those of each connection anew (`crst`).
    pub fn reset_connections(&mut self) {
        for cnxn in self.slots.iter_mut().flatten() {
            cnxn.counts = Counts::default();
        }
    }

    /// The data watches from a place on, whose each is and its path, and the place to go on from. At most `max` are looked
    /// at.
    pub fn data_watches(&self, from: Place, max: usize) -> (Vec<(SessionId, &str)>, Option<Place>) {
        let session = |slot: Slot| self.slots.get(slot as usize)?.as_ref()?.session();
        let (watches, next) = self.watches.data_watches(from, max);
        let owned = watches.into_iter().map(|(slot, path)| (session(slot).unwrap_or_default(), path));
        (owned.collect(), next)
    }

    /// Each connection, for `stat` and `cons`.
    pub fn infos(&self) -> impl Iterator<Item = CnxnInfo> {
        self.slots.iter().flatten().map(Cnxn::info)
    }

    /// Takes up a new connection.
    pub fn accept(&mut self, now: Instant, peer: SocketAddr) -> CnxnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            (self.slots.len() - 1) as Slot
        });
        let generation = self.generations[slot as usize];
        let id = CnxnId { shard: self.settings.shard, slot, generation };
        let mut cnxn = Cnxn::new(id, peer, now);
        // What is still to be told is for others, one that had this slot perhaps.
        cnxn.told = self.first_telling + self.tellings.len() as u64;
        self.slots[slot as usize] = Some(cnxn);
        id
    }

    /// The client or the network has ended a connection, of which [`Cnxns::disconnected`] tells.
    pub fn lost(&mut self) {
        self.counters.dropped += 1;
    }

    /// The socket is gone: forgets the connection, not its session.
    pub fn disconnected(&mut self, id: CnxnId) {
        let Some(cnxn) = self.get(id) else { return };
        let (waiting, large_bytes) = (cnxn.outstanding(), cnxn.pending.iter().map(Pending::large_bytes).sum::<usize>());
        let heard = cnxn.heard_since(self.touched);
        let session = cnxn.session();
        self.outstanding -= waiting;
        self.large_bytes -= large_bytes;
        self.asks.extend(heard.map(|heard| Ask::Touch(vec![heard])));
        if let Some(session) = session
            && self.by_session.get(&session) == Some(&id.slot)
        {
            self.by_session.remove(&session);
        }
        let done = self.watches.remove_all(id.slot);
        self.slots[id.slot as usize] = None;
        self.generations[id.slot as usize] += 1;
        if done {
            self.free.push(id.slot);
        }
    }

    /// Whether there is something to be done by and by.
    pub fn has_more(&self) -> bool {
        !self.tellings.is_empty() || !self.listings.is_empty() || self.watches.is_untidy()
    }

    /// Does a bounded part of what is to be done by and by: listing many children, telling many connections of an event,
    /// forgetting many watches.
    pub fn do_some(&mut self) {
        if let Some(id) = self.listings.pop_front() {
            self.list_some(id);
        }
        let tidied = self.watches.tidy_up(TIDY_PER_STEP_MAX);
        // A slot whose connection is still there will be free when that has gone.
        self.free.extend(tidied.into_iter().filter(|slot| self.slots[*slot as usize].is_none()));
        for _ in 0..EVENTS_PER_STEP_MAX {
            let Some(telling) = self.tellings.front_mut() else { return };
            match telling.slots.get(telling.told).copied() {
                Some(slot) => {
                    telling.told += 1;
                    self.told_later -= 1;
                    self.tell(slot, 0);
                }
                None => {
                    self.tellings.pop_front();
                    self.first_telling += 1;
                }
            }
        }
    }

    fn list_some(&mut self, id: CnxnId) {
        let now = self.now;
        let Some(cnxn) = self.get_mut(id).filter(|cnxn| !cnxn.abort) else { return };
        let Some(listing) = &mut cnxn.listing else { return };
        if !listing.step(LISTED_PER_STEP) {
            return self.listings.push_back(id);
        }
        let Some(listing) = cnxn.listing.take() else { return };
        let Listing { at, op, header, since, .. } = listing;
        let mut frame = listing.into_frame();
        let bytes = frame.len();
        let mut behind = cnxn.out.split_off(at);
        cnxn.out.append(&mut frame);
        cnxn.out.append(&mut behind);
        cnxn.counts.answered(op, header.xid, header.zxid, since, now);
        cnxn.counts.sent += 1;
        self.counters.replied(bytes);
        self.counters.answered(now.since_ms(since), false);
        self.ready.push(id.slot);
    }

    /// Sends an event to a connection that is to be told of it by and by, if it has not been.
    fn tell(&mut self, slot: Slot, telling: usize) {
        let Cnxns { tellings, first_telling, slots, settings, counters, ready, .. } = self;
        let Some(cnxn) = slots[slot as usize].as_mut().filter(|cnxn| cnxn.close.is_none()) else { return };
        let number = *first_telling + telling as u64;
        if cnxn.told > number {
            return;
        }
        cnxn.told = number + 1;
        let Telling { frame, acl, .. } = &tellings[telling];
        if !settings.rules.skip_acl && acl::check(acl, perms::READ, &cnxn.ids).is_err() {
            return;
        }
        cnxn.out.extend_from_slice(frame);
        event_put(cnxn, frame.len(), counters);
        ready.push(slot);
    }

    /// Tells a connection of all events that it is still to be told of, before it is sent something else.
    fn tell_all(&mut self, slot: Slot) {
        for telling in 0..self.tellings.len() {
            let Telling { slots, told, .. } = &self.tellings[telling];
            // One that had its turn has a higher number than this telling's.
            if slots[*told..].binary_search(&slot).is_ok() {
                self.tell(slot, telling);
            }
        }
    }

    /// Works off the whole frames at the head of `bytes`.
    pub fn received(&mut self, now: Instant, id: CnxnId, bytes: &mut BytesMut) -> Progress {
        self.now = now;
        for _ in 0..FRAMES_PER_TURN_MAX {
            let limit = self.settings.frame_bytes_max;
            let over = self.outstanding > self.settings.outstanding_max;
            let requests_max = self.settings.throttle.requests_max;
            let throttled = requests_max > 0 && self.outstanding >= requests_max;
            let (tight, large) = (self.tight, self.settings.large_request_bytes);
            let large_left = self.settings.large_requests_bytes_max.saturating_sub(self.large_bytes);
            let Some(cnxn) = self.get_mut(id) else { return Progress::Closing };
            if cnxn.close.is_some() {
                return Progress::Closing;
            }
            let waits = matches!(cnxn.phase, Phase::Shaking { .. } | Phase::Asked) || cnxn.listing.is_some();
            if waits || (over && !cnxn.pending.is_empty()) {
                return Progress::Paused;
            }
            if cnxn.out.len() > OUTPUT_PAUSE_BYTES || (tight && cnxn.unsent() > 0) {
                return Progress::Full;
            }
            if cnxn.phase == Phase::New
                && let Some(head) = bytes.first_chunk::<4>()
                && let Some(word) = FourLetter::from_wire(*head)
            {
                let mask_needed = word.has_mask() && self.settings.four_letter_words.contains(&word);
                if mask_needed && bytes.len() < head.len() + MASK_BYTES {
                    return Progress::Need(head.len() + MASK_BYTES);
                }
                let mask = bytes[head.len()..].first_chunk::<MASK_BYTES>().filter(|_| word.has_mask());
                let mask = mask.map_or(0, |mask| i64::from_be_bytes(*mask));
                return self.four_letter(Asked { cnxn: id, word, mask });
            }
            if throttled && frame::is_whole(bytes) && matches!(cnxn.phase, Phase::Established { .. }) {
                cnxn.throttled.get_or_insert(now);
                if !std::mem::replace(&mut cnxn.in_throttle, true) {
                    self.counters.throttle_waits += 1;
                    self.throttled.push_back(id.slot);
                }
                return Progress::Paused;
            }
            match frame::next(bytes, limit) {
                Next::Need(bytes) if bytes - 4 > large && bytes - 4 > large_left => {
                    cnxn.close(CloseReason::LargeRequest);
                    self.counters.large_rejected += 1;
                    return Progress::Closing;
                }
                Next::Need(bytes) => {
                    cnxn.throttled = None;
                    return Progress::Need(bytes);
                }
                Next::BadLength(len) => {
                    cnxn.close(CloseReason::BadLength(len));
                    return Progress::Closing;
                }
                Next::Frame(frame) => self.frame(now, id, frame),
            }
        }
        Progress::Again
    }

    /// Takes in writes that have become visible.
    pub fn committed(&mut self, now: Instant, batch: &CommitBatch) {
        self.now = now;
        let mut answered = std::mem::take(&mut self.answered);
        for commit in &batch.commits {
            self.commit(now, commit, &mut answered);
        }
        self.tree = batch.tree.clone();
        answered.sort_unstable();
        answered.dedup();
        for slot in answered.drain(..) {
            self.answer_reads(now, slot, None);
        }
        self.answered = answered;
        self.let_throttled_go();
    }

    /// Takes in what the ordering shard says outside of the order.
    pub fn answer(&mut self, now: Instant, answer: &Answer) {
        match answer {
            Answer::Attached { cnxn, session } => {
                let Some(found) = self.get_mut(*cnxn) else { return };
                let Phase::Shaking { timeout_ms, read_only } = found.phase else { return };
                match session {
                    Some(session) => {
                        self.establish(now, *cnxn, *session, session::password(*session), timeout_ms, read_only);
                    }
                    None => {
                        found.put_frame(|out| ConnectResponse::invalid(read_only).encode(out));
                        found.close(CloseReason::InvalidSession);
                        self.ready.push(cnxn.slot);
                    }
                }
            }
            Answer::Synced(cnxn) => {
                let Some(found) = self.get_mut(*cnxn) else { return };
                if let Some(rest) = found.overtaken_syncs.checked_sub(1) {
                    found.overtaken_syncs = rest;
                    return;
                }
                let waiting = found.pending.iter_mut().find_map(|pending| match pending {
                    Pending::Sync { told: told @ false, .. } => Some(told),
                    _ => None,
                });
                *waiting.expect("each sync is answered once") = true;
                self.answer_reads(now, cnxn.slot, None);
            }
            Answer::Replied(committed) => {
                let mut answered = Vec::new();
                self.commit(now, committed, &mut answered);
                for slot in answered {
                    self.answer_reads(now, slot, None);
                }
            }
            Answer::Throttled(cnxn) => self.close(*cnxn, CloseReason::Throttled),
            Answer::Close(cnxn) => self.close(*cnxn, CloseReason::SessionMoved),
            Answer::Ended(cnxn) => self.close(*cnxn, CloseReason::SessionClosed),
            Answer::TryAnother(cnxn) => self.close(*cnxn, CloseReason::SessionInReadOnlyMode),
            Answer::Revalidated { .. } => {}
        }
    }

    /// Answers a four-letter word and closes.
    pub fn answer_text(&mut self, id: CnxnId, text: &[u8]) {
        self.counters.sent += 1;
        if let Some(cnxn) = self.get_mut(id) {
            cnxn.out.extend_from_slice(text);
            cnxn.close(CloseReason::FourLetter);
            self.ready.push(id.slot);
        }
    }

    /// Closes a connection once its output is sent.
    pub fn close(&mut self, id: CnxnId, reason: CloseReason) {
        if let Some(cnxn) = self.get_mut(id) {
            cnxn.close(reason);
            self.ready.push(id.slot);
        }
    }

    /// Does what time brings: tells which sessions were heard of, closes connections that never shook hands or
    /// have fallen silent. To be called a few times a second.
    pub fn tick(&mut self, now: Instant) {
        let heard: Vec<(SessionId, Instant)> =
            self.slots.iter().flatten().filter_map(|cnxn| cnxn.heard_since(self.touched)).collect();
        if !heard.is_empty() {
            self.asks.push(Ask::Touch(heard));
        }
        // Whoever spoke while the server was stopped has not been heard yet: see `session`.
        if now.since_ms(self.touched) >= session::STOPPED_MS {
            self.woke = now;
        }
        self.touched = now;
        self.now = now;
        self.relieve_output();
        if now.since_ms(self.throttle_checked) >= self.settings.throttle.stall_ms {
            self.throttle_checked = now;
            self.let_throttled_go();
        }
        let sessionless_ms = self.settings.sessionless_timeout_ms;
        for cnxn in self.slots.iter_mut().flatten().filter(|cnxn| cnxn.close.is_none()) {
            let silent_ms = now.since_ms(cnxn.heard.max(self.woke));
            let reason = match cnxn.phase {
                Phase::Established { timeout_ms, .. } if silent_ms > timeout_ms.max(0) as u64 => CloseReason::Silent,
                Phase::New | Phase::Asked if silent_ms > sessionless_ms => CloseReason::NoSession,
                _ => continue,
            };
            self.counters.sessionless_expired += u64::from(reason == CloseReason::NoSession);
            cnxn.abort(reason);
            self.ready.push(cnxn.id.slot);
        }
    }

    /// Whether there is something to be asked of the ordering shard.
    pub fn has_asks(&self) -> bool {
        !self.asks.is_empty()
    }

    /// What is to be asked of the ordering shard, in order.
    pub fn take_asks(&mut self) -> std::vec::Drain<'_, Ask> {
        self.asks.drain(..)
    }

    /// Slots with new output, a close due, or leave to go on reading. May hold a slot twice.
    pub fn take_ready(&mut self) -> std::vec::Drain<'_, Slot> {
        self.ready.drain(..)
    }

    /// Four-letter words to be answered by [`Cnxns::answer_text`].
    pub fn take_texts(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.texts)
    }

    /// Moves a connection's output to the end of `out`. Returns why it is to be closed after that, if it is.
    pub fn take_output(&mut self, id: CnxnId, out: &mut Vec<u8>) -> Option<CloseReason> {
        let now = self.now;
        let cnxn = self.get_mut(id)?;
        // Behind a reply that is not whole yet nothing is sent, and the connection is not closed.
        if let Some(listing) = cnxn.listing.as_mut().filter(|_| !cnxn.abort) {
            let behind = cnxn.out.split_off(std::mem::take(&mut listing.at));
            let mut before = std::mem::replace(&mut cnxn.out, behind);
            (cnxn.in_flight, cnxn.moved) = (before.len(), now);
            out.append(&mut before);
            return None;
        }
        (cnxn.in_flight, cnxn.moved) = (cnxn.out.len(), now);
        if out.is_empty() {
            std::mem::swap(out, &mut cnxn.out);
        } else {
            out.append(&mut cnxn.out);
        }
        cnxn.close
    }

    /// The client has taken some of the output that was handed out, not all.
    pub fn progressed(&mut self, id: CnxnId) {
        let now = self.now;
        if let Some(cnxn) = self.get_mut(id) {
            cnxn.moved = now;
        }
    }

    /// Why a connection is to be closed without waiting for its output to be taken, if it is.
    pub fn aborted(&self, id: CnxnId) -> Option<CloseReason> {
        self.get(id).filter(|cnxn| cnxn.abort).and_then(|cnxn| cnxn.close)
    }

    /// Lets requests go on that the throttle has stopped. Each connection looks for itself whether it may.
    fn let_throttled_go(&mut self) {
        let free = self.settings.throttle.requests_max.saturating_sub(self.outstanding);
        let count = free.min(self.throttled.len());
        for slot in self.throttled.drain(..count) {
            if let Some(cnxn) = &mut self.slots[slot as usize] {
                cnxn.in_throttle = false;
                self.ready.push(slot);
            }
        }
    }

    /// Looks how much output waits to be taken, and ends connections that let too much of it wait.
    fn relieve_output(&mut self) {
        let now = self.now;
        let is_stuck = |cnxn: &&mut Cnxn| cnxn.unsent() > 0 && now.since_ms(cnxn.moved) >= OUTPUT_STUCK_MS;
        let mut total: usize = self.slots.iter().flatten().map(Cnxn::unsent).sum();
        self.tight = total > OUTPUT_TOTAL_MAX / 2;
        // One that is to be closed is not waited for either.
        for cnxn in self.slots.iter_mut().flatten().filter(is_stuck).filter(|cnxn| cnxn.close.is_some()) {
            cnxn.abort = true;
            self.ready.push(cnxn.id.slot);
        }
        if total <= OUTPUT_TOTAL_MAX {
            return;
        }
        let mut stuck: Vec<&mut Cnxn> = self.slots.iter_mut().flatten().filter(is_stuck).collect();
        stuck.sort_by_key(|cnxn| std::cmp::Reverse(cnxn.unsent()));
        for cnxn in stuck {
            if total <= OUTPUT_TOTAL_MAX {
                break;
            }
            total -= cnxn.unsent();
            cnxn.abort(CloseReason::NotReading);
            self.ready.push(cnxn.id.slot);
        }
    }

    fn get(&self, id: CnxnId) -> Option<&Cnxn> {
        self.slots.get(id.slot as usize)?.as_ref().filter(|cnxn| cnxn.id == id)
    }

    fn get_mut(&mut self, id: CnxnId) -> Option<&mut Cnxn> {
        self.slots.get_mut(id.slot as usize)?.as_mut().filter(|cnxn| cnxn.id == id)
    }

    fn four_letter(&mut self, asked: Asked) -> Progress {
        self.counters.received += 1;
        self.counters.received_bytes += 4;
        let refused = asked.word.refusal(&self.settings.four_letter_words);
        let cnxn = self.get_mut(asked.cnxn).expect("looked up by the caller");
        cnxn.counts.received += 1;
        cnxn.phase = Phase::Asked;
        match refused.or_else(|| self.role.is_none().then(|| asked.word.while_not_serving()).flatten()) {
            Some(text) => self.answer_text(asked.cnxn, text.as_bytes()),
            None => self.texts.push(asked),
        }
        Progress::Paused
    }

    fn frame(&mut self, now: Instant, id: CnxnId, frame: Bytes) {
        self.counters.received += 1;
        self.counters.received_bytes += 4 + frame.len() as u64;
        let cnxn = self.get_mut(id).expect("looked up by the caller");
        cnxn.heard = now;
        cnxn.counts.received += 1;
        match cnxn.phase {
            Phase::New => self.shake_hands(id, &frame),
            Phase::Established { session, .. } => {
                self.request(now, id, session, frame);
            }
            Phase::Shaking { .. } | Phase::Asked => unreachable!("frames of such a connection are not looked at"),
        }
    }

    fn shake_hands(&mut self, id: CnxnId, frame: &[u8]) {
        if self.role.is_none() {
            return self.close_unserved(id);
        }
        let (newest, read_only) = (self.tree.zxid(), self.read_only);
        let (min, max) = (self.settings.timeout_min_ms, self.settings.timeout_max_ms);
        let cnxn = self.get_mut(id).expect("looked up by the caller");
        let Ok(request) = ConnectRequest::decode(frame) else {
            return cnxn.close(CloseReason::BadHandshake);
        };
        if read_only && request.read_only != Some(true) {
            return cnxn.close(CloseReason::ReadOnlyMode);
        }
        if request.last_zxid_seen > newest {
            return cnxn.close(CloseReason::ClientAhead { seen: request.last_zxid_seen, newest });
        }
        let timeout_ms = request.timeout_ms.clamp(min, max);
        cnxn.phase = Phase::Shaking { timeout_ms, read_only: request.read_only.map(|_| read_only) };
        self.counters.connects += 1;
        self.counters.renewals += u64::from(request.session != SessionId::NONE);
        self.asks.push(match request.session {
            SessionId::NONE => Ask::OpenSession { cnxn: id, timeout_ms, session: None },
            session => Ask::Attach { cnxn: id, session, timeout_ms, password: request.password },
        });
    }

    fn establish(
        &mut self,
        now: Instant,
        id: CnxnId,
        session: SessionId,
        password: client::Password,
        timeout_ms: i32,
        read_only: Option<bool>,
    ) {
        let Some(cnxn) = self.get_mut(id) else { return };
        cnxn.phase = Phase::Established { session, timeout_ms };
        cnxn.heard = now;
        cnxn.put_frame(|out| ConnectResponse { timeout_ms, session, password, read_only }.encode(out));
        cnxn.counts.sent += 1;
        self.counters.sent += 1;
        self.by_session.insert(session, id.slot);
        self.ready.push(id.slot);
    }

    fn request(&mut self, now: Instant, id: CnxnId, session: SessionId, frame: Bytes) {
        let mut r = JuteReader::new(&frame);
        let Ok(header) = RequestHeader::decode(&mut r) else {
            return self.close(id, CloseReason::BadRequest);
        };
        let body = r.rest();
        if !matches!(OpCode::from_wire(header.op), Some(OpCode::Auth | OpCode::Sasl)) && !self.has_shown_enough(id) {
            self.put_header(id, header.xid, Zxid::ZERO, ErrorCode::SessionClosedRequireSaslAuth.code());
            return self.close(id, CloseReason::AuthRequired);
        }
        if self.is_refused_by_throttle(now, id, &header) {
            return;
        }
        let large = if frame.len() > self.settings.large_request_bytes { frame.len() as u32 } else { 0 };
        if large as usize > self.settings.large_requests_bytes_max.saturating_sub(self.large_bytes) {
            self.counters.large_rejected += 1;
            return self.close(id, CloseReason::LargeRequest);
        }
        match OpCode::from_wire(header.op) {
            Some(OpCode::Ping) => self.answer_ping(now, id, header.xid),
            Some(OpCode::Auth) => self.authenticate(id, header.xid, body),
            Some(OpCode::Sasl) => self.refuse_sasl(id, header.xid, body),
            Some(code) if self.read_only && code.needs_leader() => {
                self.wait(id, Pending::Refused { xid: header.xid, code: ErrorCode::NotReadOnly });
                self.answer_reads(now, id.slot, None);
            }
            Some(code) if code.is_write() => {
                let forward = self.settings.forwards.then(|| Box::new((header.op, frame.slice_ref(body))));
                let op = WriteOp::decode(code, &frame, body);
                let cnxn = self.get_mut(id).expect("looked up by the caller");
                let capture = cnxn.pending.back().is_some_and(|last| !matches!(last, Pending::Write { .. }));
                let ids = Arc::clone(&cnxn.ids);
                self.wait(id, Pending::Write { xid: header.xid, op: code, large, since: now });
                self.asks.push(Ask::Write(WriteRequest {
                    cnxn: id,
                    session,
                    xid: header.xid,
                    op,
                    ids,
                    capture,
                    forward,
                }));
            }
            Some(OpCode::Sync) => {
                let body = frame.slice_ref(body);
                let forward = self.settings.forwards.then(|| Box::new((session, header.xid, body.clone())));
                self.wait(id, Pending::Sync { xid: header.xid, body, told: false, large, since: now });
                self.asks.push(Ask::Sync { cnxn: id, forward });
            }
            Some(op) if op != OpCode::Check => {
                let cnxn = self.get_mut(id).expect("looked up by the caller");
                let ids = Arc::clone(&cnxn.ids);
                if cnxn.pending.is_empty() || planted::is(Bug::ReadOvertakesWrite) {
                    self.answer_read(now, now, id.slot, header.xid, op, body, &ids, None);
                } else {
                    let body = frame.slice_ref(body);
                    self.wait(id, Pending::Read { xid: header.xid, op, body, ids, large, since: now });
                }
            }
            _ => {
                // In its turn: what was asked before it is answered first.
                self.wait(id, Pending::Unknown { xid: header.xid, op: header.op });
                self.answer_reads(now, id.slot, None);
            }
        }
    }

    /// Whether the connection has an identity that `enforce.auth.schemes` asks for.
    fn has_shown_enough(&self, id: CnxnId) -> bool {
        let schemes = &self.settings.enforced_auth_schemes;
        let ids = || self.get(id).into_iter().flat_map(|cnxn| cnxn.ids.iter());
        schemes.is_empty() || ids().any(|id| schemes.contains(&id.scheme))
    }

    /// Refuses a request that the throttle has held up for too long, in its turn, or ends its connection.
    fn is_refused_by_throttle(&mut self, now: Instant, id: CnxnId, header: &RequestHeader) -> bool {
        let RequestThrottle { stale_dropped, wait_ms_max, .. } = self.settings.throttle;
        let cnxn = self.get_mut(id).expect("looked up by the caller");
        let (Some(since), Phase::Established { timeout_ms, .. }) = (cnxn.throttled, cnxn.phase) else { return false };
        let waited_ms = now.since_ms(since);
        if stale_dropped && waited_ms > timeout_ms.max(0) as u64 {
            self.counters.stale_dropped += 1;
            self.close(id, CloseReason::Stale);
            return true;
        }
        let exempt = matches!(OpCode::from_wire(header.op), Some(OpCode::Ping | OpCode::CloseSession | OpCode::Auth));
        if exempt || wait_ms_max.is_none_or(|max| waited_ms <= max) {
            return false;
        }
        self.counters.throttled += 1;
        self.wait(id, Pending::Refused { xid: header.xid, code: ErrorCode::ThrottledOp });
        self.answer_reads(now, id.slot, None);
        true
    }

    fn wait(&mut self, id: CnxnId, pending: Pending) {
        self.outstanding += usize::from(pending.counts());
        self.large_bytes += pending.large_bytes();
        self.get_mut(id).expect("looked up by the caller").pending.push_back(pending);
    }

    fn authenticate(&mut self, id: CnxnId, xid: i32, body: &[u8]) {
        let settings = &self.settings;
        match auth::decode(body).map(|packet| packet.identities(&settings.rules, settings.super_digest.as_deref())) {
            Ok(Ok(identities)) => {
                let cnxn = self.get_mut(id).expect("looked up by the caller");
                let ids: &mut Vec<Id> = Arc::make_mut(&mut cnxn.ids);
                identities.into_iter().for_each(|identity| auth::add_identity(ids, identity));
                self.put_header(id, xid, Zxid::ZERO, 0);
            }
            Ok(Err(scheme)) => {
                self.counters.auth_failed += 1;
                tracing::warn!("Authentication failed for scheme: {scheme}");
                self.put_header(id, xid, Zxid::ZERO, ErrorCode::AuthFailed.code());
                self.close(id, CloseReason::AuthFailed);
            }
            Err(_) => self.close(id, CloseReason::BadRequest),
        }
    }

    fn answer_ping(&mut self, now: Instant, id: CnxnId, xid: i32) {
        let zxid = self.tree.zxid();
        self.put_header(id, XID_PING, zxid, 0);
        if let Some(cnxn) = self.get_mut(id) {
            cnxn.counts.answered(OpCode::Ping, xid, zxid, now, now);
        }
    }

    /// A server without SASL answers with a null token, and the client concludes what it must. No token, or none that
    /// can be read, closes the connection.
    fn refuse_sasl(&mut self, id: CnxnId, xid: i32, body: &[u8]) {
        if !matches!(JuteReader::new(body).buffer(), Ok(Some(_))) {
            return self.close(id, CloseReason::BadRequest);
        }
        self.counters.sent += 1;
        let cnxn = self.get_mut(id).expect("looked up by the caller");
        cnxn.put_frame(|out| {
            ReplyHeader { xid, zxid: Zxid::ZERO, err: 0 }.encode(out);
            out.put_buffer(None);
        });
        self.ready.push(id.slot);
    }

    fn put_header(&mut self, id: CnxnId, xid: i32, zxid: Zxid, err: i32) {
        self.counters.sent += 1;
        self.tell_all(id.slot);
        if let Some(cnxn) = self.get_mut(id) {
            reply::encode_header(&mut cnxn.out, xid, zxid, err);
            cnxn.counts.sent += 1;
            self.ready.push(id.slot);
        }
    }

    /// Puts out one commit's events, then its reply.
    fn commit(&mut self, now: Instant, commit: &Committed, answered: &mut Vec<Slot>) {
        let mut own = commit.to.filter(|(cnxn, _)| cnxn.shard == self.settings.shard && self.get(*cnxn).is_some());
        if let Some((cnxn, _)) = own
            && commit.outcome == Outcome::Failed(ErrorCode::SessionMoved.code())
        {
            // The leader knows its client to be elsewhere. Without a reply, as where the connection is the leader's own: a
            // client that is here nevertheless comes again, and the leader learns of it.
            return self.close(cnxn, CloseReason::SessionMoved);
        }
        if let (Some((cnxn, _)), Some(before)) = (own, &commit.before) {
            self.answer_reads(now, cnxn.slot, Some(before));
        }
        if planted::is(Bug::ReplyBeforeEvent)
            && let Some((cnxn, xid)) = own.take()
        {
            self.reply(now, cnxn, xid, commit);
            answered.push(cnxn.slot);
        }
        if !self.watches.is_empty() {
            for change in &commit.changes {
                self.fire(commit.zxid, change);
            }
        }
        if let Some((cnxn, xid)) = own {
            self.reply(now, cnxn, xid, commit);
            answered.push(cnxn.slot);
        }
        if let SessionChange::Closed(session) = commit.session
            && let Some(slot) = self.by_session.remove(&session)
            && let Some(cnxn) = &mut self.slots[slot as usize]
        {
            cnxn.close(CloseReason::SessionClosed);
            self.ready.push(slot);
        }
    }

    fn fire(&mut self, zxid: Zxid, change: &crate::tree::Change) {
        let Cnxns { watches, counters, .. } = self;
        let mut found = [0u64; 5];
        let mut events: Vec<Telling> = Vec::new();
        watches.trigger(change, |slots, kind, path, acl| {
            found[kind as usize] += slots.len() as u64;
            let mut frame = Vec::new();
            let start = frame::begin(&mut frame);
            encode_event(&mut frame, zxid, kind, path);
            frame::end(&mut frame, start);
            events.push(Telling { frame, acl: acl.clone(), slots: slots.to_vec(), told: 0 });
        });
        for (kind, summary) in [
            (EventType::NodeCreated, &mut counters.created_watches),
            (EventType::NodeDeleted, &mut counters.deleted_watches),
            (EventType::NodeDataChanged, &mut counters.changed_watches),
            (EventType::NodeChildrenChanged, &mut counters.children_watches),
        ] {
            match found[kind as usize] {
                0 => {}
                count => summary.add(count),
            }
        }
        for event in events {
            let count = event.slots.len();
            let later = count > EVENTS_AT_ONCE_MAX && self.told_later + count <= EVENTS_LATER_MAX;
            if !later && !self.tellings.is_empty() {
                // What they are to be told before this.
                event.slots.iter().for_each(|slot| self.tell_all(*slot));
            }
            if later {
                self.told_later += count;
                self.tellings.push_back(event);
            } else {
                self.tell_at_once(&event);
            }
        }
    }

    fn tell_at_once(&mut self, event: &Telling) {
        let Cnxns { slots, settings, counters, ready, .. } = self;
        for slot in &event.slots {
            let Some(cnxn) = slots[*slot as usize].as_mut().filter(|cnxn| cnxn.close.is_none()) else { continue };
            if settings.rules.skip_acl || acl::check(&event.acl, perms::READ, &cnxn.ids).is_ok() {
                cnxn.out.extend_from_slice(&event.frame);
                event_put(cnxn, event.frame.len(), counters);
                ready.push(*slot);
            }
        }
    }

    fn reply(&mut self, now: Instant, id: CnxnId, xid: i32, commit: &Committed) {
        if let SessionChange::Opened { session, password, .. } = commit.session {
            let Some(cnxn) = self.get_mut(id) else { return };
            let Phase::Shaking { timeout_ms, read_only } = cnxn.phase else { return };
            self.establish(now, id, session, password, timeout_ms, read_only);
            if let Some(cnxn) = self.get_mut(id) {
                cnxn.counts.opened(commit.zxid, now);
            }
            return;
        }
        self.tell_all(id.slot);
        let cnxn = self.get_mut(id).expect("looked up by the caller");
        if cnxn.close.is_some() {
            // Nothing follows what a connection is closed for; what it waits for goes with it.
            return;
        }
        let front = cnxn.pending.pop_front();
        let Some(Pending::Write { xid: expected, op, since, large }) = front else {
            panic!("the next reply of {id:?} is due to a write, not to {front:?}");
        };
        assert_eq!(expected, xid, "replies of {id:?} are due in the order of its requests");
        let before = cnxn.out.len();
        reply::encode(&mut cnxn.out, xid, commit.zxid, &commit.outcome);
        let bytes = cnxn.out.len() - before;
        cnxn.counts.answered(op, xid, commit.zxid, since, now);
        cnxn.counts.sent += 1;
        self.outstanding -= usize::from(xid > 0);
        self.large_bytes -= large as usize;
        self.counters.replied(bytes);
        self.counters.answered(now.since_ms(since), true);
        self.ready.push(id.slot);
    }

    /// Answers the reads at the head of a connection's queue, from `tree` or else the newest version. With `tree`, what
    /// stands behind them is committed: then their syncs need not be told any more.
    fn answer_reads(&mut self, now: Instant, slot: Slot, tree: Option<&Tree>) {
        while let Some(cnxn) = &mut self.slots[slot as usize]
            && cnxn.close.is_none()
            && cnxn.pending.front().is_some_and(|pending| pending.is_ready(tree.is_some()))
            && let Some(pending) = cnxn.pending.pop_front()
        {
            self.outstanding -= usize::from(pending.counts());
            self.large_bytes -= pending.large_bytes();
            let (xid, op, body, ids, since) = match pending {
                Pending::Read { xid, op, body, ids, since, .. } => (xid, op, body, ids, since),
                Pending::Sync { xid, body, told, since, .. } => {
                    cnxn.overtaken_syncs += u32::from(!told);
                    (xid, OpCode::Sync, body, Arc::clone(&cnxn.ids), since)
                }
                Pending::Refused { xid, code, .. } => {
                    let id = cnxn.id;
                    self.put_header(id, xid, tree.map_or(self.tree.zxid(), Tree::zxid), code.code());
                    continue;
                }
                Pending::Unknown { xid, op } => {
                    let id = cnxn.id;
                    self.put_header(id, xid, Zxid(-1), ErrorCode::Unimplemented.code());
                    return self.close(id, CloseReason::UnknownOperation(op));
                }
                Pending::Write { .. } => unreachable!("it is not ready"),
            };
            self.answer_read(now, since, slot, xid, op, &body, &ids, tree);
        }
    }

    #[allow(clippy::too_many_arguments)] // A request's parts; both callers hold them apart.
    fn answer_read(
        &mut self,
        now: Instant,
        since: Instant,
        slot: Slot,
        xid: i32,
        op: OpCode,
        body: &[u8],
        ids: &[Id],
        tree: Option<&Tree>,
    ) {
        self.tell_all(slot);
        let Cnxns { tree: newest, watches, slots, settings, ready, counters, .. } = self;
        let Some(cnxn) = &mut slots[slot as usize] else { return };
        let tree = tree.unwrap_or(newest);
        let before = cnxn.out.len();
        match ReadOp::decode(op, body) {
            Ok(asked) => {
                let mut reader = read::Reader { tree, watches, slot, ids, rules: &settings.rules };
                if cnxn.listing.is_none()
                    && let Some(parent) = reader.long_list(&asked, LISTED_AT_ONCE_MAX)
                {
                    let header = ReplyHeader { xid, zxid: tree.zxid(), err: 0 };
                    cnxn.listing = Some(Listing::new(before, op, header, since, parent));
                    self.listings.push_back(cnxn.id);
                    return self.mind_watches();
                }
                reader.answer(xid, &asked, &mut cnxn.out);
            }
            Err(_) => {
                reply::encode_header(&mut cnxn.out, xid, tree.zxid(), ErrorCode::MarshallingError.code());
            }
        }
        cnxn.counts.answered(op, xid, tree.zxid(), since, now);
        cnxn.counts.sent += 1;
        counters.replied(cnxn.out.len() - before);
        counters.answered(now.since_ms(since), false);
        ready.push(slot);
        self.mind_watches();
    }

    /// Ends the connection that watches most, if there are too many watches.
    fn mind_watches(&mut self) {
        if self.watches.count() > self.settings.watches_max {
            self.end_greatest_watcher();
        }
    }

    /// Ends the connection that watches most, so that the others can go on.
    fn end_greatest_watcher(&mut self) {
        let Some(slot) = self.watches.greatest() else { return };
        self.watches.remove_all(slot);
        if let Some(cnxn) = &mut self.slots[slot as usize] {
            cnxn.abort(CloseReason::TooManyWatches);
            self.ready.push(slot);
        }
    }
}

/// An event was added to a connection's output.
fn event_put(cnxn: &mut Cnxn, bytes: usize, counters: &mut Counters) {
    counters.told(bytes);
    cnxn.counts.sent += 1;
    if cnxn.out.len() > OUTPUT_MAX_BYTES {
        cnxn.abort(CloseReason::NotReading);
    }
}
