//! Ensembles that are configured in less usual ways: at IPv6 addresses, and with groups and weights.

use std::fs;
use std::net::TcpListener;

use super::ensemble::Ensemble;
use super::support::*;

/// Moves what is said of the members from `zoo.cfg` to a dynamic file.
fn use_dynamic_file(server: &Server) {
    let text = fs::read_to_string(server.config_path()).expect("it is written");
    let is_membership = |line: &&str| ["server.", "group.", "weight."].iter().any(|family| line.starts_with(family));
    let (members, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(is_membership);
    let path = server.dir.write("zoo.cfg.dynamic", &(members.join("\n") + "\n"));
    server.dir.write("zoo.cfg", &format!("{}\ndynamicConfigFile={}\n", rest.join("\n"), path.display()));
}

/// Whether a server has heard the votes of all these others, by their ids, and has waited since the last of them changed for
/// two of its timeouts, which is longer than it takes to elect a leader whom a quorum agrees on.
fn looks_in_vain(server: &Server, others: &[usize]) -> bool {
    let printed = server.printed();
    let lines: Vec<&str> = printed.lines().collect();
    // The last election.
    let Some(begin) = lines.iter().rposition(|line| line.ends_with(" LOOKING")) else { return false };
    let lines = &lines[begin..];
    if lines.iter().any(|line| line.contains("LEADER ELECTION TOOK")) {
        return false;
    }
    let settled_at = |id: &usize| {
        let heard = format!("n.sid:{id}, n.state:LOOKING, n.leader:");
        let vote = |line: &str| line.split_once(&heard)?.1.split(',').next().map(str::to_owned);
        let last = lines.iter().rev().find_map(|line| vote(line))?;
        lines.iter().position(|line| vote(line).as_ref() == Some(&last))
    };
    let settled: Option<Vec<usize>> = others.iter().map(settled_at).collect();
    let Some(settled) = settled.and_then(|places| places.into_iter().max()) else { return false };
    lines[settled..].iter().filter(|line| line.contains("Notification time out")).count() >= 2
}

/// These servers, by their ids, look for a leader together, and there is none for them.
#[track_caller]
fn assert_no_quorum(ensemble: &mut Ensemble, ids: &[usize]) {
    for id in ids {
        let others: Vec<usize> = ids.iter().copied().filter(|other| other != id).collect();
        wait_for(&format!("server {id} to look for a leader in vain"), || {
            looks_in_vain(&ensemble.servers[id - 1], &others).then_some(())
        });
        assert_eq!(ensemble.mode(id - 1), None, "server {id} serves with {others:?}");
    }
}

#[track_caller]
fn wait_until_these_serve(ensemble: &mut Ensemble, ids: &[usize]) {
    ids.iter().for_each(|id| ensemble.wait_for_mode(id - 1, "serving", |_| true));
}

#[test]
fn a_server_that_cannot_be_a_member_says_why_and_ends() {
    let members = "server.1=127.0.0.1:1:2\nserver.2=127.0.0.1:3:4\nserver.3=127.0.0.1:5:6\n";
    let twice = format!("{members}server.2=127.0.0.1:7:8\n");
    for in_dynamic_file in [false, true] {
        for (my_id, members, why) in [
            (None, members, "myid file is missing; allowed: the id of this server, one of 1, 2, 3"),
            (Some("one"), members, "serverid one is not a number; allowed: the id of this server, one of 1, 2, 3"),
            (Some("7"), members, "My id 7 not in the peer list; allowed: the id of this server, one of 1, 2, 3"),
            (Some("1"), &twice, "server.2 is set twice, in lines "),
        ] {
            let mut server = Server::new(&format!("initLimit=10\nsyncLimit=5\n{members}"));
            if let Some(my_id) = my_id {
                server.dir.write("data/myid", my_id);
            }
            if in_dynamic_file {
                use_dynamic_file(&server);
            }
            let (code, said) = server.start_in_vain();
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains("Invalid config, exiting abnormally") && said.contains(why), "{said}");
        }
    }
}

