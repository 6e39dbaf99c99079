//! One server of an ensemble: looking for a leader, following one, or leading.
//!
//! ```text
//!             ┌──────────── Settling <──────────────┐
//!             v     the log is durable              │ the role ends
//! Looking ──elected──> Dialing ──> Following ───────┤
//!     └────elected──> Leading ──────────────────────┘
//! ```
//!
//! Whenever a server looks for a leader its tree is what its log says, uncommitted transactions at the end included: it
//! votes with the last of them, and no committed one can be lost that way (ZOOKEEPER-2845). If the next leader does not
//! have them, it says TRUNC, and the tree is read back from disk.
//!
//! A reconfiguration may end a role too. Then the new one begins without an election, under the leader that it names.
//!
//! The driver drains what is ready into [`Peer::handle`], calls [`Peer::pump`] once, and carries out what that gives:
//! batching falls out of it.
//!
//! Source: `QuorumPeer.java`.

use std::collections::BTreeSet;

use bytes::Bytes;

use self::leaving::Leaving;
use self::read_only::answer_read_only;
use self::status::{Counts, Times};
use super::effect::{Effect, Epochs, LinkId, MasterPort, Mode, Settings};
use super::history::{History, StoredLog};
use super::leader::{self, Leader};
use super::learner::{self, Learner};
use super::masters::{Master, Masters};
use super::observer_master::{ObserverMaster, Source};
use super::quorum::QuorumVerifier;
use super::quorum::QuorumView;
use crate::proto::op::WriteOp;
use crate::proto::quorum::{HandOver, Packet};
use crate::request::containers;
use crate::request::local::{self, LocalSessions};
use crate::request::pipeline::{Answer, Ask, CommitBatch, Pipeline, WriteRequest};
use crate::request::prepare::Rules;
use crate::request::replica::Replica;
use crate::request::throttle::{self, ConnectionThrottle};
use crate::session;
use crate::storage::snapshot_format::SnapshotSource;
use crate::tree::{self, DataTree};
use crate::types::{CnxnId, Instant, ServerId, SessionId, WallMs, Zxid};

/// What happens to a server.
#[derive(Debug)]
pub enum Event {
    /// A client shard asks.
    Ask(Ask),
    /// The election has ended: the leader, and who is known to agree.
    Elected(ServerId, BTreeSet<ServerId>),
    /// A participant looks for a leader, and this server, which leads, hears of it.
    VoterLooks(ServerId),
    /// The leader has taken the connection that was asked for by [`Effect::Dial`].
    LeaderConnected(LinkId),
    /// The leader cannot be reached.
    LeaderUnreachable(String),
    /// A learner has connected.
    LearnerConnected(LinkId),
    /// A packet has come over a link.
    Packet(LinkId, Packet),
    /// The stream behind a SNAP is in, and this is the state that it holds.
    SnapshotReceived(LinkId, Box<DataTree>),
    /// A link was ended by the other side, the network, or because what came over it cannot be read.
    LinkLost(LinkId, String),
    /// The log is durable up to here.
    Durable(Zxid),
    /// See [`Effect::SaveEpochs`].
    EpochsSaved,
    /// See [`Effect::Truncate`] and [`Effect::Reload`].
    Reloaded(Box<DataTree>),
    /// What is on disk cannot be used, neither for [`Effect::Truncate`] nor for [`Effect::Reload`], and was taken away.
    HistoryLost,
    /// See [`Effect::Install`].
    Installed,
    /// See [`Effect::Configure`].
    Configured,
    /// The election has learned of a newer configuration, which is in force there already.
    Adopted(QuorumVerifier),
    /// The server is to stop: it hands over what it has to do and takes on nothing more.
    Leave,
    /// See [`Effect::Leave`].
    Left,
    /// What learners may have from the disk.
    Stored(Stored),
    /// Some time has passed. To come several times in each `tickTime`.
    Tick,
}

/// What the driver knows of its disk that concerns learners. To be told at the start, and when it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The log has every transaction after this one, up to what is durable, and none before it that is to be used. Files of
    /// what comes before may be gone once this is told.
    pub after: Zxid,
    /// Size of the newest snapshot's file; 0 if there is none.
    pub snapshot_bytes: u64,
}

