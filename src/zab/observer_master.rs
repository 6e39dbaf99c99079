//! A follower that serves observers (`observerMasterPort`), so that the leader need not.
//!
//! It gives them what it has itself: the epoch that it follows, its committed history, and then each transaction when it is
//! committed here (INFORM). What they ask for goes to the leader as if this server's own clients had asked it; there is no
//! other answer to it than the transaction that it leads to, but for SYNC and REVALIDATE, which find their way back through
//! [`Replica`].
//!
//! An observer's state may be one hop older than that of its master, never newer than what is committed.
//!
//! Source: `ObserverMaster.java`, `LearnerHandler.java`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::effect::{self, Effect, LinkId, Reason, Settings};
use super::history::{History, Plan};
use super::quorum::QuorumVerifier;
use crate::jute::Write as _;
use crate::proto::quorum::{self, ForwardedRequest, LearnerInfo, OP_CREATE_SESSION, Packet, PacketKind};
use crate::request::pipeline::{Answer, Ask};
use crate::request::replica::Replica;
use crate::storage::snapshot_format::SnapshotSource;
use crate::types::{CnxnId, Epoch, Instant, ServerId, Zxid};

/// What an observer master gives from, and through which it asks.
pub struct Source<'a> {
    /// The configuration in force.
    pub config: &'a QuorumVerifier,
    /// The newest committed transactions; ends where `replica` does.
    pub history: &'a History,
    /// The committed state, and the way to the leader.
    pub replica: &'a mut Replica,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It has said nothing yet.
    Connected,
    /// LEADERINFO is out.
    Asked,
    /// What it lacks is out, with NEWLEADER behind it.
    Syncing,
    /// UPTODATE is out.
    Serving,
}

#[derive(Debug)]
struct Observer {
    sid: ServerId,
    stage: Stage,
    /// It must be heard of before.
    deadline: Instant,
}

/// See the module.
pub struct ObserverMaster {
    settings: Settings,
    epoch: Epoch,
    observers: BTreeMap<LinkId, Observer>,
    /// The last transaction that those who are synchronised were told of.
    informed: Zxid,
    /// Reconfigurations behind it, with the leader that each names.
    activations: BTreeMap<Zxid, ServerId>,
    next_ping: Instant,
}

impl ObserverMaster {
    /// That of a follower which has just begun to serve, in this epoch and with a history that ends at `committed`.
    pub fn new(settings: Settings, epoch: Epoch, committed: Zxid) -> ObserverMaster {
        ObserverMaster {
            settings,
            epoch,
            observers: BTreeMap::new(),
            informed: committed,
            activations: BTreeMap::new(),
            next_ping: Instant::default(),
        }
    }

    /// Observers that serve.
    pub fn serving(&self) -> Vec<(ServerId, LinkId)> {
        let serving = self.observers.iter().filter(|(_, observer)| observer.stage == Stage::Serving);
        serving.map(|(link, observer)| (observer.sid, *link)).collect()
    }

