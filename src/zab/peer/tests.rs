//! Whole ensembles of [`Peer`]s in one thread: links that are FIFO, disks that work at once or when told, and an election
//! that picks whoever has come furthest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use super::*;
use crate::proto::client::AclList;
use crate::proto::op::{OpCode, WriteOp};
use crate::proto::quorum::{self, PacketKind};
use crate::request::pipeline::{SessionChange, WriteRequest};
use crate::storage::snapshot_format::{Decoder, Encoder, Form};
use crate::tree::Outcome;
use crate::types::{CnxnId, Epoch, SessionId};
use crate::zab::effect::LAST_COUNTER;
use crate::zab::effect::{Standing, StoredDiff};
use crate::zab::history::Limits;
use crate::zab::masters::Observing;
use crate::zab::quorum::QuorumVerifier;

mod hand_over;
mod hazards;
mod local_sessions;
mod observer_masters;
mod points;
mod reconfig;

const TICK_MS: u64 = 2000;
const THREE: &str = "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\nversion=0";
const CNXN: CnxnId = CnxnId { shard: 0, slot: 7, generation: 0 };

/// What a server has on disk.
#[derive(Clone)]
struct Disk {
    epochs: Epochs,
    base: DataTree,
    log: Vec<(Zxid, Bytes)>,
}

impl Disk {
    fn recover(&self) -> (DataTree, History) {
        self.recover_with(Limits::default())
    }

    fn recover_with(&self, limits: Limits) -> (DataTree, History) {
        let mut data_tree = self.base.clone();
        let mut history = History::new(data_tree.tree().zxid(), limits);
        for (zxid, payload) in &self.log {
            let logged = LoggedTxn::decode(payload).unwrap();
            assert!(zxid.follows(data_tree.tree().zxid()), "{zxid} after {}", data_tree.tree().zxid());
            data_tree.apply(&logged.header, &logged.txn);
            history.push(*zxid, payload.clone());
        }
        (data_tree, history)
    }
}

enum Sent {
    Bytes(Bytes),
    Snapshot(Box<SnapshotSource>),
}

struct Server {
    peer: Option<Peer>,
    disk: Disk,
    /// Not durable yet.
    unflushed: Vec<(Zxid, Bytes)>,
    /// Flushes wait while set.
    disk_stuck: bool,
    /// So do the epochs, which stand here then.
    epochs_stuck: bool,
    unsaved: Option<Epochs>,
    /// The configurations that it has on disk, and whether it may write others.
    view: QuorumView,
    config_stuck: bool,
    /// Who leads by a reconfiguration.
    appointed: Option<ServerId>,
    /// What was on its disk was lost.
    in_doubt: bool,
    looking: Option<Standing>,
    /// Whom the leader that stopped has named.
    named: Option<HandOver>,
    listening: Option<MasterPort>,
    serving: Option<(Mode, Tree)>,
    replies: Vec<(i32, Outcome)>,
    opened: Vec<SessionId>,
    /// Ends of sessions that their clients asked for.
    closed: Vec<SessionChange>,
    answers: Vec<Answer>,
    notes: Vec<String>,
}

/// One link, and what is on its way: to the leader, to the learner.
struct Link {
    learner: i64,
    leader: i64,
    up: VecDeque<Sent>,
    down: VecDeque<Sent>,
    parsed: [BytesMut; 2],
    open: bool,
}

struct Cluster {
    servers: BTreeMap<i64, Server>,
    links: BTreeMap<LinkId, Link>,
    now: Instant,
    cut: BTreeSet<(i64, i64)>,
    /// Wall clocks that show the same at any time.
    stopped_clocks: BTreeMap<i64, WallMs>,
    /// The newest that anybody has.
    view: QuorumView,
    last_counter: u32,
    reconfig: bool,
    /// What concerns observers, but for the seed.
    history: Limits,
    snapshot_size_factor: f64,
    observing: Observing,
    /// How often anybody had to look for a leader.
    elections: usize,
    local_sessions: Option<local::Rules>,
    read_only_after_ms: Option<u64>,
    throttle: throttle::Settings,
    /// Servers that say of themselves what Apache's do, and no more.
    strangers: BTreeSet<i64>,
    /// Behind which transactions logs were sent to learners, and up to which.
    logs_sent: Vec<(Zxid, Zxid)>,
    /// What servers tell their leader that they have accepted, whatever that is.
    said_accepted: BTreeMap<i64, Epoch>,
}

use crate::proto::txn::LoggedTxn;
use crate::tree::Tree;

impl Cluster {
    fn new(config: &str) -> Cluster {
        let view = QuorumView::new(QuorumVerifier::parse(config).unwrap());
        let mut cluster = Cluster {
            servers: BTreeMap::new(),
            links: BTreeMap::new(),
            now: Instant(1_000_000),
            cut: BTreeSet::new(),
            stopped_clocks: BTreeMap::new(),
            view,
            last_counter: LAST_COUNTER,
            local_sessions: None,
            read_only_after_ms: None,
            throttle: throttle::Settings::default(),
            strangers: BTreeSet::new(),
            logs_sent: Vec::new(),
            said_accepted: BTreeMap::new(),
            reconfig: false,
            history: Limits::default(),
            snapshot_size_factor: 0.0,
            observing: Observing::default(),
            elections: 0,
        };
        let ids: Vec<i64> = cluster.view.current().members().map(|member| member.id.0).collect();
        for id in ids {
            cluster.add(id, cluster.view.clone());
        }
        cluster
    }

