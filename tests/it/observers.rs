//! Observers that learn from followers (`observerMasterPort`).

use super::ensemble::Ensemble;
use super::support::*;

/// `observerMasterPort` is one number for all servers, so each needs an address of its own.
fn host(id: usize) -> String {
    format!("127.0.0.{}", 10 + id)
}

pub fn figure(server: &Server, name: &str) -> Option<i64> {
    let answer = try_ask(&server.address(), "mntr")?;
    let value = answer.lines().find_map(|line| line.strip_prefix("zk_")?.strip_prefix(name)?.strip_prefix('\t'))?;
    Some(value.parse().unwrap_or_else(|_| panic!("zk_{name} is {value}")))
}

/// The index of the server that an observer learns from, once there is one.
fn master(ensemble: &Ensemble, observer: usize) -> usize {
    let id = wait_for("a master", || figure(&ensemble.servers[observer], "observer_master_id"));
    usize::try_from(id).expect("an id") - 1
}

#[test]
fn observers_learn_from_followers_and_no_session_is_lost_when_theirs_dies() {
    let port = Port::free();
    // A session ends by nothing but a lost server: this machine may be slow.
    let settings = format!("observerMasterPort={}\nmaxSessionTimeout=60000\n4lw.commands.whitelist=*\n", port.number);
    let mut ensemble = Ensemble::at(host, 3, 2, &settings);
    ensemble.servers.iter_mut().for_each(Server::spawn);
    ensemble.wait_until_all_serve();
    let leader = ensemble.leader();
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    for observer in [3, 4] {
        assert!(followers.contains(&master(&ensemble, observer)), "an observer learns from a follower");
    }
    wait_for("the followers to count them", || {
        let served: i64 =
            followers.iter().map(|index| figure(&ensemble.servers[*index], "synced_observers")).sum::<Option<_>>()?;
        (served == 2).then_some(())
    });
    assert_eq!(figure(&ensemble.servers[leader], "synced_observers"), Some(0));
    assert_eq!(figure(&ensemble.servers[leader], "synced_followers"), Some(2));

    let mut client = ensemble.servers[3].client();
    client.call(&create("/kept", Some(b"1"))).ok();
    client.call(&create_ephemeral("/mine")).ok();
    ensemble.assert_everywhere("/kept", Some(b"1"));
    let (session, password) = (client.session, client.password);

    for (index, name) in [(leader, "proposal_count"), (leader, "commit_count"), (leader, "diff_count")] {
        assert!(figure(&ensemble.servers[index], name) > Some(0), "{name}");
    }
    for (index, name) in [
        (followers[0], "learner_proposal_received_count"),
        (followers[0], "learner_commit_received_count"),
        (3, "learner_commit_received_count"),
        (3, "looking_count"),
        (3, "cnt_sync_processor_batch_size"),
    ] {
        assert!(figure(&ensemble.servers[index], name) > Some(0), "{name}");
    }
    assert_eq!(figure(&ensemble.servers[leader], "quorum_size"), Some(3));

    let lost = master(&ensemble, 3);
    ensemble.servers[lost].kill();
    let rest = followers[usize::from(followers[0] == lost)];
    ensemble.servers[leader].client().call(&set("/kept", Some(b"2"))).ok();
    wait_for("the observers to find the other follower", || {
        [3, 4]
            .iter()
            .all(|at| figure(&ensemble.servers[*at], "observer_master_id") == Some(rest as i64 + 1))
            .then_some(())
    });
    let mut client = wait_for("the session to go on where it was", || {
        Client::attach(&ensemble.servers[3].address(), session, &password).filter(|client| client.session == session)
    });
    client.call(&set("/kept", Some(b"3"))).ok();
    ensemble.assert_everywhere("/kept", Some(b"3"));
    ensemble.assert_everywhere("/mine", Some(b"e"));
    assert_eq!(ensemble.mode(leader).as_deref(), Some("leader"), "the quorum was not disturbed");

    ensemble.servers[lost].spawn();
    ensemble.wait_until_all_serve();
    client.call(&CLOSE_SESSION);
    ensemble.assert_everywhere("/mine", None);
}

#[test]
fn conf_lists_the_members() {
    let mut ensemble = Ensemble::run(2, 1, "4lw.commands.whitelist=*\n");
    ensemble.wait_until_all_serve();
    for (index, server) in ensemble.servers.iter().enumerate() {
        let answer = ask(&server.address(), "conf");
        let config = std::fs::read_to_string(server.config_path()).expect("written by the test");
        let lines: Vec<&str> = config.lines().filter(|line| line.starts_with("server.")).collect();
        let ports: Vec<&str> = lines[index].split(':').skip(1).collect();
        let told = format!(
            "serverId={}\ninitLimit=20\nsyncLimit=10\nelectionAlg=3\nelectionPort={}\nquorumPort={}\npeerType={}\n\
             membership: \n",
            index + 1,
            ports[1],
            ports[0],
            usize::from(index == 2),
        );
        let (_, members) = answer.split_once(&told).unwrap_or_else(|| panic!("{answer}\nhas not\n{told}"));
        let mut members: Vec<&str> = members.lines().collect();
        assert_eq!(members.pop(), Some("version=0"), "{answer}");
        assert!(!answer.ends_with('\n'));
        let begins = |(told, line): (&&str, &&str)| told.starts_with(*line);
        assert!(members.len() == 3 && members.iter().zip(&lines).all(begins), "{members:?}, {lines:?}");
    }
}
