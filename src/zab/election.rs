//! Fast leader election: how the servers agree on the one among them whose history is newest.
//!
//! Everybody first votes for himself. Whoever hears of a better vote takes it over and says so to all, so that the best
//! vote spreads; a server that sees a quorum agree with it waits a moment for a still better vote and then leads or
//! follows. Votes are ordered by epoch, then last logged zxid, then server id. Servers that are not looking for a leader
//! answer those that do with the vote that decided their last election; a server that comes late follows a leader if a
//! quorum names it and it says itself that it leads.
//!
//! ```text
//! 1: votes 1                 2: votes 2                    3 is not there
//!         ---- vote for 1 ---->  (not better)
//!         <--- vote for 2 -----
//! (better: votes 2)
//!         ---- vote for 2 ---->
//! a quorum for 2: FOLLOWING  a quorum for 2: LEADING
//! ```
//!
//! # How to drive it
//!
//! [`Election`] lives as long as the process. Hand every [`Event`] to [`Election::handle`] with the time, carry out the
//! [`Effect`]s in order, and come back with [`Event::Timer`] at [`Election::wake_at`], asked anew after every event.
//!
//! * [`Event::Look`] starts an election, with what the server has on disk: the zxid of the last *logged* transaction,
//!   committed or not (a server that voted with less could have committed transactions cut away, ZOOKEEPER-2845), and
//!   its current epoch. It ends with [`Effect::Elected`], and not before; there is no limit on how long it takes.
//! * From then on the server is what [`Effect::Elected`] said, and answers for it with that vote, until the next
//!   [`Event::Look`]. Whoever plays the role says when the leader is established ([`Event::Established`]: the leader at
//!   a quorum of acks for NEWLEADER, a learner at UPTODATE), and when a reconfiguration names a leader without an
//!   election ([`Event::Appointed`]).
//! * [`Event::View`] brings a configuration that was activated or proposed.
//! * [`Event::LinkUp`], [`Event::Refused`] and [`Event::Received`] come from the links to the other servers
//!   ([`super::links`]), and [`Effect::Send`] goes there.
//!
//! # Where it departs from Apache
//!
//! * The wait for better votes ends early if there is nobody left to cast one: every participant's vote of this round is
//!   in, or it says that it casts none, or its host refuses connections.
//! * A server that was told a vote while it still followed, and looks now, is told again; Apache's waits for the next
//!   notification that is due, 200 ms later.
//! * A connection that comes up in an election is sent the present vote, never an old one; what a settled server said
//!   last is not repeated.
//! * The round does not start at 0 again when the configuration changes. It may with others.
//!
//! Source: `FastLeaderElection`, `Vote`.

use std::collections::{BTreeMap, BTreeSet};

use super::quorum::{PeerType, QuorumVerifier, QuorumView};
use super::types::{Instant, ServerId, ServerState, Vote, Zxid};
use crate::proto::election::Notification;

/// What happens to an election.
#[derive(Clone, Debug)]
pub enum Event {
    /// The server looks for a leader.
    Look {
        /// Zxid of the last transaction in its log; -1 if it must not vote because its history is in doubt.
        last_zxid: Zxid,
        /// Its current epoch.
        current_epoch: i64,
    },
    /// A message from a server.
    Received {
        /// Who sent it, as its hello says.
        from: ServerId,
        /// The message.
        notification: Notification,
    },
    /// A connection with this server has come up.
    LinkUp(ServerId),
    /// The host of this server refuses connections to its election port: it does not run.
    Refused(ServerId),
    /// It is [`Election::wake_at`].
    Timer,
    /// The leader that was elected is established in this epoch.
    Established {
        /// The new epoch.
        epoch: i64,
    },
    /// A reconfiguration names the leader: there is no election, and it ends at once.
    Appointed {
        /// The server that is to lead.
        leader: ServerId,
        /// Zxid of the reconfiguration.
        zxid: Zxid,
    },
    /// The leader stops and has named the next one: what [`Event::Look`] would end with is known without asking.
    Succeed {
        /// The server that is to lead.
        leader: ServerId,
        /// The last transaction in this server's log.
        zxid: Zxid,
        /// Participants that were told the same.
        supporters: BTreeSet<ServerId>,
    },
    /// Another configuration is in force or was proposed. While looking, the election starts again.
    View(QuorumView),
}

