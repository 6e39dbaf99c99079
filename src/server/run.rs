//! Assembly: a configuration becomes running shards, and a signal or a failure their end.

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{self, AtomicBool};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use glommio::channels::shared_channel::{self, SharedReceiver, SharedSender};
use glommio::net::AcceptedTcpStream;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use rustix::fs::{FlockOperation, flock};

use super::admin::{Admin, Shared};
use super::config::{self, ClientAddr, Config, EnsembleConfig, FlushEngine};
use super::metrics::LogMetrics;
use super::placement::{self, Plan};
use super::{http, limits};
use crate::cnxn::{Cnxns, FourLetter, RequestThrottle, Settings};
use crate::proto::election::ServerState;
use crate::request::pipeline::{Ask, Pipeline};
use crate::request::prepare::Rules;
use crate::session::{self, Sessions};
use crate::shard::broadcast::{Broadcast, Downlink, Engine};
use crate::shard::clients::{self, ClientShard, ToClients};
use crate::shard::clock::Clock;
use crate::shard::closing::{self, Closing};
use crate::shard::disk::Disk;
use crate::shard::learner_port::LearnerPort;
use crate::shard::listener;
use crate::shard::mesh::{self, Queue};
use crate::shard::peers::{self, Peers, Report};
use crate::shard::stalls;
use crate::shard::upkeep::Upkeep;
use crate::storage::epoch;
use crate::storage::error::StorageError;
use crate::storage::log::Log;
use crate::storage::recovery::{self, Recovery};
use crate::storage::replace;
use crate::tree::{DataTree, Tree};
use crate::types::Zxid;
use crate::zab::effect;
use crate::zab::masters::Observing;
use crate::zab::peer::{self, Peer};

/// Why a server does not start, or stopped by itself.
#[derive(Debug)]
pub enum RunError {
    /// A core was asked for that there is not.
    Placement(placement::PlacementError),
    /// A data directory cannot be used.
    Start(config::StartError),
    /// The client port cannot be had.
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The election port cannot be had.
    Elections(peers::BindError),
    /// Another process uses the data directory.
    Locked(std::path::PathBuf),
    /// What is on disk cannot be used.
    Storage(StorageError),
    /// The kernel gives no io_uring, or too little of it.
    Ring(String),
    /// The AdminServer was asked for and cannot be had.
    Admin(String),
    /// The server stopped because it could not go on safely.
    Fatal(String),
}

impl RunError {
    /// The exit code, Apache's where it has one.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Placement(_) => 2,
            RunError::Start(_) => config::StartError::EXIT_CODE,
            RunError::Elections(_) => peers::BindError::EXIT_CODE,
            RunError::Admin(_) => ADMIN_EXIT_CODE,
            _ => 1,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Placement(error) => write!(f, "{error}"),
            RunError::Start(error) => write!(f, "{error}"),
            RunError::Bind { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            RunError::Elections(error) => write!(f, "{error}"),
            RunError::Locked(dir) => {
                write!(f, "{} is in use by another ringkeeper process: stop that one first", dir.display())
            }
            RunError::Storage(error) => write!(f, "{error}"),
            RunError::Ring(what) => write!(f, "{what}"),
            RunError::Admin(what) => write!(f, "Unable to start AdminServer, exiting abnormally: {what}"),
            RunError::Fatal(what) => write!(f, "Severe unrecoverable error, exiting: {what}"),
        }
    }
}

/// Exit code of a standalone server without its AdminServer, as Apache's is.
const ADMIN_EXIT_CODE: u8 = 4;
/// A scraper that asks nothing for so long is no scraper any more.
const METRICS_IDLE: Duration = Duration::from_secs(30);
/// io_uring buffers of one shard, for flushes; larger flushes use other memory.
const RING_BUFFER_BYTES: usize = 4 << 20;
/// Requests that a shard's ring holds at once.
const RING_DEPTH: usize = 1024;
/// Flushes under way at a time while a crowd writes: two keep the device busy, more only grow its queue.
const FLUSHES_IN_FLIGHT: usize = 2;
/// Helper threads of the ordering shard: one makes segments, one writes a snapshot, one is for the rest.
const HELPER_THREADS: usize = 3;

