//! The tools that look into files: what they say of the files of a real server, of Apache's, and of damage.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::Value;

use crate::support::{self, Client, Dir, PATIENCE, Server, create, create_ephemeral, delete, multi, set, wait_for};

fn log_tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringkeeper-log"));
    command.args(arguments).env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn snapshot_tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringkeeper-snapshot"));
    command.args(arguments).env("TZ", "UTC").stdin(Stdio::null());
    command
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(mut command: Command) -> Said {
    let Output { status, stdout, stderr } = command.output().expect("the tool can be run");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Runs a tool that is to end with this code, and returns what it printed.
#[track_caller]
fn ends_with(code: i32, command: Command) -> String {
    let described = format!("{command:?}");
    let said = run(command);
    assert_eq!(said.code, Some(code), "{described}\n{}\n{}", said.out, said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said.out
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A server that did this and that, over two starts, and was killed.
fn filled() -> Server {
    let mut server = Server::run("snapCount=100000\n");
    let mut client = server.client();
    for i in 0..300 {
        client.call(&create(&format!("/n{i}"), Some(&[b'x'; 8000]))).ok();
    }
    client.call(&create("/app", None)).ok();
    client.call(&create("/app/lock", Some(b"held \"by\" me"))).ok();
    client.call(&create_ephemeral("/app/e")).ok();
    client.call(&set("/app/lock", Some(b"2"))).ok();
    assert_ne!(client.call(&delete("/absent", -1)).err, 0);
    client.call(&multi(&[create("/app/m", None), set("/app/m", Some(b"m")), delete("/app/m", -1)])).ok();
    server.kill();
    server.start();
    Client::connect(&server.address()).call(&create("/application", None)).ok();
    server.kill();
    server
}

/// Where records begin, from a dump.
fn offsets(log: &Path, file: &Path) -> Vec<(u64, String)> {
    let out = ends_with(0, log_tool(&["dump", "--json", text(log)]));
    let of_file = lines(&out).into_iter().filter(|line| line["file"] == text(file));
    of_file.map(|line| (line["offset"].as_u64().unwrap(), line["zxid"].as_str().unwrap().to_owned())).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    ringkeeper::storage::segments::list(dir).unwrap().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn a_log_is_whole_and_its_dump_has_every_transaction() {
    let server = filled();
    let log = server.log_dir();
    let data_dir = log.parent().unwrap();
    let verified = ends_with(0, log_tool(&["verify", text(data_dir)]));
    assert!(verified.lines().last().unwrap().starts_with("ok: "), "{verified}");

    let all = lines(&ends_with(0, log_tool(&["dump", "--json", text(data_dir)])));
    let zxids: Vec<String> = all.iter().map(|line| line["zxid"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = (1..=zxids.len()).map(|zxid| format!("0x{zxid:x}")).collect();
    assert_eq!(zxids, expected, "no gap, and in order");
    assert_eq!(all[0]["type"], "createSession");
    assert!(all.iter().any(|line| line["path"] == "/n299" && line["data"].as_str().unwrap().len() == 10_668));
    assert!(all.iter().filter(|line| line["file"] != all[0]["file"]).count() > 100, "over several segments");

    let filtered = |arguments: &[&str]| -> Vec<String> {
        let mut command = log_tool(&["dump", text(data_dir)]);
        command.args(arguments);
        ends_with(0, command).lines().map(|line| line.split_once(" cxid ").unwrap().1.to_owned()).collect()
    };
    let app = filtered(&["--path", "/app/"]);
    assert_eq!(app.len(), 5, "{app:?}");
    assert!(app[1].ends_with("create /app/lock data \"held \\\"by\\\" me\" acl world:anyone:cdrwa parent cversion 1"));
    assert!(app[4].contains("multi [create /app/m data null"), "{app:?}");
    assert_eq!(filtered(&["--path", "/app", "--type", "setdata"]).len(), 2);
    assert_eq!(filtered(&["--type", "error"]), ["305 error -101"]);
    assert_eq!(filtered(&["--from", "0x10", "--to", "20"]).len(), 5);
    assert_eq!(filtered(&["--since", "now"]), [""; 0]);
    let session = all[0]["session"].as_str().unwrap();
    assert_eq!(filtered(&["--session", session]).len(), 307);
    let time = all[301]["time"].as_str().unwrap();
    assert_eq!(filtered(&["--until", time]).len() + filtered(&["--since", time]).len(), all.len());

    let stats: Value = serde_json::from_str(&ends_with(0, log_tool(&["stats", "--json", text(&log)]))).unwrap();
    assert_eq!(stats["transactions"], all.len());
    assert_eq!(stats["types"][0]["name"], "create");
    assert_eq!(
        stats["rate"]["transactions"].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(),
        all.len() as u64
    );
    // A lone writer: one transaction a flush.
    assert_eq!(stats["flush"]["p50"], 1);
    let printed = ends_with(0, log_tool(&["stats", "--depth", "2", text(&log)]));
    assert!(printed.contains("/app/lock\n"), "{printed}");
}

#[test]
fn a_log_converted_there_and_back_is_the_same_and_a_server_starts_on_it() {
    let mut server = filled();
    let (apache, native) = (server.dir.path().join("apache"), server.dir.path().join("native/version-2"));
    let said = ends_with(0, log_tool(&["convert", "--to", "apache", "-o", text(&apache), text(&server.log_dir())]));
    assert!(said.lines().count() > 2, "{said}");
    ends_with(0, log_tool(&["verify", text(&apache)]));
    // What is there is not replaced.
    ends_with(2, log_tool(&["convert", "--to", "apache", "-o", text(&apache), text(&server.log_dir())]));
    let convert = ["convert", "--to", "native", "--segment-bytes", "65536", "-o", text(&native), text(&apache)];
    ends_with(0, log_tool(&convert));
    let dump = |path: &Path| {
        let strip = |mut line: Value| {
            line.as_object_mut().unwrap().retain(|key, _| key != "file" && key != "offset");
            line
        };
        lines(&ends_with(0, log_tool(&["dump", "--json", text(path)]))).into_iter().map(strip).collect::<Vec<_>>()
    };
    let original = dump(&server.log_dir());
    assert_eq!(dump(&apache), original);
    assert_eq!(dump(&native), original);

    // Apache starts on no log without a snapshot, so there is the one that this log begins with.
    for converted in [&apache, &native] {
        fs::remove_dir_all(server.log_dir()).unwrap();
        fs::create_dir(server.log_dir()).unwrap();
        for file in fs::read_dir(converted).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, server.log_dir().join(file.file_name().unwrap())).unwrap();
        }
        server.start();
        let (data, stat) = server.client().call(&support::get("/app/lock", false)).data();
        assert_eq!((data.as_deref(), stat.version), (Some(&b"2"[..]), 1));
        server.kill();
    }
}

#[test]
fn a_damaged_log_is_named_and_a_repaired_one_is_started_on() {
    let mut server = filled();
    let log = server.log_dir();
    let file = segments(&log)[0].clone();
    let records = offsets(&log, &file);
    let (offset, zxid) = &records[20];
    let before = fs::read(&file).unwrap();
    File::options().write(true).open(&file).unwrap().write_all_at(b"\xff\xff", offset + 40).unwrap();

    let said = run(log_tool(&["verify", text(&log)]));
    assert_eq!(said.code, Some(1), "{}", said.out);
    let expected = format!("DAMAGE: {} at byte {offset}: ", file.display());
    let line = said.out.lines().find(|line| line.starts_with(&expected)).unwrap_or_else(|| panic!("{}", said.out));
    assert!(line.contains("whole records are behind it") && line.contains(&records[21].1), "{line}");
    // The server refuses it too, at the same byte.
    let (code, printed) = server.start_in_vain();
    assert_ne!(code, Some(0));
    assert!(printed.contains(&format!("is damaged at byte {offset}")), "{printed}");
    // The dump goes on behind it if asked to.
    let dumped = |arguments: &[&str]| {
        let mut command = log_tool(&["dump", "--json", text(&file)]);
        command.args(arguments);
        lines(&ends_with(1, command)).len()
    };
    assert_eq!((dumped(&[]), dumped(&["--beyond"])), (20, records.len() - 1));
    ends_with(2, log_tool(&["convert", "--to", "apache", "-o", text(&server.dir.path().join("out")), text(&log)]));

    let segments_before = segments(&log).len();
    let planned = ends_with(1, log_tool(&["repair", "--dry-run", text(&log)]));
    assert!(planned.contains(&format!("To be changed: {}: nothing stays from byte {offset} on", file.display())));
    // Nobody to ask.
    ends_with(2, log_tool(&["repair", text(&log)]));
    assert_eq!(segments(&log).len(), segments_before);
    ends_with(0, log_tool(&["repair", "--yes", text(&log)]));
    ends_with(0, log_tool(&["verify", text(&log)]));
    assert_eq!(segments(&log), std::slice::from_ref(&file));
    let kept = fs::read(format!("{}.damaged", file.display())).unwrap();
    assert_eq!((kept.len(), &kept[..*offset as usize]), (before.len(), &before[..*offset as usize]));
    server.start();
    // With a server on it, nothing is repaired.
    let said = run(log_tool(&["repair", "--yes", text(&log)]));
    assert_eq!((said.code, said.err.contains("a server runs on")), (Some(2), true), "{}", said.err);
    let last = lines(&ends_with(0, log_tool(&["dump", "--json", text(&log)])));
    assert_eq!(last[19]["zxid"], records[19].1);
    assert_ne!(last.get(20).map(|line| line["type"] == "create"), Some(true), "{zxid} is gone");
}

#[test]
fn a_damaged_log_of_apache_is_cut_or_its_bytes_are_trusted() {
    let dir = Dir::new();
    for name in ["log.1", "log.3c", "snapshot.0"] {
        fs::copy(golden("apache-3.9").join(name), dir.path().join(name)).unwrap();
    }
    let file = dir.path().join("log.1");
    let (offset, _) = offsets(dir.path(), &file)[6].clone();
    // One letter of the znode's data.
    let bytes = fs::read(&file).unwrap();
    let at = offset as usize + bytes[offset as usize..].windows(5).position(|five| five == b"Gr\xc3\xbc\xc3").unwrap();
    File::options().write(true).open(&file).unwrap().write_all_at(b"B", at as u64).unwrap();
    let verified = ends_with(1, log_tool(&["verify", text(dir.path())]));
    assert!(verified.contains(&format!("log.1 at byte {offset}: CRC check failed")), "{verified}");

    ends_with(0, log_tool(&["repair", "--yes", "--trust-bytes", text(dir.path())]));
    let out = ends_with(0, log_tool(&["dump", "--path", "/ünïcode", text(dir.path())]));
    assert!(out.contains("create /ünïcode data \"Brüße\""), "{out}");
    assert_eq!(lines(&ends_with(0, log_tool(&["dump", "--json", text(dir.path())]))).len(), 71);

    File::options().write(true).open(&file).unwrap().write_all_at(b"C", at as u64).unwrap();
    ends_with(0, log_tool(&["repair", "--yes", text(dir.path())]));
    assert_eq!(lines(&ends_with(0, log_tool(&["dump", "--json", text(dir.path())]))).len(), 6);
    let names = ["log.1", "log.1.damaged", "log.1.damaged-2", "log.3c.damaged", "snapshot.0"];
    let mut found: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, names);
}

/// Ends with the test, however that ends.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

#[test]
fn a_log_is_followed_while_it_is_written() {
    let server = Server::run("snapCount=100000\n");
    let mut client = server.client();
    client.call(&create("/before", None)).ok();
    let mut command = log_tool(&["dump", "-f", "--json", "--type", "create,delete", text(&server.log_dir())]);
    let mut child = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
    let out = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || out.for_each(|line| drop(sender.send(line.unwrap()))));
    let next = || -> Value { serde_json::from_str(&receiver.recv_timeout(PATIENCE).unwrap()).unwrap() };
    assert_eq!(next()["path"], "/before");
    // Over the end of several segments.
    for half in [0..250, 250..500] {
        half.clone().for_each(|i| drop(client.call(&create(&format!("/n{i}"), Some(&[1; 8000])))));
        half.for_each(|i| assert_eq!(next()["path"], format!("/n{i}")));
    }
    client.call(&delete("/before", -1)).ok();
    assert_eq!(next()["type"], "delete");
    assert!(segments(&server.log_dir()).len() > 3);
}

#[test]
fn what_is_no_log_is_refused_in_words() {
    let dir = Dir::new();
    let file = dir.path().join("log.1");
    let commands: [&[&str]; 5] =
        [&["dump"], &["verify"], &["stats"], &["repair", "--yes"], &["convert", "--to", "native", "-o", "out"]];
    let check = |why: &str| {
        for command in commands {
            let mut tool = log_tool(command);
            tool.arg(&file).current_dir(dir.path());
            let said = run(tool);
            assert_eq!(said.code, Some(2), "{command:?}: {}", said.err);
            assert!(said.err.contains(why) && said.err.contains("log.1"), "{command:?}: {}", said.err);
            assert!(!said.err.contains("panicked"));
        }
    };
    fs::write(&file, "").unwrap();
    check("empty");
    fs::write(&file, "what is this?").unwrap();
    check("neither a log nor a snapshot: it begins with \"what is \"");
    fs::copy(golden("apache-3.9/snapshot.0"), &file).unwrap();
    check("ringkeeper-snapshot");
    File::create(&file).unwrap().set_len(10 << 30).unwrap();
    check("empty");
    fs::remove_file(&file).unwrap();
    check("No such file");
    fs::create_dir(&file).unwrap();
    check("no transaction log");
    let unknown = run(log_tool(&["dump", "--type", "craete", "x"]));
    assert_eq!((unknown.code, unknown.err.contains("createSession")), (Some(2), true), "{}", unknown.err);
    wait_for("the help", || ends_with(0, log_tool(&["--help"])).contains("Examples:").then_some(()));
}

#[test]
fn a_snapshot_is_whole_and_its_dump_is_what_a_client_read() {
    for version in ["3.8", "3.9"] {
        let dir = golden(&format!("apache-{version}"));
        let file = dir.join("snapshot.3b");
        let said = ends_with(0, snapshot_tool(&["verify", text(&file)]));
        assert!(said.contains("digest compared"), "{said}");
        let znodes: Vec<Value> = lines(&ends_with(0, snapshot_tool(&["dump", "--json", text(&file)])))
            .into_iter()
            .filter(|line| line["path"].is_string())
            .collect();
        let verified: Value =
            serde_json::from_str(&ends_with(0, snapshot_tool(&["verify", "--json", text(&file)]))).unwrap();
        assert_eq!(verified["znodes"], znodes.len());

        // The tree as of the last transaction: what a client read from the server at the end.
        let at = lines(&ends_with(0, snapshot_tool(&["at", "0x47", "--json", text(&dir)])));
        let read = fs::read_to_string(dir.join("dump.txt")).unwrap();
        assert_eq!(at.iter().filter(|line| line["path"].is_string()).count(), read.lines().count(), "{version}");
        for line in read.lines() {
            let mut fields = line.split('\t');
            let (path, _data, stat) = (fields.next().unwrap(), fields.next(), fields.next().unwrap());
            let znode = at.iter().find(|znode| znode["path"] == path).unwrap_or_else(|| panic!("{version}: {path}"));
            let stat: Vec<i64> = stat.split(' ').map(|field| field.parse().unwrap()).collect();
            let expected = [format!("0x{:x}", stat[0]), format!("0x{:x}", stat[1]), format!("0x{:x}", stat[10])];
            assert_eq!(
                [&znode["czxid"], &znode["mzxid"], &znode["pzxid"]],
                [&expected[0], &expected[1], &expected[2]],
                "{path}"
            );
            assert_eq!((&znode["version"], &znode["aversion"]), (&stat[4].into(), &stat[6].into()), "{path}");
        }
        // As a snapshot, at the zxid of one that Apache wrote, it is the same.
        let out = Dir::new();
        for log in ["log.1", "log.3c", "snapshot.0"] {
            fs::copy(dir.join(log), out.path().join(log)).unwrap();
        }
        let made = out.path().join("made");
        fs::create_dir(&made).unwrap();
        ends_with(0, snapshot_tool(&["at", "0x3b", "-o", text(&made), text(out.path())]));
        let compared = ends_with(0, snapshot_tool(&["compare", text(&file), text(&made.join("snapshot.3b"))]));
        assert!(compared.starts_with("0 added, 0 removed, 0 changed, "), "{compared}");
        ends_with(2, snapshot_tool(&["at", "0x48", text(&dir)]));

        let summary = lines(&ends_with(0, snapshot_tool(&["summary", "--json", text(&file)])));
        let bytes: u64 = znodes
            .iter()
            .map(|znode| {
                znode["data"].as_str().map_or(0, |data| {
                    data.len() as u64 / 4 * 3 - data.bytes().filter(|byte| *byte == b'=').count() as u64
                })
            })
            .sum();
        assert_eq!((&summary[0]["path"], &summary[0]["data_bytes"]), (&"/".into(), &bytes.into()));
        assert_eq!(summary[0]["descendants"], znodes.len() - 1);
    }
}

#[test]
fn snapshots_of_two_moments_differ_by_what_happened_between() {
    let dir = golden("apache-3.9");
    let (a, b) = (dir.join("snapshot.0"), dir.join("snapshot.3b"));
    let changes = lines(&ends_with(1, snapshot_tool(&["compare", "--json", text(&a), text(&b)])));
    let find = |path: &str| changes.iter().find(|change| change["path"] == path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!((&find("/large")["change"], &find("/large")["bytes_after"]), (&"added".into(), &1000.into()));
    assert_eq!(find("/")["change"], "changed");
    let back = ends_with(1, snapshot_tool(&["compare", "--bytes", "1000", text(&b), text(&a)]));
    assert_eq!(back.lines().next().unwrap(), "removed /large (1000 bytes)", "{back}");
    assert_eq!(back.lines().count(), 2, "{back}");
}

#[test]
fn a_damaged_snapshot_is_found_at_every_length_and_byte() {
    let dir = Dir::new();
    let file = dir.path().join("snapshot.3b");
    let whole = fs::read(golden("apache-3.9/snapshot.3b")).unwrap();
    // A process for each would take too long; the library's reader is what the tool runs.
    let read = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let mut reader = ringkeeper::storage::inspect::SnapshotReader::open(&file)?;
        while reader.read()? != ringkeeper::storage::inspect::Piece::End {}
        Ok::<(), ringkeeper::storage::error::StorageError>(())
    };
    let sections_end = [8 + 13, 8 + 13 + 20 + 13].map(|left| whole.len() - left);
    for len in 0..whole.len() {
        assert_eq!(read(&whole[..len]).is_ok(), sections_end.contains(&len), "cut at {len}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        assert!(read(&flipped).is_err(), "byte {at}");
    }
    read(&whole).unwrap();

    fs::write(&file, &whole[..500]).unwrap();
    let said = ends_with(1, snapshot_tool(&["verify", text(&file)]));
    assert!(said.contains("DAMAGE: ") && said.contains("at byte 500: the file ends inside"), "{said}");
    for (command, lines) in [("dump", 3..20), ("summary", 0..1)] {
        let said = run(snapshot_tool(&[command, text(&file)]));
        assert_eq!(
            (said.code, said.err.contains("is damaged at byte 500")),
            (Some(1), true),
            "{command}: {}",
            said.err
        );
        assert!(lines.contains(&said.out.lines().count()), "{command}: {}", said.out);
    }
    let check = |why: &str| {
        for command in ["dump", "verify", "summary"] {
            let said = run(snapshot_tool(&[command, text(&file)]));
            assert_eq!((said.code, said.err.contains(why)), (Some(2), true), "{command}: {}", said.err);
        }
    };
    fs::write(&file, "").unwrap();
    check("empty");
    fs::copy(golden("apache-3.9/log.1"), &file).unwrap();
    check("Use ringkeeper-log for it");
    fs::write(&file, b"what is this?").unwrap();
    check("neither a log nor a snapshot");
    File::create(&file).unwrap().set_len(10 << 30).unwrap();
    check("empty");
    // Whatever a length says, memory is taken for what is there.
    let mut sparse = whole[..32].to_vec();
    sparse.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 0xff]);
    fs::write(&file, &sparse).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(10 << 30).unwrap();
    ends_with(1, snapshot_tool(&["verify", text(&file)]));
}

#[test]
fn compressed_snapshots_are_read_and_written_like_plain_ones() {
    let dir = Dir::new();
    let plain = golden("apache-3.9/snapshot.3b");
    let dumped = ends_with(0, snapshot_tool(&["dump", text(&plain)]));
    for (method, name) in [("gz", "snapshot.3b.gz"), ("snappy", "snapshot.3b.snappy")] {
        ends_with(0, snapshot_tool(&["convert", "--compression", method, "-o", text(dir.path()), text(&plain)]));
        let file = dir.path().join(name);
        assert!(fs::metadata(&file).unwrap().len() < fs::metadata(&plain).unwrap().len());
        assert_eq!(ends_with(0, snapshot_tool(&["dump", text(&file)])), dumped, "{method}");
        assert!(ends_with(0, snapshot_tool(&["verify", text(&file)])).contains("digest compared"), "{method}");
        ends_with(0, snapshot_tool(&["compare", text(&plain), text(&file)]));
        // The server reads it too, and back again it is what it was.
        let loaded = ringkeeper::storage::snapshot::load_newest(dir.path(), None).unwrap().expect("there is one");
        assert_eq!(loaded.path, file);
        let back = Dir::new();
        ends_with(0, snapshot_tool(&["convert", "--compression", "none", "-o", text(back.path()), text(&file)]));
        assert!(fs::read(back.path().join("snapshot.3b")).unwrap() == fs::read(&plain).unwrap());
        let again = run(snapshot_tool(&["convert", "-o", text(dir.path()), text(&file)]));
        assert_eq!((again.code, again.err.contains("nothing is replaced")), (Some(2), true), "{}", again.err);
        // Cut and damaged ones are found, and not handed on.
        let whole = fs::read(&file).unwrap();
        for damaged in [whole[..whole.len() / 2].to_vec(), [&whole[..100], &[!whole[100]], &whole[101..]].concat()] {
            fs::write(&file, damaged).unwrap();
            assert!(ends_with(1, snapshot_tool(&["verify", text(&file)])).contains("DAMAGE: "), "{method}");
            let refused = run(snapshot_tool(&["convert", "-o", text(back.path()), text(&file)]));
            assert_eq!((refused.code, fs::read_dir(back.path()).unwrap().count()), (Some(2), 1), "{}", refused.err);
        }
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_snapshot_gets_the_form_of_another_release() {
    let plain = golden("apache-3.9/snapshot.3b");
    let verified = |file: &Path| -> Value {
        serde_json::from_str(&ends_with(0, snapshot_tool(&["verify", "--json", text(file)]))).unwrap()
    };
    let mut sizes = Vec::new();
    for (form, is_digest_there) in [("3.5", false), ("3.8", true), ("3.9", true)] {
        let dir = Dir::new();
        ends_with(0, snapshot_tool(&["convert", "--form", form, "-o", text(dir.path()), text(&plain)]));
        let file = dir.path().join("snapshot.3b");
        assert_eq!(verified(&file)["digest_compared"], is_digest_there, "{form}");
        assert_eq!(verified(&file)["digest"], verified(&plain)["digest"], "{form}");
        sizes.push(fs::metadata(&file).unwrap().len());
    }
    assert!(sizes.is_sorted_by(|a, b| a < b) && sizes[2] == fs::metadata(&plain).unwrap().len(), "{sizes:?}");
}
