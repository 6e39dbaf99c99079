//! The whole: hosts, what lies between them, and time. One thing happens after the other, in an order that follows from the
//! seed alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use ringkeeper::zab::effect::{MasterPort, Mode};
use ringkeeper::zab::quorum::QuorumVerifier;

use crate::checker::Checker;
use crate::client::Client;
use crate::faults::{Ambush, Fault};
use crate::network::{CLIENT_HOSTS, ConnId, End, Host, Network, Piece, Port};
use crate::options::Options;
use crate::random::Random;
use crate::server::{SYNC_LIMIT, Server, Wake};

/// Something that is to happen at some time.
pub enum Happening {
    /// A piece may have arrived at the other end of this side.
    Deliver(ConnId, usize),
    /// A connection is asked for, and the request arrives.
    Knock {
        from: Host,
        of: Caller,
        server: usize,
        port: Port,
    },
    /// What became of it, back at who asked. Without a connection: whether it was refused.
    Answered {
        of: Caller,
        server: usize,
        conn: Option<ConnId>,
        refused: bool,
    },
    /// A process does something, if it still is the one that meant to.
    Server {
        server: usize,
        incarnation: u32,
        wake: Wake,
    },
    Client {
        client: usize,
    },
    Fault(Fault),
    /// The kernel ends a probed connection that leads nowhere.
    Probe(ConnId),
}

/// Who asks for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    Client { client: usize, attempt: u64 },
    Election { server: usize, incarnation: u32 },
    Learner { server: usize, incarnation: u32, at: MasterPort, attempt: usize },
}

/// Where the lines of a trace go: whoever runs it has them even if it panics.
pub type Lines = Rc<RefCell<Vec<String>>>;

/// The hash of everything that has happened, and the lines of it if somebody wants to read them.
pub struct Trace {
    hash: u64,
    lines: Option<Lines>,
    buffer: String,
}

impl Trace {
    fn new(lines: Option<Lines>) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines, buffer: String::new() }
    }

    pub fn add(&mut self, now_us: u64, what: fmt::Arguments<'_>) {
        use fmt::Write as _;
        self.buffer.clear();
        write!(self.buffer, "{:>10.3} ms  {what}", now_us as f64 / 1000.0).expect("a string takes it");
        for byte in self.buffer.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if let Some(lines) = &self.lines {
            lines.borrow_mut().push(self.buffer.clone());
        }
    }
}

/// Adds a line to the trace.
macro_rules! note {
    ($world:expr, $($what:tt)*) => { $world.trace.add($world.now_us, format_args!($($what)*)) };
}
pub(crate) use note;

pub struct World {
    pub options: Options,
    pub now_us: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    planned: u64,
    /// Chance in what takes how long.
    pub chance: Random,
    pub network: Network,
    /// Losses of power that wait for their moment.
    pub ambushes: Vec<Ambush>,
    /// Pairs of hosts whose packets take long.
    pub slow_links: Vec<(Host, Host)>,
    pub servers: Vec<Server>,
    pub clients: Vec<Client>,
    pub checker: Checker,
    pub trace: Trace,
    /// Faults have ended for good.
    pub calm: bool,
    pub counts: Counts,
}

/// What a run came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub happenings: u64,
    pub crashes: u64,
    pub damages: u64,
    /// Logs of which some was converted.
    pub converts: u64,
    /// Starts that found the history damaged, and set it aside.
    pub set_aside: u64,
    /// Processes that ended because they were told to.
    pub stops: u64,
    pub elections: u64,
    /// By leaders to learners.
    pub snapshots_sent: u64,
    /// Of a learner's lack, from the log on disk.
    pub logs_sent: u64,
    pub replies: u64,
    pub committed: u64,
    /// Configurations that came into force.
    pub reconfigs: u64,
    pub simulated_ms: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.happenings += other.happenings;
        self.crashes += other.crashes;
        self.damages += other.damages;
        self.converts += other.converts;
        self.set_aside += other.set_aside;
        self.stops += other.stops;
        self.elections += other.elections;
        self.snapshots_sent += other.snapshots_sent;
        self.logs_sent += other.logs_sent;
        self.replies += other.replies;
        self.committed += other.committed;
        self.reconfigs += other.reconfigs;
        self.simulated_ms += other.simulated_ms;
    }
}

