//! One server: what `shard::broadcast` and `shard::clients` do with the core, without an executor. Whatever those hand to
//! another task, thread or core happens here a little later, and a crash may come before it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use ringkeeper::cnxn::{Cnxns, Progress, RequestThrottle, Settings};
use ringkeeper::planted::{self, Bug};
use ringkeeper::request::pipeline::{Answer, Ask, CommitBatch};
use ringkeeper::request::prepare::Rules;
use ringkeeper::storage::group_commit::Batch;
use ringkeeper::storage::log::{Log, Spare};
use ringkeeper::tree::Tree;
use ringkeeper::types::{CnxnId, Instant, WallMs, Zxid};
use ringkeeper::zab::effect::{Effect, MasterPort, Mode};
use ringkeeper::zab::masters::Observing;
use ringkeeper::zab::peer::{Event, Output, Peer};
use ringkeeper::zab::quorum::QuorumView;

use crate::disk::{Disk, Flush, Found};
use crate::faults::Moment;
use crate::network::{ConnId, End, Port};
use crate::options::Options;
use crate::peers::Elections;
use crate::port::LearnerPort;
use crate::upkeep::Upkeep;
use crate::world::{Happening, World, note};

/// Requests that are ordered before the flusher gets its turn.
const ASKS_PER_TURN_MAX: usize = 4096;
/// How often the ordering shard and a client shard look at the clock.
const TICK_US: u64 = 50_000;
const CLIENTS_TICK_US: u64 = 100_000;
/// `syncLimit`, in ticks.
pub const SYNC_LIMIT: u64 = 5;
/// See `shard::closing`.
const COMMIT_PATIENCE_MS: u64 = 5_000;

/// What a process does by itself.
pub enum Wake {
    /// The ordering shard's tick.
    Tick,
    /// A client shard's.
    ClientsTick(usize),
    /// Requests wait for the ordering shard.
    Order,
    /// What a client shard on another core has sent arrives.
    Uplink(usize),
    /// What the ordering shard has sent to it arrives.
    Downlink(usize),
    /// Effects wait for the driver of the learner port.
    Effects,
    FlushEnded(u64),
    /// The election's clock.
    Ring(u64),
    Dial {
        master: usize,
        at: MasterPort,
        attempt: usize,
    },
    LearnerPortOpen,
    /// A configuration is written down.
    Configured,
    /// Work on the disk beyond the log has ended.
    DiskDone,
    /// A segment is ready.
    SegmentReady,
    /// A snapshot is written.
    SnapshotWritten,
    /// A link may be read again: see `LearnerPort`.
    Read(u32),
}

/// See `shard::clients::ToClients`.
pub enum ToClients {
    Committed(Rc<CommitBatch>),
    Answer(Answer),
    Serving(Option<(Mode, Tree)>),
}

/// A client shard.
pub struct Shard {
    cnxns: Cnxns,
    sockets: BTreeMap<u32, Socket>,
    /// On their way to the ordering shard, and from it.
    uplink: VecDeque<Vec<Ask>>,
    downlink: VecDeque<ToClients>,
}

struct Socket {
    id: CnxnId,
    conn: ConnId,
    input: BytesMut,
}

/// What a kill ends.
pub struct Process {
    pub peer: Peer,
    pub log: Log,
    pub flushing: Vec<Flush>,
    next_flush: u64,
    shards: Vec<Shard>,
    asks: VecDeque<Ask>,
    held: VecDeque<Ask>,
    pub unlogged: VecDeque<(Zxid, Bytes)>,
    pub effects: VecDeque<Effect>,
    effects_due: bool,
    order_due: bool,
    pub serving: Option<Mode>,
    pub serving_changes: u64,
    /// The last transaction handed to the log.
    pub appended: Zxid,
    /// The flush failed: nothing more is acknowledged.
    pub failed: bool,
    pub elections: Elections,
    pub port: LearnerPort,
    pub upkeep: Upkeep,
    started_us: u64,
    /// It is to stop by itself, and this is when it was told.
    leaves_since: Option<Instant>,
}

