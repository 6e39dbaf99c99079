//! A client: it has a session, keeps it alive, asks for this and that, moves to another server when it must, and compares
//! whatever it is told with the checker's account.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use ringkeeper::jute::{Reader, Write as _};
use ringkeeper::proto::client::{AclList, ConnectRequest, ConnectResponse, EventType, ReplyHeader, Stat};
use ringkeeper::proto::frame::{self, Next};
use ringkeeper::proto::op::{MultiHeader, OpCode};
use ringkeeper::proto::txn::Txn;
use ringkeeper::types::{SessionId, Zxid};

use crate::checker::Sign;
use crate::model::{Node, code};
use crate::network::{ConnId, End, Port};
use crate::options::Options;
use crate::random::Random;
use crate::world::{Caller, Happening, World, note};

const XID_EVENT: i32 = -1;
const XID_PING: i32 = -2;
const XID_SET_WATCHES: i32 = -8;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Op {
    Create { path: String, flags: i32, data: Vec<u8> },
    Set { path: String, version: i32, data: Vec<u8> },
    Delete { path: String, version: i32 },
    Multi(Vec<Op>),
    Check { path: String },
    Get { path: String, watch: bool },
    Exists { path: String, watch: bool },
    Children { path: String, watch: bool },
    Sync,
    Close,
    Reconfig { joining: Option<String>, leaving: Option<String> },
}

impl Op {
    fn is_write(&self) -> bool {
        use Op::*;
        matches!(self, Create { .. } | Set { .. } | Delete { .. } | Multi(_) | Close | Reconfig { .. })
    }

    fn code(&self) -> OpCode {
        match self {
            Op::Create { .. } => OpCode::Create,
            Op::Set { .. } => OpCode::SetData,
            Op::Delete { .. } => OpCode::Delete,
            Op::Multi(_) => OpCode::Multi,
            Op::Check { .. } => OpCode::Check,
            Op::Get { .. } => OpCode::GetData,
            Op::Exists { .. } => OpCode::Exists,
            Op::Children { .. } => OpCode::GetChildren2,
            Op::Sync => OpCode::Sync,
            Op::Close => OpCode::CloseSession,
            Op::Reconfig { .. } => OpCode::Reconfig,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Op::Create { path, flags, data } => {
                out.put_string(path);
                out.put_buffer(Some(data));
                AclList::OPEN.encode(out);
                out.put_int(*flags);
            }
            Op::Set { path, version, data } => {
                out.put_string(path);
                out.put_buffer(Some(data));
                out.put_int(*version);
            }
            Op::Delete { path, version } => {
                out.put_string(path);
                out.put_int(*version);
            }
            Op::Check { path } => {
                out.put_string(path);
                out.put_int(-1);
            }
            Op::Multi(parts) => {
                for part in parts {
                    MultiHeader { op: part.code() as i32, done: false, err: -1 }.encode(out);
                    part.encode(out);
                }
                MultiHeader::END.encode(out);
            }
            Op::Get { path, watch } | Op::Exists { path, watch } | Op::Children { path, watch } => {
                out.put_string(path);
                out.put_bool(*watch);
            }
            Op::Sync => out.put_string("/"),
            Op::Close => {}
            Op::Reconfig { joining, leaving } => {
                for text in [joining.as_ref(), leaving.as_ref(), None] {
                    out.put_buffer(text.map(String::as_bytes));
                }
                out.put_long(-1);
            }
        }
    }
}

/// A request that waits for its reply.
#[derive(Debug)]
struct Pending {
    xid: i32,
    op: Op,
    asked_us: u64,
    /// What some client had been told of when this was asked for: what it writes comes later.
    floor: Zxid,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    /// On a znode that was there, or was not.
    Data,
    Exist,
    Child,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    Connecting,
    Shaking,
    Connected,
}

