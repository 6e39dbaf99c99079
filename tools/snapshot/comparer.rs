//! `compare --apache`: the text of Apache's SnapshotComparer, which compares subtrees, depth by depth.
//!
//! Every path of both snapshots is in memory. Source: `SnapshotComparer.java` of 3.9.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::time::Instant;

use ringkeeper::storage::inspect::{Piece, SnapshotReader};

use crate::offline::Verdict;
use crate::offline::output::Out;
use crate::offline::progress::Progress;
use crate::options::CompareOptions;

/// A znode with all that is below it; the path of the root is empty here.
#[derive(Clone, Copy, Default)]
struct Subtree {
    /// Its own data and that of all below it.
    bytes: i64,
    /// All below it.
    znodes: i64,
}

/// By depth, 0 for the root, and by path.
type Tree = Vec<BTreeMap<String, Subtree>>;

/// See the options.
pub fn run(options: &CompareOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut out = Out::new();
    out.line("Successfully parsed options!")?;
    let left = load(&options.a, &mut out)?;
    let right = load(&options.b, &mut out)?;
    describe(&left, &mut out)?;
    describe(&right, &mut out)?;
    let mut comparer = Comparer { options, left, right, out, differs: false };
    comparer.compare()?;
    comparer.out.flush()?;
    Ok(if comparer.differs { Verdict::Found } else { Verdict::Fine })
}

fn load(file: &Path, out: &mut Out) -> Result<Tree, Box<dyn Error>> {
    let begin = Instant::now();
    let mut reader = SnapshotReader::open(file)?;
    let mut progress = Progress::new(reader.bytes(), false);
    let mut tree: Tree = Vec::new();
    loop {
        match reader.read()? {
            Piece::Znode(znode) => {
                progress.at(reader.position());
                let path = if znode.path == "/" { String::new() } else { znode.path };
                let depth = path.matches('/').count();
                if tree.len() <= depth {
                    tree.resize_with(depth + 1, BTreeMap::new);
                }
                let bytes = znode.data.map_or(0, |data| data.len() as i64);
                tree[depth].insert(path, Subtree { bytes, znodes: 0 });
            }
            Piece::End => break,
            _ => {}
        }
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    out.line(&format!("Deserialized snapshot in {name} in {:.6} seconds", begin.elapsed().as_secs_f64()))?;
    let begin = Instant::now();
    // From the deepest up, each is added to its parent.
    for depth in (1..tree.len()).rev() {
        let (above, below) = tree.split_at_mut(depth);
        for (path, subtree) in &below[0] {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if let Some(parent) = above[depth - 1].get_mut(parent) {
                parent.bytes += subtree.bytes;
                parent.znodes += subtree.znodes + 1;
            }
        }
    }
    out.line(&format!("Processed data tree in {:.6} seconds", begin.elapsed().as_secs_f64()))?;
    Ok(tree)
}

fn describe(tree: &Tree, out: &mut Out) -> io::Result<()> {
    out.line(&format!("Node count: {}", tree.iter().map(BTreeMap::len).sum::<usize>()))?;
    out.line(&format!("Total size: {}", tree[0].values().map(|root| root.bytes).sum::<i64>()))?;
    out.line(&format!("Max depth: {}", tree.len()))?;
    for (depth, znodes) in tree.iter().enumerate() {
        out.line(&format!("Count of nodes at depth {depth}: {}", znodes.len()))?;
    }
    out.line("")
}

struct Comparer<'a> {
    options: &'a CompareOptions,
    left: Tree,
    right: Tree,
    out: Out,
    differs: bool,
}

/// What to do next.
enum Asked {
    Next,
    Depth(usize),
    Path(String),
    /// Neither a depth that there is nor a path.
    Neither(String),
    /// There is no more input.
    End,
}