impl Stored {
    /// What learners may have from the log; `None` is nothing. Source: `ZKDatabase.calculateTxnLogSizeLimit`, with which a
    /// server without a snapshot has no limit.
    fn for_learners(self, settings: Settings, durable: Zxid) -> Option<StoredLog> {
        let factor = settings.snapshot_size_factor;
        let bytes_max = Some((self.snapshot_bytes as f64 * factor) as u64).filter(|bytes_max| *bytes_max > 0);
        (factor >= 0.0).then_some(StoredLog { after: self.after, durable, bytes_max })
    }
}

/// What [`Peer::pump`] gives the driver, to be carried out in this order.
#[derive(Default, Debug)]
pub struct Output {
    /// To be appended to the log.
    pub log: Vec<(Zxid, Bytes)>,
    /// See there.
    pub effects: Vec<Effect>,
    /// For all client shards.
    pub batches: Vec<CommitBatch>,
    /// For single client shards.
    pub answers: Vec<Answer>,
    /// What an operator should read, in order.
    pub notes: Vec<String>,
}

/// How a server orders and applies transactions.
#[derive(Clone, Copy, Debug)]
pub struct Ordering {
    /// Rules of validation.
    pub rules: Rules,
    /// How containers and times to live are looked for.
    pub containers: containers::Settings,
    /// Whether transactions carry the digest of the tree.
    pub digests: bool,
    /// How long touches may be on their way to the leader's table of sessions, in ms.
    pub grace_ms: u64,
    /// Set if new sessions are local.
    pub local_sessions: Option<local::Rules>,
    /// Set if reads are served after so many ms without a leader.
    pub read_only_after_ms: Option<u64>,
    /// How many connects of its own clients each server lets through.
    pub throttle: throttle::Settings,
}

/// The zxid of a server that must not vote.
const NO_VOTE: Zxid = Zxid(-1);
enum Role {
    /// The last role has ended, and the disk is still at work for it.
    Settling(DataTree),
    /// There is no leader.
    Looking(DataTree),
    /// There is a leader, and no connection to it yet.
    Dialing(DataTree, Dialing),
    Following(Box<Following>),
    Leading(Box<Leading>),
    /// Between two of the others.
    Changing,
}

struct Following {
    learner: Learner,
    replica: Replica,
    /// Whom it learns from: the leader, or an observer master.
    master: ServerId,
    /// Set while it serves observers.
    observers: Option<ObserverMaster>,
}

#[derive(Clone, Copy)]
struct Dialing {
    leader: ServerId,
    master: Master,
    /// When the connection is asked for, unless it was already.
    at: Option<Instant>,
}

struct Leading {
    leader: Leader,
    state: LeaderState,
    /// When it was elected.
    since: Instant,
    /// The id of the first session that it opens.
    first_session: SessionId,
    /// Who agreed with the election and has not looked for another leader since. Of no interest once it is established.
    supporters: BTreeSet<ServerId>,
    /// Set once its epoch has room for no more: it goes on with what it has accepted, until then at most.
    full_until: Option<Instant>,
}

enum LeaderState {
    /// Before the history is a quorum's.
    Waiting(Box<DataTree>),
    Ordering(Box<Pipeline>),
}

impl LeaderState {
    fn visible(&self) -> Zxid {
        match self {
            LeaderState::Waiting(data_tree) => data_tree.tree().zxid(),
            LeaderState::Ordering(pipeline) => pipeline.committed(),
        }
    }

    /// What is committed, whole.
    fn snapshot(&self, digest_enabled: bool) -> SnapshotSource {
        match self {
            LeaderState::Waiting(data_tree) => SnapshotSource::of(data_tree, digest_enabled),
            LeaderState::Ordering(pipeline) => {
                let (tree, sessions, acls) = pipeline.committed_state();
                let sessions = sessions.iter().map(|(session, timeout_ms)| (*session, *timeout_ms)).collect();
                SnapshotSource { tree, sessions, acls, digest_enabled }
            }
        }
    }
}

