//! `snapshot.compression.method`: the bytes of a snapshot in a file that is smaller than they are.
//!
//! `.gz` is one gzip member. `.snappy` is the stream of snappy-java, which is not the framing format that others use:
//!
//! ```text
//! header   82 "SNAPPY" 00   int 1   int 1                         version, and the oldest version that can read it
//! { int length   raw snappy block of that length }                of 32 KiB each but the last; numbers are big-endian
//! ```
//!
//! Source: `SnapStream.java`; snappy-java's `SnappyOutputStream` and `SnappyInputStream`.

use std::fs::File;
use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Which one, as it shows in a file's name.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Compression {
    /// `snapshot.<zxid>`
    #[default]
    None,
    /// `snapshot.<zxid>.gz`
    Gzip,
    /// `snapshot.<zxid>.snappy`
    Snappy,
}

const SNAPPY_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const SNAPPY_VERSION: u32 = 1;
/// What snappy-java compresses at a time.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
/// A block that says it is longer is damage: no memory is got for it.
const SNAPPY_BLOCK_BYTES_MAX: usize = 64 << 20;

impl Compression {
    /// What a file begins with.
    pub fn magic(self) -> &'static [u8] {
        match self {
            Compression::None => b"",
            Compression::Gzip => b"\x1f\x8b",
            Compression::Snappy => SNAPPY_MAGIC,
        }
    }

    /// What a file's name ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Snappy => ".snappy",
        }
    }

    /// The bytes that are in the file `from`, which is at its beginning.
    pub fn reader<'a>(self, from: impl Read + 'a) -> Box<dyn Read + 'a> {
        match self {
            Compression::None => Box::new(from),
            Compression::Gzip => Box::new(MultiGzDecoder::new(from)),
            Compression::Snappy => Box::new(SnappyReader { from, is_begun: false, block: Vec::new(), at: 0 }),
        }
    }
}

/// Puts bytes into a file.
pub enum Writer {
    /// As they are.
    Plain(File),
    /// As one gzip member.
    Gzip(GzEncoder<File>),
    /// As snappy-java does.
    Snappy(SnappyWriter),
}

impl Writer {
    /// A writer to an empty file.
    pub fn new(compression: Compression, file: File) -> Writer {
        match compression {
            Compression::None => Writer::Plain(file),
            Compression::Gzip => Writer::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::Snappy => Writer::Snappy(SnappyWriter { file, is_begun: false, block: Vec::new() }),
        }
    }

    /// Adds bytes.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Writer::Plain(file) => file.write_all(bytes),
            Writer::Gzip(encoder) => encoder.write_all(bytes),
            Writer::Snappy(writer) => writer.write_all(bytes),
        }
    }

    /// The file, which may not have everything yet.
    pub fn file(&self) -> &File {
        match self {
            Writer::Plain(file) => file,
            Writer::Gzip(encoder) => encoder.get_ref(),
            Writer::Snappy(writer) => &writer.file,
        }
    }

    /// Ends the stream. Nothing is flushed to the disk.
    pub fn finish(self) -> io::Result<File> {
        match self {
            Writer::Plain(file) => Ok(file),
            Writer::Gzip(encoder) => encoder.finish(),
            Writer::Snappy(mut writer) => {
                writer.put_block()?;
                Ok(writer.file)
            }
        }
    }
}

/// See [`Writer::Snappy`].
pub struct SnappyWriter {
    file: File,
    is_begun: bool,
    /// Waits until it is as long as a block.
    block: Vec<u8>,
}

