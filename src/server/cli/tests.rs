//! What the verbs say and return. The server is a shell script: `sh start-foreground <path>` runs the file
//! `start-foreground` of the working directory.

use super::*;
use crate::server::config::testing::Scratch;
use std::fs;
use std::net::TcpListener;

/// A directory with a configuration and a pretended program.
struct Setup {
    scratch: Scratch,
    environment: Environment,
}

impl Setup {
    /// `@` in the configuration stands for the directory.
    fn new(config: &str, server: &str) -> Setup {
        let scratch = Scratch::new();
        let root = scratch.path().display().to_string();
        scratch.write("conf/zoo.cfg", &config.replace('@', &root));
        scratch.write("start-foreground", &server.replace('@', &root));
        let log_dir = format!("{root}/logs");
        let conf_dir = format!("{root}/conf");
        let variables =
            [("ZOOCFGDIR", conf_dir.as_str()), ("ZOO_LOG_DIR", log_dir.as_str()), ("USER", "zk"), ("HOSTNAME", "h")];
        let environment = Environment::new(&variables, scratch.path(), Path::new("/bin/sh"));
        Setup { scratch, environment }
    }

    /// Runs the words as arguments; `out` and `err` and the outcome as one text.
    fn run(&self, words: &str) -> String {
        let words = std::iter::once("ringkeeper").chain(words.split_ascii_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console { out: &mut out, err: &mut err };
        let outcome = run(&cli, &self.environment, &mut console).unwrap();
        let outcome = match outcome {
            Outcome::Exit(code) => format!("exit {code}"),
            Outcome::Serve(path) => format!("serve {}", path.display()),
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let root = self.scratch.path().display().to_string();
        let err = text(err).replace("Using config: @/conf/zoo.cfg\n", "");
        let all = format!("{}{err}{outcome}", text(out)).replace(&root, "@");
        all.replace("Using config: @/conf/zoo.cfg\n", "")
    }

    #[track_caller]
    fn check(&self, words: &str, expected: &str) {
        assert_eq!(self.run(words), expected, "{words}");
    }
}

const ENDLESS: &str = "mkdir -p @/data; while :; do sleep 0.05; done";

#[test]
fn start_status_and_stop() {
    let setup = Setup::new("dataDir=@/data\n", ENDLESS);
    setup.check(
        "stop",
        "Stopping zookeeper ... no zookeeper to stop (could not find file @/data/zookeeper_server.pid)\nexit 0",
    );
    setup.check("start", "Starting zookeeper ... STARTED\nexit 0");
    let pid = fs::read_to_string(setup.scratch.path().join("data/zookeeper_server.pid")).unwrap();
    assert!(pid.parse::<u32>().is_ok(), "{pid:?} has no newline");
    let running = format!("Starting zookeeper ... already running as process {pid}.\nexit 1");
    setup.check("start", &running);
    setup.check("restart", "Stopping zookeeper ... STOPPED\nStarting zookeeper ... STARTED\nexit 0");
    setup.check("stop", "Stopping zookeeper ... STOPPED\nexit 0");
    assert!(!setup.scratch.path().join("data/zookeeper_server.pid").exists());
}

#[test]
fn a_server_that_ends_at_once_shows_its_last_words() {
    let setup = Setup::new("dataDir=@/data\n", "echo Address already in use; exit 1");
    setup.check(
        "start",
        "Starting zookeeper ... FAILED TO START\nthe server ended with exit status: 1\nAddress already in use\nexit 1",
    );
    assert!(!setup.scratch.path().join("data").exists());
    assert!(setup.scratch.path().join("logs/zookeeper-zk-server-h.out").exists());
}

#[test]
fn a_bad_configuration_leaves_no_trace() {
    let setup = Setup::new("dataDir=@/data\ntickTime=x\n", ENDLESS);
    let before = setup.scratch.files();
    setup.check(
        "start",
        "Starting zookeeper ... FAILED TO START\n@/conf/zoo.cfg:2: tickTime = x: For input string: \"x\"; \
         allowed: 1 to 107374182 (ms)\nexit 1",
    );
    setup.check(
        "check-config",
        "Invalid config, exiting abnormally\n@/conf/zoo.cfg:2: tickTime = x: For input string: \"x\"; \
         allowed: 1 to 107374182 (ms)\nexit 2",
    );
    assert_eq!(setup.scratch.files(), before);
}

#[test]
fn a_stale_pid_file_stops_nobody() {
    let setup = Setup::new("dataDir=@/data\n", ENDLESS);
    for text in [std::process::id().to_string(), "x".to_string(), String::new()] {
        setup.scratch.write("data/zookeeper_server.pid", &text);
        setup.check(
            "stop",
            "Stopping zookeeper ... no zookeeper to stop (removed stale file @/data/zookeeper_server.pid)\nexit 0",
        );
    }
}

#[test]
fn status_prints_the_mode() {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let found = format!("Client port found: {port}. Client address: 127.0.0.1. Client SSL: false.\n");
    let setup = Setup::new(&format!("clientPort={port}\nclientPortAddress=127.0.0.1\n"), "");
    let answers =
        ["Zxid: 0x0\nMode: standalone\nNode count: 5\n", "This ZooKeeper instance is not currently serving requests\n"];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().unwrap();
            let mut word = [0; 4];
            client.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"srvr");
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    let not_running = format!("{found}Error contacting service. It is probably not running.\nexit 1");
    setup.check("status", &format!("{found}Mode: standalone\nexit 0"));
    setup.check("status", &not_running);
    server.join().unwrap();
    setup.check("status", &not_running);
}

#[test]
fn version_print_cmd_and_start_foreground() {
    let setup = Setup::new("dataDir=@/data\n", "");
    setup.check("version", &format!("{VERSION_LINE}\nexit 0"));
    setup.check(
        "print-cmd",
        "\"/bin/sh\" \"start-foreground\" \"@/conf/zoo.cfg\" &>\"@/logs/zookeeper-zk-server-h.out\" </dev/null\nexit 0",
    );
    setup.check("start-foreground", "serve @/conf/zoo.cfg");
    setup.check(
        "--config /none start",
        "Invalid config, exiting abnormally\nno configuration file; looked at /none/zoo.cfg\nexit 2",
    );
    assert!(Cli::try_parse_from(["ringkeeper", "upgrade"]).is_err());
}

#[test]
fn check_config_prints_what_holds() {
    let setup = Setup::new("dataDir=@/data\ntickTime=2000\nsnapCount=1\n", "");
    let said = setup.run("check-config");
    for line in [
        "tickTime = 2000 (@/conf/zoo.cfg:2)",
        "maxSessionTimeout = 40000 (default)",
        "snapCount = 2 (@/conf/zoo.cfg:3)",
        "WARN @/conf/zoo.cfg:3: SnapCount should be 2 or more. Now, snapCount is reset to 2",
        "The configuration is valid, 1 warning.",
        "exit 0",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} is missing:\n{said}");
    }
    assert!(said.contains("\nplacement: core "), "{said}");
}

#[test]
fn directories_may_not_be_made() {
    let mut setup = Setup::new("dataDir=@/data\n", ENDLESS);
    let conf_dir = setup.scratch.path().join("conf").display().to_string();
    let variables = [("ZOO_DATADIR_AUTOCREATE_DISABLE", "1"), ("ZOOCFGDIR", conf_dir.as_str())];
    setup.environment = Environment::new(&variables, setup.scratch.path(), Path::new("/bin/sh"));
    setup.check("start", "ZooKeeper data directory is missing at @/data fix the path or run initialize\nexit 1");
}
