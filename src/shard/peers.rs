//! The driver of the election port: sockets to [`Links`], what comes over them to [`Election`], and its result to the
//! server.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures_lite::io::{ReadHalf, WriteHalf, split};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};

use super::broadcast::Broadcast;
use super::clock::Clock;
use super::learner_port::ToElection;
use super::listener;
use super::mesh::{Notify, Queue};
use crate::proto::election::{FRAME_BYTES_MAX, Hello};
use crate::server::config::EnsembleConfig;
use crate::types::{Instant, ServerId};
use crate::zab::election::{self, Election};
use crate::zab::links::{self, LinkId, Links};
use crate::zab::peer;
use crate::zab::quorum::{HostPort, PeerAddress};

const READ_BYTES: usize = 16 << 10;

/// What is to be written to one socket; `None` is its end.
type Outbox = Queue<Option<Vec<u8>>>;

/// See the module.
pub struct Peers {
    broadcast: Rc<Broadcast>,
    clock: Clock,
    election: RefCell<Election>,
    links: RefCell<Links>,
    sockets: RefCell<BTreeMap<LinkId, Rc<Outbox>>>,
    next_link: Cell<u64>,
    connect_timeout: Duration,
    addresses: Vec<HostPort>,
    listen_on_all_ips: bool,
    /// Told when the next wake-up may have moved.
    changed: Notify,
}

impl Peers {
    /// The election port of the server that `broadcast` drives.
    pub fn new(broadcast: Rc<Broadcast>, clock: Clock, ensemble: &EnsembleConfig, reconfig_enabled: bool) -> Peers {
        let view = ensemble.view.clone();
        let election = Election::new(ensemble.my_id, view.clone(), ensemble.election, reconfig_enabled);
        let hello_timeout_ms = ensemble.hello_timeout.as_millis() as u64;
        Peers {
            broadcast,
            clock,
            election: RefCell::new(election),
            links: RefCell::new(Links::new(ensemble.my_id, view, ensemble.multi_address, hello_timeout_ms)),
            sockets: RefCell::default(),
            next_link: Cell::new(0),
            connect_timeout: ensemble.connect_timeout,
            addresses: ensemble.me().addresses.iter().map(PeerAddress::election).collect(),
            listen_on_all_ips: ensemble.listen_on_all_ips,
            changed: Notify::default(),
        }
    }

    /// Takes part in elections, for ever.
    pub fn start(self: &Rc<Self>, from_server: Rc<Queue<ToElection>>) {
        let peers = Rc::clone(self);
        glommio::spawn_local(async move {
            // Nothing is answered before there is something to vote with.
            peers.told(from_server.next().await);
            for address in peers.addresses.clone() {
                let peers = Rc::clone(&peers);
                glommio::spawn_local(async move { peers.accept(address).await }).detach();
            }
            let timekeeper = Rc::clone(&peers);
            glommio::spawn_local(async move { timekeeper.keep_time().await }).detach();
            loop {
                peers.told(from_server.next().await);
            }
        })
        .detach();
    }

    fn told(self: &Rc<Self>, by_server: ToElection) {
        self.elect(match by_server {
            ToElection::Look(standing) => {
                election::Event::Look { last_zxid: standing.zxid, current_epoch: standing.epoch.0.into() }
            }
            ToElection::Established(epoch) => election::Event::Established { epoch: epoch.0.into() },
        });
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn elect(self: &Rc<Self>, event: election::Event) {
        let mut effects = Vec::new();
        self.election.borrow_mut().handle(self.now(), event, &mut effects);
        for effect in effects {
            match effect {
                election::Effect::Send { to, notification } => self.link(links::Event::Send { to, notification }),
                election::Effect::Elected(elected) => {
                    let election::Elected { state, vote, took_ms, supporters } = elected;
                    tracing::info!("{} - LEADER ELECTION TOOK - {took_ms} MS", state.word());
                    self.link(links::Event::Settled);
                    self.tell(peer::Event::Elected(vote.leader, supporters));
                }
                election::Effect::VoterLooks(id) => self.tell(peer::Event::VoterLooks(id)),
                election::Effect::Adopt(_) => {}
            }
        }
        self.changed.notify();
    }

    /// Not from within what the server has just decided.
    fn tell(&self, event: peer::Event) {
        let broadcast = Rc::clone(&self.broadcast);
        glommio::spawn_local(async move { broadcast.happened([event]) }).detach();
    }

    fn link(self: &Rc<Self>, event: links::Event) {
        let mut effects = Vec::new();
        self.links.borrow_mut().handle(self.now(), event, &mut effects);
        for effect in effects {
            match effect {
                links::Effect::Dial { peer, addresses } => {
                    let peers = Rc::clone(self);
                    glommio::spawn_local(async move { peers.dial(peer, addresses).await }).detach();
                }
                links::Effect::Write { link, bytes } => {
                    if let Some(socket) = self.sockets.borrow().get(&link) {
                        socket.push(Some(bytes));
                    }
                }
                links::Effect::Close { link } => {
                    if let Some(socket) = self.sockets.borrow_mut().remove(&link) {
                        socket.push(None);
                    }
                }
                links::Effect::Up(id) => self.elect(election::Event::LinkUp(id)),
                links::Effect::Refused(id) => self.elect(election::Event::Refused(id)),
                links::Effect::Received { from, notification } => {
                    self.elect(election::Event::Received { from, notification });
                }
            }
        }
        self.changed.notify();
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            let due = [self.election.borrow().wake_at(), self.links.borrow().wake_at()];
            let Some(due) = due.into_iter().flatten().min() else {
                self.changed.notified().await;
                continue;
            };
            let wait = Duration::from_millis(due.since_ms(self.now()));
            let slept = async {
                glommio::timer::sleep(wait).await;
                true
            };
            let changed = async {
                self.changed.notified().await;
                false
            };
            if !futures_lite::future::or(slept, changed).await {
                continue;
            }
            let now = self.now();
            if self.election.borrow().wake_at().is_some_and(|at| at <= now) {
                self.elect(election::Event::Timer);
            }
            if self.links.borrow().wake_at().is_some_and(|at| at <= now) {
                self.link(links::Event::Timer);
            }
        }
    }

