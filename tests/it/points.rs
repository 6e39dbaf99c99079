//! The points of the client protocol that are easy to get wrong, each by its number in the specification's list.

use ringkeeper::jute::Write;
use ringkeeper::proto::client::{Acl, AclList, ConnectRequest, Id, perms};
use ringkeeper::types::Zxid;

use super::support::*;

fn anyone(perms: i32) -> AclList {
    AclList::new(vec![Acl { perms, id: Id::new("world", "anyone") }])
}

/// The next frame, length and all.
#[track_caller]
fn next_bytes(client: &mut Client) -> String {
    hex(&client.wire.receive_bytes().expect("the server keeps the connection"))
}

/// Sends a request and compares the next frame, length and all. `Z` stands for the 16 digits of the zxid, which it
/// returns.
#[track_caller]
fn check_bytes(client: &mut Client, xid: i32, request: &Request, expected: &str) -> i64 {
    client.send_as(xid, request);
    let found = next_bytes(client);
    let zxid = &found[16..32];
    let expected: String = expected.chars().filter(|c| !c.is_whitespace() && *c != '|').collect();
    assert_eq!(found, expected.replace('Z', zxid));
    u64::from_str_radix(zxid, 16).expect("hex") as i64
}

fn path_bytes(path: &str) -> String {
    let mut bytes = Vec::new();
    bytes.put_string(path);
    hex(&bytes)
}

/// A watch event's frame.
fn event_bytes(zxid: i64, kind: i32, path: &str) -> String {
    let len = 16 + 8 + 4 + path.len();
    format!("{len:08x}ffffffff{zxid:016x}00000000{kind:08x}00000003{}", path_bytes(path))
}

#[test]
fn point_01_a_failed_multi_has_header_err_0() {
    everywhere(|place| {
        let mut client = place.client();
        let ops = [create(&place.path("a"), None), delete(&place.path("none"), -1)];
        // Two results of 13 bytes and the end, although nothing was done.
        check_bytes(
            &mut client,
            5,
            &multi(&ops),
            "00000033 00000005 Z 00000000 | ffffffff 00 00000000 00000000 | ffffffff 00 ffffff9b ffffff9b | \
             ffffffff 01 ffffffff",
        );
        assert_eq!(client.call(&exists(&place.path("a"), false)).err, -101);
    });
}

#[test]
fn point_02_after_the_failing_op_comes_minus_2_and_before_it_0() {
    everywhere(|place| {
        let mut client = place.client();
        let (a, b) = (place.path("a"), place.path("b"));
        client.call(&create(&b, None)).ok();
        let before = client.call(&exists(&place.root, false)).zxid;
        let ops = [create(&a, None), set(&b, Some(b"x")), create(&b, None), delete(&b, -1), check(&b, 7)];
        let zxid = check_bytes(
            &mut client,
            9,
            &multi(&ops),
            "0000005a 00000009 Z 00000000 | ffffffff 00 00000000 00000000 | ffffffff 00 00000000 00000000 | \
             ffffffff 00 ffffff92 ffffff92 | ffffffff 00 fffffffe fffffffe | ffffffff 00 fffffffe fffffffe | \
             ffffffff 01 ffffffff",
        );
        assert_eq!(zxid, before + 1, "it takes one place in the order");
        let (data, stat) = client.call(&get(&b, false)).data();
        assert_eq!((data, stat.version), (None, 0));
    });
}

#[test]
fn point_03_exists_on_a_missing_znode_leaves_a_watch_though_it_errs() {
    everywhere(|place| {
        let mut watcher = place.client();
        let a = place.path("a");
        check_bytes(&mut watcher, 7, &exists(&a, true), "00000010 00000007 Z ffffff9b");
        let zxid = place.client().call(&create(&a, None)).zxid;
        assert_eq!(next_bytes(&mut watcher), event_bytes(zxid, CREATED, &a));
    });
}