pub struct Client {
    index: usize,
    chance: Random,
    state: State,
    attempt: u64,
    conn: Option<ConnId>,
    server: usize,
    session: Option<(SessionId, Vec<u8>)>,
    wanted_ms: i32,
    timeout_ms: i32,
    last_zxid: Zxid,
    next_xid: i32,
    pending: VecDeque<Pending>,
    pings_us: VecDeque<u64>,
    /// With the state that each was set on.
    watches: BTreeMap<(Kind, String), Zxid>,
    /// They are being set on another connection: seen up to here.
    rearming: Option<Zxid>,
    input: BytesMut,
    heard_us: u64,
    sent_us: u64,
    asks_at_us: u64,
    /// When it last had a reply to a write.
    pub wrote_us: u64,
    /// It only keeps its session alive.
    pub silent: bool,
    values: u64,
    made: Vec<String>,
    /// What it asks for next, whatever else it would.
    wants: Option<Op>,
}

impl Client {
    pub fn new(index: usize, options: &Options) -> Client {
        let mut chance = Random::new(options.seed ^ (index as u64 + 1) << 40);
        let wanted_ms = options.tick_ms() as i32 * chance.pick(&[2, 4, 10, 20]);
        Client {
            index,
            chance,
            state: State::Idle,
            attempt: 0,
            conn: None,
            server: 0,
            session: None,
            wanted_ms,
            timeout_ms: wanted_ms,
            last_zxid: Zxid::ZERO,
            next_xid: 1,
            pending: VecDeque::new(),
            pings_us: VecDeque::new(),
            watches: BTreeMap::new(),
            rearming: None,
            input: BytesMut::new(),
            heard_us: 0,
            sent_us: 0,
            asks_at_us: 0,
            wrote_us: 0,
            silent: false,
            values: 0,
            made: Vec::new(),
            wants: None,
        }
    }

    /// It is to have a server join, with a vote or without, or leave.
    pub fn reconfigures(&mut self, change: Result<(usize, bool), usize>) {
        let (joining, leaving) = match change {
            Ok((server, votes)) => {
                let (id, kind) = (server + 1, if votes { "participant" } else { "observer" });
                (Some(format!("server.{id}=h{id}:1:2:{kind};h{id}:3")), None)
            }
            Err(server) => (None, Some((server + 1).to_string())),
        };
        self.wants = Some(Op::Reconfig { joining, leaving });
    }

    /// It is to leave the configuration alone.
    pub fn keeps_members(&mut self) {
        self.wants = None;
    }

    pub fn describe(&self) -> String {
        format!("client {} is {:?} at server {}", self.index + 1, self.state, self.server + 1)
    }

    /// What it asks for next.
    fn choose(&mut self) -> Op {
        self.values += 1;
        let data = format!("{}-{}", self.index, self.values).into_bytes();
        let r = &mut self.chance;
        let key = format!("/k{}", r.below(4));
        let watch = r.chance(40);
        match r.below(100) {
            0..4 => Op::Create { path: r.pick(&["/e", "/q"]).to_owned(), flags: 0, data },
            4..14 => Op::Create { path: key, flags: 0, data },
            14..32 => Op::Set { path: key, version: -1, data },
            32..38 => Op::Set { path: key, version: r.below(4) as i32, data },
            38..42 => Op::Delete { path: key, version: -1 },
            42..48 => Op::Create { path: format!("/e/{}", r.below(6)), flags: 1, data },
            48..54 => Op::Create { path: "/q/n-".to_owned(), flags: 2 + r.below(2) as i32, data },
            54..58 if !self.made.is_empty() => {
                let at = r.below(self.made.len());
                Op::Delete { path: self.made.swap_remove(at), version: -1 }
            }
            58..63 => {
                let other = format!("/k{}", r.below(4));
                let check = Op::Check { path: format!("/k{}", r.below(4)) };
                let set = Op::Set { path: key, version: -1, data: data.clone() };
                let third = match r.chance(50) {
                    true => Op::Create { path: other, flags: 0, data },
                    false => Op::Delete { path: other, version: -1 },
                };
                Op::Multi(vec![check, set, third])
            }
            63..78 => Op::Get { path: key, watch },
            78..86 => Op::Exists { path: if r.chance(50) { key } else { format!("/e/{}", r.below(6)) }, watch },
            86..94 => Op::Children { path: r.pick(&["/e", "/q", "/"]).to_owned(), watch },
            94..98 => Op::Sync,
            98 if r.chance(30) => Op::Close,
            _ => Op::Get { path: key, watch },
        }
    }
}