/// Runs a server until it is told to stop. Returns in good order, or with the reason why not. It is `serving` once it
/// listens to `stop`; before that, the process may just end.
pub fn run(
    config: &Config,
    stop: &mpsc::Receiver<Stop>,
    stopper: &mpsc::Sender<Stop>,
    serving: &AtomicBool,
) -> Result<(), RunError> {
    let cores = config::allowed_cores().map_err(|error| RunError::Ring(error.to_string()))?;
    let plan = placement::plan(&cores, &config.overrides()).map_err(RunError::Placement)?;
    tracing::info!("{plan}");
    config::check_data_dirs(config).map_err(RunError::Start)?;
    check_ring()?;
    let open_files_max = limits::raise_open_files_max();
    tracing::debug!("{open_files_max} files may be open");
    let clock = Clock::start();
    let metrics = Arc::new(LogMetrics::default());
    let shared = Arc::new(Shared::new(config, plan.clients.len(), Arc::clone(&metrics)));
    let sockets = Sockets {
        clients: bind(config)?,
        elections: config
            .ensemble
            .as_ref()
            .map(peers::bind)
            .transpose()
            .map_err(RunError::Elections)?
            .unwrap_or_default(),
    };
    config::create_data_dirs(config).map_err(RunError::Start)?;
    let _lock = lock(config)?;
    if let Err(error) = config::dynamic::back_up(config) {
        tracing::warn!("zoo.cfg could not be backed up: {error}. A reconfiguration cannot be written down here either");
    }
    // Before anything is loaded, so that it can be asked meanwhile how far the server is.
    serve_http(config, &shared, clock)?;
    if !config.log.force_sync {
        tracing::warn!(
            "forceSync=no: writes are acknowledged before they are durable. A loss of power loses acknowledged writes, \
             and with them locks and leaderships that clients believe they hold"
        );
    }
    // On a thread of its own, whose end gives back what the allocator held for the work of loading.
    let recovery = std::thread::scope(|scope| {
        scope.spawn(|| recover(config)).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let recovery = recovery.map_err(RunError::Storage)?;
    metrics.loaded(recovery.took);
    let parts = Parts { clock, metrics, shared };
    serving.store(true, atomic::Ordering::Release);
    serve(config, &plan, sockets, recovery, parts, (stop, stopper))
}

/// What all shards have in common.
struct Parts {
    clock: Clock,
    metrics: Arc<LogMetrics>,
    shared: Arc<Shared>,
}

/// Takes the ports of the AdminServer and of Prometheus, and answers there from here on.
fn serve_http(config: &Config, shared: &Arc<Shared>, clock: Clock) -> Result<(), RunError> {
    let mut ports = Vec::new();
    if let Some(admin) = &config.admin_server {
        let (shared, place) = (Arc::clone(shared), admin.command_url.clone());
        let handler = Arc::new(move |asked: http::Asked| shared.answer_http(&place, clock.now(), clock.wall(), &asked));
        let place = |port: u16| format!("{}, port {port} and command URL {}", host(&admin.addr), admin.command_url);
        match http::Port::bind(&admin.addr.bind_candidates(), admin.idle_timeout, handler) {
            Ok(bound) => {
                tracing::info!("Started AdminServer on address {}", place(bound.number()));
                ports.push(bound);
            }
            // Who did not ask for it shall not lose a server by it, and an ensemble goes on in any case, as with Apache.
            Err(error) if config.ensemble.is_some() || !admin.asked_for => {
                tracing::warn!("Problem starting AdminServer on address {}: {error}", place(admin.addr.port));
            }
            Err(error) => {
                let place = place(admin.addr.port);
                return Err(RunError::Admin(format!("Problem starting AdminServer on address {place}: {error}")));
            }
        }
    }
    if let Some(metrics) = &config.metrics_port {
        let (shared, of_process) = (Arc::clone(shared), metrics.of_process);
        let tell = move |wanted| shared.metrics(wanted, of_process);
        let handler = Arc::new(move |asked: http::Asked| http::Answer::metrics(&asked, &tell));
        let addresses = metrics.addr.bind_candidates();
        let bound = http::Port::bind(&addresses, METRICS_IDLE, handler)
            .map_err(|source| RunError::Bind { addr: addresses[0], source })?;
        tracing::info!(
            "Starting /metrics HTTP endpoint at host: {}, port: {}, exportJvmInfo: {of_process}",
            host(&metrics.addr),
            bound.number()
        );
        ports.push(bound);
    }
    http::serve(ports).map_err(|error| RunError::Admin(format!("no thread for HTTP: {error}")))
}

/// As Apache's log lines have it.
fn host(addr: &ClientAddr) -> String {
    addr.ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string())
}

/// Reads back what is on disk. What is damaged is set aside if there are other servers to have it from.
fn recover(config: &Config) -> Result<Recovery, StorageError> {
    let (snapshots, logs) = (config.snapshot_dir(), config.log_dir());
    let keep_history = config.ensemble.as_ref().map(|ensemble| ensemble.history);
    let options =
        recovery::Options { trust_empty: config.snapshot.trust_empty, keep_history, ..recovery::Options::default() };
    match recovery::recover(&snapshots, &logs, &options) {
        Err(error) if config.ensemble.is_some() && error.is_damage() => {
            let aside = replace::set_aside(&snapshots, &logs)?;
            tracing::error!(
                "{error}. What is on disk is set aside in {}, and the whole state comes from the leader; until then this \
                 server does not vote",
                aside.display()
            );
            recovery::recover(&snapshots, &logs, &options)
        }
        recovered => recovered,
    }
}

/// The ports that a server takes before it touches anything on disk.
struct Sockets {
    clients: Option<OwnedFd>,
    elections: peers::Sockets,
}

/// Why a running server ends.
#[derive(Debug)]
pub enum Stop {
    /// It was asked to.
    Signal(i32),
    /// It must.
    Fatal(String),
}

/// Finds out whether the kernel lets this process have a ring, and says what to change if not.
fn check_ring() -> Result<(), RunError> {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let disabled = disabled.trim().parse::<u32>().unwrap_or(0);
    let root = rustix::process::geteuid().is_root();
    if disabled == 2 || (disabled == 1 && !root) {
        return Err(RunError::Ring(format!(
            "io_uring is switched off on this machine (kernel.io_uring_disabled = {disabled}). \
             Switch it on with: sysctl -w kernel.io_uring_disabled=0"
        )));
    }
    match LocalExecutorBuilder::new(Placement::Unbound).ring_depth(8).io_memory(4096).make() {
        Ok(_) => Ok(()),
        Err(error) => Err(RunError::Ring(ring_error(&error.to_string()))),
    }
}

fn ring_error(error: &str) -> String {
    let advice = if error.contains("memlock") {
        "Raise the limit with: ulimit -l 65536, or LimitMEMLOCK=64M in the systemd unit"
    } else {
        "ringkeeper needs Linux 5.8 or later with io_uring, and a container runtime whose seccomp profile allows \
         io_uring_setup, io_uring_enter and io_uring_register"
    };
    format!("the kernel does not give this process an io_uring: {error}. {advice}")
}

/// Takes the client port, before anything on disk is touched.
fn bind(config: &Config) -> Result<Option<OwnedFd>, RunError> {
    let Some(client) = &config.client_addr else {
        tracing::info!("clientPort is not set");
        return Ok(None);
    };
    let mut failure = None;
    for addr in client.bind_candidates() {
        match listener::open(addr, config.client_port_listen_backlog) {
            Ok(socket) => {
                tracing::info!("binding to port {addr}");
                return Ok(Some(socket));
            }
            Err(source) => drop(failure.get_or_insert(RunError::Bind { addr, source })),
        }
    }
    failure.map_or(Ok(None), Err)
}

/// Takes the data directories for this process; the lock goes with it.
fn lock(config: &Config) -> Result<Vec<File>, RunError> {
    let mut dirs = vec![config.snapshot_dir(), config.log_dir()];
    dirs.dedup();
    let lock_one = |dir: std::path::PathBuf| {
        let file = File::open(&dir)
            .map_err(|source| RunError::Storage(StorageError::Io { operation: "open", path: dir.clone(), source }))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| RunError::Locked(dir))?;
        Ok(file)
    };
    dirs.into_iter().map(lock_one).collect()
}

