//! How many connections there may be, in all and from one address: what all client shards have in common.
//!
//! Source: `NIOServerCnxnFactory`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::config::Config;

/// How many connections there are, and may be.
pub struct Limits {
    per_address_max: Option<u32>,
    total_max: Option<u32>,
    open: Mutex<(u32, HashMap<IpAddr, u32>)>,
    rejected: AtomicU64,
}

/// A connection's place among the admitted; dropping it gives it back.
pub struct Ticket {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Limits {
    /// What the configuration allows.
    pub fn new(config: &Config) -> Limits {
        Limits {
            per_address_max: config.max_client_cnxns,
            total_max: config.max_cnxns,
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
