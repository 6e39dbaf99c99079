//! The learner port, at both ends: a server that leads three, and one that follows, with whatever the other end sends. Its
//! disk works at once. Packets come as bytes, or are made of a few: kinds, epochs and counters that fit each other would
//! seldom be guessed.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::client::AclList;
use ringkeeper::proto::op::OpCode;
use ringkeeper::proto::quorum::{self, ForwardedRequest, HandOver, LearnerInfo, Packet, PacketKind};
use ringkeeper::proto::txn::{CreateKind, LoggedTxn, Txn, TxnHeader};
use ringkeeper::request::prepare::Rules;
use ringkeeper::request::{containers, throttle};
use ringkeeper::storage::snapshot_format::{Decoder, Encoder, Form, SnapshotSource};
use ringkeeper::tree::DataTree;
use ringkeeper::types::{Instant, ServerId, SessionId, WallMs, Zxid};
use ringkeeper::zab::effect::{Effect, Epochs, LAST_COUNTER, LinkId, MasterPort, Settings};
use ringkeeper::zab::history::{History, Limits};
use ringkeeper::zab::masters::Observing;
use ringkeeper::zab::peer::{Event, Ordering, Peer};
use ringkeeper::zab::quorum::{QuorumVerifier, QuorumView};

const THREE: &str = "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\n\
                     server.4=h:7:8:observer\nversion=0";
const ME: ServerId = ServerId(2);
const OTHER: ServerId = ServerId(3);
const WALL: WallMs = WallMs(1_700_000_000_000);
const TICK_MS: u64 = 2000;
const PACKET_BYTES_MAX: usize = 1 << 20;
const LINKS_MAX: usize = 6;
/// What is carried out for one step: more is a loop.
const EFFECTS_MAX: usize = 10_000;

// The first byte says how the server begins, each further step begins with one that says on which link what is done.
fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut world = World::new(first & 1 == 1, first & 2 == 2, first & 4 == 4);
    while let Some((step, behind)) = rest.split_first() {
        rest = behind;
        let index = usize::from(step >> 4 & 3);
        match step & 7 {
            0 => world.bytes(index, &take(&mut rest)),
            1..=3 => {
                let mut bytes = Vec::new();
                packet(&mut rest).encode(&mut bytes);
                world.bytes(index, &bytes);
            }
            4 => world.pass(u64::from(step >> 3) * 200),
            5 => world.lose(index),
            6 => world.connect(),
            _ => world.elect(step & 8 != 0),
        }
    }
    // It has not come to a standstill: without anybody else it looks for a leader in the end.
    for _ in 0..3 {
        world.links.keys().copied().collect::<Vec<_>>().into_iter().for_each(|link| world.lose_link(link));
        world.pass(20 * TICK_MS);
    }
    assert!(world.looking || world.dialling, "nobody else is there, and it does not look for a leader");
});

fn take(rest: &mut &[u8]) -> Vec<u8> {
    let len = usize::from(byte(rest));
    let (taken, behind) = rest.split_at(rest.len().min(len));
    *rest = behind;
    taken.to_vec()
}

fn byte(rest: &mut &[u8]) -> u8 {
    let Some((byte, behind)) = rest.split_first() else { return 0 };
    *rest = behind;
    *byte
}

/// A packet that is right in itself.
fn packet(rest: &mut &[u8]) -> Packet {
    const LAST_KIND: u8 = 19;
    let kind = byte(rest) % (LAST_KIND + 2);
    let kind = PacketKind::from_wire(i32::from(kind)).unwrap_or(PacketKind::HandOver);
    let (epoch, counter, shape) = (byte(rest), byte(rest), byte(rest));
    let zxid = match epoch {
        0xff => Zxid(-1 - i64::from(counter)),
        0xfe => Zxid(i64::MAX - i64::from(counter)),
        _ => Zxid(i64::from(epoch & 7) << 32 | i64::from(counter)),
    };
    let session = SessionId(i64::from(shape >> 4) + 1);
    let data: Option<Bytes> = match shape & 15 {
        0 => None,
        1 => Some(take(rest).into()),
        2 => Some(logged(zxid, session, create(rest))),
        3 => Some(logged(zxid, session, Txn::CreateSession { timeout_ms: 4000 })),
        4 => Some(logged(zxid, session, Txn::CloseSession { paths: None })),
        5 => Some(logged(zxid, session, Txn::Error { err: -110 })),
        6 => Some(logged(zxid, session, reconfig(byte(rest)))),
        7 => {
            let (sid, knows_hand_over) = (i64::from(byte(rest)), shape & 16 == 16);
            Some(LearnerInfo { sid, protocol_version: 0x10000, config_version: 0, knows_hand_over }.encode())
        }
        8 => Some(i32::from(byte(rest)).to_be_bytes().to_vec().into()),
        9 => Some(0x10000_i32.to_be_bytes().to_vec().into()),
        10 => Some(config(byte(rest)).into_bytes().into()),
        11 => Some(quorum::encode_touches([(session, 4000)])),
        12 => Some(quorum::encode_revalidated(session, shape & 16 == 16)),
        13 => {
            let successor = ServerId(i64::from(byte(rest) & 7));
            Some(HandOver { successor, supporters: BTreeSet::from([ME, OTHER]) }.encode())
        }
        14 => {
            let op =
                [OpCode::Create as i32, OpCode::CloseSession as i32, OpCode::Sync as i32, quorum::OP_CREATE_SESSION];
            let op = op[usize::from(byte(rest) & 3)];
            Some(ForwardedRequest { session, cxid: 1, op, body: take(rest).into() }.encode().into())
        }
        _ => {
            let source = SnapshotSource::of(&DataTree::new(), true);
            let mut encoder = Encoder::new(&source, Form::Stream);
            let (mut stream, mut chunk) = (Vec::new(), Vec::new());
            while encoder.next_chunk(&mut chunk) {
                stream.extend_from_slice(&chunk);
            }
            Some(stream.into())
        }
    };
    Packet { kind, zxid, data, auth: Vec::new() }
}

