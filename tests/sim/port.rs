//! What `shard::learner_port` does: links between leaders and learners, and the server's disk beyond the log.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, BytesMut};
use ringkeeper::proto::quorum::{HandOver, Packet, PacketKind};
use ringkeeper::storage::catch_up::CatchUp;
use ringkeeper::storage::compression::Compression;
use ringkeeper::storage::epoch;
use ringkeeper::storage::format::Link as LogLink;
use ringkeeper::storage::log::Log;
use ringkeeper::storage::snapshot_format::{Decoder, Encoder, Form, SnapshotSource};
use ringkeeper::storage::{replace, snapshot};
use ringkeeper::types::Zxid;
use ringkeeper::zab::effect::{Effect, Epochs, LinkId, MasterPort, StoredDiff};
use ringkeeper::zab::election;
use ringkeeper::zab::links;
use ringkeeper::zab::peer::Event;
use ringkeeper::zab::quorum::QuorumView;

use crate::faults::Moment;
use crate::network::{ConnId, End, Port};
use crate::peers::Input;
use crate::server::Wake;
use crate::world::{Caller, World, note};

/// See `shard::learner_port`.
const DIAL_PAUSES_MS: [u64; 9] = [5, 10, 20, 40, 80, 100, 100, 100, 100];
const MASTER_TRIES: usize = 3;
const BUSY_PAUSE_US: u64 = 1_000;
const PACKET_BYTES_MAX: usize = 2 << 20;

#[derive(Default)]
pub struct LearnerPort {
    links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    pub listening: Option<MasterPort>,
    /// What `Listen` asked for, if there was no `Unlisten` since.
    wants_to_listen: Option<MasterPort>,
    work: Option<Work>,
    /// Configurations that are to be written down, the first of them now.
    configs: VecDeque<QuorumView>,
}

/// One end of a link.
struct Link {
    conn: ConnId,
    /// What the socket has, and what was read from it.
    arrived: BytesMut,
    input: BytesMut,
    /// The stream behind a SNAP comes in.
    snapshot: Option<Decoder>,
    /// The other side has ended it, and what was sent before is yet to be read.
    ended: Option<String>,
    /// It is read again later.
    waiting: bool,
}

/// What the disk is at.
enum Work {
    SaveEpochs(Epochs),
    Reload(Option<Zxid>),
    Install(Box<SnapshotSource>),
}

impl LearnerPort {
    /// Whether the disk is at something that a crash may leave done or not.
    pub fn is_at_work(&self) -> bool {
        self.work.is_some()
    }
}

