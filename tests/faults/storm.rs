//! Thousands of clients lose the leader at once and come back at once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ringkeeper::proto::client::{ConnectResponse, Password};
use ringkeeper::types::SessionId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::cluster::Cluster;
use super::support::*;

const CLIENTS: usize = 5000;
const THREADS: usize = 20;
/// Longer than the storm may last.
const SESSION_MS: i32 = 120_000;
/// An answer that takes longer is waited for no more: the client asks another server, as real ones do.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Until the last client must be back.
const STORM_MAX: Duration = Duration::from_secs(100);
const RETRY: Duration = Duration::from_millis(50);

/// A client: its session, once it has one.
#[derive(Default)]
struct Guest {
    session: Option<(SessionId, Password)>,
    connection: Option<TcpStream>,
}

impl Guest {
    /// Asks a server for its session, or for a new one, and does not wait for the answer.
    fn ask(&mut self, address: &SocketAddr) -> Option<()> {
        let mut request = new_session(SESSION_MS);
        if let Some((session, password)) = &self.session {
            (request.session, request.password) = (*session, password.to_vec());
        }
        let mut connection = TcpStream::connect_timeout(address, ANSWER_MAX).ok()?;
        connection.set_read_timeout(Some(ANSWER_MAX)).ok()?;
        connection.write_all(&framed(&encoded(&request))).ok()?;
        self.connection = Some(connection);
        Some(())
    }

    /// Takes the answer. `None` if there was none, and the client is without a server.
    fn hear(&mut self) -> Option<()> {
        let connection = self.connection.as_mut()?;
        let heard = (|| {
            let mut head = [0; 4];
            connection.read_exact(&mut head).ok()?;
            let mut payload = vec![0; u32::from_be_bytes(head) as usize];
            connection.read_exact(&mut payload).ok()?;
            ConnectResponse::decode(&payload).ok()
        })();
        let Some(response) = heard else {
            self.connection = None;
            return None;
        };
        assert_ne!(response.session, SessionId::NONE, "a session is lost");
        if let Some((session, _)) = self.session {
            assert_eq!(response.session, session);
        }
        self.session = Some((response.session, response.password));
        Some(())
    }
}

/// Brings all of these to some server, each again and again until it is there.
fn connect_all(guests: &mut [Guest], addresses: &[SocketAddr]) {
    let begin = Instant::now();
    let mut round = 0;
    loop {
        let mut waiting: Vec<&mut Guest> = guests.iter_mut().filter(|guest| guest.connection.is_none()).collect();
        if waiting.is_empty() {
            return;
        }
        assert!(begin.elapsed() < STORM_MAX, "{} clients are without a server", waiting.len());
        for (number, guest) in waiting.iter_mut().enumerate() {
            guest.ask(&addresses[(number + round) % addresses.len()]);
        }
        let missing = waiting.iter_mut().filter_map(|guest| guest.hear().is_none().then_some(())).count();
        if missing > 0 {
            thread::sleep(RETRY);
        }
        round += 1;
    }
}

/// Returns how long it took.
fn connect_in_parallel(guests: &mut [Guest], addresses: &[SocketAddr]) -> Duration {
    let begin = Instant::now();
    thread::scope(|scope| {
        for part in guests.chunks_mut(CLIENTS / THREADS) {
            scope.spawn(|| connect_all(part, addresses));
        }
    });
    begin.elapsed()
}

#[test]
#[ignore = "takes a while; part of the suite `sick`"]
fn five_thousand_clients_come_back_after_the_leader_is_killed() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).expect("up to the maximum it may be raised");
    let mut cluster = Cluster::run(3, "maxSessionTimeout=600000\n");
    let mut guests: Vec<Guest> = (0..CLIENTS).map(|_| Guest::default()).collect();
    let addresses: Vec<SocketAddr> = cluster.addresses().iter().map(|text| text.parse().expect("numbers")).collect();
    println!("{CLIENTS} sessions were opened in {:?}", connect_in_parallel(&mut guests, &addresses));
    let leader = cluster.leader();
    cluster.servers[leader].kill();
    for guest in &mut guests {
        // What is left of the ensemble drops its clients as well until it has a leader.
        guest.connection = None;
    }
    let rest: Vec<SocketAddr> = cluster.others(leader).into_iter().map(|index| addresses[index]).collect();
    println!("all of them were back {:?} after the leader was killed", connect_in_parallel(&mut guests, &rest));
    cluster.servers[leader].spawn();
    cluster.wait_until_all_serve();
    cluster.servers[leader].client().call(&create("/after", None)).ok();
}