    /// A server that has never run.
    fn add(&mut self, id: i64, view: QuorumView) {
        let disk = Disk { epochs: Epochs::default(), base: DataTree::new(), log: Vec::new() };
        let server = Server {
            peer: None,
            disk,
            unflushed: Vec::new(),
            disk_stuck: false,
            epochs_stuck: false,
            unsaved: None,
            view,
            config_stuck: false,
            appointed: None,
            in_doubt: false,
            looking: None,
            named: None,
            listening: None,
            serving: None,
            replies: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            answers: Vec::new(),
            notes: Vec::new(),
        };
        self.servers.insert(id, server);
    }

    fn three() -> Cluster {
        Cluster::three_with(LAST_COUNTER)
    }

    fn three_with(last_counter: u32) -> Cluster {
        let mut cluster = Cluster::new(THREE);
        cluster.last_counter = last_counter;
        for id in 1..=3 {
            cluster.start(id);
        }
        cluster
    }

    fn start(&mut self, id: i64) {
        let server = self.servers.get_mut(&id).unwrap();
        let (data_tree, history) = server.disk.recover_with(self.history);
        let settings = Settings {
            id: ServerId(id),
            tick_ms: TICK_MS,
            init_limit: 10,
            sync_limit: 5,
            last_counter: self.last_counter,
            history: self.history,
            snapshot_size_factor: self.snapshot_size_factor,
            reconfig: self.reconfig,
            participants_min: 2,
            observing: Observing { seed: id as u64, ..self.observing },
        };
        let rules = Rules { skip_acl: false, digest_scheme: true, enforce_quota: false, reconfig: self.reconfig };
        let ordering = Ordering {
            rules,
            containers: containers::Settings::default(),
            digests: true,
            grace_ms: 200,
            local_sessions: self.local_sessions,
            read_only_after_ms: self.read_only_after_ms,
            throttle: self.throttle,
        };
        server.peer = Some(Peer::new(
            settings,
            ordering,
            server.view.clone(),
            server.disk.epochs,
            data_tree,
            history,
            server.in_doubt,
        ));
        self.pump(id);
    }

    /// The process dies: what was not flushed is lost.
    fn kill(&mut self, id: i64) {
        let server = self.servers.get_mut(&id).unwrap();
        server.peer = None;
        server.unflushed.clear();
        server.unsaved = None;
        (server.looking, server.named, server.listening) = (None, None, None);
        (server.serving, server.appointed) = (None, None);
        for link in self.links.values_mut().filter(|link| link.learner == id || link.leader == id) {
            link.open = false;
        }
        self.hang_up();
    }

    /// Tells those who are left of links that are closed.
    fn hang_up(&mut self) {
        let closed: Vec<LinkId> = self.links.iter().filter(|(_, link)| !link.open).map(|(id, _)| *id).collect();
        for id in closed {
            let link = self.links.remove(&id).unwrap();
            for end in [link.learner, link.leader] {
                self.event(end, Event::LinkLost(id, "closed".to_owned()));
            }
        }
    }

    fn event(&mut self, id: i64, event: Event) {
        self.events(id, [event]);
    }

    fn events(&mut self, id: i64, events: impl IntoIterator<Item = Event>) {
        let wall = WallMs(1_700_000_000_000 + self.now.0 as i64);
        let wall = self.stopped_clocks.get(&id).copied().unwrap_or(wall);
        if let Some(peer) = &mut self.servers.get_mut(&id).unwrap().peer {
            events.into_iter().for_each(|event| peer.handle(self.now, wall, event));
            self.pump(id);
        }
    }

    fn pump(&mut self, id: i64) {
        let now = self.now;
        let server = self.servers.get_mut(&id).unwrap();
        let mut output = server.peer.as_mut().unwrap().pump(now);
        server.unflushed.extend(output.log);
        server.notes.extend(output.notes);
        let mut then = Vec::new();
        for effect in std::mem::take(&mut output.effects) {
            match effect {
                Effect::Send(link, bytes) => self.send(id, link, Sent::Bytes(bytes)),
                Effect::SendSnapshot(link, source) => self.send(id, link, Sent::Snapshot(source)),
                Effect::SendLog(link, StoredDiff { packet, after, through }) => {
                    let log = &self.servers[&id].disk.log;
                    assert!(log.iter().any(|(zxid, _)| *zxid == after), "{after} is not in the log");
                    let mut packets = packet.to_vec();
                    for (zxid, payload) in log.iter().filter(|(zxid, _)| *zxid > after && *zxid <= through) {
                        quorum::put_committed(&mut packets, *zxid, payload);
                    }
                    self.logs_sent.push((after, through));
                    self.send(id, link, Sent::Bytes(packets.into()));
                }
                Effect::Close(link, _) => {
                    if let Some(link) = self.links.get_mut(&link) {
                        link.open = false;
                    }
                }
                Effect::SaveEpochs(epochs) if self.servers[&id].epochs_stuck => self.server(id).unsaved = Some(epochs),
                Effect::SaveEpochs(epochs) => {
                    self.server(id).disk.epochs = epochs;
                    then.push(Event::EpochsSaved);
                }
                Effect::Truncate(zxid) => {
                    let disk = &mut self.server(id).disk;
                    disk.log.retain(|(logged, _)| *logged <= zxid);
                    let (data_tree, _) = disk.recover();
                    if data_tree.tree().zxid() == zxid {
                        then.push(Event::Reloaded(Box::new(data_tree)));
                    } else {
                        self.lose_disk(id);
                        then.push(Event::HistoryLost);
                    }
                }
                Effect::Reload => {
                    let (data_tree, _) = self.server(id).disk.recover();
                    then.push(Event::Reloaded(Box::new(data_tree)));
                }
                Effect::Install(source) => {
                    let disk = &mut self.server(id).disk;
                    (disk.base, disk.log) = (stream(&source), Vec::new());
                    self.server(id).in_doubt = false;
                    then.push(Event::Installed);
                }
                Effect::Look(standing) => {
                    self.elections += 1;
                    self.server(id).looking = Some(standing);
                }
                Effect::Appoint { leader, .. } => self.server(id).appointed = Some(leader),
                Effect::Configure(view) => {
                    if view.current().version() > self.view.current().version() {
                        self.view = view.clone();
                    }
                    let server = self.server(id);
                    if !server.config_stuck {
                        server.view = view;
                        then.push(Event::Configured);
                    }
                }
                Effect::Dial(master, at) => then.push(self.dial(id, master.0, at)),
                Effect::Listen(at) => self.server(id).listening = Some(at),
                Effect::Unlisten => self.server(id).listening = None,
                Effect::Succeed(hand_over, _) => self.server(id).named = Some(hand_over),
                Effect::Leave => then.push(Event::Left),
                Effect::Serve(mode, tree, _) => self.server(id).serving = Some((mode, tree)),
                Effect::ServeReadOnly(tree) => self.server(id).serving = Some((Mode::ReadOnly, tree)),
                Effect::Unserve => {
                    self.show(id, std::mem::take(&mut output.batches));
                    self.server(id).serving = None;
                }
            }
        }
        self.show(id, output.batches);
        self.server(id).answers.extend(output.answers);
        for event in then {
            self.event(id, event);
        }
    }

