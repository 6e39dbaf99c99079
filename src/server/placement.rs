//! Which core does what: a pure function from the cores a process may use to a plan of shards.
//!
//! A shard is a thread on one core, and has one or more of three roles: *broadcast* owns the tree, the log and the
//! protocol; *election* answers election connections; *clients* owns client connections. The rules:
//!
//! * One core: one shard with all roles.
//! * Two cores: the same, on the last one; the servers of an ensemble take turns by their ids. A hand-over between two shards costs about what a flush costs when little
//!   else runs, so folding is faster for a lone write, and the other core is left to the kernel, to snapshots and to
//!   other processes. Asking for two client shards, or naming cores, uses both.
//! * Three and more: broadcast alone on the first, clients on the others, at most [`CLIENT_SHARDS_MAX`] of them.
//!   Election is folded onto the last client shard, since it is idle but for elections; from
//!   [`OWN_ELECTION_CORES_MIN`] cores on it has the last core to itself.
//!
//! ```text
//! placement: core 0: broadcast; core 1: clients; core 2: clients; core 3: clients+election
//! ```

use std::fmt;

/// Most client shards: beyond them the broadcast shard is the limit, not the clients.
pub const CLIENT_SHARDS_MAX: usize = 16;
/// With so many cores election has its own.
pub const OWN_ELECTION_CORES_MIN: usize = 8;
/// Greatest core number that a list may name; a mask of the kernel has no more.
const CORE_MAX: usize = 8191;

/// A core by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub usize);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the operator decided; `None` leaves it to the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `ringkeeper.cores`: use only these of the allowed ones. Ascending, not empty, each once.
    pub cores: Option<Vec<CoreId>>,
    /// `ringkeeper.clientShards`: how many shards own client connections.
    pub client_shards: Option<u32>,
    /// `ringkeeper.broadcastCore`
    pub broadcast: Option<CoreId>,
    /// `ringkeeper.electionCore`
    pub election: Option<CoreId>,
    /// `ringkeeper.clientCores`: ascending, not empty, each once.
    pub clients: Option<Vec<CoreId>>,
    /// The id of a server of an ensemble, so that several on one machine do not all take the same core; 0 for others.
    pub turn: usize,
}

/// Roles of one shard; at least one is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Tree, log and protocol.
    pub broadcast: bool,
    /// Client connections.
    pub clients: bool,
    /// Election connections.
    pub election: bool,
}

/// One shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// Its core, which no other shard has.
    pub core: CoreId,
    /// What it does.
    pub roles: Roles,
}

/// Every role has a core, and every shard a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Core of the shard that orders writes.
    pub broadcast: CoreId,
    /// Core of the shard that answers election connections.
    pub election: CoreId,
    /// Cores of the shards that own client connections: ascending, 1 to [`CLIENT_SHARDS_MAX`] of them.
    pub clients: Vec<CoreId>,
    /// The shards, by core.
    pub shards: Vec<ShardPlan>,
}

/// Settings that no plan satisfies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlacementError {
    /// The process may run on no core at all.
    NoCores,
    /// A key names a core that the process may not use.
    NotAllowed {
        /// The key.
        key: &'static str,
        /// The core.
        core: CoreId,
        /// What it may use, as a list.
        allowed: String,
    },
    /// More client shards than cores, or than [`CLIENT_SHARDS_MAX`].
    TooManyClients {
        /// The key.
        key: &'static str,
        /// How many it asks for.
        wanted: usize,
        /// How many there can be.
        most: usize,
    },
    /// `ringkeeper.clientShards` and the length of `ringkeeper.clientCores` differ.
    Contradiction {
        /// The count.
        shards: u32,
        /// The list.
        cores: String,
    },
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlacementError::NoCores => f.write_str("the process may not run on any core"),
            PlacementError::NotAllowed { key, core, allowed } => {
                write!(f, "{key}: core {core} is not among those the process may use; allowed: {allowed}")
            }
            PlacementError::TooManyClients { key, wanted, most } => {
                write!(f, "{key}: {wanted} client shards are too many; allowed: 1 to {most}")
            }
            PlacementError::Contradiction { shards, cores } => write!(
                f,
                "ringkeeper.clientShards = {shards} contradicts ringkeeper.clientCores = {cores}; \
                 allowed: one of the two, or as many cores as shards"
            ),
        }
    }
}

