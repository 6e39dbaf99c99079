//! The learner port: packets off a socket, and what is in the data of each.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::quorum::{self, ForwardedRequest, LearnerInfo, Packet};
use ringkeeper::proto::txn::LoggedTxn;

const DATA_BYTES_MAX: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let mut received = BytesMut::from(data);
    while let Ok(Some(packet)) = Packet::parse(&mut received, DATA_BYTES_MAX) {
        let Packet { data: Some(data), .. } = &packet else { continue };
        let _ = LearnerInfo::decode(data);
        let _ = ForwardedRequest::decode(data);
        let _ = quorum::decode_touches(data);
        let _ = quorum::decode_revalidated(data);
        let _ = LoggedTxn::decode(data);
        let mut again = Vec::new();
        packet.encode(&mut again);
        let again = Packet::parse(&mut BytesMut::from(&again[..]), DATA_BYTES_MAX).expect("it was written");
        assert!(again.is_some(), "a packet that was written is whole");
    }
});
