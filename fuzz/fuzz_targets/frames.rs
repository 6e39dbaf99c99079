//! Frames off a socket, and the handshake and the headers in them.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ringkeeper::jute::Reader;
use ringkeeper::proto::client::{ConnectRequest, ConnectResponse, ReplyHeader, RequestHeader, Stat};
use ringkeeper::proto::frame::{self, Next};

fuzz_target!(|data: &[u8]| {
    let mut received = BytesMut::from(data);
    while let Next::Frame(payload) = frame::next(&mut received, frame::JUTE_MAXBUFFER_DEFAULT) {
        let _ = ConnectRequest::decode(&payload);
        let _ = ConnectResponse::decode(&payload);
        let _ = RequestHeader::decode(&mut Reader::new(&payload));
        let _ = ReplyHeader::decode(&mut Reader::new(&payload));
        let _ = Stat::decode(&mut Reader::new(&payload));
    }
});
