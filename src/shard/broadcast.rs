//! The driver of the ordering shard: requests to the [`Engine`], what it proposes to [`Log`], batches to the disk, commits
//! to the client shards.
//!
//! When a flush ends the next one is started first, so that the disk has work while the replies of the last go out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use glommio::nop::NopSubmitter;

use super::clients::{ClientShard, ToClients};
use super::clock::Clock;
use super::disk::Disk;
use super::mesh::{Notify, Queue};
use crate::request::pipeline::{Answer, Ask, CommitBatch, Pipeline, Proposals};
use crate::server::admin::Shared;
use crate::server::metrics::LogMetrics;
use crate::storage::format::{self, Link};
use crate::storage::group_commit::Batch;
use crate::storage::log::{Log, Spare};
use crate::tree::{DataTree, Tree};
use crate::types::{CnxnId, ServerId, Zxid};
use crate::zab::effect::{Effect, LinkId, Mode};
use crate::zab::peer::{Event, Output, Peer};
use crate::zab::quorum::{HostPort, PeerAddress};

/// Requests that are ordered before the flusher gets its turn.
const ASKS_PER_TURN_MAX: usize = 4096;
/// How often sessions are looked through for those that have run out.
const TICK_MS: u64 = 50;

/// The way to one client shard.
pub enum Downlink {
    /// It is on this core.
    Local(Rc<ClientShard>),
    /// It is on another.
    Remote(Rc<Queue<ToClients>>),
}

/// Who orders writes.
pub enum Engine {
    /// This server alone.
    Standalone(Box<Pipeline>),
    /// The ensemble that it belongs to.
    Ensemble(Box<Peer>),
}

/// Transactions to be logged, in order.
enum Unlogged {
    /// Only the log has them.
    Own(Proposals),
    /// Other servers have them too, or will.
    Shared(Vec<(Zxid, Bytes)>),
}

impl Unlogged {
    fn get(&self, index: usize) -> Option<(Zxid, &[u8])> {
        match self {
            Unlogged::Own(proposals) => proposals.get(index),
            Unlogged::Shared(proposals) => proposals.get(index).map(|(zxid, payload)| (*zxid, &payload[..])),
        }
    }
}

/// The ordering shard.
pub struct Broadcast {
    engine: RefCell<Engine>,
    /// What an ensemble's server has to do with other servers and with its disk, beyond the log.
    effects: Rc<Queue<Effect>>,
    /// How often the server has begun to serve or ceased to.
    serving_changes: Cell<u64>,
    log: RefCell<Log>,
    disk: Disk,
    asks: Rc<Queue<Ask>>,
    /// What waits for a segment, with how many of the first are logged already.
    unlogged: RefCell<VecDeque<(Unlogged, usize)>>,
    /// Requests that came while proposals waited, and are to be logged too.
    held: RefCell<VecDeque<Ask>>,
    spare_proposals: RefCell<Proposals>,
    shards: Vec<Downlink>,
    clock: Clock,
    nop: NopSubmitter,
    flush_warning: Duration,
    metrics: Arc<LogMetrics>,
    questions: Arc<Shared>,
    failed: Cell<bool>,
    /// No request is ordered any more: the server is about to end.
    closing: Cell<bool>,
    logged_bytes: Cell<u64>,
    /// When what waits for a flush was appended, a turn at a time: the last transaction of each turn.
    appended: RefCell<VecDeque<(Zxid, Instant)>>,
    fatal: Box<dyn Fn(String)>,
    /// Told when a record does not fit or a segment was taken into use.
    pub segment_wanted: Notify,
    /// Told when something was committed or is durable, for those who wait to see how far it is.
    pub safe_some: Notify,
    /// Segments that were ready and too small for a record, to be used again.
    passed_over: RefCell<Vec<Spare>>,
    /// Room that the next record needs, if it does not fit into a segment of the usual size.
    wanted_segment_bytes: Cell<u64>,
}