/// The ordering shard's ends of the channels to a client shard on another core; `None` for the one on its own.
type Ends = Option<(SharedReceiver<Vec<Ask>>, SharedSender<ToClients>)>;

/// Where connections are accepted: the socket, if there is a client port, and the ways to the shards that get a share of them.
struct Entrance {
    socket: Option<OwnedFd>,
    others: Vec<SharedSender<AcceptedTcpStream>>,
}

/// How a client shard comes to its connections.
#[derive(Default)]
struct Access {
    /// Set for the one that accepts.
    entrance: Option<Entrance>,
    /// Set for the others.
    handed_over: Option<SharedReceiver<AcceptedTcpStream>>,
}

/// What a client shard of its own needs to be reached.
struct RemoteShard {
    settings: Settings,
    asks: SharedSender<Vec<Ask>>,
    messages: SharedReceiver<ToClients>,
    access: Access,
}

/// The first client shard accepts connections and hands them round.
fn accesses(socket: Option<OwnedFd>, shards: usize) -> Vec<Access> {
    let mut accesses: Vec<Access> = (0..shards).map(|_| Access::default()).collect();
    let mut others = Vec::new();
    for access in &mut accesses[1..] {
        let (sender, receiver) = shared_channel::new_bounded(mesh::CHANNEL_MESSAGES_MAX);
        others.push(sender);
        access.handed_over = Some(receiver);
    }
    accesses[0].entrance = Some(Entrance { socket, others });
    accesses
}

