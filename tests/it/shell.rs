//! The shell against a real server: what Apache's shell does not have, and a server that goes away. (That it prints
//! what Apache's prints, `tests/peers/shells.sh` shows.)

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ensemble::Ensemble;
use crate::support::{Dir, Port, Server, try_ask, wait_for};

/// Longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(30);

fn shell(server: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringkeeper-cli"));
    command.env("RINGKEEPER_CLI_LOG", "off").stdin(Stdio::null()).args(["-server", server]);
    command
}

/// One command in a process of its own: standard output, standard error, exit code.
fn once(server: &str, words: &[&str]) -> (String, String, Option<i32>) {
    let Output { status, stdout, stderr } = shell(server).args(words).output().expect("the shell can be run");
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status.code())
}

fn json_of(server: &str, words: &[&str]) -> (Value, Option<i32>) {
    let mut with_json = vec!["--json"];
    with_json.extend(words);
    let (out, err, code) = once(server, &with_json);
    assert_eq!(err, "", "{words:?}");
    (serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}")), code)
}

#[track_caller]
fn done(server: &str, words: &[&str]) -> String {
    let (out, err, code) = once(server, words);
    assert_eq!(code, Some(0), "{words:?}: {err}");
    // The connection's own event, which goes before everything else.
    out.split_once("zxid: -1\n").unwrap_or_else(|| panic!("{words:?}: {out}")).1.to_owned()
}

/// A shell that reads commands from a pipe.
struct Session {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Session {
    fn start(mut command: Command) -> Session {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be run");
        let out: ChildStdout = process.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if !line.is_empty() && sender.send(line).is_err() {
                    break;
                }
            }
        });
        Session { process, lines }
    }

    fn send(&mut self, line: &str) {
        let input = self.process.stdin.as_mut().expect("it is piped");
        writeln!(input, "{line}").expect("it reads");
    }

    /// The next line that holds the text; lines before it are passed over.
    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line with {text:?}: {error}"),
            }
        }
    }

    fn end(mut self) -> Option<i32> {
        drop(self.process.stdin.take());
        self.process.wait().expect("it is ours").code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A door to a server that can be shut: connections through it are cut, and no others are let in.
struct Door {
    port: Port,
    is_shut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Door {
    fn to(server: &str) -> Door {
        let port = Port::free();
        let listener = TcpListener::bind(("127.0.0.1", port.number)).expect("the port is free");
        let is_shut = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (server, shut, open) = (server.to_owned(), Arc::clone(&is_shut), Arc::clone(&streams));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut open = open.lock().unwrap();
                if shut.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(&server).expect("the server runs");
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.push(from.try_clone().unwrap());
                    // What either side meets at the end of a connection is no matter here.
                    thread::spawn(move || {
                        drop((std::io::copy(&mut from, &mut to), to.shutdown(std::net::Shutdown::Write)))
                    });
                }
            }
        });
        Door { port, is_shut, streams }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    fn is_used(&self) -> bool {
        !self.streams.lock().unwrap().is_empty()
    }

    fn shut(&self) {
        let mut streams = self.streams.lock().unwrap();
        self.is_shut.store(true, Ordering::SeqCst);
        for stream in streams.drain(..) {
            // It may have been closed from the other side.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
    }
}

#[test]
fn a_session_moves_to_another_server_of_the_list() {
    let server = Server::run("");
    let doors = [Door::to(&server.address()), Door::to(&server.address())];
    let list = format!("{},{}", doors[0].address(), doors[1].address());
    let mut session = Session::start(shell(&list));
    session.wait_for("state:SyncConnected");
    session.send("create -e /mine first");
    session.send("get -w /mine");
    session.wait_for("first");
    let first = doors.iter().position(Door::is_used).expect("it is connected through one of them");

    doors[first].shut();
    session.wait_for("WatchedEvent state:Disconnected type:None path:null zxid: -1");
    session.wait_for("WatchedEvent state:SyncConnected type:None path:null zxid: -1");
    assert!(doors[1 - first].is_used());
    // It is the same session: its ephemeral is there, and its watch.
    done(&server.address(), &["set", "/mine", "y"]);
    session.wait_for("type:NodeDataChanged path:/mine");
    session.send("getEphemerals");
    assert_eq!(session.wait_for("["), "[/mine]");
}

