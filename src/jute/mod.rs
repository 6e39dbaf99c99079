//! jute, ZooKeeper's record encoding: a reader over borrowed bytes and a writer into a buffer.
//!
//! All integers are signed and big-endian, nothing is padded or tagged, and a record is its fields
//! in order. A string or buffer is an `int` length and the bytes; length -1 is null, which is not
//! the same as empty. Source: `BinaryInputArchive.java`, `BinaryOutputArchive.java`.

mod reader;
mod writer;

pub use reader::{DecodeError, Reader, from_utf8_as_java};
pub use writer::Write;
