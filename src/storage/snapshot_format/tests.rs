use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::proto::client::perms;
use crate::proto::txn::{CreateKind, Txn, TxnHeader};

fn encode(source: &SnapshotSource, form: Form) -> Vec<u8> {
    let mut encoder = Encoder::new(source, form);
    let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
    while encoder.next_chunk(&mut chunk) {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(encoder.checksum(), simd_adler32::adler32(&&bytes[..]));
    bytes
}

fn decode(bytes: &[u8], zxid: Zxid) -> Result<Decoded, FormatError> {
    let mut decoder = Decoder::new(Form::File, zxid);
    let consumed = decoder.feed(bytes)?;
    decoder.finish(&bytes[consumed..])
}

/// Everything that a snapshot must bring back.
fn assert_same(a: &DataTree, b: &DataTree) {
    let all = |data_tree: &DataTree| {
        let mut all = BTreeMap::new();
        let mut walk = data_tree.tree().walk();
        while let Some((path, znode)) = walk.next() {
            let value = (znode.data().map(<[u8]>::to_vec), znode.acl().clone(), znode.meta(), znode.stat());
            all.insert(String::from_utf8(path.to_vec()).unwrap(), value);
        }
        all
    };
    assert_eq!(all(a), all(b));
    assert_eq!(a.tree().digest(), b.tree().digest());
    assert_eq!(a.tree().zxid(), b.tree().zxid());
    assert_eq!(a.tree().node_count(), b.tree().node_count());
    assert_eq!(a.tree().approximate_data_bytes(), b.tree().approximate_data_bytes());
    assert_eq!(a.sessions(), b.sessions());
    assert_eq!(a.containers(), b.containers());
    assert_eq!(a.ephemeral_count(), b.ephemeral_count());
    for session in a.sessions().keys() {
        assert!(a.ephemerals_of(*session).eq(b.ephemerals_of(*session)));
    }
}

fn apply(data_tree: &mut DataTree, txn: Txn) {
    let zxid = data_tree.tree().zxid().next();
    let header = TxnHeader { session: SessionId(zxid.0 % 3 + 1), cxid: 0, zxid, time: WallMs(1000 + zxid.0) };
    data_tree.apply(&header, &txn);
}

fn create(path: &str, data: Option<&'static [u8]>, acl: AclList, kind: CreateKind) -> Txn {
    let data = data.map(Bytes::from_static);
    Txn::Create { path: path.into(), data, acl, kind, with_stat: false, parent_cversion: -1 }
}

fn acl(user: u8) -> AclList {
    AclList::new(vec![Acl { perms: perms::READ, id: Id::new("digest", format!("u{user}:hash")) }])
}

fn small() -> DataTree {
    let mut data_tree = DataTree::new();
    apply(&mut data_tree, Txn::CreateSession { timeout_ms: 4000 });
    apply(&mut data_tree, create("/a", None, AclList::OPEN, CreateKind::Container));
    apply(&mut data_tree, create("/a/é", Some(b""), acl(1), CreateKind::Plain { ephemeral: true }));
    apply(&mut data_tree, create("/a/b", Some(b"x"), acl(2), CreateKind::Ttl(77)));
    data_tree
}

#[test]
fn a_fresh_tree_is_written_as_apache_writes_it() {
    // A snapshot.0 that Apache 3.9.5 wrote, standalone, for an empty directory. The order of siblings and the
    // clock of /zookeeper/config are Apache's own.
    let source = SnapshotSource::of(&DataTree::new(), true);
    let bytes = encode(&source, Form::File);
    assert_eq!(bytes.len(), 624 - 146, "the worked example less its config text");
    assert_eq!(&bytes[..20], b"ZKSN\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0");
    assert_eq!(&bytes[20..59], b"\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x05world\0\0\0\x06anyone");
    assert_eq!(&bytes[59..75], b"\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    assert_eq!(&bytes[bytes.len() - 5..], b"\0\0\0\x01/");
    assert_same(&decode(&bytes, Zxid(0)).unwrap().data_tree, &DataTree::new());
}

#[test]
fn every_kind_of_znode_comes_back() {
    let data_tree = small();
    for digest_enabled in [true, false] {
        let bytes = encode(&SnapshotSource::of(&data_tree, digest_enabled), Form::File);
        let decoded = decode(&bytes, data_tree.tree().zxid()).unwrap();
        assert_same(&decoded.data_tree, &data_tree);
        assert_eq!(decoded.unknown_acls, 0);
        assert_eq!(decoded.last_recorded, digest_enabled.then_some(data_tree.tree().zxid()));
    }
}

#[test]
fn a_stream_is_told_from_what_follows_it() {
    let data_tree = small();
    let mut bytes = encode(&SnapshotSource::of(&data_tree, true), Form::Stream);
    let end = bytes.len();
    assert!(bytes.ends_with(b"\0\0\0\x01/\0\0\0\x0aBenWasHere"));
    bytes.extend(b"next packet");
    let mut decoder = Decoder::new(Form::Stream, data_tree.tree().zxid());
    // One byte more each time, as a slow socket would bring them.
    let (mut consumed, mut arrived) = (0, 0);
    while !decoder.stream_ended() {
        arrived += 1;
        consumed += decoder.feed(&bytes[consumed..arrived]).unwrap();
    }
    assert_eq!((consumed, arrived), (end, end));
    assert_same(&decoder.finish(b"").unwrap().data_tree, &data_tree);
}

#[test]
fn half_of_a_surrogate_pair_is_one_character_as_in_java() {
    let mut data_tree = DataTree::new();
    apply(&mut data_tree, create("/\u{fffd}", None, AclList::OPEN, CreateKind::Plain { ephemeral: false }));
    let mut bytes = encode(&SnapshotSource::of(&data_tree, false), Form::Stream);
    let at = bytes.windows(4).position(|part| part == "/\u{fffd}".as_bytes()).unwrap();
    bytes[at + 1..at + 4].copy_from_slice(b"\xed\xa0\xbd");
    let mut decoder = Decoder::new(Form::Stream, data_tree.tree().zxid());
    let consumed = decoder.feed(&bytes).unwrap();
    assert_same(&decoder.finish(&bytes[consumed..]).unwrap().data_tree, &data_tree);
}

#[test]
fn older_servers_leave_sections_out() {
    let data_tree = small();
    let zxid = data_tree.tree().zxid();
    let bytes = encode(&SnapshotSource::of(&data_tree, true), Form::File);
    let (digest_section, last_section) = (20 + SEAL_BYTES, 8 + SEAL_BYTES);
    for cut in [last_section, digest_section + last_section] {
        assert_same(&decode(&bytes[..bytes.len() - cut], zxid).unwrap().data_tree, &data_tree);
    }
    // Digests off: the last section alone.
    let mut without = bytes[..bytes.len() - digest_section - last_section].to_vec();
    without.put_long(zxid.0 + 2);
    without.put_long(simd_adler32::adler32(&&without[..]).into());
    without.put_string(END);
    let decoded = decode(&without, zxid).unwrap();
    assert_same(&decoded.data_tree, &data_tree);
    assert_eq!(decoded.last_recorded, Some(Zxid(zxid.0 + 2)));
}

#[test]
fn a_digest_counts_only_where_no_transaction_came_in_between() {
    let data_tree = small();
    let zxid = data_tree.tree().zxid();
    let mut bytes = encode(&SnapshotSource::of(&data_tree, false), Form::File);
    let digest_at = bytes.len();
    let with_digest = |recorded: i64, version: i32| {
        let mut bytes = bytes.clone();
        bytes.put_long(recorded);
        bytes.put_int(version);
        match version {
            ..2 => bytes.put_string("1234abcd"),
            _ => bytes.put_long(17),
        }
        bytes.put_long(simd_adler32::adler32(&&bytes[..]).into());
        bytes.put_string(END);
        decode(&bytes, zxid).map(|decoded| decoded.last_recorded)
    };
    assert_eq!(with_digest(zxid.0 + 1, 2), Ok(Some(Zxid(zxid.0 + 1))));
    assert_eq!(with_digest(zxid.0 - 1, 2), Ok(None));
    assert_eq!(with_digest(0, 2), Ok(None));
    assert_eq!(with_digest(zxid.0, 1), Ok(Some(zxid)));
    let error = with_digest(zxid.0, 2).unwrap_err();
    assert_eq!(error.offset, digest_at as u64);
    assert!(error.what.contains("and 0x11 is recorded"), "{error}");
    bytes.push(0);
    assert!(decode(&bytes, zxid).is_err());
}

#[test]
fn a_znode_whose_acl_is_not_in_the_table_is_closed_until_its_replay() {
    let data_tree = small();
    let mut source = SnapshotSource::of(&data_tree, false);
    let mut bytes = encode(&source, Form::File);
    source.acls.clear();
    // The same znodes behind an empty table.
    let tables = |source: &SnapshotSource| {
        let mut out = Vec::new();
        Encoder::new(source, Form::File).put_tables(&mut out);
        out.len()
    };
    let full = tables(&SnapshotSource::of(&data_tree, false));
    let mut head = Vec::new();
    Encoder::new(&source, Form::File).put_tables(&mut head);
    bytes.splice(..full, head);
    bytes.truncate(bytes.len() - SEAL_BYTES);
    bytes.put_long(simd_adler32::adler32(&&bytes[..]).into());
    bytes.put_string(END);
    let decoded = decode(&bytes, data_tree.tree().zxid()).unwrap();
    assert_eq!(decoded.unknown_acls, 3);
    let closed = decoded.data_tree.tree().get("/a/b").unwrap().acl();
    let anybody = [Id::new("digest", "u2:hash")];
    assert!(crate::tree::acl::check(closed, perms::READ, &anybody).is_err());
}

#[test]
fn damage_is_found_wherever_it_is() {
    let data_tree = small();
    let zxid = data_tree.tree().zxid();
    let bytes = encode(&SnapshotSource::of(&data_tree, true), Form::File);
    for len in 0..bytes.len() {
        match decode(&bytes[..len], zxid) {
            // Cut between sections it is what an older server writes.
            Ok(decoded) => assert_same(&decoded.data_tree, &data_tree),
            Err(error) => assert!(error.offset <= len as u64, "{error}"),
        }
    }
    for bit in 0..8 * bytes.len() {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = decode(&damaged, zxid).err().unwrap_or_else(|| panic!("bit {bit} flipped, and nobody saw it"));
        assert!(error.offset <= bytes.len() as u64, "{error}");
    }
}

fn random_txn() -> impl Strategy<Value = Txn> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "ccc", "d é"]), 1..4)
        .prop_map(|names| format!("/{}", names.join("/")));
    let data = prop::sample::select(vec![None, Some(&b""[..]), Some(b"x"), Some(&[7; 300])]);
    (0u8..8, path, data, 0u8..5).prop_map(|(op, path, data, small)| match op {
        0 => Txn::CreateSession { timeout_ms: 1000 * i32::from(small) },
        1 => Txn::Delete { path: path.as_str().into(), by_server: false },
        2 => Txn::SetData { path: path.as_str().into(), data: data.map(Bytes::from_static), version: small.into() },
        3 => Txn::SetAcl { path: path.as_str().into(), acl: acl(small), version: small.into() },
        4 => create(&path, data, acl(small), CreateKind::Plain { ephemeral: true }),
        5 => create(&path, data, AclList::OPEN, CreateKind::Container),
        6 => create(&path, data, AclList::OPEN, CreateKind::Ttl(i64::from(small) + 1)),
        _ => create(&path, data, acl(small), CreateKind::Plain { ephemeral: false }),
    })
}

