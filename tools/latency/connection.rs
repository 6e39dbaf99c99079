//! One session's connection during the load: what it is to do, what it is waiting for, and its bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;

use ringkeeper::proto::ErrorCode;
use ringkeeper::proto::client::{RequestHeader, XID_NOTIFICATION, XID_PING};
use ringkeeper::proto::op::OpCode;
use ringkeeper::types::Zxid;

use crate::dial::{Server, Session};
use crate::faults::Faults;
use crate::link::{Dialled, Link};
use crate::options::Spread;
use crate::request::{Asked, Below, Kind, Payloads, Template, Versions};

/// A reply's header.
const REPLY_HEADER_BYTES: usize = 16;

/// What a connection is to do in a phase: operations on the children of one parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lane {
    /// The parent.
    pub parent: u32,
    /// The choice of operations.
    pub mix: Mix,
    /// The sequence number to begin with.
    pub first: u32,
    /// Sequence numbers go from 0 to below this and then round again; `None` if they only ever grow.
    pub around: Option<u32>,
    /// Which of the sequence numbers below `around` are used how often.
    pub spread: Spread,
    /// Whether nobody else writes these children.
    pub is_exclusive: bool,
    /// Operations to do; `u64::MAX` for "until the phase ends".
    pub operations: u64,
}

/// The choice of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// All of one kind.
    Only(Kind),
    /// So many percent get, the others set.
    Reads(u32),
}

impl Lane {
    /// Nothing to do.
    pub fn idle() -> Lane {
        Lane::growing(0, Kind::Sync, 0, 0)
    }

    /// So many operations of one kind on one child after the other.
    pub fn growing(parent: u32, kind: Kind, first: u32, operations: u64) -> Lane {
        let (mix, spread) = (Mix::Only(kind), Spread::Turns);
        Lane { parent, mix, first, around: None, spread, is_exclusive: false, operations }
    }
}

/// A random number generator (xorshift) that costs next to nothing.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// A number from 0 to below `limit`.
    fn pick(&mut self, spread: Spread, limit: u32) -> u32 {
        let share = f64::from(self.next()) / (f64::from(u32::MAX) + 1.0);
        let picked = match spread {
            // The density of limit^x falls as 1/x does.
            Spread::Skewed => f64::from(limit).powf(share) - 1.0,
            Spread::Even | Spread::Turns => f64::from(limit) * share,
        };
        (picked as u32).min(limit - 1)
    }
}

/// A request that was written, or is waiting to be.
struct Pending {
    /// When it was due; in a closed loop, when it was made.
    due_ns: u64,
    sequence: u32,
    kind: Kind,
    /// Whether it was sent on a connection that was lost, so that it may have been carried out already.
    is_repeated: bool,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The server closed it.
    ByServer,
    /// An error of the socket.
    Socket(io::Error),
    /// The server sent what cannot be a reply, so no later byte can be trusted.
    Garbled(String),
    /// Requests, but not a byte from the server for so many milliseconds.
    Stalled(u64),
    /// The phase had ended and so many milliseconds later there were still requests without an answer.
    Undrained(u64),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::ByServer => write!(f, "closed by the server"),
            Ended::Socket(error) => write!(f, "{error}"),
            Ended::Garbled(what) => write!(f, "garbled: {what}"),
            Ended::Stalled(ms) => write!(f, "requests are waiting and nothing was heard for {ms} ms"),
            Ended::Undrained(ms) => write!(f, "requests without an answer {ms} ms after the end of the load"),
        }
    }
}