    fn show(&mut self, id: i64, batches: Vec<CommitBatch>) {
        let server = self.server(id);
        for batch in batches {
            for commit in batch.commits {
                if let (Some(_), SessionChange::Closed(_)) = (commit.to, commit.session) {
                    server.closed.push(commit.session);
                }
                match (commit.to, commit.session) {
                    (Some((CNXN, _)), SessionChange::Opened { session, .. }) => server.opened.push(session),
                    (Some((CNXN, xid)), _) => server.replies.push((xid, commit.outcome)),
                    _ => {}
                }
            }
            server.serving.as_mut().expect("only who serves makes anything visible").1 = batch.tree;
        }
    }

    /// Nothing is left but the epochs and the knowledge that there was more.
    fn lose_disk(&mut self, id: i64) {
        let server = self.server(id);
        (server.disk.base, server.disk.log, server.in_doubt) = (DataTree::new(), Vec::new(), true);
    }

    /// The accepted and the current epoch on a server's disk.
    fn epochs(&self, id: i64) -> (Epoch, Epoch) {
        let Epochs { accepted, current, .. } = self.servers[&id].disk.epochs;
        (accepted, current)
    }

    /// The disk takes epochs again, and those that wait.
    fn save_epochs(&mut self, id: i64) {
        let server = self.server(id);
        server.epochs_stuck = false;
        if let Some(epochs) = server.unsaved.take() {
            server.disk.epochs = epochs;
            self.event(id, Event::EpochsSaved);
        }
    }

    fn server(&mut self, id: i64) -> &mut Server {
        self.servers.get_mut(&id).unwrap()
    }

