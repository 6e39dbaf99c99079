//! Quotas: the counts that the server keeps beside the limits, and whether a change would go beyond one.
//!
//! A client puts a quota on `/a/b` by creating `/zookeeper/quota/a/b/zookeeper_limits` and
//! `…/zookeeper_stats`. The server writes the number of znodes and bytes below `/a/b` into the latter,
//! in place: no version, no time, no watch, no transaction. Limits are soft (`count`, `bytes`), which are only told of,
//! or hard (`countHardLimit`, `byteHardLimit`). Source: `DataTree.updateQuotaStat`, `ZooKeeperServer.checkQuota`,
//! `StatsTrack`.

use std::collections::BTreeSet;
use std::fmt;

use super::{QUOTA, Tree, Znode, path};

const LIMITS: &str = "zookeeper_limits";
const STATS: &str = "zookeeper_stats";

/// What a quota limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Measure {
    /// Znodes.
    Count,
    /// Bytes of data.
    Bytes,
}

impl Measure {
    /// The fields with the soft and the hard limit; the first is that of the counts too.
    fn keys(self) -> (&'static str, &'static str) {
        match self {
            Measure::Count => ("count", "countHardLimit"),
            Measure::Bytes => ("bytes", "byteHardLimit"),
        }
    }
}

/// A limit that a change goes beyond; shown in Apache's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// The path that has the quota.
    pub quota_path: String,
    /// What there is too much of.
    pub measure: Measure,
    /// Whether the change is refused.
    pub hard: bool,
    /// What there would be.
    pub current: i64,
    /// What there may be.
    pub limit: i64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exceeded { quota_path, measure, hard, current, limit } = self;
        let (what, limited) = match measure {
            Measure::Count => ("count", "Count"),
            Measure::Bytes => ("bytes", "Byte"),
        };
        let kind = if *hard { "hard" } else { "soft" };
        write!(f, "Quota exceeded: {quota_path} [current {what}={current}, {kind}{limited}Limit={limit}]")
    }
}

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
        if let Some(quota_path) = self.above(changed) {
            add(tree, quota_path, znodes, bytes);
        }
    }

    /// The limits that the znode at `changed` would exceed with `data_bytes` of data, where it had `before`, or was not
    /// there. Where a hard limit is set the soft one does not count.
    pub(super) fn exceeded(
        &self,
        tree: &Tree,
        changed: &str,
        before: Option<usize>,
        data_bytes: usize,
    ) -> impl Iterator<Item = Exceeded> {
        let found = self.above(changed).and_then(|quota_path| {
            let text = |name: &str| {
                let node = tree.get(&format!("{QUOTA}{quota_path}/{name}"))?;
                Some(String::from_utf8_lossy(node.data().unwrap_or_default()).into_owned())
            };
            Some((quota_path.to_owned(), text(LIMITS)?, text(STATS)?))
        });
        let more_bytes = data_bytes as i64 - before.unwrap_or(0) as i64;
        let more = [(Measure::Count, i64::from(before.is_none())), (Measure::Bytes, more_bytes)];
        found.into_iter().flat_map(move |(quota_path, limits, stats)| {
            more.into_iter().filter_map(move |(measure, more)| {
                let (key, hard_key) = measure.keys();
                let hard = field(&limits, hard_key) > -1;
                let limit = field(&limits, if hard { hard_key } else { key });
                let current = field(&stats, key).saturating_add(more);
                (more != 0 && limit > -1 && current > limit).then(|| {
                    let quota_path = quota_path.clone();
                    Exceeded { quota_path, measure, hard, current, limit }
                })
            })
        })
    }

    /// The nearest path at or above `changed` that has a quota.
    fn above<'a>(&self, changed: &'a str) -> Option<&'a str> {
        if self.paths.is_empty() {
            return None;
        }
        let mut prefix = changed;
        while let Some((parent, _)) = path::split(prefix)
            && parent != prefix
        {
            if self.paths.contains(prefix) {
                return Some(prefix);
            }
            prefix = parent;
        }
        None
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
    let (znodes, bytes) = (field(&text, "count") + znodes, field(&text, "bytes") + bytes);
    write(tree, quota_path, znodes, bytes);
}

/// The number behind a key of limits or stats such as `count=-1,bytes=-1=;byteHardLimit=100`; -1 where there is none.
/// The odd `=` keeps ZooKeeper 3.4 from reading what it does not know.
fn field(text: &str, key: &str) -> i64 {
    let mut pieces = text.split([',', ';']).map(|piece| piece.split('='));
    let value = pieces.find_map(|mut piece| if piece.next() == Some(key) { piece.next() } else { None });
    value.and_then(|value| value.parse().ok()).unwrap_or(-1)
}

fn write(tree: &mut Tree, quota_path: &str, znodes: i64, bytes: i64) {
    let text = format!("count={znodes},bytes={bytes}");
    tree.edit(&stats_path(quota_path), |stats| stats.set_data(Some(text.as_bytes()), stats.meta()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_limits_and_stats() {
        let text = "count=4,bytes=5=;byteHardLimit=10;countHardLimit=";
        for (key, expected) in
            [("count", 4), ("bytes", 5), ("byteHardLimit", 10), ("countHardLimit", -1), ("none", -1), ("Count", -1)]
        {
            assert_eq!(field(text, key), expected, "{key}");
        }
        assert_eq!(field("", "count"), -1);
    }
}