impl World {
    pub fn wake_client(&mut self, index: usize) {
        let think_us = self.options.think_ms() * 1000;
        let depth = self.options.depth() as usize;
        let now_us = self.now_us;
        let servers = self.servers.len();
        let client = &mut self.clients[index];
        let timeout_us = client.timeout_ms as u64 * 1000;
        let next_us =
            think_us.min(timeout_us / 8) / 2 + client.chance.below(think_us.min(timeout_us / 8) as usize) as u64;
        self.after(next_us.max(500), Happening::Client { client: index });
        let client = &mut self.clients[index];
        match client.state {
            State::Idle => {
                client.state = State::Connecting;
                client.server = client.chance.below(servers);
                client.attempt += 1;
                let (server, attempt) = (client.server, client.attempt);
                let of = Caller::Client { client: index, attempt };
                self.knock_at(World::client_host(index), of, server, Port::Client);
            }
            State::Connecting => {}
            State::Shaking if now_us > client.sent_us + timeout_us / 2 => self.client_hangs_up(index),
            State::Shaking => {}
            State::Connected if now_us > client.heard_us + timeout_us * 2 / 3 => self.client_hangs_up(index),
            State::Connected => {
                if now_us > client.sent_us + timeout_us / 3 {
                    client.pings_us.push_back(now_us);
                    self.client_sends(index, XID_PING, OpCode::Ping, |_| {});
                }
                let client = &mut self.clients[index];
                // Some go on asking, to no avail.
                let closing = client.pending.iter().any(|pending| pending.op == Op::Close);
                let closing = closing && client.chance.chance(80);
                if now_us >= client.asks_at_us && !client.silent && !closing && client.pending.len() < depth {
                    client.asks_at_us = now_us + think_us / 2 + client.chance.below(think_us as usize + 1) as u64;
                    let op = client.wants.take().unwrap_or_else(|| client.choose());
                    let xid = client.next_xid;
                    client.next_xid += 1;
                    let floor = self.checker.acknowledged;
                    note!(self, "client {} asks {xid}: {op:?}", index + 1);
                    self.client_sends(index, xid, op.code(), |out| op.encode(out));
                    self.clients[index].pending.push_back(Pending { xid, op, asked_us: now_us, floor });
                }
            }
        }
    }

    fn client_sends(&mut self, index: usize, xid: i32, op: OpCode, body: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        let start = frame::begin(&mut bytes);
        bytes.put_int(xid);
        bytes.put_int(op as i32);
        body(&mut bytes);
        frame::end(&mut bytes, start);
        self.clients[index].sent_us = self.now_us;
        if let Some(conn) = self.clients[index].conn {
            self.send(conn, 0, bytes);
        }
    }

    pub fn client_answered(&mut self, index: usize, attempt: u64, conn: Option<ConnId>) {
        let client = &mut self.clients[index];
        let is_awaited = client.state == State::Connecting && client.attempt == attempt;
        let Some(conn) = conn else {
            if is_awaited {
                client.state = State::Idle;
            }
            return;
        };
        if !is_awaited {
            return self.close(conn, 0);
        }
        if let Some(found) = self.network.conns.get_mut(&conn) {
            found.ends[0] = End::Client(index);
        }
        client.conn = Some(conn);
        client.state = State::Shaking;
        client.sent_us = self.now_us;
        client.heard_us = self.now_us;
        client.input.clear();
        let (session, password) = client.session.clone().unwrap_or((SessionId::NONE, vec![0; 16]));
        let request = ConnectRequest {
            last_zxid_seen: client.last_zxid,
            timeout_ms: client.wanted_ms,
            session,
            password,
            read_only: Some(false),
        };
        let mut bytes = Vec::new();
        let start = frame::begin(&mut bytes);
        request.encode(&mut bytes);
        frame::end(&mut bytes, start);
        self.send(conn, 0, bytes);
    }

    fn client_hangs_up(&mut self, index: usize) {
        if let Some(conn) = self.clients[index].conn {
            note!(self, "client {} hangs up", index + 1);
            self.close(conn, 0);
            self.client_disconnected(index, conn);
        }
    }

    pub fn disconnect_clients(&mut self) {
        for index in 0..self.clients.len() {
            self.client_hangs_up(index);
        }
    }

