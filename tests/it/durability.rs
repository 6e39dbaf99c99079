//! What was acknowledged is there: after kills, torn tails and full disks; and damage is told, not served.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use ringkeeper::proto::client::{AclList, Password};
use ringkeeper::proto::txn::{CreateKind, LoggedTxn, Txn, TxnHeader};
use ringkeeper::storage::format::{self, BLOCK_BYTES, Link, RECORD_HEADER_BYTES, SegmentHeader, record_bytes};
use ringkeeper::storage::group_commit::Batch;
use ringkeeper::storage::log::{Log, Spare};
use ringkeeper::storage::replay::Replay;
use ringkeeper::storage::{segments, snapshot};
use ringkeeper::tree::DataTree;
use ringkeeper::types::{SessionId, WallMs, Zxid};
use rustix::process::{Resource, Rlimit, prlimit};

use super::flushes::{segments_ready, write_bytes};
use super::support::*;

// ---- Kills under load ------------------------------------------------------------------------------------------------

const KILLS: u64 = 200;
const WORKERS: usize = 3;
const KEYS: u64 = 4;
/// Requests that a worker has without an answer, at the most.
const OUTSTANDING_MAX: u64 = 8;

/// Everything that a worker alone has written.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct State {
    /// By key: the value, which only grows.
    values: BTreeMap<u64, u64>,
    nodes: BTreeSet<u64>,
    ephemerals: BTreeSet<u64>,
    numbered: BTreeSet<i32>,
    /// Children ever created where the numbered ones are: what the next is named for.
    creations: i32,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Set { key: u64, value: u64, padding: usize },
    Create(u64),
    Delete(u64),
    CreateEphemeral(u64),
    DeleteEphemeral(u64),
    CreateNumbered,
    DeleteNumbered(i32),
}

impl State {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Set { key, value, .. } => drop(self.values.insert(key, value)),
            Op::Create(node) => assert!(self.nodes.insert(node)),
            Op::Delete(node) => assert!(self.nodes.remove(&node)),
            Op::CreateEphemeral(node) => assert!(self.ephemerals.insert(node)),
            Op::DeleteEphemeral(node) => assert!(self.ephemerals.remove(&node)),
            Op::CreateNumbered => {
                self.numbered.insert(self.creations);
                self.creations += 1;
            }
            Op::DeleteNumbered(number) => assert!(self.numbered.remove(&number)),
        }
    }
}

/// A session that was opened beside a worker's own, to be closed, or not, before the kill.
struct Side {
    session: SessionId,
    password: Password,
    path: String,
    created: bool,
    closed: Known,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    No,
    /// Asked for, not acknowledged.
    Maybe,
    Yes,
}

struct Worker {
    root: String,
    random: Random,
    client: Client,
    /// With all that was acknowledged.
    acknowledged: State,
    /// With all that was sent.
    sent: State,
    /// Sent and not acknowledged, with the xid.
    waiting: VecDeque<(i32, Op)>,
    sides: Vec<Side>,
    next: u64,
    acknowledgements: u64,
}

impl Worker {
    fn new(server: &Server, number: usize, random: Random) -> Worker {
        let root = format!("/w{number}");
        let mut client = server.client();
        client.call(&create(&root, None)).ok();
        for part in ["values", "nodes", "ephemerals", "numbered"] {
            client.call(&create(&format!("{root}/{part}"), None)).ok();
        }
        let mut worker = Worker {
            root,
            random,
            client,
            acknowledged: State::default(),
            sent: State::default(),
            waiting: VecDeque::new(),
            sides: Vec::new(),
            next: 1,
            acknowledgements: 0,
        };
        for key in 0..KEYS {
            worker.client.call(&create(&worker.value_path(key), Some(b"0"))).ok();
            worker.acknowledged.values.insert(key, 0);
        }
        worker.sent = worker.acknowledged.clone();
        worker
    }

    fn value_path(&self, key: u64) -> String {
        format!("{}/values/{key}", self.root)
    }

    fn choose(&mut self) -> Op {
        self.next += 1;
        let some = |random: &mut Random, set: &BTreeSet<u64>| {
            set.iter().nth(random.below(set.len().max(1) as u64) as usize).copied()
        };
        match self.random.below(16) {
            0 | 1 => Op::Create(self.next),
            2 => some(&mut self.random, &self.sent.nodes).map_or(Op::Create(self.next), Op::Delete),
            3 if self.sent.ephemerals.len() < 10 => Op::CreateEphemeral(self.next),
            3 | 4 => some(&mut self.random, &self.sent.ephemerals)
                .map_or(Op::CreateEphemeral(self.next), Op::DeleteEphemeral),
            5 | 6 => Op::CreateNumbered,
            // The newest: its number must not come again.
            7 => self.sent.numbered.last().copied().map_or(Op::CreateNumbered, Op::DeleteNumbered),
            kind => {
                let padding = if kind == 15 { self.random.below(150_000) } else { self.random.below(200) };
                Op::Set { key: self.random.below(KEYS), value: self.next, padding: padding as usize }
            }
        }
    }

