//! The driver of the learner port, at both ends: a leader's links to its learners, and a learner's to its leader; and of
//! what an ensemble's server does with its disk beyond the log.
//!
//! It carries out the effects of the server's `Peer`, in order, and hands it back what happens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_lite::io::{ReadHalf, WriteHalf, split};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};
use glommio::task::JoinHandle;

use super::blocking;
use super::broadcast::Broadcast;
use super::client_port::ClientPort;
use super::listener;
use super::mesh::Queue;
use super::peers::Order;
use super::upkeep::Upkeep;
use crate::proto::quorum::{HandOver, Packet, PacketKind};
use crate::server::config::dynamic::DynamicFiles;
use crate::server::config::{Config, EnsembleConfig};
use crate::storage::catch_up::{CatchUp, PIECE_BYTES};
use crate::storage::epoch;
use crate::storage::error::StorageError;
use crate::storage::recovery::{self, Recovery};
use crate::storage::snapshot_format::{Decoder, Encoder, Form, SnapshotSource};
use crate::tree::DataTree;
use crate::types::{ServerId, Zxid};
use crate::zab::effect::{Effect, Epochs, LinkId, MasterPort, Mode, StoredDiff};
use crate::zab::peer::Event;
use crate::zab::quorum::{Host, HostPort, PeerAddress, QuorumView};

/// Bytes that wait to be sent over one link; a learner that is further behind is given up.
pub const LINK_BYTES_MAX: usize = 256 << 20;
/// What is sent, and asked for, at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// What is longer is not copied to be sent with what stands beside it.
const SHORT_BYTES_MAX: usize = 16 << 10;
/// How often a leader that refuses the connection is tried again, and how long to wait before each time: it opens its
/// port only when it knows that it leads.
const DIAL_PAUSES_MS: [u64; 9] = [5, 10, 20, 40, 80, 100, 100, 100, 100];
/// For an observer master fewer suffice: there are others.
const MASTER_TRIES: usize = 3;
/// Pause before a server tries again to listen: a leader for learners, at a name that is not known, a follower for observers.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);
/// How long a server that stops waits for the other ends to take what was sent last.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);
/// While the learner's disk is at work, its link is looked at this often.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// See the module.
pub struct LearnerPort {
    broadcast: Rc<Broadcast>,
    upkeep: Rc<Upkeep>,
    my_id: ServerId,
    /// Where this server listens while it leads, unless the configuration in force says otherwise.
    addresses: Vec<HostPort>,
    listen_on_all_ips: bool,
    /// `observerMasterPort`, if it is set.
    observer_master_port: Option<u16>,
    to_election: Rc<Queue<Order>>,
    dynamic_files: DynamicFiles,
    /// To be made durable, one after the other.
    configs: Queue<QuorumView>,
    client_port: ClientPort,
    snapshot_dir: PathBuf,
    log_dir: PathBuf,
    /// Longest payload of a packet.
    packet_bytes_max: usize,
    links: RefCell<BTreeMap<LinkId, Rc<Link>>>,
    next_link: Cell<LinkId>,
    /// Links over which something may still be sent, closed ones included.
    sending: Cell<usize>,
    accepting: RefCell<Vec<JoinHandle<()>>>,
}

/// What is to be sent over one link.
#[derive(Default)]
struct Link {
    out: Queue<Outgoing>,
    bytes: Cell<usize>,
    /// Either side has ended it: what of the log was still to be sent may be gone.
    ended: Cell<bool>,
}

/// Why nothing more is sent over a link.
enum Unsent {
    /// It is broken, or closed: the reading side says why.
    Gone,
    /// The log up to this transaction could not be read.
    Unread(Zxid, String),
}

impl From<io::Error> for Unsent {
    fn from(_: io::Error) -> Unsent {
        Unsent::Gone
    }
}

enum Outgoing {
    Bytes(Bytes),
    Snapshot(Box<SnapshotSource>),
    Log(StoredDiff),
    End,
}

