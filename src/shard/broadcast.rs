//! The driver of the ordering shard: requests to [`Pipeline`], proposals to [`Log`], batches to the disk, commits to the
//! client shards.
//!
//! When a flush ends the next one is started first, so that the disk has work while the replies of the last go out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::nop::NopSubmitter;

use super::clients::{ClientShard, ToClients};
use super::clock::Clock;
use super::disk::Disk;
use super::mesh::{Notify, Queue};
use crate::request::pipeline::{Answer, Ask, Pipeline, Proposals};
use crate::server::admin::Shared;
use crate::server::metrics::LogMetrics;
use crate::storage::format;
use crate::storage::group_commit::Batch;
use crate::storage::log::{Log, Spare};
use crate::types::{CnxnId, Zxid};

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

/// The ordering shard.
pub struct Broadcast {
    pipeline: RefCell<Pipeline>,
    log: RefCell<Log>,
    disk: Disk,
    asks: Rc<Queue<Ask>>,
    /// Proposals that wait for a segment, with how many of the first are logged already.
    unlogged: RefCell<VecDeque<(Proposals, usize)>>,
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
    logged_bytes: Cell<u64>,
    fatal: Box<dyn Fn(String)>,
    /// Told when a record does not fit or a segment was taken into use.
    pub segment_wanted: Notify,
    /// Told when something was committed, for those who wait to see how far it is.
    pub committed_some: Notify,
    /// Segments that were ready and too small for a record, to be used again.
    passed_over: RefCell<Vec<Spare>>,
    /// Room that the next record needs, if it does not fit into a segment of the usual size.
    wanted_segment_bytes: Cell<u64>,
}

impl Broadcast {
    /// An ordering shard on a recovered state. `fatal` reaches who can end the process.
    #[allow(clippy::too_many_arguments)] // Assembled in one place.
    pub fn new(
        pipeline: Pipeline,
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
            pipeline: RefCell::new(pipeline),
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
            logged_bytes: Cell::new(0),
            fatal,
            segment_wanted: Notify::default(),
            committed_some: Notify::default(),
            passed_over: RefCell::default(),
            wanted_segment_bytes: Cell::new(0),
        }
    }

    /// The order of writes.
    pub fn pipeline(&self) -> &RefCell<Pipeline> {
        &self.pipeline
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
        loop {
            let first = self.asks.next().await;
            self.order(first);
            self.hand_on();
        }
    }

    /// Does what time brings, for ever.
    pub async fn tick(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(Duration::from_millis(TICK_MS)).await;
            self.questions.answer_for_order(&self.pipeline.borrow());
            if self.is_stalled() {
                // A session must not die because its end could not be logged before its next sign of life.
                continue;
            }
            let expired = self.pipeline.borrow_mut().tick(self.clock.now(), self.clock.wall());
            for (session, timeout_ms) in expired {
                tracing::info!("Expiring session {session}, timeout of {timeout_ms}ms exceeded");
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
        let mut pipeline = self.pipeline.borrow_mut();
        let others = std::iter::from_fn(|| self.asks.pop()).take(ASKS_PER_TURN_MAX - 1);
        for ask in std::iter::once(first).chain(others) {
            if stalled && matches!(ask, Ask::Write(_) | Ask::OpenSession { .. }) {
                self.held.borrow_mut().push_back(ask);
            } else {
                pipeline.handle(now, wall, ask);
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

    /// Stops everything: nothing is acknowledged any more.
    pub fn fail(&self, why: String) {
        if !self.failed.replace(true) {
            (self.fatal)(why);
        }
    }

    /// Moves on what the pipeline has produced.
    fn hand_on(self: &Rc<Self>) {
        let answers = self.pipeline.borrow_mut().take_answers();
        for answer in answers {
            if let Some(cnxn) = answer.to() {
                self.tell(cnxn, answer);
            }
        }
        let spare = self.spare_proposals.take();
        let proposals = self.pipeline.borrow_mut().take_proposals(spare);
        if proposals.ends.is_empty() {
            *self.spare_proposals.borrow_mut() = proposals;
        } else {
            self.unlogged.borrow_mut().push_back((proposals, 0));
        }
        self.write_log();
        self.start_flush();
        if !self.is_stalled() && !self.held.borrow().is_empty() {
            // As if they had just come.
            let held = self.held.take();
            self.asks.put_back(held);
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
            for (zxid, payload) in proposals.iter().skip(*logged) {
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
            let (mut done, _) = unlogged.pop_front().expect("looked at just now");
            done.bytes.clear();
            done.ends.clear();
            *self.spare_proposals.borrow_mut() = done;
        }
        if log.current_sequence() != before {
            self.wanted_segment_bytes.set(0);
            self.segment_wanted.notify();
        }
    }

    fn start_flush(self: &Rc<Self>) -> bool {
        if self.failed.get() {
            return false;
        }
        let Some(batch) = self.log.borrow_mut().start_flush() else { return false };
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

    fn commit(&self, durable: Zxid) {
        let Some(batch) = self.pipeline.borrow_mut().commit(durable) else { return };
        self.metrics.committed(batch.commits.len() as u64);
        let batch = Arc::new(batch);
        for shard in &self.shards {
            let message = ToClients::Committed(Arc::clone(&batch));
            match shard {
                Downlink::Local(shard) => shard.take(&message),
                Downlink::Remote(queue) => queue.push(message),
            }
        }
        self.committed_some.notify();
    }
}
