//! Scripts: what is asked of a server, as text, one request a line.
//!
//! ```text
//! # A watch that another session trips.
//! 0 create path=~/a data=x
//! 1 get path=~/a watch=1
//! 0 set path=~/a data=*1000 version=0
//! 0 multi
//! | check path=~/a version=1
//! | delete path=~/a
//! 0 get path=~/a !cut=13
//! ```
//!
//! The number is a connection; one that is not open gets a new session by itself. Lines of the same connection that
//! follow each other are sent together, without waiting; a line `.` or another connection waits until all is answered.
//! `~` is the root of this run, alone in a namespace of its own; `%41` is a byte; `*9` nine letters; `-` null.
//!
//! Beside the operations of `records.rs` there are
//! `connect` (`timeout`, `session=CONNECTION`, `password=right|wrong|null|empty|short`, `seen`, `readonly=0|1|absent`,
//! `version`), `drop` (end the connection abruptly), `raw` (`bytes`, without a frame around them), `op` (`code`, `body`) and
//! `await` (wait for an event). What stands behind `!` bends the bytes: `!cut=N` keeps N bytes of the payload,
//! `!add=BYTES` appends, `!poke=OFFSET:BYTES` overwrites, `!length=N` is a length that is not the right one, `!xid=N`,
//! `!drip` sends bytes one by one.

use std::fmt;

use crate::records::{self, Encoder, Field, Operation};

/// Room for one root in paths: all are equally long, so offsets into frames mean the same in each run.
pub const ROOT_LEN: usize = 10;

/// A script that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
    pub why: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// A line with the lines of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub cnxn: usize,
    pub name: String,
    arguments: Vec<(String, String)>,
    bends: Vec<(String, String)>,
    parts: Vec<Step>,
    text: String,
}

/// What a line may refer to that differs from server to server.
pub struct Meaning<'a> {
    pub root: &'a str,
    /// Session and password that a connection was given last.
    pub session: &'a dyn Fn(usize) -> Option<(i64, [u8; 16])>,
    /// Zxids of the run's own writes so far, ascending.
    pub zxids: &'a [i64],
}

/// Steps of a text.
pub fn parse(text: &str) -> Result<Vec<Step>, ScriptError> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let fail = |why: String| ScriptError { line: index + 1, why };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(part) = line.strip_prefix('|') {
            let part = parse_line(0, part.trim(), line).map_err(fail)?;
            let whole = steps.last_mut().ok_or_else(|| fail("a part of nothing".to_owned()))?;
            whole.parts.push(part);
        } else if line == "." {
            steps.push(parse_line(0, ".", line).map_err(fail)?);
        } else {
            let (cnxn, rest) = line.split_once(' ').ok_or_else(|| fail("no operation".to_owned()))?;
            let cnxn = cnxn.parse().map_err(|_| fail(format!("{cnxn} is no connection")))?;
            steps.push(parse_line(cnxn, rest, line).map_err(fail)?);
        }
    }
    Ok(steps)
}

fn parse_line(cnxn: usize, rest: &str, line: &str) -> Result<Step, String> {
    let mut words = rest.split_whitespace();
    let name = words.next().ok_or("no operation")?;
    let mut step = Step {
        cnxn,
        name: name.to_owned(),
        arguments: Vec::new(),
        bends: Vec::new(),
        parts: Vec::new(),
        text: line.to_owned(),
    };
    if !step.is_settle() && !step.is_of_sockets() && name != "op" && records::by_name(name).is_none() {
        return Err(format!("no operation {name}"));
    }
    for word in words {
        let (list, word) = match word.strip_prefix('!') {
            Some(word) => (&mut step.bends, word),
            None => (&mut step.arguments, word),
        };
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        list.push((key.to_owned(), value.to_owned()));
    }
    Ok(step)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.parts.iter().try_for_each(|part| writeln!(f, "{}", part.text))
    }
}

impl Step {
    pub fn is_settle(&self) -> bool {
        self.name == "."
    }

    fn is_of_sockets(&self) -> bool {
        matches!(self.name.as_str(), "connect" | "drop" | "raw" | "await")
    }

    /// Whether what comes before must be answered first, lest chance decide what is: the server may close the
    /// connection on receipt, and drop what is on its way.
    pub fn wants_quiet(&self) -> bool {
        !self.bends.is_empty() || self.is_of_sockets() || matches!(self.name.as_str(), "auth" | "sasl" | "op" | "check")
    }

    /// Whether what comes next must wait: the connection may be gone then.
    pub fn may_end(&self) -> bool {
        // A handshake that asks for nothing odd is answered, and requests may follow it in one go.
        let is_plain = self.name == "connect" && self.bends.is_empty() && self.argument("session").is_none();
        (self.wants_quiet() && !is_plain) || self.name == "close"
    }

    /// Whether it speaks on a fresh connection.
    pub fn opens(&self) -> bool {
        self.name == "connect" || (self.name == "raw" && self.argument("fresh").is_some())
    }

