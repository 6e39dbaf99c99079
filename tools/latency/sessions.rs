//! Storms of sessions: opened and closed again, or taken up again on a new connection, as after a failover.
//!
//! Each slot has at most one session. A closed loop keeps all slots busy, so with as many operations as slots all begin
//! at once. An open loop begins one when it is due and a slot is free; if none is, the wait is in the latency.

use std::collections::HashSet;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use ringkeeper::jute::Reader;
use ringkeeper::proto::client::ReplyHeader;
use ringkeeper::proto::frame;
use ringkeeper::proto::op::OpCode;
use ringkeeper::types::{SessionId, Zxid};

use crate::clock::{MS_NS, SECOND_NS, now_ns};
use crate::dial::{Server, open_sessions};
use crate::faults::Faults;
use crate::link::{Dialled, Link};
use crate::live::Live;
use crate::load::Outcome;
use crate::options::{LoadOptions, Op};
use crate::pipe::Pipe;
use crate::progress::Progress;
use crate::recorder::{Recorder, Window, Wire};
use crate::request::Kind;
use crate::schedule::Schedule;
use crate::worker::{Backlog, Recovery};

/// How long a session may take to be opened, taken up or closed.
const OPERATION_NS_MAX: u64 = 30 * SECOND_NS;
/// How long the server may take to close a connection whose session has ended; then it is closed from here.
const ENDING_NS_MAX: u64 = SECOND_NS;
/// How often operations that take too long are looked for, and the longest sleep.
const SWEEP_NS: u64 = 20 * MS_NS;
/// The xid of closeSession: the only request.
const CLOSE_XID: i32 = 1;

/// One place for a session.
struct Slot {
    state: State,
    link: Link,
    pipe: Option<Pipe>,
    /// When what is under way was due, and when it must have ended.
    due_ns: u64,
    until_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is under way.
    Free,
    /// A session is being opened, or taken up.
    Dialling,
    /// Its end has been asked for.
    Closing,
    /// It has ended, and the server is to close the connection.
    Ending,
}

/// Carries out the load.
pub fn run(options: &LoadOptions) -> Result<Outcome, Box<dyn Error>> {
    let servers: Arc<[Server]> = options.servers.iter().map(|name| Server::resolve(name)).collect::<Result<_, _>>()?;
    let begin_ns = now_ns();
    let mut storm = Storm::new(&servers, options)?;
    let prepare_ns = now_ns() - begin_ns;

    let start_ns = now_ns() + MS_NS;
    let from_ns = start_ns + options.warmup_ns();
    let until_ns = options.duration_ns().map_or(u64::MAX, |duration_ns| from_ns + duration_ns);
    let live = Arc::<Live>::default();
    let window = Window { from_ns, until_ns, by_due_time: options.rate.is_some() };
    let mut recorder = Recorder::new(window, Arc::clone(&live), options.server_pid);
    let schedule = options.rate.map(|rate| Schedule::new(start_ns, rate, 0, 1));
    thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
    let progress = Progress::of_measurement("", live, options);
    let backlog = storm.load(schedule, options.count.unwrap_or(u64::MAX), until_ns, &mut recorder)?;
    drop(progress);

    let clean_up_ns = now_ns();
    storm.close_all()?;
    Ok(Outcome {
        summary: Recorder::summarize(vec![recorder]),
        backlog: options.rate.map(|_| backlog),
        faults: storm.faults,
        recovery: Recovery::default(),
        during: None,
        kept: None,
        prepare_ns,
        clean_up_ns: now_ns() - clean_up_ns,
    })
}

struct Storm {
    poll: Poll,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Whether sessions are taken up again, in place of being opened and closed.
    resumes: bool,
    /// The sessions that are open: no two may be the same.
    open: HashSet<SessionId>,
    frames: Vec<Vec<u8>>,
    wire: Wire,
    faults: Faults,
}

