//! Watch fan-out: one session changes a znode, all others have a watch on it.
//!
//! A round is about one key: the set goes out, is answered, every watcher gets the event and sets its watch again (a
//! watch is good for one event). Only then the key may be changed again; several keys have rounds at the same time. All
//! latencies of a round but that of setting the watch again count from when the set was due: what the watchers wait for
//! begins there.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use ringkeeper::jute::Reader;
use ringkeeper::proto::client::{EventType, ReplyHeader, RequestHeader, XID_NOTIFICATION, XID_PING};
use ringkeeper::proto::op::OpCode;

use crate::clock::{MS_NS, SECOND_NS, now_ns};
use crate::dial::{Server, Session};
use crate::faults::Faults;
use crate::live::Live;
use crate::options::LoadOptions;
use crate::pipe::Pipe;
use crate::progress::Progress;
use crate::recorder::{Recorder, Summary, Window, Wire};
use crate::request::{Asked, Below, Kind, Payloads, Template, Versions, child_path};
use crate::schedule::Schedule;
use crate::worker::Backlog;

/// How long the rounds that are under way may take after the end, and the setting of the first watches.
const DRAIN_NS_MAX: u64 = 30 * SECOND_NS;
/// The longest sleep.
const SLEEP_NS: u64 = 20 * MS_NS;
/// How often a quiet session gets a ping.
const PING_EVERY_NS: u64 = SECOND_NS;
/// The session that changes the znodes; the others watch.
const WRITER: usize = 0;

/// What a fan-out came to.
pub struct FannedOut {
    /// The measurement.
    pub summary: Summary,
    /// For an open loop.
    pub backlog: Option<Backlog>,
    /// What went wrong.
    pub faults: Faults,
}

/// A session of the fan-out.
struct Peer {
    pipe: Pipe,
    server: String,
    next_xid: i32,
    /// What has been asked and not answered: xid, key, and since when.
    pending: VecDeque<(i32, u32, u64)>,
    set: Template,
    watch: Template,
    sent_ns: u64,
    /// Whether it has a watch, by key.
    watches: Vec<bool>,
}

/// A key, and the round that is about it.
#[derive(Clone, Copy, Default)]
struct Key {
    /// When the set was due.
    due_ns: u64,
    /// Answers, events and watches that are still to come; 0 between rounds.
    missing: usize,
}

/// Carries out the load with `sessions` on the children of parent 0 below `root`, of which there are `keys`.
pub fn run(
    options: &LoadOptions,
    servers: &[Server],
    sessions: Vec<Session>,
    root: &str,
    keys: u32,
) -> Result<FannedOut, Box<dyn Error>> {
    let mut fanout = Fanout::new(options, servers, sessions, root, keys)?;
    fanout.watch_all()?;
    let start_ns = now_ns() + MS_NS;
    let from_ns = start_ns + options.warmup_ns();
    let until_ns = options.duration_ns().map_or(u64::MAX, |duration_ns| from_ns + duration_ns);
    let live = Arc::<Live>::default();
    let window = Window { from_ns, until_ns, by_due_time: options.rate.is_some() };
    let mut recorder = Recorder::new(window, Arc::clone(&live), options.server_pid);
    let schedule = options.rate.map(|rate| Schedule::new(start_ns, rate, 0, 1));
    thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
    let progress = Progress::of_measurement("", live, options);
    let backlog = fanout.load(schedule, options.count.unwrap_or(u64::MAX), until_ns, &mut recorder)?;
    drop(progress);
    let backlog = options.rate.map(|_| backlog);
    Ok(FannedOut { summary: Recorder::summarize(vec![recorder]), backlog, faults: fanout.faults })
}

struct Fanout {
    poll: Poll,
    peers: Vec<Peer>,
    keys: Vec<Key>,
    /// The paths of the keys, as events have them.
    paths: Vec<String>,
    /// Keys without a round, the one that waits longest first.
    free: VecDeque<u32>,
    /// Watchers that have no watch on a key yet, of all keys.
    unwatched: usize,
    payloads: Payloads,
    versions: Versions,
    frames: Vec<Vec<u8>>,
    wire: Wire,
    faults: Faults,
}

impl Fanout {
    fn new(
        options: &LoadOptions,
        servers: &[Server],
        sessions: Vec<Session>,
        root: &str,
        keys: u32,
    ) -> io::Result<Fanout> {
        let poll = Poll::new()?;
        let below = Below { root, parent: 0, payload_bytes: options.size as usize, multi_parts: 1 };
        let mut peers = Vec::with_capacity(sessions.len());
        for (i, session) in sessions.into_iter().enumerate() {
            session.stream.set_nonblocking(true)?;
            let mut pipe = Pipe::new(TcpStream::from_std(session.stream));
            poll.registry().register(&mut pipe.stream, Token(i), Interest::READABLE | Interest::WRITABLE)?;
            peers.push(Peer {
                pipe,
                server: servers[session.server].name.clone(),
                next_xid: 1,
                pending: VecDeque::new(),
                set: Template::new(Kind::Set, below),
                watch: Template::new(Kind::Watch, below),
                sent_ns: now_ns(),
                watches: vec![false; keys as usize],
            });
        }
        let watchers = peers.len() - 1;
        Ok(Fanout {
            poll,
            peers,
            keys: vec![Key::default(); keys as usize],
            paths: (0..keys).map(|key| child_path(root, 0, key)).collect(),
            free: (0..keys).collect(),
            unwatched: watchers * keys as usize,
            payloads: Payloads::new(options.size as usize),
            versions: Versions::new(keys),
            frames: Vec::new(),
            wire: Wire::default(),
            faults: Faults::default(),
        })
    }

