//! What `shard::peers` does: the election and the connections between election ports.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, BytesMut};
use ringkeeper::proto::election::{FRAME_BYTES_MAX, Hello, ServerState};
use ringkeeper::proto::frame;
use ringkeeper::types::{Instant, ServerId};
use ringkeeper::zab::election::{self, Election, Timing};
use ringkeeper::zab::links::{self, LinkId, Links};
use ringkeeper::zab::peer;
use ringkeeper::zab::quorum::{QuorumVerifier, QuorumView};

use crate::network::{ConnId, End, Port};
use crate::options::Options;
use crate::server::Wake;
use crate::world::{Caller, World, note};

/// One of the two state machines' events.
pub enum Input {
    Election(election::Event),
    Links(links::Event),
}

pub struct Elections {
    election: Election,
    links: Links,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    /// The alarm that is set: others are of the past.
    alarm: u64,
    rings_at: Option<Instant>,
    /// The process stops, and takes no more part.
    left: bool,
}

struct Wire {
    conn: ConnId,
    /// Whether the other end is still to say who it is.
    greets: bool,
    input: BytesMut,
}

impl Elections {
    pub fn new(id: usize, view: QuorumView, reconfig: bool) -> Elections {
        let id = ServerId(id as i64);
        Elections {
            election: Election::new(id, view.clone(), Timing::default(), reconfig),
            links: Links::new(id, view, false, 5_000),
            wires: BTreeMap::new(),
            next_wire: 0,
            alarm: 0,
            rings_at: None,
            left: false,
        }
    }

    /// Whether it takes no more part, and its port is shut.
    pub fn has_left(&self) -> bool {
        self.left
    }

    pub fn state(&self) -> ServerState {
        self.election.state()
    }

    /// Whether the election knows no newer configuration than this one.
    pub fn is_news(&self, view: &QuorumView) -> bool {
        view.current().version() >= self.election.view().current().version()
    }
}

/// The ensemble that the options ask for: participants first, then observers.
pub fn view(options: &Options) -> QuorumView {
    let line = |index: usize| {
        let id = index + 1;
        let kind = if id as u64 <= options.voters() { "participant" } else { "observer" };
        format!("server.{id}=h{id}:1:2:{kind}\n")
    };
    let text: String = (0..options.servers()).map(line).collect();
    QuorumView::new(QuorumVerifier::parse(&(text + "version=0")).expect("an ensemble"))
}

impl World {
    /// See `Peers::drive`.
    pub fn drive(&mut self, server: usize, first: Input) {
        let now = self.clocks(server).0;
        let mut inputs = VecDeque::from([first]);
        let mut reports = Vec::new();
        while let Some(input) = inputs.pop_front() {
            let Some(process) = self.process(server).filter(|process| !process.elections.left) else { return };
            match input {
                Input::Election(event) => {
                    let mut effects = Vec::new();
                    process.elections.election.handle(now, event, &mut effects);
                    let view = process.elections.election.view().clone();
                    for effect in effects {
                        match effect {
                            election::Effect::Send { to, notification } => {
                                inputs.push_back(Input::Links(links::Event::Send { to, notification }));
                            }
                            election::Effect::Elected(elected) => {
                                inputs.push_back(Input::Links(links::Event::Settled));
                                let (leader, supporters) = (elected.vote.leader, elected.supporters);
                                note!(self, "{} is {} under {leader}", server + 1, elected.state);
                                reports.push(peer::Event::Elected(leader, supporters));
                            }
                            election::Effect::VoterLooks(voter) => reports.push(peer::Event::VoterLooks(voter)),
                            election::Effect::Adopt(verifier) => {
                                inputs.push_back(Input::Links(links::Event::View(view.clone())));
                                reports.push(peer::Event::Adopted(verifier));
                            }
                        }
                    }
                }
                Input::Links(event) => {
                    let mut effects = Vec::new();
                    process.elections.links.handle(now, event, &mut effects);
                    for effect in effects {
                        self.act_for_links(server, effect, &mut inputs);
                    }
                }
            }
        }
        self.set_alarm(server);
        for report in reports {
            self.happened(server, [report]);
        }
    }

