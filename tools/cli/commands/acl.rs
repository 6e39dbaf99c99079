//! Access control lists and credentials.

use ringkeeper::proto::client::{Acl, Id, perms};
use serde_json::{Value, json};

use super::nodes::visit;
use super::{Command, Context, number};
use crate::failure::Failure;
use crate::flags::{Given, switch, valued};
use crate::output::perms_text;

pub const COMMANDS: &[Command] = &[
    Command::new("getAcl", "[-s] path", &[switch("s", "stats")], 1, get_acl),
    Command::new(
        "setAcl",
        "[-s] [-v version] [-R] path acl",
        &[switch("s", "stats"), valued("v", "version"), switch("R", "recursive")],
        2,
        set_acl,
    ),
    Command::new("addauth", "scheme auth", &[], 1, add_auth),
    Command::new("whoami", "", &[], 0, who_am_i),
];

/// Everybody may do everything.
pub fn open() -> Vec<Acl> {
    vec![Acl { perms: perms::ALL, id: Id::new("world", "anyone") }]
}

/// Reads `scheme:id:perms[,…]`. What is wrong is told and left out, as by Apache's shell; the server refuses a list
/// that is empty by that.
pub fn parse(text: &str) -> Vec<Acl> {
    let mut list = Vec::new();
    // As Java splits: empty parts at the end are none.
    for entry in text.trim_end_matches(',').split(',') {
        let parts = entry.split_once(':').and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once(':')?)));
        let Some((scheme, (id, letters))) = parts else {
            eprintln!("{entry} does not have the form scheme:id:perm");
            continue;
        };
        let mut bits = 0;
        for letter in letters.chars() {
            bits |= match letter {
                'r' => perms::READ,
                'w' => perms::WRITE,
                'c' => perms::CREATE,
                'd' => perms::DELETE,
                'a' => perms::ADMIN,
                _ => {
                    eprintln!("Unknown perm type: {letter}");
                    0
                }
            };
        }
        list.push(Acl { perms: bits, id: Id::new(scheme, id) });
    }
    list
}

fn acl_json(acl: &Acl) -> Value {
    json!({"scheme": acl.id.scheme, "id": acl.id.id, "perms": perms_text(acl.perms)})
}

fn get_acl(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let (list, stat) = context.client.acl(path)?;
    for acl in &list {
        // An id ends with a newline there (`Id.toString` of jute).
        context.out.line(format_args!("'{},'{}\n: {}", acl.id.scheme, acl.id.id, perms_text(acl.perms)));
    }
    context.out.put("path", path.as_str());
    context.out.put("acl", list.iter().map(acl_json).collect::<Vec<_>>());
    context.out.stat(&stat, given.has("s"));
    Ok(())
}

fn set_acl(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let path = &given.arguments[1];
    let list = parse(&given.arguments[2]);
    let version = number(given, "v", -1i32, "an int")?;
    context.out.put("path", path.as_str());
    if !given.has("R") {
        let stat = context.client.set_acl(path, &list, version)?;
        context.out.stat(&stat, given.has("s"));
        return Ok(());
    }
    let client = context.client;
    visit(client, path, false, &mut |path| {
        if let Err(error) = client.set_acl(path, &list, version) {
            context.out.line(&error);
            context.out.push("errors", Failure::from(error).json());
        }
        Ok(())
    })
}

fn add_auth(context: &mut Context<'_>, given: &Given) -> Result<(), Failure> {
    let data = given.arguments.get(2).map(String::as_bytes);
    context.client.add_auth(&given.arguments[1], data);
    Ok(())
}

fn who_am_i(context: &mut Context<'_>, _: &Given) -> Result<(), Failure> {
    // A server that does not know the request leaves the table empty, in Apache's shell too.
    let identities = context.client.who_am_i().unwrap_or_default();
    context.out.line("Auth scheme: User");
    for (scheme, user) in &identities {
        context.out.line(format_args!("{scheme}: {user}"));
        context.out.push("identities", json!({"scheme": scheme, "user": user}));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_is_read() {
        let list = parse("world:anyone:r,digest:bob:hash=:cdrwa,ip:::1:w");
        assert_eq!(
            list,
            [
                Acl { perms: perms::READ, id: Id::new("world", "anyone") },
                Acl { perms: perms::ALL, id: Id::new("digest", "bob:hash=") },
                Acl { perms: perms::WRITE, id: Id::new("ip", "::1") },
            ]
        );
        assert_eq!(parse("auth::rx"), [Acl { perms: perms::READ, id: Id::new("auth", "") }]);
        assert_eq!(parse("garbage"), []);
        assert_eq!(parse("a:b"), []);
    }
}
