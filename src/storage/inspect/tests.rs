//! Damage of every kind, at every place.

use std::fs;
use std::path::Path;

use super::*;
use crate::proto::txn::{LoggedTxn, Txn, TxnHeader};
use crate::storage::convert::{self, ApacheLogsWriter, NativeLogWriter, Step};
use crate::storage::testing::TempDir;
use crate::types::{SessionId, WallMs};

/// Payloads from zxid 1 on, of lengths that vary.
fn payload(zxid: i64) -> Vec<u8> {
    let header = TxnHeader { session: SessionId(1), cxid: 2, zxid: Zxid(zxid), time: WallMs(3) };
    let txn = Txn::SetData { path: "/a".into(), data: Some(vec![7; 9 * zxid as usize].into()), version: 1 };
    let mut payload = Vec::new();
    LoggedTxn::encode_parts(&mut payload, &header, &txn, None);
    payload
}

/// One segment of five transactions, cut behind the last, and where each record ends.
fn segment(dir: &TempDir) -> (Vec<u8>, Vec<u64>) {
    let mut writer = NativeLogWriter::new(dir.path(), 1, 0, || 42);
    (1..=5).for_each(|zxid| writer.append(Zxid(zxid), &payload(zxid)).unwrap());
    let path = writer.finish().unwrap().remove(0).path;
    let mut reader = LogReader::open(&find_logs(&path).unwrap()[0]).unwrap().unwrap();
    let mut ends = Vec::new();
    while let Item::Txn(entry) = reader.read().unwrap() {
        ends.push(entry.end);
    }
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(*ends.last().unwrap() as usize);
    fs::remove_file(path).unwrap();
    (bytes, ends)
}

/// A log of Apache's, and where each record ends.
fn apache() -> (Vec<u8>, Vec<u64>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/apache-3.9/log.3c");
    let mut reader = ApacheReader::open(&path).unwrap();
    let mut ends = Vec::new();
    while let Item::Txn(entry) = reader.read().unwrap() {
        ends.push(entry.end);
    }
    (fs::read(path).unwrap(), ends)
}

/// What a survey says of a file with these bytes: it must come to an end and panic nowhere.
fn look(dir: &TempDir, bytes: &[u8]) -> Option<(FileSurvey, SurveyEnd)> {
    let path = dir.path().join("file");
    fs::write(&path, bytes).unwrap();
    let file = find_logs(&path).ok()?.remove(0);
    let mut survey = Survey::new();
    let found = survey.file(&file, |_| {}).unwrap();
    Some((found, survey.finish()))
}

#[test]
fn a_log_cut_anywhere_has_the_records_before_the_cut_and_no_damage() {
    let dir = TempDir::new("inspect-cut");
    for (bytes, ends) in [segment(&dir), apache()] {
        // A segment's header is one block, most of it zeros.
        for len in (0..bytes.len()).filter(|len| !(40..4090).contains(len) || bytes.len() < 4096) {
            for padding in [0, 10_000] {
                let mut cut = bytes[..len].to_vec();
                cut.resize(len + padding, 0);
                let Some((found, end)) = look(&dir, &cut) else {
                    assert!(len < 4096, "cut at {len}: no log");
                    continue;
                };
                let whole = ends.iter().filter(|end| **end <= len as u64).count() as u64;
                // The last bytes of a record may be zeros, and so the same.
                assert!((whole..=whole + 1).contains(&found.transactions), "cut at {len}: {found:?}");
                assert!(!end.is_damaged, "cut at {len}: {end:?}");
            }
        }
    }
}

#[test]
fn a_flipped_byte_is_found_and_what_is_behind_it_too() {
    let dir = TempDir::new("inspect-flip");
    for (bytes, ends) in [segment(&dir), apache()] {
        let first = bytes.len() - (ends[ends.len() - 1] - ends[0]) as usize;
        let whole = look(&dir, &bytes).unwrap().0.transactions;
        for at in first..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let (found, end) = look(&dir, &flipped).unwrap();
            let hit = ends.iter().filter(|end| **end <= at as u64).count();
            if found.transactions == whole {
                continue; // Padding.
            }
            assert_eq!(found.transactions, hit as u64, "byte {at}");
            assert_eq!(found.end, if hit == 0 { found.end } else { ends[hit - 1] }, "byte {at}");
            if hit + 1 == ends.len() {
                // Nothing says that the last record had been durable, but where only its checksum is wrong.
                assert_eq!(found.beyond, None);
                continue;
            }
            assert!(end.is_damaged, "byte {at}: {end:?}");
            let beyond = found.beyond.unwrap();
            assert_eq!(beyond.transactions, whole - hit as u64 - 1, "byte {at}: {:?}", end.findings);
            assert_eq!(beyond.position, ends[hit], "byte {at}");
        }
    }
}

