//! Java properties syntax, with the line number of each key.
//!
//! zoo.cfg is read by `java.util.Properties`, so its lexical rules are Java's and not those of a usual ini file:
//!
//! ```text
//! # a comment; so is a line that starts with !
//! tickTime=2000
//! dataDir: /var/lib/zookeeper
//! clientPort 2181
//! 4lw.commands.whitelist = srvr, \
//!                          mntr
//! ```
//!
//! There are no comments behind a value, quotes mean nothing, a backslash escapes, and bytes are ISO-8859-1.
//! What Java accepts in silence although it is rarely meant comes back as an [`Oddity`].

use std::fmt;

/// One `key=value` of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Name before the separator, unescaped and trimmed. Never empty unless the line had no name.
    pub key: String,
    /// Text behind the separator, unescaped and trimmed; may be empty.
    pub value: String,
    /// Line of the first character of the key, counted from 1.
    pub line: u32,
}

/// Something legal that is seldom what the writer meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// The key stands twice; Java lets the later one win.
    Duplicate {
        /// The key of both lines.
        key: String,
        /// Line of the value that is lost.
        first_line: u32,
        /// Line of the value that counts.
        line: u32,
    },
    /// The value contains ` #`, which does not start a comment here.
    TrailingComment {
        /// The key of the line.
        key: String,
        /// Where it stands.
        line: u32,
    },
    /// The line has bytes beyond ASCII, which Java reads as ISO-8859-1 and editors write as UTF-8.
    NotAscii {
        /// The key of the line.
        key: String,
        /// Where it stands.
        line: u32,
    },
}

impl Oddity {
    /// Line that the oddity is reported for.
    pub fn line(&self) -> u32 {
        match self {
            Oddity::Duplicate { line, .. } | Oddity::TrailingComment { line, .. } | Oddity::NotAscii { line, .. } => {
                *line
            }
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Oddity::Duplicate { key, first_line, line } => {
                write!(f, "{key} is set twice, in lines {first_line} and {line}; line {line} wins")
            }
            Oddity::TrailingComment { key, .. } => {
                write!(f, "the value of {key} contains ` #`, which is part of the value; comments need their own line")
            }
            Oddity::NotAscii { key, .. } => {
                write!(f, "{key} has bytes beyond ASCII, which are read as ISO-8859-1; write them as \\uXXXX")
            }
        }
    }
}

/// A text that `java.util.Properties` would not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line of the offence, counted from 1.
    pub line: u32,
    /// What is wrong, in words.
    pub what: &'static str,
}

/// What a text holds: each key once, in the order of the lines that count, and what looked odd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// One entry a key; of duplicates the last one.
    pub entries: Vec<Property>,
    /// Oddities in line order.
    pub oddities: Vec<Oddity>,
}

impl Properties {
    /// The value of `key`, spelled exactly so.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Reads a properties text.
///
/// Errors: a `\u` that four hexadecimal digits do not follow, which is the only thing Java refuses.
///
/// Source: `java.util.Properties.load`, and the trimming of `QuorumPeerConfig.parseProperties`.
pub fn parse(text: &[u8]) -> Result<Properties, SyntaxError> {
    let mut properties = Properties::default();
    for logical in logical_lines(text) {
        let (key, value) = split(&logical)?;
        let line = logical.line;
        if !logical.text.is_ascii() {
            let key = key.clone();
            properties.oddities.push(Oddity::NotAscii { key, line });
        }
        if value.contains(" #") || value.contains("\t#") {
            let key = key.clone();
            properties.oddities.push(Oddity::TrailingComment { key, line });
        }
        if let Some(at) = properties.entries.iter().position(|old| old.key == key) {
            let first_line = properties.entries.remove(at).line;
            let key = key.clone();
            properties.oddities.push(Oddity::Duplicate { key, first_line, line });
        }
        properties.entries.push(Property { key, value, line });
    }
    Ok(properties)
}

/// One line after continuations were joined: escapes are still in it.
struct LogicalLine {
    text: String,
    line: u32,
}

/// Joins continued lines and drops blank lines and comments.
fn logical_lines(text: &[u8]) -> Vec<LogicalLine> {
    let text: String = text.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = Vec::new();
    let mut natural = natural_lines(&text).zip(1u32..);
    while let Some((first, line)) = natural.next() {
        let mut joined = first.trim_start_matches(is_blank).to_string();
        if joined.is_empty() || joined.starts_with(['#', '!']) {
            continue;
        }
        while ends_in_odd_backslashes(&joined) {
            joined.pop();
            let Some((next, _)) = natural.next() else {
                break;
            };
            joined.push_str(next.trim_start_matches(is_blank));
        }
        if !joined.is_empty() {
            lines.push(LogicalLine { text: joined, line });
        }
    }
    lines
}

/// Lines ended by CR, LF or CR LF.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let Some(end) = current.find(['\r', '\n']) else {
            rest = None;
            return Some(current);
        };
        let separator_bytes = if current[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&current[end + separator_bytes..]);
        Some(&current[..end])
    })
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn ends_in_odd_backslashes(text: &str) -> bool {
    text.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// Splits at the first separator that no backslash escapes.
fn split(logical: &LogicalLine) -> Result<(String, String), SyntaxError> {
    let text = &logical.text;
    let mut escaped = false;
    let key_end = text
        .char_indices()
        .find(|(_, c)| {
            let ends = !escaped && (is_blank(*c) || matches!(c, '=' | ':'));
            escaped = !escaped && *c == '\\';
            ends
        })
        .map_or(text.len(), |(at, _)| at);
    let (key, rest) = text.split_at(key_end);
    // Blanks, at most one `=` or `:`, and blanks again.
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    let rest = rest.trim_start_matches(is_blank);
    let unescaped = |part| unescape(part, logical.line);
    Ok((java_trim(&unescaped(key)?).to_string(), java_trim(&unescaped(rest)?).to_string()))
}

/// `String.trim`: everything up to and including the blank goes, from both ends.
fn java_trim(text: &str) -> &str {
    text.trim_matches(|c| c <= ' ')
}

fn unescape(text: &str, line: u32) -> Result<String, SyntaxError> {
    // Java works in UTF-16, so a character beyond the basic plane is two escapes in a row.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let unit = match c {
            '\\' => match chars.next() {
                None => break,
                Some('u') => hex_unit(&mut chars).ok_or(SyntaxError { line, what: "Malformed \\uxxxx encoding." })?,
                Some('t') => u16::from(b'\t'),
                Some('n') => u16::from(b'\n'),
                Some('r') => u16::from(b'\r'),
                Some('f') => 0xc,
                Some(other) => other as u16,
            },
            // Every character came from one ISO-8859-1 byte.
            other => other as u16,
        };
        units.push(unit);
    }
    Ok(String::from_utf16_lossy(&units))
}

