//! What a client can ask beyond the basic operations: times to live, containers, lists and counts, quotas, enforced
//! authentication.
//!
//! With `RINGKEEPER_TEST_APACHE_SURFACE=HOST:PORT` the tests that say so run against that server too: an Apache ZooKeeper
//! 3.9 started by `tests/peers/apache.sh` with the settings and options that `surface_of_apache` names.

use ringkeeper::jute::{Reader, Write};
use ringkeeper::proto::client::AclList;

use super::support::*;

/// The settings of the tests here. For Apache:
///
/// `--cfg enforceQuota=true --cfg reconfigEnabled=true --java -Dzookeeper.extendedTypesEnabled=true
/// --java -Dznode.container.checkIntervalMs=200`
const SETTINGS: &str = "tickTime=200\nmaxSessionTimeout=60000\nenforceQuota=true\nreconfigEnabled=true\n\
                        extendedTypesEnabled=true\nznode.container.checkIntervalMs=200\n";

fn surface_of_apache(check: impl Fn(&Place)) {
    everywhere_with(SETTINGS, "RINGKEEPER_TEST_APACHE_SURFACE", check);
}

const SEQUENTIAL_WITH_TTL: i32 = 6;

fn create_ttl(path: &str, flags: i32, ttl_ms: i64) -> Request {
    let mut request = create_as(21, path, Some(b"t"), &AclList::OPEN, flags);
    request.body.put_long(ttl_ms);
    request
}

fn get_ephemerals(prefix: Option<&str>) -> Request {
    Request::new(103, |body| match prefix {
        Some(prefix) => body.put_string(prefix),
        None => body.put_int(-1),
    })
}

fn get_all_children_number(path: &str) -> Request {
    Request::new(104, |body| body.put_string(path))
}

#[track_caller]
fn wait_until_gone(client: &mut Client, path: &str) {
    wait_for("the server to remove it", || (client.call(&exists(path, false)).err == -101).then_some(()));
}

#[test]
fn times_to_live_are_refused_while_they_are_off() {
    everywhere(|place| {
        let mut client = place.client();
        let path = place.path("ttl");
        for request in [
            create_ttl(&path, WITH_TTL, 1000),
            create_ttl(&path, WITH_TTL, -1),
            create_as(1, &path, None, &AclList::OPEN, WITH_TTL),
            create_as(15, &path, None, &AclList::OPEN, SEQUENTIAL_WITH_TTL),
        ] {
            assert_eq!(client.call(&request).err, -6, "{request:?}");
        }
        client.assert_alive();
    });
}

#[test]
fn times_to_live_are_checked() {
    surface_of_apache(|place| {
        let mut client = place.client();
        let path = place.path("ttl");
        for (request, err) in [
            (create_ttl(&path, WITH_TTL, 0), -8),
            (create_ttl(&path, WITH_TTL, -5), -8),
            (create_ttl(&path, WITH_TTL, 1 << 40), -8),
            (create_ttl(&path, PERSISTENT, 0), -8),
            (create_ttl(&path, EPHEMERAL, 10), -8),
            (create_ttl(&path, 99, 10), -8),
            (create_as(1, &path, None, &AclList::OPEN, WITH_TTL), -8),
            (create_as(19, &path, None, &AclList::OPEN, WITH_TTL), -8),
            (create_ttl(&place.path("none/ttl"), WITH_TTL, 10), -101),
        ] {
            assert_eq!(client.call(&request).err, err, "{request:?}");
        }
        let longest = client.call(&create_ttl(&path, WITH_TTL, (1 << 40) - 1));
        let (made, stat) = longest.path_and_stat();
        assert_eq!((made.as_str(), stat.ephemeral_owner, stat.czxid), (path.as_str(), 0, longest.zxid));
        // It may have children, unlike an ephemeral.
        client.call(&create(&format!("{path}/child"), None)).ok();
        let (first, _) = client.call(&create_ttl(&place.path("s-"), SEQUENTIAL_WITH_TTL, 1 << 39)).path_and_stat();
        assert_eq!(first, place.path("s-0000000001"));
    });
}

