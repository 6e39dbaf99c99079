//! A shard and the order of writes together, without sockets, disk or clock.

use super::*;
use crate::jute::Write;
use crate::proto::client::AclList;
use crate::request::containers;
use crate::request::pipeline::{Pipeline, Proposals};
use crate::session::Sessions;
use crate::tree::DataTree;
use crate::types::WallMs;

/// What a client's socket holds.
#[derive(Default)]
struct Socket {
    input: BytesMut,
    output: Vec<u8>,
    closed: Option<CloseReason>,
}

struct World {
    cnxns: Cnxns,
    pipeline: Pipeline,
    now: Instant,
    sockets: HashMap<Slot, Socket, BuildHasherDefault<SipHasher13>>,
}

fn settings() -> Settings {
    Settings {
        shard: 0,
        frame_bytes_max: 1 << 20,
        timeout_min_ms: 4_000,
        timeout_max_ms: 40_000,
        sessionless_timeout_ms: 10_000,
        outstanding_max: 1000,
        throttle: RequestThrottle { requests_max: 0, stall_ms: 100, stale_dropped: false, wait_ms_max: None },
        large_request_bytes: usize::MAX,
        large_requests_bytes_max: usize::MAX,
        watches_max: 1 << 20,
        rules: Rules { skip_acl: false, digest_scheme: true, enforce_quota: false, reconfig: false },
        super_digest: None,
        enforced_auth_schemes: Vec::new(),
        forwards: false,
        four_letter_words: Vec::new(),
    }
}

impl World {
    fn new(settings: Settings) -> World {
        let tree = DataTree::new();
        let mut cnxns = Cnxns::new(settings.clone(), tree.tree().clone());
        cnxns.serve("standalone", tree.tree().clone());
        let now = Instant(1_000_000);
        let sessions = Sessions::new(2_000, 0, session::first_id(1, WallMs(1), 0));
        let pipeline = Pipeline::new(tree, sessions, settings.rules, containers::Settings::default(), true, now);
        World { cnxns, pipeline, now, sockets: HashMap::default() }
    }

    /// A connection with a session.
    fn client(&mut self) -> CnxnId {
        let id = self.cnxns.accept(self.now, "127.0.0.1:1".parse().unwrap());
        self.sockets.insert(id.slot, Socket::default());
        let request = ConnectRequest::new_session(10_000);
        let mut payload = Vec::new();
        request.encode(&mut payload);
        self.send(id, &payload);
        self.settle();
        assert_eq!(self.taken(id).len(), 4 + 37);
        id
    }

    /// Puts a frame into the connection's buffer.
    fn send(&mut self, id: CnxnId, payload: &[u8]) {
        let socket = self.sockets.get_mut(&id.slot).unwrap();
        socket.input.extend_from_slice(&(payload.len() as i32).to_be_bytes());
        socket.input.extend_from_slice(payload);
    }

    fn request(&mut self, id: CnxnId, xid: i32, op: OpCode, body: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = Vec::new();
        payload.put_int(xid);
        payload.put_int(op as i32);
        body(&mut payload);
        self.send(id, &payload);
    }

    fn create(&mut self, id: CnxnId, xid: i32, path: &str) {
        self.request(id, xid, OpCode::Create, |body| {
            body.put_string(path);
            body.put_buffer(Some(b""));
            AclList::OPEN.encode(body);
            body.put_int(0);
        });
    }

