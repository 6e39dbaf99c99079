//! Clients that read and write a few znodes, move from server to server as real ones do, and keep a history.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringkeeper::jute::Reader;
use ringkeeper::proto::client::{ConnectRequest, ConnectResponse, Password, ReplyHeader};
use ringkeeper::types::{SessionId, Zxid};

use super::checker::{self, Summary};
use super::cluster::{Cluster, Tree};
use super::history::{Action, Answer, History, NEVER, Nanos, Operation};
use super::support::*;

/// Znodes that all clients write to.
const KEYS: usize = 4;
/// A client that waits longer for an answer takes its connection for lost.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Pause after a server that was in vain.
const RETRY: Duration = Duration::from_millis(20);
/// Pause after an answer: the history is to be of many faults rather than of many writes between them.
const THINK: Duration = Duration::from_millis(2);
/// Most bytes of a value, by default.
const VALUE_BYTES_MAX: u64 = 600;
/// The session of those who read at the end, one after the other.
const AT_THE_END: usize = usize::MAX;
const BAD_VERSION: i32 = -103;
const SESSION_MOVED: i32 = -118;
pub const NODE_EXISTS: i32 = -110;

/// What a client asks the servers for, in ms. Longer than it takes to find another server.
pub const SESSION_MS: i32 = 4000;

/// Clients at work.
pub struct Load {
    begin: Instant,
    created: Vec<i64>,
    workers: Vec<JoinHandle<Record>>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
}

/// What one client leaves.
struct Record {
    operations: Vec<Operation>,
    /// Those that it has lost, and the one that it has: each has created an ephemeral of its own.
    sessions: Vec<Session>,
    moves: usize,
    /// What no client should see.
    wrong: Vec<String>,
}

struct Session {
    /// Unique in the history.
    number: usize,
    id: SessionId,
    password: Password,
    timeout_ms: i32,
    /// Before the last request was sent to which the leader must have listened, since it was answered: a write.
    heard: Instant,
    is_over: bool,
    has_ephemeral: bool,
}

/// What a [`Load`] came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub summary: Summary,
    pub sessions: usize,
    /// Sessions that the ensemble has ended because it did not hear of them.
    pub expired: usize,
    /// Connections beyond the first of each client.
    pub moves: usize,
}

impl Load {
    /// Makes the znodes and starts clients.
    pub fn start(cluster: &Cluster, clients: u64, random: &mut Random) -> Load {
        Load::start_with(cluster, clients, VALUE_BYTES_MAX, random)
    }