#[test]
fn a_multi_may_hold_times_to_live() {
    surface_of_apache(|place| {
        let mut client = place.client();
        let (a, b, c) = (place.path("a"), place.path("b"), place.path("c"));
        // Opcode 21 with another flag is a plain create there, and its time counts for nothing.
        let parts = [create_ttl(&a, WITH_TTL, 1 << 39), create_ttl(&b, PERSISTENT, 5), create_ttl(&c, CONTAINER, 5)];
        let reply = client.call(&multi(&parts));
        let mut r = Reader::new(reply.ok());
        let mut kinds = Vec::new();
        loop {
            let header = ringkeeper::proto::op::MultiHeader::decode(&mut r).expect("a header");
            if header.done {
                break;
            }
            kinds.push(header.op);
            r.required_string().expect("a path");
            if header.op == 15 {
                r.skip(68).expect("a Stat");
            }
        }
        assert_eq!(kinds, [15, 1, 15]);
        // Flags that nobody knows are an error of the part behind opcode 21, and of the whole elsewhere.
        let unknown = client.call(&multi(&[create_ttl(&place.path("d"), 99, 5)]));
        assert_eq!((unknown.err, &unknown.ok()[..13]), (0, &unhex("ffffffff 00 fffffff8 fffffff8")[..]));
        for flags in [99, WITH_TTL] {
            let unknown = client.call(&multi(&[create_as(1, &place.path("d"), None, &AclList::OPEN, flags)]));
            assert_eq!((unknown.err, unknown.body.len()), (-5, 0), "{flags}");
        }
    });
}

#[test]
fn what_has_outlived_its_time_is_removed_and_not_before_its_children() {
    surface_of_apache(|place| {
        let (mut watcher, mut client) = (place.client(), place.client());
        let (plain, parent) = (place.path("plain"), place.path("parent"));
        let child = format!("{parent}/child");
        client.call(&create_ttl(&parent, WITH_TTL, 1)).ok();
        client.call(&create_ttl(&child, WITH_TTL, 1 << 39)).ok();
        let made = client.call(&create_ttl(&plain, WITH_TTL, 1)).zxid;
        watcher.call(&exists(&plain, true)).ok();
        let event = watcher.next_event();
        assert_eq!((event.kind, event.path.as_str()), (DELETED, plain.as_str()));
        assert!(event.zxid > made);
        wait_until_gone(&mut client, &plain);
        // Looks have gone by, and the parent is there.
        client.call(&exists(&parent, false)).ok();
        client.call(&delete(&child, -1)).ok();
        wait_until_gone(&mut client, &parent);
    });
}

#[test]
fn containers_go_when_their_last_child_does() {
    surface_of_apache(|place| {
        let mut client = place.client();
        let (used, unused) = (place.path("used"), place.path("unused"));
        for path in [&used, &unused] {
            let (_, stat) = client.call(&create_as(19, path, None, &AclList::OPEN, CONTAINER)).path_and_stat();
            assert_eq!(stat.ephemeral_owner, 0);
        }
        client.call(&create_ephemeral(&format!("{used}/child"))).ok();
        client.call(&delete(&format!("{used}/child"), -1)).ok();
        wait_until_gone(&mut client, &used);
        client.call(&exists(&unused, false)).ok();
    });
}

#[test]
fn times_to_live_outlast_a_restart() {
    let mut server = Server::run(SETTINGS);
    let mut client = server.client();
    client.call(&create_ttl("/long", WITH_TTL, 1 << 39)).ok();
    client.call(&create("/long/child", None)).ok();
    client.call(&create_ttl("/short", WITH_TTL, 2000)).ok();
    server.kill();
    server.start();
    let mut client = server.client();
    assert_eq!(client.call(&exists("/long", false)).stat().ephemeral_owner, 0);
    client.call(&create("/long/other", None)).ok();
    wait_until_gone(&mut client, "/short");

    // Without the setting it looks like an ephemeral of a session that is not there: it stays nevertheless.
    server.kill();
    server.configure("");
    server.start();
    assert!(server.printed().contains("set extendedTypesEnabled=true"), "{}", server.printed());
    let mut client = server.client();
    assert_ne!(client.call(&exists("/long", false)).stat().ephemeral_owner, 0);
    assert_eq!(client.call(&create("/long/more", None)).err, -108);
}

