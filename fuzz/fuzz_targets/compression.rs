//! Compressed snapshots: any bytes as gzip and as snappy-java's stream. What comes out is bounded by what is asked for.
#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::compression::Compression;

/// Bytes of the content that are looked at: both compress a thousandfold and more.
const CONTENT_BYTES_MAX: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    for compression in [Compression::Gzip, Compression::Snappy] {
        for head in [&b""[..], compression.magic(), b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"] {
            let file = [head, data].concat();
            let mut content = Vec::new();
            let _ = compression.reader(&file[..]).take(CONTENT_BYTES_MAX).read_to_end(&mut content);
        }
    }
});
