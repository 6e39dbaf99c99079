//! The arguments of the program: Apache's options, `--json`, and a command to carry out.
//!
//! Source: `ZooKeeperMain.MyCommandOptions.parseOptions`. Options come first; the first word that is none begins the
//! command. An unknown option is passed over, which makes its value a command: so Apache's shell does.

use std::path::PathBuf;

use crate::client;

/// What the program was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// `-server`: the connection string.
    pub server: String,
    /// `-timeout`: the session timeout, as it was typed.
    pub timeout: String,
    /// `-r`: a server in read-only mode will do.
    pub read_only: bool,
    /// `-waitforconnection`: do nothing before there is one.
    pub wait_for_connection: bool,
    /// `-client-configuration`: a file of properties.
    pub client_configuration: Option<PathBuf>,
    /// `--json`: results as JSON.
    pub json: bool,
    /// The words of one command; none for a session.
    pub command: Vec<String>,
}

impl Options {
    /// Reads the arguments. The text, if there is one, is a complaint that does not keep the shell from starting.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> (Options, Option<String>) {
        let mut options = Options {
            server: "localhost:2181".to_owned(),
            timeout: client::TIMEOUT_MS_DEFAULT.to_string(),
            read_only: false,
            wait_for_connection: false,
            client_configuration: None,
            json: false,
            command: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let value = match argument.as_str() {
                "-server" => &mut options.server,
                "-timeout" => &mut options.timeout,
                "-client-configuration" => match arguments.next() {
                    Some(file) => {
                        options.client_configuration = Some(file.into());
                        continue;
                    }
                    None => return (options, Some(format!("Error: no argument found for option {argument}"))),
                },
                flag => {
                    match flag {
                        "-r" => options.read_only = true,
                        "-waitforconnection" => options.wait_for_connection = true,
                        "--json" => options.json = true,
                        flag if flag.starts_with('-') => {}
                        _ => {
                            options.command.push(argument);
                            options.command.extend(arguments.by_ref());
                            options.take_json();
                        }
                    }
                    continue;
                }
            };
            match arguments.next() {
                Some(given) => *value = given,
                None => return (options, Some(format!("Error: no argument found for option {argument}"))),
            }
        }
        (options, None)
    }

    /// `--json` may stand behind the command too: no command has an option of that name.
    fn take_json(&mut self) {
        let end = self.command.iter().position(|word| word == "--").unwrap_or(self.command.len());
        if let Some(at) = self.command[..end].iter().position(|word| word == "--json") {
            self.json = true;
            self.command.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Options, Option<String>) {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_come_before_the_command() {
        let (options, complaint) = parse("-timeout 5000 -r -server a:1,b:2/c ls -s /");
        assert_eq!(complaint, None);
        assert_eq!((options.server.as_str(), options.timeout.as_str(), options.read_only), ("a:1,b:2/c", "5000", true));
        assert_eq!(options.command, ["ls", "-s", "/"]);
        assert_eq!(parse("ls / -server b").0.server, "localhost:2181");
    }

    #[test]
    fn an_unknown_option_is_passed_over_and_its_value_is_a_command() {
        assert_eq!(parse("-bogus 1").0.command, ["1"]);
    }

    #[test]
    fn a_missing_value_is_told() {
        let (options, complaint) = parse("-r -timeout");
        assert_eq!(complaint.as_deref(), Some("Error: no argument found for option -timeout"));
        assert!(options.read_only && options.command.is_empty());
    }

    #[test]
    fn json_stands_before_or_behind() {
        assert!(parse("--json get /a").0.json);
        let (options, _) = parse("get /a --json");
        assert!(options.json);
        assert_eq!(options.command, ["get", "/a"]);
        assert!(!parse("get -- --json").0.json);
    }
}
