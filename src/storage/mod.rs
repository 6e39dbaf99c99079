//! What is on disk: the log, the snapshots, and how a state comes back from them.

pub mod error;

// core
pub mod format;
pub mod group_commit;
pub mod log;
pub mod snapshot_format;

// edge
pub mod ahead;
pub mod apache_log;
pub mod catch_up;
pub mod compression;
pub mod convert;
pub mod direct;
pub mod epoch;
pub mod files;
pub mod fork;
pub mod inspect;
pub mod mmap;
pub mod purge;
pub mod recovery;
pub mod replace;
pub mod replay;
pub mod segments;
pub mod snapshot;
pub mod snapshot_load;

#[cfg(test)]
pub(crate) mod testing;
