//! The client's own thread: it keeps a connection to one of the servers, and the session on it.
//!
//! It alone owns the socket, the requests that are under way and the watches, so there is nothing to lock. Others
//! hand it [`Message`]s and wake it; it hands back the body of each reply, or a code, on a channel of the request.
//!
//! Like Apache's client (`ClientCnxn.SendThread`): requests that are under way when a connection is lost are answered
//! with ConnectionLoss and not sent again, because nobody knows whether they were carried out; those that were not
//! sent yet are too. While there is no connection, requests wait for the attempt that is under way. Unlike Apache's
//! they wait for one attempt at each server of the list, so that one dead server does not fail a command that another
//! server would answer.

mod frames;

use std::collections::VecDeque;
use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use ringkeeper::proto::client::{ConnectRequest, ConnectResponse, XID_PING};
use ringkeeper::proto::op::OpCode;
use ringkeeper::types::{SessionId, Zxid};

use super::Options;
use super::address::{Rotation, Server, random_below};
use super::error::code;
use super::event::{EventKind, KeeperState, Level, Sink, State, WatchedEvent};
use super::watches::{Change, Watches};

const XID_AUTH: i32 = -4;
const XID_SET_WATCHES: i32 = -8;

const SOCKET: Token = Token(0);
const WAKE: Token = Token(1);

/// Most milliseconds before another attempt, chosen by chance: the clients of a server that stopped should not all
/// come back at once.
const RETRY_MS_MAX: usize = 1000;
/// A ping is sent after this long without anything sent, however long the session's timeout.
const PING_AFTER_MAX: Duration = Duration::from_secs(10);
/// How long a server in read-only mode is asked whether another takes writes: the first pause, and the longest.
const SEEK_PAUSE_MIN: Duration = Duration::from_millis(100);
const SEEK_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long one of them may take to answer.
const SEEK_PATIENCE: Duration = Duration::from_secs(1);

/// The body of a reply, or its error code.
pub type Reply = Result<Bytes, i32>;

/// A request on its way.
pub struct Request {
    pub op: OpCode,
    pub body: Vec<u8>,
    /// What it leaves behind, if it succeeds.
    pub change: Option<Change>,
    pub reply: mpsc::Sender<Reply>,
}

/// What others tell the thread.
pub enum Message {
    Request(Request),
    /// Credentials: for this connection and all that come.
    Auth {
        scheme: String,
        data: Option<Vec<u8>>,
    },
    /// A request took too long (`zookeeper.request.timeout`).
    Abort,
    /// End the session. The thread ends.
    Close,
}

/// What others may look at.
pub struct Shared {
    state: AtomicU8,
    last_zxid: AtomicI64,
}

const STATES: [State; 5] =
    [State::Connecting, State::Connected, State::ConnectedReadOnly, State::Closed, State::AuthFailed];

impl Shared {
    pub fn new() -> Shared {
        Shared { state: AtomicU8::new(0), last_zxid: AtomicI64::new(0) }
    }

    pub fn state(&self) -> State {
        STATES[self.state.load(Ordering::Acquire) as usize]
    }

    fn set_state(&self, state: State) {
        let at = STATES.iter().position(|known| *known == state).expect("all are listed");
        self.state.store(at as u8, Ordering::Release);
    }

    pub fn last_zxid(&self) -> i64 {
        self.last_zxid.load(Ordering::Acquire)
    }
}

/// A request that was sent.
struct Pending {
    xid: i32,
    change: Option<Change>,
    /// `None`: nobody waits, as with watches that are set again.
    reply: Option<mpsc::Sender<Reply>>,
}

/// Where the thread is.
enum Phase {
    /// Until the next attempt.
    Pausing { until: Instant },
    /// The socket is being connected, or the handshake is under way.
    Opening { since: Instant, is_connected: bool },
    /// There is a session on this connection.
    Open,
    /// The thread ends.
    Over,
}

/// Why a connection ended.
enum Lost {
    /// It may be made again.
    Connection(String),
    /// The session is gone.
    Session(String),
    /// A server that takes writes was found.
    Better(String),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        Lost::Connection(error.to_string())
    }
}

pub struct Link {
    poll: Poll,
    inbox: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    sink: Arc<dyn Sink>,
    chroot: Option<String>,
    servers: Rotation,
    options: Options,

    phase: Phase,
    stream: Option<TcpStream>,
    /// The server of this connection or attempt, as the log names it.
    server: String,
    received: BytesMut,
    unsent: Vec<u8>,
    last_sent: Instant,
    last_heard: Instant,
    /// Attempts since the last connection, and whether there ever was one.
    failures: usize,
    was_connected: bool,

