//! A client shard and the order of writes behind it, with whatever four connections send: handshakes, requests,
//! four-letter words, and what is none of them; with commits that come late, time that passes, and connections that break.
//! Two of the four have a session from the start.
#![no_main]

use std::net::SocketAddr;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ringkeeper::cnxn::{Cnxns, FourLetter, Progress, RequestThrottle, Settings};
use ringkeeper::proto::client::ConnectRequest;
use ringkeeper::request::containers;
use ringkeeper::request::pipeline::{Pipeline, Proposals};
use ringkeeper::request::prepare::Rules;
use ringkeeper::session::{self, Sessions};
use ringkeeper::tree::DataTree;
use ringkeeper::types::{CnxnId, Instant, WallMs};

const WALL: WallMs = WallMs(1_700_000_000_000);

// Each step begins with a byte that says on which connection what is done; most take a length and so many bytes.
fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    let mut rest = data;
    while let Some((step, behind)) = rest.split_first() {
        rest = behind;
        let index = usize::from(step & 3);
        match step >> 2 & 7 {
            0..=3 => {
                let payload = take(&mut rest);
                world.send(index, &(payload.len() as i32).to_be_bytes());
                world.send(index, payload);
            }
            4 => world.send(index, take(&mut rest)),
            5 => world.commit(),
            6 => world.pass(u64::from(step >> 5) * 1000 + 100),
            _ => world.reconnect(index),
        }
        world.look();
    }
    world.commit();
    world.pass(100_000);
    world.look();
});

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((len, behind)) = rest.split_first() else { return &[] };
    let (taken, behind) = behind.split_at(behind.len().min(usize::from(*len)));
    *rest = behind;
    taken
}

struct World {
    cnxns: Cnxns,
    pipeline: Pipeline,
    now: Instant,
    sockets: Vec<(CnxnId, BytesMut)>,
}

impl World {
    fn new() -> World {
        let (tree, now) = (DataTree::new(), Instant(1_000_000));
        let rules = Rules { skip_acl: false, digest_scheme: true, enforce_quota: true, reconfig: false };
        let settings = Settings {
            shard: 0,
            frame_bytes_max: 1 << 20,
            timeout_min_ms: 4_000,
            timeout_max_ms: 40_000,
            sessionless_timeout_ms: 10_000,
            outstanding_max: 1000,
            throttle: RequestThrottle { requests_max: 8, stall_ms: 100, stale_dropped: true, wait_ms_max: Some(5000) },
            large_request_bytes: 200,
            large_requests_bytes_max: 600,
            watches_max: 16,
            rules,
            super_digest: Some("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned()),
            enforced_auth_schemes: Vec::new(),
            forwards: false,
            four_letter_words: FourLetter::all().collect(),
        };
        let mut cnxns = Cnxns::new(settings, tree.tree().clone());
        cnxns.serve("standalone", tree.tree().clone());
        let sessions = Sessions::new(2_000, 0, session::first_id(1, WALL, 0));
        let pipeline = Pipeline::new(tree, sessions, rules, containers::Settings::default(), true, now);
        let mut world = World { cnxns, pipeline, now, sockets: Vec::new() };
        for index in 0..4 {
            let id = world.cnxns.accept(now, peer());
            world.sockets.push((id, BytesMut::new()));
            if index < 2 {
                world.shake_hands(index);
            }
        }
        world.look();
        world.commit();
        world
    }

    fn shake_hands(&mut self, index: usize) {
        let request = ConnectRequest::new_session(10_000);
        let mut payload = Vec::new();
        request.encode(&mut payload);
        self.send(index, &(payload.len() as i32).to_be_bytes());
        self.send(index, &payload);
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        self.sockets[index].1.extend_from_slice(bytes);
    }

    /// What the shard's driver does when something has come: as `shard::clients` does it.
    fn look(&mut self) {
        for index in 0..self.sockets.len() {
            let (id, input) = &mut self.sockets[index];
            while self.cnxns.received(self.now, *id, input) == Progress::Again {}
            let mut output = Vec::new();
            let closed = self.cnxns.take_output(*id, &mut output);
            if closed.or_else(|| self.cnxns.aborted(self.sockets[index].0)).is_some() {
                self.reconnect(index);
            }
        }
        for asked in self.cnxns.take_texts() {
            self.cnxns.answer_text(asked.cnxn, asked.word.word().as_bytes());
        }
        while self.cnxns.has_more() {
            self.cnxns.do_some();
        }
        for ask in self.cnxns.take_asks() {
            self.pipeline.handle(self.now, WALL, ask);
        }
        for answer in self.pipeline.take_answers() {
            self.cnxns.answer(self.now, &answer);
        }
        self.cnxns.take_ready();
    }

    fn commit(&mut self) {
        let proposals = self.pipeline.take_proposals(Proposals::default());
        if let Some((last, _)) = proposals.ends.last()
            && let Some(batch) = self.pipeline.commit(*last)
        {
            self.cnxns.committed(self.now, &batch);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.cnxns.tick(self.now);
        self.pipeline.tick(self.now, WALL);
    }

    fn reconnect(&mut self, index: usize) {
        self.cnxns.disconnected(self.sockets[index].0);
        self.sockets[index] = (self.cnxns.accept(self.now, peer()), BytesMut::new());
    }
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}
