//! The load generator as its users have it: the program, against a real server.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Dir, Server};

/// Runs the program with those arguments, and demands that exit code.
#[track_caller]
fn latency(arguments: &str, exit_code: i32) -> String {
    let output = output(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(exit_code), "{arguments}\n{out}{err}");
    format!("{out}{err}")
}

fn output(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringkeeper-latency"));
    // A command for --during is in quotes.
    for (i, part) in arguments.split('\'').enumerate() {
        if i % 2 == 0 {
            command.args(part.split_whitespace());
        } else {
            command.arg(part);
        }
    }
    command.output().expect("it can be run")
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn every_operation_is_right_and_nothing_is_left_behind() {
    let server = Server::run("");
    let address = server.address();
    let before = znodes(&address);
    let pace = "--count 400 --connections 4 --keys 40";
    for op in ["set", "create", "get", "delete", "mixed", "multi", "watch", "session", "resume"] {
        let printed = latency(&format!("--servers {address} --op {op} {pace} --size 100"), 0);
        assert!(printed.contains("  faults        none\n"), "{op}: {printed}");
    }
    for options in ["--op set --spread even", "--op get --spread skewed", "--op mixed --threads 2"] {
        latency(&format!("--servers {address} {options} {pace}"), 0);
    }
    assert_eq!(znodes(&address), before, "the subtree is removed");
    latency(&format!("--servers {address} --op set --keep {pace}"), 0);
    assert!(znodes(&address) > before);
}

/// The number of znodes, from `srvr`.
fn znodes(address: &str) -> u64 {
    let answer = crate::support::ask(address, "srvr");
    let count = answer.lines().find_map(|line| line.strip_prefix("Node count: "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in {answer}"))
}

#[test]
fn results_are_kept_in_every_form_and_drawn() {
    let server = Server::run("");
    let (address, dir) = (server.address(), Dir::new());
    let file = |name: &str| dir.path().join(name);
    let shown = |name: &str| file(name).display().to_string();
    let pace = "--connections 4 --keys 40 --size 100 --warmup 0.1 --duration 0.5";
    let printed = latency(
        &format!(
            "--servers {address} --rate 500 {pace} --json {} --hgrm {} --timeseries {} --server-pid {}",
            shown("run.json"),
            shown("run.hgrm"),
            shown("run.csv"),
            server.pid().as_raw_nonzero()
        ),
        0,
    );
    for text in ["p50       p90       p99     p99.9    p99.99       max", "  server  ", "  longest gap   ", "send lag"]
    {
        assert!(printed.contains(text), "{text} is not in {printed}");
    }
    let hgrm = read(&file("run.hgrm"));
    assert!(hgrm.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"), "{hgrm}");
    assert!(hgrm.contains("Total count    =          250]"), "500 a second for half a second: {hgrm}");
    assert_eq!(read(&file("run.csv")).lines().next(), Some("seconds,completions,p50_us,p99_us,max_us"));

    let sweep = |by: &str| format!("--servers {address} --sweep {by} {pace} --json {}", shown("sweep.json"));
    let printed = latency(&sweep("rate --steps 200,400"), 0);
    assert!(printed.contains("200 /s ") && printed.contains("400 /s "), "{printed}");
    let printed = latency(&sweep("concurrency --outstanding 2"), 0);
    assert!(printed.contains("1 x 1 ") && printed.contains("2 x 1 "), "{printed}");

    let plot = format!("plot first={0} {0} {1} --out {2}", shown("run.json"), shown("sweep.json"), shown("all"));
    let printed = latency(&plot, 0);
    assert_eq!(printed.lines().count(), 6, "{printed}");
    for kind in ["percentiles", "timeline", "throughput"] {
        assert!(read(&file(&format!("all-{kind}.svg"))).contains("</svg>"));
        let png = std::fs::read(file(&format!("all-{kind}.png"))).expect("it is drawn");
        assert!(png.starts_with(b"\x89PNG"));
    }
    assert!(latency(&format!("plot {}", shown("run.hgrm")), 2).contains("run.hgrm: not the results"));
}

#[test]
fn a_server_that_is_killed_and_comes_back_is_a_gap_and_loses_nothing() {
    let mut server = Server::run("");
    let (address, dir) = (server.address(), Dir::new());
    let results = dir.path().join("run.json");
    let pid = server.pid().as_raw_nonzero();
    let load = format!(
        "--servers {address} --op set --rate 200 --connections 4 --keys 40 --size 100 --warmup 0 --duration 4 \
         --during 'kill -9 {pid}' --during-at 0.5 --json {}",
        results.display()
    );
    let printed = std::thread::scope(|scope| {
        let load = scope.spawn(|| latency(&load, 0));
        server.wait_for_end();
        server.start();
        load.join().expect("the load ends as it should")
    });
    assert!(printed.contains(&format!("  during it     kill -9 {pid}   (from 0.5")), "{printed}");
    assert!(printed.contains("  recovery      4 connections had again, 0 sessions expired"), "{printed}");
    assert!(read(&results).contains("\"wrong_replies\": 0"));
    let drawn = latency(&format!("plot {} --out {}", results.display(), dir.path().join("failover").display()), 0);
    assert!(drawn.contains("failover-timeline.svg"));
    assert!(
        read(&dir.path().join("failover-timeline.svg")).contains(&format!("kill -9 {pid}")),
        "the command is shown"
    );
}

#[test]
fn without_a_server_or_with_a_wrong_option_there_is_nothing_to_measure() {
    assert!(latency("--servers nowhere.invalid:1 --count 1", 2).contains("nowhere.invalid:1"));
    assert!(latency("--op multi --keys 1", 2).contains("--keys 320"));
    assert!(latency("--sweep rate --rate 5", 2).contains("cannot be used with"));
}
