//! Who connects to whom for elections, and what goes over which connection.
//!
//! Every two servers share one connection, and the one with the larger id is its client: it dials, says who it is, and
//! keeps the connection. A server with the smaller id that has something to say and no connection dials too, says who it
//! is and hangs up; that is only a nudge, on which the other dials back.
//!
//! ```text
//! 1 has a vote for 2          2
//!   ---- hello, 1 ---------->    hangs up on it, and dials
//!   <--- hello, 2 -----------    keeps it
//!   <=== votes, both ways ==>
//! ```
//!
//! Nothing is sent to keep a connection alive, and nothing old is sent over a new one: what cannot be sent is forgotten,
//! and [`Effect::Up`] asks the election for what is to be said now. While a message is being written the newest that
//! follows it waits, alone.
//!
//! Connections with participants are made ahead of need, by the server that is their client, so that an election finds
//! them standing. Who does not answer is tried again ever more seldom; an election that has something to say to it starts
//! that over.
//!
//! The driver opens and closes sockets and moves bytes (`shard/peers.rs`). It numbers them with [`LinkId`]s, of
//! which none is used twice. Source: `QuorumCnxManager`.

use std::collections::BTreeMap;

use super::quorum::{HostPort, QuorumView};
use super::types::{Instant, ServerId, ServerState};
use crate::proto::election::{HELLO_ADDRESS_BYTES_MAX, Hello, HelloVersion, Notification};
use crate::proto::frame;

/// Connections that have not said who they are. Beyond it the oldest is closed: who is honest speaks at once.
pub const SILENT_MAX: usize = 32;
/// Servers outside of the configuration that are connected or dialled: joiners and observers of others. More are refused.
pub const STRANGERS_MAX: usize = 16;
/// Addresses of a hello that are dialled; what a server says beyond them is not listened to.
pub const TOLD_ADDRESSES_MAX: usize = 4;
/// The first wait after a failed attempt to connect; each further one is twice as long.
pub const RETRY_MIN_MS: u64 = 50;
/// The longest wait while there is something to say.
pub const RETRY_EAGER_MAX_MS: u64 = 1000;
/// The longest wait otherwise.
pub const RETRY_MAX_MS: u64 = 10_000;
/// A connection that breaks sooner was no success: the waits go on growing.
pub const STEADY_MS: u64 = 1000;

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What happens on the election port.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody has connected.
    Accepted {
        /// The new socket.
        link: LinkId,
    },
    /// Whoever connected says who it is.
    Hello {
        /// The socket.
        link: LinkId,
        /// What it says.
        hello: Hello,
    },
    /// The attempt that [`Effect::Dial`] asked for has succeeded.
    Dialled {
        /// The server.
        peer: ServerId,
        /// The new socket.
        link: LinkId,
    },
    /// It has failed.
    DialFailed {
        /// The server.
        peer: ServerId,
        /// Whether every address refused the connection: the host is there, the server does not run.
        refused: bool,
        /// Why, for people.
        why: String,
    },
    /// A frame has arrived, after the hello.
    Frame {
        /// The socket.
        link: LinkId,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// Everything that [`Effect::Write`] gave for it is written.
    Written {
        /// The socket.
        link: LinkId,
    },
    /// A socket is gone, other than by [`Effect::Close`].
    Closed {
        /// The socket.
        link: LinkId,
        /// Why, for people.
        why: String,
    },
    /// The election has something to say.
    Send {
        /// To whom.
        to: ServerId,
        /// What.
        notification: Notification,
    },
    /// The election is over: nobody waits to be told anything.
    Settled,
    /// The configuration has changed, or one was proposed.
    View(QuorumView),
    /// It is [`Links::wake_at`].
    Timer,
}

/// What is to be done on the election port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to the first of these addresses that answers; names are to be looked up each time.
    Dial {
        /// The server.
        peer: ServerId,
        /// Its election addresses.
        addresses: Vec<HostPort>,
    },
    /// Write these bytes behind what is still unwritten.
    Write {
        /// The socket.
        link: LinkId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close the socket once everything given for it is written. Nothing more is to be reported of it.
    Close {
        /// The socket.
        link: LinkId,
    },
    /// There is a connection with this server.
    Up(ServerId),
    /// This server does not run: [`Event::DialFailed`] says that it refuses connections.
    Refused(ServerId),
    /// A server says something.
    Received {
        /// Which server.
        from: ServerId,
        /// What it says.
        notification: Notification,
    },
}

