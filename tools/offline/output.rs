//! Text for people, JSON Lines for programs.

use std::fmt::Write as _;
use std::io::{self, BufWriter, StdoutLock, Write};

use serde_json::Value;

/// Standard output.
pub struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    /// The process's.
    pub fn new() -> Out {
        Out(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// One line.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.write_all(b"\n")
    }

    /// Text as it is.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())
    }

    /// One value on one line.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, value)?;
        self.0.write_all(b"\n")
    }

    /// Hands on what was written so far.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Data in quotes: printable characters as they are, others as `\xNN`, and no more than `bytes_max` bytes of it.
pub fn quoted(data: &[u8], bytes_max: usize) -> String {
    let shown = &data[..data.len().min(bytes_max)];
    let mut text = String::from("\"");
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes any text");
        }
    }
    text.push('"');
    if shown.len() < data.len() {
        write!(text, "… ({} bytes)", data.len()).expect("a string takes any text");
    }
    text
}

/// Permissions as ZooKeeper's command line writes them.
pub fn perms(perms: i32) -> String {
    let letters = [(4, 'c'), (8, 'd'), (1, 'r'), (2, 'w'), (16, 'a')];
    letters.iter().filter(|(bit, _)| perms & bit != 0).map(|(_, letter)| *letter).collect()
}

/// A count of bytes for people.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_quoted_on_one_line() {
        assert_eq!(quoted("a\"\\\n\u{1}é".as_bytes(), 99), "\"a\\\"\\\\\\n\\u{1}é\"");
        assert_eq!(quoted(b"\xff\xfe", 99), "\"\\xff\\xfe\"");
        assert_eq!(quoted(b"abc", 2), "\"ab\"… (3 bytes)");
    }

    #[test]
    fn letters_and_units() {
        assert_eq!((perms(31), perms(1), perms(0)), ("cdrwa".to_owned(), "r".to_owned(), String::new()));
        assert_eq!((human_bytes(1023), human_bytes(1536)), ("1023 bytes".to_owned(), "1.5 KiB".to_owned()));
    }
}
