//! The connection string: `host:port,host:port/chroot`, and the order in which its servers are tried.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use super::path;

/// The port of a server that is named without one.
const PORT_DEFAULT: u16 = 2181;

/// A connection string, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// At least one, in the order of the string.
    pub servers: Vec<Server>,
    /// What all paths of the client lie below; `None` for the root.
    pub chroot: Option<String>,
}

/// One server of a connection string, its name not yet looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// A name or an address; of IPv6 without the brackets.
    pub host: String,
    /// Its client port.
    pub port: u16,
}

impl Address {
    /// Reads a connection string. The error is a text for the user.
    pub fn parse(text: &str) -> Result<Address, String> {
        let (list, chroot) = match text.find('/') {
            Some(at) => (&text[..at], Some(&text[at..])),
            None => (text, None),
        };
        let chroot = chroot.filter(|chroot| *chroot != "/");
        if let Some(chroot) = chroot {
            path::validate(chroot)?;
        }
        let servers = list.split(',').map(str::trim).filter(|server| !server.is_empty()).map(Server::parse);
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err("A HostProvider may not be empty!".to_owned());
        }
        Ok(Address { servers, chroot: chroot.map(str::to_owned) })
    }
}

impl Server {
    fn parse(text: &str) -> Result<Server, String> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or_default()),
            None => text.rsplit_once(':').unwrap_or((text, "")),
        };
        let port = match port {
            "" => PORT_DEFAULT,
            _ => port.parse().map_err(|_| format!("{port} is not a port from 0 to 65535"))?,
        };
        Ok(Server { host: host.to_owned(), port })
    }

    /// Looks the name up and takes one of its addresses.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        let nowhere = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        found.get(random_below(found.len())).copied().ok_or_else(nowhere)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The order in which the servers are tried: shuffled once, then round and round, so that the clients of an
/// ensemble spread over it.
pub struct Rotation {
    servers: Vec<Server>,
    next: usize,
}

impl Rotation {
    /// A rotation with a start by chance.
    pub fn new(mut servers: Vec<Server>) -> Rotation {
        for last in (1..servers.len()).rev() {
            servers.swap(last, random_below(last + 1));
        }
        Rotation { servers, next: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// The server to try now.
    pub fn next(&mut self) -> Server {
        let server = self.servers[self.next].clone();
        self.next = (self.next + 1) % self.servers.len();
        server
    }

    /// Makes `server` the one to try next.
    pub fn prefer(&mut self, server: &Server) {
        if let Some(at) = self.servers.iter().position(|known| known == server) {
            self.next = at;
        }
    }
}

/// A number below `bound` by chance, 0 if there is none.
pub fn random_below(bound: usize) -> usize {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's only source of chance: each `RandomState` has keys of its own.
    let chance = std::collections::hash_map::RandomState::new().build_hasher().finish();
    if bound == 0 { 0 } else { (chance % bound as u64) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str, port: u16) -> Server {
        Server { host: host.to_owned(), port }
    }

    #[test]
    fn a_string_is_taken_apart() {
        for (text, servers, chroot) in [
            ("localhost", vec![server("localhost", 2181)], None),
            ("a:1,b:2", vec![server("a", 1), server("b", 2)], None),
            ("a:1, b:2 ,", vec![server("a", 1), server("b", 2)], None),
            ("a:1/", vec![server("a", 1)], None),
            ("a:1,b/x/y", vec![server("a", 1), server("b", 2181)], Some("/x/y")),
            ("[::1]:5,[::2]", vec![server("::1", 5), server("::2", 2181)], None),
            ("a:", vec![server("a", 2181)], None),
        ] {
            let chroot = chroot.map(str::to_owned);
            assert_eq!(Address::parse(text), Ok(Address { servers, chroot }), "{text}");
        }
    }

    #[test]
    fn what_is_no_connection_string_is_refused() {
        for text in ["", "/x", "a:port", "a:70000", "a/x/", "a/x//y"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_server_gets_its_turn_and_the_first_is_by_chance() {
        let servers: Vec<Server> = (1..=3).map(|port| server("a", port)).collect();
        let mut firsts = std::collections::BTreeSet::new();
        // That one of three never comes first in 200 tries has a chance of 10^-35.
        for _ in 0..200 {
            let mut rotation = Rotation::new(servers.clone());
            let mut round: Vec<u16> = (0..3).map(|_| rotation.next().port).collect();
            assert_eq!(rotation.next().port, round[0]);
            firsts.insert(round[0]);
            round.sort();
            assert_eq!(round, [1, 2, 3]);
        }
        assert_eq!(firsts.len(), 3);
    }
}