/// How a run ended.
pub struct Outcome {
    pub hash: u64,
    pub failure: Option<String>,
    pub counts: Counts,
}

/// Simulated time within which everybody must be served again after the last fault: several elections that fail, with the
/// longest pauses between them.
pub const RECOVERY_MS: u64 = 120_000;

/// Ends of sessions that are waited for, one after the other, before all servers must show the same.
const SETTLING_MAX: usize = 50;
/// More than this happens in no run that goes anywhere.
const HAPPENINGS_MAX: u64 = 20_000_000;

impl World {
    pub fn new(options: &Options, scratch: PathBuf, lines: Option<Lines>) -> World {
        let mut world = World {
            options: options.clone(),
            now_us: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            chance: Random::new(options.seed ^ 0x6368_616e_6365),
            network: Network::default(),
            ambushes: Vec::new(),
            slow_links: Vec::new(),
            servers: Vec::new(),
            clients: Vec::new(),
            checker: Checker::new(),
            trace: Trace::new(lines),
            calm: false,
            counts: Counts::default(),
        };
        for index in 0..options.servers() {
            world.servers.push(Server::new(index, options, scratch.join(format!("{}", index + 1))));
        }
        for index in 0..options.clients() as usize {
            world.clients.push(Client::new(index, options));
        }
        world
    }

    /// Lets everything happen, to the end.
    pub fn run(mut self) -> Outcome {
        self.plan_faults();
        for server in 0..self.servers.len() {
            let delay_us = self.chance.below(300_000) as u64;
            self.after(delay_us, Happening::Fault(Fault::Start(server)));
        }
        for client in 0..self.clients.len() {
            let delay_us = self.chance.below(2_000_000) as u64;
            self.after(delay_us, Happening::Client { client });
        }
        let faults_end_us = self.options.seconds() * 1_000_000;
        let deadline_us = faults_end_us + RECOVERY_MS * 1000;
        let mut served_since = None;
        while self.checker.violation.is_none() {
            let Some(((at, _), happening)) = self.agenda.pop_first() else { break };
            self.now_us = at;
            self.counts.happenings += 1;
            self.happen(happening);
            if !self.calm {
                continue;
            }
            // A while of peace, in which every client has had a reply to a write.
            let behind = self.clients.iter().any(|client| client.wrote_us <= faults_end_us);
            let served = self.members().keys().all(|server| self.servers[*server].serves()) && !behind;
            served_since = if served { served_since.or(Some(self.now_us)) } else { None };
            if served_since.is_some_and(|since| self.now_us > since + 500_000) {
                self.settle();
                break;
            }
            if self.now_us > deadline_us || self.counts.happenings > HAPPENINGS_MAX {
                self.complain_of_standstill();
            }
        }
        self.outcome()
    }

    /// Goes on for so long, or up to a violation.
    fn run_for(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while self.checker.violation.is_none()
            && let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= end_us
        {
            let ((at, _), happening) = entry.remove_entry();
            self.now_us = at;
            self.counts.happenings += 1;
            self.happen(happening);
        }
        self.now_us = self.now_us.max(end_us);
    }

    /// Clients fall silent; then all servers must have the same.
    fn settle(&mut self) {
        for client in &mut self.clients {
            client.silent = true;
        }
        let travel_us = 40 * self.options.delay_us() + 40 * self.options.flush_us();
        // Whose leader has lost power serves on until it has not heard of it for so long, and may be all that is left of its
        // epoch.
        let unnoticed_us = 2 * SYNC_LIMIT * self.options.tick_ms() * 1000;
        self.run_for(3_000_000 + travel_us + unnoticed_us);
        // A session that nobody took up again may expire at any time, and its end has to travel too.
        for _ in 0..SETTLING_MAX {
            let last = self.checker.last_committed();
            self.run_for(travel_us);
            if self.checker.last_committed() == last {
                break;
            }
        }
        let last = self.checker.last_committed();
        for server in self.members().into_keys() {
            let found = self.servers[server].shown;
            if self.servers[server].serves() && found != last && self.checker.violation.is_none() {
                let what = format!("server {} shows {found} long after {last} was committed", server + 1);
                self.checker.violated("Liveness", what);
            }
        }
    }

