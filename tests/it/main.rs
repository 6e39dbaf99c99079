//! Real servers on loopback: what goes over the wire, what survives a crash, what the command line says.
//!
//! Each test starts servers of its own, in a directory of its own below the build directory, and speaks to them
//! byte by byte. With `RINGKEEPER_TEST_APACHE=HOST:PORT` the tests of `points` run against that server too, an Apache
//! ZooKeeper 3.9, so that the expectations themselves are tested.

mod durability;
mod ensemble;
mod flushes;
mod front;
mod http;
mod latency;
mod limits;
mod members;
mod observers;
mod points;
mod quorums;
mod reconfig;
mod scale;
mod scripts;
mod sessions;
mod seven;
mod shell;
mod stalls;
mod support;
mod surface;
mod tools;
mod words;
