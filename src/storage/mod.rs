//! What is on disk: the log, the snapshots, and how a state comes back from them.

pub mod error;

// core
pub mod format;
pub mod group_commit;
pub mod log;

// edge
pub mod mmap;
pub mod segments;
