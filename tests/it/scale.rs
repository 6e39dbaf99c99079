//! Many of everything, with a client beside that wants to be served meanwhile.
//!
//! The tests of the normal run use small numbers; those that are ignored by default use the ones that operators were
//! promised, and print what the client beside has seen (docs/operations.md has the figures):
//!
//! ```text
//! cargo build --release
//! RINGKEEPER_TEST_PROGRAM=$PWD/target/release/ringkeeper \
//!     cargo nextest run --run-ignored only --no-capture -E 'test(scale::)'
//! ```
//!
//! Where fewer files may be open than there are to be connections, there are as many connections as may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::support::*;

/// A client that writes a znode of its own every few ms until it is told to stop, and then tells of its times.
struct Beside {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<f64>>>,
}

impl Beside {
    fn start(server: &Server) -> Beside {
        let mut client = server.client();
        let path = format!("/beside-{}", client.session);
        client.call(&create(&path, Some(b""))).ok();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let mut times = Vec::new();
            // One at least, however soon it is over.
            loop {
                let begin = Instant::now();
                client.call(&set(&path, Some(b"x"))).ok();
                times.push(begin.elapsed().as_secs_f64() * 1000.0);
                if stopped.load(Ordering::Relaxed) {
                    return times;
                }
                thread::sleep(Duration::from_millis(2));
            }
        };
        Beside { stop, thread: Some(thread::spawn(work)) }
    }

    /// Ends it. Its every write was answered.
    fn tell(mut self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.take().expect("once").join().expect("its writes are answered");
        times.sort_by(f64::total_cmp);
        let part = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        println!(
            "{what}: {} writes beside, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            times.len(),
            part(0.5),
            part(0.99),
            part(1.0)
        );
    }
}

/// So many connections, or as many as may be open in this process and, by the limit that it passes on, in a server.
fn connections_at_most(count: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHER_FILES: u64 = 300;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Some(count as u64 + OTHER_FILES);
    // The superuser may go beyond the maximum, where nothing takes that right away.
    let tries = [wanted.max(maximum), maximum].map(|maximum| Rlimit { current: wanted.min(maximum), maximum });
    let enough = |limit: &Rlimit| current >= limit.current || setrlimit(Resource::Nofile, *limit).is_ok();
    let _ = tries.iter().find(|limit| enough(limit));
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    println!("{} of {count} connections", (limit - OTHER_FILES).min(count as u64));
    count.min((limit - OTHER_FILES) as usize)
}

/// An address of the server for its nth connection: there are only so many ports for those to one address.
fn address_of(server: &Server, connection: usize) -> String {
    const CONNECTIONS_AN_ADDRESS: usize = 20_000;
    format!("127.0.0.{}:{}", 1 + connection / CONNECTIONS_AN_ADDRESS, server.port())
}

/// Sends requests in portions, and looks at each reply.
fn work_off(client: &mut Client, requests: impl Iterator<Item = Request>, check: impl Fn(&Reply)) {
    let mut requests = requests.peekable();
    while requests.peek().is_some() {
        let portion: Vec<Request> = requests.by_ref().take(500).collect();
        let xids = client.pipeline(&portion);
        for xid in xids {
            let reply = client.next_reply();
            assert_eq!(reply.xid, xid);
            check(&reply);
        }
    }
}

fn a_parent_with_many_children(count: usize) {
    let server = Server::run("ringkeeper.segmentBytes=67108864\n");
    let mut client = server.client();
    client.call(&create("/parent", None)).ok();
    let beside = Beside::start(&server);
    let begin = Instant::now();
    let path = |i: usize| format!("/parent/{i:07}");
    work_off(&mut client, (0..count).map(|i| create(&path(i), None)), |reply| assert_eq!(reply.err, 0));
    println!("{count} children made in {:.1} s", begin.elapsed().as_secs_f64());
    beside.tell("create");
    let beside = Beside::start(&server);
    for _ in 0..3 {
        let (names, stat) = client.call(&children("/parent", false)).children();
        assert_eq!((names.len(), stat.num_children as usize), (count, count));
        assert_eq!((names[0].as_str(), names[count - 1].as_str()), ("0000000", format!("{:07}", count - 1).as_str()));
    }
    beside.tell("getChildren");
    let beside = Beside::start(&server);
    work_off(&mut client, (0..count).map(|i| delete(&path(i), -1)), |reply| assert_eq!(reply.err, 0));
    beside.tell("delete");
    assert_eq!(client.call(&exists("/parent", false)).stat().cversion, 2 * count as i32);
}

