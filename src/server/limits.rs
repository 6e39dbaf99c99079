//! How many connections there may be, in all and from one address: what all client shards have in common.
//!
//! The process asks for all the open files that it may have, as a Java machine does, and clients get all but
//! [`OPEN_FILES_KEPT`] of them: without those the log would have no next segment, and peers no way in.
//!
//! Source: `NIOServerCnxnFactory`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::Config;

/// Open files that are not for clients: rings, segments, snapshots, peers, HTTP. Half of them if there are fewer than twice
/// as many.
pub const OPEN_FILES_KEPT: u64 = 128;

/// Pause after a connection could not be accepted, for want of file descriptors in the whole system most likely.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many files the process may have open (`ulimit -n`).
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Makes that as many as the process may ask for (`ulimit -Hn`). Returns what it is then.
pub fn raise_open_files_max() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("The limit on open files stays {current:?}, of {maximum:?} at most: {error}");
    }
    open_files_max()
}

/// How many connections there are, and may be.
pub struct Limits {
    per_address_max: Option<u32>,
    total_max: Option<u32>,
    /// What [`open_files_max`] said, and how many of them clients leave alone.
    open_files: (u64, u64),
    open: Mutex<(u32, HashMap<IpAddr, u32>)>,
    rejected: AtomicU64,
}

/// A connection's place among the admitted; dropping it gives it back.
pub struct Ticket {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Limits {
    /// What the configuration and the system allow.
    pub fn new(config: &Config) -> Limits {
        let open_files_max = open_files_max();
        Limits {
            per_address_max: config.max_client_cnxns,
            total_max: config.max_cnxns,
            open_files: (open_files_max, OPEN_FILES_KEPT.min(open_files_max / 2)),
            open: Mutex::default(),
            rejected: AtomicU64::default(),
        }
    }

    /// Connections that were not admitted.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// Admits a connection from that address, or says in Apache's words why not.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, String> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (total, by_address) = &mut *open;
        if let Some(max) = self.total_max.filter(|max| *total >= *max) {
            self.rejected.fetch_add(1, Relaxed);
            return Err(format!("Too many connections max allowed is {max}"));
        }
        let (open_files_max, kept) = self.open_files;
        if u64::from(*total) >= open_files_max - kept {
            self.rejected.fetch_add(1, Relaxed);
            return Err(format!(
                "Too many connections for {open_files_max} open files, {kept} of which are kept for other things. \
                 Raise it with: ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit"
            ));
        }
        let count = by_address.entry(address).or_insert(0);
        if let Some(max) = self.per_address_max.filter(|max| *count >= *max) {
            self.rejected.fetch_add(1, Relaxed);
            return Err(format!("Too many connections from /{address} - max is {max}"));
        }
        *count += 1;
        *total += 1;
        Ok(Ticket { limits: Arc::clone(self), address })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (total, by_address) = &mut *open;
        *total -= 1;
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}
