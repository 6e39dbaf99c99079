//! Runs a script against one server and notes what comes back.
//!
//! What a server answers must not depend on chance, or two of them could not be compared. So a run waits, after each
//! batch of requests, until everything that the batch leads to has arrived: a `sync` of its own goes behind the batch on
//! the same connection, and then one on every other connection that the run has open. Its reply comes after all events of
//! what was answered before.
//!
//! Bytes that are no request leave a connection in one of three states, and the run knows which, for it follows the
//! frames that it sends: at the end of a frame, where a `sync` can be asked; behind a length that is refused, where only
//! the end can come; or within a frame, which it then fills up with zeros.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::records::{self, AUTH, CLOSE_SESSION, Decoder, Encoder, PING, SASL};
use crate::rename::MARSHALLING_ERROR;
use crate::script::{Meaning, Step};

/// Whatever is due comes within this time, or the run notes that it did not.
const PATIENCE: Duration = Duration::from_secs(30);
/// A longer frame is refused (`jute.maxbuffer`).
const FRAME_MAX: i32 = 0xf_ffff;
/// What is answered to an unknown opcode, with a zxid of -1, before the connection is closed.
const UNIMPLEMENTED: i32 = -6;
/// The xids of the run's own requests begin here; scripts stay away from them.
const BARRIER_XID: i32 = 0x7e00_0000;
/// What the session that looks after the run authenticates with; both servers know its digest as the super user's.
const SUPER: &[u8] = b"super:admin";
/// The connection that looks after the run, in the trace.
pub const KEEPER: usize = 99;

/// Something that came from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index of the last step of the batch that led to it; the number of steps for what came at the end.
    pub step: usize,
    pub cnxn: usize,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The end of a handshake.
    Connected(Vec<u8>),
    /// A reply: the opcode of what it answers, if that is known, and what stands behind the header.
    Reply { code: Option<i32>, xid: i32, zxid: i64, err: i32, body: Vec<u8> },
    /// A watch event.
    Event { zxid: i64, err: i32, body: Vec<u8> },
    /// A frame that is too short for a header.
    Short(Vec<u8>),
    /// The answer to a four-letter word.
    Text(Vec<u8>),
    /// The server closed the connection.
    Closed,
    /// Something was due and did not come.
    Silent,
}

/// All that came, in order for each connection.
#[derive(Default)]
pub struct Trace {
    pub entries: Vec<Entry>,
    /// The zxids of the run's own writes, and the opcodes of those that were answered.
    pub writes: BTreeMap<i64, Option<i32>>,
    /// Requests that were sent.
    pub requests: usize,
}

/// Runs the steps below `root`, an empty place of its own, which is removed afterwards.
pub fn run(server: SocketAddr, steps: &[Step], root: &str) -> io::Result<Trace> {
    let mut keeper = Keeper::new(server)?;
    let mut run = Run {
        server,
        steps,
        root,
        step: 0,
        cnxns: BTreeMap::new(),
        sessions: BTreeMap::new(),
        zxids: Vec::new(),
        trace: Trace::default(),
    };
    run.own_write(keeper.create(root)?, None);
    run.steps()?;
    run.step = steps.len();
    let quota = format!("/zookeeper/quota{root}");
    let mut found = Vec::new();
    for top in [root, &quota] {
        keeper.dump(top, &mut found, &mut run.trace.entries, steps.len())?;
    }
    run.close_all()?;
    keeper.delete(&found)?;
    Ok(run.trace)
}

struct Run<'a> {
    server: SocketAddr,
    steps: &'a [Step],
    root: &'a str,
    step: usize,
    cnxns: BTreeMap<usize, Cnxn>,
    /// Given to each connection last.
    sessions: BTreeMap<usize, (i64, [u8; 16])>,
    zxids: Vec<i64>,
    trace: Trace,
}