/// What a server would propose for a request, as Apache's processor does it: with the version and the count that
/// it will have, or as an error.
fn prepare(data_tree: &DataTree, session: SessionId, request: Txn) -> Txn {
    let tree = data_tree.tree();
    let error = Txn::Error { err: -1 };
    match request {
        Txn::Create { path, data, acl, kind, with_stat, .. } => {
            let parent = tree.get(crate::tree::path::split(&path).unwrap().0);
            match parent.filter(|parent| !parent.is_ephemeral() && tree.get(&path).is_none()) {
                Some(parent) => {
                    let parent_cversion = parent.meta().cversion + 1;
                    Txn::Create { path, data, acl, kind, with_stat, parent_cversion }
                }
                None => error,
            }
        }
        Txn::Delete { ref path, .. } if tree.get(path).is_none_or(|znode| znode.child_count() > 0) => error,
        Txn::SetData { path, data, .. } => match tree.get(&path) {
            Some(znode) => Txn::SetData { version: znode.meta().version + 1, path, data },
            None => error,
        },
        Txn::SetAcl { path, acl, .. } => match tree.get(&path) {
            Some(znode) => Txn::SetAcl { version: znode.meta().aversion + 1, path, acl },
            None => error,
        },
        Txn::CreateSession { timeout_ms: 0 } => {
            Txn::CloseSession { paths: Some(data_tree.ephemerals_of(session).cloned().collect()) }
        }
        other => other,
    }
}