    next_xid: i32,
    waiting: VecDeque<Request>,
    pending: VecDeque<Pending>,
    watches: Watches,
    auths: Vec<(String, Option<Vec<u8>>)>,

    session: SessionId,
    password: Vec<u8>,
    timeout_ms: i32,
    last_zxid: Zxid,
    /// A session of a read-only server is not known to the others.
    is_known: bool,
    told: KeeperState,
    is_closing: bool,
    seek_pause: Duration,
    sought: Instant,
}

impl Link {
    /// A link that has not begun yet.
    pub fn new(
        address: super::Address,
        options: Options,
        shared: Arc<Shared>,
        sink: Arc<dyn Sink>,
        inbox: mpsc::Receiver<Message>,
    ) -> io::Result<(Link, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let now = Instant::now();
        let timeout_ms = options.timeout_ms;
        let link = Link {
            poll,
            inbox,
            shared,
            sink,
            chroot: address.chroot,
            servers: Rotation::new(address.servers),
            options,
            phase: Phase::Pausing { until: now },
            stream: None,
            server: String::new(),
            received: BytesMut::new(),
            unsent: Vec::new(),
            last_sent: now,
            last_heard: now,
            failures: 0,
            was_connected: false,
            next_xid: 1,
            waiting: VecDeque::new(),
            pending: VecDeque::new(),
            watches: Watches::default(),
            auths: Vec::new(),
            session: SessionId::NONE,
            password: vec![0; 16],
            timeout_ms,
            last_zxid: Zxid::ZERO,
            is_known: false,
            told: KeeperState::Disconnected,
            is_closing: false,
            seek_pause: SEEK_PAUSE_MIN,
            sought: now,
        };
        Ok((link, waker))
    }

