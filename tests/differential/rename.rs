//! Turns a trace into lines that are equal on two servers that behave alike.
//!
//! What may differ gets a name that says what it is to the run: a zxid is the nth write of the run, a session the nth that
//! it saw, a time belongs to a zxid. A name keeps all that a client may rely on: that two zxids are equal or in which order
//! they are, that the owner of a node is a certain session, that ctime goes with czxid.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::records::{self, CLOSE_SESSION, Decoder, Shape};
use crate::run::{Entry, KEEPER, Trace, What, may_overtake};
use crate::script::quote;

/// Times that a server tells are within this of the runner's own.
const CLOCKS_APART_MAX_MS: i64 = 3_600_000;
/// Longer payloads are shown by their head, their length and a checksum.
const SHOWN_MAX: usize = 64;

/// What cannot be read.
pub const MARSHALLING_ERROR: i32 = -5;

/// One thing that came, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub step: usize,
    pub cnxn: usize,
    pub text: String,
}

/// How zxids are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zxids {
    /// By the run's own writes: others may write at the same time.
    Own,
    /// By their distance from the first write: the run is alone on the server.
    Distance,
}

/// The lines of a trace.
pub fn lines(trace: &Trace, root: &str, zxids: Zxids) -> Vec<Line> {
    let own: Vec<i64> = trace.writes.keys().copied().collect();
    let mut names = Names { own, zxids, root, sessions: BTreeMap::new(), times: BTreeMap::new() };
    let mut lines: Vec<(Line, Rank)> = Vec::new();
    for entry in &trace.entries {
        let rank = rank(entry, trace);
        let text = names.describe(&entry.what);
        lines.push((Line { step: entry.step, cnxn: entry.cnxn, text }, rank));
    }
    in_order(lines)
}

/// What may come in another order on another server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Fixed,
    /// Events of the nodes that went with a session, in no particular order among themselves.
    Together(i64),
    /// Answered at once, or in its turn.
    Overtakes,
}

fn rank(entry: &Entry, trace: &Trace) -> Rank {
    match entry.what {
        What::Reply { code, .. } if may_overtake(code) => Rank::Overtakes,
        // No reply to a write has this zxid, or it is a close: the nodes of a session were removed with it.
        What::Event { zxid, .. } if matches!(trace.writes.get(&zxid), Some(None | Some(CLOSE_SESSION))) => {
            Rank::Together(zxid)
        }
        _ => Rank::Fixed,
    }
}

fn in_order(mut lines: Vec<(Line, Rank)>) -> Vec<Line> {
    // By connection within a step: connections are not ordered among themselves.
    lines.sort_by_key(|(line, rank)| (line.step, line.cnxn, *rank == Rank::Overtakes));
    for run in lines.chunk_by_mut(|(a, a_rank), (b, b_rank)| {
        (a.step, a.cnxn, *a_rank) == (b.step, b.cnxn, *b_rank) && matches!(a_rank, Rank::Together(_))
    }) {
        run.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
    }
    lines.into_iter().map(|(line, _)| line).collect()
}

struct Names<'a> {
    /// Ascending.
    own: Vec<i64>,
    zxids: Zxids,
    root: &'a str,
    sessions: BTreeMap<i64, usize>,
    /// When the write of that zxid was, as the server told it first.
    times: BTreeMap<i64, i64>,
}