/// A host, its disk, and the process that runs there if one does.
pub struct Server {
    pub index: usize,
    pub disk: Disk,
    /// The configuration that was written down last, if there was one.
    pub config: Option<QuorumView>,
    pub process: Option<Process>,
    pub incarnation: u32,
    /// How fast its clocks run, in millionths more than they should.
    drift_ppm: i64,
    pub wall_offset_ms: i64,
    /// The process is paused: what is to happen to it when it goes on, in order.
    pub paused: Option<Vec<Happening>>,
    /// What its clients may see.
    pub shown: Zxid,
    /// Where the log ended when the last process did, unless it was being cut or replaced, or could not be.
    pub held: Option<Zxid>,
}

impl Server {
    pub fn new(index: usize, options: &Options, dir: PathBuf) -> Server {
        let drift = options.drift_ppm() as i64;
        // Every other one is fast.
        let drift_ppm = if index.is_multiple_of(2) { drift } else { -drift };
        Server {
            index,
            disk: Disk::new(dir, options.history_limits()),
            config: None,
            process: None,
            incarnation: 0,
            drift_ppm,
            wall_offset_ms: 0,
            paused: None,
            shown: Zxid::ZERO,
            held: None,
        }
    }

    /// Whether the process is about to end, or has ended.
    pub fn is_leaving(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.leaves_since.is_some())
    }

    pub fn serves(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.serving.is_some())
    }

    pub fn listens(&self, port: Port) -> bool {
        let Some(process) = &self.process else { return false };
        match port {
            Port::Client => true,
            Port::Election => !process.elections.has_left(),
            Port::Learner(at) => process.port.listening == Some(at),
        }
    }

    pub fn describe(&self) -> String {
        let id = self.index + 1;
        match &self.process {
            None => format!("server {id} is down"),
            Some(process) => match process.serving {
                Some(mode) => format!("server {id} is {} at {}", mode.name(), self.shown),
                None => format!("server {id} serves nobody, {:?}", process.elections.state()),
            },
        }
    }
}

impl World {
    /// The two clocks of a server, as its process reads them.
    pub fn clocks(&self, server: usize) -> (Instant, WallMs) {
        let host = &self.servers[server];
        let started = host.process.as_ref().map_or(self.now_us, |process| process.started_us);
        let local = |us: u64| (us as i128 * (1_000_000 + i128::from(host.drift_ppm)) / 1_000_000) as u64;
        let now = Instant(local(self.now_us - started) / 1000 + 1);
        let wall = 1_700_000_000_000 + (local(self.now_us) / 1000) as i64 + host.wall_offset_ms;
        (now, WallMs(wall))
    }

    pub fn wake_after(&mut self, server: usize, delay_us: u64, wake: Wake) {
        let incarnation = self.servers[server].incarnation;
        self.after(delay_us, Happening::Server { server, incarnation, wake });
    }

    /// How long it takes until another task or thread gets to it.
    pub fn soon_us(&mut self) -> u64 {
        let span = if self.chance.chance(5) { 3_000 } else { 40 };
        1 + self.chance.below(span) as u64
    }

    pub fn process(&mut self, server: usize) -> Option<&mut Process> {
        self.servers[server].process.as_mut()
    }