fn create(rest: &mut &[u8]) -> Txn {
    let path = format!("/{}", byte(rest) & 3).into();
    let kind = CreateKind::Plain { ephemeral: byte(rest) & 1 == 1 };
    Txn::Create { path, data: None, acl: AclList::OPEN, kind, with_stat: false, parent_cversion: -1 }
}

fn config(version: u8) -> String {
    format!("{}{:x}", THREE.trim_end_matches('0'), u64::from(version & 1) << 32 | u64::from(version))
}

fn reconfig(version: u8) -> Txn {
    Txn::Reconfig { path: "/zookeeper/config".into(), data: Some(config(version).into_bytes().into()), version: -1 }
}

fn logged(zxid: Zxid, session: SessionId, txn: Txn) -> Bytes {
    let header = TxnHeader { session, cxid: 1, zxid, time: WALL };
    let mut bytes = Vec::new();
    LoggedTxn::encode_parts(&mut bytes, &header, &txn, None);
    bytes.into()
}

/// What comes over a link: packets, or the stream behind a SNAP.
struct Link {
    input: BytesMut,
    snapshot: Option<Decoder>,
}

struct World {
    peer: Peer,
    now: Instant,
    links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    looking: bool,
    dialling: bool,
    base: DataTree,
    log: Vec<(Zxid, Bytes)>,
}

impl World {
    fn new(leads: bool, reconfig: bool, observes: bool) -> World {
        let settings = Settings {
            id: if observes { ServerId(4) } else { ME },
            tick_ms: TICK_MS,
            init_limit: 10,
            sync_limit: 5,
            last_counter: LAST_COUNTER,
            history: Limits { count_min: 3, bytes_max: 1000 },
            snapshot_size_factor: 0.33,
            reconfig,
            participants_min: 2,
            observing: Observing { masters: true, seed: 7, ..Observing::default() },
        };
        let ordering = Ordering {
            rules: Rules { skip_acl: false, digest_scheme: true, enforce_quota: false, reconfig },
            containers: containers::Settings::default(),
            digests: true,
            grace_ms: 200,
            local_sessions: None,
            read_only_after_ms: None,
            throttle: throttle::Settings::default(),
        };
        let view = QuorumView::new(QuorumVerifier::parse(THREE).expect("it is right"));
        let (data_tree, history) = (DataTree::new(), History::new(Zxid::ZERO, settings.history));
        let peer = Peer::new(settings, ordering, view, Epochs::default(), data_tree, history, false);
        let mut world = World {
            peer,
            now: Instant(1_000_000),
            links: BTreeMap::new(),
            next_link: 0,
            looking: false,
            dialling: false,
            base: DataTree::new(),
            log: Vec::new(),
        };
        world.carry_out();
        world.elect(leads);
        if leads {
            world.connect();
        }
        world
    }

    /// The election ends: with this server, or with another one.
    fn elect(&mut self, leads: bool) {
        if std::mem::take(&mut self.looking) {
            let leader = if leads && self.peer.view().is_voter(ME) { ME } else { OTHER };
            self.happened(Event::Elected(leader, BTreeSet::from([ME, OTHER])));
        }
    }

    fn new_link(&mut self) -> LinkId {
        let link = self.next_link;
        self.next_link += 1;
        self.links.insert(link, Link { input: BytesMut::new(), snapshot: None });
        link
    }

    /// Whoever this server waits for takes its connection, or somebody connects to it.
    fn connect(&mut self) {
        if self.links.len() >= LINKS_MAX {
            return;
        }
        let link = self.new_link();
        let event = if std::mem::take(&mut self.dialling) {
            Event::LeaderConnected(link)
        } else {
            Event::LearnerConnected(link)
        };
        self.happened(event);
    }

