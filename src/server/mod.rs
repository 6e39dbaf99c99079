//! From the command line to running shards: configuration, placement, assembly, and what operators ask.

pub mod admin;
pub mod cli;
pub mod config;
pub mod http;
pub mod json;
pub mod limits;
pub mod metrics;
pub mod monitor;
pub mod panics;
pub mod placement;
pub mod prometheus;
pub mod run;