/// A snapshot as Apache takes it, while `pace` more transactions are applied after each znode.
fn encode_fuzzy(data_tree: &mut DataTree, txns: &[(TxnHeader, Txn)], pace: usize) -> Vec<u8> {
    let source = SnapshotSource::of(data_tree, false);
    let mut acl_ids: BTreeMap<&AclList, i64> = source.acls.iter().zip(1..).collect();
    let not_in_the_table: Vec<AclList> = (0..5).map(acl).collect();
    for list in &not_in_the_table {
        acl_ids.entry(list).or_insert(1000);
    }
    let mut bytes = Vec::new();
    Encoder::new(&source, Form::File).put_tables(&mut bytes);
    let mut txns = txns.iter();
    let mut to_write = vec![String::new()];
    while let Some(path) = to_write.pop() {
        if let Some(znode) = data_tree.tree().get(&path) {
            put_znode(&mut bytes, path.as_bytes(), znode, &acl_ids);
            to_write.extend(znode.children().map(|child| format!("{path}/{}", String::from_utf8_lossy(child.name()))));
        }
        txns.by_ref().take(pace).for_each(|(header, txn)| drop(data_tree.apply(header, txn)));
    }
    bytes.put_string(END);
    bytes.put_long(simd_adler32::adler32(&&bytes[..]).into());
    bytes.put_string(END);
    bytes.put_long(data_tree.tree().zxid().0);
    bytes.put_int(DIGEST_VERSION);
    bytes.put_long(data_tree.tree().digest() as i64);
    bytes.put_long(simd_adler32::adler32(&&bytes[..]).into());
    bytes.put_string(END);
    txns.for_each(|(header, txn)| drop(data_tree.apply(header, txn)));
    bytes
}