impl Storm {
    fn new(servers: &Arc<[Server]>, options: &LoadOptions) -> Result<Storm, Box<dyn Error>> {
        let resumes = options.op == Op::Resume;
        let count = options.connections as usize;
        let mut storm = Storm {
            poll: Poll::new()?,
            slots: Vec::with_capacity(count),
            free: (0..count).rev().collect(),
            resumes,
            open: HashSet::new(),
            frames: Vec::new(),
            wire: Wire::default(),
            faults: Faults::default(),
        };
        let opened = if resumes { open_sessions(servers, count, options.session_timeout)? } else { Vec::new() };
        let mut opened = opened.into_iter();
        for i in 0..count {
            let session = opened.next();
            let link = match &session {
                Some(session) => {
                    storm.open.insert(session.id);
                    Link::new(Arc::clone(servers), session).patient()
                }
                None => {
                    let server = i % servers.len();
                    Link::without_session(Arc::clone(servers), server, options.session_timeout.into()).patient()
                }
            };
            storm.slots.push(Slot { state: State::Free, link, pipe: None, due_ns: 0, until_ns: 0 });
            // The connection of a session to be taken up is let go here: the server keeps the session.
        }
        Ok(storm)
    }

    /// Begins operations until `end_ns`, or as many as `count`, and waits for their ends.
    fn load(
        &mut self,
        mut schedule: Option<Schedule>,
        count: u64,
        end_ns: u64,
        recorder: &mut Recorder,
    ) -> io::Result<Backlog> {
        let mut events = Events::with_capacity(1024);
        let mut backlog = Backlog { limit: self.slots.len(), ..Backlog::default() };
        let mut left = count;
        loop {
            let now = now_ns();
            recorder.tick(now, self.wire);
            while left > 0 && now < end_ns {
                let due_ns = schedule.as_ref().map_or(now, Schedule::next_due_ns);
                if due_ns > now || due_ns >= end_ns {
                    break;
                }
                let Some(slot) = self.free.pop() else { break };
                self.begin(slot, due_ns, now);
                left -= 1;
                if let Some(schedule) = &mut schedule {
                    recorder.sent(due_ns, now);
                    // Due by now, but only a slot that came free let it begin.
                    backlog.held_back += u64::from(now - due_ns > SWEEP_NS);
                    schedule.advance();
                }
            }
            let under_way = self.slots.len() - self.free.len();
            backlog.peak = backlog.peak.max(under_way);
            if (left == 0 || now >= end_ns) && under_way == 0 {
                break;
            }
            let due_ns = schedule.as_ref().map_or(u64::MAX, Schedule::next_due_ns).max(now + 100_000);
            let wake_ns =
                if self.free.is_empty() || now >= end_ns { now + SWEEP_NS } else { due_ns.min(now + SWEEP_NS) };
            match self.poll.poll(&mut events, Some(Duration::from_nanos(wake_ns - now))) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                self.serve(event.token().0, recorder);
            }
            self.sweep();
        }
        if let Some(schedule) = &schedule
            && end_ns != u64::MAX
        {
            backlog.never_sent = schedule.left_before(end_ns);
        }
        recorder.finish(self.wire);
        Ok(backlog)
    }

    /// Begins an operation on a free slot.
    fn begin(&mut self, i: usize, due_ns: u64, now: u64) {
        let slot = &mut self.slots[i];
        (slot.state, slot.due_ns, slot.until_ns) = (State::Dialling, due_ns, now + OPERATION_NS_MAX);
        slot.link.dial_anew(now);
        self.dial(i, now);
    }

    /// Begins to dial if it is time to.
    fn dial(&mut self, i: usize, now: u64) {
        let slot = &mut self.slots[i];
        let Some(dialled) = slot.link.dial_if_due(now) else { return };
        let registered = dialled.and_then(|mut stream| {
            self.poll.registry().register(&mut stream, Token(i), Interest::READABLE | Interest::WRITABLE)?;
            slot.pipe = Some(Pipe::new(stream));
            Ok(())
        });
        if registered.is_err() {
            slot.link.lose(now);
        }
    }

    /// Goes on with the slot whose connection is ready for it.
    fn serve(&mut self, i: usize, recorder: &mut Recorder) {
        let now = now_ns();
        let slot = &mut self.slots[i];
        let Some(pipe) = &mut slot.pipe else { return };
        if slot.state == State::Dialling {
            match slot.link.on_ready(&mut pipe.stream, Zxid::ZERO) {
                Ok(Dialled::NotYet) => {}
                Ok(Dialled::Resumed) => self.on_session(i, now, recorder),
                Ok(Dialled::Expired) => {
                    self.faults.wrong(|| format!("{}: a session was refused", slot.link.server()));
                    self.free(i);
                }
                // A full listen queue, most likely: it is dialled again, and takes the longer.
                Err(_) => slot.link.lose(now),
            }
            return;
        }
        let mut frames = std::mem::take(&mut self.frames);
        let received = pipe.receive(&mut frames);
        let server = slot.link.server();
        match received {
            Ok((received, is_end)) => {
                self.wire.received_bytes += received;
                for frame in frames.drain(..) {
                    let is_right = ReplyHeader::decode(&mut Reader::new(&frame))
                        .is_ok_and(|header| (header.xid, header.err) == (CLOSE_XID, 0) && frame.len() == 16);
                    if !is_right || slot.state != State::Closing {
                        self.faults.wrong(|| format!("{server}: not the answer to closeSession: {frame:02x?}"));
                    } else {
                        recorder.complete(Kind::Close, slot.due_ns, now);
                        recorder.batch(1, now);
                    }
                    (slot.state, slot.until_ns) = (State::Ending, now + ENDING_NS_MAX);
                }
                if is_end {
                    if slot.state == State::Closing {
                        self.faults.lost(|| format!("{server}: closed by the server before closeSession was answered"));
                    }
                    self.free(i);
                }
            }
            Err(error) => {
                if slot.state == State::Closing {
                    self.faults.lost(|| format!("{server}: {error}"));
                }
                self.free(i);
            }
        }
        self.frames = frames;
        self.frames.clear();
    }

    /// A session was opened, or taken up.
    fn on_session(&mut self, i: usize, now: u64, recorder: &mut Recorder) {
        let slot = &mut self.slots[i];
        let id = slot.link.session();
        if self.resumes {
            recorder.complete(Kind::Resume, slot.due_ns, now);
            recorder.batch(1, now);
            if !self.open.contains(&id) {
                self.faults.wrong(|| format!("{}: another session, 0x{:x}", slot.link.server(), id.0));
            }
            return self.free(i);
        }
        recorder.complete(Kind::Open, slot.due_ns, now);
        recorder.batch(1, now);
        if !self.open.insert(id) {
            self.faults.wrong(|| format!("{}: session 0x{:x} is open twice", slot.link.server(), id.0));
        }
        self.close(i, now);
    }

    fn close(&mut self, i: usize, now: u64) {
        let slot = &mut self.slots[i];
        (slot.state, slot.due_ns) = (State::Closing, now);
        let Some(pipe) = &mut slot.pipe else { return };
        let start = frame::begin(&mut pipe.unsent);
        for field in [CLOSE_XID, OpCode::CloseSession as i32] {
            pipe.unsent.extend_from_slice(&field.to_be_bytes());
        }
        frame::end(&mut pipe.unsent, start);
        match pipe.flush() {
            Ok(written) => self.wire.sent_bytes += written,
            Err(error) => {
                self.faults.lost(|| format!("{}: {error}", slot.link.server()));
                self.free(i);
            }
        }
    }

    /// The operation of a slot has ended.
    fn free(&mut self, i: usize) {
        let slot = &mut self.slots[i];
        if let Some(mut pipe) = slot.pipe.take() {
            // It may be gone from the poll already.
            let _ = self.poll.registry().deregister(&mut pipe.stream);
        }
        if !self.resumes {
            self.open.remove(&slot.link.session());
            slot.link.forget_session();
        }
        slot.state = State::Free;
        self.free.push(i);
    }

    /// Dials again what was not answered, and ends what takes too long.
    fn sweep(&mut self) {
        let now = now_ns();
        for i in 0..self.slots.len() {
            let slot = &mut self.slots[i];
            match slot.state {
                State::Free => {}
                _ if now >= slot.until_ns => {
                    let (state, server) = (slot.state, slot.link.server());
                    if state != State::Ending {
                        self.faults.lost(|| format!("{server}: {state:?} for {} s", OPERATION_NS_MAX / SECOND_NS));
                        self.faults.unanswered += 1;
                    }
                    self.free(i);
                }
                State::Dialling => {
                    if slot.link.is_dial_late(now) {
                        slot.link.lose(now);
                    }
                    self.dial(i, now);
                }
                State::Closing | State::Ending => {}
            }
        }
    }

    /// In the end: closes the sessions that are still open.
    fn close_all(&mut self) -> io::Result<()> {
        if !self.resumes {
            return Ok(());
        }
        // From here on a session that is there again is closed.
        self.resumes = false;
        self.open.clear();
        let count = self.slots.len() as u64;
        self.load(None, count, u64::MAX, &mut Recorder::idle(Arc::default())).map(drop)
    }
}
