//! The shards: glommio executors, each pinned to its core, that carry bytes and messages between the world and
//! the pure core.
//!
//! ```text
//! sockets <-> clients (Cnxns) --Ask--> broadcast (Pipeline, Log) --flush--> disk
//!                  ^------- commits, answers -----------'
//! ```
//!
//! Shards share nothing but messages over bounded channels ([`mesh`]); where two roles are folded onto one core the
//! messages are calls. After start-up nothing here blocks: files are flushed through the ring, and what must block,
//! making segments ready and writing snapshots, runs on helper threads.

pub mod broadcast;
pub mod client_port;
pub mod clients;
pub mod clock;
pub mod closing;
pub mod disk;
pub mod learner_port;
pub mod listener;
pub mod mesh;
pub mod peers;
pub mod segment_file;
pub mod stalls;
pub mod upkeep;

/// Runs what blocks on a helper thread of this shard.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}
