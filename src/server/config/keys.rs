//! What every zoo.cfg key is: its names, its kind of value, its default and what this server does with it.
//!
//! The one table is [`all`], in `keys/table.rs`. The parser, `check-config` and the table of `docs/compat.md` all read
//! it, so adding a key is a line there and, if the key is honoured, a field of [`super::Config`].

use super::values::Kind;

mod table;

/// How the keys of this server alone begin. Nobody else defines such keys, so an unknown one is an error.
pub const OWN_PREFIX: &str = "ringkeeper.";

/// One key, or a family of keys if the name ends in `*`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name that Apache's code reads in zoo.cfg. A trailing `*` stands for anything, also for nothing.
    pub name: &'static str,
    /// Names that Apache's manual uses although its code does not; both spellings are accepted.
    pub aliases: &'static [&'static str],
    /// What a value must look like.
    pub kind: Kind,
    /// What holds without the key, as text; empty if nothing does. For a [`Support::NoEffect`] key this is how the
    /// server behaves anyway, so that writing it is worth no warning.
    pub default: &'static str,
    /// What this server does with the key.
    pub support: Support,
}

/// What the server does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The value is used.
    Honoured,
    /// The value is used by members of an ensemble. On a standalone server another value than the default is a warning.
    InEnsemble,
    /// The value is checked and then has no effect, for the reason given. Another value than the default is a warning.
    NoEffect(&'static str),
    /// Start-up stops, for the reason given, because going on without the feature would be unsafe. Accepted are the
    /// words of a [`Kind::Word`], and of any other kind only the default.
    Refused(&'static str),
}

impl Support {
    /// `honoured`, `no effect` or `refused`, as the compatibility table prints it.
    pub fn word(&self) -> &'static str {
        match self {
            Support::Honoured | Support::InEnsemble => "honoured",
            Support::NoEffect(_) => "no effect",
            Support::Refused(_) => "refused",
        }
    }

    /// Whether the value is used, be it by some servers only.
    pub fn is_honoured(&self) -> bool {
        matches!(self, Support::Honoured | Support::InEnsemble)
    }

    /// The reason, empty for an honoured key.
    pub fn why(&self) -> &'static str {
        match self {
            Support::Honoured => "",
            Support::InEnsemble => "only members of an ensemble use it",
            Support::NoEffect(why) | Support::Refused(why) => why,
        }
    }
}

impl Key {
    const fn new(name: &'static str, kind: Kind, default: &'static str, support: Support) -> Key {
        Key { name, aliases: &[], kind, default, support }
    }

    const fn also(mut self, aliases: &'static [&'static str]) -> Key {
        self.aliases = aliases;
        self
    }

    /// The part before the `*` of a family, nothing for a single key.
    pub fn family(&self) -> Option<&'static str> {
        self.name.strip_suffix('*')
    }

    /// Whether `value` asks for what the server does without the key.
    pub fn is_default(&self, value: &str) -> bool {
        value.eq_ignore_ascii_case(self.default)
    }
}

/// Every key that the server knows, families last within their section.
pub fn all() -> &'static [Key] {
    table::KEYS
}

/// The table in Markdown, one row a key in the order of [`all`]: the configuration part of `docs/compat.md`.
pub fn compat_table() -> String {
    let mut table = "| key | value | default | support | why |\n|---|---|---|---|---|\n".to_string();
    for key in all() {
        let names = std::iter::once(&key.name).chain(key.aliases);
        let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        table.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            names.join(", "),
            key.kind,
            key.default,
            key.support.word(),
            key.support.why()
        ));
    }
    table
}

/// The key that `name` means: by its own name, by an alias, or by the longest family it belongs to.
pub fn find(name: &str) -> Option<&'static Key> {
    exact(name).or_else(|| {
        all()
            .iter()
            .filter(|key| key.family().is_some_and(|prefix| name.starts_with(prefix)))
            .max_by_key(|key| key.name.len())
    })
}

fn exact(name: &str) -> Option<&'static Key> {
    all().iter().find(|key| key.family().is_none() && (key.name == name || key.aliases.contains(&name)))
}

/// A known key that an unknown name was probably meant to be.
#[derive(Clone, Copy, Debug)]
pub struct NearMiss {
    /// The spelling to suggest, which may be an alias.
    pub name: &'static str,
    /// The key it belongs to.
    pub key: &'static Key,
}

impl NearMiss {
    /// Whether to stop rather than to warn: what the key asks for, or asks to refuse, would silently not happen.
    pub fn loses_intent(&self) -> bool {
        !matches!(self.key.support, Support::NoEffect(_))
    }
}

/// Longest name (in bytes) for which only one wrong letter counts as a slip.
const SHORT_NAME_BYTES: usize = 6;

