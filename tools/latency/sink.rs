//! A server that agrees to everything at once, in one thread: what the generator is measured against.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use clap::Parser;
use ringkeeper::proto::client::{ConnectResponse, Stat, XID_PING};
use ringkeeper::proto::op::OpCode;
use ringkeeper::types::SessionId;

use crate::load;
use crate::options::Options;
use crate::request::{Key, Payloads};

/// What the sink does to replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Fair,
    /// One byte of every payload read is wrong.
    FlipsData,
    /// Every write is answered with NONODE.
    Refuses,
    /// Connections end at their 1000th request.
    HangsUp,
}

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
