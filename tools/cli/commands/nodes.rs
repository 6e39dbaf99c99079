//! Znodes: listed, read, created, set, deleted.

use std::collections::VecDeque;

use ringkeeper::proto::op::CreateMode;

use super::{Command, Context, Former, number};
use crate::client::error::code;
use crate::client::{Client, Error, Op, Ticket, path};
use crate::commands::acl;
use crate::failure::Failure;
use crate::flags::{self, Given, switch, valued};
use crate::output::{base64, data_json, hex_dump};

/// The longest time to live, in ms: what 40 bits hold (`EphemeralType.TTL.maxValue`).
const TTL_MS_MAX: i64 = (1 << 40) - 1;
/// Znodes that `deleteall` deletes in one multi, if nothing is said.
const BATCH: i32 = 1000;
/// Multis that `deleteall` has under way at once.
const BATCHES_UNDER_WAY_MAX: usize = 10;

const fn former(complaint: &'static str, is_watch: bool) -> Option<Former> {
    Some(Former { complaint, is_watch })
}

pub const COMMANDS: &[Command] = &[
    Command {
        former: former("'ls path [watch]' has been deprecated. Please use 'ls [-w] path' instead.", true),
        ..Command::new(
            "ls",
            "[-s] [-w] [-R] path",
            &[switch("?", "help"), switch("s", "stat"), switch("w", "watch"), switch("R", "recurse")],
            1,
            ls,
        )
    },
    Command::new(
        "create",
        "[-s] [-e] [-c] [-t ttl] path [data] [acl]",
        &[switch("e", "ephemeral"), switch("s", "sequential"), switch("c", "container"), valued("t", "ttl")],
        1,
        create,
    ),
    Command {
        former: former("'get path [watch]' has been deprecated. Please use 'get [-s] [-w] path' instead.", true),
        explains: true,
        ..Command::new(
            "get",
            "[-s] [-w] [-b] [-x] path",
            &[
                switch("s", "Print znode stats additionally"),
                switch("w", "Watch for changes on the znode"),
                switch("b", "Output data in base64 format"),
                switch("x", "Output data in hexdump format"),
            ],
            1,
            get,
        )
    },
    Command {
        explains: true,
        ..Command::new(
            "set",
            "path data [-s] [-v version] [-b]",
            &[
                switch("s", "Print znode stats additionally"),
                valued("v", "Set with an expected version"),
                switch("b", "Supply data in base64 format"),
            ],
            2,
            set,
        )
    },
    Command {
        former: former(
            "'delete path [version]' has been deprecated. Please use 'delete [-v version] path' instead.",
            false,
        ),
        ..Command::new("delete", "[-v version] path", &[valued("v", "version")], 1, delete)
    },
    Command::new("deleteall", "path [-b batch size]", &[valued("b", "batch size")], 1, delete_all),
    Command {
        former: former("'stat path [watch]' has been deprecated. Please use 'stat [-w] path' instead.", true),
        ..Command::new("stat", "[-w] path", &[switch("w", "watch")], 1, stat)
    },
    Command::new("sync", "path", &[], 1, sync),
    Command::new("getEphemerals", "path", &[], 0, get_ephemerals),
    Command::new("getAllChildrenNumber", "path", &[], 1, get_all_children_number),
];

fn ls(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let watch = given.has("w");
    if given.has("?") {
        let flags = COMMANDS[0].flags;
        context.out.line(format_args!("usage: ls [options] path\n{}", flags::usage(flags).trim_end()));
    }
    if given.has("R") {
        return visit(context.client, path, watch, &mut |path| {
            context.out.line(path);
            context.out.push("paths", path);
            Ok(())
        });
    }
    let (mut children, stat) = context.client.children(path, watch)?;
    children.sort();
    context.out.line(format_args!("[{}]", children.join(", ")));
    context.out.put("path", path.as_str());
    context.out.put("children", children);
    context.out.stat(&stat, given.has("s"));
    Ok(())
}