    fn send(&mut self, from: i64, id: LinkId, sent: Sent) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.learner == from { link.up.push_back(sent) } else { link.down.push_back(sent) }
    }

    fn dial(&mut self, learner: i64, leader: i64, at: MasterPort) -> Event {
        if self.servers[&leader].listening != Some(at) || self.cut.contains(&(learner, leader)) {
            return Event::LeaderUnreachable("refused".to_owned());
        }
        let id = self.links.keys().last().map_or(0, |last| last + 1);
        let link = Link {
            learner,
            leader,
            up: VecDeque::new(),
            down: VecDeque::new(),
            parsed: [BytesMut::new(), BytesMut::new()],
            open: true,
        };
        self.links.insert(id, link);
        self.event(leader, Event::LearnerConnected(id));
        Event::LeaderConnected(id)
    }

    /// Lets everything happen that is on its way, then some time pass, `steps` times.
    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.elect();
            self.deliver_all();
            self.now = self.now.after_ms(TICK_MS / 4);
            let ids: Vec<i64> = self.servers.keys().copied().collect();
            for id in ids {
                self.event(id, Event::Tick);
            }
            self.deliver_all();
        }
    }

    /// Whoever looks hears who leads: a leader that serves, or the furthest of a quorum that looks.
    fn elect(&mut self) {
        let appointed: BTreeMap<i64, ServerId> =
            self.servers.iter_mut().filter_map(|(id, server)| Some((*id, server.appointed.take()?))).collect();
        let mut ids: Vec<i64> = appointed.keys().copied().collect();
        ids.sort_by_key(|id| appointed[id].0 != *id);
        for id in ids {
            self.event(id, Event::Elected(appointed[&id], self.view.voters()));
        }
        let newest = (**self.view.current()).clone();
        for (id, version) in self.looking_with_versions() {
            if self.reconfig && version < newest.version() {
                // As it hears from the others.
                self.event(id, Event::Adopted(newest.clone()));
            }
        }
        let named: BTreeMap<i64, HandOver> =
            self.servers.iter_mut().filter_map(|(id, server)| Some((*id, server.named.take()?))).collect();
        let mut ids: Vec<i64> = named.keys().copied().collect();
        ids.sort_by_key(|id| ServerId(*id) != named[id].successor);
        for id in ids {
            let HandOver { successor, supporters } = named[&id].clone();
            self.event(id, Event::Elected(successor, supporters));
        }
        let leader =
            self.servers.iter().find(|(_, s)| matches!(s.serving, Some((Mode::Leading, _)))).map(|(id, _)| *id);
        let looking: BTreeMap<i64, Standing> =
            self.servers.iter().filter_map(|(id, server)| Some((*id, server.looking?))).collect();
        let voters: BTreeSet<ServerId> =
            looking.keys().map(|id| ServerId(*id)).filter(|id| self.view.is_voter(*id)).collect();
        let best =
            looking.iter().filter(|(id, _)| self.view.is_voter(ServerId(**id))).max_by_key(|(id, s)| (**s, **id));
        let elected = match (leader, best) {
            (Some(leader), _) => leader,
            (None, Some((best, _))) if self.view.contains_quorum(&voters) => *best,
            _ => return,
        };
        let mut ids: Vec<i64> = looking.into_keys().collect();
        // The leader opens its port before anybody comes.
        ids.sort_by_key(|id| *id != elected);
        for id in ids {
            self.server(id).looking = None;
            self.event(id, Event::Elected(ServerId(elected), voters.clone()));
        }
    }

    fn looking_with_versions(&self) -> Vec<(i64, i64)> {
        let looking = self.servers.iter().filter(|(_, server)| server.looking.is_some());
        looking.filter_map(|(id, s)| Some((*id, s.peer.as_ref()?.view().current().version()))).collect()
    }

    fn deliver_all(&mut self) {
        while self.flush() | self.deliver() {}
        self.hang_up();
    }

    fn flush(&mut self) -> bool {
        let ids: Vec<i64> = self.servers.keys().copied().collect();
        let mut any = false;
        for id in ids {
            let server = self.server(id);
            if server.disk_stuck || server.unflushed.is_empty() {
                continue;
            }
            any = true;
            let flushed = std::mem::take(&mut server.unflushed);
            let last = flushed.last().unwrap().0;
            server.disk.log.extend(flushed);
            self.event(id, Event::Durable(last));
        }
        any
    }

    fn deliver(&mut self) -> bool {
        let ends: Vec<(LinkId, bool)> = self.links.keys().flat_map(|id| [(*id, true), (*id, false)]).collect();
        ends.into_iter().fold(false, |any, (id, up)| self.deliver_one(id, up) | any)
    }

    /// Delivers what is first on its way to the leader (`up`) or the learner.
    fn deliver_one(&mut self, id: LinkId, up: bool) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let (from, to) = if up { (link.learner, link.leader) } else { (link.leader, link.learner) };
        if self.cut.contains(&(from, to)) {
            return false;
        }
        let Some(sent) = (if up { link.up.pop_front() } else { link.down.pop_front() }) else { return false };
        match sent {
            Sent::Bytes(bytes) => {
                let parsed = &mut link.parsed[usize::from(up)];
                parsed.extend_from_slice(&bytes);
                let mut packets = Vec::new();
                while let Some(mut packet) = Packet::parse(parsed, 1 << 20).unwrap() {
                    if packet.kind == PacketKind::FollowerInfo && self.strangers.contains(&from) {
                        packet.data = packet.data.map(|data| data.slice(..20));
                    }
                    if packet.kind == PacketKind::FollowerInfo {
                        packet.zxid = self.said_accepted.get(&from).map_or(packet.zxid, |epoch| epoch.zxid());
                    }
                    packets.push(packet);
                }
                // What came together is handled together, as by the driver.
                self.events(to, packets.into_iter().map(|packet| Event::Packet(id, packet)));
            }
            Sent::Snapshot(source) => self.event(to, Event::SnapshotReceived(id, Box::new(stream(&source)))),
        }
        true
    }

    fn modes(&self) -> Vec<(i64, Option<Mode>)> {
        self.servers.iter().map(|(id, s)| (*id, s.serving.as_ref().map(|(mode, _)| *mode))).collect()
    }

    fn leader(&self) -> i64 {
        let leads = |s: &Server| matches!(s.serving, Some((Mode::Leading, _)));
        *self.servers.iter().find(|(_, s)| leads(s)).expect("somebody leads").0
    }

    fn open_session(&mut self, at: i64) -> SessionId {
        self.event(at, Event::Ask(Ask::OpenSession { cnxn: CNXN, timeout_ms: 30_000, session: None }));
        self.deliver_all();
        *self.servers[&at].opened.last().expect("a session was opened")
    }

    fn write(&mut self, at: i64, path: &str) {
        let session = self.open_session(at);
        self.create(at, session, 1, path);
        self.deliver_all();
    }

    fn create(&mut self, at: i64, session: SessionId, xid: i32, path: &str) {
        self.create_as(at, session, xid, path, 0);
    }

    fn create_as(&mut self, at: i64, session: SessionId, xid: i32, path: &str, flags: i32) {
        let body: Bytes = {
            use crate::jute::Write as _;
            let mut body = Vec::new();
            body.put_string(path);
            body.put_buffer(Some(b"data"));
            body.put_vector(&[()], |body, ()| {
                body.put_int(31);
                body.put_string("world");
                body.put_string("anyone");
            });
            body.put_int(flags);
            body.into()
        };
        let op = WriteOp::decode(OpCode::Create, &body, &body);
        assert!(matches!(&op, WriteOp::Create { acl: Some(acl), .. } if *acl == AclList::OPEN), "{op:?}");
        self.ask_with(at, session, xid, op, OpCode::Create, body);
    }

    fn ask(&mut self, at: i64, session: SessionId, xid: i32, op: WriteOp, code: OpCode) {
        self.ask_with(at, session, xid, op, code, Bytes::new());
    }

    fn ask_with(&mut self, at: i64, session: SessionId, xid: i32, op: WriteOp, code: OpCode, body: Bytes) {
        let forward = Some(Box::new((code as i32, body)));
        let ids = Arc::new(Vec::new());
        let request = WriteRequest { cnxn: CNXN, session, xid, op, ids, capture: false, forward };
        self.event(at, Event::Ask(Ask::Write(request)));
    }

    /// All who serve show the same tree.
    #[track_caller]
    fn assert_agreement(&self) {
        let trees: BTreeSet<(Zxid, u64)> =
            self.servers.values().filter_map(|s| s.serving.as_ref()).map(|(_, t)| (t.zxid(), t.digest())).collect();
        assert_eq!(trees.len(), 1, "{trees:?}");
    }

    #[track_caller]
    fn assert_everywhere(&self, path: &str, there: bool) {
        for (id, server) in &self.servers {
            if let Some((_, tree)) = &server.serving {
                assert_eq!(tree.get(path).is_some(), there, "{path} on {id}");
            }
        }
    }
}