    /// The shard looks at what has come, and the order of writes at what the shard asks. Nothing is committed.
    fn look(&mut self) {
        let mut slots: Vec<Slot> = self.sockets.keys().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            let socket = self.sockets.get_mut(&slot).unwrap();
            let id = CnxnId { shard: 0, slot, generation: 0 };
            while self.cnxns.received(self.now, id, &mut socket.input) == Progress::Again {}
            if socket.closed.is_none() {
                socket.closed = self.cnxns.get(id).and_then(|cnxn| cnxn.close);
            }
        }
        for ask in self.cnxns.take_asks() {
            self.pipeline.handle(self.now, WallMs(1), ask);
        }
        for answer in self.pipeline.take_answers() {
            self.cnxns.answer(self.now, &answer);
        }
    }

    /// Everything that was ordered is committed.
    fn commit(&mut self) {
        let proposals = self.pipeline.take_proposals(Proposals::default());
        if let Some((last, _)) = proposals.ends.last()
            && let Some(batch) = self.pipeline.commit(*last)
        {
            self.cnxns.committed(self.now, &batch);
        }
    }

    fn settle(&mut self) {
        self.look();
        self.commit();
    }

    /// What the client reads now.
    fn taken(&mut self, id: CnxnId) -> Vec<u8> {
        let socket = self.sockets.get_mut(&id.slot).unwrap();
        while self.cnxns.take_output(id, &mut socket.output).is_none() && self.cnxns.get(id).unwrap().unsent() > 0 {}
        std::mem::take(&mut socket.output)
    }

    /// xid and error of each reply that the client reads now.
    fn replies(&mut self, id: CnxnId) -> Vec<(i32, i32)> {
        let bytes = self.taken(id);
        let mut replies = Vec::new();
        let mut rest = &bytes[..];
        while let Some(head) = rest.first_chunk::<4>() {
            let (frame, after) = rest[4..].split_at(i32::from_be_bytes(*head) as usize);
            let header = ReplyHeader::decode(&mut JuteReader::new(frame)).unwrap();
            replies.push((header.xid, header.err));
            rest = after;
        }
        replies
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.cnxns.tick(self.now);
    }
}

const THROTTLED: i32 = ErrorCode::ThrottledOp as i32;

#[test]
fn a_throttle_lets_so_many_requests_wait_and_no_more() {
    let throttle = RequestThrottle { requests_max: 2, stall_ms: 100, stale_dropped: false, wait_ms_max: None };
    let mut world = World::new(Settings { throttle, ..settings() });
    let (a, b) = (world.client(), world.client());
    for xid in 1..=3 {
        world.create(a, xid, &format!("/a{xid}"));
        world.create(b, xid, &format!("/b{xid}"));
    }
    let mut rounds = Vec::new();
    for _ in 0..4 {
        world.look();
        assert!(world.cnxns.outstanding() <= 2);
        world.commit();
        rounds.push((world.replies(a).len(), world.replies(b).len()));
    }
    assert_eq!(rounds.iter().fold((0, 0), |sum, round| (sum.0 + round.0, sum.1 + round.1)), (3, 3), "{rounds:?}");
    assert_eq!(world.pipeline.head().tree().root().child_count(), 7);
}

#[test]
fn beyond_the_limit_on_outstanding_requests_only_who_waits_for_nothing_is_read_from() {
    let mut world = World::new(Settings { outstanding_max: 2, ..settings() });
    let (a, b) = (world.client(), world.client());
    for xid in 1..=5 {
        world.create(a, xid, &format!("/a{xid}"));
        world.create(b, xid, &format!("/b{xid}"));
    }
    world.look();
    assert_eq!(world.cnxns.outstanding(), 4, "three of the first, which is one too many, and one of the second");
    let mut replies = (Vec::new(), Vec::new());
    for _ in 0..5 {
        world.settle();
        assert!(world.cnxns.outstanding() <= 4);
        replies.0.extend(world.replies(a));
        replies.1.extend(world.replies(b));
    }
    let all: Vec<(i32, i32)> = (1..=5).map(|xid| (xid, 0)).collect();
    assert_eq!(replies, (all.clone(), all));
}

#[test]
fn a_request_that_was_held_up_for_too_long_is_refused_in_its_turn() {
    let throttle = RequestThrottle { requests_max: 1, stall_ms: 100, stale_dropped: false, wait_ms_max: Some(50) };
    let mut world = World::new(Settings { throttle, ..settings() });
    let (a, b) = (world.client(), world.client());
    world.create(a, 1, "/first");
    world.look();
    world.create(b, 1, "/late");
    world.request(b, -2, OpCode::Ping, |_| {});
    world.request(b, 2, OpCode::GetData, |body| {
        body.put_string("/");
        body.put_bool(false);
    });
    world.look();
    world.pass(51);
    world.commit();
    world.settle();
    assert_eq!(world.replies(a), [(1, 0)]);
    assert_eq!(world.replies(b), [(1, THROTTLED), (-2, 0), (2, THROTTLED)]);
    assert!(world.pipeline.head().tree().get("/late").is_none());
    // What comes now is not late.
    world.create(b, 3, "/now");
    world.settle();
    assert_eq!(world.replies(b), [(3, 0)]);
    assert_eq!(world.cnxns.counters().throttled, 2);
}

