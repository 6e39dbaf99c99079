//! A server in one process with the tests: it keeps no data but versions, agrees to everything at once, and does wrong
//! what a test asks it to do wrong.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringkeeper::jute::{Reader, Write as _};
use ringkeeper::proto::client::{
    ConnectRequest, ConnectResponse, EventType, ReplyHeader, RequestHeader, Stat, XID_PING, encode_event,
};
use ringkeeper::proto::frame;
use ringkeeper::proto::op::{MultiHeader, OpCode};
use ringkeeper::types::{SessionId, Zxid};

use crate::request::{Key, Payloads};

/// What the server does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    /// Nothing.
    Fair,
    /// One byte of every payload read is wrong.
    FlipsData,
    /// Every setData is answered with NONODE.
    Refuses,
    /// Nothing is read for [`STALL`] at the 500th request of a connection.
    Stalls,
    /// Connections end at their 1000th request.
    HangsUp,
    /// Every 100th setData is answered and not done.
    LosesWrites,
    /// Every 100th reply has the zxid of long ago.
    GoesBack,
    /// Every 100th reply has the xid of another request.
    SwapsReplies,
    /// At the 500th setData of all connections, every connection is closed, and for [`STALL`] there are no new ones.
    Restarts,
    /// The same, and the sessions are gone.
    Expires,
    /// The same, and so is the last write of every znode.
    Forgets,
    /// Every session has the same number.
    SameSession,
    /// Every 10th event is sent twice.
    DoublesEvents,
}

/// How long a stall or a restart takes.
pub const STALL: Duration = Duration::from_millis(400);

/// The end of a connection that replies and events are written to.
type Writer = Arc<Mutex<TcpStream>>;

/// What the connections have in common.
struct World {
    mood: Mood,
    payloads: Payloads,
    zxid: AtomicI64,
    sessions: AtomicI64,
    sets: AtomicU64,
    events: AtomicU64,
    versions: Mutex<HashMap<Vec<u8>, i32>>,
    watches: Mutex<HashMap<Vec<u8>, Vec<Writer>>>,
    /// Connections, to be closed at a restart.
    open: Mutex<Vec<Writer>>,
    has_restarted: AtomicBool,
    closed_until: Mutex<Option<Instant>>,
}

/// Starts a server; it lives as long as the test process.
pub fn start(mood: Mood, payload_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let world = Arc::new(World {
        mood,
        payloads: Payloads::new(payload_bytes),
        zxid: AtomicI64::new(1000),
        sessions: AtomicI64::new(1),
        sets: AtomicU64::new(0),
        events: AtomicU64::new(0),
        versions: Mutex::default(),
        watches: Mutex::default(),
        open: Mutex::default(),
        has_restarted: AtomicBool::new(false),
        closed_until: Mutex::new(None),
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let world = Arc::clone(&world);
            thread::spawn(move || serve(stream, &world));
        }
    });
    address
}

