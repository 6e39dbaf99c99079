//! Validation: a write and the state that it meets become a transaction, or the error that is the answer.
//!
//! The state is the newest one, with all earlier writes applied, those too that are not durable yet. The order
//! of the checks is Apache's, because the first that fails decides the error.
//! Source: `PrepRequestProcessor.pRequest2Txn`.

use std::sync::Arc;

use bytes::Bytes;

use crate::proto::ErrorCode;
use crate::proto::client::{Acl, AclList, Id, perms};
use crate::proto::op::{CreateMode, OpCode, WriteOp};
use crate::proto::txn::{CreateKind, Txn};
use crate::tree::quota::Exceeded;
use crate::tree::{self, DataTree, ExtendedTypes, Owner, Znode, acl, path};

/// Settings that validation depends on.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// `skipACL=yes`: everybody may do everything.
    pub skip_acl: bool,
    /// Whether `digest` ACLs and auth packets are known (`DigestAuthenticationProvider.enabled`).
    pub digest_scheme: bool,
    /// `enforceQuota`: hard limits of quotas are kept, and it is told when one is exceeded, or a soft one.
    pub enforce_quota: bool,
    /// `reconfigEnabled`: a reconfiguration is refused for another reason.
    pub reconfig: bool,
}

impl Rules {
    /// Passes who may do `perm`, everybody under `skipACL`.
    pub fn check_acl(&self, node: &Znode, perm: i32, ids: &[Id]) -> Result<(), ErrorCode> {
        if self.skip_acl { Ok(()) } else { acl::check(node.acl(), perm, ids) }
    }

    fn check_quota(
        &self,
        head: &DataTree,
        path: &str,
        before: Option<usize>,
        data: Option<&Bytes>,
        exceeded: &mut Vec<Exceeded>,
    ) -> Result<(), ErrorCode> {
        if !self.enforce_quota {
            return Ok(());
        }
        for limit in head.exceeded_quotas(path, before, data.map_or(0, Bytes::len)) {
            let hard = limit.hard;
            exceeded.push(limit);
            if hard {
                return Err(ErrorCode::QuotaExceeded);
            }
        }
        Ok(())
    }
}

