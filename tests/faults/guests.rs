//! Clients that come and go: sessions with watches and ephemerals, which are closed, moved, or left to run out; words; and what
//! is no client at all. Nothing of them may stay.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringkeeper::jute::Reader;
use ringkeeper::proto::client::ReplyHeader;
use ringkeeper::types::SessionId;

use super::cluster::Cluster;
use super::soak::{Look, look};
use super::support::*;
use super::workload::Connection;

/// Where their ephemerals are.
const PLACE: &str = "/guests";
/// The shortest that there is: sessions that are left run out soon.
const SESSION_MS: i32 = 1000;
const THREADS: u64 = 6;

/// Guests that come until they are told to stop.
pub struct Guests {
    stop: Arc<AtomicBool>,
    visits: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
}

impl Guests {
    /// So many threads, each with one guest at a time and a pause behind each.
    pub fn start(cluster: &Cluster, threads: u64, pause: Duration, random: &mut Random) -> Guests {
        cluster.servers[0].client().call(&create(PLACE, None));
        let (stop, visits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers = (0..threads).map(|number| {
            let mut host = Host::new(cluster, random.fork(number));
            let (stop, visits) = (Arc::clone(&stop), Arc::clone(&visits));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    visits.fetch_add(u64::from(host.receive_guest().is_ok()), Ordering::Relaxed);
                    thread::sleep(pause);
                }
            })
        });
        Guests { workers: workers.collect(), stop, visits }
    }

    /// How many came and were served so far.
    pub fn visits(&self) -> u64 {
        self.visits.load(Ordering::Relaxed)
    }

    /// Lets nobody in any more. Sessions may still be left that run out soon. Returns how many came and were served.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().expect("it does not panic");
        }
        self.visits.load(Ordering::Relaxed)
    }
}

/// Where guests come from.
struct Host {
    addresses: Vec<SocketAddr>,
    random: Random,
}

impl Host {
    fn new(cluster: &Cluster, random: Random) -> Host {
        let addresses = cluster.addresses();
        Host { addresses: addresses.iter().map(|address| address.parse().expect("numbers")).collect(), random }
    }

    fn address(&mut self) -> SocketAddr {
        self.addresses[self.random.below(self.addresses.len() as u64) as usize]
    }

    /// One of them, from its coming to its going. Errors if it was not served, as by a server that has no leader.
    fn receive_guest(&mut self) -> io::Result<()> {
        let address = self.address();
        match self.random.below(8) {
            0..=2 => visit(address)?.close(),
            // Nobody closes the session.
            3 => visit(address).map(drop),
            4 => self.move_on(visit(address)?),
            5 => speak(address, b"mntr", true),
            // The length of a frame, and some of it.
            6 => speak(address, &[0, 0, 0, 45, 0, 0, 0, 0], false),
            _ => speak(address, b"GET / HTTP/1.1\r\n\r\n", true),
        }
    }

    /// Takes the session to some server, perhaps another, while the connection before is still there.
    fn move_on(&mut self, before: Visit) -> io::Result<()> {
        let mut request = new_session(SESSION_MS);
        (request.session, request.password) = (before.session, before.password.clone());
        let (connection, response) = Connection::open(self.address(), &request)?;
        if response.session == SessionId::NONE {
            return Err(io::Error::other("it has run out"));
        }
        Visit { connection, ..before }.close()
    }
}

/// A guest with a session.
struct Visit {
    connection: Connection,
    session: SessionId,
    password: Vec<u8>,
    xid: i32,
}

