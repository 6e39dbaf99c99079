//! Who belongs to the ensemble, and which sets of its servers are a quorum.
//!
//! Two quorums of one configuration always have a server in common; that is what all safety rests on. While the
//! configuration changes there are two of them, and a decision needs a quorum of each: [`QuorumView`] keeps both.
//!
//! ```
//! use std::collections::BTreeSet;
//! use ringkeeper::types::ServerId;
//! use ringkeeper::zab::quorum::QuorumVerifier;
//!
//! let three = "server.1=a:2888:3888\nserver.2=b:2888:3888\nserver.3=c:2888:3888\nversion=0";
//! let verifier = QuorumVerifier::parse(three).unwrap();
//! assert!(!verifier.contains_quorum(&BTreeSet::from([ServerId(1)])));
//! assert!(verifier.contains_quorum(&BTreeSet::from([ServerId(1), ServerId(3)])));
//! ```
//!
//! Source: `QuorumMaj`, `QuorumHierarchical`, `SyncedLearnerTracker`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::member::number;
pub use super::member::{Host, HostPort, Member, PeerAddress, PeerType, QuorumError};
use crate::types::ServerId;

/// Greatest weight of a server: sums of them stay far from overflowing.
const WEIGHT_MAX: i64 = i32::MAX as i64;

/// One configuration of the ensemble: its members, its version, and the rule of its quorums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumVerifier {
    members: BTreeMap<ServerId, Member>,
    system: QuorumSystem,
    version: i64,
}

/// The rule of quorums.
#[derive(Clone, Debug, PartialEq, Eq)]
enum QuorumSystem {
    /// More than half of the participants.
    Majority,
    /// More than half of the groups that weigh anything, each by more than half of its weight.
    Hierarchical(Hierarchy),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hierarchy {
    group_of: BTreeMap<ServerId, i64>,
    /// Of every participant, 1 if nothing is said; and of others that the configuration names, which count in their
    /// group's weight although they never vote, as with Apache.
    weights: BTreeMap<ServerId, i64>,
    group_weights: BTreeMap<i64, i64>,
}

impl QuorumVerifier {
    /// Reads a configuration as servers send it to each other: lines `key=value`.
    ///
    /// Errors: a line of another form or with another key, and everything that [`QuorumVerifier::from_pairs`] refuses.
    pub fn parse(text: &str) -> Result<QuorumVerifier, QuorumError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs = lines.map(|line| {
            let pair = line.split_once('=').ok_or_else(|| QuorumError::new(line, "a line without =", "key=value"))?;
            Ok((pair.0.trim(), pair.1.trim()))
        });
        QuorumVerifier::from_pairs(pairs.collect::<Result<Vec<_>, _>>()?)
    }