    /// Starts a server's process, from what is on its disk.
    pub fn start(&mut self, server: usize) {
        if self.servers[server].process.is_some() || self.network.down.contains(&server) {
            return;
        }
        let id = server + 1;
        let converts = self.options.converts() as usize;
        if converts > 0 && self.chance.chance(converts) {
            self.convert(server);
        }
        self.servers[server].incarnation += 1;
        let disk = &mut self.servers[server].disk;
        let may_be_lost = disk.health.may_be_lost(&disk.dir);
        let found = match disk.recover() {
            Ok(found) => found,
            Err(why) if disk.is_full() => {
                note!(self, "{id} does not start: {why}");
                return self.after(1_000_000, Happening::Fault(crate::faults::Fault::Start(server)));
            }
            Err(why) => return self.checker.violated("Recovery", format!("server {id} does not start: {why}")),
        };
        if let Some(damage) = &found.damage {
            note!(self, "{id} finds damage: {damage}");
            self.counts.set_aside += 1;
            if !may_be_lost {
                self.checker.violated("Recovery", format!("server {id} finds damage where there is none: {damage}"));
            }
        }
        let zxid = found.data_tree.tree().zxid();
        self.looks_whole(server, &found);
        note!(self, "{id} starts at {zxid}, {:?}{}", found.epochs, if found.in_doubt { ", in doubt" } else { "" });
        let tree = found.data_tree.tree().clone();
        let settings = ringkeeper::zab::effect::Settings {
            id: ringkeeper::types::ServerId(id as i64),
            tick_ms: self.options.tick_ms(),
            init_limit: 10,
            sync_limit: SYNC_LIMIT,
            last_counter: ringkeeper::zab::effect::LAST_COUNTER,
            history: self.options.history_limits(),
            snapshot_size_factor: self.options.stored_percent() as f64 / 100.0,
            participants_min: 2,
            observing: Observing {
                masters: self.options.masters() > 0,
                reconnect_delay_ms: self.options.tick_ms(),
                election_delay_ms: self.options.tick_ms() / 2,
                seed: self.options.seed ^ (u64::from(self.servers[server].incarnation) << 8 | id as u64),
            },
            reconfig: self.options.reconfigs() > 0,
        };
        let ordering = ringkeeper::zab::peer::Ordering {
            rules: rules(&self.options),
            containers: ringkeeper::request::containers::Settings::default(),
            digests: true,
            grace_ms: 2 * CLIENTS_TICK_US / 1000,
            local_sessions: None,
            read_only_after_ms: None,
            throttle: ringkeeper::request::throttle::Settings::default(),
        };
        let view = self.servers[server].config.clone().unwrap_or_else(|| crate::peers::view(&self.options));
        let shards = (0..self.options.shards() as u16)
            .map(|shard| Shard {
                cnxns: Cnxns::new(shard_settings(shard, &self.options), tree.clone()),
                sockets: BTreeMap::new(),
                uplink: VecDeque::new(),
                downlink: VecDeque::new(),
            })
            .collect();
        let upkeep = Upkeep::new(&found, &self.options, &mut self.chance);
        let (epochs, data_tree, history) = (found.epochs, found.data_tree, found.history);
        let process = Process {
            peer: Peer::new(settings, ordering, view.clone(), epochs, data_tree, history, found.in_doubt),
            log: Log::new(found.end, self.options.flushes() as usize),
            flushing: Vec::new(),
            next_flush: 0,
            shards,
            asks: VecDeque::new(),
            held: VecDeque::new(),
            unlogged: VecDeque::new(),
            effects: VecDeque::new(),
            effects_due: false,
            order_due: false,
            serving: None,
            serving_changes: 0,
            appended: zxid,
            failed: false,
            elections: Elections::new(id, view, self.options.reconfigs() > 0),
            port: LearnerPort::default(),
            upkeep,
            started_us: self.now_us,
            leaves_since: None,
        };
        self.servers[server].process = Some(process);
        for spare in found.spares {
            self.add_spare(server, spare);
        }
        self.tell_stored(server);
        let phase = self.chance.below(TICK_US as usize) as u64;
        self.wake_after(server, phase, Wake::Tick);
        for shard in 0..self.options.shards() as usize {
            let phase = self.chance.below(CLIENTS_TICK_US as usize) as u64;
            self.wake_after(server, phase, Wake::ClientsTick(shard));
        }
        self.keep_segments_ready(server);
    }

