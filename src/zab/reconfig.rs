//! What a reconfiguration that a client asks for leads to: the next configuration, or the error that is the answer.
//!
//! ```text
//! members 1 2 3   joining "server.4=d:2888:3888;2181"   leaving "3"   ──>   members 1 2 4
//! ```
//!
//! The order of the checks is Apache's, because the first that fails decides the error. Whether the client may do it at all
//! is checked where the transaction is made, behind all of these.
//!
//! Source: `PrepRequestProcessor.pRequest2Txn`, case `OpCode.reconfig`; `QuorumServer.checkAddressDuplicate`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::quorum::{HostPort, Member, QuorumVerifier, QuorumView};
use crate::proto::ErrorCode;
use crate::proto::op::ReconfigRequest;
use crate::types::{ServerId, Zxid};

/// The configuration that `request` asks for, with the zxid of its transaction as version. `participants_min` is how many
/// participants there must be, `synced` who has the history of this leader, itself included.
///
/// Errors: `ReconfigInProgress`, `BadVersion`, `BadArguments` and `MarshallingError` for what cannot be read, as Apache
/// tells them apart, `NewConfigNoQuorum` if no quorum of the new members has the history.
pub fn next(
    view: &QuorumView,
    request: &ReconfigRequest,
    zxid: Zxid,
    participants_min: usize,
    synced: &BTreeSet<ServerId>,
) -> Result<QuorumVerifier, ErrorCode> {
    if view.pending().is_some() {
        return Err(ErrorCode::ReconfigInProgress);
    }
    let current = view.current();
    if request.config_id != -1 && request.config_id != current.version() {
        return Err(ErrorCode::BadVersion);
    }
    let next = match &request.new_members {
        Some(members) => whole(members)?,
        None => incremental(current, request)?,
    };
    if next.voters().count() < participants_min {
        tracing::warn!("Reconfig failed - new configuration must include at least {participants_min} followers");
        return Err(ErrorCode::BadArguments);
    }
    if !next.contains_quorum(synced) {
        tracing::warn!("Reconfig failed - there must be a connected and synced quorum in new configuration");
        return Err(ErrorCode::NewConfigNoQuorum);
    }
    Ok(next.with_version(zxid.0))
}

/// All members anew, separated by commas or newlines.
fn whole(members: &str) -> Result<QuorumVerifier, ErrorCode> {
    QuorumVerifier::parse(&members.replace(',', "\n")).map_err(|error| {
        tracing::warn!("Reconfig failed - {error}");
        ErrorCode::BadArguments
    })
}

/// The members of `current` without those that leave and with those that join, or change.
fn incremental(current: &QuorumVerifier, request: &ReconfigRequest) -> Result<QuorumVerifier, ErrorCode> {
    if current.is_hierarchical() {
        tracing::warn!(
            "Incremental reconfiguration requested but last configuration seen has a non-majority quorum system"
        );
        return Err(ErrorCode::BadArguments);
    }
    let mut members: BTreeMap<ServerId, Member> = current.members().map(|member| (member.id, member.clone())).collect();
    for leaving in pieces(request.leaving.as_deref(), ',') {
        members.remove(&id(leaving)?);
    }
    for joining in pieces(request.joining.as_deref(), ',') {
        let [key, value] = pieces(Some(joining), '=').collect::<Vec<_>>()[..] else {
            return Err(ErrorCode::BadArguments);
        };
        let id = id(key.rsplit_once('.').map_or(key, |(_, id)| id))?;
        let member = Member::parse(&format!("server.{id}"), value).map_err(|error| {
            tracing::warn!("Reconfig failed - {error}");
            ErrorCode::BadArguments
        })?;
        if member.client.is_none() {
            tracing::warn!("Reconfig failed - each server should have at least 3 ports specified: {joining}");
            return Err(ErrorCode::BadArguments);
        }
        let taken: BTreeSet<HostPort> =
            members.values().filter(|other| other.id != id).flat_map(exclusive_addresses).collect();
        if let Some(address) = exclusive_addresses(&member).find(|address| taken.contains(address)) {
            tracing::warn!("Reconfig failed - {address} of server {id} is another server's");
            return Err(ErrorCode::BadArguments);
        }
        members.insert(id, member);
    }
    Ok(QuorumVerifier::majority(members.into_values()))
}

/// What Apache's `StringUtils.split` gives: trimmed, without the empty ones.
fn pieces(text: Option<&str>, separator: char) -> impl Iterator<Item = &str> {
    text.into_iter().flat_map(move |text| text.split(separator)).map(str::trim).filter(|piece| !piece.is_empty())
}

/// Errors as Apache does where it does not expect another text.
fn id(text: &str) -> Result<ServerId, ErrorCode> {
    text.parse().map(ServerId).map_err(|_| ErrorCode::MarshallingError)
}