impl std::error::Error for PlacementError {}

/// Decides who runs where. `allowed` are the cores the process may use, ascending, each once.
///
/// Errors: every variant of [`PlacementError`].
pub fn plan(allowed: &[CoreId], overrides: &Overrides) -> Result<Plan, PlacementError> {
    let within = |key, cores: &[CoreId], allowed: &[CoreId]| match cores.iter().find(|core| !allowed.contains(core)) {
        None => Ok(()),
        Some(core) => Err(PlacementError::NotAllowed { key, core: *core, allowed: format_cores(allowed) }),
    };
    let cores = match &overrides.cores {
        None => allowed,
        Some(cores) => {
            within("ringkeeper.cores", cores, allowed)?;
            cores
        }
    };
    if cores.is_empty() {
        return Err(PlacementError::NoCores);
    }
    within("ringkeeper.broadcastCore", overrides.broadcast.as_slice(), cores)?;
    within("ringkeeper.electionCore", overrides.election.as_slice(), cores)?;
    let named_clients = overrides.clients.as_deref().unwrap_or_default();
    within("ringkeeper.clientCores", named_clients, cores)?;

    let broadcast = overrides.broadcast.unwrap_or_else(|| default_broadcast(cores, overrides));
    let own_election = overrides.election.or_else(|| {
        // The last core that nobody was given.
        let free = |core: &&CoreId| **core != broadcast && !named_clients.contains(core);
        let own = cores.len() >= OWN_ELECTION_CORES_MIN;
        cores.iter().rev().find(free).copied().filter(|_| own)
    });
    let clients = clients(cores, overrides, broadcast, own_election)?;
    let last_client = *clients.last().expect("there is at least one client shard");
    let election = own_election.unwrap_or(last_client);
    Ok(Plan::new(broadcast, election, clients))
}

/// The first core, or with only two the last, unless it is named for something else and another is not.
fn default_broadcast(cores: &[CoreId], overrides: &Overrides) -> CoreId {
    let taken = |core: &CoreId| {
        let clients = overrides.clients.as_deref().unwrap_or_default();
        overrides.election == Some(*core) || clients.contains(core)
    };
    let folded = cores.len() <= 2;
    let mut by_preference: Vec<CoreId> = cores.to_vec();
    if folded {
        by_preference.reverse();
        by_preference.rotate_left(overrides.turn % cores.len());
    }
    let free = by_preference.iter().find(|core| !taken(core));
    *free.unwrap_or(&by_preference[0])
}

/// Cores of client shards, ascending.
fn clients(
    cores: &[CoreId],
    overrides: &Overrides,
    broadcast: CoreId,
    own_election: Option<CoreId>,
) -> Result<Vec<CoreId>, PlacementError> {
    let too_many = |key, wanted, most| Err(PlacementError::TooManyClients { key, wanted, most });
    if let Some(named) = &overrides.clients {
        return match overrides.client_shards {
            Some(shards) if shards as usize != named.len() => {
                Err(PlacementError::Contradiction { shards, cores: format_cores(named) })
            }
            _ if named.len() > CLIENT_SHARDS_MAX => too_many("ringkeeper.clientCores", named.len(), CLIENT_SHARDS_MAX),
            _ => Ok(named.clone()),
        };
    }
    // First cores with nothing else to do, then election's, and broadcast's last.
    let mut by_preference: Vec<CoreId> = cores.to_vec();
    by_preference.sort_by_key(|core| (*core == broadcast, own_election == Some(*core), *core));
    let most = cores.len().min(CLIENT_SHARDS_MAX);
    let count = match overrides.client_shards {
        Some(wanted) if wanted == 0 || wanted as usize > most => {
            return too_many("ringkeeper.clientShards", wanted as usize, most);
        }
        Some(wanted) => wanted as usize,
        None if cores.len() <= 2 => 1,
        None => {
            let idle = |core: &&CoreId| **core != broadcast && own_election != Some(**core);
            cores.iter().filter(idle).count().clamp(1, CLIENT_SHARDS_MAX)
        }
    };
    if cores.len() <= 2 && count == 1 {
        return Ok(vec![broadcast]);
    }
    let mut clients = by_preference[..count].to_vec();
    clients.sort();
    Ok(clients)
}