    /// Somebody converts its log, as with `tools/log/convert.rs`. A log that is damaged is not converted.
    fn convert(&mut self, server: usize) {
        let disk = &mut self.servers[server].disk;
        if disk.health.is_hurt() {
            return;
        }
        match disk.convert(&mut self.chance) {
            Ok(None) => {}
            Ok(Some(converted)) => {
                note!(self, "{}: {converted}", server + 1);
                self.counts.converts += 1;
            }
            Err(why) if self.servers[server].disk.is_full() => note!(self, "{} is not converted: {why}", server + 1),
            Err(why) => {
                self.checker.violated("Recovery", format!("server {} cannot be converted: {why}", server + 1));
            }
        }
    }

    /// Whether what a start has found is one history: nothing that was cut is back, and each snapshot that is kept leads to
    /// the same state with what the log has behind it.
    fn looks_whole(&mut self, server: usize, found: &Found) {
        let tree = found.data_tree.tree();
        let Server { held, disk, .. } = &self.servers[server];
        let what = match held.filter(|held| *held < tree.zxid()) {
            Some(held) => Some(format!("its log ended at {held}")),
            None => disk.parts_from(tree.zxid(), tree.digest()),
        };
        if let Some(what) = what {
            let what = format!("server {} starts at {}, and {what}", server + 1, tree.zxid());
            self.checker.violated("Recovery", what);
        }
    }

    pub fn wake_server(&mut self, server: usize, incarnation: u32, wake: Wake) {
        if self.servers[server].incarnation != incarnation || self.servers[server].process.is_none() {
            return;
        }
        match wake {
            Wake::Tick => {
                self.wake_after(server, TICK_US, Wake::Tick);
                self.happened(server, [Event::Tick]);
                self.close_if_left(server);
            }
            Wake::ClientsTick(shard) => {
                self.wake_after(server, CLIENTS_TICK_US, Wake::ClientsTick(shard));
                let now = self.clocks(server).0;
                let Some(process) = self.process(server) else { return };
                process.shards[shard].cnxns.tick(now);
                self.after_shard(server, shard);
            }
            Wake::Order => self.order(server),
            Wake::Uplink(shard) => {
                let Some(process) = self.process(server) else { return };
                let asks = process.shards[shard].uplink.pop_front().expect("one wake-up for each");
                process.asks.extend(asks);
                self.expect_order(server);
            }
            Wake::Downlink(shard) => {
                let Some(process) = self.process(server) else { return };
                let message = process.shards[shard].downlink.pop_front().expect("one wake-up for each");
                self.shard_takes(server, shard, &message);
            }
            Wake::Effects => self.carry_out_effects(server),
            Wake::FlushEnded(number) => self.flush_ended(server, number),
            Wake::Ring(alarm) => self.ring(server, alarm),
            Wake::Dial { master, at, attempt } => self.dial_master(server, master, at, attempt),
            Wake::LearnerPortOpen => self.learner_port_open(server),
            Wake::Configured => self.config_written(server),
            Wake::DiskDone => self.disk_done(server),
            Wake::SegmentReady => self.segment_ready(server),
            Wake::SnapshotWritten => self.snapshot_written(server),
            Wake::Read(link) => self.read_link(server, link),
        }
    }

    /// The process is told to stop: see `shard::closing`.
    pub fn stop(&mut self, server: usize) {
        let now = self.clocks(server).0;
        let Some(process) = self.process(server) else { return };
        if process.leaves_since.is_none() {
            process.leaves_since = Some(now);
            self.happened(server, [Event::Leave]);
        }
    }

    /// Leaves a snapshot of all there is, if that is committed, and ends. See `closing::close_when_asked`.
    fn close_if_left(&mut self, server: usize) {
        let now = self.clocks(server).0;
        let Some(process) = self.process(server) else { return };
        let Some(since) = process.leaves_since else { return };
        let left = process.peer.has_left();
        if !left && now.since_ms(since) < COMMIT_PATIENCE_MS {
            return;
        }
        let is_known = process.peer.mode().is_some() || process.peer.has_all_committed();
        if left && is_known && process.unlogged.is_empty() && process.flushing.is_empty() {
            self.snapshot_at_stop(server);
        }
        note!(self, "{} has stopped", server + 1);
        self.counts.stops += 1;
        self.kill(server);
        let delay = 1 + self.chance.below(3_000_000) as u64;
        self.after(delay, Happening::Fault(crate::faults::Fault::Start(server)));
    }

