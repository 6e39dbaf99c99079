//! Records on the wire and in the log, one file a conversation.

pub mod client;
pub mod election;
pub mod error;
pub mod frame;
pub mod op;
pub mod quorum;
pub mod txn;

pub use error::ErrorCode;