/// See the module.
pub struct Peer {
    settings: Settings,
    ordering: Ordering,
    view: QuorumView,
    epochs: Epochs,
    history: History,
    /// Once the driver has told. What is told may be older than what the log begins with here, and then does not count.
    stored: Option<Stored>,
    /// What was handed over to be logged, and how much of it is durable: `durable <= appended`.
    appended: Zxid,
    durable: Zxid,
    /// One of the effects that change the disk is under way.
    disk_at_work: bool,
    /// The history was lost: no vote, and no epoch acknowledged, before a leader's state is durable here.
    in_doubt: bool,
    role: Role,
    /// Who leads by a reconfiguration and its zxid, until this server is settled.
    appointed: Option<(ServerId, Zxid)>,
    /// How many of [`Effect::Configure`] are under way. Nothing is logged meanwhile.
    unconfigured: usize,
    /// What else became durable meanwhile: nothing is acknowledged that a configuration has to do with before that is durable.
    held: Vec<Event>,
    /// A leader is looked for no sooner: see [`learner::Out::look_again_at`].
    look_again_at: Option<Instant>,
    /// Who has ended the last connection before anything was said, as a leader does that knows an older configuration.
    sent_away_by: Option<ServerId>,
    /// Since when a leader is looked for, as far as the last tick knows.
    looking_since: Option<Instant>,
    /// Set while reads alone are served: the sessions of those who come for them.
    read_only: Option<LocalSessions>,
    /// Whom to learn from, as an observer.
    masters: Masters,
    /// An observer has lost whom it learned from, and looks for the leader only so long after the next tick.
    pause_ms: Option<u64>,
    /// Whom the leader that stopped has named, until this server is settled.
    successor: Option<HandOver>,
    /// Set once the server is to stop.
    leaving: Option<Leaving>,
    /// Everything in the log is known to be committed, since the last role ended.
    all_committed: bool,
    /// A leader's digest was another than this server's tree has. The log is not in doubt: it has what the leader sent, with
    /// the leader's digests. So no snapshot of this tree is to stand in for it, and the next start will find out which is
    /// right.
    diverged: bool,
    throttle: ConnectionThrottle,
    counts: Counts,
    times: Times,
    /// When something has happened last.
    at: (Instant, WallMs),
    output: Output,
}

impl Peer {
    /// A server that has just been started, with what was found on its disk. `history` ends where `data_tree` does.
    /// `in_doubt` says that more was there once.
    pub fn new(
        settings: Settings,
        ordering: Ordering,
        view: QuorumView,
        epochs: Epochs,
        data_tree: DataTree,
        history: History,
        in_doubt: bool,
    ) -> Peer {
        let last = data_tree.tree().zxid();
        assert_eq!(history.newest(), last, "the history ends where the tree does");
        assert!(epochs.current <= epochs.accepted, "{epochs:?}");
        let mut peer = Peer {
            settings,
            ordering,
            view,
            epochs,
            history,
            stored: None,
            appended: last,
            durable: last,
            disk_at_work: false,
            in_doubt,
            role: Role::Settling(data_tree),
            appointed: None,
            unconfigured: 0,
            held: Vec::new(),
            look_again_at: None,
            sent_away_by: None,
            looking_since: None,
            read_only: None,
            masters: Masters::new(settings.observing),
            pause_ms: None,
            successor: None,
            leaving: None,
            all_committed: false,
            diverged: false,
            throttle: ConnectionThrottle::new(ordering.throttle, Instant::default(), settings.observing.seed),
            counts: Counts::default(),
            times: Times::default(),
            at: Default::default(),
            output: Output::default(),
        };
        peer.look_when_settled();
        peer
    }

