//! Several real servers on loopback: they elect, replicate, lose members and take them back.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use ringkeeper::proto::txn::{Txn, TxnHeader};
use ringkeeper::storage::snapshot;
use ringkeeper::storage::snapshot_format::SnapshotSource;
use ringkeeper::types::{SessionId, WallMs};

use super::observers::figure;
use super::support::*;

/// Servers 1 to n of one ensemble. Those at the end may be observers.
pub struct Ensemble {
    pub servers: Vec<Server>,
    /// The election and quorum ports stay ours while this lives.
    _ports: Vec<Port>,
}

impl Ensemble {
    pub fn new(participants: usize, observers: usize, settings: &str) -> Ensemble {
        Ensemble::at(|_| "127.0.0.1".to_owned(), participants, observers, settings)
    }

    /// The servers speak to each other at the addresses that `host` gives them, by their numbers.
    pub fn at(host: fn(usize) -> String, participants: usize, observers: usize, settings: &str) -> Ensemble {
        let count = participants + observers;
        let ports: Vec<Port> = (0..2 * count).map(|_| Port::free()).collect();
        let mut lines = format!("tickTime=500\ninitLimit=20\nsyncLimit=10\n{settings}");
        for (index, pair) in ports.chunks(2).enumerate() {
            let role = if index < participants { "participant" } else { "observer" };
            let (quorum, election) = (pair[0].number, pair[1].number);
            let (id, host) = (index + 1, host(index + 1));
            lines += &format!("server.{id}={host}:{quorum}:{election}:{role}\n");
        }
        let servers = (0..count).map(|index| {
            let role = if index < participants { "" } else { "peerType=observer\n" };
            let server = Server::new(&format!("{lines}{role}"));
            fs::create_dir_all(server.dir.path().join("data")).expect("it can be made");
            server.dir.write("data/myid", &format!("{}\n", index + 1));
            server
        });
        Ensemble { servers: servers.collect(), _ports: ports }
    }

    /// Servers that are laid out already, with the ports that they speak to each other on.
    pub fn of(servers: Vec<Server>, ports: Vec<Port>) -> Ensemble {
        Ensemble { servers, _ports: ports }
    }

    /// Starts all and waits until all serve.
    pub fn run(participants: usize, observers: usize, settings: &str) -> Ensemble {
        let mut ensemble = Ensemble::new(participants, observers, settings);
        ensemble.servers.iter_mut().for_each(Server::spawn);
        ensemble.wait_until_all_serve();
        ensemble
    }

    pub fn mode(&mut self, index: usize) -> Option<String> {
        let server = &mut self.servers[index];
        if let Some(code) = server.exit_code() {
            panic!("server {} ended with {code:?}:\n{}", index + 1, server.printed());
        }
        let answer = try_ask(&server.address(), "srvr")?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }

    #[track_caller]
    pub fn wait_for_mode(&mut self, index: usize, what: &str, is: impl Fn(&str) -> bool) {
        wait_for(&format!("server {} to be {what}", index + 1), || self.mode(index).filter(|mode| is(mode)));
    }

    #[track_caller]
    pub fn wait_until_all_serve(&mut self) {
        for index in 0..self.servers.len() {
            self.wait_for_mode(index, "serving", |_| true);
        }
    }

    /// Waits until one of these leads.
    #[track_caller]
    pub fn wait_for_leader_among(&mut self, indexes: &[usize]) -> usize {
        wait_for("a leader", || indexes.iter().copied().find(|index| self.mode(*index).as_deref() == Some("leader")))
    }

    #[track_caller]
    pub fn leader(&mut self) -> usize {
        let all: Vec<usize> = (0..self.servers.len()).collect();
        self.wait_for_leader_among(&all)
    }

    /// Waits until each of these shows the data.
    #[track_caller]
    pub fn assert_everywhere(&self, path: &str, data: Option<&[u8]>) {
        for server in &self.servers {
            if server.is_running() {
                assert_eq!(read_synced(server, path).as_deref(), data, "{path} on {}", server.address());
            }
        }
    }
}

