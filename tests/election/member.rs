//! A server that takes part in elections and does nothing else.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use glommio::LocalExecutorBuilder;
use ringkeeper::proto::election::ServerState;
use ringkeeper::server::config::{Config, EnsembleConfig};
use ringkeeper::shard::clock::Clock;
use ringkeeper::shard::mesh::Queue;
use ringkeeper::shard::peers::{self, BindError, Order, Peers, Report, Sockets};
use ringkeeper::types::{ServerId, Zxid};
use ringkeeper::zab::election::Elected;

/// Whatever is waited for comes within this time, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        thread::sleep(POLL);
    }
}

/// A directory for one test, which goes away with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringkeeper-election-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("it can be made");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over lies among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ports of an ensemble on loopback that nobody uses now.
pub struct Ensemble {
    pub scratch: Scratch,
    /// By id, from 1.
    pub quorum_ports: Vec<u16>,
    pub election_ports: Vec<u16>,
}

impl Ensemble {
    pub fn new(servers: usize) -> Ensemble {
        let ports = free_ports(2 * servers);
        let (quorum, election) = ports.split_at(servers);
        Ensemble { scratch: Scratch::new(), quorum_ports: quorum.to_vec(), election_ports: election.to_vec() }
    }

    /// The lines of zoo.cfg that all servers have in common.
    pub fn lines(&self) -> Vec<String> {
        let ports = self.quorum_ports.iter().zip(&self.election_ports).zip(1..);
        ports.map(|((quorum, election), id)| format!("server.{id}=127.0.0.1:{quorum}:{election}")).collect()
    }

    /// Starts the driver as this server. `extra` are more lines of zoo.cfg.
    pub fn start(&self, id: i64, extra: &str) -> Member {
        self.start_configured(self.config(id, extra))
    }

    /// The same with these lines for the members.
    pub fn start_with(&self, id: i64, members: &str) -> Member {
        self.start_configured(self.config_of(id, members))
    }

    fn start_configured(&self, config: EnsembleConfig) -> Member {
        let id = config.my_id.0;
        let sockets = peers::bind(&config).unwrap_or_else(|error| panic!("{error}"));
        let (orders, order_receiver) = mpsc::channel();
        let (report_sender, reports) = mpsc::channel();
        let builder = LocalExecutorBuilder::default().name("election").io_memory(64 << 10).ring_depth(128);
        let run = move || serve(config, sockets, order_receiver, report_sender);
        let executor = builder.spawn(run).expect("the kernel gives a ring");
        let thread = thread::spawn(move || executor.join().expect("the server does not panic"));
        Member { id: ServerId(id), orders, reports, thread: Some(thread) }
    }

    /// Binds the election port as this server would.
    pub fn try_bind(&self, id: i64, extra: &str) -> Result<Sockets, BindError> {
        peers::bind(&self.config(id, extra))
    }

    fn config(&self, id: i64, extra: &str) -> EnsembleConfig {
        self.config_of(id, &format!("{}\n{extra}", self.lines().join("\n")))
    }

    fn config_of(&self, id: i64, lines: &str) -> EnsembleConfig {
        let dir = self.scratch.path().join(format!("server-{id}"));
        fs::create_dir_all(&dir).expect("it can be made");
        fs::write(dir.join("myid"), id.to_string()).expect("it can be written");
        let text = format!("dataDir={}\ntickTime=500\ninitLimit=10\nsyncLimit=5\n{lines}\n", dir.display());
        let loaded = Config::parse(text.as_bytes(), &dir.join("zoo.cfg")).unwrap_or_else(|error| panic!("{error}"));
        loaded.config.ensemble.expect("it is one")
    }
}

/// Ports that no other test has while this process lives: they are locked for it, and Linux does not take ports of outgoing
/// connections from this range unless told to.
pub fn free_ports(count: usize) -> Vec<u16> {
    const RANGE: std::ops::Range<u32> = 10_000..30_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    static LOCKS: Mutex<Vec<File>> = Mutex::new(Vec::new());
    // Where the other tests have theirs.
    let locks = Path::new(env!("CARGO_TARGET_TMPDIR")).join("it/ports");
    fs::create_dir_all(&locks).expect("the build directory can be written to");
    let start = std::process::id().wrapping_mul(131);
    let is_free = |number: &u16| {
        let lock = File::create(locks.join(number.to_string())).expect("a lock file can be made");
        let is_free = lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", *number)).is_ok();
        if is_free {
            LOCKS.lock().expect("nobody panics with it").push(lock);
        }
        is_free
    };
    let numbers = RANGE.map(|_| {
        let step = TRIED.fetch_add(1, Ordering::Relaxed);
        (RANGE.start + start.wrapping_add(step) % (RANGE.end - RANGE.start)) as u16
    });
    let ports: Vec<u16> = numbers.filter(is_free).take(count).collect();
    assert_eq!(ports.len(), count, "no {count} ports from {RANGE:?} are free");
    ports
}

/// One running server. Dropped, it is gone as if it were killed: its sockets close.
pub struct Member {
    pub id: ServerId,
    orders: Sender<Order>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    pub fn order(&self, order: Order) {
        self.orders.send(order).expect("it runs");
    }

    /// Has it look for a leader, with this history.
    pub fn look(&self, last_zxid: i64, current_epoch: i64) {
        self.order(Order::Look { last_zxid: Zxid(last_zxid), current_epoch });
    }

    /// Waits for the end of the election.
    #[track_caller]
    pub fn elected(&self) -> Elected {
        loop {
            let report = self.reports.recv_timeout(PATIENCE);
            match report.unwrap_or_else(|_| panic!("server {} elects nobody in {PATIENCE:?}", self.id)) {
                Report::Elected(elected) => return elected,
                Report::Adopt(_) | Report::VoterLooks(_) => {}
            }
        }
    }

    /// Waits for the end of the election, and compares.
    #[track_caller]
    pub fn expect(&self, state: ServerState, leader: i64) -> Elected {
        let elected = self.elected();
        assert_eq!((elected.state, elected.vote.leader), (state, ServerId(leader)), "server {}: {elected:?}", self.id);
        elected
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The executor ends when the orders do.
        self.orders = mpsc::channel().0;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("server {} has panicked", self.id);
        }
    }
}

/// The executor: orders in, reports out, until nobody can give orders any more.
async fn serve(config: EnsembleConfig, sockets: Sockets, orders: Receiver<Order>, reports: Sender<Report>) {
    let (order_queue, report_queue) = (Rc::new(Queue::default()), Rc::new(Queue::default()));
    let _peers =
        Peers::start(&config, false, sockets, Rc::clone(&order_queue), Rc::clone(&report_queue), Clock::start());
    loop {
        match orders.try_recv() {
            Ok(order) => order_queue.push(order),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => glommio::timer::sleep(POLL).await,
        }
        while let Some(report) = report_queue.pop() {
            // A test that has seen enough does not listen any more.
            let _ = reports.send(report);
        }
    }
}
