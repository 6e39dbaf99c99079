//! A subtree: walked, drawn, searched.

use std::collections::VecDeque;

use glob::{MatchOptions, Pattern};
use ringkeeper::proto::client::Stat;
use serde_json::json;

use super::{Command, Context, number};
use crate::client::error::code;
use crate::client::{Client, Error, Ticket, path};
use crate::failure::Failure;
use crate::flags::{Given, switch, valued};
use crate::output::{Color, paint, stat_json};

pub const COMMANDS: &[Command] = &[
    Command::extra(
        "tree",
        "[-s] [-L depth] path",
        &[switch("s", "Show size, version and owner of each znode"), valued("L", "Go down so many levels only")],
        (1, 1),
        tree,
        "Draws a znode and all below it.",
    ),
    Command::extra(
        "find",
        "path glob",
        &[],
        (2, 2),
        find,
        "Lists the znodes below a path that match a pattern: *, ? and [a-z] within a name, ** for any number of names. \
         A pattern without a slash is for the last name, another one for the whole path.",
    ),
];

/// Lists that a walk asks for ahead.
const AHEAD: usize = 64;

/// A znode on a walk.
pub struct Visit {
    /// Its path.
    pub path: String,
    /// How many levels below the first one.
    pub depth: usize,
    /// Whether it is the last child of its parent.
    pub is_last: bool,
    /// Its metadata, or why they cannot be had.
    pub stat: Result<Stat, Error>,
}

/// Walks a subtree, each znode before its children, these sorted by name. Znodes that disappear meanwhile are left
/// out. Further lists are asked for while one is waited for.
pub struct Walk<'a> {
    client: &'a Client,
    depth_max: usize,
    levels: Vec<Level<'a>>,
    /// Paths that are not gone into.
    skipped: &'static [&'static str],
}

type Listing<'a> = Result<Ticket<'a, (Vec<String>, Stat)>, Error>;

struct Level<'a> {
    /// Paths, of which the first ones have been asked for.
    paths: VecDeque<String>,
    asked: VecDeque<Listing<'a>>,
}

impl<'a> Walk<'a> {
    /// A walk from `root` down, at most `depth_max` levels below it.
    pub fn new(client: &'a Client, root: &str, depth_max: usize) -> Walk<'a> {
        let level = Level { paths: VecDeque::from([root.to_owned()]), asked: VecDeque::new() };
        Walk { client, depth_max, levels: vec![level], skipped: &[] }
    }

    /// The same, without the subtrees at these paths.
    pub fn without(self, skipped: &'static [&'static str]) -> Walk<'a> {
        Walk { skipped, ..self }
    }
}

impl Iterator for Walk<'_> {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        loop {
            let depth = self.levels.len() - 1;
            let level = self.levels.last_mut()?;
            while let Some(path) = level.paths.get(level.asked.len()).filter(|_| level.asked.len() < AHEAD) {
                level.asked.push_back(self.client.children_later(path, false));
            }
            let (Some(path), Some(listing)) = (level.paths.pop_front(), level.asked.pop_front()) else {
                self.levels.pop();
                if self.levels.is_empty() {
                    return None;
                }
                continue;
            };
            let is_last = level.paths.is_empty();
            let stat = match listing.and_then(Ticket::wait) {
                Err(error) if error.is(code::NO_NODE) && depth > 0 => continue,
                Err(error) => Err(error),
                Ok((mut names, stat)) => {
                    names.sort();
                    if depth < self.depth_max {
                        let children = names.iter().map(|name| path::join(&path, name));
                        let paths = children.filter(|child| !self.skipped.contains(&child.as_str())).collect();
                        self.levels.push(Level { paths, asked: VecDeque::new() });
                    }
                    Ok(stat)
                }
            };
            return Some(Visit { path, depth, is_last, stat });
        }
    }
}

fn tree(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let root = &given.arguments[1];
    let depth_max = number(given, "L", usize::MAX, "a whole")?;
    let mut count = 0;
    let mut refused = None;
    // For each level, whether the znode there was the last child: then no line goes down past it.
    let mut lasts: Vec<bool> = Vec::new();
    for visit in Walk::new(context.client, root, depth_max) {
        lasts.truncate(visit.depth);
        lasts.push(visit.is_last);
        let stat = match visit.stat {
            Ok(stat) => Some(stat),
            Err(error) if error.is(code::NO_AUTH) => {
                refused = Some(error);
                None
            }
            Err(error) => return Err(error.into()),
        };
        count += 1;
        let is_detailed = given.has("s");
        context.out.line(tree_line(&lasts, &visit.path, stat.as_ref(), is_detailed, context.out.paints()));
        context.out.push("znodes", json!({"path": visit.path, "stat": stat.as_ref().map(stat_json)}));
    }
    context.out.line(format_args!("\n{count} {}", if count == 1 { "znode" } else { "znodes" }));
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// One line of the drawing. `lasts` has an entry for each level down to this znode.
fn tree_line(lasts: &[bool], path: &str, stat: Option<&Stat>, is_detailed: bool, colors: bool) -> String {
    let mut line = String::new();
    if let [_, inner @ .., last] = lasts {
        line.extend(inner.iter().map(|last| if *last { "    " } else { "│   " }));
        line.push_str(if *last { "└── " } else { "├── " });
        let name = &path[path.rfind('/').map_or(0, |at| at + 1)..];
        let is_ephemeral = stat.is_some_and(|stat| stat.ephemeral_owner != 0);
        line.push_str(&paint(name, Color::Green, colors && is_ephemeral));
    } else {
        line.push_str(path);
    }
    match stat {
        None => line.push_str("  [no permission]"),
        Some(stat) if is_detailed => {
            line.push_str(&format!("  [{} bytes, version {}", stat.data_length, stat.version));
            if stat.ephemeral_owner != 0 {
                line.push_str(&format!(", ephemeral of {:#x}", stat.ephemeral_owner));
            }
            line.push(']');
        }
        Some(_) => {}
    }
    line
}

fn find(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let (root, text) = (&given.arguments[1], &given.arguments[2]);
    let pattern = Pattern::new(text).map_err(|error| Failure::malformed(format!("{text}: {error}")))?;
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let is_whole = text.contains('/');
    let mut refused = None;
    for visit in Walk::new(context.client, root, usize::MAX) {
        match visit.stat {
            Err(error) if error.is(code::NO_AUTH) => refused = Some(error),
            stat => drop(stat?),
        }
        let name = if is_whole { &visit.path } else { &visit.path[visit.path.rfind('/').map_or(0, |at| at + 1)..] };
        if pattern.matches_with(name, options) {
            context.out.line(&visit.path);
            context.out.push("paths", visit.path);
        }
    }
    if context.out.is_json() {
        context.out.put("path", root.as_str());
        context.out.put("glob", text.as_str());
    }
    // What matched was shown; the exit code tells that there may be more.
    refused.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_drawing() {
        let stat = Stat { data_length: 5, version: 2, ..Stat::default() };
        let line = |lasts: &[bool], path| tree_line(lasts, path, Some(&stat), false, false);
        assert_eq!(line(&[true], "/a"), "/a");
        assert_eq!(line(&[true, false], "/a/b"), "├── b");
        assert_eq!(line(&[true, true, false], "/a/b/c"), "    ├── c");
        assert_eq!(line(&[true, false, true], "/a/b/c"), "│   └── c");
        assert_eq!(tree_line(&[true, true], "/a/b", Some(&stat), true, false), "└── b  [5 bytes, version 2]");
        assert_eq!(tree_line(&[true, true], "/a/b", None, true, false), "└── b  [no permission]");
    }
}