impl Broadcast {
    /// An ordering shard on a recovered state. `fatal` reaches who can end the process.
    #[allow(clippy::too_many_arguments)] // Assembled in one place.
    pub fn new(
        engine: Engine,
        log: Log,
        disk: Disk,
        asks: Rc<Queue<Ask>>,
        shards: Vec<Downlink>,
        clock: Clock,
        flush_warning: Duration,
        metrics: Arc<LogMetrics>,
        questions: Arc<Shared>,
        fatal: Box<dyn Fn(String)>,
    ) -> Broadcast {
        Broadcast {
            engine: RefCell::new(engine),
            effects: Rc::default(),
            serving_changes: Cell::new(0),
            log: RefCell::new(log),
            disk,
            asks,
            unlogged: RefCell::default(),
            held: RefCell::default(),
            spare_proposals: RefCell::default(),
            shards,
            clock,
            nop: NopSubmitter::new(),
            flush_warning,
            metrics,
            questions,
            failed: Cell::new(false),
            closing: Cell::new(false),
            logged_bytes: Cell::new(0),
            appended: RefCell::default(),
            fatal,
            segment_wanted: Notify::default(),
            safe_some: Notify::default(),
            passed_over: RefCell::default(),
            wanted_segment_bytes: Cell::new(0),
        }
    }

    /// The newest state and up to where it is safe, committed and durable here; `None` while nobody is served: what an
    /// ensemble's server has then may hold what never will be committed. One that has left its ensemble may know that all
    /// is.
    pub fn with_state<T>(&self, look: impl FnOnce(&DataTree, Zxid) -> T) -> Option<T> {
        match &*self.engine.borrow() {
            Engine::Standalone(pipeline) => Some(look(pipeline.head(), pipeline.committed())),
            Engine::Ensemble(peer) => {
                if peer.mode().is_none() && !(peer.has_left() && peer.has_all_committed()) {
                    return None;
                }
                peer.state().zip(peer.safe()).map(|((data_tree, _), safe)| look(data_tree, safe))
            }
        }
    }

    /// Changes whenever the server begins to serve or ceases to: what was not committed before need not be so ever.
    pub fn serving_changes(&self) -> u64 {
        self.serving_changes.get()
    }

    /// What is to be done outside of the log, in order.
    pub fn effects(&self) -> &Rc<Queue<Effect>> {
        &self.effects
    }

    /// Where a server of the ensemble listens for learners.
    pub fn learner_addresses(&self, id: ServerId) -> Vec<HostPort> {
        let Engine::Ensemble(peer) = &*self.engine.borrow() else { return Vec::new() };
        let member = peer.view().current().member(id).or(peer.view().last_seen().member(id));
        member.map_or_else(Vec::new, |member| member.addresses.iter().map(PeerAddress::quorum).collect())
    }

    /// Whether the learner's disk is behind, so that the link to the leader may be left unread.
    pub fn is_busy(&self) -> bool {
        matches!(&*self.engine.borrow(), Engine::Ensemble(peer) if peer.is_busy())
    }

    /// Tells an ensemble's server what has happened, in order.
    pub fn happened(self: &Rc<Self>, events: impl IntoIterator<Item = Event>) {
        {
            let (now, wall) = (self.clock.now(), self.clock.wall());
            let mut engine = self.engine.borrow_mut();
            let Engine::Ensemble(peer) = &mut *engine else { unreachable!("a standalone server has no peers") };
            for event in events {
                peer.handle(now, wall, event);
            }
        }
        self.hand_on();
    }

    /// Begins the log anew after `zxid`: all that is on disk was replaced.
    pub async fn restart_log(&self, zxid: Zxid) {
        assert!(self.unlogged.borrow().is_empty(), "who replaces the log has nothing to log");
        let flushes_max = self.log.borrow().flushes_max();
        *self.log.borrow_mut() = Log::new(Link { zxid, ..Link::default() }, flushes_max);
        self.appended.take();
        self.passed_over.take();
        self.disk.close_before(u64::MAX).await;
    }

    /// The log's writing end.
    pub fn log(&self) -> &RefCell<Log> {
        &self.log
    }

    /// The open segments.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Orders requests as they come, for ever.
    pub async fn run(self: Rc<Self>) {
        self.metrics.ordering_runs_here();
        loop {
            let first = self.asks.next().await;
            if self.closing.get() {
                // It is not answered, and not done.
                continue;
            }
            self.order(first);
            self.hand_on();
        }
    }