    fn watchers(&self) -> usize {
        self.peers.len() - 1
    }

    /// Sets the first watches.
    fn watch_all(&mut self) -> Result<(), Box<dyn Error>> {
        let limit_ns = now_ns() + DRAIN_NS_MAX;
        for peer in WRITER + 1..self.peers.len() {
            for key in 0..self.keys.len() as u32 {
                self.watch(peer, key, now_ns());
            }
            self.flush(peer);
        }
        let mut events = Events::with_capacity(1024);
        let mut nothing = Recorder::idle(Arc::default());
        while self.unwatched > 0 && self.faults.is_empty() && now_ns() < limit_ns {
            self.turn(&mut events, SLEEP_NS, &mut nothing)?;
        }
        match self.unwatched {
            0 if self.faults.is_empty() => Ok(()),
            left => Err(format!("{left} watches could not be set: {}", self.faults.messages.join("; ")).into()),
        }
    }

    /// Begins rounds until `end_ns`, or as many as `count`, and waits for their ends.
    fn load(
        &mut self,
        mut schedule: Option<Schedule>,
        count: u64,
        end_ns: u64,
        recorder: &mut Recorder,
    ) -> io::Result<Backlog> {
        let mut events = Events::with_capacity(1024);
        let mut backlog = Backlog { limit: self.keys.len(), ..Backlog::default() };
        let mut left = count;
        let mut drain_ns = u64::MAX;
        loop {
            let now = now_ns();
            recorder.tick(now, self.wire);
            while left > 0 && now < end_ns && self.faults.lost == 0 {
                let due_ns = schedule.as_ref().map_or(now, Schedule::next_due_ns);
                if due_ns > now || due_ns >= end_ns {
                    break;
                }
                let Some(key) = self.free.pop_front() else { break };
                self.keys[key as usize] = Key { due_ns, missing: 1 + 2 * self.watchers() };
                self.set(key, now);
                left -= 1;
                if let Some(schedule) = &mut schedule {
                    recorder.sent(due_ns, now);
                    backlog.held_back += u64::from(now - due_ns > SLEEP_NS);
                    schedule.advance();
                }
            }
            self.flush(WRITER);
            let rounds = self.keys.len() - self.free.len();
            backlog.peak = backlog.peak.max(rounds);
            if left == 0 || now >= end_ns || self.faults.lost > 0 {
                drain_ns = drain_ns.min(now + DRAIN_NS_MAX);
                if rounds == 0 || self.faults.lost > 0 || now >= drain_ns {
                    self.faults.unanswered += self.keys.iter().map(|key| key.missing as u64).sum::<u64>();
                    break;
                }
            }
            let due_ns = schedule.as_ref().map_or(u64::MAX, Schedule::next_due_ns).max(now + 100_000);
            let sleep_ns = if self.free.is_empty() { SLEEP_NS } else { (due_ns - now).min(SLEEP_NS) };
            self.turn(&mut events, sleep_ns, recorder)?;
            self.keep_alive(now);
        }
        if let Some(schedule) = &schedule
            && end_ns != u64::MAX
        {
            backlog.never_sent = schedule.left_before(end_ns);
        }
        recorder.finish(self.wire);
        Ok(backlog)
    }

