//! What requests ask for: writes become transactions, reads become replies.

pub mod containers;
pub mod local;
pub mod pipeline;
pub mod prepare;
pub mod quota_log;
pub mod read;
pub mod replica;
pub mod reply;
pub mod throttle;
