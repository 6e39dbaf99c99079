//! What the state machines ask of their driver, and the settings they share.

use bytes::Bytes;

use super::history;
use super::masters::Observing;
use super::quorum::QuorumView;
use crate::proto::quorum::{self, HandOver, Packet, PacketKind};
use crate::request::pipeline::Answer;
use crate::storage::snapshot_format::SnapshotSource;
use crate::tree::Tree;
use crate::types::{Epoch, ServerId, Zxid};

/// A connection on a learner port, at either end: never used again for another.
pub type LinkId = u32;

/// Times and names of one server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This server.
    pub id: ServerId,
    /// `tickTime`.
    pub tick_ms: u64,
    /// `initLimit`, in ticks: connecting and synchronising.
    pub init_limit: u64,
    /// `syncLimit`, in ticks: everything after.
    pub sync_limit: u64,
    /// A leader whose zxids have come so far in their epoch makes room for the next one: see [`LAST_COUNTER`].
    pub last_counter: u32,
    /// How much of the newest history is kept for learners.
    pub history: history::Limits,
    /// `snapshotSizeFactor`: a learner gets a snapshot rather than more than this part of the size of the newest one from the
    /// log on disk. 0 is no limit; where it is negative nothing comes from there.
    pub snapshot_size_factor: f64,
    /// `reconfigEnabled`: configurations that come from other servers are taken up. Without it, this server's own stays.
    pub reconfig: bool,
    /// Participants that a reconfiguration leaves at least: 2 unless `standaloneEnabled=false`.
    pub participants_min: usize,
    /// What concerns observers, those that follow a follower above all.
    pub observing: Observing,
}

/// Zxids of an epoch end at 2^32 - 1. A leader steps down a million transactions before, which no batch is as large as, and
/// the next epoch begins at 1. What it has accepted is answered first; where enough of the others are ringkeeper it then
/// names the next leader, so that nobody votes, and else it costs an election; never a session.
pub const LAST_COUNTER: u32 = u32::MAX - 1_000_000;

impl Settings {
    /// `initLimit` as time.
    pub fn init_ms(&self) -> u64 {
        self.tick_ms * self.init_limit
    }

    /// `syncLimit` as time.
    pub fn sync_ms(&self) -> u64 {
        self.tick_ms * self.sync_limit
    }
}

/// What a server keeps on disk beside its history: two epochs, `current <= accepted`, and how far its session ids have come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Epochs {
    /// The newest epoch that it has promised to follow: no older leader is listened to.
    pub accepted: Epoch,
    /// The epoch of the leader whose history it has taken over: what it votes with.
    pub current: Epoch,
    /// No session id from here on was given out by this server, its top byte aside: see [`crate::session::first_id`].
    pub session_ids: u64,
}

