//! Real ensembles on loopback whose members change while they run.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringkeeper::jute::Write as _;

use super::http::{asked, port_in};
use super::support::*;

/// `super:admin`.
const SUPER: &str = "DigestAuthenticationProvider.superDigest=super:xQJmxLMiHGwaqBvst5y6rkB6HQs=\n";
const SETTINGS: &str = "tickTime=500\ninitLimit=20\nsyncLimit=10\nreconfigEnabled=true\n\
                        admin.enableServer=true\nadmin.serverAddress=127.0.0.1\nadmin.serverPort=0\n";

struct Member {
    server: Server,
    quorum: Port,
    election: Port,
}

impl Member {
    fn new() -> Member {
        Member { server: Server::new(""), quorum: Port::free(), election: Port::free() }
    }

    fn line(&self, id: usize, role: &str) -> String {
        let (quorum, election) = (self.quorum.number, self.election.number);
        format!("server.{id}=127.0.0.1:{quorum}:{election}:{role};{}", self.server.address())
    }

    fn lay_out(&self, id: usize, lines: &[String]) {
        self.server.configure(&format!("{SETTINGS}{SUPER}{}\n", lines.join("\n")));
        self.server.dir.write("data/myid", &format!("{id}\n"));
    }
}

/// Servers 1 to n. All that are started are expected to serve.
struct Ensemble {
    members: Vec<Member>,
}

impl Ensemble {
    /// Starts servers with these roles.
    fn run(roles: &[&str]) -> Ensemble {
        let members: Vec<Member> = roles.iter().map(|_| Member::new()).collect();
        let mut ensemble = Ensemble { members };
        let lines: Vec<String> = roles.iter().enumerate().map(|(i, role)| ensemble.line(i + 1, role)).collect();
        for (index, member) in ensemble.members.iter_mut().enumerate() {
            member.lay_out(index + 1, &lines);
            member.server.spawn();
        }
        (1..=roles.len()).for_each(|id| drop(ensemble.wait_for_mode(id, |_| true)));
        ensemble
    }

    /// Starts a server that the others do not know; it knows them and itself. Its id.
    fn join(&mut self, known: &[usize]) -> usize {
        self.members.push(Member::new());
        let id = self.members.len();
        let lines: Vec<String> = known.iter().chain([&id]).map(|id| self.line(*id, "participant")).collect();
        self.members[id - 1].lay_out(id, &lines);
        self.server(id).spawn();
        self.wait_for_mode(id, |mode| mode == "follower");
        id
    }

    fn line(&self, id: usize, role: &str) -> String {
        self.members[id - 1].line(id, role)
    }

    fn server(&mut self, id: usize) -> &mut Server {
        &mut self.members[id - 1].server
    }

    fn mode(&mut self, id: usize) -> Option<String> {
        let server = self.server(id);
        if let Some(code) = server.exit_code() {
            panic!("server {id} ended with {code:?}:\n{}", server.printed());
        }
        let answer = try_ask(&server.address(), "srvr")?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }

