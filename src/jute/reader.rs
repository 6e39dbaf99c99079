use std::borrow::Cow;
use std::fmt;

/// Reads jute fields in order from borrowed bytes. Bytes left over at the end are the caller's business.
///
/// ```
/// use ringkeeper::jute::Reader;
/// let mut r = Reader::new(&[0, 0, 0, 2, b'/', b'a', 1]);
/// assert_eq!(r.string().unwrap().as_deref(), Some("/a"));
/// assert!(r.bool().unwrap());
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

/// Bytes that are not the record that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// Offset of the field that could not be read, from the start of the reader's bytes.
    pub position: usize,
    /// What was expected there.
    pub expected: &'static str,
    /// The offending length or value, or how many bytes were left.
    pub got: i64,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: expected {}, got {}", self.position, self.expected, self.got)
    }
}

impl std::error::Error for DecodeError {}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, position: 0 }
    }

    /// Offset of the next field.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    /// jute `byte`.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1, "a byte")?[0])
    }

    /// jute `boolean`: any non-zero byte is true.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.take(1, "a boolean")?[0] != 0)
    }

    /// jute `int`.
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        let b = self.take(4, "an int of 4 bytes")?;
        Ok(i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// jute `long`.
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        let b = self.take(8, "a long of 8 bytes")?;
        Ok(i64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// jute `buffer`: `None` is null (length -1). Errors on a length below -1 or beyond the input.
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let at = self.position;
        let len = self.int()?;
        match len {
            -1 => Ok(None),
            0.. => Ok(Some(self.take(len as usize, "that many bytes")?)),
            _ => Err(DecodeError { position: at, expected: "a length of -1 or more", got: len.into() }),
        }
    }

    /// jute `ustring`: malformed UTF-8 becomes U+FFFD, as Java reads it.
    pub fn string(&mut self) -> Result<Option<Cow<'a, str>>, DecodeError> {
        // Nearly all strings are well-formed, and to check that is quicker than to look for what is not.
        Ok(self.buffer()?.map(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => from_utf8_as_java(bytes),
        }))
    }

    /// A `ustring` that must not be null.
    pub fn required_string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        let position = self.position;
        self.string()?.ok_or(DecodeError { position, expected: "a string, not null", got: -1 })
    }

    /// jute `vector`: `None` is null; any other negative count reads as empty, as Apache does.
    ///
    /// `element` is called until the count or the input is used up; nothing is reserved by count,
    /// so a count of two thousand million over ten bytes costs ten bytes.
    pub fn vector<T>(
        &mut self,
        mut element: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let count = self.int()?;
        if count == -1 {
            return Ok(None);
        }
        let mut items = Vec::new();
        for _ in 0..count.max(0) {
            items.push(element(self)?);
        }
        Ok(Some(items))
    }

    /// Passes over `len` bytes.
    pub fn skip(&mut self, len: usize) -> Result<(), DecodeError> {
        self.take(len, "bytes to pass over").map(drop)
    }

    fn take(&mut self, len: usize, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.position..];
        if rest.len() < len {
            return Err(DecodeError { position: self.position, expected, got: rest.len() as i64 });
        }
        self.position += len;
        Ok(&rest[..len])
    }
}

/// As `String::from_utf8_lossy`, but for surrogates of three bytes: they are one U+FFFD each, as in Java.
pub fn from_utf8_as_java(bytes: &[u8]) -> Cow<'_, str> {
    let mut error = match str::from_utf8(bytes) {
        Ok(text) => return Cow::Borrowed(text),
        Err(error) => error,
    };
    let (mut text, mut rest) = (String::new(), bytes);
    loop {
        let (good, bad) = rest.split_at(error.valid_up_to());
        text.push_str(str::from_utf8(good).expect("valid up to there"));
        text.push(char::REPLACEMENT_CHARACTER);
        let bad_len = match bad {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
            [0xed, 0xa0..=0xbf, ..] => 2,
            _ => error.error_len().unwrap_or(bad.len()),
        };
        rest = &bad[bad_len..];
        match str::from_utf8(rest) {
            Ok(good) => {
                text.push_str(good);
                return Cow::Owned(text);
            }
            Err(next) => error = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jute::Write;

    #[test]
    fn characters_beyond_the_basic_plane_go_out_as_java_writes_them() {
        let mut out = Vec::new();
        out.put_string("aä日😀");
        assert_eq!(out[4..], *b"a\xc3\xa4\xe6\x97\xa5\xed\xa0\xbd\xed\xb8\x80");
        assert_eq!(out[..4], [0, 0, 0, 12]);
    }

    #[test]
    fn malformed_text_reads_as_in_java() {
        for (bytes, text) in [
            (&b"/a\xed\xa0\x80b"[..], "/a\u{fffd}b"),
            (b"\xed\xa0\xbd\xed\xb8\x80", "\u{fffd}\u{fffd}"),
            (b"\xed\xa0", "\u{fffd}"),
            (b"\xc0\x80", "\u{fffd}\u{fffd}"),
            (b"\xe2\x82", "\u{fffd}"),
            (b"\xffx\xf0\x9f\x98\x80", "\u{fffd}x😀"),
        ] {
            assert_eq!(from_utf8_as_java(bytes), text, "{bytes:02x?}");
        }
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let mut r = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(r.buffer().unwrap(), None);
        assert_eq!(r.buffer().unwrap(), Some(&[][..]));
        assert!(r.rest().is_empty());
    }

    #[test]
    fn a_length_below_minus_one_or_beyond_the_input_is_an_error() {
        let minus_two = (-2i32).to_be_bytes();
        assert_eq!(Reader::new(&minus_two).buffer().unwrap_err().got, -2);
        let nine = [0, 0, 0, 9, 1, 2];
        assert_eq!(
            Reader::new(&nine).buffer().unwrap_err(),
            DecodeError { position: 4, expected: "that many bytes", got: 2 }
        );
    }

    #[test]
    fn a_huge_vector_count_costs_only_the_input() {
        let mut bytes = i32::MAX.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1]);
        let mut r = Reader::new(&bytes);
        assert!(r.vector(|r| r.int()).is_err());
    }

    #[test]
    fn malformed_utf8_is_replaced() {
        let mut r = Reader::new(&[0, 0, 0, 2, b'/', 0xff]);
        assert_eq!(r.string().unwrap().unwrap(), "/\u{fffd}");
    }
}