impl Comparer<'_> {
    fn compare(&mut self) -> Result<(), Box<dyn Error>> {
        let depths = self.left.len().max(self.right.len());
        if self.options.interactive {
            self.compare_as_asked(depths)?;
        } else {
            self.put_thresholds()?;
            (0..depths).try_for_each(|depth| self.layer(depth))?;
        }
        self.out.line("All layers compared.")?;
        Ok(())
    }

    fn compare_as_asked(&mut self, depths: usize) -> io::Result<()> {
        let mut depth = 0;
        while depth < depths {
            let range = format!("Depth must be in range [0, {}]", depths - 1);
            match self.ask(depth)? {
                Asked::End => return Ok(()),
                Asked::Next => {
                    self.layer(depth)?;
                    depth += 1;
                }
                Asked::Depth(number) if number < depths => {
                    depth = number;
                    self.layer(depth)?;
                }
                Asked::Depth(_) => {
                    self.out.line(&range)?;
                    continue;
                }
                Asked::Path(path) => {
                    self.out.line(&format!("Analysis for node {path}"))?;
                    self.children_of(&path)?;
                }
                Asked::Neither(text) => {
                    let rule = "Path must be an absolute path which starts with '/'.";
                    self.out.line(&format!("Input {text} is not valid. {range}. {rule}"))?;
                }
            }
            self.out.line("")?;
        }
        Ok(())
    }

    fn ask(&mut self, depth: usize) -> io::Result<Asked> {
        self.out.line(&format!(
            "Current depth is {depth}\n\
             - Press enter to move to print current depth layer;\n\
             - Type a number to jump to and print all nodes at a given depth;\n\
             - Enter an ABSOLUTE path to print the immediate subtree of a node. Path must start with '/'."
        ))?;
        self.out.flush()?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(Asked::End);
        }
        self.put_thresholds()?;
        let text = line.trim_end_matches(['\n', '\r']);
        Ok(match text.parse() {
            _ if text.is_empty() => Asked::Next,
            Ok(number) => Asked::Depth(number),
            Err(_) if text.starts_with('/') => Asked::Path(text.to_owned()),
            Err(_) => Asked::Neither(text.to_owned()),
        })
    }

    fn put_thresholds(&mut self) -> io::Result<()> {
        let (bytes, znodes) = (self.options.bytes, self.options.nodes.unwrap_or_default());
        self.out.line(&format!(
            "Printing analysis for nodes difference larger than {bytes} bytes or node count difference larger than {znodes}."
        ))
    }

    fn layer(&mut self, depth: usize) -> io::Result<()> {
        self.out.line(&format!("Analysis for depth {depth}"))?;
        let of = |tree: &Tree| tree.get(depth).cloned().unwrap_or_default();
        let (left, right) = (of(&self.left), of(&self.right));
        self.znodes(&left, &right)
    }

    fn children_of(&mut self, path: &str) -> io::Result<()> {
        let path = if path == "/" { "" } else { path };
        let is_in = |tree: &Tree| tree.get(path.matches('/').count()).is_some_and(|znodes| znodes.contains_key(path));
        if !is_in(&self.left) && !is_in(&self.right) {
            return self.out.line(&format!("Path {path} is neither found in left tree nor right tree."));
        }
        let depth = path.matches('/').count() + 1;
        let prefix = format!("{path}/");
        let of = |tree: &Tree| -> BTreeMap<String, Subtree> {
            let below = tree.get(depth).into_iter().flat_map(|znodes| znodes.range(prefix.clone()..));
            let below = below.take_while(|(path, _)| path.starts_with(&prefix));
            below.map(|(path, subtree)| (path.clone(), *subtree)).collect()
        };
        let (left, right) = (of(&self.left), of(&self.right));
        self.znodes(&left, &right)
    }

    fn znodes(&mut self, left: &BTreeMap<String, Subtree>, right: &BTreeMap<String, Subtree>) -> io::Result<()> {
        let (mut lefts, mut rights) = (left.iter().peekable(), right.iter().peekable());
        loop {
            let order = match (lefts.peek(), rights.peek()) {
                (None, None) => return Ok(()),
                (Some((a, _)), Some((b, _))) => {
                    if self.options.debug {
                        let words = match a.cmp(b) {
                            std::cmp::Ordering::Less => "left is less",
                            std::cmp::Ordering::Equal => "same",
                            std::cmp::Ordering::Greater => "right is less",
                        };
                        self.out.line(&format!("Comparing {a} to {b}\n{words}"))?;
                    }
                    a.cmp(b)
                }
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let a = if order.is_le() { lefts.next() } else { None };
            let b = if order.is_ge() { rights.next() } else { None };
            match (a, b) {
                (Some((path, a)), Some((_, b))) => self.both(path, *a, *b)?,
                (Some((path, a)), None) => self.only("left", path, *a)?,
                (None, Some((path, b))) => self.only("right", path, *b)?,
                (None, None) => unreachable!("one of them is next"),
            }
        }
    }

    fn only(&mut self, side: &str, path: &str, Subtree { bytes, znodes }: Subtree) -> io::Result<()> {
        self.differs = true;
        if self.is_above(bytes, znodes) {
            let counts = format!("Descendant size: {bytes}. Descendant count: {znodes}");
            self.out.line(&format!("Node {path} found only in {side} tree. {counts}"))
        } else if self.options.debug || self.options.interactive {
            self.out.line(&format!("Filtered {side} node {path} of size {bytes}"))
        } else {
            Ok(())
        }
    }

    fn both(&mut self, path: &str, a: Subtree, b: Subtree) -> io::Result<()> {
        let (bytes, znodes) = (b.bytes - a.bytes, b.znodes - a.znodes);
        self.differs |= (bytes, znodes) != (0, 0);
        if self.is_above(bytes.abs(), znodes.abs()) {
            self.out.line(&format!("Node {path} found in both trees. Delta: {bytes} bytes, {znodes} descendants"))
        } else if self.options.debug || self.options.interactive {
            self.out.line(&format!("Filtered node {path} of left size {}, right size {}", a.bytes, b.bytes))
        } else {
            Ok(())
        }
    }

    fn is_above(&self, bytes: i64, znodes: i64) -> bool {
        let is_above = |found: i64, threshold: u64| i64::try_from(threshold).is_ok_and(|threshold| found > threshold);
        is_above(bytes, self.options.bytes) || is_above(znodes, self.options.nodes.unwrap_or_default())
    }
}