/// Of the first server of an ensemble.
fn election_port(server: &Server) -> String {
    let text = fs::read_to_string(server.config_path()).expect("it is written");
    let line = text.lines().find_map(|line| line.strip_prefix("server.1=")).expect("there is one");
    line.split(':').nth(2).expect("host, quorum port, election port").to_owned()
}

#[test]
fn an_election_port_in_use_is_named() {
    let mut ensemble = Ensemble::new(3, 0, "electionPortBindRetry=1\n");
    let server = &mut ensemble.servers[0];
    let port = election_port(server);
    let _taken = TcpListener::bind(format!("127.0.0.1:{port}")).expect("it is ours");
    let (code, said) = server.start_in_vain();
    assert_eq!(code, Some(14), "{said}");
    assert!(
        said.contains(&format!("cannot listen on the election port 127.0.0.1:{port}: Address already in use")),
        "{said}"
    );
}

#[test]
fn a_server_that_waits_for_its_election_port_can_be_stopped() {
    let mut ensemble = Ensemble::new(3, 0, "electionPortBindRetry=0\n");
    let server = &mut ensemble.servers[0];
    let _taken = TcpListener::bind(format!("127.0.0.1:{}", election_port(server))).expect("it is ours");
    server.spawn();
    wait_for("it to find the port in use", || {
        server.printed().contains("Exception while listening to address").then_some(())
    });
    server.stop();
    assert!(server.printed().contains("Asked to stop while it starts"), "{}", server.printed());
}

/// Two of five servers are a quorum, and three are none.
#[test]
fn groups_and_weights_decide_and_not_the_number_of_servers() {
    let groups = "group.1=1:2:3\ngroup.2=4\ngroup.3=5\nweight.1=3\n";
    let mut ensemble = Ensemble::new(5, 0, groups);
    // A majority, in one group of three.
    [0, 1, 2].iter().for_each(|index| ensemble.servers[*index].spawn());
    assert_no_quorum(&mut ensemble, &[1, 2, 3]);
    // The second group.
    ensemble.servers[3].spawn();
    wait_until_these_serve(&mut ensemble, &[1, 2, 3, 4]);
    ensemble.servers[1].client().call(&create("/n", Some(b"1"))).ok();
    ensemble.assert_everywhere("/n", Some(b"1"));

    // A majority without the weight of the first group, which server 1 has.
    ensemble.servers[0].kill();
    assert_no_quorum(&mut ensemble, &[2, 3, 4]);
    ensemble.servers[4].spawn();
    wait_until_these_serve(&mut ensemble, &[2, 3, 4, 5]);
    ensemble.assert_everywhere("/n", Some(b"1"));

    // Two groups of one server each.
    [1, 2].iter().for_each(|index| ensemble.servers[*index].kill());
    ensemble.wait_for_leader_among(&[3, 4]);
    wait_until_these_serve(&mut ensemble, &[4, 5]);
    ensemble.servers[3].client().call(&set("/n", Some(b"2"))).ok();
    [0, 1, 2].iter().for_each(|index| ensemble.servers[*index].spawn());
    ensemble.wait_until_all_serve();
    ensemble.assert_everywhere("/n", Some(b"2"));
}

/// Half of the servers are a quorum, because the others have no weight.
#[test]
fn servers_without_weight_neither_lead_nor_count() {
    let mut ensemble = Ensemble::new(4, 0, "group.1=1:2\ngroup.2=3:4\nweight.2=0\nweight.4=0\n");
    ensemble.servers.iter().for_each(use_dynamic_file);
    [0, 1, 3].iter().for_each(|index| ensemble.servers[*index].spawn());
    assert_no_quorum(&mut ensemble, &[1, 2, 4]);
    ensemble.servers[2].spawn();
    ensemble.wait_until_all_serve();
    let leader = ensemble.leader();
    assert!([0, 2].contains(&leader), "server {} has no weight and leads", leader + 1);
    ensemble.servers[3].client().call(&create("/n", Some(b"1"))).ok();
    ensemble.assert_everywhere("/n", Some(b"1"));

    [1, 3].iter().for_each(|index| ensemble.servers[*index].kill());
    ensemble.servers[0].client().call(&set("/n", Some(b"2"))).ok();
    ensemble.servers[2].client().call(&set("/n", Some(b"3"))).ok();
    [1, 3].iter().for_each(|index| ensemble.servers[*index].spawn());
    ensemble.wait_until_all_serve();
    ensemble.assert_everywhere("/n", Some(b"3"));
    assert!([0, 2].contains(&ensemble.leader()));
}

