//! Server lines, groups and weights: read in full, and then the decision that this release runs standalone.
//!
//! ```text
//! server.<sid>=<addr>[|<addr>...][;[<client host>:]<client port>]
//! addr = <host>:<quorum port>:<election port>[:participant|:observer]
//! ```

use std::collections::BTreeMap;

use super::PeerType;
use super::error::{ConfigError, Place};
use super::settings::{Setting, Settings};

/// Apache's text for a server line that cannot be read, behind the line.
const WRONG_FORM: &str = " does not have the form server_config or server_config;client_config where server_config \
    is the pipe separated list of host:port:port or host:port:port:type and client_config is port or host:port";

const NO_QUORUM: &str = "an ensemble needs a release with quorum support; this one runs standalone";

/// Where clients connect, as a server line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientPart {
    /// `0.0.0.0` if the line names only a port.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The server line.
    pub setting_key: String,
    /// Where it stands.
    pub place: Place,
}

struct Server<'a> {
    id: i64,
    role: PeerType,
    client: Option<ClientPart>,
    setting: &'a Setting,
}

/// Checks membership and decides that the server is standalone; gives the client part of a lone server line.
///
/// Errors: a line that cannot be read, or an ensemble. Source: `QuorumPeerConfig.parseDynamicConfig`,
/// `QuorumPeer.QuorumServer`, `QuorumHierarchical`.
pub(super) fn standalone(settings: &mut Settings) -> Result<Option<ClientPart>, ConfigError> {
    let servers: Vec<Server<'_>> = settings.members("server.*").map(read_server).collect::<Result<_, _>>()?;
    let (participants, observers): (Vec<&Server<'_>>, Vec<&Server<'_>>) =
        servers.iter().partition(|server| server.role == PeerType::Participant);
    check_groups(settings, &participants)?;

    let standalone_enabled = settings.is_on("standaloneEnabled");
    let refuse_mode = |what: &str| match settings.get("standaloneEnabled") {
        Some(setting) => setting.invalid(what, "true"),
        None => unreachable!("its default is true"),
    };
    match (participants.as_slice(), observers.first()) {
        ([], _) if !standalone_enabled => {
            Err(refuse_mode("standaloneEnabled = false then number of participants should be >0"))
        }
        ([], Some(observer)) => {
            Err(observer.setting.invalid("Observers w/o participants is an invalid configuration", "no server line"))
        }
        ([], None) => Ok(None),
        ([_], None) if !standalone_enabled => Err(refuse_mode(NO_QUORUM)),
        ([_], Some(observer)) => {
            Err(observer.setting.invalid("Observers w/o quorum is an invalid configuration", "at most one server line"))
        }
        ([only], None) => {
            let client = only.client.clone();
            let place = only.setting.place.clone();
            settings.warn(place, "Invalid configuration, only one server specified (ignoring)");
            Ok(client)
        }
        ([_, second, ..], _) => {
            for name in ["initLimit", "syncLimit"] {
                if settings.get(name).is_none() {
                    return Err(ConfigError::Missing {
                        place: Place::File(settings.path.clone()),
                        what: format!("{name} is not set"),
                        allowed: "a number of ticks, in an ensemble".to_string(),
                    });
                }
            }
            Err(second.setting.invalid(NO_QUORUM, "at most one server line"))
        }
    }
}

fn read_server(setting: &Setting) -> Result<Server<'_>, ConfigError> {
    let invalid = |what: String| setting.invalid(what, "");
    let id = number(setting, setting.key.strip_prefix("server.").unwrap_or_default())?;
    let wrong_form = || invalid(format!("{}{WRONG_FORM}", setting.value));
    let (addresses, client) = match setting.value.split_once(';') {
        Some((_, client)) if client.contains(';') => return Err(wrong_form()),
        Some((addresses, client)) => (addresses, Some(client)),
        None => (setting.value.as_str(), None),
    };
    let client = match client {
        None | Some("") => None,
        Some(text) => {
            let parts = split_address(text).ok_or_else(wrong_form)?;
            let (host, port) = match parts.as_slice() {
                [port] => ("0.0.0.0", *port),
                [host, port] => (*host, *port),
                _ => return Err(wrong_form()),
            };
            Some(ClientPart {
                host: host.to_string(),
                port: self::port(setting, port)?,
                setting_key: setting.key.clone(),
                place: setting.place.clone(),
            })
        }
    };
    if addresses.contains('|') {
        return Err(invalid(format!(
            "Multiple address feature is disabled, but multiple addresses were specified for sid {id}"
        )));
    }
    let parts = split_address(addresses).ok_or_else(wrong_form)?;
    let (host, quorum, election, role) = match parts.as_slice() {
        [host, quorum, election] => (host, quorum, election, "participant"),
        [host, quorum, election, role] => (host, quorum, election, *role),
        _ => return Err(wrong_form()),
    };
    let peer_port = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(invalid(format!("Address unresolved: {host}:{text}"))),
        Ok(_) => port(setting, text),
    };
    if peer_port(quorum)? == peer_port(election)? {
        return Err(invalid(format!(
            "Client and election port must be different! Please update the configuration file on server.{id}"
        )));
    }
    let Some(role) = PeerType::from_word(role) else {
        let what = format!("Unrecognised peertype: {role}");
        return Err(setting.invalid(what, "participant, observer"));
    };
    Ok(Server { id, role, client, setting })
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

fn number(setting: &Setting, text: &str) -> Result<i64, ConfigError> {
    let bad = |_| setting.invalid(format!("For input string: {text:?}"), "a whole number");
    text.parse().map_err(bad)
}

fn port(setting: &Setting, text: &str) -> Result<u16, ConfigError> {
    let number = number(setting, text)?;
    let bad = |_| setting.invalid(format!("port out of range:{number}"), "0 to 65535");
    u16::try_from(number).map_err(bad)
}

/// Every participant must stand in one group, if there are groups or weights at all.
fn check_groups(settings: &Settings, participants: &[&Server<'_>]) -> Result<(), ConfigError> {
    let after_dot = |key: &'_ str| key.split_once('.').map_or(key.len(), |(head, _)| head.len() + 1);
    let mut group_of: BTreeMap<i64, &Setting> = BTreeMap::new();
    let mut weights = settings.members("weight*").peekable();
    let mut groups = settings.members("group*").peekable();
    if weights.peek().is_none() && groups.peek().is_none() {
        return Ok(());
    }
    for weight in weights {
        number(weight, &weight.key[after_dot(&weight.key)..])?;
        number(weight, &weight.value)?;
    }
    for group in groups {
        number(group, &group.key[after_dot(&group.key)..])?;
        for member in group.value.split(':') {
            let sid = number(group, member)?;
            if group_of.insert(sid, group).is_some() {
                // The missing blank is Apache's.
                let what = format!("Server {sid}is in multiple groups");
                return Err(group.invalid(what, ""));
            }
        }
    }
    match participants.iter().find(|server| !group_of.contains_key(&server.id)) {
        Some(server) => {
            let what = format!("Server {}is not in a group", server.id);
            Err(server.setting.invalid(what, ""))
        }
        None => Ok(()),
    }
}