    /// Takes in what has happened. What it leads to comes out of [`Peer::pump`].
    pub fn handle(&mut self, now: Instant, wall: WallMs, event: Event) {
        self.at = (now, wall);
        if self.mode().is_none() {
            self.times.away(now);
        }
        match event {
            Event::Durable(_) | Event::EpochsSaved if self.unconfigured > 0 => {
                if let (Some(Event::Durable(_)), Event::Durable(_)) = (self.held.last(), &event) {
                    self.held.pop();
                }
                self.held.push(event);
            }
            Event::Ask(ask) => self.on_ask(now, wall, ask),
            Event::Elected(leader, supporters) => self.on_elected(now, wall, leader, supporters),
            Event::VoterLooks(voter) => self.on_voter_looks(voter),
            Event::LeaderConnected(link) => self.on_leader_connected(now, wall, link),
            Event::LeaderUnreachable(why) => {
                self.on_master_unreachable(now, &why);
            }
            Event::LearnerConnected(link) => match &mut self.role {
                Role::Leading(leading) => leading.leader.connected(now, link),
                Role::Following(following) if following.observers.is_some() => {
                    following.observers.iter_mut().for_each(|observers| observers.connected(now, link));
                }
                _ => self.output.effects.push(Effect::Close(link, "this server does not lead".to_owned())),
            },
            Event::Packet(link, packet) => self.on_packet(now, wall, link, packet),
            Event::SnapshotReceived(link, data_tree) => {
                self.as_learner(link, |learner, state, out| learner.snapshot_received(now, *data_tree, state, out));
            }
            Event::LinkLost(link, why) => match &mut self.role {
                Role::Leading(leading) => leading.leader.lost(link),
                Role::Following(following) if following.learner.link() == link => self.on_leader_lost(now, &why),
                Role::Following(following) => following.observers.iter_mut().for_each(|it| it.lost(link)),
                _ => {}
            },
            Event::Durable(zxid) => {
                self.durable = zxid.max(self.durable);
                match &mut self.role {
                    Role::Leading(leading) => leading.leader.durable(zxid),
                    Role::Following(following) => {
                        let link = following.learner.link();
                        self.as_learner(link, |learner, state, out| learner.durable(zxid, state, out));
                    }
                    _ => self.look_when_settled(),
                }
            }
            Event::EpochsSaved => self.on_epochs_saved(now, wall),
            Event::Reloaded(data_tree) => self.on_reloaded(now, *data_tree),
            Event::HistoryLost => {
                // While the disk counts as being at work nobody is looked for: the tree of this role is of no use either.
                if matches!(self.role, Role::Following(_)) {
                    self.end_role("the history on disk is of no use");
                }
                (self.disk_at_work, self.diverged) = (false, false);
                (self.appended, self.durable, self.in_doubt) = (Zxid::ZERO, Zxid::ZERO, true);
                self.log_begins_anew();
                self.appointed = None;
                self.history = History::new(Zxid::ZERO, self.settings.history);
                self.role = Role::Settling(DataTree::new());
                self.look_when_settled();
            }
            Event::Installed => self.on_installed(),
            Event::Configured => {
                self.unconfigured -= 1;
                if self.unconfigured == 0 {
                    for event in std::mem::take(&mut self.held) {
                        self.handle(now, wall, event);
                    }
                    self.as_leader(now, wall, |leader, _, out| leader.config_saved(now, out));
                }
            }
            Event::Adopted(config) => {
                let mut view = self.view.clone();
                if view.activate(config) {
                    self.configure(view);
                }
            }
            Event::Leave => self.on_leave(now),
            Event::Stored(told) => {
                let after = self.stored.map_or(told.after, |stored| stored.after.max(told.after));
                self.stored = Some(Stored { after, ..told });
            }
            Event::Left => self.leaving = Some(Leaving::Left),
            Event::Tick => self.on_tick(now, wall),
        }
    }

    /// Finishes what the events since the last call have begun, and gives what is to be done.
    pub fn pump(&mut self, now: Instant) -> Output {
        self.pump_role(now);
        // Observers were told of what a learner has added to it.
        self.history.trim();
        if let Some(Leaving::Draining { until }) = self.leaving {
            self.leave_if_drained(now >= until);
        }
        self.make_room_if_drained(now);
        let mut output = std::mem::take(&mut self.output);
        if self.unconfigured > 0 {
            // Who has the transaction in its log that brings a configuration knows it, whenever it ends: else it could lead,
            // commit the transaction, and go on with the configuration before.
            self.output.log = std::mem::take(&mut output.log);
        }
        output
    }

    /// Takes back a batch that nobody looks at any more: its memory serves for the next.
    pub fn reuse(&mut self, batch: CommitBatch) {
        match &mut self.role {
            Role::Leading(leading) => {
                if let LeaderState::Ordering(pipeline) = &mut leading.state {
                    pipeline.reuse(batch);
                }
            }
            Role::Following(following) => following.replica.reuse(batch),
            _ => {}
        }
    }