    /// Runs until the session ends.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(8);
        while !matches!(self.phase, Phase::Over) {
            self.take_messages();
            let step = self.step();
            if let Err(lost) = step {
                self.lost(lost);
                continue;
            }
            if matches!(self.phase, Phase::Over) {
                break;
            }
            let pause = self.deadline().saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(pause)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    self.lost(Lost::Connection(error.to_string()));
                }
                _ => {}
            }
        }
        self.end();
    }

    fn take_messages(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Request(request) if matches!(self.phase, Phase::Open) => self.send(request),
                Message::Request(request) => self.waiting.push_back(request),
                Message::Auth { scheme, data } => {
                    if matches!(self.phase, Phase::Open) {
                        self.put_auth(&scheme, data.as_deref());
                    }
                    self.auths.push((scheme, data));
                }
                Message::Abort => self.lost(Lost::Connection("a request timed out".to_owned())),
                Message::Close if matches!(self.phase, Phase::Open) => {
                    self.is_closing = true;
                    let (reply, _) = mpsc::channel();
                    self.send(Request { op: OpCode::CloseSession, body: Vec::new(), change: None, reply });
                }
                Message::Close => {
                    self.is_closing = true;
                    self.phase = Phase::Over;
                }
            }
        }
    }

    /// Does what can be done without waiting.
    fn step(&mut self) -> Result<(), Lost> {
        match self.phase {
            Phase::Pausing { until } if until <= Instant::now() => self.open()?,
            Phase::Opening { since, is_connected } => {
                if !is_connected && self.is_socket_connected()? {
                    self.sink.log(
                        Level::Info,
                        &format!("Socket connection established, initiating session, server: {}", self.server),
                    );
                    self.phase = Phase::Opening { since, is_connected: true };
                    self.put_handshake();
                }
                if since.elapsed() >= self.connect_timeout() {
                    return Err(self.silence("Client connection timed out"));
                }
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Opening { is_connected: true, .. } | Phase::Open) {
            self.transfer()?;
        }
        if matches!(self.phase, Phase::Open) {
            self.keep_alive()?;
        }
        Ok(())
    }

    /// When something is due, if nothing happens before.
    fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Pausing { until } => until,
            Phase::Opening { since, .. } => since + self.connect_timeout(),
            Phase::Open | Phase::Over => {
                let ping = self.last_sent + self.ping_after();
                let mut due = ping.min(self.last_heard + self.read_timeout());
                if self.shared.state() == State::ConnectedReadOnly {
                    due = due.min(self.sought + self.seek_pause);
                }
                due
            }
        }
    }

    fn timeout(&self) -> Duration {
        // A timeout of 0 asks the server for its shortest, but leaves no time to connect: there the default counts.
        let ms = if self.timeout_ms > 0 { self.timeout_ms } else { super::TIMEOUT_MS_DEFAULT };
        Duration::from_millis(ms as u64)
    }

    fn connect_timeout(&self) -> Duration {
        self.timeout() / self.servers.len() as u32
    }

    fn read_timeout(&self) -> Duration {
        self.timeout() * 2 / 3
    }

    fn ping_after(&self) -> Duration {
        (self.read_timeout() / 2).min(PING_AFTER_MAX)
    }

    // A connection is made.

    fn open(&mut self) -> Result<(), Lost> {
        let server = self.servers.next();
        self.server = server.to_string();
        self.received.clear();
        self.unsent.clear();
        self.phase = Phase::Opening { since: Instant::now(), is_connected: false };
        let address = server.resolve()?;
        self.server = log_name(&server, address);
        self.sink.log(Level::Info, &format!("Opening socket connection to server {}.", self.server));
        let mut stream = TcpStream::connect(address)?;
        self.poll.registry().register(&mut stream, SOCKET, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    fn is_socket_connected(&mut self) -> Result<bool, Lost> {
        let Some(stream) = &self.stream else { return Ok(false) };
        if let Some(error) = stream.take_error()? {
            return Err(error.into());
        }
        match stream.peer_addr() {
            Ok(_) => {
                stream.set_nodelay(true)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn put_handshake(&mut self) {
        let request = ConnectRequest {
            last_zxid_seen: self.last_zxid,
            timeout_ms: self.options.timeout_ms,
            session: if self.is_known { self.session } else { SessionId::NONE },
            password: self.password.clone(),
            read_only: Some(self.options.read_only),
        };
        self.put_frame(|out| request.encode(out));
    }

    fn on_connected(&mut self, payload: &[u8]) -> Result<(), Lost> {
        let response = ConnectResponse::decode(payload).map_err(|error| Lost::Connection(error.to_string()))?;
        if response.timeout_ms <= 0 {
            let session = self.session;
            return Err(Lost::Session(format!(
                "Unable to reconnect to ZooKeeper service, session {session} has expired"
            )));
        }
        let is_read_only = response.read_only == Some(true);
        self.timeout_ms = response.timeout_ms;
        self.session = response.session;
        self.password = response.password.to_vec();
        self.is_known |= !is_read_only;
        self.failures = 0;
        self.was_connected = true;
        self.seek_pause = SEEK_PAUSE_MIN;
        self.sought = Instant::now();
        self.phase = Phase::Open;
        let mode = if is_read_only { " (READ-ONLY mode)" } else { "" };
        self.sink.log(
            Level::Info,
            &format!(
                "Session establishment complete on server {}, session id = {}, negotiated timeout = {}{mode}",
                self.server, response.session, response.timeout_ms
            ),
        );
        for (scheme, data) in self.auths.clone() {
            self.put_auth(&scheme, data.as_deref());
        }
        for (op, body) in self.watches.set_again(self.chroot.as_deref(), self.last_zxid) {
            self.put_request(XID_SET_WATCHES, op, &body);
            self.pending.push_back(Pending { xid: XID_SET_WATCHES, change: None, reply: None });
        }
        for request in std::mem::take(&mut self.waiting) {
            self.send(request);
        }
        let (state, told) = if is_read_only {
            (State::ConnectedReadOnly, KeeperState::ConnectedReadOnly)
        } else {
            (State::Connected, KeeperState::SyncConnected)
        };
        self.shared.set_state(state);
        self.tell(told);
        Ok(())
    }

    // A connection is kept, and lost.

    fn keep_alive(&mut self) -> Result<(), Lost> {
        if self.last_heard.elapsed() >= self.read_timeout() {
            return Err(self.silence("Client session timed out"));
        }
        if self.last_sent.elapsed() >= self.ping_after() {
            self.put_request(XID_PING, OpCode::Ping, &[]);
            self.write()?;
        }
        if self.shared.state() == State::ConnectedReadOnly && self.sought.elapsed() >= self.seek_pause {
            self.seek_writer()?;
        }
        Ok(())
    }

    fn silence(&self, what: &str) -> Lost {
        let ms = self.last_heard.elapsed().as_millis();
        let session = self.session;
        Lost::Connection(format!("{what}, have not heard from server in {ms}ms for session id {session}"))
    }

    /// Asks one of the servers whether it takes writes.
    fn seek_writer(&mut self) -> Result<(), Lost> {
        self.seek_pause = (self.seek_pause * 2).min(SEEK_PAUSE_MAX);
        let server = self.servers.next();
        let found = takes_writes(&server).unwrap_or(false);
        self.sought = Instant::now();
        if !found {
            return Ok(());
        }
        self.servers.prefer(&server);
        Err(Lost::Better(format!("Majority server found at {server}")))
    }

    fn lost(&mut self, lost: Lost) {
        let was_open = matches!(self.phase, Phase::Open);
        // A connection that was never one has not been heard of either; what counts is the session.
        let is_expired = self.session != SessionId::NONE && self.last_heard.elapsed() >= self.timeout() * 4 / 3;
        self.stream = None;
        self.unsent.clear();
        let (level, why, is_over) = match lost {
            Lost::Connection(why) => (Level::Warn, why, false),
            Lost::Better(why) => (Level::Info, why, false),
            Lost::Session(why) => (Level::Warn, why, true),
        };
        if !self.is_closing {
            let (session, server) = (self.session, &self.server);
            let next = if is_over || is_expired { "" } else { " Attempting reconnect." };
            self.sink
                .log(level, &format!("Session {session} for server {server}, Closing socket connection.{next} {why}"));
        }
        self.failures += 1;
        if is_over || is_expired || self.is_closing {
            if !self.is_closing {
                self.shared.set_state(State::Closed);
            }
            self.phase = Phase::Over;
            return;
        }
        self.shared.set_state(State::Connecting);
        self.fail_pending();
        let is_round_over = self.failures.is_multiple_of(self.servers.len());
        if was_open || is_round_over {
            self.fail_waiting();
        }
        if was_open {
            self.tell(KeeperState::Disconnected);
        }
        // The first round goes through the list without a pause: a user is waiting.
        let pause = if self.was_connected || is_round_over { random_below(RETRY_MS_MAX) } else { 0 };
        let spin = if !was_open && is_round_over { Duration::from_millis(RETRY_MS_MAX as u64) } else { Duration::ZERO };
        self.phase = Phase::Pausing { until: Instant::now() + spin + Duration::from_millis(pause as u64) };
    }

    fn loss_code(&self) -> i32 {
        match self.shared.state() {
            State::AuthFailed => code::AUTH_FAILED,
            State::Closed => code::SESSION_EXPIRED,
            _ => code::CONNECTION_LOSS,
        }
    }

    fn fail_pending(&mut self) {
        let code = self.loss_code();
        for pending in std::mem::take(&mut self.pending) {
            self.finish(pending, Err(code));
        }
    }

    fn fail_waiting(&mut self) {
        let code = self.loss_code();
        for request in std::mem::take(&mut self.waiting) {
            let pending = Pending { xid: 0, change: request.change, reply: Some(request.reply) };
            self.finish(pending, Err(code));
        }
    }

    fn tell(&mut self, state: KeeperState) {
        if self.told == state {
            return;
        }
        self.told = state;
        if self.options.forget_watches && state != KeeperState::SyncConnected {
            self.watches.forget_single();
        }
        self.sink.event(&WatchedEvent { state, kind: EventKind::None, path: None, zxid: -1 });
    }

    /// The thread's last words.
    fn end(&mut self) {
        if self.shared.state().is_alive() {
            self.shared.set_state(State::Closed);
        }
        // Requests that come from here on find a closed channel.
        self.inbox.try_iter().for_each(|message| {
            if let Message::Request(request) = message {
                self.waiting.push_back(request);
            }
        });
        self.fail_pending();
        self.fail_waiting();
        if self.is_closing {
            self.tell(KeeperState::Closed);
        } else if self.shared.state() == State::Closed {
            self.tell(KeeperState::Expired);
        }
    }
}

/// `localhost/127.0.0.1:2181`, as Java writes a server that was looked up.
fn log_name(server: &Server, address: SocketAddr) -> String {
    let is_literal = server.host.parse::<std::net::IpAddr>().is_ok();
    let name = if address.ip().is_loopback() {
        "localhost"
    } else if is_literal {
        ""
    } else {
        &server.host
    };
    format!("{name}/{address}")
}

/// The four-letter word `isro`, answered by `rw` or `ro`.
fn takes_writes(server: &Server) -> io::Result<bool> {
    let mut stream = std::net::TcpStream::connect_timeout(&server.resolve()?, SEEK_PATIENCE)?;
    stream.set_read_timeout(Some(SEEK_PATIENCE))?;
    stream.write_all(b"isro")?;
    let mut answer = Vec::new();
    stream.take(16).read_to_end(&mut answer)?;
    Ok(answer.trim_ascii() == b"rw")
}
