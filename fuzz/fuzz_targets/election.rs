//! What servers say on the election port: the hello of a connection, the frames behind it, and the ensemble's configuration
//! in a notification.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::election::{Hello, Notification};
use ringkeeper::zab::quorum::QuorumVerifier;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some((_, consumed))) = Hello::decode(data) {
        assert!(consumed <= data.len());
    }
    if let Ok(notification) = Notification::decode(data) {
        if let Some(config) = &notification.config {
            let _ = QuorumVerifier::parse(config);
        }
        let mut again = Vec::new();
        notification.encode(&mut again);
    }
    let _ = QuorumVerifier::parse(&String::from_utf8_lossy(data));
});
