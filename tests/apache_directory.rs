//! Directories that real Apache servers wrote, as `tests/peers/golden.sh` makes them: taken over, and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ringkeeper::proto::client::AclList;
use ringkeeper::storage::apache_log::{self, History};
use ringkeeper::storage::replay::Replay;
use ringkeeper::storage::snapshot::{self, SnapshotFile};
use ringkeeper::storage::snapshot_format::{Decoded, Decoder, Encoder, Form, FormatError, SnapshotSource};
use ringkeeper::tree::{DataTree, Meta, Owner};
use ringkeeper::types::Zxid;

const VERSIONS: [&str; 2] = ["3.8", "3.9"];
/// What the second snapshot is named for.
const RESTARTED_AT: Zxid = Zxid(0x3b);

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("apache-{version}"))
}

fn load(dir: &Path, zxid: Zxid) -> DataTree {
    let is_it = |file: &SnapshotFile| file.zxid == zxid;
    let file = snapshot::list(dir).unwrap().into_iter().find(is_it).unwrap();
    snapshot::load(&file).unwrap().data_tree
}

fn decode(bytes: &[u8]) -> Result<Decoded, FormatError> {
    let mut decoder = Decoder::new(Form::File, RESTARTED_AT);
    let consumed = decoder.feed(bytes)?;
    decoder.finish(&bytes[consumed..])
}

/// All znodes by path, as they are stored.
fn znodes(data_tree: &DataTree) -> BTreeMap<String, (Option<Vec<u8>>, AclList, Meta)> {
    let mut found = BTreeMap::new();
    let mut walk = data_tree.tree().walk();
    while let Some((path, znode)) = walk.next() {
        let value = (znode.data().map(<[u8]>::to_vec), znode.acl().clone(), znode.meta());
        found.insert(String::from_utf8(path.to_vec()).unwrap(), value);
    }
    found
}

/// The lines that a client of the Apache server wrote at the end: path, data, stat, ACL.
fn dump(data_tree: &DataTree) -> String {
    let mut lines = Vec::new();
    let mut walk = data_tree.tree().walk();
    while let Some((path, znode)) = walk.next() {
        let path = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
        let data = znode.data().map_or("null".to_owned(), |data| {
            format!("\"{}\"", data.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        });
        let stat = znode.stat();
        // The server was told to take TTL znodes for what they are, and so shows no owner.
        let is_ttl = Owner(stat.ephemeral_owner).0 >> 56 == -1;
        let stat = [
            stat.czxid,
            stat.mzxid,
            stat.ctime_ms,
            stat.mtime_ms,
            stat.version.into(),
            stat.cversion.into(),
            stat.aversion.into(),
            if is_ttl { 0 } else { stat.ephemeral_owner },
            stat.data_length.into(),
            stat.num_children.into(),
            stat.pzxid,
        ]
        .map(|field| field.to_string())
        .join(" ");
        let acl = match znode.acl().entries() {
            None => "31:world:anyone".to_owned(),
            Some(entries) => {
                let entry =
                    |acl: &ringkeeper::proto::client::Acl| format!("{}:{}:{}", acl.perms, acl.id.scheme, acl.id.id);
                entries.iter().map(entry).collect::<Vec<_>>().join(" ")
            }
        };
        lines.push(format!("{path}\t{data}\t{stat}\t{acl}\n"));
    }
    lines.sort();
    lines.concat()
}

#[test]
fn a_replay_from_the_first_snapshot_has_apaches_digest_at_every_transaction() {
    for version in VERSIONS {
        let dir = golden(version);
        let mut data_tree = load(&dir, Zxid(0));
        let mut digests = 0;
        for record in History::open(&dir, Zxid(0)).unwrap() {
            let logged = record.unwrap().logged;
            data_tree.apply(&logged.header, &logged.txn);
            if let Some(digest) = logged.digest {
                assert_eq!(data_tree.tree().digest(), digest, "{version}, after {:?}", logged.header);
                digests += 1;
            }
            if logged.header.zxid == RESTARTED_AT {
                let written = load(&dir, RESTARTED_AT);
                assert_eq!(znodes(&data_tree), znodes(&written), "{version}");
                assert_eq!(data_tree.sessions(), written.sessions(), "{version}");
            }
        }
        assert!(digests > 60, "{version}: {digests}");
        assert_eq!(dump(&data_tree), fs::read_to_string(dir.join("dump.txt")).unwrap(), "{version}");
    }
}

#[test]
fn taking_over_means_the_newest_snapshot_and_what_follows_it() {
    for version in VERSIONS {
        let dir = golden(version);
        let loaded = snapshot::load_newest(&dir, None).unwrap().unwrap();
        assert_eq!((loaded.zxid, loaded.unknown_acls), (RESTARTED_AT, 0));
        assert_eq!(loaded.last_recorded, Some(RESTARTED_AT), "{version}");
        let mut replay = Replay::on(loaded.data_tree);
        let report = apache_log::replay(&dir, &mut replay).unwrap();
        assert_eq!((report.last, report.applied), (replay.last(), (report.last.0 - 0x3b) as u64));
        assert_eq!((report.diverged_at, report.torn_tail, report.skipped), (None, None, 0x3b));
        assert_eq!(dump(&replay.data_tree), fs::read_to_string(dir.join("dump.txt")).unwrap(), "{version}");
    }
}

#[test]
fn a_snapshot_written_again_says_the_same() {
    for version in VERSIONS {
        let dir = golden(version);
        let data_tree = load(&dir, RESTARTED_AT);
        let source = SnapshotSource::of(&data_tree, true);
        let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
        let mut encoder = Encoder::new(&source, Form::File);
        while encoder.next_chunk(&mut chunk) {
            bytes.extend_from_slice(&chunk);
        }
        let again = decode(&bytes).unwrap().data_tree;
        assert_eq!(znodes(&again), znodes(&data_tree));
        assert_eq!(again.sessions(), data_tree.sessions());
        assert_eq!(again.tree().digest(), data_tree.tree().digest());

        // Byte for byte, the order of siblings and of the ACLs is each server's own; their sum is not. 3.8 does not
        // write the last section. Apache has one list twice: that of /zookeeper/config, and an equal one.
        let apache = fs::read(dir.join("snapshot.3b")).unwrap();
        let (last_section, read_only_acl) = (8 + 13, 8 + 4 + 4 + (4 + 5) + (4 + 6));
        let apache_bytes = apache.len() + if version == "3.8" { last_section } else { 0 };
        assert_eq!(bytes.len() + read_only_acl, apache_bytes, "{version}");
        // The header and the session; the digest section.
        assert_eq!(bytes[..32], apache[..32], "{version}");
        let digest_at = |end: usize| end - last_section - (20 + 13);
        let (ours, theirs) = (digest_at(bytes.len()), digest_at(apache_bytes));
        assert_eq!(bytes[ours..ours + 20], apache[theirs..theirs + 20], "{version}");

        // For tests/peers/handback.sh, which starts Apache on it.
        let mut replay = Replay::on(data_tree);
        apache_log::replay(&dir, &mut replay).unwrap();
        let data_tree = replay.data_tree;
        let again = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("apache-{version}-again"));
        let _ = fs::remove_dir_all(&again);
        fs::create_dir_all(&again).unwrap();
        snapshot::write(&again, &SnapshotSource::of(&data_tree, true), |_| {}).unwrap();
        let written = snapshot::load_newest(&again, None).unwrap().unwrap();
        assert_eq!(znodes(&written.data_tree), znodes(&data_tree));
    }
}