#[test]
fn point_04_delete_and_create_ask_the_acl_of_the_parent() {
    everywhere(|place| {
        let mut client = place.client();
        let (parent, child) = (place.path("p"), place.path("p/c"));
        client.call(&create(&parent, None)).ok();
        // Nobody may do anything with the child itself.
        client.call(&create_as(1, &child, None, &anyone(0), PERSISTENT)).ok();
        client.call(&set_acl(&parent, &anyone(perms::ALL & !perms::CREATE & !perms::DELETE))).ok();
        check_bytes(&mut client, 70, &create(&place.path("p/d"), None), "00000010 00000046 Z ffffff9a");
        check_bytes(&mut client, 71, &delete(&child, -1), "00000010 00000047 Z ffffff9a");
        client.call(&set_acl(&parent, &anyone(perms::ADMIN | perms::DELETE))).ok();
        check_bytes(&mut client, 72, &delete(&child, -1), "00000010 00000048 Z 00000000");
        assert_eq!(client.call(&create(&child, None)).err, -102);
        client.call(&set_acl(&parent, &anyone(perms::ADMIN | perms::CREATE))).ok();
        client.call(&create(&child, None)).ok();
    });
}

#[test]
fn point_05_the_wire_cversion_is_not_the_sequence_counter() {
    everywhere(|place| {
        let mut client = place.client();
        let (a, s) = (place.path("a"), place.path("s-"));
        client.call(&create(&a, None)).ok();
        client.call(&delete(&a, -1)).ok();
        let numbered = |number| place.path(&format!("s-{number:010}"));
        assert_eq!(client.call(&create_sequential(&s)).path(), numbered(1), "two creations, one of them its own");
        assert_eq!(client.call(&exists(&place.root, false)).stat().cversion, 3, "two creations, one removal");
        client.call(&delete(&numbered(1), -1)).ok();
        assert_eq!(client.call(&create_sequential(&s)).path(), numbered(2));
        let reply = client.call(&exists(&place.root, false));
        assert_eq!(hex(&reply.ok()[36..40]), "00000005");
    });
}

#[test]
fn point_06_the_root_begins_with_cversion_minus_1() {
    everywhere(|place| {
        let mut client = place.client();
        let root = client.call(&exists("/", false)).stat();
        // An Apache that others use as well has more behind it.
        if root.num_children == 2 {
            assert_eq!(root.cversion, 0, "-1 and the test's own root");
        }
        let reply = client.call(&exists("/zookeeper", false));
        assert_eq!(hex(&reply.ok()[36..40]), "fffffffe", "its two children were never created");
        let config = client.call(&exists("/zookeeper/config", false)).stat();
        assert_eq!((config.cversion, config.aversion), (0, -1));
    });
    let server = Server::run("");
    let mut client = server.client();
    let reply = client.call(&exists("/", false));
    // All zeros but for the cversion and the one child, /zookeeper.
    let expected = format!("{}ffffffff{}00000001{}", "00".repeat(36), "00".repeat(16), "00".repeat(8));
    assert_eq!(hex(reply.ok()), expected);
}

#[test]
fn point_07_containers_show_no_ephemeral_owner_and_ttl_is_refused_but_not_fatal() {
    everywhere(|place| {
        let mut client = place.client();
        let container = place.path("c");
        let made = client.call(&create_as(19, &container, None, &AclList::OPEN, CONTAINER));
        let (path, stat) = made.path_and_stat();
        assert_eq!((path, stat.ephemeral_owner), (container.clone(), 0));
        let reply = client.call(&exists(&container, false));
        assert_eq!(hex(&reply.ok()[44..52]), "0000000000000000");
        let ephemeral = place.path("e");
        client.call(&create_ephemeral(&ephemeral)).ok();
        let owner = client.call(&exists(&ephemeral, false)).stat().ephemeral_owner;
        assert_eq!(owner, client.session.0);

        let mut with_ttl = create_as(21, &place.path("t"), None, &AclList::OPEN, WITH_TTL);
        with_ttl.body.put_long(60_000);
        check_bytes(&mut client, 80, &with_ttl, "00000010 00000050 Z fffffffa");
        client.assert_alive();
    });
}

#[test]
fn point_08_a_connection_with_data_and_child_watch_hears_of_a_removal_once() {
    everywhere(|place| {
        let (mut watcher, mut other) = (place.client(), place.client());
        let a = place.path("a");
        other.call(&create(&a, None)).ok();
        watcher.call(&get(&a, true)).ok();
        watcher.call(&children(&a, true)).ok();
        let zxid = other.call(&delete(&a, -1)).zxid;
        assert_eq!(next_bytes(&mut watcher), event_bytes(zxid, DELETED, &a));
        assert_eq!(watcher.events_so_far(), []);
        // The child watch is used up all the same.
        other.call(&create(&a, None)).ok();
        other.call(&create(&place.path("a/b"), None)).ok();
        assert_eq!(watcher.events_so_far(), []);
    });
}

