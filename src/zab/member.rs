//! A server of the ensemble as its `server.N` line tells of it.
//!
//! ```text
//! server.<id>=<address>[|<address>...][;[<client host>:]<client port>]
//! address = <host>:<quorum port>:<election port>[:participant|:observer]
//! ```
//!
//! The same text stands in zoo.cfg, in the dynamic file, in the node `/zookeeper/config`, and in notifications and
//! proposals between servers. Source: `QuorumPeer.QuorumServer`.

use std::fmt;
use std::net::IpAddr;

use crate::types::ServerId;

/// Apache's text for a server line that cannot be read, behind the line.
const WRONG_FORM: &str = " does not have the form server_config or server_config;client_config where server_config \
    is the pipe separated list of host:port:port or host:port:port:type and client_config is port or host:port";

/// What is wrong with a line of a configuration of the ensemble, in Apache's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumError {
    /// The key of the line: `server.1`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What would be accepted; empty if `what` says it.
    pub allowed: &'static str,
}

impl QuorumError {
    pub(super) fn new(key: &str, what: impl Into<String>, allowed: &'static str) -> QuorumError {
        QuorumError { key: key.to_owned(), what: what.into(), allowed }
    }
}

impl fmt::Display for QuorumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)?;
        match self.allowed {
            "" => Ok(()),
            allowed => write!(f, "; allowed: {allowed}"),
        }
    }
}

impl std::error::Error for QuorumError {}

/// Whether a server has a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerType {
    /// It votes.
    Participant,
    /// It follows without a vote.
    Observer,
}

impl PeerType {
    /// Reads the word of a configuration, in any case.
    pub fn from_word(word: &str) -> Option<PeerType> {
        match word.trim().to_ascii_lowercase().as_str() {
            "participant" => Some(PeerType::Participant),
            "observer" => Some(PeerType::Observer),
            _ => None,
        }
    }

    /// The word of a configuration.
    pub fn word(self) -> &'static str {
        match self {
            PeerType::Participant => "participant",
            PeerType::Observer => "observer",
        }
    }
}

/// A host name or an address, as Java prints it: IPv6 in eight groups without zeros left out, IPv4 in its four parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// Takes a name or a bare address, without brackets.
    pub fn new(text: &str) -> Host {
        Host(match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V4(ip)) => ip.to_string(),
            Ok(IpAddr::V6(ip)) => ip.segments().map(|group| format!("{group:x}")).join(":"),
            Err(_) => text.to_owned(),
        })
    }

    /// What a resolver takes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the address of every interface, which nobody can be reached at.
    pub fn is_wildcard(&self) -> bool {
        self.0.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

/// In brackets if there are colons in it.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(&self.0) }
    }
}

/// Whether it can be a host. With anything but printed ASCII the files that keep an ensemble's configuration would say
/// something else when they are read again: they are Latin-1 with Java's escapes.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

/// A host with a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, with an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<HostPort> {
        match split_address(text)?.as_slice() {
            [host, port] if is_host(host) => Some(HostPort { host: Host::new(host), port: port.parse().ok()? }),
            _ => None,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where the other servers reach a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    /// The host.
    pub host: Host,
    /// Where learners connect while the server leads.
    pub quorum_port: u16,
    /// Where votes are exchanged.
    pub election_port: u16,
}

impl PeerAddress {
    /// Where learners connect.
    pub fn quorum(&self) -> HostPort {
        HostPort { host: self.host.clone(), port: self.quorum_port }
    }

    /// Where votes are exchanged.
    pub fn election(&self) -> HostPort {
        HostPort { host: self.host.clone(), port: self.election_port }
    }
}

/// One server of the ensemble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: ServerId,
    /// At least one, each once, sorted by host. More than one is `multiAddress.enabled`.
    pub addresses: Vec<PeerAddress>,
    /// Whether it votes.
    pub peer_type: PeerType,
    /// Where clients connect, if the line says so. The host is `0.0.0.0` if the line has only a port.
    pub client: Option<HostPort>,
}