/// What is at `path` once the server has caught up with the leader.
fn read_synced(server: &Server, path: &str) -> Option<Vec<u8>> {
    let mut client = server.client();
    client.call(&sync(path));
    let reply = client.call(&get(path, false));
    (reply.err == 0).then(|| reply.data().0.unwrap_or_default())
}

#[test]
fn three_servers_elect_a_leader_and_all_of_them_serve_the_same() {
    let mut ensemble = Ensemble::run(3, 0, "");
    let modes: Vec<Option<String>> = (0..3).map(|index| ensemble.mode(index)).collect();
    assert_eq!(modes.iter().flatten().filter(|mode| *mode == "leader").count(), 1, "{modes:?}");
    assert_eq!(modes.iter().flatten().filter(|mode| *mode == "follower").count(), 2, "{modes:?}");
    for (index, server) in ensemble.servers.iter().enumerate() {
        let mut client = server.client();
        let path = format!("/from{index}");
        client.call(&create(&path, Some(b"here"))).ok();
        client.call(&get(&path, false)).ok();
        ensemble.assert_everywhere(&path, Some(b"here"));
    }
}

#[test]
fn one_server_of_three_serves_nobody() {
    let mut ensemble = Ensemble::new(3, 0, "4lw.commands.whitelist=srvr, ruok\n");
    ensemble.servers[0].spawn();
    let address = ensemble.servers[0].address();
    let answer = wait_for("an answer", || try_ask(&address, "srvr"));
    assert_eq!(answer, "This ZooKeeper instance is not currently serving requests\n");
    assert_eq!(ask(&address, "ruok"), "imok");
    ensemble.servers[1].spawn();
    ensemble.wait_for_mode(0, "serving", |_| true);
    ensemble.wait_for_mode(1, "serving", |_| true);
}

#[test]
fn what_was_acknowledged_survives_the_leader_and_its_session_moves() {
    let mut ensemble = Ensemble::run(3, 0, "");
    let leader = ensemble.leader();
    let mut client = ensemble.servers[leader].client();
    client.call(&create("/kept", Some(b"1"))).ok();
    client.call(&create_ephemeral("/mine")).ok();
    let (session, password) = (client.session, client.password);
    ensemble.servers[leader].kill();
    let rest: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    ensemble.wait_for_leader_among(&rest);
    for index in &rest {
        ensemble.wait_for_mode(*index, "serving", |_| true);
    }
    let moved = wait_for("the session to move", || {
        Client::attach(&ensemble.servers[rest[0]].address(), session, &password)
            .filter(|moved| moved.session == session)
    });
    let mut moved = moved;
    moved.call(&set("/kept", Some(b"2"))).ok();
    ensemble.assert_everywhere("/kept", Some(b"2"));
    ensemble.assert_everywhere("/mine", Some(b"e"));

    ensemble.servers[leader].spawn();
    ensemble.wait_for_mode(leader, "following", |mode| mode == "follower");
    ensemble.assert_everywhere("/kept", Some(b"2"));
    moved.call(&CLOSE_SESSION);
    ensemble.assert_everywhere("/mine", None);
}

#[test]
fn a_password_that_is_not_the_sessions_gets_no_session_anywhere() {
    let ensemble = Ensemble::run(3, 0, "");
    let client = ensemble.servers[0].client();
    for server in &ensemble.servers {
        let attached = Client::attach(&server.address(), client.session, &[7; 16]);
        assert!(attached.is_none_or(|attached| attached.session == SessionId::NONE));
    }
}

#[test]
fn an_observer_serves_and_has_no_vote() {
    let mut ensemble = Ensemble::run(2, 1, "");
    assert_eq!(ensemble.mode(2).as_deref(), Some("observer"));
    ensemble.servers[2].client().call(&create("/by_an_observer", Some(b"x"))).ok();
    ensemble.assert_everywhere("/by_an_observer", Some(b"x"));
    ensemble.servers[0].kill();
    let address = ensemble.servers[2].address();
    wait_for("the observer to lose its leader", || {
        try_ask(&address, "srvr").filter(|answer| answer.contains("not currently serving"))
    });
    ensemble.servers[0].spawn();
    ensemble.wait_until_all_serve();
}