/// Watches of all kinds, and two ephemerals of which one goes again.
fn visit(address: SocketAddr) -> io::Result<Visit> {
    let (connection, response) = Connection::open(address, &new_session(SESSION_MS))?;
    if response.session == SessionId::NONE {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let (session, password) = (response.session, response.password.to_vec());
    let mut visit = Visit { connection, session, password, xid: 0 };
    let own = format!("{PLACE}/{:x}", session.0);
    let (kept, removed) = (format!("{own}-kept"), format!("{own}-removed"));
    const RECURSIVE: i32 = 1;
    visit.exchange(&[
        get(PLACE, true),
        exists(&own, true),
        children(PLACE, true),
        add_watch(&own, RECURSIVE),
        create_ephemeral(&kept),
        create_ephemeral(&removed),
        exists(&kept, true),
        delete(&removed, -1),
    ])?;
    Ok(visit)
}

impl Visit {
    /// Sends requests in one piece, and waits for the reply to the last.
    fn exchange(&mut self, requests: &[Request]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for request in requests {
            self.xid += 1;
            bytes.extend(framed(&request.encoded(self.xid)));
        }
        self.connection.stream.write_all(&bytes)?;
        loop {
            let payload = self.connection.receive()?;
            let header = ReplyHeader::decode(&mut Reader::new(&payload)).map_err(io::Error::other)?;
            if header.xid == self.xid {
                return Ok(());
            }
        }
    }

    fn close(mut self) -> io::Result<()> {
        self.exchange(&[CLOSE_SESSION])
    }
}

/// Says something that is no handshake; `heard` if the server answers it, or closes the connection.
fn speak(address: SocketAddr, bytes: &[u8], heard: bool) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    if heard { stream.read_to_end(&mut Vec::new()).map(drop) } else { Ok(()) }
}

const ROUNDS: usize = 5;
/// Until all that is made once is there: segments, buffers, what the allocator keeps.
const ROUNDS_TO_WARM_UP: usize = 2;
const VISITS_PER_ROUND: u64 = 1500;
/// What all visits of the later rounds may leave: transactions for learners, of which each visit makes some.
const MEMORY_SLACK_KIB: u64 = 8 << 10;
/// Segments and snapshots that happen to be open.
const FILES_SLACK: u64 = 6;
/// A round's pause of one server, shorter than what a leader puts up with.
const PAUSE: Duration = Duration::from_millis(600);

#[test]
#[ignore = "takes a while; part of the suite `sick`"]
fn what_comes_and_goes_leaves_nothing() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::run(3, "snapCount=2000\n4lw.commands.whitelist=*\n");
    let mut rounds: Vec<Vec<Look>> = Vec::new();
    for round in 0..ROUNDS {
        let guests = Guests::start(&cluster, THREADS, Duration::ZERO, &mut random);
        let paused = round % cluster.servers.len();
        cluster.wait_for("half of the visits", |_| (guests.visits() >= VISITS_PER_ROUND / 2).then_some(()));
        cluster.pause(paused);
        thread::sleep(PAUSE);
        cluster.resume(paused);
        cluster.wait_for("all visits", |_| (guests.visits() >= VISITS_PER_ROUND).then_some(()));
        let visits = guests.stop();
        cluster.wait_until_all_serve();
        wait_until_all_have_gone(&mut cluster);
        rounds.push(cluster.servers.iter().map(look).collect());
        println!("round {round}, {visits} visits: {:?}", rounds.last().expect("just now"));
    }
    let (before, after) = (&rounds[ROUNDS_TO_WARM_UP - 1], &rounds[ROUNDS - 1]);
    for (server, (before, after)) in before.iter().zip(after).enumerate() {
        assert!(after.files <= before.files + FILES_SLACK, "files of server {server} pile up: {before:?}, {after:?}");
        let memory_max = before.memory_kib + MEMORY_SLACK_KIB;
        assert!(after.memory_kib <= memory_max, "memory of server {server} grows: {before:?}, {after:?}");
    }
}

/// No connection but that which asks, no watch, no session, nothing of theirs in the tree.
fn wait_until_all_have_gone(cluster: &mut Cluster) {
    let left = |cluster: &mut Cluster| {
        let counts = cluster.servers.iter().flat_map(|server| {
            let told = ask(&server.address(), "mntr");
            let count = |name: &str| -> u64 {
                let value = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
                value.and_then(|value| value.parse().ok()).unwrap_or(u64::MAX)
            };
            [
                count("zk_num_alive_connections") - 1,
                count("zk_watch_count"),
                count("zk_global_sessions"),
                count("zk_ephemerals_count"),
            ]
        });
        counts.max()
    };
    cluster.wait_for("all guests to be gone", |cluster| (left(cluster) == Some(0)).then_some(()));
}