impl LearnerPort {
    /// The learner port of the server that `broadcast` drives.
    pub fn new(
        broadcast: Rc<Broadcast>,
        upkeep: Rc<Upkeep>,
        ensemble: &EnsembleConfig,
        to_election: Rc<Queue<Order>>,
        config: &Config,
    ) -> LearnerPort {
        LearnerPort {
            broadcast,
            upkeep,
            my_id: ensemble.my_id,
            addresses: ensemble.me().addresses.iter().map(PeerAddress::quorum).collect(),
            listen_on_all_ips: ensemble.listen_on_all_ips,
            observer_master_port: ensemble.observer_master_port,
            to_election,
            dynamic_files: DynamicFiles::new(&config.path, ensemble.my_id),
            configs: Queue::default(),
            client_port: ClientPort::new(ensemble, config),
            snapshot_dir: config.snapshot_dir(),
            log_dir: config.log_dir(),
            // A transaction may be a little larger than the request that it was made of.
            packet_bytes_max: 2 * config.max_buffer_bytes as usize,
            links: RefCell::default(),
            next_link: Cell::new(0),
            sending: Cell::new(0),
            accepting: RefCell::default(),
        }
    }

    /// Carries out effects as they come, for ever.
    pub async fn run(self: Rc<Self>) {
        glommio::spawn_local(Rc::clone(&self).keep_configs()).detach();
        let effects = Rc::clone(self.broadcast.effects());
        loop {
            let effect = effects.next().await;
            self.carry_out(effect);
        }
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        let port = Rc::clone(self);
        match effect {
            Effect::Send(link, bytes) => self.send(link, Outgoing::Bytes(bytes)),
            Effect::SendSnapshot(link, source) => self.send(link, Outgoing::Snapshot(source)),
            Effect::SendLog(link, diff) => {
                if self.links.borrow().contains_key(&link) {
                    self.upkeep.keep_log(link, diff.after);
                    self.send(link, Outgoing::Log(diff));
                }
            }
            Effect::Close(link, why) => self.close(link, &why),
            Effect::SaveEpochs(epochs) => {
                glommio::spawn_local(async move { port.save_epochs(epochs).await }).detach();
            }
            Effect::Truncate(zxid) => {
                glommio::spawn_local(async move { port.reload(Some(zxid)).await }).detach();
            }
            Effect::Reload => {
                glommio::spawn_local(async move { port.reload(None).await }).detach();
            }
            Effect::Install(source) => {
                glommio::spawn_local(async move { port.install(*source).await }).detach();
            }
            Effect::Look(standing) => {
                let (last_zxid, current_epoch) = (standing.zxid, standing.epoch.0.into());
                self.to_election.push(Order::Look { last_zxid, current_epoch });
            }
            Effect::Appoint { leader, zxid } => self.to_election.push(Order::Appointed { leader, zxid }),
            Effect::Configure(view) => {
                self.to_election.push(Order::View(view.clone()));
                self.configs.push(view);
            }
            Effect::Succeed(HandOver { successor, supporters }, zxid) => {
                self.to_election.push(Order::Succeed { leader: successor, zxid, supporters });
            }
            Effect::Leave => {
                glommio::spawn_local(async move { port.leave().await }).detach();
            }
            Effect::Dial(master, at) => {
                glommio::spawn_local(async move { port.dial(master, at).await }).detach();
            }
            Effect::Listen(at) => {
                let mut addresses = self.addresses_of(self.my_id, at);
                if self.listen_on_all_ips {
                    addresses.iter_mut().for_each(|address| address.host = Host::new("0.0.0.0"));
                }
                addresses.sort();
                addresses.dedup();
                for address in addresses {
                    let port = Rc::clone(&port);
                    let accepting = glommio::spawn_local(async move { port.accept(address, at).await }).detach();
                    self.accepting.borrow_mut().push(accepting);
                }
            }
            Effect::Unlisten => {
                for accepting in self.accepting.take() {
                    accepting.cancel();
                }
            }
            Effect::Serve(mode, _, epoch) => {
                tracing::info!("{} in epoch {epoch}: clients are served", mode_name(mode));
                self.to_election.push(Order::Established { epoch: epoch.0.into() });
            }
            // The client shards know it already.
            Effect::ServeReadOnly(_) | Effect::Unserve => {}
        }
    }