#[test]
fn a_session_can_list_its_ephemerals() {
    surface_of_apache(|place| {
        let (mut other, mut client) = (place.client(), place.client());
        other.call(&create_ephemeral(&place.path("other"))).ok();
        let names = ["a", "ab", "b"].map(|name| place.path(name));
        let list = |client: &mut Client, prefix: Option<&str>| {
            let reply = client.call(&get_ephemerals(prefix));
            let mut r = Reader::new(reply.ok());
            let paths = r.vector(|r| Ok(r.required_string()?.into_owned())).expect("a vector").expect("not null");
            assert!(r.rest().is_empty());
            (paths.into_iter().collect::<std::collections::BTreeSet<_>>(), reply.zxid)
        };
        let set = |names: &[String]| names.iter().cloned().collect();
        assert_eq!(list(&mut client, None).0, set(&[]));
        for name in &names {
            client.call(&create_ephemeral(name)).ok();
        }
        for all in [None, Some(""), Some(" "), Some("/"), Some(" /\t")] {
            assert_eq!(list(&mut client, all).0, set(&names), "{all:?}");
        }
        // A prefix of letters, not of components.
        assert_eq!(list(&mut client, Some(&names[0])).0, set(&names[..2]));
        assert_eq!(list(&mut client, Some(&place.path("other"))).0, set(&[]));

        // In its place among writes and reads that were sent in one piece.
        let c = place.path("c");
        let requests = [
            create_ephemeral(&c),
            exists(&c, false),
            get_ephemerals(Some(&c)),
            delete(&c, -1),
            get_ephemerals(Some(&c)),
            exists(&c, false),
        ];
        let xids = client.pipeline(&requests);
        let replies: Vec<Reply> = requests.iter().map(|_| client.next_reply()).collect();
        assert_eq!(replies.iter().map(|reply| reply.xid).collect::<Vec<_>>(), xids);
        assert_eq!(replies.iter().map(|reply| reply.err).collect::<Vec<_>>(), [0, 0, 0, 0, 0, -101]);
        let counts = [2, 4].map(|i| i32::from_be_bytes(replies[i].ok()[..4].try_into().expect("4 bytes")));
        assert_eq!(counts, [1, 0]);
        assert!(replies.windows(2).all(|pair| pair[0].zxid <= pair[1].zxid), "{replies:?}");

        let before = list(&mut client, None).1;
        let cut = client.call(&Request { op: 103, body: vec![0, 0, 0, 9, b'/'] });
        assert_eq!((cut.err, cut.zxid, cut.body.len()), (-5, before, 0));
        client.assert_alive();
    });
}

#[test]
fn what_is_below_a_znode_is_counted() {
    surface_of_apache(|place| {
        let mut client = place.client();
        let count = |client: &mut Client, path: &str| {
            let reply = client.call(&get_all_children_number(path));
            assert_eq!(reply.ok().len(), 4);
            i32::from_be_bytes(reply.ok().try_into().expect("4 bytes"))
        };
        let root = count(&mut client, "/");
        assert_eq!(count(&mut client, &place.root), 0);
        for name in ["a", "a/b", "a/b/c", "ab"] {
            client.call(&create(&place.path(name), None)).ok();
        }
        // A multi that fails half-way changes no count.
        let failing = [create(&place.path("a/x"), None), delete(&place.path("none"), -1)];
        client.call(&multi(&failing)).ok();
        assert_eq!(count(&mut client, &place.root), 4);
        assert_eq!(count(&mut client, &place.path("a")), 2);
        assert_eq!(count(&mut client, "/"), root + 4);
        client.call(&delete(&place.path("a/b/c"), -1)).ok();
        assert_eq!(count(&mut client, &place.path("a")), 1);
        assert_eq!(count(&mut client, "/"), root + 3);
        assert_eq!(client.call(&get_all_children_number(&place.path("none"))).err, -101);
    });
}

#[test]
fn counts_outlast_a_restart() {
    let mut server = Server::run("snapCount=2\n");
    let mut client = server.client();
    for i in 0..10 {
        client.call(&create(&format!("/n{i}"), None)).ok();
        client.call(&create(&format!("/n{i}/child"), None)).ok();
    }
    for _ in 0..2 {
        assert_eq!(server.client().call(&get_all_children_number("/")).ok(), 23i32.to_be_bytes());
        server.kill();
        server.start();
    }
}

#[test]
fn a_quota_that_is_exceeded_is_told_of_once() {
    let server = Server::run("enforceQuota=true\n4lw.commands.whitelist=*\n");
    let mut client = server.client();
    for path in ["/soft", "/hard"] {
        client.call(&create(path, None)).ok();
        client.call(&create(&format!("/zookeeper/quota{path}"), None)).ok();
        let limits: &[u8] = if path == "/soft" { b"count=3,bytes=5" } else { b"count=1,bytes=-1=;countHardLimit=2" };
        client.call(&create(&format!("/zookeeper/quota{path}/zookeeper_limits"), Some(limits))).ok();
        client.call(&create(&format!("/zookeeper/quota{path}/zookeeper_stats"), Some(b"count=0,bytes=0"))).ok();
    }
    for number in 0..5 {
        client.call(&create(&format!("/soft/{number}"), Some(b"12"))).ok();
        client.call(&create(&format!("/hard/{number}"), None));
    }
    let said = server.printed();
    let told: Vec<&str> = said.lines().filter_map(|line| line.find("Message:").map(|at| &line[at..])).collect();
    assert_eq!(
        told,
        [
            "Message:Quota exceeded: /hard [current count=3, hardCountLimit=2]",
            "Message:Quota exceeded: /soft [current count=4, softCountLimit=3]",
            "Message:Quota exceeded: /soft [current bytes=6, softByteLimit=5]",
        ],
        "{said}"
    );
}