    /// Makes a configuration of its lines, given as key and value: `server.N`, `group.N`, `weight.N` and `version`.
    ///
    /// Errors: another key, a value of another form, a server twice, a server in no or in two groups, groups without
    /// any weight. No participants at all is no error here: standalone servers have such a configuration.
    ///
    /// Source: `QuorumPeerConfig.parseDynamicConfig`.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<QuorumVerifier, QuorumError> {
        let mut members = BTreeMap::new();
        let (mut groups, mut weights) = (Vec::new(), Vec::new());
        let mut version = 0;
        for (key, value) in pairs {
            if key.starts_with("server.") {
                let member = Member::parse(key, value)?;
                if members.insert(member.id, member).is_some() {
                    return Err(QuorumError::new(key, "the id is given twice", "an id of its own for each server"));
                }
            } else if key.starts_with("group") {
                groups.push((key, value));
            } else if key.starts_with("weight") {
                weights.push((key, value));
            } else if key == "version" {
                version = i64::from_str_radix(value, 16)
                    .map_err(|_| QuorumError::new(key, format!("For input string: {value:?}"), "a number in hex"))?;
            } else {
                return Err(QuorumError::new(
                    key,
                    format!("Unrecognised parameter: {key}"),
                    "server.N, group.N, weight.N",
                ));
            }
        }
        let system = if groups.is_empty() && weights.is_empty() {
            QuorumSystem::Majority
        } else {
            QuorumSystem::Hierarchical(Hierarchy::new(&members, &groups, &weights)?)
        };
        Ok(QuorumVerifier { members, system, version })
    }

    /// These members, with a majority of the participants as a quorum, and version 0.
    pub fn majority(members: impl IntoIterator<Item = Member>) -> QuorumVerifier {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        QuorumVerifier { members, system: QuorumSystem::Majority, version: 0 }
    }

    /// The zxid of the transaction that brought this configuration, 0 for the one that the servers started with.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The same with another version.
    pub fn with_version(mut self, version: i64) -> QuorumVerifier {
        self.version = version;
        self
    }

    /// All servers, observers too, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The server with that id.
    pub fn member(&self, id: ServerId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The participants, by id.
    pub fn voters(&self) -> impl Iterator<Item = ServerId> {
        self.members.values().filter(|member| member.votes()).map(|member| member.id)
    }

    /// Whether the server is a participant.
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.members.get(&id).is_some_and(Member::votes)
    }

    /// Whether the server is an observer. Who is no member at all is none: it considers itself a participant without a vote.
    pub fn is_observer(&self, id: ServerId) -> bool {
        self.members.get(&id).is_some_and(|member| !member.votes())
    }

    /// Whether these servers are a quorum. Who is no participant does not count.
    pub fn contains_quorum(&self, servers: &BTreeSet<ServerId>) -> bool {
        let voters = servers.iter().copied().filter(|id| self.is_voter(*id));
        match &self.system {
            QuorumSystem::Majority => voters.count() > self.voters().count() / 2,
            QuorumSystem::Hierarchical(hierarchy) => hierarchy.is_quorum(voters),
        }
    }

    /// How much the server's vote weighs. Who weighs nothing cannot be elected.
    pub fn weight(&self, id: ServerId) -> i64 {
        match &self.system {
            QuorumSystem::Majority => 1,
            QuorumSystem::Hierarchical(hierarchy) => hierarchy.weights.get(&id).copied().unwrap_or(0),
        }
    }

    /// Whether quorums are counted by groups and weights, with which there is no incremental reconfiguration.
    pub fn is_hierarchical(&self) -> bool {
        matches!(self.system, QuorumSystem::Hierarchical(_))
    }

    /// Whether both are the same but for the version: the same members at the same addresses, the same quorums.
    pub fn same_content(&self, other: &QuorumVerifier) -> bool {
        self.members == other.members && self.system == other.system
    }
}

/// As Apache prints it, into `/zookeeper/config` and into messages: lines without an end of line behind the last.
impl fmt::Display for QuorumVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in java_order(self.members.keys().map(|id| id.0)) {
            writeln!(f, "server.{id}={}", self.members[&ServerId(id)])?;
        }
        if let QuorumSystem::Hierarchical(hierarchy) = &self.system {
            let sids = java_order(hierarchy.group_of.keys().map(|id| id.0));
            for group in java_order(hierarchy.group_weights.keys().copied()) {
                let is_in = |id: &&i64| hierarchy.group_of[&ServerId(**id)] == group;
                let members: Vec<String> = sids.iter().filter(is_in).map(i64::to_string).collect();
                writeln!(f, "group.{group}={}", members.join(":"))?;
            }
            for id in java_order(hierarchy.weights.keys().map(|id| id.0)) {
                writeln!(f, "weight.{id}={}", hierarchy.weights[&ServerId(id)])?;
            }
        }
        write!(f, "version={:x}", self.version)
    }
}

/// The order in which a Java `HashMap` with these keys is iterated: by bucket. What shares a bucket comes in the order
/// of its making there, which nobody can know; here it ascends. Ids below 16 always ascend.
fn java_order(keys: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut keys: Vec<i64> = keys.collect();
    // A table starts with 16 buckets and doubles when more than three quarters of them have an entry.
    let mut buckets = 16;
    while keys.len() > buckets / 4 * 3 {
        buckets *= 2;
    }
    let bucket = |key: i64| {
        let hash = (key ^ (key as u64 >> 32) as i64) as u32;
        (hash ^ hash >> 16) as usize & (buckets - 1)
    };
    keys.sort_by_key(|key| (bucket(*key), *key));
    keys
}

