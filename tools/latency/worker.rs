//! One load thread: its connections, one poll, and the loop that answers each reply with the next request.
//!
//! The work for one wake-up of one connection is one `read`, a pass over the replies where they lie, and one `write` of
//! as many requests as were answered. The clock is read once for all of it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::clock::{MS_NS, SECOND_NS, Ticker, now_ns};
use crate::connection::{Connection, Ended};
use crate::dial::{Server, Session};
use crate::faults::Faults;
use crate::link::Dialled;
use crate::recorder::{Recorder, Wire, latency_histogram};
use crate::request::{Below, Kind, Payloads, Template, reply_bytes_max};
use crate::schedule::Schedule;

/// The token of the ticker; connections have their index.
const TICKER: Token = Token(usize::MAX);
/// Room for replies read at once: what 32 connections with 16 outstanding gets of 1 KB can have under way, and more.
const READ_BYTES: usize = 256 << 10;
/// An open loop wakes up at most this often to send what is due: a wake-up costs several microseconds, and what it adds
/// to a latency shows as send lag.
const TICK_NS_MIN: u64 = 100_000;
/// What is to be known of a connection.
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);
/// How often pings and stalls are looked at, and the longest sleep.
const SWEEP_NS: u64 = 100 * MS_NS;
/// The same while connections are dialled.
const SWEEP_NS_DIALLING: u64 = 5 * MS_NS;
/// How long a phase waits for the last answers.
const DRAIN_NS_MAX: u64 = 30 * SECOND_NS;
/// Requests of an open loop that may be made and unanswered in one thread. When they are, the schedule is not thrown
/// out: what is due later goes out late, with its latency counted from when it was due, and the report says so.
const BACKLOG_MAX: usize = 100_000;
/// The same limit in bytes, for large payloads.
const BACKLOG_BYTES_MAX: usize = 256 << 20;

/// How requests are paced.
pub enum Pacing {
    /// So many unanswered per connection, always.
    Closed { outstanding: usize },
    /// When they are due, whatever happens.
    Open(Schedule),
}

/// How an open loop fared against its schedule.
#[derive(Clone, Copy, Default, Debug)]
pub struct Backlog {
    /// Most requests unanswered at one time.
    pub peak: usize,
    /// The limit that applied.
    pub limit: usize,
    /// Requests that went out late because the limit was reached.
    pub held_back: u64,
    /// Requests that were due and never went out, because the phase ended first.
    pub never_sent: u64,
}

/// A thread's connections and memory.
pub struct Worker {
    poll: Poll,
    ticker: Ticker,
    /// In the order they were opened.
    pub connections: Vec<Connection>,
    payloads: Payloads,
    reply_bytes_max: usize,
    request_bytes_max: usize,
    root: String,
    multi_parts: u32,
    /// Replies are read into this and checked where they lie.
    inbox: Vec<u8>,
    /// Memory for requests, lent to the connection that is being served.
    spare: Vec<u8>,
    wire: Wire,
    /// Requests made and unanswered, over all connections.
    outstanding: usize,
    /// Connections that still have requests to make in this phase.
    busy: usize,
    /// Connections that are to be had again.
    down: usize,
    /// What has gone wrong since this was last taken.
    pub faults: Faults,
    /// What has come of lost connections since this was last taken.
    pub recovery: Recovery,
}

/// What came of lost connections.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Connections that were had again.
    pub reconnects: u64,
    /// Sessions that were gone by then.
    pub expired: u64,
    /// Requests that were asked again, because they had had no answer.
    pub repeated: u64,
    /// From the loss of each connection to the first answer on the new one.
    pub outage: Histogram<u64>,
}

impl Default for Recovery {
    fn default() -> Recovery {
        Recovery { reconnects: 0, expired: 0, repeated: 0, outage: latency_histogram() }
    }
}

impl Recovery {
    /// Adds that of another thread.
    pub fn add(&mut self, other: &Recovery) {
        self.reconnects += other.reconnects;
        self.expired += other.expired;
        self.repeated += other.repeated;
        self.outage += &other.outage;
    }
}