impl Plan {
    fn new(broadcast: CoreId, election: CoreId, clients: Vec<CoreId>) -> Plan {
        let mut cores = clients.clone();
        cores.extend([broadcast, election]);
        cores.sort();
        cores.dedup();
        let shards = cores
            .into_iter()
            .map(|core| ShardPlan {
                core,
                roles: Roles {
                    broadcast: core == broadcast,
                    clients: clients.contains(&core),
                    election: core == election,
                },
            })
            .collect();
        Plan { broadcast, election, clients, shards }
    }
}

/// `broadcast+clients+election`
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.broadcast, "broadcast"), (self.clients, "clients"), (self.election, "election")];
        let set: Vec<&str> = names.iter().filter_map(|(is_set, name)| is_set.then_some(*name)).collect();
        f.write_str(&set.join("+"))
    }
}

/// One line: `placement: core 1: broadcast; core 2: clients; core 3: clients+election`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: Vec<String> =
            self.shards.iter().map(|shard| format!("core {}: {}", shard.core, shard.roles)).collect();
        write!(f, "placement: {}", shards.join("; "))
    }
}

/// Reads `0-1,3`: ascending, each once. The error says what is wrong, for people.
pub fn parse_cores(text: &str) -> Result<Vec<CoreId>, String> {
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim) {
        let bad = || format!("{part:?} is no core or range of cores");
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last || last > CORE_MAX {
            return Err(bad());
        }
        cores.extend((first..=last).map(CoreId));
    }
    let named = cores.len();
    cores.sort();
    cores.dedup();
    match cores.len() == named {
        true => Ok(cores),
        false => Err(format!("{text:?} names a core twice")),
    }
}

