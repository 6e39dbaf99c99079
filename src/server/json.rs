//! JSON as Apache's server prints it, which is as Jackson does: two blanks for each object around, ` : ` behind a key, lists
//! on one line.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value};

/// The text of an object.
pub fn text(object: &Map<String, Value>) -> String {
    let mut bytes = Vec::new();
    object.serialize(&mut Serializer::with_formatter(&mut bytes, Jackson::default())).expect("to memory");
    String::from_utf8(bytes).expect("JSON is text")
}

#[derive(Default)]
struct Jackson {
    /// Objects around.
    depth: usize,
    /// The object at hand has something in it.
    has_value: bool,
}

impl Jackson {
    fn new_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(b"  "))
    }
}

impl Formatter for Jackson {
    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        out.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.new_line(out)?
        } else {
            out.write_all(b" ")?
        }
        out.write_all(b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        self.new_line(out)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b" : ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b" " } else { b", " })
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b" ]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_printed_as_jackson_prints_them() {
        let value = json!({
            "connections": [{"ip": "127.0.0.1:1", "ops": 1}, {"ip": "x\"y", "ops": []}],
            "paths": {"7": ["/a", "/b"]},
            "none": {},
            "zxid": -1,
            "avg": 0.5,
            "error": null,
        });
        let expected = r#"{
  "connections" : [ {
    "ip" : "127.0.0.1:1",
    "ops" : 1
  }, {
    "ip" : "x\"y",
    "ops" : [ ]
  } ],
  "paths" : {
    "7" : [ "/a", "/b" ]
  },
  "none" : { },
  "zxid" : -1,
  "avg" : 0.5,
  "error" : null
}"#;
        assert_eq!(text(value.as_object().expect("an object")), expected);
    }
}