    /// What it is without its parts, one by one.
    pub fn without_each_part(&self) -> Vec<Step> {
        let without = |index| {
            let mut step = self.clone();
            step.parts.remove(index);
            step
        };
        (0..self.parts.len()).map(without).collect()
    }

    /// The connection whose session a `connect` asks for.
    pub fn wanted_session(&self) -> Option<usize> {
        self.argument("session")?.parse().ok()
    }

    /// The number of an argument that is one.
    pub fn number(&self, key: &str, default: i64) -> i64 {
        self.argument(key).and_then(parse_number).unwrap_or(default)
    }

    pub fn drips(&self) -> bool {
        self.bend("drip").is_some()
    }

    fn argument(&self, key: &str) -> Option<&str> {
        self.arguments.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    fn bend(&self, key: &str) -> Option<&str> {
        self.bends.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// The bytes to be sent; `xid` where the line and the operation do not say which.
    pub fn encode(&self, meaning: &Meaning<'_>, xid: i32) -> Vec<u8> {
        if self.name == "raw" {
            return bytes(self.argument("bytes").unwrap_or_default(), meaning.root).unwrap_or_default();
        }
        let mut payload = Encoder::default();
        match self.name.as_str() {
            "connect" => self.encode_connect(meaning, &mut payload),
            "op" => {
                payload.int(self.xid(xid));
                payload.int(self.number("code", 0) as i32);
                payload.0.extend(self.argument("body").and_then(|body| bytes(body, meaning.root)).unwrap_or_default());
            }
            name => {
                let operation = records::by_name(name).expect("looked up by parse");
                payload.int(self.xid(xid));
                payload.int(operation.code);
                self.encode_fields(operation, meaning, &mut payload);
            }
        }
        let mut payload = payload.0;
        self.bend_payload(&mut payload, meaning.root);
        let length = self.bend("length").and_then(parse_number).unwrap_or(payload.len() as i64);
        [(length as i32).to_be_bytes().as_slice(), &payload].concat()
    }

    fn xid(&self, otherwise: i32) -> i32 {
        let usual = match self.name.as_str() {
            "ping" => -2,
            "auth" => -4,
            "setWatches" | "setWatches2" => -8,
            _ => otherwise,
        };
        self.bend("xid").and_then(parse_number).map_or(usual, |xid| xid as i32)
    }

    fn bend_payload(&self, payload: &mut Vec<u8>, root: &str) {
        for (key, value) in &self.bends {
            match key.as_str() {
                "cut" => payload.truncate(value.parse().unwrap_or(0)),
                "add" => payload.extend(bytes(value, root).unwrap_or_default()),
                "poke" => {
                    let (offset, with) = value.split_once(':').unwrap_or(("0", value));
                    let offset = offset.parse().unwrap_or(0);
                    for (index, byte) in bytes(with, root).unwrap_or_default().into_iter().enumerate() {
                        if let Some(there) = payload.get_mut(offset + index) {
                            *there = byte;
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn encode_connect(&self, meaning: &Meaning<'_>, out: &mut Encoder) {
        let known = self.wanted_session().and_then(|cnxn| (meaning.session)(cnxn));
        let session = match (known, self.argument("session")) {
            (Some((session, _)), _) => session,
            // A session that nobody has: one that was never opened, or a number.
            (None, Some(number)) => number.strip_prefix("0x").map_or(0, |_| parse_number(number).unwrap_or(0)),
            (None, None) => 0,
        };
        let password = known.map_or([0; 16], |(_, password)| password);
        let wrong = password.map(|byte| !byte);
        let password: Option<&[u8]> = match self.argument("password").unwrap_or("right") {
            "wrong" => Some(&wrong),
            "null" => None,
            "empty" => Some(&[]),
            "short" => Some(&password[..15]),
            _ => Some(&password),
        };
        out.int(self.number("version", 0) as i32);
        out.long(self.zxid("seen", 0, meaning));
        out.int(self.number("timeout", 30_000) as i32);
        out.long(session);
        out.buffer(password);
        match self.argument("readonly").unwrap_or("0") {
            "absent" => {}
            value => out.byte(value.parse().unwrap_or(0)),
        }
    }

    fn encode_fields(&self, operation: &Operation, meaning: &Meaning<'_>, out: &mut Encoder) {
        for field in operation.request {
            match *field {
                Field::Buffer(key) => {
                    out.buffer(self.argument(key).and_then(|value| bytes(value, meaning.root)).as_deref());
                }
                Field::Acl(key) => encode_acl(self.argument(key).unwrap_or("open"), meaning.root, out),
                Field::List(key) => encode_list(self.argument(key).unwrap_or_default(), meaning.root, out),
                Field::Bool(key, default) => out.byte(self.number(key, default.into()) as u8),
                Field::Int(key, default) => out.int(self.number(key, default.into()) as i32),
                Field::Long(key, default) => out.long(self.zxid(key, default, meaning)),
                Field::Parts => self.encode_parts(meaning, out),
            }
        }
    }

    fn encode_parts(&self, meaning: &Meaning<'_>, out: &mut Encoder) {
        for part in &self.parts {
            let Some(operation) = records::by_name(&part.name) else { continue };
            out.int(part.number("code", operation.code.into()) as i32);
            out.byte(0);
            out.int(-1);
            part.encode_fields(operation, meaning, out);
        }
        out.int(-1);
        out.byte(1);
        out.int(-1);
    }

    /// `last` is the newest zxid of the run's writes, `back3` the third before it, `ahead` one far beyond.
    fn zxid(&self, key: &str, default: i64, meaning: &Meaning<'_>) -> i64 {
        let back = |count: usize| {
            let at = meaning.zxids.len().checked_sub(count + 1);
            at.map_or(0, |at| meaning.zxids[at])
        };
        match self.argument(key) {
            None => default,
            Some("last") => back(0),
            Some("ahead") => 1 << 62,
            Some(value) => match value.strip_prefix("back") {
                Some(count) => back(count.parse().unwrap_or(0)),
                None => parse_number(value).unwrap_or(default),
            },
        }
    }
}

fn encode_acl(value: &str, root: &str, out: &mut Encoder) {
    let entries: Vec<&str> = match value {
        "-" => return out.int(-1),
        "open" => vec!["31:world:anyone"],
        "" => Vec::new(),
        value => value.split(',').collect(),
    };
    out.int(entries.len() as i32);
    for entry in entries {
        let mut parts = entry.splitn(3, ':');
        out.int(parts.next().and_then(parse_number).unwrap_or(0) as i32);
        out.buffer(parts.next().and_then(|scheme| bytes(scheme, root)).as_deref());
        out.buffer(parts.next().and_then(|id| bytes(id, root)).as_deref());
    }
}

fn encode_list(value: &str, root: &str, out: &mut Encoder) {
    let entries: Vec<&str> = match value {
        "-" => return out.int(-1),
        "" => Vec::new(),
        value => value.split(',').collect(),
    };
    out.int(entries.len() as i32);
    for entry in entries {
        out.buffer(bytes(entry, root).as_deref());
    }
}

fn parse_number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|number| number as i64),
        None => text.parse().ok(),
    }
}

/// `None` is null.
fn bytes(text: &str, root: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return None;
    }
    if let Some(count) = text.strip_prefix('*') {
        return Some(vec![b'x'; count.parse().unwrap_or(0)]);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'~' => out.extend_from_slice(root.as_bytes()),
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = str::from_utf8(&digits).unwrap_or("00");
                out.push(u8::from_str_radix(digits, 16).unwrap_or(0));
            }
            byte => out.push(byte),
        }
    }
    Some(out)
}

/// Text of a value that stands for these bytes.
pub fn quote(value: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:+".contains(&byte);
    let mut text = String::new();
    for (index, byte) in value.iter().enumerate() {
        if plain(*byte) || (*byte == b'-' && index > 0) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(line: &str) -> Vec<u8> {
        let steps = parse(line).expect("it can be read");
        let meaning = Meaning { root: "/r", session: &|_| Some((7, [9; 16])), zxids: &[5, 6, 8] };
        steps[0].encode(&meaning, 3)
    }

    #[test]
    fn the_examples_of_the_protocol() {
        let get = [0, 0, 0, 17, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 4, b'/', b'r', b'/', b'a', 1];
        assert_eq!(encode("0 get path=~/a watch=1"), get);
        assert_eq!(encode("0 get path=~/a watch=1 !cut=9")[..4], [0, 0, 0, 9]);
        assert_eq!(
            encode("0 get path=~/a watch=1 !poke=4:%00%63 !length=-1")[..12],
            [255, 255, 255, 255, 0, 0, 0, 3, 0, 0x63, 0, 4]
        );
        let connect = encode("0 connect session=0 seen=back1 readonly=absent password=null");
        assert_eq!(connect.len(), 4 + 4 + 8 + 4 + 8 + 4);
        assert_eq!(connect[8..16], 6_i64.to_be_bytes());
        assert_eq!(connect[20..28], 7_i64.to_be_bytes());
    }

    #[test]
    fn parts_belong_to_the_line_above() {
        let text = "0 multi\n| delete path=/a\n| check path=/b\n1 ping\n";
        let steps = parse(text).expect("it can be read");
        assert_eq!(steps.len(), 2);
        assert_eq!(steps.iter().map(Step::to_string).collect::<String>(), text);
        let parts: Vec<String> = steps[0].without_each_part().iter().map(|step| step.to_string()).collect();
        assert_eq!(parts, ["0 multi\n| check path=/b\n", "0 multi\n| delete path=/a\n"]);
    }

    #[test]
    fn quoted_bytes_come_back() {
        for value in [&b"/a b"[..], b"-", b"*9", b"~%", b"", &[0, 255, b'!', b'#', b',']] {
            assert_eq!(bytes(&quote(value), "/r").as_deref(), Some(value), "{}", quote(value));
        }
    }
}