/// The shortest list of ascending cores, such as `0-1,3`.
pub fn format_cores(cores: &[CoreId]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for CoreId(core) in cores.iter().copied() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => runs.push((core, core)),
        }
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match first == last {
            true => format!("{first}"),
            false => format!("{first}-{last}"),
        })
        .collect();
    runs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `settings` are words such as `clientShards=2`.
    #[track_caller]
    fn check(allowed: &str, settings: &str, expected: &str) {
        let mut overrides = Overrides::default();
        for setting in settings.split_ascii_whitespace() {
            let (key, value) = setting.split_once('=').unwrap();
            let cores = parse_cores(value).unwrap();
            match key {
                "cores" => overrides.cores = Some(cores),
                "clientCores" => overrides.clients = Some(cores),
                "turn" => overrides.turn = cores[0].0,
                "clientShards" => overrides.client_shards = Some(cores[0].0 as u32),
                "broadcastCore" => overrides.broadcast = Some(cores[0]),
                "electionCore" => overrides.election = Some(cores[0]),
                other => panic!("{other}"),
            }
        }
        let allowed = parse_cores(allowed).unwrap_or_default();
        let found = match plan(&allowed, &overrides) {
            Ok(plan) => plan.to_string().replace("placement: ", ""),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{settings}");
    }

    #[test]
    fn by_the_number_of_cores() {
        check("0", "", "core 0: broadcast+clients+election");
        check("0-1", "", "core 1: broadcast+clients+election");
        check("4,6", "", "core 6: broadcast+clients+election");
        check("4,6", "turn=1", "core 4: broadcast+clients+election");
        check("4,6", "turn=2", "core 6: broadcast+clients+election");
        check("1-3", "", "core 1: broadcast; core 2: clients; core 3: clients+election");
        check("0-3", "", "core 0: broadcast; core 1: clients; core 2: clients; core 3: clients+election");
        check(
            "0-7",
            "",
            "core 0: broadcast; core 1: clients; core 2: clients; core 3: clients; core 4: clients; \
             core 5: clients; core 6: clients; core 7: election",
        );
        let many: Vec<CoreId> = (0..64).map(CoreId).collect();
        let plan = plan(&many, &Overrides::default()).unwrap();
        assert_eq!(plan.clients, (1..=16).map(CoreId).collect::<Vec<_>>());
        assert_eq!((plan.broadcast, plan.election), (CoreId(0), CoreId(63)));
        assert_eq!(plan.shards.len(), 18);
        check("", "", "the process may not run on any core");
    }

    #[test]
    fn overrides_move_roles() {
        check("0-7", "cores=2", "core 2: broadcast+clients+election");
        check("0-7", "cores=2,5", "core 5: broadcast+clients+election");
        check("0-1", "broadcastCore=0", "core 0: broadcast+clients+election");
        check("0-1", "clientShards=1", "core 1: broadcast+clients+election");
        check("0-1", "clientShards=2", "core 0: clients; core 1: broadcast+clients+election");
        check("0-1", "clientCores=0", "core 0: clients+election; core 1: broadcast");
        check("0-1", "clientCores=1", "core 0: broadcast; core 1: clients+election");
        check("0-1", "electionCore=0", "core 0: election; core 1: broadcast+clients");
        check("0-1", "clientCores=0-1 broadcastCore=0", "core 0: broadcast+clients; core 1: clients+election");
        check("0-3", "clientShards=1", "core 0: broadcast; core 1: clients+election");
        check("0-3", "broadcastCore=3 clientShards=1", "core 0: clients+election; core 3: broadcast");
        check("0-3", "clientCores=0,2", "core 0: clients; core 1: broadcast; core 2: clients+election");
        check("0-2", "clientShards=3", "core 0: broadcast+clients; core 1: clients; core 2: clients+election");
        check("0-2", "electionCore=2", "core 0: broadcast; core 1: clients; core 2: election");
        check(
            "0-7",
            "clientShards=2 electionCore=1",
            "core 0: broadcast; core 1: election; core 2: clients; core 3: clients",
        );
        check(
            "0-7",
            "clientCores=1-7",
            "core 0: broadcast; core 1: clients; core 2: clients; core 3: clients; \
             core 4: clients; core 5: clients; core 6: clients; core 7: clients+election",
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        check("0-1", "cores=1-2", "ringkeeper.cores: core 2 is not among those the process may use; allowed: 0-1");
        check(
            "0-7",
            "cores=0-1,3 broadcastCore=2",
            "ringkeeper.broadcastCore: core 2 is not among those the process may use; allowed: 0-1,3",
        );
        check(
            "0-1",
            "electionCore=9",
            "ringkeeper.electionCore: core 9 is not among those the process may use; allowed: 0-1",
        );
        check(
            "0-1",
            "clientCores=1,4",
            "ringkeeper.clientCores: core 4 is not among those the process may use; allowed: 0-1",
        );
        check("0-1", "clientShards=3", "ringkeeper.clientShards: 3 client shards are too many; allowed: 1 to 2");
        check("0-31", "clientCores=0-16", "ringkeeper.clientCores: 17 client shards are too many; allowed: 1 to 16");
        check(
            "0-3",
            "clientShards=2 clientCores=1-3",
            "ringkeeper.clientShards = 2 contradicts ringkeeper.clientCores = 1-3; allowed: one of the two, \
             or as many cores as shards",
        );
    }

    #[test]
    fn lists_of_cores() {
        let check = |text: &str, expected: &str| {
            let found = match parse_cores(text) {
                Ok(cores) => format_cores(&cores),
                Err(what) => what,
            };
            assert_eq!(found, expected, "{text}");
        };
        check("0-1,3", "0-1,3");
        check(" 3, 0 - 1 ", "0-1,3");
        check("5-5", "5");
        check("", "\"\" is no core or range of cores");
        check("3-1", "\"3-1\" is no core or range of cores");
        check("0,a", "\"a\" is no core or range of cores");
        check("0-99999999999", "\"0-99999999999\" is no core or range of cores");
        check("0-2,1", "\"0-2,1\" names a core twice");
    }
}