/// What the driver does, in the order in which it comes.
///
/// Those that take time are answered by an event: [`Effect::SaveEpochs`], [`Effect::Truncate`], [`Effect::Install`],
/// [`Effect::Reload`], [`Effect::Look`], [`Effect::Appoint`], [`Effect::Succeed`], [`Effect::Leave`], [`Effect::Dial`] and
/// [`Effect::Configure`]. At most one of the first four is under way at a time.
/// Transactions to be logged are not among them, because they are many: see `Peer::take_log`.
#[derive(Debug)]
pub enum Effect {
    /// Sends bytes over a link, behind all that was sent before.
    Send(LinkId, Bytes),
    /// Sends a snapshot over a link as a raw stream, behind all that was sent before.
    SendSnapshot(LinkId, Box<SnapshotSource>),
    /// Sends committed transactions over a link from the log on disk, each as PROPOSAL and COMMIT, behind all that was sent
    /// before. If that cannot be done, the link ends: see [`StoredDiff`].
    SendLog(LinkId, StoredDiff),
    /// Ends a link, when what was sent is out. No event follows.
    Close(LinkId, String),
    /// Makes the epochs and what stands beside them durable.
    SaveEpochs(Epochs),
    /// Cuts the log after a transaction, removes every snapshot above it, and reads the state back from what is left.
    Truncate(Zxid),
    /// Makes this state durable as the only one: no older snapshot, no older log is to be found at the next start.
    Install(Box<SnapshotSource>),
    /// Reads the state back from disk: the one in memory is not what was made durable.
    Reload,
    /// Begins an election with this vote.
    Look(Standing),
    /// A reconfiguration names the leader. There is no election, but it ends at once with that leader.
    Appoint {
        /// The server that is to lead.
        leader: ServerId,
        /// Zxid of the reconfiguration.
        zxid: Zxid,
    },
    /// Another configuration is in force or was proposed: makes both durable, tells the election, and listens where the one in
    /// force says. Several may be under way; each is answered, in order.
    Configure(QuorumView),
    /// There is no election: the leader that stops has named the next. With it comes the last transaction here.
    Succeed(HandOver, Zxid),
    /// Takes no more part in elections, sends what is still to be sent, and reports `Event::Left`.
    Leave,
    /// Connects to a port of the leader's, or of another server that serves learners.
    Dial(ServerId, MasterPort),
    /// Opens a port for learners.
    Listen(MasterPort),
    /// Closes every port for learners.
    Unlisten,
    /// Serves clients, from this version of the tree on. The election is to answer with this epoch.
    Serve(Mode, Tree, Epoch),
    /// Serves reads of this version of the tree, to clients that ask for no more, while there is no leader.
    ServeReadOnly(Tree),
    /// Serves clients no more.
    Unserve,
}

/// Transactions that a learner gets from the leader's log on disk. The packet is sent when `after` was found there, and not
/// before. What then turns out not to be there as it should ends the link, and is told by `Event::Stored` before
/// `Event::LinkLost`: the learner comes again, and gets something else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredDiff {
    /// What is sent first: DIFF.
    pub packet: Bytes,
    /// The last transaction that the learner has.
    pub after: Zxid,
    /// The last that it gets, which is durable.
    pub through: Zxid,
}

/// A port where learners come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MasterPort {
    /// The leader's: the first of a server's line.
    Quorum,
    /// A follower's, for observers alone: `observerMasterPort`, the same on all servers.
    ObserverMaster,
}

/// How far a server has come: what it votes with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Standing {
    /// The epoch of the last leader whose history it took over.
    pub epoch: Epoch,
    /// The last transaction in its log.
    pub zxid: Zxid,
}

/// What a server is while it serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It orders writes.
    Leading,
    /// It votes.
    Following,
    /// It only learns.
    Observing,
    /// It looks for a leader, and answers reads from what it has.
    ReadOnly,
}

/// Why a role ended: a sentence for the log.
pub type Reason = String;

impl Mode {
    /// As `srvr` and `status` show it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Leading => "leader",
            Mode::Following => "follower",
            Mode::Observing => "observer",
            Mode::ReadOnly => "read-only",
        }
    }
}

impl Effect {
    /// Sends one packet.
    pub fn packet(link: LinkId, packet: &Packet) -> Effect {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        Effect::Send(link, bytes.into())
    }
}

/// How a learner is told of an answer to what it has asked for (SYNC, REVALIDATE), and over which link; `None` for the answers
/// that only this server's own clients get.
pub fn packet_of_answer(answer: &Answer) -> Option<(LinkId, Packet)> {
    match answer {
        Answer::Synced(cnxn) => Some((cnxn.slot, Packet::bare(PacketKind::Sync, Zxid::ZERO))),
        Answer::Revalidated { cnxn, session, valid } => {
            let data = quorum::encode_revalidated(*session, *valid);
            Some((cnxn.slot, Packet::with(PacketKind::Revalidate, Zxid(-1), data)))
        }
        _ => None,
    }
}
