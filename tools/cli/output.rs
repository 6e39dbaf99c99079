//! What a command prints: Apache's text, or one JSON value.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write as _};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ringkeeper::proto::client::{Acl, Stat, perms};
use serde_json::{Map, Value, json};

/// Where results go. Text goes out line by line; JSON is gathered and goes out as a whole.
pub struct Output {
    json: Option<Map<String, Value>>,
    colors: Colors,
    zone: TimeZone,
}

/// Whether colours may be used: a terminal that knows them, and nobody who asked for none (no-color.org).
#[derive(Clone, Copy)]
pub struct Colors {
    pub out: bool,
    pub err: bool,
}

impl Colors {
    /// As this process was started.
    pub fn of_this_process() -> Colors {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let wanted = !is_set("NO_COLOR") && !is_dumb;
        Colors { out: wanted && io::stdout().is_terminal(), err: wanted && io::stderr().is_terminal() }
    }
}

/// A colour, as the number of its escape sequence.
#[derive(Clone, Copy)]
pub enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// The text in that colour, if colours are on.
pub fn paint(text: &str, color: Color, is_on: bool) -> String {
    if is_on { format!("\x1b[{}m{text}\x1b[0m", color as u8) } else { text.to_owned() }
}

/// Writes to standard output. A reader that has gone, as in `| head`, ends the program: nobody wants the rest.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

impl Output {
    /// Text, or JSON.
    pub fn new(is_json: bool, colors: Colors) -> Output {
        Output { json: is_json.then(Map::new), colors, zone: TimeZone::system() }
    }

    /// Whether results are gathered as JSON.
    pub fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// Colours for standard output.
    pub fn paints(&self) -> bool {
        self.colors.out
    }

    /// A line of text on standard output.
    pub fn line(&self, text: impl Display) {
        if self.json.is_none() {
            print(&format!("{text}\n"));
        }
    }

    /// A line of text on standard error: what Apache prints there although it is no failure.
    pub fn note(&self, text: impl Display) {
        if self.json.is_none() {
            eprintln!("{text}");
        }
    }

    /// A field of the JSON object.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(json) = &mut self.json {
            json.insert(name.to_owned(), value.into());
        }
    }

    /// One more element of a list in the JSON object.
    pub fn push(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(json) = &mut self.json
            && let Value::Array(list) = json.entry(name).or_insert_with(|| Value::Array(Vec::new()))
        {
            list.push(value.into());
        }
    }

    /// A whole JSON value at once, on a line of its own: for what never ends.
    pub fn stream(&self, value: &Value) {
        if self.json.is_some() {
            print(&format!("{value}\n"));
        }
    }

    /// A failure: in red on a terminal, or a field `error`.
    pub fn failure(&mut self, text: &str, error: Value) {
        match &mut self.json {
            Some(json) => drop(json.insert("error".to_owned(), error)),
            None => eprintln!("{}", paint(text, Color::Red, self.colors.err)),
        }
    }

    /// Prints the JSON object, if there is anything in it.
    pub fn finish(&mut self) {
        if let Some(json) = &mut self.json
            && !json.is_empty()
        {
            print(&format!("{:#}\n", Value::Object(std::mem::take(json))));
        }
    }

    /// The metadata: eleven lines, and the field `stat`.
    pub fn stat(&mut self, stat: &Stat, is_text_wanted: bool) {
        if is_text_wanted {
            self.line(self.stat_text(stat));
        }
        self.put("stat", stat_json(stat));
    }

    fn stat_text(&self, stat: &Stat) -> String {
        let mut text = String::new();
        let mut field = |name: &str, value: &dyn Display| {
            let separator = if text.is_empty() { "" } else { "\n" };
            write!(text, "{separator}{name} = {value}").expect("a string takes any text");
        };
        field("cZxid", &format_args!("{:#x}", stat.czxid));
        field("ctime", &date(stat.ctime_ms, &self.zone));
        field("mZxid", &format_args!("{:#x}", stat.mzxid));
        field("mtime", &date(stat.mtime_ms, &self.zone));
        field("pZxid", &format_args!("{:#x}", stat.pzxid));
        field("cversion", &stat.cversion);
        field("dataVersion", &stat.version);
        field("aclVersion", &stat.aversion);
        field("ephemeralOwner", &format_args!("{:#x}", stat.ephemeral_owner));
        field("dataLength", &stat.data_length);
        field("numChildren", &stat.num_children);
        text
    }
}