impl World {
    /// See `LearnerPort::carry_out`.
    pub fn carry_out(&mut self, server: usize, effect: Effect) {
        let id = server + 1;
        match effect {
            Effect::Send(link, bytes) => self.send_over(server, link, bytes.to_vec()),
            Effect::SendSnapshot(link, source) => {
                self.counts.snapshots_sent += 1;
                note!(self, "{id} sends a snapshot at {} over its link {link}", source.tree.zxid());
                let mut encoder = Encoder::new(&source, Form::Stream);
                let mut chunk = Vec::new();
                while encoder.next_chunk(&mut chunk) {
                    self.send_over(server, link, chunk.clone());
                }
            }
            Effect::SendLog(link, diff) => self.send_log(server, link, &diff),
            Effect::Close(link, why) => {
                note!(self, "{id} closes its link {link}: {why}");
                self.checker.heard(server, &why);
                self.end_link(server, link);
            }
            Effect::SaveEpochs(epochs) => self.begin_work(server, Work::SaveEpochs(epochs)),
            Effect::Truncate(zxid) => self.begin_work(server, Work::Reload(Some(zxid))),
            Effect::Reload => self.begin_work(server, Work::Reload(None)),
            Effect::Install(source) => self.begin_work(server, Work::Install(source)),
            Effect::Look(standing) => {
                note!(self, "{id} looks for a leader with {:?}", standing);
                let event = election::Event::Look { last_zxid: standing.zxid, current_epoch: standing.epoch.0.into() };
                self.drive(server, Input::Election(event));
            }
            Effect::Appoint { leader, zxid } => {
                self.drive(server, Input::Election(election::Event::Appointed { leader, zxid }));
            }
            Effect::Configure(view) => {
                if self.process(server).is_some_and(|process| process.elections.is_news(&view)) {
                    self.drive(server, Input::Links(links::Event::View(view.clone())));
                }
                self.drive(server, Input::Election(election::Event::View(view.clone())));
                let Some(process) = self.process(server) else { return };
                process.port.configs.push_back(view);
                if process.port.configs.len() == 1 {
                    self.write_config(server);
                }
            }
            Effect::Dial(master, at) => self.dial_master(server, master.0 as usize - 1, at, 0),
            Effect::Listen(at) => {
                let delay = self.soon_us();
                let Some(process) = self.process(server) else { return };
                process.port.wants_to_listen = Some(at);
                self.wake_after(server, delay, Wake::LearnerPortOpen);
            }
            Effect::Unlisten => {
                let Some(process) = self.process(server) else { return };
                (process.port.wants_to_listen, process.port.listening) = (None, None);
            }
            Effect::Serve(_, _, epoch) => {
                self.drive(server, Input::Election(election::Event::Established { epoch: epoch.0.into() }));
            }
            Effect::Succeed(HandOver { successor, supporters }, zxid) => {
                let event = election::Event::Succeed { leader: successor, zxid, supporters };
                self.drive(server, Input::Election(event));
            }
            // The last words are on their way: the network takes what it is given at once.
            Effect::Leave => {
                self.end_elections(server);
                self.happened(server, [Event::Left]);
            }
            // Nobody is told to serve without a leader.
            Effect::ServeReadOnly(_) | Effect::Unserve => {}
        }
    }

    pub fn learner_port_open(&mut self, server: usize) {
        if let Some(process) = self.process(server) {
            process.port.listening = process.port.wants_to_listen;
        }
    }

    fn send_over(&mut self, server: usize, link: LinkId, bytes: Vec<u8>) {
        let Some(process) = self.process(server) else { return };
        if let Some(conn) = process.port.links.get(&link).map(|link| link.conn)
            && let Some(side) = self.network.side_of(conn, End::Learner { server, link })
        {
            self.send(conn, side, bytes);
        }
    }

    /// See `shard::learner_port::send_log`.
    fn send_log(&mut self, server: usize, link: LinkId, diff: &StoredDiff) {
        let StoredDiff { packet, after, through } = diff;
        let Some(process) = self.process(server).filter(|process| process.port.links.contains_key(&link)) else {
            return;
        };
        let was_released = process.upkeep.stored_after > *after;
        self.counts.logs_sent += 1;
        note!(self, "{} sends its log behind {after}, up to {through}, over its link {link}", server + 1);
        let mut pieces = vec![packet.to_vec()];
        let disk = &self.servers[server].disk;
        let read = CatchUp::open(&disk.dir, *after, *through).and_then(|mut catch_up| {
            let mut more = true;
            while more {
                pieces.push(Vec::new());
                more = catch_up.next_piece(pieces.last_mut().expect("pushed just now"))?;
            }
            Ok(())
        });
        let Err(error) = read else {
            return pieces.into_iter().for_each(|piece| self.send_over(server, link, piece));
        };
        note!(self, "{} cannot send its log: {error}", server + 1);
        if !was_released && !disk.health.is_hurt() {
            let what = format!("server {} cannot read its log behind {after}, up to {through}: {error}", server + 1);
            return self.checker.violated("Effects", what);
        }
        let process = self.process(server).expect("it runs");
        process.upkeep.stored_after = process.upkeep.stored_after.max(*through);
        self.tell_stored(server);
        self.end_link(server, link);
        self.happened(server, [Event::LinkLost(link, "the log is not to be had for it".to_owned())]);
    }

    fn end_link(&mut self, server: usize, link: LinkId) {
        let Some(process) = self.process(server) else { return };
        if let Some(found) = process.port.links.remove(&link)
            && let Some(side) = self.network.side_of(found.conn, End::Learner { server, link })
        {
            self.close(found.conn, side);
        }
    }