    fn act_for_links(&mut self, server: usize, effect: links::Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            links::Effect::Dial { peer, .. } => {
                let incarnation = self.servers[server].incarnation;
                self.knock_at(server, Caller::Election { server, incarnation }, peer.0 as usize - 1, Port::Election);
            }
            links::Effect::Write { link, bytes } => {
                let Some(process) = self.process(server) else { return };
                let Some(conn) = process.elections.wires.get(&link.0).map(|wire| wire.conn) else { return };
                if let Some(side) = self.network.side_of(conn, End::Election { server, wire: link.0 }) {
                    self.send(conn, side, bytes);
                }
                inputs.push_back(Input::Links(links::Event::Written { link }));
            }
            links::Effect::Close { link } => {
                let Some(process) = self.process(server) else { return };
                if let Some(wire) = process.elections.wires.remove(&link.0)
                    && let Some(side) = self.network.side_of(wire.conn, End::Election { server, wire: link.0 })
                {
                    self.close(wire.conn, side);
                }
            }
            links::Effect::Up(peer) => inputs.push_back(Input::Election(election::Event::LinkUp(peer))),
            links::Effect::Refused(peer) => inputs.push_back(Input::Election(election::Event::Refused(peer))),
            links::Effect::Received { from, notification } => {
                inputs.push_back(Input::Election(election::Event::Received { from, notification }));
            }
        }
    }

    /// See `Peers::ring`.
    fn set_alarm(&mut self, server: usize) {
        let now = self.clocks(server).0;
        let Some(process) = self.process(server) else { return };
        let elections = &mut process.elections;
        let at = elections.election.wake_at().into_iter().chain(elections.links.wake_at()).min();
        if at == elections.rings_at {
            return;
        }
        elections.rings_at = at;
        elections.alarm += 1;
        if let Some(at) = at {
            let alarm = elections.alarm;
            self.wake_after(server, at.since_ms(now) * 1000 + 1, Wake::Ring(alarm));
        }
    }

    pub fn ring(&mut self, server: usize, alarm: u64) {
        let now = self.clocks(server).0;
        let Some(process) = self.process(server) else { return };
        if process.elections.alarm != alarm {
            return;
        }
        process.elections.rings_at = None;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (election, links) = (process.elections.election.wake_at(), process.elections.links.wake_at());
        if due(election) {
            self.drive(server, Input::Election(election::Event::Timer));
        }
        if due(links) {
            self.drive(server, Input::Links(links::Event::Timer));
        }
        self.set_alarm(server);
    }

    /// See `Order::Leave`: the election port is given up, and nothing is done any more.
    pub fn end_elections(&mut self, server: usize) {
        let Some(process) = self.process(server) else { return };
        process.elections.left = true;
        for (wire, Wire { conn, .. }) in std::mem::take(&mut process.elections.wires) {
            if let Some(side) = self.network.side_of(conn, End::Election { server, wire }) {
                self.close(conn, side);
            }
        }
    }

    fn new_wire(&mut self, server: usize, conn: ConnId, greets: bool) -> Option<u64> {
        let elections = &mut self.process(server)?.elections;
        elections.next_wire += 1;
        let wire = elections.next_wire;
        elections.wires.insert(wire, Wire { conn, greets, input: BytesMut::new() });
        Some(wire)
    }

    pub fn accept_wire(&mut self, server: usize, conn: ConnId) -> End {
        self.new_wire(server, conn, true).map_or(End::Gone, |wire| End::Election { server, wire })
    }

    pub fn wire_accepted(&mut self, server: usize, wire: u64) {
        self.drive(server, Input::Links(links::Event::Accepted { link: LinkId(wire) }));
    }

    pub fn wire_answered(&mut self, server: usize, peer: usize, conn: Option<ConnId>, refused: bool) {
        let peer = ServerId(peer as i64 + 1);
        let event = match conn {
            None => links::Event::DialFailed { peer, refused, why: "no connection".to_owned() },
            Some(conn) => {
                let Some(wire) = self.new_wire(server, conn, false) else { return };
                if let Some(found) = self.network.conns.get_mut(&conn) {
                    found.ends[0] = End::Election { server, wire };
                }
                links::Event::Dialled { peer, link: LinkId(wire) }
            }
        };
        self.drive(server, Input::Links(event));
    }

    pub fn wire_received(&mut self, server: usize, wire: u64, bytes: &[u8]) {
        if let Some(found) = self.process(server).and_then(|process| process.elections.wires.get_mut(&wire)) {
            found.input.extend_from_slice(bytes);
        }
        let link = LinkId(wire);
        loop {
            let Some(process) = self.process(server) else { return };
            let Some(found) = process.elections.wires.get_mut(&wire) else { return };
            let event = if found.greets {
                match Hello::decode(&found.input) {
                    Ok(None) => return,
                    Ok(Some((hello, len))) => {
                        found.input.advance(len);
                        found.greets = false;
                        Some(links::Event::Hello { link, hello })
                    }
                    Err(_) => None,
                }
            } else {
                match frame::next(&mut found.input, FRAME_BYTES_MAX) {
                    frame::Next::Need(_) => return,
                    frame::Next::Frame(payload) => Some(links::Event::Frame { link, payload: payload.to_vec() }),
                    frame::Next::BadLength(_) => None,
                }
            };
            match event {
                Some(event) => self.drive(server, Input::Links(event)),
                None => {
                    let what = format!("server {} cannot read what comes to its election port", server + 1);
                    return self.checker.violated("Agreement", what);
                }
            }
        }
    }

    pub fn wire_ended(&mut self, server: usize, wire: u64, why: &str) {
        let Some(process) = self.process(server) else { return };
        if process.elections.wires.remove(&wire).is_some() {
            let event = links::Event::Closed { link: LinkId(wire), why: why.to_owned() };
            self.drive(server, Input::Links(event));
        }
    }
}
