//! The driver of elections: sockets of election ports to [`Links`] and [`Election`], and back.
//!
//! ```text
//! sockets <--frames--> Links <--notifications--> Election <--orders, reports--> the role that this server plays
//! ```
//!
//! [`Peers::start`] sets it going on the executor that it is called on. From then on it is told by [`Order`]s what the
//! server does and tells by [`Report`]s whom it elected; [`crate::zab::election`] says in which order. It never waits for
//! anybody: a peer that is slow, silent or malformed holds up itself alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::{TcpListener, TcpStream};

use super::clock::Clock;
use super::listener;
use super::mesh::{Notify, Queue};
use crate::proto::election::{FRAME_BYTES_MAX, Hello};
use crate::proto::frame;
use crate::server::config::EnsembleConfig;
use crate::types::{Instant, ServerId, Zxid};
use crate::zab::election::{self, Elected, Election};
use crate::zab::links::{self, LinkId, Links};
use crate::zab::quorum::{Host, HostPort, Member, PeerAddress, QuorumVerifier, QuorumView};

/// A connection is read from in steps of this size.
const READ_BYTES: usize = 16 << 10;
/// Frames of one connection that are worked off before others get their turn.
const FRAMES_PER_TURN_MAX: usize = 16;
/// Addresses of one name that are tried.
const ADDRESSES_PER_NAME_MAX: usize = 4;
/// Time between two attempts to bind the election port.
const BIND_RETRY: Duration = Duration::from_secs(1);
/// Attempts to bind the election port where the server has moved to, if there is no limit at a start.
const TRIES_WHILE_RUNNING: u32 = 10;
/// Rest after the system refused to accept a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// What the election is told. See [`election::Event`], which has the same.
#[derive(Clone, Debug)]
pub enum Order {
    /// Look for a leader, with what is on disk.
    Look {
        /// Zxid of the last logged transaction; -1 not to vote.
        last_zxid: Zxid,
        /// The current epoch.
        current_epoch: i64,
    },
    /// The leader is established.
    Established {
        /// Its epoch.
        epoch: i64,
    },
    /// A reconfiguration names the leader.
    Appointed {
        /// The leader.
        leader: ServerId,
        /// Zxid of the reconfiguration.
        zxid: Zxid,
    },
    /// The leader stops and has named the next one; answered as [`Order::Look`] is.
    Succeed {
        /// The server that is to lead.
        leader: ServerId,
        /// The last transaction here.
        zxid: Zxid,
        /// Participants that were told the same.
        supporters: BTreeSet<ServerId>,
    },
    /// Another configuration is in force or was proposed.
    View(QuorumView),
    /// The server stops: it gives its election port up, so that others see at once that no vote is to come from here.
    Leave,
}

impl Order {
    /// What it is to the election; nothing if it is none of its business.
    fn into_event(self) -> Option<election::Event> {
        Some(match self {
            Order::Look { last_zxid, current_epoch } => election::Event::Look { last_zxid, current_epoch },
            Order::Established { epoch } => election::Event::Established { epoch },
            Order::Appointed { leader, zxid } => election::Event::Appointed { leader, zxid },
            Order::Succeed { leader, zxid, supporters } => election::Event::Succeed { leader, zxid, supporters },
            Order::View(view) => election::Event::View(view),
            Order::Leave => return None,
        })
    }
}

/// What the election tells. See [`election::Effect`], which has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The election that was ordered is over.
    Elected(Elected),
    /// A newer configuration was learned and is in force; it is to be kept.
    Adopt(QuorumVerifier),
    /// This server leads, and that participant looks for another leader.
    VoterLooks(ServerId),
}

/// The election port cannot be had.
#[derive(Debug)]
pub struct BindError {
    /// The address, as configured.
    pub address: HostPort,
    /// How often it was tried.
    pub tries: u32,
    /// Why not.
    pub source: io::Error,
}