fn serve(
    config: &Config,
    plan: &Plan,
    Sockets { clients, elections }: Sockets,
    mut recovery: Recovery,
    Parts { clock, metrics, shared }: Parts,
    (stop, stopper): (&mpsc::Receiver<Stop>, &mpsc::Sender<Stop>),
) -> Result<(), RunError> {
    let closing = Arc::new(Closing::default());
    recovery.data_tree.set_extended_types(config.extended_types);
    let tree = recovery.data_tree.tree().clone();
    let mut ends: Vec<Ends> = Vec::new();
    let mut local = None;
    for (index, (core, access)) in plan.clients.iter().zip(accesses(clients, plan.clients.len())).enumerate() {
        let settings = settings(config, index, plan.clients.len());
        if *core == plan.broadcast {
            ends.push(None);
            local = Some((settings, access));
            continue;
        }
        let (asks, ask_receiver) = shared_channel::new_bounded(mesh::CHANNEL_MESSAGES_MAX);
        let (message_sender, messages) = shared_channel::new_bounded(mesh::CHANNEL_MESSAGES_MAX);
        ends.push(Some((ask_receiver, message_sender)));
        let remote = RemoteShard { settings, asks, messages, access };
        let (tree, shared) = (tree.clone(), Arc::clone(&shared));
        let builder = builder(core.0, &format!("clients-{index}"), config);
        let config = config.clone();
        spawn(builder, move || run_clients(config, remote, tree, shared, clock))?;
    }
    let ordering = Ordering {
        config: config.clone(),
        local,
        ends,
        elections,
        recovery,
        shared,
        metrics,
        clock,
        fatal: stopper.clone(),
        closing: Arc::clone(&closing),
    };
    // Each peer's name may be looked up at the same time, and a dead name server holds up none but that.
    let look_ups = config.ensemble.as_ref().map_or(0, |ensemble| ensemble.view.current().members().count());
    let flush_threads = if config.log.flush_engine == FlushEngine::Thread { flushes_in_flight(config) } else { 0 };
    let builder = builder(plan.broadcast.0, "broadcast", config)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(HELPER_THREADS + flush_threads + look_ups));
    spawn(builder, move || ordering.run())?;
    match stop.recv() {
        Ok(Stop::Fatal(what)) => Err(RunError::Fatal(what)),
        Ok(Stop::Signal(_)) | Err(_) => close(&closing, stop),
    }
}