    /// Who belongs to the ensemble, and whether it has a vote: by the last configuration that was committed, or by a newer one
    /// that a leader has found in its dynamic files. That was proposed, and nobody has its transaction; as with Apache, the
    /// next leader puts it in force all the same.
    pub fn members(&self) -> BTreeMap<usize, bool> {
        let text = self.checker.model.now(ringkeeper::tree::CONFIG).and_then(|node| node.data.as_deref());
        let text = text.and_then(|text| std::str::from_utf8(text).ok()).filter(|text| !text.is_empty());
        let committed = text.and_then(|text| QuorumVerifier::parse(text).ok()).map(Arc::new);
        let processes = self.servers.iter().filter_map(|server| server.process.as_ref());
        let leaders = processes.filter(|process| process.serving == Some(Mode::Leading));
        let in_force = leaders.map(|process| Arc::clone(process.peer.view().current()));
        match committed.into_iter().chain(in_force).max_by_key(|config| config.version()) {
            Some(config) => config.members().map(|member| (member.id.0 as usize - 1, member.votes())).collect(),
            None => (0..self.servers.len()).map(|server| (server, (server as u64) < self.options.voters())).collect(),
        }
    }

    fn complain_of_standstill(&mut self) {
        let servers: Vec<String> = self.servers.iter().map(Server::describe).collect();
        let clients: Vec<String> = self.clients.iter().map(Client::describe).collect();
        let what = format!(
            "not everybody is served {RECOVERY_MS} ms after the last fault: {}; {}",
            servers.join(", "),
            clients.join(", ")
        );
        self.checker.violated("Liveness", what);
    }

    fn outcome(mut self) -> Outcome {
        self.counts.committed = self.checker.committed_count() as u64;
        self.counts.reconfigs = self.checker.model.states(ringkeeper::tree::CONFIG).saturating_sub(1) as u64;
        self.counts.simulated_ms = self.now_us / 1000;
        let failure = self.checker.violation.take().map(|violation| violation.0);
        if let Some(failure) = &failure {
            note!(self, "VIOLATION {failure}");
        }
        Outcome { hash: self.trace.hash, failure, counts: self.counts }
    }