impl BindError {
    /// Exit code of a process that stops for this: Apache's.
    pub const EXIT_CODE: u8 = 14;
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { address, tries, source } = self;
        write!(f, "cannot listen on the election port {address}: {source}")?;
        if *tries > 1 {
            write!(f, " (tried {tries} times)")?;
        }
        Ok(())
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Takes the election port, on all addresses of this server or on every interface. Blocks, up to seconds.
///
/// Errors: the port is in use or the name does not resolve, after as many attempts as are configured.
pub fn bind(ensemble: &EnsembleConfig) -> Result<Sockets, BindError> {
    let addresses = addresses(ensemble.me(), ensemble.listen_on_all_ips);
    let bind = |address: HostPort| bind_with_patience(address, ensemble.my_id, ensemble.port_bind_tries);
    addresses.into_iter().map(bind).collect()
}

/// The election port's sockets, by what they are bound to.
pub type Sockets = BTreeMap<HostPort, OwnedFd>;

/// What the server listens at for votes.
fn addresses(me: &Member, all_interfaces: bool) -> BTreeSet<HostPort> {
    let on_all = |address: HostPort| HostPort { host: Host::new("0.0.0.0"), ..address };
    let addresses = me.addresses.iter().map(PeerAddress::election);
    addresses.map(|address| if all_interfaces { on_all(address) } else { address }).collect()
}

fn bind_with_patience(
    address: HostPort,
    id: ServerId,
    tries_max: Option<u32>,
) -> Result<(HostPort, OwnedFd), BindError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_one(&address) {
            Ok((socket, addr)) => {
                tracing::info!("{id} is accepting connections now, my election bind port: {addr}");
                return Ok((address, socket));
            }
            Err(source) if tries_max.is_some_and(|max| tries >= max) => {
                return Err(BindError { address, tries, source });
            }
            Err(source) => tracing::warn!("Exception while listening to address {address}: {source}"),
        }
        std::thread::sleep(BIND_RETRY);
    }
}