impl Names<'_> {
    fn describe(&mut self, what: &What) -> String {
        match what {
            What::Connected(reply) => self.connected(reply),
            What::Reply { code, xid, zxid, err, body } => self.reply(*code, *xid, *zxid, *err, body),
            What::Event { zxid, err, body } => self.event(*zxid, *err, body),
            What::Short(frame) => format!("a frame of {} bytes: {}", frame.len(), quote(frame)),
            What::Text(text) => format!("text {}", self.shown(text)),
            What::Closed => "closed".to_owned(),
            What::Silent => "silent, though something is due".to_owned(),
        }
    }

    fn connected(&mut self, reply: &[u8]) -> String {
        let mut fields = Decoder(reply);
        let mut decode = || Some((fields.int()?, fields.int()?, fields.long()?, fields.buffer()?));
        let Some((version, timeout, session, password)) = decode() else {
            return format!("connected? {}", quote(reply));
        };
        let password = match password {
            Some(bytes) if bytes.iter().all(|byte| *byte == 0) => format!("{} zeros", bytes.len()),
            Some(bytes) => format!("{} bytes", bytes.len()),
            None => "null".to_owned(),
        };
        format!(
            "connected version={version} timeout={timeout} session={} password={password} rest={}",
            self.session(session),
            quote(fields.0)
        )
    }

    fn reply(&mut self, code: Option<i32>, xid: i32, zxid: i64, err: i32, body: &[u8]) -> String {
        let operation = code.and_then(records::by_code);
        let name = operation.map_or_else(|| format!("{code:?}"), |operation| operation.name.to_owned());
        let zxid = match operation {
            // Sampled at another moment on a server that answers it at once; and of a request that cannot be read Apache
            // tells the zxid of the last write, not the one that it used up.
            _ if (may_overtake(code) || err == MARSHALLING_ERROR) && zxid > 0 => "some".to_owned(),
            Some(operation) if operation.writes => self.zxid(zxid),
            _ => self.zxid_at_least(zxid),
        };
        let mut text = format!("{name} xid={xid} zxid={zxid} err={err}");
        let mut fields = Decoder(body);
        if err == 0
            && let Some(operation) = operation
        {
            let decoded = operation.reply.iter().try_for_each(|shape| self.field(*shape, &mut fields, &mut text));
            if decoded.is_none() {
                return format!("{text} cannot be read: {}", quote(body));
            }
        }
        // What Apache has read of it so far: see docs/compat.md.
        if err == MARSHALLING_ERROR && name == "multiRead" {
            return text;
        }
        if !fields.0.is_empty() {
            write!(text, " rest={}", quote(fields.0)).expect("to a string");
        }
        text
    }

    fn event(&mut self, zxid: i64, err: i32, body: &[u8]) -> String {
        let mut fields = Decoder(body);
        let mut decode = || Some((fields.int()?, fields.int()?, fields.buffer()??));
        let Some((kind, state, path)) = decode() else {
            return format!("event? {}", quote(body));
        };
        let kind = match kind {
            1 => "NodeCreated".to_owned(),
            2 => "NodeDeleted".to_owned(),
            3 => "NodeDataChanged".to_owned(),
            4 => "NodeChildrenChanged".to_owned(),
            other => format!("kind {other}"),
        };
        let zxid = self.zxid(zxid);
        let path = self.shown(path);
        format!("event {kind} {path} zxid={zxid} state={state} err={err} rest={}", quote(fields.0))
    }

    fn field(&mut self, shape: Shape, fields: &mut Decoder<'_>, text: &mut String) -> Option<()> {
        match shape {
            Shape::Buffer => write!(text, " {}", self.nullable(fields.buffer()?)),
            Shape::Int => write!(text, " {}", fields.int()?),
            Shape::Stat => write!(text, " {}", self.stat(fields)?),
            Shape::Names => {
                let name = |fields: &mut Decoder<'_>| Some(self.nullable(fields.buffer()?));
                write!(text, " {}", vector(fields, name, true)?)
            }
            Shape::Identities => {
                let identity = |fields: &mut Decoder<'_>| {
                    Some(format!("{}:{}", self.nullable(fields.buffer()?), self.nullable(fields.buffer()?)))
                };
                write!(text, " {}", vector(fields, identity, false)?)
            }
            Shape::Acl => {
                let entry = |fields: &mut Decoder<'_>| {
                    let perms = fields.int()?;
                    Some(format!("{perms}:{}:{}", self.nullable(fields.buffer()?), self.nullable(fields.buffer()?)))
                };
                write!(text, " {}", vector(fields, entry, false)?)
            }
            Shape::Parts => {
                self.parts(fields, text)?;
                Ok(())
            }
        }
        .expect("to a string");
        Some(())
    }

    fn parts(&mut self, fields: &mut Decoder<'_>, text: &mut String) -> Option<()> {
        loop {
            let (code, done, err) = (fields.int()?, fields.byte()?, fields.int()?);
            if done != 0 {
                write!(text, " | end {code} {done} {err}").expect("to a string");
                return Some(());
            }
            write!(text, " | {code} {err}").expect("to a string");
            if code == -1 {
                write!(text, " {}", fields.int()?).expect("to a string");
            } else {
                let operation = records::by_code(code)?;
                operation.reply.iter().try_for_each(|shape| self.field(*shape, fields, text))?;
            }
        }
    }

    fn stat(&mut self, fields: &mut Decoder<'_>) -> Option<String> {
        let (czxid, mzxid, ctime, mtime) = (fields.long()?, fields.long()?, fields.long()?, fields.long()?);
        let (version, cversion, aversion) = (fields.int()?, fields.int()?, fields.int()?);
        let (owner, length, children, pzxid) = (fields.long()?, fields.int()?, fields.int()?, fields.long()?);
        Some(format!(
            "stat czxid={}{} mzxid={}{} version={version} cversion={cversion} aversion={aversion} owner={} \
             length={length} children={children} pzxid={}",
            self.zxid(czxid),
            self.time(czxid, ctime),
            self.zxid(mzxid),
            self.time(mzxid, mtime),
            self.session(owner),
            self.zxid(pzxid)
        ))
    }

    /// Nothing if the time is the one of that zxid; what is wrong with it otherwise.
    fn time(&mut self, zxid: i64, time: i64) -> String {
        if zxid <= 0 {
            return format!("@{time}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
        if (now - time).abs() > CLOCKS_APART_MAX_MS {
            return "@another time".to_owned();
        }
        let known = *self.times.entry(zxid).or_insert(time);
        if known == time { String::new() } else { "@not the time of that zxid".to_owned() }
    }

    fn zxid(&self, zxid: i64) -> String {
        if zxid <= 0 {
            return zxid.to_string();
        }
        match (self.zxids, self.own.binary_search(&zxid)) {
            (Zxids::Distance, _) => format!("+{}", zxid - self.own.first().copied().unwrap_or(0)),
            (Zxids::Own, Ok(at)) => format!("z{at}"),
            (Zxids::Own, Err(0)) => "before".to_owned(),
            (Zxids::Own, Err(at)) => format!("after z{}", at - 1),
        }
    }

    /// For what shows a state that others may have changed.
    fn zxid_at_least(&self, zxid: i64) -> String {
        match (self.zxids, self.own.binary_search(&zxid)) {
            (Zxids::Own, Ok(at)) if zxid > 0 => format!("from z{at}"),
            (Zxids::Own, Err(at @ 1..)) if zxid > 0 => format!("from z{}", at - 1),
            _ => self.zxid(zxid),
        }
    }

    fn session(&mut self, session: i64) -> String {
        if session == 0 {
            return "0".to_owned();
        }
        let next = self.sessions.len();
        format!("s{}", self.sessions.entry(session).or_insert(next))
    }

    fn nullable(&self, value: Option<&[u8]>) -> String {
        value.map_or_else(|| "-".to_owned(), |bytes| self.shown(bytes))
    }

    /// The bytes with the run's root as `~`, long ones by their head, length and sum.
    fn shown(&self, bytes: &[u8]) -> String {
        if bytes.len() > SHOWN_MAX && !bytes.starts_with(self.root.as_bytes()) {
            let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
            return format!("{}… ({} bytes, sum {sum:08x})", quote(&bytes[..SHOWN_MAX / 2]), bytes.len());
        }
        quote(bytes).replace(self.root, "~")
    }
}

/// The items of a jute vector, each read and put into words by `item`.
fn vector(
    fields: &mut Decoder<'_>,
    mut item: impl FnMut(&mut Decoder<'_>) -> Option<String>,
    unordered: bool,
) -> Option<String> {
    let count = fields.int()?;
    if count < 0 {
        return Some(format!("count {count}"));
    }
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(fields)?);
    }
    if unordered {
        items.sort();
    }
    Some(format!("[{}]", items.join(" ")))
}

/// The first step in which the two differ, with what each has there.
pub fn difference<'a>(left: &'a [Line], right: &'a [Line]) -> Option<(usize, Vec<&'a Line>, Vec<&'a Line>)> {
    let at = left.iter().zip(right).position(|(a, b)| a != b);
    let at = at.or((left.len() != right.len()).then_some(left.len().min(right.len())))?;
    let steps = left.get(at).map(|line| line.step).into_iter().chain(right.get(at).map(|line| line.step));
    let step = steps.min()?;
    let of_step = |lines: &'a [Line]| lines.iter().filter(|line| line.step == step).collect();
    Some((step, of_step(left), of_step(right)))
}

/// Which connection a line is of.
pub fn cnxn_name(cnxn: usize) -> String {
    if cnxn == KEEPER { "what is left".to_owned() } else { format!("connection {cnxn}") }
}
