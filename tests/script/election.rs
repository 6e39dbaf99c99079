//! Elections among servers on a network whose messages the story delivers, delays and loses.
//!
//! ```text
//! ensemble 1 2 3 4:observer version=0x5 group.1=1:2   the configuration of servers that start from now on
//! start 1 zxid=0x100000005 epoch=1     a server begins, and looks for a leader
//! look 1 zxid=0x100000005 epoch=1      a server that was settled looks again
//! deliver [1 2]                        all messages, or those from 1 to 2, and those that answer them
//! hold 1 2 / release 1 2               messages from 1 to 2 wait / go on
//! cut 1 2 / heal 1 2                   the link between them breaks, with what is on it / comes up
//! crash 3                              it is gone, and its host refuses connections
//! vanish 3                             it is gone, and its host is silent: what is sent to it gets lost
//! elapse 200                           time passes, in milliseconds, and clocks ring
//! say 3 1 FOLLOWING leader=2 …         a message that 3 did not write (zxid, round, epoch, version, config=ensemble)
//! established 1 epoch=2                the leader of 1 is established
//! appoint 1 leader=2 zxid=0x…          a reconfiguration names the leader
//! succeed 1 leader=2 zxid=0x… with 1 2   the leader that stops has named the next, and told these
//! propose 1 / activate 1               the present `ensemble` is proposed to server 1 / in force there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ringkeeper::proto::election::{Notification, ServerState, Vote};
use ringkeeper::types::{Instant, ServerId, Zxid};
use ringkeeper::zab::election::{Effect, Election, Event, Timing};
use ringkeeper::zab::quorum::{QuorumVerifier, QuorumView};

use super::story;

#[test]
fn elections() {
    story::check("election", Stage::default, Stage::command);
}

/// From whom to whom.
type Way = (ServerId, ServerId);

#[derive(Default)]
struct Stage {
    ensemble: String,
    servers: BTreeMap<ServerId, Election>,
    messages: Vec<(Way, Notification)>,
    held: BTreeSet<Way>,
    cut: BTreeSet<Way>,
    /// Servers that do not run and whose hosts do not say so.
    silent: BTreeSet<ServerId>,
    now: u64,
}

impl Stage {
    fn command(&mut self, line: &str, trace: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = |at: usize| ServerId(story::parse(words[at]));
        let number = |key: &str| story::number(&words, key);
        match words[0] {
            "ensemble" => self.ensemble = ensemble(&words[1..]),
            "start" => {
                let view = QuorumView::new(self.verifier());
                let election = Election::new(id(1), view, Timing::default(), true);
                self.silent.remove(&id(1));
                self.servers.insert(id(1), election);
                self.connect(id(1), trace);
                self.look(&words, trace);
            }
            "look" => self.look(&words, trace),
            "deliver" => {
                let only = (words.len() > 1).then(|| (id(1), id(2)));
                self.deliver(only, trace);
            }
            "hold" => drop(self.held.insert((id(1), id(2)))),
            "release" => drop(self.held.remove(&(id(1), id(2)))),
            "cut" => {
                let both = [(id(1), id(2)), (id(2), id(1))];
                self.cut.extend(both);
                self.messages.retain(|(way, _)| !both.contains(way));
            }
            "heal" => {
                for (me, peer) in [(id(1), id(2)), (id(2), id(1))] {
                    self.cut.remove(&(me, peer));
                    self.handle(me, Event::LinkUp(peer), trace);
                }
            }
            "crash" | "vanish" => {
                self.servers.remove(&id(1)).expect("it runs");
                self.messages.retain(|((from, to), _)| *from != id(1) && *to != id(1));
                if words[0] == "vanish" {
                    self.silent.insert(id(1));
                }
            }
            "elapse" => self.elapse(story::parse(words[1]) as u64, trace),
            "say" => {
                self.silent.insert(id(1));
                let notification = said(&words, &self.ensemble);
                self.messages.push(((id(1), id(2)), notification));
            }
            "established" => self.handle(id(1), Event::Established { epoch: number("epoch").expect("epoch=") }, trace),
            "appoint" => {
                let leader = ServerId(number("leader").expect("leader="));
                let zxid = Zxid(number("zxid").expect("zxid="));
                self.handle(id(1), Event::Appointed { leader, zxid }, trace);
            }
            "succeed" => {
                let leader = ServerId(number("leader").expect("leader="));
                let zxid = Zxid(number("zxid").expect("zxid="));
                let told = words.iter().skip_while(|word| **word != "with").skip(1);
                let supporters = told.map(|word| ServerId(story::parse(word))).collect();
                self.handle(id(1), Event::Succeed { leader, zxid, supporters }, trace);
            }
            "propose" | "activate" => {
                let mut view = self.servers[&id(1)].view().clone();
                let verifier = self.verifier();
                if words[0] == "propose" {
                    view.see(verifier);
                } else {
                    assert!(view.activate(verifier), "the configuration is not newer");
                }
                self.handle(id(1), Event::View(view), trace);
            }
            other => panic!("{other} is no command"),
        }
    }

    fn verifier(&self) -> QuorumVerifier {
        QuorumVerifier::parse(&self.ensemble).unwrap_or_else(|error| panic!("{}: {error}", self.ensemble))
    }

