//! A command that failed: the text for the user, and the exit code of the program.

use serde_json::{Value, json};

use crate::client::Error;
use crate::client::error::code_name;

/// A command failed.
const EXIT_FAILED: u8 = 1;
/// There is no such command.
const EXIT_NOT_FOUND: u8 = 127;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What is printed.
    pub text: String,
    /// The exit code, if this was the last command.
    pub exit: u8,
    /// The server's code, if it was one, and its path.
    keeper: Option<(i32, Option<String>)>,
}

impl Failure {
    /// Arguments that cannot be meant: nothing was asked of the server.
    pub fn malformed(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), exit: EXIT_FAILED, keeper: None }
    }

    /// A command that is none.
    pub fn not_found(command: &str) -> Failure {
        let text = format!("Command not found: Command not found {command}");
        Failure { text, exit: EXIT_NOT_FOUND, keeper: None }
    }

    /// Whether the server, or the client, gave that code.
    pub fn is(&self, wanted: i32) -> bool {
        self.keeper.as_ref().is_some_and(|(code, _)| *code == wanted)
    }

    /// For `--json`.
    pub fn json(&self) -> Value {
        match &self.keeper {
            Some((code, path)) => {
                json!({"message": self.text, "code": code, "name": code_name(*code), "path": path})
            }
            None => json!({"message": self.text}),
        }
    }
}

impl From<Error> for Failure {
    /// In the words of `CliWrapperException`.
    fn from(error: Error) -> Failure {
        let Error::Keeper { code, path } = &error else { return Failure::malformed(error.to_string()) };
        let at = path.as_deref().unwrap_or("null");
        let text = match code {
            -101 => format!("Node does not exist: {at}"),
            -108 => format!("Ephemerals cannot have children: {at}"),
            -110 => format!("Node already exists: {at}"),
            -111 => format!("Node not empty: {at}"),
            -119 => format!("Not a read-only call: {at}"),
            -114 => format!("Acl is not valid : {at}"),
            -102 => format!("Insufficient permission : {at}"),
            -8 => format!("Arguments are not valid : {at}"),
            -103 => format!("version No is not valid : {at}"),
            -14 => "Another reconfiguration is in progress -- concurrent reconfigs not supported (yet)".to_owned(),
            -13 => "No quorum of new config is connected and up-to-date with the leader of last commmitted config - \
                    try invoking reconfiguration after new servers are connected and synced"
                .to_owned(),
            -125 => format!("Quota has exceeded : {at}"),
            _ => error.to_string(),
        };
        Failure { text, exit: EXIT_FAILED, keeper: Some((*code, path.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_apaches_words() {
        let text = |code, path: Option<&str>| Failure::from(Error::Keeper { code, path: path.map(str::to_owned) }).text;
        assert_eq!(text(-101, Some("/a")), "Node does not exist: /a");
        assert_eq!(text(-114, None), "Acl is not valid : null");
        assert_eq!(text(-4, Some("/a")), "KeeperErrorCode = ConnectionLoss for /a");
        assert_eq!(text(-123, None), "KeeperErrorCode = Reconfig is disabled");
        assert_eq!(text(-777, Some("/a")), "KeeperErrorCode = Unknown error -777 for /a");
    }
}