impl SnappyWriter {
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let len = bytes.len().min(SNAPPY_BLOCK_BYTES - self.block.len());
            self.block.extend_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            if self.block.len() == SNAPPY_BLOCK_BYTES {
                self.put_block()?;
            }
        }
        Ok(())
    }

    fn put_block(&mut self) -> io::Result<()> {
        let mut out = Vec::with_capacity(SNAPPY_BLOCK_BYTES);
        if !std::mem::replace(&mut self.is_begun, true) {
            out.extend_from_slice(SNAPPY_MAGIC);
            out.extend_from_slice(&SNAPPY_VERSION.to_be_bytes());
            out.extend_from_slice(&SNAPPY_VERSION.to_be_bytes());
        }
        if !self.block.is_empty() {
            let compressed = snap::raw::Encoder::new().compress_vec(&self.block).map_err(io::Error::other)?;
            out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
            out.extend_from_slice(&compressed);
            self.block.clear();
        }
        self.file.write_all(&out)
    }
}

struct SnappyReader<R> {
    from: R,
    is_begun: bool,
    /// Uncompressed, and how much of it was taken.
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> SnappyReader<R> {
    fn begin(&mut self) -> io::Result<()> {
        let mut header = [0; 16];
        self.from.read_exact(&mut header)?;
        let version = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
        if !header.starts_with(SNAPPY_MAGIC) || version > SNAPPY_VERSION {
            return Err(invalid(format!("the header of a snappy stream is {header:02x?}")));
        }
        self.is_begun = true;
        Ok(())
    }

    /// Takes up the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut length = [0; 4];
        if self.from.read(&mut length[..1])? == 0 {
            return Ok(false);
        }
        self.from.read_exact(&mut length[1..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > SNAPPY_BLOCK_BYTES_MAX {
            return Err(invalid(format!("a snappy block cannot be {length} bytes long")));
        }
        // As much memory as there are bytes, whatever the length says.
        let mut compressed = Vec::new();
        if (&mut self.from).take(length as u64).read_to_end(&mut compressed)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let plain = snap::raw::decompress_len(&compressed).map_err(|error| invalid(error.to_string()))?;
        if plain > SNAPPY_BLOCK_BYTES_MAX {
            return Err(invalid(format!("a snappy block cannot hold {plain} bytes")));
        }
        self.block =
            snap::raw::Decoder::new().decompress_vec(&compressed).map_err(|error| invalid(error.to_string()))?;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for SnappyReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.is_begun {
            self.begin()?;
        }
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let len = out.len().min(self.block.len() - self.at);
        out[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TempDir;

    fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let dir = TempDir::new(&format!("compression-{compression:?}-{}", bytes.len()));
        let path = dir.path().join("file");
        let mut writer = Writer::new(compression, File::create(&path).unwrap());
        bytes.chunks(10_007).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap();
        std::fs::read(path).unwrap()
    }

    fn plain(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        compression.reader(bytes).read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn what_is_written_is_read_and_a_cut_is_an_error_or_shows() {
        for compression in [Compression::Gzip, Compression::Snappy] {
            for len in [0, 1, SNAPPY_BLOCK_BYTES, 3 * SNAPPY_BLOCK_BYTES + 5] {
                let bytes: Vec<u8> = (0..len).map(|i| (i / 7 * i) as u8).collect();
                let file = compressed(compression, &bytes);
                assert!(file.starts_with(compression.magic()));
                assert!(plain(compression, &file).unwrap() == bytes);
                for cut in (0..file.len()).step_by(1 + file.len() / 100) {
                    assert!(plain(compression, &file[..cut]).map_or(true, |found| found != bytes || len == 0), "{cut}");
                }
            }
        }
    }

    #[test]
    fn a_snappy_stream_is_read_and_what_is_none_refused() {
        let header = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
        let block = [4u8, 3 << 2, b'Z', b'K', b'S', b'N'];
        let file = [&header[..], &[0, 0, 0, 6], &block].concat();
        assert_eq!(plain(Compression::Snappy, &file).unwrap(), b"ZKSN");
        for (at, value) in [(0, 0), (15, 2), (16, 0xff), (17, 9), (20, 0xff)] {
            let mut damaged = file.clone();
            damaged[at] = value;
            assert!(plain(Compression::Snappy, &damaged).is_err(), "byte {at}");
        }
    }
}