    fn look(&mut self, words: &[&str], trace: &mut String) {
        let last_zxid = Zxid(story::number(words, "zxid").unwrap_or(0));
        let current_epoch = story::number(words, "epoch").unwrap_or(0);
        let event = Event::Look { last_zxid, current_epoch };
        self.handle(ServerId(story::parse(words[1])), event, trace);
    }

    /// Everybody who runs has a connection with the server that has just started.
    fn connect(&mut self, new: ServerId, trace: &mut String) {
        let others: Vec<ServerId> = self.servers.keys().copied().filter(|id| *id != new).collect();
        for other in others {
            if !self.cut.contains(&(other, new)) {
                self.handle(other, Event::LinkUp(new), trace);
            }
        }
    }

    fn handle(&mut self, id: ServerId, event: Event, trace: &mut String) {
        let mut effects = Vec::new();
        let election = self.servers.get_mut(&id).unwrap_or_else(|| panic!("{id} does not run"));
        election.handle(Instant(self.now), event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { to, notification } => {
                    let is_there = self.servers.contains_key(&to) || self.silent.contains(&to);
                    if !is_there {
                        self.handle(id, Event::Refused(to), trace);
                    } else if !self.cut.contains(&(id, to)) {
                        self.messages.push(((id, to), notification));
                    }
                }
                Effect::Elected(elected) => {
                    let by: Vec<String> = elected.supporters.iter().map(ServerId::to_string).collect();
                    let (state, took, by) = (elected.state, elected.took_ms, by.join(" "));
                    writeln!(trace, "{id} is {state} under {}, after {took} ms, with {by}", vote(&elected.vote))
                }
                .expect("a string takes it"),
                Effect::Adopt(verifier) => {
                    writeln!(trace, "{id} adopts configuration {:x}", verifier.version()).expect("a string takes it");
                }
                Effect::VoterLooks(voter) => writeln!(trace, "{id} sees {voter} look").expect("a string takes it"),
            }
        }
    }

    fn deliver(&mut self, only: Option<Way>, trace: &mut String) {
        // Bounded: an election that talks for ever is a failure.
        for _ in 0..1000 {
            let may_go = |way: &Way| only.is_none_or(|only| only == *way) && !self.held.contains(way);
            let Some(at) = self.messages.iter().position(|(way, _)| may_go(way)) else { return };
            let ((from, to), notification) = self.messages.remove(at);
            writeln!(trace, "{from} -> {to}: {} {}", notification.state, vote(&notification.vote))
                .expect("a string takes it");
            if !self.servers.contains_key(&to) {
                continue;
            }
            // As bytes, so that what is said is what can be said.
            let mut bytes = Vec::new();
            notification.encode(&mut bytes);
            let notification = Notification::decode(&bytes).expect("what was encoded can be decoded");
            self.handle(to, Event::Received { from, notification }, trace);
        }
        panic!("the servers do not stop talking:\n{trace}");
    }

    fn elapse(&mut self, ms: u64, trace: &mut String) {
        let end = self.now + ms;
        while let Some((at, id)) = self.servers.iter().filter_map(|(id, server)| Some((server.wake_at()?, *id))).min()
            && at.0 <= end
        {
            self.now = self.now.max(at.0);
            self.handle(id, Event::Timer, trace);
        }
        self.now = end;
    }
}

/// A configuration: `1 2 3:observer version=0x5 group.1=1:2`.
fn ensemble(words: &[&str]) -> String {
    let line = |word: &&str| match word.split_once('=') {
        Some(("version", version)) => format!("version={}", version.trim_start_matches("0x")),
        Some(_) => (*word).to_owned(),
        None => match word.split_once(':') {
            Some((id, role)) => format!("server.{id}=h{id}:1:2:{role}"),
            None => format!("server.{word}=h{word}:1:2"),
        },
    };
    words.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn said(words: &[&str], ensemble: &str) -> Notification {
    let number = |key: &str| story::number(words, key).unwrap_or(0);
    let states = [ServerState::Looking, ServerState::Following, ServerState::Leading, ServerState::Observing];
    let state = states.into_iter().find(|state| state.word() == words[3]).expect("a state");
    let vote = Vote {
        leader: ServerId(number("leader")),
        zxid: Zxid(number("zxid")),
        round: number("round"),
        peer_epoch: number("epoch"),
    };
    let version = story::number(words, "version").unwrap_or(2) as i32;
    let config = match words.contains(&"config=ensemble") {
        true => ensemble.to_owned(),
        false => "version=0".to_owned(),
    };
    Notification { state, vote, version, config: (version >= 2).then_some(config) }
}

/// `2 (epoch 1, zxid 0x100000005) in round 3`, with `-` for what a server without a vote says.
fn vote(vote: &Vote) -> String {
    let or_none = |number: i64, text: String| if number == i64::MIN { "-".to_owned() } else { text };
    let leader = or_none(vote.leader.0, vote.leader.to_string());
    let epoch = or_none(vote.peer_epoch, vote.peer_epoch.to_string());
    let zxid = or_none(vote.zxid.0, vote.zxid.to_string());
    format!("{leader} (epoch {epoch}, zxid {zxid}) in round {}", vote.round)
}