    async fn dial(self: Rc<Self>, peer: ServerId, addresses: Vec<HostPort>) {
        let mut refused = true;
        let mut why = String::from("it has no address");
        for address in addresses {
            let text = address.to_string();
            let resolve = move || -> io::Result<Vec<SocketAddr>> {
                Ok((address.host.as_str(), address.port).to_socket_addrs()?.collect())
            };
            let found = match glommio::executor().spawn_blocking(resolve).await {
                Ok(found) => found,
                Err(error) => {
                    (refused, why) = (false, format!("{text}: {error}"));
                    continue;
                }
            };
            for addr in found {
                match TcpStream::connect_timeout(addr, self.connect_timeout).await {
                    Ok(stream) => {
                        let link = self.begin(stream, true);
                        return self.link(links::Event::Dialled { peer, link });
                    }
                    Err(error) => {
                        let error = io::Error::from(error);
                        refused &= error.kind() == io::ErrorKind::ConnectionRefused;
                        why = format!("{text}: {error}");
                    }
                }
            }
        }
        self.link(links::Event::DialFailed { peer, refused, why });
    }

    async fn accept(self: Rc<Self>, address: HostPort) {
        let all = self.listen_on_all_ips;
        let text = address.to_string();
        let open = move || {
            let host = if all { "0.0.0.0" } else { address.host.as_str() };
            let mut addrs = (host, address.port).to_socket_addrs()?;
            let addr = addrs.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))?;
            listener::open(addr, None)
        };
        let listener: TcpListener = match glommio::executor().spawn_blocking(open).await {
            Ok(socket) => listener::adopt(socket),
            Err(error) => return self.broadcast.fail(format!("cannot listen for elections on {text}: {error}")),
        };
        tracing::info!("My election bind port: {text}");
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let link = self.begin(stream, false);
                    self.link(links::Event::Accepted { link });
                }
                Err(error) => {
                    tracing::warn!("Error accepting an election connection: {error}");
                    glommio::timer::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, stream: TcpStream, greeted: bool) -> LinkId {
        let id = LinkId(self.next_link.get());
        self.next_link.set(id.0 + 1);
        drop(stream.set_nodelay(true));
        let queue = Rc::new(Queue::default());
        self.sockets.borrow_mut().insert(id, Rc::clone(&queue));
        let (read, write) = split(stream);
        let peers = Rc::clone(self);
        glommio::spawn_local(async move { peers.write(id, write, queue).await }).detach();
        let peers = Rc::clone(self);
        glommio::spawn_local(async move {
            let error = peers.read(id, read, greeted).await;
            if let Some(queue) = peers.sockets.borrow_mut().remove(&id) {
                queue.push(None);
            } else {
                return;
            }
            peers.link(links::Event::Closed { link: id, why: error.to_string() });
        })
        .detach();
        id
    }

    async fn write(self: Rc<Self>, id: LinkId, mut stream: WriteHalf<TcpStream>, queue: Rc<Outbox>) {
        while let Some(bytes) = queue.next().await {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            if self.sockets.borrow().contains_key(&id) {
                self.link(links::Event::Written { link: id });
            }
        }
        drop(stream.close().await);
    }

    async fn read(self: &Rc<Self>, id: LinkId, mut stream: ReadHalf<TcpStream>, mut greeted: bool) -> io::Error {
        let mut bytes = BytesMut::new();
        loop {
            if !self.sockets.borrow().contains_key(&id) {
                return io::Error::other("closed");
            }
            if !greeted {
                match Hello::decode(&bytes) {
                    Ok(Some((hello, len))) => {
                        bytes.advance(len);
                        greeted = true;
                        self.link(links::Event::Hello { link: id, hello });
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => return io::Error::other(format!("its hello cannot be read: {error}")),
                }
            } else if let Some(head) = bytes.first_chunk::<4>() {
                let len = i32::from_be_bytes(*head);
                if len <= 0 || len as usize > FRAME_BYTES_MAX {
                    return io::Error::other(format!("a message of {len} bytes"));
                }
                if bytes.len() >= 4 + len as usize {
                    bytes.advance(4);
                    let payload = bytes.split_to(len as usize).to_vec();
                    self.link(links::Event::Frame { link: id, payload });
                    continue;
                }
            }
            let have = bytes.len();
            bytes.resize(have + READ_BYTES, 0);
            let got = stream.read(&mut bytes[have..]).await;
            bytes.truncate(have + got.as_ref().map_or(0, |got| *got));
            match got {
                Ok(0) => return io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed it"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}