    fn request(&self, op: Op) -> Request {
        let root = &self.root;
        match op {
            Op::Set { key, value, padding } => {
                let mut data = value.to_string().into_bytes();
                data.resize(data.len() + padding, b' ');
                set(&self.value_path(key), Some(&data))
            }
            Op::Create(node) => create(&format!("{root}/nodes/{node}"), Some(b"node")),
            Op::Delete(node) => delete(&format!("{root}/nodes/{node}"), -1),
            Op::CreateEphemeral(node) => create_ephemeral(&format!("{root}/ephemerals/{node}")),
            Op::DeleteEphemeral(node) => delete(&format!("{root}/ephemerals/{node}"), -1),
            Op::CreateNumbered => create_sequential(&format!("{root}/numbered/")),
            Op::DeleteNumbered(number) => delete(&format!("{root}/numbered/{number:010}"), -1),
        }
    }

    /// Writes until the server is gone.
    fn load(&mut self, address: &str) {
        if self.open_side(address).is_none() {
            return;
        }
        loop {
            let room = OUTSTANDING_MAX - self.waiting.len() as u64;
            let ops: Vec<Op> = (0..self.random.below(room) + 1)
                .map(|_| {
                    let op = self.choose();
                    self.sent.apply(op);
                    op
                })
                .collect();
            let requests: Vec<Request> = ops.iter().map(|op| self.request(*op)).collect();
            let xids = self.client.pipeline(&requests);
            self.waiting.extend(xids.into_iter().zip(ops));
            let rest = self.random.below(OUTSTANDING_MAX - 1);
            while self.waiting.len() as u64 > rest {
                let Some(frame) = self.client.try_next() else { return };
                let Frame::Reply(reply) = frame else { panic!("{frame:?}, but nothing is watched") };
                let (xid, op) = self.waiting.pop_front().expect("something waits");
                assert_eq!((reply.xid, reply.err), (xid, 0), "{op:?}");
                if let Op::CreateNumbered = op {
                    let expected = format!("{}/numbered/{:010}", self.root, self.acknowledged.creations);
                    assert_eq!(reply.path(), expected, "numbers go up by one and are never used again");
                }
                self.acknowledged.apply(op);
                self.acknowledgements += 1;
            }
        }
    }

    /// Opens a session, has it create an ephemeral, and closes it or leaves it. `None` if the server is gone.
    fn open_side(&mut self, address: &str) -> Option<()> {
        // The server may be gone already: then there is nothing to dial, or nothing to read.
        let mut client = Client::shake_hands(Wire::try_dial(address)?, &new_session(40_000))?;
        let path = format!("{}/side-{}", self.root, self.next);
        let (session, password) = (client.session, client.password);
        self.sides.push(Side { session, password, path: path.clone(), created: false, closed: Known::No });
        let side = self.sides.last_mut().expect("just pushed");
        client.send(&create_ephemeral(&path));
        client.try_next()?;
        side.created = true;
        if self.random.below(2) == 0 {
            side.closed = Known::Maybe;
            client.send(&CLOSE_SESSION);
            client.try_next()?;
            side.closed = Known::Yes;
        }
        Some(())
    }

    /// Compares what is there with what was acknowledged and sent, after a restart.
    fn verify(&mut self, server: &Server) {
        let (session, password) = (self.client.session, self.client.password);
        self.client = Client::attach(&server.address(), session, &password)
            .unwrap_or_else(|| panic!("the session of {} is lost", self.root));
        let found = self.read();
        // Requests of a session are carried out in order: what is there is all that was acknowledged, and then
        // some of the first that were not.
        let mut state = self.acknowledged.clone();
        let mut candidates = self.waiting.drain(..);
        while state != found {
            let Some((_, op)) = candidates.next() else {
                drop(candidates);
                panic!(
                    "{}: found {found:?}, which is no state between what was acknowledged, {:?}, and what was sent, {:?}",
                    self.root, self.acknowledged, self.sent
                )
            };
            state.apply(op);
        }
        drop(candidates);
        self.acknowledged = found.clone();
        self.sent = found;
        for side in std::mem::take(&mut self.sides) {
            self.verify_side(server, &side);
        }
    }

    fn verify_side(&mut self, server: &Server, side: &Side) {
        let found = self.client.call(&exists(&side.path, false)).err == 0;
        let attached = Client::attach(&server.address(), side.session, &side.password);
        match (side.closed, &attached) {
            (Known::Yes, Some(_)) => panic!("session {} was closed and is there", side.session),
            (Known::No, None) => panic!("session {} is lost", side.session),
            (_, None) => assert!(!found, "{} outlived its session", side.path),
            (_, Some(_)) => assert!(found || !side.created, "{} is lost, its session is not", side.path),
        }
        if let Some(mut client) = attached {
            client.call(&CLOSE_SESSION).ok();
            self.client.call(&sync("/")).ok();
            assert_eq!(self.client.call(&exists(&side.path, false)).err, -101);
        }
    }

    fn read(&mut self) -> State {
        let mut state = State::default();
        for key in 0..KEYS {
            let (data, _) = self.client.call(&get(&self.value_path(key), false)).data();
            let text = String::from_utf8(data.expect("not null")).expect("digits");
            state.values.insert(key, text.trim_end().parse().expect("a number"));
        }
        let mut names = |part: &str| {
            let (names, stat) = self.client.call(&children(&format!("{}/{part}", self.root), false)).children();
            (names.into_iter().map(|name| name.parse::<u64>().expect("a number")).collect::<BTreeSet<_>>(), stat)
        };
        state.nodes = names("nodes").0;
        let (numbered, stat) = names("numbered");
        state.numbered = numbered.into_iter().map(|number| number as i32).collect();
        state.creations = (stat.cversion + stat.num_children) / 2;
        state.ephemerals = names("ephemerals").0;
        for node in &state.ephemerals {
            let stat = self.client.call(&exists(&format!("{}/ephemerals/{node}", self.root), false)).stat();
            assert_eq!(stat.ephemeral_owner, self.client.session.0);
        }
        state
    }
}

