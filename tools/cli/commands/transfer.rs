//! A subtree as a JSON file, and back.
//!
//! ```json
//! {"format": "zookeeper-subtree", "version": 1, "path": "/services", "znodes": [
//! {"acl":["world:anyone:cdrwa"],"data":null,"path":""},
//! {"acl":["world:anyone:cdrwa"],"data":"hello","path":"/a"},
//! {"acl":["world:anyone:cdrwa"],"base64":"/w==","path":"/a/b"}
//! ]}
//! ```
//!
//! One znode a line, parents before their children, names sorted, paths relative to the first: two exports can be
//! compared with `diff`, and a deep tree is no deep JSON. `data` is null or text; data that is not UTF-8 stands in
//! `base64`. Versions, times and zxids are not kept. Ephemerals belong to their session and are left out.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};

use ringkeeper::proto::client::Acl;
use ringkeeper::proto::op::CreateMode;
use serde_json::{Map, Value, json};

use super::nodes::from_base64;
use super::subtree::Walk;
use super::{Command, Context, acl};
use crate::client::error::code;
use crate::client::{Client, Op, path};
use crate::failure::Failure;
use crate::flags::{Given, switch};
use crate::output::{acl_text, base64};

pub const COMMANDS: &[Command] = &[
    Command::extra(
        "export",
        "[-A] path [file]",
        &[switch("A", "Leave out the access control lists")],
        (1, 2),
        export,
        "Writes a znode and all below it as JSON, to standard output or to a file.",
    ),
    Command::extra(
        "import",
        "[-A] [-f] file [path]",
        &[
            switch("A", "Leave the access control lists open, whatever the file says"),
            switch("f", "Set the data and the access control lists of znodes that are there already"),
        ],
        (1, 2),
        import,
        "Creates the znodes of an export, at their own path or at another; - is standard input.",
    ),
];

const FORMAT: &str = "zookeeper-subtree";
const VERSION: u64 = 1;
/// What belongs to the server.
const RESERVED: &[&str] = &["/zookeeper"];
/// Most znodes, and most bytes, that one multi of an import creates: a frame of the server is limited.
const BATCH_ZNODES_MAX: usize = 500;
const BATCH_BYTES_MAX: usize = 400 * 1024;

/// One znode of an export.
struct Node {
    /// Below the export's path; empty for that itself.
    path: String,
    data: Option<Vec<u8>>,
    acl: Vec<Acl>,
}

fn export(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let root = given.arguments[1].as_str();
    let with_acl = !given.has("A");
    let Some(file) = given.arguments.get(2) else {
        let mut out = BufWriter::new(io::stdout().lock());
        let counts = write_export(context.client, root, with_acl, &mut out)?;
        out.flush().map_err(io_failure("standard output"))?;
        drop(out);
        if counts.ephemerals > 0 {
            eprintln!("{}", counts.text());
        }
        return Ok(());
    };
    // Whoever reads the file never sees half of one.
    let unfinished = format!("{file}.part");
    let written = File::create(&unfinished).map_err(io_failure(&unfinished)).and_then(|created| {
        let mut out = BufWriter::new(created);
        let counts = write_export(context.client, root, with_acl, &mut out)?;
        let created = out.into_inner().map_err(|error| io_failure(&unfinished)(error.into_error()))?;
        created.sync_all().map_err(io_failure(&unfinished))?;
        fs::rename(&unfinished, file).map_err(io_failure(file))?;
        Ok(counts)
    });
    let counts = written.inspect_err(|_| {
        // What could not be written may not be there either.
        let _ = fs::remove_file(&unfinished);
    })?;
    context.out.line(format_args!("Exported {} to {file}", counts.text()));
    context.out.put("path", root);
    context.out.put("file", file.as_str());
    context.out.put("znodes", counts.znodes);
    context.out.put("ephemeralsLeftOut", counts.ephemerals);
    Ok(())
}

fn io_failure(name: &str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::malformed(format!("{name}: {error}"))
}

struct Counts {
    znodes: usize,
    ephemerals: usize,
}

impl Counts {
    fn text(&self) -> String {
        match self.ephemerals {
            0 => format!("{} znodes", self.znodes),
            ephemerals => format!("{} znodes, without {ephemerals} ephemerals", self.znodes),
        }
    }
}