/// The addresses of a server that no other may have: not those that mean this host to each.
fn exclusive_addresses(member: &Member) -> impl Iterator<Item = HostPort> {
    let peers = member.addresses.iter().flat_map(|address| [address.quorum(), address.election()]);
    let is_local = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    peers
        .chain(member.client.clone())
        .filter(move |address| !address.host.is_wildcard() && !is_local(address.host.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str =
        "server.1=a:2888:3888;2181\nserver.2=b:2888:3888;2181\nserver.3=c:2888:3888;2181\nversion=100000000";

    /// What servers 1, 2 and 3, all of them synced and 4 too, are asked to become, and what comes of it.
    #[track_caller]
    fn check(request: &[(&str, &str)], expected: Result<&str, ErrorCode>) {
        let view = QuorumView::new(QuorumVerifier::parse(THREE).unwrap());
        check_in(&view, request, expected);
    }

    #[track_caller]
    fn check_in(view: &QuorumView, request: &[(&str, &str)], expected: Result<&str, ErrorCode>) {
        let field = |name| request.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let request = ReconfigRequest {
            joining: field("joining"),
            leaving: field("leaving"),
            new_members: field("new"),
            config_id: field("version").map_or(-1, |version| i64::from_str_radix(&version, 16).unwrap()),
        };
        let synced = [1, 2, 3, 4].map(ServerId).into();
        let found = next(view, &request, Zxid(0x1_0000_0007), 2, &synced);
        assert_eq!(found.map(|next| next.to_string().replace('\n', " ")), expected.map(str::to_owned), "{request:?}");
    }

    #[test]
    fn step_by_step() {
        check(
            &[("joining", "server.4=d:2888:3888:observer;2181"), ("leaving", "3"), ("version", "100000000")],
            Ok("server.1=a:2888:3888:participant;0.0.0.0:2181 server.2=b:2888:3888:participant;0.0.0.0:2181 \
                server.4=d:2888:3888:observer;0.0.0.0:2181 version=100000007"),
        );
        // The key need not be there, and a member that is known changes.
        check(
            &[("joining", " 3=c:1:2;e:3 , "), ("leaving", "1,9")],
            Ok("server.2=b:2888:3888:participant;0.0.0.0:2181 server.3=c:1:2:participant;e:3 version=100000007"),
        );
    }

    #[test]
    fn as_a_whole() {
        check(
            &[("new", "server.1=a:1:2;3,server.2=b:1:2\nversion=5"), ("leaving", "nonsense")],
            Ok("server.1=a:1:2:participant;0.0.0.0:3 server.2=b:1:2:participant version=100000007"),
        );
        check(
            &[("new", "server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1:2\nweight.1=0")],
            Ok(
                "server.1=a:1:2:participant server.2=b:1:2:participant group.1=1:2 weight.1=0 weight.2=1 version=100000007",
            ),
        );
    }

    #[test]
    fn what_is_refused_and_how() {
        check(&[("leaving", "3"), ("version", "100000001")], Err(ErrorCode::BadVersion));
        check(&[("leaving", "x")], Err(ErrorCode::MarshallingError));
        check(&[("joining", "server.x=d:1:2;3")], Err(ErrorCode::MarshallingError));
        check(&[("joining", "server.4")], Err(ErrorCode::BadArguments));
        check(&[("joining", "server.4=d:1:2")], Err(ErrorCode::BadArguments));
        check(&[("joining", "server.4=d:1;3")], Err(ErrorCode::BadArguments));
        check(&[("joining", "server.4=b:2888:3;4")], Err(ErrorCode::BadArguments));
        check(&[("leaving", "1,2")], Err(ErrorCode::BadArguments));
        check(&[("new", "server.1=a:1:2")], Err(ErrorCode::BadArguments));
        check(&[("new", "server.1=a:1:2,tickTime=3")], Err(ErrorCode::BadArguments));
        check(&[("joining", "5=e:1:2;3,6=f:1:2;3,7=g:1:2;3,8=h:1:2;3")], Err(ErrorCode::NewConfigNoQuorum));
    }

    #[test]
    fn loopback_and_every_interface_are_not_one_servers_alone() {
        let local = "server.1=127.0.0.1:1:2;3\nserver.2=127.0.0.1:4:5;6\nversion=0";
        let view = QuorumView::new(QuorumVerifier::parse(local).unwrap());
        check_in(
            &view,
            &[("joining", "3=127.0.0.1:1:2;3")],
            Ok("server.1=127.0.0.1:1:2:participant;0.0.0.0:3 server.2=127.0.0.1:4:5:participant;0.0.0.0:6 \
                server.3=127.0.0.1:1:2:participant;0.0.0.0:3 version=100000007"),
        );
    }

    #[test]
    fn one_after_the_other_and_no_steps_between_groups() {
        let mut view = QuorumView::new(QuorumVerifier::parse(THREE).unwrap());
        view.see(QuorumVerifier::parse(THREE).unwrap().with_version(0x1_0000_0003));
        check_in(&view, &[("leaving", "x"), ("version", "7")], Err(ErrorCode::ReconfigInProgress));
        let groups = "server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1:2\nversion=0";
        let view = QuorumView::new(QuorumVerifier::parse(groups).unwrap());
        check_in(&view, &[("leaving", "3")], Err(ErrorCode::BadArguments));
    }
}
