//! Soft quotas: the counts that the server keeps beside the limits.
//!
//! A client puts a quota on `/a/b` by creating `/zookeeper/quota/a/b/zookeeper_limits` and
//! `…/zookeeper_stats`. The server writes the number of znodes and bytes below `/a/b` into the latter,
//! in place: no version, no time, no watch, no transaction. Source: `DataTree.updateQuotaStat`,
//! `StatsTrack`.

use std::collections::BTreeSet;

use super::{QUOTA, Tree, Znode, path};

const LIMITS: &str = "zookeeper_limits";
const STATS: &str = "zookeeper_stats";

/// The paths that have a quota.
#[derive(Clone, Default)]
pub(super) struct Quotas {
    paths: BTreeSet<Box<str>>,
}

impl Quotas {
    /// Looks again whether there is a quota that the znode at `changed` stands for.
    pub(super) fn changed(&mut self, changed: &str, tree: &Tree) {
        if let Some((quota_path, LIMITS)) = quota_node(changed) {
            if tree.get(changed).is_some() {
                self.paths.insert(quota_path.into());
            } else {
                self.paths.remove(quota_path);
            }
        }
    }

    /// Keeps count of `znodes` and `bytes` more (or less) at `changed`.
    pub(super) fn count(&mut self, tree: &mut Tree, changed: &str, znodes: i64, bytes: i64) {
        if znodes == 1
            && let Some((quota_path, STATS)) = quota_node(changed)
        {
            recount(tree, quota_path);
        }
        if self.paths.is_empty() {
            return;
        }
        let mut prefix = changed;
        while let Some((parent, _)) = path::split(prefix)
            && parent != prefix
        {
            if self.paths.contains(prefix) {
                add(tree, prefix, znodes, bytes);
                return;
            }
            prefix = parent;
        }
    }

    /// Finds the quotas of a tree that was loaded, and counts anew.
    pub(super) fn rebuild(&mut self, tree: &mut Tree) {
        self.paths.clear();
        let mut below: Vec<(String, &Znode)> =
            tree.get(QUOTA).map(|node| (QUOTA.to_owned(), node)).into_iter().collect();
        while let Some((path, node)) = below.pop() {
            if let Some((quota_path, LIMITS)) = quota_node(&path) {
                self.paths.insert(quota_path.into());
            }
            below.extend(
                node.children().map(|child| (format!("{path}/{}", String::from_utf8_lossy(child.name())), child)),
            );
        }
        for quota_path in &self.paths {
            recount(tree, quota_path);
        }
    }
}

/// `/zookeeper/quota/a/b/zookeeper_limits` is (`/a/b`, `zookeeper_limits`). A quota on `/` is none.
fn quota_node(path: &str) -> Option<(&str, &str)> {
    let (quota_path, name) = path::split(path.strip_prefix(QUOTA)?)?;
    (quota_path != "/" && quota_path.starts_with('/')).then_some((quota_path, name))
}

fn stats_path(quota_path: &str) -> String {
    format!("{QUOTA}{quota_path}/{STATS}")
}

/// Writes the counts of the whole subtree, its root included.
fn recount(tree: &mut Tree, quota_path: &str) {
    let (mut znodes, mut bytes) = (0, 0);
    let mut below: Vec<&Znode> = tree.get(quota_path).into_iter().collect();
    while let Some(node) = below.pop() {
        znodes += 1;
        bytes += node.data_len() as i64;
        below.extend(node.children());
    }
    write(tree, quota_path, znodes, bytes);
}

fn add(tree: &mut Tree, quota_path: &str, znodes: i64, bytes: i64) {
    let Some(stats) = tree.get(&stats_path(quota_path)) else { return };
    let text = String::from_utf8_lossy(stats.data().unwrap_or_default());
    let field = |key: &str| -> i64 {
        let mut pieces = text.split([',', ';']).filter_map(|piece| piece.split_once('='));
        pieces.find(|(k, _)| *k == key).and_then(|(_, v)| v.parse().ok()).unwrap_or(0)
    };
    let (znodes, bytes) = (field("count") + znodes, field("bytes") + bytes);
    write(tree, quota_path, znodes, bytes);
}

fn write(tree: &mut Tree, quota_path: &str, znodes: i64, bytes: i64) {
    let text = format!("count={znodes},bytes={bytes}");
    tree.edit(&stats_path(quota_path), |stats| stats.set_data(Some(text.as_bytes())));
}