    /// Plans something for later.
    pub fn after(&mut self, delay_us: u64, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.now_us + delay_us, self.planned), happening);
    }

    /// The server to whose process this happens, if that is stopped.
    fn paused(&self, happening: &Happening) -> Option<usize> {
        let server = match happening {
            Happening::Deliver(conn, side) => self.network.conns.get(conn)?.hosts[1 - side],
            Happening::Knock { server, .. } | Happening::Server { server, .. } => *server,
            Happening::Answered { of: Caller::Election { server, .. } | Caller::Learner { server, .. }, .. } => *server,
            _ => return None,
        };
        self.servers.get(server)?.paused.is_some().then_some(server)
    }

    fn happen(&mut self, happening: Happening) {
        if let Some(server) = self.paused(&happening) {
            return self.servers[server].paused.as_mut().expect("it is paused").push(happening);
        }
        match happening {
            Happening::Deliver(conn, side) => self.deliver(conn, side),
            Happening::Knock { from, of, server, port } => self.knock(from, of, server, port),
            Happening::Answered { of, server, conn, refused } => self.answered(of, server, conn, refused),
            Happening::Server { server, incarnation, wake } => self.wake_server(server, incarnation, wake),
            Happening::Client { client } => self.wake_client(client),
            Happening::Fault(fault) => self.strike(fault),
            Happening::Probe(conn) => self.probe(conn),
        }
    }

    /// How long a packet takes between two hosts.
    fn packet_us(&mut self, from: Host, to: Host) -> u64 {
        let usual = self.options.delay_us();
        let mut delay = usual / 2 + self.chance.below(usual as usize + 1) as u64;
        if self.chance.chance(2) {
            delay += self.chance.below(10 * usual as usize + 1) as u64;
        }
        if self.slow_links.contains(&(from, to)) || self.slow_links.contains(&(to, from)) {
            delay += 100_000 + self.chance.below(400_000) as u64;
        }
        delay
    }

    /// Sends over a connection, from that side.
    pub fn send(&mut self, conn: ConnId, side: usize, bytes: Vec<u8>) {
        // TCP keeps no boundaries.
        if bytes.len() > 1 && self.chance.chance(10) {
            let at = 1 + self.chance.below(bytes.len() - 1);
            let (head, tail) = bytes.split_at(at);
            self.send_piece(conn, side, Piece::Bytes(head.to_vec()));
            return self.send_piece(conn, side, Piece::Bytes(tail.to_vec()));
        }
        self.send_piece(conn, side, Piece::Bytes(bytes));
    }

    fn send_piece(&mut self, conn: ConnId, side: usize, piece: Piece) {
        let Some(found) = self.network.conns.get(&conn) else { return };
        let (from, to) = (found.hosts[side], found.hosts[1 - side]);
        let at = self.now_us + self.packet_us(from, to);
        if let Some(at) = self.network.send(conn, side, piece, at) {
            self.after(at - self.now_us, Happening::Deliver(conn, side));
        }
    }

    /// Closes one end. What was sent before still arrives.
    pub fn close(&mut self, conn: ConnId, side: usize) {
        if let Some(found) = self.network.conns.get_mut(&conn) {
            found.ends[side] = End::Gone;
            self.send_piece(conn, side, Piece::End);
        }
    }

    fn deliver(&mut self, conn: ConnId, side: usize) {
        let (piece, next) = self.network.take(conn, side, self.now_us);
        if let Some(next) = next {
            self.after(next - self.now_us, Happening::Deliver(conn, side));
        }
        let Some(piece) = piece else { return };
        let end = self.network.conns[&conn].ends[1 - side];
        match piece {
            // The host knows nothing of such a connection.
            Piece::Bytes(_) if end == End::Gone => self.send_piece(conn, 1 - side, Piece::End),
            Piece::Bytes(bytes) => self.received(end, conn, &bytes),
            Piece::End => {
                self.ended(end, conn, "the other end closed it");
                self.close(conn, 1 - side);
            }
        }
        self.network.forget_ended(conn);
    }

    fn received(&mut self, end: End, conn: ConnId, bytes: &[u8]) {
        match end {
            End::Gone => {}
            End::Client(client) => self.client_received(client, conn, bytes),
            End::Shard { server, shard, cnxn } => self.shard_received(server, shard, cnxn, bytes),
            End::Learner { server, link } => self.link_received(server, link, bytes),
            End::Election { server, wire } => self.wire_received(server, wire, bytes),
        }
    }

    fn ended(&mut self, end: End, conn: ConnId, why: &str) {
        if let Some(found) = self.network.conns.get_mut(&conn) {
            for held in &mut found.ends {
                if *held == end {
                    *held = End::Gone;
                }
            }
        }
        match end {
            End::Gone => {}
            End::Client(client) => self.client_disconnected(client, conn),
            End::Shard { server, shard, cnxn } => self.shard_disconnected(server, shard, cnxn),
            End::Learner { server, link } => self.link_ended(server, link, why),
            End::Election { server, wire } => self.wire_ended(server, wire, why),
        }
    }

    /// Asks for a connection. An answer comes, sooner or later.
    pub fn knock_at(&mut self, from: Host, of: Caller, server: usize, port: Port) {
        let delay = self.packet_us(from, server);
        self.after(delay, Happening::Knock { from, of, server, port });
    }

    fn knock(&mut self, from: Host, of: Caller, server: usize, port: Port) {
        let patience_us = match port {
            // `cnxTimeout`.
            Port::Election => 5_000_000,
            Port::Learner(_) => 2_000_000,
            Port::Client => 1_000_000,
        };
        if self.network.is_blocked(from, server) || self.network.is_blocked(server, from) {
            let answer = Happening::Answered { of, server, conn: None, refused: false };
            return self.after(patience_us, answer);
        }
        let delay = self.packet_us(server, from);
        if !self.servers[server].listens(port) {
            let answer = Happening::Answered { of, server, conn: None, refused: true };
            return self.after(delay, answer);
        }
        let conn = self.network.open([from, server], [End::Gone; 2], port == Port::Election);
        let end = match port {
            Port::Client => self.accept_client(server, conn),
            Port::Election => self.accept_wire(server, conn),
            Port::Learner(_) => self.accept_link(server, conn),
        };
        if let Some(found) = self.network.conns.get_mut(&conn) {
            found.ends[1] = end;
        }
        self.accepted(end);
        self.after(delay, Happening::Answered { of, server, conn: Some(conn), refused: false });
    }

    fn answered(&mut self, of: Caller, server: usize, conn: Option<ConnId>, refused: bool) {
        let conn = conn.filter(|conn| self.network.conns.contains_key(conn));
        if let Some(conn) = conn.filter(|conn| self.network.answered(*conn)) {
            self.after(0, Happening::Deliver(conn, 1));
        }
        match of {
            Caller::Client { client, attempt } => self.client_answered(client, attempt, conn),
            // Whoever asked has ended, and its kernel wants nothing of it.
            Caller::Election { server: me, incarnation } | Caller::Learner { server: me, incarnation, .. }
                if self.servers[me].incarnation != incarnation || self.servers[me].process.is_none() =>
            {
                if let Some(conn) = conn {
                    self.close(conn, 0);
                }
            }
            Caller::Election { server: me, .. } => self.wire_answered(me, server, conn, refused),
            Caller::Learner { server: me, at, attempt, .. } => self.link_answered(me, at, attempt, server, conn),
        }
    }

    /// A cut, or a host that is down: the kernel gives probed connections up after a while.
    pub fn expect_probes(&mut self) {
        let probed: Vec<ConnId> = self
            .network
            .conns
            .iter()
            .filter(|(_, conn)| conn.probed && self.network.is_blocked(conn.hosts[0], conn.hosts[1]))
            .map(|(id, _)| *id)
            .collect();
        for conn in probed {
            self.after(9_000_000, Happening::Probe(conn));
        }
    }

    fn probe(&mut self, conn: ConnId) {
        let Some(found) = self.network.conns.get(&conn) else { return };
        let (hosts, ends) = (found.hosts, found.ends);
        if self.network.is_blocked(hosts[0], hosts[1]) || self.network.is_blocked(hosts[1], hosts[0]) {
            for end in ends {
                self.ended(end, conn, "it does not answer");
            }
        }
    }

    /// What was held up goes on.
    pub fn release_held_up(&mut self) {
        for (conn, side) in self.network.held_up() {
            let delay = self.chance.below(1_000_000) as u64;
            self.after(delay, Happening::Deliver(conn, side));
        }
    }

    /// All connections of a server's processes end: by their kernel, or without a word.
    pub fn end_connections(&mut self, server: usize, says_so: bool) {
        let mut held = Vec::new();
        for (id, conn) in &mut self.network.conns {
            for side in 0..2 {
                if conn.ends[side].is_of(server) {
                    conn.ends[side] = End::Gone;
                    held.push((*id, side));
                }
            }
        }
        for (conn, side) in held {
            if says_so {
                self.send_piece(conn, side, Piece::End);
            } else if let Some(found) = self.network.conns.get_mut(&conn) {
                // What was under way may be lost, from some piece on.
                let queue = &mut found.pipes[side].queue;
                let kept = self.chance.below(queue.len() + 1);
                queue.truncate(kept);
            }
        }
    }

    /// The host of a client.
    pub fn client_host(client: usize) -> Host {
        CLIENT_HOSTS + client
    }
}