#[test]
fn what_was_acknowledged_survives_200_kills() {
    let mut random = Random::from_environment();
    // Small segments and many snapshots, so that kills meet those too.
    let mut server = Server::run("ringkeeper.segmentBytes=1048576\nsnapCount=400\n");
    let mut workers: Vec<Worker> =
        (0..WORKERS).map(|number| Worker::new(&server, number, random.fork(number as u64))).collect();
    let begin = Instant::now();
    let mut starting = Duration::ZERO;
    let mut kills = 0;
    // Every start begins a segment; more than those were needed. Where the machine is slow, that takes some kills more.
    let is_enough = |server: &Server, kills: u64| {
        let last = segments::list(&server.log_dir()).expect("it can be read").pop().expect("there is a log").0;
        let snapshots = snapshot::list(&server.log_dir()).expect("it can be read").len();
        kills >= KILLS && last > kills + 30 && snapshots >= 3
    };
    while kills < KILLS || !is_enough(&server, kills) {
        assert!(kills < 5 * KILLS, "no further segments or snapshots: the load cannot have been one");
        let address = server.address();
        let load = Duration::from_micros(random.below(60_000));
        let ready = Barrier::new(WORKERS + 1);
        thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| {
                    ready.wait();
                    worker.load(&address);
                });
            }
            ready.wait();
            // The moment of the kill is what the seed decides; nothing is waited for.
            thread::sleep(load);
            server.kill();
        });
        if random.below(10) == 0 {
            // Once more, while it is starting.
            server.spawn();
            thread::sleep(Duration::from_micros(random.below(30_000)));
            server.kill();
        }
        let start = Instant::now();
        server.start();
        starting += start.elapsed();
        for worker in &mut workers {
            worker.verify(&server);
        }
        kills += 1;
        if kills % 50 == 0 {
            println!("{kills} kills in {:?}", begin.elapsed());
        }
    }
    let acknowledged: u64 = workers.iter().map(|worker| worker.acknowledgements).sum();
    println!("{acknowledged} writes; a start takes {:?} on average", starting / kills as u32);
    server.stop();
    server.start();
    for worker in &mut workers {
        worker.verify(&server);
    }
}

#[test]
fn segments_are_used_again_and_the_log_stays_in_one_piece() {
    let mut server = Server::run("ringkeeper.segmentBytes=1048576\nsnapCount=60\n");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    let data = vec![b'x'; 100_000];
    let mut version = 0;
    // A segment holds ten of these. Three snapshots must be there before the first segment is used again.
    for round in 0..12 {
        for _ in 0..60 {
            version = client.call(&set("/a", Some(&data))).stat().version;
        }
        if round % 2 == 1 {
            let (session, password) = (client.session, client.password);
            server.kill();
            server.start();
            client = Client::attach(&server.address(), session, &password).expect("the session is there");
            assert_eq!(client.call(&exists("/a", false)).stat().version, version, "round {round}");
        }
    }
    assert!(snapshot::list(&server.log_dir()).expect("it can be read").len() >= 3);
    // Each start has begun another, and what a start finds is used again once it is covered.
    assert!(segment_numbers(&server)[0] > 1, "{:?}", segment_numbers(&server));
}

fn segment_numbers(server: &Server) -> Vec<u64> {
    segments::list(&server.log_dir()).expect("it can be listed").into_iter().map(|(number, _)| number).collect()
}

#[test]
fn a_used_segment_is_not_forgotten_when_it_cannot_be_made_ready() {
    let server = Server::run("ringkeeper.segmentBytes=1048576\nsnapCount=20\n");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    let data = vec![b'x'; 100_000];
    // Such that used segments are there to be used again.
    wait_for("the first segment to be used again", || {
        client.call(&set("/a", Some(&data))).ok();
        (segment_numbers(&server)[0] > 1).then_some(())
    });
    // A file cannot be renamed to a directory. The next segments may be under way already, this one is not.
    let blocked = segment_numbers(&server).last().expect("there is one") + 4;
    let obstacle = server.log_dir().join(format!("ringlog.{blocked:016x}.tmp"));
    fs::create_dir(&obstacle).expect("it can be made");
    // More than the segments before it hold: some wait.
    let requests = vec![set("/a", Some(&data)); 70];
    client.pipeline(&requests);
    wait_for("a failure", || server.printed().contains("No log segment can be made ready").then_some(()));
    fs::remove_dir(&obstacle).expect("it can be removed");
    for _ in &requests {
        client.next_reply().ok();
    }
    assert!(server.printed().contains("The log has room again"));
    wait_for("all to be used again", || {
        client.call(&set("/a", Some(&data))).ok();
        (segment_numbers(&server)[0] > blocked).then_some(())
    });
}