/// Visits a znode and all below it: the children of each before theirs. Source: `ZKUtil.visitSubTreeDFS`.
pub fn visit(
    client: &Client,
    path: &str,
    watch: bool,
    on: &mut impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    client.data(path, watch)?;
    on(path)?;
    // Not by recursion: trees may be deeper than a stack.
    let mut below = vec![path.to_owned()];
    while let Some(parent) = below.pop() {
        let mut names = match client.children(&parent, watch) {
            // It was listed, and is gone.
            Err(error) if error.is(code::NO_NODE) => continue,
            result => result?.0,
        };
        names.sort();
        let children: Vec<String> = names.iter().map(|name| path::join(&parent, name)).collect();
        for child in &children {
            on(child)?;
        }
        below.extend(children.into_iter().rev());
    }
    Ok(())
}

fn create(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let (is_ephemeral, is_sequential) = (given.has("e"), given.has("s"));
    let (is_container, has_ttl) = (given.has("c"), given.has("t"));
    if is_container && (is_ephemeral || is_sequential) {
        return Err(Failure::malformed(
            "-c cannot be combined with -s or -e. Containers cannot be ephemeral or sequential.",
        ));
    }
    let ttl_ms = number(given, "t", 0i64, "a long")?;
    if has_ttl && is_ephemeral {
        return Err(Failure::malformed("TTLs cannot be used with Ephemeral znodes"));
    }
    if has_ttl && is_container {
        return Err(Failure::malformed("TTLs cannot be used with Container znodes"));
    }
    if has_ttl && !(1..=TTL_MS_MAX).contains(&ttl_ms) {
        return Err(Failure::malformed(format!("ttl must be positive and cannot be larger than: {TTL_MS_MAX}")));
    }
    let mode = match (is_ephemeral, is_sequential, is_container, has_ttl) {
        (true, true, ..) => CreateMode::EphemeralSequential,
        (true, false, ..) => CreateMode::Ephemeral,
        (_, true, _, true) => CreateMode::PersistentSequentialWithTtl,
        (_, true, _, false) => CreateMode::PersistentSequential,
        (_, _, true, _) => CreateMode::Container,
        (_, _, _, true) => CreateMode::PersistentWithTtl,
        _ => CreateMode::Persistent,
    };
    let data = given.arguments.get(2).map(String::as_bytes);
    let acl = given.arguments.get(3).map_or_else(acl::open, |text| acl::parse(text));
    let created = context.client.create(&given.arguments[1], data, &acl, mode, ttl_ms).inspect_err(|error| {
        if error.is(code::INVALID_ACL) {
            context.out.note(error);
        } else if error.is(code::EPHEMERAL_ON_LOCAL_SESSION) {
            context.out.note("Unable to create ephemeral node on a local session");
        }
    })?;
    *context.has_ephemerals |= is_ephemeral;
    context.out.note(format_args!("Created {created}"));
    context.out.put("created", created);
    Ok(())
}

fn get(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let (data, stat) = context.client.data(path, given.has("w"))?;
    let bytes = data.as_deref().unwrap_or(b"null");
    if given.has("x") {
        context.out.line(hex_dump(bytes));
    } else if given.has("b") {
        context.out.line(base64(bytes));
    } else {
        context.out.line(String::from_utf8_lossy(bytes));
    }
    let (value, encoding) = match &data {
        Some(data) if given.has("b") => (base64(data).into(), "base64"),
        data => data_json(data.as_deref()),
    };
    context.out.put("path", path.as_str());
    context.out.put("data", value);
    context.out.put("encoding", encoding);
    context.out.stat(&stat, given.has("s"));
    Ok(())
}

fn set(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let (path, text) = (&given.arguments[1], &given.arguments[2]);
    let data = if given.has("b") { from_base64(text)? } else { text.clone().into_bytes() };
    let version = number(given, "v", -1i32, "an int")?;
    let stat = context.client.set_data(path, Some(&data), version)?;
    context.out.put("path", path.as_str());
    context.out.stat(&stat, given.has("s"));
    Ok(())
}