/// Turns one write into its transaction. Multis are taken apart by the caller, closes are its own.
///
/// `exceeded` takes the limits of quotas that the write goes beyond, hard and soft.
///
/// Panics on `Multi`, `GetEphemerals` and `CloseSession`.
pub fn prepare(
    head: &DataTree,
    op: &WriteOp,
    ids: &[Id],
    rules: &Rules,
    exceeded: &mut Vec<Exceeded>,
) -> Result<Txn, ErrorCode> {
    match op {
        WriteOp::Create { op, path, data, acl, flags, ttl_ms } => {
            let mode = CreateMode::from_wire(*flags).ok_or(ErrorCode::BadArguments)?;
            check_ttl(head.extended_types(), mode, *ttl_ms)?;
            let (path, acl, parent) = prepare_create(head, path, acl.as_ref(), mode, ids, rules)?;
            rules.check_quota(head, &path, None, data.as_ref(), exceeded)?;
            if *op == OpCode::CreateTtl && !mode.is_ttl() {
                // A znode whose owner says nothing of a time that has to be there. All checks pass it, and Apache's
                // server ends.
                return Err(ErrorCode::BadArguments);
            }
            Ok(Txn::Create {
                path,
                data: data.clone(),
                acl,
                // The opcode, not the flag, decides whether it is a container.
                kind: match op {
                    OpCode::CreateContainer => CreateKind::Container,
                    OpCode::CreateTtl => CreateKind::Ttl(*ttl_ms),
                    _ => CreateKind::Plain { ephemeral: mode.is_ephemeral() },
                },
                with_stat: *op != OpCode::Create,
                parent_cversion: parent.meta().cversion.wrapping_add(1),
            })
        }
        WriteOp::Delete { path, version } => {
            check_path_shape(path)?;
            let (parent, node) = parent_and_node(head, path)?;
            rules.check_acl(parent, perms::DELETE, ids)?;
            let node = node.ok_or(ErrorCode::NoNode)?;
            check_version(*version, node.meta().version)?;
            if node.child_count() > 0 {
                return Err(ErrorCode::NotEmpty);
            }
            Ok(Txn::Delete { path: Arc::clone(path), by_server: false })
        }
        WriteOp::SetData { path, data, version } => {
            let node = valid_node(head, path)?;
            rules.check_acl(node, perms::WRITE, ids)?;
            rules.check_quota(head, path, Some(node.data_len()), data.as_ref(), exceeded)?;
            let version = check_version(*version, node.meta().version)?;
            Ok(Txn::SetData { path: Arc::clone(path), data: data.clone(), version })
        }
        WriteOp::SetAcl { path, acl, version } => {
            path::validate(path).map_err(|_| ErrorCode::BadArguments)?;
            let acl = fix_up_acl(acl.as_ref(), ids, rules)?;
            let node = head.tree().get(path).ok_or(ErrorCode::NoNode)?;
            rules.check_acl(node, perms::ADMIN, ids)?;
            let version = check_version(*version, node.meta().aversion)?;
            Ok(Txn::SetAcl { path: Arc::clone(path), acl, version })
        }
        WriteOp::Check { path, version } => {
            let node = valid_node(head, path)?;
            rules.check_acl(node, perms::READ, ids)?;
            check_version(*version, node.meta().version)?;
            // Apache logs the version after the one that was found; nothing reads it.
            Ok(Txn::Check { path: Arc::clone(path), version: node.meta().version.wrapping_add(1) })
        }
        // A server by itself has no members to change.
        WriteOp::Reconfig(_) if rules.reconfig => Err(ErrorCode::Unimplemented),
        WriteOp::Reconfig(_) => Err(ErrorCode::ReconfigDisabled),
        WriteOp::Configure(text) => {
            let node = head.tree().get(tree::CONFIG).ok_or(ErrorCode::NoNode)?;
            rules.check_acl(node, perms::WRITE, ids)?;
            Ok(Txn::Reconfig { path: tree::CONFIG.into(), data: Some(text.clone()), version: -1 })
        }
        WriteOp::Refused(code) => Err(*code),
        WriteOp::Multi(_) | WriteOp::GetEphemerals { .. } | WriteOp::CloseSession => {
            unreachable!("the pipeline takes these apart")
        }
    }
}

/// Which times to live go with which flag (`EphemeralType.validateTTL`).
fn check_ttl(types: ExtendedTypes, mode: CreateMode, ttl_ms: i64) -> Result<(), ErrorCode> {
    match mode.is_ttl() {
        true if types == ExtendedTypes::Off => Err(ErrorCode::Unimplemented),
        true if (1..=Owner::TTL_MS_MAX).contains(&ttl_ms) => Ok(()),
        false if ttl_ms < 0 => Ok(()),
        _ => Err(ErrorCode::BadArguments),
    }
}

/// Removal by the server itself of a container, or of a znode whose time is over, if it is still due.
pub fn prepare_delete_container(head: &DataTree, path: &Arc<str>) -> Result<Txn, ErrorCode> {
    let (_, node) = parent_and_node(head, path)?;
    let node = node.ok_or(ErrorCode::NoNode)?;
    if node.child_count() > 0 {
        return Err(ErrorCode::NotEmpty);
    }
    if node.is_ephemeral() {
        return Err(ErrorCode::BadVersion);
    }
    Ok(Txn::Delete { path: Arc::clone(path), by_server: true })
}