/// The known key nearest to the unknown `name`: the same but for case or a `zookeeper.` in front, or at most two
/// letters away.
pub fn nearest(name: &str) -> Option<NearMiss> {
    if let Some(bare) = name.strip_prefix("zookeeper.")
        && let Some(key) = exact(bare)
    {
        let name = key.aliases.iter().find(|alias| **alias == bare);
        return Some(NearMiss { name: name.copied().unwrap_or(key.name), key });
    }
    let lower = name.to_ascii_lowercase();
    let limit = if name.len() <= SHORT_NAME_BYTES { 1 } else { 2 };
    if let Some(key) = nearest_family(&lower) {
        let name = key.name;
        return Some(NearMiss { name, key });
    }
    all()
        .iter()
        .filter(|key| key.family().is_none())
        .flat_map(|key| {
            let names = std::iter::once(&key.name).chain(key.aliases);
            names.map(move |name| NearMiss { name, key })
        })
        .map(|miss| (edit_distance(&lower, &miss.name.to_ascii_lowercase()), miss))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, miss)| miss)
}

/// The family whose first word, up to its dot, is one letter away: `server.*` for `sever.1`.
fn nearest_family(lower: &str) -> Option<&'static Key> {
    let (word, _) = lower.split_once('.')?;
    all().iter().find(|key| {
        let prefix = key.family().and_then(|prefix| prefix.strip_suffix('.'));
        prefix.is_some_and(|prefix| {
            let prefix = prefix.to_ascii_lowercase();
            prefix.len() >= SHORT_NAME_BYTES && edit_distance(word, &prefix) <= 1
        })
    })
}

/// Letters to insert, drop, replace, or swap with their neighbour to turn one text into the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_consistent() {
        let mut names = BTreeSet::new();
        for key in all() {
            for name in std::iter::once(&key.name).chain(key.aliases) {
                assert!(names.insert(*name), "{name} stands twice");
                assert!(!name.is_empty() && !name.contains(' '), "{name:?}");
            }
            if !key.default.is_empty() && !key.default.contains(' ') && key.family().is_none() {
                let checked = key.kind.check(key.name, key.default);
                assert!(checked.is_ok(), "default of {}: {checked:?}", key.name);
            }
            if !key.support.is_honoured() {
                let why = key.support.why();
                assert!(!why.is_empty(), "{}: {why:?}", key.name);
            }
        }
    }

    #[test]
    fn the_compatibility_table_has_a_row_a_key() {
        let table = compat_table();
        let row = "| `request_stale_connection_check`, `requestStaleConnectionCheck` | true, false | true | no effect \
                   | a closed connection's requests are not looked at |";
        assert!(table.lines().any(|line| line == row), "{table}");
        assert_eq!(table.lines().count(), all().len() + 2);
        assert!(table.lines().all(|line| line.matches(" |").count() == 5 || line.contains("---")));
    }

    #[test]
    fn names_are_found_exactly_by_alias_and_by_family() {
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(find(name).map(|key| key.name), expected, "{name}");
        };
        check("clientPort", Some("clientPort"));
        check("requestThrottleLimit", Some("request_throttle_max_requests"));
        check("server.1", Some("server.*"));
        check("ssl.keyStore.location", Some("ssl.*"));
        check("ssl.quorum.keyStore.location", Some("ssl.quorum.*"));
        check("metricsProvider.className", Some("metricsProvider.className"));
        check("metricsProvider.httpPort", Some("metricsProvider.httpPort"));
        check("metricsProvider.numWorkerThreads", Some("metricsProvider.*"));
        check("clientport", None);
        check("my.own.key", None);
    }

    #[test]
    fn slips_are_recognised() {
        let check = |name: &str, expected: Option<(&str, bool)>| {
            let found = nearest(name).map(|miss| (miss.name, miss.loses_intent()));
            assert_eq!(found, expected, "{name}");
        };
        check("clientport", Some(("clientPort", true)));
        check("clientPorts", Some(("clientPort", true)));
        check("tickTiem", Some(("tickTime", true)));
        check("datdir", Some(("dataDir", true)));
        check("sslquorum", Some(("sslQuorum", true)));
        check("zookeeper.snapCount", Some(("snapCount", true)));
        check("zookeeper.flushDelay", Some(("flushDelay", false)));
        check("nio.numWorkerThread", Some(("nio.numWorkerThreads", false)));
        check("requestThrottleLimits", Some(("requestThrottleLimit", true)));
        check("sever.1", Some(("server.*", true)));
        check("authprovider.sasl", Some(("authProvider.*", true)));
        check("myOwnKey", None);
        check("zookeeper.my.own", None);
        check("", None);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
            assert_eq!(edit_distance(b, a), expected, "{b} {a}");
        }
    }
}