    /// See `Broadcast::happened`.
    pub fn happened(&mut self, server: usize, events: impl IntoIterator<Item = Event>) {
        let (now, wall) = self.clocks(server);
        let Some(process) = self.process(server) else { return };
        for event in events {
            process.peer.handle(now, wall, event);
        }
        self.hand_on(server);
    }

    fn expect_order(&mut self, server: usize) {
        let delay = self.soon_us();
        let Some(process) = self.process(server) else { return };
        if !process.asks.is_empty() && !std::mem::replace(&mut process.order_due, true) {
            self.wake_after(server, delay, Wake::Order);
        }
    }

    /// See `Broadcast::order`.
    fn order(&mut self, server: usize) {
        let (now, wall) = self.clocks(server);
        let Some(process) = self.process(server) else { return };
        process.order_due = false;
        let stalled = !process.unlogged.is_empty();
        for _ in 0..ASKS_PER_TURN_MAX {
            let Some(ask) = process.asks.pop_front() else { break };
            if stalled && matches!(ask, Ask::Write(_) | Ask::OpenSession { .. }) {
                process.held.push_back(ask);
            } else {
                process.peer.handle(now, wall, Event::Ask(ask));
            }
        }
        self.hand_on(server);
        self.expect_order(server);
    }

    /// See `Broadcast::hand_on`.
    pub fn hand_on(&mut self, server: usize) {
        let now = self.clocks(server).0;
        let Some(process) = self.process(server) else { return };
        let Output { log, effects, batches, answers, notes } = process.peer.pump(now);
        self.watch_log(server, &log);
        let Some(process) = self.process(server) else { return };
        process.unlogged.extend(log);
        for what in notes {
            self.checker.heard(server, &what);
            note!(self, "{} says: {what}", server + 1);
        }
        for effect in effects {
            match &effect {
                Effect::Serve(mode, tree, epoch) => {
                    let (mode, tree, epoch) = (*mode, tree.clone(), epoch.0);
                    note!(self, "{} is {} at {} in epoch {epoch}", server + 1, mode.name(), tree.zxid());
                    self.watch_serving(server, mode, &tree, epoch);
                    self.serve(server, Some((mode, tree)));
                }
                Effect::Unserve => {
                    note!(self, "{} serves nobody any more", server + 1);
                    self.serve(server, None);
                }
                _ => {}
            }
            if let Some(process) = self.process(server) {
                process.effects.push_back(effect);
            }
        }
        self.expect_effects(server);
        for batch in batches {
            self.publish(server, batch);
        }
        for answer in answers {
            if let Some(cnxn) = answer.to() {
                self.tell(server, usize::from(cnxn.shard), ToClients::Answer(answer));
            }
        }
        self.write_log(server);
        self.start_flush(server);
        let Some(process) = self.process(server) else { return };
        if process.unlogged.is_empty() && !process.held.is_empty() {
            let mut asks = std::mem::take(&mut process.held);
            asks.append(&mut process.asks);
            process.asks = asks;
            self.expect_order(server);
        }
    }

    fn expect_effects(&mut self, server: usize) {
        let delay = self.soon_us();
        let Some(process) = self.process(server) else { return };
        if !process.effects.is_empty() && !std::mem::replace(&mut process.effects_due, true) {
            self.wake_after(server, delay, Wake::Effects);
        }
    }

    /// One effect at a time, so that a crash may come between any two.
    fn carry_out_effects(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        process.effects_due = false;
        let Some(effect) = process.effects.pop_front() else { return };
        self.carry_out(server, effect);
        self.expect_effects(server);
    }

    fn serve(&mut self, server: usize, serving: Option<(Mode, Tree)>) {
        let Some(process) = self.process(server) else { return };
        process.serving = serving.as_ref().map(|(mode, _)| *mode);
        process.serving_changes += 1;
        if serving.as_ref().is_some_and(|(mode, _)| *mode == Mode::Leading) {
            self.counts.elections += 1;
        }
        for shard in 0..self.options.shards() as usize {
            self.tell(server, shard, ToClients::Serving(serving.clone()));
        }
        self.look_for_snapshot(server);
    }