fn stream(source: &SnapshotSource) -> DataTree {
    let mut encoder = Encoder::new(source, Form::Stream);
    let mut decoder = Decoder::new(Form::Stream, source.tree.zxid());
    let mut chunk = Vec::new();
    while encoder.next_chunk(&mut chunk) {
        assert_eq!(decoder.feed(&chunk).unwrap(), chunk.len(), "the stream is one piece");
    }
    decoder.finish(&[]).unwrap().data_tree
}

#[test]
fn three_servers_elect_write_and_agree() {
    let mut c = Cluster::three();
    c.run(2);
    assert_eq!(c.modes(), [(1, Some(Mode::Following)), (2, Some(Mode::Following)), (3, Some(Mode::Leading))]);
    assert_eq!(c.epochs(1), (Epoch(1), Epoch(1)));
    for (at, path) in [(1, "/at_a_follower"), (3, "/at_the_leader")] {
        let session = c.open_session(at);
        assert_eq!(session.0 >> 56, at, "who opens a session chooses its id");
        c.create(at, session, 1, path);
        c.create(at, session, 2, path);
        c.deliver_all();
        let replies: Vec<(i32, bool)> =
            c.servers[&at].replies.iter().map(|(xid, o)| (*xid, matches!(o, Outcome::Created { .. }))).collect();
        assert_eq!(replies[replies.len() - 2..], [(1, true), (2, false)]);
        c.assert_everywhere(path, true);
    }
    c.assert_agreement();
}

#[test]
fn a_write_is_visible_only_when_a_quorum_has_it_durable() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    for id in 1..=3 {
        c.server(id).disk_stuck = true;
    }
    c.create(1, session, 1, "/a");
    c.deliver_all();
    c.assert_everywhere("/a", false);
    c.server(3).disk_stuck = false;
    c.deliver_all();
    c.assert_everywhere("/a", false);
    c.server(2).disk_stuck = false;
    c.deliver_all();
    c.assert_everywhere("/a", true);
    assert_eq!(c.servers[&1].replies.len(), 1, "the reply is there, though the follower's own disk is stuck");
}

/// A snapshot of what the own log does not have leaves a gap in the log behind the snapshot before it.
#[test]
fn what_a_quorum_has_committed_is_safe_on_a_server_once_its_own_log_has_it() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    let shown_and_safe = |c: &Cluster, id: i64| {
        let peer = c.servers[&id].peer.as_ref().unwrap();
        (peer.state().unwrap().1, peer.safe().unwrap())
    };
    let (before, _) = shown_and_safe(&c, 1);
    for slow in [1, 3] {
        c.server(slow).disk_stuck = true;
        c.create(1, session, slow as i32, &format!("/{slow}"));
        c.deliver_all();
        let (shown, safe) = shown_and_safe(&c, slow);
        assert!(shown > safe && safe >= before, "server {slow} shows {shown}, and {safe} is safe");
        c.server(slow).disk_stuck = false;
        c.deliver_all();
        assert_eq!(shown_and_safe(&c, slow), (shown, shown));
    }
}

#[test]
fn a_leader_whose_disk_takes_nothing_in_makes_room_for_another() {
    let mut c = Cluster::three();
    c.run(2);
    assert_eq!(c.leader(), 3);
    c.run(40);
    assert_eq!(c.leader(), 3, "nothing was written, so nothing is missing");
    let session = c.open_session(1);
    c.server(3).disk_stuck = true;
    c.create(1, session, 1, "/a");
    c.deliver_all();
    c.assert_everywhere("/a", true);
    c.run(40);
    assert_eq!(c.leader(), 2);
    assert_eq!(c.modes()[2], (3, None), "it does not vote before it knows what is on its disk");
    c.server(3).disk_stuck = false;
    c.run(4);
    assert_eq!(c.modes()[2], (3, Some(Mode::Following)));
    c.assert_everywhere("/a", true);
    c.assert_agreement();
}

/// A new leader would be no better off: this one is needed, and waits.
#[test]
fn a_leader_that_the_others_cannot_do_without_waits_for_its_disk() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(2);
    c.kill(1);
    c.server(3).disk_stuck = true;
    c.create(2, session, 1, "/a");
    c.run(40);
    assert_eq!(c.leader(), 3);
    c.assert_everywhere("/a", false);
    c.server(3).disk_stuck = false;
    c.deliver_all();
    assert_eq!(c.leader(), 3);
    c.assert_everywhere("/a", true);
}

