//! Reads a story, has it played, and compares.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Plays all stories of a directory below `testdata`: `begin` makes a fresh stage, on which each command is given, and
/// whose answers are collected.
pub fn check<S>(directory: &str, begin: impl Fn() -> S, command: impl Fn(&mut S, &str, &mut String)) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/script/testdata").join(directory);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no stories in {}", directory.display());
    let mut failures = String::new();
    for file in files {
        let told = fs::read_to_string(&file).expect("it is UTF-8");
        let played = play(&told, &begin, &command);
        if played == told {
            continue;
        }
        if env::var_os("REWRITE").is_some() {
            fs::write(&file, played).expect("it can be written");
        } else {
            writeln!(failures, "{}:\n{}", file.display(), difference(&told, &played)).expect("a string takes it");
        }
    }
    assert!(failures.is_empty(), "stories go otherwise than they are told:\n{failures}");
}

/// The story with the traces as they are now.
fn play<S>(told: &str, begin: impl Fn() -> S, command: impl Fn(&mut S, &str, &mut String)) -> String {
    let mut stage = begin();
    let mut played = String::new();
    let mut answer = String::new();
    let mut lines = told.lines();
    while let Some(line) = lines.next() {
        played.push_str(line);
        played.push('\n');
        if line == "----" {
            // The trace that was told, up to an empty line, gives way to the one that is.
            let ended = lines.by_ref().find(|line| line.is_empty()).is_some();
            played.push_str(&std::mem::take(&mut answer));
            if ended {
                played.push('\n');
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            command(&mut stage, line, &mut answer);
        }
    }
    assert!(answer.is_empty(), "the story ends with commands that no ---- follows:\n{answer}");
    played
}

/// The first lines that differ, with what stands around them.
fn difference(told: &str, played: &str) -> String {
    let (told, played): (Vec<&str>, Vec<&str>) = (told.lines().collect(), played.lines().collect());
    let same = told.iter().zip(&played).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &told[same.saturating_sub(5)..same] {
        writeln!(text, "  {line}").expect("a string takes it");
    }
    for (sign, lines) in [('-', &told), ('+', &played)] {
        for line in lines.iter().skip(same).take(8) {
            writeln!(text, "{sign} {line}").expect("a string takes it");
        }
    }
    text
}

/// The value of `key=value` among the words; numbers may be in hex, with `0x` in front.
pub fn number(words: &[&str], key: &str) -> Option<i64> {
    let value = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    Some(parse(value))
}

/// A number, in hex with `0x` in front.
pub fn parse(text: &str) -> i64 {
    let number = match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|error| panic!("{text}: {error}"))
}