    pub fn client_disconnected(&mut self, index: usize, conn: ConnId) {
        let client = &mut self.clients[index];
        if client.conn != Some(conn) {
            return;
        }
        let closed = client.pending.iter().any(|pending| pending.op == Op::Close);
        client.conn = None;
        client.state = State::Idle;
        client.pending.clear();
        client.pings_us.clear();
        client.rearming = None;
        if closed {
            // Whether it was carried out nobody knows; the session is of no use any more.
            self.client_forgets_session(index);
        }
    }

    fn client_forgets_session(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if let Some((session, _)) = client.session.take() {
            self.checker.signs.remove(&session);
        }
        client.last_zxid = Zxid::ZERO;
        client.watches.clear();
        client.made.clear();
    }

    pub fn client_received(&mut self, index: usize, conn: ConnId, bytes: &[u8]) {
        self.clients[index].input.extend_from_slice(bytes);
        while self.checker.violation.is_none() && self.clients[index].conn == Some(conn) {
            match frame::next(&mut self.clients[index].input, 16 << 20) {
                Next::Frame(frame) => {
                    self.clients[index].heard_us = self.now_us;
                    if self.clients[index].state == State::Shaking {
                        self.client_greeted(index, &frame);
                    } else if let Err(error) = self.client_told(index, &frame) {
                        let what = format!("client {} cannot read what it gets: {error}", index + 1);
                        self.checker.violated("SessionOrder", what);
                    }
                }
                Next::Need(_) => return,
                Next::BadLength(len) => {
                    self.checker.violated("SessionOrder", format!("client {} gets a frame of {len}", index + 1));
                }
            }
        }
    }

    fn client_greeted(&mut self, index: usize, frame: &[u8]) {
        let Ok(response) = ConnectResponse::decode(frame) else {
            return self.checker.violated("SessionOrder", format!("client {} gets no handshake", index + 1));
        };
        let ConnectResponse { timeout_ms, session, password, .. } = response;
        let before = self.clients[index].session.as_ref().map(|(session, _)| *session);
        note!(self, "client {} at server {}: session {session}", index + 1, self.clients[index].server + 1);
        if session == SessionId::NONE {
            self.client_forgets_session(index);
            return self.client_hangs_up(index);
        }
        match before {
            Some(before) if before != session => {
                self.checker.violated("SessionLife", format!("session {before} becomes {session} on another server"));
            }
            Some(_) => {}
            None if !self.checker.sessions.insert(session) => {
                self.checker.violated("SessionLife", format!("session {session} is given out twice"));
            }
            None => {}
        }
        let client = &mut self.clients[index];
        client.state = State::Connected;
        client.session = Some((session, password.to_vec()));
        client.timeout_ms = timeout_ms;
        let sign = Sign { asked_us: client.sent_us, server: client.server, timeout_ms };
        self.checker.signs.insert(session, sign);
        if !client.watches.is_empty() {
            let seen = client.last_zxid;
            client.rearming = Some(seen);
            let mut lists: [Vec<String>; 3] = Default::default();
            for (kind, path) in client.watches.keys() {
                lists[*kind as usize].push(path.clone());
            }
            self.client_sends(index, XID_SET_WATCHES, OpCode::SetWatches, |out| {
                out.put_long(seen.0);
                for list in &lists {
                    out.put_vector(list, |out, path| out.put_string(path));
                }
            });
        }
    }