#[test]
fn a_server_that_was_away_for_long_comes_back_with_everything() {
    let mut ensemble = Ensemble::run(3, 0, "snapCount=2000\n");
    let leader = ensemble.leader();
    let away = (leader + 1) % 3;
    ensemble.servers[away].kill();
    let mut client = ensemble.servers[leader].client();
    client.call(&create("/n", Some(b""))).ok();
    let data = vec![b'x'; 1000];
    for _ in 0..50 {
        let requests: Vec<Request> = (0..100).map(|_| set("/n", Some(&data))).collect();
        for _ in client.pipeline(&requests) {
            client.next_reply().ok();
        }
    }
    client.call(&set("/n", Some(b"last"))).ok();
    ensemble.servers[away].spawn();
    ensemble.wait_until_all_serve();
    ensemble.assert_everywhere("/n", Some(b"last"));
}

/// Memory keeps no more than the least, and what the follower lacks is in several segments on the leader's disk.
const LITTLE_MEMORY: &str = "ringkeeper.committedLogBytes=0\nringkeeper.segmentBytes=1048576\nsnapshotSizeFactor=0\n";

/// A follower goes away behind one transaction of an ensemble, and misses some thousands. The leader, the follower, and how
/// often learners got snapshots from the leader before.
fn with_a_follower_that_is_far_behind(settings: &str) -> (Ensemble, usize, usize, Option<i64>) {
    let mut ensemble = Ensemble::run(3, 0, settings);
    let leader = ensemble.leader();
    let away = (leader + 1) % 3;
    let mut client = ensemble.servers[leader].client();
    client.call(&create("/n", Some(b""))).ok();
    ensemble.assert_everywhere("/n", Some(b""));
    ensemble.servers[away].kill();
    for round in 0..30 {
        let requests = (0..100).map(|i| create(&format!("/n/{round}-{i}"), Some(&[b'x'; 1000])));
        for _ in client.pipeline(&requests.collect::<Vec<Request>>()) {
            client.next_reply().ok();
        }
    }
    client.call(&set("/n", Some(b"last"))).ok();
    let snapshots = figure(&ensemble.servers[leader], "snap_count");
    (ensemble, leader, away, snapshots)
}

/// Whether a server shows all that was written meanwhile.
fn has_caught_up(server: &Server) -> bool {
    let mut client = server.client();
    client.call(&sync("/n"));
    let (data, stat) = client.call(&get("/n", false)).data();
    (data.as_deref(), stat.num_children) == (Some(b"last"), 3000)
}

#[test]
fn a_follower_that_lacks_more_than_memory_has_gets_it_from_the_log() {
    let (mut ensemble, leader, away, snapshots) = with_a_follower_that_is_far_behind(LITTLE_MEMORY);
    ensemble.servers[away].spawn();
    ensemble.wait_for_mode(away, "following", |mode| mode == "follower");
    let printed = ensemble.servers[leader].printed();
    assert!(printed.contains(": DIFF, up to 0x"), "{printed}");
    assert_eq!(figure(&ensemble.servers[leader], "snap_count"), snapshots);
    assert!(has_caught_up(&ensemble.servers[away]));
    // From its own log it comes to the same.
    ensemble.servers[away].kill();
    ensemble.servers[away].spawn();
    ensemble.wait_for_mode(away, "following", |mode| mode == "follower");
    assert!(has_caught_up(&ensemble.servers[away]));
}

#[test]
fn a_follower_that_lacks_more_than_the_log_may_send_gets_a_snapshot() {
    let settings = LITTLE_MEMORY.replace("Factor=0", "Factor=-1");
    let (mut ensemble, leader, away, snapshots) = with_a_follower_that_is_far_behind(&settings);
    ensemble.servers[away].spawn();
    ensemble.wait_for_mode(away, "following", |mode| mode == "follower");
    assert_eq!(figure(&ensemble.servers[leader], "snap_count"), snapshots.map(|count| count + 1));
    assert!(has_caught_up(&ensemble.servers[away]));
}