/// A time as `java.util.Date` prints it, such as `Sat Nov 21 22:51:01 UTC 2026`.
fn date(ms: i64, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%a %b %d %H:%M:%S %Z %Y").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

/// Metadata under the names of `Stat`. Zxids and the owner are hex, as everywhere; times are ms since 1970.
pub fn stat_json(stat: &Stat) -> Value {
    json!({
        "czxid": format!("{:#x}", stat.czxid),
        "ctime": stat.ctime_ms,
        "mzxid": format!("{:#x}", stat.mzxid),
        "mtime": stat.mtime_ms,
        "pzxid": format!("{:#x}", stat.pzxid),
        "cversion": stat.cversion,
        "dataVersion": stat.version,
        "aclVersion": stat.aversion,
        "ephemeralOwner": format!("{:#x}", stat.ephemeral_owner),
        "dataLength": stat.data_length,
        "numChildren": stat.num_children,
    })
}

/// Data as a string where it is UTF-8, else in base64, with the encoding beside it; null stays null.
pub fn data_json(data: Option<&[u8]>) -> (Value, &'static str) {
    match data.map(std::str::from_utf8) {
        None => (Value::Null, "utf-8"),
        Some(Ok(text)) => (text.into(), "utf-8"),
        Some(Err(_)) => (base64(data.unwrap_or_default()).into(), "base64"),
    }
}

/// Base64 with padding.
pub fn base64(data: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(data)
}

/// The letters of permission bits, in Apache's order.
pub fn perms_text(bits: i32) -> String {
    let letters =
        [(perms::CREATE, 'c'), (perms::DELETE, 'd'), (perms::READ, 'r'), (perms::WRITE, 'w'), (perms::ADMIN, 'a')];
    letters.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| letter).collect()
}

/// `scheme:id:perms`, as the shell reads it too.
pub fn acl_text(acl: &Acl) -> String {
    format!("{}:{}:{}", acl.id.scheme, acl.id.id, perms_text(acl.perms))
}

/// Bytes in hex and as characters, sixteen a row, in a frame. Source: `ByteBufUtil.prettyHexDump` of Netty.
pub fn hex_dump(data: &[u8]) -> String {
    const RULE: &str = "+--------+-------------------------------------------------+----------------+";
    if data.is_empty() {
        return String::new();
    }
    let mut text = String::from("         +-------------------------------------------------+\n");
    text.push_str("         |  0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f |\n");
    text.push_str(RULE);
    for (row, bytes) in data.chunks(16).enumerate() {
        let hex: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
        let is_shown = |byte: u8| byte > 0x1f && byte < 0x7f;
        let characters: String = bytes.iter().map(|byte| if is_shown(*byte) { *byte as char } else { '.' }).collect();
        write!(text, "\n|{:08x}|{hex:48} |{characters:16}|", row * 16).expect("a string takes any text");
    }
    text.push('\n');
    text.push_str(RULE);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hex_dump_as_netty_draws_it() {
        let expected = "         +-------------------------------------------------+\n\
                        \x20        |  0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f |\n\
                        +--------+-------------------------------------------------+----------------+\n\
                        |00000000| 68 65 6c 6c 6f 20 77 6f 72 6c 64                |hello world     |\n\
                        +--------+-------------------------------------------------+----------------+";
        assert_eq!(hex_dump(b"hello world"), expected);
        assert_eq!(hex_dump(b""), "");
        assert_eq!(hex_dump(&[0x1f, 0x7f, 0xff]).lines().nth(3).unwrap().split('|').nth(3), Some("...             "));
        assert_eq!(hex_dump(&[0; 17]).lines().count(), 6);
    }

    #[test]
    fn a_date_as_java_prints_it() {
        assert_eq!(date(0, &TimeZone::UTC), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(date(1_795_301_461_000, &TimeZone::UTC), "Sat Nov 21 22:51:01 UTC 2026");
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(date(1_795_301_461_000, &zone), "Sat Nov 21 23:51:01 CET 2026");
    }

    #[test]
    fn permissions_in_apaches_order() {
        assert_eq!(perms_text(31), "cdrwa");
        assert_eq!(perms_text(perms::READ | perms::ADMIN), "ra");
        assert_eq!(perms_text(0), "");
    }

    #[test]
    fn data_that_is_no_text_is_base64() {
        assert_eq!(data_json(Some(b"x")), ("x".into(), "utf-8"));
        assert_eq!(data_json(Some(&[0xff])), ("/w==".into(), "base64"));
        assert_eq!(data_json(None), (Value::Null, "utf-8"));
    }
}
