//! A `zoo.cfg`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::server::config::properties;

fuzz_target!(|data: &[u8]| {
    if let Ok(properties) = properties::parse(data) {
        let _ = properties.get("dataDir");
    }
});
