//! The way from a lost connection to a new one, to the next server of the list and with the same session, without
//! waiting for anything: it is walked beside the load of the other connections.

use std::io::{self, Read, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;

use ringkeeper::proto::client::{ConnectRequest, ConnectResponse, PASSWORD_LEN, Password};
use ringkeeper::proto::frame;
use ringkeeper::types::{SessionId, Zxid};

use crate::clock::{MS_NS, SECOND_NS};
use crate::dial::{Server, Session};

/// How long a dial may take until the handshake's answer, at first. A starting Apache server may accept and never answer.
const DIAL_NS: u64 = 300 * MS_NS;
/// Each further dial may take twice as long, up to this: the server may be slow and not deaf.
const DIAL_NS_MAX: u64 = 5 * SECOND_NS;
/// Pause after every server of the list has been tried.
const REDIAL_PAUSE_NS: u64 = 50 * MS_NS;
/// Without an answer for this long a connection is given up.
const WITHOUT_ANSWER_NS_MAX: u64 = 30 * SECOND_NS;
/// The answer to a handshake is shorter than this.
const ANSWER_BYTES_MAX: usize = 256;

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It has a session.
    Up,
    /// It is dialled again at that time.
    Waiting(u64),
    /// It is being dialled until that time; and whether the handshake was sent.
    Dialling(u64, bool),
    /// It is of no more use.
    Over,
}

/// A connection's place in the list of servers, its session, and the way back to it.
pub struct Link {
    state: State,
    servers: Arc<[Server]>,
    /// The server it is connected to, or dialled last.
    server: usize,
    session: SessionId,
    password: Password,
    timeout_ms: u64,
    /// How long a dial may take, at first.
    dial_ns: u64,
    /// Dials since the connection was up.
    dials: u32,
    /// When the connection was lost, if there was no answer to a request since.
    lost_ns: Option<u64>,
    /// What has been received of the handshake's answer.
    answer: Vec<u8>,
}

/// What a dial has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialled {
    /// It takes longer.
    NotYet,
    /// The session goes on.
    Resumed,
    /// The session is gone: the next dial asks for a new one.
    Expired,
}

impl Link {
    /// That of an open session.
    pub fn new(servers: Arc<[Server]>, session: &Session) -> Link {
        Link {
            state: State::Up,
            servers,
            server: session.server,
            session: session.id,
            password: session.password,
            timeout_ms: session.timeout_ms,
            dial_ns: DIAL_NS,
            dials: 0,
            lost_ns: None,
            answer: Vec::new(),
        }
    }

    /// That of a session which is still to be opened.
    pub fn without_session(servers: Arc<[Server]>, server: usize, timeout_ms: u64) -> Link {
        Link {
            state: State::Over,
            servers,
            server,
            session: SessionId::NONE,
            password: [0; PASSWORD_LEN],
            timeout_ms,
            dial_ns: DIAL_NS,
            dials: 0,
            lost_ns: None,
            answer: Vec::new(),
        }
    }

    /// One that waits long for each answer: for a server that is to be busy with many handshakes.
    pub fn patient(self) -> Link {
        Link { dial_ns: DIAL_NS_MAX, ..self }
    }

    /// Dials the server, whatever has been before; with the session, if there is one.
    pub fn dial_anew(&mut self, now_ns: u64) {
        (self.state, self.dials, self.lost_ns) = (State::Waiting(now_ns), 0, None);
    }

    /// The session is of no more use: the next dial is to open a new one.
    pub fn forget_session(&mut self) {
        self.session = SessionId::NONE;
    }

    /// The session; [`SessionId::NONE`] if there is none.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whether requests can be sent.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether it is of no more use.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The name of the server that it is connected to, or was last.
    pub fn server(&self) -> &str {
        &self.servers[self.server].name
    }

    /// The negotiated session timeout.
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    /// No more dialling.
    pub fn give_up(&mut self) {
        self.state = State::Over;
    }