#[test]
fn what_was_acknowledged_survives_the_leader() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.create(1, session, 1, "/acknowledged");
    c.deliver_all();
    c.kill(3);
    c.run(4);
    assert_eq!(c.leader(), 2);
    c.assert_everywhere("/acknowledged", true);
    let session = c.open_session(1);
    c.create(1, session, 1, "/after");
    c.deliver_all();
    c.start(3);
    c.run(4);
    assert_eq!(c.modes()[2], (3, Some(Mode::Following)));
    c.assert_everywhere("/after", true);
    c.assert_agreement();
}

#[test]
fn a_lost_leaders_own_transaction_is_cut_from_its_log() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(3);
    for other in [1, 2] {
        c.cut.extend([(3, other), (other, 3)]);
    }
    c.create(3, session, 1, "/nobody_knows");
    c.deliver_all();
    assert_eq!(c.servers[&3].disk.log.len(), 2, "it is in the leader's log");
    c.run(30);
    assert_eq!(c.servers[&3].serving.as_ref().map(|(mode, _)| *mode), None, "a leader without a quorum steps down");
    assert_eq!(c.leader(), 2);
    let session = c.open_session(1);
    c.create(1, session, 1, "/known");
    c.deliver_all();
    c.cut.clear();
    // It may be waiting for learners of its own by now.
    c.run(50);
    assert_eq!(c.modes()[2], (3, Some(Mode::Following)), "{:?}", c.servers[&3].notes);
    c.assert_everywhere("/nobody_knows", false);
    c.assert_everywhere("/known", true);
    c.assert_agreement();
    assert_eq!(c.servers[&3].disk.recover().0.tree().digest(), c.servers[&2].disk.recover().0.tree().digest());
}

#[test]
fn a_fresh_server_gets_a_snapshot_and_starts_from_it() {
    let mut c = Cluster::three();
    c.kill(1);
    c.run(2);
    let session = c.open_session(2);
    for xid in 0..1500 {
        c.create(2, session, xid, &format!("/{xid:-^60000}"));
        c.deliver_all();
    }
    c.start(1);
    c.run(2);
    assert_eq!(c.modes()[0], (1, Some(Mode::Following)));
    c.assert_agreement();
    assert!(c.servers[&1].disk.base.tree().zxid() > Zxid::ZERO, "a snapshot was taken over");
    c.kill(1);
    c.start(1);
    c.run(2);
    c.assert_agreement();
}

#[test]
fn an_observer_learns_and_does_not_vote() {
    let mut c =
        Cluster::new("server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:observer\nversion=0");
    for id in 1..=3 {
        c.start(id);
    }
    c.run(3);
    assert_eq!(c.modes()[2], (3, Some(Mode::Observing)));
    let session = c.open_session(3);
    c.create(3, session, 1, "/a");
    c.deliver_all();
    assert_eq!(c.servers[&3].replies.len(), 1);
    c.assert_agreement();
    c.kill(1);
    c.run(20);
    assert_eq!(c.modes(), [(1, None), (2, None), (3, None)], "an observer makes no quorum");
}

#[test]
fn a_session_moves_to_another_server_and_its_requests_there_count() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    let attach = |session| Ask::Attach {
        cnxn: CNXN,
        session,
        timeout_ms: 30_000,
        password: crate::session::password(session).to_vec(),
    };
    c.event(2, Event::Ask(attach(session)));
    c.deliver_all();
    assert!(matches!(c.servers[&2].answers[..], [Answer::Attached { cnxn: CNXN, session: Some(s) }] if s == session));
    c.create(2, session, 5, "/moved");
    c.create(1, session, 1, "/too_late");
    c.deliver_all();
    c.assert_everywhere("/moved", true);
    c.assert_everywhere("/too_late", false);
    assert!(matches!(c.servers[&1].replies.last(), Some((1, Outcome::Failed(-118)))), "{:?}", c.servers[&1].replies);
    c.event(2, Event::Ask(attach(SessionId(0x77))));
    c.deliver_all();
    assert!(matches!(c.servers[&2].answers.last(), Some(Answer::Attached { cnxn: CNXN, session: None })));
}

#[test]
fn each_server_throttles_the_connects_of_its_own_clients() {
    let throttle = throttle::Settings { tokens_max: 2, fill_time_ms: 1_000_000, ..throttle::Settings::default() };
    let mut c = Cluster {
        throttle,
        ..Cluster::new("server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\nversion=0")
    };
    (1..=3).for_each(|id| c.start(id));
    c.run(2);
    for at in 1..=3 {
        let session = c.open_session(at);
        let password = crate::session::password(session).to_vec();
        let attach = || Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password: password.clone() };
        c.event(at, Event::Ask(attach()));
        c.deliver_all();
        let answers = std::mem::take(&mut c.server(at).answers);
        assert!(matches!(answers[..], [Answer::Attached { cnxn: CNXN, session: Some(_) }]), "{at}: {answers:?}");
        c.event(at, Event::Ask(attach()));
        c.event(at, Event::Ask(Ask::OpenSession { cnxn: CNXN, timeout_ms: 30_000, session: None }));
        c.deliver_all();
        let answers = std::mem::take(&mut c.server(at).answers);
        assert!(matches!(answers[..], [Answer::Throttled(CNXN), Answer::Throttled(CNXN)]), "{at}: {answers:?}");
        assert_eq!(c.servers[&at].opened.len(), 1);
        c.create(at, session, 1, &format!("/by_{at}"));
        c.deliver_all();
        c.assert_everywhere(&format!("/by_{at}"), true);
    }
}