    fn send(&self, link: LinkId, outgoing: Outgoing) {
        let Some(found) = self.links.borrow().get(&link).cloned() else { return };
        let bytes = if let Outgoing::Bytes(bytes) = &outgoing { bytes.len() } else { 0 };
        found.bytes.set(found.bytes.get() + bytes);
        if found.bytes.get() > LINK_BYTES_MAX {
            let why = format!("more than {LINK_BYTES_MAX} bytes wait to be sent to it");
            self.close(link, &why);
            let broadcast = Rc::clone(&self.broadcast);
            // Not from within what the server has just decided.
            glommio::spawn_local(async move { broadcast.happened([Event::LinkLost(link, why)]) }).detach();
            return;
        }
        found.out.push(outgoing);
    }

    /// What a learner was promised from the log cannot be read. It comes again, and gets something else.
    fn log_is_unread(&self, link: LinkId, through: Zxid, why: &str) {
        tracing::error!(
            "The log up to {through} cannot be sent to a learner: {why}. It gets a snapshot instead, and so does each that \
             asks for any of this again"
        );
        self.upkeep.needs_log_no_more(link);
        self.upkeep.distrust_log(through);
        if self.links.borrow_mut().remove(&link).is_some() {
            self.broadcast.happened([Event::LinkLost(link, "the log cannot be read for it".to_owned())]);
        }
    }

    /// Ends a link when what was sent is out. Nothing more of it is told.
    fn close(&self, link: LinkId, why: &str) {
        if let Some(found) = self.links.borrow_mut().remove(&link) {
            tracing::info!("Closing link {link}: {why}");
            found.ended.set(true);
            self.upkeep.needs_log_no_more(link);
            found.out.push(Outgoing::End);
        }
    }

    async fn keep_configs(self: Rc<Self>) {
        loop {
            let view = self.configs.next().await;
            let files = self.dynamic_files.clone();
            let me = view.current().member(self.my_id).cloned();
            let (current, pending) = (view.current().version(), view.pending().map(|pending| pending.version()));
            tracing::info!("The ensemble's configuration is version {current:x}, proposed: {pending:x?}");
            if let Err(error) = blocking(move || files.keep(&view)).await {
                tracing::error!(
                    "The ensemble's configuration, version {current:x}, could not be written down: {error}. It is in \
                     force, but a restart begins with the one before. Let the server write to that directory"
                );
            }
            self.broadcast.happened([Event::Configured]);
            if let Some(me) = me {
                self.client_port.follow(me.client, &self.broadcast).await;
            }
        }
    }

    /// Lets the last words out, and takes no more part in elections.
    async fn leave(self: Rc<Self>) {
        let since = Instant::now();
        while self.sending.get() > 0 && since.elapsed() < LAST_WORDS_PATIENCE {
            glommio::timer::sleep(BUSY_PAUSE).await;
        }
        self.to_election.push(Order::Leave);
        self.broadcast.happened([Event::Left]);
    }

    async fn save_epochs(self: Rc<Self>, epochs: Epochs) {
        let dir = self.snapshot_dir.clone();
        match blocking(move || epoch::save(&dir, epochs)).await {
            Ok(()) => self.broadcast.happened([Event::EpochsSaved]),
            Err(error) => self.broadcast.fail(format!("the epochs {epochs:?} could not be saved: {error}")),
        }
    }

    /// Reads the state back from disk; up to a transaction, which then is the last there is.
    async fn reload(self: Rc<Self>, until: Option<Zxid>) {
        let (snapshots, logs) = (self.snapshot_dir.clone(), self.log_dir.clone());
        let options = recovery::Options { until, ..recovery::Options::default() };
        let recovered = blocking(move || recovery::recover(&snapshots, &logs, &options)).await;
        let data_tree = match (recovered, until) {
            (Ok(Recovery { data_tree, .. }), None) => data_tree,
            (Ok(Recovery { data_tree, .. }), Some(zxid)) if data_tree.tree().zxid() == zxid => {
                tracing::info!("Truncating log to get in sync with the leader {zxid}");
                let source = self.upkeep.source_of(&data_tree);
                if let Err(error) = self.upkeep.replace(source).await {
                    return self.broadcast.fail(format!("the log could not be cut after {zxid}: {error}"));
                }
                data_tree
            }
            (Ok(Recovery { data_tree, .. }), Some(zxid)) => {
                let found = data_tree.tree().zxid();
                return self
                    .start_over(format!("the leader knows {zxid}, but here {found} is the nearest before it"))
                    .await;
            }
            (Err(error), _) => return self.start_over(error.to_string()).await,
        };
        self.broadcast.happened([Event::Reloaded(Box::new(data_tree))]);
    }

