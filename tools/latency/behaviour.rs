//! What the generator measures, and what it says of a server that does wrong.

use clap::Parser;

use crate::load;
use crate::options::Options;
use crate::request::Kind;
use crate::results::{Run, Sweep};
use crate::sink::{Mood, STALL, start};
use crate::sweep;

/// Runs the load that `arguments` describe against a sink of that mood.
fn run(mood: Mood, arguments: &str) -> load::Outcome {
    run_on(&start(mood, 1024).to_string(), arguments)
}

fn run_on(servers: &str, arguments: &str) -> load::Outcome {
    load::run(&options(servers, arguments).load).expect("the load is measured")
}

fn options(servers: &str, arguments: &str) -> Options {
    let program = ["ringkeeper-latency", "--servers", servers];
    let options = Options::parse_from(program.into_iter().chain(arguments.split_whitespace()));
    options.load.check().expect("the options go together");
    options
}

#[test]
fn every_operation_is_answered_checked_and_counted() {
    let ops = ["set", "create", "get", "delete", "mixed --reads 50", "multi", "set --spread even"];
    for op in ops.into_iter().chain(["mixed --spread skewed"]) {
        let outcome = run(Mood::Fair, &format!("--op {op} --count 5000 --connections 3 --keys 5000 --threads 2"));
        assert!(outcome.faults.is_empty(), "{op}: {:?}", outcome.faults);
        assert_eq!(outcome.summary.completed, 5000, "{op}");
        assert_eq!(outcome.summary.total().len(), 5000, "{op}");
    }
}

#[test]
fn keys_may_be_fewer_than_connections() {
    let outcome = run(Mood::Fair, "--op get --count 1000 --connections 5 --keys 2");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    assert_eq!(outcome.summary.completed, 1000);
}

#[test]
fn an_open_loop_sends_as_many_as_are_due() {
    let outcome = run(Mood::Fair, "--op set --rate 20000 --warmup 0.1 --duration 0.5 --connections 4");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let recorded = outcome.summary.total().len();
    assert!(recorded.abs_diff(10_000) <= 1, "{recorded} in half a second at 20,000 a second");
    let backlog = outcome.backlog.expect("an open loop has one");
    assert_eq!((backlog.held_back, backlog.never_sent), (0, 0));
}

/// Coordinated omission: while the server stands still, an open loop goes on to make requests, and each of them has the
/// latency that its user would have seen. A closed loop waits with the server and sees one slow request.
#[test]
fn a_stall_is_in_the_latency_of_everything_that_was_due_in_it() {
    let slower_than = |outcome: &load::Outcome, share: f64| {
        let ns = (STALL.as_nanos() as f64 * share) as u64;
        let total = outcome.summary.total();
        total.len() - total.count_between(0, ns)
    };
    let open = run(Mood::Stalls, "--op set --rate 1000 --connections 1 --keys 10 --warmup 0 --duration 2");
    assert!(open.faults.is_empty(), "{:?}", open.faults);
    let backlog = open.backlog.expect("an open loop has one");
    assert_eq!((open.summary.total().len(), backlog.never_sent), (2000, 0), "none is left out");
    // Of the 400 that were due in the stall, three quarters were due in its first three quarters.
    assert!(slower_than(&open, 0.25) >= 298, "{} were slow", slower_than(&open, 0.25));
    assert!(slower_than(&open, 0.75) >= 98, "{} were very slow", slower_than(&open, 0.75));
    assert!(open.summary.longest_gap.length_ns >= STALL.as_nanos() as u64, "{:?}", open.summary.longest_gap);

    let closed = run(Mood::Stalls, "--op set --connections 1 --outstanding 1 --keys 10 --warmup 0 --count 1000");
    assert!((1..100).contains(&slower_than(&closed, 0.9)), "{} were slow", slower_than(&closed, 0.9));
    assert!(closed.summary.longest_gap.length_ns >= STALL.as_nanos() as u64, "{:?}", closed.summary.longest_gap);
}