impl Hierarchy {
    fn new(
        members: &BTreeMap<ServerId, Member>,
        groups: &[(&str, &str)],
        weights: &[(&str, &str)],
    ) -> Result<Hierarchy, QuorumError> {
        let behind_dot = |key| str::split_once(key, '.').map_or("", |(_, number)| number);
        let mut hierarchy = Hierarchy::default();
        for (key, value) in weights {
            let (id, weight) = (number(key, behind_dot(key))?, number(key, value)?);
            if !(0..=WEIGHT_MAX).contains(&weight) {
                return Err(QuorumError::new(key, format!("{weight} is out of range"), "0 to 2147483647"));
            }
            hierarchy.weights.insert(ServerId(id), weight);
        }
        for member in members.values().filter(|member| member.votes()) {
            hierarchy.weights.entry(member.id).or_insert(1);
        }
        for (key, value) in groups {
            let group = number(key, behind_dot(key))?;
            for member in value.split(':') {
                let id = ServerId(number(key, member)?);
                // The missing blank is Apache's.
                if hierarchy.group_of.insert(id, group).is_some() {
                    return Err(QuorumError::new(key, format!("Server {id}is in multiple groups"), ""));
                }
                let Some(weight) = hierarchy.weights.get(&id) else {
                    return Err(QuorumError::new(key, format!("Server {id} is no participant"), "ids of participants"));
                };
                *hierarchy.group_weights.entry(group).or_insert(0) += weight;
            }
        }
        let homeless = members.values().find(|member| member.votes() && !hierarchy.group_of.contains_key(&member.id));
        if let Some(Member { id, .. }) = homeless {
            return Err(QuorumError::new(&format!("server.{id}"), format!("Server {id}is not in a group"), ""));
        }
        if hierarchy.group_weights.values().all(|weight| *weight == 0) {
            let key = weights.first().map_or("group", |(key, _)| *key);
            return Err(QuorumError::new(key, "no group has a weight, so that nobody can be elected", ""));
        }
        Ok(hierarchy)
    }

    fn is_quorum(&self, voters: impl Iterator<Item = ServerId>) -> bool {
        let mut won: BTreeMap<i64, i64> = BTreeMap::new();
        for id in voters {
            *won.entry(self.group_of[&id]).or_insert(0) += self.weights[&id];
        }
        let groups_won = won.iter().filter(|(group, weight)| **weight > self.group_weights[*group] / 2).count();
        let groups = self.group_weights.values().filter(|weight| **weight > 0).count();
        groups_won > groups / 2
    }
}

/// The configuration in force and, while it changes, the one that is to follow. Cheap to clone.
///
/// Invariant: `last_seen.version() >= current.version()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumView {
    current: Arc<QuorumVerifier>,
    last_seen: Arc<QuorumVerifier>,
}

impl QuorumView {
    /// A view without a change under way.
    pub fn new(current: QuorumVerifier) -> QuorumView {
        let current = Arc::new(current);
        QuorumView { last_seen: Arc::clone(&current), current }
    }

    /// The configuration in force.
    pub fn current(&self) -> &Arc<QuorumVerifier> {
        &self.current
    }

    /// The newest configuration that was proposed, which is the one in force if none is pending.
    pub fn last_seen(&self) -> &Arc<QuorumVerifier> {
        &self.last_seen
    }

    /// The configuration that is to follow the one in force.
    pub fn pending(&self) -> Option<&Arc<QuorumVerifier>> {
        (self.last_seen.version > self.current.version).then_some(&self.last_seen)
    }

    /// Takes in a proposed configuration. One that is older than the last seen is passed over.
    pub fn see(&mut self, proposed: QuorumVerifier) {
        if proposed.version > self.last_seen.version {
            self.last_seen = Arc::new(proposed);
        }
    }

    /// Takes up what an established leader holds for the last seen configuration: a newer one that was proposed here was never
    /// committed.
    pub fn follow(&mut self, leaders: QuorumVerifier) {
        self.last_seen = Arc::clone(&self.current);
        self.see(leaders);
    }

