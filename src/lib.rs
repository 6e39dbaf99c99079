//! ringkeeper: a ZooKeeper-compatible coordination server for write-heavy workloads.
//!
//! The modules in the order of the map: each may use what stands above it, never what stands below.

pub mod planted;
pub mod types;

pub mod jute;
pub mod proto;
pub mod tree;

pub mod session;

pub mod request;

pub mod cnxn;

pub mod zab;

pub mod server;
pub mod shard;
pub mod storage;