#[test]
fn what_happens_in_an_ensemble_is_counted() {
    let mut c = Cluster::new(
        "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\n\
         server.4=h:7:8:observer\nversion=0",
    );
    (1..=4).for_each(|id| c.start(id));
    c.run(3);
    let session = c.open_session(1);
    c.create(1, session, 1, "/a");
    c.create(1, session, 2, "/a");
    c.deliver_all();
    let password = crate::session::password(session).to_vec();
    c.event(2, Event::Ask(Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password }));
    c.deliver_all();
    let status = |c: &Cluster, id: i64| c.servers[&id].peer.as_ref().unwrap().status(c.now).unwrap();
    // The session, the znode, and the error.
    let leader = status(&c, 3).counts;
    assert_eq!((leader.proposals, leader.commits, leader.received_proposals), (3, 3, 0));
    assert_eq!((leader.diffs, leader.snapshots, leader.revalidations, leader.lookings), (3, 0, 1, 1));
    let leading = status(&c, 3).leading.unwrap();
    assert_eq!((leading.learners, leading.followers, leading.non_voting, leading.pending_syncs), (3, 2, 0, 0));
    let [last, least, most] = leading.proposal_bytes.unwrap();
    assert!(least <= last && last < most, "an error is smaller than a znode");
    let observers = status(&c, 3).observers.unwrap();
    let ids: Vec<i64> =
        observers.iter().map(|(sid, link)| if c.links[link].learner == sid.0 { sid.0 } else { -1 }).collect();
    assert_eq!((ids, status(&c, 3).quorum_size), (vec![4], 3));
    let follower = status(&c, 2).counts;
    assert_eq!((follower.received_proposals, follower.received_commits, follower.proposals), (3, 3, 0));
    let observer = status(&c, 4);
    assert_eq!((observer.counts.received_proposals, observer.counts.received_commits), (0, 3));
    assert_eq!((observer.observer_master, observer.mode), (Some(ServerId(3)), Mode::Observing));
    assert_eq!(follower.digest_mismatches, 0);
    let times = |id: i64| {
        let times = c.servers[&id].peer.as_ref().unwrap().times();
        let away = [times.unavailable, times.leader_unavailable, times.follower_syncs, times.observer_syncs];
        let order = [&times.proposals, &times.commits, &times.quorum_acks].map(|latency| latency.summary.count);
        (away.map(|summary| summary.count), order)
    };
    assert_eq!(times(3), ([1, 1, 0, 0], [0, 0, 3]));
    assert_eq!(times(2), ([1, 0, 1, 0], [3, 3, 0]));
    assert_eq!(times(4), ([1, 0, 0, 1], [0, 3, 0]));
    assert_eq!(c.servers[&2].peer.as_ref().unwrap().phase(), "broadcast");
    c.kill(1);
    c.start(1);
    c.run(3);
    assert_eq!(status(&c, 3).counts.diffs, 4);
}

#[test]
fn a_session_nobody_hears_of_ends_everywhere() {
    let mut c = Cluster::three();
    c.run(2);
    let quiet = c.open_session(1);
    let alive = c.open_session(2);
    for _ in 0..80 {
        let now = c.now;
        c.event(2, Event::Ask(Ask::Touch(vec![(alive, now)])));
        c.run(1);
    }
    for id in 1..=3 {
        let sessions: Vec<SessionId> =
            c.servers[&id].peer.as_ref().unwrap().state().unwrap().0.sessions().keys().copied().collect();
        assert_eq!(sessions, [alive], "server {id}, without {quiet}");
    }
}

#[test]
fn a_sync_is_answered_behind_what_was_under_way() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.server(2).disk_stuck = true;
    c.server(1).disk_stuck = true;
    c.create(1, session, 1, "/a");
    c.event(1, Event::Ask(Ask::Sync { cnxn: CNXN, forward: Some(Box::new((session, 2, Bytes::new()))) }));
    c.deliver_all();
    assert!(c.servers[&1].answers.is_empty(), "the write before it is not committed");
    c.server(2).disk_stuck = false;
    c.deliver_all();
    assert!(matches!(c.servers[&1].answers[..], [Answer::Synced(CNXN)]));
    c.assert_everywhere("/a", true);
}

#[test]
fn a_server_that_lost_its_history_has_no_vote_until_it_has_the_leaders() {
    let mut c = Cluster::three();
    c.run(2);
    let session = c.open_session(1);
    c.create(1, session, 1, "/a");
    c.deliver_all();
    c.kill(1);
    c.lose_disk(1);
    c.kill(3);
    c.start(1);
    c.run(60);
    assert_eq!(c.modes(), [(1, None), (2, None), (3, None)], "two of three are no quorum if one is in doubt");
    c.start(3);
    c.run(60);
    assert_eq!(c.modes()[0], (1, Some(Mode::Following)), "{:?}", c.servers[&1].notes);
    assert!(!c.servers[&1].in_doubt);
    c.assert_everywhere("/a", true);
    c.kill(2);
    c.run(60);
    assert_eq!(c.leader(), 3, "its vote counts again");
}