/// A part of what the follower lacks was sent before the damage was met.
#[test]
fn a_follower_gets_a_snapshot_where_the_leaders_log_is_damaged() {
    let (mut ensemble, leader, away, snapshots) = with_a_follower_that_is_far_behind(LITTLE_MEMORY);
    let dir = ensemble.servers[leader].log_dir();
    let files = fs::read_dir(&dir).expect("it is there").map(|entry| entry.expect("it can be read").path());
    let is_segment = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("ringlog.");
    let mut segments: Vec<PathBuf> = files.filter(is_segment).collect();
    segments.sort();
    let file = fs::File::options().read(true).write(true).open(&segments[1]).expect("there are several");
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, 600_000).expect("it can be read");
    file.write_all_at(&bytes.map(|byte| byte ^ 0x10), 600_000).expect("it can be written");
    file.sync_all().expect("it can be flushed");
    ensemble.servers[away].spawn();
    ensemble.wait_for_mode(away, "following", |mode| mode == "follower");
    let printed = ensemble.servers[leader].printed();
    assert_eq!(printed.matches("cannot be sent to a learner").count(), 1, "{printed}");
    assert_eq!(figure(&ensemble.servers[leader], "snap_count"), snapshots.map(|count| count + 1));
    assert!(has_caught_up(&ensemble.servers[away]));
}

#[test]
fn damage_in_the_middle_of_a_log_is_healed_by_the_leader() {
    let mut ensemble = Ensemble::run(3, 0, "");
    let leader = ensemble.leader();
    let hurt = (leader + 1) % 3;
    let mut client = ensemble.servers[leader].client();
    client.call(&create("/n", Some(b""))).ok();
    for i in 0..200 {
        client.call(&set("/n", Some(format!("{i}").as_bytes()))).ok();
    }
    ensemble.assert_everywhere("/n", Some(b"199"));
    ensemble.servers[hurt].kill();
    let dir = ensemble.servers[hurt].log_dir();
    let segment = fs::read_dir(&dir).expect("it is there").map(|entry| entry.expect("it can be read").path());
    let mut segments: Vec<_> =
        segment.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("ringlog.")).collect();
    segments.sort();
    let mut bytes = fs::read(&segments[0]).expect("it can be read");
    bytes[4096 + 3000] ^= 0x10;
    fs::write(&segments[0], bytes).expect("it can be written");
    ensemble.servers[hurt].spawn();
    ensemble.wait_for_mode(hurt, "following", |mode| mode == "follower");
    assert!(ensemble.servers[hurt].printed().contains("is set aside in"), "it says so");
    ensemble.assert_everywhere("/n", Some(b"199"));
}