    fn publish(&mut self, server: usize, batch: CommitBatch) {
        self.watch_batch(server, &batch);
        let batch = Rc::new(batch);
        for shard in 0..self.options.shards() as usize {
            self.tell(server, shard, ToClients::Committed(Rc::clone(&batch)));
        }
        self.look_for_snapshot(server);
    }

    /// The first shard is on the ordering shard's core.
    fn tell(&mut self, server: usize, shard: usize, message: ToClients) {
        if shard == 0 {
            return self.shard_takes(server, shard, &message);
        }
        let delay = self.soon_us();
        let Some(process) = self.process(server) else { return };
        if let Some(found) = process.shards.get_mut(shard) {
            found.downlink.push_back(message);
            self.wake_after(server, delay, Wake::Downlink(shard));
        }
    }

    /// See `ClientShard::take`.
    fn shard_takes(&mut self, server: usize, shard: usize, message: &ToClients) {
        let now = self.clocks(server).0;
        let Some(process) = self.process(server) else { return };
        let cnxns = &mut process.shards[shard].cnxns;
        match message {
            ToClients::Committed(batch) => cnxns.committed(now, batch),
            ToClients::Answer(answer) => cnxns.answer(now, answer),
            ToClients::Serving(Some((mode, tree))) => cnxns.serve(mode.name(), tree.clone()),
            ToClients::Serving(None) => cnxns.unserve(),
        }
        self.after_shard(server, shard);
    }

    pub fn accept_client(&mut self, server: usize, conn: ConnId) -> End {
        let now = self.clocks(server).0;
        let shard = self.chance.below(self.options.shards() as usize);
        let Some(process) = self.process(server) else { return End::Gone };
        let found = &mut process.shards[shard];
        let cnxn = found.cnxns.accept(now, "10.0.0.1:1".parse().expect("an address"));
        found.sockets.insert(cnxn.slot, Socket { id: cnxn, conn, input: BytesMut::new() });
        End::Shard { server, shard, cnxn }
    }

    pub fn shard_received(&mut self, server: usize, shard: usize, cnxn: CnxnId, bytes: &[u8]) {
        let Some(process) = self.process(server) else { return };
        let found = &mut process.shards[shard];
        if let Some(socket) = found.sockets.get_mut(&cnxn.slot).filter(|socket| socket.id == cnxn) {
            socket.input.extend_from_slice(bytes);
            self.turn(server, shard, cnxn.slot);
            self.after_shard(server, shard);
        }
    }

    pub fn shard_disconnected(&mut self, server: usize, shard: usize, cnxn: CnxnId) {
        let Some(process) = self.process(server) else { return };
        let found = &mut process.shards[shard];
        if found.sockets.get(&cnxn.slot).is_some_and(|socket| socket.id == cnxn) {
            found.sockets.remove(&cnxn.slot);
            found.cnxns.disconnected(cnxn);
            self.after_shard(server, shard);
        }
    }