impl Run<'_> {
    fn steps(&mut self) -> io::Result<()> {
        let steps = self.steps;
        // The connection that has requests on their way, and whether they may concern others.
        let mut batch: Option<(usize, bool)> = None;
        for (index, step) in steps.iter().enumerate() {
            let another = batch.is_some_and(|(cnxn, _)| cnxn != step.cnxn);
            if (another || step.is_settle() || step.wants_quiet())
                && let Some((cnxn, wide)) = batch.take()
            {
                self.settle(cnxn, wide)?;
            }
            if step.is_settle() {
                // What is waited for belongs to the step before.
                continue;
            }
            self.step = index;
            self.take_step(step)?;
            let reads = records::by_name(&step.name).is_some_and(|operation| !operation.writes);
            let wide = !reads || step.wants_quiet() || batch.is_some_and(|(_, wide)| wide);
            batch = Some((step.cnxn, wide));
            // What may end the connection must not meet what comes after it. A handshake may.
            if step.may_end() {
                self.settle(step.cnxn, true)?;
                batch = None;
            }
        }
        match batch {
            Some((cnxn, wide)) => self.settle(cnxn, wide),
            None => Ok(()),
        }
    }

    fn take_step(&mut self, step: &Step) -> io::Result<()> {
        match step.name.as_str() {
            "drop" => {
                if let Some(cnxn) = self.cnxns.remove(&step.cnxn) {
                    let _ = cnxn.stream.shutdown(Shutdown::Both);
                }
                return Ok(());
            }
            "await" => return self.await_event(step.cnxn),
            _ => {}
        }
        if step.opens() {
            self.cnxns.insert(step.cnxn, Cnxn::open(self.server)?);
        } else if !self.cnxns.contains_key(&step.cnxn) {
            self.connect(step.cnxn)?;
        }
        let sessions = &self.sessions;
        let session = |cnxn| sessions.get(&cnxn).copied();
        let meaning = Meaning { root: self.root, session: &session, zxids: &self.zxids };
        // The server may have refused it.
        let Some(cnxn) = self.cnxns.get_mut(&step.cnxn) else { return Ok(()) };
        cnxn.next_xid += 1;
        let bytes = step.encode(&meaning, cnxn.next_xid);
        self.trace.requests += 1;
        let mut rest = bytes.as_slice();
        loop {
            // A length that ends the connection, behind something that is not answered yet, or a frame behind another
            // that may end it: what came first must be answered first.
            let (frame, more) = rest.split_at(first_frame_len(rest));
            if is_refused(frame) {
                self.settle(step.cnxn, true)?;
            }
            let Some(cnxn) = self.cnxns.get_mut(&step.cnxn) else { return Ok(()) };
            cnxn.careful |= step.may_end();
            cnxn.send(frame, step.drips());
            rest = more;
            if rest.is_empty() {
                return Ok(());
            }
            self.settle(step.cnxn, true)?;
        }
    }

    /// A new session, as most clients open it.
    fn connect(&mut self, number: usize) -> io::Result<()> {
        let mut cnxn = Cnxn::open(self.server)?;
        cnxn.send(&usual_handshake(), false);
        self.cnxns.insert(number, cnxn);
        self.trace.requests += 1;
        self.settle(number, false)
    }

    /// Waits until all that was sent on the connection is answered, and, if `wide`, until all others have their events.
    fn settle(&mut self, number: usize, wide: bool) -> io::Result<()> {
        self.barrier(&[number])?;
        if wide {
            let others: Vec<usize> = self.cnxns.keys().copied().filter(|other| *other != number).collect();
            self.barrier(&others)?;
        }
        self.cnxns.retain(|_, cnxn| !cnxn.ended);
        Ok(())
    }

    fn barrier(&mut self, numbers: &[usize]) -> io::Result<()> {
        for number in numbers {
            // Whether the connection is to end shows in the replies. Behind such a reply nothing may be asked: whether it
            // is answered is chance.
            while let Some(cnxn) = self.cnxns.get_mut(number)
                && cnxn.careful
                && cnxn.phase == Phase::Established
                && !(cnxn.ended || cnxn.due.is_empty() || cnxn.to_end || cnxn.sent.broken)
            {
                cnxn.fill_frame();
                let what = cnxn.next()?;
                self.note(*number, what);
            }
            let Some(cnxn) = self.cnxns.get_mut(number) else { continue };
            cnxn.careful = false;
            cnxn.fill_frame();
            cnxn.send_barrier();
        }
        for number in numbers {
            while let Some(cnxn) = self.cnxns.get_mut(number)
                && !cnxn.ended
                && !cnxn.is_quiet()
            {
                let was_shaking = cnxn.phase == Phase::Shaking;
                let what = cnxn.next()?;
                // Now that it has a session, it can be asked to answer all that came with the handshake.
                if was_shaking {
                    cnxn.send_barrier();
                }
                self.note(*number, what);
            }
        }
        Ok(())
    }

    fn await_event(&mut self, number: usize) -> io::Result<()> {
        while let Some(cnxn) = self.cnxns.get_mut(&number)
            && !cnxn.ended
        {
            let what = cnxn.next()?;
            let stop = matches!(what, Some(What::Event { .. }));
            self.note(number, what);
            if stop {
                break;
            }
        }
        Ok(())
    }

    fn note(&mut self, number: usize, what: Option<What>) {
        let Some(what) = what else { return };
        match &what {
            What::Connected(reply) => {
                let mut fields = Decoder(reply);
                let session = fields.int().and(fields.int()).and_then(|_| fields.long());
                let password = fields.buffer().flatten().and_then(|bytes| bytes.try_into().ok());
                if let (Some(session), Some(password)) = (session, password)
                    && session != 0
                {
                    self.sessions.insert(number, (session, password));
                }
            }
            What::Reply { code: Some(code), zxid, err, .. }
                if *err != MARSHALLING_ERROR && records::by_code(*code).is_some_and(|op| op.writes) =>
            {
                self.own_write(*zxid, Some(*code));
            }
            What::Event { zxid, .. } => self.own_write(*zxid, None),
            _ => {}
        }
        self.trace.entries.push(Entry { step: self.step, cnxn: number, what });
    }

    fn own_write(&mut self, zxid: i64, code: Option<i32>) {
        if zxid <= 0 {
            return;
        }
        let known = self.trace.writes.entry(zxid).or_insert(code);
        *known = known.or(code);
        if let Err(at) = self.zxids.binary_search(&zxid) {
            self.zxids.insert(at, zxid);
        }
    }

    fn close_all(&mut self) -> io::Result<()> {
        let numbers: Vec<usize> = self.cnxns.keys().copied().collect();
        for number in numbers {
            // The end of one session may be the end of another connection.
            let Some(cnxn) = self.cnxns.get_mut(&number) else { continue };
            cnxn.next_xid += 1;
            cnxn.careful = true;
            let mut close = Encoder::default();
            close.int(cnxn.next_xid);
            close.int(CLOSE_SESSION);
            cnxn.send(&framed(&close.0), false);
            self.settle(number, true)?;
        }
        Ok(())
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The handshake is not answered yet.
    Shaking,
    Established,
    /// It began with a four-letter word.
    Text,
}

