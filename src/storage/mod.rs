//! What is on disk: the log, the snapshots, and how a state comes back from them.

// core
pub mod format;
pub mod group_commit;