#[test]
fn a_parent_with_5_000_children() {
    a_parent_with_many_children(5_000);
}

#[test]
#[ignore = "takes minutes"]
fn a_parent_with_1_000_000_children() {
    a_parent_with_many_children(1_000_000);
}

fn a_session_with_many_ephemerals(count: usize) {
    let server = Server::run("ringkeeper.segmentBytes=67108864\n");
    let (mut watcher, mut owner) = (server.client(), server.client());
    owner.call(&create("/parent", None)).ok();
    let path = |i: usize| format!("/parent/e{i:06}");
    work_off(&mut owner, (0..count).map(|i| create_ephemeral(&path(i))), |reply| assert_eq!(reply.err, 0));
    for i in [0, count / 2, count - 1] {
        watcher.call(&exists(&path(i), true)).ok();
    }
    let beside = Beside::start(&server);
    let begin = Instant::now();
    let closed = owner.call(&CLOSE_SESSION);
    println!("{count} ephemerals went in {:.3} s", begin.elapsed().as_secs_f64());
    let events = [(); 3].map(|()| watcher.next_event());
    assert!(events.iter().all(|event| (event.kind, event.zxid) == (DELETED, closed.zxid)), "{events:?}");
    let stat = watcher.call(&exists("/parent", false)).stat();
    assert_eq!((stat.num_children, stat.pzxid), (0, closed.zxid));
    beside.tell("close");
    // What was logged can be read.
    drop(watcher);
    let mut server = server;
    server.kill();
    server.start();
    assert_eq!(server.client().call(&exists("/parent", false)).stat().num_children, 0);
}

#[test]
fn a_session_with_2_000_ephemerals_closes_in_one_transaction() {
    a_session_with_many_ephemerals(2_000);
}

#[test]
#[ignore = "takes a minute"]
fn a_session_with_100_000_ephemerals_closes_in_one_transaction() {
    a_session_with_many_ephemerals(100_000);
}

fn many_sessions(count: usize, timeout_ms: i32) {
    let count = connections_at_most(count);
    let server = Server::run("tickTime=1000\nmaxSessionTimeout=600000\nclientPortAddress=0.0.0.0\n");
    let beside = Beside::start(&server);
    let begin = Instant::now();
    // Many ask before the first answer is read.
    let hello = encoded(&new_session(timeout_ms));
    let mut wires: Vec<Wire> = Vec::new();
    while wires.len() < count {
        let first = wires.len();
        for _ in first..count.min(first + 1_000) {
            let mut wire = Wire::dial(&address_of(&server, wires.len()));
            wire.send(&hello);
            wires.push(wire);
        }
        for wire in &mut wires[first..] {
            assert_eq!(wire.receive().expect("an answer").len(), 37);
        }
    }
    println!("{count} sessions opened in {:.1} s", begin.elapsed().as_secs_f64());
    beside.tell("opening");
    // Each lives for longer than its timeout, because it is heard of.
    let beside = Beside::start(&server);
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_millis(2 * timeout_ms as u64) {
        wires.iter_mut().for_each(|wire| wire.send(&PING.encoded(-2)));
        for wire in &mut wires {
            assert_eq!(wire.receive().expect("it is alive").len(), 16);
        }
        rounds += 1;
        thread::sleep(Duration::from_millis(500));
    }
    println!("{rounds} rounds of pings");
    beside.tell("pings");
    // All fall silent together.
    let beside = Beside::start(&server);
    for wire in &mut wires {
        wire.assert_closed();
    }
    beside.tell("expiry");
    let mut client = server.client();
    assert_eq!(client.call(&get("/", false)).err, 0);
    wait_for("the last session to go", || {
        let found = server.printed().matches("Expiring session").count();
        (found >= count).then_some(())
    });
}

#[test]
fn a_thousand_sessions_come_and_go_together() {
    many_sessions(1_000, 4_000);
}