#[test]
fn noise_and_holes_are_read_to_the_end() {
    let dir = TempDir::new("inspect-noise");
    let mut state = 88172645463325252u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    for (bytes, _) in [segment(&dir), apache()] {
        for keep in [8, 16, 4096.min(bytes.len()), bytes.len()] {
            let mut noisy = bytes[..keep].to_vec();
            noisy.extend((0..300_000).map(|_| noise()));
            look(&dir, &noisy);
        }
        // 10 GiB of nothing, and a record at the end.
        let path = dir.path().join("file");
        fs::write(&path, &bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(10 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[4000.min(bytes.len() - 200)..], 9 << 30).unwrap();
        let found = find_logs(&path).unwrap().remove(0);
        let mut survey = Survey::new();
        let found = survey.file(&found, |_| {}).unwrap();
        let is_apache = found.kind == FileKind::ApacheLog;
        assert_eq!(found.beyond.is_some(), is_apache, "only a native record knows where it belongs");
    }
}

#[test]
fn a_missing_file_in_the_middle_is_damage() {
    let dir = TempDir::new("inspect-missing");
    let mut writer = NativeLogWriter::new(dir.path(), 1, 0, || 42);
    (1..=500).for_each(|zxid| writer.append(Zxid(zxid), &payload(zxid)).unwrap());
    let written = writer.finish().unwrap();
    assert!(written.len() > 3);
    let check = || {
        let mut survey = Survey::new();
        let files = find_logs(dir.path()).unwrap();
        let found: u64 = files.iter().map(|file| survey.file(file, |_| {}).unwrap().transactions).sum();
        (found, survey.finish().is_damaged)
    };
    assert_eq!(check(), (500, false));
    fs::remove_file(&written[1].path).unwrap();
    assert_eq!(check(), (500 - written[1].transactions, true));
}

/// Apache's log stays where ringkeeper has taken over, and the segments that came next were used again.
#[test]
fn what_is_missing_between_apaches_log_and_the_first_segment_is_no_damage() {
    let dir = TempDir::new("inspect-recycled");
    let mut apache = ApacheLogsWriter::new(dir.path());
    (1..=5).for_each(|zxid| apache.append(Zxid(zxid), &payload(zxid)).unwrap());
    apache.finish().unwrap();
    let mut native = NativeLogWriter::new(dir.path(), 7, 0, || 42);
    (101..=105).for_each(|zxid| native.append(Zxid(zxid), &payload(zxid)).unwrap());
    native.finish().unwrap();
    let files = find_logs(dir.path()).unwrap();
    let mut survey = Survey::new();
    files.iter().for_each(|file| drop(survey.file(file, |_| {}).unwrap()));
    let end = survey.finish();
    assert!(!end.is_damaged && end.last == Some(Zxid(105)), "{:?}", end.findings);
    assert!(end.findings[0].what.ends_with("a start needs a snapshot of 0x64 or later"), "{:?}", end.findings);
    let mut read = Vec::new();
    let took = convert::each(&files, |_, step| {
        if let Step::Txn(entry) = step {
            read.push(entry.zxid.0);
        }
        Ok(())
    });
    took.unwrap();
    assert_eq!(read, (1..=5).chain(101..=105).collect::<Vec<_>>());
    // One that is missing in a log of either kind is.
    fs::remove_file(dir.path().join("log.1")).unwrap();
    let mut apache = ApacheLogsWriter::new(dir.path());
    [1, 2, 4].iter().for_each(|zxid| apache.append(Zxid(*zxid), &payload(*zxid)).unwrap());
    apache.finish().unwrap();
    let found = convert::each(&files, |_, _| Ok(()));
    assert!(found.unwrap_err().to_string().contains("0x4 stands here and 0x2 before it"));
}