    /// The same with values of another size, of so many bytes at the most.
    pub fn start_with(cluster: &Cluster, clients: u64, value_bytes_max: u64, random: &mut Random) -> Load {
        let begin = Instant::now();
        let mut client = cluster.servers[0].client();
        // What an earlier load has left goes.
        client.call(&create("/sessions", None));
        let created = (0..KEYS).map(|key| {
            client.call(&delete(&path(key), -1));
            client.call(&create(&path(key), Some(&0_u64.to_be_bytes()))).ok();
            client.call(&exists(&path(key), false)).stat().czxid
        });
        let created = created.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicUsize::new(0));
        let sessions = Arc::new(AtomicUsize::new(0));
        let workers = (1..=clients).map(|number| {
            let worker = Worker {
                begin,
                addresses: cluster.addresses().iter().map(|address| address.parse().expect("numbers")).collect(),
                random: random.fork(number),
                number,
                value_bytes_max,
                values: 0,
                versions: BTreeMap::new(),
                last_zxid: Zxid::ZERO,
                sessions_ever: Arc::clone(&sessions),
                answers: Arc::clone(&answers),
                record: Record { operations: Vec::new(), sessions: Vec::new(), moves: 0, wrong: Vec::new() },
            };
            let stop = Arc::clone(&stop);
            thread::spawn(move || worker.run(&stop))
        });
        let workers = workers.collect();
        Load { begin, created, workers, stop, answers }
    }

    /// Waits until so many more requests were answered: the ensemble serves.
    #[track_caller]
    pub fn wait_for_answers(&self, cluster: &mut Cluster, count: usize) {
        let before = self.answers.load(Ordering::Relaxed);
        let answers = &self.answers;
        cluster.wait_for("answers", |_| (answers.load(Ordering::Relaxed) >= before + count).then_some(()));
    }

    /// Ends the clients, reads everything once more, on each server, and checks all of it. All servers must serve.
    #[track_caller]
    pub fn check(mut self, cluster: &mut Cluster) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let join = |worker: JoinHandle<Record>| worker.join().expect("it does not panic");
        let records: Vec<Record> = self.workers.drain(..).map(join).collect();
        let mut history = History { created: self.created.clone(), operations: Vec::new() };
        let mut outcome = Outcome::default();
        for record in &records {
            assert!(record.wrong.is_empty(), "{}", record.wrong.join("\n"));
            history.operations.extend(&record.operations);
            outcome.moves += record.moves;
            outcome.sessions += record.sessions.len();
            outcome.expired += record.sessions.iter().filter(|session| session.is_over).count();
        }
        // Each comes back before the next is read, so what it shows is at least what the one before has shown.
        for index in 0..cluster.servers.len() {
            let read = cluster.wait_for("znodes to be read", |cluster| self.read_all(&cluster.servers[index]));
            history.operations.extend(read);
        }
        outcome.summary = checker::check(&history).unwrap_or_else(|violation| panic!("{violation}"));
        check_newest_at_end(&history);
        check_ephemerals(&records, &cluster.common_tree());
        println!("{outcome:?}");
        outcome
    }
}

impl Load {
    /// Reads each znode in a session that is new, on a server that has therefore seen all that was acknowledged before: the
    /// session itself is a write that a quorum has accepted. `None` if the server does not serve.
    fn read_all(&self, server: &Server) -> Option<Vec<Operation>> {
        let now = || self.begin.elapsed().as_nanos() as Nanos;
        let mut client = Client::shake_hands(Wire::try_dial(&server.address())?, &new_session(SESSION_MS))?;
        let read = |key| {
            let called = now();
            let reply = client.try_call(&get(&path(key), false))?;
            let answer = read_answer(&reply).expect("the znode is there");
            Some(Operation { session: AT_THE_END, key, action: Action::Read, called, answered: now(), answer })
        };
        let read = (0..KEYS).map(read).collect();
        client.try_call(&CLOSE_SESSION);
        read
    }
}

/// What was read at the end is nothing older than what was ever acknowledged, on any server.
#[track_caller]
fn check_newest_at_end(history: &History) {
    let mut newest = [0; KEYS];
    for operation in &history.operations {
        if let Answer::Written { zxid, .. } = operation.answer {
            newest[operation.key] = zxid.max(newest[operation.key]);
        }
    }
    for operation in history.operations.iter().filter(|operation| operation.session == AT_THE_END) {
        let Answer::Read { mzxid, .. } = operation.answer else { continue };
        assert!(mzxid >= newest[operation.key], "an acknowledged write is lost: {operation:?}");
    }
}

/// A session's ephemeral is there for exactly as long as the session.
#[track_caller]
fn check_ephemerals(records: &[Record], tree: &Tree) {
    for session in records.iter().flat_map(|record| &record.sessions) {
        let is_there = tree.contains_key(&ephemeral(session.id));
        // One that nobody had asked for lately may be over without its client knowing.
        let may_be_over = session.is_over || session.heard.elapsed() >= timeout(session);
        let name = format!("the ephemeral of session {:x}", session.id.0);
        assert!(!(session.is_over && is_there), "{name} is there, and the session is not");
        assert!(!session.has_ephemeral || may_be_over || is_there, "{name} is gone, and the session is not");
    }
}