/// A connection with a session.
pub struct Connection {
    /// The socket, registered with the worker's poll while there is a use for it.
    pub stream: TcpStream,
    /// Where it leads.
    pub link: Link,
    /// In the order of [`REQUESTS`].
    templates: Vec<Template>,
    lane: Lane,
    next_sequence: u32,
    /// For the mix and the spread only; never 0.
    random: Random,
    /// What is known of the children that only this connection writes.
    versions: Versions,
    next_xid: i32,
    /// The xid that the next reply must carry.
    awaited_xid: i32,
    pending: VecDeque<Pending>,
    pings: u32,
    /// Requests not yet written, from `unsent_at` on. The memory is lent by the worker while there are any.
    unsent: Vec<u8>,
    unsent_at: usize,
    /// The beginning of a reply whose end has not been received.
    partial: Vec<u8>,
    /// The zxid of the last reply without an error; never goes back.
    zxid: i64,
    /// When bytes were last written: a quiet connection must be kept alive with pings.
    sent_ns: u64,
    /// When bytes were last received, or the first request after a quiet time was made.
    heard_ns: u64,
}

impl Connection {
    /// A connection of its own for a session.
    pub fn new(servers: &Arc<[Server]>, session: Session, now_ns: u64) -> io::Result<Connection> {
        session.stream.set_nonblocking(true)?;
        Ok(Connection {
            link: Link::new(Arc::clone(servers), &session),
            stream: TcpStream::from_std(session.stream),
            templates: Vec::new(),
            lane: Lane::idle(),
            next_sequence: 0,
            random: Random(1),
            versions: Versions::default(),
            next_xid: 1,
            awaited_xid: 1,
            pending: VecDeque::new(),
            pings: 0,
            unsent: Vec::new(),
            unsent_at: 0,
            partial: Vec::new(),
            zxid: 0,
            sent_ns: now_ns,
            heard_ns: now_ns,
        })
    }

    /// Gives it work. Panics if earlier requests are still unanswered.
    pub fn assign(&mut self, lane: Lane, root: &str, payload_bytes: usize, multi_parts: u32) {
        assert!(self.pending.is_empty(), "a lane is changed under {} requests", self.pending.len());
        let below = Below { root, parent: lane.parent, payload_bytes, multi_parts };
        self.templates = REQUESTS.map(|kind| Template::new(kind, below)).into();
        self.next_sequence = lane.first;
        self.random = Random(lane.parent.wrapping_mul(0x9e37_79b9) | 1);
        // From one step of a sweep to the next the children and what is known of them stay.
        if lane.is_exclusive && !self.lane.is_exclusive {
            self.versions = Versions::new(lane.around.unwrap_or(0));
        }
        self.lane = lane;
    }

    /// Its work, with what is left of it.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The sequence number that the next request would have.
    pub fn next_sequence(&self) -> u32 {
        self.next_sequence
    }

    /// Requests made and not answered.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// Makes the next request of the lane, which must have one, and leaves it to [`Connection::flush`].
    pub fn issue(&mut self, due_ns: u64, now_ns: u64, payloads: &Payloads) {
        assert!(self.lane.operations > 0, "a request beyond the end of the lane");
        if self.lane.operations != u64::MAX {
            self.lane.operations -= 1;
        }
        let kind = match self.lane.mix {
            Mix::Only(kind) => kind,
            Mix::Reads(percent) => {
                if self.random.next() % 100 < percent {
                    Kind::Get
                } else {
                    Kind::Set
                }
            }
        };
        let around = self.lane.around;
        let sequence = match (self.lane.spread, around) {
            (Spread::Turns, _) | (_, None) => {
                let sequence = self.next_sequence;
                self.next_sequence += if kind == Kind::Multi { self.templates[place(kind)].parts() } else { 1 };
                if let Some(around) = around
                    && self.next_sequence >= around
                {
                    self.next_sequence -= around;
                }
                sequence
            }
            (spread, Some(around)) => self.random.pick(spread, around),
        };
        if self.pending.is_empty() {
            self.heard_ns = now_ns;
        }
        if self.link.is_up() {
            self.templates[place(kind)].append(&mut self.unsent, self.next_xid, sequence, around, payloads);
            self.next_xid = xid_after(self.next_xid);
        }
        self.pending.push_back(Pending { due_ns, sequence, kind, is_repeated: false });
    }

    /// The connection was lost, or a dial has failed.
    pub fn lose(&mut self, now_ns: u64) {
        self.link.lose(now_ns);
        self.partial.clear();
        self.unsent = Vec::new();
        self.unsent_at = 0;
    }

