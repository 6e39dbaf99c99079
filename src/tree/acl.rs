//! Who may do what: the check, and the table that lets equal lists share memory.

use std::collections::BTreeSet;

use crate::proto::ErrorCode;
use crate::proto::client::{AclList, Id};

/// The distinct ACLs of a tree, but for the open one.
#[derive(Clone, Default)]
pub struct AclTable {
    lists: BTreeSet<AclList>,
    sweep_at: usize,
}

/// The table is not looked through for unused lists before it holds this many.
const SWEEP_MIN: usize = 1024;

impl AclTable {
    /// An equal list that shares the table's memory.
    pub fn intern(&mut self, list: &AclList) -> AclList {
        if list.is_open() {
            return AclList::OPEN;
        }
        if let Some(known) = self.lists.get(list) {
            return known.clone();
        }
        if self.lists.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.lists.retain(|list| list.holders() > 1);
            self.sweep_at = 2 * self.lists.len();
        }
        self.lists.insert(list.clone());
        list.clone()
    }

    /// All lists, sorted. A list that no znode uses any more may be among them.
    pub fn iter(&self) -> impl Iterator<Item = &AclList> {
        self.lists.iter()
    }
}

/// Whether somebody with the identities `ids` has one of the bits `perm` (`ZooKeeperServer.checkACL`).
pub fn check(list: &AclList, perm: i32, ids: &[Id]) -> Result<(), ErrorCode> {
    let Some(entries) = list.entries() else { return Ok(()) };
    let allowed = entries.is_empty()
        || ids.iter().any(|id| id.scheme == "super")
        || entries.iter().any(|entry| {
            entry.perms & perm != 0
                && ((entry.id.scheme == "world" && entry.id.id == "anyone")
                    || ids.iter().any(|id| id.scheme == entry.id.scheme && matches(&entry.id, id)))
        });
    if allowed { Ok(()) } else { Err(ErrorCode::NoAuth) }
}

/// Whether an identity of the entry's scheme is the one the entry names.
fn matches(entry: &Id, id: &Id) -> bool {
    match entry.scheme.as_str() {
        "ip" => ip_matches(&entry.id, &id.id),
        _ => entry.id == id.id,
    }
}

/// `address` or `address/bits`, version 4 or 6 (`IPAuthenticationProvider.matches`).
fn ip_matches(entry: &str, address: &str) -> bool {
    let Some((network, bits)) = parse_network(entry) else { return false };
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let (network, address, width) = match (network, address) {
        (std::net::IpAddr::V4(n), std::net::IpAddr::V4(a)) => (u128::from(n.to_bits()), u128::from(a.to_bits()), 32),
        (std::net::IpAddr::V6(n), std::net::IpAddr::V6(a)) => (n.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let ignored = width - bits.min(width);
    ignored == 128 || (network >> ignored) == (address >> ignored)
}

/// Splits an `ip` id into its address and how many leading bits count. `None` if it is not one.
pub fn parse_network(id: &str) -> Option<(std::net::IpAddr, u32)> {
    let (address, bits) = match id.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        None => (id, None),
    };
    let address: std::net::IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(width);
    (bits <= width).then_some((address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::{Acl, perms};

    fn list(entries: &[(i32, &str, &str)]) -> AclList {
        AclList::new(
            entries.iter().map(|(perms, scheme, id)| Acl { perms: *perms, id: Id::new(*scheme, *id) }).collect(),
        )
    }

    #[test]
    fn who_passes() {
        let me = [Id::new("ip", "10.1.2.3"), Id::new("digest", "me:hash")];
        let check = |entries: &[_], perm| check(&list(entries), perm, &me).is_ok();
        assert!(check(&[(31, "world", "anyone")], perms::ADMIN));
        assert!(check(&[(1, "world", "anyone")], perms::READ));
        assert!(!check(&[(1, "world", "anyone")], perms::WRITE));
        assert!(check(&[(2, "digest", "me:hash")], perms::WRITE));
        assert!(!check(&[(2, "digest", "you:hash")], perms::WRITE));
        assert!(!check(&[(2, "sasl", "me:hash")], perms::WRITE));
        assert!(check(&[(16, "world", "anyone")], perms::READ | perms::ADMIN));
        assert!(check(&[(31, "ip", "10.0.0.0/8")], perms::READ));
        assert!(!check(&[(31, "ip", "10.0.0.0/16")], perms::READ));
        assert!(check(&[(31, "ip", "0.0.0.0/0")], perms::READ));
        assert!(check(&[], perms::READ), "an empty list lets everybody pass");
        assert!(super::check(&list(&[(0, "digest", "x:y")]), 31, &[Id::new("super", "")]).is_ok());
    }

    #[test]
    fn networks() {
        assert!(parse_network("::1").is_some() && parse_network("fe80::/10").is_some());
        assert!(parse_network("127.0.0.1/33").is_none() && parse_network("localhost").is_none());
        assert!(ip_matches("::/0", "::1") && !ip_matches("::/0", "1.2.3.4"));
    }

    #[test]
    fn equal_lists_share_memory_and_unused_ones_go() {
        let mut table = AclTable::default();
        let a = table.intern(&list(&[(1, "ip", "1.1.1.1")]));
        let b = table.intern(&list(&[(1, "ip", "1.1.1.1")]));
        assert_eq!(a.entries().unwrap().as_ptr(), b.entries().unwrap().as_ptr());
        for i in 0..10 * SWEEP_MIN {
            table.intern(&list(&[(1, "digest", &format!("u{i}:h"))]));
        }
        assert!(table.iter().count() <= SWEEP_MIN + 1);
    }
}