fn bind_one(address: &HostPort) -> io::Result<(OwnedFd, SocketAddr)> {
    let candidates = if address.host.is_wildcard() {
        vec![SocketAddr::from(([0u16; 8], address.port)), SocketAddr::from(([0u8; 4], address.port))]
    } else {
        (address.host.as_str(), address.port).to_socket_addrs()?.collect()
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in candidates {
        match listener::open(addr, None) {
            Ok(socket) => return Ok((socket, addr)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Elections, on one executor.
pub struct Peers {
    election: RefCell<Election>,
    links: RefCell<Links>,
    wires: RefCell<BTreeMap<LinkId, Rc<Wire>>>,
    next_link: Cell<u64>,
    connect_timeout: Duration,
    my_id: ServerId,
    listen_on_all_ips: bool,
    port_bind_tries: Option<u32>,
    /// What connections are accepted at; a flag that is set ends that with the next connection.
    accepting: RefCell<BTreeMap<HostPort, Rc<Cell<bool>>>>,
    reports: Rc<Queue<Report>>,
    clock: Clock,
    /// Something happened that may have changed when a clock is to ring.
    rearm: Notify,
    /// [`Order::Leave`] has come: nothing is done any more.
    left: Cell<bool>,
}

/// What is to be written to a socket, and whether it is to be closed then.
#[derive(Default)]
struct Wire {
    output: RefCell<Vec<u8>>,
    closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wire {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// One of the two state machines' events.
enum Input {
    Election(election::Event),
    Links(links::Event),
}

impl Peers {
    /// Sets elections going on this executor: they accept from `sockets` (see [`bind`]), obey `orders` and answer in
    /// `reports`. Nothing happens before the first order, which is [`Order::Look`]. Names are looked up on the executor's
    /// helper threads, one for each peer at a time; there should be as many.
    pub fn start(
        ensemble: &EnsembleConfig,
        reconfig_enabled: bool,
        sockets: Sockets,
        orders: Rc<Queue<Order>>,
        reports: Rc<Queue<Report>>,
        clock: Clock,
    ) -> Rc<Peers> {
        let (my_id, view) = (ensemble.my_id, &ensemble.view);
        let hello_timeout_ms = ensemble.hello_timeout.as_millis() as u64;
        let peers = Rc::new(Peers {
            election: RefCell::new(Election::new(my_id, view.clone(), ensemble.election, reconfig_enabled)),
            links: RefCell::new(Links::new(my_id, view.clone(), ensemble.multi_address, hello_timeout_ms)),
            wires: RefCell::default(),
            next_link: Cell::new(0),
            connect_timeout: ensemble.connect_timeout,
            my_id,
            listen_on_all_ips: ensemble.listen_on_all_ips,
            port_bind_tries: ensemble.port_bind_tries,
            accepting: RefCell::default(),
            reports,
            clock,
            rearm: Notify::default(),
            left: Cell::new(false),
        });
        glommio::spawn_local(Rc::clone(&peers).obey(sockets, orders)).detach();
        peers
    }

    async fn obey(self: Rc<Self>, sockets: Sockets, orders: Rc<Queue<Order>>) {
        // Before the first order there is nothing to vote with, and nobody is answered.
        self.take(orders.next().await);
        sockets.into_iter().for_each(|(address, socket)| self.listen(address, socket));
        glommio::spawn_local(Rc::clone(&self).ring()).detach();
        while !self.left.get() {
            self.take(orders.next().await);
        }
        let accepting = std::mem::take(&mut *self.accepting.borrow_mut());
        self.close(accepting).await;
        for wire in self.wires.take().into_values() {
            wire.closing.set(true);
            wire.wake();
        }
    }

    fn take(self: &Rc<Self>, order: Order) {
        if let Order::View(view) = &order
            && view.current().version() >= self.election.borrow().view().current().version()
        {
            self.drive(Input::Links(links::Event::View(view.clone())));
            self.follow_own_port(view);
        }
        match order.into_event() {
            Some(event) => self.drive(Input::Election(event)),
            None => self.left.set(true),
        }
    }

    fn listen(self: &Rc<Self>, address: HostPort, socket: OwnedFd) {
        let moved = Rc::new(Cell::new(false));
        glommio::spawn_local(Rc::clone(self).accept(listener::adopt(socket), Rc::clone(&moved))).detach();
        self.accepting.borrow_mut().insert(address, moved);
    }

    /// Moves the election port to where a configuration has it. Connections stay, and so does a port in whose place no other
    /// can be had.
    fn follow_own_port(self: &Rc<Self>, view: &QuorumView) {
        let Some(me) = view.current().member(self.my_id) else { return };
        let wanted = addresses(me, self.listen_on_all_ips);
        let missing: Vec<HostPort> =
            wanted.iter().filter(|address| !self.accepting.borrow().contains_key(*address)).cloned().collect();
        if missing.is_empty() || self.accepting.borrow().is_empty() {
            return;
        }
        let peers = Rc::clone(self);
        glommio::spawn_local(async move {
            for address in missing {
                // For ever would be too long for one of the helper threads.
                let (id, tries) = (peers.my_id, peers.port_bind_tries.unwrap_or(TRIES_WHILE_RUNNING));
                let bind = move || bind_with_patience(address, id, Some(tries));
                match glommio::executor().spawn_blocking(bind).await {
                    Ok((address, socket)) => peers.listen(address, socket),
                    Err(error) => return tracing::error!("{error}. The election port stays where it was"),
                }
            }
            let before = std::mem::take(&mut *peers.accepting.borrow_mut());
            let (stay, go) = before.into_iter().partition(|(address, _)| wanted.contains(address));
            *peers.accepting.borrow_mut() = stay;
            peers.close(go).await;
        })
        .detach();
    }

    /// Accepts no connections there any more.
    async fn close(&self, ports: BTreeMap<HostPort, Rc<Cell<bool>>>) {
        for (address, moved) in ports {
            moved.set(true);
            // Wakes the task that waits there.
            for addr in look_up(&address).await.into_iter().flatten() {
                drop(TcpStream::connect_timeout(addr, self.connect_timeout).await);
            }
        }
    }

    async fn accept(self: Rc<Self>, listener: TcpListener, moved: Rc<Cell<bool>>) {
        loop {
            match listener.accept().await {
                _ if moved.get() => return,
                Ok(stream) => {
                    if let Ok(peer) = stream.peer_addr() {
                        tracing::info!("Received connection request from {peer}");
                    }
                    let link = self.new_link();
                    self.serve(link, stream, true);
                    self.drive(Input::Links(links::Event::Accepted { link }));
                }
                Err(error) => {
                    tracing::warn!("Error accepting a connection to the election port: {error}");
                    glommio::timer::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Rings the clocks of the state machines.
    async fn ring(self: Rc<Self>) {
        while !self.left.get() {
            let now = self.clock.now();
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let (election, links) = (self.election.borrow().wake_at(), self.links.borrow().wake_at());
            if due(election) {
                self.drive(Input::Election(election::Event::Timer));
            }
            if due(links) {
                self.drive(Input::Links(links::Event::Timer));
            }
            if due(election) || due(links) {
                continue;
            }
            let rearmed = self.rearm.notified();
            match election.into_iter().chain(links).min() {
                Some(at) => {
                    let wait = Duration::from_millis(at.since_ms(now));
                    future::or(rearmed, glommio::timer::sleep(wait)).await;
                }
                None => rearmed.await,
            }
        }
    }

    /// Hands an event over and carries out what comes of it, to the last.
    fn drive(self: &Rc<Self>, first: Input) {
        if self.left.get() {
            return;
        }
        let now = self.clock.now();
        let mut inputs = VecDeque::from([first]);
        while let Some(input) = inputs.pop_front() {
            match input {
                Input::Election(event) => {
                    let mut effects = Vec::new();
                    self.election.borrow_mut().handle(now, event, &mut effects);
                    for effect in effects {
                        self.act_for_election(effect, &mut inputs);
                    }
                }
                Input::Links(event) => {
                    let mut effects = Vec::new();
                    self.links.borrow_mut().handle(now, event, &mut effects);
                    for effect in effects {
                        self.act_for_links(effect, &mut inputs);
                    }
                }
            }
        }
        self.rearm.notify();
    }

    fn act_for_election(&self, effect: election::Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            election::Effect::Send { to, notification } => {
                inputs.push_back(Input::Links(links::Event::Send { to, notification }));
            }
            election::Effect::Elected(elected) => {
                inputs.push_back(Input::Links(links::Event::Settled));
                tracing::info!("{} - LEADER ELECTION TOOK - {} MS", elected.state, elected.took_ms);
                self.reports.push(Report::Elected(elected));
            }
            election::Effect::Adopt(verifier) => {
                let view = self.election.borrow().view().clone();
                inputs.push_back(Input::Links(links::Event::View(view)));
                self.reports.push(Report::Adopt(verifier));
            }
            election::Effect::VoterLooks(voter) => self.reports.push(Report::VoterLooks(voter)),
        }
    }

    fn act_for_links(self: &Rc<Self>, effect: links::Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            links::Effect::Dial { peer, addresses } => {
                glommio::spawn_local(Rc::clone(self).dial(peer, addresses)).detach();
            }
            links::Effect::Write { link, bytes } => {
                if let Some(wire) = self.wires.borrow().get(&link) {
                    wire.output.borrow_mut().extend_from_slice(&bytes);
                    wire.wake();
                }
            }
            links::Effect::Close { link } => {
                if let Some(wire) = self.wires.borrow_mut().remove(&link) {
                    wire.closing.set(true);
                    wire.wake();
                }
            }
            links::Effect::Up(peer) => inputs.push_back(Input::Election(election::Event::LinkUp(peer))),
            links::Effect::Refused(peer) => inputs.push_back(Input::Election(election::Event::Refused(peer))),
            links::Effect::Received { from, notification } => {
                inputs.push_back(Input::Election(election::Event::Received { from, notification }));
            }
        }
    }

    fn new_link(&self) -> LinkId {
        self.next_link.set(self.next_link.get() + 1);
        LinkId(self.next_link.get())
    }

    /// Connects to the first address that answers.
    async fn dial(self: Rc<Self>, peer: ServerId, addresses: Vec<HostPort>) {
        let mut refused = true;
        let mut failures = Vec::new();
        for address in addresses {
            let found = match look_up(&address).await {
                Ok(found) => found,
                Err(error) => {
                    refused = false;
                    failures.push(format!("{address}: {error}"));
                    continue;
                }
            };
            for addr in found.into_iter().take(ADDRESSES_PER_NAME_MAX) {
                match TcpStream::connect_timeout(addr, self.connect_timeout).await.map_err(io::Error::from) {
                    Ok(stream) => {
                        let link = self.new_link();
                        self.serve(link, stream, false);
                        return self.drive(Input::Links(links::Event::Dialled { peer, link }));
                    }
                    Err(error) => {
                        refused &= error.kind() == io::ErrorKind::ConnectionRefused;
                        failures.push(format!("{address} ({}): {error}", addr.ip()));
                    }
                }
            }
        }
        let why = failures.join("; ");
        self.drive(Input::Links(links::Event::DialFailed { peer, refused, why }));
    }

    /// Serves a socket in a task of its own, to its end.
    fn serve(self: &Rc<Self>, link: LinkId, mut stream: TcpStream, greets: bool) {
        if self.left.get() {
            return;
        }
        if let Err(error) = listener::keep_alive(&stream) {
            tracing::warn!("Cannot set options of a connection between servers: {error}");
        }
        let wire = Rc::new(Wire::default());
        self.wires.borrow_mut().insert(link, Rc::clone(&wire));
        let peers = Rc::clone(self);
        glommio::spawn_local(async move {
            let mut conversation = Conversation { greets, ..Conversation::default() };
            let end = poll_fn(|cx| conversation.turn(&peers, link, &wire, &mut stream, cx)).await;
            drop(stream.shutdown(std::net::Shutdown::Write).await);
            peers.wires.borrow_mut().remove(&link);
            if let Err(error) = end {
                let why = error.to_string();
                peers.drive(Input::Links(links::Event::Closed { link, why }));
            }
        })
        .detach();
    }
}

/// The addresses of a host, looked up off this shard if it is a name.
async fn look_up(address: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let port = address.port;
    if let Ok(ip) = address.host.as_str().parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let host = address.host.as_str().to_owned();
    let look_up = move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
    super::blocking(look_up).await
}

/// What is in the air between a socket and the state machines.
#[derive(Default)]
struct Conversation {
    /// Whether the other end is still to say who it is.
    greets: bool,
    input: BytesMut,
    output: Vec<u8>,
    sent: usize,
}

impl Conversation {
    /// Writes, reads and works off until the socket has no more to give or to take. Ready without an error when it was
    /// closed from here.
    fn turn(
        &mut self,
        peers: &Rc<Peers>,
        link: LinkId,
        wire: &Wire,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        *wire.waker.borrow_mut() = Some(cx.waker().clone());
        loop {
            let written = self.write(wire, stream, cx)?;
            if wire.closing.get() {
                // What the socket does not take at once is not waited for.
                return Poll::Ready(Ok(()));
            }
            if let Written::All = written {
                peers.drive(Input::Links(links::Event::Written { link }));
                continue;
            }
            for _ in 0..FRAMES_PER_TURN_MAX {
                match self.next_event(link)? {
                    Some(event) => peers.drive(Input::Links(event)),
                    None if self.read(stream, cx)?.is_pending() => {
                        // What was just worked off may have left output.
                        if wire.closing.get() || !wire.output.borrow().is_empty() {
                            cx.waker().wake_by_ref();
                        }
                        return Poll::Pending;
                    }
                    None => {}
                }
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }

    fn write(&mut self, wire: &Wire, stream: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<Written> {
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, &mut wire.output.borrow_mut());
        }
        if self.output.is_empty() {
            return Ok(Written::Nothing);
        }
        loop {
            match Pin::new(&mut *stream).poll_write(cx, &self.output[self.sent..])? {
                Poll::Ready(written) => self.sent += written,
                Poll::Pending => return Ok(Written::Blocked),
            }
            if self.sent < self.output.len() {
                continue;
            }
            self.output.clear();
            self.sent = 0;
            if wire.output.borrow().is_empty() {
                return Ok(Written::All);
            }
            std::mem::swap(&mut self.output, &mut wire.output.borrow_mut());
        }
    }

    /// The next whole message of what was read. Errors if the bytes cannot be one.
    fn next_event(&mut self, link: LinkId) -> io::Result<Option<links::Event>> {
        let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if self.greets {
            let Some((hello, len)) = Hello::decode(&self.input).map_err(|error| malformed(error.to_string()))? else {
                return Ok(None);
            };
            self.input.advance(len);
            self.greets = false;
            return Ok(Some(links::Event::Hello { link, hello }));
        }
        match frame::next(&mut self.input, FRAME_BYTES_MAX) {
            frame::Next::Need(_) => Ok(None),
            frame::Next::Frame(payload) if payload.is_empty() => Err(malformed("a frame of 0 bytes".to_owned())),
            frame::Next::Frame(payload) => Ok(Some(links::Event::Frame { link, payload: payload.to_vec() })),
            frame::Next::BadLength(length) => Err(malformed(format!("Received packet with invalid packet: {length}"))),
        }
    }

    /// Reads once. The end of the stream is an error.
    fn read(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let have = self.input.len();
        self.input.resize(have + READ_BYTES, 0);
        let polled = Pin::new(&mut *stream).poll_read(cx, &mut self.input[have..]);
        let got = if let Poll::Ready(Ok(got)) = &polled { *got } else { 0 };
        self.input.truncate(have + got);
        match polled {
            Poll::Pending => {
                if self.input.is_empty() {
                    // An idle connection keeps no buffer.
                    self.input = BytesMut::new();
                }
                Ok(Poll::Pending)
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(0)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed it")),
            Poll::Ready(Ok(_)) => Ok(Poll::Ready(())),
        }
    }
}

/// How far a socket's output got.
enum Written {
    /// There was none.
    Nothing,
    All,
    Blocked,
}