/// Bytes from base64, with or without padding.
pub fn from_base64(text: &str) -> Result<Vec<u8>, Failure> {
    use base64::Engine;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    engine.decode(text).map_err(|error| Failure::malformed(format!("The data is not base64: {error}")))
}

fn delete(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    context.client.delete(path, number(given, "v", -1i32, "an int")?)?;
    context.out.put("deleted", path.as_str());
    Ok(())
}

fn delete_all(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let batch = number(given, "b", BATCH, "an int")?;
    let root = &given.arguments[1];
    let tree = subtree(context.client, root)?;
    if batch <= 0 {
        for path in tree.iter().rev() {
            context.client.delete(path, -1)?;
        }
    } else if !delete_in_batches(context.client, &tree, batch as usize) {
        context.out.note("Failed to delete some node(s) in the subtree!");
        context.out.put("failed", true);
        return Ok(());
    }
    context.out.put("deleted", root.as_str());
    context.out.put("znodes", tree.len());
    Ok(())
}

/// A znode and all below it, parents before their children, in the server's order (`ZKUtil.listSubTreeBFS`).
fn subtree(client: &Client, root: &str) -> Result<Vec<String>, Error> {
    /// Lists that are asked for ahead.
    const AHEAD: usize = 64;
    let mut tree = vec![root.to_owned()];
    let mut under_way = VecDeque::new();
    let mut asked = 0;
    for listed in 0.. {
        while asked < tree.len() && under_way.len() < AHEAD {
            under_way.push_back(client.children_later(&tree[asked], false)?);
            asked += 1;
        }
        let Some(ticket) = under_way.pop_front() else { break };
        let (names, _) = ticket.wait()?;
        let parent = tree[listed].clone();
        tree.extend(names.iter().map(|name| path::join(&parent, name)));
    }
    Ok(tree)
}

/// Leaves first. Stops at the first failure; whether there was none.
fn delete_in_batches(client: &Client, tree: &[String], batch: usize) -> bool {
    let mut under_way: VecDeque<Ticket<'_, _>> = VecDeque::new();
    let is_done = |ticket: Ticket<'_, Option<(usize, i32)>>| matches!(ticket.wait(), Ok(None));
    let mut all_done = true;
    for paths in tree.rchunks(batch) {
        if under_way.len() == BATCHES_UNDER_WAY_MAX {
            all_done &= under_way.pop_front().is_none_or(is_done);
        }
        if !all_done {
            break;
        }
        let ops: Vec<Op<'_>> = paths.iter().rev().map(|path| Op::Delete { path }).collect();
        under_way.push_back(client.multi_later(&ops));
    }
    for ticket in under_way {
        all_done &= is_done(ticket);
    }
    all_done
}

fn stat(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let stat = context.client.exists(path, given.has("w"))?;
    let stat = stat.ok_or_else(|| Error::Keeper { code: code::NO_NODE, path: Some(path.clone()) })?;
    context.out.put("path", path.as_str());
    context.out.stat(&stat, true);
    Ok(())
}

fn sync(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    match context.client.sync(&given.arguments[1]) {
        Ok(()) => context.out.line("Sync is OK"),
        Err(Error::Keeper { code, .. }) => {
            context.out.line(format_args!("Sync has failed. rc={code}"));
            context.out.put("rc", code);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    context.out.put("rc", 0);
    Ok(())
}

fn get_ephemerals(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let prefix = given.arguments.get(1).map_or("/", String::as_str);
    let paths = context.client.ephemerals(prefix)?;
    context.out.line(format_args!("[{}]", paths.join(", ")));
    context.out.put("ephemerals", paths);
    Ok(())
}

fn get_all_children_number(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let number = context.client.descendants(path)?;
    context.out.line(number);
    context.out.put("path", path.as_str());
    context.out.put("number", number);
    Ok(())
}