/// What an election wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send it; it takes the place of what was not sent yet to the same server.
    Send {
        /// To whom: a participant, or whoever asked.
        to: ServerId,
        /// The message.
        notification: Notification,
    },
    /// The election is over.
    Elected(Elected),
    /// Another server knows a newer configuration, which is in force here from now on: it is to be kept.
    Adopt(QuorumVerifier),
    /// This server leads, and that participant looks for another leader. If it was among those who voted for this one,
    /// it has left it.
    VoterLooks(ServerId),
}

/// How an election ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elected {
    /// What this server is from now on: leading, following or observing.
    pub state: ServerState,
    /// The vote that won.
    pub vote: Vote,
    /// Who is known to agree with it, this server included if it has a vote.
    pub supporters: BTreeSet<ServerId>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Times of an election, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `fastleader.minNotificationInterval`: after this long without a result the vote is sent again.
    pub resend_min_ms: u64,
    /// `fastleader.maxNotificationInterval`: the interval doubles up to this.
    pub resend_max_ms: u64,
    /// How long better votes are waited for when there is a quorum.
    pub finalize_wait_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { resend_min_ms: 200, resend_max_ms: 60_000, finalize_wait_ms: 200 }
    }
}

/// One server's part in electing leaders.
#[derive(Debug)]
pub struct Election {
    my_id: ServerId,
    timing: Timing,
    /// Whether configurations that others know are taken over.
    reconfig_enabled: bool,
    view: QuorumView,
    /// The configuration in force as text, for messages.
    config: String,
    state: ServerState,
    /// What decided the last election; before the first, a vote for oneself.
    current: Vote,
    /// Counts elections; taken over from others if theirs is higher.
    round: i64,
    looking: Option<Looking>,
}

/// What is known in an election.
#[derive(Debug)]
struct Looking {
    started: Instant,
    /// The vote for oneself.
    own: Candidate,
    /// The best vote so far.
    proposal: Candidate,
    /// Votes of this round, by who cast them.
    received: BTreeMap<ServerId, Ballot>,
    /// Votes of servers that are not looking, of any round.
    settled: BTreeMap<ServerId, Ballot>,
    /// Participants who cast no vote: their hosts refuse connections, or they do not trust their history.
    abstaining: BTreeSet<ServerId>,
    resend_ms: u64,
    resend_at: Instant,
    /// Set while a quorum agrees with the proposal.
    decide_at: Option<Instant>,
}

/// A vote without its round. Ordered: the greater is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    peer_epoch: i64,
    zxid: Zxid,
    leader: ServerId,
}

impl Candidate {
    fn of(vote: &Vote) -> Candidate {
        Candidate { peer_epoch: vote.peer_epoch, zxid: vote.zxid, leader: vote.leader }
    }

    fn in_round(self, round: i64) -> Vote {
        Vote { leader: self.leader, zxid: self.zxid, round, peer_epoch: self.peer_epoch }
    }
}

/// A vote with the state of who cast it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ballot {
    vote: Vote,
    state: ServerState,
    /// Whether the message said its version. Servers before 3.4.6 do not, and may name another epoch.
    versioned: bool,
}

impl Ballot {
    /// Whether two votes are for the same leader. Between servers that are not looking only leader and epoch count:
    /// those that followed at different times may have kept different zxids and rounds. Source: `Vote.equals`.
    fn agrees(&self, other: &Ballot) -> bool {
        if self.state == ServerState::Looking || other.state == ServerState::Looking {
            return self.vote == other.vote;
        }
        let same_epoch = self.vote.peer_epoch == other.vote.peer_epoch || self.versioned != other.versioned;
        self.vote.leader == other.vote.leader && same_epoch
    }
}

/// The zxid of a server that does not trust its history.
const DOUBTFUL: Zxid = Zxid(-1);
/// Epoch, zxid and round of who has none.
const NOTHING: i64 = i64::MIN;
const NO_ROUND: i64 = -1;

impl Election {
    /// An election that has not begun.
    pub fn new(my_id: ServerId, view: QuorumView, timing: Timing, reconfig_enabled: bool) -> Election {
        let current = Vote { leader: my_id, zxid: Zxid::ZERO, round: NO_ROUND, peer_epoch: 0 };
        let config = view.current().to_string();
        let state = ServerState::Looking;
        Election { my_id, timing, reconfig_enabled, view, config, state, current, round: 0, looking: None }
    }

    /// What this server is doing.
    pub fn state(&self) -> ServerState {
        self.state
    }

    /// The vote that decided the last election; before the first, one for this server.
    pub fn vote(&self) -> Vote {
        self.current
    }

    /// The configurations that quorums are counted in.
    pub fn view(&self) -> &QuorumView {
        &self.view
    }

