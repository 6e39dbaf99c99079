//! The bodies of requests, reads and writes. The first 4 bytes are the operation.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::op::{OpCode, ReadOp, WriteOp};

fuzz_target!(|data: &[u8]| {
    let Some((code, body)) = data.split_first_chunk::<4>() else { return };
    let Some(op) = OpCode::from_wire(i32::from_be_bytes(*code)) else { return };
    let frame = Bytes::copy_from_slice(body);
    if op.is_write() {
        let _ = WriteOp::decode(op, &frame, &frame);
    } else {
        let _ = ReadOp::decode(op, &frame);
    }
});