#[test]
fn no_damage_to_a_snapshot_goes_unseen() {
    for version in VERSIONS {
        let bytes = fs::read(golden(version).join("snapshot.3b")).unwrap();
        let digest = decode(&bytes).unwrap().data_tree.tree().digest();
        for len in 0..bytes.len() {
            if let Ok(decoded) = decode(&bytes[..len]) {
                assert_eq!(decoded.data_tree.tree().digest(), digest, "{version}, cut at {len}");
            }
        }
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "{version}, bit {bit}");
        }
    }
}

/// A copy of the logs in which `name` is `bytes`, replayed on the first snapshot.
fn replay_with(version: &str, name: &str, bytes: &[u8], test: &str) -> Result<(DataTree, bool), String> {
    let dir = std::env::temp_dir().join(format!("ringkeeper-{}-{test}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    for log in ["log.1", "log.3c"] {
        fs::copy(golden(version).join(log), dir.join(log)).unwrap();
    }
    fs::write(dir.join(name), bytes).unwrap();
    let mut replay = Replay::on(load(&golden(version), Zxid(0)));
    let report = apache_log::replay(&dir, &mut replay);
    fs::remove_dir_all(&dir).unwrap();
    report.map(|report| (replay.data_tree, report.torn_tail.is_some())).map_err(|error| error.to_string())
}

#[test]
fn no_damage_to_a_log_goes_unseen() {
    let version = "3.9";
    let replay_with = |name: &str, bytes: &[u8]| replay_with(version, name, bytes, "log-damage");
    for name in ["log.1", "log.3c"] {
        let bytes = fs::read(golden(version).join(name)).unwrap();
        let (whole, _) = replay_with(name, &bytes).unwrap();
        // The header's version and its dbid are not looked at, by Apache neither. Not every bit, to save time.
        for bit in (0..8 * bytes.len()).step_by(37).filter(|bit| !(4..16).contains(&(bit / 8))) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match replay_with(name, &damaged) {
                // Of a magic number that is wrong, but the records are all there.
                Ok((data_tree, _)) => assert_eq!(data_tree.tree().digest(), whole.tree().digest(), "bit {bit}"),
                Err(error) => assert!(error.contains(&format!("{name} is damaged at byte ")), "{error}"),
            }
        }
        for len in (0..bytes.len()).step_by(7) {
            // Whatever is cut, in front of it all is well: that is what a crash does to the newest file.
            let mut padded = bytes[..len].to_vec();
            padded.resize(1 << 16, 0);
            for cut in [&bytes[..len], &padded[..]] {
                match replay_with(name, cut) {
                    Ok((data_tree, _)) => {
                        assert_eq!(name, "log.3c", "cut at {len}");
                        assert!(data_tree.tree().zxid() < whole.tree().zxid());
                    }
                    Err(error) => assert_eq!(name, "log.1", "cut at {len}: {error}"),
                }
            }
        }
    }
}