    /// What is on disk is of no use: the server goes on with nothing, and without a vote until it has a leader's state.
    async fn start_over(self: Rc<Self>, why: String) {
        match self.upkeep.set_aside().await {
            Ok(aside) => {
                tracing::error!(
                    "The history on disk cannot be used: {why}. It is set aside in {}, and the whole state comes from \
                     the leader; until then this server does not vote",
                    aside.display()
                );
                self.broadcast.happened([Event::HistoryLost]);
            }
            Err(error) => self.broadcast.fail(format!("{why}; and it could not be set aside: {error}")),
        }
    }

    async fn install(self: Rc<Self>, source: SnapshotSource) {
        let zxid = source.tree.zxid();
        match self.upkeep.replace(source).await {
            Ok(()) => self.broadcast.happened([Event::Installed]),
            Err(error) => {
                self.broadcast.fail(format!("the leader's state at {zxid} could not be made durable: {error}"))
            }
        }
    }

    /// Where a server has a port for learners: this one at its own line, if the configuration in force has none.
    fn addresses_of(&self, server: ServerId, at: MasterPort) -> Vec<HostPort> {
        let mut addresses = self.broadcast.learner_addresses(server);
        if addresses.is_empty() && server == self.my_id {
            addresses.clone_from(&self.addresses);
        }
        if let (MasterPort::ObserverMaster, Some(port)) = (at, self.observer_master_port) {
            addresses.iter_mut().for_each(|address| address.port = port);
        }
        addresses
    }

    async fn dial(self: Rc<Self>, master: ServerId, at: MasterPort) {
        let tries = if at == MasterPort::Quorum { DIAL_PAUSES_MS.len() } else { MASTER_TRIES - 1 };
        let mut pauses = DIAL_PAUSES_MS[..tries].iter();
        let event = loop {
            match self.connect(master, at).await {
                Ok(stream) => {
                    let link = self.begin(stream);
                    break Event::LeaderConnected(link);
                }
                Err(error) => match pauses.next() {
                    Some(pause) => glommio::timer::sleep(Duration::from_millis(*pause)).await,
                    None => {
                        break Event::LeaderUnreachable(format!("server {master} cannot be connected to: {error}"));
                    }
                },
            }
        };
        self.broadcast.happened([event]);
    }

    async fn connect(&self, master: ServerId, at: MasterPort) -> io::Result<TcpStream> {
        let addresses = self.addresses_of(master, at);
        // Each attempt asks for the names anew. One that is not known does not keep from the other addresses.
        let look_up = move || {
            let (mut found, mut unknown) = (Vec::new(), None);
            for address in addresses {
                match (address.host.as_str(), address.port).to_socket_addrs() {
                    Ok(addrs) => found.extend(addrs),
                    Err(error) => unknown = Some(io::Error::other(format!("{address}: {error}"))),
                }
            }
            (found, unknown)
        };
        let (found, unknown) = blocking(look_up).await;
        let mut last = unknown.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        for addr in found {
            match TcpStream::connect_timeout(addr, Duration::from_secs(2)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = io::Error::other(format!("{addr}: {error}")),
            }
        }
        Err(last)
    }