    pub fn dial_master(&mut self, server: usize, master: usize, at: MasterPort, attempt: usize) {
        let incarnation = self.servers[server].incarnation;
        self.knock_at(server, Caller::Learner { server, incarnation, at, attempt }, master, Port::Learner(at));
    }

    pub fn link_answered(
        &mut self,
        server: usize,
        at: MasterPort,
        attempt: usize,
        master: usize,
        conn: Option<ConnId>,
    ) {
        let tries = if at == MasterPort::Quorum { DIAL_PAUSES_MS.len() } else { MASTER_TRIES - 1 };
        match conn {
            Some(conn) => {
                let end = self.begin_link(server, conn);
                if let (Some(found), End::Learner { link, .. }) = (self.network.conns.get_mut(&conn), end) {
                    found.ends[0] = end;
                    self.happened(server, [Event::LeaderConnected(link)]);
                }
            }
            None => match DIAL_PAUSES_MS[..tries].get(attempt) {
                Some(pause) => self.wake_after(server, pause * 1000, Wake::Dial { master, at, attempt: attempt + 1 }),
                None => self.happened(server, [Event::LeaderUnreachable(format!("server {}", master + 1))]),
            },
        }
    }

    fn begin_link(&mut self, server: usize, conn: ConnId) -> End {
        let Some(process) = self.process(server) else { return End::Gone };
        let link = process.port.next_link;
        process.port.next_link += 1;
        let (arrived, input) = (BytesMut::new(), BytesMut::new());
        process.port.links.insert(link, Link { conn, arrived, input, snapshot: None, ended: None, waiting: false });
        End::Learner { server, link }
    }

    pub fn accept_link(&mut self, server: usize, conn: ConnId) -> End {
        self.begin_link(server, conn)
    }

    /// Tells whoever has taken a connection of it.
    pub fn accepted(&mut self, end: End) {
        match end {
            End::Learner { server, link } => self.happened(server, [Event::LearnerConnected(link)]),
            End::Election { server, wire } => self.wire_accepted(server, wire),
            End::Gone | End::Client(_) | End::Shard { .. } => {}
        }
    }

    pub fn link_received(&mut self, server: usize, link: LinkId, bytes: &[u8]) {
        let Some(process) = self.process(server) else { return };
        let Some(found) = process.port.links.get_mut(&link) else { return };
        found.arrived.extend_from_slice(bytes);
        if !found.waiting {
            self.read_link(server, link);
        }
    }

    pub fn link_ended(&mut self, server: usize, link: LinkId, why: &str) {
        let Some(process) = self.process(server) else { return };
        let Some(found) = process.port.links.get_mut(&link) else { return };
        found.ended = Some(why.to_owned());
        if !found.waiting {
            self.read_link(server, link);
        }
    }

    /// See `LearnerPort::read`.
    pub fn read_link(&mut self, server: usize, id: LinkId) {
        loop {
            let Some(process) = self.process(server) else { return };
            let Some(link) = process.port.links.get_mut(&id) else { return };
            link.waiting = false;
            let mut events = Vec::new();
            let mut error = None;
            while link.snapshot.is_none() {
                match Packet::parse(&mut link.input, PACKET_BYTES_MAX) {
                    Ok(Some(packet)) => {
                        if packet.kind == PacketKind::Snap {
                            link.snapshot = Some(Decoder::new(Form::Stream, packet.zxid));
                        }
                        events.push(Event::Packet(id, packet));
                    }
                    Ok(None) => break,
                    Err(why) => {
                        error = Some(format!("what it sends is no packet: {why}"));
                        break;
                    }
                }
            }
            if !events.is_empty() {
                self.happened(server, events);
            }
            let Some(process) = self.process(server) else { return };
            let Some(link) = process.port.links.get_mut(&id) else { return };
            let mut received = None;
            if let Some(decoder) = &mut link.snapshot {
                match decoder.feed(&link.input) {
                    Ok(consumed) => {
                        link.input.advance(consumed);
                        if decoder.stream_ended() {
                            let decoder = link.snapshot.take().expect("looked at just now");
                            match decoder.finish(&[]) {
                                Ok(decoded) => received = Some(decoded.data_tree),
                                Err(why) => error = Some(format!("the snapshot cannot be read: {why}")),
                            }
                        }
                    }
                    Err(why) => error = Some(format!("the snapshot cannot be read: {why}")),
                }
            }
            if let Some(why) = error {
                self.checker.violated("Agreement", format!("server {} cannot read its link: {why}", server + 1));
                return;
            }
            if let Some(data_tree) = received {
                if let Some(leader) = self.other_end(server, id) {
                    self.at_moment(Moment::SnapshotIn, leader, 0);
                }
                self.happened(server, [Event::SnapshotReceived(id, Box::new(data_tree))]);
                continue;
            }
            let Some(process) = self.process(server) else { return };
            let busy = process.peer.is_busy();
            let Some(link) = process.port.links.get_mut(&id) else { return };
            if busy && link.snapshot.is_none() {
                link.waiting = true;
                return self.wake_after(server, BUSY_PAUSE_US, Wake::Read(id));
            }
            if link.arrived.is_empty() {
                if let Some(why) = link.ended.take() {
                    process.port.links.remove(&id);
                    self.happened(server, [Event::LinkLost(id, why)]);
                }
                return;
            }
            let arrived = link.arrived.split();
            link.input.extend_from_slice(&arrived);
        }
    }