#[test]
fn old_snapshots_are_purged_beside_new_ones() {
    let mut server = Server::run("snapCount=20\nautopurge.purgeInterval=1\n");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    let snapshots = |server: &Server| snapshot::list(&server.log_dir()).expect("it can be read");
    wait_for("more snapshots than are kept", || {
        client.call(&set("/a", Some(b"data"))).ok();
        (snapshots(&server).len() > 4).then_some(())
    });
    server.stop();
    server.start();
    // The first of the hourly purges is at the start.
    let kept = wait_for("a purge", || Some(snapshots(&server)).filter(|kept| kept.len() == 3));
    let (version, last) = (server.client().call(&exists("/a", false)).stat().version, kept[0].zxid);
    assert!(version > 20);
    let mut client = server.client();
    wait_for("a snapshot after a purge", || {
        client.call(&set("/a", Some(b"data"))).ok();
        (snapshots(&server)[0].zxid > last).then_some(())
    });
}

#[test]
fn a_record_larger_than_a_segment_survives_a_restart() {
    let mut server = Server::run("ringkeeper.segmentBytes=1048576\n");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    let data = vec![b'x'; 1_048_575 - set("/a", Some(b"")).encoded(0).len()];
    client.call(&set("/a", Some(&data))).ok();
    client.call(&set("/a", Some(b"small"))).ok();
    server.kill();
    server.start();
    let (data, stat) = server.client().call(&get("/a", false)).data();
    assert_eq!((data.as_deref(), stat.version), (Some(&b"small"[..]), 2));
}

// ---- Torn tails and damage -------------------------------------------------------------------------------------------

/// A record as it stands in a segment.
#[derive(Clone, Copy, Debug)]
struct Record {
    position: u64,
    /// Behind the payload; what comes then, up to a multiple of 8, is zeros.
    end: u64,
    zxid: i64,
}

fn records(segment: &Path) -> Vec<Record> {
    let bytes = fs::read(segment).expect("it can be read");
    let header = SegmentHeader::read(&bytes).expect("a good header");
    let mut found = Vec::new();
    let visit = |record: format::Record<'_>| {
        let end = record.position + (RECORD_HEADER_BYTES + record.payload.len()) as u64;
        found.push(Record { position: record.position, end, zxid: record.zxid.0 });
        Ok::<(), ()>(())
    };
    format::walk(&bytes, &header, visit).expect("visit does not fail");
    found
}

/// The newest segment that holds transactions.
fn last_segment(server: &Server) -> PathBuf {
    let segments = segments::list(&server.log_dir()).expect("it can be read");
    let mut newest_first = segments.into_iter().rev().map(|(_, path)| path);
    newest_first.find(|path| !records(path).is_empty()).expect("something was written")
}

/// A server that was killed after ten writes, each durable before the next: `/a` has the values 0 to 8.
fn killed_server() -> Server {
    let mut server = Server::run("");
    let mut client = server.client();
    client.call(&create("/a", Some(b"0"))).ok();
    for value in 1..9u8 {
        // Of several lengths, so that padding differs.
        let data = vec![b'0' + value; 1 + usize::from(value) * 5];
        client.call(&set("/a", Some(&data))).ok();
    }
    server.kill();
    server
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    Zeros,
    Truncated,
    Garbage,
}

const CUTS: [Cut; 3] = [Cut::Zeros, Cut::Truncated, Cut::Garbage];

impl Cut {
    /// Tears what follows from `at` on.
    fn tear(self, path: &Path, at: u64, random: &mut Random) {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("it can be opened");
        let size = file.metadata().expect("it is open").len();
        let behind = size.min(at.next_multiple_of(BLOCK_BYTES as u64) + BLOCK_BYTES as u64);
        let mut bytes = vec![0; (behind - at) as usize];
        match self {
            Cut::Zeros => file.write_all_at(&bytes, at),
            Cut::Truncated => file.set_len(at),
            Cut::Garbage => {
                // Each byte is another than the one that is there.
                let read = file.read_exact_at(&mut bytes, at);
                bytes.iter_mut().for_each(|byte| *byte ^= random.next() as u8 | 1);
                read.and_then(|()| file.write_all_at(&bytes, at))
            }
        }
        .expect("it can be changed");
    }
}

#[test]
fn a_tail_torn_at_any_byte_loses_what_came_after_and_nothing_else() {
    let mut random = Random::from_environment();
    let server = killed_server();
    let segment = last_segment(&server);
    let records = records(&segment);
    assert!(records.len() >= 9);
    let whole = fs::read(&segment).expect("it can be read");
    let dir = Dir::new();
    let copy = dir.path().join(segment.file_name().expect("a file"));
    fs::write(&copy, &whole).expect("it can be written");
    let tail = &records[records.len() - 3..];
    for at in tail[0].position..=tail[2].end {
        for cut in CUTS {
            cut.tear(&copy, at, &mut random);
            let torn = fs::read(&copy);
            let mut replay = Replay::on(DataTree::new());
            let recovered = segments::recover(dir.path(), &mut replay)
                .unwrap_or_else(|error| panic!("{cut:?} at {at} of {records:?}: {error}"));
            let tree = replay.data_tree;
            // What is torn may be as it was: zeros, where there are zeros.
            let torn = torn.expect("it can be read");
            let is_whole = |record: &&Record| torn.get(..record.end as usize) == whole.get(..record.end as usize);
            let last = records.iter().rev().find(is_whole).expect("most are before the tail");
            assert!(last.end <= at || torn[at as usize] == whole[at as usize], "{cut:?} at {at} tears nothing");
            assert_eq!(tree.tree().zxid().0, last.zxid, "{cut:?} at {at} of {records:?}");
            assert_eq!(recovered.end.zxid.0, last.zxid);
            let next = record_bytes((last.end - last.position) as usize - RECORD_HEADER_BYTES) as u64;
            assert_eq!(recovered.end.end, last.position + next, "{cut:?} at {at} of {records:?}");
            // Whole again.
            let file = OpenOptions::new().write(true).open(&copy).expect("it can be opened");
            file.set_len(whole.len() as u64).expect("it can be changed");
            file.write_all_at(&whole[at as usize..][..2 * BLOCK_BYTES], at).expect("it can be changed");
        }
    }
    assert!(fs::read(&copy).expect("it can be read") == whole);
}