    fn pump_role(&mut self, now: Instant) {
        match &mut self.role {
            Role::Leading(_) => self.pump_leading(now),
            Role::Following(following) => {
                let Following { learner, replica, observers, .. } = following.as_mut();
                self.diverged |= self.counts.note_mismatches(replica.take_digest_mismatches());
                if learner.is_established() {
                    let batch = replica.take_batch();
                    let mode = if learner.is_observer() { Mode::Observing } else { Mode::Following };
                    batch.iter().for_each(|batch| self.times.committed(self.at.1, batch, mode));
                    self.output.batches.extend(batch);
                    let mut answers = replica.take_answers();
                    if let Some(observers) = observers {
                        // An answer comes behind what was committed before it.
                        observers.inform(&self.history, &mut self.output.effects);
                        for answer in answers.extract_if(.., |answer| answer.to().is_some_and(CnxnId::is_learner)) {
                            observers.answer(&answer, &mut self.output.effects);
                        }
                    }
                    self.output.answers.append(&mut answers);
                    let mut out = learner::Out::default();
                    learner.forward(replica.take_forwards(), &mut out);
                    self.output.effects.append(&mut out.effects);
                }
            }
            _ => {}
        }
        if let Some((zxid, _)) = self.output.log.last() {
            self.appended = *zxid;
        }
    }

    /// Whether it was to stop, and there is nothing left to be done.
    pub fn has_left(&self) -> bool {
        self.leaving == Some(Leaving::Left)
    }

    /// Whether everything in its log was known to be committed when the last role ended.
    pub fn has_all_committed(&self) -> bool {
        self.all_committed
    }

    /// What it serves as, if it serves.
    pub fn mode(&self) -> Option<Mode> {
        match &self.role {
            Role::Leading(leading) if leading.leader.is_established() => Some(Mode::Leading),
            Role::Following(following) if following.learner.is_established() => {
                Some(if following.learner.is_observer() { Mode::Observing } else { Mode::Following })
            }
            _ => None,
        }
    }

    /// The newest state, all of what it was asked to log included for a leader; and up to where that is committed.
    /// `None` for a moment between two roles.
    pub fn state(&self) -> Option<(&DataTree, Zxid)> {
        Some(match &self.role {
            Role::Settling(data_tree) | Role::Looking(data_tree) | Role::Dialing(data_tree, _) => {
                (data_tree, data_tree.tree().zxid())
            }
            Role::Following(following) => (following.replica.data_tree(), following.replica.committed()),
            Role::Leading(leading) => match &leading.state {
                LeaderState::Waiting(data_tree) => (data_tree, data_tree.tree().zxid()),
                LeaderState::Ordering(pipeline) => (pipeline.head(), pipeline.committed()),
            },
            Role::Changing => return None,
        })
    }

    /// Up to where its state may be kept in a snapshot: committed, and durable in its own log. A quorum may commit what this
    /// server's disk is still to take, and a snapshot of that, if it cannot be read one day, leaves a gap in the log behind the
    /// one before it. `None` also while its tree is known to differ from a leader's.
    pub fn safe(&self) -> Option<Zxid> {
        self.state().filter(|_| !self.diverged).map(|(_, committed)| committed.min(self.durable))
    }

    /// Sessions that only this server knows.
    pub fn local_sessions(&self) -> usize {
        match &self.role {
            Role::Following(following) => following.replica.local_sessions(),
            Role::Leading(_) => self.pipeline().map_or(0, Pipeline::local_sessions),
            _ => self.read_only.as_ref().map_or(0, LocalSessions::len),
        }
    }

    /// The order of writes, if it is this server's to make.
    pub fn pipeline(&self) -> Option<&Pipeline> {
        match &self.role {
            Role::Leading(leading) => match &leading.state {
                LeaderState::Ordering(pipeline) => Some(pipeline),
                LeaderState::Waiting(_) => None,
            },
            _ => None,
        }
    }