    /// Works off what a connection has sent and sends what there is for it. See `Conversation::turn`.
    fn turn(&mut self, server: usize, shard: usize, slot: u32) {
        let now = self.clocks(server).0;
        loop {
            let Some(process) = self.process(server) else { return };
            let Shard { cnxns, sockets, .. } = &mut process.shards[shard];
            let Some(Socket { id, conn, input }) = sockets.get_mut(&slot) else { return };
            let (id, conn) = (*id, *conn);
            let mut output = Vec::new();
            let aborted = cnxns.aborted(id);
            let close = aborted.or_else(|| cnxns.take_output(id, &mut output));
            let progress = if close.is_some() { Progress::Closing } else { cnxns.received(now, id, input) };
            if let Some(reason) = close {
                note!(self, "{} closes connection {conn}: {reason}", server + 1);
                let process = self.process(server).expect("it runs");
                process.shards[shard].sockets.remove(&slot);
                process.shards[shard].cnxns.disconnected(id);
            }
            let sent = !output.is_empty();
            let side = self.network.side_of(conn, End::Shard { server, shard, cnxn: id });
            if let Some(side) = side {
                if sent {
                    self.send(conn, side, output);
                }
                if close.is_some() {
                    self.close(conn, side);
                }
            }
            match progress {
                _ if close.is_some() => return,
                Progress::Again | Progress::Full | Progress::Closing => {}
                Progress::Need(_) | Progress::Paused if sent => {}
                Progress::Need(_) | Progress::Paused => {
                    // What was just worked off may have left output.
                    let process = self.process(server).expect("it runs");
                    let mut output = Vec::new();
                    let found = &mut process.shards[shard];
                    if found.cnxns.take_output(id, &mut output).is_some() {
                        // The next turn closes it.
                        if let (false, Some(side)) = (output.is_empty(), side) {
                            self.send(conn, side, output);
                        }
                        continue;
                    }
                    if output.is_empty() {
                        return;
                    }
                    if let Some(side) = side {
                        self.send(conn, side, output);
                    }
                }
            }
        }
    }

    /// Moves on what a shard's connections have produced. See `ClientShard::hand_on`.
    fn after_shard(&mut self, server: usize, shard: usize) {
        loop {
            let Some(process) = self.process(server) else { return };
            let found = &mut process.shards[shard];
            let asks: Vec<Ask> = found.cnxns.take_asks().collect();
            let mut ready: Vec<u32> = found.cnxns.take_ready().collect();
            if !asks.is_empty() {
                if shard == 0 {
                    process.asks.extend(asks);
                    self.expect_order(server);
                } else {
                    found.uplink.push_back(asks);
                    let delay = self.soon_us();
                    self.wake_after(server, delay, Wake::Uplink(shard));
                }
            }
            if ready.is_empty() {
                return;
            }
            ready.sort_unstable();
            ready.dedup();
            for slot in ready {
                self.turn(server, shard, slot);
            }
        }
    }

    /// See `Broadcast::write_log`.
    pub fn write_log(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        let before = process.log.current_sequence();
        while let Some((zxid, payload)) = process.unlogged.front() {
            if !process.log.fits(payload.len()) {
                process.upkeep.wanted_bytes = ringkeeper::storage::format::segment_bytes_for(payload.len());
                while let Some(spare) = process.log.pass_over_spare() {
                    process.upkeep.recyclable.push((spare.sequence, spare.bytes));
                }
                return self.keep_segments_ready(server);
            }
            process.log.append(*zxid, payload);
            process.unlogged.pop_front();
        }
        if process.log.current_sequence() != before {
            process.upkeep.wanted_bytes = 0;
            self.keep_segments_ready(server);
        }
    }

    pub fn add_spare(&mut self, server: usize, spare: Spare) {
        if let Some(process) = self.process(server) {
            process.log.add_spare(spare);
        }
    }

    fn start_flush(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        if process.failed {
            return;
        }
        let Some(batch) = process.log.start_flush() else { return };
        self.flush(server, batch);
    }

    fn flush(&mut self, server: usize, batch: Batch) {
        let usual = self.options.flush_us();
        let mut took = usual / 2 + self.chance.below(usual as usize + 1) as u64;
        let host = &mut self.servers[server];
        let stalls = self.options.stalls() as usize;
        if stalls > 0 && self.chance.chance(stalls) {
            took *= 20;
        }
        if host.disk.slow_until_us > self.now_us {
            took += 50_000 + self.chance.below(1_500_000) as u64;
        }
        let process = host.process.as_mut().expect("it runs");
        let number = process.next_flush;
        process.next_flush += 1;
        process.flushing.push(host.disk.begin_flush(number, batch));
        self.wake_after(server, took, Wake::FlushEnded(number));
    }