/// Has the data directory made complete. A second signal ends the process as it is, which loses nothing that was acknowledged.
fn close(closing: &Closing, stop: &mpsc::Receiver<Stop>) -> Result<(), RunError> {
    closing.ask();
    while !closing.is_done() {
        match stop.recv_timeout(closing::POLL) {
            Ok(Stop::Fatal(what)) => return Err(RunError::Fatal(what)),
            Ok(Stop::Signal(_)) => {
                tracing::warn!("A second signal: the last snapshot is left out");
                return Ok(());
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn spawn<F: Future<Output = ()> + 'static>(
    builder: LocalExecutorBuilder,
    shard: impl FnOnce() -> F + Send + 'static,
) -> Result<(), RunError> {
    let spawned = builder.spawn(shard);
    spawned.map(drop).map_err(|error| RunError::Ring(ring_error(&error.to_string())))
}

fn builder(core: usize, name: &str, config: &Config) -> LocalExecutorBuilder {
    let builder = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(name)
        .ring_depth(RING_DEPTH)
        .io_memory(RING_BUFFER_BYTES);
    let builder = match config.spin_before_park {
        Some(spin) => builder.spin_before_park(spin),
        None => builder,
    };
    if config.stall_detector { stalls::detect(builder) } else { builder }
}

fn flushes_in_flight(config: &Config) -> usize {
    config.log.flushes_in_flight.map_or(FLUSHES_IN_FLIGHT, |flushes| flushes as usize)
}

fn settings(config: &Config, shard: usize, shards: usize) -> Settings {
    Settings {
        shard: shard as u16,
        frame_bytes_max: config.max_buffer_bytes as usize,
        timeout_min_ms: config.min_session_timeout.as_millis() as i32,
        timeout_max_ms: config.max_session_timeout.as_millis() as i32,
        sessionless_timeout_ms: config.sessionless_timeout.as_millis() as u64,
        outstanding_max: (config.global_outstanding_limit as usize / shards).max(1),
        rules: rules(config),
        super_digest: config.super_digest.clone(),
        throttle: RequestThrottle {
            requests_max: config.request_throttle.requests_max.div_ceil(shards),
            ..config.request_throttle
        },
        large_request_bytes: config.large_request_bytes.map_or(usize::MAX, |bytes| bytes as usize),
        large_requests_bytes_max: config.large_requests_bytes_max as usize / shards,
        watches_max: (config.watches_max as usize / shards).max(1),
        enforced_auth_schemes: config.enforced_auth_schemes.clone(),
        forwards: config.ensemble.is_some(),
        four_letter_words: FourLetter::all().filter(|word| config.four_letter_words.allow(word.word())).collect(),
    }
}

fn rules(config: &Config) -> Rules {
    Rules {
        skip_acl: config.skip_acl,
        digest_scheme: config.digest_auth_enabled,
        enforce_quota: config.enforce_quota,
        reconfig: config.reconfig_enabled,
    }
}

/// A client shard on a core of its own.
async fn run_clients(config: Config, remote: RemoteShard, tree: Tree, shared: Arc<Shared>, clock: Clock) {
    let admin = Rc::new(Admin::new(shared, usize::from(remote.settings.shard)));
    let asks = Rc::new(Queue::default());
    let cnxns = cnxns(&config, remote.settings, tree);
    let shard = Rc::new(ClientShard::new(cnxns, Rc::clone(&asks), clock, admin));
    let (sender, receiver) = (remote.asks.connect().await, remote.messages.connect().await);
    glommio::spawn_local(mesh::pump_out_batches(asks, sender)).detach();
    let taker = Rc::clone(&shard);
    glommio::spawn_local(mesh::pump_in(receiver, move |message| taker.take(&message))).detach();
    start_clients(&shard, remote.access).await;
    std::future::pending::<()>().await;
}

/// Sets a client shard's clock going and lets its connections come.
async fn start_clients(shard: &Rc<ClientShard>, access: Access) {
    glommio::spawn_local(Rc::clone(shard).tick()).detach();
    glommio::spawn_local(Rc::clone(shard).answer_slow_words()).detach();
    glommio::spawn_local(Rc::clone(shard).do_by_and_by()).detach();
    if let Some(receiver) = access.handed_over {
        let receiver = receiver.connect().await;
        let taker = Rc::clone(shard);
        glommio::spawn_local(mesh::pump_in(receiver, move |stream| taker.admit(stream))).detach();
    }
    if let Some(Entrance { socket, others }) = access.entrance {
        let mut queues = Vec::new();
        for sender in others {
            let queue = Rc::new(Queue::default());
            queues.push(Rc::clone(&queue));
            glommio::spawn_local(mesh::pump_out(queue, sender.connect().await)).detach();
        }
        shard.open_entrance(socket, queues);
    }
}

/// What goes into the ordering shard.
struct Ordering {
    config: Config,
    /// The client shard that is folded into it.
    local: Option<(Settings, Access)>,
    ends: Vec<Ends>,
    /// The election port's.
    elections: peers::Sockets,
    recovery: Recovery,
    shared: Arc<Shared>,
    metrics: Arc<LogMetrics>,
    clock: Clock,
    fatal: mpsc::Sender<Stop>,
    closing: Arc<Closing>,
}

/// A server has looked for a leader at least for so long before it serves in read-only mode.
const READ_ONLY_AFTER_MS: u64 = 2000;
/// What a server without an ensemble calls itself.
const STANDALONE: &str = "standalone";
/// The top byte of session ids of a standalone server.
const STANDALONE_SERVER_ID: u8 = 1;

/// The connections of a shard: a server of an ensemble serves nobody before there is a leader.
fn cnxns(config: &Config, settings: Settings, tree: Tree) -> Cnxns {
    let mut cnxns = Cnxns::new(settings, tree.clone());
    if config.ensemble.is_none() {
        cnxns.serve(STANDALONE, tree);
    }
    cnxns
}

fn standalone(config: &Config, data_tree: DataTree, grace_ms: u64, clock: Clock) -> Engine {
    let tick_ms = config.tick_time.as_millis() as u64;
    let dir = config.snapshot_dir();
    let first_session = session::first_id(STANDALONE_SERVER_ID, clock.wall(), epoch::load_session_ids(&dir));
    epoch::save_session_ids(&dir, session::ids_used(first_session));
    let sessions = Sessions::new(tick_ms, grace_ms, first_session);
    let mut pipeline =
        Pipeline::new(data_tree, sessions, rules(config), config.containers, config.digest_enabled, clock.now());
    pipeline.throttle_connects(config.connection_throttle, clock.now(), clock.wall().0 as u64);
    for orphan in pipeline.close_orphans(clock.wall()) {
        tracing::warn!("{orphan}");
    }
    Engine::Standalone(Box::new(pipeline))
}

/// Lets a server take its part in the ensemble. `sockets` are those of its election port.
fn join(
    config: &Config,
    ensemble: &EnsembleConfig,
    sockets: peers::Sockets,
    broadcast: &Rc<Broadcast>,
    upkeep: &Rc<Upkeep>,
    shared: Arc<Shared>,
    clock: Clock,
) {
    let to_election = Rc::new(Queue::default());
    let port = LearnerPort::new(Rc::clone(broadcast), Rc::clone(upkeep), ensemble, Rc::clone(&to_election), config);
    glommio::spawn_local(Rc::new(port).run()).detach();
    let reports = Rc::new(Queue::default());
    Peers::start(ensemble, config.reconfig_enabled, sockets, to_election, Rc::clone(&reports), clock);
    let broadcast = Rc::clone(broadcast);
    glommio::spawn_local(async move {
        loop {
            let event = match reports.next().await {
                Report::Elected(elected) => {
                    let takes_part = elected.state != ServerState::Observing;
                    shared.elected(elected.vote.leader, takes_part.then_some(elected.took_ms));
                    peer::Event::Elected(elected.vote.leader, elected.supporters)
                }
                Report::VoterLooks(voter) => peer::Event::VoterLooks(voter),
                Report::Adopt(config) => peer::Event::Adopted(config),
            };
            broadcast.happened([event]);
        }
    })
    .detach();
}

impl Ordering {
    async fn run(self) {
        let Ordering { config, local, ends, elections, recovery, shared, metrics, clock, fatal, closing } = self;
        let Recovery { data_tree, log: recovered, snapshot, history, .. } = recovery;
        let loaded = (snapshot > Zxid::ZERO).then_some(snapshot);
        let asks = Rc::new(Queue::default());
        let local = local.map(|(settings, access)| {
            let admin = Rc::new(Admin::new(Arc::clone(&shared), usize::from(settings.shard)));
            let cnxns = cnxns(&config, settings, data_tree.tree().clone());
            (Rc::new(ClientShard::new(cnxns, Rc::clone(&asks), clock, admin)), access)
        });
        let mut downlinks = Vec::new();
        for end in ends {
            let Some((receiver, sender)) = end else {
                let (shard, _) = local.as_ref().expect("a shard without ends is the local one");
                downlinks.push(Downlink::Local(Rc::clone(shard)));
                continue;
            };
            let queue = Rc::new(Queue::default());
            downlinks.push(Downlink::Remote(Rc::clone(&queue)));
            let (receiver, sender) = (receiver.connect().await, sender.connect().await);
            glommio::spawn_local(mesh::pump_out(queue, sender)).detach();
            let inbox = Rc::clone(&asks);
            glommio::spawn_local(mesh::pump_in(receiver, move |batch: Vec<Ask>| inbox.extend(batch))).detach();
        }
        let tick_ms = config.tick_time.as_millis() as u64;
        // Touches are handed on every tick of a client shard, and sessions looked through now and then.
        let grace_ms = 2 * clients::TICK_MS;
        let in_doubt = replace::is_in_doubt(&config.snapshot_dir());
        let engine = match &config.ensemble {
            None => standalone(&config, data_tree, grace_ms, clock),
            Some(ensemble) => {
                let last = data_tree.tree().zxid();
                let epochs = match epoch::load(&config.snapshot_dir(), last) {
                    Ok(epochs) => epochs,
                    Err(error) => return drop(fatal.send(Stop::Fatal(error.to_string()))),
                };
                let settings = effect::Settings {
                    id: ensemble.my_id,
                    tick_ms,
                    init_limit: ensemble.init_limit.into(),
                    sync_limit: ensemble.sync_limit.into(),
                    last_counter: effect::LAST_COUNTER,
                    history: ensemble.history,
                    snapshot_size_factor: ensemble.snapshot_size_factor,
                    reconfig: config.reconfig_enabled,
                    participants_min: if ensemble.standalone_enabled { 2 } else { 1 },
                    observing: Observing {
                        masters: ensemble.observer_master_port.is_some(),
                        reconnect_delay_ms: ensemble.observer_delays_ms.0,
                        election_delay_ms: ensemble.observer_delays_ms.1,
                        seed: clock.wall().0 as u64 ^ (ensemble.my_id.0 as u64).rotate_right(8),
                    },
                };
                let ordering = peer::Ordering {
                    rules: rules(&config),
                    containers: config.containers,
                    digests: config.digest_enabled,
                    grace_ms,
                    local_sessions: ensemble.local_sessions,
                    read_only_after_ms: ensemble.read_only.then(|| tick_ms.max(READ_ONLY_AFTER_MS)),
                    throttle: config.connection_throttle,
                };
                let history = history.expect("it is kept for an ensemble");
                let view = ensemble.view.clone();
                Engine::Ensemble(Box::new(Peer::new(settings, ordering, view, epochs, data_tree, history, in_doubt)))
            }
        };
        let questions = Arc::clone(&shared);
        let broadcast = Rc::new(Broadcast::new(
            engine,
            Log::new(recovered.end, flushes_in_flight(&config)),
            Disk::new(&config.log_dir(), config.log.flush_engine, config.log.force_sync),
            asks,
            downlinks,
            clock,
            config.log.flush_warning_threshold,
            metrics,
            shared,
            Box::new(move |what| drop(fatal.send(Stop::Fatal(what)))),
        ));
        let last = recovered.spares.last().map(|spare| spare.sequence);
        let last = last.or(recovered.filled.last().map(|segment| segment.sequence)).unwrap_or(0);
        for spare in recovered.spares {
            if let Err(error) = broadcast.add_spare(spare).await {
                return broadcast.fail(format!("cannot open log segment {:x}: {error}", spare.sequence));
            }
        }
        let end = recovered.end.zxid;
        let upkeep = Upkeep::new(Rc::clone(&broadcast), &config, last + 1, recovered.filled, loaded, end);
        let upkeep = Rc::new(upkeep);
        upkeep.tell_stored();
        glommio::spawn_local(Rc::clone(&broadcast).run()).detach();
        glommio::spawn_local(Rc::clone(&broadcast).tick()).detach();
        glommio::spawn_local(Rc::clone(&upkeep).keep_segments_ready()).detach();
        glommio::spawn_local(Rc::clone(&upkeep).purge(config.snapshot.purge_interval)).detach();
        glommio::spawn_local(Rc::clone(&upkeep).take_snapshots(snapshot)).detach();
        if let Some(ensemble) = &config.ensemble {
            join(&config, ensemble, elections, &broadcast, &upkeep, questions, clock);
        }
        glommio::spawn_local(async move { closing::close_when_asked(&closing, broadcast, upkeep).await }).detach();
        if let Some((shard, access)) = local {
            start_clients(&shard, access).await;
        }
        std::future::pending::<()>().await;
    }
}
