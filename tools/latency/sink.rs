//! A server that agrees to everything at once, in one thread: what the generator is measured against.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use clap::Parser;
use ringkeeper::proto::client::{ConnectResponse, Stat, XID_PING};
use ringkeeper::proto::op::OpCode;
use ringkeeper::types::SessionId;

use crate::load;
use crate::options::Options;
use crate::request::{Key, Payloads};
use crate::results::Sweep;
use crate::sweep;

/// What the sink does to replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Fair,
    /// One byte of every payload read is wrong.
    FlipsData,
    /// Every write is answered with NONODE.
    Refuses,
    /// Nothing is read for [`STALL`] at the 500th request of a connection.
    Stalls,
    /// Connections end at their 1000th request.
    HangsUp,
}

const STALL: Duration = Duration::from_millis(400);

/// Starts a sink; it lives as long as the test process.
fn start(mood: Mood, payload_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            thread::spawn(move || serve(stream, mood, &Payloads::new(payload_bytes)));
        }
    });
    address
}

fn serve(mut stream: TcpStream, mood: Mood, payloads: &Payloads) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut inbox = vec![0; 256 << 10];
    let (mut filled, mut requests) = (0, 0u64);
    let mut out = Vec::new();
    loop {
        let n = stream.read(&mut inbox[filled..])?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
        let mut bytes = &inbox[..filled];
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let Some((request, next)) = rest.split_at_checked(u32::from_be_bytes(*head) as usize) else { break };
            if requests == 0 {
                answer(&mut out, |out| {
                    let session = SessionId(1);
                    let read_only = Some(false);
                    ConnectResponse { timeout_ms: 30_000, session, password: [7; 16], read_only }.encode(out);
                });
            } else if mood == Mood::Stalls && requests == 500 {
                thread::sleep(STALL);
                answer(&mut out, |out| reply(out, request, requests, mood, payloads));
            } else if mood == Mood::HangsUp && requests == 1000 {
                return Ok(());
            } else {
                answer(&mut out, |out| reply(out, request, requests, mood, payloads));
            }
            requests += 1;
            bytes = next;
        }
        let used = filled - bytes.len();
        inbox.copy_within(used..filled, 0);
        filled -= used;
        stream.write_all(&out)?;
        out.clear();
    }
}

fn answer(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = ringkeeper::proto::frame::begin(out);
    payload(out);
    ringkeeper::proto::frame::end(out, start);
}

fn reply(out: &mut Vec<u8>, request: &[u8], zxid: u64, mood: Mood, payloads: &Payloads) {
    let op = i32::from_be_bytes(request[4..8].try_into().expect("four bytes"));
    let is_write = op == OpCode::SetData as i32;
    out.extend_from_slice(&request[..4]);
    out.extend_from_slice(&zxid.to_be_bytes());
    if mood == Mood::Refuses && is_write {
        return out.extend_from_slice(&(-101i32).to_be_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    let path =
        |body: &[u8]| body[..4 + u32::from_be_bytes(body[..4].try_into().expect("four bytes")) as usize].to_vec();
    if op == OpCode::Create as i32 || op == OpCode::Sync as i32 {
        out.extend_from_slice(&path(&request[8..]));
    } else if is_write {
        out.extend_from_slice(&[0; Stat::LEN]);
    } else if op == OpCode::GetData as i32 {
        let path = String::from_utf8(path(&request[8..])).expect("an ASCII path");
        let (parents, sequence) = path.rsplit_once("/n").expect("the path of a child");
        let (_, parent) = parents.rsplit_once("/p").expect("the path of a parent");
        let [parent, sequence] = [parent, sequence].map(|digits| digits.parse().expect("digits"));
        let data = payloads.of(Key { parent, sequence });
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        let at = out.len();
        out.extend_from_slice(data);
        out[at] ^= u8::from(mood == Mood::FlipsData);
        out.extend_from_slice(&[0; Stat::LEN]);
    } else {
        assert!([OpCode::Delete as i32, OpCode::CloseSession as i32, OpCode::Ping as i32].contains(&op), "op {op}");
        assert!(op != OpCode::Ping as i32 || request[..4] == XID_PING.to_be_bytes(), "a ping has its own xid");
    }
}

/// Runs the load that `arguments` describe against a sink of that mood.
fn run(mood: Mood, arguments: &str) -> load::Outcome {
    let payload_bytes = 1024;
    let servers = start(mood, payload_bytes).to_string();
    let program = ["ringkeeper-latency", "--servers", &servers];
    let options = Options::parse_from(program.into_iter().chain(arguments.split_whitespace()));
    load::run(&options.load).expect("the load is measured")
}

#[test]
fn every_operation_is_answered_checked_and_counted() {
    for op in ["set", "create", "get", "delete", "mixed --reads 50"] {
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
    assert_eq!(given.steps.iter().map(|run| run.operations).sum::<u64>(), 40);
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

    let outcome = run(Mood::HangsUp, "--op set --duration 30 --connections 2 --outstanding 4 --keys 10");
    assert_eq!(outcome.faults.lost, 2);
    // The server's last replies may have been lost with the connection.
    assert!((1..=8).contains(&outcome.faults.unanswered), "{:?}", outcome.faults);
    assert!(outcome.faults.messages[0].starts_with("connection lost: 127.0.0.1:"), "{:?}", outcome.faults.messages);
}

/// The generator must not be what is measured: see what it prints in a release build on an idle machine.
#[test]
fn the_generator_is_cheap() {
    let outcome = run(Mood::Fair, "--op set --connections 32 --outstanding 16 --warmup 0.2 --duration 1");
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let (operations, cpu_ns) = (outcome.summary.completed, outcome.summary.cpu_ns);
    println!("{operations} sets of 1 KB in a second, {} ns of CPU each", cpu_ns / operations);
}