/// The file of a log's first segment, as a disk has it that may lose what was not flushed.
struct Image {
    log: Log,
    bytes: Vec<u8>,
    next: i64,
}

impl Image {
    const SEGMENT_BYTES: usize = 64 * BLOCK_BYTES;

    fn new(sequence: u64, end: Link) -> Image {
        let salt = sequence * 77;
        let mut log = Log::new(end, 2);
        log.add_spare(Spare { sequence, salt, bytes: Image::SEGMENT_BYTES as u64 });
        let mut bytes = SegmentHeader::new(sequence, salt).to_block().to_vec();
        bytes.resize(Image::SEGMENT_BYTES, 0);
        Image { log, bytes, next: end.zxid.0 + 1 }
    }

    /// The first creates a znode, and each that follows changes it.
    fn append(&mut self, data_bytes: usize) {
        let header = TxnHeader { session: SessionId(1), cxid: 0, zxid: Zxid(self.next), time: WallMs(0) };
        let (path, data) = ("/a".into(), Some(vec![self.next as u8; data_bytes].into()));
        let txn = if self.next == 1 {
            let kind = CreateKind::Plain { ephemeral: false };
            Txn::Create { path, data, acl: AclList::OPEN, kind, with_stat: false, parent_cversion: 1 }
        } else {
            Txn::SetData { path, data, version: self.next as i32 - 1 }
        };
        let mut payload = Vec::new();
        LoggedTxn::encode_parts(&mut payload, &header, &txn, None);
        self.log.append(header.zxid, &payload);
        self.next += 1;
    }

    /// Writes the blocks of the batch that `keep` picks by their number in the file.
    fn write(bytes: &mut [u8], batch: &Batch, mut keep: impl FnMut(usize) -> bool) {
        let (first, last) = (batch.position as usize, batch.end() as usize);
        for block in first / BLOCK_BYTES..last.div_ceil(BLOCK_BYTES) {
            let (start, end) = (first.max(block * BLOCK_BYTES), last.min((block + 1) * BLOCK_BYTES));
            if keep(block) {
                bytes[start..end].copy_from_slice(&batch.bytes[start - first..end - first]);
                bytes[end..(block + 1) * BLOCK_BYTES].fill(0);
            }
        }
    }
}

#[test]
fn a_crash_in_two_flushes_at_once_leaves_a_prefix_whichever_blocks_are_lost() {
    let mut random = Random::from_environment();
    let mut image = Image::new(1, Link::default());
    for _ in 0..3 {
        image.append(500);
        let batch = image.log.start_flush().expect("it waits");
        Image::write(&mut image.bytes, &batch, |_| true);
        assert!(image.log.flushed(batch).is_some());
    }
    let mut batches = Vec::new();
    for _ in 0..2 {
        for _ in 0..5 {
            image.append(9_000);
        }
        batches.extend(image.log.start_flush());
    }
    assert_eq!(batches.len(), 2, "the second flush joins the first");

    let dir = Dir::new();
    let file = segments::path(dir.path(), 1);
    let mut whole = image.bytes.clone();
    batches.iter().for_each(|batch| Image::write(&mut whole, batch, |_| true));
    fs::write(&file, &whole).expect("it can be written");
    let records = records(&file);
    assert_eq!(records.len(), 13);
    for round in 0..500 {
        // Few, many, or from a place on; and each flush as a whole, lost or not.
        let lost: Vec<bool> = match round % 4 {
            0 => (0..64).map(|_| random.below(16) == 0).collect(),
            1 => (0..64).map(|_| random.below(2) == 0).collect(),
            2 => (0..64).map(|block| block == round / 4 % 32).collect(),
            _ => {
                let (from, to) = (random.below(32) as usize, random.below(64) as usize);
                (0..64).map(|block| (from..to).contains(&block)).collect()
            }
        };
        let mut torn = image.bytes.clone();
        batches.iter().for_each(|batch| Image::write(&mut torn, batch, |block| !lost[block]));
        // The first three are durable.
        let is_whole = |record: &Record| {
            let (first, last) = (record.position as usize / BLOCK_BYTES, (record.end as usize - 1) / BLOCK_BYTES);
            record.zxid <= 3 || (first..=last).all(|block| !lost[block])
        };
        let left = records.iter().take_while(|record| is_whole(record)).count();
        fs::write(&file, &torn).expect("it can be written");
        let mut replay = Replay::on(DataTree::new());
        let recovered = segments::recover(dir.path(), &mut replay).unwrap_or_else(|error| panic!("{error}: {lost:?}"));
        let tree = replay.data_tree;
        assert_eq!(tree.tree().zxid().0, left as i64, "lost were {lost:?}");

        // What is left over behind the cut does not come back when the log goes on.
        let mut next = Image::new(2, recovered.end);
        next.append(100);
        let batch = next.log.start_flush().expect("it waits");
        Image::write(&mut next.bytes, &batch, |_| true);
        let second = segments::path(dir.path(), 2);
        fs::write(&second, &next.bytes).expect("it can be written");
        let mut replay = Replay::on(DataTree::new());
        segments::recover(dir.path(), &mut replay).unwrap_or_else(|error| panic!("{error}: {lost:?}"));
        let tree = replay.data_tree;
        let data = tree.tree().get("/a").expect("it was durable").data().map(<[u8]>::to_vec);
        assert_eq!((tree.tree().zxid().0, data), (left as i64 + 1, Some(vec![left as u8 + 1; 100])));
        fs::remove_file(second).expect("it is there");
    }
}