struct Cnxn {
    stream: TcpStream,
    phase: Phase,
    sent: Framing,
    received: Vec<u8>,
    /// Xid and opcode of each request without a reply yet.
    due: VecDeque<(i32, i32)>,
    next_xid: i32,
    barriers_sent: i32,
    barriers_answered: i32,
    /// What is on its way may end the connection.
    careful: bool,
    /// What was answered last ends the connection.
    to_end: bool,
    ended: bool,
}

impl Cnxn {
    fn open(server: SocketAddr) -> io::Result<Cnxn> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Cnxn {
            stream,
            phase: Phase::Shaking,
            sent: Framing::default(),
            received: Vec::new(),
            due: VecDeque::new(),
            next_xid: 0,
            barriers_sent: 0,
            barriers_answered: 0,
            careful: false,
            to_end: false,
            ended: false,
        })
    }

    fn send(&mut self, bytes: &[u8], drip: bool) {
        if self.phase == Phase::Shaking && self.sent == Framing::default() && bytes.starts_with_word() {
            self.phase = Phase::Text;
        }
        let first = self.sent.frames == 0;
        let heads = self.sent.follow(bytes);
        // The first frame is the handshake, and has no header.
        self.due.extend(heads.into_iter().skip(usize::from(first)).flatten());
        // Whether the server still listens shows in what can be read.
        let pieces = if drip { 1 } else { bytes.len().max(1) };
        for piece in bytes.chunks(pieces) {
            let _ = self.stream.write_all(piece);
        }
    }

    /// Completes a frame that has begun, with zeros.
    fn fill_frame(&mut self) {
        while self.phase != Phase::Text && !self.sent.broken && self.sent.missing() > 0 {
            let zeros = vec![0; self.sent.missing()];
            self.send(&zeros, false);
        }
    }

    /// Asks for a reply behind all others, if the connection is one that can be asked.
    fn send_barrier(&mut self) {
        if self.phase != Phase::Established || self.sent.broken || self.to_end || self.ended {
            return;
        }
        let mut sync = Encoder::default();
        sync.int(BARRIER_XID + self.barriers_sent);
        sync.int(9);
        sync.buffer(Some(b"/"));
        self.barriers_sent += 1;
        let _ = self.stream.write_all(&framed(&sync.0));
    }

    /// Whether nothing more is due.
    fn is_quiet(&self) -> bool {
        match self.phase {
            Phase::Shaking => self.sent == Framing::default(),
            Phase::Established => self.barriers_answered == self.barriers_sent && !self.sent.broken && !self.to_end,
            Phase::Text => false,
        }
    }

    /// The next thing that comes; `None` is the reply to a request of the run's own.
    fn next(&mut self) -> io::Result<Option<What>> {
        loop {
            if self.phase != Phase::Text
                && let Some((head, rest)) = self.received.split_first_chunk::<4>()
                && let Some(frame) =
                    usize::try_from(i32::from_be_bytes(*head)).ok().and_then(|length| rest.get(..length))
            {
                let frame = frame.to_vec();
                self.received.drain(..4 + frame.len());
                return Ok(self.take_frame(frame));
            }
            let mut buffer = [0; 1 << 16];
            let ended = match self.stream.read(&mut buffer) {
                Ok(0) => What::Closed,
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Closed with something unread: which of the two a client sees is chance.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                    What::Closed
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    What::Silent
                }
                Err(error) => return Err(error),
            };
            if !self.received.is_empty() {
                return Ok(Some(What::Text(std::mem::take(&mut self.received))));
            }
            self.ended = true;
            return Ok(Some(ended));
        }
    }

    fn take_frame(&mut self, frame: Vec<u8>) -> Option<What> {
        if self.phase == Phase::Shaking {
            let mut fields = Decoder(&frame);
            let timeout = fields.int().and_then(|_| fields.int());
            if timeout.is_some_and(|timeout| timeout > 0) {
                self.phase = Phase::Established;
            }
            return Some(What::Connected(frame));
        }
        let mut fields = Decoder(&frame);
        let (Some(xid), Some(zxid), Some(err)) = (fields.int(), fields.long(), fields.int()) else {
            return Some(What::Short(frame));
        };
        let body = fields.0.to_vec();
        if xid == BARRIER_XID + self.barriers_answered && self.barriers_answered < self.barriers_sent {
            self.barriers_answered += 1;
            return None;
        }
        let is_due = |(sent, code): &(i32, i32)| *sent == xid || (*code == PING && xid == -2);
        let code = self.due.iter().position(is_due).and_then(|at| self.due.remove(at)).map(|(_, code)| code);
        if xid == -1 && code.is_none() {
            return Some(What::Event { zxid, err, body });
        }
        self.to_end |= match code {
            Some(CLOSE_SESSION) => true,
            Some(AUTH | SASL) => err != 0,
            _ => (zxid, err) == (-1, UNIMPLEMENTED),
        };
        Some(What::Reply { code, xid, zxid, err, body })
    }
}

