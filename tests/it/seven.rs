//! Five participants and two observers on one machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ringkeeper::proto::client::ConnectRequest;

use super::ensemble::Ensemble;
use super::support::*;

/// What each client writes before anything dies, and the least that it writes beside that and after.
const WRITES: usize = 50;
const SESSION_MS: i32 = 60_000;
const NODE_EXISTS: i32 = -110;

/// Everything below `/` as a client sees it, once the server has caught up with the leader: data and Stat.
fn tree(server: &Server) -> BTreeMap<String, String> {
    let mut client = server.client();
    client.call(&sync("/"));
    let mut tree = BTreeMap::new();
    let mut paths = vec!["/".to_owned()];
    while let Some(path) = paths.pop() {
        let (names, _) = client.call(&children(&path, false)).children();
        let parent = path.trim_end_matches('/');
        paths.extend(names.iter().map(|name| format!("{parent}/{name}")));
        let (data, stat) = client.call(&get(&path, false)).data();
        tree.insert(path, format!("{data:?} {stat:?}"));
    }
    // Its mtime is each server's own, as Apache's is.
    tree.remove("/zookeeper/config");
    tree
}

/// Writes through one server, whatever happens to the others, in one session.
struct Writer {
    address: String,
    client: Client,
    id: usize,
    written: usize,
}

impl Writer {
    fn begin(server: &Server, id: usize) -> Writer {
        let mut client = Client::connect_for(&server.address(), SESSION_MS);
        client.call(&create(&format!("/by_{id}"), None)).ok();
        Writer { address: server.address(), client, id, written: 0 }
    }

    fn write(&mut self) {
        let request = create(&format!("/by_{}/{}", self.id, self.written), Some(b"x"));
        let mut tried_before = false;
        loop {
            match self.client.try_call(&request) {
                Some(Reply { err: 0, .. }) => break,
                // The connection was lost between the write and its reply.
                Some(Reply { err: NODE_EXISTS, .. }) if tried_before => break,
                Some(reply) => panic!("write {} by way of {}: {reply:?}", self.written, self.id),
                None => self.come_back(),
            }
            tried_before = true;
        }
        self.written += 1;
    }

    fn come_back(&mut self) {
        let (session, password) = (self.client.session, self.client.password.to_vec());
        let request = ConnectRequest { session, password, ..new_session(SESSION_MS) };
        self.client = wait_for("the session to go on", || {
            // While there is no leader the server hangs up.
            Client::shake_hands(Wire::try_dial(&self.address)?, &request)
        });
        assert_eq!(self.client.session, session);
    }
}

/// Says that it is over when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn five_servers_and_two_observers_lose_their_leader_and_a_follower_and_agree() {
    // Sessions end by nothing but a lost server: this machine may be slow.
    let mut ensemble = Ensemble::run(5, 2, "maxSessionTimeout=60000\n");
    let leader = ensemble.leader();
    let follower = (leader + 1) % 5;
    let rest: Vec<usize> = (0..7).filter(|index| ![leader, follower].contains(index)).collect();
    let mut writers: Vec<Writer> =
        ensemble.servers.iter().enumerate().map(|(id, server)| Writer::begin(server, id)).collect();
    thread::scope(|scope| {
        for writer in &mut writers {
            scope.spawn(|| (0..WRITES).for_each(|_| writer.write()));
        }
    });

    // Those of the servers that live on write all the while.
    let over = AtomicBool::new(false);
    let (dying, mut living): (Vec<Writer>, Vec<Writer>) =
        writers.into_iter().partition(|writer| !rest.contains(&writer.id));
    thread::scope(|scope| {
        for writer in &mut living {
            let over = &over;
            scope.spawn(move || {
                let begun = writer.written;
                while !over.load(Ordering::Relaxed) || writer.written < begun + WRITES {
                    writer.write();
                }
            });
        }
        // Before the writers are waited for, also if something goes wrong here.
        let _over = Over(&over);
        ensemble.servers[leader].kill();
        ensemble.servers[follower].kill();
        ensemble.wait_for_leader_among(&rest);
        rest.iter().for_each(|index| ensemble.wait_for_mode(*index, "serving", |_| true));
        ensemble.servers[leader].spawn();
        ensemble.servers[follower].spawn();
        ensemble.wait_until_all_serve();
    });

    let modes: Vec<String> = (0..7).filter_map(|index| ensemble.mode(index)).collect();
    let count = |role: &str| modes.iter().filter(|mode| *mode == role).count();
    assert_eq!((count("leader"), count("follower"), count("observer")), (1, 4, 2), "{modes:?}");
    // The sessions that lost their servers live too, with what they wrote.
    for mut writer in dying {
        writer.write();
        living.push(writer);
    }
    let trees: Vec<BTreeMap<String, String>> = ensemble.servers.iter().map(tree).collect();
    for (index, other) in trees.iter().enumerate().skip(1) {
        let differ = trees[0].iter().find(|(path, seen)| other.get(*path) != Some(seen));
        assert!(differ.is_none() && other.len() == trees[0].len(), "server {} against 1: {differ:?}", index + 1);
    }
    for Writer { id, written, .. } in living {
        let prefix = format!("/by_{id}/");
        assert_eq!(trees[0].keys().filter(|path| path.starts_with(&prefix)).count(), written, "by way of {id}");
    }
}