#[test]
fn a_server_goes_on_after_a_torn_tail() {
    let mut random = Random::from_environment();
    let original = killed_server();
    let name = last_segment(&original).file_name().expect("a file").to_owned();
    let records = records(&last_segment(&original));
    // The last three in turn, at four places: at its start, in its header, behind it, before its end.
    for (i, record) in records[records.len() - 3..].iter().cycle().take(4).enumerate() {
        let header = RECORD_HEADER_BYTES as u64;
        let at = [record.position, record.position + 20, record.position + header, record.end - 1][i];
        for cut in CUTS {
            let mut server = original.copy();
            cut.tear(&server.log_dir().join(&name), at, &mut random);
            server.start();
            let whole = records.iter().filter(|record| record.end <= at).count() as i32;
            let what = format!("{cut:?} at {at} of {record:?}: {}", server.printed());
            // A session, then the creation, then the changes.
            let mut client = server.client();
            let (_, stat) = client.call(&get("/a", false)).data();
            assert_eq!(stat.version, whole - 2, "{what}");
            // With its header whole, a record is known to have been on its way.
            if at >= record.position + header {
                let noted = server.printed().lines().any(|line| line.contains("is cut") && line.contains("ringlog."));
                assert!(noted, "the cut is not noted: {what}");
            }
            client.call(&set("/a", Some(b"after"))).ok();
            server.kill();
            server.start();
            let mut client = server.client();
            let (data, stat) = client.call(&get("/a", false)).data();
            assert_eq!((data.as_deref(), stat.version), (Some(&b"after"[..]), whole - 1), "{what}");
            client.call(&set("/a", Some(b"again"))).ok();
        }
    }
}

/// The server does not start, and says why: the file, the byte, and the transaction.
#[track_caller]
fn check_refused(server: &mut Server, file: &Path, at: Option<u64>, zxid: Option<i64>) {
    let (code, said) = server.start_in_vain();
    assert_eq!(code, Some(1), "{said}");
    let name = file.file_name().expect("a file").to_str().expect("UTF-8");
    let mut words = vec![name.to_owned()];
    words.extend(at.map(|at| format!("at byte {at}:")));
    words.extend(zxid.map(|zxid| format!("0x{zxid:x}")));
    for word in words {
        assert!(said.contains(&word), "{word:?} is not said: {said}");
    }
    assert!(said.contains("restore the data directory"), "what to do is not said: {said}");
    let command = format!("`ringkeeper-log repair --dry-run {}`", server.log_dir().display());
    assert!(said.contains(&command), "the command to run is not said: {said}");
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("it can be changed");
}

#[test]
fn a_flipped_bit_before_the_last_record_stops_the_start() {
    let mut server = killed_server();
    let segment = last_segment(&server);
    let records = records(&segment);
    for (i, record) in records.iter().enumerate().take(records.len() - 1) {
        for at in [record.position, record.position + 9, (record.position + record.end) / 2, record.end - 1] {
            flip(&segment, at);
            check_refused(&mut server, &segment, Some(record.position), i.checked_sub(1).map(|i| records[i].zxid));
            flip(&segment, at);
        }
    }
    // In the header of the file.
    for at in [0, 9, 16, 30] {
        flip(&segment, at);
        check_refused(&mut server, &segment, Some(0), None);
        flip(&segment, at);
    }
    // The failed starts have changed nothing.
    server.start();
    assert_eq!(server.client().call(&exists("/a", false)).stat().version, 8);
}

/// A server that was killed twice, and so has three segments with transactions; and these.
fn server_with_three_segments() -> (Server, Vec<PathBuf>) {
    let mut server = killed_server();
    for _ in 0..2 {
        server.start();
        let mut client = server.client();
        for _ in 0..40 {
            client.call(&set("/a", Some(&[b'x'; 1000]))).ok();
        }
        server.kill();
    }
    let segments = segments::list(&server.log_dir()).expect("it can be read");
    let segments: Vec<PathBuf> =
        segments.into_iter().map(|(_, path)| path).filter(|path| !records(path).is_empty()).collect();
    assert_eq!(segments.len(), 3);
    (server, segments)
}