fn write_export(client: &Client, root: &str, with_acl: bool, out: &mut impl Write) -> Result<Counts, Failure> {
    let broken = io_failure("the export");
    let mut counts = Counts { znodes: 0, ephemerals: 0 };
    let head = json!(root);
    for visit in Walk::new(client, root, usize::MAX).without(RESERVED) {
        let stat = visit.stat?;
        if stat.ephemeral_owner != 0 {
            counts.ephemerals += 1;
            continue;
        }
        let (data, acl) = (client.data_later(&visit.path, false)?, client.acl_later(&visit.path)?);
        let (data, acl) = match (data.wait(), acl.wait()) {
            // It was listed, and is gone.
            (Err(error), _) if error.is(code::NO_NODE) && visit.depth > 0 => continue,
            (data, acl) => (data?.0, acl?.0),
        };
        let separator = if counts.znodes == 0 {
            format!("{{\"format\": \"{FORMAT}\", \"version\": {VERSION}, \"path\": {head}, \"znodes\": [\n")
        } else {
            ",\n".to_owned()
        };
        let below = if root == "/" { &visit.path } else { &visit.path[root.len()..] };
        let node = Node { path: if below == "/" { "" } else { below }.to_owned(), data, acl };
        write!(out, "{separator}{}", node.json(with_acl)).map_err(&broken)?;
        counts.znodes += 1;
    }
    match counts.znodes {
        0 => Err(Failure::malformed(format!("{root} is an ephemeral znode, which belongs to its session"))),
        _ => out.write_all(b"\n]}\n").map(|()| counts).map_err(&broken),
    }
}

impl Node {
    fn json(&self, with_acl: bool) -> Value {
        let mut object = Map::new();
        object.insert("path".to_owned(), self.path.as_str().into());
        match self.data.as_deref().map(std::str::from_utf8) {
            None => object.insert("data".to_owned(), Value::Null),
            Some(Ok(text)) => object.insert("data".to_owned(), text.into()),
            Some(Err(_)) => object.insert("base64".to_owned(), base64(self.data.as_deref().unwrap_or_default()).into()),
        };
        if with_acl {
            let list: Vec<Value> = self.acl.iter().map(|acl| acl_text(acl).into()).collect();
            object.insert("acl".to_owned(), list.into());
        }
        Value::Object(object)
    }

    fn parse(value: &Value, with_acl: bool) -> Result<Node, String> {
        let path = value["path"].as_str().ok_or("there is no path")?.to_owned();
        if !path.is_empty() {
            path::validate(&path)?;
        }
        let data = match (&value["base64"], &value["data"]) {
            (Value::String(text), _) => Some(from_base64(text).map_err(|failure| failure.text)?),
            (_, Value::String(text)) => Some(text.clone().into_bytes()),
            (_, Value::Null) => None,
            _ => return Err("data is neither a text nor null".to_owned()),
        };
        let acl = match &value["acl"] {
            Value::Array(list) if with_acl => {
                let texts = list.iter().map(|text| text.as_str().ok_or("an entry of acl is no text"));
                let texts = texts.collect::<Result<Vec<_>, _>>()?;
                if let Some(masked) = texts.iter().find(|text| text.starts_with("digest:") && is_masked(text)) {
                    return Err(format!(
                        "{masked} is masked, because the export was made without the ADMIN permission; -A imports \
                         without access control lists"
                    ));
                }
                let parsed: Vec<Acl> = texts.iter().flat_map(|text| acl::parse(text)).collect();
                if parsed.len() != texts.len() || parsed.is_empty() {
                    return Err("acl is no list of scheme:id:perms".to_owned());
                }
                parsed
            }
            _ => acl::open(),
        };
        Ok(Node { path, data, acl })
    }
}

/// A server shows `bob:x` for a digest to those who may not see it.
fn is_masked(acl: &str) -> bool {
    acl.rsplit_once(':').is_some_and(|(id, _)| id.ends_with(":x"))
}

fn import(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let file = given.arguments[1].as_str();
    let (own_path, nodes) = read_export(file, !given.has("A"))?;
    let root = given.arguments.get(2).unwrap_or(&own_path);
    path::validate(root).map_err(Failure::malformed)?;
    let target = |node: &Node| match node.path.as_str() {
        "" => root.clone(),
        below if root == "/" => below.to_owned(),
        below => format!("{root}{below}"),
    };
    let mut znodes: Vec<(String, &Node)> = nodes.iter().map(|node| (target(node), node)).collect();
    let (created, set) = if given.has("f") {
        write_over(context.client, &znodes)?
    } else {
        // The root of all is always there.
        znodes.retain(|(path, _)| path != "/");
        (create_all(context.client, &znodes)?, 0)
    };
    let also = if given.has("f") { format!(", set {set} that were there") } else { String::new() };
    context.out.line(format_args!("Created {created} znodes from {root} down{also}"));
    context.out.put("path", root.as_str());
    context.out.put("created", created);
    context.out.put("set", set);
    Ok(())
}