/// Whatever made them differ: here its snapshot was written anew with other data in it.
#[test]
fn a_follower_whose_tree_is_not_the_leaders_says_so_and_is_right_after_a_restart() {
    const ALARM: &str = "Digests are not matching";
    const NO_SNAPSHOT: &str = "so no snapshot is taken";
    let mut ensemble = Ensemble::run(3, 0, "4lw.commands.whitelist=*\n");
    let leader = ensemble.leader();
    let wrong = (leader + 1) % 3;
    ensemble.servers[leader].client().call(&create("/n", Some(b"right"))).ok();
    ensemble.assert_everywhere("/n", Some(b"right"));
    let dir = ensemble.servers[wrong].log_dir();
    let stopped = (0..5).find_map(|_| {
        ensemble.servers[wrong].stop();
        if !ensemble.servers[wrong].printed().contains(NO_SNAPSHOT) {
            return snapshot::load_newest(&dir, None).expect("it can be read");
        }
        // It was not told in time that everything is committed.
        ensemble.servers[wrong].spawn();
        ensemble.wait_for_mode(wrong, "following", |mode| mode == "follower");
        None
    });
    let mut data_tree = stopped.expect("a stop leaves a snapshot").data_tree;
    let header = TxnHeader { session: SessionId(1), cxid: 1, zxid: data_tree.tree().zxid(), time: WallMs(1) };
    data_tree.apply(&header, &Txn::SetData { path: "/n".into(), data: Some(b"wrong"[..].into()), version: 1 });
    snapshot::write(&dir, &SnapshotSource::of(&data_tree, true), |_| {}).expect("it can be written");

    ensemble.servers[wrong].spawn();
    ensemble.wait_for_mode(wrong, "following", |mode| mode == "follower");
    let mut client = ensemble.servers[leader].client();
    for i in 0..20 {
        client.call(&create(&format!("/more{i}"), Some(b"x"))).ok();
    }
    assert_eq!(read_synced(&ensemble.servers[wrong], "/n").as_deref(), Some(&b"wrong"[..]));
    let alarms = |ensemble: &Ensemble| -> Vec<usize> {
        ensemble.servers.iter().map(|server| server.printed().matches(ALARM).count()).collect()
    };
    for (index, count) in alarms(&ensemble).into_iter().enumerate() {
        // Once for each leader that it has had, of which there is one but on a bad day.
        assert!(if index == wrong { (1..10).contains(&count) } else { count == 0 }, "{count} on server {}", index + 1);
    }
    let figures = ask(&ensemble.servers[wrong].address(), "mntr");
    let counted = figures.lines().find_map(|line| line.strip_prefix("zk_digest_mismatches_count\t"));
    assert!(counted.and_then(|count| count.parse().ok()).is_some_and(|count: u64| count >= 20), "{counted:?}");

    // A snapshot of that tree would hide it from the next start.
    ensemble.servers[wrong].stop();
    assert!(ensemble.servers[wrong].printed().contains(NO_SNAPSHOT), "it leaves none");
    ensemble.servers[wrong].spawn();
    ensemble.wait_for_mode(wrong, "following", |mode| mode == "follower");
    assert!(ensemble.servers[wrong].printed().contains("is set aside in"), "it says what was wrong");
    ensemble.servers[leader].client().call(&create("/after", Some(b"x"))).ok();
    ensemble.assert_everywhere("/n", Some(b"right"));
    ensemble.assert_everywhere("/after", Some(b"x"));
    assert_eq!(alarms(&ensemble), [0; 3]);
}

#[test]
fn a_whole_ensemble_that_is_killed_comes_back_with_everything() {
    let mut ensemble = Ensemble::run(3, 0, "");
    let mut client = ensemble.servers[0].client();
    client.call(&create("/kept", Some(b"1"))).ok();
    for round in 0..3_u8 {
        let mut client = ensemble.servers[usize::from(round)].client();
        client.call(&set("/kept", Some(&[round]))).ok();
        ensemble.servers.iter_mut().for_each(Server::kill);
        ensemble.servers.iter_mut().for_each(Server::spawn);
        ensemble.wait_until_all_serve();
        ensemble.assert_everywhere("/kept", Some(&[round]));
    }
}

/// What a leader had logged and nobody else knew is gone when it comes back (TRUNC).
#[test]
fn a_lost_leaders_own_transaction_is_cut() {
    let mut ensemble = Ensemble::run(3, 0, "");
    for round in 0..5 {
        let leader = ensemble.leader();
        let rest: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
        let mut client = ensemble.servers[leader].client();
        let path = format!("/nobody_knows_{round}");
        rest.iter().for_each(|index| ensemble.servers[*index].kill());
        client.send(&create(&path, Some(b"x")));
        let address = ensemble.servers[leader].address();
        wait_for("the leader to step down", || {
            try_ask(&address, "srvr").filter(|answer| answer.contains("not currently serving"))
        });
        ensemble.servers[leader].kill();
        rest.iter().for_each(|index| ensemble.servers[*index].spawn());
        ensemble.wait_for_leader_among(&rest);
        // Before the new epoch has a transaction; after it, it would be a SNAP.
        ensemble.servers[leader].spawn();
        ensemble.wait_until_all_serve();
        let known = format!("/known_{round}");
        ensemble.servers[rest[0]].client().call(&create(&known, Some(b"x"))).ok();
        ensemble.assert_everywhere(&path, None);
        ensemble.assert_everywhere(&known, Some(b"x"));
        // Now and then the leader has stepped down before the write came.
        if ensemble.servers[leader].printed().contains("Truncating log to get in sync with the leader") {
            ensemble.servers.iter_mut().for_each(Server::kill);
            ensemble.servers.iter_mut().for_each(Server::spawn);
            ensemble.wait_until_all_serve();
            ensemble.assert_everywhere(&path, None);
            return;
        }
    }
    panic!("nothing was ever cut");
}
