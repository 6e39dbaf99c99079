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

#[cfg(test)]
mod tests {
    use super::*;

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
