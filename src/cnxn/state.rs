//! What a server keeps of one connection.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::counters::Summary;
use super::listing::Listing;
use crate::proto::ErrorCode;
use crate::proto::client::Id;
use crate::proto::frame;
use crate::proto::op::OpCode;
use crate::types::{CnxnId, Instant, SessionId, Zxid};

/// One client connection.
pub(super) struct Cnxn {
    pub(super) id: CnxnId,
    pub(super) peer: SocketAddr,
    pub(super) phase: Phase,
    /// Who the client has shown to be; what a request is allowed is decided by those at its receipt.
    pub(super) ids: Arc<Vec<Id>>,
    /// Requests without a reply yet, oldest first. The first is never a read: at the head that is answered.
    pub(super) pending: VecDeque<Pending>,
    /// Syncs that were answered because a write behind them was committed: the word that they waited for is still to come.
    pub(super) overtaken_syncs: u32,
    /// Frames to be sent.
    pub(super) out: Vec<u8>,
    /// Set once, when the connection is to be closed after its output.
    pub(super) close: Option<CloseReason>,
    /// It is to be closed at once.
    pub(super) abort: bool,
    /// Output that was handed to the driver and may not have been taken by the client.
    pub(super) in_flight: usize,
    /// A reply that is made by and by.
    pub(super) listing: Option<Listing>,
    /// When the client last took output, as far as that is known.
    pub(super) moved: Instant,
    /// Number of the first telling that it may be still to be told of.
    pub(super) told: u64,
    /// Since when the throttle holds up the request at the head of its buffer.
    pub(super) throttled: Option<Instant>,
    /// It stands in the queue of those that the throttle holds up.
    pub(super) in_throttle: bool,
    /// When something last came in.
    pub(super) heard: Instant,
    /// When it came.
    pub(super) accepted: Instant,
    pub(super) counts: Counts,
}

/// What `cons` tells of a connection, since it came or `crst`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Times from request to reply in ms.
    pub latency: Summary,
    /// The last answer.
    pub last: Option<LastAnswer>,
}

/// See [`Counts`].
#[derive(Clone, Copy, Debug)]
pub struct LastAnswer {
    /// To what: Apache's short name.
    pub op: &'static str,
    /// xid of the last request that had none of the special ones.
    pub cxid: Option<i32>,
    /// In the reply's header.
    pub zxid: Zxid,
    /// When.
    pub at: Instant,
    /// How long it took.
    pub latency_ms: u64,
}

impl Counts {
    pub(super) fn answered(&mut self, op: OpCode, xid: i32, zxid: Zxid, since: Instant, now: Instant) {
        let latency_ms = now.since_ms(since);
        let cxid = if xid >= 0 { Some(xid) } else { self.last.and_then(|last| last.cxid) };
        self.latency.add(latency_ms);
        self.last = Some(LastAnswer { op: op.short_name(), cxid, zxid, at: now, latency_ms });
    }

    /// The session was opened.
    pub(super) fn opened(&mut self, zxid: Zxid, now: Instant) {
        self.latency.add(0);
        self.last = Some(LastAnswer { op: "SESS", cxid: Some(0), zxid, at: now, latency_ms: 0 });
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing received yet.
    New,
    /// A four-letter word is being answered.
    Asked,
    /// The handshake waits for its session; nothing further is read.
    Shaking { timeout_ms: i32, read_only: Option<bool> },
    /// In use.
    Established { session: SessionId, timeout_ms: i32 },
}

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) enum Pending {
    Write {
        xid: i32,
        op: OpCode,
        /// Bytes of a large request, else 0; and so below.
        large: u32,
        since: Instant,
    },
    /// Waits for the writes before it.
    Read { xid: i32, op: OpCode, body: Bytes, ids: Arc<Vec<Id>>, large: u32, since: Instant },
    /// Waits for the ordering shard's word that everything committed before it has been told to this one, and for the
    /// writes before it.
    Sync { xid: i32, body: Bytes, told: bool, large: u32, since: Instant },
    /// Will not be carried out.
    Refused { xid: i32, code: ErrorCode },
    /// An opcode that the server does not know: waits for its turn, and ends the connection.
    Unknown { xid: i32, op: i32 },
}