#[test]
fn a_stale_request_ends_its_connection() {
    let throttle = RequestThrottle { requests_max: 1, stall_ms: 100, stale_dropped: true, wait_ms_max: None };
    let mut world = World::new(Settings { throttle, ..settings() });
    let (a, b) = (world.client(), world.client());
    world.create(a, 1, "/first");
    world.look();
    world.create(b, 1, "/late");
    world.look();
    world.now = world.now.after_ms(10_001);
    world.commit();
    world.settle();
    assert_eq!(world.sockets[&b.slot].closed, Some(CloseReason::Stale));
    assert!(world.pipeline.head().tree().get("/late").is_none());
}

#[test]
fn large_requests_share_a_budget_until_they_are_answered() {
    let mut world = World::new(Settings { large_request_bytes: 1000, large_requests_bytes_max: 5000, ..settings() });
    let (a, b, c) = (world.client(), world.client(), world.client());
    let set = |world: &mut World, id, xid, bytes| {
        world.request(id, xid, OpCode::SetData, |body| {
            body.put_string("/");
            body.put_buffer(Some(&vec![0; bytes]));
            body.put_int(-1);
        });
    };
    set(&mut world, a, 1, 3000);
    world.look();
    set(&mut world, b, 1, 3000);
    // Small ones do not count.
    (1..=10).for_each(|xid| set(&mut world, c, xid, 900));
    world.look();
    assert_eq!(world.sockets[&b.slot].closed, Some(CloseReason::LargeRequest));
    assert_eq!(world.cnxns.large_bytes / 1000, 3);
    world.commit();
    assert_eq!((world.replies(a), world.replies(c).len(), world.cnxns.large_bytes), (vec![(1, 0)], 10, 0));
    set(&mut world, a, 2, 3000);
    world.settle();
    assert_eq!(world.replies(a), [(2, 0)]);
    // A length alone is enough to refuse.
    world.sockets.get_mut(&c.slot).unwrap().input.extend_from_slice(&6000i32.to_be_bytes());
    world.look();
    assert_eq!(world.sockets[&c.slot].closed, Some(CloseReason::LargeRequest));
}

#[test]
fn the_connection_with_most_watches_goes_when_there_are_too_many() {
    let mut world = World::new(Settings { watches_max: 100, ..settings() });
    let (a, b) = (world.client(), world.client());
    let watch = |world: &mut World, id, xid, path: &str| {
        world.request(id, xid, OpCode::AddWatch, |body| {
            body.put_string(path);
            body.put_int(1);
        });
    };
    (0..70).for_each(|i| watch(&mut world, a, i, &format!("/a{i}")));
    (0..30).for_each(|i| watch(&mut world, b, i, &format!("/b{i}")));
    world.settle();
    assert_eq!((world.replies(a).len(), world.replies(b).len(), world.cnxns.watches().count()), (70, 30, 100));
    watch(&mut world, b, 30, "/b30");
    world.settle();
    assert_eq!(world.replies(b), [(30, 0)]);
    assert_eq!(world.cnxns.aborted(a), Some(CloseReason::TooManyWatches));
    assert_eq!((world.cnxns.aborted(b), world.cnxns.watches().count()), (None, 31));
}