/// Reads a whole export, so that nothing is written of one that is wrong somewhere.
fn read_export(file: &str, with_acl: bool) -> Result<(String, Vec<Node>), Failure> {
    let mut text = String::new();
    match file {
        "-" => io::stdin().lock().read_to_string(&mut text),
        _ => File::open(file).and_then(|mut opened| opened.read_to_string(&mut text)),
    }
    .map_err(io_failure(file))?;
    let bad = |why: String| Failure::malformed(format!("{file} is not an export of a subtree: {why}"));
    let value: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if value["format"] != FORMAT || value["version"] != VERSION {
        return Err(bad(format!("it does not say \"format\": \"{FORMAT}\", \"version\": {VERSION}")));
    }
    let path = value["path"].as_str().ok_or_else(|| bad("there is no path".to_owned()))?;
    let list = value["znodes"].as_array().ok_or_else(|| bad("there are no znodes".to_owned()))?;
    let nodes = list.iter().enumerate().map(|(at, value)| {
        Node::parse(value, with_acl).map_err(|why| bad(format!("znode {} ({}): {why}", at + 1, value["path"])))
    });
    Ok((path.to_owned(), nodes.collect::<Result<_, _>>()?))
}

/// Creates znodes that must not be there yet.
fn create_all(client: &Client, znodes: &[(String, &Node)]) -> Result<usize, Failure> {
    let mut created = 0;
    while created < znodes.len() {
        let mut bytes = 0;
        let fits = |(path, node): &&(String, &Node)| {
            let acl: usize = node.acl.iter().map(|acl| acl.id.scheme.len() + acl.id.id.len() + 12).sum();
            bytes += path.len() + node.data.as_deref().map_or(0, <[u8]>::len) + acl + 32;
            bytes <= BATCH_BYTES_MAX
        };
        // A znode that is too large by itself goes alone: whether it is too large for the server is the server's.
        let len = znodes[created..].iter().take(BATCH_ZNODES_MAX).take_while(fits).count().max(1);
        let batch = &znodes[created..created + len];
        let op = |(path, node): &&(String, &Node)| (path.clone(), node.data.clone(), node.acl.clone());
        let owned: Vec<_> = batch.iter().collect::<Vec<_>>().iter().map(op).collect();
        let ops: Vec<Op<'_>> =
            owned.iter().map(|(path, data, acl)| Op::Create { path, data: data.as_deref(), acl }).collect();
        client.multi(&ops).map_err(|error| {
            let mut failure = Failure::from(error);
            if created > 0 {
                failure.text.push_str(&format!(" ({created} of {} znodes were created before that)", znodes.len()));
            }
            failure
        })?;
        created += len;
    }
    Ok(created)
}

/// Creates what is missing, and sets the data and the ACL of what is there.
fn write_over(client: &Client, znodes: &[(String, &Node)]) -> Result<(usize, usize), Failure> {
    let (mut created, mut set) = (0, 0);
    for (path, node) in znodes {
        match client.create(path, node.data.as_deref(), &node.acl, CreateMode::Persistent, -1) {
            Ok(_) => created += 1,
            Err(error) if error.is(code::NODE_EXISTS) => {
                client.set_data(path, node.data.as_deref(), -1)?;
                client.set_acl(path, &node.acl, -1)?;
                set += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((created, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_there_and_back() {
        for data in [None, Some(vec![]), Some(b"text \"q\"".to_vec()), Some(vec![0xff, 0])] {
            let node = Node { path: "/a b".into(), data, acl: acl::parse("digest:bob:hash=:cr,world:anyone:r") };
            let again = Node::parse(&node.json(true), true).unwrap();
            assert_eq!((&again.path, &again.data, &again.acl), (&node.path, &node.data, &node.acl));
            assert_eq!(Node::parse(&node.json(true), false).unwrap().acl, acl::open());
            assert_eq!(Node::parse(&node.json(false), true).unwrap().acl, acl::open());
        }
    }

    #[test]
    fn what_is_no_node_is_refused() {
        for value in [
            json!({}),
            json!({"path": "a"}),
            json!({"path": "/a//b"}),
            json!({"path": "/a", "data": 5}),
            json!({"path": "/a", "base64": "%"}),
            json!({"path": "/a", "acl": ["nonsense"]}),
            json!({"path": "/a", "acl": []}),
            json!({"path": "/a", "acl": ["digest:bob:x:cdrwa"]}),
        ] {
            assert!(Node::parse(&value, true).is_err(), "{value}");
        }
    }
}
