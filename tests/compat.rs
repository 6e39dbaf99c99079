//! `docs/compat.md` says what the code does: its tables are compared with those of the program. And `docs/hazards.md` names
//! tests that are there.
//!
//! With `RINGKEEPER_REWRITE=1` the table of configuration keys is written into the file instead; read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ringkeeper::cnxn::FourLetter;
use ringkeeper::planted::Bug;
use ringkeeper::proto::op::OpCode;
use ringkeeper::server::config::keys;
use ringkeeper::server::monitor;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/compat.md")
}

fn text() -> String {
    fs::read_to_string(path()).expect("it is there")
}

/// What stands below a heading, up to the next of any level.
#[track_caller]
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    rest.split("\n#").next().unwrap_or_default()
}

/// The first two cells of each row of the table in a section.
fn rows(section: &str) -> Vec<(String, String)> {
    let cells = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        Some((cells.next()?, cells.next()?))
    };
    section.lines().filter(|line| line.starts_with('|')).skip(2).filter_map(cells).collect()
}

#[test]
fn the_configuration_keys_are_those_of_the_program() {
    let text = text();
    let written = section(&text, "### All keys").trim();
    let table = keys::compat_table();
    if std::env::var_os("RINGKEEPER_REWRITE").is_some() {
        fs::write(path(), text.replace(written, table.trim())).expect("it can be written");
        return;
    }
    for (row, expected) in written.lines().zip(table.lines()) {
        assert_eq!(row, expected, "run it with RINGKEEPER_REWRITE=1");
    }
    assert_eq!(written.lines().count(), table.lines().count(), "rows are missing or too many");
}

#[test]
fn every_operation_has_its_row() {
    let text = text();
    let known: BTreeSet<i32> = (-100..1000).filter(|code| OpCode::from_wire(*code).is_some()).collect();
    let rows = rows(section(&text, "## Operations"));
    let listed: BTreeSet<i32> = rows.iter().filter_map(|(code, _)| code.parse().ok()).collect();
    let missing: Vec<_> = known.difference(&listed).collect();
    assert!(missing.is_empty(), "opcodes without a row: {missing:?}");
    for (code, name) in rows.iter().filter_map(|(code, name)| Some((code.parse().ok()?, name))) {
        // What Apache has and clients may not send is listed as well.
        let ours = known.contains(&code) || matches!(code, 20 | -10);
        assert!(ours, "{code} ({name}) is listed, and the program does not know it");
    }
}

#[test]
fn every_four_letter_word_has_its_row() {
    let text = text();
    let section = section(&text, "## Four-letter words");
    let done: BTreeSet<String> = rows(section)
        .into_iter()
        .flat_map(|(words, _)| words.split(", ").map(|word| word.trim_matches('`').to_owned()).collect::<Vec<_>>())
        .collect();
    let known: BTreeSet<String> = FourLetter::all().map(|word| word.word().to_owned()).collect();
    assert_eq!(done, known);
}

#[test]
fn every_figure_that_stays_0_is_listed() {
    let text = text();
    let rows = rows(section(&text, "### Figures that stay 0"));
    let listed: BTreeSet<&str> = rows.iter().flat_map(|(names, _)| names.split('`').skip(1).step_by(2)).collect();
    let [counters, summaries, latencies]: [&[&str]; 3] =
        [&monitor::ABSENT_COUNTERS, &monitor::ABSENT_SUMMARIES, &monitor::ABSENT_LATENCIES];
    assert_eq!(listed, [counters, summaries, latencies].concat().into_iter().collect());
}

/// The names of all functions, of stories, and of the mistakes that the simulator is tested with.
fn names(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("it is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => names(&path, found),
            Some("txt") => drop(found.insert(name)),
            Some("rs") => {
                let text = fs::read_to_string(&path).expect("it can be read");
                let functions = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")?.split_once("()"));
                found.extend(functions.map(|(name, _)| name.to_owned()));
                let properties =
                    text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")?.strip_suffix('('));
                found.extend(properties.map(str::to_owned));
            }
            _ => {}
        }
    }
}

#[test]
fn every_hazard_is_tested_by_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/hazards.md")).expect("it is there");
    let mut known: BTreeSet<String> = Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect();
    names(&root.join("src"), &mut known);
    names(&root.join("tests"), &mut known);
    let mut numbers = Vec::new();
    for row in
        text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| | ") && !line.starts_with("| ---"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        numbers.push(cells[0]);
        let shown_by: Vec<&str> = cells.last().expect("there are some").split('`').skip(1).step_by(2).collect();
        assert!(!shown_by.is_empty(), "{} is not tested", cells[0]);
        for name in shown_by {
            assert!(known.contains(name), "{}: there is no {name}", cells[0]);
        }
    }
    let hazards =
        (1..=10).map(|n| format!("H{n}")).chain(["H10b".to_owned()]).chain((11..=20).map(|n| format!("H{n}")));
    assert_eq!(numbers, hazards.chain((1..=14).map(|n| n.to_string())).collect::<Vec<_>>());
}
