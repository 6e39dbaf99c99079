//! The command line as an operator uses it, and four-letter words.

use std::fs;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::support::*;

/// Runs the program to its end.
fn run(server: &Server, verb: &str) -> (Option<i32>, String) {
    let mut command = program();
    command.arg(verb).arg(server.config_path()).current_dir(server.dir.path());
    command.env("ZOO_LOG_DIR", server.dir.path().join("logs"));
    let Output { status, stdout, stderr } = command.output().expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout) + &text(stderr))
}

/// Ends what `start` has started, if the test does not.
struct Background<'a>(&'a Server);

impl Background<'_> {
    fn pid(&self) -> Option<Pid> {
        let file = self.0.dir.path().join("data/zookeeper_server.pid");
        Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn start_status_restart_and_stop() {
    let server = Server::new("");
    let background = Background(&server);
    let check = |verb: &str, code: i32, words: &[&str]| {
        let (found, said) = run(&server, verb);
        assert_eq!(found, Some(code), "{verb}: {said}");
        for word in words {
            assert!(said.contains(word), "{verb} does not say {word:?}: {said}");
        }
    };
    check("status", 1, &["Error contacting service. It is probably not running."]);
    check("stop", 0, &["no zookeeper to stop"]);
    check("start", 0, &["Starting zookeeper ... STARTED"]);
    let first = background.pid().expect("there is a pid file");
    check("start", 1, &["already running as process"]);
    check("status", 0, &["Mode: standalone", &format!("Client port found: {}", server.port())]);
    server.client().call(&create("/kept", Some(b"x"))).ok();
    check("restart", 0, &["STOPPED", "STARTED"]);
    let second = background.pid().expect("there is a pid file");
    assert_ne!(first, second);
    server.client().call(&get("/kept", false)).ok();
    check("stop", 0, &["STOPPED"]);
    assert_eq!(background.pid(), None);
    check("status", 1, &[]);
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_no_server() {
    let server = Server::new("");
    let mut command = program();
    command.arg("start-foreground").arg(server.config_path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the program can be run");
    let logs = (process.stdout.take(), process.stderr.take());
    let mode = || try_ask(&server.address(), "srvr").filter(|answer| answer.contains("Mode:"));
    wait_for("the server to serve", mode);
    drop(logs);
    // Each connection is worth a line.
    for _ in 0..3 {
        server.client().call(&create_sequential("/line-")).ok();
    }
    assert!(process.try_wait().expect("it is our child").is_none());
    let pid = Pid::from_raw(process.id() as i32).expect("a process has a number");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(process.wait().expect("it is our child").code(), Some(0));
}

#[test]
fn version_is_told() {
    let output = program().arg("version").output().expect("the program can be run");
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0));
    assert!(said.starts_with(&format!("ringkeeper, version {}", env!("CARGO_PKG_VERSION"))), "{said}");
    assert!(said.contains("Apache ZooKeeper 3.9"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let first = Server::run("");
    let mut second = Server::new(&format!("clientPort={}\n", first.port()));
    let (code, said) = second.start_in_vain();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot listen on") && said.contains(&first.port().to_string()), "{said}");
    assert!(!second.dir.path().join("data").exists(), "a start that fails leaves no trace");
    first.client().assert_alive();
}

#[test]
fn a_bad_configuration_ends_with_2() {
    for (setting, word) in [
        ("tickTime=x", "tickTime"),
        ("clientport=1", "clientPort"),
        ("secureClientPort=2281", "secureClientPort"),
        ("ringkeeper.segmentBytes=4096", "segmentBytes"),
    ] {
        let mut server = Server::new(setting);
        let (code, said) = server.start_in_vain();
        assert_eq!(code, Some(2), "{setting}: {said}");
        assert!(said.contains("Invalid config, exiting abnormally") && said.contains(word), "{setting}: {said}");
        assert!(!server.dir.path().join("data").exists());
    }
    let output = program().args(["start-foreground", "missing.cfg"]).output().expect("the program can be run");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_data_directory_that_cannot_be_written_ends_with_3() {
    // A file in the way stops even root.
    let mut server = Server::new("");
    server.dir.write("data", "");
    let (code, said) = server.start_in_vain();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Cannot write to data directory"), "{said}");

    let mut server = Server::new("datadir.autocreate=false\n");
    let (code, said) = server.start_in_vain();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Missing data directory"), "{said}");
}

#[test]
fn a_data_directory_has_one_server() {
    let mut first = Server::run("");
    first.client().call(&create("/a", None)).ok();
    let mut second = Server::new(&format!("dataDir={}\n", first.dir.path().join("data").display()));
    let (code, said) = second.start_in_vain();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is in use by another ringkeeper process"), "{said}");
    let mut client = first.client();
    client.call(&set("/a", Some(b"x"))).ok();
    first.kill();
    second.start();
    second.client().call(&get("/a", false)).ok();
}

#[test]
fn only_srvr_is_answered_unless_more_is_allowed() {
    let server = Server::run("");
    let ask = |word: &str| ask(&server.address(), word);
    assert!(ask("srvr").contains("\nMode: standalone\n"));
    for word in ["ruok", "stat", "mntr", "conf", "envi", "dirs", "wchs", "isro"] {
        assert_eq!(ask(word), format!("{word} is not executed because it is not in the whitelist.\n"));
    }
    // Anything else is a length, and a bad one.
    for word in ["GET ", "none", "RUOK"] {
        assert_eq!(ask(word), "");
    }
}

#[test]
fn words_that_are_allowed_are_answered() {
    let server = Server::run("4lw.commands.whitelist=ruok, isro,mntr,stat,conf\n");
    let mut client = server.client();
    client.call(&create("/a", Some(b"1"))).ok();
    client.call(&get("/a", true)).ok();
    let ask = |word: &str| ask(&server.address(), word);
    assert_eq!(ask("ruok"), "imok");
    assert_eq!(ask("isro"), "rw");
    assert!(ask("srvr").contains("\nZxid: 0x2\n"), "always allowed");
    assert_eq!(ask("wchs"), "wchs is not executed because it is not in the whitelist.\n");
    assert!(ask("conf").contains(&format!("clientPort={}\n", server.port())));
    // Apache counts the root twice.
    let stat = ask("stat");
    assert!(stat.contains("\nMode: standalone\nNode count: 6\n"), "{stat}");
    let mntr = ask("mntr");
    for line in ["zk_server_state\tstandalone", "zk_znode_count\t6", "zk_watch_count\t1"] {
        assert!(mntr.lines().any(|found| found == line), "{line:?} is missing:\n{mntr}");
    }
    client.assert_alive();
}

#[test]
fn a_word_behind_a_handshake_is_a_length() {
    let server = Server::run("4lw.commands.whitelist=*\n");
    let mut client = server.client();
    client.wire.send_bytes(b"ruok");
    client.wire.assert_closed();
}

#[test]
fn connections_of_one_address_are_limited() {
    three_connections_and_no_more("maxClientCnxns=3\n");
}

#[test]
fn connections_are_limited_altogether() {
    three_connections_and_no_more("maxCnxns=3\n");
}

fn three_connections_and_no_more(settings: &str) {
    let server = Server::run(settings);
    let mut clients: Vec<Client> = Vec::new();
    wait_for("room", || {
        // The question whether the server serves may still hold a place.
        clients.extend(Client::connect_with(&server.address(), &new_session(30_000)));
        (clients.len() == 3).then_some(())
    });
    Wire::dial(&server.address()).assert_closed();
    clients.pop().expect("three").wire.hang_up();
    wait_for("a place that came free", || Client::connect_with(&server.address(), &new_session(30_000)));
    for client in &mut clients {
        client.assert_alive();
    }
}