impl Member {
    /// Reads the line `key=value`, as in `server.1=host:2888:3888;2181`.
    pub fn parse(key: &str, value: &str) -> Result<Member, QuorumError> {
        let error = |what: String| QuorumError::new(key, what, "");
        let id = ServerId(number(key, key.strip_prefix("server.").unwrap_or_default())?);
        if id.0 < 0 {
            return Err(QuorumError::new(key, format!("{id} is no id of a server"), "a whole number from 0"));
        }
        let wrong_form = || error(format!("{value}{WRONG_FORM}"));
        let (addresses, client) = match value.split_once(';') {
            Some((_, client)) if client.contains(';') => return Err(wrong_form()),
            Some((addresses, client)) => (addresses, Some(client)),
            None => (value, None),
        };
        let client = match client {
            None | Some("") => None,
            Some(text) => Some(match split_address(text).ok_or_else(wrong_form)?.as_slice() {
                [at] => HostPort { host: Host::new("0.0.0.0"), port: port(key, at)? },
                [host, at] if is_host(host) => HostPort { host: Host::new(host), port: port(key, at)? },
                _ => return Err(wrong_form()),
            }),
        };
        let mut member = Member { id, addresses: Vec::new(), peer_type: PeerType::Participant, client };
        let mut role = None;
        for text in addresses.split('|') {
            let parts = split_address(text).ok_or_else(wrong_form)?;
            let (host, quorum, election, word) = match parts.as_slice() {
                [host, quorum, election] => (host, quorum, election, None),
                [host, quorum, election, word] => (host, quorum, election, Some(*word)),
                _ => return Err(wrong_form()),
            };
            if !is_host(host) {
                return Err(wrong_form());
            }
            let peer_port = |text: &str| match text.parse::<i64>() {
                Err(_) => Err(error(format!("Address unresolved: {host}:{text}"))),
                Ok(_) => port(key, text),
            };
            let (quorum_port, election_port) = (peer_port(quorum)?, peer_port(election)?);
            if quorum_port == election_port {
                return Err(error(format!(
                    "Client and election port must be different! Please update the configuration file on server.{id}"
                )));
            }
            if let Some(word) = word {
                let unknown =
                    || QuorumError::new(key, format!("Unrecognised peertype: {word}"), "participant, observer");
                let this = PeerType::from_word(word).ok_or_else(unknown)?;
                if role.replace(this).is_some_and(|other| other != this) {
                    let what = "Multiple addresses should have similar roles: participant vs observer";
                    return Err(QuorumError::new(key, what, ""));
                }
            }
            member.addresses.push(PeerAddress { host: Host::new(host), quorum_port, election_port });
        }
        member.peer_type = role.unwrap_or(PeerType::Participant);
        member.addresses.sort();
        member.addresses.dedup();
        Ok(member)
    }

    /// Whether it votes.
    pub fn votes(&self) -> bool {
        self.peer_type == PeerType::Participant
    }
}

/// The value of its line, as Apache prints it.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, PeerAddress { host, quorum_port, election_port }) in self.addresses.iter().enumerate() {
            let separator = if at == 0 { "" } else { "|" };
            write!(f, "{separator}{host}:{quorum_port}:{election_port}")?;
        }
        write!(f, ":{}", self.peer_type.word())?;
        match &self.client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

/// Splits at colons; a host in brackets keeps its own.
fn split_address(text: &str) -> Option<Vec<&str>> {
    let Some(rest) = text.strip_prefix('[') else {
        return Some(text.split(':').collect());
    };
    let (host, rest) = rest.split_once(']')?;
    let mut parts = vec![host];
    parts.extend(rest.strip_prefix(':')?.split(':'));
    Some(parts)
}

/// A number as Java reads it, with Java's words for what is none.
pub(super) fn number(key: &str, text: &str) -> Result<i64, QuorumError> {
    text.parse().map_err(|_| QuorumError::new(key, format!("For input string: {text:?}"), "a whole number"))
}

