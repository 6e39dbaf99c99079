//! The election port of server 2 of three: its links and its election, with whatever anybody sends who connects or is
//! connected to.
#![no_main]

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, BytesMut};
use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::election::{FRAME_BYTES_MAX, Hello};
use ringkeeper::proto::frame::{self, Next};
use ringkeeper::types::{Instant, ServerId, Zxid};
use ringkeeper::zab::election::{self, Election, Timing};
use ringkeeper::zab::links::{self, LinkId, Links};
use ringkeeper::zab::quorum::{QuorumVerifier, QuorumView};

const THREE: &str = "server.1=h:1:2:participant\nserver.2=h:3:4:participant\nserver.3=h:5:6:observer\nversion=0";
const ME: ServerId = ServerId(2);
/// What is carried out for one message: more is a loop.
const INPUTS_MAX: usize = 10_000;
const CONNECTIONS_MAX: usize = 8;

// Each step begins with a byte that says on which connection what is done; most take a length and so many bytes.
fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut port = Port::new(first & 1 == 1);
    while let Some((step, behind)) = rest.split_first() {
        rest = behind;
        match step & 7 {
            0 | 1 => port.accept(),
            2..=4 => {
                let len = rest.first().map_or(0, |len| usize::from(*len));
                rest = rest.get(1..).unwrap_or_default();
                let (bytes, behind) = rest.split_at(rest.len().min(len));
                rest = behind;
                port.receive(usize::from(step >> 4), bytes, step & 8 != 0);
            }
            5 => port.pass(u64::from(step >> 3) * 50),
            6 => port.lose(usize::from(step >> 4)),
            _ => port.look(),
        }
    }
});

enum Input {
    Links(links::Event),
    Election(election::Event),
}

struct Connection {
    greets: bool,
    input: BytesMut,
}

struct Port {
    links: Links,
    election: Election,
    now: Instant,
    next_link: u64,
    connections: BTreeMap<LinkId, Connection>,
}

impl Port {
    fn new(reconfig: bool) -> Port {
        let view = QuorumView::new(QuorumVerifier::parse(THREE).expect("it is right"));
        let mut port = Port {
            links: Links::new(ME, view.clone(), true, 1000),
            election: Election::new(ME, view, Timing::default(), reconfig),
            now: Instant(1_000_000),
            next_link: 0,
            connections: BTreeMap::new(),
        };
        port.look();
        port
    }

    fn look(&mut self) {
        self.drive(Input::Election(election::Event::Look { last_zxid: Zxid(7), current_epoch: 0 }));
    }

    fn new_link(&mut self, greets: bool) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.connections.insert(link, Connection { greets, input: BytesMut::new() });
        link
    }

    fn accept(&mut self) {
        if self.connections.len() < CONNECTIONS_MAX {
            let link = self.new_link(true);
            self.drive(Input::Links(links::Event::Accepted { link }));
        }
    }

    fn nth(&self, index: usize) -> Option<LinkId> {
        self.connections.keys().nth(index % self.connections.len().max(1)).copied()
    }

    fn receive(&mut self, index: usize, bytes: &[u8], framed: bool) {
        let Some(link) = self.nth(index) else { return };
        let connection = self.connections.get_mut(&link).expect("it was looked up");
        if framed {
            connection.input.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        }
        connection.input.extend_from_slice(bytes);
        loop {
            match self.next_event(link) {
                Ok(Some(event)) => self.drive(Input::Links(event)),
                Ok(None) => return,
                Err(()) => {
                    self.connections.remove(&link);
                    return self.drive(Input::Links(links::Event::Closed { link, why: "malformed".to_owned() }));
                }
            }
        }
    }

    /// As `shard::peers` takes messages off a socket.
    fn next_event(&mut self, link: LinkId) -> Result<Option<links::Event>, ()> {
        let Some(connection) = self.connections.get_mut(&link) else { return Ok(None) };
        if connection.greets {
            let Some((hello, len)) = Hello::decode(&connection.input).map_err(drop)? else { return Ok(None) };
            connection.input.advance(len);
            connection.greets = false;
            return Ok(Some(links::Event::Hello { link, hello }));
        }
        match frame::next(&mut connection.input, FRAME_BYTES_MAX) {
            Next::Need(_) => Ok(None),
            Next::Frame(payload) if !payload.is_empty() => {
                Ok(Some(links::Event::Frame { link, payload: payload.to_vec() }))
            }
            Next::Frame(_) | Next::BadLength(_) => Err(()),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.drive(Input::Links(links::Event::Timer));
        self.drive(Input::Election(election::Event::Timer));
    }

    fn lose(&mut self, index: usize) {
        let Some(link) = self.nth(index) else { return };
        self.connections.remove(&link);
        self.drive(Input::Links(links::Event::Closed { link, why: "lost".to_owned() }));
    }

    fn drive(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut carried = 0;
        while let Some(input) = inputs.pop_front() {
            carried += 1;
            assert!(carried < INPUTS_MAX, "one message leads to endless work");
            match input {
                Input::Links(event) => {
                    let mut effects = Vec::new();
                    self.links.handle(self.now, event, &mut effects);
                    effects.into_iter().for_each(|effect| self.links_effect(effect, &mut inputs));
                }
                Input::Election(event) => {
                    let mut effects = Vec::new();
                    self.election.handle(self.now, event, &mut effects);
                    effects.into_iter().for_each(|effect| self.election_effect(effect, &mut inputs));
                }
            }
        }
    }

    fn links_effect(&mut self, effect: links::Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            links::Effect::Dial { peer, .. } if self.connections.len() < CONNECTIONS_MAX => {
                let link = self.new_link(false);
                inputs.push_back(Input::Links(links::Event::Dialled { peer, link }));
            }
            links::Effect::Dial { peer, .. } => {
                let why = "refused".to_owned();
                inputs.push_back(Input::Links(links::Event::DialFailed { peer, refused: true, why }));
            }
            links::Effect::Write { link, .. } if self.connections.contains_key(&link) => {
                inputs.push_back(Input::Links(links::Event::Written { link }));
            }
            links::Effect::Write { .. } => {}
            links::Effect::Close { link } => drop(self.connections.remove(&link)),
            links::Effect::Up(peer) => inputs.push_back(Input::Election(election::Event::LinkUp(peer))),
            links::Effect::Refused(peer) => inputs.push_back(Input::Election(election::Event::Refused(peer))),
            links::Effect::Received { from, notification } => {
                inputs.push_back(Input::Election(election::Event::Received { from, notification }));
            }
        }
    }

    fn election_effect(&mut self, effect: election::Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            election::Effect::Send { to, notification } => {
                inputs.push_back(Input::Links(links::Event::Send { to, notification }));
            }
            election::Effect::Elected(_) => inputs.push_back(Input::Links(links::Event::Settled)),
            election::Effect::Adopt(_) => {
                let view = self.election.view().clone();
                inputs.push_back(Input::Links(links::Event::View(view)));
            }
            election::Effect::VoterLooks(_) => {}
        }
    }
}
