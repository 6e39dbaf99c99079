//! Auth packets: how a connection comes to its identities.
//!
//! Source: `ZooKeeperServer.processPacket`, `DigestAuthenticationProvider`, `IPAuthenticationProvider`.

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

use crate::jute::{DecodeError, Reader};
use crate::proto::client::Id;
use crate::request::prepare::Rules;

/// What a client sends with opcode 100.
pub struct AuthPacket<'a> {
    scheme: String,
    /// Null and empty are different.
    auth: Option<&'a [u8]>,
}

/// Reads the body. Errors close the connection without a reply, as with Apache.
pub fn decode(body: &[u8]) -> Result<AuthPacket<'_>, DecodeError> {
    let mut r = Reader::new(body);
    let _type = r.int()?;
    let scheme = r.required_string()?.into_owned();
    Ok(AuthPacket { scheme, auth: r.buffer()? })
}

impl AuthPacket<'_> {
    /// The identities that the packet proves. Errors with the scheme's name where there is no such
    /// scheme; `world` and `auth` are none that one can authenticate with. So it is for a digest of nothing: Apache's
    /// provider throws then, which counts as a failure.
    pub fn identities(self, rules: &Rules, super_digest: Option<&str>) -> Result<Vec<Id>, String> {
        match (self.scheme.as_str(), self.auth) {
            ("ip", _) => Ok(Vec::new()),
            ("digest", Some(auth)) if rules.digest_scheme => {
                let digest = digest_id(auth);
                let is_super = super_digest == Some(digest.as_str());
                let super_id = is_super.then(|| Id::new("super", ""));
                Ok(super_id.into_iter().chain([Id::new("digest", digest)]).collect())
            }
            _ => Err(self.scheme),
        }
    }
}

/// `user:base64(SHA1("user:password"))` of `user:password` (`generateDigest`).
pub fn digest_id(user_and_password: &[u8]) -> String {
    let text = String::from_utf8_lossy(user_and_password);
    let user = text.split(':').next().unwrap_or_default();
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha1::digest(text.as_bytes()));
    format!("{user}:{hash}")
}

/// Adds an identity, if it is new, where Apache's set has it: whoAmI tells them in that order, and so does an ACL that `auth`
/// was resolved to. The set is a hash map of Java's, from `ServerCnxn.authInfo`; those with the same place in it come in
/// the order in which they were added.
pub fn add_identity(ids: &mut Vec<Id>, identity: Id) {
    if ids.contains(&identity) {
        return;
    }
    ids.push(identity);
    // It begins with 16 places, and doubles them when three quarters are taken.
    let mut places = 16;
    while ids.len() as u32 >= places / 4 * 3 {
        places *= 2;
    }
    ids.sort_by_key(|id| {
        let hash = java_hash(id);
        (hash ^ (hash >> 16)) & (places - 1)
    });
}

/// `Id.hashCode`, as the compiler of jute makes it.
fn java_hash(id: &Id) -> u32 {
    let of_text =
        |text: &str| text.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    [&id.scheme, &id.id].into_iter().fold(17, |hash, text| 37u32.wrapping_mul(hash).wrapping_add(of_text(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_in_the_order_of_apaches_set() {
        let digest = |user: &str, password: &str| Id::new("digest", digest_id(format!("{user}:{password}").as_bytes()));
        let mut ids = Vec::new();
        for id in [digest("u1", "p1"), digest("u2", "p2"), digest("u1", "p1")] {
            add_identity(&mut ids, id);
        }
        // As a server of version 3.9.5 resolves `auth` for them.
        assert_eq!(ids, [digest("u2", "p2"), digest("u1", "p1")]);
    }

    #[test]
    fn a_digest_of_null_is_none() {
        let identities = |auth| {
            let packet = AuthPacket { scheme: "digest".to_owned(), auth };
            let rules = Rules { skip_acl: false, digest_scheme: true, enforce_quota: false, reconfig: false };
            packet.identities(&rules, None)
        };
        assert_eq!(identities(None), Err("digest".to_owned()));
        assert_eq!(identities(Some(b"")).map(|ids| ids.len()), Ok(1));
    }

    #[test]
    fn digest_vectors() {
        assert_eq!(digest_id(b"super:admin"), "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=");
        assert_eq!(digest_id(b"user1:12345"), "user1:+owfoSBn/am19roBPzR1/MfCblE=");
    }
}