    #[track_caller]
    fn wait_for_mode(&mut self, id: usize, is: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("the mode of server {id}"), || self.mode(id).filter(|mode| is(mode)))
    }

    #[track_caller]
    fn leader(&mut self, among: &[usize]) -> usize {
        wait_for("a leader", || among.iter().copied().find(|id| self.mode(*id).as_deref() == Some("leader")))
    }

    /// Waits until the server has written down the configuration with that version.
    #[track_caller]
    fn wait_until_kept(&mut self, id: usize, version: i64) {
        let (path, name) = (self.server(id).config_path(), format!("zoo.cfg.dynamic.{version:x}\n"));
        wait_for(&format!("server {id} to name {name}"), || {
            fs::read_to_string(&path).ok().filter(|text| text.contains(&name))
        });
    }

    /// Waits until a command of the server's AdminServer answers with that line.
    #[track_caller]
    fn wait_for_line(&mut self, id: usize, command: &str, line: &str) {
        let admin = port_in(&self.server(id).printed(), "Started AdminServer on address 127.0.0.1, port ");
        wait_for(&format!("{line} from {command} of server {id}"), || {
            let (_, body) = asked(&admin, &format!("GET /commands/{command}"));
            body.lines().any(|told| told.trim().trim_end_matches(',') == line).then_some(())
        });
    }

    /// A client of that server that may reconfigure.
    fn admin(&mut self, id: usize) -> Client {
        let mut client = self.server(id).client();
        client.call(&auth("digest", b"super:admin")).ok();
        client
    }

    /// What `/zookeeper/config` says on each of these, which must be the same: the lines, and the version behind them.
    #[track_caller]
    fn config(&mut self, ids: &[usize]) -> (Vec<String>, i64) {
        let mut texts: Vec<(String, i64)> = ids
            .iter()
            .map(|id| {
                let mut client = self.server(*id).client();
                client.call(&sync("/"));
                let (data, stat) = client.call(&get("/zookeeper/config", false)).data();
                assert_eq!(stat.version, -1);
                (String::from_utf8(data.expect("there is a text")).expect("it is text"), stat.mzxid)
            })
            .collect();
        texts.dedup();
        let [(text, mzxid)] = &texts[..] else { panic!("{texts:?}") };
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let version = lines.pop().and_then(|line| i64::from_str_radix(line.strip_prefix("version=")?, 16).ok());
        assert_eq!(version, Some(*mzxid), "{text}");
        (lines, *mzxid)
    }
}

fn reconfig(joining: &[String], leaving: &[usize], version: i64) -> Request {
    let leaving: Vec<String> = leaving.iter().map(usize::to_string).collect();
    Request::new(16, |body| {
        body.put_string(&joining.join(","));
        body.put_string(&leaving.join(","));
        body.put_int(-1);
        body.put_long(version);
    })
}

/// Writes for as long as it lives, and remembers the last write that was acknowledged.
struct Writer {
    done: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Writer {
    /// One that stays with this server, and comes back when it is turned away.
    fn start(server: &Server, path: &str) -> Writer {
        let (address, path, done) = (server.address(), path.to_owned(), Arc::new(AtomicBool::new(false)));
        Client::connect(&address).call(&create(&path, None)).ok();
        let until = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let mut acknowledged = 0;
            while !until.load(Ordering::Relaxed) {
                let connected =
                    Wire::try_dial(&address).and_then(|wire| Client::shake_hands(wire, &new_session(30_000)));
                let Some(mut client) = connected else {
                    // Nobody serves there for a moment.
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                while !until.load(Ordering::Relaxed) {
                    client.send(&set(&path, Some((acknowledged + 1).to_string().as_bytes())));
                    match client.try_next() {
                        Some(Frame::Reply(reply)) if reply.err == 0 => acknowledged += 1,
                        _ => break,
                    }
                }
            }
            acknowledged
        });
        Writer { done, thread }
    }

    /// Ends it, and finds its last acknowledged write, or one behind it, on each of these servers.
    #[track_caller]
    fn finish(self, path: &str, servers: &[&Server]) {
        self.done.store(true, Ordering::Relaxed);
        let acknowledged = self.thread.join().expect("it does not panic");
        assert!(acknowledged > 0, "nothing was written");
        for server in servers {
            let mut client = server.client();
            client.call(&sync(path));
            let data = client.call(&get(path, false)).data().0.unwrap_or_default();
            let found: u32 = String::from_utf8_lossy(&data).parse().expect("a number");
            assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} instead of {acknowledged}");
        }
    }
}