impl Pending {
    /// Whether it counts against the limit of outstanding requests: Apache leaves out special xids.
    pub(super) fn counts(&self) -> bool {
        let (Pending::Write { xid, .. }
        | Pending::Read { xid, .. }
        | Pending::Sync { xid, .. }
        | Pending::Refused { xid, .. }
        | Pending::Unknown { xid, .. }) = self;
        *xid > 0
    }

    /// Bytes that count against the limit of large requests.
    pub(super) fn large_bytes(&self) -> usize {
        match self {
            Pending::Write { large, .. } | Pending::Read { large, .. } | Pending::Sync { large, .. } => *large as usize,
            Pending::Refused { .. } | Pending::Unknown { .. } => 0,
        }
    }

    /// Whether it can be answered when it comes to the head of the queue. `passed` says that what stands behind it is
    /// committed: then its sync need not be told any more.
    pub(super) fn is_ready(&self, passed: bool) -> bool {
        match self {
            Pending::Write { .. } => false,
            Pending::Read { .. } | Pending::Refused { .. } | Pending::Unknown { .. } => true,
            Pending::Sync { told, .. } => *told || passed,
        }
    }
}

/// Why a server closes a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// A frame length below 0 or above `jute.maxbuffer`.
    BadLength(i32),
    /// The first frame was no handshake.
    BadHandshake,
    /// A request without a whole header, or an auth packet that cannot be read.
    BadRequest,
    /// The client has seen a newer state than this server's.
    ClientAhead {
        /// By the client.
        seen: Zxid,
        /// Here.
        newest: Zxid,
    },
    /// The session is gone, or the password was wrong.
    InvalidSession,
    /// The session was taken over by another connection.
    SessionMoved,
    /// The session was closed or ran out.
    SessionClosed,
    /// The server is in read-only mode, and the client did not say that it can do with that.
    ReadOnlyMode,
    /// The server is in read-only mode, and does not know the session.
    SessionInReadOnlyMode,
    /// An opcode that this server does not know.
    UnknownOperation(i32),
    /// An auth packet was refused.
    AuthFailed,
    /// It asked for something before it showed who it is, as `enforce.auth.enabled` demands.
    AuthRequired,
    /// A four-letter word was answered.
    FourLetter,
    /// Nothing came for longer than the session's timeout.
    Silent,
    /// No handshake came in time.
    NoSession,
    /// The client does not read what it is sent.
    NotReading,
    /// The server is no member of an ensemble with a leader.
    NotServing,
    /// Too many connects at this time (`connection_throttle_tokens`).
    Throttled,
    /// A request waited for longer than its session's timeout before it was looked at (`request_throttle_drop_stale`).
    Stale,
    /// Too many bytes of large requests wait for their replies (`largeRequestMaxBytes`).
    LargeRequest,
    /// There are too many watches, and it has most of them (`ringkeeper.maxWatches`).
    TooManyWatches,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::BadLength(len) => write!(
                f,
                "a message with advertised length of {len} is either a malformed message or too large to process \
                 (length is greater than jute.maxbuffer)"
            ),
            CloseReason::BadHandshake => write!(f, "its first message is no connect request"),
            CloseReason::BadRequest => write!(f, "it sent a request that cannot be read"),
            CloseReason::ClientAhead { seen, newest } => {
                write!(f, "it has seen zxid {seen}, our last zxid is {newest}; the client must try another server")
            }
            CloseReason::InvalidSession => write!(f, "its session is invalid, probably expired"),
            CloseReason::SessionMoved => write!(f, "its session has moved to another connection"),
            CloseReason::SessionClosed => write!(f, "its session is closed"),
            CloseReason::ReadOnlyMode => write!(f, "Refusing session request for not-read-only client"),
            CloseReason::SessionInReadOnlyMode => write!(f, "Refusing global session reconnection in RO mode"),
            CloseReason::UnknownOperation(op) => write!(f, "it asked for the unknown operation {op}"),
            CloseReason::AuthFailed => write!(f, "its authentication failed"),
            CloseReason::AuthRequired => write!(f, "it has not authenticated as enforce.auth.schemes asks"),
            CloseReason::FourLetter => write!(f, "its four-letter word was answered"),
            CloseReason::Silent => write!(f, "nothing was heard of it for its session timeout"),
            CloseReason::NoSession => write!(f, "it sent no connect request in time"),
            CloseReason::NotReading => write!(f, "it does not read what it is sent"),
            CloseReason::NotServing => write!(f, "ZooKeeperServer not running"),
            CloseReason::Throttled => write!(f, "too many connect at this time (connection_throttle_tokens)"),
            CloseReason::Stale => write!(f, "its request waited for longer than its session timeout"),
            CloseReason::LargeRequest => {
                write!(f, "large requests of more bytes than largeRequestMaxBytes wait for their replies")
            }
            CloseReason::TooManyWatches => {
                write!(f, "there are more watches than ringkeeper.maxWatches, and it has most of them")
            }
        }
    }
}