/// Bytes up to the end of the first frame, all of them if that is refused or not whole.
fn first_frame_len(bytes: &[u8]) -> usize {
    let length = bytes.first_chunk::<4>().map(|head| i32::from_be_bytes(*head));
    match length {
        Some(length @ 0..=FRAME_MAX) => bytes.len().min(4 + length as usize),
        _ => bytes.len(),
    }
}

fn is_refused(frame: &[u8]) -> bool {
    frame.first_chunk::<4>().is_some_and(|head| !(0..=FRAME_MAX).contains(&i32::from_be_bytes(*head)))
}

/// Replies that a server may put ahead of others that are due.
pub fn may_overtake(code: Option<i32>) -> bool {
    matches!(code, Some(PING | AUTH | SASL))
}

trait StartsWithWord {
    fn starts_with_word(&self) -> bool;
}

impl StartsWithWord for [u8] {
    fn starts_with_word(&self) -> bool {
        self.first_chunk::<4>().is_some_and(|head| head.iter().all(u8::is_ascii_lowercase))
    }
}

/// Where in the frames that were sent a connection stands.
#[derive(Default, PartialEq, Eq)]
struct Framing {
    /// Bytes of the length or, once it is known, of the payload, as far as they are of interest.
    head: Vec<u8>,
    /// Bytes of the payload that are still to come; `None` while the length is not complete.
    to_come: Option<usize>,
    /// A length that the server refuses has been sent.
    broken: bool,
    frames: usize,
}

impl Framing {
    /// Follows the bytes; gives xid and opcode of each frame that is completed, if it is long enough for them.
    fn follow(&mut self, mut bytes: &[u8]) -> Vec<Option<(i32, i32)>> {
        let mut heads = Vec::new();
        while !bytes.is_empty() && !self.broken {
            match self.to_come {
                None => {
                    let (part, rest) = bytes.split_at(bytes.len().min(4 - self.head.len()));
                    self.head.extend_from_slice(part);
                    bytes = rest;
                    if let Ok(length) = <[u8; 4]>::try_from(self.head.as_slice()) {
                        let length = i32::from_be_bytes(length);
                        self.broken = !(0..=FRAME_MAX).contains(&length);
                        self.to_come = Some(length.max(0) as usize);
                        self.head.clear();
                    }
                }
                Some(count) => {
                    let (part, rest) = bytes.split_at(bytes.len().min(count));
                    let wanted = part.len().min(8 - self.head.len());
                    self.head.extend_from_slice(&part[..wanted]);
                    self.to_come = Some(count - part.len());
                    bytes = rest;
                }
            }
            if self.to_come == Some(0) && !self.broken {
                let mut fields = Decoder(&self.head);
                heads.push(fields.int().zip(fields.int()));
                self.frames += 1;
                self.head.clear();
                self.to_come = None;
            }
        }
        heads
    }