#[test]
fn three_servers_become_five_and_then_two_while_clients_write() {
    let mut e = Ensemble::run(&["participant"; 3]);
    let (_, version) = e.config(&[1, 2, 3]);
    assert_eq!(version, 0x1_0000_0000, "the first configuration has the name of its epoch");
    for id in 1..=3 {
        let cfg = fs::read_to_string(e.server(id).config_path()).expect("it is there");
        assert!(cfg.contains("zoo.cfg.dynamic.100000000\n") && !cfg.contains("server.1"), "{cfg}");
        let kept = fs::read_to_string(e.server(id).dir.path().join("zoo.cfg.bak")).expect("it is there");
        assert!(kept.contains("server.1"), "{kept}");
    }
    let mut watcher = e.server(1).client();
    watcher.call(&get("/zookeeper/config", true)).ok();
    let writer = Writer::start(e.server(1), "/load");
    let joined = [e.join(&[1, 2, 3]), e.join(&[1, 2, 3])];
    let mut admin = e.admin(2);
    let lines = joined.map(|id| e.line(id, "participant"));
    let (text, stat) = admin.call(&reconfig(&lines, &[], version)).data();
    assert!(stat.mzxid > version);
    let text = String::from_utf8(text.expect("the new configuration")).expect("it is text");
    assert!(lines.iter().all(|line| text.contains(line)), "{text}");
    let event = watcher.next_event();
    assert_eq!((event.path.as_str(), event.kind), ("/zookeeper/config", 3));
    let (config, grown) = e.config(&[1, 2, 3, 4, 5]);
    assert_eq!((config.len(), grown), (5, stat.mzxid));
    assert_eq!(admin.call(&reconfig(&[], &[1], version)).err, -103, "somebody was faster");

    // Without the old three there is no quorum of five, but one of two.
    let leader = e.leader(&[1, 2, 3, 4, 5]);
    let staying = [leader, if leader == 5 { 4 } else { 5 }];
    let leaving: Vec<usize> = (1..=5).filter(|id| !staying.contains(id)).collect();
    let mut admin = e.admin(staying[0]);
    let shrunk = admin.call(&reconfig(&[], &leaving, -1)).data().1.mzxid;
    for id in 1..=5 {
        e.wait_until_kept(id, shrunk);
    }
    writer.finish("/load", &e.members.iter().map(|member| &member.server).collect::<Vec<_>>());
    for id in &leaving {
        e.server(*id).kill();
    }
    let mut client = e.server(staying[1]).client();
    client.call(&create("/without", Some(b"the others"))).ok();
    // And so it stays over a restart of all.
    for id in &staying {
        e.server(*id).kill();
    }
    for id in &staying {
        e.server(*id).spawn();
    }
    e.leader(&staying);
    for id in &staying {
        e.wait_for_mode(*id, |_| true);
    }
    let (config, _) = e.config(&staying);
    assert_eq!(config.len(), 2, "{config:?}");
    let removed = leaving[0];
    let (code, printed) = e.server(removed).start_in_vain();
    // It has followed until it was killed, and knows that it does not belong there any more.
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains(&format!("My id {removed} not in the peer list")), "{printed}");
}

#[test]
fn a_leader_that_is_removed_hands_over_and_may_come_back() {
    let mut e = Ensemble::run(&["participant"; 3]);
    let leader = e.leader(&[1, 2, 3]);
    let rest: Vec<usize> = (1..=3).filter(|id| *id != leader).collect();
    let writer = Writer::start(e.server(rest[0]), "/load");
    let line = e.line(leader, "participant");
    // The leader itself tells the client, although it leads no more.
    let reply = e.admin(leader).call(&reconfig(&[], &[leader], -1));
    let text = String::from_utf8(reply.data().0.expect("the new configuration")).expect("it is text");
    assert!(!text.contains(&line), "{text}");
    let next = e.leader(&rest);
    e.wait_for_mode(leader, |mode| mode == "follower");
    e.config(&[1, 2, 3]);
    let mut admin = e.admin(next);
    admin.call(&reconfig(&[line], &[], -1)).ok();
    let (config, _) = e.config(&[1, 2, 3]);
    assert_eq!(config.len(), 3, "{config:?}");
    writer.finish("/load", &e.members.iter().map(|member| &member.server).collect::<Vec<_>>());
    e.server(next).kill();
    let rest: Vec<usize> = (1..=3).filter(|id| *id != next).collect();
    e.leader(&rest);
}

