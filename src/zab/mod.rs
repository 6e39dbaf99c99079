//! The ensemble's protocol as pure state machines: election, discovery, synchronization and broadcast.
//!
//! Each takes events with the time at which they happen, and answers with effects that a driver carries out in order.

pub mod effect;
pub mod election;
pub mod history;
pub mod leader;
pub mod learner;
pub mod links;
pub mod masters;
pub mod member;
pub mod observer_master;
pub mod peer;
pub mod quorum;
pub mod reconfig;
pub mod types;
