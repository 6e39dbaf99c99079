//! A snapshot, as the server reads it from a file and from a leader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::snapshot_format::{Decoder, Form};
use ringkeeper::types::Zxid;

fuzz_target!(|data: &[u8]| {
    for form in [Form::File, Form::Stream] {
        let mut decoder = Decoder::new(form, Zxid(0x3b));
        if let Ok(consumed) = decoder.feed(data) {
            let _ = decoder.finish(&data[consumed..]);
        }
    }
});
