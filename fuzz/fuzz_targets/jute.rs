//! The codec: any sequence of fields from any bytes. The first byte of each step says which field.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::jute::Reader;

fuzz_target!(|data: &[u8]| {
    let (steps, bytes) = data.split_at(data.len().min(8));
    let mut reader = Reader::new(bytes);
    for step in steps {
        let position = reader.position();
        let is_read = match step % 7 {
            0 => reader.byte().is_ok(),
            1 => reader.bool().is_ok(),
            2 => reader.int().is_ok(),
            3 => reader.long().is_ok(),
            4 => reader.buffer().is_ok(),
            5 => reader.string().is_ok(),
            _ => reader.vector(|reader| reader.buffer().map(drop)).is_ok(),
        };
        assert!(reader.position() >= position && reader.position() <= bytes.len());
        if !is_read {
            return;
        }
    }
});
