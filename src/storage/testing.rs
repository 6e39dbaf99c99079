//! What the tests of this folder share.

use std::fs;
use std::path::{Path, PathBuf};

use super::convert::NativeLogWriter;
use super::segments;
use super::snapshot;
use super::snapshot_format::SnapshotSource;
use crate::proto::client::AclList;
use crate::proto::txn::{CreateKind, LoggedTxn, Txn, TxnHeader};
use crate::tree::DataTree;
use crate::types::{SessionId, WallMs, Zxid};

/// An empty directory that goes when this does.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// `name` must be the test's own.
    pub(crate) fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("ringkeeper-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the system's directory for temporary files can be written to");
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it is there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("it can be read").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A native log of these transactions, each of which creates the znode `/n` with its zxid, about thirty in a segment, with
/// snapshots after some of them.
pub(crate) fn directory_of(name: &str, zxids: impl IntoIterator<Item = i64>, snapshots: &[i64]) -> TempDir {
    let dir = TempDir::new(name);
    let mut data_tree = DataTree::new();
    let mut writer = NativeLogWriter::new(dir.path(), 1, segments::file_bytes(0), || 7);
    for zxid in zxids {
        let header = TxnHeader { session: SessionId(zxid), cxid: 0, zxid: Zxid(zxid), time: WallMs(1) };
        let txn = Txn::Create {
            path: format!("/n{zxid}").into(),
            data: Some(vec![7; 2000].into()),
            acl: AclList::OPEN,
            kind: CreateKind::Plain { ephemeral: false },
            with_stat: false,
            parent_cversion: -1,
        };
        data_tree.apply(&header, &txn);
        let mut payload = Vec::new();
        LoggedTxn::encode_parts(&mut payload, &header, &txn, None);
        writer.append(Zxid(zxid), &payload).unwrap();
        if snapshots.contains(&zxid) {
            snapshot::write(dir.path(), &SnapshotSource::of(&data_tree, true), |_| {}).unwrap();
        }
    }
    writer.finish().unwrap();
    dir
}