    /// The host at the other end of a link.
    fn other_end(&self, server: usize, link: LinkId) -> Option<usize> {
        let conn = self.servers[server].process.as_ref()?.port.links.get(&link)?.conn;
        let side = self.network.side_of(conn, End::Learner { server, link })?;
        Some(self.network.conns.get(&conn)?.hosts[1 - side])
    }

    fn begin_work(&mut self, server: usize, work: Work) {
        let usual = self.options.flush_us();
        let mut took = 2 * usual + self.chance.below(4 * usual as usize + 1) as u64;
        if self.options.stalls() > 0 && self.chance.chance(50) {
            // Sooner than a flush that stalls.
            took /= 8;
        }
        if self.servers[server].disk.slow_until_us > self.now_us {
            took += self.chance.below(2_000_000) as u64;
        }
        let moment = if matches!(work, Work::SaveEpochs(_)) { Moment::Saves } else { Moment::Replaces };
        let Some(process) = self.process(server) else { return };
        if process.port.work.replace(work).is_some() {
            return self.checker.violated("Effects", format!("server {} has two works for its disk", server + 1));
        }
        self.wake_after(server, took, Wake::DiskDone);
        self.at_moment(moment, server, 2 * took);
    }

    pub fn disk_done(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        // One at a time at the files.
        if process.upkeep.is_at_files() {
            return self.wake_after(server, 1_000, Wake::DiskDone);
        }
        let Some(work) = process.port.work.take() else { return };
        match self.do_work(server, work) {
            Ok(event) => self.happened(server, [event]),
            Err(why) => {
                note!(self, "{} fails: {why}", server + 1);
                self.process_fails(server);
            }
        }
    }

    /// See `LearnerPort::keep_configs`.
    fn write_config(&mut self, server: usize) {
        let reconfigures = self.options.reconfigs() > 0;
        let delay = if reconfigures { self.work_us() / 4 } else { self.soon_us() };
        self.wake_after(server, delay, Wake::Configured);
    }

    pub fn config_written(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        let view = process.port.configs.pop_front().expect("it was being written");
        let is_last = process.port.configs.is_empty();
        self.servers[server].config = Some(view);
        if !is_last {
            self.write_config(server);
        }
        self.happened(server, [Event::Configured]);
    }

    /// The crash comes when the work is partly done, or done before anybody knows.
    pub fn interrupt_work(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        if let Some(view) = process.port.configs.pop_front()
            && self.chance.chance(50)
        {
            self.servers[server].config = Some(view);
        }
        let Some(process) = self.process(server) else { return };
        let Some(work) = process.port.work.take() else { return };
        let steps = self.chance.below(16);
        let disk = &self.servers[server].disk;
        let dir = &disk.dir;
        let source = match work {
            Work::SaveEpochs(epochs) => return disk.interrupted(steps, || drop(epoch::save(dir, epochs))),
            Work::Install(source) => *source,
            Work::Reload(None) => return,
            Work::Reload(until) => match disk.read_back(until) {
                Ok(recovery) if Some(recovery.data_tree.tree().zxid()) == until => {
                    SnapshotSource::of(&recovery.data_tree, true)
                }
                _ => return,
            },
        };
        disk.interrupted(steps, || drop(replace::replace(dir, dir, &source, Compression::None)));
    }