fn timeout(session: &Session) -> Duration {
    Duration::from_millis(session.timeout_ms as u64)
}

fn path(key: usize) -> String {
    format!("/key{key}")
}

fn ephemeral(session: SessionId) -> String {
    format!("/sessions/{:016x}", session.0)
}

/// `None` if the reply is an error.
fn read_answer(reply: &Reply) -> Option<Answer> {
    if reply.err != 0 {
        return None;
    }
    let (data, stat) = reply.data();
    let value = u64::from_be_bytes(data?.get(..8)?.try_into().ok()?);
    Some(Answer::Read { value, version: stat.version, mzxid: stat.mzxid, zxid: reply.zxid })
}

/// One client.
struct Worker {
    begin: Instant,
    addresses: Vec<SocketAddr>,
    random: Random,
    number: u64,
    value_bytes_max: u64,
    /// How many it has made up.
    values: u64,
    /// The last version that it has seen of each znode.
    versions: BTreeMap<usize, i32>,
    last_zxid: Zxid,
    sessions_ever: Arc<AtomicUsize>,
    answers: Arc<AtomicUsize>,
    record: Record,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool) -> Record {
        while !stop.load(Ordering::Relaxed) {
            match self.connect() {
                Ok(Some(mut connection)) => {
                    self.record.moves += 1;
                    while !stop.load(Ordering::Relaxed) && self.ask(&mut connection).is_ok() {
                        thread::sleep(THINK);
                    }
                }
                Ok(None) => {}
                Err(_) => thread::sleep(RETRY),
            }
        }
        self.record.moves = self.record.moves.saturating_sub(1);
        self.record
    }

    /// Takes its session to some server, or gets a new one there. `None` if its session is over.
    fn connect(&mut self) -> io::Result<Option<Connection>> {
        let address = self.addresses[self.random.below(self.addresses.len() as u64) as usize];
        let session = self.record.sessions.last_mut().filter(|session| !session.is_over);
        let mut request = new_session(SESSION_MS);
        request.last_zxid_seen = self.last_zxid;
        if let Some(session) = &session {
            request.session = session.id;
            request.password = session.password.to_vec();
        }
        let asked = Instant::now();
        let (mut connection, response) = Connection::open(address, &request)?;
        match session {
            Some(session) if response.session == SessionId::NONE => {
                session.is_over = true;
                let silent = session.heard.elapsed();
                if silent < timeout(session) {
                    let id = session.id.0;
                    let line = format!("session {id:x} is over {silent:?} after a write of it was sent and done");
                    self.record.wrong.push(line);
                }
                return Ok(None);
            }
            Some(session) if response.session != session.id => {
                let wrong = format!("session {:x} instead of {:x}", response.session.0, session.id.0);
                self.record.wrong.push(wrong);
            }
            Some(session) if session.has_ephemeral => return Ok(Some(connection)),
            Some(_) => {}
            None if response.session == SessionId::NONE => return Err(io::ErrorKind::ConnectionRefused.into()),
            None => self.record.sessions.push(Session {
                number: self.sessions_ever.fetch_add(1, Ordering::Relaxed),
                id: response.session,
                password: response.password,
                timeout_ms: response.timeout_ms,
                heard: asked,
                is_over: false,
                has_ephemeral: false,
            }),
        }
        let session = self.record.sessions.last_mut().expect("there is one now");
        let asked = Instant::now();
        let reply = connection.call(&create_ephemeral(&ephemeral(session.id)))?;
        session.has_ephemeral = reply.err == 0 || reply.err == NODE_EXISTS;
        session.heard = asked;
        if !session.has_ephemeral {
            return Err(io::Error::other("refused"));
        }
        Ok(Some(connection))
    }

    /// One request, and its answer. After an error the connection is of no use any more.
    fn ask(&mut self, connection: &mut Connection) -> io::Result<()> {
        let key = self.random.below(KEYS as u64) as usize;
        let action = match self.random.below(10) {
            0..=4 => Action::Read,
            5..=7 => Action::Write { value: self.next_value(), expected: None },
            _ => Action::Write { value: self.next_value(), expected: self.versions.get(&key).copied() },
        };
        let request = match action {
            Action::Read => get(&path(key), false),
            Action::Write { value, expected } => {
                let mut data = value.to_be_bytes().to_vec();
                data.resize(8 + self.random.below(self.value_bytes_max - 8) as usize, 0);
                set_version(&path(key), Some(&data), expected.unwrap_or(-1))
            }
        };
        let sent = Instant::now();
        let called = self.begin.elapsed().as_nanos() as Nanos;
        // A server that was paused may take up, late, the connection that this client has given up on. Then the session is
        // there, nothing was done here, and the client has to come anew.
        let reply = connection.call(&request).and_then(|reply| match reply.err {
            SESSION_MOVED => Err(io::Error::other("the session has moved")),
            _ => Ok(reply),
        });
        let answered = self.begin.elapsed().as_nanos() as Nanos;
        let answer = match &reply {
            Ok(reply) => self.answer(action, reply).inspect_err(|error| self.record.wrong.push(error.to_string()))?,
            Err(_) => Answer::Nothing,
        };
        let session = self.record.sessions.last_mut().expect("connected");
        let is_answered = answer != Answer::Nothing;
        let answered = if is_answered { answered } else { NEVER };
        let number = session.number;
        if is_answered && action != Action::Read {
            session.heard = sent;
        }
        self.record.operations.push(Operation { session: number, key, action, called, answered, answer });
        let reply = reply?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.last_zxid = Zxid(reply.zxid.max(self.last_zxid.0));
        if let Answer::Read { version, .. } | Answer::Written { version, .. } = answer {
            self.versions.insert(key, version);
        }
        Ok(())
    }

    fn answer(&self, action: Action, reply: &Reply) -> io::Result<Answer> {
        let unexpected = || io::Error::other(format!("{action:?} is answered by {reply:?}"));
        match action {
            Action::Read => read_answer(reply).ok_or_else(unexpected),
            Action::Write { .. } if reply.err == BAD_VERSION => Ok(Answer::WrongVersion { zxid: reply.zxid }),
            Action::Write { .. } if reply.err != 0 => Err(unexpected()),
            Action::Write { .. } => {
                let stat = reply.stat();
                let is_own = stat.mzxid == reply.zxid;
                if is_own { Ok(Answer::Written { version: stat.version, zxid: reply.zxid }) } else { Err(unexpected()) }
            }
        }
    }

    fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.number << 40 | self.values
    }
}

/// A connection on which nothing is waited for for long, and no loss of which is an error of the test.
pub struct Connection {
    pub stream: TcpStream,
    xid: i32,
}

impl Connection {
    /// Connects, and takes the answer to the handshake, whatever it is.
    pub fn open(address: SocketAddr, request: &ConnectRequest) -> io::Result<(Connection, ConnectResponse)> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut connection = Connection { stream, xid: 0 };
        connection.stream.write_all(&framed(&encoded(request)))?;
        let response = ConnectResponse::decode(&connection.receive()?).map_err(io::Error::other)?;
        Ok((connection, response))
    }

    fn call(&mut self, request: &Request) -> io::Result<Reply> {
        self.xid += 1;
        self.stream.write_all(&framed(&request.encoded(self.xid)))?;
        let payload = self.receive()?;
        let mut r = Reader::new(&payload);
        let ReplyHeader { xid, zxid, err } = ReplyHeader::decode(&mut r).map_err(io::Error::other)?;
        assert_eq!(xid, self.xid, "replies come in the order of requests");
        Ok(Reply { xid, zxid: zxid.0, err, body: r.rest().to_vec() })
    }

    /// The payload of the next frame.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes(head) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(payload)
    }
}