#[test]
fn a_sweep_goes_up_to_what_the_server_can_do() {
    let sweep = |arguments: &str| {
        let servers = start(Mood::Fair, 1024).to_string();
        let program = ["ringkeeper-latency", "--servers", &servers, "--duration", "0.1", "--warmup", "0.02"];
        let options = Options::parse_from(program.into_iter().chain(arguments.split_whitespace())).load;
        sweep::run(&options, options.sweep.expect("--sweep is among the arguments")).expect("the sweep is measured")
    };
    let paces = |sweep: &Sweep| -> Vec<_> {
        sweep.steps.iter().map(|run| (run.connections, run.outstanding, run.rate)).collect()
    };
    let given = sweep("--sweep rate --steps 100,300 --op create --connections 2");
    assert_eq!(paces(&given), [(2, None, Some(100.0)), (2, None, Some(300.0))]);
    // One that is due at an end of the measurement may be in it or not.
    let operations: Vec<u64> = given.steps.iter().map(|run| run.operations).collect();
    assert!(operations[0].abs_diff(10) <= 1 && operations[1].abs_diff(30) <= 1, "{operations:?}");
    assert!(given.steps.iter().all(|run| run.faults.is_empty()), "a second step creates other znodes: {given:?}");

    let given = sweep("--sweep concurrency --steps 1,2,8 --connections 4");
    assert_eq!(paces(&given), [(1, Some(1), None), (2, Some(1), None), (4, Some(2), None)]);

    // 1.1 times what a closed loop reaches is beyond the server, or not: either way the rates only grow.
    let found = sweep("--sweep rate --connections 4");
    let rates: Vec<f64> = found.steps.iter().filter_map(|run| run.rate).collect();
    assert_eq!(rates.len(), found.steps.len(), "the closed loop that finds the top is no step");
    assert!(!rates.is_empty() && rates.is_sorted(), "{rates:?}");
}

#[test]
fn wrong_data_errors_and_lost_connections_are_faults() {
    let outcome = run(Mood::FlipsData, "--op get --count 1000");
    assert_eq!(outcome.faults.wrong, 1000);
    assert!(outcome.faults.messages[0].ends_with("n0000000000: data that differs at byte 0"));

    let outcome = run(Mood::Refuses, "--op set --count 1000");
    assert_eq!(outcome.faults.refused.iter().collect::<Vec<_>>(), [(&("set", -101), &1000)]);

    let outcome = run(Mood::HangsUp, "--op set --count 5000 --connections 2 --outstanding 4 --keys 10");
    assert!(outcome.faults.lost >= 4, "{:?}", outcome.faults);
    assert!(outcome.faults.messages[0].starts_with("connection lost: 127.0.0.1:"), "{:?}", outcome.faults.messages);
    assert_eq!((outcome.faults.unanswered, outcome.faults.wrong), (0, 0), "asked again on a new connection");
    assert_eq!(outcome.summary.completed, 5000);
    assert!(!is_clean(&outcome), "and still it is no measurement");
}

fn is_clean(outcome: &load::Outcome) -> bool {
    Run::new(&options("unused:1", "").load, outcome).is_clean()
}

#[test]
fn a_write_that_was_answered_and_not_done_is_seen() {
    for op in ["set", "multi --multi 3", "mixed --reads 10", "set --spread even"] {
        let outcome = run(Mood::LosesWrites, &format!("--op {op} --count 3000 --connections 2 --keys 30"));
        assert!(outcome.faults.wrong >= 20, "{op}: {:?}", outcome.faults);
        assert!(outcome.faults.messages[0].contains("a write was lost or done twice"), "{:?}", outcome.faults);
        assert!(!is_clean(&outcome));
    }
    // Where several connections write the same znodes, none of them knows the versions.
    let outcome = run(Mood::Fair, "--op set --count 1000 --connections 5 --keys 2");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
}

#[test]
fn replies_out_of_order_or_of_an_older_state_are_seen() {
    let outcome = run(Mood::GoesBack, "--op get --count 1000 --connections 2 --keys 10");
    assert!(outcome.faults.wrong >= 8, "{:?}", outcome.faults);
    assert!(outcome.faults.messages[0].contains("zxid 0x1 after 0x"), "{:?}", outcome.faults);
    // A reply to another request: nothing that comes after it can be trusted.
    let outcome = run(Mood::SwapsReplies, "--op get --count 500 --connections 2 --keys 10");
    assert!(outcome.faults.lost >= 4, "{:?}", outcome.faults);
    assert!(outcome.faults.messages[0].contains("garbled: a reply with xid"), "{:?}", outcome.faults);
}

/// While the server is away nothing is answered, and after that everything that was asked is: each request once, with
/// a latency from when it was due.
#[test]
fn a_restart_is_a_gap_and_not_a_loss() {
    let run = |mood, arguments: &str| {
        let common = "--op set --connections 4 --keys 40 --warmup 0 --duration 2 --rate 1000 --during true";
        run(mood, &format!("{common} {arguments}"))
    };
    let outcome = run(Mood::Restarts, "");
    assert_eq!(
        (outcome.faults.lost, outcome.faults.wrong, outcome.faults.unanswered),
        (4, 0, 0),
        "{:?}",
        outcome.faults
    );
    assert_eq!((outcome.recovery.reconnects, outcome.recovery.expired), (4, 0));
    assert_eq!(outcome.summary.total().len(), 2000);
    let stall_ns = STALL.as_nanos() as u64;
    assert!(outcome.summary.longest_gap.length_ns >= stall_ns, "{:?}", outcome.summary.longest_gap);
    assert!(outcome.summary.total().max() >= stall_ns / 10 * 9);
    assert!(outcome.recovery.outage.len() == 4 && outcome.recovery.outage.min() >= stall_ns / 10 * 9);
    assert!(is_clean(&outcome), "lost connections are what was asked for: {:?}", outcome.during);

    let outcome = run(Mood::Expires, "");
    assert_eq!((outcome.recovery.expired, outcome.recovery.reconnects), (4, 4));
    assert!(is_clean(&outcome), "{:?}", outcome.faults);

    let outcome = run(Mood::Forgets, "");
    assert!(outcome.faults.wrong >= 1, "an acknowledged write is gone: {:?}", outcome.faults);
    assert!(!is_clean(&outcome));

    let outcome = run(Mood::Fair, "--during-at 0.1");
    let during = outcome.during.as_ref().expect("there was a command");
    assert!(during.began_ns >= Some(100_000_000) && during.ended_ns >= during.began_ns, "{during:?}");
}