    /// Whether it has been without an answer for so long that it must be given up.
    pub fn is_hopeless(&self, now_ns: u64) -> bool {
        self.lost_ns.is_some_and(|lost_ns| now_ns.saturating_sub(lost_ns) > WITHOUT_ANSWER_NS_MAX)
    }

    /// The connection, or a dial, has failed: the next dial is to the next server, at once while there are others.
    pub fn lose(&mut self, now_ns: u64) {
        self.lost_ns.get_or_insert(now_ns);
        self.dials += 1;
        self.server = (self.server + 1) % self.servers.len();
        let is_round = self.dials.is_multiple_of(self.servers.len() as u32);
        self.state = State::Waiting(if is_round { now_ns + REDIAL_PAUSE_NS } else { now_ns });
    }

    /// Takes note of an answer to a request; when the connection was lost before, if this is the first since.
    pub fn answered(&mut self) -> Option<u64> {
        self.dials = 0;
        self.lost_ns.take()
    }

    /// Begins a dial if it is time for one. The stream is to be polled.
    pub fn dial_if_due(&mut self, now_ns: u64) -> Option<io::Result<TcpStream>> {
        let State::Waiting(until_ns) = self.state else { return None };
        if now_ns < until_ns {
            return None;
        }
        let rounds = self.dials / self.servers.len() as u32;
        let limit_ns = self.dial_ns.saturating_mul(1 << rounds.min(10)).min(DIAL_NS_MAX);
        self.state = State::Dialling(now_ns + limit_ns, false);
        self.answer.clear();
        Some(TcpStream::connect(self.servers[self.server].address))
    }

    /// Whether a dial has taken too long.
    pub fn is_dial_late(&self, now_ns: u64) -> bool {
        matches!(self.state, State::Dialling(until_ns, _) if now_ns >= until_ns)
    }

    /// Goes on with a dial when something has happened to its stream. `seen` is the newest zxid that the session has
    /// seen.
    pub fn on_ready(&mut self, stream: &mut TcpStream, seen: Zxid) -> io::Result<Dialled> {
        let State::Dialling(until_ns, is_sent) = self.state else { return Ok(Dialled::NotYet) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        if !is_sent {
            match stream.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(Dialled::NotYet),
                other => other?,
            };
            stream.set_nodelay(true)?;
            // A new socket takes these few bytes at once.
            stream.write_all(&self.handshake(seen))?;
            self.state = State::Dialling(until_ns, true);
        }
        let mut bytes = [0; ANSWER_BYTES_MAX];
        match stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.answer.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Dialled::NotYet),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Dialled::NotYet),
            Err(error) => return Err(error),
        }
        let Some((head, payload)) = self.answer.split_first_chunk::<4>() else { return Ok(Dialled::NotYet) };
        let len = u32::from_be_bytes(*head) as usize;
        if len > ANSWER_BYTES_MAX || payload.len() > len {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the answer to a handshake"));
        }
        if payload.len() < len {
            return Ok(Dialled::NotYet);
        }
        let answer = ConnectResponse::decode(payload)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if answer.timeout_ms <= 0 || answer.session == SessionId::NONE {
            self.forget_session();
            return Ok(Dialled::Expired);
        }
        self.session = answer.session;
        self.password = answer.password;
        self.state = State::Up;
        Ok(Dialled::Resumed)
    }

    fn handshake(&self, seen: Zxid) -> Vec<u8> {
        let mut request = Vec::new();
        let start = frame::begin(&mut request);
        ConnectRequest {
            last_zxid_seen: seen,
            timeout_ms: self.timeout_ms as i32,
            session: self.session,
            password: if self.session == SessionId::NONE { vec![0; PASSWORD_LEN] } else { self.password.to_vec() },
            read_only: Some(false),
        }
        .encode(&mut request);
        frame::end(&mut request, start);
        request
    }
}