#[test]
fn clients_that_do_not_read_are_ended_when_their_output_is_too_much_together() {
    let mut world = World::new(settings());
    let readers = 3;
    let clients: Vec<CnxnId> = (0..300 + readers).map(|_| world.client()).collect();
    let data = vec![7; 1 << 20];
    world.request(clients[0], 1, OpCode::SetData, |body| {
        body.put_string("/");
        body.put_buffer(Some(&data[..data.len() - 100]));
        body.put_int(-1);
    });
    world.settle();
    for xid in 2..20 {
        for client in &clients {
            world.request(*client, xid, OpCode::GetData, |body| {
                body.put_string("/");
                body.put_bool(false);
            });
        }
        world.look();
        world.pass(1_000);
        for client in &clients[..readers] {
            world.taken(*client);
        }
    }
    let unsent: usize = world.cnxns.slots.iter().flatten().filter(|c| !c.abort).map(Cnxn::unsent).sum();
    assert!(unsent <= OUTPUT_TOTAL_MAX, "{unsent}");
    let ended = clients.iter().filter(|id| world.cnxns.aborted(**id) == Some(CloseReason::NotReading)).count();
    assert!(ended > 0 && ended < 300, "{ended} of 300 are ended: no more than must");
    for client in &clients[..readers] {
        assert_eq!(world.cnxns.aborted(*client), None, "who reads is left alone");
        world.taken(*client);
        world.request(*client, 20, OpCode::GetData, |body| {
            body.put_string("/");
            body.put_bool(false);
        });
        world.look();
        assert!(!world.taken(*client).is_empty(), "and is served");
    }
}

fn get(world: &mut World, id: CnxnId, xid: i32, watch: bool) {
    world.request(id, xid, OpCode::GetData, |body| {
        body.put_string("/");
        body.put_bool(watch);
    });
}

const EVENT: (i32, i32) = (-1, 0);

#[test]
fn a_crowd_is_told_by_and_by_and_nobody_sees_a_change_before_its_event() {
    const CROWD: usize = 4 * EVENTS_AT_ONCE_MAX;
    let mut world = World::new(settings());
    let clients: Vec<CnxnId> = (0..CROWD).map(|_| world.client()).collect();
    let change = |world: &mut World, xid| {
        world.request(clients[CROWD - 1], xid, OpCode::SetData, |body| {
            body.put_string("/");
            body.put_buffer(Some(b"x"));
            body.put_int(-1);
        });
        world.settle();
    };
    clients.iter().for_each(|id| get(&mut world, *id, 1, true));
    world.settle();
    clients.iter().for_each(|id| assert_eq!(world.replies(*id), [(1, 0)]));
    change(&mut world, 2);
    // Who asked for the change hears of it before the reply; the others will.
    assert_eq!(world.replies(clients[CROWD - 1]), [EVENT, (2, 0)]);
    assert!(clients[..CROWD - 1].iter().all(|id| world.cnxns.get(*id).unwrap().out.is_empty()));
    // A read shows the change, so the event comes first; so does one that is answered otherwise.
    get(&mut world, clients[CROWD - 2], 2, true);
    world.request(clients[CROWD - 3], -2, OpCode::Ping, |_| {});
    world.settle();
    assert_eq!(world.replies(clients[CROWD - 2]), [EVENT, (2, 0)]);
    assert_eq!(world.replies(clients[CROWD - 3]), [EVENT, (-2, 0)]);
    // That one watches again: a second event, for few, does not overtake the first of anybody.
    get(&mut world, clients[0], 3, true);
    world.settle();
    change(&mut world, 4);
    assert_eq!(world.replies(clients[0]), [EVENT, (3, 0), EVENT]);
    assert_eq!(world.replies(clients[CROWD - 2]), [EVENT]);
    // One goes, and another comes in its place, which is told nothing.
    world.cnxns.disconnected(clients[1]);
    let newcomer = world.cnxns.accept(world.now, "127.0.0.1:2".parse().unwrap());
    assert_eq!(newcomer.slot, clients[1].slot);
    world.cnxns.take_ready();
    let mut steps = 0;
    while world.cnxns.has_more() {
        world.cnxns.do_some();
        steps += 1;
        assert!(world.cnxns.take_ready().len() <= EVENTS_PER_STEP_MAX);
    }
    assert!(steps >= CROWD / EVENTS_PER_STEP_MAX, "{steps}");
    assert!(world.cnxns.get(newcomer).unwrap().out.is_empty());
    for id in &clients[2..CROWD - 3] {
        assert_eq!(world.replies(*id), [EVENT], "{id:?}");
    }
    assert_eq!((world.cnxns.told_later, world.cnxns.watches().count()), (0, 0));
}