    /// Goes on with a dial. When there is a session again, everything that has no answer yet is asked again, in the
    /// order in which it was asked, with the due times that it has; how much that is.
    pub fn on_dial_ready(&mut self, now_ns: u64, payloads: &Payloads) -> io::Result<(Dialled, usize)> {
        let dialled = self.link.on_ready(&mut self.stream, Zxid(self.zxid))?;
        let mut repeated = 0;
        if dialled == Dialled::Resumed {
            self.awaited_xid = self.next_xid;
            (self.pings, self.sent_ns, self.heard_ns) = (0, now_ns, now_ns);
            for pending in &mut self.pending {
                pending.is_repeated = true;
                let template = &mut self.templates[place(pending.kind)];
                template.append(&mut self.unsent, self.next_xid, pending.sequence, self.lane.around, payloads);
                self.next_xid = xid_after(self.next_xid);
                self.versions.allow_more();
                repeated += 1;
            }
            if repeated == 0 {
                // Nothing is asked that an answer could come to.
                self.link.answered();
            }
        }
        Ok((dialled, repeated))
    }

    /// Lends memory for requests, if it has none that is in use.
    pub fn lend(&mut self, spare: &mut Vec<u8>) {
        if self.unsent.is_empty() && self.unsent.capacity() < spare.capacity() {
            std::mem::swap(&mut self.unsent, spare);
        }
    }

    /// Writes as much as the socket takes and says how much; returns lent memory when all was written.
    pub fn flush(&mut self, now_ns: u64, spare: &mut Vec<u8>) -> Result<u64, Ended> {
        let mut written = 0;
        while self.unsent_at < self.unsent.len() {
            match self.stream.write(&self.unsent[self.unsent_at..]) {
                Ok(0) => return Err(Ended::ByServer),
                Ok(n) => {
                    self.unsent_at += n;
                    written += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Ended::Socket(error)),
            }
        }
        if written > 0 {
            self.sent_ns = now_ns;
        }
        if self.unsent_at == self.unsent.len() {
            self.unsent.clear();
            self.unsent_at = 0;
            if spare.capacity() < self.unsent.capacity() {
                std::mem::swap(&mut self.unsent, spare);
            }
        }
        Ok(written)
    }

