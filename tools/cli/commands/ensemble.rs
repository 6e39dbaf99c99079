//! The ensemble's configuration, and the version of the shell.

use std::fs;

use ringkeeper::server::admin;
use ringkeeper::server::config::properties;

use super::{Command, Context};
use crate::failure::Failure;
use crate::flags::{Given, switch, valued};

pub const COMMANDS: &[Command] = &[
    Command::new(
        "config",
        "[-c] [-w] [-s]",
        &[switch("s", "stats"), switch("w", "watch"), switch("c", "client connection string")],
        0,
        config,
    ),
    Command::new(
        "reconfig",
        "[-s] [-v version] [[-file path] | [-members serverID=host:port1:port2;port3[,...]*]] | \
         [-add serverId=host:port1:port2;port3[,...]]* [-remove serverId[,...]*]",
        &[
            switch("s", "stats"),
            valued("v", "required current config version"),
            valued("file", "path of config file to parse for membership"),
            valued("members", "comma-separated list of config strings for non-incremental reconfig"),
            valued("add", "comma-separated list of config strings for new servers"),
            valued("remove", "comma-separated list of server IDs to remove"),
        ],
        0,
        reconfig,
    ),
    Command { arguments: (0, 0), ..Command::new("version", "", &[], 0, version) },
];

fn config(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let (data, stat) = context.client.config(given.has("w"))?;
    let text = String::from_utf8_lossy(data.as_deref().unwrap_or(b"null")).into_owned();
    let (version, servers) = client_servers(&text);
    if given.has("c") {
        context.out.line(format_args!("{version} {}", servers.join(",")));
    } else {
        context.out.line(&text);
    }
    context.out.put("config", text.lines().collect::<Vec<_>>());
    context.out.put("version", version);
    context.out.put("clientServers", servers);
    context.out.stat(&stat, given.has("s"));
    Ok(())
}

/// The version of a configuration, and the address for clients of each of its servers; empty where it has none.
fn client_servers(config: &str) -> (String, Vec<String>) {
    let mut version = String::new();
    let mut servers = Vec::new();
    for (key, value) in config.lines().filter_map(|line| line.split_once('=')) {
        if key.trim() == "version" {
            version = value.trim().to_owned();
        } else if key.trim().starts_with("server.") {
            let client = value.split_once(';').map_or("", |(_, client)| client.trim());
            // A port alone is one on all addresses.
            let is_port = !client.is_empty() && !client.contains(':');
            servers.push(if is_port { format!("0.0.0.0:{client}") } else { client.to_owned() });
        }
    }
    (version, servers)
}

fn reconfig(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let is_whole = given.has("file") || given.has("members");
    if !is_whole && !given.has("add") && !given.has("remove") {
        let command = COMMANDS.iter().find(|command| command.name == "reconfig").expect("it is listed above");
        return Err(Failure::malformed(command.usage()));
    }
    let from_version = given.value("v").map_or(Ok(-1), |text| i64::from_str_radix(text, 16));
    let from_version =
        from_version.map_err(|_| Failure::malformed("-v must be followed by a long (configuration version)"))?;
    if is_whole && (given.has("add") || given.has("remove")) {
        return Err(Failure::malformed(
            "Can't use -file or -members together with -add or -remove (mixing incremental and non-incremental modes \
             is not allowed)",
        ));
    }
    if given.has("file") && given.has("members") {
        return Err(Failure::malformed("Can't use -file and -members together (conflicting non-incremental modes)"));
    }
    let lower = |flag| given.value(flag).map(str::to_lowercase);
    let members = match given.value("file") {
        Some(file) => Some(members_of(file)?),
        None => lower("members"),
    };
    let (joining, leaving) = (lower("add"), lower("remove"));
    let (config, stat) =
        context.client.reconfigure(joining.as_deref(), leaving.as_deref(), members.as_deref(), from_version)?;
    let text = String::from_utf8_lossy(config.as_deref().unwrap_or_default()).into_owned();
    context.out.line(format_args!("Committed new configuration:\n{text}"));
    context.out.put("config", text.lines().collect::<Vec<_>>());
    context.out.stat(&stat, given.has("s"));
    Ok(())
}

/// The lines of a configuration file that are about membership.
fn members_of(file: &str) -> Result<String, Failure> {
    let bad = |why: String| Failure::malformed(format!("Error processing {file}: {why}"));
    let text = fs::read(file).map_err(|error| bad(error.to_string()))?;
    let properties = properties::parse(&text).map_err(|error| bad(format!("line {}: {}", error.line, error.what)))?;
    let is_member = |key: &str| ["server.", "group.", "weight."].iter().any(|prefix| key.starts_with(prefix));
    let lines: Vec<String> = properties
        .entries
        .iter()
        .filter(|property| is_member(&property.key))
        .map(|property| format!("{}={}", property.key, property.value))
        .collect();
    if lines.is_empty() {
        return Err(bad("there is no line server.N=… in it".to_owned()));
    }
    Ok(lines.join("\n"))
}

fn version(context: &mut Context<'_>, _: &Given) -> Result<(), Failure> {
    context.out.line(format_args!("ZooKeeper CLI version: {}", admin::VERSION));
    context.out.put("version", admin::VERSION);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_addresses_of_a_configuration() {
        let config =
            "server.1=10.0.0.1:2888:3888:participant;0.0.0.0:2181\nserver.2=b:1:2;2182\nserver.3=c:1:2\nversion=100";
        let (version, servers) = client_servers(config);
        assert_eq!(
            (version.as_str(), &servers[..]),
            ("100", &["0.0.0.0:2181", "0.0.0.0:2182", ""].map(str::to_owned)[..])
        );
        assert_eq!(client_servers(""), (String::new(), vec![]));
    }
}