    /// See `Broadcast::flush`.
    fn flush_ended(&mut self, server: usize, number: u64) {
        let host = &mut self.servers[server];
        let process = host.process.as_mut().expect("it runs");
        let at = process.flushing.iter().position(|flush| flush.number == number);
        let flush = process.flushing.remove(at.expect("it was under way"));
        if std::mem::take(&mut host.disk.fails_next) {
            // What is on the disk is unknown.
            host.disk.tear(&flush, &mut self.chance);
            note!(self, "{}: a flush up to {} fails", server + 1, flush.batch.last_zxid);
            if !planted::is(Bug::FlushErrorIgnored) {
                return self.process_fails(server);
            }
        } else {
            host.disk.write(&flush);
        }
        let (segment, last) = (flush.batch.segment, flush.batch.last_zxid);
        let end = flush.batch.position + flush.batch.bytes.len() as u64;
        let durable = process.log.flushed(flush.batch);
        if durable == Some(last) {
            host.disk.health.is_durable(segment, end);
        }
        self.start_flush(server);
        if let Some(durable) = durable {
            self.happened(server, [Event::Durable(durable)]);
            self.look_for_snapshot(server);
        }
    }

    /// The process ends by itself, because it cannot go on safely.
    pub fn process_fails(&mut self, server: usize) {
        if let Some(process) = self.process(server) {
            process.failed = true;
        }
        self.kill(server);
        let delay = 500_000 + self.chance.below(1_500_000) as u64;
        self.after(delay, Happening::Fault(crate::faults::Fault::Start(server)));
    }
}

/// What the checker is told.
impl World {
    fn watch_log(&mut self, server: usize, log: &[(Zxid, Bytes)]) {
        let tick_ms = self.options.tick_ms();
        for (zxid, payload) in log {
            let Some(process) = self.servers[server].process.as_mut() else { return };
            let before = std::mem::replace(&mut process.appended, *zxid);
            let leads = process.peer.leader().is_some();
            self.checker.logged(server, *zxid, payload, before);
            if leads {
                self.is_disturbed();
                self.checker.proposed(server, self.now_us, tick_ms, payload);
            }
        }
    }

    fn watch_serving(&mut self, server: usize, mode: Mode, tree: &Tree, epoch: u32) {
        if mode == Mode::Leading {
            self.checker.leads(server, epoch);
            let span_us = 20 * self.options.delay_us() + 20 * self.options.flush_us();
            self.at_moment(Moment::Leads, server, span_us);
        }
        self.checker.shown(server, tree.zxid(), tree.digest());
        self.servers[server].shown = tree.zxid();
    }

    fn watch_batch(&mut self, server: usize, batch: &CommitBatch) {
        let before = self.servers[server].shown;
        self.checker.visible(server, before, batch.commits.iter().map(|commit| commit.zxid));
        let (zxid, digest) = (batch.tree.zxid(), batch.tree.digest());
        self.checker.shown(server, zxid, digest);
        self.servers[server].shown = zxid;
        note!(self, "{} shows {zxid}, digest {digest:x}", server + 1);
    }
}

/// Who reconfigures must be allowed to.
fn rules(options: &Options) -> Rules {
    let reconfig = options.reconfigs() > 0;
    Rules { skip_acl: reconfig, digest_scheme: true, enforce_quota: false, reconfig }
}

fn shard_settings(shard: u16, options: &Options) -> Settings {
    let tick_ms = options.tick_ms() as i32;
    Settings {
        shard,
        frame_bytes_max: 1 << 20,
        timeout_min_ms: 2 * tick_ms,
        timeout_max_ms: 20 * tick_ms,
        sessionless_timeout_ms: 10_000,
        outstanding_max: 1000,
        throttle: RequestThrottle { requests_max: 0, stall_ms: 100, stale_dropped: false, wait_ms_max: None },
        large_request_bytes: usize::MAX,
        large_requests_bytes_max: usize::MAX,
        watches_max: 1 << 20,
        rules: rules(options),
        super_digest: None,
        enforced_auth_schemes: Vec::new(),
        forwards: true,
        four_letter_words: Vec::new(),
    }
}
