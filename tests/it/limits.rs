//! What clients cannot do to each other: limits on connections, requests, watches and memory.

use std::time::Instant;

use ringkeeper::jute::Write;

use super::support::*;

#[test]
fn connects_beyond_the_bucket_are_closed_without_a_word() {
    let settings = "connection_throttle_tokens=3\nconnection_throttle_fill_time=1000000\n";
    let server = Server::run(settings);
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for _ in 0..3 {
        let mut wire = Wire::dial(&server.address());
        wire.send(&encoded(&new_session(30_000)));
        wire.assert_closed();
    }
    // An old session costs as much as a new one; words cost nothing.
    let first = clients.remove(0);
    assert!(Client::attach(&server.address(), first.session, &first.password).is_none());
    assert!(ask(&server.address(), "srvr").contains("Mode:"));
    for client in &mut clients {
        client.assert_alive();
    }
}

#[test]
fn what_the_throttle_holds_up_is_answered_in_order() {
    let server = Server::run("request_throttle_max_requests=1\n");
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        let requests: Vec<Request> = (0..50).map(|j| create(&format!("/n{i}-{j}"), None)).collect();
        client.pipeline(&requests);
    }
    for client in &mut clients {
        let xids: Vec<(i32, i32)> = (0..50).map(|_| client.next_reply()).map(|reply| (reply.xid, reply.err)).collect();
        assert_eq!(xids, (1..=50).map(|xid| (xid, 0)).collect::<Vec<_>>());
    }
}

#[test]
fn a_length_is_not_yet_memory() {
    let server = Server::run("largeRequestThreshold=100000\nlargeRequestMaxBytes=500000\n");
    let mut client = server.client();
    client.call(&create("/large", Some(&vec![1; 400_000]))).ok();
    // Too large for the budget by its length.
    let mut other = server.client();
    other.wire.send_bytes(&600_000i32.to_be_bytes());
    other.wire.assert_closed();
    client.assert_alive();
}

/// It takes as many clients as the limit that it may ask for leaves room for, and the next ones cost it nothing.
#[test]
fn clients_do_not_take_the_files_that_the_log_needs() {
    const ROOM: usize = 150;
    let mut server = Server::new("");
    server.prelude = "ulimit -Sn 100; ulimit -Hn 278";
    server.start();
    let mut clients: Vec<Client> = Vec::new();
    wait_for("room for the last", || {
        // The question whether the server serves may still hold a place.
        clients.extend(Client::connect_with(&server.address(), &new_session(30_000)));
        (clients.len() == ROOM).then_some(())
    });
    for _ in 0..200 {
        Wire::dial(&server.address()).assert_closed();
    }
    assert!(server.printed().contains("Too many connections for 278 open files"));
    // More than the segments that were ready before.
    clients[0].call(&create("/a", None)).ok();
    for client in clients.iter_mut().take(50) {
        client.call(&set("/a", Some(&[b'x'; 200_000]))).ok();
    }
    drop(clients.pop());
    wait_for("room again", || Client::connect_with(&server.address(), &new_session(30_000)));
}

/// Times of a client that behaves, in ms: median, 99th part, longest.
fn times_beside(client: &mut Client, count: usize) -> (f64, f64, f64) {
    let mut times: Vec<f64> = (0..count)
        .map(|i| {
            let begin = Instant::now();
            if i % 2 == 0 {
                client.call(&set("/normal", Some(b"x"))).ok();
            } else {
                client.call(&get("/normal", false)).ok();
            }
            begin.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[count / 2], times[count * 99 / 100], times[count - 1])
}

/// 400 that read nothing of what they ask for, 300 that watch as much as they can, 300 that send a byte now and then.
#[test]
fn a_thousand_clients_that_misbehave_harm_nobody() {
    const BIG: usize = 500_000;
    const WATCHES_MAX: usize = 100_000;
    let server = Server::run(&format!("ringkeeper.maxWatches={WATCHES_MAX}\n"));
    let mut normal = server.client();
    normal.call(&create("/normal", Some(b"x"))).ok();
    normal.call(&create("/big", Some(&vec![1; BIG]))).ok();
    let alone = times_beside(&mut normal, 200);
    let before = server.resident_bytes();

    let deaf: Vec<Client> = (0..400)
        .map(|_| {
            let mut client = server.client();
            client.pipeline(&vec![get("/big", false); 100]);
            client
        })
        .collect();
    let mut watchers: Vec<Wire> = Vec::new();
    for i in 0..300 {
        let mut client = server.client();
        let watches: Vec<Request> = (0..1000).map(|j| exists(&format!("/watched/{i}-{j}"), true)).collect();
        client.pipeline(&watches);
        watchers.push(client.wire);
    }
    let mut slow: Vec<Wire> = (0..300)
        .map(|_| {
            let mut wire = server.client().wire;
            wire.send_bytes(&1_000_000i32.to_be_bytes());
            wire
        })
        .collect();
    let mut beside = (0.0, 0.0, 0.0);
    for _ in 0..5 {
        slow.iter_mut().for_each(|wire| wire.send_bytes(b"x"));
        beside = times_beside(&mut normal, 200);
    }
    let resident = server.resident_bytes();
    println!("alone: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms", alone.0, alone.1, alone.2);
    println!("beside a thousand: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms", beside.0, beside.1, beside.2);
    println!("memory: {} MiB before, {} MiB with them", before >> 20, resident >> 20);
    // What the kernel did not take of the replies, and one reply more each when it is much together; a hundred bytes
    // or so for each watch; a few KiB for each that is slow.
    let bound = (256 << 20) + deaf.len() * (BIG + (64 << 10)) + WATCHES_MAX * 300 + (64 << 20);
    assert!(resident < before + bound as u64, "{resident} is more than {before} and {bound}");
    drop((deaf, watchers, slow));
    normal.assert_alive();
}

#[test]
fn who_watches_most_goes_when_there_are_too_many_watches() {
    let server = Server::run("ringkeeper.maxWatches=1000\nringkeeper.clientShards=1\n");
    let (mut greedy, mut modest) = (server.client(), server.client());
    let watch = |client: &mut Client, count: usize, name: &str| {
        for i in 0..count {
            assert_eq!(client.call(&exists(&format!("/{name}{i}"), true)).err, -101);
        }
    };
    watch(&mut greedy, 900, "a");
    watch(&mut modest, 101, "b");
    greedy.wire.assert_closed();
    watch(&mut modest, 500, "c");
    server.client().call(&create("/c499", None)).ok();
    assert_eq!(modest.next_event().path, "/c499");
    // What is asked for at once is no exception.
    let many: Vec<String> = (0..2000).map(|i| format!("/d{i}")).collect();
    let paths: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut at_once = server.client();
    at_once.send(&set_watches(1 << 40, &[], &paths, &[]));
    assert!(at_once.try_next().is_none_or(|frame| matches!(frame, Frame::Reply(_))));
    at_once.wire.assert_closed();
    modest.assert_alive();
    modest.call(&Request::new(107, |body| body.put_raw(&[]))).ok();
}