    /// Waits for at most so long, and takes what has been received.
    fn turn(&mut self, events: &mut Events, sleep_ns: u64, recorder: &mut Recorder) -> io::Result<()> {
        match self.poll.poll(events, Some(Duration::from_nanos(sleep_ns))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &*events {
            self.serve(event.token().0, recorder);
        }
        Ok(())
    }

    fn serve(&mut self, i: usize, recorder: &mut Recorder) {
        let mut frames = std::mem::take(&mut self.frames);
        let received = self.peers[i].pipe.receive(&mut frames);
        let now = now_ns();
        let mut completions = 0;
        for frame in frames.drain(..) {
            match self.on_frame(i, &frame, now, recorder) {
                Ok(completed) => completions += completed,
                Err(what) => {
                    let server = &self.peers[i].server;
                    self.faults.wrong(|| format!("{server}: {what}"));
                }
            }
        }
        self.frames = frames;
        if completions > 0 {
            recorder.batch(completions, now);
        }
        let server = &self.peers[i].server;
        match received {
            Ok((received, false)) => self.wire.received_bytes += received,
            Ok((_, true)) => self.faults.lost(|| format!("{server}: closed by the server")),
            Err(error) => self.faults.lost(|| format!("{server}: {error}")),
        }
        self.flush(i);
    }

    /// Takes a reply or an event; how many completions that was.
    fn on_frame(&mut self, i: usize, frame: &[u8], now: u64, recorder: &mut Recorder) -> Result<usize, String> {
        let mut reader = Reader::new(frame);
        let header = ReplyHeader::decode(&mut reader).map_err(|error| error.to_string())?;
        match header.xid {
            XID_PING => Ok(0),
            XID_NOTIFICATION => self.on_event(i, &mut reader, now, recorder),
            xid => {
                let peer = &mut self.peers[i];
                let Some((awaited, key, since_ns)) = peer.pending.pop_front() else {
                    return Err(format!("a reply with xid {xid} to no request"));
                };
                if xid != awaited {
                    return Err(format!("a reply with xid {xid} where {awaited} was next"));
                }
                let kind = if i == WRITER { Kind::Set } else { Kind::Watch };
                // From here on there can be an event: a server answers before it.
                peer.watches[key as usize] = i != WRITER;
                if header.err != 0 {
                    self.faults.refused(kind, header.err);
                }
                let template = if i == WRITER { &peer.set } else { &peer.watch };
                let asked = Asked { sequence: key, around: None, zxid: header.zxid.0 };
                // A watcher may be ahead of the writer's own answer: versions are the writer's to check.
                let mut any = Versions::default();
                let versions = if i == WRITER { &mut self.versions } else { &mut any };
                let checked = if header.err == 0 {
                    template.check(reader.rest(), asked, &self.payloads, versions)
                } else {
                    Ok(())
                };
                recorder.complete(kind, since_ns, now);
                if i == WRITER || self.unwatched == 0 {
                    self.came(key);
                } else {
                    self.unwatched -= 1;
                }
                checked.map(|()| 1)
            }
        }
    }

    fn on_event(
        &mut self,
        i: usize,
        reader: &mut Reader<'_>,
        now: u64,
        recorder: &mut Recorder,
    ) -> Result<usize, String> {
        let mut decode = || -> Result<_, ringkeeper::jute::DecodeError> {
            Ok((reader.int()?, reader.int()?, reader.required_string()?.into_owned()))
        };
        let (event, _state, path) = decode().map_err(|error| format!("an event: {error}"))?;
        let key = self.paths.binary_search(&path).map_err(|_| format!("an event of {path}"))?;
        if event != EventType::NodeDataChanged as i32 || !std::mem::take(&mut self.peers[i].watches[key]) {
            return Err(format!("event {event} of {path}, for which there is no watch"));
        }
        recorder.complete(Kind::Event, self.keys[key].due_ns, now);
        self.came(key as u32);
        self.watch(i, key as u32, now);
        Ok(1)
    }

    /// One thing less is to come in the round of a key.
    fn came(&mut self, key: u32) {
        let of_key = &mut self.keys[key as usize];
        if of_key.missing == 1 {
            self.free.push_back(key);
        }
        of_key.missing = of_key.missing.saturating_sub(1);
    }

    fn set(&mut self, key: u32, now: u64) {
        let due_ns = self.keys[key as usize].due_ns;
        let peer = &mut self.peers[WRITER];
        peer.set.append(&mut peer.pipe.unsent, peer.next_xid, key, None, &self.payloads);
        peer.pending.push_back((peer.next_xid, key, due_ns));
        (peer.next_xid, peer.sent_ns) = (peer.next_xid.wrapping_add(1).max(1), now);
    }

    fn watch(&mut self, i: usize, key: u32, now: u64) {
        let peer = &mut self.peers[i];
        peer.watch.append(&mut peer.pipe.unsent, peer.next_xid, key, None, &self.payloads);
        peer.pending.push_back((peer.next_xid, key, now));
        (peer.next_xid, peer.sent_ns) = (peer.next_xid.wrapping_add(1).max(1), now);
    }

    fn keep_alive(&mut self, now: u64) {
        for i in 0..self.peers.len() {
            let peer = &mut self.peers[i];
            if now.saturating_sub(peer.sent_ns) > PING_EVERY_NS {
                for field in [RequestHeader::LEN as i32, XID_PING, OpCode::Ping as i32] {
                    peer.pipe.unsent.extend_from_slice(&field.to_be_bytes());
                }
                peer.sent_ns = now;
                self.flush(i);
            }
        }
    }

    fn flush(&mut self, i: usize) {
        let peer = &mut self.peers[i];
        match peer.pipe.flush() {
            Ok(written) => self.wire.sent_bytes += written,
            Err(error) => self.faults.lost(|| format!("{}: {error}", peer.server)),
        }
    }
}