fn prepare_create<'a>(
    head: &'a DataTree,
    asked: &Arc<str>,
    acl: Option<&AclList>,
    mode: CreateMode,
    ids: &[Id],
    rules: &Rules,
) -> Result<(Arc<str>, AclList, &'a Znode), ErrorCode> {
    let (parent_path, _) = path::split(asked).ok_or(ErrorCode::BadArguments)?;
    if asked.contains('\0') {
        return Err(ErrorCode::BadArguments);
    }
    let acl = fix_up_acl(acl, ids, rules)?;
    let parent = head.tree().get(parent_path).ok_or(ErrorCode::NoNode)?;
    rules.check_acl(parent, perms::CREATE, ids)?;
    let path = if mode.is_sequential() {
        // A minus sign counts as one of the ten characters, as in Java's %010d.
        format!("{asked}{:010}", parent.meta().cversion).into()
    } else {
        Arc::clone(asked)
    };
    path::validate(&path).map_err(|_| ErrorCode::BadArguments)?;
    if head.tree().get(&path).is_some() {
        return Err(ErrorCode::NodeExists);
    }
    if parent.is_ephemeral() {
        return Err(ErrorCode::NoChildrenForEphemerals);
    }
    Ok((path, acl, parent))
}

/// What delete asks of a path; all else about it shows in what is found there.
fn check_path_shape(path: &str) -> Result<(), ErrorCode> {
    let reserved = matches!(path, "/" | tree::ZOOKEEPER | tree::QUOTA | tree::CONFIG);
    if reserved || !path.contains('/') || path.contains('\0') { Err(ErrorCode::BadArguments) } else { Ok(()) }
}

fn valid_node<'a>(head: &'a DataTree, path: &str) -> Result<&'a Znode, ErrorCode> {
    path::validate(path).map_err(|_| ErrorCode::BadArguments)?;
    head.tree().get(path).ok_or(ErrorCode::NoNode)
}

fn parent_and_node<'a>(head: &'a DataTree, path: &str) -> Result<(&'a Znode, Option<&'a Znode>), ErrorCode> {
    let (parent, name) = path::split(path).ok_or(ErrorCode::BadArguments)?;
    let parent = head.tree().get(parent).ok_or(ErrorCode::NoNode)?;
    Ok((parent, parent.child(name)))
}

/// The version after the change. -1 matches any.
fn check_version(expected: i32, found: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != found { Err(ErrorCode::BadVersion) } else { Ok(found.wrapping_add(1)) }
}

/// Resolves `auth` entries to the asker's identities, drops duplicates and refuses what no scheme can
/// match (`PrepRequestProcessor.fixupACL`).
fn fix_up_acl(asked: Option<&AclList>, ids: &[Id], rules: &Rules) -> Result<AclList, ErrorCode> {
    let list = asked.ok_or(ErrorCode::InvalidAcl)?;
    let Some(entries) = list.entries() else { return Ok(AclList::OPEN) };
    let mut fixed: Vec<Acl> = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        if entries[..i].contains(entry) {
            continue;
        }
        match (entry.id.scheme.as_str(), entry.id.id.as_str()) {
            ("world", "anyone") => fixed.push(entry.clone()),
            ("auth", _) => {
                let before = fixed.len();
                let authenticated = ids.iter().filter(|id| id.scheme == "digest");
                fixed.extend(authenticated.map(|id| Acl { perms: entry.perms, id: id.clone() }));
                if fixed.len() == before {
                    return Err(ErrorCode::InvalidAcl);
                }
            }
            // Apache stumbles over it, and says so.
            ("world" | "digest" | "ip", Id::ABSENT) => return Err(ErrorCode::MarshallingError),
            ("digest", id) if rules.digest_scheme && is_digest_id(id) => fixed.push(entry.clone()),
            ("ip", id) if acl::parse_network(id).is_some() => fixed.push(entry.clone()),
            _ => return Err(ErrorCode::InvalidAcl),
        }
    }
    if fixed.is_empty() { Err(ErrorCode::InvalidAcl) } else { Ok(AclList::new(fixed)) }
}

/// Two parts around a colon, as Java's `split(":")` counts them: empty ones at the end do not count.
fn is_digest_id(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_digest_ids_are_valid() {
        assert!(is_digest_id("a:b") && is_digest_id(":b") && is_digest_id("a:b:"));
        assert!(!is_digest_id("a:") && !is_digest_id("a") && !is_digest_id("a:b:c") && !is_digest_id(""));
    }
}