/// Members that have no other addresses: two whose lines say where clients connect, and one with `clientPortAddress`.
#[test]
fn servers_at_ipv6_addresses_elect_and_serve() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        return println!("this machine has no IPv6: {error}");
    }
    let host = "[::1]";
    let ports: Vec<Port> = (0..6).map(|_| Port::free()).collect();
    let servers: Vec<Server> = (0..3).map(|_| Server::place(host, None, "")).collect();
    let line = |id: usize| {
        let (quorum, election) = (ports[2 * id - 2].number, ports[2 * id - 1].number);
        let client = if id < 3 { format!(";{}", servers[id - 1].address()) } else { String::new() };
        format!("server.{id}={host}:{quorum}:{election}{client}\n")
    };
    let lines: String = (1..=3).map(line).collect();
    for (index, server) in servers.iter().enumerate() {
        let client = match index {
            2 => format!("clientPort={}\nclientPortAddress=::1\n", server.port()),
            _ => String::new(),
        };
        let data = server.dir.path().join("data");
        server.dir.write("data/myid", &format!("{}\n", index + 1));
        server.dir.write(
            "zoo.cfg",
            &format!(
                "tickTime=500\ninitLimit=20\nsyncLimit=10\nmaxSessionTimeout=60000\ndataDir={}\nringkeeper.segmentBytes=1048576\n\
                 admin.enableServer=false\n4lw.commands.whitelist=*\n{client}{lines}",
                data.display()
            ),
        );
    }
    let mut ensemble = Ensemble::of(servers, ports);
    ensemble.servers.iter_mut().for_each(Server::spawn);
    ensemble.wait_until_all_serve();
    for (index, server) in ensemble.servers.iter().enumerate() {
        server.client().call(&create(&format!("/by{index}"), Some(b"x"))).ok();
        ensemble.assert_everywhere(&format!("/by{index}"), Some(b"x"));
    }
    let address = ensemble.servers[0].address();
    // As Java prints it.
    let entrance = format!(";[0:0:0:0:0:0:0:1]:{}\n", ensemble.servers[0].port());
    for (word, part) in
        [("conf", entrance.as_str()), ("cons", " /[0:0:0:0:0:0:0:1]:"), ("stat", " /[0:0:0:0:0:0:0:1]:")]
    {
        let said = ask(&address, word);
        assert!(said.contains(part), "{word} does not say {part:?}: {said}");
    }

    let leader = ensemble.leader();
    let status = program().arg("status").arg(ensemble.servers[leader].config_path()).output().expect("it can be run");
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && said.contains("Mode: leader"), "{said}");

    let rest: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let mut client = ensemble.servers[rest[0]].client();
    let (session, password) = (client.session, client.password);
    client.call(&create_ephemeral("/mine")).ok();
    ensemble.servers[leader].kill();
    ensemble.wait_for_leader_among(&rest);
    rest.iter().for_each(|index| ensemble.wait_for_mode(*index, "serving", |_| true));
    let mut moved = wait_for("the session to move", || {
        Client::attach(&ensemble.servers[rest[1]].address(), session, &password)
            .filter(|moved| moved.session == session)
    });
    moved.call(&set("/by0", Some(b"y"))).ok();
    ensemble.servers[leader].spawn();
    ensemble.wait_until_all_serve();
    ensemble.assert_everywhere("/by0", Some(b"y"));
    ensemble.assert_everywhere("/mine", Some(b"e"));
}