#[test]
fn an_observer_is_promoted_and_a_participant_put_back() {
    let mut e = Ensemble::run(&["participant", "participant", "observer"]);
    assert_eq!(e.mode(3).as_deref(), Some("observer"));
    let leader = e.leader(&[1, 2]);
    let other = 3 - leader;
    let (up, down) = (e.line(3, "participant"), e.line(other, "observer"));
    // Not in one step: an observer is none of those who have acknowledged the history.
    assert_eq!(e.admin(leader).call(&reconfig(&[up.clone(), down.clone()], &[], -1)).err, -13);
    e.wait_for_line(3, "zabstate", "\"voting\" : false");
    e.admin(leader).call(&reconfig(&[up], &[], -1)).ok();
    e.wait_for_mode(3, |mode| mode == "follower");
    e.wait_for_line(3, "zabstate", "\"voting\" : true");
    e.wait_for_line(3, "zabstate", "\"zabstate\" : \"broadcast\"");
    wait_for("the leader to count it", || {
        Some(()).filter(|()| e.admin(leader).call(&reconfig(std::slice::from_ref(&down), &[], -1)).err == 0)
    });
    e.wait_for_mode(other, |mode| mode == "observer");
    e.wait_for_line(other, "zabstate", "\"voting\" : false");
    e.server(other).kill();
    let mut client = e.server(3).client();
    client.call(&create("/by_two", Some(b""))).ok();
    e.server(other).spawn();
    e.wait_for_mode(other, |mode| mode == "observer");
}

#[test]
fn a_client_port_moves_and_connections_stay() {
    let mut e = Ensemble::run(&["participant"; 3]);
    let leader = e.leader(&[1, 2, 3]);
    let moved = leader % 3 + 1;
    let (old, new) = (e.server(moved).address(), Port::free());
    let mut client = e.server(moved).client();
    let line = e.line(moved, "participant").replace(&old, &format!("127.0.0.1:{}", new.number));
    e.admin(leader).call(&reconfig(&[line], &[], -1)).ok();
    let address = format!("127.0.0.1:{}", new.number);
    wait_for("the new port", || try_ask(&address, "srvr").filter(|answer| answer.contains("Mode: follower")));
    wait_for("the old port to be closed", || Wire::try_dial(&old).is_none().then_some(()));
    client.assert_alive();
    e.wait_for_line(moved, "configuration", &format!("\"client_port\" : {}", new.number));
    e.wait_for_line(moved, "voting_view", &format!("\"client_address\" : \"{address}\""));
    // It starts there, too.
    e.server(moved).kill();
    e.server(moved).spawn();
    wait_for("the new port", || try_ask(&address, "srvr").filter(|answer| answer.contains("Mode: follower")));
}

#[test]
fn who_may_not_write_the_configuration_does_not_change_it() {
    let mut e = Ensemble::run(&["participant"; 3]);
    let mut client = e.server(1).client();
    assert_eq!(client.call(&reconfig(&[], &[2], -1)).err, -102);
    let unknown = vec!["server.7=127.0.0.1:1:2;3".to_owned(), "server.8=127.0.0.1:4:5;6".to_owned()];
    let others = (0..2).map(|n| format!("server.{}=127.0.0.1:{}:2;3", 20 + n, 100 + n));
    let many: Vec<String> = unknown.into_iter().chain(others).collect();
    let mut admin = e.admin(1);
    assert_eq!(admin.call(&reconfig(&many, &[], -1)).err, -13, "three of seven are no quorum");
    assert_eq!(admin.call(&reconfig(&[], &[1, 2], -1)).err, -8, "one participant is too few");
    let (config, version) = e.config(&[1, 2, 3]);
    assert_eq!((config.len(), version), (3, 0x1_0000_0000));
}