    /// The leader, if this server is one that serves.
    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leading(leading) if leading.leader.is_established() => Some(&leading.leader),
            _ => None,
        }
    }

    /// Whom it learns from while it follows or observes, connected or about to be.
    pub fn master(&self) -> Option<ServerId> {
        match &self.role {
            Role::Following(following) => Some(following.master),
            Role::Dialing(_, dialing) => Some(dialing.master.server),
            _ => None,
        }
    }

    /// Observers that it serves as a follower, if followers serve them.
    pub fn observers(&self) -> Option<Vec<(ServerId, LinkId)>> {
        match &self.role {
            Role::Following(following) => following.observers.as_ref().map(ObserverMaster::serving),
            _ => None,
        }
    }

    /// The configurations that it knows.
    pub fn view(&self) -> &QuorumView {
        &self.view
    }

    /// The epochs that it has on disk, or will have in a moment.
    pub fn epochs(&self) -> Epochs {
        self.epochs
    }

    /// Whether the disk works for the learner, so that the link to the leader may be left unread.
    pub fn is_busy(&self) -> bool {
        matches!(&self.role, Role::Following(following) if following.learner.is_busy())
    }

    fn on_ask(&mut self, now: Instant, wall: WallMs, ask: Ask) {
        if self.is_draining() {
            return;
        }
        if let Ask::OpenSession { cnxn, .. } | Ask::Attach { cnxn, .. } = &ask
            && !self.throttle.admits(now, matches!(ask, Ask::OpenSession { .. }))
        {
            return self.output.answers.push(Answer::Throttled(*cnxn));
        }
        match &mut self.role {
            Role::Leading(_) => self.order(now, wall, ask),
            Role::Following(following) if following.learner.is_established() => following.replica.handle(now, ask),
            Role::Looking(data_tree) => {
                if let Some(sessions) = &mut self.read_only {
                    self.output.answers.extend(answer_read_only(sessions, data_tree, now, ask));
                }
            }
            // Its client is being told that nobody serves it.
            _ => {}
        }
    }

    /// Gives a leader's pipeline what is asked. A reconfiguration is worked out first: only the leader knows who has come how
    /// far.
    fn order(&mut self, now: Instant, wall: WallMs, mut ask: Ask) {
        let Role::Leading(leading) = &mut self.role else { return };
        let Leading { leader, state: LeaderState::Ordering(pipeline), .. } = leading.as_mut() else { return };
        if leader.has_resigned() {
            // Its clients are about to be told that nobody serves them.
            return;
        }
        let zxid = pipeline.next_zxid();
        let mut next = None;
        if let Ask::Write(WriteRequest { op, .. }) = &mut ask
            && let WriteOp::Reconfig(request) = op
            && self.settings.reconfig
        {
            *op = match leader.next_config(request, zxid) {
                Ok(config) => WriteOp::Configure(next.insert(config).to_string().into()),
                Err(code) => WriteOp::Refused(code),
            };
        }
        pipeline.handle(now, wall, ask);
        let is_accepted = || pipeline.head().tree().get(tree::CONFIG).is_some_and(|node| node.meta().mzxid == zxid);
        if let Some(config) = next.filter(|_| is_accepted()) {
            leader.reconfigure(config);
            let view = leader.view().clone();
            self.configure(view);
            // It may be the last transaction that this leader commits, and must then be visible by itself.
            self.pump_leading(now);
        }
    }

    /// Takes up configurations: from here on they count.
    fn configure(&mut self, view: QuorumView) {
        self.view = view.clone();
        self.unconfigured += 1;
        self.output.effects.push(Effect::Configure(view));
    }

    fn on_elected(&mut self, now: Instant, wall: WallMs, elected: ServerId, supporters: BTreeSet<ServerId>) {
        if self.leaving.is_some() {
            return;
        }
        self.end_read_only();
        let data_tree = match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Looking(data_tree) => data_tree,
            // The result of an election that was given up.
            role => return self.role = role,
        };
        if elected != self.settings.id {
            let master = if self.is_observer() {
                self.masters.next(self.view.current(), elected)
            } else {
                Master { server: elected, port: MasterPort::Quorum, pause_ms: 0 }
            };
            self.role = Role::Changing;
            return self.dial(now, data_tree, elected, master);
        }
        self.output.effects.push(Effect::Listen(MasterPort::Quorum));
        let mut out = leader::Out::default();
        let last = data_tree.tree().zxid();
        let first_session = self.first_session(wall);
        let epochs = self.reserving(first_session);
        let leader = Leader::new(self.settings, self.view.clone(), epochs, last, now, &mut out);
        self.role = Role::Leading(Box::new(Leading {
            leader,
            state: LeaderState::Waiting(Box::new(data_tree)),
            since: now,
            first_session,
            supporters,
            full_until: None,
        }));
        self.after_leader(now, wall, out);
    }

    /// The id of the first session that a role opens which begins now.
    fn first_session(&self, wall: WallMs) -> SessionId {
        session::first_id(self.settings.id.0 as u8, wall, self.epochs.session_ids)
    }

    /// What a role is to save that opens sessions from this one on. Each does, before clients are served.
    fn reserving(&self, first_session: SessionId) -> Epochs {
        Epochs { session_ids: session::ids_used(first_session), ..self.epochs }
    }

    fn is_observer(&self) -> bool {
        self.view.current().is_observer(self.settings.id)
    }

    fn on_packet(&mut self, now: Instant, wall: WallMs, link: LinkId, packet: Packet) {
        let mode = self.mode();
        self.counts.packet(packet.kind, mode);
        self.times.packet(wall, &packet, mode);
        if matches!(self.role, Role::Leading(_)) {
            self.as_leader(now, wall, |leader, past, out| leader.received(now, link, &packet, past, out));
        } else if let Role::Following(following) = &mut self.role
            && following.learner.link() != link
        {
            let Following { replica, observers, .. } = following.as_mut();
            let mut source = Source { config: self.view.current(), history: &self.history, replica };
            if let Some(observers) = observers {
                observers.received(now, link, packet, &mut source, &mut self.output.effects);
            }
        } else {
            self.as_learner(link, |learner, state, out| learner.received(now, packet, state, out));
        }
    }

    fn on_epochs_saved(&mut self, now: Instant, wall: WallMs) {
        self.disk_at_work = false;
        match &self.role {
            Role::Leading(_) => self.as_leader(now, wall, |leader, past, out| leader.epochs_saved(now, past, out)),
            Role::Following(following) => {
                let link = following.learner.link();
                self.as_learner(link, |learner, state, out| learner.epochs_saved(now, state, out));
            }
            _ => self.look_when_settled(),
        }
    }

    fn on_reloaded(&mut self, now: Instant, data_tree: DataTree) {
        (self.disk_at_work, self.diverged) = (false, false);
        self.appended = data_tree.tree().zxid();
        self.durable = self.appended;
        self.log_begins_anew();
        match &self.role {
            Role::Following(following) => {
                let link = following.learner.link();
                self.as_learner(link, |learner, state, out| learner.truncated(now, data_tree, state, out));
            }
            _ => {
                self.history = History::new(self.appended, self.settings.history);
                self.role = Role::Settling(data_tree);
                self.look_when_settled();
            }
        }
    }

    /// Whatever the log had before what is appended next is not there any more, or not to be relied on.
    fn log_begins_anew(&mut self) {
        let after = self.appended;
        self.stored.iter_mut().for_each(|stored| stored.after = after);
    }

    fn on_installed(&mut self) {
        (self.disk_at_work, self.in_doubt, self.diverged) = (false, false, false);
        if let Some((data_tree, _)) = self.state() {
            self.appended = data_tree.tree().zxid();
            self.durable = self.appended;
        }
        self.log_begins_anew();
        match &self.role {
            Role::Following(following) => {
                let link = following.learner.link();
                self.as_learner(link, |learner, state, out| learner.installed(state, out));
            }
            _ => self.look_when_settled(),
        }
    }

    fn on_tick(&mut self, now: Instant, wall: WallMs) {
        match &mut self.role {
            Role::Leading(leading) => {
                if let LeaderState::Ordering(pipeline) = &mut leading.state
                    && !leading.leader.has_resigned()
                    && self.leaving.is_none()
                {
                    for (session, timeout_ms) in pipeline.tick(now, wall) {
                        let note = format!("Expiring session {session}, timeout of {timeout_ms}ms exceeded");
                        self.output.notes.push(note);
                        self.counts.expired_sessions += 1;
                    }
                }
                self.as_leader(now, wall, |leader, _, out| leader.tick(now, out));
            }
            Role::Following(following) => {
                following.replica.tick(now);
                if let Some(observers) = &mut following.observers {
                    observers.tick(now, &mut self.output.effects);
                }
                let link = following.learner.link();
                self.as_learner(link, |learner, _, out| learner.tick(now, out));
            }
            Role::Looking(_) => self.look_on(now, wall),
            Role::Settling(_) => {
                if let Some(ms) = self.pause_ms.take() {
                    self.look_again_at = self.look_again_at.max(Some(now.after_ms(ms)));
                }
                if self.look_again_at.is_some_and(|at| now >= at) {
                    self.look_again_at = None;
                    self.look_when_settled();
                }
            }
            Role::Dialing(_, Dialing { master, at, .. }) => {
                if at.take_if(|at| now >= *at).is_some() {
                    self.output.effects.push(Effect::Dial(master.server, master.port));
                }
            }
            Role::Changing => {}
        }
    }
}

mod ending;
mod leading;
mod learning;
mod leaving;
mod read_only;
pub mod status;
#[cfg(test)]
mod tests;