impl Worker {
    /// A thread's part of the load on the subtree at `root`.
    pub fn new(
        servers: &Arc<[Server]>,
        sessions: Vec<Session>,
        root: &str,
        payload_bytes: usize,
        multi_parts: u32,
    ) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let ticker = Ticker::new()?;
        poll.registry().register(&mut SourceFd(&ticker.fd().as_raw_fd()), TICKER, Interest::READABLE)?;
        let mut connections = Vec::with_capacity(sessions.len());
        for (i, session) in sessions.into_iter().enumerate() {
            let mut connection = Connection::new(servers, session, now_ns())?;
            poll.registry().register(&mut connection.stream, Token(i), INTEREST)?;
            connections.push(connection);
        }
        let below = Below { root, parent: 0, payload_bytes, multi_parts };
        let reply_bytes_max = reply_bytes_max(below);
        let request_bytes = [Kind::Create, Kind::Multi].map(|kind| Template::new(kind, below).request_bytes());
        Ok(Worker {
            poll,
            ticker,
            connections,
            payloads: Payloads::new(payload_bytes),
            reply_bytes_max,
            request_bytes_max: request_bytes[0].max(request_bytes[1]),
            root: root.to_owned(),
            multi_parts,
            inbox: vec![0; READ_BYTES.max(2 * reply_bytes_max)],
            spare: Vec::with_capacity(READ_BYTES),
            wire: Wire::default(),
            outstanding: 0,
            busy: 0,
            down: 0,
            faults: Faults::default(),
            recovery: Recovery::default(),
        })
    }

    /// Gives a connection its work for the next phase.
    pub fn assign(&mut self, connection: usize, lane: crate::connection::Lane) {
        self.connections[connection].assign(lane, &self.root, self.payloads.size_bytes(), self.multi_parts);
    }

    /// Does what the connections were given until `end_ns`, or until they are done, and waits for the answers.
    pub fn run(&mut self, mut pacing: Pacing, end_ns: u64, recorder: &mut Recorder) -> io::Result<Backlog> {
        let mut events = Events::with_capacity(1024);
        let backlog_limit = BACKLOG_MAX.min(BACKLOG_BYTES_MAX / self.request_bytes_max).max(1);
        let mut open =
            OpenLoop { turn: 0, held_until_ns: 0, backlog: Backlog { limit: backlog_limit, ..Backlog::default() } };
        let mut drain_until_ns = None;
        self.busy = self.connections.iter().filter(|connection| connection.lane().operations > 0).count();
        let mut sweep_ns = now_ns() + SWEEP_NS;
        match &pacing {
            Pacing::Closed { outstanding } => self.fill(*outstanding),
            Pacing::Open(schedule) => {
                self.ticker.start(schedule.next_due_ns(), schedule.interval_ns().max(TICK_NS_MIN))?;
            }
        }
        loop {
            let now = now_ns();
            recorder.tick(now, self.wire);
            if now >= sweep_ns {
                self.sweep(now);
                sweep_ns = now + if self.down > 0 { SWEEP_NS_DIALLING } else { SWEEP_NS };
            }
            if drain_until_ns.is_none() {
                if let Pacing::Open(schedule) = &mut pacing {
                    self.send_due(schedule, now, end_ns, &mut open, recorder);
                }
                if now >= end_ns || self.busy == 0 {
                    drain_until_ns = Some(now + DRAIN_NS_MAX);
                    if let Pacing::Open(schedule) = &pacing {
                        self.ticker.stop()?;
                        if now >= end_ns {
                            open.backlog.never_sent = schedule.left_before(end_ns);
                        }
                    }
                }
            }
            if let Some(limit_ns) = drain_until_ns
                && (self.outstanding == 0 || now >= limit_ns)
            {
                break;
            }
            let wake_ns = if drain_until_ns.is_none() { sweep_ns.min(end_ns) } else { sweep_ns };
            match self.poll.poll(&mut events, Some(Duration::from_nanos(wake_ns.saturating_sub(now)))) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let refill = drain_until_ns.is_none() && matches!(pacing, Pacing::Closed { .. });
            for event in &events {
                match event.token() {
                    TICKER => self.ticker.acknowledge()?,
                    Token(i) => self.serve(i, event.is_writable(), refill.then_some(end_ns), recorder),
                }
            }
            if self.down > 0 {
                sweep_ns = sweep_ns.min(now_ns() + SWEEP_NS_DIALLING);
            }
        }
        recorder.finish(self.wire);
        self.abandon();
        Ok(open.backlog)
    }

    /// The first requests of a closed loop.
    fn fill(&mut self, outstanding: usize) {
        for i in 0..self.connections.len() {
            let now = now_ns();
            self.issue(i, outstanding, now);
            self.flush(i, now);
        }
    }

    /// Handles one connection's readiness. A closed loop answers replies with as many requests until `refill_until_ns`.
    fn serve(&mut self, i: usize, is_writable: bool, refill_until_ns: Option<u64>, recorder: &mut Recorder) {
        if !self.connections[i].link.is_up() {
            return self.dial_on(i);
        }
        let mut now = 0;
        loop {
            let connection = &mut self.connections[i];
            let (received, filled) = match connection.read(&mut self.inbox) {
                Ok(read) => read,
                Err(ended) => return self.end(i, ended),
            };
            if received == 0 {
                break;
            }
            now = now_ns();
            self.wire.received_bytes += received as u64;
            let before = connection.outstanding();
            let result = connection.on_bytes(
                &self.inbox[..filled],
                now,
                &self.payloads,
                self.reply_bytes_max,
                &mut self.faults,
                |kind, due_ns| recorder.complete(kind, due_ns, now),
            );
            let answered = before - connection.outstanding();
            self.outstanding -= answered;
            if answered > 0 {
                recorder.batch(answered, now);
                if let Some(lost_ns) = connection.link.answered() {
                    self.recovery.outage.saturating_record(now.saturating_sub(lost_ns));
                }
            }
            if let Err(ended) = result {
                return self.end(i, ended);
            }
            if refill_until_ns.is_some_and(|until_ns| now < until_ns) {
                self.issue(i, answered, now);
            }
            if filled < self.inbox.len() {
                break;
            }
        }
        if now != 0 || is_writable {
            self.flush(i, if now != 0 { now } else { now_ns() });
        }
    }

    /// Makes up to `requests` requests on a connection, due now.
    fn issue(&mut self, i: usize, requests: usize, now: u64) {
        for _ in 0..requests {
            if !self.issue_one(i, now, now) {
                break;
            }
        }
    }

    /// Makes one request on a connection; false if it has none to make.
    fn issue_one(&mut self, i: usize, due_ns: u64, now: u64) -> bool {
        let connection = &mut self.connections[i];
        if connection.lane().operations == 0 {
            return false;
        }
        connection.lend(&mut self.spare);
        connection.issue(due_ns, now, &self.payloads);
        self.outstanding += 1;
        self.busy -= usize::from(connection.lane().operations == 0);
        true
    }

    /// Makes and writes the requests that are due by `now` and before `end_ns`, the connections taking turns.
    fn send_due(
        &mut self,
        schedule: &mut Schedule,
        now: u64,
        end_ns: u64,
        open: &mut OpenLoop,
        recorder: &mut Recorder,
    ) {
        let connections = self.connections.len();
        // The turns of this call begin here, and each connection is written to once at its end.
        let first = open.turn;
        let mut turns = 0;
        while self.busy > 0 {
            let due_ns = schedule.next_due_ns();
            if due_ns > now || due_ns >= end_ns {
                break;
            }
            if self.outstanding >= open.backlog.limit {
                open.held_until_ns = now;
                break;
            }
            if self.issue_one(open.turn, due_ns, now) {
                open.backlog.held_back += u64::from(due_ns <= open.held_until_ns);
                recorder.sent(due_ns, now);
                schedule.advance();
            }
            turns += 1;
            open.turn = (open.turn + 1) % connections;
        }
        for turn in 0..turns.min(connections) {
            self.flush((first + turn) % connections, now);
        }
        open.backlog.peak = open.backlog.peak.max(self.outstanding);
    }

    fn flush(&mut self, i: usize, now: u64) {
        let connection = &mut self.connections[i];
        if !connection.link.is_up() {
            return;
        }
        match connection.flush(now, &mut self.spare) {
            Ok(written) => self.wire.sent_bytes += written,
            Err(ended) => self.end(i, ended),
        }
    }

    /// Keeps quiet sessions alive, ends connections whose server has fallen silent, and dials those that were lost.
    fn sweep(&mut self, now: u64) {
        for i in 0..self.connections.len() {
            let connection = &mut self.connections[i];
            if connection.link.is_up() {
                if let Err(ended) = connection.check_progress(now) {
                    self.end(i, ended);
                } else if connection.ping_if_due(now) {
                    self.flush(i, now);
                }
            } else if connection.link.is_hopeless(now) {
                self.give_up(i);
            } else if connection.link.is_dial_late(now) {
                self.lose(i, now);
            } else {
                self.dial(i, now);
            }
        }
    }

    /// A connection has ended: after closeSession that is as it should be, or else it is to be had again.
    fn end(&mut self, i: usize, ended: Ended) {
        let connection = &mut self.connections[i];
        if connection.is_closing() {
            if !matches!(ended, Ended::ByServer | Ended::Socket(_)) {
                self.faults.lost(|| format!("{}: {ended}", connection.link.server()));
            }
            return self.give_up(i);
        }
        self.faults.lost(|| format!("{}: {ended}", connection.link.server()));
        self.down += 1;
        let now = now_ns();
        self.lose(i, now);
        self.dial(i, now);
    }

    /// A connection was lost, or could not be had.
    fn lose(&mut self, i: usize, now: u64) {
        let connection = &mut self.connections[i];
        // It may be gone from the poll already.
        let _ = self.poll.registry().deregister(&mut connection.stream);
        connection.lose(now);
    }

    /// Begins to dial if it is time to.
    fn dial(&mut self, i: usize, now: u64) {
        let connection = &mut self.connections[i];
        let Some(dialled) = connection.link.dial_if_due(now) else { return };
        let registered = dialled.and_then(|stream| {
            connection.stream = stream;
            self.poll.registry().register(&mut connection.stream, Token(i), INTEREST)
        });
        if registered.is_err() {
            self.lose(i, now);
        }
    }

    /// Goes on with a dial.
    fn dial_on(&mut self, i: usize) {
        let now = now_ns();
        match self.connections[i].on_dial_ready(now, &self.payloads) {
            Ok((Dialled::NotYet, _)) => {}
            Ok((Dialled::Expired, _)) => {
                self.recovery.expired += 1;
                self.lose(i, now);
            }
            Ok((Dialled::Resumed, repeated)) => {
                self.down -= 1;
                self.recovery.reconnects += 1;
                self.recovery.repeated += repeated as u64;
                self.flush(i, now);
            }
            Err(_) => self.lose(i, now),
        }
    }

    /// Takes a connection out of use for good.
    fn give_up(&mut self, i: usize) {
        let connection = &mut self.connections[i];
        if connection.link.is_over() {
            return;
        }
        self.down -= usize::from(!connection.link.is_up());
        self.busy -= usize::from(connection.lane().operations > 0);
        let unanswered = if connection.is_closing() { 0 } else { connection.outstanding() };
        self.outstanding -= connection.outstanding();
        self.faults.unanswered += unanswered as u64;
        connection.give_up();
        // It may be gone from the poll already.
        let _ = self.poll.registry().deregister(&mut connection.stream);
    }

    /// After the drain: connections that still wait for answers are of no more use.
    fn abandon(&mut self) {
        for i in 0..self.connections.len() {
            let connection = &self.connections[i];
            if connection.outstanding() > 0 {
                let ended = Ended::Undrained(DRAIN_NS_MAX / MS_NS);
                self.faults.lost(|| format!("{}: {ended}", connection.link.server()));
                self.give_up(i);
            }
        }
    }
}

/// Where an open loop stands.
struct OpenLoop {
    /// The connection whose turn it is.
    turn: usize,
    /// Requests due up to here were held back by the limit.
    held_until_ns: u64,
    backlog: Backlog,
}