#[test]
fn an_epoch_that_is_full_makes_room_for_the_next_and_keeps_its_sessions() {
    let mut c = Cluster::three_with(5);
    c.run(2);
    let session = c.open_session(1);
    for xid in 1..=4 {
        c.create(1, session, xid, &format!("/n{xid}"));
    }
    let elections = c.elections;
    c.deliver_all();
    assert_eq!(c.modes(), [(1, None), (2, None), (3, None)], "the fifth transaction of the epoch was its last");
    let xids: Vec<i32> = c.servers[&1].replies.iter().map(|(xid, _)| *xid).collect();
    assert_eq!(xids, [1, 2, 3, 4], "what was accepted is answered");
    c.run(1);
    assert_eq!(c.modes(), [(1, Some(Mode::Following)), (2, Some(Mode::Leading)), (3, Some(Mode::Following))]);
    assert_eq!(c.elections, elections, "nobody votes");
    for xid in 1..=4 {
        c.assert_everywhere(&format!("/n{xid}"), true);
    }
    let tree = &c.servers[&1].serving.as_ref().expect("it serves again").1;
    assert_eq!(tree.zxid(), Zxid(1 << 32 | 5));
    let ask =
        Ask::Attach { cnxn: CNXN, session, timeout_ms: 30_000, password: crate::session::password(session).to_vec() };
    c.event(2, Event::Ask(ask));
    c.deliver_all();
    assert!(matches!(c.servers[&2].answers[..], [Answer::Attached { session: Some(s), .. }] if s == session));
    c.create(2, session, 9, "/next");
    c.deliver_all();
    assert_eq!(c.servers[&2].serving.as_ref().expect("it serves").1.zxid(), Zxid(2 << 32 | 1));
}

/// What is asked of a leader whose epoch is full takes no further zxid of it, however long its followers' disks take.
#[test]
fn a_leader_whose_epoch_is_full_answers_what_it_has_accepted_and_takes_nothing_more() {
    let mut c = Cluster::three_with(3);
    c.run(2);
    let session = c.open_session(3);
    for id in [1, 2] {
        c.server(id).disk_stuck = true;
    }
    c.create(3, session, 1, "/a");
    c.create(3, session, 2, "/b");
    c.deliver_all();
    c.create(3, session, 3, "/too_late");
    c.run(1);
    assert_eq!((c.leader(), c.servers[&3].replies.len()), (3, 0), "nobody else has them yet");
    c.server(1).disk_stuck = false;
    c.deliver_all();
    let xids: Vec<i32> = c.servers[&3].replies.iter().map(|(xid, _)| *xid).collect();
    assert_eq!(xids, [1, 2]);
    c.server(2).disk_stuck = false;
    c.run(4);
    assert_eq!(c.leader(), 1, "it had everything when it was named");
    c.assert_everywhere("/b", true);
    c.assert_everywhere("/too_late", false);
    c.assert_agreement();
}

/// Apache's followers cannot be told who leads next, and vote.
#[test]
fn an_epoch_that_is_full_ends_beside_other_servers_too() {
    let mut c = Cluster::three_with(3);
    c.strangers.extend([1, 2]);
    for id in [1, 2] {
        c.kill(id);
        c.start(id);
    }
    c.run(4);
    let (leader, elections) = (c.leader(), c.elections);
    let session = c.open_session(leader);
    for xid in 1..=2 {
        c.create(leader, session, xid, &format!("/n{xid}"));
    }
    c.deliver_all();
    assert_eq!(c.servers[&leader].replies.len(), 2);
    c.run(4);
    assert!(c.elections > elections, "they vote");
    assert_eq!(c.epochs(c.leader()).1, Epoch(2));
    c.assert_everywhere("/n2", true);
    c.assert_agreement();
}

/// `LearnerHandler.syncFollower`, from disk. A follower was away for more than memory keeps: it gets DIFF from the log, what
/// memory has behind that, and what is proposed meanwhile, if its leader may read the log that far.
#[test]
fn a_follower_that_lacks_more_than_memory_has_gets_it_from_the_log_if_it_is_there() {
    for (told, is_diff) in [
        (None, false),
        (Some(Stored { after: Zxid::ZERO, snapshot_bytes: 0 }), true),
        (Some(Stored { after: Zxid::ZERO, snapshot_bytes: 1_000_000 }), true),
        (Some(Stored { after: Zxid::ZERO, snapshot_bytes: 1_000 }), false),
        (Some(Stored { after: Zxid(0x1_0000_0005), snapshot_bytes: 0 }), false),
    ] {
        let mut c = Cluster::new(THREE);
        c.history = Limits { count_min: 2, bytes_max: 0 };
        c.snapshot_size_factor = 0.5;
        (1..=3).for_each(|id| c.start(id));
        c.run(3);
        let leader = c.leader();
        let away = if leader == 1 { 2 } else { 1 };
        c.write(leader, "/before");
        c.run(5);
        let last = c.servers[&away].disk.log.last().expect("it has logged that").0;
        c.kill(away);
        for number in 0..20 {
            c.write(leader, &format!("/n{number}"));
            c.run(1);
        }
        told.into_iter().for_each(|stored| c.event(leader, Event::Stored(stored)));
        c.start(away);
        c.elect();
        c.write(leader, "/meanwhile");
        c.run(10);
        assert_eq!(c.modes().into_iter().find(|(id, _)| *id == away), Some((away, Some(Mode::Following))));
        let sent: Vec<Zxid> = c.logs_sent.iter().map(|(after, _)| *after).collect();
        assert_eq!(sent, if is_diff { vec![last] } else { vec![] }, "{told:?}");
        let counts = c.servers[&leader].peer.as_ref().unwrap().status(c.now).unwrap().counts;
        assert_eq!(counts.snapshots, u64::from(!is_diff), "{told:?}");
        c.assert_agreement();
        c.assert_everywhere("/meanwhile", true);
        c.assert_everywhere("/n7", true);
    }
}