#[test]
fn many_children_are_listed_by_and_by_and_what_comes_meanwhile_stands_behind() {
    const MANY: usize = LISTED_AT_ONCE_MAX + 3;
    let mut world = World::new(settings());
    let (lister, other) = (world.client(), world.client());
    for i in 0..MANY {
        world.create(other, i as i32 + 1, &format!("/n{i}"));
        if i % 500 == 0 || i + 1 == MANY {
            world.settle();
            world.taken(other);
        }
    }
    get(&mut world, lister, 1, false);
    world.request(lister, 2, OpCode::GetChildren2, |body| {
        body.put_string("/");
        body.put_bool(true);
    });
    get(&mut world, lister, 3, false);
    world.settle();
    // What stands before may go.
    let mut sent = Vec::new();
    assert_eq!(world.cnxns.take_output(lister, &mut sent), None);
    assert_eq!(i32::from_be_bytes(sent[4..8].try_into().unwrap()), 1);
    // Two changes, of which the first uses the watch up. Nothing of that may be sent yet.
    world.create(other, 1_000_000, "/more");
    world.create(other, 1_000_001, "/and-more");
    world.settle();
    assert_eq!(world.replies(other), [(1_000_000, 0), (1_000_001, 0)]);
    sent.clear();
    assert_eq!(world.cnxns.take_output(lister, &mut sent), None);
    assert!(sent.is_empty() && world.cnxns.get(lister).unwrap().listing.is_some());
    let mut steps = 0;
    while world.cnxns.has_more() {
        world.cnxns.do_some();
        steps += 1;
    }
    assert!(steps > LISTED_AT_ONCE_MAX / LISTED_PER_STEP, "{steps}");
    world.look();
    let bytes = world.taken(lister);
    let length = i32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    let mut r = JuteReader::new(&bytes[4..4 + length]);
    assert_eq!((r.int(), r.long().is_ok(), r.int()), (Ok(2), true, Ok(0)));
    let names: std::collections::BTreeSet<String> =
        (0..r.int().unwrap()).map(|_| r.required_string().unwrap().into_owned()).collect();
    // The version that the read has met: with the node that every tree has, without what came later.
    assert_eq!(names.len(), MANY + 1);
    assert!((0..MANY).all(|i| names.contains(&format!("n{i}"))));
    // A Stat is 68 bytes.
    assert_eq!(length - r.position(), 68);
    world.sockets.get_mut(&lister.slot).unwrap().output = bytes[4 + length..].to_vec();
    assert_eq!(world.replies(lister), [EVENT, (3, 0)]);
}

#[test]
fn a_connection_that_goes_takes_its_listing_with_it() {
    let mut world = World::new(settings());
    let (lister, other) = (world.client(), world.client());
    for i in 0..=LISTED_AT_ONCE_MAX {
        world.create(other, i as i32 + 1, &format!("/n{i}"));
        if i % 500 == 0 || i == LISTED_AT_ONCE_MAX {
            world.settle();
            world.taken(other);
        }
    }
    world.request(lister, 1, OpCode::GetChildren, |body| {
        body.put_string("/");
        body.put_bool(false);
    });
    world.settle();
    assert!(world.cnxns.has_more());
    world.cnxns.disconnected(lister);
    world.cnxns.do_some();
    assert!(!world.cnxns.has_more());
}

/// A learner's client that has moved to another server hears of it as one of the leader's own does.
#[test]
fn a_write_that_the_leader_refuses_because_the_session_has_moved_ends_the_connection_without_a_reply() {
    let mut world = World::new(settings());
    let (a, b) = (world.client(), world.client());
    for id in [a, b] {
        world.create(id, 1, "/x");
    }
    let socket = world.sockets.get_mut(&a.slot).unwrap();
    while world.cnxns.received(world.now, a, &mut socket.input) == Progress::Again {}
    drop(world.cnxns.take_asks());
    world.settle();
    let zxid = world.pipeline.committed().next();
    let outcome = Outcome::Failed(ErrorCode::SessionMoved.code());
    let moved = Committed::without_transaction(zxid, (a, 1), outcome, SessionChange::None);
    world.cnxns.answer(world.now, &Answer::Replied(Arc::new(moved)));
    world.look();
    assert_eq!(world.sockets[&a.slot].closed, Some(CloseReason::SessionMoved));
    assert_eq!((world.replies(a), world.replies(b)), (vec![], vec![(1, 0)]));
}
