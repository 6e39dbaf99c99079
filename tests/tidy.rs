//! The shape of the source: what each module may use, and what it may not contain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the package's root, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Its lines with their numbers, without comments, and without tests: those at the end, or all of a file of tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = ["/tests.rs", "/testing.rs"].iter().any(|name| self.path.ends_with(name));
        let lines: Vec<&str> = if is_tests { Vec::new() } else { self.text.lines().collect() };
        let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {"));
        let end = tests.unwrap_or(lines.len());
        let code = lines.into_iter().take(end).enumerate().map(|(i, line)| (i + 1, line));
        code.map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    /// `jute` for `src/jute/reader.rs`, `storage::format` for `src/storage/format.rs`, `server::config` for all below it.
    fn module(&self) -> String {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inside.split('/').take(2).collect::<Vec<_>>().join("::")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a directory of the package, sorted.
fn sources(below: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(below)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("it is UTF-8");
                let path = path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "{below} is empty");
    found
}

#[track_caller]
fn assert_none(found: &[String], why: &str) {
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

/// Whether the word stands there by itself, not as a part of another.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_part);
        let after = line[at + word.len()..].chars().next().is_some_and(is_part);
        !before && !after
    })
}

/// Modules without I/O, clocks, threads or chance.
const CORE: [&str; 8] = ["types", "jute", "proto", "tree", "session", "request", "cnxn", "zab"];
const STORAGE_CORE: [&str; 4] = ["format", "group_commit", "log", "snapshot_format"];

fn is_core(module: &str) -> bool {
    let mut parts = module.split("::");
    match (parts.next(), parts.next()) {
        (Some("storage"), Some(part)) => STORAGE_CORE.contains(&part),
        (Some(top), _) => CORE.contains(&top),
        _ => false,
    }
}

#[test]
fn the_core_touches_nothing_outside_itself() {
    const FORBIDDEN: [&str; 14] = [
        "glommio",
        "std::fs",
        "std::process",
        "std::env",
        "std::thread",
        "std::sync::mpsc",
        "std::net::Tcp",
        "std::net::Udp",
        "TcpStream",
        "Instant::now",
        "SystemTime",
        "rand::",
        "RandomState",
        "rustix",
    ];
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| is_core(&source.module())) {
        for (number, line) in source.code() {
            found.extend(
                FORBIDDEN
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{}:{number}: {word}", source.path)),
            );
            // An order by chance.
            if line.contains("HashMap::new()") || line.contains("HashSet::new()") {
                found.push(format!("{}:{number}: a map with a random seed", source.path));
            }
        }
    }
    assert_none(&found, "core modules touch the world");
}

#[test]
fn unsafe_stands_where_it_is_allowed_and_says_why() {
    const ALLOWED: [&str; 3] = ["src/ring.rs", "src/storage/mmap.rs", "src/shard/listener.rs"];
    let mut found = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")).chain(&sources("tools")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.code().filter(|(_, line)| has_word(line, "unsafe") && !line.contains('"')) {
            if !ALLOWED.contains(&source.path.as_str()) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
            let before = lines[..number - 1].iter().rev().take_while(|line| line.trim().starts_with("//"));
            if !before.clone().any(|line| line.contains("SAFETY:")) {
                found.push(format!("{}:{number}: no // SAFETY:", source.path));
            }
        }
    }
    assert_none(&found, "unsafe outside of its files, or without a reason");
}

/// The order of modules: each may use itself and those before it. What one line names may use each other.
///
/// `server` is in two: the shards read the configuration and answer what operators ask, and are assembled by the rest.
const ORDER: [&[&str]; 14] = [
    &["planted"],
    &["types"],
    &["jute"],
    &["proto"],
    &["tree"],
    &["session"],
    &["request"],
    &["cnxn"],
    &["storage::error", "storage::format", "storage::group_commit", "storage::log", "storage::snapshot_format"],
    &["zab"],
    &["storage"],
    &[
        "server::config",
        "server::placement",
        "server::metrics",
        "server::limits",
        "server::monitor",
        "server::prometheus",
        "server::json",
        "server::http",
        "server::panics",
        "server::admin",
    ],
    &["shard"],
    &["server::run", "server::cli", "server", "ring"],
];

fn rank(module: &str) -> Option<usize> {
    let top = module.split("::").next().unwrap_or_default();
    let exactly = ORDER.iter().position(|row| row.contains(&module));
    exactly.or_else(|| ORDER.iter().position(|row| row.contains(&top)))
}