    /// Puts a configuration in force; says whether it is newer than the one before. An older one is passed over.
    pub fn activate(&mut self, verifier: QuorumVerifier) -> bool {
        if verifier.version <= self.current.version {
            return false;
        }
        self.current = Arc::new(verifier);
        if self.last_seen.version <= self.current.version {
            self.last_seen = Arc::clone(&self.current);
        }
        true
    }

    /// Whether both views are the same but for versions.
    pub fn same_content(&self, other: &QuorumView) -> bool {
        self.current.same_content(&other.current) && self.last_seen.same_content(&other.last_seen)
    }

    /// The participants of both configurations, by id.
    pub fn voters(&self) -> BTreeSet<ServerId> {
        self.current.voters().chain(self.last_seen.voters()).collect()
    }

    /// Whether the server is a participant of either configuration.
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.current.is_voter(id) || self.last_seen.is_voter(id)
    }

    /// Whether these servers are a quorum of the configuration in force and of the pending one.
    pub fn contains_quorum(&self, servers: &BTreeSet<ServerId>) -> bool {
        let pending = self.pending();
        self.current.contains_quorum(servers) && pending.is_none_or(|pending| pending.contains_quorum(servers))
    }

    /// Whether these servers are a quorum of the configuration in force or of the pending one.
    pub fn contains_quorum_of_either(&self, servers: &BTreeSet<ServerId>) -> bool {
        self.current.contains_quorum(servers) || self.last_seen.contains_quorum(servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[i64]) -> BTreeSet<ServerId> {
        ids.iter().copied().map(ServerId).collect()
    }

    /// Majorities of these participants, with this version.
    fn majority(ids: &[i64], version: i64) -> QuorumVerifier {
        let lines: Vec<String> = ids.iter().map(|id| format!("server.{id}=h{id}:1:2")).collect();
        QuorumVerifier::parse(&lines.join("\n")).unwrap().with_version(version)
    }

    #[test]
    fn a_majority_is_more_than_half_of_the_participants() {
        let check = |voters: &[i64], servers: &[i64], expected: bool| {
            assert_eq!(majority(voters, 0).contains_quorum(&set(servers)), expected, "{servers:?} of {voters:?}");
        };
        check(&[1], &[1], true);
        check(&[1, 2], &[1], false);
        check(&[1, 2], &[1, 2], true);
        check(&[1, 2, 3, 4], &[1, 2], false);
        check(&[1, 2, 3, 4], &[1, 2, 4], true);
        check(&[1, 2, 3], &[1, 7, 8], false);
        check(&[], &[], false);
        let observed = QuorumVerifier::parse("server.1=a:1:2\nserver.2=b:1:2:observer").unwrap();
        assert!(!observed.contains_quorum(&set(&[2])) && observed.contains_quorum(&set(&[1])));
    }

    /// Apache's example of three groups, with two servers that weigh differently.
    const GROUPS: &str = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\nserver.4=d:1:2\nserver.5=e:1:2\n\
        server.6=f:1:2\nserver.7=g:1:2:observer\ngroup.1=1:2:3\ngroup.2=4\ngroup.3=5:6\nweight.1=3\nweight.6=0\n";

    #[test]
    fn a_hierarchical_quorum_wins_most_groups_by_weight() {
        let verifier = QuorumVerifier::parse(GROUPS).unwrap();
        let check = |servers: &[i64], expected: bool| {
            assert_eq!(verifier.contains_quorum(&set(servers)), expected, "{servers:?}");
        };
        check(&[1, 4], true);
        check(&[2, 3, 4], false);
        check(&[1, 5], true);
        check(&[1, 6], false);
        check(&[4, 5], true);
        check(&[1, 2, 3, 6, 7], false);
        let weights: Vec<i64> = (1..=8).map(|id| verifier.weight(ServerId(id))).collect();
        assert_eq!(weights, [3, 1, 1, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn groups_without_weight_do_not_count() {
        let text = format!("{GROUPS}weight.5=0");
        let verifier = QuorumVerifier::parse(&text).unwrap();
        assert!(verifier.contains_quorum(&set(&[1, 4])) && !verifier.contains_quorum(&set(&[1, 5, 6])));
    }

    #[test]
    fn any_two_quorums_meet() {
        for verifier in [majority(&[1, 2, 3, 4], 0), QuorumVerifier::parse(GROUPS).unwrap()] {
            let ids: Vec<i64> = verifier.members().map(|member| member.id.0).collect();
            let subsets = (0..1u32 << ids.len()).map(|mask| {
                ids.iter().enumerate().filter(move |(at, _)| mask >> at & 1 == 1).map(|(_, id)| ServerId(*id))
            });
            let quorums: Vec<BTreeSet<ServerId>> =
                subsets.map(Iterator::collect).filter(|set| verifier.contains_quorum(set)).collect();
            assert!(!quorums.is_empty());
            for (a, b) in quorums.iter().flat_map(|a| quorums.iter().map(move |b| (a, b))) {
                assert!(a.intersection(b).any(|id| verifier.is_voter(*id)), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_configuration_prints_as_apache_prints_it() {
        // Recorded from a running ensemble.
        let recorded = "server.1=127.0.0.1:23111:23121:participant\n\
            server.4=127.0.0.1:23114:23124:observer;127.0.0.1:23104\nversion=100000016";
        let verifier = QuorumVerifier::parse(recorded).unwrap();
        assert_eq!(verifier.to_string(), recorded);
        assert_eq!(verifier.version(), 0x1_0000_0016);
        let groups = "server.1=a:1:2:participant\nserver.2=b:1:2:participant\ngroup.1=1:2\nweight.1=1\nweight.2=5\n\
            version=0";
        assert_eq!(QuorumVerifier::parse(groups).unwrap().to_string(), groups);
        let ids = |ids: &[i64]| java_order(ids.iter().copied());
        assert_eq!(ids(&[10, 20, 30]), [20, 10, 30], "as Java's HashMap has them");
        assert_eq!(ids(&(1..=13).collect::<Vec<_>>()), (1..=13).collect::<Vec<_>>());
    }

    #[test]
    fn configurations_that_are_refused() {
        let check = |text: &str, expected: &str| {
            assert_eq!(QuorumVerifier::parse(text).unwrap_err().to_string(), expected, "{text}");
        };
        let two = "server.1=a:1:2\nserver.2=b:1:2\n";
        check("tickTime=5", "tickTime: Unrecognised parameter: tickTime; allowed: server.N, group.N, weight.N");
        check("server.1", "server.1: a line without =; allowed: key=value");
        check("version=xyz", "version: For input string: \"xyz\"; allowed: a number in hex");
        check(
            "server.1=a:1:2\nserver.01=b:1:2",
            "server.01: the id is given twice; allowed: an id of its own for each server",
        );
        check(&format!("{two}group.1=1"), "server.2: Server 2is not in a group");
        check(&format!("{two}group.1=1:2\ngroup.2=2"), "group.2: Server 2is in multiple groups");
        check(&format!("{two}group.1=1:2:3"), "group.1: Server 3 is no participant; allowed: ids of participants");
        check(&format!("{two}group.1=1:x"), "group.1: For input string: \"x\"; allowed: a whole number");
        check(&format!("{two}weight.1=-1"), "weight.1: -1 is out of range; allowed: 0 to 2147483647");
        check(
            &format!("{two}group.1=1:2\nweight.1=0\nweight.2=0"),
            "weight.1: no group has a weight, so that nobody can be elected",
        );
    }

    #[test]
    fn while_the_configuration_changes_both_quorums_are_needed() {
        let mut view = QuorumView::new(majority(&[1, 2, 3], 0));
        view.see(majority(&[3, 4, 5], 0x10));
        view.see(majority(&[9], 0x5));
        assert_eq!(view.voters(), set(&[1, 2, 3, 4, 5]));
        assert!(!view.contains_quorum(&set(&[1, 2])));
        assert!(!view.contains_quorum(&set(&[1, 2, 4])));
        assert!(view.contains_quorum(&set(&[1, 3, 4])));
        assert!(!view.activate(majority(&[9], 0)));
        assert!(view.activate(majority(&[3, 4, 5], 0x10)));
        assert_eq!(view.pending(), None);
        assert!(view.contains_quorum(&set(&[4, 5])) && !view.is_voter(ServerId(1)));
    }
}