    fn do_work(&mut self, server: usize, work: Work) -> Result<Event, String> {
        let dir = self.servers[server].disk.dir.clone();
        let id = server + 1;
        match work {
            Work::SaveEpochs(epochs) => {
                self.servers[server].disk.at_files(|| epoch::save(&dir, epochs)).map_err(|error| error.to_string())?;
                note!(self, "{id} has saved {epochs:?}");
                Ok(Event::EpochsSaved)
            }
            Work::Install(source) => {
                self.replace(server, &source)?;
                note!(self, "{id} has installed {}", source.tree.zxid());
                Ok(Event::Installed)
            }
            Work::Reload(until) => {
                let why = match (self.servers[server].disk.read_back(until), until) {
                    (Ok(recovery), None) => {
                        let zxid = recovery.data_tree.tree().zxid();
                        note!(self, "{id} has read back {zxid}");
                        self.set_appended(server, zxid);
                        return Ok(Event::Reloaded(Box::new(recovery.data_tree)));
                    }
                    (Ok(recovery), Some(zxid)) if recovery.data_tree.tree().zxid() == zxid => {
                        self.replace(server, &SnapshotSource::of(&recovery.data_tree, true))?;
                        note!(self, "{id} has cut its log behind {zxid}");
                        return Ok(Event::Reloaded(Box::new(recovery.data_tree)));
                    }
                    (Ok(recovery), Some(zxid)) => {
                        format!("the leader knows {zxid}, here is {}", recovery.data_tree.tree().zxid())
                    }
                    (Err(error), _) => error.to_string(),
                };
                note!(self, "{id} gives its history up: {why}");
                // A whole state was installed, of which the next leader knows only a part.
                let snapshots = snapshot::list(&dir).unwrap_or_default();
                let cannot_go_back = until.is_some_and(|until| snapshots.iter().all(|snapshot| snapshot.zxid > until));
                if !self.servers[server].disk.health.is_hurt() && !cannot_go_back {
                    self.checker.violated("Recovery", format!("server {id} gives its history up: {why}"));
                }
                self.restart_log(server, Zxid::ZERO);
                self.servers[server]
                    .disk
                    .at_files(|| replace::set_aside(&dir, &dir))
                    .map_err(|error| error.to_string())?;
                self.servers[server].disk.health.begins_anew();
                self.keep_segments_ready(server);
                Ok(Event::HistoryLost)
            }
        }
    }

    /// See `Upkeep::replace`.
    fn replace(&mut self, server: usize, source: &SnapshotSource) -> Result<(), String> {
        let dir = self.servers[server].disk.dir.clone();
        self.restart_log(server, source.tree.zxid());
        self.servers[server]
            .disk
            .at_files(|| replace::replace(&dir, &dir, source, Compression::None))
            .map_err(|error| error.to_string())?;
        self.servers[server].disk.health.begins_anew();
        self.keep_segments_ready(server);
        Ok(())
    }

    /// See `Broadcast::restart_log`.
    fn restart_log(&mut self, server: usize, zxid: Zxid) {
        self.set_appended(server, zxid);
        let Some(process) = self.process(server) else { return };
        assert!(process.unlogged.is_empty(), "who replaces the log has nothing to log");
        let flushes_max = process.log.flushes_max();
        process.log = Log::new(LogLink { zxid, ..LogLink::default() }, flushes_max);
        process.upkeep.forget_files();
        process.upkeep.stored_after = zxid;
    }

    fn set_appended(&mut self, server: usize, zxid: Zxid) {
        if let Some(process) = self.process(server) {
            process.appended = zxid;
        }
    }
}