fn hex_unit(chars: &mut std::str::Chars<'_>) -> Option<u16> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = chars.next()?.to_digit(16)?;
        unit = unit << 4 | u16::try_from(digit).ok()?;
    }
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with `line key=value` for each entry, then `! oddity` for each oddity.
    fn check(text: &[u8], expected: &str) {
        let found = match parse(text) {
            Err(error) => format!("{} error: {}", error.line, error.what),
            Ok(properties) => {
                let entries =
                    properties.entries.iter().map(|entry| format!("{} {}={}", entry.line, entry.key, entry.value));
                let oddities = properties.oddities.iter().map(|oddity| format!("! {oddity}"));
                entries.chain(oddities).collect::<Vec<_>>().join("\n")
            }
        };
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn separators_comments_and_blanks() {
        check(b"# c\n! c\n\n  \t\n a = 1 \nb:2\nc 3\nd\t=\t4\ne", "5 a=1\n6 b=2\n7 c=3\n8 d=4\n9 e=");
        check(b"server.1=h:1:2;3\nk = = v\nurl:http://x\n", "1 server.1=h:1:2;3\n2 k== v\n3 url=http://x");
        check(b"a=1\r\nb=2\rc=3", "1 a=1\n2 b=2\n3 c=3");
        check(b"", "");
    }

    #[test]
    fn continuation_joins_lines_and_keeps_the_first_number() {
        check(b"a=x,\\\n   y,\\\r\n z\nb=1\n", "1 a=x,y,z\n4 b=1");
        check(b"# no \\\na=1", "2 a=1");
        check(b"a=1\\\n# part of it", "1 a=1# part of it");
        check(b"a=even\\\\\nb=2", "1 a=even\\\n2 b=2");
        check(b"a=end\\", "1 a=end");
        check(b"\\\n\\\n", "");
    }

    #[test]
    fn escapes() {
        check(b"a\\ b\\=c=d", "1 a b=c=d");
        check(b"p=\\u0041\\u00e9\\ud83d\\ude00", "1 p=A\u{e9}\u{1f600}");
        check(b"p=C:\\\\data\\q", "1 p=C:\\dataq");
        check(b"x=1\np=\\u12g4", "2 error: Malformed \\uxxxx encoding.");
        check(b"p=\\u12", "1 error: Malformed \\uxxxx encoding.");
    }

    #[test]
    fn oddities_are_named() {
        check(b"a=1\nb=2\na=3", "2 b=2\n3 a=3\n! a is set twice, in lines 1 and 3; line 3 wins");
        check(
            b"dataDir=/d # my data",
            "1 dataDir=/d # my data\n! the value of dataDir contains ` #`, which is part of the value; \
             comments need their own line",
        );
        check(
            b"p=/\xc3\xa9",
            "1 p=/\u{c3}\u{a9}\n! p has bytes beyond ASCII, which are read as ISO-8859-1; write them as \\uXXXX",
        );
    }
}