    /// How many bytes there must be more to come to the end of a length or of a frame.
    fn missing(&self) -> usize {
        match self.to_come {
            Some(count) => count,
            None if self.head.is_empty() => 0,
            None => 4 - self.head.len(),
        }
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [(payload.len() as i32).to_be_bytes().as_slice(), payload].concat()
}

fn usual_handshake() -> Vec<u8> {
    let mut connect = Encoder::default();
    connect.int(0);
    connect.long(0);
    connect.int(30_000);
    connect.long(0);
    connect.buffer(Some(&[0; 16]));
    connect.byte(0);
    framed(&connect.0)
}

/// Looks after a run: makes its root, and at the end reads everything that is there and removes it.
struct Keeper {
    cnxn: Cnxn,
}

impl Keeper {
    fn new(server: SocketAddr) -> io::Result<Keeper> {
        let mut cnxn = Cnxn::open(server)?;
        cnxn.send(&usual_handshake(), false);
        cnxn.next()?;
        let mut keeper = Keeper { cnxn };
        keeper.ask(AUTH, |body| {
            body.int(0);
            body.buffer(Some(b"digest"));
            body.buffer(Some(SUPER));
        })?;
        Ok(keeper)
    }

    fn send(&mut self, code: i32, body: impl FnOnce(&mut Encoder)) {
        self.cnxn.next_xid += 1;
        let mut request = Encoder::default();
        request.int(self.cnxn.next_xid);
        request.int(code);
        body(&mut request);
        self.cnxn.send(&framed(&request.0), false);
    }

    fn ask(&mut self, code: i32, body: impl FnOnce(&mut Encoder)) -> io::Result<What> {
        self.send(code, body);
        self.cnxn.next()?.ok_or_else(|| io::Error::other("the reply to no request"))
    }

    fn create(&mut self, root: &str) -> io::Result<i64> {
        let reply = self.ask(records::CREATE, |body| {
            body.buffer(Some(root.as_bytes()));
            body.buffer(Some(b""));
            body.int(1);
            body.int(31);
            body.buffer(Some(b"world"));
            body.buffer(Some(b"anyone"));
            body.int(0);
        })?;
        match reply {
            What::Reply { zxid, err: 0, .. } => Ok(zxid),
            other => Err(io::Error::other(format!("{root} cannot be made: {other:?}"))),
        }
    }

    /// Reads data, ACL and children of everything from `top` on, parents first.
    fn dump(&mut self, top: &str, found: &mut Vec<Vec<u8>>, entries: &mut Vec<Entry>, step: usize) -> io::Result<()> {
        let mut next = vec![top.as_bytes().to_vec()];
        while let Some(path) = next.pop() {
            let ask = |body: &mut Encoder| {
                body.buffer(Some(&path));
                body.byte(0);
            };
            let replies = [self.ask(4, ask)?, self.ask(6, |body| body.buffer(Some(&path)))?, self.ask(12, ask)?];
            if let What::Reply { err: 0, body, .. } = &replies[2] {
                let mut fields = Decoder(body);
                for _ in 0..fields.int().unwrap_or(0) {
                    let Some(Some(name)) = fields.buffer() else { break };
                    next.push([&path, b"/".as_slice(), name].concat());
                }
                found.push(path);
                // In the same order on each server.
                next.sort();
            }
            entries.extend(replies.map(|what| Entry { step, cnxn: KEEPER, what }));
        }
        Ok(())
    }

    fn delete(&mut self, found: &[Vec<u8>]) -> io::Result<()> {
        let mut paths: Vec<&Vec<u8>> = found.iter().collect();
        // Children before their parents.
        paths.sort_by(|a, b| b.cmp(a));
        for path in &paths {
            self.send(records::DELETE, |body| {
                body.buffer(Some(path));
                body.int(-1);
            });
        }
        self.send(CLOSE_SESSION, |_| {});
        while !self.cnxn.ended {
            self.cnxn.next()?;
        }
        Ok(())
    }
}