    /// A reply or an event has come.
    fn client_told(&mut self, index: usize, frame: &Bytes) -> Result<(), String> {
        let mut r = Reader::new(frame);
        let header = ReplyHeader::decode(&mut r).map_err(|error| error.to_string())?;
        self.counts.replies += 1;
        let zxid = header.zxid;
        if zxid > Zxid::ZERO {
            let client = &mut self.clients[index];
            let last = client.last_zxid;
            client.last_zxid = zxid.max(last);
            if zxid < last {
                let what = format!("client {} is shown {zxid} after {last}", index + 1);
                self.checker.violated("SessionOrder", what);
            }
            if zxid > self.checker.last_committed() {
                let what = format!("client {} is shown {zxid}, which is not committed", index + 1);
                self.checker.violated("SessionOrder", what);
            }
            // Of one transaction several events may come.
            let seen = if header.xid == XID_EVENT { Zxid(zxid.0 - 1) } else { zxid };
            self.check_owed_events(index, seen);
        }
        match header.xid {
            XID_EVENT => return self.client_sees_event(index, zxid, &mut r),
            XID_PING => {
                if let Some(asked_us) = self.clients[index].pings_us.pop_front() {
                    self.client_lives(index, asked_us);
                }
            }
            XID_SET_WATCHES => self.client_watches_again(index, zxid),
            xid => {
                let Some(pending) = self.clients[index].pending.pop_front() else {
                    return Err(format!("a reply to {xid}, and nothing was asked"));
                };
                if pending.xid != xid {
                    return Err(format!("a reply to {xid}, and {} is due", pending.xid));
                }
                note!(self, "client {} is told {xid}: {} at {zxid}", index + 1, header.err);
                self.client_lives(index, pending.asked_us);
                if pending.op.is_write() {
                    self.check_write(index, &pending, header, &mut r)?;
                } else {
                    self.check_read(index, &pending, header, &mut r)?;
                }
            }
        }
        Ok(())
    }

    /// A server has answered what was asked for then: it knows that the session lives.
    fn client_lives(&mut self, index: usize, asked_us: u64) {
        let client = &self.clients[index];
        if let Some((session, _)) = &client.session {
            let sign = Sign { asked_us, server: client.server, timeout_ms: client.timeout_ms };
            self.checker.signs.insert(*session, sign);
        }
    }

    fn check_write(
        &mut self,
        index: usize,
        pending: &Pending,
        header: ReplyHeader,
        r: &mut Reader<'_>,
    ) -> Result<(), String> {
        let (zxid, err) = (header.zxid, header.err);
        let session = self.clients[index].session.as_ref().map(|(session, _)| *session).unwrap_or_default();
        self.clients[index].wrote_us = self.now_us;
        let of = format!("the write {} of session {session}, {:?},", pending.xid, pending.op);
        let Some(logged) = self.checker.transaction(zxid) else {
            self.checker.violated("Durability", format!("{of} is acknowledged at {zxid}, which is not committed"));
            return Ok(());
        };
        if (logged.header.session, logged.header.cxid) != (session, pending.xid) {
            let header = logged.header;
            self.checker.violated("Linearizability", format!("{of} is answered by {header:?}"));
        }
        if zxid <= pending.floor {
            let floor = pending.floor;
            let what =
                format!("{of} takes effect at {zxid}, but {floor} had been acknowledged before it was asked for");
            self.checker.violated("Linearizability", what);
        }
        self.checker.acknowledged = self.checker.acknowledged.max(zxid);
        let told = match (&pending.op, &logged.txn) {
            (_, Txn::Error { err: logged }) => {
                if err == *logged {
                    self.refusal_is_right(&pending.op, zxid, err)
                } else {
                    Err(format!("it is {logged}"))
                }
            }
            (Op::Multi(_), Txn::Multi(parts)) => {
                let first = MultiHeader::decode(r).map_err(|error| error.to_string())?;
                if (first.op == -1) == Txn::is_failed_multi(parts) { Ok(()) } else { Err(format!("{parts:?}")) }
            }
            (_, _) if err != 0 => Err("it was done".to_owned()),
            (Op::Create { path: asked, flags, .. }, Txn::Create { path, .. }) => {
                let told = r.required_string().map_err(|error| error.to_string())?.into_owned();
                let fits = if *flags >= 2 {
                    told.len() == asked.len() + 10 && told.starts_with(asked.as_str())
                } else {
                    told == *asked
                };
                let result = if fits && *told == **path { Ok(()) } else { Err(format!("{path} was made")) };
                self.clients[index].made.push(told);
                result
            }
            (Op::Set { path, .. }, Txn::SetData { path: set, version, .. }) => {
                let stat = Stat::decode(r).map_err(|error| error.to_string())?;
                let is_right = stat.version == *version && stat.mzxid == zxid.0 && **set == **path;
                if is_right { Ok(()) } else { Err(format!("version {version} of {set}")) }
            }
            (Op::Delete { path, .. }, Txn::Delete { path: deleted, .. }) if **deleted == **path => Ok(()),
            (Op::Close, Txn::CloseSession { .. }) => Ok(()),
            (Op::Reconfig { .. }, Txn::Reconfig { data, .. }) => {
                let told = r.buffer().map_err(|error| error.to_string())?;
                if told == data.as_deref() { Ok(()) } else { Err(format!("{data:?} is the configuration")) }
            }
            (_, txn) => Err(format!("{txn:?}")),
        };
        if let Err(why) = told {
            self.checker.violated("Linearizability", format!("{of} is told {err} at {zxid}, but {why}"));
        }
        if pending.op == Op::Close {
            self.client_forgets_session(index);
            self.client_hangs_up(index);
        }
        Ok(())
    }

