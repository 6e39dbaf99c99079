//! A log of Apache's, as the tools read it: a record that is put right, and then anything.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::inspect::{Survey, find_logs};

fuzz_target!(|data: &[u8]| {
    // In memory, where there is such a place.
    let path = format!("/dev/shm/ringkeeper-fuzz-log-{}", std::process::id());
    let mut log = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
    log.extend_from_slice(data);
    fs::write(&path, &log).expect("a file can be written");
    if let Ok(files) = find_logs(path.as_ref()) {
        let mut survey = Survey::new();
        for file in &files {
            survey.file(file, |_| {}).expect("the file can be read");
        }
        survey.finish();
    }
    fs::remove_file(&path).expect("it is there");
});
