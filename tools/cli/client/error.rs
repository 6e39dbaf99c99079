//! How a request fails, and what Apache calls it.

use std::fmt;

/// Codes that the shell looks at (`KeeperException.Code`). They are plain numbers here, because a server may send
/// any, and because the client makes up some itself.
pub mod code {
    pub const CONNECTION_LOSS: i32 = -4;
    pub const NO_NODE: i32 = -101;
    pub const NO_AUTH: i32 = -102;
    pub const NODE_EXISTS: i32 = -110;
    pub const SESSION_EXPIRED: i32 = -112;
    pub const INVALID_ACL: i32 = -114;
    pub const AUTH_FAILED: i32 = -115;
    pub const EPHEMERAL_ON_LOCAL_SESSION: i32 = -120;
    pub const NO_WATCHER: i32 = -121;
    pub const REQUEST_TIMEOUT: i32 = -122;
}

/// Why a request has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// A code, from the server or made up by the client, and the path that it is about.
    Keeper { code: i32, path: Option<String> },
    /// The path cannot be one; nothing was sent.
    BadPath(String),
    /// The reply is not what the request's reply should be.
    BadReply(String),
}

impl Error {
    /// Whether this is the server's, or the client's, code.
    pub fn is(&self, wanted: i32) -> bool {
        matches!(self, Error::Keeper { code, .. } if *code == wanted)
    }
}

/// Code, name (the constant in `KeeperException.Code`), and the text in `KeeperErrorCode = …`.
const CODES: &[(i32, &str, &str)] = &[
    (-1, "SYSTEMERROR", "SystemError"),
    (-2, "RUNTIMEINCONSISTENCY", "RuntimeInconsistency"),
    (-3, "DATAINCONSISTENCY", "DataInconsistency"),
    (-4, "CONNECTIONLOSS", "ConnectionLoss"),
    (-5, "MARSHALLINGERROR", "MarshallingError"),
    (-6, "UNIMPLEMENTED", "Unimplemented"),
    (-7, "OPERATIONTIMEOUT", "OperationTimeout"),
    (-8, "BADARGUMENTS", "BadArguments"),
    (-13, "NEWCONFIGNOQUORUM", "NewConfigNoQuorum"),
    (-14, "RECONFIGINPROGRESS", "ReconfigInProgress"),
    (-100, "APIERROR", "APIError"),
    (-101, "NONODE", "NoNode"),
    (-102, "NOAUTH", "NoAuth"),
    (-103, "BADVERSION", "BadVersion"),
    (-108, "NOCHILDRENFOREPHEMERALS", "NoChildrenForEphemerals"),
    (-110, "NODEEXISTS", "NodeExists"),
    (-111, "NOTEMPTY", "Directory not empty"),
    (-112, "SESSIONEXPIRED", "Session expired"),
    (-113, "INVALIDCALLBACK", "Invalid callback"),
    (-114, "INVALIDACL", "InvalidACL"),
    (-115, "AUTHFAILED", "AuthFailed"),
    (-118, "SESSIONMOVED", "Session moved"),
    (-119, "NOTREADONLY", "Not a read-only call"),
    (-120, "EPHEMERALONLOCALSESSION", "Ephemeral node on local session"),
    (-121, "NOWATCHER", "No such watcher"),
    (-122, "REQUESTTIMEOUT", "Unknown error REQUESTTIMEOUT"),
    (-123, "RECONFIGDISABLED", "Reconfig is disabled"),
    (-124, "SESSIONCLOSEDREQUIRESASLAUTH", "Session closed because client failed to authenticate"),
    (-125, "QUOTAEXCEEDED", "Quota has exceeded"),
    (-127, "THROTTLEDOP", "Op throttled due to high load"),
];

/// The constant of that code, such as `NONODE`.
pub fn code_name(code: i32) -> String {
    let found = CODES.iter().find(|(known, ..)| *known == code);
    found.map_or_else(|| format!("CODE{code}"), |(_, name, _)| (*name).to_owned())
}

impl fmt::Display for Error {
    /// `KeeperException.getMessage`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Keeper { code, path } => {
                f.write_str("KeeperErrorCode = ")?;
                match CODES.iter().find(|(known, ..)| known == code) {
                    Some((_, _, text)) => f.write_str(text)?,
                    None => write!(f, "Unknown error {code}")?,
                }
                match path.as_deref() {
                    Some(path) if !path.is_empty() => write!(f, " for {path}"),
                    _ => Ok(()),
                }
            }
            Error::BadPath(text) | Error::BadReply(text) => f.write_str(text),
        }
    }
}