#[test]
fn hard_quotas_are_kept() {
    surface_of_apache(|place| {
        let mut client = place.client();
        let quota = format!("/zookeeper/quota{}", place.root);
        client.call(&create(&quota, None)).ok();
        let limits = b"count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=3";
        client.call(&create(&format!("{quota}/zookeeper_limits"), Some(limits))).ok();
        client.call(&create(&format!("{quota}/zookeeper_stats"), Some(b"count=0,bytes=0"))).ok();
        let path = |name: &str| place.path(name);
        let mut check = |request: &Request, err: i32| assert_eq!(client.call(request).err, err, "{request:?}");
        check(&create(&path("a"), Some(b"12345")), 0);
        check(&create(&path("b"), Some(b"123456")), -125);
        check(&create(&path("b"), Some(b"12345")), 0);
        check(&create(&path("c"), None), -125);
        check(&set(&path("a"), Some(b"123456")), -125);
        // The quota is looked at before the version, and after what may be done at all.
        check(&set_version(&path("a"), Some(b"123456"), 7), -125);
        check(&set_version(&path("a"), Some(b"54321"), 7), -103);
        check(&set(&path("none"), Some(b"123456")), -101);
        check(&set(&path("a"), Some(b"1")), 0);
        check(&set(&path("b"), Some(b"123456789")), 0);
        check(&delete(&path("a"), -1), 0);
        check(&create(&path("c"), Some(b"1")), 0);
        // A soft limit is not enforced, nor a hard one that is gone.
        check(&set(&format!("{quota}/zookeeper_limits"), Some(b"count=1,bytes=1")), 0);
        check(&create(&path("d"), Some(b"1234567890")), 0);
        check(&set(&format!("{quota}/zookeeper_limits"), Some(limits)), 0);
        check(&create(&path("e"), None), -125);
        check(&delete(&format!("{quota}/zookeeper_limits"), -1), 0);
        check(&create(&path("e"), None), 0);
    });
}

#[test]
fn hard_quotas_are_not_kept_unless_that_is_asked_for() {
    let server = Server::run("");
    let mut client = server.client();
    for (path, data) in [
        ("/a", ""),
        ("/zookeeper/quota/a", ""),
        ("/zookeeper/quota/a/zookeeper_limits", "count=-1,bytes=-1=;countHardLimit=1"),
        ("/zookeeper/quota/a/zookeeper_stats", "count=0,bytes=0"),
        ("/a/b", ""),
    ] {
        client.call(&create(path, Some(data.as_bytes()))).ok();
    }
}

#[test]
fn a_reconfiguration_is_refused_in_the_words_of_the_setting() {
    let reconfig = Request::new(16, |body| {
        body.put_int(-1);
        body.put_int(-1);
        body.put_string("server.1=127.0.0.1:1:2;3");
        body.put_long(-1);
    });
    surface_of_apache(|place| assert_eq!(place.client().call(&reconfig).err, -6));
    everywhere(|place| assert_eq!(place.client().call(&reconfig).err, -123));
}

#[test]
fn who_must_authenticate_can_do_nothing_before() {
    let server = Server::run("enforce.auth.enabled=true\nenforce.auth.schemes=digest\n");
    for request in [&get("/", false), &PING, &CLOSE_SESSION, &Request { op: 999, body: Vec::new() }] {
        let mut client = server.client();
        client.send_as(5, request);
        let reply = client.next_reply();
        assert_eq!((reply.xid, reply.zxid, reply.err, reply.body.len()), (5, 0, -124, 0), "{request:?}");
        client.wire.assert_closed();
    }
    let mut client = server.client();
    assert_eq!(client.call(&auth("ip", b"")).err, 0);
    assert_eq!(client.call(&auth("digest", b"user:secret")).err, 0);
    client.call(&get("/", false)).ok();

    // Everybody has an address.
    let server = Server::run("enforce.auth.enabled=true\nenforce.auth.schemes=digest, ip\n");
    server.client().call(&get("/", false)).ok();
}