#[test]
fn a_missing_segment_stops_the_start() {
    let (mut server, segments) = server_with_three_segments();
    let aside = server.dir.path().join("aside");
    for missing in [1, 0] {
        fs::rename(&segments[missing], &aside).expect("it can be moved");
        // The one behind the gap is named.
        let before = if missing == 0 { 0 } else { records(&segments[0]).last().expect("there are some").zxid };
        check_refused(&mut server, &segments[missing + 1], None, Some(before));
        fs::rename(&aside, &segments[missing]).expect("it can be moved");
    }
    server.start();
    assert_eq!(server.client().call(&exists("/a", false)).stat().version, 88);
}

#[test]
fn a_lost_block_before_the_end_stops_the_start() {
    let (mut server, segments) = server_with_three_segments();
    // The last block of a segment that another follows is no torn tail either. The first has but one.
    for (segment, in_the_middle) in [(0, false), (1, true), (1, false), (2, true)] {
        let path = &segments[segment];
        let records = records(path);
        let last = records.last().expect("there are some");
        let block = BLOCK_BYTES as u64;
        let at = if in_the_middle { records[records.len() / 2].position } else { last.position } / block * block;
        let file = OpenOptions::new().read(true).write(true).open(path).expect("it can be opened");
        let mut kept = vec![0; BLOCK_BYTES];
        file.read_exact_at(&mut kept, at).expect("it is there");
        file.write_all_at(&vec![0; BLOCK_BYTES], at).expect("it can be changed");
        let before = records.iter().rfind(|record| record.end <= at).map_or(0, |record| record.zxid);
        let first_lost = records.iter().find(|record| record.end > at).expect("some are lost");
        if in_the_middle {
            check_refused(&mut server, path, Some(first_lost.position), Some(before));
        } else {
            // What is left of the segment is good; the one behind it begins too late.
            check_refused(&mut server, &segments[segment + 1], None, Some(before));
        }
        file.write_all_at(&kept, at).expect("it can be changed");
    }
    server.start();
    assert_eq!(server.client().call(&exists("/a", false)).stat().version, 88);
}

// ---- Disks that refuse -----------------------------------------------------------------------------------------------

/// Writes beyond the limit of a file's size are refused, rather than end the process.
const BEYOND_FILE_SIZE_LIMIT: &str = "trap '' XFSZ";

/// Lets the running server write no file beyond that size; `None` lifts the limit.
fn limit_file_size(server: &Server, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(server.pid()), Resource::Fsize, limit).expect("the server is ours");
}

#[test]
fn a_failed_flush_stops_the_server_and_acknowledges_nothing_more() {
    let mut server = Server::new("");
    server.prelude = BEYOND_FILE_SIZE_LIMIT;
    server.start();
    let mut client = server.client();
    client.call(&create("/a", Some(b""))).ok();
    wait_for("segments to be ready", || (segments_ready(&server) >= 3).then_some(()));
    limit_file_size(&server, Some(200_000));
    let data = [b'x'; 3000];
    let mut acknowledged = 0;
    let mut sent = 0;
    loop {
        sent += 1;
        client.send(&set("/a", Some(&data)));
        match client.try_next() {
            Some(Frame::Reply(reply)) => acknowledged = reply.stat().version,
            Some(event) => panic!("{event:?}"),
            None => break,
        }
        assert!(sent < 1000, "the limit is not felt");
    }
    assert_eq!(server.wait_for_end(), Some(1));
    let said = server.printed();
    assert!(said.contains("Severe unrecoverable error, exiting: flushing"), "{said}");
    assert!(acknowledged > 20 && acknowledged < sent);
    server.start();
    let version = server.client().call(&exists("/a", false)).stat().version;
    assert!((acknowledged..=sent).contains(&version), "{acknowledged} were acknowledged, {version} are there");
}

/// Where no further segment finds room, and then again does.
trait Disk {
    fn fill(&self, server: &Server);
    fn make_room(&self, server: &Server);
}

/// A limit of the size of files stands in for a full disk.
struct LimitedFiles;

impl Disk for LimitedFiles {
    /// A new segment does not fit any more, but the last block of one is not touched by what is written here.
    fn fill(&self, server: &Server) {
        limit_file_size(server, Some((1 << 20) - BLOCK_BYTES as u64));
    }

    fn make_room(&self, server: &Server) {
        limit_file_size(server, None);
    }
}

/// A small file system of its own, and a file that takes up what is free there.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Disk for SmallFileSystem {
    fn fill(&self, _server: &Server) {
        let mut filler = File::create(self.filler()).expect("it can be made");
        while filler.write_all(&[1; BLOCK_BYTES]).is_ok() {}
    }

    fn make_room(&self, _server: &Server) {
        fs::remove_file(self.filler()).expect("it is there");
    }
}

/// A server with two clients and three segments, on a disk that is full then. `/a` has version 15, and not one more
/// write of 200 kB fits: five fit into a segment.
fn server_on_full_disk(mut server: Server, disk: &impl Disk) -> (Server, Client, Client) {
    server.prelude = BEYOND_FILE_SIZE_LIMIT;
    server.start();
    let (mut client, reader) = (server.client(), server.client());
    client.call(&create("/a", Some(b""))).ok();
    wait_for("segments to be ready", || (segments_ready(&server) >= 3).then_some(()));
    disk.fill(&server);
    for _ in 0..15 {
        client.call(&large_set()).ok();
    }
    (server, client, reader)
}

fn large_set() -> Request {
    set("/a", Some(&[b'x'; 200_000]))
}