    /// Whether a write must be refused in that way, at its place in the order.
    fn refusal_is_right(&self, op: &Op, zxid: Zxid, err: i32) -> Result<(), String> {
        let before = self.checker.before(zxid);
        let node = |path: &str| self.checker.model.at(path, before);
        let parent = |path: &str| match path.rsplit_once('/') {
            Some(("", _)) | None => node("/"),
            Some((parent, _)) => node(parent),
        };
        let is_right = match (op, err) {
            (Op::Create { path, .. }, code::NO_NODE) => parent(path).is_none(),
            (Op::Create { path, .. }, code::NODE_EXISTS) => node(path).is_some(),
            (Op::Set { path, .. } | Op::Delete { path, .. }, code::NO_NODE) => node(path).is_none(),
            (Op::Set { path, version, .. } | Op::Delete { path, version }, code::BAD_VERSION) => {
                node(path).is_some_and(|node| node.version != *version)
            }
            (Op::Delete { path, .. }, code::NOT_EMPTY) => node(path).is_some_and(|node| !node.children.is_empty()),
            (Op::Reconfig { .. }, code::BAD_ARGUMENTS | code::NEW_CONFIG_NO_QUORUM | code::RECONFIG_IN_PROGRESS) => {
                true
            }
            (_, code::SESSION_EXPIRED | code::SESSION_MOVED) => true,
            _ => false,
        };
        if is_right { Ok(()) } else { Err("the state before it gives no reason".to_owned()) }
    }

    fn check_read(
        &mut self,
        index: usize,
        pending: &Pending,
        header: ReplyHeader,
        r: &mut Reader<'_>,
    ) -> Result<(), String> {
        let (zxid, err) = (header.zxid, header.err);
        let quiet = self.checker.disturbed_us + 12_000 * self.options.tick_ms() < pending.asked_us;
        let (path, watch) = match &pending.op {
            Op::Get { path, watch } | Op::Exists { path, watch } | Op::Children { path, watch } => (path, *watch),
            Op::Sync => {
                if zxid < pending.floor && quiet && !self.is_disturbed() {
                    let floor = pending.floor;
                    self.checker.violated("SessionOrder", format!("a sync is answered at {zxid}, before {floor}"));
                }
                return Ok(());
            }
            op => return Err(format!("{op:?} is no read")),
        };
        let mut what = None;
        let node = self.checker.model.at(path, zxid);
        match (&pending.op, node) {
            (_, None) if err == code::NO_NODE => {}
            (_, None) => what = Some(format!("{err}, and it is not there")),
            (_, Some(_)) if err != 0 => what = Some(format!("{err}, and it is there")),
            (Op::Get { .. }, Some(node)) => {
                let data = r.buffer().map_err(|error| error.to_string())?.map(<[u8]>::to_vec);
                let stat = Stat::decode(r).map_err(|error| error.to_string())?;
                if data != node.data || !shows(&stat, node) {
                    what = Some(format!("{data:?} and {stat:?}, and it is {node:?}"));
                }
            }
            (Op::Exists { .. }, Some(node)) => {
                let stat = Stat::decode(r).map_err(|error| error.to_string())?;
                if !shows(&stat, node) {
                    what = Some(format!("{stat:?}, and it is {node:?}"));
                }
            }
            (_, Some(node)) => {
                let names = r.vector(|r| r.required_string()).map_err(|error| error.to_string())?.unwrap_or_default();
                let names: BTreeSet<String> = names.into_iter().map(std::borrow::Cow::into_owned).collect();
                if !names.iter().map(String::as_str).eq(node.children.iter().map(|name| &**name)) {
                    what = Some(format!("{names:?}, and they are {:?}", node.children));
                }
            }
        }
        let there = node.is_some();
        if let Some(what) = what {
            self.checker.violated("SessionOrder", format!("client {} reads {path} at {zxid}: {what}", index + 1));
        }
        let kind = match (&pending.op, there) {
            (Op::Children { .. }, true) => Some(Kind::Child),
            (Op::Get { .. } | Op::Exists { .. }, true) => Some(Kind::Data),
            (Op::Exists { .. }, false) => Some(Kind::Exist),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| watch) {
            let watches = &mut self.clients[index].watches;
            // A server has one watch for both; it stands since the first was set.
            watches.entry((kind, path.clone())).or_insert(zxid);
        }
        Ok(())
    }