/// A connection as `stat` and `cons` show it.
#[derive(Clone, Debug)]
pub struct CnxnInfo {
    /// The client's address.
    pub peer: SocketAddr,
    /// Requests without a reply.
    pub queued: usize,
    /// See `Counts`.
    pub counts: Counts,
    /// 0 before the handshake.
    pub session: SessionId,
    /// Negotiated; `None` before the handshake.
    pub timeout_ms: Option<i32>,
    /// When it came.
    pub accepted: Instant,
    /// When something last came in.
    pub heard: Instant,
    /// Whether a four-letter word is being answered on it.
    pub asked: bool,
}

impl Cnxn {
    pub(super) fn new(id: CnxnId, peer: SocketAddr, now: Instant) -> Cnxn {
        let ids = Arc::new(vec![Id::new("ip", peer.ip().to_string())]);
        Cnxn {
            id,
            peer,
            phase: Phase::New,
            ids,
            pending: VecDeque::new(),
            overtaken_syncs: 0,
            out: Vec::new(),
            close: None,
            abort: false,
            in_flight: 0,
            listing: None,
            moved: now,
            told: 0,
            throttled: None,
            in_throttle: false,
            heard: now,
            accepted: now,
            counts: Counts::default(),
        }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self.phase {
            Phase::Established { session, .. } => Some(session),
            _ => None,
        }
    }

    /// The session and when it was last heard of, if that was not before `since`.
    pub(super) fn heard_since(&self, since: Instant) -> Option<(SessionId, Instant)> {
        self.session().filter(|_| self.heard >= since).map(|session| (session, self.heard))
    }

    pub(super) fn outstanding(&self) -> usize {
        self.pending.iter().filter(|pending| pending.counts()).count()
    }

    /// Notes the first reason; later ones change nothing.
    pub(super) fn close(&mut self, reason: CloseReason) {
        self.close.get_or_insert(reason);
    }

    /// Closes it whether or not the client takes its output.
    pub(super) fn abort(&mut self, reason: CloseReason) {
        self.close(reason);
        self.abort = true;
    }

    /// Bytes that the client has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() + self.in_flight
    }

    pub(super) fn put_frame(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = frame::begin(&mut self.out);
        encode(&mut self.out);
        frame::end(&mut self.out, start);
    }

    pub(super) fn info(&self) -> CnxnInfo {
        CnxnInfo {
            peer: self.peer,
            queued: self.pending.len(),
            counts: self.counts,
            session: self.session().unwrap_or_default(),
            timeout_ms: match self.phase {
                Phase::Established { timeout_ms, .. } => Some(timeout_ms),
                _ => None,
            },
            accepted: self.accepted,
            heard: self.heard,
            asked: self.phase == Phase::Asked,
        }
    }
}
