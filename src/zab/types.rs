//! The words that the parts of the protocol share.

pub use crate::proto::election::{ServerState, Vote};
pub use crate::types::{Epoch, Instant, ServerId, Zxid};