    /// Does what time brings, for ever.
    pub async fn tick(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(Duration::from_millis(TICK_MS)).await;
            let now = self.clock.now();
            match &*self.engine.borrow() {
                Engine::Standalone(pipeline) => {
                    let state = (pipeline.head(), pipeline.committed());
                    self.questions.answer_for_order(now, state, Some(pipeline), None);
                }
                Engine::Ensemble(peer) => {
                    if let Some(state) = peer.state() {
                        self.questions.answer_for_order(now, state, peer.pipeline(), Some(peer));
                    }
                }
            }
            if self.closing.get() && matches!(&*self.engine.borrow(), Engine::Standalone(_)) {
                continue;
            }
            let (now, wall) = (self.clock.now(), self.clock.wall());
            match &mut *self.engine.borrow_mut() {
                // A session must not die because its end could not be logged before its next sign of life.
                Engine::Standalone(_) if self.is_stalled() => continue,
                Engine::Standalone(pipeline) => {
                    for (session, timeout_ms) in pipeline.tick(now, wall) {
                        tracing::info!("Expiring session {session}, timeout of {timeout_ms}ms exceeded");
                        self.metrics.session_expired();
                    }
                }
                Engine::Ensemble(peer) => peer.handle(now, wall, Event::Tick),
            }
            self.hand_on();
        }
    }

    /// Whether proposals wait for a segment.
    fn is_stalled(&self) -> bool {
        !self.unlogged.borrow().is_empty()
    }

    /// Orders what has been asked, up to a limit. While there is no segment to write to, what would be logged waits for one, in
    /// order, and the rest goes on. How much waits is bounded by what clients may have outstanding.
    fn order(&self, first: Ask) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let stalled = self.is_stalled();
        let mut engine = self.engine.borrow_mut();
        let others = std::iter::from_fn(|| self.asks.pop()).take(ASKS_PER_TURN_MAX - 1);
        for ask in std::iter::once(first).chain(others) {
            if stalled && matches!(ask, Ask::Write(_) | Ask::OpenSession { .. }) {
                self.held.borrow_mut().push_back(ask);
            } else {
                match &mut *engine {
                    Engine::Standalone(pipeline) => pipeline.handle(now, wall, ask),
                    Engine::Ensemble(peer) => peer.handle(now, wall, Event::Ask(ask)),
                }
            }
        }
    }

    /// Hands over a segment that is ready for use, and opens it.
    pub async fn add_spare(self: &Rc<Self>, spare: Spare) -> io::Result<()> {
        self.disk.open(spare.sequence).await?;
        self.log.borrow_mut().add_spare(spare);
        self.hand_on();
        Ok(())
    }

    /// What is counted of the log.
    pub fn metrics(&self) -> &Arc<LogMetrics> {
        &self.metrics
    }

    /// Bytes of transactions that were logged since the start.
    pub fn log_bytes(&self) -> u64 {
        self.logged_bytes.get()
    }

    /// Segments that were passed over since the last call.
    pub fn take_passed_over(&self) -> Vec<Spare> {
        self.passed_over.take()
    }

    /// See the field.
    pub fn wanted_segment_bytes(&self) -> u64 {
        self.wanted_segment_bytes.get()
    }

    /// From now on nothing is ordered that was not before, and no session expires. A server of an ensemble leaves it:
    /// [`Broadcast::has_left`] says when that is done.
    pub fn stop_ordering(self: &Rc<Self>) {
        self.closing.set(true);
        if self.is_of_ensemble() {
            self.happened([Event::Leave]);
        }
    }

    /// Whether there are other servers.
    pub fn is_of_ensemble(&self) -> bool {
        matches!(&*self.engine.borrow(), Engine::Ensemble(_))
    }

    /// Whether no other server waits for anything from this one.
    pub fn has_left(&self) -> bool {
        match &*self.engine.borrow() {
            Engine::Standalone(_) => true,
            Engine::Ensemble(peer) => peer.has_left(),
        }
    }

    /// A connection of the learner port was made, for those who ask.
    pub fn learner_connected(&self, link: LinkId, remote: String) {
        self.questions.learner_connected(link, remote, self.clock.wall());
    }

    /// It is gone.
    pub fn learner_gone(&self, link: LinkId) {
        self.questions.learner_gone(link);
    }

    /// Stops everything: nothing is acknowledged any more.
    pub fn fail(&self, why: String) {
        if !self.failed.replace(true) {
            (self.fatal)(why);
        }
    }

    /// Moves on what the engine has produced.
    fn hand_on(self: &Rc<Self>) {
        let mut output = Output::default();
        let unlogged = match &mut *self.engine.borrow_mut() {
            Engine::Standalone(pipeline) => {
                output.answers = pipeline.take_answers();
                let spare = self.spare_proposals.take();
                Unlogged::Own(pipeline.take_proposals(spare))
            }
            Engine::Ensemble(peer) => {
                output = peer.pump(self.clock.now());
                Unlogged::Shared(std::mem::take(&mut output.log))
            }
        };
        if unlogged.get(0).is_some() {
            self.unlogged.borrow_mut().push_back((unlogged, 0));
        } else {
            self.is_logged(unlogged);
        }
        for note in output.notes.drain(..) {
            tracing::info!("{note}");
        }
        for effect in std::mem::take(&mut output.effects) {
            match effect {
                Effect::Serve(mode, tree, epoch) => {
                    self.serve(Some((mode, tree.clone())));
                    self.effects.push(Effect::Serve(mode, tree, epoch));
                }
                Effect::ServeReadOnly(tree) => self.serve(Some((Mode::ReadOnly, tree))),
                Effect::Unserve => {
                    // What was committed is for those who are still there.
                    self.tell_outcomes(&mut output.batches, &mut output.answers);
                    self.serve(None);
                    self.effects.push(Effect::Unserve);
                }
                effect => self.effects.push(effect),
            }
        }
        self.tell_outcomes(&mut output.batches, &mut output.answers);
        self.write_log();
        self.note_appended();
        self.start_flush();
        if !self.is_stalled() && !self.held.borrow().is_empty() {
            // As if they had just come.
            let held = self.held.take();
            self.asks.put_back(held);
        }
    }

    fn tell_outcomes(&self, batches: &mut Vec<CommitBatch>, answers: &mut Vec<Answer>) {
        for batch in batches.drain(..) {
            self.publish(batch);
        }
        for answer in answers.drain(..) {
            if let Some(cnxn) = answer.to() {
                self.tell(cnxn, answer);
            }
        }
    }

    fn tell(&self, cnxn: CnxnId, answer: Answer) {
        match self.shards.get(usize::from(cnxn.shard)) {
            Some(Downlink::Local(shard)) => shard.take(&ToClients::Answer(answer)),
            Some(Downlink::Remote(queue)) => queue.push(ToClients::Answer(answer)),
            None => {}
        }
    }

    /// Appends proposals while there is room.
    fn write_log(&self) {
        let mut log = self.log.borrow_mut();
        let mut unlogged = self.unlogged.borrow_mut();
        let before = log.current_sequence();
        while let Some((proposals, logged)) = unlogged.front_mut() {
            while let Some((zxid, payload)) = proposals.get(*logged) {
                if !log.fits(payload.len()) {
                    self.wanted_segment_bytes.set(format::segment_bytes_for(payload.len()));
                    // What is ready and too small for it would be in its way.
                    self.passed_over.borrow_mut().extend(std::iter::from_fn(|| log.pass_over_spare()));
                    self.segment_wanted.notify();
                    return;
                }
                log.append(zxid, payload);
                self.logged_bytes.set(self.logged_bytes.get() + payload.len() as u64);
                *logged += 1;
            }
            let (done, _) = unlogged.pop_front().expect("looked at just now");
            self.is_logged(done);
        }
        if log.current_sequence() != before {
            self.wanted_segment_bytes.set(0);
            self.segment_wanted.notify();
        }
    }

    /// Keeps the memory of what was logged for what comes next.
    fn is_logged(&self, done: Unlogged) {
        if let Unlogged::Own(mut proposals) = done {
            proposals.bytes.clear();
            proposals.ends.clear();
            *self.spare_proposals.borrow_mut() = proposals;
        }
    }

    /// Remembers when what was appended began to wait for a flush.
    fn note_appended(&self) {
        let last = self.log.borrow().last_zxid();
        let mut appended = self.appended.borrow_mut();
        if self.log.borrow().waiting_bytes() > 0 && appended.back().is_none_or(|(zxid, _)| *zxid < last) {
            appended.push_back((last, Instant::now()));
        }
    }

    fn start_flush(self: &Rc<Self>) -> bool {
        if self.failed.get() {
            return false;
        }
        let Some(batch) = self.log.borrow_mut().start_flush() else { return false };
        {
            let mut appended = self.appended.borrow_mut();
            if let Some((_, since)) = appended.front() {
                self.metrics.waited(since.elapsed());
            }
            // A turn of which only a part goes out waits on with the rest.
            while appended.front().is_some_and(|(last, _)| *last <= batch.last_zxid) {
                appended.pop_front();
            }
        }
        let broadcast = Rc::clone(self);
        glommio::spawn_local(async move { broadcast.flush(batch).await }).detach();
        true
    }

    async fn flush(self: Rc<Self>, batch: Batch) {
        let begin = Instant::now();
        let written = match self.disk.flush(&batch).await {
            Ok(written) => written,
            Err(error) => {
                return self.fail(format!(
                    "flushing {} transactions up to {} to log segment {:x} failed: {error}. They were not acknowledged; \
                     the server stops, because what is on the disk is unknown",
                    batch.records, batch.last_zxid, batch.segment
                ));
            }
        };
        let took = begin.elapsed();
        self.metrics.flushed(batch.records, written as u64, took);
        if took > self.flush_warning {
            self.metrics.slow_flush();
            tracing::warn!(
                "fsync-ing the write ahead log in SyncThread:0 took {}ms which will adversely effect operation \
                 latency.File size is {written} bytes. See the ZooKeeper troubleshooting guide",
                took.as_millis()
            );
        }
        let durable = self.log.borrow_mut().flushed(batch);
        let started = self.start_flush();
        let Some(durable) = durable else { return };
        if started {
            // One round through the ring, so that the disk has the next flush before the replies are made.
            drop(self.nop.run_nop().await);
        }
        self.commit(durable);
    }

    /// The log is durable up to here.
    fn commit(self: &Rc<Self>, durable: Zxid) {
        let batch = match &mut *self.engine.borrow_mut() {
            Engine::Standalone(pipeline) => pipeline.commit(durable),
            Engine::Ensemble(peer) => {
                peer.handle(self.clock.now(), self.clock.wall(), Event::Durable(durable));
                None
            }
        };
        if let Some(batch) = batch {
            self.publish(batch);
        }
        self.hand_on();
        // A quorum may have committed it before.
        self.safe_some.notify();
    }

    /// Lets all client shards see what was committed.
    fn publish(&self, batch: CommitBatch) {
        let batch = Arc::new(batch);
        self.tell_all(|| ToClients::Committed(Arc::clone(&batch)));
        self.metrics.committed(&batch, self.clock.wall());
        if let Some(batch) = Arc::into_inner(batch) {
            match &mut *self.engine.borrow_mut() {
                Engine::Standalone(pipeline) => pipeline.reuse(batch),
                Engine::Ensemble(peer) => peer.reuse(batch),
            }
        }
        self.safe_some.notify();
    }

    /// Has clients connect at another socket, or nowhere.
    pub fn listen_for_clients(&self, socket: Option<OwnedFd>) {
        let socket = Arc::new(Mutex::new(socket));
        self.tell_all(|| ToClients::Listen(Arc::clone(&socket)));
    }

    /// Lets clients in, or turns them away.
    fn serve(&self, serving: Option<(Mode, Tree)>) {
        self.serving_changes.set(self.serving_changes.get() + 1);
        self.tell_all(|| ToClients::Serving(serving.clone()));
        // Who waits for a commit that may never come looks again.
        self.safe_some.notify();
    }

    fn tell_all(&self, message: impl Fn() -> ToClients) {
        for shard in &self.shards {
            match shard {
                Downlink::Local(shard) => shard.take(&message()),
                Downlink::Remote(queue) => queue.push(message()),
            }
        }
    }
}