fn serve(mut stream: TcpStream, world: &World) -> io::Result<()> {
    if world.closed_until.lock().expect("no panics").is_some_and(|until| Instant::now() < until) {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let writer = Arc::new(Mutex::new(stream.try_clone()?));
    world.open.lock().expect("no panics").push(Arc::clone(&writer));
    let mut inbox = vec![0; 256 << 10];
    let (mut filled, mut requests) = (0, 0u64);
    let mut out = Vec::new();
    let mut ends = false;
    loop {
        let n = stream.read(&mut inbox[filled..])?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
        let mut bytes = &inbox[..filled];
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let Some((request, next)) = rest.split_at_checked(u32::from_be_bytes(*head) as usize) else { break };
            if requests == 0 {
                answer(&mut out, |out| world.shake_hands(out, request));
            } else if world.mood == Mood::HangsUp && requests == 1000 {
                return stream.shutdown(std::net::Shutdown::Both);
            } else {
                if world.mood == Mood::Stalls && requests == 500 {
                    thread::sleep(STALL);
                }
                answer(&mut out, |out| world.reply(out, request, requests, &writer));
                ends |= request[4..8] == (OpCode::CloseSession as i32).to_be_bytes();
            }
            requests += 1;
            bytes = next;
        }
        let used = filled - bytes.len();
        inbox.copy_within(used..filled, 0);
        filled -= used;
        if world.restarts() {
            return Ok(());
        }
        writer.lock().expect("no panics").write_all(&out)?;
        out.clear();
        if ends {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn answer(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = frame::begin(out);
    payload(out);
    frame::end(out, start);
}

impl World {
    fn shake_hands(&self, out: &mut Vec<u8>, request: &[u8]) {
        let request = ConnectRequest::decode(request).expect("a handshake");
        let is_gone = self.mood == Mood::Expires && self.has_restarted.load(Ordering::SeqCst);
        let session = match request.session {
            SessionId::NONE if self.mood == Mood::SameSession => SessionId(1),
            SessionId::NONE => SessionId(self.sessions.fetch_add(1, Ordering::SeqCst)),
            _ if is_gone => return ConnectResponse::invalid(Some(false)).encode(out),
            session => session,
        };
        ConnectResponse { timeout_ms: 30_000, session, password: [7; 16], read_only: Some(false) }.encode(out);
    }

    /// Whether it is time to close all connections, or all have been closed just now.
    fn restarts(&self) -> bool {
        if !matches!(self.mood, Mood::Restarts | Mood::Expires | Mood::Forgets) {
            return false;
        }
        if self.sets.load(Ordering::SeqCst) >= 500 && !self.has_restarted.swap(true, Ordering::SeqCst) {
            *self.closed_until.lock().expect("no panics") = Some(Instant::now() + STALL);
            for stream in self.open.lock().expect("no panics").drain(..) {
                // It may be closed already.
                let _ = stream.lock().expect("no panics").shutdown(std::net::Shutdown::Both);
            }
            if self.mood == Mood::Forgets {
                self.versions.lock().expect("no panics").values_mut().for_each(|version| *version -= 1);
            }
            return true;
        }
        false
    }

    fn reply(&self, out: &mut Vec<u8>, request: &[u8], number: u64, writer: &Writer) {
        let mut reader = Reader::new(request);
        let header = RequestHeader::decode(&mut reader).expect("a header");
        let op = if header.op == OpCode::Ping as i32 { None } else { OpCode::from_wire(header.op) };
        assert!(op.is_some() || header.xid == XID_PING, "a ping has its own xid, and nothing else an unknown code");
        let is_hundredth = number.is_multiple_of(100);
        let mut zxid = self.zxid.fetch_add(1, Ordering::SeqCst);
        let mut xid = header.xid;
        match self.mood {
            Mood::GoesBack if is_hundredth => zxid = 1,
            Mood::SwapsReplies if is_hundredth => xid += 1,
            _ => {}
        }
        let is_refused = self.mood == Mood::Refuses && op == Some(OpCode::SetData);
        ReplyHeader { xid, zxid: Zxid(zxid), err: if is_refused { -101 } else { 0 } }.encode(out);
        if is_refused {
            return;
        }
        match op {
            Some(OpCode::Create | OpCode::Sync) => out.put_string(&reader.required_string().expect("a path")),
            Some(OpCode::SetData) => self.set(out, &mut reader, zxid),
            Some(OpCode::Multi) => {
                while !MultiHeader::decode(&mut reader).expect("a header").done {
                    MultiHeader { op: OpCode::SetData as i32, done: false, err: 0 }.encode(out);
                    self.set(out, &mut reader, zxid);
                }
                MultiHeader::END.encode(out);
            }
            Some(OpCode::GetData) => self.get(out, &mut reader, zxid, writer),
            None | Some(OpCode::Delete | OpCode::CloseSession) => {}
            other => panic!("{other:?} is not sent"),
        }
    }

    fn set(&self, out: &mut Vec<u8>, reader: &mut Reader<'_>, zxid: i64) {
        let path = reader.required_string().expect("a path").into_owned();
        let data_length = reader.buffer().expect("data").map_or(0, <[u8]>::len) as i32;
        assert_eq!(reader.int(), Ok(-1), "any version");
        let number = self.sets.fetch_add(1, Ordering::SeqCst) + 1;
        let mut versions = self.versions.lock().expect("no panics");
        let version = versions.entry(path.clone().into_bytes()).or_default();
        *version += i32::from(self.mood != Mood::LosesWrites || !number.is_multiple_of(100));
        Stat { mzxid: zxid, version: *version, data_length, ..Stat::default() }.encode(out);
        drop(versions);
        for watcher in self.watches.lock().expect("no panics").remove(path.as_bytes()).unwrap_or_default() {
            let is_tenth = self.events.fetch_add(1, Ordering::SeqCst) % 10 == 9;
            let count = match self.mood {
                Mood::DoublesEvents if is_tenth => 2,
                _ => 1,
            };
            let mut event = Vec::new();
            for _ in 0..count {
                answer(&mut event, |out| encode_event(out, Zxid(zxid), EventType::NodeDataChanged, &path));
            }
            // The watcher may have gone.
            let _ = watcher.lock().expect("no panics").write_all(&event);
        }
    }

    fn get(&self, out: &mut Vec<u8>, reader: &mut Reader<'_>, zxid: i64, writer: &Writer) {
        let path = reader.required_string().expect("a path").into_owned();
        if reader.bool().expect("whether to watch") {
            let mut watches = self.watches.lock().expect("no panics");
            watches.entry(path.clone().into_bytes()).or_default().push(Arc::clone(writer));
        }
        let (parents, sequence) = path.rsplit_once("/n").expect("the path of a child");
        let (_, parent) = parents.rsplit_once("/p").expect("the path of a parent");
        let [parent, sequence] = [parent, sequence].map(|digits| digits.parse().expect("digits"));
        let data = self.payloads.of(Key { parent, sequence });
        out.put_int(data.len() as i32);
        let at = out.len();
        out.extend_from_slice(data);
        out[at] ^= u8::from(self.mood == Mood::FlipsData);
        let version = self.versions.lock().expect("no panics").get(path.as_bytes()).copied().unwrap_or(0);
        Stat { mzxid: zxid, version, data_length: data.len() as i32, ..Stat::default() }.encode(out);
    }
}