#[test]
fn one_server_of_the_list_that_is_down_fails_no_command() {
    let server = Server::run("");
    let nobody = Port::free();
    let list = format!("127.0.0.1:{},{}", nobody.number, server.address());
    // Each try begins with the one or the other by chance.
    for _ in 0..8 {
        assert_eq!(done(&list, &["ls", "/"]), "[zookeeper]\n");
    }
    let (_, err, code) = once(&format!("127.0.0.1:{}", nobody.number), &["ls", "/"]);
    assert_eq!((err.as_str(), code), ("KeeperErrorCode = ConnectionLoss for /\n", Some(1)));
    let (_, err, code) =
        once(&format!("127.0.0.1:{}", nobody.number), &["-waitforconnection", "-timeout", "300", "ls", "/"]);
    assert_eq!((err.as_str(), code), ("KeeperErrorCode = ConnectionLoss\n", Some(1)));
}

#[test]
fn sessions_end_with_the_program_but_for_those_with_ephemerals() {
    let server = Server::run("");
    let address = server.address();
    done(&address, &["create", "/a"]);
    done(&address, &["create", "-e", "/lock"]);
    // Only the second one's session is left, to expire in its time, as with Apache's shell.
    assert_eq!(done(&address, &["ls", "/"]), "[a, lock, zookeeper]\n");
    let (_, err, code) = once(&address, &["-timeout", "0", "-r", "stat", "/lock"]);
    assert_eq!((err.as_str(), code), ("", Some(0)), "the way of connecting that a seed shows");
}

#[test]
fn results_as_json() {
    let server = Server::run("");
    let address = server.address();
    assert_eq!(json_of(&address, &["create", "/a", "text"]), (json!({"created": "/a"}), Some(0)));
    done(&address, &["set", "-b", "/a", "/wA="]);
    let (got, _) = json_of(&address, &["get", "/a"]);
    assert_eq!((&got["data"], &got["encoding"]), (&json!("/wA="), &json!("base64")));
    assert_eq!((&got["stat"]["dataVersion"], &got["stat"]["dataLength"]), (&json!(1), &json!(2)));
    assert_eq!(json_of(&address, &["ls", "/"]).0["children"], json!(["a", "zookeeper"]));
    assert_eq!(json_of(&address, &["ls", "-R", "/a"]).0, json!({"paths": ["/a"]}));
    assert_eq!(
        json_of(&address, &["getAcl", "/a"]).0["acl"],
        json!([{"scheme": "world", "id": "anyone", "perms": "cdrwa"}])
    );
    let (refused, code) = json_of(&address, &["get", "/missing"]);
    assert_eq!(
        refused["error"],
        json!({"message": "Node does not exist: /missing", "code": -101, "name": "NONODE", "path": "/missing"})
    );
    assert_eq!(code, Some(1));
    assert_eq!(json_of(&address, &["bogus"]).1, Some(127));
}

#[test]
fn a_tree_is_drawn_and_searched() {
    let server = Server::run("");
    let address = server.address();
    for path in ["/s", "/s/a", "/s/a/leader", "/s/b", "/s/b/leader", "/s/b/member-1", "/s/c"] {
        done(&address, &["create", path, "12345"]);
    }
    assert_eq!(
        done(&address, &["tree", "/s"]),
        "/s\n├── a\n│   └── leader\n├── b\n│   ├── leader\n│   └── member-1\n└── c\n\n7 znodes\n"
    );
    assert_eq!(
        done(&address, &["tree", "-s", "-L", "1", "/s/a"]),
        "/s/a  [5 bytes, version 0]\n└── leader  [5 bytes, version 0]\n\n2 znodes\n"
    );
    assert_eq!(done(&address, &["find", "/s", "leader"]), "/s/a/leader\n/s/b/leader\n");
    assert_eq!(done(&address, &["find", "/", "*-[0-9]"]), "/s/b/member-1\n");
    assert_eq!(done(&address, &["find", "/", "/s/*"]), "/s/a\n/s/b\n/s/c\n");
    assert_eq!(done(&address, &["find", "/", "/s/**/leader"]), "/s/a/leader\n/s/b/leader\n");
    assert_eq!(once(&address, &["tree", "/missing"]).2, Some(1));
    assert_eq!(once(&address, &["find", "/", "["]).2, Some(1));
}

