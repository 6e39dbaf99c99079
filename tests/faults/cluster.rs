//! An ensemble of real servers, and what can be asked of it from the outside.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use ringkeeper::proto::client::Stat;
use rustix::process::{Signal, kill_process};

use super::network::Network;
use super::support::*;

/// A tick of the ensembles here, in milliseconds. A learner that is not heard for `syncLimit` ticks is given up, and the
/// shortest session is two ticks.
pub const TICK_MS: u64 = 500;
const SYNC_TICKS: u64 = 4;
/// What the ensemble may take to serve again after the last fault is over: an election, a synchronization, on a machine that
/// does other things as well.
pub const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// What one look at the servers may take of that: what takes longer is this process that does not run.
const LOOK_MAX: Duration = Duration::from_secs(20);
/// A server that does not answer within this time is taken for one that does not serve.
const WORD_MAX: Duration = Duration::from_secs(2);

const NO_AUTH: i32 = -102;

/// All znodes of a server, as its clients see them.
pub type Tree = BTreeMap<String, (Option<Vec<u8>>, Stat)>;

/// Servers 1 to n, which have the indexes 0 to n - 1.
pub struct Cluster {
    pub servers: Vec<Server>,
    /// `None` if all are on loopback.
    pub network: Option<Network>,
    /// The quorum and the election port of each server, which stay ours while this lives.
    ports: Vec<Port>,
}

impl Cluster {
    /// Lays servers out on loopback and starts none.
    pub fn new(count: usize, settings: &str) -> Cluster {
        Cluster::place(count, None, settings)
    }

    /// Starts servers, each in its own network, and waits until all serve.
    pub fn run_in_networks(count: usize, settings: &str) -> Cluster {
        let mut cluster = Cluster::place(count, Some(Network::new(count)), settings);
        cluster.servers.iter_mut().for_each(Server::spawn);
        cluster.wait_until_all_serve();
        cluster
    }

    /// Starts servers on loopback and waits until all serve.
    pub fn run(count: usize, settings: &str) -> Cluster {
        let mut cluster = Cluster::new(count, settings);
        cluster.servers.iter_mut().for_each(Server::spawn);
        cluster.wait_until_all_serve();
        cluster
    }

    fn place(count: usize, network: Option<Network>, settings: &str) -> Cluster {
        let ports: Vec<Port> = (0..2 * count).map(|_| Port::free()).collect();
        let host = |server| network.as_ref().map_or("127.0.0.1".to_owned(), |network| network.host(server));
        let mut lines = format!("tickTime={TICK_MS}\ninitLimit=20\nsyncLimit={SYNC_TICKS}\n{settings}");
        for (index, pair) in ports.chunks(2).enumerate() {
            let server = index + 1;
            lines += &format!("server.{server}={}:{}:{}\n", host(server), pair[0].number, pair[1].number);
        }
        let servers = (1..=count).map(|server| {
            let namespace = network.as_ref().map(|network| network.namespace(server));
            let placed = Server::place(&host(server), namespace, &lines);
            fs::create_dir_all(placed.dir.path().join("data")).expect("it can be made");
            placed.dir.write("data/myid", &format!("{server}\n"));
            placed
        });
        Cluster { servers: servers.collect(), network, ports }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(Server::address).collect()
    }

    /// Where a server listens for learners while it leads.
    pub fn learner_port(&self, index: usize) -> u16 {
        self.ports[2 * index].number
    }

    /// What a server says that it is; `None` if it does not serve. Fails the test if it has ended.
    pub fn mode(&mut self, index: usize) -> Option<String> {
        let server = &mut self.servers[index];
        if let Some(code) = server.exit_code() {
            panic!("server {} ended with {code:?}:\n{}", index + 1, server.printed());
        }
        self.try_mode(index)
    }

    /// The same of a server that may have ended.
    pub fn try_mode(&self, index: usize) -> Option<String> {
        let server = &self.servers[index];
        let answer = try_ask_for(&server.address(), "srvr", WORD_MAX)?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }

    /// Waits until one of these leads.
    #[track_caller]
    pub fn wait_for_leader_among(&mut self, indexes: &[usize]) -> usize {
        let leader = |cluster: &mut Cluster| {
            indexes.iter().copied().find(|index| cluster.mode(*index).as_deref() == Some("leader"))
        };
        self.wait_for("a leader", leader)
    }

    #[track_caller]
    pub fn leader(&mut self) -> usize {
        let all: Vec<usize> = (0..self.servers.len()).collect();
        self.wait_for_leader_among(&all)
    }

    /// The other servers.
    pub fn others(&self, index: usize) -> Vec<usize> {
        (0..self.servers.len()).filter(|other| *other != index).collect()
    }

    /// Waits until all serve and one of them leads: one that was paused may believe so for a moment.
    #[track_caller]
    pub fn wait_until_all_serve(&mut self) {
        self.wait_for("all to serve", |cluster| {
            let modes: Option<Vec<String>> = (0..cluster.servers.len()).map(|index| cluster.mode(index)).collect();
            let leads = |mode: &&String| ["leader", "standalone"].contains(&mode.as_str());
            (modes?.iter().filter(leads).count() == 1).then_some(())
        });
    }

    /// Waits until `look` finds something, as long as an ensemble may take to recover.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&mut Cluster) -> Option<T>) -> T {
        let (mut waited, mut last) = (Duration::ZERO, Instant::now());
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(waited < RECOVERY_MAX, "waited {RECOVERY_MAX:?} for {what}");
            std::thread::sleep(Duration::from_millis(10));
            // While this process was stopped as a whole, nobody recovered.
            waited += last.elapsed().min(LOOK_MAX);
            last = Instant::now();
        }
    }

    /// SIGSTOP.
    pub fn pause(&self, index: usize) {
        kill_process(self.servers[index].pid(), Signal::STOP).expect("it runs");
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) {
        kill_process(self.servers[index].pid(), Signal::CONT).expect("it runs");
    }

    /// Kills and starts it, without waiting for it to serve.
    pub fn restart(&mut self, index: usize) {
        self.servers[index].kill();
        self.servers[index].spawn();
    }

    /// The tree that all servers have; fails the test if they do not come to have the same. Nobody may be writing, and all
    /// must serve.
    #[track_caller]
    pub fn common_tree(&mut self) -> Tree {
        let trees = self.wait_for("trees to be read", |cluster| {
            let trees: Vec<Tree> = cluster.servers.iter().filter_map(try_tree).collect();
            // Sessions that end meanwhile take their ephemerals with them, on one server before the other.
            (trees.len() == cluster.servers.len() && trees.windows(2).all(|pair| pair[0] == pair[1])).then_some(trees)
        });
        trees.into_iter().next().expect("there are servers")
    }
}

/// All znodes of a server that has caught up with its leader; `None` if it does not serve.
fn try_tree(server: &Server) -> Option<Tree> {
    let wire = Wire::try_dial(&server.address())?;
    let mut client = Client::shake_hands(wire, &new_session(30_000))?;
    (client.try_call(&sync("/"))?.err == 0).then_some(())?;
    let mut tree = Tree::new();
    let mut paths = vec!["/".to_owned()];
    while let Some(path) = paths.pop() {
        let node = client.try_call(&get(&path, false))?;
        let names = client.try_call(&children(&path, false))?;
        // What may not be read is there all the same; what has gone meanwhile is not.
        if [&node, &names].iter().any(|reply| ![0, NO_AUTH].contains(&reply.err)) {
            return None;
        }
        let above = if path == "/" { "" } else { &path };
        if names.err == 0 {
            paths.extend(names.children().0.into_iter().map(|name| format!("{above}/{name}")));
        }
        let (data, mut stat) = if node.err == 0 { node.data() } else { (None, Stat::default()) };
        if path == "/zookeeper/config" {
            // Each server writes it for itself, as Apache's do.
            stat.mtime_ms = 0;
        }
        tree.insert(path, (data, stat));
    }
    client.try_call(&CLOSE_SESSION);
    Some(tree)
}