    fn lose(&mut self, index: usize) {
        if let Some(link) = self.links.keys().nth(index).copied() {
            self.lose_link(link);
        }
    }

    fn lose_link(&mut self, link: LinkId) {
        if self.links.remove(&link).is_some() {
            self.happened(Event::LinkLost(link, "lost".to_owned()));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.happened(Event::Tick);
        if std::mem::take(&mut self.dialling) {
            self.happened(Event::LeaderUnreachable("refused".to_owned()));
        }
    }

    /// As `shard::learner_port` takes packets off a socket.
    fn bytes(&mut self, index: usize, bytes: &[u8]) {
        let Some(id) = self.links.keys().nth(index).copied() else { return };
        self.links.get_mut(&id).expect("it was looked up").input.extend_from_slice(bytes);
        while let Some(link) = self.links.get_mut(&id) {
            match next_event(id, link) {
                Ok(Some(event)) => self.happened(event),
                Ok(None) => return,
                Err(()) => return self.lose_link(id),
            }
        }
    }

    fn happened(&mut self, event: Event) {
        self.peer.handle(self.now, WALL, event);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut carried = 0;
        loop {
            let output = self.peer.pump(self.now);
            let mut then = Vec::new();
            if let Some((last, _)) = output.log.last() {
                then.push(Event::Durable(*last));
            }
            self.log.extend(output.log);
            for effect in output.effects {
                carried += 1;
                assert!(carried < EFFECTS_MAX, "one step leads to endless work");
                then.extend(self.effect(effect));
            }
            if then.is_empty() {
                return;
            }
            then.into_iter().for_each(|event| self.peer.handle(self.now, WALL, event));
        }
    }

    fn effect(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Close(link, _) => {
                self.links.remove(&link);
            }
            Effect::SaveEpochs(_) => return Some(Event::EpochsSaved),
            Effect::Truncate(zxid) => {
                self.log.retain(|(logged, _)| *logged <= zxid);
                let data_tree = self.recover();
                if data_tree.tree().zxid() == zxid {
                    return Some(Event::Reloaded(Box::new(data_tree)));
                }
                (self.base, self.log) = (DataTree::new(), Vec::new());
                return Some(Event::HistoryLost);
            }
            Effect::Reload => return Some(Event::Reloaded(Box::new(self.recover()))),
            Effect::Install(source) => {
                let mut decoder = Decoder::new(Form::Stream, source.tree.zxid());
                let (mut encoder, mut chunk) = (Encoder::new(&source, Form::Stream), Vec::new());
                while encoder.next_chunk(&mut chunk) {
                    assert_eq!(decoder.feed(&chunk).expect("it was written"), chunk.len());
                }
                (self.base, self.log) = (decoder.finish(&[]).expect("it was written").data_tree, Vec::new());
                return Some(Event::Installed);
            }
            Effect::Look(_) => self.looking = true,
            Effect::Appoint { leader, .. } => return Some(Event::Elected(leader, BTreeSet::from([ME, OTHER]))),
            Effect::Succeed(HandOver { successor, supporters }, _) => {
                return Some(Event::Elected(successor, supporters));
            }
            Effect::Configure(_) => return Some(Event::Configured),
            Effect::Leave => return Some(Event::Left),
            Effect::Dial(_, MasterPort::Quorum | MasterPort::ObserverMaster) => self.dialling = true,
            Effect::Send(..) | Effect::SendSnapshot(..) | Effect::SendLog(..) => {}
            Effect::Listen(_) | Effect::Unlisten => {}
            Effect::Serve(..) | Effect::ServeReadOnly(_) | Effect::Unserve => {}
        }
        None
    }

    fn recover(&self) -> DataTree {
        let mut data_tree = self.base.clone();
        for (zxid, payload) in &self.log {
            let logged = LoggedTxn::decode(payload).expect("what is logged can be read");
            assert!(zxid.follows(data_tree.tree().zxid()), "{zxid} after {}", data_tree.tree().zxid());
            data_tree.apply(&logged.header, &logged.txn);
        }
        data_tree
    }
}

fn next_event(id: LinkId, link: &mut Link) -> Result<Option<Event>, ()> {
    if let Some(mut decoder) = link.snapshot.take() {
        let consumed = decoder.feed(&link.input).map_err(drop)?;
        link.input.advance(consumed);
        if !decoder.stream_ended() {
            link.snapshot = Some(decoder);
            return Ok(None);
        }
        let decoded = decoder.finish(&[]).map_err(drop)?;
        return Ok(Some(Event::SnapshotReceived(id, Box::new(decoded.data_tree))));
    }
    let Some(packet) = Packet::parse(&mut link.input, PACKET_BYTES_MAX).map_err(drop)? else { return Ok(None) };
    link.snapshot = (packet.kind == PacketKind::Snap).then(|| Decoder::new(Form::Stream, packet.zxid));
    Ok(Some(Event::Packet(id, packet)))
}
