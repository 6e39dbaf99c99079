//! The AdminServer and Prometheus' port: who may hold up whom, and what a start does without a port. What the commands say is
//! compared with Apache's by tests/peers/admin.sh.

use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};

use super::ensemble::Ensemble;
use super::support::*;

/// A server with an AdminServer on a port of its own choice, and that port.
fn with_admin(settings: &str) -> (Server, String) {
    let server = Server::run(&format!(
        "admin.enableServer=true\nadmin.serverAddress=127.0.0.1\nadmin.serverPort=0\n4lw.commands.whitelist=*\n{settings}"
    ));
    let address = port_in(&server.printed(), "Started AdminServer on address 127.0.0.1, port ");
    (server, address)
}

pub fn port_in(printed: &str, before: &str) -> String {
    let (_, rest) = printed.split_once(before).unwrap_or_else(|| panic!("no {before:?} in\n{printed}"));
    format!("127.0.0.1:{}", rest.split(|c: char| !c.is_ascii_digit()).next().expect("something"))
}

/// Head and body of the answer.
pub fn asked(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it can be sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).expect("a status")
}

#[test]
fn the_observers_of_a_leader_are_named() {
    let settings = "admin.enableServer=true\nadmin.serverAddress=127.0.0.1\nadmin.serverPort=0\n";
    let mut ensemble = Ensemble::run(3, 1, settings);
    let leader = ensemble.leader();
    for index in [leader, (leader + 1) % 3] {
        let admin = port_in(&ensemble.servers[index].printed(), "Started AdminServer on address 127.0.0.1, port ");
        let (_, body) = asked(&admin, "GET /commands/observers");
        let expected = if index == leader { [1, 1, 1] } else { [0, 0, 0] };
        let counts = ["\"synced_observers\" : 1", "\"sid\" : 4", "\"remote_socket_address\" : \"/127.0.0.1:"];
        assert_eq!(counts.map(|what| body.matches(what).count()), expected, "{body}");
    }
}

#[test]
fn what_is_asked_by_http_is_answered() {
    let (server, admin) = with_admin("admin.commandURL=/ask\n");
    let mut client = server.client();
    client.call(&create("/watched", None)).ok();
    client.call(&get("/watched", true)).ok();
    let (head, body) = asked(&admin, "GET /ask/wchp");
    assert!(head.contains("content-type: application/json") && status(&head) == "200", "{head}");
    let expected = format!(
        "{{\n  \"path_to_session_ids\" : {{\n    \"/watched\" : [ {} ]\n  }},\n  \"command\" : \"watches_by_path\",\n  \
         \"error\" : null\n}}",
        client.session.0
    );
    assert_eq!(body, expected);
    assert!(asked(&admin, "GET /ask").1.starts_with("<a href=\"/ask/configuration\">configuration</a>\n<br/>\n"));
    assert_eq!(
        asked(&admin, "GET /ask/nothing").1,
        "{\n  \"command\" : \"nothing\",\n  \"error\" : \"Unknown command: nothing\"\n}"
    );
    assert_eq!(asked(&admin, "GET /ask/set_trace_mask?traceMask=%37").1.lines().nth(1), Some("  \"tracemask\" : 7,"));
    assert_eq!(asked(&admin, "GET /ask/get_trace_mask").1.lines().nth(1), Some("  \"tracemask\" : 7,"));
    for (request, expected) in [
        ("GET /commands/ruok", "404"),
        ("GET /asked", "404"),
        ("POST /ask/ruok", "405"),
        ("DELETE /ask/ruok", "405"),
        ("TRACE /ask/ruok", "403"),
        ("GET /ask/snapshot", "401"),
    ] {
        assert_eq!(status(&asked(&admin, request).0), expected, "{request}");
    }
    assert_eq!(asked(&admin, "HEAD /ask/ruok").1, "");
}

#[test]
fn connections_that_ask_nothing_keep_nobody_else_from_asking() {
    let (server, admin) = with_admin("admin.idleTimeout=1000\n");
    // More than there may be at a time.
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&admin).expect("it listens")).collect();
    assert_eq!(status(&asked(&admin, "GET /commands/ruok").0), "200");
    drop(idle);
    let long = "x".repeat(100_000);
    let mut stream = TcpStream::connect(&admin).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
    // It may be refused before all of it is sent.
    let _ = write!(stream, "GET /{long} HTTP/1.1\r\n\r\n");
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    assert!(!text.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&text));
    server.client().call(&get("/", false)).ok();
}

#[test]
fn prometheus_gets_the_figures() {
    let server = Server::run(
        "metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider\n\
         metricsProvider.httpHost=127.0.0.1\nmetricsProvider.httpPort=0\n",
    );
    let address = port_in(&server.printed(), "Starting /metrics HTTP endpoint at host: 127.0.0.1, port: ");
    let mut client = server.client();
    client.call(&create("/a", None)).ok();
    client.call(&get("/a", true)).ok();
    // A shard tells what it has counted a few times a second.
    let (head, body) = wait_for("the watch to be counted", || {
        let answer = asked(&address, "GET /metrics");
        answer.1.contains("\nwatch_count 1.0\n").then_some(answer)
    });
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    for line in
        ["watch_count 1.0", "num_alive_connections 1.0", "# TYPE packets_received gauge", "# TYPE readlatency summary"]
    {
        assert!(body.lines().any(|found| found == line), "no {line:?} in\n{body}");
    }
    assert!(body.lines().all(|line| !line.starts_with("zk_")), "{body}");
    assert_eq!(asked(&address, "GET /metrics?name[]=watch_count").1.lines().count(), 3);
    assert_eq!(status(&asked(&address, "GET /commands").0), "404");
}

#[test]
fn a_port_that_is_taken_matters_to_who_asked_for_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let mut server =
        Server::new(&format!("admin.enableServer=true\nadmin.serverAddress=127.0.0.1\nadmin.serverPort={port}\n"));
    let (code, said) = server.start_in_vain();
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains(&format!(
            "Problem starting AdminServer on address 127.0.0.1, port {port} and command URL /commands"
        )),
        "{said}"
    );
    // By default there is one, on a port that somebody may well have.
    let _default = TcpListener::bind("0.0.0.0:8080");
    let path = server.config_path();
    let text = std::fs::read_to_string(&path).expect("it is there");
    let plain: String =
        text.lines().filter(|line| !line.starts_with("admin.")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, plain).expect("it can be written");
    server.start();
    assert!(
        server.printed().contains("Problem starting AdminServer on address 0.0.0.0, port 8080"),
        "{}",
        server.printed()
    );
}