fn port(key: &str, text: &str) -> Result<u16, QuorumError> {
    let number = number(key, text)?;
    u16::try_from(number).map_err(|_| QuorumError::new(key, format!("port out of range:{number}"), "0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line of server 1 prints as, or its error.
    #[track_caller]
    fn check(value: &str, expected: &str) {
        let found = match Member::parse("server.1", value) {
            Ok(member) => {
                let text = member.to_string();
                assert_eq!(Member::parse("server.1", &text).as_ref(), Ok(&member), "what is printed reads the same");
                text
            }
            Err(error) => error.to_string().replace(WRONG_FORM, " WRONG FORM"),
        };
        assert_eq!(found, expected, "{value}");
    }

    #[test]
    fn lines_print_as_apache_prints_them() {
        check("127.0.0.1:2888:3888", "127.0.0.1:2888:3888:participant");
        check("zk1.example.com:2888:3888:OBSERVER", "zk1.example.com:2888:3888:observer");
        check("h:1:2;2181", "h:1:2:participant;0.0.0.0:2181");
        check("h:1:2: participant;c:2181", "h:1:2:participant;c:2181");
        check("h:1:2;", "h:1:2:participant");
        check("[::1]:1:2;[fe80::a]:3", "[0:0:0:0:0:0:0:1]:1:2:participant;[fe80:0:0:0:0:0:0:a]:3");
        check("[::ffff:10.0.0.1]:1:2", "10.0.0.1:1:2:participant");
        check("b:1:2|a:1:2:observer|b:1:2", "a:1:2|b:1:2:observer");
    }

    #[test]
    fn lines_of_another_form() {
        check("h:1", "server.1: h:1 WRONG FORM");
        check(":1:2", "server.1: :1:2 WRONG FORM");
        check("[::1:1:2", "server.1: [::1:1:2 WRONG FORM");
        check("h:1:2;a:b:3", "server.1: h:1:2;a:b:3 WRONG FORM");
        check("h:1:2;;2281", "server.1: h:1:2;;2281 WRONG FORM");
        check("h:1:2|", "server.1: h:1:2| WRONG FORM");
        check("h:x:2", "server.1: Address unresolved: h:x");
        check("h:1:65536", "server.1: port out of range:65536; allowed: 0 to 65535");
        check("h:1:2;x", "server.1: For input string: \"x\"; allowed: a whole number");
        check("h:1:2:foo", "server.1: Unrecognised peertype: foo; allowed: participant, observer");
        check(
            "h:1:2:observer|i:1:2:participant",
            "server.1: Multiple addresses should have similar roles: participant vs observer",
        );
        check(
            "h:2888:2888",
            "server.1: Client and election port must be different! Please update the configuration file on server.1",
        );
        let id = |key: &str| Member::parse(key, "h:1:2").unwrap_err().to_string();
        assert_eq!(id("server.a"), "server.a: For input string: \"a\"; allowed: a whole number");
        assert_eq!(id("server.-1"), "server.-1: -1 is no id of a server; allowed: a whole number from 0");
    }

    #[test]
    fn every_interface_is_no_address_to_reach_somebody_at() {
        for (host, wildcard) in [("0.0.0.0", true), ("::", true), ("127.0.0.1", false), ("zk1", false)] {
            assert_eq!(Host::new(host).is_wildcard(), wildcard, "{host}");
        }
        let parsed = |text: &str| HostPort::parse(text).map(|address| address.to_string());
        assert_eq!(parsed("[::1]:3888").as_deref(), Some("[0:0:0:0:0:0:0:1]:3888"));
        assert_eq!(parsed("h:3888").as_deref(), Some("h:3888"));
        assert_eq!((parsed("h"), parsed(":1"), parsed("h:99999"), parsed("h:1:2")), (None, None, None, None));
    }

    /// Found by fuzzing: what was kept of such a configuration was another one when it was read again.
    #[test]
    fn hosts_that_no_file_can_keep_are_refused() {
        for host in ["\u{e9}", "h\n", "h h", "h\\", "\u{3}"] {
            assert_eq!(HostPort::parse(&format!("{host}:1")), None, "{host:?}");
            for line in [format!("{host}:1:2"), format!("h:1:2;{host}:3")] {
                assert!(Member::parse("server.1", &line).is_err(), "{line:?}");
            }
        }
    }
}
