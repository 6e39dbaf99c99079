//! Elections over real sockets: the driver of `shard/peers.rs` among its like and among malformed peers.

mod hostile;
mod member;
mod raw;
mod servers;