#[test]
fn a_subtree_goes_out_and_comes_in() {
    let server = Server::run("");
    let address = server.address();
    for (path, words) in [
        ("/s", &["root"][..]),
        ("/s/null", &[]),
        ("/s/empty", &[""]),
        ("/s/acl", &["x", "world:anyone:r,ip:127.0.0.1:cdrwa"]),
        ("/s/acl/below", &["größer \"∞\""]),
    ] {
        done(&address, &[&["create", path][..], words].concat());
    }
    done(&address, &["create", "/s/binary"]);
    done(&address, &["set", "-b", "/s/binary", "/wD+"]);
    // More than one multi.
    for n in 0..5 {
        done(&address, &["create", &format!("/s/big-{n}"), &"x".repeat(100_000)]);
    }
    let dir = Dir::new();
    let (out_file, again_file) = (dir.path().join("out.json"), dir.path().join("again.json"));
    let (out_file, again_file) = (out_file.to_str().unwrap(), again_file.to_str().unwrap());
    assert_eq!(done(&address, &["export", "/s", out_file]), format!("Exported 11 znodes to {out_file}\n"));

    assert_eq!(done(&address, &["import", out_file, "/t"]), "Created 11 znodes from /t down\n");
    done(&address, &["export", "/t", again_file]);
    let text = |file: &str| std::fs::read_to_string(file).unwrap();
    assert_eq!(text(out_file), text(again_file).replacen("\"/t\"", "\"/s\"", 1));
    assert_eq!(done(&address, &["get", "/t/acl/below"]), "größer \"∞\"\n");
    assert_eq!(done(&address, &["get", "-b", "/t/binary"]), "/wD+\n");
    assert_eq!(done(&address, &["get", "/t/null"]), "null\n");
    assert_eq!(done(&address, &["get", "/t/empty"]), "\n");
    assert!(done(&address, &["getAcl", "/t/acl"]).contains("'ip,'127.0.0.1\n: cdrwa"));

    let (_, err, code) = once(&address, &["import", out_file, "/t"]);
    assert_eq!((err.as_str(), code), ("Node already exists: /t\n", Some(1)));
    done(&address, &["set", "/t/null", "changed"]);
    assert_eq!(
        done(&address, &["import", "-f", out_file, "/t"]),
        "Created 0 znodes from /t down, set 11 that were there\n"
    );
    assert_eq!(done(&address, &["get", "/t/null"]), "null\n");

    // Ephemerals belong to their session; what is wrong anywhere in a file keeps all of it out.
    let mut owner = Session::start(shell(&address));
    owner.send("create -e /s/mine");
    owner.send("ls /s");
    owner.wait_for("mine");
    assert!(done(&address, &["export", "/s", out_file]).contains("11 znodes, without 1 ephemerals"));
    let broken = dir.write("broken.json", &text(out_file).replace("\"/null\"", "\"//null\""));
    assert_eq!(once(&address, &["import", broken.to_str().unwrap(), "/u"]).2, Some(1));
    assert_eq!(once(&address, &["stat", "/u"]).2, Some(1));
}

