//! The files of the epochs and what stands beside them, parted by bytes of 0: refused, or what is loaded is in order, and found
//! again once it is saved.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use ringkeeper::storage::epoch;
use ringkeeper::types::Zxid;

const NAMES: [&str; 3] = ["acceptedEpoch", "currentEpoch", "sessionIds"];
const LAST: Zxid = Zxid(3 << 32 | 7);

fuzz_target!(|data: &[u8]| {
    // In memory, where there is such a place.
    let dir = format!("/dev/shm/ringkeeper-fuzz-epochs-{}", std::process::id());
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory can be made");
    for (name, text) in NAMES.iter().zip(data.split(|byte| *byte == 0)) {
        fs::write(format!("{dir}/{name}"), text).expect("a file can be written");
    }
    let Ok(epochs) = epoch::load(dir.as_ref(), LAST) else { return };
    assert!(epochs.current <= epochs.accepted && epochs.current.0 >= LAST.epoch(), "{epochs:?}");
    epoch::save(dir.as_ref(), epochs).expect("there is room");
    assert_eq!(epoch::load(dir.as_ref(), LAST).expect("it was saved"), epochs);
});
