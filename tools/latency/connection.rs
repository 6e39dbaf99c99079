//! One session's connection during the load: what it is to do, what it is waiting for, and its bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use mio::net::TcpStream;

use ringkeeper::proto::client::{RequestHeader, XID_NOTIFICATION, XID_PING};
use ringkeeper::proto::op::OpCode;

use crate::dial::Session;
use crate::faults::Faults;
use crate::request::{Kind, Payloads, Template};

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
        Lane { parent: 0, mix: Mix::Only(Kind::Sync), first: 0, around: None, operations: 0 }
    }
}

/// A request that was written, or is waiting to be.
struct Pending {
    /// When it was due; in a closed loop, when it was made.
    due_ns: u64,
    sequence: u32,
    kind: Kind,
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
    /// The socket, registered with the worker's poll.
    pub stream: TcpStream,
    /// For messages.
    pub server: String,
    /// The negotiated session timeout.
    pub timeout_ms: u64,
    templates: Vec<Template>,
    lane: Lane,
    next_sequence: u32,
    /// For the mix only; any number but 0.
    random: u32,
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
    /// Set once the connection is of no more use.
    pub is_over: bool,
}

impl Connection {
    /// A connection of its own for a session.
    pub fn new(session: Session, now_ns: u64) -> io::Result<Connection> {
        session.stream.set_nonblocking(true)?;
        Ok(Connection {
            stream: TcpStream::from_std(session.stream),
            server: session.server,
            timeout_ms: session.timeout_ms,
            templates: Vec::new(),
            lane: Lane::idle(),
            next_sequence: 0,
            random: 1,
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
            is_over: false,
        })
    }

    /// Gives it work. Panics if earlier requests are still unanswered.
    pub fn assign(&mut self, lane: Lane, root: &str, payload_bytes: usize) {
        assert!(self.pending.is_empty(), "a lane is changed under {} requests", self.pending.len());
        self.templates = Kind::ALL.map(|kind| Template::new(kind, root, lane.parent, payload_bytes)).into();
        self.next_sequence = lane.first;
        self.random = lane.parent.wrapping_mul(0x9e37_79b9) | 1;
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
                self.random ^= self.random << 13;
                self.random ^= self.random >> 17;
                self.random ^= self.random << 5;
                if self.random % 100 < percent { Kind::Get } else { Kind::Set }
            }
        };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if self.lane.around == Some(self.next_sequence) {
            self.next_sequence = 0;
        }
        if self.pending.is_empty() {
            self.heard_ns = now_ns;
        }
        self.templates[kind as usize].append(&mut self.unsent, self.next_xid, sequence, payloads);
        self.next_xid = xid_after(self.next_xid);
        self.pending.push_back(Pending { due_ns, sequence, kind });
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
        if err != 0 {
            faults.refused(pending.kind, err);
            done(pending.kind, pending.due_ns);
            return Ok(());
        }
        if zxid < self.zxid {
            faults.wrong(|| format!("{}: zxid 0x{zxid:x} after 0x{:x}", self.server, self.zxid));
        }
        self.zxid = zxid;
        if let Err(what) = self.templates[pending.kind as usize].check(body, pending.sequence, payloads) {
            faults.wrong(|| {
                let (kind, parent, sequence) = (pending.kind.name(), self.lane.parent, pending.sequence);
                format!("{}: {kind} of p{parent:05}/n{sequence:010}: {what}", self.server)
            });
        }
        done(pending.kind, pending.due_ns);
        Ok(())
    }

    /// Whether it has been quiet for so long that the session needs a ping; then makes one, to be flushed.
    pub fn ping_if_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.sent_ns) > self.timeout_ms * crate::clock::MS_NS / 3;
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

    /// An error if requests have been waiting for a session timeout without any byte from the server.
    pub fn check_progress(&self, now_ns: u64) -> Result<(), Ended> {
        let quiet_ms = now_ns.saturating_sub(self.heard_ns) / crate::clock::MS_NS;
        if !self.pending.is_empty() && quiet_ms > self.timeout_ms { Err(Ended::Stalled(quiet_ms)) } else { Ok(()) }
    }

    /// Drops what is pending and says how many requests that were.
    pub fn give_up(&mut self) -> usize {
        let dropped = self.pending.len();
        self.is_over = true;
        self.pending.clear();
        self.unsent = Vec::new();
        self.unsent_at = 0;
        self.lane.operations = 0;
        dropped
    }

    /// Whether only the reply to closeSession is missing, so the server may close the connection.
    pub fn is_closing(&self) -> bool {
        self.lane.mix == Mix::Only(Kind::Close)
    }
}

/// Positive xids only: the others have meanings of their own.
fn xid_after(xid: i32) -> i32 {
    if xid == i32::MAX { 1 } else { xid + 1 }
}