/// The connections of one server to its peers' election ports, and theirs to it.
#[derive(Debug)]
pub struct Links {
    my_id: ServerId,
    hello: Hello,
    hello_timeout_ms: u64,
    view: QuorumView,
    /// Accepted sockets that have not said who they are, with the time until which they may, oldest first.
    silent: BTreeMap<LinkId, Instant>,
    /// Whose socket it is; only the one in use of each peer.
    owners: BTreeMap<LinkId, ServerId>,
    peers: BTreeMap<ServerId, Peer>,
    /// Counts down: observers of old without an id get these.
    next_anonymous: i64,
}

#[derive(Debug, Default)]
struct Peer {
    link: Option<LinkId>,
    /// Whether a message is being written.
    writing: bool,
    /// What follows it.
    next: Option<Notification>,
    /// The election has something to say to it.
    eager: bool,
    dialling: bool,
    up_at: Instant,
    retry_at: Instant,
    retry_ms: u64,
    failures: u32,
}

impl Links {
    /// No connections yet. The first are wanted at once: see [`Links::wake_at`].
    ///
    /// `multi_address` lets the hello name all addresses of this server, which servers before 3.6 do not understand.
    pub fn new(my_id: ServerId, view: QuorumView, multi_address: bool, hello_timeout_ms: u64) -> Links {
        let hello = hello(my_id, &view, multi_address);
        let (silent, owners) = (BTreeMap::new(), BTreeMap::new());
        let mut links =
            Links { my_id, hello, hello_timeout_ms, view, silent, owners, peers: BTreeMap::new(), next_anonymous: -1 };
        links.expect_voters();
        links
    }