#[test]
fn changes_are_followed_across_a_lost_connection() {
    let server = Server::run("4lw.commands.whitelist=*");
    let door = Door::to(&server.address());
    let other = Door::to(&server.address());
    let address = server.address();
    done(&address, &["create", "/w", "0"]);
    done(&address, &["create", "/w/old", "0"]);
    let mut command = shell(&format!("{},{}", door.address(), other.address()));
    command.arg("watch").arg("/w");
    let session = Session::start(command);
    // The watch is set when the server counts one.
    wait_for("the watch", || crate::support::ask(&address, "wchs").contains("Total watches:1").then_some(()));
    done(&address, &["create", "/w/new", "hello"]);
    let line = session.wait_for("NodeCreated");
    assert!(line.contains("/w/new zxid=0x") && line.ends_with("version=0 \"hello\""), "{line}");
    done(&address, &["set", "/w/new", "bye"]);
    assert!(session.wait_for("NodeDataChanged").contains("version=1 \"bye\""));

    let unused = if door.is_used() { &other } else { &door };
    [&door, &other].into_iter().for_each(Door::shut);
    session.wait_for("Disconnected");
    done(&address, &["set", "/w/old", "meanwhile"]);
    done(&address, &["delete", "/w/new"]);
    unused.open();
    session.wait_for("Connected again");
    session.wait_for("NodeChildrenChanged");
    assert!(session.wait_for("NodeDataChanged").contains("/w/old"));
    done(&address, &["delete", "/w/old"]);
    assert!(session.wait_for("NodeDeleted").contains("/w/old"));

    let pid = Pid::from_raw(session.process.id() as i32).expect("it runs");
    kill_process(pid, Signal::INT).expect("it is ours");
    assert_eq!(session.end(), Some(0));
}

#[test]
fn the_wrapper_finds_the_program_and_passes_everything_on() {
    let server = Server::run("");
    let dir = Dir::new();
    dir.write("java.env", "CLIENT_JVMFLAGS='-Xmx9m -Dzookeeper.client.secure=true'\n");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_ringkeeper-cli"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let run = |words: &[&str]| {
        // Away from a program of an earlier release build.
        let copy = dir.path().join("zkCli.sh");
        for script in ["zkCli.sh", "zkEnv.sh"] {
            let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(script);
            std::fs::copy(source, dir.path().join(script)).unwrap();
        }
        let mut command = Command::new("sh");
        command.arg(&copy).args(words).env("PATH", &path).env("RINGKEEPER_CLI_LOG", "off");
        command.output().expect("sh is there")
    };
    let listed = run(&["-server", &server.address(), "ls", "/"]);
    assert!(String::from_utf8_lossy(&listed.stdout).ends_with("\n[zookeeper]\n"));
    assert_eq!(run(&["-server", &server.address(), "bogus"]).status.code(), Some(127));
    let refused = run(&["--config", dir.path().to_str().unwrap(), "-server", &server.address(), "ls", "/"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("TLS"));
}

#[test]
fn a_reader_that_has_enough_ends_the_shell() {
    let server = Server::run("");
    let address = server.address();
    done(&address, &["create", "/s"]);
    let mut session = Session::start(shell(&address));
    for n in 0..2000 {
        session.send(&format!("create /s/{n:0100}"));
    }
    session.send("stat /s");
    session.wait_for("numChildren = 2000");
    let mut command = shell(&address);
    let mut listing = command.args(["ls", "-R", "/s"]).stdout(Stdio::piped()).spawn().expect("it can be run");
    let mut first = [0; 1];
    listing.stdout.take().expect("it is piped").read_exact(&mut first).expect("it prints");
    assert_eq!(listing.wait().expect("it is ours").code(), Some(1));
}

#[test]
fn a_shell_that_may_read_alone_is_served_without_a_quorum() {
    let mut ensemble = Ensemble::run(2, 0, "readonlymode.enabled=true\n");
    let address = ensemble.servers[0].address();
    done(&address, &["create", "/n", "data"]);
    assert_eq!(done(&address, &["-r", "get", "/n"]), "data\n", "with a quorum it may do everything");
    done(&address, &["-r", "set", "/n", "more"]);
    ensemble.servers[1].kill();
    wait_for("read-only mode", || (try_ask(&address, "isro")? == "ro").then_some(()));

    let (out, err, code) = once(&address, &["-r", "get", "/n"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ConnectedReadOnly") && out.ends_with("\nmore\n"), "{out}");
    let (_, err, code) = once(&address, &["-r", "set", "/n", "x"]);
    assert!(err.contains("Not a read-only call") && code == Some(1), "{err}");
    let (_, err, code) = once(&address, &["-timeout", "1000", "get", "/n"]);
    assert_eq!(code, Some(1), "who did not ask for it is not served: {err}");
}