#[test]
#[ignore = "takes two minutes, and as many files as there may be"]
fn twenty_thousand_sessions_come_and_go_together() {
    many_sessions(20_000, 20_000);
}

/// Each of so many connections watches one path; all hear of it when it changes.
fn many_watches_on_one_path(count: usize) {
    let count = connections_at_most(count);
    let server = Server::run("maxSessionTimeout=600000\nclientPortAddress=0.0.0.0\n");
    // It says nothing while the others come.
    let mut writer = Client::connect_for(&server.address(), 600_000);
    writer.call(&create("/watched", None)).ok();
    let connect = |connection| Client::connect_for(&address_of(&server, connection), 600_000);
    let mut clients: Vec<Client> = (0..count).map(connect).collect();
    for client in &mut clients {
        client.send(&get("/watched", true));
    }
    for client in &mut clients {
        client.next_reply().ok();
    }
    let beside = Beside::start(&server);
    let begin = Instant::now();
    let zxid = writer.call(&set("/watched", Some(b"x"))).zxid;
    println!("the change of {count} watches was answered in {:.3} s", begin.elapsed().as_secs_f64());
    for client in &mut clients {
        let event = client.next_event();
        assert_eq!((event.kind, event.zxid), (DATA_CHANGED, zxid));
    }
    println!("all were told in {:.3} s", begin.elapsed().as_secs_f64());
    beside.tell("events");
    for client in clients.iter_mut().step_by(97) {
        assert_eq!(client.events_so_far(), []);
    }
}

#[test]
fn a_thousand_watches_fire_at_once() {
    many_watches_on_one_path(1_000);
}

#[test]
#[ignore = "takes minutes, and as many files as there may be"]
fn a_hundred_thousand_watches_fire_at_once() {
    many_watches_on_one_path(100_000);
}

/// Some connections watch so many paths together. Returns what the server took for that in bytes, and the bytes of the paths.
fn many_watched_paths(count: usize) -> (u64, u64) {
    const A_CONNECTION: usize = 10_000;
    let server = Server::run("4lw.commands.whitelist=wchs\n");
    let path = |i: usize| format!("/app/service/instance-{i:08}");
    let mut writer = server.client();
    for parent in ["/app", "/app/service"] {
        writer.call(&create(parent, None)).ok();
    }
    let mut clients: Vec<Client> = (0..count.div_ceil(A_CONNECTION)).map(|_| server.client()).collect();
    // What the same connections take without watches is not theirs: buffers, above all.
    for client in &mut clients {
        work_off(client, (0..A_CONNECTION).map(|i| exists(&path(i), false)), |reply| assert_eq!(reply.err, -101));
    }
    let before = server.resident_bytes();
    let beside = Beside::start(&server);
    for (client, first) in clients.iter_mut().zip((0..count).step_by(A_CONNECTION)) {
        let watched = (first..count.min(first + A_CONNECTION)).map(|i| exists(&path(i), true));
        work_off(client, watched, |reply| assert_eq!(reply.err, -101));
    }
    beside.tell("watching");
    let taken = server.resident_bytes().saturating_sub(before);
    for i in [0, count / 2, count - 1] {
        let zxid = writer.call(&create(&path(i), None)).zxid;
        let event = clients[i / A_CONNECTION].next_event();
        assert_eq!((event.kind, event.zxid, event.path), (CREATED, zxid, path(i)));
    }
    let beside = Beside::start(&server);
    drop(clients);
    wait_for("the watches to go", || ask(&server.address(), "wchs").ends_with("Total watches:0\n").then_some(()));
    beside.tell("going");
    (taken, (count * path(0).len()) as u64)
}

#[test]
fn fifty_thousand_paths_are_watched() {
    many_watched_paths(50_000);
}

#[test]
#[ignore = "takes a minute"]
fn a_million_paths_are_watched_in_64_mb_beyond_them() {
    let (taken, paths) = many_watched_paths(1_000_000);
    let beyond = taken.saturating_sub(paths) as f64 / 1e6;
    println!("1,000,000 watches: {:.1} MB, {beyond:.1} MB beyond their paths", taken as f64 / 1e6);
    assert!(beyond <= 64.0, "{beyond:.1} MB beyond the paths");
}