#[track_caller]
fn wait_until_noticed(server: &Server) {
    wait_for("the server to notice", || server.printed().contains("No log segment can be made ready").then_some(()));
}

fn check_full_disk(server: Server, disk: &impl Disk) {
    let (mut server, mut client, mut reader) = server_on_full_disk(server, disk);
    let waiting = [client.send(&large_set()), client.send(&get("/a", false))];
    wait_until_noticed(&server);
    // Pings go ahead of the write that waits; what comes behind it on its connection waits too.
    for _ in 0..3 {
        client.send_as(-2, &PING);
        assert_eq!(client.next_reply().xid, -2);
        assert_eq!(reader.call(&get("/a", false)).data().1.version, 15);
    }
    let mut newcomer = Wire::dial(&server.address());
    newcomer.send(&encoded(&new_session(30_000)));
    assert!(ask(&server.address(), "srvr").contains("Mode: standalone"));
    disk.make_room(&server);
    let replies = [client.next_reply(), client.next_reply()];
    assert_eq!(replies.each_ref().map(|reply| reply.xid), waiting);
    assert_eq!((replies[0].stat().version, replies[1].data().1.version), (16, 16));
    assert_eq!(newcomer.receive().expect("a session at last").len(), 37);
    server.kill();
    server.start();
    assert_eq!(server.client().call(&exists("/a", false)).stat().version, 16);
}

fn check_kill_on_full_disk(server: Server, disk: &impl Disk) {
    let (mut server, mut client, reader) = server_on_full_disk(server, disk);
    client.send(&large_set());
    wait_until_noticed(&server);
    server.kill();
    // Where the disk is full still, those who have a session can read.
    server.start();
    let mut reader = Client::attach(&server.address(), reader.session, &reader.password).expect("it has a session");
    // The write that waited is not there: nothing of it was written.
    assert_eq!(reader.call(&get("/a", false)).data().1.version, 15);
    disk.make_room(&server);
    reader.call(&large_set()).ok();
}

#[test]
fn on_a_full_disk_writes_wait_and_reads_go_on() {
    check_full_disk(Server::new(""), &LimitedFiles);
}

#[test]
fn a_kill_on_a_full_disk_loses_nothing() {
    check_kill_on_full_disk(Server::new(""), &LimitedFiles);
}

/// The two above on a real file system that is full: `RINGKEEPER_TEST_SMALL_DISK` names a directory on one with some
/// 20 MB, such as a file mounted by `mount -o loop`.
#[test]
fn a_small_file_system_that_is_full() {
    let Some(directory) = std::env::var_os("RINGKEEPER_TEST_SMALL_DISK").map(PathBuf::from) else {
        return println!("RINGKEEPER_TEST_SMALL_DISK is not set");
    };
    let disk = SmallFileSystem(directory);
    for check in [check_full_disk, check_kill_on_full_disk] {
        let data = disk.0.join("data");
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).expect("the small disk can be written to");
        let server = Server::new("");
        std::os::unix::fs::symlink(&data, server.dir.path().join("data")).expect("a link can be made");
        check(server, &disk);
        let _ = fs::remove_file(disk.filler());
    }
}

/// Whether writes to the segments that the server has open are durable when they end (O_DSYNC). `None` if it has none.
fn writes_are_durable(server: &Server) -> Option<bool> {
    const O_DSYNC: u32 = 0o10000;
    // With O_DSYNC it is O_SYNC: each flush would make the file's times durable too, by a commit of the journal.
    const O_SYNC_BEYOND: u32 = 0o4000000;
    let process = PathBuf::from(format!("/proc/{}", server.pid().as_raw_nonzero()));
    let mut flags = Vec::new();
    for entry in fs::read_dir(process.join("fd")).expect("the server is ours").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if !target.to_string_lossy().contains("/ringlog.") {
            continue;
        }
        let Ok(info) = fs::read_to_string(process.join("fdinfo").join(entry.file_name())) else { continue };
        let line = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("Linux shows them");
        flags.push(u32::from_str_radix(line.trim(), 8).expect("octal"));
    }
    assert!(
        flags.iter().all(|flags| flags & O_SYNC_BEYOND == 0),
        "{flags:x?}: a flush commits more than the log's bytes"
    );
    (!flags.is_empty()).then(|| flags.iter().all(|flags| flags & O_DSYNC != 0))
}

#[test]
fn each_lone_write_is_flushed_before_it_is_acknowledged() {
    const WRITES: u64 = 100;
    let server = Server::run("");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    wait_for("segments to be ready", || (segments_ready(&server) >= 3).then_some(()));
    // Small ones: into one page fit thirty, so that a server that leaves writing to the kernel writes less. One that
    // writes and does not flush is told by how it has opened its files.
    assert_eq!(writes_are_durable(&server), Some(true));
    let before = write_bytes(&server);
    for write in 1..=WRITES {
        client.call(&set("/a", Some(b"small"))).ok();
        let written = write_bytes(&server) - before;
        assert!(written >= write * BLOCK_BYTES as u64, "{written} bytes after {write} acknowledged writes");
    }
    assert_eq!(writes_are_durable(&server), Some(true));

    let careless = Server::run("forceSync=no\n");
    careless.client().call(&create("/a", None)).ok();
    assert_eq!(writes_are_durable(&careless), Some(false));
}