    /// When [`Event::Timer`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        let waiting = self.peers.iter().filter(|(id, peer)| self.wants_dial(**id, peer)).map(|(_, peer)| peer.retry_at);
        self.silent.values().copied().chain(waiting).min()
    }

    /// Servers that there is a connection with, by id.
    pub fn connected(&self) -> impl Iterator<Item = ServerId> {
        self.peers.iter().filter(|(_, peer)| peer.link.is_some()).map(|(id, _)| *id)
    }

    /// Takes in an event and adds what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Accepted { link } => self.accepted(now, link, effects),
            Event::Hello { link, hello } => self.greeted(now, link, hello, effects),
            Event::Dialled { peer, link } => self.dialled(now, peer, link, effects),
            Event::DialFailed { peer, refused, why } => self.dial_failed(now, peer, refused, &why, effects),
            Event::Frame { link, payload } => self.frame(link, &payload, effects),
            Event::Written { link } => self.written(link, effects),
            Event::Closed { link, why } => self.closed(now, link, &why),
            Event::Send { to, notification } => self.send(now, to, notification, effects),
            Event::Settled => self.peers.values_mut().for_each(|peer| peer.eager = false),
            Event::View(view) => {
                self.hello = hello(self.my_id, &view, self.hello.version == HelloVersion::V2);
                self.view = view;
                self.expect_voters();
                for id in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.forget_stranger(id);
                }
            }
            Event::Timer => {}
        }
        self.close_silent(now, effects);
        self.dial(now, effects);
    }

    fn accepted(&mut self, now: Instant, link: LinkId, effects: &mut Vec<Effect>) {
        self.silent.insert(link, now.after_ms(self.hello_timeout_ms));
        if self.silent.len() > SILENT_MAX
            && let Some((oldest, _)) = self.silent.pop_first()
        {
            tracing::warn!(
                "Too many connections to the election port that do not say who they are - max is {SILENT_MAX}"
            );
            effects.push(Effect::Close { link: oldest });
        }
    }

    /// The challenge: who has the larger id keeps the connection.
    fn greeted(&mut self, now: Instant, link: LinkId, hello: Hello, effects: &mut Vec<Effect>) {
        if self.silent.remove(&link).is_none() {
            return;
        }
        let mut sid = hello.sid;
        if sid == Hello::ANONYMOUS_OBSERVER {
            sid = ServerId(self.next_anonymous);
            self.next_anonymous -= 1;
            tracing::info!("Setting arbitrary identifier to observer: {sid}");
        } else if sid.0 < 0 {
            tracing::warn!("A connection from server {sid}, which is no id of a server");
            return effects.push(Effect::Close { link });
        }
        if sid == self.my_id {
            tracing::warn!(
                "We got a connection request from a server with our own ID. \
                 This should be either a configuration error, or a bug."
            );
            return effects.push(Effect::Close { link });
        }
        if !self.has_room_for(sid) {
            tracing::warn!("Too many servers outside of the ensemble - max is {STRANGERS_MAX}; refused server {sid}");
            return effects.push(Effect::Close { link });
        }
        if sid > self.my_id {
            return self.keep(now, sid, link, effects);
        }
        effects.push(Effect::Close { link });
        // It has no connection, or else it would not ask for one: what is taken for it leads nowhere.
        self.drop_link(sid, effects);
        let told = hello.addresses.split('|').filter_map(HostPort::parse).filter(|address| !address.host.is_wildcard());
        let mut addresses: Vec<HostPort> = told.take(TOLD_ADDRESSES_MAX).collect();
        addresses.extend(self.configured(sid));
        addresses.dedup();
        if addresses.is_empty() {
            tracing::warn!("Invalid server id: {sid}");
            return self.forget_stranger(sid);
        }
        let peer = self.peers.entry(sid).or_default();
        if !peer.dialling {
            peer.dialling = true;
            peer.retry_at = now;
            effects.push(Effect::Dial { peer: sid, addresses });
        }
    }

    fn dialled(&mut self, now: Instant, id: ServerId, link: LinkId, effects: &mut Vec<Effect>) {
        let peer = self.peers.entry(id).or_default();
        peer.dialling = false;
        peer.failures = 0;
        if id > self.my_id && peer.link.is_some() {
            // It was faster, and a nudge now would only make it dial again.
            return effects.push(Effect::Close { link });
        }
        let mut bytes = Vec::new();
        self.hello.encode(&mut bytes);
        effects.push(Effect::Write { link, bytes });
        if id < self.my_id {
            return self.keep(now, id, link, effects);
        }
        // The nudge. If nothing comes of it there is another one.
        peer.retry_ms = (peer.retry_ms * 2).clamp(RETRY_MIN_MS, RETRY_EAGER_MAX_MS);
        peer.retry_at = now.after_ms(peer.retry_ms);
        tracing::info!(
            "Have smaller server identifier, so dropping the connection: (myId:{} --> sid:{id})",
            self.my_id
        );
        effects.push(Effect::Close { link });
    }

    fn dial_failed(&mut self, now: Instant, id: ServerId, refused: bool, why: &str, effects: &mut Vec<Effect>) {
        let peer = self.peers.entry(id).or_default();
        peer.dialling = false;
        peer.failures = peer.failures.saturating_add(1);
        let longest = if peer.eager { RETRY_EAGER_MAX_MS } else { RETRY_MAX_MS };
        peer.retry_ms = (peer.retry_ms * 2).clamp(RETRY_MIN_MS, longest);
        peer.retry_at = now.after_ms(peer.retry_ms);
        // Ever more seldom: a server may be away for days.
        if peer.failures.is_power_of_two() {
            tracing::warn!("Cannot open channel to {id} at election address {why}");
        } else {
            tracing::debug!("Cannot open channel to {id} at election address {why}");
        }
        self.forget_stranger(id);
        if refused {
            effects.push(Effect::Refused(id));
        }
    }

    fn frame(&mut self, link: LinkId, payload: &[u8], effects: &mut Vec<Effect>) {
        let Some(from) = self.owners.get(&link).copied() else { return };
        match Notification::decode(payload) {
            Ok(notification) => effects.push(Effect::Received { from, notification }),
            Err(error) => tracing::warn!(
                "Skipping the processing of a partial / malformed response message sent by sid={from} \
                 (message length: {}): {error}",
                payload.len()
            ),
        }
    }

    fn send(&mut self, now: Instant, to: ServerId, notification: Notification, effects: &mut Vec<Effect>) {
        let known = self.view.is_voter(to) || self.peers.contains_key(&to);
        if to == self.my_id || !known {
            return;
        }
        let peer = self.peers.entry(to).or_default();
        if peer.link.is_some() {
            // The connection may be dead already: then it matters whether the server still runs, and it is dialled.
            peer.eager = notification.state == ServerState::Looking;
        }
        match peer.link {
            Some(_) if peer.writing => peer.next = Some(notification),
            Some(link) => {
                peer.writing = true;
                effects.push(Effect::Write { link, bytes: framed(&notification) });
            }
            // Only who looks for a leader has something to say to who is not there.
            None if notification.state == ServerState::Looking && !peer.eager => {
                peer.eager = true;
                peer.retry_ms = 0;
                peer.retry_at = now;
            }
            None => {}
        }
    }

    fn written(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        let Some(peer) = self.owners.get(&link).and_then(|id| self.peers.get_mut(id)) else { return };
        peer.writing = false;
        if let Some(notification) = peer.next.take() {
            peer.writing = true;
            effects.push(Effect::Write { link, bytes: framed(&notification) });
        }
    }

    fn closed(&mut self, now: Instant, link: LinkId, why: &str) {
        if self.silent.remove(&link).is_some() {
            tracing::debug!("A connection to the election port ended before it said who it is: {why}");
        }
        let Some(id) = self.owners.get(&link).copied() else { return };
        tracing::warn!("Connection broken for id {id}, my id = {}: {why}", self.my_id);
        self.release(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            let was_steady = now.since_ms(peer.up_at) >= STEADY_MS;
            peer.retry_ms = if was_steady { 0 } else { (peer.retry_ms * 2).clamp(RETRY_MIN_MS, RETRY_MAX_MS) };
            peer.retry_at = now.after_ms(peer.retry_ms);
        }
        self.forget_stranger(id);
    }

    /// Makes the socket the connection with a server, in place of an older one.
    fn keep(&mut self, now: Instant, id: ServerId, link: LinkId, effects: &mut Vec<Effect>) {
        self.drop_link(id, effects);
        let peer = self.peers.entry(id).or_default();
        (peer.link, peer.up_at, peer.eager, peer.failures) = (Some(link), now, false, 0);
        self.owners.insert(link, id);
        effects.push(Effect::Up(id));
    }

    /// Closes the connection with a server, if there is one.
    fn drop_link(&mut self, id: ServerId, effects: &mut Vec<Effect>) {
        if let Some(link) = self.release(id) {
            effects.push(Effect::Close { link });
        }
    }

    fn release(&mut self, id: ServerId) -> Option<LinkId> {
        let peer = self.peers.get_mut(&id)?;
        let link = peer.link.take()?;
        (peer.writing, peer.next) = (false, None);
        self.owners.remove(&link);
        Some(link)
    }

    fn close_silent(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let late: Vec<LinkId> = self.silent.iter().filter(|(_, until)| **until <= now).map(|(link, _)| *link).collect();
        for link in late {
            tracing::warn!("A connection to the election port did not say who it is in {} ms", self.hello_timeout_ms);
            self.silent.remove(&link);
            effects.push(Effect::Close { link });
        }
    }

    /// Dials whoever is wanted and due.
    fn dial(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let due: Vec<ServerId> = self
            .peers
            .iter()
            .filter(|(id, peer)| self.wants_dial(**id, peer) && peer.retry_at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let addresses = self.configured(id);
            let peer = self.peers.get_mut(&id).expect("it is due");
            peer.dialling = true;
            peer.retry_at = now;
            effects.push(Effect::Dial { peer: id, addresses });
        }
    }

    fn wants_dial(&self, id: ServerId, peer: &Peer) -> bool {
        let is_its_client = id < self.my_id && self.view.is_voter(id);
        let has_address = self.view.current().member(id).or(self.view.last_seen().member(id)).is_some();
        peer.link.is_none() && !peer.dialling && has_address && (peer.eager || is_its_client)
    }

    /// The election addresses of a server in the configuration in force, and others in the proposed one.
    fn configured(&self, id: ServerId) -> Vec<HostPort> {
        let members =
            [self.view.current(), self.view.last_seen()].into_iter().filter_map(|verifier| verifier.member(id));
        let mut addresses: Vec<HostPort> = Vec::new();
        for address in members.flat_map(|member| &member.addresses) {
            let address = address.election();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn expect_voters(&mut self) {
        for id in self.view.voters().into_iter().filter(|id| *id != self.my_id) {
            self.peers.entry(id).or_default();
        }
    }

    fn is_stranger(&self, id: ServerId) -> bool {
        self.view.current().member(id).is_none() && self.view.last_seen().member(id).is_none()
    }

    fn has_room_for(&self, id: ServerId) -> bool {
        let strangers = self.peers.keys().filter(|id| self.is_stranger(**id)).count();
        !self.is_stranger(id) || self.peers.contains_key(&id) || strangers < STRANGERS_MAX
    }

    fn forget_stranger(&mut self, id: ServerId) {
        let is_idle = self.peers.get(&id).is_some_and(|peer| peer.link.is_none() && !peer.dialling);
        if is_idle && self.is_stranger(id) {
            self.peers.remove(&id);
        }
    }
}

/// What this server says of itself when it dials.
fn hello(my_id: ServerId, view: &QuorumView, multi_address: bool) -> Hello {
    let me = view.current().member(my_id).or(view.last_seen().member(my_id));
    let addresses = me.into_iter().flat_map(|member| &member.addresses).map(|address| address.election().to_string());
    let addresses: Vec<String> = if multi_address { addresses.collect() } else { addresses.take(1).collect() };
    let mut addresses = addresses.join("|");
    if addresses.is_empty() || addresses.len() > HELLO_ADDRESS_BYTES_MAX {
        // Whoever is told so uses what is configured there.
        "0.0.0.0:0".clone_into(&mut addresses);
    }
    let version = if multi_address { HelloVersion::V2 } else { HelloVersion::V1 };
    Hello { version, sid: my_id, addresses }
}

fn framed(notification: &Notification) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = frame::begin(&mut bytes);
    notification.encode(&mut bytes);
    frame::end(&mut bytes, start);
    bytes
}
