//! `docs/compat.md` says what the code does: its tables are compared with those of the program.
//!
//! With `RINGKEEPER_REWRITE=1` the table of configuration keys is written into the file instead; read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use ringkeeper::cnxn::FourLetter;
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
