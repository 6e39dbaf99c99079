//! Real servers, real files and a real kernel under real faults: killed and paused processes, networks that are cut, power
//! that is lost, disks that are damaged, full, slow.
//!
//! What takes long, or needs root, is ignored unless it is asked for:
//!
//! ```text
//! cargo test --test faults -- --ignored --test-threads 1            all, in their short form
//! RINGKEEPER_TEST_MINUTES=30 cargo test --test faults soak -- --ignored --nocapture
//! ```
//!
//! `docs/reliability.md` says what each shows, and how to run its long form. `RINGKEEPER_TEST_SEED` repeats a schedule of
//! faults; what the machine makes of it differs from run to run.

mod checker;
mod clock;
mod cluster;
mod damage;
mod disk;
mod files;
mod guests;
mod history;
mod learners;
mod network;
mod power;
mod processes;
mod sick;
mod soak;
mod storm;
mod workload;

// The tests of the server's protocol use more of it.
#[allow(dead_code)]
#[path = "../it/support.rs"]
mod support;