#[test]
fn a_lost_connection_goes_on_with_the_next_server() {
    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let servers = format!("{},{}", closed.expect("a free port"), start(Mood::HangsUp, 1024));
    let outcome = run_on(&servers, "--op set --count 5000 --connections 2 --keys 10");
    assert_eq!((outcome.summary.completed, outcome.faults.unanswered, outcome.faults.wrong), (5000, 0, 0));
    assert!(outcome.recovery.reconnects >= 3, "{:?}", outcome.recovery.reconnects);
}

#[test]
fn watchers_get_each_change_once() {
    let arguments = "--op watch --connections 5 --keys 3 --count 300";
    let outcome = run(Mood::Fair, arguments);
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let counts = ["set", "event", "watch again"].map(|name| {
        let run = Run::new(&options("unused:1", arguments).load, &outcome);
        run.latency_us.get(name).map_or(0, |latency| latency.count)
    });
    assert_eq!(counts, [300, 1200, 1200]);

    let outcome = run(Mood::DoublesEvents, arguments);
    assert!(outcome.faults.wrong >= 1, "{:?}", outcome.faults);
    assert!(outcome.faults.messages[0].contains("for which there is no watch"), "{:?}", outcome.faults);

    // In an open loop the changes are due whether the watchers are ready or not.
    let outcome = run(Mood::Fair, "--op watch --connections 3 --rate 200 --warmup 0 --duration 0.5");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let count = |kind: Kind| outcome.summary.latencies[kind as usize].len();
    let never_sent = outcome.backlog.expect("an open loop has one").never_sent;
    assert_eq!((count(Kind::Set) + never_sent, count(Kind::Event)), (100, 2 * count(Kind::Set)));
}

#[test]
fn sessions_are_opened_taken_up_and_closed() {
    for (op, kinds) in [("session", ["open", "close"]), ("resume", ["resume", "resume"])] {
        let arguments = format!("--op {op} --connections 20 --count 100");
        let outcome = run(Mood::Fair, &arguments);
        assert!(outcome.faults.is_empty(), "{op}: {:?}", outcome.faults);
        let latencies = Run::new(&options("unused:1", &arguments).load, &outcome).latency_us;
        assert_eq!(latencies.len(), if op == "session" { 2 } else { 1 });
        assert!(kinds.iter().all(|kind| latencies[*kind].count == 100), "{latencies:?}");
    }
    let outcome = run(Mood::Fair, "--op session --connections 4 --rate 100 --warmup 0 --duration 0.5");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    assert_eq!(outcome.summary.latencies[Kind::Open as usize].len(), 50);

    let outcome = run(Mood::SameSession, "--op session --connections 20 --count 100");
    assert!(outcome.faults.messages[0].contains("session 0x1 is open twice"), "{:?}", outcome.faults);
}

#[test]
fn options_that_do_not_go_together_are_named() {
    let error = |arguments: &str| {
        let program = ["ringkeeper-latency"].into_iter().chain(arguments.split_whitespace());
        Options::try_parse_from(program).expect("each by itself is right").load.check().unwrap_err()
    };
    assert!(error("--op multi --keys 10").contains("--keys 320"));
    assert!(error("--op watch --connections 1").contains("--connections 2"));
    assert!(error("--op delete --sweep rate").contains("a sweep cannot have --op delete"));
    assert!(error("--op session --during true").contains("--during cannot have --op session"));
    assert!(error("--op watch --threads 2").contains("leave out --threads"));
    assert!(error("--json /no/such/run.json").contains("there is no directory /no/such"));
}

/// The generator must not be what is measured: see what it prints in a release build on an idle machine.
#[test]
fn the_generator_is_cheap() {
    let outcome = run(Mood::Fair, "--op set --connections 32 --outstanding 16 --warmup 0.2 --duration 1");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let (operations, cpu_ns) = (outcome.summary.completed, outcome.summary.cpu_ns);
    println!("{operations} sets of 1 KB in a second, {} ns of CPU each", cpu_ns / operations);
}
