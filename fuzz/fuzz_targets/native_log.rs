//! A segment. Its checksums would keep all that is made up out, so they are put right first: the header of the segment, the
//! link, and one record behind it.
#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::format::{self, Kind, Link, Place, SegmentHeader};
use ringkeeper::types::Zxid;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = SegmentHeader::read(data) {
        let _ = format::walk(data, &header, |_| Ok::<(), Infallible>(()));
    }
    let header = SegmentHeader::new(1, 7);
    let mut segment = header.to_block().to_vec();
    let crc = format::encode_link(&mut segment, 7, Link::default());
    let (payload, rest) = data.split_at(data.len() / 2);
    let position = segment.len() as u64;
    let place = Place { salt: 7, position, previous_crc: crc, durable: position };
    format::encode_record(&mut segment, place, Kind::Txn, Zxid(1), payload);
    segment.extend_from_slice(rest);
    let mut records = 0;
    let walk = format::walk(&segment, &header, |record| {
        assert!(records > 0 || record.payload == payload);
        records += 1;
        Ok::<(), Infallible>(())
    });
    assert!(walk.is_ok() && records >= 1);
});
