//! A log of Apache's, as the server takes it over and as the tools read it.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::apache_log::History;
use ringkeeper::storage::inspect::{Survey, find_logs};
use ringkeeper::types::Zxid;

fuzz_target!(|data: &[u8]| {
    // In memory, where there is such a place.
    let dir = format!("/dev/shm/ringkeeper-fuzz-log-{}", std::process::id());
    let path = format!("{dir}/log.1");
    let mut log = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
    log.extend_from_slice(data);
    fs::create_dir_all(&dir).and_then(|()| fs::write(&path, &log)).expect("a file can be written");
    if let Ok(files) = find_logs(path.as_ref()) {
        let mut survey = Survey::new();
        for file in &files {
            survey.file(file, |_| {}).expect("the file can be read");
        }
        survey.finish();
    }
    for after in [Zxid::ZERO, Zxid(0x3b)] {
        let history = History::open(dir.as_ref(), after).expect("the directory can be listed");
        let mut last = after;
        for record in history.map_while(Result::ok) {
            assert!(record.logged.header.zxid > last, "what it yields is in order");
            last = record.logged.header.zxid;
        }
    }
    fs::remove_dir_all(&dir).expect("it is there");
});
