//! A `zoo.cfg` with the files that it leads to: the dynamic file, and the one of a configuration that was proposed. They are
//! parted by bytes of 0. What is kept of an ensemble's configuration is found again.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use ringkeeper::server::config::Config;
use ringkeeper::server::config::dynamic::DynamicFiles;

/// Keys whose values are names of hosts, which would be looked up.
const HOSTS: [&[u8]; 3] = [b"Address", b"httpHost", b";"];

fuzz_target!(|data: &[u8]| {
    if HOSTS.iter().any(|host| data.windows(host.len()).any(|found| found == *host)) {
        return;
    }
    let mut parts = data.splitn(3, |byte| *byte == 0);
    // In memory, where there is such a place.
    let dir = format!("/dev/shm/ringkeeper-fuzz-config-{}", std::process::id());
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).and_then(|()| fs::write(format!("{dir}/myid"), "1")).expect("a file can be written");
    let path = format!("{dir}/zoo.cfg");
    let mut text = parts.next().unwrap_or_default().to_vec();
    // Behind an empty line, which ends what a backslash before it has begun.
    text.extend_from_slice(format!("\n\ndataDir={dir}\n").as_bytes());
    if let Some(members) = parts.next() {
        let dynamic = format!("{dir}/zoo.cfg.dynamic.100000001");
        fs::write(&dynamic, members).expect("a file can be written");
        text.extend_from_slice(format!("dynamicConfigFile={dynamic}\n").as_bytes());
    }
    if let Some(next) = parts.next() {
        fs::write(format!("{dir}/zoo.cfg.dynamic.next"), next).expect("a file can be written");
    }
    fs::write(&path, &text).expect("a file can be written");
    let Ok(loaded) = Config::parse(&text, path.as_ref()) else { return };
    let Some(ensemble) = loaded.config.ensemble else { return };
    DynamicFiles::new(path.as_ref(), ensemble.my_id).keep(&ensemble.view).expect("there is room");
    let text = fs::read(&path).expect("it is there");
    let again = Config::parse(&text, path.as_ref()).expect("what was written can be read").config;
    let view = again.ensemble.expect("it is one still").view;
    assert!(view.same_content(&ensemble.view), "{view:?}\n{:?}", ensemble.view);
    assert_eq!(view.current().version(), ensemble.view.current().version());
});