    async fn accept(self: Rc<Self>, address: HostPort, at: MasterPort) {
        let mut told = false;
        let listener: TcpListener = loop {
            let HostPort { host, port } = address.clone();
            let look_up = move || (host.as_str(), port).to_socket_addrs().map(|mut addrs| addrs.next());
            let error = match blocking(look_up).await {
                Ok(Some(addr)) => match blocking(move || listener::open(addr, None)).await {
                    Ok(socket) => break listener::adopt(socket),
                    Err(error) if at == MasterPort::Quorum => {
                        return self.broadcast.fail(format!("cannot listen for learners on {address}: {error}"));
                    }
                    Err(error) => error,
                },
                Ok(None) => io::Error::new(io::ErrorKind::NotFound, "it has no address"),
                Err(error) => error,
            };
            // A name may be known in a moment; and observers have other servers to go to.
            if !std::mem::replace(&mut told, true) {
                let (whom, until) = match at {
                    MasterPort::Quorum => ("learners", "until then nobody can follow this server"),
                    MasterPort::ObserverMaster => {
                        ("observers (observerMasterPort)", "until then they learn from other followers")
                    }
                };
                tracing::error!(
                    "Cannot listen for {whom} on {address}: {error}. It is tried again each second; {until}"
                );
            }
            glommio::timer::sleep(LISTEN_PAUSE).await;
        };
        if at == MasterPort::ObserverMaster {
            tracing::info!("Starting ObserverMaster on {address}");
        }
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let link = self.begin(stream);
                    self.broadcast.happened([Event::LearnerConnected(link)]);
                }
                Err(error) => {
                    tracing::warn!("Error accepting a learner's connection: {error}");
                    glommio::timer::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Takes up a connection. What comes over it is told only after the caller has told of the link.
    fn begin(self: &Rc<Self>, stream: TcpStream) -> LinkId {
        let id = self.next_link.get();
        self.next_link.set(id + 1);
        drop(stream.set_nodelay(true));
        let remote = stream.peer_addr().map_or_else(|error| error.to_string(), |addr| addr.to_string());
        self.broadcast.learner_connected(id, remote);
        let link = Rc::new(Link::default());
        self.links.borrow_mut().insert(id, Rc::clone(&link));
        let (read, write) = split(stream);
        let port = Rc::clone(self);
        self.sending.set(self.sending.get() + 1);
        glommio::spawn_local(async move {
            if let Err(Unsent::Unread(through, why)) = write_all(id, link, write, &port).await {
                port.log_is_unread(id, through, &why);
            }
            port.sending.set(port.sending.get() - 1);
        })
        .detach();
        let port = Rc::clone(self);
        glommio::spawn_local(async move {
            let error = port.read(id, read).await;
            port.broadcast.learner_gone(id);
            // Not if it was closed by this side.
            if let Some(link) = port.links.borrow_mut().remove(&id) {
                link.ended.set(true);
                port.upkeep.needs_log_no_more(id);
                link.out.push(Outgoing::End);
            } else {
                return;
            }
            port.broadcast.happened([Event::LinkLost(id, error.to_string())]);
        })
        .detach();
        id
    }

    /// Reads a link to its end, and returns what ended it.
    async fn read(&self, id: LinkId, mut stream: ReadHalf<TcpStream>) -> io::Error {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut bytes = BytesMut::new();
        loop {
            if !self.links.borrow().contains_key(&id) {
                return io::Error::other("closed");
            }
            let mut events = Vec::new();
            let mut snapshot = None;
            let parsed = loop {
                match Packet::parse(&mut bytes, self.packet_bytes_max) {
                    Ok(Some(packet)) => {
                        let zxid = packet.zxid;
                        let is_snapshot = packet.kind == PacketKind::Snap;
                        events.push(Event::Packet(id, packet));
                        if is_snapshot {
                            snapshot = Some(zxid);
                            break Ok(());
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(io::Error::other(format!("what it sends is no packet: {error}"))),
                }
            };
            if !events.is_empty() {
                self.broadcast.happened(events);
            }
            if let Err(error) = parsed {
                return error;
            }
            if let Some(zxid) = snapshot {
                match read_snapshot(&mut stream, &mut chunk, &mut bytes, zxid).await {
                    Ok(data_tree) => self.broadcast.happened([Event::SnapshotReceived(id, Box::new(data_tree))]),
                    Err(error) => return error,
                }
                continue;
            }
            while self.broadcast.is_busy() {
                glommio::timer::sleep(BUSY_PAUSE).await;
            }
            if let Err(error) = fill(&mut stream, &mut chunk, &mut bytes).await {
                return error;
            }
        }
    }
}

/// Reads once more, through `chunk`: packets share the memory of `bytes` for as long as they are kept, so none of it is for
/// what did not come.
async fn fill(stream: &mut ReadHalf<TcpStream>, chunk: &mut [u8], bytes: &mut BytesMut) -> io::Result<()> {
    match stream.read(chunk).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed it")),
        got => {
            bytes.extend_from_slice(&chunk[..got]);
            Ok(())
        }
    }
}

/// Reads the raw stream behind a SNAP.
async fn read_snapshot(
    stream: &mut ReadHalf<TcpStream>,
    chunk: &mut [u8],
    bytes: &mut BytesMut,
    zxid: Zxid,
) -> io::Result<DataTree> {
    let unreadable = |error: &dyn std::fmt::Display| io::Error::other(format!("the snapshot cannot be read: {error}"));
    tracing::info!("Getting a snapshot from leader {zxid}");
    let mut decoder = Decoder::new(Form::Stream, zxid);
    loop {
        let consumed = decoder.feed(bytes).map_err(|error| unreadable(&error))?;
        bytes.advance(consumed);
        if decoder.stream_ended() {
            let decoded = decoder.finish(&[]).map_err(|error| unreadable(&error))?;
            return Ok(decoded.data_tree);
        }
        fill(stream, chunk, bytes).await?;
    }
}

/// Sends what is queued, until the end. What is short is sent together; proposals, which all links share, as they are.
async fn write_all(
    id: LinkId,
    link: Rc<Link>,
    mut stream: WriteHalf<TcpStream>,
    port: &LearnerPort,
) -> Result<(), Unsent> {
    let mut chunk = Vec::new();
    loop {
        let mut next = Some(link.out.next().await);
        chunk.clear();
        while let Some(Outgoing::Bytes(bytes)) = &next {
            if bytes.len() > SHORT_BYTES_MAX {
                break;
            }
            link.bytes.set(link.bytes.get() - bytes.len());
            chunk.extend_from_slice(bytes);
            next = if chunk.len() < CHUNK_BYTES { link.out.pop() } else { None };
        }
        stream.write_all(&chunk).await?;
        match next {
            Some(Outgoing::Snapshot(source)) => {
                let mut encoder = Encoder::new(&source, Form::Stream);
                while encoder.next_chunk(&mut chunk) {
                    stream.write_all(&chunk).await?;
                }
            }
            Some(Outgoing::Log(diff)) => {
                let sent = send_log(&link, &mut stream, &port.log_dir, diff).await;
                port.upkeep.needs_log_no_more(id);
                if let Err(unsent) = sent {
                    // What is queued behind it must not come without it.
                    drop(stream.close().await);
                    return Err(unsent);
                }
            }
            Some(Outgoing::End) => {
                drop(stream.close().await);
                return Ok(());
            }
            Some(Outgoing::Bytes(bytes)) => {
                link.bytes.set(link.bytes.get() - bytes.len());
                stream.write_all(&bytes).await?;
            }
            None => {}
        }
    }
}

/// Sends transactions from the log on disk, a piece at a time: the next is read when the one before was taken.
async fn send_log(
    link: &Link,
    stream: &mut WriteHalf<TcpStream>,
    log_dir: &Path,
    diff: StoredDiff,
) -> Result<(), Unsent> {
    let StoredDiff { packet, after, through } = diff;
    let unread = |error: StorageError| match link.ended.get() {
        true => Unsent::Gone,
        false => Unsent::Unread(through, error.to_string()),
    };
    let dir = log_dir.to_owned();
    let mut catch_up = blocking(move || CatchUp::open(&dir, after, through)).await.map_err(unread)?;
    stream.write_all(&packet).await?;
    let mut piece = Vec::with_capacity(2 * PIECE_BYTES);
    let mut more = true;
    while more && !link.ended.get() {
        let read = move || {
            piece.clear();
            let more = catch_up.next_piece(&mut piece);
            (catch_up, piece, more)
        };
        let result;
        (catch_up, piece, result) = blocking(read).await;
        stream.write_all(&piece).await?;
        more = result.map_err(unread)?;
    }
    if more { Err(Unsent::Gone) } else { Ok(()) }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Leading => "LEADING",
        Mode::Following => "FOLLOWING",
        Mode::Observing => "OBSERVING",
        Mode::ReadOnly => "LOOKING",
    }
}