    /// All links, to be closed when the role ends.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.observers.keys().copied()
    }

    /// Somebody has connected.
    pub fn connected(&mut self, now: Instant, link: LinkId) {
        let deadline = now.after_ms(self.settings.init_ms());
        self.observers.insert(link, Observer { sid: ServerId::NOBODY, stage: Stage::Connected, deadline });
    }

    /// A link is gone.
    pub fn lost(&mut self, link: LinkId) {
        self.observers.remove(&link);
    }

    /// A reconfiguration was committed, and `leader` leads from there on.
    pub fn activated(&mut self, zxid: Zxid, leader: ServerId) {
        self.activations.insert(zxid, leader);
    }

    /// A packet has come.
    pub fn received(
        &mut self,
        now: Instant,
        link: LinkId,
        packet: Packet,
        source: &mut Source<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(observer) = self.observers.get_mut(&link) else { return };
        if observer.stage == Stage::Serving {
            observer.deadline = now.after_ms(self.settings.sync_ms());
        }
        let cnxn = CnxnId::of_learner(link);
        let data = packet.data.as_deref().unwrap_or_default();
        let result = match (observer.stage, packet.kind) {
            (Stage::Connected, PacketKind::ObserverInfo) => self.on_observer_info(link, data, source, effects),
            (Stage::Connected, kind) => Err(format!("only observers are served here, and it sent {kind:?}")),
            (Stage::Asked, PacketKind::AckEpoch) => {
                self.synchronize(now, link, packet.zxid, source, effects);
                Ok(())
            }
            (Stage::Syncing, PacketKind::Ack) if packet.zxid == self.epoch.zxid() => {
                observer.stage = Stage::Serving;
                observer.deadline = now.after_ms(self.settings.sync_ms());
                send(link, &Packet::bare(PacketKind::UpToDate, Zxid(-1)), effects);
                Ok(())
            }
            // The second one, for UPTODATE.
            (Stage::Serving, PacketKind::Ack) if packet.zxid.counter() == 0 => Ok(()),
            (Stage::Serving, PacketKind::Ping) => {
                source.replica.relay_touches(quorum::decode_touches(data));
                Ok(())
            }
            (Stage::Serving, PacketKind::Revalidate) => match quorum::decode_touches(data)[..] {
                [(session, timeout_ms)] => {
                    source.replica.handle(now, Ask::Revalidate { cnxn, session, timeout_ms });
                    Ok(())
                }
                _ => Err("its REVALIDATE names no session".to_owned()),
            },
            (Stage::Serving, PacketKind::Request) => {
                readable(&packet).map(|request| source.replica.relay(cnxn, request, packet.auth))
            }
            (stage, kind) => Err(format!("it sent {kind:?} {} at stage {stage:?}", packet.zxid)),
        };
        if let Err(why) = result {
            self.refuse(link, &why, effects);
        }
    }

    /// Tells the observers what was committed since the last time.
    pub fn inform(&mut self, history: &History, effects: &mut Vec<Effect>) {
        if history.newest() <= self.informed {
            return;
        }
        let synced = |observer: &Observer| matches!(observer.stage, Stage::Syncing | Stage::Serving);
        let links: Vec<LinkId> =
            self.observers.iter().filter(|(_, observer)| synced(observer)).map(|(link, _)| *link).collect();
        match history.after(self.informed) {
            Some(entries) if !links.is_empty() => {
                let mut packets = Vec::new();
                for (zxid, payload) in entries {
                    match self.activations.remove(zxid) {
                        None => quorum::put(&mut packets, PacketKind::Inform, *zxid, Some(payload), &[]),
                        Some(leader) => {
                            let mut data = Vec::with_capacity(8 + payload.len());
                            data.put_long(leader.0);
                            data.extend_from_slice(payload);
                            quorum::put(&mut packets, PacketKind::InformAndActivate, *zxid, Some(&data), &[]);
                        }
                    }
                }
                let packets = Bytes::from(packets);
                effects.extend(links.into_iter().map(|link| Effect::Send(link, packets.clone())));
            }
            Some(_) => {}
            None => {
                let why = format!("what came after {} is forgotten already", self.informed);
                links.into_iter().for_each(|link| self.refuse(link, &why, effects));
            }
        }
        self.informed = history.newest();
        self.activations.clear();
    }

    /// Tells an observer what the leader has answered it.
    pub fn answer(&self, answer: &Answer, effects: &mut Vec<Effect>) {
        if let Some((link, packet)) = effect::packet_of_answer(answer)
            && self.observers.contains_key(&link)
        {
            effects.push(Effect::packet(link, &packet));
        }
    }

    /// Does what time brings. To be called several times a tick.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let late = self.observers.iter().filter(|(_, observer)| now > observer.deadline);
        let late: Vec<LinkId> = late.map(|(link, _)| *link).collect();
        for link in late {
            self.refuse(link, "it was not heard of in time", effects);
        }
        if now < self.next_ping {
            return;
        }
        self.next_ping = now.after_ms(self.settings.tick_ms / 2);
        let ping = Packet::bare(PacketKind::Ping, self.informed);
        for (link, _) in self.observers.iter().filter(|(_, observer)| observer.stage == Stage::Serving) {
            send(*link, &ping, effects);
        }
    }

    fn on_observer_info(
        &mut self,
        link: LinkId,
        data: &[u8],
        source: &Source<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Reason> {
        let info = LearnerInfo::decode(data).map_err(|error| format!("its first packet cannot be read: {error}"))?;
        if info.protocol_version < quorum::PROTOCOL_VERSION {
            return Err(format!("it speaks version {:x} of the protocol", info.protocol_version));
        }
        if info.config_version > source.config.version() {
            return Err(format!("it knows a newer configuration, version {:x}", info.config_version));
        }
        let sid = ServerId(info.sid);
        // The same server again: its old connection is of no use any more.
        let is_old = |(link, old): (&LinkId, &Observer)| (old.sid == sid).then_some(*link);
        let old: Vec<LinkId> = self.observers.iter().filter_map(is_old).collect();
        for old in old {
            self.refuse(old, "the same server has connected again", effects);
        }
        let observer = self.observers.get_mut(&link).expect("looked up by the caller");
        (observer.sid, observer.stage) = (sid, Stage::Asked);
        let mut version = Vec::with_capacity(4);
        version.put_int(quorum::PROTOCOL_VERSION);
        send(link, &Packet::with(PacketKind::LeaderInfo, self.epoch.zxid(), version), effects);
        Ok(())
    }

    /// Sends what the observer lacks, and takes it into the audience of all that is committed from here on.
    fn synchronize(&mut self, now: Instant, link: LinkId, last: Zxid, source: &Source<'_>, effects: &mut Vec<Effect>) {
        // Everybody is told of the same from here on.
        self.inform(source.history, effects);
        let deadline = now.after_ms(self.settings.init_ms());
        let observer = self.observers.get_mut(&link).expect("looked up by the caller");
        (observer.stage, observer.deadline) = (Stage::Syncing, deadline);
        let (newest, plan) = (source.history.newest(), source.history.plan(last));
        let sid = observer.sid;
        tracing::info!("Synchronizing with Learner sid: {sid} peerLastZxid={last} lastProcessedZxid={newest}: {plan}");
        let mut packets = Vec::new();
        let from = match plan {
            Plan::Diff { from } => {
                quorum::put(&mut packets, PacketKind::Diff, newest, None, &[]);
                Some(from)
            }
            Plan::Trunc { to, from } => {
                quorum::put(&mut packets, PacketKind::Trunc, to, None, &[]);
                Some(from)
            }
            // It asks for no other plan than from memory.
            Plan::Stored { .. } | Plan::Snap => {
                let state = SnapshotSource::of(source.replica.data_tree(), source.replica.digests());
                assert_eq!(state.tree.zxid(), newest, "the history ends where the tree does");
                quorum::put(&mut packets, PacketKind::Snap, newest, None, &[]);
                effects.push(Effect::Send(link, std::mem::take(&mut packets).into()));
                effects.push(Effect::SendSnapshot(link, Box::new(state)));
                None
            }
        };
        for (zxid, payload) in from.into_iter().flat_map(|from| source.history.from(from)) {
            quorum::put_committed(&mut packets, *zxid, payload);
        }
        let config = source.config.to_string();
        quorum::put(&mut packets, PacketKind::NewLeader, self.epoch.zxid(), Some(config.as_bytes()), &[]);
        effects.push(Effect::Send(link, packets.into()));
    }

    /// Ends a link because of what its observer did or did not do.
    fn refuse(&mut self, link: LinkId, why: &str, effects: &mut Vec<Effect>) {
        if let Some(observer) = self.observers.remove(&link) {
            effects.push(Effect::Close(link, format!("observer {}: {why}", observer.sid)));
        }
    }
}

/// A request that the leader can read, so that it has nothing to hold against this server.
fn readable(packet: &Packet) -> Result<ForwardedRequest, Reason> {
    let data = packet.data.clone().unwrap_or_default();
    let request = ForwardedRequest::decode(&data).map_err(|error| format!("its REQUEST cannot be read: {error}"))?;
    if request.op == OP_CREATE_SESSION && request.body.len() < 4 {
        return Err("its createSession has no timeout".to_owned());
    }
    Ok(request)
}

fn send(link: LinkId, packet: &Packet, effects: &mut Vec<Effect>) {
    effects.push(Effect::packet(link, packet));
}
