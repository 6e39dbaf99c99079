//! The little that stop and status need of a configuration, without checking the rest: an operator who has just
//! broken the file must still be able to stop the server that runs.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Place};
use super::properties::{self, Properties};

/// A configuration file, read but not checked.
#[derive(Clone, Debug)]
pub struct Outline {
    properties: Properties,
}

/// How the search for the client port went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSearch {
    /// Lines that zkServer.sh prints on the way.
    pub notes: Vec<&'static str>,
    /// What was found.
    pub found: Option<ClientPort>,
}

/// A port to ask for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPort {
    /// Host name or address, `localhost` if none is configured.
    pub host: String,
    /// The port as written.
    pub port: u16,
    /// It is the secure port.
    pub tls: bool,
}

impl Outline {
    /// Reads the file.
    ///
    /// Errors: [`ConfigError::Unreadable`], [`ConfigError::Syntax`].
    pub fn read(path: &Path) -> Result<Outline, ConfigError> {
        let text = fs::read(path).map_err(|cause| ConfigError::Unreadable { path: path.to_path_buf(), cause })?;
        let properties = properties::parse(&text).map_err(|error| ConfigError::Syntax {
            place: Place::Line(path.to_path_buf(), error.line),
            what: error.what.to_string(),
        })?;
        Ok(Outline { properties })
    }

    /// `dataDir`, if it is set.
    pub fn data_dir(&self) -> Option<PathBuf> {
        self.text("dataDir").map(PathBuf::from)
    }

    /// `dataLogDir`, if it is set.
    pub fn data_log_dir(&self) -> Option<PathBuf> {
        self.text("dataLogDir").map(PathBuf::from)
    }

    /// Where clients connect, found in zkServer.sh's order: `clientPort`; the line of the server that `myid` names,
    /// here or in the dynamic file; `secureClientPort`.
    pub fn client_port(&self) -> PortSearch {
        let mut search = PortSearch::default();
        let named = |port: &str, host: &str, tls| {
            Some(ClientPort {
                host: self.text(host).unwrap_or("localhost").to_string(),
                port: self.text(port)?.parse().ok()?,
                tls,
            })
        };
        search.found = named("clientPort", "clientPortAddress", false);
        if search.found.is_none() {
            search.found = self.port_of_server_line(&mut search.notes);
        }
        if search.found.is_none() {
            search.notes.push("Client port not found. Looking for secureClientPort in the static config.");
            search.found = named("secureClientPort", "secureClientPortAddress", true);
        }
        if search.found.is_none() {
            search.notes.push("Unable to find either secure or unsecure client port in any configs. Terminating.");
        }
        search
    }

    fn port_of_server_line(&self, notes: &mut Vec<&'static str>) -> Option<ClientPort> {
        let id = self.data_dir().and_then(|dir| {
            let text = fs::read_to_string(dir.join("myid")).ok()?;
            text.trim().parse::<u64>().ok()
        });
        let Some(id) = id else {
            notes.push("myid could not be determined, will not able to locate clientPort in the server configs.");
            return None;
        };
        let key = format!("server.{id}");
        let client_part = |outline: &Outline| {
            let (_, client) = outline.text(&key)?.rsplit_once(';')?;
            Some(client.to_string())
        };
        let client = client_part(self).or_else(|| {
            notes.push("Client port not found in static config file. Looking in dynamic config file.");
            let dynamic = Path::new(self.text("dynamicConfigFile")?);
            client_part(&Outline::read(dynamic).ok()?)
        });
        let Some(client) = client else {
            notes.push("Client port not found in the server configs");
            return None;
        };
        let (host, port) = match client.rsplit_once(':') {
            Some((host, port)) => (host.trim_matches(['[', ']']), port),
            None => ("localhost", client.as_str()),
        };
        Some(ClientPort { host: host.to_string(), port: port.parse().ok()?, tls: false })
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.properties.get(key).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::testing::Scratch;

    #[track_caller]
    fn check(text: &str, myid: Option<&str>, expected: &[&str]) {
        let scratch = Scratch::new();
        let text = text.replace('@', &scratch.path().display().to_string());
        let path = scratch.write("zoo.cfg", &text);
        scratch.write("dynamic", "server.2=h:1:2;[::1]:2182\n");
        if let Some(myid) = myid {
            scratch.write("data/myid", myid);
        }
        let search = Outline::read(&path).unwrap().client_port();
        let found = search.found.map(|port| format!("{} {} {}", port.host, port.port, port.tls));
        let lines: Vec<&str> = search.notes.into_iter().chain(found.as_deref()).collect();
        assert_eq!(lines, expected, "{text}");
    }

    #[test]
    fn the_client_port_is_found_like_zkserver_does() {
        let no_myid = "myid could not be determined, will not able to locate clientPort in the server configs.";
        let dynamic = "Client port not found in static config file. Looking in dynamic config file.";
        let secure = "Client port not found. Looking for secureClientPort in the static config.";
        check("clientPort = 2181", None, &["localhost 2181 false"]);
        check("clientPort:2181\nclientPortAddress=::1", None, &["::1 2181 false"]);
        check("server.1=h:1:2;2181\ndataDir=@/data", Some("1\n"), &["localhost 2181 false"]);
        check("server.1=h:1:2;0.0.0.0:2181\ndataDir=@/data", Some("1"), &["0.0.0.0 2181 false"]);
        check("dynamicConfigFile=@/dynamic\ndataDir=@/data", Some("2"), &[dynamic, "::1 2182 false"]);
        check(
            "secureClientPort=2281\ndataDir=@/data",
            Some("3"),
            &[dynamic, "Client port not found in the server configs", secure, "localhost 2281 true"],
        );
        check(
            "tickTime=2000",
            None,
            &[no_myid, secure, "Unable to find either secure or unsecure client port in any configs. Terminating."],
        );
    }
}