/// The modules that a line names by `crate::`, as far as two parts: of `crate::{a::b, c}` too.
fn used(line: &str) -> Vec<String> {
    let part = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, prefix) in line.match_indices("crate::") {
        let rest = &line[at + prefix.len()..];
        let first = part(rest);
        if first.is_empty() {
            found.push("a list behind crate::, which this test does not read".to_owned());
            continue;
        }
        match rest[first.len()..].strip_prefix("::").map(part) {
            Some(second) if !second.is_empty() => found.push(format!("{first}::{second}")),
            _ => found.push(first),
        }
    }
    found
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let mut found = Vec::new();
    for source in &sources("src") {
        let module = source.module();
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let Some(own) = rank(&module) else {
            found.push(format!("{}: {module} has no place in the order", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for used in used(line) {
                // `crate::server::{config, placement}` would be read as `server`.
                match rank(&used) {
                    Some(rank) if rank <= own => {}
                    Some(_) => found.push(format!("{}:{number}: {module} uses {used}", source.path)),
                    None => found.push(format!("{}:{number}: {used} has no place in the order", source.path)),
                }
            }
        }
    }
    assert_none(&found, "modules use what stands behind them");
}

#[test]
fn the_core_of_storage_does_not_use_its_edge() {
    let mut found = Vec::new();
    for source in &sources("src/storage") {
        let module = source.module();
        if !is_core(&module) {
            continue;
        }
        for (number, line) in source.code() {
            let siblings = ["super::", "crate::storage::"].into_iter().flat_map(|prefix| line.split(prefix).skip(1));
            for sibling in siblings {
                let name: String = sibling.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !STORAGE_CORE.contains(&name.as_str()) {
                    found.push(format!("{}:{number}: {module} uses {name}", source.path));
                }
            }
        }
    }
    assert_none(&found, "pure parts of storage use what does I/O");
}

#[test]
fn nothing_is_left_over_from_debugging() {
    let mut found = Vec::new();
    for source in &sources("src") {
        let prints = source.path == "src/main.rs" || source.path.starts_with("src/server/cli");
        for (number, line) in source.code() {
            for word in ["dbg!(", "todo!(", "unimplemented!(", "println!(", "print!("] {
                // eprintln! holds println!.
                if line.contains(word) && !(prints && word.contains("print")) {
                    found.push(format!("{}:{number}: {}", source.path, line.trim()));
                }
            }
        }
    }
    assert_none(&found, "left over");
}

#[test]
fn no_file_is_dead() {
    // Every crate root, and the files that hang on it.
    let roots = [
        "src/lib.rs",
        "src/main.rs",
        "tests/election/main.rs",
        "tests/it/main.rs",
        "tests/script/main.rs",
        "tools/latency/main.rs",
        "tools/cli/main.rs",
        "tools/log/main.rs",
        "tools/snapshot/main.rs",
    ];
    let mut alive: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<PathBuf> = roots.iter().map(|path| root().join(path)).collect();
    while let Some(path) = open.pop() {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let is_root = ["main.rs", "lib.rs", "mod.rs"].iter().any(|name| path.ends_with(name));
        let below = if is_root { path.parent().expect("in a directory").to_owned() } else { path.with_extension("") };
        let mut given: Option<PathBuf> = None;
        for line in text.lines() {
            if let Some(path) = line.trim().strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
                given = Some(below.join(path).canonicalize().expect("the file that is named is there"));
                continue;
            }
            let Some(name) = declared(line) else { continue };
            if let Some(given) = given.take() {
                open.push(given);
                continue;
            }
            let places = [below.join(format!("{name}.rs")), below.join(name).join("mod.rs")];
            open.extend(places.into_iter().filter(|place| place.is_file()));
        }
        alive.insert(relative(&path));
    }
    let mut found = Vec::new();
    for below in ["src", "tests/election", "tests/it", "tests/script", "tools"] {
        found.extend(sources(below).into_iter().map(|source| source.path).filter(|path| !alive.contains(path)));
    }
    assert_none(&found, "files that no module declaration leads to");
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned()
}

/// The name in a line like `pub(crate) mod name;`.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim();
    let after = ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "].iter().find_map(|p| line.strip_prefix(p))?;
    after.strip_suffix(';')
}