    /// Reads once into `buffer`, behind the beginning of a reply that was left from last time: how many bytes were read,
    /// and how many are in the buffer with those. A full buffer means that the socket may have more.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(usize, usize), Ended> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        loop {
            return match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => Err(Ended::ByServer),
                Ok(n) => {
                    self.partial.clear();
                    Ok((n, kept + n))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, kept)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(Ended::Socket(error)),
            };
        }
    }

    /// Checks the replies in `bytes`, which were received at `now_ns`, and hands each to `done` with its due time.
    /// Keeps the beginning of a reply at the end of `bytes` for the next [`Connection::read`].
    pub fn on_bytes(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        payloads: &Payloads,
        reply_bytes_max: usize,
        faults: &mut Faults,
        mut done: impl FnMut(Kind, u64),
    ) -> Result<(), Ended> {
        self.heard_ns = now_ns;
        let mut bytes = bytes;
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let len = i32::from_be_bytes(*head);
            if len < REPLY_HEADER_BYTES as i32 || len as usize > REPLY_HEADER_BYTES + reply_bytes_max {
                return Err(Ended::Garbled(format!("a reply of {len} bytes")));
            }
            let Some((reply, next)) = rest.split_at_checked(len as usize) else { break };
            self.on_reply(reply, payloads, faults, &mut done)?;
            bytes = next;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn on_reply(
        &mut self,
        reply: &[u8],
        payloads: &Payloads,
        faults: &mut Faults,
        done: &mut impl FnMut(Kind, u64),
    ) -> Result<(), Ended> {
        let (header, body) = reply.split_at(REPLY_HEADER_BYTES);
        let int = |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (xid, err) = (int(0), int(12));
        let zxid = i64::from(int(4)) << 32 | i64::from(int(8) as u32);
        if xid == XID_PING && self.pings > 0 {
            self.pings -= 1;
            return Ok(());
        }
        if xid == XID_NOTIFICATION {
            return Err(Ended::Garbled("a watch event, though no watch was set".to_owned()));
        }
        if xid != self.awaited_xid {
            return Err(Ended::Garbled(format!("a reply with xid {xid} where {} was next", self.awaited_xid)));
        }
        let Some(pending) = self.pending.pop_front() else {
            return Err(Ended::Garbled(format!("a reply with xid {xid} to no request")));
        };
        self.awaited_xid = xid_after(xid);
        let is_done_before =
            pending.is_repeated && matches!((pending.kind, err), (Kind::Create, NODE_EXISTS) | (Kind::Delete, NO_NODE));
        if err != 0 && !is_done_before {
            faults.refused(pending.kind, err);
            done(pending.kind, pending.due_ns);
            return Ok(());
        }
        if zxid < self.zxid {
            faults.wrong(|| format!("{}: zxid 0x{zxid:x} after 0x{:x}", self.link.server(), self.zxid));
        }
        self.zxid = zxid;
        let template = &self.templates[place(pending.kind)];
        let asked = Asked { sequence: pending.sequence, around: self.lane.around, zxid };
        if !is_done_before && let Err(what) = template.check(body, asked, payloads, &mut self.versions) {
            faults.wrong(|| {
                let (kind, parent, sequence) = (pending.kind.name(), self.lane.parent, pending.sequence);
                format!("{}: {kind} of p{parent:05}/n{sequence:010}: {what}", self.link.server())
            });
        }
        done(pending.kind, pending.due_ns);
        Ok(())
    }

    /// Whether it has been quiet for so long that the session needs a ping; then makes one, to be flushed.
    pub fn ping_if_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.sent_ns) > self.link.timeout_ms() * crate::clock::MS_NS / 3;
        if due && self.unsent.is_empty() {
            self.pings += 1;
            let mut ping = Vec::with_capacity(4 + RequestHeader::LEN);
            for field in [RequestHeader::LEN as i32, XID_PING, OpCode::Ping as i32] {
                ping.extend_from_slice(&field.to_be_bytes());
            }
            self.unsent.extend_from_slice(&ping);
        }
        due
    }

    /// An error if requests have been waiting for two thirds of the session timeout without any byte from the server:
    /// then the clients that are in use give it up, too.
    pub fn check_progress(&self, now_ns: u64) -> Result<(), Ended> {
        let quiet_ms = now_ns.saturating_sub(self.heard_ns) / crate::clock::MS_NS;
        if !self.pending.is_empty() && quiet_ms > self.link.timeout_ms() * 2 / 3 {
            Err(Ended::Stalled(quiet_ms))
        } else {
            Ok(())
        }
    }

    /// It is of no more use: drops what is pending.
    pub fn give_up(&mut self) {
        self.link.give_up();
        self.versions.allow_more();
        self.pending.clear();
        self.unsent = Vec::new();
        self.unsent_at = 0;
        self.lane.operations = 0;
    }

    /// Whether only the reply to closeSession is missing, so the server may close the connection.
    pub fn is_closing(&self) -> bool {
        self.lane.mix == Mix::Only(Kind::Close)
    }
}

const NODE_EXISTS: i32 = ErrorCode::NodeExists as i32;
const NO_NODE: i32 = ErrorCode::NoNode as i32;

/// What a lane can ask for.
const REQUESTS: [Kind; 7] = [Kind::Set, Kind::Create, Kind::Get, Kind::Delete, Kind::Multi, Kind::Close, Kind::Sync];

/// Its place among the templates.
fn place(kind: Kind) -> usize {
    match kind {
        Kind::Close => 5,
        Kind::Sync => 6,
        // The others are the first ones, in both.
        kind => kind as usize,
    }
}

/// Positive xids only: the others have meanings of their own.
fn xid_after(xid: i32) -> i32 {
    if xid == i32::MAX { 1 } else { xid + 1 }
}