    /// Nothing may be seen whose event is still owed.
    fn check_owed_events(&mut self, index: usize, seen: Zxid) {
        let client = &self.clients[index];
        if client.rearming.is_some() {
            return;
        }
        let owed = client.watches.iter().find_map(|((kind, path), set)| {
            let changed = self.checker.model.changed(path, *kind == Kind::Child, *set, seen)?;
            Some(format!("{kind:?} watch on {path}, set at {set}, for {changed}"))
        });
        if let Some(owed) = owed {
            let what = format!("client {} sees {seen}, and is owed the event of its {owed}", index + 1);
            self.checker.violated("WatchOrder", what);
        }
    }

    fn client_sees_event(&mut self, index: usize, zxid: Zxid, r: &mut Reader<'_>) -> Result<(), String> {
        let kind = r.int().map_err(|error| error.to_string())?;
        let _state = r.int().map_err(|error| error.to_string())?;
        let path = r.required_string().map_err(|error| error.to_string())?.into_owned();
        note!(self, "client {} sees event {kind} of {path} at {zxid}", index + 1);
        let kinds: &[Kind] = match kind {
            kind if kind == EventType::NodeChildrenChanged as i32 => &[Kind::Child],
            kind if kind == EventType::NodeDeleted as i32 => &[Kind::Data, Kind::Exist, Kind::Child],
            _ => &[Kind::Data, Kind::Exist],
        };
        let mut fired = false;
        for kind in kinds {
            let removed = self.clients[index].watches.remove(&(*kind, path.clone()));
            let set = removed.filter(|set| *set < zxid || zxid < Zxid::ZERO);
            if let Some(set) = set {
                let upto = if zxid > Zxid::ZERO { zxid } else { self.checker.last_committed() };
                fired |= self.checker.model.changed(&path, *kind == Kind::Child, set, upto).is_some();
            }
        }
        // A read of this connection may have set the watch, and its reply be behind the event? No: it is before.
        if !fired {
            let what = format!("client {} gets event {kind} of {path} at {zxid}, and nothing changed", index + 1);
            self.checker.violated("WatchOrder", what);
        }
        Ok(())
    }

    /// Whatever was not told of before this reply is as it was when it was last seen.
    fn client_watches_again(&mut self, index: usize, zxid: Zxid) {
        let client = &mut self.clients[index];
        let Some(seen) = client.rearming.take() else { return };
        let model = &self.checker.model;
        let mut lost = None;
        for ((kind, path), set) in &mut client.watches {
            let node = model.at(path, zxid);
            let is_as_it_was = match (kind, node) {
                (Kind::Data, Some(node)) => node.mzxid <= seen,
                (Kind::Child, Some(node)) => node.pzxid <= seen,
                (Kind::Exist, node) => node.is_none(),
                (_, None) => false,
            };
            if !is_as_it_was {
                lost.get_or_insert_with(|| format!("its {kind:?} watch on {path}, set at {set}, is lost"));
            }
            *set = zxid;
        }
        if let Some(lost) = lost {
            self.checker.violated("WatchOrder", format!("client {} comes back at {zxid}, and {lost}", index + 1));
        }
    }
}

fn shows(stat: &Stat, node: &Node) -> bool {
    (stat.czxid, stat.mzxid, stat.pzxid) == (node.czxid.0, node.mzxid.0, node.pzxid.0)
        && (stat.version, stat.ephemeral_owner) == (node.version, node.owner)
        && stat.num_children as usize == node.children.len()
}
