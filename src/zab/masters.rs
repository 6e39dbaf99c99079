//! Whom an observer learns from, and what it waits for meanwhile.
//!
//! Without observer masters that is the leader. With them (`observerMasterPort`) it is the participants, in an order that
//! chance has made, one after the other, round after round; so the observers spread over the followers. The leader, which
//! serves none of them at that port, is left out, unless there is nobody else: then it is followed as usual.
//!
//! The pauses are as random, so that the observers of a lost follower do not all come at once.
//!
//! Source: `QuorumPeer.updateObserverMasterList`, `nextObserverMaster`, `Observer.waitForReconnectDelay`.

use std::collections::BTreeSet;

use super::effect::MasterPort;
use super::quorum::QuorumVerifier;
use crate::types::ServerId;

/// What concerns observers. By default there are no observer masters and no pauses.
#[derive(Clone, Copy, Default, Debug)]
pub struct Observing {
    /// Whether `observerMasterPort` is set: followers serve observers, and observers come to them.
    pub masters: bool,
    /// `observer.reconnectDelayMs`: the longest pause before a round begins, or before the leader is connected to.
    pub reconnect_delay_ms: u64,
    /// `observer.election.DelayMs`: the longest pause between the loss of whom it learned from and looking for the leader.
    pub election_delay_ms: u64,
    /// Of what is left to chance.
    pub seed: u64,
}

/// Whom to connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Master {
    /// The server.
    pub server: ServerId,
    /// Where.
    pub port: MasterPort,
    /// How long to wait before, in ms.
    pub pause_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Masters {
    observing: Observing,
    random: u64,
    /// The participants, shuffled.
    order: Vec<ServerId>,
    /// Index of the next.
    next: usize,
}

impl Masters {
    /// Nobody was tried yet.
    pub fn new(observing: Observing) -> Masters {
        Masters { observing, random: observing.seed, order: Vec::new(), next: 0 }
    }

    /// Whom to try next. `leader` leads, and `config` is in force.
    pub fn next(&mut self, config: &QuorumVerifier, leader: ServerId) -> Master {
        self.follow(config);
        if !self.observing.masters || self.order.iter().all(|server| *server == leader) {
            let pause_ms = self.below(self.observing.reconnect_delay_ms);
            return Master { server: leader, port: MasterPort::Quorum, pause_ms };
        }
        let mut pause_ms = 0;
        if self.round_is_over(leader) {
            self.next = 0;
            pause_ms = self.below(self.observing.reconnect_delay_ms);
        }
        while self.order[self.next] == leader {
            self.next += 1;
        }
        let server = self.order[self.next];
        self.next += 1;
        Master { server, port: MasterPort::ObserverMaster, pause_ms }
    }

    /// Whether everybody in the list was tried, `leader` aside.
    pub fn round_is_over(&self, leader: ServerId) -> bool {
        self.order[self.next..].iter().all(|server| *server == leader)
    }

    /// How long to wait before the leader is looked for again.
    pub fn election_pause_ms(&mut self) -> u64 {
        self.below(self.observing.election_delay_ms)
    }

    /// Makes the list anew if there are other participants.
    fn follow(&mut self, config: &QuorumVerifier) {
        let voters = config.members().filter(|member| member.votes()).map(|member| member.id);
        let voters: BTreeSet<ServerId> = voters.collect();
        if voters == self.order.iter().copied().collect() {
            return;
        }
        self.order = voters.into_iter().collect();
        self.next = 0;
        for last in (1..self.order.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            self.order.swap(last, other);
        }
    }

    /// A number below `limit`, or 0 (SplitMix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> QuorumVerifier {
        QuorumVerifier::parse(&format!("{text}\nversion=0")).unwrap()
    }

    const FOUR: &str = "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:participant\n\
                        server.4=h:7:8:observer";

    fn masters(seed: u64) -> Masters {
        Masters::new(Observing { masters: true, reconnect_delay_ms: 1000, election_delay_ms: 200, seed })
    }

    #[test]
    fn each_follower_has_its_turn_in_each_round_and_the_leader_none() {
        let config = config(FOUR);
        let mut first = BTreeSet::new();
        for seed in 0..20 {
            let mut masters = masters(seed);
            let mut pauses = 0;
            for round in 0..10 {
                let found = [masters.next(&config, ServerId(2)), masters.next(&config, ServerId(2))];
                assert!(masters.round_is_over(ServerId(2)));
                assert_eq!(found.map(|master| master.port), [MasterPort::ObserverMaster; 2]);
                let servers: BTreeSet<i64> = found.iter().map(|master| master.server.0).collect();
                assert_eq!(servers, BTreeSet::from([1, 3]));
                assert_eq!(found[1].pause_ms, 0, "within a round nobody waits");
                assert!(found[0].pause_ms < 1000);
                assert!(round > 0 || found[0].pause_ms == 0, "nor at first");
                pauses += found[0].pause_ms;
                first.insert(found[0].server.0);
            }
            assert!(pauses > 0);
            assert!((0..50).all(|_| masters.election_pause_ms() < 200));
        }
        assert_eq!(first, BTreeSet::from([1, 3]), "chance decides who comes first");
    }

    #[test]
    fn without_another_server_or_without_the_setting_the_leader_is_followed() {
        let leader = Master { server: ServerId(1), port: MasterPort::Quorum, pause_ms: 0 };
        let alone = config("server.1=h:1:2:participant\nserver.4=h:7:8:observer");
        let mut masters = Masters::new(Observing { masters: true, ..Observing::default() });
        assert_eq!(masters.next(&alone, ServerId(1)), leader);
        assert_eq!(Masters::new(Observing::default()).next(&config(FOUR), ServerId(1)), leader);
    }

    #[test]
    fn a_new_configuration_brings_new_masters() {
        let mut masters = masters(1);
        masters.next(&config(FOUR), ServerId(1));
        let other = config("server.1=h:1:2:participant\nserver.5=h:3:4:participant\nserver.4=h:7:8:observer");
        assert_eq!(masters.next(&other, ServerId(1)).server, ServerId(5));
    }
}
