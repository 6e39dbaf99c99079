//! Opening sessions, and a plain blocking client for what is done outside the load.

use std::fmt;
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use ringkeeper::jute::Write;
use ringkeeper::proto::client::{AclList, ConnectRequest, ConnectResponse, Password};
use ringkeeper::proto::frame;
use ringkeeper::proto::op::{CreateMode, OpCode};
use ringkeeper::types::SessionId;

/// Handshakes under way at once. A Java server's listen backlog is 50: the connections above it are retried by TCP
/// after a second.
const HANDSHAKES_AT_ONCE: usize = 32;
/// How long a dial waits for TCP.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// How long the first dial waits for the handshake's answer: a starting Apache server may accept and never answer.
const ANSWER_WAIT: Duration = Duration::from_millis(300);
/// Each further dial waits twice as long, up to this: the server may be slow and not deaf.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause before a dial that follows a refused one.
const REDIAL_PAUSE: Duration = Duration::from_millis(50);
/// After this long without a new session the server is given up.
const DIAL_LIMIT: Duration = Duration::from_secs(30);
/// How long a blocking call may take.
const CALL_WAIT: Duration = Duration::from_secs(30);

/// A connection whose handshake is done.
pub struct Session {
    /// Blocking, with TCP_NODELAY.
    pub stream: TcpStream,
    /// Its place in the list.
    pub server: usize,
    /// Its number.
    pub id: SessionId,
    /// What proves that it is ours.
    pub password: Password,
    /// Negotiated with the server.
    pub timeout_ms: u64,
}

/// A server's address and the name it was given by.
#[derive(Clone, Debug)]
pub struct Server {
    /// `host:port`.
    pub name: String,
    /// What that was resolved to.
    pub address: SocketAddr,
}

/// No session could be had.
#[derive(Debug)]
pub struct DialError {
    server: String,
    /// What the last dial met.
    last: io::Error,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no session with {} within {} s: {}", self.server, DIAL_LIMIT.as_secs(), self.last)
    }
}

impl std::error::Error for DialError {}

impl Server {
    /// Looks up `host:port`.
    pub fn resolve(name: &str) -> Result<Server, String> {
        let mut addresses = name.to_socket_addrs().map_err(|error| format!("{name}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{name}: no address"))?;
        Ok(Server { name: name.to_owned(), address })
    }
}

/// Opens `count` sessions, the servers taking turns; where one does not answer, the next takes its turn.
pub fn open_sessions(servers: &[Server], count: usize, timeout_ms: u32) -> Result<Vec<Session>, DialError> {
    let mut sessions: Vec<Option<Session>> = (0..count).map(|_| None).collect();
    let mut answer_wait = ANSWER_WAIT;
    let mut failed_rounds = 0;
    let mut progress = Instant::now();
    loop {
        let missing: Vec<usize> = (0..count).filter(|&i| sessions[i].is_none()).take(HANDSHAKES_AT_ONCE).collect();
        if missing.is_empty() {
            return Ok(sessions.into_iter().flatten().collect());
        }
        // All requests first, then all answers: the server makes the sessions durable together.
        let dialled: Vec<_> = missing
            .iter()
            .map(|&i| (i, (i + failed_rounds) % servers.len()))
            .map(|(i, server)| (i, server, send_handshake(&servers[server], timeout_ms)))
            .collect();
        let deadline = Instant::now() + answer_wait;
        let mut failed = None;
        for (i, server, stream) in dialled {
            match stream.and_then(|stream| receive_handshake(stream, server, deadline)) {
                Ok(session) => {
                    sessions[i] = Some(session);
                    progress = Instant::now();
                }
                Err(last) => failed = Some(DialError { server: servers[server].name.clone(), last }),
            }
        }
        let Some(failed) = failed else { continue };
        if progress.elapsed() > DIAL_LIMIT {
            return Err(failed);
        }
        failed_rounds += 1;
        thread::sleep(REDIAL_PAUSE);
        answer_wait = (answer_wait * 2).min(ANSWER_WAIT_MAX);
    }
}

fn send_handshake(server: &Server, timeout_ms: u32) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server.address, CONNECT_WAIT)?;
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    let start = frame::begin(&mut request);
    ConnectRequest::new_session(timeout_ms as i32).encode(&mut request);
    frame::end(&mut request, start);
    stream.write_all(&request)?;
    Ok(stream)
}

fn receive_handshake(mut stream: TcpStream, server: usize, deadline: Instant) -> io::Result<Session> {
    // A read timeout of 0 would be none at all.
    let wait = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(wait))?;
    let payload = receive_frame(&mut stream)?;
    let response = ConnectResponse::decode(&payload).map_err(|e| invalid(format!("handshake: {e}")))?;
    if response.timeout_ms <= 0 || response.session == SessionId::NONE {
        return Err(invalid("the server refused a new session".to_owned()));
    }
    stream.set_read_timeout(Some(CALL_WAIT))?;
    stream.set_write_timeout(Some(CALL_WAIT))?;
    let ConnectResponse { timeout_ms, session: id, password, .. } = response;
    Ok(Session { stream, server, id, password, timeout_ms: timeout_ms as u64 })
}

fn receive_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = i32::from_be_bytes(len);
    if !(0..=frame::JUTE_MAXBUFFER_DEFAULT as i32).contains(&len) {
        return Err(invalid(format!("a frame of {len} bytes")));
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// A session for one request at a time: what makes and removes the top of the run's subtree.
pub struct Control {
    session: Session,
    xid: i32,
}

impl Control {
    /// A session with the first server that answers.
    pub fn open(servers: &[Server], timeout_ms: u32) -> Result<Control, DialError> {
        let mut sessions = open_sessions(servers, 1, timeout_ms)?;
        let session = sessions.pop().expect("one session was asked for");
        Ok(Control { session, xid: 0 })
    }

    /// Creates a persistent znode without data; the error code of the reply.
    pub fn create(&mut self, path: &str) -> io::Result<i32> {
        self.call(OpCode::Create, |out| {
            out.put_string(path);
            out.put_buffer(Some(&[]));
            AclList::OPEN.encode(out);
            out.put_int(CreateMode::Persistent as i32);
        })
    }

    /// Deletes a znode of any version; the error code of the reply.
    pub fn delete(&mut self, path: &str) -> io::Result<i32> {
        self.call(OpCode::Delete, |out| {
            out.put_string(path);
            out.put_int(-1);
        })
    }

    /// Ends the session.
    pub fn close(mut self) -> io::Result<()> {
        self.call(OpCode::CloseSession, |_| {}).map(drop)
    }

    fn call(&mut self, op: OpCode, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<i32> {
        self.xid += 1;
        let mut request = Vec::new();
        let start = frame::begin(&mut request);
        request.put_int(self.xid);
        request.put_int(op as i32);
        body(&mut request);
        frame::end(&mut request, start);
        self.session.stream.write_all(&request)?;
        let reply = receive_frame(&mut self.session.stream)?;
        let header = ringkeeper::proto::client::ReplyHeader::decode(&mut ringkeeper::jute::Reader::new(&reply))
            .map_err(|error| invalid(error.to_string()))?;
        if header.xid != self.xid {
            return Err(invalid(format!("a reply with xid {} to request {}", header.xid, self.xid)));
        }
        Ok(header.err)
    }
}