#[test]
fn point_09_the_handshake_reply_is_as_long_as_the_request_asks() {
    everywhere(|place| {
        for (read_only, length) in [(None, 36), (Some(false), 37), (Some(true), 37)] {
            let mut wire = Wire::dial(&place.address);
            wire.send(&encoded(&ConnectRequest { read_only, ..new_session(30_000) }));
            let reply = wire.receive_bytes().expect("an answer");
            assert_eq!(reply.len(), 4 + length, "{read_only:?}");
            let head = format!("{length:08x}00000000{:08x}", 30_000);
            assert!(hex(&reply).starts_with(&head), "{}", hex(&reply));
            assert_eq!(hex(&reply[20..24]), "00000010", "a password of 16 bytes");
            assert!(reply[40..].iter().all(|byte| *byte == 0), "this server can be written to");
        }
    });
}

#[test]
fn point_10_a_client_that_has_seen_more_is_turned_away_without_a_word() {
    everywhere(|place| {
        let mut wire = Wire::dial(&place.address);
        wire.send(&encoded(&ConnectRequest { last_zxid_seen: Zxid(1 << 62), ..new_session(30_000) }));
        wire.assert_closed();
        // What is just reached is not ahead.
        let seen = Zxid(place.client().call(&exists("/", false)).zxid);
        let request = ConnectRequest { last_zxid_seen: seen, ..new_session(30_000) };
        Client::connect_with(&place.address, &request).expect("a session");
    });
}

#[test]
fn point_11_moved_and_expired_sessions_lose_their_connection_without_a_word() {
    everywhere(|place| {
        let mut first = place.client();
        let mut second = Client::attach(&place.address, first.session, &first.password).expect("the same session");
        assert_eq!(second.session, first.session);
        first.wire.assert_closed();
        second.assert_alive();

        let mut watcher = place.client();
        let mut idle = Client::connect_for(&place.address, 1);
        let e = place.path("e");
        idle.call(&create_ephemeral(&e)).ok();
        watcher.call(&exists(&e, true)).ok();
        idle.wire.assert_closed();
        let event = watcher.next_event();
        assert_eq!((event.kind, event.path.as_str()), (DELETED, e.as_str()));
        assert!(Client::attach(&place.address, idle.session, &idle.password).is_none(), "it is gone");
    });
}

#[test]
fn point_12_the_reply_to_add_watch_has_a_body_of_4_bytes() {
    everywhere(|place| {
        let (mut watcher, mut other) = (place.client(), place.client());
        let a = place.path("a");
        check_bytes(&mut watcher, 1, &add_watch(&a, 0), "00000014 00000001 Z 00000000 | 00000000");
        check_bytes(&mut watcher, 2, &add_watch(&place.root, 1), "00000014 00000002 Z 00000000 | 00000000");
        check_bytes(&mut watcher, 3, &add_watch(&a, 2), "00000010 00000003 Z fffffffb");
        // Both watches see it, which makes one event each; and they stay.
        for value in [b"1", b"2"] {
            let zxid = if *value == *b"1" {
                other.call(&create(&a, Some(value))).zxid
            } else {
                other.call(&set(&a, Some(value))).zxid
            };
            let kind = if *value == *b"1" { CREATED } else { DATA_CHANGED };
            let events = watcher.events_so_far();
            assert_eq!(events, [Event { zxid, kind, state: 3, path: a.clone() }]);
        }
        let below = place.path("a/b");
        let zxid = other.call(&create(&below, None)).zxid;
        let created = Event { zxid, kind: CREATED, state: 3, path: below };
        let changed = Event { zxid, kind: CHILDREN_CHANGED, state: 3, path: a };
        assert_eq!(watcher.events_so_far(), [created, changed]);
    });
}

#[test]
fn point_13_null_data_is_not_empty_data() {
    everywhere(|place| {
        let mut client = place.client();
        for (name, data, bytes) in [("null", None, "ffffffff"), ("empty", Some(&b""[..]), "00000000")] {
            let path = place.path(name);
            client.call(&create(&path, data)).ok();
            let reply = client.call(&get(&path, false));
            assert_eq!(hex(&reply.ok()[..4]), bytes, "{name}");
            assert_eq!((reply.ok().len(), reply.data().1.data_length), (4 + 68, 0));
            client.call(&set(&path, Some(b"x"))).ok();
            client.call(&set(&path, data)).ok();
            assert_eq!(hex(&client.call(&get(&path, false)).ok()[..4]), bytes, "{name} by setData");
        }
    });
}

