//! Watches that stay, and their removal.

use ringkeeper::proto::op::Which;

use super::{Command, Context};
use crate::failure::Failure;
use crate::flags::{Given, switch, valued};

pub const COMMANDS: &[Command] = &[
    Command {
        arguments: (1, 1),
        ..Command::new(
            "addWatch",
            "[-m mode] path # optional mode is one of [PERSISTENT, PERSISTENT_RECURSIVE] - default is \
             PERSISTENT_RECURSIVE",
            &[valued("m", "")],
            1,
            add_watch,
        )
    },
    Command::new(
        "removewatches",
        "path [-c|-d|-a] [-l]",
        &[
            switch("c", "child watcher type"),
            switch("d", "data watcher type"),
            switch("p", "persistent watcher type"),
            switch("r", "persistent recursive watcher type"),
            switch("a", "any watcher type"),
            switch("l", "remove locally when there is no server connection"),
        ],
        1,
        remove_watches,
    ),
];

fn add_watch(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let is_recursive = match given.value("m").map(str::to_uppercase).as_deref() {
        None | Some("PERSISTENT_RECURSIVE") => true,
        Some("PERSISTENT") => false,
        Some(_) => {
            let command = COMMANDS.iter().find(|command| command.name == "addWatch").expect("it is listed above");
            return Err(Failure::malformed(command.usage()));
        }
    };
    Ok(context.client.add_watch(&given.arguments[1], is_recursive)?)
}

fn remove_watches(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let kinds =
        [("c", Which::Children), ("d", Which::Data), ("p", Which::Persistent), ("r", Which::PersistentRecursive)];
    let which = kinds.iter().find(|(flag, _)| given.has(flag)).map_or(Which::Any, |(_, which)| *which);
    Ok(context.client.remove_watches(&given.arguments[1], which, given.has("l"))?)
}