    /// When [`Event::Timer`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        let looking = self.looking.as_ref()?;
        Some(looking.decide_at.map_or(looking.resend_at, |decide_at| decide_at.min(looking.resend_at)))
    }

    /// Takes in an event and adds what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Look { last_zxid, current_epoch } => self.look(now, last_zxid, current_epoch, effects),
            Event::Received { from, notification } => self.received(now, from, &notification, effects),
            Event::LinkUp(peer) => {
                if let Some(looking) = &mut self.looking {
                    looking.abstaining.remove(&peer);
                    if self.view.is_voter(peer) {
                        effects.push(self.proposal_to(peer));
                    }
                }
            }
            Event::Refused(peer) => {
                if let Some(looking) = &mut self.looking
                    && self.view.is_voter(peer)
                {
                    looking.abstaining.insert(peer);
                    self.count(now, effects);
                }
            }
            Event::Timer => self.timer(now, effects),
            Event::Established { epoch } => self.current.peer_epoch = epoch,
            Event::Appointed { leader, zxid } => {
                self.current = Vote { leader, zxid, round: NO_ROUND, peer_epoch: NO_ROUND };
                self.state = self.state_under(leader);
                self.looking = None;
                // A quorum of the new configuration has the transaction that says so.
                let supporters = self.view.voters();
                effects.push(Effect::Elected(Elected {
                    state: self.state,
                    vote: self.current,
                    supporters,
                    took_ms: 0,
                }));
            }
            Event::Succeed { leader, zxid, supporters } => {
                // The same with all who were told; the epoch stays the old one's before the new leader is established.
                let vote = Vote { leader, zxid, round: self.round, peer_epoch: self.current.peer_epoch };
                (self.current, self.state) = (vote, self.state_under(leader));
                self.looking = None;
                effects.push(Effect::Elected(Elected { state: self.state, vote, supporters, took_ms: 0 }));
            }
            Event::View(view) => {
                if view.current().version() < self.view.current().version() {
                    // From before another server told of a newer one: see [`Effect::Adopt`].
                    return;
                }
                let same = self.view.same_content(&view);
                self.config = view.current().to_string();
                self.view = view;
                if !same {
                    self.restart(now, effects);
                }
            }
        }
    }

    fn look(&mut self, now: Instant, last_zxid: Zxid, current_epoch: i64, effects: &mut Vec<Effect>) {
        let own = match self.peer_type() {
            PeerType::Observer => Candidate { peer_epoch: NOTHING, zxid: Zxid(NOTHING), leader: ServerId::NOBODY },
            // One who is not in the configuration in force hopes to be taken in, and cannot be elected.
            PeerType::Participant => {
                let leader = if self.view.current().is_voter(self.my_id) { self.my_id } else { ServerId::NOBODY };
                Candidate { peer_epoch: current_epoch, zxid: last_zxid, leader }
            }
        };
        if self.current.round == NO_ROUND && self.state == ServerState::Looking {
            self.current = Vote { leader: self.my_id, zxid: last_zxid, round: NO_ROUND, peer_epoch: current_epoch };
        }
        self.state = ServerState::Looking;
        self.round = self.round.wrapping_add(1);
        tracing::info!("LOOKING");
        tracing::info!("New election. My id = {}, proposed zxid={}", self.my_id, own.zxid);
        self.looking = Some(Looking {
            started: now,
            own,
            proposal: own,
            received: BTreeMap::new(),
            settled: BTreeMap::new(),
            abstaining: BTreeSet::new(),
            resend_ms: self.timing.resend_min_ms,
            resend_at: now.after_ms(self.timing.resend_min_ms),
            decide_at: None,
        });
        self.announce(now, effects);
    }

    /// Begins a new round with the same own vote, under another configuration.
    fn restart(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(Looking { own, started, .. }) = self.looking else { return };
        tracing::info!("restarting leader election");
        self.look(now, own.zxid, own.peer_epoch, effects);
        if let Some(looking) = &mut self.looking {
            looking.started = started;
        }
    }

    fn timer(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(looking) = &mut self.looking else { return };
        if looking.decide_at.is_some_and(|at| at <= now) {
            let winner = looking.proposal.in_round(self.round);
            let supporters = supporters(&looking.received, &looking_ballot(winner));
            return self.elect(now, winner, supporters, effects);
        }
        if looking.resend_at <= now {
            looking.resend_ms = (looking.resend_ms * 2).min(self.timing.resend_max_ms);
            looking.resend_at = now.after_ms(looking.resend_ms);
            tracing::info!("Notification time out: {} ms", looking.resend_ms);
            self.send_to_all(effects);
        }
    }

    fn received(&mut self, now: Instant, from: ServerId, notification: &Notification, effects: &mut Vec<Effect>) {
        if self.looking.is_some() && self.adopt_config(now, notification, effects) {
            return;
        }
        if !self.view.is_voter(from) {
            // An observer or a joiner: it only wants to know.
            let vote = Vote { round: self.round, ..self.current };
            return effects.push(self.answer(from, vote));
        }
        let Notification { state, vote, version, .. } = *notification;
        tracing::info!(
            "Notification: my state:{}; n.sid:{from}, n.state:{state}, n.leader:{}, n.round:0x{:x}, \
             n.peerEpoch:0x{:x}, n.zxid:{}, message format version:0x{version:x}, n.config version:0x{:x}",
            self.state,
            vote.leader,
            vote.round,
            vote.peer_epoch,
            vote.zxid,
            notification.config.as_deref().and_then(config_version).unwrap_or(0),
        );
        let Some(looking) = &mut self.looking else {
            if state == ServerState::Looking {
                // The vote that this server won by may still be under way.
                let is_news = (vote.leader, vote.round) != (self.current.leader, self.current.round);
                if self.state == ServerState::Leading && is_news {
                    effects.push(Effect::VoterLooks(from));
                }
                effects.push(self.answer(from, self.current));
            }
            return;
        };
        looking.abstaining.remove(&from);
        if state == ServerState::Looking && vote.round < self.round {
            return effects.push(self.proposal_to(from));
        }
        if !self.view.is_voter(vote.leader) {
            tracing::warn!("Ignoring notification for non-cluster member sid {} from sid {from}", vote.leader);
            return;
        }
        let ballot = Ballot { vote, state, versioned: version > 0 };
        match state {
            ServerState::Looking => self.vote_of_looking(now, from, ballot, effects),
            ServerState::Following | ServerState::Leading => self.vote_of_settled(now, from, ballot, effects),
            ServerState::Observing => {}
        }
    }

    /// A vote of this round or a later one.
    fn vote_of_looking(&mut self, now: Instant, from: ServerId, ballot: Ballot, effects: &mut Vec<Effect>) {
        let Some(looking) = &mut self.looking else { return };
        if looking.own.zxid == DOUBTFUL {
            return;
        }
        if ballot.vote.zxid == DOUBTFUL {
            looking.abstaining.insert(from);
            return self.count(now, effects);
        }
        let candidate = Candidate::of(&ballot.vote);
        let electable = self.view.current().weight(candidate.leader) > 0;
        let news = if ballot.vote.round > self.round {
            self.round = ballot.vote.round;
            looking.received.clear();
            looking.proposal = if electable { candidate.max(looking.own) } else { looking.own };
            true
        } else if electable && candidate > looking.proposal {
            looking.proposal = candidate;
            true
        } else {
            false
        };
        looking.received.insert(from, ballot);
        // It has answered in its old role, so it has taken no notice of what it was told.
        let was_told_too_early = looking.settled.remove(&from).is_some();
        if news {
            looking.decide_at = None;
            self.announce(now, effects);
        } else {
            if was_told_too_early && candidate != looking.proposal {
                effects.push(self.proposal_to(from));
            }
            self.count(now, effects);
        }
    }

    /// A vote of a server that follows or leads. Two ways lead to joining it: with others of this round, or with others
    /// that are not looking either.
    fn vote_of_settled(&mut self, now: Instant, from: ServerId, ballot: Ballot, effects: &mut Vec<Effect>) {
        let Some(looking) = &mut self.looking else { return };
        let vote = ballot.vote;
        if vote.round == self.round {
            // Without its version, so that among these only leaders are compared.
            looking.received.insert(from, Ballot { versioned: false, ..ballot });
            let supporters = supporters(&looking.received, &ballot);
            if self.view.contains_quorum(&supporters) && leads(&looking.received, self.my_id, self.round, &vote) {
                return self.elect(now, vote, supporters, effects);
            }
        }
        looking.settled.insert(from, ballot);
        let supporters = supporters(&looking.settled, &ballot);
        // They are an ensemble already, by a configuration that counted for them. One that only this server has seen must not
        // keep it out: to follow is no vote, and whom it follows needs a quorum without it.
        let is_ensemble = self.view.contains_quorum_of_either(&supporters);
        if is_ensemble && leads(&looking.settled, self.my_id, self.round, &vote) {
            self.round = vote.round;
            return self.elect(now, vote, supporters, effects);
        }
        self.count(now, effects);
    }

    /// Decides, begins to wait for better votes, or stops waiting.
    fn count(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(looking) = &mut self.looking else { return };
        let proposal = looking.proposal.in_round(self.round);
        let supporters = supporters(&looking.received, &looking_ballot(proposal));
        if !self.view.contains_quorum(&supporters) {
            looking.decide_at = None;
            return;
        }
        let is_heard = |id: &ServerId| looking.received.contains_key(id) || looking.abstaining.contains(id);
        if self.view.voters().iter().all(is_heard) {
            return self.elect(now, proposal, supporters, effects);
        }
        looking.decide_at.get_or_insert(now.after_ms(self.timing.finalize_wait_ms));
    }

    fn elect(&mut self, now: Instant, vote: Vote, supporters: BTreeSet<ServerId>, effects: &mut Vec<Effect>) {
        let Some(looking) = self.looking.take() else { return };
        self.current = vote;
        self.state = self.state_under(vote.leader);
        let took_ms = now.since_ms(looking.started);
        effects.push(Effect::Elected(Elected { state: self.state, vote, supporters, took_ms }));
    }

    /// Tells all participants the proposal, oneself too.
    fn announce(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.send_to_all(effects);
        let Some(looking) = &mut self.looking else { return };
        let vote = looking.proposal.in_round(self.round);
        if self.view.is_voter(self.my_id) && self.view.is_voter(vote.leader) && looking.own.zxid != DOUBTFUL {
            looking.received.insert(self.my_id, looking_ballot(vote));
        }
        self.count(now, effects);
    }

    fn send_to_all(&self, effects: &mut Vec<Effect>) {
        let others = self.view.voters().into_iter().filter(|id| *id != self.my_id);
        effects.extend(others.map(|peer| self.proposal_to(peer)));
    }

    fn proposal_to(&self, peer: ServerId) -> Effect {
        let proposal = self.looking.as_ref().map(|looking| looking.proposal.in_round(self.round));
        self.answer(peer, proposal.unwrap_or(self.current))
    }

    fn answer(&self, to: ServerId, vote: Vote) -> Effect {
        Effect::Send { to, notification: Notification::new(self.state, vote, self.config.clone()) }
    }

    /// Takes over a configuration that is newer than the one in force; says whether the election began anew for it.
    fn adopt_config(&mut self, now: Instant, notification: &Notification, effects: &mut Vec<Effect>) -> bool {
        let Some(text) = notification.config.as_deref() else { return false };
        let newer = |version| self.reconfig_enabled && version > self.view.current().version();
        if !config_version(text).is_some_and(newer) {
            return false;
        }
        let verifier = match QuorumVerifier::parse(text) {
            Ok(verifier) => verifier,
            Err(error) => {
                tracing::error!("a configuration in a notification cannot be read: {error}");
                return false;
            }
        };
        let same = verifier.same_content(self.view.current());
        effects.push(Effect::Adopt(verifier.clone()));
        self.view.activate(verifier);
        self.config = self.view.current().to_string();
        if !same {
            self.restart(now, effects);
        }
        !same
    }

    /// What the configuration says of this server; who is not in it considers itself a participant.
    fn peer_type(&self) -> PeerType {
        self.view.current().member(self.my_id).map_or(PeerType::Participant, |member| member.peer_type)
    }

    fn state_under(&self, leader: ServerId) -> ServerState {
        match self.peer_type() {
            _ if leader == self.my_id => ServerState::Leading,
            PeerType::Participant => ServerState::Following,
            PeerType::Observer => ServerState::Observing,
        }
    }
}

fn looking_ballot(vote: Vote) -> Ballot {
    Ballot { vote, state: ServerState::Looking, versioned: false }
}

fn supporters(ballots: &BTreeMap<ServerId, Ballot>, wanted: &Ballot) -> BTreeSet<ServerId> {
    ballots.iter().filter(|(_, ballot)| wanted.agrees(ballot)).map(|(id, _)| *id).collect()
}

/// Whether the server that the vote names leads: it says so itself. If it is this server, it knows of its own round
/// only. Without this check servers would go on electing one that has just crashed.
fn leads(ballots: &BTreeMap<ServerId, Ballot>, my_id: ServerId, my_round: i64, vote: &Vote) -> bool {
    if vote.leader == my_id {
        return vote.round == my_round;
    }
    ballots.get(&vote.leader).is_some_and(|ballot| ballot.state == ServerState::Leading)
}

/// The version of a configuration, without reading the rest of it.
fn config_version(text: &str) -> Option<i64> {
    let version = text.lines().rev().find_map(|line| line.trim().strip_prefix("version="))?;
    i64::from_str_radix(version, 16).ok()
}
