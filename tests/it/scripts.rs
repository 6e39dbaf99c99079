//! The scripts that bear the names of Apache's: each is run, with its arguments, texts and exit codes. (That the texts are
//! Apache's, `tests/peers/logs.sh` shows.)

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringkeeper::storage::{segments, snapshot};

use super::support::*;

/// The scripts, away from programs of an earlier release build, and a place for what they work on.
struct Scripts {
    dir: Dir,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Scripts {
    fn new() -> Scripts {
        let dir = Dir::new();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "sh") {
                fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        Scripts { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script with these words; `@` stands for the directory.
    fn run(&self, script: &str, words: &str) -> Said {
        let programs = Path::new(env!("CARGO_BIN_EXE_ringkeeper")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let root = self.dir.path().to_str().unwrap();
        let mut command = Command::new("sh");
        command.arg(self.path(script)).args(words.split_ascii_whitespace().map(|word| word.replace('@', root)));
        command.current_dir(self.dir.path()).env("PATH", path).env("ZOOCFGDIR", root).env("TZ", "UTC");
        command.env_remove("ZOOCFG").env_remove("ZOO_LOG_DIR").stdin(Stdio::null());
        let output = command.output().expect("there is a shell");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(root, "@");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn ends_with(&self, code: i32, script: &str, words: &str) -> Said {
        let said = self.run(script, words);
        assert_eq!(said.code, Some(code), "{script} {words}: {}{}", said.out, said.err);
        said
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn a_server_is_started_asked_and_stopped() {
    let scripts = Scripts::new();
    let port = Port::free();
    let config = format!("dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n", "@/data", port.number);
    scripts.dir.write("zoo.cfg", &config.replace('@', scripts.dir.path().to_str().unwrap()));
    let started = scripts.ends_with(0, "zkServer.sh", "start");
    assert!(started.out.contains("Starting zookeeper ... STARTED"), "{}{}", started.out, started.err);
    assert!(scripts.path("../logs").exists() || scripts.path("logs").exists(), "its output is kept");
    let status = scripts.ends_with(0, "zkServer.sh", "status");
    assert!(status.out.contains("Mode: standalone"), "{}{}", status.out, status.err);
    let listed = scripts.ends_with(0, "zkCli.sh", &format!("-server 127.0.0.1:{} ls /", port.number));
    assert!(listed.out.ends_with("[zookeeper]\n"), "{}", listed.out);
    let stopped = scripts.ends_with(0, "zkServer.sh", "stop");
    assert!(stopped.out.contains("Stopping zookeeper ... STOPPED"), "{}{}", stopped.out, stopped.err);
    scripts.ends_with(1, "zkServer.sh", "status");
    assert!(scripts.ends_with(0, "zkServer.sh", "bogus").err.starts_with("Usage: "));
    assert!(scripts.ends_with(0, "zkServer.sh", "version").out.contains("ringkeeper, version"));
}

#[test]
fn logs_are_dumped_recovered_and_chopped() {
    let scripts = Scripts::new();
    fs::copy(golden("apache-3.9/log.1"), scripts.path("log.1")).unwrap();
    let dumped = scripts.ends_with(0, "zkTxnLogToolkit.sh", "@/log.1");
    assert!(dumped.out.starts_with("ZooKeeper Transactional Log File with dbid 0"), "{}", dumped.out);
    assert_eq!(scripts.ends_with(0, "zkTxnLogToolkit.sh", "-d @/log.1").out, dumped.out);
    scripts.ends_with(0, "zkTxnLogToolkit.sh", "-c -z 0x10 @/log.1");
    let chopped = scripts.ends_with(0, "zkTxnLogToolkit.sh", "@/log.1.chopped16");
    assert!(chopped.out.lines().count() < dumped.out.lines().count() && chopped.out.contains(" zxid 0x10 "));
    assert!(!chopped.out.contains(" zxid 0x11 "));
    scripts.ends_with(0, "zkTxnLogToolkit.sh", "-r -y @/log.1");
    assert_eq!(scripts.ends_with(0, "zkTxnLogToolkit.sh", "@/log.1.fixed").out, dumped.out);
    assert!(scripts.ends_with(1, "zkTxnLogToolkit.sh", "-r -y @/log.1").err.contains("already exists"));
    assert!(scripts.ends_with(1, "zkTxnLogToolkit.sh", "@/absent").err.contains("File doesn't exist"));
    assert!(scripts.ends_with(1, "zkTxnLogToolkit.sh", "").out.starts_with("usage: TxnLogToolkit"));
    assert!(scripts.ends_with(0, "zkTxnLogToolkit.sh", "--help").out.starts_with("usage: TxnLogToolkit"));
    assert!(scripts.ends_with(1, "zkTxnLogToolkit.sh", "-x @/log.1").err.starts_with("Unrecognized option: -x"));
}

#[test]
fn snapshots_are_printed_summed_up_and_compared() {
    let scripts = Scripts::new();
    for name in ["snapshot.0", "snapshot.3b"] {
        fs::copy(golden("apache-3.9").join(name), scripts.path(name)).unwrap();
    }
    let printed = scripts.ends_with(0, "zkSnapShotToolkit.sh", "@/snapshot.3b");
    assert!(printed.out.starts_with("ZNode Details (count=") && printed.out.contains("dataLength = "));
    assert!(scripts.ends_with(0, "zkSnapShotToolkit.sh", "-d @/snapshot.3b").out.contains("  data = "));
    assert!(scripts.ends_with(2, "zkSnapShotToolkit.sh", "").err.starts_with("USAGE: SnapshotFormatter"));
    assert!(scripts.ends_with(2, "zkSnapShotToolkit.sh", "@/absent").err.contains("'@/absent' does not exist"));

    let summary = scripts.ends_with(0, "zkSnapshotRecursiveSummaryToolkit.sh", "@/snapshot.3b / 2");
    assert!(summary.out.starts_with(" /\n   children: "), "{}", summary.out);
    assert!(scripts.ends_with(2, "zkSnapshotRecursiveSummaryToolkit.sh", "@/snapshot.3b").err.starts_with("USAGE: "));

    let words = "-l @/snapshot.0 --right @/snapshot.3b -b 900 -n 100";
    let compared = scripts.ends_with(0, "zkSnapshotComparer.sh", words);
    assert!(compared.out.starts_with("Successfully parsed options!\n"), "{}", compared.out);
    assert!(
        compared.out.contains("Node /large found only in right tree. Descendant size: 1000. Descendant count: 0\n")
    );
    assert!(compared.out.ends_with("All layers compared.\n"));
    assert!(!compared.out.contains("Filtered"));
    let all = scripts.ends_with(0, "zkSnapshotComparer.sh", &format!("{words} -d"));
    assert!(all.out.contains("Filtered right node /a of size 4\n"), "{}", all.out);
    let none = scripts.ends_with(2, "zkSnapshotComparer.sh", "-l @/snapshot.0 -b 1");
    assert_eq!(none.err, "Missing required options: r, n\n");
    assert!(scripts.ends_with(2, "zkSnapshotComparer.sh", "--x 1").err.starts_with("Unrecognized option: --x"));
}

/// What a directory holds: snapshots, segments, logs of Apache's.
fn contents(dir: &Path) -> (usize, usize, usize) {
    let apache_logs = ringkeeper::storage::apache_log::list(dir).unwrap().len();
    (snapshot::list(dir).unwrap().len(), segments::list(dir).unwrap().len(), apache_logs)
}

#[test]
fn what_no_start_needs_is_cleaned_up_and_the_server_finds_everything() {
    let scripts = Scripts::new();
    // An Apache server's directory, taken over; then a snapshot at each stop.
    let mut server = Server::new("preAllocSize=1024\n");
    fs::create_dir_all(server.log_dir()).unwrap();
    for name in ["log.1", "log.3c", "snapshot.0", "snapshot.3b"] {
        fs::copy(golden("apache-3.9").join(name), server.log_dir().join(name)).unwrap();
    }
    let data = server.log_dir().parent().unwrap().to_str().unwrap().to_owned();
    scripts.dir.write("zoo.cfg", &format!("  dataDir={data} \n"));
    for round in 0..5 {
        server.start();
        let mut client = server.client();
        client.call(&create(&format!("/cleanup{round}"), None)).ok();
        for _ in 0..4 {
            client.call(&set(&format!("/cleanup{round}"), Some(&vec![round as u8; 500_000]))).ok();
        }
        server.stop();
    }
    let before = contents(&server.log_dir());
    assert!(before.0 == 7 && before.1 > 8 && before.2 == 2, "{before:?}");

    let usage = "Usage:\nPurgeTxnLog dataLogDir [snapDir] -n count\n";
    for (words, what) in [
        ("", ""),
        ("-n 2", "count should be greater than or equal to 3\n"),
        ("-n -1", "count should be greater than or equal to 3\n"),
        ("-n three", "'three' can not be parsed to integer.\n"),
        ("@/absent -n 3", "Path '@/absent' does not exist. \n"),
    ] {
        let refused = scripts.ends_with(1, "zkCleanup.sh", words);
        assert!(refused.err == what && refused.out.starts_with(usage), "{words}: {}{}", refused.err, refused.out);
    }
    assert_eq!(contents(&server.log_dir()), before);

    // Beside a server its segments stay.
    server.start();
    let cleaned = scripts.ends_with(0, "zkCleanup.sh", "-n 4");
    assert!(cleaned.err.contains("A server runs on this directory"), "{}", cleaned.err);
    assert_eq!(cleaned.out.lines().filter(|line| line.starts_with("Removing file: ")).count(), 4, "{}", cleaned.out);
    let beside = contents(&server.log_dir());
    assert!(beside.0 == 4 && beside.1 >= before.1 && beside.2 == 1, "{beside:?}");
    server.client().call(&set("/cleanup0", None)).ok();
    server.stop();

    scripts.ends_with(0, "zkCleanup.sh", "-n 3");
    let after = contents(&server.log_dir());
    assert!(after.0 == 3 && after.1 < beside.1, "{after:?} of {beside:?}");
    assert_eq!(scripts.ends_with(0, "zkCleanup.sh", "-n 3").out, "", "there is nothing left to remove");
    // From each snapshot that stays, the newest first.
    for _ in 0..3 {
        server.start();
        let mut client = server.client();
        for round in 0..5 {
            let version = client.call(&exists(&format!("/cleanup{round}"), false)).stat().version;
            assert_eq!(version, if round == 0 { 5 } else { 4 }, "/cleanup{round}");
        }
        assert_eq!(client.call(&get("/large", false)).data().0.map(|data| data.len()), Some(1000));
        drop(client);
        server.kill();
        let newest = snapshot::list(&server.log_dir()).unwrap().remove(0);
        fs::remove_file(newest.path).unwrap();
    }
}
