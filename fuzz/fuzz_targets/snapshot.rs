//! A snapshot, as the server reads it from a file and from a leader, and as the tools read it.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::inspect::{Piece, SnapshotReader};
use ringkeeper::storage::snapshot_format::{Decoder, Form};
use ringkeeper::types::Zxid;

fuzz_target!(|data: &[u8]| {
    for form in [Form::File, Form::Stream] {
        let mut decoder = Decoder::new(form, Zxid(0x3b));
        if let Ok(consumed) = decoder.feed(data) {
            let _ = decoder.finish(&data[consumed..]);
        }
    }
    // In memory, where there is such a place.
    let path = format!("/dev/shm/ringkeeper-fuzz-snapshot-{}", std::process::id());
    fs::write(&path, data).expect("a file can be written");
    if let Ok(mut reader) = SnapshotReader::open(path.as_ref()) {
        while reader.read().is_ok_and(|piece| piece != Piece::End) {}
    }
    fs::remove_file(&path).expect("it is there");
});