#[test]
fn point_14_errors_have_no_body_and_sasl_without_sasl_answers_a_null_token() {
    everywhere(|place| {
        let mut client = place.client();
        let none = place.path("none");
        let requests = [
            get(&none, false),
            exists(&none, false),
            children(&none, false),
            set(&none, None),
            delete(&none, -1),
            create(&place.path("none/below"), None),
            set_acl(&none, &AclList::OPEN),
        ];
        for request in &requests {
            check_bytes(&mut client, 1, request, "00000010 00000001 Z ffffff9b");
        }
        let sasl = Request::new(102, |body| body.put_buffer(Some(b"")));
        check_bytes(&mut client, 6, &sasl, "00000014 00000006 0000000000000000 00000000 | ffffffff");
        client.assert_alive();
    });
}

#[test]
fn point_15_the_reply_to_auth_echoes_its_xid_and_says_zxid_0() {
    everywhere(|place| {
        let mut client = place.client();
        let packet = auth("digest", b"user:secret");
        check_bytes(&mut client, -4, &packet, "00000010 fffffffc 0000000000000000 00000000");
        check_bytes(&mut client, 77, &packet, "00000010 0000004d 0000000000000000 00000000");
        client.assert_alive();
        check_bytes(&mut client, -4, &auth("foo", b""), "00000010 fffffffc 0000000000000000 ffffff8d");
        client.wire.assert_closed();
    });
}

#[test]
fn point_16_an_unknown_operation_is_answered_and_the_connection_closed() {
    everywhere(|place| {
        // A check by itself is none either.
        for request in [Request { op: 999, body: Vec::new() }, check(&place.root, -1)] {
            let mut client = place.client();
            check_bytes(&mut client, 4, &request, "00000010 00000004 ffffffffffffffff fffffffa");
            client.wire.assert_closed();
        }
    });
}

#[test]
fn point_17_setting_the_same_value_is_a_change() {
    everywhere(|place| {
        let (mut watcher, mut client) = (place.client(), place.client());
        let a = place.path("a");
        client.call(&create(&a, Some(b"same"))).ok();
        for version in 1..=2 {
            watcher.call(&get(&a, true)).ok();
            let reply = client.call(&set(&a, Some(b"same")));
            assert_eq!((reply.stat().version, reply.stat().mzxid), (version, reply.zxid));
            assert_eq!(next_bytes(&mut watcher), event_bytes(reply.zxid, DATA_CHANGED, &a));
        }
    });
}

#[test]
fn point_18_quota_stats_change_without_a_version() {
    everywhere(|place| {
        let (mut watcher, mut client) = (place.client(), place.client());
        client.call(&create(&place.path("before"), Some(b"123"))).ok();
        let quota = format!("/zookeeper/quota{}", place.root);
        let stats = format!("{quota}/zookeeper_stats");
        client.call(&create(&quota, None)).ok();
        client.call(&create(&format!("{quota}/zookeeper_limits"), Some(b"count=-1,bytes=-1"))).ok();
        client.call(&create(&stats, Some(b"count=0,bytes=0"))).ok();
        let count = |client: &mut Client| {
            let (data, stat) = client.call(&get(&stats, false)).data();
            (String::from_utf8(data.expect("not null")).expect("text"), stat.version, stat.mzxid)
        };
        let (text, version, mzxid) = count(&mut client);
        assert_eq!((text.as_str(), version), ("count=2,bytes=3", 0), "what was there is counted");
        watcher.call(&get(&stats, true)).ok();
        let a = place.path("a");
        client.call(&create(&a, Some(b"12345"))).ok();
        assert_eq!(count(&mut client), ("count=3,bytes=8".to_owned(), 0, mzxid));
        client.call(&set(&a, Some(b"1"))).ok();
        assert_eq!(count(&mut client), ("count=3,bytes=4".to_owned(), 0, mzxid));
        client.call(&delete(&a, -1)).ok();
        assert_eq!(count(&mut client), ("count=2,bytes=3".to_owned(), 0, mzxid));
        assert_eq!(watcher.events_so_far(), []);
    });
}