proptest! {
    #[test]
    fn a_snapshot_that_was_taken_while_transactions_went_on_is_put_right_by_their_replay(
        requests in prop::collection::vec(random_txn(), 1..200), before in 0usize..100, pace in 0usize..20
    ) {
        let mut data_tree = DataTree::new();
        let mut txns = Vec::new();
        for request in requests {
            let zxid = data_tree.tree().zxid().next();
            let session = SessionId(zxid.0 % 3 + 1);
            let header = TxnHeader { session, cxid: 0, zxid, time: WallMs(zxid.0) };
            let txn = prepare(&data_tree, session, request);
            data_tree.apply(&header, &txn);
            txns.push((header, txn));
        }
        let (before, during) = txns.split_at(before.min(txns.len()));
        let mut apache = DataTree::new();
        before.iter().for_each(|(header, txn)| drop(apache.apply(header, txn)));
        let zxid = apache.tree().zxid();
        let bytes = encode_fuzzy(&mut apache, during, pace);
        assert_same(&apache, &data_tree);

        let mut loaded = decode(&bytes, zxid).unwrap().data_tree;
        during.iter().for_each(|(header, txn)| drop(loaded.apply(header, txn)));
        assert_same(&loaded, &data_tree);
    }

    #[test]
    fn any_state_comes_back(txns in prop::collection::vec(random_txn(), 0..150), piece in 1usize..2000) {
        let mut data_tree = DataTree::new();
        for txn in txns {
            apply(&mut data_tree, txn);
        }
        let bytes = encode(&SnapshotSource::of(&data_tree, true), Form::File);
        let mut decoder = Decoder::new(Form::File, data_tree.tree().zxid());
        let (mut consumed, mut arrived) = (0, 0);
        while arrived < bytes.len() {
            arrived = bytes.len().min(arrived + piece);
            consumed += decoder.feed(&bytes[consumed..arrived]).unwrap();
        }
        let decoded = decoder.finish(&bytes[consumed..]).unwrap();
        assert_same(&decoded.data_tree, &data_tree);
        let again = encode(&SnapshotSource::of(&decoded.data_tree, true), Form::File);
        prop_assert_eq!(decode(&again, data_tree.tree().zxid()).unwrap().data_tree.tree().digest(), data_tree.tree().digest());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), form: bool) {
        let form = if form { Form::File } else { Form::Stream };
        // Half of the time with a right start, which lets them get further.
        if bytes.len() % 2 == 0 {
            let whole = encode(&SnapshotSource::of(&small(), true), form);
            let keep = bytes.len() % whole.len();
            bytes.splice(..0, whole[..keep].iter().copied());
        }
        let mut decoder = Decoder::new(form, Zxid(3));
        if let Ok(consumed) = decoder.feed(&bytes) {
            let _ = decoder.finish(&bytes[consumed..]);
        }
    }
}
